"""The guard around a late-started scheduler.

Inside is the scheduler over the last times (`cut`), which does the work. Outside it is an instance of the user's class
with the user's configuration, that of the whole schedule. So a scheduler that is made or saved from it (`from_config`,
`save_pretrained`, a pipeline that makes its scheduler anew) has the whole schedule, and never a part of it without this
guard. All attributes and methods are those of `cut`, except

    set_timesteps       accepts only the number of steps of the late start, or a pipeline's grid over the whole schedule
                        with that number of steps
    step                the first of a run resets `cut`; the last ends without noise (`endings.py`)
    timesteps           of a beta-based scheduler over chosen times alone, whose own are 0 to n - 1, the chosen ones;
                        `step` and `scale_model_input` take these, and `alphas_cumprod` is that of the whole schedule
    init_noise_sigma    1: pipelines multiply their first sample by it, and that is a start sample already
"""

import copy
import functools
import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from latestart.gaussians.prior import StartDistribution
from latestart.noise import Noise
from latestart.sampling.endings import finished
from latestart.sampling.spacings import round_times, standing_before

__all__ = ["LateStarted", "class_below", "guarded", "prior_inside"]

# of the guard and its configuration; all else is that of the scheduler inside
_STATE = frozenset(
    ("cut", "late_steps", "late_mu", "late_times", "late_own", "late_alphas", "late_done", "late_device")
).union(("_internal_dict",))
_OWN = _STATE.union(
    ("set_timesteps", "init_noise_sigma", "arrange", "whole", "timesteps", "alphas_cumprod"),
    ("config", "register_to_config", "save_config", "save_pretrained", "push_to_hub", "to_json_string", "to_json_file"),
)
_WATCHED = frozenset(("step", "scale_model_input"))
_TIMED = {"step": 1, "scale_model_input": 1, "add_noise": 2, "get_velocity": 2, "index_for_timestep": 0}  # place of t
TOP = 0.99  # pipelines' grids begin at 1, or at 0.999


class LateStarted:
    """The base class that stands before a late-started scheduler's own class (`standing_before`)."""

    cut: Any
    late_steps: int
    late_mu: float | None
    late_times: list[int] | None
    late_own: list[float] | None
    late_alphas: Any
    late_done: int
    late_device: Any
    config: Any

    init_noise_sigma = 1.0

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__") or name in _OWN:
            return object.__getattribute__(self, name)
        value = getattr(object.__getattribute__(self, "cut"), name)
        if name in _TIMED and self.late_times is not None:
            value = _translated(self, value, _TIMED[name])
        return _watched(self, value, name) if name in _WATCHED else value

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _STATE:
            object.__setattr__(self, name, value)
        elif name != "init_noise_sigma":
            setattr(self.cut, name, value)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        """Set the times again, for the number of steps that the late start was made for.

        Args:
            num_inference_steps: that number; None takes the number of `sigmas`.
            device: the device of the times.
            timesteps, sigmas: a pipeline's own, evenly spread over the whole schedule: those of the late start take
                their place.
            mu: the shift, where the schedule is shifted dynamically.

        Raises:
            ValueError: another number of steps, another shift, or times or levels that stand for something else.
        """
        count = len(sigmas) if num_inference_steps is None and sigmas is not None else num_inference_steps
        given = {"timesteps": timesteps if sigmas is None else None, "sigmas": None if _whole(sigmas) else sigmas}
        given["mu"] = None if mu == self.late_mu or self.late_mu is None else mu
        refused = {name: value for name, value in given.items() if value is not None}
        if count != self.late_steps or refused:
            raise ValueError(
                f"this scheduler was late-started for {self.late_steps} steps, and got num_inference_steps={count}"
                f"{''.join(f', {name}={value}' for name, value in refused.items())}: call late_start again with the "
                "other number, or set times and levels on the scheduler that it was made from"
            )
        self.arrange(device)

    @property
    def timesteps(self) -> Any:
        """The times of a run, in those of the whole schedule."""
        own = self.cut.timesteps
        if self.late_times is None:
            return own
        return own.new_tensor(self.late_times[::-1])[own.long()]

    @property
    def alphas_cumprod(self) -> Any:
        """The schedule that the times belong to."""
        return self.cut.alphas_cumprod if self.late_times is None else self.late_alphas

    def arrange(self, device: Any = None) -> None:
        """Set the times of the scheduler inside, as if it had never stepped."""
        options = {} if self.late_mu is None else {"mu": self.late_mu}
        if self.late_own is not None:
            _set_times(self.cut, self.late_own, device, options)
        else:
            self.cut.set_timesteps(self.late_steps, device=device, **options)
            round_times(self.cut)
        if self.late_times is not None:
            _end_at(self.cut, self.late_alphas[0])
        self.late_device, self.late_done = device, 0

    def whole(self) -> Any:
        """The scheduler that it was made from, over the whole schedule."""
        return class_below(self).from_config(self.config, **_beside(self.cut))  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        for config in (self.config, self.cut.config):  # frozen, and with a thousand betas each
            memo[id(config)] = config
        copied = object.__new__(type(self))
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        # a lambda (SASolver keeps one) cannot be pickled: the constructor makes it again
        inside = {k: v for k, v in vars(self.cut).items() if getattr(v, "__name__", "") != "<lambda>"}
        own = {name: value for name, value in self.__dict__.items() if name != "cut"}
        return _rebuilt, (class_below(self), dict(self.cut.config), inside, own)


def guarded(whole: Any, cut: Any, steps: int, mu: float | None, times: list[float] | None = None) -> Any:
    """Put the guard around a scheduler and set its times.

    Args:
        whole: the user's scheduler; its configuration is kept.
        cut: one of the same class over the last times.
        steps: the only number of steps.
        mu: the shift of a flow matching scheduler that is shifted dynamically.
        times: falling times of the whole schedule, where its runs stand at these alone. Where they are indices of
            betas, `cut` has these betas alone.
    """
    alphas = getattr(whole, "alphas_cumprod", None) if times is not None and _is_beta_based(cut) else None
    indices = None if times is None or alphas is None else [int(t) for t in times]
    own = {"late_steps": steps, "late_mu": mu, "late_times": indices, "_internal_dict": whole.config}
    late = _around(cut, own | {"late_alphas": alphas, "late_own": times if alphas is None else None})
    late.arrange()
    return late


def prior_inside(scheduler: Any) -> StartDistribution | None:
    """The prior inside a scheduler, late-started or not: of the prior solver; None of any other."""
    found = getattr(scheduler, "prior", None)
    return found if isinstance(found, StartDistribution) else None


def class_below(scheduler: Any) -> type:
    """The scheduler's class, below the guard where it is late-started already."""
    return type(scheduler).__mro__[2] if isinstance(scheduler, LateStarted) else type(scheduler)


def _is_beta_based(scheduler: Any) -> bool:
    return Noise.from_scheduler(getattr(scheduler, "grid", scheduler)).kind == "vp"


def _set_times(cut: Any, times: list[float], device: Any, options: dict[str, Any]) -> None:
    """Let a scheduler whose times are levels stand at chosen ones: sigma of EDM, tau of flow matching."""
    if prior_inside(cut) is not None:
        cut.set_timesteps(timesteps=times, device=device)
        return
    cut.set_timesteps(len(times), device=device, **options)
    own = torch.tensor(times, dtype=torch.float64)
    levels = torch.as_tensor(Noise.from_scheduler(cut).std(own))
    if len(cut.timesteps) > len(times):  # Heun stands twice at every level but its first
        own, levels = (torch.cat([part[:1], part[1:].repeat_interleave(2)]) for part in (own, levels))
    cut.timesteps = own.to(cut.timesteps)
    cut.sigmas = torch.cat([levels.to(cut.sigmas), cut.sigmas[-1:]])


def _end_at(cut: Any, alpha_bar: Any) -> None:
    """Let a scheduler over chosen times that ends at its lowest level end at that of the whole schedule."""
    if getattr(cut, "final_alpha_cumprod", 1.0) < 1:
        cut.final_alpha_cumprod = alpha_bar
    if hasattr(cut, "sigmas") and cut.sigmas[-1] > 0:
        cut.sigmas[-1] = ((1 - alpha_bar) / alpha_bar) ** 0.5


def _beside(scheduler: Any) -> dict[str, Any]:
    """Arguments of a scheduler's constructor that are no configuration: the prior of the prior solver."""
    return {name: getattr(scheduler, name) for name in getattr(scheduler, "beside_config", ())}


def _rebuilt(kind: type, config: Mapping[str, Any], inside: dict[str, Any], own: dict[str, Any]) -> Any:
    beside = {name: inside[name] for name in getattr(kind, "beside_config", ()) if name in inside}
    cut = kind.from_config(config, **beside)  # type: ignore[attr-defined]
    vars(cut).update(inside)
    return _around(cut, own)


def _around(cut: Any, own: dict[str, Any]) -> Any:
    kind: type = type(cut)
    late: Any = object.__new__(standing_before(kind, LateStarted))
    late.__dict__.update(own, cut=cut)
    return late


def _watched(late: LateStarted, method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap a method of the scheduler inside, so that a run that begins resets it."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        timestep = kwargs.get("timestep", args[1] if len(args) > 1 else None)
        own = timestep if timestep is None or late.late_times is None else _own_time(late, timestep)
        _begin(late, own)
        result = method(*args, **kwargs)
        if name == "step":
            result = finished(late.cut, own, result)
            late.late_done += 1
        return result

    return call


def _translated(late: LateStarted, method: Callable[..., Any], place: int) -> Callable[..., Any]:
    """Wrap a method of a scheduler over chosen times, so that it takes the chosen ones."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        if len(args) > place:
            args = (*args[:place], _own_time(late, args[place]), *args[place + 1 :])
        for name in ("timestep", "timesteps", "timestep_back"):
            if kwargs.get(name) is not None:
                kwargs[name] = _own_time(late, kwargs[name])
        return method(*args, **kwargs)

    return call


def _own_time(late: LateStarted, t: Any) -> Tensor:
    """The times 0 to n - 1 of the scheduler inside, for times of the whole schedule, a number or `(B,)`.

    Raises:
        ValueError: one that was not chosen.
    """
    chosen = torch.tensor((late.late_times or [])[::-1], dtype=torch.float64)
    asked = torch.as_tensor(t).detach().cpu().double()
    index = torch.searchsorted(chosen, asked.contiguous()).clamp(max=len(chosen) - 1)
    if not torch.equal(chosen[index], asked):
        raise ValueError(f"expected some of this run's times {late.late_times}, received {asked.tolist()}")
    return index.to(late.cut.timesteps)  # a tensor: some classes take no bare number


def _begin(late: LateStarted, timestep: Any) -> None:
    """At the first time of a run: leave nothing of one before it, and say which of equal times this is."""
    times = late.cut.timesteps
    if timestep is None or float(timestep) != float(times[0]):
        return
    if late.late_done >= len(times) or (late.late_done and float(times[late.late_done]) != float(timestep)):
        late.arrange(late.late_device)
    if not late.late_done and hasattr(late.cut, "set_begin_index"):
        late.cut.set_begin_index(0)


def _whole(sigmas: Any) -> bool:
    """Whether levels are a pipeline's own, evenly spread from the top of the schedule down."""
    if sigmas is None:
        return True
    levels = [float(sigma) for sigma in sigmas]
    steps = [a - b for a, b in pairwise(levels)]
    even = all(math.isclose(step, steps[0], rel_tol=1e-2, abs_tol=1e-6) and step > 0 for step in steps)
    return bool(levels) and TOP <= levels[0] <= 1 and even and (not steps or levels[-1] <= 1.5 * steps[0])
