"""The grid of a sweep: the cells to measure, from a YAML file, from flags, or from both.

    model x sampler x nfe x prior x t_start x spacing x clip x last x inside x eta x order x substeps

Each axis is a list, or text with commas. A setting that does not apply to a cell is left out of it, so that no cell is
measured twice: full noise (the prior `none`) has no start; a late start begins at its start, so that of the spacings of
times only `trailing` is left, beside the curved ones, which spread noise levels; a sampler that cannot clip does
without.

The gain of late starts is measured against the best full noise of the grid. So that this is no weak one, the grid has
both leading and trailing spacing, clipped and unclipped, unless these axes are given.

    model: mnist
    sampler: [ddim, dpm++]
    nfe: [3, 5, 10]
    prior: [none, gaussian, mixture]
    t-start: [300, 400, 500]
    spacing: [leading, trailing]
    samples: 1000
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from latestart.lab.setup import Conditions, Kept
from latestart.sampling.names import PRIOR, SAMPLERS, SPACINGS, TIMES
from latestart.settings import setting

__all__ = ["FULL", "GAUSSIAN", "OPTIONS", "PLAIN", "Cell", "Grid", "read_grid"]

FULL, PLAIN = "none", "isotropic"  # N(0, I) at the top of the schedule, and at a late start
GAUSSIAN = "gaussian"  # the one next to a model
OPTIONS = ("last", "inside", "eta", "order", "substeps", "times", "shares")  # of a cell


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One way to sample, and the number of samples.

    Attributes:
        model: the name of a shipped model, or a folder.
        sampler: its short name.
        nfe: network evaluations for each sample.
        prior: `none` (full noise), `isotropic`, `gaussian`, `mixture`, or a file.
        t_start: where a late start begins, in the scheduler's t; None from full noise.
        spacing: of the times or of the levels.
        clip: whether the predicted image is clipped at every step.
        last: the time of the last evaluation, the others evenly spread from the start to it; None leaves the spacing's.
        inside: the prior inside the prior solver, by the grid's name for it; None for that of the start, or from full
            noise and isotropic starts for the Gaussian.
        eta: its share of noise, or DDIM's; None is none.
        order: its order; None is 2.
        substeps: its small steps with the prior's own denoiser inside; None for a Gaussian inside.
        times: of all steps, falling from the start; None leaves them to the spacing or to `last`.
        shares: the share of noise of each step, in the place of `eta`.
        samples: number of samples.
        seed: of their noise.
    """

    model: str
    sampler: str
    nfe: int
    prior: str = FULL
    t_start: float | None = None
    spacing: str = TIMES[0]
    clip: bool = False
    last: int | None = None
    inside: str | None = None
    eta: float | None = None
    order: int | None = None
    substeps: int | None = None
    times: tuple[float, ...] | None = None
    shares: tuple[float, ...] | None = None
    samples: int
    seed: int

    @property
    def within(self) -> str | None:
        """The name of the prior inside the prior solver; None for other samplers."""
        if self.sampler != PRIOR:
            return None
        return self.inside or (GAUSSIAN if self.prior in (FULL, PLAIN) else self.prior)

    @property
    def way(self) -> dict[str, Any]:
        """All of the cell but options that it leaves alone, which earlier cells did not have."""
        return {k: v for k, v in asdict(self).items() if v is not None or k not in OPTIONS}

    @classmethod
    def of(cls, settings: Any, **how: Any) -> "Cell":
        """Return a cell of an experiment's model, samples and seed, where `how` gives no others."""
        return cls(**{name: getattr(settings, name) for name in ("model", "samples", "seed") if name not in how} | how)

    @property
    def cost(self) -> int:
        """Return the network evaluations of the whole cell."""
        return self.nfe * self.samples

    def settings(self) -> dict[str, Any]:
        """Return the arguments of `make_sampler` for the sampler."""
        from latestart.sampling.samplers import clipping  # diffusers is heavy, and a command line needs the grid alone

        known = {"eta": self.shares or self.eta, "solver_order": self.order, "substeps": self.substeps}
        own = {name: value for name, value in known.items() if value is not None}
        return {"spacing": self.spacing, **clipping(self.sampler, self.clip), **own}


@dataclass(frozen=True, kw_only=True)
class Grid(Kept, Conditions):
    """Measure a grid of models, samplers, evaluations, starts and priors; under `torchrun`, with all its processes.

    Axes are lists with commas. Each cell is kept the moment it is done: a sweep that was cut off goes on.
    """

    model: tuple[str, ...] = setting(("mnist",), "Shipped models or folders.", of="model")
    sampler: tuple[str, ...] = setting(("ddim",), "ddim, ddpm, pndm, dpm++, unipc, deis, ..., prior.", of="sampler")
    nfe: tuple[int, ...] = setting((3, 5, 10), "Network evaluations for each sample.", least=1)
    prior: tuple[str, ...] = setting((FULL, "gaussian"), "none (full noise), isotropic, gaussian, mixture, or files.")
    t_start: tuple[float, ...] = setting((500.0,), "Where late starts begin, in the scheduler's t.")
    spacing: tuple[str, ...] = setting(
        ("trailing", "leading"),
        "trailing, leading, linspace (times), karras, log-snr, karras+1, log-snr+1 (levels); of times, a late start "
        "has trailing alone.",
        choices=tuple(SPACINGS),
    )
    clip: tuple[bool, ...] = setting(
        (False, True), "Clip the predicted image at every step: false, true; both where the sampler can."
    )
    last: tuple[int, ...] = setting(
        (), "Times of the last evaluation, evenly spread down to; beside these, the spacing's own.", least=0
    )
    inside: tuple[str, ...] = setting(
        (), "Priors inside the prior solver: gaussian, mixture, or files; default: the start's, else gaussian."
    )
    eta: tuple[float, ...] = setting((0.0,), "Shares of noise of the prior solver.", least=0, most=1)
    order: tuple[int, ...] = setting((2,), "Orders of the prior solver: 1, 2.", least=1, most=2)
    substeps: tuple[int, ...] = setting(
        (0,), "Small steps of the prior solver with a mixture's own denoiser inside; 0: its Gaussian.", least=0
    )
    statistics: str | None = setting(
        None, "Where the feature statistics of the images are kept; default: OUT/statistics.safetensors."
    )

    def check(self) -> None:
        """Refuse unknown samplers, and starts that are no times."""
        if wrong := [name for name in self.sampler if name not in (*SAMPLERS, PRIOR)]:
            raise ValueError(f"there is no sampler {wrong[0]!r}; there are {', '.join((*SAMPLERS, PRIOR))}")
        if wrong_times := [start for start in self.t_start if start <= 0]:
            raise ValueError(f"t-start: expected numbers above 0, in the scheduler's t, received {wrong_times[0]:g}")

    @classmethod
    def of_settings(cls, settings: Any, **axes: Any) -> "Grid":
        """Return the grid of an experiment on one model: its axes, and the conditions of its settings."""
        shared = {one.name: getattr(settings, one.name) for one in fields(Conditions)}
        return cls(model=(settings.model,), **axes, **shared)

    def cells(self) -> list[Cell]:
        """Return every cell, once, in the order of the axes."""
        return list(dict.fromkeys(self._cells()))

    @property
    def priors(self) -> tuple[str, ...]:
        """Names of all priors of the cells, those inside the prior solver among them."""
        inside = (cell.within for cell in self.cells())
        return tuple(dict.fromkeys((*self.prior, *(name for name in inside if name is not None))))

    def _cells(self) -> Iterator[Cell]:
        for model, sampler, nfe, prior in product(self.model, self.sampler, self.nfe, self.prior):
            for start, spacing, clip in product(self._starts(prior), self._spacings(prior), self._clips(sampler)):
                lasts = (None, *self.last) if spacing == TIMES[0] else (None,)
                for last, own in product(lasts, self._own(sampler)):
                    how = {"prior": prior, "t_start": start, "spacing": spacing, "clip": clip, "last": last} | own
                    yield Cell.of(self, model=model, sampler=sampler, nfe=nfe, **how)

    def _own(self, sampler: str) -> list[dict[str, Any]]:
        """The options of the prior solver."""
        if sampler != PRIOR:
            return [{}]
        return [
            {"inside": inside, "eta": eta or None, "order": None if order == 2 else order, "substeps": substeps or None}
            for inside, eta, order, substeps in product(self.inside or (None,), self.eta, self.order, self.substeps)
        ]

    def _starts(self, prior: str) -> tuple[float | None, ...]:
        return (None,) if prior == FULL else self.t_start

    def _spacings(self, prior: str) -> tuple[str, ...]:
        return self.spacing if prior == FULL else tuple(TIMES[0] if s in TIMES else s for s in self.spacing)

    def _clips(self, sampler: str) -> tuple[bool, ...]:
        from latestart.sampling.samplers import can_clip

        return self.clip if can_clip(sampler) or False not in self.clip else (False,)


def read_grid(path: str | Path) -> dict[str, Any]:
    """Return the named values in a YAML file.

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
        Grid.read(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return values
