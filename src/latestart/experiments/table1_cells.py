"""The cells of the paper's table: what is sampled, and how; `table1.py` says what they are.

Clipping of the predicted image to [-1, 1] is offered, from full noise and from late starts alike, to every sampler
whose class knows it: DDPM, DDIM and Heun by `clip_sample`, DPM++, UniPC and DEIS by `thresholding` at no more than 1,
which is the same. PNDM, LMS and iPNDM know neither. On the paper's grid nothing is clipped.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import torch

from latestart.denoisers.adapter import as_network
from latestart.experiments import paper_pndm
from latestart.lab.cells import Meter, Metered, Outcome, Planned, first_line, measured, plan
from latestart.lab.grid import FULL, PLAIN, Cell, Grid
from latestart.lab.store import key_of
from latestart.lab.subjects import Subject
from latestart.sampling.names import CURVED, SPENT
from latestart.sampling.samplers import SAMPLERS, can_clip

PARTS = ("paper", "exact", "solvers")
EVALUATIONS = (3, 5, 10)
SOLVERS = ("dpm++", "unipc", "deis", "heun", "lms", "ipndm")
GAUSSIAN, MIXTURE = "gaussian", "mixture"
LATE = {PLAIN: (600, 700, 800), GAUSSIAN: (400, 500, 600, 700), MIXTURE: (200, 300, 400, 500)}  # of 1,000
LATE_SOLVERS = {PLAIN: (700,), GAUSSIAN: (500, 600), MIXTURE: (300, 400)}  # six solvers, three spacings of each
SOLVER_SPACINGS = ("trailing", "leading", *CURVED, *SPENT)
PAPER = "paper"  # the part, and the spacing of the paper's grid


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
        t_start: start times in place of the default ones, in the scheduler's t, by the kind of start; of the first
            part, whose start times are the paper's own, by `paper`.
        files: of priors, in place of those beside the model, by the kind of start.
        clips: whether the predicted image is clipped, of the last two parts; a sampler that cannot clip does not.

    Raises:
        ValueError: a part, solver or kind of start that there is not, or none of one of them; start times of a kind
            that is not asked for.
    """

    grid: Grid = field(default_factory=Grid)
    parts: tuple[str, ...] = PARTS
    evaluations: tuple[int, ...] = EVALUATIONS
    samplers: tuple[str, ...] = paper_pndm.SAMPLERS
    solvers: tuple[str, ...] = SOLVERS
    starts: tuple[str, ...] = tuple(LATE)
    t_start: dict[str, tuple[int, ...]] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    clips: tuple[bool, ...] = (False, True)

    def __post_init__(self) -> None:
        _known("part", self.parts, PARTS)
        _known("sampler", self.samplers, paper_pndm.SAMPLERS)
        _known("solver", self.solvers, tuple(SAMPLERS))
        _known("kind of start", self.starts, tuple(LATE))
        if not self.clips:
            raise ValueError("expected clipping, no clipping, or both, received neither")
        if not self.evaluations or min(self.evaluations) < 1 or (PAPER in self.parts and min(self.evaluations) < 2):
            raise ValueError(
                f"expected numbers of evaluations of at least 1 (at least 2 steps on the paper's grid), received "
                f"{', '.join(map(str, self.evaluations)) or 'none'}"
            )
        begun = (*self.late, *((PAPER,) if PAPER in self.parts else ()))
        for kind, times in self.t_start.items():
            if kind not in begun:
                raise ValueError(
                    f"t-start: received start times of {kind!r}, {', '.join(map(str, times))}, which the parts "
                    f"{', '.join(self.parts)} do not have with these kinds of start: expected some of "
                    f"{', '.join(begun)} (`{PAPER}` is the paper's own grid)"
                )
            if min(times, default=0) < 1:
                raise ValueError(
                    f"t-start: expected start times of at least 1, in the scheduler's t, received {times} for {kind}"
                )

    @property
    def model(self) -> str:
        """Its name or folder."""
        return self.grid.model[0]

    @property
    def late(self) -> tuple[str, ...]:
        """The kinds of late start on exact grids; the part `paper` alone has none of them."""
        return self.starts if set(self.parts) != {PAPER} else ()

    @property
    def kinds(self) -> tuple[str, ...]:
        """All kinds of late start, of all parts."""
        return tuple(dict.fromkeys((*self.late, *((GAUSSIAN,) if PAPER in self.parts else ()))))

    def prior(self, kind: str) -> str:
        """The name that cells have for the prior of a kind of start."""
        return self.files.get(kind, kind)

    @property
    def priors(self) -> tuple[str, ...]:
        """All that the cells draw from."""
        return tuple(dict.fromkeys((FULL, *map(self.prior, self.kinds))))

    def times(self, kind: str, top: int, part: str) -> tuple[float, ...]:
        """Where a kind of late start begins in a part, on a schedule of `top` times."""
        if kind in self.t_start:
            return tuple(map(float, self.t_start[kind]))
        return tuple(float(round(t * top / 1000)) for t in (LATE_SOLVERS if part == "solvers" else LATE)[kind])

    def paper_times(self, top: int) -> tuple[float, ...]:
        """Where the Gaussian late start begins on the paper's grid, whose highest time is `top - 1`."""
        if PAPER in self.t_start:
            return tuple(map(float, self.t_start[PAPER]))
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
    return list({(entry.planned.key, entry.part): entry for entry in found}.values())


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
    return Planned(cell, key_of(configuration), configuration, None if reason else steps, reason)


def _exact(options: Options, subject: Subject) -> Iterator[Entry]:
    for sampler, number in product(options.samplers, options.evaluations):
        yield from _at_equal_cost("exact", options, subject, sampler, number, ("trailing", "leading"))


def _solvers(options: Options, subject: Subject) -> Iterator[Entry]:
    for sampler, number in product(options.solvers, options.evaluations):
        yield from _at_equal_cost("solvers", options, subject, sampler, number, SOLVER_SPACINGS)


_MAKERS: dict[str, Callable[[Options, Subject], Iterator[Entry]]] = {
    "paper": _paper,
    "exact": _exact,
    "solvers": _solvers,
}


def _at_equal_cost(
    part: str, options: Options, subject: Subject, sampler: str, number: int, spacings: tuple[str, ...]
) -> Iterator[Entry]:
    """Full noise with every spacing, and every late start with those that a late start can have, all clipped or not."""
    clips = options.clips if can_clip(sampler) else (False,)
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
    cell, classes = planned.cell, as_network(subject.network).classes
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
