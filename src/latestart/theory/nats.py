"""Nats: how far a prior is from the noised data, at every noise level, without sampling.

For data p and any prior q, both under the same noise, with `y = x_0 + sigma eps` and `snr = 1 / sigma^2`,

    KL(p_sigma || q_sigma) = 1/2 integral from 0 to 1/sigma^2 of g(snr) d snr,
    g(snr) = E|x_0 - D_q(y)|^2 - E|x_0 - D_p(y)|^2

where `D_p`, `D_q` are the two denoisers (Guo, Shamai and Verdu 2005, in Verdu's mismatched form of 2010; for diffusion
models Kong et al. 2023, arXiv 2302.03792). For an exact `D_p` the error `x_0 - D_p` is orthogonal to every function of
y, so `g = E|D_p - D_q|^2`, which needs far fewer images.

A network's error is at least that of the exact denoiser: **its curve is a lower bound** on the divergence. Where the
network is worse than the prior's own denoiser, g is negative; the better of the two is the best denoiser at hand, so g
counts as 0 there, and those levels are reported.

With an orthonormal basis both errors split by direction, and so does the curve: one sees along which directions the
prior fails first. The shares add up to the divergence; they are not divergences of marginals. Any basis will do. A
Gaussian prior has its own; the components of a mixture have one each, and none is that of the whole: there the basis of
a Gaussian fitted to the same images is a natural one to hand over.

The integral is that of a cubic spline through `g snr` over log snr, linear in g: each image has an integral of its
own, and the standard error over images holds for any correlation between levels. Below the lowest snr g is taken as
constant, the truth for a prior with a wrong mean and an upper bound on the tail otherwise.
"""

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from latestart.checks import derived_seed, seeded
from latestart.denoisers.base import Denoiser, require_denoiser
from latestart.denoisers.networks import NetworkDenoiser
from latestart.gaussians.basis import Basis
from latestart.gaussians.prior import Conditioned, StartDistribution, as_prior, as_start
from latestart.inputs.front import as_images
from latestart.inputs.ranges import require_same_range
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.levels import CriticalLevel, Curve, evaluate, falling

__all__ = ["MARGIN", "NatsCurve", "nats", "of_gaps"]

LEVELS = 32
TAIL = 0.05  # nats below the lowest snr that are no longer negligible beside a budget of about one nat
ROUNDING = 1e-6  # of the data's variance: two denoisers that agree to this are equally good
STREAM = 2**32  # of the noise; seeds of samples go with their numbers, which are below that
MARGIN = 3.0  # standard errors by which a denoiser must lose before it is called worse


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class NatsCurve(Record):
    """`KL(p_sigma || prior_sigma)` on a grid of levels, highest level first; all tensors float64.

    Attributes:
        sigma: the levels, `(L,)`.
        nats: the divergence at each, `(L,)`; for a network a lower bound.
        error: its standard error over images, `(L,)`.
        integrand: g, the mean excess squared error of the prior's denoiser, `(L,)`, 0 where `worse`.
        worse: levels at which the denoiser was significantly worse than the prior's own, `(L,)`, bool.
        by_direction: share of each direction of the basis, `(L, K)`, summing to `nats`; None without a basis, as for a
            mixture that is given none.
        tail: the part of every value that comes from below the lowest snr, where g is taken as constant.
        quadrature: difference from the trapezoidal rule, `(L,)`; large values mean that the levels are too coarse.
        integrals: the integral of each image, `(n, L)`.
        nfe: evaluations of the denoiser, over single images.
    """

    sigma: Tensor
    nats: Tensor
    error: Tensor
    integrand: Tensor
    worse: Tensor
    by_direction: Tensor | None
    tail: float
    quadrature: Tensor
    integrals: Tensor
    nfe: int

    def level(self, budget: float, noise: Noise | None = None) -> CriticalLevel:
        """The highest level at which the divergence reaches `budget` nats, with a bootstrap interval over images.

        Raises:
            ValueError: it never does, or does so outside of the noise process.
        """
        how = f"the divergence of the prior reaches {budget:g} nats"
        return Curve(self.sigma, self.integrals, "nats", how).crossing(budget, noise)

    def at(self, sigma: Any, values: Tensor | None = None) -> np.ndarray:
        """Return the divergence at the levels sigma `(S,)`, linear in log sigma between two of its own.

        Args:
            sigma: levels; those beyond the grid have the value of its end.
            values: on the grid, `(L,)`, in place of `nats`.
        """
        known = self.nats if values is None else values
        return np.interp(np.log(np.asarray(sigma)), self.sigma.log().flip(0).numpy(), known.flip(0).numpy())


def nats(
    denoiser: Denoiser,
    prior: Any,
    images: Any,
    sigmas: Tensor | list[float] | None = None,
    *,
    model_kwargs: Mapping[str, Any] | None = None,
    exact: bool = False,
    basis: Basis | None = None,
    draws: int = 1,
    batch_size: int = 256,
    seed: int = 0,
) -> NatsCurve:
    """The divergence of the noised data from a prior, at every level, from denoising errors on held-out images.

    Both denoisers meet the same noise, and each image the same noise at every level: its own curve is smooth, which
    the spline needs on uneven grids.

    Args:
        denoiser: of the data: a network, or an exact model.
        prior: a `Gaussian`, a mixture, any denoiser `prior(y, sigma)`, or the path of a prior's file; moved to the
            denoiser's device.
        images: whatever `as_images` takes, floats in the model's value range, that neither was fitted to; at least 2.
        sigmas: levels in sigma, at least 2, in any order; neighbours at most a factor of 1.6 apart for results to a
            percent. By default 32 from 10 root-mean-square norms of the data down to a tenth of a value's deviation,
            as far as the denoiser reaches.
        model_kwargs: what conditions the network behind the denoiser, by the names of its own arguments, one row an
            image; beside what `from_diffusers` was given.
        exact: whether the denoiser is exact on these data; then `|D_p - D_q|^2` is averaged.
        basis: of directions to split the curve by; the prior's own by default, where it has one.
        draws: number of noises for each image at each level.
        batch_size: images denoised at once.
        seed: of the noise.

    Raises:
        ValueError: fewer than 2 images or levels, images of another shape or range, images that are all the same
            and no levels, levels outside of the denoiser's, draws or a batch size below 1, or a denoiser that returns
            another shape or values that are not finite.

    Warns:
        UserWarning: the denoiser is worse than the prior's own at some levels; or the tail is not negligible.
    """
    if draws < 1 or batch_size < 1:
        raise ValueError(f"expected draws and batch_size of at least 1, received {draws} and {batch_size}")
    prior = as_start(prior) if isinstance(prior, str | Path) else prior
    require_denoiser(denoiser)
    if not callable(prior) or not hasattr(prior, "shape"):
        as_prior(prior, "the divergence")
    images = _checked_images(denoiser, prior, images)
    prior = _moved(prior, denoiser.device)
    if isinstance(denoiser, NetworkDenoiser):
        denoiser = denoiser if model_kwargs is None else denoiser.given(model_kwargs)
        denoiser.require_rows(len(images))
    elif model_kwargs is not None:
        raise TypeError(f"model_kwargs are for a network's denoiser, received a {type(denoiser).__name__}")
    if sigmas is None:
        sigma = _default_levels(denoiser, images)
    else:
        sigma = falling(denoiser, torch.as_tensor(sigmas, dtype=torch.float64).unique().flip(0))
    gaps = _Gaps(denoiser, prior, exact, _checked_basis(basis, prior, denoiser.device))
    # a stream of its own: images drawn with the same seed must not share its numbers
    measured = [gaps.at(float(level), images, draws, batch_size, derived_seed(seed, STREAM)) for level in sigma]
    per_image, per_direction = (torch.stack(part, dim=-2) for part in zip(*measured))
    per_image = per_image.T  # (n, L)
    rounding = ROUNDING * images.double().var(0).sum().item()
    worse = per_image.mean(0) < -MARGIN * per_image.std(0) / math.sqrt(len(images)) - rounding
    per_image, per_direction = per_image.masked_fill(worse, 0.0), per_direction.masked_fill(worse[:, None], 0.0)
    curve = _curve(sigma, per_image, worse, len(images) * len(sigma) * draws)
    if gaps.basis is not None:
        curve = replace(curve, by_direction=_weights(sigma)[0] @ per_direction)
    _warn(curve)
    return curve


def of_gaps(sigma: Tensor, gaps: Tensor) -> NatsCurve:
    """The divergence from a prior, of samples for which `|D_p - D_q|^2` is known at every level.

    Args:
        sigma: the levels, highest first, `(L,)`.
        gaps: of each sample, noised to each level, `(n, L)`; they cost no evaluation of their own.
    """
    return _curve(sigma, gaps, torch.zeros(len(sigma), dtype=torch.bool), 0)


def _curve(sigma: Tensor, per_image: Tensor, worse: Tensor, nfe: int) -> NatsCurve:
    """The curve of integrands `(n, L)`, not split by directions."""
    cubic, trapezoid, tail = _weights(sigma)
    integrals = per_image @ cubic.T
    return NatsCurve(
        sigma=sigma,
        nats=integrals.mean(0),
        error=integrals.std(0) / math.sqrt(len(integrals)),
        integrand=per_image.mean(0),
        worse=worse,
        by_direction=None,
        tail=tail * per_image[:, 0].mean().item(),
        quadrature=(cubic - trapezoid) @ per_image.mean(0),
        integrals=integrals,
        nfe=nfe,
    )


@dataclass(frozen=True, eq=False)
class _Gaps:
    """The excess squared error of the prior's denoiser, for each image and for each direction of a basis."""

    denoiser: Denoiser
    prior: Any
    exact: bool
    basis: Basis | None

    def at(self, sigma: float, images: Tensor, draws: int, batch_size: int, seed: int) -> tuple[Tensor, Tensor]:
        """At one level: `(n,)`, and the mean over images `(K,)`."""
        generator = seeded(seed)
        per_image, total = [], torch.zeros(())
        for at in range(0, len(images), batch_size):
            rows = slice(at, at + batch_size)
            gap = torch.stack([self._gap(sigma, images[rows], generator, rows) for _ in range(draws)]).mean(0)
            per_image.append(gap.sum(1))
            total = total + gap.sum(0)
        return torch.cat(per_image), total / len(images)

    @torch.no_grad()
    def _gap(self, sigma: float, x_0: Tensor, generator: torch.Generator, rows: slice) -> Tensor:
        """`|x_0 - D_q|^2 - |x_0 - D_p|^2` by direction, or `|D_p - D_q|^2`, `(B, K)`."""
        noise = torch.randn(x_0.shape, generator=generator, dtype=torch.float64).to(x_0)
        y = x_0 + sigma * noise
        d_p = evaluate(of_rows(self.denoiser, rows), y, sigma).double()
        d_q = evaluate(of_rows(self.prior, rows), y, sigma, "prior").double()
        if self.exact:
            return self._energies(d_p - d_q)
        return self._energies(x_0.double() - d_q) - self._energies(x_0.double() - d_p)

    def _energies(self, x: Tensor) -> Tensor:
        energies = self.basis.energies(x) if self.basis is not None else x.flatten(1).square().sum(1, keepdim=True)
        return energies.double().cpu()


def _weights(sigma: Tensor) -> tuple[Tensor, Tensor, float]:
    """Half the integral from 0 to each snr as matrices `(L, L)` on g: cubic and trapezoidal; and the tail's weight."""
    snr = sigma.numpy() ** -2
    u, identity = np.log(snr), np.eye(len(snr))
    cubic = CubicSpline(u, identity, axis=0).antiderivative()(u) * snr
    steps = np.diff(u)[:, None] * (identity[1:] + identity[:-1]) / 2 * snr
    trapezoid = np.concatenate([np.zeros_like(snr)[None], steps.cumsum(0)])
    tail = snr[0] * identity[0]
    return torch.from_numpy(0.5 * (cubic + tail)), torch.from_numpy(0.5 * (trapezoid + tail)), 0.5 * float(snr[0])


def of_rows(denoiser: Any, rows: slice) -> Any:
    """The denoiser of some of the images, where it knows something of each: its class, or what conditions it."""
    return denoiser.rows(rows) if isinstance(denoiser, NetworkDenoiser | Conditioned) else denoiser


def _moved(prior: Any, device: torch.device) -> Any:
    """A prior on the denoiser's device; an exact model stays where it is."""
    return prior.to(device) if isinstance(prior, StartDistribution | Conditioned) and prior.device != device else prior


def _checked_images(denoiser: Denoiser, prior: Any, images: Any) -> Tensor:
    shape = tuple(denoiser.shape)
    images = as_images(images, shape=shape).collected().floats()
    require_same_range(images, getattr(prior, "value_range", None), "the prior")
    if tuple(prior.shape) != shape or tuple(images.shape[1:]) != shape:
        raise ValueError(
            f"expected a prior and images for samples of the denoiser's shape {shape}, received a prior for "
            f"{tuple(prior.shape)} and images {tuple(images.shape)}"
        )
    if len(images) < 2 or not images.isfinite().all():
        raise ValueError(f"nats need at least 2 images of finite values, received {tuple(images.shape)}")
    return images.to(device=denoiser.device, dtype=denoiser.dtype)


def _checked_basis(basis: Basis | None, prior: Any, device: torch.device) -> Basis | None:
    if basis is None:
        return getattr(prior, "basis", None)
    if tuple(basis.shape) != tuple(prior.shape):
        raise ValueError(f"expected a basis of images {tuple(prior.shape)}, received one of {tuple(basis.shape)}")
    return basis.to(device)


def _default_levels(denoiser: Denoiser, images: Tensor) -> Tensor:
    low, high = denoiser.sigma_range
    variance = images.double().var(0, unbiased=True)
    if not variance.any():
        raise ValueError(
            f"the default levels follow from how images differ, and all {len(images)} received are the same: give "
            "sigmas"
        )
    top, bottom = 10 * variance.sum().sqrt().item(), 0.1 * variance.mean().sqrt().item()
    ends = torch.tensor([min(top, high), max(bottom, low)], dtype=torch.float64).log()
    return torch.linspace(ends[0].item(), ends[1].item(), LEVELS, dtype=torch.float64).exp().clamp(low, high)


def _warn(curve: NatsCurve) -> None:
    told = []
    if curve.worse.any():
        levels = ", ".join(f"{level:.4g}" for level in curve.sigma[curve.worse].tolist())
        told.append(
            f"the denoiser is worse than the prior's own at {int(curve.worse.sum())} of {len(curve.sigma)} levels, "
            f"sigma = {levels}: there the prior's own denoiser was taken, and the network is better skipped"
        )
    if abs(curve.tail) > TAIL:
        told.append(
            f"{curve.tail:.3g} nats come from above the highest level, sigma = {curve.sigma[0]:.4g}, where nothing was "
            "measured: begin at a higher level"
        )
    for sentence in told:
        warnings.warn(sentence, UserWarning, stacklevel=3)
