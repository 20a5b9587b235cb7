"""The sampling loop: from white noise to images, with or without a late start at a given time.

One loop serves every scheduler. Sample i of a run draws its noise, the first and that of every stochastic step, from a
generator of its own, seeded by (seed, i): the same seed gives the same image for every batch size and every number of
images. Network evaluations are counted by wrapping the model, never by a formula.
"""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from latestart.checks import whole_number
from latestart.data import to_unit
from latestart.denoisers.adapter import Counted, as_network
from latestart.denoisers.conditions import Conditions
from latestart.gaussians.prior import as_start
from latestart.progress import bar
from latestart.records import Record
from latestart.sampling.families import Beta, family_of
from latestart.sampling.guard import LateStarted, prior_inside
from latestart.sampling.late_start import checked_scheduler, late_start, start_level, start_sample, trajectory
from latestart.sampling.run import Run, initial_sample, rehearse, without_variances
from latestart.sampling.seeds import GivenNoise, sample_generator

__all__ = ["Result", "check_level", "checked", "draw", "prepared"]


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
        return to_unit(self.samples)


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
    step_noise: Tensor | None = None,
) -> Result:
    """Sample as `generate` does, for a prior that fits the model: with a prior, `t_start` must be given.

    Args:
        step_noise: white noise `(draws, n, *shape)` for the steps of stochastic samplers; after the last draw the
            samples' own generators serve.

    All other arguments are those of `generate`.

    Raises:
        ValueError: a prior without a start, and the mistakes that `generate` names.
        FloatingPointError: the samples hold NaN or infinite values.
    """
    network = as_network(model)
    scheduler = checked_scheduler(scheduler)
    shape = network.sample_shape
    n, steps, noise, size = checked(shape, n, steps, noise, batch_size)
    first = whole_number("first", first, 0)
    conditions = Conditions(network, labels, model_kwargs, n)
    late = t_start is not None or isinstance(scheduler, LateStarted)
    if prior is not None and not late:
        raise ValueError("a prior was given and no t_start: say where to start, in the scheduler's t")
    check_level(network, scheduler, t_start)
    prior = None if prior is None else as_start(prior).to(network.device)
    counted = network if isinstance(network, Counted) else Counted(network)
    before, own = counted.evaluated, prepared(scheduler, t_start, steps)
    parts: list[Tensor] = []
    done, times = itertools.count(1), own.timesteps.tolist()
    with bar("sampling", progress) as advance:
        for index in torch.arange(n).split(size):
            generators: list[Any] = [sample_generator(seed, first + int(i)) for i in index]
            z = torch.stack([torch.randn(shape, generator=g) for g in generators]) if noise is None else noise[index]
            if step_noise is not None:
                generators = [GivenNoise(step_noise[:, i], one) for i, one in zip(index, generators)]
            run, z, mine = Run(copy.deepcopy(own), generators), z.to(network.device), conditions[index]
            if prior_inside(own) is not None:  # which may know classes
                run.scheduler.labels = _labels_of(own, mine, index, n)
            start = start_sample(own, prior, z, mine.labels) if late else initial_sample(own, z)
            for t, x in zip(times, trajectory(run, counted, start, mine)):
                if bad := int((~x.isfinite()).sum()):
                    raise FloatingPointError(
                        f"{bad} values of the samples are NaN or infinite after the step from t = {t:g}"
                    )
                advance(next(done), -(-n // size) * len(times))
            parts.append(x)
    spent = (counted.evaluated - before) // n
    return Result(torch.cat(parts), spent, tuple(times), start_level(own))


def _labels_of(own: Any, mine: Conditions, index: Tensor, n: int) -> Any:
    """The classes of some samples for the prior inside: those that are asked for, else the solver's own."""
    if mine.labels is not None or own.labels is None:
        return mine.labels
    labels = torch.as_tensor(own.labels)
    return labels[index] if labels.shape == (n,) else labels


def check_level(model: Any, scheduler: Any, t_start: float | None) -> None:
    """Raise `ValueError` where a run would begin above the noise levels that a network was trained on.

    Args:
        model: a network; its highest level is the attribute `max_sigma`, set by `load_model` after `latestart train
            --max-sigma`. A network without it passes.
        scheduler: the sampler.
        t_start: the start in the scheduler's t; None for full noise, which is above any such level.
    """
    known: float | None = getattr(model, "max_sigma", None)
    if known is None:
        return
    own, whole = family_of(scheduler), family_of(DDPMScheduler())
    if t_start is None and isinstance(scheduler, LateStarted):
        asked, what = start_level(scheduler), "this late start"
    elif t_start is None:
        asked, what = max(own.noise.sigma_range[1], whole.noise.sigma_range[1]), "full noise"
    else:  # a time above betas that are cut, as such a network's own are, is one of the whole schedule
        reaching = whole if isinstance(own, Beta) and t_start > own.top else own
        asked, what = reaching.start_level(t_start), f"t_start={t_start:g}"
    if asked > known * (1 + 1e-6):
        raise ValueError(
            f"the network was trained on noise levels up to sigma = {known:.4g} only, and {what} begins at sigma = "
            f"{asked:.4g}: start at or below the former, from a prior"
        )


def prepared(scheduler: Any, t_start: float | None, steps: int) -> Any:
    """A copy of the scheduler, or its late start, with its times set and rehearsed: a run changes its state."""
    if t_start is not None:
        return without_variances(late_start(scheduler, t_start, steps))
    own = without_variances(copy.deepcopy(scheduler))
    if not isinstance(own, LateStarted) and family_of(own).shifts:
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
) -> tuple[int, int, Tensor | None, int]:
    """Check arguments of `generate`; returns n, steps, the noise as finite numbers or None, and the batch size."""
    noise = None if noise is None else torch.as_tensor(noise)
    n = whole_number("n", n if noise is None else len(noise))
    if noise is not None and tuple(noise.shape[1:]) != shape:
        raise ValueError(f"the model's samples are {shape}, received noise of shape {tuple(noise.shape)}")
    if noise is not None and not (noise.is_floating_point() and noise.isfinite().all()):
        raise ValueError(f"expected noise of finite floating-point values, received {noise.dtype}, or NaN or infinite")
    size = min(256 if batch_size is None else whole_number("batch_size", batch_size), n)
    return n, whole_number("steps", steps), noise, size
