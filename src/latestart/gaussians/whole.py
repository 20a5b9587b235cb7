"""The Gaussian of a whole mixture: its mean, and its covariance within and between the components.

    m = sum_k w_k m_k,      C = sum_k w_k (C_k + (m_k - m)(m_k - m)^T)

Of small images the covariance is built and is dense. Of large ones its leading directions are found by subspace
iteration with a random start: X becomes the orthonormal columns of `C X`, a few times, and the variances are those of
`X^T C X`; one variance takes the rest of the trace. `C X` needs nothing but the components' own products.

Source: Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 2011, algorithm 4.4.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.gaussians.basis import Dense, eigenpairs
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.lowrank import OVERSAMPLING, RANK, LowRank

__all__ = ["DENSE", "whole"]

DENSE = 1024  # values of an image up to which the covariance is built
ITERATIONS = 3


def whole(components: Sequence[Gaussian], weights: Tensor, dense: int = DENSE, rank: int = RANK) -> Gaussian:
    """Return the Gaussian with the mean and the covariance of a mixture.

    Args:
        components: of the mixture.
        weights: `(K,)`, float64, with the sum 1.
        dense: the number of values of an image up to which all of its covariance is kept.
        rank: number of leading directions above that.
    """
    first, shape = components[0], components[0].shape
    if len(components) == 1:
        return first
    means = torch.stack([component.mean.double().flatten() for component in components])
    mean = weights @ means
    apart = (means - mean) * weights.sqrt()[:, None]  # (K, D), whose products sum to the covariance between
    count = [component.count for component in components]
    known = None if None in count else sum(n for n in count if n is not None)
    dim = first.basis.dim

    def product(rows: Tensor) -> Tensor:
        images = rows.unflatten(1, shape)
        within = sum(w * c.basis.scale(images, c.variances).flatten(1) for w, c in zip(weights, components))
        return torch.as_tensor(within) + rows @ apart.T @ apart

    if dim <= dense:
        covariance = product(torch.eye(dim, dtype=torch.float64, device=first.device))
        values, vectors = eigenpairs((covariance + covariance.T) / 2, dim + 1)
        basis: Dense | LowRank = Dense(shape, vectors.to(first.dtype).contiguous())
        return Gaussian(mean.to(first.dtype).reshape(shape), basis, values, known)
    rank = min(rank, dim)
    rows = torch.randn(min(OVERSAMPLING * rank, dim), dim, generator=seeded(0)).to(first.device)
    for _ in range(ITERATIONS):
        rows = torch.linalg.qr(product(rows.double()).T.float()).Q.T
    rows = torch.linalg.qr(rows.T.double()).Q.T
    values, turn = torch.linalg.eigh(product(rows) @ rows.T)
    values, vectors = values.flip(0)[:rank].clamp(min=0), (rows.T @ turn.flip(1))[:, :rank]
    trace = sum(w * (c.basis.multiplicity.to(c.variances) @ c.variances) for w, c in zip(weights, components))
    left = (torch.as_tensor(trace) + apart.square().sum() - values.sum()).clamp(min=0)
    rest = [left / (dim - rank)] if rank < dim else []
    variances = torch.cat([values, *(one.reshape(1) for one in rest)])
    return Gaussian(mean.to(first.dtype).reshape(shape), LowRank(shape, vectors.to(first.dtype)), variances, known)
