"""The priors of tuning, fitted to part of the images, and the noise levels at which late starts from them are tried."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from latestart.checks import seeded
from latestart.data import Images
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import NetworkDenoiser
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.sampling.components import choose_components
from latestart.sampling.ways import GAUSSIAN
from latestart.theory.nats import NatsCurve, nats
from latestart.tuning.candidates import starts_of
from latestart.tuning.pictures import Pictures

__all__ = ["MIXTURE", "Starts", "fitted", "levels_of"]

log = logging.getLogger(__name__)

MIXTURE = "mixture"
SIZES = (5, 10, 30, 100)  # components that are tried, as far as there are 20 images for each
DENSE = 128  # values of an image up to which the components of a mixture have a covariance in all of them
RANK = 64  # directions of the components of larger images
IMAGES, LEVELS = 64, 24  # for the nats
REACH = 1000.0  # from the highest to the lowest level of the nats


@dataclass(frozen=True)
class Starts:
    """Priors by name, each with its nats and the levels of its starts."""

    priors: Mapping[str, Any]
    curves: Mapping[str, NatsCurve]
    levels: Mapping[str, list[float]]

    @property
    def nfe(self) -> int:
        """Return the evaluations that the nats took."""
        return sum(curve.nfe for curve in self.curves.values())


def fitted(pictures: Pictures, labels: bool, sigma: float, seed: int, device: Any) -> dict[str, Any]:
    """Return the Gaussian of the fitted images and, where held-out images support one, a mixture.

    Args:
        pictures: the images.
        labels: whether there is a component for each of their classes, in place of clusters.
        sigma: the level at which held-out images decide on the number of components.
        seed: of the clusters.
        device: where the priors are to be.
    """
    images = pictures.fitted
    priors: dict[str, Any] = {GAUSSIAN: Gaussian.fit(images).to(device)}
    large = images.pixels[0].numel() > DENSE
    how: dict[str, Any] = {"basis": "lowrank", "rank": min(RANK, len(images) // 4)} if large else {}
    try:
        if labels:
            mixture = Mixture.fit(images, labels=True, seed=seed, **how)
        else:
            chosen = choose_components(images, pictures.held_out, sigma, (1, *SIZES), seed=seed, **how)
            mixture = chosen.mixture
    except ValueError as error:  # copies at every size, or images that cannot be told apart
        log.warning("there is no mixture to start from: %s", error)
        return priors
    if len(mixture.components) > 1:
        priors[MIXTURE] = mixture.to(device)
    return priors


def levels_of(
    model: Any, scheduler: Any, priors: Mapping[str, Any], held_out: Images, conditions: Conditions, seed: int
) -> Starts:
    """Return priors with their nats on held-out images, and the levels at which they are wrong by those of the ladder.

    Args:
        model: the network, counted by the caller.
        scheduler: the one that it was trained with.
        priors: by name.
        held_out: images that no prior was fitted to.
        conditions: those of the held-out images.
        seed: of the noise and the order of the images.
    """
    order = torch.randperm(len(held_out), generator=seeded(seed))[:IMAGES]
    values, mine = held_out[order].floats().to(model.device), conditions[order] if conditions.count else conditions
    curves, levels = {}, {}
    for name, prior in priors.items():
        denoiser = NetworkDenoiser(model, scheduler, mine.labels, model_kwargs=mine.kwargs)
        low, high = denoiser.sigma_range
        top = min(high, 3 * float(values.flatten(1).double().var(0).sum().sqrt()))
        sigmas = torch.logspace(0, 1, LEVELS, base=max(low, top / REACH) / top, dtype=torch.float64) * top
        curves[name] = nats(denoiser, prior.for_labels(mine.labels), values, sigmas, seed=seed)
        levels[name] = starts_of(curves[name], name, denoiser.noise)
    return Starts(priors, curves, levels)
