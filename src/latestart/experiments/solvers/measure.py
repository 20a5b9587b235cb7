"""Compare the prior solver with the other samplers, each at its own best.

For each kind of start and number of evaluations, every way to run each sampler (start, spacing, last level, clipping;
of the prior solver also the prior inside, the share of noise and the order) is scanned with few samples; the best of
each sampler are measured with all samples and the same seed; the best of these is drawn again with the next seed, by
the rule of selection, which finds copies. Ways whose samples, before clipping, have more than 1.05 times the variance
of the data are left out wherever there are others: contrast beyond the data's flatters distances (`docs/solver.md`).

The prior solver then stands against the sampler that was chosen best among the other deterministic ones, and against
DDPM, on the noise of that next seed: the ratio of the distances in both feature spaces, with the intervals of paired
bootstrap replicates.

cells/KEY.safetensors    each cell; results.parquet is their table

Expected, with 1,000 samples: on MNIST from the Gaussian at its best start 1.2 at 3 evaluations and 1.05 at 5, from
full noise 1.05 at 5, from the mixture 1.15 at 3; on CIFAR-10 from full noise 1.2 at 3.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from latestart.evaluation.quality import Estimate
from latestart.experiments.solvers.settings import SolversSettings
from latestart.fingerprints import Print
from latestart.lab.cells import Planned, again, plan
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.lab.grid import FULL, Cell, Grid
from latestart.lab.judge import Figures, Floor, Judge, over, second_over
from latestart.lab.selection import choose, draw_again
from latestart.lab.subjects import Subject, open_subject
from latestart.lab.sweep import Sweep
from latestart.records import Record
from latestart.sampling.names import PRIOR

__all__ = ["NOISY", "Group", "Solvers", "Standing", "Standings", "Versus", "group_of"]

NOISY = ("ddpm", "euler-ancestral")  # the other samplers that add noise

CONTRAST = 1.05  # of the data's variance

Group = tuple[str, int, str]  # kind of start, evaluations, sampler


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Standing(Record):
    """The best way of one sampler.

    Attributes:
        cell: as it was drawn again.
        figures: of that.
        chosen: the distance that it was chosen by.
        among: number of ways that were scanned.
    """

    cell: Cell
    figures: Figures
    chosen: Estimate
    among: int

    def record(self) -> dict[str, Any]:
        """Return the cell and all figures, for JSON."""
        return {**self.cell.way, "among": self.among, "chosen_by": asdict(self.chosen), **self.figures.estimates()}


@dataclass(frozen=True, kw_only=True, repr=False)
class Versus(Record):
    """A form of the prior solver against another sampler: their distances, the other's over the solver's.

    Attributes:
        kind, nfe: of start, and evaluations.
        solver: "prior" or "prior, with noise".
        other: the other sampler.
        frechet, second: the ratios in both feature spaces; above 1 the solver is the better.
        precision, coverage: the solver's less the other's.
        variance: of the solver and of the other, over the data's.
    """

    kind: str
    nfe: int
    solver: str
    other: str
    frechet: Estimate
    second: Estimate | None
    precision: float
    coverage: float
    variance: tuple[float | None, float | None]

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Standings:
    """The best of each sampler, and how the prior solver stands against them.

    Attributes:
        settings: as given.
        weights: fingerprint of the model.
        features, second_features: names of the features.
        floor: of images that the model has not seen; None where there are none.
        best: the best way of each sampler.
        versus: the comparisons.
        rows: every cell, as `Sweep.table` returns them.
    """

    settings: SolversSettings
    weights: str
    features: str
    second_features: str | None
    floor: Floor | None
    best: dict[Group, Standing]
    versus: list[Versus]
    rows: list[dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        best = [dict(zip(("kind", "nfe", "label"), group)) | one.record() for group, one in self.best.items()]
        known = {name: getattr(self, name) for name in ("weights", "features", "second_features")}
        known |= {"samples": self.settings.samples, "seed_chosen_by": self.settings.seed}
        floor = self.floor and self.floor.record()
        return known | {"floor": floor, "best": best, "versus": [one.record() for one in self.versus]}


class Solvers(Experiment[SolversSettings, Standings]):
    """The prior solver and the other samplers, each at its own best."""

    def measure(self, settings: SolversSettings, lab: Lab) -> Standings | None:
        """Measure every cell that is missing, and write the table of all of them.

        Raises:
            ValueError: something that the settings name does not exist or does not fit the rest.
        """
        subject = open_subject(_grid(settings), lab)
        if not hasattr(subject.scheduler, "alphas_cumprod"):
            raise ValueError(
                f"samplers are compared on beta-based models, received a {type(subject.scheduler).__name__}"
            )
        contest = Contest(settings, subject, lab)
        with lab.bar("evaluating") as advance:
            contest.measure(advance)
        return contest.standings() if lab.run.first else None


class Contest:
    """The cells of a comparison in a folder."""

    def __init__(self, settings: SolversSettings, subject: Subject, lab: Lab) -> None:
        self.settings, self.subject, self.lab = settings, subject, lab
        self.scan = list(dict.fromkeys(_cells(settings)))
        self.kept: list[Planned] = []
        self.again: dict[Print, Planned] = {}
        judge = subject.judge  # the second features, which may be slow, are for the figures that are reported
        self.light = replace(subject, judge=Judge(judge.extract, replace(judge.reference, second=None)))

    def measure(self, progress: Progress | None) -> None:
        """Scan, measure the best of each sampler with all samples, and draw the best again."""
        scanned = self._measured(self._planned(self.scan, self.light), self.light, progress)
        kept: list[Cell] = self.lab.run.firsts(lambda: [cell for cells in self._leading(scanned) for cell in cells])
        full = [replace(cell, samples=self.settings.samples) for cell in kept]
        self.kept = self._measured(self._planned(full, self.light), self.light, progress).planned

        def draw(chosen: list[Planned]) -> None:
            more = {one.key: self._again(one) for one in chosen}
            self._measured(list(more.values()), self.subject, progress)
            self.again |= more

        draw_again(self._chosen, draw, self.lab.run)

    def standings(self) -> Standings:
        """Return the best of each sampler and the comparisons, and write `results.parquet`."""
        judge, settings = self.subject.judge, self.settings
        scan = self._planned(self.scan, self.light)
        scanned = _groups(scan)
        best = {}
        for group, chosen in self._choices():
            drawn = self.again[chosen.key]
            figures = self._figures(drawn)
            if figures is not None:
                known = self._figures(chosen)
                assert known is not None  # it was chosen by them
                best[group] = Standing(
                    cell=drawn.cell, figures=figures, chosen=known.frechet, among=len(scanned[group])
                )
        whole = self._sweep([*scan, *self.kept, *self.again.values()], self.subject)
        rows = whole.table()
        whole.write(rows)
        return Standings(
            settings=settings, weights=self.subject.weights, features=judge.features,
            second_features=judge.second_features, floor=judge.floor(settings.samples), best=best,
            versus=list(_compared(best)), rows=rows,
        )  # fmt: skip

    def _planned(self, cells: Iterable[Cell], subject: Subject) -> list[Planned]:
        return plan(cells, {self.settings.model: subject})

    def _again(self, chosen: Planned) -> Planned:
        return replace(again(chosen), second=self.subject.judge.second_features)

    def _sweep(self, planned: Sequence[Planned], subject: Subject) -> Sweep:
        unique = list({one.key: one for one in planned}.values())
        return Sweep(unique, {self.settings.model: subject}, self.lab, self.settings.batch_size)

    def _measured(self, planned: Sequence[Planned], subject: Subject, progress: Progress | None) -> Sweep:
        sweep = self._sweep(planned, subject)
        sweep.measure(self.settings.budget, self.settings.retry, progress)
        return sweep

    def _figures(self, planned: Planned) -> Figures | None:
        return self._sweep([planned], self.subject).outcome(planned).figures

    def _leading(self, scanned: Sweep) -> Iterator[list[Cell]]:
        """The best ways of each sampler by the scan, for each kind of start and number of evaluations."""
        for members in _groups(scanned.planned).values():
            known = [(one.cell, figures) for one in members if (figures := scanned.outcome(one).figures) is not None]
            ranked = sorted(known, key=lambda pair: (_flattered(pair[1]), pair[1].frechet.value))
            yield [cell for cell, _ in ranked[: self.settings.keep]]

    def _choices(self) -> Iterator[tuple[Group, Planned]]:
        """The best way of each sampler, of those that do not copy if the best does."""
        known = {one.key: figures for one in self.kept if (figures := self._figures(one)) is not None}
        drawn = {key: self._figures(one) for key, one in self.again.items()}
        for group, members in _groups(self.kept).items():
            if scan := [one for one in members if one.key in known]:
                fair = [one for one in scan if not _flattered(known[one.key])]
                choice = choose(fair or scan, lambda one: known[one.key], lambda one: drawn.get(one.key))
                yield group, choice.clean or choice.best

    def _chosen(self) -> list[Planned]:
        return [chosen for _, chosen in self._choices()]


def group_of(planned: Planned) -> Group:
    """Return the kind of start, the evaluations and the sampler of a cell; the prior solver with noise is one more."""
    cell = planned.cell
    label = f"{PRIOR}, with noise" if cell.eta else cell.sampler
    return FULL if cell.t_start is None else cell.prior, cell.nfe, label


def _groups(planned: Iterable[Planned]) -> dict[Group, list[Planned]]:
    found: dict[Group, list[Planned]] = defaultdict(list)
    for one in planned:
        if one.steps is not None:
            found[group_of(one)].append(one)
    return found


def _cells(settings: SolversSettings) -> Iterator[Cell]:
    """Every way of every sampler, with the samples of the scan."""
    conditions = replace(settings, samples=settings.scan)
    for kind in settings.starts:
        starts = () if kind == FULL else tuple(map(float, (settings.t_start or {})[kind]))
        axes = {"sampler": settings.samplers, "nfe": settings.nfe, "prior": (settings.prior(kind),)}
        axes |= {"t_start": starts or (1.0,), "spacing": _spacings(settings, kind), "clip": settings.clip}
        axes |= {name: getattr(settings, name) for name in ("last", "eta", "order", "substeps")}
        yield from Grid.of_settings(conditions, **axes, inside=settings.insides).cells()


def _spacings(settings: SolversSettings, kind: str) -> tuple[str, ...]:
    """The spacings from a kind of start: the curved ones of a late start are those with one level more."""
    return tuple(one for one in settings.spacing if kind == FULL or one not in ("leading", "karras", "log-snr"))


def _grid(settings: SolversSettings) -> Grid:
    names = tuple(dict.fromkeys((FULL, *map(settings.prior, settings.starts), *settings.insides)))
    return Grid.of_settings(settings, prior=names, statistics=settings.statistics)


def _compared(best: dict[Group, Standing]) -> Iterator[Versus]:
    """The forms of the prior solver against the best other deterministic sampler, and against DDPM."""
    for (kind, nfe, label), mine in best.items():
        if not label.startswith(PRIOR):
            continue
        others = {other: one for (k, n, other), one in best.items() if (k, n) == (kind, nfe) and PRIOR not in other}
        exact = {other: one for other, one in others.items() if other not in NOISY}
        named = [min(exact, key=lambda other: exact[other].chosen.value)] if exact else []
        for other in (*named, *(name for name in ("ddpm",) if name in others)):
            theirs = others[other].figures
            own = mine.figures
            yield Versus(
                kind=kind, nfe=nfe, solver=label, other=other, frechet=over(theirs, own),
                second=second_over(theirs, own), precision=own.precision.value - theirs.precision.value,
                coverage=own.coverage.value - theirs.coverage.value,
                variance=(_value(own.variance), _value(theirs.variance)),
            )  # fmt: skip


def _flattered(figures: Figures) -> bool:
    """Whether samples have more contrast than the data."""
    return figures.variance is not None and figures.variance.value > CONTRAST


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value
