"""The paper's table, beside the paper's figures: vanilla against late start at 3, 5 and 10.

Three parts, each a set of cells of one sweep, kept and skipped as those of `latestart sweep` are:

    paper     DDPM, DDIM and PNDM as the paper ran them (`paper_pndm.py`): steps and not evaluations, a grid that ends
              at t = 0, vanilla from N(0, I) at t = 999, late start from the Gaussian at the best of the paper's
              eleven start times
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
unclipped), drawn again as well. So all that a row reports is of one seed, by which nothing was chosen. The cells to
choose from stand in `results.parquet`. Where the best late start copies in either draw, that is where the interval of
its share of copies lies above 0.02 (it is 0.01 for new images), the best of those that do not is drawn again too, and
reported next to it. A row is left out while a cell of its full noise has failed or is beyond the budget: it may be the
best. A cell that no sampler can do is not missing.

A sampler that cannot spend the evaluations asked for (Heun spends an odd number) spends one less, and is compared so.

Expected, from the paper: ratios with DDIM at 3, 5 and 10 steps of 3.6, 1.9 and 1.8 on MNIST, 2.6, 1.7 and 1.2 on
CIFAR-10, 1.7, 1.3 and 1.2 on CelebA at 64 x 64. Its figures are of other networks and of Inception features, so that
only ratios compare. The shipped MNIST model gives 4.6, 2.3 and 1.3 for them on the paper's grid, with 1,000 samples.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.experiments.table1.entries import Entry, Key, choosable, entries, sample
from latestart.experiments.table1.rows import Done, Row, rows, winners
from latestart.experiments.table1.settings import PAPER, Table1Settings
from latestart.lab.cells import Planned, again, classes_in_turn, first_line
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.lab.grid import FULL, Grid
from latestart.lab.judge import Figures, Floor
from latestart.lab.selection import draw_again
from latestart.lab.subjects import Subject, open_subject
from latestart.lab.sweep import WANTING, Sweep
from latestart.records import plain
from latestart.sampling.matching import check_prior
from latestart.sampling.seeds import white_noise

__all__ = ["Gains", "Table", "Table1", "open_table"]

ALONE = ("frechet", "recall", "copied", "second", "variance")  # figures of a prior's own samples


@dataclass(frozen=True, kw_only=True)
class Gains:
    """The table: the gains of late starts, by sampler and number.

    Attributes:
        settings: as given.
        weights: fingerprint of the model.
        features: name of the features of the distance.
        floor: of images that the model has not seen; None where there are none.
        rows: of the table.
        cells: every cell of both seeds, as `Sweep.table` returns them.
        alone: by kind of start, the figures of the prior's own samples.
        alone_failed: by kind of start, the reason why there are none.
        left: rows left out because full-noise cells are missing, with the statuses of those cells.
        counts: of cells and evaluations.
    """

    settings: Table1Settings
    weights: str
    features: str
    floor: Floor | None
    rows: list[Row]
    cells: list[dict[str, Any]]
    alone: dict[str, Figures]
    alone_failed: dict[str, str]
    left: dict[Key, list[str]]
    counts: dict[str, int]

    @property
    def clips(self) -> tuple[bool, ...]:
        """The clippings that were tried, by the samplers that can; none on the paper's grid."""
        return self.settings.clip if set(self.settings.parts) != {PAPER} else ()

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        settings, names = self.settings, ("part", "sampler", "number", "missing")
        known = {name: plain(getattr(self, name)) for name in ("weights", "features", "floor", "alone_failed", "rows")}
        known |= {"model": Path(settings.model).name, "samples": settings.samples, "clips": list(self.clips)}
        known |= {"seed_chosen_by": settings.seed, "seed_reported": settings.seed + 1}
        known |= {"alone": {kind: one.estimates(*ALONE) for kind, one in self.alone.items()}}
        known |= {"left_out": [dict(zip(names, (*key, statuses))) for key, statuses in self.left.items()]}
        return known | self.counts | {"dataset_in_the_paper": settings.dataset}


class Table1(Experiment[Table1Settings, Gains]):
    """The paper's table: full noise against late start, as the paper did it and at equal evaluations."""

    def measure(self, settings: Table1Settings, lab: Lab) -> Gains | None:
        """Measure every cell that is missing, and write the table of all of them.

        Raises:
            ValueError: something that the settings name does not exist or does not fit the rest.
        """
        table = open_table(settings, lab)
        lab.tell(
            f"{len(table.sweep.planned)} cells to choose from, {table.whole.cost:,} network evaluations; "
            f"the best are drawn again with seed {settings.seed + 1}"
        )
        with lab.bar("evaluating") as advance:
            table.measure(settings.budget, settings.retry, advance)
        return table.gains() if lab.run.first else None


@dataclass
class Table:
    """The table in a folder: opened, measured, and read from its kept cells.

    Args:
        settings: as given.
        sweep: measures and keeps the cells to choose from.
        entries: those cells.

    Attributes:
        again: the cells that were chosen, as they are drawn again, by the keys of those to choose from.
    """

    settings: Table1Settings
    sweep: Sweep
    entries: list[Entry]
    again: dict[str, Planned] = field(default_factory=dict, init=False)

    @property
    def subject(self) -> Subject:
        """The model."""
        return self.sweep.subjects[self.settings.model]

    @property
    def whole(self) -> Sweep:
        """The sweep of all cells of both seeds, for its table."""
        planned = {one.key: one for one in (*self.sweep.planned, *self.again.values())}
        return replace(self.sweep, planned=list(planned.values()))

    def measure(self, budget: int | None = None, retry: bool = False, progress: Progress | None = None) -> None:
        """Measure every cell that is missing, as `Sweep.measure`: those to choose from, then those drawn again.

        The budget is for both, and is not spent on a cell to choose from where its row could not be drawn again.
        """
        self.sweep.measure(None if budget is None else choosable(self.entries, budget), retry, progress)

        def draw(chosen: list[Planned]) -> None:
            more: dict[str, Planned] = {one.key: again(one) for one in chosen}
            kept = (one for one in self.whole.planned if one.steps is not None and self.sweep.file(one).is_file())
            rest = None if budget is None else budget - sum(one.cell.cost for one in kept)
            replace(self.sweep, planned=list(more.values())).measure(rest, retry, progress)
            self.again |= more

        draw_again(lambda: winners(self.measured(), self.drawn(), self.left()), draw, self.sweep.lab.run)

    def measured(self) -> list[Done]:
        """Return the cells to choose from that are done, with their figures, from their files."""
        known = [(entry, self.sweep.outcome(entry.planned).figures) for entry in self.entries]
        return [(entry, figures) for entry, figures in known if figures is not None]

    def drawn(self) -> dict[str, Figures]:
        """Return the figures of the cells that were drawn again, by the keys of those that were chosen."""
        known = {key: self.sweep.outcome(one).figures for key, one in self.again.items()}
        return {key: figures for key, figures in known.items() if figures is not None}

    def rows(self) -> list[Row]:
        """Return the rows, with the paper's figures for the data set beside them."""
        return rows(self.measured(), self.drawn(), self.settings.dataset, self.left())

    def left(self) -> dict[Key, list[str]]:
        """Return the rows left out because full-noise cells are missing, with the statuses of those cells."""
        found: dict[Key, list[str]] = {}
        for entry in self.entries:
            if entry.kind == FULL and (status := self.sweep.outcome(entry.planned).status) in WANTING:
                found.setdefault(entry.row, []).append(status)
        return found

    def gains(self) -> Gains:
        """Return all that is measured, and write `results.parquet`."""
        whole, judge = self.whole, self.subject.judge
        cells = whole.table()
        whole.write(cells)
        costs: dict[str, int] = {entry.planned.key: entry.planned.cell.cost for entry, _ in self.measured()}
        drawn = [costs[key] for key in self.drawn()]
        counts = {"cells": len(whole.planned), "measured": len(costs) + len(drawn), "drawn_again": len(drawn)}
        counts |= {"evaluations": sum(costs.values()) + sum(drawn), "planned": whole.cost}
        alone, failed = self.alone()
        return Gains(
            settings=self.settings, weights=self.subject.weights, features=judge.features,
            floor=judge.floor(self.settings.samples), rows=self.rows(), cells=cells, alone=alone, alone_failed=failed,
            left=self.left(), counts=counts,
        )  # fmt: skip

    def alone(self) -> tuple[dict[str, Figures], dict[str, str]]:
        """Return the figures of each prior's own samples by the kind of start, and the reasons why others have none.

        They are known before any evaluation: the samples begin from the noise of the seed of the figures, and are
        carried to noise level 0. A prior of other images than the network's has none, as its cells have failed.
        """
        subject, found, failed = self.subject, {}, {}
        for kind in self.settings.all_late:
            if (prior := subject.priors[self.settings.prior(kind)][0]) is not None:
                try:
                    check_prior(subject.network, subject.scheduler, prior)
                    found[kind] = subject.judge(self._own_samples(prior))
                except Exception as error:  # whatever a prior raises: the table is still worth having
                    failed[kind] = first_line(error)
        return found, failed

    def _own_samples(self, prior: Any) -> Tensor:
        """Samples of a prior, `(samples, *shape)`: at noise level 0, of the network's classes in turn."""
        labels, parts = classes_in_turn(self.subject.network, self.settings.samples), []
        for index in torch.arange(self.settings.samples).split(self.settings.batch_size):
            z = white_noise(index.tolist(), prior.shape, self.settings.seed + 1).to(prior.device)
            y = prior.push(z, prior.own_labels(None if labels is None else labels[index]))
            parts.append(y.cpu())
        return torch.cat(parts)


def open_table(settings: Table1Settings, lab: Lab) -> Table:
    """Open the model with its priors and its judge, and plan the cells.

    Raises:
        ValueError: something that the settings name does not exist or does not fit the rest.
    """
    grid = Grid.of_settings(settings, prior=settings.priors, statistics=settings.statistics)
    subject = open_subject(grid, lab)
    if not hasattr(subject.scheduler, "alphas_cumprod"):
        raise ValueError(f"the table is one of beta-based models, received a {type(subject.scheduler).__name__}")
    found = entries(settings, subject)
    planned = list({entry.planned.key: entry.planned for entry in found}.values())
    sweep = Sweep(planned, {settings.model: subject}, lab, settings.batch_size, sample)
    return Table(settings, sweep, found)
