"""Two points on a line: the paper's numbers, and small networks that find them from samples."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ttest_1samp

from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import TwoPoints
from latestart.experiments.theory import one_dimension as experiment
from latestart.experiments.theory.line_networks import Training, train
from latestart.experiments.theory.page import one_dimension as page
from latestart.experiments.theory.process import NOISE, reverse_paths
from latestart.experiments.theory.settings import LineSettings
from latestart.lab.experiment import Lab
from latestart.theory.bifurcation import one_dimension as branch

THETA_C = math.sqrt(math.sqrt(2) - 1)


def _sigma(theta):
    return math.sqrt(1 - theta**2) / theta


def _measured(folder, **settings):
    return experiment.OneDimension().measure(LineSettings(**settings), Lab(folder))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return _measured(tmp_path_factory.mktemp("line"), seeds=2, steps=400, samples=400)


def test_the_exact_numbers_are_the_papers(result):
    assert result.theta_c == pytest.approx(THETA_C, abs=1e-8)
    assert result.exact.t == pytest.approx(0.29264, abs=5e-6)
    assert round(result.index) == 292
    assert experiment.exponent(result.theta_c) == pytest.approx(0.4998, abs=1e-4)


def test_the_scan_finds_all_fixed_points_of_the_exact_model():
    (only,) = experiment.fixed_points(TwoPoints(), _sigma(0.5))
    assert only == (pytest.approx(0, abs=1e-12), True)
    for theta in (0.66, 0.8, 0.95):
        found = experiment.fixed_points(TwoPoints(), _sigma(theta))
        assert [stable for _, stable in found] == [True, False, True]
        x = branch(theta)
        assert [theta * y for y, _ in found] == pytest.approx([-x, 0, x], abs=1e-9)


def test_the_levels_that_are_read_from_a_network_are_right_on_the_exact_model():
    exact = _sigma(THETA_C)
    assert experiment.symmetric_level(TwoPoints()) == pytest.approx(exact, rel=1e-8)
    # the wells part as a square root, so the grid of the scan tells them apart a little late
    assert experiment.second_well(TwoPoints()) == pytest.approx(exact, rel=1e-4)


def test_a_model_of_one_well_has_no_second():
    class Normal(TwoPoints):
        def __call__(self, y, sigma):
            return y / (1 + sigma**2)

    with pytest.raises(ValueError, match="two below it, found no such change"):
        experiment.second_well(Normal())


def test_a_network_denoises_nearly_as_well_as_can_be(result):
    """At the critical level: much better than the linear denoiser, and close to the exact one."""
    sigma, g = result.exact.sigma, torch.Generator().manual_seed(7)
    x_0 = TwoPoints().sample(20_000, g)
    y = x_0 + sigma * torch.randn(x_0.shape, generator=g, dtype=torch.float64)
    best = (TwoPoints()(y, sigma) - x_0).square().mean()
    linear = (y / (1 + sigma**2) - x_0).square().mean()
    for network in result.networks:
        assert isinstance(network, Denoiser)
        lost = (network(y, sigma) - x_0).square().mean() - best
        assert 0 < lost < 0.25 * (linear - best)


def test_the_networks_find_the_level_from_samples(result):
    assert result.symmetric != result.second
    for sigma in (*result.symmetric, *result.second):
        assert NOISE.time(sigma) == pytest.approx(result.exact.t, abs=0.1)
    high, *_, low = result.wells
    for w in (high, low):
        assert np.abs(w.network - w.exact).max() < 0.25 * np.ptp(w.exact)
    # a well in the middle, and later a hump between two
    assert high.exact.argmin() == len(high.x) // 2 and abs(high.x[high.network.argmin()]) < 0.2
    assert abs(low.x[low.exact.argmin()]) > 0.8 and abs(low.x[low.network.argmin()]) > 0.8


def test_the_networks_of_the_figure_have_the_level_of_the_docstring(tmp_path):
    """Trained as the command does: critical t about 0.30, and the exact one in their interval."""
    found = _measured(tmp_path, samples=1)
    symmetric, _ = found.pooled
    low, high = (NOISE.time(sigma) for sigma in symmetric.interval)
    assert symmetric.t == pytest.approx(0.30, abs=0.015)
    assert low - 0.003 < found.exact.t < high  # 0.003 for other machines' rounding
    assert high - low < 0.05


def test_a_network_depends_on_its_own_seed_alone():
    few = Training(steps=20, batch=32)
    together = train(range(3, 5), few)
    alone, again = (train(range(4, 5), few)[0] for _ in range(2))
    y = torch.linspace(-2, 2, 9, dtype=torch.float64).unsqueeze(1)
    assert torch.equal(alone(y, 1.0), again(y, 1.0))
    torch.testing.assert_close(alone(y, 1.0), together[1](y, 1.0), rtol=1e-3, atol=1e-3)
    assert (together[0](y, 1.0) - alone(y, 1.0)).abs().max() > 1e-2
    levels = torch.linspace(0.5, 3, 9, dtype=torch.float64)
    one_by_one = torch.cat([alone(y[i : i + 1], levels[i].item()) for i in range(9)])
    torch.testing.assert_close(alone(y, levels), one_by_one)
    with pytest.raises(ValueError, match=r"\(B, 1\), received \(9, 2\)"):
        alone(y.expand(9, 2), 1.0)


def test_paths_forget_their_sign_above_the_level_and_keep_it_below():
    """`P(sign x_t = sign x_0) = Phi(1 / sigma)`, for the exact model."""
    paths = reverse_paths(TwoPoints(), 3000, 250, seed=1)
    assert paths.x[-1].abs().sub(1).abs().max() < 0.2
    for t in (0.8, 0.45, 0.29264, 0.2, 0.1):
        here = experiment.agreement(paths, t)
        error = math.sqrt(here["expected"] * (1 - here["expected"]) / 3000)
        assert here["share"] == pytest.approx(here["expected"], abs=4 * error + 0.005)
    assert torch.equal(paths.x, reverse_paths(TwoPoints(), 3000, 250, seed=1).x)


def test_the_interval_is_students_in_log_sigma():
    sigmas = [1.1, 1.2, 1.25, 1.4]
    level = experiment.pooled(sigmas, "sde")
    interval = ttest_1samp(np.log(sigmas), 0).confidence_interval()
    assert level.interval == pytest.approx((math.exp(interval.low), math.exp(interval.high)))
    assert level.sigma == pytest.approx(math.exp(np.log(sigmas).mean()))
    assert experiment.pooled([1.2], "sde").interval is None


def test_figures_and_picture(result, tmp_path):
    figures = json.loads(json.dumps(result.record(), allow_nan=False))
    assert figures["exact"]["theta"] == result.theta_c
    network = figures["network"]
    times = [s["t_at_symmetry"] for s in network["seeds"]]
    assert min(times) < network["at_symmetry"]["t"] < max(times)
    assert network["at_symmetry"]["interval_t"][0] < min(times)
    assert [s["seed"] for s in network["seeds"]] == [0, 1]
    page(result, tmp_path)
    with Image.open(tmp_path / "one-dimension.png") as picture:
        assert picture.width > 1000 and np.asarray(picture.convert("L")).std() > 10


def test_nothing_to_do_is_refused():
    for name in ("seeds", "samples", "steps"):
        with pytest.raises(ValueError, match=f"{name}=0: expected a whole number of at least 1"):
            LineSettings(**{name: 0})
