"""Critical levels: closed forms, dense twins, and data without symmetry."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.optimize import brentq, root
from twins import CRITERIA, TWO, dense_mean_and_covariance, normal

from latestart.data import load_images
from latestart.denoisers.exact import Hypercube, PointCloud, Simplex, Sphere
from latestart.gaussians.basis import Isotropic
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.theory.branches import Follower, branch
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.stability import NoCrossing, crossing, peak, second_branch


def _pairs(points):
    return PointCloud(torch.cat([points, -points]))


def _dense_ratio(points, criterion, sigma, start):
    """lambda / c at a fixed point found by SciPy's dense solver."""
    c = 1.0 if criterion == "density" else 0.5 * (1 + 1 / (1 + sigma**2))
    y = root(lambda y: dense_mean_and_covariance(points, y, sigma)[0] - c * y, start, tol=1e-12).x
    return np.linalg.eigvalsh(dense_mean_and_covariance(points, y, sigma)[1])[-1] / sigma**2 / c, y


def test_bad_ranges_are_named():
    with pytest.raises(ValueError, match=r"unstable at the highest level, sigma = 0\.9"):
        crossing(TWO, sigma_range=(0.1, 0.9))
    with pytest.raises(ValueError, match=r"received \(3, 1\)"):
        crossing(TWO, sigma_range=(3.0, 1.0))


def test_two_points_break_at_the_papers_level():
    level = crossing(TWO, "sde", Noise.vp())
    assert math.sqrt(level.alpha_bar) == pytest.approx(math.sqrt(math.sqrt(2) - 1), abs=1e-8)
    assert math.sqrt(level.alpha_bar) == pytest.approx(0.64359, abs=1e-5)
    assert level.t == pytest.approx(0.29264, abs=5e-6)
    assert crossing(TWO, "sde", Noise.from_scheduler(DDPMScheduler())).t == pytest.approx(292, abs=0.5)
    assert crossing(TWO, "density").alpha_bar == pytest.approx(0.5, abs=1e-8)


@pytest.mark.parametrize("seed", [0, 1])
def test_symmetric_clouds_of_equal_norms_have_a_closed_form(seed):
    points = 2.5 * torch.nn.functional.normalize(normal(12, 5, seed=seed), dim=1)
    top = torch.linalg.eigvalsh(points.T @ points / 12)[-1].item()
    cloud = _pairs(points)
    assert crossing(cloud, "sde").alpha_bar == pytest.approx(math.sqrt(top**2 + 1) - top, rel=1e-7)
    assert crossing(cloud, "density").alpha_bar == pytest.approx(1 / (1 + top), rel=1e-7)


@pytest.mark.parametrize(
    ("model", "top"),
    [(Sphere(1, 1.5), 2.25), (Sphere(10, 3.0), 0.9), (Hypercube(4), 1.0)],
    ids=["sphere 1", "sphere 10", "hypercube"],
)
def test_models_of_equal_norms_have_a_closed_form(model, top):
    """The covariance of the uniform sphere of radius r in d dimensions is `r^2 / d I`."""
    sigma_range = (0.3, 10.0)
    assert crossing(model, "sde", None, sigma_range).alpha_bar == pytest.approx(math.sqrt(top**2 + 1) - top, rel=1e-7)
    assert crossing(model, "density", None, sigma_range).alpha_bar == pytest.approx(1 / (1 + top), rel=1e-7)


def test_a_simplex_loses_its_centre_at_its_variance():
    assert crossing(Simplex(5, 2.0), "density").sigma == pytest.approx(2 / math.sqrt(5), rel=1e-7)


@pytest.mark.parametrize("criterion", CRITERIA)
def test_pairs_of_unequal_norms_meet_the_general_condition_and_not_the_closed_form(criterion):
    cloud = _pairs(normal(20, 7))
    points, origin = cloud.points.numpy(), np.zeros(7)
    expected = brentq(lambda s: _dense_ratio(points, criterion, s, origin)[0] - 1, 0.8, 3.0)
    assert crossing(cloud, criterion).sigma == pytest.approx(expected, rel=1e-7)
    top = np.linalg.eigvalsh(points.T @ points / 40)[-1]
    formula = {"sde": math.sqrt(top**2 + 1) - top, "density": 1 / (1 + top)}[criterion]
    assert abs(crossing(cloud, criterion).alpha_bar - formula) > 0.05


ASYMMETRIC = PointCloud(
    torch.randn(30, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    * torch.tensor([3.0, 1, 1, 1, 1, 1, 1])
    + 0.5
)


def _central_ratios(points, criterion, sigmas):
    ratios, y = [], points.mean(0)
    for sigma in sigmas:
        ratio, y = _dense_ratio(points, criterion, sigma, y)
        ratios.append(ratio)
    return np.array(ratios)


def test_a_cloud_without_symmetry_stays_stable_and_its_peak_is_reported():
    sigmas = np.geomspace(20, 0.2, 401)
    ratios = _central_ratios(ASYMMETRIC.points.numpy(), "density", sigmas)
    assert ratios.max() < 1
    with pytest.raises(NoCrossing, match=r"peaks at 0\.\d+, at sigma = .* imperfect bifurcation") as caught:
        crossing(ASYMMETRIC, "density", sigma_range=(0.2, 20.0))
    assert caught.value.ratio == pytest.approx(ratios.max(), rel=1e-4)
    assert caught.value.sigma == pytest.approx(sigmas[ratios.argmax()], rel=0.01)
    follower = Follower(ASYMMETRIC, "density")
    coarse = list(branch(follower, sigmas[::20]))
    assert [here.ratio for here in coarse] == pytest.approx(ratios[::20], rel=1e-5)
    assert peak(follower, coarse).ratio == pytest.approx(ratios.max(), rel=1e-4)


def test_a_central_branch_that_ends_in_a_fold_is_said_to():
    """There the central fixed point meets an unstable one: lambda / c reaches 1, and below there is neither."""
    cloud = PointCloud(normal(8, 3, seed=2) * torch.tensor([3.0, 1, 1]))
    level = crossing(cloud, "sde", sigma_range=(1.0, 20.0))
    assert "fold" in level.how and level.interval[1] / level.interval[0] < 1 + 1e-5
    *above, here = branch(Follower(cloud, "sde"), np.geomspace(10, level.sigma * (1 + 1e-6), 40))
    assert all(point.ratio < 0.98 for point in above) and here.ratio == pytest.approx(1, abs=0.02)
    ratio, y = _dense_ratio(cloud.points.numpy(), "sde", level.sigma * 1.0001, here.point.numpy())
    assert 0.97 < ratio < 1.03 and np.linalg.norm(y - here.point.numpy()) < 0.2
    with pytest.raises(ConvergenceError, match="sde"):
        list(branch(Follower(cloud, "sde"), np.geomspace(10, level.sigma * 0.99, 40)))


def test_an_end_of_the_levels_is_no_peak():
    """Of one Gaussian `lambda / c = 1 / (1 + sigma^2)` under density: it comes to 1 at no level."""
    white = Gaussian(torch.zeros(2, dtype=torch.float64), Isotropic((2,)), torch.ones(1, dtype=torch.float64))
    with pytest.raises(NoCrossing, match=r"highest at the end of these levels, 0\.9999 at sigma = 0\.01,") as caught:
        crossing(white, "density", sigma_range=(0.01, 20.0))
    assert caught.value.at_end and caught.value.sigma == pytest.approx(0.01)
    assert "symmetry" not in str(caught.value)
    with pytest.raises(NoCrossing) as caught:
        crossing(_three_points(), "density", sigma_range=(0.2, 20.0))
    assert not caught.value.at_end


def test_starts_that_are_none_are_named():
    with pytest.raises(ValueError, match="at least one start, all of finite values, received 0"):
        second_branch(TWO, torch.empty(0, 1))
    with pytest.raises(ValueError, match="received 2, 1 of them with values that are NaN"):
        second_branch(TWO, torch.tensor([[1.0], [math.nan]]))


def _three_points():
    """Two points of one dimension with unequal weights, 2 : 1: the lighter one's mode is born in a fold."""
    return PointCloud(torch.tensor([[-1.0], [-1.0], [1.0]], dtype=torch.float64))


def test_a_second_branch_is_born_in_a_fold():
    """`tanh(y / s^2 + h) = y` with `h = 1/2 log(1/2)`: fold where both sides touch, `1 - y^2 = s^2`."""

    def touch(variance):
        y = math.sqrt(1 - variance)
        return y / variance + 0.5 * math.log(0.5) - math.atanh(y)

    expected = math.sqrt(brentq(touch, 0.3, 0.99))
    level = second_branch(_three_points(), torch.tensor([[-1.0], [1.0]]), "density")
    assert level.sigma == pytest.approx(expected, rel=2e-4)
    assert level.interval[0] <= expected * (1 + 1e-6) and expected <= level.interval[1] * (1 + 1e-6)
    with pytest.raises(NoCrossing):
        crossing(_three_points(), "density", sigma_range=(0.2, 20.0))


def test_a_second_branch_of_a_pitchfork_begins_at_the_crossing():
    level = second_branch(TWO, torch.tensor([[1.0]]), "sde", Noise.vp())
    assert level.sigma == pytest.approx(crossing(TWO, "sde").sigma, rel=1e-3)
    assert level.t == pytest.approx(0.29264, abs=1e-3)
    with pytest.raises(ValueError, match=r"no second stable branch .* from 1 starts"):
        second_branch(TWO, torch.tensor([[1.0]]), "sde", sigma_range=(1.5, 4.0))
    with pytest.raises(ValueError, match="exists at the highest level"):
        second_branch(_three_points(), torch.tensor([[1.0]]), "sde", sigma_range=(0.3, 0.5))


@pytest.mark.shared
def test_mnist_as_a_point_cloud(shared):
    """The central branch of 10,000 images: no crossing, and these values of lambda / c."""
    cloud = PointCloud(load_images(shared / "data" / "mnist-train.parquet", 10_000).floats())
    noise = Noise.from_scheduler(DDPMScheduler())
    expected = {
        "density": {800: 0.0297, 660: 0.2111, 600: 0.4919, 560: 0.6808, 520: None, 500: 0.9614, 480: 0.8831},
        "sde": {660: 0.4607, 600: 0.8198, 560: 0.9366, 500: 0.8469},
    }
    for criterion, values in expected.items():
        curve = list(branch(Follower(cloud, criterion, True), [noise.sigma(float(t)) for t in values]))
        for here, value in zip(curve, values.values()):
            assert value is None or here.ratio == pytest.approx(value, rel=0.01)
        if criterion == "density":  # the branch bends away from the mean
            bent = {t: (here.point - cloud.points.mean(0)).norm().item() for t, here in zip(values, curve)}
            assert (bent[600], bent[520]) == (pytest.approx(3.3, rel=0.02), pytest.approx(9.7, rel=0.02))
    for criterion, (low, high), ratio, t in (
        ("density", (460.0, 800.0), 0.970, 506),
        ("sde", (520.0, 620.0), 0.943, 564),
    ):
        with pytest.raises(NoCrossing) as caught:
            crossing(cloud, criterion, noise, (noise.sigma(low), noise.sigma(high)), symmetric=True)
        assert caught.value.ratio == pytest.approx(ratio, rel=0.01)
        assert noise.time(caught.value.sigma) == pytest.approx(t, abs=4)
