"""The sampler that is written here, against the published one, and the curved spacings."""

import copy
import math
import pickle

import diffusers
import pytest
import torch
from oracle import EDMNetwork, GaussianData, Network, columns, error, moments, run

from latestart.denoisers.exact import PointCloud
from latestart.denoisers.networks import as_model
from latestart.noise import Noise
from latestart.sampling.late_start import late_start, start_sample
from latestart.sampling.loop import draw
from latestart.sampling.names import CURVED, SPENT
from latestart.sampling.noisy_ddim import NoisyDDIMScheduler
from latestart.sampling.run import Run
from latestart.sampling.samplers import IPNDM, SAMPLERS, can_clip, clipping, make_sampler, sampler_class

diffusers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)

DATA = GaussianData()
TRAINED = diffusers.DDPMScheduler(clip_sample=False)


def cut(name, steps, **changes):
    return late_start(make_sampler(name, TRAINED, timestep_spacing="trailing", **changes), 600, steps)


def test_ipndm_does_the_steps_of_the_published_class():
    """The same x as diffusers' own class, given v and the same levels, at every step from the same start."""
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


CURVED_SAMPLERS = ("dpm++", "unipc", "deis", "euler", "lms", "ipndm", "heun")
BENDS = {"karras": lambda sigma: sigma ** (1 / 7), "log-snr": torch.log}  # even steps after these


@pytest.mark.parametrize("name", CURVED_SAMPLERS)
@pytest.mark.parametrize("spacing", CURVED)
@pytest.mark.parametrize("start", [None, 600])
@pytest.mark.parametrize("n", [2, 5])
def test_a_curved_spacing_evaluates_all_but_the_lowest_of_even_levels(name, spacing, start, n):
    sampler = make_sampler(name, TRAINED, spacing=f"{spacing}+1")
    if start is None:
        sampler.set_timesteps(n)
    else:
        sampler = late_start(sampler, start, n)
    noise = Noise.from_scheduler(TRAINED)
    ends = torch.tensor([noise.sigma((start or 1000) - 1), noise.sigma(0)], dtype=torch.float64)
    top, lowest = BENDS[spacing](ends)
    expected = torch.linspace(float(top), float(lowest), n + 1, dtype=torch.float64)[:n]
    levels = sampler.sigmas[:-1].double().unique(sorted=True).flip(0)
    torch.testing.assert_close(BENDS[spacing](levels), expected, rtol=1e-5, atol=1e-5)
    stands = torch.tensor([noise.sigma(float(t)) for t in sampler.timesteps.double().unique(sorted=True).flip(0)])
    torch.testing.assert_close(
        stands.double(), levels, rtol=0.2 if name in ("dpm++", "unipc", "deis") else 1e-4, atol=0
    )
    assert len(sampler.timesteps) == (2 * n - 1 if name == "heun" else n)


def distance(scheduler):
    return error(DATA, scheduler, Network(DATA, scheduler))


@pytest.mark.parametrize("name", CURVED_SAMPLERS)
@pytest.mark.parametrize("spacing", CURVED)
def test_a_curved_spacing_converges(name, spacing):
    errors = {n: distance(late_start(make_sampler(name, TRAINED, spacing=f"{spacing}+1"), 600, n)) for n in (3, 12, 48)}
    assert errors[48] < 0.5 * errors[12] < 0.3 * errors[3]


@pytest.mark.parametrize("name", ["dpm++", "unipc", "deis"])
@pytest.mark.parametrize("spacing", CURVED)
def test_an_evaluation_at_t_0_is_a_wasted_one(name, spacing):
    """diffusers spends the last evaluation of these classes there."""
    theirs = make_sampler(name, TRAINED, spacing=spacing)
    ours = make_sampler(name, TRAINED, spacing=f"{spacing}+1")
    for n, share in ((3, 0.65), (5, 0.75), (10, 1.0)):
        assert distance(late_start(ours, 600, n)) < share * distance(late_start(theirs, 600, n))


@pytest.mark.parametrize("spacing", [*CURVED, *SPENT])
def test_a_curved_sampler_is_its_own_copy(spacing):
    sampler = make_sampler("dpm++", TRAINED, spacing=spacing)
    late = late_start(sampler, 600, 4)
    again = copy.deepcopy(late)
    again.set_timesteps(4)
    assert torch.equal(again.sigmas, late.sigmas) and torch.equal(again.timesteps, late.timesteps)
    assert distance(again) == distance(late)


def test_curved_spacings_that_cannot_be():
    with pytest.raises(ValueError, match="no spacing 'bent'; there are trailing, leading"):
        make_sampler("ddim", TRAINED, spacing="bent")
    with pytest.raises(ValueError, match="KDPM2DiscreteScheduler evaluates between its levels"):
        make_sampler("kdpm2", TRAINED, spacing="karras+1")
    with pytest.raises(ValueError, match="DDIMScheduler has no setting use_karras_sigmas"):
        make_sampler("ddim", TRAINED, spacing="karras")


def test_a_class_for_every_name():
    assert all(sampler_class(name).__name__ == SAMPLERS[name] for name in SAMPLERS if name != "ipndm")
    assert sampler_class("ipndm") is IPNDM
    with pytest.raises(ValueError, match="no sampler 'magic'; there are ddpm"):
        sampler_class("magic")
    with pytest.raises(ValueError, match=r"IPNDMScheduler cannot be late-started: .* make_sampler\('ipndm'"):
        late_start(diffusers.IPNDMScheduler(), 0.5, 5)
    with pytest.raises(ValueError, match="IPNDM has no setting clip_sample"):
        make_sampler("ipndm", TRAINED, clip_sample=True)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("clip", [False, True])
def test_a_sampler_that_can_clip_does_so_when_told_and_only_then(name, clip):
    if clip and not can_clip(name):
        with pytest.raises(ValueError, match="has no setting clip_sample"):
            make_sampler(name, TRAINED, **clipping(name, clip))
        return
    config = make_sampler(name, TRAINED, **clipping(name, clip)).config
    clips = config.get("clip_sample", False) or (config.get("thresholding", False) and config["sample_max_value"] == 1)
    assert bool(clips) == clip


# DDIM with a share of noise


def ended(scheduler, monkeypatch):
    """Mean and covariance of what a scheduler makes of its late start, exactly, its own noise propagated too."""
    return moments(DATA, scheduler, Network(DATA, scheduler), monkeypatch)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_ddim_with_all_of_the_noise_is_ddpm(n, monkeypatch):
    """The same mean and covariance after every number of steps, exactly."""
    noisy = late_start(make_sampler("ddim", TRAINED, eta=1.0), 600, n)
    ddpm = late_start(make_sampler("ddpm", TRAINED, variance_type="fixed_small"), 600, n)
    for ours, theirs in zip(ended(noisy, monkeypatch), ended(ddpm, monkeypatch)):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_each_step_has_the_mean_and_variance_of_the_formula():
    """Against Song et al.'s equations 12 and 16, for shares in between."""
    made = make_sampler("ddim", TRAINED, "trailing", eta=[0.3, 0.8, 0.5])
    late = late_start(made, 600, 3)
    noise, x, out = Noise.from_scheduler(TRAINED), torch.ones(1, 2), torch.tensor([[0.5, -0.25]])
    for t, then, eta in ((599, 399, 0.3), (399, 199, 0.8)):
        alpha, std, alpha_t, std_t = noise.alpha(t), noise.std(t), noise.alpha(then), noise.std(then)
        added = eta * std_t / std * math.sqrt(1 - alpha**2 / alpha_t**2)
        clean = (x - std * out) / alpha
        mean = alpha_t * clean + math.sqrt(std_t**2 - added**2) * out
        for row in (0.0, 1.0):
            found = late.step(out, t, x, variance_noise=torch.full_like(x, row), return_dict=False)[0]
            torch.testing.assert_close(found, mean + row * added, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("start", [None, 600])
def test_ddim_without_a_share_of_noise_is_ddim(start):
    def sampled(**changes):
        sampler = make_sampler("ddim", TRAINED, spacing="trailing", **changes)
        late = late_start(sampler, 1000 if start is None else start, 5)
        return run(late, Network(DATA, late), start_sample(late, DATA, columns()))

    assert torch.equal(sampled(), sampled(eta=0)) and torch.equal(sampled(), sampled(eta=[0.0] * 5))
    assert not torch.equal(sampled(), sampled(eta=0.5))


def test_the_share_of_noise_is_part_of_the_configuration(tmp_path):
    for eta in (0.5, [1.0, 0.5, 0.25]):
        late = late_start(make_sampler("ddim", TRAINED, eta=eta), 600, 3)
        ends = []
        for one in (late, copy.deepcopy(late), pickle.loads(pickle.dumps(late)), late_start(late.whole(), 600, 3)):
            assert one.config["eta"] == eta
            ends.append(run(one, Network(DATA, one), start_sample(one, DATA, columns()), seed=3))
        assert all(torch.equal(ends[0], end) for end in ends)
        late.save_config(tmp_path)
        loaded = NoisyDDIMScheduler.from_pretrained(tmp_path)
        assert loaded.config["eta"] == eta and make_sampler("own", loaded).config["eta"] == eta
        assert "eta" not in make_sampler("dpm++", loaded).config and "eta" not in make_sampler("ddim", loaded).config
        assert make_sampler("own", loaded, eta=0.1).config["eta"] == 0.1


def test_shares_of_noise_that_cannot_be():
    for eta in (-0.1, 1.5, math.nan, "much", [], [0.5, 2.0], None):
        with pytest.raises(ValueError, match=r"eta=.*: expected a share of noise from 0 to 1"):
            make_sampler("ddim", TRAINED, eta=eta)
    with pytest.raises(ValueError, match=r"eta has the shares of 2 steps, \[0.5, 0.2\], and the run has 3"):
        late_start(make_sampler("ddim", TRAINED, eta=[0.5, 0.2]), 600, 3)
    with pytest.raises(ValueError, match="DPMSolverMultistepScheduler has no setting eta"):
        make_sampler("dpm++", TRAINED, eta=0.5)


# DPM-Solver++ with noise


def test_dpm_solver_with_noise_converges(monkeypatch):
    """Between DDPM and DPM++ at few steps, and to the data with more."""
    late = {n: cut("sde-dpm++", n) for n in (5, 25, 100)}
    assert {one.config["algorithm_type"] for one in late.values()} == {"sde-dpmsolver++"}
    errors = {n: error(DATA, one, Network(DATA, one), monkeypatch) for n, one in late.items()}
    ddpm = error(DATA, cut("ddpm", 5), Network(DATA, cut("ddpm", 5)), monkeypatch)
    assert error(DATA, cut("dpm++", 5), Network(DATA, cut("dpm++", 5))) < errors[5] < ddpm
    assert math.log(errors[25] / errors[100]) / math.log(4) > 1.2 and errors[100] < 0.03


def test_one_step_of_dpm_solver_with_noise_is_that_of_ddpm():
    ends = [run(s, Network(DATA, s), start_sample(s, DATA, columns())) for s in (cut("sde-dpm++", 1), cut("ddpm", 1))]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "changes"), [("sde-dpm++", {}), ("ddim", {"eta": 0.5})])
def test_noise_of_the_steps_depends_on_the_seed_and_the_index_alone(name, changes):
    sampler = make_sampler(name, TRAINED, spacing="trailing", **changes)
    model = as_model(PointCloud(torch.randn(5, 1, 4, 4)), TRAINED)
    whole = draw(model, sampler, n=5, steps=4, t_start=600, seed=7, batch_size=5).samples
    parts = draw(model, sampler, n=5, steps=4, t_start=600, seed=7, batch_size=2).samples
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-5)
    other = draw(model, sampler, n=5, steps=4, t_start=600, seed=8).samples
    assert not torch.allclose(whole, other)


def test_the_algorithm_is_that_of_the_name():
    """Whatever the scheduler of the model asks for, "own" alone keeps it."""
    theirs = make_sampler("sde-dpm++", TRAINED)
    assert make_sampler("dpm++", theirs).config["algorithm_type"] == "dpmsolver++"
    assert make_sampler("sde-dpm++", theirs).config["algorithm_type"] == "sde-dpmsolver++"
    assert make_sampler("own", theirs).config["algorithm_type"] == "sde-dpmsolver++"


def test_dpm_solver_with_noise_on_levels_of_edm(monkeypatch):
    trained = diffusers.EDMEulerScheduler()
    found = []
    for n in (5, 20, 80):
        late = late_start(make_sampler("sde-dpm++", trained), math.log(3.0) / 4, n)
        found.append(error(DATA, late, EDMNetwork(DATA, late), monkeypatch))
    assert found[2] < 0.4 * found[1] < 0.4 * 0.5 * found[0]
