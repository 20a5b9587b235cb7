"""A sweep: every cell of a grid measured once, however often it is interrupted.

A cell's file is written whole or not at all, the moment that the cell is done. The files are all of a sweep: one that
is killed and started again measures the missing cells, and ends with the same table, bit by bit.

    cells/KEY.safetensors    one cell: its configuration, its figures, the replicates of its distance, its seconds
    statistics.safetensors   the feature statistics of a user's images
    results.parquet          the table, one row for each cell of the grid, in its order

A cell is `done`, has `failed` (with the reason), is `unavailable` (no number of steps costs its evaluations, or its
sampler has no such setting), or is `left` (beyond the budget). Several processes share the cells by their cost; the
first one waits for the files of all, and assembles.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from latestart.evaluation.quality import Estimate
from latestart.files import replacing
from latestart.lab.cells import (
    VERSION,
    Meter,
    Outcome,
    Planned,
    first_line,
    measured,
    plan,
    read_cell,
    write_cell,
)
from latestart.lab.experiment import Lab, Progress, Tell
from latestart.lab.grid import FULL, Cell, Grid
from latestart.lab.judge import ESTIMATES, ratio
from latestart.lab.store import Store
from latestart.lab.subjects import Subject, open_subjects
from latestart.processes import Processes
from latestart.sampling.matching import check_prior

__all__ = [
    "COLUMNS",
    "WANTING",
    "Sweep",
    "add_gains",
    "attempt",
    "columns",
    "open_sweep",
    "own_work",
    "shares",
    "sweep_of",
    "within",
]

T = TypeVar("T")
FIGURES = (*ESTIMATES, "gain")
TEXT, WHOLE, REAL, TRUTH = pa.string(), pa.int64(), pa.float64(), pa.bool_()
COLUMNS = {
    **{"model": TEXT, "weights": TEXT, "sampler": TEXT, "nfe": WHOLE, "steps": WHOLE, "prior": TEXT, "t_start": REAL},
    **{
        "sigma": REAL,
        "spacing": TEXT,
        "clip": TRUTH,
        "last": WHOLE,
        "inside": TEXT,
        "eta": REAL,
        "order": WHOLE,
        "substeps": WHOLE,
        "times": pa.list_(REAL),
        "shares": pa.list_(REAL),
        "samples": WHOLE,
        "seed": WHOLE,
        "features": TEXT,
        "key": TEXT,
    },
    **{"second_features": TEXT, "status": TEXT, "reason": TEXT},
    **{name: REAL for figure in FIGURES for name in (figure, f"{figure}_low", f"{figure}_high")},
}
WANTING = ("failed", "left")  # cells that could be measured and are not
POLL = 0.5  # seconds between two looks for the other processes' cells


@dataclass
class Sweep:
    """A sweep in a folder.

    Args:
        planned: the cells, in order.
        subjects: the models, by the names that the cells have for them.
        lab: its folder and its processes.
        batch_size: samples evaluated at once.
        sample: draws a cell's samples and takes its figures.
    """

    planned: list[Planned]
    subjects: dict[str, Subject]
    lab: Lab
    batch_size: int = 256
    sample: Callable[[Subject, Planned, int, Meter], Outcome] = measured
    checked: set[tuple[str, str]] = field(default_factory=set, init=False, repr=False)

    @property
    def cost(self) -> int:
        """Return the network evaluations of all cells that can be measured."""
        return sum(planned.cost for planned in self.planned)

    def file(self, planned: Planned) -> Path:
        """Return the place of a cell's file."""
        return Store(self.lab.out / "cells", "{}.safetensors").path(planned.key)

    def outcome(self, planned: Planned) -> Outcome:
        """Return the outcome of a cell, from its file: `done` or `failed`, else `unavailable` or `left`.

        A damaged file counts as none: `measure` reports the cell, and measures it again.
        """
        if planned.steps is None:
            return Outcome("unavailable", planned.reason)
        return self._kept(planned) or Outcome("left", "beyond the budget")

    def _kept(self, planned: Planned, tell: Tell = lambda _: None) -> Outcome | None:
        store = Store(self.lab.out / "cells", "{}.safetensors", tell)
        return store.found(planned.key, partial(read_cell, planned=planned))

    def measure(self, budget: int | None = None, retry: bool = False, progress: Progress | None = None) -> None:
        """Measure every cell that is missing, in order.

        Args:
            budget: network evaluations that the cells may cost together, those that were done before counted; cells
                from the first that would exceed it are left. None sets no limit.
            retry: measure the cells anew that have failed.
            progress: receives (evaluations done, evaluations in all, note) of this process' share.

        Raises:
            ValueError: a table of something else in the folder.
        """
        self._check_table()
        run = self.lab.run
        pending = run.firsts(partial(self._pending, within(self.planned, budget), retry))
        work, meter = own_work([self.planned[k] for k in pending], run, progress)
        for planned in work:
            write_cell(self.file(planned), planned, self._outcome(planned, meter))
        if run.first:
            meter.note = "waiting for the other processes"
            while not all(self.file(self.planned[k]).is_file() for k in pending):
                meter.told()
                time.sleep(POLL)

    def table(self) -> list[dict[str, Any]]:
        """Return the rows of the table, from the files: one for each cell, with the columns `COLUMNS`."""
        outcomes = [self.outcome(planned) for planned in self.planned]
        rows = [self._row(planned, outcome) for planned, outcome in zip(self.planned, outcomes)]
        add_gains(rows, [None if outcome.figures is None else outcome.figures.replicates for outcome in outcomes])
        return rows

    def write(self, rows: list[dict[str, Any]]) -> Path:
        """Write the table, whole or not at all, and return its path."""
        schema = pa.schema(list(COLUMNS.items()), {"latestart": "sweep", "version": str(VERSION)})
        path = self.lab.out / "results.parquet"
        with replacing(path) as temporary:
            pq.write_table(pa.Table.from_pylist(rows, schema), temporary)
        return path

    def _pending(self, count: int, retry: bool) -> list[int]:
        """Return the indices of the first `count` cells that are to be measured; their files, if any, are removed."""
        pending: dict[str, int] = {}
        for k, planned in enumerate(self.planned[:count]):
            if planned.steps is None or planned.key in pending:
                continue
            known = self._kept(planned, self.lab.tell)
            if known is None or (retry and known.status == "failed"):
                self.file(planned).unlink(missing_ok=True)
                pending[planned.key] = k
        return list(pending.values())

    def _outcome(self, planned: Planned, meter: Meter) -> Outcome:
        def sample() -> Outcome:
            self._check_prior(planned.cell)
            return self.sample(self.subjects[planned.cell.model], planned, self.batch_size, meter)

        began = time.monotonic()
        outcome, reason = attempt(planned, meter, self.lab, sample)
        return replace(outcome or Outcome("failed", reason), seconds=time.monotonic() - began)

    def _check_prior(self, cell: Cell) -> None:
        """Check once for each model and prior, of a start or inside, that they are of the same images."""
        subject = self.subjects[cell.model]
        for name in filter(None, (cell.prior, cell.within)):
            if (prior := subject.priors[name][0]) is not None and (cell.model, name) not in self.checked:
                check_prior(subject.network, subject.scheduler, prior)
                self.checked.add((cell.model, name))

    def _check_table(self) -> None:
        path = self.lab.out / "results.parquet"
        if not path.exists():
            return
        try:
            metadata = pq.read_schema(path).metadata or {}
        except (pa.ArrowException, OSError):
            self.lab.tell(f"{path} was cut short: it is written again, from the cells")
            return
        kind, version = metadata.get(b"latestart", b"").decode(), metadata.get(b"version", b"").decode()
        if (kind, version) != ("sweep", str(VERSION)):
            told = f"of version {version}" if kind == "sweep" else "of something else"
            raise ValueError(f"{path} is a table {told}, expected one of a sweep of version {VERSION}: move it away")

    def _row(self, planned: Planned, outcome: Outcome) -> dict[str, Any]:
        cell, subject = planned.cell, self.subjects[planned.cell.model]
        row = dict.fromkeys(COLUMNS) | asdict(cell) | {"key": planned.key, "steps": planned.steps}
        row |= {"inside": cell.within}
        row |= {"weights": subject.weights, "features": subject.judge.features, "sigma": outcome.sigma}
        if outcome.figures is not None and outcome.figures.second is not None:
            row["second_features"] = subject.judge.second_features
        row |= {"status": outcome.status, "reason": outcome.reason}
        for name in ESTIMATES:
            row |= columns(name, getattr(outcome.figures, name, None))
        return row


def within(planned: list[Planned], budget: int | None) -> int:
    """Return the number of cells, from the first on, that cost at most the budget together."""
    return sum(budget is None or spent <= budget for spent in accumulate(one.cost for one in planned))


def own_work(pending: Sequence[Planned], run: Processes, progress: Progress | None) -> tuple[list[Planned], Meter]:
    """Return this process' share of the work, and a meter of its evaluations."""
    mine = [pending[k] for k in shares([planned.cell.cost for planned in pending], run.count)[run.index]]
    return mine, Meter(sum(planned.cell.cost for planned in mine), progress)


def attempt(planned: Planned, meter: Meter, lab: Lab, act: Callable[[], T]) -> tuple[T | None, str]:
    """Return the result of sampling a cell, or None and the reason of its failure, after a sentence about it."""
    meter.note, result, reason = planned.cell.describe(), None, ""
    try:
        result = act()
    except Exception as error:  # whatever schedulers and devices raise: the other cells are still worth measuring
        reason = first_line(error)
        lab.tell(f"failed: {meter.note}: {reason}")
    if reason:  # the device's memory that the error held is free from here on
        torch.cuda.empty_cache()
    meter.settle(planned.cell.cost)
    return result, reason


def shares(costs: list[int], count: int) -> list[list[int]]:
    """Return the indices of each process' work: the dearest first, each to the process that has the least."""
    loads, parts = [0] * count, [[] for _ in range(count)]  # type: tuple[list[int], list[list[int]]]
    for k in sorted(range(len(costs)), key=lambda k: (-costs[k], k)):
        least = min(range(count), key=lambda process: (loads[process], process))
        loads[least] += costs[k]
        parts[least].append(k)
    return [sorted(part) for part in parts]


def add_gains(rows: list[dict[str, Any]], distances: list[Tensor | None]) -> None:
    """Add to each row the factor by which its distance is below the best from full noise at the same sampler and NFE.

    With the 95% interval of paired bootstrap replicates, in the columns `gain`, `gain_low`, `gain_high`. None where one
    of these has failed or is left, beyond the budget: it may be the best. One that no sampler can do cannot be.
    """
    for row, mine in zip(rows, distances):
        full = [
            pair for pair in zip(rows, distances) if pair[0]["prior"] == FULL and _setting(pair[0]) == _setting(row)
        ]
        done = [(other, theirs) for other, theirs in full if theirs is not None]
        if mine is not None and done and not any(other["status"] in WANTING for other, _ in full):
            best, theirs = min(done, key=lambda pair: pair[0]["frechet"])
            row |= columns("gain", ratio((best["frechet"], theirs), (row["frechet"], mine)))


def _setting(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("model", "sampler", "nfe", "samples", "seed"))


def columns(name: str, estimate: Estimate | None) -> dict[str, float | None]:
    """Return a figure and the ends of its interval as columns of the table."""
    names = (name, f"{name}_low", f"{name}_high")
    return dict(zip(names, (None, None, None) if estimate is None else astuple(estimate)))


def open_sweep(grid: Grid, lab: Lab) -> Sweep:
    """Open all that a grid names, and plan its cells.

    Raises:
        ValueError: something that the grid names does not exist or does not fit the rest.
    """
    subjects = open_subjects(grid, lab)
    return Sweep(plan(grid.cells(), subjects), subjects, lab, grid.batch_size)


def sweep_of(cells: Iterable[Cell], subject: Subject, grid: Grid, lab: Lab) -> Sweep:
    """Plan the cells of one model, and return their sweep."""
    subjects = {grid.model[0]: subject}
    return Sweep(plan(cells, subjects), subjects, lab, grid.batch_size)
