"""Tune the shipped model for a few evaluations, and draw the same seeds in the ways that are compared.

tuning/                       the samples of the search, so that a run that was cut off goes on
recipe-5.safetensors, .png    the recipe for each number of evaluations, and its sheet

Three ways stand beside each other: DDIM from full noise as people run it, the best full noise of every solver, spacing,
last time and clipping that tuning tries, and the recipe. Images that neither network nor priors saw, as many as there
are samples of each, have the distance to hope for.

Expected: the gain on the best full noise has its lower end above 3 at 3 evaluations and above 1.3 at 5, from a late
start out of the mixture. At 10 the best full noise comes near to new images, and the recipe may be that.
"""

import time
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latestart import zoo
from latestart.data import in_unit_range, to_unit
from latestart.device import own_device
from latestart.evaluation.quality import Estimate, FrechetTo, feature_statistics, interval
from latestart.experiments.demo.settings import DemoSettings
from latestart.lab.experiment import Experiment, Lab
from latestart.records import Record, plain
from latestart.sampling.loop import draw
from latestart.sampling.recipe import Recipe, Trial
from latestart.tuning.pictures import Pictures, of_bundle
from latestart.tuning.tune import tune

__all__ = ["MODEL", "WAYS", "Demo", "Shown", "file_of"]

MODEL = "mnist"
IMAGES = 16  # of each way, for the sheet
WAYS = {"usual": "DDIM as people run it", "full": "best full noise", "chosen": "recipe"}  # trials of a recipe


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Shown(Record):
    """The recipes of the demo.

    Attributes:
        settings: as given.
        recipes: by the number of evaluations.
        floors: by the same, the distance of as many new images as a way has samples.
        images: `(16, C, H, W)` in [0, 1], by the number of evaluations and the way.
        judges: number of images that samples are compared with.
        seconds: that tuning took in this run.
        resumed: whether an earlier run had kept some of it.
    """

    settings: DemoSettings
    recipes: dict[int, Recipe]
    floors: dict[int, Estimate]
    images: dict[tuple[int, str], Tensor]
    judges: int
    seconds: float
    resumed: bool

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        known = {"model": MODEL, "seconds": round(self.seconds, 1), "resumed": self.resumed, "judges": self.judges}
        return known | {"recipes": [_record(one, self.floors[nfe]) for nfe, one in self.recipes.items()]}


def _record(recipe: Recipe, floor: Estimate) -> dict[str, Any]:
    figures = {name: getattr(recipe, name).record() for name in WAYS}
    rest = {"gain": recipe.gain, "reason": recipe.reason, "features": recipe.features, "search": recipe.search}
    return {"nfe": recipe.nfe, **figures, **plain(rest), "floor": plain(floor)}


class Demo(Experiment[DemoSettings, Shown]):
    """The shipped model, tuned."""

    def measure(self, settings: DemoSettings, lab: Lab) -> Shown | None:
        """Tune the model, and write the recipes.

        Raises:
            ValueError: a budget too small for one round, with what it takes.
        """
        bundle, kept = zoo.load(MODEL), lab.out / "tuning"
        network, scheduler, _ = zoo.open_model(MODEL, None, False, own_device())
        pictures, resumed, began = of_bundle(bundle), kept.is_dir(), time.monotonic()
        with lab.bar("tuning") as advance:
            recipes = tune(
                network, scheduler, pictures, settings.steps, features=bundle.features, budget=settings.budget,
                priors={"gaussian": bundle.prior, "mixture": bundle.mixture}, seed=settings.seed, folder=kept,
                run=lab.run, progress=advance,
            )  # fmt: skip
        seconds = time.monotonic() - began
        if not lab.run.first:
            return None
        for nfe, recipe in recipes.items():
            recipe.save(lab.out / file_of(nfe))
        return Shown(
            settings=settings, recipes=recipes, floors=_floors(recipes, pictures, bundle.features),
            images={
                (nfe, name): _images(network, recipe, getattr(recipe, name), settings.seed + 1)
                for nfe, recipe in recipes.items()
                for name in WAYS
            },
            judges=len(pictures.judge), seconds=seconds, resumed=resumed,
        )  # fmt: skip


def file_of(nfe: int) -> str:
    """Return the name of a recipe's file."""
    return f"recipe-{nfe}.safetensors"


def _floors(recipes: dict[int, Recipe], pictures: Pictures, extract: Any) -> dict[int, Estimate]:
    """Return the distances of new images to those that judge."""
    to, rows = FrechetTo(feature_statistics(pictures.judge, extract)), extract(pictures.held_out.unit())
    parts = {nfe: rows[: recipe.search["finals"]] for nfe, recipe in recipes.items()}
    return {nfe: interval(to.replicates(part), to(part)) for nfe, part in parts.items()}


def _images(network: Any, recipe: Recipe, trial: Trial, seed: int) -> Tensor:
    """Draw the first samples of a way."""
    way, ours = trial.way, recipe.to(own_device())
    begun = way.begun(recipe.trained(), trial.steps, None if way.within is None else ours.priors[way.within])
    result = draw(network, begun, ours.priors.get(way.prior), IMAGES, trial.steps, seed=seed)
    return in_unit_range(to_unit(result.samples)).cpu()
