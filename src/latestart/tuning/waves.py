"""Features of samples of few values, for exact models: the values themselves, and random waves of them.

    f(x) = [x / s, sqrt(2 / K) cos(w_k . x + b_k)],    w_k ~ N(0, 1 / l_k^2),  b_k ~ U(0, 2 pi)

with s^2 the total variance of the images, and lengths l_k of a quarter, a half and all of s. The mean of the waves is
the empirical characteristic function at random frequencies, so that a Frechet distance on them sees more than the mean
and the covariance of the values: on these alone a ring is its Gaussian. Source: Rahimi and Recht, "Random features for
large-scale kernel machines", 2007.
"""

import math

import torch
from torch import Tensor

from latestart.checks import seeded

__all__ = ["Waves"]

COUNT = 96  # waves
LENGTHS = (0.25, 0.5, 1.0)  # of the images' deviation


class Waves:
    """Features `(B, D + 96)` of samples `(B, *shape)`, on the processor.

    Args:
        images: that give the scale, `(n, *shape)`.
        seed: of the frequencies.
    """

    name = "values"
    evaluations = evaluated = 0

    def __init__(self, images: Tensor, seed: int = 0) -> None:
        rows, generator = images.flatten(1).double(), seeded(seed)
        self.scale = max(float(rows.var(0).sum().sqrt()), 1e-12)
        lengths = torch.tensor(LENGTHS, dtype=torch.float64).repeat(-(-COUNT // len(LENGTHS)))[:COUNT] * self.scale
        self.frequencies = torch.randn(rows.shape[1], COUNT, generator=generator, dtype=torch.float64) / lengths
        self.phases = 2 * math.pi * torch.rand(COUNT, generator=generator, dtype=torch.float64)

    def __call__(self, samples: Tensor) -> Tensor:
        """Return the features of samples in the model's value range."""
        rows = samples.detach().cpu().flatten(1).double()
        waves = (2 / COUNT) ** 0.5 * torch.cos(rows @ self.frequencies + self.phases)
        return torch.cat([rows / self.scale, waves], 1).float()

    of_samples = __call__
