"""The rows of the paper's table: the best cell of each kind of start, and what a late start gains; see `table1.py`.

What is best is chosen by one seed and measured with the next. The lowest of k distances that scatter by s about equal
means is too low, by 1.6 s for k = 11 independent ones, and the side of a ratio with more cells is too low by more; a
distance that is drawn again owes nothing to the choice. So a row holds distances of cells that were drawn again only.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from latestart.evaluation.quality import Estimate
from latestart.experiments.published import Published, published
from latestart.experiments.table1_cells import PAPER, Entry
from latestart.lab.cells import again
from latestart.lab.grid import FULL, Cell
from latestart.lab.judge import Figures, over
from latestart.lab.selection import choose

BEST = "best"  # of all samplers of the other parts
Done = tuple[Entry, Figures]
Drawn = Mapping[str, Figures]  # the figures of cells that were drawn again, by the keys of those that were chosen
Key = tuple[str, str, int]  # part, sampler and number
Left = Collection[Key]  # of rows that lack some of their full noise


@dataclass(frozen=True)
class Best:
    """The best cell of several.

    Attributes:
        cell: as it was drawn again.
        figures: of that.
        chosen: the distance that it was chosen by, lowest of several and so too low.
        among: how many there were.
    """

    cell: Cell
    figures: Figures
    chosen: Estimate
    among: int

    @property
    def frechet(self) -> Estimate:
        """Its distance, drawn again."""
        return self.figures.frechet

    @property
    def copies(self) -> bool:
        """Whether more of its samples than of new images are copies, beyond chance."""
        return self.figures.copies


@dataclass(frozen=True)
class Row:
    """One sampler at one number. All figures are of cells that were drawn again.

    Attributes:
        part, sampler: which; the sampler `best` is the best of all solvers of all parts at equal evaluations.
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

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        chosen = {
            name: {kind: _record(best) for kind, best in getattr(self, name).items()} for name in ("best", "clean")
        }
        ratios = {
            name: {kind: asdict(ratio) for kind, ratio in getattr(self, name).items()}
            for name in ("ratios", "clean_ratios", "paper_ratios")
        }
        theirs = None if self.published is None else asdict(self.published) | {"ratio": self.published.ratio}
        told = {"part": self.part, "sampler": self.sampler, "number": self.number, "nfe": self.nfe}
        return {**told, **chosen, **ratios, "published": theirs}


def _record(best: Best) -> dict[str, Any]:
    cell, figures = best.cell, best.figures
    known = {name: getattr(figures, name) for name in ("frechet", "precision", "recall", "coverage", "copied")}
    where = {name: getattr(cell, name) for name in ("sampler", "nfe", "prior", "t_start", "spacing", "clip", "seed")}
    told = {"among": best.among, "chosen_by": asdict(best.chosen)}
    return {**where, **told, **{name: value and asdict(value) for name, value in known.items()}}


@dataclass(frozen=True)
class _Group:
    """The cells that compete in a row."""

    part: str
    sampler: str
    number: int
    cells: list[Done]


@dataclass(frozen=True)
class _Chosen:
    """The cells that a row needs, with how many there were: see `Row`; `plain` is trailing, unclipped full noise."""

    best: dict[str, tuple[Done, int]]
    clean: dict[str, tuple[Done, int]]
    plain: Done | None

    def entries(self) -> Iterator[Entry]:
        """All of them."""
        yield from (done[0] for done, _ in (*self.best.values(), *self.clean.values()))
        yield from () if self.plain is None else (self.plain[0],)


def winners(measured: list[Done], drawn: Drawn, left: Left = ()) -> list[Entry]:
    """The cells that the rows need drawn again, in their order.

    Args:
        measured: the cells to choose from, with their figures.
        drawn: what was drawn again so far: a cell that copies in either of its draws copies.
        left: rows that are not to be, since a late start must not gain on less than all of full noise.
    """
    found = [entry for group in _groups(measured, left) for entry in _choose(group, drawn).entries()]
    return list({entry.planned.key: entry for entry in found}.values())


def rows(measured: list[Done], drawn: Drawn, dataset: str | None = None, left: Left = ()) -> list[Row]:
    """The table, of what was drawn again.

    Args:
        measured: the cells to choose from, with their figures.
        drawn: the figures of the `winners`.
        dataset: whose figures in the paper stand beside; None for none.
        left: as in `winners`.
    """
    theirs = {(row.sampler, row.steps): row for row in published(dataset)} if dataset is not None else {}
    found = [
        _row(group, drawn, _comparable(group.part, theirs.get((group.sampler, group.number))))
        for group in _groups(measured, left)
    ]
    return [row for row in found if row.best]


def _comparable(part: str, row: Published | None) -> Published | None:
    """The paper's figures beside its own part, and beside others where its steps are evaluations."""
    return row if row is not None and (part == PAPER or row.steps == row.nfe) else None


def _groups(measured: list[Done], left: Left) -> list[_Group]:
    groups: dict[Key, list[Done]] = {}
    for entry, figures in measured:
        groups.setdefault((entry.part, entry.planned.cell.sampler, entry.number), []).append((entry, figures))
    equal = [(entry, figures) for entry, figures in measured if entry.part != PAPER]
    for number in sorted({entry.number for entry, _ in equal}):
        groups[BEST, BEST, number] = [done for done in equal if done[0].number == number]
    wanting = {*left, *((BEST, BEST, number) for part, _, number in left if part != PAPER)}
    return [_Group(*key, cells) for key, cells in groups.items() if key not in wanting]


def _choose(group: _Group, drawn: Drawn) -> _Chosen:
    best, clean = {}, {}
    for kind in dict.fromkeys(entry.kind for entry, _ in group.cells):
        mine = [done for done in group.cells if done[0].kind == kind]
        choice = choose(mine, lambda done: done[1], lambda done: drawn.get(done[0].planned.key))
        best[kind] = (choice.best, len(mine))
        if kind != FULL and choice.clean is not None:
            clean[kind] = (choice.clean, choice.honest)
    plain = [done for done in group.cells if _is_plain(done[0])]
    return _Chosen(best, clean, plain[0] if plain and group.part != BEST else None)


def _is_plain(entry: Entry) -> bool:
    cell = entry.planned.cell
    return entry.kind == FULL and cell.spacing in ("trailing", PAPER) and not cell.clip


def _row(group: _Group, drawn: Drawn, theirs: Published | None) -> Row:
    chosen = _choose(group, drawn)
    best, clean = _drawn_again(chosen.best, drawn), _drawn_again(chosen.clean, drawn)
    full = best[FULL].figures if FULL in best else None
    plain = None if chosen.plain is None else drawn.get(chosen.plain[0].planned.key)
    ratios, clean_ratios, paper_ratios = (_ratios(full, best), _ratios(full, clean), _ratios(plain, best))
    nfe = max(entry.planned.cell.nfe for entry, _ in group.cells)
    return Row(group.part, group.sampler, group.number, nfe, best, clean, ratios, clean_ratios, paper_ratios, theirs)


def _drawn_again(chosen: dict[str, tuple[Done, int]], drawn: Drawn) -> dict[str, Best]:
    return {
        kind: Best(again(entry.planned).cell, drawn[entry.planned.key], figures.frechet, among)
        for kind, ((entry, figures), among) in chosen.items()
        if entry.planned.key in drawn
    }


def _ratios(full: Figures | None, late: dict[str, Best]) -> dict[str, Estimate]:
    known = {} if full is None else late
    return {kind: over(full, one.figures) for kind, one in known.items() if full is not None and kind != FULL}
