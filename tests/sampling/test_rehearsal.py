"""What a run asks of scheduler and network: variances that are learned, combinations that go wrong, names."""

import warnings

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    KDPM2AncestralDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

import latestart as ls
from latestart.denoisers.exact import PointCloud
from latestart.sampling.late_start import late_start
from latestart.sampling.loop import draw
from latestart.sampling.run import Run, rehearse, uses_variances
from latestart.sampling.samplers import make_sampler, usual_sampler

TRAILING = {"timestep_spacing": "trailing"}
MANY = {
    "DDIM": DDIMScheduler(clip_sample=False, **TRAILING),
    "DDPM": DDPMScheduler(clip_sample=False, variance_type="fixed_large", **TRAILING),
    "DPM++": DPMSolverMultistepScheduler(**TRAILING),
    "DPM++ of a configuration that learned": DPMSolverMultistepScheduler(variance_type="learned_range", **TRAILING),
    "Euler": EulerDiscreteScheduler(**TRAILING),
    "UniPC": UniPCMultistepScheduler(**TRAILING),
}


def exact(channels, scheduler, seed=0):
    g = torch.Generator().manual_seed(seed)
    return ls.as_model(PointCloud(torch.randn(6, channels, 4, 4, generator=g) / 2), scheduler)


def with_variances(model, fraction):
    """A network that gives variances behind its prediction: `fraction` is +-1 at the ends of their range."""

    def call(x, t):
        out = model(x, t).sample
        return torch.cat([out, torch.full_like(out, fraction)], 1)

    return ls.as_network(call, shape=model.sample_shape)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("late", [False, True])
def test_variances_that_are_not_asked_for_change_nothing(name, channels, late):
    scheduler, model = MANY[name], exact(channels, MANY["DDIM"])
    prior = ls.Gaussian.fit(
        torch.randn(99, channels, 4, 4, generator=torch.Generator().manual_seed(1)), basis="isotropic"
    )
    start = (prior, 3, 4, 500) if late else (None, 3, 4)
    plain, both = (draw(network, scheduler, *start).samples for network in (model, with_variances(model, 0.3)))
    assert plain.shape == (3, channels, 4, 4) and torch.equal(plain, both)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("fraction", "fixed"), [(-1.0, "fixed_small"), (1.0, "fixed_large")])
def test_variances_that_are_asked_for_are_used(channels, fraction, fixed):
    """At the lower end of their range they are the posterior's, at the upper end beta: diffusers' two fixed ones."""
    learned, known = (
        DDPMScheduler(clip_sample=False, variance_type=kind, **TRAILING) for kind in ("learned_range", fixed)
    )
    model = exact(channels, known)
    assert uses_variances(learned) and not uses_variances(known)
    used = draw(with_variances(model, fraction), learned, None, 3, 8).samples
    expected = draw(model, known, None, 3, 8).samples
    # fixed_small is clamped at 1e-20, which is far below what the last step adds
    torch.testing.assert_close(used, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        ValueError, match=rf"gives {channels} channels, none of them variances: expected {2 * channels}"
    ):
        draw(model, learned, None, 3, 8)


@pytest.mark.parametrize("variances", ["fixed_large", "learned_range"])
@pytest.mark.parametrize("late", [False, True])
def test_a_run_of_ddpm_ends_without_noise(variances, late):
    """From the last of trailing times its classes add the noise of the whole step; the mean is the predicted image."""
    point = torch.full((1, 1, 4, 4), 0.3)
    scheduler = DDPMScheduler(clip_sample=False, variance_type=variances, **TRAILING)
    model = with_variances(ls.as_model(PointCloud(point), scheduler), 1.0)
    prior = ls.Gaussian.fit(0.3 + 0.1 * torch.randn(99, 1, 4, 4, generator=torch.Generator().manual_seed(1)))
    start = (prior, 3, 5, 500) if late else (None, 3, 5)
    assert (draw(model, scheduler, *start).samples - 0.3).abs().max() < 1e-3
    own = late_start(scheduler, 500, 5) if late else None
    if own is not None and variances != "learned_range":
        x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        plain = ls.as_model(PointCloud(point), scheduler)
        for _ in range(2):  # in a loop of one's own, with both forms of what a step returns, run twice
            for t in own.timesteps:
                x = own.step(plain(x, t).sample, t, x).prev_sample
            assert (x - 0.3).abs().max() < 1e-3
            for t in own.timesteps:
                x = own.step(plain(x, t).sample, t, x, return_dict=False)[0]
            assert (x - 0.3).abs().max() < 1e-3


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(
    "scheduler",
    [*MANY.values(), DDPMScheduler(variance_type="learned_range"), DDPMScheduler()],
    ids=lambda s: type(s).__name__,
)
def test_transformers_sample_with_every_scheduler(scheduler, learned):
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        2, 8, in_channels=3, out_channels=6 if learned else 3, num_layers=1, sample_size=4, num_embeds_ada_norm=10
    ).eval()
    if scheduler.config.get("variance_type") == "learned_range" and uses_variances(scheduler) and not learned:
        pytest.skip("such a network has no variances")
    result = ls.generate(network, scheduler, n=3, steps=3, labels=torch.tensor([0, 4, 9]))
    assert result.samples.shape == (3, 3, 4, 4) and result.samples.isfinite().all()
    again = ls.generate(network, scheduler, n=1, steps=3, labels=4, first=1)
    torch.testing.assert_close(again.samples[0], result.samples[1], rtol=1e-4, atol=1e-4)


WRONG = {
    "UniPC bh1 to sigma 0": (UniPCMultistepScheduler(solver_type="bh1"), 5, "not finite"),
    "ancestral of images": (EulerAncestralDiscreteScheduler(prediction_type="sample"), 5, "fails with these settings"),
    "the root of a logarithm": (DDPMScheduler(variance_type="fixed_large_log"), 5, "not finite"),
    "an offset beyond the schedule": (DDIMScheduler(steps_offset=1), 1000, r"outside|1000"),
    "no signal, noise predicted, clipped": (
        DDIMScheduler(rescale_betas_zero_snr=True, clip_sample=True, **TRAILING), 4, "does not sample|not finite",
    ),
    "no signal, noise predicted": (
        DDIMScheduler(rescale_betas_zero_snr=True, clip_sample=False, **TRAILING), 4, "does not sample|not finite",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_goes_wrong_in_diffusers_is_refused_before_the_network_is_asked(name):
    scheduler, steps, message = WRONG[name]

    def network(x, t):
        raise AssertionError("evaluated")

    model = ls.as_network(network, shape=(1, 4, 4))
    with pytest.raises(ValueError, match=message):
        ls.generate(model, scheduler, n=2, steps=steps)
    if steps < 1000:
        with pytest.raises(ValueError, match=message):
            late_start(scheduler, 1000, steps)


def test_times_that_are_nan_are_told():
    with pytest.raises(ValueError, match=r"KDPM2AncestralDiscreteScheduler cannot be late-started: .* nan"):
        late_start(KDPM2AncestralDiscreteScheduler(beta_schedule="squaredcos_cap_v2"), 1000, 4)


@pytest.mark.parametrize(
    "scheduler",
    [
        UniPCMultistepScheduler(solver_type="bh2"),
        UniPCMultistepScheduler(solver_type="bh1", final_sigmas_type="sigma_min"),
        EulerAncestralDiscreteScheduler(prediction_type="v_prediction"),
        DDIMScheduler(steps_offset=1),
        DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", **TRAILING),
        KDPM2AncestralDiscreteScheduler(),
        EDMEulerScheduler(),
        EDMDPMSolverMultistepScheduler(),
        FlowMatchEulerDiscreteScheduler(),
        FlowMatchHeunDiscreteScheduler(),
    ],
    ids=lambda one: type(one).__name__,
)
def test_a_rehearsal_leaves_a_scheduler_that_arrives_as_it_was(scheduler):
    scheduler.set_timesteps(6)
    before = scheduler.timesteps.clone(), getattr(scheduler, "_step_index", None), dict(scheduler.config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rehearse(scheduler, float(getattr(scheduler, "init_noise_sigma", 1.0)))
    assert torch.equal(before[0], scheduler.timesteps) and dict(scheduler.config) == before[2]
    assert getattr(scheduler, "_step_index", None) == before[1]


def test_a_rehearsal_sees_a_scheduler_that_does_not_arrive():
    """A class of someone's own whose steps are half as long as they should be."""

    class Short(DDIMScheduler):
        def step(self, model_output, timestep, sample, **options):
            after = super().step(model_output, timestep, sample, **options)[0]
            return (0.5 * (sample + after),)

    scheduler = Short(clip_sample=False, **TRAILING)
    scheduler.set_timesteps(4)
    with pytest.raises(
        ValueError, match=r"Short does not sample what a network predicts .* data that are all 0 come out"
    ):
        rehearse(scheduler, 1.0)
    Run(scheduler)


KINDS = [
    ("vp", DDPMScheduler(clip_sample=False), DDIMScheduler),
    ("edm", EDMEulerScheduler(), EDMEulerScheduler),
    ("edm", EDMDPMSolverMultistepScheduler(), EDMDPMSolverMultistepScheduler),
    ("flow", FlowMatchEulerDiscreteScheduler(shift=3.0), FlowMatchEulerDiscreteScheduler),
    ("flow", FlowMatchHeunDiscreteScheduler(), FlowMatchHeunDiscreteScheduler),
]


@pytest.mark.parametrize(("kind", "trained", "usual"), KINDS, ids=lambda one: getattr(one, "__name__", ""))
def test_samplers_are_those_of_the_models_process(kind, trained, usual):
    assert type(usual_sampler(None, trained)) is usual
    assert type(make_sampler("own", trained)) is type(trained)
    if kind == "vp":
        return
    made = make_sampler("euler", trained)
    assert type(made) in (EDMEulerScheduler, FlowMatchEulerDiscreteScheduler)
    shared = [name for name in made.config if name in trained.config and not name.startswith("_")]
    assert {name: made.config[name] for name in shared} == {name: trained.config[name] for name in shared}
    with pytest.raises(
        ValueError, match=rf"'ddim' is for beta-based schedules, and the model's is of the kind {kind}: "
    ):
        make_sampler("ddim", trained)
    with pytest.raises(ValueError, match="there is no sampler 'nothing'"):
        make_sampler("nothing", trained)


@pytest.mark.parametrize(("kind", "trained", "usual"), KINDS, ids=lambda one: getattr(one, "__name__", ""))
def test_a_start_is_chosen_by_generate_for_every_process(kind, trained, usual):
    """The same start as `choose_start` finds, from the same prior, whatever the process."""
    g = torch.Generator().manual_seed(0)
    half = 0.2 * torch.randn(300, 4, generator=g) + torch.tensor([1.0, 0, 0, 0])
    images = torch.cat([half, -half])
    prior = ls.Gaussian.fit(images, basis="dense")
    mixture = ls.Mixture.fit(images, labels=torch.arange(2).repeat_interleave(300), basis="dense")
    scheduler = usual_sampler(None, trained)
    model = ls.as_model(ls.Mixture(mixture.components, mixture.weights), trained)
    chosen = ls.choose_start(model, scheduler, prior, steps=4)
    asked = ls.generate(model, scheduler, prior, n=3, steps=4)
    told = ls.generate(model, scheduler, prior, n=3, steps=4, t_start=chosen.t_start)
    assert torch.equal(asked.samples, told.samples) and 0.3 < asked.sigma < 30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_inference_steps": 5}, "'num_inference_steps': here it is steps"),
        ({"generator": torch.Generator()}, "'generator': here it is seed"),
        ({"latents": torch.zeros(2, 4)}, "'latents': here it is noise"),
        ({"class_labels": 3}, "'class_labels': here it is labels"),
        ({"encoder_hidden_states": 3}, "here it is model_kwargs={'encoder_hidden_states'"),
        ({"strength": 0.5}, "here it is t_start"),
        ({"nonsense": 3}, r"generate\(\) got an unexpected keyword argument 'nonsense'$"),
    ],
)
def test_names_of_diffusers_are_recognised(given, message):
    with pytest.raises(TypeError, match=message):
        ls.generate(exact(1, MANY["DDIM"]), MANY["DDIM"], **given)


def test_names_of_diffusers_are_recognised_by_every_function():
    scheduler = MANY["DDIM"]
    for call, message in (
        (lambda: ls.late_start(scheduler, 500, num_inference_steps=3), r"late_start\(\) .*: here it is steps"),
        (lambda: ls.start_sample(scheduler, None, None, class_labels=3), "here it is labels"),
        (lambda: ls.check(None, scheduler, None, None, class_labels=3), "here it is labels"),
        (lambda: ls.choose_start(None, scheduler, None, latents=3), "'latents': choose_start has none"),
        (lambda: ls.generate(None, scheduler, guidance_scale=3), "'guidance_scale': guidance is the model's matter"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_schedulers_class_is_named_by_whatever_is_given_one():
    model = exact(1, MANY["DDIM"])
    for call in (
        lambda: ls.from_diffusers(model, DDIMScheduler),
        lambda: ls.as_model(PointCloud(torch.zeros(2, 1, 4, 4)), DDIMScheduler),
        lambda: ls.make_sampler("ddim", DDIMScheduler),
        lambda: ls.make_sampler("own", DDIMScheduler),
        lambda: ls.Noise.from_scheduler(DDIMScheduler),
    ):
        with pytest.raises(TypeError, match=r"received the class DDIMScheduler: make one, DDIMScheduler\(\)"):
            call()


def test_a_network_is_no_denoiser_and_says_how_it_becomes_one():
    network, point, images = exact(1, MANY["DDIM"]), torch.zeros(1, 4, 4), torch.randn(40, 1, 4, 4)
    prior = ls.Gaussian.fit(images)
    for call in (
        lambda: ls.nats(network, prior, images),
        lambda: ls.fixed_point(network, 1.0),
        lambda: ls.leading_eigenvalue(network, point, 1.0),
        lambda: ls.bifurcation_tree(network),
        lambda: ls.critical.sde(network),
        lambda: ls.critical.susceptibility(network),
        lambda: ls.as_model(network, MANY["DDIM"]),
    ):
        with pytest.raises(TypeError, match=r"received a DenoiserModel: a network becomes one by ls.from_diffusers"):
            call()


def test_what_a_scheduler_needs_besides_is_told():
    shifted = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    model = exact(1, MANY["DDIM"])
    for t_start in (None, 500):
        with pytest.raises(ValueError, match=r"mu.*ls.late_start\(scheduler, t_start, .*mu=\.\.\.\)"):
            ls.generate(model, shifted, n=2, steps=4, t_start=t_start)
    late = ls.late_start(shifted, 500, 4, mu=0.7)
    assert ls.generate(ls.as_model(PointCloud(torch.zeros(1, 1, 4, 4)), shifted), late, n=2, steps=4).nfe == 4
    with pytest.raises(ValueError, match=r"PNDMScheduler cannot be set to 3 steps .*; skip_prk_steps=True leaves out"):
        ls.generate(model, PNDMScheduler(), n=2, steps=3)


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", clip_sample=False, **TRAILING),
    ],
    ids=["flow", "zero terminal SNR"],
)
def test_a_start_without_any_signal_is_a_full_run(scheduler):
    """Where sigma is infinite the prior says nothing: the start sample is the noise, and there is nothing to doubt."""
    g = torch.Generator().manual_seed(0)
    prior = ls.Gaussian.fit(torch.randn(200, 1, 4, 4, generator=g) / 2)
    model, images = ls.as_model(prior, scheduler), prior.sample(60, g)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        late = ls.generate(model, scheduler, prior, n=3, steps=5, t_start=1000)
    assert late.sigma == float("inf")
    without = ls.generate(model, scheduler, n=3, steps=5, t_start=1000)
    torch.testing.assert_close(late.samples, without.samples, rtol=1e-4, atol=1e-4)
    found = ls.check(model, scheduler, prior, images, 1000, criteria=())
    assert found.verdict == "good" and "a start at t = " in found.sentence, found.sentence


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (DDIMScheduler, "received the class DDIMScheduler"),
        ("ddim", "expected a scheduler, received the text 'ddim': make or open one"),
        (None, "expected a diffusers scheduler, received a NoneType"),
    ],
)
def test_what_is_no_scheduler_is_named(wrong, message):
    with pytest.raises(TypeError, match=message):
        ls.generate(exact(1, MANY["DDIM"]), wrong, n=2)
    with pytest.raises(TypeError, match=message):
        ls.late_start(wrong, 500, 3)
