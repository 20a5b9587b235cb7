"""The paper's table, beside the paper's figures: vanilla against late start at 3, 5 and 10.

Three parts, each a set of cells of one sweep, kept and skipped as those of `latestart sweep` are:

    paper     DDPM, DDIM and PNDM as the paper ran them (`experiments/paper_pndm.py`): steps and not evaluations, a grid
              that ends at t = 0, vanilla from N(0, I) at t = 999, late start from the Gaussian at the best of the
              paper's eleven start times
    exact     the same three on exact grids at equal network evaluations: full noise with leading and trailing spacing
              against late starts from N(0, I), the Gaussian and the mixture
    solvers   DPM++ 2M, UniPC, DEIS, Heun, LMS and iPNDM at equal evaluations: full noise with times evenly spread
              (trailing and leading), with levels even in their logarithm, and with those of Karras et al., both as
              diffusers spreads them and with one level more (`sampling/spacings.py`); late starts with trailing times,
              and with one level more of either curve

In the last two, full noise and late starts alike are clipped and unclipped with every sampler that can clip, which
PNDM, LMS and iPNDM cannot.

For each sampler and number, the best cell of each kind of start is chosen by its Frechet distance with one seed, and
drawn again with the next. With d the distance of what was drawn again,

    ratio = d(best full noise) / d(best late start)

with the interval of paired bootstrap replicates; for the exact part also over full noise as the paper had it (trailing,
unclipped), drawn again as well. So all that a row reports is of one seed, by which nothing was chosen: a lowest of many
noisy distances is too low, and what is drawn again is not. What was chosen from stands in `results.parquet`. A quality
is no quality where it is bought by copies: where the best late start copies in either draw, in that the interval of its
share of copies lies above 0.02 (it is 0.01 for new images), the best of those that do not is drawn again too, and
reported beside it. A row whose full noise is not measured as a whole, since a cell of it has failed or is beyond the
budget, is left out: it may lack the better of it. What no sampler can do is not lacking.

A sampler that cannot spend the evaluations asked for (Heun spends an odd number) spends one less, and is compared so.

Expected, from the paper: ratios with DDIM at 3, 5 and 10 steps of 3.6, 1.9 and 1.8 on MNIST, 2.6, 1.7 and 1.2 on
CIFAR-10, 1.7, 1.3 and 1.2 on CelebA at 64 x 64. Its figures are of other networks and of Inception features, so that
only ratios compare. The shipped MNIST model gives 4.6, 2.3 and 1.3 for them on the paper's grid, with 1,000 samples.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.adapter import as_network
from latestart.experiments.table1_cells import PAPER, Entry, Options, entries, sample
from latestart.experiments.table1_rows import Done, Key, Row, rows, winners
from latestart.files import write_json
from latestart.lab.cells import Planned, again, first_line
from latestart.lab.experiment import Progress
from latestart.lab.grid import FULL, Grid
from latestart.lab.judge import Figures, few_samples
from latestart.lab.subjects import Subject, open_subjects
from latestart.lab.sweep import WANTING, Sweep
from latestart.processes import Processes
from latestart.sampling.matching import check_prior
from latestart.sampling.seeds import white_noise

ALONE = ("frechet", "recall", "copied")  # figures of a prior's own samples


@dataclass
class Table:
    """The table in a folder: opened, measured, and read from what was kept.

    Args:
        options: what it is made of.
        sweep: measures and keeps the cells to choose from.
        entries: those cells.

    Attributes:
        again: the sweep of the cells that were chosen and drawn again.
    """

    options: Options
    sweep: Sweep
    entries: list[Entry]
    again: Sweep = field(init=False)

    def __post_init__(self) -> None:
        self.again = replace(self.sweep, planned=[])

    def measure(self, budget: int | None = None, retry: bool = False, progress: Progress | None = None) -> None:
        """Measure what is missing, as `Sweep.measure`: the cells to choose from, then those that are drawn again.

        The budget is for both, and is not spent on a cell to choose from where its row could not be drawn again. The
        progress is told of each in turn.
        """
        self.sweep.measure(None if budget is None else choosable(self.entries, budget), retry, progress)
        while more := self.sweep.run.firsts(self._more):
            rest = None if budget is None else budget - self._spent()
            replace(self.again, planned=more).measure(rest, retry, progress)
            self.again.planned.extend(more)

    def measured(self) -> list[Done]:
        """The cells to choose from that are done, with their figures, from their files."""
        known = [(entry, self.sweep.outcome(entry.planned).figures) for entry in self.entries]
        return [(entry, figures) for entry, figures in known if figures is not None]

    def drawn(self) -> dict[str, Figures]:
        """The figures of the cells that were drawn again, from their files, by the keys of those that were chosen."""
        planned = {one.key: one for one in self.again.planned}
        known = {entry.planned.key: planned.get(again(entry.planned).key) for entry in self.entries}
        figures = {key: self.sweep.outcome(one).figures for key, one in known.items() if one is not None}
        return {key: found for key, found in figures.items() if found is not None}

    def rows(self, dataset: str | None = None) -> list[Row]:
        """The rows, with the paper's figures for a data set beside them."""
        return rows(self.measured(), self.drawn(), dataset, self.left())

    def left(self) -> dict[Key, list[str]]:
        """The rows whose full noise is not measured as a whole, which are left out: what its missing cells are."""
        full = [entry for entry in self.entries if entry.kind == FULL]
        found: dict[Key, list[str]] = {}
        for entry, status in ((entry, self.sweep.outcome(entry.planned).status) for entry in full):
            if status in WANTING:
                found.setdefault((entry.part, entry.planned.cell.sampler, entry.number), []).append(status)
        return found

    @property
    def whole(self) -> Sweep:
        """The sweep of all cells of both seeds, for its table."""
        planned = {one.key: one for one in (*self.sweep.planned, *self.again.planned)}
        return replace(self.sweep, planned=list(planned.values()))

    def write(self, dataset: str | None = None) -> tuple[dict[str, Any], list[Row], list[dict[str, Any]]]:
        """Write `results.parquet` and `results.json` of what is measured.

        Returns:
            All figures, the rows, and all cells: what a report is made of.
        """
        found, cells = self.rows(dataset), self.whole.table()
        self.whole.write(cells)
        figures = results(self, found, dataset)
        write_json(self.sweep.out / "results.json", figures)
        return figures, found, cells

    def alone(self) -> dict[str, Figures | str]:
        """The figures of each prior's own samples, by the kind of start, or why it has none.

        What it knows before any evaluation: its samples begin from the noise of the seed of the figures, and are
        carried to noise level 0. One of other images than the network's has none, as its cells have failed.
        """
        subject = self.sweep.subjects[self.options.model]
        priors = {kind: subject.priors[self.options.prior(kind)][0] for kind in self.options.kinds}
        found: dict[str, Figures | str] = {}
        for kind, prior in ((kind, prior) for kind, prior in priors.items() if prior is not None):
            try:
                check_prior(subject.network, subject.scheduler, prior)
                found[kind] = subject.judge(_own_samples(prior, subject, self.options.grid))
            except Exception as error:  # whatever a prior raises: the table is still worth having
                found[kind] = first_line(error)
        return found

    def _more(self) -> list[Planned]:
        """What is to be drawn again and is not planned yet."""
        known = {one.key for one in self.again.planned}
        found = [again(entry.planned) for entry in winners(self.measured(), self.drawn(), self.left())]
        return [one for one in found if one.key not in known]

    def _spent(self) -> int:
        known = (one for one in self.whole.planned if one.steps is not None)
        return sum(one.cell.cost for one in known if self.sweep.file(one).is_file())

    @property
    def cost(self) -> int:
        """Network evaluations that all cells cost, as far as they are known."""
        return sum(planned.cell.cost for planned in self.whole.planned if planned.steps is not None)


def _own_samples(prior: Any, subject: Subject, grid: Grid) -> Tensor:
    """Samples of a prior in [0, 1], `(samples, *shape)`: at noise level 0, of the network's classes in turn."""
    classes = as_network(subject.network).classes
    labels = torch.arange(grid.samples) % classes if classes else None
    parts = []
    for index in torch.arange(grid.samples).split(grid.batch_size):
        z = white_noise(index.tolist(), prior.shape, grid.seed + 1).to(prior.device)
        y = prior.push(z, prior.own_labels(None if labels is None else labels[index]))
        parts.append((y / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(parts)


def choosable(found: Iterable[Entry], budget: int) -> int:
    """What the first cells to choose from cost, of which each row's best can be drawn again within the same budget.

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
        drawn = 2 if entry.kind == FULL else 1  # the best, and of full noise the trailing, unclipped one as well
        later = cell.cost if reserved[row] < drawn else 0
        if spent + cost + later > budget:
            break
        seen.add(entry.planned.key)
        reserved[row] += 1
        spent, kept = spent + cost + later, kept + cost
    return kept


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
    """All figures, ready for `results.json`.

    `alone` are those of the priors' own samples, without the network; `alone_failed` why a prior has none.
    """
    options, subject = table.options, table.sweep.subjects[table.options.model]
    floor, left, alone = subject.judge.floor(options.grid.samples), table.left(), table.alone()
    measured: dict[str, int] = {entry.planned.key: entry.planned.cell.cost for entry, _ in table.measured()}
    drawn = {key: measured[key] for key in table.drawn()}
    return {
        "model": Path(options.model).name,
        "weights": subject.weights,
        "features": subject.judge.features,
        "samples": options.grid.samples,
        "seed_chosen_by": options.grid.seed,
        "seed_reported": options.grid.seed + 1,
        "dataset_in_the_paper": dataset,
        "clips": list(options.clips) if set(options.parts) != {PAPER} else [],
        "cells": len(table.whole.planned),
        "measured": len(measured) + len(drawn),
        "drawn_again": len(drawn),
        "evaluations": sum(measured.values()) + sum(drawn.values()),
        "planned": table.cost,
        "floor": None if floor is None else floor.record(),
        "alone": {
            kind: known.estimates("frechet", "recall", "copied")
            for kind, known in alone.items()
            if isinstance(known, Figures)
        },
        "alone_failed": {kind: reason for kind, reason in alone.items() if isinstance(reason, str)},
        "left_out": [dict(zip(("part", "sampler", "number", "missing"), (*key, by))) for key, by in left.items()],
        "rows": [row.record() for row in found],
    }
