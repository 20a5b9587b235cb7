"""The candidates of tuning: full noise by every solver among them, each of exactly the evaluations asked for."""

import itertools
import math
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
from scipy.optimize import brentq

from latestart import as_model
from latestart.noise import Noise
from latestart.sampling.generate import draw
from latestart.theory.nats import NatsCurve
from latestart.tuning import candidates as home
from latestart.tuning.candidates import LADDER, MOST, candidates, starts_of, usual
from tuned import counted, few
from two_clusters import CLUSTERS, MATCHED

FAMILIES = {
    "beta": DDPMScheduler(clip_sample=False),
    "EDM": EDMEulerScheduler(),
    "flow": FlowMatchEulerDiscreteScheduler(),
}
SOLVERS = {
    "beta": {"ddim", "ddpm", "dpm++", "sde-dpm++", "unipc", "deis", "heun", "ipndm", "euler", "prior"},
    "EDM": {"euler", "dpm++", "sde-dpm++", "prior"},
    "flow": {"euler", "heun", "prior"},
}
NOISE = Noise.from_scheduler(FAMILIES["beta"])
STARTS = {"gaussian": [1.0], "mixture": [0.4]}
PRIORS = {"gaussian": MATCHED, "mixture": CLUSTERS}
every_family = pytest.mark.parametrize("name", FAMILIES)


@cache
def _of(name, nfe):
    return candidates(FAMILIES[name], nfe, STARTS, MATCHED)


@every_family
@pytest.mark.parametrize("nfe", [2, 5])
def test_every_group_has_a_scout_and_none_is_there_twice(name, nfe):
    found = _of(name, nfe)
    assert 0 < len(found) <= MOST
    assert len({one.way for one in found}) == len(found)
    groups = {(one.ours, one.group) for one in found}
    assert groups == {(one.ours, one.group) for one in found if one.scout}
    begun = {one.group for one in found if one.way.t_start is not None}
    assert {group.split(" at ")[0] for group in begun} == {"gaussian", "mixture"}


@every_family
def test_full_noise_with_every_solver_of_the_family_is_among_them(name):
    full = {one.way.sampler for one in _of(name, 5) if one.way.t_start is None}
    assert full == SOLVERS[name]
    late = {one.way.sampler for one in _of(name, 5) if one.way.t_start is not None}
    assert late == SOLVERS[name]
    assert {one.way.sampler for one in candidates(FAMILIES[name], 5, {})} == SOLVERS[name] - {"prior"}


def test_at_an_even_number_of_evaluations_heun_is_told_to_be_left_out():
    told = []
    found = candidates(FAMILIES["beta"], 4, {}, tell=told.append)
    assert found and "heun" not in {one.way.sampler for one in found}
    assert any(sentence.startswith("heun, full noise") and "cannot spend 4" in sentence for sentence in told)


def test_noise_between_ddim_and_ddpm_is_tried_from_everywhere():
    halves = [one.way for one in _of("beta", 5) if one.way.sampler == "ddim" and one.way.eta == 0.5]
    assert {way.prior for way in halves} == {"none", "gaussian", "mixture"}


def test_without_clipping_none_clips():
    with few(("ddpm", "dpm++", "prior")):
        clips, never = (candidates(FAMILIES["beta"], 2, STARTS, MATCHED, clip) for clip in (True, False))
    assert {one.way.sampler for one in clips if one.way.clip} == {"ddpm", "dpm++", "prior"}
    assert never == [one for one in clips if not one.way.clip]


def test_the_ladder_is_within_the_most_and_of_more_starts_full_noise_is_kept(monkeypatch):
    whole = _of("beta", 5)
    full = [one for one in whole if one.way.t_start is None]
    starts = sum(map(len, LADDER.values()))
    assert len(full) + starts * (len(whole) - len(full)) / 2 <= MOST  # two starts are in the whole
    with few(("ddim", "unipc")):
        whole = candidates(FAMILIES["beta"], 2, STARTS)
        full = [one for one in whole if one.way.t_start is None]
        monkeypatch.setattr(home, "MOST", len(full) + 3)
        some = candidates(FAMILIES["beta"], 2, STARTS)
    assert some == whole[: len(full) + 3] and some[: len(full)] == full


@every_family
def test_each_spends_the_evaluations_that_were_asked_for(name):
    nfe, scheduler = 5, FAMILIES[name]
    model, found = as_model(CLUSTERS, scheduler), _of(name, nfe)
    plain = [one for one in found if not one.way.clip]  # pictures alone can be clipped by a threshold
    for one in plain[:: 4 if name == "beta" else 2]:
        begun = one.way.begun(scheduler, one.steps, MATCHED if one.way.within else None)
        with counted(model) as calls:
            result = draw(model, begun, PRIORS.get(one.way.prior), 2, one.steps)
        assert result.nfe == nfe == sum(calls) / 2, one.way
        assert result.samples.isfinite().all(), one.way


def test_a_start_below_the_schedule_is_put_at_its_lowest_times():
    with few(("ddim", "unipc")):
        found = candidates(FAMILIES["beta"], 5, {"mixture": [1e-6]})
    late = {one.way.t_start for one in found if one.way.t_start is not None}
    assert late and min(late) == 5


@every_family
def test_full_noise_as_people_run_it_is_the_models_own(name):
    way = usual(FAMILIES[name])
    assert way.t_start is None and way.sampler == ("ddim" if name == "beta" else "own")
    assert way.steps_for(5, FAMILIES[name]) == 5


# The divergence of N(0, (1 + s^2) I) from N(0, (1.5 + s^2) I) in D dimensions, in closed form.
DIM = 40


def _divergence(sigma):
    ratio = (1 + sigma**2) / (1.5 + sigma**2)
    return DIM / 2 * (ratio - 1 - math.log(ratio))


def _curve(low, high):
    sigma = torch.logspace(math.log10(high), math.log10(low), 200, dtype=torch.float64)
    values = torch.tensor([_divergence(float(s)) for s in sigma], dtype=torch.float64)
    nothing = torch.zeros_like(values)
    return NatsCurve(
        sigma=sigma, nats=values, error=nothing, integrand=nothing, worse=nothing.bool(), by_direction=None,
        tail=0.0, quadrature=nothing, integrals=values.expand(8, -1).clone(), nfe=0,
    )  # fmt: skip


def test_the_starts_are_where_the_divergence_reaches_the_ladder():
    found = starts_of(_curve(0.05, 60.0), "gaussian", NOISE)
    expected = [brentq(lambda s, n=n: _divergence(s) - n, 1e-6, 60) for n in LADDER["gaussian"]]
    assert found == pytest.approx(expected, rel=5e-3)
    assert found == sorted(found, reverse=True)


def test_a_prior_that_is_never_so_wrong_has_its_starts_evenly_down_to_a_tenth_of_the_times():
    assert 0.5 < _divergence(0.05) < 2.0
    found = starts_of(_curve(0.05, 60.0), "mixture", NOISE)  # 0.1, 0.5, and three rungs above all of the curve
    top, low = brentq(lambda s: _divergence(s) - 0.1, 1e-6, 60), NOISE.sigma(0.1 * NOISE.t_range[1])
    assert found[0] == pytest.approx(max(top, 8 * low), rel=5e-3)
    assert found[-1] == pytest.approx(min(low, brentq(lambda s: _divergence(s) - 0.5, 1e-6, 60)), rel=5e-3)
    ratios = [b / a for a, b in itertools.pairwise(found)]
    assert len(found) == len(LADDER["mixture"]) and ratios == pytest.approx([ratios[0]] * len(ratios))


def test_a_prior_that_is_more_wrong_at_every_level_starts_at_the_highest():
    found = starts_of(_curve(0.05, 1.0), "gaussian", NOISE)  # 0.01 and 0.1 are passed above
    assert _divergence(1.0) > 0.1
    assert found[0] == pytest.approx(1.0) and len(found) == 2


def test_a_curve_without_a_crossing_of_any_kind_has_starts_within_its_levels():
    nothing = SimpleNamespace(nats=torch.zeros(3), sigma=torch.tensor([3.0, 2.0, 1.0]), level=_never)
    found = starts_of(nothing, "gaussian", NOISE)
    assert found[0] == pytest.approx(3.0) and found[-1] == pytest.approx(1.0) and len(found) == len(LADDER["gaussian"])


def _never(budget):
    raise ValueError(f"it never reaches {budget}")
