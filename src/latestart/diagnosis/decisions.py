"""The critical levels that `check` asks for: those of the images as a point cloud, and the nats of the network."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace

from latestart.diagnosis.case import CLOUD, DATA, NETWORK, Case
from latestart.diagnosis.criteria import look
from latestart.theory.levels import CriticalLevel

__all__ = ["CHECKED", "Decisions", "by_noise", "decisions"]

CHECKED = {  # by the name in a report: the criterion, and its subject
    "nats": ("1 nats", NETWORK),
    "speciation": ("speciation", DATA),
    "density": ("density", CLOUD),
    "sde": ("sde", CLOUD),
    "sde, second branch": ("sde, second branch", CLOUD),
    "uturn": ("uturn", CLOUD),
}


@dataclass(frozen=True)
class Decisions:
    """The critical levels of a data set.

    Attributes:
        levels: those found, in the order of `CHECKED`, with their times.
        missing: for every criterion that gave no level, the reason.
        collapse: of the cloud, below which it says nothing; None where it has none.
    """

    levels: tuple[CriticalLevel, ...]
    missing: dict[str, str]
    collapse: CriticalLevel | None


def by_noise(levels: Iterable[CriticalLevel]) -> list[CriticalLevel]:
    """Return levels by falling noise."""
    return sorted(levels, key=lambda level: -level.sigma)


def decisions(
    case: Case, asked: Collection[str] = tuple(CHECKED), told: Callable[[str], None] = lambda what: None
) -> Decisions:
    """Look for the level of each criterion.

    Args:
        case: with the network's divergence in `nats`. A level outside of its noise process counts as missing.
        asked: names of `CHECKED`.
        told: called with each criterion when it is done.
    """
    missing, levels = {name: "not asked for" for name in CHECKED if name not in asked}, []
    collapse = look(case, "collapse", DATA)
    if collapse.level is None:
        missing["collapse"] = collapse.how
    for name, (criterion, of) in CHECKED.items():
        if name in asked:
            found = look(case, criterion, of)
            if found.level is None:
                missing[name] = found.how
            else:
                kind = f"{name}, peak" if found.kind == "peak" else name
                levels.append(replace(found.level, criterion=kind))
        told(name)
    return Decisions(tuple(levels), missing, collapse.level)
