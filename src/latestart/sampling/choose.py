"""Choice of the start of sampling for a model, a prior, a scheduler and a number of steps.

Two errors meet. A prior is the wronger the later one starts, by the divergence of the noised data from it, in nats
(`theory/nats.py`); a sampler is the wronger the longer the way that it has to go in few steps, which only sampling
tells. No budget of nats weighs one against the other: one Gaussian is best started where it is wrong by 0.004 to 1.3
nats, a mixture, which has taken the first decisions by its weights, where it is wrong by 0.1 to 60. So

    probe       a few samples from each of many starts, and the energy distance of their features to those of a target;
                from starts about the best one, at which a parabola through the distances is lowest (`probing.py`)
    nats        the level at which the divergence reaches a budget; without images, that of the prior's samples from the
                model's distribution, KL(prior || model), by the same identity with the roles exchanged
    stability   the level at which the central fixed point of the network loses its stability, or comes nearest to it

The target of a probe is the model's own samples, by a long run from the same noise (`reference.py`): then a few dozen
samples a start tell it, for what is common to both is no noise. With images, they are the target as soon as the model's
own samples differ from them beyond chance: a network that errs on its long way may come nearer to the data from a late
start than by itself. Where they do not differ, the images would only add noise of their own.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import seeded, whole_number
from latestart.denoisers.adapter import Counted, Network, as_network
from latestart.denoisers.base import check_sample
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import NetworkDenoiser, from_diffusers
from latestart.evaluation.kernel import EnergyTo
from latestart.evaluation.quality import resolve
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.prior import as_prior
from latestart.inputs.front import as_images
from latestart.inputs.ranges import require_same_range
from latestart.network_features import NETWORK, NetworkFeatures, Space, Values, default_features, one_label
from latestart.records import Record
from latestart.sampling.doubts import doubts_of
from latestart.sampling.families import family_of
from latestart.sampling.late_start import checked_scheduler, late_start, noise_width, start_level
from latestart.sampling.loop import draw
from latestart.sampling.matching import check_prior as require_match
from latestart.sampling.matching import check_shape, doubt
from latestart.sampling.names import telling
from latestart.sampling.probing import (
    DRAWS,
    FEWEST,
    LEAST,
    BlockNoise,
    OwnSamples,
    Probes,
    block_size,
    moment_weights,
    zoom,
)
from latestart.sampling.reference import Reference
from latestart.sampling.run import rehearse
from latestart.sampling.seeds import sample_generator
from latestart.theory.levels import enough
from latestart.theory.nats import NatsCurve, nats
from latestart.theory.stability import NoCrossing, crossing

__all__ = ["METHODS", "Candidate", "Choice", "choose_start"]

METHODS = ("probe", "nats", "stability")
BUDGET = 5.0  # nats at the start, times the square of the number of steps
RUNG = 1.8**0.25  # between neighbouring levels of the ladder of starts
PROBES = 1000  # samples of all probes together, where images may be the target
OWN, OWN_EVALUATIONS = 400, 3000  # where they are the model's own: samples at most, and their evaluations
LONG_RUNS = 96  # samples of the model that are compared with images
BEYOND = 2.0  # standard errors by which they must differ
EVEN = 16  # samples in a block, at least, where the steps draw noise: spread the more evenly
TOP = 2.0  # of the data's width, where the long runs begin
IMAGES, LEVELS = 96, 16  # for the divergence
FACTOR = 1.6  # between neighbouring levels at most, for integrals to a percent
APART = 2**32  # probes and the user's own runs draw from different seeds

Features = str | Callable[[Tensor], Tensor] | tuple[Any, Any]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A start, with the evidence for it.

    Attributes:
        t_start: in the scheduler's t, as asked for.
        sigma: the level at which a run from there begins.
        nats: divergence between prior and noised data there, or None.
        distance: energy distance of the probed samples' features to those of the images, or None.
        samples: the number of probed samples.
    """

    t_start: float
    sigma: float
    nats: float | None = None
    distance: float | None = None
    samples: int = 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A chosen start, with the evidence for it.

    Attributes:
        t_start: in the scheduler's t, for `late_start` and `generate`.
        sigma: the level at which a run from there begins.
        method: how it was chosen.
        evidence: all starts that were looked at, latest last.
        nfe: evaluations of the network that the choice cost, over single images.
        how: the reason in words.
        doubts: why `check` would call a start there bad, as far as the choice has seen it; none if it has seen nothing.
    """

    t_start: float
    sigma: float
    method: str
    evidence: tuple[Candidate, ...]
    nfe: int
    how: str
    doubts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Choice(t_start={self.t_start:g}, sigma={self.sigma:.4g}, method={self.method!r}, nfe={self.nfe})"


@telling
def choose_start(
    model: Any,
    scheduler: Any,
    prior: Any,
    images: Any = None,
    steps: int = 5,
    method: str = METHODS[0],
    *,
    features: Features | None = None,
    labels: Tensor | int | None = None,
    probes: int | None = None,
    budget: float | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    check_prior: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Choice:
    """Choose where to start sampling.

    In five steps it costs about 3,500 evaluations of single images, and with images 8,500; with the network's own
    features one more for each image and each sample. By nats it costs about 1,600.

    Args:
        model: a diffusers network, an exact model through `as_model`, or a function through `as_network`.
        scheduler: the sampler to be started late; it is not changed.
        prior: where the start samples come from, or the path of its file.
        images: anything that `as_images` takes, floats in the model's value range; neither model nor prior may be
            fitted to them. They are taken in an order drawn by the seed.
        steps: of the sampler.
        method: one of `METHODS`.
        features: for probing, the name of a shipped extractor, a function from images `(B, C, H, W)` in [0, 1] to
            features `(B, F)`, "network": the network's own, `NetworkFeatures`, or "values": the samples' own values,
            for exact models of few dimensions. Distances between pixels say nothing about pictures. By default the
            network's own, and the values for one without a middle block.
        labels: for class-conditional models, a class index, or those of the images; those that the images bring by
            default.
        probes: samples of all probes together, at least 200; they cost at most `probes * steps` evaluations with a
            first-order sampler. By default 1,000 with images, and without at most 400 and 3,000 evaluations.
        budget: nats at the start, for the method "nats"; by default 5 / steps^2.
        model_kwargs: further conditions, by the names of the network's own arguments: one row an image, or without
            images rows that are taken in turn.
        check_prior: compare the prior with the model first, and with the range of the images.
        seed: of the noise and the order of the images; the probes' seeds are apart from those of `generate`.
        progress: called as `progress(done, total, description)`, over blocks of probes.

    Raises:
        TypeError: something that is no network, scheduler or prior.
        ValueError: an unknown method; features of a network that has none;
            too few images or probes; images or a prior of another shape or range, or images that are not finite; labels
            that are not classes of the model, or not one for each image; a budget that is not above 0; a scheduler that
            cannot be late-started.
    """
    network, steps = as_network(model), whole_number("steps", steps)
    scheduler = checked_scheduler(scheduler)
    prior = as_prior(prior, "choosing a start").to(network.device)
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r} to choose a start by; there are {', '.join(METHODS)}")
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise ValueError(f"expected a budget above 0 nats, received {budget}")
    values, conditions = _given(network, images, labels, model_kwargs, seed)
    if values is not None and check_prior:
        require_same_range(values, getattr(prior, "value_range", None), "the prior")
    search = _Search(
        model=Counted(network), scheduler=scheduler, prior=prior, images=values, steps=steps, conditions=conditions,
        method=method, seed=seed, progress=progress or (lambda *_: None),
    )  # fmt: skip
    search.require_match(check_prior)
    search.progress(0, 1, method)
    if method == "nats":
        return search.by_nats(BUDGET / steps**2 if budget is None else budget)
    if method == "stability":
        return search.by_stability()
    extract = _extractor(features, network, scheduler, conditions)
    space = Space(extract, pictures=bool(search.data.abs().max() <= 1))
    if probes is None:
        probes = PROBES if values is not None else max(FEWEST, min(OWN, OWN_EVALUATIONS // steps))
    return search.by_probes(space, whole_number("probes", probes))


@dataclass(eq=False, repr=False, kw_only=True)
class _Search(Record):
    model: Counted
    scheduler: Any
    prior: Any
    images: Tensor | None
    steps: int
    conditions: Conditions
    method: str
    seed: int
    progress: Progress
    curve: NatsCurve | None = None
    extracted: int = 0
    compared: bool = True

    def __post_init__(self) -> None:
        self.family = family_of(self.scheduler)
        self.noise = self.family.noise

    def require_match(self, compared: bool) -> None:
        """Compare prior and model, and take for the prior that of the one class that is asked for."""
        self.compared = compared
        if compared:
            require_match(self.model, self.scheduler, self.prior, self.conditions)
        check_shape(self.model, self.prior)
        labels = self.prior.own_labels(self.conditions.labels)
        if isinstance(labels, Tensor) and labels.ndim == 0 and isinstance(self.prior, Mixture):
            self.prior = self.prior.of_class(int(labels))  # which to all that follows is the prior

    @cached_property
    def data(self) -> Tensor:
        """The images, or samples of the prior in their place."""
        if self.images is not None:
            return self.images
        labels = self.prior.own_labels(self.conditions.turned(IMAGES).labels)
        return self.prior.sample(IMAGES, sample_generator(APART + self.seed, 0), labels)

    def by_nats(self, budget: float) -> Choice:
        curve = self.curve = self._divergence()
        sigma, found = _level(curve, budget)
        how = f"{'KL(prior || model)' if self.images is None else 'KL(data || prior)'} {found}"
        beside = [self._candidate(sigma * RUNG**rung) for rung in range(-4, 5, 2)]
        best = self._candidate(sigma)
        return self._choice(best, beside, how, doubts_of(curve, best.sigma, self.noise, self.images is not None))

    def by_stability(self) -> Choice:
        """Central differences: each product with the Jacobian is two evaluations that are counted."""
        if (count := self.conditions.count) is not None:
            raise ValueError(
                f"the stability of a fixed point is that of one class: expected one label, received {count}"
            )
        denoiser, ends, mean = self._denoiser(), self._range(self.data), getattr(self.prior, "mean", None)
        if not isinstance(mean, Tensor):
            mean = self.prior.sample(IMAGES, sample_generator(self.seed, 0)).mean(0)
        try:
            sigma = crossing(denoiser, self.family.criterion, start=mean, method="differences", sigma_range=ends).sigma
            how = f"the central fixed point loses its stability at sigma = {sigma:.4g}"
        except NoCrossing as never:
            sigma = never.sigma
            if never.at_end:  # inside one part of the data the ratio tends to 1 as the noise falls
                raise ValueError(
                    f"the central fixed point neither loses its stability above sigma = {ends[0]:.4g} nor comes near "
                    "to it at any level above that: choose by nats or by probes"
                ) from never
            how = (
                f"the central fixed point comes nearest to instability at sigma = {sigma:.4g}, where the leading "
                f"eigenvalue is {never.ratio:.3g} of the critical one"
            )
        return self._choice(self._candidate(sigma), [], how)

    def by_probes(self, space: Space, probes: int) -> Choice:
        if probes < FEWEST:
            raise ValueError(f"probes={probes}: expected at least {FEWEST}, or a start has too few to be judged by")
        bottom, top = self._range(self.data, 1)
        centre, rungs = bottom, range(0, math.ceil(math.log(top / bottom, RUNG)) + 4, 4)

        def start(rung: float) -> float:
            return self._candidate(min(centre * RUNG**rung, self._highest())).t_start

        def rung(t_start: float) -> float:
            return math.log(self._at(t_start).sigma / centre, RUNG)

        brownian = self._draws_noise(top)
        size = max(block_size(probes, len(rungs)), EVEN if brownian else 1)
        least, done = 2 if brownian and self.images is None else LEAST, itertools.count()
        total, reference = max(probes // size, least * len(rungs)), self._reference(size, top, brownian)

        def own(number: int) -> Tensor:
            return space(reference.samples(number))

        def block(t_start: float, number: int) -> Tensor:
            self.progress(next(done), total, f"probing t = {t_start:g}")
            return space(self._probed(reference, t_start, number, size))

        target, what = self._target(OwnSamples(own), space, size)
        known = Probes(block, target, size, least)
        best = zoom(rungs, start, rung, known, total - least)
        known.level([best], 0)
        self.extracted, self.curve = space.evaluated, reference.curve()
        seen = {t: replace(self._at(t), distance=known.distance(t), samples=known.samples(t)) for t in known.features}
        how = (
            f"by probes from {len(seen)} starts, samples come nearest to {what} from about sigma = "
            f"{seen[best].sigma:.4g}: energy distance {seen[best].distance:.4g} with {seen[best].samples} samples"
        )
        late = late_start(self.scheduler, best, self.steps)
        said = doubt(self.model, late, self.prior, self.conditions) if self.compared else None
        return self._choice(seen[best], seen.values(), how, () if said is None else (said,))

    def _draws_noise(self, width: float) -> bool:
        """Whether the sampler's steps draw noise, in a run from as much noise as the data are wide."""
        late = late_start(self.scheduler, self.family.start_for(width, self.steps), self.steps)
        return rehearse(late, noise_width(late))

    def _reference(self, size: int, width: float, brownian: bool) -> Reference:
        """Long runs of the model, and the prior's starts that go with them."""
        mine = self.conditions.turned(size)
        noise = BlockNoise(self.data, size, DRAWS if brownian else 1, APART + self.seed)
        low, bottom = self.noise.sigma_range[0], 0.05 * float(self.data.double().var(0).mean().sqrt())

        def given(sigma: float, z: Tensor) -> Tensor:
            return self.prior.noised(sigma).push(
                z.to(device=self.prior.device, dtype=self.prior.dtype), self.prior.own_labels(mine.labels)
            )

        return Reference(
            self._denoiser(size), self.prior.for_labels(mine.labels), given, noise,
            (min(TOP * width, self._highest()), max(bottom, low * (1 + 1e-6))), brownian,
            APART + self.seed,
        )  # fmt: skip

    def _highest(self) -> float:
        """The highest level that scheduler and network know."""
        known = getattr(self.model, "max_sigma", None)
        return min(0.999 * self.noise.sigma_range[1], math.inf if known is None else known)

    def _target(self, own: OwnSamples, space: Space, size: int) -> tuple[Any, str]:
        """The images, where the model's own samples differ from them beyond chance, else these samples."""
        if self.images is None:
            return own, "the model's own"
        with torch.inference_mode():
            rows = torch.cat([space(part) for part in self.images.split(1024)])
        to_images, count = EnergyTo(rows, moment_weights(self.images, self.prior)), max(LEAST, LONG_RUNS // size)
        value, without = to_images.by_blocks(own.rows(count), size)
        error = math.sqrt((count - 1) * float(without.var(correction=0)))
        if value > BEYOND * error:
            return to_images, "the images"
        return own, "the model's own, which differ from the images no more than by chance,"

    def _probed(self, reference: Reference, t_start: float, number: int, size: int) -> Tensor:
        """A block of samples from a start, of the same noise for every start, in the steps as well."""
        late, mine = late_start(self.scheduler, t_start, self.steps), self.conditions.turned(size)
        levels = [self.noise.sigma(float(t)) for t in late.timesteps]
        return draw(
            self.model, self.scheduler, reference.start(number, levels[0]), size, self.steps, t_start,
            APART + self.seed * 2**16 + number, reference.noise(number)[0], mine.labels, size, model_kwargs=mine.kwargs,
            step_noise=reference.step_noise(number, levels),
        ).samples  # fmt: skip

    def _range(self, data: Tensor, reach: float = 10) -> tuple[float, float]:
        """From where a value of the data is seen three times as well as without noise to `reach` times all of it."""
        width, (low, high) = data.double().var(0), self.noise.sigma_range
        bottom = max(0.3 * float(width.mean().sqrt()), low)
        return bottom, min(max(reach * float(width.sum().sqrt()), 10 * bottom), high)

    def _divergence(self) -> NatsCurve:
        """Without images, of samples of the prior, whose own denoiser is exact on them, from the model."""
        data, (bottom, top) = self.data[:IMAGES], self._range(self.data[:IMAGES])
        count = max(LEVELS, math.ceil(math.log(top / bottom) / math.log(FACTOR)) + 1)
        levels, denoiser = torch.from_numpy(np.geomspace(top, bottom, count)), self._denoiser(len(data))
        prior, own = self.prior.for_labels(denoiser.conditions.labels), self.images is None
        known, judged = (prior, denoiser) if own else (denoiser, prior)
        return nats(known, judged, data, levels, exact=own, batch_size=len(data), seed=self.seed)

    def _candidate(self, sigma: float) -> Candidate:
        """The start whose first level is nearest to sigma, as far as the schedule reaches."""
        return self._at(self.family.start_for(sigma, self.steps))

    def _at(self, t_start: float) -> Candidate:
        sigma, curve = start_level(late_start(self.scheduler, t_start, self.steps)), self.curve
        if curve is None:
            return Candidate(t_start=t_start, sigma=sigma)
        return Candidate(t_start=t_start, sigma=sigma, nats=float(curve.at(sigma)))

    def _denoiser(self, n: int | None = None) -> NetworkDenoiser:
        """The network's denoiser, of n samples whose conditions are taken in turn."""
        mine = self.conditions if n is None else self.conditions.turned(n)
        return from_diffusers(self.model, self.scheduler, mine.labels, model_kwargs=mine.kwargs)

    def _choice(self, best: Candidate, seen: Iterable[Candidate], how: str, doubts: tuple[str, ...] = ()) -> Choice:
        distinct = {round(start.sigma, 9): start for start in (*seen, best)}
        return Choice(
            t_start=best.t_start, sigma=best.sigma, method=self.method,
            nfe=self.model.evaluated + self.extracted, how=how,
            evidence=tuple(distinct[sigma] for sigma in sorted(distinct, reverse=True)), doubts=doubts,
        )  # fmt: skip


def _given(
    network: Network, images: Any, labels: Any, kwargs: Mapping[str, Any] | None, seed: int
) -> tuple[Tensor | None, Conditions]:
    """The images, in an order drawn by the seed, and the conditions in the same."""
    if images is None:
        return None, Conditions(network, labels, kwargs)
    found = as_images(images, shape=network.sample_shape).collected()
    values = enough(found.floats(), "choosing a start")
    check_sample(values, network.sample_shape)
    own = found.labels if labels is None and network.labelled else labels
    order = torch.randperm(len(values), generator=seeded(seed))
    return values[order], Conditions(network, own, kwargs, len(values))[order]


def _extractor(features: Any, network: Network, scheduler: Any, conditions: Conditions) -> Any:
    """The extractor that `choose_start` is asked for."""
    if features is None:
        return default_features(network, scheduler, conditions.labels, conditions.kwargs)
    if isinstance(features, str) and features == NETWORK:
        return NetworkFeatures(network, scheduler, labels=one_label(conditions.labels), model_kwargs=conditions.kwargs)
    return Values() if isinstance(features, str) and features == Values.name else resolve(features)


def _level(curve: NatsCurve, budget: float) -> tuple[float, str]:
    """The highest level at which the divergence reaches the budget, and that in words; an end of the levels if none.

    The lowest one where it stays below the budget, the highest one where it is above it throughout.
    """
    try:
        sigma = curve.level(budget).sigma
        return sigma, f"reaches {budget:g} nats at sigma = {sigma:.4g}"
    except ValueError:
        side, way, end = ("below", "down", -1) if curve.nats.max() < budget else ("above", "up", 0)
        sigma = float(curve.sigma[end])
        return sigma, f"is {side} {budget:g} nats at all levels, {way} to sigma = {sigma:.4g}"
