"""The findings of `latestart check`, as tables and as a picture. Everything is shown as it was handed over."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from rich.box import SIMPLE
from rich.table import Table

from latestart.diagnosis.check import Report
from latestart.diagnosis.linearity import LINEAR
from latestart.diagnosis.verdicts import Finding
from latestart.files import replacing
from latestart.noise import Noise, when
from latestart.sampling.doubts import NATS, runs
from latestart.theory.levels import CriticalLevel

__all__ = ["findings_picture", "findings_table", "levels_table"]

COLOURS = {"good": "green", "doubtful": "yellow", "bad": "red"}
QUESTIONS = {
    "linear": "Are the early dynamics linear?",
    "gaussian": "Is the distribution there the prior's?",
    "critical": "Is the critical level known?",
    "network": "Is the network better than the prior?",
    "prior": "Do prior and network speak of the same images?",
}


def findings_table(report: Report) -> Table:
    """A row for each question: its verdict and the sentence with the figure."""
    title = "Can a late start be relied on?"
    if report.t_start is not None:
        title = f"Can a late start at t = {report.t_start:g} be relied on?"
    table = Table(title=title, title_justify="left", box=SIMPLE, show_lines=True)
    table.add_column("question", max_width=24)
    table.add_column("verdict")
    table.add_column("finding")
    for finding in report.findings:
        table.add_row(QUESTIONS[finding.name], _coloured(finding), finding.sentence)
    return table


def levels_table(report: Report, noise: Noise) -> Table:
    """A row for each criterion of the critical level, by falling noise; below them those that gave none, and why."""
    table = Table(title="Critical levels", title_justify="left", box=SIMPLE)
    table.add_column("criterion", no_wrap=True)
    table.add_column("t", justify="right", no_wrap=True)
    table.add_column("interval", justify="right", no_wrap=True)
    table.add_column("sigma", justify="right", no_wrap=True)
    table.add_column("how")
    for level in _by_noise(report):
        low, high = _times(level, noise)
        interval = f"{when(low)}–{when(high)}" if level.interval else ""
        table.add_row(level.criterion, when(noise.clamped_time(level.sigma)), interval, f"{level.sigma:.3g}", level.how)
    for name, reason in report.missing.items():
        table.add_row(name, "none", "", "", reason)
    return table


def findings_picture(path: str | Path, report: Report, noise: Noise) -> None:
    """R^2, nats and the critical levels against t, noise falling to the right as in sampling."""
    heights = [3, 3, 0.6 + 0.32 * (len(report.levels) + 1)]
    figure, axes = plt.subplots(
        3, 1, sharex=True, figsize=(8.5, 1.2 * sum(heights)), height_ratios=heights, layout="constrained"
    )
    _draw_linearity(axes[0], report)
    _draw_nats(axes[1], report)
    _draw_levels(axes[2], report, noise)
    for axis in axes:
        _draw_start(axis, report)
    axes[0].legend(fontsize=8, loc="lower right")
    axes[1].legend(fontsize=8, loc="upper left")
    axes[2].set_xlabel("scheduler's t (noise falls to the right)")
    axes[2].set_xlim(report.linearity.t[0].item(), report.linearity.t[-1].item())
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def _draw_linearity(axis: Axes, report: Report) -> None:
    curve = report.linearity
    seen = curve.informative
    for value, error, label, colour in (
        (curve.data, curve.data_error, "of what the data ask for", "C0"),
        (curve.r2, curve.r2_error, "of the network, its errors included", "C1"),
    ):
        axis.errorbar(curve.t[seen], value[seen], error[seen], fmt="o-", ms=3, lw=1.2, color=colour, label=label)
    if bool((~seen).any()):
        hidden = curve.t[~seen]
        axis.axvspan(float(hidden.max()), float(hidden.min()), color="0.94", label="too little signal to compare")
    axis.axhline(LINEAR[0], color="0.4", lw=0.8, ls="--")
    axis.text(0.01, LINEAR[0] - 0.01, f"{LINEAR[0]:g}", transform=axis.get_yaxis_transform(), fontsize=8, va="top")
    lowest = min(float(part[seen].min()) for part in (curve.data, curve.r2)) if bool(seen.any()) else 0.0
    axis.set_ylim(max(lowest, -0.5) - 0.08, 1.04)
    axis.set_ylabel("R²")
    axis.set_title("Linear: share of the denoiser that the prior's own explains", fontsize=10, loc="left")


def _draw_nats(axis: Axes, report: Report) -> None:
    curve, t = report.nats, report.linearity.t
    axis.errorbar(t, curve.nats, curve.error, fmt="o-", ms=3, lw=1.2, label="divergence (lower bound)")
    for bar in NATS:
        axis.axhline(bar, color="0.4", lw=0.8, ls="--")
        axis.text(0.01, bar, f"{bar:g}", transform=axis.get_yaxis_transform(), fontsize=8, va="bottom")
    for run in runs(curve.worse):
        ends = float(t[run[0]]), float(t[min(run[-1] + 1, len(t) - 1)])
        label = "network worse than the prior" if run[0] == int(curve.worse.nonzero()[0]) else None
        axis.axvspan(*ends, color="C3", alpha=0.15, label=label)
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=-0.05)
    axis.set_ylabel("nats")
    axis.set_title("Gaussian: divergence of the noised data from the prior", fontsize=10, loc="left")


def _draw_levels(axis: Axes, report: Report, noise: Noise) -> None:
    levels = _by_noise(report)
    rows = [(level, "C0") for level in levels] + ([(report.collapse, "0.5")] if report.collapse else [])
    for row, (level, colour) in enumerate(rows):
        low, high = _times(level, noise)
        t = noise.clamped_time(level.sigma)
        axis.plot([high, low], [row, row], color=colour, lw=3, alpha=0.5, solid_capstyle="butt")
        axis.plot([t], [row], "o", color=colour, ms=5)
        if colour == "C0":
            for above in axis.figure.axes[:2]:
                above.axvline(t, color="C0", lw=0.6, alpha=0.35)
    names = [level.criterion + ("" if colour == "C0" else " of the cloud") for level, colour in rows]
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="x", lw=0.3)
    axis.set_title("Critical levels, with their intervals (thin lines above)", fontsize=10, loc="left")


def _draw_start(axis: Axes, report: Report) -> None:
    if report.t_start is not None:
        axis.axvline(report.t_start, color="k", lw=1.4, ls=":", label=f"start, t = {report.t_start:g}")


def _by_noise(report: Report) -> list[CriticalLevel]:
    return sorted(report.levels, key=lambda level: -level.sigma)


def _times(level: CriticalLevel, noise: Noise) -> tuple[float, float]:
    low, high = level.interval or (level.sigma, level.sigma)
    return noise.clamped_time(low), noise.clamped_time(high)


def _coloured(finding: Finding) -> str:
    return f"[bold {COLOURS[finding.verdict]}]{finding.verdict}[/]"
