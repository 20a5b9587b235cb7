"""The command `latestart analyze`, on a shipped model and on a folder."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from latestart import zoo
from latestart.cli import app
from latestart.data import drawn, load_images, save_png
from latestart.theory.critical import speciation
from latestart.train import train
from latestart.train_config import TrainConfig

runner = CliRunner()


def _run(*args):
    return runner.invoke(app, ["analyze", *map(str, args)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model trained for 60 steps on two kinds of pictures, 4 x 4, and its images."""
    path, g = tmp_path_factory.mktemp("analyze"), torch.Generator().manual_seed(0)
    ramp = torch.linspace(20, 235, 16).view(1, 4, 4)
    for k in range(60):
        image = (ramp if k % 2 else 255 - ramp) + 8 * torch.randn(1, 4, 4, generator=g)
        save_png(path / "images" / "ab"[k % 2] / f"{k}.png", image.clamp(0, 255).round().byte())
    config = TrainConfig(
        steps=60, batch_size=32, channels=(8,), prediction="v_prediction", ema_decay=0.9, learning_rate=5e-3, warmup=10
    )
    train(load_images(path / "images"), path / "model", config)
    return path


def test_a_model_of_ones_own_is_analyzed_beside_its_images(folder, tmp_path):
    criteria = "speciation,correlation,clone"
    result = _run(folder / "model", "--images", folder / "images", "--quick", "--criteria", criteria, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "analysis.json").read_text())
    levels = {(row["criterion"], row["of"]): row for row in record["levels"]}
    expected = speciation(load_images(folder / "images").floats())
    assert levels["speciation", "data"]["sigma"] == pytest.approx(expected.sigma)
    assert {of for criterion, of in levels if criterion == "correlation"} == {"network", "point cloud"}
    missing = {(row["criterion"], row["of"]): row["reason"] for row in record["not_found"]}
    assert set(missing) == {("clone", "network"), ("clone", "point cloud")}
    assert "needs a classifier" in missing["clone", "network"]
    assert {path.stem for path in tmp_path.glob("*.png")} == {"decisions", "levels"}
    for path in tmp_path.glob("*.png"):
        with Image.open(path) as picture:
            assert np.array(picture.convert("L")).std() > 5
    assert "not found" in result.output and "no held-out images were given" in result.output


def test_the_shipped_model_brings_its_images_and_its_classifier(tmp_path):
    result = _run("mnist", "--quick", "--limit", 60, "--criteria", "speciation,uturn", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "analysis.json").read_text())
    assert record["about"]["images"] == 60 and record["about"]["held_out"] == 2000
    levels = {(row["criterion"], row["of"]): row for row in record["levels"]}
    expected = speciation(drawn(zoo.load("mnist").images("train"), 60, 0).floats())
    assert levels["speciation", "data"]["sigma"] == pytest.approx(expected.sigma)
    assert 250 < levels["uturn", "network"]["t"] < 700


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "nowhere"),
        (("mnist", "--criteria", "magic"), "expected criteria among density, sde,"),
        (("mnist", "--images", "nothing.parquet"), "nothing.parquet"),
        (("mnist", "--limit", "20", "--t-range", "100", "5000", "--criteria", "sde"), "5000"),
        (("mnist", "--classifier", "nothing.safetensors"), "nothing.safetensors"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = _run(*args)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_images_of_another_shape_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).random((30, 8, 8)))
    result = _run("mnist", "--images", tmp_path / "x.npz", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "(1, 28, 28)" in result.output and "(30, 1, 8, 8)" in result.output
    assert not (tmp_path / "out").exists()


def test_a_model_of_ones_own_needs_images(folder, tmp_path):
    result = _run(folder / "model", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "give its images with --images" in result.output
