"""`experiment solvers`: each sampler's best way is found, drawn again, and compared on the same noise."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from rich.console import Console
from typer.testing import CliRunner

import latestart as ls
from latestart.cli.experiment import experiment as commands
from latestart.data import Images, to_pixels
from latestart.denoisers.networks import as_model
from latestart.evaluation.quality import Estimate, feature_statistics
from latestart.experiments.solvers.measure import Contest, group_of
from latestart.experiments.solvers.page import page
from latestart.experiments.solvers.settings import SolversSettings
from latestart.lab.judge import Judge, Reference, over
from latestart.lab.subjects import Subject
from tiny import recording_lab, tiny_folder

SHAPE = (1, 4, 4)
SCHEDULER = DDPMScheduler(clip_sample=False)


def pooled(images):
    return torch.nn.functional.avg_pool2d(images, 2).flatten(1)


class Quarters:
    name = "quarters"

    def __call__(self, images):
        return pooled(images)


def pictures(n, seed):
    g = torch.Generator().manual_seed(seed)
    side = torch.where(torch.rand(n, 1, 1, 1, generator=g) < 0.5, -0.5, 0.5) * torch.linspace(-1, 1, 4)
    return side + 0.1 * torch.randn(n, *SHAPE, generator=g)


DATA = ls.Mixture.fit(pictures(600, 0), components=2, basis="dense")
GAUSSIAN = ls.Gaussian.fit(pictures(600, 0), basis="dense")


@pytest.fixture(scope="module")
def subject():
    """The exact network of two clusters."""
    sets = tuple(Images(to_pixels(pictures(120, seed) / 2 + 0.5)) for seed in (0, 1, 2))
    data = sets[0].unit()
    known = Reference(
        statistics=feature_statistics(data, pooled), real=pooled(data), copying=sets, shape=SHAPE, fingerprint="data"
    )
    priors = {"none": (None, ""), "gaussian": (GAUSSIAN, "g"), "mixture": (DATA, "m")}
    network = as_model(DATA, SCHEDULER)
    return Subject(network, SCHEDULER, "weights", priors=priors, judge=Judge(Quarters(), known))


SETTINGS = SolversSettings(
    model="exact", samples=40, scan=20, keep=2, nfe=(3,), starts=("none", "gaussian"), clip=(False,), seed=5,
    samplers=("ddpm", "ddim", "dpm++", "prior"), t_start={"gaussian": (400, 600)}, spacing=("trailing", "leading"),
    last=(40,), eta=(0.0, 1.0),
)  # fmt: skip


@pytest.fixture(scope="module")
def found(subject, tmp_path_factory):
    lab = recording_lab(tmp_path_factory.mktemp("solvers"))
    contest = Contest(SETTINGS, subject, lab)
    contest.measure(None)
    return contest, contest.standings()


def test_the_best_of_each_sampler_is_drawn_again_with_the_next_seed(found):
    contest, standings = found
    labels = {label for _, _, label in standings.best}
    assert labels == {"ddpm", "ddim", "dpm++", "prior", "prior, with noise"}
    assert len(standings.best) == 2 * 5
    for group, one in standings.best.items():
        assert (one.cell.seed, one.cell.samples) == (6, 40)
        ways = [planned for planned in contest.kept if group_of(planned) == group]
        assert len(ways) == 2 and one.among == {"none": 3, "gaussian": 4}[group[0]]
        chosen = min((contest._figures(way).frechet.value, way.cell) for way in ways if contest._figures(way))
        assert replace(chosen[1], seed=6) == one.cell and one.chosen.value == chosen[0]


def test_ways_with_more_contrast_than_the_data_are_left_out_where_there_are_others(found, monkeypatch):
    contest, _ = found
    group = ("gaussian", 3, "prior")
    ways = [one for one in contest.kept if group_of(one) == group]
    best = min(ways, key=lambda one: contest._figures(one).frechet.value)
    real, wider = Contest._figures, []

    def flattered(self, planned):
        figures = real(self, planned)
        wide = planned.key == best.key or "all" in wider
        return replace(figures, variance=Estimate(1.06, 1, 2)) if wide else figures

    monkeypatch.setattr(Contest, "_figures", flattered)
    (other,) = (one for one in ways if one.key != best.key)
    assert dict(contest._choices())[group].key == other.key
    wider.append("all")
    assert dict(contest._choices())[group].key == best.key


def test_the_solver_is_compared_with_the_best_deterministic_one_and_ddpm(found):
    _, standings = found
    pairs = {(one.kind, one.solver, one.other) for one in standings.versus}
    assert len(pairs) == len(standings.versus) == 2 * 2 * 2
    for one in standings.versus:
        mine, theirs = (standings.best[one.kind, one.nfe, label] for label in (one.solver, one.other))
        assert one.frechet == over(theirs.figures, mine.figures)
        assert one.coverage == mine.figures.coverage.value - theirs.figures.coverage.value
        if one.other != "ddpm":
            chosen = {label: standings.best[one.kind, 3, label].chosen.value for label in ("ddim", "dpm++")}
            assert one.other == min(chosen, key=chosen.get)


def test_a_second_run_measures_nothing_anew_and_finds_the_same(found, subject, monkeypatch):
    contest, standings = found
    monkeypatch.setattr("latestart.lab.cells.draw", None)
    again = Contest(SETTINGS, subject, contest.lab)
    again.measure(None)
    assert again.standings().record() == standings.record()
    json.dumps(standings.record())


def test_the_page_has_a_row_for_each_sampler_and_comparison(found, tmp_path):
    _, standings = found
    report = page(standings, tmp_path)
    console = Console(width=250, record=True)
    for one in report.tables:
        console.print(one)
    text = console.export_text()
    assert text.count("prior, with noise") >= 2 + 4 and "full noise" in text and "the Gaussian" in text
    assert any("scanned with 20 samples" in line for line in report.sentences)


def test_the_command_runs_on_a_folder_of_one_s_own_and_refuses_what_it_cannot_do(tmp_path):
    folder = tiny_folder(tmp_path)
    own = [
        str(folder / "model"),
        "--images",
        str(folder / "train.npz"),
        "--features",
        str(folder / "classifier.safetensors"),
    ]
    own += ["--gaussian", str(folder / "prior.safetensors"), "--samples", "12", "--scan", "8", "--keep", "1"]
    few = ["--nfe", "2", "--starts", "none", "--spacing", "trailing", "--clip", "false", "--samplers", "ddim,prior"]
    result = CliRunner().invoke(commands, ["solvers", *own, *few, "--last", "30", "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "the prior and the model speak of different values" in result.output  # the network is not trained
    known = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {one["label"] for one in known["best"]} == {"ddim"} and known["versus"] == []
    shipped = ["mnist", "--samples", "12", "--scan", "8", "--keep", "1", *few, "--out", str(tmp_path / "shipped")]
    result = CliRunner().invoke(commands, ["solvers", *shipped])
    assert result.exit_code == 0, result.output
    known = json.loads((tmp_path / "shipped" / "results.json").read_text())
    assert {one["label"] for one in known["best"]} == {"ddim", "prior"}
    assert known["second_features"].startswith("mnist-second") and known["versus"][0]["other"] == "ddim"
    for asked, said in (
        (["--t-start", "mixture=300"], "expected some of none"),
        (["--samplers", "nothing"], "no samplers 'nothing'"),
        (["--nfe", "1"], "at least 2"),
    ):
        result = CliRunner().invoke(commands, ["solvers", *own, *few, *asked, "--out", str(tmp_path / "no")])
        assert result.exit_code == 2 or isinstance(result.exception, ValueError)
        assert said in result.output + str(result.exception)
    assert not (tmp_path / "no").exists()
