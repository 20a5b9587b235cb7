"""The late-start curve: quality against the time at which a full-length stochastic sampler is started.

DDPM with as many steps as the whole schedule affords (`length`), of which a start at t leaves `length t / T`: the same
times as the full run's, only the last of them. It is started from N(0, I), as the paper does it, and beside it from the
Gaussian and the mixture of the training images noised to t, if these are asked for. All starts have the same white
noise. Steps saved are not the subject: what is lost by starting late is, with every step small.

    plateau   the starts from T down to the last whose Frechet distance is at most 1.1 times the full run's
    fall      what comes below; `doubled` is where it passes twice the full run's

Both ends are linear in t and in the logarithm of the distance between two starts, with the interval of bootstrap
replicates that are paired over all starts. Starts above the end that exceed the bound nonetheless are named. Beside the
distance stand recall and the share of copies: a low distance by replayed images would not be one.

Beside the curve stand the critical levels of the network, by the criteria of `theory/` with their intervals, as quick
estimates or from the file of a full `latestart analyze`.

Expected on the shipped MNIST model, by 500 samples of 250 steps: from N(0, I) the distance is within 10% of the full
run's down to t = 865 (95% interval 663 to 985: 500 samples tell 10% badly), twice it at 665 (598 to 806), and 8.6 times
it at 500, below the levels where neighbouring paths separate (611) and the covariance speciates (543). The source
of the figure is Raya and Ambrogioni, NeurIPS 2023.
"""

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from latestart.evaluation.quality import Estimate, interval
from latestart.experiments.late_start.critical_levels import Level, critical_levels
from latestart.experiments.late_start.settings import LateStartSettings
from latestart.lab.cells import Outcome, Planned
from latestart.lab.experiment import Experiment, Lab
from latestart.lab.grid import PLAIN, Cell, Grid
from latestart.lab.judge import Figures, Floor, ratio, ratio_replicates
from latestart.lab.subjects import open_subject
from latestart.lab.sweep import Sweep, sweep_of
from latestart.records import Record

__all__ = ["Curve", "LateStart", "Line", "Point", "cells_of", "last_within", "line_of"]

STARTS = (1, 0.9, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.2, 0.1)  # shares of the schedule
WITHIN, TWICE = 0.1, 2.0  # of the full run's distance
SHARE = 4  # of the schedule's times, one in so many is a step


@dataclass(frozen=True, kw_only=True)
class Point:
    """One start of one prior.

    Attributes:
        t: the start that was run, in the scheduler's t: the first step stands at t - 1.
        steps: network evaluations for each sample.
        sigma: the level of the first step; None where it is infinite.
        figures: of the samples.
        relative: their distance over that of the full run from N(0, I), by paired replicates.
    """

    t: float
    steps: int
    sigma: float | None
    figures: Figures
    relative: Estimate

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        place = {"t_start": self.t, "steps": self.steps, "sigma": self.sigma}
        return place | {"relative": asdict(self.relative), **self.figures.estimates()}


@dataclass(frozen=True, kw_only=True, repr=False)
class Line(Record):
    """The starts of one prior, by falling t.

    Attributes:
        prior: its name.
        points: the starts.
        plateau: t of the lower end of the plateau; None where not even the first start belongs to it.
        doubled: t below which the distance is more than twice the full run's; None where it never is.
        exceptions: starts above the end of the plateau that exceed its bound.
        falls: whether there are starts below the plateau.
    """

    prior: str
    points: tuple[Point, ...]
    plateau: Estimate | None
    doubled: Estimate | None
    exceptions: tuple[float, ...]
    falls: bool


@dataclass(frozen=True, kw_only=True, repr=False)
class Curve(Record):
    """The curve.

    Attributes:
        lines: by prior, N(0, I) first.
        levels: critical levels by falling t.
        missing: reasons why a criterion has no level.
        failed: starts that could not be measured, with the reasons.
        length: steps of the full run.
        features: name of the features of the distance.
        weights: fingerprint of the model.
        settings: as given.
        floor: of images that the model has not seen; None where there are none.
    """

    lines: tuple[Line, ...]
    levels: tuple[Level, ...]
    missing: tuple[str, ...]
    failed: tuple[str, ...]
    length: int
    features: str
    weights: str
    settings: LateStartSettings
    floor: Floor | None = None

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        return {name: one for name, one in super().record().items() if name != "weights"} | {"within": WITHIN}


class LateStart(Experiment[LateStartSettings, Curve]):
    """Quality against the start of full-length DDPM, beside the critical levels."""

    def measure(self, settings: LateStartSettings, lab: Lab) -> Curve | None:
        """Measure every start that is missing, and the critical levels.

        Raises:
            ValueError: something that the settings name does not exist or does not fit the rest; the full run could not
                be measured.
        """
        priors = tuple(dict.fromkeys((PLAIN, *settings.priors)))
        grid = Grid.of_settings(settings, sampler=("ddpm",), prior=priors, t_start=settings.starts or (1.0,))
        subject = open_subject(grid, lab)
        if not hasattr(scheduler := subject.scheduler, "alphas_cumprod"):
            known = type(scheduler).__name__
            raise ValueError(f"the curve is that of DDPM, on beta-based schedules: received a {known}")
        length, cells = cells_of(settings, priors, len(scheduler.alphas_cumprod))
        sweep = sweep_of(cells, subject, grid, lab)
        levels, missing = critical_levels(settings, subject, lab) if lab.run.first else ((), ())
        with lab.bar("evaluating") as advance:
            sweep.measure(retry=settings.retry, budget=settings.budget, progress=advance)
        if not lab.run.first:
            return None
        lines, failed = _lines(sweep)
        return Curve(
            lines=lines, levels=levels, missing=missing, failed=failed, length=length, settings=settings,
            features=subject.judge.features, weights=subject.weights, floor=subject.judge.floor(settings.samples),
        )  # fmt: skip


def _lines(sweep: Sweep) -> tuple[tuple[Line, ...], tuple[str, ...]]:
    """The lines from the cells that are done, and the reasons why others are not."""
    done: dict[str, list[tuple[Planned, Outcome]]] = {}
    failed, full = [], sweep.outcome(sweep.planned[0]).figures
    for planned in sweep.planned:
        cell, outcome = planned.cell, sweep.outcome(planned)
        if outcome.figures is None:
            failed.append(f"{cell.prior} at t = {cell.t_start:g}: {outcome.reason}")
        else:
            done.setdefault(cell.prior, []).append((planned, outcome))
    if full is None:
        raise ValueError(f"the full run could not be measured: {failed[0]}")
    return tuple(line_of(prior, mine, full) for prior, mine in done.items()), tuple(failed)


def cells_of(settings: LateStartSettings, priors: tuple[str, ...], times: int) -> tuple[int, list[Cell]]:
    """Return the length of the full run, and the cells of the curve: the full run first, each prior by falling starts.

    Raises:
        ValueError: a length that is no divisor of the schedule's times, or a start beyond them or below a step.
    """
    length = settings.length or (times if times % SHARE else times // SHARE)
    if not 0 < length <= times or times % length:
        raise ValueError(f"the length of the full run must divide the {times} times of the schedule, received {length}")
    stride = times // length
    asked = settings.starts or tuple(share * times for share in STARTS)
    if wrong := [t for t in asked if not stride <= t <= times]:
        raise ValueError(f"starts lie between {stride} (one step) and {times}, received {wrong[0]:g}")
    starts = sorted({int(t // stride) * stride for t in asked} | {times}, reverse=True)
    return length, [
        Cell.of(settings, sampler="ddpm", nfe=t // stride, prior=prior, t_start=float(t), clip=settings.clip)
        for prior, t in product(priors, starts)
    ]


def line_of(prior: str, measured: list[tuple[Planned, Outcome]], full: Figures) -> Line:
    """Return the line of one prior from its starts by falling t, against the full run's figures."""
    points, relative = [], []
    for planned, outcome in measured:
        cell, figures = planned.cell, outcome.figures
        assert figures is not None and cell.t_start is not None
        mine, whole = ((one.frechet.value, one.replicates) for one in (figures, full))
        relative.append(ratio_replicates(mine, whole))
        known = ratio(mine, whole)
        points.append(Point(t=cell.t_start, steps=cell.nfe, sigma=outcome.sigma, figures=figures, relative=known))
    t, d = np.array([p.t for p in points]), np.array([p.relative.value for p in points])
    replicates = torch.stack(relative, 1).numpy()
    plateau, beyond = _found(t, d, replicates, 1 + WITHIN), d > 1 + WITHIN
    return Line(
        prior=prior, points=tuple(points), plateau=plateau,
        doubled=_found(t, d, replicates, TWICE) if d[-1] > TWICE else None,
        exceptions=tuple(t[beyond & (t >= (np.inf if plateau is None else plateau.value))].tolist()),
        falls=bool(beyond[-1]),
    )  # fmt: skip


def _found(t: np.ndarray, d: np.ndarray, replicates: np.ndarray, bound: float) -> Estimate | None:
    """`last_within` with its interval; a replicate that is nowhere within counts as the first start."""
    value = last_within(t, d, bound)
    if np.isnan(value):
        return None
    found = np.array([last_within(t, row, bound) for row in replicates])
    return interval(torch.from_numpy(np.where(np.isnan(found), t[0], found)), value)


def last_within(t: np.ndarray, d: np.ndarray, bound: float) -> float:
    """Return the last t, along falling t, with d within `bound`: linear in t and log d; NaN without any."""
    within = np.flatnonzero(d <= bound)
    if not len(within):
        return float("nan")
    i = within[-1]
    if i == len(t) - 1:
        return float(t[-1])
    low, high = np.log(np.maximum(d[i : i + 2], np.finfo(float).tiny))
    return float(t[i] + (np.log(bound) - low) / (high - low) * (t[i + 1] - t[i]))
