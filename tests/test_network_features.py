"""Features of the denoiser itself: the activations by hand, through every wrapper, and networks that have none."""

import math

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    UNet2DConditionModel,
    UNet2DModel,
)
from torch import nn

import latestart as ls
from latestart.checks import seeded
from latestart.denoisers.adapter import Counted, as_network
from latestart.denoisers.around import Around
from latestart.denoisers.patches import Unshuffled
from latestart.denoisers.wrappers import HalfPrecision, Velocity, of_velocity
from latestart.evaluation.quality import resolve
from latestart.lab.judge import open_features
from latestart.network_features import LEVELS, SEED, Middle, NetworkFeatures, Values, default_features, middle_of

SIGMA = 0.3
BLOCKS = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
DDPM = DDPMScheduler(clip_sample=False)


def unet(channels=1, side=8, **options):
    torch.manual_seed(0)
    made = UNet2DModel(
        side, channels, channels, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **BLOCKS, **options
    )
    return made.eval()


def transformer(layers=3, heads=2):
    torch.manual_seed(0)
    made = DiTTransformer2DModel(
        num_attention_heads=heads, attention_head_dim=8, in_channels=3, out_channels=6, num_layers=layers,
        sample_size=8, patch_size=2, num_embeds_ada_norm=10, norm_num_groups=4,
    )  # fmt: skip
    for weights in made.parameters():  # adaptive norms begin at zero, and would not see the class
        nn.init.normal_(weights, std=0.2)
    return made.eval()


def images(n=6, channels=1, side=8, seed=0):
    return torch.rand(n, channels, side, side, generator=seeded(seed))


def by_hand(network, block, x, t, **given):
    """A block's output in a whole evaluation."""
    kept = []
    handle = block.register_forward_hook(lambda _, __, out: kept.append(out))
    with torch.inference_mode():
        network(x, torch.tensor(t, dtype=torch.float32), **given)
    handle.remove()
    return kept[0]


@pytest.mark.parametrize("scheduler", [DDPM, EDMEulerScheduler(), FlowMatchEulerDiscreteScheduler()])
def test_the_features_are_the_pooled_middle_block_of_the_noised_image(scheduler):
    network, x = unet(), images()
    noise = ls.Noise.from_scheduler(scheduler)
    z = torch.randn(1, 8, 8, generator=seeded(SEED))
    y = 2 * x - 1 + SIGMA * z
    given = (
        y / math.sqrt(scheduler.config.sigma_data**2 + SIGMA**2)
        if noise.kind == "edm"
        else noise.alpha(noise.time(SIGMA)) * y
    )
    expected = by_hand(network, network.mid_block, given, noise.time(SIGMA)).mean((2, 3))
    found = ls.NetworkFeatures(network, scheduler, sigmas=[SIGMA])(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_two_levels_are_two_evaluations_side_by_side():
    network, x = unet(), images()
    both = NetworkFeatures(network, DDPM, sigmas=(0.1, 0.4))
    apart = torch.cat([NetworkFeatures(network, DDPM, sigmas=(s,))(x) for s in (0.1, 0.4)], 1)
    assert both.evaluations == 2 and both.evaluated == 0
    torch.testing.assert_close(both(x), apart)
    assert both.evaluated == 12


def test_the_features_of_an_image_depend_on_the_image_alone():
    extract, x = NetworkFeatures(unet(), DDPM, batch_size=4), images(9)
    rows = extract(x)
    torch.testing.assert_close(extract(x[[7, 2]]), rows[[7, 2]], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(extract.of_samples(2 * x - 1), rows)
    assert rows.dtype == torch.float32 and rows.device.type == "cpu" and not rows.requires_grad
    assert not torch.equal(rows[0], rows[1])


def test_the_network_is_left_as_it_was():
    network = unet()
    x, times = images(), torch.tensor(5.0)
    with torch.inference_mode():
        before = network(x, times).sample
        NetworkFeatures(network, DDPM)(x)
        assert torch.equal(network(x, times).sample, before)
    assert not network.mid_block._forward_hooks


def around(network):
    return Around(network, ls.Gaussian.fit(2 * images(40) - 1), DDPM)


WRAPPERS = {
    "network": as_network,
    "counted": Counted,
    "half precision": HalfPrecision,
    "counted half precision": lambda network: Counted(HalfPrecision(network)),
    "around": around,
    "data parallel": nn.DataParallel,
    "velocity": lambda network: Velocity(network, DDPM, DDPM),
}


@pytest.mark.parametrize("wrapped", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_has_the_features_of_the_bare_one(wrapped):
    network, x = unet(), images()
    plain, other = NetworkFeatures(network, DDPM), NetworkFeatures(wrapped(network), DDPM)
    assert torch.equal(other(x), plain(x))
    assert other.name == plain.name


def test_a_network_that_predicts_the_image_has_the_same_features_as_one_of_velocity():
    network, scheduler = unet(), DDPMScheduler(prediction_type="sample")
    assert torch.equal(
        NetworkFeatures(*of_velocity(network, scheduler))(images()), NetworkFeatures(network, DDPM)(images())
    )


def test_patches_are_seen_by_the_network_inside():
    inner = unet(channels=4, side=4)
    extract = NetworkFeatures(Unshuffled(inner, 2), DDPM)
    assert extract(images()).shape == (6, 16)
    assert extract.network.sample_shape == (1, 8, 8)


def test_the_name_is_that_of_weights_and_settings():
    network = unet()
    name = NetworkFeatures(network, DDPM).name
    assert name.startswith("network-") and NetworkFeatures(network, DDIMScheduler()).name == name
    others = [NetworkFeatures(network, DDPM, sigmas=(0.3,)), NetworkFeatures(network, DDPM, width=8)]
    others += [NetworkFeatures(network, EDMEulerScheduler())]
    with torch.no_grad():
        changed = unet()
        changed.conv_in.weight += 1e-3
    assert len({name, NetworkFeatures(changed, DDPM).name, *(one.name for one in others)}) == 5


def test_more_channels_than_the_width_are_projected():
    wide, narrow = NetworkFeatures(unet(), DDPM)(images(200)), NetworkFeatures(unet(), DDPM, width=12)(images(200))
    assert wide.shape == (200, 16) and narrow.shape == (200, 12)
    near, far = torch.pdist(narrow), torch.pdist(wide)
    assert torch.corrcoef(torch.stack([near, far]))[0, 1] > 0.8
    assert float((near / far).mean()) == pytest.approx(1, abs=0.4)


# transformers and conditions


def test_the_middle_block_of_a_transformer_is_one_of_its_list():
    network, x = transformer(), images(channels=3)
    assert middle_of(network).block is network.transformer_blocks[1]
    t = ls.Noise.from_scheduler(DDPM).time(LEVELS[0])
    z = torch.randn(3, 8, 8, generator=seeded(SEED))
    given = ls.Noise.from_scheduler(DDPM).alpha(t) * (2 * x - 1 + LEVELS[0] * z)
    out = by_hand(network, network.transformer_blocks[1], given, [t] * 6, class_labels=torch.full((6,), 10))
    torch.testing.assert_close(NetworkFeatures(network, DDPM)(x), out.mean(1), rtol=1e-4, atol=1e-5)


def test_a_class_is_the_one_for_none_or_the_first_unless_one_is_named():
    network, x = transformer(), images(channels=3)
    found = NetworkFeatures(network, DDPM)(x)
    assert torch.equal(NetworkFeatures(network, DDPM, labels=10)(x), found)
    assert not torch.allclose(NetworkFeatures(network, DDPM, labels=3)(x), found)
    classes = unet(num_class_embeds=4)
    assert torch.equal(NetworkFeatures(classes, DDPM)(images()), NetworkFeatures(classes, DDPM, labels=0)(images()))
    with pytest.raises(ValueError, match="one class for every image: expected one label, received 2"):
        NetworkFeatures(classes, DDPM, labels=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=r"the classes 0 to 3, received labels \[7\]"):
        NetworkFeatures(classes, DDPM, labels=7)


def conditional():
    torch.manual_seed(0)
    return UNet2DConditionModel(
        8, 1, 1, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=2, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip


def test_the_first_row_of_the_conditions_holds_for_every_image():
    network, text = conditional(), torch.randn(5, 3, 8, generator=seeded(1))
    found = NetworkFeatures(network, DDPM, model_kwargs={"encoder_hidden_states": text})
    one = NetworkFeatures(network, DDPM, model_kwargs={"encoder_hidden_states": text[:1]})
    other = NetworkFeatures(network, DDPM, model_kwargs={"encoder_hidden_states": text[1:]})
    assert torch.equal(found(images()), one(images())) and found.name == one.name
    assert not torch.allclose(found(images()), other(images())) and found.name != other.name
    with pytest.raises(ValueError, match="needs encoder_hidden_states"):
        NetworkFeatures(network, DDPM)


def test_of_two_streams_the_one_of_the_image_is_taken():
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        8, 2, 4, num_layers=3, attention_head_dim=4, num_attention_heads=2, joint_attention_dim=8,
        caption_projection_dim=8, pooled_projection_dim=6, out_channels=4, pos_embed_max_size=8,
    ).eval()  # fmt: skip
    known = {"encoder_hidden_states": torch.randn(1, 5, 8), "pooled_projections": torch.randn(1, 6)}
    extract = NetworkFeatures(network, FlowMatchEulerDiscreteScheduler(), model_kwargs=known)
    x = torch.randn(3, 4, 8, 8, generator=seeded(2))
    (h,) = extract.activations(x)
    assert h.shape == (3, 8, 16)  # 4 x 4 patches, and not the 5 words


def test_frames_in_the_batch_are_places():
    frames = torch.arange(2 * 3 * 4 * 5.0).view(6, 4, 5, 1)
    found = Middle(nn.Identity(), tokens=False).places(frames, 2)
    assert found.shape == (2, 4, 15)
    torch.testing.assert_close(found.mean(2), frames.view(2, 3, 4, 5).mean((1, 3)))


# what is refused


class Plain(nn.Module):
    """A network of one layer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x, t):
        return self.layer(x)


NONE = {
    "exact": ls.as_model(ls.Gaussian.fit(2 * images(40) - 1), DDPM),
    "module": as_network(Plain(), shape=(1, 8, 8)),
    "function": as_network(lambda x, t: x, shape=(1, 8, 8)),
}


@pytest.mark.parametrize("network", NONE.values(), ids=NONE)
def test_a_network_without_a_middle_block_is_refused_and_has_its_values(network):
    with pytest.raises(ValueError, match="has no middle block to take features of"):
        NetworkFeatures(network, DDPM)
    found = ls.default_features(network, DDPM)
    assert isinstance(found, Values) and found.name == "values" and found.evaluations == 0
    assert torch.equal(found.of_samples(images()), images().flatten(1))


def test_a_middle_block_that_is_never_reached_is_refused():
    class Around(Plain):
        def __init__(self):
            super().__init__()
            self.mid_block = nn.Identity()

    extract = NetworkFeatures(as_network(Around(), shape=(1, 8, 8)), DDPM)
    with pytest.raises(ValueError, match="the Around never comes to its middle block"):
        extract(images())


def test_an_error_of_the_network_is_its_own_and_leaves_no_hook():
    network = unet()
    network.conv_in = nn.Conv2d(3, 8, 3)
    with pytest.raises(RuntimeError, match="channels"):
        NetworkFeatures(network, DDPM)(images())
    assert not network.mid_block._forward_hooks


def test_levels_outside_of_the_model_are_refused():
    network = unet()
    for wrong in ((), (0.0,), (1e4,), (math.nan,)):
        with pytest.raises(ValueError, match=r"expected at least one noise level from 0\.01 to 157\.4"):
            NetworkFeatures(network, DDPM, sigmas=wrong)
    network.max_sigma = 0.25
    assert NetworkFeatures(network, DDPM).sigmas == (0.25,)
    assert NetworkFeatures(network, DDPM, sigmas=(0.2,))(images()).isfinite().all()
    with pytest.raises(ValueError, match=r"sigmas=\[0.3\]: .* to 0.25"):
        NetworkFeatures(network, DDPM, sigmas=[0.3])


def test_images_of_another_shape_or_that_are_not_finite_are_refused():
    extract = NetworkFeatures(unet(), DDPM)
    with pytest.raises(ValueError, match=r"samples \(1, 8, 8\), at least one, received \(6, 3, 8, 8\)"):
        extract(images(channels=3))
    with pytest.raises(ValueError, match="received 384 values that are NaN or infinite"):
        extract(images() / 0)


# where they serve


def test_the_frechet_distance_takes_a_model_with_its_scheduler():
    network, x, other = unet(), images(300), 0.5 * images(300, seed=1)
    expected = ls.frechet(x, other, NetworkFeatures(network, DDPM))
    assert ls.frechet(x, other, features=(network, DDPM)) == pytest.approx(expected)
    assert expected > 10 * ls.frechet(x, images(300, seed=2), features=(network, DDPM)) > 0
    with pytest.raises(ValueError, match="received a tuple of 3"):
        resolve((network, DDPM, 1))
    with pytest.raises(ValueError, match=r"expected features=\(model, scheduler\)"):
        ls.frechet(x, other, features="network")


def test_the_name_network_asks_for_them():
    assert isinstance(open_features("network", unet(), DDPM), NetworkFeatures)
    with pytest.raises(ValueError, match="there is no one network here"):
        open_features("network")


def test_the_default_is_the_network_and_leaves_out_labels_of_several_images():
    classes = unet(num_class_embeds=4)
    found = default_features(classes, DDPM, torch.tensor([1, 2, 3]))
    assert isinstance(found, NetworkFeatures) and found.name == NetworkFeatures(classes, DDPM).name
    assert default_features(classes, DDPM, 2).name == NetworkFeatures(classes, DDPM, labels=2).name
