"""The cells of a sweep: planned, measured, and kept in files of their own.

A cell is known by its full configuration: the weights of the network, the sampler and its steps, the prior, the start,
the spacing, the clipping, the samples and their seed, the features and the data that they are compared with, each file
by its content. A hash of that is the cell's key.

All is at equal network evaluations. A sampler of n steps costs as many evaluations as it stands at times, which is not
always n; its steps are chosen so that they are the number asked for, and a cell for which there are none has none. What
was spent is counted on the network itself.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.adapter import Counted, as_network
from latestart.evaluation.quality import Estimate
from latestart.files import load_tensors, save_tensors, sound
from latestart.lab.experiment import Progress
from latestart.lab.grid import Cell
from latestart.lab.judge import Figures
from latestart.lab.store import Print, is_of, key_of
from latestart.lab.subjects import Subject
from latestart.sampling.families import family_of
from latestart.sampling.late_start import late_start
from latestart.sampling.loop import Result, draw
from latestart.sampling.samplers import make_sampler

__all__ = [
    "KIND", "VERSION", "Meter", "Metered", "Outcome", "Planned", "again", "describe", "first_line", "measured",
    "own_options", "plan", "read_cell", "steps_for", "write_cell",
]  # fmt: skip

VERSION = 1  # of the cells' files
KIND = "sweep-cell"
MEASURED = ("done", "failed")  # the statuses of a cell's file
REPLICATES = ("replicates", "recall_replicates")
ALL_REPLICATES = (*REPLICATES, "second_replicates")


@dataclass(frozen=True)
class Planned:
    """A cell, its whole configuration, and its steps, or the reason why there are none.

    The name of the second features is no part of the configuration: a cell that was measured with others, or without
    any, is the same cell, and its file says which.
    """

    cell: Cell
    configuration: dict[str, Any]
    steps: int | None
    reason: str = ""
    second: str | None = None

    @cached_property
    def key(self) -> Print:
        """The key of the cell's file."""
        return key_of(self.configuration)

    @property
    def cost(self) -> int:
        """Return the network evaluations of the cell; 0 where it cannot be measured."""
        return 0 if self.steps is None else self.cell.cost


@dataclass(frozen=True)
class Outcome:
    """The outcome of a cell: `done` with its figures and the level at which it began, or else the reason.

    `failed` where it was tried, `unavailable` where it cannot be, `left` where the budget ended before it.
    """

    status: str
    reason: str
    _: KW_ONLY
    figures: Figures | None = None
    sigma: float | None = None
    seconds: float = 0.0


class Meter:
    """Counter of the network evaluations spent and still to come; reports each to a progress bar."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.total, self.progress, self.note = total, progress, ""
        self.settled = self.running = 0

    def spent(self, count: int) -> None:
        """Count more evaluations of the present cell."""
        self.running += count
        self.told()

    def settle(self, cost: int) -> None:
        """Close the present cell at its full cost."""
        self.settled, self.running = self.settled + cost, 0
        self.told()

    def told(self) -> None:
        """Report the progress."""
        if self.progress is not None:
            self.progress(self.settled + self.running, self.total, self.note)


class Metered(Counted):
    """Wrapper of a network: counts its evaluations on a meter."""

    def __init__(self, model: Any, meter: Meter) -> None:
        super().__init__(model)
        self.meter = meter

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Any) -> Any:
        """Return the network's own output."""
        out = super().__call__(x, t, **conditions)
        self.meter.spent(len(x))
        return out


def drawn(model: Any, subject: Subject, planned: Planned, n: int, batch_size: int) -> Result:
    """Sample the first `n` images of a cell from its network, which may be watched; classes in turn."""
    cell, steps = planned.cell, planned.steps
    assert steps is not None
    sampler, start = _sampler(cell, subject.scheduler, _inside(cell, subject)), cell.t_start
    if cell.last is not None or cell.times is not None:
        sampler, start = _over_own_times(sampler, cell, steps), None
    prior, labels = subject.priors[cell.prior][0], classes_in_turn(model, n)
    return draw(model, sampler, prior, n, steps, start, cell.seed, labels=labels, batch_size=batch_size)


def _sampler(cell: Cell, scheduler: Any, inside: Any) -> Any:
    return make_sampler(cell.sampler, scheduler, inside, **cell.settings())


def _inside(cell: Cell, subject: Subject) -> Any:
    """The prior inside the prior solver; None of another sampler."""
    return None if cell.within is None else subject.priors[cell.within][0]


def _over_own_times(sampler: Any, cell: Cell, steps: int) -> Any:
    """The sampler over the cell's own times, or down to its last, from its start or from the top."""
    if cell.times is not None:
        return late_start(sampler, cell.t_start, steps, times=cell.times)
    top = family_of(sampler).top if cell.t_start is None else cell.t_start
    return late_start(sampler, top, steps, last=cell.last)


def measured(
    subject: Subject, planned: Planned, batch_size: int, meter: Meter, sample: Callable[..., Result] = drawn
) -> Outcome:
    """Sample one cell and take its figures. A class-conditional model is asked for its classes in turn.

    Args:
        subject: the model.
        planned: the cell.
        batch_size: samples evaluated at once.
        meter: counts the evaluations.
        sample: draws the images, as `drawn`.

    Raises:
        RuntimeError: the sampler spent another number of evaluations than the cell says.
        FloatingPointError: samples, or figures, that are not finite.
    """
    cell = planned.cell
    result = sample(Metered(subject.network, meter), subject, planned, cell.samples, batch_size)
    if result.nfe != cell.nfe:
        raise RuntimeError(f"{result.nfe} evaluations were spent on each sample, expected {cell.nfe}")
    sigma = result.sigma if math.isfinite(result.sigma) else None
    return Outcome("done", "", figures=subject.judge(result.samples.cpu()), sigma=sigma)


def classes_in_turn(model: Any, n: int) -> Tensor | None:
    """Return `(n,)` labels: the classes of a network in turn; None where it has none."""
    classes = as_network(model).classes
    return torch.arange(n) % classes if classes else None


def steps_for(cell: Cell, scheduler: Any, inside: Any = None) -> int:
    """Return the number of steps at which a cell's sampler costs the cell's evaluations.

    The sampling loop evaluates once at each of the times that a scheduler sets; no step is free, so there are at most
    as many steps as evaluations.

    Args:
        cell: the cell.
        scheduler: the one that its model was trained with.
        inside: the prior inside the prior solver.

    Raises:
        ValueError: the sampler has no such setting, cannot start there, or costs more or fewer at any number of steps.
    """
    sampler, counts = _sampler(cell, scheduler, inside), {}
    for steps in range(cell.nfe, 0, -1) if cell.times is None else (len(cell.times),):
        counts[steps] = _evaluations(sampler, cell, steps)
        if counts[steps] == cell.nfe:
            return steps
        if counts[steps] < cell.nfe:
            break
    near = ", ".join(f"{counts[steps]} at {steps}" for steps in sorted(counts)[:2])
    raise ValueError(f"{cell.sampler} cannot spend {cell.nfe} evaluations: it spends {near} steps")


def _evaluations(sampler: Any, cell: Cell, steps: int) -> int:
    if cell.last is not None or cell.times is not None:
        return len(_over_own_times(sampler, cell, steps).timesteps)
    if cell.t_start is not None:
        return len(late_start(sampler, cell.t_start, steps).timesteps)
    sampler.set_timesteps(steps)
    return len(sampler.timesteps)


def plan(cells: Iterable[Cell], subjects: dict[str, Subject]) -> list[Planned]:
    """Return the cells with their keys and steps."""
    return [_planned(cell, subjects[cell.model]) for cell in cells]


def _planned(cell: Cell, subject: Subject) -> Planned:
    steps, reason = None, ""
    try:
        steps = steps_for(cell, subject.scheduler, _inside(cell, subject))
    except (ValueError, IndexError, ZeroDivisionError) as error:  # some classes cannot set one or two steps
        reason = first_line(error)
    configuration = {
        **cell.way,
        "steps": steps,
        "model": subject.weights,
        "prior": subject.priors[cell.prior][1] or cell.prior,
        "features": subject.judge.features,
        "reference": subject.judge.reference.fingerprint,
    }
    if cell.within is not None:
        configuration["inside"] = subject.priors[cell.within][1]
    return Planned(cell, configuration, steps, reason, subject.judge.second_features)


def again(planned: Planned) -> Planned:
    """Return the same cell with the next seed, as a plan of that seed would have it."""
    seed = planned.cell.seed + 1
    return replace(planned, cell=replace(planned.cell, seed=seed), configuration=planned.configuration | {"seed": seed})


def describe(cell: Cell) -> str:
    """Return a cell in a few words."""
    start = "full noise" if cell.t_start is None else f"{cell.prior} at t = {cell.t_start:g}"
    last = "" if cell.last is None else f", down to t = {cell.last}"
    last += "" if cell.times is None else f", at t = {', '.join(f'{t:g}' for t in cell.times)}"
    told = own_options(cell) if cell.within is None else f", {cell.within} inside{own_options(cell)}"
    clipped = ", clipped" if cell.clip else ""
    return f"{cell.model}, {cell.sampler}, NFE {cell.nfe}, {start}, {cell.spacing}{last}{clipped}{told}"


def own_options(cell: Cell) -> str:
    """Return the options of the sampler's own steps that are not its default ones, each after a comma."""
    order = "" if cell.order is None else f", order {cell.order}"
    inner = "" if cell.substeps is None else f", {cell.substeps} substeps"
    shares = cell.shares or (() if cell.eta is None else (cell.eta,))
    return order + inner + (f", eta {' '.join(f'{share:g}' for share in shares)}" if shares else "")


def write_cell(path: Path, planned: Planned, outcome: Outcome) -> None:
    """Write a cell's outcome, whole or not at all."""
    metadata: dict[str, Any] = {"version": VERSION, "configuration": planned.configuration, "status": outcome.status}
    metadata |= {"reason": outcome.reason, "sigma": outcome.sigma, "seconds": round(outcome.seconds, 3)}
    tensors = {}
    if outcome.figures is not None:
        metadata |= {"figures": outcome.figures.estimates(), "second": planned.second}
        tensors = {name: rows for name in ALL_REPLICATES if (rows := getattr(outcome.figures, name)) is not None}
    save_tensors(path, KIND, tensors, metadata)


def read_cell(path: Path, planned: Planned) -> Outcome:
    """Read what `write_cell` wrote for this very cell; without figures that it did not know, or of other features.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it was cut short, or is of another version, or of another cell.
    """
    tensors, metadata = load_tensors(path, KIND)
    if (version := metadata.get("version")) != VERSION:
        raise ValueError(f"{path} is a cell of version {version}, expected version {VERSION}")
    if not is_of(metadata.get("configuration"), planned.configuration):
        raise ValueError(f"{path} holds another cell than {describe(planned.cell)}")
    with sound(path, "cell"):
        if (status := metadata["status"]) not in MEASURED:
            raise ValueError(f"expected a status of {', '.join(MEASURED)}, received {status!r}")
        sigma, seconds = metadata["sigma"], metadata["seconds"]
        done = status == MEASURED[0]
        estimates = dict(metadata["figures"]) if done else {}
        if metadata.get("second") != planned.second:
            estimates["second"] = None
        known = {name: Estimate(**ends) for name, ends in estimates.items() if ends is not None}
        for number in (sigma or 0.0, seconds, *(end for one in known.values() for end in astuple(one))):
            if isinstance(number, bool) or not isinstance(number, int | float) or math.isnan(number):
                raise ValueError(f"expected a number, received {number!r}")
        names = ALL_REPLICATES if "second" in known else REPLICATES
        replicates = {name: tensors[name] for name in names if done}
        for name, row in replicates.items():
            if row.ndim != 1 or not row.isfinite().all():
                raise ValueError(f"expected finite numbers in a row as {name}, received {tuple(row.shape)}")
        figures = Figures(**{"copied": None} | known | replicates) if done else None  # type: ignore[arg-type]
        return Outcome(status, str(metadata["reason"]), figures=figures, sigma=sigma, seconds=seconds)


def first_line(error: Exception) -> str:
    """Return the first line of an error, with its kind unless it is a `ValueError` with a message."""
    text = next(iter(str(error).strip().splitlines()), "")
    return text if isinstance(error, ValueError) and text else f"{type(error).__name__}: {text}"
