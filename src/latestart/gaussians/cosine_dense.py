"""A cosine basis whose lowest frequencies, all channels together, are replaced by their dense eigenbasis.

What has its place in the image, such as a centred face, is not stationary, and shows in the lowest frequencies of a
cosine transform as correlations between them. So with `a` the m lowest frequencies of all C channels, and `X_f` the
channels at each frequency f above,

    Cov[a] = Q diag(l) Q^T,    Cov[X_f] = V_f diag(l_f) V_f^T,    and all others 0

With m C = D it is the dense basis, with m = 0 the cosine one. It takes these covariances from the images, so it is the
nearest of its kind to theirs. One pass sums `a a^T` and `X_f X_f^T`: `(m C)^2 + C D` numbers.
"""

import torch
from torch import Tensor

from latestart.gaussians.basis import Basis, Blocks, Dense, Products, checked, eigenpairs, require_rank
from latestart.gaussians.blocks import (
    add_blocks,
    at_least_single,
    block_eigenpairs,
    complete_blocks,
    matrices,
    rotate,
    rotate_back,
)
from latestart.gaussians.transforms import CosineTransform, low_first, picked

__all__ = ["CosineDense"]

RANK = 512  # dense directions of "cosine+dense" unless told
IMAGES = 3  # and at most one for so many images; held-out digits ask for fewer images, photographs for more


class CosineDense(Basis):
    """Cosine, with the lowest m frequencies of all channels replaced by the eigenvectors of their own covariance.

    The frequencies are ordered by `latestart.gaussians.transforms.low_first`. The variances are those of the mC dense
    directions, then `(C, F - m)`, flattened.

    Args:
        shape: of one image, channels first; a shape with one axis is one channel.
        vectors: `(m C, m C)`, rows in the order (channel, frequency).
        rotation: `(C, C, F - m)`: component, direction, frequency.
    """

    name = "cosine+dense"
    parts = ("vectors", "rotation")

    def __init__(self, shape: tuple[int, ...], vectors: Tensor, rotation: Tensor) -> None:
        super().__init__(shape)
        self.transform = CosineTransform(self.shape)
        c = self.transform.channels
        self.low = len(vectors) // c
        self.vectors = checked(self, "vectors", vectors, (self.low * c, self.low * c))
        self.rotation = checked(self, "rotation", rotation, (c, c, self.transform.modes - self.low))
        self.dense = Dense((self.low * c,), vectors)

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients `(B, D)`, in the order of the variances."""
        wide = at_least_single(x)
        low, high = split(self.transform, wide, self.low)
        return torch.cat([self.dense.forward(low), rotate(high, self.rotation.to(wide.dtype)).flatten(1)], 1)

    def inverse(self, c: Tensor) -> Tensor:
        low, high = c[:, : self.dense.dim], c[:, self.dense.dim :].unflatten(1, self.rotation.shape[1:])
        return join(self.transform, self.dense.inverse(low), rotate_back(high, self.rotation.to(c.dtype)))

    def energies(self, x: Tensor) -> Tensor:
        return self.forward(x).square()

    def product(self, values: Tensor, other: Basis, others: Tensor) -> Blocks:
        if not isinstance(other, CosineDense) or self.shape != other.shape or self.low != other.low:
            return super().product(values, other, others)
        n = self.dense.dim
        low = self.dense.product(values[:n], other.dense, others[:n])
        high = matrices(self.rotation, values[n:]) @ matrices(other.rotation, others[n:])
        return [*low, (high, values.new_ones(len(high)))]

    @classmethod
    def products(cls, shape: tuple[int, ...], rank: int | None = None, seed: int = 0) -> "CosineDenseProducts":
        return CosineDenseProducts(shape, rank)


class CosineDenseProducts(Products):
    """`x x^T` of the lowest m frequencies of all channels, then `X_f X_f^T` for each frequency above, in one vector.

    Args:
        shape: of one image.
        rank: at most so many dense directions, m the largest with m C of them; below C there are none. None allows
            `RANK`, and takes only as many of them in the end as there are `IMAGES` for each.

    Raises:
        ValueError: a rank below 1, or above the number of values.
    """

    def __init__(self, shape: tuple[int, ...], rank: int | None) -> None:
        super().__init__(CosineDense, shape)
        require_rank(rank, self.shape)
        self.rank, self.transform = rank, CosineTransform(self.shape)
        c, f = self.transform.channels, self.transform.modes
        self.low = (min(RANK, self.dim) if rank is None else rank) // c
        self.pairs = Dense.products((self.low * c,))
        self.blocks = (c, c, f - self.low)
        self.size = (self.pairs.dim**2 + c * c * (f - self.low),)

    def accumulate(self, total: Tensor, x: Tensor, weight: float = 1.0) -> None:
        low, high = split(self.transform, x.unflatten(1, self.shape), self.low)
        dense, blocks = self._parts(total)
        self.pairs.accumulate(dense, low, weight)
        add_blocks(blocks, high, weight)

    def complete(self, total: Tensor) -> Tensor:
        dense, blocks = self._parts(total)
        self.pairs.complete(dense)
        complete_blocks(blocks)
        return total

    def fitted(self, covariance: Tensor, count: int, dtype: torch.dtype) -> tuple[CosineDense, Tensor]:
        """Dense variances, the largest first, then at each frequency above the largest first.

        Raises:
            ValueError: a rank was asked for that is not below the number of images.
        """
        c, m = self.transform.channels, self._supported(count)
        dense, above = self._parts(covariance)
        dense = dense.reshape(c, self.low, c, self.low)
        beside = dense.diagonal(dim1=1, dim2=3)[..., m:]  # frequencies that the images are too few for
        values, rotation = block_eigenpairs(torch.cat([beside, above], -1))
        low, vectors = values[:0], dense.new_empty(0, 0)
        if m:
            low, vectors = eigenpairs(dense[:, :m, :, :m].reshape(c * m, c * m), count)
        basis = CosineDense(self.shape, vectors.to(dtype).contiguous(), rotation.to(dtype).contiguous())
        return basis, torch.cat([low, values])

    def _supported(self, count: int) -> int:
        """The number of low frequencies that the images determine."""
        if self.rank is None:
            return min(self.low, count // (IMAGES * self.transform.channels))
        if self.pairs.dim >= count:
            raise ValueError(
                f"expected more images than the {self.pairs.dim} dense directions of the basis 'cosine+dense', "
                f"received {count}: choose a smaller rank"
            )
        return self.low

    def _parts(self, total: Tensor) -> tuple[Tensor, Tensor]:
        dim = self.pairs.dim
        return total[: dim**2].view(dim, dim), total[dim**2 :].view(self.blocks)


def split(transform: CosineTransform, x: Tensor, low: int) -> tuple[Tensor, Tensor]:
    """The coefficients of the lowest frequencies, flattened, `(B, C low)`, and of the others, `(B, C, F - low)`."""
    ordered = picked(transform.forward(x), low_first(transform.grid, x.device))
    return ordered[:, :, :low].flatten(1), ordered[:, :, low:]


def join(transform: CosineTransform, low: Tensor, high: Tensor) -> Tensor:
    """The images with these coefficients, the inverse of `split`."""
    channels = transform.channels
    ordered = torch.cat([low.unflatten(1, (channels, low.shape[1] // channels)), high], 2)
    return transform.inverse(picked(ordered, low_first(transform.grid, high.device, back=True)))
