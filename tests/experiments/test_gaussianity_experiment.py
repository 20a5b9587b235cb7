"""`experiment gaussianity`: the early phase is what a plain DDIM run passes, and the finding on the shipped model."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import typer
from diffusers import DDIMScheduler, DDPMScheduler
from typer.testing import CliRunner

from latestart import zoo
from latestart.cli.early import gaussianity
from latestart.denoisers.networks import as_model
from latestart.evaluation.gaussianity import TESTS
from latestart.experiments import gaussianity as experiment
from latestart.gaussians.basis import Diagonal
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.report import early
from latestart.sampling.seeds import white_noise

SHAPE = (1, 2, 2)
SCHEDULER = DDPMScheduler(clip_sample=False)


def _gaussian():
    return Gaussian(torch.full(SHAPE, 0.3), Diagonal(SHAPE), torch.tensor([2.0, 1.0, 0.5, 0.1]).double())


@pytest.fixture(scope="module")
def result():
    return experiment.run(120, starts=(800, 250), replicates=99)


def test_the_early_phase_is_that_of_a_plain_run(monkeypatch):
    """States of diffusers' own loop, at the times just below each start; several batches."""
    monkeypatch.setattr(experiment, "BATCH", 3)
    model = as_model(_gaussian(), SCHEDULER)
    found = list(experiment.early_phase(model, SCHEDULER, 7, (900, 850, 300), seed=5))
    plain = DDIMScheduler.from_config(SCHEDULER.config, timestep_spacing="trailing", clip_sample=False)
    plain.set_timesteps(40)
    x, states = white_noise(range(7), SHAPE, 5), {}
    for t in plain.timesteps:
        states[int(t)] = x / plain.alphas_cumprod[t].sqrt()
        x = plain.step(model(x, t).sample, t, x).prev_sample
    for y, t in zip(found, (899, 849, 299)):
        torch.testing.assert_close(y, states[t])


def test_the_early_phase_of_a_gaussian_is_near_its_own():
    """With the exact model of a Gaussian its variances at the stops are the noised ones, to the error of DDIM."""
    model, noise = as_model(_gaussian(), SCHEDULER), Noise.from_scheduler(SCHEDULER)
    for y, t in zip(experiment.early_phase(model, SCHEDULER, 4000, (800, 500, 200), seed=0), (799, 499, 199)):
        exact = _gaussian().noised(noise.sigma(float(t)))
        assert y.flatten(1).double().var(0) / exact.variances == pytest.approx(1, abs=0.12)
        assert y.mean() == pytest.approx(0.3, abs=0.1 + 0.05 * noise.sigma(float(t)))


@pytest.mark.parametrize("starts", [(910,), (300, 800), (1000,), (0,)])
def test_starts_that_are_not_stops_are_refused(starts):
    with pytest.raises(ValueError, match="multiples of 25 below 1000"):
        next(experiment.early_phase(as_model(_gaussian(), SCHEDULER), SCHEDULER, 3, starts, 0))


def test_more_samples_than_images_are_refused():
    with pytest.raises(ValueError, match="2001 independent samples"):
        experiment.run(2001)


def test_nats_between_levels_are_linear_in_log_sigma():
    curve = SimpleNamespace(sigma=torch.tensor([4.0, 1.0]), nats=torch.tensor([0.0, 2.0]))
    assert experiment.nats_at(curve, 2.0) == pytest.approx(1.0)
    assert experiment.nats_at(curve, 1.0) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("p", "onset"), [((0.5, 0.5, 0.5), None), ((0.5, 0.5, 0.01), 100), ((0.01, 0.5, 0.01), 100), ((0.01,) * 3, 300)]
)
def test_the_onset_is_the_end_of_a_run_of_rejections_from_the_lowest_noise(p, onset):
    levels = [
        experiment.Level(t, 1.0, 0.0, {("forward", "own"): SimpleNamespace(p=value)})
        for t, value in zip((300, 200, 100), p)
    ]
    found = experiment.Result(levels, None, None, None)
    assert found.onset("forward", "own") == onset


def test_high_noise_is_gaussian_and_low_noise_is_not(result):
    high, low = result.levels
    assert high.found["forward", "own"].p > 0.05 and high.found["forward", "prior"].p > 0.05
    for panel, found in low.found.items():
        assert found.p <= 0.05, panel
        assert result.onset(*panel) is not None
    assert result.onset("forward", "own") == result.onset("forward", "prior") == 250
    assert low.found["forward", "own"]["energy"].deviations > 5
    assert high.nats < 0.1 < 5 < low.nats
    assert 450 < result.one_nat.t < 510


def test_the_forward_process_has_the_level_of_the_start(result):
    noise = Noise.from_scheduler(zoo.load("mnist").scheduler)
    assert [level.sigma for level in result.levels] == pytest.approx([noise.sigma(799.0), noise.sigma(249.0)])
    images = torch.zeros(4000, 1, 2, 2)
    assert experiment.noised(images, 3.0, torch.Generator().manual_seed(0)).std() == pytest.approx(3.0, rel=0.03)


def test_the_command_writes_the_figures_and_the_picture(result, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "run", lambda samples, seed, rank, progress: result)
    command = typer.Typer()
    command.command()(gaussianity)
    told = CliRunner().invoke(command, ["--out", str(tmp_path)], env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    assert "forward: any Gaussian is rejected from t = 250 down; the prior from t = 250 down" in told.output
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["samples"] == 120 and written["replicates"] == 99
    assert [row["t_start"] for row in written["levels"]] == [800, 250]
    for row in written["levels"]:
        for panel in ("forward, own", "network, prior"):
            assert set(row[panel]) == set(TESTS)
            assert all(0 < test["p"] <= test["adjusted"] <= 1 for test in row[panel].values())
    assert written["rejected_from_t"]["forward, own"] == 250
    assert (tmp_path / "gaussianity.png").stat().st_size > 50_000
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "samples: 120; seed: 0; " in report
    high, low = (next(line for line in report.split("\n") if line.startswith(f"| {t} |")) for t in (800, 250))
    assert "**" not in high.split(" | ")[3] and "<br>" not in high.split(" | ")[3]
    rejected = [name for name, test in written["levels"][1]["forward, own"].items() if test["adjusted"] <= 0.05]
    assert rejected and low.split(" | ")[3].endswith(f"**<br>{', '.join(rejected)}")


def test_a_picture_without_any_rejection(result, tmp_path):
    early.gaussianity(tmp_path / "none.png", replace(result, levels=result.levels[:1]))
    assert (tmp_path / "none.png").stat().st_size > 50_000
