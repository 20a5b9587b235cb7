"""What is to be analysed, and where: a network beside the point cloud of its images, and the levels to look at.

Branches are followed over levels about the deviation of the data along its first principal direction, paths from far
above the data to far below; second branches are sought from the means of classes or clusters. All input is checked
here, before the work.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import svds
from torch import Tensor

from latestart.checks import seeded
from latestart.data import Images
from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import PointCloud
from latestart.denoisers.networks import from_diffusers
from latestart.experiments.analysis import CLOUD, NETWORK
from latestart.gaussians.clusters import kmeans
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.levels import FEWEST, enough, evaluate

Classify = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """How finely to look.

    Attributes:
        step: between the levels of a branch, in log sigma.
        eigenvalues: at each point of a central branch, the leading one among them.
        halves, second_halves: random halves of the images, for the interval of a branch and of a second branch.
        paths: of the reverse SDE, for clones, U-turns, pushes and correlations.
        path_levels, refine: levels at which they are looked at, and steps of the sampler between two of them.
        probes: sample paths along which exponents are taken.
        exponent_levels: at as many levels.
        held_out: images for the nats.
        clusters: k-means centres as starts, where the images have no labels.
        seed: of all that is random.
    """

    step: float = 0.13
    eigenvalues: int = 6
    halves: int = 6
    second_halves: int = 3
    paths: int = 96
    path_levels: int = 18
    refine: int = 3
    probes: int = 10
    exponent_levels: int = 14
    held_out: int = 128
    clusters: int = 10
    seed: int = 0

    @classmethod
    def quick(cls, seed: int = 0) -> "Settings":
        """Settings for a look of about a minute."""
        return cls(0.25, 3, 2, 2, 24, 12, 2, 4, 8, 48, 10, seed)


@dataclass(frozen=True, eq=False, repr=False)
class Subject(Record):
    """One of the two denoisers, and the images that are held against it."""

    name: str
    denoiser: Denoiser
    images: Tensor
    symmetric: bool | None


@dataclass(frozen=True, eq=False, repr=False)
class Task(Record):
    """What is analysed, and where.

    Attributes:
        network, cloud: the two subjects.
        noise: gives the levels their t.
        levels: falling, in sigma, at which branches are followed.
        path_sigmas: falling, in sigma, for paths: from far above the data to far below.
        starts: `(k, *shape)`, class or cluster means, from which second branches are sought.
        prior: the Gaussian whose divergence is measured.
        classify: from samples to class indices, or None.
    """

    network: Subject
    cloud: Subject
    noise: Noise
    levels: list[float]
    path_sigmas: list[float]
    starts: Tensor
    prior: Gaussian
    classify: Classify | None
    settings: Settings

    @property
    def subjects(self) -> tuple[Subject, Subject]:
        """The point cloud first: its central point is where the network's is sought."""
        return self.cloud, self.network

    def half(self, number: int) -> PointCloud:
        """The point cloud of a random half of the images."""
        images, order = self.cloud.images, np.random.default_rng((self.settings.seed, number))
        return PointCloud(images[torch.from_numpy(order.permutation(len(images))[: len(images) // 2])])


def prepare(
    model: Any,
    scheduler: Any,
    images: Tensor,
    labels: Tensor | None = None,
    held_out: Tensor | None = None,
    *,
    prior: Gaussian | None = None,
    classify: Classify | None = None,
    t_range: tuple[float, float] | None = None,
    settings: Settings | None = None,
) -> Task:
    """Check what is given, and say where to look.

    All images are taken in an order that the seed draws: those at hand may be in the order of their classes.

    Args:
        model, scheduler: the network, and the scheduler that it was trained with.
        images: `(n, *shape)`, in the model's value range: the points of the cloud.
        labels: `(n,)` class indices, whose means are starts of second branches; else clusters.
        held_out: `(m, *shape)`, images that the network has not seen; `images` themselves where there are none.
        prior: the Gaussian for the nats; fitted to `images` where there is none.
        classify: from samples `(B, *shape)` to class indices `(B,)`; without it clones and U-turns cannot be judged.
        t_range: lowest and highest t of the branches, in the scheduler's units; by default sigma from a quarter to
            four times the deviation of the data along its first principal direction.
        settings: how finely to look.

    Raises:
        ValueError: fewer than 20 images; images, held-out images and model that do not fit together; a range outside
            of the schedule; a network that returns another shape, NaN or infinite values (says at which level).
    """
    settings = settings or Settings()
    denoiser = from_diffusers(model, scheduler)
    noise = denoiser.noise
    order = torch.randperm(len(images), generator=seeded(settings.seed))
    images, labels = images[order].to(denoiser.device), None if labels is None else labels[order].to(denoiser.device)
    if held_out is not None:
        held_out = held_out[torch.randperm(len(held_out), generator=seeded(settings.seed))].to(denoiser.device)
    held_out = images if held_out is None else held_out
    for name, given, least in (("images", images, 2 * FEWEST), ("held-out images", held_out, FEWEST)):
        if tuple(given.shape[1:]) != tuple(denoiser.shape) or len(given) < least:
            raise ValueError(
                f"expected at least {least} {name} of the model's shape {tuple(denoiser.shape)}, received "
                f"{tuple(given.shape)}"
            )
        enough(given, "analyze")
    prior = (prior or Gaussian.fit(Images(images.cpu()))).to(denoiser.device)
    deviation = _deviation(images)
    levels = _levels(noise, deviation, t_range, settings.step)
    _check(denoiser, held_out[:4], levels)
    low, high = noise.sigma_range
    path_sigmas = np.geomspace(min(6 * deviation, high), max(0.02 * deviation, low), settings.path_levels)
    return Task(
        Subject(NETWORK, denoiser, held_out, None),
        Subject(CLOUD, PointCloud(images), images, True),
        noise,
        levels,
        path_sigmas.clip(low, high).tolist(),
        _means(images, labels, settings),
        prior,
        classify,
        settings,
    )


def _deviation(images: Tensor) -> float:
    """The standard deviation of the images along their first principal direction.

    Raises:
        ValueError: the images are all the same.
    """
    rows = (images - images.mean(0)).flatten(1).double().cpu().numpy()
    if min(rows.shape) <= 64:
        top = float(np.linalg.svd(rows, compute_uv=False)[0])
    else:
        top = float(svds(rows, k=1, v0=np.ones(min(rows.shape)), return_singular_vectors=False)[0])
    if not top > 0:
        raise ValueError(f"expected images that differ, received {len(images)} times the same")
    return top / math.sqrt(len(rows) - 1)


def _levels(noise: Noise, deviation: float, t_range: tuple[float, float] | None, step: float) -> list[float]:
    low, high = noise.sigma_range
    if t_range is None:
        ends = max(deviation / 4, low), min(4 * deviation, high)
    else:
        ends = noise.sigma(float(t_range[0])), noise.sigma(float(t_range[1]))
    if not 0 < ends[0] < ends[1] < math.inf:
        raise ValueError(
            f"expected a range of times from low to high, with noise at both, received {t_range} (sigma from "
            f"{ends[0]:.4g} to {ends[1]:.4g})"
        )
    return np.geomspace(ends[1], ends[0], math.ceil(math.log(ends[1] / ends[0]) / step) + 1).clip(low, high).tolist()


@torch.no_grad()
def _check(denoiser: Denoiser, x_0: Tensor, levels: list[float]) -> None:
    """Before the work and not in it: the network answers at every level with finite values of the right shape."""
    noise = torch.randn(x_0.shape, generator=seeded(0)).to(x_0)
    for sigma in levels:
        evaluate(denoiser, (x_0 + sigma * noise).to(denoiser.device, denoiser.dtype), sigma, "network")


def _means(images: Tensor, labels: Tensor | None, settings: Settings) -> Tensor:
    """Class means, or centres of clusters, `(k, *shape)`: the means of the noised classes in y too."""
    if labels is None or len(labels.unique()) < 2:
        labels = kmeans(images.flatten(1), settings.clusters, settings.seed)
    return torch.stack([images[labels == label].mean(0) for label in labels.unique()])
