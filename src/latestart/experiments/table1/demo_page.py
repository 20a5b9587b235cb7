"""The page of the preset `demo`: one table of all ways to start, and the first images of the best of each."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path

from rich.table import Table
from torch import Tensor

from latestart.evaluation.quality import Estimate
from latestart.experiments.table1.demo import STEPS, Shown, gains
from latestart.experiments.table1.rows import Row
from latestart.experiments.table1.settings import GAUSSIAN, MIXTURE
from latestart.lab.drawing import sample_sheet
from latestart.lab.grid import FULL, PLAIN
from latestart.lab.report import BESIDE, Report, floor_sentence, named, number, setting_of, setup_facts, table

__all__ = ["draw", "page"]

LATE = {PLAIN: "N(0, I)", GAUSSIAN: "Gaussian", MIXTURE: "mixture"}
BEST = {FULL: "best full noise", **{kind: f"best {title} late" for kind, title in LATE.items()}}
GAINS = {
    "mixture_gain": "mixture: gain on full noise",
    "mixture_gain_gaussian": "mixture: gain on Gaussian",
    "gain": "gain on best full noise",
    "gain_trailing": "gain on trailing, unclipped",
    "gain_isotropic": "gain on best N(0, I) late",
}


def page(result: Shown, folder: Path) -> Report:
    """Draw the picture, and return the table with its sentences."""
    draw(folder / "samples.png", result)
    settings, (_, reference) = result.settings, result.again[-1]
    facts = setup_facts(settings, chosen=True) | {"features": result.features}
    lines = [
        f"{settings.samples} samples a figure, seed {settings.seed} to choose and {settings.seed + 1} for the best of "
        f"each kind, features {result.features}",
        f"DDIM from full noise in {STEPS} steps: distance {named(reference.frechet)}, recall "
        f"{named(reference.recall, '.3f')}, copied {named(reference.copied, '.3f')}",
        floor_sentence(result.floor, settings.samples),
        *_without_copies(result),
    ]
    return Report("The gain of a late start", facts, [_table(result)], lines, pictures=["samples.png"], files=["cells"])


def _table(result: Shown) -> Table:
    """A column for each sampler and number of evaluations, a row for each way to start."""
    rows = result.rows
    made = table(
        "Full noise and late start at equal network evaluations\n"
        "Frechet distance to the training set (lower is better)",
        "start", *(f"{row.sampler.upper()}\nNFE {row.nfe}" for row in rows), left=("start",),
        caption="* the better of clipped and unclipped. The best of each kind was drawn again with the next seed, with "
        f"95% bootstrap intervals, paired for ratios; {BESIDE}",
    )  # fmt: skip
    made.columns[0].no_wrap = True
    for spacing, clip in product(("leading", "trailing"), (False, True)):
        title = f"full noise, {spacing}{', clipped' if clip else ''}"
        made.add_row(title, *(_lowest(result, row, FULL, spacing=spacing, clip=clip) for row in rows))
    for kind, title in LATE.items():
        made.add_section()
        for t in result.settings.times("exact", kind, 1000):
            made.add_row(f"{title} at t = {t:g} *", *(_lowest(result, row, kind, t_start=t) for row in rows))
    made.add_section()
    for kind, title in BEST.items():
        made.add_row(title, *(_cell(row.best[kind].figures.frechet) for row in rows), style="bold")
    made.add_section()
    every = (FULL, GAUSSIAN, MIXTURE)
    for name, form, kinds in (
        ("recall", ".3f", every), ("copied", ".3f", every[1:]), ("second", "", every), ("variance", ".2f", every),
    ):  # fmt: skip
        for kind in kinds:
            shares = (_cell(getattr(row.best[kind].figures, name), form) for row in rows)
            made.add_row(f"{name}, {LATE.get(kind, BEST[kind])}", *shares)
    made.add_section()
    for name, title in GAINS.items():
        style = "bold" if title.endswith("full noise") else None
        made.add_row(title, *(_cell(gains(row)[name], ".2f") for row in rows), style=style)
    return made


def _cell(estimate: Estimate | None, form: str = "") -> str:
    """An estimate above its interval."""
    return named(estimate, form).replace(" ", "\n", 1)


def _lowest(result: Shown, row: Row, kind: str, **way: object) -> str:
    """The lowest distance of the cells that were tried this way, in a column."""
    tried = (
        figures.frechet.value
        for entry, figures in result.tried
        if entry.kind == kind
        and entry.row == (row.part, row.sampler, row.number)
        and all(getattr(entry.planned.cell, name) == value for name, value in way.items())
    )
    return number(min(tried))


def _without_copies(result: Shown) -> Iterator[str]:
    """A line for each best start that copies: the best of those that do not."""
    for row in result.rows:
        for kind, best in row.clean.items():
            where = f"{row.sampler.upper()}, NFE {row.nfe}: the {BEST[kind]} copies"
            yield f"{where}; without copies: {named(best.figures.frechet)} at t = {best.cell.t_start:g}"


def draw(path: Path, result: Shown) -> None:
    """Draw samples of the best of each way to start, by sampler and evaluations, from the same seeds."""
    at = {(row.sampler, row.nfe): row for row in result.rows}
    samplers, counts = (list(dict.fromkeys(part)) for part in zip(*at))
    kinds = {FULL: "full noise", **{kind: f"late, {title}" for kind, title in LATE.items()}}
    columns = [f"{sampler.upper()}, {kind}" for sampler, kind in product(samplers, kinds.values())]
    cells = [[_block(result, at[s, n], kind) for s, kind in product(samplers, kinds)] for n in counts]
    sample_sheet(path, [f"NFE {n}" for n in counts], columns, cells)


def _block(result: Shown, row: Row, kind: str) -> tuple[Tensor, str]:
    best = row.best[kind]
    return result.images[best.cell], f"{setting_of(best.cell)}: FD {number(best.figures.frechet.value)}"
