"""The criteria of the moment of decision: one function and one row of `CRITERIA` each.

| criterion        | its quantity                                                        | its level               |
|------------------|---------------------------------------------------------------------|-------------------------|
| `density`, `sde` | `lambda / c` on the central branch of `D(y) = c y`                  | crossing, fold or peak  |
| `second-branch`  | a stable fixed point beside the central one, for both c             | the highest with one    |
| `exponents`      | `2 (lambda - c)` along sample paths, for both c                     | mean crosses 0, or peak |
| `speciation`     | top eigenvalue L of the images' covariance                          | `alpha_bar = 1 / L`     |
| `collapse`       | excess entropy of the images; condensation of their weights         | root; 1/2               |
| `clone`          | clones of one path that end in one class                            | 0.775 for two classes   |
| `uturn`          | images noised and denoised again that change their class            | half of that by chance  |
| `susceptibility` | response of the sample to a push of the state                       | peak                    |
| `correlation`    | correlation of the whole state with the sample                      | 1/2                     |
| `pixels`         | correlation of a varying pixel with its final value, mean over them | 1/2                     |
| `nats`           | divergence of the noised data from a Gaussian prior                 | 0.5, 1 and 2 nats       |

`theory` has the mathematics and sources of each. A level that is not there is not forced: its `Finding` has no level
and says why. To add a criterion, write a function `find(case, of)` that returns a level, a curve that has one, or a
`Found`, and raises `ValueError` with the reason where there is none; then add its row. `analyze` and `check` ask for
criteria through `look`, and have no others.

Intervals. Point cloud, for a property of its fixed points: the range over random halves of the images, and no level
below the collapse. Means over samples or images: the central 95% of a bootstrap over them. Fixed points of the network,
which is given: the accuracy of the search, with the number of starts that lead to the branch.

The cloud's reverse process draws from its posterior, so its U-turn needs no sampling: an image noised to the level
comes back in another class with the probability `1 - sum of w_j` over the other images of its class.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.diagnosis.case import CLOUD, DATA, NETWORK, Case, Swarm
from latestart.diagnosis.central import ACCURACY, Found, accurate, decision
from latestart.diagnosis.linearity import variance
from latestart.records import Record
from latestart.theory import critical
from latestart.theory.branches import BranchPoint, Follower, fixed_point
from latestart.theory.branches import Criterion as Constant
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.levels import FEWEST, CriticalLevel, Curve
from latestart.theory.stability import second_branch

__all__ = ["CRITERIA", "Criterion", "Finding", "look"]

PROBES = 512  # images of the cloud that make a U-turn
UTURN_LEVELS = 24


@dataclass(frozen=True, repr=False, kw_only=True)
class Finding(Record):
    """A level, or the reason why there is none.

    Attributes:
        criterion: its name in the table.
        of: "network", "point cloud" or "data".
        kind: "crossing", "fold", "peak" or "level"; "none" where there is no level.
        level: with its time t; None where there is none.
        interval: `(low, high)` in t; None where there is none.
        how: how it was found, or why it was not.
        ratio: the height of a peak of lambda / c.
    """

    criterion: str
    of: str
    kind: str
    level: CriticalLevel | None
    interval: tuple[float, ...] | None
    how: str
    ratio: float | None = None

    @property
    def t(self) -> float | None:
        """The time of the level; None where there is none."""
        return None if self.level is None else self.level.t

    def record(self) -> dict[str, Any]:
        """The finding for JSON; `low` and `high` are in t."""
        low, high = self.interval or (None, None)
        values = {name: getattr(self.level, name, None) for name in ("sigma", "alpha_bar", "snr", "t")}
        ends = {"low": low, "high": high, "kind": self.kind, "ratio": self.ratio, "how": self.how}
        return {"criterion": self.criterion, "of": self.of} | values | ends


# --- the central branch and others beside it --------------------------------------------------------------------------


def _central(c: Constant, case: Case, of: str) -> Found:
    follower, traced = case.traced(c, of)
    if of == CLOUD:
        found = decision(follower, traced, case.collapse)
        return case.over_halves(found, case.settings.halves, lambda k: decision(*case.traced(c, k), case.collapse))
    found = decision(follower, traced)
    same, tried = _agreeing(case.starts, follower, traced.points[0])
    how = f"{found.level.how}; {same} of {tried} starts lead to this branch"
    return found._replace(level=replace(accurate(found.level), how=how))


def _agreeing(starts: Tensor, follower: Follower, top: BranchPoint) -> tuple[int, int]:
    """The number of starts that lead to the fixed point at the highest level, and the number of starts."""
    tried, same = [torch.zeros_like(top.point), *starts.double()], 0
    near = 0.01 * top.sigma * math.sqrt(top.point.numel())
    for start in tried:
        try:
            found = fixed_point(follower.denoiser, top.sigma, follower.criterion, start)
        except ConvergenceError:
            continue
        same += (found.point - top.point).norm().item() < near
    return same, len(tried)


def _second(c: Constant, case: Case, of: str) -> Found:
    above = case.collapse if of == CLOUD else 0.0

    def search(whose: str | int) -> Found:
        follower, traced = case.traced(c, whose)
        along = [here for here in traced.central if here.sigma >= above]
        if not along:
            raise ValueError("all levels lie below the collapse of the images")
        symmetric = follower.symmetric
        level = second_branch(follower.denoiser, case.starts, c, symmetric=symmetric, xtol=ACCURACY, along=along)
        return Found(level, "level")

    found = search(of)
    return case.over_halves(found, case.settings.second_halves, search) if of == CLOUD else found


def _exponents(c: Constant, case: Case, of: str) -> Found:
    """Along paths of each subject's own reverse SDE, from far above the data to the lowest level of the branches."""
    if of not in case.exponents:
        subject, settings = case.subject(of), case.settings
        sigmas = np.geomspace(case.path_sigmas[0], case.levels[-1], settings.exponent_levels).tolist()
        count = max(FEWEST, settings.probes)
        _, states = critical.paths(subject.denoiser, n=count, sigmas=sigmas, seed=settings.seed)
        paths = states[:-1, : settings.probes]
        # the cloud's Jacobian is symmetric, a network's is not: nothing to measure anew at every sample
        symmetric = bool(subject.symmetric)
        case.exponents[of] = critical.path_exponents(subject.denoiser, paths, sigmas, "density", symmetric=symmetric)
    curve = case.exponents[of].under(c).curve()
    try:
        level, kind = curve.level(), "crossing"
    except ValueError:
        level, kind = curve.peak(), "peak"
    at = int((curve.sigma.log() - math.log(level.sigma)).abs().argmin())
    value, spread = curve.samples[:, at].mean().item(), curve.samples[:, at].std().item()
    told = "no crossing of 0, peak" if kind == "peak" else "crosses 0"
    how = f"{level.how}; {told}; at the nearest level {value:.2f}, spread over samples {spread:.2f}"
    return Found(replace(level, how=how), kind)


# --- along sample paths -----------------------------------------------------------------------------------------------


def _along(curve: Callable[..., Any], case: Case, of: str, *given: Any) -> Any:
    """Return a function's curve along sample paths of a subject, at the levels of the case."""
    return curve(case.subject(of).denoiser, *given, sigmas=case.path_sigmas, n=case.paths, **case.steps)


def _uturn(case: Case, of: str) -> Curve:
    if of == CLOUD:
        return _uturn_of_cloud(case)
    subject = case.subject(of)
    images = subject.images[: case.paths]
    return critical.uturn_curve(subject.denoiser, images, case.classify, sigmas=case.path_sigmas, **case.steps)


def _uturn_of_cloud(case: Case) -> Curve:
    """The probability that a noised image comes back in another class, by the others' posterior weights."""
    if case.classes is None:
        raise ValueError("it asks whether the class changes: labels or a classifier are needed")
    shares = case.classes.unique(return_counts=True)[1].double() / len(case.classes)
    if len(shares) < 2:
        raise ValueError("it asks whether the class changes: the images are all of one class")
    rows = case.images.flatten(1)
    high = 2 * math.sqrt(variance(case.images))
    sigma = torch.from_numpy(np.geomspace(high, 0.02 * high, UTURN_LEVELS))
    noise = torch.randn(rows[:PROBES].shape, generator=seeded(case.settings.seed)).to(rows)
    changed = torch.stack([_changed(rows, case.classes, noise, float(level)) for level in sigma], 1)
    how = f"its class changes half as often as by chance, by the posterior over the others of {len(rows)} images"
    return Curve(sigma, changed, "uturn", how, threshold=(1 - shares.square().sum().item()) / 2)


def _changed(rows: Tensor, classes: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """The posterior probability of another class for each of the first rows, itself left out, `(P,)`."""
    n = len(noise)
    y = rows[:n] + sigma * noise
    logits = (y @ rows.T - 0.5 * rows.square().sum(1)) / sigma**2
    logits[range(n), range(n)] = -math.inf
    same = classes[:n, None] == classes[None, :]
    return (1 - (logits.double().softmax(1) * same).sum(1)).cpu()


def _pixels(case: Case, of: str) -> Curve:
    """The pixels' correlation with their final values; the trajectories of the one that varies most are kept."""
    sigma, states = _along(critical.paths, case, of)
    curve = critical.pixel_correlation(sigma, states)
    most = int(states[-1].std(0).argmax())
    pixel = tuple(int(i) for i in np.unravel_index(most, states.shape[2:]))
    shown = critical.normalised(states).flatten(2)[:, :, most].numpy()
    case.swarms[of] = Swarm(torch.as_tensor(sigma), shown, pixel)
    return curve


def _of_images(level: Callable[..., CriticalLevel], **options: Any) -> Callable[[Case, str], CriticalLevel]:
    """Return the criterion of a function of the images alone."""
    return lambda case, of: level(case.images, seed=case.settings.seed, **options)


# --- the registry -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Criterion:
    """A row: the name of the finding, the word that asks for it, its subjects, and the function that finds it."""

    name: str
    word: str
    of: tuple[str, ...]
    find: Callable[[Case, str], Found | CriticalLevel | Curve]


BOTH = (CLOUD, NETWORK)
CRITERIA = {
    row.name: row
    for row in (
        Criterion("density", "density", BOTH, partial(_central, "density")),
        Criterion("sde", "sde", BOTH, partial(_central, "sde")),
        Criterion("density, second branch", "second-branch", BOTH, partial(_second, "density")),
        Criterion("sde, second branch", "second-branch", BOTH, partial(_second, "sde")),
        Criterion("density, along paths", "exponents", BOTH, partial(_exponents, "density")),
        Criterion("sde, along paths", "exponents", BOTH, partial(_exponents, "sde")),
        Criterion("speciation", "speciation", (DATA,), _of_images(critical.speciation)),
        Criterion("collapse", "collapse", (DATA,), _of_images(critical.collapse, by="entropy")),
        Criterion("collapse, condensation", "collapse", (DATA,), _of_images(critical.collapse, by="condensation")),
        Criterion("clone", "clone", BOTH, lambda case, of: _along(critical.clone_curve, case, of, case.classify)),
        Criterion("uturn", "uturn", BOTH, _uturn),
        Criterion("susceptibility", "susceptibility", BOTH, partial(_along, critical.susceptibility_curve)),
        Criterion("correlation", "correlation", BOTH, partial(_along, critical.correlation_curve)),
        Criterion("pixels", "pixels", BOTH, _pixels),
        Criterion("0.5 nats", "nats", BOTH, lambda case, of: case.divergence(of).level(0.5)),
        Criterion("1 nats", "nats", BOTH, lambda case, of: case.divergence(of).level(1.0)),
        Criterion("2 nats", "nats", BOTH, lambda case, of: case.divergence(of).level(2.0)),
    )
}


def look(case: Case, name: str, of: str) -> Finding:
    """Find the level of a criterion, or the reason why a subject has none; a curve that it is read from is kept."""
    try:
        found = CRITERIA[name].find(case, of)
        if isinstance(found, Curve):
            case.curves[name, of] = found
            found = Found(found.level(), "peak" if found.threshold is None else "level")
        elif isinstance(found, CriticalLevel):
            found = Found(found, "level")
        level = found.level.on(case.noise)
    except ValueError as error:  # also a search that did not converge
        return Finding(criterion=name, of=of, kind="none", level=None, interval=None, how=str(error))
    ends = tuple(case.times(level.interval)) if level.interval else None
    return Finding(criterion=name, of=of, kind=found.kind, level=level, interval=ends, how=level.how, ratio=found.ratio)
