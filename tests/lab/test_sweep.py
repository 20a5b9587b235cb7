"""A sweep is what its files say: killed anywhere and started again, it ends with the same table, bit by bit."""

import multiprocessing
import os
import signal
import time
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDPMScheduler

import latestart as ls
from latestart.data import Images, to_pixels
from latestart.denoisers.adapter import Counted
from latestart.denoisers.networks import as_model
from latestart.evaluation.quality import feature_statistics, frechet
from latestart.files import load_tensors, save_tensors
from latestart.fingerprints import fingerprint, formerly
from latestart.lab import cells as cells_module
from latestart.lab import judge as judging
from latestart.lab import sweep as sweeping
from latestart.lab.cells import Outcome, plan, read_cell, write_cell
from latestart.lab.experiment import Lab
from latestart.lab.grid import Cell, Grid, read_grid
from latestart.lab.judge import Judge, Reference, reference_of
from latestart.lab.subjects import Subject, weights
from latestart.lab.sweep import Sweep, add_gains, shares, within
from latestart.sampling.loop import draw
from latestart.sampling.samplers import SAMPLERS, can_clip, make_sampler
from rendezvous import together

SHAPE = (1, 4, 4)
SCHEDULER = DDPMScheduler(clip_sample=False)


def pooled(images):
    """Four features: the means of the quarters."""
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


class Quarters:
    """The extractor, counting its images."""

    name = "quarters"
    asked = 0

    def __call__(self, images):
        self.asked += len(images)
        return pooled(images)


def pictures(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return (0.5 * torch.randn(n, *SHAPE, generator=generator) + torch.linspace(-0.5, 0.5, 16).view(SHAPE)).clamp(-1, 1)


PRIOR = ls.Gaussian.fit(pictures(500, 0))
EXACT = as_model(PRIOR, SCHEDULER)


def reference():
    sets = tuple(Images(to_pixels(pictures(120, seed) / 2 + 0.5)) for seed in (0, 1, 2))
    data = sets[0].unit()
    return Reference(
        statistics=feature_statistics(data, pooled), real=pooled(data), copying=sets, shape=SHAPE, fingerprint="data"
    )


@pytest.fixture(scope="module")
def judge():
    return Judge(Quarters(), reference())


def subject(judge, network=EXACT):
    priors = {"none": (None, ""), "isotropic": (None, ""), "gaussian": (PRIOR, "prior")}
    return Subject(network=network, scheduler=SCHEDULER, weights="weights", priors=priors, judge=judge)


def cell(**changes):
    return replace(
        Cell(
            model="exact",
            sampler="ddim",
            nfe=3,
            prior="none",
            t_start=None,
            spacing="trailing",
            clip=False,
            samples=20,
            seed=0,
        ),
        **changes,
    )


CELLS = [
    *(cell(nfe=nfe) for nfe in (1, 3)),
    *(cell(sampler="heun", nfe=nfe, prior="gaussian", t_start=400.0) for nfe in (3, 4)),  # it cannot spend 4
    cell(prior="isotropic", t_start=500.0),
    cell(prior="gaussian", t_start=500.0),
]


def sweep_in(folder, judge, network=EXACT, cells=CELLS, **lab):
    subjects = {"exact": subject(judge, network)}
    return Sweep(plan(cells, subjects), subjects, Lab(folder, **lab), 7)


def finish(sweep, **options):
    """Measure what is missing: the table's rows and the bytes of its file."""
    sweep.measure(**options)
    rows = sweep.table()
    return rows, sweep.write(rows).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(judge, tmp_path_factory):
    return finish(sweep_in(tmp_path_factory.mktemp("undisturbed"), judge))


def test_a_row_holds_what_sampling_by_hand_gives(judge, undisturbed):
    rows, _ = undisturbed
    assert [row["status"] for row in rows] == ["done", "done", "done", "unavailable", "done", "done"]
    sampler = make_sampler("ddim", SCHEDULER, timestep_spacing="trailing", clip_sample=False)
    images = draw(EXACT, sampler, PRIOR, 20, 3, 500.0, batch_size=7).images
    assert rows[5]["frechet"] == pytest.approx(frechet(images, judge.reference.statistics, pooled), rel=1e-9)
    assert rows[5]["frechet_low"] < rows[5]["frechet"] < rows[5]["frechet_high"]
    full = draw(EXACT, sampler, None, 20, 3, batch_size=7).images
    ratio = frechet(full, judge.reference.statistics, pooled) / rows[5]["frechet"]
    assert rows[5]["gain"] == pytest.approx(ratio, rel=1e-9)
    assert rows[1]["gain"] == rows[1]["gain_low"] == rows[1]["gain_high"] == 1
    assert rows[2]["gain"] is None  # there is no full noise with that sampler
    assert rows[2]["steps"] == 2 and rows[2]["nfe"] == 3
    assert "3 at 2, 5 at 3 steps" in rows[3]["reason"]


def test_the_table_is_written_as_it_is(judge, undisturbed, tmp_path):
    rows, _ = undisturbed
    table = pq.read_table(sweep_in(tmp_path, judge).write(rows))
    assert table.to_pylist() == rows
    assert "seconds" not in table.column_names


@pytest.mark.parametrize(("sampler", "nfe"), list(product(SAMPLERS, (3, 4))))
@pytest.mark.parametrize("start", [None, 500.0])
def test_steps_are_chosen_by_what_the_network_is_asked(sampler, nfe, start):
    asked = cell(sampler=sampler, nfe=nfe, t_start=start)
    try:
        steps = asked.steps_for(asked.nfe, SCHEDULER)
    except ValueError as error:
        assert sampler in ("heun", "kdpm2", "pndm") and "cannot spend" in str(error)
        return
    counted = Counted(EXACT)
    draw(counted, make_sampler(sampler, SCHEDULER, **asked.settings(SCHEDULER)), None, 4, steps, start)
    assert counted.evaluated == 4 * nfe
    assert steps == {"heun": (nfe + 1) // 2, "kdpm2": (nfe + 1) // 2, "pndm": nfe - 1}.get(sampler, nfe)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kill", range(5))
def test_a_sweep_stopped_at_any_cell_ends_with_the_same_table(judge, undisturbed, tmp_path, monkeypatch, kill, after):
    written = []

    def deadly(path, planned, outcome):
        if len(written) == kill and not after:
            raise Killed
        cells_module.write_cell(path, planned, outcome)
        written.append(planned.key)
        if len(written) == kill + 1 and after:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(sweeping, "write_cell", deadly)
        sweep_in(tmp_path, judge).measure()
    counted = Counted(EXACT)
    again = finish(sweep_in(tmp_path, judge, counted))
    assert again == undisturbed
    done = sum(c.cost for c in CELLS if c.nfe != 4)
    already = sum(p.cell.cost for p in sweep_in(tmp_path, judge).planned if p.key in written)
    assert counted.evaluated >= done - already
    assert counted.evaluated <= done - already + 2 * 32  # the check of the prior


class Slow:
    """The exact model, a moment later."""

    def __getattr__(self, name):
        return getattr(EXACT, name)

    def __call__(self, *args, **kwargs):
        time.sleep(0.01)
        return EXACT(*args, **kwargs)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_sweep_killed_three_times_ends_with_the_same_table(judge, undisturbed, tmp_path):
    for kill in range(1, 4):
        process = multiprocessing.get_context("fork").Process(
            target=lambda: sweep_in(tmp_path, judge, Slow()).measure()
        )
        process.start()
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("cells/*.safetensors"))) < kill and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("cells/*.safetensors")}
    assert 3 <= len(kept) <= 5
    assert finish(sweep_in(tmp_path, judge)) == undisturbed
    assert all((tmp_path / "cells" / name).stat().st_mtime_ns == at for name, at in kept.items())


def test_a_budget_is_spent_in_order_and_the_rest_is_left(judge, undisturbed, tmp_path):
    costs = [20, 60, 60, 0, 60, 60]  # a cell that is unavailable costs nothing
    for budget, count in ((19, 0), (20, 1), (140, 4), (199, 4), (200, 5), (260, 6)):
        sweep = sweep_in(tmp_path, judge)
        assert within(sweep.planned, budget) == count, costs
        rows, _ = finish(sweep, budget=budget)
        left = [k for k, row in enumerate(rows) if row["status"] == "left"]
        assert left == [k for k in range(count, 6) if costs[k]]
    assert rows == undisturbed[0]


class Fragile:
    """The exact model, which fails above t = 900 in one of several ways."""

    def __init__(self, how):
        self.how = how

    def __getattr__(self, name):
        return getattr(EXACT, name)

    def __call__(self, x, t, **kwargs):
        out = EXACT(x, t, **kwargs)
        if torch.as_tensor(t).max() < 900 or len(x) > 7:  # the check of the prior is of more samples
            return out
        if self.how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")
        return SimpleNamespace(sample=out.sample * float("nan"))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("nan", "FloatingPointError: 112 values of the samples are NaN or infinite after the step from t = 999"),
        ("memory", "OutOfMemoryError: CUDA out of memory."),
    ],
)
def test_a_failing_cell_is_recorded_and_measured_anew_when_told(judge, undisturbed, tmp_path, how, reason):
    told = []
    rows, _ = finish(sweep_in(tmp_path, judge, Fragile(how), tell=told.append))
    failed = [0, 1]
    assert [k for k, row in enumerate(rows) if row["status"] == "failed"] == failed
    assert {rows[k]["reason"] for k in failed} == {reason} and len(told) == 2
    assert [row["frechet"] for row in rows[4:]] == [row["frechet"] for row in undisturbed[0][4:]]
    counted = Counted(Fragile(how))
    assert finish(sweep_in(tmp_path, judge, counted))[0] == rows
    assert counted.evaluated == 0
    assert finish(sweep_in(tmp_path, judge), retry=True) == undisturbed


def test_a_prior_that_does_not_fit_fails_in_its_own_cells(judge, undisturbed, tmp_path):
    wrong = subject(judge)
    wrong.priors["gaussian"] = (ls.Gaussian.fit(127.5 * (pictures(500, 0) + 1)), "bytes")
    sweep = Sweep(plan(CELLS, {"exact": wrong}), {"exact": wrong}, Lab(tmp_path), 7)
    rows, _ = finish(sweep)
    assert [row["status"] for row in rows] == ["done", "done", "failed", "unavailable", "done", "failed"]
    assert "speak of different values" in rows[2]["reason"]


def test_cells_of_another_version_or_cut_short_are_measured_again(judge, undisturbed, tmp_path):
    sweep = sweep_in(tmp_path, judge)
    finish(sweep)
    files = [sweep.file(planned) for planned in sweep.planned]
    tensors, metadata = load_tensors(files[0], cells_module.KIND)
    save_tensors(files[0], cells_module.KIND, tensors, metadata | {"version": 99})
    files[1].write_bytes(files[1].read_bytes()[:-50])
    files[4].write_bytes(files[5].read_bytes())
    told = []
    assert finish(sweep_in(tmp_path, judge, tell=told.append)) == undisturbed
    assert len(told) == 3 and all("made again" in line for line in told)
    for words, line in zip(("version 99, expected version 1", "damaged", "another cell"), told):
        assert words in line


def test_a_table_of_something_else_is_refused_and_one_cut_short_is_written_again(judge, undisturbed, tmp_path):
    path = tmp_path / "results.parquet"
    for metadata, message in (({"latestart": "sweep", "version": "0"}, "of version 0"), ({}, "of something else")):
        pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), path)
        with pytest.raises(ValueError, match=message):
            finish(sweep_in(tmp_path, judge))
    path.write_bytes(undisturbed[1][:-100])
    told = []
    assert finish(sweep_in(tmp_path, judge, tell=told.append)) == undisturbed
    assert "cut short" in told[0]


def test_every_part_of_a_configuration_is_in_the_key(judge):
    def key(one, **changed):
        return plan([one], {"exact": replace(subject(judge), **changed)})[0].key

    late = cell(prior="gaussian", t_start=500.0, sampler="dpm++")
    changes = [
        *({"sampler": "unipc"}, {"nfe": 4}, {"prior": "isotropic"}, {"t_start": 400.0}, {"spacing": "karras"}),
        *({"samples": 21}, {"seed": 1}),
    ]
    keys = [key(late), *(key(replace(late, **change)) for change in changes)]
    keys += [key(late, weights="others"), key(late, priors={"gaussian": (PRIOR, "another")})]
    keys += [key(cell()), key(cell(clip=True))]
    keys += [
        key(
            late,
            judge=SimpleNamespace(
                features=features, second_features=None, reference=replace(judge.reference, fingerprint=data)
            ),
        )
        for features, data in (("halves", "data"), ("quarters", "other data"))
    ]
    assert len(set(keys)) == len(keys)
    assert key(late) == key(replace(late, model="exact"))


def test_cells_under_the_key_of_an_earlier_version_are_found_and_none_is_measured_again(judge, undisturbed, tmp_path):
    known = SimpleNamespace(
        features="quarters", second_features=None, reference=replace(judge.reference, fingerprint=fingerprint("data"))
    )
    one = plan([cell()], {"exact": replace(subject(judge), judge=known, weights=fingerprint(b"weights"))})[0]
    assert one.key != one.key.former
    before = replace(one, configuration=formerly(one.configuration))
    path = tmp_path / "cells" / f"{one.key.former}.safetensors"
    write_cell(path, before, Outcome("done", "", figures=judge(pictures(20, 3))))
    sweep = Sweep([one], {"exact": subject(judge)}, Lab(tmp_path))
    sweep.measure()
    assert [path.stem for path in (tmp_path / "cells").iterdir()] == [one.key.former]
    assert sweep.outcome(one).figures.frechet == judge(pictures(20, 3)).frechet


def test_changed_weights_have_another_fingerprint():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    network.config = {"act": "relu", "_name_or_path": "here"}
    before = weights(network, SCHEDULER)
    network.config["_name_or_path"] = "there"
    assert weights(network, SCHEDULER) == before
    with torch.no_grad():
        network.weight[0, 0] += 1e-7
    assert weights(network, SCHEDULER) != before
    network.weight.data[0, 0] -= 1e-7
    assert weights(network, DDPMScheduler(clip_sample=True)) != before


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_work_is_shared_by_its_cost(count):
    costs = torch.randint(1, 100, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    parts = shares(costs, count)
    assert sorted(k for part in parts for k in part) == list(range(40))
    loads = [sum(costs[k] for k in part) for part in parts]
    assert max(loads) - min(loads) <= min(costs) + max(costs) / 10
    assert all(part == sorted(part) for part in parts)


def test_several_processes_end_with_the_same_table(judge, undisturbed, tmp_path):
    networks = [Counted(EXACT) for _ in range(3)]

    def work(run):
        sweep = sweep_in(tmp_path, judge, networks[run.index], run=run)
        sweep.measure()
        return finish(replace(sweep, lab=Lab(tmp_path))) if run.first else None

    assert together(3, work)[0] == undisturbed
    assert all(network.evaluated >= 60 for network in networks)


def test_progress_counts_evaluations_as_they_are_made(judge, tmp_path):
    seen = []
    sweep_in(tmp_path, judge).measure(progress=lambda done, total, note: seen.append((done, total, note)))
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert {total for _, total, _ in seen} == {260} and seen[-1][0] == 260
    assert (7, 260, "exact, ddim, NFE 1, full noise, trailing") in seen  # the first batch of the first cell


def test_replicates_of_cells_are_paired(judge, undisturbed, tmp_path):
    sweep = sweep_in(tmp_path, judge)
    rows, _ = finish(sweep)
    full, late = (read_cell(sweep.file(sweep.planned[k]), sweep.planned[k]).figures for k in (1, 5))
    ratios = full.replicates / late.replicates
    low, high = torch.quantile(ratios, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert (rows[5]["gain_low"], rows[5]["gain_high"]) == pytest.approx((low, high), rel=1e-12)
    assert torch.corrcoef(torch.stack([full.recall_replicates, late.recall_replicates]))[0, 1] > 0


# the reference of a user's images


@pytest.fixture
def files(tmp_path):
    for name, count, seed in (("train", 301, 0), ("unseen", 250, 1)):
        pixels = to_pixels(pictures(count, seed) / 2 + 0.5)
        np.savez(tmp_path / f"{name}.npz", images=pixels.numpy())
    return tmp_path


def opened(files, extract, held_out=True, **lab):
    unseen = str(files / "unseen.npz") if held_out else None
    kept = files / "statistics.safetensors"
    return reference_of(str(files / "train.npz"), unseen, extract, kept, Lab(files, **lab))


def test_feature_statistics_are_computed_once_and_kept(files):
    first = Quarters()
    one = opened(files, first)
    data = ls.load_images(files / "train.npz")
    expected = feature_statistics(data, pooled)
    assert one.statistics.frechet(expected) < 1e-12 and one.statistics.count == 301
    assert first.asked >= 301
    second = Quarters()
    again = opened(files, second)
    assert second.asked == 0
    assert again.fingerprint == one.fingerprint
    assert torch.equal(again.statistics.variances, one.statistics.variances) and torch.equal(again.real, one.real)
    assert [len(images) for images in one.copying] == [125] * 3
    halves = torch.cat([images.pixels for images in one.copying[1:]])
    assert len(halves.flatten(1).unique(dim=0)) == 250  # no image stands in both


def test_several_processes_compute_the_same_statistics(files, tmp_path):
    alone = opened(files, Quarters())
    (files / "statistics.safetensors").unlink()
    for reference in together(3, lambda run: opened(files, Quarters(), run=run)):
        assert reference.statistics.frechet(alone.statistics) < 1e-12
        assert torch.equal(reference.real, alone.real)


@pytest.mark.parametrize("change", ["extractor", "images", "count"])
def test_statistics_of_something_else_are_refused(files, change):
    opened(files, Quarters())
    extract = Quarters()
    if change == "extractor":
        extract.name = "others"
    else:
        pixels = np.load(files / "train.npz")["images"]
        pixels = pixels[:-1] if change == "count" else 255 - pixels
        np.savez(files / "train.npz", images=pixels)
    with pytest.raises(ValueError, match=r"statistics.safetensors holds feature statistics with .* expected"):
        opened(files, extract)


def test_statistics_cut_short_or_foreign_are_refused(files):
    opened(files, Quarters())
    kept = files / "statistics.safetensors"
    kept.write_bytes(kept.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged"):
        opened(files, Quarters())
    PRIOR.save(kept)
    with pytest.raises(ValueError, match="holds a gaussian"):
        opened(files, Quarters())


def test_few_samples_are_warned_of_with_the_rank(judge):
    assert judging.few_samples(5, judge) is None
    assert "rank 3 of 4" in judging.few_samples(4, judge)


def test_without_held_out_images_copies_are_not_looked_for(files):
    reference = opened(files, Quarters(), held_out=False)
    figures = Judge(Quarters(), reference)(pictures(40, 5))
    assert figures.copied is None and figures.frechet.value > 0


# the grid


def test_what_does_not_apply_is_left_out():
    grid = Grid(
        sampler=("ddim", "dpm++"), nfe=(3,), prior=("none", "gaussian"), t_start=(300.0, 400.0),
        spacing=("leading", "trailing", "karras"), clip=(False,), samples=10,
    )  # fmt: skip
    cells = grid.cells()
    assert len(cells) == len(set(cells)) == 2 * (3 + 2 * 2)
    assert {(c.t_start, c.spacing) for c in cells if c.prior == "none"} == {
        (None, "leading"), (None, "trailing"), (None, "karras"),
    }  # fmt: skip
    assert {c.spacing for c in cells if c.prior == "gaussian"} == {"trailing", "karras"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_default_grid_has_every_way_from_full_noise(sampler):
    cells = Grid(sampler=(sampler,)).cells()
    assert len(cells) <= 18
    assert all(make_sampler(sampler, SCHEDULER, **one.settings(SCHEDULER)) for one in cells if one.nfe == 3)
    for nfe in (3, 5, 10):
        ways = [[(c.spacing, c.clip) for c in cells if c.nfe == nfe and c.t_start == start] for start in (None, 500.0)]
        clips = (False, True) if can_clip(sampler) else (False,)
        assert ways == [list(product(spacings, clips)) for spacings in (("trailing", "leading"), ("trailing",))]
    told = Grid(sampler=(sampler,), clip=(True,)).cells()
    assert all(one.clip for one in told)  # what is asked for by name is not left out, but said to be impossible


def test_gains_are_on_the_best_full_noise_and_on_none_while_one_is_left(judge, tmp_path):
    grid = Grid(model=("exact",), nfe=(3,), samples=20)
    sweep = sweep_in(tmp_path, judge, cells=grid.cells())
    rows, _ = finish(sweep)
    full = [row["frechet"] for row in rows if row["prior"] == "none"]
    assert len(full) == 4 and len(rows) == 6 and max(full) > 1.02 * min(full)
    assert [row["gain"] for row in rows] == pytest.approx([min(full) / row["frechet"] for row in rows], rel=1e-9)
    sweep.file(sweep.planned[2]).unlink()
    rows, _ = finish(sweep, budget=0)
    assert [row["status"] for row in rows] == ["done", "done", "left", "done", "done", "done"]
    assert all(row["gain"] is row["gain_low"] is row["gain_high"] is None for row in rows)


def test_gains_are_on_none_while_a_full_noise_has_failed_but_need_not_what_cannot_be():
    def gains(status):
        common = {"model": "m", "sampler": "ddim", "nfe": 3, "samples": 20, "seed": 0}
        rows = [
            {**common, "prior": "none", "status": "done", "frechet": 4.0},
            {**common, "prior": "none", "status": status, "frechet": None},
            {**common, "prior": "gaussian", "status": "done", "frechet": 2.0},
        ]
        add_gains(rows, [torch.full((9,), 4.0), None, torch.full((9,), 2.0)])
        return [row.get("gain") for row in rows]

    assert gains("failed") == gains("left") == [None, None, None]
    assert gains("unavailable") == [1, None, 2]


def test_an_outcome_is_what_the_cells_file_says(judge, undisturbed, tmp_path):
    sweep = sweep_in(tmp_path, judge)
    finish(sweep)
    first, last = sweep.planned[0], sweep.planned[-1]
    assert sweep.outcome(first).figures.frechet.value == undisturbed[0][0]["frechet"]
    sweep.file(first).write_bytes(b"cut short")
    sweep.file(last).unlink()
    assert [sweep.outcome(one).status for one in (first, last)] == ["left", "left"]
    impossible = replace(first, steps=None, reason="too few")
    assert (sweep.outcome(impossible).status, sweep.outcome(impossible).reason) == ("unavailable", "too few")


def test_yaml_and_flags_give_the_same_grid(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(
        "model: mnist\nsampler: [ddim, dpm++]\nnfe: [3, 5]\nprior: [none, gaussian]\nt-start: [300, 400.5]\n"
        "spacing: [leading]\nclip: [false, true]\nsamples: 50\nseed: 3\nheld-out: unseen.npz\n"
    )
    flags = {
        "sampler": "ddim,dpm++", "nfe": "3, 5", "prior": "none,gaussian", "t_start": "300,400.5", "spacing": "leading",
        "clip": "false,true", "samples": 50, "seed": 3, "held_out": "unseen.npz",
    }  # fmt: skip
    assert Grid.read(read_grid(path)) == Grid.read(flags)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nfe: [3, x]", "nfe: expected whole numbers, received 'x'"),
        ("nfe: [3.5]", "nfe: expected whole numbers, received 3.5"),
        ("nfe: [true]", "nfe: expected whole numbers, received True"),
        ("nfe: [0]", "nfe=0: expected a whole number of at least 1"),
        ("nfe: []", "nfe: expected at least one value"),
        ("nfe: [[3]]", "nfe: expected a list of single values"),
        (
            "samples: 5",
            "samples=5: expected a whole number of at least 6",
        ),
        ("t-start: [-5]", "t-start: expected numbers above 0"),
        ("t_start: soon", "t-start: expected numbers, received 'soon'"),
        ("clip: maybe", "clip: expected true or false, received 'maybe'"),
        ("sampler: dddim", "there is no sampler 'dddim'; there are ddpm, ddim"),
        ("spacing: wide", "there is no spacing 'wide'"),
        ("prior: [null]", "prior: expected a name or a path, received None"),
        ("samplers: ddim", "there is no setting 'samplers'; there are "),
        ("- ddim", "expected names with values"),
        ("", "expected names with values"),
        ("nfe: [3", "is not a YAML file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path, text, message):
    path = tmp_path / "grid.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as error:
        read_grid(path)
    assert str(path) in str(error.value) and message in str(error.value)
