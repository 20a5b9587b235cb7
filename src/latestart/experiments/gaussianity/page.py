"""The page of the tests of normality: the picture, the table and the sentences."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from latestart.evaluation.gaussianity import TESTS, Gaussianity
from latestart.experiments.gaussianity.measure import BUDGET, PANELS, PROCESSES, Normality
from latestart.lab.divergence import SEEN
from latestart.lab.drawing import GREY, figure, key, level_line, save
from latestart.lab.report import Report, facts_of, table
from latestart.noise import when

__all__ = ["draw", "page"]

COLORS = dict(zip(TESTS, ("#2166ac", "#67a9cf", "#1b7837", "#b2182b", "#8073ac")))
SHADE: dict[str, Any] = {"color": "#fddbc7", "alpha": 0.45}
TIME = "start t, in the scheduler's time: noise falls to the right"
REJECTED = 0.05
PROCESS = {"forward": "Training images under exact noise", "network": "The network's DDIM paths"}
LOOKS: dict[str, dict[str, Any]] = {
    f"rejected at {REJECTED:g} (Holm over the five tests)": {"linestyle": "none", "marker": "o"},
    "not rejected": {"linestyle": "none", "marker": "o", "markerfacecolor": "white"},
    "1 nat from the prior": {"color": "black", "linestyle": "--", "linewidth": 1},
}
HYPOTHESIS = {"own": "any Gaussian", "prior": "the prior"}


def page(result: Normality, folder: Path) -> Report:
    """Draw the tests by level; return them as a table, and the levels from which on down they reject in words."""
    draw(folder / "gaussianity.png", result)
    first = result.levels[0].found["forward", "own"]
    facts = facts_of(result, directions=first.rank, replicates=first.replicates)
    title = f"Gaussianity of the early distribution: {facts['model']}"
    return Report(
        title, facts, [_table(result)], list(_sentences(result)), pictures=["gaussianity.png"], files=["levels"]
    )


def draw(path: Path, result: Normality) -> None:
    """Draw five tests against t, for two processes and two hypotheses, and the divergence in nats below them."""
    made, axes = figure(3, 2, (13, 11.5), sharey="row", height_ratios=(1, 1, 0.7))
    below = made.add_subplot(axes[2, 0].get_gridspec()[2, :])
    for axis in axes[2]:
        axis.remove()
    for hypothesis, row in zip(HYPOTHESIS, axes):
        for process, axis in zip(PROCESSES, row):
            _panel(axis, result, process, hypothesis)
    _nats(below, result)
    axis = axes[0, 0]
    for label, look in LOOKS.items():
        key(axis, label, **look)
    axis.fill_between([], [], label="some test rejects at every level from here down", **SHADE)
    made.legend(*axis.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    first = result.levels[0].found["forward", "own"]
    made.suptitle(
        f"Is the early distribution Gaussian? {first.n:,} samples, {first.rank} leading directions, "
        f"p-values by {first.replicates} replicates"
    )
    save(made, path)


def _panel(axis: Axes, result: Normality, process: str, hypothesis: str) -> None:
    t = np.array([level.t_start for level in result.levels])
    for name, color in COLORS.items():
        tests = [level.found[process, hypothesis][name] for level in result.levels]
        deviations = np.array([test.deviations for test in tests])
        inside = [color if test.adjusted <= REJECTED else "white" for test in tests]
        axis.plot(t, deviations, color=color, linewidth=1, label=name)
        axis.scatter(t, deviations, s=26, facecolors=inside, edgecolors=color, zorder=3)
    onset = result.onset(process, hypothesis)
    if onset is not None:
        axis.axvspan(t.min() - 15, onset + 10, zorder=0, **SHADE)
    axis.axhspan(-2, 2, color=GREY, alpha=0.12)
    axis.set_yscale("symlog", linthresh=3)
    axis.set_yticks([-10, -3, 0, 3, 10, 30, 100, 300], ["−10", "−3", "0", "3", "10", "30", "100", "300"])
    _mark(axis, result)
    axis.annotate(f"rejected {_below(onset)}", (0.02, 0.93), xycoords="axes fraction", fontsize=9)
    axis.set(title=f"{PROCESS[process]}: is it {HYPOTHESIS[hypothesis]}?", xlabel=TIME)
    axis.set_ylabel("standard deviations under the hypothesis")


def _nats(axis: Axes, result: Normality) -> None:
    curve, t = result.curve, result.t
    shown = (curve.nats > 0.003) & (t >= result.levels[-1].t_start) & (t <= result.levels[0].t_start)
    low, high = (curve.nats - 2 * curve.error).clamp(min=1e-3), curve.nats + 2 * curve.error
    axis.fill_between(t[shown], low[shown], high[shown], color=GREY, alpha=0.25)
    axis.plot(t[shown], curve.nats[shown], color="black")
    axis.axhline(BUDGET, color=GREY, linewidth=0.8, linestyle=":")
    axis.set(yscale="log", xlabel=TIME, ylabel="nats")
    axis.set_title("Divergence of the noised images from the prior, with two standard errors")
    _mark(axis, result)


def _mark(axis: Axes, result: Normality) -> None:
    if result.one_nat is not None and result.one_nat.t is not None:
        level_line(axis, result.one_nat.t + 1)
    axis.set_xlim(result.levels[0].t_start + 15, result.levels[-1].t_start - 15)


def _table(result: Normality) -> Table:
    """A row for each level: its nats, and for each panel the least p-value and the tests that reject."""
    names = [f"{process}:\n{HYPOTHESIS[hypothesis]}" for process, hypothesis in PANELS]
    made = table(
        "Tests of normality by level: the least of five p-values, corrected by Holm's method, and those that reject",
        "start t", "sigma", "nats", *names, left=names,
        caption=f"bold: rejected at {REJECTED:g}; forward: training images under exact noise; network: its DDIM paths",
    )  # fmt: skip
    for level in result.levels:
        cells = (_rejections(level.found[panel]) for panel in PANELS)
        made.add_row(str(level.t_start), f"{level.sigma:.3g}", f"{level.nats:.2g}", *cells)
    return made


def _rejections(found: Gaussianity) -> str:
    names = [test.name for test in found.tests if test.adjusted <= REJECTED]
    return f"[bold]{found.p:.3f}[/]\n{', '.join(names)}" if names else f"{found.p:.3f}"


def _sentences(result: Normality) -> Iterator[str]:
    """The level of 1 nat, and the levels from which on down each process is rejected."""
    passed = "does not pass" if result.one_nat is None else "passes"
    at = "" if result.one_nat is None else f" at t = {when(result.one_nat.t)}"
    yield f"the divergence from the prior {passed} {BUDGET:g} nat{at}"
    if not result.unseen:
        yield SEEN
    for process in PROCESSES:
        own, prior = (_below(result.onset(process, hypothesis)) for hypothesis in HYPOTHESIS)
        yield f"{process}: any Gaussian is rejected {own}; the prior {prior}"


def _below(t: int | None) -> str:
    return "at no level" if t is None else f"from t = {t} down"
