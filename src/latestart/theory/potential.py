"""The potential of the generative process, whose lowest points are its fixed points.

Every process is `dx = f x dt + g dW` with `f = d log(alpha) / dt` and `g^2 = alpha^2 d(sigma^2) / dt`, and its reverse
SDE runs down a potential (Raya and Ambrogioni 2023):

    dx/ds = -grad u + g dW/ds,    u(x, t) = -g^2 log p(x, t) + f |x|^2 / 2

    variance preserving    f = -beta / 2    g^2 = beta             u = beta (-|x|^2 / 4 - log p)
    variance exploding     f = 0            g^2 = d(sigma^2)/dt    u = -g^2 log p

An exact model knows `p(x, t) = alpha^-d p_sigma(x / alpha)`. A network knows the drift alone, `g^2 score - f x`
with `score = (alpha D - x) / std^2`, and so the potential along a curve, up to a constant, by the line integral

    u(gamma(a)) - u(gamma(a_0)) = -integral of drift(gamma) . gamma' da.

A network's drift is not exactly a gradient: its integral depends on the curve.

Contract: x is in the process' own space, `x = alpha y`, `(B, *shape)`; t is the scheduler's time, inside its range, and
potentials are per unit of it; results are float64.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from latestart.denoisers.base import Denoiser, check_sample, require_denoiser
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.levels import evaluate

__all__ = ["Curve", "Profile", "along", "circular", "drift", "potential", "rates", "ray", "straight"]

NODES = 4  # of the Gauss-Legendre rule between two points of a curve: exact to degree 7


class Model(Protocol):
    """A model that knows the density of its noised data."""

    def log_prob(self, y: Tensor, sigma: float) -> Tensor:
        """`log p_sigma(y)`, `(B,)`."""
        ...


@dataclass(frozen=True)
class Rates:
    """A process at one time: `alpha`, `sigma`, `f = d log(alpha) / dt` and `g2 = alpha^2 d(sigma^2) / dt`."""

    alpha: float
    sigma: float
    f: float
    g2: float


@torch.enable_grad()
def rates(noise: Noise, t: float) -> Rates:
    """The coefficients of the process' SDE at time t, in the scheduler's units.

    Raises:
        ValueError: a time at which the process has no noise, or no signal.
    """
    sigma, alpha = noise.sigma(t), noise.alpha(t)
    if not 0 < sigma < math.inf:
        raise ValueError(f"expected a time with signal and noise, received t={t} with sigma = {sigma:g}")
    time = torch.tensor([t], dtype=torch.float64, requires_grad=True)
    (log_sigma_rate,) = torch.autograd.grad(noise.log_sigma(time).sum(), time)
    # all kinds but the exploding one scale the data with the time; that one's alpha does not depend on it
    f = 0.0
    if noise.kind != "edm":
        (f_rate,) = torch.autograd.grad(noise.alpha(time).log().sum(), time)
        f = f_rate.item()
    return Rates(alpha, sigma, f, 2 * (alpha * sigma) ** 2 * log_sigma_rate.item())


def potential(model: Model, x: Tensor, t: float, noise: Noise) -> Tensor:
    """`u(x, t) = -g^2 log p(x, t) + f |x|^2 / 2`, `(B,)`, of an exact model; differentiable in x.

    Args:
        model: knows `log_prob(y, sigma)`.
        x: `(B, *shape)`, in the process' own space.
        t: the scheduler's time.

    Raises:
        ValueError: a time outside the process, or a model without a density.
    """
    if not hasattr(model, "log_prob"):
        raise ValueError(
            f"{type(model).__name__} knows no density: its potential is known along a curve only, see `along`"
        )
    at = rates(noise, t)
    x = x.double()
    log_p = model.log_prob(x / at.alpha, at.sigma) - x[0].numel() * math.log(at.alpha)
    return -at.g2 * log_p + 0.5 * at.f * x.flatten(1).square().sum(1)


def drift(denoiser: Denoiser, x: Tensor, t: float, noise: Noise) -> Tensor:
    """The reverse SDE's drift `-grad u = g^2 (alpha D - x) / std^2 - f x`, `(B, *shape)` float64, by any denoiser.

    Raises:
        ValueError: samples of another shape, a time outside the process, or a denoiser that returns another shape or
            NaN (says at which level).
    """
    require_denoiser(denoiser)
    check_sample(x, denoiser.shape)
    at = rates(noise, t)
    x = x.double()
    denoised = evaluate(denoiser, (x / at.alpha).to(denoiser.device, denoiser.dtype), at.sigma).to(x)
    return at.g2 / (at.alpha * at.sigma) ** 2 * (at.alpha * denoised - x) - at.f * x


@dataclass(frozen=True, eq=False, repr=False)
class Curve(Record):
    """A curve in the process' own space.

    Attributes:
        point: parameters `(n,)` to points `(n, *shape)`, differentiable.
        low, high: the parameters of its ends.
    """

    point: Callable[[Tensor], Tensor]
    low: float
    high: float

    def at(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """The points at parameters `(n,)` and the derivatives there, both `(n, *shape)`."""
        return torch.func.jvp(self.point, (a,), (torch.ones_like(a),))[:2]


def circular(x_1: Tensor, x_2: Tensor) -> Curve:
    """`cos(a) x_1 + sin(a) x_2` for a from 0 to pi / 2: between two samples, at the norm of noised samples."""
    x_1, x_2 = _two(x_1, x_2)
    return Curve(lambda a: _times(a.cos(), x_1) + _times(a.sin(), x_2), 0.0, math.pi / 2)


def straight(x_1: Tensor, x_2: Tensor) -> Curve:
    """`(1 - a) x_1 + a x_2` for a from 0 to 1."""
    x_1, x_2 = _two(x_1, x_2)
    return Curve(lambda a: x_1 + _times(a, x_2 - x_1), 0.0, 1.0)


def ray(centre: Tensor, direction: Tensor, reach: float) -> Curve:
    """`centre + a v`, v the unit vector of `direction`, for a from -reach to reach.

    With a fixed point and its leading eigenvector, this is the line on which the potential turns from a well into two.
    """
    centre, direction = _two(centre, direction)
    if not (reach > 0 and direction.any()):
        raise ValueError(f"expected a direction and reach > 0, received length {direction.norm():g}, reach={reach}")
    unit = direction / direction.norm()
    return Curve(lambda a: centre + _times(a, unit), -reach, reach)


def _two(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise ValueError(f"expected two points of one shape, received {tuple(a.shape)} and {tuple(b.shape)}")
    return a.detach().double(), b.detach().double()


def _times(a: Tensor, x: Tensor) -> Tensor:
    return a.to(x).view(-1, *[1] * x.ndim) * x


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Record):
    """A potential along a curve.

    Attributes:
        position: `(n,)`, the curve's parameter.
        potential: `(n,)`, per unit of the scheduler's time; 0 at the curve's beginning.
        t: the scheduler's time.
        nfe: calls of the denoiser, one for each point.
    """

    position: np.ndarray
    potential: np.ndarray
    t: float
    nfe: int


def along(denoiser: Denoiser, curve: Curve, noise: Noise, t: float, points: int = 65, batch_size: int = 256) -> Profile:
    """The potential along a curve, by the line integral of the drift from its beginning (Gauss-Legendre).

    Args:
        denoiser: exact or a network.
        curve: as from `circular`, `straight` or `ray`, in the process' own space.
        t: the scheduler's time.
        points: positions at which the potential is given, at equal distances of the parameter.
        batch_size: samples in one call.

    Raises:
        ValueError: fewer than two points, a curve of another shape, a time outside the process, or a denoiser that
            returns another shape or NaN.
    """
    if points < 2:
        raise ValueError(f"expected at least 2 points on a curve, received {points}")
    position = torch.linspace(curve.low, curve.high, points, dtype=torch.float64)
    nodes, weights = (torch.from_numpy(array) for array in np.polynomial.legendre.leggauss(NODES))
    width = (curve.high - curve.low) / (points - 1)
    a = (position[:-1, None] + 0.5 * width * (nodes + 1)).flatten()
    with torch.no_grad():
        work = torch.cat([_power(denoiser, curve, part, noise, t) for part in a.split(batch_size)])
    steps = -0.5 * width * (work.view(-1, NODES) @ weights)
    values = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
    return Profile(position.numpy(), values.numpy(), float(t), len(a))


def _power(denoiser: Denoiser, curve: Curve, a: Tensor, noise: Noise, t: float) -> Tensor:
    """The drift along the tangent, `(n,)`."""
    x, tangent = curve.at(a)
    return (drift(denoiser, x, t, noise) * tangent).flatten(1).sum(1).cpu()
