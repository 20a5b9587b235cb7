"""Bifurcations: how one fixed point becomes many as the noise falls.

In one dimension, data at +-1 and the paper's theta = alpha, the fixed points of the reverse SDE solve

    (1 + theta^2) x = 2 theta tanh(theta x / (1 - theta^2)),

only x = 0 up to `theta_c = sqrt(sqrt(2) - 1)`, and +-x* beyond, with `|x*| ~ (theta - theta_c)^(1/2)`: a pitchfork
(Raya and Ambrogioni 2023, section 3).

In any dimension the stable fixed points under falling noise form a tree, the decisions that make up a data set. From
the central point at high noise each branch is followed down. It splits

    at an instability,      where lambda / c crosses 1: both ways along the leading eigenvector (a pitchfork);
    beside an instability,  where it stays stable, as it does for data without symmetry: a push along one of the
                            leading eigenvectors, by the deviation of the branch's own data in that direction, ends on
                            another branch, which was born in a fold.

The deviation is the largest posterior one, `sigma sqrt(lambda)`, that the branch has had: at the highest noise that is
the data's. Real data has branches that no such push reaches; they are found from given starts, such as the means of
classes or clusters, and are taken to begin beside the nearest branch. What neither finds is not in the tree. At low
noise the leaves under "density" are the points of the data.

Contract: points are `(*shape)` in `y = x / alpha`, levels are sigma, results are float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy.optimize import brentq
from torch import Tensor

from latestart.denoisers.base import Denoiser, check_sample
from latestart.theory.branches import BranchPoint, Criterion, Follower, constant, levels_of
from latestart.theory.jacobian import ConvergenceError, Method
from latestart.theory.stability import beside, birth, critical_between, ends

THETA_C = math.sqrt(math.sqrt(2) - 1)  # of data at +-1 in one dimension


def one_dimension(theta: float) -> float:
    """The fixed point x* >= 0 of data at +-1 under the reverse VP SDE; the others are -x* and 0.

    `(1 + theta^2) x = 2 theta tanh(theta x / (1 - theta^2))`, x in the process' own space; 0 up to `THETA_C`.

    Args:
        theta: the scale of the data, `alpha`, between 0 and 1.

    Raises:
        ValueError: another theta.
    """
    if not 0 < theta < 1:
        raise ValueError(f"expected theta between 0 and 1, received {theta}")
    if theta <= THETA_C:
        return 0.0
    slope, height = theta / (1 - theta**2), 2 * theta / (1 + theta**2)
    return brentq(lambda x: height * math.tanh(slope * x) / x - 1, 1e-12, height, xtol=1e-15, rtol=1e-14)


@dataclass(frozen=True, eq=False)
class Node:
    """The end of a branch: where it splits, or a leaf.

    Attributes:
        index: its place in `Tree.nodes`.
        parent: the index of the node at which its branch began; None for the root.
        sigma: the level at which the branch ends.
        point: the fixed point there, `(*shape)`.
        mean: the posterior mean there, `c y`, `(*shape)`: what the samples of this branch have in common.
        path: the fixed points that lead here, by falling noise.
    """

    index: int
    parent: int | None
    sigma: float
    point: Tensor
    mean: Tensor
    path: tuple[BranchPoint, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Tree:
    """The fixed points under falling noise; a parent stands before its children in `nodes`."""

    nodes: tuple[Node, ...]
    criterion: str

    def children(self, index: int) -> list[Node]:
        """The nodes at the ends of the branches that begin at a node."""
        return [node for node in self.nodes if node.parent == index]

    @property
    def leaves(self) -> list[Node]:
        """The nodes without children."""
        parents = {node.parent for node in self.nodes}
        return [node for node in self.nodes if node.index not in parents]

    @property
    def splits(self) -> list[Node]:
        """The nodes with children, by falling noise."""
        parents = {node.parent for node in self.nodes}
        return sorted((node for node in self.nodes if node.index in parents), key=lambda node: -node.sigma)


def bifurcation_tree(
    denoiser: Denoiser,
    leaves: int = 16,
    criterion: Criterion = "sde",
    sigma_range: tuple[float, float] | None = None,
    start: Tensor | None = None,
    starts: Tensor | None = None,
    *,
    step: float = 0.1,
    directions: int = 3,
    reach: Sequence[float] = (1.0, 2.0),
    separation: float = 1e-2,
    xtol: float = 1e-4,
    symmetric: bool | None = None,
    method: Method = "auto",
) -> Tree:
    """Follow the stable fixed points down in noise, and into both sides of each split.

    Args:
        leaves: once there are as many branches, none splits any more: one that becomes unstable ends there.
        sigma_range: lowest and highest level; at the highest there should be one fixed point. See `levels_of`.
        start: `(*shape)`, where the search at the highest level begins; the origin by default.
        starts: `(n, *shape)`, from which further branches are sought at each level, such as the means of classes.
        step: of log sigma. Of splits closer than that, the order is not resolved.
        directions: eigenvectors along which branches beside one are sought, both ways.
        reach: of those pushes, in deviations.
        separation: the least distance of two branches, in units of the noise, `sigma sqrt(D)`.
        xtol: accuracy of a split's level, in log sigma; where a branch ends in a fold, that is `step`.
        symmetric, method: see `Follower`.

    Raises:
        ValueError: fewer than one leaf, or a first fixed point that is unstable.
        ConvergenceError: at the highest level no fixed point was found.
    """
    if leaves < 1:
        raise ValueError(f"expected at least 1 leaf, received {leaves}")
    starts = torch.empty(0, *denoiser.shape) if starts is None else starts
    check_sample(starts, denoiser.shape)
    levels = levels_of(denoiser, None, sigma_range, step)
    k = min(directions, math.prod(denoiser.shape))
    follower = Follower(denoiser, criterion, symmetric, method, k=k)
    first = follower.find(levels[0], start)
    if not first.stable:
        raise ValueError(
            f"the first fixed point, at sigma = {levels[0]:.6g}, is unstable already (lambda / c = {first.ratio:.4g}): "
            "give a sigma_range that begins above it"
        )
    growth = _Growth(follower, leaves, starts.double(), tuple(reach), separation, xtol)
    growth.tips.append(_Tip(None, [first]))
    for sigma in levels[1:]:
        growth.descend(sigma)
    return growth.finished()


@dataclass(frozen=True, eq=False)
class Match:
    """How the leaves of a tree match classes.

    Attributes:
        counts: `(leaves, classes)`, labelled points by nearest leaf and class.
        leaf: `(n,)`, the leaf of each point, in the order of `Tree.leaves`.
        majority: `(leaves,)`, the most frequent class of each leaf; -1 for a leaf without points.
        purity: share of the points that are in their leaf's majority class.
    """

    counts: np.ndarray
    leaf: np.ndarray
    majority: np.ndarray
    purity: float


def match(tree: Tree, points: Tensor, labels: Tensor) -> Match:
    """Assign labelled points to the nearest leaf's posterior mean, and count classes.

    Args:
        points: `(n, *shape)`, in the denoiser's value range.
        labels: `(n,)`, class indices from 0.

    Raises:
        ValueError: no points, points of another shape, or labels that are not one for each point.
    """
    means = torch.stack([node.mean for node in tree.leaves]).flatten(1)
    check_sample(points, tuple(tree.nodes[0].point.shape))
    if not len(points) or labels.shape != (len(points),) or labels.is_floating_point() or labels.min() < 0:
        raise ValueError(
            f"expected a class index from 0 for each of {len(points)} points, at least one, received {labels.dtype} "
            f"{tuple(labels.shape)}"
        )
    leaf = torch.cdist(points.flatten(1).to(means), means).argmin(1)
    counts = torch.zeros(len(means), int(labels.max()) + 1, dtype=torch.long)
    counts.index_put_((leaf.cpu(), labels.cpu().long()), torch.tensor(1), accumulate=True)
    majority = torch.where(counts.sum(1) > 0, counts.argmax(1), -1)
    purity = counts.max(1).values.sum().item() / len(points)
    return Match(counts.numpy(), leaf.cpu().numpy(), majority.numpy(), purity)


@dataclass(eq=False)
class _Tip:
    """A branch that is still followed."""

    parent: int | None
    path: list[BranchPoint]

    @property
    def last(self) -> BranchPoint:
        return self.path[-1]


@dataclass
class _Growth:
    """A tree while it is followed down."""

    follower: Follower
    leaves: int
    starts: Tensor
    reach: tuple[float, ...]
    separation: float
    xtol: float
    tips: list[_Tip] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    ended: int = 0

    def descend(self, sigma: float) -> None:
        """All branches to the next level, where some of them split."""
        unstable = [tip for tip in self.tips if not self._follow(tip, sigma)]
        for tip in unstable:
            self.tips.remove(tip)
            self._split(tip, sigma)
        for tip in list(self.tips):
            if self._has_room(1) and len(tip.path) > 1:
                self._bud(tip)

    def finished(self) -> Tree:
        for tip in self.tips:
            self._node(tip, tip.last.sigma, tip.last.point)
        return Tree(tuple(self.nodes), self.follower.criterion)

    def _follow(self, tip: _Tip, sigma: float) -> bool:
        """One level on; whether the branch is stable there. One that ends in a fold falls to where samples fall."""
        try:
            here = self.follower.follow(sigma, tip.last)
        except ConvergenceError:
            return False
        tip.path.append(here)
        return here.stable

    def _split(self, tip: _Tip, sigma: float) -> None:
        """Both ways along the leading eigenvector, from a branch that is unstable at `sigma`, or ended above it."""
        last = tip.last
        new = self._fallen(last, sigma) if self._has_room(2) else []
        crossed = not last.stable
        if len(new) == 2 and crossed:
            index = self._node(_Tip(tip.parent, tip.path[:-1]), *self._critical(*tip.path[-2:]))
            self.tips += [_Tip(index, [here]) for here in new]
        elif len(new) >= 1:
            self.tips.append(_Tip(tip.parent, [*tip.path[: -1 if crossed else None], new[0]]))
        else:
            self.ended += 1
            path = tip.path[: -1 if crossed else None]
            self._node(_Tip(tip.parent, path), path[-1].sigma, path[-1].point)

    def _critical(self, stable: BranchPoint, unstable: BranchPoint) -> tuple[float, Tensor]:
        """Where a branch loses its stability; the last stable point where no continuous branch joins the two."""
        try:
            level, _ = critical_between(self.follower, stable, unstable)
            return level, self.follower.follow(level, stable).point
        except ConvergenceError:
            return stable.sigma, stable.point

    def _fallen(self, origin: BranchPoint, sigma: float) -> list[BranchPoint]:
        """The stable points, on no branch yet, to which a slight push of `origin` leads, one way and the other."""
        vector = origin.spectrum.vectors[0].real
        push = 0.1 * origin.sigma * vector / vector.norm()
        fallen: list[BranchPoint] = []
        for start in (origin.point + push, origin.point - push):
            try:
                found = self.follower.attractor(sigma, start)
            except ConvergenceError:
                continue
            if found.stable and self._apart(found.point, sigma, [here.point for here in fallen]):
                fallen.append(found)
        return fallen

    def _bud(self, tip: _Tip) -> None:
        """A branch that was born beside a stable one since the last level: the two part at its birth."""
        above, here = tip.path[-2:]
        if (new := self._beside(tip)) is None:
            return
        try:
            _, level = birth(self.follower, new, here, above, self.separation, self.xtol)
            parting = self.follower.follow(level, above)
        except ConvergenceError:
            return
        index = self._node(_Tip(tip.parent, tip.path[:-1]), level, parting.point)
        tip.parent, tip.path = index, [here]
        self.tips.append(_Tip(index, [new]))

    def _beside(self, tip: _Tip) -> BranchPoint | None:
        """A stable point on no branch yet, nearest to this one, to which a push from it or one of the starts leads."""
        sigma, candidates = tip.last.sigma, torch.cat([self._pushed(tip), self.starts.to(tip.last.point)])
        for end in ends(self.follower, tip.last, candidates, self.separation):
            if self._nearest(end, sigma) is not tip or not self._apart(end, sigma):
                continue
            found = beside(self.follower, tip.last, end, self.separation)
            if found and self._apart(found.point, sigma):
                return found
        return None

    def _nearest(self, point: Tensor, sigma: float) -> _Tip:
        here = (tip for tip in self.tips if tip.last.sigma == sigma)
        return min(here, key=lambda tip: (tip.last.point - point).norm().item())

    def _pushed(self, tip: _Tip) -> Tensor:
        """Pushes in all directions and to all reaches, `(n, *shape)`."""
        deviations = [here.sigma * np.sqrt(here.spectrum.values.real.clip(min=0)) for here in tip.path]
        count = min(len(deviation) for deviation in deviations)
        widest = torch.from_numpy(np.max([deviation[:count] for deviation in deviations], axis=0))
        vectors = tip.last.spectrum.vectors[:count].real
        steps = widest.view(-1, *[1] * (vectors.ndim - 1)) * vectors
        return torch.cat([tip.last.point + sign * reach * steps for reach in self.reach for sign in (1, -1)])

    def _apart(self, point: Tensor, sigma: float, others: Sequence[Tensor] = ()) -> bool:
        """Whether a point at a level lies apart from all branches there, and from others."""
        least = self.separation * sigma * math.sqrt(point.numel())
        taken = [tip.last.point for tip in self.tips if tip.last.sigma == sigma]
        return all((point - other).norm().item() > least for other in [*taken, *others])

    def _has_room(self, more: int) -> bool:
        return len(self.tips) + self.ended + more <= self.leaves

    def _node(self, tip: _Tip, sigma: float, point: Tensor) -> int:
        mean = point * constant(self.follower.criterion, sigma)
        self.nodes.append(Node(len(self.nodes), tip.parent, sigma, point, mean, tuple(tip.path)))
        return len(self.nodes) - 1
