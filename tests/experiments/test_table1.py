"""The paper's table: its cells are at equal cost, its figures those of sampling by hand, and it goes on when killed."""

from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from typer.testing import CliRunner

import latestart as ls
from latestart.cli import app
from latestart.data import Images, to_pixels
from latestart.denoisers.networks import as_model
from latestart.evaluation.quality import feature_statistics, frechet
from latestart.experiments import paper_pndm, table1
from latestart.experiments.grid import Grid
from latestart.experiments.judge import Judge, Reference
from latestart.experiments.published import dataset_of, published
from latestart.experiments.subjects import Subject
from latestart.experiments.sweep import Sweep
from latestart.experiments.table1 import Table
from latestart.experiments.table1_cells import Options, entries, sample
from latestart.experiments.table1_rows import rows
from latestart.report.table1 import blocks, headline, table_report
from latestart.sampling.loop import draw
from latestart.sampling.samplers import make_sampler

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
    return Judge(pooled, Reference(feature_statistics(data, pooled), pooled(data), None, SHAPE, "data"))


@pytest.fixture(scope="module")
def subject(judge):
    priors = {"none": (None, ""), "isotropic": (None, ""), "gaussian": (PRIOR, "p"), "mixture": (MIXTURE, "m")}
    return Subject(EXACT, SCHEDULER, "weights", priors, judge)


def options(**changes):
    known = {"evaluations": (3,), "solvers": ("heun", "ipndm"), "t_start": (500,), "starts": ("gaussian", "mixture")}
    return Options(Grid(model=("exact",), samples=20), **{**known, **changes})


def table_in(folder, subject, asked=None, sample=sample, **changes):
    asked = options() if asked is None else asked
    subject = replace(subject, **changes)
    found = entries(asked, subject)
    planned = list({entry.planned.key: entry.planned for entry in found}.values())
    return Table(asked, Sweep(planned, {"exact": subject}, folder, 7, sample=sample), found)


def finish(table):
    table.measure()
    return table.sweep.write(table.sweep.table()).read_bytes(), rows(table.measured(), "mnist")


@pytest.fixture(scope="module")
def undisturbed(subject, tmp_path_factory):
    table = table_in(tmp_path_factory.mktemp("undisturbed"), subject)
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
    found = entries(options(evaluations=(3, 5, 10), solvers=("heun",), starts=("gaussian",)), subject)
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
    assert times == [None, *map(float, paper_pndm.STARTS)]
    assert asked.paper_times(100) == (5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 99)
    assert asked.times("gaussian", 500, "exact") == (200, 250, 300, 350)
    assert options(t_start=(77,)).times("gaussian", 500, "solvers") == (77,)
    assert asked.priors == ("none", "mixture", "gaussian")
    assert options(files={"mixture": "m.safetensors"}).priors == ("none", "gaussian", "m.safetensors")


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
    low = options(parts=("paper",), t_start=(4,), evaluations=(10,))
    assert {(e.kind, e.planned.steps) for e in entries(low, subject)} == {("none", 10), ("gaussian", None)}
    assert all("has 2 to 5 steps" in e.planned.reason for e in entries(low, subject) if e.kind == "gaussian")


# the figures


def row_of(found, part, sampler):
    return next(row for row in found if (row.part, row.sampler) == (part, sampler))


def test_a_row_holds_what_sampling_by_hand_gives(subject, undisturbed):
    _, found, _ = undisturbed
    to = subject.judge.reference.statistics

    def paper(prior, t_start):
        images = paper_pndm.draw(EXACT, SCHEDULER, "pndm", prior, 20, 3, t_start, batch_size=7).images
        return frechet(images, to, pooled)

    pndm = row_of(found, "paper", "pndm")
    full, late = paper(None, None), paper(PRIOR, 500)
    assert pndm.nfe == 12
    assert pndm.best["none"].frechet.value == pytest.approx(full, rel=1e-9)
    assert pndm.best["gaussian"].frechet.value == pytest.approx(late, rel=1e-9)
    assert pndm.ratios["gaussian"].value == pytest.approx(full / late, rel=1e-9)
    assert pndm.ratios["gaussian"].low <= full / late <= pndm.ratios["gaussian"].high
    assert pndm.published.late == 38.23

    def exact(prior, start, **changes):
        sampler = make_sampler("ddim", SCHEDULER, **changes)
        return frechet(draw(EXACT, sampler, prior, 20, 3, start, batch_size=7).images, to, pooled)

    ways = [(spacing, clip) for spacing in ("trailing", "leading") for clip in (False, True)]
    every = {way: exact(None, None, timestep_spacing=way[0], clip_sample=way[1]) for way in ways}
    lates = [exact(PRIOR, 500, timestep_spacing="trailing", clip_sample=clip) for clip in (False, True)]
    ddim = row_of(found, "exact", "ddim")
    assert ddim.best["none"].frechet.value == pytest.approx(min(every.values()), rel=1e-9)
    assert ddim.best["none"].among == 4
    assert ddim.ratios["gaussian"].value == pytest.approx(min(every.values()) / min(lates), rel=1e-9)
    assert ddim.paper_ratios["gaussian"].value == pytest.approx(every["trailing", False] / min(lates), rel=1e-9)


def test_the_best_of_all_is_the_best_at_equal_cost(undisturbed):
    _, found, table = undisturbed
    best = row_of(found, "best", "best")
    for kind in ("none", "gaussian", "mixture"):
        values = [f.frechet.value for e, f in table.measured() if e.kind == kind and e.part != "paper"]
        assert best.best[kind].frechet.value == min(values)
        assert best.best[kind].among == len(values)
    ratio = best.ratios["mixture"]
    assert ratio.value == best.best["none"].frechet.value / best.best["mixture"].frechet.value
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
    assert len(told) == len(set(told)) == 6  # no cell twice
    finish(table_in(tmp_path / "killed", subject, asked, lives))
    assert len(told) == 6


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
    table.measure(budget=20 * (3 + 3 + 3))
    found = rows(table.measured())
    assert [(row.part, row.sampler) for row in found] == [("paper", "ddpm"), ("paper", "ddim")]
    assert set(found[0].ratios) == {"gaussian"} and found[1].ratios == {}  # its late start is beyond the budget
    assert found[0].published is None
    assert table.cost == sum(e.planned.cell.cost for e in table.entries)
    text = table_report(table1.results(table, found, None), found, table.sweep.table()).markdown()
    last = next(line for line in text.split("\n") if line.startswith("| DDIM | 3 | 3 | "))
    assert last.endswith("| - | - |") and "\n- left, beyond the budget: " in text


# the report


def test_the_report_says_what_was_measured(undisturbed):
    _, found, _ = undisturbed
    paper, exact, solvers, best = blocks(found)
    line = next(line for line in paper.lines if line[0] == "PNDM")
    ratio = row_of(found, "paper", "pndm").ratios["gaussian"]
    assert line[1:3] == ("3", "12") and line[6:] == ("154.89", "38.23", "4.05")
    assert line[5] == f"{ratio.value:.2f}\n[{ratio.low:.2f}, {ratio.high:.2f}]"
    assert [len(block.lines) for block in (paper, exact, solvers, best)] == [3, 3, 2, 1]
    assert all(len(line) == len(block.columns) for block in (paper, exact, solvers, best) for line in block.lines)
    assert exact.columns[-1] == "paper's\nratio" and "paper's\nratio" not in solvers.columns
    gain = row_of(found, "solvers", "ipndm").ratios["mixture"]
    told = next(line for line in solvers.lines if line[0] == "iPNDM")[-1]
    assert told.split("\n")[1] == f"gain {gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}]" and "t = 500" in told
    said = list(headline(found))
    assert len(said) == 2 and said[1].startswith("NFE 3: late, mixture (")
    assert f"{row_of(found, 'best', 'best').ratios['mixture'].value:.2f}x" in said[1]


def test_options_that_cannot_be():
    for changes, message in (
        ({"parts": ("all",)}, "expected a part of paper, exact, solvers, received 'all'"),
        ({"solvers": ()}, "expected a solver of ddpm, ddim, .*, received none"),
        ({"starts": ("uniform",)}, "expected a kind of start of isotropic, gaussian, mixture, received 'uniform'"),
        ({"evaluations": (1,)}, "at least 2 steps on the paper's grid"),
        ({"t_start": (0,)}, "expected start times of at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            options(**changes)


# the command

pytestmark = pytest.mark.filterwarnings("ignore:the feature covariance of")  # few samples, on purpose
RUNNER = CliRunner()
ARGUMENTS = ["experiment", "table1", "mnist", "--samples", "8", "--nfe", "3", "--t-start", "500"]


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
    assert f"latestart {' '.join(asked)}\n" in table and "samples: 8; seed: 0; " in table
    again = RUNNER.invoke(app, [*asked, "--out", str(tmp_path)])
    assert again.exit_code == 0, again.output
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == kept
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == table
    assert "42.63" in table  # the paper's, for the model of that name


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["--parts", "half"], "expected a part of paper, exact, solvers, received 'half'"),
        (["--paper", "faces"], "the paper has no figures for 'faces'"),
        (["--nfe", "few"], "nfe must be whole numbers between commas, received 'few'"),
        (["--mixture", "none.safetensors"], "there is no prior 'none.safetensors'"),
    ],
)
def test_the_commands_mistakes_are_told(tmp_path, wrong, message):
    result = RUNNER.invoke(app, [*ARGUMENTS, *wrong, "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())
