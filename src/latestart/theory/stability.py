"""The level at which a denoiser's fixed points lose their stability, and those at which others appear beside them.

Near a fixed point `D(y, sigma) = c y` (`branches` says which c), and along any path, the difference of two neighbours
in x_t = alpha y grows under falling noise by the Jacobian `J = dD/dy = Cov[x_0 | y] / sigma^2`:

    d log|difference| / d(-log sigma) = 2 (lambda - c),    lambda the leading eigenvalue (largest real part) of J,

so the point is stable while the ratio `lambda / c` is below 1, and critical where it is 1.

Real data is not symmetric, and its bifurcation is imperfect: the central fixed point bends away and stays stable while
others are born beside it by folds. Then there is no crossing, and none is reported: `crossing` raises `NoCrossing` with
the peak of the ratio, `second_branch` finds the fold, and `exponents` looks along samples' own paths.

Contract: points are `(*shape)`, samples `(B, *shape)`, levels are sigma. Denoisers are called in their own dtype; all
that is solved, and all that is returned, is float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from latestart.denoisers.base import Denoiser, check_sample
from latestart.noise import Noise
from latestart.theory.branches import STEP, BranchPoint, Criterion, Follower, branch, constant, levels_of
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.levels import CriticalLevel
from latestart.theory.roots import root

__all__ = [
    "NoCrossing", "Trace", "beside", "critical_between", "critical_level", "crossing", "ends", "peak",
    "second_branch", "trace",
]  # fmt: skip

FAR_FROM_FOLD = 0.2  # a ratio lambda / c well below the 1 that it has at a fold
FLAT = 1e-6  # relative difference of two ratios that rounding may make
AGAIN = 3  # searches for a fold, each from the end of the one before
FINER = 3  # halvings of a step that leads from one branch to another


class NoCrossing(ValueError):
    """The central branch does not lose its stability.

    Attributes:
        ratio, sigma: the highest lambda / c, and its level.
        at_end: whether that is merely the end of the levels searched, and no peak.
    """

    def __init__(self, message: str, ratio: float, sigma: float, at_end: bool = False) -> None:
        super().__init__(message)
        self.ratio, self.sigma, self.at_end = ratio, sigma, at_end


# --- on the central branch --------------------------------------------------------------------------------------------


def peak(follower: Follower, curve: Sequence[BranchPoint], xtol: float = 1e-3) -> BranchPoint:
    """The highest ratio lambda / c near the highest of a branch's points, to `xtol` in log sigma."""
    top = max(range(len(curve)), key=lambda i: curve[i].ratio)
    above, below = curve[max(top - 1, 0)], curve[min(top + 1, len(curve) - 1)]
    known = list(curve)

    def height(log_sigma: float) -> float:
        known.append(follower.follow(math.exp(log_sigma), min(known, key=lambda p: abs(math.log(p.sigma) - log_sigma))))
        return -known[-1].ratio

    bounds = (math.log(below.sigma), math.log(above.sigma))
    minimize_scalar(height, bounds=bounds, method="bounded", options={"xatol": xtol})
    return max(known, key=lambda p: p.ratio)


def crossing(
    denoiser: Denoiser,
    criterion: Criterion = "sde",
    noise: Noise | None = None,
    sigma_range: tuple[float, float] | None = None,
    start: Tensor | None = None,
    *,
    step: float = STEP,
    **options: Any,
) -> CriticalLevel:
    """The highest level at which the central fixed point loses its stability: the root of `lambda / c = 1`.

    The branch is followed down on a grid of log sigma; the first crossing is bracketed and solved by Brent's method.
    Without a symmetry the branch may also end there, in a fold with an unstable one; `how` says so.

    Args:
        noise: gives the level its time t, in the scheduler's units.
        sigma_range: lowest and highest level searched; see `levels_of` for the default.
        start: `(*shape)`, where the search begins at the highest level; the origin by default.
        step: of the grid, in log sigma.
        options: `symmetric`, `method` and others of `Follower`.

    Raises:
        ValueError: the central point is unstable at the highest level already.
        NoCrossing: it stays stable throughout, as it does for data without symmetry; says the peak of the ratio, or
            that it is highest at an end of the range.
        ConvergenceError: at a level no fixed point was found.
    """
    levels = levels_of(denoiser, noise, sigma_range, step)
    follower = Follower(denoiser, criterion, **options)
    return critical_level(follower, trace(follower, levels, start, past=False)).on(noise)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trace:
    """Fixed points at falling levels, from the central one on.

    Attributes:
        levels: all those looked at.
        points: those found.
        segment: for each point, how often the branch that is followed had been lost before: 0 is the central branch.
        lost: why, for each level at which a branch broke off or nothing was found.
        crossed: the level at which the central branch loses its stability and the Jacobian products that the search
            took; None where no crossing was found.
    """

    levels: list[float]
    points: list[BranchPoint]
    segment: list[int]
    lost: dict[float, ConvergenceError]
    crossed: tuple[float, int] | None = None

    @property
    def central(self) -> list[BranchPoint]:
        """The central branch, down to its first unstable point."""
        branch = [here for here, segment in zip(self.points, self.segment) if segment == 0]
        stable = next((i for i, here in enumerate(branch) if not here.stable), len(branch))
        return branch[: stable + 1]


def trace(follower: Follower, levels: Sequence[float], start: Tensor | None = None, *, past: bool = True) -> Trace:
    """Follow the central fixed point down, and where it is lost the point that the search leads to from there.

    Args:
        levels: falling, in sigma.
        start: `(*shape)`, where the search begins at the highest level; the origin by default.
        past: whether to go on past an instability and past the end of a branch.

    Raises:
        ConvergenceError: no fixed point was found at the highest level.
    """
    here, segment = follower.find(levels[0], start), 0
    points, segments, lost, crossed = [here], [0], dict[float, ConvergenceError](), None
    for sigma in levels[1:]:
        if not past and (lost or not here.stable):
            break
        try:
            if here.stable and segment == 0 and crossed is None:
                found, crossed = _central_step(follower, sigma, here)
            else:
                found = [follower.follow(sigma, here)]
        except ConvergenceError as error:
            lost[sigma] = error
            if not past:
                break
            try:
                found, segment = [follower.find(sigma, here.point)], segment + 1
            except ConvergenceError:
                continue
        here = found[-1]
        points += found
        segments += [segment] * len(found)
    return Trace(levels=list(levels), points=points, segment=segments, lost=lost, crossed=crossed)


def _central_step(
    follower: Follower, sigma: float, here: BranchPoint, finer: int = FINER
) -> tuple[list[BranchPoint], tuple[float, int] | None]:
    """The next points of the central branch, down to `sigma`, and the crossing on the way to an unstable one.

    Where no crossing lies between a stable and an unstable point, the step has led to another branch; it is halved.
    """
    there = follower.follow(sigma, here)
    if there.stable:
        return [there], None
    try:
        return [there], critical_between(follower, here, there)
    except ConvergenceError:
        if not finer:
            return [there], None
    first, crossed = _central_step(follower, math.sqrt(sigma * here.sigma), here, finer - 1)
    if crossed or not first[-1].stable:
        return first, crossed
    rest, crossed = _central_step(follower, sigma, first[-1], finer - 1)
    return first + rest, crossed


def critical_level(follower: Follower, traced: Trace, xtol: float = 1e-6) -> CriticalLevel:
    """The level at which the central branch of a trace loses its stability, or ends in a fold.

    Args:
        follower, traced: what followed the branch, and where it came.
        xtol: accuracy of a fold, in log sigma.

    Raises:
        ValueError: the central point is unstable at the highest level already.
        NoCrossing: it stays stable throughout; says the peak of the ratio.
        ConvergenceError: the branch was lost, and not in a fold.
    """
    curve, levels, criterion = traced.central, traced.levels, follower.criterion
    if curve[-1].stable and traced.lost:
        beyond = max(traced.lost)
        return _fold(follower, curve[-1], beyond, traced.lost[beyond], xtol)
    if curve[-1].stable:
        top = _require_crossing(peak(follower, curve), curve, criterion)
        curve = [*(here for here in curve if here.sigma > top.sigma), top]
    if len(curve) == 1:
        raise ValueError(
            f"the central point is unstable at the highest level, sigma = {levels[0]:.6g} (lambda / c = "
            f"{curve[0].ratio:.4g}): give a sigma_range that begins above the critical level"
        )
    try:
        sigma, products = traced.crossed or critical_between(follower, curve[-2], curve[-1])
    except ConvergenceError as error:
        return _fold(follower, curve[-2], curve[-1].sigma, error, xtol)
    products += sum(here.spectrum.products for here in curve)
    how = f"lambda / c = 1 on the central branch, {curve[-1].spectrum.how}, {products} in all"
    return CriticalLevel(sigma, criterion, how)


def _fold(
    follower: Follower, last: BranchPoint, beyond: float, error: ConvergenceError, xtol: float, again: int = AGAIN
) -> CriticalLevel:
    """The end of a branch between its last point and a level that it does not reach; raises `error` without a fold."""
    if last.ratio < FAR_FROM_FOLD:  # a search is dear where nothing converges
        raise error
    first, end = last, beyond
    while math.log(last.sigma / beyond) > xtol:
        middle = math.sqrt(last.sigma * beyond)
        try:
            here = follower.follow(middle, last, halvings=0)
        except ConvergenceError:
            beyond = middle
        else:
            # an unstable point there is on the other branch, which ends in the same fold
            last, beyond = (here, beyond) if here.stable else (last, middle)
    # at a fold 1 - lambda / c goes to 0 as the square root of the distance
    if not abs(last.ratio - 1) < 0.02:
        if again and last is not first:  # a step that was too long from the first point may not be from the last
            return _fold(follower, last, end, error, xtol, again - 1)
        raise error
    how = f"the central branch ends in a fold, where lambda / c = 1, {last.spectrum.how}"
    return CriticalLevel(last.sigma, follower.criterion, how, (beyond, last.sigma))


def _require_crossing(best: BranchPoint, curve: Sequence[BranchPoint], criterion: str) -> BranchPoint:
    """The highest point of a branch, if it is unstable; an end that is as high but for rounding is the highest."""
    if not best.stable:
        return best
    end = max(curve[0], curve[-1], key=lambda here: here.ratio)
    at_end = end.ratio >= (1 - FLAT) * best.ratio
    what = (
        f"lambda / c is highest at the end of these levels, {end.ratio:.6g} at sigma = {end.sigma:.6g}, and has no "
        "peak: either it crosses 1 beyond that, or never, as for a single Gaussian"
        if at_end
        else f"lambda / c peaks at {best.ratio:.4f}, at sigma = {best.sigma:.6g}; data without an exact symmetry has "
        "an imperfect bifurcation (see second_branch)"
    )
    raise NoCrossing(
        f"the central branch stays stable under the {criterion} criterion from sigma = {curve[0].sigma:.4g} to "
        f"{curve[-1].sigma:.4g}: {what}",
        *((end.ratio, end.sigma) if at_end else (best.ratio, best.sigma)),
        at_end,
    )


def critical_between(follower: Follower, stable: BranchPoint, unstable: BranchPoint) -> tuple[float, int]:
    """The level between two points of a branch at which it loses its stability, and the products spent."""
    products, here = 0, stable

    def excess(log_sigma: float) -> float:
        nonlocal products, here
        near = min((stable, unstable), key=lambda p: abs(math.log(p.sigma) - log_sigma))
        here = follower.follow(math.exp(log_sigma), near)
        products += here.spectrum.products
        return here.ratio - 1

    ends = math.log(unstable.sigma), math.log(stable.sigma)
    found = root(excess, *ends, "lambda / c - 1 along a branch, by log sigma,", xtol=1e-10, rtol=1e-12)
    if abs(excess(found)) > 1e-2:
        raise ConvergenceError(
            f"the branch jumps at sigma = {math.exp(found):.6g}, where lambda / c is {here.ratio:.4g} and not 1",
            abs(here.ratio - 1),
            math.exp(found),
        )
    return math.exp(found), products


# --- beside it --------------------------------------------------------------------------------------------------------


def second_branch(
    denoiser: Denoiser,
    starts: Tensor,
    criterion: Criterion = "sde",
    noise: Noise | None = None,
    sigma_range: tuple[float, float] | None = None,
    start: Tensor | None = None,
    *,
    step: float = STEP,
    separation: float = 1e-2,
    xtol: float = 1e-4,
    along: Sequence[BranchPoint] | None = None,
    **options: Any,
) -> CriticalLevel:
    """The highest level with a stable fixed point apart from the central branch.

    Going down in noise, the contraction is tried from every start; a stable end away from the central point is
    followed back up, by halving, until it merges with that point (a pitchfork) or vanishes (a fold).

    Args:
        starts: `(n, *shape)`, such as the means of classes or clusters. What no start leads to is not found: the level
            is a lower bound.
        noise, sigma_range, start, step, options: as for `crossing`.
        separation: the least distance from the central point, in units of the noise, `sigma sqrt(D)`.
        xtol: of log sigma; the level's `interval` is the last bracket.
        along: points of the central branch by falling noise, where it has been followed already.

    Raises:
        ValueError: no starts, starts of another shape or that are not finite, or no second branch in the whole range.
        ConvergenceError: the central branch was lost.
    """
    check_sample(starts, denoiser.shape)
    if not len(starts) or not starts.isfinite().all():
        bad = int((~starts.isfinite().flatten(1).all(1)).sum())
        raise ValueError(
            f"expected at least one start, all of finite values, received {len(starts)}, {bad} of them with values "
            "that are NaN or infinite"
        )
    follower = Follower(denoiser, criterion, **options)
    levels = [here.sigma for here in along] if along else levels_of(denoiser, noise, sigma_range, step)
    centre: list[BranchPoint] = []
    for here in along or branch(follower, levels, start):
        centre.append(here)
        for end in ends(follower, here, starts, separation):
            if found := beside(follower, here, end, separation):
                low, high = _birth(follower, found, centre, separation, xtol)
                how = f"a stable point beside the central branch, from {len(starts)} starts, followed up in noise"
                return CriticalLevel(low, f"{criterion}, second branch", how, (low, high)).on(noise)
    raise ValueError(
        f"no second stable branch under the {criterion} criterion was found from {len(starts)} starts "
        f"between sigma = {levels[0]:.4g} and {levels[-1]:.4g}"
    )


def ends(follower: Follower, centre: BranchPoint, starts: Tensor, separation: float, steps: int = 100) -> list[Tensor]:
    """Contract all starts `(n, *shape)` at once; the ends that differ from `centre` and from each other.

    They are rough, for `beside` to solve. What is still on its way to `centre` is left out.
    """
    y, c = starts.double(), constant(follower.criterion, centre.sigma)
    least = separation * centre.sigma * math.sqrt(centre.point.numel())
    for _ in range(steps):
        with torch.no_grad():
            y, before = follower.denoiser(y.to(follower.denoiser.dtype), centre.sigma).double() / c, y
        moves = (y - before).flatten(1).norm(dim=1)
        if moves.max() < 1e-3 * least:
            break
    away = (y - centre.point).flatten(1).norm(dim=1)
    apart = [centre.point]
    for end in y[moves < 1e-3 * away]:
        if all((end - other).norm() > least for other in apart):
            apart.append(end)
    return apart[1:]


def beside(follower: Follower, centre: BranchPoint, start: Tensor, separation: float) -> BranchPoint | None:
    """A stable point that `start` leads to at the level of `centre`, if it is another one."""
    try:
        found = follower.attractor(centre.sigma, start)
    except ConvergenceError:
        return None
    away = (found.point - centre.point).norm().item()
    return found if found.stable and away > separation * centre.sigma * math.sqrt(found.point.numel()) else None


def _birth(
    follower: Follower, found: BranchPoint, centre: list[BranchPoint], separation: float, xtol: float
) -> tuple[float, float]:
    """The last level at which a branch was found, going up, and the first at which it was not, `xtol` apart in log.

    Args:
        found: a point of it, at the level of the last of `centre`.
        centre: the branch beside which it begins, by falling noise.
        separation: the least distance of the two, in units of `sigma sqrt(D)`.
    """
    while len(centre) > 1 and (higher := beside(follower, centre[-2], found.point, separation)):
        centre, found = centre[:-1], higher
    if len(centre) == 1:
        raise ValueError(
            f"a second stable branch exists at the highest level, sigma = {found.sigma:.6g}, already: "
            "give a sigma_range that begins above it"
        )
    high, low = centre[-2:]
    while math.log(high.sigma / low.sigma) > xtol:
        middle = follower.follow(math.sqrt(low.sigma * high.sigma), low)
        if higher := beside(follower, middle, found.point, separation):
            low, found = middle, higher
        else:
            high = middle
    return low.sigma, high.sigma
