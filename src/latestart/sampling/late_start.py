"""Late start on any diffusers scheduler.

Sampling begins at a noise level `sigma_s` just above the critical one, from a distribution fitted to the data. Four
functions are the whole method:

    late_start     the scheduler over its last times only, [0, t_start), with the same noise levels
    start_level    the level `sigma_s` at its first time
    start_sample   y_s = m + (C + sigma_s^2 I)^(1/2) z,    x_s = alpha_s y_s,    z ~ N(0, I)
    trajectory     x after each step, down to data

The prior (mean m, covariance C) is fitted to clean images once, and noised to the level in closed form. With the
symmetric root, `y_s` also is the end of the Gaussian's own probability flow from infinite noise: the same z gives
the same image as a full run would, as closely as the data is Gaussian down to `sigma_s`.

Schedulers differ in how they are cut and in the space of their samples: `families.py`. A late-started scheduler is an
instance of the user's class with the user's configuration, its times set. It is good for the number of steps that it
was made for, and any other raises: `guard.py`. Each is rehearsed before it is handed out: `run.py`.

Source: Raya and Ambrogioni, "Spontaneous symmetry breaking in generative diffusion models", NeurIPS 2023.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.adapter import as_network
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import predict
from latestart.gaussians.prior import as_start
from latestart.noise import refuse_kinds
from latestart.sampling.families import Family, cuttable, family_of
from latestart.sampling.guard import LateStarted, guarded
from latestart.sampling.names import telling
from latestart.sampling.run import Run, rehearse

__all__ = ["checked_scheduler", "late_start", "noise_width", "start_level", "start_sample", "trajectory"]


@telling
def late_start(
    scheduler: Any,
    t_start: float | None,
    steps: int,
    *,
    mu: float | None = None,
    last: int | None = None,
    times: Sequence[float] | None = None,
) -> Any:
    """The same kind of scheduler over [0, t_start), its times set for `steps` steps.

    For beta-based schedulers the truncated start is `steps * (t_start // steps)` and the first time is one below it.

    Args:
        scheduler: a diffusers scheduler; it is left as it is.
        t_start: the start in the scheduler's own time: up to num_train_timesteps for beta-based and flow matching
            schedulers, `ln(sigma) / 4` for EDM ones.
        steps: the number of steps; the number of network evaluations depends on the class.
        mu: the shift of a flow matching scheduler with `use_dynamic_shifting`.
        last: of a beta-based scheduler, the time of the last evaluation, a whole number: the others are spread evenly
            from `t_start - 1` down to it. None spreads them as trailing times.
        times: the times of all steps, falling; the first is the start. They are whole numbers from
            `num_train_timesteps - 1` to 0 for beta-based schedulers, and in the scheduler's own time for others. Then
            `t_start` is None, or the start that the first time belongs to. `sampling/grids.py` finds some.

    Returns:
        An instance of the scheduler's class. `set_timesteps(steps, device)` may be called again, with the same number.

    Raises:
        ValueError: the kind of scheduler cannot be late-started; `steps` is not a whole number of at least 1; `t_start`
            lies beyond the schedule, or so low that it leaves no step; `last` leaves no room for the steps above it;
            `times` that rise, repeat, lie outside of the schedule, are another number than `steps`, or do not begin at
            `t_start`; either beside the other, a spacing of levels or a class that evaluates between its times.
    """
    scheduler = checked_scheduler(scheduler)
    steps = whole_number("steps", steps)
    whole = scheduler.whole() if isinstance(scheduler, LateStarted) else scheduler
    family = cuttable(getattr(whole, "grid", whole), mu)
    chosen: list[float] | None
    if times is not None:
        chosen = _checked_times(times, family, t_start, steps, last)
        cut, first = family.over(chosen), chosen[0]
    else:
        t_start = _checked_time(t_start)
        chosen = None if last is None else family.down_to(t_start, last, steps)
        cut = family.cut(t_start, steps, mu)
        if chosen is not None:
            cut = family.over(chosen)
        first = family.first_time(t_start, steps) if chosen is None else chosen[0]
    late = guarded(whole, whole.over(cut) if hasattr(whole, "over") else cut, steps, mu, chosen)
    family.check_times(late, first)
    if late.late_times is not None and bool((late.cut.timesteps != late.cut.timesteps.round()).any()):
        raise ValueError(f"{type(whole).__name__} evaluates between its levels, which own times would not spread")
    rehearse(late, noise_width(late))
    return late


def start_level(late: Any) -> float:
    """The level sigma at the first time of a scheduler whose times are set: where a run of it begins."""
    return family_of(late).noise.sigma(float(late.timesteps[0]))


def noise_width(late: Any) -> float:
    """The standard deviation of the noise in a start sample, in the scheduler's own space."""
    family = family_of(late)
    return family.noise.std(float(late.timesteps[0])) / family.own_scale


@telling
def start_sample(late: Any, prior: Any, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
    """The start of a run in the scheduler's own space, `x_s = alpha_s (m + (C + sigma_s^2 I)^(1/2) z)`.

    Args:
        late: a scheduler whose times are set; `sigma_s` is the level at the first of them.
        prior: the distribution of the data, with the contract of `gaussians/prior.py`, or the path of its file; None
            stands for N(0, I), which for a variance preserving process gives `x_s = z`.
        z: white noise, (B, *shape); the result has its shape, dtype and device.
        labels: the class of each sample, an index or `(B,)`, for a prior whose components carry classes.

    Raises:
        ValueError: the shape of `z` is not the prior's, or it has no component of a class.
        TypeError: something that is no prior.
    """
    family, t = family_of(late), float(late.timesteps[0])
    alpha, std, sigma = family.noise.alpha(t), family.noise.std(t), family.noise.sigma(t)
    prior = None if prior is None else as_start(prior)
    if prior is not None and tuple(z.shape[1:]) != tuple(prior.shape):
        raise ValueError(f"z has the shape {tuple(z.shape)}, expected (B, *{tuple(prior.shape)}) for this prior")
    if prior is None or alpha == 0:  # without any signal left, the noise is the sample
        return z * (math.hypot(alpha, std) / family.own_scale)
    y = prior.noised(sigma).push(z, prior.own_labels(labels))
    return (y * (alpha / family.own_scale)).to(z)


def trajectory(run: Run, model: Any, x: Tensor, conditions: Conditions | None = None) -> Iterator[Tensor]:
    """Yield the samples `(B, *shape)` after each step of a run, in the scheduler's own space; the last are the images.

    Args:
        run: of a scheduler whose times are set.
        model: a network, as `as_network` takes it.
        x: the start, `(B, *shape)`.
        conditions: those of the samples.
    """
    network = as_network(model)
    for t in run.scheduler.timesteps:
        seen = run.model_input(x, t).to(network.dtype)
        x = run.step(predict(network, seen, t, conditions).to(x.dtype), t, x)
        yield x


def checked_scheduler(scheduler: Any) -> Any:
    """The scheduler, if it is one: an object of diffusers or like it.

    Raises:
        TypeError: something else, with the remedy.
    """
    refuse_kinds(scheduler)
    if not hasattr(scheduler, "set_timesteps") or not hasattr(scheduler, "config"):
        raise TypeError(f"expected a diffusers scheduler, received a {type(scheduler).__name__}")
    return scheduler


def _checked_times(times: Any, family: Family, t_start: float | None, steps: int, last: Any) -> list[float]:
    """Check the times that are chosen for a run: one for each step, falling from the start."""
    if last is not None:
        raise ValueError(f"expected own times or a last one, received times={list(times)} and last={last!r}")
    try:
        chosen = [float(t) for t in times]
    except (TypeError, ValueError) as error:
        raise ValueError(f"times={times!r}: expected falling numbers in the scheduler's own time") from error
    if len(chosen) != steps:
        raise ValueError(f"times={chosen}: expected one for each of {steps} steps, received {len(chosen)}")
    low, high = family.noise.t_range
    ends = max(low, family.lowest), high
    if not all(ends[0] <= t <= ends[1] for t in chosen) or any(a <= b for a, b in pairwise(chosen)):
        raise ValueError(f"times={chosen}: expected falling times of the schedule, from {ends[1]:g} to {ends[0]:g}")
    begun = chosen[0] if t_start is None else family.first_time(_checked_time(t_start))
    if not math.isclose(begun, chosen[0], rel_tol=1e-6):
        raise ValueError(f"t_start={t_start:g} begins at t = {begun:g}, and times at {chosen[0]:g}")
    return chosen


def _checked_time(t_start: Any) -> float:
    try:
        number = float(t_start)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"t_start={t_start!r}: expected a finite number in the scheduler's own time")
    return number
