"""The diversity of ways to sample: the chart of shares, samples, and the table. Drawn as handed over."""

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

from latestart.evaluation.diversity import Attribute
from latestart.evaluation.quality import Estimate
from latestart.experiments.diversity import Result, Way
from latestart.experiments.grid import FULL
from latestart.files import replacing
from latestart.report.plots import sample_sheet
from latestart.report.record import Report

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
    """Shares of each attribute's values by way, over the data's; divergence, recall and coverage, Vendi score below."""
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
    axes = below.subplots(1, 3, width_ratios=(1 + 0.45 * len(attributes), 1.3, 0.8))
    _divergence(axes[0], result, colors)
    _overlap(axes[1], result, colors)
    _vendi(axes[2], result, colors)
    handles = [plt.Rectangle((0, 0), 1, 1, facecolor=DATA, edgecolor="black")]
    handles += [plt.Rectangle((0, 0), 1, 1, facecolor=color) for color in colors]
    data = f"the data, {result.data:,} images"
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
    names = list(result.chance)
    for place, (way, color) in enumerate(zip(result.shown, colors)):
        values = [way.diversity.attributes[name].kl for name in names]
        _bars(axis, np.arange(len(names)), values, place, len(colors), color)
    for k, name in enumerate(names):
        axis.plot([k - 0.47, k + 0.47], [result.chance[name]] * 2, color="black", linestyle="--", linewidth=1)
    axis.plot([], [], color="black", linestyle="--", linewidth=1, label="as many images of the data, on average")
    axis.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    axis.set(title="Divergence of the shares from the data's", ylabel="KL(samples || data), nats")
    linear, top = 2 * max(result.chance.values()), axis.get_ylim()[1]
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
        values = [getattr(way.diversity, name) for name in ("recall", "coverage")]
        _bars(axis, np.arange(2), values, place, len(colors), color)
    axis.set_xticks(range(2), ["recall", "coverage"])
    axis.set(title="How much of the data is met", ylabel="share of the data", ylim=(0, 1))


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
    where = cell.spacing if cell.t_start is None else f"t = {cell.t_start:.0f}"
    return f"{where}{', clipped' if cell.clip else ''}"


def _prior(name: str) -> str:
    return PRIORS.get(name, Path(name).stem)


def diversity_report(result: Result) -> Report:
    """The table of attributes, what late starts gain, and ways that could not be measured."""
    settings = result.settings
    facts = {"model": Path(settings.model).name, "samples": settings.samples, "seed": settings.seed}
    facts |= {"features": result.features, "classifier": result.classifier}
    said = [*sentences(result), *(f"not measured: {line}" for line in result.failed)]
    pictures = ["diversity.png", "samples.png"]
    return Report(f"Diversity: {facts['model']}", facts, [diversity_table(result)], said, pictures)


def diversity_table(result: Result) -> Table:
    """A row for each attribute of each way that is shown, with intervals."""
    table = Table(
        title="Attributes against the data's, with 95% intervals (entropy and KL in nats), and how much of it is met",
        title_justify="left",
        box=SIMPLE,
        caption=f"{result.settings.samples:,} samples, seed {result.settings.seed}; features {result.features}; "
        f"classifier {result.classifier}",
    )
    table.add_column("way", min_width=30, overflow="fold")
    table.add_column("attribute")
    for name in ("KL", "variation", "entropy", "recall", "coverage", "Vendi", "Frechet"):
        table.add_column(name, justify="right", no_wrap=True)
    for way in result.shown:
        for place, (name, one) in enumerate(way.diversity.attributes.items()):
            figures = (_interval(one.kl), f"{one.total_variation.value:.3f}", f"{one.entropy.value:.3f}")
            called, whole = ("", ("",) * 4) if place else (escape(name_of(way)), _beside(way))
            table.add_row(called, name.replace("_", " "), *map(escape, figures), *whole)
        table.add_section()
    for place, (name, one) in enumerate(result.shown[0].diversity.attributes.items()):
        figures = (f"{result.chance[name]:.3f}", "", f"{one.entropy_data.value:.3f}")
        called, score = ("", "") if place else ("as many images of the data", _vendi_data(result))
        table.add_row(called, name.replace("_", " "), *figures, "", "", score, "", style="dim")
    return table


def _beside(way: Way) -> tuple[str, ...]:
    found: Any = way.diversity
    shares = (f"{found.recall.value:.3f}", f"{found.coverage.value:.3f}", f"{found.vendi.value:.1f}")
    return *shares, f"{way.frechet.value:.1f}"


def _vendi_data(result: Result) -> str:
    score = result.shown[0].diversity.vendi_data
    return "" if score is None else f"{score.value:.1f}"


def sentences(result: Result) -> Iterator[str]:
    """What a late start gains for each attribute, and how far the classifier can be relied on."""
    for gain in result.gains:
        times = f"{gain.factor.value:.2f} times [{gain.factor.low:.2f}, {gain.factor.high:.2f}]"
        apart = "the intervals of the two do not overlap" if gain.apart else "the intervals of the two overlap"
        yield (
            f"{gain.sampler.upper()}, {gain.attribute.replace('_', ' ')}: from full noise the divergence is {times} "
            f"that of the late start from {_prior(gain.prior)}; {apart}"
        )
    for name, score in result.scores.items():
        right = score.accuracy
        yield (
            f"{name.replace('_', ' ')} is read rightly of {right.value:.2%} [{right.low:.2%}, {right.high:.2%}] of "
            f"{int(score.counts.sum()):,} held-out images; its errors move {score.bias:.2%} of the shares"
        )
    for way in result.shown:
        if way.doubtful:
            told = ", ".join(
                f"{name.replace('_', ' ')} {share:.1%} (data {result.doubtful_data[name]:.1%})"
                for name, share in way.doubtful.items()
            )
            yield f"{name_of(way)}: read with less than 90% certainty: {told}"


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
