"""The contract of priors: what keeps it is taken everywhere, and what does not is told what it lacks."""

import math
import warnings

import pytest
import torch
from diffusers import DDIMScheduler

import latestart as ls
from latestart.gaussians.prior import Prior, StartDistribution, as_prior, as_start
from latestart.sampling.late_start import start_sample

SCHEDULER = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
IMAGES = 0.2 + torch.randn(600, 1, 3, 3, generator=torch.Generator().manual_seed(0)) / 2
GAUSSIAN = ls.Gaussian.fit(IMAGES, basis="isotropic")
MODEL = ls.as_model(GAUSSIAN, SCHEDULER)


class Isotropic(Prior):
    """`N(m, s^2)`, by the contract's own words: nothing else is given."""

    def __init__(self, mean, width):
        self.mean, self.width = mean, width

    shape = property(lambda self: tuple(self.mean.shape))
    device = property(lambda self: self.mean.device)
    dtype = property(lambda self: self.mean.dtype)

    def to(self, device=None, dtype=None):
        return Isotropic(self.mean.to(device=device, dtype=dtype), self.width)

    def noised(self, sigma):
        return Isotropic(self.mean, math.hypot(self.width, sigma))

    def push(self, z, labels=None):
        return self.mean.to(z) + self.width * z

    def __call__(self, y, sigma, labels=None):
        level = torch.as_tensor(sigma).to(y).view(-1, *[1] * (y.ndim - 1))
        return self.mean.to(y) + self.width**2 / (self.width**2 + level**2) * (y - self.mean.to(y))


class Duck:
    """The same without the base class, and no more than the three names that are needed, and a call."""

    def __init__(self, mean, width):
        self.mean, self.width, self.shape = mean, width, tuple(mean.shape)

    def noised(self, sigma):
        return Duck(self.mean, math.hypot(self.width, sigma))

    def push(self, z):
        return self.mean + self.width * z

    def __call__(self, y, sigma):
        return Isotropic(self.mean, self.width)(y, sigma)


class Drawn:
    """One that can be drawn from, and does not denoise."""

    def __init__(self, own):
        self.own, self.shape = own, own.shape

    def noised(self, sigma):
        return Drawn(self.own.noised(sigma))

    def push(self, z):
        return self.own.push(z)


MEAN, WIDTH = GAUSSIAN.mean, float(GAUSSIAN.variances[0].sqrt())


@pytest.mark.parametrize("prior", [Isotropic(MEAN, WIDTH), Duck(MEAN, WIDTH)], ids=["subclass", "of its own"])
def test_a_prior_of_ones_own_does_all_that_a_gaussian_does(prior, tmp_path):
    options = {"n": 5, "steps": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for start in ({}, {"t_start": 600}):
            received, expected = (ls.generate(MODEL, SCHEDULER, one, **options, **start) for one in (prior, GAUSSIAN))
            torch.testing.assert_close(received.samples, expected.samples, rtol=1e-4, atol=1e-4)
    late, z = ls.late_start(SCHEDULER, 600, 3), torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(start_sample(late, prior, z), start_sample(late, GAUSSIAN, z), rtol=1e-4, atol=1e-4)
    chosen, known = (ls.choose_start(MODEL, SCHEDULER, one, IMAGES[:99], 3) for one in (prior, GAUSSIAN))
    assert chosen.t_start == known.t_start
    one, two = (
        ls.check(MODEL, SCHEDULER, each, IMAGES[:99], 600, steps=3, evaluated=48, criteria=("nats",))
        for each in (prior, GAUSSIAN)
    )
    assert [finding.verdict for finding in one.findings] == [finding.verdict for finding in two.findings]
    curves = [ls.nats(GAUSSIAN, each, IMAGES[:50], [3.0, 1.0, 0.4], exact=True) for each in (prior, GAUSSIAN)]
    assert curves[0].nats.abs().max() < 1e-6 and curves[1].nats.abs().max() < 1e-6


def test_what_the_base_class_derives():
    prior = Isotropic(MEAN, WIDTH)
    one, two = (prior.sample(7, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two) and one.shape == (7, 1, 3, 3) and prior.sample(0).shape == (0, 1, 3, 3)
    assert prior.labels is None and prior.own_labels(torch.tensor([1])) is None and prior.for_labels(3) is prior
    assert prior.sigma_range == (0.0, math.inf)
    with pytest.raises(ValueError, match="n=-1: expected a whole number of at least 0"):
        prior.sample(-1)
    with pytest.raises(TypeError, match="abstract"):
        Prior()
    assert set(StartDistribution.__abstractmethods__) == {"shape", "device", "dtype", "to", "noised", "push"}
    assert Prior.__abstractmethods__ - StartDistribution.__abstractmethods__ == {"__call__"}
    for name in ("shape", "device", "dtype", "labels", "to", "noised", "push", "sample", "__call__"):
        assert hasattr(ls.Gaussian, name) and hasattr(ls.Mixture, name) and hasattr(Prior, name)


def test_the_path_of_a_file_is_a_prior(tmp_path):
    path = tmp_path / "prior.safetensors"
    GAUSSIAN.save(path)
    for form in (path, str(path)):
        received = ls.generate(MODEL, SCHEDULER, form, n=3, steps=3, t_start=500).samples
        assert torch.equal(received, ls.generate(MODEL, SCHEDULER, GAUSSIAN, n=3, steps=3, t_start=500).samples)
        assert ls.choose_start(MODEL, SCHEDULER, form, steps=3).t_start > 0
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        ls.generate(MODEL, SCHEDULER, tmp_path / "none.safetensors", n=2)


def test_one_that_does_not_denoise_starts_runs_and_is_not_chosen_by():
    drawn = Drawn(Isotropic(MEAN, WIDTH))
    received = ls.generate(MODEL, SCHEDULER, drawn, n=3, steps=3, t_start=500).samples
    expected = ls.generate(MODEL, SCHEDULER, GAUSSIAN, n=3, steps=3, t_start=500).samples
    torch.testing.assert_close(received, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(
        TypeError, match=r"choosing a start, where t_start is not given, needs .* a Drawn does not: make it a subclass"
    ):
        ls.generate(MODEL, SCHEDULER, drawn, n=3, steps=3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (3, "received a int, which lacks shape, noised, push"),
        (torch.zeros(1, 3, 3), "received a Tensor, which lacks noised, push"),
        (ls.Gaussian, "received the class Gaussian: fit or make one of it"),
        (SCHEDULER, "which lacks shape, noised, push"),
    ],
    ids=["number", "tensor", "class", "scheduler"],
)
def test_what_is_no_prior_is_told_what_it_lacks(wrong, message):
    for use in (as_start, as_prior, lambda one: ls.generate(MODEL, SCHEDULER, one, n=2, steps=3, t_start=500)):
        with pytest.raises(TypeError, match=message):
            use(wrong)


class Astray:
    """A denoiser that goes its own way below a level."""

    shape, dtype, device, sigma_range = GAUSSIAN.shape, GAUSSIAN.dtype, GAUSSIAN.device, (0.0, math.inf)

    def __call__(self, y, sigma):
        level = torch.as_tensor(sigma).to(y).view(-1, *[1] * (y.ndim - 1))
        return torch.where(level < 1, 2 * MEAN - GAUSSIAN(y, sigma), GAUSSIAN(y, sigma))


def test_sampling_says_where_the_network_does_not_follow_the_prior():
    model = ls.as_model(Astray(), SCHEDULER)
    with pytest.warns(
        UserWarning, match=r"at the start, t = 199 .* explains R\^2 = -\d.* check would call this start bad"
    ):
        ls.generate(model, SCHEDULER, GAUSSIAN, n=2, steps=2, t_start=200)
    assert (
        ls.check(model, SCHEDULER, GAUSSIAN, IMAGES[:99], 200, steps=2, evaluated=48, criteria=("nats",)).verdict
        == "bad"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ls.generate(model, SCHEDULER, GAUSSIAN, n=2, steps=2, t_start=600)
        ls.generate(model, SCHEDULER, GAUSSIAN, n=2, steps=2, t_start=200, check_prior=False)


def test_choosing_says_where_the_network_is_worse_than_the_prior():
    class Worse(Astray):
        def __call__(self, y, sigma):
            return 2 * MEAN - GAUSSIAN(y, sigma)

    asked = (ls.as_model(Worse(), SCHEDULER), SCHEDULER, GAUSSIAN, IMAGES[:99], 3)
    with pytest.warns(UserWarning, match="worse than the prior"):
        assert ls.choose_start(*asked, "nats", check_prior=False).doubts
    for method in ("nats", "probe"):
        assert not ls.choose_start(MODEL, SCHEDULER, GAUSSIAN, IMAGES[:99], 3, method).doubts


def test_a_prior_and_a_network_that_disagree_are_told_of_all_causes_with_both_spreads():
    bytes_ = ls.Gaussian.fit(127.5 * (IMAGES + 1), basis="isotropic")
    with pytest.raises(
        ValueError,
        match=r"another range .* or its prediction_type .* or the network is not trained; check_prior=False",
    ):
        ls.generate(MODEL, SCHEDULER, bytes_, n=2, steps=3, t_start=500)
    with pytest.raises(ValueError, match=r"spreads by \d+\.?\d* about the mean and what the model keeps by 0\.\d+"):
        ls.choose_start(MODEL, SCHEDULER, bytes_, steps=3)
    assert ls.generate(MODEL, SCHEDULER, bytes_, n=2, steps=3, t_start=500, check_prior=False).samples.isfinite().all()
    report = ls.check(MODEL, SCHEDULER, bytes_, IMAGES[:99], 500, evaluated=48, criteria=("nats",))
    assert report.verdict == "bad" and [one.verdict for one in report.findings if one.name == "prior"] == ["bad"]
