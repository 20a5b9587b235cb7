"""The demo: the shipped model tuned in few candidates, its table, its sheet and its recipe, and a run that goes on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import latestart as ls
from latestart.cli import app
from tuned import few

BUDGET = 14_000


def _run(folder, *more):
    return CliRunner().invoke(
        app, ["demo", "--steps", "3", "--out", str(folder), "--budget", str(BUDGET), *more], env={"COLUMNS": "200"}
    )


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The folder of a demo of three evaluations, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    with few(solvers=("ddim", "ddpm", "unipc")):
        result = _run(folder)
    assert result.exit_code == 0, result.output
    return folder, result.output


def test_the_recipe_is_better_than_full_noise_and_samples_the_model(shown):
    folder, _ = shown
    recipe, mnist = ls.load_recipe(folder / "recipe-3.safetensors"), ls.zoo.load("mnist")
    assert (recipe.nfe, recipe.late, recipe.way.prior) == (3, True, "mixture")
    assert recipe.gain.value > 2 and recipe.gain.low > 1
    assert abs(recipe.search["spent"] - BUDGET) <= 0.02 * BUDGET
    result = ls.generate(mnist.model, recipe=recipe, n=4)
    assert result.nfe == 3 and result.images.shape == (4, 1, 28, 28)
    assert (folder / "recipe-3.png").is_file()


def test_the_figures_are_those_of_the_recipe(shown):
    folder, printed = shown
    recipe = ls.load_recipe(folder / "recipe-3.safetensors")
    written = json.loads((folder / "results.json").read_text())
    (row,) = written["recipes"]
    assert row["gain"]["value"] == recipe.gain.value
    for name in ("usual", "full", "chosen"):
        assert row[name] == json.loads(json.dumps(getattr(recipe, name).record()))
    distances = {name: row[name]["figures"]["frechet"]["value"] for name in ("usual", "full", "chosen")}
    assert 0 < row["floor"]["value"] < distances["chosen"] < distances["full"] < distances["usual"]
    assert distances["full"] / distances["chosen"] == pytest.approx(row["gain"]["value"], rel=1e-3)
    assert written["seconds"] > 0 and not written["resumed"] and written["judges"] == 2000
    report = (folder / "report.md").read_text()
    for text in (printed.replace("\n", " "), report):
        assert "DDIM as people run it" in text and "best full noise" in text and "new images" in text
        assert f"tuning cost {row['search']['spent']:,} for 3 network evaluations" in text
        assert "latestart sample mnist --recipe " in text and "recipe-3.safetensors -n 64" in text
    assert report.count("| 3 |") == 3 and report.count("| **3** |") == 1
    assert "machine: " in report and "latestart" in report


def test_the_sheet_shows_the_same_seeds_in_each_way(shown):
    from latestart.experiments.demo.measure import _images  # the sheet's own pictures are scaled

    folder, _ = shown
    recipe, model = ls.load_recipe(folder / "recipe-3.safetensors"), ls.zoo.load("mnist").model
    for trial, kept in zip((recipe.chosen, recipe.full), recipe.samples):
        drawn = _images(model, recipe, trial, recipe.search["seed"] + 1)
        assert drawn.shape == (16, 1, 28, 28)
        # 16 are drawn in another batch than the 300 of the figures
        assert (drawn - kept[:16].float() / 255).abs().mean() < 0.01
    with Image.open(folder / "samples.png") as picture:
        pixels = torch.from_numpy(np.array(picture.convert("L")))
    assert min(pixels.shape) > 200 and pixels.float().std() > 10


def test_a_demo_that_was_cut_off_goes_on(shown, tmp_path):
    folder, _ = shown
    kept = folder / "tuning"
    stamps = {path: path.stat().st_mtime_ns for path in kept.rglob("*.safetensors")}
    before = (folder / "recipe-3.safetensors").read_bytes()
    victim = next(iter(sorted((kept / "search").iterdir())))
    victim.unlink()
    with few(solvers=("ddim", "ddpm", "unipc")):
        assert _run(folder).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in stamps if path != victim} == {
        path: stamp for path, stamp in stamps.items() if path != victim
    }
    assert (folder / "recipe-3.safetensors").read_bytes() == before and victim.is_file()
    assert json.loads((folder / "results.json").read_text())["resumed"]
