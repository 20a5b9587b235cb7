"""The paper's table: cells at equal cost, figures as by hand, of samples that chose nothing; it goes on when killed."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from typer.testing import CliRunner

import latestart as ls
from latestart.cli import app
from latestart.data import Images, to_pixels
from latestart.denoisers.networks import as_model
from latestart.evaluation.quality import Estimate, feature_statistics, frechet
from latestart.experiments.table1 import paper_pndm
from latestart.experiments.table1.entries import choosable, entries, sample
from latestart.experiments.table1.measure import Table
from latestart.experiments.table1.page import headline, page, tables
from latestart.experiments.table1.published import dataset_of, published
from latestart.experiments.table1.rows import rows, winners
from latestart.experiments.table1.settings import STARTS, Table1Settings, start_times
from latestart.lab.cells import Outcome, again
from latestart.lab.experiment import Lab
from latestart.lab.grid import Cell
from latestart.lab.judge import Figures, Judge, Reference, over
from latestart.lab.report import markdown_table, named
from latestart.lab.subjects import Subject
from latestart.lab.sweep import Sweep
from latestart.sampling.loop import draw
from latestart.sampling.samplers import can_clip, make_sampler
from latestart.sampling.seeds import white_noise

torch.set_num_threads(1)

SHAPE = (1, 4, 4)
SCHEDULER = DDPMScheduler(clip_sample=False)


def pooled(images):
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


pooled.name = "quarters"


def pictures(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return (0.5 * torch.randn(n, *SHAPE, generator=generator) + torch.linspace(-0.5, 0.5, 16).view(SHAPE)).clamp(-1, 1)


PRIOR = ls.Gaussian.fit(pictures(500, 0))
MIXTURE = ls.Mixture.fit(pictures(500, 0), components=2)
EXACT = as_model(PRIOR, SCHEDULER)


@pytest.fixture(scope="module")
def judge():
    images = Images(to_pixels(pictures(120, 0) / 2 + 0.5))
    data = images.unit()
    return Judge(
        pooled,
        Reference(
            statistics=feature_statistics(data, pooled),
            real=pooled(data),
            copying=None,
            shape=SHAPE,
            fingerprint="data",
        ),
    )


@pytest.fixture(scope="module")
def subject(judge):
    priors = {"none": (None, ""), "isotropic": (None, ""), "gaussian": (PRIOR, "p"), "mixture": (MIXTURE, "m")}
    return Subject(network=EXACT, scheduler=SCHEDULER, weights="weights", priors=priors, judge=judge)


def options(seed=0, **changes):
    known = {"nfe": (3,), "solvers": ("heun", "ipndm"), "starts": ("gaussian", "mixture")}
    times = changes.pop("t_start", (500,))
    known |= changes
    parts = known.setdefault("parts", ("paper", "exact", "solvers"))
    begun = (*(known["starts"] if parts != ("paper",) else ()), *(("paper",) if "paper" in parts else ()))
    known["t_start"] = times if isinstance(times, dict) else {} if times is None else dict.fromkeys(begun, times)
    return Table1Settings(model="exact", samples=20, seed=seed, batch_size=7, **known)


def table_in(folder, subject, asked=None, sample=sample, **changes):
    asked = options() if asked is None else asked
    subject = replace(subject, **changes)
    found = entries(asked, subject)
    planned = list({entry.planned.key: entry.planned for entry in found}.values())
    return Table(asked, Sweep(planned, {"exact": subject}, Lab(folder), 7, sample), found)


def finish(table):
    table.measure()
    return table.whole.write(table.whole.table()).read_bytes(), table.rows()


def report_of(table):
    """The page of what is measured."""
    return page(table.gains(), table.sweep.lab.out)


def lines(block):
    """The rows of a table, each a tuple of texts."""
    return list(zip(*(column.cells for column in block.columns)))


@pytest.fixture(scope="module")
def undisturbed(subject, tmp_path_factory):
    table = table_in(tmp_path_factory.mktemp("undisturbed"), subject, options(paper="mnist"))
    return (*finish(table), table)


# the paper's figures


def test_the_papers_ratios():
    def ratios(dataset):
        found = sorted((r for r in published(dataset) if r.sampler == "ddim"), key=lambda r: r.steps)
        return [round(row.ratio, 1) for row in found]

    assert [ratios(name) for name in ("mnist", "cifar10", "celeba64")] == [
        [3.6, 1.9, 1.8],
        [2.6, 1.7, 1.2],
        [1.7, 1.3, 1.2],
    ]
    assert len(published()) == 45
    assert all(row.nfe == paper_pndm.evaluations(row.sampler, row.steps) for row in published())
    with pytest.raises(ValueError, match="no figures for 'faces'; it has them for mnist, cifar10"):
        published("faces")
    assert dataset_of("models/cifar10") == "cifar10" and dataset_of("faces") is None


# the cells


def test_every_cell_costs_what_its_row_says(subject):
    found = entries(options(nfe=(3, 5, 10), solvers=("heun",), starts=("gaussian",)), subject)
    assert all(entry.planned.steps is not None for entry in found)
    paper = {(e.planned.cell.sampler, e.number): e.planned.cell.nfe for e in found if e.part == "paper"}
    assert paper == {(r.sampler, r.steps): r.nfe for r in published("mnist")}
    for entry in found:
        cell = entry.planned.cell
        if entry.part != "paper":
            assert cell.nfe == entry.number - (cell.sampler == "heun" and entry.number == 10)
        assert (cell.t_start is None) == (entry.kind == "none")
        assert not (cell.t_start is not None and cell.spacing == "leading")
    assert len({(e.part, e.planned.key) for e in found}) == len(found)


def test_start_times_are_parts_of_the_schedule(subject):
    asked = options(t_start=None, parts=("paper",), starts=("mixture",))
    times = [e.planned.cell.t_start for e in entries(asked, subject) if e.planned.cell.sampler == "ddim"]
    assert times == [None, *map(float, STARTS)]
    assert asked.times("paper", "gaussian", 100) == (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
    assert asked.times("exact", "gaussian", 500) == (200, 250, 300, 350)
    assert options(t_start=(77,)).times("solvers", "gaussian", 500) == (77,)
    each = options(t_start={"mixture": (77,), "gaussian": (400, 500)}, parts=("exact", "paper"), samplers=("ddim",))
    begun = {(e.part, e.kind): [] for e in entries(each, subject)}
    for entry in entries(each, subject):
        begun[entry.part, entry.kind].append(entry.planned.cell.t_start)
    assert set(begun["exact", "mixture"]) == {77.0} and set(begun["exact", "gaussian"]) == {400, 500}
    assert begun["paper", "gaussian"] == list(map(float, STARTS))  # its own, whatever the Gaussian's are
    asked = options(t_start={"paper": (200, 500)}, parts=("exact", "paper"), samplers=("ddim",))
    assert asked.times("paper", "gaussian", 1000) == (200, 500)
    assert asked.times("exact", "gaussian", 1000) == (400, 500, 600, 700)
    assert options(t_start=None, parts=("paper",), starts=("mixture",)).priors == ("none", "gaussian")
    assert options(mixture="m.safetensors").priors == ("none", "gaussian", "m.safetensors")


def test_a_cell_is_known_by_its_steps_and_grid(subject):
    """Three steps of DDIM at 500 on the paper's grid and on the exact one are two cells."""
    both = [
        e.planned
        for e in entries(options(parts=("paper", "exact")), subject)
        if (e.planned.cell.sampler, e.planned.cell.t_start, e.kind) == ("ddim", 500.0, "gaussian")
        and not e.planned.cell.clip
    ]
    assert [p.cell.spacing for p in both] == ["paper", "trailing"]
    assert both[0].key != both[1].key and both[0].configuration["steps"] == both[1].configuration["steps"] == 3


def test_a_start_too_low_for_its_steps_is_unavailable(subject):
    low = options(parts=("paper",), t_start=(4,), nfe=(10,))
    assert {(e.kind, e.planned.steps) for e in entries(low, subject)} == {("none", 10), ("gaussian", None)}
    assert all("has 2 to 5 steps" in e.planned.reason for e in entries(low, subject) if e.kind == "gaussian")


def test_a_cell_drawn_again_is_the_cell_of_a_table_of_the_next_seed(subject):
    asked = {"samplers": ("ddim", "pndm"), "solvers": ("heun",), "starts": ("gaussian",)}
    first, later = (entries(options(**asked, seed=seed), subject) for seed in (0, 1))
    assert [again(entry.planned) for entry in first] == [entry.planned for entry in later]
    assert not {entry.planned.key for entry in first} & {entry.planned.key for entry in later}


# clipping


def test_clipping_is_offered_to_all_that_know_it_from_full_noise_and_late(subject):
    known = ("ddpm", "ddim", "dpm++", "unipc", "deis", "heun")
    solvers = (*known, "pndm", "lms", "ipndm")
    assert [name for name in solvers if can_clip(name)] == list(known)
    found = entries(options(parts=("solvers",), solvers=("unipc", "heun", "ipndm"), starts=("gaussian",)), subject)
    ways = {clip: set() for clip in (False, True)}
    for entry in found:
        cell = entry.planned.cell
        ways[cell.clip].add((cell.sampler, cell.prior, cell.t_start, cell.spacing))
        # what a sampler's class cannot spread, it can spread neither clipped nor unclipped
        twin = [e for e in found if replace(e.planned.cell, clip=False) == replace(cell, clip=False)]
        assert len({e.planned.steps for e in twin}) == 1
    assert ways[True] == {way for way in ways[False] if way[0] in known}
    assert {e.planned.cell.clip for e in entries(options(clip=(False,)), subject)} == {False}


@pytest.mark.parametrize("name", ["ddim", "dpm++", "unipc", "deis", "heun"])
@pytest.mark.parametrize("start", [None, 500.0])
def test_one_clipped_step_is_that_of_the_clipped_prediction(subject, name, start):
    """A step to the data gives the predicted image itself: the network's, and -1 or 1 where that is beyond."""
    outside = as_model(ls.Gaussian.fit(3 * pictures(500, 0)), SCHEDULER)  # predicts images as far out as 3

    def drawn(clip):
        cell = Cell(
            model="exact",
            sampler=name,
            nfe=1,
            prior="gaussian",
            t_start=start,
            spacing="trailing",
            clip=clip,
            samples=20,
            seed=0,
        )
        sampler = make_sampler(name, SCHEDULER, **cell.settings(SCHEDULER))
        return draw(outside, sampler, None if start is None else PRIOR, 20, 1, start).samples

    plain = drawn(False)
    assert plain.abs().max() > 1.2
    end = 0.05 if name == "deis" else 1e-4  # which ends at the lowest level, and leaves 0.01 of its noise
    torch.testing.assert_close(drawn(True), plain.clamp(-1, 1), rtol=0, atol=end)


# the choice


def figures(distance, copied=0.01, low=None):
    share = Estimate(0.5, 0.4, 0.6)
    copies = Estimate(copied, copied if low is None else low, copied)
    replicates = distance * torch.linspace(0.9, 1.1, 20, dtype=torch.float64)
    spread = Estimate(distance, distance * 0.9, distance * 1.1)
    return Figures(
        frechet=spread,
        precision=share,
        recall=share,
        coverage=share,
        copied=copies,
        replicates=replicates,
        recall_replicates=replicates / 100,
    )


def drawn_from_one_law(subject, planned, batch_size, meter):
    """Whatever the cell, 40 images of the same distribution, and the distance of their features."""
    images = pictures(40, int(planned.key, 16) % 2**31) / 2 + 0.5
    return Outcome("done", "", figures=figures(frechet(images, subject.judge.reference.statistics, pooled)), sigma=1.0)


def test_a_choice_among_equals_flatters_what_it_chose_and_not_what_is_drawn_again(subject, tmp_path):
    every, chosen, fresh = [], [], []
    for seed in range(0, 12, 2):
        asked = options(parts=("paper",), t_start=None, seed=seed)
        table = table_in(tmp_path / str(seed), subject, asked, drawn_from_one_law)
        table.measure()
        every += [f.frechet.value for e, f in table.measured() if e.kind == "gaussian"]
        best = [row.best["gaussian"] for row in table.rows()]
        assert [one.among for one in best] == [11, 11, 11]
        chosen += [one.chosen.value for one in best]
        fresh += [one.figures.frechet.value for one in best]
    every, chosen, fresh = (torch.tensor(values, dtype=torch.float64) for values in (every, chosen, fresh))
    truth, error = every.mean(), every.std() / len(fresh) ** 0.5
    assert chosen.mean() < truth - 3 * error  # the lowest of eleven
    assert (fresh.mean() - truth).abs() < 2.5 * error


def test_both_sides_of_every_ratio_are_of_one_seed_that_chose_nothing(undisturbed):
    _, found, table = undisturbed
    assert table.settings.seed == 0
    for row in found:
        assert {best.cell.seed for best in row.best.values()} == {1}
        for kind, ratio in row.ratios.items():
            assert ratio == over(row.best["none"].figures, row.best[kind].figures)
    chosen = winners(table.measured(), table.drawn())
    assert {again(one).key for one in chosen} == {one.key for one in table.again.values()}
    assert len(table.drawn()) == len(chosen)


def test_where_the_best_copies_the_best_that_does_not_stands_beside(subject):
    cells = entries(options(parts=("paper",), samplers=("ddim",), t_start=(100, 300, 500, 700)), subject)
    full, at = cells[0], {entry.planned.cell.t_start: entry for entry in cells[1:]}
    scan = {100: figures(1, 0.5), 300: figures(2, 0.03, 0.021), 500: figures(4), 700: figures(8)}
    measured = [(full, figures(20, 0.9)), *((at[t], scan[t]) for t in scan)]

    def wanted(drawn):
        return [planned.cell.t_start for planned in winners(measured, drawn)]

    assert wanted({}) == [None, 100, 500]  # 300 copies as well
    key = {t: entry.planned.key for t, entry in at.items()}
    drawn = {full.planned.key: figures(30, 0.9), key[100]: figures(3, 0.5), key[500]: figures(5, 0.4)}
    assert wanted(drawn) == [None, 100, 700]  # 500 copies as it is drawn again
    (row,) = rows(measured, {**drawn, key[700]: figures(10)}, "mnist")
    assert row.best["gaussian"].figures.copies and row.best["gaussian"].figures.frechet.value == 3
    assert set(row.clean) == {"gaussian"}  # of full noise the best stays
    assert row.clean["gaussian"].figures.frechet.value == 10
    assert (row.clean["gaussian"].cell.t_start, row.clean["gaussian"].among) == (700, 1)
    assert (row.ratios["gaussian"].value, row.clean_ratios["gaussian"].value) == (10, 3)
    line = lines(tables([row])[0])[0]
    assert "copies 0.500 [0.500, 0.500]" in line[4] and "without copies:\n10 [9, 11]\nt = 700" in line[4]
    assert line[5].startswith("10.00 [") and "\nwithout copies:\n3.00 [" in line[5]
    assert rows(measured, drawn)[0].clean == {}  # not drawn again, so not told


# the figures


def row_of(found, part, sampler):
    return next(row for row in found if (row.part, row.sampler) == (part, sampler))


def test_a_row_holds_what_sampling_by_hand_gives(subject, undisturbed):
    _, found, _ = undisturbed
    to = subject.judge.reference.statistics

    def paper(prior, t_start):
        images = paper_pndm.draw(EXACT, SCHEDULER, "pndm", prior, 20, 3, t_start, seed=1, batch_size=7).images
        return frechet(images, to, pooled)

    pndm = row_of(found, "paper", "pndm")
    full, late = paper(None, None), paper(PRIOR, 500)
    assert pndm.nfe == 12
    assert pndm.best["none"].figures.frechet.value == pytest.approx(full, rel=1e-9)
    assert pndm.best["gaussian"].figures.frechet.value == pytest.approx(late, rel=1e-9)
    assert pndm.ratios["gaussian"].value == pytest.approx(full / late, rel=1e-9)
    assert pndm.ratios["gaussian"].low <= full / late <= pndm.ratios["gaussian"].high
    assert pndm.published.late == 38.23

    def exact(prior, start, seed, **changes):
        sampler = make_sampler("ddim", SCHEDULER, **changes)
        return frechet(draw(EXACT, sampler, prior, 20, 3, start, seed, batch_size=7).images, to, pooled)

    def both(prior, start, spacing, clip):
        """The distance to choose by, and that to report."""
        return tuple(exact(prior, start, seed, timestep_spacing=spacing, clip_sample=clip) for seed in (0, 1))

    every = {(s, clip): both(None, None, s, clip) for s in ("trailing", "leading") for clip in (False, True)}
    lates = [both(PRIOR, 500, "trailing", clip) for clip in (False, True)]
    ddim, (chosen, full), (_, late) = row_of(found, "exact", "ddim"), min(every.values()), min(lates)
    assert ddim.best["none"].chosen.value == pytest.approx(chosen, rel=1e-9)
    assert ddim.best["none"].figures.frechet.value == pytest.approx(full, rel=1e-9)
    assert ddim.best["none"].among == 4
    assert ddim.ratios["gaussian"].value == pytest.approx(full / late, rel=1e-9)
    assert ddim.paper_ratios["gaussian"].value == pytest.approx(every["trailing", False][1] / late, rel=1e-9)


def test_the_best_of_all_is_the_best_at_equal_cost(undisturbed):
    _, found, table = undisturbed
    best, drawn = row_of(found, "best", "best"), table.drawn()
    for kind in ("none", "gaussian", "mixture"):
        known = [(f.frechet.value, e.planned.key) for e, f in table.measured() if e.kind == kind and e.part != "paper"]
        assert best.best[kind].chosen.value == min(known)[0]
        assert best.best[kind].figures.frechet == drawn[min(known)[1]].frechet
        assert best.best[kind].among == len(known)
    ratio = best.ratios["mixture"]
    assert ratio.value == best.best["none"].figures.frechet.value / best.best["mixture"].figures.frechet.value
    assert best.paper_ratios == {}


def test_published_figures_stand_beside_equal_steps_only(undisturbed):
    _, found, _ = undisturbed
    told = {(row.part, row.sampler): row.published and row.published.vanilla for row in found}
    assert told["paper", "pndm"] == 154.89
    assert told["exact", "ddim"] == told["exact", "ddpm"] == 42.63
    assert told["exact", "pndm"] is told["solvers", "ipndm"] is told["best", "best"] is None


# what is kept


class Killed(BaseException):
    pass


def test_killed_in_the_middle_it_goes_on_and_ends_the_same(subject, tmp_path, monkeypatch):
    told, asked = [], options(parts=("paper",))
    undisturbed = finish(table_in(tmp_path / "undisturbed", subject, asked))

    def dies(subject, planned, *others):
        if len(told) == 2:
            raise Killed
        return lives(subject, planned, *others)

    def lives(subject, planned, *others):
        told.append(planned.key)
        return sample(subject, planned, *others)

    with pytest.raises(Killed):
        finish(table_in(tmp_path / "killed", subject, asked, dies))
    content, found = finish(table_in(tmp_path / "killed", subject, asked, lives))
    assert content == undisturbed[0]
    assert [row.record() for row in found] == [row.record() for row in undisturbed[1]]
    assert len(told) == len(set(told)) == 12  # no cell twice
    finish(table_in(tmp_path / "killed", subject, asked, lives))
    assert len(told) == 12


def test_a_folder_of_cells_to_choose_from_needs_no_more_than_what_is_chosen(subject, tmp_path):
    told, asked = [], options(parts=("exact",), samplers=("ddim",), t_start=(300, 500))

    def counted(subject, planned, *others):
        told.append(planned.cell)
        return sample(subject, planned, *others)

    undisturbed = finish(table_in(tmp_path / "undisturbed", subject, asked))
    old = table_in(tmp_path / "old", subject, asked)
    old.sweep.measure()  # the cells of one seed, and none drawn again
    old.sweep.write(old.sweep.table())
    table = table_in(tmp_path / "old", subject, asked, counted)
    content, found = finish(table)
    assert content == undisturbed[0]
    assert [row.record() for row in found] == [row.record() for row in undisturbed[1]]
    assert {cell.seed for cell in told} == {1}
    assert told == [one.cell for one in table.again.values()] and len(told) <= 4 < len(table.entries)
    results = table.gains().record()
    assert results["measured"] == results["cells"] == len(table.entries) + len(told)
    assert results["planned"] == results["evaluations"] == 60 * results["cells"]


def test_a_cell_that_fails_is_recorded_and_the_table_goes_on(subject, tmp_path, monkeypatch):
    def broken(*_):
        raise FloatingPointError("the samples hold NaN or infinite values")

    monkeypatch.setattr(paper_pndm, "draw", broken)
    table = table_in(tmp_path, subject, options(parts=("paper", "exact"), starts=("gaussian",)))
    _, found = finish(table)
    status = {(row["sampler"], row["spacing"]): (row["status"], row["reason"]) for row in table.sweep.table()}
    assert status["pndm", "paper"] == ("failed", "FloatingPointError: the samples hold NaN or infinite values")
    assert status["ddim", "trailing"][0] == "done"
    assert {row.part for row in found} == {"exact", "best"}


def test_what_the_budget_leaves_is_left_out(subject, tmp_path):
    table = table_in(tmp_path, subject, options(parts=("paper",)))
    told = []
    table.measure(20 * 2 * (3 + 3 + 3), progress=lambda done, total, _: told.append((done, total)))
    assert told[-1] == (180, 180) and (180, 180) in told[:-1]  # those to choose from, and those drawn again
    found = table.rows()
    assert [(row.part, row.sampler) for row in found] == [("paper", "ddpm"), ("paper", "ddim")]
    assert set(found[0].ratios) == {"gaussian"} and found[1].ratios == {}  # its late start is beyond the budget
    assert found[0].published is None
    text = report_of(table).markdown()
    assert "what is missing may be the best: paper: PNDM at 3 (1 left)" in text and "best of all at" not in text
    last = next(line for line in text.split("\n") if line.startswith("| DDIM | 3 | 3 | "))
    assert last.endswith("| - | - |") and "\n- left, beyond the budget: " in text
    assert table.whole.cost == sum(e.planned.cell.cost for e in table.entries) + 180


def test_no_late_start_gains_on_less_than_all_of_full_noise(subject, tmp_path):
    """A folder without clipping that goes on with it: the clipped full noise may be the better."""
    asked = {"parts": ("exact",), "samplers": ("ddim", "pndm"), "starts": ("gaussian",)}
    old = table_in(tmp_path, subject, options(**asked, clip=(False,)), drawn_from_one_law)
    old.measure()
    assert [row.sampler for row in old.rows()] == ["ddim", "pndm", "best"]
    table = table_in(tmp_path, subject, options(**asked), drawn_from_one_law)
    table.measure(budget=0)
    assert [row.sampler for row in table.rows()] == ["pndm"]  # which cannot clip
    table.measure()
    assert [row.best["none"].among for row in table.rows()] == [4, 2, 6]


def test_full_noise_that_failed_is_not_measured(subject, tmp_path):
    """DDIM fails from full noise with leading spacing, clipped: which may be the best, as far as one knows."""

    def fails(subject, planned, *others):
        cell = planned.cell
        if (cell.sampler, cell.prior, cell.spacing, cell.clip) == ("ddim", "none", "leading", True):
            raise FloatingPointError("the samples hold NaN or infinite values")
        return drawn_from_one_law(subject, planned, *others)

    asked = options(parts=("exact",), samplers=("ddim", "pndm"), starts=("gaussian",))
    table = table_in(tmp_path, subject, asked, fails)
    table.measure()
    assert [row.sampler for row in table.rows()] == ["pndm"]  # nor is there a best of all
    assert {one.cell.sampler for one in table.again.values()} == {"pndm"}
    report = report_of(table).markdown()
    assert "what is missing may be the best: exact: DDIM at 3 (1 failed)" in report
    assert "left out for the same reason: best of all at 3" in report
    mended = table_in(tmp_path, subject, asked, drawn_from_one_law)
    mended.measure(retry=True)
    assert [row.sampler for row in mended.rows()] == ["ddim", "pndm", "best"]
    assert mended.gains().record()["left_out"] == []


def test_what_no_sampler_can_do_is_not_lacking(subject, tmp_path):
    table = table_in(tmp_path, subject, options(parts=("solvers",), solvers=("ddim",)), drawn_from_one_law)
    assert any(e.planned.steps is None for e in table.entries if e.kind == "none")
    table.measure()
    assert [row.sampler for row in table.rows()] == ["ddim", "best"]


@pytest.mark.parametrize("budget", [0, 119, 120, 500, 1500])
def test_a_budget_is_for_both_draws(subject, tmp_path, budget):
    table = table_in(tmp_path, subject, options(solvers=("heun",), starts=("gaussian",)), drawn_from_one_law)
    table.measure(budget)
    spent = [one.cell.cost for one in table.whole.planned if table.sweep.file(one).is_file()]
    assert sum(spent) <= budget
    assert choosable(table.entries, budget) <= sum(spent)
    chosen = [planned.key for planned in winners(table.measured(), table.drawn(), table.left())]
    assert set(chosen) == set(table.drawn())
    assert bool(spent) == (budget >= 120)


# the report


def test_what_a_prior_scores_by_itself_stands_beside(subject, tmp_path):
    """From the noise of the seed of the figures, at no evaluation: those of the samples as they are drawn by hand."""
    asked = options(parts=("exact",), samplers=("ddim",), starts=("isotropic", "gaussian", "mixture"))
    table = table_in(tmp_path, subject, asked, drawn_from_one_law)
    table.measure()
    result = table.gains()
    facts, alone = result.record(), result.alone
    assert set(alone) == set(facts["alone"]) == {"gaussian", "mixture"}  # N(0, I) knows nothing
    noise = white_noise(range(20), subject.priors["gaussian"][0].shape, 1)
    for kind, figures in alone.items():
        samples = subject.priors[kind][0].push(noise)
        assert figures.frechet.value == pytest.approx(subject.judge(samples).frechet.value, rel=1e-3)
        assert facts["alone"][kind]["frechet"]["value"] == figures.frechet.value
    told = page(result, tmp_path).markdown()
    for kind in ("gaussian", "mixture"):
        assert f"the {kind}'s own samples, without the network: " in told
    assert json.loads(json.dumps(facts))["alone"] == facts["alone"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (ls.Gaussian.fit([pictures(40, 0)[..., :2]]), "the prior is for samples of shape"),
        (ls.Gaussian.fit([pictures(40, 0) * 127.5 + 127.5]), "speak of different values"),
    ],
    ids=["shape", "values"],
)
def test_a_prior_of_other_images_has_no_samples_to_score(subject, tmp_path, wrong, message):
    """Its cells fail, and the table is written all the same."""
    priors = subject.priors | {"mixture": (wrong, "other")}
    table = table_in(tmp_path, subject, options(parts=("exact",), samplers=("ddim",)), sample, priors=priors)
    table.measure()
    facts, found = table.gains().record(), table.rows()
    assert set(facts["alone"]) == {"gaussian"} and message in facts["alone_failed"]["mixture"]
    assert all(row.ratios.keys() == {"gaussian"} for row in found) and found
    told = report_of(table).markdown()
    assert "the mixture's own samples, without the network: not measured, the prior " in told


def test_the_report_says_what_was_measured(undisturbed):
    _, found, _ = undisturbed
    paper, exact, solvers, _ = blocks = tables(found)
    line = next(line for line in lines(paper) if line[0] == "PNDM")
    ratio = row_of(found, "paper", "pndm").ratios["gaussian"]
    assert line[1:3] == ("3", "12") and line[6:] == ("154.89", "38.23", "4.05")
    doubtful = next(line for line in lines(paper) if line[0] == "DDPM")
    assert doubtful[6:] == ("42.63 (a)", "11.92 (a)", "3.58 (a)")
    note = "(a) identical to the ddim row in the source: probably a copy error there"
    assert paper.caption == exact.caption == note and markdown_table(paper).endswith(f"\n\n{note}")
    assert solvers.caption is None
    assert line[5] == f"{ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
    assert [block.row_count for block in blocks] == [3, 3, 2, 1]
    heads = [[column.header for column in block.columns] for block in blocks]
    assert heads[1][-1] == "paper's\nratio" and "paper's\nratio" not in heads[2]
    gain = row_of(found, "solvers", "ipndm").ratios["mixture"]
    told = next(line for line in lines(solvers) if line[0] == "iPNDM")[-1]
    assert told.split("\n")[1] == f"gain {named(gain, '.2f')}" and "t = 500" in told
    said = list(headline(found))
    assert len(said) == 2 and said[1].startswith("NFE 3: late, mixture (")
    assert f"{row_of(found, 'best', 'best').ratios['mixture'].value:.2f}x" in said[1]


@pytest.mark.parametrize(
    ("clips", "fact", "best"),
    [
        ((False, True), "clipped and not, where a sampler can", "best full noise"),
        ((False,), "none tried", "best unclipped full noise"),
        ((True,), "clipped only, where a sampler can", "best clipped full noise"),
    ],
)
def test_the_report_claims_the_best_of_what_was_tried_alone(subject, tmp_path, clips, fact, best):
    asked = options(parts=("exact",), samplers=("ddim",), clip=clips)
    table = table_in(tmp_path, subject, asked, drawn_from_one_law)
    table.measure()
    found = table.rows()
    told = report_of(table)
    assert told.facts["clipping"] == fact
    (line, *_), (_, block) = headline(found, clips), tables(found, clips)
    assert f", {best} (" in line and block.title.endswith(f"against the {best} of any sampler")
    assert ("clipping" in told.sentences[-1]) == (len(clips) == 2)  # what was chosen


def test_settings_that_cannot_be():
    for changes, message in (
        ({"parts": ("all",)}, "there is no parts 'all'; there are paper, exact, solvers"),
        ({"solvers": ()}, "solvers: expected at least one value, received none"),
        ({"starts": ("uniform",)}, "there is no starts 'uniform'; there are isotropic, gaussian, mixture"),
        ({"nfe": (1,)}, "expected at least 2 steps on the paper's grid, received 1"),
        ({"nfe": (0,), "parts": ("exact",)}, "nfe=0: expected a whole number of at least 1"),
        ({"t_start": (0,)}, r"expected start times of at least 1, .* received \(0,\) for gaussian"),
        ({"t_start": {"mixture": ()}}, r"expected start times of at least 1, .* received \(\) for mixture"),
        ({"t_start": {"uniform": (5,)}}, "received start times of 'uniform', .* of gaussian, mixture, paper"),
        ({"t_start": {"isotropic": (5,)}}, "received start times of 'isotropic', .* of gaussian, mixture, paper"),
        ({"t_start": {"paper": (5,)}, "parts": ("exact",)}, "received start times of 'paper', .* of gaussian, mixture"),
        ({"t_start": {"mixture": (5,)}, "parts": ("paper",)}, "received start times of 'mixture', .* some of paper"),
        ({"clip": ()}, "clip: expected at least one value, received none"),
        ({"paper": "faces"}, "the paper has no figures for 'faces'"),
    ):
        with pytest.raises(ValueError, match=message):
            options(**changes)


# the command

pytestmark = pytest.mark.filterwarnings("ignore:the feature covariance of")  # few samples, on purpose
RUNNER = CliRunner()
ARGUMENTS = ["experiment", "table1", "mnist", "--samples", "8", "--nfe", "3", "--t-start", "paper=500"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("gaussian=400;mixture=now", "t-start: expected whole numbers between commas, received"),
        ("gaussian=400;gaussian=500", "each kind of start once, received 'gaussian=400;gaussian=500'"),
        ("uniform=400", "received start times of 'uniform', 400, which the parts paper, exact, solvers do not have"),
    ],
)
def test_start_times_that_cannot_be_are_told(tmp_path, text, message):
    result = RUNNER.invoke(app, [*ARGUMENTS[:-1], text, "--out", str(tmp_path / "table")])
    assert result.exit_code != 0 and message in " ".join(result.output.split())
    assert not (tmp_path / "table").exists()


def test_start_times_without_a_kind_are_of_the_kinds_asked_for(subject):
    asked = Table1Settings.read({"model": "exact", "t-start": "300,500", "starts": "mixture", "parts": "exact,paper"})
    assert {e.planned.cell.t_start for e in entries(asked, subject) if e.part == "exact"} == {None, 300, 500}
    assert asked.times("paper", "gaussian", 1000) == tuple(map(float, STARTS))
    assert start_times("paper=200,500;mixture=100") == {"paper": (200, 500), "mixture": (100,)}


def test_the_command_writes_the_table_and_does_not_measure_twice(tmp_path, monkeypatch):
    asked = [*ARGUMENTS, "--parts", "paper", "--budget", "150"]
    monkeypatch.setattr("sys.argv", ["latestart", *asked])
    first = RUNNER.invoke(app, [*asked, "--out", str(tmp_path)])
    assert first.exit_code == 0, first.output
    for name in ("report.md", "table1.png", "results.json", "results.parquet"):
        assert (tmp_path / name).stat().st_size > 500, name
    assert "warning: the samples' feature covariance has rank 7 of 128" in first.output
    assert "left, beyond the budget" in first.output
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    table = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"latestart {' '.join(asked)}\n" in table and "seed: 0 to choose, 1 for the figures; " in table
    again = RUNNER.invoke(app, [*asked, "--out", str(tmp_path)])
    assert again.exit_code == 0, again.output
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == kept
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == table
    assert "42.63" in table  # the paper's, for the model of that name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--parts", "half"], "there is no parts 'half'; there are paper, exact, solvers"),
        (["--paper", "faces"], "the paper has no figures for 'faces'"),
        (["--nfe", "few"], "nfe: expected whole numbers, received 'few'"),
        (["--mixture", "none.safetensors"], "expected a file or folder at none.safetensors, found nothing"),
    ],
)
def test_the_commands_mistakes_are_told(tmp_path, wrong, message):
    result = RUNNER.invoke(app, [*ARGUMENTS, *wrong, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())
