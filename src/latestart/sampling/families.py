"""Families of schedulers: how each writes its noise, and how its schedule is cut to the last times.

    family         noise level                     cut to [0, t_start) by                    first time of a run
    Beta           those of `alphas_cumprod`       its first `start` betas                   start - 1
    EDM            exp(4 t)                        `sigma_max`, the level at t_start         t_start
    FlowMatching   tau / (1 - tau), tau = t / N    a grid whose shift begins at t_start      t_start

with `start = steps * (t_start // steps)`, so that the fixed strides of DDIM and PNDM divide it. A family is one frozen
class over `Family` in `FAMILIES`; its process stands in `noise.py`, the outputs of its networks in
`denoisers/conventions.py`. Everything that differs between families is asked of these classes.

This file and `guard.py` know the quirks of diffusers' schedulers, `spacings.py` those of their spacings.
"""

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import diffusers
import numpy as np
import torch
from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.conventions import Convention
from latestart.noise import Kind, Noise, runs_to_noise
from latestart.sampling.guard import LateStarted, class_below
from latestart.sampling.names import OWN, SAMPLERS
from latestart.sampling.spacings import is_curved

__all__ = ["EDM", "FAMILIES", "Beta", "Family", "FlowMatching", "cuttable", "family_of", "level_spreader"]

# By mechanism alone these would pass, and would be wrong in silence.
_REFUSED = {
    "LCMScheduler": "it serves models distilled to a few fixed times",
    "TCDScheduler": "it serves models distilled to a few fixed times",
    "FlowMatchLCMScheduler": "it serves models distilled to a few fixed times",
    "RePaintScheduler": "it jumps back and forth between times, around a known image",
    "UnCLIPScheduler": "its betas cannot be given",
    "IPNDMScheduler": "its times are not indices of its betas; make_sampler('ipndm', scheduler) does the same steps",
}

# Settings of a whole schedule that would be wrong for a part of it.
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

# Settings of a class that only spreads levels, where another class' would be refused: these have no part in it.
_SPREADING = {"algorithm_type": "dpmsolver++", "solver_type": "midpoint"}


@dataclass(frozen=True)
class Family(ABC):
    """A scheduler as a member of its family. All times are the scheduler's t, all levels are sigma.

    Attributes:
        scheduler: a diffusers scheduler, whole or late-started.
        noise: its process.
        kind: the process of the family (class attribute, as all below).
        classes: the family and its classes, as messages name them.
        samplers: diffusers' classes by their short names.
        usual: the short name of the sampler that commands take where none is named.
        grid: diffusers' class whose times and levels the prior solver takes; None for the scheduler's own.
        criterion: the criterion of a critical level that belongs to the process' own reverse SDE.
        lowest: the lowest time.
    """

    kind: ClassVar[Kind]
    classes: ClassVar[str]
    samplers: ClassVar[Mapping[str, str]]
    usual: ClassVar[str] = OWN
    grid: ClassVar[str | None] = None
    criterion: ClassVar[Literal["density", "sde"]] = "density"
    lowest: ClassVar[float] = -math.inf

    scheduler: Any
    noise: Noise

    @classmethod
    def matches(cls, noise: Noise) -> bool:
        """Whether schedulers with this process belong to the family."""
        return noise.kind == cls.kind

    @property
    def convention(self) -> Convention:
        """The process, and the meaning of a network's output."""
        return Convention.of(self.scheduler)

    @property
    def top(self) -> float:
        """The highest `t_start`."""
        return self.noise.t_range[1]

    @property
    def shifts(self) -> bool:
        """Whether the levels follow the size of the images, by a number mu."""
        return False

    @property
    def own_scale(self) -> float:
        """The factor from the sample at the first time, as the scheduler carries it, to `x_t`."""
        return 1.0

    @abstractmethod
    def cut(self, t_start: float, steps: int, mu: float | None = None) -> Any:
        """A scheduler of the same class over [0, t_start), its times not set.

        Args:
            t_start: the start.
            steps: the number of steps of its runs.
            mu: the shift, where `shifts`.

        Raises:
            ValueError: a start outside of the schedule or without time for the steps, or settings that forbid it.
        """

    def down_to(self, t_start: float, last: Any, steps: int) -> list[float]:
        """Evenly spread times from the start down to `last`.

        Raises:
            ValueError: its times are not indices of a schedule; no room for the steps.
        """
        raise _cannot(self.scheduler, "its times are no indices of a schedule, which a last one is: give own times")

    @abstractmethod
    def over(self, times: Sequence[float]) -> Any:
        """A scheduler of the same class whose runs stand at chosen falling times alone; the guard sets them.

        Raises:
            ValueError: a spacing of levels, or times that are none of the schedule's.
        """

    def first_time(self, t_start: float, steps: int = 1) -> float:
        """The first time of a run of `steps` steps from `t_start`."""
        return t_start

    def start_for(self, sigma: float, steps: int = 1) -> float:
        """The `t_start` whose first time has the level nearest to `sigma`, as far as the schedule reaches."""
        return self.noise.clamped_time(sigma)

    def start_level(self, t_start: float) -> float:
        """The level at the first time of a run from `t_start`, as far as the schedule reaches."""
        low, high = self.noise.t_range
        return self.noise.sigma(min(max(self.first_time(t_start), low), high))

    def check_times(self, late: Any, first: float) -> None:
        """Raise `ValueError` for a cut scheduler that begins at another time than `first` or passes below the data."""
        times = np.array(late.timesteps.tolist())
        slack = 1e-4 * max(1.0, abs(first))  # schedulers keep their times in float32, some found by interpolation
        if not (abs(times[0] - first) <= slack and ((times >= self.lowest) & (times <= first + slack)).all()):
            raise _cannot(self.scheduler, f"it was to begin at t={first:g}, and runs over {times.round(2).tolist()}")

    def _remade(self, changes: Mapping[str, Any]) -> Any:
        """One of the same class with other settings; `from_config` would look through all of diffusers for it."""
        kind: Any = class_below(self.scheduler)
        settings, known = {**self.scheduler.config, **changes}, inspect.signature(kind.__init__).parameters
        return kind(**{name: settings[name] for name in known if name in settings})


@dataclass(frozen=True)
class Beta(Family):
    """Schedulers with betas: variance preserving, at the times 0 to N - 1."""

    kind = "vp"
    classes = (
        "beta-based schedulers (DDPM, DDIM, PNDM, DEIS, DPMSolverMultistep, DPMSolverSinglestep, DPMSolverSDE, UniPC,"
        " SASolver, EulerDiscrete, EulerAncestralDiscrete, HeunDiscrete, LMSDiscrete, KDPM2Discrete,"
        " KDPM2AncestralDiscrete, CogVideoX's DDIM and DPM, and others that take trained_betas)"
    )
    samplers = SAMPLERS
    usual = "ddim"
    grid = "DPMSolverMultistepScheduler"
    criterion = "sde"
    lowest = 0.0

    @property
    def top(self) -> float:
        """The number of times."""
        return self.noise.t_range[1] + 1

    @property
    def own_scale(self) -> float:
        """The factor of `scale_model_input`: Euler, Heun, LMS and KDPM2 carry samples divided by alpha."""
        probe = copy.deepcopy(self.scheduler)  # it counts its steps from the first call
        return float(probe.scale_model_input(torch.ones(1, dtype=torch.float64), probe.timesteps[0]))

    def cut(self, t_start: float, steps: int, mu: float | None = None) -> Any:
        """The scheduler of the first `steps * (t_start // steps)` betas."""
        if not {"trained_betas", "num_train_timesteps"} <= set(inspect.signature(type(self.scheduler)).parameters):
            raise _cannot(self.scheduler, "its noise schedule cannot be cut")
        betas = self.betas()
        if steps > len(betas):
            raise ValueError(f"{steps} steps are more than the schedule's {len(betas)} times")
        if not 0 < t_start <= len(betas):
            raise ValueError(f"t_start={t_start:g} lies outside of the schedule: expected {steps} to {len(betas)}")
        start = int(self.first_time(t_start, steps)) + 1
        if start < 2:
            raise ValueError(f"t_start={t_start:g} leaves no time for {steps} steps: expected at least {max(steps, 2)}")
        return self._over(betas[:start])

    def down_to(self, t_start: float, last: Any, steps: int) -> list[float]:
        """Whole times from `t_start - 1` down to `last`."""
        first, last = int(self.first_time(t_start)), whole_number("last", last, 0)
        if first - last < steps - 1 or (steps == 1 and last != first):
            raise ValueError(f"last={last} leaves no room for {steps} evaluations from t = {first} down to it")
        return [float(round(first + (last - first) * k / max(steps - 1, 1))) for k in range(steps)]

    def over(self, times: Sequence[float]) -> Any:
        """A scheduler over the levels of chosen times alone (Nichol and Dhariwal 2021, section 4).

        Its own times are 0 to n - 1.
        """
        if is_curved(self.scheduler):
            raise _cannot(self.scheduler, "its spacing spreads levels and not times: leave out own and last times")
        if wrong := [t for t in times if t != round(t)]:
            raise ValueError(f"t = {wrong[0]:g}: expected whole times of a schedule with betas")
        if not math.isfinite(self.noise.sigma(float(times[0]))):
            raise _cannot(self.scheduler, f"nothing of the image is left at t = {times[0]:g}: start below it")
        kept = self.scheduler.alphas_cumprod.detach().cpu().double()[[int(t) for t in reversed(times)]]
        return self._over(1 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]]))

    def _over(self, betas: Tensor) -> Any:
        known = {name: value for name, value in _TRUNCATED.items() if name in self.scheduler.config}
        return self._remade({**known, "num_train_timesteps": len(betas), "trained_betas": betas.tolist()})

    def first_time(self, t_start: float, steps: int = 1) -> float:
        """One below the highest multiple of `steps` up to `t_start`.

        DPM solvers leave out the times whose log(alpha / std) lies below their `lambda_min_clipped`.
        """
        lowest = self.scheduler.config.get("lambda_min_clipped")
        if lowest is not None:
            alphas_cumprod = self.scheduler.alphas_cumprod.detach().cpu().double()
            t_start = min(t_start, int((torch.logit(alphas_cumprod) / 2 >= lowest).sum()))
        return steps * (t_start // steps) - 1

    def start_for(self, sigma: float, steps: int = 1) -> float:
        """The multiple of `steps` whose first time has the level nearest to `sigma`."""
        nearest = round((self.noise.clamped_time(sigma) + 1) / steps)
        return float(steps * min(max(nearest, 1), self.top // steps))

    def betas(self) -> Tensor:
        """The betas whose running product gives `alphas_cumprod`: the scheduler's own where they do, bit for bit."""
        alphas_cumprod = self.scheduler.alphas_cumprod.detach().cpu()
        betas = getattr(self.scheduler, "betas", None)
        if isinstance(betas, Tensor) and torch.equal(torch.cumprod(1 - betas.cpu(), 0), alphas_cumprod):
            return betas.cpu()
        before = torch.cat([torch.ones(1, dtype=torch.float64), alphas_cumprod[:-1].double()])
        return 1 - alphas_cumprod.double() / before


@dataclass(frozen=True)
class EDM(Family):
    """Schedulers of Karras et al. 2022: alpha = 1, `t = ln(sigma) / 4`."""

    kind = "edm"
    classes = "EDM schedulers (EDMEuler, EDMDPMSolverMultistep)"
    samplers: ClassVar = {
        "euler": "EDMEulerScheduler",
        "dpm++": "EDMDPMSolverMultistepScheduler",
        "sde-dpm++": "EDMDPMSolverMultistepScheduler",
    }

    def cut(self, t_start: float, steps: int, mu: float | None = None) -> Any:
        """The scheduler whose highest level is that at `t_start`."""
        sigma, lowest = self.noise.sigma(t_start), self.noise.sigma_range[0]
        if sigma <= lowest:
            raise ValueError(f"t_start={t_start:g} (sigma={sigma:g}) leaves no step: expected sigma above {lowest:g}")
        if hasattr(self.scheduler, "alphas_cumprod") and not is_curved(self.scheduler):
            raise _cannot(self.scheduler, "with continuous times it needs Karras, exponential or beta levels")
        return self._remade({"sigma_max": sigma})

    def over(self, times: Sequence[float]) -> Any:
        """The scheduler whose highest level is that of the first time."""
        return self._remade({"sigma_max": self.noise.sigma(times[0])})


@dataclass(frozen=True)
class FlowMatching(Family):
    """Schedulers on the straight path from data to noise: `tau = t / num_train_timesteps`."""

    kind = "flow"
    classes = "flow matching schedulers (FlowMatchEulerDiscrete, FlowMatchHeunDiscrete)"
    samplers: ClassVar = {"euler": "FlowMatchEulerDiscreteScheduler", "heun": "FlowMatchHeunDiscreteScheduler"}
    grid = "FlowMatchEulerDiscreteScheduler"

    @property
    def shifts(self) -> bool:
        """Whether its configuration says `use_dynamic_shifting`."""
        return bool(self.scheduler.config.get("use_dynamic_shifting"))

    def cut(self, t_start: float, steps: int, mu: float | None = None) -> Any:
        """The scheduler whose grid, before the shift, begins where the shift leads to `t_start`."""
        scheduler, config, late = self.scheduler, self.scheduler.config, self.over((t_start,))
        tau = t_start / self.top
        if not 0 < tau <= 1:
            raise ValueError(f"t_start={t_start:g} lies outside of the schedule: expected (0, {self.top:g}]")
        shift = scheduler.shift if hasattr(scheduler, "set_shift") else config["shift"]
        if mu is not None:
            shift = math.exp(mu) if config["time_shift_type"] == "exponential" else mu
        # set_timesteps spreads its times evenly between these two, and shifts them afterwards
        late.sigma_max = tau / (shift - (shift - 1) * tau)
        late.sigma_min = late.sigma_max / steps
        return late

    def over(self, times: Sequence[float]) -> Any:
        """The scheduler with its shift, but without a terminal level: to stretch the grid to it moves its beginning."""
        scheduler, config = self.scheduler, self.scheduler.config
        if hasattr(scheduler, "alphas_cumprod"):
            raise _cannot(scheduler, "with use_flow_sigmas=True its levels do not follow its betas")
        late = self._remade({"shift_terminal": None} if "shift_terminal" in config else {})
        if hasattr(scheduler, "set_shift"):
            late.set_shift(scheduler.shift)
        return late


FAMILIES: tuple[type[Family], ...] = (Beta, EDM, FlowMatching)


def family_of(scheduler: Any) -> Family:
    """The family of a scheduler, whole or late-started.

    Raises:
        ValueError: it belongs to none.
        TypeError: a class, a pipeline or a text in place of a scheduler.
    """
    noise = Noise.from_scheduler(scheduler)
    return next(family for family in FAMILIES if family.matches(noise))(scheduler, noise)


def cuttable(scheduler: Any, mu: float | None = None) -> Family:
    """The family of a whole scheduler that can be late-started.

    Args:
        scheduler: a diffusers scheduler.
        mu: the shift of a flow matching scheduler with `use_dynamic_shifting`, else None.

    Raises:
        ValueError: it cannot be late-started, with the reason; a `mu` that is missing or has no use.
    """
    family = _known(scheduler)
    if (mu is not None) != family.shifts:
        raise ValueError(
            f"mu={mu}: expected a number for a flow matching scheduler with use_dynamic_shifting, else None; generate "
            "takes the scheduler that ls.late_start(scheduler, t_start, steps, mu=...) made of one"
        )
    return family


def level_spreader(trained: Any) -> Any:
    """The scheduler of diffusers that spreads the times and levels of a run, for a solver with steps of its own.

    Args:
        trained: any scheduler of a family, whole or late-started; one that spreads levels already is copied as it is.

    Raises:
        ValueError: its steps cannot be replaced, with the reason.
        TypeError: no scheduler.
    """
    trained = trained.whole() if isinstance(trained, LateStarted) else trained
    family = _known(trained, "lend its levels to the prior solver")
    named = Beta.grid if hasattr(trained, "alphas_cumprod") and family.grid else family.grid
    kind: Any = type(trained) if named is None else getattr(diffusers, named)
    if isinstance(trained, kind):
        return copy.deepcopy(trained)
    if not isinstance(family, Beta):
        return kind.from_config({**trained.config, "_use_default_values": []})
    known = set(inspect.signature(kind).parameters)
    settings = {name: value for name, value in trained.config.items() if name in known} | _SPREADING
    try:
        made = kind(**settings)
        mine, theirs = (one.alphas_cumprod.cpu().double() for one in (made, trained))
        same = torch.allclose(mine, theirs, rtol=1e-4, atol=1e-7)
    except NotImplementedError:  # it does not know the schedule's name
        same = False
    if same:
        return made
    given = {"trained_betas": family.betas().tolist(), "rescale_betas_zero_snr": False}
    return kind(**settings | given)


def _known(scheduler: Any, what: str = "be late-started") -> Family:
    """The family of a scheduler that can be cut and stepped over.

    Args:
        scheduler: a diffusers scheduler.
        what: what it is asked to do, for the refusal.

    Raises:
        ValueError: there is none, with the reason.
        TypeError: no scheduler.
    """
    bases = [base.__name__ for base in type(scheduler).__mro__]
    if reason := next((_REFUSED[name] for name in bases if name in _REFUSED), None):
        raise _cannot(scheduler, reason, what)
    if runs_to_noise(scheduler):
        raise _cannot(scheduler, "it runs from data to noise", what)
    if scheduler.config.get("invert_sigmas"):
        raise _cannot(scheduler, "with invert_sigmas=True it runs from data to noise", what)
    if scheduler.config.get("stochastic_sampling"):
        raise _cannot(scheduler, "with stochastic_sampling=True it serves models distilled to a few steps", what)
    try:
        return family_of(scheduler)
    except ValueError as error:
        raise _cannot(scheduler, "its noise schedule cannot be cut", what) from error


def _cannot(scheduler: Any, reason: str, what: str = "be late-started") -> ValueError:
    *classes, last = (family.classes for family in FAMILIES)
    return ValueError(
        f"{type(scheduler).__name__} cannot {what}: {reason}. Those that can: {', '.join(classes)} and {last}"
    )
