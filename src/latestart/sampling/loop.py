"""The sampling loop: from white noise to images, with or without a late start at a given time.

One loop serves every scheduler. Sample i of a run draws its noise, the first and that of every stochastic step, from a
generator of its own, seeded by (seed, i): the same seed gives the same image whatever the batch size and however many
images are asked for. Network evaluations are counted by wrapping the model, never by a formula.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.adapter import Watched, as_network
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import predict
from latestart.gaussians.prior import as_start
from latestart.noise import Noise
from latestart.progress import bar
from latestart.records import Record
from latestart.sampling.guard import LateStarted
from latestart.sampling.late_start import checked_scheduler, late_start, shifts_dynamically, start_level, start_sample
from latestart.sampling.run import Run, initial_sample, rehearse, without_variances
from latestart.sampling.seeds import sample_generator


@dataclass(frozen=True, eq=False, repr=False)
class Result(Record):
    """The result of `generate`.

    Attributes:
        samples: `(n, *shape)` in the model's value range, as the sampler left them.
        images: the same in [0, 1], clipped.
        nfe: network evaluations spent on each sample, as counted.
        timesteps: the times (the scheduler's t) at which the sampler stood.
        sigma: the noise level at which sampling began.
    """

    samples: Tensor
    nfe: int
    timesteps: tuple[float, ...]
    sigma: float

    def __repr__(self) -> str:
        n, *shape = self.samples.shape
        return f"Result({n} samples of {tuple(shape)}, nfe={self.nfe}, from sigma={self.sigma:.4g})"

    @property
    def images(self) -> Tensor:
        """The samples in [0, 1], `(n, *shape)`."""
        return (self.samples / 2 + 0.5).clamp(0, 1)


class Counted(Watched):
    """A network that counts its evaluations, in samples."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.evaluated = 0

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Any) -> SimpleNamespace:
        """The network's own call."""
        self.evaluated += len(x)
        return super().__call__(x, t, **conditions)


@torch.inference_mode()
def draw(
    model: Any,
    scheduler: Any,
    prior: Any = None,
    n: int = 64,
    steps: int = 5,
    t_start: float | None = None,
    seed: int = 0,
    noise: Tensor | None = None,
    labels: Tensor | int | None = None,
    batch_size: int | None = None,
    *,
    model_kwargs: Mapping[str, Any] | None = None,
    first: int = 0,
    progress: bool = False,
) -> Result:
    """`generate`, for a prior that fits the model and a start that is known: with a prior, `t_start` must be given.

    Raises:
        ValueError: a prior without a start, and what `generate` raises.
        FloatingPointError: the samples hold NaN or infinite values.
    """
    network = as_network(model)
    scheduler = checked_scheduler(scheduler)
    shape = network.sample_shape
    n, steps, noise = checked(shape, n, steps, noise, batch_size)
    first = whole_number("first", first, 0)
    conditions = Conditions(network, labels, model_kwargs, n)
    late = t_start is not None or isinstance(scheduler, LateStarted)
    if prior is not None and not late:
        raise ValueError("a prior was given and no t_start: say where to start, in the scheduler's t")
    check_level(network, scheduler, t_start)
    prior = None if prior is None else as_start(prior).to(network.device)
    counted = network if isinstance(network, Counted) else Counted(network)
    before, size, own = counted.evaluated, _batch_size(batch_size, n), prepared(scheduler, t_start, steps)
    parts: list[Tensor] = []
    done, times = 0, own.timesteps.tolist()
    with bar("sampling", progress) as advance:
        for begin in range(0, n, size):
            index = slice(begin, min(begin + size, n))
            numbers = range(index.start, index.stop)
            run = Run(copy.deepcopy(own), [sample_generator(seed, first + i) for i in numbers])
            z = (_noise(run, shape) if noise is None else noise[index]).to(network.device)
            mine = conditions[index]
            x = start_sample(own, prior, z, mine.labels) if late else initial_sample(own, z)
            for t, after in zip(times, trajectory(run, counted, x, mine)):
                x = _finite(after, t)
                done += 1
                advance(done, -(-n // size) * len(times))
            parts.append(x)
    spent = (counted.evaluated - before) // n
    return Result(torch.cat(parts), spent, tuple(times), start_level(own))


def check_level(model: Any, scheduler: Any, t_start: float | None) -> None:
    """Raise `ValueError` where a run would begin above the noise levels that a network was trained on.

    Args:
        model: `load_model` says of a network from `latestart train --max-sigma` which level is its highest; all others
            pass.
        scheduler: the sampler.
        t_start: the start in the scheduler's t; None for full noise, which is above any such level.
    """
    known: float | None = getattr(model, "max_sigma", None)
    if known is None:
        return
    own, whole = Noise.from_scheduler(scheduler), Noise.from_scheduler(DDPMScheduler())
    if t_start is None and isinstance(scheduler, LateStarted):
        asked, what = start_level(scheduler), "this late start"
    elif t_start is None:
        asked, what = max(own.sigma_range[1], whole.sigma_range[1]), "full noise"
    else:
        t = t_start - (own.kind == "vp")  # the first time of a cut schedule is one below its start
        noise = own if own.kind != "vp" or t <= own.t_range[1] else whole
        asked, what = noise.sigma(min(max(t, noise.t_range[0]), noise.t_range[1])), f"t_start={t_start:g}"
    if asked > known * (1 + 1e-6):
        raise ValueError(
            f"the network was trained on noise levels up to sigma = {known:.4g} only, and {what} begins at sigma = "
            f"{asked:.4g}: start at or below the former, from a prior"
        )


def _finite(x: Tensor, t: float) -> Tensor:
    if not x.isfinite().all():
        bad = int((~x.isfinite()).sum())
        raise FloatingPointError(f"{bad} values of the samples are NaN or infinite after the step from t = {t:g}")
    return x


def trajectory(run: Run, model: Any, x: Tensor, conditions: Conditions | None = None) -> Iterator[Tensor]:
    """The samples `(B, *shape)` after each step of a scheduler, in its own space; the last are the images."""
    network = as_network(model)
    for t in run.scheduler.timesteps:
        seen = run.model_input(x, t).to(network.dtype)
        x = run.step(predict(network, seen, t, conditions).to(x.dtype), t, x)
        yield x


def _noise(run: Run, shape: tuple[int, ...]) -> Tensor:
    generators: Any = run.generators
    return torch.stack([torch.randn(shape, generator=g) for g in generators])


def prepared(scheduler: Any, t_start: float | None, steps: int) -> Any:
    """A scheduler of one's own that is known to arrive, its times set: a run changes its state."""
    if t_start is not None:
        return without_variances(late_start(scheduler, t_start, steps))
    own = without_variances(copy.deepcopy(scheduler))
    if shifts_dynamically(own):
        raise ValueError(
            f"the {type(own).__name__} shifts its levels dynamically, by a number mu: give one that knows it, "
            f"ls.late_start(scheduler, t_start, {steps}, mu=...)"
        )
    try:
        own.set_timesteps(steps)
    except Exception as error:  # whatever a class does with a number of steps that it was not made for
        raise ValueError(
            f"the {type(own).__name__} cannot be set to {steps} steps with these settings: {error}"
            f"{'; skip_prk_steps=True leaves out its Runge-Kutta steps' if 'skip_prk_steps' in own.config else ''}"
        ) from error
    if not isinstance(own, LateStarted):  # which was rehearsed when it was made
        rehearse(own, float(getattr(own, "init_noise_sigma", 1.0)))
    return own


def checked(
    shape: tuple[int, ...], n: int, steps: int, noise: Any, batch_size: int | None = None
) -> tuple[int, int, Tensor | None]:
    """The arguments of `generate` as it uses them: n, steps, and noise of finite numbers or None."""
    noise = None if noise is None else torch.as_tensor(noise)
    n = whole_number("n", n if noise is None else len(noise))
    if noise is not None and tuple(noise.shape[1:]) != shape:
        raise ValueError(f"the model's samples are {shape}, received noise of shape {tuple(noise.shape)}")
    if noise is not None and not (noise.is_floating_point() and noise.isfinite().all()):
        raise ValueError(f"expected noise of finite floating-point values, received {noise.dtype}, or NaN or infinite")
    _batch_size(batch_size, n)
    return n, whole_number("steps", steps), noise


def _batch_size(batch_size: int | None, n: int) -> int:
    return min(256 if batch_size is None else whole_number("batch_size", batch_size), n)
