"""How far off may the start be? Quality against the start of a late start, at a fine grid of starts.

For DDIM with 3, 5 and 10 evaluations, started from the Gaussian and from the mixture of the training images, the
Frechet distance d(t) to the training set at every start t of a grid, all with the same white noise. Three readings:

    window    the run of starts around the best one with `d(t) <= 1.05 d(best)`, its ends linear in t between two starts
    in t      `d(best + e) / d(best)` for starts that are e too early or too late
    in nats   `d(t_b) / d(best)`, where t_b is the start at which the divergence of held-out images from the prior
              (`theory/nats.py`) is b: what a fixed budget of nats costs

The window is given in t, and in nats by the divergence at both ends: how wrong the prior may be, from the most that is
still good (the low end in t) to the least. Intervals are those of bootstrap replicates; the resamples of the samples
are the same at every start, so that they move together as the curve does, and those of the divergence are over its
images. A resampled curve is rougher than the curve, and its window rather narrower. A window that reaches an end of the
grid is at least so wide. The best start is told of the samples that it was chosen by, the lowest of as many noisy
distances as there are starts: its own distance is a little too low, and so what others cost a little too high.

Each start is a cell of a sweep (`lab/sweep.py`): kept the moment that it is done, skipped when it is there.
Starts are those that are run: a truncated schedule begins at a multiple of the number of steps.

    cells/KEY.safetensors     one start; nats-KEY.safetensors: the divergence from one prior
    results.parquet           the table of the cells, results.json all else

Expected on the shipped MNIST model, 500 samples: from the Gaussian with 3, 5 and 10 evaluations the best starts are at
525, 550 and 650, and the windows 90, 123 and 144 wide: the more evaluations, the earlier one can start and the less it
matters, but what a prior that is 4 nats off costs grows from 1.4 to 2.8 times the best. From the mixture the best start
is at 350 with all three and the windows are 50 to 65 wide; at 650 its distance is 6.3, 3.2 and 1.9 times the best, with
3 evaluations no lower than the Gaussian's best: what was decided for the samples there, the network decides anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latestart.checks import seeded
from latestart.data import Images
from latestart.evaluation.quality import Estimate, interval
from latestart.gaussians.mixture import Mixture
from latestart.lab.cells import Outcome, Planned, plan
from latestart.lab.divergence import kept_divergence, nats_at, require_no_classes
from latestart.lab.experiment import Progress
from latestart.lab.grid import FULL, PLAIN, Cell, Grid
from latestart.lab.judge import Floor, few_samples, ratio
from latestart.lab.subjects import Subject, beside, open_images, open_subjects
from latestart.lab.sweep import Sweep
from latestart.processes import Processes
from latestart.records import Record
from latestart.sampling.names import TIMES
from latestart.theory.nats import NatsCurve

EVALUATIONS = (3, 5, 10)
RANGES = {"gaussian": (350, 800), "mixture": (200, 650)}  # lowest and highest start by default, of 1,000
STEP = 25
FEWEST = 3  # starts of a curve
WITHIN = 0.05  # of the best
OFFSETS = (-100, -50, -25, 25, 50, 100)  # from the best start, in t
BUDGETS = (0.25, 0.5, 1.0, 2.0, 4.0)  # nats

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: the name of a shipped model, or a folder.
        priors: `gaussian`, `mixture`, or files; those that lie beside the model if not given.
        evaluations: of the network, for each sample.
        starts: in the scheduler's t, of every prior; by default a range for each kind of prior.
        step: between two of the default starts, in t of 1,000.
        samples, seed: as in `Grid`.
        features, images, held_out, batch_size, mixed_precision, scheduler: as in `Grid`.
    """

    model: str = "mnist"
    priors: tuple[str, ...] = ()
    evaluations: tuple[int, ...] = EVALUATIONS
    starts: tuple[float, ...] = ()
    step: int = STEP
    samples: int = 500
    seed: int = 0
    features: str | None = None
    images: str | None = None
    held_out: str | None = None
    batch_size: int = 256
    mixed_precision: str = "no"
    scheduler: str | None = None

    def grid(self) -> Grid:
        """The model, the priors and the data, as a sweep opens them.

        Raises:
            ValueError: no prior, one that is none, too few starts, or a number that makes no sense.
        """
        priors = self.priors or beside(self.model)
        if not priors or {FULL, PLAIN} & set(priors):
            raise ValueError(
                f"a start is held against the nats of a prior: expected priors beside the model {self.model} or files "
                f"that `latestart fit` wrote, received {', '.join(priors) or 'none'}"
            )
        if self.starts and len(set(self.starts)) < FEWEST:
            told = ", ".join(f"{t:g}" for t in self.starts)
            raise ValueError(f"a window needs at least {FEWEST} starts, received {told}")
        if self.step < 1:
            raise ValueError(f"step: expected at least 1, in t, received {self.step}")
        return Grid.of_settings(
            self,
            sampler=("ddim",),
            nfe=self.evaluations,
            prior=priors,
            t_start=self.starts or (1.0,),
        )


@dataclass(frozen=True)
class Window:
    """The starts within 5% of the best of a curve.

    Attributes:
        best: the best start, in t.
        low, high: the ends, in t, each with its interval over resamples.
        width: their difference, likewise.
        nats_low, nats_high: divergence of the data from the prior at the high end and at the low end, likewise.
        nats_width: their difference, likewise.
        closed: whether the curve rises above the bound on the low and on the high side, within the grid.
    """

    best: float
    low: Estimate
    high: Estimate
    width: Estimate
    nats_low: Estimate
    nats_high: Estimate
    nats_width: Estimate
    closed: tuple[bool, bool]


@dataclass(frozen=True)
class Off:
    """What a start that is not the best costs.

    Attributes:
        by: how far it is off: t from the best start, or the nats at which it lies.
        t: the start.
        relative: the distance over that of the best start, with the interval of paired replicates.
    """

    by: float
    t: float
    relative: Estimate


@dataclass(frozen=True, eq=False, repr=False)
class Curve(Record):
    """The distance at each start, for one prior and one number of evaluations.

    Attributes:
        prior: "gaussian", "mixture", or a file.
        nfe: evaluations for each sample, as counted.
        t: the starts that were run, rising, `(S,)`.
        sigma: their levels, `(S,)`.
        nats: divergence of the data from the prior there, `(S,)`.
        frechet: the distances, with their intervals.
        recall: of the samples from each start, likewise.
        copied: their share of copies, likewise; None where there are no images that the model has not seen.
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
    frechet: list[Estimate]
    recall: list[Estimate]
    copied: list[Estimate | None]
    relative: list[Estimate]
    window: Window
    off_t: list[Off]
    off_nats: list[Off]

    @property
    def best(self) -> int:
        """The index of the best start."""
        return min(range(len(self.frechet)), key=lambda i: self.frechet[i].value)

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("t", "nats")}
        finite = np.isfinite(self.sigma)
        sigma = [float(s) if known else None for s, known in zip(self.sigma, finite)]
        return {**asdict(self), **arrays, "sigma": sigma}


@dataclass(frozen=True)
class Result:
    """All curves.

    Attributes:
        curves: those of which at least three starts are done, by prior and number of evaluations.
        rows: of every start, as `Sweep.table` has them.
        floor: of images that the model has not seen; None where there are none.
        features: what the distance is taken in.
        weights: the fingerprint of the model.
        settings: what was asked for.
    """

    curves: list[Curve]
    rows: list[dict[str, Any]]
    floor: Floor | None
    features: str
    weights: str
    settings: Settings

    def record(self) -> dict[str, Any]:
        """All figures, ready for `results.json`."""
        done = [row for row in self.rows if row["status"] == "done"]
        return {
            "settings": asdict(self.settings),
            "weights": self.weights,
            "features": self.features,
            "within": WITHIN,
            "cells": len(self.rows),
            "measured": len(done),
            "evaluations": sum(row["nfe"] * row["samples"] for row in done),
            "floor": None if self.floor is None else self.floor.record(),
            "curves": [curve.record() for curve in self.curves],
        }


@dataclass
class Sensitivity:
    """The measurement in a folder: each start is kept there the moment that it is done, as a sweep keeps its cells.

    Args:
        settings: what is measured.
        out: the folder.
        run: the processes that share the starts; the present one alone by default.
        tell: told what is worth knowing.

    Raises:
        ValueError: something that the settings name does not exist or does not fit the rest, or too few starts.
    """

    settings: Settings
    out: Path
    run: Processes = field(default_factory=Processes)
    tell: Tell = lambda _: None

    def __post_init__(self) -> None:
        grid, model = self.settings.grid(), self.settings.model
        (subject,) = open_subjects(grid, self.out / "statistics.safetensors", self.run, self.tell).values()
        require_no_classes(subject.network)
        if (warning := few_samples(grid.samples, subject.judge)) is not None:
            self.tell(warning)
        self.subject = subject
        planned = plan(cells_of(self.settings, subject), {model: subject})
        self.sweep = Sweep(planned, {model: subject}, self.out, grid.batch_size, self.run, self.tell)

    @property
    def cost(self) -> int:
        """Network evaluations of all starts."""
        return sum(planned.cell.cost for planned in self.sweep.planned if planned.steps is not None)

    def measure(self, budget: int | None = None, retry: bool = False, progress: Progress | None = None) -> None:
        """Measure every start that is missing, as `Sweep.measure`."""
        self.sweep.measure(budget, retry, progress)

    def result(self) -> Result:
        """The curves from what was measured, beside the divergence."""
        judge = self.subject.judge
        rows = self.sweep.table()
        self.sweep.write(rows)
        floor = judge.floor(self.settings.samples)
        return Result(self._curves(), rows, floor, judge.features, self.subject.weights, self.settings)

    def _curves(self) -> list[Curve]:
        outcomes = [(planned, self.sweep.outcome(planned)) for planned in self.sweep.planned]
        known = [(planned, outcome) for planned, outcome in outcomes if outcome.figures is not None]
        places = dict.fromkeys((planned.cell.prior, planned.cell.nfe) for planned in self.sweep.planned)
        curves = []
        for prior, nfe in places:
            mine = [(p, o) for p, o in known if (p.cell.prior, p.cell.nfe) == (prior, nfe)]
            if len(mine) >= FEWEST:
                curves.append(curve_of(prior, nfe, mine, self._divergence(prior)))
        return curves

    def _divergence(self, prior: str) -> NatsCurve:
        """From its file but for the first time."""
        subject = self.subject
        return kept_divergence(
            self.out,
            subject.network,
            subject.scheduler,
            subject.weights,
            subject.priors[prior],
            self._pictures(),
            self.tell,
        )

    def _pictures(self) -> Images:
        """Images that the model has not seen, or else training images."""
        if (sets := self.subject.judge.reference.copying) is not None:
            return sets[1]
        return open_images(self.settings.model, self.settings.images, None)[0]


def cells_of(settings: Settings, subject: Subject) -> list[Cell]:
    """The starts of every prior and number of evaluations, rising, each where a schedule so cut begins.

    Raises:
        ValueError: no beta-based schedule, fewer than three starts of a curve, or starts that are not on the schedule.
    """
    betas = getattr(subject.scheduler, "alphas_cumprod", None)
    if betas is None:
        raise ValueError(f"starts are those of beta-based schedules, received a {type(subject.scheduler).__name__}")
    top, cells = len(betas), []
    for prior in subject.priors:
        asked = starts_of(settings, isinstance(subject.priors[prior][0], Mixture), top)
        for nfe in settings.evaluations:
            starts = sorted({nfe * int(t // nfe) for t in asked} - {0})
            if len(starts) < FEWEST or starts[-1] > top:
                raise ValueError(
                    f"a window needs at least {FEWEST} starts, up to {top}, in steps of {nfe}: received "
                    f"{', '.join(f'{t:g}' for t in asked)}"
                )
            cells += [
                Cell(settings.model, "ddim", nfe, prior, float(t), TIMES[0], False, settings.samples, settings.seed)
                for t in starts
            ]
    return cells


def starts_of(settings: Settings, mixture: bool, top: int) -> Sequence[float]:
    """Those that were asked for, or the default ones of a kind of prior, on a schedule of `top` times."""
    if settings.starts:
        return settings.starts
    low, high = RANGES["mixture" if mixture else "gaussian"]
    return [t * top / 1000 for t in range(low, high + 1, settings.step)]


def curve_of(prior: str, nfe: int, measured: list[tuple[Planned, Outcome]], divergence: NatsCurve) -> Curve:
    """A curve from its starts by rising t, and the divergence from the prior."""
    figures = [outcome.figures for _, outcome in measured if outcome.figures is not None]
    t = np.array([planned.cell.t_start for planned, _ in measured], dtype=float)
    sigma = np.array([np.inf if outcome.sigma is None else outcome.sigma for _, outcome in measured])
    d = np.array([each.frechet.value for each in figures])
    replicates = torch.stack([each.replicates for each in figures], 1).double().numpy()
    nats = nats_at(sigma, divergence.sigma, divergence.nats)
    relative = [at_start(t, d, replicates, start) for start in t]
    best = t[d.argmin()]
    window = find_window(t, d, replicates, nats, nats_replicates(divergence, sigma, len(replicates)))
    off_t = [Off(e, best + e, at_start(t, d, replicates, best + e)) for e in OFFSETS if t[0] <= best + e <= t[-1]]
    found = [(budget, start_at(t, nats, budget)) for budget in BUDGETS]
    off_nats = [Off(b, start, at_start(t, d, replicates, start)) for b, start in found if start is not None]
    frechet, recall = [each.frechet for each in figures], [each.recall for each in figures]
    copied = [each.copied for each in figures]
    return Curve(prior, nfe, t, sigma, nats, frechet, recall, copied, relative, window, off_t, off_nats)


def at_start(t: np.ndarray, d: np.ndarray, replicates: np.ndarray, start: float) -> Estimate:
    """The distance at a start, linear between two of the grid, over that of the best, with paired replicates."""
    best = d.argmin()
    here = torch.from_numpy(np.array([np.interp(start, t, row) for row in replicates]))
    return ratio((float(np.interp(start, t, d)), here), (float(d[best]), torch.from_numpy(replicates[:, best])))


def start_at(t: np.ndarray, nats: np.ndarray, budget: float) -> float | None:
    """The highest start, of rising ones, at which the divergence is a budget; None where it is not on the grid."""
    falling = np.maximum.accumulate(nats[::-1])  # with falling t: what an error of its estimate lowers is levelled
    if not falling[0] <= budget <= falling[-1]:
        return None
    return float(np.interp(budget, falling, t[::-1]))


def nats_replicates(divergence: NatsCurve, sigma: np.ndarray, count: int) -> np.ndarray:
    """The divergence at the levels sigma `(S,)` for so many resamples of its images, `(count, S)`."""
    generator = seeded(0)
    integrals = divergence.integrals
    index = torch.randint(len(integrals), (count, len(integrals)), generator=generator)
    return np.stack([nats_at(sigma, divergence.sigma, integrals[row].mean(0)) for row in index])


def find_window(
    t: np.ndarray, d: np.ndarray, replicates: np.ndarray, nats: np.ndarray, nats_replicates: np.ndarray
) -> Window:
    """The starts within 5% of the best.

    Args:
        t: rising starts, `(S,)`.
        d: the distance at each.
        replicates: of the distances, resampled alike, `(R, S)`.
        nats: the divergence at each start.
        nats_replicates: of the divergence, `(R, S)`.
    """
    ends = window_ends(t, d)
    spread = np.array([window_ends(t, row) for row in replicates])
    nats_ends = np.interp(ends, t, nats)
    nats_spread = np.array([np.interp(pair, t, row) for pair, row in zip(spread, nats_replicates)])
    low, high = (_estimate(spread[:, i], ends[i]) for i in (0, 1))
    nats_high, nats_low = (_estimate(nats_spread[:, i], nats_ends[i]) for i in (0, 1))
    return Window(
        best=float(t[d.argmin()]),
        low=low,
        high=high,
        width=_estimate(spread[:, 1] - spread[:, 0], ends[1] - ends[0]),
        nats_low=nats_low,
        nats_high=nats_high,
        nats_width=_estimate(nats_spread[:, 0] - nats_spread[:, 1], nats_ends[0] - nats_ends[1]),
        closed=(bool(ends[0] > t[0]), bool(ends[1] < t[-1])),
    )


def _estimate(replicates: np.ndarray, value: float) -> Estimate:
    return interval(torch.from_numpy(replicates), float(value))


def window_ends(t: np.ndarray, d: np.ndarray, within: float = WITHIN) -> tuple[float, float]:
    """Where `d` first rises above `(1 + within) min(d)` on either side of its minimum, linear between points."""
    best, bound = int(d.argmin()), (1 + within) * d.min()
    return _end(t[best::-1], d[best::-1], bound), _end(t[best:], d[best:], bound)


def _end(t: np.ndarray, d: np.ndarray, bound: float) -> float:
    above = np.flatnonzero(d > bound)
    if not len(above):
        return float(t[-1])
    i = above[0]
    return float(t[i - 1] + (bound - d[i - 1]) / (d[i] - d[i - 1]) * (t[i] - t[i - 1]))
