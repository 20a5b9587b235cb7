"""Bifurcations: the paper's pitchfork in one dimension, and trees whose splits are known."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

from latestart.denoisers.exact import PointCloud
from latestart.theory.bifurcation import THETA_C, bifurcation_tree, match, one_dimension
from latestart.theory.branches import fixed_point
from latestart.theory.stability import crossing, second_branch

TWO = PointCloud(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
# two pairs: +-2 apart in one direction, +-1/2 in the other
FOUR = PointCloud(torch.tensor([[2.0, 0.5], [2.0, -0.5], [-2.0, 0.5], [-2.0, -0.5]], dtype=torch.float64))
CRITICAL = {  # of data at +-sqrt(top) on one axis
    "density": math.sqrt,
    "sde": lambda top: math.sqrt(1 / (math.sqrt(top**2 + 1) - top) - 1),
}


def _sigma(theta):
    return math.sqrt(1 - theta**2) / theta


def test_the_branch_of_one_dimension_solves_the_papers_equation():
    for theta in (0.65, 0.8, 0.99):
        x = one_dimension(theta)
        assert (1 + theta**2) * x == pytest.approx(2 * theta * math.tanh(theta * x / (1 - theta**2)), rel=1e-12)
        start = torch.tensor([1.0], dtype=torch.float64)
        assert theta * fixed_point(TWO, _sigma(theta), "sde", start).point.item() == pytest.approx(x, rel=1e-9)
    assert one_dimension(0.3) == one_dimension(THETA_C) == 0.0
    assert one_dimension(1 - 1e-9) == pytest.approx(1.0, abs=1e-6)


def test_the_branch_opens_with_the_exponent_one_half():
    distance = np.geomspace(1e-6, 1e-3, 31)
    x = [one_dimension(THETA_C + d) for d in distance]
    exponent = np.polyfit(np.log(distance), np.log(x), 1)[0]
    assert exponent == pytest.approx(0.4998, abs=1e-4)


@pytest.mark.parametrize("criterion", ["density", "sde"])
def test_two_points_make_one_split_and_two_leaves(criterion):
    tree = bifurcation_tree(TWO, criterion=criterion, sigma_range=(0.1, 10.0))
    (split,) = tree.splits
    assert split.parent is None and split.sigma == pytest.approx(crossing(TWO, criterion).sigma, rel=1e-6)
    assert split.point.abs() < 1e-6
    assert sorted(node.mean.item() for node in tree.leaves) == pytest.approx([-1, 1], abs=1e-6)
    assert [node.index for node in tree.children(split.index)] == [node.index for node in tree.leaves]


@pytest.mark.parametrize("criterion", ["density", "sde"])
def test_a_hierarchy_of_four_points_gives_its_two_levels(criterion):
    tree = bifurcation_tree(FOUR, criterion=criterion, sigma_range=(0.08, 10.0))
    first, *second = tree.splits
    assert first.sigma == pytest.approx(CRITICAL[criterion](4.0), rel=1e-6)
    assert [node.sigma for node in second] == pytest.approx([CRITICAL[criterion](0.25)] * 2, rel=1e-6)
    assert [node.parent for node in second] == [first.index] * 2
    assert sorted(node.mean[0].item() for node in second) == pytest.approx([-2, 2], rel=1e-3)
    assert all(abs(node.mean[1]) < 1e-6 for node in second)
    for node in second:
        below = {tuple(child.mean.numpy().round(4)) for child in tree.children(node.index)}
        side = 2.0 * np.sign(node.mean[0].item())
        assert below == {(side, 0.5), (side, -0.5)}


@pytest.mark.parametrize("side", [1, -1])
def test_branches_split_each_at_its_own_level(side):
    """Two pairs of different width, far apart: near each, the level is that of the pair alone."""
    points = torch.tensor([[2.0, 0.5], [2.0, -0.5], [-2.0, 0.3], [-2.0, -0.3]], dtype=torch.float64)
    tree = bifurcation_tree(PointCloud(side * points), criterion="density", sigma_range=(0.08, 10.0))
    _, wide, narrow = tree.splits
    assert (wide.sigma, narrow.sigma) == (pytest.approx(0.5, rel=1e-6), pytest.approx(0.3, rel=1e-6))
    assert (wide.mean[0].item(), narrow.mean[0].item()) == pytest.approx((2 * side, -2 * side), rel=1e-2)
    assert len(tree.leaves) == 4


def test_a_tree_ends_with_the_asked_leaves_at_its_first_decisions():
    tree = bifurcation_tree(FOUR, leaves=2, criterion="density", sigma_range=(0.08, 10.0))
    assert len(tree.leaves) == 2 and len(tree.splits) == 1
    assert [node.sigma for node in tree.leaves] == pytest.approx([0.5, 0.5], rel=0.11)  # where the next ones would be
    assert sorted(node.mean[0].item() for node in tree.leaves) == pytest.approx([-2, 2], rel=1e-3)
    (only,) = bifurcation_tree(FOUR, leaves=1, criterion="density", sigma_range=(0.08, 10.0)).nodes
    assert only.parent is None and only.point.norm() < 1e-6


def test_at_low_noise_the_leaves_are_the_data():
    points = 3 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tree = bifurcation_tree(PointCloud(points), criterion="density", sigma_range=(0.05, 30.0))
    means = torch.stack([node.mean for node in tree.leaves])
    assert len(means) == 5
    assert torch.cdist(points, means).min(1).values.max() < 1e-6
    for node in tree.nodes:
        levels = [here.sigma for here in node.path]
        assert levels == sorted(levels, reverse=True) and levels[-1] >= node.sigma
        assert node.parent is None or tree.nodes[node.parent].sigma >= levels[0]


def test_without_symmetry_a_branch_is_born_beside_the_first_in_a_fold():
    """Weights 2 : 1 on -1 and 1: `tanh(y / s^2 + h) = y`, `h = log(1/2) / 2`, has its fold at `1 - y^2 = s^2`."""

    def touch(variance):
        y = math.sqrt(1 - variance)
        return y / variance + 0.5 * math.log(0.5) - math.atanh(y)

    cloud = PointCloud(torch.tensor([[-1.0], [-1.0], [1.0]], dtype=torch.float64))
    tree = bifurcation_tree(cloud, criterion="density", sigma_range=(0.1, 10.0))
    (split,) = tree.splits
    assert split.sigma == pytest.approx(math.sqrt(brentq(touch, 0.3, 0.99)), rel=1e-3)
    assert split.point < -0.3  # the first branch has bent away, and stays stable
    assert sorted(node.mean.item() for node in tree.leaves) == pytest.approx([-1, 1], abs=1e-6)


def test_a_branch_that_ends_in_a_fold_goes_on_when_the_leaves_are_all_taken():
    """It falls to one other branch, as samples do: the tree of one leaf follows that to the last level."""
    points = torch.randn(8, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    cloud = PointCloud(points * torch.tensor([3.0, 1, 1]))
    fold = crossing(cloud, "sde", sigma_range=(1.0, 5.0)).sigma
    (leaf,) = bifurcation_tree(cloud, 1, "sde", (0.8 * fold, 1.6 * fold)).nodes
    assert leaf.sigma == pytest.approx(0.8 * fold) and leaf.path[-1].stable
    above, below = ([here for here in leaf.path if (here.sigma > fold) is side] for side in (True, False))
    assert (above[-1].point - below[0].point).norm() > 0.5 * fold


def test_a_branch_that_no_push_reaches_is_found_from_a_start():
    """A far point of small weight, 1 in 12: its mode is born in a fold where the other's Jacobian is nearly 0."""
    heavy, far = torch.tensor([[0.0, 0.0]] * 11, dtype=torch.float64), torch.tensor([[0.0, 9.0]], dtype=torch.float64)
    cloud = PointCloud(torch.cat([heavy, far]))
    options = {"criterion": "density", "sigma_range": (0.5, 30.0), "reach": (0.5,)}
    assert len(bifurcation_tree(cloud, **options).leaves) == 1
    tree = bifurcation_tree(cloud, starts=far, **options)
    assert sorted(node.mean[1].item() for node in tree.leaves) == pytest.approx([0, 9], abs=1e-3)
    expected = second_branch(cloud, far, "density", sigma_range=(0.5, 30.0))
    assert tree.splits[0].sigma == pytest.approx(expected.sigma, rel=5e-4)


@pytest.mark.parametrize("step", [0.1, 0.8])
def test_births_are_told_apart_within_a_step(step):
    """Two far points of small weight, at different distances: each mode is born at its own level, whatever the grid."""
    heavy, far = torch.zeros(11, 2, dtype=torch.float64), torch.tensor([[0.0, 9.0], [8.0, 0.0]], dtype=torch.float64)
    cloud = PointCloud(torch.cat([heavy, far]))
    options = {"criterion": "density", "sigma_range": (0.5, 30.0)}
    steps = []
    tree = bifurcation_tree(
        cloud, starts=far, step=step, reach=(0.5,), progress=lambda *told: steps.append(told), **options
    )
    expected = [second_branch(cloud, point[None], **options).sigma for point in far]
    assert math.log(expected[0] / expected[1]) < 0.2
    assert [node.sigma for node in tree.splits] == pytest.approx(expected, rel=1e-3)
    first, second = tree.splits
    assert second.parent == first.index
    assert max(node.mean[1].item() for node in tree.children(first.index)) == pytest.approx(9, abs=1e-3)
    assert max(node.mean[0].item() for node in tree.children(second.index)) == pytest.approx(8, abs=1e-3)
    done, total, what = steps[-1]
    assert done == total == len(steps) and what == "3 branches at sigma = 0.5"


def test_leaves_match_classes():
    tree = bifurcation_tree(FOUR, leaves=2, criterion="density", sigma_range=(0.08, 10.0))
    noise = 0.1 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = FOUR.points.repeat(25, 1) + noise
    by_side, by_height = (points[:, 0] > 0).long(), (points[:, 1] > 0).long()
    found = match(tree, points, by_side)
    assert found.purity == 1.0 and found.counts.sum() == 100 and (found.counts > 0).sum() == 2
    assert (found.majority[found.leaf] == by_side.numpy()).all()
    assert match(tree, points, by_height).purity == pytest.approx(0.5, abs=0.03)
    with pytest.raises(ValueError, match="class index from 0 for each of 100 points"):
        match(tree, points, by_side[:50])


def test_bad_input_is_named():
    for theta in (0.0, 1.0, 2.0):
        with pytest.raises(ValueError, match=f"between 0 and 1, received {theta}"):
            one_dimension(theta)
    with pytest.raises(ValueError, match="leaves=0: expected a whole number of at least 1"):
        bifurcation_tree(TWO, leaves=0)
    with pytest.raises(ValueError, match="unstable already"):
        bifurcation_tree(TWO, sigma_range=(0.1, 0.8))
