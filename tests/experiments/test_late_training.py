"""`experiment late-training`: pairs that differ in their levels alone, and the intervals over them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latestart import zoo
from latestart.cli.experiment import experiment as commands
from latestart.data import Images
from latestart.denoisers.folders import load_model
from latestart.evaluation.quality import feature_statistics
from latestart.experiments.late_training import measure as experiment
from latestart.experiments.late_training.measure import over_seeds, top_level
from latestart.experiments.late_training.settings import LateTrainingSettings as Settings
from latestart.gaussians.gaussian import Gaussian
from latestart.lab import subjects
from latestart.lab.judge import Judge, Reference
from latestart.noise import Noise
from latestart.sampling.loop import draw
from latestart.sampling.samplers import make_sampler
from tiny import recording_lab

TINY = Settings(
    start=400, seeds=2, seed=3, steps=6, batch_size=8, channels=(8, 8), patch=1, nfe=(2, 4), samples=20
)  # fmt: skip


def quarters(images):
    """Four features: the means of the quarters."""
    return torch.nn.functional.avg_pool2d(images, 4).flatten(1)


quarters.name = "quarters"


def squares(n=64):
    """Images of 8 x 8 with one bright square, left or right."""
    pixels = torch.zeros(n, 1, 8, 8, dtype=torch.uint8)
    for k in range(n):
        pixels[k, 0, k % 5 : k % 5 + 3, 4 * (k % 2) : 4 * (k % 2) + 3] = 255
    return Images(pixels)


@pytest.fixture(scope="module")
def judge():
    data = squares().unit()
    return Judge(
        quarters,
        Reference(
            statistics=feature_statistics(data, quarters),
            real=quarters(data),
            copying=None,
            shape=(1, 8, 8),
            fingerprint="data",
        ),
    )


@pytest.fixture(scope="module")
def done(judge, tmp_path_factory):
    out = tmp_path_factory.mktemp("late")
    return out, experiment.compare(TINY, squares(), judge, recording_lab(out))


def test_the_pairs_differ_in_their_levels_alone(done):
    out, _ = done
    for seed in (3, 4):
        records = [
            json.loads((out / f"{network}-{seed}" / "latestart.json").read_text()) for network in ("all", "late")
        ]
        one, late = (record["training"] for record in records)
        assert {name for name in one if one[name] != late[name]} <= {"max_sigma", "loss", "seconds"}
        assert one["max_sigma"] is None and late["max_sigma"] == top_level(TINY) and one["seed"] == seed
        levels = [Noise.from_scheduler(load_model(out / f"{n}-{seed}")[1]).sigma_range[1] for n in ("all", "late")]
        assert levels[0] == pytest.approx(157.4, rel=1e-3) and levels[1] == pytest.approx(top_level(TINY), rel=1e-6)


def test_the_late_network_knows_the_start_and_nothing_above(done):
    """The start of every run is at most its highest level, and for a start that the steps divide is that level."""
    _, result = done
    for pair in result.pairs:
        assert pair.sigma == pytest.approx(top_level(TINY), rel=1e-6)
    assert top_level(Settings(start=500)) == pytest.approx(3.4241, abs=1e-4)


def test_a_figure_is_that_of_sampling_by_hand(done, judge):
    """Both networks of a pair from the same prior, the same start and the same white noise."""
    out, result = done
    prior = Gaussian.fit(squares())
    pair = next(pair for pair in result.pairs if (pair.seed, pair.nfe) == (4, 2))
    for network in ("all", "late"):
        model, scheduler = load_model(out / f"{network}-4")
        sampler = make_sampler("ddim", scheduler, timestep_spacing="trailing", clip_sample=False)
        samples = draw(model, sampler, prior, 20, 2, 400, seed=4).samples
        assert judge(samples).frechet.value == pytest.approx(getattr(pair, network).frechet.value, rel=1e-6)
    assert pair.ratio == pair.late.frechet.value / pair.all.frechet.value


def test_networks_and_priors_are_on_the_device_of_the_process(done, judge, monkeypatch):
    out, _ = done
    device, told = torch.device("cpu"), []

    def opened(model, **where):
        told.append(where["device"])
        return zoo.open_model(model, device=device)

    monkeypatch.setattr(experiment, "own_device", lambda: device)
    monkeypatch.setattr(subjects, "own_device", lambda: device)
    monkeypatch.setattr(subjects, "zoo", SimpleNamespace(open_model=opened))
    experiment.compare(TINY, squares(), judge, recording_lab(out))
    assert len(told) == 4 and all(where is device for where in told)
    monkeypatch.setattr(Gaussian, "to", lambda prior, where: where)
    assert experiment._prior(TINY, squares(), recording_lab(out))[0] == device


def test_intervals_are_students_over_the_seeds(done):
    """For 1, 2, 3: mean 2, s = 1, t = 4.3027 on two degrees of freedom, so 2 +- 2.4841."""
    over = over_seeds([1.0, 2.0, 3.0])
    assert (over.low, over.value, over.high) == pytest.approx((2 - 2.4841, 2, 2 + 2.4841), abs=1e-4)
    _, result = done
    for summary in result.summary:
        pairs = [pair for pair in result.pairs if pair.nfe == summary.nfe]
        assert len(pairs) == 2
        assert summary.ratio.value == pytest.approx(np.exp(np.mean(np.log([pair.ratio for pair in pairs]))))
        assert summary.late.value == pytest.approx(np.mean([pair.late.frechet.value for pair in pairs]))
        assert summary.copied == {"all": None, "late": None}


def test_a_run_that_was_cut_off_trains_nothing_twice(done, judge):
    out, result = done
    lab = recording_lab(out)
    again = experiment.compare(TINY, squares(), judge, lab)
    assert again.record() == result.record()
    assert not lab.spent


def test_other_settings_in_the_same_folder_are_refused(done, judge):
    out, _ = done
    with pytest.raises(ValueError, match=r"another run: steps 6 \(now 7\)"):
        experiment.compare(replace(TINY, steps=7), squares(), judge, recording_lab(out))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prior": "flow"}, "no prior 'flow'; there are gaussian, mixture"),
        ({"seeds": 1}, "seeds=1: expected a whole number of at least 2"),
        ({"start": 5}, "start=5: expected at least 10, a time for each evaluation"),
        ({"start": 1001}, "start=1001: expected a whole number from 2 to 1000"),
    ],
)
def test_bad_settings_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        Settings(**bad)


def _run(*args):
    return CliRunner().invoke(commands, ["late-training", *map(str, args)], env={"COLUMNS": "200"})


def test_the_command_writes_a_table_a_picture_and_all_figures(tmp_path):
    small = ("--steps", 2, "--seeds", 2, "--channels", "8,8", "--batch-size", 4, "--nfe", 2, "--samples", 130)
    told = _run("--out", tmp_path, *small)
    assert told.exit_code == 0, told.output
    assert "trained on all levels, and on those below sigma = 3.42 (t < 500)" in told.output
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["steps"], written["seeds"], written["images"], len(written["pairs"])) == (2, 2, 2000, 2)
    assert written["summary"][0]["ratio"]["low"] <= written["summary"][0]["ratio"]["value"]
    assert (tmp_path / "late-training.png").stat().st_size > 20_000
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "samples: 130; seeds: 0, 1; " in report and "| 2 | below the start only | " in report


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--channels", "a"), "channels: expected whole numbers"),
        (("--images", "nowhere.parquet"), "nowhere.parquet"),
        (("--start", "2000"), "start=2000: expected a whole number from 2 to 1000"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    told = _run(*args)
    assert told.exit_code == 2 and message in told.output and "Traceback" not in told.output
    assert not list(tmp_path.iterdir())


def test_the_shipped_images_take_no_second_space_but_their_own(tmp_path):
    with pytest.raises(ValueError, match="have a second feature space, and take no other"):
        experiment.LateTraining().measure(Settings(second="efficientnet-lite0"), recording_lab(tmp_path))
