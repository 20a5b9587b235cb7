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
is good for the number of steps that it was made for, and any other raises. `Run` drives any scheduler through one loop,
whatever its `step` asks for.

Source of the method: Raya and Ambrogioni, "Spontaneous symmetry breaking in generative diffusion models", NeurIPS 2023.
"""

import copy
import functools
import inspect
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latestart.gaussians.mixture import Conditioned
from latestart.noise import Noise, is_edm, is_flow
from latestart.sampling.spacings import is_curved, round_times

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
    "DDIMInverseScheduler": "it runs from data to noise",
    "DPMSolverMultistepInverseScheduler": "it runs from data to noise",
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


class Prior(Protocol):
    """What a start sample is drawn from: a distribution of data that can be noised and pushed to.

    `generate` also compares it with the model if it is a denoiser, as every prior of this library is.
    """

    @property
    def shape(self) -> Sequence[int]: ...

    def noised(self, sigma: float) -> "Prior": ...

    def push(self, z: Tensor) -> Tensor: ...


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
    steps, t_start = whole_number("steps", steps), _checked_time(t_start)
    family = _family(scheduler)
    if (mu is not None) != _shifts_dynamically(scheduler):
        raise ValueError(
            f"mu={mu}: expected a number for a flow matching scheduler with use_dynamic_shifting, else None"
        )
    late = family(scheduler, t_start, steps, mu)
    late.__class__ = _late_class(_kind(scheduler))
    late.late_steps, late.late_mu = steps, mu
    late.set_timesteps(steps)
    return _checked_times(late, scheduler, t_start)


def start_level(late: Any) -> float:
    """The level sigma at the first time of a scheduler whose times are set: where a run of it begins."""
    return Noise.from_scheduler(late).sigma(float(late.timesteps[0]))


def start_sample(late: Any, prior: Prior | None, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
    """The start of a run in the scheduler's own space, `x_s = alpha_s (m + (C + sigma_s^2 I)^(1/2) z)`.

    Args:
        late: a scheduler whose times are set; `sigma_s` is the level at the first of them.
        prior: the distribution of the data, with `shape`, `noised(sigma)` and `push(z)`; None stands for N(0, I), which
            for a variance preserving process gives `x_s = z`.
        z: white noise, (B, *shape); the result has its shape, dtype and device.
        labels: the class of each sample, an index or `(B,)`, for a prior whose components carry classes.

    Raises:
        ValueError: the shape of `z` is not the prior's, or it has no component of a class.
    """
    noise, t = Noise.from_scheduler(late), float(late.timesteps[0])
    alpha, std, sigma = noise.alpha(t), noise.std(t), noise.sigma(t)
    if prior is not None and tuple(z.shape[1:]) != tuple(prior.shape):
        raise ValueError(f"z has the shape {tuple(z.shape)}, expected (B, *{tuple(prior.shape)}) for this prior")
    if prior is None or alpha == 0:  # without any signal left, the noise is the sample
        return z * (math.hypot(alpha, std) / _own_scale(late, noise))
    y = prior.noised(sigma).push(z, **of_classes(prior, labels))
    return (y * (alpha / _own_scale(late, noise))).to(z)


def of_classes(prior: Prior, labels: Tensor | int | None) -> dict[str, Any]:
    """The labels as a prior's methods take them: nothing for one that knows no classes."""
    knows = labels is not None and getattr(prior, "labels", None) is not None
    return {"labels": labels} if knows else {}


def conditioned(prior: Any, labels: Tensor | int | None) -> Any:
    """The prior as a denoiser of images of those classes, `(n,)` or one for all; itself where it knows no classes."""
    if not of_classes(prior, labels):
        return prior
    given = torch.as_tensor(labels)
    return Conditioned(prior, given) if given.ndim else prior.of_class(int(given))


def initial_sample(scheduler: Any, z: Tensor) -> Tensor:
    """The start of a full run from white noise `z`, (B, *shape), as pipelines draw it: `init_noise_sigma z`."""
    return z * float(getattr(scheduler, "init_noise_sigma", 1.0))


class Run:
    """One run of a scheduler, from noise to data, whatever its `step` asks for.

        run = Run(scheduler, generators)
        for t in scheduler.timesteps:
            x = run.step(model(run.model_input(x, t), t), t, x)

    Args:
        scheduler: a diffusers scheduler whose times are set and that has not stepped since.
        generators: the noise of stochastic schedulers, one generator for all samples or one for each.
        eta: the share of noise where the class knows it (DDIM); None leaves the class's default.
    """

    def __init__(
        self,
        scheduler: Any,
        generators: torch.Generator | list[torch.Generator] | None = None,
        eta: float | None = None,
    ) -> None:
        self.scheduler, self.generators = scheduler, generators
        self._accepts = set(inspect.signature(scheduler.step).parameters)
        offered = {"generator": generators, "eta": eta, "return_dict": False}
        self._options = {name: value for name, value in offered.items() if value is not None and name in self._accepts}
        self._previous: tuple[Any, Tensor | None] = (None, None)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)  # else a class whose first two times are equal begins at the second
        if generators is not None and hasattr(scheduler, "noise_sampler_seed"):
            # DPMSolverSDE draws Brownian paths, by seeds of their own
            scheduler.noise_sampler = None
            scheduler.noise_sampler_seed = _seeds(generators)

    def model_input(self, x: Tensor, t: Any) -> Tensor:
        """What the network is given for the sample `x`, (B, *shape), at time `t`."""
        return self.scheduler.scale_model_input(x, t) if hasattr(self.scheduler, "scale_model_input") else x

    def step(self, output: Tensor, t: Any, x: Tensor) -> Tensor:
        """The sample one step below time `t`, from the network's output and the sample `x`, both (B, *shape)."""
        result = self.scheduler.step(model_output=output, timestep=t, sample=x, **self._memory(), **self._options)
        self._previous = (t, result[1] if len(result) > 1 else None)
        return result[0]

    def _memory(self) -> dict[str, Any]:
        """CogVideoX's DPM solver leaves it to the caller to remember the last time and the last prediction."""
        if "old_pred_original_sample" not in self._accepts:
            return {}
        t, prediction = self._previous
        return {"timestep_back": t, "old_pred_original_sample": prediction}


def _seeds(generators: torch.Generator | list[torch.Generator]) -> int | list[int]:
    if isinstance(generators, torch.Generator):
        return generators.initial_seed()
    return [generator.initial_seed() for generator in generators]


class _LateStarted:
    """The guard that a late-started scheduler carries before its own class."""

    late_steps: int
    late_mu: float | None

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, **others: Any) -> None:
        """Set the times again, for the number of steps that the late start was made for.

        Raises:
            ValueError: another number of steps, or times or levels of one's own.
        """
        shift = others.pop("mu", None)
        given = {name: value for name, value in others.items() if value is not None}
        given |= {} if shift in (None, self.late_mu) else {"mu": shift}
        if num_inference_steps != self.late_steps or given:
            raise ValueError(
                f"this scheduler was late-started for {self.late_steps} steps, and got num_inference_steps="
                f"{num_inference_steps}{''.join(f', {name}={value}' for name, value in given.items())}:"
                " call late_start again with the other number"
            )
        options = {} if self.late_mu is None else {"mu": self.late_mu}
        super().set_timesteps(num_inference_steps, device=device, **options)  # type: ignore[misc]
        round_times(self)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        # a lambda (SASolver keeps one) cannot be pickled: the constructor makes it again
        state = {name: value for name, value in self.__dict__.items() if getattr(value, "__name__", "") != "<lambda>"}
        return _rebuilt, (_kind(self), dict(self.config)), state  # type: ignore[attr-defined]


def _rebuilt(kind: type, config: Mapping[str, Any]) -> Any:
    late = kind.from_config(config)  # type: ignore[attr-defined]
    late.__class__ = _late_class(kind)
    return late


@functools.cache
def _late_class(kind: type) -> type:
    # the same name, so that a saved configuration names the class that can load it
    return type(kind.__name__, (_LateStarted, kind), {"__module__": kind.__module__, "__doc__": kind.__doc__})


def _kind(scheduler: Any) -> type:
    """The scheduler's class, below the guard where it is late-started already."""
    return type(scheduler).__mro__[2] if isinstance(scheduler, _LateStarted) else type(scheduler)


def _family(scheduler: Any) -> Any:
    reason = next((_REFUSED[base.__name__] for base in type(scheduler).__mro__ if base.__name__ in _REFUSED), None)
    if reason is not None:
        raise _cannot(scheduler, reason)
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
    config = scheduler.config
    # from_config takes the class's defaults for the names in this list, whatever the configuration says of them
    defaults = [name for name in config.get("_use_default_values", []) if name not in changes]
    return _kind(scheduler).from_config({**config, **changes, "_use_default_values": defaults})  # type: ignore[attr-defined]


def _shifts_dynamically(scheduler: Any) -> bool:
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
    """What `scale_model_input` multiplies the scheduler's sample by to make it `x_t`."""
    if noise.kind != "vp":
        return 1.0  # there the input scale, if any, belongs to the network
    probe = copy.deepcopy(scheduler)  # it counts its steps from the first call
    return float(probe.scale_model_input(torch.ones(1, dtype=torch.float64), probe.timesteps[0]))


def _takes(scheduler: Any, *names: str) -> bool:
    return set(names) <= set(inspect.signature(type(scheduler).__init__).parameters)


def _cannot(scheduler: Any, reason: str) -> ValueError:
    return ValueError(f"{type(scheduler).__name__} cannot be late-started: {reason}. Those that can: {SUPPORTED}")


def whole_number(name: str, value: Any) -> int:
    """The value, if it is a whole number of at least 1; else a `ValueError` that names both."""
    try:
        whole = operator.index(value)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"{name}={value!r}: expected a whole number of at least 1")
    return whole


def _checked_time(t_start: Any) -> float:
    try:
        number = float(t_start)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"t_start={t_start!r}: expected a finite number in the scheduler's own time")
    return number


def _checked_times(late: Any, scheduler: Any, t_start: float) -> Any:
    """Whatever the class: a run that begins elsewhere, or passes below the data, is worse than no run."""
    kind = Noise.from_scheduler(late).kind
    first, lowest = (len(late.alphas_cumprod) - 1, 0) if kind == "vp" else (t_start, -math.inf)
    times = late.timesteps.tolist()
    slack = 1e-4 * max(1.0, abs(first))  # schedulers keep their times in float32, some found by interpolation
    if abs(times[0] - first) > slack or max(times) > first + slack or min(times) < lowest:
        raise _cannot(scheduler, f"it was to begin at t={first:g}, and runs over {np.round(times, 2).tolist()}")
    return late
