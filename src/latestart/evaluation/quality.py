"""Quality: the Frechet distance between two sets of images, with an interval.

With `m`, `C` the mean and covariance of the features of each set,

    d = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))

(Heusel et al. 2017; no square root is taken at the end). It depends on the extractor and on the number of samples: the
covariance of few samples is too wide in some directions and too narrow in others, which alone makes d grow. Compare at
equal numbers only.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.data import Images
from latestart.gaussians.gaussian import Gaussian

Extractor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval: `value`, and the ends `low` and `high`."""

    value: float
    low: float
    high: float


def frechet(a: Any, b: Any, features: str | Extractor) -> float:
    """Frechet distance between two sets of images under a named feature extractor.

    Args:
        a, b: images in [0, 1], `(N, C, H, W)`, an iterable of such batches, `Images` as `load_images` returns them,
            or feature statistics (a `Gaussian`, as `feature_statistics` returns).
        features: the name of a shipped extractor ("mnist"), or a function from images `(B, C, H, W)` in [0, 1] to
            features `(B, F)`, such as `features.InceptionFeatures(weights)`.

    Raises:
        ValueError: images outside [0, 1], fewer than two, or statistics of another width.
    """
    extract = resolve(features)
    one, other = (side if isinstance(side, Gaussian) else feature_statistics(side, extract) for side in (a, b))
    if one.shape != other.shape:
        raise ValueError(f"feature statistics of two extractors: {one.shape[0]} and {other.shape[0]} features")
    return one.frechet(other)


def resolve(features: str | Extractor) -> Extractor:
    """An extractor by its name; a function is returned as it is."""
    if not isinstance(features, str):
        return features
    from latestart import zoo

    return zoo.features(features)


def feature_statistics(images: Tensor | np.ndarray | Images | Iterable[Tensor], extract: Extractor) -> Gaussian:
    """Mean and covariance (over n - 1) of the features of images in [0, 1], in float64, in one pass."""
    if isinstance(images, Images):
        images = (part.float() / 255 for part in images.pixels.split(1024))
    batches = [torch.as_tensor(images)] if isinstance(images, Tensor | np.ndarray) else images
    return Gaussian.fit((extract(checked(batch)).double() for batch in batches), basis="dense", dtype=torch.float64)


def checked(images: Tensor) -> Tensor:
    """The images, if they are floating point in [0, 1]; else a `ValueError`."""
    inside = images.is_floating_point() and images.numel() and bool(((images >= 0) & (images <= 1)).all())
    if not inside:
        seen = f"{images.dtype} from {images.min().item():g} to {images.max().item():g}" if images.numel() else "none"
        raise ValueError(f"expected images as floating-point numbers in [0, 1], received {seen}")
    return images


class FrechetTo:
    """The Frechet distance of feature sets to one reference, with bootstrap replicates.

    The root of the reference's covariance R is taken once; a set's distance then needs the eigenvalues of
    `R C R` alone, whose roots sum to the last trace.
    """

    def __init__(self, reference: Gaussian) -> None:
        self.mean = reference.mean.double()
        self.trace = reference.basis.multiplicity.to(reference.variances) @ reference.variances
        self.root = reference.basis.matrix(reference.variances.sqrt())

    def __call__(self, features: Tensor) -> float:
        """The distance of features `(N, F)`."""
        weights = torch.ones(1, len(features), dtype=torch.float64)
        return float(self.weighted(features, weights)[0])

    def weighted(self, features: Tensor, weights: Tensor) -> Tensor:
        """The distance for each row of `weights` `(R, N)`, how often each sample counts: `(R,)`."""
        rows = features.double()
        n = weights.sum(1)
        means = weights @ rows / n[:, None]
        squares = torch.cat([(rows.T * part[:, None]) @ rows for part in weights.split(20)])
        outer = n[:, None, None] * means[:, :, None] * means[:, None, :]
        covariances = (squares - outer) / (n - 1)[:, None, None]
        roots = torch.linalg.eigvalsh(self.root @ covariances @ self.root).clamp(min=0).sqrt().sum(1)
        traces = covariances.diagonal(dim1=1, dim2=2).sum(1)
        return (means - self.mean).square().sum(1) + traces + self.trace - 2 * roots

    def replicates(self, features: Tensor, resamples: int = 100, seed: int = 0) -> Tensor:
        """Bootstrap replicates of the distance, `(resamples,)`, shifted so that their mean is the distance itself.

        Sets of equal size and seed are resampled alike, so that ratios of two of them are paired. A resample has fewer
        distinct images than the set, which raises every replicate; only their spread is used, not that rise.
        """
        generator = torch.Generator().manual_seed(seed)
        index = torch.randint(len(features), (resamples, len(features)), generator=generator)
        weights = torch.zeros(resamples, len(features), dtype=torch.float64)
        weights.scatter_add_(1, index, torch.ones_like(index, dtype=torch.float64))
        values = self.weighted(features, weights)
        return values - values.mean() + self(features)


def interval(replicates: Tensor, value: float, level: float = 0.95) -> Estimate:
    """The central interval of bootstrap replicates around `value`."""
    tail = (1 - level) / 2
    low, high = torch.quantile(replicates.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Estimate(value, low, high)
