"""`experiment late-start`: plateau and fall of known curves, an exact model in closed form, and the command."""

import json

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from typer.testing import CliRunner

import latestart as ls
from latestart.cli.experiment import experiment as commands
from latestart.evaluation.quality import Estimate
from latestart.experiments.late_start import critical_levels as critical
from latestart.experiments.late_start import measure as experiment
from latestart.experiments.late_start.page import page, sentences
from latestart.experiments.late_start.settings import LateStartSettings as Settings
from latestart.files import write_json
from latestart.gaussians.basis import Dense
from latestart.lab.cells import Outcome, Planned
from latestart.lab.grid import Cell
from latestart.lab.judge import Figures, Judge, Reference
from latestart.lab.report import floor_sentence
from latestart.lab.subjects import Subject
from tiny import recording_lab, tiny_folder

VARIANCES = torch.tensor([0.08, 0.05, 0.02, 0.01], dtype=torch.float64)  # of values in [-1, 1]: few are clipped
STARTS = (1000.0, 400.0, 200.0, 100.0)


def _gaussian(variances):
    return ls.Gaussian(torch.zeros(1, 2, 2), Dense((1, 2, 2), torch.eye(4)), variances)


def _flat(images):
    return images.flatten(1)


_flat.name = "values"


@pytest.fixture(scope="module")
def subject():
    """An exact Gaussian model; its judge sees the images' own values, which are half of the samples'."""
    prior, scheduler = _gaussian(VARIANCES), DDPMScheduler(clip_sample=False)
    statistics = ls.Gaussian(torch.full((4,), 0.5).double(), Dense((4,), torch.eye(4).double()), VARIANCES / 4)
    real = prior.sample(200, torch.Generator().manual_seed(1)).flatten(1) / 2 + 0.5
    reference = Reference(statistics=statistics, real=real, copying=None, shape=(1, 2, 2), fingerprint="exact")
    priors = {"isotropic": (None, ""), "gaussian": (prior, "exact")}
    return Subject(
        network=ls.as_model(prior, scheduler),
        scheduler=scheduler,
        weights="exact",
        priors=priors,
        judge=Judge(_flat, reference),
    )


def _expected(scheduler, steps, t_start, start):
    """Variances of DDPM's samples in closed form: every step is linear in x, with the posterior's own noise."""
    alpha_bar = scheduler.alphas_cumprod.double()
    stride = t_start // steps
    variance = start
    for t in range(t_start - 1, -1, -stride):
        a, b = alpha_bar[t], alpha_bar[t - stride] if t >= stride else torch.ones(()).double()
        beta = 1 - a / b
        denoised = VARIANCES * a.sqrt() / (a * VARIANCES + 1 - a)
        slope = b.sqrt() * beta / (1 - a) * denoised + (a / b).sqrt() * (1 - b) / (1 - a)
        variance = slope**2 * variance + (1 - b) / (1 - a) * beta
    return variance


def _clipped(variance):
    """The variance of a centred normal variable clipped to [-1, 1], as images are."""
    width = variance.sqrt()
    inside = torch.erf(1 / (width * 2**0.5))
    return variance * (inside - (2 / torch.pi) ** 0.5 / width * torch.exp(-1 / (2 * variance))) + 1 - inside


def test_the_curve_of_an_exact_gaussian_is_that_in_closed_form(subject, tmp_path, monkeypatch):
    """From N(0, I) the error grows with a later start; from the exact Gaussian the quality does not fall."""
    monkeypatch.setattr(experiment, "open_subject", lambda *_: subject)
    settings = Settings(model="exact", priors=("gaussian",), starts=STARTS, length=40, samples=400, criteria=())
    result = experiment.LateStart().measure(settings, recording_lab(tmp_path))
    assert [line.prior for line in result.lines] == ["isotropic", "gaussian"]
    assert all([p.t for p in line.points] == list(STARTS) for line in result.lines)
    for line in result.lines:
        for point in line.points:
            a = subject.scheduler.alphas_cumprod.double()[int(point.t) - 1]
            start = torch.ones(4).double() if line.prior == "isotropic" else a * VARIANCES + 1 - a
            variance = _clipped(_expected(subject.scheduler, point.steps, int(point.t), start))
            distance = float((variance.sqrt() - VARIANCES.sqrt()).square().sum() / 4)
            assert point.steps == point.t / 25
            found = point.figures.frechet
            assert found.value == pytest.approx(distance, abs=found.high - found.low)  # four standard errors
    isotropic, gaussian = result.lines
    assert isotropic.falls and not gaussian.falls and gaussian.doubled is None
    assert gaussian.plateau.value == 100
    assert 100 < isotropic.doubled.value < isotropic.plateau.value < 200
    assert isotropic.plateau.low <= isotropic.plateau.value <= isotropic.plateau.high
    assert isotropic.points[-1].relative.low > 3
    relative = isotropic.points[0].relative
    assert (relative.low, relative.value, relative.high) == pytest.approx((1, 1, 1))
    assert result.floor is None and floor_sentence(None, 400) in page(result, tmp_path).sentences


def test_starts_are_kept_the_moment_they_are_done(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "open_subject", lambda *_: subject)
    settings = Settings(model="exact", starts=(500, 250), length=4, samples=20, criteria=())
    lab = recording_lab(tmp_path)
    done = experiment.LateStart().measure(settings, lab)
    assert lab.spent[-1] == (20 * (4 + 2 + 1),) * 2
    lab.spent.clear()
    again = experiment.LateStart().measure(settings, lab)
    assert lab.spent == [] and again.record() == done.record()
    experiment.LateStart().measure(Settings(model="exact", starts=(750, 250), length=4, samples=20, criteria=()), lab)
    assert lab.spent[-1] == (20 * 3,) * 2  # one new start


def test_the_cells_of_a_full_length_run():
    settings = Settings(model="m", starts=(640, 403), length=250, clip=True)
    length, cells = experiment.cells_of(settings, ("isotropic", "gaussian"), 1000)
    assert length == 250
    assert [(c.prior, c.t_start, c.nfe) for c in cells] == [
        ("isotropic", 1000, 250), ("isotropic", 640, 160), ("isotropic", 400, 100),
        ("gaussian", 1000, 250), ("gaussian", 640, 160), ("gaussian", 400, 100),
    ]  # fmt: skip
    assert all(c.clip and c.spacing == "trailing" and c.sampler == "ddpm" for c in cells)
    assert experiment.cells_of(Settings(model="m"), (), 1000)[0] == 250
    default = experiment.cells_of(Settings(model="m", length=250), ("isotropic",), 1000)
    assert [c.t_start for c in default[1]] == [1000 * share // 4 * 4 for share in experiment.STARTS]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 300}, "must divide the 1000 times of the schedule, received 300"),
        ({"length": 2000}, "received 2000"),
        ({"starts": (1200,)}, "between 4 .* and 1000, received 1200"),
        ({"starts": (3,)}, "received 3"),
    ],
)
def test_impossible_lengths_and_starts_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        experiment.cells_of(Settings(model="m", **{"length": 250, **settings}), ("isotropic",), 1000)


def test_the_end_of_a_plateau_is_where_the_curve_leaves_the_bound_for_good():
    t = np.array([1000, 800, 600, 400.0])
    assert experiment.last_within(t, np.array([1, 1, 1, 4.0]), 2) == pytest.approx(500)  # half-way in the logarithm
    assert experiment.last_within(t, np.array([1, 1.3, 1.0, 1.0]), 1.1) == 400
    assert np.isnan(experiment.last_within(t, np.array([2, 3, 4, 5.0]), 1.1))
    found = experiment.last_within(t, np.array([1, 1.3, 1.0, 1.21]), 1.1)
    assert found == pytest.approx(500)


def _line(values, spread=0.0, prior="isotropic"):
    """A line whose distances are known, against a full run of 1; replicates move each start by itself."""
    random, measured = torch.Generator().manual_seed(0), []
    recall = Estimate(0.8, 0.7, 0.9)
    for k, value in enumerate(values):
        noise = spread * torch.randn(100, generator=random, dtype=torch.float64) if k else torch.zeros(100).double()
        replicates = value * (1 + noise)
        figures = Figures(
            frechet=Estimate(value, value, value),
            precision=recall,
            recall=recall,
            coverage=recall,
            copied=None,
            replicates=replicates,
            recall_replicates=replicates,
        )
        t = 1000 - 100 * k
        cell = Cell(
            model="m",
            sampler="ddpm",
            nfe=t // 4,
            prior=prior,
            t_start=float(t),
            spacing="trailing",
            clip=False,
            samples=10,
            seed=0,
        )
        measured.append((Planned(cell, {}, t // 4), Outcome("done", "", figures=figures)))
    return experiment.line_of(prior, measured, measured[0][1].figures)


def test_the_line_says_plateau_fall_and_exceptions():
    line = _line([1, 1.05, 1.3, 1.0, 1.21, 4.84])
    assert line.plateau.value == pytest.approx(650)
    assert (line.plateau.low, line.plateau.high) == pytest.approx((650, 650))
    assert line.exceptions == (800,) and line.falls
    assert line.doubled.value == pytest.approx(600 - 100 * np.log(2 / 1.21) / np.log(4))
    noisy = _line([1, 1.0, 1.0, 1.0, 1.21, 4.84], 0.03)
    assert noisy.plateau.low < 650 < noisy.plateau.high and noisy.plateau.high - noisy.plateau.low < 80
    assert not _line([1, 1, 0.9]).falls
    none = experiment._found(np.array([3.0, 2, 1]), np.full(3, 2.0), np.full((5, 3), 2.0), 1.1)
    assert none is None


def test_a_full_run_of_hardly_any_distance_leaves_finite_figures(tmp_path):
    """Replicates of a small distance pass through nothing, some to the other side."""
    share = Estimate(0.8, 0.7, 0.9)
    replicates = 1e-9 * torch.linspace(-1, 3, 100, dtype=torch.float64)
    figures = Figures(
        frechet=Estimate(1e-9, 0.0, 3e-9),
        precision=share,
        recall=share,
        coverage=share,
        copied=None,
        replicates=replicates,
        recall_replicates=replicates,
    )
    late = Figures(
        frechet=Estimate(2.0, 1.9, 2.1),
        precision=share,
        recall=share,
        coverage=share,
        copied=None,
        replicates=torch.full_like(replicates, 2.0),
        recall_replicates=replicates,
    )
    measured = [
        (
            Planned(
                Cell(
                    model="m",
                    sampler="ddpm",
                    nfe=t // 4,
                    prior="isotropic",
                    t_start=float(t),
                    spacing="trailing",
                    clip=False,
                    samples=10,
                    seed=0,
                ),
                {},
                t // 4,
            ),
            outcome,
        )
        for t, outcome in ((1000, Outcome("done", "", figures=figures)), (500, Outcome("done", "", figures=late)))
    ]
    line = experiment.line_of("isotropic", measured, figures)
    relative = line.points[1].relative
    assert 0 < relative.low <= relative.value <= relative.high <= 2 / (0.01 * 1e-9)
    write_json(tmp_path / "line.json", line.record())


def _result(lines, levels=()):
    return experiment.Curve(
        lines=tuple(lines), levels=tuple(levels), missing=(), failed=(), length=250, features="f", weights="w",
        settings=Settings(model="m", samples=10),
    )  # fmt: skip


def test_the_words_carry_the_figures():
    names = ("criterion", "of", "kind", "t", "low", "high")
    rows = (
        ("a", "network", "level", 800, 790, 810),
        ("b", "data", "peak", 655, 640, 660),
        ("c", "network", "level", 300, 290, 310),
    )
    levels = [critical.Level(**dict(zip(names, row))) for row in rows]
    told = "\n".join(sentences(_result([_line([1, 1.05, 1.0, 1.0, 1.21, 4.84])], levels)))
    assert "the full run, DDPM in 250 steps: distance 1 [1, 1], recall 0.800" in told
    assert "plateau, within 10% of the full run, from t = 1000 down to 650, 95% interval [650, 650]; best" in told
    assert "fall, twice the full run's distance at t = 564 [564, 564], 4.84 times [4.84, 4.84] it at t = 500" in told
    assert "ends below a (network); above c (network); within the interval of b, peak (images)" in told
    assert "no fall down to the last start" in "\n".join(sentences(_result([_line([1, 1.0, 0.9])])))


def test_levels_come_from_a_full_analysis_of_the_same_model(tmp_path):
    found = {"criterion": "clone", "of": "network", "kind": "level", "t": 480.0, "low": 460.0, "high": 500.0}
    levels = [
        found,
        {**found, "of": "point cloud"},
        {**found, "criterion": "sde", "t": 600.0, "low": None, "high": None},
    ]
    reasons = [{"criterion": "density", "of": "network", "reason": "no crossing"}]
    path = tmp_path / "analysis.json"
    path.write_text(json.dumps({"about": {"model": "m"}, "levels": levels, "not_found": reasons}))
    read, missing = critical.levels_from(path, "m")
    assert [(one.criterion, one.t, one.low, one.high) for one in read] == [
        ("sde", 600, 600, 600),
        ("clone", 480, 460, 500),
    ]
    assert missing == ("density: no crossing",)
    with pytest.raises(ValueError, match="an analysis of the model m, expected one of other"):
        critical.levels_from(path, "other")
    with pytest.raises(FileNotFoundError, match="analysis"):
        critical.levels_from(tmp_path / "none.json", "m")
    path.write_text("[1")
    with pytest.raises(ValueError, match="as JSON"):
        critical.levels_from(path, "m")
    path.write_text(json.dumps({"about": {"model": "m"}}))
    with pytest.raises(ValueError, match="no sound analysis"):
        critical.levels_from(path, "m")


# --- the command ------------------------------------------------------------------------------------------------------


def _run(*args):
    return CliRunner().invoke(commands, ["late-start", *(str(a) for a in args)], env={"COLUMNS": "200"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("late-start"))


def _own(folder):
    return (
        folder / "model", "--features", folder / "classifier.safetensors", "--images", folder / "train.npz",
        "--held-out", folder / "unseen.npz", "--length", 10, "--samples", 12, "--starts", "500,200",
    )  # fmt: skip


def test_the_command_on_a_model_of_ones_own(folder, tmp_path):
    """Everything that it writes and says, of a network that has learned nothing and fits no prior."""
    args = (*_own(folder), "--prior", folder / "prior.safetensors", "--criteria", "speciation,nats", "--out", tmp_path)
    result = _run(*args)
    assert result.exit_code == 0, result.output
    assert "the full run, DDPM in 10 steps: distance" in result.output
    assert "from N(0, I): " in result.output and "from prior.safetensors" not in result.output
    assert result.output.count("prior.safetensors at t = ") >= 3
    assert "not measured: " in result.output and "the prior and the model speak of different values" in result.output
    figures = json.loads((tmp_path / "results.json").read_text())
    assert [line["prior"] for line in figures["lines"]] == ["isotropic"] and len(figures["failed"]) == 3
    assert [p["t_start"] for p in figures["lines"][0]["points"]] == [1000, 500, 200]
    assert all(p["copied"]["low"] <= p["copied"]["value"] for line in figures["lines"] for p in line["points"])
    kept = json.loads((tmp_path / "levels.json").read_text())
    told = {one["criterion"] for one in kept["levels"]} | {one["criterion"] for one in kept["not_found"]}
    assert {"speciation", "1 nats"} <= told
    assert len(list((tmp_path / "cells").iterdir())) == 6
    assert (tmp_path / "late-start.png").stat().st_size > 20_000
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "samples: 12; seed: 0; steps of the full run: 10; " in report and str(folder) not in report
    point = figures["lines"][0]["points"][1]
    assert f"| N(0, I) | 500 | {point['steps']} | {point['frechet']['value']:.3g} [" in report
    assert all(f"| {level['criterion']}" in report for level in figures["levels"])
    assert figures["floor"]["images"] == 12 and "12 images that the model has not seen score" in report
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    stamps[tmp_path / "levels.json"] = (tmp_path / "levels.json").stat().st_mtime_ns
    assert _run(*args).exit_code == 0
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    (tmp_path / "levels.json").write_text("[1")
    assert _run(*args).exit_code == 0  # what it keeps for itself is made again where it is spoilt
    assert json.loads((tmp_path / "levels.json").read_text()) == kept


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "nowhere is neither a folder with a diffusers model nor a shipped one"),
        (("--samples", "5"), "samples=5: expected a whole number of at least 6"),
        (("--prior", "none"), "the full run is always measured"),
        (("--starts", "500,x"), "starts: expected numbers"),
        (("--length", "7"), "must divide the 1000 times"),
        (("--criteria", "x"), "criteria among"),
    ],
)
def test_mistakes_are_one_line(folder, tmp_path, args, message):
    own = () if args[0] in ("nowhere", "--prior", "--starts") else _own(folder)
    result = _run(*own, *args, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output
