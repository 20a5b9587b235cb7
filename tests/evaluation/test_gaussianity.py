"""Tests of normality: values by published formulas and by other implementations, exact levels, and power."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

from latestart.denoisers.exact import PointCloud
from latestart.evaluation.gaussianity import (
    TESTS,
    anderson_darling,
    energy,
    gaussianity,
    henze_zirkler,
    holm,
    leading_directions,
    own_scores,
    p_value,
    prior_scores,
    statistics,
)
from latestart.gaussians.basis import Dense, Isotropic
from latestart.gaussians.gaussian import Gaussian

FAST = {"projections": 20, "replicates": 99}
EYE = torch.eye(4, dtype=torch.float64)


def _draw(n, k, seed=0):
    return torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _squares(z):
    return torch.cdist(z, z).square(), z.square().sum(1)


def _prior(dim=6, seed=3):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64)).Q
    variances = torch.logspace(-2, 1, dim, dtype=torch.float64)
    mean = torch.randn(dim, generator=generator, dtype=torch.float64)
    return Gaussian(mean.reshape(1, 2, -1), Dense((1, 2, dim // 2), vectors), variances)


def test_whitened_scores_are_white_and_do_not_depend_on_the_covariance():
    x = _draw(60, 5)
    z = own_scores(x, 5)
    torch.testing.assert_close(z.T @ z / 60, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(z.mean(0), torch.zeros(5, dtype=torch.float64))
    mixed = own_scores(x @ _draw(5, 5, seed=1) + 7, 5)  # an affine map only rotates them
    torch.testing.assert_close(mixed @ mixed.T, z @ z.T)


def test_scores_of_few_samples_in_many_dimensions_are_a_uniform_frame_whatever_the_covariance():
    """The claim on which the p-values without a prior stand: means of U's statistics, for two spectra and for noise."""
    spectra = (torch.ones(40).double(), torch.logspace(0, -3, 40, dtype=torch.float64))
    rows = [[list(statistics(own_scores(_draw(30, 40, s) * d, 4), EYE)) for s in range(300)] for d in spectra]
    noise = [list(statistics(own_scores(_draw(30, 4, 900 + s), 4), EYE)) for s in range(300)]
    for sample in rows:
        for a, b in zip(np.transpose(sample), np.transpose(noise)):
            assert stats.ks_2samp(a, b).pvalue > 0.001


def test_mardia_has_its_known_moments():
    """E skewness = k (k+2) ((n+1) (k+1) - 6) / (n+1) / (n+3), E kurtosis = k (k+2) (n-1) / (n+1) (Mardia 1974)."""
    n, k = 40, 3
    values = np.array([list(statistics(own_scores(_draw(n, k, s), k), EYE[:3, :3]))[:2] for s in range(2000)])
    expected = k * (k + 2) * ((n + 1) * (k + 1) - 6) / (n + 1) / (n + 3), (n - 1) / (n + 1)
    error = values.std(0) / math.sqrt(len(values))
    assert (np.abs(values.mean(0) - expected) < 4 * error).all()


def test_mardia_and_henze_zirkler_are_those_of_the_definitions():
    x = _draw(25, 3).exp()
    centred = x - x.mean(0)
    mahalanobis = centred @ torch.linalg.inv(centred.T @ centred / 25) @ centred.T
    skewness, kurtosis, *_ = statistics(own_scores(x, 3), EYE[:3, :3])
    assert skewness == pytest.approx(float(mahalanobis.pow(3).mean()))
    assert kurtosis * 15 == pytest.approx(float(mahalanobis.diagonal().square().mean()))


def test_henze_zirkler_is_the_distance_of_characteristic_functions():
    """In one dimension the weighted integral of |phi_n(t) - exp(-t^2 / 2)|^2 by quadrature."""
    z = own_scores(_draw(30, 1).exp(), 1)
    beta = ((2 + 1) * 30 / 4) ** (1 / 5) / math.sqrt(2)
    t = torch.linspace(-15, 15, 6001, dtype=torch.float64)
    phi = torch.exp(1j * t[:, None] * z[:, 0]).mean(1)
    gap = (phi - torch.exp(-t.square() / 2)).abs().square()
    weight = torch.exp(-t.square() / (2 * beta**2)) / (beta * math.sqrt(2 * math.pi))
    assert henze_zirkler(*_squares(z), 1) == pytest.approx(float(torch.trapezoid(gap * weight, t)), rel=1e-6)


def test_henze_zirkler_agrees_with_pingouin():
    import pingouin

    x = _draw(50, 4).exp()
    theirs = pingouin.multivariate_normality(x.numpy()).hz
    assert 50 * henze_zirkler(*_squares(own_scores(x, 4)), 4) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_energy_is_the_distance_to_a_large_normal_sample(k):
    z, normal = 1.5 * _draw(40, k) + 0.5, _draw(20_000, k, seed=1)
    within = torch.cdist(normal[:2000], normal[2000:4000]).mean()
    expected = 2 * torch.cdist(z, normal).mean() - within - torch.cdist(z, z).mean()
    assert energy(*_squares(z), k) == pytest.approx(float(expected), abs=0.02)


def test_energy_in_one_dimension_is_twice_cramer_von_mises():
    """2 integral (F_n - Phi)^2, by quadrature (Szekely and Rizzo 2013)."""
    z = _draw(20, 1) + 0.3
    u = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    gap = torch.searchsorted(z[:, 0].sort().values, u, right=True) / 20 - torch.special.ndtr(u)
    assert energy(*_squares(z), 1) == pytest.approx(2 * float(torch.trapezoid(gap.square(), u)), rel=1e-3)


def test_anderson_darling_agrees_with_scipy():
    x = _draw(50, 2).exp()
    z = (x - x.mean(0)) / x.std(0)
    for column, value in zip(x.T, anderson_darling(z)):
        theirs = stats.anderson(column.numpy(), "norm", method="interpolate").statistic
        assert float(value) == pytest.approx(theirs, rel=1e-9)


def test_holm_and_p_values_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    null = torch.arange(9, dtype=torch.float64)
    assert p_value(8.5, null) == pytest.approx(0.1)
    assert p_value(7.0, null) == pytest.approx(0.3)
    assert p_value(-1.0, null, two_sided=True) == pytest.approx(0.2)


@pytest.mark.parametrize("known", [False, True])
def test_p_values_are_uniform_under_the_hypothesis(known):
    """60 samples of a far from isotropic Gaussian, 200 times: every test holds its level, and so do all together."""
    prior = _prior()
    sets = [prior.sample(60, torch.Generator().manual_seed(1000 + s)) for s in range(200)]
    results = [gaussianity(x, prior if known else None, 3, projections=20, replicates=1000) for x in sets]
    for name in TESTS:
        assert stats.kstest([r[name].p for r in results], "uniform").pvalue > 0.001
    assert stats.binomtest(sum(r.p <= 0.05 for r in results), 200, 0.05, "greater").pvalue > 0.001


@pytest.mark.parametrize("seed", range(3))
def test_many_dimensions_and_few_samples_hold_the_level(seed):
    x = _draw(100, 784, seed) * torch.logspace(0, -2, 784, dtype=torch.float64)
    assert gaussianity(x, rank=10, **FAST).p > 0.01


CASES = {
    "t": lambda n: torch.from_numpy(stats.multivariate_t(df=5, shape=np.eye(4), seed=1).rvs(n)),
    "uniform": lambda n: torch.rand(n, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64),
    "mixture": lambda n: _draw(n, 4) + 2 * torch.tensor([1.0, 1, 0, 0]).double() * _draw(n, 1, seed=1).sign(),
    "skewed": lambda n: _draw(n, 4).exp(),
}
EXPECTED = {  # what each is made for
    "t": ("kurtosis", "projection"),
    "uniform": ("kurtosis", "energy"),
    "mixture": ("henze-zirkler", "energy", "projection"),
    "skewed": TESTS,
}


@pytest.mark.parametrize("case", CASES)
def test_power(case):
    result = gaussianity(CASES[case](300), **FAST)
    for name in EXPECTED[case]:
        assert result[name].p == pytest.approx(0.02 if name == "kurtosis" else 0.01), name
    assert result.p <= 0.05
    assert result["kurtosis"].deviations < 0 if case in ("uniform", "mixture") else result["kurtosis"].deviations > 3


def test_a_given_prior_is_told_from_any_gaussian():
    """Samples of another Gaussian are Gaussian, and not of this one."""
    prior = _prior()
    wider = Gaussian(prior.mean, prior.basis, 1.5 * prior.variances).sample(300, torch.Generator().manual_seed(0))
    assert gaussianity(wider, **FAST).p > 0.05
    against = gaussianity(wider, prior, **FAST)
    assert (against["energy"].p, against["projection"].p) == pytest.approx((0.01, 0.01))
    assert against["kurtosis"].statistic == pytest.approx(1.5**2, rel=0.1)


def _two_clusters(shift, n, seed):
    x = _draw(n, 3, seed)
    x[:, 0] += shift * _draw(n, 1, seed + 500)[:, 0].sign()
    return gaussianity(x, **FAST)["energy"]


def test_power_grows_with_the_separation():
    deviations = [_two_clusters(shift, 200, 0).deviations for shift in (0.0, 1.5, 2.0, 3.0)]
    assert all(a < b for a, b in pairwise(deviations))


def test_effects_do_not_depend_on_the_number_of_samples():
    few, many = (np.mean([_two_clusters(2.0, n, s).effect for s in range(20)]) for n in (100, 400))
    assert few == pytest.approx(many, rel=0.2)


def test_scores_of_a_prior_are_those_of_its_eigenvectors():
    prior = _prior()
    v = leading_directions(prior, 2)
    torch.testing.assert_close((prior.basis.vectors.T @ v).abs()[-2:].flip(0), torch.eye(2, dtype=torch.float64))
    x = prior.sample(50, torch.Generator().manual_seed(0))
    scores = (x - prior.mean).flatten(1) @ v / prior.variances[-2:].flip(0).sqrt()
    torch.testing.assert_close(prior_scores(x, prior, 2), scores)


def test_an_isotropic_prior_has_directions_too():
    prior = Gaussian(torch.zeros(1, 2, 4), Isotropic((1, 2, 4)), torch.tensor([4.0]).double())
    assert gaussianity(2 * _draw(80, 8).reshape(-1, 1, 2, 4), prior, 3, **FAST).p > 0.05
    assert gaussianity(3 * _draw(80, 8).reshape(-1, 1, 2, 4), prior, 3, **FAST).p <= 0.05


def test_the_same_seed_gives_the_same_figures_and_the_record_holds_them_all():
    first, second = (gaussianity(_draw(50, 3), **FAST) for _ in range(2))
    assert first == second
    assert set(first.record()["tests"]) == set(TESTS)
    assert first.record()["p"] == first.p == min(t.adjusted for t in first.tests)


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (torch.full((20, 2), math.nan), {}, "finite samples"),
        (torch.zeros(20, 2, dtype=torch.int64), {}, "torch.int64"),
        (_draw(9, 1), {}, "received 9 samples"),
        (_draw(20, 2), {"rank": 3}, "3 directions need as many dimensions"),
        (_draw(20, 2), {"rank": 0}, "=0: expected a whole number"),
        (_draw(20, 2), {"replicates": 0}, r"replicates=.*: expected a whole number"),
        (_draw(20, 1) * torch.ones(3), {"rank": 2}, "vary in at least 2 directions, received 1"),
        (torch.ones(20, 2), {}, "received 0"),
        (_draw(20, 6), {"prior": _prior()}, r"the prior \(1, 2, 3\)"),
        (_draw(20, 2), {"prior": PointCloud(torch.zeros(3, 2))}, "received a PointCloud"),
    ],
)
def test_mistakes_are_named(samples, options, message):
    with pytest.raises(ValueError, match=message):
        gaussianity(samples, **options)


def test_samples_are_a_tensor():
    with pytest.raises(TypeError, match=r"expected a tensor of samples \(n, \*shape\), received a list"):
        gaussianity([1.0, 2.0])


def test_a_prior_without_noise_is_refused():
    flat = Gaussian(torch.zeros(1, 2, 3), _prior().basis.to(dtype=torch.float32), torch.tensor([0.0, 1, 1, 1, 1, 1]))
    with pytest.raises(ValueError, match="noised"):
        gaussianity(_draw(20, 6).reshape(-1, 1, 2, 3), flat)
