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
classes or clusters. A branch that is found in either way is followed back up to its birth, and is taken to part there
from the nearest branch. What neither finds is not in the tree. At low noise the leaves under "density" are the points
of the data.

Contract: points are `(*shape)` in `y = x / alpha`, levels are sigma, results are float64.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.base import Denoiser, check_sample, require_denoiser
from latestart.records import Record
from latestart.theory.branches import BranchPoint, Criterion, Follower, constant, levels_of
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.roots import root
from latestart.theory.stability import beside, critical_between, ends

__all__ = ["THETA_C", "Match", "Node", "Tree", "bifurcation_tree", "match", "one_dimension"]

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
    pull = "the pull of two points less the drift"
    return root(lambda x: height * math.tanh(slope * x) / x - 1, 1e-12, height, pull, xtol=1e-15, rtol=1e-14)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Node(Record):
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
        return [node for node in self.nodes if not self.children(node.index)]

    @property
    def splits(self) -> list[Node]:
        """The nodes with children, by falling noise."""
        return sorted((node for node in self.nodes if self.children(node.index)), key=lambda node: -node.sigma)


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
    progress: Callable[[int, int, str], None] | None = None,
    **options: Any,
) -> Tree:
    """Follow the stable fixed points down in noise, and into both sides of each split.

    Args:
        leaves: once there are as many branches, none splits any more: one that becomes unstable ends there, and one
            that ends in a fold goes on where samples fall, if no branch is there yet.
        sigma_range: lowest and highest level; at the highest there should be one fixed point. See `levels_of`.
        start: `(*shape)`, where the search at the highest level begins; the origin by default.
        starts: `(n, *shape)`, from which further branches are sought at each level, such as the means of classes.
        step: of log sigma. Of instabilities closer than that, one below the other, the order is not resolved.
        directions: eigenvectors along which branches beside one are sought, both ways.
        reach: of those pushes, in deviations.
        separation: the least distance of two branches, in units of the noise, `sigma sqrt(D)`.
        xtol: accuracy of a split's level, in log sigma; where a branch ends in a fold, that is `step`.
        progress: called as `progress(done, total, what)` after each level.
        options: `symmetric`, `method` and `tol` of `Follower`.

    Raises:
        ValueError: fewer than one leaf, or a first fixed point that is unstable.
        ConvergenceError: at the highest level no fixed point was found.
    """
    require_denoiser(denoiser)
    starts = torch.empty(0, *denoiser.shape) if starts is None else starts
    check_sample(starts, denoiser.shape)
    levels = levels_of(denoiser, None, sigma_range, step)
    follower = Follower(denoiser, criterion, **options, k=min(directions, math.prod(denoiser.shape)))
    first = follower.find(levels[0], start)
    if not first.stable:
        raise ValueError(
            f"the first fixed point, at sigma = {levels[0]:.6g}, is unstable already (lambda / c = {first.ratio:.4g}): "
            "give a sigma_range that begins above it"
        )
    growth = _Growth(
        follower=follower,
        leaves=whole_number("leaves", leaves),
        starts=starts.double(),
        reach=tuple(reach),
        separation=separation,
        xtol=xtol,
        tips=[_Branch(None, [first])],
    )
    for done, sigma in enumerate(levels[1:], 1):
        growth.descend(sigma)
        if progress is not None:
            progress(done, len(levels) - 1, f"{len(growth.tips)} branches at sigma = {sigma:.3g}")
    return growth.finished()


@dataclass(frozen=True, eq=False, repr=False)
class Match(Record):
    """The match between the leaves of a tree and classes.

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
class _Branch:
    """A branch from the end of its parent to its own end, the last point of its path.

    Attributes:
        born: the level of its birth next to another branch, from which it is still to part.
    """

    parent: "_Branch | None"
    path: list[BranchPoint]
    born: float = math.inf

    @property
    def last(self) -> BranchPoint:
        return self.path[-1]

    @property
    def line(self) -> list["_Branch"]:
        """The branches from the root to this one."""
        return [*(self.parent.line if self.parent else []), self]

    def covers(self, sigma: float) -> bool:
        begin = self.parent.last if self.parent else self.path[0]
        return begin.sigma >= sigma >= self.last.sigma


@dataclass(eq=False, repr=False, kw_only=True)
class _Growth(Record):
    """A tree while it is followed down: `tips` are the branches that are still followed, `ended` all others."""

    follower: Follower
    leaves: int
    starts: Tensor
    reach: tuple[float, ...]
    separation: float
    xtol: float
    tips: list[_Branch]
    ended: list[_Branch] = field(default_factory=list)

    def descend(self, sigma: float) -> None:
        """All branches to the next level, where some of them split."""
        unstable = [tip for tip in self.tips if not self._follow(tip, sigma)]
        for tip in unstable:
            self.tips.remove(tip)
            self._split(tip, sigma)
        for branch in sorted(self._newborn(), key=lambda branch: -branch.born):
            self._bud(branch)

    def finished(self) -> Tree:
        """The tree, its nodes by falling noise."""
        branches = sorted([*self.ended, *self.tips], key=lambda one: (-one.last.sigma, len(one.line)))
        nodes, criterion = list[Node](), self.follower.criterion
        for k, one in enumerate(branches):
            sigma, point = one.last.sigma, one.last.point
            parent = branches.index(one.parent) if one.parent else None
            mean = point * constant(criterion, sigma)
            nodes.append(Node(index=k, parent=parent, sigma=sigma, point=point, mean=mean, path=tuple(one.path)))
        return Tree(tuple(nodes), criterion)

    def _follow(self, tip: _Branch, sigma: float) -> bool:
        """One level on; whether the branch is stable there. One that ends in a fold falls to where samples fall."""
        try:
            here = self.follower.follow(sigma, tip.last)
        except ConvergenceError:
            return False
        tip.path.append(here)
        return here.stable

    def _split(self, tip: _Branch, sigma: float) -> None:
        """Both ways along the leading eigenvector, from a branch that is unstable at `sigma`, or ended above it."""
        # from an end in a fold one branch is followed on, for which there is always room
        new = self._fallen(tip.last, sigma) if tip.last.stable or self._has_room(2) else []
        unstable = [] if tip.last.stable else [tip.path.pop()]
        if len(new) == 2 and unstable:
            self._end_at_critical(tip, unstable[0])
            self.ended.append(tip)
            self.tips += [_Branch(tip, [here]) for here in new]
        elif new:
            tip.path.append(new[0])
            self.tips.append(tip)
        else:
            self.ended.append(tip)

    def _end_at_critical(self, tip: _Branch, unstable: BranchPoint) -> None:
        """End a branch where it loses its stability; at its last point where no continuous branch leads on."""
        # the Jacobian is singular there: the last digits of a fixed point are out of reach
        tol = 100 * (self.follower.tol or torch.finfo(self.follower.denoiser.dtype).eps ** (2 / 3))
        follower = replace(self.follower, tol=tol)
        with suppress(ConvergenceError):
            level, _ = critical_between(follower, tip.last, unstable)
            tip.path.append(follower.follow(level, tip.last))

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

    def _newborn(self) -> list[_Branch]:
        """The branches not yet known to whose points pushes or the starts lead."""
        old = [tip for tip in self.tips if len(tip.path) > 1]
        if not old or not self._has_room(1):
            return []
        candidates = torch.cat([*map(self._pushed, old), self.starts.to(old[0].last.point)])
        born: list[_Branch] = []
        for end in ends(self.follower, old[0].last, candidates, self.separation):
            others = [branch.last.point for branch in born]
            tip = self._nearest(end)
            if tip not in old or not self._apart(end, tip.last.sigma, others):
                continue
            found = beside(self.follower, tip.last, end, self.separation)
            if found and self._apart(found.point, found.sigma, others):
                born += self._birth(tip, found, born)
        return born

    def _birth(self, tip: _Branch, found: BranchPoint, born: list[_Branch]) -> list[_Branch]:
        """Follow a branch up to its birth next to another and its parents; none where it is lost at once."""
        path = [here for branch in tip.line for here in branch.path]
        line = set(map(id, tip.line))
        known = [one for one in [*self.ended, *self.tips, *born] if id(one) not in line]
        rising = _Rising(self, known, [found])
        try:
            while len(path) > 2 and rising.to(path[-2]):
                path.pop()
            level = rising.bracket(path[-1], path[-2])
        except ConvergenceError:
            level = rising.path[-1].sigma
            if level <= tip.last.sigma:
                return []
        return [_Branch(None, rising.path[::-1], level)]

    def at(self, sigma: float, near: list[BranchPoint]) -> BranchPoint:
        """The branch at a level, from the first nearby point that leads there."""
        for point in near[:-1]:
            with suppress(ConvergenceError):
                return self.follower.follow(sigma, point)
        return self.follower.follow(sigma, near[-1])

    def _bud(self, newborn: _Branch) -> None:
        """Part a branch from the one that is nearest to it, or from that one's parents."""
        if not self._has_room(1):
            return
        level = newborn.born
        branch = self._nearest(newborn.last.point)
        while branch.parent and branch.parent.last.sigma < level:
            branch = branch.parent
        above, below = ([here for here in branch.path if (here.sigma >= level) is side] for side in (True, False))
        try:
            parting = self.at(level, [*above[-1:], *below[:1]])
        except ConvergenceError:
            return
        upper = _Branch(branch.parent, [*above, parting])
        branch.parent, branch.path = upper, below
        newborn.parent = upper
        self.ended.append(upper)
        self.tips.append(newborn)

    def _nearest(self, point: Tensor) -> _Branch:
        """The branch whose last point is nearest."""
        lowest = min(tip.last.sigma for tip in self.tips)
        here = (tip for tip in self.tips if tip.last.sigma == lowest)
        return min(here, key=lambda tip: (tip.last.point - point).norm().item())

    def _pushed(self, tip: _Branch) -> Tensor:
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
        parents = {id(branch.parent) for branch in [*self.ended, *self.tips]}
        done = sum(id(branch) not in parents for branch in self.ended)
        return len(self.tips) + done + more <= self.leaves


@dataclass(eq=False)
class _Rising:
    """A branch that is followed up in noise to where it was born; `path` are its points, by rising noise.

    Beyond its end the contraction leads to another branch, one of those `known`. A point is taken to be on such a
    branch if it is nearer to it than to the last point of its own.
    """

    growth: _Growth
    known: list[_Branch]
    path: list[BranchPoint]

    def to(self, centre: BranchPoint) -> bool:
        """Follow the branch to the level of `centre`; whether it is there, and not one that is known."""
        last = self.path[-1]
        here = beside(self.growth.follower, centre, last.point, self.growth.separation)
        if here is None or self._is_known(here, (here.point - last.point).norm().item()):
            return False
        self.path.append(here)
        return True

    def bracket(self, low: BranchPoint, high: BranchPoint) -> float:
        """Bracket the level of its birth between two points of the other branch, the lower at the level of `low`."""
        while math.log(high.sigma / low.sigma) > self.growth.xtol:
            # the branch beside it may itself be born between the two, or end there
            middle = self.growth.at(math.sqrt(low.sigma * high.sigma), [low, high])
            low, high = (middle, high) if self.to(middle) else (low, middle)
        return high.sigma

    def _is_known(self, here: BranchPoint, moved: float) -> bool:
        paths = [one.path for one in self.known if one.covers(here.sigma)]
        near = (min(path, key=lambda point: abs(math.log(point.sigma / here.sigma))) for path in paths)
        return any((point.point - here.point).norm().item() < moved for point in near)
