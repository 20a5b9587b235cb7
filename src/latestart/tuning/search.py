"""The search: candidates are drawn with common noise and halved in rounds, and the finalists are drawn again.

    round 1    scouts: a few solvers from every start of every prior, and every solver from full noise
    round 2    all candidates of the starts, and of the solvers from full noise, whose scouts came nearest
    round 3, 4 the nearest of these, with more samples each

In a round all candidates have equally many samples, of the same noise in all of them, so that differences are known
better than distances. The noise comes in blocks of 8 that are spread evenly over the leading directions of the images
(`sampling/probing.py`), and the energy distance of features to those of images that no prior was fitted to leaves out
the pairs within a block: it has no bias at any number of samples. Of 253 candidates for MNIST in three evaluations, 32
samples each told the two best starts of eight in both of two draws so; of independent noise in 7 of 12.

Late starts and full noise without a prior are halved apart: the best full noise is what every other way must beat. The
nearest late start of each prior stays in every round and among the finalists: priors are further from each other than
few samples tell. On MNIST in ten evaluations, 24 samples each preferred one Gaussian to the mixture that is better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from latestart.evaluation.quality import Estimate
from latestart.tuning.candidates import Candidate
from latestart.tuning.decision import CONTRAST

__all__ = ["BLOCK", "FINALISTS", "Plan", "Standing", "TooFew", "finalists", "nearest", "plan_for", "search"]

FINALISTS = 3  # ways of ours that are drawn again, beside the best full noise
RIVALS = 3  # ways from full noise without a prior that are drawn again, one of which at least may be chosen
STARTS, FEWER, SOLVERS = 3, 2, 3  # starts, fewer of them, and solvers from full noise, that round 2 looks at in full
KEPT = ((10, 5), (5, 3))  # ours and full noise that enter rounds 3 and 4
BLOCK = 8  # samples of even noise
LEAST, MOST = 3, 32  # blocks of a candidate in round 1
ENOUGH = 4  # of them; with less, round 2 looks at fewer starts
GROWTH = (1, 1, 2, 4)  # blocks of a candidate in each round, in those of round 1
SEARCHED = 0.7  # of the budget at most; the rest is for the finalists


class TooFew(ValueError):
    """Too few samples for one round.

    Attributes:
        needed: the number that it takes.
    """

    def __init__(self, samples: int, needed: int) -> None:
        super().__init__(f"{samples} samples are too few for one round: it takes {needed}")
        self.needed = needed


@dataclass(frozen=True)
class Plan:
    """Samples of each round, and of each finalist.

    Attributes:
        rounds: samples of each candidate in rounds 1 to 4, those of earlier rounds counted.
        finals: samples of each finalist.
        starts: that round 2 looks at.
    """

    rounds: tuple[int, ...]
    finals: int
    starts: int = STARTS


@dataclass
class Standing:
    """A candidate with what the search knows of it."""

    candidate: Candidate
    round: int = 0
    samples: int = 0
    distance: Estimate | None = None
    out: str = ""


@dataclass
class _Rounds:
    standings: list[Standing]
    draw: Callable[[list[tuple[int, int]]], None]
    distance: Callable[[int, int], Estimate]
    failed: Callable[[int], str]
    plan: Plan
    now: int = field(default=0)

    def play(self, entered: Sequence[int]) -> list[int]:
        """Draw a round, and return its candidates, nearest first."""
        self.now += 1
        samples = self.plan.rounds[self.now - 1]
        self.draw([(k, samples) for k in entered])
        for k in entered:
            one = self.standings[k]
            if reason := self.failed(k):
                one.out = reason
            else:
                one.round, one.samples, one.distance = self.now, samples, self.distance(k, samples)
        return sorted((k for k in entered if not self.standings[k].out), key=self.rank)

    def rank(self, k: int) -> tuple[float, int]:
        """Return the distance of a candidate, and its place to tell equal ones apart."""
        found = self.standings[k].distance
        assert found is not None
        return found.value, k


def nearest(ranked: Sequence[int], number: int, candidates: Sequence[Candidate]) -> list[int]:
    """Return the nearest of some candidates, the first late start of each prior among them.

    Args:
        ranked: the candidates, nearest first.
        number: of those that are kept.
        candidates: all.
    """
    firsts: dict[str, int] = {}
    for k in ranked:
        if (way := candidates[k].way).t_start is not None:
            firsts.setdefault(way.prior, k)
    kept = list(dict.fromkeys([*list(firsts.values())[:number], *ranked]))[:number]
    return sorted(kept, key=list(ranked).index)


def plan_for(candidates: Sequence[Candidate], samples: int, finalists: int) -> Plan:
    """Divide a number of samples among the rounds and the finalists.

    Args:
        candidates: all.
        samples: that the budget pays for.
        finalists: sets of samples that are drawn at the end.

    Raises:
        TooFew: samples, with the number that it takes.
    """
    least = samples_of(LEAST)
    needed = most_drawn(candidates, least, FEWER) + finalists * least[-1]
    if samples < needed:
        raise TooFew(samples, needed)
    for starts, fewest in ((STARTS, ENOUGH), (FEWER, LEAST)):
        for blocks in range(MOST, fewest - 1, -1):
            rounds = samples_of(blocks)
            if (drawn := most_drawn(candidates, rounds, starts)) <= SEARCHED * samples:
                return Plan(rounds, (samples - drawn) // finalists, starts)
    return Plan(least, (samples - most_drawn(candidates, least, FEWER)) // finalists, FEWER)


def samples_of(blocks: int) -> tuple[int, ...]:
    """Return the samples of a candidate in each round, with so many blocks in the first."""
    return tuple(BLOCK * blocks * growth for growth in GROWTH)


def most_drawn(candidates: Sequence[Candidate], rounds: Sequence[int], starts: int = STARTS) -> int:
    """Return the most samples that the rounds can draw together, where round 2 looks at so many starts."""
    groups: dict[tuple[bool, str], list[Candidate]] = {}
    for one in candidates:
        groups.setdefault((one.ours, one.group), []).append(one)
    scouts = sum(one.scout for one in candidates)
    total = scouts * rounds[0]
    for ours, kept in ((True, starts), (False, SOLVERS)):
        sizes = [(len(group), sum(one.scout for one in group)) for (mine, _), group in groups.items() if mine == ours]
        costs = sorted((n * rounds[1] - known * rounds[0] for n, known in sizes), reverse=True)
        total += sum(costs[:kept])
    entered = sum(KEPT[0])
    total += min(entered, len(candidates)) * (rounds[2] - rounds[1])
    return total + min(sum(KEPT[1]), len(candidates)) * (rounds[3] - rounds[2])


def search(
    candidates: Sequence[Candidate],
    plan: Plan,
    draw: Callable[[list[tuple[int, int]]], None],
    distance: Callable[[int, int], Estimate],
    failed: Callable[[int], str] = lambda k: "",
) -> tuple[list[Standing], list[int], list[int]]:
    """Search the candidates in rounds.

    Args:
        candidates: all, with their groups and scouts.
        plan: samples of the rounds.
        draw: draws the first n samples of each of some candidates, `(k, n)`, where they are not drawn yet.
        distance: of the first n samples of candidate k to the images.
        failed: the reason why candidate k gives no samples, or nothing.

    Returns:
        What is known of every candidate; and those of round 2 and later, of the last round first, nearest first: of
        ours, and of full noise.
    """
    rounds = _Rounds([Standing(one) for one in candidates], draw, distance, failed, plan)

    def of(ours: bool, some: Sequence[int]) -> list[int]:
        return [k for k in some if candidates[k].ours == ours]

    ranked = rounds.play([k for k, one in enumerate(candidates) if one.scout])
    heads: dict[tuple[bool, str], int] = {}  # the nearest scout of each group
    for k in ranked:
        heads.setdefault((candidates[k].ours, candidates[k].group), k)
    chosen = {
        ours: {candidates[k].group for k in nearest(of(ours, list(heads.values())), kept, candidates)}
        for ours, kept in ((True, plan.starts), (False, SOLVERS))
    }
    entered = [k for k, one in enumerate(candidates) if one.group in chosen[one.ours] and not rounds.standings[k].out]
    ranked = rounds.play(entered)
    for mine, theirs in KEPT:
        ranked = rounds.play([*nearest(of(True, ranked), mine, candidates), *of(False, ranked)[:theirs]])
    earlier = [k for k in entered if k not in ranked and not rounds.standings[k].out]
    ranked += sorted(earlier, key=lambda k: (-rounds.standings[k].round, rounds.rank(k)))
    return rounds.standings, of(True, ranked), of(False, ranked)


def finalists(
    ranked: Sequence[int], number: int, candidates: Sequence[Candidate], variance: Callable[[int], float | None]
) -> list[int]:
    """Return the candidates of ours that are drawn again: the nearest, of each prior one, and one of little contrast.

    Candidates whose samples have more variance than the bar allows are left out. A final draw may put others above it
    that lie below in the search; if none has at most the variance of the images, the last gives its place to the
    nearest that has.

    Args:
        ranked: candidates, nearest first.
        number: of finalists at most.
        candidates: all.
        variance: of a candidate's samples over the images'; None where it is not known.
    """
    known = {k: 0.0 if (found := variance(k)) is None else found for k in ranked}
    allowed = [k for k in ranked if known[k] <= CONTRAST]
    kept, calm = nearest(allowed, number, candidates), [k for k in allowed if known[k] <= 1]
    return [*kept[:-1], calm[0]] if calm and not set(calm) & set(kept) else kept
