import math

import pytest
import torch

from latestart.denoisers.exact import PointCloud


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
