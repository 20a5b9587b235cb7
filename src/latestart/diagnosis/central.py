"""The decision on the central branch of a denoiser, read from one walk down in noise.

With `lambda / c` the leading eigenvalue of dD/dy over the constant of the criterion (`theory.branches`), the decision
is the first of these under falling noise:

    crossing   lambda / c = 1 on the branch
    fold       the branch ends, with lambda / c = 1
    peak       lambda / c is at least 0.75; below it, it falls to 0.9 of that, or the levels or the branch end

A lower peak is far from a decision. A peak shows on the levels of a walk as lower than it is, so it is solved for
before it is judged: the answer does not hang on the levels. A cloud of n images says nothing below its collapse, where
its eigenvalues are those of single images; the walk is read down to there.
"""

import math
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from latestart.theory.branches import BranchPoint, Follower
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.levels import CriticalLevel
from latestart.theory.stability import Trace, critical_between, critical_level, peak

__all__ = ["ACCURACY", "NEAR", "Found", "accurate", "decision"]

NEAR = 0.75  # lambda / c, below which the peak of a branch is no decision
GATE = 0.8 * NEAR  # below which no point of a walk stands for a peak that comes so near
PAST = 0.9  # share of a peak, below which it is behind
ACCURACY = 1e-3  # of a peak, in log sigma
FOLD = 1e-5  # of a fold, in log sigma: 1 - lambda / c falls as the root of the distance


class Found(NamedTuple):
    """A level, its kind ("crossing", "fold", "peak" or "level"), and for a peak of lambda / c its height."""

    level: CriticalLevel
    kind: str
    ratio: float | None = None


def decision(follower: Follower, traced: Trace, above: float = 0.0) -> Found:
    """Return the first crossing, fold or peak of a central branch.

    Args:
        follower, traced: what followed the branch, and its points.
        above: the level down to which the branch is read.

    Raises:
        ValueError: there is none; says the highest lambda / c.
        ConvergenceError: the branch was lost while lambda / c was still far from 1.
    """
    whole = traced.central
    curve = [here for k, here in enumerate(whole) if k == 0 or whole[k - 1].sigma >= above]  # one below, as a bracket
    if curve[0].sigma < above:
        raise ValueError(f"all levels, from sigma = {curve[0].sigma:.4g} down, lie below the collapse of the images")
    behind, ahead, best = _peaks(follower, curve, above)
    if behind:
        return _at(follower, behind, curve)
    lost = None
    if curve[-1] is whole[-1] and (not curve[-1].stable or (traced.lost and curve[-1].sigma >= above)):
        try:
            level = critical_level(follower, traced, FOLD)
        except ConvergenceError as error:
            lost = error
        else:
            if level.sigma >= above:
                return Found(level, "fold" if "fold" in level.how else "crossing")
    if ahead or (lost and best.ratio >= NEAR):
        return _at(follower, ahead or best, curve, lost)
    if lost:
        raise lost
    reason = f"no crossing: lambda / c is highest, {best.ratio:.4f}, at sigma = {best.sigma:.4g}"
    if best.ratio < NEAR:
        raise ValueError(f"{reason}, far from 1")
    single = ", below which the images tell single points only: more images are needed" if above else ""
    raise ValueError(f"{reason}, the end of the levels{single}")


def _peaks(
    follower: Follower, curve: list[BranchPoint], above: float
) -> tuple[BranchPoint | None, BranchPoint | None, BranchPoint]:
    """The first peak near 1 that is behind, the one since the last that is behind, and the highest stable point."""
    top = best = curve[0]
    inside = False
    for k, here in enumerate(curve):
        if not here.stable:
            break
        point, solved = here, 0 < k < len(curve) - 1 and here.ratio >= GATE and _highest(curve[k - 1 : k + 2])
        if solved:
            with suppress(ConvergenceError):  # where no search between its neighbours ends, it is the highest known
                point = peak(follower, curve[k - 1 : k + 2], ACCURACY)
        if point.ratio > top.ratio:
            top, inside = point, solved and point.ratio >= NEAR and point.sigma >= above
        if point.ratio > best.ratio and point.sigma >= above:
            best = point
        if here.ratio < PAST * top.ratio:
            if inside:
                return top, None, best
            top, inside = here, False
    return None, top if inside else None, best


def _highest(three: list[BranchPoint]) -> bool:
    return three[0].ratio <= three[1].ratio >= three[2].ratio


def _at(follower: Follower, top: BranchPoint, curve: list[BranchPoint], lost: ConvergenceError | None = None) -> Found:
    """The decision at a peak; a crossing above it where the peak itself is unstable."""
    if not top.stable:
        stable = next(here for here in reversed(curve) if here.sigma > top.sigma)
        sigma, _ = critical_between(follower, stable, top)
        return Found(CriticalLevel(sigma, follower.criterion, "lambda / c = 1 on the central branch"), "crossing")
    end = [here for here in curve if here.stable][-1]
    how = f" down to sigma = {end.sigma:.4g}, where the branch was lost" if lost else ""
    how = f"no crossing{how}: lambda / c peaks at {top.ratio:.3f}"
    if end.ratio > top.ratio:
        how += f", and is {end.ratio:.3f} at sigma = {end.sigma:.4g}, an end of the levels"
    return Found(CriticalLevel(top.sigma, follower.criterion, f"{how}, on the central branch"), "peak", top.ratio)


def accurate(level: CriticalLevel) -> CriticalLevel:
    """A level with the accuracy of its search as its interval, where it has none."""
    around = level.sigma * math.exp(-ACCURACY), level.sigma * math.exp(ACCURACY)
    return level if level.interval else replace(level, interval=around)
