"""The paper's table, beside the paper's figures: vanilla against late start at 3, 5 and 10.

Three parts, each a set of cells of one sweep, kept and skipped as those of `latestart sweep` are:

    paper     DDPM, DDIM and PNDM as the paper ran them (`experiments/paper_pndm.py`): steps and not evaluations, a grid
              that ends at t = 0, vanilla from N(0, I) at t = 999, late start from the Gaussian at the best of the
              paper's eleven start times
    exact     the same three on exact grids at equal network evaluations: full noise with leading and trailing spacing,
              clipped and unclipped where the class can clip, against late starts from N(0, I), the Gaussian and the
              mixture
    solvers   DPM++ 2M, UniPC, DEIS, Heun, LMS and iPNDM at equal evaluations: full noise with times evenly spread
              (trailing and leading), with levels even in their logarithm, and with those of Karras et al., both as
              diffusers spreads them and with one level more (`sampling/spacings.py`); late starts with trailing times,
              and with one level more of either curve

For each sampler and number, the best cell of each kind of start is taken, and with d its Frechet distance

    ratio = d(best full noise) / d(best late start)

with the interval of paired bootstrap replicates; for the exact part also over full noise as the paper had it (trailing,
unclipped). The best of several cells is chosen on the samples that it is measured on, on both sides of the ratio: both
distances are a little too low, that of the side with more cells a little more. A sampler that cannot spend the
evaluations asked for (Heun spends an odd number) spends one less, and is compared so.

Expected, from the paper: ratios with DDIM at 3, 5 and 10 steps of 3.6, 1.9 and 1.8 on MNIST, 2.6, 1.7 and 1.2 on
CIFAR-10, 1.7, 1.3 and 1.2 on CelebA at 64 x 64. Its figures are of other networks and of Inception features, so that
only ratios compare. The shipped MNIST model gives 4.5 and 2.0 for the first two, on the paper's grid with 200 samples.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from latestart.experiments.cells import Outcome, Planned, Progress, read_cell
from latestart.experiments.judge import few_samples
from latestart.experiments.subjects import open_subjects
from latestart.experiments.sweep import Sweep
from latestart.experiments.table1_cells import Entry, Options, entries, sample
from latestart.experiments.table1_rows import Done, Row
from latestart.processes import Processes


@dataclass
class Table:
    """The table in a folder: opened, measured, and read from what was kept.

    Args:
        options: what it is made of.
        sweep: measures and keeps the cells.
        entries: the cells.
    """

    options: Options
    sweep: Sweep
    entries: list[Entry]

    def measure(self, budget: int | None = None, retry: bool = False, progress: Progress | None = None) -> None:
        """Measure what is missing, as `Sweep.measure`."""
        self.sweep.measure(budget, retry, progress)

    def measured(self) -> list[Done]:
        """The cells that are done, with their figures, from their files."""
        known = [(entry, self._read(entry.planned)) for entry in self.entries if entry.planned.steps is not None]
        return [(entry, outcome.figures) for entry, outcome in known if outcome is not None and outcome.figures]

    def _read(self, planned: Planned) -> Outcome | None:
        try:
            return read_cell(self.sweep.file(planned), planned)
        except (FileNotFoundError, ValueError):  # left by the budget; a damaged one was told of by the sweep
            return None

    @property
    def features(self) -> str:
        """The name of the features that distances are measured in."""
        return self.sweep.subjects[self.options.model].judge.features

    @property
    def cost(self) -> int:
        """Network evaluations that all cells cost."""
        return sum(planned.cell.cost for planned in self.sweep.planned if planned.steps is not None)


def open_table(
    options: Options, out: Path, run: Processes | None = None, tell: Callable[[str], None] = lambda _: None
) -> Table:
    """Open the model with its priors and its judge, and plan the cells.

    Args:
        options: what the table is made of.
        out: its folder.
        run: the processes that share the work; the present one alone by default.
        tell: told what is worth knowing.

    Raises:
        ValueError: something that the options name does not exist or does not fit the rest.
    """
    run = run or Processes()
    grid = replace(options.grid, prior=options.priors)
    kept = Path(grid.statistics) if grid.statistics else out / "statistics.safetensors"
    subjects = open_subjects(grid, kept, run, tell)
    subject = subjects[options.model]
    if (warning := few_samples(grid.samples, subject.judge)) is not None:
        tell(warning)
    if not hasattr(subject.scheduler, "alphas_cumprod"):
        raise ValueError(f"the table is one of beta-based models, received a {type(subject.scheduler).__name__}")
    found = entries(options, subject)
    planned = list({entry.planned.key: entry.planned for entry in found}.values())
    return Table(options, Sweep(planned, subjects, out, grid.batch_size, run, tell, sample), found)


def results(table: Table, found: list[Row], dataset: str | None) -> dict[str, Any]:
    """All figures, ready for `results.json`."""
    options, subject = table.options, table.sweep.subjects[table.options.model]
    floor = subject.judge.floor(options.grid.samples)
    measured = {entry.planned.key: entry.planned.cell.cost for entry, _ in table.measured()}
    return {
        "model": Path(options.model).name,
        "weights": subject.weights,
        "features": subject.judge.features,
        "samples": options.grid.samples,
        "seed": options.grid.seed,
        "dataset_in_the_paper": dataset,
        "cells": len(table.sweep.planned),
        "measured": len(measured),
        "evaluations": sum(measured.values()),
        "planned": table.cost,
        "floor": None if floor is None else {"images": floor[0], **asdict(floor[1])},
        "rows": [row.record() for row in found],
    }
