"""The second feature space and the variance before clipping: beside the first figures, and never in their way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

import latestart as ls
from latestart.data import Images, to_pixels
from latestart.denoisers.networks import as_model
from latestart.evaluation.quality import Estimate, FrechetTo, feature_statistics
from latestart.evaluation.variance import total_variance
from latestart.features import Classifier
from latestart.files import load_tensors, save_tensors
from latestart.lab import judge as judging
from latestart.lab.cells import KIND, Outcome, plan, read_cell, write_cell
from latestart.lab.experiment import Lab
from latestart.lab.grid import Cell, Grid
from latestart.lab.judge import Judge, Reference, open_features, reference_of, second_over
from latestart.lab.report import also, quality
from latestart.lab.subjects import Subject, open_subject
from latestart.lab.sweep import COLUMNS, Sweep
from tiny import tiny_folder

SHAPE = (1, 4, 4)
SCHEDULER = DDPMScheduler(clip_sample=False)


def pictures(n, seed):
    generator = torch.Generator().manual_seed(seed)
    return (0.5 * torch.randn(n, *SHAPE, generator=generator) + torch.linspace(-0.5, 0.5, 16).view(SHAPE)).clamp(-1, 1)


def pooled(images):
    """Four features: the means of the quarters."""
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


class Quarters:
    """The first extractor."""

    name = "quarters"

    def __call__(self, images):
        return pooled(images)


EXACT = as_model(ls.Gaussian.fit(pictures(500, 0)), SCHEDULER)


def subject_of(judge):
    return Subject(EXACT, SCHEDULER, "weights", priors={"none": (None, "")}, judge=judge)


def rows_of(images):
    """Four other features: the brightness of each row, and no extractor of the first space."""
    return images.mean((1, 3))


class Rows:
    """The second extractor."""

    def __init__(self, name="rows"):
        self.name, self.asked = name, 0

    def __call__(self, images):
        self.asked += len(images)
        return rows_of(images)


SETS = tuple(Images(to_pixels(pictures(150, seed) / 2 + 0.5)) for seed in (0, 1, 2))


def reference(**beside):
    data = SETS[0].unit()
    first = {"statistics": feature_statistics(data, pooled), "real": pooled(data), "copying": SETS}
    return Reference(**first, shape=SHAPE, fingerprint="data", **beside)


@pytest.fixture(scope="module")
def both():
    """A judge with both figures more."""
    beside = {"second": feature_statistics(SETS[0].unit(), rows_of)}
    return Judge(Quarters(), reference(**beside, variance=float(total_variance(SETS[0].floats()))), Rows())


@pytest.fixture(scope="module")
def plain():
    return Judge(Quarters(), reference())


def test_the_second_distance_is_that_of_its_features(both):
    samples = pictures(60, 5)
    figures, features = both(samples), rows_of(samples / 2 + 0.5)
    assert figures.second.value == pytest.approx(FrechetTo(both.reference.second)(features), rel=1e-9)
    assert figures.second.low < figures.second.value < figures.second.high
    expected = FrechetTo(both.reference.second).replicates(features)
    torch.testing.assert_close(figures.second_replicates, expected)
    assert figures.second.value != figures.frechet.value
    assert both.floor(100).second.value == pytest.approx(
        FrechetTo(both.reference.second)(rows_of(torch.cat([SETS[1].unit(), SETS[2].unit()])[:100]))
    )


def test_the_first_figures_are_the_same_with_a_second_space_or_without(both, plain):
    samples = pictures(60, 5)
    one, other = both(samples), plain(samples)
    names = ("frechet", "precision", "recall", "coverage", "copied")
    assert one.estimates(*names) == other.estimates(*names)
    assert other.second is other.variance is other.second_replicates is None
    assert other.estimates()["second"] is None and plain.floor(50).second is None
    assert also(other) == [] and quality(other)[-2:] == ("-", "-")


def test_a_ratio_of_second_distances_is_paired(both, plain):
    """Over itself it is 1 without any spread; over others it is inverted by their order."""
    one, other = both(pictures(60, 5)), both(0.5 * pictures(60, 6))
    itself = second_over(one, one)
    assert (itself.value, itself.low, itself.high) == pytest.approx((1, 1, 1))
    there, back = second_over(other, one), second_over(one, other)
    assert there.value == pytest.approx(other.second.value / one.second.value)
    assert there.value > 1 and there.value * back.value == pytest.approx(1)
    assert second_over(one, plain(pictures(60, 5))) is None


def test_the_variance_is_of_the_samples_before_they_are_clipped(both):
    """Twice the deviations of the data's twin have four times its variance, whatever the images in [0, 1] lose."""
    twin = pictures(400, 7)
    figures = both(twin)
    assert figures.variance.low < 1 < figures.variance.high
    mean = twin.mean(0)
    wide = mean + 2 * (twin - mean)
    scaled = both(wide)
    assert float((wide.abs() > 1).float().mean()) > 0.1  # much of it is clipped
    assert scaled.variance.value == pytest.approx(4 * figures.variance.value, rel=1e-5)
    assert scaled.frechet == both(wide.clamp(-1, 1)).frechet
    assert both(wide.clamp(-1, 1)).variance.value < 3


@pytest.mark.parametrize("given", ["extractor", "statistics"])
def test_half_a_second_space_is_refused(given):
    known = reference(second=feature_statistics(SETS[0].unit(), rows_of)) if given == "statistics" else reference()
    with pytest.raises(ValueError, match="the second feature space lacks"):
        Judge(Quarters(), known, None if given == "statistics" else Rows())


@pytest.mark.parametrize("samples", [torch.zeros(20, *SHAPE, dtype=torch.uint8), torch.full((20, *SHAPE), torch.nan)])
def test_samples_that_are_no_finite_numbers_are_refused(both, samples):
    with pytest.raises(ValueError, match=r"expected samples in the model's value range|NaN"):
        both(samples)


# cells


CELL = Cell(model="m", sampler="ddim", nfe=3, spacing="trailing", samples=30, seed=0)


def test_a_cell_keeps_both_figures(both, tmp_path):
    (planned,) = plan([CELL], {"m": subject_of(both)})
    figures = both(pictures(30, 3))
    write_cell(tmp_path / "cell.safetensors", planned, Outcome("done", "", figures=figures))
    found = read_cell(tmp_path / "cell.safetensors", planned).figures
    assert found.estimates() == figures.estimates()
    assert torch.equal(found.second_replicates, figures.second_replicates)


def test_a_cell_from_before_there_were_such_figures_is_read_under_its_key(both, plain, tmp_path):
    """Neither is the key another, nor is the cell measured again."""
    (old,), (now,) = (plan([CELL], {"m": subject_of(judge)}) for judge in (plain, both))
    assert old.key == now.key and old.configuration == now.configuration
    path = tmp_path / "cells" / f"{old.key}.safetensors"
    write_cell(path, old, Outcome("done", "", figures=plain(pictures(30, 3))))
    tensors, metadata = load_tensors(path, KIND)
    figures = {name: one for name, one in metadata["figures"].items() if name not in ("second", "variance")}
    del metadata["second"]
    save_tensors(path, KIND, tensors, metadata | {"figures": figures})
    found = read_cell(path, now).figures
    assert found.second is found.variance is found.second_replicates is None
    assert found.frechet == plain(pictures(30, 3)).frechet
    sweep = Sweep([now], {"m": subject_of(both)}, Lab(tmp_path))
    sweep.measure()
    (row,) = sweep.table()
    assert row["second"] is None and row["second_features"] is None and row["frechet"] == found.frechet.value
    assert {"second", "second_low", "second_high", "variance", "variance_low", "variance_high"} <= COLUMNS.keys()


def test_a_distance_in_other_second_features_is_not_taken_for_this_one(both, tmp_path):
    (planned,) = plan([CELL], {"m": subject_of(both)})
    write_cell(tmp_path / "cell.safetensors", planned, Outcome("done", "", figures=both(pictures(30, 3))))
    for second in ("others", None):
        found = read_cell(tmp_path / "cell.safetensors", replace(planned, second=second)).figures
        assert found.second is found.second_replicates is None and found.variance is not None


def test_a_row_has_both_figures(both, tmp_path):
    sweep = Sweep(plan([CELL], {"m": subject_of(both)}), {"m": subject_of(both)}, Lab(tmp_path))
    sweep.measure()
    (row,) = sweep.table()
    assert row["second_features"] == "rows" and row["second_low"] < row["second"] < row["second_high"]
    assert row["variance_low"] < row["variance"] < row["variance_high"]
    sweep.write([row])


# the reference of a user's images


@pytest.fixture
def files(tmp_path):
    for name, count, seed in (("train", 301, 0), ("unseen", 250, 1)):
        np.savez(tmp_path / f"{name}.npz", images=to_pixels(pictures(count, seed) / 2 + 0.5).numpy())
    return tmp_path


def opened(files, second=None):
    kept = files / "statistics.safetensors"
    return reference_of(str(files / "train.npz"), str(files / "unseen.npz"), Quarters(), kept, Lab(files), second)


def test_second_statistics_are_kept_beside_the_first(files):
    one = opened(files, Rows())
    data = ls.load_images(files / "train.npz")
    assert one.second.frechet(feature_statistics(data, rows_of)) < 1e-12
    assert sorted(path.name for path in files.glob("*.safetensors")) == [
        "statistics-rows.safetensors",
        "statistics.safetensors",
    ]
    again = Rows()
    assert torch.equal(opened(files, again).second.variances, one.second.variances) and again.asked == 0
    assert opened(files, Rows("others")).second is not None  # in a file of its own
    without = opened(files)
    assert without.second is None and without.fingerprint == one.fingerprint


def test_the_variance_is_that_of_all_images_and_of_a_file_that_has_none(files):
    one = opened(files)
    expected = float(total_variance(ls.load_images(files / "train.npz").floats()))
    assert one.variance == pytest.approx(expected, rel=1e-9)
    kept = files / "statistics.safetensors"
    tensors, metadata = load_tensors(kept, judging.KIND)
    assert metadata.pop("variance") == one.variance
    save_tensors(kept, judging.KIND, tensors, metadata)
    before = kept.read_bytes()
    assert opened(files).variance == pytest.approx(expected, rel=1e-9)
    assert kept.read_bytes() == before


def test_few_samples_of_the_second_features_are_warned_of(both):
    assert judging.few_samples(5, both) is None
    assert "the samples' second feature covariance has rank 3 of 4" in judging.few_samples(4, both)


def test_names_of_no_features_are_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"neither known \(mnist, efficientnet-lite0, network\)"):
        open_features("nothing")


def test_figures_in_words():
    some = Estimate(1.234, 1.1, 1.4)
    figures = judging.Figures(
        frechet=some, precision=some, recall=some, coverage=some, copied=None, second=some, variance=some,
        replicates=torch.ones(3), recall_replicates=torch.ones(3), second_replicates=torch.ones(3),
    )  # fmt: skip
    assert also(figures) == ["second 1.23", "variance 1.23"]
    assert also(figures, intervals=True)[1] == "variance 1.23 [1.10, 1.40]"


# the setting


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of one's own, with images and two classifiers."""
    made = tiny_folder(tmp_path_factory.mktemp("tiny"))
    Classifier((1, 8, 8), 2, "mixer").save(made / "mixer.safetensors")
    return made


def grid_of(folder, **changes):
    files = {name: str(folder / f"{name}.npz") for name in ("train", "unseen")}
    known = {"images": files["train"], "held_out": files["unseen"], "features": str(folder / "classifier.safetensors")}
    return Grid(model=(str(folder / "model"),), prior=("none",), samples=150, **known, **changes)


def test_images_of_ones_own_have_the_second_space_that_is_named_or_none(folder, tmp_path):
    assert open_subject(grid_of(folder), Lab(tmp_path)).judge.second_features is None
    judge = open_subject(grid_of(folder, second=str(folder / "mixer.safetensors")), Lab(tmp_path)).judge
    assert judge.second_features.startswith("classifier-") and judge.second_features != judge.features
    figures = judge(torch.rand(150, 1, 8, 8) * 2 - 1)
    assert figures.second is not None and figures.variance.value == pytest.approx(1, abs=0.1)


def test_a_shipped_model_brings_its_second_space_and_takes_no_other(folder, tmp_path):
    assert open_subject(Grid(samples=200), Lab(tmp_path)).judge.second_features.startswith("mnist-second-")
    with pytest.raises(ValueError, match=r"of the second features mnist-second-.*, received classifier-"):
        open_subject(Grid(samples=200, second=str(folder / "mixer.safetensors")), Lab(tmp_path))


def test_cells_on_the_papers_grid_keep_the_name_of_the_second_space(both):
    """Those of all parts of the table are planned from the same subject."""
    from latestart.experiments.table1.entries import entries
    from latestart.experiments.table1.settings import Table1Settings

    subject = replace(subject_of(both), priors=dict.fromkeys(("none", "gaussian"), (None, "")))
    asked = Table1Settings(parts=("paper",), samplers=("ddim",), nfe=(3,), samples=20)
    assert {entry.planned.second for entry in entries(asked, subject)} == {"rows"}
