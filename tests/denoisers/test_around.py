"""A network around a Gaussian: what it is before it has learned anything, what it adds, and that it survives saving."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel

import latestart as ls
from latestart.data import Images
from latestart.denoisers.around import Around, residual
from latestart.denoisers.folders import load_model, save_model
from latestart.denoisers.networks import from_diffusers
from latestart.denoisers.patches import Unshuffled
from latestart.denoisers.wrappers import HalfPrecision
from latestart.gaussians.basis import Dense
from latestart.lab.subjects import weights
from latestart.theory.jacobian import leading_eigenvalue
from latestart.train import _weights, train
from latestart.train_config import TrainConfig

SHAPE = (1, 8, 8)
LEVELS = (0.0101, 0.3, 2.0, 40.0, 150.0)
KINDS = ("epsilon", "v_prediction", "sample")


def schedule(kind):
    return DDPMScheduler(prediction_type=kind, clip_sample=False)


@pytest.fixture(scope="module")
def gaussian():
    g = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 64, generator=g))[0]
    variances = torch.logspace(-3, 0.5, 64, dtype=torch.float64)
    return ls.Gaussian(0.3 * torch.randn(SHAPE, generator=g), Dense(SHAPE, basis), variances)


def network(patch=1):
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8 // patch, in_channels=patch**2, out_channels=patch**2, block_out_channels=(8, 8),
        layers_per_block=1, down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4, attention_head_dim=4,
    ).eval()  # fmt: skip
    return unet if patch == 1 else Unshuffled(unet, patch)


def noised(gaussian, sigma, n=4):
    g = torch.Generator().manual_seed(1)
    x = gaussian.sample(n, g)
    return x, x + sigma * torch.randn(x.shape, generator=g)


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_that_gives_nothing_is_the_gaussians_denoiser(gaussian, kind):
    unet = network()
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    denoiser = from_diffusers(Around(unet, gaussian, schedule(kind)), schedule(kind))
    for sigma in LEVELS:
        y = noised(gaussian, sigma)[1]
        with torch.inference_mode():
            # float32, by way of a prediction: an error of eps stands for one of sigma in the image
            bound = 1e-5 * max(1.0, sigma) if kind == "epsilon" else 1e-5
            torch.testing.assert_close(denoiser(y, sigma), gaussian(y, sigma), rtol=0, atol=3 * bound)


def test_its_jacobian_is_the_gaussians_until_the_network_gives_something(gaussian):
    """`l / (l + sigma^2)` for the leading variance l: products with the Jacobian pass through the Gaussian too."""
    unet, scheduler, sigma = network(), schedule("v_prediction"), 1.0
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    denoiser = from_diffusers(Around(unet, gaussian, scheduler), scheduler)
    leading = float(gaussian.variances.max())
    found = leading_eigenvalue(denoiser, gaussian.mean, sigma).leading
    assert found == pytest.approx(leading / (leading + sigma**2), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_network_gives_is_added_in_units_of_what_the_gaussian_leaves(gaussian, kind):
    """`D = D_G + r F`, with F the network's output at `x_t = alpha y`, one level for each image."""
    unet, scheduler = network(2), schedule(kind)
    around = from_diffusers(Around(unet, gaussian, scheduler), scheduler)
    t = torch.tensor([3, 200, 500, 900])
    kept = scheduler.alphas_cumprod[t].double()
    sigma = ((1 - kept) / kept).sqrt()
    x, eps = noised(gaussian, 0.0)[0], torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(2))
    y = x + sigma.float().view(-1, 1, 1, 1) * eps
    with torch.inference_mode():
        out = unet(kept.sqrt().float().view(-1, 1, 1, 1) * y, t.float()).sample
        left = residual(gaussian, sigma).float().view(-1, 1, 1, 1)
        torch.testing.assert_close(around(y, sigma), gaussian(y, sigma) + left * out, rtol=1e-3, atol=1e-3)


def test_what_the_gaussian_leaves_of_its_own_data_is_known(gaussian):
    for sigma in (0.05, 1.0, 20.0):
        x, y = noised(gaussian, sigma, 20_000)
        found = (gaussian(y, sigma) - x).square().mean().sqrt()
        assert float(residual(gaussian, torch.tensor([sigma]))) == pytest.approx(float(found), rel=0.01)
    assert float(residual(gaussian, torch.tensor([0.0]))) == 0


def test_half_precision_is_for_the_network_alone(gaussian):
    """In bfloat16 the Gaussian's own denoiser would be off by 0.4%, hundreds of times what it leaves at this level."""
    unet, scheduler, sigma = network(), schedule("v_prediction"), 0.0101
    torch.nn.init.zeros_(unet.conv_out.weight)
    torch.nn.init.zeros_(unet.conv_out.bias)
    half = from_diffusers(HalfPrecision(Around(unet, gaussian, scheduler)), scheduler)
    y = noised(gaussian, sigma)[1]
    with torch.inference_mode():
        torch.testing.assert_close(half(y, sigma), gaussian(y, sigma), rtol=0, atol=1e-4)


@pytest.mark.parametrize("patch", [1, 2])
def test_it_survives_saving_and_another_gaussian_is_another_network(tmp_path, gaussian, patch):
    scheduler = schedule("v_prediction")
    model = Around(network(patch), gaussian, scheduler)
    save_model(model, scheduler, tmp_path)
    opened, known = load_model(tmp_path)
    y = noised(gaussian, 1.0)[1]
    with torch.inference_mode():
        expected = from_diffusers(model, scheduler)(y, 1.0)
        torch.testing.assert_close(from_diffusers(opened, known)(y, 1.0), expected)
    assert isinstance(UNet2DModel.from_pretrained(tmp_path), UNet2DModel)
    assert weights(opened, known) == weights(model, scheduler) != weights(model.network, scheduler)
    other = ls.Gaussian(gaussian.mean, gaussian.basis, 2 * gaussian.variances)
    assert weights(Around(model.network, other, scheduler), scheduler) != weights(model, scheduler)
    half = gaussian.to(dtype=torch.float16)
    save_model(Around(network(patch), half, scheduler).half(), scheduler, tmp_path)
    smaller, known = load_model(tmp_path)
    assert smaller.gaussian.dtype == smaller.dtype == torch.float32
    with torch.inference_mode():
        torch.testing.assert_close(from_diffusers(smaller, known)(y, 1.0), expected, rtol=0, atol=2e-2)
    (tmp_path / "around.safetensors").unlink()
    with pytest.raises(ValueError, match=r"around\.safetensors"):
        load_model(tmp_path)


def test_what_does_not_fit_is_named(gaussian):
    with pytest.raises(ValueError, match=r"beta-based scheduler, received a EDMEulerScheduler"):
        Around(network(), gaussian, EDMEulerScheduler())
    small = ls.Gaussian(torch.zeros(1, 4, 4), Dense((1, 4, 4), torch.eye(16)), torch.ones(16, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"for images \(1, 8, 8\), the Gaussian is of images \(1, 4, 4\)"):
        Around(network(), small, schedule("epsilon"))


@pytest.fixture
def squares(tmp_path):
    """Bright squares, left or right, and the file of their Gaussian."""
    pixels = torch.zeros(32, *SHAPE, dtype=torch.uint8)
    for k in range(32):
        pixels[k, 0, k % 5 : k % 5 + 3, 4 * (k % 2) : 4 * (k % 2) + 3] = 255
    images = Images(pixels)
    ls.Gaussian.fit(images.floats(), "lowrank").save(tmp_path / "gaussian.safetensors")
    return images, str(tmp_path / "gaussian.safetensors")


CONFIG = TrainConfig(
    steps=200, batch_size=32, learning_rate=1e-2, warmup=20, channels=(8, 8), prediction="v_prediction", ema_decay=0.9
)


def test_a_network_learns_what_the_gaussian_leaves(tmp_path, squares):
    """The error is that of F, whose target has the mean square 1; left or right, the Gaussian cannot decide."""
    images, path = squares
    config, losses = replace(CONFIG, around=path), []
    model = train(images, tmp_path / "model", config, progress=lambda step, steps, loss: losses.append(loss))
    assert losses[0] == pytest.approx(1, rel=0.5) and losses[-1] < 0.95
    gaussian, denoiser = ls.load_prior(path), from_diffusers(model, schedule("v_prediction"))
    x = images.floats().repeat(8, 1, 1, 1)
    for sigma in (0.3, 1.0):
        y = x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            mine, linear = ((d(y, sigma) - x).square().mean() for d in (denoiser, gaussian))
        assert mine < 0.7 * linear
    assert isinstance(model, Around) and isinstance(load_model(tmp_path / "model")[0], Around)


@pytest.mark.parametrize("kind", KINDS)
def test_every_level_weighs_as_much(squares, kind):
    """Whatever is predicted, the error is the mean square of `(x_0 - D) / r`."""
    images, path = squares
    gaussian, scheduler, t = ls.load_prior(path), schedule(kind), torch.tensor([10, 300, 700])
    x_0, eps = images.floats()[:3], torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    x, kept = scheduler.add_noise(x_0, eps, t), scheduler.alphas_cumprod[t].double()
    sigma = ((1 - kept) / kept).sqrt()
    model = Around(network(), gaussian, scheduler)
    target = {"epsilon": eps, "v_prediction": scheduler.get_velocity(x_0, eps, t), "sample": x_0}[kind]
    with torch.inference_mode():
        errors = (model(x, t).sample - target).square().flatten(1).mean(1)
        d = from_diffusers(model, scheduler)(x / kept.sqrt().float().view(-1, 1, 1, 1), sigma)
    expected = (d - x_0).square().flatten(1).mean(1) / residual(gaussian, sigma).square()
    found = errors * _weights(t, scheduler, replace(CONFIG, prediction=kind), gaussian)
    torch.testing.assert_close(found, expected.float(), rtol=1e-2, atol=0)


def test_a_run_around_a_gaussian_begins_from_a_plain_model_and_from_one_around(tmp_path, squares):
    images, path = squares
    plain = train(images, tmp_path / "plain", replace(CONFIG, steps=2))
    for name, first, steps in (("around", "plain", 3), ("again", "around", 2)):
        begun = replace(CONFIG, steps=steps, around=path, init=str(tmp_path / first), learning_rate=1e-12)
        model = train(images, tmp_path / name, begun)
        for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs)


def test_a_gaussian_of_other_images_or_values_and_two_weights_are_refused(tmp_path, squares):
    images, path = squares
    around = replace(CONFIG, around=path)
    with pytest.raises(ValueError, match=r"is of images \(1, 8, 8\), the training images are \(1, 4, 4\)"):
        train(Images(images.pixels[..., :4, :4]), tmp_path / "other", around)
    ls.Gaussian.fit(images.unit(), "lowrank").save(path)
    with pytest.raises(ValueError, match="is of values from 0 to 1, the training images have values from -1 to 1"):
        train(images, tmp_path / "other", around)
    assert not (tmp_path / "other").exists()
    with pytest.raises(ValueError, match="expected no min-snr beside it"):
        replace(around, min_snr=20.0)


def test_a_run_around_another_gaussian_is_not_resumed(tmp_path, squares):
    images, path = squares
    config = replace(CONFIG, steps=2, around=path)
    train(images, tmp_path / "model", config)
    ls.Gaussian.fit(images.floats()[:20], "lowrank").save(path)
    with pytest.raises(ValueError, match="state of another run: around"):
        train(images, tmp_path / "model", config)


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_a_gaussian_that_changes_while_a_run_goes_on_is_still_the_one_it_began_with(tmp_path, squares, change):
    images, path = squares
    config = replace(CONFIG, steps=4, around=path)

    def cut_off(step, *others):
        if step == 1:
            ls.Gaussian.fit(images.floats()[:20], "diagonal").save(path)
            if change == "removed":
                Path(path).unlink()
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "model", config, save_every=2, progress=cut_off)
    if change == "removed":
        ls.Gaussian.fit(images.floats()[:20], "diagonal").save(path)
    with pytest.raises(ValueError, match="state of another run: around"):
        train(images, tmp_path / "model", config)


def test_a_run_goes_on_without_the_model_that_it_began_from(tmp_path, squares):
    images, _ = squares
    train(images, tmp_path / "first", replace(CONFIG, steps=1))
    config = replace(CONFIG, steps=3, init=str(tmp_path / "first"))

    def cut_off(step, *others):
        if step == 2:
            raise KeyboardInterrupt

    whole = train(images, tmp_path / "whole", config)
    with pytest.raises(KeyboardInterrupt):
        train(images, tmp_path / "cut", config, save_every=1, progress=cut_off)
    (tmp_path / "first" / "config.json").unlink()
    rest = train(images, tmp_path / "cut", config)
    for mine, theirs in zip(rest.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)
