"""Critical levels against closed forms, and closed forms against simulation."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch

from latestart import Gaussian, Noise
from latestart.data import load_images
from latestart.denoisers.exact import GaussianMixture, PointCloud, Sphere, TwoPoints
from latestart.gaussians.basis import Dense, Diagonal, Isotropic
from latestart.theory import critical
from latestart.theory.levels import CriticalLevel, Curve


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=torch.float64)


def falling(high, low, count):
    return torch.logspace(math.log10(high), math.log10(low), count, dtype=torch.float64)


def side(x):
    """The class of a sample: the sign of its first value."""
    return (x.flatten(1)[:, 0] > 0).long()


# the record


def test_a_level_under_all_its_names():
    level = CriticalLevel.from_alpha_bar(0.2, "sde", "a formula", (1.5, 2.5))
    assert (level.sigma, level.snr) == (pytest.approx(2.0), pytest.approx(0.25))
    assert CriticalLevel.from_snr(0.25, "sde", "").alpha_bar == pytest.approx(0.2)
    noise = Noise.flow()
    assert level.t is None
    assert level.on(noise).t == pytest.approx(2 / 3)
    assert level.on(noise).record() == {
        "criterion": "sde",
        "sigma": pytest.approx(2.0),
        "alpha_bar": pytest.approx(0.2),
        "snr": pytest.approx(0.25),
        "t": pytest.approx(2 / 3),
        "interval": [1.5, 2.5],
        "how": "a formula",
    }
    with pytest.raises(ValueError, match=r"the sde level sigma = 2 lies outside of the edm process"):
        level.on(Noise.edm(sigma_max=1.0))
    for sigma in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="between 0 and infinity"):
            CriticalLevel(sigma, "sde", "")
    for alpha_bar in (0.0, 1.0, 1.5):
        with pytest.raises(ValueError, match="between 0 and 1"):
            CriticalLevel.from_alpha_bar(alpha_bar, "sde", "")


def test_crossings_and_peaks_of_a_curve_and_their_intervals():
    """Samples around a straight line and a parabola in log sigma: read exactly, within 2 errors."""
    sigma = falling(8, 0.5, 9)
    x, shifts = sigma.log(), 0.3 * randn(400, 1)
    shifts = shifts - shifts.mean()
    level = Curve(sigma, (2 - x) + shifts, "line", "").crossing(1.2)
    assert level.sigma == pytest.approx(math.exp(0.8), rel=1e-12)
    assert level.interval is not None
    half = 1.96 * shifts.std().item() / math.sqrt(400)
    assert math.log(level.interval[1] / level.interval[0]) / 2 == pytest.approx(half, rel=0.2)
    peak = Curve(sigma, 3 - (x - 0.37 - shifts) ** 2, "hill", "").peak()
    assert peak.sigma == pytest.approx(math.exp(0.37), rel=1e-9)
    assert peak.interval is not None
    assert math.log(peak.interval[1] / peak.interval[0]) / 2 == pytest.approx(half, rel=0.2)
    both = Curve(sigma, (x - 0.37).square().expand(2, -1).contiguous(), "valley", "").crossing(0.4)
    assert both.sigma > math.exp(0.37), "of two crossings the one at more noise"
    with pytest.raises(ValueError, match="line curve does not cross 9"):
        Curve(sigma, (2 - x) + shifts, "line", "").crossing(9.0)
    with pytest.raises(ValueError, match=r"no peak .* highest at sigma = 0\.5"):
        Curve(sigma, (2 - x) + shifts, "line", "").peak()
    with pytest.raises(ValueError, match="at least 2 samples"):
        Curve(sigma, x[None], "line", "")


# stability


def test_two_points_lose_their_symmetry():
    """theta_c = sqrt(sqrt(2) - 1) at t = 0.29264 under "sde", theta^2 = 1/2 under "density", from the Jacobian."""
    level = critical.sde(TwoPoints(), Noise.vp(0.1, 20.0))
    assert math.sqrt(level.alpha_bar) == pytest.approx(0.643594, abs=1e-6)
    assert level.t == pytest.approx(0.29264, abs=1e-5)
    assert critical.density(TwoPoints()).alpha_bar == pytest.approx(0.5, rel=1e-6)
    assert (level.criterion, critical.density(TwoPoints()).criterion) == ("sde", "density")


def test_a_sphere_loses_its_symmetry_by_its_variance():
    variance = 2.5**2 / 5
    around = {"sigma_range": (0.5, 3.0)}
    assert critical.density(Sphere(5, 2.5), **around).sigma ** 2 == pytest.approx(variance, rel=1e-5)
    level = critical.sde(Sphere(5, 2.5), Noise.vp(), **around)
    assert level.alpha_bar == pytest.approx(math.sqrt(variance**2 + 1) - variance, rel=1e-5)


# speciation


def test_speciation_is_half_the_logarithm_of_the_top_eigenvalue():
    vectors = torch.linalg.qr(randn(3, 3))[0]
    prior = Gaussian(
        torch.zeros(3, dtype=torch.float64), Dense((3,), vectors), torch.tensor([20.239, 3.0, 0.0], dtype=torch.float64)
    )
    for data in (prior, prior.covariance()):
        level = critical.speciation(data, Noise.vp())
        assert level.alpha_bar == pytest.approx(1 / 20.239, rel=1e-9)
        assert -0.5 * math.log(level.alpha_bar) == pytest.approx(0.5 * math.log(20.239))
        assert level.interval is None
        assert Noise.vp().alpha_bar(level.t) == pytest.approx(level.alpha_bar)


@pytest.mark.parametrize("dim", [3, 80])
def test_speciation_of_images_has_an_interval_of_the_right_width(dim):
    """For a lone top eigenvalue L of Gaussian data the error of its estimate is `L sqrt(2 / n)`."""
    n, top = 1500, 16.0
    prior = Gaussian(torch.zeros(dim).double(), Diagonal((dim,)), torch.tensor([top] + [0.5] * (dim - 1)))
    images = prior.sample(n, rng(3))
    level = critical.speciation(images)
    exact = torch.linalg.eigvalsh(images.T.cov())[-1].item()
    assert level.sigma**2 + 1 == pytest.approx(exact, rel=1e-6)
    assert level.interval is not None
    low, high = (end**2 + 1 for end in level.interval)
    assert low < top < high
    assert (high - low) / 2 == pytest.approx(1.96 * top * math.sqrt(2 / n), rel=0.3)


# cloning


@pytest.mark.parametrize(("separation", "variance", "sigma"), [(1.0, 0.0, 1.0), (3.0, 0.7, 0.4), (0.5, 0.1, 3.0)])
def test_the_clone_curve_is_its_integral(separation, variance, sigma):
    gamma = variance + sigma**2

    def normal(y, mean):
        return math.exp(-((y - mean) ** 2) / (2 * gamma)) / math.sqrt(2 * math.pi * gamma)

    def integrand(y):
        plus, minus = normal(y, separation), normal(y, -separation)
        return 0.5 * (plus**2 + minus**2) / (plus + minus)

    edge = separation + 12 * math.sqrt(gamma)
    expected = scipy.integrate.quad(integrand, -edge, edge, points=(-separation, separation), limit=200)[0]
    assert critical.two_gaussians_agreement(sigma, separation, variance) == pytest.approx(expected, abs=1e-9)


def test_speciation_is_read_at_0775():
    level = critical.two_gaussians(2.0, 0.3, Noise.vp())
    assert critical.two_gaussians_agreement(level.sigma, 2.0, 0.3) == pytest.approx(0.775, abs=1e-9)
    assert level.t == pytest.approx(Noise.vp().time(level.sigma))
    # it depends on |m|^2 / (s0^2 + sigma^2) alone
    wide = critical.two_gaussians(4.0, 1.2)
    assert wide.sigma == pytest.approx(2 * level.sigma)
    with pytest.raises(ValueError, match=r"agree with probability 0\.\d+ only, below 0\.775"):
        critical.two_gaussians(1.0, 2.0)
    with pytest.raises(ValueError, match=r"received 0\.4"):
        critical.two_gaussians(1.0, 0.1, agreement=0.4)


def wide_clusters(dim=2, separation=2.0, variance=0.3):
    mean = torch.zeros(dim, dtype=torch.float64)
    mean[0] = separation
    spread = torch.tensor([variance])
    return GaussianMixture([Gaussian(s * mean, Isotropic((dim,)), spread) for s in (1.0, -1.0)])


def test_the_clone_curve_against_simulated_clones():
    """Clones of the reverse SDE, classed by their cluster; the clusters are so narrow that a sign tells them apart."""
    sigmas = falling(30, 0.4, 10)
    curve = critical.clone_curve(wide_clusters(), side, sigmas=sigmas, n=1500)
    exact = torch.tensor([critical.two_gaussians_agreement(s, 2.0, 0.3) for s in sigmas.tolist()])
    assert ((curve.value - exact).abs() < 3.5 * curve.error + 0.015).all()
    level, expected = curve.crossing(0.775), critical.two_gaussians(2.0, 0.3)
    assert level.sigma == pytest.approx(expected.sigma, rel=0.1)
    assert level.interval is not None
    assert level.interval[0] / 1.05 < expected.sigma < level.interval[1] * 1.05


def test_clones_are_read_as_far_from_chance_as_0775_is_for_two_classes():
    """Three of four corners in one class: chance is 10/16, and the level is where the agreement is 0.55 further on."""
    corners = PointCloud(torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64))
    options = {"sigmas": falling(20, 0.2, 10), "n": 600}

    def both(x):
        return ((x[:, 0] > 0) & (x[:, 1] > 0)).long()

    level = critical.clone(corners, both, Noise.vp(), **options)
    curve = critical.clone_curve(corners, both, **options)
    at = torch.tensor(level.sigma).log()
    value = torch.from_numpy(np.interp([-at.item()], -curve.sigma.log().numpy(), curve.value.numpy()))
    assert value.item() == pytest.approx(0.625 + 0.55 * 0.375, abs=0.03)
    assert level.t == pytest.approx(Noise.vp().time(level.sigma))
    assert curve.value[0].item() == pytest.approx(0.625, abs=0.07)


# U-turns and susceptibility


def test_a_u_turn_changes_the_class_as_often_as_clones_disagree():
    """For an exact denoiser the image itself is one clone."""
    sigmas = falling(12, 0.3, 10)
    images = TwoPoints().sample(3000, rng(5))
    curve = critical.uturn_curve(TwoPoints(), images, side, sigmas=sigmas, refine=6)
    exact = torch.tensor([1 - critical.two_gaussians_agreement(s, 1.0) for s in sigmas.tolist()])
    assert ((curve.value - exact).abs() < 3.5 * curve.error + 0.012).all()
    level = critical.uturn(TwoPoints(), images, side, Noise.vp(), sigmas=sigmas, refine=6)
    assert level.sigma == pytest.approx(critical.two_gaussians(1.0, agreement=0.75).sigma, rel=0.08)
    assert level.interval is not None
    assert level.interval[1] / level.interval[0] < 1.3


def test_a_push_matters_most_where_the_symmetry_breaks():
    """Before the decision it is forgotten, after it there is nothing left to decide."""
    sigmas = falling(30, 0.15, 15)
    curve = critical.susceptibility_curve(TwoPoints(), sigmas=sigmas, n=1500)
    assert curve.value[0] < 0.4 * curve.value.max()
    assert curve.value[-1] < 0.05 * curve.value.max()
    level = critical.susceptibility(TwoPoints(), Noise.vp(), sigmas=sigmas, n=1500)
    assert 0.6 < level.sigma < critical.sde(TwoPoints()).sigma * 1.2
    assert level.t is not None


def test_a_linear_model_answers_a_push_by_its_closed_form():
    """`N(0, l)`: the sampler is linear, every path is pushed alike, and fine steps approach the posterior's product."""
    variance = 2.0
    model = Gaussian(
        torch.zeros(1, dtype=torch.float64), Isotropic((1,)), torch.tensor([variance], dtype=torch.float64)
    )
    sigmas = falling(20, 0.05, 9)
    curve = critical.susceptibility_curve(model, sigmas=sigmas, n=2000, refine=30)
    # the reverse SDE carries a difference at sigma to 0 as Cov(x_0, y) / Var(y): E[x_0 | y] is linear in y
    expected = (1 + sigmas**2) * (variance / (variance + sigmas**2)) ** 2
    torch.testing.assert_close(curve.value, expected, rtol=0.15, atol=0)


def test_the_correlation_of_two_points_is_an_error_function():
    """In one dimension the cosine is whether the signs agree: `erf(1 / (sigma sqrt 2))`."""
    sigmas = falling(20, 0.3, 10)
    options = {"sigmas": sigmas, "n": 4000, "refine": 8}
    curve = critical.correlation_curve(TwoPoints(), **options)
    exact = torch.erf(1 / (sigmas * math.sqrt(2)))
    assert ((curve.value - exact).abs() < 3.5 * curve.error + 0.01).all()
    level = critical.correlation(TwoPoints(), Noise.vp(), **options)
    assert level.sigma == pytest.approx(1 / 0.67449, rel=0.1)  # P(z > 0.67449) = 1/4


def test_normalised_trajectories_spread_alike_at_every_level_and_end_in_the_samples():
    sigmas = falling(20, 0.3, 6)
    levels, paths = critical.trajectories(wide_clusters(), sigmas=sigmas, n=400)
    assert levels.tolist() == [*sigmas.tolist(), 0.0]
    torch.testing.assert_close(paths.std(1), torch.ones(7, 2).double(), rtol=1e-9, atol=0)
    flatness = (paths**4).mean(1)  # 3 for noise; for two clusters, 1 and a little
    assert flatness[0].tolist() == pytest.approx([3.0, 3.0], abs=0.7)
    assert flatness[-1, 0] < 1.5
    assert flatness[-1, 1] > 2.2


def test_pixels_of_a_gaussian_have_the_mean_of_their_correlations():
    """Each has `(1 + sigma^2 / l)^(-1/2)`; the one that never varies has none, and does not count."""
    values = torch.tensor([4.0, 1.0, 0.0], dtype=torch.float64)
    model = Gaussian(torch.ones(3, dtype=torch.float64), Diagonal((3,)), values)
    options = {"sigmas": falling(40, 0.1, 12), "n": 3000, "refine": 8}

    def mean(sigma):
        return sum((1 + sigma**2 / value) ** -0.5 for value in (4.0, 1.0)) / 2

    curve = critical.pixels_curve(model, **options)
    exact = torch.tensor([mean(sigma) for sigma in curve.sigma.tolist()])
    assert ((curve.value - exact).abs() < 3.5 * curve.error + 0.01).all()
    level = critical.pixels(model, Noise.vp(), **options)
    assert level.sigma == pytest.approx(scipy.optimize.brentq(lambda s: mean(s) - 0.5, 0.1, 40), rel=0.05)
    assert (level.criterion, level.t) == ("pixels", pytest.approx(Noise.vp().time(level.sigma)))
    assert level.interval is not None
    assert level.interval[0] < level.sigma < level.interval[1]


# collapse


def isotropic(dim, variance=1.0):
    return Gaussian(
        torch.zeros(dim, dtype=torch.float64), Isotropic((dim,)), torch.tensor([variance], dtype=torch.float64)
    )


@pytest.mark.parametrize(("n", "dim", "variance"), [(100, 4, 1.0), (60_000, 784, 0.27), (10, 50, 3.0), (10**6, 1, 2.0)])
def test_the_random_energy_model_is_the_collapse_of_an_isotropic_gaussian(n, dim, variance):
    level = critical.random_energy(variance, n, dim)
    assert level.sigma**2 == pytest.approx(variance / (n ** (2 / dim) - 1), rel=1e-9)
    assert critical.collapse(isotropic(dim, variance), n=n).sigma == pytest.approx(level.sigma, rel=1e-9)


def test_collapse_of_a_gaussian_is_where_the_sample_holds_ln_n_nats():
    values = torch.tensor([5.0, 1.0, 0.1, 0.0])
    prior = Gaussian(torch.zeros(4, dtype=torch.float64), Diagonal((4,)), values, count=200)
    level = critical.collapse(prior, Noise.vp())
    information = 0.5 * torch.log1p(values.double() / level.sigma**2).sum().item()
    assert information == pytest.approx(math.log(200), rel=1e-9)
    assert level.t == pytest.approx(Noise.vp().time(level.sigma))


def test_the_order_parameters_approach_the_random_energy_model():
    """n grows with the dimension, `d = ln n / 0.15`: the gap in sigma^2 shrinks, for both ways of reading it."""
    gaps = []
    for n in (30, 300, 2500):
        dim = round(math.log(n) / 0.15)
        exact = critical.random_energy(1.0, n, dim).sigma
        for by in ("entropy", "condensation"):
            levels = [critical.collapse(randn(n, dim, seed=s), by=by, probes=200).sigma for s in range(3)]
            gaps.append(sum((sigma / exact) ** 2 for sigma in levels) / 3 - 1)
    entropy, condensation = gaps[::2], gaps[1::2]
    assert 0 < entropy[-1] < 0.1
    assert 0 < condensation[-1] < 0.1
    assert abs(entropy[-1] - condensation[-1]) < 0.05
    assert entropy[-1] < entropy[0]
    assert condensation[-1] < condensation[0]


def test_the_excess_entropy_above_collapse_is_that_of_the_distribution():
    """Where many points overlap, the points' own density is the Gaussian's: `f = ln n / d - ln(1 + 1/sigma^2) / 2`."""
    n, dim = 1500, 3
    points = randn(n, dim, seed=4)
    sigmas = falling(3.0, 0.6, 5)
    curve = critical.collapse_curve(points, sigmas, probes=1500)
    expected = math.log(n) / dim - 0.5 * torch.log1p(1 / sigmas**2)
    torch.testing.assert_close(curve.value, expected, rtol=0, atol=0.03)
    condensed = critical.collapse_curve(points, [100.0, 1e-3], "condensation").value
    torch.testing.assert_close(condensed, torch.tensor([1 / n, 1.0]).double(), rtol=0.05, atol=0)


def test_weights_are_those_of_the_point_cloud():
    """f is the log-density of the other points, by its definition, on the very noise of the probes."""
    points, sigma, n, dim = randn(12, 3, seed=6), 0.7, 12, 3
    curve = critical.collapse_curve(points, [1.0, sigma], probes=n, seed=2)
    generator = rng(2)
    own = torch.randperm(n, generator=generator)
    eps = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    y = points[own] + sigma * eps
    others = [PointCloud(torch.cat([points[:i], points[i + 1 :]])) for i in own.tolist()]
    log_p = torch.stack([cloud.log_prob(y[k : k + 1], sigma)[0] for k, cloud in enumerate(others)])
    noise = 0.5 * dim * math.log(2 * math.pi * sigma**2) + 0.5 * eps.square().sum(1)
    torch.testing.assert_close(curve.samples[:, 1], (log_p + math.log(n) + noise) / dim, rtol=1e-10, atol=1e-10)


def test_collapse_of_points_has_an_interval_that_more_probes_narrow():
    points = randn(800, 20, seed=7)
    many, few = (critical.collapse(points, Noise.vp(), probes=probes) for probes in (600, 30))
    assert many.interval is not None
    assert few.interval is not None
    assert many.interval[0] < many.sigma < many.interval[1]
    assert few.interval[1] - few.interval[0] > 2.5 * (many.interval[1] - many.interval[0])
    assert few.interval[0] < many.sigma < few.interval[1]
    again = critical.collapse_curve(points, [2 * many.sigma, many.sigma], probes=600)
    assert again.value[1].item() == pytest.approx(0.0, abs=5e-4)


@pytest.mark.shared
def test_mnist_has_the_known_top_eigenvalue_and_collapses_below_its_speciation(shared):
    images = load_images(shared / "data" / "mnist-train.parquet", 10_000).floats()
    prior = Gaussian.fit(images, "dense")
    speciation = critical.speciation(prior)
    assert 1 / speciation.alpha_bar == pytest.approx(20.239, abs=1e-3)
    points, gaussian = critical.collapse(images, probes=100), critical.collapse(prior)
    assert points.interval is not None
    assert points.interval[1] < speciation.sigma
    # of all distributions with this covariance the Gaussian tells most about its origin
    assert points.interval[0] < gaussian.sigma
    assert gaussian.sigma == pytest.approx(points.sigma, rel=0.1)


# bad input


class Broken:
    shape, dtype, device, sigma_range = (1,), torch.float64, torch.device("cpu"), (0.1, 10.0)

    def __call__(self, y, sigma):
        return y * (math.nan if sigma < 1 else 1.0)


def test_bad_input_is_named():
    images = TwoPoints().sample(40, rng())
    for call in (
        lambda: critical.clone(TwoPoints(), None),
        lambda: critical.clone_curve(TwoPoints(), None),
        lambda: critical.uturn(TwoPoints(), images, None),
        lambda: critical.uturn_curve(TwoPoints(), images, None),
    ):
        with pytest.raises(ValueError, match="needs a classifier, got None"):
            call()
    for few in (
        lambda: critical.speciation(randn(9, 4)),
        lambda: critical.collapse(randn(9, 4)),
        lambda: critical.uturn(TwoPoints(), images[:9], side),
    ):
        with pytest.raises(ValueError, match=r"needs at least 10 images .* received torch.float64 \(9, \d\)"):
            few()
    with pytest.raises(ValueError, match="n=5: expected a whole number of at least 10"):
        critical.clone(TwoPoints(), side, n=5)
    with pytest.raises(ValueError, match="at least two classes"):
        critical.uturn(TwoPoints(), torch.ones(20, 1).double(), side)
    with pytest.raises(ValueError, match=r"class indices \(40,\), received torch.float64 \(40, 1\)"):
        critical.uturn(TwoPoints(), images, lambda x: x)
    for sigmas in ([1.0], [1.0, 2.0], [20.0, 1.0], [1.0, 0.0], [math.nan, 1.0]):
        with pytest.raises(ValueError, match=r"falling levels sigma within the denoiser's \[0.1, 10\]"):
            critical.susceptibility_curve(Broken(), sigmas=sigmas)
    with pytest.raises(ValueError, match=r"denoiser returned 20 values that are NaN or infinite at sigma = 0\.9"):
        critical.susceptibility_curve(Broken(), sigmas=[2.0, 1.0, 0.9], n=20, refine=1)
    with pytest.raises(ValueError, match="for L > 1 only"):
        critical.speciation(0.5 * torch.eye(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        critical.speciation(randn(20, 3) * math.nan)
    with pytest.raises(ValueError, match="lies outside of the edm process"):
        critical.speciation(9 * torch.eye(3), Noise.edm(sigma_max=1.0))
    with pytest.raises(ValueError, match="'entropy' or 'condensation', received 'both'"):
        critical.collapse(randn(20, 3), by="both")
    with pytest.raises(ValueError, match="one point many times"):
        critical.collapse(torch.ones(20, 3))
    with pytest.raises(ValueError, match="received n=None"):
        critical.collapse(isotropic(3))
    with pytest.raises(ValueError, match="condensation needs points"):
        critical.collapse(isotropic(3), by="condensation", n=9)
    with pytest.raises(ValueError, match="variances are all zero"):
        critical.collapse(isotropic(3, 0.0), n=9)
    with pytest.raises(ValueError, match=r"received 1\.0, 1 and 3"):
        critical.random_energy(1.0, 1, 3)
    for agreement in (0.5, 1.0, math.nan):
        with pytest.raises(ValueError, match=f"agreement between 1/2 and 1, received {agreement}"):
            critical.clone_curve(TwoPoints(), side, agreement=agreement)
    for refine in (0, -1):
        with pytest.raises(ValueError, match=f"refine={refine}: expected a whole number of at least 1"):
            critical.correlation_curve(TwoPoints(), refine=refine)
    for size in (0.0, math.nan):
        with pytest.raises(ValueError, match=f"a size between 0 and infinity, received size={size}"):
            critical.susceptibility(TwoPoints(), size=size)


def test_repeated_points_never_collapse():
    """Every point twice: the other copy always weighs as much, f never falls below 0."""
    points = randn(30, 5, seed=8)
    with pytest.raises(ValueError, match="collapse curve does not cross 0"):
        critical.collapse(torch.cat([points, points]))


def test_paths_are_fixed_by_their_seed():
    first, again, other = (
        critical.susceptibility_curve(TwoPoints(), sigmas=[5.0, 1.0, 0.5], n=10, seed=s).samples for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
