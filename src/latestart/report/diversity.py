"""The diversity of ways to sample: the chart of shares, samples, and the tables. Drawn as handed over.

ways                        a row for each: distance, precision, recall, coverage, copies, Vendi score
for each attribute          the divergence of its shares from the data's and from the exact ones; and the shares
"""

from collections.abc import Iterator
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

from latestart.evaluation.copying import BAR
from latestart.evaluation.diversity import Attribute
from latestart.evaluation.quality import Estimate
from latestart.experiments.diversity_records import Gain, Result, Way
from latestart.files import replacing
from latestart.lab.drawing import sample_sheet
from latestart.lab.grid import FULL
from latestart.lab.report import Report, floor_sentence
from latestart.noise import when

SHADES = (  # for each sampler: from full noise, and from each prior
    ("#f4a582", "#b2182b", "#67001f", "#d6604d"),
    ("#92c5de", "#2166ac", "#053061", "#4393c3"),
    ("#a6dba0", "#1b7837", "#00441b", "#5aae61"),
    ("#c2a5cf", "#762a83", "#40004b", "#9970ab"),
)
LONG, DATA = "#555555", "#e3e3e3"
PRIORS = {"isotropic": "N(0, I)", "gaussian": "the Gaussian", "mixture": "the mixture"}
WIDTH = 0.84  # of the bars of one value together


def diversity(path: str | Path, result: Result) -> None:
    """Shares of each attribute's values by way, over the data's; divergence, overlap and Vendi score below."""
    attributes = result.shown[0].diversity.attributes
    colors = _colors(result.shown)
    widths = [len(one.values) + 0.6 for one in attributes.values()]
    figure = plt.figure(figsize=(max(12.0, 1.05 * sum(widths) + 2), 9), layout="constrained")
    halves: Any = figure.subfigures(2, 1, height_ratios=(1.15, 1))
    above, below = halves
    shares = above.subplots(1, len(attributes), width_ratios=widths, squeeze=False)[0]
    for axis, name in zip(shares, attributes):
        _shares(axis, [way.diversity.attributes[name] for way in result.shown], colors)
        axis.set_title(name.replace("_", " "))
    shares[0].set_ylabel("share of the images")
    axes = below.subplots(1, 3, width_ratios=(1 + 0.45 * len(attributes), 1.8, 0.8))
    _divergence(axes[0], result, colors)
    _overlap(axes[1], result, colors)
    _vendi(axes[2], result, colors)
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=DATA, edgecolor="black")]
    handles += [plt.Rectangle((0, 0), 1, 1, facecolor=color) for color in colors]
    data = f"the data, {result.data.images:,} images"
    figure.legend(
        handles, [data, *map(name_of, result.shown)], loc="outside lower center", ncols=min(3, len(handles)), fontsize=9
    )
    settings = result.settings
    figure.suptitle(
        f"Diversity on {Path(settings.model).name}: NFE {settings.nfe}, {settings.samples:,} samples, bars with 95% "
        "intervals"
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def samples(path: str | Path, result: Result) -> None:
    """The first samples of each way, the same white noise at the same place."""
    columns = [f"{_sampler(way)}\n{_from(way)}" for way in result.shown]
    blocks = [(way.images, f"{_setting(way)}: FD {way.frechet.value:.1f}") for way in result.shown]
    sample_sheet(path, ["samples"], columns, [blocks])


def _shares(axis: Axes, found: list[Attribute], colors: list[str]) -> None:
    first = found[0]
    for k, data in enumerate(first.data):
        axis.bar(k, data.value, WIDTH + 0.1, color=DATA, zorder=0)
        axis.plot(
            [k - WIDTH / 2 - 0.05, k + WIDTH / 2 + 0.05], [data.value] * 2, color="black", linewidth=1.2, zorder=3
        )
    for place, (one, color) in enumerate(zip(found, colors)):
        _bars(axis, np.arange(len(one.values)), list(one.samples), place, len(found), color)
    axis.set_xticks(range(len(first.values)), [value.replace("_", "\n") for value in first.values], fontsize=9)
    axis.set_xlim(-0.6, len(first.values) - 0.4)
    axis.set_ylim(bottom=0)


def _bars(axis: Axes, x: np.ndarray, values: list[Estimate], place: int, count: int, color: str) -> None:
    """One way's bars at each place of x, beside those of the others, with their intervals."""
    width = WIDTH / count
    at = x - WIDTH / 2 + (place + 0.5) * width
    value, low, high = (np.array([getattr(e, end) for e in values]) for end in ("value", "low", "high"))
    shown = np.where(np.isfinite(value), value, 0)
    axis.bar(at, shown, 0.9 * width, color=color, zorder=1)
    ends = [np.clip(shown - low, 0, None), np.clip(np.where(np.isfinite(high), high, shown) - shown, 0, None)]
    axis.errorbar(at, shown, ends, fmt="none", ecolor="black", elinewidth=0.8, zorder=2)
    for where, infinite in zip(at, ~np.isfinite(value)):
        if infinite:
            axis.annotate("∞", (where, 0), ha="center", va="bottom")


def _divergence(axis: Axes, result: Result, colors: list[str]) -> None:
    names = list(result.data.chance)
    for place, (way, color) in enumerate(zip(result.shown, colors)):
        values = [way.diversity.attributes[name].kl for name in names]
        _bars(axis, np.arange(len(names)), values, place, len(colors), color)
    for k, name in enumerate(names):
        axis.plot([k - 0.47, k + 0.47], [result.data.chance[name]] * 2, color="black", linestyle="--", linewidth=1)
    axis.plot([], [], color="black", linestyle="--", linewidth=1, label="as many images of the data, on average")
    axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.set(title="Divergence of the shares from the data's", ylabel="KL(samples || data), nats")
    linear, top = 2 * max(result.data.chance.values()), axis.get_ylim()[1]
    if top > 5 * linear:  # or what is small could not be seen
        axis.set_yscale("symlog", linthresh=linear, linscale=1.0)
        ticks = [tick for tick in (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5) if linear / 2 < tick < 1.2 * top]
        axis.set_yticks([0, *ticks], [f"{tick:g}" for tick in (0, *ticks)])
        axis.minorticks_off()
        axis.set_ylabel(f"KL(samples || data), nats, logarithmic above {linear:.2g}")
    axis.set_ylim(0, (2.0 if top > 5 * linear else 1.2) * top)
    axis.legend(fontsize=8, loc="upper right")


def _overlap(axis: Axes, result: Result, colors: list[str]) -> None:
    for place, (way, color) in enumerate(zip(result.shown, colors)):
        values: list[Any] = [way.precision, way.diversity.recall, way.diversity.coverage]
        _bars(axis, np.arange(3), values, place, len(colors), color)
    axis.set_xticks(range(3), ["precision\n(of the samples)", "recall\n(of the data)", "coverage\n(of the data)"])
    axis.set(title="Samples among the data, and data among the samples", ylabel="share", ylim=(0, 1))


def _vendi(axis: Axes, result: Result, colors: list[str]) -> None:
    for place, (way, color) in enumerate(zip(result.shown, colors)):
        assert way.diversity.vendi is not None
        _bars(axis, np.arange(1), [way.diversity.vendi], place, len(colors), color)
    data = result.shown[0].diversity.vendi_data
    assert data is not None
    axis.axhline(data.value, color="black", linewidth=1.2, label="as many images of the data")
    axis.set_xticks([0], ["samples"])
    axis.set(title="Vendi score", ylabel="different images")
    axis.set_ylim(0, 1.2 * axis.get_ylim()[1])
    axis.legend(fontsize=8, loc="upper right")


def _colors(shown: tuple[Way, ...]) -> list[str]:
    fast = list(dict.fromkeys(way.cell.sampler for way in shown if not _long(way, shown)))
    seen: dict[str, int] = {}
    colors = []
    for way in shown:
        if _long(way, shown):
            colors.append(LONG)
            continue
        shades, place = SHADES[fast.index(way.cell.sampler) % len(SHADES)], seen.get(way.cell.sampler, 0)
        seen[way.cell.sampler] = place + 1
        colors.append(shades[place % len(shades)])
    return colors


def _long(way: Way, shown: tuple[Way, ...]) -> bool:
    """Whether it is the reference: the one that costs more than the fast ones."""
    return way.cell.nfe > min(other.cell.nfe for other in shown)


def name_of(way: Way) -> str:
    """A way in a few words."""
    if way.cell.prior == FULL:
        return f"{_sampler(way)}, {_from(way)} ({_setting(way)})"
    return f"{_sampler(way)}, {_from(way)} at {_setting(way)}"


def _sampler(way: Way) -> str:
    return f"{way.cell.sampler.upper()}, NFE {way.cell.nfe}"


def _from(way: Way) -> str:
    return "from full noise" if way.cell.prior == FULL else f"late from {_prior(way.cell.prior)}"


def _setting(way: Way) -> str:
    cell = way.cell
    where = cell.spacing if cell.t_start is None else f"t = {when(cell.t_start)}"
    return f"{where}{', clipped' if cell.clip else ''}"


def _prior(name: str) -> str:
    return PRIORS.get(name, Path(name).stem)


def diversity_report(result: Result) -> Report:
    """All tables, the floor, how far the reader can be relied on, and ways that were not measured."""
    settings = result.settings
    facts = {"model": Path(settings.model).name, "samples": settings.samples}
    facts |= {"seed": f"{settings.seed} to choose, {settings.seed + 1} for the figures"}
    facts |= {"features": result.features, "classifier": result.classifier}
    said = [floor_sentence(result.floor, settings.samples), *sentences(result)]
    said += [f"not measured: {line}" for line in result.failed]
    pictures = ["diversity.png", "samples.png"]
    return Report(f"Diversity: {facts['model']}", facts, list(tables(result)), said, pictures)


def tables(result: Result) -> Iterator[Table]:
    """The ways; and for each attribute, how far its shares are from the data's, and the shares."""
    yield ways_table(result)
    for name in result.data.chance:
        yield divergence_table(result, name)
        yield shares_table(result, name)


def ways_table(result: Result) -> Table:
    """A row for each way that is shown: what is of no single attribute."""
    table = _table(
        "How good the samples are, how much of the data they meet, how many copy or differ, with 95% intervals",
        f"{result.settings.samples:,} samples of each way, seed {result.settings.seed + 1}, chosen with seed "
        f"{result.settings.seed}; features {result.features}; "
        f"copied: the share of copies, 0.01 of new images, * where its interval lies above {BAR:g}; Vendi: how many "
        "different images",
        ("Frechet", "precision", "recall", "coverage", "copied", "Vendi"),
    )
    for way in result.shown:
        found = way.diversity
        shares = (_interval(one) for one in (way.precision, found.recall, found.coverage))
        marked = " *" if way.copied is not None and way.copied.low > BAR else ""
        copied = _interval(way.copied) + marked
        _row(table, name_of(way), _interval(way.frechet, ".1f"), *shares, copied, _interval(found.vendi, ".1f"))
    score = result.shown[0].diversity.vendi_data
    _row(table, "as many images of the data", *("",) * 5, _interval(score, ".1f"), dim=True)
    return table


def divergence_table(result: Result, name: str) -> Table:
    """A row for each way that is shown: one attribute's shares against the data's, and against the exact ones."""
    data, exact = result.data, result.data.against.get(name)
    known = "" if exact is None else f"; exact: the shares {data.known[name]}"
    table = _table(
        f"{_title(name)}: how far its shares are from the data's, with 95% intervals (KL and entropy in nats)",
        f"data: {data.images:,} images, read by {result.classifier}, as are the samples{known}; gain: the "
        "divergence of full noise over that of the late start, each from the shares named before it, * where the "
        "intervals of the two do not overlap; unsure: read with less than 90% certainty",
        (
            "KL to data",
            "gain",
            *(() if exact is None else ("KL to exact", "gain, exact")),
            "variation",
            "entropy",
            "unsure",
        ),
    )
    gains = {(gain.sampler, gain.prior): gain for gain in result.gains if gain.attribute == name}
    for way in result.shown:
        one, theirs = way.diversity.attributes[name], way.exact.get(name)
        figures = (_interval(one.total_variation), _interval(one.entropy), _percent(way.doubtful.get(name)))
        gain = gains.get((way.cell.sampler, way.cell.prior))
        to_read = _interval(one.kl), _gain(gain)
        to_exact = _interval(None if theirs is None else theirs.kl), _gain(gain, exact=True)
        _row(table, name_of(way), *to_read, *(() if exact is None else to_exact), *figures)
    entropy = _interval(result.shown[0].diversity.attributes[name].entropy_data)
    by_chance = () if exact is None else (f"{data.chance_exact[name]:.3f}", "")
    itself = () if exact is None else (_interval(exact.kl), "")
    average = f"{data.chance[name]:.3f}", "", *by_chance, "", "", ""
    _row(table, "as many images of the data, on average", *average, dim=True)
    _row(table, "the data, as read", "", "", *itself, "", entropy, _percent(data.doubtful.get(name)), dim=True)
    return table


def shares_table(result: Result, name: str) -> Table:
    """A row for each way that is shown: the share of every value of one attribute."""
    first, exact = result.shown[0].diversity.attributes[name], result.data.against.get(name)
    table = _table(
        f"{_title(name)}: the share of each value in percent, with 95% intervals",
        "bold: an interval that the data's does not overlap",
        tuple(value.replace("_", " ") for value in first.values),
    )
    for way in result.shown:
        one = way.diversity.attributes[name]
        cells = (_share(p, apart=p.low > q.high or p.high < q.low) for p, q in zip(one.samples, one.data))
        _row(table, name_of(way), *cells, marked=True)
    table.add_section()
    _row(table, "the data, as read", *map(_share, first.data), dim=True, marked=True)
    if exact is not None:
        named = f"exact, {result.data.known[name]}"
        _row(table, named, *(f"{100 * share.value:.1f}" for share in exact.data), dim=True)
    return table


def _table(title: str, caption: str, columns: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE, caption=caption)
    table.add_column("way", min_width=30, overflow="fold")
    for name in columns:
        table.add_column(escape(name), justify="right", no_wrap=True)
    return table


def _row(table: Table, *cells: str, dim: bool = False, marked: bool = False) -> None:
    first, *rest = cells
    table.add_row(escape(first), *(rest if marked else map(escape, rest)), style="dim" if dim else "")


def sentences(result: Result) -> Iterator[str]:
    """How far the classifier can be relied on."""
    for name, score in result.scores.items():
        right = score.accuracy
        yield (
            f"{name.replace('_', ' ')} is read rightly of {right.value:.2%} [{right.low:.2%}, {right.high:.2%}] of "
            f"{int(score.counts.sum()):,} held-out images; its errors move {score.bias:.2%} of the shares"
        )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _gain(gain: Gain | None, exact: bool = False) -> str:
    if gain is None:
        return "-"
    factor, apart = (gain.exact, gain.apart_exact) if exact else (gain.factor, gain.apart)
    return f"{_interval(factor, '.2f')}{' *' if apart else ''}"


def _share(estimate: Estimate, apart: bool = False) -> str:
    text = f"{100 * estimate.value:.1f}\n{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"
    return f"[bold]{text}[/]" if apart else text


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _interval(estimate: Estimate | None, form: str = ".3f") -> str:
    if estimate is None:
        return "-"
    value, low, high = (
        format(x, form) if np.isfinite(x) else "∞" for x in (estimate.value, estimate.low, estimate.high)
    )
    return f"{value} [{low}, {high}]"
