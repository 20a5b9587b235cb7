"""The page of the comparison of start distributions: its picture, its table and its sentences."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from latestart.evaluation.copying import BAR
from latestart.experiments.initialisations.measure import Comparison, Row
from latestart.experiments.initialisations.settings import counted
from latestart.lab.drawing import GREY, band, figure, log_ticks, save
from latestart.lab.judge import Floor
from latestart.lab.report import BESIDE, QUALITY, Report, facts_of, floor_sentence, quality, spread, table

__all__ = ["draw", "page", "starts_table"]

# Each kind: its title, its colour and its marker.
LOOKS = {
    "isotropic": ("N(0, I)", GREY, "s"),
    "uniform": ("uniform, matched moments", "#b35806", "v"),
    "diagonal": ("Gaussian, diagonal", "#80b1d3", "<"),
    "lowrank": ("Gaussian, low rank", "#2166ac", ">"),
    "gaussian": ("Gaussian", "#053061", "o"),
    "labels": ("a Gaussian for each class", "#a6761d", "P"),
    "mixture": ("mixture of Gaussians", "#1b7837", "^"),
    "flow": ("learned flow", "#8e0152", "D"),
    "images": ("noised training images", "#d6604d", "X"),
}
SHADES = ("#a6dba0", "#5aae61", "#00441b")  # of mixtures of a given number of components
EDGES = {"low": "≤ ", "high": "≥ ", "": ""}
DOTS = {
    "frechet": "Fréchet distance at the best start",
    "recall": "recall at the best start",
    "copied": f"share of copies (dashed: {BAR:g})",
}


def page(result: Comparison, folder: Path) -> Report:
    """Draw the starts, and return the best of each distribution as a table, the floor, and the reasons of failures."""
    draw(folder / "initialisations.png", result)
    settings = result.settings
    facts = facts_of(result, seed=f"{settings.seed} for the choice of starts, {settings.seed + 1} for the figures")
    floor = None if result.floor is None else Floor(result.unseen, result.floor.frechet, result.floor.second)
    lines = [floor_sentence(floor, settings.samples)]
    lines += [f"failed: {what}: {reason}" for what, reason in result.failed.items()]
    lines += [f"{kind}: {words}" for kind, words in result.fitted.items()]
    lines += [
        f"the flow at sigma = {sigma:.3g}: {nats:+.3f} nats over its Gaussian, on held-out images"
        for sigma, nats in result.gains
    ]
    title = f"Start distributions: {facts['model']}"
    return Report(title, facts, [starts_table(result)], lines, pictures=["initialisations.png"], files=["cells"])


def starts_table(result: Comparison) -> Table:
    """A row for each start distribution at its best start, by evaluations; bold is the lowest distance."""
    settings, floor = result.settings, result.floor
    copied = "" if floor is None else "; copied of unseen images: every second one, compared with the others"
    made = table(
        f"Start distributions, each at its own best start: {Path(settings.model).name}, {settings.sampler.upper()}",
        "NFE", "start distribution", "t", QUALITY[0], "/ Gaussian", *QUALITY[1:], left=("start distribution",),
        caption=f"{settings.samples:,} samples; starts chosen with seed {settings.seed}, all figures with seed "
        f"{settings.seed + 1}, with 95% intervals, paired for the ratio to the Gaussian; ≤ ≥ the end of the grid of "
        f"starts; * the best start that does not copy (copied above {BAR:g}) where the best of all does{copied}; "
        f"{BESIDE}",
    )  # fmt: skip
    for nfe, rows in _by_nfe(result).items():
        best = min(row.figures.frechet.value for row in rows)
        for row in rows:
            distance, *shares = quality(row.figures)
            style = "bold" if row.figures.frechet.value == best else ""
            start = f"{EDGES[row.edge]}{row.point.cell.t_start:g}"
            made.add_row(str(nfe), _title(row), start, distance, spread(row.relative, ".2f"), *shares, style=style)
        made.add_section()
    if floor is not None:
        distance, *shares = quality(floor)
        made.add_row("", f"{result.unseen:,} unseen images", "", distance, "", *shares)
    return made


def _by_nfe(result: Comparison) -> dict[int, list[Row]]:
    """The rows by the numbers of evaluations at which something could be measured."""
    rows = sorted(result.rows, key=lambda row: result.settings.nfe.index(row.point.cell.nfe))
    return {nfe: list(mine) for nfe, mine in groupby(rows, lambda row: row.point.cell.nfe)}


def _look(kind: str, kinds: Sequence[str]) -> tuple[str, str, str]:
    """The title, the colour and the marker of one of the kinds."""
    if not (count := counted(kind)):
        return LOOKS[kind]
    place = [each for each in kinds if counted(each)].index(kind)
    return f"mixture of {count} Gaussians", SHADES[place % len(SHADES)], LOOKS["mixture"][2]


def _title(row: Row) -> str:
    return f"{_look(row.point.cell.prior, [row.point.cell.prior])[0]}{' *' if row.clean else ''}"


def draw(path: str | Path, result: Comparison) -> None:
    """Draw, for each number of evaluations, distance against start; below, distance, recall and copies at the best."""
    by_nfe, settings = _by_nfe(result), result.settings
    size = (max(5.2 * len(by_nfe) + 1.6, 9.5), 15)  # a legend and a title must fit above a single column
    made, axes = figure(1 + len(DOTS), len(by_nfe), size, height_ratios=(1.6, 1, 1, 1))
    for place in range(1, len(by_nfe)):  # so that numbers of evaluations can be compared
        axes[0][place].sharey(axes[0][0])
        for line in axes[1:]:
            line[place].sharex(line[0])
    for place, (nfe, rows) in enumerate(by_nfe.items()):
        _curves(axes[0][place], result, nfe, rows)
        for axis, name in zip(axes[1:, place], DOTS):
            _dots(axis, result, rows, name)
    log_ticks(axes[0][0].yaxis)
    log_ticks(axes[1][0].xaxis)
    made.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=10)
    made.suptitle(
        f"Start distributions: {Path(settings.model).name}, {settings.sampler.upper()}, {settings.samples:,} samples, "
        f"95% intervals\nabove: all starts, the best one ringed, seed {settings.seed}; below: from there with seed "
        f"{settings.seed + 1}\ndotted: unseen images; hollow (*): the best start that does not copy",
        fontsize=12,
    )
    save(made, path)


def _curves(axis: Axes, result: Comparison, nfe: int, rows: Sequence[Row]) -> None:
    kinds = result.settings.distributions
    for kind in kinds:
        if points := result.curves.get((kind, nfe)):
            title, color, marker = _look(kind, kinds)
            look = {"marker": marker, "markersize": 4, "linewidth": 1.3, "label": title}
            starts = np.array([point.cell.t_start for point in points], dtype=float)
            band(axis, starts, [point.figures.frechet for point in points], color, **look)
    for point in (row.point for row in rows if not row.clean):
        start, distance = np.array([[point.cell.t_start], [point.figures.frechet.value]], dtype=float)
        axis.scatter(start, distance, s=130, facecolors="none", edgecolors=_look(point.cell.prior, kinds)[1])
    if result.floor is not None:
        level, name = result.floor.frechet.value, f"{result.unseen:,} unseen images"
        axis.axhline(level, color="black", linestyle=":", linewidth=1)
        axis.annotate(name, (0.99, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
    axis.set(yscale="log", title=f"{nfe} evaluations", xlabel="start t, in the scheduler's time")
    axis.set_ylabel("Fréchet distance to the training set")


def _dots(axis: Axes, result: Comparison, rows: Sequence[Row], name: str) -> None:
    """A point with its interval for each row, the first on top."""
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows):
        if (estimate := getattr(row.figures, name)) is not None:
            _, color, marker = _look(row.point.cell.prior, result.settings.distributions)
            fill = "white" if row.clean else color
            axis.plot([estimate.low, estimate.high], [place, place], color=color, linewidth=1.6)
            axis.plot([estimate.value], [place], color=color, marker=marker, markerfacecolor=fill)
    if (floor := getattr(result.floor, name, None)) is not None:
        axis.axvline(floor.value, color="black", linestyle=":", linewidth=1)
    if name == "copied":
        axis.axvline(BAR, color="#b2182b", linestyle="--", linewidth=1)
    axis.set_yticks(places, [f"{_title(row)}, t = {row.point.cell.t_start:g}" for row in rows], fontsize=8)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.grid(axis="x", alpha=0.25)
    axis.set_xlabel(DOTS[name])
    if name == "frechet":
        axis.set_xscale("log")
