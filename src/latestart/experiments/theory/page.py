"""The pages of two points on a line, of spheres, and of the potential between samples."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from latestart.evaluation.quality import Estimate
from latestart.experiments.theory import one_dimension as line
from latestart.experiments.theory import potential as between
from latestart.experiments.theory import sphere as ball
from latestart.experiments.theory.process import NOISE, Wells, sigma_of
from latestart.lab.drawing import GREY, figure, key, level_line, save, shown
from latestart.lab.report import Report, machine_kind, spread, table

__all__ = ["one_dimension", "potentials", "spheres"]

BLUE, RED = "#2166ac", "#b2182b"
SHOWN = 40  # paths
DASHES: dict[str, Any] = {"linestyle": (0, (4, 2)), "linewidth": 1.2}


def one_dimension(result: line.Result, folder: Path) -> Report:
    """Draw potentials around the critical time, fixed points against theta, and paths; return the levels in words."""
    made, axes = figure(1, 3, (16, 5))
    _wells(axes[0, 0], result.wells, "Potential: one well becomes two")
    _branches(axes[0, 1], result)
    _paths(axes[0, 2], result)
    made.suptitle("Two points at ±1: the exact model, and a network that has learned them")
    save(made, folder / "one-dimension.png")
    figures, settings = result.record(), result.settings
    exact, network = figures["exact"], figures["network"]["at_symmetry"]
    low, high = network["interval_t"] or (None, None)
    within = "" if low is None else f", 95% interval [{low:.4f}, {high:.4f}] over {settings.seeds} seeds"
    lines = [
        f"exact: theta_c = {exact['theta']:.5f}, t_c = {exact['t']:.5f} of 1, exponent {figures['exponent']:.4f}",
        f"networks: t_c = {network['t']:.4f} at the point of symmetry{within}",
        f"networks: a second well exists below t = {figures['network']['second_well']['t']:.4f}",
    ]
    facts = {"networks": settings.seeds, "steps of each": settings.steps, "paths": settings.samples}
    return _report("Two points at ±1", facts | {"seed": settings.seed}, [], lines, "one-dimension.png")


def _report(title: str, facts: dict[str, Any], tables: Sequence[Any], lines: Sequence[str], *pictures: str) -> Report:
    """Report figures that are computed in float64 on the processor."""
    return Report(title, facts, tables, lines, pictures=pictures, machine=machine_kind(accelerated=False))


def _by_time(items: Sequence[Any]) -> Iterable[Any]:
    """Colours from high noise, yellow, to low, dark, each with its item; the palest yellow hides on white."""
    return zip(plt.get_cmap("viridis")(np.linspace(0.9, 0, len(items))), items)


def _wells(axis: Axes, wells: Sequence[Wells], title: str) -> None:
    for color, w in _by_time(wells):
        axis.plot(w.x, w.exact, color=color, label=f"t = {w.t:.3f}, θ = {w.theta:.2f}")
        if w.network is not None:
            axis.plot(w.x, w.network, color=color, **DASHES)
    if wells[0].network is not None:
        key(axis, "exact")
        key(axis, "network", **DASHES)
    depth = min(w.exact.min() for w in wells)
    axis.set(title=title, xlabel="x", ylabel="(u(x, t) − u(0, t)) / β")
    axis.set_ylim(1.1 * min(depth, -0.1), max(0.8 * abs(depth), 1.1))
    axis.legend(fontsize=8, loc="upper center", ncols=2)


def _branches(axis: Axes, result: line.Result) -> None:
    b, n, interval = result.branches, result.network_branches, result.pooled[0].interval
    hollow: dict[str, Any] = {"facecolors": "none", "edgecolors": BLUE}
    axis.scatter(b.theta[b.stable], b.x[b.stable], s=16, color=BLUE, label="exact, stable")
    axis.scatter(b.theta[~b.stable], b.x[~b.stable], s=16, label="exact, unstable", **hollow)
    for name, at, marker, size in (("stable", n.stable, "x", 12), ("unstable", ~n.stable, "+", 20)):
        axis.scatter(n.theta[at], n.x[at], s=size, marker=marker, linewidths=0.8, color=RED, label=f"network, {name}")
    axis.axvline(result.theta_c, color=BLUE, linewidth=1, label=f"exact θ_c = {result.theta_c:.4f}")
    if interval is not None:
        low, high = (1 / np.sqrt(1 + sigma**2) for sigma in reversed(interval))
        axis.axvspan(low, high, color=RED, alpha=0.15, label=f"networks' θ_c, {low:.3f} to {high:.3f} (95%)")
    axis.set(title="Fixed points of the reverse SDE", xlabel="θ: scale of the data, noise falls to the right")
    axis.set(ylabel="x*", xlim=(0.08, 1.0), ylim=(-1.25, 1.25))
    axis.legend(fontsize=8, loc="upper left")


def _paths(axis: Axes, result: line.Result) -> None:
    b = result.branches
    for states in result.paths.x[:, :SHOWN, 0].numpy().T:
        axis.plot(result.paths.t, states, color=RED if states[-1] > 0 else BLUE, linewidth=0.5, alpha=0.6)
    t = np.array([NOISE.time(sigma_of(theta)) for theta in b.theta])
    axis.scatter(t[b.stable], b.x[b.stable], s=7, color="black", zorder=3, label="exact stable fixed points")
    level_line(axis, result.exact.t, f"t_c = {result.exact.t:.4f}")
    axis.set(title="The network's paths, coloured by their end", xlabel="t: the process runs to the right", ylabel="x")
    axis.set(xlim=(result.paths.t[0], 0), ylim=(-3.2, 3.2))
    axis.legend(fontsize=8, loc="upper left")


def spheres(result: ball.Result, folder: Path) -> Report:
    """Draw critical levels, branches, the potential and norms; return a row for each number of dimensions."""
    made, axes = figure(2, 2, (13, 9.5))
    settings, dim = result.settings, result.drawn.dim
    _critical(axes[0, 0], axes[0, 1], result)
    _wells(axes[1, 0], result.wells, f"Potential along a line through the centre, d = {dim}")
    _norms(axes[1, 1], result)
    made.suptitle(f"Uniform on a sphere of radius r = {settings.radius:g} in d dimensions")
    save(made, folder / "sphere.png")
    levels = table(
        "Critical level by root finding, and sqrt(L² + 1) − L",
        "d", "L = r² / d", "alpha_bar_c", "closed form", "off by",
    )  # fmt: skip
    for c in map(ball.Case.record, result.cases):
        found = (f"{c['alpha_bar']:.6f}", f"{c['closed_form']:.6f}", f"{c['off_by']:.0e}")
        levels.add_row(str(c["dim"]), f"{c['top_eigenvalue']:.4g}", *found)
    facts = {"radius": settings.radius, "paths": settings.samples, "seed": settings.seed}
    return _report("Uniform on a sphere", facts, [levels], [], "sphere.png")


def _critical(above: Axes, beside: Axes, result: ball.Result) -> None:
    """The critical levels over the dimensions, and the radii of the spheres of fixed points."""
    dims = result.settings.dims
    grid = np.geomspace(min(dims) / 2, max(dims) * 2, 100)
    closed = [ball.closed_form(d, result.settings.radius) for d in grid]
    above.plot(grid, closed, color=GREY, label="√(L² + 1) − L,  L = r² / d")
    for color, c in _by_time(result.cases):
        above.plot(c.dim, c.level.alpha_bar, "o", color=color, label=f"d = {c.dim}: {c.level.alpha_bar:.5f}")
        beside.plot(c.theta, c.length, color=color, label=f"d = {c.dim}")
        beside.axvline(np.sqrt(c.level.alpha_bar), color=color, linestyle=":", linewidth=1)
    above.set(title="Critical level, by root finding", xlabel="dimensions d", ylabel="critical ᾱ", xscale="log")
    beside.set(title="Radius of the sphere of fixed points", ylabel="|x*|", xlim=(0, 1))
    beside.set_xlabel("θ: scale of the data, noise falls to the right (dotted: critical)")
    for axis in (above, beside):
        axis.legend(fontsize=8)


def _norms(axis: Axes, result: ball.Result) -> None:
    t, drawn = result.paths.t, result.drawn
    parts = ((ball.norms, BLUE, "|x| of a path"), (ball.along_outcome, RED, "x in the direction of its own sample"))
    for part, color, label in parts:
        axis.plot(t, part(result.paths)[:, :SHOWN].numpy(), color=color, linewidth=0.4, alpha=0.5)
        key(axis, label, color)
    expected = [np.sqrt(ball.expected_square(time, drawn)) for time in t.tolist()]
    axis.plot(t, expected, color="black", label="√(ᾱ r² + (1 − ᾱ) d)")
    level_line(axis, drawn.level.t, "critical t")
    title, xlabel = f"Paths of the reverse SDE, d = {drawn.dim}", "t: the process runs to the right"
    axis.set(title=title, xlabel=xlabel, xlim=(t[0], 0))
    axis.legend(fontsize=8, loc="lower right")


def potentials(result: between.Result, folder: Path) -> Report:
    """Draw the potentials as a family by time, a panel for each curve and model; return the levels of the middle."""
    made, axes = figure(2, len(result.sides), (6.5 * len(result.sides) + 1, 10))
    levels = table(
        "Where the middle between two samples is a minimum of the potential",
        "model", "curve", "pairs", "begin so", "down to t", left=("model", "curve"),
        caption="median over the pairs that begin so, and the central 80% of them",
    )  # fmt: skip
    for column, (model, side) in zip(axes.T, result.sides.items()):
        for axis, family in zip(column, side.families):
            level = family.record()["middle_stops_being_a_minimum"]
            down_to = "for none it ends" if level is None else spread(Estimate(level["t"], *level["interval_t"]), ".0f")
            begins = f"{family.begins_as_well:.0%}"
            levels.add_row(model, family.curve, str(family.margins.shape[1]), begins, down_to)
            found = "for no pair does the middle stop being a minimum"
            if level is not None:
                found = f"the middle is a minimum down to t ≈ {level['t']:.0f} (median of the pairs that begin so)"
            axis.set_title(f"{model}, {family.curve} curve\n{found}", fontsize=10)
            _family(axis, side, family)
    made.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", title="noise falls", fontsize=9)
    own = f"the network {result.model}, and the exact point cloud of {result.images} images"
    made.suptitle(f"Potential between two samples of each model's own: {own}")
    save(made, folder / "potential.png")
    facts = {"model": Path(result.model).name, "images": result.images, "samples": result.samples, "seed": result.seed}
    return _report(f"Potential between samples: {facts['model']}", facts, [levels], [], "potential.png")


def _family(axis: Axes, side: between.Side, family: between.Family) -> None:
    for color, (p, shape) in _by_time(list(zip(family.profiles, family.shapes))):
        axis.plot(p.position, shape, color=color, label=f"t = {p.t:.0f}")
    low, high = family.profiles[0].position[[0, -1]]
    for share, image in zip((between.BEYOND, 1 + between.BEYOND), side.ends):
        place = share / (1 + 2 * between.BEYOND)
        axis.axvline(low + (high - low) * place, color=GREY, linestyle=":", linewidth=1)
        inset = axis.inset_axes((place - 0.07, 0.84, 0.14, 0.14))
        inset.imshow(shown(image), cmap="gray", vmin=0, vmax=1)
        inset.set(xticks=[], yticks=[])
    axis.set(xlabel="a", ylabel="(u − u in the middle) / range", ylim=(-1.1, 1.45))
