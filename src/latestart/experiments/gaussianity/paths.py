"""The two processes that are tested: training images under exact noise, and the early phase of a network's paths."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.adapter import sample_shape
from latestart.noise import Noise
from latestart.sampling.late_start import trajectory
from latestart.sampling.run import Run, initial_sample
from latestart.sampling.samplers import make_sampler
from latestart.sampling.seeds import white_noise

__all__ = ["STOPS", "early_phase", "noised", "stops_of", "stride_of"]

STOPS = 40  # of DDIM on the whole schedule; the starts are some of them


def noised(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Return `x_0 + sigma eps`, `(n, *shape)`."""
    return images + sigma * torch.randn(images.shape, generator=generator)


def stride_of(scheduler: Any) -> int:
    """Return the times of a schedule between two stops of DDIM.

    Raises:
        ValueError: no beta-based schedule, or one whose times the stops do not divide.
    """
    betas: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    if betas is None or len(betas) % STOPS:
        received = type(scheduler).__name__ if betas is None else f"one of {len(betas)}"
        raise ValueError(f"DDIM is stopped on beta-based schedules of a multiple of {STOPS} times, received {received}")
    return len(betas) // STOPS


def stops_of(scheduler: Any, starts: Sequence[int]) -> list[int]:
    """Return the number of DDIM's steps above each start.

    Raises:
        ValueError: a start that DDIM does not stop at, or starts that do not fall.
    """
    stride = stride_of(scheduler)
    top = stride * STOPS
    steps = [(top - t) // stride for t in starts]
    if any((top - t) % stride or not 0 < t < top for t in starts) or steps != sorted(set(steps)):
        raise ValueError(f"expected falling starts that are multiples of {stride} below {top}, received {starts}")
    return steps


def early_phase(
    model: Any, scheduler: Any, n: int, starts: tuple[int, ...], seed: int, batch_size: int = 250
) -> Iterator[Tensor]:
    """Yield the scaled samples `x_t / alpha_t` `(n, *shape)` of DDIM from full noise at the time of each start.

    Raises:
        ValueError: a start that DDIM does not stop at, or starts that do not fall.
    """
    steps, noise = stops_of(scheduler, starts), Noise.from_scheduler(scheduler)
    ranges = [range(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]
    batches = [_walk(model, scheduler, index, seed) for index in ranges]
    x, done = torch.empty(0), 0
    for t, step in zip(starts, steps):
        for _ in range(step - done):
            x = torch.cat([next(batch) for batch in batches])
        done = step
        yield x / noise.alpha(float(t - 1))


@torch.no_grad()
def _walk(model: Any, scheduler: Any, index: range, seed: int) -> Iterator[Tensor]:
    own = make_sampler("ddim", scheduler, spacing="trailing", clip_sample=False)
    own.set_timesteps(STOPS)
    z = white_noise(index, sample_shape(model), seed).to(model.device)
    yield from trajectory(Run(own), model, initial_sample(own, z))
