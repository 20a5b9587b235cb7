"""The candidates of tuning: the ways to sample that are tried, at most 300 for a number of evaluations.

From full noise every solver has the spacings, the clipping and the last times with which it is known to be at its best:
the late starts are compared with the best of these. A late start has a prior, a start and a solver. The starts of a
prior are the levels at which it is wrong by the nats of `LADDER`. One Gaussian is best started where it is next to
right, a mixture later, for it has taken the first decisions by its weights: on MNIST, CIFAR-10 and the faces the best
starts of Gaussians lay between 0.004 and 1.3 nats and those of mixtures between 0.5 and 60.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch

from latestart.noise import Noise
from latestart.sampling.families import Beta, Family, family_of
from latestart.sampling.guard import class_below
from latestart.sampling.names import OWN, PRIOR
from latestart.sampling.samplers import can_clip, class_for
from latestart.sampling.ways import GAUSSIAN, Way

__all__ = ["LADDER", "MOST", "Candidate", "candidates", "starts_of", "usual"]

MOST = 300  # candidates
LADDER = {GAUSSIAN: (0.01, 0.1, 1.0), "mixture": (0.1, 0.5, 2.0, 8.0, 32.0)}  # nats at the starts of a prior
SOLVERS = ("ddim", "ddpm", "dpm++", "sde-dpm++", "unipc", "deis", "heun", "ipndm", "euler", OWN, PRIOR)
MULTISTEP = ("dpm++", "unipc", "deis")  # whose levels can be curved, with one more
LOWEST, SPAN = 0.1, 8.0  # share of the schedule's times, and of levels above, for starts of a prior that is right there
LATE = 0.08, 0.04  # times of the last evaluation, as shares of the schedule
SCOUTS = ("ddpm", "unipc")  # of a late start of a beta-based schedule, beside the prior solver with noise


@dataclass(frozen=True)
class Candidate:
    """A way to sample that is tried.

    Attributes:
        way: how it samples.
        steps: of its sampler.
        group: those that are near to each other: of one start of one prior, or of one solver from full noise.
        scout: whether it stands for its group in the first round.
        begun: the scheduler of its runs.
    """

    way: Way
    steps: int
    group: str
    scout: bool
    begun: Any = field(default=None, compare=False, repr=False)

    @property
    def ours(self) -> bool:
        """Whether it uses a prior, at its start or inside its solver."""
        return self.way.t_start is not None or self.way.sampler == PRIOR


def candidates(
    scheduler: Any,
    nfe: int,
    starts: Mapping[str, Sequence[float]],
    inside: Any = None,
    clip: bool = True,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Candidate]:
    """Return the ways to try, each once, those from full noise first; those that cannot spend `nfe` are left out.

    Args:
        scheduler: the one that the model was trained with.
        nfe: network evaluations of a sample.
        starts: levels sigma of the late starts, by the names of priors.
        inside: the prior inside the prior solver; without one there is no such solver.
        clip: whether ways that clip the predicted image to [-1, 1] are among them.
        tell: receives a sentence about each that is left out.
    """
    family = family_of(scheduler)
    found: dict[Way, Candidate] = {}
    for way, group, scout in _proposed(family, nfe, starts, inside is not None):
        if way.clip and not clip:
            continue
        prior = inside if way.within is not None else None
        try:
            planned, steps, begun = _planned(way, nfe, scheduler, prior)
        except (ValueError, IndexError, ZeroDivisionError, ImportError) as error:  # some classes cannot set few steps
            tell(f"{way.describe()}: {next(iter(str(error).splitlines()), type(error).__name__)}")
            continue
        found.setdefault(planned, Candidate(planned, steps, group, scout, begun))
    return list(found.values())[:MOST]


def _planned(way: Way, nfe: int, scheduler: Any, inside: Any) -> tuple[Way, int, Any]:
    """Return a way from the nearest start that its steps have, these steps, and its scheduler.

    Raises:
        ValueError: no number of steps costs `nfe` evaluations, or the sampler cannot do this.
    """
    steps = nfe
    for _ in range(2):
        mine = way
        if way.t_start is not None and way.last is None:
            family = family_of(scheduler)
            mine = replace(way, t_start=float(family.start_for(family.noise.sigma(way.t_start), steps)))
        begun = mine.begun(scheduler, steps, inside)
        if way.t_start is None and way.last is None:
            begun.set_timesteps(steps)
        if len(begun.timesteps) == nfe:
            return mine, steps, begun
        steps = way.steps_for(nfe, scheduler, inside)
    raise ValueError(f"{way.sampler} spends {len(begun.timesteps)} evaluations in {steps} steps")


def usual(scheduler: Any) -> Way:
    """Return full noise as people run it: DDIM with the default spacing of its class; else the model's own sampler."""
    if isinstance(family_of(scheduler), Beta):
        return Way(sampler="ddim", spacing="leading")
    return Way(sampler=OWN)


def starts_of(curve: Any, name: str, noise: Noise) -> list[float]:
    """Return the levels sigma at which a prior is wrong by the nats of the ladder, highest first.

    A prior that is not wrong by all of these has as many starts, evenly in log sigma, from the highest level that the
    ladder gives down to that at a tenth of the schedule's times.

    Args:
        curve: its `NatsCurve`.
        name: of the prior, `gaussian` or else a mixture's.
        noise: the process of the scheduler.
    """
    budgets = LADDER[GAUSSIAN if name == GAUSSIAN else "mixture"]
    levels = []
    for budget in budgets:
        if float(curve.nats.max()) >= budget:
            try:
                levels.append(curve.level(budget).sigma)
            except ValueError:  # it is more wrong at every level
                levels.append(float(curve.sigma[0]))
    if len(levels) < len(budgets):
        first, last = noise.t_range
        low = max(min(noise.sigma(first + LOWEST * (last - first)), *levels, 1e300), float(curve.sigma[-1]))
        high = min(max(SPAN * low, *levels, 0.0), float(curve.sigma[0]))
        shares = torch.linspace(0, 1, len(budgets), dtype=torch.float64).tolist() if len(budgets) > 1 else [1.0]
        levels = [high * (low / high) ** share for share in shares]
    return list(dict.fromkeys(levels))


Proposed = tuple[Way, str, bool]  # a way, its group, and whether it is a scout


def _proposed(family: Family, nfe: int, starts: Mapping[str, Sequence[float]], solver: bool) -> Iterator[Proposed]:
    names = [name for name in SOLVERS if name in family.samplers or (name == PRIOR and solver) or name == _own(family)]
    lowest = float(max(nfe, 2)) if isinstance(family, Beta) else -math.inf  # a step takes a time of the schedule
    yield from _full(family, names)
    for prior, levels in starts.items():
        for sigma in levels:
            yield from _late(family, names, prior, max(float(family.noise.clamped_time(sigma)), lowest))


def _own(family: Family) -> str:
    """The name of the model's own sampler, where no short name stands for its class."""
    known = isinstance(family, Beta) or class_below(family.scheduler).__name__ in family.samplers.values()
    return "" if known else OWN


def _full(family: Family, names: Sequence[str]) -> Iterator[Proposed]:
    """Ways from full noise."""
    beta = isinstance(family, Beta)

    def way(name: str, **how: Any) -> Way:
        return Way(sampler=name, inside=_inside(name), **how)

    for name, spacing in product(names, ("trailing", "leading") if beta else ("trailing",)):
        for clipped in _clips(family, name):
            yield way(name, spacing=spacing, clip=clipped), f"full {name}", not clipped
            if name == "ddim" and beta:
                yield way(name, spacing=spacing, clip=clipped, eta=0.5), f"full {name}", False
    if not beta:
        return
    for name, spacing in product([name for name in (*MULTISTEP, PRIOR) if name in names], ("karras+1", "log-snr+1")):
        yield way(name, spacing=spacing), f"full {name}", False
    for name, share in product([name for name in ("ddim", "dpm++", "unipc", PRIOR) if name in names], LATE):
        yield way(name, last=round(share * family.top)), f"full {name}", False


def _late(family: Family, names: Sequence[str], prior: str, t_start: float) -> Iterator[Proposed]:
    """Ways from one start of one prior."""
    beta, group, solver = isinstance(family, Beta), f"{prior} at {t_start:.6g}", PRIOR in names

    def way(name: str, scout: bool = False, **how: Any) -> Proposed:
        start = Way(sampler=name, prior=prior, t_start=t_start, inside=_inside(name), **how)
        return start, group, scout

    for name in names:
        yield way(name, scout=name in SCOUTS or not beta)
    if solver:
        yield way(PRIOR, scout=True, order=1, eta=1.0)
    if not beta:
        return
    yield way("ddim", eta=0.5)
    high, low = (round(share * family.top) for share in LATE)
    for name in ("ddim", "ddpm", "dpm++", "unipc", PRIOR):
        if name in names:
            yield way(name, last=high)
    for name in ("dpm++", "unipc", PRIOR):
        if name in names:
            yield way(name, last=low)
    for spacing in ("karras+1", "log-snr+1"):
        yield way("unipc", spacing=spacing)
        if solver:
            yield way(PRIOR, spacing=spacing, order=1)
    if solver:
        for eta in (None, 1.0):
            yield way(PRIOR, order=1, eta=eta, last=high)
        yield way(PRIOR, clip=True)
    yield way("ddpm", clip=True)


def _clips(family: Family, name: str) -> tuple[bool, ...]:
    return (False, True) if can_clip(class_for(name, family)) else (False,)


def _inside(sampler: str) -> str | None:
    return GAUSSIAN if sampler == PRIOR else None
