"""`experiment gaussianity`: the early phase is what a plain DDIM run passes, and the finding on the shipped model."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from typer.testing import CliRunner

from latestart import zoo
from latestart.cli.experiment import experiment as commands
from latestart.data import Images, to_pixels
from latestart.denoisers.networks import as_model
from latestart.evaluation.gaussianity import TESTS
from latestart.experiments.gaussianity import measure as experiment
from latestart.experiments.gaussianity.page import draw, page
from latestart.experiments.gaussianity.paths import early_phase, noised
from latestart.experiments.gaussianity.settings import GaussianitySettings as Settings
from latestart.gaussians.basis import Diagonal
from latestart.gaussians.gaussian import Gaussian
from latestart.lab.divergence import SEEN
from latestart.noise import Noise
from latestart.sampling.seeds import white_noise
from tiny import recording_lab, tiny_folder

SHAPE = (1, 2, 2)
SCHEDULER = DDPMScheduler(clip_sample=False)


def _gaussian():
    return Gaussian(torch.full(SHAPE, 0.3), Diagonal(SHAPE), torch.tensor([2.0, 1.0, 0.5, 0.1]).double())


def _measured(settings, folder):
    return experiment.EarlyGaussianity().measure(settings, recording_lab(folder))


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return _measured(Settings(samples=120, starts=(800, 250), replicates=99), tmp_path_factory.mktemp("gaussianity"))


@pytest.fixture
def exact(monkeypatch):
    """A Gaussian's exact model, on its own samples, held against itself; the model has seen all of them."""
    prior = Gaussian(torch.zeros(SHAPE), Diagonal(SHAPE), torch.tensor([0.08, 0.05, 0.02, 0.01]).double())
    samples = prior.sample(300, torch.Generator().manual_seed(1))
    monkeypatch.setattr(experiment, "open_images", lambda *_: (Images(to_pixels(samples / 2 + 0.5)), None))
    monkeypatch.setattr(experiment, "open_network", lambda *_: (as_model(prior, SCHEDULER), SCHEDULER, "exact"))
    monkeypatch.setattr(experiment, "open_prior", lambda *_: (prior, "exact"))
    return Settings(model="exact", samples=200, starts=(900, 600, 300), replicates=99)


def test_the_early_phase_is_that_of_a_plain_run():
    """States of diffusers' own loop, at the times just below each start; several batches."""
    model = as_model(_gaussian(), SCHEDULER)
    found = list(early_phase(model, SCHEDULER, 7, (900, 850, 300), 5, batch_size=3))
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
    for y, t in zip(early_phase(model, SCHEDULER, 4000, (800, 500, 200), seed=0), (799, 499, 199)):
        exact = _gaussian().noised(noise.sigma(float(t)))
        assert y.flatten(1).double().var(0) / exact.variances == pytest.approx(1, abs=0.12)
        assert y.mean() == pytest.approx(0.3, abs=0.1 + 0.05 * noise.sigma(float(t)))


@pytest.mark.parametrize("starts", [(910,), (300, 800), (1000,), (0,)])
def test_starts_that_are_not_stops_are_refused(starts):
    with pytest.raises(ValueError, match="multiples of 25 below 1000"):
        next(early_phase(as_model(_gaussian(), SCHEDULER), SCHEDULER, 3, starts, 0))


def test_more_samples_than_images_are_refused():
    with pytest.raises(ValueError, match="2001 independent samples"):
        experiment.open_case(Settings(samples=2001))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"samples": 5}, "samples=5: expected a whole number of at least 10"),
        ({"samples": 30, "rank": 20}, "need at least 40, received 30"),
    ],
)
def test_too_few_samples_are_refused_before_any_work(asked, message):
    with pytest.raises(ValueError, match=message):
        Settings(**asked)


def test_a_gaussian_is_not_rejected_and_has_no_nats(exact, tmp_path):
    """The data are the prior: nothing is to be found, and the divergence is nothing at any level."""
    found = _measured(exact, tmp_path)
    for level in found.levels:
        assert level.found["forward", "own"].p > 0.05 and level.found["forward", "prior"].p > 0.05
        assert level.nats == pytest.approx(0, abs=1e-6)
    assert found.one_nat is None and not found.unseen
    sentences = page(found, tmp_path).sentences
    assert "the divergence from the prior does not pass 1 nat" in sentences and SEEN in sentences
    assert (tmp_path / "gaussianity.png").stat().st_size > 50_000


def test_a_run_that_was_cut_off_goes_on_to_the_same_end(exact, tmp_path, monkeypatch):
    whole, lab, tested = _measured(exact, tmp_path / "whole"), recording_lab(tmp_path / "cut"), []
    test = experiment.gaussianity

    def interrupted(*args, **options):
        tested.append(args)
        if len(tested) == 6:  # in the second level
            raise KeyboardInterrupt
        return test(*args, **options)

    monkeypatch.setattr(experiment, "gaussianity", interrupted)
    with pytest.raises(KeyboardInterrupt):
        experiment.EarlyGaussianity().measure(exact, lab)
    (kept,) = (lab.out / "levels").iterdir()
    stamp = kept.stat().st_mtime_ns
    lab.spent.clear()
    again = experiment.EarlyGaussianity().measure(exact, lab)
    assert lab.spent == [(2, 3), (3, 3)]
    assert kept.stat().st_mtime_ns == stamp
    assert again.record() == whole.record()
    lab.spent.clear()
    assert experiment.EarlyGaussianity().measure(exact, lab).record() == whole.record()
    assert lab.spent == []  # all is there
    experiment.EarlyGaussianity().measure(replace(exact, starts=(900, 700)), lab)
    assert lab.spent == [(2, 2)]  # the other is known


def test_a_damaged_level_is_tested_again(exact, tmp_path):
    settings, lab = replace(exact, starts=(900,)), recording_lab(tmp_path)
    found = experiment.EarlyGaussianity().measure(settings, lab).record()
    (path,) = (tmp_path / "levels").iterdir()
    (nats,) = tmp_path.glob("nats-*.safetensors")
    for damaged in (path, nats):
        damaged.write_bytes(damaged.read_bytes()[:100])
        assert experiment.EarlyGaussianity().measure(settings, lab).record() == found
        assert lab.told[-1].startswith(f"{damaged} is not sound") and lab.told[-1].endswith("it is made again")


def test_a_network_with_classes_is_refused(exact, monkeypatch):
    model = as_model(_gaussian(), SCHEDULER)
    model.config.num_class_embeds = 10
    monkeypatch.setattr(experiment, "open_network", lambda *_: (model, SCHEDULER, "exact"))
    with pytest.raises(ValueError, match="networks without classes, received one with 10"):
        experiment.open_case(exact)


@pytest.mark.parametrize(
    ("p", "onset"), [((0.5, 0.5, 0.5), None), ((0.5, 0.5, 0.01), 100), ((0.01, 0.5, 0.01), 100), ((0.01,) * 3, 300)]
)
def test_the_onset_is_the_end_of_a_run_of_rejections_from_the_lowest_noise(p, onset):
    levels = [
        experiment.Level(t, 1.0, 0.0, {("forward", "own"): SimpleNamespace(p=value)})
        for t, value in zip((300, 200, 100), p)
    ]
    nothing = dict.fromkeys(("curve", "t", "one_nat", "unseen", "weights", "settings"))
    found = experiment.Normality(levels=levels, **nothing)
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
    assert noised(images, 3.0, torch.Generator().manual_seed(0)).std() == pytest.approx(3.0, rel=0.03)


def _run(*args):
    return CliRunner().invoke(commands, ["gaussianity", *(str(a) for a in args)], env={"COLUMNS": "200"})


def test_the_command_writes_the_figures_and_the_picture(result, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment.EarlyGaussianity, "measure", lambda *_: result)
    told = _run("--out", tmp_path, "--samples", 120)
    assert told.exit_code == 0, told.output
    assert "forward: any Gaussian is rejected from t = 250 down; the prior from t = 250 down" in told.output
    assert SEEN not in told.output
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
    assert "model: mnist; " in report and "samples: 120; seed: 0; " in report
    high, low = (next(line for line in report.split("\n") if line.startswith(f"| {t} |")) for t in (800, 250))
    assert "**" not in high.split(" | ")[3] and "<br>" not in high.split(" | ")[3]
    rejected = [name for name, test in written["levels"][1]["forward, own"].items() if test["adjusted"] <= 0.05]
    assert rejected and low.split(" | ")[3].endswith(f"**<br>{', '.join(rejected)}")


def test_a_picture_without_any_rejection(result, tmp_path):
    draw(tmp_path / "none.png", replace(result, levels=result.levels[:1]))
    assert (tmp_path / "none.png").stat().st_size > 50_000


def test_the_command_on_a_model_of_ones_own(tmp_path, monkeypatch):
    """A network that has learned nothing fits no prior: refused in a line, and tested once that is not asked."""
    folder, out = tiny_folder(tmp_path), tmp_path / "out"
    own = (folder / "model", "--images", folder / "train.npz", "--samples", 50, "--starts", "900,800", "--out", out)
    told = _run(*own)
    assert told.exit_code == 2 and "there is no prior 'gaussian' (prior.safetensors beside the model)" in told.output
    own = (*own, "--prior", folder / "prior.safetensors")
    told = _run(*own)
    assert told.exit_code == 2 and "the prior and the model speak of different values" in told.output
    monkeypatch.setattr(experiment, "check_prior", lambda *_: None)
    assert _run(*own).exit_code == 0
    report = (out / "report.md").read_text(encoding="utf-8")
    assert f"- {SEEN}" in report and "model: model; " in report and str(folder) not in report
    settings = json.loads((out / "results.json").read_text())["settings"]
    assert settings["samples"] == 50 and len(list((out / "levels").iterdir())) == 2
    told = _run(*own, "--held-out", folder / "unseen.npz")
    assert told.exit_code == 0 and SEEN not in told.output
    assert len(list((out / "levels").iterdir())) == 2 and len(list(out.glob("nats-*"))) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("nowhere",), "nowhere is neither a folder with a diffusers model nor a shipped one"),
        (("--samples", 4), "samples=4: expected a whole number of at least 10"),
        (("--starts", "x"), "starts: expected whole numbers"),
        (("--starts", "910"), "multiples of 25 below 1000"),
        (("--prior", "mixture"), "the prior mixture is a Mixture: expected a Gaussian"),
        (("--held-out", __file__), "give these too, or neither"),
    ],
)
def test_mistakes_are_one_line(tmp_path, args, message):
    told = _run(*args, "--out", tmp_path / "out")
    assert told.exit_code == 2 and message in told.output and "Traceback" not in told.output
    assert not (tmp_path / "out").exists()
