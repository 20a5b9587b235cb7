"""A Gaussian of images that is diagonal in its basis: fitted once, exact at every noise level.

With data mean m and covariance `C = Q diag(l) Q^T`, data noised to the level sigma, `y = x_0 + sigma eps`, is
`N(m, Q diag(l + sigma^2) Q^T)`. Everything asked of it is one elementwise line in the basis:

    white noise -> sample     m + Q sqrt(l) Q^T z                          (the symmetric root)
    denoiser E[x_0 | y]       m + Q l / (l + sigma^2) Q^T (y - m)          (Wiener)
    score of y                - Q 1 / (l + sigma^2) Q^T (y - m)            = (E[x_0 | y] - y) / sigma^2
    log-density               - 1/2 (y - m)^T Q 1/l Q^T (y - m) - 1/2 sum log(2 pi l)
    probability flow          m + Q sqrt((l + sigma_to^2) / (l + sigma_from^2)) Q^T (y - m)

`push` of `noised(sigma)` is that flow from infinite noise: the same white noise that a full run would have started
from, at the place where the full run of this Gaussian passes the level sigma. Between two Gaussians with a common
basis, `a` and `b` their variances and `d` the difference of their means in it, the divergences are sums too:

    KL(a || b) = 1/2 sum (a / b - 1 - log(a / b) + d^2 / b)
    squared 2-Wasserstein (Frechet) distance = sum d^2 + (sqrt(a) - sqrt(b))^2

and only otherwise are matrices built, on the directions in which the two covariances differ. Variances and sums are
float64; the mean and the basis have the Gaussian's dtype, and images are computed on in the wider of their own and the
Gaussian's.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.files import load_tensors, require_finite, save_tensors, sound
from latestart.gaussians.basis import Basis, nuclear_norm, trace
from latestart.gaussians.prior import Around, Prior, level_of, require_images
from latestart.gaussians.structures import basis_class
from latestart.gaussians.sums import Sums, require_variance
from latestart.inputs.front import as_images
from latestart.inputs.ranges import warn_of_unit_range

__all__ = ["Gaussian", "load_gaussian"]


class Gaussian(Around, Prior):
    """`N(mean, Q diag(variances) Q^T)` over images; a denoiser for data that is so distributed.

    Args:
        mean: `(*shape)`, floating point; its dtype and device become the Gaussian's.
        basis: the orthonormal basis Q, for images of that shape.
        variances: `(K,)` in the basis' layout, non-negative; kept in float64.
        count: number of images it was fitted to, if it was.
        value_range: lowest and highest value of those images, if known.

    Raises:
        ValueError: shapes that do not belong together, or variances that are negative or not finite.
    """

    def __init__(
        self,
        mean: Tensor,
        basis: Basis,
        variances: Tensor,
        count: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        if not mean.is_floating_point() or not mean.isfinite().all():
            raise ValueError(f"the mean of a Gaussian must be finite floating-point numbers, received {mean.dtype}")
        if tuple(mean.shape) != basis.shape:
            raise ValueError(f"the mean has the shape {tuple(mean.shape)}, its basis is for images of {basis.shape}")
        multiplicity = basis.multiplicity
        if variances.shape != multiplicity.shape:
            raise ValueError(
                f"a {basis.name} basis for images of {basis.shape} has {len(multiplicity)} variances, "
                f"received {tuple(variances.shape)}"
            )
        if not (variances.isfinite() & (variances >= 0)).all():
            raise ValueError(
                f"variances must be finite and not negative, received from {variances.min():g} to {variances.max():g}"
            )
        self.mean = self.centre = mean
        self.basis = basis.to(mean.device, mean.dtype)
        self.variances = variances.detach().to(mean.device, torch.float64)
        self.count = count
        self.value_range = value_range
        self._multiplicity = multiplicity.to(mean.device)

    @classmethod
    def fit(
        cls,
        batches: Any,
        basis: str = "auto",
        rank: int | None = None,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> "Gaussian":
        """Fit mean and covariance (over n - 1) to images, in one pass and without keeping them.

        Args:
            batches: whatever `as_images` takes: a path, an array `(N, *shape)`, a list, a data set or a loader; floats
                in the model's own value range.
            basis: what the covariance can hold. "dense": everything. "lowrank": the leading directions, and one
                variance for the rest. "cosine", "fourier": what does not change from place to place, a channel block
                for each frequency. "cosine+dense": the lowest frequencies in a dense block of their own, the others as
                "cosine". "diagonal": each value alone. "channel": the channels alone. "isotropic": one variance.
                "auto": dense while n > D and the D x D sums take at most 1 GiB, else "cosine+dense", and "lowrank" for
                vectors; `prior.basis.name` and the log say which. For drawings of few images "lowrank" is better.
            rank: of "lowrank", the number of leading directions (256 by default); of "cosine+dense", how many
                directions its dense block may have (512 by default, and at most a third of the images); of "auto" that
                of what it chooses, where that has one: if not, the log says that it was not used.
            dtype: of the mean, the basis and the products summed; float64 where 1e-10 matters.

        Raises:
            ValueError: no images, fewer than two, images that are all the same, unequal shapes, NaN or infinite values,
                an unknown basis, or a rank that it does not have, and what `as_images` raises.

        Warns:
            UserWarning: floats that never leave [0, 1].
        """
        images = as_images(batches)
        sums: Sums | None = None
        for batch in images:
            sums = sums or Sums(tuple(batch.shape[1:]), basis, rank, products=dtype)
            sums.add(batch)
        if sums is None:
            raise ValueError("expected at least one batch of images to fit a Gaussian to, received none")
        require_variance([sums])
        warn_of_unit_range(images.bare, sums.shape, sums.value_range)
        return cls.of(sums)

    @property
    def total_variance(self) -> Tensor:
        """The trace of the covariance, float64."""
        return self._multiplicity.to(self.variances) @ self.variances

    @classmethod
    def of(cls, sums: Sums) -> "Gaussian":
        """The Gaussian with the mean and the covariance (over n - 1) of accumulated images."""
        mean, basis, variances = sums.estimate()
        return cls(mean.to(sums.products), basis, variances, sums.count, sums.value_range)

    def __repr__(self) -> str:
        return f"Gaussian(shape={self.shape}, basis={self.basis.name!r}, count={self.count})"

    def __call__(self, y: Tensor, sigma: float | Tensor, labels: Tensor | int | None = None) -> Tensor:
        """The posterior mean `E[x_0 | y] = m + C (C + sigma^2 I)^-1 (y - m)`.

        Args:
            y: `(B, *shape)`, data plus noise.
            sigma: noise level of y, a number or `(B,)`. At 0 the limit is returned: y projected on the data's span.
            labels: no matter; one Gaussian knows no classes.
        """
        noised = self.variances + self._level(sigma, y).square()
        return self._scaled(y, torch.where(noised > 0, self.variances / noised, 0.0))

    denoise = __call__

    def score(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """Gradient of the log-density of data noised to `sigma`: `-(C + sigma^2 I)^-1 (y - m)`, `(B, *shape)`.

        Raises:
            ValueError: the level is 0 and the covariance is singular.
        """
        noised = self._positive(self.variances + self._level(sigma, y).square(), "score")
        x, dtype = self._images(y)
        return -self.basis.scale(x - self.mean, 1 / noised).to(dtype)

    def flow(self, y: Tensor, sigma_from: float | Tensor, sigma_to: float | Tensor) -> Tensor:
        """Carry y along the probability flow, `m + ((C + sigma_to^2 I) (C + sigma_from^2 I)^-1)^(1/2) (y - m)`.

        Exact for any two levels, up or down in noise (Wang and Vastola's "analytical teleportation").

        Args:
            y: `(B, *shape)`, at the level `sigma_from`.
            sigma_from, sigma_to: noise levels, numbers or `(B,)`.

        Raises:
            ValueError: `sigma_from` is 0 and the covariance is singular.
        """
        begin = self._positive(self.variances + self._level(sigma_from, y).square(), "flow")
        end = self.variances + self._level(sigma_to, y).square()
        return self._scaled(y, (end / begin).sqrt())

    def push(self, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Carry white noise z `(B, *shape)` to samples by the symmetric root: `m + C^(1/2) z`, whatever the labels."""
        return self._scaled(z, self.variances.sqrt(), centre=False)

    def noised(self, sigma: float) -> "Gaussian":
        """The distribution of `x_0 + sigma eps`: the same basis, `variances + sigma^2`. Costs nothing of order D^2."""
        level = self._level(sigma)
        return Gaussian(self.mean, self.basis, self.variances + level.square(), self.count, self.value_range)

    def log_prob(self, y: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """Log-density of data noised to `sigma` at y `(B, *shape)`, in nats, float64 `(B,)`; differentiable in y.

        Args:
            y: `(B, *shape)`.
            sigma: noise level, a number or `(B,)`; 0 for clean data.

        Raises:
            ValueError: the level is 0 and a variance is zero, so there is no density.
        """
        return self.log_density(self._images(y)[0], self._level(sigma, y))

    def log_density(self, x: Tensor, level: Tensor) -> Tensor:
        """Log-density as `log_prob`, of checked images x at a level `()` or `(B, 1)` from `level_of`."""
        variances = self._positive(self.variances + level.square(), "log_prob")
        volume = variances.mul(2 * math.pi).log() @ self._multiplicity
        return -0.5 * (self.basis.squares(x - self.mean, 1 / variances) + volume)

    def kl(self, other: "Gaussian") -> float:
        """Kullback-Leibler divergence `KL(self || other)` in nats.

        `1/2 [tr(C2^-1 C1) - D - log det(C2^-1 C1) + (m1 - m2)^T C2^-1 (m1 - m2)]`.

        Raises:
            ValueError: the shapes differ, or one of the two has no density.
            FloatingPointError: it cannot be represented; a divergence above the largest number is infinite.
        """
        gap = self._gap(other)
        mine, theirs = self._positive(self.variances, "kl"), other._positive(other.variances, "kl").to(self.device)
        # of equal means it is 0, though 1 / variance may be infinite
        distance = other.basis.to(self.device).squares(gap, 1 / theirs) if gap.any() else torch.zeros(1).to(gap)
        if shared := self._shared(other):
            multiplicity, a, b = shared
            spread = multiplicity @ (a / b - 1 - (a.log() - b.log()))
        else:
            product = self.basis.product(self.variances, other.basis.to(self.device), 1 / theirs)
            volume = other._multiplicity.to(self.device) @ theirs.log() - self._multiplicity @ mine.log()
            spread = trace(product) - self.basis.dim + volume
        return _figure(0.5 * (spread + distance), "kl")

    def frechet(self, other: "Gaussian") -> float:
        """Squared 2-Wasserstein distance, the Frechet distance of FID.

        `|m1 - m2|^2 + tr(C1 + C2 - 2 (C1^(1/2) C2 C1^(1/2))^(1/2))`; the last trace is the sum of the singular
        values of `C1^(1/2) C2^(1/2)`, which needs no root of a nearly singular product.

        Raises:
            ValueError: the shapes differ.
        """
        distance = self._gap(other).square().sum()
        if shared := self._shared(other):
            multiplicity, a, b = shared
            return _figure(distance + multiplicity @ (a.sqrt() - b.sqrt()).square(), "frechet")
        theirs = other.variances.to(self.device)
        roots = self.basis.product(self.variances.sqrt(), other.basis.to(self.device), theirs.sqrt())
        traces = self._multiplicity @ self.variances + other._multiplicity.to(self.device) @ theirs
        return _figure(distance + traces - 2 * nuclear_norm(roots), "frechet")

    def covariance(self) -> Tensor:
        """The covariance as a dense float64 `(D, D)` matrix over flattened images; for small D."""
        return self.basis.matrix(self.variances)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Gaussian":
        """This Gaussian on another device, or with mean and basis in another dtype. Variances stay float64."""
        return Gaussian(
            self.mean.to(device=device, dtype=dtype), self.basis, self.variances, self.count, self.value_range
        )

    def save(self, path: str | Path) -> None:
        """Write to a safetensors file, whole or not at all; `load_prior` reads it."""
        save_tensors(path, "gaussian", self.tensors(), self.about())

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that, with `about`, rebuild this Gaussian."""
        return {"mean": self.mean, "variances": self.variances, **self.basis.tensors()}

    def about(self) -> dict[str, Any]:
        """Return the rest, for JSON."""
        return {"basis": self.basis.name, "count": self.count, "value_range": self.value_range}

    @classmethod
    def restored(
        cls, tensors: dict[str, Tensor], about: dict[str, Any], dtype: torch.dtype | None = None
    ) -> "Gaussian":
        """Rebuild a Gaussian from its `tensors` and `about`, with mean and basis in another dtype if one is given."""
        own = dict(tensors)
        mean, variances = own.pop("mean").to(dtype=dtype), own.pop("variances")
        basis = basis_class(about["basis"]).from_tensors(tuple(mean.shape), own)
        return cls(mean, basis, variances, about["count"], about["value_range"] and tuple(about["value_range"]))

    def _images(self, y: Tensor) -> tuple[Tensor, torch.dtype]:
        """y in the dtype to compute in, and its own."""
        require_images(y, self.shape)
        return y.to(torch.promote_types(y.dtype, self.dtype)), y.dtype

    def _scaled(self, y: Tensor, values: Tensor, centre: bool = True) -> Tensor:
        """`m + Q diag(values) Q^T (y - m)`, or of y itself where it is centred already."""
        x, dtype = self._images(y)
        return (self.mean + self.basis.scale(x - self.mean if centre else x, values)).to(dtype)

    def _level(self, sigma: float | Tensor, y: Tensor | None = None) -> Tensor:
        return level_of(sigma, self.device, None if y is None else len(y))

    def _positive(self, variances: Tensor, what: str) -> Tensor:
        if zero := int((variances <= 0).sum()):
            raise ValueError(
                f"{what} needs a covariance of full rank, but {zero} of {variances.numel()} variances are zero; "
                "at a noise level above 0, as in noised(sigma), none is"
            )
        return variances

    def _gap(self, other: "Gaussian") -> Tensor:
        if self.shape != other.shape:
            raise ValueError(
                f"expected two Gaussians over images of one shape, received {self.shape} and {other.shape}"
            )
        return (self.mean.double() - other.mean.to(self.device).double()).unsqueeze(0)

    def _shared(self, other: "Gaussian") -> tuple[Tensor, Tensor, Tensor] | None:
        """Multiplicities and both variances in a basis that suits both, or None where there is none at hand."""
        basis, variances = other.basis.to(self.device), other.variances.to(self.device)
        if (translated := basis.translate(variances, self.basis)) is not None:
            return self._multiplicity, self.variances, translated
        if (translated := self.basis.translate(self.variances, basis)) is not None:
            return other._multiplicity.to(self.device), translated, variances
        return None


def _figure(value: Tensor, what: str) -> float:
    """A divergence that is not below 0 but by rounding.

    Raises:
        FloatingPointError: it is NaN: the numbers that it is made of cannot be represented.
    """
    if value.isnan():
        raise FloatingPointError(f"{what} came out as NaN: the two Gaussians are too far apart for float64")
    return value.clamp(min=0).item()


def load_gaussian(path: str | Path) -> Gaussian:
    """Read a `Gaussian` that `Gaussian.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a pickle (never loaded), is damaged or foreign, or does not hold a sound Gaussian.
    """
    tensors, metadata = load_tensors(path, "gaussian")
    require_finite(path, tensors, ("mean", "variances"))
    with sound(path, "Gaussian"):
        return Gaussian.restored(tensors, metadata)
