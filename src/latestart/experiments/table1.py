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

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from latestart.evaluation.quality import Estimate, interval
from latestart.experiments import paper_pndm
from latestart.experiments.cells import (
    Meter,
    Metered,
    Outcome,
    Planned,
    Progress,
    first_line,
    measured,
    plan,
    read_cell,
)
from latestart.experiments.grid import FULL, PLAIN, Cell, Grid
from latestart.experiments.judge import Figures, few_samples, fingerprint
from latestart.experiments.subjects import Subject, open_subjects
from latestart.experiments.sweep import Sweep
from latestart.processes import Processes
from latestart.sampling.samplers import SAMPLERS
from latestart.sampling.spacings import CURVED, SPENT

PARTS = ("paper", "exact", "solvers")
EVALUATIONS = (3, 5, 10)
SOLVERS = ("dpm++", "unipc", "deis", "heun", "lms", "ipndm")
GAUSSIAN, MIXTURE = "gaussian", "mixture"
LATE = {PLAIN: (600, 700, 800), GAUSSIAN: (400, 500, 600, 700), MIXTURE: (200, 300, 400, 500)}  # of 1,000
LATE_SOLVERS = {PLAIN: (700,), GAUSSIAN: (500, 600), MIXTURE: (300, 400)}  # six solvers, three spacings of each
SOLVER_SPACINGS = ("trailing", "leading", *CURVED, *SPENT)
PAPER = "paper"  # the part, and the spacing of the paper's grid
BEST = "best"  # of all samplers of the other parts
FIGURES = Path(__file__).parent.parent / "assets" / "paper_table1.csv"


@dataclass(frozen=True)
class Published:
    """What the paper reports for a data set, a sampler and a number of steps.

    Attributes:
        steps: of the sampler.
        nfe: the evaluations that they cost.
        vanilla, late: its FID from full noise and from the Gaussian late start.
        note: what is doubtful about it.
    """

    dataset: str
    sampler: str
    steps: int
    nfe: int
    vanilla: float
    late: float
    note: str

    @property
    def ratio(self) -> float:
        """`vanilla / late`."""
        return self.vanilla / self.late


def published(dataset: str | None = None) -> list[Published]:
    """The paper's table 1, or its rows for one data set.

    Raises:
        ValueError: it has no such data set.
    """
    with FIGURES.open(newline="") as file:
        rows = [_published(row) for row in csv.DictReader(file)]
    known = dict.fromkeys(row.dataset for row in rows)
    if dataset is not None and dataset not in known:
        raise ValueError(f"the paper has no figures for {dataset!r}; it has them for {', '.join(known)}")
    return [row for row in rows if dataset in (None, row.dataset)]


def _published(row: dict[str, str]) -> Published:
    steps, nfe = int(row["steps"]), int(row["nfe"])
    vanilla, late = float(row["fid_vanilla"]), float(row["fid_gls"])
    return Published(row["dataset"], row["sampler"], steps, nfe, vanilla, late, row["note"])


@dataclass(frozen=True)
class Options:
    """What the table is made of.

    Attributes:
        grid: the model, the number and seed of the samples, and what they are held against; its axes are not used.
        parts: of `PARTS`.
        evaluations: steps in the first part, network evaluations in the others.
        samplers: of the first two parts, of the paper's.
        solvers: samplers of the third part.
        starts: kinds of late start, of `LATE`.
        t_start: start times in place of the default ones, in the scheduler's t.
        files: of priors, in place of those beside the model, by the kind of start.

    Raises:
        ValueError: a part, solver or kind of start that there is not, or none of one of them.
    """

    grid: Grid = field(default_factory=Grid)
    parts: tuple[str, ...] = PARTS
    evaluations: tuple[int, ...] = EVALUATIONS
    samplers: tuple[str, ...] = paper_pndm.SAMPLERS
    solvers: tuple[str, ...] = SOLVERS
    starts: tuple[str, ...] = tuple(LATE)
    t_start: tuple[int, ...] | None = None
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _known("part", self.parts, PARTS)
        _known("sampler", self.samplers, paper_pndm.SAMPLERS)
        _known("solver", self.solvers, tuple(SAMPLERS))
        _known("kind of start", self.starts, tuple(LATE))
        if not self.evaluations or min(self.evaluations) < 1 or (PAPER in self.parts and min(self.evaluations) < 2):
            raise ValueError(
                f"expected numbers of evaluations of at least 1 (at least 2 steps on the paper's grid), received "
                f"{', '.join(map(str, self.evaluations)) or 'none'}"
            )
        if self.t_start is not None and (not self.t_start or min(self.t_start) < 1):
            raise ValueError(f"expected start times of at least 1, in the scheduler's t, received {self.t_start}")

    @property
    def model(self) -> str:
        """Its name or folder."""
        return self.grid.model[0]

    def prior(self, kind: str) -> str:
        """The name that cells have for the prior of a kind of start."""
        return self.files.get(kind, kind)

    @property
    def priors(self) -> tuple[str, ...]:
        """All that the cells draw from."""
        paper = (GAUSSIAN,) if PAPER in self.parts else ()
        return tuple(dict.fromkeys((FULL, *map(self.prior, (*self.starts, *paper)))))

    def times(self, kind: str, top: int, part: str) -> tuple[float, ...]:
        """Where a kind of late start begins in a part, on a schedule of `top` times."""
        if self.t_start is not None:
            return tuple(map(float, self.t_start))
        return tuple(float(round(t * top / 1000)) for t in (LATE_SOLVERS if part == "solvers" else LATE)[kind])

    def paper_times(self, top: int) -> tuple[float, ...]:
        """The same for the paper's grid, whose highest time is `top - 1`."""
        if self.t_start is not None:
            return tuple(map(float, self.t_start))
        return tuple(float(min(round(t * top / 1000), top - 1)) for t in paper_pndm.STARTS)


def _known(what: str, received: tuple[str, ...], known: tuple[str, ...]) -> None:
    wrong = next((name for name in received if name not in known), None)
    if wrong is not None or not received:
        told = "none" if wrong is None else repr(wrong)
        raise ValueError(f"expected a {what} of {', '.join(known)}, received {told}")


@dataclass(frozen=True)
class Entry:
    """A cell of the table: its part, the number in whose row it stands, its kind of start, and the planned cell."""

    part: str
    number: int
    kind: str
    planned: Planned


def entries(options: Options, subject: Subject) -> list[Entry]:
    """Every cell of the table, in the order in which they are measured.

    Args:
        options: what it is made of.
        subject: the model, opened.
    """
    found = [entry for part in options.parts for entry in _MAKERS[part](options, subject)]
    return list({entry.planned.key + entry.part: entry for entry in found}.values())


def _paper(options: Options, subject: Subject) -> Iterator[Entry]:
    top = subject.scheduler.config["num_train_timesteps"]
    kinds = [(FULL, None), *((GAUSSIAN, t) for t in options.paper_times(top))]
    for sampler, steps, (kind, t_start) in product(options.samplers, options.evaluations, kinds):
        nfe = paper_pndm.evaluations(sampler, steps)
        cell = _cell(options, sampler, nfe, options.prior(kind), t_start, PAPER, False)
        yield Entry(PAPER, steps, kind, _paper_planned(cell, steps, subject))


def _paper_planned(cell: Cell, steps: int, subject: Subject) -> Planned:
    planned = plan([cell], {cell.model: subject})[0]  # for its configuration: no scheduler can set these steps
    configuration = planned.configuration | {"steps": steps}
    reason = ""
    try:
        paper_pndm.paper_grid(int(subject.scheduler.config["num_train_timesteps"] - 1), steps)
        if cell.t_start is not None:
            paper_pndm.paper_grid(int(cell.t_start), steps)
    except ValueError as error:
        reason = first_line(error)
    key = fingerprint(json.dumps(configuration, sort_keys=True))
    return Planned(cell, key, configuration, None if reason else steps, reason)


def _exact(options: Options, subject: Subject) -> Iterator[Entry]:
    for sampler, number in product(options.samplers, options.evaluations):
        clips = (False,) if sampler == "pndm" else (False, True)
        yield from _at_equal_cost("exact", options, subject, sampler, number, ("trailing", "leading"), clips)


def _solvers(options: Options, subject: Subject) -> Iterator[Entry]:
    for sampler, number in product(options.solvers, options.evaluations):
        yield from _at_equal_cost("solvers", options, subject, sampler, number, SOLVER_SPACINGS, (False,))


_MAKERS: dict[str, Callable[[Options, Subject], Iterator[Entry]]] = {
    "paper": _paper,
    "exact": _exact,
    "solvers": _solvers,
}


def _at_equal_cost(
    part: str,
    options: Options,
    subject: Subject,
    sampler: str,
    number: int,
    spacings: tuple[str, ...],
    clips: tuple[bool, ...],
) -> Iterator[Entry]:
    """Full noise with every spacing, and every late start with those that a late start can have."""
    top = subject.scheduler.config["num_train_timesteps"]
    late = tuple(spacing for spacing in spacings if spacing == "trailing" or spacing in SPENT)
    ways: list[tuple[str, float | None, str]] = [(FULL, None, spacing) for spacing in spacings]
    ways += [(kind, t, spacing) for kind in options.starts for t in options.times(kind, top, part) for spacing in late]
    for (kind, t_start, spacing), clip in product(ways, clips):
        cell = _cell(options, sampler, number, options.prior(kind), t_start, spacing, clip)
        yield Entry(part, number, kind, _affordable(cell, subject))


def _affordable(cell: Cell, subject: Subject) -> Planned:
    """The cell as it was asked for, or with one evaluation less where its sampler cannot spend so many."""
    planned = plan([cell], {cell.model: subject})[0]
    if planned.steps is not None or cell.nfe == 1:
        return planned
    less = plan([replace(cell, nfe=cell.nfe - 1)], {cell.model: subject})[0]
    return planned if less.steps is None else less


def _cell(
    options: Options, sampler: str, nfe: int, prior: str, t_start: float | None, spacing: str, clip: bool
) -> Cell:
    grid = options.grid
    return Cell(options.model, sampler, nfe, prior, t_start, spacing, clip, grid.samples, grid.seed)


def sample(subject: Subject, planned: Planned, batch_size: int, meter: Meter) -> Outcome:
    """Sample a cell, on the paper's grid or as every sweep does, and take its figures."""
    if planned.cell.spacing != PAPER:
        return measured(subject, planned, batch_size, meter)
    cell, classes = planned.cell, getattr(subject.network.config, "num_class_embeds", None)
    labels = torch.arange(cell.samples) % classes if classes else None
    model, prior = Metered(subject.network, meter), subject.priors[cell.prior][0]
    assert planned.steps is not None
    result = paper_pndm.draw(
        model,
        subject.scheduler,
        cell.sampler,
        prior,
        cell.samples,
        planned.steps,
        cell.t_start,
        cell.seed,
        labels,
        batch_size,
    )
    if result.nfe != cell.nfe:
        raise RuntimeError(f"{result.nfe} evaluations were spent on each sample, expected {cell.nfe}")
    return Outcome("done", "", subject.judge(result.images.cpu()), result.sigma)


@dataclass(frozen=True)
class Best:
    """The best cell of several: the cell, its figures, and how many there were."""

    cell: Cell
    figures: Figures
    among: int

    @property
    def frechet(self) -> Estimate:
        """Its distance."""
        return self.figures.frechet


@dataclass(frozen=True)
class Row:
    """One sampler at one number.

    Attributes:
        part, sampler: which; the sampler `best` is the best of all solvers of all parts at equal evaluations.
        number: steps in the paper's part, else evaluations.
        nfe: network evaluations spent, at most, by one of its cells.
        best: by kind of start (`none` is full noise), of those that were measured.
        ratios: full noise over each kind of late start.
        paper_ratios: the same over trailing, unclipped full noise.
        published: the paper's figures for the same.
    """

    part: str
    sampler: str
    number: int
    nfe: int
    best: dict[str, Best]
    ratios: dict[str, Estimate]
    paper_ratios: dict[str, Estimate]
    published: Published | None

    def record(self) -> dict[str, Any]:
        """All of it, for JSON."""
        best = {kind: _record(best) for kind, best in self.best.items()}
        ratios = {
            name: {kind: asdict(ratio) for kind, ratio in getattr(self, name).items()}
            for name in ("ratios", "paper_ratios")
        }
        theirs = None if self.published is None else asdict(self.published) | {"ratio": self.published.ratio}
        told = {"part": self.part, "sampler": self.sampler, "number": self.number, "nfe": self.nfe}
        return {**told, "best": best, **ratios, "published": theirs}


def _record(best: Best) -> dict[str, Any]:
    cell, figures = best.cell, best.figures
    known = {name: getattr(figures, name) for name in ("frechet", "precision", "recall", "coverage", "copied")}
    where = {name: getattr(cell, name) for name in ("sampler", "nfe", "prior", "t_start", "spacing", "clip")}
    return {**where, "among": best.among, **{name: value and asdict(value) for name, value in known.items()}}


Done = tuple[Entry, Figures]


def rows(measured: list[Done], dataset: str | None = None) -> list[Row]:
    """The table.

    Args:
        measured: the cells that were, with their figures.
        dataset: whose figures in the paper stand beside; None for none.
    """
    theirs = {(row.sampler, row.steps): row for row in published(dataset)} if dataset is not None else {}
    groups: dict[tuple[str, str, int], list[Done]] = {}
    for entry, figures in measured:
        groups.setdefault((entry.part, entry.planned.cell.sampler, entry.number), []).append((entry, figures))
    found = [_row(*key, cells, _comparable(key[0], theirs.get(key[1:]))) for key, cells in groups.items()]
    return [*found, *_best_rows(measured)]


def _comparable(part: str, row: Published | None) -> Published | None:
    """The paper's figures beside its own part, and beside others where its steps are evaluations."""
    return row if row is not None and (part == PAPER or row.steps == row.nfe) else None


def _best_rows(measured: list[Done]) -> Iterator[Row]:
    equal = [(entry, figures) for entry, figures in measured if entry.part != PAPER]
    for number in sorted({entry.number for entry, _ in equal}):
        yield _row(BEST, BEST, number, [done for done in equal if done[0].number == number], None)


def _row(part: str, sampler: str, number: int, cells: list[Done], theirs: Published | None) -> Row:
    best = {kind: _best(cells, kind) for kind in dict.fromkeys(entry.kind for entry, _ in cells)}
    plain = [
        (entry, figures)
        for entry, figures in cells
        if entry.kind == FULL and entry.planned.cell.spacing in ("trailing", PAPER) and not entry.planned.cell.clip
    ]
    late = [kind for kind in best if kind != FULL]
    ratios = {kind: ratio(best[FULL].figures, best[kind].figures) for kind in late if FULL in best}
    against = [_best(plain, FULL).figures] if plain and part != BEST else []
    paper_ratios = {kind: ratio(full, best[kind].figures) for full in against for kind in late}
    nfe = max(entry.planned.cell.nfe for entry, _ in cells)
    return Row(part, sampler, number, nfe, best, ratios, paper_ratios, theirs)


def _best(cells: Iterable[Done], kind: str) -> Best:
    mine = [(entry.planned.cell, figures) for entry, figures in cells if entry.kind == kind]
    cell, figures = min(mine, key=lambda pair: pair[1].frechet.value)
    return Best(cell, figures, len(mine))


def ratio(worse: Figures, better: Figures) -> Estimate:
    """The ratio of two distances, with the interval of paired replicates."""
    tiny = torch.finfo(torch.float64).tiny
    value = worse.frechet.value / max(better.frechet.value, tiny)
    return interval(worse.replicates / better.replicates.clamp(min=tiny), value)


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
        """Network evaluations of all cells."""
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


def dataset_of(model: str) -> str | None:
    """The paper's data set of that name, if it has one."""
    name = Path(model).name
    return name if name in {row.dataset for row in published()} else None


def results(table: Table, found: list[Row], dataset: str | None) -> dict[str, Any]:
    """All figures, ready for `results.json`."""
    options, subject = table.options, table.sweep.subjects[table.options.model]
    return {
        "model": Path(options.model).name,
        "weights": subject.weights,
        "features": subject.judge.features,
        "samples": options.grid.samples,
        "seed": options.grid.seed,
        "dataset_in_the_paper": dataset,
        "cells": len(table.sweep.planned),
        "measured": len({entry.planned.key for entry, _ in table.measured()}),
        "evaluations": table.cost,
        "rows": [row.record() for row in found],
    }
