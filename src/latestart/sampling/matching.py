"""Whether a prior and a model speak of the same images: the same shape, the same mean, the same spread.

Two evaluations of the network on a few samples of the noised prior tell it. With `D` the denoisers of both:

    far above the data    both know little but their means:          mean of D_network(y) - D_prior(y)
    at the data's width   what is kept of y shows the data's scale:  spread of D_network(y) over that of D_prior(y)

A prior fitted to images in [0, 1] or in bytes shows in the first, one that is scaled about the same mean in the second;
so do a scheduler or a prediction type that the network was not trained with, and a network that was not trained.

A third, at the start of a run, tells whether the network follows the prior there:

    R^2 = 1 - E|D_network - D_prior|^2 / E|D_network - E D_network|^2

on the prior's own samples. `check` measures the same on images, and much more.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.adapter import Network, as_network
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import NetworkDenoiser, from_diffusers
from latestart.gaussians.prior import Prior, StartDistribution
from latestart.sampling.late_start import start_level
from latestart.sampling.seeds import white_noise
from latestart.theory.levels import evaluate

SAMPLES = 32
SHIFT = 0.5  # of the data's width
SPREAD = 2.0  # either way
FOLLOWS = 0.5  # of the R^2, as in `check`


__all__ = ["SAMPLES", "Match", "check_prior", "check_shape", "doubt", "match"]


@dataclass(frozen=True, kw_only=True)
class Match:
    """The outputs of a prior and a model for the same samples, compared.

    Attributes:
        far, near: the levels sigma at which they were asked.
        means: lowest and highest value of the mean image, of the prior's denoiser and of the model's, at `far`.
        apart: root mean square of the difference of these images.
        width: root mean square deviation of the prior's samples.
        spreads: root mean square deviation of what the prior's denoiser and the model's keep, at `near`.
    """

    far: float
    near: float
    means: tuple[tuple[float, float], tuple[float, float]]
    apart: float
    width: float
    spreads: tuple[float, float]

    @property
    def agrees(self) -> bool:
        """Whether both can be of the same images."""
        mine, theirs = self.spreads
        return self.apart <= SHIFT * self.width and theirs / SPREAD <= mine <= theirs * SPREAD

    @property
    def sentence(self) -> str:
        """The comparison in words, with the possible causes of a disagreement."""
        (low, high), (model_low, model_high) = self.means
        seen = (
            f"at sigma = {self.far:.3g} the mean image of the prior runs from {low:.3g} to {high:.3g} and that of the "
            f"model from {model_low:.3g} to {model_high:.3g}, and at sigma = {self.near:.3g} what the prior keeps of "
            f"its samples spreads by {self.spreads[0]:.3g} about the mean and what the model keeps by "
            f"{self.spreads[1]:.3g}"
        )
        if self.agrees:
            return f"the prior and the model speak of the same images: {seen}"
        return (
            f"the prior and the model speak of different values: {seen}. Either the prior was fitted to images in "
            "another range than the model's own (usually [-1, 1]), or the scheduler or its prediction_type is not the "
            "one that the network was trained with, or the network is not trained; check_prior=False goes on all the "
            "same"
        )


@torch.inference_mode()
def match(model: Any, scheduler: Any, prior: Prior, conditions: Conditions | None = None) -> Match:
    """Compare a prior with a network, by two evaluations of 32 samples.

    Args:
        model: a diffusers network, or whatever `as_network` takes.
        scheduler: the one that the network was trained with, or any made from it.
        prior: on the network's device.
        conditions: those that will be asked for, in turn; None is all of the network's classes.

    Raises:
        ValueError: a network that returns another shape, NaN or infinite values, with the level at which it does.
    """
    network = as_network(model)
    denoiser, labels = _asked(network, scheduler, prior, conditions)
    z = white_noise(range(SAMPLES), prior.shape, seed=0).to(network.device)
    width = _spread(prior.push(z, labels))
    lowest, highest = denoiser.sigma_range
    far, near = (min(max(k * width, lowest), 0.999 * highest) for k in (30.0, 1.0))
    (mine, theirs), kept = (_kept(prior, labels, denoiser, z, sigma) for sigma in (far, near))
    mean, model_mean = mine.mean(0), theirs.mean(0)
    return Match(
        far=far,
        near=near,
        means=((float(mean.min()), float(mean.max())), (float(model_mean.min()), float(model_mean.max()))),
        apart=float((mean - model_mean).square().mean().sqrt()),
        width=width,
        spreads=(_spread(kept[0]), _spread(kept[1])),
    )


def check_prior(model: Any, scheduler: Any, prior: StartDistribution, conditions: Conditions | None = None) -> None:
    """Raise `ValueError` unless a prior has the model's shape and value range.

    The value range is checked of priors that denoise, the shape always.
    """
    network = as_network(model)
    check_shape(network, prior)
    if isinstance(prior, Prior) and not (found := match(network, scheduler, prior, conditions)).agrees:
        raise ValueError(found.sentence)


def check_shape(network: Network, prior: StartDistribution) -> None:
    """Raise `ValueError` unless a prior is for samples of the network's shape."""
    if tuple(prior.shape) != network.sample_shape:
        raise ValueError(
            f"the prior is for samples of shape {tuple(prior.shape)}, the model's samples are {network.sample_shape}"
        )


@torch.inference_mode()
def doubt(network: Network, late: Any, prior: StartDistribution, conditions: Conditions | None = None) -> str | None:
    """The reason for which `check` would call a start bad, by 32 samples of the prior; None where they show none.

    Args:
        network: as `as_network` gives it.
        late: the late-started scheduler.
        prior: on the network's device.
        conditions: as for `match`.
    """
    sigma = start_level(late)
    if not isinstance(prior, Prior) or not math.isfinite(sigma):  # without any signal there is nothing to follow
        return None
    denoiser, labels = _asked(network, late, prior, conditions)
    z = white_noise(range(SAMPLES), prior.shape, seed=1).to(network.device)
    mine, theirs = _kept(prior, labels, denoiser, z, sigma)
    deviation = (theirs - mine).double().square().mean()
    r2 = 1 - float(deviation / (theirs - theirs.mean(0)).double().square().mean().clamp(min=1e-300))
    if r2 >= FOLLOWS:
        return None
    t = denoiser.noise.time(sigma)
    return (
        f"at the start, t = {t:g} (sigma = {sigma:.3g}), the prior's denoiser explains R^2 = {r2:.2f} of what the "
        "network does with the prior's own samples: check would call this start bad; start earlier (at a larger t), "
        "from a prior of more components, or ask ls.check with held-out images"
    )


def _asked(
    network: Network, scheduler: Any, prior: Prior, conditions: Conditions | None
) -> tuple[NetworkDenoiser, Tensor | int | None]:
    """The network's denoiser for the compared samples, and their labels in the prior's form."""
    if conditions is None:
        conditions = Conditions(network, None if network.classes is None else torch.arange(network.classes))
    mine = conditions.turned(SAMPLES)
    denoiser = from_diffusers(network, scheduler, mine.labels, model_kwargs=mine.kwargs)
    return denoiser, prior.own_labels(mine.labels)


def _kept(
    prior: Prior, labels: Tensor | int | None, denoiser: NetworkDenoiser, z: Tensor, sigma: float
) -> tuple[Tensor, Tensor]:
    """Denoise the noised prior's samples by the prior and by the network."""
    y = prior.noised(sigma).push(z, labels)
    return prior(y, sigma, labels), evaluate(denoiser, y, sigma, "model")


def _spread(images: Tensor) -> float:
    return float((images - images.mean(0)).square().mean().sqrt())
