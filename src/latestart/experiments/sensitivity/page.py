"""The page of the sensitivity to the start: its picture, its tables and its sentences."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.experiments.sensitivity.measure import BUDGETS, OFFSETS, Curve, Curves
from latestart.experiments.sensitivity.settings import FEWEST
from latestart.experiments.sensitivity.windows import WITHIN, Off
from latestart.lab.divergence import SEEN
from latestart.lab.drawing import COLORS, GREY, band, figure, log_ticks, save
from latestart.lab.report import (
    BESIDE,
    QUALITY,
    Report,
    facts_of,
    floor_sentence,
    not_measured,
    prior_title,
    quality,
    spread,
    table,
)
from latestart.noise import when

__all__ = ["best_table", "draw", "off_table", "page", "windows_table"]

CHOSEN = (
    "the best start is chosen by the samples that it is measured on, the lowest of many noisy distances: its distance "
    "is a little too low, and so the cost of the others a little too high"
)
LEAST_NATS = 1e-3  # below it the curve is noise


def page(result: Curves, folder: Path) -> Report:
    """Draw the curves; return the windows, the cost of other starts in t and in nats, the floor, and missing cells.

    Without any curve there is neither a picture nor a table.
    """
    settings, curves, facts = result.settings, result.curves, facts_of(result)
    lines = [floor_sentence(result.floor, settings.samples), *([] if result.floor else [SEEN])]
    lines += not_measured(result.rows)
    title, files = f"Sensitivity to the start: {facts['model']}", ["results.parquet", "cells"]
    if not curves:
        lines.append(f"no prior has {FEWEST} starts measured at any number of evaluations: there is no curve yet")
        return Report(title, facts, sentences=lines, files=files)
    draw(folder / "sensitivity.png", curves, settings.samples)
    tables = [windows_table(curves), best_table(curves), off_table(curves, True), off_table(curves, False)]
    return Report(title, facts, tables, [*lines, CHOSEN], pictures=["sensitivity.png"], files=files)


def draw(path: Path, curves: list[Curve], samples: int) -> None:
    """Draw distance over the best against the start, in t and in nats, a row a prior; windows within 5% as bars."""
    priors = list(dict.fromkeys(curve.prior for curve in curves))
    made, axes = figure(len(priors), 2, (13, 4.6 * len(priors) + 0.6))
    for (in_t, in_nats), prior in zip(axes, priors):
        mine = [curve for curve in curves if curve.prior == prior]
        for place, curve in enumerate(mine):
            w = curve.window
            _relative(in_t, curve, curve.t, (w.low, w.high), place)
            _relative(in_nats, curve, np.maximum(curve.nats, LEAST_NATS), (w.nats_low, w.nats_high), place)
        in_t.set(title=f"Late start from {prior_title(prior)}", xlabel="start t, in the scheduler's time")
        in_nats.set(title="The same, by how wrong the prior is there", xscale="log")
        in_nats.set_xlabel(f"divergence of the data from the prior, nats ({LEAST_NATS:g} stands for less)")
        in_t.invert_xaxis()
        in_t.legend(fontsize=9)
        for axis in (in_t, in_nats):
            _scale(axis, max(e.high for curve in mine for e in curve.relative))
    made.suptitle(
        f"How far off may the start be? DDIM, {samples:,} samples, the same noise at every start; "
        f"bars: within {WITHIN:.0%} of the best"
    )
    save(made, path)


def _relative(axis: Axes, curve: Curve, x: np.ndarray, window: Sequence[Estimate], place: int) -> None:
    color, best = COLORS[place % len(COLORS)], curve.figures[curve.best].frechet.value
    label = f"NFE {curve.nfe}: best {best:.1f} at t = {when(curve.window.best)}, "
    label += f"window of {curve.window.width.value:.0f}"
    band(axis, x, curve.relative, color, marker="o", markersize=3, label=label)
    window_ends = [max(end.value, LEAST_NATS) for end in window]
    axis.plot(window_ends, [0.9 - 0.06 * place] * 2, color=color, linewidth=5, solid_capstyle="butt")


def _scale(axis: Axes, highest: float) -> None:
    axis.axhline(1 + WITHIN, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(yscale="log", ylim=(0.7, 1.1 * highest), ylabel="Fréchet distance / that of the best start")
    log_ticks(axis.yaxis, [tick for tick in (1, 1.25, 1.5, 2, 3, 4, 6, 10) if tick < highest])


def windows_table(curves: list[Curve]) -> Table:
    """A row for each prior and number of evaluations: the best start, and the starts that are nearly as good."""
    made = table(
        f"Starts within {WITHIN:.0%} of the best, with 95% intervals",
        "prior", "NFE", "best t", "Fréchet there", "from t", "nats there", "to t", "nats there", "wide in t", "in nats",
        left=("prior",),
        caption="≤ ≥ the end of the grid of starts; nats: divergence of the data from the prior; a resampled curve is "
        "rougher than the curve and its window narrower: an interval may lie below its value",
    )  # fmt: skip
    for curve in curves:
        w = curve.window
        low, high = ("" if closed else mark for closed, mark in zip(w.closed, "≤≥"))
        marks = (low, "≥" if low else "", high, "≤" if high else "", *["≥" if low or high else ""] * 2)
        in_t, in_nats = (w.low, w.high, w.width), (w.nats_high, w.nats_low, w.nats_width)
        known = [spread(one, form) for pair in zip(in_t, in_nats) for one, form in zip(pair, (".0f", ".2g"))]
        cells = (mark + one for mark, one in zip(marks, known))
        made.add_row(*_head(curve), f"{w.best:.0f}", spread(curve.figures[curve.best].frechet), *cells)
    return made


def best_table(curves: list[Curve]) -> Table:
    """A row for each curve: the figures of its best start."""
    names = ("prior", "NFE", "t", *QUALITY)
    made = table("The best starts, with 95% intervals", *names, left=("prior",), caption=BESIDE)
    for curve in curves:
        made.add_row(*_head(curve), f"{curve.window.best:.0f}", *quality(curve.figures[curve.best]))
    return made


def _head(curve: Curve) -> tuple[str, str]:
    return prior_title(curve.prior), str(curve.nfe)


def off_table(curves: list[Curve], in_t: bool) -> Table:
    """A row for each curve: distances of starts that are off in t, or of those at a number of nats, over the best's."""
    places: tuple[float, ...] = OFFSETS if in_t else BUDGETS
    start = "a start that is off by so much t" if in_t else "the start at so many nats, wherever that is"
    caption = "so much earlier (+: more noise) or later (-) than the best start" if in_t else "t in brackets"
    made = table(
        f"Distance of {start}, over that of the best start, with 95% intervals",
        "prior", "NFE", "best t" if in_t else "best at nats", *(f"{e:+d}" if in_t else f"{e:g} nats" for e in places),
        left=("prior",), caption=f"{caption}; - off the grid of starts",
    )  # fmt: skip
    for curve in curves:
        off = {each.by: each for each in (curve.off_t if in_t else curve.off_nats)}
        best = f"{curve.window.best:.0f}" if in_t else f"{curve.nats[curve.best]:.2g}"
        cells = (_off(off.get(by), in_t) for by in places)
        made.add_row(*_head(curve), best, *cells)
    return made


def _off(off: Off | None, in_t: bool) -> str:
    if off is None:
        return "-"
    cost = spread(off.relative, ".2f")
    return cost if in_t else f"{cost}\n({off.t:.0f})"
