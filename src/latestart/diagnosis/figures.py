"""The figures and the table of `latestart analyze`. Everything is drawn as it was handed over; nothing is computed.

To add a figure, write a function that draws one of its panels over t, under `panels`, and name it in `draw`.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table

from latestart.diagnosis.analyze import BOTH, Analysis, BranchCurve
from latestart.diagnosis.case import CLOUD, DATA, NETWORK
from latestart.diagnosis.criteria import Finding
from latestart.lab.drawing import figure, save
from latestart.lab.report import table
from latestart.noise import when

__all__ = ["draw", "levels_table"]

COLORS = {NETWORK: "#c1440e", CLOUD: "#1f5fa8", DATA: "#4d4d4d"}
NAMES = {NETWORK: "network", CLOUD: "point cloud (exact)", DATA: "images"}
TITLES = {"density": "density: c = 1", "sde": r"sde: c = (1 + $\bar\alpha$) / 2"}
CURVES = {
    "clone": ("Clones of one path end in one class", "share"),
    "uturn": ("Noised to t and denoised: class changed", "share"),
    "susceptibility": ("Response of the sample to a push of the state", "mean square response"),
    "correlation": ("Correlation of the state with the sample", "correlation"),
    "pixels": ("Correlation of a pixel with its final value", "correlation"),
}
ACROSS = 3  # panels in a row
VECTORS = 7  # fixed points shown of a branch
Panel = Callable[[Axes, Analysis, Any], dict[str, Any]]
Drawn = Callable[[Analysis], Figure | None]


def draw(analysis: Analysis, folder: str | Path) -> list[Path]:
    """Draw every figure that there is something for; returns the files written."""
    figures = (eigenvalues, eigenvectors, spectrum, asymmetry, exponents, decisions, pixels, nats, levels)
    written = []
    for function in figures:
        if (made := function(analysis)) is not None:
            written.append(Path(folder) / f"{function.__name__}.png")
            save(made, written[-1], dpi=130)
    return written


def panels(
    title: str, size: tuple[float, float], keys: Callable[[Analysis], Iterable[Any]], scaled: bool = False
) -> Callable[[Panel], Drawn]:
    """Return a decorator that makes a figure of a function that draws one panel over t, noise falling to the right.

    The function receives an axis, the analysis and the key of a panel, and returns what `Axes.set` takes.

    Args:
        title: of the figure, which may name what `about` of the analysis has.
        size: of a panel in inches.
        keys: returns those of the panels; without any there is no figure.
        scaled: whether all panels have one scale, from 0.
    """

    def made(panel: Panel) -> Drawn:
        @functools.wraps(panel)
        def drawn(analysis: Analysis) -> Figure | None:
            known = list(keys(analysis))
            if not known:
                return None
            columns = min(ACROSS, len(known))
            rows = -(-len(known) // columns)
            whole, axes = figure(rows, columns, (size[0] * columns, size[1] * rows), sharey=scaled)
            for axis, key in zip(axes.flat, known):
                _over_time(axis, **panel(axis, analysis, key))
                if axis.get_legend_handles_labels()[0]:  # outside: it hides nothing
                    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, fontsize=8)
            for axis in axes.flat[len(known) :]:
                axis.axis("off")
            if scaled:
                axes[0][0].set_ylim(bottom=0)  # last: it ends the scaling of all
            whole.suptitle(title.format(**analysis.about), fontsize=11)
            return whole

        return drawn

    return made


def _over_time(axis: Axes, **labels: Any) -> None:
    axis.set(xlabel="t (scheduler); generation runs to the right", **labels)
    axis.grid(alpha=0.25)
    axis.invert_xaxis()


def _band(axis: Axes, t: list[float], value: np.ndarray, around: np.ndarray, of: str, more: str = "") -> None:
    """Draw the curve of a subject with a band about it."""
    axis.plot(t, value, color=COLORS[of], lw=2, marker="o", ms=3, label=NAMES[of] + more)
    axis.fill_between(t, value - around, value + around, color=COLORS[of], alpha=0.15, lw=0)


def _line(axis: Axes, *heights: float, color: str = "0.6") -> None:
    for height in heights:
        axis.axhline(height, color=color, lw=0.9, ls="--")


# --- branches ---------------------------------------------------------------------------------------------------------


@panels(
    "Stability of the central branch, D(y) = c y: unstable above 1\n"
    "the network and the point cloud of {images:,} images",
    (6.4, 5.6), lambda analysis: dict.fromkeys(criterion for criterion, _ in analysis.branches), scaled=True,
)  # fmt: skip
def eigenvalues(axis: Axes, analysis: Analysis, criterion: str) -> dict[str, Any]:
    """Draw the leading eigenvalue over c along the central branch, of the network and of the point cloud."""
    _line(axis, 1)
    for k, half in enumerate(analysis.halves.get(criterion, [])):
        label = "random halves of the images" if k == 0 else None
        axis.plot(half.t, half.ratio, color=COLORS[CLOUD], lw=0.8, alpha=0.35, label=label)
    for of in (CLOUD, NETWORK):
        if (criterion, of) in analysis.branches:
            _branch(axis, analysis.branches[criterion, of], of)
    for f in analysis.findings:
        if f.criterion == criterion and f.t:
            ratio = 1.0 if f.ratio is None else f.ratio
            label = f"{f.kind}, {f.of}: {ratio:.3f} at t = {when(f.t)}"
            axis.plot(f.t, ratio, "o", color=COLORS[f.of], label=label, ms=10, mfc="none", mew=1.5, zorder=3)
    ticks = [t for t in axis.get_xticks() if min(axis.get_xlim()) <= t <= max(axis.get_xlim())]
    upper = axis.secondary_xaxis("top")  # the same levels as sigma
    upper.set_xticks(ticks, [f"{analysis.case.noise.sigma(float(t)):.2g}" for t in ticks], fontsize=8)
    upper.set_xlabel("sigma", fontsize=8)
    return {"title": TITLES[criterion], "ylabel": "leading eigenvalue of dD/dy over c"}


def _branch(axis: Axes, curve: BranchCurve, of: str) -> None:
    """Draw the central branch as a line, and the points after each break of it dotted."""
    labels = [NAMES[of], f"{of}, after a break of its branch"]
    for segment in sorted(set(curve.segment)):
        t, ratio = zip(*((t, r) for t, r, s in zip(curve.t, curve.ratio, curve.segment) if s == segment))
        style: dict[str, Any] = {"lw": 1.2, "ls": ":"} if segment else {"lw": 2}
        axis.plot(t, ratio, marker="o", ms=3, color=COLORS[of], label=dict(enumerate(labels)).get(segment), **style)


def _asymmetries(analysis: Analysis) -> dict[str, BranchCurve]:
    return {
        c: b for (c, of), b in analysis.branches.items() if of == NETWORK and any(a is not None for a in b.asymmetry)
    }


@panels(
    "Asymmetry of the network's Jacobian at its fixed points (0 for an exact denoiser)",
    (7, 4.4), lambda analysis: ["network"] if _asymmetries(analysis) else [], scaled=True,
)  # fmt: skip
def asymmetry(axis: Axes, analysis: Analysis, _: Any) -> dict[str, Any]:
    """Draw how far the Jacobian of the network is from that of a gradient."""
    for (criterion, curve), style in zip(_asymmetries(analysis).items(), ("-", "--")):
        axis.plot(
            curve.t,
            np.array(curve.asymmetry, dtype=float),
            style,
            marker="o",
            ms=3,
            color=COLORS[NETWORK],
            label=criterion,
        )
    return {"ylabel": r"$|J - J^T|\, /\, |J + J^T|$"}


def spectrum(analysis: Analysis) -> Figure | None:
    """Draw the leading eigenvalues against the level, for each branch, and their vectors where the first is highest."""
    if not analysis.spectra:
        return None
    most = max(curve.ratio.shape[1] for curve in analysis.spectra.values())
    size = (5 + 1.1 * most, 2.6 * len(analysis.spectra) + 0.6)
    made, axes = figure(len(analysis.spectra), 1 + most, size, width_ratios=[4.5] + [1] * most)
    for row, ((criterion, of), curve) in zip(axes, analysis.spectra.items()):
        _line(row[0], 1)
        for k, ratio in enumerate(curve.ratio.T):
            row[0].plot(curve.t, ratio, color=COLORS[of], lw=2 if k == 0 else 0.9, alpha=1 if k == 0 else 0.7)
        row[0].axvline(curve.at, color="0.6", lw=0.8, ls=":")
        _over_time(row[0], ylabel="eigenvalues over c", title=f"{NAMES[of]}, {TITLES[criterion]}", ylim=(0, None))
        for axis in row[1:]:
            axis.axis("off")
        if _is_picture(curve.vectors.shape[1:]):
            for axis, vector, ratio in zip(row[1:], curve.vectors.numpy(), curve.ratio[curve.t.index(curve.at)]):
                _show_vector(axis, vector, ratio)
    made.suptitle("The leading eigenvalues along the central branch; their vectors at the dotted line", fontsize=11)
    return made


def eigenvectors(analysis: Analysis) -> Figure | None:
    """Draw fixed points and leading eigenvectors as pictures, at levels spread over the branch."""
    rows = [(c, of, curve) for (c, of), curve in analysis.branches.items() if _is_picture(curve.points[0].point.shape)]
    if not rows:
        return None
    made, axes = figure(2 * len(rows), VECTORS, (1.35 * VECTORS + 1.2, 1.62 * 2 * len(rows) + 0.6))
    for points, vectors, (criterion, of, curve) in zip(axes[::2], axes[1::2], rows):
        shown = np.linspace(0, len(curve.points) - 1, VECTORS).round().astype(int)
        for above, below, j in zip(points, vectors, shown):
            here = curve.points[j]
            image = here.point.cpu().numpy()
            scaled = (image - image.min()) / max(float(image.max() - image.min()), 1e-12)
            above.imshow(scaled[0] if len(scaled) == 1 else np.moveaxis(scaled, 0, -1), cmap="gray")
            above.set_title(f"t = {when(curve.t[j])}", fontsize=8)
            _show_vector(below, here.spectrum.vectors[0].real.cpu().numpy(), here.ratio)
        points[0].set_ylabel(f"{criterion}\n{of}\nfixed point", fontsize=8)
        vectors[0].set_ylabel("leading\neigenvector,\neigenvalue / c", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    made.suptitle("The central branch and the direction in which it is about to break", fontsize=10)
    return made


def _is_picture(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3)


def _show_vector(axis: Axes, vector: np.ndarray, ratio: float) -> None:
    """Draw an eigenvector `(C, H, W)`, channels averaged, its largest entry positive, with its eigenvalue over c."""
    mean = (vector * np.sign(vector.flat[np.abs(vector).argmax()])).mean(0)
    mean = mean / max(float(np.abs(mean).max()), 1e-12)
    axis.imshow(mean, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_title(f"{ratio:.2f}", fontsize=8)


# --- along paths, and of the images -----------------------------------------------------------------------------------


@panels(
    "Along sample paths (band: one deviation over samples); neighbours separate above 1",
    (6, 4.6), lambda analysis: BOTH if analysis.case.exponents else (),
)  # fmt: skip
def exponents(axis: Axes, analysis: Analysis, criterion: str) -> dict[str, Any]:
    """Draw the leading eigenvalue over c along sample paths, with its spread."""
    _line(axis, 1)
    for of, exponents in analysis.case.exponents.items():
        ratio = exponents.under(criterion).ratio  # type: ignore[arg-type]
        _band(axis, analysis.case.times(exponents.sigma), ratio.mean(1), ratio.std(1), of, ": mean")
    return {"title": TITLES[criterion], "ylabel": "leading eigenvalue of dD/dy over c"}


@panels(
    "When samples are decided (bands: two standard errors; dashed: thresholds)",
    (4.6, 3.9), lambda analysis: dict.fromkeys(name for name, _ in analysis.case.curves if name in CURVES),
)  # fmt: skip
def decisions(axis: Axes, analysis: Analysis, name: str) -> dict[str, Any]:
    """Draw a curve over samples with two standard errors, and the line at which its level is read."""
    for of in (CLOUD, NETWORK):
        if (curve := analysis.case.curves.get((name, of))) is not None:
            _band(axis, analysis.case.times(curve.sigma), curve.value.numpy(), 2 * curve.error.numpy(), of)
            if curve.threshold is not None:
                _line(axis, curve.threshold, color=COLORS[of])
    return dict(zip(("title", "ylabel"), CURVES[name]))


@panels(
    "Normalised trajectories of the value that varies most (coloured by where they end)",
    (6, 4), lambda analysis: analysis.case.swarms,
)  # fmt: skip
def pixels(axis: Axes, analysis: Analysis, of: str) -> dict[str, Any]:
    """Draw the value of one pixel along paths, in units of its spread over paths."""
    swarm = analysis.case.swarms[of]
    for path in swarm.values.T[:40]:
        color = colormaps["coolwarm"](0.5 + 0.35 * np.clip(path[-1], -1.4, 1.4))
        axis.plot(analysis.case.times(swarm.sigma), path, lw=0.8, color=color)
    return {"title": f"{NAMES[of]}, value {swarm.pixel}", "ylabel": "deviations from the mean over paths"}


@panels(
    "Divergence of the noised data from the Gaussian of the images",
    (6.4, 4.8), lambda analysis: ["network"] if analysis.case.nats else [],
)  # fmt: skip
def nats(axis: Axes, analysis: Analysis, _: Any) -> dict[str, Any]:
    """Draw the divergence of the noised data from the prior, at every level."""
    for of, curve in analysis.case.nats.items():
        t = analysis.case.times(curve.sigma)
        _band(axis, t, curve.nats.numpy(), 2 * curve.error.numpy(), of, " (a lower bound)" if of == NETWORK else "")
        if worse := [time for time, bad in zip(t, curve.worse.tolist()) if bad]:
            label = "worse than the prior's own denoiser"
            axis.plot(worse, [1e-3] * len(worse), "x", color=COLORS[of], label=label)
    _line(axis, 0.5, 1, 2)
    return {"ylabel": "nats", "yscale": "log", "ylim": (5e-4, 100)}


def _found(analysis: Analysis) -> list[tuple[Finding, float]]:
    return [(finding, finding.t) for finding in analysis.findings if finding.t is not None]


@panels(
    "Critical levels by criterion, with intervals (open circles: peaks)",
    (8, 6), lambda analysis: ["all"] if _found(analysis) else [],
)  # fmt: skip
def levels(axis: Axes, analysis: Analysis, _: Any) -> dict[str, Any]:
    """Draw all levels on one axis, by criterion."""
    found, shift = _found(analysis), {NETWORK: -0.16, CLOUD: 0.16, DATA: 0.0}
    names = list(dict.fromkeys(f.criterion for f, _ in found))
    for f, t in found:
        y, color = names.index(f.criterion) + shift[f.of], COLORS[f.of]
        if f.interval is not None:
            axis.plot(f.interval, (y, y), color=color, lw=2, alpha=0.5)
        axis.plot(t, y, "o", color=color, mfc="white" if f.kind == "peak" else color, ms=6)
    for of in dict.fromkeys(f.of for f, _ in found):
        axis.plot([], [], "o", color=COLORS[of], label=NAMES[of])
    axis.set_yticks(range(len(names)), names)
    return {"ylim": (len(names) - 0.5, -0.5)}


def levels_table(analysis: Analysis) -> Table:
    """Return a row for each criterion: t with its interval of the point cloud and the network, or why there is none."""
    reasons = [f"{f.criterion}, {f.of}: {f.how}" for f in analysis.findings if f.level is None]
    about = "peak: nothing is crossed, its height stands before it; speciation and collapse are of the images"
    made = table(
        r"Critical levels, t of the scheduler \[interval]", "criterion", "point cloud", "network",
        left=("criterion",), caption=escape("\n".join([about, *reasons])),
    )  # fmt: skip
    made.caption_justify = "left"
    for name in dict.fromkeys(f.criterion for f in analysis.findings):
        cells = {f.of: escape(_cell(f)) for f in analysis.findings if f.criterion == name}
        made.add_row(name, cells.get(CLOUD, cells.get(DATA, "")), cells.get(NETWORK, ""))
    return made


def _cell(finding: Finding) -> str:
    if finding.t is None:
        return "not found"
    told = when(finding.t)
    if finding.interval is not None:
        told += f" [{when(finding.interval[0])}, {when(finding.interval[1])}]"
    told = told if finding.kind in ("level", "crossing") else f"{finding.kind} {told}"
    return told if finding.ratio is None else f"{finding.ratio:.3f}: {told}"
