"""The three ways in which a late start can fail, and a fourth fact, asked before one relies on it.

A late start draws its sample from a prior noised to the start. At each level, on held-out images `y = x_0 + sigma eps`,
with `D_p` the network's denoiser and `D_q` the prior's own, over images

    A = E|D_p - D_q|^2,    B = E|D_p - E D_p|^2,    g = E|x_0 - D_q|^2 - E|x_0 - D_p|^2.

**Linear.** `R^2 = 1 - A / B`, the share of what the network does that the prior's denoiser does too (for a Gaussian a
linear map). For an exact denoiser `A = g`; a network errs, and `A - g` is its own error, which a late start skips
together with the network. So the verdict is read from `R^2 of the data = 1 - max(g, 0) / B`, and the network's own R^2
is told beside it. Both are read from above, where they first fall below 0.95: at low noise every denoiser returns y,
and R^2 rises again. Where A and B are below 1% of the data's variance there is nothing yet to compare.

**Gaussian.** `KL(p_sigma || q_sigma)` in nats (`theory.nats`), from the same evaluations; for a network a lower bound.

**Critical.** Criteria of the moment of decision, each with an interval, and how far they disagree:

    nats                         the network's divergence from the prior reaches 1
    speciation                   covariance of the images
    density, sde                 central branch of the images as a point cloud: crossing, or first peak of lambda / c
    sde, second branch           a stable point beside it, from the class means
    uturn                        an image noised to the level comes back in another class half as often as by chance

The cloud's reverse process draws from its posterior, so the U-turn needs no sampling: `1 - sum of w_j` over the other
images of the same class. A cloud of n images says nothing below its collapse: branches are followed down to there.
Where the prior fits all the way down, no decision is left to it that it does not take, and the criteria do no harm.

**Worse than linear.** Levels where `g < 0` by more than 3 standard errors: there the network is better skipped.

Bars: R^2 of 0.95 and 0.5; 0.5 and 2 nats (at a budget of 1 nat starts come within 5% of the best); criteria apart by
1.5 and 3 in sigma. "good" lies on the right side of the first, "bad" on the wrong side of the second.
"""

import math
import warnings
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import PointCloud
from latestart.denoisers.networks import from_diffusers, sample_shape
from latestart.noise import Noise
from latestart.sampling.matching import check_prior
from latestart.theory import critical
from latestart.theory.branches import BranchPoint, Criterion, Follower, levels_of
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.levels import RESAMPLES, CriticalLevel, Curve, evaluate
from latestart.theory.nats import MARGIN, NatsCurve, nats
from latestart.theory.stability import critical_between, peak, second_branch

Verdict = Literal["good", "doubtful", "bad"]
Progress = Callable[[int, int, str], None]
Classifier = Callable[[Tensor], Tensor]

LINEAR = (0.95, 0.5)  # R^2
NATS = (0.5, 2.0)
APART = (1.5, 3.0)  # largest over smallest critical level, in sigma
SHARE = 0.01  # of the data's variance, below which there is nothing to compare
NEAR = 0.75  # lambda / c, below which the peak of a branch is no sign of a decision
PAST = 0.9  # of the largest lambda / c, below which its peak is behind
FEWEST = 40  # images: halves of them still give a branch
LEVELS = 24
CLOUD = 2000  # images of the point cloud
PROBES = 512  # images that make a U-turn
HALVES = 4
BATCH = 256
CRITERIA = ("nats", "speciation", "density", "sde", "sde, second branch", "uturn")
_RANKS: tuple[Verdict, ...] = ("good", "doubtful", "bad")
_NEGATED = (-LINEAR[0], -LINEAR[1])


@dataclass(frozen=True)
class Finding:
    """The answer to one question.

    Attributes:
        name: "linear", "gaussian", "critical" or "network".
        verdict: "good", "doubtful" or "bad".
        sentence: the answer in words, with its figure.
        numbers: what it was read from; times in the scheduler's t, None where there is none.
    """

    name: str
    verdict: Verdict
    sentence: str
    numbers: dict[str, Any]


@dataclass(frozen=True)
class Linearity:
    """R^2 of the network against the prior's denoiser, highest level first; tensors `(L,)`, float64.

    Attributes:
        sigma, t: the levels, and their times on the scheduler.
        r2, r2_error: `1 - A / B` of the network, and its standard error by bootstrap over images.
        data, data_error: `1 - max(g, 0) / B`, the same for the part of the deviation that lowers the error.
        informative: bool; whether A or B is at least 1% of the data's variance.
        gain, gain_error: g, by how much the network's squared error is below that of the prior's denoiser.
        limit: the level down to which `data` stays at 0.95 or more; None where it never falls, or fails from the top.
        network_limit: the same for `r2`.
        fails_from_top: whether `data` is below 0.95 at the first informative level already.
    """

    sigma: Tensor
    t: Tensor
    r2: Tensor
    r2_error: Tensor
    data: Tensor
    data_error: Tensor
    informative: Tensor
    gain: Tensor
    gain_error: Tensor
    limit: CriticalLevel | None
    network_limit: CriticalLevel | None
    fails_from_top: bool


@dataclass(frozen=True)
class Report:
    """All findings, the recommendation, and the curves that they were read from.

    Attributes:
        findings: "linear", "gaussian", "critical", "network", in this order.
        verdict, sentence: the worst of the four, and what to do.
        safe: lowest and highest start, in the scheduler's t, between which nothing is amiss; None if there is none.
        t_start: the start that one had in mind, if any.
        linearity, nats: the curves, on the same levels.
        levels: the critical levels found; of a cloud, its collapse is in `collapse`.
        missing: for every criterion that gave no level, the reason.
        images, evaluated, seed: how many images there were, how many the network was evaluated on, and the seed.
    """

    findings: tuple[Finding, ...]
    verdict: Verdict
    sentence: str
    safe: tuple[float, float] | None
    t_start: float | None
    linearity: Linearity
    nats: NatsCurve
    levels: tuple[CriticalLevel, ...]
    missing: dict[str, str]
    collapse: CriticalLevel | None
    images: int
    evaluated: int
    seed: int

    def record(self) -> dict[str, Any]:
        """The report for JSON; what is not finite becomes None."""
        linearity = {name: _plain(value) for name, value in vars(self.linearity).items()}
        curves = {name: _plain(getattr(self.nats, name)) for name in ("sigma", "nats", "error", "worse")}
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "safe": _plain(self.safe),
            "t_start": self.t_start,
            "findings": [{name: _plain(value) for name, value in asdict(f).items()} for f in self.findings],
            "levels": [level.record() for level in self.levels],
            "missing": self.missing,
            "collapse": _plain(self.collapse),
            "linearity": linearity,
            "nats": {**curves, "lower_bound": True},
            "images": self.images,
            "evaluated": self.evaluated,
            "seed": self.seed,
        }


def check(
    model: Any,
    scheduler: Any,
    prior: Any,
    images: Tensor,
    t_start: float | None = None,
    labels: Tensor | None = None,
    classify: Classifier | None = None,
    *,
    evaluated: int = 256,
    criteria: Collection[str] = CRITERIA,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Ask whether a late start of a model from a prior can be relied on.

    It costs 24 network evaluations of each of `evaluated` images; the rest runs on the images as a point cloud.

    Args:
        model: a diffusers network, or an exact model through `as_model`.
        scheduler: the beta-based one that it was trained with.
        prior: a `Gaussian`, or any prior that is a denoiser, fitted to other images than these.
        images: `(n, *shape)`, in the model's value range, held out from the training of both; at least 40.
        t_start: the start that one has in mind, in the scheduler's t: the verdicts are read there. Without it they say
            down to which t all is well.
        labels: `(n,)`, the class of each image: for the criteria that ask for classes, and for a class-conditional
            network, which is given them (its nats are then those of the classes, averaged).
        classify: from images in the model's range to class indices `(n,)`, where there are no labels.
        evaluated: images that the network is evaluated on, drawn at random.
        criteria: those of the critical level to look for, of `CRITERIA`; by default all.
        seed: of all draws.
        progress: called as `progress(done, total, what)`.

    Raises:
        ValueError: too few images; a start outside of the schedule; images, prior or labels that do not fit the model;
            a prior that was fitted to these very images; a class-conditional network without labels;
            an unknown criterion.
    """
    if unknown := sorted(set(criteria) - set(CRITERIA)):
        raise ValueError(f"expected criteria of {', '.join(map(repr, CRITERIA))}, received {unknown}")
    noise = Noise.from_scheduler(scheduler)
    _check_images(model, prior, images, labels)
    start = None if t_start is None else noise.sigma(float(t_start))
    conditions = _conditions(model, labels)
    check_prior(model, scheduler, prior, conditions)
    told = _Told(progress, LEVELS + len(CRITERIA))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    some = order[: max(evaluated, FEWEST)]
    network = _Network(model, scheduler, None if conditions is None else conditions[some], prior, images[some], told)
    curve = network.nats(_grid(network, images, start), seed)
    linearity = network.linearity(curve, noise, _variance(images), seed)
    cloud = images[order[:CLOUD]]
    classes = _classes(cloud, None if labels is None else labels[order[:CLOUD]], classify)
    found = _Criteria(curve, cloud, classes, noise, seed)
    found.search(criteria, told)
    at = None if start is None else _At(float(t_start or 0.0), start, int((curve.sigma - start).abs().argmin()))
    findings = (
        _linear(linearity, noise, at),
        _gaussian(curve, noise, at),
        _critical(found, curve, noise, at),
        _network(linearity, curve, at),
    )
    safe = _safe(linearity, curve, found.levels, noise)
    verdict: Verdict = max((f.verdict for f in findings), key=_RANKS.index)
    return Report(
        findings, verdict, _advice(verdict, safe, linearity, curve, noise, at), safe, t_start, linearity, curve,
        tuple(found.levels), found.missing, found.collapse, len(images), len(some), seed,
    )  # fmt: skip


def halves(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of two random halves of n images: one to fit a prior to, the other to judge it on.

    Raises:
        ValueError: so few images that the second half could not be judged on.
    """
    if n < 2 * FEWEST:
        raise ValueError(
            f"expected at least {2 * FEWEST} images, half for the prior and half to judge it, received {n}"
        )
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return order[: n // 2], order[n // 2 :]


# --- what the network tells -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _At:
    """The start that one has in mind: its time, its level, and its place on the grid."""

    t: float
    sigma: float
    index: int


class _Told:
    """Progress, one step at a time."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def __call__(self, what: str) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total, what)


class _Network:
    """The network as a denoiser of all images at once, which keeps what each level tells beside the nats.

    `nats` asks it once at each level, highest first, so that no evaluation is made twice.
    """

    def __init__(
        self, model: Any, scheduler: Any, labels: Tensor | None, prior: Any, images: Tensor, told: _Told
    ) -> None:
        parts = [None] * len(images.split(BATCH)) if labels is None else labels.split(BATCH)
        self.parts: list[Denoiser] = [from_diffusers(model, scheduler, part) for part in parts]
        first = self.parts[0]
        self.shape, self.dtype, self.device, self.sigma_range = (
            first.shape,
            first.dtype,
            first.device,
            first.sigma_range,
        )
        self.prior = prior.to(self.device) if hasattr(prior, "to") else prior
        self.images, self.told = images.to(self.device, self.dtype), told
        self.kept: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, y: Tensor, sigma: Any) -> Tensor:
        d_p = torch.cat([evaluate(part, batch, sigma) for part, batch in zip(self.parts, y.split(BATCH))])
        d_q = evaluate(self.prior, y, sigma, "prior")
        centred = d_p - d_p.double().mean(0).to(d_p)
        spread = _energies(centred) * len(y) / (len(y) - 1)
        gain = _energies(self.images - d_q) - _energies(self.images - d_p)
        self.kept.append(torch.stack([_energies(d_p - d_q), spread, gain]).cpu())
        self.told(f"network at sigma = {float(sigma):.3g}")
        return d_p

    def nats(self, sigmas: Tensor, seed: int) -> NatsCurve:
        """The nats curve; what it warns of is told by the findings."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return nats(self, self.prior, self.images, sigmas, batch_size=len(self.images), seed=seed)

    def linearity(self, curve: NatsCurve, noise: Noise, variance: float, seed: int) -> Linearity:
        """What the same evaluations say of R^2."""
        deviation, spread, gain = torch.stack(self.kept, -1)  # each (n, L)
        n = len(gain)
        r2, data = _r2(deviation, spread), _r2(gain, spread, clip=True)
        generator = torch.Generator().manual_seed(seed)
        drawn = [torch.randint(n, (n,), generator=generator) for _ in range(RESAMPLES)]
        r2_error, data_error = (
            torch.stack([_r2(part[index], spread[index], clip) for index in drawn]).std(0)
            for part, clip in ((deviation, False), (gain, True))
        )
        informative = torch.maximum(deviation.mean(0), spread.mean(0)) >= SHARE * variance
        limit, fails = _limit(curve.sigma, gain, spread, informative, noise, "data")
        network_limit, _ = _limit(curve.sigma, deviation, spread, informative, noise, "network")
        return Linearity(
            curve.sigma, _times(curve.sigma, noise), r2, r2_error, data, data_error, informative,
            gain.mean(0), gain.std(0) / math.sqrt(n), limit, network_limit, fails,
        )  # fmt: skip


def _energies(x: Tensor) -> Tensor:
    return x.flatten(1).double().square().sum(1)


def _r2(deviation: Tensor, spread: Tensor, clip: bool = False) -> Tensor:
    excess = deviation.mean(0)
    return 1 - (excess.clamp(min=0) if clip else excess) / spread.mean(0).clamp(min=torch.finfo(torch.float64).tiny)


def _limit(
    sigma: Tensor, deviation: Tensor, spread: Tensor, informative: Tensor, noise: Noise, whose: str
) -> tuple[CriticalLevel | None, bool]:
    """The level down to which R^2 is at least 0.95, and whether it is below from the first informative level on.

    `R^2 = 0.95` where the mean over images of `deviation - 0.05 spread` is 0. The interval runs from the first level at
    which it may be below, within 2 standard errors, to the first at which it must be.
    """
    excess = (deviation - (1 - LINEAR[0]) * spread)[:, informative] / spread[:, informative].mean(0)
    sigma, mean, error = sigma[informative], excess.mean(0), excess.std(0) / math.sqrt(len(excess))
    must, first, may = (_rises(sigma, mean + k * error) for k in (-2, 0, 2))
    if must is None or first is None or may is None or must == sigma[0]:
        return None, must is not None
    how = f"R^2 of the {whose} against the prior's denoiser falls below {LINEAR[0]:g}; {len(excess)} images"
    return CriticalLevel(first, f"linear, {whose}", how, (must, may)).on(noise), False


def _rises(sigma: Tensor, values: Tensor) -> float | None:
    """The first level at which values rise above 0, linear in log sigma between two; None where they never do."""
    above = (values > 0).nonzero().flatten().tolist()
    if not above or above[0] == 0:
        return sigma[0].item() if above else None
    before, k = above[0] - 1, above[0]
    share = -values[before] / (values[k] - values[before])
    return torch.lerp(sigma[before].log(), sigma[k].log(), share).exp().item()


def _grid(network: Denoiser, images: Tensor, start: float | None) -> Tensor:
    """24 levels, from 10 norms of the data to a tenth of a value's deviation, the start's among them."""
    low, high = network.sigma_range
    variance = images.double().flatten(1).var(0)
    ends = [10 * variance.sum().sqrt().item(), 0.1 * variance.mean().sqrt().item()]
    top, bottom = (min(max(end, low), high) for end in ends)
    if start is None:
        return torch.from_numpy(np.geomspace(top, bottom, LEVELS).clip(low, high))
    start = min(max(start, low), high)
    sigma = torch.from_numpy(np.geomspace(max(top, start), min(bottom, start), LEVELS).clip(low, high))
    sigma[(sigma.log() - math.log(start)).abs().argmin()] = start
    return sigma


# --- critical levels --------------------------------------------------------------------------------------------------


class _Criteria:
    """Every criterion, as a level or as the reason why there is none."""

    def __init__(self, curve: NatsCurve, cloud: Tensor, classes: Tensor | None, noise: Noise, seed: int) -> None:
        self.curve, self.cloud, self.classes, self.noise, self.seed = curve, cloud, classes, noise, seed
        self.levels: list[CriticalLevel] = []
        self.missing: dict[str, str] = {}
        self.collapse: CriticalLevel | None = None
        try:
            self.collapse = critical.collapse(cloud, seed=seed)
        except ValueError as error:
            self.missing["collapse"] = str(error)

    def search(self, asked: Collection[str], told: _Told) -> None:
        """Find the level of each criterion that is asked for."""
        for name, find in self._finders().items():
            try:
                if name not in asked:
                    raise ValueError("not asked for")
                self.levels.append(find().on(self.noise))
            except ValueError as error:  # also what did not converge
                self.missing[name] = str(error)
            told(name)

    def _finders(self) -> dict[str, Callable[[], CriticalLevel]]:
        sigmas = self._range(self.cloud)
        halved = partial(_halved, cloud=self.cloud, classes=self.classes, seed=self.seed)
        return {
            "nats": partial(self.curve.level, 1.0),
            "speciation": partial(critical.speciation, self.cloud, seed=self.seed),
            "density": partial(halved, partial(_on_branch, "density", sigmas)),
            "sde": partial(halved, partial(_on_branch, "sde", sigmas)),
            "sde, second branch": partial(halved, partial(_beside, sigmas)),
            "uturn": partial(_uturn, self.cloud, self.classes, self.seed),
        }

    def _range(self, cloud: Tensor) -> tuple[float, float]:
        """From the collapse of the cloud up to twice the norm of its data, where it has one fixed point only."""
        high = 2 * math.sqrt(_variance(cloud))
        low = 0.01 * high if self.collapse is None or self.collapse.interval is None else self.collapse.interval[1]
        return min(low, 0.5 * high), high


def _on_branch(criterion: Criterion, sigmas: tuple[float, float], cloud: Tensor, _: Tensor | None) -> CriticalLevel:
    """Where the central branch of a cloud loses its stability, or comes nearest to that before it turns away."""
    follower = Follower(PointCloud(cloud), criterion, symmetric=True)
    curve, ends = _followed(follower, levels_of(follower.denoiser, None, sigmas), cloud.mean(0))
    of = f"on the central branch of {len(cloud)} images"
    if not curve[-1].stable and len(curve) > 1:
        return CriticalLevel(critical_between(follower, *curve[-2:])[0], criterion, f"lambda / c = 1 {of}")
    best = max(curve, key=lambda here: here.ratio)
    if best.ratio < NEAR:
        raise ValueError(f"lambda / c comes to {best.ratio:.3f} only {of}, at sigma = {best.sigma:.4g}: far from 1")
    if best is not curve[-1]:
        best = peak(follower, curve, xtol=1e-2)
    elif not ends:
        raise ValueError(
            f"lambda / c is {best.ratio:.3f} and still rises at sigma = {best.sigma:.4g} {of}, below which they tell "
            "single points only: more images are needed"
        )
    how = f"lambda / c is largest there, {best.ratio:.3f}, {of}"
    return CriticalLevel(best.sigma, f"{criterion}, peak", how)


def _followed(follower: Follower, levels: list[float], start: Tensor) -> tuple[list[BranchPoint], bool]:
    """The central branch down to its first instability or past its first peak; and whether it breaks off."""
    curve = [follower.find(levels[0], start)]
    for sigma in levels[1:]:
        best = max(here.ratio for here in curve)
        if not curve[-1].stable or (best >= NEAR and curve[-1].ratio < PAST * best):
            break
        try:
            curve.append(follower.follow(sigma, curve[-1]))
        except ConvergenceError:
            return curve, True
    return curve, False


def _beside(sigmas: tuple[float, float], cloud: Tensor, classes: Tensor | None) -> CriticalLevel:
    """Where a second stable branch is first found, from the means of the classes."""
    if classes is None:
        raise ValueError("it is searched from the means of the classes: labels or a classifier are needed")
    means = torch.stack([cloud[classes == k].mean(0) for k in classes.unique()])
    level = second_branch(PointCloud(cloud), means, "sde", None, sigmas, cloud.mean(0), symmetric=True, xtol=1e-2)
    return replace(level, how=f"{level.how}, {len(cloud)} images")


def _halved(
    find: Callable[[Tensor, Tensor | None], CriticalLevel], cloud: Tensor, classes: Tensor | None, seed: int
) -> CriticalLevel:
    """A level of the cloud; its interval is the range over random halves of it, whose spread is that of the whole."""
    level, generator = find(cloud, classes), torch.Generator().manual_seed(seed)
    found = [level.sigma]
    for _ in range(HALVES):
        index = torch.randperm(len(cloud), generator=generator)[: len(cloud) // 2]
        try:
            found.append(find(cloud[index], None if classes is None else classes[index]).sigma)
        except ValueError:
            continue
    how = f"{level.how}; range over the {len(found) - 1} of {HALVES} random halves that have it"
    return replace(level, how=how, interval=(min(found), max(found)) if len(found) > 1 else None)


def _uturn(cloud: Tensor, classes: Tensor | None, seed: int) -> CriticalLevel:
    """Where a noised image comes back in another class half as often as by chance, by the others' posterior weights."""
    if classes is None:
        raise ValueError("it asks whether the class changes: labels or a classifier are needed")
    shares = classes.unique(return_counts=True)[1].double() / len(classes)
    if len(shares) < 2:
        raise ValueError("it asks whether the class changes: the images are all of one class")
    rows = cloud.flatten(1)
    high = 2 * math.sqrt(_variance(cloud))
    sigma = torch.from_numpy(np.geomspace(high, 0.02 * high, LEVELS))
    noise = torch.randn(rows[:PROBES].shape, generator=torch.Generator().manual_seed(seed)).to(rows)
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


# --- findings ---------------------------------------------------------------------------------------------------------


def _linear(curve: Linearity, noise: Noise, at: _At | None) -> Finding:
    numbers, said = _linear_numbers(curve, at), f"{_reach(curve, noise)}{_own_error(curve)}"
    if not curve.informative.any():
        return Finding("linear", "doubtful", "no level has enough signal to compare two denoisers", numbers)
    if at is None:
        first = int(curve.informative.nonzero()[0])
        verdict = _by_bars(-curve.data[first].item(), _NEGATED) if curve.fails_from_top else "good"
        return Finding("linear", verdict, f"what the data ask of the network: {said}", numbers)
    if not curve.informative[at.index]:
        few = f"at t = {at.t:.0f} the network keeps less than {SHARE:.0%} of the data's variance"
        return Finding("linear", "good", f"{few}: nothing yet that could be other than linear; {said}", numbers)
    value = f"R^2 = {curve.data[at.index]:.3f} +- {curve.data_error[at.index]:.3f}"
    sentence = f"at t = {at.t:.0f} the prior's denoiser explains {value} of what the data ask of the network; {said}"
    return Finding("linear", _linear_at(curve, at), sentence, numbers)


def _linear_at(curve: Linearity, at: _At) -> Verdict:
    """By the lowest R^2 down to the start, as at lower noise it rises again; above the limit it is good."""
    if not curve.fails_from_top and (curve.limit is None or at.sigma >= curve.limit.sigma):
        return "good"
    above = curve.informative & (curve.sigma >= curve.sigma[at.index])
    return "doubtful" if curve.data[above].min() >= LINEAR[1] else "bad"


def _reach(curve: Linearity, noise: Noise) -> str:
    bar = LINEAR[0]
    if curve.fails_from_top:
        first = int(curve.informative.nonzero()[0])
        value = f"{curve.data[first]:.3f} +- {curve.data_error[first]:.3f}"
        return f"R^2 is below {bar:g} from the first level with signal on, {value} at t = {curve.t[first]:.0f}"
    if curve.limit is None:
        return f"R^2 >= {bar:g} throughout, down to t = {curve.t[-1]:.0f}"
    return f"R^2 >= {bar:g} down to t = {_span(curve.limit, noise)}"


def _own_error(curve: Linearity) -> str:
    """The network's own R^2 in words, where errors of its own make it another one."""
    apart = curve.data - curve.r2 > 2 * torch.hypot(curve.data_error, curve.r2_error)
    above = curve.sigma >= (curve.limit.sigma if curve.limit else 0.0)
    seen = curve.informative & above & apart & (curve.r2 < LINEAR[0])
    if curve.fails_from_top or not seen.any():
        return ""
    worst = int(torch.where(seen, curve.r2, torch.inf).argmin())
    return (
        f" (the network itself, with errors of its own that lower nothing, comes down to R^2 = {curve.r2[worst]:.3f} "
        f"+- {curve.r2_error[worst]:.3f} at t = {curve.t[worst]:.0f})"
    )


def _linear_numbers(curve: Linearity, at: _At | None) -> dict[str, Any]:
    numbers = {
        "bar": LINEAR[0],
        "limit": None if curve.limit is None else curve.limit.record(),
        "network_limit": None if curve.network_limit is None else curve.network_limit.record(),
        "fails_from_top": curve.fails_from_top,
        "informative_from_t": curve.t[curve.informative].max().item() if curve.informative.any() else None,
    }
    if at is not None:
        names = ("r2", "r2_error", "data", "data_error", "informative")
        numbers["at_start"] = {name: getattr(curve, name)[at.index].item() for name in names}
    return numbers


def _gaussian(curve: NatsCurve, noise: Noise, at: _At | None) -> Finding:
    found = {budget: _budget(curve, budget, noise) for budget in (NATS[0], 1.0, NATS[1])}
    numbers: dict[str, Any] = {
        "bars": list(NATS),
        "levels": {f"{budget:g}": None if level is None else level.record() for budget, level in found.items()},
        "lower_bound": True,
        "tail": curve.tail,
    }
    one = found[1.0]
    reach = f"it never reaches 1 nat, down to t = {_time(curve.sigma[-1].item(), noise):.0f}"
    if one is not None:
        reach = f"it reaches 1 nat at t = {_span(one, noise)}"
    if at is not None:
        value, error = curve.nats[at.index].item(), curve.error[at.index].item()
        numbers["at_start"] = {"nats": value, "error": error}
        worst = curve.nats[: at.index + 1].max().item()
        return Finding(
            "gaussian", _by_bars(worst, NATS), f"at t = {at.t:.0f} the noised data are at least {value:.2f} +- "
            f"{error:.2f} nats from the prior; {reach} (a lower bound, as the network is not exact)", numbers,
        )  # fmt: skip
    if curve.nats[0] > NATS[0]:
        sentence = f"the noised data are {curve.nats[0]:.2f} nats from the prior at the highest level already"
        return Finding("gaussian", _by_bars(curve.nats[0].item(), NATS), sentence, numbers)
    good = found[NATS[0]]
    down = _time(curve.sigma[-1].item(), noise) if good is None else _time(good.sigma, noise)
    return Finding(
        "gaussian", "good", f"the noised data are within {NATS[0]:g} nats of the prior down to t = {down:.0f}; {reach} "
        "(a lower bound, as the network is not exact)", numbers,
    )  # fmt: skip


def _critical(criteria: _Criteria, curve: NatsCurve, noise: Noise, at: _At | None) -> Finding:
    levels = sorted(criteria.levels, key=lambda level: -level.sigma)
    factor = levels[0].sigma / levels[-1].sigma if levels else None
    place = None if at is None else _place(levels, at.sigma)
    numbers = {"factor": factor, "place": place, "found": len(levels), "missing": sorted(criteria.missing)}
    if "nats" in criteria.missing and curve.nats.max() <= NATS[0]:
        named = f" ({_named(levels)} regardless of that)" if levels else ""
        return Finding(
            "critical", "good", f"the prior fits down to t = {_time(curve.sigma[-1].item(), noise):.0f}: no decision "
            f"is left there that it does not take itself{named}", numbers,
        )  # fmt: skip
    if not levels:
        return Finding("critical", "doubtful", "no criterion gave a critical level", numbers)
    listed = f"{_named(levels)}; {factor:.2f} apart in sigma"
    if at is not None:
        words: dict[str | None, tuple[Verdict, str]] = {
            "before": ("good", "before all critical levels"),
            "between": ("doubtful", "between the critical levels, or within their intervals"),
            "after": ("bad", "after all critical levels: decisions are made that the prior does not make"),
        }
        verdict, word = words[place]
        return Finding("critical", verdict, f"t = {at.t:.0f} lies {word} ({listed})", numbers)
    if len(levels) == 1:
        return Finding("critical", "doubtful", f"one criterion only gave a level: {_named(levels)}", numbers)
    verdict = _by_bars(factor or 1.0, APART)
    word = {"good": "agree", "doubtful": "agree roughly", "bad": "disagree"}[verdict]
    return Finding("critical", verdict, f"the criteria {word}: {listed}", numbers)


def _place(levels: list[CriticalLevel], sigma: float) -> str | None:
    """Whether a level is "before" all others (noisier), "after" them, or "between", with their intervals."""
    intervals = [level.interval or (level.sigma, level.sigma) for level in levels]
    if not intervals:
        return None
    if sigma > max(high for _, high in intervals):
        return "before"
    return "after" if sigma < min(low for low, _ in intervals) else "between"


def _network(linearity: Linearity, curve: NatsCurve, at: _At | None) -> Finding:
    worse, t = curve.worse, linearity.t
    numbers: dict[str, Any] = {"margin": MARGIN, "levels": int(worse.sum()), "of": len(worse), "t": _plain(t[worse])}
    if not worse.any():
        sentence = f"at none of {len(worse)} levels is the network worse than the prior's own denoiser"
        return Finding("network", "good", sentence, numbers)
    last = int(worse.nonzero()[-1])
    below = t[last + 1].item() if last + 1 < len(t) else None
    most = int(torch.where(worse, linearity.gain, torch.inf).argmin())
    numbers |= {"below": below, "excess": -linearity.gain[most].item(), "error": linearity.gain_error[most].item()}
    ranges = " and ".join(_ranges(worse, t))
    what = (
        f"the network is worse than the prior's own denoiser at {ranges} (squared error higher by up to "
        f"{numbers['excess']:.3g} +- {numbers['error']:.2g}, at t = {t[most]:.0f})"
    )
    if below is None:
        return Finding("network", "bad", f"{what}, down to the lowest level: no start skips that", numbers)
    if at is not None and at.index > last:
        return Finding("network", "good", f"{what}; a start at t = {at.t:.0f} skips that", numbers)
    confined = bool(worse[: last + 1].all())
    verdict: Verdict = "doubtful" if at is None and confined else "bad"
    return Finding(
        "network", verdict, f"{what}: there it should be skipped, start at t = {below:.0f} or below", numbers
    )


def _ranges(mask: Tensor, t: Tensor) -> list[str]:
    """Runs of levels in words, by falling t."""
    runs: list[list[int]] = []
    for k in mask.nonzero().flatten().tolist():
        if runs and runs[-1][-1] == k - 1:
            runs[-1].append(k)
        else:
            runs.append([k])
    return [f"t = {t[r[0]]:.0f}" + (f" to {t[r[-1]]:.0f}" if len(r) > 1 else "") for r in runs]


# --- the recommendation -----------------------------------------------------------------------------------------------


def _safe(
    linearity: Linearity, curve: NatsCurve, levels: list[CriticalLevel], noise: Noise
) -> tuple[float, float] | None:
    """Lowest and highest t at which nothing is amiss; None where there is no such range.

    From the last level at which the network is worse than the prior, down to 0.5 nats, to an R^2 of 0.5, or to the last
    critical level, which ever comes first; the latter only where the prior fails at all.
    """
    worse = curve.worse.nonzero().flatten()
    first = int(worse[-1]) + 1 if len(worse) else 0
    bent = (linearity.informative & (linearity.data < LINEAR[1])).nonzero().flatten()
    last = int(bent[0]) - 1 if len(bent) else len(curve.sigma) - 1
    budget = _budget(curve, NATS[0], noise)
    if curve.nats[0] > NATS[0] or first >= len(curve.sigma) or last < 0:
        return None
    decided = [level.sigma for level in levels if level.criterion != "nats"] if budget else []
    low = max(curve.sigma[last].item(), budget.sigma if budget else 0.0, min(decided, default=0.0))
    high = curve.sigma[first].item()
    return (_time(low, noise), _time(high, noise)) if low < high else None


def _advice(
    verdict: Verdict,
    safe: tuple[float, float] | None,
    linearity: Linearity,
    curve: NatsCurve,
    noise: Noise,
    at: _At | None,
) -> str:
    subject = verdict if at is None else f"a start at t = {at.t:.0f} is {verdict}"
    if safe is None:
        return f"{subject}: there is no t at which a late start from this prior is safe"
    last = _budget(curve, NATS[1], noise)
    doubtful = None if last is None else _time(last.sigma, noise)
    doubts = "" if doubtful is None or doubtful >= safe[0] else f", and down to t = {doubtful:.0f} with doubts"
    linear = linearity.limit
    seeds = "" if linear is None or linear.t is None or linear.t <= safe[0] else (
        f"; below t = {linear.t:.0f} it no longer follows the path of a full run from the same noise"
    )  # fmt: skip
    return f"{subject}: the prior can be relied on from t = {safe[1]:.0f} down to t = {safe[0]:.0f}{doubts}{seeds}"


def _by_bars(value: float, bars: tuple[float, float]) -> Verdict:
    """Good up to the first bar, doubtful up to the second."""
    return "good" if value <= bars[0] else "doubtful" if value <= bars[1] else "bad"


def _budget(curve: NatsCurve, budget: float, noise: Noise) -> CriticalLevel | None:
    try:
        return curve.level(budget, noise)
    except ValueError:
        return None


def _time(sigma: float, noise: Noise) -> float:
    low, high = noise.sigma_range
    return noise.time(min(max(sigma, low), high))


def _times(sigma: Tensor, noise: Noise) -> Tensor:
    return torch.tensor([_time(level, noise) for level in sigma.tolist()], dtype=torch.float64)


def _span(level: CriticalLevel, noise: Noise) -> str:
    """A level's time in words, with its interval."""
    at = f"{_time(level.sigma, noise):.0f}"
    if level.interval is None:
        return at
    low, high = (_time(end, noise) for end in level.interval)
    return f"{at} ({low:.0f} to {high:.0f})"


def _named(levels: list[CriticalLevel]) -> str:
    return ", ".join(f"{level.criterion} t = {level.t:.0f}" for level in levels)


def _plain(value: Any) -> Any:
    """Anything that a report holds as JSON has it."""
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, CriticalLevel):
        return value.record()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- what is asked of the caller --------------------------------------------------------------------------------------


def _check_images(model: Any, prior: Any, images: Tensor, labels: Tensor | None) -> None:
    shape = sample_shape(model)
    if tuple(prior.shape) != shape or tuple(images.shape[1:]) != shape:
        raise ValueError(
            f"the model's samples are {shape}, received a prior for {tuple(prior.shape)} and images "
            f"{tuple(images.shape)}"
        )
    if len(images) < FEWEST or not images.is_floating_point() or not images.isfinite().all():
        raise ValueError(
            f"expected at least {FEWEST} images of finite floating-point values, received {len(images)} "
            f"of {images.dtype}"
        )
    if labels is not None and (tuple(labels.shape) != (len(images),) or labels.is_floating_point()):
        raise ValueError(
            f"expected a class index for each of {len(images)} images, received {labels.dtype} {tuple(labels.shape)}"
        )
    if _fitted_to(prior, images):
        raise ValueError(
            f"the prior was fitted to these very {len(images)} images, which it therefore fits too well: judge it on "
            "others, or fit it to one half of them and judge it on the other"
        )


def _fitted_to(prior: Any, images: Tensor) -> bool:
    if getattr(prior, "count", None) != len(images) or not hasattr(prior, "mean"):
        return False
    apart = (images.double().mean(0) - prior.mean.to(images.device).double()).square().sum()
    return bool(apart <= 1e-8 * _variance(images))


def _conditions(model: Any, labels: Tensor | None) -> Tensor | None:
    """The classes that a class-conditional network is given; None for any other."""
    classes = getattr(model.config, "num_class_embeds", None) or 0
    if classes and labels is None:
        raise ValueError(
            f"the network is conditional on {classes} classes: the class of each image is needed, got None"
        )
    return labels if classes else None


@torch.no_grad()
def _classes(cloud: Tensor, labels: Tensor | None, classify: Classifier | None) -> Tensor | None:
    if labels is not None or classify is None:
        return labels
    found = torch.cat([torch.as_tensor(classify(batch)).cpu() for batch in cloud.split(BATCH)])
    if found.shape != cloud.shape[:1] or found.is_floating_point():
        raise ValueError(
            f"expected a classifier to return class indices ({len(cloud)},), received {found.dtype} "
            f"{tuple(found.shape)}"
        )
    return found


def _variance(images: Tensor) -> float:
    return images.double().flatten(1).var(0).sum().item()
