"""Covariances that a transform of space makes small: one channel block for each frequency, or for all of them.

Statistics that are the same everywhere in the image are (nearly) independent between frequencies. With `X_f` the C
channels' coefficients of x at the frequency f (`latestart.gaussians.transforms`), the model is

    Cov[X_f] = V_f diag(l_f) V_f^H,      Cov[X_f, X_g] = 0 for f != g

    fourier    periodic boundary: the average of the covariance over all cyclic shifts of the image; a frequency and
               its mirror share their variances
    cosine     mirrored boundary: no seam between opposite edges
    channel    one block for all positions, `V diag(l) V^T` at each pixel: the cheapest

Each takes its blocks from the sample covariance. So it is the nearest of its kind to it, in squared error and in
`KL(sample || model)`, and keeps the total variance. Blocks are C x C: D values take O(D C) memory, and of images only
`X_f X_f^H` is summed. The mean image is no part of a basis: the Gaussian keeps it whole in all of them.
"""

from typing import ClassVar

import torch
from torch import Tensor

from latestart.gaussians.basis import Basis, Blocks, Products, checked
from latestart.gaussians.blocks import (
    add_blocks,
    as_numbers,
    as_parts,
    at_least_single,
    block_eigenpairs,
    block_size,
    complete_blocks,
    matrices,
    rotate,
    rotate_back,
    squared,
)
from latestart.gaussians.transforms import CosineTransform, FourierTransform, Transform, channels_and_grid

__all__ = ["Channel", "Cosine", "Fourier"]


class ChannelBlocks(Products):
    """`X_f X_f^H` for each frequency f, `(C, C, F)`, or `(2, C, C, F)`, real and imaginary, where complex."""

    kind: type["Spectral"]

    def __init__(self, kind: type["Spectral"], shape: tuple[int, ...]) -> None:
        super().__init__(kind, shape)
        self.transform = kind.transforms(self.shape)
        self.size = block_size(self.transform)

    def accumulate(self, total: Tensor, x: Tensor, weight: float = 1.0) -> None:
        add_blocks(total, self.transform.forward(x.unflatten(1, self.shape)), weight)

    def complete(self, total: Tensor) -> Tensor:
        if self.transform.is_complex:
            complete_blocks(total[1], -1.0)
            total[1, ..., self.transform.multiplicity == 1] = 0.0  # its own mirror, so real but for rounding
        complete_blocks(total[0] if self.transform.is_complex else total)
        return total

    def fitted(self, covariance: Tensor, count: int, dtype: torch.dtype) -> tuple[Basis, Tensor]:
        """At each frequency the largest variance first; those that are rounding alone are exactly zero."""
        values, vectors = block_eigenpairs(as_numbers(covariance))
        return self.kind(self.shape, as_parts(vectors).to(dtype).contiguous()), values


class Spectral(Basis):
    """A rotation of the channels for each frequency; the variances are `(C, F)`, flattened, F in the transform's order.

    Args:
        shape: of one image, channels first; a shape with one axis is one channel.
        rotation: `(C, C, F)`: component, direction, frequency; `(2, C, C, F)`, real and imaginary, where complex.
    """

    parts = ("rotation",)
    sums = ChannelBlocks
    transforms: ClassVar[type[Transform]]

    def __init__(self, shape: tuple[int, ...], rotation: Tensor) -> None:
        super().__init__(shape)
        self.transform = self.transforms(self.shape)
        self.rotation = checked(self, "rotation", rotation, block_size(self.transform))

    @property
    def multiplicity(self) -> Tensor:
        return self.transform.multiplicity.repeat(self.transform.channels)

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients `(B, C, F)`, each frequency's channels rotated; complex where the transform is."""
        wide = at_least_single(x)
        return rotate(self.transform.forward(wide), self._unitary(wide))

    def inverse(self, c: Tensor) -> Tensor:
        return self.transform.inverse(rotate_back(c, self._unitary(c.real)))

    def spread(self, values: Tensor) -> Tensor:
        return values.unflatten(-1, (self.transform.channels, self.transform.modes))

    def energies(self, x: Tensor) -> Tensor:
        c = self.forward(x)
        return squared(c).flatten(1) * self.multiplicity.to(c.real)

    def product(self, values: Tensor, other: Basis, others: Tensor) -> Blocks:
        if type(self) is not type(other) or self.shape != other.shape:
            return super().product(values, other, others)
        mine, theirs = matrices(as_numbers(self.rotation), values), matrices(as_numbers(other.rotation), others)
        return [(mine @ theirs, self.transform.multiplicity.to(values))]

    def _unitary(self, x: Tensor) -> Tensor:
        return as_numbers(self.rotation.to(x.dtype))


class Fourier(Spectral):
    """Stationary statistics with periodic boundary: about D / 2 variances, most of them for two directions each."""

    name = "fourier"
    transforms = FourierTransform


class Cosine(Spectral):
    """Stationary statistics with mirrored boundary: D variances."""

    name = "cosine"
    transforms = CosineTransform


class ChannelProducts(Products):
    """`X_n X_n^T` of the channels at a position n, the mean over all positions: `(C, C)`."""

    def __init__(self, kind: type[Basis], shape: tuple[int, ...]) -> None:
        super().__init__(kind, shape)
        self.channels, _ = channels_and_grid(self.shape)
        self.size = (self.channels, self.channels)

    def accumulate(self, total: Tensor, x: Tensor, weight: float = 1.0) -> None:
        """Summed over the images first, in their dtype, then over positions in float64."""
        x = x.reshape(len(x), self.channels, -1)
        for i in range(self.channels):
            total[i, i:].add_((x[:, i : i + 1] * x[:, i:]).sum(0).double().mean(-1), alpha=weight)

    def complete(self, total: Tensor) -> Tensor:
        return complete_blocks(total)

    def fitted(self, covariance: Tensor, count: int, dtype: torch.dtype) -> tuple[Basis, Tensor]:
        values, vectors = block_eigenpairs(covariance.unsqueeze(-1))
        return Channel(self.shape, vectors.squeeze(-1).to(dtype)), values


class Channel(Basis):
    """One rotation of the channels for all positions: C variances, each repeated at every position.

    Args:
        shape: of one image, channels first; a shape with one axis is one channel.
        rotation: `(C, C)`: component, direction.
    """

    name = "channel"
    parts = ("rotation",)
    sums = ChannelProducts

    def __init__(self, shape: tuple[int, ...], rotation: Tensor) -> None:
        super().__init__(shape)
        self.channels, _ = channels_and_grid(self.shape)
        self.rotation = checked(self, "rotation", rotation, (self.channels, self.channels))

    @property
    def multiplicity(self) -> Tensor:
        return torch.full((self.channels,), self.dim / self.channels, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        """The rotated channels at each position, `(B, C, D / C)`."""
        return rotate(x.reshape(len(x), self.channels, -1), self.rotation.to(x.dtype).unsqueeze(-1))

    def inverse(self, c: Tensor) -> Tensor:
        return rotate_back(c, self.rotation.to(c.dtype).unsqueeze(-1)).reshape(-1, *self.shape)

    def spread(self, values: Tensor) -> Tensor:
        return values.unsqueeze(-1)

    def energies(self, x: Tensor) -> Tensor:
        return self.forward(x).square().sum(-1)

    def translate(self, values: Tensor, onto: Basis) -> Tensor | None:
        """The variances in the layout of `onto`: with one channel they are isotropic, diagonal in every basis."""
        if self.channels == 1:
            return values.expand(len(onto.multiplicity))
        return super().translate(values, onto)
