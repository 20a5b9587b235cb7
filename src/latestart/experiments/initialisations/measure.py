"""Does another start distribution do as well? Nine of them, each at its own best start, at equal evaluations.

    isotropic   N(0, I), at late starts and at the top of the schedule
    uniform     the box along the principal axes with the mean and the covariance of the noised data
    diagonal    the Gaussian of the images with a variance for each value
    lowrank     the Gaussian with their leading directions, and one variance for all others
    gaussian    the Gaussian with their whole covariance (or as much of it as `Gaussian.fit` takes)
    labels      a Gaussian for each class of the images, weighted by its share of them
    mixture     the mixture of Gaussians beside the model, or one of 30 components; `mixture:K` has K
    flow        the Gaussian reshaped by a normalising flow, fitted to the noised images
    images      training images under noise: the distribution that all of these stand for, and so the limit

For each, a deterministic sampler with 3, 5 and 10 evaluations begins at every start of a grid, with the white noise of
one seed; the best starts are drawn again with the next seed, and only these are reported (`lab/selection.py`). The
images that the flow, the mixture and the others were fitted to are the same in both draws.

The ratios to the Gaussian are of paired bootstrap replicates: sample i has the same white noise in all rows. The noised
images are drawn from the very images that copies are looked for in, so that no copy escapes. The floor is the figures
of images that the model has not seen. Its share of copies is that of every second held-out image, with the others as
the held-out set and equally many training images, and is 0.01 but for chance: an image held against itself would never
be a copy.

A kind of start that cannot be fitted, or measured anywhere, has failed, and stands in the report with its reason; the
others go on.

Expected, at 3 evaluations on the shipped MNIST model: the noised images are lowest at low starts, where they are
copies. With the right two moments the shape matters little where one Gaussian is a good start, near t = 500: the
uniform start is nearly as good as the Gaussian, 32 directions are as good as all, and the diagonal is worse. At lower
levels the starts that know of the clusters gain on the Gaussian: the mixture has 0.3 of its distance, ten Gaussians by
their labels as little, and 100 components 0.25, all without copies, where noised images that are no copies have 0.5; a
small flow, though likelier than the Gaussian by two nats at sigma = 1.45, hardly gains.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from latestart.data import Images
from latestart.denoisers.adapter import as_network
from latestart.evaluation.copying import CopyingFrom
from latestart.evaluation.quality import Estimate
from latestart.experiments.initialisations.settings import InitialisationSettings
from latestart.experiments.initialisations.starts import Starts, flow_of
from latestart.gaussians.flow import require_zuko
from latestart.lab.cells import Outcome
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.lab.grid import FULL, PLAIN, Cell, Grid
from latestart.lab.judge import Figures, over
from latestart.lab.selection import choose, draw_again
from latestart.lab.subjects import Subject, open_images, open_subject
from latestart.lab.sweep import sweep_of
from latestart.records import plain

__all__ = ["Comparison", "Initialisations", "Point", "Row", "compare", "picks", "row_of", "unseen_copies"]


@dataclass(frozen=True)
class Point:
    """A start distribution at one start of the grid: its cell, its level, and the figures to choose by."""

    cell: Cell
    sigma: float
    figures: Figures

    def record(self) -> dict[str, Any]:
        """Return all but the replicates, for JSON."""
        cell = self.cell
        place = {"kind": cell.prior, "nfe": cell.nfe, "t_start": cell.t_start, "sigma": self.sigma}
        return place | self.figures.estimates()


@dataclass(frozen=True, kw_only=True)
class Row:
    """A start distribution at its best start.

    Attributes:
        point: the start, with the figures that it was chosen by; the lowest distance of many is too low.
        clean: whether it was chosen among the starts that do not copy, after the best of all did.
        edge: "low" or "high" at the end of the grid, so that a better start may lie beyond it; else "".
        figures: with the next seed.
        relative: the distance over that of the Gaussian at its own best start, by paired replicates.
    """

    point: Point
    clean: bool
    edge: str
    figures: Figures
    relative: Estimate | None = None

    def record(self) -> dict[str, Any]:
        """Return all figures but the replicates, for JSON."""
        chosen = {"clean": self.clean, "edge": self.edge, "chosen_by": plain(self.point.figures.frechet)}
        return self.point.record() | chosen | {"relative": plain(self.relative)} | self.figures.estimates()


Curves = dict[tuple[str, int], list[Point]]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The start distributions.

    Attributes:
        settings: as given.
        features: name of the features of the distance.
        curves: by kind and evaluations, the starts of the grid, rising.
        rows: the best starts, by evaluations and kind.
        floor: the figures of images that the model has not seen; None without such.
        unseen: number of these, at most that of the samples.
        fitted: by kind, the start distribution in words.
        failed: start distributions that could not be fitted or measured, with the reasons.
        gains: of the flow over the Gaussian that it reshapes, as `(sigma, nats)` on held-out images; or empty.
    """

    settings: InitialisationSettings
    features: str
    curves: Curves
    rows: list[Row]
    floor: Figures | None
    unseen: int
    fitted: dict[str, str]
    failed: dict[str, str]
    gains: list[tuple[float, float]]

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        settings = self.settings
        return {
            "model": settings.model,
            "features": self.features,
            **{name: getattr(settings, name) for name in ("sampler", "samples", "rank", "components")},
            "seed_chosen_by": settings.seed,
            "seed_reported": settings.seed + 1,
            "fitted": self.fitted,
            "flow": plain(flow_of(settings)) if "flow" in settings.distributions else None,
            "flow_gain": [{"sigma": sigma, "nats": nats} for sigma, nats in self.gains],
            "floor": None if self.floor is None else {"images": self.unseen, **self.floor.estimates()},
            "failed": self.failed,
            "rows": plain(self.rows),
            "grid": [point.record() for curve in self.curves.values() for point in curve],
        }


class Initialisations(Experiment[InitialisationSettings, Comparison]):
    """Start distributions at their own best starts."""

    def measure(self, settings: InitialisationSettings, lab: Lab) -> Comparison | None:
        """Fit and measure all that is missing.

        Raises:
            ImportError: the flow is asked for and zuko is not installed.
            ValueError: something that the settings name does not exist or does not fit the rest; a class-conditional
                model; all has failed.
        """
        if "flow" in settings.distributions:
            require_zuko()
        subject = open_subject(grid_of(settings), lab)
        data, _ = open_images(settings.model, settings.images, settings.held_out)
        return compare(settings, subject, data, lab)


def grid_of(settings: InitialisationSettings) -> Grid:
    """Return the model and the data, as a sweep opens them."""
    axes = {"sampler": (settings.sampler,), "nfe": settings.nfe, "prior": (FULL,), "t_start": settings.starts}
    return Grid.of_settings(settings, **axes)


def compare(settings: InitialisationSettings, subject: Subject, data: Images, lab: Lab) -> Comparison | None:
    """Compare start distributions for a model that is open, and its training images."""
    if as_network(subject.network).classes:
        raise ValueError(f"{settings.model} is class-conditional: these start distributions know no classes")
    known: dict[Cell, Outcome] = {}

    def next_of(point: Point) -> Cell:
        return replace(point.cell, seed=settings.seed + 1)

    def again(point: Point) -> Figures | None:
        outcome = known.get(next_of(point))
        return None if outcome is None else outcome.figures

    def chosen() -> Iterator[Cell]:
        return (next_of(point) for point, _ in picks(_curves(known, settings.seed), again))

    with lab.bar("measuring") as advance:
        starts = Starts(settings=settings, subject=subject, data=data, lab=lab, progress=advance)
        priors, failed = starts.priors()
        able = replace(subject, priors=priors)

        def draw(cells: list[Cell]) -> None:
            known.update(_measured(settings, able, cells, lab, advance))

        draw(list(_grid(settings, able)))
        draw_again(chosen, draw, lab.run)
    if not lab.run.first:
        return None
    curves, failed = _curves(known, settings.seed), failed | _missing(known)
    rows = [
        row_of(point, clean, curves[point.cell.prior, point.cell.nfe], figures)
        for point, clean in picks(curves, again)
        if (figures := again(point)) is not None
    ]
    if not rows:
        name, reason = next(iter(failed.items()))
        raise ValueError(f"no start distribution could be measured, the first being {name}: {reason}")
    floor, unseen = _floor(subject, settings.samples)
    return Comparison(
        settings=settings, features=subject.judge.features, curves=curves, rows=_related(rows), floor=floor,
        unseen=unseen, fitted={kind: made.words for kind, made in starts.made.items()}, failed=failed,
        gains=priors["flow"][0].change.gains if "flow" in priors else [],
    )  # fmt: skip


def _grid(settings: InitialisationSettings, subject: Subject) -> Iterator[Cell]:
    """Every kind that could be made at every start, with the seed to choose by."""
    top = float(len(subject.scheduler.alphas_cumprod))
    for kind in subject.priors:
        starts = dict.fromkeys((*sorted(settings.starts), *((top,) if kind == PLAIN else ())))
        for nfe, start in product(settings.nfe, starts):
            yield Cell.of(settings, sampler=settings.sampler, nfe=nfe, prior=kind, t_start=start)


def _measured(
    settings: InitialisationSettings, subject: Subject, cells: list[Cell], lab: Lab, progress: Progress
) -> dict[Cell, Outcome]:
    """The outcome of each cell, in the first process."""
    sweep = sweep_of(cells, subject, grid_of(settings), lab)
    sweep.measure(retry=True, progress=progress)
    return {one.cell: sweep.outcome(one) for one in sweep.planned} if lab.run.first else {}


def _curves(outcomes: dict[Cell, Outcome], seed: int) -> Curves:
    """By kind and evaluations, the starts that could be measured with a seed."""
    curves: Curves = {}
    for cell, outcome in outcomes.items():
        if cell.seed == seed and outcome.figures is not None and outcome.sigma is not None:
            curves.setdefault((cell.prior, cell.nfe), []).append(Point(cell, outcome.sigma, outcome.figures))
    return curves


def _missing(outcomes: dict[Cell, Outcome]) -> dict[str, str]:
    """Why starts could not be measured, those of one kind and one reason together."""
    groups: dict[tuple[str, int, int, str], list[str]] = {}
    for cell, outcome in outcomes.items():
        if outcome.figures is None:
            groups.setdefault((cell.prior, cell.nfe, cell.seed, outcome.reason), []).append(f"{cell.t_start:g}")
    return {
        f"{kind} at {nfe} evaluations, t = {', '.join(starts)}, seed {seed}": reason
        for (kind, nfe, seed, reason), starts in groups.items()
    }


def picks(curves: Curves, again: Callable[[Point], Figures | None]) -> Iterator[tuple[Point, bool]]:
    """Yield the best start of each curve, and where it copies the best of those that do not; the latter with True."""
    for curve in curves.values():
        choice = choose(curve, lambda point: point.figures, again)
        yield from ((point, point is choice.clean) for point in choice.chosen)


def row_of(point: Point, clean: bool, curve: list[Point], figures: Figures) -> Row:
    """Return the row of a start that was picked from a curve and drawn again."""
    ends = {curve[0].cell.t_start: "low", curve[-1].cell.t_start: "high"}
    edge = ends.get(point.cell.t_start, "") if len(curve) > 1 and not clean else ""
    return Row(point=point, clean=clean, edge=edge, figures=figures)


def _related(rows: list[Row]) -> list[Row]:
    """The rows in the order of evaluations, each over the Gaussian at the same evaluations."""
    base = {row.point.cell.nfe: row.figures for row in rows if row.point.cell.prior == "gaussian" and not row.clean}
    related = [
        replace(row, relative=over(row.figures, base[nfe])) if (nfe := row.point.cell.nfe) in base else row
        for row in rows
    ]
    return sorted(related, key=lambda row: row.point.cell.nfe)


def _floor(subject: Subject, samples: int) -> tuple[Figures | None, int]:
    """The figures of unseen images, and their number, at most that of the samples."""
    copying = subject.judge.reference.copying
    if copying is None:
        return None, 0
    unseen = Images(torch.cat([copying[1].pixels, copying[2].pixels]))[:samples]
    return replace(subject.judge(unseen.floats()), copied=unseen_copies(*copying)), len(unseen)


def unseen_copies(train: Images, held_out: Images, second: Images) -> Estimate | None:
    """Return the share of copies among every second held-out image, with the others as the held-out set.

    An image held against a set with itself in it is at no distance from that set. None where there is one image.
    """
    near, far = held_out[1::2], held_out[::2][: len(held_out) // 2]
    return CopyingFrom(train[: len(far)], far, second)(near).copied if len(near) else None
