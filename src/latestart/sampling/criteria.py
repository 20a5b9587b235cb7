"""Criteria of the moment of decision, each as a level with an interval, or as the reason why it gives none.

    nats                         the network's divergence from the prior reaches 1
    speciation                   covariance of the images
    density, sde                 central branch of the images as a point cloud: crossing, or first peak of lambda / c
    sde, second branch           a stable point beside it, from the class means
    uturn                        an image noised to the level comes back in another class half as often as by chance

The cloud's reverse process draws from its posterior, so the U-turn needs no sampling: `1 - sum of w_j` over the other
images of the same class. A cloud of n images says nothing below its collapse: branches are followed down to there.
`theory` has the mathematics and sources of each.

Contract: a cloud is `(n, *shape)`, its classes `(n,)`; levels are sigma.
"""

import math
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.denoisers.exact import PointCloud
from latestart.noise import Noise
from latestart.sampling.linearity import variance
from latestart.theory import critical
from latestart.theory.branches import BranchPoint, Criterion, Follower, levels_of
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.levels import CriticalLevel, Curve
from latestart.theory.nats import NatsCurve
from latestart.theory.stability import critical_between, peak, second_branch

CRITERIA = ("nats", "speciation", "density", "sde", "sde, second branch", "uturn")
NEAR = 0.75  # lambda / c, below which the peak of a branch is no sign of a decision
GATE = 0.8 * NEAR  # below which none that shows on the levels of a search comes so near when it is solved for
PAST = 0.9  # of the largest lambda / c, below which its peak is behind
FINER = 3  # halvings of a step that leads from one branch to another
HALVES = 4
PROBES = 512  # images that make a U-turn
UTURN_LEVELS = 24


@dataclass(frozen=True)
class Decisions:
    """The critical levels of a data set.

    Attributes:
        levels: those found, in the order of `CRITERIA`, with their times.
        missing: for every criterion that gave no level, the reason.
        collapse: of the cloud, below which it says nothing; None where it has none.
    """

    levels: tuple[CriticalLevel, ...]
    missing: dict[str, str]
    collapse: CriticalLevel | None


def decisions(
    curve: NatsCurve,
    cloud: Tensor,
    classes: Tensor | None,
    noise: Noise,
    asked: Collection[str] = CRITERIA,
    seed: int = 0,
    told: Callable[[str], None] = lambda what: None,
) -> Decisions:
    """Look for the level of each criterion.

    Args:
        curve: divergence of the noised data from the prior.
        cloud: `(n, *shape)`, images as a point cloud, at least 20.
        classes: `(n,)`, their class indices, for the criteria that need them.
        noise: gives the levels their times; a level outside of it counts as missing.
        asked: the criteria to look for, of `CRITERIA`.
        seed: of all draws.
        told: called with each criterion when it is done.
    """
    missing: dict[str, str] = {}
    collapse = _found("collapse", partial(critical.collapse, cloud, seed=seed), missing)
    levels = []
    for name, find in _finders(curve, cloud, classes, _range(cloud, collapse), seed).items():
        if name not in asked:
            missing[name] = "not asked for"
        elif level := _found(name, lambda find=find: find().on(noise), missing):  # type: ignore[misc]
            levels.append(level)
        told(name)
    return Decisions(tuple(levels), missing, collapse)


def _found(name: str, find: Callable[[], CriticalLevel], missing: dict[str, str]) -> CriticalLevel | None:
    try:
        return find()
    except ValueError as error:  # also what did not converge
        missing[name] = str(error)
        return None


def _finders(
    curve: NatsCurve, cloud: Tensor, classes: Tensor | None, sigmas: tuple[float, float], seed: int
) -> dict[str, Callable[[], CriticalLevel]]:
    halved = partial(_halved, cloud=cloud, classes=classes, seed=seed)
    return {
        "nats": partial(curve.level, 1.0),
        "speciation": partial(critical.speciation, cloud, seed=seed),
        "density": partial(halved, partial(_on_branch, "density", sigmas)),
        "sde": partial(halved, partial(_on_branch, "sde", sigmas)),
        "sde, second branch": partial(halved, partial(_beside, sigmas)),
        "uturn": partial(_uturn, cloud, classes, seed),
    }


def _range(cloud: Tensor, collapse: CriticalLevel | None) -> tuple[float, float]:
    """From the collapse of the cloud up to twice the norm of its data, where it has one fixed point only."""
    high = 2 * math.sqrt(variance(cloud))
    low = 0.01 * high if collapse is None or collapse.interval is None else collapse.interval[1]
    return min(low, 0.5 * high), high


def _halved(
    find: Callable[[Tensor, Tensor | None], CriticalLevel], cloud: Tensor, classes: Tensor | None, seed: int
) -> CriticalLevel:
    """A level of the cloud; its interval is the range over random halves of it, whose spread is that of the whole."""
    level, generator = find(cloud, classes), seeded(seed)
    found = [level.sigma]
    for _ in range(HALVES):
        index = torch.randperm(len(cloud), generator=generator)[: len(cloud) // 2]
        try:
            found.append(find(cloud[index], None if classes is None else classes[index]).sigma)
        except ValueError:
            continue
    how = f"{level.how}; range over the {len(found) - 1} of {HALVES} random halves that have it"
    return replace(level, how=how, interval=(min(found), max(found)) if len(found) > 1 else None)


# --- fixed points -----------------------------------------------------------------------------------------------------


def _on_branch(criterion: Criterion, sigmas: tuple[float, float], cloud: Tensor, _: Tensor | None) -> CriticalLevel:
    """Where the central branch of a cloud loses its stability, or comes nearest to that before it turns away."""
    follower = Follower(PointCloud(cloud), criterion, symmetric=True)
    first, *levels = levels_of(follower.denoiser, None, sigmas)
    descent = _Descent(follower, f"on the central branch of {len(cloud)} images", follower.find(first, cloud.mean(0)))
    for sigma in levels:
        try:
            found = descent.to(sigma)
        except ConvergenceError:
            return descent.end(breaks_off=True)
        if found:
            return found
    return descent.end(breaks_off=False)


class _Descent:
    """The central branch, followed down to its first instability or its first peak that is near one.

    A peak shows on the levels of the search as lower than it is, so one that lies behind is solved for before it is
    judged. `hill` are the points since the last one, `best` is the highest of all.
    """

    def __init__(self, follower: Follower, of: str, first: BranchPoint) -> None:
        if not first.stable:
            raise ValueError(f"lambda / c is {first.ratio:.3f} at sigma = {first.sigma:.4g} already, the highest level")
        self.follower, self.of, self.hill, self.best = follower, of, [first], first

    def to(self, sigma: float, finer: int = FINER) -> CriticalLevel | None:
        """The decision between the last level and another, if there is one.

        Raises:
            ConvergenceError: the branch breaks off there.
        """
        above, here = self.hill[-1], self.follower.follow(sigma, self.hill[-1])
        if here.stable:
            return self._past(here)
        try:
            return self._crossing(above, here)
        except ConvergenceError:  # the step has led to another branch: the central one bends away from it
            if not finer:
                raise
        return self.to(math.sqrt(sigma * above.sigma), finer - 1) or self.to(sigma, finer - 1)

    def end(self, breaks_off: bool) -> CriticalLevel:
        """The decision where no level is left, or the branch does not lead on.

        Raises:
            ValueError: there is none.
        """
        last = self.hill[-1]
        if found := self._peak():
            return found
        if self.best.ratio < NEAR:
            at = f"at sigma = {self.best.sigma:.4g}"
            raise ValueError(f"lambda / c comes to {self.best.ratio:.3f} only {self.of}, {at}: far from 1")
        if not breaks_off:
            raise ValueError(
                f"lambda / c is {last.ratio:.3f} and still rises at sigma = {last.sigma:.4g} {self.of}, below which "
                "they tell single points only: more images are needed"
            )
        return self._largest(self.best)

    def _past(self, here: BranchPoint) -> CriticalLevel | None:
        """One point further; the peak that is behind it then."""
        self.hill.append(here)
        self.best = max(self.best, here, key=_ratio)
        if here.ratio >= PAST * max(map(_ratio, self.hill)):
            return None
        found = self._peak()
        self.hill = [here]
        return found

    def _peak(self) -> CriticalLevel | None:
        """The hill's top, solved for, if it lies inside and near 1."""
        top = max(self.hill, key=_ratio)
        if top in (self.hill[0], self.hill[-1]) or top.ratio < GATE:
            return None
        with suppress(ConvergenceError):  # where no search between its neighbours ends, it is the highest known
            top = peak(self.follower, self.hill, xtol=1e-2)
        self.best = max(self.best, top, key=_ratio)
        if not top.stable:
            return self._crossing(next(here for here in reversed(self.hill) if here.sigma > top.sigma), top)
        return self._largest(top) if top.ratio >= NEAR else None

    def _crossing(self, stable: BranchPoint, unstable: BranchPoint) -> CriticalLevel:
        level, _ = critical_between(self.follower, stable, unstable)
        return CriticalLevel(level, self.follower.criterion, f"lambda / c = 1 {self.of}")

    def _largest(self, here: BranchPoint) -> CriticalLevel:
        how = f"lambda / c is largest there, {here.ratio:.3f}, {self.of}"
        return CriticalLevel(here.sigma, f"{self.follower.criterion}, peak", how)


def _ratio(here: BranchPoint) -> float:
    return here.ratio


def _beside(sigmas: tuple[float, float], cloud: Tensor, classes: Tensor | None) -> CriticalLevel:
    """Where a second stable branch is first found, from the means of the classes."""
    if classes is None:
        raise ValueError("it is searched from the means of the classes: labels or a classifier are needed")
    means = torch.stack([cloud[classes == k].mean(0) for k in classes.unique()])
    level = second_branch(PointCloud(cloud), means, "sde", None, sigmas, cloud.mean(0), symmetric=True, xtol=1e-2)
    return replace(level, how=f"{level.how}, {len(cloud)} images")


# --- U-turns ----------------------------------------------------------------------------------------------------------


def _uturn(cloud: Tensor, classes: Tensor | None, seed: int) -> CriticalLevel:
    """Where a noised image comes back in another class half as often as by chance, by the others' posterior weights."""
    if classes is None:
        raise ValueError("it asks whether the class changes: labels or a classifier are needed")
    shares = classes.unique(return_counts=True)[1].double() / len(classes)
    if len(shares) < 2:
        raise ValueError("it asks whether the class changes: the images are all of one class")
    rows = cloud.flatten(1)
    high = 2 * math.sqrt(variance(cloud))
    sigma = torch.from_numpy(np.geomspace(high, 0.02 * high, UTURN_LEVELS))
    noise = torch.randn(rows[:PROBES].shape, generator=seeded(seed)).to(rows)
    changed = [_changed(rows, classes, noise, float(level)) for level in sigma]
    how = f"its class changes half as often as by chance, by the posterior over the others of {len(rows)} images"
    return Curve(sigma, torch.stack(changed, 1), "uturn", how).crossing((1 - shares.square().sum().item()) / 2)


def _changed(rows: Tensor, classes: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """The posterior probability of another class for each of the first rows, itself left out, `(P,)`."""
    n = len(noise)
    y = rows[:n] + sigma * noise
    logits = (y @ rows.T - 0.5 * rows.square().sum(1)) / sigma**2
    logits[range(n), range(n)] = -math.inf
    same = classes[:n, None] == classes[None, :]
    return 1 - (logits.double().softmax(1) * same).sum(1)
