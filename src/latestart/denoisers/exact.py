"""Exact denoisers: distributions whose `E[x_0 | y]` is known in closed form, `y = x_0 + sigma eps`.

With `p_sigma(y) = E_x0 N(y; x_0, sigma^2 I)` the posterior mean is `y + sigma^2 grad log p_sigma(y)` (Tweedie), and

    point cloud        sum_i w_i x_i,    w = softmax_i((y . x_i - |x_i|^2 / 2) / sigma^2)    n points of equal weight
    two points         m tanh(y . m / sigma^2)                                              +-m
    simplex            sum_i w_i v_i,    w = softmax_i(y . v_i / sigma^2)                    d + 1 vertices of norm r
    hypercube          s tanh(s y / sigma^2), each coordinate by itself (Ising)              2^d corners (+-s, ..., +-s)
    sphere             r A(k) y / |y|,   k = r |y| / sigma^2,  A = I_(d/2)(k) / I_(d/2-1)(k)  uniform, of radius r
    Gaussian mixture   sum_k r_k(y) E_k[x_0 | y],    r_k proportional to w_k N(y; m_k, C_k + sigma^2 I)

All are differentiable in y, in reverse and in forward mode, so that Jacobian-vector products of each are exact.

Ratios of Bessel functions. `A` underflows for orders in the thousands, and `y / |y|` has no derivative at 0. Both are
avoided by `rho_nu = I_(nu+1)(k) / (k I_nu(k))`, a smooth function of `s = k^2`. The recurrence of the Bessel functions,

    rho_nu = 1 / (2 (nu + 1) + s rho_(nu+1)),

is stable downward, and at a high order mu the uniform expansion of Debye (DLMF 10.41.3),

    I_mu(k) = exp(S) (k / (mu + S))^mu (2 pi S)^(-1/2) sum_j U_j(mu / S) / mu^j,    S = sqrt(mu^2 + s),

holds for every k to rounding. `F_nu = Gamma(nu + 1) (2 / k)^nu I_nu(k)`, the mean of `exp(y . x_0 / sigma^2)` over the
sphere for nu = d/2 - 1, follows from `F_(nu+1) / F_nu = 2 (nu + 1) rho_nu`.
"""

import math
from abc import ABC, abstractmethod

import torch
from numpy.polynomial import Polynomial
from numpy.polynomial.polynomial import polyval
from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.base import Level, check_sample
from latestart.gaussians.mixture import Mixture

__all__ = ["GaussianMixture", "Hypercube", "PointCloud", "Simplex", "Sphere", "TwoPoints", "bessel_ratio"]

GaussianMixture = Mixture  # a prior and an exact model are the same class

CHUNK = 4096
_UNIFORM_ORDER = 20.0  # from this order on, _DEBYE_TERMS terms of the uniform expansion are exact to rounding
_DEBYE_TERMS = 9


class _Exact(ABC):
    """Base of exact models of data at points: checks, shapes, and the volume of the noise.

    A concrete class gives `shape`, `dtype`, `device`, its samples, and one function of rows and levels.
    """

    sigma_range = (0.0, math.inf)
    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={tuple(self.shape)})"

    @abstractmethod
    def _posterior(self, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """`E[x_0 | y]`, `(B, D)`, and `log E exp(-|y - x_0|^2 / (2 sigma^2))`, `(B,)`, of `y` `(B, D)` at `(B, 1)`."""

    @abstractmethod
    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n clean samples `(n, *shape)`, drawn on the generator's device first."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n clean samples `(n, *shape)`, on the generator's device first, so that a seed fixes them.

        Raises:
            ValueError: n is no whole number of at least 0.
        """
        return self._drawn(whole_number("n", n, 0), generator)

    def __call__(self, y: Tensor, sigma: Level) -> Tensor:
        """`E[x_0 | y]`, `(B, *shape)`, for `y` `(B, *shape)` and `sigma > 0`, a number or `(B,)`; differentiable."""
        return self._posterior(*self._checked(y, sigma))[0].reshape(y.shape)

    def log_prob(self, y: Tensor, sigma: Level) -> Tensor:
        """`log p_sigma(y)` in nats, `(B,)`, the density of the noised data; differentiable."""
        rows, level = self._checked(y, sigma)
        volume = 0.5 * rows.shape[1] * (2 * math.pi * level.squeeze(1).square()).log()
        return self._posterior(rows, level)[1] - volume

    def _checked(self, y: Tensor, sigma: Level) -> tuple[Tensor, Tensor]:
        check_sample(y, self.shape)
        level = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y)).unsqueeze(1)
        if not (level > 0).all():
            raise ValueError(f"the denoiser of a {type(self).__name__} needs sigma > 0, received {sigma}")
        return y.flatten(1), level

    def _index(self, count: int, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Whole numbers below `count`, drawn on the generator's device."""
        device = "cpu" if generator is None else generator.device
        return torch.randint(count, shape, generator=generator, device=device).to(self.device)


class PointCloud(_Exact):
    """The exact denoiser of n given points, for example a whole training set.

    The sums run over chunks of the points with a running maximum (log-sum-exp): memory does not grow with n.

    Args:
        points: `(n, *shape)`, in the model's value range.
        chunk: points looked at at once; memory is `O(B chunk + B D)` beside the points.

    Raises:
        ValueError: there are no points `(n, *shape)`, or some are NaN or infinite.
    """

    def __init__(self, points: Tensor, chunk: int = CHUNK) -> None:
        if points.ndim < 2 or not len(points) or not points.is_floating_point() or not points.isfinite().all():
            raise ValueError(
                "a point cloud needs at least one point, (n, *shape) of finite floating-point numbers, received "
                f"{points.dtype} {tuple(points.shape)}"
            )
        self.points, self.chunk = points, chunk
        self.shape, self.dtype, self.device = tuple(points.shape[1:]), points.dtype, points.device

    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self.points[self._index(len(self.points), (n,), generator)]

    def _posterior(self, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        most = rows.new_full((len(rows), 1), -math.inf)
        total, mean = torch.zeros_like(most), torch.zeros_like(rows)
        for points in self.points.flatten(1).to(rows).split(self.chunk):
            # |y|^2 is left out of the exponent until the end: it is common to all points
            logits = (rows @ points.T - 0.5 * points.square().sum(1)) / level.square()
            higher = torch.maximum(most, logits.amax(1, keepdim=True).detach())
            decay, weights = (most - higher).exp(), (logits - higher).exp()
            total, mean, most = total * decay + weights.sum(1, keepdim=True), mean * decay + weights @ points, higher
        log_total = (total.log() + most).squeeze(1) - 0.5 * rows.square().sum(1) / level.squeeze(1).square()
        return mean / total, log_total - math.log(len(self.points))


class TwoPoints(_Exact):
    """Two points `+-point` of equal weight, `E[x_0 | y] = m tanh(y . m / sigma^2)`; by default +-1 on a line.

    Args:
        point: m, `(*shape)`, floating point.
    """

    def __init__(self, point: Tensor | None = None) -> None:
        self.point = torch.ones(1, dtype=torch.float64) if point is None else point
        if not self.point.is_floating_point() or not self.point.isfinite().all():
            raise ValueError(f"expected a point of finite floating-point numbers, received {self.point.dtype}")
        self.shape, self.dtype, self.device = tuple(self.point.shape), self.point.dtype, self.point.device

    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        return torch.stack([-self.point, self.point])[self._index(2, (n,), generator)]

    def _posterior(self, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        m, variance = self.point.flatten().to(rows), level.squeeze(1).square()
        along = rows @ m / variance
        log_kernel = -0.5 * (rows.square().sum(1) + m.square().sum()) / variance + _log_cosh(along)
        return m * torch.tanh(along).unsqueeze(1), log_kernel


class Hypercube(_Exact):
    """The 2^d corners `(+-scale, ..., +-scale)` of a cube (free Ising spins): `E[x_0 | y] = s tanh(s y / sigma^2)`.

    Args:
        dim: number of coordinates d.
        scale: half the length of an edge.
    """

    def __init__(
        self, dim: int, scale: float = 1.0, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> None:
        self.shape, self.scale = _space(dim, scale, "scale")
        self.dtype, self.device = dtype, torch.device(device)

    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        return self.scale * (2 * self._index(2, (n, *self.shape), generator).to(self.dtype) - 1)

    def _posterior(self, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        along = self.scale * rows / level.square()
        each = -0.5 * (rows.square() + self.scale**2) / level.square() + _log_cosh(along)
        return self.scale * torch.tanh(along), each.sum(1)


class Simplex(_Exact):
    """The d + 1 vertices of a regular simplex in d dimensions, centred at 0 and of norm `radius`.

    The vertices are `r (a e_i - b 1)` for i = 1 ... d, and `-r 1 / sqrt(d)`, with `a = sqrt(1 + 1/d)` and
    `b = (sqrt(d + 1) - 1) / d^(3/2)`; their covariance is `r^2 / d I`. No matrix of vertices is built.

    Args:
        dim: d.
        radius: norm r of each vertex.
    """

    def __init__(
        self, dim: int, radius: float = 1.0, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> None:
        self.shape, self.radius = _space(dim, radius, "radius")
        self.dtype, self.device = dtype, torch.device(device)
        self._a = radius * math.sqrt(1 + 1 / dim)
        self._b = radius * (math.sqrt(dim + 1) - 1) / dim**1.5
        self._c = radius / math.sqrt(dim)

    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        vertices = self._combined(torch.eye(self.shape[0] + 1, dtype=self.dtype, device=self.device))
        return vertices[self._index(len(vertices), (n,), generator)]

    def _posterior(self, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        total = rows.sum(1, keepdim=True)
        logits = torch.cat([self._a * rows - self._b * total, -self._c * total], 1) / level.square()
        mean_exp = logits.logsumexp(1) - math.log(self.shape[0] + 1)
        log_kernel = mean_exp - 0.5 * (rows.square().sum(1) + self.radius**2) / level.squeeze(1).square()
        return self._combined(logits.softmax(1)), log_kernel

    def _combined(self, weights: Tensor) -> Tensor:
        """`sum_i w_i v_i`, `(B, d)`."""
        first, last = weights[:, :-1], weights[:, -1:]
        return self._a * first - self._b * first.sum(1, keepdim=True) - self._c * last


class Sphere(_Exact):
    """Uniform on the sphere of a radius in d dimensions, `E[x_0 | y] = r A(k) y / |y|` with `k = r |y| / sigma^2`.

    Computed in float64, for d from 1 (two points) to 10,000 and beyond, and any k.

    Args:
        dim: d.
        radius: r.
    """

    def __init__(
        self, dim: int, radius: float = 1.0, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
    ) -> None:
        self.shape, self.radius = _space(dim, radius, "radius")
        self.dtype, self.device = dtype, torch.device(device)

    def _drawn(self, n: int, generator: torch.Generator | None) -> Tensor:
        device = generator.device if generator is not None else self.device
        z = torch.randn(n, *self.shape, generator=generator, dtype=self.dtype, device=device).to(self.device)
        return self.radius * z / z.norm(dim=1, keepdim=True)

    def _posterior(self, rows: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        y, snr = rows.double(), level.double().squeeze(1) ** -2
        k_squared = (self.radius * snr).square() * y.square().sum(1)
        rho, log_mean_exp = bessel_ratio(0.5 * self.shape[0] - 1, k_squared)
        log_kernel = log_mean_exp - 0.5 * snr * (y.square().sum(1) + self.radius**2)
        return ((self.radius**2 * snr * rho).unsqueeze(1) * y).to(rows.dtype), log_kernel.to(rows.dtype)


def bessel_ratio(order: float, square: Tensor) -> tuple[Tensor, Tensor]:
    """`I_(nu+1)(k) / (k I_nu(k))` and `log(Gamma(nu + 1) (2 / k)^nu I_nu(k))` as smooth functions of `k^2`.

    Args:
        order: nu, at least -1/2.
        square: `k^2`, not negative, float64.
    """
    steps = max(0, math.ceil(_UNIFORM_ORDER - order))
    rho, log_f = _debye_ratio(order + steps, square), _debye_log(order + steps, square)
    for nu in (order + j for j in reversed(range(steps))):
        rho = 1 / (2 * (nu + 1) + square * rho)
        log_f = log_f - (2 * (nu + 1) * rho).log()
    return rho, log_f


def _debye_ratio(mu: float, square: Tensor) -> Tensor:
    """`I_(mu+1)(k) / (k I_mu(k))`; the large parts of the two logarithms are subtracted by hand, before rounding."""
    low, high = (mu**2 + square).sqrt(), ((mu + 1) ** 2 + square).sqrt()
    gap = (2 * mu + 1) / (low + high)  # high - low
    logarithm = gap - (mu + 1 + high).log() - mu * torch.log1p((1 + gap) / (mu + low)) - 0.5 * torch.log1p(gap / low)
    return (logarithm + _debye_series(mu + 1, high) - _debye_series(mu, low)).exp()


def _debye_log(mu: float, square: Tensor) -> Tensor:
    """`log(Gamma(mu + 1) (2 / k)^mu I_mu(k))`."""
    s = (mu**2 + square).sqrt()
    grown = square / (s + mu)  # s - mu
    series = _debye_series(mu, s) - _debye_series(mu, torch.full_like(s, mu))  # at k = 0 that is Stirling's series
    return grown - mu * torch.log1p(grown / (2 * mu)) - 0.5 * (s / mu).log() + series


def _debye_series(mu: float, s: Tensor) -> Tensor:
    """`log sum_j U_j(p) / mu^j` with `p = mu / S`, as one polynomial in p."""
    series = sum((u / mu**j for j, u in enumerate(_U, 1)), Polynomial([0]))
    return torch.log1p(polyval(mu / s, series.coef))  # type: ignore[arg-type]


def _debye_polynomials(count: int) -> list[Polynomial]:
    """`U_1, ..., U_count`, by their recurrence (DLMF 10.41.9)."""
    u, polynomials = Polynomial([1.0]), []
    for _ in range(count):
        u = 0.5 * Polynomial([0, 0, 1, 0, -1]) * u.deriv() + (Polynomial([1, 0, -5]) * u).integ() / 8
        polynomials.append(u)
    return polynomials


_U = _debye_polynomials(_DEBYE_TERMS)


def _log_cosh(x: Tensor) -> Tensor:
    """`log cosh x` without overflow, smooth at 0."""
    return torch.logaddexp(x, -x) - math.log(2)


def _space(dim: int, size: float, what: str) -> tuple[tuple[int], float]:
    if not 0 < size < math.inf:
        raise ValueError(f"expected a positive {what}, received {what}={size}")
    return (whole_number("dim", dim),), float(size)
