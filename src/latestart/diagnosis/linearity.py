"""The linearity of a network: its R^2 against a prior's own denoiser, at each noise level.

On held-out images `y = x_0 + sigma eps`, with `D_p` the network's denoiser and `D_q` the prior's own, over images

    A = E|D_p - D_q|^2,    B = E|D_p - E D_p|^2,    g = E|x_0 - D_q|^2 - E|x_0 - D_p|^2.

`R^2 = 1 - A / B` is the share of what the network does that the prior's denoiser does too (for a Gaussian a linear
map). For an exact denoiser `A = g`; a network errs, and `A - g` is its own error, which a late start skips together
with the network. So the R^2 that counts is that of the data, `1 - max(g, 0) / B`, and the network's own is told beside
it. Both are read from above, where they first fall below 0.95: at low noise every denoiser returns y, and R^2 rises
again. Where A and B are below 1% of the data's variance there is nothing yet to compare.

The divergence of the noised data from the prior (`theory.nats`) comes from the same evaluations.

Contract: images are `(n, *shape)`, levels are sigma, highest first; what is returned is float64.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.denoisers.adapter import as_network
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import from_diffusers
from latestart.gaussians.prior import Prior
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.levels import RESAMPLES, CriticalLevel, evaluate
from latestart.theory.nats import NatsCurve, nats

__all__ = ["BATCH", "LEVELS", "LINEAR", "SHARE", "Linearity", "compare", "variance"]

LINEAR = (0.95, 0.5)  # R^2
SHARE = 0.01  # of the data's variance, below which there is nothing to compare
LEVELS = 24
BATCH = 256


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Linearity(Record):
    """R^2 of the network against the prior's denoiser, highest level first; tensors `(L,)`, float64.

    Attributes:
        sigma, t: the levels, and their times on the scheduler.
        r2, r2_error: `1 - A / B` of the network, and its standard error by bootstrap over images.
        data, data_error: `1 - max(g, 0) / B`, the same for the part of the deviation that lowers the error.
        informative: bool; whether A or B is at least 1% of the data's variance.
        gain, gain_error: g, by how much the network's squared error is below that of the prior's denoiser.
        limit: the level down to which `data` stays at 0.95 or more; None where at no level it is below that by 2
            standard errors, or where it fails from the top.
        network_limit: the same for `r2`.
        fails_from_top: whether `data` is below 0.95 at the first informative level already, by 2 standard errors.
    """

    sigma: Tensor
    t: Tensor
    r2: Tensor
    r2_error: Tensor
    data: Tensor
    data_error: Tensor
    informative: Tensor
    gain: Tensor
    gain_error: Tensor
    limit: CriticalLevel | None
    network_limit: CriticalLevel | None
    fails_from_top: bool

    @property
    def first(self) -> int:
        """The place of the first informative level; there must be one."""
        return int(self.informative.nonzero()[0])


def compare(
    model: Any,
    scheduler: Any,
    prior: Any,
    images: Tensor,
    conditions: Conditions | None = None,
    evaluated: Tensor | slice = slice(None),
    start: float | None = None,
    seed: int = 0,
    told: Callable[[str], None] = lambda what: None,
) -> tuple[NatsCurve, Linearity]:
    """Evaluate a network beside a prior's own denoiser: once at each of 24 levels for each image.

    Args:
        model, scheduler: the network, and the scheduler that it was trained with.
        prior: a denoiser too.
        images: `(n, *shape)`, whose scale says which levels.
        conditions: of a conditional network, one row an image.
        evaluated: which of the images the network is evaluated on, at least 2.
        start: a level in sigma that is to be one of those looked at.
        seed: of the noise and the bootstrap.
        told: called with what was done after each level.

    Returns:
        The divergence of the noised images from the prior, and the R^2, at the same levels.

    Raises:
        ValueError: the network or the prior returned another shape, or values that are not finite.
    """
    some = images[evaluated]
    known = Conditions(as_network(model)) if conditions is None else conditions
    network = _Network(model, scheduler, known[evaluated], prior, some, told)
    sigmas = _levels(network.sigma_range, images, start)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the levels at which the network is worse are in the curve
        curve = nats(network, network.prior, network.images, sigmas, batch_size=len(some), seed=seed)
    noise = Noise.from_scheduler(scheduler)
    return curve, _linearity(curve.sigma, torch.stack(network.kept, -1), noise, SHARE * variance(images), seed)


def variance(images: Tensor) -> float:
    """The total variance of images `(n, *shape)`: the trace of their covariance."""
    return images.double().flatten(1).var(0).sum().item()


def _levels(within: tuple[float, float], images: Tensor, start: float | None) -> Tensor:
    """24 levels, from 10 norms of the data to a tenth of a value's deviation, the start's among them."""
    low, high = within
    variances = images.double().var(0)
    ends = [10 * variances.sum().sqrt().item(), 0.1 * variances.mean().sqrt().item()]
    top, bottom = (min(max(end, low), high) for end in ends)
    if start is None or not math.isfinite(start):  # without any signal all is known: the highest level stands for it
        return torch.from_numpy(np.geomspace(top, bottom, LEVELS).clip(low, high))
    start = min(max(start, low), high)
    sigma = torch.from_numpy(np.geomspace(max(top, start), min(bottom, start), LEVELS).clip(low, high))
    sigma[(sigma.log() - math.log(start)).abs().argmin()] = start
    return sigma


# --- one evaluation for both ------------------------------------------------------------------------------------------


class _Network:
    """The network as a denoiser of all images at once, which keeps what each level tells beside the nats.

    `nats` asks it once at each level, highest first, so that no evaluation is made twice.
    """

    def __init__(
        self,
        model: Any,
        scheduler: Any,
        conditions: Conditions,
        prior: Prior,
        images: Tensor,
        told: Callable[[str], None],
    ) -> None:
        whole = from_diffusers(model, scheduler, conditions.labels, model_kwargs=conditions.kwargs)
        whole.require_rows(len(images))
        self.parts = [whole.rows(slice(at, at + BATCH)) for at in range(0, len(images), BATCH)]
        first = self.parts[0]
        self.shape, self.sigma_range = first.shape, first.sigma_range
        self.dtype, self.device = first.dtype, first.device
        self.prior = prior.to(self.device).for_labels(conditions.labels)
        self.images, self.told = images.to(self.device, self.dtype), told
        self.kept: list[Tensor] = []

    @torch.no_grad()
    def __call__(self, y: Tensor, sigma: Any) -> Tensor:
        d_p = torch.cat([evaluate(part, batch, sigma) for part, batch in zip(self.parts, y.split(BATCH))])
        d_q = evaluate(self.prior, y, sigma, "prior")
        centred = d_p - d_p.double().mean(0).to(d_p)
        spread = _energy(centred) * len(y) / (len(y) - 1)
        gain = _energy(self.images - d_q) - _energy(self.images - d_p)
        self.kept.append(torch.stack([_energy(d_p - d_q), spread, gain]).cpu())
        self.told(f"network at sigma = {float(sigma):.3g}")
        return d_p


def _energy(x: Tensor) -> Tensor:
    return x.flatten(1).double().square().sum(1)


# --- what it says -----------------------------------------------------------------------------------------------------


def _linearity(sigma: Tensor, energies: Tensor, noise: Noise, least: float, seed: int) -> Linearity:
    """Return R^2 at all levels; those with A and B below `least` are not informative.

    Args:
        sigma: `(L,)`.
        energies: `(3, n, L)`, for each image at each level its terms of A, of B (over n - 1) and of g.
        noise: gives levels their times.
        least: of the data's variance.
        seed: of the bootstrap.
    """
    deviation, spread, gain = energies
    r2, r2_error = _with_error(lambda index: _r2(deviation[index], spread[index]), len(gain), seed)
    data, data_error = _with_error(lambda index: _r2(gain[index], spread[index]).clamp(max=1), len(gain), seed)
    informative = torch.maximum(deviation.mean(0), spread.mean(0)) >= least
    limit, fails = _limit(sigma, gain, spread, informative, noise, "data")
    network_limit, _ = _limit(sigma, deviation, spread, informative, noise, "network")
    return Linearity(
        sigma=sigma,
        t=noise.clamped_time(sigma),
        r2=r2,
        r2_error=r2_error,
        data=data,
        data_error=data_error,
        informative=informative,
        gain=gain.mean(0),
        gain_error=gain.std(0) / math.sqrt(len(gain)),
        limit=limit,
        network_limit=network_limit,
        fails_from_top=fails,
    )


def _r2(deviation: Tensor, spread: Tensor) -> Tensor:
    return 1 - deviation.mean(0) / spread.mean(0).clamp(min=torch.finfo(torch.float64).tiny)


def _with_error(feature: Callable[[Tensor], Tensor], n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return a feature of the indices of n images, and its standard error by bootstrap."""
    generator = seeded(seed)
    drawn = [feature(torch.randint(n, (n,), generator=generator)) for _ in range(RESAMPLES)]
    return feature(torch.arange(n)), torch.stack(drawn).std(0)


def _limit(
    sigma: Tensor, deviation: Tensor, spread: Tensor, informative: Tensor, noise: Noise, whose: str
) -> tuple[CriticalLevel | None, bool]:
    """The level down to which R^2 is at least 0.95, and whether it is below from the first informative level on.

    `R^2 = 0.95` where the mean over images of `deviation - 0.05 spread` is 0. The interval runs from the first level at
    which it may be below, within 2 standard errors, to the first at which it must be.
    """
    excess = (deviation - (1 - LINEAR[0]) * spread)[:, informative] / spread[:, informative].mean(0)
    sigma, mean, error = sigma[informative], excess.mean(0), excess.std(0) / math.sqrt(len(excess))
    must, first, may = (_rises(sigma, mean + k * error) for k in (-2, 0, 2))
    if must is None or first is None or may is None or must == sigma[0]:
        return None, must is not None
    how = f"R^2 of the {whose} against the prior's denoiser falls below {LINEAR[0]:g}; {len(excess)} images"
    return CriticalLevel(first, f"linear, {whose}", how, (must, may)).on(noise), False


def _rises(sigma: Tensor, values: Tensor) -> float | None:
    """The first level at which values rise above 0, linear in log sigma between two; None where they never do."""
    above = (values > 0).nonzero().flatten().tolist()
    if not above or above[0] == 0:
        return sigma[0].item() if above else None
    before, k = above[0] - 1, above[0]
    share = -values[before] / (values[k] - values[before])
    return torch.lerp(sigma[before].log(), sigma[k].log(), share).exp().item()
