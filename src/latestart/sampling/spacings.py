"""Spacings of a sampler's times and of its noise levels, by name.

    trailing, leading, linspace    times, as diffusers spreads them
    karras                         levels, even in sigma^(1/7) (Karras et al., 2022, equation 5)
    log-snr                        levels, even in ln sigma
    karras+1, log-snr+1            one level more, from that of the highest time to that of t = 0, the network evaluated
                                   at all but the lowest, from where the last step leads to clean data

diffusers spreads the levels of `karras` and `log-snr` down to that of t = 0 for DPM++, UniPC and DEIS, so that the last
of n evaluations is made where there is next to nothing left to do, and down to the last of its evenly spread times for
Euler, Heun and LMS. For a Gaussian (`tests/sampling/oracle.py`), late-started at t = 600, DPM++ in 3, 5 and 10
evaluations comes within .75, .25 and .11 of the data with `karras`, .41, .14 and .08 with `karras+1`, .17 and .04 in 5
and 10 with `log-snr`, .07 and .04 with `log-snr+1`; from full noise either may be the better.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch

from latestart.noise import Noise
from latestart.sampling.names import CURVED, SPACINGS, SPENT, TIMES

__all__ = ["is_curved", "round_times", "spaced", "standing_before", "whole_times"]

_OPTIONS = (*CURVED.values(), "use_beta_sigmas", "use_lu_lambdas")  # of diffusers' configurations


def spaced(kind: Any, spacing: str) -> tuple[Any, dict[str, Any]]:
    """The class that spreads its times by a spacing, and the changes to its configuration.

    Args:
        kind: a diffusers scheduler's class.
        spacing: of `SPACINGS`.

    Raises:
        ValueError: there is no such spacing, or the class evaluates between its levels.
    """
    if spacing in TIMES:
        return kind, {"timestep_spacing": spacing}
    if spacing in CURVED:  # some classes curve between the ends of their times: trailing, as those of a late start
        return kind, {"timestep_spacing": "trailing", CURVED[spacing]: True}
    if spacing not in SPENT:
        raise ValueError(f"there is no spacing {spacing!r}; there are {', '.join(SPACINGS)}")
    if kind.__name__.startswith("KDPM2"):
        raise ValueError(f"{kind.__name__} evaluates between its levels, which {spacing!r} would not spread")
    return standing_before(kind, _OneMore), {CURVED[SPENT[spacing]]: True}


class _OneMore:
    """A curved spacing with one level more; the lowest level costs no evaluation."""

    config: Any
    sigmas: torch.Tensor
    timesteps: torch.Tensor

    def set_timesteps(self, num_inference_steps: int, *others: Any, **named: Any) -> None:
        """Set the times: the first `num_inference_steps` levels of one more, then the data."""
        # from the highest time to t = 0: some classes curve the levels between the ends of their times
        self.register_to_config(timestep_spacing="linspace")  # type: ignore[attr-defined]
        super().set_timesteps(num_inference_steps + 1, *others, **named)  # type: ignore[misc]
        levels = self.sigmas[: len(self.timesteps)]
        kept = int((levels > levels[-1]).sum())  # Heun stands twice at every level but its first
        self.timesteps = self.timesteps[:kept]
        self.sigmas = torch.cat([levels[:kept], self.sigmas[-1:]])
        self.num_inference_steps = num_inference_steps
        round_times(self)


def is_curved(scheduler: Any) -> bool:
    """Whether a scheduler's configuration spreads levels, and not times."""
    return any(scheduler.config.get(name) for name in _OPTIONS)


def round_times(scheduler: Any) -> None:
    """DPM solvers round the times of exponential and beta levels down, even the first: round them to the nearest."""
    times = scheduler.timesteps
    if hasattr(scheduler, "alphas_cumprod") and is_curved(scheduler) and not times.is_floating_point():
        nearest = Noise.from_scheduler(scheduler).time(scheduler.sigmas[: len(times)])
        scheduler.timesteps = nearest.round().to(times)


def whole_times(times: Sequence[float]) -> list[float]:
    """Whole times near some falling ones: they fall by one at least, end at 0 or above, and begin where those do.

    Raises:
        ValueError: there is no room for them.
    """
    found = [float(round(t)) for t in times]
    for i in range(1, len(found)):
        found[i] = min(found[i], found[i - 1] - 1)
    for least, i in enumerate(reversed(range(len(found)))):
        found[i] = max(found[i], float(least))
    if found[0] != round(times[0]):
        raise ValueError(f"no room for {len(found)} whole times from t = {times[0]:g} down to 0")
    return found


@functools.cache
def standing_before(kind: type, base: type) -> type:
    """A scheduler's class with another class before it, made once for each pair.

    It keeps the name of `kind`, so that a saved configuration names the class that can load it.
    """
    return type(kind.__name__, (base, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})
