"""Noise processes: how much of the data and how much noise there is at each time.

A noised sample is `x_t = alpha_t x_0 + std_t eps`, and the one coordinate that all processes share is the noise level

    sigma = std / alpha,    y = x_t / alpha = x_0 + sigma eps,    snr = 1 / sigma^2.

With `l = log sigma` and the logistic function `s`, each kind of process is one line, at every level from 0 to infinity:

    vp    alpha^2 + std^2 = 1    alpha = s(-2 l)^(1/2)    std = s(2 l)^(1/2)    variance preserving (Ho et al. 2020)
    edm   alpha = 1              alpha = 1                std = exp(l)          variance exploding (Karras et al. 2022)
    flow  alpha + std = 1        alpha = s(-l)            std = s(l)            flow matching (Lipman et al. 2023)

So a process is its kind and one increasing function, `t -> log sigma`, with its inverse: the two methods that a
concrete class gives. Everything else is derived here.

Contract: `t` is always the scheduler's own time. A number (or a tensor without dimensions) gives a Python float, a
tensor or array of shape (B,) gives a float64 tensor of shape (B,) on the same device; inside, everything is float64.
A time or level outside the process raises `ValueError`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

__all__ = ["EDM", "Discrete", "Flow", "Kind", "LinearVP", "Noise", "refuse_kinds", "runs_to_noise", "when"]

Kind = Literal["vp", "edm", "flow"]
Number = TypeVar("Number", float, Tensor)  # a number gives a number, a tensor or an array a tensor

_NOTHING = 2.0**-20  # of `alphas_cumprod`: what rises to no more than this at the end stands for zero
_SLACK = 1e-6  # schedulers keep times and levels in float32: that far outside of the range is rounding, not a mistake


class Noise(ABC):
    """A noise process of a kind, over a range of times.

    Attributes:
        kind: "vp", "edm" or "flow": how alpha and std follow from sigma.
        t_range: the lowest and the highest time, in the scheduler's own units.
    """

    kind: Kind
    t_range: tuple[float, float]

    @abstractmethod
    def _log_sigma(self, t: Tensor) -> Tensor:
        """The logarithm of the level at `t`, increasing in `t`."""

    @abstractmethod
    def _time(self, log_sigma: Tensor) -> Tensor:
        """The inverse of `_log_sigma`."""

    @staticmethod
    def from_scheduler(scheduler: Any) -> "Noise":
        """The process of a diffusers scheduler, in its own times.

        - beta-based schedulers: t in [0, num_train_timesteps - 1]; levels from `alphas_cumprod`, between the integers
          log sigma is linear;
        - EDM schedulers: t = ln(sigma) / 4;
        - flow matching schedulers: t in [0, num_train_timesteps], tau = t / num_train_timesteps and
          sigma = tau / (1 - tau).

        Raises:
            ValueError: the scheduler is none of these.
            TypeError: a class, a pipeline or a text in place of a scheduler.
        """
        refuse_kinds(scheduler)
        # in this order: a scheduler with betas may be set to one of the other processes
        found = Flow.of(scheduler) or EDM.of(scheduler) or Discrete.of(scheduler)
        if found is None:
            raise ValueError(
                f"{type(scheduler).__name__} has no noise process known here: expected a diffusers scheduler with betas"
                " (alphas_cumprod), an EDM or a flow matching one"
            )
        return found

    @staticmethod
    def vp(beta_min: float = 0.1, beta_max: float = 20.0) -> "Noise":
        """The variance preserving SDE of Song et al. 2021: t in [0, 1], `beta(t) = beta_min + (beta_max - beta_min) t`.

        `alpha_bar = exp(-beta_min t - (beta_max - beta_min) t^2 / 2)`.
        """
        return LinearVP(beta_min, beta_max)

    @staticmethod
    def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> "Noise":
        """The process of Karras et al. 2022: alpha = 1, `t = ln(sigma) / 4`, the noise input of their networks."""
        return EDM(sigma_min, sigma_max)

    @staticmethod
    def flow(t_max: float = 1.0) -> "Noise":
        """Flow matching: `x = (1 - tau) x_0 + tau eps` with tau = t / t_max, so `sigma = tau / (1 - tau)`."""
        return Flow(t_max)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """The lowest and the highest level; a flow and a zero-terminal-SNR schedule reach infinity."""
        low, high = self._log_sigma(torch.tensor(self.t_range, dtype=torch.float64)).exp().tolist()
        return low, high

    def log_sigma(self, t: Number) -> Number:
        """`log(std / alpha)` at time `t`."""
        return _apply(self._log_sigma, self._checked_time, t)

    def sigma(self, t: Number) -> Number:
        """The noise level `std / alpha` at time `t`."""
        return self._derived(torch.exp, t)

    def alpha(self, t: Number) -> Number:
        """The scale of the data in `x_t`."""
        return self._derived(_ALPHA[self.kind], t)

    def std(self, t: Number) -> Number:
        """The standard deviation of the noise in `x_t`."""
        return self._derived(_STD[self.kind], t)

    def alpha_at(self, sigma: Number) -> Number:
        """The scale of the data at the level `sigma`, from 0 to infinity; of 0 it is 1."""
        return _apply(lambda level: _ALPHA[self.kind](level.log()), lambda level: level, sigma)

    def alpha_bar(self, t: Number) -> Number:
        """`1 / (1 + sigma^2)`: for "vp" it is `alpha^2`, and for the other kinds it names the same level."""
        return self._derived(lambda log_sigma: torch.sigmoid(-2 * log_sigma), t)

    def log_snr(self, t: Number) -> Number:
        """The natural logarithm of the signal-to-noise ratio, `-2 log sigma`."""
        return self._derived(lambda log_sigma: -2 * log_sigma, t)

    def snr(self, t: Number) -> Number:
        """The signal-to-noise ratio `1 / sigma^2`."""
        return self._derived(lambda log_sigma: torch.exp(-2 * log_sigma), t)

    def time(self, sigma: Number) -> Number:
        """The time at which the level is `sigma`: the exact inverse of `sigma(t)`.

        Raises:
            ValueError: the level lies outside `sigma_range`.
        """
        return _apply(self._time, self._checked_level, sigma)

    def clamped_time(self, sigma: Number) -> Number:
        """The time at which the level is `sigma`; of levels below and above the process, its first and last time.

        Raises:
            ValueError: a level that is NaN.
        """
        low, high = self.sigma_range
        return _apply(self._time, lambda levels: self._checked_level(levels.clamp(low, high)), sigma)

    def _derived(self, function: Callable[[Tensor], Tensor], t: Any) -> Any:
        return _apply(lambda t: function(self._log_sigma(t)), self._checked_time, t)

    def _checked_time(self, t: Tensor) -> Tensor:
        low, high = self.t_range
        slack = _SLACK * (high - low)
        return _within(t, low, high, (slack, slack), f"times of this {self.kind} process, t in [{low:g}, {high:g}]")

    def _checked_level(self, sigma: Tensor) -> Tensor:
        low, high = self.sigma_range
        levels = f"noise levels of this {self.kind} process, sigma in [{low:.6g}, {high:.6g}]"
        return _within(sigma, low, high, (_SLACK * low, _SLACK * high), levels).log()

    def __repr__(self) -> str:
        (t_low, t_high), (low, high) = self.t_range, self.sigma_range
        return f"{type(self).__name__}(kind={self.kind!r}, t=[{t_low:g}, {t_high:g}], sigma=[{low:.4g}, {high:.4g}])"


class Discrete(Noise):
    """A variance preserving process given by `alphas_cumprod` at the times 0, 1, ..., N - 1.

    Between two integers log sigma is linear, so the inverse is exact. A last level without any signal
    (`alphas_cumprod` 0: zero terminal SNR) has no finite logarithm: there alpha falls linearly to 0 instead.
    """

    kind = "vp"

    def __init__(self, alphas_cumprod: Tensor) -> None:
        alpha_bar = torch.as_tensor(alphas_cumprod).detach().cpu().to(torch.float64)
        self.t_range = (0.0, float(len(alpha_bar) - 1))
        # some classes write 2^-24 over a zero, and that can lie above the level before it
        risen = bool((alpha_bar[-1:] >= alpha_bar[-2:-1]).any()) and bool(alpha_bar[-1] <= _NOTHING)
        self._ends_in_noise = bool(-_NOTHING <= alpha_bar[-1] <= 0) or risen
        alpha_bar = alpha_bar[:-1] if self._ends_in_noise else alpha_bar
        self._nodes = 0.5 * (torch.log1p(-alpha_bar) - torch.log(alpha_bar))
        if len(self._nodes) == 0 or not bool(self._nodes.isfinite().all() and (self._nodes.diff() > 0).all()):
            raise ValueError("expected alphas_cumprod to fall strictly, from below 1 to not below 0")

    @classmethod
    def of(cls, scheduler: Any) -> "Discrete | None":
        """The process of a diffusers scheduler with `alphas_cumprod`, or None."""
        return cls(scheduler.alphas_cumprod) if hasattr(scheduler, "alphas_cumprod") else None

    def _log_sigma(self, t: Tensor) -> Tensor:
        nodes = self._nodes.to(t.device)
        left, right = self._neighbours(t.floor().long())
        finite = torch.lerp(nodes[left], nodes[right], t - left)
        if not self._ends_in_noise:
            return finite
        last = len(nodes) - 1
        alpha = _ALPHA["vp"](nodes[last]) * (last + 1 - t)
        return torch.where(t > last, 0.5 * (torch.log1p(-(alpha**2)) - 2 * torch.log(alpha)), finite)

    def _neighbours(self, index: Tensor) -> tuple[Tensor, Tensor]:
        left = index.clamp(0, max(len(self._nodes) - 2, 0))
        return left, (left + 1).clamp_max(len(self._nodes) - 1)

    def _time(self, log_sigma: Tensor) -> Tensor:
        nodes = self._nodes.to(log_sigma.device)
        left, right = self._neighbours(torch.searchsorted(nodes, log_sigma, right=True) - 1)
        finite = left + (log_sigma - nodes[left]) / (nodes[right] - nodes[left]).where(right > left, torch.inf)
        if not self._ends_in_noise:
            return finite
        beyond = len(nodes) - _ALPHA["vp"](log_sigma) / _ALPHA["vp"](nodes[-1])
        return torch.where(log_sigma > nodes[-1], beyond, finite)


class LinearVP(Noise):
    """The variance preserving process with `log(1 + sigma^2) = beta_min t + (beta_max - beta_min) t^2 / 2`."""

    kind = "vp"
    t_range = (0.0, 1.0)

    def __init__(self, beta_min: float, beta_max: float) -> None:
        if not 0 < beta_min <= beta_max < math.inf:
            raise ValueError(f"expected 0 < beta_min <= beta_max, got beta_min={beta_min}, beta_max={beta_max}")
        self.beta_min, self.slope = float(beta_min), float(beta_max - beta_min)

    def _log_sigma(self, t: Tensor) -> Tensor:
        minus_log_alpha_bar = self.beta_min * t + self.slope * t**2 / 2
        return 0.5 * (minus_log_alpha_bar + torch.log(-torch.expm1(-minus_log_alpha_bar)))

    def _time(self, log_sigma: Tensor) -> Tensor:
        minus_log_alpha_bar = torch.logaddexp(2 * log_sigma, torch.zeros_like(log_sigma))
        root = torch.sqrt(self.beta_min**2 + 2 * self.slope * minus_log_alpha_bar)
        return 2 * minus_log_alpha_bar / (self.beta_min + root)


class EDM(Noise):
    """The variance exploding process, in the time `t = ln(sigma) / 4`."""

    kind = "edm"

    def __init__(self, sigma_min: float, sigma_max: float) -> None:
        if not 0 < sigma_min < sigma_max < math.inf:
            raise ValueError(f"expected 0 < sigma_min < sigma_max, got sigma_min={sigma_min}, sigma_max={sigma_max}")
        self.t_range = (0.25 * math.log(sigma_min), 0.25 * math.log(sigma_max))

    @classmethod
    def of(cls, scheduler: Any) -> "EDM | None":
        """The process of a diffusers scheduler whose time is `ln(sigma) / 4`, or None.

        Such are the EDM classes, with their `precondition_noise`, and those with betas in continuous time that predict
        v. A level that the configuration leaves open is that of the betas.
        """
        config = getattr(scheduler, "config", {})
        if hasattr(scheduler, "precondition_noise"):
            if not math.isclose(float(scheduler.precondition_noise(math.e**4)), 1.0, rel_tol=1e-5):
                return None
        elif (config.get("timestep_type"), config.get("prediction_type")) != ("continuous", "v_prediction"):
            return None
        low, high = config.get("sigma_min"), config.get("sigma_max")
        if low is None or high is None:
            of_betas = Discrete(scheduler.alphas_cumprod).sigma_range
            low, high = of_betas[0] if low is None else low, of_betas[1] if high is None else high
        return cls(low, high)

    def _log_sigma(self, t: Tensor) -> Tensor:
        return 4 * t

    def _time(self, log_sigma: Tensor) -> Tensor:
        return log_sigma / 4


class Flow(Noise):
    """The straight path from data to noise, in the time `t = t_max tau`."""

    kind = "flow"

    def __init__(self, t_max: float) -> None:
        if not 0 < t_max < math.inf:
            raise ValueError(f"expected t_max > 0, got {t_max}")
        self.t_range = (0.0, float(t_max))

    @classmethod
    def of(cls, scheduler: Any) -> "Flow | None":
        """The process of a diffusers scheduler of flow matching, by its class or by `use_flow_sigmas`, or None."""
        config = getattr(scheduler, "config", {})
        matching = hasattr(scheduler, "scale_noise") and not hasattr(scheduler, "alphas_cumprod") and "shift" in config
        return cls(config["num_train_timesteps"]) if matching or config.get("use_flow_sigmas") else None

    def _log_sigma(self, t: Tensor) -> Tensor:
        return torch.logit(t / self.t_range[1])

    def _time(self, log_sigma: Tensor) -> Tensor:
        return self.t_range[1] * torch.sigmoid(log_sigma)


_ALPHA: dict[str, Callable[[Tensor], Tensor]] = {
    "vp": lambda log_sigma: torch.sigmoid(-2 * log_sigma).sqrt(),
    "edm": torch.ones_like,
    "flow": lambda log_sigma: torch.sigmoid(-log_sigma),
}
_STD: dict[str, Callable[[Tensor], Tensor]] = {
    "vp": lambda log_sigma: torch.sigmoid(2 * log_sigma).sqrt(),
    "edm": torch.exp,
    "flow": torch.sigmoid,
}


def refuse_kinds(scheduler: Any) -> None:
    """Raise `TypeError` for a class, a pipeline or a text in place of a scheduler, with the remedy."""
    if isinstance(scheduler, type):
        raise TypeError(
            f"expected a scheduler, received the class {scheduler.__name__}: make one, {scheduler.__name__}()"
        )
    if hasattr(scheduler, "scheduler") and hasattr(scheduler, "components"):
        raise TypeError(f"expected a scheduler, received the pipeline {type(scheduler).__name__}: give pipe.scheduler")
    if isinstance(scheduler, str | Path):
        raise TypeError(f"expected a scheduler, received the text {str(scheduler)!r}: make or open one")


def runs_to_noise(scheduler: Any) -> bool:
    """Whether a scheduler walks from data to noise: its times rise."""
    times = getattr(scheduler, "timesteps", None)
    return times is not None and len(times) > 1 and float(times[0]) < float(times[-1])


def when(t: float | Tensor | None) -> str:
    """A time in print: a whole number, but three digits of a small one, as those of EDM and of flows up to 1 are."""
    if t is None:
        return "none"
    number = float(t)
    return f"{number:.0f}" if abs(number) >= 10 else f"{number:.3g}"


def _apply(function: Callable[[Tensor], Tensor], checked: Callable[[Tensor], Tensor], value: Any) -> Any:
    values = torch.as_tensor(value, dtype=torch.float64)
    result = function(checked(values))
    return result.item() if values.ndim == 0 else result


def _within(values: Tensor, low: float, high: float, slack: tuple[float, float], what: str) -> Tensor:
    outside = ~((values >= low - slack[0]) & (values <= high + slack[1]))  # so that NaN is outside too
    if bool(outside.any()):
        raise ValueError(f"{values[outside].flatten()[0].item():g} lies outside of the {what}")
    return values.clamp(low, high)
