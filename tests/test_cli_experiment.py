"""`latestart experiment`: each command writes its picture and its figures, and names a mistake in one line."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from typer.testing import CliRunner

from latestart.cli.experiment import experiment
from latestart.denoisers.folders import save_model

NAMES = (
    "one-dimension", "sphere", "potential", "bifurcation", "faces", "gaussianity", "sensitivity", "late-start",
    "table1", "diversity", "initialisations", "late-training",
)  # fmt: skip


def _size(path):
    with Image.open(path) as picture:
        return picture.size


def _run(*args):
    return CliRunner().invoke(experiment, [str(a) for a in args], env={"COLUMNS": "200"})


def _report(folder):
    return (folder / "report.md").read_text(encoding="utf-8")


@pytest.fixture
def small(tmp_path):
    """A network of random weights, and images of its shape."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",)}
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    save_model(unet, DDPMScheduler(), tmp_path / "model")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels)
    return tmp_path


@pytest.mark.parametrize("name", NAMES)
def test_every_command_shows_an_example(name):
    result = _run(name, "--help")
    assert result.exit_code == 0
    assert f"latestart experiment {name}" in result.output.split("Example:")[1]


def test_one_dimension(tmp_path):
    result = _run("one-dimension", "--out", tmp_path, "--seeds", 2, "--steps", 300, "--samples", 20)
    assert result.exit_code == 0, result.output
    assert "theta_c = 0.64359, t_c = 0.29264 of 1, exponent 0.4998" in result.output
    assert "95% interval" in result.output
    figures = json.loads((tmp_path / "results.json").read_text())
    assert figures["network"]["training"]["steps"] == 300 and figures["paths"] == 20
    assert min(_size(tmp_path / "one-dimension.png")) > 400
    assert "networks: 2; steps of each: 300; paths: 20; seed: 0; machine: " in _report(tmp_path)


def test_sphere(tmp_path):
    result = _run("sphere", "--out", tmp_path, "--dims", "3", "--radius", 2, "--samples", 5)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "results.json").read_text())["radius"] == 2
    assert min(_size(tmp_path / "sphere.png")) > 400
    report = _report(tmp_path)
    assert "radius: 2.0; paths: 5; seed: 0; machine: " in report and "| 3 | 1.333 | 0.333333 | 0.333333 | " in report


def test_potential_of_a_folder(small):
    args = (small / "model", "--images", small / "images.npz", "--limit", 20, "--samples", 3, "--t-low", 150)
    result = _run("potential", *args, "--out", small / "out")
    assert result.exit_code == 0, result.output
    figures = json.loads((small / "out" / "results.json").read_text())
    assert figures["images"] == 20
    assert figures["sides"]["point cloud"]["straight"]["curvature"]["t"][-1] == 150
    assert min(_size(small / "out" / "potential.png")) > 400
    report = _report(small / "out")
    assert "samples: 3; seed: 0; machine: " in report and "| point cloud | straight | 3 | 100% | " in report


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("sphere", "--dims", "2,x"), "dims: expected whole numbers, received 'x'"),
        (("sphere", "--radius", "-1"), "radius=-1"),
        (("potential", "nowhere"), "nowhere is neither a folder"),
        (("potential", "--images", "nowhere"), "nowhere"),
        (("potential", "--t-low", "900"), "from low to high, received 900"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = _run(*args)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_told_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    for name in NAMES:
        target = "x.npz" if name == "faces" else "x"
        result = _run(name, "--out", tmp_path / "file" / target)
        assert result.exit_code == 2
        assert "expected a folder to write to" in result.output
