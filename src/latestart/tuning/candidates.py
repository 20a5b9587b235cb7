"""The candidates of tuning: the ways to sample that are tried, at most 300 for a number of evaluations.

From full noise every solver has the spacings, the clipping and the last times with which it is known to be at its best:
the late starts are compared with the best of these. A late start has a prior, a start and a solver. The starts of a
prior are the levels at which it is wrong by the nats of `LADDER`. One Gaussian is best started where it is next to
right, a mixture later, for it has taken the first decisions by its weights: on MNIST, CIFAR-10 and the faces the best
starts of Gaussians lay between 0.004 and 1.3 nats and those of mixtures between 0.5 and 60.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from latestart.sampling.families import Beta, Family, family_of
from latestart.sampling.names import OWN, PRIOR
from latestart.sampling.samplers import can_clip
from latestart.sampling.ways import GAUSSIAN, Way

__all__ = ["LADDER", "MOST", "MOST_NATS", "candidates", "starts_of"]

MOST = 300  # candidates
LADDER = {GAUSSIAN: (0.01, 0.1, 1.0), "mixture": (0.1, 0.5, 2.0, 8.0, 32.0)}  # nats at the starts of a prior
MOST_NATS = 32.0
SOLVERS = ("ddim", "ddpm", "dpm++", "sde-dpm++", "unipc", "deis", "heun", "ipndm", "euler", OWN, PRIOR)
MULTISTEP = ("dpm++", "unipc", "deis")  # whose levels can be curved, with one more
LATE = 0.08, 0.04  # times of the last evaluation, as shares of the schedule


def candidates(scheduler: Any, starts: Mapping[str, Sequence[float]], clip: bool = True) -> list[Way]:
    """Return the ways to try, each once, those from full noise first.

    Args:
        scheduler: the one that the model was trained with.
        starts: levels sigma of the late starts, by the names of priors. Without the `gaussian` there is no prior
            solver from full noise.
        clip: whether ways that clip the predicted image to [-1, 1] are among them.
    """
    family = family_of(scheduler)
    solvers = [name for name in SOLVERS if name == PRIOR or name in family.samplers or name == _own(family)]
    found = [*_full(family, solvers, GAUSSIAN in starts)]
    for name, levels in starts.items():
        for sigma in levels:
            found += _late(family, solvers, name, sigma)
    kept = [way for way in dict.fromkeys(found) if clip or not way.clip]
    return kept[:MOST]


def starts_of(curve: Any, name: str) -> list[float]:
    """Return the levels sigma at which a prior is wrong by the nats of the ladder, highest first.

    Args:
        curve: its `NatsCurve`.
        name: of the prior, `gaussian` or else a mixture's.
    """
    levels = []
    for budget in LADDER[GAUSSIAN if name == GAUSSIAN else "mixture"]:
        try:
            levels.append(curve.level(budget).sigma)
        except ValueError:  # it never is so wrong, or more so at every level
            end = -1 if float(curve.nats.max()) < budget else 0
            levels.append(float(curve.sigma[end]))
    return list(dict.fromkeys(levels))


def _own(family: Family) -> str:
    """The name of the model's own sampler, where no short name stands for its class."""
    return "" if isinstance(family, Beta) else OWN


def _full(family: Family, solvers: Sequence[str], solver: bool) -> Iterator[Way]:
    """Ways from full noise."""
    beta = isinstance(family, Beta)
    spacings = ("trailing", "leading") if beta else ("trailing",)
    for name, spacing in product(solvers, spacings):
        if name == PRIOR and not solver:
            continue
        yield from _clipped(Way(sampler=name, spacing=spacing, inside=_inside(name)))
        if name == "ddim" and beta:
            yield from _clipped(Way(sampler=name, spacing=spacing, eta=0.5))
    if not beta:
        return
    curved = [name for name in (*MULTISTEP, PRIOR) if name in solvers and (solver or name != PRIOR)]
    for name, spacing in product(curved, ("karras+1", "log-snr+1")):
        yield Way(sampler=name, spacing=spacing, inside=_inside(name))
    for name, share in product(("ddim", "dpm++", "unipc", PRIOR), LATE):
        if name in solvers and (solver or name != PRIOR):
            yield Way(sampler=name, last=_time(family, share), inside=_inside(name))


def _late(family: Family, solvers: Sequence[str], prior: str, sigma: float) -> Iterator[Way]:
    """Ways from one start of one prior; `t_start` still is the level sigma's time, and not cut to a number of steps."""
    beta = isinstance(family, Beta)

    def way(sampler: str, **how: Any) -> Way:
        return Way(
            sampler=sampler, prior=prior, t_start=family.noise.clamped_time(sigma), inside=_inside(sampler), **how
        )

    for name in solvers:
        yield way(name)
    yield way(PRIOR, order=1, eta=1.0)
    if not beta:
        return
    yield way("ddim", eta=0.5)
    high, low = (_time(family, share) for share in LATE)
    for name in ("ddim", "ddpm", "dpm++", "unipc", PRIOR):
        yield way(name, last=high)
    for eta in (None, 1.0):
        yield way(PRIOR, order=1, eta=eta, last=high)
    for name in ("dpm++", "unipc", PRIOR):
        yield way(name, last=low)
    for name, spacing in product(("unipc", PRIOR), ("karras+1", "log-snr+1")):
        yield replace(way(name, spacing=spacing), order=1 if name == PRIOR else None)
    for name in ("ddpm", PRIOR):
        yield way(name, clip=True)


def _clipped(way: Way) -> Iterator[Way]:
    yield way
    if can_clip(way.sampler) if way.sampler != OWN else False:
        yield replace(way, clip=True)


def _inside(sampler: str) -> str | None:
    return GAUSSIAN if sampler == PRIOR else None


def _time(family: Family, share: float) -> int:
    return round(share * family.top)
