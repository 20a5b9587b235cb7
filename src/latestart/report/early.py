"""The early phase: normality by level, and quality by start. Everything is drawn and told as it was handed over."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.markup import escape
from rich.table import Table

from latestart.evaluation.gaussianity import TESTS, Gaussianity
from latestart.evaluation.quality import Estimate
from latestart.experiments import gaussianity as normal
from latestart.experiments import sensitivity as start
from latestart.files import replacing
from latestart.lab.report import Report, floor_sentence, not_measured
from latestart.noise import when

COLORS = dict(zip(TESTS, ("#2166ac", "#67a9cf", "#1b7837", "#b2182b", "#8073ac")))
GREY = "#707070"
CHOSEN = (
    "the best start is told of the samples that it was chosen by, the lowest of many noisy distances: its distance is "
    "a little too low, and so what the others cost a little too high"
)
TIME = "start t, in the scheduler's time: noise falls to the right"
LEAST_NATS = 1e-3  # below it the curve is noise
REJECTED = 0.05
SEEN = "the nats are of training images, which network and prior were fitted to: no others are at hand"
NFE_COLORS = ("#b2182b", "#2166ac", "#1b7837", "#8073ac")
TITLES = {
    ("forward", "own"): "Training images under exact noise: is it any Gaussian?",
    ("network", "own"): "The network's DDIM paths: is it any Gaussian?",
    ("forward", "prior"): "Training images under exact noise: is it the prior?",
    ("network", "prior"): "The network's DDIM paths: is it the prior?",
}


def gaussianity(path: str | Path, result: normal.Result) -> None:
    """Five tests against t, for two processes and two hypotheses, and the divergence in nats below them."""
    figure, axes = plt.subplot_mosaic("ab;cd;nn", figsize=(13, 11.5), layout="constrained", height_ratios=(1, 1, 0.7))
    for name, (process, hypothesis) in zip("abcd", TITLES):
        _panel(axes[name], result, process, hypothesis)
    for left, right in ("ab", "cd"):
        axes[left].sharey(axes[right])
    _nats(axes["n"], result)
    _legend(figure, axes["a"])
    first = result.levels[0].found["forward", "own"]
    figure.suptitle(
        f"Is the early distribution Gaussian? {first.n:,} samples, {first.rank} leading directions, "
        f"p-values by {first.replicates} replicates"
    )
    _write(figure, path)


def _panel(axis: Axes, result: normal.Result, process: str, hypothesis: str) -> None:
    t = np.array([level.t_start for level in result.levels])
    for name, color in COLORS.items():
        tests = [level.found[process, hypothesis][name] for level in result.levels]
        deviations = np.array([test.deviations for test in tests])
        rejected = np.array([test.adjusted <= REJECTED for test in tests])
        axis.plot(t, deviations, color=color, linewidth=1, label=name)
        axis.scatter(t[rejected], deviations[rejected], s=26, color=color, zorder=3)
        axis.scatter(t[~rejected], deviations[~rejected], s=26, facecolors="white", edgecolors=color, zorder=3)
    onset = result.onset(process, hypothesis)
    if onset is not None:
        axis.axvspan(t.min() - 15, onset + 10, color="#fddbc7", alpha=0.45, zorder=0)
    axis.axhspan(-2, 2, color=GREY, alpha=0.12)
    axis.set_yscale("symlog", linthresh=3)
    axis.set_yticks([-10, -3, 0, 3, 10, 30, 100, 300], ["−10", "−3", "0", "3", "10", "30", "100", "300"])
    _mark(axis, result)
    told = "rejected at no level" if onset is None else f"rejected from t = {onset} down"
    axis.set(xlabel=TIME)
    axis.annotate(told, (0.02, 0.93), xycoords="axes fraction", fontsize=9)
    axis.set(title=TITLES[process, hypothesis], ylabel="standard deviations under the hypothesis")


def _nats(axis: Axes, result: normal.Result) -> None:
    curve, t = result.curve, result.t
    shown = (curve.nats > 0.003) & (t >= result.levels[-1].t_start) & (t <= result.levels[0].t_start)
    low, high = (curve.nats - 2 * curve.error).clamp(min=1e-3), curve.nats + 2 * curve.error
    axis.fill_between(t[shown], low[shown], high[shown], color=GREY, alpha=0.25)
    axis.plot(t[shown], curve.nats[shown], color="black")
    axis.axhline(normal.BUDGET, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(yscale="log", xlabel=TIME)
    axis.set(title="Divergence of the noised images from the prior, with two standard errors", ylabel="nats")
    _mark(axis, result)


def _mark(axis: Axes, result: normal.Result) -> None:
    if result.one_nat is not None and result.one_nat.t is not None:
        axis.axvline(result.one_nat.t + 1, color="black", linestyle="--", linewidth=1)
    axis.set_xlim(result.levels[0].t_start + 15, result.levels[-1].t_start - 15)


def _legend(figure: Figure, axis: Axes) -> None:
    style: dict[str, Any] = {"linestyle": "none", "marker": "o", "color": GREY}
    handles, labels = axis.get_legend_handles_labels()
    handles += [
        *axis.plot([], [], **style),
        *axis.plot([], [], markerfacecolor="white", **style),
        *axis.plot([], [], color="black", linestyle="--", linewidth=1),
        axis.fill_between([], [], color="#fddbc7", alpha=0.45),
    ]
    labels += [f"rejected at {REJECTED:g} (Holm over the five tests)", "not rejected", "1 nat from the prior"]
    labels += ["some test rejects at every level from here down"]
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)


def _write(figure: Figure, path: str | Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)


def sensitivity(path: str | Path, curves: list[start.Curve], samples: int) -> None:
    """Distance over the best against the start, in t and in nats, a row for each prior; windows within 5% as bars."""
    priors = list(dict.fromkeys(curve.prior for curve in curves))
    size = (13, 4.6 * len(priors) + 0.6)
    figure, axes = plt.subplots(len(priors), 2, figsize=size, squeeze=False, layout="constrained")
    for row, prior in zip(axes, priors):
        mine = [curve for curve in curves if curve.prior == prior]
        for place, curve in enumerate(mine):
            window, nats = curve.window, np.maximum(curve.nats, LEAST_NATS)
            _relative(row[0], curve, curve.t, (window.low.value, window.high.value), place)
            ends = (max(window.nats_low.value, LEAST_NATS), window.nats_high.value)
            _relative(row[1], curve, nats, ends, place)
        row[0].set(
            title=f"Late start from {_title(prior)}",
            xlabel="start t, in the scheduler's time",
        )
        row[1].set(title="The same, by how wrong the prior is there", xscale="log")
        row[1].set_xlabel(f"divergence of the data from the prior, nats ({LEAST_NATS:g} stands for less)")
        row[0].invert_xaxis()
        row[0].legend(fontsize=9)
        for axis in row:
            _scale(axis, max(e.high for curve in mine for e in curve.relative))
    figure.suptitle(
        f"How far off may the start be? DDIM, {samples:,} samples, the same noise at every start; "
        f"bars: within {start.WITHIN:.0%} of the best"
    )
    _write(figure, path)


def _relative(axis: Axes, curve: start.Curve, x: np.ndarray, window: tuple[float, float], place: int) -> None:
    color = NFE_COLORS[place % len(NFE_COLORS)]
    low, value, high = (np.array([getattr(e, end) for e in curve.relative]) for end in ("low", "value", "high"))
    best, width = min(e.value for e in curve.frechet), curve.window.width.value
    axis.fill_between(x, low, high, color=color, alpha=0.15)
    label = f"NFE {curve.nfe}: best {best:.1f} at t = {when(curve.window.best)}, window of {width:.0f}"
    axis.plot(x, value, color=color, marker="o", markersize=3, label=label)
    axis.plot(window, [0.9 - 0.06 * place] * 2, color=color, linewidth=5, solid_capstyle="butt")


def _scale(axis: Axes, highest: float) -> None:
    axis.axhline(1 + start.WITHIN, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(yscale="log", ylim=(0.7, 1.1 * highest), ylabel="Fréchet distance / that of the best start")
    ticks = [tick for tick in (1, 1.25, 1.5, 2, 3, 4, 6, 10) if tick < highest]
    axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def gaussianity_report(result: normal.Result) -> Report:
    """The tests at each level and from where on down they reject."""
    first, settings = result.levels[0].found["forward", "own"], result.settings
    model = Path(settings.model).name
    facts = {"model": model, "weights": result.weights, "samples": first.n, "seed": settings.seed}
    facts |= {"directions": first.rank, "replicates": first.replicates}
    title = f"Gaussianity of the early distribution: {model}"
    return Report(title, facts, [normality_table(result)], list(_onsets(result)), ["gaussianity.png"])


def normality_table(result: normal.Result) -> Table:
    """A row for each level: its nats, and for each process and hypothesis the least p-value and what rejects."""
    table = Table(
        title="Tests of normality by level: the least of five p-values, corrected by Holm's method, and what rejects",
        title_justify="left",
        box=SIMPLE,
        caption=f"bold: rejected at {REJECTED:g}; forward: training images under exact noise; network: its DDIM paths",
    )
    for name in ("start t", "sigma", "nats"):
        table.add_column(name, justify="right")
    for process, hypothesis in normal.PANELS:
        table.add_column(f"{process}:\n{'any Gaussian' if hypothesis == 'own' else 'the prior'}")
    for level in result.levels:
        told = (_rejections(level.found[panel]) for panel in normal.PANELS)
        table.add_row(str(level.t_start), f"{level.sigma:.3g}", f"{level.nats:.2g}", *told)
    return table


def _rejections(found: Gaussianity) -> str:
    names = [test.name for test in found.tests if test.adjusted <= REJECTED]
    return f"[bold]{found.p:.3f}[/]\n{', '.join(names)}" if names else f"{found.p:.3f}"


def _onsets(result: normal.Result) -> Iterator[str]:
    passed = "does not pass" if result.one_nat is None else "passes"
    at = "" if result.one_nat is None else f" at t = {when(result.one_nat.t)}"
    yield f"the divergence from the prior {passed} {normal.BUDGET:g} nat{at}"
    if not result.unseen:
        yield SEEN
    for process in normal.PROCESSES:
        own, prior = (result.onset(process, hypothesis) for hypothesis in normal.HYPOTHESES)
        yield f"{process}: any Gaussian is rejected {_below(own)}; the prior {_below(prior)}"


def _below(t: int | None) -> str:
    return "at no level" if t is None else f"from t = {t} down"


def sensitivity_report(result: start.Result) -> Report:
    """The windows of all curves, what a start that is off costs in t and in nats, the floor, and what is missing."""
    settings, model = result.settings, Path(result.settings.model).name
    facts = {"model": model, "weights": result.weights, "samples": settings.samples, "seed": settings.seed}
    facts |= {"features": result.features}
    said = [floor_sentence(result.floor, settings.samples), *([] if result.floor else [SEEN])]
    said += not_measured(result.rows)
    if not result.curves:
        said.append(f"no prior has {start.FEWEST} starts measured at any number of evaluations: there is no curve yet")
        return Report(f"Sensitivity to the start: {model}", facts, sentences=said)
    said.append(CHOSEN)
    tables = [windows_table(result.curves), best_table(result.curves)]
    tables += [off_table(result.curves, True), off_table(result.curves, False)]
    return Report(f"Sensitivity to the start: {model}", facts, tables, said, ["sensitivity.png"])


def windows_table(curves: list[start.Curve]) -> Table:
    """A row for each prior and number of evaluations: the best start, and the starts that are nearly as good."""
    table = Table(
        title=f"Starts within {start.WITHIN:.0%} of the best, with 95% intervals",
        title_justify="left",
        box=SIMPLE,
        caption="≤ ≥ the end of the grid of starts; nats: divergence of the data from the prior; a resampled curve is "
        "rougher than the curve and its window narrower: an interval may lie below its value",
    )
    table.add_column("prior")
    for name in (
        "NFE",
        "best t",
        "Fréchet there",
        "from t",
        "nats there",
        "to t",
        "nats there",
        "wide in t",
        "in nats",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for curve in curves:
        w = curve.window
        low, high = ("" if closed else mark for closed, mark in zip(w.closed, "≤≥"))
        wider = "≥" if low or high else ""
        below = (low + _spread(w.low), ("≥" if low else "") + _spread(w.nats_high, ".2g"))
        above = (high + _spread(w.high), ("≤" if high else "") + _spread(w.nats_low, ".2g"))
        wide = (wider + _spread(w.width), wider + _spread(w.nats_width, ".2g"))
        told = (f"{w.best:.0f}", _spread(curve.frechet[curve.best], ".1f"), *below, *above, *wide)
        table.add_row(_title(curve.prior), str(curve.nfe), *told)
    return table


def best_table(curves: list[start.Curve]) -> Table:
    """What the best start of each curve has beside its distance: the recall, and the share of copies."""
    table = Table(title="The best starts, with 95% intervals", title_justify="left", box=SIMPLE)
    table.add_column("prior")
    for name in ("NFE", "t", "Fréchet", "recall", "copied"):
        table.add_column(name, justify="right", no_wrap=True)
    for curve in curves:
        copied = curve.copied[curve.best]
        told = (_spread(curve.frechet[curve.best], ".1f"), _spread(curve.recall[curve.best], ".3f"))
        copies = "-" if copied is None else _spread(copied, ".3f")
        table.add_row(_title(curve.prior), str(curve.nfe), f"{curve.window.best:.0f}", *told, copies)
    return table


def off_table(curves: list[start.Curve], in_t: bool) -> Table:
    """What starts cost that are off by so much t, or that lie at so many nats: the distance over the best start's."""
    title = "a start that is off by so much t" if in_t else "the start at so many nats, wherever that is"
    caption = "so much earlier (+: more noise) or later (-) than the best start" if in_t else "t in brackets"
    table = Table(
        title=f"Distance of {title}, over that of the best start, with 95% intervals",
        title_justify="left",
        box=SIMPLE,
        caption=f"{caption}; - off the grid of starts",
    )
    table.add_column("prior")
    names = [f"{e:+d}" for e in start.OFFSETS] if in_t else [f"{b:g} nats" for b in start.BUDGETS]
    for name in ("NFE", "best t" if in_t else "best at nats", *names):
        table.add_column(name, justify="right", no_wrap=True)
    for curve in curves:
        off = {each.by: each for each in (curve.off_t if in_t else curve.off_nats)}
        best = f"{curve.window.best:.0f}" if in_t else f"{curve.nats[curve.best]:.2g}"
        found = [off.get(by) for by in (start.OFFSETS if in_t else start.BUDGETS)]
        cells = ["-" if each is None else _off(each, in_t) for each in found]
        table.add_row(_title(curve.prior), str(curve.nfe), best, *cells)
    return table


def _off(off: start.Off, in_t: bool) -> str:
    told = _spread(off.relative, ".2f")
    return told if in_t else f"{told}\n({off.t:.0f})"


def _title(prior: str) -> str:
    return {"gaussian": "the Gaussian", "mixture": "the mixture"}.get(prior, Path(prior).name)


def _spread(estimate: Estimate, form: str = ".0f") -> str:
    return escape(f"{estimate.value:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]")
