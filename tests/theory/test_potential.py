"""The potential: its gradient is the drift, line integrals give it back, and it splits at the critical level."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.optimize import brentq

from latestart.denoisers.exact import PointCloud
from latestart.denoisers.networks import as_model, from_diffusers
from latestart.noise import Noise
from latestart.theory.jacobian import leading_eigenvalue
from latestart.theory.potential import along, circular, drift, potential, rates, ray, straight
from latestart.theory.stability import crossing
from latestart.zoo import load

PROCESSES = {
    "vp": (Noise.vp(), 0.35),
    "ddpm": (Noise.from_scheduler(DDPMScheduler()), 350.4),
    "edm": (Noise.edm(), 0.1),
    "flow": (Noise.flow(), 0.55),
}
each = pytest.mark.parametrize(("noise", "t"), PROCESSES.values(), ids=PROCESSES)
TWO = PointCloud(torch.tensor([[-1.0], [1.0]], dtype=torch.float64))


def _normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLOUD = PointCloud(_normal(12, 2, 3))


@each
def test_the_rates_are_the_derivatives_of_the_process(noise, t):
    at, h = rates(noise, t), 1e-5 * (noise.t_range[1] - noise.t_range[0])
    slope = (noise.sigma(t + h) ** 2 - noise.sigma(t - h) ** 2) / (2 * h)
    assert at.g2 == pytest.approx(noise.alpha(t) ** 2 * slope, rel=1e-3)
    assert at.f == pytest.approx(math.log(noise.alpha(t + h) / noise.alpha(t - h)) / (2 * h), rel=1e-3, abs=1e-12)


def test_the_linear_vp_process_is_the_papers():
    """`u = beta (-|x|^2 / 4 - log p)` with `beta = 0.1 + 19.9 t`, and p the mixture of two Gaussians in x."""
    noise, t = Noise.vp(), 0.3
    beta, theta = 0.1 + 19.9 * t, math.exp(-0.05 * t - 19.9 * t**2 / 4)
    at = rates(noise, t)
    assert (at.g2, at.f) == pytest.approx((beta, -beta / 2), rel=1e-9)
    x = np.linspace(-2, 2, 9)
    variance = 1 - theta**2
    density = sum(np.exp(-((x - theta * m) ** 2) / (2 * variance)) for m in (-1, 1)) / 2
    log_p = np.log(density / np.sqrt(2 * np.pi * variance))
    out = potential(TWO, torch.from_numpy(x)[:, None], t, noise)
    assert out.numpy() == pytest.approx(beta * (-(x**2) / 4 - log_p), rel=1e-9)


@each
def test_the_gradient_of_the_potential_is_minus_the_drift(noise, t):
    x = _normal(5, 2, 3, seed=1).requires_grad_()
    (gradient,) = torch.autograd.grad(potential(CLOUD, x, t, noise).sum(), x)
    torch.testing.assert_close(-gradient, drift(CLOUD, x.detach(), t, noise), rtol=1e-8, atol=1e-8)


@each
@pytest.mark.parametrize("make", [circular, straight, lambda a, b: ray(a, b, 2.5)], ids=["circular", "straight", "ray"])
def test_the_line_integral_is_the_exact_difference(noise, t, make):
    curve = make(_normal(2, 3, seed=1), _normal(2, 3, seed=2))
    profile = along(CLOUD, curve, noise, t, points=33, batch_size=50)
    exact = potential(CLOUD, curve.point(torch.from_numpy(profile.position)), t, noise)
    assert profile.potential == pytest.approx((exact - exact[0]).numpy(), rel=1e-8, abs=1e-8)
    assert profile.nfe == 32 * 4


def test_curves_run_between_their_points():
    a, b = _normal(2, 3, seed=1), _normal(2, 3, seed=2)
    for curve in (circular(a, b), straight(a, b)):
        ends = curve.point(torch.tensor([curve.low, curve.high], dtype=torch.float64))
        torch.testing.assert_close(ends, torch.stack([a, b]))
    curve = ray(a, b, 2.0)
    ends = curve.point(torch.tensor([curve.low, curve.high], dtype=torch.float64))
    assert ((ends[0] + ends[1]) / 2 - a).norm() < 1e-12 and (ends[1] - ends[0]).norm().item() == pytest.approx(4.0)


def test_the_well_of_two_points_splits_at_theta_c():
    noise = Noise.vp()

    def curvature(t):
        x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(potential(TWO, x, t, noise).sum(), x, create_graph=True)
        return torch.autograd.grad(slope.sum(), x)[0].item()

    t_c = noise.time(math.sqrt(1 / (math.sqrt(2) - 1) - 1))
    assert curvature(t_c - 1e-4) < 0 < curvature(t_c + 1e-4)
    root = brentq(curvature, 0.1, 0.6, xtol=1e-12)
    assert noise.alpha(root) == pytest.approx(math.sqrt(math.sqrt(2) - 1), abs=1e-8)
    assert root == pytest.approx(0.29264, abs=5e-6)


def test_the_curvature_along_the_leading_eigenvector_changes_sign_at_the_crossing():
    points = _normal(10, 4)
    cloud, noise = PointCloud(torch.cat([points, -points])), Noise.vp()
    level = crossing(cloud, "sde", noise)
    vector = leading_eigenvalue(cloud, torch.zeros(4), level.sigma).vectors[0]
    for factor, sign in ((0.97, -1), (1.03, 1)):
        profile = along(cloud, ray(torch.zeros(4), vector, 1e-2), noise, noise.time(level.sigma * factor), points=3)
        before, middle, after = profile.potential
        assert np.sign(before + after - 2 * middle) == sign


def test_a_network_has_the_potential_of_the_model_it_computes():
    scheduler = DDPMScheduler()
    cloud = PointCloud(_normal(6, 1, 4, 4))
    network, noise = from_diffusers(as_model(cloud, scheduler), scheduler), Noise.from_scheduler(scheduler)
    curve = circular(_normal(1, 4, 4, seed=1), _normal(1, 4, 4, seed=2))
    profile, exact = along(network, curve, noise, 300.0), along(cloud, curve, noise, 300.0)
    assert profile.potential == pytest.approx(exact.potential, rel=1e-3, abs=1e-4 * np.ptp(exact.potential))


def test_the_profile_of_a_trained_network_converges_with_its_points():
    bundle = load("mnist")
    denoiser = from_diffusers(bundle.model, bundle.scheduler)
    x_1, x_2 = bundle.prior.sample(2, torch.Generator().manual_seed(0))
    coarse, fine = (along(denoiser, straight(x_1, x_2), denoiser.noise, 500.0, points) for points in (5, 9))
    assert coarse.potential == pytest.approx(fine.potential[::2], rel=1e-2, abs=1e-2 * np.ptp(fine.potential))


def test_bad_input_is_named():
    noise, x = Noise.vp(), _normal(2, 3)
    with pytest.raises(ValueError, match="knows no density"):
        potential(lambda y, sigma: y, x[None], 0.5, noise)
    with pytest.raises(ValueError, match="signal and noise, received t=0"):
        potential(CLOUD, x[None], 0.0, noise)
    with pytest.raises(ValueError, match="signal and noise, received t=1"):
        along(CLOUD, straight(x, -x), Noise.flow(), 1.0)
    with pytest.raises(ValueError, match="outside of the times"):
        along(CLOUD, straight(x, -x), noise, 1.5)
    with pytest.raises(ValueError, match="at least 2 points on a curve, received 1"):
        along(CLOUD, straight(x, -x), noise, 0.5, points=1)
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        circular(x, x[0])
    with pytest.raises(ValueError, match="length 0, reach=1"):
        ray(x, 0 * x, 1)
    with pytest.raises(ValueError, match=r"\(B, 2, 3\), received"):
        along(CLOUD, straight(x[0], -x[0]), noise, 0.5)


def test_a_network_that_breaks_is_named_with_its_level():
    class Broken:
        shape, dtype, device, sigma_range = (2, 3), torch.float64, torch.device("cpu"), (0.1, 50.0)

        def __init__(self, out):
            self.out = out

        def __call__(self, y, sigma):
            return self.out(y)

    noise, curve = Noise.vp(), straight(_normal(2, 3), _normal(2, 3, seed=1))
    at = noise.sigma(0.5)
    with pytest.raises(ValueError, match=f"NaN or infinite at sigma = {at:.6g}"):
        along(Broken(lambda y: y * math.nan), curve, noise, 0.5, points=3)
    with pytest.raises(ValueError, match=rf"returned \(8, 2\) for samples \(8, 2, 3\) at sigma = {at:.6g}"):
        along(Broken(lambda y: y[:, :, 0]), curve, noise, 0.5, points=3)
