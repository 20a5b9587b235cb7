"""The page of a sweep: a row for each cell that was measured, the floors, and the reasons of what was not."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.experiments.survey.measure import Survey
from latestart.lab.judge import Floor
from latestart.lab.report import Report, floor_sentence, not_measured, spread, start_of, table

__all__ = ["floor_sentences", "page"]

Row = dict[str, Any]


def page(result: Survey) -> Report:
    """Return the table of the cells that were measured, the floors, and the reasons why others were not."""
    grid, rows = result.grid, result.rows
    facts = {"model": ", ".join(Path(model).name for model in grid.model), "samples": grid.samples, "seed": grid.seed}
    facts |= {"features": ", ".join(sorted({row["features"] for row in rows}))}
    lines = [*floor_sentences(result.floors, grid.samples), *not_measured(rows)]
    return Report(f"Sweep: {facts['model']}", facts, [cells_table(rows)], lines, files=["results.parquet", "cells"])


def floor_sentences(floors: Mapping[str, Floor | None], samples: int) -> Iterator[str]:
    """The floor of each model in words, once where it is the same for all."""
    lines = {model: floor_sentence(floor, samples) for model, floor in floors.items()}
    if len(set(lines.values())) == 1:
        yield next(iter(lines.values()))
    else:
        yield from (f"{Path(model).name}: {line}" for model, line in lines.items())


def cells_table(rows: list[Row]) -> Table:
    """A row for each cell that is done; bold is the lowest distance of each model at each number of evaluations."""
    done = [row for row in rows if row["status"] == "done"]
    names = (*(("model",) if len({row["model"] for row in rows}) > 1 else ()), "sampler", "NFE", "start", "spacing")
    made = table(
        "Frechet distance to the data (lower is better) at equal network evaluations, with 95% intervals",
        *names, "Frechet", "gain", "precision", "recall", "coverage", "copied",
        left=("model", "sampler", "start", "spacing"), caption=_caption(rows),
    )  # fmt: skip
    best = {_group(row): min(r["frechet"] for r in done if _group(r) == _group(row)) for row in done}
    for row, before in zip(done, [None, *done]):
        if before is not None and (*_group(row), row["sampler"]) != (*_group(before), before["sampler"]):
            made.add_section()
        cells = [*((escape(row["model"]),) if "model" in names else ()), row["sampler"], str(row["nfe"])]
        style = "bold" if row["frechet"] == best[_group(row)] else ""
        made.add_row(*cells, *start_of(row), *_figures(row), style=style)
    return made


def _group(row: Row) -> tuple[str, int]:
    return row["model"], row["nfe"]


def _figures(row: Row) -> tuple[str, ...]:
    gain = spread(_estimate(row, "gain"), ".2f")
    shares = (
        "-" if row[name] is None else f"{row[name]:.3f}" for name in ("precision", "recall", "coverage", "copied")
    )
    return spread(_estimate(row, "frechet")), gain, *shares


def _estimate(row: Row, name: str) -> Estimate | None:
    return None if row[name] is None else Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _caption(rows: list[Row]) -> str:
    counts = " and ".join(sorted({f"{row['samples']:,} samples, seed {row['seed']}" for row in rows}))
    features = " and ".join(sorted({row["features"] for row in rows}))
    gain = (
        "on the best of the full-noise cells above at the same sampler and evaluations, all of the same seed: the best "
        "of many rows is better than it would be if it were drawn again"
    )
    return f"{counts}; features {features}; gain: {gain}"
