"""The prior solver on the command line: `sample`, `choose` and `sweep` do what the functions do."""

import json

import pyarrow.parquet as pq
import pytest
import torch
from typer.testing import CliRunner

import latestart as ls
from latestart import zoo
from latestart.cli import app
from latestart.data import read_png, to_pixels
from tiny import tiny_folder

SHIPPED = zoo.load("mnist")


def _run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})


@pytest.mark.parametrize(
    ("asked", "prior", "t_start", "options"),
    [
        ((), None, None, {}),
        (("--last", 50), None, None, {"last": 50}),
        (("--prior", "gaussian", "--t-start", 600), "gaussian", 600, {}),
        (("--prior", "mixture", "--t-start", 300, "--eta", 0.5), "mixture", 300, {"eta": 0.5}),
        (("--prior", "mixture", "--t-start", 300, "--inside", "gaussian"), "mixture", 300, {"inside": "gaussian"}),
    ],
    ids=["full noise", "last", "Gaussian", "mixture with noise", "mixture, Gaussian inside"],
)
def test_sample_does_what_generate_does(tmp_path, asked, prior, t_start, options):
    result = _run("sample", "mnist", "--sampler", "prior", *asked, "--steps", 2, "-n", 2, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    start = {"gaussian": SHIPPED.prior, "mixture": SHIPPED.mixture, None: None}[prior]
    inside = SHIPPED.prior if prior is None or options.get("inside") else start
    sampler = ls.make_sampler("prior", SHIPPED.scheduler, inside, "trailing", eta=options.get("eta", 0.0))
    if "last" in options:
        sampler = ls.late_start(sampler, 1000, 2, last=options["last"])
    expected = to_pixels(ls.generate(SHIPPED.model, sampler, start, 2, 2, t_start).images)
    for k in range(2):
        assert torch.equal(read_png(tmp_path / "out" / f"{k:05d}.png"), expected[k])


def test_choose_asks_for_the_solver_s_own_start(tmp_path):
    asked = ("--sampler", "prior", "--steps", 3, "--method", "probe", "--probes", 400, "--features", "mnist")
    result = _run("choose", "mnist", *asked, "--out", tmp_path / "choice.json")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "choice.json").read_text())
    sampler = ls.make_sampler("prior", SHIPPED.scheduler, SHIPPED.prior, "trailing")
    images = SHIPPED.images("heldout-a")
    expected = ls.choose_start(SHIPPED.model, sampler, SHIPPED.prior, images, 3, "probe", features="mnist", probes=400)
    assert record["t_start"] == expected.t_start
    assert {one["t_start"] for one in record["evidence"]} == {one.t_start for one in expected.evidence}


def test_a_sweep_has_its_options_in_the_table(tmp_path):
    own = ("--sampler", "prior", "--nfe", 2, "--prior", "none,gaussian", "--t-start", 500)
    own += ("--spacing", "trailing", "--clip", "false", "--eta", "0,1", "--last", 20)
    result = _run("sweep", *own, "--inside", "mixture", "--samples", 10, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    rows = pq.read_table(tmp_path / "out" / "results.parquet").to_pylist()
    assert [row["status"] for row in rows] == ["done"] * 8
    assert {(row["eta"], row["last"]) for row in rows} == {(None, None), (None, 20), (1.0, None), (1.0, 20)}
    assert {row["inside"] for row in rows} == {"mixture"}
    assert len({row["frechet"] for row in rows}) == 8


def test_a_folder_without_a_prior_and_one_of_other_values_are_refused(tmp_path):
    folder = tiny_folder(tmp_path)
    result = _run("sample", folder / "model", "--sampler", "prior", "-n", 1, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "there is no prior 'gaussian'" in result.output
    late = ("--prior", folder / "prior.safetensors", "--t-start", 500, "--no-check-prior")
    result = _run("sample", folder / "model", "--sampler", "prior", *late, "-n", 1, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    wide = ls.Gaussian(SHIPPED.prior.mean, SHIPPED.prior.basis, 900 * SHIPPED.prior.variances)
    wide.save(tmp_path / "wide.safetensors")
    asked = ("sample", "mnist", "--sampler", "prior", "--inside", tmp_path / "wide.safetensors", "-n", 1)
    result = _run(*asked, "--out", tmp_path / "wide")
    assert result.exit_code == 2 and "speak of different values" in result.output
    result = _run("sweep", *asked[2:-2], "--nfe", 2, "--prior", "none", "--samples", 8, "--out", tmp_path / "swept")
    assert "speak of different values" in result.output


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--sampler", "dpm++", "--eta", 0.9), "eta is a setting of the samplers prior and ddim, received dpm++"),
        (("--inside", "mixture"), "received none"),
        (("--prior", "gaussian", "--last", 40), "with a prior, last and spacing need a start"),
        (("--spacing", "gits", "--last", 40), "two ways to spread the times"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tmp_path, asked, said):
    result = _run("sample", "mnist", *asked, "-n", 1, "--out", tmp_path / "out")
    assert result.exit_code == 2 and said in " ".join(result.output.split())
    assert not (tmp_path / "out").exists()
