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
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from latestart import zoo
from latestart.data import Images, drawn, load_images
from latestart.denoisers.exact import PointCloud, TwoPoints
from latestart.experiments.theory.settings import BifurcationSettings
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.lab.report import Report
from latestart.noise import Discrete, Noise
from latestart.records import Record
from latestart.theory.bifurcation import THETA_C, Match, Node, Tree, bifurcation_tree, match, one_dimension
from latestart.theory.branches import BranchPoint, Criterion, Follower, constant
from latestart.theory.stability import crossing

T_RANGE = (480.0, 640.0)
THETAS = (0.3, 0.99)


def linear_betas() -> Noise:
    """The usual schedule of image models: 1,000 steps, betas from 1e-4 to 0.02."""
    return Discrete((1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0))


# --- one dimension ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
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
        """The largest distance of a followed branch from the closed form."""
        outer = np.abs(np.stack([self.upper - self.exact, self.lower + self.exact])).max()
        return float(max(outer, np.abs(self.central).max()))


def diagram(points: int = 50) -> Diagram:
    """Follow the central point from high noise, the two others from low noise.

    Args:
        points: of each branch; those of the outer ones are dense towards theta_c, to 1e-4 from it.
    """
    two = TwoPoints()
    follower = Follower(two, "sde", symmetric=True)
    theta = np.linspace(*THETAS, points)
    outer = THETA_C + np.geomspace(1e-4, THETAS[1] - THETA_C, points)
    central = _followed(follower, theta, 0.0)
    upper, lower = (_followed(follower, outer[::-1], side)[::-1] for side in (1.0, -1.0))
    return Diagram(
        theta, _states(central, theta), np.array([here.ratio for here in central]),
        outer, _states(upper, outer), _states(lower, outer), np.array([one_dimension(value) for value in outer]),
        math.sqrt(crossing(two, "sde").alpha_bar),
    )  # fmt: skip


def _followed(follower: Follower, thetas: np.ndarray, start: float) -> list[BranchPoint]:
    """A branch at the given thetas, from the point that a search from `start` ends in at the first."""
    levels = np.sqrt(1 - thetas**2) / thetas
    found = [follower.find(levels[0], torch.tensor([start], dtype=torch.float64))]
    for sigma in levels[1:]:
        found.append(follower.follow(sigma, found[-1]))
    return found


def _states(branch: list[BranchPoint], thetas: np.ndarray) -> np.ndarray:
    return thetas * np.array([here.point.item() for here in branch])


# --- images -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Decisions:
    """The tree of decisions of labelled images.

    Attributes:
        tree: its nodes' means are images in [-1, 1].
        match: the images by nearest leaf and class, in the order of `tree.leaves`.
        noise: gives the nodes' levels their times.
        t_range: lowest and highest time of the tree.
        count: of images.
    """

    tree: Tree
    match: Match
    noise: Noise
    t_range: tuple[float, float]
    count: int

    @property
    def top(self) -> Tensor:
        """The posterior mean `(C, H, W)` at the highest level, before any decision."""
        first = self.tree.nodes[0].path[0]
        return first.point * constant(self.tree.criterion, first.sigma)

    def time(self, node: Node) -> float:
        """The time of a node, in the units of `noise`."""
        return min(max(self.noise.time(node.sigma), self.t_range[0]), self.t_range[1])


def decisions(
    images: Images,
    leaves: int = 12,
    criterion: Criterion = "sde",
    t_range: tuple[float, float] = T_RANGE,
    noise: Noise | None = None,
    step: float = 0.1,
    progress: Progress | None = None,
) -> Decisions:
    """Grow the tree of a set of images, from the mean of all with those of the classes as further starts.

    Args:
        images: with labels.
        leaves: at most so many.
        t_range: lowest and highest time, in the units of `noise`; at the highest there should be one fixed point.
        noise: `linear_betas` by default.
        step: of log sigma.
        progress: called as `progress(done, total, what)` after each level.

    Raises:
        ValueError: images without labels, times outside of the process, or more than one fixed point at the highest.
    """
    if images.labels is None:
        raise ValueError(f"the tree of decisions needs images with labels, received {len(images)} images without")
    noise = noise or linear_betas()
    points = images.floats().double()  # near a fold, float32 does not resolve fixed points
    tree = bifurcation_tree(
        PointCloud(points), leaves, criterion, (noise.sigma(t_range[0]), noise.sigma(t_range[1])), points.mean(0),
        class_means(points, images.labels), step=step, symmetric=True, progress=progress,
    )  # fmt: skip
    return Decisions(tree, match(tree, points, images.labels), noise, t_range, len(images))


def class_means(points: Tensor, labels: Tensor) -> Tensor:
    """The mean of each class that occurs, `(classes, *shape)`."""
    return torch.stack([points[labels == label].mean(0) for label in labels.unique()])


def _record(node: Node, t: float) -> dict[str, Any]:
    level = {"sigma": node.sigma, "alpha_bar": 1 / (1 + node.sigma**2), "t": t}
    return {"index": node.index, "parent": node.parent, **level}


# --- the experiment ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Result:
    """The diagram of two points, and the tree of decisions of the images."""

    diagram: Diagram
    decisions: Decisions

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        diagram, decisions = self.diagram, self.decisions
        found = decisions.match
        leaves = {node.index: k for k, node in enumerate(decisions.tree.leaves)}
        nodes = [_record(node, decisions.time(node)) for node in decisions.tree.nodes]
        for index, k in leaves.items():
            nodes[index] |= {"counts": found.counts[k].tolist(), "majority": int(found.majority[k])}
        return {
            "one_dimension": {"theta_c": diagram.theta_c, "closed_form": THETA_C, "deviation": diagram.deviation},
            "tree": {
                "criterion": decisions.tree.criterion,
                "images": decisions.count,
                "t_range": list(decisions.t_range),
                "leaves": len(leaves),
                "purity": found.purity,
                "nodes": nodes,
            },
        }


class Bifurcations(Experiment[BifurcationSettings, Result]):
    """How one fixed point becomes many."""

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
            found = decisions(
                images, settings.leaves, cast(Criterion, settings.criterion), (settings.t_low, settings.t_high),
                step=settings.step, progress=advance,
            )  # fmt: skip
        return Result(line, found)

    def page(self, result: Result, folder: Path) -> Report:
        """Draw the diagram and the tree, and return them in words."""
        from latestart.experiments.theory.tree_page import bifurcations

        return bifurcations(result, folder)
