"""Quality: the Frechet distance between two sets of images, with an interval.

With `m`, `C` the mean and covariance of the features of each set,

    d = |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^(1/2) C_b C_a^(1/2))^(1/2))

(Heusel et al. 2017; no square root is taken at the end). It depends on the extractor and on the number of samples: the
covariance of few samples is too wide in some directions and too narrow in others, which alone makes d grow. Compare at
equal numbers only.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.inputs.front import as_images
from latestart.network_features import NETWORK, NetworkFeatures

__all__ = [
    "Estimate", "Extractor", "FrechetTo", "as_features", "feature_statistics", "frechet", "interval", "resampled",
    "resolve", "unit_images",
]  # fmt: skip

BLOCK = 1024  # rows of features summed at once

Extractor = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval: `value`, and the ends `low` and `high`."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def frechet(a: Any, b: Any, features: str | Extractor | tuple[Any, Any]) -> float:
    """Frechet distance between two sets of images under a named feature extractor.

    Args:
        a, b: images, whatever `as_images` takes, floats in [0, 1]; or feature statistics (a `Gaussian`, as
            `feature_statistics` returns).
        features: the name of an extractor ("mnist", "efficientnet-lite0"), or a function from images `(B, C, H, W)` in
            [0, 1] to features `(B, F)`, such as `features.InceptionFeatures(weights)`; or `(model, scheduler)`, for
            those of the denoiser itself, `NetworkFeatures(model, scheduler)`.

    As many images as features, or fewer, are warned of, with the rank of their covariance.

    Raises:
        ValueError: images outside [0, 1], fewer than two, or statistics of another width.
    """
    extract = resolve(features)
    one, other = (side if isinstance(side, Gaussian) else feature_statistics(side, extract) for side in (a, b))
    if one.shape != other.shape:
        raise ValueError(f"feature statistics of two extractors: {one.shape[0]} and {other.shape[0]} features")
    for side in (one, other):
        _warn_of_rank(side.count, side.shape[0])
    return one.frechet(other)


def resolve(features: str | Extractor | tuple[Any, Any]) -> Extractor:
    """An extractor by its name, or of `(model, scheduler)`; a function is returned as it is.

    Raises:
        ValueError: a name that is not known, or a tuple of other than two.
    """
    if isinstance(features, tuple):
        if len(features) != 2:
            raise ValueError(f"expected features of (model, scheduler), received a tuple of {len(features)}")
        return NetworkFeatures(*features)
    if not isinstance(features, str):
        return features
    if features == NETWORK:
        raise ValueError("the network's own features need it: expected features=(model, scheduler)")
    from latestart import zoo

    return zoo.features(features)


def feature_statistics(images: Any, extract: Extractor) -> Gaussian:
    """Mean and covariance (over n - 1) of the features of images, in float64, in one pass.

    Args:
        images: whatever `as_images` takes, floats in [0, 1].
        extract: from images `(B, C, H, W)` in [0, 1] to features `(B, F)`.
    """
    rows = (extract(batch).double() for batch in as_images(images).units())
    return Gaussian.fit(rows, basis="dense", dtype=torch.float64)


def unit_images(images: Any) -> Tensor:
    """Images in [0, 1], `(N, C, H, W)`, in memory, of whatever `as_images` takes."""
    return as_images(images).collected().unit()


def as_features(features: Tensor, fewest: int, width: int | None = None) -> Tensor:
    """Features `(N, F)` on the processor, where metrics are computed, wherever they were extracted.

    Raises:
        ValueError: fewer than `fewest`, of another width, or not finite.
    """
    if features.ndim != 2 or len(features) < fewest or width not in (None, features.shape[1]):
        expected = f"at least {fewest} features (N, {'F' if width is None else width})"
        raise ValueError(f"expected {expected}, received {tuple(features.shape)}")
    if odd := int((~features.isfinite()).sum()):
        raise ValueError(f"expected finite features, received {odd} values that are NaN or infinite")
    return features.detach().cpu()


class FrechetTo:
    """The Frechet distance of feature sets to one reference, with bootstrap replicates.

    With the reference's covariance `F F^T`, F of r columns, and `Y = X F` the features projected by it, the last trace
    of the distance is that of the root of the covariance of Y, which has the same eigenvalues:

        tr (C_a^(1/2) C_b C_a^(1/2))^(1/2) = sum_k sqrt(s_k),
        s_k the eigenvalues of Y_c^T W Y_c / (n - 1), or, other than zeros, of W^(1/2) Y_c Y_c^T W^(1/2) / (n - 1)

    where row i counts w_i times, W has these weights on its diagonal, `n = sum w`, and `Y_c` is Y less its weighted
    mean. The smaller of the two matrices is taken. Features are projected once for all replicates, and each replicate
    is summed in blocks of rows: beside the features in float64, the memory needed is a few matrices of that size.
    """

    def __init__(self, reference: Gaussian) -> None:
        reference = reference.to("cpu")
        self.mean = reference.mean.double()
        self.trace = reference.total_variance
        self.factor = _factor(reference)

    def __call__(self, features: Tensor) -> float:
        """The distance of features `(N, D)`; warns if N is at most D, with the rank of their covariance."""
        _warn_of_rank(len(features), len(self.mean))
        return float(self.weighted(features, torch.ones(1, len(features), dtype=torch.float64))[0])

    def weighted(self, features: Tensor, weights: Tensor) -> Tensor:
        """The distance for each row of `weights` `(R, N)`, how often each sample counts: `(R,)`.

        Raises:
            ValueError: fewer than two features, of another width than the reference's, or not finite.
        """
        features = as_features(features, 2, len(self.mean))
        centre = features.mean(0, dtype=torch.float64)
        n, sums, squares = weights.sum(1), weights.new_zeros(len(weights), len(centre)), torch.zeros_like(weights[:, 0])
        projected = torch.empty(len(features), self.factor.shape[1], dtype=torch.float64)
        for rows, part, share in zip(features.split(BLOCK), projected.split(BLOCK), weights.split(BLOCK, 1)):
            rows = rows.double() - centre
            sums += share @ rows
            squares += share @ rows.square().sum(1)
            torch.matmul(rows, self.factor, out=part)
        means = sums / n[:, None]
        traces = (squares - n * means.square().sum(1)) / (n - 1)
        return (centre + means - self.mean).square().sum(1) + traces + self.trace - 2 * _root_traces(projected, weights)

    def replicates(self, features: Tensor, resamples: int = 100, seed: int = 0) -> Tensor:
        """Bootstrap replicates of the distance, `(resamples,)`, shifted so that their mean is the distance itself.

        Sets of equal size and seed are resampled alike, so that ratios of two of them are paired. A resample has fewer
        distinct images than the set, which raises every replicate; only their spread is used, not that rise.
        """
        itself = torch.ones(len(features), dtype=torch.float64)
        weights = torch.stack([itself, *resampled(len(features), resamples, seeded(seed))])
        _warn_of_rank(len(features), len(self.mean))
        value, values = self.weighted(features, weights).split([1, resamples])
        return values - values.mean() + value


def _factor(reference: Gaussian) -> Tensor:
    """Some F with `F F^T` the covariance, without the directions that have no variance where they are known."""
    if isinstance(reference.basis, Dense):
        kept = reference.variances > 0
        return reference.basis.vectors.double()[:, kept] * reference.variances[kept].sqrt()
    return reference.basis.matrix(reference.variances.sqrt())


def _root_traces(rows: Tensor, weights: Tensor) -> Tensor:
    """The trace of the root of the covariance of rows `(N, r)`, for each row of weights `(R, N)`: `(R,)`."""
    count, width = rows.shape
    if width == 0:  # a reference without any variance
        return torch.zeros_like(weights[:, 0])
    products = rows @ rows.T if count <= 2 * width else None
    traces = []
    for weight in weights:
        distinct = weight.nonzero().squeeze(1)
        if products is not None and len(distinct) <= width:
            squares = _of_samples(products[distinct][:, distinct], weight[distinct])
            values = torch.linalg.eigvalsh(squares)[1:]  # the lowest is that of the mean, which is 0
        else:
            values = torch.linalg.eigvalsh(_of_values(rows, weight, distinct))
        traces.append(values.clamp(min=0).sqrt().sum() / (weight.sum() - 1).sqrt())
    return torch.stack(traces)


def _of_values(rows: Tensor, weights: Tensor, distinct: Tensor) -> Tensor:
    """`Y_c^T W Y_c`, `(r, r)`, summed over the distinct rows, a block at a time."""
    mean, sums = weights @ rows / weights.sum(), Dense.products(rows.shape[1:])
    total = rows.new_zeros(sums.size)
    for part in distinct.split(BLOCK):
        sums.accumulate(total, (rows[part] - mean) * weights[part, None].sqrt())
    return sums.complete(total)


def _of_samples(products: Tensor, weights: Tensor) -> Tensor:
    """`W^(1/2) Y_c Y_c^T W^(1/2)`, `(m, m)`, from the products `Y Y^T` of the m distinct rows."""
    along = products @ weights / weights.sum()
    centred = products - along[:, None] - along[None, :] + weights @ along / weights.sum()
    return centred * weights.sqrt()[:, None] * weights.sqrt()[None, :]


def _warn_of_rank(count: int | None, width: int) -> None:
    if count is not None and 1 < count <= width:
        warnings.warn(
            f"the feature covariance of {count} images has rank {count - 1} of {width}: such Frechet distances are far "
            "too large, and compare only with those of the same number of images",
            stacklevel=3,
        )


def resampled(n: int, resamples: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield how often each of n samples counts in each bootstrap resample, float64 `(n,)`."""
    for _ in range(resamples):
        yield torch.randint(n, (n,), generator=generator).bincount(minlength=n).double()


def interval(replicates: Tensor, value: float, level: float = 0.95) -> Estimate:
    """The central interval of bootstrap replicates around `value`.

    Raises:
        FloatingPointError: one of them is NaN.
    """
    if math.isnan(value) or bool(replicates.isnan().any()):
        raise FloatingPointError(f"a figure is {value}, with {int(replicates.isnan().sum())} replicates that are NaN")
    tail = (1 - level) / 2
    low, high = torch.quantile(replicates.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Estimate(value, low, high)
