"""Curves between samples: the curvature in their middle, against Jacobians, derivatives and closed forms."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from latestart.denoisers.exact import PointCloud, TwoPoints
from latestart.denoisers.networks import from_diffusers
from latestart.experiments.theory import potential as experiment
from latestart.experiments.theory.page import potentials
from latestart.experiments.theory.settings import PotentialSettings
from latestart.lab.experiment import Lab
from latestart.noise import Noise
from latestart.theory.branches import constant
from latestart.theory.jacobian import jacobian_vector
from latestart.theory.potential import Profile, potential, rates
from latestart.zoo import load

NOISE, SHAPE = Noise.vp(), (1, 2, 3)
CLOUD = PointCloud(torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
MEAN = CLOUD.points.mean(0)


def test_the_margin_on_the_straight_curve_is_c_less_the_jacobian():
    x_1, x_2 = CLOUD.points[:2]
    v = (x_2 - x_1) / (x_2 - x_1).norm()
    for t in (0.6, 0.35, 0.25):
        (margin,) = experiment.middle_margins(CLOUD, NOISE, [experiment.curves(x_1, x_2, MEAN)["straight"]], t)
        sigma, y = NOISE.sigma(t), (x_1 + x_2) / 2 / NOISE.alpha(t)
        expected = constant("sde", sigma) - (v * jacobian_vector(CLOUD, y[None], sigma, v[None])[0]).sum().item()
        assert margin == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_the_margin_is_the_second_derivative_of_the_potential():
    t, at = 0.3, rates(NOISE, 0.3)
    for curve in experiment.curves(*CLOUD.points[:2], MEAN).values():
        a = torch.tensor([(curve.low + curve.high) / 2], dtype=torch.float64, requires_grad=True)
        u = potential(CLOUD, curve.point(a), t, NOISE).sum()
        (slope,) = torch.autograd.grad(u, a, create_graph=True)
        (bend,) = torch.autograd.grad(slope, a)
        unit = at.g2 * curve.at(a)[1].square().sum() / (at.alpha * at.sigma) ** 2
        (margin,) = experiment.middle_margins(CLOUD, NOISE, [curve], t)
        assert margin == pytest.approx((bend / unit).item(), rel=1e-3, abs=1e-4)


def test_the_circular_curve_is_a_circle_about_the_mean():
    d_1, d_2 = torch.tensor([[[[2.0, 0, 0]] * 2], [[[0, 2.0, 0]] * 2]], dtype=torch.float64)
    curve = experiment.curves(MEAN + d_1, MEAN + d_2, MEAN)["circular"]
    a = torch.linspace(curve.low, curve.high, 9, dtype=torch.float64)
    assert (curve.point(a) - MEAN).flatten(1).norm(dim=1).tolist() == pytest.approx([math.sqrt(8)] * 9)
    assert curve.low == pytest.approx(-math.pi / 8) and curve.high == pytest.approx(5 * math.pi / 8)
    ends = curve.point(torch.tensor([0, math.pi / 2], dtype=torch.float64))
    torch.testing.assert_close(ends, torch.stack([MEAN + d_1, MEAN + d_2]))


@pytest.mark.parametrize("kind", [0, 1], ids=["circular", "straight"])
def test_between_two_points_the_level_is_that_of_the_sde(kind):
    m = 0.6 * torch.ones(SHAPE, dtype=torch.float64)
    times = np.linspace(0.9, 0.1, 161)
    side = experiment.study(TwoPoints(m), NOISE, torch.stack([m, -m]), 0 * m, times, np.array([0.7, 0.2]), points=41)
    family, top = side.families[kind], m.square().sum().item()
    assert family.curve == ("circular", "straight")[kind]
    assert family.level.alpha_bar == pytest.approx(math.sqrt(top**2 + 1) - top, rel=2e-3)
    assert family.level.t == pytest.approx(NOISE.time(family.level.sigma))
    assert family.wells == [1, 2] and family.begins_as_well == 1
    high, low = family.shapes
    assert high.argmin() == 20 and np.ptp(high) == pytest.approx(1)
    assert low[[8, 32]] == pytest.approx(low.min(), abs=0.15) and low[20] == 0


def test_levels_are_read_from_pairs_that_begin_as_wells():
    times = np.array([30.0, 20.0, 10.0])
    margins = np.array([[1.0, 0.3, -1.0, 2.0], [-1.0, 0.1, 1.0, 1.0], [2.0, -0.3, -1.0, 0.5]])
    found = experiment.levels(times, margins)
    assert found == pytest.approx([25.0, 17.5, np.nan, np.nan], nan_ok=True)
    profile = Profile(np.arange(5.0), np.array([0.0, 2.0, 1.0, 3.0, 2.0]), 20.0, 16)
    noise = Noise.from_scheduler(load("mnist").scheduler)
    family = experiment.Family(curve="straight", profiles=[profile], times=times, margins=margins, noise=noise)
    assert family.level.t == pytest.approx(21.25) and "2 pairs" in family.level.how
    assert [noise.time(s) for s in family.level.interval] == pytest.approx([18.25, 24.25])
    assert family.begins_as_well == 0.75 and family.wells == [1]
    assert family.shapes[0].tolist() == pytest.approx([-1 / 3, 1 / 3, 0, 2 / 3, 1 / 3])
    never = experiment.Family(curve="straight", profiles=[profile], times=times, margins=np.abs(margins), noise=noise)
    assert never.level is None


def _measured(folder, monkeypatch, points, drawn, levels=experiment.LEVELS, **settings):
    for name, value in {"POINTS": points, "DRAWN": drawn, "LEVELS": levels}.items():
        monkeypatch.setattr(experiment, name, value)
    return experiment.PotentialBetween().measure(PotentialSettings(**settings), Lab(folder))


def test_the_shipped_network_and_its_images_go_from_one_well_to_two(tmp_path, monkeypatch):
    result = _measured(tmp_path, monkeypatch, points=17, drawn=2, levels=4, samples=4)
    figures = json.loads(json.dumps(result.record(), allow_nan=False))
    assert (figures["images"], list(figures["sides"])) == (2000, ["network", "point cloud"])
    low, high = (share * 999 for share in experiment.RANGE)
    for side in figures["sides"].values():
        straight = side["straight"]
        assert straight["pairs"] == 6 and straight["begins_as_well"] == 1
        assert low < straight["middle_stops_being_a_minimum"]["t"] < high
        assert straight["wells"][0] == 1 and straight["wells"][-1] >= 2
        assert straight["curvature"]["median"][0] == pytest.approx(0.5, abs=0.1)  # c at high noise
    potentials(result, tmp_path)
    with Image.open(tmp_path / "potential.png") as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 10


def test_the_levels_of_the_shipped_network_and_its_images_are_those_of_the_docstring(tmp_path, monkeypatch):
    """With the settings of the command, but for the points that are only drawn."""
    figures = _measured(tmp_path, monkeypatch, points=5, drawn=2).record()
    found = {
        (name, kind): family["middle_stops_being_a_minimum"]["t"]
        for name, side in figures["sides"].items()
        for kind, family in side.items()
    }
    expected = {"network": {"straight": 470, "circular": 690}, "point cloud": {"straight": 650, "circular": 750}}
    assert found == {(n, k): pytest.approx(t, abs=25) for n, side in expected.items() for k, t in side.items()}


def test_bad_input_is_named(tmp_path):
    bundle, denoiser = load("mnist"), from_diffusers(load("mnist").model, load("mnist").scheduler)
    small = tmp_path / "small.npz"
    np.savez(small, images=np.zeros((9, 1, 8, 8), dtype=np.uint8))
    for bad, message in [
        ({"images": small}, r"\(1, 28, 28\), received images \(1, 8, 8\)"),
        ({"model": str(bundle.path)}, "comes without images"),
        ({"samples": 1}, "samples=1: expected a whole number of at least 2"),
        ({"samples": 2001}, "at most 2000 samples, as there are images, received 2001"),
        ({"t_low": 700.0, "t_high": 300.0}, "from low to high, received 700, 300"),
        ({"model": "nowhere"}, "neither a folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            experiment.PotentialBetween().measure(PotentialSettings(**bad), Lab(tmp_path))
    with pytest.raises(ValueError, match="odd number of points, received 4, 8"):
        experiment.study(denoiser, NOISE, torch.zeros(4, 1, 28, 28), MEAN, np.ones(2), np.ones(2), points=8)
