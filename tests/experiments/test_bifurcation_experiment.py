"""The bifurcation experiment: followed branches on the closed form, and a tree whose levels are known."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from latestart.cli.experiment import experiment as commands
from latestart.data import Images
from latestart.denoisers.exact import PointCloud
from latestart.experiments.theory import bifurcation as experiment
from latestart.experiments.theory.settings import BifurcationSettings
from latestart.theory.stability import crossing
from latestart.zoo import load

# a pair of pairs: two pixels are set independently, to +-1 and to +-s
SMALL = 155 / 127.5 - 1
PIXELS = torch.tensor([[255, 155], [255, 100], [0, 155], [0, 100]], dtype=torch.uint8).view(4, 1, 1, 2)
LABELS = torch.tensor([0, 1, 2, 3])
PAIRS = Images(PIXELS.repeat(5, 1, 1, 1), LABELS.repeat(5))
SETTINGS = BifurcationSettings(leaves=8, t_low=40.0, t_high=500.0)


def _sde(top):
    """`alpha_bar = sqrt(L^2 + 1) - L` of data at +-sqrt(L), in sigma."""
    return math.sqrt(1 / (math.sqrt(top**2 + 1) - top) - 1)


@pytest.fixture(scope="module")
def pairs():
    return experiment.decisions(PAIRS, SETTINGS)


def test_the_diagram_lies_on_the_closed_form():
    found = experiment.diagram(points=12)
    assert found.theta_c == pytest.approx(math.sqrt(math.sqrt(2) - 1), rel=1e-7)
    assert found.deviation < 1e-6
    theta, x = found.outer_theta, found.upper
    np.testing.assert_allclose((1 + theta**2) * x, 2 * theta * np.tanh(theta * x / (1 - theta**2)), atol=1e-8)
    np.testing.assert_allclose(found.lower, -x, atol=1e-8)
    assert ((found.ratio < 1) == (found.theta < found.theta_c)).all()
    # the Jacobian of tanh(y / sigma^2) at 0 is 1 / sigma^2
    alpha_bar = found.theta**2
    np.testing.assert_allclose(found.ratio, alpha_bar / (1 - alpha_bar) * 2 / (1 + alpha_bar), rtol=1e-9)


def test_a_pair_of_pairs_decides_at_its_two_levels(pairs):
    first, *second = pairs.tree.splits
    assert first.sigma == pytest.approx(_sde(1.0), rel=1e-3)
    assert [node.sigma for node in second] == pytest.approx([_sde(SMALL**2)] * 2, rel=1e-3)
    assert [node.parent for node in second] == [first.index] * 2
    alone = crossing(PointCloud(torch.tensor([[SMALL], [-SMALL]], dtype=torch.float64)), "sde", experiment.NOISE)
    assert [pairs.time(node) for node in second] == pytest.approx([alone.t] * 2, abs=0.5)
    assert pairs.top.flatten().tolist() == pytest.approx([0, 0], abs=1e-3)


def test_the_leaves_are_the_classes(pairs):
    assert pairs.match.purity == 1.0
    assert sorted(pairs.match.majority) == [0, 1, 2, 3]
    for node, label in zip(pairs.tree.leaves, pairs.match.majority):
        torch.testing.assert_close(node.mean.float(), PAIRS.floats()[label], rtol=0, atol=2e-2)
        assert pairs.time(node) == 40.0


def test_the_record_holds_each_level_under_all_its_names(pairs):
    written = json.loads(json.dumps(experiment.Result(experiment.diagram(points=4), pairs).record()))
    nodes = written["tree"]["nodes"]
    # the levels of the schedule, from its betas
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for k, node in enumerate(nodes):
        assert node["index"] == k and (k == 0) == (node["parent"] is None)
        assert node["alpha_bar"] == pytest.approx(1 / (1 + node["sigma"] ** 2))
        assert np.interp(node["t"], np.arange(1000), alpha_bar) == pytest.approx(node["alpha_bar"], rel=1e-3)
        assert k == 0 or node["sigma"] < nodes[node["parent"]]["sigma"]
    leaves = [node for node in nodes if "counts" in node]
    assert sum(np.array(node["counts"]) for node in leaves).tolist() == [5, 5, 5, 5]
    assert len(leaves) == written["tree"]["leaves"] == 4
    assert written["tree"]["images"] == 20


def test_the_shipped_images_part_first_where_the_docstring_says():
    """Of the tree of 2,000 digits only the first split, with two leaves: at t = 591 the zeros part."""
    images = load("mnist").images("train")
    found = experiment.decisions(images, BifurcationSettings(leaves=2))
    (split,) = found.tree.splits
    assert found.time(split) == pytest.approx(591, abs=1)
    zeros = next(k for k, label in enumerate(found.match.majority) if label == 0)
    counts = found.match.counts
    assert counts[zeros, 0] > 0.75 * counts[:, 0].sum()


def test_class_means_are_those_of_the_classes_that_occur():
    points = torch.tensor([[0.0], [1.0], [2.0], [7.0]])
    assert experiment.class_means(points, torch.tensor([5, 5, 2, 5])).flatten().tolist() == pytest.approx([2, 8 / 3])


def test_images_without_labels_are_refused():
    with pytest.raises(ValueError, match="needs images with labels, received 4 images without"):
        experiment.decisions(Images(PIXELS), SETTINGS)


def test_the_command_draws_the_tree(tmp_path):
    np.savez(tmp_path / "pairs.npz", images=PAIRS.pixels.numpy(), labels=PAIRS.labels.numpy())
    options = [
        "bifurcation",
        "--images",
        tmp_path / "pairs.npz",
        "--t-low",
        40,
        "--t-high",
        500,
        "--out",
        tmp_path / "out",
    ]
    result = CliRunner().invoke(commands, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    assert "theta_c = 0.64359" in result.output
    assert "20 images: 4 leaves under sde" in result.output
    assert json.loads((tmp_path / "out" / "results.json").read_text())["tree"]["purity"] == 1.0
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "images: 20; from t: 500.0; to t: 40.0; machine: " in report and "- 20 images: 4 leaves under sde" in report
    for name in ("diagram.png", "tree.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 300 and np.array(picture.convert("L")).std() > 10
    result = CliRunner().invoke(commands, [*map(str, options), "--criterion", "none"])
    assert result.exit_code == 2
