"""The preset `demo`: the table's cells and rule on the shipped model, its figures, and a picture."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from latestart.cli import app
from latestart.evaluation.quality import Estimate
from latestart.experiments.table1 import demo
from latestart.experiments.table1.entries import Entry, entries
from latestart.experiments.table1.rows import rows, winners
from latestart.experiments.table1.settings import Table1Settings
from latestart.lab.cells import Planned
from latestart.lab.experiment import Lab
from latestart.lab.grid import Cell, Grid
from latestart.lab.judge import Figures
from latestart.lab.subjects import open_subject

SOME = Estimate(0.5, 0.4, 0.6)
SETTINGS = Table1Settings(preset="demo")


def _figures(value, copied=SOME, replicates=None):
    replicates = value * torch.linspace(0.9, 1.1, 11, dtype=torch.float64) if replicates is None else replicates
    spread = Estimate(value, 0.9 * value, 1.1 * value)
    return Figures(
        frechet=spread,
        precision=SOME,
        recall=SOME,
        coverage=SOME,
        copied=copied,
        replicates=replicates,
        recall_replicates=replicates,
    )


def _entry(sampler, nfe, prior="none", t_start=None, spacing="trailing", clip=False):
    cell = Cell(
        model="mnist",
        sampler=sampler,
        nfe=nfe,
        prior=prior,
        t_start=t_start,
        spacing=spacing,
        clip=clip,
        samples=500,
        seed=0,
    )
    return Entry("exact", nfe, prior, Planned(cell, {"cell": repr(cell)}, nfe))


def _tried(sampler, nfe):
    ways = {("leading", False): 90, ("leading", True): 60, ("trailing", False): 80, ("trailing", True): 70}
    yield from ((_entry(sampler, nfe, spacing=s, clip=c), value) for (s, c), value in ways.items())
    late = {"isotropic": {300: 50, 400: 40}, "gaussian": {300: 20, 400: 30}, "mixture": {200: 10, 300: 15}}
    for kind, starts in late.items():
        yield from ((_entry(sampler, nfe, kind, t), value) for t, value in starts.items())


def _rows(measured, again):
    """The rows of what is chosen, drawn again: `again` gives the figures of a cell by its first distance."""
    values = {entry.planned.key: figures.frechet.value for entry, figures in measured}
    chosen = winners(measured, {})
    drawn = {one.key: again(one.cell, values[one.key]) for one in chosen}
    return chosen, [row for row in rows(measured, drawn) if row.part == "exact"]


def test_every_baseline_stands_beside_every_start(tmp_path):
    settings = Table1Settings(**{**vars(SETTINGS), "nfe": (3, 10)})
    subject = open_subject(Grid.of_settings(settings, prior=settings.priors), Lab(tmp_path))
    cells = [entry.planned.cell for entry in entries(settings, subject)]
    count = Counter((c.sampler, c.nfe, c.prior) for c in cells)
    assert len(cells) == len(set(cells)) == 3 * 2 * 20 and SETTINGS.nfe == (3, 5, 10)
    for sampler in ("ddim", "ddpm", "prior"):
        assert [count[sampler, 3, kind] for kind in ("none", "isotropic", "gaussian", "mixture")] == [4, 4, 6, 6]


def test_the_baseline_is_the_best_of_the_four_and_ratios_are_paired():
    measured = [(entry, _figures(value)) for s in ("ddim", "ddpm") for n in (3, 5, 10) for entry, value in _tried(s, n)]
    # drawn again the Gaussian is twice as bad: chosen by the first seed, told by the second
    chosen, found = _rows(measured, lambda cell, value: _figures(value * (2 if cell.prior == "gaussian" else 1)))
    assert len(chosen) == 5 * 6 and len(found) == 6
    for row in found:
        assert row.best["none"].figures.frechet.value == 60
        assert [row.best[kind].cell.t_start for kind in ("isotropic", "gaussian", "mixture")] == [400, 300, 200]
        assert {best.cell.seed for best in row.best.values()} == {1}
        gains = demo.gains(row)
        expected = {"gain": 1.5, "gain_trailing": 2, "gain_isotropic": 1, "mixture_gain": 6, "mixture_gain_gaussian": 4}
        assert set(gains) == set(expected)
        # replicates that move together leave no doubt about the ratio
        for name, value in expected.items():
            assert (gains[name].value, gains[name].low, gains[name].high) == pytest.approx((value, value, value))


def test_a_replicate_near_nothing_leaves_the_ratio_finite():
    near = torch.linspace(-1, 3, 11, dtype=torch.float64)
    measured = [(entry, _figures(value)) for entry, value in _tried("ddim", 3)]
    _, (row,) = _rows(measured, lambda cell, v: _figures(v, replicates=near if cell.prior == "mixture" else None))
    gain = demo.gains(row)["mixture_gain"]
    assert gain.low > 0 and gain.high <= 60 / 0.1


def test_the_command_writes_its_figures_and_its_picture_and_goes_on(tmp_path, monkeypatch):
    """The whole path on a part of the table: DDIM at 3 evaluations, 130 samples."""
    some = ["--samplers", "ddim", "--nfe", "3", "--t-start", "isotropic=600;gaussian=500;mixture=300"]
    asked = ["experiment", "table1", "--preset", "demo", "--out", str(tmp_path), "--samples", "130", *some]
    monkeypatch.setattr(demo, "STEPS", 12)
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "results.json").read_text())
    names = {"sampler", "nfe", "prior", "spacing", "clip", "t_start", "frechet", "low", "high", "samples", "seed"}
    names |= {"recall", "copied", "second", "variance"}
    assert len(written["tried"]) == 10
    for row in (*written["tried"], *written["rows"]):
        assert set(row) == names
        assert 0 < row["low"] < row["frechet"] < row["high"]
        assert row["samples"] == 130
        assert 0 <= row["recall"]["low"] <= row["recall"]["value"] <= row["recall"]["high"] <= 1
        assert row["second"]["low"] < row["second"]["value"] < row["second"]["high"]
        assert row["variance"]["low"] < row["variance"]["value"] < row["variance"]["high"]
        assert 0 <= row["copied"]["low"] <= row["copied"]["value"] <= row["copied"]["high"] < 0.1
    assert {row["seed"] for row in written["tried"]} == {0}
    assert {row["seed"] for row in written["rows"]} == {1}
    assert written["rows"][-1]["nfe"] == 12
    kinds = ("none", "isotropic", "gaussian", "mixture")
    chosen = {p: min((r for r in written["tried"] if r["prior"] == p), key=lambda r: r["frechet"]) for p in kinds}
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
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == stamps
    assert json.loads((tmp_path / "results.json").read_text()) == written


def test_the_preset_fixes_what_its_table_needs():
    assert SETTINGS.parts == ("exact",) and SETTINGS.samplers == ("ddim", "ddpm", "prior")
    assert SETTINGS.t_start == {"isotropic": (600, 700), "gaussian": (500, 600, 700), "mixture": (300, 400, 500)}
    own = Table1Settings(preset="demo", samplers=("ddpm",), nfe=(4,), t_start={"gaussian": (450,)}, samples=200)
    assert (own.samplers, own.nfe, own.t_start, own.samples) == (("ddpm",), (4,), {"gaussian": (450,)}, 200)
    for wrong in ({"parts": ("paper",)}, {"starts": ("gaussian",)}, {"clip": (True,)}, {"budget": 10}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}: the preset demo has its own, received"):
            Table1Settings(preset="demo", **wrong)
    with pytest.raises(ValueError, match="samplers: the preset demo has ddim, ddpm, prior, received pndm"):
        Table1Settings(preset="demo", samplers=("pndm",))
    assert Table1Settings().parts == ("paper", "exact", "solvers")
