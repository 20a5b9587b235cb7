"""What a sweep finds spoilt, foreign or impossible: named, set aside or refused, and never taken for a figure."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from diffusers import DDPMScheduler

import latestart as ls
from latestart.data import Images, to_pixels
from latestart.denoisers.networks import as_model
from latestart.evaluation.quality import feature_statistics
from latestart.files import load_tensors, save_tensors
from latestart.fingerprints import fingerprint
from latestart.lab.cells import KIND, Outcome, plan, read_cell, write_cell
from latestart.lab.experiment import Lab
from latestart.lab.grid import Cell
from latestart.lab.judge import Judge, Reference, reference_of
from latestart.lab.subjects import Subject
from latestart.lab.sweep import COLUMNS, Sweep

SHAPE = (1, 4, 4)
SCHEDULER = DDPMScheduler(clip_sample=False)


class Pooled:
    """An extractor of four features: the means of the quarters."""

    def __init__(self, name="quarters"):
        self.name = name

    def __call__(self, images):
        return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


def pictures(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return (0.4 * torch.randn(n, *SHAPE, generator=generator)).clamp(-1, 1)


PRIOR = ls.Gaussian.fit(pictures(400, 0))
EXACT = as_model(PRIOR, SCHEDULER)
CELLS = [
    Cell(model="exact", sampler="ddim", nfe=nfe, prior=prior, t_start=start, samples=12, seed=0)
    for nfe in (1, 2) for prior, start in (("none", None), ("gaussian", 500.0))
]  # fmt: skip


@pytest.fixture(scope="module")
def judge():
    extract = Pooled()
    sets = tuple(Images(to_pixels(pictures(110, seed) / 2 + 0.5)) for seed in (0, 1, 2))
    data = sets[0].unit()
    return Judge(
        extract,
        Reference(
            statistics=feature_statistics(data, extract),
            real=extract(data),
            copying=sets,
            shape=SHAPE,
            fingerprint="data",
        ),
    )


def sweep_in(folder, judge, network=EXACT, cells=CELLS, **lab):
    priors = {"none": (None, ""), "gaussian": (PRIOR, "prior")}
    subjects = {"exact": Subject(network=network, scheduler=SCHEDULER, weights="weights", priors=priors, judge=judge)}
    return Sweep(plan(cells, subjects), subjects, Lab(folder, **lab), 4)


def finish(sweep, **options):
    sweep.measure(**options)
    rows = sweep.table()
    return rows, sweep.write(rows).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(judge, tmp_path_factory):
    return finish(sweep_in(tmp_path_factory.mktemp("undisturbed"), judge))


# cells' files


def _rewritten(change):
    def spoil(path):
        tensors, metadata = load_tensors(path, KIND)
        change(tensors, metadata)
        save_tensors(path, KIND, tensors, metadata)

    return spoil


SPOILT = {
    "empty": (lambda path: path.write_bytes(b""), "damaged"),
    "cut short in its header": (lambda path: path.write_bytes(path.read_bytes()[:20]), "damaged"),
    "cut short in its numbers": (lambda path: path.write_bytes(path.read_bytes()[:-8]), "damaged"),
    "a pickle": (lambda path: torch.save({"frechet": 0.0}, path), "a pickle or a torch.save archive"),
    "of another kind": (lambda path: PRIOR.save(path), "holds a gaussian"),
    "of the next version": (_rewritten(lambda _, m: m.update(version=2)), "version 2, expected version 1"),
    "of no version": (_rewritten(lambda _, m: m.pop("version")), "version None, expected version 1"),
    "of other settings": (_rewritten(lambda _, m: m["configuration"].update(seed=7)), "another cell"),
    "without its figures": (_rewritten(lambda _, m: m.pop("figures")), "does not hold a sound cell"),
    "without one figure": (_rewritten(lambda _, m: m["figures"].pop("recall")), "does not hold a sound cell"),
    "with an odd figure": (_rewritten(lambda _, m: m["figures"].update(recall=0.5)), "does not hold a sound cell"),
    "without its replicates": (_rewritten(lambda t, _: t.pop("replicates")), "does not hold a sound cell"),
    "of no status": (_rewritten(lambda _, m: m.pop("status")), "does not hold a sound cell"),
    "left": (_rewritten(lambda _, m: m.update(status="left")), "expected a status of done, failed, received 'left'"),
    "without an interval": (_rewritten(lambda _, m: m["figures"]["recall"].pop("low")), "does not hold a sound cell"),
    "with figures in words": (
        _rewritten(lambda _, m: m["figures"]["recall"].update(low="0")),
        "a number, received '0'",
    ),
    "with NaN": (_rewritten(lambda _, m: m["figures"]["frechet"].update(value=float("nan"))), "a number, received nan"),
    "with a list of figures": (_rewritten(lambda _, m: m.update(figures=[1, 2])), "does not hold a sound cell"),
    "without a distance": (_rewritten(lambda _, m: m["figures"].update(frechet=None)), "does not hold a sound cell"),
    "with its level in words": (_rewritten(lambda _, m: m.update(sigma="high")), "a number, received 'high'"),
    "with replicates of NaN": (_rewritten(lambda t, _: t["replicates"].fill_(float("nan"))), "expected finite numbers"),
    "with square replicates": (
        _rewritten(lambda t, _: t.update(replicates=torch.ones(2, 2))),
        "expected finite numbers",
    ),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_cell_is_named_and_measured_again(judge, undisturbed, tmp_path, how):
    spoil, words = SPOILT[how]
    sweep = sweep_in(tmp_path, judge)
    finish(sweep)
    path, planned = sweep.file(sweep.planned[1]), sweep.planned[1]
    spoil(path)
    with pytest.raises(ValueError, match=words):
        read_cell(path, planned)
    told = []
    assert finish(sweep_in(tmp_path, judge, tell=told.append)) == undisturbed
    assert len(told) == 1 and words in told[0] and str(path) in told[0] and "made again" in told[0]
    told.clear()
    assert finish(sweep_in(tmp_path, judge, tell=told.append)) == undisturbed and not told


def spoilt(whole):
    """A file cut at many lengths, and random bytes in its place."""
    generator = np.random.default_rng(0)
    lengths = sorted({0, 1, 7, 8, 9, len(whole) - 1, *generator.integers(len(whole), size=20).tolist()})
    return [*(whole[:length] for length in lengths), *(generator.bytes(size) for size in (1, 8, 100, len(whole)))]


def test_a_cell_cut_at_any_length_or_overwritten_is_none(judge, tmp_path):
    sweep = sweep_in(tmp_path, judge, cells=CELLS[:1])
    finish(sweep)
    path = sweep.file(sweep.planned[0])
    for content in spoilt(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=path.name):
            read_cell(path, sweep.planned[0])


@pytest.mark.parametrize("budget", [0, 12])
def test_a_spoilt_cell_beyond_the_budget_is_no_figure(judge, tmp_path, budget):
    sweep = sweep_in(tmp_path, judge)
    finish(sweep)
    sweep.file(sweep.planned[2]).write_bytes(b"")
    rows, _ = finish(sweep_in(tmp_path, judge), budget=budget)
    assert [row["status"] for row in rows] == ["done", "done", "left", "done"]
    assert rows[2]["frechet"] is None and rows[2]["gain"] is None


def test_a_file_half_written_by_a_killed_process_is_no_cell(judge, undisturbed, tmp_path):
    """A cell is written beside its place and put there whole: what is left beside it is never read."""
    sweep = sweep_in(tmp_path, judge)
    path = sweep.file(sweep.planned[0])
    path.parent.mkdir(parents=True)
    left = path.with_name(f".{path.name}.abc.safetensors")
    left.write_bytes(b"\x00" * 40)
    assert finish(sweep) == undisturbed
    assert left.is_file()


# the table


TABLES = {
    "of another version": ({"latestart": "sweep", "version": "7"}, "a table of version 7, expected .* version 1"),
    "of no version": ({"latestart": "sweep"}, "a table of version , expected"),
    "of something else": ({"latestart": "gaussianity", "version": "1"}, "of something else"),
    "of nobody's": ({}, "of something else"),
}


@pytest.mark.parametrize("whose", TABLES)
def test_a_foreign_table_is_refused_before_anything_is_measured(judge, tmp_path, whose):
    metadata, message = TABLES[whose]
    path = tmp_path / "results.parquet"
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata(metadata), path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message + r".*: move it away"):
        sweep_in(tmp_path, judge).measure()
    assert path.read_bytes() == before and not (tmp_path / "cells").exists()


@pytest.mark.parametrize("length", [0, 3, 100, -1])
def test_a_table_cut_short_is_written_again(judge, undisturbed, tmp_path, length):
    path = tmp_path / "results.parquet"
    path.write_bytes(undisturbed[1][:length])
    told = []
    assert finish(sweep_in(tmp_path, judge, tell=told.append)) == undisturbed
    assert len(told) == 1 and "cut short" in told[0] and str(path) in told[0]


def test_a_table_cut_at_any_length_or_overwritten_is_written_again(judge, undisturbed, tmp_path):
    told = []
    sweep = sweep_in(tmp_path, judge, tell=told.append)
    finish(sweep)
    path = tmp_path / "results.parquet"
    contents = spoilt(undisturbed[1])
    contents += [b"PAR1" + content + b"PAR1" for content in contents[-4:]]
    for count, content in enumerate(contents, 1):
        path.write_bytes(content)
        sweep.measure()
        assert len(told) == count and "written again" in told[-1]
    assert finish(sweep) == undisturbed


# the statistics of features


@pytest.fixture
def files(tmp_path):
    for name, count, seed in (("train", 130, 0), ("unseen", 240, 1)):
        np.savez(tmp_path / f"{name}.npz", images=to_pixels(pictures(count, seed) / 2 + 0.5).numpy())
    return tmp_path


def opened(files, extract):
    kept = files / "statistics.safetensors"
    return reference_of(str(files / "train.npz"), str(files / "unseen.npz"), extract, kept, Lab(files))


def _images(change):
    def changed(files):
        pixels = np.load(files / "train.npz")["images"]
        np.savez(files / "train.npz", images=change(pixels))

    return changed


def _one_value(pixels):
    pixels[5, 0, 2, 2] ^= 1
    return pixels


FOREIGN = {
    "extractor": (lambda files: None, Pooled("halves"), "features = quarters, expected halves"),
    "size": (_images(lambda pixels: np.kron(pixels, np.ones((2, 2), np.uint8))), Pooled(), "images = .* expected"),
    "number": (_images(lambda pixels: pixels[:100]), Pooled(), "images = .* expected"),
    "order": (_images(lambda pixels: pixels[::-1]), Pooled(), "images = .* expected"),
    "one value of one image": (_images(_one_value), Pooled(), "images = .* expected"),
}


@pytest.mark.parametrize("other", FOREIGN)
def test_statistics_of_another_data_set_or_extractor_are_refused(files, other):
    opened(files, Pooled())
    before = (files / "statistics.safetensors").read_bytes()
    change, extract, message = FOREIGN[other]
    change(files)
    if other == "size":
        (files / "unseen.npz").unlink()
        np.savez(files / "unseen.npz", images=np.zeros((240, 1, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=rf"statistics.safetensors holds feature statistics with {message}.*delete it"):
        opened(files, extract)
    assert (files / "statistics.safetensors").read_bytes() == before


@pytest.mark.parametrize(("name", "value"), [("count", 131), ("shape", [1, 8, 8])])
def test_statistics_whose_words_do_not_fit_the_data_are_refused(files, name, value):
    """Even where the fingerprint of the images fits."""
    opened(files, Pooled())
    kept = files / "statistics.safetensors"
    tensors, metadata = load_tensors(kept, "feature-statistics")
    save_tensors(kept, "feature-statistics", tensors, metadata | {name: value})
    with pytest.raises(ValueError, match=rf"with {name} = "):
        opened(files, Pooled())


SPOILT_STATISTICS = {
    "no mean": (lambda t: t.pop("mean"), "expected also"),
    "NaN": (lambda t: t["variances"].fill_(float("nan")), "not finite"),
    "a negative variance": (lambda t: t["variances"].neg_(), "does not hold a sound set of feature statistics"),
    "another width": (
        lambda t: t.update(mean=torch.zeros(5).double()),
        "does not hold a sound set of feature statistics",
    ),
    "no basis": (lambda t: t.pop("vectors"), "does not hold a sound set of feature statistics"),
    "features of another width": (
        lambda t: t.update(real=torch.zeros(9, 5)),
        r"features \(9, 5\) beside a mean \(4,\)",
    ),
}


@pytest.mark.parametrize("how", SPOILT_STATISTICS)
def test_statistics_that_make_no_sense_are_refused(files, how):
    opened(files, Pooled())
    kept, (spoil, message) = files / "statistics.safetensors", SPOILT_STATISTICS[how]
    tensors, metadata = load_tensors(kept, "feature-statistics")
    spoil(tensors)
    save_tensors(kept, "feature-statistics", tensors, metadata)
    with pytest.raises(ValueError, match=message):
        opened(files, Pooled())


def test_statistics_cut_at_any_length_or_overwritten_are_refused_by_name(files):
    opened(files, Pooled())
    kept = files / "statistics.safetensors"
    for content in spoilt(kept.read_bytes()):
        kept.write_bytes(content)
        with pytest.raises(ValueError, match=r"statistics\.safetensors"):
            opened(files, Pooled())


def test_a_data_set_too_small_to_judge_by_is_refused_before_anything_is_kept(files):
    _images(lambda pixels: pixels[:5])(files)
    with pytest.raises(ValueError, match=r"train\.npz: expected at least 6 images .* received 5"):
        opened(files, Pooled())
    assert not (files / "statistics.safetensors").exists()


def test_a_reference_of_other_images_has_another_fingerprint(files):
    """It is part of the key of every cell: figures against other data are never taken for these."""
    one = opened(files, Pooled()).fingerprint
    (files / "statistics.safetensors").unlink()
    _images(_one_value)(files)
    other = opened(files, Pooled()).fingerprint
    assert one != other
    tensor = torch.arange(6.0)
    prints = {
        fingerprint(tensor),
        fingerprint(tensor.view(2, 3)),
        fingerprint(tensor.double()),
        fingerprint(tensor + 1),
    }
    assert len(prints) == 4 and fingerprint(tensor.clone()) in prints


# cells that fail


class Failing:
    """The exact model, which fails when it is asked from full noise."""

    def __init__(self, error):
        self.error = error

    def __getattr__(self, name):
        return getattr(EXACT, name)

    def __call__(self, x, t, **kwargs):
        if torch.as_tensor(t).max() > 900 and len(x) <= 4:  # the check of the prior is of more samples
            raise self.error
        return EXACT(x, t, **kwargs)


FAILURES = {
    "memory": (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "OutOfMemoryError: CUDA out of memory."),
    "no words": (RuntimeError(), "RuntimeError: "),
    "a value": (ValueError("expected another shape\nmore"), "expected another shape"),
    "a key": (KeyError("conv_in"), "KeyError: 'conv_in'"),
    "an assertion": (AssertionError("odd"), "AssertionError: odd"),
    "memory of the processor": (MemoryError("no room"), "MemoryError: no room"),
}


@pytest.mark.parametrize("how", FAILURES)
def test_a_cell_that_fails_is_recorded_with_its_reason_and_the_others_are_measured(judge, undisturbed, tmp_path, how):
    error, reason = FAILURES[how]
    told = []
    sweep = sweep_in(tmp_path, judge, Failing(error), tell=told.append)
    rows, _ = finish(sweep)
    assert [row["status"] for row in rows] == ["failed", "done", "failed", "done"]
    assert all(row["reason"] == reason and row["frechet"] is None for row in rows[::2])
    assert len(told) == 2 and all("failed: exact, ddim" in line and line.endswith(reason) for line in told)
    assert [rows[k]["frechet"] for k in (1, 3)] == [undisturbed[0][k]["frechet"] for k in (1, 3)]
    assert all(rows[k]["gain"] is None for k in (1, 3))  # there is nothing to be better than
    for planned in sweep.planned[::2]:
        kept = read_cell(sweep.file(planned), planned)
        assert (kept.status, kept.reason, kept.figures) == ("failed", reason, None)
    table = pq.read_table(tmp_path / "results.parquet")
    assert table.column("reason").to_pylist()[::2] == [reason] * 2 and table.column_names == list(COLUMNS)


def test_what_has_failed_stays_so_until_it_is_told_otherwise(judge, undisturbed, tmp_path):
    failed, _ = finish(sweep_in(tmp_path, judge, Failing(RuntimeError("once"))))
    assert finish(sweep_in(tmp_path, judge))[0] == failed
    assert finish(sweep_in(tmp_path, judge), retry=True) == undisturbed


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_user_who_stops_a_sweep_is_no_failure(judge, undisturbed, tmp_path, stop):
    with pytest.raises(stop):
        sweep_in(tmp_path, judge, Failing(stop())).measure()
    assert not list(tmp_path.glob("cells/*"))
    assert finish(sweep_in(tmp_path, judge)) == undisturbed


class Overflowing(Pooled):
    """Features that are no numbers."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def __call__(self, images):
        return super().__call__(images) * self.value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_no_numbers_are_a_failure(judge, tmp_path, value):
    rows, _ = finish(sweep_in(tmp_path, Judge(Overflowing(value), judge.reference)))
    assert {row["status"] for row in rows} == {"failed"}
    assert all(row["reason"] == "expected finite features, received 48 values that are NaN or infinite" for row in rows)
    assert all(row["frechet"] is None for row in rows)


def test_an_outcome_is_kept_as_it_was(judge, tmp_path):
    planned = sweep_in(tmp_path, judge).planned[0]
    outcome = Outcome("failed", "OutOfMemoryError: no room, “none”\tat all", figures=None, sigma=None, seconds=1.25)
    write_cell(tmp_path / "cell.safetensors", planned, outcome)
    assert read_cell(tmp_path / "cell.safetensors", planned) == outcome
    with pytest.raises(ValueError, match="holds another cell than exact, ddim, NFE 1, full noise, trailing"):
        read_cell(tmp_path / "cell.safetensors", replace(planned, configuration={**planned.configuration, "seed": 1}))
