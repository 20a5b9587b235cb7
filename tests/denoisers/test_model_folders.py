"""Model folders are opened as what their files name, with their own scheduler, or refused by name."""

import json
import shutil

import diffusers
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiTTransformer2DModel,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DConditionModel,
    UNet2DModel,
)
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import latestart as ls
from latestart import zoo
from latestart.cli import app
from latestart.denoisers.folders import load_model, open_scheduler, save_model
from latestart.noise import Noise

BLOCKS = {"block_out_channels": (8, 8), "layers_per_block": 1, "norm_num_groups": 4}


def unet():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    return UNet2DModel(8, 1, 1, **blocks, **BLOCKS)


def conditional():
    return UNet2DConditionModel(
        sample_size=8, in_channels=1, out_channels=1, cross_attention_dim=6, attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **BLOCKS,
    )  # fmt: skip


def dit():
    return DiTTransformer2DModel(2, 8, in_channels=1, out_channels=2, num_layers=1, sample_size=4)


SCHEDULERS = [
    DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"),
    DDIMScheduler(num_train_timesteps=500),
    EDMEulerScheduler(sigma_max=40.0, prediction_type="v_prediction"),
    FlowMatchEulerDiscreteScheduler(shift=3.0),
]


def folder(path, network, scheduler, where="scheduler", part=""):
    network.save_pretrained(path / part)
    if where is not None:
        scheduler.save_pretrained(path / where)
    return path


@pytest.mark.parametrize("where", ["scheduler", ""], ids=["in scheduler/", "beside config.json"])
@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda one: type(one).__name__)
def test_a_folder_has_its_own_scheduler(tmp_path, scheduler, where):
    network, opened = load_model(folder(tmp_path, unet(), scheduler, where))
    assert type(opened) is type(scheduler) and not network.training
    same = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    assert {name: value for name, value in opened.config.items() if not name.startswith("_")} == same
    levels, expected = (Noise.from_scheduler(one).sigma_range for one in (opened, scheduler))
    assert levels == expected


@pytest.mark.parametrize("make", [unet, conditional, dit])
@pytest.mark.parametrize("part", ["", "unet", "transformer"])
def test_any_network_of_diffusers_opens_by_itself_and_in_a_pipelines_folder(tmp_path, make, part):
    made = make()
    network, _ = load_model(folder(tmp_path, made, DDPMScheduler(), part=part))
    assert type(network) is type(made)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), made.parameters()))


def test_a_folder_without_a_scheduler_is_told_one(tmp_path):
    path = folder(tmp_path / "model", unet(), None, where=None)
    with pytest.raises(ValueError, match=r"has no scheduler .* by scheduler= or --scheduler"):
        load_model(path)
    DDIMScheduler(num_train_timesteps=77).save_pretrained(tmp_path / "other")
    settings = tmp_path / "other" / "scheduler_config.json"
    for given in (tmp_path / "other", settings, str(settings), DDIMScheduler(num_train_timesteps=77)):
        assert load_model(path, scheduler=given)[1].config.num_train_timesteps == 77
    assert isinstance(load_model(path, scheduler="EDMEulerScheduler")[1], EDMEulerScheduler)
    for wrong in ("NoSuchScheduler", "UNet2DModel", "somewhere"):
        with pytest.raises(
            ValueError, match=f"'{wrong}' is neither a file, nor a folder .* nor a scheduler of diffusers"
        ):
            load_model(path, scheduler=wrong)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "ImaginaryScheduler"}, "names 'ImaginaryScheduler', which is not a scheduler of diffusers"),
        ({"_class_name": None}, "names None, which is not a scheduler"),
        ({"_class_name": "ScoreSdeVeScheduler"}, "ScoreSdeVeScheduler .* is not supported"),
        ({"_class_name": "VQDiffusionScheduler"}, "VQDiffusionScheduler"),
        ({"_class_name": "DDIMInverseScheduler"}, "DDIMInverseScheduler .* is not supported: it runs from data to"),
        ({"prediction_type": "flow"}, "prediction_type 'flow' is not supported"),
        ({"beta_schedule": "sometimes"}, "does not describe a DDPMScheduler"),
    ],
)
def test_a_scheduler_that_is_not_supported_is_refused_by_name(tmp_path, change, message):
    path = folder(tmp_path, unet(), DDPMScheduler())
    file = path / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load_model(path)
    file.write_text("{")
    with pytest.raises(ValueError, match=r"cannot read .*scheduler_config\.json as JSON"):
        load_model(path)
    file.write_text("[1]")
    with pytest.raises(ValueError, match="holds a list, expected names and values"):
        load_model(path)


def test_weights_that_are_spoilt_missing_or_pickles_are_refused(tmp_path):
    path = folder(tmp_path / "model", unet(), DDPMScheduler())
    file = path / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = next(iter(weights))
    save_file({**weights, name: torch.full_like(weights[name], torch.nan)}, file)
    with pytest.raises(ValueError, match=rf"values that are NaN or infinite: {name}"):
        load_model(path)
    save_file({key: value for key, value in weights.items() if key != name}, file)
    with pytest.raises(ValueError, match=r"missing|not those of its config"):
        load_model(path)
    file.unlink()
    torch.save(weights, path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="whole diffusers UNet2DModel with safetensors"):
        load_model(path)


@pytest.mark.parametrize("name", ["AutoencoderKLNoSuch", "DDPMScheduler", "StableDiffusionPipeline", 3, None])
def test_a_class_that_is_no_network_of_diffusers_is_named(tmp_path, name):
    path = folder(tmp_path, unet(), DDPMScheduler())
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "_class_name": name}))
    with pytest.raises(ValueError, match=f"expected a network of diffusers at .*, its config.json names {name!r}"):
        load_model(path)


def test_a_network_without_times_is_no_diffusion_network(tmp_path):
    AutoencoderKL(1, 1, block_out_channels=(8,), norm_num_groups=4, latent_channels=1).save_pretrained(tmp_path)
    DDPMScheduler().save_pretrained(tmp_path / "scheduler")
    with pytest.raises(ValueError, match=r"the AutoencoderKL at .* is no diffusion network: it takes no timestep"):
        load_model(tmp_path)


def test_precision_and_device_are_chosen_when_a_folder_is_opened(tmp_path):
    path = folder(tmp_path, unet(), DDPMScheduler())
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        network, _ = load_model(path, "cpu", dtype=dtype)
        assert {weight.dtype for weight in network.parameters()} == {dtype}
        assert ls.as_network(network).dtype == dtype


def test_opening_a_folder_says_nothing_on_the_way(tmp_path, capfd):
    load_model(folder(tmp_path, unet(), DDPMScheduler()))
    assert capfd.readouterr() == ("", "")


def test_a_shipped_model_needs_no_scheduler():
    with pytest.raises(ValueError, match="the shipped model mnist has its own scheduler"):
        zoo.open_model("mnist", scheduler="DDIMScheduler")
    with pytest.raises(ValueError, match="mixed_precision must be one of no, bf16, received 'fp8'"):
        zoo.open_model("mnist", mixed_precision="fp8")


def test_a_name_on_the_hub_is_told_how_to_come_here():
    with pytest.raises(ValueError, match=r"hf download google/ddpm-cat-256 --local-dir ddpm-cat-256"):
        zoo.open_model("google/ddpm-cat-256")


@pytest.mark.parametrize("scheduler", SCHEDULERS[1:], ids=lambda one: type(one).__name__)
def test_the_command_samples_a_folder_with_its_own_scheduler(tmp_path, scheduler):
    """The samples are those of the model's own process by hand."""
    path = folder(tmp_path / "model", unet(), scheduler)
    options = ["sample", path, "-n", 2, "--steps", 3, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(option) for option in options])
    assert result.exit_code == 0, result.output
    network, trained = load_model(path)
    kind = "ddim" if isinstance(scheduler, DDIMScheduler) else "own"
    changes = {"clip_sample": False} if kind == "ddim" else {}
    sampler = ls.make_sampler(kind, trained, "trailing" if kind == "ddim" else None, **changes)
    expected = (ls.generate(network, sampler, n=2, steps=3).images * 255).round().int()
    received = ls.load_images(tmp_path / "out").pixels.int()
    assert (received - expected).abs().max() <= 1


def test_the_command_says_which_option_names_the_scheduler(tmp_path):
    path = folder(tmp_path / "model", unet(), None, where=None)
    options = ["sample", str(path), "-n", "2", "--steps", "2", "--out", str(tmp_path / "out")]
    without = CliRunner().invoke(app, options)
    assert without.exit_code == 2 and "--scheduler" in without.output
    given = CliRunner().invoke(app, [*options, "--scheduler", "DDIMScheduler"])
    assert given.exit_code == 0, given.output


def test_what_this_library_writes_it_opens(tmp_path):
    save_model(unet(), EDMEulerScheduler(), tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert isinstance(load_model(tmp_path / "b")[1], EDMEulerScheduler)
    assert isinstance(open_scheduler(tmp_path / "b" / "scheduler"), EDMEulerScheduler)
    assert isinstance(open_scheduler("DDPMScheduler"), diffusers.DDPMScheduler)
