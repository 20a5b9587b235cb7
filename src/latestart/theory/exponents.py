"""The leading local exponent along samples' own paths: where neighbours on a typical path begin to separate.

Near a path of the reverse SDE, the difference of two neighbours in x_t = alpha y grows under falling noise by the
Jacobian `J = dD/dy` at the path,

    d log|difference| / d(-log sigma) = 2 (lambda - c),    lambda the leading eigenvalue (largest real part) of J,

with c = 1 under `density` (a variance exploding process) and `(1 + alpha_bar) / 2` under `sde` (a variance preserving
one). Unlike the stability of one central point it needs no symmetry of the data: its mean over samples crosses 0 at the
level at which a typical path meets its first decision. The exponent is a local, finite-time Lyapunov exponent; lambda
is that of a symmetric J, and for a network, whose J is not quite symmetric, the largest real part.

On N(0, v I) with v > 2 it is the same on every path, and under `sde` crosses 0 at `sigma^2 = v - 2`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.denoisers.base import Denoiser
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.branches import Criterion, constant
from latestart.theory.cloning import paths as reverse_paths
from latestart.theory.jacobian import Method, leading_eigenvalue
from latestart.theory.levels import CriticalLevel, Curve

__all__ = ["Exponents", "exponents", "exponents_curve", "path_exponents"]


@dataclass(frozen=True, eq=False, repr=False)
class Exponents(Record):
    """Leading local exponents along sample paths.

    Attributes:
        sigma: `(n,)`, the levels, falling.
        leading: `(n, B)`, lambda at each sample.
        criterion: "density" or "sde".
    """

    sigma: np.ndarray
    leading: np.ndarray
    criterion: Criterion

    def under(self, criterion: Criterion) -> "Exponents":
        """The same eigenvalues held against the c of another criterion."""
        return replace(self, criterion=criterion)

    @property
    def ratio(self) -> np.ndarray:
        """`(n, B)`, lambda / c."""
        return self.leading / self._c

    @property
    def values(self) -> np.ndarray:
        """`(n, B)`, `2 (lambda - c)`: how fast neighbours of the sample separate, in units of 1 / (-log sigma)."""
        return 2 * (self.leading - self._c)

    @property
    def mean(self) -> np.ndarray:
        """`(n,)`, over the samples."""
        return self.values.mean(1)

    @property
    def spread(self) -> np.ndarray:
        """`(n,)`, standard deviation over the samples; 0 for a single one."""
        return self.values.std(1, ddof=min(1, self.values.shape[1] - 1))

    def curve(self) -> Curve:
        """The mean over samples with its error; its level is where it crosses 0.

        Raises:
            ValueError: fewer than two samples.
        """
        how = "mean leading exponent 2 (lambda - c) along paths of the reverse SDE"
        samples = torch.from_numpy(self.values.T.copy())
        return Curve(torch.from_numpy(self.sigma), samples, f"{self.criterion}, along paths", how, threshold=0.0)

    @property
    def _c(self) -> np.ndarray:
        return np.array([constant(self.criterion, sigma) for sigma in self.sigma])[:, None]


def exponents(
    denoiser: Denoiser, noise: Noise | None = None, criterion: Criterion = "sde", **options: Any
) -> CriticalLevel:
    """The level at which the mean leading exponent along sample paths crosses 0, from below, under falling noise.

    Args:
        noise: gives the level its time t.
        criterion: "density" or "sde", which says c.
        options: those of `exponents_curve`.

    Raises:
        ValueError: the mean does not cross 0, as on data of one narrow Gaussian.
    """
    return exponents_curve(denoiser, criterion, **options).level(noise)


def exponents_curve(
    denoiser: Denoiser,
    criterion: Criterion = "sde",
    *,
    n: int = 32,
    symmetric: bool | None = None,
    method: Method = "auto",
    **grid: Any,
) -> Curve:
    """The leading exponent along paths of the denoiser's own reverse SDE, from pure noise.

    Args:
        n: number of paths.
        symmetric, method: see `Follower`.
        grid: `sigmas`, `refine` and `seed`, see `cloning.paths`.

    Raises:
        ValueError: fewer than 10 paths, levels outside of the denoiser's, or a denoiser that returns NaN.
    """
    levels, states = reverse_paths(denoiser, n=n, **grid)
    return path_exponents(denoiser, states[:-1], levels[:-1], criterion, symmetric=symmetric, method=method).curve()


def path_exponents(
    denoiser: Denoiser,
    paths: Tensor,
    sigmas: Sequence[float] | Tensor,
    criterion: Criterion = "sde",
    *,
    symmetric: bool | None = None,
    method: Method = "auto",
) -> Exponents:
    """The leading local exponent of the reverse SDE along given paths.

    Args:
        paths: `(n, B, *shape)`, the samples y at each of n levels.
        sigmas: `(n,)`, those levels.
        symmetric, method: see `Follower`.

    Raises:
        ValueError: paths and levels that do not belong together.
    """
    levels = [float(sigma) for sigma in sigmas]
    if len(paths) != len(levels) or not len(levels) or tuple(paths.shape[2:]) != tuple(denoiser.shape):
        raise ValueError(
            f"expected paths of shape (n, B, {', '.join(map(str, denoiser.shape))}) at n levels, received "
            f"{tuple(paths.shape)} at {len(levels)}"
        )
    leading = [
        [leading_eigenvalue(denoiser, y, sigma, symmetric=symmetric, method=method).leading for y in samples]
        for samples, sigma in zip(paths, levels)
    ]
    return Exponents(np.array(levels), np.array(leading), criterion)
