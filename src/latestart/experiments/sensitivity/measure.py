"""Quality against the start of a late start, at a fine grid of starts: the starts that are nearly as good as the best.

For DDIM with 3, 5 and 10 evaluations, started from the Gaussian and from the mixture of the training images: the
Frechet distance d(t) to the training set at every start t of a grid, all with the same white noise. `windows` reads off
it how wide the window of good starts is, and the cost of a start outside of it.

The window is given in t, and in nats by the divergence of held-out images from the prior (`theory/nats.py`) at both
ends: how wrong the prior may be, from the most that is still good (the low end in t) to the least. A window that
reaches an end of the grid is at least that wide. The best start is chosen by the same samples that its distance is
measured on, and is the lowest of many noisy distances: its own distance is a little too low, and so the cost of others
a little too high.

Each start is a cell of a sweep (`lab/sweep.py`): kept the moment that it is done, skipped when it is there. A truncated
schedule begins at a multiple of the number of steps, and so does each start that is run.

    cells/KEY.safetensors     one start; nats-KEY.safetensors: the divergence from one prior
    results.parquet           the table of the cells, results.json all else

Expected on the shipped MNIST model, 500 samples: from the Gaussian with 3, 5 and 10 evaluations the best starts are at
525, 550 and 650, and the windows 90, 123 and 144 wide: the more evaluations, the earlier one can start and the less it
matters, but the cost of a prior that is 4 nats off grows from 1.4 to 2.8 times the best. From the mixture the best
start is at 350 with all three and the windows are 50 to 65 wide; at 650 its distance is 6.3, 3.2 and 1.9 times the
best, with 3 evaluations no lower than the Gaussian's best: the network decides anew there, whatever the mixture decided
for the samples.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from latestart.evaluation.quality import Estimate
from latestart.experiments.sensitivity.settings import FEWEST, SensitivitySettings
from latestart.experiments.sensitivity.windows import (
    WITHIN,
    Off,
    Window,
    at_start,
    find_window,
    nats_replicates,
    start_at,
)
from latestart.gaussians.mixture import Mixture
from latestart.lab.divergence import kept_divergence, require_no_classes
from latestart.lab.experiment import Experiment, Lab
from latestart.lab.grid import FULL, PLAIN, Cell, Grid
from latestart.lab.judge import Figures, Floor
from latestart.lab.subjects import Subject, beside, open_images, open_subject
from latestart.lab.sweep import Sweep, sweep_of
from latestart.records import Record, plain
from latestart.theory.nats import NatsCurve

__all__ = ["BUDGETS", "OFFSETS", "Curve", "Curves", "Sensitivity", "cells_of", "grid_of"]

RANGES = {"gaussian": (350, 800), "mixture": (200, 650)}  # lowest and highest start by default, of 1,000
OFFSETS = (-100, -50, -25, 25, 50, 100)  # from the best start, in t
SHOWN = ("frechet", "recall", "copied")
BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0)  # nats


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Curve(Record):
    """The distance at each start, for one prior and one number of evaluations.

    Attributes:
        prior: "gaussian", "mixture", or a file.
        nfe: evaluations for each sample, as counted.
        t: the starts that were run, rising, `(S,)`.
        sigma: their levels, `(S,)`.
        nats: divergence of the data from the prior there, `(S,)`.
        figures: of the samples from each start.
        relative: the distances over that of the best start, each with the interval of paired replicates.
        window: the starts within 5% of the best.
        off_t: starts that are `OFFSETS` off the best, within the grid.
        off_nats: starts at which the divergence is one of `BUDGETS`, within the grid.
    """

    prior: str
    nfe: int
    t: np.ndarray
    sigma: np.ndarray
    nats: np.ndarray
    figures: tuple[Figures, ...]
    relative: list[Estimate]
    window: Window
    off_t: list[Off]
    off_nats: list[Off]

    @property
    def best(self) -> int:
        """The index of the best start."""
        return min(range(len(self.figures)), key=lambda i: self.figures[i].frechet.value)

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON; an infinite level is None."""
        known = {name: value for name, value in super().record().items() if name != "figures"}
        known["sigma"] = [s if np.isfinite(s) else None for s in self.sigma.tolist()]
        return known | {name: plain([getattr(one, name) for one in self.figures]) for name in SHOWN}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Curves(Record):
    """All curves.

    Attributes:
        curves: those with at least three starts that are done, by prior and number of evaluations.
        rows: one for each start, as `Sweep.table` returns them.
        floor: of images that the model has not seen; None where there are none.
        features: name of the features of the distance.
        weights: fingerprint of the model.
        settings: as given.
    """

    curves: list[Curve]
    rows: list[dict[str, Any]]
    floor: Floor | None
    features: str
    weights: str
    settings: SensitivitySettings

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        spent = [row["nfe"] * row["samples"] for row in self.rows if row["status"] == "done"]
        counts = {"cells": len(self.rows), "measured": len(spent), "evaluations": sum(spent)}
        kept = {name: value for name, value in super().record().items() if name != "rows"}
        return kept | counts | {"within": WITHIN}


class Sensitivity(Experiment[SensitivitySettings, Curves]):
    """Quality against the start of a late start: the window of good starts, in t and in nats."""

    def measure(self, settings: SensitivitySettings, lab: Lab) -> Curves | None:
        """Measure every start that is missing, and the divergence from each prior.

        Raises:
            ValueError: something that the settings name does not exist or does not fit the rest, or too few starts.
        """
        grid = grid_of(settings)
        subject = open_subject(grid, lab)
        require_no_classes(subject.network)
        sweep = sweep_of(cells_of(settings, subject), subject, grid, lab)
        lab.tell(f"{len(sweep.planned)} starts, {sweep.cost:,} network evaluations")
        with lab.bar("evaluating") as advance:
            sweep.measure(settings.budget, settings.retry, advance)
        if not lab.run.first:
            return None
        rows, judge = sweep.table(), subject.judge
        sweep.write(rows)
        return Curves(
            curves=_curves(settings, subject, sweep, lab), rows=rows, floor=judge.floor(settings.samples),
            features=judge.features, weights=subject.weights, settings=settings,
        )  # fmt: skip


def grid_of(settings: SensitivitySettings) -> Grid:
    """Return the model, the priors and the data, as a sweep opens them.

    Raises:
        ValueError: N(0, I) as a prior, or none given and none beside the model.
    """
    priors = settings.priors or beside(settings.model)
    if not priors or {FULL, PLAIN} & set(priors):
        raise ValueError(
            f"each start has the nats of its prior: expected priors beside the model {settings.model} or files "
            f"that `latestart fit` wrote, received {', '.join(priors) or 'none'}"
        )
    starts = settings.starts or (1.0,)
    return Grid.of_settings(settings, sampler=("ddim",), nfe=settings.evaluations, prior=priors, t_start=starts)


def cells_of(settings: SensitivitySettings, subject: Subject) -> list[Cell]:
    """Return the starts of every prior and number of evaluations, rising, each where a truncated schedule begins.

    Raises:
        ValueError: no beta-based schedule, fewer than three starts of a curve, or starts that are not on the schedule.
    """
    betas = getattr(subject.scheduler, "alphas_cumprod", None)
    if betas is None:
        raise ValueError(f"starts are those of beta-based schedules, received a {type(subject.scheduler).__name__}")
    top, cells = len(betas), []
    for prior in subject.priors:
        low, high = RANGES["mixture" if isinstance(subject.priors[prior][0], Mixture) else "gaussian"]
        asked = settings.starts or [t * top / 1000 for t in range(low, high + 1, settings.step)]
        for nfe in settings.evaluations:
            starts = sorted({nfe * int(t // nfe) for t in asked} - {0})
            if len(starts) < FEWEST or starts[-1] > top:
                raise ValueError(
                    f"a window needs at least {FEWEST} starts, up to {top}, in steps of {nfe}: received "
                    f"{', '.join(f'{t:g}' for t in asked)}"
                )
            cells += [Cell.of(settings, sampler="ddim", nfe=nfe, prior=prior, t_start=float(t)) for t in starts]
    return cells


def _curves(settings: SensitivitySettings, subject: Subject, sweep: Sweep, lab: Lab) -> list[Curve]:
    """Return the curves of the cells that are done, with the divergence on unseen images, else on training images."""
    measured: dict[tuple[str, int], list[tuple[Any, float, Figures]]] = {}
    for cell, outcome in ((planned.cell, sweep.outcome(planned)) for planned in sweep.planned):
        if outcome.figures is not None:
            start = (cell.t_start, np.inf if outcome.sigma is None else outcome.sigma, outcome.figures)
            measured.setdefault((cell.prior, cell.nfe), []).append(start)
    sets = subject.judge.reference.copying
    images = open_images(settings.model, settings.images, None)[0] if sets is None else sets[1]
    model = (subject.network, subject.scheduler, subject.weights)
    return [
        _curve(prior, nfe, starts, kept_divergence(lab, model, subject.priors[prior], images))
        for (prior, nfe), starts in measured.items()
        if len(starts) >= FEWEST
    ]


def _curve(prior: str, nfe: int, measured: list[tuple[Any, float, Figures]], divergence: NatsCurve) -> Curve:
    """Return a curve from its starts by rising t, with levels and figures, and the divergence from the prior."""
    times, levels, figures = zip(*measured)
    t, sigma, d = (np.array(row) for row in (times, levels, [each.frechet.value for each in figures]))
    replicates = torch.stack([each.replicates for each in figures], 1).double().numpy()
    nats, best = divergence.at(sigma), t[d.argmin()]

    def off(by: float, start: float | None) -> list[Off]:
        if start is None or not t[0] <= start <= t[-1]:
            return []
        return [Off(by, float(start), at_start(t, d, replicates, start))]

    return Curve(
        prior=prior,
        nfe=nfe,
        t=t,
        sigma=sigma,
        nats=nats,
        figures=figures,
        relative=[at_start(t, d, replicates, start) for start in t],
        window=find_window(t, d, replicates, nats, nats_replicates(divergence, sigma, len(replicates))),
        off_t=[one for by in OFFSETS for one in off(by, best + by)],
        off_nats=[one for budget in BUDGETS for one in off(budget, start_at(t, nats, budget))],
    )
