"""The commands `tune`, `show` and `sample --recipe`: from a folder and images to samples, and mistakes in one line."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from typer.testing import CliRunner

import latestart as ls
from latestart.cli import app
from latestart.cli import tune as command
from latestart.data import load_images, read_png, to_pixels
from latestart.denoisers.folders import load_model, save_model
from latestart.gaussians.gaussian import Gaussian
from latestart.sampling.recipe import load_recipe
from latestart.tuning import tune as home
from tuned import bytes_of, checks, few, trained_unet

runner = CliRunner()
BUDGET = 14_400


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A trained network in a folder, and images."""
    folder = tmp_path_factory.mktemp("tuning")
    model, scheduler = trained_unet()
    save_model(model, scheduler, folder / "model")
    np.savez(folder / "images.npz", images=bytes_of(checks(900)).numpy())
    np.savez(folder / "few.npz", images=bytes_of(checks(100)).numpy())
    np.savez(folder / "small.npz", images=bytes_of(checks(900))[:, :, :4, :4].numpy())
    np.savez(folder / "noise.npz", images=np.random.default_rng(0).integers(0, 9, (900, 1, 8, 8), dtype=np.uint8))
    Gaussian.fit(checks(300)[:, :, :4, :4]).save(folder / "small.safetensors")
    return folder


@pytest.fixture(autouse=True)
def _few_candidates():
    with few(("ddim", "unipc")):
        yield


def run(*args):
    return runner.invoke(app, [*map(str, args)], env={"COLUMNS": "300"})


def tune(place, out, *args, images="images.npz", steps=(3,), budget=BUDGET):
    asked = ("--steps", ",".join(map(str, steps)), "--budget", budget, "--out", out)
    return run("tune", place / "model", "--images", place / images, *asked, *args)


@pytest.fixture(scope="module")
def made(place):
    """A recipe by the command, and what the command said."""
    with few(("ddim", "unipc")):
        result = tune(place, place / "recipe.safetensors")
    assert result.exit_code == 0, result.output
    return place / "recipe.safetensors", result.output


def test_the_help_shows_the_settings():
    result = run("tune", "--help")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("--images", "--steps", "--budget", "--prefer", "--out"))


def test_the_recipe_is_that_of_the_function(made, place, tmp_path):
    path, told = made
    model, scheduler = load_model(place / "model")
    images = load_images(place / "images.npz")
    assert ls.tune(model, scheduler, images, 3, budget=BUDGET).save(tmp_path / "recipe.safetensors") is not None
    assert path.read_bytes() == (tmp_path / "recipe.safetensors").read_bytes()
    assert str(load_recipe(path)) in told and f"wrote {path} and {path.with_suffix('.png')}" in told
    with safe_open(path, framework="pt") as opened:
        assert "seconds" not in str(opened.metadata())
    assert not path.with_name(f"{path.name}.parts").exists()


def test_the_card_and_the_candidates_are_shown(made):
    path, _ = made
    result = run("show", path)
    assert result.exit_code == 0, result.output
    recipe = load_recipe(path)
    assert str(recipe) in result.output and "Candidates, the nearest of the search first" in result.output
    shown = [one for one in recipe.evidence if one.round >= 3 or one.figures]
    assert shown and all(one.way.describe() in result.output for one in shown)


def test_samples_by_a_recipe_are_those_of_the_function(made, place, tmp_path):
    path, _ = made
    result = run("sample", place / "model", "--recipe", path, "-n", 5, "--seed", 4, "--out", tmp_path / "samples")
    assert result.exit_code == 0, result.output
    assert "5 images, 3 network evaluations each" in result.output
    model, _ = load_model(place / "model")
    expected = to_pixels(ls.generate(model, recipe=path, n=5, seed=4).images)
    for k, one in enumerate(expected):
        assert torch.equal(read_png(tmp_path / "samples" / f"{k:05d}.png"), one)


def test_a_run_that_was_killed_goes_on_from_its_parts_and_removes_them(made, place, tmp_path, monkeypatch):
    path, _ = made
    out, whole = tmp_path / "again.safetensors", command.bar

    class Stopping:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self.told

        def __exit__(self, *_):
            return None

        def told(self, done, total, note=""):
            if done > 0.6 * total:
                raise KeyboardInterrupt

    monkeypatch.setattr(command, "bar", Stopping)
    stopped = tune(place, out)
    assert stopped.exit_code not in (0, 2) and not out.exists() and not out.with_suffix(".png").exists()
    parts = sorted((tmp_path / "again.safetensors.parts").rglob("search/*.safetensors"))
    assert parts
    before = [one.stat().st_mtime_ns for one in parts]
    seen = []
    monkeypatch.setattr(command, "bar", whole)
    monkeypatch.setattr(command.shutil, "rmtree", lambda folder, **_: seen.append(folder))
    done = tune(place, out)
    assert done.exit_code == 0, done.output
    assert [one.stat().st_mtime_ns for one in parts] == before  # none was made again
    assert seen == [tmp_path / "again.safetensors.parts"]
    assert out.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("args", "given", "message"),
    [
        ((), {"images": "few.npz"}, "expected at least 800 images, received 100"),
        ((), {"images": "small.npz"}, "(1, 4, 4)"),
        ((), {"images": "noise.npz"}, "the images are not those of the model"),
        ((), {"images": "nowhere.npz"}, "nowhere.npz"),
        ((), {"budget": 100}, "take at least"),
        ((), {"budget": 0}, "budget"),
        (("--prefer", "beauty"), {}, "expected recall or precision"),
        (("--features", "beauty"), {}, "beauty"),
        (("--gaussian", "nowhere.safetensors"), {}, "nowhere.safetensors"),
    ],
    ids=["few", "shape", "others", "nowhere", "budget", "nothing", "prefer", "features", "prior"],
)
def test_mistakes_are_one_line_and_leave_nothing(place, tmp_path, args, given, message):
    out = tmp_path / "recipe.safetensors"
    result = tune(place, out, *args, **given)
    assert result.exit_code == 2 and message in result.output, result.output
    assert "Traceback" not in result.output
    assert not out.exists() and not out.with_suffix(".png").exists()
    assert not (tmp_path / "recipe.safetensors.parts").exists(), sorted(tmp_path.rglob("*"))


def test_several_steps_give_a_file_for_each(made, place, tmp_path, monkeypatch):
    recipe, asked = load_recipe(made[0]), []

    def found(network, trained, images, steps, **given):
        asked.append((steps, given["budget"]))
        return {nfe: replace(recipe, nfe=nfe) for nfe in steps}

    monkeypatch.setattr(home, "tune", found)
    result = tune(place, tmp_path / "recipe.safetensors", steps=(3, 5))
    assert result.exit_code == 0 and asked == [((3, 5), BUDGET)], result.output
    assert sorted(one.name for one in tmp_path.iterdir()) == [
        "recipe-3.png", "recipe-3.safetensors", "recipe-5.png", "recipe-5.safetensors",
    ]  # fmt: skip
    for nfe in (3, 5):
        assert load_recipe(tmp_path / f"recipe-{nfe}.safetensors").nfe == nfe


def test_a_prior_of_another_shape_is_refused(place, tmp_path):
    result = tune(place, tmp_path / "recipe.safetensors", "--gaussian", place / "small.safetensors")
    assert result.exit_code == 2 and "the prior is for samples of shape (1, 4, 4)" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_the_way_and_a_model_without_images_are_refused(place, tmp_path):
    assert "received the folder" in tune(place, tmp_path).output
    result = run("tune", place / "model", "--out", tmp_path / "recipe.safetensors")
    assert result.exit_code == 2 and "brings no images" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_beside_other_settings_or_of_another_model_is_refused(made, place, tmp_path):
    path, _ = made
    for name, value in (("steps", 4), ("t-start", 300), ("sampler", "ddim")):
        result = run("sample", place / "model", "--recipe", path, f"--{name}", value, "--out", tmp_path / "out")
        assert result.exit_code == 2 and f"received {name.replace('-', '_')} beside it" in result.output, result.output
    other = run("sample", "mnist", "--recipe", path, "-n", 2, "--out", tmp_path / "out")
    assert other.exit_code == 2 and "the recipe is for another model" in other.output
    assert not (tmp_path / "out").exists()


def test_what_is_no_recipe_is_refused_by_show_and_sample(made, place, tmp_path):
    path, _ = made
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-9])
    for file, message in ((cut, "recipe"), (place / "small.safetensors", "expected a recipe"), ("nowhere", "nowhere")):
        shown = run("show", file)
        assert shown.exit_code == 2 and message in shown.output, shown.output
        drawn = run("sample", place / "model", "--recipe", file, "-n", 2, "--out", tmp_path / "out")
        assert drawn.exit_code == 2 and message in drawn.output, drawn.output
    assert not (tmp_path / "out").exists()
