"""Late start against the oracle, on every class of scheduler that it claims, and the traps on the way there."""

import copy
import functools
import inspect
import math
import pickle

import diffusers
import numpy as np
import pytest
import torch
from diffusers.pipelines.flux.pipeline_flux import retrieve_timesteps
from oracle import EDMNetwork, GaussianData, Network, columns, error, run, sampled_error, white

import latestart as ls
from latestart.gaussians.basis import Dense
from latestart.noise import Noise
from latestart.sampling.late_start import late_start, start_level, start_sample
from latestart.sampling.names import SAMPLERS
from latestart.sampling.run import Run, initial_sample
from latestart.sampling.samplers import make_sampler

diffusers.utils.logging.set_verbosity_error()
torch.set_num_threads(1)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # diffusers' own

DATA = GaussianData()

# Gaussian 2-Wasserstein distance to the data at 3, 5, 10 and 50 steps from 600, linear betas 1e-4 to 0.02; None where
# no independent figure is known.
FIGURES: dict[str, tuple[float, ...] | None] = {
    "DDIMScheduler": (0.776, 0.502, 0.270, 0.059),
    "DDIMParallelScheduler": (0.776, 0.502, 0.270, 0.059),
    "CogVideoXDDIMScheduler": (0.776, 0.502, 0.270, 0.059),
    "EulerDiscreteScheduler": (0.776, 0.502, 0.270, 0.059),
    "DEISMultistepScheduler": (0.628, 0.313, 0.122, 0.007),
    "DPMSolverMultistepScheduler": (0.620, 0.284, 0.120, 0.012),
    "DPMSolverSinglestepScheduler": None,
    "UniPCMultistepScheduler": (0.565, 0.262, 0.118, 0.012),
    "HeunDiscreteScheduler": (0.388, 0.226, 0.107, 0.013),
    "KDPM2DiscreteScheduler": None,
    "LMSDiscreteScheduler": (0.563, 0.235, 0.065, 0.0008),
    "PNDMScheduler": (0.331, 0.119, 0.043, 0.0005),
    "DDPMScheduler": (1.023, 0.742, 0.454, 0.126),
    "DDPMParallelScheduler": (1.023, 0.742, 0.454, 0.126),
    "EulerAncestralDiscreteScheduler": (1.023, 0.742, 0.454, 0.126),
    "KDPM2AncestralDiscreteScheduler": None,
    "SASolverScheduler": None,
    "CogVideoXDPMScheduler": None,
}
NAMES = list(FIGURES)
QUICK = [name for name in NAMES if "KDPM2" not in name]  # those take half a second to construct
EVALUATIONS = {
    "PNDMScheduler": lambda n: n + 1,
    "HeunDiscreteScheduler": lambda n: 2 * n - 1,
    "KDPM2DiscreteScheduler": lambda n: 2 * n - 1,
    "KDPM2AncestralDiscreteScheduler": lambda n: 2 * n - 1,
}


def takes(name, option):
    return option in inspect.signature(getattr(diffusers, name).__init__).parameters


@functools.cache
def plain(name):
    """The scheduler of the oracle, unclipped and without CogVideoX's shift of the noise levels."""
    defaults = {
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "clip_sample": False,
        "snr_shift_scale": 1.0,
    }
    return getattr(diffusers, name)(**{option: value for option, value in defaults.items() if takes(name, option)})


def make(name, **options):
    return getattr(diffusers, name).from_config({**plain(name).config, "_use_default_values": [], **options})


def late_error(scheduler, t_start, n, monkeypatch):
    late = late_start(scheduler, t_start, n)
    return error(DATA, late, Network(DATA, late), monkeypatch)


# the oracle


@pytest.mark.parametrize("name", [name for name in NAMES if FIGURES[name]])
def test_late_start_meets_the_known_figures(name, monkeypatch):
    for n, figure in zip((3, 5, 10, 50), FIGURES[name]):
        found = late_error(plain(name), 600, n, monkeypatch)
        assert found == pytest.approx(figure, rel=0.1, abs=0.001), n


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("t_start", [600, 613, 1000])
def test_the_error_falls_to_zero_and_the_run_is_as_long_as_promised(name, t_start, monkeypatch):
    errors = []
    for n in (3, 5, 7, 10, 50):
        late = late_start(plain(name), t_start, n)
        network = Network(DATA, late)
        errors.append(error(DATA, late, network, monkeypatch))
        assert float(late.timesteps[0]) == pytest.approx(n * (t_start // n) - 1, abs=1e-4)
        assert network.nfe == EVALUATIONS.get(name, lambda n: n)(n)
    assert errors[-1] < 0.2
    assert errors[-1] < 0.5 * min(errors[:-1])


@pytest.mark.parametrize(
    ("name", "order"), [("DDIMScheduler", 1), ("DDPMScheduler", 1), ("UniPCMultistepScheduler", 1.5)]
)
def test_the_order_of_convergence(name, order, monkeypatch):
    coarse, fine = (late_error(plain(name), 600, n, monkeypatch) for n in (25, 100))
    assert math.log(coarse / fine) / math.log(4) > 0.85 * order


def test_full_noise_meets_the_known_figures():
    for n, figure in ((3, 1.23), (5, 0.81), (10, 0.45)):
        scheduler = make("DDIMScheduler", timestep_spacing="trailing")
        scheduler.set_timesteps(n)
        x = run(scheduler, Network(DATA, scheduler), initial_sample(scheduler, columns()))
        linear = x[1:] - x[0]
        assert DATA.distance(x[0], linear.T @ linear) == pytest.approx(figure, rel=0.1)


def test_stochastic_propagation_agrees_with_samples(monkeypatch):
    late = late_start(make("DDPMScheduler"), 600, 5)
    exact = error(DATA, copy.deepcopy(late), Network(DATA, late), monkeypatch)
    monkeypatch.undo()
    assert sampled_error(DATA, late, Network(DATA, late), 20_000) == pytest.approx(exact, rel=0.03)


def test_brownian_paths_of_the_sde_solver():
    coarse, fine = (late_start(make("DPMSolverSDEScheduler"), 600, n) for n in (3, 10))
    far = sampled_error(DATA, coarse, Network(DATA, coarse), 2000)
    assert sampled_error(DATA, fine, Network(DATA, fine), 2000) < 0.5 * far


# configurations


@pytest.mark.parametrize(
    ("name", "prediction"),
    [(name, "v_prediction") for name in QUICK if name != "PNDMScheduler"]
    # diffusers has no sample prediction in the other classes
    + [(name, "sample") for name in QUICK if name != "PNDMScheduler" and "Ancestral" not in name],
)
def test_every_prediction_type_gives_the_same_run(name, prediction, monkeypatch):
    found = late_error(make(name, prediction_type=prediction), 600, 10, monkeypatch)
    assert found == pytest.approx(late_error(plain(name), 600, 10, monkeypatch), rel=0.01, abs=1e-3)


def test_v_prediction_with_pndm_converges():
    # it combines the outputs of several times before it reads them as v, and is of first order then
    coarse, fine = (late_error(make("PNDMScheduler", prediction_type="v_prediction"), 600, n, None) for n in (10, 50))
    assert fine < 0.25 * coarse


@pytest.mark.parametrize("name", QUICK)
def test_scaled_linear_betas(name, monkeypatch):
    scheduler = make(name, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    assert late_error(scheduler, 600, 25, monkeypatch) < 0.5 * late_error(scheduler, 600, 7, monkeypatch)


@pytest.mark.parametrize("name", [name for name in NAMES if takes(name, "rescale_betas_zero_snr")])
@pytest.mark.parametrize("t_start", [600, 1000])
def test_zero_terminal_snr(name, t_start, monkeypatch):
    scheduler = make(name, rescale_betas_zero_snr=True, prediction_type="v_prediction")
    late = late_start(scheduler, t_start, 50)
    expected = scheduler.alphas_cumprod[: len(late.alphas_cumprod)].double()
    torch.testing.assert_close(late.alphas_cumprod.double(), expected, rtol=1e-5, atol=0)
    found = error(DATA, late, Network(DATA, late), monkeypatch)
    assert found < 0.5 * late_error(scheduler, t_start, 10, monkeypatch)


@pytest.mark.parametrize("name", ["CogVideoXDDIMScheduler", "CogVideoXDPMScheduler"])
def test_shifted_levels_of_cogvideox(name, monkeypatch):
    scheduler = make(name, snr_shift_scale=3.0)
    late = late_start(scheduler, 600, 50)
    assert start_level(late) == pytest.approx(Noise.from_scheduler(scheduler).sigma(599), rel=1e-5)
    assert error(DATA, late, Network(DATA, late), monkeypatch) < 0.5 * late_error(scheduler, 600, 10, monkeypatch)


CURVES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


@pytest.mark.parametrize(("name", "curve"), [(name, curve) for name in QUICK for curve in CURVES if takes(name, curve)])
def test_curved_spacings_begin_at_the_truncated_start(name, curve, monkeypatch):
    scheduler = make(name, **{curve: True})
    for n in (2, 7):
        late = late_start(scheduler, 613, n)
        assert float(late.timesteps[0]) == pytest.approx(n * (613 // n) - 1, abs=1e-4)
        assert float(late.sigmas[0]) == pytest.approx(start_level(late), rel=1e-5)
    coarse, fine = (late_error(scheduler, 600, n, monkeypatch) for n in (5, 25))
    assert fine < 0.3 * coarse


def test_levels_of_the_whole_schedule_are_forgotten():
    # a configuration keeps what another class left in it, and several classes read it
    euler = make("EulerDiscreteScheduler", use_karras_sigmas=True, sigma_min=0.05, sigma_max=100.0)
    for kind in (diffusers.EulerDiscreteScheduler, diffusers.DPMSolverMultistepScheduler):
        late = late_start(kind.from_config(euler.config), 600, 5)
        assert float(late.sigmas[0]) == pytest.approx(Noise.from_scheduler(euler).sigma(599), rel=1e-5)


def test_log_linear_interpolation_and_runge_kutta_steps_are_set_aside():
    late = late_start(make("EulerDiscreteScheduler", interpolation_type="log_linear"), 600, 5)
    assert float(late.sigmas[1]) == pytest.approx(Noise.from_scheduler(late).sigma(479), rel=1e-5)
    assert len(late_start(make("PNDMScheduler", skip_prk_steps=False), 600, 3).timesteps) == 4


def test_a_clipped_log_snr_shortens_the_schedule():
    options = {"beta_schedule": "squaredcos_cap_v2", "lambda_min_clipped": -2.0}
    for name in ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"):
        scheduler = make(name, **options)
        end = int((scheduler.lambda_t >= -2.0).sum())
        assert late_start(scheduler, 1000, 5).timesteps[0] == 5 * (end // 5) - 1
        assert late_start(scheduler, 600, 5).timesteps[0] == 599


def test_the_rest_of_the_configuration_is_kept():
    options = {
        "solver_order": 3,
        "prediction_type": "v_prediction",
        "thresholding": True,
        "final_sigmas_type": "sigma_min",
    }
    late = late_start(make("DPMSolverMultistepScheduler", **options), 600, 5)
    assert {name: late.config[name] for name in options} == options
    clipped = late_start(make("DDIMScheduler", clip_sample=True, set_alpha_to_one=False), 600, 5)
    assert clipped.config["clip_sample"] and clipped.final_alpha_cumprod == clipped.alphas_cumprod[0]


# what a late-started scheduler is


@pytest.mark.parametrize("name", QUICK)
def test_it_is_the_same_kind_with_the_same_levels_and_the_original_is_untouched(name):
    scheduler = make(name)
    scheduler.set_timesteps(10)
    before, times = dict(scheduler.config), scheduler.timesteps.clone()
    late = late_start(scheduler, 600, 5)
    assert isinstance(late, type(scheduler)) and type(late).__name__ == name
    assert torch.equal(late.alphas_cumprod, scheduler.alphas_cumprod[:600])
    assert dict(scheduler.config) == before and torch.equal(scheduler.timesteps, times)


def test_its_class_is_made_once_and_no_object_changes_its_class():
    scheduler = plain("DDIMScheduler")
    one, other = late_start(scheduler, 600, 5), late_start(make("DDIMScheduler"), 300, 3)
    assert type(one) is type(other) is type(late_start(one, 500, 5)) is type(pickle.loads(pickle.dumps(one)))
    assert type(scheduler) is type(one.whole()) is type(one.cut) is diffusers.DDIMScheduler
    assert type(late_start(plain("DDIMParallelScheduler"), 600, 5)) is not type(one)


@pytest.mark.parametrize("name", NAMES)
def test_it_serves_only_its_own_number_of_steps(name):
    late = late_start(plain(name), 600, 5)
    times = late.timesteps.clone()
    late.set_timesteps(5, device="cpu")
    assert torch.equal(late.timesteps, times)
    with pytest.raises(ValueError, match="late-started for 5 steps, and got num_inference_steps=7"):
        late.set_timesteps(7)
    with pytest.raises(ValueError, match="timesteps="):
        late.set_timesteps(5, timesteps=[400, 200])


@pytest.mark.parametrize("name", QUICK)
def test_copies_keep_the_guard_and_the_run(name, monkeypatch):
    late = late_start(plain(name), 600, 5)
    found = error(DATA, copy.deepcopy(late), Network(DATA, late), monkeypatch)
    restored = pickle.loads(pickle.dumps(late))
    assert error(DATA, restored, Network(DATA, late), monkeypatch) == found
    assert dict(restored.config) == dict(late.config)
    for other in (copy.deepcopy(late), restored):
        with pytest.raises(ValueError, match="5 steps"):
            other.set_timesteps(7)


@pytest.mark.parametrize("name", QUICK)
def test_what_is_made_from_it_has_the_whole_schedule(name, tmp_path):
    """Saved, or made anew from its configuration, as pipelines do: never a part of it without the guard."""
    late, whole = late_start(plain(name), 600, 5), plain(name)
    assert dict(late.config) == dict(whole.config) and len(late) == len(whole) == 1000
    late.save_pretrained(tmp_path)
    kind = getattr(diffusers, name)
    opened, made = kind.from_pretrained(tmp_path), kind.from_config(late.config)
    for other in (opened, made, late.whole()):
        assert type(other) is kind
        torch.testing.assert_close(other.alphas_cumprod, whole.alphas_cumprod, rtol=0, atol=0)
    another = diffusers.DPMSolverMultistepScheduler.from_config(late.config)
    assert len(another.alphas_cumprod) == another.config.num_train_timesteps == 1000
    assert late.timesteps[0] == pytest.approx(599, abs=1e-4)


def test_a_pipeline_that_makes_its_scheduler_anew_has_the_whole_one():
    late = late_start(plain("DDIMScheduler"), 400, 5)
    network = diffusers.UNet2DModel(
        8, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    pipe = diffusers.DDIMPipeline(network, late)
    pipe.scheduler.set_timesteps(10)
    assert int(pipe.scheduler.timesteps[0]) == 900 and len(pipe.scheduler.alphas_cumprod) == 1000
    kept = diffusers.DiffusionPipeline.register_modules
    assert kept is not None and late.cut.config.num_train_timesteps == 400


def test_a_late_start_can_be_started_elsewhere():
    for t_start in (300, 900):
        again = late_start(late_start(plain("DDIMScheduler"), 600, 5), t_start, 3)
        direct = late_start(plain("DDIMScheduler"), t_start, 3)
        assert torch.equal(again.timesteps, direct.timesteps)
        assert torch.equal(again.alphas_cumprod, direct.alphas_cumprod)
        assert type(again) is type(direct)


@pytest.mark.parametrize("name", NAMES)
def test_a_pipelines_initial_level_leaves_the_start_sample_as_it_is(name):
    """Pipelines multiply given latents by it."""
    late = late_start(plain(name), 600, 5)
    assert late.init_noise_sigma == 1
    late.init_noise_sigma = 7.0
    late.set_timesteps(5)
    assert late.init_noise_sigma == 1


@pytest.mark.parametrize("name", NAMES)
def test_run_twice_it_does_the_same_twice(name):
    """A whole run, one that broke off, and another whole one, in a loop of one's own, on one scheduler."""
    late = late_start(plain(name), 600, 5)
    network = Network(DATA, late)

    def loop(most=1000):
        torch.manual_seed(0)
        x = start_sample(late, DATA, white(9))
        previous, back = None, None
        if hasattr(late, "noise_sampler"):
            late.noise_sampler = None
        for t in list(late.timesteps)[:most]:
            seen = late.scale_model_input(x, t)
            more = {}
            if name == "CogVideoXDPMScheduler":
                more = {"old_pred_original_sample": previous, "timestep_back": back}
            out = late.step(model_output=network(seen, t), timestep=t, sample=x, return_dict=False, **more)
            previous, back = (out[1] if len(out) > 1 else None), t
            x = out[0]
        return x

    first, second = loop(), loop()
    for most in range(1, len(late.timesteps)):
        loop(most)
        assert torch.equal(loop(), first), most
    assert torch.equal(first, second)


def test_its_steps_have_the_signature_of_the_class():
    for name in ("DDIMScheduler", "EulerAncestralDiscreteScheduler"):
        late = late_start(plain(name), 600, 5)
        assert inspect.signature(late.step) == inspect.signature(plain(name).step)
    assert not hasattr(late_start(diffusers.FlowMatchEulerDiscreteScheduler(), 600, 5), "alphas_cumprod")


def test_set_timesteps_names_what_pipelines_look_for():
    wanted = ["num_inference_steps", "device", "timesteps", "sigmas", "mu"]
    for scheduler in (plain("DDIMScheduler"), diffusers.FlowMatchEulerDiscreteScheduler()):
        assert list(inspect.signature(late_start(scheduler, 600, 5).set_timesteps).parameters) == wanted


@pytest.mark.parametrize(
    "sigmas",
    [np.linspace(1.0, 1 / 5, 5), np.linspace(1, 0, 6)[:-1], torch.linspace(0.999, 0.2, 5), [1.0, 0.8, 0.6, 0.4, 0.2]],
    ids=range(4),
)
def test_a_pipelines_grid_over_the_whole_schedule_stands_for_the_late_starts(sigmas):
    late = late_start(diffusers.FlowMatchEulerDiscreteScheduler(), 600, 5)
    expected = late.timesteps.tolist()
    times, count = retrieve_timesteps(late, None, "cpu", sigmas=sigmas)
    assert (times.tolist(), count) == (expected, 5)
    late.set_timesteps(5, timesteps=[int(1000 * s) for s in sigmas], sigmas=sigmas)
    assert late.timesteps.tolist() == expected
    late.set_timesteps(5, mu=0.3)  # of no matter where nothing is shifted by it
    assert late.timesteps.tolist() == expected


@pytest.mark.parametrize(
    "given",
    [{"sigmas": [1.0, 0.5, 0.3, 0.2, 0.1]}, {"sigmas": [0.6, 0.48, 0.36, 0.24, 0.12]}, {},
     {"sigmas": np.linspace(1, 0.25, 4)}, {"sigmas": [0.2, 0.4, 0.6, 0.8, 1.0]},
     {"num_inference_steps": 5, "timesteps": [800, 600, 400, 200, 0]}],
    ids=range(6),
)  # fmt: skip
def test_times_and_levels_that_stand_for_something_else_are_refused(given):
    late = late_start(diffusers.FlowMatchEulerDiscreteScheduler(), 600, 5)
    with pytest.raises(ValueError, match="late-started for 5 steps"):
        late.set_timesteps(**given)
    with pytest.raises(ValueError, match=r"mu=0\.9"):
        shifted = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
        late_start(shifted, 600, 5, mu=0.7).set_timesteps(5, mu=0.9)


class OwnScheduler(diffusers.DDIMScheduler):
    """A user's subclass."""


def test_a_class_of_ones_own_works():
    late = late_start(OwnScheduler.from_config(plain("DDIMScheduler").config), 600, 5)
    assert isinstance(late, OwnScheduler)
    assert late_error(late, 600, 5, None) == pytest.approx(0.502, rel=0.01)
    assert isinstance(pickle.loads(pickle.dumps(late)), OwnScheduler)


def test_a_class_that_ignores_the_truncation_is_refused():
    class Stubborn(diffusers.DDIMScheduler):
        def set_timesteps(self, num_inference_steps, device=None):
            super().set_timesteps(num_inference_steps, device)
            self.timesteps = self.timesteps - 1

    with pytest.raises(ValueError, match="it was to begin at t=599"):
        late_start(Stubborn(), 600, 5)


@pytest.mark.parametrize(
    "name",
    [
        "LCMScheduler",
        "TCDScheduler",
        "RePaintScheduler",
        "UnCLIPScheduler",
        "DDIMInverseScheduler",
        "DPMSolverMultistepInverseScheduler",
        "IPNDMScheduler",
        "ScoreSdeVeScheduler",
        "CMStochasticIterativeScheduler",
        "DDPMWuerstchenScheduler",
        "FlowMatchLCMScheduler",
    ],
)
def test_other_kinds_are_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"{name} cannot be late-started.*DDIM.*EDMEuler.*FlowMatchEuler"):
        late_start(getattr(diffusers, name)(), 600, 5)


def test_discrete_and_flow_configured_kinds_are_refused():
    with pytest.raises(ValueError, match="VQDiffusionScheduler cannot"):
        late_start(diffusers.VQDiffusionScheduler(num_vec_classes=16), 50, 5)
    with pytest.raises(ValueError, match="use_flow_sigmas"):
        late_start(make("UniPCMultistepScheduler", use_flow_sigmas=True, prediction_type="flow_prediction"), 600, 5)
    with pytest.raises(ValueError, match="OwnLCM cannot"):
        late_start(type("OwnLCM", (diffusers.LCMScheduler,), {})(), 600, 5)


@pytest.mark.parametrize(
    ("t_start", "steps", "message"),
    [
        (1001, 5, "t_start=1001 lies outside of the schedule: expected 5 to 1000"),
        (0, 5, "t_start=0 lies outside"),
        (-3, 5, "t_start=-3 lies outside"),
        (4, 5, "t_start=4 leaves no time for 5 steps: expected at least 5"),
        (1, 1, "t_start=1 leaves no time for 1 steps: expected at least 2"),
        (600, 0, "steps=0: expected a whole number of at least 1"),
        (600, 2.5, "steps=2.5: expected a whole number"),
        (math.nan, 5, "t_start=nan: expected a finite number"),
        ("late", 5, "t_start='late': expected a finite number"),
    ],
)
def test_bad_input(t_start, steps, message):
    with pytest.raises(ValueError, match=message):
        late_start(plain("DDIMScheduler"), t_start, steps)


def test_a_start_between_two_times_and_a_single_step():
    assert late_start(plain("DDIMScheduler"), 600.9, 5).timesteps[0] == 599
    for name in NAMES:
        late = late_start(plain(name), np.int64(2), 1)
        assert late.timesteps.tolist() == [1]


# the start sample


@pytest.mark.parametrize("name", NAMES)
def test_the_start_has_the_mean_and_covariance_of_the_noised_data(name):
    late = late_start(plain(name), 613, 5)
    noise = Noise.from_scheduler(late)
    x = Run(copy.deepcopy(late)).model_input(start_sample(late, DATA, columns()), late.timesteps[0])
    linear = x[1:] - x[0]
    alpha, std = noise.alpha(609), noise.std(609)
    torch.testing.assert_close(x[0], alpha * DATA.mean, rtol=1e-6, atol=1e-6)
    expected = alpha**2 * DATA.covariance + std**2 * torch.eye(8)
    torch.testing.assert_close(linear.T @ linear, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", QUICK)
def test_without_a_prior_the_network_sees_the_white_noise(name):
    late = late_start(plain(name), 600, 5)
    z = white(16)
    torch.testing.assert_close(
        Run(late).model_input(start_sample(late, None, z), late.timesteps[0]), z, rtol=1e-6, atol=0
    )


def test_the_start_has_the_type_of_the_noise_and_does_not_disturb_the_run():
    late = late_start(plain("EulerDiscreteScheduler"), 600, 5)
    assert start_sample(late, DATA, white(16).float()).dtype == torch.float32
    assert late.step_index is None
    with pytest.raises(ValueError, match=r"z has the shape \(4, 7\), expected \(B, \*\(8,\)\)"):
        start_sample(late, DATA, torch.zeros(4, 7))


def test_a_push_of_the_same_noise_is_the_full_runs_sample():
    # the data is Gaussian: the late start is the closed-form flow of the full start
    full, late = make("DDIMScheduler", timestep_spacing="trailing"), late_start(plain("DDIMScheduler"), 600, 100)
    full.set_timesteps(200)
    z = white(64)
    ours = run(late, Network(DATA, late), start_sample(late, DATA, z))
    theirs = run(full, Network(DATA, full), initial_sample(full, z))
    assert (ours - theirs).square().mean().sqrt() < 0.05 < theirs.std()


# one loop for all


@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "EulerAncestralDiscreteScheduler", "SASolverScheduler", "CogVideoXDPMScheduler"]
)
def test_a_seed_gives_the_same_sample_whatever_the_batch(name):
    def sample(seeds):
        late = late_start(plain(name), 600, 5)
        network, sampler = Network(DATA, late), Run(late, [torch.Generator().manual_seed(seed) for seed in seeds])
        x = start_sample(late, DATA, torch.stack([white(16)[seed] for seed in seeds]))
        for t in late.timesteps:
            x = sampler.step(network(sampler.model_input(x, t), t), t, x)
        return x

    together = sample([0, 1, 2, 3])
    torch.testing.assert_close(torch.cat([sample([seed]) for seed in range(4)]), together, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(sample([0]), sample([1]))


def test_eta_makes_ddim_the_ancestral_sampler(monkeypatch):
    def spread(scheduler, eta):
        late = late_start(scheduler, 600, 10)
        sampler, network = Run(late, torch.Generator().manual_seed(0), eta), Network(DATA, late)
        x = start_sample(late, DATA, white(4000))
        for t in late.timesteps:
            x = sampler.step(network(sampler.model_input(x, t), t), t, x)
        return DATA.distance(x.mean(0), torch.cov(x.T, correction=0))

    assert spread(plain("DDIMScheduler"), 1.0) == pytest.approx(spread(plain("DDPMScheduler"), 1.0), rel=0.05)
    assert spread(plain("DDIMScheduler"), 0.0) == pytest.approx(0.270, rel=0.02)


# EDM and flow matching


def edm_time(sigma):
    return math.log(sigma) / 4


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("EDMEulerScheduler", {}),
        ("EDMEulerScheduler", {"sigma_schedule": "exponential", "prediction_type": "v_prediction"}),
        ("EDMDPMSolverMultistepScheduler", {}),
        ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ],
)
def test_edm_schedulers(name, options, monkeypatch):
    scheduler, errors = getattr(diffusers, name)(**options), []
    for n in (3, 10, 50):
        late = late_start(scheduler, edm_time(3.0), n)
        network = EDMNetwork(DATA, late)
        errors.append(error(DATA, late, network, monkeypatch))
        assert start_level(late) == pytest.approx(3.0, rel=1e-5)
        assert network.nfe == n
    assert errors[2] < 0.3 * errors[1] < 0.3 * 0.6 * errors[0]
    assert late.init_noise_sigma == 1
    assert float(start_sample(late, None, torch.ones(1))) == pytest.approx(math.sqrt(10))
    for sigma, message in ((90.0, "lies outside"), (0.001, "lies outside"), (0.002, "leaves no step")):
        with pytest.raises(ValueError, match=message):
            late_start(scheduler, edm_time(sigma), 5)


@pytest.mark.parametrize("t_start", [750, 1000])
@pytest.mark.parametrize(
    ("name", "options", "mu"),
    [
        ("FlowMatchEulerDiscreteScheduler", {}, None),
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_karras_sigmas": True}, None),
        ("FlowMatchEulerDiscreteScheduler", {"shift_terminal": 0.1}, None),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, 0.7),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "time_shift_type": "linear"}, 2.0),
        ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, None),
    ],
)
def test_flow_matching_schedulers(name, options, mu, t_start, monkeypatch):
    scheduler, errors = getattr(diffusers, name)(**options), []
    for n in (3, 10, 50):
        late = late_start(scheduler, t_start, n, mu=mu)
        network = Network(DATA, late, "flow")
        errors.append(error(DATA, late, network, monkeypatch))
        assert float(late.timesteps[0]) == pytest.approx(t_start, rel=1e-6)
        assert network.nfe == (2 * n - 1 if "Heun" in name else n)
        late.set_timesteps(n, device="cpu", **({} if mu is None else {"mu": mu}))
    assert errors[2] < 0.4 * errors[1] < 0.4 * 0.6 * errors[0]


def test_flow_matching_schedulers_refuse():
    flow = diffusers.FlowMatchEulerDiscreteScheduler
    for t_start in (0, 1001):
        with pytest.raises(ValueError, match="lies outside"):
            late_start(flow(), t_start, 5)
    with pytest.raises(ValueError, match="mu=None: expected a number"):
        late_start(flow(use_dynamic_shifting=True), 750, 5)
    with pytest.raises(ValueError, match=r"mu=0\.7"):
        late_start(flow(), 750, 5, mu=0.7)
    for option in ("invert_sigmas", "stochastic_sampling"):
        with pytest.raises(ValueError, match=option):
            late_start(flow(**{option: True}), 750, 5)


def test_a_changed_shift_is_kept():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_shift(3.0)
    late = late_start(scheduler, 750, 2)
    # the unshifted grid is 1/2, 1/4: the shift leads 1/2 to 3/4, and 1/4 to 1/2
    assert late.timesteps.tolist() == pytest.approx([750, 500])


def test_euler_in_continuous_time():
    options = {"timestep_type": "continuous", "prediction_type": "v_prediction", "sigma_min": 0.002, "sigma_max": 700.0}
    scheduler = make("EulerDiscreteScheduler", use_karras_sigmas=True, **options)
    late = late_start(scheduler, edm_time(3.0), 50)
    sampler, x = Run(late), start_sample(late, DATA, columns())
    for t in late.timesteps:
        sigma = math.exp(4 * float(t))
        clean = DATA.denoise(x, sigma)
        v = ((x - clean) / sigma - sigma * clean) / math.hypot(1, sigma)
        assert torch.allclose(sampler.model_input(x, t), x / math.hypot(1, sigma), rtol=1e-5)
        x = sampler.step(v, t, x)
    linear = x[1:] - x[0]
    assert DATA.distance(x[0], linear.T @ linear) < 0.1
    with pytest.raises(ValueError, match="continuous times"):
        late_start(make("EulerDiscreteScheduler", **options), edm_time(3.0), 5)


@pytest.mark.parametrize("name", [*(name for name in SAMPLERS if name != "kdpm2"), "prior"])
def test_own_last_times_are_those_of_the_whole_schedule(name):
    """Each sampler over evenly spread times down to a chosen one: exact levels, and data at a point is reached."""
    trained = diffusers.DDPMScheduler(clip_sample=False)
    inside = ls.Gaussian(DATA.mean, Dense((8,), DATA.basis), DATA.variances)
    made = make_sampler(name, trained, inside if name == "prior" else None)
    for t_start, last, times in ((1000, 60, [999, 764, 530, 295, 60]), (600, 40, [599, 459, 320, 180, 40])):
        late = late_start(made, t_start, 5, last=last)
        assert list(dict.fromkeys(late.timesteps.tolist())) == times
        assert start_level(late) == pytest.approx(Noise.from_scheduler(trained).sigma(float(t_start - 1)), rel=1e-6)
        net = Network(DATA, late)
        x = run(copy.deepcopy(late), net, start_sample(late, DATA, columns()))
        again = run(late, net, start_sample(late, DATA, columns()))
        assert torch.equal(x, again) and x.isfinite().all()
    coarse, fine = (error_with_last(made, n) for n in (6, 48))
    assert fine < 0.5 * coarse or coarse < 0.01


def error_with_last(made, n):
    late = late_start(made, 700, n, last=3)
    noisy = late.config.get("algorithm_type") == "sde-dpmsolver++"
    noisy |= any(word in type(late).__name__ for word in ("DDPM", "Ancestral"))
    return (sampled_error if noisy else error)(DATA, late, Network(DATA, late))


def test_a_last_time_that_leaves_no_room_is_refused():
    for last, said in ((398, "leaves no room for 5 evaluations from t = 399"), (-1, "last=-1"), (2.5, "last=2.5")):
        with pytest.raises(ValueError, match=said):
            late_start(diffusers.DDIMScheduler(), 400, 5, last=last)
    with pytest.raises(ValueError, match="its times are no indices of a schedule"):
        late_start(diffusers.FlowMatchEulerDiscreteScheduler(), 500, 5, last=30)


def test_a_last_time_beside_levels_or_between_them_is_refused():
    trained = diffusers.DDPMScheduler(clip_sample=False)
    for name in ("euler", "dpm++", "unipc", "heun"):
        for spacing in ("karras", "log-snr", "karras+1"):
            with pytest.raises(ValueError, match="its spacing spreads levels and not times"):
                late_start(make_sampler(name, trained, spacing=spacing), 600, 5, last=40)
    for kind in (diffusers.KDPM2DiscreteScheduler, diffusers.KDPM2AncestralDiscreteScheduler):
        with pytest.raises(ValueError, match="evaluates between its levels"):
            late_start(kind.from_config(trained.config), 600, 5, last=40)
    for scheduler, t in ((diffusers.EDMEulerScheduler(), 0.27), (diffusers.FlowMatchEulerDiscreteScheduler(), 20)):
        with pytest.raises(ValueError, match="no indices of a schedule"):
            late_start(scheduler, t, 5, last=30)
    silent = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    with pytest.raises(ValueError, match="nothing of the image is left at t = 999"):
        late_start(silent, 1000, 5, last=40)


def test_own_times_are_the_general_form_of_a_last_one():
    made = make_sampler("dpm++", diffusers.DDPMScheduler(clip_sample=False))
    by_last, own = late_start(made, 600, 5, last=40), late_start(made, None, 5, times=(599, 459, 320, 180, 40))
    ends = [run(s, Network(DATA, s), start_sample(s, DATA, columns())) for s in (by_last, own)]
    assert torch.equal(*ends) and torch.equal(by_last.timesteps, own.timesteps)
    again = late_start(made, 600, 5, times=own.timesteps)
    assert torch.equal(again.timesteps, own.timesteps) and again.whole().config == made.config


@pytest.mark.parametrize("name", [*(name for name in SAMPLERS if name not in ("kdpm2", "pndm")), "prior"])
@pytest.mark.parametrize("top", [600, 1000])
def test_uneven_times_come_to_the_data(name, top, monkeypatch):
    """Each sampler over times that fall as a square, from full noise too: at each of them, and nearer with more."""
    trained = diffusers.DDPMScheduler(clip_sample=False)
    inside = ls.Gaussian(DATA.mean, Dense((8,), DATA.basis), DATA.variances)
    made = make_sampler(name, trained, inside if name == "prior" else None)
    errors = []
    for n in (6, 48):
        times = sorted({round((top - 1) * (k / n) ** 2) for k in range(1, n + 1)}, reverse=True)
        late = late_start(made, None, len(times), times=times)
        assert list(dict.fromkeys(late.timesteps.tolist())) == times
        errors.append(error(DATA, late, Network(DATA, late), monkeypatch))
    assert errors[1] < 0.5 * errors[0] or errors[0] < 0.02


@pytest.mark.parametrize(
    ("made", "network"),
    [
        *((make_sampler(name, diffusers.EDMEulerScheduler()), EDMNetwork) for name in ("euler", "dpm++")),
        *(
            (kind(shift=3.0), lambda data, late: Network(data, late, "flow"))
            for kind in (diffusers.FlowMatchEulerDiscreteScheduler, diffusers.FlowMatchHeunDiscreteScheduler)
        ),
    ],
    ids=lambda one: type(one).__name__,
)
def test_own_times_of_edm_and_flow_matching(made, network):
    noise = Noise.from_scheduler(made)
    inside = ls.Gaussian(DATA.mean, Dense((8,), DATA.basis), DATA.variances)
    for sampler in (made, make_sampler("prior", made, inside)):
        errors = []
        for n in (6, 48):
            levels = 3.0 * (torch.arange(n, 0, -1, dtype=torch.float64) / n) ** 3 + 0.002
            times = noise.time(levels).tolist()
            late = late_start(sampler, None, n, times=times)
            assert start_level(late) == pytest.approx(3.002, rel=1e-4)
            stands = torch.tensor([float(t) for t in dict.fromkeys(late.timesteps.tolist())], dtype=torch.float64)
            torch.testing.assert_close(stands, torch.tensor(times, dtype=torch.float64), rtol=1e-5, atol=1e-5)
            again = copy.deepcopy(late)
            again.set_timesteps(n)
            ends = [run(s, network(DATA, s), start_sample(s, DATA, columns())) for s in (late, again)]
            assert torch.equal(*ends)
            errors.append(error(DATA, late, network(DATA, late)))
            assert late.whole().config == sampler.config
        assert errors[1] < 0.5 * errors[0] or errors[0] < 0.02


def test_own_times_that_cannot_be():
    trained = diffusers.DDIMScheduler(clip_sample=False)
    for times, said in (
        ((500, 300), "expected one for each of 3 steps, received 2"),
        ((300, 500, 100), "expected falling times of the schedule, from 999 to 0"),
        ((500, 500, 100), "expected falling times"),
        ((1000, 500, 100), "expected falling times"),
        ((500, 100, -1), "expected falling times"),
        ((500, 100.5, 2), "t = 100.5: expected whole times"),
        ((500, "low", 2), "expected falling numbers"),
        (500, "expected falling numbers"),
    ):
        with pytest.raises(ValueError, match=said):
            late_start(trained, None, 3, times=times)
    with pytest.raises(ValueError, match="t_start=600 begins at t = 599, and times at 500"):
        late_start(trained, 600, 3, times=(500, 300, 100))
    with pytest.raises(ValueError, match="expected own times or a last one"):
        late_start(trained, 501, 3, times=(500, 300, 100), last=40)
    with pytest.raises(ValueError, match="spreads levels and not times"):
        late_start(make_sampler("dpm++", trained, "karras"), None, 3, times=(500, 300, 100))
    with pytest.raises(ValueError, match="expected falling times of the schedule, from 1000 to 0"):
        late_start(diffusers.FlowMatchEulerDiscreteScheduler(), None, 2, times=(1001, 3))


def test_over_chosen_times_every_method_takes_them():
    """Noise is added at the very times; a time that was not chosen is named."""
    trained = diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    late = late_start(trained, 600, 5, last=40)
    x, eps, t = torch.randn(3, 8), torch.randn(3, 8), late.timesteps[[0, 2, 4]]
    torch.testing.assert_close(late.add_noise(x, eps, t), trained.add_noise(x, eps, t), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(late.get_velocity(x, eps, t), trained.get_velocity(x, eps, t), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"some of this run's times \[599, 459, 320, 180, 40\], received 500"):
        late.step(x, 500, x)
    solver = late_start(make_sampler("dpm++", trained), 600, 5, last=40)
    assert solver.index_for_timestep(599) == 0 and solver.index_for_timestep(40) == 4
