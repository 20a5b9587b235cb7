import json
import shutil

import numpy as np
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from latestart import zoo
from latestart.cli.check import check
from latestart.gaussians.gaussian import Gaussian

app = typer.Typer()
app.command()(check)
runner = CliRunner()


def _run(*args):
    return runner.invoke(app, [str(a) for a in args], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Images that the shipped model has not seen, in two sets, and images of another shape."""
    folder = tmp_path_factory.mktemp("images")
    images = zoo.load("mnist").images("heldout-b")
    np.savez(folder / "some.npz", images=images.pixels[:100].numpy(), labels=images.labels[:100].numpy())
    np.savez(folder / "few.npz", images=images.pixels[:30].numpy())
    np.savez(folder / "small.npz", images=images.pixels[:50, :, :8, :8].numpy())
    Gaussian.fit(images[:100].floats()).save(folder / "own.safetensors")
    return folder


def test_a_shipped_model_is_checked(tmp_path, files):
    result = _run("mnist", "--images", files / "some.npz", "--t-start", 700, "-n", 40, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "check.json").read_text())
    findings = {f["name"]: f for f in record["findings"]}
    assert list(findings) == ["linear", "gaussian", "critical", "network"]
    for finding in findings.values():
        assert finding["verdict"] in result.output
    assert record["sentence"] in result.output
    assert (record["model"], record["t_start"], record["images"], record["evaluated"]) == ("mnist", 700, 100, 40)
    # noised digits are one Gaussian at t = 700 and are not at t = 300
    assert findings["gaussian"]["verdict"] == "good"
    assert 300 < findings["gaussian"]["numbers"]["levels"]["1"]["t"] < 700
    named = {level["criterion"].split(",")[0] for level in record["levels"]} | set(record["missing"])
    assert {"nats", "speciation", "density", "sde", "uturn"} <= {name.split(",")[0] for name in named}
    for name, reason in record["missing"].items():
        assert reason
        assert name in result.output
    with Image.open(tmp_path / "check.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10, "there is something on it"


def test_a_prior_that_speaks_of_other_values_is_a_verdict_in_the_table(tmp_path, files):
    images = zoo.load("mnist").images("train").floats()[:200]
    Gaussian.fit(40 * images).save(tmp_path / "wide.safetensors")
    asked = ("--images", files / "some.npz", "--prior", tmp_path / "wide.safetensors", "-n", 40, "--out", tmp_path)
    result = _run("mnist", *asked)
    assert result.exit_code == 0, result.output
    assert "Do prior and network" in result.output and "speak of different values" in result.output
    record = json.loads((tmp_path / "check.json").read_text())
    assert [record["findings"][-1][name] for name in ("name", "verdict")] == ["prior", "bad"]


def test_a_folder_without_a_prior_is_judged_by_halves(tmp_path, files):
    shutil.copytree(zoo.load("mnist").path, tmp_path / "m")
    (tmp_path / "m" / "prior.safetensors").unlink()
    result = _run(tmp_path / "m", "--images", files / "some.npz", "-n", 40, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "cosine+dense Gaussian, fitted to the other half (50 images), on 50 images" in result.output
    # pixels on their own are no model of digits
    record = json.loads((tmp_path / "out" / "check.json").read_text())
    diagonal = next(f for f in record["findings"] if f["name"] == "gaussian")["numbers"]["levels"]["1"]
    assert diagonal["t"] > 500


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "nowhere is neither a folder"),
        (("mnist", "--images", "nowhere.npz"), "nowhere.npz"),
        (("mnist", "--images", "few.npz"), "at least 40 images"),
        (("mnist", "--images", "small.npz"), "(1, 28, 28), received a prior for (1, 28, 28) and images (50, 1, 8, 8)"),
        (("mnist", "--images", "some.npz", "--t-start", "1001"), "t_start=1001 lies outside of the schedule"),
        (("mnist", "--images", "some.npz", "--prior", "own.safetensors"), "fitted to these very 100 images"),
        (("mnist", "--prior", "some.npz"), "expected a gaussian file"),
        (("mnist", "--out", "few.npz"), "expected a folder to write to"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, files, monkeypatch, args, message):
    monkeypatch.chdir(files)
    out = () if "--out" in args else ("--out", tmp_path / "out")
    result = _run(*args, *out)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_model_of_ones_own_needs_images(tmp_path):
    result = _run(zoo.load("mnist").path, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "give held-out ones with --images" in result.output


def test_halves_of_too_few_images_are_refused(tmp_path, files):
    small = {"images": torch.zeros(60, 28, 28, dtype=torch.uint8).numpy()}
    np.savez(tmp_path / "60.npz", **small)
    result = _run(zoo.load("mnist").path, "--images", tmp_path / "60.npz", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "at least 80 images" in result.output
