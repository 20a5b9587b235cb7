import pytest
import torch
from diffusers import DDIMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

from latestart.denoisers.adapter import as_network
from latestart.denoisers.base import Denoiser, expand, score
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.conventions import Convention
from latestart.denoisers.exact import PointCloud
from latestart.denoisers.folders import load_model, save_model
from latestart.denoisers.networks import as_model, from_diffusers, predict
from latestart.denoisers.patches import Unshuffled
from latestart.denoisers.wrappers import HalfPrecision
from latestart.gaussians.gaussian import Gaussian


def _network(classes=None, channels=1, size=8):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, block_out_channels=(8, 8), layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, norm_num_groups=4,
        num_class_embeds=classes,
    ).eval()  # fmt: skip


@pytest.fixture
def cloud():
    return PointCloud(torch.randn(20, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


CONVENTIONS = [
    *(DDIMScheduler(prediction_type=prediction) for prediction in ("epsilon", "v_prediction", "sample")),
    *(EDMEulerScheduler(prediction_type=prediction) for prediction in ("epsilon", "v_prediction")),
    FlowMatchEulerDiscreteScheduler(),
]


@pytest.mark.parametrize(
    "scheduler", CONVENTIONS, ids=lambda s: f"{type(s).__name__}-{s.config.get('prediction_type')}"
)
def test_a_denoiser_survives_the_way_to_a_network_and_back(cloud, scheduler):
    back = from_diffusers(as_model(cloud, scheduler), scheduler)
    for sigma in (0.02, 0.5, 3.0, torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)):
        y = torch.randn(3, 1, 4, 4, dtype=torch.float64)
        # times go through float32, which moves the level by 1e-6 and the image by no more than that
        torch.testing.assert_close(back(y, sigma), cloud(y, sigma), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_an_exact_model_predicts_what_the_definitions_say(prediction):
    """For data that is one point, x_0, eps and v are known for every x_t."""
    x_0 = torch.randn(1, 1, 4, 4, dtype=torch.float64)
    scheduler = DDIMScheduler(prediction_type=prediction)
    model = as_model(PointCloud(x_0), scheduler)
    eps = torch.randn(5, 1, 4, 4, dtype=torch.float64)
    alpha, std = scheduler.alphas_cumprod[300].double() ** 0.5, (1 - scheduler.alphas_cumprod[300].double()) ** 0.5
    target = {"epsilon": eps, "v_prediction": alpha * eps - std * x_0, "sample": x_0.expand(5, -1, -1, -1)}
    out = model(alpha * x_0 + std * eps, torch.tensor(300)).sample
    torch.testing.assert_close(out, target[prediction], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_edm_networks_are_conditioned_as_diffusers_does(prediction):
    """The scheduler's own preconditioning, at its own levels."""
    network, scheduler = _network(), EDMEulerScheduler(prediction_type=prediction, sigma_data=0.7)
    scheduler.set_timesteps(4)
    y = torch.randn(2, 1, 8, 8)
    with torch.inference_mode():
        for sigma, t in zip(scheduler.sigmas[:-1], scheduler.timesteps):
            out = network(scheduler.precondition_inputs(y, sigma), t).sample
            expected = scheduler.precondition_outputs(y, out, sigma)
            torch.testing.assert_close(
                from_diffusers(network, scheduler)(y, float(sigma)), expected, rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(),
        DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
        EDMEulerScheduler(),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
    ],
    ids=["vp", "vp to no signal", "edm", "flow"],
)
def test_what_a_network_is_shown_is_brought_back_to_y(scheduler):
    """`enter` undoes `c_in y` at every level, for one time and for one each; without signal the level is finite."""
    convention, g = Convention.of(scheduler), torch.Generator().manual_seed(0)
    low, high = convention.noise.t_range
    y = torch.randn(3, 1, 2, 2, generator=g, dtype=torch.float64)
    for times in (torch.linspace(low, 0.99 * high, 3, dtype=torch.float64), torch.tensor(0.3 * high), 0.3 * high):
        sigma = torch.as_tensor(convention.noise.sigma(torch.as_tensor(times, dtype=torch.float64)))
        seen = convention.coefficients(expand(sigma, y))[0] * y
        back, level = convention.enter(seen, times)
        torch.testing.assert_close(back, y)
        torch.testing.assert_close(level.double(), sigma.double(), rtol=1e-6, atol=0)
    back, level = convention.enter(torch.zeros_like(y), high)
    assert back.isfinite().all() and level <= 1e6


def test_flow_networks_predict_the_velocity():
    """At `x = (1 - tau) x_0 + tau eps` a network for one known image gives `eps - x_0`."""
    x_0, eps = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    scheduler = FlowMatchEulerDiscreteScheduler()
    model = as_model(PointCloud(x_0[:1]), scheduler)
    for tau in (0.1, 0.5, 0.9):
        out = model((1 - tau) * x_0[:1] + tau * eps, torch.tensor(1000 * tau)).sample
        torch.testing.assert_close(out, eps - x_0[:1], rtol=1e-4, atol=1e-4)


def test_network_prior_and_exact_model_share_the_contract(cloud):
    scheduler = DDIMScheduler()
    gaussian = Gaussian.fit(cloud.points, basis="diagonal")
    for denoiser in (cloud, gaussian, from_diffusers(_network(), scheduler)):
        assert isinstance(denoiser, Denoiser)
    y = torch.randn(2, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(score(gaussian, y, 0.7), gaussian.score(y, 0.7))


def test_a_network_on_patches_is_the_network_on_permuted_pixels():
    inner = _network(channels=4)
    model = Unshuffled(inner, 2)
    x = torch.randn(2, 1, 16, 16)
    with torch.inference_mode():
        out = model(x, torch.tensor(7)).sample
        patches = torch.stack([x[:, 0, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)
        expected = inner(patches, torch.tensor(7)).sample
    assert (model.config.in_channels, model.config.sample_size) == (1, 16)
    for k, (i, j) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        assert torch.equal(out[:, 0, i::2, j::2], expected[:, k])


@pytest.mark.parametrize("patch", [1, 2])
def test_a_saved_model_opens_in_diffusers_and_here(tmp_path, patch):
    inner = _network(channels=patch**2)
    model = inner if patch == 1 else Unshuffled(inner, patch)
    save_model(model, DDIMScheduler(prediction_type="v_prediction"), tmp_path)
    x, t = torch.randn(2, 1, 8 * patch, 8 * patch), torch.tensor(5)
    opened, scheduler = load_model(tmp_path)
    plain = UNet2DModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), inner.parameters()))
    assert scheduler.config.prediction_type == "v_prediction"
    with torch.inference_mode():
        torch.testing.assert_close(opened(x, t).sample, model(x, t).sample)
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(tmp_path / "scheduler")


def test_labels_reach_a_conditional_network():
    model, scheduler = _network(classes=3), DDIMScheduler()
    y = torch.randn(3, 1, 8, 8)
    with torch.inference_mode():
        mixed = from_diffusers(model, scheduler, labels=torch.tensor([0, 1, 2]))(y, 1.0)
        each = torch.cat([from_diffusers(model, scheduler, labels=k)(y[k : k + 1], 1.0) for k in range(3)])
        same = predict(model, y[:1], torch.tensor([9.0]), Conditions(as_network(model), 0))
        other = predict(model, y[:1], torch.tensor([9.0]), Conditions(as_network(model), 1))
    torch.testing.assert_close(mixed, each, rtol=1e-4, atol=1e-5)
    assert (same - other).abs().max() > 1e-4


def test_bad_input_is_named(cloud):
    scheduler = DDIMScheduler()
    scheduler.register_to_config(prediction_type="magic")
    with pytest.raises(ValueError, match="'magic' is not supported, expected one of epsilon"):
        from_diffusers(_network(), scheduler)
    with pytest.raises(ValueError, match="'magic' is not supported"):
        as_model(cloud, scheduler)
    with pytest.raises(ValueError, match=r"\(B, 1, 8, 8\), received \(2, 1, 4, 4\)"):
        from_diffusers(_network(), DDIMScheduler())(torch.zeros(2, 1, 4, 4), 1.0)


def test_half_precision_is_near_and_does_not_spread(cloud):
    """Products in bfloat16 are off by a few thousandths; weights, and what comes out, stay as they are."""
    network = _network()
    half, x = HalfPrecision(network), torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        full, low = network(x, 300).sample, half(x, 300).sample
    assert low.dtype == torch.float32 and next(half.parameters()).dtype == torch.float32
    difference = float((full - low).norm() / full.norm())
    assert 1e-5 < difference < 0.02
    assert half.config is network.config
