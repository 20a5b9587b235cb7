"""Noise processes: closed forms, the schedulers' own levels, exact inverses, and both ends."""

import math

import diffusers
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from latestart.noise import Discrete, Noise

diffusers.utils.logging.set_verbosity_error()
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' own

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
DDPM = diffusers.DDPMScheduler(**LINEAR)
PROCESSES = {
    "vp": Noise.vp(),
    "vp, constant rate": Noise.vp(3.0, 3.0),
    "edm": Noise.edm(),
    "flow": Noise.flow(),
    "ddpm": Noise.from_scheduler(DDPM),
    "cosine": Noise.from_scheduler(diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")),
    "zero snr": Noise.from_scheduler(diffusers.DDIMScheduler(rescale_betas_zero_snr=True, **LINEAR)),
    "edm scheduler": Noise.from_scheduler(diffusers.EDMEulerScheduler()),
    "flow scheduler": Noise.from_scheduler(diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)),
}
each = pytest.mark.parametrize("noise", PROCESSES.values(), ids=PROCESSES)


def inside(noise, share):
    low, high = noise.t_range
    return low + share * (high - low)


@given(share=st.floats(0.001, 0.999))
@each
def test_time_is_the_inverse_of_sigma(noise, share):
    t = inside(noise, share)
    assert noise.time(noise.sigma(t)) == pytest.approx(t, rel=1e-9, abs=1e-9)


@given(share=st.floats(0.0, 1.0))
@each
def test_alpha_and_std_belong_to_their_kind_and_to_sigma(noise, share):
    t = inside(noise, share)
    alpha, std, sigma = noise.alpha(t), noise.std(t), noise.sigma(t)
    kept = {"vp": alpha**2 + std**2, "edm": alpha, "flow": alpha + std}[noise.kind]
    assert kept == pytest.approx(1, rel=1e-12)
    assert std == pytest.approx(alpha * sigma if math.isfinite(sigma) else 1.0, rel=1e-9)
    assert noise.alpha_bar(t) == pytest.approx(1 / (1 + sigma**2), rel=1e-9)
    if 1e-100 < sigma < math.inf:
        assert noise.log_snr(t) == pytest.approx(-2 * math.log(sigma), abs=1e-9)
        assert noise.snr(t) == pytest.approx(sigma**-2, rel=1e-9)


@each
def test_sigma_rises_from_end_to_end_of_its_range(noise):
    sigma = noise.sigma(torch.linspace(*noise.t_range, 4001, dtype=torch.float64))
    assert bool((sigma.diff() > 0).all())
    assert (sigma[0].item(), sigma[-1].item()) == pytest.approx(noise.sigma_range, rel=1e-9)
    assert [noise.time(level) for level in noise.sigma_range] == pytest.approx(noise.t_range, abs=1e-9)


@each
def test_batches_are_the_numbers_one_by_one(noise):
    times = [inside(noise, share) for share in (0.1, 0.5, 0.9)]
    for batch in (torch.tensor(times, dtype=torch.float64), np.array(times)):
        for function in (noise.alpha, noise.std, noise.sigma, noise.log_snr, noise.snr, noise.alpha_bar):
            together = function(batch)
            assert isinstance(together, torch.Tensor) and together.dtype == torch.float64
            assert together.tolist() == [function(t) for t in times]
        assert noise.time(noise.sigma(batch)).tolist() == pytest.approx(times, rel=1e-9)
    for number in (times[1], np.float32(times[1]), torch.tensor(times[1])):
        assert isinstance(noise.sigma(number), float)


@each
def test_outside_the_process_is_refused_with_the_value_and_the_range(noise):
    low, high = noise.t_range
    for t in (low - 0.01 * (high - low), high + 0.01 * (high - low), math.nan, math.inf):
        with pytest.raises(ValueError, match=rf"{t:g} lies outside of the times of this {noise.kind}"):
            noise.sigma(t)
    with pytest.raises(ValueError, match=r"-1 lies outside of the noise levels .* sigma in \["):
        noise.time(torch.tensor([noise.sigma(inside(noise, 0.5)), -1.0]))
    if math.isfinite(noise.sigma_range[1]):
        with pytest.raises(ValueError, match="lies outside of the noise levels"):
            noise.time(1.01 * noise.sigma_range[1])


def test_the_closed_form_of_vp():
    noise = Noise.vp(0.1, 20.0)
    for t in (0.01, 0.3, 1.0):
        assert noise.alpha_bar(t) == pytest.approx(math.exp(-0.1 * t - 19.9 * t**2 / 2), rel=1e-12)
    assert noise.sigma(0.0) == 0.0 and noise.time(0.0) == 0.0


def test_the_critical_level_of_two_points():
    # theta_c^2 = sqrt(2) - 1 for two points at +-1, Raya and Ambrogioni 2023
    level = math.sqrt(1 / (math.sqrt(2) - 1) - 1)
    assert Noise.vp().time(level) == pytest.approx(0.29264, abs=5e-6)
    assert Noise.vp().alpha_bar(0.29264) == pytest.approx(math.sqrt(2) - 1, abs=2e-5)
    assert round(Noise.from_scheduler(DDPM).time(level)) == 292
    assert Noise.from_scheduler(DDPM).alpha(Noise.from_scheduler(DDPM).time(level)) == pytest.approx(0.6436, abs=5e-5)


def test_flow_and_edm_in_closed_form():
    assert Noise.flow().sigma(0.75) == pytest.approx(3.0)
    assert Noise.flow().sigma(1.0) == math.inf and Noise.flow().sigma(0.0) == 0.0
    assert (Noise.flow().alpha(1.0), Noise.flow().std(1.0)) == (0.0, 1.0)
    assert Noise.edm().sigma(0.25 * math.log(3.0)) == pytest.approx(3.0)
    assert Noise.edm().sigma_range == pytest.approx((0.002, 80.0))


@pytest.mark.parametrize(
    "scheduler",
    [
        DDPM,
        diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
        diffusers.EulerDiscreteScheduler(**LINEAR),
        diffusers.CogVideoXDDIMScheduler(snr_shift_scale=3.0),
        diffusers.DDIMScheduler(rescale_betas_zero_snr=True, **LINEAR),
        diffusers.CogVideoXDPMScheduler(rescale_betas_zero_snr=True),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_the_levels_are_the_schedulers_own(scheduler):
    noise, t = Noise.from_scheduler(scheduler), torch.arange(1000)
    alpha_bar = scheduler.alphas_cumprod.double()
    torch.testing.assert_close(noise.alpha(t) ** 2, alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(noise.std(t) ** 2, 1 - alpha_bar, rtol=1e-10, atol=0)
    torch.testing.assert_close(noise.time(noise.sigma(t)), t.double(), rtol=0, atol=1e-6)


def test_between_the_times_log_sigma_is_linear():
    noise = Noise.from_scheduler(DDPM)
    assert noise.log_sigma(300.25) == pytest.approx(
        0.75 * noise.log_sigma(300) + 0.25 * noise.log_sigma(301), rel=1e-12
    )


def test_a_schedule_without_terminal_signal_ends_in_pure_noise():
    for kind in (diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler):  # the second writes 2^-24 in its place
        noise = Noise.from_scheduler(kind(rescale_betas_zero_snr=True, **LINEAR))
        assert (noise.alpha(999), noise.std(999), noise.sigma(999)) == (0.0, 1.0, math.inf)
        assert noise.time(math.inf) == 999
        assert noise.alpha(998.5) == pytest.approx(noise.alpha(998) / 2)
        assert 998 < noise.time(10 * noise.sigma(998)) < 999


@pytest.mark.parametrize("last", [0.6, 0.5, 2**-12, math.nan, -0.1, 1.0])
def test_a_last_level_that_rises_is_refused_as_one_in_the_middle_is(last):
    """It is terminal noise only where it says so: 0, or the 2^-24 that some classes write over it."""
    before = 2**-13 if last < 0.1 else 0.5
    for levels in ([0.9, before, last], [0.9, before, last, 1e-5]):
        with pytest.raises(ValueError, match="alphas_cumprod"):
            Discrete(torch.tensor(levels, dtype=torch.float64))
    betas = [0.1, 1 - 0.5 / 0.9, 1 - 0.6 / 0.5]
    with pytest.raises(ValueError, match="alphas_cumprod"):
        Noise.from_scheduler(diffusers.DDIMScheduler(trained_betas=betas, num_train_timesteps=3))


@pytest.mark.parametrize("last", [0.0, 2**-24, 2**-21])
def test_a_last_level_without_signal_is_pure_noise_even_above_the_one_before(last):
    noise = Discrete(torch.tensor([0.9, 0.5, 2**-25, last], dtype=torch.float64))
    assert (noise.alpha(3.0), noise.sigma(3.0)) == (0.0, math.inf)


def test_the_times_of_edm_and_flow_schedulers_give_their_levels():
    edm, flow = diffusers.EDMEulerScheduler(), diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    for scheduler in (edm, flow):
        scheduler.set_timesteps(7)
    torch.testing.assert_close(
        Noise.from_scheduler(edm).sigma(edm.timesteps), edm.sigmas[:-1].double(), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(
        Noise.from_scheduler(flow).std(flow.timesteps), flow.sigmas[:-1].double(), rtol=1e-5, atol=0
    )
    video = diffusers.EulerDiscreteScheduler(
        timestep_type="continuous",
        prediction_type="v_prediction",
        use_karras_sigmas=True,
        sigma_min=0.002,
        sigma_max=700.0,
    )
    video.set_timesteps(7)
    torch.testing.assert_close(
        Noise.from_scheduler(video).sigma(video.timesteps), video.sigmas[:-1].double(), rtol=1e-4, atol=0
    )


def test_bad_processes_are_refused():
    for arguments in ((0.0, 1.0), (2.0, 1.0), (1.0, math.inf)):
        with pytest.raises(ValueError, match="beta_min"):
            Noise.vp(*arguments)
        with pytest.raises(ValueError, match="sigma_min"):
            Noise.edm(*arguments)
    with pytest.raises(ValueError, match="t_max"):
        Noise.flow(0.0)
    with pytest.raises(ValueError, match="ScoreSdeVeScheduler has no noise process"):
        Noise.from_scheduler(diffusers.ScoreSdeVeScheduler())
    with pytest.raises(ValueError, match="object has no noise process"):
        Noise.from_scheduler(object())


def test_levels_beyond_the_process_have_its_first_and_last_time():
    noise = Noise.vp()
    low, high = noise.sigma_range
    levels = torch.tensor([0.0, low / 2, 1.0, 2 * high, math.inf])
    assert noise.clamped_time(levels).tolist() == pytest.approx([0.0, 0.0, noise.time(1.0), 1.0, 1.0], abs=1e-12)
    assert noise.clamped_time(2 * high) == noise.time(high)
    with pytest.raises(ValueError, match="nan lies outside"):
        noise.clamped_time(math.nan)
