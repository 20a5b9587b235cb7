"""Fixed points: closed forms, and searches that fail."""

import math

import pytest
import torch
from scipy.optimize import brentq
from twins import CRITERIA, TWO, Linear, normal

from latestart.gaussians.gaussian import Gaussian
from latestart.theory.branches import constant, fixed_point, levels_of
from latestart.theory.jacobian import ConvergenceError


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("sigma", [0.3, 1.5, 6.0])
def test_the_fixed_point_of_a_gaussian_in_closed_form(criterion, sigma):
    """`m + C (C + sigma^2)^-1 (y - m) = c y` is linear in y."""
    gaussian = Gaussian.fit(normal(200, 6) + 2.0, basis="dense", dtype=torch.float64)
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
    with pytest.raises(ValueError, match=r"returned 3 values that are NaN or infinite at sigma = 2$"):
        fixed_point(broken, 2.0)
    with pytest.raises(ValueError, match=r"returned \(1, 1\) for samples \(1, 3\) at sigma = 6$"):
        fixed_point(broken, 6.0)
    with pytest.raises(ValueError, match="'density' or 'sde', received 'modes'"):
        fixed_point(TWO, 1.0, "modes")
    with pytest.raises(ValueError, match=r"one point of shape \(1,\), received \(2,\)"):
        fixed_point(TWO, 1.0, start=torch.zeros(2))
    with pytest.raises(ValueError, match="between 0 and infinity, received -1"):
        fixed_point(TWO, -1.0)
    with pytest.raises(ValueError, match="at least 1 step of the contraction, received steps=0"):
        fixed_point(TWO, 1.0, steps=0, search="contraction")
    for tol in (-1.0, math.nan):
        with pytest.raises(ValueError, match=f"that is not negative, received {tol}"):
            fixed_point(TWO, 2.0, tol=tol)
    with pytest.raises(ValueError, match="expected a start of finite values"):
        fixed_point(TWO, 1.0, start=torch.tensor([math.nan]))
    for step in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match=f"step of log sigma between 0 and infinity, received {step}"):
            levels_of(TWO, step=step)
