"""Mixtures against torch.distributions in double precision, the moments of what they push, and how they are fitted."""

import logging
import math
from math import prod

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import latestart as ls
from latestart.data import Images, ImageSet
from latestart.files import save_tensors
from latestart.gaussians import clusters, mixture
from latestart.gaussians.basis import Dense, Diagonal, Isotropic
from latestart.gaussians.mixture import Mixture, load_mixture
from latestart.gaussians.structures import BASES
from rendezvous import together

SHAPES = st.sampled_from([(1,), (5,), (2, 3), (1, 4, 4), (3, 2, 2)])
several = settings(max_examples=15, deadline=None)


def randn(*shape: int, g: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def gaussian(shape: tuple[int, ...], kind: int, g: torch.Generator, apart: float = 1.0) -> ls.Gaussian:
    d = prod(shape)
    values = 0.05 + 2 * torch.rand(d, generator=g, dtype=torch.float64)
    if kind == 0:
        vectors = torch.linalg.qr(randn(d, d, g=g))[0].contiguous()
        return ls.Gaussian(apart * randn(*shape, g=g), Dense(shape, vectors), values)
    if kind == 1:
        return ls.Gaussian(apart * randn(*shape, g=g), Diagonal(shape), values)
    return ls.Gaussian(apart * randn(*shape, g=g), Isotropic(shape), values[:1])


def case(shape: tuple[int, ...], k: int, seed: int, apart: float = 1.0) -> tuple[Mixture, torch.Generator]:
    """Components of all kinds by turns, weights far from equal."""
    g = torch.Generator().manual_seed(seed)
    parts = [gaussian(shape, j % 3, g, apart) for j in range(k)]
    return Mixture(parts, 0.05 + torch.rand(k, generator=g, dtype=torch.float64)), g


def twin(m: Mixture, sigma: float) -> MixtureSameFamily:
    means = torch.stack([c.mean.flatten() for c in m.components])
    covariances = torch.stack([c.covariance() for c in m.components])
    noise = sigma**2 * torch.eye(means.shape[1], dtype=torch.float64)
    return MixtureSameFamily(Categorical(m.weights), MultivariateNormal(means, covariances + noise))


def assert_near(actual: Tensor, expected: Tensor, tolerance: float = 1e-8) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@several
@given(shape=SHAPES, k=st.integers(1, 5), seed=st.integers(0, 2**31), sigma=st.floats(0.05, 20))
def test_equals_its_dense_twin(shape: tuple[int, ...], k: int, seed: int, sigma: float) -> None:
    """Density, denoiser (Tweedie), score and responsibilities; one level for all, or one for each image."""
    m, g = case(shape, k, seed)
    y = (2 * randn(4, *shape, g=g)).requires_grad_()
    truth = twin(m, sigma)
    log_prob = truth.log_prob(y.flatten(1))
    (score,) = torch.autograd.grad(log_prob.sum(), y)
    noised = m.noised(sigma)
    assert_near(noised.log_prob(y), log_prob)
    assert_near(torch.autograd.grad(noised.log_prob(y).sum(), y)[0], score)
    assert_near(m.score(y, sigma), score)
    assert_near(m.denoise(y, sigma), y + sigma**2 * score)
    joint = truth.component_distribution.log_prob(y.flatten(1)[:, None]) + m.weights.log()
    assert_near(m.responsibilities(y, sigma), joint.softmax(1))
    assert_near(noised.denoise(y, 0.3), y + 0.3**2 * noised.score(y, 0.3))
    levels = torch.tensor([sigma, 0.4, 1.0, 3.0], dtype=torch.float64)
    for method in (m.denoise, m.score, m.responsibilities):
        assert_near(method(y, levels), torch.cat([method(y[i : i + 1], float(levels[i])) for i in range(4)]), 1e-10)


def test_denoiser_has_the_derivative_of_its_twin_in_both_modes() -> None:
    m, g = case((2, 3), 4, 1)
    y, v, sigma = randn(3, 2, 3, g=g), randn(3, 2, 3, g=g), 0.8

    def exact(y: Tensor) -> Tensor:
        log_prob = twin(m, sigma).log_prob(y.flatten(1)).sum()
        return y + sigma**2 * torch.autograd.grad(log_prob, y, create_graph=True)[0]

    expected = torch.autograd.functional.vjp(exact, y, v)[1]
    assert_near(torch.autograd.functional.vjp(lambda y: m(y, sigma), y, v)[1], expected)
    forward = torch.func.jvp(lambda y: m(y, sigma), (y,), (v,))[1]
    assert_near(forward, expected)  # a denoiser's Jacobian is a covariance: symmetric


def test_one_component_is_the_gaussian() -> None:
    m, g = case((2, 3), 1, 3)
    only, y = m.components[0], randn(4, 2, 3, g=g)
    assert torch.equal(m.push(y), only.push(y))
    assert torch.equal(m.noised(0.7).push(y), only.noised(0.7).push(y))
    assert_near(m(y, 0.7), only(y, 0.7), 1e-14)
    assert_near(m.log_prob(y), only.log_prob(y), 1e-13)
    x = randn(50, 6, g=g).float()
    for labels in (None, [3] * 50):
        fitted = Mixture.fit(x, components=1, labels=labels, basis="dense").components[0]
        direct = ls.Gaussian.fit(x, "dense")
        assert torch.equal(fitted.mean, direct.mean) and torch.equal(fitted.variances, direct.variances)
        assert torch.equal(fitted.basis.tensors()["vectors"], direct.basis.tensors()["vectors"])


@several
@given(seed=st.integers(0, 2**31), k=st.integers(2, 5))
def test_the_number_that_chooses_is_split_without_loss(seed: int, k: int) -> None:
    """Of stratified numbers each component gets its share, and in each what is left is stratified again."""
    g = torch.Generator().manual_seed(seed)
    weights, n = torch.rand(k, generator=g, dtype=torch.float64) + 0.05, 100_000
    weights /= weights.sum()
    index, left = mixture._split(torch.special.ndtri((torch.arange(n).double() + 0.5) / n), weights)
    assert (index.bincount(minlength=k) - n * weights).abs().max() <= 1
    for j in range(k):
        u = torch.special.ndtr(left[index == j])
        assert (u - (torch.arange(len(u)).double() + 0.5) / len(u)).abs().max() < 2 / len(u)


def test_the_farthest_noise_is_split_too() -> None:
    index, left = mixture._split(torch.tensor([-40.0, 40.0]).double(), torch.tensor([0.3, 0.7]).double())
    assert index.tolist() == [0, 1]
    assert left.isfinite().all()


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_pushed_noise_has_the_moments_of_the_mixture(sigma: float) -> None:
    """The mean, the covariance and the shares, and of each component by itself; within 5 standard errors."""
    m, _ = case((2, 2), 4, 7, apart=3.0)
    n, noised = 60_000, m.noised(sigma)
    z = randn(n, 2, 2, g=torch.Generator().manual_seed(2))
    y, index = noised.push(z).flatten(1), noised._drawn(z)[0]
    truth = twin(m, sigma)
    for got, components in [(y, None), *((y[index == k], k) for k in range(4))]:
        whole = components is None
        mean = truth.mean if whole else truth.component_distribution.mean[components]
        spread = MultivariateNormal(truth.component_distribution.mean, truth.component_distribution.covariance_matrix)
        between = spread.mean - truth.mean
        covariance = (
            (m.weights[:, None, None] * (spread.covariance_matrix + between[:, :, None] * between[:, None])).sum(0)
            if whole
            else spread.covariance_matrix[components]
        )
        deviation = covariance.diagonal().sqrt()
        assert ((got.mean(0) - mean).abs() < 5 * deviation / math.sqrt(len(got))).all()
        scale = deviation[:, None] * deviation
        assert ((got.T.cov() - covariance).abs() < 8 * scale / math.sqrt(len(got))).all()
    assert ((index.bincount() / n - m.weights).abs() < 5 * (m.weights / n).sqrt()).all()


def test_the_component_is_independent_of_the_noise_that_is_shaped() -> None:
    """Within each component the noise is white: moments to the fourth, along the chosen direction and across."""
    m, _ = case((6,), 3, 4, apart=2.0)
    z = randn(120_000, 6, g=torch.Generator().manual_seed(5))
    index, moved = m._drawn(z)
    axis = m._axis[0]
    assert_near((moved - z) - ((moved - z) @ axis)[:, None] * axis, torch.zeros_like(z), 1e-12)
    for k in range(3):
        part = moved[index == k]
        error = 5 / math.sqrt(len(part))
        for x in (part @ axis, part[:, 0]):
            moments = torch.stack([x.mean(), x.square().mean() - 1, x.pow(3).mean(), x.pow(4).mean() - 3])
            assert (moments.abs() < error * torch.tensor([1.0, 1.5, 4.0, 10.0])).all()
        assert (part.T.cov() - torch.eye(6)).abs().max() < 1.5 * error


def test_light_components_are_as_near_as_they_say() -> None:
    """Directions of nearly equal variance share one; the divergence is that of the formula, and below the bound."""
    g, d = torch.Generator().manual_seed(0), 40
    vectors, values = torch.linalg.qr(randn(d, d, g=g))[0], 9.0 * 0.5 ** torch.arange(d, dtype=torch.float64)
    data = ls.Gaussian(torch.zeros(d), Dense((d,), vectors[:, torch.randperm(d, generator=g)]), values)
    for sigma, fewest, most in ((1.0, 6, 12), (0.1, 12, 19)):
        full = data.noised(sigma)
        light = mixture._lightened(full)
        assert fewest <= light.basis.rank <= most
        assert full.to(dtype=torch.float64).kl(light.to(dtype=torch.float64)) <= mixture.LIGHT * (1 + 1e-3)
    assert mixture._lightened(data) is data
    double = data.to(dtype=torch.float64).noised(1.0)
    assert mixture._lightened(double) is double


def test_noise_that_points_to_a_component_goes_there() -> None:
    parts = [ls.Gaussian(torch.tensor([x, 0.0]).double(), Isotropic((2,)), torch.ones(1)) for x in (5.0, -5.0, 0.0)]
    m = Mixture(parts)
    z = randn(2000, 2, g=torch.Generator().manual_seed(1))
    chosen = m._drawn(z)[0]
    means = torch.tensor([5.0, -5.0, 0.0])[chosen].double()
    order = z[:, 0].argsort()
    assert (means[order].diff() >= 0).all()


def test_a_sample_depends_on_its_own_noise_alone() -> None:
    m, g = case((1, 4, 4), 5, 2)
    m = Mixture(m.components, m.weights, [0, 1, 0, 1, 2])
    z, labels = randn(40, 1, 4, 4, g=g), torch.randint(0, 3, (40,), generator=g)
    for whole, one in (
        (m.noised(0.4).push(z), lambda i: m.noised(0.4).push(z[i])),
        (m.push(z, labels), lambda i: m.push(z[i], labels[i])),
        (m.push(z, 1), lambda i: m.of_class(1).push(z[i])),
    ):
        for rows in (torch.tensor([7]), torch.tensor([39, 0, 7]), torch.arange(11, 30)):
            assert_near(one(rows), whole[rows], 1e-13)


def test_classes() -> None:
    m, g = case((3,), 4, 6, apart=20.0)
    m = Mixture(m.components, m.weights, [4, 0, 4, 9])
    z, labels = randn(800, 3, g=g), torch.tensor([4, 9, 0, 4] * 200)
    nearest = torch.cdist(m.push(z, labels), torch.stack([c.mean for c in m.components])).argmin(1)
    assert (m.labels[nearest] == labels).all()
    share = (nearest[labels == 4] == 0).double().mean().item()
    only = m.of_class(4)
    assert_near(only.weights, m.weights[[0, 2]] / m.weights[[0, 2]].sum(), 1e-15)
    assert abs(share - only.weights[0]) < 5 / math.sqrt(400)
    assert only.labels.tolist() == [4, 4]
    assert torch.equal(m.sample(9, g.manual_seed(0), 9), m.components[3].sample(9, g.manual_seed(0)))
    assert torch.equal(m.noised(1.0).push(z, 0), m.components[1].noised(1.0).push(z))
    with pytest.raises(ValueError, match=r"no component of class 5: the mixture carries the classes \[0, 4, 9\]"):
        m.push(z, 5)
    for ask in (lambda m: m.push(z, 0), lambda m: m.of_class(0)):
        with pytest.raises(ValueError, match="carries no labels"):
            ask(Mixture(m.components))


def test_what_is_kept_from_inference_serves_derivatives() -> None:
    m = Mixture(case((2, 3), 3, 2)[0].components, labels=[0, 0, 1])
    with torch.inference_mode():
        m.noised(0.5).push(torch.zeros(2, 2, 3), 0)
    y = torch.zeros(2, 2, 3, dtype=torch.float64, requires_grad=True)
    for noised in (m.noised(0.5), m.noised(0.5).of_class(0)):
        (slope,) = torch.autograd.grad(noised.log_prob(y).sum(), y)
        assert_near(slope, noised.score(y, 0.0).detach(), 1e-10)


def test_known_classes_are_mixtures_of_their_own() -> None:
    m, g = case((3,), 5, 6, apart=0.5)
    m = Mixture(m.components, m.weights, [4, 0, 4, 0, 0])
    y, labels = randn(6, 3, g=g), torch.tensor([4, 0, 0, 4, 4, 0])
    for name in ("denoise", "score"):
        one_by_one = [getattr(m.of_class(int(c)), name)(y[i : i + 1], 0.6) for i, c in enumerate(labels)]
        assert_near(getattr(m, name)(y, 0.6, labels), torch.cat(one_by_one), 1e-13)
    assert_near(m.log_prob(y, labels=4), twin(m.of_class(4), 0.0).log_prob(y))
    assert (m.responsibilities(y, 0.6, labels)[:, 1] > 0).equal(labels == 0)
    shares = [m.weights[m.labels == c].sum() for c in (4, 0)]
    assert_near(
        (m.log_prob(y, labels=4).exp() * shares[0] + m.log_prob(y, labels=0).exp() * shares[1]).log(),
        m.log_prob(y),
        1e-13,
    )
    with pytest.raises(ValueError, match="no component of class 3"):
        m(y, 0.6, 3)


def test_a_prior_and_an_exact_model_are_one_class() -> None:
    assert ls.GaussianMixture is Mixture


@pytest.mark.parametrize("sigma", [0.7, torch.tensor([0.2, 0.7, 3.0], dtype=torch.float64)])
def test_the_density_at_a_level_is_that_of_the_noised_distribution(sigma: float | Tensor) -> None:
    m, g = case((4,), 3, 2, apart=2.0)
    y = randn(3, 4, g=g)
    for prior in (m, m.components[0]):
        expected = [
            prior.noised(float(s)).log_prob(y[k : k + 1])
            for k, s in enumerate(torch.as_tensor(sigma, dtype=torch.float64).expand(3))
        ]
        assert_near(prior.log_prob(y, sigma), torch.cat(expected), 1e-13)


def test_nats_of_a_mixture() -> None:
    """None from the exact denoiser of the same distribution; and the divergence from another, by log-densities."""
    m, g = case((4,), 3, 2, apart=2.0)
    other = Mixture([gaussian((4,), j, g, 2.0) for j in range(2)])
    x = m.sample(3000, g)
    sigmas = torch.logspace(2.5, -0.3, 40, dtype=torch.float64)
    assert ls.nats(m, m, x[:100], sigmas, exact=True).nats.abs().max() < 1e-12
    curve = ls.nats(m, other, x, sigmas, exact=True)
    y = m.noised(curve.sigma[-1].item()).sample(20_000, g)
    ratio = m.noised(curve.sigma[-1].item()).log_prob(y) - other.noised(curve.sigma[-1].item()).log_prob(y)
    slack = 4 * math.hypot(curve.error[-1].item(), ratio.std().item() / math.sqrt(len(y)))
    assert slack < 0.1 * curve.nats[-1]
    assert abs(curve.nats[-1] - ratio.mean()) < slack


def blobs(n: int, k: int, seed: int = 0, shape: tuple[int, ...] = (2, 5), apart: float = 4.0) -> tuple[Tensor, Tensor]:
    """Images of k clusters of unequal sizes and unequal covariances, and which belongs where."""
    g, d = torch.Generator().manual_seed(seed), prod(shape)
    weights = torch.linspace(1, 2, k, dtype=torch.float64)
    index = torch.multinomial(weights, n, replacement=True, generator=g)
    means = apart * randn(k, d, g=g)
    mixing = 0.5 * randn(k, d, d, g=g) / math.sqrt(d)
    x = means[index] + torch.einsum("nd,nde->ne", randn(n, d, g=g), mixing[index])
    return x.reshape(n, *shape).float(), index


def agreement(m: Mixture, x: Tensor, truth: Tensor, sigma: float) -> float:
    """Share of images in the best-matching component, for components matched one to one by majority."""
    found = m.responsibilities(x, sigma).argmax(1)
    table = torch.zeros(len(m.components), int(truth.max()) + 1)
    table.index_put_((found, truth), torch.ones(len(x)), accumulate=True)
    assert len(set(table.argmax(1).tolist())) == len(m.components)
    return (table.amax(1).sum() / len(x)).item()


def test_known_components_are_recovered() -> None:
    x, truth = blobs(4000, 5)
    m = Mixture.fit(x, components=5, basis="dense", shrinkage=0.0)
    assert agreement(m, x, truth, 0.5) > 0.999
    assert (m.count, m.value_range) == (4000, (x.min().item(), x.max().item()))
    assert_near(m.weights.sort().values, (truth.bincount().double() / 4000).sort().values, 1e-12)
    assert_near(m.mean, x.mean(0), 1e-5)
    order = m.responsibilities(torch.stack([x[truth == k].mean(0) for k in range(5)]), 0.5).argmax(1)
    for k in range(5):
        direct = ls.Gaussian.fit(x[truth == k], "dense")
        assert_near(m.components[order[k]].mean, direct.mean, 1e-5)
        assert_near(m.components[order[k]].covariance(), direct.covariance(), 1e-5)


def test_em_tells_apart_what_k_means_cannot() -> None:
    """Two crossed needles with a common mean: the nearest centre is a coin's throw, the density is not."""
    g = torch.Generator().manual_seed(3)
    x = randn(3000, 2, g=g) * torch.tensor([3.0, 0.1])
    truth = torch.arange(3000) % 2
    x[truth == 1] = x[truth == 1].flip(1)
    m = Mixture.fit(x, components=2, basis="dense", sigma=0.1, shrinkage=0.0)
    far = x.norm(dim=1) > 1.0
    assert agreement(m, x[far], truth[far], 0.1) > 0.99


def crowded(n: int = 900) -> Tensor:
    return blobs(n, 6, 1, (7,), apart=0.7)[0].double()


def test_the_directions_are_those_of_largest_variance() -> None:
    """Against the eigenvectors of the covariance: 64 of 90, by the variance along them and by their span."""
    g = torch.Generator().manual_seed(0)
    values = 0.9 ** torch.arange(90, dtype=torch.float64)
    turn = torch.linalg.qr(randn(90, 90, g=g))[0]
    x = (randn(2000, 90, g=g) * values.sqrt() @ turn.T + 3.0).reshape(2000, 9, 10)
    directions = clusters.principal(x, 0)
    exact, vectors = torch.linalg.eigh(x.flatten(1).T.cov())
    z = directions(x)
    assert_near(directions.vectors.T @ directions.vectors, torch.eye(64).double(), 1e-10)
    assert_near(torch.tensor(directions.width, dtype=torch.float64), exact[-1], 1e-8)
    assert_near(z.var(0)[:40], exact.flip(0)[:40], 1e-4)
    assert z.var(0).sum() > 0.9999 * exact[-64:].sum()
    assert (vectors[:, -20:].T @ directions.vectors).square().sum(1).min() > 1 - 1e-6


@pytest.mark.parametrize("sigma", [0.05, 0.3, 1.0])
def test_em_raises_its_bound_in_every_iteration(sigma: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "GAIN", -1.0)
    z = crowded()
    fitted, bound = clusters.em(z, torch.arange(900) % 4, 4, sigma)
    assert len(bound) == clusters.ROUNDS + 1
    assert min(np.diff(bound)) > -1e-12
    assert bound[-1] > bound[0] + 1e-3
    noised = torch.stack([z + sigma * randn(*z.shape, g=torch.Generator().manual_seed(i)) for i in range(20)])
    assert_near(fitted.joint(z).logsumexp(1).mean(), torch.tensor(bound[-1], dtype=torch.float64), 1e-12)
    assert density(z, fitted.joint(z).softmax(1), sigma, noised) > bound[-1] - 1e-3


def density(z: Tensor, shares: Tensor, sigma: float, y: Tensor) -> float:
    """Mean log-density of noised data under the mixture that the shares make."""
    weights = shares.mean(0)
    means = shares.T @ z / (len(z) * weights)[:, None]
    d = z[:, None] - means
    scatter = torch.einsum("nk,nki,nkj->kij", shares, d, d) / (len(z) * weights)[:, None, None]
    s = scatter + sigma**2 * torch.eye(z.shape[1], dtype=torch.float64)
    return MixtureSameFamily(Categorical(weights), MultivariateNormal(means, s)).log_prob(y).mean().item()


def test_the_bound_of_em_is_that_of_its_formula() -> None:
    """`E_eps log (w N(x + sigma eps; m, S))`, by Gauss-Hermite quadrature in one dimension."""
    z = torch.tensor([[-1.0], [0.5], [2.0], [2.5]], dtype=torch.float64)
    shares = torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9]], dtype=torch.float64)
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(20))
    joint = clusters.Clusters(z, shares, 0.6).joint(z)
    for k in range(2):
        share = shares[:, k : k + 1]
        m = (share * z).sum() / share.sum()
        s = (share * (z - m) ** 2).sum() / share.sum() + 0.36
        log_normal = torch.distributions.Normal(m, s.sqrt()).log_prob(z + 0.6 * nodes)
        assert_near(joint[:, k], share.mean().log() + log_normal @ weights / weights.sum(), 1e-12)


@pytest.mark.parametrize("basis", BASES)
def test_every_basis_and_any_split_into_batches(basis: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bits from one array, from uneven batches and from numpy; by labels too."""
    monkeypatch.setattr(clusters, "CHUNK", 64)
    monkeypatch.setattr(clusters, "SAMPLE", 100)
    x, truth = blobs(500, 3, 5, (2, 4, 4))
    rank = 4 if basis == "lowrank" else None
    splits = [x, list(x.tensor_split([1, 64, 70, 300])), [b.numpy() for b in x.split(128)]]
    for labels in (None, truth):
        fits = [Mixture.fit(s, 3 if labels is None else 1, labels, basis, rank) for s in splits]
        assert {c.basis.name for c in fits[0].components} == {basis}
        z = torch.randn(20, 2, 4, 4, generator=torch.Generator().manual_seed(0))
        for other in fits[1:]:
            assert torch.equal(fits[0].weights, other.weights)
            assert torch.equal(fits[0].noised(0.5).push(z), other.noised(0.5).push(z))
        assert fits[0].noised(0.5).log_prob(x[:9]).isfinite().all()


@pytest.mark.parametrize("basis", BASES)
def test_shrinkage_is_the_mean_of_a_component_and_the_pool(basis: str) -> None:
    """In double precision against the formula on covariances; also for components with one image."""
    x, _ = blobs(300, 3, 2, (1, 4, 4))
    labels = torch.tensor([0] * 150 + [1] * 149 + [2])
    plain = [ls.Gaussian.fit(x[labels == k], basis, dtype=torch.float64) for k in (0, 1)]
    nu = 12.0
    m = Mixture.fit(x, labels=labels, basis=basis, shrinkage=nu, dtype=torch.float64)
    covariances = [*(c.covariance() for c in plain), torch.zeros(16, 16, dtype=torch.float64)]
    freedom = [149, 148, 0]
    pooled = sum(f * c for f, c in zip(freedom, covariances)) / sum(freedom)
    for k in range(3):
        expected = (freedom[k] * covariances[k] + nu * pooled) / (freedom[k] + nu)
        assert_near(m.components[k].covariance(), expected, 1e-8)
    assert [c.count for c in m.components] == [150, 149, 1]


def test_shrinkage_helps_small_components() -> None:
    """Held-out density of noised data; and the more images, the less it matters."""
    x, truth = blobs(6000, 4, 8, (24,), apart=2.0)
    y = x[3000:] + 0.3 * torch.randn(3000, 24, generator=torch.Generator().manual_seed(1))
    gains = []
    for n in (100, 3000):
        fits = [Mixture.fit(x[:n], labels=truth[:n], basis="dense", shrinkage=s) for s in (0.0, 30.0)]
        plain, shrunken = (f.noised(0.3).log_prob(y).mean().item() for f in fits)
        gains.append(shrunken - plain)
    assert gains[0] > 0.3
    assert abs(gains[1]) < 0.1


def test_labels_and_several_components_for_each() -> None:
    x, truth = blobs(3000, 6, 4)
    m = Mixture.fit(x, components=3, labels=truth % 2 + 5, basis="dense")
    assert m.labels.tolist() == [5, 5, 5, 6, 6, 6]
    assert agreement(m, x, truth, 0.5) > 0.999
    for label in (5, 6):
        assert m.of_class(label).count == int((truth % 2 + 5 == label).sum())


def once(x: Tensor, size: int) -> ImageSet:
    """The images in batches, from an iterator."""
    return ls.as_images(iter(x.split(size)), shape=x.shape[1:])


def test_one_pass_is_enough_for_labels() -> None:
    x, truth = blobs(400, 3)
    m = Mixture.fit(once(x, 50), labels=truth, basis="diagonal")
    assert_near(m.components[1].mean, x[truth == 1].mean(0), 1e-5)
    assert Mixture.fit(once(x, 50), components=1, basis="diagonal").count == 400
    with pytest.raises(ValueError, match="can be read once"):
        Mixture.fit(once(x, 50), components=2)


@pytest.mark.parametrize("basis", ["auto", "diagonal", "lowrank"])
@pytest.mark.parametrize("n", [2, 300])
def test_one_component_is_the_same_of_one_process_and_of_several(basis: str, n: int) -> None:
    """In one pass: batches that can be read once will do."""
    x = blobs(n, 3)[0].double()
    alone = ls.Gaussian.fit(x, basis, dtype=torch.float64)

    def work(processes):
        return Mixture.fit(once(x, 77), 1, basis=basis, dtype=torch.float64, processes=processes)

    for found in together(3, work):
        assert_near(found.mean, alone.mean, 1e-12)
        assert_near(found.components[0].covariance(), alone.covariance(), 1e-10)
        assert (found.components[0].basis.name, found.count) == (alone.basis.name, n)


@pytest.mark.parametrize("options", [{}, {"labels": [0, 1, 2] * 3}, {"labels": [4] * 9}], ids=str)
def test_images_that_are_all_the_same_are_refused_by_every_process(options: dict) -> None:
    same = torch.full((9, 1, 4, 4), 0.1)
    options = {"components": 1, "basis": "diagonal", **options}
    with pytest.raises(ValueError, match="all 9 images are the same: they have no variance"):
        Mixture.fit(same, **options)
    for failure in together(2, lambda processes: Mixture.fit(same, **options, processes=processes)):
        assert "all 9 images are the same: they have no variance" in str(failure)


def test_a_set_of_images_is_read_as_it_is() -> None:
    """Bytes become numbers a batch at a time, and the mixture is that of all of them at once."""
    bright = torch.arange(2500) % 2 * 100
    noise = torch.randint(0, 90, (2500, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    images = Images((noise + bright.view(-1, 1, 1, 1)).to(torch.uint8))
    one, other = (Mixture.fit(batches, 2, basis="diagonal") for batches in (images, images.floats()))
    assert torch.equal(one.mean, other.mean) and torch.equal(one.weights, other.weights)


def test_a_low_rank_fit_draws_its_directions_by_the_seed() -> None:
    """Their span differs, where the rank cuts off; each is that of moments with the same seed."""
    x = torch.randn(200, 40, generator=torch.Generator().manual_seed(0))
    for options in ({"components": 1}, {"labels": [3] * 200}):
        for seed in (0, 5):
            moments = ls.Moments((40,), "lowrank", 3, seed=seed)
            moments.update(x)
            found = Mixture.fit(x, basis="lowrank", rank=3, seed=seed, **options).components[0]
            assert torch.equal(found.basis.vectors, moments.gaussian().basis.vectors)
    two = [Mixture.fit(x, labels=[0, 1] * 100, basis="lowrank", rank=3, seed=seed).components[0] for seed in (0, 5)]
    assert (two[0].covariance() - two[1].covariance()).abs().max() > 0.01


def test_images_that_change_between_readings_are_noticed() -> None:
    x, _ = blobs(300, 3)

    class Shuffled:
        def __iter__(self):
            return iter([x[torch.randperm(300)]])

    with pytest.raises(ValueError, match="image 0 is another one than when the images were read before"):
        Mixture.fit(ls.as_images(Shuffled(), shape=x.shape[1:]), components=3, basis="diagonal")


def test_a_fit_is_fixed_by_its_seed() -> None:
    x = torch.randn(300, 9, generator=torch.Generator().manual_seed(0))
    a, b, c = (Mixture.fit(x, 4, basis="diagonal", seed=s) for s in (1, 1, 2))
    assert torch.equal(a.mean, b.mean) and torch.equal(a.components[0].mean, b.components[0].mean)
    assert not torch.equal(a.components[0].mean, c.components[0].mean)
    state = torch.get_rng_state()
    Mixture.fit(x, 2, basis="diagonal")
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(("n", "name", "level"), [(40, "dense", "INFO"), (13, "cosine+dense", "WARNING")])
def test_auto_chooses_one_basis_for_all_components(
    n: int, name: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    x, _ = blobs(n, 2)
    with caplog.at_level(logging.INFO, "latestart"):
        m = Mixture.fit(x, labels=torch.arange(n) % 4)
    assert {c.basis.name for c in m.components} == {name}
    assert [(r.levelname, repr(name) in r.message) for r in caplog.records] == [(level, True)]


@pytest.mark.parametrize(("n", "name"), [(40, "dense"), (11, "cosine+dense")])
def test_a_rank_is_for_what_auto_may_choose(n: int, name: str, caplog: pytest.LogCaptureFixture) -> None:
    x, labels = blobs(n, 2)[0], torch.arange(n) % 2
    m = Mixture.fit(x, labels=labels, rank=4)
    direct = Mixture.fit(x, labels=labels, basis=name, rank=None if name == "dense" else 4)
    assert_near(m.components[1].covariance(), direct.components[1].covariance(), 1e-12)
    said = [r.levelname for r in caplog.records if "rank=4 is not used" in r.message]
    assert said == (["WARNING"] if name == "dense" else [])


def test_float32_images_keep_their_dtype_and_six_digits() -> None:
    m, g = case((2, 3), 4, 9)
    y, single = randn(5, 2, 3, g=g), m.to(dtype=torch.float32)
    for call in (lambda p, y: p(y, 0.4), lambda p, y: p.push(y), lambda p, y: p.score(y, 0.4)):
        assert call(single, y.float()).dtype == torch.float32
        assert_near(call(single, y.float()).double(), call(m, y), 1e-5)
    assert single.log_prob(y.float()).dtype == torch.float64
    assert m.to(dtype=torch.float64) is m


def test_samples_follow_their_generator() -> None:
    m, _ = case((2, 3), 3, 1)
    first, again = (m.sample(20, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("labels", [None, [0, 2, 2, 1]])
def test_saving_and_loading_bit_for_bit(labels: list[int] | None, tmp_path) -> None:
    m, g = case((2, 3), 4, 5)
    shared = ls.Gaussian(m.components[0].mean + 1, m.components[0].basis, m.components[0].variances, 5, (-1.0, 2.0))
    m = Mixture([*m.components[:3], shared], m.weights, labels)
    m.save(tmp_path / "mixture.safetensors")
    loaded = load_mixture(tmp_path / "mixture.safetensors")
    y = randn(5, 2, 3, g=g)
    assert torch.equal(loaded.weights, m.weights)
    assert (None if loaded.labels is None else loaded.labels.tolist()) == labels
    assert loaded.components[3].count == 5
    assert loaded.components[3].value_range == (-1.0, 2.0)
    for call in (lambda p: p.push(y), lambda p: p(y, 0.3), lambda p: p.log_prob(y)):
        assert torch.equal(call(loaded), call(m))


def test_half_precision_takes_half_the_bytes(tmp_path) -> None:
    g = torch.Generator().manual_seed(0)
    m = Mixture([gaussian((8, 8), 0, g) for _ in range(3)]).to(dtype=torch.float32)
    sizes = []
    for name, dtype in (("whole", None), ("half", torch.float16)):
        m.save(tmp_path / name, dtype)
        sizes.append((tmp_path / name).stat().st_size)
    assert sizes[1] < 0.6 * sizes[0]
    loaded, z = load_mixture(tmp_path / "half"), randn(5, 8, 8, g=g).float()
    assert loaded.dtype == torch.float32
    assert_near(loaded.push(z), m.push(z), 0.02)
    assert torch.equal(loaded.components[1].variances, m.components[1].variances)
    wide = Mixture([ls.Gaussian(torch.full((3,), 1e6), Diagonal((3,)), torch.ones(3))])
    with pytest.raises(ValueError, match="float16"):
        wide.save(tmp_path / "wide", torch.float16)
    assert not (tmp_path / "wide").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": torch.tensor([0.5, math.nan])}, "weights .* not finite"),
        ({"weights": torch.tensor([0.5])}, "positive weights"),
        ({"weights": None}, "expected also"),
        ({"0.mean": None}, "0.mean"),
        ({"1.mean": torch.zeros(3)}, "one shape"),
        ({"labels": [1]}, "label for each of 2 components"),
        ({"dtype": "nothing"}, "nothing"),
        ({"components": None}, "sound mixture"),
    ],
)
def test_unsound_files_are_refused(change: dict, message: str, tmp_path) -> None:
    parts = [
        {
            "basis": "isotropic",
            "count": 3,
            "value_range": None,
            "tensors": {n: f"{k}.{n}" for n in ("mean", "variances")},
        }
        for k in range(2)
    ]
    metadata = {"components": parts, "labels": None, "dtype": "float32"}
    tensors = {"weights": torch.ones(2)}
    for k in range(2):
        tensors |= {f"{k}.mean": torch.zeros(2), f"{k}.variances": torch.ones(1)}
    (metadata if set(change) <= set(metadata) else tensors).update(change)
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_tensors(tmp_path / "mixture", "mixture", tensors, metadata)
    with pytest.raises(ValueError, match=message):
        load_mixture(tmp_path / "mixture")


def test_zero_variances_and_constant_images() -> None:
    """Allowed where there is noise; without it there is no density, and the message says so."""
    x = torch.cat([torch.full((5, 3), -1.0), torch.full((7, 3), 1.0)])
    m = Mixture.fit(x, labels=[0] * 5 + [1] * 7, basis="dense")
    y = torch.tensor([[0.9, 1.2, 1.1]])
    with pytest.raises(ValueError, match="3 of 3 variances are zero"):
        m.log_prob(y)
    with pytest.raises(ValueError, match="3 of 3 variances are zero"):
        m(y, 0.0)
    shift = (y.double().sum() / 0.25 + 0.5 * math.log(7 / 5)).item()
    assert_near(m(y, 0.5), torch.full((1, 3), math.tanh(shift)), 1e-6)
    with pytest.raises(ValueError, match="all 9 images are the same"):
        Mixture.fit(torch.full((9, 3), 0.1), components=2)


X = blobs(30, 3)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": 31}, "31 components were asked for, more than the 30 images"),
        ({"components": 0}, "components=0: expected a whole number"),
        ({"components": 2.5}, r"components=2.5: expected a whole number"),
        ({"components": 4, "labels": [0] * 27 + [7] * 3}, "4 components .* more than the 3 images of class 7"),
        ({"labels": [0] * 29}, "30 images and 29 labels"),
        ({"labels": [0] * 31}, "30 images and 31 labels"),
        ({"labels": [0] * 29, "components": 2}, "30 images and 29 labels"),
        ({"labels": [0.5] * 30}, r"class indices \(N,\), received torch.float32 \(30,\)"),
        ({"labels": [[0]] * 30}, r"received torch.int64 \(30, 1\)"),
        ({"labels": [-1] * 30}, "from 0, received -1"),
        ({"labels": list(range(30))}, "each of the 30 components has a single image"),
        ({"labels": [0] * 29 + [1], "shrinkage": 0.0}, "component 1 of 2 has 1 image"),
        ({"shrinkage": -1.0, "components": 2}, "shrinkage of at least 0 images, received -1.0"),
        ({"components": 3, "sigma": 0.0}, "sigma above 0, received 0.0"),
        ({"components": 3, "sigma": 1e4}, r"component \d of 3 has no images"),
        ({"components": 3, "basis": "wavelet"}, "unknown basis 'wavelet'"),
        ({"components": 3, "basis": "dense", "rank": 3}, "'dense' has no rank, received rank=3"),
    ],
)
def test_bad_arguments_of_fit(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mixture.fit(X, **arguments)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "at least one batch .* received none"),
        ([X[:, None], X[:, None, :, :4]], r"item 1 has \(1, 2, 4\), those before it \(1, 2, 5\)"),
        ([X[:, None], X[:, None].int()], "received torch.int32"),
        ([torch.full_like(X, math.nan)[:, None]], "NaN or infinite"),
    ],
)
def test_bad_images(batches: list, message: str) -> None:
    for options in ({"components": 3}, {"labels": torch.arange(sum(map(len, batches))) % 2}):
        with pytest.raises(ValueError, match=message):
            Mixture.fit(batches, basis="diagonal", **options)


def test_bad_arguments() -> None:
    m, _ = case((2, 3), 3, 0)
    y = torch.zeros(2, 2, 3)
    with pytest.raises(ValueError, match=r"\(B, 2, 3\), received torch.float32 \(2, 3, 2\)"):
        m(y.mT, 1.0)
    with pytest.raises(ValueError, match=r"received torch.int64"):
        m.log_prob(y.long())
    for sigma in (-1.0, math.nan):
        with pytest.raises(ValueError, match="finite and not negative"):
            m(y, sigma)
    with pytest.raises(ValueError, match=r"a number or \(2,\), received the shape \(3,\)"):
        m(y, torch.ones(3))
    with pytest.raises(ValueError, match="at least one component"):
        Mixture([])
    for z in (y.mT, y.long()):
        with pytest.raises(ValueError, match=r"expected floating-point images \(B, 2, 3\)"):
            m.push(z)
    for labels in ([0, 1, 2], torch.zeros(2)):
        with pytest.raises(ValueError, match="one for each of 2 samples"):
            Mixture(m.components, labels=[0, 1, 2]).push(y, torch.as_tensor(labels))
    assert m.push(y[:0]).shape == m(y[:0], 1.0).shape == (0, 2, 3)
    with pytest.raises(ValueError, match="one shape, dtype and device"):
        Mixture([m.components[0], case((6,), 1, 0)[0].components[0]])
    with pytest.raises(ValueError, match="expected 3 positive weights"):
        Mixture(m.components, [0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match="label for each of 3 components"):
        Mixture(m.components, labels=[0, 1])


def test_the_default_level_is_lowered_until_every_component_has_images():
    """Four clusters beside a direction of 100 times their variance: a quarter of its deviation would merge them."""
    g = torch.Generator().manual_seed(7)
    truth = torch.arange(400) % 4
    corners = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    x = torch.cat([0.05 * torch.randn(400, 2, generator=g) + corners[truth], 20 * torch.randn(400, 1, generator=g)], 1)
    found = Mixture.fit(x, components=8, basis="diagonal")
    assert len(found.components) == 8 and found.weights.min() > 0
    with pytest.raises(ValueError, match="has no images"):
        Mixture.fit(x, components=8, basis="diagonal", sigma=20.0)


@pytest.mark.parametrize("seed", range(4))
def test_a_level_that_is_lost_beside_the_images_is_named(seed: int) -> None:
    x = torch.randn(49, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 1e15
    with pytest.raises(ValueError, match=r"sigma = 0\.5 .* is lost beside images with a variance of"):
        Mixture.fit(x, 2, sigma=0.5, basis="lowrank", seed=2)
    assert Mixture.fit(x, 2, sigma=1e14, basis="lowrank", seed=2).sample(2).isfinite().all()
