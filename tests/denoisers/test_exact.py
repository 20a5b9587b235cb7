import itertools
import math
import subprocess
import sys
from pathlib import Path

import mpmath
import pytest
import scipy.integrate
import torch

from latestart import Gaussian
from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import (
    GaussianMixture,
    Hypercube,
    PointCloud,
    Simplex,
    Sphere,
    TwoPoints,
    bessel_ratio,
)
from latestart.gaussians.basis import Dense, Diagonal, Isotropic


def _log_prob(points, y, sigma):
    """The noised density by its definition, a mixture of n isotropic Gaussians."""
    flat = y.flatten(1)
    each = torch.distributions.Normal(points.flatten(1), sigma).log_prob(flat[:, None]).sum(-1)
    return each.logsumexp(1) - math.log(len(points))


@pytest.mark.parametrize("sigma", [0.05, 0.7, 30.0])
def test_denoiser_and_density_are_those_of_the_mixture(sigma):
    g = torch.Generator().manual_seed(0)
    points = torch.randn(50, 2, 3, generator=g, dtype=torch.float64)
    y = (points[:9] + sigma * torch.randn(9, 2, 3, generator=g, dtype=torch.float64)).requires_grad_()
    cloud = PointCloud(points, chunk=7)
    expected = _log_prob(points, y, sigma)
    torch.testing.assert_close(cloud.log_prob(y, sigma), expected, rtol=1e-10, atol=1e-10)
    (gradient,) = torch.autograd.grad(expected.sum(), y)
    torch.testing.assert_close(cloud(y, sigma), y + sigma**2 * gradient, rtol=1e-8, atol=1e-8)


def test_levels_may_differ_by_sample_and_chunks_do_not_matter():
    g = torch.Generator().manual_seed(1)
    points, y = torch.randn(40, 5, generator=g), torch.randn(6, 5, generator=g)
    sigma = torch.linspace(0.1, 4, 6)
    whole, cut = PointCloud(points, chunk=100), PointCloud(points, chunk=3)
    torch.testing.assert_close(whole(y, sigma), cut(y, sigma))
    one_by_one = torch.cat([whole(y[k : k + 1], float(sigma[k])) for k in range(6)])
    torch.testing.assert_close(whole(y, sigma), one_by_one)


def test_two_points_are_a_hyperbolic_tangent():
    y = torch.linspace(-3, 3, 31, dtype=torch.float64)[:, None]
    cloud = PointCloud(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))
    torch.testing.assert_close(cloud(y, 0.8), torch.tanh(y / 0.64))


def test_tiny_levels_give_the_nearest_point_without_overflow():
    points = torch.tensor([[0.0, 0.0], [100.0, -100.0]])
    y = torch.tensor([[1.0, 1.0], [99.0, -90.0]])
    assert torch.equal(PointCloud(points)(y, 1e-3), points)


MNIST_SIZED = """
import torch
from latestart.denoisers.exact import PointCloud
from latestart.theory.jacobian import jacobian_vector

torch.set_num_threads(1)
points = torch.randn(60_000, 784, generator=torch.Generator().manual_seed(0))
cloud, y = PointCloud(points), points[-64:] + 0.5
assert torch.equal(cloud(y, 0.5).round(decimals=3), points[-64:].round(decimals=3))
assert cloud(y, 1e4).norm(dim=1).max() < 0.2  # the mean of all, 0.11
assert cloud.log_prob(y, 5.0).isfinite().all()
for method in ("backward", "forward"):
    jacobian_vector(cloud, y, 5.0, y, method)
status = open("/proc/self/status").read().split()
print(int(status[status.index("VmHWM:") + 1]) / 2**20)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of the memory is read from /proc")
def test_60_000_points_in_784_dimensions_run_in_2_gib():
    """A process with 0.18 GiB of points stays below 2 GiB over posteriors, densities and Jacobian products."""
    run = subprocess.run([sys.executable, "-c", MNIST_SIZED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 2


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least one point"):
        PointCloud(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="finite"):
        PointCloud(torch.tensor([[math.nan]]))
    cloud = PointCloud(torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"\(B, 3\), received \(4, 2\)"):
        cloud(torch.zeros(4, 2), 1.0)
    with pytest.raises(ValueError, match="sigma > 0"):
        cloud(torch.zeros(4, 3), 0.0)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixture():
    """Three components in three bases, over samples of shape (2, 2)."""
    shape = (2, 2)
    dense = Dense(shape, torch.linalg.qr(randn(4, 4, seed=1))[0])
    means = randn(3, *shape, seed=2)
    components = [
        Gaussian(means[0], dense, torch.tensor([2.0, 0.5, 0.1, 0.0])),
        Gaussian(means[1], Diagonal(shape), torch.tensor([0.3, 1.0, 0.2, 0.7])),
        Gaussian(2 * means[2], Isotropic(shape), torch.tensor([0.4])),
    ]
    return GaussianMixture(components, [1.0, 2.0, 5.0])


MODELS = {
    "cloud": lambda: PointCloud(randn(11, 2, 3), chunk=4),
    "two": lambda: TwoPoints(randn(2, 3)),
    "simplex": lambda: Simplex(5, 1.7),
    "hypercube": lambda: Hypercube(4, 0.8),
    "line": lambda: Sphere(1, 1.3),
    "sphere": lambda: Sphere(3, 2.0),
    "large sphere": lambda: Sphere(500, 20.0),
    "mixture": mixture,
}
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
@pytest.mark.parametrize("sigma", [0.3, 2.0, torch.tensor([0.2, 1.0, 5.0, 0.4], dtype=torch.float64)])
def test_denoiser_is_tweedies_formula(name, sigma):
    model = MODELS[name]()
    assert isinstance(model, Denoiser)
    y = (1.5 * randn(4, *model.shape, seed=3)).requires_grad_()
    level = torch.as_tensor(sigma, dtype=torch.float64).expand(4)
    (gradient,) = torch.autograd.grad(model.log_prob(y, sigma).sum(), y)
    expected = y + level.view(-1, *[1] * len(model.shape)) ** 2 * gradient
    torch.testing.assert_close(model(y, sigma), expected, rtol=1e-9, atol=1e-9)


@every_model
@pytest.mark.parametrize("at", ["anywhere", "centre"])
def test_jacobian_vector_products_forward_and_reverse(name, at):
    """Against central differences; an exact denoiser's Jacobian is symmetric, so both modes give one product."""
    model = MODELS[name]()
    y = randn(2, *model.shape, seed=4) if at == "anywhere" else torch.zeros(2, *model.shape, dtype=torch.float64)
    v, h = randn(2, *model.shape, seed=5), 1e-5

    def denoise(y):
        return model(y, 0.9)

    _, forward = torch.func.jvp(denoise, (y,), (v,))
    reverse = torch.func.vjp(denoise, y)[1](v)[0]
    torch.testing.assert_close(forward, (denoise(y + h * v) - denoise(y - h * v)) / (2 * h), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(forward, reverse, rtol=1e-11, atol=1e-11)


@every_model
def test_samples_follow_their_seed_and_the_denoiser_at_infinite_noise(name):
    """The mean of the samples is the posterior mean where the noise is infinite."""
    model, n = MODELS[name](), 4000
    first, again = (model.sample(n, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    far = model(torch.zeros(1, *model.shape, dtype=torch.float64), 1e6)[0]
    assert ((first.mean(0) - far).abs() < 5 * first.std(0) / math.sqrt(n) + 1e-9).all()


SIMPLEX = Simplex(3, 2.0)
TWINS = [
    (TwoPoints(randn(2, 3)), torch.stack([randn(2, 3), -randn(2, 3)])),
    (TwoPoints(), torch.tensor([[1.0], [-1.0]], dtype=torch.float64)),
    (SIMPLEX, SIMPLEX._combined(torch.eye(4, dtype=torch.float64))),
    (Hypercube(3, 0.6), 0.6 * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=3)), dtype=torch.float64)),
    (Sphere(1, 1.4), torch.tensor([[1.4], [-1.4]], dtype=torch.float64)),
    (Simplex(1, 1.4), torch.tensor([[1.4], [-1.4]], dtype=torch.float64)),
]


@pytest.mark.parametrize(("model", "points"), TWINS)
@pytest.mark.parametrize("sigma", [0.15, 0.8, 10.0])
def test_equals_the_point_cloud_of_its_points(model, points, sigma):
    cloud, y = PointCloud(points), 2 * randn(20, *model.shape, seed=7)
    torch.testing.assert_close(model(y, sigma), cloud(y, sigma), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.log_prob(y, sigma), cloud.log_prob(y, sigma), rtol=1e-10, atol=1e-10)
    drawn = model.sample(200, torch.Generator().manual_seed(0)).flatten(1)
    distance = torch.cdist(drawn, points.flatten(1))
    assert (distance.amin(1) < 1e-6).all()
    assert len(distance.argmin(1).unique()) == len(points)


@pytest.mark.parametrize("dim", [1, 2, 7, 50])
def test_the_simplex_is_regular(dim):
    """Vertices of norm r, at equal angles, centred, with covariance `r^2 / d I`."""
    vertices = Simplex(dim, 3.0)._combined(torch.eye(dim + 1, dtype=torch.float64))
    gram = 9 * ((1 + 1 / dim) * torch.eye(dim + 1, dtype=torch.float64) - 1 / dim)
    torch.testing.assert_close(vertices @ vertices.T, gram, rtol=0, atol=1e-12)
    covariance = vertices.T @ vertices / (dim + 1)
    torch.testing.assert_close(covariance, 9 / dim * torch.eye(dim, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("sigma", "norm"), [(0.2, 1.5), (1.0, 0.3), (4.0, 5.0)])
def test_the_sphere_against_integration_over_the_angle(dim, sigma, norm):
    """The polar angle to y has the density `sin(angle)^(d - 2)`."""
    radius = 1.2
    k = radius * norm / sigma**2

    def mean(power):
        def integrand(angle):
            return math.cos(angle) ** power * math.sin(angle) ** (dim - 2) * math.exp(k * (math.cos(angle) - 1))

        return scipy.integrate.quad(integrand, 0, math.pi, epsabs=0, epsrel=1e-11, limit=200)[0]

    y = torch.zeros(1, dim, dtype=torch.float64)
    y[0, -1] = norm
    model = Sphere(dim, radius)
    assert model(y, sigma)[0, -1].item() == pytest.approx(radius * mean(1) / mean(0), rel=1e-9)
    area = scipy.integrate.quad(lambda angle: math.sin(angle) ** (dim - 2), 0, math.pi)[0]
    kernel = math.log(mean(0) / area) + k - (norm**2 + radius**2) / (2 * sigma**2)
    expected = kernel - 0.5 * dim * math.log(2 * math.pi * sigma**2)
    assert model.log_prob(y, sigma).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dim", [1, 2, 3, 10, 81, 784, 10_000])
def test_bessel_ratios_and_their_derivative_to_rounding(dim):
    """Against 30 digits; the derivative from `A' = 1 - A^2 - (d - 1) A / k`."""
    mpmath.mp.dps, nu = 30, dim / 2 - 1
    for k in (1e-6, 0.01, 0.5, 30.0, 1000.0):
        square = torch.tensor(k**2, dtype=torch.float64)
        rho, log_f = bessel_ratio(nu, square)
        below, above = mpmath.besseli(nu, k), mpmath.besseli(nu + 1, k)
        ratio = above / below
        slope = ((1 - ratio**2 - (dim - 1) * ratio / k) / k - ratio / mpmath.mpf(k) ** 2) / (2 * k)
        assert rho.item() == pytest.approx(float(ratio / k), rel=1e-13)
        expected = mpmath.log(mpmath.gamma(nu + 1) * (mpmath.mpf(2) / k) ** nu * below)
        assert log_f.item() == pytest.approx(float(expected), rel=1e-12, abs=1e-14)
        derivative = torch.func.grad(lambda s, nu=nu: bessel_ratio(nu, s)[0])(square)
        assert derivative.item() == pytest.approx(float(slope), rel=1e-12)


def test_the_sphere_at_the_ends_of_its_range():
    """Three dimensions, `A = coth k - 1/k` at any k; and 10,000, where `A = z / (1 + sqrt(1 + z^2))`, `z = 2 k / d`."""
    y = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    for sigma in (1e-7, 1e-3, 1.0, 1e3, 1e7):
        k = mpmath.mpf(sigma) ** -2
        expected = float(mpmath.coth(k) - 1 / k)
        assert Sphere(3)(y, sigma)[0, 2].item() == pytest.approx(expected, rel=1e-12)
    dim, sigma = 10_000, 0.8
    sphere = Sphere(dim, math.sqrt(dim))
    y = sphere.sample(3, torch.Generator().manual_seed(0)) + sigma * randn(3, dim, seed=1)
    z = y.norm(dim=1, keepdim=True) * math.sqrt(dim) / sigma**2 / (dim / 2)
    limit = math.sqrt(dim) * z / (1 + (1 + z**2).sqrt()) * y / y.norm(dim=1, keepdim=True)
    torch.testing.assert_close(sphere(y, sigma), limit, rtol=2 / dim, atol=0)
    typical = y / (1 + sigma**2)  # E[x_0 | y] of a Gaussian with the same covariance, right where |y| is typical
    assert ((sphere(y, sigma) - typical).norm(dim=1) < 0.02 * typical.norm(dim=1)).all()
    for extreme in (1e-6, 1e6):
        assert sphere(y, extreme).isfinite().all()
        assert sphere.log_prob(y, extreme).isfinite().all()
    single = sphere(y.float(), sigma)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), sphere(y, sigma), rtol=1e-5, atol=1e-5)


def test_the_mixture_against_dense_normals_and_its_noised_self():
    model, y = mixture(), 2 * randn(9, 2, 2, seed=6)
    sigma = torch.linspace(0.1, 3, 9, dtype=torch.float64)
    for row in range(9):
        noise = sigma[row] ** 2 * torch.eye(4, dtype=torch.float64)
        each = torch.stack(
            [
                torch.distributions.MultivariateNormal(c.mean.flatten(), c.covariance() + noise).log_prob(
                    y[row].flatten()
                )
                for c in model.components
            ]
        ) + torch.log(torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64) / 8)
        torch.testing.assert_close(model.log_prob(y, sigma)[row], each.logsumexp(0), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model.responsibilities(y, sigma)[row], each.softmax(0), rtol=1e-9, atol=1e-12)
        noised = model.noised(float(sigma[row]))
        torch.testing.assert_close(noised.log_prob(y)[row], each.logsumexp(0), rtol=1e-10, atol=1e-10)


def test_samples_of_the_mixture_have_its_moments():
    model, n = mixture(), 40_000
    samples = model.sample(n, torch.Generator().manual_seed(2)).flatten(1)
    mean = sum(w * c.mean.flatten() for w, c in zip(model.weights, model.components))
    second = sum(
        w * (c.covariance() + torch.outer(c.mean.flatten(), c.mean.flatten()))
        for w, c in zip(model.weights, model.components)
    )
    torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.03)
    torch.testing.assert_close(samples.T.cov(), second - torch.outer(mean, mean), rtol=0, atol=0.08)


def test_bad_models_are_named():
    for make in (Sphere, Simplex, Hypercube):
        with pytest.raises(ValueError, match="dim=0"):
            make(0)
        with pytest.raises(ValueError, match="=-1"):
            make(3, -1)
        with pytest.raises(ValueError, match=r"\(B, 3\), received \(4, 2\)"):
            make(3)(torch.zeros(4, 2), 1.0)
    with pytest.raises(ValueError, match="finite floating-point"):
        TwoPoints(torch.tensor([math.inf]))
    one = Gaussian(torch.zeros(2), Diagonal((2,)), torch.tensor([1.0, 0.0]))
    other = Gaussian(torch.zeros(3), Diagonal((3,)), torch.ones(3))
    with pytest.raises(ValueError, match=r"of one shape, dtype and device, received 2: .*\(2,\).*\(3,\)"):
        GaussianMixture([one, other])
    with pytest.raises(ValueError, match="expected 1 positive weights"):
        GaussianMixture([one], [0.0])
    with pytest.raises(ValueError, match="a noise level above 0"):
        GaussianMixture([one]).log_prob(torch.zeros(1, 2))
