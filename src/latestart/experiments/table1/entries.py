"""The cells of the paper's table.

Clipping of the predicted image to [-1, 1] is offered, from full noise and from late starts alike, to every sampler
whose class knows it: DDPM, DDIM and Heun by `clip_sample`, DPM++, UniPC and DEIS by `thresholding` at no more than 1,
which is the same. PNDM, LMS and iPNDM know neither. On the paper's grid nothing is clipped.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from latestart.experiments.table1 import paper_pndm
from latestart.experiments.table1.settings import GAUSSIAN, PAPER, Table1Settings
from latestart.lab.cells import Meter, Outcome, Planned, classes_in_turn, drawn, first_line, measured, plan
from latestart.lab.grid import FULL, Cell
from latestart.lab.subjects import Subject
from latestart.sampling.loop import Result
from latestart.sampling.names import CURVED, PRIOR, SPENT, TIMES
from latestart.sampling.samplers import can_clip

__all__ = ["Entry", "Key", "choosable", "entries", "sample"]

SPACINGS = {PAPER: (PAPER,), "exact": ("trailing", "leading"), "solvers": ("trailing", "leading", *CURVED, *SPENT)}
LATE = (PAPER, "trailing", *SPENT)  # spacings of late starts
Key = tuple[str, str, int]  # of a row: part, sampler and number


@dataclass(frozen=True)
class Entry:
    """A cell of the table: its part, the number in whose row it stands, its kind of start, and the planned cell."""

    part: str
    number: int
    kind: str
    planned: Planned

    @property
    def row(self) -> Key:
        """The row in which it competes."""
        cell = self.planned.cell
        return self.part, cell.sampler + cell.own_options(), self.number


def entries(settings: Table1Settings, subject: Subject) -> list[Entry]:
    """Return every cell of the table, in the order in which they are measured."""
    found = [entry for part in settings.parts for entry in _entries(part, settings, subject)]
    return list({(entry.planned.key, entry.part): entry for entry in found}.values())


def _entries(part: str, settings: Table1Settings, subject: Subject) -> Iterator[Entry]:
    """The cells of a part: from full noise and from every late start, unclipped and clipped."""
    top, kinds = subject.scheduler.config["num_train_timesteps"], (GAUSSIAN,) if part == PAPER else settings.starts
    late = [spacing for spacing in SPACINGS[part] if spacing in LATE]
    ways: list[tuple[str, float | None, str]] = [(FULL, None, spacing) for spacing in SPACINGS[part]]
    ways += [(kind, t, spacing) for kind in kinds for t in settings.times(part, kind, top) for spacing in late]
    for sampler, number in product(settings.solvers if part == "solvers" else settings.samplers, settings.nfe):
        clips = settings.clip if part != PAPER and can_clip(sampler) else (False,)
        for (kind, t_start, spacing), clip in product(ways, clips):
            how = {"prior": settings.prior(kind), "t_start": t_start, "spacing": spacing, "clip": clip}
            for own in _own(sampler, part, spacing, settings):
                cell = Cell.of(settings, sampler=sampler, nfe=number, **how, **own)
                yield Entry(part, number, kind, (_on_papers_grid if part == PAPER else _affordable)(cell, subject))


def _own(sampler: str, part: str, spacing: str, settings: Table1Settings) -> Iterator[dict[str, Any]]:
    """The last times of a cell in the part `solvers`, and the options of the prior solver."""
    lasts = (None, *settings.last) if part == "solvers" and spacing == TIMES[0] else (None,)
    if sampler != PRIOR:
        yield from ({"last": last} for last in lasts)
        return
    for last, inside, eta, order in product(lasts, settings.insides, settings.eta, settings.order):
        yield {"last": last, "inside": inside, "eta": eta or None, "order": None if order == 2 else order}


def _on_papers_grid(cell: Cell, subject: Subject) -> Planned:
    """Plan a cell of so many steps on the paper's grid, which no scheduler can set."""
    steps, first = cell.nfe, cell.t_start or subject.scheduler.config["num_train_timesteps"] - 1
    (planned,) = plan([replace(cell, nfe=paper_pndm.evaluations(cell.sampler, steps))], {cell.model: subject})
    configuration = planned.configuration | {"steps": steps}
    try:
        paper_pndm.paper_grid(int(first), steps)
    except ValueError as error:
        return replace(planned, configuration=configuration, steps=None, reason=first_line(error))
    return replace(planned, configuration=configuration, steps=steps, reason="")


def _affordable(cell: Cell, subject: Subject) -> Planned:
    """Plan a cell, with one evaluation less where its sampler cannot spend the number asked for."""
    (planned,) = plan([cell], {cell.model: subject})
    if planned.steps is not None or cell.nfe == 1:
        return planned
    (less,) = plan([replace(cell, nfe=cell.nfe - 1)], {cell.model: subject})
    return planned if less.steps is None else less


def sample(subject: Subject, planned: Planned, batch_size: int, meter: Meter) -> Outcome:
    """Sample a cell, on the paper's grid or as every sweep does, and take its figures."""
    way = _drawn_on_papers_grid if planned.cell.spacing == PAPER else drawn
    return measured(subject, planned, batch_size, meter, way)


def _drawn_on_papers_grid(model: Any, subject: Subject, planned: Planned, n: int, batch_size: int) -> Result:
    cell, steps = planned.cell, planned.steps
    assert steps is not None
    return paper_pndm.draw(
        model, subject.scheduler, cell.sampler, subject.priors[cell.prior][0], n, steps, cell.t_start, cell.seed,
        classes_in_turn(model, n), batch_size,
    )  # fmt: skip


def choosable(found: Iterable[Entry], budget: int) -> int:
    """Return the cost of the first cells to choose from whose best can be drawn again within the same budget.

    Args:
        found: the cells, in order.
        budget: network evaluations.
    """
    spent = kept = 0
    seen: set[str] = set()
    reserved: Counter[tuple[Key, str]] = Counter()
    for entry in found:
        cell, row = entry.planned.cell, (entry.row, entry.kind)
        if entry.planned.steps is None:
            continue
        cost = 0 if entry.planned.key in seen else cell.cost
        again = 2 if entry.kind == FULL else 1  # the best, and of full noise the trailing, unclipped one as well
        later = cell.cost if reserved[row] < again else 0
        if spent + cost + later > budget:
            break
        seen.add(entry.planned.key)
        reserved[row] += 1
        spent, kept = spent + cost + later, kept + cost
    return kept
