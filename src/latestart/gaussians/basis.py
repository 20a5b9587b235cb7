"""Orthonormal bases in which a Gaussian is diagonal, and the sums from which each is fitted.

A covariance of images with D values is held as `C = Q diag(l) Q^T`: an orthonormal basis Q and its variances l.
Noise keeps the basis, `C + sigma^2 I = Q diag(l + sigma^2) Q^T`, and so does every function of the covariance,
`f(C) = Q diag(f(l)) Q^T`. A structure that repeats a variance keeps it once: it has K <= D variances, and the k-th
stands for `multiplicity[k]` directions, whose projector is `P_k`:

    Q diag(l) Q^T = sum_k l_k P_k,    trace = sum_k multiplicity_k l_k,    log det = sum_k multiplicity_k log l_k

The contract of a `Basis`, all that a Gaussian needs of it:

- `forward(x)`: the coefficients `Q^T x` of images x, and `inverse(c)`, the images with these coefficients;
- `spread(values)`: K values laid out over the coefficients, so that all functions of the covariance are

      sum_k f_k P_k x = inverse(forward(x) * spread(f))

  which is `scale(x, f)`, with one set of values or one for each image;
- `energies(x)`: `|P_k x|^2`, so that `x^T Q diag(w) Q^T x = energies(x) @ w`;
- `multiplicity`, and `translate`, which says the same variances in the layout of another basis where that is exact.

To be fitted from a stream a kind of basis has its `Products`: sums `total += sum_b q(x_b)`, quadratic in x, so that
they can be moved to another origin, added in any order, and turned into a basis with its variances in the end.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from math import prod
from typing import ClassVar, Self

import torch
from torch import Tensor

__all__ = [
    "NARROW", "Basis", "Blocks", "Dense", "DenseProducts", "Diagonal", "Isotropic", "Products", "checked",
    "eigenpairs", "nuclear_norm", "require_rank", "trace",
]  # fmt: skip

STRIPS = 8  # of the upper triangle: enough to skip most of the lower one, few enough to multiply at full speed
NARROW = 256  # below this width float32 matrix products sum serially, which loses a digit, and speed is no matter

Blocks = list[tuple[Tensor, Tensor]]  # square float64 (or complex) matrices `(n, k, k)`, and how often each occurs


class Basis(ABC):
    """An orthonormal basis of the space of images, with a layout of K variances in it."""

    name: ClassVar[str]
    parts: ClassVar[tuple[str, ...]] = ()  # the attributes, all tensors, that rebuild the basis together with the shape
    sums: ClassVar[type["Products"]]  # from which it is fitted

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)
        self.dim = prod(self.shape)

    @property
    def multiplicity(self) -> Tensor:
        """Number of directions that each variance stands for, float64 `(K,)`; they sum to D. By default one each."""
        return torch.ones(self.dim, dtype=torch.float64)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """The coefficients of x `(B, *shape)`, `(B, ...)` in a layout of the basis' own; linear in x."""

    @abstractmethod
    def inverse(self, c: Tensor) -> Tensor:
        """The images `(B, *shape)` of weighted coefficients: `inverse(forward(x) * spread(ones)) = x`."""

    def spread(self, values: Tensor) -> Tensor:
        """Values `(K,)` or `(B, K)` as factors of the coefficients; by default the layouts are the same."""
        return values

    def scale(self, x: Tensor, values: Tensor) -> Tensor:
        """`Q diag(values) Q^T x` for x `(B, *shape)` and values `(K,)` or `(B, K)`, in the dtype of x."""
        c = self.forward(x)
        return self.inverse(c * self.spread(values.to(c.real.dtype))).to(x.dtype)

    @abstractmethod
    def energies(self, x: Tensor) -> Tensor:
        """Squared length of x `(B, *shape)` in the directions of each variance, `(B, K)`."""

    def squares(self, x: Tensor, weights: Tensor) -> Tensor:
        """`x^T Q diag(weights) Q^T x` for weights `(K,)` or `(B, K)`, summed in float64: `(B,)`."""
        return (self.energies(x).double() * weights).sum(-1)

    def matrix(self, values: Tensor) -> Tensor:
        """`Q diag(values) Q^T` as a dense float64 `(D, D)` matrix."""
        rows = torch.eye(self.dim, dtype=torch.float64, device=values.device).reshape(-1, *self.shape)
        return self.scale(rows, values.double()).flatten(1)

    def product(self, values: Tensor, other: "Basis", others: Tensor) -> "Blocks":
        """`Q diag(values) Q^T` times the like of another basis, where it is block-diagonal: here as one block."""
        return [((self.matrix(values) @ other.matrix(others))[None], values.new_ones(1))]

    def translate(self, values: Tensor, onto: "Basis") -> Tensor | None:
        """The variances `values` of this basis in the layout of `onto`, or None where that is not diagonal."""
        return values if self.same(onto) else None

    def same(self, other: "Basis") -> bool:
        """Whether `other` has the same directions and layout."""
        if type(self) is not type(other) or self.shape != other.shape:
            return False
        theirs = other.tensors()
        pairs = ((tensor, theirs[name]) for name, tensor in self.tensors().items())
        return all(a is b or (a.dtype == b.dtype and torch.equal(a, b)) for a, b in pairs)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that, with the shape, rebuild this basis."""
        return {name: getattr(self, name) for name in self.parts}

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Basis":
        """This basis on another device or in another dtype."""
        moved = {name: tensor.to(device=device, dtype=dtype) for name, tensor in self.tensors().items()}
        return type(self).from_tensors(self.shape, moved)

    @classmethod
    def from_tensors(cls, shape: tuple[int, ...], tensors: Mapping[str, Tensor]) -> Self:
        """Rebuild a basis from its `tensors()`. Raises `ValueError` if they are not those of this kind of basis."""
        if set(tensors) != set(cls.parts):
            raise ValueError(
                f"a {cls.name} basis is made of the tensors {sorted(cls.parts)}, received {sorted(tensors)}"
            )
        return cls(shape, **tensors)

    @classmethod
    def products(cls, shape: tuple[int, ...], rank: int | None = None, seed: int = 0) -> "Products":
        """The sums from which a basis of this kind is fitted.

        Args:
            shape: of one image.
            rank: number of directions of its own, for bases that have such; by default chosen by the basis.
            seed: of random directions, for bases that draw some; sums of other seeds do not add up.

        Raises:
            ValueError: a rank for a basis without one, or one that is impossible for the shape.
        """
        if rank is not None:
            raise ValueError(f"the basis {cls.name!r} has no rank, received rank={rank}")
        return cls.sums(cls, shape)


class Products(ABC):
    """Sums over images, quadratic in each, that determine a basis and its variances.

    Attributes:
        kind: of the basis.
        shape: of one image; `dim` is its number of values.
        size: shape of the tensor of sums.
    """

    size: tuple[int, ...]

    def __init__(self, kind: type[Basis], shape: tuple[int, ...]) -> None:
        self.kind = kind
        self.shape = tuple(shape)
        self.dim = prod(self.shape)

    @abstractmethod
    def accumulate(self, total: Tensor, x: Tensor, weight: float = 1.0) -> None:
        """Add `weight * sum_b q(x_b)` of rows x `(B, D)`, multiplied in the dtype of x, to the float64 `total`."""

    def complete(self, total: Tensor) -> Tensor:
        """The sums, in place, with what `accumulate` left out by symmetry."""
        return total

    def fitted(self, covariance: Tensor, count: int, dtype: torch.dtype) -> tuple[Basis, Tensor]:
        """The basis and its float64 variances `(K,)` from completed sums over `count` centred images, over n - 1.

        By default the sums are the variances of a basis that its shape alone gives.
        """
        return self.kind(self.shape), covariance.clamp(min=0.0)

    def centred(self, total: Tensor, offset: Tensor, count: int) -> Tensor:
        """The completed sums over n - 1, about the mean, which is `offset` `(D,)` away from the origin of `total`."""
        centred = total.clone()
        self.accumulate(centred, offset.unsqueeze(0), -count)
        return self.complete(centred.div_(count - 1))

    def fitted_about(self, offset: Tensor, total: Tensor, count: int, dtype: torch.dtype) -> tuple[Basis, Tensor]:
        """As `fitted`, from sums about another origin; for structures whose sums are too large to be copied."""
        return self.fitted(self.centred(total, offset, count), count, dtype)

    def restated(self, covariance: Tensor) -> Tensor:
        """A dense covariance `(D, D)` as completed sums of this structure.

        They are linear in the covariance, so any vectors will do whose products sum to it: here the columns of the
        Cholesky factor of `C + e I`, less those of `e I`, the e being far above the rounding of C; of no covariance
        there is nothing to sum.
        """
        total = torch.zeros(self.size, dtype=torch.float64, device=covariance.device)
        if (largest := float(covariance.diagonal().max())) <= 0:
            return total
        eye, shift = torch.eye(self.dim, dtype=torch.float64, device=covariance.device), 1e-4 * largest
        self.accumulate(total, torch.linalg.cholesky(covariance + shift * eye).T)
        self.accumulate(total, eye, -shift)
        return self.complete(total)


def trace(blocks: Blocks) -> Tensor:
    """The trace of a block-diagonal matrix."""
    return torch.stack([count @ b.diagonal(dim1=1, dim2=2).sum(1).real.double() for b, count in blocks]).sum()


def nuclear_norm(blocks: Blocks) -> Tensor:
    """The sum of the singular values of a block-diagonal matrix."""
    return torch.stack([count @ torch.linalg.svdvals(b).sum(1) for b, count in blocks]).sum()


def checked(basis: Basis, name: str, tensor: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return a tensor of a basis; raise `ValueError` if it has another size."""
    if tuple(tensor.shape) != size:
        raise ValueError(
            f"the {name} of a {basis.name} basis for images of shape {basis.shape} has the shape {size}, "
            f"received {tuple(tensor.shape)}"
        )
    return tensor


def require_rank(rank: int | None, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` if no basis of images of that shape has that rank."""
    if rank is not None and not 1 <= rank <= prod(shape):
        raise ValueError(
            f"for images of shape {shape} a basis has a rank from 1 to {prod(shape)}, the number of values, received "
            f"rank={rank}"
        )


class DenseProducts(Products):
    """`x x^T`, every pair of values."""

    def __init__(self, kind: type[Basis], shape: tuple[int, ...]) -> None:
        super().__init__(kind, shape)
        self.size = (self.dim, self.dim)

    def accumulate(self, total: Tensor, x: Tensor, weight: float = 1.0) -> None:
        """Only strips from the diagonal to the right are multiplied: 9/16 of the work of the full product."""
        x = x.double() if x.shape[1] < NARROW else x
        for i, j in _strips(x.shape[1]):
            total[i:j, i:].add_(x[:, i:j].T @ x[:, i:], alpha=weight)

    def complete(self, total: Tensor) -> Tensor:
        for i, j in _strips(len(total)):
            total[j:, i:j] = total[i:j, j:].T
            total[i:j, i:j] = (total[i:j, i:j] + total[i:j, i:j].T) / 2
        return total

    def fitted(self, covariance: Tensor, count: int, dtype: torch.dtype) -> tuple[Basis, Tensor]:
        """Eigenvectors, largest variance first; variances that are rounding alone are exactly zero."""
        values, vectors = eigenpairs(covariance, count)
        return Dense(self.shape, vectors.to(dtype).contiguous()), values


class Dense(Basis):
    """The eigenvectors of a full covariance: `Q` is `vectors` `(D, D)`, one variance for each column."""

    name = "dense"
    parts = ("vectors",)
    sums = DenseProducts

    def __init__(self, shape: tuple[int, ...], vectors: Tensor) -> None:
        super().__init__(shape)
        self.vectors = checked(self, "vectors", vectors, (self.dim, self.dim))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.vectors.to(x.dtype)

    def inverse(self, c: Tensor) -> Tensor:
        return (c @ self.vectors.to(c.dtype).T).unflatten(1, self.shape)

    def energies(self, x: Tensor) -> Tensor:
        return self.forward(x).square()


def eigenpairs(covariance: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Variances and directions of a covariance over `count` images, the largest first.

    Those below `D * eps * largest` (numpy's rank convention) are exactly zero, and all after the first n - 1: the
    covariance of n images has no higher rank.
    """
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0), vectors.flip(1)
    values[values < values[0] * len(values) * torch.finfo(torch.float64).eps] = 0.0
    values[count - 1 :] = 0.0
    return values.clamp(min=0.0), vectors


class Squares(Products):
    """`x^2` of each value."""

    def __init__(self, kind: type[Basis], shape: tuple[int, ...]) -> None:
        super().__init__(kind, shape)
        self.size = (self.dim,)

    def accumulate(self, total: Tensor, x: Tensor, weight: float = 1.0) -> None:
        total.add_(x.square().sum(0), alpha=weight)


class Diagonal(Basis):
    """The values of the image themselves, each with its own variance: `Q = I`, K = D."""

    name = "diagonal"
    sums = Squares

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def inverse(self, c: Tensor) -> Tensor:
        return c.unflatten(1, self.shape)

    def energies(self, x: Tensor) -> Tensor:
        return x.flatten(1).square()


class MeanSquare(Products):
    """The mean of `x^2` over the values."""

    size = (1,)

    def accumulate(self, total: Tensor, x: Tensor, weight: float = 1.0) -> None:
        total.add_(x.square().sum(0).double().mean(), alpha=weight)


class Isotropic(Basis):
    """One variance for all directions: `C = l I`, K = 1 with multiplicity D. Diagonal in every basis."""

    name = "isotropic"
    sums = MeanSquare

    @property
    def multiplicity(self) -> Tensor:
        return torch.full((1,), float(self.dim), dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def inverse(self, c: Tensor) -> Tensor:
        return c.unflatten(1, self.shape)

    def energies(self, x: Tensor) -> Tensor:
        return x.flatten(1).square().sum(1, keepdim=True)

    def translate(self, values: Tensor, onto: Basis) -> Tensor | None:
        return values.expand(len(onto.multiplicity))


def _strips(dim: int) -> list[tuple[int, int]]:
    width = max(1, -(-dim // STRIPS))
    return [(i, min(i + width, dim)) for i in range(0, dim, width)]
