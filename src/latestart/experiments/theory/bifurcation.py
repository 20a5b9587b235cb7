"""Bifurcations: the paper's one-dimensional diagram, and the tree of decisions of a set of images.

The diagram. Data at +-1, theta = alpha, x = theta y the state of the variance preserving process. The fixed points of
the reverse SDE solve

    (1 + theta^2) x = 2 theta tanh(theta x / (1 - theta^2)),    theta_c = sqrt(sqrt(2) - 1)

(Raya and Ambrogioni 2023, section 3). They are followed here as those of any denoiser are, and laid over the closed
form. Expected: theta_c = 0.6436, and branches within 1e-6 of the closed form.

The tree. Labelled images are a point cloud whose denoiser is exact; its stable fixed points are followed down in
noise, with the means of the classes among the starts. Expected of the 2,000 images shipped with the MNIST model under
"sde": the first split at t = 591 of 1,000 (linear betas 1e-4 to 0.02), where the zeros part, all others between 565 and
525; 12 leaves. Images have no symmetry, so no branch becomes unstable: others are born beside it in folds, and a trunk
sheds one cluster after another while it bends toward the ones. The images go to the nearest leaf's
mean, and about half of them are of their leaf's most frequent digit.
"""

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from latestart import zoo
from latestart.data import Images, drawn, load_images
from latestart.denoisers.exact import PointCloud, TwoPoints
from latestart.experiments.theory.process import sigma_of
from latestart.experiments.theory.settings import BifurcationSettings
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.noise import Discrete
from latestart.records import Record
from latestart.theory.bifurcation import THETA_C, Match, Node, Tree, bifurcation_tree, match, one_dimension
from latestart.theory.branches import BranchPoint, Criterion, Follower, constant
from latestart.theory.stability import crossing

__all__ = ["NOISE", "Bifurcations", "Decisions", "Diagram", "Result", "class_means", "decisions", "diagram"]

NOISE = Discrete((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0))  # of image models, usually
THETAS = (0.3, 0.99)


# --- one dimension ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Diagram(Record):
    """The fixed points of data at +-1, in x of the variance preserving process.

    Attributes:
        theta: `(n,)`, where the central point was followed to, increasing.
        central: `(n,)`, that point.
        ratio: `(n,)`, its `lambda / c`: stable below 1.
        outer_theta: `(m,)`, where the two others were followed to, increasing.
        upper, lower, exact: `(m,)`, those two, and the closed form of the upper one.
        theta_c: where the central point loses its stability, by root finding on its Jacobian.
    """

    theta: np.ndarray
    central: np.ndarray
    ratio: np.ndarray
    outer_theta: np.ndarray
    upper: np.ndarray
    lower: np.ndarray
    exact: np.ndarray
    theta_c: float

    @property
    def deviation(self) -> float:
        """Return the largest distance of a followed branch from the closed form."""
        parts = (self.upper - self.exact, self.lower + self.exact, self.central)
        return max(float(np.abs(part).max()) for part in parts)

    def record(self) -> dict[str, Any]:
        """Return the critical scale beside its closed form, and the deviation, for JSON."""
        return {"theta_c": self.theta_c, "closed_form": THETA_C, "deviation": self.deviation}


def diagram(points: int = 50) -> Diagram:
    """Follow the central point from high noise, the two others from low noise.

    Args:
        points: of each branch; those of the outer ones are dense towards theta_c, to 1e-4 from it.
    """
    two = TwoPoints()
    follower = Follower(two, "sde", symmetric=True)

    def followed(thetas: np.ndarray, start: float) -> tuple[list[BranchPoint], np.ndarray]:
        """Follow a branch from the point that a search from `start` ends in; return its points and states."""
        found = [follower.find(sigma_of(thetas[0]), torch.tensor([start], dtype=torch.float64))]
        for theta in thetas[1:]:
            found.append(follower.follow(sigma_of(theta), found[-1]))
        return found, thetas * np.array([here.point.item() for here in found])

    theta = np.linspace(*THETAS, points)
    outer = THETA_C + np.geomspace(1e-4, THETAS[1] - THETA_C, points)
    central, states = followed(theta, 0.0)
    upper, lower = (followed(outer[::-1], side)[1][::-1] for side in (1.0, -1.0))
    return Diagram(
        theta=theta, central=states, ratio=np.array([here.ratio for here in central]), outer_theta=outer, upper=upper,
        lower=lower, exact=np.array([one_dimension(value) for value in outer]),
        theta_c=math.sqrt(crossing(two, "sde").alpha_bar),
    )  # fmt: skip


# --- images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Decisions(Record):
    """The tree of decisions of labelled images.

    Attributes:
        tree: its nodes' means are images in [-1, 1].
        match: the images by nearest leaf and class, in the order of `tree.leaves`.
        settings: as given.
        count: of images.
    """

    tree: Tree
    match: Match
    settings: BifurcationSettings
    count: int

    @property
    def top(self) -> Tensor:
        """Return the posterior mean `(C, H, W)` at the highest level, before any decision."""
        first = self.tree.nodes[0].path[0]
        return first.point * constant(self.tree.criterion, first.sigma)

    def time(self, node: Node) -> float:
        """Return the time of a node, of 1,000."""
        return min(max(NOISE.time(node.sigma), self.settings.t_low), self.settings.t_high)

    def record(self) -> dict[str, Any]:
        """Return the nodes by their levels, those of leaves with the images of each class, for JSON."""
        leaves, settings = self.tree.leaves, self.settings
        nodes = [
            {"index": node.index, "parent": node.parent, "sigma": node.sigma, "alpha_bar": 1 / (1 + node.sigma**2)}
            | {"t": self.time(node)}
            for node in self.tree.nodes
        ]
        for leaf, counts, majority in zip(leaves, self.match.counts, self.match.majority):
            nodes[leaf.index] |= {"counts": counts.tolist(), "majority": int(majority)}
        known = {"criterion": settings.criterion, "images": self.count, "t_range": [settings.t_low, settings.t_high]}
        return known | {"leaves": len(leaves), "purity": self.match.purity, "nodes": nodes}


def decisions(images: Images, settings: BifurcationSettings, progress: Progress | None = None) -> Decisions:
    """Grow the tree of a set of images, from the mean of all with those of the classes as further starts.

    Args:
        images: with labels.
        settings: of the tree; at the highest time there should be one fixed point.
        progress: called as `progress(done, total, what)` after each level.

    Raises:
        ValueError: images without labels, times outside of the process, or more than one fixed point at the highest.
    """
    if images.labels is None:
        raise ValueError(f"the tree of decisions needs images with labels, received {len(images)} images without")
    points = images.floats().double()  # near a fold, float32 does not resolve fixed points
    levels = (NOISE.sigma(settings.t_low), NOISE.sigma(settings.t_high))
    tree = bifurcation_tree(
        PointCloud(points), settings.leaves, cast(Criterion, settings.criterion), levels, points.mean(0),
        class_means(points, images.labels), step=settings.step, symmetric=True, progress=progress,
    )  # fmt: skip
    return Decisions(tree, match(tree, points, images.labels), settings, len(images))


def class_means(points: Tensor, labels: Tensor) -> Tensor:
    """Return the mean of each class that occurs, `(classes, *shape)`."""
    return torch.stack([points[labels == label].mean(0) for label in labels.unique()])


# --- the experiment ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Result(Record):
    """The diagram of two points, and the tree of decisions of the images."""

    one_dimension: Diagram
    tree: Decisions


class Bifurcations(Experiment[BifurcationSettings, Result]):
    """Bifurcations: one fixed point becomes many."""

    shown_by = "tree_page.bifurcations"

    def measure(self, settings: BifurcationSettings, lab: Lab) -> Result | None:
        """Follow the branches of two points, and of a set of images."""
        if not lab.run.first:
            return None
        if settings.images is None:
            whole = zoo.load("mnist").images("train")
        else:
            whole = load_images(settings.images, background=settings.background)
        images, line = drawn(whole, settings.limit, settings.seed), diagram()
        with lab.bar("following the branches") as advance:
            return Result(line, decisions(images, settings, advance))
