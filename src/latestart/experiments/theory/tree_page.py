"""The page of bifurcations: the diagram of two points, and the tree of decisions of a set of images."""

from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from torch import Tensor

from latestart.experiments.theory.bifurcation import NOISE, Decisions, Diagram, Result
from latestart.lab.drawing import figure, save, shown
from latestart.lab.report import Report, machine_kind
from latestart.theory.bifurcation import Tree

__all__ = ["bifurcations", "draw_diagram", "draw_tree"]

THUMBNAIL = 30.0  # side, in points
ROW = 0.47  # inches
LINE, SPLIT = "0.45", "#d95f02"
HEAD: dict[str, Any] = {"fontsize": 10, "loc": "left", "pad": 12}  # of the titles of panels


def bifurcations(result: Result, folder: Path) -> Report:
    """Draw the diagram and the tree, and return them in words."""
    line, found = result.one_dimension, result.tree
    draw_diagram(folder / "diagram.png", line)
    draw_tree(folder / "tree.png", found)
    tree = found.tree
    splits = ", ".join(f"{found.time(node):.0f}" for node in tree.splits) or "none"
    lines = [
        f"two points at +-1: theta_c = {line.theta_c:.5f}, within {line.deviation:.0e} of the closed form",
        f"{found.count} images: {len(tree.leaves)} leaves under {tree.criterion}, splits at t = {splits}",
        f"{found.match.purity:.0%} of the images are of their leaf's most frequent class",
    ]
    facts = {"images": found.count, "from t": found.settings.t_high, "to t": found.settings.t_low}
    pictures = ["diagram.png", "tree.png"]
    return Report("Bifurcations", facts, (), lines, pictures=pictures, machine=machine_kind(accelerated=False))


def draw_diagram(path: Path, found: Diagram) -> None:
    """Draw the fixed points of data at +-1 against theta: followed points on the lines of the closed form."""
    made, axes = figure(1, 1, (7, 4.4))
    axis = axes[0, 0]
    axis.plot(found.outer_theta, found.exact, color="C0", label="stable, closed form")
    axis.plot(found.outer_theta, -found.exact, color="C0")
    axis.plot([found.theta[0], found.theta_c], [0, 0], color="C0")
    axis.plot([found.theta_c, found.theta[-1]], [0, 0], "--", color="C3", label="unstable, closed form")
    stable = found.ratio < 1
    style: dict[str, Any] = {"linestyle": "none", "marker": "o", "markersize": 4, "markerfacecolor": "white"}
    for x in (found.upper, found.lower):
        axis.plot(found.outer_theta, x, color="C0", **style)
    axis.plot(found.theta[stable], found.central[stable], color="C0", label="stable, followed", **style)
    axis.plot(found.theta[~stable], found.central[~stable], color="C3", label="unstable, followed", **style)
    axis.axvline(found.theta_c, color="0.6", linewidth=1, linestyle=":")
    axis.annotate(
        f"$\\theta_c$ = {found.theta_c:.4f}", (found.theta_c, -0.95), (-6, 0), "data", "offset points", ha="right"
    )
    axis.set(xlabel="$\\theta$, the scale of the data (the noise falls to the right)", ylabel="fixed point $x^*$")
    axis.set_title("Two points at $\\pm 1$: one fixed point becomes two")
    axis.legend(loc="upper left", frameon=False)
    save(made, path, dpi=100)


def draw_tree(path: Path, found: Decisions) -> None:
    """Draw the tree of decisions: noise falls from left to right, each branch ends in its mean image.

    Every node has a row of its own, a split between those of its two children, so no picture covers another.
    """
    rows = _rows(found.tree)
    made, axes = figure(1, 2, (14, ROW * len(rows) + 2.1), sharey=True, width_ratios=(2.6, 1))
    axis, bars = axes[0]
    _branches(axis, found, rows)
    _counts(bars, found, rows)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    criterion, leaves = found.tree.criterion, len(found.tree.leaves)
    decided = f"What {found.count:,} images decide as the noise falls: one fixed point becomes {leaves}\n"
    made.suptitle(decided, fontsize=15)
    axis.set_title(
        f'Each picture is the mean of all that a branch can still become (its stable fixed point, "{criterion}").\n'
        "Orange frame: here a branch parts in two. Right edge: the branches where the tree ends.",
        **HEAD,
    )
    save(made, path, dpi=100)


def _rows(tree: Tree) -> dict[int, int]:
    """The row of each node by its index: the children of a split stand above and below it."""

    def order(index: int) -> list[int]:
        below = [order(child.index) for child in tree.children(index)]
        below.sort(key=len)
        half = len(below) // 2
        return [*(i for part in below[:half] for i in part), index, *(i for part in below[half:] for i in part)]

    return {index: row for row, index in enumerate(order(0))}


def _branches(axis: Axes, found: Decisions, rows: dict[int, int]) -> None:
    leaves = {node.index for node in found.tree.leaves}
    high, low = found.settings.t_high, found.settings.t_low
    for node in found.tree.nodes:
        t, row = found.time(node), rows[node.index]
        parent = node.parent
        begin, above = (high, row) if parent is None else (found.time(found.tree.nodes[parent]), rows[parent])
        axis.plot([begin, begin, t], [above, row, row], color=LINE, linewidth=1.2, zorder=1)
        _thumbnail(axis, node.mean, t, row, "black" if node.index in leaves else SPLIT)
        if node.index not in leaves:
            label = f"t = {t:.0f}"
            axis.annotate(label, (t, row), (THUMBNAIL / 2 + 5, 0), textcoords="offset points", va="center", fontsize=8)
    _thumbnail(axis, found.top, high, rows[0], "black")
    corner = (-THUMBNAIL / 2 - 2, THUMBNAIL / 2 + 6)
    axis.annotate("undecided", (high, rows[0]), corner, textcoords="offset points", fontsize=8)
    margin = 0.03 * (high - low)
    axis.set_xlim(high + margin, low - margin)
    axis.set_xlabel(
        "noise level: time t of the schedule, and $\\sigma$ below it (noise falls to the right)", fontsize=11
    )
    ticks = [t for t in axis.get_xticks() if low <= t <= high]
    axis.set_xticks(ticks, [f"t = {t:g}\n$\\sigma$ = {NOISE.sigma(t):.2f}" for t in ticks])
    axis.set_yticks([])
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)


def _thumbnail(axis: Axes, mean: Tensor, t: float, row: int, edge: str) -> None:
    image = shown(mean)
    box = OffsetImage(image, zoom=THUMBNAIL / max(image.shape[:2]), cmap="gray", clim=(0, 1), interpolation="nearest")
    frame = {"edgecolor": edge, "linewidth": 1.6 if edge == SPLIT else 0.8}
    axis.add_artist(AnnotationBbox(box, (t, row), pad=0.08, bboxprops=frame, zorder=3))


def _counts(axis: Axes, found: Decisions, rows: dict[int, int]) -> None:
    """Each leaf's images as a bar, the classes by falling count."""
    colours = plt.get_cmap("tab20" if found.match.counts.shape[1] > 10 else "tab10")
    widest = found.match.counts.sum(1).max()
    for node, counts in zip(found.tree.leaves, found.match.counts):
        classes = [c for c in np.argsort(-counts, kind="stable") if counts[c]]
        ends = list(accumulate(int(counts[c]) for c in classes))
        for c, end in zip(classes, ends):
            axis.barh(rows[node.index], counts[c], left=end - counts[c], height=0.72, color=colours(int(c)), alpha=0.75)
            if counts[c] > 0.035 * widest:
                axis.text(end - counts[c] / 2, rows[node.index], str(c), ha="center", va="center", fontsize=10)
    axis.set_title(
        "The images nearest to each branch, by their class\n"
        f"(in all {found.match.purity:.0%} are of their branch's largest class)",
        **HEAD,
    )
    axis.set_xlabel("number of images", fontsize=11)
    axis.spines[["left", "right", "top"]].set_visible(False)
    axis.tick_params(left=False)
