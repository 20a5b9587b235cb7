"""The figures and the table of `latestart analyze`. Everything is drawn as it was handed over; nothing is computed."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.box import SIMPLE
from rich.table import Table

from latestart.diagnosis.analyze import BOTH, Analysis, BranchCurve
from latestart.diagnosis.case import CLOUD, DATA, NETWORK
from latestart.diagnosis.criteria import Finding
from latestart.files import replacing
from latestart.noise import when

__all__ = ["draw", "levels_table"]

COLOURS = {NETWORK: "#c1440e", CLOUD: "#1f5fa8", DATA: "#4d4d4d"}
NAMES = {NETWORK: "network", CLOUD: "point cloud (exact)", DATA: "images"}
TITLES = {"density": "density: c = 1", "sde": r"sde: c = (1 + $\bar\alpha$) / 2"}
TIME = "t (scheduler); generation runs to the right"


def draw(analysis: Analysis, folder: str | Path) -> list[Path]:
    """Draw every figure that there is something for; returns the files written."""
    figures: tuple[Callable[[Analysis], Figure | None], ...] = (
        eigenvalues, eigenvectors, spectrum, asymmetry, exponents, decisions, pixels, nats, levels
    )  # fmt: skip
    written = []
    for function in figures:
        if (figure := function(analysis)) is None:
            continue
        path = Path(folder) / f"{function.__name__}.png"
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=130, format="png")
        plt.close(figure)
        written.append(path)
    return written


def _frame(axis: Axes, **labels: Any) -> None:
    """Titles and limits of a picture over t, with a grid, noise falling to the right."""
    axis.set(xlabel=TIME, **labels)
    axis.grid(alpha=0.25)
    axis.invert_xaxis()


def _band(axis: Axes, t: list[float], value: np.ndarray, around: np.ndarray, of: str, more: str = "") -> None:
    """The curve of a subject with a band about it."""
    axis.plot(t, value, color=COLOURS[of], lw=2, marker="o", ms=3, label=NAMES[of] + more)
    axis.fill_between(t, value - around, value + around, color=COLOURS[of], alpha=0.15, lw=0)


def eigenvalues(analysis: Analysis) -> Figure | None:
    """The leading eigenvalue over c along the central branch, of the network beside the point cloud's."""
    criteria = [name for name in BOTH if any(criterion == name for criterion, _ in analysis.branches)]
    if not criteria:
        return None
    size = (6.4 * len(criteria), 5.6)
    figure, axes = plt.subplots(1, len(criteria), figsize=size, squeeze=False, sharey=True, layout="constrained")
    for axis, criterion in zip(axes[0], criteria):
        axis.axhline(1, color="0.6", lw=1, ls="--")
        for k, half in enumerate(analysis.halves.get(criterion, [])):
            label = "random halves of the images" if k == 0 else None
            axis.plot(half.t, half.ratio, color=COLOURS[CLOUD], lw=0.8, alpha=0.35, label=label)
        for of in (CLOUD, NETWORK):
            if (criterion, of) in analysis.branches:
                _branch(axis, analysis.branches[criterion, of], of)
                _mark(axis, analysis.findings, criterion, of)
        _frame(axis, title=TITLES[criterion])
        _levels_above(axis, analysis)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=2, fontsize=8)  # outside: it hides nothing
    axes[0][0].set_ylabel(r"leading eigenvalue of dD/dy over c")
    axes[0][0].set_ylim(bottom=0)  # last: it ends the scaling of both axes
    figure.suptitle(
        "Stability of the central branch, D(y) = c y: unstable above 1\n"
        f"the network and the point cloud of {analysis.about['images']:,} images",
        fontsize=11,
    )
    return figure


def _branch(axis: Axes, curve: BranchCurve, of: str) -> None:
    """The central branch drawn through, what the search came to after a break of it dotted."""
    for segment in sorted(set(curve.segment)):
        at = [k for k, s in enumerate(curve.segment) if s == segment]
        t, ratio = [curve.t[k] for k in at], [curve.ratio[k] for k in at]
        first = segment == 0
        label = NAMES[of] if first else (f"{of}, after a break of its branch" if segment == 1 else None)
        style: dict[str, Any] = {"lw": 2, "marker": "o"} if first else {"lw": 1.2, "marker": "o", "ls": ":"}
        axis.plot(t, ratio, color=COLOURS[of], ms=3, label=label, **style)


def _mark(axis: Axes, findings: Sequence[Finding], criterion: str, of: str) -> None:
    for finding in findings:
        if finding.criterion == criterion and finding.of == of and finding.level is not None and finding.level.t:
            ratio = 1.0 if finding.ratio is None else finding.ratio
            label = f"{finding.kind}, {of}: {ratio:.3f} at t = {when(finding.level.t)}"
            style: dict[str, Any] = {"ls": "", "marker": "o", "ms": 10, "mfc": "none", "mew": 1.5, "zorder": 3}
            axis.plot(finding.level.t, ratio, color=COLOURS[of], label=label, **style)


def _levels_above(axis: Axes, analysis: Analysis) -> None:
    """The same levels as sigma, on the upper edge."""
    ticks = [t for t in axis.get_xticks() if min(axis.get_xlim()) <= t <= max(axis.get_xlim())]
    upper = axis.secondary_xaxis("top")
    upper.set_xticks(ticks, [f"{analysis.case.noise.sigma(float(t)):.2g}" for t in ticks], fontsize=8)
    upper.set_xlabel("sigma", fontsize=8)


def spectrum(analysis: Analysis) -> Figure | None:
    """The leading eigenvalues against the level, for each branch, and their vectors where the first is highest."""
    if not analysis.spectra:
        return None
    most = max(curve.ratio.shape[1] for curve in analysis.spectra.values())
    size = (5 + 1.1 * most, 2.6 * len(analysis.spectra) + 0.6)
    figure, axes = plt.subplots(
        len(analysis.spectra), 1 + most, figsize=size, squeeze=False, layout="constrained",
        gridspec_kw={"width_ratios": [4.5] + [1] * most},
    )  # fmt: skip
    for row, ((criterion, of), curve) in zip(axes, analysis.spectra.items()):
        row[0].axhline(1, color="0.6", lw=1, ls="--")
        for k, ratio in enumerate(curve.ratio.T):
            row[0].plot(curve.t, ratio, color=COLOURS[of], lw=2 if k == 0 else 0.9, alpha=1 if k == 0 else 0.7)
        row[0].axvline(curve.at, color="0.6", lw=0.8, ls=":")
        _frame(row[0], ylabel="eigenvalues over c", title=f"{NAMES[of]}, {TITLES[criterion]}", ylim=(0, None))
        for axis in row[1:]:
            axis.axis("off")
        if _is_picture(curve.vectors.shape[1:]):
            at = [abs(t - curve.at) for t in curve.t].index(0)
            for axis, vector, ratio in zip(row[1:], curve.vectors.numpy(), curve.ratio[at]):
                _show_vector(axis, vector, ratio)
    figure.suptitle("The leading eigenvalues along the central branch; their vectors at the dotted line", fontsize=11)
    return figure


def asymmetry(analysis: Analysis) -> Figure | None:
    """How far the network's Jacobian is from that of a gradient."""
    curves = {c: b for (c, of), b in analysis.branches.items() if of == NETWORK and np.isfinite(b.asymmetry).any()}
    if not curves:
        return None
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    for (criterion, curve), style in zip(curves.items(), ("-", "--")):
        axis.plot(curve.t, curve.asymmetry, style, marker="o", ms=3, color=COLOURS[NETWORK], label=criterion)
    _frame(axis, ylabel=r"$|J - J^T|\, /\, |J + J^T|$", ylim=(0, None))
    axis.set_title("Asymmetry of the network's Jacobian at its fixed points (0 for an exact denoiser)", fontsize=10)
    axis.legend(title="criterion")
    return figure


def eigenvectors(analysis: Analysis) -> Figure | None:
    """Fixed points and leading eigenvectors as pictures, at levels spread over the branch."""
    rows = [(c, of, curve) for (c, of), curve in analysis.branches.items() if _is_picture(curve.points[0].point.shape)]
    if not rows:
        return None
    columns = 7
    size = (1.35 * columns + 1.2, 1.62 * 2 * len(rows) + 0.6)
    figure, axes = plt.subplots(2 * len(rows), columns, figsize=size, squeeze=False, layout="constrained")
    for k, (criterion, of, curve) in enumerate(rows):
        shown = np.linspace(0, len(curve.points) - 1, columns).round().astype(int)
        for axis, j in zip(axes[2 * k], shown):
            axis.imshow(_picture(curve.points[j].point.cpu().numpy()), cmap="gray", interpolation="nearest")
            axis.set_title(f"t = {when(curve.t[j])}", fontsize=8)
        for axis, j in zip(axes[2 * k + 1], shown):
            here = curve.points[j]
            _show_vector(axis, here.spectrum.vectors[0].real.cpu().numpy(), here.ratio)
        axes[2 * k][0].set_ylabel(f"{criterion}\n{of}\nfixed point", fontsize=8)
        axes[2 * k + 1][0].set_ylabel("leading\neigenvector,\neigenvalue / c", fontsize=8)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.suptitle("The central branch and the direction in which it is about to break", fontsize=10)
    return figure


def _is_picture(shape: Sequence[int]) -> bool:
    return len(shape) == 3 and shape[0] in (1, 3)


def _picture(image: np.ndarray) -> np.ndarray:
    """`(C, H, W)` for drawing, in [0, 1]."""
    scaled = (image - image.min()) / max(float(image.max() - image.min()), 1e-12)
    return scaled[0] if len(scaled) == 1 else np.moveaxis(scaled, 0, -1)


def _show_vector(axis: Axes, vector: np.ndarray, ratio: float) -> None:
    """An eigenvector `(C, H, W)`, channels averaged, its largest entry positive, with its eigenvalue over c."""
    mean = (vector * np.sign(vector.flat[np.abs(vector).argmax()])).mean(0)
    mean = mean / max(float(np.abs(mean).max()), 1e-12)
    axis.imshow(mean, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    axis.set_title(f"{ratio:.2f}", fontsize=8)


def exponents(analysis: Analysis) -> Figure | None:
    """The leading eigenvalue over c along sample paths, with its spread."""
    along = analysis.case.exponents
    if not along:
        return None
    figure, axes = plt.subplots(1, len(BOTH), figsize=(6 * len(BOTH), 4.3), squeeze=False, layout="constrained")
    for axis, criterion in zip(axes[0], BOTH):
        axis.axhline(1, color="0.6", lw=1, ls="--")
        for of, exponents in along.items():
            t, ratio = analysis.case.times(exponents.sigma), exponents.under(criterion).ratio
            _band(axis, t, ratio.mean(1), ratio.std(1), of, ": mean")
        _frame(axis, title=TITLES[criterion], ylabel="leading eigenvalue of dD/dy over c")
        axis.legend(fontsize=8)
    figure.suptitle("Along sample paths (band: one deviation over samples); neighbours separate above 1", fontsize=11)
    return figure


PANELS = {
    "clone": ("Clones of one path end in one class", "share"),
    "uturn": ("Noised to t and denoised: class changed", "share"),
    "susceptibility": ("Response of the sample to a push of the state", "mean square response"),
    "correlation": ("Correlation of the state with the sample", "correlation"),
    "pixels": ("Correlation of a pixel with its final value", "correlation"),
}


def decisions(analysis: Analysis) -> Figure | None:
    """The curves over samples, each with two standard errors and the line at which its level is read."""
    names = [name for name in PANELS if any(criterion == name for criterion, _ in analysis.case.curves)]
    if not names:
        return None
    columns = min(3, len(names))
    height = -(-len(names) // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(4.6 * columns, 3.5 * height), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(names) :]:
        axis.axis("off")
    for axis, name in zip(axes.flat, names):
        for of in (CLOUD, NETWORK):
            if (name, of) not in analysis.case.curves:
                continue
            curve = analysis.case.curves[name, of]
            _band(axis, analysis.case.times(curve.sigma), curve.value.numpy(), 2 * curve.error.numpy(), of)
            if curve.threshold is not None:
                axis.axhline(curve.threshold, color=COLOURS[of], lw=0.8, ls="--")
        axis.set_title(PANELS[name][0], fontsize=10)
        _frame(axis, ylabel=PANELS[name][1])
    axes.flat[0].legend(fontsize=8)
    figure.suptitle("When samples are decided (bands: two standard errors; dashed: thresholds)", fontsize=11)
    return figure


def pixels(analysis: Analysis) -> Figure | None:
    """One pixel's value along paths, in units of its spread over paths."""
    if not analysis.case.swarms:
        return None
    subjects = list(analysis.case.swarms)
    figure, axes = plt.subplots(1, len(subjects), figsize=(6 * len(subjects), 4), squeeze=False, layout="constrained")
    for axis, of in zip(axes[0], subjects):
        swarm = analysis.case.swarms[of]
        t = analysis.case.times(swarm.sigma)
        for path in swarm.values.T[:40]:
            axis.plot(t, path, lw=0.8, color=plt.get_cmap("coolwarm")(0.5 + 0.35 * np.clip(path[-1], -1.4, 1.4)))
        _frame(axis, title=f"{NAMES[of]}, value {swarm.pixel}", ylabel="deviations from the mean over paths")
    figure.suptitle("Normalised trajectories of the value that varies most (coloured by where they end)", fontsize=11)
    return figure


def nats(analysis: Analysis) -> Figure | None:
    """The divergence of the noised data from the prior, at every level."""
    if not analysis.case.nats:
        return None
    figure, axis = plt.subplots(figsize=(6.4, 4.4), layout="constrained")
    for of, curve in analysis.case.nats.items():
        t = analysis.case.times(curve.sigma)
        _band(axis, t, curve.nats.numpy(), 2 * curve.error.numpy(), of, " (a lower bound)" if of == NETWORK else "")
        if curve.worse.any():
            worse = [time for time, bad in zip(t, curve.worse.tolist()) if bad]
            axis.plot(worse, [1e-3] * len(worse), "x", color=COLOURS[of], label="worse than the prior's own denoiser")
    for budget in (0.5, 1, 2):
        axis.axhline(budget, color="0.6", lw=0.8, ls="--")
    _frame(axis, ylabel="nats", yscale="log", ylim=(5e-4, 100))
    axis.set_title("Divergence of the noised data from the Gaussian of the images", fontsize=11)
    axis.legend(fontsize=8)
    return figure


def levels(analysis: Analysis) -> Figure | None:
    """All levels on one axis, by criterion."""
    found = [f for f in analysis.findings if f.level is not None and f.level.t is not None]
    if not found:
        return None
    names = list(dict.fromkeys(f.criterion for f in found))
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(names) + 1.6), layout="constrained")
    shift, seen = {NETWORK: -0.16, CLOUD: 0.16, DATA: 0.0}, set()
    for finding in found:
        assert finding.level is not None and finding.level.t is not None
        y, t = names.index(finding.criterion) + shift[finding.of], finding.level.t
        label = None if finding.of in seen else NAMES[finding.of]
        seen.add(finding.of)
        if finding.interval is not None:
            axis.plot(finding.interval, (y, y), color=COLOURS[finding.of], lw=2, alpha=0.5)
        face = "white" if finding.kind == "peak" else COLOURS[finding.of]
        axis.plot(t, y, "o", color=COLOURS[finding.of], mfc=face, ms=6, label=label)
    axis.set_yticks(range(len(names)), names)
    _frame(axis)
    axis.set_title("Critical levels by criterion, with intervals (open circles: peaks)", fontsize=10)
    axis.invert_yaxis()
    axis.legend(fontsize=8)
    return figure


def levels_table(analysis: Analysis) -> Table:
    """A row for each criterion: t with its interval of the point cloud and the network, or why there is none."""
    table = Table(title=r"Critical levels, t of the scheduler \[interval]", title_justify="left", box=SIMPLE)
    table.add_column("criterion", no_wrap=True)
    table.add_column("point cloud", justify="right", no_wrap=True)
    table.add_column("network", justify="right", no_wrap=True)
    for name in dict.fromkeys(f.criterion for f in analysis.findings):
        cells = {f.of: _cell(f) for f in analysis.findings if f.criterion == name}
        table.add_row(name, cells.get(CLOUD, cells.get(DATA, "")), cells.get(NETWORK, ""))
    reasons = [f"{f.criterion}, {f.of}: {f.how}" for f in analysis.findings if f.level is None]
    table.caption = "\n".join(
        ["peak: nothing is crossed, its height stands before it; speciation and collapse are of the images", *reasons]
    )
    table.caption_justify = "left"
    return table


def _cell(finding: Finding) -> str:
    if finding.level is None or finding.level.t is None:
        return "not found"
    told = f"{when(finding.level.t)}"
    if finding.interval is not None:
        told += f" [{when(finding.interval[0])}, {when(finding.interval[1])}]"
    told = told if finding.kind in ("level", "crossing") else f"{finding.kind} {told}"
    return told if finding.ratio is None else f"{finding.ratio:.3f}: {told}"
