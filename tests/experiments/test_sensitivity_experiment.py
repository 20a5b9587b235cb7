"""`experiment sensitivity`: windows of known curves, an exact model in closed form, and the finding on MNIST."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from rich.markup import escape
from typer.testing import CliRunner

import latestart as ls
from latestart.cli.experiment import experiment as commands
from latestart.data import Images, to_pixels
from latestart.evaluation.quality import Estimate
from latestart.experiments.sensitivity import measure as experiment
from latestart.experiments.sensitivity import windows
from latestart.experiments.sensitivity.page import best_table, page
from latestart.experiments.sensitivity.settings import SensitivitySettings as Settings
from latestart.gaussians.basis import Dense
from latestart.lab import divergence
from latestart.lab.divergence import SEEN
from latestart.lab.judge import Floor, Judge, Reference
from latestart.lab.report import floor_sentence, number
from latestart.lab.subjects import Subject, beside
from tiny import recording_lab, tiny_folder

# --- windows and errors of known curves -------------------------------------------------------------------------------


def _window(d, noise=None, nats_noise=0.0):
    t = np.arange(len(d)) * 100.0
    d, nats = np.array(d, dtype=float), np.linspace(5, 1, len(d))
    replicates = np.tile(d, (50, 1)) if noise is None else d + noise
    return windows.find_window(t, d, replicates, nats, np.tile(nats, (len(replicates), 1)) + nats_noise)


def test_the_ends_are_where_the_curve_crosses_the_bound():
    window = _window([200, 110, 100, 102, 112])  # the bound is 105: halfway, and three tenths of the way
    assert window.best == 200
    assert (window.low.value, window.high.value, window.width.value) == pytest.approx((150, 330, 180))
    assert (window.low.low, window.low.high) == pytest.approx((150, 150))
    assert window.closed == (True, True)
    ends = (window.nats_low.value, window.nats_high.value, window.nats_width.value)
    assert ends == pytest.approx((5 - 3.3, 5 - 1.5, 1.8))
    assert (window.nats_high.low, window.nats_high.high) == pytest.approx((3.5, 3.5))


def test_the_interval_in_nats_holds_what_is_uncertain_of_the_divergence():
    """An error that all levels share moves both ends and not the width."""
    shift = np.random.default_rng(0).normal(0, 0.1, (50, 1))
    window = _window([200, 110, 100, 102, 112], nats_noise=shift)
    assert window.nats_high.high - window.nats_high.low == pytest.approx(np.ptp(np.quantile(shift, (0.025, 0.975))))
    assert (window.nats_width.low, window.nats_width.high) == pytest.approx((1.8, 1.8))


def test_a_window_ends_at_the_first_rise_even_if_the_curve_falls_again():
    window = _window([104, 120, 100, 101, 130, 101])
    assert 100 < window.low.value < 200 and 300 < window.high.value < 400


def test_a_window_that_reaches_the_end_of_the_grid_says_so():
    assert _window([100, 101, 102, 120]).closed == (False, True)
    assert _window([130, 101, 100]).closed == (True, False)
    flat = _window([100, 100, 100])
    assert (flat.width.value, flat.closed) == (200, (False, False))


def test_the_window_of_a_parabola():
    """d = 100 (1 + (t - 500)^2 / 10^6) is within 5% for |t - 500| < 224; linear pieces of 25 change little."""
    t = np.arange(100, 901, 25.0)
    low, high = windows.window_ends(t, 100 * (1 + (t - 500) ** 2 / 1e6))
    assert (low, high) == pytest.approx((500 - 5e4**0.5, 500 + 5e4**0.5), abs=1)


def test_noise_that_is_common_to_all_starts_does_not_widen_the_interval():
    d, random = [120, 108, 100, 107, 125], np.random.default_rng(0)
    common = _window(d, random.normal(0, 1, (200, 1)))
    apart = _window(d, random.normal(0, 1, (200, 5)))
    assert common.width.high - common.width.low < (apart.width.high - apart.width.low) / 2
    assert apart.width.low <= apart.width.value <= apart.width.high


def test_what_a_start_costs_is_linear_between_two_and_paired():
    t, d = np.array([100, 200, 300.0]), np.array([20, 10, 40.0])
    replicates = np.outer(np.linspace(0.8, 1.2, 41), d)  # what all starts share cancels
    found = windows.at_start(t, d, replicates, 250)
    assert (found.low, found.value, found.high) == pytest.approx((2.5, 2.5, 2.5))
    apart = replicates.copy()
    apart[:, 1] = 10
    found = windows.at_start(t, d, apart, 300)
    assert (found.low, found.high) == pytest.approx((4 * 0.81, 4 * 1.19))
    apart[:, 1] = np.linspace(-1e-9, 1e-9, 41)  # a best distance of nothing, some of its replicates below it
    found = windows.at_start(t, np.array([20, 0.0, 40]), apart, 300)
    assert 0 < found.low <= found.high and np.isfinite([found.low, found.value, found.high]).all()


def test_the_start_of_a_budget_is_the_highest_that_has_it():
    t = np.array([100, 200, 300, 400.0])
    assert windows.start_at(t, np.array([8, 4, 2, 0.0]), 3) == pytest.approx(250)
    assert windows.start_at(t, np.array([8, 1.5, 2, 0.0]), 1.75) == pytest.approx(312.5)
    assert windows.start_at(t, np.array([8, 4, 2, 0.5]), 0.25) is None
    assert windows.start_at(t, np.array([8, 4, 2, 0.5]), 9) is None


# --- an exact model ---------------------------------------------------------------------------------------------------

VARIANCES = torch.tensor([0.08, 0.05, 0.02, 0.01], dtype=torch.float64)  # of values in [-1, 1]: few are clipped
WRONG = torch.tensor([0.03, 0.05, 0.02, 0.02], dtype=torch.float64)  # of the prior
SCHEDULER = DDPMScheduler(clip_sample=False)
STARTS = (20.0, 50.0, 100.0, 200.0, 400.0)


def _gaussian(variances):
    return ls.Gaussian(torch.zeros(1, 2, 2), Dense((1, 2, 2), torch.eye(4)), variances)


def _flat(images):
    return images.flatten(1)


_flat.name = "values"


@pytest.fixture
def settings(monkeypatch):
    """The exact model of a Gaussian, started from one with wrong variances; its judge sees the images' own values."""
    data, prior = _gaussian(VARIANCES), _gaussian(WRONG)
    statistics = ls.Gaussian(torch.full((4,), 0.5).double(), Dense((4,), torch.eye(4).double()), VARIANCES / 4)
    images = data.sample(400, torch.Generator().manual_seed(1)) / 2 + 0.5
    reference = Reference(
        statistics=statistics, real=images[:200].flatten(1), copying=None, shape=(1, 2, 2), fingerprint="exact"
    )
    subject = Subject(
        network=ls.as_model(data, SCHEDULER),
        scheduler=SCHEDULER,
        weights="exact",
        priors={"gaussian": (prior, "p")},
        judge=Judge(_flat, reference),
    )
    monkeypatch.setattr(experiment, "open_subject", lambda *_: subject)
    monkeypatch.setattr(experiment, "open_images", lambda *_: (Images(to_pixels(images)), None))
    return Settings(model="exact", priors=("gaussian",), evaluations=(5,), starts=STARTS, samples=300)


def _measured(settings, folder):
    return experiment.Sensitivity().measure(settings, recording_lab(folder))


def _expected(t_start, steps):
    """Variances of DDIM's samples in closed form: every step is linear in x."""
    alpha_bar = SCHEDULER.alphas_cumprod.double()
    stride = t_start // steps
    variance = alpha_bar[t_start - 1] * WRONG + 1 - alpha_bar[t_start - 1]
    for t in range(t_start - 1, -1, -stride):
        a, b = alpha_bar[t], alpha_bar[t - stride] if t >= stride else torch.ones(()).double()
        denoised = VARIANCES * a.sqrt() / (a * VARIANCES + 1 - a)
        noise = (1 - a.sqrt() * denoised) / (1 - a).sqrt()
        variance = (b.sqrt() * denoised + (1 - b).sqrt() * noise) ** 2 * variance
    return variance


def _kl(sigma):
    """Of the noised data from the noised prior."""
    ratio = (VARIANCES + sigma**2) / (WRONG + sigma**2)
    return float((ratio - 1 - ratio.log()).sum() / 2)


def test_the_curve_of_an_exact_gaussian_is_that_in_closed_form(settings, tmp_path):
    lab = recording_lab(tmp_path)
    result = experiment.Sensitivity().measure(settings, lab)
    assert lab.told == ["5 starts, 7,500 network evaluations"]
    (curve,) = result.curves
    assert curve.t.tolist() == list(STARTS) and curve.nfe == 5
    for t, sigma, found in zip(curve.t, curve.sigma, (one.frechet for one in curve.figures)):
        a = float(SCHEDULER.alphas_cumprod[int(t) - 1])
        assert sigma == pytest.approx(((1 - a) / a) ** 0.5, rel=1e-4)
        distance = float((_expected(int(t), 5).sqrt() - VARIANCES.sqrt()).square().sum() / 4)
        assert found.value == pytest.approx(distance, abs=found.high - found.low)  # four standard errors
    (nats,) = tmp_path.glob("nats-*.safetensors")
    spread = windows.nats_replicates(divergence._read(nats), curve.sigma, 400).std(0)
    for nats, sigma, error in zip(curve.nats, curve.sigma, spread):
        assert nats == pytest.approx(_kl(sigma), abs=4 * error + 1e-4)
    assert curve.nats[0] > 0.1 and curve.nats[-1] < 0.01
    best = curve.best
    assert (curve.relative[best].low, curve.relative[best].value, curve.relative[best].high) == (1, 1, 1)
    assert curve.window.best == curve.t[best]
    for off in curve.off_t:
        assert off.t == curve.window.best + off.by
        assert off.relative.value == pytest.approx(np.interp(off.t, curve.t, [e.value for e in curve.relative]))
    assert result.floor is None
    told = best_table(result.curves)
    shown = [next(iter(column.cells)) for column in told.columns]
    recall = curve.figures[best].recall
    low, value, high = recall.low, recall.value, recall.high
    assert shown[-4] == escape(f"{value:.3f} [{low:.3f}, {high:.3f}]") and shown[-3:] == ["-"] * 3


def test_a_measurement_that_was_cut_off_goes_on_to_the_same_end(settings, tmp_path):
    """Within a budget only the first starts are measured; what is left is said, then measured, and no start twice."""
    whole, lab = _measured(settings, tmp_path / "whole"), recording_lab(tmp_path / "cut")
    first = experiment.Sensitivity().measure(replace(settings, budget=2 * 1500 + 10), lab)
    assert lab.spent[-1] == (3000, 3000) and len(list((lab.out / "cells").iterdir())) == 2
    assert first.curves == [] and first.record()["measured"] == 2
    lines = page(first, tmp_path).sentences
    assert any("left, beyond the budget: 3 of 5 cells, 4,500 network evaluations" in line for line in lines)
    assert any("no prior has 3 starts measured" in line for line in lines)
    again = experiment.Sensitivity().measure(settings, lab)
    assert lab.spent[-1] == (4500, 4500)
    assert again.record() == whole.record()
    experiment.Sensitivity().measure(replace(settings, starts=(*STARTS, 300)), lab)
    assert lab.spent[-1] == (1500, 1500)


def test_starts_are_cut_to_what_a_schedule_begins_at(settings, tmp_path):
    subject = experiment.open_subject()

    def starts(**asked):
        return [cell.t_start for cell in experiment.cells_of(replace(settings, **asked), subject)]

    assert starts(starts=(350, 352, 500, 650), evaluations=(3,)) == [348, 351, 498, 648]
    assert starts(starts=(), step=150, evaluations=(10,)) == [350, 500, 650, 800]
    with pytest.raises(ValueError, match="at least 3 starts, up to 1000, in steps of 5: received 350, 750"):
        starts(starts=(), step=400)
    with pytest.raises(ValueError, match="up to 1000"):
        starts(starts=(100, 200, 1200))


# --- the shipped model and the command --------------------------------------------------------------------------------


def _run(*args):
    return CliRunner().invoke(commands, ["sensitivity", *(str(a) for a in args)], env={"COLUMNS": "250"})


def test_priors_are_those_beside_the_model(tmp_path):
    assert beside("mnist") == ("gaussian", "mixture")
    assert experiment.grid_of(Settings()).prior == ("gaussian", "mixture")
    with pytest.raises(ValueError, match="received none"):
        experiment.grid_of(Settings(model=str(tmp_path)))


def test_the_experiment_finds_the_best_start_within_the_grid(tmp_path):
    asked = ("--prior", "gaussian", "--nfe", 3, "--step", 150, "--samples", 60, "--out", tmp_path)
    told = _run(*asked)
    assert told.exit_code == 0, told.output
    assert "4 starts, 720 network evaluations" in told.output
    figures = json.loads((tmp_path / "results.json").read_text())
    (curve,) = figures["curves"]
    assert (curve["prior"], curve["nfe"]) == ("gaussian", 3)
    assert curve["t"] == [348, 498, 648, 798]  # multiples of three, at most what was asked for
    window, nats = curve["window"], curve["nats"]
    assert window["best"] in (498, 648)
    assert all(later < sooner + 0.01 for sooner, later in pairwise(nats)) and nats[0] > 5 > 0.1 > nats[-1]
    values = [e["value"] for e in curve["frechet"]]
    assert min(values) < values[0] and min(values) < values[-1]
    assert curve["relative"][0]["value"] == pytest.approx(values[0] / min(values))
    assert figures["floor"]["images"] == 60
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "samples: 60; seed: 0; " in report and "60 images that the model has not seen score" in report
    line = next(line for line in report.split("\n") if line.startswith("| the Gaussian | 3 | "))
    assert (
        f"| {window['best']:.0f} | {number(min(values))} [" in line and f"{window['nats_high']['value']:.2g} [" in line
    )
    assert "Distance of the start at so many nats" in report and SEEN not in report
    assert (tmp_path / "sensitivity.png").stat().st_size > 30_000
    assert len(list((tmp_path / "cells").iterdir())) == 4


def test_the_command_on_a_model_of_ones_own(tmp_path):
    """A network that has learned nothing fits no prior: every start fails, and the report says so."""
    folder, out = tiny_folder(tmp_path), tmp_path / "out"
    args = (
        folder / "model", "--prior", folder / "prior.safetensors", "--features", folder / "classifier.safetensors",
        "--images", folder / "train.npz", "--starts", "300,500,700", "--nfe", 3, "--samples", 12, "--out", out,
    )  # fmt: skip
    told = _run(*args)
    assert told.exit_code == 0, told.output
    report = (out / "report.md").read_text(encoding="utf-8")
    assert "failed: ddim: 3 cells" in report and "the prior and the model speak of different values" in report
    assert floor_sentence(None, 12) in report and str(folder) not in report
    assert not (out / "sensitivity.png").exists()
    assert "12 images that the model has not seen score" in _run(*args, "--held-out", folder / "unseen.npz").output


def test_a_curve_without_unseen_images_says_so(settings, tmp_path, monkeypatch):
    (tmp_path / "exact").mkdir()
    monkeypatch.chdir(tmp_path)
    args = ("exact", "--prior", "gaussian", "--nfe", 5, "--starts", "20,50,100,200,400", "--samples", 300)
    told = _run(*args, "--out", tmp_path)
    assert told.exit_code == 0, told.output
    assert SEEN in told.output and "no floor beside the distances and no share of copies" in told.output


def test_the_floor_of_fewer_images_is_said_to_be_too_high():
    floor = Floor(440, Estimate(3.14, 2.9, 3.4))
    assert floor_sentence(floor, 440) == "440 images that the model has not seen score 3.14 [2.9, 3.4]: the floor"
    assert floor_sentence(floor, 500).endswith("the floor, a little too high, since there are 500 samples")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "nowhere is neither a folder with a diffusers model nor a shipped one"),
        (("--samples", 5), "samples=5: expected a whole number of at least 6"),
        (("--prior", "none"), "expected priors beside the model mnist or files"),
        (("--prior", "nowhere"), "there is no prior 'nowhere'"),
        (("--nfe", "0"), "nfe=0: expected a whole number of at least 1"),
        (("--starts", "500,x"), "starts: expected numbers"),
        (("--starts", "500,600", "--prior", "gaussian"), "at least 3 starts, received 500, 600"),
        (("--mixed-precision", "x"), "there is no mixed-precision 'x'; there are no, bf16"),
    ],
)
def test_mistakes_are_one_line(tmp_path, args, message):
    told = _run(*args, "--out", tmp_path / "out")
    assert told.exit_code == 2 and message in told.output and "Traceback" not in told.output
    assert not (tmp_path / "out").exists()
