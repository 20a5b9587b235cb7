"""`experiment diversity`: shares of an exact model, the choice of what is shown, and the command."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from typer.testing import CliRunner

import latestart as ls
from latestart.cli.experiment import experiment as commands
from latestart.datasets.faces import SHARES, drawn
from latestart.evaluation.copying import BAR
from latestart.evaluation.diversity import chance
from latestart.evaluation.quality import Estimate
from latestart.experiments.diversity import measure as experiment
from latestart.experiments.diversity import page as report
from latestart.experiments.diversity import readings, ways
from latestart.experiments.diversity.results import Way
from latestart.experiments.diversity.settings import DiversitySettings
from latestart.experiments.diversity.shares import drawn_with
from latestart.files import load_tensors, save_tensors
from latestart.gaussians.basis import Dense
from latestart.lab.cells import Meter, measured
from latestart.lab.grid import Cell
from latestart.lab.judge import Judge, Reference
from latestart.lab.report import markdown_table, spread
from latestart.lab.subjects import Subject
from rendezvous import together
from tiny import recording_lab

SHAPE, LEFT = (1, 2, 2), 0.7  # the share of the data that are dark
POINTS = torch.tensor([[-0.5] * 4, [0.5] * 4]).view(2, *SHAPE)


def _flat(images):
    return images.flatten(1)


_flat.name = "values"


class Shade:
    """Reads whether an image is dark or light, without an error."""

    name, values = "shade", {"shade": ("dark", "light")}

    def __call__(self, images):
        light = (images.mean((1, 2, 3)) > 0.5).long()
        return {"shade": torch.nn.functional.one_hot(light, 2).float()}


def _component(mean):
    return ls.Gaussian(mean, Dense(SHAPE, torch.eye(4)), torch.full((4,), 0.01).double())


@pytest.fixture(scope="module")
def subject():
    """An exact mixture of a dark and a light cluster, 7 to 3; priors are one Gaussian of it, and itself."""
    mixture = ls.Mixture([_component(point) for point in POINTS], torch.tensor([LEFT, 1 - LEFT]))
    data = mixture.sample(1000, torch.Generator().manual_seed(1)).clamp(-1, 1)
    gaussian = ls.Gaussian.fit([data], basis="dense")
    scheduler = DDPMScheduler(clip_sample=False)
    unit = data / 2 + 0.5
    images = ls.data.Images((unit * 255).round().byte())
    statistics = ls.Gaussian.fit([_flat(unit).double()], basis="dense")
    held_out = ls.data.Images(images.pixels.flip(0)[:200])
    reference = Reference(
        statistics=statistics,
        real=_flat(unit)[:200],
        copying=(images[:200], held_out, held_out),
        shape=SHAPE,
        fingerprint="exact",
    )
    priors = {"none": (None, ""), "isotropic": (None, ""), "gaussian": (gaussian, "g"), "mixture": (mixture, "m")}
    return Subject(
        network=ls.as_model(mixture, scheduler),
        scheduler=scheduler,
        weights="exact",
        priors=priors,
        judge=Judge(_flat, reference),
    )


@pytest.fixture
def opened(subject, monkeypatch):
    monkeypatch.setattr(experiment, "open_subject", lambda *_: subject)
    monkeypatch.setattr(experiment, "open_reader", lambda *_: Shade())


def _settings(**changes):
    common = {"model": "exact", "samplers": ("ddim",), "nfe": 4, "samples": 400, "reference": 50}
    return DiversitySettings(**{**common, **changes})


def _measured(settings, out):
    return experiment.DiversityOfWays().measure(settings, recording_lab(out))


def test_the_shares_of_an_exact_model(opened, tmp_path):
    """DDPM in many steps and a late start from the true mixture have the true shares; one Gaussian, after the decision,
    has those of its own two halves, and its divergence is that by hand."""
    result = _measured(_settings(priors=("gaussian", "mixture"), starts=(50,)), tmp_path)
    ways = {(way.cell.sampler, way.cell.prior): way for way in result.shown}
    assert set(ways) == {("ddim", "none"), ("ddim", "gaussian"), ("ddim", "mixture"), ("ddpm", "none")}
    read = {key: way.diversity.attributes["shade"] for key, way in ways.items()}
    data = read["ddpm", "none"].data[0].value
    assert data == pytest.approx(LEFT, abs=0.1)
    for key in (("ddim", "mixture"), ("ddpm", "none")):
        assert read[key].samples[0].value == pytest.approx(LEFT, abs=4 * math.sqrt(0.21 / 400))
    late = read["ddim", "gaussian"]
    p, q = late.samples[0].value, data
    assert late.kl.value == pytest.approx(p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert p < LEFT - 0.05  # a Gaussian with the mean -0.2 and the deviation 0.46 is below 0 in 0.67 of its samples
    assert ways["ddpm", "none"].figures.coverage.value > 0.9
    assert all(way.doubtful == {"shade": 0.0} for way in result.ways) and result.data.doubtful == {"shade": 0.0}
    assert result.data.chance["shade"] == pytest.approx(chance(2, 400, 200)) == pytest.approx(0.5 * (1 / 400 + 1 / 200))


def test_full_noise_is_the_best_of_its_settings_by_the_frechet_distance(opened, tmp_path):
    result = _measured(_settings(starts=(400,), samples=60, reference=0), tmp_path)
    full = [way for way in result.ways if way.cell.prior == "none" and way.cell.seed == 0]
    settings = {(way.cell.spacing, way.cell.clip) for way in full}
    assert settings == {(spacing, clip) for spacing in ("leading", "trailing") for clip in (False, True)}
    best = min(full, key=lambda way: way.figures.frechet.value)
    assert result.shown[0].cell == replace(best.cell, seed=1) and {way.cell.seed for way in result.shown} == {1}
    assert result.shown[0].figures.frechet != best.figures.frechet and not torch.equal(
        result.shown[0].images, best.images
    )
    (gain,) = result.gains
    shown = [way.diversity.attributes["shade"].kl for way in result.shown]
    assert gain.factor.value == pytest.approx(shown[0].value / shown[1].value)
    assert gain.apart == (shown[1].high < shown[0].low)


def test_equal_evaluations_for_a_sampler_that_needs_one_more(opened, tmp_path):
    result = _measured(_settings(samplers=("pndm",), starts=(400,), samples=30, reference=0), tmp_path)
    assert {(way.cell.nfe, way.steps) for way in result.ways} == {(4, 3)}
    assert not any(way.cell.clip for way in result.ways)  # the class cannot


def test_what_was_sampled_is_kept_and_a_start_is_chosen_once(opened, tmp_path, monkeypatch):
    settings, lab = _settings(samples=20, reference=0), recording_lab(tmp_path)
    first = experiment.DiversityOfWays().measure(settings, lab)
    assert (6 * 4 * 20,) * 2 in lab.spent and lab.spent[-1] == (2 * 4 * 20,) * 2  # the best of each is drawn again
    assert first.choices[0]["t_start"] > 0 and first.choices[0]["nfe"] > 0
    monkeypatch.setattr(ways, "choose_start", None)
    lab = recording_lab(tmp_path)
    again = experiment.DiversityOfWays().measure(settings, lab)
    assert lab.spent == [] and again.record() == first.record()
    cut = next((tmp_path / "ways").iterdir())
    cut.write_bytes(cut.read_bytes()[:-100])
    repaired = experiment.DiversityOfWays().measure(settings, lab)
    assert lab.spent[-1] == (4 * 20,) * 2 and any("made again" in line for line in lab.told)
    assert repaired.record() == first.record()


def test_a_way_that_fails_is_told_and_the_others_go_on(opened, subject, tmp_path, monkeypatch):
    def broken(self, x, t, **_):
        out = type(subject.network).forward(subject.network, x, t)
        if float(torch.as_tensor(t).max()) > 990:
            out.sample = out.sample * torch.nan
        return out

    monkeypatch.setattr(subject.network, "forward", broken.__get__(subject.network))
    lab = recording_lab(tmp_path)
    result = experiment.DiversityOfWays().measure(_settings(samples=20, starts=(400,)), lab)
    assert any("NaN" in line for line in result.not_measured) and any(line.startswith("failed: ") for line in lab.told)
    assert any(way.cell.prior == "gaussian" for way in result.ways)
    assert not any(way.cell.sampler == "ddpm" for way in result.ways)


def _copying(monkeypatch, copies):
    """Let the ways of the cells for which `copies` holds have copies, and the others none."""
    real = readings.measured

    def measured(subject, planned, *others):
        outcome = real(subject, planned, *others)
        share = Estimate(0.5, 0.4, 0.6) if copies(planned.cell) else Estimate(0.0, 0.0, 0.0)
        return replace(outcome, figures=outcome.figures._replace(read=replace(outcome.figures.read, copied=share)))

    monkeypatch.setattr(readings, "measured", measured)


@pytest.mark.parametrize("seeds", [(0, 1), (1,)])
def test_where_the_best_copies_in_either_draw_the_best_that_does_not_is_shown_below_it(
    opened, tmp_path, monkeypatch, seeds
):
    """Of four late starts the best is let copy; the second best is drawn again too, and has a gain of its own."""
    settings = _settings(starts=(400, 200), samples=60, reference=0)
    _copying(monkeypatch, lambda cell: False)
    honest = _measured(settings, tmp_path / "honest")
    late = [way for way in honest.ways if way.cell.prior == "gaussian" and way.cell.seed == 0]
    best, second = (way.cell for way in sorted(late, key=lambda way: way.figures.frechet.value)[:2])
    assert len(late) == 4 and [way.cell for way in honest.shown[1:]] == [replace(best, seed=1)]
    assert not any(way.clean for way in honest.ways) and "clean" not in honest.record()["gains"][0]

    _copying(monkeypatch, lambda cell: replace(cell, seed=0) == best and cell.seed in seeds)
    result = _measured(settings, tmp_path / "copies")
    assert [way.cell for way in result.shown[1:]] == [replace(best, seed=1), replace(second, seed=1)]
    assert [(way.figures.copies, way.clean) for way in result.shown[1:]] == [(True, False), (False, True)]
    assert result.shown[0].record() == honest.shown[0].record()
    assert [gain.clean for gain in result.gains] == [False, True]
    full, *_, clean = (way.diversity.attributes["shade"].kl.value for way in result.shown)
    assert result.gains[1].factor.value == pytest.approx(full / clean)
    kept = result.record()
    assert len(kept["ways"]) == len(honest.ways) + 1 and kept["gains"][1]["clean"] is True
    assert any(f"not above {BAR:g}" in line for line in report.page(result, tmp_path).sentences)
    assert result.shown[2].title.endswith(", without copies")
    lines = markdown_table(report.ways_table(result)).splitlines()
    rows = [next(line for line in lines if line.startswith(f"| {way.title} |")) for way in result.shown]
    assert ["0.500 [0.400, 0.600] \\*" in row for row in rows] == [False, True, False]


def test_no_gain_is_told_on_a_part_of_full_noise(opened, tmp_path, monkeypatch):
    """A missing way may be the best, so there is no gain; a later call that can sample it has one."""
    real = readings.measured

    def out_of_memory(subject, planned, *others):
        if planned.cell.prior == "none" and planned.cell.spacing == "leading":
            raise RuntimeError("out of memory")
        return real(subject, planned, *others)

    settings = _settings(samples=20, starts=(400,), reference=0)
    monkeypatch.setattr(readings, "measured", out_of_memory)
    result = _measured(settings, tmp_path)
    assert {way.cell.prior for way in result.shown} == {"gaussian"} and result.gains == ()
    assert any("the best from full noise: what is missing may be better" in line for line in result.not_measured)
    monkeypatch.setattr(readings, "measured", real)
    mended = _measured(settings, tmp_path)
    assert {way.cell.prior for way in mended.shown} == {"none", "gaussian"}
    assert len(mended.gains) == 1 and mended.not_measured == ()


def test_the_reference_is_not_among_what_is_chosen_from(opened, tmp_path):
    """DDPM is a fast sampler and, with the same number of steps and the next seed, the reference too."""
    result = _measured(_settings(samplers=("ddpm",), samples=20, starts=(400,), nfe=3, reference=3), tmp_path)
    first = [way for way in result.ways if way.cell.seed == 0 and way.cell.prior == "none"]
    best = min(first, key=lambda way: way.figures.frechet.value)
    assert replace(best.cell, seed=1) in {way.cell for way in result.shown}


def test_a_start_that_cannot_be_chosen_is_told_and_the_others_go_on(opened, tmp_path):
    lab = recording_lab(tmp_path)
    settings = _settings(samples=20, priors=("isotropic", "gaussian"))
    result = experiment.DiversityOfWays().measure(settings, lab)
    (line,) = result.not_measured
    assert "late from isotropic: no start could be chosen" in line and "give --t-start" in line
    assert f"failed: {line}" in lab.told and result.record()["not_measured"] == [line]
    assert {way.cell.prior for way in result.shown} == {"none", "gaussian"}


def test_ways_that_cannot_spend_the_evaluations_are_told(opened, tmp_path):
    """Heun's method spends an odd number of evaluations."""
    settings = _settings(samplers=("ddim", "heun"), samples=20, starts=(400,), reference=0)
    result = _measured(settings, tmp_path / "two")
    assert {way.cell.sampler for way in result.ways} == {"ddim"}
    assert len(result.not_measured) == 6 and len(result.ways) == 6 + 2
    assert all("heun cannot spend 4 evaluations" in line for line in result.not_measured)
    assert any("heun, NFE 4, gaussian at t = 400" in line for line in result.not_measured)
    assert result.record()["not_measured"] == list(result.not_measured)
    sentences = list(report.sentences(result))
    assert sentences[-6:] == [f"not measured: {line}" for line in result.not_measured] and len(sentences) == 7
    with pytest.raises(
        ValueError, match=r"no way to measure, the first being exact, heun.* cannot spend 4 evaluations"
    ):
        _measured(_settings(samplers=("heun",), samples=20, starts=(400,)), tmp_path / "one")


def test_precision_and_copies_are_those_of_the_judge(opened, subject, tmp_path):
    """A way kept before copies were counted stays without them, with a sentence; here it is the best full noise."""
    settings = _settings(samples=60, starts=(400,), reference=0)
    result = _measured(settings, tmp_path)
    planned, _ = ways.planned_ways(settings, subject, [])
    for way, one in zip(result.ways, planned):
        figures = measured(subject, one, 64, Meter(0, None)).figures
        assert way.figures.precision.value == figures.precision.value and way.figures.copied == figures.copied
        assert way.record()["copied"]["value"] == figures.copied.value
    lab = recording_lab(tmp_path)
    k = min(range(4), key=lambda k: result.ways[k].figures.frechet.value)
    file = readings.KeptReadings(subject, Shade(), 64, lab).path(planned[k])
    tensors, metadata = load_tensors(file, readings.KIND)
    tensors.pop("copied")
    save_tensors(file, readings.KIND, tensors, metadata)
    way = experiment.DiversityOfWays().measure(settings, lab).ways[k]
    assert lab.spent == [] and way.figures.copied is None and way.figures.precision == result.ways[k].figures.precision
    assert any("copies were not counted in" in line and file.name in line for line in lab.told)


def test_the_exact_attributes_of_the_data_stand_beside_those_read(opened, tmp_path):
    random = np.random.default_rng(0)
    shade = (random.random(500) > 0.8).astype(int)
    pixels = (np.where(shade == 1, 200, 60)[:, None, None, None] * np.ones((1, 2, 2, 1))).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels, shade=shade)
    settings = _settings(samples=40, starts=(300,), reference=0, images=str(tmp_path / "data.npz"))
    result = _measured(settings, tmp_path / "out")
    for way in result.ways:
        known, read = way.exact["shade"], way.diversity.attributes["shade"]
        assert known.data[1].value == read.data[1].value == pytest.approx(shade.mean())
        assert known.kl.value == pytest.approx(read.kl.value)
    against = result.data.against["shade"]
    assert result.data.images == 500 and result.data.known == {"shade": "known of 500 images"}
    assert against.kl.value == pytest.approx(0) and against.data[1].value == pytest.approx(shade.mean())


class Bespectacled(Shade):
    """Takes light faces for those with glasses, as probabilities that are never quite sure."""

    name, values = "glasses", {"glasses": ("none", "glasses")}

    def __call__(self, images):
        (said,) = super().__call__(images).values()
        return {"glasses": 0.98 * said + 0.01}


def test_generated_faces_are_held_against_the_shares_that_they_are_drawn_with(opened, tmp_path, monkeypatch):
    """Three in ten have glasses, whatever the share among the images at hand: of the exact shares no chance is left."""
    monkeypatch.setattr(experiment, "open_reader", lambda *_: Bespectacled())
    glasses = np.array([1] * 110 + [0] * 290)
    pixels = (np.where(glasses == 1, 200, 60)[:, None, None, None] * np.ones((1, 2, 2, 1))).astype(np.uint8)
    np.savez(tmp_path / "faces.npz", images=pixels, glasses=glasses)
    settings = _settings(samples=40, starts=(300,), reference=0, images=str(tmp_path / "faces.npz"))
    result = _measured(settings, tmp_path / "out")
    way = result.shown[0]
    p, q = way.exact["glasses"].samples[1].value, 0.3
    by_hand = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    assert way.exact["glasses"].kl.value == pytest.approx(by_hand, rel=1e-4)
    share = way.exact["glasses"].data[1]
    assert (share.low, share.value, share.high) == pytest.approx((q, q, q))
    assert way.diversity.attributes["glasses"].data[1].value == pytest.approx(0.98 * 110 / 400 + 0.01)
    assert result.data.known == {"glasses": "with which faces are drawn"}
    assert result.data.chance_exact["glasses"] == pytest.approx(0.5 / 40)
    written = result.record()["data_against_exact_shares"]["glasses"]
    assert written["shares"]["glasses"]["data"] == pytest.approx({"value": q, "low": q, "high": q})
    lines = markdown_table(report.divergence_table(result, "glasses"))
    assert "KL to exact" in lines and f"{way.exact['glasses'].kl.value:.3f} [" in lines
    (gain,), (full, late) = result.gains, (way.exact["glasses"].kl for way in result.shown)
    assert gain.exact.value == pytest.approx(full.value / late.value) != pytest.approx(gain.factor.value)
    assert gain.apart_exact == (late.high < full.low)
    (kept,) = result.record()["gains"]
    assert kept["exact"]["value"] == gain.exact.value and kept["apart_exact"] == gain.apart_exact
    row = next(line for line in lines.splitlines() if f"| {result.shown[1].title} |" in line)
    assert row.index(f"{gain.factor.value:.2f} [") < row.index(f"{late.value:.3f} [")
    assert f"{gain.exact.value:.2f} [" in row[row.index(f"{late.value:.3f} [") :]
    shares = markdown_table(report.shares_table(result, "glasses"))
    assert "| exact, with which faces are drawn | 70.0 | 30.0 |" in shares
    one = way.diversity.attributes["glasses"].samples[1]
    assert f"{100 * one.value:.1f}" in shares and f"{100 * one.low:.1f}–{100 * one.high:.1f}" in shares


def test_attributes_are_those_of_generated_faces_where_their_counts_can_be():
    """Faces as they are drawn pass; a data set of its own, or with other values, does not."""
    tones = list(SHARES["skin"])
    index = torch.tensor([tones.index(drawn(np.random.default_rng((7, i)))[0]["skin"]) for i in range(300)])
    shares = drawn_with("skin", tones, index)
    torch.testing.assert_close(shares, torch.tensor(list(SHARES["skin"].values()), dtype=torch.float64))
    assert drawn_with("skin", tones, torch.arange(700) % 7) is None
    assert drawn_with("skin", ["a", "b"], index) is None and drawn_with("digit", list("0123456789"), index) is None


def _in_markdown(estimate, form=""):
    return spread(estimate, form).replace("\\[", "[")


def test_tables_give_every_figure_with_its_interval(opened, tmp_path):
    result = _measured(_settings(starts=(400,), samples=60, reference=0), tmp_path)
    late, (gain,) = result.shown[1], result.gains
    read = late.diversity.attributes["shade"]

    table = markdown_table(report.ways_table(result))
    assert (
        late.figures.copied is not None and len({late.figures.precision, late.figures.copied, late.figures.recall}) == 3
    )
    for figure in (late.figures.precision, late.figures.copied, late.figures.recall, late.figures.coverage):
        assert _in_markdown(figure, ".3f") in table
    for figure in (late.figures.frechet, late.diversity.vendi, late.diversity.vendi_data):
        assert _in_markdown(figure) in table
    apart = markdown_table(report.divergence_table(result, "shade"))
    for figure in (read.kl, read.total_variation, read.entropy, read.entropy_data):
        assert _in_markdown(figure, ".3f") in apart
    row = next(line for line in apart.splitlines() if f"| {late.title} |" in line)
    assert _in_markdown(gain.factor, ".2f") in row and ("\\*" in row) == gain.apart
    floor, first = result.floor, next(report.sentences(result))
    assert floor.images == 60 and f"60 images that the model has not seen score {floor.frechet.value:.3g}" in first


def test_several_processes_share_the_ways_and_find_what_one_finds(opened, tmp_path):
    settings = _settings(samples=20, starts=(400,), reference=8)
    alone = _measured(settings, tmp_path / "one").record()
    labs = [recording_lab(tmp_path / "two") for _ in range(2)]

    def work(run):
        labs[run.index].run = run
        return experiment.DiversityOfWays().measure(settings, labs[run.index])

    first, second = together(2, work)
    assert first.record() == alone and second is None
    ended = [{total for done, total in lab.spent if done == total} for lab in labs]
    assert all(len(totals) == 2 for totals in ended)  # what is chosen from, and what is drawn again
    assert sum(map(sum, ended)) == (6 * 4 + 8 + 2 * 4) * 20


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"priors": ("none",)}, "full noise is always measured"),
        ({"samplers": ("quick",)}, "there is no sampler 'quick'"),
        ({"priors": ("isotropic",)}, "give --t-start"),
    ],
)
def test_mistakes_are_named(opened, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        _measured(_settings(**settings), tmp_path)


# --- the command ------------------------------------------------------------------------------------------------------


def _run(*args):
    return CliRunner().invoke(commands, ["diversity", *(str(a) for a in args)], env={"COLUMNS": "200"})


def test_the_command_on_the_shipped_model(tmp_path):
    result = _run(
        "--out", tmp_path, "--sampler", "ddim", "--nfe", 2, "--t-start", 500, "--samples", 20, "--reference", 4
    )
    assert result.exit_code == 0, result.output
    assert "7 ways, 320 network evaluations" in result.output
    assert "20 images that the model has not seen score " in result.output
    assert "digit: read 99." in result.output
    figures = json.loads((tmp_path / "results.json").read_text())
    assert len(figures["ways"]) == 7 + 2 and len(figures["shown"]) == 3 and len(figures["gains"]) == 1
    assert {figures["ways"][k]["seed"] for k in figures["shown"]} == {1}
    shares = figures["ways"][0]["attributes"]["digit"]["shares"]
    assert sum(one["samples"]["value"] for one in shares.values()) == pytest.approx(1)
    assert figures["scores"]["digit"]["accuracy"]["value"] > 0.99
    assert figures["ways"][0]["against_exact_shares"]["digit"]["kl"]["value"] > 0
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "samples: 20; seed: 0 to choose, 1 for the figures; " in report
    assert "**Digit: the share of each value in percent" in report and "the shares by the labels of 2,000" in report
    for picture in ("diversity.png", "samples.png"):
        assert (tmp_path / picture).stat().st_size > 20_000 and f"({picture})" in report


def test_the_command_names_a_mistake(tmp_path):
    result = _run("nowhere", "--out", tmp_path / "out")
    assert (
        result.exit_code == 2
        and "nowhere is neither a folder with a diffusers model nor a shipped one" in result.output
    )


def test_a_way_is_named_by_what_it_is():
    cell = Cell(
        model="m",
        sampler="ddim",
        nfe=5,
        prior="gaussian",
        t_start=500.0,
        spacing="trailing",
        clip=True,
        samples=10,
        seed=0,
    )
    figures = dict.fromkeys(("figures", "diversity"))
    way = Way(cell=cell, steps=5, exact={}, doubtful={}, images=torch.empty(0), **figures)
    assert way.title == "DDIM, NFE 5, late from the Gaussian, t = 500, clipped"
