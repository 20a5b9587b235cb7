"""The identity of a model: the same in any precision and wrapper, another after any training."""

import copy
import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, UNet2DModel

from latestart import as_model, as_network
from latestart.denoisers.adapter import Counted
from latestart.denoisers.around import Around
from latestart.denoisers.identity import differences, identity
from latestart.denoisers.wrappers import HalfPrecision
from latestart.gaussians.gaussian import Gaussian
from tuned import checks
from two_clusters import CLUSTERS, SCHEDULER, gaussian, worse


def _unet(seed=0, channels=8, size=8):
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return UNet2DModel(size, 1, 1, block_out_channels=(channels,), layers_per_block=1, norm_num_groups=4, **blocks)


UNET = _unet()
KNOWN = identity(UNET, SCHEDULER)


def _told(model, scheduler=SCHEDULER, known=KNOWN):
    return differences(known, identity(model, scheduler))


@pytest.mark.parametrize(
    "same",
    [
        UNET, copy.deepcopy(UNET), copy.deepcopy(UNET).half(), copy.deepcopy(UNET).bfloat16(), HalfPrecision(UNET),
        as_network(UNET), Counted(UNET), torch.nn.DataParallel(UNET), _unet(),
    ],
    ids=["itself", "copy", "half", "bfloat16", "autocast", "network", "counted", "parallel", "made again"],
)  # fmt: skip
def test_the_same_weights_are_the_same_model(same):
    assert _told(same) == []


def test_it_is_plain_json():
    assert json.loads(json.dumps(KNOWN)) == KNOWN
    assert differences(KNOWN, json.loads(json.dumps(KNOWN))) == []


def test_a_step_of_training_makes_another_model():
    trained = copy.deepcopy(UNET)
    optimizer = torch.optim.Adam(trained.parameters(), 1e-2)
    trained(torch.randn(4, 1, 8, 8), 10).sample.square().mean().backward()
    optimizer.step()
    (told,) = _told(trained)
    assert "its weights are others" in told and " and not " in told


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (_unet(seed=1), "its weights are others"),
        (_unet(channels=12), "number of weights"),
        (_unet(size=16), r"samples of shape [1, 8, 8], received [1, 16, 16]"),
        (as_model(CLUSTERS, SCHEDULER), "network UNet2DModel, received DenoiserModel"),
    ],
    ids=["weights", "size", "shape", "class"],
)
def test_another_network_is_told_apart_with_both_named(other, message):
    assert any(message in told for told in _told(other))


def test_a_sampler_over_the_same_levels_is_the_same_scheduler():
    assert _told(UNET, DDIMScheduler(timestep_spacing="trailing")) == []


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDPMScheduler(beta_schedule="squaredcos_cap_v2"), "the levels "),
        (DDPMScheduler(beta_end=0.012), "the levels "),
        (DDPMScheduler(num_train_timesteps=500), "the process vp over the times"),
        (DDPMScheduler(prediction_type="v_prediction"), "the prediction type epsilon, received v_prediction"),
        (EDMEulerScheduler(), "the process vp over the times [0.0, 999.0], received edm"),
        (FlowMatchEulerDiscreteScheduler(), "received flow"),
    ],
    ids=["cosine", "betas", "times", "prediction", "edm", "flow"],
)
def test_another_scheduler_is_told_apart_with_both_named(scheduler, message):
    told = _told(UNET, scheduler)
    assert any(message in one for one in told), told


def test_networks_without_weights_are_known_by_their_answers():
    known = identity(as_model(CLUSTERS, SCHEDULER), SCHEDULER)
    assert "answer" in known and "norms" not in known
    assert _told(as_model(CLUSTERS, SCHEDULER), known=known) == []
    assert _told(as_model(CLUSTERS.to(dtype=torch.float32), SCHEDULER), known=known) == []
    for other in (as_model(gaussian([1.0, 0.5, 0.2, 0.05]), SCHEDULER), worse(above=100)):
        (told,) = _told(other, known=known)
        assert "its weights are others" in told


def test_a_function_is_known_by_its_answers():
    half, third = (as_network(lambda x, t, k=k: k * x, shape=(4,)) for k in (1 / 2, 1 / 3))
    known = identity(half, SCHEDULER)
    assert _told(half, known=known) == [] and _told(third, known=known)


def test_the_gaussian_that_a_network_is_around_is_part_of_it():
    one, other = (Around(UNET, Gaussian.fit(k * checks(200), dtype=torch.float32), SCHEDULER) for k in (1, 0.5))
    known = identity(one, SCHEDULER)
    assert _told(one, known=known) == []
    assert [told for told in _told(other, known=known) if "around" in told]
    assert _told(UNET, known=known)
