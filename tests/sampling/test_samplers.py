"""The sampler that is written here, against the published one, and a spacing by two names."""

import math

import diffusers
import pytest
import torch
from oracle import GaussianData, Network, columns, error, run

from latestart.sampling.late_start import Run, late_start, start_sample
from latestart.sampling.samplers import IPNDM, SAMPLERS, make_sampler, sampler_class

diffusers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)

DATA = GaussianData()
TRAINED = diffusers.DDPMScheduler(clip_sample=False)


def cut(name, steps, **changes):
    return late_start(make_sampler(name, TRAINED, timestep_spacing="trailing", **changes), 600, steps)


def test_ipndm_does_the_steps_of_the_published_class():
    """diffusers' own class, told v and the same levels, from the same start, at every step."""
    stds = torch.linspace(0.95, 0.05, 12, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), (1 - stds**2).flip(0)])
    betas = (1 - alpha_bar[1:] / alpha_bar[:-1]).tolist()
    ours = IPNDM(num_train_timesteps=12, trained_betas=betas, timestep_spacing="trailing")
    theirs = diffusers.IPNDMScheduler(trained_betas=[*stds.tolist(), 0.0])
    ours.set_timesteps(12)
    theirs.set_timesteps(12)
    network, sampler = Network(DATA, ours), Run(ours)
    x = start_sample(ours, DATA, columns())
    y = sampler.model_input(x, ours.timesteps[0]).clone()
    for t, own, std in zip(ours.timesteps, theirs.timesteps, stds.tolist()):
        alpha = math.sqrt(1 - std**2)
        clean = DATA.denoise(y / alpha, std / alpha)
        v = alpha * (y - alpha * clean) / std - std * clean
        y = theirs.step(v, own, y, return_dict=False)[0]
        x = sampler.step(network(sampler.model_input(x, t), t), t, x)
    torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-4)


def test_late_started_ipndm_converges():
    """Better than LMS at few steps, for which it was made; worse at many, since no steps near the data are equal."""

    def errors(name):
        return {n: error(DATA, late, Network(DATA, late)) for n in (3, 5, 10, 25, 100) for late in [cut(name, n)]}

    ours, lms = errors("ipndm"), errors("lms")
    assert math.log(ours[5] / ours[25]) / math.log(5) > 1.5
    assert ours[100] < 0.003
    assert all(ours[n] < 0.9 * lms[n] for n in (3, 5, 10))
    assert ours[100] > 3 * lms[100]


def test_a_late_start_of_ipndm_is_the_tail_of_a_finer_run():
    """Six steps from 600 stand where the last six of ten from 1,000 do; the samples of both are divided by alpha."""
    late, full = cut("ipndm", 6), make_sampler("ipndm", TRAINED, timestep_spacing="trailing")
    full.set_timesteps(10)
    assert torch.equal(late.timesteps, full.timesteps[4:])
    torch.testing.assert_close(late.sigmas, full.sigmas[4:], rtol=1e-6, atol=0)
    x = late.scale_model_input(torch.ones(1), late.timesteps[0])
    assert float(x) == pytest.approx(float(1 / (1 + full.sigmas[4] ** 2).sqrt()), rel=1e-6)
    assert type(late).__mro__[2] is IPNDM and isinstance(late, diffusers.LMSDiscreteScheduler)


def test_one_step_is_that_of_euler():
    for name in ("ipndm", "lms"):
        late, euler = cut(name, 1), cut("euler", 1)
        ends = [run(s, Network(DATA, s), start_sample(s, DATA, columns())) for s in (late, euler)]
        torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_levels_even_in_their_logarithm_have_two_names():
    """`use_exponential_sigmas`, which every class has, and DPM++'s `use_lu_lambdas` are one spacing."""
    named = [make_sampler("dpm++", TRAINED, **{name: True}) for name in ("use_exponential_sigmas", "use_lu_lambdas")]
    for sampler in named:
        sampler.set_timesteps(7)
    torch.testing.assert_close(named[0].sigmas, named[1].sigmas, rtol=1e-5, atol=0)
    steps = named[0].sigmas[:-1].log().diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-4, atol=0)


def test_a_class_for_every_name():
    assert all(sampler_class(name).__name__ == SAMPLERS[name] for name in SAMPLERS if name != "ipndm")
    assert sampler_class("ipndm") is IPNDM
    with pytest.raises(ValueError, match="no sampler 'magic'; there are ddpm"):
        sampler_class("magic")
    with pytest.raises(ValueError, match=r"IPNDMScheduler cannot be late-started: .* make_sampler\('ipndm'"):
        late_start(diffusers.IPNDMScheduler(), 0.5, 5)
    with pytest.raises(ValueError, match="IPNDM has no setting clip_sample"):
        make_sampler("ipndm", TRAINED, clip_sample=True)
