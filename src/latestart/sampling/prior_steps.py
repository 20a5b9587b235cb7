"""Steps of the reverse dynamics with a prior inside: its own part is integrated exactly, the network adds the rest.

With `u = log sigma` the probability flow is `dy/du = y - D(y, sigma)`. Write the denoiser as the prior's own and a
rest, `D = G + b`. Of a Gaussian `N(m, Q diag(l) Q^T)` the first is linear, `G = m + S_a (y - m)`, where `S_v` scales
direction k by `v_k` and `a = l / (l + sigma^2)`. So the flow is a linear equation in each direction, and b alone is
left to extrapolate. From the level s down to t, with `z = y - m`, `v_u = l + e^(2u)` and b a straight line in u through
the last two evaluations, at r before and at s,

    z' = S_kept z + S_first b_s + S_second (b_s - b_r) / log(s / r)

    kept = (v_t / v_s)^p,     first  = 2p * integral over u from log t to log s of (v_t / v_u)^p du,
                              second = 2p * integral over u from log t to log s of (v_t / v_u)^p (u - log s) du

and p = 1/2, where `first = sqrt(1 + t^2 / l) (asinh(sqrt(l) / t) - asinh(sqrt(l) / s))`. As l goes to 0 these are the
weights of DDIM (without `second`) and of DPM++ 2M, in its form of second order in log sigma; where l is far above s^2
nothing moves. The last step of a run, to t = 0 or to the lowest level of a schedule, is `D + t / s (y - D)`: as t falls
to 0, a goes to 1, and a rest that is held would integrate to `log(1 / t)`, which is contrast that the data has not.

The reverse SDEs with noise are the same with a larger p. With the share of noise `eta` and `rho = v_t / v_s`, a step is

    z' as above + S_noise w,    w ~ N(0, I),    noise^2 = v_t f,    f = eta^2 (1 - rho),    rho^(2p) = rho (1 - f)

so that data that is the prior's keeps its distribution at every level, whatever eta; eta = 1 is the time reversal, and
l = 0 is DDIM with that eta.

The integrals are taken by Gauss and Legendre's rule, in float64, without a division by l: for every direction at once,
and once for each step of a run, whatever the number of samples.

Other priors, such as mixtures, are not linear. Their own part is integrated in small steps between two evaluations of
the network, which cost no evaluation (`Inner`).

Sources: exponential integrators, Hochbruck and Ostermann 2010, with the linear part of Rosenbrock methods; for
diffusion models Lu et al. 2022 (DPM-Solver++, arXiv 2211.01095) and Zheng et al. 2023 (DPM-Solver-v3, 2310.13268).
"""

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.dynamics import ode, sde
from latestart.gaussians.components import grouped
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.prior import Conditioned, Prior
from latestart.records import Record

__all__ = ["ByClass", "Inner", "Linear", "Seen", "Steps", "Weights", "steps_of", "weights"]

NODES = 96  # of the rule: exact to 1e-12 from sigma = 160 to 0.01, to 1e-10 from 1e9 to 1
SUBSTEPS = 8  # of `Inner`, between two evaluations

White = Callable[[], Tensor]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Weights(Record):
    """The weights of one step, by direction: float64 `(K,)` each."""

    kept: Tensor
    first: Tensor
    second: Tensor
    noise: Tensor


def weights(variances: Tensor, s: float, t: float, eta: float = 0.0) -> Weights:
    """Return the weights of a step from the level s to t, 0 < t < s (module docstring).

    Args:
        variances: l, float64 `(K,)`; zeros are allowed.
        s, t: noise levels sigma.
        eta: the share of noise, from 0 to 1.
    """
    gone = (s * s - t * t) / (variances + s * s)  # 1 - rho
    log_rho = _log_ratio(variances, s, t)
    fresh = eta**2 * gone
    # (1 + log(1 - f) / log(rho)) / 2, whose last term is eta^2 where rho is 1
    churned = torch.where(gone > 1e-12, torch.log1p(-fresh) / log_rho.clamp(max=-1e-300), fresh.new_tensor(eta**2))
    p = 0.5 * (1 + (churned if 0 < eta < 1 else torch.full_like(gone, eta**2)))
    nodes, shares = _gauss_legendre()
    half = 0.5 * math.log(s / t)
    first, second = torch.zeros_like(gone), torch.zeros_like(gone)
    for node, share in zip((half * (nodes - 1)).tolist(), (half * shares).tolist()):  # u - log s, from the top down
        value = 2 * p * share * torch.exp(p * _log_ratio(variances, s * math.exp(node), t))
        first += value
        second += value * node
    noise = torch.sqrt((variances + t * t) * fresh)
    return Weights(kept=torch.exp(p * log_rho), first=first, second=second, noise=noise)


@functools.cache
def _gauss_legendre() -> tuple[Any, Any]:
    """Nodes and weights on [-1, 1]."""
    return np.polynomial.legendre.leggauss(NODES)


def _log_ratio(variances: Tensor, u: float, t: float) -> Tensor:
    """`log((l + t^2) / (l + u^2))`, exact to rounding near 0 as well as far from it."""
    gone = (u * u - t * t) / (variances + u * u)
    return torch.where(gone < 0.5, torch.log1p(-gone), torch.log((variances + t * t) / (variances + u * u)))


@dataclass(frozen=True, eq=False, repr=False)
class Seen(Record):
    """One evaluation of the network: its level, and what the steps keep of it for the next one."""

    sigma: float
    kept: Any


class Steps(ABC):
    """The steps of a run with a kind of prior inside.

    Attributes:
        order: 1 holds the rest of the denoiser from one evaluation to the next, 2 extrapolates it by the last two.
        eta: the share of noise, from 0 to 1.
    """

    def __init__(self, order: int = 2, eta: float = 0.0) -> None:
        self.order, self.eta = order, eta

    def drawn(self, white: White | None) -> Tensor:
        """White noise of a step that adds some.

        Raises:
            ValueError: there is none to draw.
        """
        if white is None:
            raise ValueError(f"eta={self.eta:g} adds noise: expected a function that draws it, received None")
        return white()

    @abstractmethod
    def step(
        self, y: Tensor, clean: Tensor, s: float, t: float, before: Seen | None, white: White | None
    ) -> tuple[Tensor, Seen]:
        """Return the state at the level t, `(B, *shape)`, and what the next step needs of this one.

        Args:
            y: the state at the level s, `(B, *shape)`.
            clean: the network's denoiser there, D.
            s, t: noise levels, 0 < t < s.
            before: of the evaluation before; None for the first step.
            white: draws white noise like y, where `eta` is above 0.
        """


class Linear(Steps):
    """Steps with a Gaussian inside, exact for its own data.

    All is one pass through the basis: two products in, for y and D, and one out; the evaluation before is kept as
    coefficients.

    Args:
        prior: the Gaussian.
        order, eta: as for `Steps`.
    """

    def __init__(self, prior: Gaussian, order: int = 2, eta: float = 0.0) -> None:
        super().__init__(order, eta)
        self.prior = prior
        self._known: dict[Any, tuple[Tensor, ...]] = {}

    def step(
        self, y: Tensor, clean: Tensor, s: float, t: float, before: Seen | None, white: White | None
    ) -> tuple[Tensor, Seen]:
        """See `Steps`."""
        basis, mean = self.prior.basis, self.prior.mean.to(y)
        z, d = basis.forward(y - mean), basis.forward(clean - mean)
        r = before.sigma if before is not None and self.order == 2 else None
        of_z, of_d, *of_before, noise = self._factors(s, t, r, z)
        out = (of_z * z).addcmul_(of_d, d)
        if before is not None and of_before:
            for factor, kept in zip(of_before, before.kept):
                out.addcmul_(factor, kept)
        if self.eta:
            out.addcmul_(noise, basis.forward(self.drawn(white)))
        return mean + basis.inverse(out).to(y), Seen(s, (z, d))

    def _factors(self, s: float, t: float, r: float | None, like: Tensor) -> tuple[Tensor, ...]:
        """The factors of z and D, of those of the evaluation at r before if there was one, and of the noise."""
        key = (s, t, r, self.eta, like.dtype, like.device)
        if key in self._known:
            return self._known[key]
        with torch.inference_mode(False):  # kept, also for a run that is differentiated
            l, spread = self.prior.variances, self.prior.basis.spread
            found = weights(l, s, t, self.eta)
            slope = torch.zeros_like(l) if r is None else found.second / math.log(s / r)
            of_d = found.first + slope
            factors = [found.kept - of_d * l / (l + s * s), of_d]
            factors += [] if r is None else [slope * l / (l + r * r), -slope]
            self._known[key] = tuple(spread(one).to(like.real) for one in (*factors, found.noise))
        return self._known[key]


class Inner(Steps):
    """Steps with any prior inside: between two evaluations of the network its own denoiser moves y in small steps.

    Args:
        prior: a denoiser, `prior(y, sigma)`.
        order, eta: as for `Steps`.
        substeps: evaluations of the prior, twice each where no noise is added, between two of the network; levels even
            in log sigma.
    """

    def __init__(self, prior: Prior | Conditioned, order: int = 2, eta: float = 0.0, substeps: int = SUBSTEPS) -> None:
        super().__init__(order, eta)
        self.prior, self.substeps = prior, substeps

    def step(
        self, y: Tensor, clean: Tensor, s: float, t: float, before: Seen | None, white: White | None
    ) -> tuple[Tensor, Seen]:
        """See `Steps`."""
        rest = clean - self.prior(y, s)
        slope = None
        if before is not None and self.order == 2:
            slope = (rest - before.kept[0]) / math.log(s / before.sigma)

        def denoise(at: Tensor, sigma: float) -> Tensor:
            known = self.prior(at, sigma) + rest
            return known if slope is None else known + slope * math.log(sigma / s)

        levels = [s * (t / s) ** (k / self.substeps) for k in range(self.substeps)] + [t]
        path = ode(denoise, y, levels) if not self.eta else sde(denoise, y, levels, white, self.eta)
        *_, end = path
        return end, Seen(s, (rest,))


class ByClass(Steps):
    """Steps for samples of known classes, with the Gaussian of its class inside for each.

    Args:
        labels: the class of each sample of a batch, `(B,)`.
        gaussians: that of each class.
        order, eta: as for `Steps`.
    """

    def __init__(self, labels: Tensor, gaussians: dict[int, Gaussian], order: int = 2, eta: float = 0.0) -> None:
        super().__init__(order, eta)
        self.labels = labels
        self.of = {name: Linear(gaussian, order, eta) for name, gaussian in gaussians.items()}

    def step(
        self, y: Tensor, clean: Tensor, s: float, t: float, before: Seen | None, white: White | None
    ) -> tuple[Tensor, Seen]:
        """See `Steps`.

        Raises:
            ValueError: another number of samples than labels.
        """
        if len(y) != len(self.labels):
            raise ValueError(f"expected the {len(self.labels)} samples whose classes are known, received {len(y)}")
        noise = self.drawn(white) if self.eta else None
        out, kept = torch.empty_like(y), {}
        for name, rows in grouped(self.labels):
            drawn = None if noise is None else lambda rows=rows: noise[rows]
            known = None if before is None else before.kept[name]
            out[rows], kept[name] = self.of[name].step(y[rows], clean[rows], s, t, known, drawn)
        return out, Seen(s, kept)


def steps_of(
    prior: Prior, labels: Any = None, *, solver_order: int = 2, eta: float = 0.0, substeps: int | None = None
) -> Steps:
    """Return the steps with a prior inside.

    Args:
        prior: a Gaussian; a mixture, of which the Gaussian of all is taken, or with labels that of each class; or
            another denoiser.
        labels: the class of each sample, an index or `(B,)`; of a prior that knows no classes they say nothing.
        solver_order, eta: as `order` and `eta` of `Steps`.
        substeps: None for a Gaussian inside; a number for the prior's own denoiser, in so many steps.

    Raises:
        ValueError: a class that the prior does not have.
    """
    known, order = prior.own_labels(labels), solver_order
    if substeps is not None or not isinstance(prior, Gaussian | Mixture):
        return Inner(prior.for_labels(labels), order, eta, substeps or SUBSTEPS)
    if isinstance(prior, Gaussian):
        return Linear(prior, order, eta)
    if known is None:
        return Linear(prior.gaussian(), order, eta)
    given = torch.as_tensor(known, device=prior.device)
    if given.ndim == 0:
        return Linear(prior.of_class(int(given)).gaussian(), order, eta)
    return ByClass(given, {k: prior.of_class(k).gaussian() for k in given.unique().tolist()}, order, eta)
