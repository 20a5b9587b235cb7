"""The paper's table beside ours, as tables and as a picture. Everything is as it was handed over."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from latestart.evaluation.copying import BAR, QUANTILE
from latestart.evaluation.quality import Estimate
from latestart.experiments.table1_cells import GAUSSIAN, MIXTURE, PAPER
from latestart.experiments.table1_rows import BEST, Best, Row
from latestart.files import replacing
from latestart.lab.grid import FULL, PLAIN
from latestart.lab.judge import Floor
from latestart.lab.report import Report, floor_sentence, not_measured

NAMES = {"ddpm": "DDPM", "ddim": "DDIM", "pndm": "PNDM", "ipndm": "iPNDM", "dpm++": "DPM++ 2M", "unipc": "UniPC"}
NAMES |= {"deis": "DEIS", "heun": "Heun", "lms": "LMS", BEST: "best of all"}
KINDS = {FULL: "full noise", PLAIN: "late, N(0, I)", GAUSSIAN: "late, Gaussian", MIXTURE: "late, mixture"}
COLORS = {FULL: "#707070", PLAIN: "#8073ac", GAUSSIAN: "#2166ac", MIXTURE: "#b2182b"}
MARKERS = {FULL: "o", PLAIN: "s", GAUSSIAN: "D", MIXTURE: "^"}
CLEAN = "without copies"
ALONE = "the {}'s own samples, without the network"
BEST_FULL = "best full noise"  # of all: unclipped and clipped
BOTH = (False, True)
MARKS = ascii_lowercase  # of notes
TITLES = {
    PAPER: "As the paper did it: steps, on its grid, which ends at t = 0",
    "exact": "On exact grids, at equal network evaluations",
    "solvers": "Other solvers, at equal network evaluations",
    BEST: f"The best late start of any sampler against the {BEST_FULL} of any sampler",
}
Clips = Sequence[bool]  # whether the predicted image was clipped: what was tried, of the samplers that can


@dataclass(frozen=True)
class Block:
    """One table of text: its title, the names of its columns, its lines, whose cells may have several, and notes."""

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]]
    notes: tuple[str, ...] = ()

    def rich(self) -> Table:
        """For the terminal, and for a report."""
        notes = "; ".join(f"({mark}) {escape(note)}" for mark, note in zip(MARKS, self.notes)) or None
        table = Table(title=self.title, title_justify="left", box=SIMPLE, caption=notes, caption_justify="left")
        for k, name in enumerate(self.columns):
            table.add_column(name, justify="left" if k == 0 else "right")
        for k, line in enumerate(self.lines):
            if k and line[0] != self.lines[k - 1][0]:
                table.add_section()
            table.add_row(*map(escape, line))
        return table


def blocks(rows: Sequence[Row], clips: Clips = BOTH) -> list[Block]:
    """The parts of the table, each a block, in order; `clips` is which clippings were tried."""
    parts = dict.fromkeys(row.part for row in rows)
    return [_block(part, [row for row in rows if row.part == part], clips) for part in parts]


def _block(part: str, rows: list[Row], clips: Clips) -> Block:
    return _paper(rows) if part == PAPER else _equal(part, rows, clips)


def _paper(rows: list[Row]) -> Block:
    columns: tuple[str, ...] = ("sampler", "steps", "NFE", "vanilla", "late start, Gaussian", "ratio")
    theirs, notes = any(row.published is not None for row in rows), _notes(rows)
    columns += ("paper: vanilla", "late start", "ratio") if theirs else ()
    lines = []
    for row in rows:
        late = _late(row, GAUSSIAN)
        ours = (_where(row.best.get(FULL)), late, _two(row.ratios.get(GAUSSIAN), row.clean_ratios.get(GAUSSIAN)))
        beside = _published(row, notes, ("vanilla", "late", "ratio")) if theirs else ()
        lines.append((NAMES[row.sampler], str(row.number), str(row.nfe), *ours, *beside))
    return Block(TITLES[PAPER], columns, lines, tuple(notes))


def _equal(part: str, rows: list[Row], clips: Clips) -> Block:
    kinds = [kind for kind in KINDS if any(kind in row.best for row in rows)]
    theirs, notes = any(row.published is not None for row in rows), _notes(rows)
    columns = ("sampler", "NFE", *(KINDS[kind] for kind in kinds))
    columns += ("Gaussian: gain on\ntrailing, unclipped", "paper's\nratio") if theirs else ()
    lines = []
    for row in rows:
        ours = (_late(row, kind, part == BEST, gains=True) for kind in kinds)
        beside = (_times(row.paper_ratios.get(GAUSSIAN)), *_published(row, notes, ("ratio",))) if theirs else ()
        lines.append((NAMES.get(row.sampler, row.sampler), _spent(row), *ours, *beside))
    return Block(TITLES[part].replace(BEST_FULL, _best_full(clips)), columns, lines, tuple(notes))


def _notes(rows: list[Row]) -> list[str]:
    """What the paper's figures have for notes, each once."""
    return list(dict.fromkeys(row.published.note for row in rows if row.published is not None and row.published.note))


def _published(row: Row, notes: list[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The paper's figures, with the marks of their notes."""
    known = row.published
    if known is None:
        return ("-",) * len(names)
    mark = f" ({MARKS[notes.index(known.note)]})" if known.note else ""
    return tuple(f"{getattr(known, name):.2f}{mark}" for name in names)


def _spent(row: Row) -> str:
    return str(row.number) if row.nfe == row.number else f"{row.number} ({row.nfe})"


def _late(row: Row, kind: str, named: bool = False, gains: bool = False) -> str:
    """The best cell of a kind, and below it, where it copies, the best that does not."""
    told = [_where(row.best.get(kind), row.ratios.get(kind) if gains else None, named)]
    if (clean := row.clean.get(kind)) is not None:
        told += [f"{CLEAN}:", _where(clean, row.clean_ratios.get(kind) if gains else None, named)]
    return "\n".join(told)


def _where(best: Best | None, gain: Estimate | None = None, named: bool = False) -> str:
    if best is None:
        return "-"
    cell, figures = best.cell, best.figures
    told = [NAMES.get(cell.sampler, cell.sampler)] if named else []
    told += [] if cell.t_start is None else [f"t = {cell.t_start:g}"]
    told += [] if cell.spacing == PAPER or (cell.t_start is not None and cell.spacing == "trailing") else [cell.spacing]
    told += ["clipped"] if cell.clip else []
    shares = [f"recall {figures.recall.value:.2f}"]
    shares += [] if figures.copied is None or cell.t_start is None else [_copied(best, figures.copied)]
    factor = "" if gain is None else f"gain {gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}]"
    lines = [_spread(best.frechet), factor, ", ".join(told), ", ".join(shares)]
    return "\n".join(line for line in lines if line)


def _copied(best: Best, copied: Estimate) -> str:
    return (
        f"copies {copied.value:.3f} [{copied.low:.3f}, {copied.high:.3f}]"
        if best.copies
        else f"copied {copied.value:.3f}"
    )


def _two(one: Estimate | None, clean: Estimate | None) -> str:
    return _times(one) if clean is None else f"{_times(one)}\n{CLEAN}:\n{_times(clean)}"


def _spread(estimate: Estimate) -> str:
    return f"{_number(estimate.value)} [{_number(estimate.low)}, {_number(estimate.high)}]"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _times(estimate: Estimate | None) -> str:
    return "-" if estimate is None else f"{estimate.value:.2f}\n[{estimate.low:.2f}, {estimate.high:.2f}]"


def _both(mine: Estimate, theirs: Estimate) -> str:
    return f"{_interval(mine)} against {_interval(theirs)}"


def _interval(share: Estimate) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"


def heading(facts: dict[str, Any]) -> str:
    """What stands above the picture."""
    told = f"{facts['model']}: {facts['samples']:,} samples of each cell, features {facts['features']}"
    return told + f"\nchosen with seed {facts['seed_chosen_by']}, drawn again with seed {facts['seed_reported']}"


def table_report(facts: dict[str, Any], rows: Sequence[Row], cells: list[dict[str, Any]]) -> Report:
    """All blocks, the best ratios in words, and why cells were not measured.

    Args:
        facts: the model, the samples, the seed and the features, as `results` of the experiment has them.
        rows: of the table.
        cells: all of them, as `Sweep.table` returns them.
    """
    names = ("model", "weights", "samples", "features", "measured", "drawn_again", "evaluations")
    clips = facts["clips"]
    tables = [block.rich() for block in blocks(rows, clips)]
    said = [*headline(rows, clips), *left_out(facts["left_out"]), *not_measured(cells)]
    floor = facts["floor"]
    said[:0] = [
        floor_sentence(floor and Floor.of_record(floor), facts["samples"]),
        *alone(facts["alone"], facts["alone_failed"]),
    ]
    said.append(_method(facts))
    if any(row.clean for row in rows):
        said.append(
            f"{CLEAN}: the best of the late starts whose share of copies is not above {BAR:g} with either seed (it is "
            f"{QUANTILE:g} for new images), where the best of all is"
        )
    pictures = ["table1.png"] if rows else []
    kept = {name.replace("_", " "): facts[name] for name in names}
    kept["clipping"] = clipping(clips)
    kept["seed"] = f"{facts['seed_chosen_by']} to choose, {facts['seed_reported']} for the figures"
    return Report(f"The paper's table: {facts['model']}", kept, tables, said, pictures)


def alone(figures: dict[str, dict[str, Any]], failed: dict[str, str]) -> Iterator[str]:
    """A line for each prior: what its own samples score, without the network, or why not, as `results` has them."""
    for kind, known in figures.items():
        frechet, recall, copied = (known[name] and Estimate(**known[name]) for name in ("frechet", "recall", "copied"))
        told = f"{ALONE.format(kind)}: {_spread(frechet)}, recall {_interval(recall)}"
        yield told if copied is None else f"{told}, copied {_interval(copied)}"
    for kind, reason in failed.items():
        yield f"{ALONE.format(kind)}: not measured, {reason}"


def clipping(clips: Clips) -> str:
    """Which clippings were tried, in words; the paper's grid has none."""
    if set(clips) == set(BOTH):
        return "clipped and not, where a sampler can"
    return "clipped only, where a sampler can" if True in clips else "none tried"


def _best_full(clips: Clips) -> str:
    """What a late start is held against: the best of all only where both clippings were tried."""
    if set(clips) == set(BOTH):
        return BEST_FULL
    return BEST_FULL.replace("full", "clipped full" if True in clips else "unclipped full")


def left_out(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A line for the rows that are left out, as `results` has them, and for the best of all at the same numbers."""
    places: dict[tuple[str, str], list[str]] = {}
    for row in found:
        many = Counter(row["missing"])
        lacking = " and ".join(f"{many[status]} {status}" for status in sorted(many))
        name = NAMES.get(row["sampler"], row["sampler"])
        places.setdefault((row["part"], name), []).append(f"{row['number']} ({lacking})")
    if places:
        told = "; ".join(f"{part}: {name} at {', '.join(numbers)}" for (part, name), numbers in places.items())
        yield f"left out, since full noise was not measured as a whole and what is missing may be the best: {told}"
    if numbers := sorted({row["number"] for row in found if row["part"] != PAPER}):
        yield f"left out for the same reason: {NAMES[BEST]} at {', '.join(map(str, numbers))}"


def _method(facts: dict[str, Any]) -> str:
    clipped = ", clipping" if set(facts["clips"]) == set(BOTH) else ""
    return (
        f"start, spacing{clipped} and the best sampler were chosen by the lowest distance with seed "
        f"{facts['seed_chosen_by']}, for full noise and each late start alike; every figure, on both sides of a ratio, "
        f"is of what was chosen, drawn again with seed {facts['seed_reported']}, by which nothing was chosen"
    )


def picture(path: str | Path, rows: Sequence[Row], heading: str) -> None:
    """Distances above, ratios below, a column for each number, a line for each sampler; the paper's ratios as stars.

    Hollow marks are of late starts that do not copy where the best do, and hollow stars of figures with a note.
    """
    numbers = sorted({row.number for row in rows})
    labels = list(dict.fromkeys(_label(row) for row in rows))
    size = (4.6 * len(numbers) + 2.2, 2 * (0.36 * len(labels) + 1.1) + 1.2)
    figure, axes = plt.subplots(2, len(numbers), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for column, number in enumerate(numbers):
        mine = [row for row in rows if row.number == number]
        _distances(axes[0][column], mine, labels)
        _ratios(axes[1][column], mine, labels)
        axes[0][column].set(title=f"{number} evaluations (paper's grid: steps)", xlabel="Fréchet distance")
        axes[1][column].set(xlabel="full noise / late start: above 1, the late start is better")
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(labels)), labels)
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    wide = max(3, 2 * len(numbers))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=wide, fontsize=9)
    figure.suptitle(heading)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def _label(row: Row) -> str:
    name = NAMES.get(row.sampler, row.sampler)
    return f"{name}, paper's grid" if row.part == PAPER else name


def _distances(axis: Axes, rows: list[Row], labels: list[str]) -> None:
    for kind in KINDS:
        points = [(labels.index(_label(row)), row.best[kind].frechet) for row in rows if kind in row.best]
        clean = [(labels.index(_label(row)), row.clean[kind].frechet) for row in rows if kind in row.clean]
        _points(axis, points, kind)
        _points(axis, clean, kind, hollow=True)
    axis.set_xscale("log")
    _grid(axis, labels)


def _ratios(axis: Axes, rows: list[Row], labels: list[str]) -> None:
    for kind in (PLAIN, GAUSSIAN, MIXTURE):
        points = [(labels.index(_label(row)), row.ratios[kind]) for row in rows if kind in row.ratios]
        clean = [(labels.index(_label(row)), row.clean_ratios[kind]) for row in rows if kind in row.clean_ratios]
        _points(axis, points, kind)
        _points(axis, clean, kind, hollow=True)
    for noted, label in ((False, "the paper"), (True, "the paper, with a note")):
        stars = [(labels.index(_label(row)) + 0.32, row.published) for row in rows if row.published is not None]
        _stars(axis, [(place, known.ratio) for place, known in stars if bool(known.note) == noted], label, noted)
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    _grid(axis, labels)


def _stars(axis: Axes, points: list[tuple[float, float]], label: str, hollow: bool) -> None:
    if points:
        places, values = zip(*points)
        color = "white" if hollow else "#e6a700"
        axis.scatter(values, places, marker="*", s=110, color=color, edgecolors="black", zorder=4, label=label)


def _points(axis: Axes, points: list[tuple[int, Estimate]], kind: str, hollow: bool = False) -> None:
    if not points:
        return
    # side by side, so that intervals do not hide each other
    shift = 0.16 * (list(KINDS).index(kind) - 1.5) + (0.06 if hollow else 0)
    place = np.array([place for place, _ in points]) + shift
    value, low, high = (
        np.array([getattr(estimate, end) for _, estimate in points]) for end in ("value", "low", "high")
    )
    spread = np.maximum(np.stack([value - low, high - value]), 0)
    style = {"fmt": MARKERS[kind], "color": COLORS[kind], "markersize": 5, "linewidth": 1.2, "zorder": 3}
    style |= {"markerfacecolor": "white", "label": f"{KINDS[kind]}, {CLEAN}"} if hollow else {"label": KINDS[kind]}
    axis.errorbar(value, place, xerr=spread, **style)  # type: ignore[arg-type]


def _grid(axis: Axes, labels: list[str]) -> None:
    for place in range(0, len(labels), 2):
        axis.axhspan(place - 0.5, place + 0.5, color="#f2f2f2", zorder=0)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    ticks = _ticks(*axis.get_xlim())
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, at least three if there are so many."""
    ticks: list[float] = []
    finer = (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), [1 + k / 10 for k in range(90)]
    for digits in finer:
        every = (digit * 10.0**power for power in range(-3, 6) for digit in digits)
        ticks = [tick for tick in every if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def headline(rows: Sequence[Row], clips: Clips = BOTH) -> Iterator[str]:
    """A line for each number: the best late start over the best full noise, by kind of start; and without copies."""
    for row in rows:
        if row.part != BEST or FULL not in row.best:
            continue
        for kind, found in row.ratios.items():
            yield _gained(row, KINDS[kind], row.best[kind], found, clips)
            if kind in row.clean_ratios:
                yield _gained(row, f"{KINDS[kind]}, {CLEAN}", row.clean[kind], row.clean_ratios[kind], clips)


def _gained(row: Row, what: str, late: Best, found: Estimate, clips: Clips) -> str:
    full, copied = row.best[FULL], late.figures.copied
    return (
        f"NFE {row.number}: {what} ({NAMES.get(late.cell.sampler, late.cell.sampler)}) {_number(late.frechet.value)}, "
        f"{_best_full(clips)} ({NAMES.get(full.cell.sampler, full.cell.sampler)}) {_number(full.frechet.value)}: "
        f"{found.value:.2f}x [{found.low:.2f}, {found.high:.2f}]; "
        f"recall {_both(late.figures.recall, full.figures.recall)}"
        + ("" if copied is None else f"; copied {_interval(copied)}")
    )
