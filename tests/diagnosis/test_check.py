"""The check as a whole, on models whose every figure is known."""

import json
import math

import pytest
import torch

from latestart import Gaussian, as_model, choose_start, generate
from latestart.denoisers.exact import GaussianMixture
from latestart.diagnosis.check import CHECKED, Report, check, halves
from latestart.gaussians.basis import Isotropic
from latestart.sampling.doubts import NATS
from two_clusters import (
    CLUSTERS,
    IMAGES,
    LABELS,
    MATCHED,
    MODEL,
    NOISE,
    QUICK,
    SCHEDULER,
    Conditional,
    direct_nats,
    gaussian,
    rng,
    worse,
)


def one(report: Report, name: str):
    return next(f for f in report.findings if f.name == name)


@pytest.fixture(scope="module")
def report():
    return check(MODEL, SCHEDULER, MATCHED, IMAGES, labels=LABELS, evaluated=600, criteria=QUICK)


@pytest.mark.parametrize("t_start", [None, 300.0])
def test_on_gaussian_data_all_is_well(t_start):
    prior = gaussian([4.0, 1.0, 0.5, 0.25, 0.1])
    images = prior.sample(200, rng())
    found = check(
        as_model(prior, SCHEDULER), SCHEDULER, prior, images, t_start, criteria=QUICK if t_start else tuple(CHECKED)
    )
    assert found.verdict == "good"
    assert [f.verdict for f in found.findings] == ["good"] * 4
    torch.testing.assert_close(found.linearity.r2, torch.ones_like(found.linearity.r2), rtol=0, atol=1e-9)
    assert found.nats.nats.abs().max() < 1e-7
    assert found.linearity.limit is None
    assert "nats" in found.missing
    assert found.safe is not None
    assert found.safe[0] == pytest.approx(found.linearity.t[-1].item())
    assert found.safe[1] == pytest.approx(found.linearity.t[0].item())


def test_two_clusters_are_safe_until_they_are_decided(report):
    bounds = one(report, "gaussian").numbers["levels"]
    assert direct_nats(bounds["0.5"]["sigma"]) == pytest.approx(0.5, abs=0.1)  # 3.5 standard errors
    # the range ends with the last criterion, before half a nat
    decided = min(level.t for level in report.levels if level.criterion != "nats")
    assert report.safe[0] == pytest.approx(decided)
    assert decided > bounds["0.5"]["t"]
    factor = max(level.sigma for level in report.levels) / min(level.sigma for level in report.levels)
    assert one(report, "critical").numbers["factor"] == pytest.approx(factor)
    assert all(f"{level.criterion} t = {level.t:.0f}" in one(report, "critical").sentence for level in report.levels)


@pytest.mark.parametrize(("t_start", "verdict", "place"), [(800.0, "good", "before"), (60.0, "bad", "after")])
def test_verdicts_are_read_at_the_start(t_start, verdict, place):
    """Two clusters are 1.5 nats from a Gaussian at most, which is doubtful: these are eight, in 12 dimensions."""
    centre = torch.zeros(12, dtype=torch.float64)
    centre[:6] = 2.0
    model = GaussianMixture(
        [Gaussian(centre * s.view(-1), Isotropic((12,)), torch.tensor([0.02], dtype=torch.float64)) for s in _signs()]
    )
    images = model.sample(400, rng())
    prior = Gaussian.fit(model.sample(4000, rng(1)), dtype=torch.float64)
    found = check(as_model(model, SCHEDULER), SCHEDULER, prior, images, t_start, evaluated=400, criteria=QUICK)
    sigma = NOISE.sigma(t_start - 1)  # where a run from there begins
    at = int((found.nats.sigma - sigma).abs().argmin())
    assert found.nats.sigma[at].item() == pytest.approx(sigma, rel=1e-9), "the start is one of the levels"
    assert one(found, "critical").numbers["place"] == place
    assert one(found, "critical").verdict == verdict
    nats = one(found, "gaussian")
    assert nats.numbers["at_start"]["nats"] == pytest.approx(found.nats.nats[at].item())
    assert nats.verdict == verdict
    assert (found.nats.nats[at] > NATS[1]) == (verdict == "bad")
    assert found.verdict == verdict
    assert f"a start at t = {t_start - 1:.0f} is {verdict}" in found.sentence
    assert found.safe[0] < t_start if verdict == "good" else found.safe[0] > t_start
    assert found.missing["uturn"].count("labels or a classifier are needed") == 1


def _signs():
    """The corners of a cube, so that three decisions are made at once."""
    for a in (1.0, -1.0):
        for b in (1.0, -1.0):
            for c in (1.0, -1.0):
                yield torch.tensor([a, a, b, b, c, c] + [1.0] * 6, dtype=torch.float64)


def test_a_start_is_safe_below_the_networks_errors():
    found = check(worse(600), SCHEDULER, MATCHED, IMAGES[:200], criteria=QUICK)
    assert found.safe[1] == pytest.approx(found.linearity.t[int(found.nats.worse.sum())].item())
    nowhere = check(worse(0), SCHEDULER, MATCHED, IMAGES[:100], criteria=QUICK)
    assert nowhere.safe is None
    assert "no t at which" in nowhere.sentence


def test_a_classifier_stands_in_for_labels():
    few = IMAGES[:120]
    by_labels = check(MODEL, SCHEDULER, MATCHED, few, labels=LABELS[:120], evaluated=40, criteria=QUICK)
    by_classifier = check(
        MODEL, SCHEDULER, MATCHED, few, classify=lambda x: (x[:, 0] < 0).long(), evaluated=40, criteria=QUICK
    )
    assert by_labels.levels == by_classifier.levels
    assert {"uturn"} <= {level.criterion for level in by_labels.levels}


# --- the record, and mistakes -----------------------------------------------------------------------------------------


def test_the_record_is_json_and_holds_what_was_found(report):
    record = json.loads(json.dumps(report.record(), allow_nan=False))
    assert [f["name"] for f in record["findings"]] == ["linear", "gaussian", "critical", "network"]
    assert record["nats"]["nats"] == pytest.approx(report.nats.nats.tolist())
    assert record["linearity"]["limit"]["sigma"] == report.linearity.limit.sigma
    assert (record["images"], record["evaluated"]) == (600, 600)


def test_progress_runs_to_its_end_and_a_seed_fixes_the_report():
    told = []
    one_run, other, third = (
        check(
            MODEL, SCHEDULER, MATCHED, IMAGES[:60], criteria=QUICK, seed=seed, progress=lambda *a: told.append(a)
        ).record()
        for seed in (0, 0, 1)
    )
    assert one_run == other
    assert one_run["nats"] != third["nats"]
    assert told[-1][0] == told[-1][1] == len(told) // 3


def test_halves_share_nothing_and_are_random():
    a, b = halves(101, seed=1)
    assert sorted([*a.tolist(), *b.tolist()]) == list(range(101))
    assert not torch.equal(a, halves(101, seed=2)[0])
    with pytest.raises(ValueError, match=r"at least 80 images.*received 79"):
        halves(79)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_start": 1001.0}, "t_start=1001 lies outside of the schedule: expected 5 to 1000"),
        ({"t_start": -1.0}, "t_start=-1 lies outside of the schedule"),
        ({"t_start": 3.0}, "t_start=3 leaves no time for 5 steps"),
        ({"images": IMAGES[:39]}, "at least 40 images.*received 39"),
        ({"images": IMAGES[:50, :3]}, r"samples are \(4,\), received a prior for \(4,\) and images \(50, 3\)"),
        ({"prior": gaussian([1.0] * 5)}, r"samples are \(4,\), received a prior for \(5,\)"),
        ({"images": IMAGES[:50] * math.nan}, "finite"),
        ({"criteria": ("nats", "magic")}, r"expected criteria of 'nats', .*received \['magic'\]"),
        ({"labels": LABELS[:49]}, r"each of 50 images, received torch.int64 \(49,\)"),
        ({"classify": lambda x: x}, r"class indices \(50,\), received torch.float64 \(50, 4\)"),
        ({"prior": Gaussian.fit(IMAGES[:50])}, "fitted to these very 50 images"),
    ],
)
def test_mistakes_are_told(change, message):
    given = {"prior": MATCHED, "images": IMAGES[:50], "criteria": QUICK, **change}
    with pytest.raises(ValueError, match=message):
        check(as_model(CLUSTERS, SCHEDULER), SCHEDULER, given.pop("prior"), given.pop("images"), **given)


def test_a_conditional_network_without_classes_is_refused():
    with pytest.raises(ValueError, match=r"conditional on 2 classes.*got None"):
        check(Conditional(), SCHEDULER, MATCHED, IMAGES[:50])


@pytest.mark.parametrize(("t_start", "steps", "begins"), [(1000, 5, 999), (1000, 7, 993), (613, 7, 608), (5, 5, 4)])
def test_a_start_is_judged_where_its_run_begins(t_start, steps, begins):
    found = check(MODEL, SCHEDULER, MATCHED, IMAGES[:60], t_start, criteria=(), steps=steps)
    assert (found.nats.sigma - NOISE.sigma(float(begins))).abs().min() < 1e-9 * NOISE.sigma(float(begins))
    assert f"at t = {begins} " in one(found, "gaussian").sentence


@pytest.mark.parametrize("prior", [gaussian([4e4, 5e2, 5e2, 5e2]), gaussian([4e-4, 5e-6, 5e-6, 5e-6])])
def test_a_prior_of_other_values_is_a_verdict(prior):
    """With all that may be the cause, and both spreads; the choice and the samples refuse it in the same words."""
    found = check(MODEL, SCHEDULER, prior, IMAGES[:60], criteria=())
    assert (found.verdict, found.safe) == ("bad", None)
    assert found.findings[-1].name == "prior" and found.sentence == found.findings[-1].sentence
    for cause in ("another range", "prediction_type", "not trained", "spreads by", "check_prior=False"):
        assert cause in found.sentence
    for call in (lambda **more: generate(MODEL, SCHEDULER, prior, n=2, steps=2, t_start=400, **more),
                 lambda **more: choose_start(MODEL, SCHEDULER, prior, steps=2, **more)):  # fmt: skip
        with pytest.raises(ValueError, match="speak of different values") as raised:
            call()
        assert str(raised.value) == found.sentence
        call(check_prior=False)
    skipped = check(MODEL, SCHEDULER, prior, IMAGES[:60], criteria=(), check_prior=False)
    assert "prior" not in [finding.name for finding in skipped.findings]
