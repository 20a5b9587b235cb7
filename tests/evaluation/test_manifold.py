"""Precision, recall and coverage against their definitions, and on sets whose overlap is known."""

import pytest
import torch

from latestart.evaluation.manifold import OverlapWith


def blobs(n, seed, centres):
    g = torch.Generator().manual_seed(seed)
    centres = torch.tensor(centres, dtype=torch.float64)
    return centres[torch.arange(n) % len(centres)] + 0.1 * torch.randn(n, 2, generator=g, dtype=torch.float64)


FOUR = [[0.0, 0.0], [4.0, 0.0], [0.0, 4.0], [4.0, 4.0]]


def by_definition(real, samples):
    """The three shares by loops over points."""

    def radius(rows, i, k):
        return sorted(float((rows[i] - row).norm()) for row in rows)[k]

    def share(of, balls, k):
        radii = [radius(balls, j, k) for j in range(len(balls))]
        return sum(any((x - b).norm() <= r for b, r in zip(balls, radii)) for x in of) / len(of)

    own = [radius(real, i, 5) for i in range(len(real))]
    covered = sum(any((x - y).norm() <= r for y in samples) for x, r in zip(real, own)) / len(real)
    return share(samples, real, 3), share(real, samples, 3), covered


def test_the_definitions():
    real, samples = blobs(40, 0, FOUR), blobs(30, 1, FOUR[:3]) * 1.02
    found = OverlapWith(real)(samples)
    expected = by_definition(real, samples)
    assert (found.precision.value, found.recall.value, found.coverage.value) == pytest.approx(expected)
    assert 0.3 < expected[1] < 0.8


def test_what_is_dropped_is_missing_and_what_is_invented_is_wrong():
    overlap = OverlapWith(blobs(800, 0, FOUR))
    half = overlap(blobs(800, 1, FOUR[:2]))
    assert half.recall.value == pytest.approx(0.5, abs=0.05) and half.precision.value > 0.9
    assert half.coverage.value == pytest.approx(0.5, abs=0.05)
    astray = overlap(blobs(800, 1, [*FOUR, [9.0, 9.0]]))
    assert astray.precision.value == pytest.approx(0.8, abs=0.05) and astray.recall.value > 0.9


def test_the_interval_holds_what_other_samples_give():
    overlap = OverlapWith(blobs(400, 0, FOUR))
    found = [overlap(blobs(300, seed, FOUR)).recall for seed in range(1, 21)]
    centre = sum(f.value for f in found) / len(found)
    assert sum(f.low <= centre <= f.high for f in found) >= 15
    assert all(f.low < f.value < f.high for f in found)


def test_strays_with_wide_balls_raise_recall_but_not_coverage():
    real = blobs(400, 0, FOUR)
    few = torch.cat([blobs(396, 1, FOUR[:1]), torch.tensor([[2.0, 40.0], [40.0, 2.0], [40.0, 40.0], [-40.0, 2.0]])])
    found = OverlapWith(real)(few)
    assert found.recall.value > 0.95 and found.coverage.value < 0.3


def test_bad_input():
    with pytest.raises(ValueError, match=r"at least 6 features \(N, F\), received \(5, 2\)"):
        OverlapWith(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="expected at least 6 features \\(N, 2\\), received \\(10, 3\\)"):
        OverlapWith(torch.rand(10, 2))(torch.rand(10, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_are_refused(value):
    real = torch.rand(60, 8, generator=torch.Generator().manual_seed(0))
    spoilt = real.clone()
    spoilt[5, 2] = value
    with pytest.raises(ValueError, match="finite features, received 1 values"):
        OverlapWith(spoilt)
    with pytest.raises(ValueError, match="finite features, received 1 values"):
        OverlapWith(real)(spoilt)


def test_twins_lie_in_balls_of_no_width():
    """A ball whose neighbours are all the same picture holds that picture, and nothing else."""
    g = torch.Generator().manual_seed(0)
    real = 5 + torch.rand(60, 30, generator=g)
    real[:10] = 50.0
    found = OverlapWith(real)(torch.cat([real[:1].expand(30, -1), real[:1].expand(30, -1) + 1e-5]), resamples=2)
    assert found.precision.value == 0.5
