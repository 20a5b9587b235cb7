"""The page of training below a start alone: its picture and its table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.experiments.late_training.measure import Pairs
from latestart.lab.drawing import COLORS, GREY, ends, figure, save
from latestart.lab.report import BESIDE, QUALITY, Report, prior_title, spread, table

__all__ = ["draw", "page", "pairs_table"]

LOOKS = {"all": ("all levels", COLORS[1]), "late": ("below the start only", COLORS[0])}
DARK = "#333333"


def page(result: Pairs, folder: Path) -> Report:
    """Draw the pairs, and return the table of both networks."""
    draw(folder / "late-training.png", result)
    settings = result.settings
    seeds = ", ".join(str(settings.seed + k) for k in range(settings.seeds))
    facts = {"training images": result.images, "steps": settings.steps, "samples": settings.samples, "seeds": seeds}
    facts |= {"features": result.features}
    tables, pictures = [pairs_table(result)], ["late-training.png"]
    return Report("Training below the start only", facts, tables, pictures=pictures, files=["cells"])


def pairs_table(result: Pairs) -> Table:
    """A row for each number of evaluations: both networks and their ratio."""
    settings = result.settings
    made = table(
        f"Networks trained on all levels, and on those below sigma = {result.max_sigma:.3g} (t < {settings.start})",
        "NFE", "trained on", "Fréchet", "late / all", *QUALITY[1:], left=("trained on",),
        caption=f"{settings.steps:,} steps on {result.images:,} images, {settings.seeds} seeds from {settings.seed}; "
        f"{settings.sampler.upper()} from {prior_title(settings.prior)} at t = {settings.start}, "
        f"{settings.samples:,} samples, features {result.features}; 95% intervals over the seeds; {BESIDE}",
    )  # fmt: skip
    for one in result.summary:
        for network, (title, _) in LOOKS.items():
            ratio = f"[bold]{spread(one.ratio, '.3f')}[/]" if network == "late" else ""
            columns = ((one.recall, ".3f"), (one.copied, ".3f"), (one.second, ""), (one.variance, ".2f"))
            others = (spread(known[network], form) for known, form in columns)
            made.add_row(str(one.nfe), title, spread(getattr(one, network)), ratio, *others)
        made.add_section()
    return made


def draw(path: str | Path, result: Pairs) -> None:
    """Left, the distances of both networks; right, their ratio: means with intervals over seeds, and each seed."""
    settings, summaries = result.settings, result.summary
    pairs = [[pair for pair in result.pairs if pair.nfe == one.nfe] for one in summaries]
    made, ((left, right),) = figure(1, 2, (12.5, 5.4))
    for shift, (network, (title, color)) in zip((-0.13, 0.13), LOOKS.items()):
        values = [[getattr(pair, network).frechet.value for pair in some] for some in pairs]
        _seeds(left, shift, [getattr(one, network) for one in summaries], values, color, title)
    ratios = [[pair.ratio for pair in some] for some in pairs]
    _seeds(right, 0, [one.ratio for one in summaries], ratios, DARK, "geometric mean")
    right.axhline(1, color=GREY, linestyle=":", linewidth=1)
    left.set(title="Fréchet distance to the training set", ylabel="Fréchet distance", ylim=(0, None))
    right.set(title="Late over all levels, of the same seed", ylabel="ratio (below 1: better without those levels)")
    for axis in (left, right):
        axis.set_xticks(range(len(summaries)), [f"{one.nfe} evaluations" for one in summaries])
        axis.set_xlim(-0.5, len(summaries) - 0.5)
        axis.legend(fontsize=9)
        axis.grid(axis="y", alpha=0.25)
    made.suptitle(
        f"Training below the start only: sigma up to {result.max_sigma:.3g} (t < {settings.start}), "
        f"{settings.steps:,} steps on {result.images:,} images\n{settings.samples:,} samples from "
        f"{prior_title(settings.prior)} at t = {settings.start}; {settings.seeds} seeds (dots), 95% intervals over them"
    )
    save(made, path)


def _seeds(
    axis: Axes, shift: float, means: Sequence[Estimate], each: Sequence[list[float]], color: str, title: str
) -> None:
    """Draw means with their intervals, and beside each the values of the seeds."""
    places = np.arange(len(means)) + shift
    low, value, high = ends(means)
    axis.vlines(places, low, high, color=color, linewidth=2)
    axis.plot(places, value, color=color, linestyle="none", marker="o", markersize=8, label=title)
    for place, values in zip(places, each):
        axis.scatter([place + 0.05] * len(values), values, s=16, color=color, alpha=0.5)
