"""Uniform spheres: closed forms, Bessel functions from another library, and the identity of the norms."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import ive

from latestart.denoisers.exact import Sphere
from latestart.experiments.theory import sphere as experiment
from latestart.experiments.theory.page import spheres
from latestart.experiments.theory.settings import SphereSettings
from latestart.lab.experiment import Lab
from latestart.theory.bifurcation import THETA_C
from latestart.theory.bifurcation import one_dimension as branch


def _measured(folder, **settings):
    return experiment.Spheres().measure(SphereSettings(**settings), Lab(folder))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return _measured(tmp_path_factory.mktemp("sphere"), dims=(1, 3, 12), radius=2.0, samples=200, seed=3)


def test_critical_levels_are_the_closed_form(result):
    for c in result.cases:
        top = 4 / c.dim
        assert c.level.criterion == "sde"
        assert c.level.alpha_bar == pytest.approx(math.sqrt(top**2 + 1) - top, rel=1e-8)
        assert c.record()["closed_form"] == pytest.approx(c.level.alpha_bar, rel=1e-8)


def test_the_default_numbers_are_those_of_the_docstring():
    settings = SphereSettings()
    closed = [experiment.closed_form(dim, settings.radius) for dim in settings.dims]
    assert closed == pytest.approx([0.0623, 0.2361, 0.6180, 0.8828], abs=5e-5)


def test_in_one_dimension_the_sphere_is_two_points():
    thetas = np.array([0.3, 0.64, 0.66, 0.8, 0.95])
    lengths = experiment.radial_branch(Sphere(1), thetas, 1.0)
    assert lengths == pytest.approx([branch(theta) for theta in thetas], abs=1e-12)
    assert experiment.case(1, 1.0).level.alpha_bar == pytest.approx(THETA_C**2, rel=1e-8)


@pytest.mark.parametrize("dim", [2, 12])
def test_the_branch_solves_the_radial_equation(dim):
    """`r I_(d/2)(k) / I_(d/2-1)(k) = c |y|` with `k = r |y| / sigma^2`."""
    r = 2.0
    theta_c = math.sqrt(experiment.closed_form(dim, r))
    thetas = theta_c + (1 - theta_c) * np.array([0.05, 0.3, 0.7])
    y = experiment.radial_branch(Sphere(dim, r), thetas, r) / thetas
    k = r * y * thetas**2 / (1 - thetas**2)
    assert r * ive(dim / 2, k) / ive(dim / 2 - 1, k) == pytest.approx((1 + thetas**2) / 2 * y, rel=1e-9)
    distance = np.geomspace(1e-6, 1e-4, 9)
    heights = experiment.radial_branch(Sphere(dim, r), theta_c + distance, r)
    assert np.polyfit(np.log(distance), np.log(heights), 1)[0] == pytest.approx(0.5, abs=1e-3)


def test_the_potential_is_flat_along_the_sphere_of_fixed_points(result):
    one, *more = result.cases
    assert one.ratio < 0.99
    for c in more:
        assert c.ratio == pytest.approx(1, abs=1e-9)


def test_below_the_critical_scale_there_is_the_centre_alone(result):
    for c in result.cases:
        above = c.theta > math.sqrt(c.level.alpha_bar) + 1e-6
        assert (c.length[~above] < 1e-4).all() and (c.length[above] > 1e-3).all()
        assert (np.diff(c.length[above]) > 0).all() and c.length[-1] == pytest.approx(2, rel=0.01)


def test_the_potential_is_lowest_at_the_radius_of_the_branch(result):
    assert result.drawn.dim == 3
    for p in result.wells:
        expected = experiment.radial_branch(Sphere(3, 2.0), np.array([p.theta]), 2.0).item()
        step = p.x[1] - p.x[0]
        assert abs(p.x[p.exact.argmin()]) == pytest.approx(expected, abs=step)
        assert p.exact == pytest.approx(p.exact[::-1], abs=1e-9)
    assert result.wells[0].exact.min() == 0 > result.wells[-1].exact.min()


def test_norms_of_paths(result):
    figures = json.loads(json.dumps(result.record(), allow_nan=False))
    assert len(figures["norms"]) == experiment.LISTED
    for row in figures["norms"]:
        assert row["mean_square"] == pytest.approx(row["expected"], abs=4 * row["error"] + 0.03)
    along = experiment.along_outcome(result.paths)
    assert along[0].mean().abs() < 0.4
    torch.testing.assert_close(along[-1], experiment.norms(result.paths)[-1])


def test_picture(result, tmp_path):
    spheres(result, tmp_path)
    with Image.open(tmp_path / "sphere.png") as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 10


def test_bad_input_is_named(tmp_path):
    with pytest.raises(ValueError, match="dims: expected at least one value, received none"):
        SphereSettings(dims=())
    with pytest.raises(ValueError, match="dims=0"):
        SphereSettings(dims=(0,))
    with pytest.raises(ValueError, match="radius=-1"):
        _measured(tmp_path, dims=(3,), radius=-1.0)
