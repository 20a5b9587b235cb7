"""Collapse: the level below which the exact denoiser of n training points replays single points.

The excess entropy per dimension is that of n separate noise clouds over that of the noised data:

    f = <ln p_sigma(y)> / d + ln n / d + 1/2 ln(2 pi e sigma^2)

and collapse is its largest root. For a Gaussian of variances l, `f = ln n / d - 1 / (2 d) sum ln(1 + l / sigma^2)`: at
collapse the noised sample holds ln n nats about its origin; with all l = s0^2 that is `sigma^2 = s0^2/(n^(2/d) - 1)`.
For n points, p is the density of the *other* points, and up to `ln(n / (n - 1)) / d`

    f = < ln sum_(j != i) w_j / w_i > / d,    w_j = exp(-|y - x_j|^2 / (2 sigma^2)),    y = x_i + sigma eps.

The order parameter of condensation, `<sum_j w_j^2> / (sum_j w_j)^2`, passes 1/2 at the same level for many points. Both
approach the closed form slowly, from above: by 7% in sigma^2 for 2,500 points in 52 dimensions.

Source: Biroli, Bonnaire, de Bortoli and Mezard 2024 (arXiv 2402.18491).
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.theory.levels import CriticalLevel, Curve, enough
from latestart.theory.roots import root

__all__ = ["collapse", "collapse_curve", "random_energy"]

_ROUNDING = 1e-13  # a squared distance below this share of the squares it is a difference of is none
_GRID = 40  # levels of the first search for a collapse


def random_energy(variance: float, n: int, dim: int, noise: Noise | None = None) -> CriticalLevel:
    """Collapse on n points from `N(0, variance I)` in `dim` dimensions: `sigma^2 = variance / (n^(2/dim) - 1)`.

    Raises:
        ValueError: fewer than two points or one dimension, or a variance that is not positive.
    """
    if n < 2 or dim < 1 or not 0 < variance < math.inf:
        raise ValueError(
            f"expected a positive variance, at least 2 points and 1 dimension, received {variance}, {n} and {dim}"
        )
    sigma = math.sqrt(variance / math.expm1(2 * math.log(n) / dim))
    return CriticalLevel(sigma, "collapse", f"random-energy model, {n} points in {dim} dimensions").on(noise)


def collapse(
    data: Gaussian | Tensor,
    noise: Noise | None = None,
    *,
    by: Literal["entropy", "condensation"] = "entropy",
    n: int | None = None,
    probes: int = 256,
    seed: int = 0,
) -> CriticalLevel:
    """Collapse: the level below which the exact denoiser of n training points replays single points.

    Args:
        data: the training points `(n, *shape)`; or a `Gaussian` in their place, for which the excess entropy is known.
        noise: gives the level its time t.
        by: "entropy", the largest root of the excess entropy, or, for points only, "condensation", where the order
            parameter of the weights is 1/2.
        n: number of training points, for a Gaussian; by default as many as it was fitted to.
        probes, seed: as for `collapse_curve`.

    Raises:
        ValueError: fewer than 10 points; an unknown criterion; repeated points, or a Gaussian without spread, for
            which there is no collapse.
    """
    if isinstance(data, Gaussian):
        if by != "entropy":
            raise ValueError(f"collapse of a Gaussian is by 'entropy', received {by!r}: condensation needs points")
        return _collapse_of_gaussian(data, n or data.count, noise)
    weights = _Weights(data, probes, seed)
    threshold = _threshold(by)
    low, high = weights.bounds
    coarse = weights.curve(by, np.geomspace(high, low, _GRID)).crossing(threshold, seed=seed)
    step = (high / low) ** (1 / (_GRID - 1))
    fine = weights.curve(by, np.geomspace(coarse.sigma * step, coarse.sigma / step, 9)).crossing(threshold)
    assert coarse.interval is not None
    moved = fine.sigma / coarse.sigma
    return replace(fine, interval=(coarse.interval[0] * moved, coarse.interval[1] * moved)).on(noise)


def collapse_curve(
    points: Tensor,
    sigmas: Tensor | list[float],
    by: Literal["entropy", "condensation"] = "entropy",
    probes: int = 256,
    seed: int = 0,
) -> Curve:
    """The excess entropy f, or the order parameter of condensation, of n training points at given levels.

    Args:
        points: `(n, *shape)`, at least 10.
        sigmas: falling levels.
        by: "entropy" (f, per dimension) or "condensation" (`<sum w^2>`, between 1 / n and 1).
        probes: number of points that are noised; the memory is that of two `(probes, n)` matrices.
        seed: of the choice of the probes and of their noise, the same at every level.

    Raises:
        ValueError: fewer than 10 points, values that are not finite, an unknown criterion.
    """
    _threshold(by)
    return _Weights(points, probes, seed).curve(by, np.asarray(sigmas, dtype=np.float64))


class _Weights:
    """Posterior weights of training points given noised ones, on the same noise at every level.

    With `y = x_i + sigma eps`, `ln w_j - ln w_i = -|x_i - x_j|^2 / (2 sigma^2) - eps . (x_i - x_j) / sigma`.
    """

    def __init__(self, points: Tensor, probes: int, seed: int) -> None:
        rows = enough(points, "collapse").flatten(1).double()
        generator = seeded(seed)
        self.own = torch.randperm(len(rows), generator=generator)[:probes]
        x = rows[self.own]
        eps = torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device)
        squares = rows.square().sum(1)
        scale = squares[self.own, None] + squares
        self.squares = scale - 2 * x @ rows.T
        self.squares[self.squares < _ROUNDING * scale] = 0.0  # repeated points, and each point and itself
        self.cross = (eps * x).sum(1, keepdim=True) - eps @ rows.T
        self.dim = rows.shape[1]

    @property
    def bounds(self) -> tuple[float, float]:
        """Levels far below and far above any collapse: at a tenth of the nearest distance, at thrice the farthest."""
        others = self.squares[self.squares > 0]
        if not len(others):
            raise ValueError("collapse needs different points, received one point many times")
        per_value = math.sqrt(self.dim)
        return 0.1 * others.min().sqrt().item() / per_value, 3 * others.max().sqrt().item()

    def curve(self, by: str, sigmas: np.ndarray) -> Curve:
        values = torch.stack([self._value(by, sigma) for sigma in sigmas.tolist()], 1)
        how = "root of the excess entropy" if by == "entropy" else "posterior weights condense, sum w^2 = 1/2"
        how += f", {self.squares.shape[1]} points, probed with their noise"
        return Curve(torch.from_numpy(sigmas), values.cpu(), "collapse", how)

    def _value(self, by: str, sigma: float) -> Tensor:
        logits = -self.squares / (2 * sigma**2) - self.cross / sigma
        if by == "condensation":
            return logits.softmax(1).square().sum(1)
        logits[torch.arange(len(self.own)), self.own] = -math.inf
        n = logits.shape[1]
        return (logits.logsumexp(1) + math.log(n / (n - 1))) / self.dim


def _collapse_of_gaussian(data: Gaussian, n: int | None, noise: Noise | None) -> CriticalLevel:
    """The root of `sum_i ln(1 + l_i / sigma^2) = 2 ln n`."""
    if n is None or n < 2:
        raise ValueError(f"collapse of a Gaussian needs the number of training points, at least 2, received n={n}")
    multiplicity = data.basis.multiplicity.to(data.variances)
    if not (top := data.variances.max().item()) > 0:
        raise ValueError("collapse needs data that spread, received a Gaussian whose variances are all zero")

    def excess(log_sigma: float) -> float:
        return 2 * math.log(n) - (multiplicity @ (data.variances * math.exp(-2 * log_sigma)).log1p()).item()

    # one direction alone holds 2 ln n at the lower end, and all together at most that at the upper
    total = (multiplicity @ data.variances).item()
    low = 0.5 * math.log(top) - math.log(n) - 1
    high = 0.5 * math.log(total / (2 * math.log(n))) + 1
    sigma = math.exp(root(excess, low, high, "the excess entropy, by log sigma,", xtol=1e-12))
    how = f"root of the excess entropy of a Gaussian with {data.basis.name} covariance, {n} points"
    return CriticalLevel(sigma, "collapse", how).on(noise)


def _threshold(by: str) -> float:
    if by not in ("entropy", "condensation"):
        raise ValueError(f"expected collapse by 'entropy' or 'condensation', received {by!r}")
    return 0.0 if by == "entropy" else 0.5
