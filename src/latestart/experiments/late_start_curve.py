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

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart import zoo
from latestart.data import Images, drawn, load_images
from latestart.diagnosis.analyze import analyze
from latestart.diagnosis.case import CLOUD, prepare
from latestart.diagnosis.case import Settings as Fineness
from latestart.evaluation.quality import Estimate, interval
from latestart.experiments.cells import Outcome, Planned, Progress, plan
from latestart.experiments.grid import FULL, PLAIN, Cell, Grid
from latestart.experiments.judge import Figures, Floor, few_samples, ratio, ratio_replicates
from latestart.experiments.keys import key_of
from latestart.experiments.subjects import SHIPPED, Subject, open_subjects
from latestart.experiments.sweep import Sweep
from latestart.features import ClassifierFeatures
from latestart.files import read_json, write_json
from latestart.gaussians.gaussian import Gaussian, load_gaussian
from latestart.processes import Processes
from latestart.sampling.spacings import TIMES

STARTS = (1, 0.9, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55, 0.5, 0.45, 0.4, 0.35, 0.3, 0.2, 0.1)  # shares of the schedule
CRITERIA = ("exponents", "speciation", "clone", "nats")  # half a minute; the fixed points take far longer
WITHIN, TWICE = 0.1, 2.0  # of the full run's distance
SHARE = 4  # of the schedule's times, one in so many is a step
IMAGES = 1000  # of the point cloud
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: the name of a shipped model, or a folder.
        priors: beside N(0, I): `gaussian`, `mixture`, or files.
        starts: in the scheduler's t; by default `STARTS` of the schedule. Each is lowered to a multiple of a step.
        length: steps from the top of the schedule, a divisor of its times; by default a quarter of them, or all where
            that is no whole number.
        samples: from each start.
        seed: sample i depends on the seed and i alone.
        clip: whether the predicted image is clipped at every step.
        features, images, held_out: as a sweep's grid has them.
        criteria: of the critical levels, as `latestart analyze` has them; none leaves them out.
        levels: the analysis.json of `latestart analyze` to take them from.
        batch_size: samples evaluated at once.
        mixed_precision: `bf16` evaluates the network in half precision.
        scheduler: of a model folder without one.
    """

    model: str = "mnist"
    priors: tuple[str, ...] = ()
    starts: tuple[float, ...] = ()
    length: int | None = None
    samples: int = 500
    seed: int = 0
    clip: bool = False
    features: str | None = None
    images: str | None = None
    held_out: str | None = None
    criteria: tuple[str, ...] = CRITERIA
    levels: Path | None = None
    batch_size: int = 256
    mixed_precision: str = "no"
    scheduler: str | None = None

    def grid(self) -> Grid:
        """The model, the priors and the data, as a sweep opens them.

        Raises:
            ValueError: a number that makes no sense, or full noise among the priors.
        """
        if FULL in self.priors:
            raise ValueError(f"the full run is always measured: expected priors other than {FULL}")
        return Grid.of_settings(
            self,
            sampler=("ddpm",),
            prior=tuple(dict.fromkeys((PLAIN, *self.priors))),
            t_start=self.starts or (1.0,),
        )


@dataclass(frozen=True)
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
        """All figures, for JSON."""
        names = ("frechet", "precision", "recall", "coverage", "copied")
        kept = {name: getattr(self.figures, name) for name in names}
        return {
            "t_start": self.t,
            "steps": self.steps,
            "sigma": self.sigma,
            "relative": asdict(self.relative),
            **{name: None if value is None else asdict(value) for name, value in kept.items()},
        }


@dataclass(frozen=True)
class Line:
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

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        ends = {name: getattr(self, name) for name in ("plateau", "doubled")}
        return {
            "prior": self.prior,
            **{name: None if end is None else asdict(end) for name, end in ends.items()},
            "exceptions": list(self.exceptions),
            "falls": self.falls,
            "points": [point.record() for point in self.points],
        }


@dataclass(frozen=True)
class Level:
    """A critical level: its criterion, what it is of, and t with the ends of its interval, where it has one.

    `kind` is "crossing", "fold", "level", or "peak" where nothing crosses.
    """

    criterion: str
    of: str
    kind: str
    t: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """The curve.

    Attributes:
        lines: by prior, N(0, I) first.
        levels: critical levels by falling t.
        missing: why a criterion has no level.
        failed: starts that could not be measured, and why.
        length: steps of the full run.
        features: what the distance is taken in.
        settings: what was asked for.
        floor: of images that the model has not seen; None where there are none.
    """

    lines: tuple[Line, ...]
    levels: tuple[Level, ...]
    missing: tuple[str, ...]
    failed: tuple[str, ...]
    length: int
    features: str
    settings: Settings
    floor: Floor | None = None

    def record(self) -> dict[str, Any]:
        """All figures, ready for `results.json`."""
        return {
            "settings": asdict(self.settings) | {"levels": self.settings.levels and str(self.settings.levels)},
            "length": self.length,
            "features": self.features,
            "within": WITHIN,
            "floor": None if self.floor is None else self.floor.record(),
            "lines": [line.record() for line in self.lines],
            "levels": [asdict(level) for level in self.levels],
            "missing": list(self.missing),
            "failed": list(self.failed),
        }


@dataclass
class Curve:
    """The measurement of a late-start curve in a folder.

    Each start is kept there the moment that it is done, as a sweep keeps its cells, and so are the levels.

    Args:
        settings: what is measured.
        out: the folder.
        run: the processes that share the starts; the present one alone by default.
        tell: told what is worth knowing.

    Raises:
        ValueError: something that the settings name does not exist or does not fit the rest.
    """

    settings: Settings
    out: Path
    run: Processes = field(default_factory=Processes)
    tell: Tell = lambda _: None

    def __post_init__(self) -> None:
        grid = self.settings.grid()
        (subject,) = open_subjects(grid, self.out / "statistics.safetensors", self.run, self.tell).values()
        if (warning := few_samples(grid.samples, subject.judge)) is not None:
            self.tell(warning)
        self.subject = subject
        self.length, cells = cells_of(self.settings, grid.prior, _times(subject.scheduler))
        planned = plan(cells, {self.settings.model: subject})
        subjects = {self.settings.model: subject}
        self.sweep = Sweep(planned, subjects, self.out, self.settings.batch_size, self.run, self.tell)

    def measure(self, retry: bool = False, progress: Progress | None = None) -> None:
        """Measure every start that is missing; `progress(done, total, what)` counts network evaluations."""
        self.sweep.measure(retry=retry, progress=progress)

    def levels(self, progress: Progress | None = None) -> tuple[tuple[Level, ...], tuple[str, ...]]:
        """The critical levels by falling t, and why others are missing: from the folder, the file given, or anew.

        Raises:
            ValueError: a file of another kind, or of another model.
        """
        if self.settings.levels is not None:
            return levels_from(self.settings.levels, self.settings.model)
        if not self.settings.criteria:
            return (), ()
        named = {"weights": self.subject.weights, "reference": self.subject.judge.reference.fingerprint}
        key = key_of([named, self.settings.criteria, self.settings.seed], sort=False)
        kept = self.out / "levels.json"
        if (known := read_json(kept)) is not None and known.get("key") in (key, key.former):
            try:
                return _levels(known)
            except ValueError as error:
                self.tell(f"{kept}: {error}: the levels are looked for again")
        known = {"key": key, **self._analysis(progress)}
        write_json(kept, known)
        return _levels(known)

    def _analysis(self, progress: Progress | None) -> dict[str, Any]:
        settings, extract = self.settings, self.subject.judge.extract
        cloud, unseen = _pictures(self.subject, settings.images, settings.seed)
        classify = None
        if isinstance(extract, ClassifierFeatures):
            classify = extract.classifier.decide
        case = prepare(
            self.subject.network,
            self.subject.scheduler,
            cloud.floats(),
            cloud.labels,
            None if unseen is None else unseen.floats(),
            prior=_gaussian(settings.model),
            classify=classify,
            settings=Fineness.quick(settings.seed),
        )
        return analyze(case, settings.criteria, progress).record()

    def result(self, levels: tuple[Level, ...] = (), missing: tuple[str, ...] = ()) -> Result:
        """The curve from what was measured.

        Raises:
            ValueError: the full run could not be measured.
        """
        outcomes = [(planned, self.sweep.outcome(planned)) for planned in self.sweep.planned]
        done = [(planned, outcome) for planned, outcome in outcomes if outcome.figures is not None]
        failed = [f"{_place(planned.cell)}: {outcome.reason}" for planned, outcome in outcomes if not outcome.figures]
        if not done or done[0][0] is not self.sweep.planned[0]:
            raise ValueError(f"the full run could not be measured: {failed[0]}")
        full = done[0][1].figures
        assert full is not None
        by_prior = {p.cell.prior: [(q, o) for q, o in done if q.cell.prior == p.cell.prior] for p, _ in done}
        lines = tuple(line_of(prior, mine, full) for prior, mine in by_prior.items())
        judge = self.subject.judge
        floor = judge.floor(self.settings.samples)
        return Result(lines, levels, missing, tuple(failed), self.length, judge.features, self.settings, floor)


def cells_of(settings: Settings, priors: tuple[str, ...], times: int) -> tuple[int, list[Cell]]:
    """The length of the full run, and the cells of the curve: the full run first, each prior by falling starts.

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
    common: dict[str, Any] = {"spacing": TIMES[0], "clip": settings.clip}
    common |= {"samples": settings.samples, "seed": settings.seed}
    return length, [
        Cell(model=settings.model, sampler="ddpm", nfe=t // stride, prior=prior, t_start=float(t), **common)
        for prior in priors
        for t in starts
    ]


def line_of(prior: str, measured: list[tuple[Planned, Outcome]], full: Figures) -> Line:
    """The line of one prior from its starts by falling t, against the full run's figures."""
    points, relative = [], []
    for planned, outcome in measured:
        assert outcome.figures is not None and planned.cell.t_start is not None
        mine, whole = ((each.frechet.value, each.replicates) for each in (outcome.figures, full))
        relative.append(ratio_replicates(mine, whole))
        told = ratio(mine, whole)
        points.append(Point(planned.cell.t_start, planned.cell.nfe, outcome.sigma, outcome.figures, told))
    t, d = np.array([p.t for p in points]), np.array([p.relative.value for p in points])
    replicates = torch.stack(relative, 1).numpy()
    plateau = _found(t, d, replicates, 1 + WITHIN)
    end = np.inf if plateau is None else plateau.value
    exceptions = tuple(float(t[i]) for i in np.flatnonzero(d > 1 + WITHIN) if t[i] >= end)
    falls = bool(d[-1] > 1 + WITHIN)
    doubled = _found(t, d, replicates, TWICE) if d[-1] > TWICE else None
    return Line(prior, tuple(points), plateau, doubled, exceptions, falls)


def _found(t: np.ndarray, d: np.ndarray, replicates: np.ndarray, bound: float) -> Estimate | None:
    """`last_within` with its interval; a replicate that is nowhere within counts as the first start."""
    value = last_within(t, d, bound)
    if np.isnan(value):
        return None
    found = np.array([last_within(t, row, bound) for row in replicates])
    return interval(torch.from_numpy(np.where(np.isnan(found), t[0], found)), value)


def last_within(t: np.ndarray, d: np.ndarray, bound: float) -> float:
    """Where d, along falling t, is within `bound` for the last time: linear in t and log d; NaN where it never is."""
    within = np.flatnonzero(d <= bound)
    if not len(within):
        return float("nan")
    i = within[-1]
    if i == len(t) - 1:
        return float(t[-1])
    low, high = np.log(np.maximum(d[i : i + 2], np.finfo(float).tiny))
    return float(t[i] + (np.log(bound) - low) / (high - low) * (t[i + 1] - t[i]))


def levels_from(path: Path, model: str) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """The levels in the analysis.json of `latestart analyze`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, or of another model.
    """
    known = _read(path)
    if known is None:
        raise FileNotFoundError(f"expected the analysis.json that `latestart analyze` wrote at {path}, found none")
    theirs = known.get("about", {}).get("model")
    if theirs != model and (theirs is None or Path(theirs).resolve() != Path(model).resolve()):
        raise ValueError(f"{path} is an analysis of the model {theirs}, expected one of {model}")
    return _levels(known)


def _levels(known: dict[str, Any]) -> tuple[tuple[Level, ...], tuple[str, ...]]:
    """Those of the network and of the data, and of these the ones that have a time."""
    try:
        mine = [one for one in known["levels"] if one["of"] != CLOUD and one["t"] is not None]
        levels = [
            Level(one["criterion"], one["of"], one["kind"], one["t"], *(_end(one, end) for end in ("low", "high")))
            for one in mine
        ]
        missing = [f"{one['criterion']}: {one['reason']}" for one in known["not_found"] if one["of"] != CLOUD]
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no sound analysis: {error!r} is missing") from error
    return tuple(sorted(levels, key=lambda level: -level.t)), tuple(missing)


def _end(one: dict[str, Any], end: str) -> float:
    return one["t"] if one[end] is None else one[end]


def _read(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        known = json.loads(path.read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(known, dict):
        raise ValueError(f"{path} holds no analysis, but a {type(known).__name__}")
    return known


def _pictures(subject: Subject, images: str | None, seed: int) -> tuple[Images, Images | None]:
    """Some of the training images, and some that the model has not seen, drawn by the seed."""
    sets = subject.judge.reference.copying
    if sets is not None:
        return drawn(sets[0], IMAGES, seed), drawn(sets[1], IMAGES, seed)
    assert images is not None  # a model without images of its own and without given ones has no judge
    return drawn(load_images(images), IMAGES, seed), None


def _gaussian(model: str) -> Gaussian | None:
    """The Gaussian beside a model, which is of more images than are at hand here."""
    path = (Path(model) if Path(model).is_dir() else zoo.load(model).path) / SHIPPED["gaussian"]
    return load_gaussian(path) if path.is_file() else None


def _times(scheduler: Any) -> int:
    betas: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    if betas is None:
        raise ValueError(f"the curve is that of DDPM, on beta-based schedules: received a {type(scheduler).__name__}")
    return len(betas)


def _place(cell: Cell) -> str:
    return f"{cell.prior} at t = {cell.t_start:g}"
