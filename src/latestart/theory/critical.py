"""Critical levels: the noise levels at which a generative process decides, each by its own criterion.

| function         | what happens at the level, under falling noise                                          |
|------------------|------------------------------------------------------------------------------------------|
| `density`, `sde` | the central fixed point of `D(y, sigma) = c y` loses its stability                        |
| `exponents`      | neighbours on sample paths begin to separate, on average                                  |
| `speciation`     | `alpha_bar = 1 / L`: the signal of the covariance's top eigenvalue L meets unit noise     |
| `two_gaussians`  | two clones agree on their cluster with probability 0.775; exact                           |
| `clone`          | the same, by sampling: paths shared down to the level, independent below it               |
| `uturn`          | an image noised to the level and denoised again keeps its class half-way                  |
| `susceptibility` | a small push in x_t moves the final sample most                                           |
| `correlation`    | the state is correlated with the final sample by one half                                 |
| `pixels`         | the same in normalised pixels, on average over those that vary                           |
| `collapse`       | a sample becomes nearer to one training point than to all others together                 |
| `random_energy`  | the same for n points of an isotropic Gaussian, in closed form                            |

Each returns a `CriticalLevel`; `stability`, `exponents`, `cloning` and `collapse` have their mathematics. Speciation is
that of Biroli, Bonnaire, de Bortoli and Mezard 2024 (arXiv 2402.18491), `t_S = 1/2 ln L` in their time; `sde` is that
of Raya and Ambrogioni 2023.
"""

import math
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from latestart.checks import seeded
from latestart.denoisers.base import Denoiser
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.theory import cloning
from latestart.theory.cloning import *  # noqa: F403
from latestart.theory.collapse import collapse, collapse_curve, random_energy
from latestart.theory.exponents import exponents, exponents_curve, path_exponents
from latestart.theory.jacobian import largest
from latestart.theory.levels import CriticalLevel, central, enough
from latestart.theory.stability import crossing, second_branch

__all__ = [
    *cloning.__all__,
    "collapse",
    "collapse_curve",
    "density",
    "exponents",
    "exponents_curve",
    "path_exponents",
    "random_energy",
    "sde",
    "second_branch",
    "speciation",
]

_DENSE = 64  # dimensions up to which a covariance is diagonalised whole
_SPECTRA = 50  # bootstrap replicates of a top eigenvalue


def density(denoiser: Denoiser, noise: Noise | None = None, **options: Any) -> CriticalLevel:
    """The level at which the central mode of the noised density splits: `lambda = 1` there.

    `options` are those of `stability.crossing`, which says what is raised where nothing crosses.
    """
    return crossing(denoiser, "density", noise, **options)


def sde(denoiser: Denoiser, noise: Noise | None = None, **options: Any) -> CriticalLevel:
    """The level at which the VP reverse SDE's central fixed point splits: `lambda = (1 + alpha_bar) / 2` there.

    `options` are those of `stability.crossing`, which says what is raised where nothing crosses.
    """
    return crossing(denoiser, "sde", noise, **options)


def speciation(data: Gaussian | Tensor, noise: Noise | None = None, seed: int = 0) -> CriticalLevel:
    """Speciation: `alpha_bar = 1 / L`, with L the top eigenvalue of the data's covariance.

    Args:
        data: a `Gaussian`; a covariance, symmetric `(D, D)`; or images `(n, *shape)`, whose level comes with a
            bootstrap interval.
        noise: gives the level its time t.
        seed: of the bootstrap.

    Raises:
        ValueError: `L <= 1`, so that no level solves it; fewer than 10 images; values that are not finite.
    """
    if isinstance(data, Gaussian):
        return _speciation(data.variances.max().item(), "top eigenvalue of the Gaussian", noise)
    if not data.isfinite().all():
        raise ValueError("speciation needs finite values, received some that are NaN or infinite")
    if _symmetric(data):
        return _speciation(torch.linalg.eigvalsh(data.double())[-1].item(), "top eigenvalue of the covariance", noise)
    rows = enough(data, "speciation").flatten(1)
    value, replicates = _top_eigenvalues(rows, seed)
    ends = tuple(math.sqrt(max(top - 1, 0)) for top in central(replicates, value))
    how = f"top eigenvalue of the covariance of {len(rows)} images, bootstrap over images"
    return _speciation(value, how, noise, (ends[0], ends[1]))


def _speciation(
    top: float, how: str, noise: Noise | None, interval: tuple[float, float] | None = None
) -> CriticalLevel:
    if top <= 1:
        raise ValueError(
            f"the top eigenvalue of the covariance is L = {top:.6g}; alpha_bar = 1 / L has a level for L > 1 only"
        )
    return CriticalLevel.from_alpha_bar(1 / top, "speciation", f"alpha_bar = 1 / L, {how}", interval).on(noise)


def _top_eigenvalues(rows: Tensor, seed: int) -> tuple[float, Tensor]:
    """The top eigenvalue of the covariance of rows `(n, D)`, over n - 1, and replicates of it centred on it."""
    n = len(rows)
    x = rows.to(torch.promote_types(rows.dtype, torch.float32))
    x = x - x.mean(0)
    generator = seeded(seed)
    value, vector = _top_eigenvalue(x, torch.ones(n), None)
    drawn = (torch.randint(n, (n,), generator=generator).bincount(minlength=n) for _ in range(_SPECTRA))
    replicates = torch.tensor([_top_eigenvalue(x, counts, vector)[0] for counts in drawn], dtype=torch.float64)
    return value, replicates - replicates.mean() + value


def _top_eigenvalue(x: Tensor, counts: Tensor, start: np.ndarray | None) -> tuple[float, np.ndarray]:
    """Of the covariance of rows that count `counts` times each, without building it where it is large."""
    n, dim = x.shape
    counts = counts.to(x)
    mean = counts @ x / n
    if dim <= _DENSE:
        covariance = ((x.T * counts) @ x).double() - n * torch.outer(mean, mean).double()
        values, vectors = torch.linalg.eigh(covariance / (n - 1))
        return values[-1].item(), vectors[:, -1].cpu().numpy()

    def matvec(v: np.ndarray) -> np.ndarray:
        w = torch.from_numpy(v.reshape(-1)).to(x)
        return ((x.T @ (counts * (x @ w)) - n * mean * (mean @ w)) / (n - 1)).cpu().numpy()

    operator = LinearOperator((dim, dim), matvec=matvec, dtype=np.float64)
    first = np.random.default_rng(0).standard_normal(dim) if start is None else start
    values, vectors = largest(operator, 1, first, tol=1e-6 if start is None else 1e-3)
    return float(values[0]), vectors[:, 0]


def _symmetric(data: Tensor) -> bool:
    """Whether data is a covariance, symmetric up to rounding, and not images."""
    square = data.ndim == 2 and data.shape[0] == data.shape[1]
    return square and bool(((data - data.T).abs() <= 1e-5 * data.abs().max()).all())
