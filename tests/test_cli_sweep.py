"""`latestart sweep`: a grid from a file or from flags, a table, and mistakes in one line."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from latestart.cli.sweep import sweep
from latestart.denoisers.folders import load_model
from latestart.lab.grid import Grid, read_grid
from latestart.network_features import NetworkFeatures
from tiny import tiny_folder

EXAMPLE = Path(__file__).parent.parent / "examples" / "sweep.yaml"
AXES = ("--sampler", "ddim", "--nfe", "2", "--t-start", "500", "--samples", "10")
GRID = (*AXES, "--spacing", "trailing", "--clip", "false")

app = typer.Typer()
app.command()(sweep)


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tiny_folder(tmp_path_factory.mktemp("sweep"))
    np.savez(folder / "few.npz", images=np.load(folder / "train.npz")["images"][:5])
    return folder


def own(folder):
    """The flags of a model of one's own."""
    return (
        "--model", folder / "model", "--features", folder / "classifier.safetensors", "--images", folder / "train.npz",
        "--held-out", folder / "unseen.npz", "--prior", "none,isotropic",
    )  # fmt: skip


def test_a_model_of_ones_own(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["latestart", "sweep", *map(str, own(folder)), *GRID])
    first = run(*own(folder), *GRID, "--out", tmp_path)
    assert first.exit_code == 0, first.output
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"--images {folder.name}/train.npz --held-out" in report and str(folder) not in report
    assert "samples: 10; seed: 0; " in report and "| ddim | 2 | isotropic at 500 | " in report.replace("**", "")
    assert "10 images that the model has not seen score " in report and ": the floor" in report
    assert "warning: the samples' feature covariance has rank 9 of 128 (10 images)" in first.output
    assert "computing the feature statistics of 220 images" in first.output
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [(row["prior"], row["t_start"], row["status"]) for row in rows] == [
        ("none", None, "done"), ("isotropic", 500.0, "done"),
    ]  # fmt: skip
    for row in rows:
        assert 0 < row["frechet_low"] < row["frechet"] < row["frechet_high"]
        assert all(0 <= row[name] <= 1 for name in ("precision", "recall", "coverage", "copied"))
        assert row["features"].startswith("classifier-") and row["nfe"] == row["steps"] == 2
    written = (tmp_path / "results.parquet").read_bytes()
    again = run(*own(folder), *GRID, "--out", tmp_path)
    assert "computing" not in again.output and (tmp_path / "results.parquet").read_bytes() == written
    table = [output[output.index("Frechet distance to the data") :] for output in (first.output, again.output)]
    assert table[0] == table[1] and "isotropic at 500" in table[0]


def test_by_default_late_starts_gain_on_the_best_of_four_ways_from_full_noise(folder, tmp_path):
    result = run(*own(folder), *AXES, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    ways = [(row["prior"], row["spacing"], row["clip"]) for row in rows]
    full = [("none", spacing, clip) for spacing in ("trailing", "leading") for clip in (False, True)]
    assert ways == [*full, ("isotropic", "trailing", False), ("isotropic", "trailing", True)]
    best = min(row["frechet"] for row in rows[:4])
    assert max(row["frechet"] for row in rows[:4]) > 1.01 * best  # else any of them would do
    for row in rows:
        assert row["gain"] == pytest.approx(best / row["frechet"], rel=1e-9)
    assert all(row["gain"] <= 1 for row in rows[:4]) and "gain: on the best of" in result.output


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_fewer_samples_than_have_neighbours_are_refused_at_once(tmp_path, samples):
    result = run("--samples", samples, "--out", tmp_path / "out")
    assert result.exit_code == 2 and f"samples={samples}: expected a whole number of at least 6" in result.output
    assert "Traceback" not in result.output and not (tmp_path / "out").exists()


def test_a_budget_says_what_is_left(folder, tmp_path):
    result = run(*own(folder), *GRID, "--budget", 39, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "left, beyond the budget: 1 of 2 cells, 20 network evaluations" in result.output


def test_a_sampler_without_such_a_count_is_told(folder, tmp_path):
    result = run(*own(folder), *GRID, "--sampler", "heun", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "unavailable: heun: 2 cells, the first being" in result.output
    assert "heun cannot spend 2 evaluations: it spends 1 at 1, 3 at 2 steps" in result.output


def test_a_shipped_model_and_flags_over_a_file(tmp_path):
    args = ("--sampler", "ddim", "--nfe", 1, "--prior", "mixture", "--t-start", "400", "--samples", 8)
    result = run(EXAMPLE, *args, "--clip", "false", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [(row["model"], row["prior"], row["nfe"], row["samples"]) for row in rows] == [("mnist", "mixture", 1, 8)]
    assert rows[0]["status"] == "done" and rows[0]["copied"] is not None


def test_the_example_is_a_grid():
    cells = Grid.read(read_grid(EXAMPLE)).cells()
    assert len(cells) == 3 * 3 * (2 + 3 * 3) * 2


def test_torchrun_ends_with_the_table_of_one_process(folder, tmp_path):
    args = [str(arg) for arg in (*own(folder), *GRID)]
    code = "import typer; from latestart.cli.sweep import sweep; typer.run(sweep)"
    (tmp_path / "main.py").write_text(code)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [*launch, str(tmp_path / "main.py"), *args, "--out", str(tmp_path / "two")]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    alone = run(*args, "--statistics", tmp_path / "two" / "statistics.safetensors", "--out", tmp_path / "one")
    assert alone.exit_code == 0, alone.output
    tables = [(tmp_path / name / "results.parquet").read_bytes() for name in ("one", "two")]
    assert tables[0] == tables[1]


@pytest.mark.parametrize("asked", [(), ("--features", "network"), ("--second", "network")])
def test_a_model_without_a_classifier_is_judged_by_its_own_activations(folder, tmp_path, asked):
    args = ("--model", folder / "model", "--images", folder / "train.npz", "--prior", "none", *asked, *GRID)
    result = run(*args, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    name = NetworkFeatures(*load_model(folder / "model")).name
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert f"features: {name}" in report
    (row,) = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert row["status"] == "done" and row["frechet"] > 0
    assert row["second"] == (pytest.approx(row["frechet"]) if "--second" in asked else None)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--sampler", "dddim"), "there is no sampler 'dddim'"),
        (("--nfe", "3,x"), "nfe: expected whole numbers, received 'x'"),
        (("--model", "nowhere"), "nowhere is neither a folder with a diffusers model nor a shipped one"),
        (("--model", "{}/model", "--prior", "none"), "brings no images to hold its samples against"),
        (("--images", "{}/other.npz"), "(1, 28, 28)"),
        (("--held-out", "{}/unseen.npz"), "held-out images stand beside training images"),
        (("--features", "{}/classifier.safetensors"), "give the training images"),
        (("--features", "nowhere"), "neither known (mnist, efficientnet-lite0, network) nor a classifier's file"),
        (("--features", "{}/train.npz"), "train.npz does not hold the weights of the FID Inception network"),
        (("--features", "{}/prior.safetensors"), "prior.safetensors holds a gaussian of version 1, expected a class"),
        (
            (
                "--model",
                "{}/model",
                "--images",
                "{}/few.npz",
                "--features",
                "{}/classifier.safetensors",
                "--prior",
                "none",
            ),
            "few.npz: expected at least 6 images to hold samples against, received 5",
        ),
        (("--prior", "nowhere.safetensors"), "there is no prior 'nowhere.safetensors'"),
        (("--prior", "{}/train.npz"), "train.npz"),
        (("{}/none.yaml",), "expected a YAML file"),
        (("{}/train.npz",), "train.npz is not a YAML file"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(folder, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = run(*(arg.format(folder) for arg in args))
    assert result.exit_code == 2, result.output
    assert message in result.output and "Traceback" not in result.output
    assert not list(tmp_path.iterdir())
