"""Verdicts in words: on networks whose faults are known, and at every bar."""

import math
from dataclasses import replace

import pytest
import torch

from latestart import as_model
from latestart.diagnosis.case import NETWORK, Case
from latestart.diagnosis.decisions import Decisions, decisions
from latestart.diagnosis.linearity import compare
from latestart.diagnosis.verdicts import Evidence, Start, finite, judge, worst
from latestart.sampling.doubts import runs
from latestart.theory.levels import CriticalLevel
from two_clusters import IMAGES, LABELS, MATCHED, MODEL, NOISE, QUICK, SCHEDULER, Erring, gaussian, rng, worse


def evidence(model=MODEL, prior=MATCHED, images=IMAGES[:200], t=None, criteria=QUICK):
    start = None if t is None else NOISE.sigma(float(t))
    curve, linearity = compare(model, SCHEDULER, prior, images, start=start)
    case = Case(images=images, labels=LABELS[: len(images)], noise=NOISE, nats={NETWORK: curve})
    found = decisions(case, criteria)
    at = None if t is None else Start(float(t), start, int((curve.sigma - start).abs().argmin()))
    return Evidence(linearity=linearity, nats=curve, decisions=found, noise=NOISE, at=at)


def one(seen, name):
    return next(f for f in judge(seen) if f.name == name)


@pytest.fixture(scope="module")
def clusters():
    return evidence(images=IMAGES)


def test_there_is_a_finding_for_each_question(clusters):
    findings = judge(clusters)
    assert [f.name for f in findings] == ["linear", "gaussian", "critical", "network"]
    good, doubtful, bad = (replace(findings[0], verdict=verdict) for verdict in ("good", "doubtful", "bad"))
    assert worst((good, bad, doubtful)) == "bad"
    assert worst((doubtful, good)) == "doubtful"


# --- linear and Gaussian ----------------------------------------------------------------------------------------------


def test_the_reach_is_told(clusters):
    assert one(clusters, "linear").verdict == "good"
    assert f"down to t = {clusters.linearity.limit.t:.0f}" in one(clusters, "linear").sentence
    assert f"down to t = {clusters.budget(0.5).t:.0f}" in one(clusters, "gaussian").sentence
    assert f"it reaches 1 nat at t = {clusters.budget(1.0).t:.0f} (" in one(clusters, "gaussian").sentence
    never = replace(clusters, nats=replace(clusters.nats, integrals=0 * clusters.nats.integrals))
    assert f"never reaches 1 nat, down to t = {clusters.last:.0f}" in one(never, "gaussian").sentence


@pytest.mark.parametrize(("r2", "verdict"), [(0.96, "good"), (0.94, "doubtful"), (0.51, "doubtful"), (0.49, "bad")])
def test_r2_is_judged_by_its_lowest_down_to_the_start(clusters, r2, verdict):
    """It falls to `r2` at one level, and is 1 again at the start, which lies below."""
    curve = clusters.linearity
    data = torch.ones_like(curve.data)
    data[-4] = r2
    limit = CriticalLevel(curve.sigma[-5].item(), "linear, data", "") if r2 < 0.95 else None
    changed = replace(curve, data=data, r2=data, limit=limit, informative=torch.ones_like(curve.informative))
    at = Start(curve.t[-2].item(), curve.sigma[-2].item(), len(data) - 2)
    assert one(replace(clusters, linearity=changed, at=at), "linear").verdict == verdict
    before = Start(curve.t[-8].item(), curve.sigma[-8].item(), len(data) - 8)
    assert one(replace(clusters, linearity=changed, at=before), "linear").verdict == "good"


@pytest.mark.parametrize(("nats", "verdict"), [(0.4, "good"), (0.6, "doubtful"), (1.9, "doubtful"), (2.1, "bad")])
def test_nats_are_judged_at_the_start(clusters, nats, verdict):
    curve = clusters.nats
    changed = replace(curve, nats=torch.linspace(0, nats, len(curve.nats), dtype=torch.float64))
    at = Start(clusters.last, curve.sigma[-1].item(), len(curve.nats) - 1)
    finding = one(replace(clusters, nats=changed, at=at), "gaussian")
    assert finding.verdict == verdict
    assert finding.numbers["at_start"]["nats"] == pytest.approx(nats)
    assert f"at least {nats:.2f} +-" in finding.sentence


def test_a_networks_own_errors_are_told_beside_what_the_data_ask():
    prior = gaussian([1.0] * 4)
    model = as_model(Erring(prior, lambda level: 0.4 / (1 + level)), SCHEDULER)
    seen = evidence(model, prior, prior.sample(300, rng()), criteria=())
    assert "errors of its own" in one(seen, "linear").sentence


# --- critical ---------------------------------------------------------------------------------------------------------


def with_levels(seen, *sigmas, at=None, nats=True):
    """Evidence with criteria at these levels, each uncertain by 5%."""
    levels = tuple(CriticalLevel(s, f"c{k}", "", (0.95 * s, 1.05 * s)).on(NOISE) for k, s in enumerate(sigmas))
    found = Decisions(levels, {} if nats else {"nats": "never"}, None)
    return replace(seen, decisions=found, at=None if at is None else Start(NOISE.time(at), at, 0))


@pytest.mark.parametrize(
    ("sigmas", "verdict", "words"),
    [
        ((2.0, 1.4), "good", "the criteria agree: c0"),
        ((1.4, 2.0), "good", "the criteria agree: c1"),
        ((2.0, 1.0), "doubtful", "agree roughly"),
        ((4.0, 2.0, 1.0), "bad", "disagree"),
        ((2.0,), "doubtful", "one criterion only"),
        ((), "doubtful", "no criterion gave"),
    ],
)
def test_criteria_agree_by_their_factor(clusters, sigmas, verdict, words):
    finding = one(with_levels(clusters, *sigmas), "critical")
    assert finding.verdict == verdict
    assert words in finding.sentence
    assert finding.numbers["factor"] == (pytest.approx(max(sigmas) / min(sigmas)) if sigmas else None)
    assert all(f"c{k} t = {NOISE.time(s):.0f}" in finding.sentence for k, s in enumerate(sigmas))


@pytest.mark.parametrize(
    ("at", "verdict", "place"),
    [
        (2.11, "good", "before"),
        (2.09, "doubtful", "between"),
        (1.5, "doubtful", "between"),
        (0.96, "doubtful", "between"),
        (0.94, "bad", "after"),
    ],
)
def test_a_start_is_placed_among_the_levels_with_their_intervals(clusters, at, verdict, place):
    finding = one(with_levels(clusters, 1.0, 2.0, at=at), "critical")
    assert (finding.verdict, finding.numbers["place"]) == (verdict, place)
    assert f"t = {NOISE.time(at):.0f} lies" in finding.sentence


def test_criteria_do_no_harm_where_the_prior_fits_throughout(clusters):
    fits = replace(clusters, nats=replace(clusters.nats, nats=0.1 * torch.ones_like(clusters.nats.nats)))
    finding = one(with_levels(fits, 4.0, 1.0, at=0.5, nats=False), "critical")
    assert finding.verdict == "good"
    assert "no decision is left" in finding.sentence


# --- network ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("t", "verdict"), [(None, "doubtful"), (700, "bad"), (450, "good")])
def test_a_network_worse_than_linear_at_high_noise_is_found(t, verdict):
    seen = evidence(worse(600), t=t, criteria=())
    count = int(seen.nats.worse.sum())
    torch.testing.assert_close(seen.nats.worse, seen.nats.sigma > NOISE.sigma(600.0))
    finding = one(seen, "network")
    assert finding.verdict == verdict
    last_wrong, first_sound = seen.linearity.t[count - 1].item(), seen.linearity.t[count].item()
    assert first_sound <= 600 < last_wrong
    assert finding.numbers["below"] == pytest.approx(first_sound)
    assert f"t = {seen.linearity.t[0]:.0f} to {last_wrong:.0f}" in finding.sentence
    if t != 450:
        assert f"start at t = {first_sound:.0f} or below" in finding.sentence
    # the error is that of the tanh: its mean square, over what the clusters' own denoiser leaves
    at = int(seen.linearity.gain.argmin())
    assert finding.numbers["excess"] == pytest.approx(-seen.linearity.gain[at].item())


def test_errors_that_no_start_skips_are_bad():
    throughout = one(evidence(worse(0), images=IMAGES[:100], criteria=()), "network")
    assert throughout.verdict == "bad"
    assert throughout.numbers["below"] is None
    assert "no start skips that" in throughout.sentence
    hole = evidence(worse(400, 550), images=IMAGES[:100], criteria=())
    assert hole.nats.worse.any()
    assert one(hole, "network").verdict == "bad", "a start above the range does not skip it"


# --- words ------------------------------------------------------------------------------------------------------------


def test_runs_are_neighbours():
    assert runs(torch.tensor([True, True, False, True, False, False, True])) == [[0, 1], [3], [6]]
    assert runs(torch.zeros(3, dtype=torch.bool)) == []


def test_plain_values_are_what_json_has():
    level = CriticalLevel(2.0, "sde", "so")
    found = finite({"a": torch.tensor([1.0, math.nan]), "b": (level, math.inf), "c": {"d": True}, "e": None})
    assert found == {"a": [1.0, None], "b": [level.record(), None], "c": {"d": True}, "e": None}


def test_nothing_is_told_as_minus_zero(clusters):
    at = Start(900.0, NOISE.sigma(900.0), int((clusters.nats.sigma - NOISE.sigma(900.0)).abs().argmin()))
    nats = replace(clusters.nats, nats=torch.full_like(clusters.nats.nats, -1e-3))
    linearity = replace(
        clusters.linearity,
        data=torch.full_like(clusters.linearity.data, -1e-4),
        informative=torch.ones_like(clusters.linearity.informative),
    )
    seen = replace(clusters, nats=nats, linearity=linearity, at=at)
    assert "at least 0.00 +- " in one(seen, "gaussian").sentence
    assert "R^2 = 0.000 +- " in one(seen, "linear").sentence
