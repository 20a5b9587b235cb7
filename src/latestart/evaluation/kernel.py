"""Kernel distances between two sets of samples, or of their features: the energy distance and the KID.

    d(a, b) = 2 E|x - y| - E|x - x'| - E|y - y'|,                     x, x' from a; y, y' from b
    kid(a, b) = E k(x, x') + E k(y, y') - 2 E k(x, y),                k(x, y) = (x . y / F + 1)^3

Both are squared kernel distances (MMD). The energy distance, of the kernel -|x - y|, has no width to choose, sees every
moment at any dimension, and is 0 only between equal distributions (Szekely and Rizzo 2013; Sejdinovic et al. 2013). The
kernel inception distance, of a cubic polynomial, sees the first three moments (Binkowski et al. 2018). The means over
pairs leave out x = x', so the estimates have no bias at any number of samples, which the Frechet distance has; they may
be a little below 0.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.evaluation.quality import as_features, resampled

__all__ = ["EnergyTo", "energy_distance", "kid", "paired_blocks"]


class EnergyTo:
    """The energy distance of feature sets to one reference, with bootstrap replicates; made once for many sets.

    Args:
        reference: features `(n, F)`, n at least 2.
        weights: `(n,)`, summing to 1, how much each counts; equally much by default. Single ones may be negative.
    """

    def __init__(self, reference: Tensor, weights: Tensor | None = None) -> None:
        self.reference = as_features(reference, 2).double()
        equal = torch.full((len(reference),), 1 / len(reference), dtype=torch.float64)
        self.weights = equal if weights is None else weights.double().cpu()
        pairs = self.weights @ torch.cdist(self.reference, self.reference) @ self.weights
        self.within = float(pairs / (1 - self.weights.square().sum()))

    def __call__(self, features: Tensor) -> float:
        """The distance of features `(N, F)`, N at least 2."""
        return float(self.weighted(features, torch.ones(1, len(features), dtype=torch.float64))[0])

    def by_blocks(self, features: Tensor, block: int) -> tuple[float, Tensor]:
        """The distance, and that without each block, `(B,)`, for a jackknife; pairs within a block do not count.

        Args:
            features: `(N, F)` of the samples, in blocks that are independent of each other, at least three.
            block: samples in a block, which need not be independent of each other.

        Raises:
            ValueError: fewer than three blocks, a part of a block, or another width than the reference's.
        """
        rows, count = self._checked(features), len(features) // block
        if len(features) % block or count < 3:
            raise ValueError(f"expected at least three blocks of {block} features, received {len(features)} features")
        across = self._across(rows).view(count, block).mean(1)
        apart = torch.cdist(rows, rows).view(count, block, count, block).mean((1, 3)).fill_diagonal_(0)
        left = (apart.sum() - 2 * apart.sum(0)) / ((count - 1) * (count - 2))
        without = 2 * (across.sum() - across) / (count - 1) - left - self.within
        return float(2 * across.mean() - apart.sum() / (count * (count - 1)) - self.within), without

    def weighted(self, features: Tensor, weights: Tensor) -> Tensor:
        """The distance for each row of `weights` `(R, N)`, how often each sample counts: `(R,)`.

        Raises:
            ValueError: fewer than two features, or of another width than the reference's.
        """
        rows, n = self._checked(features), weights.sum(1)
        across = weights @ self._across(rows) / n
        pairs = (weights @ torch.cdist(rows, rows) * weights).sum(1)
        distinct = n.square() - weights.square().sum(1)  # a sample drawn twice is no pair
        return 2 * across - pairs / distinct - self.within

    def replicates(self, features: Tensor, resamples: int = 100, seed: int = 0) -> Tensor:
        """Bootstrap replicates of the distance, `(resamples,)`; sets of equal size and seed are resampled alike."""
        return self.weighted(features, torch.stack(list(resampled(len(features), resamples, seeded(seed)))))

    def _across(self, rows: Tensor) -> Tensor:
        return torch.cdist(rows, self.reference) @ self.weights

    def _checked(self, features: Tensor) -> Tensor:
        return as_features(features, 2, self.reference.shape[1]).double()


def paired_blocks(a: Tensor, b: Tensor, block: int) -> tuple[float, Tensor]:
    """The energy distance of two sets of features `(N, F)` in blocks of common noise, and without each block, `(B,)`.

    With `h(x, y; x', y') = |x - y'| + |y - x'| - |x - x'| - |y - y'|` it is the mean of h over pairs from different
    blocks: without bias, whatever goes on inside a block. Where a and b lie near to each other row by row h is small,
    and so is its noise, far below that of independent sets.

    Args:
        a, b: of equal length, two blocks or more; without each of two there is no distance, 0.
        block: rows in a block.
    """
    count = len(a) // block
    if len(a) != len(b) or len(a) % block or count < 2:
        raise ValueError(f"expected two or more blocks of {block} pairs, received {len(a)} and {len(b)} features")

    def means(x: Tensor, y: Tensor) -> Tensor:
        return torch.cdist(x.double(), y.double()).view(count, block, count, block).mean((1, 3))

    across = means(a, b)
    h = (across + across.T - means(a, a) - means(b, b)).fill_diagonal_(0).cpu()
    without = (h.sum() - 2 * h.sum(0)) / ((count - 1) * max(1, count - 2))
    return float(h.sum() / (count * (count - 1))), without


def energy_distance(a: Tensor, b: Tensor) -> float:
    """The energy distance of two sets of features `(N, F)` and `(M, F)`, both at least 2."""
    return EnergyTo(b)(a)


@dataclass(frozen=True)
class KernelDistance:
    """The KID: its mean over subsets, and the standard deviation of one subset's."""

    value: float
    deviation: float


def kid(a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 2020) -> KernelDistance:
    """The kernel inception distance of features `(N, F)` and `(M, F)`: the mean over pairs of random subsets.

    Of each subset pair, with `k(x, y) = (x . y / F + 1)^3`, it is the unbiased

        sum_{i != j} [k(x_i, x_j) + k(y_i, y_j)] / (n (n - 1)) - 2 sum_{i, j} k(x_i, y_j) / n^2

    (Binkowski et al. 2018). The subsets are those of torch-fidelity for the same seed, whose default is the same.

    Args:
        a, b: features, of at least `size` images each.
        subsets: how many pairs are drawn, each without repetitions.
        size: of a subset, n; at least 2.
        seed: of the subsets.

    Raises:
        ValueError: two widths, subsets larger than a set or of fewer than two, or none of them.
    """
    a, b = as_features(a, 2), as_features(b, 2, a.shape[1])
    if not 2 <= size <= min(len(a), len(b)) or subsets < 1:
        raise ValueError(
            f"expected at least one subset of 2 to {min(len(a), len(b))} features, the smaller set's, received "
            f"subsets={subsets}, size={size}"
        )
    draw = np.random.RandomState(seed)  # the generator whose subsets torch-fidelity draws
    found = []
    for _ in range(subsets):
        x, y = (rows[torch.from_numpy(draw.choice(len(rows), size, replace=False))].double() for rows in (a, b))
        found.append(_within(x) + _within(y) - 2 * _cubic(x, y).mean())
    values = torch.stack(found)
    return KernelDistance(float(values.mean()), float(values.std(correction=0)))


def _cubic(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _within(x: Tensor) -> Tensor:
    """The mean over pairs of unlike rows."""
    kernel, n = _cubic(x, x), len(x)
    return (kernel.sum() - kernel.diagonal().sum()) / (n * (n - 1))
