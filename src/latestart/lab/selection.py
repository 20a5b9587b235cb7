"""The rule of selection: choose by one seed, report the samples drawn again with the next.

The lowest of k distances that scatter by s about equal means is too low, by 1.6 s for k = 11 independent ones. So
a choice is sampled again with the seed after the one that it was chosen by, and only that is reported. A quality
bought by copies is no quality: where the best of a scan copies in either draw, the best of those that do not is drawn
again too, and stands beside it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from latestart.evaluation.quality import Estimate
from latestart.processes import Processes

__all__ = ["Choice", "Judged", "choose", "draw_again"]

T = TypeVar("T")


class Judged(Protocol):
    """The figures of one set of samples that decide a choice."""

    @property
    def frechet(self) -> Estimate:
        """Return the Frechet distance to the data."""

    @property
    def copies(self) -> bool:
        """Return whether more of the samples than of new images are copies, beyond chance."""


@dataclass(frozen=True)
class Choice(Generic[T]):
    """The members of a scan that are chosen.

    Attributes:
        best: the one of the lowest distance.
        clean: where `best` copies, the lowest of those that do not; None if there are none, or if `best` does not.
        honest: number of those that do not copy.
        among: number of the scan.
    """

    best: T
    clean: T | None
    honest: int
    among: int

    @property
    def chosen(self) -> tuple[T, ...]:
        """Return the best, and the clean one if there is one."""
        return (self.best,) if self.clean is None else (self.best, self.clean)


def choose(scan: Sequence[T], first: Callable[[T], Judged], again: Callable[[T], Judged | None]) -> Choice[T]:
    """Choose the lowest distance of a scan, and the lowest without copies, by the figures of two seeds.

    Args:
        scan: the candidates, not empty.
        first: figures of each with the seed to choose by.
        again: figures with the next seed; None where it was not drawn again.
    """

    def lowest(some: Sequence[T]) -> T:
        return min(some, key=lambda one: first(one).frechet.value)

    def copies(one: T) -> bool:
        later = again(one)
        return first(one).copies or (later is not None and later.copies)

    best, honest = lowest(scan), [one for one in scan if not copies(one)]
    return Choice(best, lowest(honest) if honest and copies(best) else None, len(honest), len(scan))


def draw_again(chosen: Callable[[], Iterable[T]], draw: Callable[[list[T]], None], run: Processes) -> None:
    """Draw the choice with the next seed, and choose again, until nothing new is chosen.

    A second draw may show that the best copies, which changes the choice.

    Args:
        chosen: what the figures known so far choose; called in the first process.
        draw: draws the candidates it receives, in all processes; figures are known afterwards in the first.
        run: the processes that share the work.
    """
    drawn: list[T] = []

    def fresh() -> list[T]:
        found: list[T] = []
        for one in chosen():
            if one not in drawn and one not in found:
                found.append(one)
        return found

    while more := run.firsts(fresh):
        draw(more)
        drawn += more
