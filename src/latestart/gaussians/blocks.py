"""One C x C block for each frequency: the small algebra under the spectral bases.

Coefficients are x `(B, C, F)`, blocks and their rotations `(C, C, F)`; for each frequency f

    S_cd = sum_b x_c conj(x_d),      S = V diag(l) V^H,      z = V^H x,      x = V z

and complex blocks are stored as `(2, C, C, F)`, real and imaginary part. All is elementwise over frequencies: for the
few channels of an image that is tens of times faster than a batch of tiny matrix products.
"""

import torch
from torch import Tensor

from latestart.gaussians.transforms import Transform

__all__ = [
    "add_blocks", "as_numbers", "as_parts", "at_least_single", "block_eigenpairs", "block_size", "complete_blocks",
    "matrices", "rotate", "rotate_back", "squared",
]  # fmt: skip


def block_size(transform: Transform) -> tuple[int, ...]:
    """Shape of the tensor of real numbers that holds a C x C block for each frequency."""
    c = transform.channels
    return (2, c, c, transform.modes) if transform.is_complex else (c, c, transform.modes)


def rotate(x: Tensor, v: Tensor) -> Tensor:
    """`z_j = sum_c conj(v_cj) x_c` at each frequency: x `(B, C, F)`, v `(C, C, F)`.

    Elementwise over frequencies: for few channels many times faster than a batch of tiny matrix products. A single
    channel has nothing to rotate, for its sign or phase cancels in `rotate_back`.
    """
    return x if x.shape[1] == 1 else _combined(x, v.conj().resolve_conj())


def rotate_back(z: Tensor, v: Tensor) -> Tensor:
    """`x_c = sum_j v_cj z_j`, the inverse of `rotate`."""
    return z if z.shape[1] == 1 else _combined(z, v.transpose(0, 1))


def _combined(x: Tensor, v: Tensor) -> Tensor:
    combined = x[:, :1] * v[0]
    for i in range(1, x.shape[1]):
        combined = combined.addcmul(x[:, i : i + 1], v[i])
    return combined


def matrices(v: Tensor, values: Tensor) -> Tensor:
    """`V diag(values) V^H` at each frequency, `(F, C, C)`, from rotations `(C, C, F)` and values `(C F,)`."""
    v = v.to(torch.promote_types(v.dtype, torch.float64)).movedim(-1, 0)
    return v * values.unflatten(0, (v.shape[1], len(v))).T[:, None, :] @ v.mH


def add_blocks(total: Tensor, x: Tensor, weight: float) -> None:
    """Add `weight * sum_b x_c conj(x_d)`, x `(B, C, F)`, to total `(..., C, C, F)`, for d from the diagonal up."""
    for i in range(x.shape[1]):
        row = (x[:, i : i + 1] * x[:, i:].conj()).sum(0)
        total[..., i, i:, :].add_(as_parts(row), alpha=weight)


def complete_blocks(total: Tensor, sign: float = 1.0) -> Tensor:
    """Fill in, in place, the lower triangles of total `(C, C, ...)`, `sign` times the upper ones."""
    for i in range(len(total)):
        total[i + 1 :, i] = sign * total[i, i + 1 :]
    return total


def block_eigenpairs(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Variances `(C F,)` and directions `(C, C, F)` of Hermitian blocks `(C, C, F)`, the largest of each block first.

    Those below `C F eps` times the largest of all are exactly zero, as for one matrix of all blocks.
    """
    values, vectors = torch.linalg.eigh(blocks.movedim(-1, 0))
    values, vectors = values.flip(-1).T, vectors.flip(-1).movedim(0, -1)
    largest = values.max() if values.numel() else 0.0
    values = values.where(values > values.numel() * torch.finfo(torch.float64).eps * largest, 0.0)
    return values.flatten(), vectors


def as_parts(x: Tensor) -> Tensor:
    """Complex numbers as real and imaginary part, `(2, ...)`; real ones as they are."""
    return torch.stack([x.real, x.imag]) if x.is_complex() else x


def as_numbers(stored: Tensor) -> Tensor:
    """The inverse of `as_parts`. A copy where complex, for pairs read from a file may not be aligned for it."""
    return torch.complex(stored[0], stored[1]) if stored.ndim == 4 else stored


def squared(x: Tensor) -> Tensor:
    return x.real.square() + x.imag.square() if x.is_complex() else x.square()


def at_least_single(x: Tensor) -> Tensor:
    """x in a dtype that has Fourier transforms on every device."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
