"""The page of the late-start curve: its picture, its tables and its sentences."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.axes import Axes
from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.experiments.late_start.critical_levels import Level
from latestart.experiments.late_start.measure import WITHIN, Curve, Line
from latestart.lab.drawing import COLORS, GREY, band, figure, save
from latestart.lab.report import (
    BESIDE,
    QUALITY,
    Report,
    floor_sentence,
    named,
    number,
    prior_title,
    quality,
    setup_facts,
    spread,
    table,
)

__all__ = ["draw", "page", "sentences"]

OF = {"network": "network", "data": "images"}


def page(result: Curve, folder: Path) -> Report:
    """Draw the curve, and return the curve and the critical levels as tables and in words."""
    draw(folder / "late-start.png", result)
    settings, facts = result.settings, setup_facts(result.settings)
    facts |= {"steps of the full run": result.length, "weights": result.weights, "features": result.features}
    lines = [*sentences(result), floor_sentence(result.floor, settings.samples)]
    if result.floor is None and settings.criteria and settings.levels is None:
        lines.append("the critical levels are of training images alone, since no others are at hand")
    lines += [f"no level: {line}" for line in result.missing] + [f"not measured: {line}" for line in result.failed]
    tables = [starts_table(result), *([levels_table(result.levels)] if result.levels else [])]
    return Report(
        f"Late-start curve: {facts['model']}", facts, tables, lines, pictures=["late-start.png"], files=["cells"]
    )


def draw(path: Path, result: Curve) -> None:
    """Distance, recall and copies against the start, noise falling to the right, over the critical levels."""
    points = [point for line in result.lines for point in line.points]
    ratios = {"frechet": 3.0, "recall": 1.4}
    ratios |= {"copied": 1.2} if any(point.figures.copied for point in points) else {}
    ratios |= {"levels": 0.4 + 0.16 * len(result.levels)} if result.levels else {}
    heights = list(ratios.values())
    made, axes = figure(len(ratios), 1, (11, 1.55 * sum(heights) + 0.8), sharex=True, height_ratios=heights)
    for name, axis in zip(ratios, axes[:, 0]):
        if name == "levels":
            _levels(axis, result.levels)
        else:
            _panel(axis, result, name)
        for level in result.levels:
            axis.axvline(level.t, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
            axis.axvspan(level.low, level.high, color=GREY, alpha=0.06, linewidth=0, zorder=0)
    _distance(axes[0, 0], result)
    axes[-1, 0].set_xlabel("start t, in the scheduler's time: noise falls to the right")
    lowest = min([*(point.t for point in points), *(level.low for level in result.levels)])
    axes[-1, 0].set_xlim(max(point.t for point in points) + 15, lowest - 15)
    settings = result.settings
    made.suptitle(
        f"How late can one start? DDPM, the last of {result.length:,} steps, on {Path(settings.model).name}; "
        f"{settings.samples:,} samples, 95% intervals"
    )
    save(made, path)


def _panel(axis: Axes, result: Curve, name: str) -> None:
    for place, line in enumerate(result.lines):
        known = [(point.t, value) for point in line.points if (value := getattr(point.figures, name)) is not None]
        look = {"marker": "o", "markersize": 3.5, "linewidth": 1.4, "label": f"from {prior_title(line.prior)}"}
        band(axis, [t for t, _ in known], [e for _, e in known], COLORS[place % len(COLORS)], **look)
    if name != "frechet":
        axis.set_ylabel({"recall": "recall", "copied": "share of copies"}[name])
    if name == "copied":
        axis.axhline(0.01, color=GREY, linewidth=0.8, linestyle="--")
        axis.annotate("new images: 0.01", (0.005, 0.01), xycoords=("axes fraction", "data"), fontsize=8, va="bottom")
    axis.set_ylim(bottom=0)


def _distance(axis: Axes, result: Curve) -> None:
    full = result.lines[0].points[0].figures.frechet.value
    axis.set(yscale="log", ylabel="Fréchet distance to the data")
    axis.set_ylim(bottom=0.7 * min(p.figures.frechet.low for line in result.lines for p in line.points))
    axis.axhline((1 + WITHIN) * full, color=GREY, linewidth=0.9, linestyle="--", label=f"{1 + WITHIN:g} x the full run")
    for place, line in enumerate(result.lines):
        if line.plateau is not None and line.falls:
            color, height = COLORS[place % len(COLORS)], (1 + WITHIN) * full * 0.9**place
            axis.plot([line.plateau.low, line.plateau.high], [height] * 2, color=color, linewidth=3, alpha=0.6)
            axis.plot(line.plateau.value, height, "D", color=color, markersize=8, markeredgecolor="white", zorder=4)
    axis.plot([], [], "D-", color=GREY, linewidth=3, markeredgecolor="white", label="end of a plateau, 95% interval")
    if result.levels:
        axis.plot([], [], color=GREY, linewidth=0.9, linestyle=":", label="critical levels, below")
    axis.legend(fontsize=9, loc="upper left")


def _levels(axis: Axes, levels: tuple[Level, ...]) -> None:
    for row, level in enumerate(levels):
        axis.plot([level.low, level.high], [row, row], color=GREY, linewidth=4, alpha=0.45, solid_capstyle="butt")
        inside = "white" if level.kind == "peak" else "black"
        axis.plot(level.t, row, "o", color="black", markersize=5, markerfacecolor=inside)
    axis.set_yticks(range(len(levels)), [_criterion(level) for level in levels], fontsize=8)
    axis.set_ylim(len(levels) - 0.4, -0.6)
    axis.set_title("Critical levels, with their intervals", fontsize=10)
    axis.grid(axis="y", color=GREY, alpha=0.15)


def starts_table(result: Curve) -> Table:
    """A row for each start of each prior, by falling t."""
    rows = []
    for line in result.lines:
        for point in line.points:
            distance, *others = quality(point.figures)
            start = (prior_title(line.prior), f"{point.t:.0f}", str(point.steps))
            rows.append((*start, distance, spread(point.relative, ".3f"), *others))
    return table(
        f"DDPM, the last of {result.length:,} steps, by where it is started, with 95% intervals",
        "start from", "t", "steps", QUALITY[0], "/ full run", *QUALITY[1:], left=("start from",),
        caption=f"/ full run: the distance over that of the full run, by paired replicates; {BESIDE}",
        rows=rows, sections=1,
    )  # fmt: skip


def levels_table(levels: tuple[Level, ...]) -> Table:
    """A row for each critical level."""
    rows = ((_criterion(level), spread(Estimate(level.t, level.low, level.high), ".0f")) for level in levels)
    return table("Critical levels, with their intervals", "criterion", "t", left=("criterion",), rows=rows)


def sentences(result: Curve) -> Iterator[str]:
    """The plateau and the fall of each line with their figures, and where the critical levels lie."""
    full = result.lines[0].points[0]
    yield (
        f"the full run, DDPM in {full.steps} steps: distance {named(full.figures.frechet)}, recall "
        f"{full.figures.recall.value:.3f}"
    )
    for line in result.lines:
        yield f"from {prior_title(line.prior)}: {_plateau(line)}"
        yield f"from {prior_title(line.prior)}: {_fall(line)}"
    if (end := result.lines[0].plateau) is not None and result.lines[0].falls and result.levels:
        yield f"the plateau from N(0, I) ends {_beside(end, result.levels)}"


def _plateau(line: Line) -> str:
    if line.plateau is None:
        return f"no plateau: no start is within {WITHIN:.0%} of the full run"
    on = [p for p in line.points if p.t >= line.plateau.value]
    best = min(on, key=lambda p: p.relative.value)
    bound = f"plateau, within {WITHIN:.0%} of the full run, from t = {line.points[0].t:.0f} down to "
    end = named(line.plateau, ".0f").replace(" ", ", 95% interval ", 1) if line.falls else f"the last, {on[-1].t:.0f}"
    but = f", but for {', '.join(f'{t:.0f}' for t in line.exceptions)}" if line.exceptions else ""
    return f"{bound}{end}{but}; best at t = {best.t:.0f}, {_times(best.relative)} the full run's distance"


def _fall(line: Line) -> str:
    if not line.falls:
        return "no fall down to the last start"
    last = line.points[-1]
    doubled = f"twice the full run's distance at t = {named(line.doubled, '.0f')}, " if line.doubled else ""
    return (
        f"fall, {doubled}{_times(last.relative)} it at t = {last.t:.0f} ({last.steps} steps), where the recall is "
        f"{last.figures.recall.value:.3f} and the share of copies {named(last.figures.copied, '.3f')}"
    )


def _beside(end: Estimate, levels: tuple[Level, ...]) -> str:
    parts = {
        "below": [level for level in levels if level.low > end.high],
        "above": [level for level in levels if level.high < end.low],
        "within the interval of": [level for level in levels if level.low <= end.high and level.high >= end.low],
    }
    return "; ".join(f"{word} {', '.join(map(_criterion, part))}" for word, part in parts.items() if part)


def _criterion(level: Level) -> str:
    peak = ", peak" if level.kind == "peak" else ""
    return f"{level.criterion}{peak} ({OF.get(level.of, level.of)})"


def _times(relative: Estimate) -> str:
    return f"{number(relative.value, '.2f')} times [{relative.low:.2f}, {relative.high:.2f}]"
