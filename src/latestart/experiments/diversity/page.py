"""The page of the diversity experiment: its tables, its sentences, the chart of shares, and samples.

ways                        a row for each: distance, precision, recall, coverage, copies, Vendi score
for each attribute          the divergence of its shares from the data's and from the exact ones; and the shares
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from rich.markup import escape
from rich.table import Table

from latestart.evaluation.copying import BAR
from latestart.evaluation.diversity import Attribute
from latestart.evaluation.quality import Estimate
from latestart.experiments.diversity.results import Facts, Gain, Result, Way
from latestart.lab.drawing import ends, log_ticks, sample_sheet, save, ticks
from latestart.lab.report import BESIDE, QUALITY, Report, floor_sentence, number, quality, setup_facts, spread, table

__all__ = ["chart", "divergence_table", "page", "samples", "sentences", "shares_table", "ways_table"]

SHADES = (  # for each sampler: from full noise, and from each prior
    ("#f4a582", "#b2182b", "#67001f", "#d6604d"),
    ("#92c5de", "#2166ac", "#053061", "#4393c3"),
    ("#a6dba0", "#1b7837", "#00441b", "#5aae61"),
    ("#c2a5cf", "#762a83", "#40004b", "#9970ab"),
)
LONG, DATA = "#555555", "#e3e3e3"
WIDTH = 0.84  # of the bars of one value together
OVERLAP = ("precision", "recall", "coverage")


def page(result: Result, folder: Path) -> Report:
    """Draw the pictures, and return the tables, the errors of the reader, and the ways that were not measured."""
    chart(folder / "diversity.png", result)
    samples(folder / "samples.png", result)
    facts = setup_facts(result.settings, chosen=True) | {"features": result.features, "classifier": result.classifier}
    tables = [ways_table(result)]
    for name in result.data.chance:
        tables += [divergence_table(result, name), shares_table(result, name)]
    pictures = ["diversity.png", "samples.png"]
    return Report(
        f"Diversity: {facts['model']}", facts, tables, list(sentences(result)), pictures=pictures, files=["ways"]
    )


def sentences(result: Result) -> Iterator[str]:
    """The floor, the errors of the reader, the rule about copies where it applies, and ways without figures."""
    yield floor_sentence(result.floor, result.settings.samples)
    for name, score in result.scores.items():
        yield f"{name.replace('_', ' ')}: read {score} held-out images; errors move {score.bias:.2%} of the shares"
    if any(way.clean for way in result.shown):
        yield (
            f"without copies: the best of those whose share of copies is not above {BAR:g} with either seed (it is "
            "where its interval lies above), below a best whose share is"
        )
    yield from (f"not measured: {line}" for line in result.not_measured)


def ways_table(result: Result) -> Table:
    """A row for each way that is shown: the figures that belong to no single attribute."""
    rows = []
    for way in result.shown:
        *shares, copied = (spread(getattr(way.figures, name), ".3f") for name in (*OVERLAP, "copied"))
        copied += " *" if way.figures.copies else ""
        distance, *_, second, variance = quality(way.figures)
        rows.append([escape(way.title), distance, *shares, copied, second, variance, spread(way.diversity.vendi)])
    score = spread(result.shown[0].diversity.vendi_data)
    return table(
        "How good the samples are, how much of the data they meet, how many copy or differ, with 95% intervals",
        "way", "Frechet", *OVERLAP, "copied", *QUALITY[-2:], "Vendi", left=("way",),
        caption=f"{result.settings.samples:,} samples of each way, seed {result.settings.seed + 1}, chosen with seed "
        f"{result.settings.seed}; features {result.features}; copied: the share of copies, 0.01 of new images, * where "
        f"its interval lies above {BAR:g}; {BESIDE}; Vendi: the number of different images",
        rows=[*rows, ["the same number of images of the data", *("",) * 7, score]],
    )  # fmt: skip


def divergence_table(result: Result, name: str) -> Table:
    """A row for each way that is shown: one attribute's shares against the data's, and against the exact ones."""
    data, exact, first = result.data, result.data.against.get(name), result.shown[0].diversity.attributes[name]
    gains = {(gain.sampler, gain.prior, gain.clean): gain for gain in result.gains if gain.attribute == name}
    rows = [["way", "KL to data", "gain", "KL to exact", "gain, exact", "variation", "entropy", "unsure"]]
    for way in result.shown:
        one, gain = way.diversity.attributes[name], gains.get((way.cell.sampler, way.cell.prior, way.clean))
        kl, kl_exact = (spread(getattr(known, "kl", None), ".3f") for known in (one, way.exact.get(name)))
        others = (spread(one.total_variation, ".3f"), spread(one.entropy, ".3f"), _percent(way, name))
        rows.append([escape(way.title), kl, _gain(gain, "factor"), kl_exact, _gain(gain, "exact"), *others])
    average, average_exact = (number(of.get(name), ".3f") for of in (data.chance, data.chance_exact))
    rows.append(["the same number of images of the data, on average", average, "", average_exact, "", "", "", ""])
    itself, entropy = spread(getattr(exact, "kl", None), ".3f"), spread(first.entropy_data, ".3f")
    rows.append(["the data, as read", "", "", itself, "", "", entropy, _percent(data, name)])
    if exact is None:
        rows = [row[:3] + row[5:] for row in rows]
    known = "" if exact is None else f"; exact: the shares {data.known[name]}"
    return table(
        f"{_title(name)}: how far its shares are from the data's, with 95% intervals (KL and entropy in nats)",
        *rows[0], left=("way",), rows=rows[1:],
        caption=f"data: {data.images:,} images, read by {result.classifier}, as are the samples{known}; gain: the "
        "divergence of full noise over that of the late start, each from the shares named before it, * where the "
        "intervals of the two do not overlap; unsure: read with a certainty below 90%",
    )  # fmt: skip


def shares_table(result: Result, name: str) -> Table:
    """A row for each way that is shown: the share of every value of one attribute."""
    first, exact = result.shown[0].diversity.attributes[name], result.data.against.get(name)
    rows = []
    for way in result.shown:
        one = way.diversity.attributes[name]
        shares = (_share(p, apart=p.low > q.high or p.high < q.low) for p, q in zip(one.samples, one.data))
        rows.append([escape(way.title), *shares])
    rows.append(["the data, as read", *map(_share, first.data)])
    if exact is not None:
        rows.append([f"exact, {result.data.known[name]}", *(f"{100 * share.value:.1f}" for share in exact.data)])
    return table(
        f"{_title(name)}: the share of each value in percent, with 95% intervals",
        "way", *(escape(value.replace("_", " ")) for value in first.values), left=("way",),
        caption="bold: an interval that the data's does not overlap", rows=rows,
    )  # fmt: skip


def _title(attribute: str) -> str:
    return attribute.replace("_", " ").capitalize()


def _gain(gain: Gain | None, which: str) -> str:
    apart = gain is not None and (gain.apart if which == "factor" else gain.apart_exact)
    return spread(getattr(gain, which, None), ".2f") + (" *" if apart else "")


def _share(estimate: Estimate, apart: bool = False) -> str:
    """A share in percent, its interval below it: a value of an attribute has a narrow column."""
    text = f"{100 * estimate.value:.1f}\n{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"
    return f"[bold]{text}[/]" if apart else text


def _percent(of: Way | Facts, name: str) -> str:
    share = of.doubtful.get(name)
    return "-" if share is None else f"{share:.1%}"


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
    labels = [f"the data, {result.data.images:,} images", *(way.title for way in result.shown)]
    made.legend(handles, labels, loc="outside lower center", ncols=min(3, len(handles)), fontsize=9)
    settings = result.settings
    made.suptitle(
        f"Diversity on {Path(settings.model).name}: NFE {settings.nfe}, {settings.samples:,} samples, bars with 95% "
        "intervals"
    )
    save(made, path)


def samples(path: Path, result: Result) -> None:
    """The first samples of each way, the same white noise at the same place."""
    columns = ["\n".join(way.start.rsplit(", ", 1)) for way in result.shown]
    blocks = [(way.images, f"{way.setting}: FD {way.figures.frechet.value:.1f}") for way in result.shown]
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
        log_ticks(axis.yaxis, [0.0, *ticks(linear / 2, 1.2 * top)])
        axis.set_ylabel(f"KL(samples || data), nats, logarithmic above {linear:.2g}")
    axis.set_ylim(0, (2.0 if curved else 1.2) * top)
    axis.legend(fontsize=8, loc="upper right")


def _overlap(axis: Axes, result: Result, colors: list[str]) -> None:
    _bars(axis, [[getattr(way.figures, name) for name in OVERLAP] for way in result.shown], colors)
    axis.set_xticks(range(3), ["precision\n(of the samples)", "recall\n(of the data)", "coverage\n(of the data)"])
    axis.set(title="Samples among the data, and data among the samples", ylabel="share", ylim=(0, 1))


def _vendi(axis: Axes, result: Result, colors: list[str]) -> None:
    found: list[Any] = [way.diversity for way in result.shown]
    _bars(axis, [[one.vendi] for one in found], colors)
    axis.axhline(found[0].vendi_data.value, color="black", linewidth=1.2, label="the same number of the data")
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
