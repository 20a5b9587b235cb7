"""Grids: the times of a run by the name of how they were found, for `late_start(scheduler, None, steps, times=...)`.

    gaussian-optimal    the smallest closed-form error on the prior's Gaussian (`gaussian_grids.py`); no evaluation
    gits                the cheapest way along the network's own paths (`teacher_grids.py`)
    entropic            equal shares of E|x_0 - D|^2 / sigma^3 a step
    entropic-rescaled   equal shares of E|x_0 - D|^2 / sigma^2
    trailing, ...       the spacings of `make_sampler`

The first four depend on the number of steps and on the start, so that no scheduler's configuration can name them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.adapter import as_network
from latestart.records import Record
from latestart.sampling.families import family_of
from latestart.sampling.gaussian_grids import Solver, gaussian_optimal
from latestart.sampling.late_start import checked_scheduler, late_start
from latestart.sampling.names import MEASURED, SPACINGS
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
        nfe: network evaluations spent on finding them, over single samples.
    """

    name: str
    times: tuple[float, ...]
    sigma: tuple[float, ...]
    alpha_bar: tuple[float, ...]
    nfe: int = 0


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
    return GridTimes(
        name, values, tuple(noise.sigma(t) for t in values), tuple(noise.alpha(t) ** 2 for t in values), nfe
    )


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
