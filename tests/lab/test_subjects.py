"""The models of the experiments: one that predicts the image, handed on as one that predicts v."""

import pytest
import torch
from diffusers import DDPMScheduler

import latestart as ls
from latestart.denoisers.adapter import sample_shape
from latestart.denoisers.folders import load_model
from latestart.denoisers.networks import from_diffusers
from latestart.denoisers.wrappers import HalfPrecision, of_velocity
from latestart.gaussians.basis import Dense
from latestart.lab.subjects import open_network, weights
from latestart.sampling.loop import draw
from latestart.sampling.samplers import make_sampler
from tiny import tiny_folder

SHAPE = (1, 2, 2)
KINDS = ("epsilon", "v_prediction", "sample")
TRAINED = {kind: DDPMScheduler(prediction_type=kind, clip_sample=False) for kind in KINDS}


@pytest.fixture(scope="module")
def gaussian():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64)).Q
    mean = 0.3 * torch.randn(SHAPE, generator=generator)
    return ls.Gaussian(mean, Dense(SHAPE, basis), torch.tensor([0.3, 0.1, 0.03, 1e-4]).double())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network of random weights that predicts the image."""
    path = tiny_folder(tmp_path_factory.mktemp("network")) / "model"
    TRAINED["sample"].save_pretrained(path / "scheduler")
    return path


@pytest.mark.parametrize("name", ["pndm", "euler-ancestral", "kdpm2"])
def test_samplers_that_know_no_images_sample_a_network_that_predicts_them(gaussian, name):
    """And so as they sample the same model where it predicts v."""
    found = []
    for model, trained in (
        (ls.as_model(gaussian, TRAINED["v_prediction"]), TRAINED["v_prediction"]),
        of_velocity(ls.as_model(gaussian, TRAINED["sample"]), TRAINED["sample"]),
    ):
        found.append(draw(model, make_sampler(name, trained), None, 20, 8, seed=3).images)
    torch.testing.assert_close(found[1], found[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_network_that_predicts_images_is_sampled_as_it_was(folder, spacing):
    """By DDIM, from the highest level to the lowest."""
    network, scheduler = load_model(folder)
    opened, of_v, known = open_network(str(folder))
    assert known == weights(network, scheduler) and of_v.config.prediction_type == "v_prediction"
    assert sample_shape(opened) == (1, 8, 8) and opened.config.in_channels == 1
    plain, wrapped = (
        draw(model, make_sampler("ddim", trained, spacing=spacing, clip_sample=False), None, 8, 20, seed=1).images
        for model, trained in ((network, scheduler), (opened, of_v))
    )
    assert plain.std() > 0.01
    torch.testing.assert_close(wrapped, plain, atol=1e-4, rtol=0)


def test_the_denoiser_is_the_same_at_every_time(folder):
    network, scheduler = load_model(folder)
    opened, of_v, _ = open_network(str(folder))
    y = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    one, other = from_diffusers(network, scheduler), from_diffusers(opened, of_v)
    low, high = one.sigma_range
    sigma = torch.logspace(torch.tensor(low).log10(), torch.tensor(high).log10(), 6)
    torch.testing.assert_close(other(y * sigma.view(-1, 1, 1, 1), sigma), one(y * sigma.view(-1, 1, 1, 1), sigma))


def test_half_precision_is_that_of_the_network_alone(folder):
    """The image is in bfloat16, v is made of it in float32: at the lowest level no error grows."""
    network, scheduler = load_model(folder)
    opened, of_v, known = open_network(str(folder), "bf16")
    assert known == f"{weights(network, scheduler)}-bf16"
    half = HalfPrecision(network)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in (0, 500, 999):
        alpha = of_v.alphas_cumprod[t].sqrt()
        x_0 = alpha * x - (1 - alpha**2).sqrt() * opened(x, t).sample
        torch.testing.assert_close(x_0, half(x, t).sample, atol=1e-5, rtol=0)
    assert draw(opened, make_sampler("pndm", of_v), None, 4, 4, seed=0).images.isfinite().all()


def test_other_networks_are_handed_on_as_they_are(gaussian):
    network = ls.as_model(gaussian, TRAINED["epsilon"])
    assert of_velocity(network, TRAINED["epsilon"]) == (network, TRAINED["epsilon"])
