"""The three ways in which a late start can fail, and a fourth fact, asked before one relies on it.

A late start draws its sample from a prior noised to the start, and hands it to the network there. It fails where

    the early dynamics are not linear             R^2 of the network against the prior's own denoiser (`linearity.py`)
    the distribution there is not the prior's     its divergence, in nats (`theory/nats.py`)
    the critical level is not where one thinks    criteria of it that disagree (`decisions.py`)

and it is better than what it replaces where the network is worse than the prior's own denoiser. Each is answered by a
verdict in words, with its figure (`verdicts.py`); together they say from where down to where a start is safe.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.denoisers.adapter import Network, as_network
from latestart.denoisers.conditions import Conditions
from latestart.diagnosis.case import NETWORK, Case, Classify, Settings
from latestart.diagnosis.decisions import CHECKED, decisions
from latestart.diagnosis.linearity import LEVELS, LINEAR, Linearity, compare, variance
from latestart.diagnosis.verdicts import Evidence, Finding, Start, finite, judge, worst
from latestart.gaussians.prior import as_prior
from latestart.inputs.front import as_images
from latestart.inputs.ranges import require_same_range
from latestart.noise import Noise, when
from latestart.progress import Progress
from latestart.records import Record
from latestart.sampling.doubts import NATS, Verdict
from latestart.sampling.late_start import checked_scheduler, late_start, start_level
from latestart.sampling.matching import Match, match
from latestart.sampling.names import telling
from latestart.theory.branches import STEP
from latestart.theory.levels import CriticalLevel
from latestart.theory.nats import NatsCurve

__all__ = ["CHECKED", "Report", "advice", "check", "disagreement", "halves", "safe_range"]

FEWEST = 40  # images: halves of them still give a branch
CLOUD = 2000  # images of the point cloud
HALVES = 4  # random ones of them, for the interval of what is read from its branches


@dataclass(frozen=True, repr=False)
class Report(Record):
    """All findings, the recommendation, and the curves that they were read from.

    Attributes:
        findings: "linear", "gaussian", "critical", "network", in this order; then "prior", where it and the network
            speak of different values.
        verdict, sentence: the worst of them, and what to do.
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
        """Return the report for JSON, None in the place of numbers that are not finite."""
        curves = {name: getattr(self.nats, name) for name in ("sigma", "nats", "error", "worse")}
        return finite(super().record() | {"nats": {**curves, "lower_bound": True}})


@telling
def check(
    model: Any,
    scheduler: Any,
    prior: Any,
    images: Any,
    t_start: float | None = None,
    labels: Tensor | None = None,
    classify: Classify | None = None,
    *,
    steps: int = 5,
    model_kwargs: Mapping[str, Any] | None = None,
    check_prior: bool = True,
    evaluated: int = 256,
    criteria: Collection[str] = tuple(CHECKED),
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Ask whether a late start of a model from a prior can be relied on.

    It costs 24 network evaluations of each of `evaluated` images; the rest runs on the images as a point cloud.

    Args:
        model: a diffusers network, an exact model through `as_model`, or a function through `as_network`.
        scheduler: the one that it was trained with, or a sampler made from it.
        prior: a `Gaussian`, any prior that denoises, or the path of a prior's file, fitted to other images than these.
        images: whatever `as_images` takes, floats in the model's value range, held out from the training of both; at
            least 40.
        t_start: the start that one has in mind, in the scheduler's t: the verdicts are read where a run from there
            begins, which for beta-based schedulers is `steps * (t_start // steps) - 1`. Without it they say down to
            which t all is well.
        labels: `(n,)`, the class of each image, by default those that the images bring: for the criteria that ask for
            classes, and for a class-conditional network, which is given them (its nats are then those of the classes,
            averaged).
        classify: from images in the model's range to class indices `(n,)`, where there are no labels.
        steps: of the sampler.
        model_kwargs: what else conditions the network, by the names of its own arguments, one row an image.
        check_prior: judge first whether prior and network speak of the same values.
        evaluated: images that the network is evaluated on, drawn at random.
        criteria: those of the critical level to look for, of `CHECKED`; by default all.
        seed: of all draws.
        progress: called as `progress(done, total, what)`.

    Raises:
        ValueError: too few images; a start outside of the schedule; images, prior or labels that do not fit the model;
            a prior that was fitted to these very images; a class-conditional network without labels;
            an unknown criterion.
    """
    if unknown := sorted(set(criteria) - set(CHECKED)):
        raise ValueError(f"expected criteria of {', '.join(map(repr, CHECKED))}, received {unknown}")
    network, scheduler = as_network(model), checked_scheduler(scheduler)
    noise, prior = Noise.from_scheduler(scheduler), as_prior(prior, "a check").to(network.device)
    found_images = as_images(images, shape=network.sample_shape).collected()
    images, labels = found_images.floats(), found_images.labels if labels is None else labels
    _check_images(network, prior, images, labels)
    if network.classes and labels is None:
        raise ValueError(
            f"the network is conditional on {network.classes} classes: the class of each image is needed, got None"
        )
    # of a network that knows no classes, labels serve the criteria alone
    conditions = Conditions(network, labels if network.labelled else None, model_kwargs, len(images))
    start = None if t_start is None else start_level(late_start(scheduler, t_start, steps))
    matched = match(network, scheduler, prior, conditions) if check_prior else None
    done, tell = count(1), progress or (lambda *_: None)

    def told(what: str) -> None:
        tell(next(done), LEVELS + len(CHECKED), what)

    order = torch.randperm(len(images), generator=seeded(seed))
    some, seen = order[: max(evaluated, FEWEST)], order[:CLOUD]
    curve, linearity = compare(network, scheduler, prior, images, conditions, some, start, seed, told)
    cloud, settings = images[seen], Settings(step=STEP, halves=HALVES, second_halves=HALVES, seed=seed)
    labels = None if labels is None else labels[seen]
    case = Case(images=cloud, labels=labels, classify=classify, noise=noise, settings=settings, nats={NETWORK: curve})
    _ = case.classes  # a classifier that returns something else is a mistake, and no criterion that is missing
    found = decisions(case, criteria, told)
    at = None
    if start is not None:  # of an infinite level, the first
        at = Start(noise.clamped_time(start), start, int((curve.sigma - start).abs().argmin()))
    evidence = Evidence(linearity=linearity, nats=curve, decisions=found, noise=noise, at=at)
    findings, safe = judge(evidence), safe_range(evidence)
    sentence = advice(worst(findings), safe, evidence)
    if matched is not None and not matched.agrees:
        findings, safe, sentence = (*findings, disagreement(matched)), None, matched.sentence
    return Report(
        findings, worst(findings), sentence, safe, t_start, linearity, curve,
        found.levels, found.missing, found.collapse, len(images), len(some), seed,
    )  # fmt: skip


def disagreement(matched: Match) -> Finding:
    """The finding "prior": it and the network speak of different values, and all else is judged of neither."""
    numbers = {"means": matched.means, "apart": matched.apart, "width": matched.width, "spreads": matched.spreads}
    return Finding("prior", "bad", matched.sentence, numbers)


def halves(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Indices of two random halves of n images: one to fit a prior to, the other to judge it on.

    Raises:
        ValueError: so few images that the second half could not be judged on.
    """
    if n < 2 * FEWEST:
        raise ValueError(
            f"expected at least {2 * FEWEST} images, half for the prior and half to judge it, received {n}"
        )
    order = torch.randperm(n, generator=seeded(seed))
    return order[: n // 2], order[n // 2 :]


# --- the recommendation -----------------------------------------------------------------------------------------------


def safe_range(e: Evidence) -> tuple[float, float] | None:
    """Lowest and highest t at which nothing is amiss; None where there is no such range.

    From the last level at which the network is worse than the prior, down to 0.5 nats, to an R^2 of 0.5, or to the last
    critical level, which ever comes first; the latter only where the prior fails at all.
    """
    linearity, curve = e.linearity, e.nats
    worse = curve.worse.nonzero().flatten()
    first = int(worse[-1]) + 1 if len(worse) else 0
    bent = (linearity.informative & (linearity.data < LINEAR[1])).nonzero().flatten()
    last = int(bent[0]) - 1 if len(bent) else len(curve.sigma) - 1
    if curve.nats[0] > NATS[0] or first >= len(curve.sigma) or last < 0:
        return None
    budget = e.budget(NATS[0])
    decided = [level.sigma for level in e.decisions.levels if level.criterion != "nats"] if budget else []
    low = max(curve.sigma[last].item(), budget.sigma if budget else 0.0, min(decided, default=0.0))
    high = curve.sigma[first].item()
    return (e.noise.clamped_time(low), e.noise.clamped_time(high)) if low < high else None


def advice(verdict: Verdict, safe: tuple[float, float] | None, e: Evidence) -> str:
    """The recommendation in one sentence."""
    subject = verdict if e.at is None else f"a start at t = {when(e.at.t)} is {verdict}"
    if safe is None:
        return f"{subject}: there is no t at which a late start from this prior is safe"
    told = f"{subject}: the prior can be relied on from t = {when(safe[1])} down to t = {when(safe[0])}"
    last, linear = e.budget(NATS[1]), e.linearity.limit
    if last is not None and (doubtful := e.noise.clamped_time(last.sigma)) < safe[0]:
        told += f", and down to t = {when(doubtful)} with doubts"
    if linear is not None and linear.t is not None and linear.t > safe[0]:
        told += f"; below t = {when(linear.t)} it no longer follows the path of a full run from the same noise"
    return told


# --- what is asked of the caller --------------------------------------------------------------------------------------


def _check_images(network: Network, prior: Any, images: Tensor, labels: Tensor | None) -> None:
    shape = network.sample_shape
    if tuple(prior.shape) != shape or tuple(images.shape[1:]) != shape:
        raise ValueError(
            f"the model's samples are {shape}, received a prior for {tuple(prior.shape)} and images "
            f"{tuple(images.shape)}"
        )
    if len(images) < FEWEST or not images.isfinite().all():
        raise ValueError(
            f"expected at least {FEWEST} images of finite floating-point values, received {len(images)}"
            f"{'' if images.isfinite().all() else ' with values that are NaN or infinite'}"
        )
    require_same_range(images, getattr(prior, "value_range", None), "the prior")
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
    return bool(apart <= 1e-8 * variance(images))
