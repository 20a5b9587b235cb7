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
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import recursively_apply
from torch import Tensor

from latestart.checks import whole_number
from latestart.data import to_pixels, to_unit
from latestart.denoisers.adapter import Counted, Network, as_network
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.identity import identity
from latestart.denoisers.wrappers import of_velocity
from latestart.evaluation.kernel import EnergyTo
from latestart.evaluation.quality import Estimate
from latestart.fingerprints import Print, fingerprint
from latestart.lab.cells import Meter
from latestart.lab.judge import ESTIMATES, Figures, Judge
from latestart.network_features import Space
from latestart.processes import Processes
from latestart.progress import Progress
from latestart.records import plain
from latestart.sampling.families import cuttable, family_of
from latestart.sampling.guard import LateStarted, prior_inside
from latestart.sampling.late_start import checked_scheduler
from latestart.sampling.loop import check_level
from latestart.sampling.probing import BlockNoise
from latestart.sampling.recipe import Recipe, Trial
from latestart.sampling.ways import GAUSSIAN, Way
from latestart.tuning.candidates import Candidate, candidates, usual
from latestart.tuning.decision import PREFERENCES, Decision, Finalist, decide
from latestart.tuning.drawing import Drawing, Final
from latestart.tuning.judging import COMPARED, judge_of, most_judges, space_of
from latestart.tuning.pictures import SEEN, Pictures, are_pictures, conditions_of, labels_of, split_of
from latestart.tuning.search import BLOCK, FINALISTS, RIVALS, Plan, Standing, TooFew, finalists, plan_for, search
from latestart.tuning.starts import (
    FORMAT,
    Starts,
    as_kept,
    fitted_priors,
    levels_of,
    notes_of,
    of_the_model,
    opened_priors,
    print_of,
)

__all__ = ["BUDGET", "tune"]

BUDGET = 60_000  # evaluations for each number of steps


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
        pictures = images if isinstance(images, Pictures) else split_of(network, images, labels, seed)
        everyone = Conditions(network, labels_of(network, pictures), model_kwargs, whole=True)
        held, judged = (conditions_of(everyone, pictures, k, network, model_kwargs) for k in (0, 1))
        print_ = fingerprint(*(part.pixels for part in (pictures.fitted, pictures.held_out, pictures.judge)))
        given = priors is not None
        made = opened_priors(priors) if given else fitted_priors(pictures, network, seed, folder, print_, run)
        made = {name: as_kept(prior).to(network.device) for name, prior in made.items()}
        kept, notes = of_the_model(network, trained, made, held, given)
        counted = Counted(network)
        starts = levels_of(counted, trained, kept, pictures.held_out, held, seed)
        notes += notes_of(starts, network, pictures)
        space = space_of(model, scheduler, network, features, everyone, pictures)
        judge = judge_of(pictures, space, most_judges(budget, space))
        return cls(
            counted, trained, scheduler, identity(model, scheduler), pictures, starts, judge, space, judged, seed,
            folder, run, parts, notes, print_, tell,
        )  # fmt: skip

    def shared(self, budget: int) -> int:
        """Return the evaluations of the nats, and of the features of the images that judge, for a number of steps."""
        images = min(most_judges(budget, self.space), len(self.pictures.judge))
        return math.ceil((self.starts.nfe + images * self.space.cost) / self.parts)

    def recipe(self, nfe: int, budget: int, prefer: str | None, batch_size: int, meter: Meter) -> Recipe:
        """Search, draw the finalists again, and decide."""
        inside, clip = self.starts.priors.get(GAUSSIAN), are_pictures(self.pictures)
        levels = {name: [s for s in some if self._reaches(s)] for name, some in self.starts.levels.items()}
        reasons: list[str] = []

        def tell(reason: str) -> None:
            reasons.append(reason)
            self.tell(reason)

        found = candidates(self.trained, nfe, levels, inside, clip, tell)
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
        except TooFew as error:
            needed = error.needed * cost + shared
            while needed < (more := error.needed * cost + self.shared(needed)):  # a larger budget pays for more images
                needed = more
            raise ValueError(
                f"budget={budget}: {len(found)} candidates of {nfe} evaluations take at least {needed} for one round"
            ) from error
        meter.settle(shared)
        drawing = self._drawing(nfe, found, batch_size, meter)
        standings, mine, theirs = search(found, plan, drawing.search, drawing.distance, drawing.failed)
        rivals = [*theirs[:1], *finalists(theirs, RIVALS, found, drawing.variance), *theirs]
        entered = [*finalists(mine, ours, found, drawing.variance), *list(dict.fromkeys(rivals))[:RIVALS]]
        ways = [found[k] for k in entered]
        if plain_way is not None and plain_way.way not in [one.way for one in ways]:
            ways.append(plain_way)
        spent = drawing.spent + shared
        samples = max(0, budget - spent) // cost // max(1, len(ways))
        finals = drawing.final(list(range(len(ways))), samples, ways)
        again = [self._finalist(one, final) for one, final in zip(ways, finals)]
        decision = decide(again, prefer)
        total = spent + samples * len(ways) * cost
        return self._made(nfe, decision, again, finals, standings, plan, samples, total, budget, prefer, plain_way)

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
            "priors": [print_of(prior) for prior in self.starts.priors.values()], "format": FORMAT,
            "conditions": _of_conditions(self.conditions),
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
        if len(parts) < 2 or not are_pictures(self.pictures):
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


def _of_conditions(conditions: Conditions) -> str:
    """Return the fingerprint of labels and arguments: other ones, other samples."""
    parts: list[Any] = [] if conditions.labels is None else [conditions.labels]
    recursively_apply(parts.append, conditions.kwargs)
    return str(fingerprint(*sorted(conditions.kwargs), *parts))


def _config(scheduler: Any) -> dict[str, Any]:
    return {name: value for name, value in scheduler.config.items() if not name.startswith("_")}


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
