"""Noise that is given to a sampler's steps: it is drawn there, in order, and nowhere else."""

import diffusers
import pytest
import torch

import latestart as ls
from latestart.denoisers.exact import PointCloud
from latestart.sampling.loop import draw
from latestart.sampling.run import SHAPE
from latestart.sampling.seeds import GivenNoise, sample_generator

TRAILING = {"timestep_spacing": "trailing"}
STOCHASTIC = {
    "DDPM": diffusers.DDPMScheduler(clip_sample=False, variance_type="fixed_large", **TRAILING),
    "Euler ancestral": diffusers.EulerAncestralDiscreteScheduler(**TRAILING),
    "DPM++ SDE": diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **TRAILING),
    "SA solver": diffusers.SASolverScheduler(**TRAILING),
    "Brownian paths": diffusers.DPMSolverSDEScheduler(**TRAILING),
    "EDM SDE": diffusers.EDMDPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
}


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("name", STOCHASTIC)
def test_the_noise_of_the_generators_given_as_noise_gives_the_same_samples(name, n):
    """Bit for bit, also for samples of the rehearsal's shape: the rehearsal, which runs before, takes none of it."""
    scheduler, shape = STOCHASTIC[name], SHAPE[1:]
    model = ls.as_model(PointCloud(torch.randn(6, *shape, generator=torch.Generator().manual_seed(0)) / 2), scheduler)
    z = torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))
    asked = {"n": n, "steps": 4, "t_start": 0.3 if "EDM" in name else 600, "seed": 5, "noise": z}
    generators = [sample_generator(5, i) for i in range(n)]
    drawn = [torch.stack([torch.randn(1, *shape, generator=g)[0] for g in generators]) for _ in range(9)]
    expected = draw(model, scheduler, **asked).samples
    assert torch.equal(draw(model, scheduler, **asked, step_noise=torch.stack(drawn)).samples, expected)
    none = torch.stack(drawn)[:0]
    assert torch.equal(draw(model, scheduler, **asked, step_noise=none).samples, expected)
    del asked["noise"]  # the start is drawn by the generators first, and not from the noise of the steps
    later = torch.stack(drawn[1:])
    assert torch.equal(
        draw(model, scheduler, **asked, step_noise=later).samples, draw(model, scheduler, **asked).samples
    )
    asked["noise"] = z
    if name != "Brownian paths":  # which are seeded, and take no noise
        other = draw(model, scheduler, **asked, step_noise=-torch.stack(drawn)).samples
        assert not torch.allclose(other, expected)


def test_given_noise_is_drawn_in_order_and_then_comes_from_the_generator():
    noise, plain = torch.arange(6.0).reshape(2, 3), sample_generator(0, 0)
    given = GivenNoise(noise, sample_generator(0, 0))
    assert given.device == plain.device and given.initial_seed() == plain.initial_seed()
    for row in noise:
        drawn = torch.randn((1, 3), generator=given, dtype=torch.float64)
        assert drawn.dtype == torch.float64 and torch.equal(drawn, row[None].double())
    assert torch.equal(torch.randn(2, 3, generator=given), torch.randn(2, 3, generator=plain))


def test_given_noise_goes_to_normal_numbers_of_its_own_shape_alone():
    given, plain = GivenNoise(torch.zeros(1, 3), sample_generator(0, 0)), sample_generator(0, 0)
    assert torch.equal(torch.rand(3, generator=given), torch.rand(3, generator=plain))
    assert torch.randn(3).abs().max() > 0
    with pytest.raises(RuntimeError, match="shape"):
        torch.randn((1, 4), generator=given)
