"""Orthonormal transforms of the spatial axes of an image: the Fourier transform of real images, and the cosine one.

The first axis of an image's shape is its channels, and all others are space; a shape with one axis is one channel.
With `N` positions `n` in the box `(N_1, N_2, ...)`, each channel of x becomes

    Fourier   X_f = N^(-1/2) sum_n x_n exp(-2 pi i (f_1 n_1 / N_1 + f_2 n_2 / N_2 + ...))
    cosine    X_f = sum_n x_n prod_a c(f_a) cos(pi f_a (2 n_a + 1) / (2 N_a)),   c(0) = N_a^(-1/2), else (2 / N_a)^(1/2)

(the cosine one is the DCT-II). The Fourier coefficients of a real image at f and at -f are conjugate: one of each such
pair is kept, and counts twice, so that `|x|^2 = sum_f multiplicity_f |X_f|^2`. Where f = -f it is real and counts once.

Cosines of axes up to `MATRIX` long are multiplied as matrices; longer ones come from a Fourier transform of the axis
with its even entries first and its odd ones after them, backwards (Makhoul, 1980).
"""

from abc import ABC, abstractmethod
from functools import lru_cache
from math import pi, prod
from typing import ClassVar

import torch
from torch import Tensor

__all__ = ["CosineTransform", "FourierTransform", "Transform", "channels_and_grid", "low_first", "picked"]

CPU = torch.device("cpu")
MATRIX = 192  # measured on one core: below this length a product with the cosine matrix is faster than a Fourier one


def channels_and_grid(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The number of channels of an image of this shape, and the sizes of its spatial axes."""
    return (shape[0], shape[1:]) if len(shape) > 1 else (1, shape)


class Transform(ABC):
    """An orthonormal transform of images of one shape, channel by channel.

    Attributes:
        channels: number C of channels.
        grid: sizes of the spatial axes.
        modes: number F of frequencies kept.
        multiplicity: how often each frequency counts, float64 `(F,)`.
        is_complex: whether coefficients are complex numbers.
    """

    is_complex: ClassVar[bool]
    modes: int
    multiplicity: Tensor

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = tuple(shape)
        self.channels, self.grid = channels_and_grid(self.shape)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Coefficients `(B, C, F)` of images x `(B, *shape)`."""

    @abstractmethod
    def inverse(self, coefficients: Tensor) -> Tensor:
        """The images `(B, *shape)` that have these coefficients `(B, C, F)`."""

    def _channelled(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self.channels, *self.grid)


class FourierTransform(Transform):
    """Coefficients of real images, complex, one of each conjugate pair.

    They come in the order of `torch.fft.rfftn`; of a pair within its half plane the first is kept.
    """

    is_complex = True

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        plane = half_plane(self.grid)
        self.modes, self.multiplicity = len(plane.kept), plane.multiplicity

    def forward(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, 2 + len(self.grid)))
        half = torch.fft.rfftn(self._channelled(x), dim=axes, norm="ortho")
        return picked(half.flatten(2), half_plane(self.grid, x.device).kept)

    def inverse(self, coefficients: Tensor) -> Tensor:
        plane = half_plane(self.grid, coefficients.device)
        half = picked(coefficients, plane.source)
        half[:, :, plane.left_out] = half[:, :, plane.left_out].conj().resolve_conj()
        axes = tuple(range(2, 2 + len(self.grid)))
        x = torch.fft.irfftn(half.unflatten(2, plane.size), s=self.grid, dim=axes, norm="ortho")
        return x.reshape(len(x), *self.shape)


class HalfPlane:
    """Indices of the coefficients of `rfftn` that are kept, and of the mirrors of the others.

    Attributes:
        size: of the half plane.
        kept: flat indices in it, `(F,)`, of one coefficient of each conjugate pair.
        left_out: flat indices of the others, which are conjugates of kept ones.
        source: for each place in the half plane, which of the kept coefficients it has, or has the conjugate of.
        multiplicity: 2 for a pair, 1 for a frequency that is its own mirror, float64 `(F,)`.
    """

    def __init__(self, grid: tuple[int, ...], device: torch.device = CPU) -> None:
        self.size = (*grid[:-1], grid[-1] // 2 + 1)
        flat = torch.arange(prod(grid)).reshape(grid)
        axes = tuple(range(len(grid)))
        mirror = flat.flip(axes).roll((1,) * len(grid), axes)  # of each frequency, the place of its negative
        first = (flat <= mirror)[..., : self.size[-1]].flatten()
        # a negative beyond the half plane is no second copy in it
        inside = (mirror % grid[-1] < self.size[-1])[..., : self.size[-1]].flatten()
        keep = first | ~inside
        own, other = flat[..., : self.size[-1]].flatten(), mirror[..., : self.size[-1]].flatten()
        position = torch.zeros(prod(grid), dtype=torch.long)
        position[own[keep]] = torch.arange(int(keep.sum()))
        self.kept, self.left_out = (mask.nonzero().flatten().to(device) for mask in (keep, ~keep))
        self.source = position[torch.where(keep, own, other)].to(device)
        self.multiplicity = torch.where(own == other, 1.0, 2.0)[keep].double().to(device)


half_plane = lru_cache(maxsize=16)(HalfPlane)  # computed once for each grid and device


class CosineTransform(Transform):
    """DCT-II coefficients, real, in the order of the grid."""

    is_complex = False

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape)
        self.modes = prod(self.grid)
        self.multiplicity = torch.ones(self.modes, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        x = self._channelled(x)
        for _ in self.grid:  # each turn transforms the last axis and brings the one before it to its place
            x = cosines(x).movedim(-1, 2).contiguous()
        return x.flatten(2)

    def inverse(self, coefficients: Tensor) -> Tensor:
        x = coefficients.unflatten(2, self.grid)
        for _ in self.grid:
            x = from_cosines(x).movedim(-1, 2).contiguous()
        return x.reshape(len(x), *self.shape)


def picked(x: Tensor, index: Tensor) -> Tensor:
    """`x[:, :, index]`, over rows, where picking columns is up to twenty times faster than along a third axis."""
    return x.flatten(0, 1).index_select(1, index).unflatten(0, x.shape[:2])


def cosines(x: Tensor) -> Tensor:
    """Orthonormal DCT-II of the last axis."""
    n = x.shape[-1]
    return x @ cosine_matrix(n, x.dtype, x.device).T if n <= MATRIX else _cosines_by_fourier(x)


def from_cosines(coefficients: Tensor) -> Tensor:
    """The inverse of `cosines`."""
    n = coefficients.shape[-1]
    if n <= MATRIX:
        return coefficients @ cosine_matrix(n, coefficients.dtype, coefficients.device)
    return _from_cosines_by_fourier(coefficients)


@lru_cache(maxsize=32)
def cosine_matrix(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The orthonormal DCT-II as a matrix `(n, n)`, one row for each frequency."""
    f, x = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    matrix = torch.cos(pi / (2 * n) * (f * (2 * x + 1) % (4 * n))) * (2 / n) ** 0.5
    matrix[0] = n**-0.5
    return matrix.to(device, dtype)


def _cosines_by_fourier(x: Tensor) -> Tensor:
    """`X_f = Re(w_f V_f)` and `X_(n-f) = -Im(w_f V_f)`, V the Fourier transform of the reordered axis."""
    n = x.shape[-1]
    turned = torch.fft.rfft(torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], -1), norm="ortho")
    turned = turned * _quarter_turns(n, turned.dtype, x.device)
    return torch.cat([turned.real, -turned.imag[..., 1 : (n + 1) // 2].flip(-1)], -1)


def _from_cosines_by_fourier(coefficients: Tensor) -> Tensor:
    n = coefficients.shape[-1]
    half = n // 2 + 1
    mirrored = torch.cat([torch.zeros_like(coefficients[..., :1]), coefficients[..., n - half + 1 :].flip(-1)], -1)
    turned = torch.complex(coefficients[..., :half], -mirrored)
    reordered = torch.fft.irfft(turned / _quarter_turns(n, turned.dtype, turned.device), n, norm="ortho")
    x = torch.empty_like(reordered)
    x[..., ::2], x[..., 1::2] = reordered[..., : (n + 1) // 2], reordered[..., (n + 1) // 2 :].flip(-1)
    return x


@lru_cache(maxsize=32)
def _quarter_turns(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """`exp(-i pi f / 2n)` with the factor that makes the cosines orthonormal, for f up to n / 2."""
    angle = -pi / (2 * n) * torch.arange(n // 2 + 1, dtype=torch.float64)
    length = torch.full_like(angle, 2**0.5)
    length[0] = 1.0
    return torch.polar(length, angle).to(device, dtype)


@lru_cache(maxsize=16)
def low_first(grid: tuple[int, ...], device: torch.device = CPU, back: bool = False) -> Tensor:
    """The frequencies of a cosine transform by `sum_a (f_a / N_a)^2`, lowest first, in grid order where equal.

    In whole numbers, so that the order is the same on every machine. With `back`, the inverse permutation.
    """
    total = prod(grid)
    axes = torch.meshgrid(*(torch.arange(n) * (total // n) for n in grid), indexing="ij")
    order = torch.stack([axis.square() for axis in axes]).sum(0).flatten().argsort(stable=True)
    return (order.argsort() if back else order).to(device)
