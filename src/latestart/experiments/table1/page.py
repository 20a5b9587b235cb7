"""The page of the paper's table: ours beside the paper's, as tables, in words and as a picture."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_lowercase

import numpy as np
from matplotlib.axes import Axes
from rich.markup import escape
from rich.table import Table

from latestart.evaluation.copying import BAR, QUANTILE
from latestart.evaluation.quality import Estimate
from latestart.experiments.table1.measure import Gains
from latestart.experiments.table1.rows import BEST, Best, Row
from latestart.experiments.table1.settings import GAUSSIAN, MIXTURE, PAPER
from latestart.lab.drawing import COLORS, GREY, ends, figure, save, ticks
from latestart.lab.grid import FULL, PLAIN
from latestart.lab.report import Report, floor_sentence, named, not_measured, number, table

__all__ = ["draw", "headline", "page", "tables"]

NAMES = {"ddpm": "DDPM", "ddim": "DDIM", "pndm": "PNDM", "ipndm": "iPNDM", "dpm++": "DPM++ 2M", "unipc": "UniPC"}
NAMES |= {"deis": "DEIS", "heun": "Heun", "lms": "LMS", BEST: "best of all"}
KINDS = {FULL: "full noise", PLAIN: "late, N(0, I)", GAUSSIAN: "late, Gaussian", MIXTURE: "late, mixture"}
LOOKS = {FULL: ("o", GREY), PLAIN: ("s", COLORS[3]), GAUSSIAN: ("D", COLORS[1]), MIXTURE: ("^", COLORS[0])}
CLEAN = "without copies"
BOTH = (False, True)
TITLES = {
    PAPER: "As the paper did it: steps, on its grid, which ends at t = 0",
    "exact": "On exact grids, at equal network evaluations",
    "solvers": "Other solvers, at equal network evaluations",
    BEST: "The best late start of any sampler against the {} of any sampler",
}
FINER = (1, 1.5, 2, 3, 5, 7), [1 + k / 10 for k in range(90)]  # digits of ticks, where there are few
Clips = Sequence[bool]  # whether the predicted image was clipped: what was tried, by the samplers that can


def page(result: Gains, folder: Path) -> Report:
    """Draw the table, and return all parts, the best ratios in words, and the reasons of what was not measured."""
    settings, rows, clips = result.settings, result.rows, result.clips
    model = Path(settings.model).name
    if rows:
        draw(folder / "table1.png", rows, _heading(result))
    facts = {"model": model, "weights": result.weights, "samples": settings.samples, "features": result.features}
    facts |= {name.replace("_", " "): result.counts[name] for name in ("measured", "drawn_again", "evaluations")}
    facts |= {"clipping": _clipping(clips)}
    facts |= {"seed": f"{settings.seed} to choose, {settings.seed + 1} for the figures"}
    lines = [floor_sentence(result.floor, settings.samples), *_alone(result), *headline(rows, clips)]
    lines += [*_left_out(result), *not_measured(result.cells), _method(result)]
    if any(row.clean for row in rows):
        lines.append(
            f"{CLEAN}: the best of the late starts whose share of copies is not above {BAR:g} with either seed (it is "
            f"{QUANTILE:g} for new images), where the best of all is"
        )
    pictures = ["table1.png"] if rows else []
    return Report(
        f"The paper's table: {model}", facts, tables(rows, clips), lines, pictures, ["results.parquet", "cells"]
    )


def tables(rows: Sequence[Row], clips: Clips = BOTH) -> list[Table]:
    """Return a table for each part, in order; `clips` are the clippings that were tried."""
    parts = dict.fromkeys(row.part for row in rows)
    return [_table(part, [row for row in rows if row.part == part], clips) for part in parts]


def _table(part: str, rows: list[Row], clips: Clips) -> Table:
    theirs = [row.published for row in rows if row.published is not None]
    notes = list(dict.fromkeys(known.note for known in theirs if known.note))
    names, lines = (_papers if part == PAPER else _equal)(rows, bool(theirs), notes)
    caption = "; ".join(f"({mark}) {escape(note)}" for mark, note in zip(ascii_lowercase, notes))
    made = table(TITLES[part].format(_best_full(clips)), *names, left=("sampler",), caption=caption)
    for line, before in zip(lines, [None, *lines]):
        if before is not None and line[0] != before[0]:
            made.add_section()
        made.add_row(*map(escape, line))
    return made


def _papers(rows: list[Row], theirs: bool, notes: list[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns and the lines of the paper's own part."""
    names: tuple[str, ...] = ("sampler", "steps", "NFE", "vanilla", "late start, Gaussian", "ratio")
    names += ("paper: vanilla", "late start", "ratio") if theirs else ()
    lines = []
    for row in rows:
        ratio = _times(row.ratios.get(GAUSSIAN))
        if (clean := row.clean_ratios.get(GAUSSIAN)) is not None:
            ratio += f"\n{CLEAN}:\n{_times(clean)}"
        ours = (_where(row.best.get(FULL)), _late(row, GAUSSIAN), ratio)
        beside = _published(row, notes, ("vanilla", "late", "ratio")) if theirs else ()
        lines.append((NAMES[row.sampler], str(row.number), str(row.nfe), *ours, *beside))
    return names, lines


def _equal(rows: list[Row], theirs: bool, notes: list[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns and the lines of a part at equal evaluations."""
    kinds = [kind for kind in KINDS if any(kind in row.best for row in rows)]
    names = ("sampler", "NFE", *(KINDS[kind] for kind in kinds))
    names += ("Gaussian: gain on\ntrailing, unclipped", "paper's\nratio") if theirs else ()
    lines = []
    for row in rows:
        spent = str(row.number) if row.nfe == row.number else f"{row.number} ({row.nfe})"
        ours = (_late(row, kind, row.part == BEST, gains=True) for kind in kinds)
        beside = (_times(row.paper_ratios.get(GAUSSIAN)), *_published(row, notes, ("ratio",))) if theirs else ()
        lines.append((_name(row.sampler), spent, *ours, *beside))
    return names, lines


def _name(sampler: str) -> str:
    return NAMES.get(sampler, sampler)


def _published(row: Row, notes: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The paper's figures, with the marks of their notes."""
    known = row.published
    if known is None:
        return ("-",) * len(names)
    mark = f" ({ascii_lowercase[notes.index(known.note)]})" if known.note else ""
    return tuple(f"{getattr(known, name):.2f}{mark}" for name in names)


def _late(row: Row, kind: str, sampler: bool = False, gains: bool = False) -> str:
    """The best cell of a kind, and below it, where it copies, the best that does not."""
    found = [_where(row.best.get(kind), row.ratios.get(kind) if gains else None, sampler)]
    if (clean := row.clean.get(kind)) is not None:
        found += [f"{CLEAN}:", _where(clean, row.clean_ratios.get(kind) if gains else None, sampler)]
    return "\n".join(found)


def _where(best: Best | None, gain: Estimate | None = None, sampler: bool = False) -> str:
    """The distance, the gain, the place of a cell, and its recall and copies, each in a line."""
    if best is None:
        return "-"
    cell, figures = best.cell, best.figures
    late = cell.t_start is not None
    way = [_name(cell.sampler)] if sampler else []
    way += [f"t = {cell.t_start:g}"] if late else []
    way += [] if cell.spacing == PAPER or (late and cell.spacing == "trailing") else [cell.spacing]
    way += ["clipped"] if cell.clip else []
    shares = [f"recall {figures.recall.value:.2f}"]
    if late and figures.copied is not None:
        shares.append(
            f"copies {named(figures.copied, '.3f')}" if figures.copies else f"copied {figures.copied.value:.3f}"
        )
    lines = [named(figures.frechet), gain and f"gain {_times(gain)}", ", ".join(way), ", ".join(shares)]
    return "\n".join(line for line in lines if line)


def _times(estimate: Estimate | None) -> str:
    return "-" if estimate is None else named(estimate, ".2f")


def _heading(result: Gains) -> str:
    settings = result.settings
    return (
        f"{Path(settings.model).name}: {settings.samples:,} samples of each cell, features {result.features}\n"
        f"chosen with seed {settings.seed}, drawn again with seed {settings.seed + 1}"
    )


def _alone(result: Gains) -> Iterator[str]:
    """A line for each prior: the score of its own samples, without the network, or the reason why there is none."""
    for kind, known in sorted(result.alone.items(), key=lambda pair: isinstance(pair[1], str)):
        whose = f"the {kind}'s own samples, without the network"
        if isinstance(known, str):
            yield f"{whose}: not measured, {known}"
        else:
            copied = "" if known.copied is None else f", copied {named(known.copied, '.3f')}"
            yield f"{whose}: {named(known.frechet)}, recall {named(known.recall, '.3f')}{copied}"


def _clipping(clips: Clips) -> str:
    """The clippings that were tried, in words; the paper's grid has none."""
    if set(clips) == set(BOTH):
        return "clipped and not, where a sampler can"
    return "clipped only, where a sampler can" if True in clips else "none tried"


def _best_full(clips: Clips) -> str:
    """The baseline of a late start: the best of all only where both clippings were tried."""
    if set(clips) == set(BOTH):
        return "best full noise"
    return f"best {'clipped' if True in clips else 'unclipped'} full noise"


def _left_out(result: Gains) -> Iterator[str]:
    """A line for the rows that are left out, and one for the best of all at the same numbers."""
    places: dict[tuple[str, str], list[str]] = {}
    for (part, sampler, nfe), missing in result.left.items():
        lacking = " and ".join(f"{count} {status}" for status, count in sorted(Counter(missing).items()))
        places.setdefault((part, _name(sampler)), []).append(f"{nfe} ({lacking})")
    if places:
        rows = "; ".join(f"{part}: {name} at {', '.join(numbers)}" for (part, name), numbers in places.items())
        yield f"left out, since full noise was not measured as a whole and what is missing may be the best: {rows}"
    if numbers := sorted({nfe for part, _, nfe in result.left if part != PAPER}):
        yield f"left out for the same reason: {NAMES[BEST]} at {', '.join(map(str, numbers))}"


def _method(result: Gains) -> str:
    clipped = ", clipping" if set(result.clips) == set(BOTH) else ""
    return (
        f"start, spacing{clipped} and the best sampler were chosen by the lowest distance with seed "
        f"{result.settings.seed}, for full noise and each late start alike; every figure, on both sides of a ratio, is "
        f"of what was chosen, drawn again with seed {result.settings.seed + 1}, by which nothing was chosen"
    )


def headline(rows: Sequence[Row], clips: Clips = BOTH) -> Iterator[str]:
    """A line for each number: the best late start over the best full noise, by kind of start; and without copies."""
    for row in rows:
        if row.part != BEST or FULL not in row.best:
            continue
        for kind, gain in row.ratios.items():
            yield _gained(row, KINDS[kind], row.best[kind], gain, clips)
            if kind in row.clean_ratios:
                yield _gained(row, f"{KINDS[kind]}, {CLEAN}", row.clean[kind], row.clean_ratios[kind], clips)


def _gained(row: Row, start: str, late: Best, gain: Estimate, clips: Clips) -> str:
    full, copied = row.best[FULL], late.figures.copied
    sides = (f"({_name(one.cell.sampler)}) {number(one.figures.frechet.value)}" for one in (late, full))
    late_side, full_side = sides
    recalls = " against ".join(named(one.figures.recall, ".3f") for one in (late, full))
    return (
        f"NFE {row.number}: {start} {late_side}, {_best_full(clips)} {full_side}: "
        f"{gain.value:.2f}x [{gain.low:.2f}, {gain.high:.2f}]; recall {recalls}"
        + ("" if copied is None else f"; copied {named(copied, '.3f')}")
    )


def draw(path: Path, rows: Sequence[Row], heading: str) -> None:
    """Draw distances above, ratios below: a column for each number, a line for each sampler, stars for the paper.

    Hollow marks are of late starts that do not copy where the best do, and hollow stars of figures with a note.
    """
    numbers = sorted({row.number for row in rows})
    labels = list(dict.fromkeys(_label(row) for row in rows))
    size = (4.6 * len(numbers) + 2.2, 2 * (0.36 * len(labels) + 1.1) + 1.2)
    made, axes = figure(2, len(numbers), size, sharey=True)
    for (above, below), nfe in zip(axes.T, numbers):
        mine = [row for row in rows if row.number == nfe]
        for row in mine:
            place = labels.index(_label(row))
            for kind in KINDS:
                for hollow, known in enumerate((row.best, row.clean)):
                    _point(above, place, kind, known[kind].figures.frechet if kind in known else None, bool(hollow))
                for hollow, gains in enumerate((row.ratios, row.clean_ratios)):
                    _point(below, place, kind, gains.get(kind), bool(hollow))
            _star(below, place, row)
        above.set(title=f"{nfe} evaluations (paper's grid: steps)", xlabel="Fréchet distance")
        below.set(xlabel="full noise / late start: above 1, the late start is better")
        below.axvline(1, color="black", linewidth=0.8)
        for axis in (above, below):
            _lines(axis, labels)
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(labels)), labels)
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    wide = max(3, 2 * len(numbers))
    made.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=wide, fontsize=9)
    made.suptitle(heading)
    save(made, path)


def _label(row: Row) -> str:
    return f"{_name(row.sampler)}, paper's grid" if row.part == PAPER else _name(row.sampler)


def _point(axis: Axes, place: float, kind: str, estimate: Estimate | None, hollow: bool) -> None:
    """An estimate of a kind of start in the line of its sampler, with its interval."""
    if estimate is None:
        return
    # side by side, so that intervals do not hide each other
    place += 0.16 * (list(KINDS).index(kind) - 1.5) + (0.06 if hollow else 0)
    low, value, high = ends([estimate])
    marker, color = LOOKS[kind]
    style = {"fmt": marker, "color": color, "markersize": 5, "linewidth": 1.2, "zorder": 3}
    style |= {"markerfacecolor": "white", "label": f"{KINDS[kind]}, {CLEAN}"} if hollow else {"label": KINDS[kind]}
    spread = np.maximum(np.stack([value - low, high - value]), 0)
    axis.errorbar(value, [place], xerr=spread, **style)  # type: ignore[arg-type]


def _star(axis: Axes, place: float, row: Row) -> None:
    """The paper's ratio."""
    if row.published is not None:
        color, label = ("white", "the paper, with a note") if row.published.note else ("#e6a700", "the paper")
        style = {"marker": "*", "s": 110, "color": color, "edgecolors": "black", "zorder": 4, "label": label}
        axis.scatter([row.published.ratio], [place + 0.32], **style)  # type: ignore[arg-type]


def _lines(axis: Axes, labels: list[str]) -> None:
    """A logarithmic axis over lines of two shades, with at least three ticks if there are round numbers for them."""
    axis.set_xscale("log")
    for place in range(0, len(labels), 2):
        axis.axhspan(place - 0.5, place + 0.5, color="#f2f2f2", zorder=0)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    low, high = axis.get_xlim()
    tried = [ticks(low, high)]
    tried += [[d * 10.0**k for k in range(-3, 6) for d in digits if low <= d * 10.0**k <= high] for digits in FINER]
    marks = next((found for found in tried if len(found) >= 3), tried[-1])
    axis.set_xticks(marks, [f"{mark:g}" for mark in marks])
    axis.minorticks_off()
