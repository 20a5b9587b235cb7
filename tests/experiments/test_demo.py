import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from latestart.cli import app
from latestart.evaluation.quality import Estimate
from latestart.experiments import demo
from latestart.lab.judge import Figures

SOME = Estimate(0.5, 0.4, 0.6)


def _measured(value, seed=0, **cell):
    full = {"sampler": "ddim", "nfe": 3, "prior": "none", "spacing": "trailing", "clip": False, "t_start": None} | cell
    replicates = value * torch.linspace(0.9, 1.1, 11, dtype=torch.float64)
    return demo.Measured(
        demo.Cell(**full),
        Figures(
            frechet=Estimate(value, 0.9 * value, 1.1 * value),
            precision=SOME,
            recall=SOME,
            coverage=SOME,
            copied=SOME,
            replicates=replicates,
            recall_replicates=replicates,
        ),
        images=torch.zeros(16, 1, 4, 4),
        seed=seed,
    )


def _again(table_tried, factors):
    """The winners drawn again: each distance times the factor of its kind."""
    values = {m.cell: m.figures.frechet.value for m in table_tried}
    return [_measured(values[c] * factors[c.prior], 1, **vars(c)) for c in demo.winners(table_tried)]


def test_every_baseline_stands_beside_every_start():
    cells = list(demo.cells())
    count = Counter((c.sampler, c.nfe, c.prior) for c in cells)
    assert len(cells) == len(set(cells)) == 120
    assert {count[s, n, "none"] for s in ("ddim", "ddpm") for n in (3, 5, 10)} == {4}
    assert {count[s, n, p] for s in demo.SAMPLERS for n in demo.EVALUATIONS for p in ("gaussian", "mixture")} == {6}


def test_the_baseline_is_the_best_of_the_four_and_ratios_are_paired():
    groups = []
    for sampler in demo.SAMPLERS:
        for nfe in demo.EVALUATIONS:
            here = {"sampler": sampler, "nfe": nfe}
            groups += [
                _measured(v, spacing=s, clip=c, **here)
                for v, s, c in (
                    (90, "leading", False),
                    (60, "leading", True),
                    (80, "trailing", False),
                    (70, "trailing", True),
                )
            ]
            groups += [_measured(v, prior="isotropic", t_start=t, **here) for v, t in ((50, 300), (40, 400))]
            groups += [_measured(v, prior="gaussian", t_start=t, **here) for v, t in ((20, 300), (30, 400))]
            groups += [_measured(v, prior="mixture", t_start=t, **here) for v, t in ((10, 200), (15, 300))]
    # drawn again the Gaussian is twice as bad: chosen by the first seed, told by the second
    again = _again(groups, {"none": 1, "isotropic": 1, "gaussian": 2, "mixture": 1})
    assert len(again) == 5 * 6 and {m.seed for m in again} == {1}
    comparisons = demo.compare(demo.Table(groups, again, again[0]))
    assert len(comparisons) == 6
    for c in comparisons:
        assert (c.baseline.figures.frechet.value, c.trailing.figures.frechet.value) == (60, 80)
        assert (c.isotropic.cell.t_start, c.gaussian.cell.t_start, c.mixture.cell.t_start) == (400, 300, 200)
        # replicates that move together leave no doubt about the ratio
        gains = ((c.gain, 1.5), (c.gain_trailing, 2), (c.gain_isotropic, 1))
        for gain, value in (*gains, (c.mixture_gain, 6), (c.mixture_gain_gaussian, 4)):
            assert (gain.value, gain.low, gain.high) == pytest.approx((value, value, value))


def test_a_replicate_near_nothing_leaves_the_ratio_finite():
    groups = [
        _measured(v, sampler=s, nfe=n, prior=p, t_start=t)
        for s in demo.SAMPLERS
        for n in demo.EVALUATIONS
        for v, p, t in ((60, "none", None), (40, "isotropic", 400), (20, "gaussian", 400), (1, "mixture", 300))
    ]
    near = torch.linspace(-1, 3, 11, dtype=torch.float64)
    groups = [
        replace(m, figures=replace(m.figures, replicates=near)) if m.cell.prior == "mixture" else m for m in groups
    ]
    (first, *_) = demo.compare(demo.Table(groups, groups, groups[0]))
    assert first.mixture_gain.low > 0 and first.mixture_gain.high <= 60 / 0.01


def test_the_command_writes_its_figures_and_its_picture(tmp_path, monkeypatch):
    """The whole path on a part of the table: DDIM at 3 evaluations, 130 samples."""
    starts = {"none": None, "isotropic": 600, "gaussian": 500, "mixture": 300}
    some = [c for c in demo.cells() if (c.sampler, c.nfe) == ("ddim", 3) and c.t_start == starts[c.prior]]
    monkeypatch.setattr(demo, "cells", lambda: iter(some))
    monkeypatch.setattr(demo, "SAMPLERS", ("ddim",))
    monkeypatch.setattr(demo, "EVALUATIONS", (3,))
    monkeypatch.setattr(demo, "REFERENCE", replace(demo.REFERENCE, nfe=12))
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--samples", "130"])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "results.json").read_text())
    names = {"sampler", "nfe", "prior", "spacing", "clip", "t_start", "frechet", "low", "high", "samples", "seed"}
    names |= {"recall", "copied"}
    assert len(some) == 10 == len(written["tried"])
    for row in (*written["tried"], *written["rows"]):
        assert set(row) == names
        assert 0 < row["low"] < row["frechet"] < row["high"]
        assert row["samples"] == 130
        assert 0 <= row["recall"]["low"] <= row["recall"]["value"] <= row["recall"]["high"] <= 1
        assert 0 <= row["copied"]["low"] <= row["copied"]["value"] <= row["copied"]["high"] < 0.1
    assert {row["seed"] for row in written["tried"]} == {0}
    assert {row["seed"] for row in written["rows"]} == {1}
    assert written["rows"][-1]["nfe"] == 12
    chosen = {p: min((r for r in written["tried"] if r["prior"] == p), key=lambda r: r["frechet"]) for p in starts}
    way = ("prior", "spacing", "clip", "t_start")
    drawn = {tuple(r[name] for name in way): r["frechet"] for r in written["rows"][:-1]}
    best = {p: drawn[tuple(row[name] for name in way)] for p, row in chosen.items()}
    assert len(drawn) == len({*best.values(), drawn["none", "trailing", False, None]})
    assert all(best[p] != row["frechet"] for p, row in chosen.items())
    assert written["gains"][0]["gain"]["value"] == pytest.approx(best["none"] / best["gaussian"])
    assert written["gains"][0]["mixture_gain_gaussian"]["value"] == pytest.approx(best["gaussian"] / best["mixture"])
    assert best["mixture"] < best["gaussian"] / 1.5
    assert best["gaussian"] < best["isotropic"]
    assert best["gaussian"] < best["none"] / 1.5
    assert written["floor"]["frechet"] < best["mixture"]
    with Image.open(tmp_path / "samples.png") as picture:
        pixels = torch.from_numpy(np.array(picture.convert("L")))
    assert min(pixels.shape) > 200
    assert pixels.float().std() > 10
    assert "gain on best full noise" in result.output and "recall, mixture" in result.output
