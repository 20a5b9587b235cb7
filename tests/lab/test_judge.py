"""The ratio of two distances, where replicates of the smaller one pass through nothing; and the choice by distance."""

from dataclasses import replace

import pytest
import torch

from latestart.evaluation.quality import Estimate
from latestart.lab.judge import LEAST, Figures, over, ratio_replicates
from latestart.lab.selection import choose


def _figures(value, spread):
    replicates = value + spread * torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = Estimate(0.5, 0.4, 0.6)
    return Figures(
        frechet=Estimate(value, value, value),
        precision=share,
        recall=share,
        coverage=share,
        copied=None,
        replicates=replicates,
        recall_replicates=torch.zeros(500),
    )


def test_paired_replicates_cancel():
    ratio = over(_figures(6.0, 0.6), _figures(2.0, 0.2))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((3, 3, 3))


def test_a_distance_near_nothing_leaves_the_ratio_finite():
    ratio = over(_figures(6.0, 0.6), _figures(0.1, 0.2))  # a third of its replicates lie below 0
    assert ratio.value == pytest.approx(60)
    assert ratio.low < 60 < ratio.high <= 10 / (LEAST * 0.1)


def test_replicates_of_a_distance_of_nothing_are_finite():
    one = _figures(6.0, 0.6).replicates
    ratios = ratio_replicates((6.0, one), (0.0, torch.zeros(500, dtype=torch.float64)))
    assert ratios.isfinite().all() and (ratios > 0).all()


def _copying(distance, low):
    return replace(_figures(distance, 0.0), copied=Estimate(max(low, 0.05), low, 1.0))


def test_what_copies_in_either_draw_copies():
    scan = {300: _copying(1, 0.01), 400: _copying(2, 0.021), 500: _copying(3, 0.02), 600: _copying(4, 0.0)}

    def found(**drawn):
        again = {int(name[1:]): figures for name, figures in drawn.items()}
        choice = choose(list(scan), scan.__getitem__, again.get)
        return choice.best, choice.clean, choice.honest

    assert found() == (300, None, 3)
    assert found(_300=_copying(9, 0.5)) == (300, 500, 2)  # seen to copy when it is drawn again; 400 copies at first
    assert found(_300=_copying(9, 0.5), _500=_copying(9, 0.5)) == (300, 600, 1)
    assert found(_300=_copying(9, 0.5), _500=_copying(9, 0.5), _600=_copying(9, 0.5)) == (300, None, 0)
    assert found(_300=_copying(9, 0.0), _500=_copying(9, 0.5)) == (300, None, 2)  # whatever else copies
