"""The rows of the paper's table: the best cell of each kind of start, and what a late start gains.

The best is chosen by one seed and drawn again with the next, by the rule of `lab/selection.py`. The side of a ratio
with more cells to choose from would be too low by more; a distance that is drawn again owes nothing to the choice. So a
row holds distances of cells that were drawn again only.
"""

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from latestart.evaluation.quality import Estimate
from latestart.experiments.table1.entries import Entry, Key
from latestart.experiments.table1.published import Published, published
from latestart.experiments.table1.settings import PAPER, PARTS
from latestart.lab.cells import Planned, again
from latestart.lab.grid import FULL, OPTIONS, Cell
from latestart.lab.judge import Figures, over
from latestart.lab.selection import Choice, choose
from latestart.records import Record

__all__ = ["BEST", "Best", "Done", "Drawn", "Left", "Row", "rows", "winners"]

BEST = "best"  # of all samplers of the other parts
Done = tuple[Entry, Figures]
Drawn = Mapping[str, Figures]  # the figures of cells that were drawn again, by the keys of those that were chosen
Left = Collection[Key]  # of rows that lack some of their full noise


@dataclass(frozen=True)
class Best:
    """The best cell of several.

    Attributes:
        cell: as it was drawn again.
        figures: of that.
        chosen: the distance that it was chosen by, lowest of several and so too low.
        among: number of cells that it was chosen from.
    """

    cell: Cell
    figures: Figures
    chosen: Estimate
    among: int

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        names = ("sampler", "nfe", "prior", "t_start", "spacing", "clip", "seed")
        where = {name: getattr(self.cell, name) for name in names} | {
            k: v for k, v in self.cell.way.items() if k in OPTIONS
        }
        return {**where, "among": self.among, "chosen_by": asdict(self.chosen), **self.figures.estimates()}


@dataclass(frozen=True, kw_only=True, repr=False)
class Row(Record):
    """One sampler at one number. All figures are of cells that were drawn again.

    Attributes:
        part, sampler: its part and sampler; the sampler `best` is the best of all solvers of all parts at equal
            evaluations.
        number: steps in the paper's part, else evaluations.
        nfe: network evaluations spent, at most, by one of its cells.
        best: by kind of start (`none` is full noise), of those that were measured.
        clean: by kind of late start, where the best copies: the best of those that do not, if there are any.
        ratios: full noise over each kind of late start.
        clean_ratios: full noise over `clean`.
        paper_ratios: trailing, unclipped full noise over each kind of late start.
        published: the paper's figures for the same.
    """

    part: str
    sampler: str
    number: int
    nfe: int
    best: dict[str, Best]
    clean: dict[str, Best]
    ratios: dict[str, Estimate]
    clean_ratios: dict[str, Estimate]
    paper_ratios: dict[str, Estimate]
    published: Published | None

    @property
    def choices(self) -> tuple[tuple[dict[str, Best], dict[str, Estimate]], ...]:
        """The best by kind of start, and those without copies where the best copies, each with their ratios."""
        return (self.best, self.ratios), (self.clean, self.clean_ratios)


def winners(measured: list[Done], drawn: Drawn, left: Left = ()) -> list[Planned]:
    """Return the cells that the rows need drawn again, in their order, as they were planned to choose from.

    Args:
        measured: the cells to choose from, with their figures.
        drawn: what was drawn again so far: a cell that copies in either of its draws copies.
        left: rows to leave out, since a late start must not gain on less than all of full noise.
    """
    found: dict[str, Planned] = {}
    for key, cells in _groups(measured, left).items():
        chosen = [entry.planned for choice in _choices(cells, drawn).values() for entry, _ in choice.chosen]
        found |= {one.key: one for one in (*chosen, *_plain(key, cells))}
    return list(found.values())


def rows(measured: list[Done], drawn: Drawn, dataset: str | None = None, left: Left = ()) -> list[Row]:
    """Return the rows of the table, from the cells that were drawn again.

    Args:
        measured: the cells to choose from, with their figures.
        drawn: the figures of the `winners`.
        dataset: whose figures in the paper stand beside its own part, and beside others where its steps are
            evaluations; None for none.
        left: as in `winners`.
    """
    theirs = [] if dataset is None else published(dataset)
    beside = {(part, r.sampler, r.steps): r for r in theirs for part in PARTS if part == PAPER or r.steps == r.nfe}
    found = (_row(key, cells, drawn, beside.get(key)) for key, cells in _groups(measured, left).items())
    return [row for row in found if row.best]


def _groups(measured: list[Done], left: Left) -> dict[Key, list[Done]]:
    """The cells that compete in each row."""
    groups: dict[Key, list[Done]] = {}
    for done in measured:
        groups.setdefault(done[0].row, []).append(done)
    equal = [done for done in measured if done[0].part != PAPER]
    for number in sorted({entry.number for entry, _ in equal}):
        groups[BEST, BEST, number] = [done for done in equal if done[0].number == number]
    wanting = {*left, *((BEST, BEST, number) for part, _, number in left if part != PAPER)}
    return {key: cells for key, cells in groups.items() if key not in wanting}


def _choices(cells: list[Done], drawn: Drawn) -> dict[str, Choice[Done]]:
    """The choice of each kind of start; of full noise the best stays, whether it copies or not."""
    found = {}
    for kind in dict.fromkeys(entry.kind for entry, _ in cells):
        mine = [done for done in cells if done[0].kind == kind]
        choice = choose(mine, lambda done: done[1], lambda done: drawn.get(done[0].planned.key))
        found[kind] = replace(choice, clean=None) if kind == FULL else choice
    return found


def _plain(key: Key, cells: list[Done]) -> list[Planned]:
    """Trailing, unclipped full noise, as the paper has it, if it was measured; none of the best of all."""
    full = [entry.planned for entry, _ in cells if entry.kind == FULL and key[0] != BEST]
    return [one for one in full if one.cell.spacing in ("trailing", PAPER) and not one.cell.clip][:1]


def _row(key: Key, cells: list[Done], drawn: Drawn, theirs: Published | None) -> Row:
    part, sampler, number = key
    choices = _choices(cells, drawn)
    best = _drawn_again({kind: (one.best, one.among) for kind, one in choices.items()}, drawn)
    clean = _drawn_again({kind: (one.clean, one.honest) for kind, one in choices.items()}, drawn)
    full = best[FULL].figures if FULL in best else None
    plain = next((drawn.get(one.key) for one in _plain(key, cells)), None)
    return Row(
        part=part, sampler=sampler, number=number, nfe=max(entry.planned.cell.nfe for entry, _ in cells),
        best=best, clean=clean, ratios=_ratios(full, best), clean_ratios=_ratios(full, clean),
        paper_ratios=_ratios(plain, best), published=theirs,
    )  # fmt: skip


def _drawn_again(chosen: Mapping[str, tuple[Done | None, int]], drawn: Drawn) -> dict[str, Best]:
    return {
        kind: Best(again(done[0].planned).cell, drawn[done[0].planned.key], done[1].frechet, among)
        for kind, (done, among) in chosen.items()
        if done is not None and done[0].planned.key in drawn
    }


def _ratios(full: Figures | None, late: dict[str, Best]) -> dict[str, Estimate]:
    return {} if full is None else {kind: over(full, one.figures) for kind, one in late.items() if kind != FULL}
