"""The table of a sweep: one row for each cell that was measured, and below it the floor, and what was not measured."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from latestart.lab.grid import Grid
from latestart.lab.judge import Floor
from latestart.lab.report import Report
from latestart.report.floor import floor_sentence

Row = dict[str, Any]


def sweep_report(grid: Grid, rows: list[Row], floors: Mapping[str, Floor | None]) -> Report:
    """The table of the cells that were measured, the floor of each model's distances, and why others were not.

    Args:
        grid: what was asked for.
        rows: as `Sweep.table` returns them.
        floors: of each model, as `Judge.floor` returns it.
    """
    facts = {"model": ", ".join(Path(model).name for model in grid.model), "samples": grid.samples, "seed": grid.seed}
    facts |= {"features": ", ".join(sorted({row["features"] for row in rows}))}
    said = [*floor_sentences(floors, grid.samples), *not_measured(rows)]
    return Report(f"Sweep: {facts['model']}", facts, [sweep_table(rows)], said)


def floor_sentences(floors: Mapping[str, Floor | None], samples: int) -> Iterator[str]:
    """What no model can be expected to fall below, told once where it is the same for all, or that it is not known."""
    told = {model: floor_sentence(floor, samples) for model, floor in floors.items()}
    if len(set(told.values())) == 1:
        yield next(iter(told.values()))
    else:
        yield from (f"{Path(model).name}: {line}" for model, line in told.items())


def sweep_table(rows: list[Row]) -> Table:
    """Rows as `Sweep.table` returns them; bold is the lowest distance of each model at each number of evaluations."""
    done = [row for row in rows if row["status"] == "done"]
    table = Table(
        title="Frechet distance to the data (lower is better) at equal network evaluations, with 95% intervals",
        title_justify="left",
        box=SIMPLE,
        caption=_caption(rows),
    )
    several = len({row["model"] for row in rows}) > 1
    for name in (*(("model",) if several else ()), "sampler", "NFE", "start", "spacing"):
        table.add_column(name, justify="right" if name == "NFE" else "left", overflow="fold")
    for name in ("Frechet", "gain", "precision", "recall", "coverage", "copied"):
        table.add_column(name, justify="right", no_wrap=True)
    best = {_group(row): min(r["frechet"] for r in done if _group(r) == _group(row)) for row in done}
    for k, row in enumerate(done):
        if k and (row["model"], row["sampler"], row["nfe"]) != tuple(
            done[k - 1][n] for n in ("model", "sampler", "nfe")
        ):
            table.add_section()
        cells = [*((escape(row["model"]),) if several else ()), row["sampler"], str(row["nfe"]), *_start(row)]
        style = "bold" if row["frechet"] == best[_group(row)] else ""
        table.add_row(*cells, *_figures(row), style=style)
    return table


def not_measured(rows: list[Row]) -> Iterator[str]:
    """A line for each reason for which cells are unavailable or have failed, and one for those that are left."""
    reasons: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        if row["status"] in ("unavailable", "failed"):
            reasons.setdefault((row["status"], row["sampler"], row["reason"]), []).append(row)
    for (status, sampler, reason), cells in reasons.items():
        first = cells[0]
        named = ", ".join((first["model"], f"NFE {first['nfe']}", *_start(first)))
        many = f"{len(cells)} cells, the first being " if len(cells) > 1 else ""
        yield f"{status}: {sampler}: {many}{named}: {reason}"
    left = [row for row in rows if row["status"] == "left"]
    if left:
        cost = sum(row["nfe"] * row["samples"] for row in left)
        yield f"left, beyond the budget: {len(left)} of {len(rows)} cells, {cost:,} network evaluations"


def _group(row: Row) -> tuple[str, int]:
    return row["model"], row["nfe"]


def _start(row: Row) -> tuple[str, str]:
    start = "full noise" if row["t_start"] is None else f"{row['prior']} at {row['t_start']:g}"
    return start, f"{row['spacing']}{', clipped' if row['clip'] else ''}"


def _figures(row: Row) -> tuple[str, ...]:
    distance = f"{_number(row['frechet'])} [{_number(row['frechet_low'])}, {_number(row['frechet_high'])}]"
    gain = "-" if row["gain"] is None else f"{row['gain']:.2f} [{row['gain_low']:.2f}, {row['gain_high']:.2f}]"
    shares = ("precision", "recall", "coverage", "copied")
    return escape(distance), escape(gain), *("-" if row[name] is None else f"{row[name]:.3f}" for name in shares)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def _caption(rows: list[Row]) -> str:
    counts = " and ".join(sorted({f"{row['samples']:,} samples, seed {row['seed']}" for row in rows}))
    features = " and ".join(sorted({row["features"] for row in rows}))
    gain = (
        "on the best of the full-noise cells above at the same sampler and evaluations, all of the same seed: the best "
        "of many rows is better than it would be if it were drawn again"
    )
    return f"{counts}; features {features}; gain: {gain}"
