"""`check` and `analyze` ask the same criteria of the same cloud: they give the same levels, or the same reasons."""

from dataclasses import replace

import pytest
import torch

from latestart import Gaussian, PointCloud, as_model, check
from latestart.diagnosis.analyze import analyze
from latestart.diagnosis.case import NETWORK, Settings, prepare
from latestart.diagnosis.decisions import CHECKED
from two_clusters import IMAGES, LABELS, MATCHED, MODEL, SCHEDULER, gaussian, rng

SHARED = [name for name in CHECKED if name != "nats"]
HALVES = 2
SETTINGS = replace(Settings(), halves=HALVES, second_halves=HALVES)  # on a finer grid than the check
WORDS = ("speciation", "density", "sde", "second-branch", "uturn")


def spread(n, seed=1, dim=7):
    """A cloud without symmetry, wide along one axis."""
    scale = torch.tensor([3.0] + [1.0] * (dim - 1))
    return torch.randn(n, dim, generator=rng(seed), dtype=torch.float64) * scale + 0.5


CLOUDS = {
    "clusters with classes": (IMAGES[:100], LABELS[:100]),
    "peaks far from 1, and below the collapse": (spread(40), None),
    "all levels near the data lie below the collapse": (gaussian([1.0] * 300).sample(40, rng(2)), None),
    "a symmetric one that crosses": (torch.cat([spread(20, 3), -spread(20, 3)]), None),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_check_and_analyze_agree(name, monkeypatch):
    monkeypatch.setattr("latestart.diagnosis.check.HALVES", HALVES)
    images, labels = CLOUDS[name]
    model, prior = as_model(PointCloud(images), SCHEDULER), Gaussian.fit(images + 1e-3, dtype=torch.float64)
    report = check(model, SCHEDULER, prior, images, labels=labels, criteria=SHARED, evaluated=40, check_prior=False)
    analysis = analyze(prepare(model, SCHEDULER, images, labels, settings=SETTINGS), WORDS)
    levels = {level.criterion.removesuffix(", peak"): level for level in report.levels}
    for shared in SHARED:
        criterion, of = CHECKED[shared]
        (theirs,) = [f for f in analysis.findings if (f.criterion, f.of) == (criterion, of)]
        if theirs.level is None:
            assert report.missing[shared].split(":")[0] == theirs.how.split(":")[0]
        else:
            mine = levels[shared]
            assert mine.sigma == pytest.approx(theirs.level.sigma, rel=2e-3)
            # the highest level at which a half has a second branch is found on a grid, which is not the same in both
            near = 0.05 if "second" in shared else 2e-3
            assert (mine.interval is None) == (theirs.level.interval is None)
            assert (mine.interval or ()) == pytest.approx(theirs.level.interval or (), rel=near)
            assert mine.criterion.endswith("peak") == (theirs.kind == "peak" and mine.how == theirs.how)
            assert shared in ("speciation", "uturn") or mine.sigma > report.collapse.interval[1]


def test_the_nats_of_a_network_are_the_same_too():
    """From the same images and prior, by another grid of levels and other noise."""
    report = check(MODEL, SCHEDULER, MATCHED, IMAGES, labels=LABELS, criteria=("nats",), evaluated=600)
    settings = replace(SETTINGS, held_out=600)
    analysis = analyze(prepare(MODEL, SCHEDULER, IMAGES, prior=MATCHED, settings=settings), ["nats"])
    (theirs,) = [f.level for f in analysis.findings if (f.criterion, f.of) == ("1 nats", NETWORK)]
    (mine,) = report.levels
    assert mine.sigma == pytest.approx(theirs.sigma, rel=0.05)
