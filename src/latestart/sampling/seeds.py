"""A seed for each sample: sample i of a run draws all of its noise from a generator seeded by (seed, i)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from latestart.checks import derived_seed, seeded

__all__ = ["GivenNoise", "sample_generator", "white_noise"]


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The generator of sample `index` of a run: well apart for neighbouring seeds and indices."""
    return seeded(derived_seed(seed, index))


def white_noise(indices: Iterable[int], shape: tuple[int, ...], seed: int) -> Tensor:
    """The white noise at the start of these samples, `(B, *shape)`, on the processor."""
    return torch.stack([torch.randn(shape, generator=sample_generator(seed, i)) for i in indices])


class GivenNoise:
    """The generator of one sample that gives known noise first, and then draws from another generator.

    diffusers hands each sample's generator to `torch.randn`, and `torch.randn` hands the call to a generator with
    `__torch_function__`. So the noise reaches the sampler's own draws and no others, neither those of a network
    nor those of a rehearsal of the same shape.

    Args:
        noise: `(draws, *shape)`, one row for each draw.
        generator: draws after the last row.
    """

    def __init__(self, noise: Tensor, generator: torch.Generator) -> None:
        self.left, self.generator = iter(noise), generator

    @property
    def device(self) -> torch.device:
        """The device of the generator."""
        return self.generator.device

    def initial_seed(self) -> int:
        """The seed of the generator."""
        return self.generator.initial_seed()

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        mine = kwargs["generator"]
        given = next(mine.left, None) if func is torch.randn else None
        if given is None:
            return func(*args, **{**kwargs, "generator": mine.generator})
        return given.reshape(*args).to(device=kwargs.get("device"), dtype=kwargs.get("dtype"))
