"""The pages of two points on a line, of spheres, and of the potential between samples."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from latestart.evaluation.quality import Estimate
from latestart.experiments.theory import one_dimension as line
from latestart.experiments.theory import potential as between
from latestart.experiments.theory import sphere as ball
from latestart.lab.drawing import GREY, figure, save
from latestart.lab.report import Report, machine_kind, spread, table

__all__ = ["one_dimension", "potentials", "spheres"]

BLUE, RED = "#2166ac", "#b2182b"
SHOWN = 40  # paths


def one_dimension(result: line.Result, folder: Path) -> Report:
    """Draw potentials around the critical time, fixed points against theta, and paths; return the levels in words."""
    made, axes = figure(1, 3, (16, 5))
    _wells(axes[0, 0], result)
    _branches(axes[0, 1], result)
    _paths(axes[0, 2], result)
    made.suptitle("Two points at ±1: the exact model, and a network that has learned them")
    save(made, folder / "one-dimension.png")
    figures = result.record()
    exact, network = figures["exact"], figures["network"]["at_symmetry"]
    interval, seeds = network["interval_t"], len(figures["network"]["seeds"])
    within = "" if interval is None else f", 95% interval [{interval[0]:.4f}, {interval[1]:.4f}] over {seeds} seeds"
    lines = [
        f"exact: theta_c = {exact['theta']:.5f}, t_c = {exact['t']:.5f} of 1, exponent {figures['exponent']:.4f}",
        f"networks: t_c = {network['t']:.4f} at the point of symmetry{within}",
        f"networks: a second well exists below t = {figures['network']['second_well']['t']:.4f}",
    ]
    facts = {"networks": seeds, "steps of each": result.training.steps, "paths": figures["paths"], "seed": result.seed}
    return _report("Two points at ±1", facts, [], lines, "one-dimension.png")


def _report(title: str, facts: dict[str, Any], tables: Sequence[Any], lines: Sequence[str], *pictures: str) -> Report:
    """The report of what is computed in float64 on the processor."""
    return Report(title, facts, tables, lines, pictures, machine=machine_kind(accelerated=False))


def _wells(axis: Axes, result: line.Result) -> None:
    for color, w in zip(_colors(len(result.wells)), result.wells):
        axis.plot(w.x, w.exact, color=color, label=f"t = {w.t:.3f}, θ = {w.theta:.2f}")
        axis.plot(w.x, w.network, color=color, linestyle=(0, (4, 2)), linewidth=1.2)
    axis.plot([], [], color=GREY, label="exact")
    axis.plot([], [], color=GREY, linestyle=(0, (4, 2)), label="network")
    axis.set(title="Potential: one well becomes two", xlabel="x", ylabel="(u(x, t) − u(0, t)) / β")
    depth = min(w.exact.min() for w in result.wells)
    axis.set_ylim(1.1 * min(depth, -0.1), max(0.7 * abs(depth), 1.1))
    axis.legend(fontsize=8, loc="upper center", ncols=2)


def _branches(axis: Axes, result: line.Result) -> None:
    at_symmetry = result.pooled[0]
    b, n = result.branches, result.network_branches
    axis.scatter(b.theta[b.stable], b.x[b.stable], s=16, color=BLUE, label="exact, stable")
    axis.scatter(b.theta[~b.stable], b.x[~b.stable], s=16, facecolors="none", edgecolors=BLUE, label="exact, unstable")
    axis.scatter(n.theta[n.stable], n.x[n.stable], s=12, marker="x", linewidths=0.8, color=RED, label="network, stable")
    axis.scatter(
        n.theta[~n.stable], n.x[~n.stable], s=20, marker="+", linewidths=0.8, color=RED, label="network, unstable"
    )
    axis.axvline(result.theta_c, color=BLUE, linewidth=1, label=f"exact θ_c = {result.theta_c:.4f}")
    if at_symmetry.interval is not None:
        low, high = (1 / np.sqrt(1 + sigma**2) for sigma in reversed(at_symmetry.interval))
        axis.axvspan(low, high, color=RED, alpha=0.15, label=f"networks' θ_c, {low:.3f} to {high:.3f} (95%)")
    axis.set(title="Fixed points of the reverse SDE", xlabel="θ: scale of the data, noise falls to the right")
    axis.set(ylabel="x*", xlim=(0.08, 1.0), ylim=(-1.25, 1.25))
    axis.legend(fontsize=8, loc="upper left")


def _paths(axis: Axes, result: line.Result) -> None:
    x = result.paths.x[:, :SHOWN, 0].numpy()
    for states in x.T:
        axis.plot(result.paths.t, states, color=RED if states[-1] > 0 else BLUE, linewidth=0.5, alpha=0.6)
    b = result.branches
    t = np.array([line.NOISE.time(np.sqrt(1 - theta**2) / theta) for theta in b.theta])
    axis.scatter(t[b.stable], b.x[b.stable], s=7, color="black", zorder=3, label="exact stable fixed points")
    assert result.exact.t is not None
    axis.axvline(result.exact.t, color="black", linestyle="--", linewidth=1, label=f"t_c = {result.exact.t:.4f}")
    axis.set(title="The network's paths, coloured by their end", xlabel="t: the process runs to the right", ylabel="x")
    axis.set(xlim=(result.paths.t[0], 0), ylim=(-3.2, 3.2))
    axis.legend(fontsize=8, loc="upper left")


def spheres(result: ball.Result, folder: Path) -> Report:
    """Draw critical levels, branches, the potential and norms; return a row for each number of dimensions."""
    made, axes = figure(2, 2, (13, 9.5))
    for axis, panel in zip(axes.flat, (_critical, _radii, _profiles, _norms)):
        panel(axis, result)
    made.suptitle(f"Uniform on a sphere of radius r = {result.radius:g} in d dimensions")
    save(made, folder / "sphere.png")
    figures = result.record()
    levels = table(
        "Critical level by root finding, and sqrt(L² + 1) − L",
        "d", "L = r² / d", "alpha_bar_c", "closed form", "off by",
    )  # fmt: skip
    for c in figures["cases"]:
        found = (f"{c['alpha_bar']:.6f}", f"{c['closed_form']:.6f}", f"{c['off_by']:.0e}")
        levels.add_row(str(c["dim"]), f"{c['top_eigenvalue']:.4g}", *found)
    facts = {"radius": result.radius, "paths": figures["paths"], "seed": result.seed}
    return _report("Uniform on a sphere", facts, [levels], [], "sphere.png")


def _critical(axis: Axes, result: ball.Result) -> None:
    dims = [c.dim for c in result.cases]
    grid = np.geomspace(min(dims) / 2, max(dims) * 2, 100)
    axis.plot(grid, [ball.closed_form(d, result.radius) for d in grid], color=GREY, label="√(L² + 1) − L,  L = r² / d")
    for color, c in zip(_colors(len(dims)), result.cases):
        axis.plot(c.dim, c.level.alpha_bar, "o", color=color, label=f"d = {c.dim}: {c.level.alpha_bar:.5f}")
    axis.set(title="Critical level, by root finding", xlabel="dimensions d", ylabel="critical ᾱ", xscale="log")
    axis.legend(fontsize=8)


def _radii(axis: Axes, result: ball.Result) -> None:
    for color, c in zip(_colors(len(result.cases)), result.cases):
        axis.plot(c.theta, c.length, color=color, label=f"d = {c.dim}")
        axis.axvline(np.sqrt(c.level.alpha_bar), color=color, linestyle=":", linewidth=1)
    axis.set(title="Radius of the sphere of fixed points", ylabel="|x*|", xlim=(0, 1))
    axis.set_xlabel("θ: scale of the data, noise falls to the right (dotted: critical)")
    axis.legend(fontsize=8)


def _profiles(axis: Axes, result: ball.Result) -> None:
    for color, p in zip(_colors(len(result.profiles)), result.profiles):
        axis.plot(p.radius, p.value, color=color, label=f"t = {p.t:.3f}, θ = {p.theta:.2f}")
    depth = min(p.value.min() for p in result.profiles)
    axis.set(title=f"Potential along a line through the centre, d = {result.drawn.dim}", xlabel="x along the line")
    axis.set(ylabel="(u(x, t) − u(0, t)) / β", ylim=(1.1 * min(depth, -0.1), max(0.8 * abs(depth), 0.1)))
    axis.legend(fontsize=8, loc="upper center", ncols=2)


def _norms(axis: Axes, result: ball.Result) -> None:
    t, dim = result.paths.t, result.drawn.dim
    axis.plot(t, ball.norms(result.paths)[:, :SHOWN].numpy(), color=BLUE, linewidth=0.4, alpha=0.5)
    axis.plot(t, ball.along_outcome(result.paths)[:, :SHOWN].numpy(), color=RED, linewidth=0.4, alpha=0.5)
    expected = [np.sqrt(ball.expected_square(time, dim, result.radius)) for time in t.tolist()]
    axis.plot(t, expected, color="black", label="√(ᾱ r² + (1 − ᾱ) d)")
    axis.plot([], [], color=BLUE, label="|x| of a path")
    axis.plot([], [], color=RED, label="x in the direction of its own sample")
    assert result.drawn.level.t is not None
    axis.axvline(result.drawn.level.t, color="black", linestyle="--", linewidth=1, label="critical t")
    axis.set(title=f"Paths of the reverse SDE, d = {dim}", xlabel="t: the process runs to the right", xlim=(t[0], 0))
    axis.legend(fontsize=8, loc="lower right")


def potentials(result: between.Result, folder: Path) -> Report:
    """Draw the potentials as a family by time, a panel for each curve and model; return the levels of the middle."""
    made, axes = figure(2, len(result.sides), (6.5 * len(result.sides) + 1, 10))
    for column, side in enumerate(result.sides):
        for row, family in enumerate(side.families):
            _family(axes[row, column], side, family)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    made.legend(handles, labels, loc="outside right upper", title="noise falls", fontsize=9)
    own = f"the network {result.model}, and the exact point cloud of {result.count} images"
    made.suptitle(f"Potential between two samples of each model's own: {own}")
    save(made, folder / "potential.png")
    figures = result.record()
    levels = table(
        "Where the middle between two samples is a minimum of the potential",
        "model", "curve", "pairs", "begin so", "down to t", left=("model", "curve"),
        caption="median over the pairs that begin so, and the central 80% of them",
    )  # fmt: skip
    for model, side in figures["sides"].items():
        for kind, family in side.items():
            begins = f"{family['begins_as_well']:.0%}"
            levels.add_row(model, kind, str(family["pairs"]), begins, _level(family["middle_stops_being_a_minimum"]))
    name = Path(result.model).name
    facts = {"model": name, **{fact: figures[fact] for fact in ("images", "samples", "seed")}}
    return _report(f"Potential between samples: {name}", facts, [levels], [], "potential.png")


def _level(level: dict[str, Any] | None) -> str:
    if level is None:
        return "for none it ends"
    return spread(Estimate(level["t"], *level["interval_t"]), ".0f")


def _family(axis: Axes, side: between.Side, family: between.Family) -> None:
    for color, p, shape in zip(_colors(len(family.profiles)), family.profiles, family.shapes):
        axis.plot(p.position, shape, color=color, label=f"t = {p.t:.0f}")
    low, high = family.profiles[0].position[[0, -1]]
    ends = low + (high - low) * np.array([between.BEYOND, 1 + between.BEYOND]) / (1 + 2 * between.BEYOND)
    for end, image in zip(ends, side.ends):
        axis.axvline(end, color=GREY, linestyle=":", linewidth=1)
        _thumbnail(axis, (end - low) / (high - low), image)
    level = family.level
    found = "for no pair does the middle stop being a minimum"
    if level is not None:
        found = f"the middle is a minimum down to t ≈ {level.t:.0f} (median of the pairs that begin so)"
    axis.set_title(f"{side.name}, {family.curve} curve\n{found}", fontsize=10)
    axis.set(xlabel="a", ylabel="(u − u in the middle) / range", ylim=(-1.1, 1.45))


def _thumbnail(axis: Axes, x: float, image: Any) -> None:
    inset = axis.inset_axes((x - 0.07, 0.84, 0.14, 0.14))
    pixels = (image.float().clamp(-1, 1) / 2 + 0.5).permute(1, 2, 0).squeeze(-1).numpy()
    inset.imshow(pixels, cmap="gray", vmin=0, vmax=1)
    inset.set(xticks=[], yticks=[])


def _colors(count: int) -> Sequence[Any]:
    """From high noise, yellow, to low, dark; the palest yellow is left out, for it hides on white."""
    return [plt.get_cmap("viridis")(0.9 * (1 - k / max(count - 1, 1))) for k in range(count)]
