"""The leading exponent along sample paths: closed forms on two points and on one Gaussian."""

import math

import numpy as np
import pytest
import torch
from twins import TWO, normal

from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.theory.branches import Follower, constant
from latestart.theory.exponents import exponents, exponents_curve, path_exponents


def _gaussian(*variances):
    values = torch.tensor(variances, dtype=torch.float64)
    return Gaussian(torch.zeros_like(values), Dense(values.shape, torch.eye(len(values), dtype=torch.float64)), values)


def test_exponents_along_paths_in_closed_form():
    """On two points the Jacobian is `(1 - tanh(y / s^2)^2) / s^2`."""
    sigmas = [2.0, 1.0, 0.5]
    paths = normal(3, 4, 1)
    along = path_exponents(TWO, paths, sigmas, "sde")
    for k, sigma in enumerate(sigmas):
        slope = (1 - np.tanh(paths[k, :, 0].numpy() / sigma**2) ** 2) / sigma**2
        assert along.values[k] == pytest.approx(2 * (slope - constant("sde", sigma)), abs=1e-12)
        assert along.mean[k] == pytest.approx(along.values[k].mean())
        assert along.spread[k] == pytest.approx(along.values[k].std(ddof=1))
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


def test_a_gaussian_crosses_where_its_variance_says():
    """lambda = v / (v + sigma^2) on every path, which is (2 + sigma^2) / (2 + 2 sigma^2) at sigma^2 = v - 2."""
    grid = torch.linspace(math.log(4.0), math.log(0.5), 30).exp().tolist()
    level = exponents(_gaussian(1.0, 5.0, 0.2), Noise.vp(), n=10, sigmas=grid)
    assert level.sigma == pytest.approx(math.sqrt(3), rel=1e-3)  # linear between levels
    assert level.interval == pytest.approx((level.sigma, level.sigma), rel=1e-9)  # no path differs from another
    assert (level.criterion, level.t is not None) == ("sde, along paths", True)
    with pytest.raises(ValueError, match=r"density, along paths curve does not cross 0"):
        exponents(_gaussian(1.0, 5.0), criterion="density", n=10, sigmas=grid)


def test_the_curve_is_that_of_the_paths_own_eigenvalues():
    """On two points: tanh, at the states of the paths themselves, and one lambda for both criteria."""
    from latestart.theory.critical import paths

    grid = [3.0, 1.5, 1.0, 0.6]
    curve = exponents_curve(TWO, "density", n=12, sigmas=grid, refine=3, seed=4)
    _, states = paths(TWO, n=12, sigmas=grid, refine=3, seed=4)
    for k, sigma in enumerate(grid):
        slope = (1 - torch.tanh(states[k, :, 0] / sigma**2) ** 2) / sigma**2
        torch.testing.assert_close(curve.samples[:, k], 2 * (slope - 1), rtol=0, atol=1e-10)
    along = path_exponents(TWO, states[:-1], grid, "density").under("sde")
    np.testing.assert_allclose(along.values, path_exponents(TWO, states[:-1], grid, "sde").values, rtol=1e-14)


def test_a_branch_point_gives_its_whole_spectrum():
    """The Jacobian of a Gaussian has the eigenvalues v / (v + sigma^2)."""
    follower = Follower(_gaussian(*range(1, 41)), "sde", True)
    here = follower.find(2.0, None)
    values = follower.spectrum(here, 5).values
    np.testing.assert_allclose(values, [v / (v + 4) for v in (40, 39, 38, 37, 36)], rtol=1e-4)
