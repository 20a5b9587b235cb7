"""Energy distance between two sets of samples, or of their features: it sees every moment, at any dimension.

    d(a, b) = 2 E|x - y| - E|x - x'| - E|y - y'|,      x, x' from a; y, y' from b

It is the squared kernel distance (MMD) of the kernel -|x - y|, which has no width to choose, and it is 0 only between
equal distributions (Szekely and Rizzo 2013; Sejdinovic et al. 2013). The means over pairs leave out x = x', so the
estimate has no bias at any number of samples; it may be a little below 0.
"""

import torch
from torch import Tensor


class EnergyTo:
    """The energy distance of feature sets to one reference, with bootstrap replicates; made once for many sets."""

    def __init__(self, reference: Tensor) -> None:
        if reference.ndim != 2 or len(reference) < 2:
            raise ValueError(f"expected at least two reference features (n, F), received {tuple(reference.shape)}")
        self.reference = reference.double()
        n = len(reference)
        self.within = float(torch.cdist(self.reference, self.reference).sum() / (n * (n - 1)))

    def __call__(self, features: Tensor) -> float:
        """The distance of features `(N, F)`, N at least 2."""
        return float(self.weighted(features, torch.ones(1, len(features), dtype=torch.float64))[0])

    def weighted(self, features: Tensor, weights: Tensor) -> Tensor:
        """The distance for each row of `weights` `(R, N)`, how often each sample counts: `(R,)`.

        Raises:
            ValueError: fewer than two features, or of another width than the reference's.
        """
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != self.reference.shape[1]:
            raise ValueError(
                f"expected at least two features (N, {self.reference.shape[1]}), received {tuple(features.shape)}"
            )
        rows, n = features.double(), weights.sum(1)
        across = weights @ torch.cdist(rows, self.reference).mean(1) / n
        pairs = (weights @ torch.cdist(rows, rows) * weights).sum(1)
        distinct = n.square() - weights.square().sum(1)  # a sample drawn twice is no pair
        return 2 * across - pairs / distinct - self.within

    def replicates(self, features: Tensor, resamples: int = 100, seed: int = 0) -> Tensor:
        """Bootstrap replicates of the distance, `(resamples,)`; sets of equal size and seed are resampled alike."""
        generator = torch.Generator().manual_seed(seed)
        index = torch.randint(len(features), (resamples, len(features)), generator=generator)
        counts = [row.bincount(minlength=len(features)) for row in index]
        return self.weighted(features, torch.stack(counts).double())


def energy_distance(a: Tensor, b: Tensor) -> float:
    """The energy distance of two sets of features `(N, F)` and `(M, F)`, both at least 2."""
    return EnergyTo(b)(a)
