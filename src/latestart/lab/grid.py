"""The grid of a sweep: what is to be measured, from a YAML file, from flags, or from both.

    model x sampler x nfe x prior x t_start x spacing x clip

Each axis is a list, or text with commas. What does not apply to a cell is left out of it, so that no cell is measured
twice: full noise (the prior `none`) has no start; a late start begins at its start, so that of the spacings of times
only `trailing` is left, beside the curved ones, which spread noise levels; a sampler that cannot clip does without.

What late starts gain is gained on the best full noise of the grid. So that it is no weak one, the grid has both leading
and trailing spacing, clipped and unclipped, unless it is told otherwise.

    model: mnist
    sampler: [ddim, dpm++]
    nfe: [3, 5, 10]
    prior: [none, gaussian, mixture]
    t-start: [300, 400, 500]
    spacing: [leading, trailing]
    samples: 1000
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from latestart.checks import PRECISIONS
from latestart.evaluation.manifold import FEWEST
from latestart.sampling.samplers import SAMPLERS, can_clip, clipping
from latestart.sampling.spacings import SPACINGS, TIMES

FULL, PLAIN = "none", "isotropic"  # N(0, I) at the top of the schedule, and at a late start
TRUTH = {"true": True, "false": False}


@dataclass(frozen=True)
class Cell:
    """One way to sample, and how much.

    Attributes:
        model: the name of a shipped model, or a folder.
        sampler: its short name.
        nfe: network evaluations for each sample.
        prior: `none` (full noise), `isotropic`, `gaussian`, `mixture`, or a file.
        t_start: where a late start begins, in the scheduler's t; None from full noise.
        spacing: of the times or of the levels.
        clip: whether the predicted image is clipped at every step.
        samples: how many are drawn.
        seed: of their noise.
    """

    model: str
    sampler: str
    nfe: int
    prior: str
    t_start: float | None
    spacing: str
    clip: bool
    samples: int
    seed: int

    @property
    def cost(self) -> int:
        """Network evaluations of the whole cell."""
        return self.nfe * self.samples

    def settings(self) -> dict[str, Any]:
        """The arguments of `make_sampler` for the sampler."""
        return {"spacing": self.spacing, **clipping(self.sampler, self.clip)}


SHARED = (
    "samples",
    "seed",
    "features",
    "images",
    "held_out",
    "batch_size",
    "mixed_precision",
    "scheduler",
)  # by all cells


@dataclass(frozen=True)
class Grid:
    """The axes, and what is common to all cells.

    Attributes:
        model, sampler, nfe, prior, t_start, spacing, clip: the axes; see `Cell`.
        samples: drawn for each cell.
        seed: of their noise; sample i of every cell has the same.
        features: a shipped extractor, a classifier's file, or the file of the Inception weights; the model's own if not
            given.
        images: the data that samples are held against, as `load_images` reads it; the model's own if not given.
        held_out: images that the model has not seen, for the share of copies.
        statistics: where the feature statistics of `images` are kept; in the sweep's folder if not given.
        batch_size: samples evaluated at once.
        mixed_precision: `bf16` evaluates the networks in half precision, `no` in their own; no axis, but part of a
            cell's key.
        scheduler: of model folders without one: a file or a class of diffusers, as `load_model` takes it.

    Raises:
        ValueError: a name that is not known, or a number that makes no sense.
    """

    model: tuple[str, ...] = ("mnist",)
    sampler: tuple[str, ...] = ("ddim",)
    nfe: tuple[int, ...] = (3, 5, 10)
    prior: tuple[str, ...] = (FULL, "gaussian")
    t_start: tuple[float, ...] = (500.0,)
    spacing: tuple[str, ...] = ("trailing", "leading")
    clip: tuple[bool, ...] = (False, True)
    samples: int = 1000
    seed: int = 0
    features: str | None = None
    images: str | None = None
    held_out: str | None = None
    statistics: str | None = None
    batch_size: int = 256
    mixed_precision: str = "no"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        _known("sampler", self.sampler, SAMPLERS)
        _known("spacing", self.spacing, SPACINGS)
        _known("mixed-precision", (self.mixed_precision,), PRECISIONS)
        if wrong := [start for start in self.t_start if not (math.isfinite(start) and start > 0)]:
            raise ValueError(f"t-start: expected numbers above 0, in the scheduler's t, received {wrong[0]:g}")
        if self.samples < FEWEST:
            near = "precision, recall and coverage look at neighbours"
            raise ValueError(f"samples: expected at least {FEWEST}, since {near}, received {self.samples}")
        _at_least_one("batch-size", self.batch_size)
        for nfe in self.nfe:
            _at_least_one("nfe", nfe)

    @classmethod
    def of_settings(cls, settings: Any, **axes: Any) -> "Grid":
        """The grid of an experiment on one model: its axes, and of its settings what all cells share, by name."""
        return cls(model=(settings.model,), **axes, **{name: getattr(settings, name) for name in SHARED})

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Grid":
        """The grid of named values, as a YAML file or flags have them.

        Raises:
            ValueError: a name that there is not, or a value that cannot be read.
        """
        named = {str(name).replace("-", "_"): value for name, value in values.items()}
        known = [field.name for field in fields(cls)]
        if unknown := sorted(set(named) - set(known)):
            told = ", ".join(name.replace("_", "-") for name in known)
            raise ValueError(f"a sweep has no {unknown[0]!r}; it has {told}")
        return cls(**{name: _READ[name](name.replace("_", "-"), value) for name, value in named.items()})

    def cells(self) -> list[Cell]:
        """Every cell, once, in the order of the axes."""
        return list(dict.fromkeys(self._cells()))

    def _cells(self) -> Iterator[Cell]:
        for model, sampler, nfe, prior in product(self.model, self.sampler, self.nfe, self.prior):
            for start, spacing, clip in product(self._starts(prior), self._spacings(prior), self._clips(sampler)):
                yield Cell(model, sampler, nfe, prior, start, spacing, clip, self.samples, self.seed)

    def _starts(self, prior: str) -> tuple[float | None, ...]:
        return (None,) if prior == FULL else self.t_start

    def _spacings(self, prior: str) -> tuple[str, ...]:
        return self.spacing if prior == FULL else tuple(TIMES[0] if s in TIMES else s for s in self.spacing)

    def _clips(self, sampler: str) -> tuple[bool, ...]:
        return self.clip if can_clip(sampler) or False not in self.clip else (False,)


def read_grid(path: str | Path) -> dict[str, Any]:
    """The named values in a YAML file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not YAML, or not a list of names with values.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a YAML file that describes a sweep at {path}, found none")
    try:
        values = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected names with values, such as `nfe: [3, 5]`, received {values!r}")
    try:
        Grid.of(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return values


def _items(value: Any) -> list[Any]:
    """A list, text with commas, or a single value, as a list without repetitions."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    return list(dict.fromkeys(value if isinstance(value, list | tuple) else [value]))


def _axis(read: Any) -> Any:
    def axis(name: str, value: Any) -> tuple[Any, ...]:
        try:
            items = _items(value)
        except TypeError:
            raise ValueError(f"{name}: expected a list of single values, received {value!r}") from None
        if not items:
            raise ValueError(f"{name}: expected at least one value, received none")
        return tuple(dict.fromkeys(read(name, item) for item in items))

    return axis


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a name or a path, received {value!r}")
    return value


def _whole(name: str, value: Any) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise ValueError(f"{name}: expected whole numbers, received {value!r}") from None


def _number(name: str, value: Any) -> float:
    try:
        return float(str(value))
    except ValueError:
        raise ValueError(f"{name}: expected numbers, received {value!r}") from None


def _truth(name: str, value: Any) -> bool:
    if str(value).lower() not in TRUTH:
        raise ValueError(f"{name}: expected true or false, received {value!r}")
    return TRUTH[str(value).lower()]


def _optional(name: str, value: Any) -> str | None:
    return None if value is None else _text(name, value)


_READ: dict[str, Any] = {
    **{name: _axis(_text) for name in ("model", "sampler", "prior", "spacing")},
    **{"nfe": _axis(_whole), "t_start": _axis(_number), "clip": _axis(_truth)},
    **dict.fromkeys(("samples", "seed", "batch_size"), _whole),
    "mixed_precision": _text,
    **dict.fromkeys(("features", "images", "held_out", "statistics", "scheduler"), _optional),
}


def _known(name: str, values: tuple[str, ...], known: Any) -> None:
    if wrong := [value for value in values if value not in known]:
        raise ValueError(f"there is no {name} {wrong[0]!r}; there are {', '.join(known)}")


def _at_least_one(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}: expected at least 1, received {value}")
