import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LCMScheduler,
    PNDMScheduler,
)

from latestart import zoo
from latestart.denoisers.networks import as_model
from latestart.gaussians.basis import Dense, Diagonal
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.sampling.generate import generate
from latestart.sampling.loop import draw
from latestart.sampling.matching import check_prior
from latestart.sampling.samplers import SAMPLERS, make_sampler
from latestart.sampling.seeds import sample_generator

TRAILING = {"timestep_spacing": "trailing"}


@pytest.fixture(scope="module")
def data():
    """An anisotropic Gaussian of images 2 x 2, well inside the range of images."""
    q, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    mean = torch.tensor([[[0.3, -0.2], [0.1, 0.0]]], dtype=torch.float64)
    return Gaussian(mean, Dense((1, 2, 2), q), torch.tensor([1.0, 0.3, 0.1, 0.01]))


def _moments(samples):
    rows = samples.flatten(1).double()
    return rows.mean(0), rows.T.cov()


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(clip_sample=False, **TRAILING),
        DDPMScheduler(clip_sample=False, **TRAILING),
        EulerAncestralDiscreteScheduler(**TRAILING),
        EulerDiscreteScheduler(**TRAILING),
    ],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("late", [False, True])
def test_a_sample_depends_on_the_seed_and_its_index_alone(data, scheduler, late):
    model = as_model(data, scheduler)
    start = {"prior": data, "t_start": 500} if late else {}
    whole = generate(model, scheduler, n=5, steps=4, seed=3, **start).samples
    for n, batch_size in ((5, 2), (3, 1), (4, 3)):
        part = generate(model, scheduler, n=n, steps=4, seed=3, batch_size=batch_size, **start).samples
        torch.testing.assert_close(part, whole[:n], rtol=1e-5, atol=1e-5)
    other = generate(model, scheduler, n=5, steps=4, seed=4, **start).samples
    assert ((other - whole).abs().flatten(1).amax(1) > 1e-2).all()


def test_samples_of_neighbouring_seeds_and_indices_are_unrelated():
    draws = torch.stack([torch.randn(4000, generator=sample_generator(s, i)) for s in range(3) for i in range(3)])
    correlation = torch.corrcoef(draws) - torch.eye(9)
    assert correlation.abs().max() < 0.08


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (DDIMScheduler(), lambda n: n),
        (DDPMScheduler(), lambda n: n),
        (PNDMScheduler(skip_prk_steps=True), lambda n: n + 1),
        (HeunDiscreteScheduler(), lambda n: 2 * n - 1),
    ],
    ids=lambda s: type(s).__name__,
)
def test_network_evaluations_are_counted(data, scheduler, expected):
    calls = []

    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = as_model(data, scheduler)
            self.config, self.sample_shape = self.inner.config, self.inner.sample_shape
            self.dtype, self.device = torch.float32, torch.device("cpu")

        def forward(self, x, t):
            calls.append(len(x))
            return self.inner(x, t)

    for steps in (3, 5):
        calls.clear()
        result = generate(Spy(), scheduler, n=7, steps=steps, batch_size=4)
        assert result.nfe == expected(steps) == len(calls) / 2 == sum(calls) / 7
        calls.clear()
        late = generate(Spy(), scheduler, prior=None, t_start=600, n=7, steps=steps, batch_size=7)
        assert late.nfe == expected(steps) == len(calls)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm++", "euler"])
def test_late_start_with_the_true_prior_converges_to_the_data(data, sampler):
    """Gaussian data, its own Gaussian as prior: the start is exact, and the error goes to 0 as steps grow."""
    scheduler = make_sampler(sampler, DDPMScheduler(clip_sample=False), **TRAILING)
    model = as_model(data, scheduler)
    errors = []
    for steps in (3, 12, 48):
        samples = generate(model, scheduler, data, n=1500, steps=steps, t_start=600, batch_size=1500).samples
        mean, cov = _moments(samples)
        errors.append(float((cov.diagonal().sum() - data.variances.sum()).abs() / data.variances.sum()))
        assert (mean - data.mean.flatten()).abs().max() < 0.1
    assert errors[0] > 1.5 * errors[-1]
    assert errors[-1] < 0.15


def test_given_noise_replaces_the_seeds(data):
    scheduler = DDIMScheduler(clip_sample=False, **TRAILING)
    model = as_model(data, scheduler)
    z = torch.stack([torch.randn(data.shape, generator=sample_generator(5, i)) for i in range(6)])
    drawn = generate(model, scheduler, data, n=6, steps=5, t_start=500, seed=5)
    given = generate(model, scheduler, data, steps=5, t_start=500, noise=z, batch_size=4)
    torch.testing.assert_close(given.samples, drawn.samples)


def test_results_say_where_they_began(data):
    scheduler = DDIMScheduler(clip_sample=False, **TRAILING)
    result = generate(as_model(data, scheduler), scheduler, data, n=3, steps=5, t_start=503)
    alpha_bar = float(scheduler.alphas_cumprod[499])
    assert result.timesteps == (499, 399, 299, 199, 99)
    assert result.sigma == pytest.approx(((1 - alpha_bar) / alpha_bar) ** 0.5, rel=1e-5)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    inside = (result.samples.abs() < 1).nonzero(as_tuple=True)
    torch.testing.assert_close(result.images[inside], result.samples[inside] / 2 + 0.5)


def test_every_sampler_by_name_denoises_to_the_data(data):
    for name in SAMPLERS:
        trained = DDPMScheduler(clip_sample=False)
        scheduler = make_sampler(name, trained, **TRAILING)
        assert torch.equal(scheduler.alphas_cumprod, trained.alphas_cumprod), name
        samples = generate(as_model(data, scheduler), scheduler, data, n=400, steps=20, t_start=600).samples
        mean, cov = _moments(samples)
        assert (mean - data.mean.flatten()).abs().max() < 0.2, name
        assert cov.diagonal().sum() == pytest.approx(float(data.variances.sum()), rel=0.3), name
    with pytest.raises(ValueError, match=r"no sampler 'magic'; there are ddpm, ddim"):
        make_sampler("magic", DDPMScheduler())
    with pytest.raises(ValueError, match="DEISMultistepScheduler has no setting clip_sample"):
        make_sampler("deis", DDPMScheduler(), clip_sample=True)


def test_pushed_noise_reproduces_the_full_run():
    """The same white noise, pushed to the prior at t = 600 or run down from full noise, becomes the same digit."""
    mnist = zoo.load("mnist")
    scheduler = make_sampler("ddim", mnist.scheduler, **TRAILING)
    full = generate(mnist.model, scheduler, n=12, steps=50, seed=0).samples.flatten(1)
    late = generate(mnist.model, scheduler, mnist.prior, n=12, steps=50, t_start=600, seed=0).samples.flatten(1)
    correlation = [float(torch.corrcoef(torch.stack(pair))[0, 1]) for pair in zip(full, late)]
    assert sum(correlation) / len(correlation) > 0.9


def test_a_prior_in_another_range_is_refused(data):
    mnist = zoo.load("mnist")
    check_prior(mnist.model, mnist.scheduler, mnist.prior)
    prior = mnist.prior
    for mean, scale in ((prior.mean / 2 + 0.5, 0.5), (prior.mean * 127.5 + 127.5, 127.5)):
        foreign = Gaussian(mean, prior.basis, prior.variances * scale**2)
        with pytest.raises(ValueError, match=r"different values.*prior runs from .* that of the model from"):
            generate(mnist.model, mnist.scheduler, foreign, n=2, steps=3, t_start=400)
    with pytest.raises(ValueError, match=r"samples of shape \(1, 2, 2\), the model's samples are \(1, 28, 28\)"):
        generate(mnist.model, mnist.scheduler, data, n=2, steps=3, t_start=400)


PROCESSES = [(DDIMScheduler(**TRAILING), 400), (EDMEulerScheduler(), 0.2), (FlowMatchEulerDiscreteScheduler(), 600)]


@pytest.mark.parametrize("scale", [1 / 127.5, 0.1, 4, 127.5])
@pytest.mark.parametrize(("scheduler", "t_start"), PROCESSES, ids=["vp", "edm", "flow"])
def test_a_prior_of_another_scale_about_the_same_mean_is_refused(data, scale, scheduler, t_start):
    centred = Gaussian(torch.zeros_like(data.mean), data.basis, data.variances)
    model = as_model(centred, scheduler)
    check_prior(model, scheduler, centred)
    foreign = Gaussian(centred.mean, data.basis, data.variances * scale**2)
    with pytest.raises(ValueError, match="speak of different values"):
        generate(model, scheduler, foreign, n=2, steps=3, t_start=t_start)
    shifted = Gaussian(centred.mean / 2 + 100, data.basis, data.variances)
    with pytest.raises(ValueError, match="different values"):
        generate(model, scheduler, shifted, n=2, steps=3, t_start=t_start)


def test_a_prior_without_variance_is_compared_too(data):
    scheduler = DDIMScheduler(**TRAILING)
    flat = Gaussian(data.mean, data.basis, torch.zeros(4))
    with pytest.raises(ValueError, match="speak of different values"):
        check_prior(as_model(data, scheduler), scheduler, flat)


class Conditional(torch.nn.Module):
    """An exact model of several classes, each a denoiser."""

    def __init__(self, scheduler, *sides):
        super().__init__()
        self.each = [as_model(side, scheduler) for side in sides]
        self.sample_shape, self.dtype, self.device = sides[0].shape, torch.float64, torch.device("cpu")
        self.config = SimpleNamespace(num_class_embeds=len(sides))

    def forward(self, x, t, class_labels):
        out = torch.stack([model(x, t).sample for model in self.each])
        return SimpleNamespace(sample=out[class_labels, torch.arange(len(x))])


def test_a_prior_of_one_class_is_compared_with_that_class(data):
    """Two well separated classes: a prior of one suits that one alone."""
    scheduler = DDIMScheduler(clip_sample=False, **TRAILING)
    far = Gaussian(data.mean + 5, data.basis, data.variances)
    model = Conditional(scheduler, data, far)
    samples = generate(model, scheduler, far, n=40, steps=5, t_start=500, labels=1).samples
    assert (samples.mean(0) - far.mean).abs().max() < 1
    mixed = generate(model, scheduler, n=40, steps=5, labels=np.arange(40) % 2, batch_size=7).samples
    assert (mixed[1::2].mean() - mixed[::2].mean() - 5).abs() < 1
    with pytest.raises(ValueError, match="speak of different values"):
        generate(model, scheduler, far, n=2, steps=5, t_start=500, labels=0)
    with pytest.raises(ValueError, match=r"classes 0 to 1, received labels \[2\]"):
        generate(model, scheduler, far, n=2, labels=2, t_start=500)
    with pytest.raises(ValueError, match="classes 0 to 1: expected labels, received none"):
        generate(model, scheduler, far, n=2)
    asked = generate(model, scheduler, far, n=40, steps=5, labels=torch.ones(40, dtype=torch.int64)).samples
    assert (asked.mean(0) - far.mean).abs().max() < 1  # the start is chosen for the class asked for


def test_a_mixture_with_labels_starts_each_sample_in_its_class(data):
    scheduler = DDIMScheduler(clip_sample=False, **TRAILING)
    far = Gaussian(data.mean + 5, data.basis, data.variances)
    prior = Mixture([data, far], labels=torch.tensor([0, 1]))
    model, labels = Conditional(scheduler, data, far), torch.arange(60) % 2
    run = {"steps": 30, "t_start": 300, "n": 60, "labels": labels}
    samples = generate(model, scheduler, prior, **run).samples
    for k, side in enumerate((data, far)):
        assert (samples[labels == k].mean(0) - side.mean).abs().max() < 1
    again = generate(model, scheduler, prior, **run, batch_size=7).samples
    torch.testing.assert_close(again, samples)
    with pytest.raises(ValueError, match="there is no component of class 1"):
        generate(model, scheduler, prior.of_class(0), **run)


def test_vectors_are_samples_too():
    """Exact models need not be of images."""
    scheduler = DDIMScheduler(clip_sample=False, **TRAILING)
    data = Gaussian(torch.zeros(8), Dense((8,), torch.eye(8)), torch.logspace(-2, 0, 8))
    samples = generate(as_model(data, scheduler), scheduler, data, n=2000, steps=30, t_start=600).samples
    torch.testing.assert_close(samples.var(0), data.variances.float(), rtol=0.2, atol=0.01)


def test_a_schedule_that_ends_in_pure_noise(data):
    scheduler = DDIMScheduler(
        clip_sample=False, rescale_betas_zero_snr=True, prediction_type="v_prediction", **TRAILING
    )
    samples = generate(as_model(data, scheduler), scheduler, n=1000, steps=60).samples
    assert samples.flatten(1).var(0).sum() == pytest.approx(float(data.variances.sum()), rel=0.15)


def test_bad_input_costs_no_evaluation(data):
    """Whatever can be known to be wrong beforehand is said before a start is chosen."""
    scheduler = DDIMScheduler(**TRAILING)

    class Untouchable(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.sample_shape, self.dtype, self.device = (1, 2, 2), torch.float64, torch.device("cpu")
            self.config = SimpleNamespace()

        def forward(self, x, t):
            raise AssertionError("evaluated")

    model = Untouchable()
    wrong = [
        ({"n": 0}, "n=0"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"steps": 1001}, "1001 steps are more than the schedule's 1000"),
        ({"noise": torch.zeros(3, 1, 4, 4)}, r"noise of shape \(3, 1, 4, 4\)"),
        ({"noise": torch.full((3, 1, 2, 2), torch.nan)}, "finite"),
        ({"t_start": 1200}, "1200"),
    ]
    for arguments, message in wrong:
        with pytest.raises(ValueError, match=message):
            generate(model, scheduler, data, **arguments)
    with pytest.raises(ValueError, match="LCMScheduler cannot be late-started"):
        generate(model, LCMScheduler(), data)


def test_bad_input_is_named(data):
    scheduler = DDIMScheduler(**TRAILING)
    model = as_model(data, scheduler)
    for name, value in (("n", 0), ("steps", 0), ("steps", 2.5), ("batch_size", -1)):
        with pytest.raises(ValueError, match=rf"{name}={value}: expected a whole number of at least 1"):
            generate(model, scheduler, **{name: value})
    with pytest.raises(ValueError, match="first=-1: expected a whole number of at least 0"):
        generate(model, scheduler, n=2, first=-1)
    with pytest.raises(ValueError, match=r"\(1, 2, 2\), received noise of shape \(3, 1, 4, 4\)"):
        generate(model, scheduler, noise=torch.zeros(3, 1, 4, 4))
    with pytest.raises(ValueError, match=r"expected 3 labels, one for each .* of shape \(2,\)"):
        generate(model, scheduler, n=3, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="1200"):
        generate(model, scheduler, data, n=2, t_start=1200)
    with pytest.raises(ValueError, match="5 steps"):
        generate(model, scheduler, data, n=2, steps=5, t_start=4)


def test_a_network_that_returns_nan_is_named_with_its_level():
    """Refused before the sampling where the prior is compared with it, and at its step where it breaks later."""
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    prior = Gaussian(torch.zeros(4), Diagonal((4,)), torch.ones(4))

    class Broken:
        shape, dtype, device, sigma_range = (4,), torch.float32, torch.device("cpu"), (0.0, math.inf)

        def __init__(self, below):
            self.below = below

        def __call__(self, y, sigma):
            return prior(y, sigma) * (math.nan if float(torch.as_tensor(sigma).max()) < self.below else 1)

    with pytest.raises(ValueError, match=r"model returned 128 values that are NaN or infinite at sigma = \d"):
        check_prior(as_model(Broken(1e9), scheduler), scheduler, prior)
    late = Broken(0.8)
    check_prior(as_model(late, scheduler), scheduler, prior)
    with pytest.raises(FloatingPointError, match=r"8 values of the samples .* after the step from t = 199"):
        draw(as_model(late, scheduler), scheduler, prior, 2, 3, 600)
