"""The window of a curve, and the cost of other starts than the best one.

    window    the run of starts around the best one with `d(t) <= 1.05 d(best)`, its ends linear in t between two starts
    in t      `d(best + e) / d(best)` for starts that are e too early or too late
    in nats   `d(t_b) / d(best)`, where t_b is the start at which the divergence of the data from the prior is b

Intervals are those of bootstrap replicates. The resamples of the samples are the same at every start, so that they move
together as the curve does; those of the divergence are over its images. A resampled curve is rougher than the curve,
and its window rather narrower.
"""

from dataclasses import dataclass

import numpy as np
import torch

from latestart.checks import seeded
from latestart.evaluation.quality import Estimate, interval
from latestart.lab.judge import ratio
from latestart.theory.nats import NatsCurve

__all__ = ["WITHIN", "Off", "Window", "at_start", "find_window", "nats_replicates", "start_at", "window_ends"]

WITHIN = 0.05  # of the best


@dataclass(frozen=True, kw_only=True)
class Window:
    """The starts within 5% of the best of a curve.

    Attributes:
        best: the best start, in t.
        low, high: the ends, in t, each with its interval over resamples.
        width: their difference, likewise.
        nats_low, nats_high: divergence of the data from the prior at the high end and at the low end, likewise.
        nats_width: their difference, likewise.
        closed: whether the curve rises above the bound on the low and on the high side, within the grid.
    """

    best: float
    low: Estimate
    high: Estimate
    width: Estimate
    nats_low: Estimate
    nats_high: Estimate
    nats_width: Estimate
    closed: tuple[bool, bool]


@dataclass(frozen=True)
class Off:
    """The cost of a start that is not the best.

    Attributes:
        by: how far it is off: t from the best start, or the nats at which it lies.
        t: the start.
        relative: the distance over that of the best start, with the interval of paired replicates.
    """

    by: float
    t: float
    relative: Estimate


def find_window(
    t: np.ndarray, d: np.ndarray, replicates: np.ndarray, nats: np.ndarray, nats_replicates: np.ndarray
) -> Window:
    """Return the starts within 5% of the best.

    Args:
        t: rising starts, `(S,)`.
        d: the distance at each.
        replicates: of the distances, resampled alike, `(R, S)`.
        nats: the divergence at each start.
        nats_replicates: of the divergence, `(R, S)`.
    """
    ends = np.array(window_ends(t, d))
    spread = np.array([window_ends(t, row) for row in replicates])
    nats_ends = np.interp(ends, t, nats)
    nats_spread = np.array([np.interp(pair, t, row) for pair, row in zip(spread, nats_replicates)])
    low, high, width = _estimates(spread, ends)
    nats_low, nats_high, nats_width = _estimates(nats_spread[:, ::-1], nats_ends[::-1])
    return Window(
        best=float(t[d.argmin()]), low=low, high=high, width=width, nats_low=nats_low, nats_high=nats_high,
        nats_width=nats_width, closed=(bool(ends[0] > t[0]), bool(ends[1] < t[-1])),
    )  # fmt: skip


def _estimates(replicates: np.ndarray, ends: np.ndarray) -> list[Estimate]:
    """Return the low end, the high end and their difference, with the intervals of replicates `(R, 2)`."""
    known = zip(np.hstack([replicates, np.diff(replicates)]).T, (*ends, *np.diff(ends)))
    return [interval(torch.from_numpy(row), float(value)) for row, value in known]


def window_ends(t: np.ndarray, d: np.ndarray, within: float = WITHIN) -> tuple[float, float]:
    """Return where `d` first rises above `(1 + within) min(d)` on either side of its minimum, linear between points."""
    best, bound = int(d.argmin()), (1 + within) * d.min()
    return _end(t[best::-1], d[best::-1], bound), _end(t[best:], d[best:], bound)


def _end(t: np.ndarray, d: np.ndarray, bound: float) -> float:
    above = np.flatnonzero(d > bound)
    if not len(above):
        return float(t[-1])
    i = above[0]
    return float(t[i - 1] + (bound - d[i - 1]) / (d[i] - d[i - 1]) * (t[i] - t[i - 1]))


def at_start(t: np.ndarray, d: np.ndarray, replicates: np.ndarray, start: float) -> Estimate:
    """Return the distance at a start, linear between two of the grid, over that of the best, by paired replicates."""
    best = d.argmin()
    here = torch.from_numpy(np.array([np.interp(start, t, row) for row in replicates]))
    return ratio((float(np.interp(start, t, d)), here), (float(d[best]), torch.from_numpy(replicates[:, best])))


def start_at(t: np.ndarray, nats: np.ndarray, budget: float) -> float | None:
    """Return the highest of rising starts at which the divergence is a budget; None where it is not on the grid."""
    falling = np.maximum.accumulate(nats[::-1])  # with falling t: a dip is an error of the estimate, and is levelled
    if not falling[0] <= budget <= falling[-1]:
        return None
    return float(np.interp(budget, falling, t[::-1]))


def nats_replicates(divergence: NatsCurve, sigma: np.ndarray, count: int) -> np.ndarray:
    """Return the divergence at the levels sigma `(S,)` for `count` resamples of its images, `(count, S)`."""
    integrals = divergence.integrals
    index = torch.randint(len(integrals), (count, len(integrals)), generator=seeded(0))
    return np.stack([divergence.at(sigma, integrals[row].mean(0)) for row in index])
