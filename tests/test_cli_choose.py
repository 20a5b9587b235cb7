"""The command `latestart choose`: the choice of `choose_start`, its evidence, and mistakes in one line."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from latestart import choose_start, zoo
from latestart.cli import app
from latestart.cli.choose import ChooseSettings
from latestart.cli.support import features
from latestart.gaussians.gaussian import Gaussian
from latestart.sampling.probing import FEWEST
from latestart.sampling.samplers import make_sampler
from tiny import tiny_folder

runner = CliRunner()


def _run(*args):
    return runner.invoke(app, ["choose", *map(str, args)], env={"COLUMNS": "200"})


def test_the_help_shows_an_example():
    result = _run("--help")
    assert result.exit_code == 0
    assert "latestart choose mnist" in result.output.split("Example:")[1]


def test_as_many_probes_as_the_function_takes():
    assert ChooseSettings().probes is None
    assert ChooseSettings(probes=FEWEST).probes == FEWEST
    with pytest.raises(ValueError, match=f"probes={FEWEST - 1}: expected a whole number of at least {FEWEST}"):
        ChooseSettings(probes=FEWEST - 1)


def test_the_choice_is_that_of_the_function_with_its_evidence(tmp_path):
    images = zoo.load("mnist").images("heldout-b")
    np.savez(tmp_path / "some.npz", images=images.pixels[:40].numpy())
    out = tmp_path / "choice.json"
    result = _run("mnist", "--images", tmp_path / "some.npz", "--steps", 3, "--method", "nats", "--out", out)
    assert result.exit_code == 0, result.output
    bundle = zoo.load("mnist")
    scheduler = make_sampler("ddim", bundle.scheduler, timestep_spacing="trailing")
    expected = choose_start(bundle.model, scheduler, bundle.prior, images[:40].floats(), 3, "nats")
    record = json.loads(out.read_text())
    assert (record["t_start"], record["nfe"], record["method"]) == (expected.t_start, expected.nfe, "nats")
    assert len(record["evidence"]) == len(expected.evidence)
    assert f"start at t = {expected.t_start:g}" in result.output
    assert f"{expected.nfe} network evaluations in all" in result.output


def test_a_folder_without_features_is_probed_by_its_network(tmp_path):
    folder = tiny_folder(tmp_path)
    asked = (folder / "model", "--prior", folder / "prior.safetensors", "--images", folder / "train.npz", "--steps", 2)
    by_default, by_name = (
        _run(*asked, "--probes", 200, "--no-check-prior", *more) for more in ((), ("--features", "network"))
    )
    assert by_default.exit_code == 0, by_default.output
    assert "chosen by probe" in by_default.output and by_name.output == by_default.output


def test_a_prior_of_other_values_is_refused_unless_it_is_not_compared(tmp_path):
    images = zoo.load("mnist").images("heldout-a")[:60]
    np.savez(tmp_path / "some.npz", images=images.pixels.numpy())
    Gaussian.fit(40 * images.floats()).save(tmp_path / "wide.safetensors")
    asked = ("mnist", "--images", tmp_path / "some.npz", "--prior", tmp_path / "wide.safetensors", "--method", "nats")
    refused, done = _run(*asked), _run(*asked, "--no-check-prior")
    assert refused.exit_code == 2 and "speak of different values" in refused.output
    assert done.exit_code == 0 and "start at t = " in done.output, done.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "nowhere"),
        (("mnist", "--images", "nowhere.npz"), "nowhere.npz"),
        (("mnist", "--method", "best"), "no method 'best'"),
        (("mnist", "--sampler", "best"), "best"),
        (("mnist", "--probes", "10"), "200"),
        (("mnist", "--method", "nats", "--out", "file/choice.json"), "expected a folder to write to"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    result = _run(*args)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_features_are_the_named_ones_else_the_classifier_beside_the_model_else_the_network(tmp_path):
    mnist = zoo.load("mnist")

    def found(**asked):
        return features(SimpleNamespace(**{"features": None, "model": str(tmp_path)} | asked), None)

    assert found() is None and found(features="network") == "network"
    shutil.copy(mnist.path / "classifier.safetensors", tmp_path)
    assert found().name == f"classifier-{mnist.features.name.rpartition('-')[2]}"
    assert found(features="mnist").name == mnist.features.name
    assert features(SimpleNamespace(features=None, model="mnist"), mnist) is mnist.features
