"""Any network is asked in one way: with times of shape (B,), by its own names, wherever it is evaluated."""

import copy
import math
import pickle
from types import SimpleNamespace

import accelerate
import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    StableDiffusionPipeline,
    UNet1DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn

import latestart as ls
from latestart.denoisers.adapter import as_network, module_of, sample_shape
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import from_diffusers, predict
from latestart.denoisers.wrappers import HalfPrecision, Velocity, Wrapped, of_velocity

SCHEDULER = DDPMScheduler(clip_sample=False)
BLOCKS = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}


def unet(**settings):
    torch.manual_seed(0)
    settings = {"sample_size": 8, "in_channels": 1, "out_channels": 1, **BLOCKS} | settings
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(**blocks, **settings).eval()


def conditional(**settings):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **BLOCKS, **settings,
    ).eval()  # fmt: skip


def dit(channels=3, learned=True):
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=channels,
        out_channels=2 * channels if learned else channels, num_layers=1, sample_size=4, num_embeds_ada_norm=10,
    )  # fmt: skip
    return network.eval()


class Asked(nn.Module):
    """A network that remembers how it was asked."""

    def __init__(self, channels=1):
        super().__init__()
        self.weight, self.channels, self.seen = nn.Parameter(torch.zeros(1)), channels, []
        self.config = SimpleNamespace(in_channels=1, sample_size=4)

    def forward(self, sample, timestep, class_labels=None):
        self.seen.append((tuple(sample.shape), timestep, class_labels))
        return sample.repeat_interleave(self.channels, 1) * 0


@pytest.mark.parametrize("t", [7, 7.5, torch.tensor(7), torch.tensor([7]), torch.tensor([7, 7, 7]), torch.tensor(7.5)])
def test_times_are_one_for_each_sample(t):
    model = Asked()
    out = as_network(model)(torch.zeros(3, 1, 4, 4), t).sample
    ((shape, times, labels),) = model.seen
    assert shape == out.shape == (3, 1, 4, 4) and labels is None
    assert times.shape == (3,) and torch.equal(times, torch.as_tensor(t).expand(3))


def test_what_is_returned_is_the_sample_with_or_without_its_variances():
    x = torch.ones(2, 1, 4, 4)
    for form in (lambda out: out, lambda out: (out,), lambda out: SimpleNamespace(sample=out)):
        network = as_network(lambda x, t, form=form: form(2 * x), shape=(1, 4, 4))
        assert torch.equal(network(x, 3).sample, 2 * x)
    assert as_network(Asked(2))(x, 3).sample.shape == (2, 2, 4, 4)
    for wrong, told in (
        (lambda x, t: x[:1], r"\(1, 1, 4, 4\)"),
        (lambda x, t: 3, "a int"),
        (Asked(3), r"\(2, 3, 4, 4\)"),
    ):
        with pytest.raises(ValueError, match=rf"returned {told} for samples \(2, 1, 4, 4\)"):
            as_network(wrong, shape=(1, 4, 4))(x, 3)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (unet(), (1, 8, 8)),
        (unet(sample_size=(8, 16)), (1, 8, 16)),
        (dit(), (3, 4, 4)),
        (conditional(), (1, 8, 8)),
        (UNet1DModel(sample_size=16, in_channels=2, out_channels=2, extra_in_channels=16), (2, 16)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_networks_of_diffusers_say_the_shape_of_their_samples(model, shape):
    assert sample_shape(model) == shape


@pytest.mark.parametrize(
    "inside",
    [
        lambda network: network,
        nn.DataParallel,
        lambda network: torch.compile(network, backend="eager"),
        lambda network: torch.compile(nn.DataParallel(network), backend="eager"),
        lambda network: accelerate.Accelerator(cpu=True).prepare(network),
        lambda network: accelerate.cpu_offload(network, torch.device("cpu")),
        HalfPrecision,
        lambda network: ls.as_network(network),
    ],
    ids=["bare", "parallel", "compiled", "both", "accelerate", "offloaded", "half", "adapted"],
)
def test_networks_inside_something_else_sample_as_they_do_by_themselves(inside):
    network, scheduler = unet(), DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    prior = ls.Gaussian.fit(torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    options = {"n": 3, "steps": 3, "t_start": 600, "check_prior": False}
    expected = ls.generate(unet(), scheduler, prior, **options).samples
    wrapped = inside(network)
    assert isinstance(module_of(wrapped), UNet2DModel) and sample_shape(wrapped) == (1, 8, 8)
    assert as_network(wrapped).device == torch.device("cpu")
    received = ls.generate(wrapped, scheduler, prior, **options).samples
    torch.testing.assert_close(received, expected, rtol=0.05, atol=0.05 if inside is HalfPrecision else 1e-5)


def test_an_offloaded_network_is_where_it_is_evaluated_and_not_where_its_weights_are():
    network = unet()
    accelerate.cpu_offload(network, torch.device("cpu"))
    assert {weight.device.type for weight in network.parameters()} == {"meta"}
    assert as_network(network).device.type == "cpu"
    hooked = nn.Linear(2, 2)
    hooked._hf_hook = SimpleNamespace(execution_device=1)
    assert as_network(nn.Sequential(hooked), shape=(2,)).device == torch.device("cuda", 1)


def test_a_function_needs_a_shape_and_says_so():
    with pytest.raises(ValueError, match=r"a function is for: .* ls\.as_network\(model, shape=\(C, H, W\)"):
        ls.generate(lambda x, t: x, SCHEDULER, n=2)
    network = ls.as_network(lambda x, t: 0 * x, shape=(2, 3), dtype=torch.float64, device="cpu")
    assert (network.sample_shape, network.dtype, network.classes) == ((2, 3), torch.float64, None)
    assert ls.generate(network, DDIMScheduler(clip_sample=False), n=2, steps=3).samples.shape == (2, 2, 3)
    assert ls.from_diffusers(network, SCHEDULER).dtype == torch.float64


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (UNet2DModel, "received the class UNet2DModel"),
        ("google/ddpm-cat-256", r"received the path 'google/ddpm-cat-256': open it by ls\.load_model"),
        (3, "called as model\\(x, t\\), received a int"),
        (
            StableDiffusionPipeline(None, None, None, unet(), SCHEDULER, None, None, requires_safety_checker=False),
            r"received the pipeline StableDiffusionPipeline: give its network, pipe\.unet",
        ),
    ],
    ids=["class", "path", "number", "pipeline"],
)
def test_what_is_no_network_is_named(wrong, message):
    with pytest.raises(TypeError, match=message):
        ls.generate(wrong, SCHEDULER, n=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (3, -8, 8)}, "shape=-8: expected a whole number of at least 1"),
        ({"shape": (3, 8.5)}, r"shape=8\.5: expected a whole number"),
        ({"shape": ()}, r"shape=\(\): expected the sides of one sample"),
        ({"shape": (2,), "dtype": "float32"}, "dtype='float32': expected a torch.dtype"),
    ],
)
def test_what_is_said_of_a_function_is_checked(settings, message):
    with pytest.raises(ValueError, match=message):
        as_network(lambda x, t: x, **settings)
    assert as_network(lambda x, t: x, shape=np.array([3, 8])).sample_shape == (3, 8)


def test_the_precision_of_a_network_is_that_of_its_weights():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert as_network(unet().to(dtype)).dtype == dtype
    assert as_network(nn.Flatten(), shape=(3,)).dtype == torch.float32


def test_labels_are_given_to_networks_that_know_classes_only():
    labelled, plain = Asked(), Asked()
    labelled.config.num_class_embeds = 4
    x = torch.zeros(3, 1, 4, 4)
    for model in (labelled, plain):
        network = as_network(model)
        predict(network, x, 5, Conditions(network, torch.tensor([0, 1, 3])))
    assert labelled.seen[0][2].tolist() == [0, 1, 3] and plain.seen[0][2] is None
    assert as_network(labelled).classes == 4 and as_network(plain).classes is None
    with pytest.raises(ValueError, match=r"classes 0 to 3, received labels \[4\]"):
        Conditions(as_network(labelled), 4)
    Conditions(as_network(dit()), 10)  # the class that stands for none
    with pytest.raises(ValueError, match=r"classes 0 to 9, received labels \[11\]"):
        Conditions(as_network(dit()), 11)


TEXT = torch.randn(6, 5, 6, generator=torch.Generator().manual_seed(3))


def test_conditions_are_one_row_a_sample_or_one_for_all():
    """A batch is that of its samples one by one, through sampling in parts and as a denoiser."""
    network, scheduler = conditional(), DDIMScheduler(clip_sample=False)
    options = {"n": 6, "steps": 2}
    whole = ls.generate(network, scheduler, model_kwargs={"encoder_hidden_states": TEXT}, **options).samples
    parts = ls.generate(
        network, scheduler, model_kwargs={"encoder_hidden_states": TEXT}, batch_size=4, **options
    ).samples
    one = ls.generate(network, scheduler, model_kwargs={"encoder_hidden_states": TEXT[2:3]}, **options).samples
    torch.testing.assert_close(whole, parts)
    torch.testing.assert_close(one[2], whole[2])
    assert not torch.allclose(one[1], whole[1], atol=1e-4)
    y = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    denoiser = from_diffusers(network, SCHEDULER, model_kwargs={"encoder_hidden_states": TEXT.numpy()})
    for k in range(6):
        torch.testing.assert_close(denoiser.rows(slice(k, k + 1))(y[k : k + 1], 2.0), denoiser(y, 2.0)[k : k + 1])
    again = from_diffusers(network, SCHEDULER, model_kwargs={"encoder_hidden_states": TEXT[:1]})
    with pytest.raises(ValueError, match="expected the 6 samples whose conditions are known, received 2"):
        denoiser(y[:2], 2.0)
    assert again(y[:2], 2.0).shape == (2, 1, 8, 8)


def test_conditions_in_dicts_and_lists_are_rows_too():
    seen = []

    def model(x, t, added=None, several=None, word=None):
        seen.append((added, several, word))
        return 0 * x

    network = as_network(model, shape=(2,))
    kwargs = {"added": {"text": torch.arange(6.0)}, "several": [torch.arange(6), torch.ones(1, 3)], "word": "as it is"}
    part = Conditions(network, None, kwargs, 6)[slice(2, 5)]
    predict(network, torch.zeros(3, 2), 1, part)
    ((added, several, word),) = seen
    assert added["text"].tolist() == [2, 3, 4] and several[0].tolist() == [2, 3, 4]
    assert several[1].shape == (3, 3) and word == "as it is"
    assert added["text"].dtype == network.dtype and several[0].dtype == torch.int64


def test_missing_conditions_and_other_counts_are_named():
    network = conditional()
    with pytest.raises(ValueError, match=r"needs encoder_hidden_states: give them as model_kwargs=\{'encoder_hid"):
        ls.generate(network, SCHEDULER, n=2)
    with pytest.raises(ValueError, match="one row a sample: expected 4, received 6"):
        ls.generate(network, SCHEDULER, n=4, model_kwargs={"encoder_hidden_states": TEXT})
    with pytest.raises(ValueError, match="expected 3, received 6"):
        Conditions(as_network(conditional()), torch.zeros(3, dtype=int), {"encoder_hidden_states": TEXT}, 3)


class Told(nn.Module):
    """The exact network of images `c + eps / 2` where it is told c."""

    def forward(self, sample, timestep, encoder_hidden_states):
        at = SCHEDULER.alphas_cumprod[timestep.round().long()].view(-1, 1, 1, 1)
        c = encoder_hidden_states.view(-1, 1, 1, 1)
        return (sample - at.sqrt() * c) * (1 - at).sqrt() / (at / 4 + 1 - at)


def test_conditions_count_in_nats_by_the_closed_form():
    """With `c = +-1` the prior N(0, 5/4) is `D/2 log((5/4 + s^2) / (1/4 + s^2))` nats from what the network knows."""
    c = 1.0 - 2 * (torch.arange(400) % 2)
    images = c.view(-1, 1, 1, 1) + torch.randn(400, 1, 4, 4, generator=torch.Generator().manual_seed(0)) / 2
    prior = ls.Gaussian.fit(images, basis="isotropic")
    network, sigmas = ls.as_network(Told(), shape=(1, 4, 4)), [8.0, 6.0, 4.0, 3.0, 2.0, 1.5, 1.0]
    for denoiser, kwargs in (
        (from_diffusers(network, SCHEDULER), {"model_kwargs": {"encoder_hidden_states": c}}),
        (from_diffusers(network, SCHEDULER, model_kwargs={"encoder_hidden_states": c}), {}),
    ):
        curve = ls.nats(denoiser, prior, images, sigmas, **kwargs)
        true = [8 * math.log((1.25 + s**2) / (0.25 + s**2)) for s in sigmas]
        assert curve.nats.tolist() == pytest.approx(true, rel=0.1)
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        ls.nats(from_diffusers(network, SCHEDULER), prior, images, sigmas)
    with pytest.raises(ValueError, match="for each of 400 images, received 300"):
        ls.nats(
            from_diffusers(network, SCHEDULER), prior, images, sigmas, model_kwargs={"encoder_hidden_states": c[:300]}
        )


def test_a_conditional_network_is_chosen_and_checked_with_its_conditions():
    network, scheduler = conditional(), DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    images = torch.randn(120, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    prior = ls.Gaussian.fit(torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(2)), basis="isotropic")
    options = {"model_kwargs": {"encoder_hidden_states": TEXT[:1]}, "check_prior": False}
    assert 0 < ls.choose_start(network, scheduler, prior, None, 3, **options).t_start <= 1000
    report = ls.check(network, scheduler, prior, images, 600, evaluated=24, criteria=("nats",), **options)
    assert report.verdict in ("good", "doubtful", "bad")
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        ls.choose_start(network, scheduler, prior, None, 3, check_prior=False)


WRAPPERS = [
    lambda network: HalfPrecision(network),
    lambda network: of_velocity(network, DDIMScheduler(prediction_type="sample"))[0],
    lambda network: ls.as_network(network),
]


@pytest.mark.parametrize("wrap", WRAPPERS, ids=["half", "velocity", "network"])
def test_wrappers_are_copied_kept_and_moved_as_networks_are(wrap):
    wrapper, x = wrap(unet()), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert isinstance(wrapper, Wrapped)
    with torch.inference_mode():
        expected = wrapper(x, torch.tensor(5)).sample
        for again in (copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), lambda one: one.eval()):
            assert type(again(wrapper)) is type(wrapper)
            torch.testing.assert_close(again(wrapper)(x, torch.tensor(5)).sample, expected)
    assert copy.deepcopy(wrapper).model is not wrapper.model
    moved = wrapper.to(torch.float64)
    assert type(moved) is type(wrapper) and next(module_of(moved).parameters()).dtype == torch.float64
    assert moved.dtype == torch.float64 and moved.half().dtype == moved.dtype == torch.float16
    assert moved.bfloat16().dtype == torch.bfloat16 and moved.float().dtype == torch.float32
    assert isinstance(wrapper.train(), Wrapped)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = wrapper.nothing_like_it


def test_a_network_of_images_predicts_v_exactly():
    """`v = (alpha x - x_0) / std`, and learned variances stay behind it."""
    of_image = DDIMScheduler(prediction_type="sample")
    x, x_0 = torch.randn(2, 2, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    network = as_network(lambda x, t: torch.cat([x_0, 7 * x_0], 1), shape=(1, 4, 4), dtype=torch.float64)
    velocity, of_v = of_velocity(network, of_image)
    out = velocity(x, torch.tensor(300)).sample
    at = of_image.alphas_cumprod[300].double()
    torch.testing.assert_close(out[:, :1], (at.sqrt() * x - x_0) / (1 - at).sqrt(), rtol=1e-5, atol=1e-5)
    assert torch.equal(out[:, 1:], 7 * x_0) and of_v.config.prediction_type == "v_prediction"
    assert isinstance(velocity, Velocity)
