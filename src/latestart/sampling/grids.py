"""Grids: the times of a run by the name of how they were found, for `late_start(scheduler, None, steps, times=...)`.

    gaussian-optimal    the smallest closed-form error on the prior's Gaussian (`gaussian_grids.py`); no evaluation
    gits                the cheapest way along the network's own paths (`teacher_grids.py`)
    entropic            equal shares of E|x_0 - D|^2 / sigma^3 a step
    entropic-rescaled   equal shares of E|x_0 - D|^2 / sigma^2
    trailing, ...       the spacings of `make_sampler`

`GridTimes.text` writes one as other programs take it:

    diffusers    lists for `set_timesteps(timesteps=...)` or `set_timesteps(sigmas=...)`, where a class takes them:
                 beta-based ones take levels down to 0, flow matching adds it and shifts what it is given, EDM's take
                 none
    comfyui      levels down to 0, between commas: the text of ComfyUI's node ManualSigmas
    a1111        the same in brackets: the list of the scheduler `custom` of the extension webUI_ExtraSchedulers for
                 AUTOMATIC1111's web UI and Forge, which takes a list that ends in 0 as it is. Set as many steps as
                 there are numbers before the 0. A list from exactly 1 to 0 it would stretch to its own levels.
    json         times, levels, alpha_bar and the name

A level is sigma, for flow matching tau, as the schedulers of these programs count it.

The first four depend on the number of steps and on the start, so that no scheduler's configuration can name them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.adapter import as_network
from latestart.noise import Kind
from latestart.records import Record
from latestart.sampling.families import family_of
from latestart.sampling.gaussian_grids import Solver, gaussian_optimal
from latestart.sampling.late_start import checked_scheduler, late_start
from latestart.sampling.names import FORMATS, MEASURED, SPACINGS
from latestart.sampling.samplers import make_sampler
from latestart.sampling.teacher_grids import entropic, gits

__all__ = ["GridTimes", "grid_times"]

POWERS = {"entropic": 3.0, "entropic-rescaled": 2.0}


@dataclass(frozen=True, repr=False)
class GridTimes(Record):
    """The times of a run, and what they are.

    Attributes:
        name: of how they were found.
        times: falling, one for each step, in the scheduler's t.
        sigma: their noise levels.
        alpha_bar: alpha squared at each.
        kind: of the process: "vp", "edm" or "flow".
        nfe: network evaluations spent on finding them, over single samples.
        shift: the constant one that a flow matching scheduler applies to levels that are set; 1 for others.
    """

    name: str
    times: tuple[float, ...]
    sigma: tuple[float, ...]
    alpha_bar: tuple[float, ...]
    kind: Kind
    nfe: int = 0
    shift: float = 1.0

    @property
    def levels(self) -> tuple[float, ...]:
        """The noise levels as schedulers count them: sigma, or `tau = sigma / (1 + sigma)` of flow matching."""
        if self.kind != "flow":
            return self.sigma
        return tuple(1.0 if s == math.inf else s / (1 + s) for s in self.sigma)

    def text(self, form: str = "table") -> str:
        """The grid in text.

        Args:
            form: "table", "diffusers", "comfyui", "a1111" or "json" (module docstring).

        Raises:
            ValueError: another one; levels for another program where the first is infinite.
        """
        if form not in FORMATS:
            raise ValueError(f"there is no form {form!r} of a grid; there are {', '.join(FORMATS)}")
        if form == "json":
            known = {name: list(getattr(self, name)) for name in ("times", "levels", "sigma", "alpha_bar")}
            finite = {name: [value if math.isfinite(value) else None for value in row] for name, row in known.items()}
            return json.dumps({"name": self.name, "kind": self.kind, **finite, "nfe": self.nfe})
        if form == "table":
            rows = [f"{'t':>10} {'sigma':>10} {'alpha_bar':>10}   ({self.name}, {self.nfe} network evaluations)"]
            for t, sigma, alpha_bar in zip(self.times, self.sigma, self.alpha_bar):
                rows.append(f"{t:>10.6g} {sigma:>10.4g} {alpha_bar:>10.4g}")
            return "\n".join(rows)
        if not all(math.isfinite(level) for level in self.levels):
            raise ValueError(f"the first level of {self.name} is infinite: start below it, to give levels to others")
        if form == "diffusers":
            whole = self.kind == "vp" and all(t == round(t) for t in self.times)
            times = [int(t) if whole else round(t, 6) for t in self.times]
            before = [tau / (self.shift - (self.shift - 1) * tau) for tau in self.levels]
            return f"timesteps = {times}\nsigmas = [{_listed(before)}{', 0.0' * (self.kind == 'vp')}]"
        listed = f"{_listed(self.levels)}, 0.0"
        return listed if form == "comfyui" else f"[{listed}]"


def grid_times(
    name: str,
    scheduler: Any,
    steps: int,
    t_start: float | None = None,
    *,
    prior: Any = None,
    model: Any = None,
    images: Any = None,
    labels: Tensor | int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    solver: Solver = "dpm++",
    seed: int = 0,
) -> GridTimes:
    """The times of a run by name, as `late_start(scheduler, None, steps, times=grid.times)` takes them.

    Args:
        name: "gaussian-optimal", "gits", "entropic", "entropic-rescaled", or a spacing of `make_sampler`.
        scheduler: the one that the model was trained with, or a sampler made from it.
        steps: the number of steps.
        t_start: of a late start, in the scheduler's t; None for full noise.
        prior: where a late start draws from; "gaussian-optimal" needs one, whose Gaussian is the data.
        model: the network, for "gits" and the entropic ones.
        images: some data, floats in the model's value range, for the entropic ones.
        labels, model_kwargs: the conditions of the network, taken in turn.
        solver: of "gaussian-optimal", "ddim" or "dpm++".
        seed: of the noise of paths and images.

    Raises:
        ValueError: an unknown name, something missing that it needs, and what the functions of these names refuse.
        TypeError: no scheduler.
    """
    scheduler, steps = checked_scheduler(scheduler), whole_number("steps", steps)
    given = {"prior": prior, "model": model, "images": images}
    needed = {"gaussian-optimal": ("prior",), "gits": ("model",)} | dict.fromkeys(POWERS, ("model", "images"))
    if missing := [one for one in needed.get(name, ()) if given[one] is None]:
        raise ValueError(f"the grid {name!r} needs {' and '.join(f'{one}=' for one in missing)}")
    found, nfe = _found(name, scheduler, steps, t_start, given, labels, model_kwargs, solver, seed)
    noise = family_of(scheduler).noise
    values = tuple(float(t) for t in found)
    sigmas, alphas = ([float(part(t)) for t in values] for part in (noise.sigma, noise.alpha))
    shift = float(scheduler.config.get("shift", 1.0)) if noise.kind == "flow" else 1.0
    return GridTimes(name, values, tuple(sigmas), tuple(alpha**2 for alpha in alphas), noise.kind, nfe, shift)


def _listed(levels: Sequence[float]) -> str:
    return ", ".join(f"{level:.6g}" for level in levels)


def _found(
    name: str,
    scheduler: Any,
    steps: int,
    t_start: float | None,
    given: Mapping[str, Any],
    labels: Any,
    model_kwargs: Any,
    solver: Solver,
    seed: int,
) -> tuple[list[float], int]:
    """The times, and the evaluations that they cost."""
    conditions: dict[str, Any] = {"labels": labels, "model_kwargs": model_kwargs, "seed": seed}
    if name == "gaussian-optimal":
        return gaussian_optimal(given["prior"], scheduler, steps, t_start, solver=solver), 0
    if name == "gits":
        return gits(as_network(given["model"]), scheduler, steps, t_start, given["prior"], **conditions)
    if name in POWERS:
        return entropic(given["model"], scheduler, given["images"], steps, t_start, power=POWERS[name], **conditions)
    if name not in SPACINGS:
        raise ValueError(f"there is no grid {name!r}; there are {', '.join((*MEASURED, *SPACINGS))}")
    beta_based = family_of(scheduler).noise.kind == "vp"
    sampler = make_sampler("dpm++" if beta_based else "own", scheduler, spacing=name)
    if t_start is not None:
        sampler = late_start(sampler, t_start, steps)
    else:
        sampler.set_timesteps(steps)
    return sampler.timesteps.tolist(), 0
