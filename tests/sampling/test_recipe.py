"""Recipes: kept bit for bit, run as by hand, and refused for another model, scheduler or version, or when edited."""

import copy
import json

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
from safetensors import safe_open
from safetensors.torch import save_file

import latestart as ls
from latestart.data import read_png
from latestart.denoisers.identity import identity
from latestart.evaluation.quality import Estimate
from latestart.files import save_tensors
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.records import plain
from latestart.sampling.loop import draw
from latestart.sampling.recipe import KIND, Recipe, Trial, load_recipe
from latestart.sampling.ways import Way
from tuned import checks

SCHEDULER = DDPMScheduler(clip_sample=False)
WAY = Way(sampler="ddpm", prior="mixture", t_start=250.0)
INSIDE = Way(sampler="prior", prior="mixture", t_start=250.0, inside="gaussian", order=1, eta=1.0)
PRIORS = {
    "gaussian": Gaussian.fit(checks(200)),
    "mixture": Mixture.fit(checks(200), components=3).rounded(),  # as tune works with it
}


def unet(seed=0):
    torch.manual_seed(seed)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    return UNet2DModel(8, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)


UNET = unet()


def trial(way, value, **others):
    figures = {"frechet": Estimate(value, value - 0.1, value + 0.1), "recall": Estimate(0.5, 0.4, 0.6)}
    known = {
        "way": way,
        "steps": 5,
        "round": 4,
        "samples": 128,
        "distance": Estimate(value / 3, value / 4, value / 2),
        "figures": figures,
    }
    return Trial(**known | others)


def recipe(way=WAY, model=UNET, scheduler=SCHEDULER, priors=PRIORS, **others):
    full, usual = trial(Way(sampler="unipc"), 4.25), trial(Way(sampler="ddim", spacing="leading"), 9.5)
    failed = trial(Way(sampler="deis"), 1.0, distance=None, figures=None, out="it cannot be set", round=0, samples=0)
    known = {
        "nfe": 5, "gain": Estimate(2.125, 1.5, 3.0), "reason": ("it costs recall: 0.5", "its distance is 2.125 times"),
        "priors": priors, "scheduler": {"class": "DDPMScheduler", "config": settings(scheduler)},
        "model": identity(model, scheduler), "data": {"images": 900, "fingerprint": "abc", "split": "in three"},
        "features": "values", "search": {"budget": 60_000, "spent": 59_990, "seed": 7},
        "evidence": (trial(way, 2.0), full, failed), "samples": torch.randint(256, (2, 9, 1, 8, 8)).to(torch.uint8),
    }  # fmt: skip
    return Recipe(trial(way, 2.0), full, usual, **known | others)


def settings(scheduler):
    return plain({name: value for name, value in scheduler.config.items() if not name.startswith("_")})


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "recipe.safetensors"
    recipe().save(path)
    return path


@pytest.mark.parametrize("way", [WAY, INSIDE], ids=["ddpm", "prior"])
def test_a_recipe_is_kept_bit_for_bit(way, tmp_path):
    one, path = recipe(way), tmp_path / "one.safetensors"
    sheet = one.save(path)
    again = ls.load_recipe(path)
    again.save(tmp_path / "two.safetensors")
    assert (tmp_path / "two.safetensors").read_bytes() == path.read_bytes()
    assert str(again) == str(one) and repr(again) == repr(one)
    assert (
        again.way == way
        and again.gain == one.gain
        and [t.record() for t in again.evidence] == [t.record() for t in one.evidence]
    )
    for name, prior in PRIORS.items():
        mine, theirs = again.priors[name].tensors(), prior.tensors()
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in theirs)
    assert torch.equal(again.samples, one.samples)
    assert sheet == path.with_suffix(".png") and read_png(sheet).shape[0] == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [
        "one.png", "one.safetensors", "two.png", "two.safetensors",
    ]  # fmt: skip


def test_without_samples_there_is_no_sheet(tmp_path):
    path = tmp_path / "recipe.safetensors"
    assert recipe(samples=None).save(path) is None
    assert load_recipe(path).samples is None and list(tmp_path.iterdir()) == [path]


def test_images_by_a_recipe_are_those_drawn_by_hand(file):
    mine = ls.generate(UNET, recipe=file, n=5, seed=3)
    late = ls.late_start(ls.make_sampler("ddpm", SCHEDULER, spacing="trailing", clip_sample=False), 250, 5)
    theirs = draw(UNET, late, PRIORS["mixture"], 5, 5, seed=3)
    assert torch.equal(mine.samples, theirs.samples)
    assert (mine.nfe, mine.timesteps, mine.sigma) == (theirs.nfe, theirs.timesteps, theirs.sigma)
    again = ls.generate(UNET, SCHEDULER, recipe=load_recipe(file), n=5, seed=3)
    assert torch.equal(again.samples, mine.samples)


def test_by_hand_from_the_first_sample_to_the_last_step(file):
    """The start sample, and the steps of diffusers' own scheduler, without this library's loop."""
    known = load_recipe(file)
    late = ls.late_start(DDIMScheduler.from_config(SCHEDULER.config, timestep_spacing="trailing"), 250, 5)
    way = Way(sampler="ddim", prior="mixture", t_start=250.0)
    noise = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    mine = ls.generate(UNET, recipe=recipe(way), noise=noise).samples
    with torch.inference_mode():
        late.set_timesteps(5)
        x = ls.start_sample(late, known.prior, noise)
        for t in late.timesteps:
            x = late.step(UNET(late.scale_model_input(x, t), t).sample, t, x).prev_sample
    torch.testing.assert_close(mine, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", [WAY, INSIDE, Way(sampler="unipc")], ids=["ddpm", "prior", "full"])
def test_an_image_is_the_same_in_every_batch(way):
    whole = ls.generate(UNET, recipe=recipe(way), n=6, seed=2).samples
    for n, size, first in ((6, 4, 0), (3, 1, 0), (4, 3, 2)):
        part = ls.generate(UNET, recipe=recipe(way), n=n, seed=2, batch_size=size, first=first).samples
        torch.testing.assert_close(part, whole[first : first + n], rtol=1e-4, atol=1e-4)


def test_the_card_says_what_it_is_what_it_gains_and_what_it_cost():
    lines = str(recipe()).splitlines()
    assert lines[0] == "recipe for 5 network evaluations: ddpm, mixture at t = 250, trailing (5 steps)"
    assert lines[1:3] == ["  it costs recall: 0.5", "  its distance is 2.125 times"]
    assert lines[3].startswith("  recipe: ddpm") and "frechet 2 [1.9, 2.1]" in lines[3]
    assert lines[4].startswith("  best full noise: unipc") and lines[5].startswith("  usual: ddim, full noise, leading")
    assert "UNet2DModel on samples of (1, 8, 8), DDPMScheduler; features: values" in lines[6]
    assert "3 candidates, 59,990 evaluations of 900 images and samples, seed 7" in lines[7]


def test_the_same_network_in_half_precision_is_accepted(file):
    half = copy.deepcopy(UNET).bfloat16()
    result = ls.generate(half, recipe=file, n=2)
    assert result.samples.isfinite().all() and result.nfe == 5


@pytest.mark.parametrize(
    ("model", "scheduler", "message"),
    [
        (unet(1), SCHEDULER, "norms .* and not .*: its weights are others"),
        (UNET, DDPMScheduler(beta_schedule="squaredcos_cap_v2"), r"the levels .* \(log sigma\), received "),
        (UNET, DDPMScheduler(prediction_type="v_prediction"), "the prediction type epsilon, received v_prediction"),
        (UNET, ls.make_sampler("ddim", DDPMScheduler(num_train_timesteps=500)), "over the times .*, received vp over"),
    ],
    ids=["network", "betas", "prediction", "times"],
)
def test_another_model_or_scheduler_is_refused_with_both_named(file, model, scheduler, message):
    with pytest.raises(ValueError, match=f"the recipe is for another model: it has .*{message}.*; tune this one"):
        ls.generate(model, scheduler, recipe=file, n=2)


@pytest.mark.parametrize("asked", [{"prior": PRIORS["gaussian"]}, {"steps": 5}, {"t_start": 250.0}], ids=str)
def test_a_recipe_brings_its_own_start(file, asked):
    with pytest.raises(
        ValueError, match=f"brings its own prior, steps, t_start: received {next(iter(asked))} beside it"
    ):
        ls.generate(UNET, SCHEDULER, recipe=file, n=2, **asked)


def test_what_is_no_recipe_is_refused_by_its_kind():
    with pytest.raises(TypeError, match="received a Way"):
        ls.generate(UNET, SCHEDULER, recipe=WAY, n=2)
    with pytest.raises(FileNotFoundError):
        ls.generate(UNET, SCHEDULER, recipe="nowhere.safetensors", n=2)


# Files that were spoilt.


def _parts(path):
    with safe_open(path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, dict(opened.metadata())  # noqa: SIM118


def test_a_file_that_was_cut_or_is_foreign_is_refused(file, tmp_path):
    whole = file.read_bytes()
    for size in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="recipe"):
            load_recipe(file)
    torch.save({"a": 1}, file)
    with pytest.raises(ValueError, match="pickle"):
        load_recipe(file)
    prior = tmp_path / "prior.safetensors"
    PRIORS["gaussian"].save(prior)
    with pytest.raises(ValueError, match="expected a recipe of version 1"):
        load_recipe(prior)


def test_another_version_is_refused_with_both_named(file):
    tensors, header = _parts(file)
    save_file(tensors, file, {**header, "version": "2"})
    with pytest.raises(ValueError, match=f"holds a {KIND} of version 2, expected a {KIND} of version 1"):
        load_recipe(file)


def test_any_byte_that_was_changed_is_noticed(file):
    whole = bytearray(file.read_bytes())
    begin = 8 + int.from_bytes(whole[:8], "little")
    for place in (begin, begin + 37, (begin + len(whole)) // 2, len(whole) - 1):
        edited = whole.copy()
        edited[place] ^= 1
        file.write_bytes(edited)
        with pytest.raises(ValueError, match="was changed since it was written: its fingerprint is"):
            load_recipe(file)


@pytest.mark.parametrize("name", ["nfe", "steps", "gain", "reason", "betas", "norms", "seed"])
def test_a_number_that_was_changed_is_noticed(file, name):
    tensors, header = _parts(file)
    known = json.loads(header["metadata"])
    match name:
        case "nfe":
            known["nfe"] = 4
        case "steps":
            known["chosen"]["steps"] = 4
        case "gain":
            known["gain"]["value"] = 99.0
        case "reason":
            known["reason"] = ["the best that there is"]
        case "betas":
            known["scheduler"]["config"]["beta_end"] = 0.03
        case "norms":
            known["model"]["norms"][0] += 1
        case "seed":
            known["search"]["seed"] = 8
    save_tensors(file, KIND, tensors, known)
    with pytest.raises(ValueError, match="was changed since it was written"):
        load_recipe(file)


def test_latents_of_an_encoder_are_refused_by_its_name(file):
    from latestart.sampling.recipe import _print

    tensors, header = _parts(file)
    known = {**json.loads(header["metadata"]), "encoder": "kl-f8"}
    known.pop("fingerprint")
    save_tensors(file, KIND, tensors, {**known, "fingerprint": _print(tensors, known)})
    with pytest.raises(ValueError, match="latents of the encoder kl-f8"):
        load_recipe(file)


def test_a_prior_that_the_way_needs_and_the_file_lacks_is_missed(tmp_path):
    for way, name in ((WAY, "mixture"), (INSIDE, "gaussian")):
        path = tmp_path / f"{name}.safetensors"
        recipe(way, priors={one: prior for one, prior in PRIORS.items() if one != name}).save(path)
        with pytest.raises(ValueError, match=f"the prior '{name}' is missing"):
            load_recipe(path)
