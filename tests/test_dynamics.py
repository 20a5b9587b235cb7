"""The reverse dynamics: orders of convergence, closed-form flows and moments."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import latestart as ls
from latestart.dynamics import ode, sde
from latestart.gaussians.basis import Dense, Diagonal
from latestart.gaussians.gaussian import Gaussian

HIGH, LOW = 8.0, 0.3


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def levels(steps, high=HIGH, low=LOW):
    return np.geomspace(high, low, steps + 1).tolist()


def gaussian(dim=5):
    vectors = torch.linalg.qr(torch.randn(dim, dim, generator=rng(1), dtype=torch.float64)).Q
    mean = torch.linspace(-1, 2, dim, dtype=torch.float64)
    return Gaussian(mean, Dense((dim,), vectors), torch.logspace(-2, 1, dim, dtype=torch.float64))


def ended(path):
    return list(path)[-1]


def slopes(errors):
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_of_convergence_to_the_closed_form_flow(order):
    prior = gaussian()
    y = prior.noised(HIGH).sample(20, rng())
    exact = prior.flow(y, HIGH, LOW)
    errors = [(ended(ode(prior, y, levels(n), order)) - exact).norm().item() for n in (32, 64, 128, 256)]
    assert slopes(errors) == pytest.approx([order] * 3, abs=0.15)


@pytest.mark.parametrize("order", [1, 2])
def test_the_order_of_convergence_where_the_flow_bends(order):
    """On a line the flow keeps the distribution function, here of two points under noise."""

    def below(y, sigma):
        return 0.5 * (torch.special.ndtr((y - 1) / sigma) + torch.special.ndtr((y + 1) / sigma))

    y = torch.linspace(-6, 6, 25, dtype=torch.float64)[:, None]
    exact = below(y, HIGH)
    paths = (ended(ode(ls.TwoPoints(), y, levels(n), order)) for n in (64, 128, 256, 512))
    assert slopes([(below(y, LOW) - exact).norm().item() for y in paths]) == pytest.approx([order] * 3, abs=0.2)


def test_the_states_between_are_on_the_flow_too():
    prior, grid = gaussian(), levels(400)
    y = prior.noised(HIGH).sample(3, rng())
    for sigma, state in zip(grid[1:], ode(prior, y, grid), strict=True):
        torch.testing.assert_close(state, prior.flow(y, HIGH, sigma), rtol=1e-3, atol=1e-3)


def variance_after(variance, steps, eta):
    """Of the state at LOW, exactly: each unit of noise that a run is given is a row of its own, and the run is linear.

    `N(0, variance)` on a line, from the noised distribution at HIGH.
    """
    prior = Gaussian(torch.zeros(1).double(), Diagonal((1,)), torch.tensor([variance]).double())
    units = iter(torch.eye(steps + 1, dtype=torch.float64)[:, :, None])
    begin = math.sqrt(variance + HIGH**2) * next(units)
    return ended(sde(prior, begin, levels(steps), lambda: next(units), eta)).square().sum().item()


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("variance", [0.04, 1.0, 20.0])
def test_the_variance_of_the_sde_converges_at_order_one(eta, variance):
    exact = variance + LOW**2
    errors = [abs(variance_after(variance, n, eta) - exact) for n in (64, 128, 256, 512)]
    assert slopes(errors) == pytest.approx([1] * 3, abs=0.15)
    assert errors[-1] < 0.02 * exact


def test_samples_of_the_sde_have_the_moments_of_the_noised_gaussian():
    prior, generator, n = gaussian(3), rng(2), 20_000
    y = prior.noised(HIGH).sample(n, generator)
    end = ended(sde(prior, y, levels(150), lambda: torch.randn(y.shape, generator=generator, dtype=y.dtype)))
    expected = prior.covariance() + LOW**2 * torch.eye(3)
    deviation = expected.diagonal().sqrt()
    assert ((end.mean(0) - prior.mean).abs() < 4 * deviation / math.sqrt(n)).all()
    scale = torch.outer(deviation, deviation)
    assert ((end.T.cov() - expected).abs() / scale).max() < 5 * math.sqrt(2 / n) + 0.03


def test_points_are_reached_as_often_as_they_weigh():
    cloud, generator = ls.PointCloud(torch.tensor([[-1.0], [1.0], [1.0]]).double()), rng(3)
    y = HIGH * torch.randn(3000, 1, generator=generator, dtype=torch.float64)
    y = y + cloud(torch.zeros_like(y), HIGH)
    end = ended(sde(cloud, y, [*levels(60, low=0.01), 0.0], lambda: torch.randn(y.shape, generator=generator).double()))
    torch.testing.assert_close(end.abs(), torch.ones_like(end), atol=1e-6, rtol=0)
    assert (end > 0).double().mean().item() == pytest.approx(2 / 3, abs=4 * math.sqrt(2 / 9 / 3000))


def test_without_noise_the_sde_is_euler_and_draws_nothing():
    prior = gaussian()
    y = prior.noised(HIGH).sample(4, rng())
    for mine, theirs in zip(sde(prior, y, levels(9), eta=0.0), ode(prior, y, levels(9), 1), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("run", [lambda *a: ode(*a, 1), lambda *a: ode(*a, 2), lambda *a: sde(*a, lambda: 1 / 0)])
def test_a_step_to_zero_returns_the_denoised_sample(run):
    prior = gaussian()
    y = prior.noised(LOW).sample(4, rng())
    assert torch.equal(ended(run(prior, y, [LOW, 0.0])), prior(y, LOW))


@pytest.mark.parametrize("sigmas", [[1.0, 1.0], [1.0, 2.0], [1.0, -0.1], [math.inf, 1.0], [1.0, 0.0, 0.0]])
def test_levels_that_do_not_fall_are_refused(sigmas):
    for run in (ode, lambda *a: sde(*a, lambda: torch.zeros(1, 5))):
        with pytest.raises(ValueError, match="levels that fall"):
            list(run(gaussian(), torch.zeros(1, 5).double(), sigmas))


def test_mistakes_are_named():
    prior, y = gaussian(), torch.zeros(1, 5).double()
    with pytest.raises(ValueError, match="received 3"):
        list(ode(prior, y, [2.0, 1.0], 3))
    with pytest.raises(ValueError, match="eta=1"):
        list(sde(prior, y, [2.0, 1.0]))
    with pytest.raises(ValueError, match=r"eta=1\.5"):
        list(sde(prior, y, [2.0, 1.0], lambda: y, 1.5))
