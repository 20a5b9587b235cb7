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
from latestart.sampling.names import CURVED, SPENT
from latestart.sampling.samplers import can_clip

__all__ = ["Entry", "choosable", "entries", "sample"]

SPACINGS = {"exact": ("trailing", "leading"), "solvers": ("trailing", "leading", *CURVED, *SPENT)}


@dataclass(frozen=True)
class Entry:
    """A cell of the table: its part, the number in whose row it stands, its kind of start, and the planned cell."""

    part: str
    number: int
    kind: str
    planned: Planned


def entries(settings: Table1Settings, subject: Subject) -> list[Entry]:
    """Return every cell of the table, in the order in which they are measured."""
    found = [entry for part in settings.parts for entry in _entries(part, settings, subject)]
    return list({(entry.planned.key, entry.part): entry for entry in found}.values())


def _entries(part: str, settings: Table1Settings, subject: Subject) -> Iterator[Entry]:
    samplers = settings.solvers if part == "solvers" else settings.samplers
    for sampler, number in product(samplers, settings.nfe):
        for kind, t_start, spacing, clip in _ways(part, settings, subject, sampler):
            nfe = paper_pndm.evaluations(sampler, number) if part == PAPER else number
            cell = Cell(
                model=settings.model, sampler=sampler, nfe=nfe, prior=settings.prior(kind), t_start=t_start,
                spacing=spacing, clip=clip, samples=settings.samples, seed=settings.seed,
            )  # fmt: skip
            planned = _on_papers_grid(cell, number, subject) if part == PAPER else _affordable(cell, subject)
            yield Entry(part, number, kind, planned)


def _ways(
    part: str, settings: Table1Settings, subject: Subject, sampler: str
) -> Iterator[tuple[str, float | None, str, bool]]:
    """Kind, start, spacing and clipping of full noise and of every late start of a part."""
    top = subject.scheduler.config["num_train_timesteps"]
    spacings = SPACINGS.get(part, (PAPER,))
    late = tuple(spacing for spacing in spacings if spacing in (PAPER, "trailing", *SPENT))
    kinds = (GAUSSIAN,) if part == PAPER else settings.starts
    clips = settings.clip if part != PAPER and can_clip(sampler) else (False,)
    ways: list[tuple[str, float | None, str]] = [(FULL, None, spacing) for spacing in spacings]
    ways += [(kind, t, spacing) for kind in kinds for t in settings.times(part, kind, top) for spacing in late]
    for way, clip in product(ways, clips):
        yield *way, clip


def _on_papers_grid(cell: Cell, steps: int, subject: Subject) -> Planned:
    planned = plan([cell], {cell.model: subject})[0]  # for its configuration: no scheduler can set these steps
    configuration = planned.configuration | {"steps": steps}
    reason = ""
    try:
        paper_pndm.paper_grid(int(subject.scheduler.config["num_train_timesteps"] - 1), steps)
        if cell.t_start is not None:
            paper_pndm.paper_grid(int(cell.t_start), steps)
    except ValueError as error:
        reason = first_line(error)
    return Planned(cell, configuration, None if reason else steps, reason)


def _affordable(cell: Cell, subject: Subject) -> Planned:
    """Plan a cell, with one evaluation less where its sampler cannot spend the number asked for."""
    planned = plan([cell], {cell.model: subject})[0]
    if planned.steps is not None or cell.nfe == 1:
        return planned
    less = plan([replace(cell, nfe=cell.nfe - 1)], {cell.model: subject})[0]
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
    reserved: Counter[tuple[str, str, int, str]] = Counter()
    for entry in found:
        cell, row = entry.planned.cell, (entry.part, entry.planned.cell.sampler, entry.number, entry.kind)
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
