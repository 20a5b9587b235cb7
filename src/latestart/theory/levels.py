"""The record in which every critical level is returned.

A level has one value and four names: `sigma = std / alpha`, `snr = 1 / sigma^2`, `alpha_bar = 1 / (1 + sigma^2)` and,
once a noise process is given, the scheduler's time `t`. Which event happens at the level is its `criterion`; levels of
different criteria are different quantities, even on one model, so none comes without its name.

A level that is read from samples is a feature of a `Curve`, the mean over samples of some quantity at each level of a
grid: where it crosses a threshold, or its peak. One resampling of the samples moves the whole curve, so the interval
of the feature is that of its bootstrap replicates, whatever the correlation between levels.
"""

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.denoisers.base import Denoiser
from latestart.noise import Noise
from latestart.records import Record

__all__ = ["FEWEST", "RESAMPLES", "CriticalLevel", "Curve", "central", "enough", "evaluate", "falling"]

RESAMPLES = 200
FEWEST = 10  # images below which no interval means anything


@dataclass(frozen=True, repr=False)
class CriticalLevel(Record):
    """A noise level at which something happens.

    Attributes:
        sigma: the noise level `std / alpha`.
        criterion: what happens there, such as "sde", "density", "speciation" or "collapse".
        how: how it was found, in words, with the number of samples where there are samples.
        interval: lowest and highest level, in sigma, that the samples allow; None where the level is exact.
        t: the scheduler's time of the level; None without a noise process.
    """

    sigma: float
    criterion: str
    how: str
    interval: tuple[float, float] | None = None
    _: KW_ONLY
    t: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.sigma < math.inf:
            raise ValueError(f"expected a {self.criterion} level sigma between 0 and infinity, received {self.sigma}")
        if self.interval is not None and not 0 <= self.interval[0] <= self.interval[1]:
            raise ValueError(f"expected an interval from low to high in sigma, received {self.interval}")

    def __str__(self) -> str:
        return f"sigma = {self.sigma:.4g}" + ("" if self.t is None else f", t = {self.t:.4g}")

    @classmethod
    def from_snr(cls, snr: float, *others: Any) -> "CriticalLevel":
        """A level given by `snr = 1 / sigma^2`, and the other attributes; raises `ValueError` unless 0 < snr < inf."""
        if not 0 < snr < math.inf:
            raise ValueError(f"expected a signal-to-noise ratio between 0 and infinity, received {snr}")
        return cls(snr**-0.5, *others)

    @classmethod
    def from_alpha_bar(cls, alpha_bar: float, *others: Any) -> "CriticalLevel":
        """A level given by `alpha_bar = 1 / (1 + sigma^2)`, and the other attributes.

        Raises:
            ValueError: alpha_bar is not between 0 and 1.
        """
        if not 0 < alpha_bar < 1:
            raise ValueError(f"expected alpha_bar between 0 and 1, received {alpha_bar}")
        return cls(math.sqrt((1 - alpha_bar) / alpha_bar), *others)

    @property
    def snr(self) -> float:
        """The signal-to-noise ratio `1 / sigma^2`."""
        return self.sigma**-2

    @property
    def alpha_bar(self) -> float:
        """`1 / (1 + sigma^2)`, the square of the paper's theta."""
        return 1 / (1 + self.sigma**2)

    def on(self, noise: Noise | None) -> "CriticalLevel":
        """This level with its time `t` on a noise process; without one, as it is.

        Raises:
            ValueError: the process does not reach the level.
        """
        if noise is None:
            return self
        low, high = noise.sigma_range
        if not low <= self.sigma <= high:
            raise ValueError(
                f"the {self.criterion} level sigma = {self.sigma:.6g} lies outside of the {noise.kind} process, whose "
                f"levels are sigma in [{low:.6g}, {high:.6g}]"
            )
        return replace(self, t=noise.time(self.sigma))

    def record(self) -> dict[str, Any]:
        """The level under all its names, for JSON."""
        return {
            "criterion": self.criterion,
            "sigma": self.sigma,
            "alpha_bar": self.alpha_bar,
            "snr": self.snr,
            "t": self.t,
            "interval": None if self.interval is None else list(self.interval),
            "how": self.how,
        }


@dataclass(frozen=True, eq=False, repr=False)
class Curve(Record):
    """The mean over samples of a quantity at each noise level, and the levels that are read from it.

    Attributes:
        sigma: the levels, `(L,)`, float64, highest first.
        samples: the quantity for each sample at each level, `(n, L)`, float64, n at least 2.
        criterion, how: of the levels read from the curve.
        threshold: where its level is read; None for a curve whose level is its peak.
    """

    sigma: Tensor
    samples: Tensor
    criterion: str
    how: str
    _: KW_ONLY
    threshold: float | None = None

    def __post_init__(self) -> None:
        n, width = self.samples.shape
        if n < 2 or width != len(self.sigma) or not (self.sigma.diff() < 0).all():
            raise ValueError(
                f"a {self.criterion} curve needs at least 2 samples at each of falling levels, received {n} samples at "
                f"{width} levels for sigma = {self.sigma.tolist()}"
            )

    @property
    def value(self) -> Tensor:
        """The mean over samples, `(L,)`."""
        return self.samples.mean(0)

    @property
    def error(self) -> Tensor:
        """The standard error of the mean, `(L,)`."""
        return self.samples.std(0) / math.sqrt(len(self.samples))

    def level(self, noise: Noise | None = None) -> CriticalLevel:
        """The level of the curve's criterion: where it crosses its `threshold`, or its peak where it has none.

        Raises:
            ValueError: there is no such level.
        """
        return self.peak(noise) if self.threshold is None else self.crossing(self.threshold, noise)

    def crossing(self, threshold: float, noise: Noise | None = None, seed: int = 0) -> CriticalLevel:
        """The highest level at which the curve crosses `threshold`, linear in log sigma between two levels.

        The interval holds 95% of the bootstrap replicates; one that never crosses counts as the lowest level.

        Raises:
            ValueError: the curve does not cross, or crosses outside of the noise process.
        """
        feature = partial(_crossing, self.sigma, threshold=threshold)
        if feature(self.value[None]).isnan().any():
            raise ValueError(
                f"the {self.criterion} curve does not cross {threshold:g}: from sigma = {self.sigma[0]:.6g} to "
                f"{self.sigma[-1]:.6g} it runs from {self.value.min():.6g} to {self.value.max():.6g}"
            )
        return self._level(feature, noise, seed)

    def peak(self, noise: Noise | None = None, seed: int = 0) -> CriticalLevel:
        """The level at which the curve is highest: the vertex of the parabola through the top three levels.

        Raises:
            ValueError: the curve is highest at an end of its levels, or the peak lies outside of the noise process.
        """
        top = int(self.value.argmax())
        if top in (0, len(self.sigma) - 1):
            raise ValueError(
                f"the {self.criterion} curve has no peak between sigma = {self.sigma[0]:.6g} and {self.sigma[-1]:.6g}: "
                f"it is highest at sigma = {self.sigma[top]:.6g}"
            )
        return self._level(partial(_peak, self.sigma), noise, seed)

    def _level(self, feature: Callable[[Tensor], Tensor], noise: Noise | None, seed: int) -> CriticalLevel:
        """The level of a feature of curves `(R, L)`, `(R,)`, with the interval of its bootstrap replicates."""
        n, generator = len(self.samples), seeded(seed)
        draws = (torch.randint(n, (n,), generator=generator) for _ in range(RESAMPLES))
        curves = torch.stack([index.bincount(minlength=n).double() @ self.samples / n for index in draws])
        found, replicates = feature(self.value[None]).item(), feature(curves).nan_to_num(nan=self.sigma[-1].item())
        return CriticalLevel(found, self.criterion, f"{self.how}; {n} samples", central(replicates, found)).on(noise)


def central(replicates: Tensor, value: float, share: float = 0.95) -> tuple[float, float]:
    """The interval that holds the central `share` of bootstrap replicates, widened to hold `value`."""
    tails = torch.tensor([(1 - share) / 2, (1 + share) / 2], dtype=torch.float64)
    low, high = torch.quantile(replicates.double(), tails).tolist()
    return min(low, value), max(high, value)


def _crossing(sigma: Tensor, values: Tensor, threshold: float) -> Tensor:
    """First crossing of each row of `values` `(R, L)` from the left, `(R,)`; NaN where there is none."""
    above = values >= threshold
    changes = above[:, 1:] != above[:, :-1]
    left = changes.int().argmax(1)
    rows, x = torch.arange(len(values)), sigma.log()
    y0, y1 = values[rows, left], values[rows, left + 1]
    share = (threshold - y0) / torch.where(y1 == y0, torch.inf, y1 - y0)
    found = (x[left] + share * (x[left + 1] - x[left])).exp()
    return torch.where(changes.any(1), found, torch.nan)


def _peak(sigma: Tensor, values: Tensor) -> Tensor:
    """Vertex, in log sigma, of the parabola through each row's highest inner value and its neighbours, `(R,)`."""
    top = values[:, 1:-1].argmax(1) + 1
    rows, x = torch.arange(len(values)), sigma.log()
    h0, h1 = x[top] - x[top - 1], x[top + 1] - x[top]
    s0 = (values[rows, top] - values[rows, top - 1]) / h0
    s1 = (values[rows, top + 1] - values[rows, top]) / h1
    bend = s1 - s0  # the slope falls from s0 at the middle of the left step to s1 at that of the right one
    shift = torch.where(bend == 0, 0.0, -s0 / bend * (h0 + h1) / 2) - h0 / 2
    return (x[top] + torch.where(bend == 0, 0.0, shift)).clamp(x[top + 1], x[top - 1]).exp()


def evaluate(denoiser: Denoiser, y: Tensor, sigma: float, name: str = "denoiser") -> Tensor:
    """`D(y, sigma)`, `(B, *shape)`.

    Raises:
        ValueError: the denoiser returned another shape, or NaN, or infinite values; says at which level.
    """
    out = denoiser(y, sigma)
    if out.shape != y.shape:
        raise ValueError(f"the {name} returned {tuple(out.shape)} for samples {tuple(y.shape)} at sigma = {sigma:.6g}")
    if not out.isfinite().all():
        bad = int((~out.isfinite()).sum())
        raise ValueError(f"the {name} returned {bad} values that are NaN or infinite at sigma = {sigma:.6g}")
    return out


def falling(denoiser: Denoiser, sigmas: Any) -> Tensor:
    """The levels as `(L,)` float64 on the processor.

    Raises:
        ValueError: fewer than two, levels that do not fall, or some outside of the denoiser's range.
    """
    low, high = denoiser.sigma_range
    levels = torch.as_tensor(sigmas, dtype=torch.float64).cpu()
    sound = ((levels > 0) & (levels >= low) & (levels <= high) & levels.isfinite()).all()
    if levels.ndim != 1 or len(levels) < 2 or not sound or not (levels.diff() < 0).all():
        raise ValueError(
            f"expected at least two falling levels sigma within the denoiser's [{low:.6g}, {high:.6g}], received "
            f"{levels.tolist()}"
        )
    return levels


def enough(images: Tensor, criterion: str) -> Tensor:
    """The images, if they are at least `FEWEST`, `(n, *shape)`, floating point and finite; else a `ValueError`."""
    if images.ndim < 2 or len(images) < FEWEST or not images.is_floating_point():
        raise ValueError(
            f"{criterion} needs at least {FEWEST} images (n, *shape) of floating-point values, received "
            f"{images.dtype} {tuple(images.shape)}"
        )
    if not images.isfinite().all():
        raise ValueError(f"{criterion} needs finite values, received some that are NaN or infinite")
    return images
