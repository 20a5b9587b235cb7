"""The ratio of two distances, where replicates of the smaller one pass through nothing."""

import pytest
import torch

from latestart.evaluation.quality import Estimate
from latestart.experiments.judge import LEAST, Figures, over


def _figures(value, spread):
    replicates = value + spread * torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = Estimate(0.5, 0.4, 0.6)
    return Figures(Estimate(value, value, value), share, share, share, None, replicates, torch.zeros(500))


def test_paired_replicates_cancel():
    ratio = over(_figures(6.0, 0.6), _figures(2.0, 0.2))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_a_distance_near_nothing_leaves_the_ratio_finite():
    ratio = over(_figures(6.0, 0.6), _figures(0.1, 0.2))  # a third of its replicates lie below 0
    assert ratio.value == pytest.approx(60)
    assert ratio.low < 60 < ratio.high <= 10 / (LEAST * 0.1)
