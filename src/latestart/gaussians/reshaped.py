"""A Gaussian whose white noise is changed along its leading eigenvectors: the box, and any other change.

For `N(m, C)` noised to the level sigma, and r of its eigenvectors, the columns of V, along which its noised covariance
`S = C + sigma^2 I` has the variances `l + sigma^2`,

    y = m + S^(1/2) (z + V (w - u)),     u = V^T z white,     w = f_sigma(u)

    log q(y) = log N(y; m, S) + log p_f(w) - log N(w; 0, I)

    box     f(u) = sqrt(3) (2 Phi(u) - 1)    each w_i uniform over [-sqrt 3, sqrt 3]: with r = D, y is uniform over the
                                             box along the principal axes that has the mean and the covariance of the
                                             noised data
    flow    `gaussians/flow.py`
"""

import math
from typing import Protocol, Self

import torch
from torch import Tensor

from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.prior import Around

__all__ = ["Box", "Change", "Reshaped", "leading", "whitened"]


class Change(Protocol):
    """A map of white noise along some directions, for each level."""

    def __call__(self, u: Tensor, sigma: float) -> Tensor:
        """`w = f_sigma(u)`, `(B, r)`, for white u `(B, r)`."""
        ...

    def log_prob(self, w: Tensor, sigma: float) -> Tensor:
        """The log-density of w `(B, r)` in nats, `(B,)`."""
        ...

    def to(self, device: torch.device | str | None = None) -> Self:
        """This map on another device."""
        ...


class Box:
    """The map of white noise to uniform numbers of the same mean and variance."""

    def __call__(self, u: Tensor, sigma: float) -> Tensor:
        """`sqrt(3) (2 Phi(u) - 1)`, in the shape of u, at any level."""
        return math.sqrt(3) * (2 * torch.special.ndtr(u) - 1)

    def log_prob(self, w: Tensor, sigma: float) -> Tensor:
        """`-r log(2 sqrt 3)` within the box, else minus infinity, `(B,)`."""
        inside = (w.abs() <= math.sqrt(3)).all(1)
        return torch.where(inside, -w.shape[1] * math.log(2 * math.sqrt(3)), -math.inf)

    def to(self, device: torch.device | str | None = None) -> "Box":
        """This map, which is the same on every device."""
        return self


class Reshaped(Around):
    """A Gaussian whose white noise is changed along its leading eigenvectors; see the module's docstring.

    Args:
        gaussian: of clean images, with a dense or a low-rank basis, whose first columns are the leading eigenvectors.
        change: map of the noise along them.
        directions: number of them; by default all that the basis has.
        sigma: the level of this distribution.

    Raises:
        ValueError: a basis without eigenvectors, or with fewer than `directions`.
    """

    def __init__(self, gaussian: Gaussian, change: Change, directions: int | None = None, sigma: float = 0.0) -> None:
        self.vectors, self.variances = leading(gaussian, directions)
        self.gaussian, self.change, self.directions, self.sigma = gaussian, change, directions, sigma
        self._noised, self.centre = gaussian.noised(sigma), gaussian.mean

    def noised(self, sigma: float) -> "Reshaped":
        """Return the distribution at a level higher by the noise sigma: remade for it, not this one convolved."""
        return Reshaped(self.gaussian, self.change, self.directions, math.hypot(self.sigma, sigma))

    def push(self, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Carry white noise z `(B, *shape)` to samples, whatever the labels."""
        u = z.flatten(1) @ self.vectors.to(z)
        w = self.change(u, self.sigma)
        return self._noised.push(z + ((w - u) @ self.vectors.T.to(z)).reshape(z.shape))

    def log_prob(self, y: Tensor) -> Tensor:
        """Log-density of y `(B, *shape)` in nats, float64 `(B,)`.

        Raises:
            ValueError: the level is 0 and the Gaussian has no density there.
        """
        w = whitened((y - self.gaussian.mean).flatten(1), self.vectors, self.variances + self.sigma**2)
        white = -0.5 * (w.double().square() + math.log(2 * math.pi)).sum(1)
        return self._noised.log_prob(y) + self.change.log_prob(w, self.sigma).double() - white

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Reshaped":
        """This distribution on another device, or with its Gaussian in another precision."""
        return Reshaped(self.gaussian.to(device, dtype), self.change.to(device), self.directions, self.sigma)


def leading(gaussian: Gaussian, directions: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the leading eigenvectors of a Gaussian's covariance `(D, r)`, and their variances, float64 `(r,)`.

    Raises:
        ValueError: its basis has none, or fewer than `directions`.
    """
    if not isinstance(gaussian.basis, Dense | LowRank):
        raise ValueError(
            f"expected a Gaussian whose leading eigenvectors are known, dense or lowrank, received {gaussian}"
        )
    vectors = gaussian.basis.vectors
    count = vectors.shape[1] if directions is None else directions
    if not 1 <= count <= vectors.shape[1]:
        raise ValueError(f"expected 1 to {vectors.shape[1]} eigenvectors of {gaussian}, received {count}")
    return vectors[:, :count], gaussian.variances[:count]


def whitened(rows: Tensor, vectors: Tensor, variances: Tensor) -> Tensor:
    """Return centred rows `(B, D)` along eigenvectors `(D, r)`, each over the root of its variance, `(B, r)`."""
    return rows @ vectors.to(rows) / variances.sqrt().to(rows)
