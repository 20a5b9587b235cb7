"""A diagnosis: the point cloud of the images, a network beside it, and all that is known of both.

Branches are followed over levels about the deviation of the data along its first principal direction, paths from far
above the data to far below; second branches are sought from the means of classes or clusters. A `Case` keeps each walk
and each curve, so that criteria that need the same one share it. `prepare` checks all input before the work.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
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
from latestart.diagnosis.central import Found
from latestart.gaussians.clusters import kmeans
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.branches import Criterion, Follower
from latestart.theory.collapse import collapse
from latestart.theory.exponents import Exponents
from latestart.theory.levels import FEWEST, Curve, enough, evaluate
from latestart.theory.nats import NatsCurve, nats
from latestart.theory.stability import Trace, trace

__all__ = ["CLOUD", "DATA", "NETWORK", "Case", "Classify", "Settings", "Subject", "Swarm", "prepare"]

NETWORK, CLOUD, DATA = "network", "point cloud", "data"
HALVINGS = 3  # of a step along a network's branch: near a fold each one that fails is dear there
BATCH = 256  # images classified at once
Classify = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The fineness of a diagnosis.

    Attributes:
        step: between the levels of a branch, in log sigma.
        eigenvalues: at each point of a central branch, the leading one among them.
        halves, second_halves: random halves of the images, for the interval of a branch and of a second branch.
        paths: of the reverse SDE, for clones, U-turns, pushes and correlations.
        path_levels, refine: levels at which they are looked at, and steps of the sampler between two of them.
        probes: sample paths along which exponents are taken.
        exponent_levels: number of levels of the exponents.
        held_out: images for the nats.
        clusters: k-means centres as starts, where the images have no classes.
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
        return cls(
            step=0.25, eigenvalues=3, halves=2, second_halves=2, paths=24, path_levels=12, refine=2, probes=4,
            exponent_levels=8, held_out=48, seed=seed,
        )  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class Subject(Record):
    """One of the two denoisers, the images that are held against it, and whether its Jacobian is symmetric."""

    name: str
    denoiser: Denoiser
    images: Tensor
    symmetric: bool | None


@dataclass(frozen=True, eq=False, repr=False)
class Swarm(Record):
    """One pixel's normalised values along paths: levels `(L + 1,)`, values `(L + 1, n)`, and its index."""

    sigma: Tensor
    values: np.ndarray
    pixel: tuple[int, ...]


@dataclass(eq=False, repr=False, kw_only=True)
class Case(Record):
    """The images and the network of a diagnosis, and all that is known of them so far.

    Attributes:
        images: `(n, *shape)`, the points of the cloud.
        noise: gives the levels their t.
        settings: how finely to look.
        network: None where only the cloud is looked at.
        labels: `(n,)`, the class indices of the images.
        classify: from samples to class indices; stands in for labels that are missing.
        prior: the Gaussian for the network's nats.
        t_range: lowest and highest t of the branches.
        traces: the branches that were followed, by criterion and subject or number of a half of the images.
        curves: means over samples at each level, by criterion and subject.
        exponents, swarms, nats: by subject.
    """

    images: Tensor
    noise: Noise
    settings: Settings = field(default_factory=Settings)
    network: Subject | None = None
    labels: Tensor | None = None
    classify: Classify | None = None
    prior: Gaussian | None = None
    t_range: tuple[float, float] | None = None
    traces: dict[tuple[str, str | int], tuple[Follower, Trace]] = field(default_factory=dict)
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)
    exponents: dict[str, Exponents] = field(default_factory=dict)
    swarms: dict[str, Swarm] = field(default_factory=dict)
    nats: dict[str, NatsCurve] = field(default_factory=dict)

    def subject(self, name: str) -> Subject:
        """The network, or the point cloud under its own name or that of its images."""
        if name != NETWORK:
            return replace(self.cloud, name=name)
        assert self.network is not None
        return self.network

    @cached_property
    def cloud(self) -> Subject:
        """The point cloud of the images, whose denoiser is exact."""
        return Subject(CLOUD, PointCloud(self.images), self.images, True)

    def half(self, number: int) -> Tensor:
        """A random half of the images."""
        order = np.random.default_rng((self.settings.seed, number)).permutation(len(self.images))
        return self.images[torch.from_numpy(order[: len(order) // 2])]

    @cached_property
    def classes(self) -> Tensor | None:
        """The class index of each image, by its label or by the classifier, `(n,)`.

        Raises:
            ValueError: the classifier returns something else.
        """
        if self.labels is not None or self.classify is None:
            return self.labels
        with torch.no_grad():
            found = torch.cat([torch.as_tensor(self.classify(batch)) for batch in self.images.split(BATCH)])
        if found.shape != self.images.shape[:1] or found.is_floating_point():
            raise ValueError(
                f"expected a classifier to return class indices ({len(self.images)},), received {found.dtype} "
                f"{tuple(found.shape)}"
            )
        return found.to(self.images.device)

    @cached_property
    def collapse(self) -> float:
        """The highest level at which the cloud may collapse, by the interval of its collapse; 0 where it has none."""
        try:
            level = collapse(self.images, seed=self.settings.seed)
        except ValueError:
            return 0.0
        return level.interval[1] if level.interval else level.sigma

    @cached_property
    def deviation(self) -> float:
        """The standard deviation of the images along their first principal direction.

        Raises:
            ValueError: the images are all the same.
        """
        rows = (self.images - self.images.mean(0)).flatten(1).double().cpu().numpy()
        if min(rows.shape) <= 64:
            top = float(np.linalg.svd(rows, compute_uv=False)[0])
        else:
            top = float(svds(rows, k=1, v0=np.ones(min(rows.shape)), return_singular_vectors=False)[0])
        if not top > 0:
            raise ValueError(f"expected images that differ, received {len(rows)} times the same")
        return top / math.sqrt(len(rows) - 1)

    @cached_property
    def levels(self) -> list[float]:
        """Falling levels in sigma at which branches are followed.

        Raises:
            ValueError: a range outside of the schedule.
        """
        low, high = self.noise.sigma_range
        if self.t_range is None:
            ends = max(self.deviation / 4, low), min(max(4 * self.deviation, 2 * self.collapse), high)
        else:
            ends = self.noise.sigma(float(self.t_range[0])), self.noise.sigma(float(self.t_range[1]))
        if not 0 < ends[0] < ends[1] < math.inf:
            raise ValueError(
                f"expected a range of times from low to high, with noise at both, received {self.t_range} (sigma from "
                f"{ends[0]:.4g} to {ends[1]:.4g})"
            )
        count = math.ceil(math.log(ends[1] / ends[0]) / self.settings.step) + 1
        return np.geomspace(ends[1], ends[0], count).clip(low, high).tolist()

    @cached_property
    def path_sigmas(self) -> list[float]:
        """Falling levels in sigma for paths: from far above the data to far below."""
        low, high = self.noise.sigma_range
        ends = min(6 * self.deviation, high), max(0.02 * self.deviation, low)
        return np.geomspace(*ends, self.settings.path_levels).clip(low, high).tolist()

    @property
    def paths(self) -> int:
        """The number of sample paths, enough for an interval."""
        return max(FEWEST, self.settings.paths)

    @property
    def steps(self) -> dict[str, int]:
        """The steps between two levels of paths, and the seed of their noise, as `theory.critical` takes them."""
        return {"refine": self.settings.refine, "seed": self.settings.seed}

    @cached_property
    def starts(self) -> Tensor:
        """Class means, or centres of clusters, `(k, *shape)`: the means of the noised classes in y too."""
        labels = self.classes
        if labels is None or len(labels.unique()) < 2:
            clusters = min(self.settings.clusters, len(self.images))
            labels = kmeans(self.images.flatten(1), clusters, self.settings.seed)
        return torch.stack([self.images[labels == label].mean(0) for label in labels.unique()])

    def traced(self, criterion: Criterion, whose: str | int) -> tuple[Follower, Trace]:
        """The central branch of a subject, or of a half of the images by its number, followed once.

        The network's begins where the cloud's does. These two are followed to the lowest level, for their picture; all
        others to their end, and to one level below the collapse of the cloud.

        Raises:
            ConvergenceError: there is none at the highest level.
        """
        if (criterion, whose) not in self.traces:
            start, follower = self.images.mean(0), Follower(self.cloud.denoiser, criterion, True)
            levels, whole = self.levels, self.network is not None and not isinstance(whose, int)
            if isinstance(whose, int):
                follower = replace(follower, denoiser=PointCloud(self.half(whose)))
            elif whose == NETWORK:
                start = self.traced(criterion, CLOUD)[1].points[0].point
                network = self.subject(NETWORK)
                follower = Follower(network.denoiser, criterion, network.symmetric, halvings=HALVINGS)
            if not whole:
                levels = [level for level, last in zip(levels, [math.inf, *levels]) if last >= self.collapse]
            self.traces[criterion, whose] = follower, trace(follower, levels, start, past=whole)
        return self.traces[criterion, whose]

    def over_halves(self, found: Found, count: int, find: Callable[[int], Found]) -> Found:
        """A level of the cloud, with the range over random halves of the images as its interval.

        By the delete-half jackknife, the spread of halves is that of whole samples.
        """
        others = []
        for number in range(count):
            try:
                others.append(find(number).level.sigma)
            except ValueError:
                continue
        how = f"{found.level.how}, {len(self.images)} images"
        if count:
            how += f"; range over the {len(others)} of {count} random halves that have it"
        ends = [found.level.sigma, *others]
        interval = (min(ends), max(ends)) if others else None
        return found._replace(level=replace(found.level, how=how, interval=interval))

    def divergence(self, of: str) -> NatsCurve:
        """The network's on held-out images from the prior; the cloud's, exact on its points, from their Gaussian."""
        if of not in self.nats:
            subject, exact = self.subject(of), of == CLOUD
            prior = Gaussian.fit(Images(self.images)) if exact else self.prior
            images, seed = subject.images[: self.settings.held_out], self.settings.seed
            self.nats[of] = nats(subject.denoiser, prior, images, exact=exact, seed=seed)
        return self.nats[of]

    def times(self, sigma: Iterable[float]) -> list[float]:
        """The scheduler's t of levels; below and above the process, its first and last."""
        return [self.noise.clamped_time(float(s)) for s in sigma]


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
) -> Case:
    """Check the images and the network for `analyze`, and return their case.

    All images are taken in an order that the seed draws: those at hand may be in the order of their classes.

    Args:
        model, scheduler: the network, and the scheduler that it was trained with.
        images: `(n, *shape)`, in the model's value range: the points of the cloud.
        labels: `(n,)` class indices, whose means are starts of second branches; else the classifier's, else clusters.
        held_out: `(m, *shape)`, images that the network has not seen; `images` themselves where there are none.
        prior: the Gaussian for the nats; fitted to `images` where there is none.
        classify: from samples `(B, *shape)` to class indices `(B,)`; without it clones and U-turns cannot be judged.
        t_range: lowest and highest t of the branches, in the scheduler's units; by default sigma from a quarter to
            four times the deviation of the data along its first principal direction, and above the cloud's collapse.
        settings: how finely to look.

    Raises:
        ValueError: fewer than 20 images; images, held-out images and model that do not fit together; a range outside
            of the schedule; a network that returns another shape, NaN or infinite values (says at which level).
    """
    settings, denoiser = settings or Settings(), from_diffusers(model, scheduler)

    def shuffled(given: Tensor) -> Tensor:
        return given[torch.randperm(len(given), generator=seeded(settings.seed))].to(denoiser.device)

    images, labels = shuffled(images), None if labels is None else shuffled(labels)
    held_out = images if held_out is None else shuffled(held_out)
    for name, given, least in (("images", images, 2 * FEWEST), ("held-out images", held_out, FEWEST)):
        if tuple(given.shape[1:]) != tuple(denoiser.shape) or len(given) < least:
            raise ValueError(
                f"expected at least {least} {name} of the model's shape {tuple(denoiser.shape)}, received "
                f"{tuple(given.shape)}"
            )
        enough(given, "analyze")
    case = Case(
        images=images,
        noise=denoiser.noise,
        settings=settings,
        network=Subject(NETWORK, denoiser, held_out, None),
        labels=labels,
        classify=classify,
        prior=(prior or Gaussian.fit(Images(images.cpu()))).to(denoiser.device),
        t_range=t_range,
    )
    noise = torch.randn(held_out[:4].shape, generator=seeded(0)).to(held_out)
    for sigma in case.levels:  # finite values of the right shape from the network, before the work
        with torch.no_grad():
            evaluate(denoiser, (held_out[:4] + sigma * noise).to(denoiser.dtype), sigma, "network")
    return case
