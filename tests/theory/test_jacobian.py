"""Jacobian products and leading eigenvalues against dense twins."""

import logging

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel
from twins import TWO, Linear, dense_mean_and_covariance, normal

from latestart.denoisers.exact import PointCloud
from latestart.denoisers.networks import from_diffusers
from latestart.theory.jacobian import Jacobian, jacobian_vector, leading_eigenvalue
from latestart.zoo import load

# --- the Jacobian -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["forward", "backward", "differences", "auto"])
def test_products_are_those_of_the_posterior_covariance(method):
    points, y, v = normal(40, 1, 3, 4), normal(5, 1, 3, 4, seed=1), normal(5, 1, 3, 4, seed=2)
    out = jacobian_vector(PointCloud(points), y, 0.9, v, method)
    for k in range(5):
        _, covariance = dense_mean_and_covariance(points.flatten(1).numpy(), y[k].flatten().numpy(), 0.9)
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
    y, v = 2 * normal(3, 1, 8, 8), normal(3, 1, 8, 8, seed=1)
    forward, backward, differences = (
        jacobian_vector(denoiser, y, 2.0, v, method) for method in ("forward", "backward", "differences")
    )
    assert (forward - backward).norm() < 1e-5 * forward.norm()
    assert (forward - differences).norm() < 1e-3 * forward.norm()
    jacobian = Jacobian(denoiser, y[:1], 2.0)
    u = normal(1, 1, 8, 8, seed=2)
    assert (jacobian.vector(v[:1]) * u).sum().item() == pytest.approx(
        (jacobian.transposed(u) * v[:1]).sum().item(), rel=1e-4
    )
    assert (jacobian.method, jacobian.products) == ("backward", 2)


def test_a_denoiser_that_is_not_differentiable_is_taken_by_differences(caplog):
    class Detached(PointCloud):
        def __call__(self, y, sigma):
            return super().__call__(y.detach(), sigma).detach()

    points, y, v = normal(10, 4), normal(1, 4, seed=1), normal(1, 4, seed=2)
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
    points = normal(30, 1, 8, 8) * torch.linspace(3, 1, 64, dtype=torch.float64).view(1, 8, 8)
    y = 0.2 * normal(1, 8, 8, seed=1)
    spectrum = leading_eigenvalue(PointCloud(points), y, 4.0, k=3, symmetric=symmetric)
    _, covariance = dense_mean_and_covariance(points.flatten(1).numpy(), y.flatten().numpy(), 4.0)
    values, vectors = np.linalg.eigh(covariance / 16)
    assert spectrum.values == pytest.approx(values[::-1][:3], rel=1e-3)
    for k in range(3):
        assert abs(spectrum.vectors[k].flatten().numpy() @ vectors[:, -1 - k]) == pytest.approx(1, abs=1e-3)
    assert spectrum.products <= 100
    assert spectrum.asymmetry is None if symmetric else spectrum.asymmetry < 1e-9
    assert ("Arnoldi" if symmetric is False else "Lanczos") in spectrum.how


@pytest.mark.parametrize("dim", [6, 60])
def test_a_complex_pair_is_kept_whole_and_the_asymmetry_measured(dim):
    basis = torch.linalg.qr(normal(dim, dim))[0]
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
    points = 10 * normal(5, 50)
    assert leading_eigenvalue(PointCloud(points), points[2], 0.01).leading == 0


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="received k=2"):
        leading_eigenvalue(TWO, torch.zeros(1), 1.0, k=2)
    with pytest.raises(ValueError, match="received 'sideways'"):
        jacobian_vector(TWO, torch.zeros(1, 1), 1.0, torch.zeros(1, 1), "sideways")


@pytest.mark.parametrize("dim", [3, 60])
@pytest.mark.parametrize("method", ["auto", "backward", "forward", "differences"])
def test_a_denoiser_that_breaks_is_named_with_its_level(dim, method):
    """Dense, by a Krylov method, and by single products: never a Jacobian of NaN."""

    class Broken(Linear):
        def __call__(self, y, sigma):
            return y[:, :2] if sigma > 5 else y * float("nan")

    broken, y = Broken(torch.eye(dim, dtype=torch.float64)), torch.zeros(dim, dtype=torch.float64)
    for call in (
        lambda sigma: leading_eigenvalue(broken, y, sigma, method=method),
        lambda sigma: jacobian_vector(broken, y[None], sigma, torch.ones(1, dim), method),
    ):
        with pytest.raises(ValueError, match=r"returned \d+ values that are NaN or infinite at sigma = 2$"):
            call(2.0)
        with pytest.raises(ValueError, match=r"returned \(\d+, 2\) for samples \(\d+, \d+\) at sigma = 6"):
            call(6.0)
