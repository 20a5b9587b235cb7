"""The command `latestart grid`: the tables of `grid_times` in every form, and mistakes in one line."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import latestart as ls
from latestart import zoo
from latestart.cli import app

runner = CliRunner()
SHIPPED = zoo.load("mnist")


def _run(*args):
    return runner.invoke(app, [*map(str, args)], env={"COLUMNS": "200"})


def test_the_help_shows_an_example_and_the_forms():
    result = _run("grid", "--help")
    assert result.exit_code == 0 and "latestart grid mnist" in result.output.split("Example:")[1]
    for word in ("ManualSigmas", "webUI_ExtraSchedulers", "set_timesteps"):
        assert word in result.output


@pytest.mark.parametrize("start", [None, 500])
def test_the_levels_are_those_of_the_function(tmp_path, start):
    asked = ("grid", "mnist", "--steps", 3, *(() if start is None else ("--t-start", start)))
    expected = ls.grid_times("gaussian-optimal", SHIPPED.scheduler, 3, start, prior=SHIPPED.prior)
    for form in ("table", "diffusers", "comfyui", "a1111", "json"):
        out = tmp_path / f"{form}.txt"
        result = _run(*asked, "--format", form, "--out", out)
        assert result.exit_code == 0, result.output
        assert result.output == out.read_text() == expected.text(form) + "\n"
    assert json.loads(result.output)["times"] == list(expected.times)


def test_plain_spacings_and_other_solvers():
    assert _run("grid", "mnist", "--steps", 4, "--spacing", "trailing", "--format", "diffusers").output.startswith(
        "timesteps = [999, 749, 499, 249]\n"
    )
    first, other = (_run("grid", "mnist", "--steps", 3, "--sampler", name).output for name in ("ddim", "dpm++"))
    assert first != other


def test_images_of_ones_own(tmp_path):
    images = SHIPPED.images("heldout-b")[:5]
    np.savez(tmp_path / "some.npz", images=images.pixels.numpy())
    asked = ("grid", "mnist", "--steps", 3, "--spacing", "entropic-rescaled", "--images", tmp_path / "some.npz")
    result = _run(*asked, "--format", "json")
    expected = ls.grid_times("entropic-rescaled", SHIPPED.scheduler, 3, model=SHIPPED.model, images=images.floats())
    assert result.exit_code == 0 and json.loads(result.output)["times"] == list(expected.times), result.output
    assert json.loads(result.output)["nfe"] == expected.nfe == 5 * 32


def test_samples_at_times_that_were_found(tmp_path):
    asked = ("sample", "mnist", "--steps", 3, "--spacing", "gaussian-optimal", "-n", 2, "--seed", 4)
    result = _run(*asked, "--t-start", 500, "--out", tmp_path / "late")
    assert result.exit_code == 0 and "2 images, 3 network evaluations each, from sigma = 3.42" in result.output
    result = _run(*asked, "--sampler", "dpm++", "--out", tmp_path / "full")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("mnist", "--spacing", "magic"), "there is no spacing 'magic'; there are gaussian-optimal, gits"),
        (("mnist", "--format", "yaml"), "there is no format 'yaml'; there are table, diffusers"),
        (("mnist", "--steps", 0), "steps=0"),
        (("mnist", "--t-start", 2000), "t_start=2000"),
        (("nowhere",), "nowhere"),
        (("mnist", "--prior", "none.safetensors"), "found nothing"),
    ],
)
def test_mistakes_are_one_line(asked, said):
    result = _run("grid", *asked)
    assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output
