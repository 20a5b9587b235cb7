"""Late start: any diffusers scheduler, over its last times only. The file that knows schedulers' quirks, but
for those of their spacings (`spacings.py`).

A scheduler over the times [0, T) becomes one of the same kind over [0, start), with the same noise levels:

    beta-based      its betas are cut to the first `start`; `start = steps * (t_start // steps)`, so that the strides of
                    DDIM and PNDM divide it; the first time is `start - 1`
    EDM             its highest level `sigma_max` becomes the level at t_start
    flow matching   its grid, before the shift, begins where the shift leads to t_start

The start sample there is the prior's, noised to the level `sigma_s` of the first time, with `z` white noise:

    y_s = m + (C + sigma_s^2 I)^(1/2) z,        x_s = alpha_s y_s

and `x_s` is then brought into the scheduler's own space: some classes carry samples divided by alpha. They are known by
what `scale_model_input` does to a one, not by name.

Contract: a late-started scheduler is an instance of the user's class with the user's configuration, its times set; it
is good for the number of steps that it was made for, and any other raises (`guard.py`). Each is rehearsed before it is
handed out (`run.py`).

Source of the method: Raya and Ambrogioni, "Spontaneous symmetry breaking in generative diffusion models", NeurIPS 2023.
"""

import copy
import inspect
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import whole_number
from latestart.gaussians.prior import as_start
from latestart.noise import Noise, is_edm, is_flow, refuse_kinds, runs_to_noise
from latestart.sampling.guard import LateStarted, class_below, guarded
from latestart.sampling.names import telling
from latestart.sampling.run import rehearse
from latestart.sampling.spacings import is_curved

SUPPORTED = (
    "beta-based schedulers (DDPM, DDIM, PNDM, DEIS, DPMSolverMultistep, DPMSolverSinglestep, DPMSolverSDE, UniPC,"
    " SASolver, EulerDiscrete, EulerAncestralDiscrete, HeunDiscrete, LMSDiscrete, KDPM2Discrete,"
    " KDPM2AncestralDiscrete, CogVideoX's DDIM and DPM, and others that take trained_betas), EDM schedulers (EDMEuler,"
    " EDMDPMSolverMultistep) and flow matching schedulers (FlowMatchEulerDiscrete, FlowMatchHeunDiscrete)"
)

# By mechanism alone these would pass, and would be wrong in silence.
_REFUSED = {
    "LCMScheduler": "it serves models distilled to a few fixed times",
    "TCDScheduler": "it serves models distilled to a few fixed times",
    "FlowMatchLCMScheduler": "it serves models distilled to a few fixed times",
    "RePaintScheduler": "it jumps back and forth between times, around a known image",
    "UnCLIPScheduler": "its betas cannot be given",
    "IPNDMScheduler": "its times are not indices of its betas; make_sampler('ipndm', scheduler) does the same steps",
}

# What the user's configuration says about the whole schedule, and must not say about a part of it.
_TRUNCATED = {
    "timestep_spacing": "trailing",  # the others do not begin at the start, or spend an evaluation at t = 0
    "skip_prk_steps": True,  # the Runge-Kutta steps of PNDM cannot be done at 3 steps
    "interpolation_type": "linear",  # "log_linear" would ignore the times
    "sigma_min": None,  # the ends of Karras and other curved spacings: those of the cut schedule
    "sigma_max": None,
    "rescale_betas_zero_snr": False,  # already in the betas
    "snr_shift_scale": 1.0,  # already in the betas
    "lambda_min_clipped": -math.inf,  # already in the length
}


@telling
def late_start(scheduler: Any, t_start: float, steps: int, *, mu: float | None = None) -> Any:
    """The same kind of scheduler over [0, t_start), its times set for `steps` steps.

    For beta-based schedulers the truncated start is `steps * (t_start // steps)` and the first time is one below it.

    Args:
        scheduler: a diffusers scheduler; it is left as it is.
        t_start: the start in the scheduler's own time: up to num_train_timesteps for beta-based and flow matching
            schedulers, `ln(sigma) / 4` for EDM ones.
        steps: the number of steps; the number of network evaluations depends on the class.
        mu: the shift of a flow matching scheduler with `use_dynamic_shifting`.

    Returns:
        An instance of the scheduler's class. `set_timesteps(steps, device)` may be called again, with the same number.

    Raises:
        ValueError: the kind of scheduler cannot be late-started; `steps` is not a whole number of at least 1; `t_start`
            lies beyond the schedule, or so low that it leaves no step.
    """
    scheduler = checked_scheduler(scheduler)
    steps, t_start = whole_number("steps", steps), _checked_time(t_start)
    scheduler = scheduler.whole() if isinstance(scheduler, LateStarted) else scheduler
    family = _family(scheduler)
    if (mu is not None) != shifts_dynamically(scheduler):
        raise ValueError(
            f"mu={mu}: expected a number for a flow matching scheduler with use_dynamic_shifting, else None; generate "
            "takes the scheduler that ls.late_start(scheduler, t_start, steps, mu=...) made of one"
        )
    late = guarded(scheduler, family(scheduler, t_start, steps, mu), steps, mu)
    _check_times(late, scheduler, t_start)
    rehearse(late, noise_width(late))
    return late


def checked_scheduler(scheduler: Any) -> Any:
    """The scheduler, if it is one: an object of diffusers or like it.

    Raises:
        TypeError: something else, with what to give in its place.
    """
    refuse_kinds(scheduler)
    if not hasattr(scheduler, "set_timesteps") or not hasattr(scheduler, "config"):
        raise TypeError(f"expected a diffusers scheduler, received a {type(scheduler).__name__}")
    return scheduler


def start_level(late: Any) -> float:
    """The level sigma at the first time of a scheduler whose times are set: where a run of it begins."""
    return Noise.from_scheduler(late).sigma(float(late.timesteps[0]))


def noise_width(late: Any) -> float:
    """The standard deviation of the noise in a start sample, in the scheduler's own space."""
    noise = Noise.from_scheduler(late)
    return noise.std(float(late.timesteps[0])) / _own_scale(late, noise)


@telling
def start_sample(late: Any, prior: Any, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
    """The start of a run in the scheduler's own space, `x_s = alpha_s (m + (C + sigma_s^2 I)^(1/2) z)`.

    Args:
        late: a scheduler whose times are set; `sigma_s` is the level at the first of them.
        prior: the distribution of the data, whatever keeps the contract of `gaussians/prior.py`, or the path of one's
            file; None stands for N(0, I), which for a variance preserving process gives `x_s = z`.
        z: white noise, (B, *shape); the result has its shape, dtype and device.
        labels: the class of each sample, an index or `(B,)`, for a prior whose components carry classes.

    Raises:
        ValueError: the shape of `z` is not the prior's, or it has no component of a class.
        TypeError: a prior that is none.
    """
    noise, t = Noise.from_scheduler(late), float(late.timesteps[0])
    alpha, std, sigma = noise.alpha(t), noise.std(t), noise.sigma(t)
    prior = None if prior is None else as_start(prior)
    if prior is not None and tuple(z.shape[1:]) != tuple(prior.shape):
        raise ValueError(f"z has the shape {tuple(z.shape)}, expected (B, *{tuple(prior.shape)}) for this prior")
    if prior is None or alpha == 0:  # without any signal left, the noise is the sample
        return z * (math.hypot(alpha, std) / _own_scale(late, noise))
    y = prior.noised(sigma).push(z, prior.own_labels(labels))
    return (y * (alpha / _own_scale(late, noise))).to(z)


def _family(scheduler: Any) -> Any:
    reason = next((_REFUSED[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in _REFUSED), None)
    if reason is not None:
        raise _cannot(scheduler, reason)
    if runs_to_noise(scheduler):
        raise _cannot(scheduler, "it runs from data to noise")
    if hasattr(scheduler, "alphas_cumprod") and is_flow(scheduler):
        raise _cannot(scheduler, "with use_flow_sigmas=True its levels do not follow its betas")
    if is_flow(scheduler):
        return _lowered_flow
    if is_edm(scheduler):
        return _lowered_sigma_max
    if hasattr(scheduler, "alphas_cumprod") and _takes(scheduler, "trained_betas", "num_train_timesteps"):
        return _truncated
    raise _cannot(scheduler, "its noise schedule cannot be cut")


def _truncated(scheduler: Any, t_start: float, steps: int, mu: float | None) -> Any:
    config, betas = scheduler.config, _betas(scheduler)
    if steps > len(betas):
        raise ValueError(f"{steps} steps are more than the schedule's {len(betas)} times")
    if not 0 < t_start <= len(betas):
        raise ValueError(f"t_start={t_start:g} lies outside of the schedule: expected {steps} to {len(betas)}")
    start = steps * int(min(t_start, _unclipped_length(scheduler)) // steps)
    if start < 2:
        raise ValueError(f"t_start={t_start:g} leaves no time for {steps} steps: expected at least {max(steps, 2)}")
    cut = {"num_train_timesteps": start, "trained_betas": betas[:start].tolist()}
    known = {name: value for name, value in _TRUNCATED.items() if name in config}
    return _remade(scheduler, {**known, **cut})


def _lowered_sigma_max(scheduler: Any, t_start: float, steps: int, mu: float | None) -> Any:
    noise = Noise.from_scheduler(scheduler)
    sigma, lowest = noise.sigma(t_start), noise.sigma_range[0]
    if sigma <= lowest:
        raise ValueError(f"t_start={t_start:g} (sigma={sigma:g}) leaves no step: expected sigma above {lowest:g}")
    if hasattr(scheduler, "alphas_cumprod") and not is_curved(scheduler):
        raise _cannot(scheduler, "with continuous times it needs Karras, exponential or beta levels")
    return _remade(scheduler, {"sigma_max": sigma})


def _lowered_flow(scheduler: Any, t_start: float, steps: int, mu: float | None) -> Any:
    config = scheduler.config
    tau = t_start / config["num_train_timesteps"]
    if not 0 < tau <= 1:
        raise ValueError(
            f"t_start={t_start:g} lies outside of the schedule: expected (0, {config['num_train_timesteps']}]"
        )
    if config.get("invert_sigmas"):
        raise _cannot(scheduler, "with invert_sigmas=True it runs from data to noise")
    if config.get("stochastic_sampling"):
        raise _cannot(scheduler, "with stochastic_sampling=True it serves models distilled to a few steps")
    # stretching the grid to a terminal level would move its beginning too
    late = _remade(scheduler, {"shift_terminal": None} if "shift_terminal" in config else {})
    if hasattr(scheduler, "set_shift"):
        late.set_shift(scheduler.shift)
    own_shift = scheduler.shift if hasattr(scheduler, "set_shift") else config["shift"]
    shift = own_shift if mu is None else _dynamic_shift(config, mu)
    # set_timesteps spreads its times evenly between these two, and shifts them afterwards
    late.sigma_max = tau / (shift - (shift - 1) * tau)
    late.sigma_min = late.sigma_max / steps
    return late


def _remade(scheduler: Any, changes: Mapping[str, Any]) -> Any:
    """One of the same class with other settings; `from_config` would look through all of diffusers for it."""
    kind: Any = class_below(scheduler)
    settings = {**scheduler.config, **changes}
    return kind(**{name: settings[name] for name in inspect.signature(kind.__init__).parameters if name in settings})


def shifts_dynamically(scheduler: Any) -> bool:
    """Whether the levels of a flow matching scheduler follow the size of the images, by a number mu."""
    return is_flow(scheduler) and bool(scheduler.config.get("use_dynamic_shifting"))


def _dynamic_shift(config: Mapping[str, Any], mu: float) -> float:
    return math.exp(mu) if config["time_shift_type"] == "exponential" else mu


def _betas(scheduler: Any) -> Tensor:
    """The betas whose running product gives `alphas_cumprod`: the scheduler's own where they do, bit for bit."""
    alphas_cumprod = scheduler.alphas_cumprod.detach().cpu()
    betas = getattr(scheduler, "betas", None)
    if isinstance(betas, Tensor) and torch.equal(torch.cumprod(1 - betas.cpu(), 0), alphas_cumprod):
        return betas.cpu()
    before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1].double()])
    return 1 - alphas_cumprod.double() / before


def _unclipped_length(scheduler: Any) -> int:
    """DPM solvers leave out the times whose log(alpha / std) lies below `lambda_min_clipped`."""
    lowest = scheduler.config.get("lambda_min_clipped")
    alphas_cumprod = scheduler.alphas_cumprod.detach().cpu().double()
    return len(alphas_cumprod) if lowest is None else int((torch.logit(alphas_cumprod) / 2 >= lowest).sum())


def _own_scale(scheduler: Any, noise: Noise) -> float:
    """The factor of `scale_model_input`, from the scheduler's sample to `x_t`."""
    if noise.kind != "vp":
        return 1.0  # there the input scale, if any, belongs to the network
    probe = copy.deepcopy(scheduler)  # it counts its steps from the first call
    return float(probe.scale_model_input(torch.ones(1, dtype=torch.float64), probe.timesteps[0]))


def _takes(scheduler: Any, *names: str) -> bool:
    return set(names) <= set(inspect.signature(type(scheduler).__init__).parameters)


def _cannot(scheduler: Any, reason: str) -> ValueError:
    return ValueError(f"{type(scheduler).__name__} cannot be late-started: {reason}. Those that can: {SUPPORTED}")


def _checked_time(t_start: Any) -> float:
    try:
        number = float(t_start)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"t_start={t_start!r}: expected a finite number in the scheduler's own time")
    return number


def _check_times(late: Any, scheduler: Any, t_start: float) -> None:
    """Raise `ValueError` for a run that begins at another time or passes below the data."""
    kind = Noise.from_scheduler(late).kind
    first, lowest = (len(late.alphas_cumprod) - 1, 0) if kind == "vp" else (t_start, -math.inf)
    times = late.timesteps.tolist()
    slack = 1e-4 * max(1.0, abs(first))  # schedulers keep their times in float32, some found by interpolation
    if (
        not all(map(math.isfinite, times))
        or abs(times[0] - first) > slack
        or max(times) > first + slack
        or min(times) < lowest
    ):
        raise _cannot(scheduler, f"it was to begin at t={first:g}, and runs over {np.round(times, 2).tolist()}")
