"""Tuning: from a model and images to the best few evaluations, in one call that never loses to full noise.

    recipe = ls.tune(model, scheduler, "photos/", steps=5)
    print(recipe)
    recipe.save("recipe.safetensors")

The images are split (`pictures.py`); a Gaussian and a mixture are fitted, and their nats say from which levels a late
start is tried (`starts.py`); with full noise of every solver these make at most 300 ways to sample (`candidates.py`),
which are halved in rounds (`search.py`); the finalists are drawn again with the next seed, and a way of ours is taken
only where it is better than the best full noise beyond chance (`decision.py`).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.checks import whole_number
from latestart.data import in_unit_range, to_pixels, to_unit
from latestart.denoisers.adapter import Counted, Network, as_network
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.identity import identity
from latestart.denoisers.wrappers import of_velocity
from latestart.evaluation.copying import CopyingFrom
from latestart.evaluation.kernel import EnergyTo
from latestart.evaluation.quality import Estimate, resolve
from latestart.fingerprints import Print, fingerprint
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.moments import Moments
from latestart.gaussians.priors import load_prior
from latestart.inputs.front import as_images
from latestart.lab.cells import Meter
from latestart.lab.judge import ESTIMATES, REAL, Figures, Judge, Reference
from latestart.lab.subjects import kept_fit
from latestart.network_features import NETWORK, NetworkFeatures, Space, middle_of, one_label
from latestart.processes import Processes
from latestart.progress import Progress
from latestart.records import plain
from latestart.sampling.families import cuttable, family_of
from latestart.sampling.guard import LateStarted, prior_inside
from latestart.sampling.late_start import checked_scheduler
from latestart.sampling.loop import check_level
from latestart.sampling.matching import Match, check_shape, match
from latestart.sampling.probing import BlockNoise
from latestart.sampling.recipe import Recipe, Trial
from latestart.sampling.ways import GAUSSIAN, Way
from latestart.tuning.candidates import Candidate, candidates, usual
from latestart.tuning.decision import CONTRAST, PREFERENCES, Decision, Finalist, decide
from latestart.tuning.drawing import Drawing, Final
from latestart.tuning.pictures import Pictures, split
from latestart.tuning.search import BLOCK, FINALISTS, RIVALS, Plan, Standing, nearest, plan_for, search
from latestart.tuning.starts import MIXTURE, Starts, fitted, levels_of
from latestart.tuning.waves import Waves

__all__ = ["BUDGET", "tune"]

BUDGET = 60_000  # evaluations for each number of steps
COMPARED = 1500  # images that the search compares samples with
SHARE = 20  # of the budget, the part that the features of the images may cost
KNOWN, MOST_KNOWN = 0.02, 0.1  # nats below which a prior is all that there is to know of the images, with its error
FORMAT = 4  # of the search: another one would find another recipe
MARGIN = 0.03  # of variance, below the bar: a finalist at the bar would be barred by its final draw
SEEN = 512  # images whose leading directions the noise is spread over


def tune(
    model: Any,
    scheduler: Any,
    images: Any,
    steps: int | Iterable[int] = 5,
    *,
    priors: Mapping[str, Any] | None = None,
    features: Any = None,
    labels: Any = None,
    model_kwargs: Mapping[str, Any] | None = None,
    budget: int = BUDGET,
    prefer: str | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    batch_size: int = 256,
    run: Processes | None = None,
    progress: Progress | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Any:
    """Find the best way to sample a model in a few network evaluations.

    Args:
        model: a diffusers network, an exact model through `as_model`, or a function through `as_network`.
        scheduler: the one that it was trained with, of any family.
        images: those that it was trained on, at least 800, whatever `as_images` takes; floats in the model's range.
        steps: network evaluations of a sample; several give a recipe for each.
        priors: fitted before, by the names `gaussian` and `mixture`, or the paths of their files; by default they are
            fitted to part of the images.
        features: of the figures: the name of an extractor, a function from images `(B, C, H, W)` in [0, 1] to features,
            "network" or "values"; by default the network's own (`NetworkFeatures`), whose evaluations the budget pays,
            and of models that have none the samples' values with waves of them (`waves.py`).
        labels: for class-conditional models, those of the images; those that they bring by default.
        model_kwargs: further conditions, by the names of the network's own arguments: one row an image, or one for all.
        budget: network evaluations for each number of steps; it is kept to within 2%.
        prefer: "recall" or "precision", in which a recipe may lie at most 0.03 below the best full noise; None takes
            the lowest distance.
        seed: of the split, the priors and the search; the finalists are drawn with the next.
        folder: where the work is kept, so that a run that was cut off goes on; with several processes it is needed.
        batch_size: samples evaluated at once.
        run: the processes that share the work; the present one by default.
        progress: called as `progress(done, total, note)`, in evaluations.
        tell: receives sentences about candidates that are left out.

    Returns:
        A recipe, or for several steps a dict of them. The best full noise, where nothing is better beyond chance.

    Raises:
        TypeError: something that is no network, scheduler or prior.
        ValueError: too few images, or of another shape; images that are not the model's, with what shows it; a budget
            too small for one round, with what it takes; a scheduler of a model that was distilled to a few times; an
            unknown preference.
    """
    asked = [whole_number("steps", one) for one in ((steps,) if isinstance(steps, int) else steps)]
    if not asked:
        raise ValueError("expected at least one number of steps, received none")
    if prefer not in (None, *PREFERENCES):
        raise ValueError(f"prefer={prefer!r}: expected {' or '.join(PREFERENCES)}, or None for the lowest distance")
    budget, batch_size = whole_number("budget", budget), whole_number("batch_size", batch_size)
    scheduler = _whole(checked_scheduler(scheduler))
    network, trained = of_velocity(as_network(model), scheduler)
    tuning = _Tuning.opened(
        as_network(network), trained, scheduler, model, images, priors, features, labels, model_kwargs, seed,
        None if folder is None else Path(folder), run or Processes(), len(asked), budget, tell,
    )  # fmt: skip
    meter = Meter(budget * len(asked), progress)
    found = {nfe: tuning.recipe(nfe, budget, prefer, batch_size, meter) for nfe in asked}
    return found[asked[0]] if isinstance(steps, int) else found


@dataclass(eq=False)
class _Tuning:
    """All that the search of every number of steps shares."""

    network: Counted
    trained: Any
    scheduler: Any
    identity: dict[str, Any]
    pictures: Pictures
    starts: Starts
    judge: Judge
    space: Space
    conditions: Conditions
    seed: int
    folder: Path | None
    run: Processes
    parts: int
    notes: tuple[str, ...]
    print: Print
    tell: Callable[[str], None]

    @classmethod
    def opened(
        cls, network: Network, trained: Any, scheduler: Any, model: Any, images: Any, priors: Any, features: Any,
        labels: Any, model_kwargs: Any, seed: int, folder: Path | None, run: Processes, parts: int, budget: int,
        tell: Callable[[str], None],
    ) -> "_Tuning":  # fmt: skip
        """Split the images, fit the priors, and compare them with the model."""
        _refuse_distilled(scheduler)
        pictures = images if isinstance(images, Pictures) else _split(network, images, labels, seed)
        everyone = Conditions(network, _labels(network, pictures), model_kwargs, whole=True)
        held, judged = (_rows(everyone, pictures, k, network, model_kwargs) for k in (0, 1))
        print_ = fingerprint(*(part.pixels for part in (pictures.fitted, pictures.held_out, pictures.judge)))
        given = priors is not None
        made = _opened(priors) if given else _fits(pictures, network, trained, seed, folder, print_, run)
        made = {name: _as_kept(prior).to(network.device) for name, prior in made.items()}
        kept, notes = _of_the_model(network, trained, made, held, given)
        counted = Counted(network)
        starts = levels_of(counted, trained, kept, pictures.held_out, held, seed)
        notes += _known(starts, network, pictures)
        space = _space(model, scheduler, network, features, everyone, pictures)
        judge = _judge(pictures, space, _judging(budget, space))
        return cls(
            counted, trained, scheduler, identity(model, scheduler), pictures, starts, judge, space, judged, seed,
            folder, run, parts, notes, print_, tell,
        )  # fmt: skip

    def shared(self, budget: int) -> int:
        """Return the evaluations of the nats, and of the features of the images that judge, for a number of steps."""
        images = min(_judging(budget, self.space), len(self.pictures.judge))
        return math.ceil((self.starts.nfe + images * self.space.cost) / self.parts)

    def recipe(self, nfe: int, budget: int, prefer: str | None, batch_size: int, meter: Meter) -> Recipe:
        """Search, draw the finalists again, and decide."""
        inside, bounded = self.starts.priors.get(GAUSSIAN), _bounded(self.pictures)
        levels = {name: [s for s in some if self._reaches(s)] for name, some in self.starts.levels.items()}
        reasons: list[str] = []

        def tell(reason: str) -> None:
            reasons.append(reason)
            self.tell(reason)

        found = candidates(self.trained, nfe, levels, inside, bounded, tell)
        if not self._reaches(None):
            found = [one for one in found if one.way.t_start is not None]
        if not found:
            raise ValueError(
                f"there is no way to sample this model in {nfe} evaluations: {next(iter(reasons), 'it has no start')}"
            )
        plain_way = self._usual(nfe)
        ours = FINALISTS if prefer is None else 2 * FINALISTS
        cost = nfe + self.space.cost
        shared = self.shared(budget)
        count = (budget - shared) // cost
        try:
            plan = plan_for(found, count, ours + RIVALS + 1)
        except ValueError as error:
            samples = int(str(error).rsplit(" ", 1)[-1])
            needed = samples * cost + shared
            while needed < (more := samples * cost + self.shared(needed)):  # a larger budget pays for more images
                needed = more
            raise ValueError(
                f"budget={budget}: {len(found)} candidates of {nfe} evaluations take at least {needed} for one round"
            ) from error
        meter.settle(shared)
        drawing = self._drawing(nfe, found, batch_size, meter)
        standings, mine, theirs = search(found, plan, drawing.search, drawing.distance, drawing.failed)
        mine, clean = ([k for k in some if not _too_bright(drawing.variance(k))] for some in (mine, theirs))
        ways = [
            found[k]
            for k in (*nearest(mine, ours, found), *list(dict.fromkeys((*theirs[:1], *clean[:1], *theirs)))[:RIVALS])
        ]
        if plain_way is not None and plain_way.way not in [one.way for one in ways]:
            ways.append(plain_way)
        spent = drawing.spent + shared
        samples = max(0, budget - spent) // cost // max(1, len(ways))
        finals = drawing.final(list(range(len(ways))), samples, ways)
        finalists = [self._finalist(one, final) for one, final in zip(ways, finals)]
        decision = decide(finalists, prefer)
        total = spent + samples * len(ways) * cost
        return self._made(nfe, decision, finalists, finals, standings, plan, samples, total, budget, prefer, plain_way)

    def _reaches(self, sigma: float | None) -> bool:
        """Whether the network was trained on a level; None is full noise."""
        t_start = None if sigma is None else float(family_of(self.trained).noise.clamped_time(sigma))
        try:
            check_level(self.network, self.trained, t_start)
        except ValueError:
            return False
        return True

    def _usual(self, nfe: int) -> Candidate | None:
        way = usual(self.trained)
        if not self._reaches(None):
            return None
        try:
            return Candidate(way, way.steps_for(nfe, self.trained), "usual", False)
        except (ValueError, IndexError, ZeroDivisionError):
            return None

    def _drawing(self, nfe: int, found: list[Candidate], batch_size: int, meter: Meter) -> Drawing:
        rows = self.judge.reference.real[:COMPARED]
        values = self.pictures.fitted[:SEEN].floats()
        about = {
            "nfe": nfe, "model": key_text(self.identity), "images": self.print, "features": self.space.name,
            "priors": [_told(prior) for prior in self.starts.priors.values()], "format": FORMAT,
        }  # fmt: skip
        return Drawing(
            self.network, self.trained, dict(self.starts.priors), found, self.judge, self.space, EnergyTo(rows),
            BlockNoise(values, BLOCK, nfe + 1, self.seed), self.conditions, self.seed, self.folder, about, self.run,
            meter, batch_size,
        )  # fmt: skip

    def _finalist(self, one: Candidate, final: Final | str) -> Finalist:
        if isinstance(final, str):
            return Finalist(one, None, f"failed: {final}")
        try:
            return Finalist(one, self.judge.figures(final.reading))
        except FloatingPointError as error:
            return Finalist(one, None, f"failed: {error}")

    def _made(
        self, nfe: int, decision: Decision, finalists: list[Finalist], finals: list[Final | str],
        standings: list[Standing], plan: Plan, samples: int, spent: int, budget: int, prefer: str | None,
        plain_way: Candidate | None,
    ) -> Recipe:  # fmt: skip
        drawn = {one.candidate.way: k for k, one in enumerate(finalists)}
        known = {one.candidate.way: one for one in standings}

        def trial(one: Candidate) -> Trial:
            standing, k = known.get(one.way), drawn.get(one.way)
            figures = None if k is None else _figures(finalists[k].figures)
            reason = decision.out.get(k, "") if k is not None else ""
            return Trial(
                way=one.way, steps=one.steps, round=standing.round if standing else 0,
                samples=standing.samples if standing else 0,
                distance=None if standing is None or standing.distance is None else _rounded(standing.distance),
                figures=figures, out=reason or (standing.out if standing else ""),
            )  # fmt: skip

        evidence = [trial(one.candidate) for one in standings]
        evidence += [trial(one.candidate) for one in finalists if one.candidate.way not in known]
        full = decision.full or decision.chosen
        needed = {name for name in (decision.chosen.candidate.way.prior, decision.chosen.candidate.way.within) if name}
        plain_finalist = next(
            (one for one in finalists if plain_way is not None and one.candidate.way == plain_way.way), full
        )
        gain = decision.gain
        return Recipe(
            trial(decision.chosen.candidate), trial(full.candidate), trial(plain_finalist.candidate), nfe=nfe,
            gain=None if gain is None else _rounded(gain),
            reason=(*decision.reason, *self.notes),
            priors={name: prior.to("cpu") for name, prior in self.starts.priors.items() if name in needed},
            scheduler={"class": type(self.scheduler).__name__, "config": plain(_config(self.scheduler))},
            model=self.identity,
            data={"images": self.pictures.count, "fingerprint": str(self.print), "split": self.pictures.how},
            features=self.space.name,
            search={
                "budget": budget, "spent": spent, "seed": self.seed, "prefer": prefer, "rounds": list(plan.rounds),
                "finals": samples, "format": FORMAT,
            },
            evidence=tuple(evidence),
            samples=self._shown(drawn, finals, decision),
        )  # fmt: skip

    def _shown(self, drawn: dict[Way, int], finals: list[Final | str], decision: Decision) -> Tensor | None:
        """Return a few samples of the chosen way and of full noise as bytes; None of what are no pictures."""
        if len(self.network.sample_shape) != 3 or self.network.sample_shape[0] not in (1, 3):
            return None
        shown = [one.candidate.way for one in (decision.chosen, decision.full) if one is not None]
        parts = [final.shown for way in shown if isinstance(final := finals[drawn[way]], Final)]
        if len(parts) < 2 or not _bounded(self.pictures):
            return None
        return torch.stack([to_pixels(to_unit(part)) for part in parts])


def key_text(known: Mapping[str, Any]) -> str:
    """Return the fingerprint of names and values."""
    return str(fingerprint(str(plain(dict(known)))))


def _whole(scheduler: Any) -> Any:
    """Return the scheduler over the whole schedule, of a late-started one or one with a prior inside too."""
    whole = scheduler.whole() if isinstance(scheduler, LateStarted) else scheduler
    return whole if prior_inside(whole) is None else whole.grid


def _refuse_distilled(scheduler: Any) -> None:
    try:
        cuttable(scheduler, 1.0 if family_of(scheduler).shifts else None)
    except ValueError as error:
        raise ValueError(f"there is nothing to tune here, sample the model as it is: {error}") from error


def _split(network: Network, images: Any, labels: Any, seed: int) -> Pictures:
    found = as_images(images, labels=labels, shape=network.sample_shape).collected()
    if tuple(found.shape) != network.sample_shape:
        raise ValueError(f"the model's samples are {network.sample_shape}, the images {tuple(found.shape)}")
    if not found.bare and not bool(found.pixels.isfinite().all()):
        raise ValueError("expected images of finite values, received some that are NaN or infinite")
    return split(found, seed)


def _labels(network: Network, pictures: Pictures) -> Tensor | None:
    """Return the labels that the images bring, where the network takes any; else its classes in turn."""
    if not network.classes:
        return None
    return torch.arange(network.classes) if pictures.judge.labels is None else pictures.judge.labels


def _rows(everyone: Conditions, pictures: Pictures, part: int, network: Network, kwargs: Any) -> Conditions:
    """Return the conditions of the held-out images (0) or of those that judge (1)."""
    own = (pictures.held_out, pictures.judge)[part]
    if network.classes and own.labels is not None:
        given = kwargs
        if kwargs and pictures.rows is not None and everyone.count == pictures.count:
            given = everyone[pictures.rows[part]].kwargs
        return Conditions(network, own.labels, given)
    if pictures.rows is not None and everyone.count == pictures.count:
        return everyone[pictures.rows[part]]
    return everyone.turned(len(own)) if everyone.count else everyone


def _opened(priors: Mapping[str, Any]) -> dict[str, Any]:
    """Return given priors, from their files where they are paths.

    Raises:
        ValueError: a name that is not known.
    """
    if odd := sorted(set(priors) - {GAUSSIAN, MIXTURE}):
        raise ValueError(f"expected priors by the names {GAUSSIAN} and {MIXTURE}, received {odd[0]!r}")
    found: dict[str, Any] = {
        name: load_prior(one) if isinstance(one, str | Path) else one for name, one in priors.items()
    }
    if MIXTURE in found and GAUSSIAN not in found:
        found = {GAUSSIAN: found[MIXTURE].gaussian(), **found}
    return found


def _fits(
    pictures: Pictures, network: Network, trained: Any, seed: int, folder: Path | None, print_: Print, run: Processes
) -> dict[str, Any]:
    """Return the priors, fitted by the first process, and kept in the folder if there is one."""
    values = pictures.fitted[:SEEN].floats().flatten(1).double()
    sigma = 0.25 * float(values.var(0).sum().sqrt())  # where a mixture of natural images or digits is in use
    classes = bool(network.classes) and pictures.fitted.labels is not None

    def made() -> dict[str, Any]:
        return fitted(pictures, classes, sigma, seed, "cpu")

    if folder is None:
        return run.firsts(made)
    fits: dict[str, Any] = {}

    def one(name: str) -> Any:
        if not fits:
            fits.update(made())
        return fits.get(name, fits[GAUSSIAN])

    def kept() -> dict[str, Any]:
        parts = (print_, seed, classes, FORMAT)
        found = {name: kept_fit(folder, name, parts, partial(one, name))[0] for name in (GAUSSIAN, MIXTURE)}
        return {name: prior for name, prior in found.items() if name == GAUSSIAN or not isinstance(prior, Gaussian)}

    return run.firsts(kept)


def _of_the_model(
    network: Network, trained: Any, priors: Mapping[str, Any], conditions: Conditions, given: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the priors that speak of the model's images; of fitted ones all must.

    Raises:
        ValueError: the images, or none of the given priors, are the model's.
    """
    kept, notes = {}, []
    for name, prior in priors.items():
        check_shape(network, prior)
        found = match(network, trained, prior, conditions if conditions.count else None)
        if found.agrees:
            kept[name] = prior
        elif not given:
            raise ValueError(f"the images are not those of the model: {_seen(found)}")
        else:
            notes.append(f"the prior {name!r} is of other images than the model, and was left out: {_seen(found)}")
    return kept, tuple(notes)


def _seen(found: Match) -> str:
    """Return the comparison of a prior with the model in words, without the advice to leave it out."""
    return found.sentence.partition("; check_prior=")[0]


def _known(starts: Starts, network: Network, pictures: Pictures) -> tuple[str, ...]:
    """Return what the nats say of model and priors, in sentences.

    Raises:
        ValueError: the network is worse than the Gaussian of the images at most levels.
    """
    notes = []
    for name, curve in starts.curves.items():
        if name == GAUSSIAN and float(curve.worse.double().mean()) > 0.5:
            unknown = network.classes and pictures.held_out.labels is None
            raise ValueError(
                "the images are not those of the model, or it is not trained: at "
                f"{int(curve.worse.sum())} of {len(curve.worse)} noise levels the network denoises them worse than "
                "their own Gaussian does"
                f"{'; it has classes, and the images bring no labels: give those too' if unknown else ''}"
            )
        peak = int(curve.nats.argmax())
        if float(curve.nats[peak]) < min(KNOWN + 3 * float(curve.error[peak]), MOST_KNOWN):
            notes.append(
                f"the images are as good as samples of the {name} itself ({float(curve.nats.max()):.2g} nats at the "
                "lowest level): there is nothing left for the network to decide, and a late start gains by the prior "
                "alone"
            )
    known = getattr(network, "max_sigma", None)
    if known is not None:
        notes.append(
            f"the network was trained on noise levels up to sigma = {float(known):.4g} only: full noise cannot be "
            "sampled, and starts above that level were left out"
        )
    return tuple(notes)


def _space(
    model: Any, scheduler: Any, network: Network, features: Any, everyone: Conditions, pictures: Pictures
) -> Space:
    label = one_label(everyone.labels)
    if features is None:
        features = Waves.name if middle_of(model) is None else NETWORK
    if features == NETWORK:
        extract: Any = NetworkFeatures(model, scheduler, labels=label, model_kwargs=everyone.kwargs)
    elif features == Waves.name:
        extract = Waves(pictures.fitted[:SEEN].floats())
    else:
        extract = resolve(features)
    if not hasattr(extract, "name"):
        extract = _Named(extract)
    return Space(extract, _bounded(pictures))


class _Named:
    """A function as an extractor with a name."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__name__)

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images)


def _judge(pictures: Pictures, space: Space, most: int) -> Judge:
    """Return the judge of samples, by the images that no other part of tuning sees."""
    judging = pictures.judge[:most].floats()
    rows = torch.cat([space(part) for part in judging.split(1024)])
    size = min(REAL, len(pictures.held_out) // 2, len(pictures.fitted))
    view = _view(pictures)
    sets = (pictures.fitted[:size], pictures.held_out[:size], pictures.held_out[size : 2 * size])
    values = torch.cat([pictures.fitted[:most].floats(), judging]).flatten(1).double()
    statistics = Moments(tuple(rows.shape[1:]), "dense", products=torch.float64)
    statistics.update(rows.double())
    reference = Reference(
        statistics=statistics.gaussian(), real=rows[:REAL], copying=None,
        shape=tuple(judging.shape[1:]), fingerprint=fingerprint(judging), variance=float(values.var(0).sum()),
    )  # fmt: skip
    judge = Judge(space.extract, reference, view=view, space=space)
    train, held_out, second = (view(part.floats()) for part in sets)
    judge.copying = CopyingFrom(train, held_out, second)
    return judge


def _as_kept(prior: Any) -> Any:
    """Return a prior as a recipe's file gives it back."""
    return prior.rounded() if isinstance(prior, Mixture) else prior


def _bounded(pictures: Pictures) -> bool:
    """Whether the images are pictures in [-1, 1]."""
    return bool(pictures.judge[:SEEN].floats().abs().max() <= 1)


def _judging(budget: int, space: Space) -> int:
    """Return the most images that judge, whose features the budget pays for."""
    return max(2 * COMPARED, 200) if space.cost == 0 else max(200, budget // SHARE // space.cost)


def _view(pictures: Pictures) -> Callable[[Tensor], Tensor]:
    """Return the function from samples to images in [0, 1]; what are no pictures are laid out as such."""
    if _bounded(pictures) and len(pictures.judge.shape) == 3:
        return lambda x: in_unit_range(to_unit(x))
    low, high = (float(end) for end in pictures.fitted.floats().aminmax())
    return lambda x: ((x.float() - low) / max(high - low, 1e-12)).clamp(0, 1).reshape(len(x), 1, 1, -1)


def _told(prior: Any) -> str:
    return str(fingerprint(*(part for pair in sorted(prior.tensors().items()) for part in pair)))


def _too_bright(variance: float | None) -> bool:
    """Whether the search shows already that a candidate's samples have too much variance."""
    return variance is not None and variance > CONTRAST - MARGIN


def _figures(figures: Figures | None) -> dict[str, Any] | None:
    if figures is None:
        return None
    known = {name: getattr(figures, name) for name in ESTIMATES}
    return {name: _rounded(one) for name, one in known.items() if one is not None}


def _rounded(one: Estimate) -> Estimate:
    return Estimate(*map(_digits, (one.value, one.low, one.high)))


def _digits(value: float) -> float:
    """Return a number to five digits, so that it is the same on every machine."""
    return float(f"{value:.5g}")


def _config(scheduler: Any) -> dict[str, Any]:
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
