"""The steps with a prior inside, against quadrature, published solvers, exact data and orders of convergence."""

import functools
import itertools
import math

import mpmath
import pytest
import torch

import latestart as ls
from latestart.dynamics import ode, sde
from latestart.gaussians.basis import Diagonal
from latestart.gaussians.structures import BASES
from latestart.sampling.prior_steps import ByClass, Inner, Linear, steps_of, weights

torch.set_num_threads(1)
F64 = torch.float64


def by_quadrature(l, s, t, eta):
    """The integrals of the module docstring, to 20 digits."""
    mp = mpmath.mp.clone()
    mp.dps = 25
    l, s, t, eta = (mp.mpf(value) for value in (l, s, t, eta))
    rho = (l + t**2) / (l + s**2)
    fresh = eta**2 * (1 - rho)
    p = (1 + mp.log(1 - fresh) / mp.log(rho)) / 2
    low, high = mp.log(t), mp.log(s)
    middle = [mp.log(l) / 2] if l > 0 and low < mp.log(l) / 2 < high else []

    def integral(power):
        inside = lambda u: 2 * p * ((l + t**2) / (l + mp.exp(2 * u))) ** p * (u - high) ** power  # noqa: E731
        return mp.quad(inside, [low, *middle, high])

    return rho**p, integral(0), integral(1), mp.sqrt((l + t**2) * fresh)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("s", "t"), [(157.4, 8.6), (8.6, 2.1), (80.0, 0.002), (0.31, 0.3)])
def test_the_weights_are_the_integrals(s, t, eta):
    variances = [0.0, 1e-9, 1e-3, 0.5, 20.2, 4e5]
    found = weights(torch.tensor(variances, dtype=F64), s, t, eta)
    for k, l in enumerate(variances):
        expected = by_quadrature(l, s, t, eta)
        for one, other in zip((found.kept, found.first, found.second, found.noise), expected):
            assert float(one[k]) == pytest.approx(float(other), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize(("s", "t"), [(157.4, 8.6), (8.6, 0.1), (1e9, 3.0)])
def test_without_noise_the_first_weight_has_its_closed_form(s, t):
    l = torch.tensor([1e-4, 0.5, 20.2], dtype=F64)
    q = l.sqrt()
    closed = torch.sqrt(1 + t**2 / l) * (torch.asinh(q / t) - torch.asinh(q / s))
    torch.testing.assert_close(weights(l, s, t).first, closed, rtol=1e-7, atol=0)
    torch.testing.assert_close(weights(l, s, t).kept, torch.sqrt((l + t**2) / (l + s**2)), rtol=1e-12, atol=0)


def test_variances_of_zero_have_the_weights_of_ddim_and_great_ones_do_not_move():
    for eta in (0.0, 0.3, 1.0):
        found = weights(torch.zeros(1, dtype=F64), 5.0, 2.0, eta)
        kept = 0.4 * math.sqrt(1 - eta**2 * (1 - 0.16))
        assert float(found.kept) == pytest.approx(kept, rel=1e-12)
        assert float(found.first) == pytest.approx(1 - kept, rel=1e-12)
        assert float(found.noise) == pytest.approx(eta * 2 * math.sqrt(1 - 0.16), rel=1e-12)
    great = weights(torch.full((1,), 1e12, dtype=F64), 5.0, 2.0)
    assert float(great.kept) == pytest.approx(1, abs=1e-10)
    assert float(great.first) == pytest.approx(math.log(2.5), rel=1e-9)


def gaussian(name, shape=(2, 4, 4), seed=0):
    """A Gaussian of random smooth images, in a basis, in double precision."""
    rows = torch.randn(400, *shape, generator=torch.Generator().manual_seed(seed), dtype=F64)
    rows = rows + 2 * rows.mean((2, 3), keepdim=True) + torch.linspace(-1, 1, shape[-1], dtype=F64)
    return ls.Gaussian.fit(rows, name, rank=5 if name in ("lowrank", "cosine+dense") else None, dtype=F64)


def path(steps, denoise, y, levels, white=None):
    """The states at every level but the first, with the last denoised."""
    before, states = None, []
    for s, t in itertools.pairwise(levels):
        y, before = steps.step(y, denoise(y, s), s, t, before, white)
        states.append(y)
    return states


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", BASES)
def test_its_own_data_is_exact_at_every_level(name, order):
    prior = gaussian(name)
    for levels in ([30.0, 0.5], [4.0, 1.0, 0.2, 0.01], [1e9, 3.0, 2.5, 0.4]):
        y = prior.noised(levels[0]).sample(5, torch.Generator().manual_seed(1))
        for state, t in zip(path(Linear(prior, order), prior, y, levels), levels[1:]):
            exact = prior.flow(y, levels[0], t)
            torch.testing.assert_close(state, exact, rtol=0, atol=1e-6 * max(1.0, float(exact.abs().max())))


@pytest.mark.parametrize("name", BASES)
def test_a_step_is_that_of_the_dense_twin(name):
    """Two steps with a denoiser that is no Gaussian, in a basis and with its covariance in a dense one."""
    prior = gaussian(name)
    values, vectors = torch.linalg.eigh(prior.covariance())
    dense = ls.Gaussian(prior.mean, BASES["dense"](prior.shape, vectors), values.clamp(min=0))
    y = 9 * torch.randn(3, *prior.shape, generator=torch.Generator().manual_seed(2), dtype=F64)

    def denoise(y, sigma):
        return torch.tanh(y / (1 + sigma))

    def drawn():
        generator = torch.Generator().manual_seed(3)
        return lambda: torch.randn(y.shape, generator=generator, dtype=F64)

    for eta in (0.0, 0.6):
        one, other = (path(Linear(p, 2, eta), denoise, y, [9.0, 2.0, 0.3], drawn())[-1] for p in (prior, dense))
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


class Bent:
    """An exact mixture of Gaussians on a line and in a plane: its flow is anything but linear."""

    def __init__(self):
        means = torch.tensor([[-2.0, 0.3], [1.0, -1.0], [2.5, 2.0]], dtype=F64)
        parts = [
            ls.Gaussian(m, Diagonal((2,)), torch.tensor([0.3, 0.1], dtype=F64) * k) for k, m in enumerate(means, 1)
        ]
        self.mixture = ls.Mixture(parts, [0.5, 0.2, 0.3])
        self.start = torch.tensor([[3.0, 1.0], [-4.0, 0.5], [0.3, -6.0]], dtype=F64)


def errors(steps, truth, counts):
    """The errors at sigma = 0.3 from 8, by the number of steps, of levels even in log sigma."""
    found = []
    end = exact_end()
    for n in counts:
        levels = [8.0 * (0.3 / 8.0) ** (k / n) for k in range(n + 1)]
        found.append(float((path(steps, truth.mixture, truth.start, levels)[-1] - end).norm()))
    return found


@functools.cache
def exact_end():
    """The end of the flow, by Heun's method in 1,500 steps."""
    truth, levels = Bent(), [8.0 * (0.3 / 8.0) ** (k / 1500) for k in range(1501)]
    *_, end = ode(truth.mixture, truth.start, levels)
    return end


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("inside", ["gaussian", "other mixture"])
def test_orders_of_convergence_on_a_mixture(inside, order):
    truth = Bent()
    if inside == "gaussian":
        steps = Linear(truth.mixture.gaussian(), order)
    else:  # one that is not the data's, so that a rest is left
        moved = [ls.Gaussian(c.mean + 0.4, c.basis, 2 * c.variances) for c in truth.mixture.components]
        steps = Inner(ls.Mixture(moved), order, substeps=4)
    coarse, fine = errors(steps, truth, (32, 128))
    assert math.log(coarse / fine) / math.log(4) == pytest.approx(order, abs=0.2)


def test_the_own_mixture_inside_leaves_the_flow_alone():
    truth = Bent()
    (error,) = errors(Inner(truth.mixture, substeps=300), truth, (2,))
    assert error < 1e-4


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_noise_keeps_the_distribution_of_its_own_data(eta):
    """The covariance of two stochastic steps, by the images of unit vectors: exact whatever the steps are."""
    prior = gaussian("dense", (2, 2, 2))
    levels, dim = [4.0, 1.0, 0.2], 8
    units = torch.eye(dim, dtype=F64).reshape(dim, 2, 2, 2)
    zero = torch.zeros_like(units)
    total = torch.zeros(dim, dim, dtype=F64)
    for place in range(3):  # the start's noise, then that of each step
        draws = iter([units if k == place else zero for k in (1, 2)])
        y = prior.noised(levels[0]).push(units if place == 0 else zero)
        rows = (
            path(Linear(prior, 2, eta), prior, y, levels, lambda draws=draws: next(draws))[-1] - prior.mean
        ).flatten(1)
        total += rows.T @ rows
    torch.testing.assert_close(total, prior.noised(levels[-1]).covariance(), rtol=1e-8, atol=1e-8)


def test_without_variances_noise_is_that_of_the_library_s_sde():
    point = ls.Gaussian(torch.full((1, 2, 2), 0.3, dtype=F64), Diagonal((1, 2, 2)), torch.zeros(4, dtype=F64))
    y = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=F64) * 5

    def denoise(y, sigma):
        return torch.tanh(y / (1 + sigma))

    def drawn():
        generator = torch.Generator().manual_seed(3)
        return lambda: torch.randn(y.shape, generator=generator, dtype=F64)

    for eta in (0.2, 1.0):
        mine = path(Linear(point, 1, eta), denoise, y, [5.0, 2.0, 0.7], drawn())
        for one, other in zip(mine, sde(denoise, y, [5.0, 2.0, 0.7], drawn(), eta)):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_classes_have_their_own_gaussians():
    truth = Bent()
    labelled = ls.Mixture(truth.mixture.components, truth.mixture.weights, [0, 1, 1])
    labels = torch.tensor([1, 0, 1])
    steps = steps_of(labelled, labels)
    assert isinstance(steps, ByClass)
    y, clean = truth.start, truth.mixture(truth.start, 5.0)
    first, before = steps.step(y, clean, 5.0, 2.0, None, None)
    second, _ = steps.step(first, truth.mixture(first, 2.0), 2.0, 1.0, before, None)
    for k, label in enumerate(labels.tolist()):
        alone = steps_of(labelled, label)
        one, seen = alone.step(y[k : k + 1], clean[k : k + 1], 5.0, 2.0, None, None)
        two, _ = alone.step(one, truth.mixture(first, 2.0)[k : k + 1], 2.0, 1.0, seen, None)
        torch.testing.assert_close((first[k : k + 1], second[k : k + 1]), (one, two), rtol=1e-10, atol=1e-10)
    with pytest.raises(ValueError, match="expected the 3 samples whose classes are known, received 2"):
        steps.step(y[:2], clean[:2], 5.0, 2.0, None, None)
    with pytest.raises(ValueError, match="no component of class 7"):
        steps_of(labelled, 7)
