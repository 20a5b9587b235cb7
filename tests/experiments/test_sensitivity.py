"""`experiment sensitivity`: windows of known curves, and the finding on the shipped model."""

import json

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from latestart import zoo
from latestart.cli.early import sensitivity
from latestart.evaluation.quality import Estimate
from latestart.experiments import sensitivity as experiment


def _window(d, noise=None):
    t = np.arange(len(d)) * 100.0
    d = np.array(d, dtype=float)
    replicates = np.tile(d, (50, 1)) if noise is None else d + noise
    return experiment.find_window(t, d, replicates, np.linspace(5, 1, len(d)))


def test_the_ends_are_where_the_curve_crosses_the_bound():
    window = _window([200, 110, 100, 102, 112])  # the bound is 105: halfway, and three tenths of the way
    assert window.best == 200
    assert (window.low.value, window.high.value, window.width.value) == pytest.approx((150, 330, 180))
    assert (window.low.low, window.low.high) == pytest.approx((150, 150))
    assert window.closed == (True, True)
    assert (window.nats_low, window.nats_high) == pytest.approx((5 - 3.3, 5 - 1.5))


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
    low, high = experiment.window_ends(t, 100 * (1 + (t - 500) ** 2 / 1e6))
    assert (low, high) == pytest.approx((500 - 5e4**0.5, 500 + 5e4**0.5), abs=1)


def test_noise_that_is_common_to_all_starts_does_not_widen_the_interval():
    d, random = [120, 108, 100, 107, 125], np.random.default_rng(0)
    common = _window(d, random.normal(0, 1, (200, 1)))
    apart = _window(d, random.normal(0, 1, (200, 5)))
    assert common.width.high - common.width.low < (apart.width.high - apart.width.low) / 2
    assert apart.width.low <= apart.width.value <= apart.width.high


def test_priors_are_those_that_the_bundle_has(tmp_path):
    bundle = zoo.load("mnist")
    found = experiment.available_priors(bundle, {"gaussian": (1, 2)})
    assert found == {"gaussian": (bundle.prior, 1, 2)}
    assert experiment.available_priors(zoo.Bundle("none", tmp_path), experiment.STARTS) == {}


def test_too_coarse_a_grid_is_refused():
    with pytest.raises(ValueError, match="at least 3 starts"):
        experiment.run(10, step=400)


def test_the_experiment_finds_the_best_start_within_the_grid(tmp_path, monkeypatch):
    told = []
    curves = experiment.run(
        60, step=150, evaluations=(3,), starts={"gaussian": (350, 800)}, progress=lambda *args: told.append(args)
    )
    (curve,) = curves
    assert curve.prior == "gaussian" and curve.nfe == 3
    assert curve.t.tolist() == [348, 498, 648, 798]  # multiples of three, at most what was asked for
    assert curve.window.best in (498, 648)
    assert (np.diff(curve.nats) < 0.01).all() and curve.nats[0] > 5 > 0.1 > curve.nats[-1]
    values = [e.value for e in curve.frechet]
    assert min(values) < values[0] and min(values) < values[-1]
    assert all(isinstance(e, Estimate) and e.low < e.value < e.high for e in curve.frechet)
    best = values.index(min(values))
    assert (curve.relative[best].low, curve.relative[best].value, curve.relative[best].high) == (1, 1, 1)
    assert curve.relative[0].value == pytest.approx(values[0] / min(values))
    assert curve.relative[0].high - curve.relative[0].low < 2 * curve.relative[0].value
    assert [args[:2] for args in told] == [(3, 12), (6, 12), (9, 12), (12, 12)]
    monkeypatch.setattr(experiment, "run", lambda samples, seed, step, progress: curves)
    command = typer.Typer()
    command.command()(sensitivity)
    told = CliRunner().invoke(command, ["--out", str(tmp_path), "--samples", "60"], env={"COLUMNS": "200"})
    assert told.exit_code == 0, told.output
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "samples: 60; seed: 0; " in report
    (line,) = (line for line in report.split("\n") if line.startswith("| gaussian | 3 | "))
    w = curve.window
    assert f"| {w.best:.0f} | {min(values):.1f} [" in line and f"{w.nats_high:.2g} to {w.nats_low:.2g}" in line
    assert ("| ≤" in line, "| ≥" in line) == (not w.closed[0], not all(w.closed))
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["samples"], written["features"]) == (60, zoo.load("mnist").features.name)
    assert written["curves"][0]["window"]["best"] == curve.window.best
    assert (tmp_path / "sensitivity.png").stat().st_size > 30_000
