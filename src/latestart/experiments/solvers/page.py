"""The page of the comparison of samplers: the best of each, and how the prior solver stands."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from latestart.experiments.solvers.measure import CONTRAST, Standing, Standings
from latestart.lab.grid import FULL
from latestart.lab.report import (
    BESIDE,
    QUALITY,
    Report,
    facts_of,
    floor_sentence,
    not_measured,
    number,
    prior_title,
    quality,
    spread,
    table,
)

__all__ = ["page"]


def page(result: Standings, folder: Path) -> Report:
    """Return a table of the best for each number of evaluations, the comparisons, and the cells that are missing."""
    settings = result.settings
    facts = facts_of(result, second_features=result.second_features)
    facts["seed"] = f"{settings.seed} to choose, {settings.seed + 1} for the figures"
    lines = [
        floor_sentence(result.floor, settings.samples),
        f"every way of a sampler is scanned with {settings.scan} samples, its {settings.keep} best are measured with "
        "all, and the best of these is drawn again with the next seed; ways whose samples have more than "
        f"{CONTRAST:g} times the data's variance are left out where there are others",
        *not_measured(result.rows),
    ]
    tables = [_best(result, nfe) for nfe in settings.nfe] + [_versus(result)]
    return Report(f"Samplers: {facts['model']}", facts, tables, lines, files=["results.parquet", "cells"])


def _best(result: Standings, nfe: int) -> Table:
    """A row for each kind of start and sampler."""
    lines = [
        (_kind(kind), label, _way(one), *quality(one.figures)[:1], *_shares(one), *quality(one.figures)[1:])
        for (kind, n, label), one in result.best.items()
        if n == nfe
    ]
    return table(
        f"{nfe} evaluations: the best way of each sampler, drawn again",
        "start", "sampler", "way", QUALITY[0], "precision", "coverage", *QUALITY[1:],
        left=("start", "sampler", "way"), caption=BESIDE, rows=lines, sections=1,
    )  # fmt: skip


def _versus(result: Standings) -> Table:
    lines = [
        (
            _kind(one.kind), str(one.nfe), one.solver, one.other, spread(one.frechet, ".2f"), spread(one.second, ".2f"),
            f"{one.precision:+.2f}", f"{one.coverage:+.2f}", " and ".join(number(v, ".2f") for v in one.variance),
        )
        for one in result.versus
    ]  # fmt: skip
    return table(
        "The prior solver against the best other deterministic sampler, and against DDPM",
        "start", "NFE", "solver", "other", "ratio", "second ratio", "precision", "coverage", "variances",
        left=("start", "solver", "other"),
        caption="ratio: the other's distance over the solver's, above 1 where the solver is the better; precision and "
        "coverage: the solver's less the other's; variances: of both, before clipping, over the data's",
        rows=lines, sections=1,
    )  # fmt: skip


def _kind(kind: str) -> str:
    return "full noise" if kind == FULL else prior_title(kind)


def _way(one: Standing) -> str:
    return ", ".join(_words(one))


def _words(one: Standing) -> Iterator[str]:
    cell = one.cell
    if cell.t_start is not None:
        yield f"t = {cell.t_start:g}"
    yield cell.spacing if cell.last is None else f"down to {cell.last}"
    if cell.clip:
        yield "clipped"
    if cell.within is not None and (cell.prior == FULL or cell.within != cell.prior):
        yield f"{prior_title(cell.within)} inside"
    if cell.own_options():
        yield cell.own_options().removeprefix(", ")


def _shares(one: Standing) -> tuple[str, str]:
    return number(one.figures.precision.value, ".2f"), number(one.figures.coverage.value, ".2f")
