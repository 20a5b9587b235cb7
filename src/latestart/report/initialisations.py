"""Pictures and tables of other ways to start, and of networks trained below a start, as they were handed over."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from latestart.evaluation.copying import BAR
from latestart.evaluation.quality import Estimate
from latestart.experiments import initialisations as starts
from latestart.experiments import late_training as training
from latestart.files import replacing
from latestart.lab.judge import Floor
from latestart.lab.report import Report, floor_sentence

TITLES = {
    "isotropic": "N(0, I)",
    "uniform": "uniform, matched moments",
    "diagonal": "Gaussian, diagonal",
    "lowrank": "Gaussian, low rank",
    "gaussian": "Gaussian",
    "labels": "a Gaussian for each class",
    "mixture": "mixture of Gaussians",
    "flow": "learned flow",
    "images": "noised training images",
}
COLORS = dict(
    zip(
        TITLES,
        ("#707070", "#b35806", "#80b1d3", "#2166ac", "#053061", "#a6761d", "#1b7837", "#8e0152", "#d6604d"),
        strict=True,
    )
)
MARKERS = dict(zip(TITLES, "sv<>oP^DX", strict=True))
SHADES = ("#a6dba0", "#5aae61", "#00441b")  # of mixtures of so many components
PAIR = {"all": ("all levels", "#2166ac"), "late": ("below the start only", "#b2182b")}


def starts_report(result: starts.Result) -> Report:
    """The table of start distributions, the floor, what each is, what the flow gains, and what has failed."""
    setting = result.setting
    seed = f"{setting.seed} for the choice of starts, {setting.seed + 1} for the figures"
    facts = {"model": result.model, "samples": setting.samples, "seed": seed, "features": result.features}
    floor = None if result.floor is None else Floor(result.unseen, result.floor.frechet)
    said = [floor_sentence(floor, setting.samples)]
    said += [f"failed: {what}: {reason}" for what, reason in result.failed.items()]
    said += [f"{kind}: {told}" for kind, told in result.fitted.items()]
    said += [
        f"the flow at sigma = {s:.3g}: {n:+.3f} nats over its Gaussian, on held-out images" for s, n in result.gains
    ]
    pictures = ["initialisations.png"]
    return Report(f"Start distributions: {result.model}", facts, [starts_table(result)], said, pictures)


def starts_table(result: starts.Result) -> Table:
    """A row for each start distribution at its best start, by numbers of evaluations; bold is the lowest distance."""
    seed, samples = result.setting.seed, result.setting.samples
    table = Table(
        title=f"Start distributions, each at its own best start: {result.model}, {result.setting.sampler.upper()}",
        title_justify="left",
        box=SIMPLE,
        caption=f"{samples:,} samples; starts chosen with seed {seed}, all figures with seed {seed + 1}, with 95% "
        "intervals, paired for the ratio to the Gaussian; ≤ ≥ the end of the grid of "
        f"starts; * the best start that does not copy (copied above {BAR:g}) where the best of all does"
        + ("" if result.floor is None else "; copied of unseen images: every second one, told by the others"),
    )
    for name in ("NFE", "start distribution", "t"):
        table.add_column(name, justify="left" if "dist" in name else "right", no_wrap=True)
    for name in ("Fréchet", "/ Gaussian", "recall", "copied"):
        table.add_column(name, justify="right", no_wrap=True)
    for nfe in _counts(result):
        mine = [row for row in result.rows if row.nfe == nfe]
        best = min(row.figures.frechet.value for row in mine)
        for row in mine:
            style = "bold" if row.figures.frechet.value == best else ""
            table.add_row(str(nfe), _title(row), f"{_edge(row)}{row.t_start:g}", *_cells(row), style=style)
        table.add_section()
    if result.floor is not None:
        floor = result.floor
        table.add_row(
            "",
            f"{result.unseen:,} unseen images",
            "",
            _spread(floor.frechet),
            "",
            _share(floor.recall),
            _share(floor.copied),
        )
    return table


def _name(kind: str) -> str:
    count = starts.counted(kind)
    return f"mixture of {count} Gaussians" if count else TITLES[kind]


def _look(kind: str, kinds: Sequence[str]) -> tuple[str, str]:
    """The colour and the marker of one of the kinds."""
    if not starts.counted(kind):
        return COLORS[kind], MARKERS[kind]
    place = [each for each in kinds if starts.counted(each)].index(kind)
    return SHADES[place % len(SHADES)], MARKERS["mixture"]


def _counts(result: starts.Result) -> list[int]:
    """The numbers of evaluations at which something could be measured."""
    return [nfe for nfe in result.setting.nfe if any(row.nfe == nfe for row in result.rows)]


def _title(row: starts.Row) -> str:
    return f"{_name(row.kind)}{' *' if row.clean else ''}"


def _edge(row: starts.Row) -> str:
    return {"low": "≤ ", "high": "≥ "}.get(row.edge, "")


def _cells(row: starts.Row) -> tuple[str, ...]:
    ratio = "-" if row.relative is None else _spread(row.relative, ".2f")
    return _spread(row.figures.frechet), ratio, _share(row.figures.recall), _share(row.figures.copied)


def _spread(estimate: Estimate, form: str | None = None) -> str:
    value, low, high = (
        format(x, form) if form else f"{x:.0f}" if abs(x) >= 100 else f"{x:.3g}"
        for x in (estimate.value, estimate.low, estimate.high)
    )
    return escape(f"{value} [{low}, {high}]")


def _share(estimate: Estimate | None) -> str:
    return "-" if estimate is None else _spread(estimate, ".3f")


def starts_picture(path: str | Path, result: starts.Result) -> None:
    """For each number of evaluations, distance against the start; below, distance, recall and copies at the best."""
    counts = _counts(result)
    rows = ("curve", "frechet", "recall", "copied")
    size = (max(5.2 * len(counts) + 1.6, 9.5), 15)  # a legend and a title must fit above a single column
    figure, axes = plt.subplots(
        len(rows), len(counts), figsize=size, squeeze=False, layout="constrained", height_ratios=(1.6, 1, 1, 1)
    )
    for place, nfe in enumerate(counts):
        mine = [row for row in result.rows if row.nfe == nfe]
        _curves(axes[0][place], result, nfe, mine)
        for axis, name in zip(axes[1:, place], rows[1:]):
            _dots(axis, result, mine, name, labelled=place == 0)
    for line in axes:
        _same_limits(line)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=10)
    setting = result.setting
    figure.suptitle(
        f"Start distributions: {result.model}, {setting.sampler.upper()}, {setting.samples:,} samples, 95% intervals\n"
        f"above: all starts, the best one ringed, seed {setting.seed}; below: from there with seed {setting.seed + 1}\n"
        "dotted: unseen images; hollow (*): the best start that does not copy",
        fontsize=12,
    )
    _write(figure, path)


def _curves(axis: Axes, result: starts.Result, nfe: int, rows: Sequence[starts.Row]) -> None:
    for kind in result.setting.kinds:
        points = result.curves.get((kind, nfe), [])
        if not points:
            continue
        t = [point.t_start for point in points]
        low, value, high = (
            [getattr(point.figures.frechet, end) for point in points] for end in ("low", "value", "high")
        )
        color, marker = _look(kind, result.setting.kinds)
        axis.fill_between(t, low, high, color=color, alpha=0.12, linewidth=0)
        axis.plot(t, value, color=color, marker=marker, markersize=4, linewidth=1.3, label=_name(kind))
    for row in rows:
        if not row.clean:
            color, _ = _look(row.kind, result.setting.kinds)
            axis.scatter([row.t_start], [row.chosen.value], s=130, facecolors="none", edgecolors=color)
    if result.floor is not None:
        axis.axhline(result.floor.frechet.value, color="black", linestyle=":", linewidth=1)
        axis.annotate(
            f"{result.unseen:,} unseen images", (0.99, result.floor.frechet.value), xycoords=("axes fraction", "data"),
            ha="right", va="bottom", fontsize=8,
        )  # fmt: skip
    axis.set(yscale="log", title=f"{nfe} evaluations", xlabel="start t, in the scheduler's time")
    axis.set_ylabel("Fréchet distance to the training set")


def _dots(axis: Axes, result: starts.Result, rows: Sequence[starts.Row], name: str, labelled: bool) -> None:
    """A point with its interval for each row, the first on top."""
    places = np.arange(len(rows))[::-1]
    for place, row in zip(places, rows):
        estimate: Estimate | None = getattr(row.figures, name)
        if estimate is None:
            continue
        color, marker = _look(row.kind, result.setting.kinds)
        fill = "white" if row.clean else color
        axis.plot([estimate.low, estimate.high], [place, place], color=color, linewidth=1.6)
        axis.plot([estimate.value], [place], color=color, marker=marker, markerfacecolor=fill)
    floor: Estimate | None = None if result.floor is None else getattr(result.floor, name)
    if floor is not None:
        axis.axvline(floor.value, color="black", linestyle=":", linewidth=1)
    if name == "copied":
        axis.axvline(BAR, color="#b2182b", linestyle="--", linewidth=1)
    axis.set_yticks(places, [f"{_title(row)}, t = {row.t_start:g}" for row in rows], fontsize=8)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.grid(axis="x", alpha=0.25)
    told = {
        "frechet": "Fréchet distance at the best start",
        "recall": "recall at the best start",
        "copied": f"share of copies (dashed: {BAR:g})",
    }
    axis.set_xlabel(told[name])
    if name == "frechet":
        axis.set_xscale("log")
        _plain_ticks(axis, rows)


def _plain_ticks(axis: Axes, rows: Sequence[starts.Row]) -> None:
    low, high = (f(getattr(row.figures.frechet, e) for row in rows) for f, e in ((min, "low"), (max, "high")))
    ticks = [m * 10.0**k for k in range(-3, 6) for m in (1, 2, 5) if low / 2 <= m * 10.0**k <= high * 2]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.xaxis.set_minor_locator(NullLocator())


def _same_limits(axes: Sequence[Axes]) -> None:
    """The same scale in a row, so that numbers of evaluations can be compared."""
    curve = axes[0].get_yscale() == "log"
    limits = [axis.get_ylim() if curve else axis.get_xlim() for axis in axes]
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    for axis in axes:
        (axis.set_ylim if curve else axis.set_xlim)(low, high)
        if curve:
            ticks = [m * 10.0**k for k in range(-3, 6) for m in (1, 2, 5) if low <= m * 10.0**k <= high]
            axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.yaxis.set_minor_formatter(NullFormatter())


def _prior(setting: training.Setting) -> str:
    return setting.prior.replace("gaussian", "Gaussian")


def training_report(result: training.Result) -> Report:
    """The table of both networks."""
    setting = result.setting
    seeds = ", ".join(str(setting.seed + k) for k in range(setting.seeds))
    facts = {"training images": result.images, "steps": setting.steps, "samples": setting.samples, "seeds": seeds}
    facts |= {"features": result.features}
    pictures = ["late-training.png"]
    return Report("Training below the start only", facts, [training_table(result)], (), pictures)


def training_table(result: training.Result) -> Table:
    """A row for each number of evaluations: both networks and their ratio."""
    setting = result.setting
    table = Table(
        title=f"Networks trained on all levels, and on those below sigma = {setting.sigma:.3g} (t < {setting.start})",
        title_justify="left",
        box=SIMPLE,
        caption=f"{setting.steps:,} steps on {result.images:,} images, {setting.seeds} seeds from {setting.seed}; "
        f"{setting.sampler.upper()} from the {_prior(setting)} at t = {setting.start}, {setting.samples:,} samples, "
        f"features {result.features}; 95% intervals over the seeds",
    )
    for name in ("NFE", "trained on"):
        table.add_column(name, justify="left" if name == "trained on" else "right", no_wrap=True)
    for name in ("Fréchet", "late / all", "recall", "copied"):
        table.add_column(name, justify="right", no_wrap=True)
    for s in result.summaries:
        for network, (title, _) in PAIR.items():
            ratio = f"[bold]{_spread(s.ratio, '.3f')}[/]" if network == "late" else ""
            shares = (_share(s.recall[network]), _share(s.copied[network]))
            table.add_row(str(s.nfe), title, _spread(getattr(s, network)), ratio, *shares)
        table.add_section()
    return table


def training_picture(path: str | Path, result: training.Result) -> None:
    """Left, the distances of both networks; right, their ratio: means with intervals over seeds, and each seed."""
    setting, places = result.setting, np.arange(len(result.summaries), dtype=float)
    figure, (left, right) = plt.subplots(1, 2, figsize=(12.5, 5.4), layout="constrained")
    for shift, (network, (title, color)) in zip((-0.13, 0.13), PAIR.items()):
        _seeds(left, places + shift, [getattr(s, network) for s in result.summaries], color, title)
        for place, s in zip(places + shift, result.summaries):
            values = [getattr(pair, network).frechet.value for pair in result.pairs if pair.nfe == s.nfe]
            left.scatter([place + 0.05] * len(values), values, s=16, color=color, alpha=0.5)
    _seeds(right, places, [s.ratio for s in result.summaries], "#333333", "geometric mean")
    for place, s in zip(places, result.summaries):
        ratios = [pair.ratio for pair in result.pairs if pair.nfe == s.nfe]
        right.scatter([place + 0.05] * len(ratios), ratios, s=16, color="#333333", alpha=0.5, label="")
    right.axhline(1, color="#707070", linestyle=":", linewidth=1)
    left.set(title="Fréchet distance to the training set", ylabel="Fréchet distance", ylim=(0, None))
    right.set(title="Late over all levels, of the same seed", ylabel="ratio (below 1: better without those levels)")
    for axis in (left, right):
        axis.set_xticks(places, [f"{s.nfe} evaluations" for s in result.summaries])
        axis.set_xlim(-0.5, len(places) - 0.5)
        axis.legend(fontsize=9)
        axis.grid(axis="y", alpha=0.25)
    figure.suptitle(
        f"Training below the start only: sigma up to {setting.sigma:.3g} (t < {setting.start}), "
        f"{setting.steps:,} steps on {result.images:,} images\n{setting.samples:,} samples from the {_prior(setting)} "
        f"at t = {setting.start}; {setting.seeds} seeds (dots), 95% intervals over them"
    )
    _write(figure, path)


def _seeds(axis: Axes, places: np.ndarray, estimates: Sequence[Estimate], color: str, title: str) -> None:
    for place, estimate in zip(places, estimates):
        axis.plot([place, place], [estimate.low, estimate.high], color=color, linewidth=2)
    axis.plot(
        places, [e.value for e in estimates], color=color, linestyle="none", marker="o", markersize=8, label=title
    )


def _write(figure: Figure, path: str | Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
