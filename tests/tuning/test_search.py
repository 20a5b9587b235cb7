"""The search of tuning on made-up distances: what is drawn, what is kept, and the best among it."""

import pytest
import torch

from latestart.evaluation.quality import Estimate
from latestart.sampling.ways import Way
from latestart.tuning.candidates import Candidate
from latestart.tuning.search import (
    BLOCK,
    GROWTH,
    KEPT,
    LEAST,
    MOST,
    Plan,
    finalists,
    most_drawn,
    nearest,
    plan_for,
    samples_of,
    search,
)

PLAN = Plan(samples_of(LEAST), 100)


def made(starts=8, solvers=8, late=16, full=8):
    """Candidates of late starts and of solvers from full noise; the first few of a group are its scouts."""
    found = []
    for k in range(solvers):
        for j in range(full):
            found.append(Candidate(Way(sampler="ddim", last=100 * k + j), 5, f"full {k}", j < 2))
    for k in range(starts):
        for j in range(late):
            way = Way(sampler="ddim", prior="mixture", t_start=10 + 10 * k, last=j)
            found.append(Candidate(way, 5, f"mixture at {k}", j < 3))
    return found


class Table:
    """True distances, seen through noise that all candidates share and noise of their own, both less with samples."""

    def __init__(self, candidates, seed, own=0.02, common=0.3):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        groups = sorted({one.group for one in candidates})
        level = dict(zip(groups, normal(len(groups)).exp().tolist()))  # starts differ more than ways from one of them
        within = (0.2 * normal(len(candidates))).exp()
        self.true = [level[one.group] * float(within[k]) for k, one in enumerate(candidates)]
        self.noise, self.common = own * normal(len(candidates), 4000), common * normal(4000)
        self.drawn, self.rounds, self.broken = {}, [], {}

    def draw(self, jobs):
        self.rounds.append(dict(jobs))
        for k, n in jobs:
            self.drawn[k] = max(self.drawn.get(k, 0), n)

    def distance(self, k, n):
        assert self.drawn[k] >= n and k not in self.broken
        value = self.true[k] + float(self.common[:n].mean() + self.noise[k, :n].mean())
        return Estimate(value, value, value)

    def failed(self, k):
        return self.broken.get(k, "") if k in self.drawn else ""

    def searched(self, candidates, plan=PLAN):
        return search(candidates, plan, self.draw, self.distance, self.failed)


def _best(table, candidates, ours):
    return min((k for k, one in enumerate(candidates) if one.ours == ours), key=lambda k: table.true[k])


def test_halving_keeps_the_best_of_late_starts_and_of_full_noise():
    candidates = made()
    near = []
    for seed in range(20):
        table = Table(candidates, seed)
        _, *kept = table.searched(candidates)
        for ours, some in zip((True, False), kept):
            assert [candidates[k].ours for k in some] == [ours] * len(some)
            near.append(table.true[some[0]] / table.true[_best(table, candidates, ours)])
    assert sum(ratio == 1 for ratio in near) >= 30  # of 40; the best may lie in a group whose scouts are poor
    assert sum(ratio < 1.1 for ratio in near) >= 36 and max(near) < 1.5


def test_without_noise_the_order_of_the_last_round_is_the_true_one():
    candidates = made()
    table = Table(candidates, 3, own=0, common=0)
    standings, mine, theirs = table.searched(candidates)
    for some, size in ((mine, KEPT[1][0]), (theirs, KEPT[1][1])):
        assert [standings[k].round for k in some[:size]] == [4] * size
        assert some == sorted(some, key=lambda k: (-standings[k].round, table.true[k]))
        assert all(2 <= standings[k].round < 4 for k in some[size:]) and len(set(some)) == len(some) > size
    for k, one in enumerate(standings):
        assert one.candidate is candidates[k] and one.samples == table.drawn.get(k, 0)
        known = None if one.distance is None else one.distance.value
        assert known == (pytest.approx(table.true[k]) if k in table.drawn else None)


def test_in_a_round_all_have_equally_many_samples_and_the_first_has_every_scout():
    candidates = made()
    table = Table(candidates, 0)
    standings, *_ = table.searched(candidates)
    assert [set(jobs.values()) for jobs in table.rounds] == [{n} for n in PLAN.rounds]
    assert set(table.rounds[0]) == {k for k, one in enumerate(candidates) if one.scout}
    sizes = [len(jobs) for jobs in table.rounds]
    assert sizes[2:] == [sum(KEPT[0]), sum(KEPT[1])] and sizes[2] < sizes[1]
    assert [max(one.round for one in standings), min(one.round for one in standings)] == [4, 0]


@pytest.mark.parametrize(
    "shape", [{}, {"starts": 1, "solvers": 1}, {"starts": 0}, {"solvers": 0}, {"late": 40}], ids=str
)
def test_no_more_is_drawn_than_planned(shape):
    candidates = made(**shape)
    for seed in range(5):
        table = Table(candidates, seed)
        table.searched(candidates)
        assert sum(table.drawn.values()) <= most_drawn(candidates, PLAN.rounds)


@pytest.mark.parametrize("samples", [7000, 9000, 20_000, 60_000, 10**6])
def test_the_plan_is_within_the_samples_and_leaves_finalists_their_part(samples):
    candidates = made()
    plan = plan_for(candidates, samples, 6)
    spent = most_drawn(candidates, plan.rounds, plan.starts)
    assert spent + 6 * plan.finals <= samples < spent + 6 * (plan.finals + 1)
    assert all(n % BLOCK == 0 for n in plan.rounds)
    assert [n / plan.rounds[0] for n in plan.rounds] == list(GROWTH)
    assert LEAST <= plan.rounds[0] / BLOCK <= MOST
    assert plan.finals >= plan.rounds[-1]


def test_a_plan_that_is_too_small_is_refused_with_the_samples_that_it_takes():
    candidates = made()
    with pytest.raises(ValueError, match=r"100 samples are too few for one round: it takes (\d+)") as told:
        plan_for(candidates, 100, 6)
    needed = int(str(told.value).rsplit(" ", 1)[-1])
    assert plan_for(candidates, needed, 6).finals >= samples_of(LEAST)[-1]
    with pytest.raises(ValueError, match="too few"):
        plan_for(candidates, needed - 1, 6)


def test_what_fails_is_left_out_with_its_reason_and_never_drawn_again():
    candidates = made()
    table = Table(candidates, 0, own=0, common=0)
    best = _best(table, candidates, True)
    scout = next(k for k, one in enumerate(candidates) if one.scout and one.ours)
    table.broken = {best: "NaN after the first step", scout: "it cannot be set"}
    standings, mine, _ = table.searched(candidates)
    assert standings[scout].out == "it cannot be set" and standings[scout].distance is None
    assert scout in table.rounds[0] and not any(scout in jobs for jobs in table.rounds[1:])
    assert best not in mine and len(mine) > KEPT[1][0]
    assert sum(best in jobs for jobs in table.rounds) <= 1
    assert standings[best].out == ("NaN after the first step" if best in table.drawn else "")


def test_where_all_fail_nothing_is_kept():
    candidates = made(starts=1, solvers=1)
    table = Table(candidates, 0)
    table.broken = dict.fromkeys(range(len(candidates)), "no")
    standings, mine, theirs = table.searched(candidates)
    assert mine == theirs == [] and all(one.out == "no" for one in standings if one.candidate.scout)


def test_the_nearest_late_start_of_each_prior_is_kept():
    def late(prior):
        return Candidate(Way(sampler="ddim", prior=prior, t_start=300.0), 3, prior, True)

    some = [*(late("gaussian") for _ in range(4)), late("mixture"), Candidate(Way(sampler="prior"), 3, "full", True)]
    assert nearest([0, 1, 2, 3, 4, 5], 3, some) == [0, 1, 4]
    assert nearest([5, 4, 0, 1], 2, some) == [4, 0]
    assert nearest([5, 4, 0, 1], 3, some) == [5, 4, 0]
    assert nearest([0, 4, 5], 1, some) == [0]


def test_one_finalist_has_at_most_the_variance_of_the_images():
    some = [Candidate(Way(sampler="ddim", prior="mixture", t_start=300.0), 3, "mixture", True)] * 6
    variances = [1.06, 1.04, None, 1.03, 0.97, 0.9]
    assert finalists([0, 1, 3, 4, 5], 2, some, variances.__getitem__) == [1, 4]
    assert finalists([0, 1, 4, 3], 2, some, variances.__getitem__) == [1, 4]
    assert finalists([0, 1, 2, 3], 2, some, variances.__getitem__) == [1, 2]  # not known is no doubt
    assert finalists([1, 3], 2, some, variances.__getitem__) == [1, 3]
    assert finalists([0], 2, some, variances.__getitem__) == []
