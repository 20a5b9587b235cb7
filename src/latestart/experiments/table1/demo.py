"""The preset `demo` of the table: every way to start beside every other, at equal network evaluations.

For DDIM, DDPM and the prior solver at 3, 5 and 10 evaluations on the shipped MNIST model, the Frechet distance to the
training set from

    none        N(0, I) at the top of the schedule, with leading and trailing spacing, clipped and unclipped;
                the best of the four is the baseline
    isotropic   N(0, I) at each late start, clipped and unclipped
    gaussian    the Gaussian of the training images, noised to each late start, clipped and unclipped
    mixture     the mixture of Gaussians of the training images, noised to each late start, clipped and unclipped

with the same seed everywhere. The best of each kind is sampled again with the next seed, by the rule of the table, and
the figures are of these samples. They stand beside DDIM from full noise in 100 steps.

Expected with DDIM: the Gaussian at its best start is better than the baseline by at least 2.2x at 3 evaluations, 1.4x
at 5 and 1.1x at 10; the mixture is better than the Gaussian everywhere.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from latestart.evaluation.quality import Estimate
from latestart.experiments.table1.measure import Table, open_table
from latestart.experiments.table1.rows import BEST, Done, Row
from latestart.experiments.table1.settings import GAUSSIAN, MIXTURE, Table1Settings
from latestart.lab.cells import Planned, drawn, plan
from latestart.lab.experiment import Experiment, Lab
from latestart.lab.grid import FULL, PLAIN, Cell
from latestart.lab.judge import Figures, Floor, over
from latestart.records import Record, plain

__all__ = ["Demo", "Shown", "gains"]

IMAGES = 16  # of each cell that was drawn again, for the picture
STEPS = 100  # of DDIM from full noise


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Shown(Record):
    """The cells of the preset, and what late starts gain.

    Attributes:
        settings: as given.
        features: name of the features of the distance.
        floor: of images that the model has not seen; None where there are none.
        tried: the cells to choose from, with their figures.
        again: the cells that were drawn again, with their figures; last DDIM from full noise in 100 steps.
        rows: the best of each kind, by sampler and evaluations.
        images: `(16, C, H, W)` in [0, 1] of each cell that was drawn again.
    """

    settings: Table1Settings
    features: str
    floor: Floor | None
    tried: list[Done]
    again: list[tuple[Cell, Figures]]
    rows: list[Row]
    images: dict[Cell, Tensor]

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        tried = ((entry.planned.cell, figures) for entry, figures in self.tried)
        earned = ({"sampler": row.sampler, "nfe": row.nfe} | plain(gains(row)) for row in self.rows)
        return {
            "model": self.settings.model,
            "features": self.features,
            "floor": self.floor and {"samples": self.floor.images, "frechet": self.floor.frechet.value},
            "tried": [_record(*one) for one in tried],
            "rows": [_record(*one) for one in self.again],
            "gains": list(earned),
        }


def _record(cell: Cell, figures: Figures) -> dict[str, Any]:
    distance, known = figures.frechet, cell.way | figures.estimates("recall", "copied", "second", "variance")
    known |= {"frechet": distance.value, "low": distance.low, "high": distance.high}
    return {name: value for name, value in known.items() if name != "model"}


def gains(row: Row) -> dict[str, Estimate]:
    """Return the gains of the Gaussian and of the mixture, with intervals of paired bootstrap replicates.

    `gain` is the baseline's distance over the Gaussian's, `gain_trailing` that of trailing, unclipped full noise over
    it, `gain_isotropic` that of the best isotropic start; `mixture_gain` is the baseline's over the mixture's,
    `mixture_gain_gaussian` the Gaussian's over it.
    """
    isotropic, gaussian, mixture = (row.best[kind].figures for kind in (PLAIN, GAUSSIAN, MIXTURE))
    return {
        "gain": row.ratios[GAUSSIAN],
        "gain_trailing": row.paper_ratios[GAUSSIAN],
        "gain_isotropic": over(isotropic, gaussian),
        "mixture_gain": row.ratios[MIXTURE],
        "mixture_gain_gaussian": over(gaussian, mixture),
    }


class Demo(Experiment[Table1Settings, Shown]):
    """The gain of a late start on the shipped MNIST model."""

    shown_by = "demo_page.page"

    def measure(self, settings: Table1Settings, lab: Lab) -> Shown | None:
        """Measure every cell that is missing; those that failed before are tried again.

        Raises:
            ValueError: a cell has failed.
        """
        table = open_table(settings, lab)
        cell = Cell.of(settings, sampler="ddim", nfe=STEPS, seed=settings.seed + 1)
        reference = plan([cell], table.sweep.subjects)
        with lab.bar("sampling") as advance:
            table.measure(retry=True, progress=advance)
            replace(table.sweep, planned=reference).measure(retry=True, progress=advance)
        if not lab.run.first:
            return None
        again = [*table.again.values(), *reference]
        figures = {one.key: _done(table, one) for one in (*table.sweep.planned, *again)}
        subject, floor = table.subject, table.subject.judge.floor(settings.samples)
        return Shown(
            settings=settings, features=subject.judge.features, floor=floor,
            tried=sorted(table.measured(), key=partial(_order, settings)),
            again=[(one.cell, figures[one.key]) for one in again],
            rows=[row for row in table.rows() if row.part != BEST],
            images={
                one.cell: drawn(subject.network, subject, one, IMAGES, IMAGES).images.cpu()
                for one in table.again.values()
            },
        )  # fmt: skip


def _order(settings: Table1Settings, done: Done) -> tuple[Any, ...]:
    """By sampler and evaluations, then unclipped and clipped, each from full noise and by kind of late start."""
    cell, kinds = done[0].planned.cell, (FULL, *settings.starts)
    place = settings.samplers.index(cell.sampler), settings.nfe.index(cell.nfe)
    return *place, cell.clip, kinds.index(done[0].kind), cell.spacing, cell.t_start


def _done(table: Table, planned: Planned) -> Figures:
    outcome = table.sweep.outcome(planned)
    if outcome.figures is None:
        raise ValueError(f"{planned.cell.describe()}: {outcome.status}: {outcome.reason}")
    return outcome.figures
