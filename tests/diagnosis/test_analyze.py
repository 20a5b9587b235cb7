"""All criteria on exact models where a network is expected: what is known in closed form is found, the rest is not."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import erfinv

from latestart.denoisers.exact import PointCloud, TwoPoints
from latestart.denoisers.networks import as_model
from latestart.diagnosis.analyze import analyze
from latestart.diagnosis.case import CLOUD, DATA, NETWORK, Settings, prepare
from latestart.diagnosis.figures import draw, levels_table
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.theory.critical import two_gaussians
from latestart.theory.stability import NoCrossing, crossing
from two_clusters import CLUSTERS

SCHEDULER = DDPMScheduler(prediction_type="v_prediction")
NOISE = Noise.from_scheduler(SCHEDULER)
SETTINGS = replace(Settings.quick(), step=0.2, paths=400, path_levels=16, refine=4, held_out=60)
PAIRS = torch.tensor([[-1.0], [1.0]], dtype=torch.float64).repeat(200, 1)


def _side(x):
    return (x.flatten(1)[:, 0] > 0).long()


def _task(denoiser, images, **options):
    options = {"classify": _side, "settings": SETTINGS} | options
    return prepare(as_model(denoiser, SCHEDULER), SCHEDULER, images, **options)


def _found(analysis, criterion, of):
    (finding,) = [f for f in analysis.findings if (f.criterion, f.of) == (criterion, of)]
    return finding


@pytest.fixture(scope="module")
def two_points():
    return analyze(_task(TwoPoints(), PAIRS, labels=_side(PAIRS)))


@pytest.mark.parametrize("of", [NETWORK, CLOUD])
def test_two_points_break_where_they_should(two_points, of):
    """`lambda = 1 / sigma^2` at the centre; 0.64359 is the paper's theta_c."""
    for criterion, sigma in (("density", 1.0), ("sde", math.sqrt(math.sqrt(2)))):
        finding = _found(two_points, criterion, of)
        assert finding.kind == "crossing"
        assert finding.level.sigma == pytest.approx(sigma, rel=1e-6)
        assert finding.level.t == pytest.approx(NOISE.time(sigma), abs=1e-3)
        second = _found(two_points, f"{criterion}, second branch", of).level
        assert second.sigma == pytest.approx(sigma, rel=3e-3)
    assert math.sqrt(_found(two_points, "sde", of).level.alpha_bar) == pytest.approx(0.64359, abs=1e-5)
    curve = two_points.branches["density", of]
    above = [(r, s) for r, s in zip(curve.ratio, curve.sigma) if s > 1]
    assert [r for r, _ in above] == pytest.approx([s**-2 for _, s in above], rel=1e-4)


def _gaussian_divergence(sigma):
    """`KL(1/2 N(-1, s^2) + 1/2 N(1, s^2) || N(0, 1 + s^2))`, by quadrature."""

    def log_p(y):
        return np.logaddexp(-0.5 * ((y - 1) / sigma) ** 2, -0.5 * ((y + 1) / sigma) ** 2) - math.log(
            2 * sigma * math.sqrt(2 * math.pi)
        )

    def integrand(y):
        q = -0.5 * y**2 / (1 + sigma**2) - 0.5 * math.log(2 * math.pi * (1 + sigma**2))
        return math.exp(log_p(y)) * (log_p(y) - q)

    return quad(integrand, -1 - 9 * sigma, 1 + 9 * sigma, points=(-1, 1), limit=200)[0]


@pytest.mark.parametrize("of", [NETWORK, CLOUD])
def test_two_points_are_decided_where_they_should(two_points, of):
    expected = {
        "clone": (two_gaussians(1.0).sigma, 0.2),  # 0.02 of 400 clones is a tenth of the level
        "uturn": (two_gaussians(1.0, agreement=0.75).sigma, 0.2),
        "correlation": (1 / (math.sqrt(2) * erfinv(0.5)), 0.1),
        "pixels": (math.sqrt(3), 0.1),
        "0.5 nats": (brentq(lambda s: _gaussian_divergence(s) - 0.5, 0.2, 1), 0.2),  # of 48 images drawn
    }
    for criterion, (sigma, accuracy) in expected.items():
        finding = _found(two_points, criterion, of)
        assert finding.level.sigma == pytest.approx(sigma, rel=accuracy), criterion
        low, high = finding.interval
        assert low < NOISE.time(sigma) * 1.05 and NOISE.time(sigma) * 0.95 < high, criterion
        assert low < finding.level.t < high


def test_what_is_of_the_images_alone(two_points):
    level = _found(two_points, "speciation", DATA).level
    assert level.alpha_bar == pytest.approx(399 / 400, rel=1e-6)  # the variance over n - 1 of 200 pairs is 400 / 399
    for criterion in ("collapse", "collapse, condensation"):  # points that are repeated never stand alone
        finding = _found(two_points, criterion, DATA)
        assert finding.level is None and finding.kind == "none" and "does not cross" in finding.how


def test_the_record_has_every_level_or_the_reason(two_points):
    record = json.loads(json.dumps(two_points.record(), allow_nan=False))
    names = {"criterion", "of", "kind", "sigma", "alpha_bar", "snr", "t", "low", "high", "ratio", "how"}
    assert len(record["levels"]) + len(record["not_found"]) == len(two_points.findings)
    for row in record["levels"]:
        assert set(row) == names and row["how"] and row["of"] in (NETWORK, CLOUD, DATA)
        assert row["alpha_bar"] == pytest.approx(1 / (1 + row["sigma"] ** 2))
        assert row["snr"] == pytest.approx(row["sigma"] ** -2)
        assert NOISE.sigma(row["t"]) == pytest.approx(row["sigma"], rel=1e-6)
        assert row["low"] is None or row["low"] <= row["t"] <= row["high"]
    assert {(r["criterion"], r["of"]) for r in record["not_found"]} >= {("collapse", DATA), ("2 nats", CLOUD)}


def _cloud_without_symmetry():
    g = torch.Generator().manual_seed(1)
    scale = torch.tensor([3.0, 1, 1, 1, 1, 1, 1])
    return torch.randn(30, 7, generator=g, dtype=torch.float64) * scale + 0.5


def test_where_nothing_crosses_the_peak_is_reported_as_one():
    """The highest peak of this cloud is one of single points, far below its collapse: of the network alone, a level."""
    points, t_range = _cloud_without_symmetry(), (NOISE.time(0.2), NOISE.time(20.0))
    settings = replace(SETTINGS, step=0.1)
    analysis = analyze(_task(PointCloud(points), points, settings=settings, t_range=t_range), ["density"])
    with pytest.raises(NoCrossing) as caught:
        crossing(PointCloud(points), "density", sigma_range=(0.2, 20.0), step=0.1)
    finding, curve = _found(analysis, "density", NETWORK), analysis.branches["density", CLOUD]
    assert finding.kind == "peak" and f"no crossing: lambda / c peaks at {caught.value.ratio:.3f}" in finding.how
    assert finding.level.sigma == pytest.approx(caught.value.sigma, rel=2e-3) and "3 of 3 starts lead" in finding.how
    assert finding.ratio == pytest.approx(caught.value.ratio, rel=1e-4)
    collapse, none = analysis.case.collapse, _found(analysis, "density", CLOUD)
    assert caught.value.sigma < collapse and none.level is None
    above = max(ratio for ratio, sigma in zip(curve.ratio, curve.sigma) if sigma > collapse)
    assert f"highest, {above:.2f}" in none.how and "far from 1" in none.how


def test_a_peak_above_a_higher_end_is_told_with_it():
    """A cloud as a network: below its peak, at the level of its clusters, are higher ones of single points."""
    points = CLUSTERS.sample(150, torch.Generator().manual_seed(24))
    settings, t_range = replace(SETTINGS, step=0.13, halves=2), (NOISE.time(0.19), NOISE.time(8.0))
    analysis = analyze(_task(PointCloud(points), points, settings=settings, t_range=t_range), ["density"])
    finding, curve = _found(analysis, "density", NETWORK), analysis.branches["density", NETWORK]
    assert finding.level.sigma == pytest.approx(2.147, rel=0.01)
    assert curve.ratio[-1] > finding.ratio > 0.75
    end = f"is {curve.ratio[-1]:.3f} at sigma = {curve.sigma[-1]:.4g}, an end of the levels"
    assert finding.kind == "peak" and end in finding.how
    cloud = _found(analysis, "density", CLOUD)
    low, high = cloud.interval
    assert low < high and low <= cloud.level.t <= high and "random halves" in cloud.how


def test_a_network_that_has_no_level_where_its_images_have_one():
    """A Gaussian's `lambda = s^2 / (s^2 + sigma^2)` never reaches c and has no peak; its images are two clusters."""
    gaussian = Gaussian.fit(PAIRS, basis="dense", dtype=torch.float64)
    analysis = analyze(_task(gaussian, PAIRS), ["density", "second-branch"])
    assert _found(analysis, "density", CLOUD).level.sigma == pytest.approx(1, rel=1e-6)
    finding = _found(analysis, "density", NETWORK)
    assert finding.level is None and "highest, 0.94" in finding.how and "the end of the levels" in finding.how
    curve = analysis.branches["density", NETWORK]
    s2 = gaussian.variances.item()
    assert curve.ratio == pytest.approx([s2 / (s2 + s**2) for s in curve.sigma], rel=1e-5)
    assert "no second stable branch" in _found(analysis, "density, second branch", NETWORK).how


class _Linear:
    """`D(y) = M y`."""

    shape, dtype, device, sigma_range = (3,), torch.float64, torch.device("cpu"), (0.001, 1000.0)

    def __init__(self, matrix):
        self.matrix = matrix

    def __call__(self, y, sigma):
        return y @ self.matrix.T


class _Fleeing(_Linear):
    """`D(y) - y` is positive everywhere: there is no fixed point."""

    def __call__(self, y, sigma):
        return y + (1 + (0.3 * y) ** 2).sqrt()


def _three(n=40):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_asymmetry_of_a_network_is_measured():
    matrix = torch.tensor([[0.5, 0.4, 0], [0, 0.3, 0], [0, 0, 0.1]], dtype=torch.float64)
    analysis = analyze(_task(_Linear(matrix), _three()), ["sde"])
    curve = analysis.branches["sde", NETWORK]
    expected = ((matrix - matrix.T).norm() / (matrix + matrix.T).norm()).item()
    assert curve.asymmetry == pytest.approx([expected] * len(curve.t), rel=1e-4)
    assert curve.ratio == pytest.approx([0.5 / (0.5 + 0.5 / (1 + s**2)) for s in curve.sigma], rel=1e-4)


def test_a_fixed_point_that_is_not_found_is_told_with_its_residual():
    analysis = analyze(_task(_Fleeing(None), _three()), ["density"])
    finding = _found(analysis, "density", NETWORK)
    assert finding.level is None and "the residual is" in finding.how
    assert ("density", NETWORK) not in analysis.branches and ("density", CLOUD) in analysis.branches


def test_without_a_classifier_only_the_classes_are_missing():
    analysis = analyze(_task(TwoPoints(), PAIRS, classify=None), ["clone", "uturn", "correlation"])
    for criterion in ("clone", "uturn"):
        assert "needs a classifier" in _found(analysis, criterion, NETWORK).how
    assert _found(analysis, "correlation", NETWORK).level is not None


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"at least 20 images of the model's shape \(1,\), received \(60, 3\)"):
        _task(TwoPoints(), _three(60))
    with pytest.raises(ValueError, match=r"at least 20 images .* received \(8, 1\)"):
        _task(TwoPoints(), PAIRS[:8])
    with pytest.raises(ValueError, match="60 times the same"):
        _task(TwoPoints(), torch.ones(60, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match="NaN or infinite at sigma ="):
        _task(_Linear(math.nan * torch.eye(3, dtype=torch.float64)), _three())
    with pytest.raises(ValueError, match="2000"):
        _task(TwoPoints(), PAIRS, t_range=(100, 2000))
    with pytest.raises(ValueError, match=r"from low to high.*\(300, 200\)"):
        _task(TwoPoints(), PAIRS, t_range=(300, 200))
    with pytest.raises(ValueError, match=r"expected criteria among density, .* received magic"):
        analyze(_task(TwoPoints(), PAIRS), ["density", "magic"])


def test_the_figures_show_what_was_found(tmp_path):
    """Two clusters of pictures: every figure is drawn, and the table has a row for each criterion."""
    mean = torch.linspace(-1, 1, 16, dtype=torch.float64).view(1, 4, 4)
    g = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(60, 1, 4, 4, generator=g, dtype=torch.float64)
    images = torch.where(torch.arange(60).view(-1, 1, 1, 1) < 30, mean, -mean) + noise
    settings = replace(
        Settings.quick(), step=0.5, paths=10, path_levels=5, exponent_levels=3, halves=1, second_halves=1
    )
    analysis = analyze(_task(PointCloud(images), images, settings=settings))
    files = {path.name for path in draw(analysis, tmp_path)}
    assert files == {path.name for path in tmp_path.iterdir()}
    for key, spectrum in analysis.spectra.items():
        leading = [r for r, part in zip(analysis.branches[key].ratio, analysis.branches[key].segment) if part == 0]
        np.testing.assert_allclose(spectrum.ratio[:, 0], leading, rtol=1e-3, atol=1e-9)
        assert (np.diff(spectrum.ratio, axis=1) <= 1e-9).all()
        assert spectrum.vectors.shape == (settings.eigenvalues, 1, 4, 4)
    assert files >= {
        "spectrum.png",
        "eigenvalues.png",
        "eigenvectors.png",
        "asymmetry.png",
        "exponents.png",
        "decisions.png",
    }
    table = levels_table(analysis)
    assert table.row_count == len({f.criterion for f in analysis.findings})
