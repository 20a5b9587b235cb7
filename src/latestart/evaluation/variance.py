"""The total variance of samples over that of the data, before anything is clipped.

    v = tr C = sum_d sum_i (x_id - m_d)^2 / (n - 1),     m the mean of the n samples

The share of samples' variance is 1 where they have the contrast of the data. A sampler that overshoots leaves values
beyond the range of images, and more variance than the data has; one whose samples are too smooth leaves less. Once
clipped, the samples no longer show the former, and a Frechet distance may even fall with it.
"""

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.evaluation.quality import Estimate, interval, resampled

__all__ = ["total_variance", "variance_over"]

BLOCK = 1024  # values of a sample summed at once


def total_variance(samples: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the total variance of samples `(N, *shape)`, over n - 1, for each row of weights: float64 `(R,)`.

    Args:
        samples: in any value range.
        weights: `(R, N)`, how often each sample counts; once each by default, `R = 1`.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(samples) < 2:
        raise ValueError(f"a variance needs at least two samples, received {len(samples)}")
    weights = torch.ones(1, len(samples), dtype=torch.float64) if weights is None else weights
    n, total = weights.sum(1), torch.zeros(len(weights), dtype=torch.float64)
    for part in samples.detach().cpu().flatten(1).split(BLOCK, 1):
        x = part.double()
        x = x - x.mean(0)
        total += weights @ x.square().sum(1) - (weights @ x).square().sum(1) / n
    return total / (n - 1)


def variance_over(samples: Tensor, total: float, resamples: int = 100, seed: int = 0) -> Estimate:
    """Return the total variance of samples `(N, *shape)` over `total`, that of the data, with a bootstrap interval.

    A resample has fewer distinct samples, which lowers every replicate; only their spread is used.

    Raises:
        FloatingPointError: samples that are not finite.
        ValueError: fewer than two samples, or data without variance.
    """
    if not total > 0:
        raise ValueError(f"expected data with a total variance above 0, received {total:g}")
    once = torch.ones(len(samples), dtype=torch.float64)
    weights = torch.stack([once, *resampled(len(samples), resamples, seeded(seed))])
    value, values = (total_variance(samples, weights) / total).split([1, resamples])
    return interval(values - values.mean() + value, float(value))
