"""The pictures of the diversity experiment: the chart of shares, and samples. Drawn as handed over."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from latestart.evaluation.diversity import Attribute
from latestart.evaluation.quality import Estimate
from latestart.experiments.diversity.names import from_of, name_of, sampler_of, setting_of
from latestart.experiments.diversity.records import Result, Way
from latestart.lab.drawing import ends, sample_sheet, save, ticks

__all__ = ["chart", "samples"]

SHADES = (  # for each sampler: from full noise, and from each prior
    ("#f4a582", "#b2182b", "#67001f", "#d6604d"),
    ("#92c5de", "#2166ac", "#053061", "#4393c3"),
    ("#a6dba0", "#1b7837", "#00441b", "#5aae61"),
    ("#c2a5cf", "#762a83", "#40004b", "#9970ab"),
)
LONG, DATA = "#555555", "#e3e3e3"
WIDTH = 0.84  # of the bars of one value together


def chart(path: Path, result: Result) -> None:
    """Shares of each attribute's values by way, over the data's; divergence, overlap and Vendi score below."""
    attributes, colors = result.shown[0].diversity.attributes, _colors(result.shown)
    widths = [len(one.values) + 0.6 for one in attributes.values()]
    made = plt.figure(figsize=(max(12.0, 1.05 * sum(widths) + 2), 9), layout="constrained")
    halves: Any = made.subfigures(2, 1, height_ratios=(1.15, 1))
    shares = halves[0].subplots(1, len(attributes), width_ratios=widths, squeeze=False)[0]
    for axis, name in zip(shares, attributes):
        _shares(axis, [way.diversity.attributes[name] for way in result.shown], colors)
        axis.set_title(name.replace("_", " "))
    shares[0].set_ylabel("share of the images")
    below = halves[1].subplots(1, 3, width_ratios=(1 + 0.45 * len(attributes), 1.8, 0.8))
    for axis, draw in zip(below, (_divergence, _overlap, _vendi)):
        draw(axis, result, colors)
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=DATA, edgecolor="black")]
    handles += [plt.Rectangle((0, 0), 1, 1, facecolor=color) for color in colors]
    labels = [f"the data, {result.data.images:,} images", *map(name_of, result.shown)]
    made.legend(handles, labels, loc="outside lower center", ncols=min(3, len(handles)), fontsize=9)
    settings = result.settings
    made.suptitle(
        f"Diversity on {Path(settings.model).name}: NFE {settings.nfe}, {settings.samples:,} samples, bars with 95% "
        "intervals"
    )
    save(made, path)


def samples(path: Path, result: Result) -> None:
    """The first samples of each way, the same white noise at the same place."""
    columns = [f"{sampler_of(way)}\n{from_of(way)}" for way in result.shown]
    blocks = [(way.images, f"{setting_of(way)}: FD {way.frechet.value:.1f}") for way in result.shown]
    sample_sheet(path, ["samples"], columns, [blocks])


def _shares(axis: Axes, found: list[Attribute], colors: list[str]) -> None:
    first, half = found[0], WIDTH / 2 + 0.05
    for k, data in enumerate(first.data):
        axis.bar(k, data.value, 2 * half, color=DATA, zorder=0)
        axis.plot([k - half, k + half], [data.value] * 2, color="black", linewidth=1.2, zorder=3)
    _bars(axis, [one.samples for one in found], colors)
    axis.set_xticks(range(len(first.values)), [value.replace("_", "\n") for value in first.values], fontsize=9)
    axis.set_xlim(-0.6, len(first.values) - 0.4)
    axis.set_ylim(bottom=0)


def _bars(axis: Axes, rows: Sequence[Sequence[Estimate]], colors: list[str]) -> None:
    """Bars with their intervals: a group for each value, in which each way has its place."""
    width = WIDTH / len(rows)
    for place, (row, color) in enumerate(zip(rows, colors)):
        at = np.arange(len(row)) - WIDTH / 2 + (place + 0.5) * width
        low, value, high = ends(row)
        shown = np.where(np.isfinite(value), value, 0)
        axis.bar(at, shown, 0.9 * width, color=color, zorder=1)
        sides = [np.clip(shown - low, 0, None), np.clip(np.where(np.isfinite(high), high, shown) - shown, 0, None)]
        axis.errorbar(at, shown, sides, fmt="none", ecolor="black", elinewidth=0.8, zorder=2)
        for where in at[~np.isfinite(value)]:
            axis.annotate("∞", (where, 0), ha="center", va="bottom")


def _divergence(axis: Axes, result: Result, colors: list[str]) -> None:
    names = list(result.data.chance)
    _bars(axis, [[way.diversity.attributes[name].kl for name in names] for way in result.shown], colors)
    for k, name in enumerate(names):
        axis.plot([k - 0.47, k + 0.47], [result.data.chance[name]] * 2, color="black", linestyle="--", linewidth=1)
    axis.plot([], [], color="black", linestyle="--", linewidth=1, label="the same number of the data, on average")
    axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.set(title="Divergence of the shares from the data's", ylabel="KL(samples || data), nats")
    linear, top = 2 * max(result.data.chance.values()), axis.get_ylim()[1]
    if curved := top > 5 * linear:  # or small values could not be seen
        axis.set_yscale("symlog", linthresh=linear, linscale=1.0)
        marks = [0.0, *ticks(linear / 2, 1.2 * top)]
        axis.set_yticks(marks, [f"{mark:g}" for mark in marks])
        axis.minorticks_off()
        axis.set_ylabel(f"KL(samples || data), nats, logarithmic above {linear:.2g}")
    axis.set_ylim(0, (2.0 if curved else 1.2) * top)
    axis.legend(fontsize=8, loc="upper right")


def _overlap(axis: Axes, result: Result, colors: list[str]) -> None:
    rows: Any = [[way.precision, way.diversity.recall, way.diversity.coverage] for way in result.shown]
    _bars(axis, rows, colors)
    axis.set_xticks(range(3), ["precision\n(of the samples)", "recall\n(of the data)", "coverage\n(of the data)"])
    axis.set(title="Samples among the data, and data among the samples", ylabel="share", ylim=(0, 1))


def _vendi(axis: Axes, result: Result, colors: list[str]) -> None:
    rows: Any = [[way.diversity.vendi] for way in result.shown]
    _bars(axis, rows, colors)
    data = result.shown[0].diversity.vendi_data
    assert data is not None
    axis.axhline(data.value, color="black", linewidth=1.2, label="the same number of the data")
    axis.set_xticks([0], ["samples"])
    axis.set(title="Vendi score", ylabel="different images")
    axis.set_ylim(0, 1.2 * axis.get_ylim()[1])
    axis.legend(fontsize=8, loc="upper right")


def _colors(shown: tuple[Way, ...]) -> list[str]:
    """Shades of a colour for each fast sampler, and grey for the reference, which costs more."""
    least = min(way.cell.nfe for way in shown)
    fast = [way.cell.sampler for way in shown if way.cell.nfe == least]
    order = list(dict.fromkeys(fast))
    shades = [SHADES[order.index(name) % len(SHADES)][fast[:k].count(name) % 4] for k, name in enumerate(fast)]
    return shades + [LONG] * (len(shown) - len(fast))  # ways are in the order of their evaluations
