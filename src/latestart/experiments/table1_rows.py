"""The rows of the paper's table: the best cell of each kind of start, and what a late start gains; see `table1.py`."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from latestart.evaluation.quality import Estimate
from latestart.experiments.grid import FULL, Cell
from latestart.experiments.judge import Figures, over
from latestart.experiments.published import Published, published
from latestart.experiments.table1_cells import PAPER, Entry

BEST = "best"  # of all samplers of the other parts


@dataclass(frozen=True)
class Best:
    """The best cell of several: the cell, its figures, and how many there were."""

    cell: Cell
    figures: Figures
    among: int

    @property
    def frechet(self) -> Estimate:
        """Its distance."""
        return self.figures.frechet


@dataclass(frozen=True)
class Row:
    """One sampler at one number.

    Attributes:
        part, sampler: which; the sampler `best` is the best of all solvers of all parts at equal evaluations.
        number: steps in the paper's part, else evaluations.
        nfe: network evaluations spent, at most, by one of its cells.
        best: by kind of start (`none` is full noise), of those that were measured.
        ratios: full noise over each kind of late start.
        paper_ratios: the same over trailing, unclipped full noise.
        published: the paper's figures for the same.
    """

    part: str
    sampler: str
    number: int
    nfe: int
    best: dict[str, Best]
    ratios: dict[str, Estimate]
    paper_ratios: dict[str, Estimate]
    published: Published | None

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        best = {kind: _record(best) for kind, best in self.best.items()}
        ratios = {
            name: {kind: asdict(ratio) for kind, ratio in getattr(self, name).items()}
            for name in ("ratios", "paper_ratios")
        }
        theirs = None if self.published is None else asdict(self.published) | {"ratio": self.published.ratio}
        told = {"part": self.part, "sampler": self.sampler, "number": self.number, "nfe": self.nfe}
        return {**told, "best": best, **ratios, "published": theirs}


def _record(best: Best) -> dict[str, Any]:
    cell, figures = best.cell, best.figures
    known = {name: getattr(figures, name) for name in ("frechet", "precision", "recall", "coverage", "copied")}
    where = {name: getattr(cell, name) for name in ("sampler", "nfe", "prior", "t_start", "spacing", "clip")}
    return {**where, "among": best.among, **{name: value and asdict(value) for name, value in known.items()}}


Done = tuple[Entry, Figures]


def rows(measured: list[Done], dataset: str | None = None) -> list[Row]:
    """The table.

    Args:
        measured: the cells that were, with their figures.
        dataset: whose figures in the paper stand beside; None for none.
    """
    theirs = {(row.sampler, row.steps): row for row in published(dataset)} if dataset is not None else {}
    groups: dict[tuple[str, str, int], list[Done]] = {}
    for entry, figures in measured:
        groups.setdefault((entry.part, entry.planned.cell.sampler, entry.number), []).append((entry, figures))
    found = [_row(*key, cells, _comparable(key[0], theirs.get(key[1:]))) for key, cells in groups.items()]
    return [*found, *_best_rows(measured)]


def _comparable(part: str, row: Published | None) -> Published | None:
    """The paper's figures beside its own part, and beside others where its steps are evaluations."""
    return row if row is not None and (part == PAPER or row.steps == row.nfe) else None


def _best_rows(measured: list[Done]) -> Iterator[Row]:
    equal = [(entry, figures) for entry, figures in measured if entry.part != PAPER]
    for number in sorted({entry.number for entry, _ in equal}):
        yield _row(BEST, BEST, number, [done for done in equal if done[0].number == number], None)


def _row(part: str, sampler: str, number: int, cells: list[Done], theirs: Published | None) -> Row:
    best = {kind: _best(cells, kind) for kind in dict.fromkeys(entry.kind for entry, _ in cells)}
    plain = [
        (entry, figures)
        for entry, figures in cells
        if entry.kind == FULL and entry.planned.cell.spacing in ("trailing", PAPER) and not entry.planned.cell.clip
    ]
    late = [kind for kind in best if kind != FULL]
    ratios = {kind: over(best[FULL].figures, best[kind].figures) for kind in late if FULL in best}
    against = [_best(plain, FULL).figures] if plain and part != BEST else []
    paper_ratios = {kind: over(full, best[kind].figures) for full in against for kind in late}
    nfe = max(entry.planned.cell.nfe for entry, _ in cells)
    return Row(part, sampler, number, nfe, best, ratios, paper_ratios, theirs)


def _best(cells: Iterable[Done], kind: str) -> Best:
    mine = [(entry.planned.cell, figures) for entry, figures in cells if entry.kind == kind]
    cell, figures = min(mine, key=lambda pair: pair[1].frechet.value)
    return Best(cell, figures, len(mine))
