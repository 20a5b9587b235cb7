"""The page of a sweep: a row for each measured cell, the floors, and the reasons why others are missing."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.experiments.survey.measure import Survey
from latestart.lab.judge import Floor
from latestart.lab.report import BESIDE, Report, floor_sentence, not_measured, number, spread, start_of, table

__all__ = ["floor_sentences", "page"]

Row = dict[str, Any]
SHARES = ("precision", "recall", "coverage", "copied")


def page(result: Survey, folder: Path) -> Report:
    """Return the table of the cells that were measured, the floors, and the reasons why others were not."""
    grid, rows = result.settings, result.rows
    facts = {"model": ", ".join(Path(model).name for model in grid.model), "samples": grid.samples, "seed": grid.seed}
    facts |= {"features": ", ".join(sorted({row["features"] for row in rows}))}
    lines = [*floor_sentences(result.floors, grid.samples), *not_measured(rows)]
    return Report(f"Sweep: {facts['model']}", facts, [cells_table(rows)], lines, files=["results.parquet", "cells"])


def floor_sentences(floors: Mapping[str, Floor | None], samples: int) -> Iterator[str]:
    """Yield the floor of each model in words, once where it is the same for all."""
    lines = {model: floor_sentence(floor, samples) for model, floor in floors.items()}
    if len(set(lines.values())) == 1:
        yield next(iter(lines.values()))
    else:
        yield from (f"{Path(model).name}: {line}" for model, line in lines.items())


def cells_table(rows: list[Row]) -> Table:
    """Return a row for each cell that is done; bold is the lowest distance of a model at a number of evaluations."""
    done = [row for row in rows if row["status"] == "done"]
    several = len({row["model"] for row in rows}) > 1
    best = {(row["model"], row["nfe"]): row["frechet"] for row in sorted(done, key=lambda row: -row["frechet"])}
    lines = []
    for row in done:
        cells = [*([escape(row["model"])] if several else []), row["sampler"], str(row["nfe"]), *start_of(row)]
        cells += [spread(_estimate(row, "frechet")), spread(_estimate(row, "gain"), ".2f")]
        cells += [number(row[name], ".3f") for name in SHARES]
        cells += [spread(_estimate(row, "second")), number(row["variance"], ".2f")]
        bold = row["frechet"] == best[row["model"], row["nfe"]]
        lines.append([f"[bold]{cell}[/]" for cell in cells] if bold else cells)
    return table(
        "Frechet distance to the data (lower is better) at equal network evaluations, with 95% intervals",
        *(["model"] if several else []), "sampler", "NFE", "start", "spacing", "Frechet", "gain", *SHARES, "second",
        "variance",
        left=("model", "sampler", "start", "spacing"), caption=_caption(rows), rows=lines, sections=2 + several,
    )  # fmt: skip


def _estimate(row: Row, name: str) -> Estimate | None:
    return None if row[name] is None else Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _caption(rows: list[Row]) -> str:
    counts = " and ".join(sorted({f"{row['samples']:,} samples, seed {row['seed']}" for row in rows}))
    features = " and ".join(sorted({row["features"] for row in rows}))
    gain = (
        "on the best of the full-noise cells above at the same sampler and evaluations, all of the same seed: the best "
        "of many rows is better than it would be if it were drawn again"
    )
    second = " and ".join(sorted({row["second_features"] for row in rows if row["second_features"]}))
    spaces = features + (f", second features {second}" if second else "")
    return f"{counts}; features {spaces}; {BESIDE}; gain: {gain}"
