"""Fixed points and their stability: closed forms, dense twins, and data without symmetry."""

import logging
import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from scipy.optimize import brentq, root

from latestart.data import load_images
from latestart.denoisers.exact import Hypercube, PointCloud, Simplex, Sphere
from latestart.denoisers.networks import from_diffusers
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.theory.stability import (
    ConvergenceError,
    Follower,
    Jacobian,
    NoCrossing,
    branch,
    constant,
    crossing,
    fixed_point,
    jacobian_vector,
    leading_eigenvalue,
    path_exponents,
    peak,
    second_branch,
)
from latestart.zoo import load

CRITERIA = ("density", "sde")
TWO = PointCloud(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _pairs(points):
    return PointCloud(torch.cat([points, -points]))


def _dense_mean_and_covariance(points, y, sigma):
    """The posterior at y in NumPy, from its definition."""
    logits = -((points - y) ** 2).sum(1) / (2 * sigma**2)
    weights = np.exp(logits - logits.max())
    weights /= weights.sum()
    mean = weights @ points
    return mean, (points - mean).T @ ((points - mean) * weights[:, None])


def _dense_ratio(points, criterion, sigma, start):
    """lambda / c at a fixed point found by SciPy's dense solver."""
    c = 1.0 if criterion == "density" else 0.5 * (1 + 1 / (1 + sigma**2))
    y = root(lambda y: _dense_mean_and_covariance(points, y, sigma)[0] - c * y, start, tol=1e-12).x
    return np.linalg.eigvalsh(_dense_mean_and_covariance(points, y, sigma)[1])[-1] / sigma**2 / c, y


class Linear:
    """A denoiser `D(y) = M y` with any M, whose Jacobian is M."""

    dtype, device, sigma_range = torch.float64, torch.device("cpu"), (0.01, 100.0)

    def __init__(self, matrix, shape=None):
        self.matrix, self.shape = matrix, shape or (len(matrix),)

    def __call__(self, y, sigma):
        return (y.flatten(1) @ self.matrix.T).view_as(y)


# --- the Jacobian -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["forward", "backward", "differences", "auto"])
def test_products_are_those_of_the_posterior_covariance(method):
    points, y, v = _normal(40, 1, 3, 4), _normal(5, 1, 3, 4, seed=1), _normal(5, 1, 3, 4, seed=2)
    out = jacobian_vector(PointCloud(points), y, 0.9, v, method)
    for k in range(5):
        _, covariance = _dense_mean_and_covariance(points.flatten(1).numpy(), y[k].flatten().numpy(), 0.9)
        expected = torch.from_numpy(covariance @ v[k].flatten().numpy() / 0.81).view(1, 3, 4)
        torch.testing.assert_close(out[k], expected, rtol=1e-7, atol=1e-8)


def _attention_network():
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    ).eval()  # fmt: skip


def test_products_through_attention_and_group_norms_agree():
    denoiser = from_diffusers(_attention_network(), DDIMScheduler())
    y, v = 2 * _normal(3, 1, 8, 8), _normal(3, 1, 8, 8, seed=1)
    forward, backward, differences = (
        jacobian_vector(denoiser, y, 2.0, v, method) for method in ("forward", "backward", "differences")
    )
    assert (forward - backward).norm() < 1e-5 * forward.norm()
    assert (forward - differences).norm() < 1e-3 * forward.norm()
    jacobian = Jacobian(denoiser, y[:1], 2.0)
    u = _normal(1, 1, 8, 8, seed=2)
    assert (jacobian.vector(v[:1]) * u).sum().item() == pytest.approx(
        (jacobian.transposed(u) * v[:1]).sum().item(), rel=1e-4
    )
    assert (jacobian.method, jacobian.products) == ("backward", 2)


def test_a_denoiser_that_is_not_differentiable_is_taken_by_differences(caplog):
    class Detached(PointCloud):
        def __call__(self, y, sigma):
            return super().__call__(y.detach(), sigma).detach()

    points, y, v = _normal(10, 4), _normal(1, 4, seed=1), _normal(1, 4, seed=2)
    jacobian = Jacobian(Detached(points), y, 1.0)
    with caplog.at_level(logging.INFO):
        out = jacobian.vector(v)
    assert jacobian.method == "differences" and "central differences" in caplog.text
    torch.testing.assert_close(out, jacobian_vector(PointCloud(points), y, 1.0, v), rtol=1e-6, atol=1e-8)
    with pytest.raises(RuntimeError):
        jacobian_vector(Detached(points), y, 1.0, v, "backward")
    spectrum = leading_eigenvalue(Detached(points), y, 1.0)
    assert spectrum.leading == pytest.approx(leading_eigenvalue(PointCloud(points), y, 1.0).leading, rel=1e-6)


# --- eigenvalues ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symmetric", [None, True, False])
def test_leading_eigenvalues_of_a_cloud_are_the_dense_ones(symmetric):
    points = _normal(30, 1, 8, 8) * torch.linspace(3, 1, 64, dtype=torch.float64).view(1, 8, 8)
    y = 0.2 * _normal(1, 8, 8, seed=1)
    spectrum = leading_eigenvalue(PointCloud(points), y, 4.0, k=3, symmetric=symmetric)
    _, covariance = _dense_mean_and_covariance(points.flatten(1).numpy(), y.flatten().numpy(), 4.0)
    values, vectors = np.linalg.eigh(covariance / 16)
    assert spectrum.values == pytest.approx(values[::-1][:3], rel=1e-3)
    for k in range(3):
        assert abs(spectrum.vectors[k].flatten().numpy() @ vectors[:, -1 - k]) == pytest.approx(1, abs=1e-3)
    assert spectrum.products <= 100
    assert spectrum.asymmetry is None if symmetric else spectrum.asymmetry < 1e-9
    assert ("Arnoldi" if symmetric is False else "Lanczos") in spectrum.how


@pytest.mark.parametrize("dim", [6, 60])
def test_a_complex_pair_is_kept_whole_and_the_asymmetry_measured(dim):
    basis = torch.linalg.qr(_normal(dim, dim))[0]
    matrix = torch.diag(torch.linspace(-0.5, 0.5, dim, dtype=torch.float64))
    matrix[:2, :2] = torch.tensor([[0.9, 0.4], [-0.4, 0.9]])
    matrix = basis @ matrix @ basis.T
    spectrum = leading_eigenvalue(Linear(matrix), torch.zeros(dim), 1.0)
    assert sorted(spectrum.values.imag) == pytest.approx([-0.4, 0.4], rel=1e-3)
    assert spectrum.leading == pytest.approx(0.9, rel=1e-3)
    for value, vector in zip(spectrum.values, spectrum.vectors):
        product = matrix.to(torch.complex128) @ vector
        assert (product - complex(value) * vector).norm() < 1e-2
    exact = ((matrix - matrix.T).norm() / (matrix + matrix.T).norm()).item()
    assert spectrum.asymmetry == pytest.approx(exact, rel=0.5 if dim > 32 else 1e-9)


def test_a_trained_network_against_its_dense_jacobian():
    bundle = load("mnist")
    denoiser = from_diffusers(bundle.model, bundle.scheduler)
    y, sigma = bundle.prior.mean.double(), denoiser.noise.sigma(500.0)
    spectrum = leading_eigenvalue(denoiser, y, sigma)
    dim = y.numel()
    jacobian = Jacobian(denoiser, y[None], sigma)
    dense = torch.cat([jacobian.transposed(rows.view(-1, *y.shape)).flatten(1) for rows in torch.eye(dim).split(98)])
    assert spectrum.leading == pytest.approx(torch.linalg.eigvals(dense).real.max().item(), rel=1e-3)
    assert spectrum.products <= 100
    exact = ((dense - dense.T).norm() / (dense + dense.T).norm()).item()
    assert spectrum.asymmetry == pytest.approx(exact, rel=0.3)


def test_a_point_of_certainty_has_the_eigenvalue_zero():
    points = 10 * _normal(5, 50)
    assert leading_eigenvalue(PointCloud(points), points[2], 0.01).leading == 0


# --- fixed points -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("sigma", [0.3, 1.5, 6.0])
def test_the_fixed_point_of_a_gaussian_in_closed_form(criterion, sigma):
    """`m + C (C + sigma^2)^-1 (y - m) = c y` is linear in y."""
    gaussian = Gaussian.fit(_normal(200, 6) + 2.0, basis="dense", dtype=torch.float64)
    c = constant(criterion, sigma)
    gain = gaussian.covariance() @ torch.linalg.inv(gaussian.covariance() + sigma**2 * torch.eye(6))
    expected = torch.linalg.solve(c * torch.eye(6) - gain, gaussian.mean - gain @ gaussian.mean)
    for search in ("auto", "newton"):
        found = fixed_point(gaussian, sigma, criterion, search=search)
        torch.testing.assert_close(found.point, expected, rtol=1e-6, atol=1e-8)
        assert found.residual < 1e-9


def test_newton_converges_where_the_contraction_does_not():
    """Below the critical level the centre of two points repels the contraction, and Newton's method finds it."""
    start = torch.tensor([0.05], dtype=torch.float64)
    assert fixed_point(TWO, 0.8, "density", start, search="newton").point.abs() < 1e-9
    x = brentq(lambda x: math.tanh(x / 0.64) - x, 0.1, 2)
    assert fixed_point(TWO, 0.8, "density", start, search="contraction").point.item() == pytest.approx(x, rel=1e-9)


def test_a_search_that_fails_says_so_with_its_residual():
    class Shifted(Linear):
        def __call__(self, y, sigma):
            return y + 1.0

    denoiser = Shifted(torch.eye(3, dtype=torch.float64))
    for search in ("auto", "contraction", "newton"):
        with pytest.raises(ConvergenceError, match=r"no fixed point .* sigma = 2: .* residual is") as caught:
            fixed_point(denoiser, 2.0, "density", search=search)
        assert caught.value.residual > 1e-3 and caught.value.sigma == 2.0


def test_bad_denoisers_and_arguments_are_named():
    class Broken(Linear):
        def __call__(self, y, sigma):
            return y[:, :1] if sigma > 5 else y * math.nan

    broken = Broken(torch.eye(3, dtype=torch.float64))
    with pytest.raises(ValueError, match="NaN or infinite at sigma = 2,"):
        fixed_point(broken, 2.0)
    with pytest.raises(ValueError, match=r"the shape \(1, 1\) at sigma = 6,"):
        fixed_point(broken, 6.0)
    with pytest.raises(ValueError, match="'density' or 'sde', received 'modes'"):
        fixed_point(TWO, 1.0, "modes")
    with pytest.raises(ValueError, match=r"one point of shape \(1,\), received \(2,\)"):
        fixed_point(TWO, 1.0, start=torch.zeros(2))
    with pytest.raises(ValueError, match="between 0 and infinity, received -1"):
        fixed_point(TWO, -1.0)
    with pytest.raises(ValueError, match="received k=2"):
        leading_eigenvalue(TWO, torch.zeros(1), 1.0, k=2)
    with pytest.raises(ValueError, match="received 'sideways'"):
        jacobian_vector(TWO, torch.zeros(1, 1), 1.0, torch.zeros(1, 1), "sideways")
    with pytest.raises(ValueError, match=r"unstable at the highest level, sigma = 0\.9"):
        crossing(TWO, sigma_range=(0.1, 0.9))
    with pytest.raises(ValueError, match=r"received \(3, 1\)"):
        crossing(TWO, sigma_range=(3.0, 1.0))


# --- critical levels --------------------------------------------------------------------------------------------------


def test_two_points_break_at_the_papers_level():
    level = crossing(TWO, "sde", Noise.vp())
    assert math.sqrt(level.alpha_bar) == pytest.approx(math.sqrt(math.sqrt(2) - 1), abs=1e-8)
    assert math.sqrt(level.alpha_bar) == pytest.approx(0.64359, abs=1e-5)
    assert level.t == pytest.approx(0.29264, abs=5e-6)
    assert crossing(TWO, "sde", Noise.from_scheduler(DDPMScheduler())).t == pytest.approx(292, abs=0.5)
    assert crossing(TWO, "density").alpha_bar == pytest.approx(0.5, abs=1e-8)


@pytest.mark.parametrize("seed", [0, 1])
def test_symmetric_clouds_of_equal_norms_have_a_closed_form(seed):
    points = 2.5 * torch.nn.functional.normalize(_normal(12, 5, seed=seed), dim=1)
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
    cloud = _pairs(_normal(20, 7))
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
    coarse = branch(ASYMMETRIC, sigmas[::20], "density")
    assert [here.ratio for here in coarse] == pytest.approx(ratios[::20], rel=1e-5)
    assert peak(Follower(ASYMMETRIC, "density"), coarse).ratio == pytest.approx(ratios.max(), rel=1e-4)


def test_a_central_branch_that_ends_in_a_fold_is_said_to():
    """There the central fixed point meets an unstable one: lambda / c reaches 1, and below there is neither."""
    cloud = PointCloud(_normal(8, 3, seed=2) * torch.tensor([3.0, 1, 1]))
    level = crossing(cloud, "sde", sigma_range=(1.0, 20.0))
    assert "fold" in level.how and level.interval[1] / level.interval[0] < 1 + 1e-5
    *above, here = branch(cloud, np.geomspace(10, level.sigma * (1 + 1e-6), 40), "sde")
    assert all(point.ratio < 0.98 for point in above) and here.ratio == pytest.approx(1, abs=0.02)
    ratio, y = _dense_ratio(cloud.points.numpy(), "sde", level.sigma * 1.0001, here.point.numpy())
    assert 0.97 < ratio < 1.03 and np.linalg.norm(y - here.point.numpy()) < 0.2
    with pytest.raises(ConvergenceError, match="sde"):
        branch(cloud, np.geomspace(10, level.sigma * 0.99, 40), "sde")


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


def test_exponents_along_paths_in_closed_form():
    """On two points the Jacobian is `(1 - tanh(y / s^2)^2) / s^2`."""
    sigmas = [2.0, 1.0, 0.5]
    paths = _normal(3, 4, 1)
    exponents = path_exponents(TWO, paths, sigmas, "sde")
    for k, sigma in enumerate(sigmas):
        slope = (1 - np.tanh(paths[k, :, 0].numpy() / sigma**2) ** 2) / sigma**2
        assert exponents.values[k] == pytest.approx(2 * (slope - constant("sde", sigma)), abs=1e-12)
        assert exponents.mean[k] == pytest.approx(exponents.values[k].mean())
        assert exponents.spread[k] == pytest.approx(exponents.values[k].std(ddof=1))
    assert path_exponents(TWO, paths[:, :1], sigmas).spread.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match=r"\(n, B, 1\) at n levels, received \(3, 4, 1\) at 2"):
        path_exponents(TWO, paths, sigmas[:2])


def test_neighbours_separate_at_the_rate_of_the_exponent():
    """The reverse SDE's drift in x_t, integrated for two neighbours over a short stretch of log sigma."""
    sigma, step, gap = 0.9, 1e-4, 1e-5
    noise = Noise.vp()
    x = torch.tensor([[0.3], [0.3 + gap]], dtype=torch.float64) * noise.alpha(noise.time(sigma))
    beta_dt = math.log1p(sigma**2) - math.log1p((sigma * math.exp(-step)) ** 2)
    alpha, std = noise.alpha(noise.time(sigma)), noise.std(noise.time(sigma))
    x_next = x + beta_dt * (x / 2 + (alpha * TWO(x / alpha, sigma) - x) / std**2)
    rate = math.log(((x_next[1] - x_next[0]) / (x[1] - x[0])).item()) / step
    exponent = path_exponents(TWO, (x[:1] / alpha)[None], [sigma], "sde").values[0, 0]
    assert rate == pytest.approx(exponent, rel=2e-3)


@pytest.mark.shared
def test_mnist_as_a_point_cloud(shared):
    """The central branch of 10,000 images: no crossing, and these values of lambda / c."""
    cloud = PointCloud(load_images(shared / "data" / "mnist-train.parquet", 10_000).floats())
    noise = Noise.from_scheduler(DDPMScheduler())
    expected = {
        "density": {800: 0.0297, 660: 0.2111, 600: 0.4919, 560: 0.6808, 500: 0.9614},
        "sde": {660: 0.4607, 600: 0.8198, 560: 0.9366},
    }
    for criterion, values in expected.items():
        curve = branch(cloud, [noise.sigma(float(t)) for t in values], criterion, symmetric=True)
        assert [here.ratio for here in curve] == pytest.approx(list(values.values()), rel=0.01)
    with pytest.raises(NoCrossing) as caught:
        crossing(cloud, "density", noise, (noise.sigma(460.0), noise.sigma(800.0)), symmetric=True)
    assert caught.value.ratio == pytest.approx(0.970, rel=0.01)
    assert noise.time(caught.value.sigma) == pytest.approx(506, abs=4)
