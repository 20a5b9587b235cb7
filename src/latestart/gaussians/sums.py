"""Sums over images from which a mean and a covariance follow.

    n,  first = sum (x - shift),  second = sum q(x - shift)

where q are the products that a basis asks for: all pairs (dense), squares (diagonal), their mean (isotropic), products
with random combinations (low rank). Then

    mean = shift + first / n,      covariance = (second - n q(mean - shift)) / (n - 1)

The shift is the mean of the first batch; where all of its images have one value it is that value, so that what never
varies has a variance of exactly zero in any dtype. Without it the difference would cancel: for images with mean 1e4 and
unit variance the sums of products would need 8 more digits than the covariance shows. With it, products in float32 are
as accurate as the deviations themselves, if `x - shift` is exact; so the shift is rounded to the images' own dtype,
where a subtraction rounds once, relative to the deviation. Each chunk's float32 sums are added to float64 ones.

Since q is quadratic, sums about one shift move exactly to another: `second' = second - n q(mean - shift)
+ n q(mean - shift')`. So sums add up in any order and any split, over processes, and over interruptions.
"""

import logging
from collections.abc import Iterable, Sequence
from math import isfinite, prod
from typing import Any, Self

import torch
from torch import Tensor

from latestart.data import Images
from latestart.gaussians.basis import Basis, DenseProducts, Products, require_rank
from latestart.gaussians.structures import basis_class
from latestart.inputs.front import as_images

__all__ = ["CHUNK", "Sums", "report_chosen", "require_variance", "structured"]

CHUNK = 2048  # images multiplied at once, so that memory does not grow with the batch
CHUNK_VALUES = 2**25  # numbers in them at most, of images so large that fewer fill the memory of a chunk
DENSE_LIMIT = 2**30  # bytes of float64 D x D sums that "auto" still calls dense: up to 11,585 values an image

log = logging.getLogger(__name__)


class Sums:
    """Streaming, mergeable sums of images, for one kind of basis. They live on the first batch's device.

    Args:
        shape: of one image.
        basis: one of `structures.BASES`, or "auto".
        rank: number of directions of its own, for bases that have such; None leaves it to the basis. With "auto" that
            of the basis it chooses; "dense" has none, and then the log says that it was not used.
        products: dtype in which products are multiplied, float32 (fast, 1e-6) or float64 (1e-10).
        seed: of the random directions of a basis that draws some.

    Raises:
        ValueError: an unknown basis, a rank for a named basis without one, one that no basis of such images has, an
            impossible shape or dtype.
    """

    def __init__(
        self,
        shape: Iterable[int],
        basis: str = "dense",
        rank: int | None = None,
        products: torch.dtype = torch.float32,
        seed: int = 0,
    ) -> None:
        self.shape = tuple(int(size) for size in shape)
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"expected the shape of one image, such as (3, 32, 32), received {self.shape}")
        if products not in (torch.float32, torch.float64):
            raise ValueError(f"products are multiplied in torch.float32 or torch.float64, received {products}")
        self.basis, self.rank, self.products, self.seed = basis, rank, products, seed
        self.dim = prod(self.shape)
        self.structure = self._structure()
        self.count = self.updates = 0
        self.bare = True  # whether all images were floats of which nobody has said a range
        self.low, self.high = float("inf"), float("-inf")
        self.shift, self.first, self.second = (torch.zeros(size, dtype=torch.float64) for size in self._sizes())

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Lowest and highest value seen, or None before the first image."""
        return (self.low, self.high) if self.count else None

    @property
    def constant(self) -> bool:
        """Whether no image differed from the shift, so that all of them are the same."""
        return self.count > 0 and not bool(self.first.any()) and not bool(self.second.any())

    def update(self, images: Any) -> None:
        """Add images: whatever `as_images` takes; floats in the model's own value range.

        Raises:
            ValueError: another shape, or values that are NaN, infinite or too large to multiply, and what `as_images`
                raises. The sums are as they were before.
        """
        found = as_images(images, shape=self.shape)
        if isinstance(found, Images) and found.bare:
            self.add(found.pixels)
            return
        own = self.empty()
        for batch in found:
            own.add(batch)
        own.bare = found.bare
        self.merge(own)

    def empty(self) -> Self:
        """Sums of the same kind, of no images."""
        return type(self)(self.shape, self.basis, self.rank, self.products, self.seed)

    def add(self, batch: Tensor) -> None:
        """Add one batch `(B, *shape)` of floating-point numbers in the model's own value range.

        Raises:
            ValueError: another shape, or values that are NaN, infinite or too large to multiply. The sums are as they
                were before.
        """
        if tuple(batch.shape[1:]) != self.shape:
            raise ValueError(
                f"batch {self.updates} has images of the shape {tuple(batch.shape[1:])}, expected {self.shape}"
            )
        rows = batch.reshape(len(batch), self.dim)
        if len(rows) == 0:
            return
        low, high = (bound.item() for bound in rows.aminmax())
        self._check_values(rows, low, high)
        if self.count == 0:
            self._start(rows)
        dtype = torch.promote_types(torch.promote_types(rows.dtype, self.products), self.shift.dtype)
        for chunk in rows.to(self.first.device).split(self._chunk()):
            deviations = (chunk.to(dtype) - self.shift.to(dtype)).to(self.products)
            self.first += deviations.sum(0)
            self.structure.accumulate(self.second, deviations)
        self.count += len(rows)
        self.updates += 1
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: "Sums") -> None:
        """Add the sums of other images, about whatever shift.

        Raises:
            ValueError: the other sums are for another shape, basis or dtype of products.
        """
        mine, theirs = ((s.shape, s.basis, s.rank, s.seed, s.products) for s in (self, other))
        if mine != theirs:
            raise ValueError(
                f"cannot merge sums for (shape, basis, rank, seed, products) = {theirs} into those for {mine}"
            )
        if other.count == 0:
            return
        self.bare = self.bare and other.bare
        if self.count == 0:
            self.shift, self.first, self.second = other.shift.clone(), other.first.clone(), other.second.clone()
        else:
            self._add(other)
        self.count += other.count
        self.updates += other.updates
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def mean(self) -> Tensor:
        """Mean image, float64 `(*shape)`. Raises `ValueError` before the first image."""
        if self.count == 0:
            raise ValueError("expected at least one image for a mean, received none")
        return (self.shift + self.first / self.count).reshape(self.shape)

    def covariance(self) -> Tensor:
        """Covariance over n - 1 in the layout of the basis' products (dense: `(D, D)`; diagonal: `(D,)`), float64.

        Raises:
            ValueError: fewer than two images.
        """
        return self.structure.centred(self.second, self._offset(), self.count)

    def estimate(self) -> tuple[Tensor, Basis, Tensor]:
        """Mean, float64; the basis, in the dtype of the products; its variances, float64."""
        if self.basis == "auto" and isinstance(self.structure, DenseProducts) and self.count <= self.dim:
            structure = basis_class(structured(self.shape)).products(self.shape, self.rank, self.seed)
            covariance = structure.restated(self.covariance())
            basis, variances = structure.fitted(covariance, self.count, self.products)
        else:
            basis, variances = self.structure.fitted_about(self._offset(), self.second, self.count, self.products)
        if self.basis == "auto":
            report_chosen(log, basis.name, f"{self.count} images of {self.dim} values", self.rank)
        return self.mean(), basis, variances

    def _structure(self) -> Products:
        name, rank = self.basis, self.rank
        if name == "auto":
            require_rank(rank, self.shape)
            name = structured(self.shape)
            if 8 * self.dim**2 <= DENSE_LIMIT:
                name, rank = "dense", None  # a rank is for what may come instead
        return basis_class(name).products(self.shape, rank, self.seed)

    def _sizes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of shift, first and second; the products take no memory before there are images."""
        return (self.dim,), (self.dim,), self.structure.size if self.count else (0,)

    def _offset(self) -> Tensor:
        """The mean's distance from the shift, `(D,)`."""
        if self.count < 2:
            raise ValueError(f"expected at least two images for a covariance, received {self.count}")
        return self.first / self.count

    def _chunk(self) -> int:
        return min(CHUNK, max(1, CHUNK_VALUES // self.dim))

    def _start(self, rows: Tensor) -> None:
        own = torch.promote_types(rows.dtype, torch.float32)
        head = rows[: self._chunk()]
        low, high = head.aminmax(dim=0)
        self.shift = torch.where(low == high, low.to(own), head.mean(0, dtype=torch.float64).to(own))
        self.first = torch.zeros(self.dim, dtype=torch.float64, device=rows.device)
        self.second = torch.zeros(self.structure.size, dtype=torch.float64, device=rows.device)

    def _add(self, other: "Sums") -> None:
        device = self.first.device
        first, shift, second = other.first.to(device), other.shift.to(device), other.second.to(device)
        moved = first / other.count + (shift.double() - self.shift.double())
        self.second += second
        self.structure.accumulate(self.second, (first / other.count).unsqueeze(0), -other.count)
        self.structure.accumulate(self.second, moved.unsqueeze(0), other.count)
        self.first = self.first + other.count * moved

    def _check_values(self, rows: Tensor, low: float, high: float) -> None:
        if not (isfinite(low) and isfinite(high)):
            bad = int((~rows.isfinite()).sum())
            raise ValueError(
                f"{bad} of the {rows.numel()} values in batch {self.updates} are NaN or infinite, expected finite ones"
            )
        widest = 2 * max(map(abs, (low, high, *(self.value_range or ()))))
        if not CHUNK * widest**2 < torch.finfo(self.products).max:
            raise ValueError(
                f"batch {self.updates} has values from {low:g} to {high:g}, too large to multiply in {self.products}"
            )


def report_chosen(to: logging.Logger, basis: str, what: str, rank: int | None) -> None:
    """Log the basis that "auto" took, as a warning unless it is "dense" and leaves no rank unused."""
    unused = "" if rank is None else f", which has no rank: rank={rank} is not used"
    if basis == "dense":
        to.log(logging.WARNING if unused else logging.INFO, "basis='auto' chose 'dense' for %s%s", what, unused)
    else:
        to.warning("basis='auto' chose %r for %s: too few, or too large, for 'dense'", basis, what)


def require_variance(parts: Sequence[Sums]) -> None:
    """Raise `ValueError` if the images of all these sums are one image again and again, which no prior is fitted to.

    Vectors may be: the features of a sampler that has collapsed have a mean, and a distance from others.
    """
    first, count = parts[0], sum(part.count for part in parts)
    if count < 2 or len(first.shape) < 2:
        return
    if all(part.constant and torch.equal(part.shift, first.shift) for part in parts):
        raise ValueError(
            f"all {count} images are the same: they have no variance, and a prior of them could only repeat them"
        )


def structured(shape: tuple[int, ...]) -> str:
    """The structured basis of "auto", for a dense covariance too large or with too few images: see `Gaussian.fit`."""
    return "cosine+dense" if len(shape) > 1 else "lowrank"
