"""Measure every cell of a grid, and keep each the moment that it is done.

cells/KEY.safetensors     one cell: its configuration, its figures, the replicates of its distance, its seconds
results.parquet           one row for each cell, in the order of the grid
"""

from dataclasses import dataclass
from typing import Any

from latestart.lab.experiment import Experiment, Lab
from latestart.lab.grid import Grid
from latestart.lab.judge import Floor
from latestart.lab.sweep import open_sweep
from latestart.records import Record

__all__ = ["GridSurvey", "Survey"]


@dataclass(frozen=True, repr=False)
class Survey(Record):
    """The cells of a grid.

    Attributes:
        settings: as given.
        rows: as `Sweep.table` returns them.
        floors: by model; None without held-out images.
    """

    settings: Grid
    rows: list[dict[str, Any]]
    floors: dict[str, Floor | None]


class GridSurvey(Experiment[Grid, Survey]):
    """Quality of every cell of a grid at equal network evaluations."""

    def measure(self, settings: Grid, lab: Lab) -> Survey | None:
        """Measure every cell that is missing, and write the table."""
        sweep = open_sweep(settings, lab)
        with lab.bar("evaluating") as advance:
            sweep.measure(settings.budget, settings.retry, advance)
        if not lab.run.first:
            return None
        rows = sweep.table()
        sweep.write(rows)
        floors = {name: subject.judge.floor(settings.samples) for name, subject in sweep.subjects.items()}
        if any(row["status"] == "failed" for row in rows) and not settings.retry:
            lab.tell("some cells have failed: run it again with --retry to measure them anew")
        return Survey(settings, rows, floors)
