"""The paper's table beside ours, as tables and as a picture. Everything is as it was handed over."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.experiments.grid import FULL, PLAIN
from latestart.experiments.table1_cells import GAUSSIAN, MIXTURE, PAPER
from latestart.experiments.table1_rows import BEST, Best, Row
from latestart.files import replacing
from latestart.report.record import Report
from latestart.report.sweep import not_measured

NAMES = {"ddpm": "DDPM", "ddim": "DDIM", "pndm": "PNDM", "ipndm": "iPNDM", "dpm++": "DPM++ 2M", "unipc": "UniPC"}
NAMES |= {"deis": "DEIS", "heun": "Heun", "lms": "LMS", BEST: "best of all"}
KINDS = {FULL: "full noise", PLAIN: "late, N(0, I)", GAUSSIAN: "late, Gaussian", MIXTURE: "late, mixture"}
COLORS = {FULL: "#707070", PLAIN: "#8073ac", GAUSSIAN: "#2166ac", MIXTURE: "#b2182b"}
MARKERS = {FULL: "o", PLAIN: "s", GAUSSIAN: "D", MIXTURE: "^"}
TITLES = {
    PAPER: "As the paper did it: steps, on its grid, which ends at t = 0",
    "exact": "On exact grids, at equal network evaluations",
    "solvers": "Other solvers, at equal network evaluations",
    BEST: "The best late start of any sampler against the best full noise of any sampler",
}


@dataclass(frozen=True)
class Block:
    """One table of text: its title, the names of its columns, and its lines; a cell may have two lines."""

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]]

    def rich(self) -> Table:
        """For the terminal, and for a report."""
        table = Table(title=self.title, title_justify="left", box=SIMPLE)
        for k, name in enumerate(self.columns):
            table.add_column(name, justify="left" if k == 0 else "right")
        for k, line in enumerate(self.lines):
            if k and line[0] != self.lines[k - 1][0]:
                table.add_section()
            table.add_row(*map(escape, line))
        return table


def blocks(rows: Sequence[Row]) -> list[Block]:
    """The parts of the table, each a block, in order."""
    parts = dict.fromkeys(row.part for row in rows)
    return [_block(part, [row for row in rows if row.part == part]) for part in parts]


def _block(part: str, rows: list[Row]) -> Block:
    return _paper(rows) if part == PAPER else _equal(part, rows)


def _paper(rows: list[Row]) -> Block:
    columns: tuple[str, ...] = ("sampler", "steps", "NFE", "vanilla", "late start, Gaussian", "ratio")
    theirs = any(row.published is not None for row in rows)
    columns += ("paper: vanilla", "late start", "ratio") if theirs else ()
    lines = []
    for row in rows:
        ours = (*(_where(row.best.get(kind)) for kind in (FULL, GAUSSIAN)), _times(row.ratios.get(GAUSSIAN)))
        known = row.published
        beside = (f"{known.vanilla:.2f}", f"{known.late:.2f}", f"{known.ratio:.2f}") if known else ("-",) * 3
        lines.append((NAMES[row.sampler], str(row.number), str(row.nfe), *ours, *(beside if theirs else ())))
    return Block(TITLES[PAPER], columns, lines)


def _equal(part: str, rows: list[Row]) -> Block:
    kinds = [kind for kind in KINDS if any(kind in row.best for row in rows)]
    theirs = any(row.published is not None for row in rows)
    columns = ("sampler", "NFE", *(KINDS[kind] for kind in kinds))
    columns += ("Gaussian: gain on\ntrailing, unclipped", "paper's\nratio") if theirs else ()
    lines = []
    for row in rows:
        ours = (_where(row.best.get(kind), row.ratios.get(kind), part == BEST) for kind in kinds)
        beside = (_times(row.paper_ratios.get(GAUSSIAN)), f"{row.published.ratio:.2f}" if row.published else "-")
        lines.append((NAMES.get(row.sampler, row.sampler), _spent(row), *ours, *(beside if theirs else ())))
    return Block(TITLES[part], columns, lines)


def _spent(row: Row) -> str:
    return str(row.number) if row.nfe == row.number else f"{row.number} ({row.nfe})"


def _where(best: Best | None, gain: Estimate | None = None, named: bool = False) -> str:
    if best is None:
        return "-"
    cell, figures = best.cell, best.figures
    told = [NAMES.get(cell.sampler, cell.sampler)] if named else []
    told += [] if cell.t_start is None else [f"t = {cell.t_start:g}"]
    told += [] if cell.spacing == PAPER or (cell.t_start is not None and cell.spacing == "trailing") else [cell.spacing]
    told += ["clipped"] if cell.clip else []
    shares = [f"recall {figures.recall.value:.2f}"]
    shares += [] if figures.copied is None or cell.t_start is None else [f"copied {figures.copied.value:.3f}"]
    factor = "" if gain is None else f"gain {gain.value:.2f} [{gain.low:.2f}, {gain.high:.2f}]"
    lines = [_spread(best.frechet), factor, ", ".join(told), ", ".join(shares)]
    return "\n".join(line for line in lines if line)


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


def table_report(facts: dict[str, Any], rows: Sequence[Row], cells: list[dict[str, Any]]) -> Report:
    """All blocks, the best ratios in words, and why cells were not measured.

    Args:
        facts: the model, the samples, the seed and the features, as `results` of the experiment has them.
        rows: of the table.
        cells: all of them, as `Sweep.table` returns them.
    """
    names = ("model", "weights", "samples", "seed", "features", "measured", "evaluations")
    tables = [block.rich() for block in blocks(rows)]
    said = [*headline(rows), *not_measured(cells)]
    if (floor := facts["floor"]) is not None:
        distance = _spread(Estimate(floor["value"], floor["low"], floor["high"]))
        said.insert(0, f"{floor['images']:,} images that the model has not seen score {distance}: the floor")
    said.append("the best of several cells is chosen on the samples that it is measured on, on both sides of a ratio")
    pictures = ["table1.png"] if rows else []
    kept = {name: facts[name] for name in names}
    return Report(f"The paper's table: {facts['model']}", kept, tables, said, pictures)


def picture(path: str | Path, rows: Sequence[Row], heading: str) -> None:
    """Distances above, ratios below, a column for each number, a line for each sampler; the paper's ratios as stars."""
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
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, fontsize=9)
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
        _points(axis, points, kind)
    axis.set_xscale("log")
    _grid(axis, labels)


def _ratios(axis: Axes, rows: list[Row], labels: list[str]) -> None:
    for kind in (PLAIN, GAUSSIAN, MIXTURE):
        points = [(labels.index(_label(row)), row.ratios[kind]) for row in rows if kind in row.ratios]
        _points(axis, points, kind)
    stars = [(labels.index(_label(row)) + 0.32, row.published.ratio) for row in rows if row.published is not None]
    if stars:
        places, values = zip(*stars)
        axis.scatter(
            values, places, marker="*", s=110, color="#e6a700", edgecolors="black", zorder=4, label="the paper"
        )
    axis.set_xscale("log")
    axis.axvline(1, color="black", linewidth=0.8)
    _grid(axis, labels)


def _points(axis: Axes, points: list[tuple[int, Estimate]], kind: str) -> None:
    if not points:
        return
    # side by side, so that intervals do not hide each other
    place = np.array([place for place, _ in points]) + 0.16 * (list(KINDS).index(kind) - 1.5)
    value, low, high = (
        np.array([getattr(estimate, end) for _, estimate in points]) for end in ("value", "low", "high")
    )
    spread = np.maximum(np.stack([value - low, high - value]), 0)
    style = {"fmt": MARKERS[kind], "color": COLORS[kind], "markersize": 5, "linewidth": 1.2, "zorder": 3}
    axis.errorbar(value, place, xerr=spread, label=KINDS[kind], **style)  # type: ignore[arg-type]


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
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9), [1 + k / 10 for k in range(90)]):
        every = (digit * 10.0**power for power in range(-3, 6) for digit in digits)
        ticks = [tick for tick in every if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return ticks


def headline(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each number: the best late start over the best full noise, by kind of start."""
    for row in rows:
        if row.part != BEST or FULL not in row.best:
            continue
        for kind, found in row.ratios.items():
            full, late = row.best[FULL], row.best[kind]
            yield (
                f"NFE {row.number}: {KINDS[kind]} ({NAMES.get(late.cell.sampler)}) {_number(late.frechet.value)}, best "
                f"full noise ({NAMES.get(full.cell.sampler)}) {_number(full.frechet.value)}: {found.value:.2f}x "
                f"[{found.low:.2f}, {found.high:.2f}]; recall {_both(late.figures.recall, full.figures.recall)}"
                + ("" if late.figures.copied is None else f"; copied {_interval(late.figures.copied)}")
            )
