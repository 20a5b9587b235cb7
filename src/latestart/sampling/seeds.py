"""A seed for each sample: sample i of a run draws all of its noise from a generator seeded by (seed, i)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from latestart.checks import derived_seed, seeded


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The generator of sample `index` of a run: well apart for neighbouring seeds and indices."""
    return seeded(derived_seed(seed, index))


def white_noise(indices: Iterable[int], shape: tuple[int, ...], seed: int) -> Tensor:
    """The white noise that those samples start from, `(B, *shape)`, on the processor."""
    return torch.stack([torch.randn(shape, generator=sample_generator(seed, i)) for i in indices])
