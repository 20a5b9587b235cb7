"""Probing: noise that is white and evenly spread, and a search that finds known minima at the cost it was given."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from latestart import as_model
from latestart.evaluation.kernel import EnergyTo
from latestart.gaussians.basis import Dense, Diagonal
from latestart.gaussians.gaussian import Gaussian
from latestart.sampling.loop import draw
from latestart.sampling.probing import BlockNoise, Probes, leading, moment_weights, vertex, zoom

SHAPE = (2, 3)


def gaussian(dim: int = 6) -> Gaussian:
    """Eigenvalues from 1 to 0.01, in a random basis, as `SHAPE`."""
    square = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vectors, _ = torch.linalg.qr(square)
    variances = torch.logspace(0, -2, dim, dtype=torch.float64)
    return Gaussian(torch.full(SHAPE, 0.3, dtype=torch.float64), Dense(SHAPE, vectors), variances, count=10_000)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return gaussian().sample(800, torch.Generator().manual_seed(1))


def test_the_noise_is_white(images):
    """Over many blocks: means, variances and fourth moments of normal numbers, and nothing between start and steps."""
    noise = BlockNoise(images, 16, 2, seed=0)
    z = torch.stack([noise(b) for b in range(400)]).movedim(1, 2).flatten(2).flatten(0, 1).double()  # (n, 2 x D)
    n = len(z)
    assert z.shape[1] == 12 and z.mean(0).abs().max() < 4 / math.sqrt(n)
    assert (z.T @ z / n - torch.eye(12, dtype=torch.float64)).abs().max() < 5 / math.sqrt(n)
    assert ((z**4).mean(0) - 3).abs().max() < 5 * math.sqrt(96 / n)


def test_a_block_is_spread_evenly(images):
    """Each stretch of one 16th of the probability holds one of 16 samples, along each leading direction, each time."""
    noise = BlockNoise(images, 16, 3, seed=5)(0).flatten(2).double()
    ranks = (torch.special.ndtr(noise @ leading(images).T) * 16).long()
    assert torch.equal(ranks.sort(1).values, torch.arange(16).view(1, 16, 1).expand(3, 16, 6))


def test_blocks_spread_by_a_net_have_a_smaller_error_and_no_bias(images):
    """A distance to other data, from 4 blocks: the mean is that of independent noise, the spread under half of it."""
    target = EnergyTo(images.flatten(1) * 1.2)

    def values(net: bool) -> torch.Tensor:
        found = []
        for seed in range(60):
            noise, generator = BlockNoise(images, 32, 1, seed), torch.Generator().manual_seed(seed)
            z = [noise(b)[0] if net else torch.randn(32, *SHAPE, generator=generator) for b in range(4)]
            found.append(target.by_blocks(gaussian().push(torch.cat(z).double()).flatten(1), 32)[0])
        return torch.tensor(found)

    net, independent = values(True), values(False)
    assert net.std() < 0.5 * independent.std()
    assert abs(net.mean() - independent.mean()) < 3 * independent.std() / math.sqrt(60)


def test_steps_take_the_noise_that_they_are_given():
    """With a Gaussian's denoiser DDPM is affine in its noise: runs on n and on -n have the run on 0 as their mean."""
    scheduler = DDPMScheduler(clip_sample=False, timestep_spacing="trailing")
    prior, n = gaussian(), torch.randn(4, 5, *SHAPE, generator=torch.Generator().manual_seed(2))

    def run(steps: torch.Tensor | None) -> torch.Tensor:
        return draw(as_model(prior, scheduler), scheduler, prior, 5, 3, 600, noise=n[0], step_noise=steps).samples

    torch.testing.assert_close((run(n[1:]) + run(-n[1:])) / 2, run(0 * n[1:]))
    assert (run(n[1:]) - run(0 * n[1:])).abs().min() > 1e-4
    torch.testing.assert_close(run(n[:0]), run(None))  # nothing given: the generators serve


def test_weighted_images_have_the_moments_of_the_prior(images):
    weights, prior = moment_weights(images, gaussian()), gaussian()
    assert weights is not None
    rows = images.flatten(1) - prior.mean.flatten()
    assert float(weights.sum()) == pytest.approx(1, rel=1e-12)
    assert (weights @ rows).abs().max() < 1e-12
    torch.testing.assert_close((rows.T * weights) @ rows, prior.covariance().reshape(6, 6))


def test_images_are_not_weighted_to_what_a_prior_does_not_know(images):
    few = Gaussian(gaussian().mean, gaussian().basis, gaussian().variances, count=500)
    structured = Gaussian(gaussian().mean, Diagonal(SHAPE), torch.ones(6, dtype=torch.float64), count=10_000)
    assert moment_weights(images, few) is None and moment_weights(images, structured) is None
    assert moment_weights(images[:200], gaussian()) is None  # 27 moments of 200 images


def test_the_vertex_is_that_of_the_parabola():
    places = np.array([-4.0, -2.1, 0.3, 2.0, 4.2])
    assert vertex(places, 3 + 0.2 * (places - 1.7) ** 2) == pytest.approx(1.7)
    assert vertex(places, (places - 9) ** 2) == 4.2  # no further than was measured
    assert vertex(places, -((places - 1) ** 2)) == -4.0
    assert vertex(places[:2], np.array([1.0, 0.5])) == -2.1


class Curve:
    """Distances of the form 1 + (rung - best)^2 / 10, with noise of its own in each block; t is the rung plus 100."""

    def __init__(self, best: float, noise: float, seed: int = 0) -> None:
        self.best, self.noise, self.seed = best, noise, seed

    def block(self, t_start: float, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(10**6 * self.seed + 1000 * number + round(t_start))
        wrong = self.noise * torch.randn(1, generator=generator, dtype=torch.float64)
        return (1 + (t_start - 100 - self.best) ** 2 / 10 + wrong).reshape(1, 1)

    def by_blocks(self, features: torch.Tensor, block: int) -> tuple[float, torch.Tensor]:
        n = len(features)
        return float(features.mean()), (features.sum() - features[:, 0]) / (n - 1)

    def found(self, total: int = 90) -> tuple[float, int]:
        probes = Probes(self.block, self, 1)
        best = zoom(range(-12, 13, 4), lambda rung: rung + 100, lambda t: t - 100, probes, total)
        return best - 100, sum(map(len, probes.features.values()))


@pytest.mark.parametrize("best", [0.0, 1.3, -3.7, 7.0, -10.5])
def test_without_noise_the_minimum_is_found_wherever_it_lies(best):
    place, spent = Curve(best, 0.0).found()
    assert place == pytest.approx(best, abs=1e-6)
    assert spent <= 90


def test_noise_moves_the_choice_the_less_the_more_probes_there_are():
    few, many = (
        np.mean([abs(Curve(3.0, 2.0, seed).found(total)[0] - 3.0) for seed in range(20)]) for total in (60, 600)
    )
    assert many < 0.6 * few and many < 1.5
