"""The nats curve against direct log-densities, closed forms and quadrature."""

import math
import warnings
from dataclasses import fields

import pytest
import scipy.integrate
import torch
from diffusers import DDPMScheduler

from latestart import Gaussian, Noise, as_model, from_diffusers
from latestart.denoisers.exact import GaussianMixture, TwoPoints
from latestart.gaussians.basis import Dense, Diagonal, Isotropic
from latestart.gaussians.mixture import Mixture
from latestart.theory.nats import NatsCurve, nats


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def clusters(direction, width=0.05):
    """Two clusters at +-direction, of a given variance in every direction."""
    spread = torch.tensor([width], dtype=torch.float64)
    return GaussianMixture([Gaussian(s * direction, Isotropic(direction.shape), spread) for s in (1.0, -1.0)])


def axis(dim=4, size=2.0):
    return torch.tensor([size] + [0.0] * (dim - 1), dtype=torch.float64)


def matched(variance=4.05):
    values = torch.tensor([variance, 0.05, 0.05, 0.05])
    return Gaussian(torch.zeros(4, dtype=torch.float64), Diagonal((4,)), values)


def direct(model, prior, sigma, size=3.0, width=0.3, points=401):
    """KL by the two log-densities on a grid of the first two values; the others are alike under both.

    The density of clusters within +-size has died away at the edges, so the sum is exact to rounding.
    """
    edge = size + 8 * math.sqrt(width + sigma**2)
    x = torch.linspace(-edge, edge, points, dtype=torch.float64)
    y = torch.zeros(points**2, model.shape[0], dtype=torch.float64)
    y[:, :2] = torch.cartesian_prod(x, x)
    log_p, log_q = model.log_prob(y, sigma), prior.log_prob(y, sigma)
    return (log_p.softmax(0) * (log_p - log_q)).sum().item()


def on_one_axis(sigma, size=2.0, width=0.05):
    """KL of two clusters at +-size from the Gaussian with their moments, by quadrature on their axis."""
    variance = width + sigma**2
    total = size**2 + variance

    def integrand(y):
        p = sum(math.exp(-((y - s * size) ** 2) / (2 * variance)) for s in (1, -1)) / math.sqrt(8 * math.pi * variance)
        log_q = -(y**2) / (2 * total) - 0.5 * math.log(2 * math.pi * total)
        return p * (math.log(p) - log_q) if p > 0 else 0.0

    edge = size + 9 * math.sqrt(variance)
    return scipy.integrate.quad(integrand, -edge, edge, limit=200, points=(-size, size))[0]


GRID = torch.cat([torch.logspace(-3, math.log10(5.01), 18), torch.tensor([0.251, 1.0])]).double() ** -0.5


@pytest.fixture(scope="module")
def two_clusters():
    model = clusters(axis())
    return model, model.sample(50_000, rng())


@pytest.mark.parametrize("exact", [True, False])
def test_two_clusters_and_their_matched_gaussian(two_clusters, exact):
    model, images = two_clusters
    curve = nats(model, matched(), images, GRID, exact=exact)
    for snr, expected in ((0.251, 0.0096), (1.0, 0.157), (5.01, 0.724)):
        at = int((curve.sigma - snr**-0.5).abs().argmin())
        truth = on_one_axis(snr**-0.5)
        assert truth == pytest.approx(expected, rel=0.02)
        # the paired errors of 50,000 images leave 3.5% of sampling noise at the first level; an exact model's do not
        assert curve.nats[at].item() == pytest.approx(truth, rel=0.02 if exact or snr > 1 else 0.08)
        assert abs(curve.nats[at].item() - truth) < 3.5 * curve.error[at].item()
    assert curve.by_direction is not None
    assert (curve.by_direction[:, 1:].abs() < 1e-9).all(), "only the axis of the clusters is not Gaussian"
    assert curve.tail < 1e-7


def rotated():
    direction = torch.tensor([1.5, 1.5, 0.0, 0.0], dtype=torch.float64)
    model = clusters(direction, 0.3)
    variances = 0.3 + direction.square()
    return model, Gaussian(torch.zeros(4, dtype=torch.float64), Diagonal((4,)), variances)


def coarse_mixture():
    """Four clusters, and a prior of two that each cover a pair and are shifted."""
    spread = torch.tensor([0.3], dtype=torch.float64)
    corners = 2 * torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=torch.float64)
    model = GaussianMixture([Gaussian(c, Isotropic((2,)), spread) for c in corners])
    halves = torch.tensor([[2.2, 0.0], [-1.9, 0.0]], dtype=torch.float64)
    values = torch.tensor([0.3, 4.3])
    return model, GaussianMixture([Gaussian(h, Diagonal((2,)), values) for h in halves])


@pytest.mark.parametrize("case", [rotated, coarse_mixture])
@pytest.mark.parametrize("exact", [True, False])
def test_a_diagonal_and_a_mixture_prior_against_log_densities(case, exact):
    model, prior = case()
    sigmas = torch.logspace(2, -0.3, 20, dtype=torch.float64)
    curve = nats(model, prior, model.sample(40_000, rng(1)), sigmas, exact=exact)
    for at in (-4, -2, -1):
        expected, error = direct(model, prior, curve.sigma[at].item()), curve.error[at].item()
        assert error < (0.0065 if exact else 0.02) * expected, "or the comparison would be empty"
        assert curve.nats[at].item() == pytest.approx(expected, rel=0.02 if exact else 0, abs=0 if exact else 3 * error)


def test_a_wrong_gaussian_against_its_closed_form_by_direction():
    """Data and prior share a dense basis: each direction has the divergence of two lines."""
    vectors = torch.linalg.qr(torch.randn(3, 3, generator=rng(2), dtype=torch.float64))[0]
    shift = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    true, wrong = torch.tensor([4.0, 1.0, 0.2]), torch.tensor([1.0, 1.0, 0.6])
    model = Gaussian(torch.zeros(3, dtype=torch.float64), Dense((3,), vectors), true)
    prior = Gaussian(vectors @ shift, Dense((3,), vectors), wrong)
    sigmas = torch.logspace(2.5, -0.7, 40, dtype=torch.float64)
    curve = nats(model, prior, model.sample(12_000, rng(3)), sigmas, exact=True)
    a, b = (v.double() + curve.sigma[:, None] ** 2 for v in (true, wrong))
    expected = 0.5 * (a / b - 1 - (a / b).log() + shift**2 / b)
    assert curve.by_direction is not None
    torch.testing.assert_close(curve.by_direction[10:], expected[10:], rtol=0.04, atol=1e-4)
    torch.testing.assert_close(curve.by_direction.sum(1), curve.nats, rtol=1e-12, atol=1e-14)
    last = float(curve.sigma[-1])
    assert curve.nats[-1].item() == pytest.approx(model.noised(last).kl(prior.noised(last)), rel=0.02)


def test_quadrature_is_of_fourth_order():
    """A shifted Gaussian: every image has the same gap, so that only the quadrature errs."""
    flat = Isotropic((1,))
    one = torch.ones(1, dtype=torch.float64)
    model, prior = Gaussian(0 * one, flat, one), Gaussian(3 * one, flat, one)
    images = model.sample(4, rng())
    errors = []
    for count in (9, 17, 33):
        curve = nats(model, prior, images, torch.logspace(3, -1, count, dtype=torch.float64), exact=True)
        expected = 0.5 * 9 / (1 + curve.sigma**2)  # D_p - D_q is the constant 3 sigma^2 / (1 + sigma^2)
        errors.append((curve.nats - expected).abs().max().item())
        assert curve.error.max() < 1e-12
    assert errors[1] < errors[0] / 8
    assert errors[2] < errors[1] / 8
    assert errors[2] < 2e-4


def test_the_standard_error_is_that_of_repetitions():
    model, prior = (
        clusters(axis(2, 1.5), 0.2),
        Gaussian(torch.zeros(2).double(), Diagonal((2,)), torch.tensor([2.45, 0.2])),
    )
    sigmas = torch.logspace(1.5, -0.2, 12, dtype=torch.float64)
    curves = [nats(model, prior, model.sample(60, rng(100 + k)), sigmas, seed=k) for k in range(80)]
    spread = torch.stack([c.nats for c in curves]).std(0)
    claimed = torch.stack([c.error for c in curves]).square().mean(0).sqrt()
    torch.testing.assert_close(claimed[-4:], spread[-4:], rtol=0.3, atol=0)


class Spoiled:
    """A denoiser that is off by a constant above a level: worse than any sound prior there."""

    def __init__(self, model, above):
        self.model, self.above = model, above
        self.shape, self.dtype, self.device, self.sigma_range = model.shape, model.dtype, model.device, (0.01, 100.0)

    def __call__(self, y, sigma):
        return self.model(y, sigma) + (1.0 if sigma > self.above else 0.0)


def test_levels_where_the_denoiser_is_worse_are_named_and_count_as_nothing(two_clusters):
    model, images = two_clusters
    sigmas = torch.logspace(1.5, -0.3, 16, dtype=torch.float64)
    with pytest.warns(UserWarning, match=r"worse than the prior's own at \d+ of 16 levels, sigma = 31\.62"):
        spoiled = nats(Spoiled(model, 3.0), matched(), images[:2000], sigmas)
    assert torch.equal(spoiled.worse, spoiled.sigma > 3.0)
    assert (spoiled.integrand[spoiled.worse] == 0).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sound = nats(model, matched(), images[:2000], sigmas)
    assert not sound.worse.any()
    assert spoiled.nats[-1] == pytest.approx(sound.nats[-1].item(), abs=0.05)
    assert spoiled.nats[-1] < sound.nats[-1]


def test_a_network_is_measured_over_its_own_levels_in_its_own_precision():
    """A float32 exact model behind a DDPM scheduler, against the same curve in float64 without one."""
    mean = torch.zeros(1, 2, 2)
    mean[0, 0, 0] = 1.0
    spread = torch.tensor([0.05])
    exact = GaussianMixture([Gaussian(s * mean, Isotropic((1, 2, 2)), spread) for s in (1.0, -1.0)])
    scheduler = DDPMScheduler()
    network = from_diffusers(as_model(exact, scheduler), scheduler)
    prior = Gaussian(0 * mean, Diagonal((1, 2, 2)), torch.tensor([1.05, 0.05, 0.05, 0.05]))
    curve = nats(network, prior, exact.sample(2000, rng(7)))
    low, high = network.sigma_range
    assert low <= curve.sigma[-1] < 0.1
    assert 10 < curve.sigma[0] <= high
    at = int((curve.sigma - 0.4).abs().argmin())
    expected = on_one_axis(curve.sigma[at].item(), 1.0)
    assert abs(curve.nats[at].item() - expected) < 3 * curve.error[at].item() + 0.01 * expected
    assert curve.error[at] < 0.15 * expected
    assert curve.level(0.3, network.noise).t == pytest.approx(network.noise.time(curve.level(0.3).sigma))


def test_images_of_a_generator_of_the_same_seed_do_not_share_its_numbers():
    """`1/2 (1/r - 1 + log r)` for each of two values, with r the prior's variance over the data's, both noised."""
    data, prior = (Gaussian(torch.zeros(2), Dense((2,), torch.eye(2)), v * torch.ones(2)) for v in (1.0, 2.5))
    ratio = (2.5 + 0.01) / (1 + 0.01)
    curve = nats(data, prior, data.sample(1000, rng(0)), torch.logspace(1, -1, 32), seed=0)
    assert abs(curve.nats[-1].item() - (1 / ratio - 1 + math.log(ratio))) < 4 * curve.error[-1].item()


def test_a_prior_that_is_right_has_no_nats():
    model = matched()
    curve = nats(model, model, model.sample(50, rng()))
    assert curve.nats.abs().max() == 0
    assert not curve.worse.any()


def test_the_default_levels_reach_from_nothing_to_everything(two_clusters):
    model, images = two_clusters
    curve = nats(model, matched(), images[:3000], exact=True)
    assert curve.nats[0] < 1e-4
    assert curve.nats[-1].item() == pytest.approx(on_one_axis(curve.sigma[-1].item()), abs=3.5 * curve.error[-1].item())
    assert curve.nfe == 3000 * len(curve.sigma)


def test_the_level_of_a_budget(two_clusters):
    """0.157 nats at snr 1, found from the other side, with an interval that shrinks with the number of images."""
    model, images = two_clusters
    curve = nats(model, matched(), images[:20_000], GRID, exact=True)
    noise = Noise.vp()
    level = curve.level(on_one_axis(1.0), noise)
    assert level.sigma == pytest.approx(1.0, rel=0.01)
    assert level.t == pytest.approx(noise.time(level.sigma))
    assert level.criterion == "nats"
    assert level.interval is not None
    few = nats(model, matched(), images[:200], GRID, exact=True).level(on_one_axis(1.0))
    assert few.interval is not None
    assert few.interval[0] < 1.0 < few.interval[1]
    assert few.interval[1] - few.interval[0] > 5 * (level.interval[1] - level.interval[0])
    with pytest.raises(ValueError, match="does not cross 50"):
        curve.level(50.0)


class Broken:
    shape, dtype, device, sigma_range = (4,), torch.float64, torch.device("cpu"), (0.1, 50.0)

    def __init__(self, out):
        self.out = out

    def __call__(self, y, sigma):
        return self.out(y, sigma)


def test_bad_input_is_named(two_clusters):
    model, images = two_clusters
    prior = matched()
    with pytest.raises(ValueError, match=r"at least 2 images .* received \(1, 4\)"):
        nats(model, prior, images[:1])
    with pytest.raises(ValueError, match=r"shape \(4,\), received a prior for \(4,\) and images \(5, 3\)"):
        nats(model, prior, torch.zeros(5, 3))
    with pytest.raises(ValueError, match=r"received a prior for \(1,\)"):
        nats(model, TwoPoints(), images[:9])
    with pytest.raises(ValueError, match="finite values"):
        nats(model, prior, images[:9] * math.nan)
    sound = Broken(lambda y, sigma: y)
    for sigmas in ([1.0], [1.0, 60.0], [0.0, 1.0], [1.0, math.nan]):
        with pytest.raises(ValueError, match=r"levels sigma within the denoiser's \[0.1, 50\]"):
            nats(sound, prior, images[:9], sigmas)
    spoiled = Broken(lambda y, sigma: y * (math.nan if sigma < 1 else 1))
    with pytest.raises(ValueError, match=r"denoiser returned 36 values that are NaN or infinite at sigma = 0\.5"):
        nats(spoiled, prior, images[:9], [2.0, 0.5])
    with pytest.raises(ValueError, match=r"denoiser returned \(9, 3\) for samples \(9, 4\) at sigma = 2"):
        nats(Broken(lambda y, sigma: y[:, :3]), prior, images[:9], [2.0, 0.5])
    with pytest.warns(UserWarning, match="nats come from above the highest level, sigma = 1"):
        nats(model, Gaussian(prior.mean + 3, prior.basis, prior.variances), images[:50], [1.0, 0.7, 0.5], exact=True)
    with pytest.raises(ValueError, match="draws and batch_size of at least 1, received 0 and 256"):
        nats(model, prior, images[:9], draws=0)
    with pytest.raises(ValueError, match="received 1 and 0"):
        nats(model, prior, images[:9], batch_size=0)
    with pytest.raises(ValueError, match=r"expected pictures .*, received torch\.uint8 of shape \(9, 4\)"):
        nats(model, prior, torch.ones(9, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="all 9 received are the same: give sigmas"):
        nats(model, prior, images[:1].expand(9, 4))
    with pytest.raises(ValueError, match=r"a basis of images \(4,\), received one of \(3,\)"):
        nats(model, prior, images[:9], basis=Diagonal((3,)))


def test_the_prior_is_moved_to_the_denoisers_device(two_clusters):
    class Elsewhere(Gaussian):
        device = torch.device("meta")

        def to(self, device):
            return matched() if device == model.device else self

    model, images = two_clusters
    levels = [8.0, 6.0, 4.0, 3.0, 2.0]
    elsewhere = matched()
    elsewhere.__class__ = Elsewhere
    assert torch.equal(nats(model, elsewhere, images[:9], levels).nats, nats(model, matched(), images[:9], levels).nats)


def test_a_mixture_is_split_by_the_directions_that_it_is_given(two_clusters):
    """Of a prior of two clusters that are too wide on one axis, that axis alone has a share."""
    model, images = two_clusters
    spread = torch.tensor([1.0, 0.05, 0.05, 0.05], dtype=torch.float64)
    parts = [Gaussian(s * axis(), Diagonal((4,)), spread) for s in (1.0, -1.0)]
    levels = [12.0, 8.0, 5.0, 3.0, 2.0, 1.5, 1.0]
    curve, plain = (
        nats(model, Mixture(parts), images[:200], levels, exact=True, basis=basis) for basis in (Diagonal((4,)), None)
    )
    assert plain.by_direction is None
    torch.testing.assert_close(curve.nats, plain.nats)
    torch.testing.assert_close(curve.by_direction[:, 0], curve.nats)
    assert curve.by_direction[-1, 0] > 0.01 and (curve.by_direction[:, 1:].abs() < 1e-9).all()


def test_the_divergence_between_levels_is_linear_in_log_sigma():
    nothing = dict.fromkeys(field.name for field in fields(NatsCurve))
    curve = NatsCurve(**nothing | {"sigma": torch.tensor([4.0, 1.0]), "nats": torch.tensor([0.0, 2.0])})
    assert curve.at([2.0, 1.0, 9.0]) == pytest.approx([1.0, 2.0, 0.0])
    assert curve.at([2.0], torch.tensor([1.0, 5.0])) == pytest.approx([3.0])
