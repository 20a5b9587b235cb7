"""The Gaussian of a whole mixture has its mean and its covariance."""

import pytest
import torch

import latestart as ls
from latestart.gaussians.whole import whole
from latestart.noise import Noise

F64 = torch.float64


def mixture(basis, shape=(2, 4, 4), count=900):
    """A mixture fitted to three smooth clusters of unequal size, in double precision."""
    g = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(3, *shape, generator=g, dtype=F64).mean(-1, keepdim=True)
    rows = torch.randn(count, *shape, generator=g, dtype=F64) * torch.linspace(0.2, 1, shape[-1], dtype=F64)
    labels = torch.tensor([0, 0, 0, 1, 1, 2]).repeat(count // 6)
    return ls.Mixture.fit(rows + centres[labels], labels=labels, basis=basis, shrinkage=0.0, dtype=F64)


def moments(mixed):
    """Mean and covariance by the formula, dense."""
    means = torch.stack([c.mean.flatten() for c in mixed.components])
    mean = mixed.weights @ means
    between = (means - mean).T @ torch.diag(mixed.weights) @ (means - mean)
    return mean, between + sum(w * c.covariance() for w, c in zip(mixed.weights, mixed.components))


@pytest.mark.parametrize("basis", ["dense", "diagonal", "lowrank", "cosine", "fourier", "isotropic", "cosine+dense"])
def test_mean_and_covariance_are_those_of_the_mixture(basis):
    mixed = mixture(basis)
    mean, covariance = moments(mixed)
    found = mixed.gaussian()
    torch.testing.assert_close(found.mean.flatten(), mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.covariance(), covariance, rtol=1e-8, atol=1e-8)
    assert found is mixed.gaussian() and found.count == mixed.count


def test_leading_directions_of_large_images_and_the_rest_of_the_trace():
    """64 directions of 192 values: each variance to 2%, the whole trace, and exact where the rank suffices."""
    mixed = mixture("dense", (3, 8, 8), 1200)
    _, covariance = moments(mixed)
    values = torch.linalg.eigvalsh(covariance).flip(0)
    found = whole(mixed.components, mixed.weights, dense=100, rank=64)
    assert found.basis.name == "lowrank" and len(found.variances) == 65
    torch.testing.assert_close(found.variances[:8], values[:8], rtol=1e-4, atol=0)
    torch.testing.assert_close(found.variances[:64], values[:64], rtol=0.05, atol=0)
    trace = found.basis.multiplicity @ found.variances
    torch.testing.assert_close(trace, covariance.trace(), rtol=1e-9, atol=0)
    every = whole(mixed.components, mixed.weights, dense=100, rank=192)
    torch.testing.assert_close(every.covariance(), covariance, rtol=1e-6, atol=1e-6)


def test_one_component_is_its_own_gaussian():
    mixed = mixture("dense")
    alone = ls.Mixture(mixed.components[:1])
    assert alone.gaussian() is mixed.components[0]


def test_the_scale_of_the_data_by_level_and_by_time_agree():
    for noise in (Noise.vp(), Noise.edm(), Noise.flow()):
        t = torch.linspace(noise.t_range[0] + 0.05, noise.t_range[1] - 0.01, 5, dtype=F64)
        torch.testing.assert_close(noise.alpha_at(noise.sigma(t)), noise.alpha(t))
        assert noise.alpha_at(0.0) == 1.0
