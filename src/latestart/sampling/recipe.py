"""Recipes: the best way that `tune` found to sample a model in a few evaluations, with all that it takes, in one file.

    recipe = ls.load_recipe("recipe.safetensors")
    print(recipe)                                           # a card: what it is, what it gains, how sure that is
    result = ls.generate(model, recipe=recipe, n=64)

A recipe is one safetensors file: the prior of the start and the one inside the prior solver, the way (sampler with its
options, start, spacing, clipping, steps), the evidence, and the identities of model and scheduler, data and features.
A recipe is for one model: `require` compares it with another. The file carries a fingerprint of all that is in it, so
that one that was changed by hand is refused.
"""

import importlib
from collections.abc import Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.data import save_png, tile
from latestart.denoisers.identity import differences, identity
from latestart.evaluation.quality import Estimate
from latestart.files import load_tensors, save_tensors, sound
from latestart.fingerprints import fingerprint, key_of
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.prior import Prior
from latestart.records import Record, plain
from latestart.sampling.ways import FULL, Way

__all__ = ["KIND", "Recipe", "Trial", "load_recipe", "scheduler_of"]

KIND = "recipe"
COLUMNS = 8  # images in a row of the sheet


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Trial(Record):
    """A candidate that was tried, with its figures.

    Attributes:
        way: how it samples.
        steps: of its sampler.
        round: the last round of the search that it was drawn in, from 1; 0 for one that was drawn at the end alone.
        samples: number of its samples in the search.
        distance: energy distance of these to the images, by which the search compared it with the others; None where
            it failed or was not drawn.
        figures: names to figures of the final draw, with a fresh seed; None where it was not drawn again.
        out: the reason why it cannot be chosen, or nothing.
    """

    way: Way
    steps: int
    round: int
    samples: int
    distance: Estimate | None = None
    figures: Mapping[str, Estimate] | None = None
    out: str = ""

    def record(self) -> dict[str, Any]:
        """Return the trial for JSON."""
        figures = None if self.figures is None else {name: asdict(one) for name, one in self.figures.items()}
        rest = {name: getattr(self, name) for name in ("steps", "round", "samples", "out")}
        return {
            "way": self.way.record(),
            **rest,
            "distance": self.distance and asdict(self.distance),
            "figures": figures,
        }

    @classmethod
    def read(cls, known: Mapping[str, Any]) -> "Trial":
        """Return the trial of what `record` gave."""
        figures = known["figures"] and {name: Estimate(**one) for name, one in known["figures"].items()}
        rest = {name: known[name] for name in ("steps", "round", "samples", "out")}
        distance = known["distance"] and Estimate(**known["distance"])
        return cls(way=Way(**known["way"]), distance=distance, figures=figures, **rest)


@dataclass(frozen=True, eq=False, repr=False)
class Recipe(Record):
    """The best way that was found to sample a model in a number of evaluations.

    Attributes:
        chosen: the way that was chosen, with its figures.
        full: the best full noise of diffusers' solvers, drawn with the same seeds; the chosen one where none is better.
        usual: full noise as people run it, DDIM or the model's own scheduler with their default settings.
        nfe: network evaluations for each sample.
        gain: distance of `full` over that of `chosen`, with its interval; None where full noise was chosen.
        reason: why this way was chosen, and what it costs in precision or recall, in sentences.
        priors: of the way, by name; `prior` and `inside` are those that it needs.
        scheduler: class and configuration of the one that the model was trained with.
        model: its identity, with that of the scheduler.
        data: number and fingerprint of the images, and how they were split.
        features: name of the feature space of the figures.
        search: the settings of the search, and the evaluations that it cost.
        evidence: every candidate that was tried.
        samples: a few of the chosen way and of full noise with the same seeds, uint8 `(2, n, C, H, W)`, or None.
    """

    chosen: Trial
    full: Trial
    usual: Trial
    _: KW_ONLY
    nfe: int
    gain: Estimate | None
    reason: tuple[str, ...]
    priors: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    features: str
    search: Mapping[str, Any]
    evidence: tuple[Trial, ...]
    samples: Tensor | None = field(default=None)

    @property
    def way(self) -> Way:
        """The chosen way to sample."""
        return self.chosen.way

    @property
    def steps(self) -> int:
        """Steps of its sampler."""
        return self.chosen.steps

    @property
    def late(self) -> bool:
        """Whether sampling starts late."""
        return self.way.t_start is not None

    @property
    def prior(self) -> Any:
        """The distribution of a late start; None for full noise, or N(0, I) at a late start."""
        return self.priors.get(self.way.prior)

    @property
    def inside(self) -> Prior | None:
        """The prior inside the prior solver; None for another sampler."""
        return None if self.way.within is None else self.priors[self.way.within]

    def __repr__(self) -> str:
        gain = "" if self.gain is None else f", gain={self.gain}"
        return f"Recipe({self.way.describe()}, nfe={self.nfe}{gain})"

    def __str__(self) -> str:
        """A card that a person can read."""
        return "\n".join(self.card())

    def card(self) -> list[str]:
        """Return the lines of a card: the way, its gain and how sure that is, and the cost of tuning."""
        lines = [f"recipe for {self.nfe} network evaluations: {self.way.describe()} ({self.steps} steps)"]
        lines += [f"  {sentence}" for sentence in self.reason]
        for name, trial in (("recipe", self.chosen), ("best full noise", self.full), ("usual", self.usual)):
            if name != "recipe" and self.late and trial.way == self.way:
                continue  # there is no full noise
            told = ", ".join(f"{what} {figure}" for what, figure in (trial.figures or {}).items())
            lines.append(f"  {name}: {trial.way.describe()}: {told}")
        lines.append(
            f"  model: {self.model['network']} on samples of {tuple(self.model['shape'])}, {self.scheduler['class']}; "
            f"features: {self.features}"
        )
        lines.append(
            f"  search: {len(self.evidence)} candidates, {self.search['spent']:,} evaluations of {self.data['images']} "
            f"images and samples, seed {self.search['seed']}"
        )
        return lines

    def trained(self) -> Any:
        """Return the scheduler that the model was trained with, made anew.

        Raises:
            ValueError: its class is not one of diffusers.
        """
        return scheduler_of(self.scheduler)

    def begun(self, scheduler: Any = None) -> Any:
        """Return the scheduler of a run, late-started or not, over the levels of the one that the model has."""
        trained = self.trained() if scheduler is None else scheduler
        return self.way.begun(trained, self.steps, self.inside)

    def require(self, model: Any, scheduler: Any) -> None:
        """Raise `ValueError` with both unless a model and its scheduler are those that the recipe is for."""
        if found := differences(self.model, identity(model, scheduler)):
            raise ValueError(f"the recipe is for another model: it has {'; '.join(found)}; tune this one")

    def to(self, device: torch.device | str) -> "Recipe":
        """Return the recipe with its priors on a device."""
        return replace(self, priors={name: prior.to(device) for name, prior in self.priors.items()})

    def save(self, path: str | Path) -> Path | None:
        """Write the file, whole or not at all, and the sheet of samples beside it, if there are any.

        Mixtures are written in half precision; those that `tune` works with are rounded to it before.

        Args:
            path: of the file; the sheet is a PNG of the same name: the recipe's samples above, full noise below.

        Returns:
            The path of the sheet, or None.
        """
        tensors: dict[str, Tensor] = {} if self.samples is None else {"samples": self.samples}
        abouts = {}
        for name, prior in self.priors.items():
            own = prior.tensors(torch.float16) if isinstance(prior, Mixture) else prior.tensors()
            tensors |= {f"{name}/{key}": value for key, value in own.items()}
            abouts[name] = {"kind": type(prior).__name__, **prior.about()}
        trials = {name: getattr(self, name).record() for name in ("chosen", "full", "usual")}
        metadata = {
            **trials, "nfe": self.nfe, "gain": self.gain and asdict(self.gain), "reason": list(self.reason),
            "priors": abouts, "scheduler": plain(self.scheduler), "model": plain(self.model), "data": plain(self.data),
            "features": self.features, "search": plain(self.search), "encoder": None,
            "evidence": [trial.record() for trial in self.evidence],
        }  # fmt: skip
        save_tensors(path, KIND, tensors, {**metadata, "fingerprint": _print(tensors, metadata)})
        return None if self.samples is None else _sheet(Path(path).with_suffix(".png"), self.samples)


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe that `Recipe.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged or foreign, of another version, or was changed since it was written.
    """
    tensors, metadata = load_tensors(path, KIND)
    written = metadata.pop("fingerprint", None)
    if written != (found := _print(tensors, metadata)):
        raise ValueError(
            f"the recipe {path} was changed since it was written: its fingerprint is {written}, that of its content "
            f"{found}"
        )
    if metadata.get("encoder") is not None:
        raise ValueError(f"the recipe {path} is for latents of the encoder {metadata['encoder']}: expected one without")
    with sound(path, KIND):
        priors = {name: _prior(name, about, tensors) for name, about in metadata["priors"].items()}
        trials = [Trial.read(metadata[name]) for name in ("chosen", "full", "usual")]
        gain = metadata["gain"]
        made = Recipe(
            *trials, nfe=metadata["nfe"], gain=gain and Estimate(**gain), reason=tuple(metadata["reason"]),
            priors=priors, scheduler=metadata["scheduler"], model=metadata["model"], data=metadata["data"],
            features=metadata["features"], search=metadata["search"],
            evidence=tuple(Trial.read(one) for one in metadata["evidence"]), samples=tensors.get("samples"),
        )  # fmt: skip
        for needed in (made.way.within, None if made.way.prior == FULL else made.way.prior):
            if needed is not None and needed not in priors:
                raise ValueError(f"the prior {needed!r} is missing")
        return made


def scheduler_of(known: Mapping[str, Any]) -> Any:
    """Return the diffusers scheduler of a class name and a configuration.

    Raises:
        ValueError: diffusers has no such class.
    """
    kind = getattr(importlib.import_module("diffusers"), known["class"], None)
    if kind is None or not hasattr(kind, "from_config"):
        raise ValueError(
            f"diffusers has no scheduler {known['class']}: give the scheduler that the model was trained with"
        )
    return kind.from_config(dict(known["config"]))


def _prior(name: str, about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    kinds: dict[str, Any] = {"Gaussian": Gaussian, "Mixture": Mixture}
    own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    return kinds[about["kind"]].restored(own, dict(about))


def _print(tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> str:
    return str(fingerprint(str(key_of(dict(metadata))), *(part for pair in sorted(tensors.items()) for part in pair)))


def _sheet(path: Path, samples: Tensor) -> Path:
    """Draw samples `(2, n, C, H, W)`, bytes: the chosen ones above, those of full noise below."""
    rows = [tile(part, COLUMNS, gap=1, background=96) for part in samples]
    bar = torch.full((rows[0].shape[0], 6, rows[0].shape[2]), 255, dtype=torch.uint8)
    save_png(path, torch.cat([rows[0], bar, rows[1]], 1))
    return path
