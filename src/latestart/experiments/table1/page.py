"""The page of the paper's table: ours beside the paper's, as tables, in words and as a picture."""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from string import ascii_lowercase

from matplotlib.axes import Axes
from rich.markup import escape
from rich.table import Table

from latestart.evaluation.copying import BAR, QUANTILE
from latestart.evaluation.quality import Estimate
from latestart.experiments.table1.measure import Gains
from latestart.experiments.table1.rows import BEST, Best, Row
from latestart.experiments.table1.settings import GAUSSIAN, MIXTURE, PAPER
from latestart.lab.drawing import COLORS, GREY, figure, log_ticks, save, ticks
from latestart.lab.grid import FULL, PLAIN
from latestart.lab.judge import second_over
from latestart.lab.report import BESIDE, Report, also, floor_sentence, named, not_measured, number, setup_facts, table

__all__ = ["draw", "headline", "page", "tables"]

NAMES = {"ddpm": "DDPM", "ddim": "DDIM", "pndm": "PNDM", "ipndm": "iPNDM", "dpm++": "DPM++ 2M", "unipc": "UniPC"}
NAMES |= {"deis": "DEIS", "heun": "Heun", "lms": "LMS", BEST: "best of all"}
KINDS = {FULL: "full noise", PLAIN: "late, N(0, I)", GAUSSIAN: "late, Gaussian", MIXTURE: "late, mixture"}
LOOKS = {FULL: ("o", GREY), PLAIN: ("s", COLORS[3]), GAUSSIAN: ("D", COLORS[1]), MIXTURE: ("^", COLORS[0])}
CLEAN = "without copies"
NEXT = f"\n{CLEAN}:\n"  # between the best and the best without copies
BOTH = (False, True)
TITLES = {
    PAPER: "As the paper did it: steps, on its grid, which ends at t = 0",
    "exact": "On exact grids, at equal network evaluations",
    "solvers": "Other solvers, at equal network evaluations",
    BEST: "The best late start of any sampler against the {} of any sampler",
}
DIGITS = (1, 2, 5), (1, 1.5, 2, 3, 5, 7), [1 + k / 10 for k in range(90)]  # of ticks: more where there are few
Clips = Sequence[bool]  # whether the predicted image was clipped: what was tried, by the samplers that can


def page(result: Gains, folder: Path) -> Report:
    """Draw the table, and return all parts, the best ratios in words, and the reasons why cells are missing."""
    settings, rows, clips, facts = result.settings, result.rows, result.clips, setup_facts(result.settings, chosen=True)
    if rows:
        heading = f"{facts['model']}: {settings.samples:,} samples of each cell, features {result.features}\n"
        heading += f"chosen with seed {settings.seed}, drawn again with seed {settings.seed + 1}"
        draw(folder / "table1.png", rows, heading)
    facts |= {name.replace("_", " "): result.counts[name] for name in ("measured", "drawn_again", "evaluations")}
    facts |= {"weights": result.weights, "features": result.features, "clipping": _tried(clips)[0]}
    lines = [floor_sentence(result.floor, settings.samples), *_alone(result), *headline(rows, clips)]
    lines += [*_left_out(result), *not_measured(result.cells)]
    lines.append(
        f"start, spacing{', clipping' if set(clips) == set(BOTH) else ''} and the best sampler were chosen by the "
        f"lowest distance with seed {settings.seed}, for full noise and each late start alike; every figure, on both "
        f"sides of a ratio, is of what was chosen, drawn again with seed {settings.seed + 1}, by which nothing was "
        "chosen"
    )
    if any(also(best.figures) for row in rows for best in row.best.values()):
        lines.append(BESIDE)
    if any(row.clean for row in rows):
        lines.append(
            f"{CLEAN}: the best of the late starts whose share of copies is not above {BAR:g} with either seed (it is "
            f"{QUANTILE:g} for new images), where the best of all is"
        )
    title, files = f"The paper's table: {facts['model']}", ["results.parquet", "cells"]
    return Report(title, facts, tables(rows, clips), lines, pictures=["table1.png"] if rows else [], files=files)


def tables(rows: Sequence[Row], clips: Clips = BOTH) -> list[Table]:
    """Return a table for each part, in order; `clips` are the clippings that were tried."""
    parts = dict.fromkeys(row.part for row in rows)
    return [_table(part, [row for row in rows if row.part == part], clips) for part in parts]


def _table(part: str, rows: list[Row], clips: Clips) -> Table:
    theirs = [row.published for row in rows if row.published]
    notes = list(dict.fromkeys(known.note for known in theirs if known.note))
    names, lines = (_papers if part == PAPER else _equal)(rows, bool(theirs), notes)
    caption = "; ".join(f"({mark}) {escape(note)}" for mark, note in zip(ascii_lowercase, notes))
    title, cells = TITLES[part].format(_tried(clips)[1]), (map(escape, line) for line in lines)
    return table(title, *names, left=("sampler",), caption=caption, rows=cells, sections=1)


def _papers(rows: list[Row], theirs: bool, notes: list[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns and the lines of the paper's own part."""
    names: tuple[str, ...] = ("sampler", "steps", "NFE", "vanilla", "late start, Gaussian", "ratio")
    names += ("paper: vanilla", "late start", "ratio") if theirs else ()
    lines = []
    for row in rows:
        ratios = [named(known[GAUSSIAN], ".2f") for _, known in row.choices if GAUSSIAN in known]
        ours = (_start(row, FULL), _start(row, GAUSSIAN), NEXT.join(ratios) or "-")
        beside = _published(row, notes, ("vanilla", "late", "ratio")) if theirs else ()
        lines.append((_name(row.sampler), str(row.number), str(row.nfe), *ours, *beside))
    return names, lines


def _equal(rows: list[Row], theirs: bool, notes: list[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The columns and the lines of a part at equal evaluations."""
    kinds = [kind for kind in KINDS if any(kind in row.best for row in rows)]
    names = ("sampler", "NFE", *(KINDS[kind] for kind in kinds))
    names += ("Gaussian: gain on\ntrailing, unclipped", "paper's\nratio") if theirs else ()
    lines = []
    for row in rows:
        spent = str(row.number) if row.nfe == row.number else f"{row.number} ({row.nfe})"
        ours = (_start(row, kind) for kind in kinds)
        beside = (named(row.paper_ratios.get(GAUSSIAN), ".2f"), *_published(row, notes, ("ratio",))) if theirs else ()
        lines.append((_name(row.sampler), spent, *ours, *beside))
    return names, lines


def _name(sampler: str) -> str:
    return NAMES.get(sampler, sampler)


def _published(row: Row, notes: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The paper's figures, with the marks of their notes."""
    note = row.published.note if row.published else ""
    mark = f" ({ascii_lowercase[notes.index(note)]})" if note else ""
    return tuple(number(getattr(row.published, name, None), ".2f") + mark for name in names)


def _start(row: Row, kind: str) -> str:
    """The best cell of a kind, and below it, where it copies, the best that does not."""
    known = ((best[kind], ratios.get(kind)) for best, ratios in row.choices if kind in best)
    return NEXT.join(_where(row.part, best, gain) for best, gain in known) or "-"


def _where(part: str, best: Best, gain: Estimate | None) -> str:
    """The distance, the gain, the place of a cell, its recall and copies, and what else is known, each in a line."""
    cell, figures = best.cell, best.figures
    late = cell.t_start is not None
    way = [_name(cell.sampler)] if part == BEST else []
    way += [f"t = {cell.t_start:g}"] if late else []
    way += [] if part == PAPER or (late and cell.spacing == "trailing") else [cell.spacing]
    way += [] if cell.last is None else [f"down to {cell.last}"]
    way += ["clipped"] if cell.clip else []
    shares = f"recall {figures.recall.value:.2f}"
    if late and figures.copied is not None:
        copied = f"copies {named(figures.copied, '.3f')}" if figures.copies else f"copied {figures.copied.value:.3f}"
        shares += f", {copied}"
    gained = f"gain {named(gain, '.2f')}" if gain is not None and part != PAPER else ""
    lines = (named(figures.frechet), gained, ", ".join(way), shares, ", ".join(also(figures)))
    return "\n".join(filter(None, lines))


def _alone(result: Gains) -> Iterator[str]:
    """A line for each prior: the score of its own samples, without the network, or the reason why there is none."""
    whose = "the {}'s own samples, without the network: "
    for kind, known in result.alone.items():
        recall, copied = (named(one, ".3f") for one in (known.recall, known.copied))
        shares = (f"recall {recall}", f"copied {copied}", *also(known, intervals=True))
        yield f"{whose.format(kind)}{named(known.frechet)}, {', '.join(shares)}"
    yield from (f"{whose.format(kind)}not measured, {reason}" for kind, reason in result.alone_failed.items())


def _tried(clips: Clips) -> tuple[str, str]:
    """The clippings that were tried, and the best full noise of these, in words; the paper's grid has none."""
    if set(clips) == set(BOTH):
        return "clipped and not, where a sampler can", "best full noise"
    if True in clips:
        return "clipped only, where a sampler can", "best clipped full noise"
    return "none tried", "best unclipped full noise"


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


def headline(rows: Sequence[Row], clips: Clips = BOTH) -> Iterator[str]:
    """Yield the best late start over the best full noise at each number, by kind of start; and without copies."""
    for row, kind in product((row for row in rows if row.part == BEST), KINDS):
        for (best, ratios), note in zip(row.choices, ("", f", {CLEAN}")):
            if (gain := ratios.get(kind)) is not None:
                both = (best[kind], row.best[FULL])
                late, full = (f"({_name(one.cell.sampler)}) {number(one.figures.frechet.value)}" for one in both)
                recalls = " against ".join(named(one.figures.recall, ".3f") for one in both)
                second = second_over(row.best[FULL].figures, best[kind].figures)
                beside = "" if second is None else f"; in the second features {named(second, '.2f')}x"
                yield (
                    f"NFE {row.number}: {KINDS[kind]}{note} {late}, {_tried(clips)[1]} {full}: {gain.value:.2f}x "
                    f"[{gain.low:.2f}, {gain.high:.2f}]; recall {recalls}; copied "
                    f"{named(best[kind].figures.copied, '.3f')}{beside}"
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
        for row in (row for row in rows if row.number == nfe):
            place = labels.index(_label(row))
            for kind, (hollow, (best, ratios)) in product(KINDS, enumerate(row.choices)):
                if kind in best:
                    _point(above, place, kind, best[kind].figures.frechet, bool(hollow))
                if kind in ratios:
                    _point(below, place, kind, ratios[kind], bool(hollow))
            if (theirs := row.published) is not None:
                color, label = ("white", "the paper, with a note") if theirs.note else ("#e6a700", "the paper")
                star = {"marker": "*", "s": 110, "edgecolors": "black", "zorder": 4}
                below.scatter([theirs.ratio], [place + 0.32], color=color, label=label, **star)
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


def _point(axis: Axes, place: float, kind: str, estimate: Estimate, hollow: bool) -> None:
    """An estimate of a kind of start in the line of its sampler, with its interval."""
    # side by side, so that intervals do not hide each other
    place += 0.16 * (list(KINDS).index(kind) - 1.5) + (0.06 if hollow else 0)
    marker, color = LOOKS[kind]
    sides = [[max(estimate.value - estimate.low, 0)], [max(estimate.high - estimate.value, 0)]]
    axis.errorbar(
        [estimate.value], [place], xerr=sides, fmt=marker, color=color, markersize=5, linewidth=1.2, zorder=3,
        markerfacecolor="white" if hollow else color, label=f"{KINDS[kind]}, {CLEAN}" if hollow else KINDS[kind],
    )  # fmt: skip


def _lines(axis: Axes, labels: list[str]) -> None:
    """A logarithmic axis over lines of two shades, with at least three ticks if there are round numbers for them."""
    axis.set_xscale("log")
    for place in range(0, len(labels), 2):
        axis.axhspan(place - 0.5, place + 0.5, color="#f2f2f2", zorder=0)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    low, high = axis.get_xlim()
    tried = [ticks(low, high, digits) for digits in DIGITS]
    log_ticks(axis.xaxis, next((found for found in tried if len(found) >= 3), tried[-1]))
