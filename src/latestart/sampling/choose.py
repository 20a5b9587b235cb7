"""Choice of the start of sampling for a model, a prior, a scheduler and a number of steps.

Two errors meet. A prior is the wronger the later one starts, by the divergence of the noised data from it, in nats
(`theory/nats.py`), which needs no sampling; a sampler is the wronger the longer the way that it has to go in few steps,
which only sampling tells. So

    nats        the level at which the divergence reaches a budget; without images, that of the prior's samples from the
                model's distribution, KL(prior || model), by the same identity with the roles exchanged
    stability   the level at which the central fixed point of the network loses its stability, or comes nearest to it
    probe       a few samples from each of many starts; the energy distance of their features to those of images; then
                from starts about the best one, at which a parabola through the distances is lowest (`probing.py`)
    nats+probe  the same about the level of the budget, which counts as a measurement of its own: the noisier the
                probes, the nearer to it is the choice

The budget is 5 / steps^2 nats: with fewer steps it pays to start later, from a prior that is more wrong. On a network
for MNIST that predicts the noise, by 512 samples a start, DDIM was best from t = 500, 550 and 600 of 1,000 in 3, 5 and
10 steps, where one Gaussian is wrong by 0.6, 0.2 and 0.06 nats; two small exact mixtures went the same way. None of
these cells is among those that `benchmarks/choose.py` reports.

On six further exact mixtures (2 to 20 clusters in 2 to 24 dimensions), three samplers and 3, 5 and 10 steps, the best
level lay 0.4 +- 1.9 rungs (factors of 1.16) above that of the budget. There the choice was within 5% of the best start
in 82% of 108 runs with deterministic samplers and within 15% in 96%; in 54% and 87% of 54 runs with DDPM. Its own noise
limits it: in 10 steps, where it starts highest, these are 11% and 61%.
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
from latestart.sampling.late_start import checked_scheduler, late_start, start_level
from latestart.sampling.loop import draw
from latestart.sampling.matching import check_prior as require_match
from latestart.sampling.matching import check_shape
from latestart.sampling.names import telling
from latestart.sampling.probing import FEWEST, LEAST, BlockNoise, Probes, block_size, moment_weights, zoom
from latestart.sampling.seeds import sample_generator
from latestart.theory.levels import enough
from latestart.theory.nats import NatsCurve, nats
from latestart.theory.stability import NoCrossing, crossing

__all__ = ["METHODS", "Candidate", "Choice", "choose_start"]

METHODS = ("nats", "stability", "probe", "nats+probe")
BUDGET = 5.0  # nats at the start, times the square of the number of steps; measured, see above
RUNG = 1.8**0.25  # between neighbouring levels of the ladder of starts
SPREAD = 2.5  # of the best level about that of the budget, in rungs; on six exact mixtures it was 1.9
PROBES = 2000  # samples of all probes together
IMAGES, WINDOW_IMAGES, LEVELS = 96, 32, 16  # for the divergence; a window needs it less exactly
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
    method: str | None = None,
    *,
    features: Features | None = None,
    labels: Tensor | int | None = None,
    probes: int = PROBES,
    budget: float | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    check_prior: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Choice:
    """Choose where to start sampling.

    It costs about 1,600 evaluations of single images without a probe, and 10,500 with one in five steps; with the
    network's own features one more for each image and each probe.

    Args:
        model: a diffusers network, an exact model through `as_model`, or a function through `as_network`.
        scheduler: the sampler to be started late; it is not changed.
        prior: where the start samples come from, or the path of its file.
        images: anything that `as_images` takes, floats in the model's value range; neither model nor prior may be
            fitted to them. They are taken in an order drawn by the seed.
        steps: of the sampler.
        method: one of `METHODS`; by default "nats+probe" with images, else "nats".
        features: for probing, the name of a shipped extractor, a function from images `(B, C, H, W)` in [0, 1] to
            features `(B, F)`, "network": the network's own, `NetworkFeatures`, or "values": the samples' own values,
            for exact models of few dimensions. Distances between pixels say nothing about pictures. By default the
            network's own, and the values for one without a middle block.
        labels: for class-conditional models, a class index, or those of the images; those that the images bring by
            default.
        probes: samples of all probes together, at least 200; they cost at most `probes * steps` evaluations with a
            first-order sampler.
        budget: nats at the start, for the method "nats"; by default 5 / steps^2.
        model_kwargs: further conditions, by the names of the network's own arguments: one row an image, or without
            images rows that are taken in turn.
        check_prior: compare the prior with the model first, and with the range of the images.
        seed: of the noise and the order of the images; the probes' seeds are apart from those of `generate`.
        progress: called as `progress(done, total, description)`, over blocks of probes.

    Raises:
        TypeError: something that is no network, scheduler or prior.
        ValueError: an unknown method; a method without the images that it needs; features of a network that has none;
            too few images or probes; images or a prior of another shape or range, or images that are not finite; labels
            that are not classes of the model, or not one for each image; a budget that is not above 0; a scheduler that
            cannot be late-started.
    """
    network, steps = as_network(model), whole_number("steps", steps)
    scheduler = checked_scheduler(scheduler)
    prior = as_prior(prior, "choosing a start").to(network.device)
    chosen = _method(method, images)
    if budget is not None and not (math.isfinite(budget) and budget > 0):
        raise ValueError(f"expected a budget above 0 nats, received {budget}")
    values, conditions = _given(network, images, labels, model_kwargs, seed)
    if values is not None and check_prior:
        require_same_range(values, getattr(prior, "value_range", None), "the prior")
    search = _Search(
        model=Counted(network), scheduler=scheduler, prior=prior, images=values, steps=steps, conditions=conditions,
        method=chosen, seed=seed, progress=progress or (lambda *_: None),
    )  # fmt: skip
    search.require_match(check_prior)
    search.progress(0, 1, chosen.partition("+")[0])
    if chosen == "nats":
        return search.by_nats(BUDGET / steps**2 if budget is None else budget)
    if chosen == "stability":
        return search.by_stability()
    extract = _extractor(features, network, scheduler, conditions)
    space = Space(extract, pictures=bool(search.data.abs().max() <= 1))
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

    def __post_init__(self) -> None:
        self.family = family_of(self.scheduler)
        self.noise = self.family.noise

    def require_match(self, compared: bool) -> None:
        """Compare prior and model, and take for the prior that of the one class that is asked for."""
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
        centre, rungs = self._ladder()
        return self._choice(self._candidate(sigma), [self._candidate(centre * RUNG**rung) for rung in rungs], how)

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
        with torch.inference_mode():
            rows = torch.cat([space(part) for part in self.data.split(1024)])
        to_data = EnergyTo(rows, moment_weights(self.data, self.prior))
        if self.method == "nats+probe":
            self.curve = self._divergence(WINDOW_IMAGES)
        centre, rungs = self._ladder()

        def start(rung: float) -> float:
            return self._candidate(centre * RUNG**rung).t_start

        def rung(t_start: float) -> float:
            return math.log(self._at(t_start).sigma / centre, RUNG)

        size = block_size(probes, len(rungs))
        known = Probes(self._prober(space, size, probes // size), to_data, size)
        best = zoom(rungs, start, rung, known, probes // size - LEAST, math.inf if self.curve is None else SPREAD)
        known.level([best], 0)
        self.extracted = space.evaluated
        seen = {t: replace(self._at(t), distance=known.distance(t), samples=known.samples(t)) for t in known.features}
        how = (
            f"by probes from {len(seen)} starts, samples come nearest to the images from about sigma = "
            f"{seen[best].sigma:.4g}: energy distance {seen[best].distance:.4g} with {seen[best].samples} samples"
        )
        return self._choice(seen[best], seen.values(), how)

    def _ladder(self) -> tuple[float, range]:
        """The level of rung 0, and the rungs to begin with: about the budget, or over all levels of the images."""
        if self.curve is not None:
            return _level(self.curve, BUDGET / self.steps**2)[0], range(-4, 5, 2)
        bottom, top = self._range(self.data, 1)
        return bottom, range(0, math.ceil(math.log(top / bottom, RUNG)) + 4, 4)

    def _range(self, data: Tensor, reach: float = 10) -> tuple[float, float]:
        """From where a value of the data is seen three times as well as without noise to `reach` times all of it."""
        width, (low, high) = data.double().var(0), self.noise.sigma_range
        bottom = max(0.3 * float(width.mean().sqrt()), low)
        return bottom, min(max(reach * float(width.sum().sqrt()), 10 * bottom), high)

    def _prober(self, extract: Callable[[Tensor], Tensor], size: int, total: int) -> Callable[[float, int], Tensor]:
        noise, done = BlockNoise(self.data, size, self.steps + 1, APART + self.seed), itertools.count()

        def block(t_start: float, number: int) -> Tensor:
            """The same noise for every start, in the steps as well: it depends on the seed and the block's number."""
            self.progress(next(done), total, f"probing t = {t_start:g}")
            seed, mine = APART + self.seed * 2**16 + number, self.conditions.turned(size)
            first, later = noise(number).split([1, noise.draws - 1])
            drawn = draw(
                self.model, self.scheduler, self.prior, size, self.steps, t_start, seed, first[0], mine.labels,
                size, model_kwargs=mine.kwargs, step_noise=later,
            )  # fmt: skip
            return extract(drawn.samples)

        return block

    def _divergence(self, most: int = IMAGES) -> NatsCurve:
        """Without images, of samples of the prior, whose own denoiser is exact on them, from the model."""
        data, (bottom, top) = self.data[:most], self._range(self.data[:IMAGES])
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
        known = np.interp(math.log(sigma), curve.sigma.log().flip(0), curve.nats.flip(0))
        return Candidate(t_start=t_start, sigma=sigma, nats=float(known))

    def _denoiser(self, n: int | None = None) -> NetworkDenoiser:
        """The network's denoiser, of n samples whose conditions are taken in turn."""
        mine = self.conditions if n is None else self.conditions.turned(n)
        return from_diffusers(self.model, self.scheduler, mine.labels, model_kwargs=mine.kwargs)

    def _choice(self, best: Candidate, seen: Iterable[Candidate], how: str) -> Choice:
        distinct = {round(start.sigma, 9): start for start in (*seen, best)}
        curve, measured = self.curve, self.images is not None
        doubts = () if curve is None else doubts_of(curve, best.sigma, self.noise, measured)
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


def _method(method: str | None, images: Any) -> str:
    if method is None:
        return "nats" if images is None else "nats+probe"
    if method not in METHODS:
        raise ValueError(f"there is no method {method!r} to choose a start by; there are {', '.join(METHODS)}")
    if "probe" in method and images is None:
        raise ValueError(f"the method {method!r} compares features of samples and images: images missing")
    return method


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
