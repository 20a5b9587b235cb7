"""The findings of `latestart check`, as tables and as a picture. Everything is shown as it was handed over."""

from pathlib import Path

from matplotlib.axes import Axes
from rich.markup import escape
from rich.table import Table

from latestart.diagnosis.check import Report
from latestart.diagnosis.decisions import by_noise
from latestart.diagnosis.linearity import LINEAR
from latestart.lab.drawing import figure, save
from latestart.lab.report import table
from latestart.noise import Noise, when
from latestart.sampling.doubts import NATS, runs

__all__ = ["findings_picture", "findings_table", "levels_table"]

COLORS = {"good": "green", "doubtful": "yellow", "bad": "red"}
QUESTIONS = {
    "linear": "Are the early dynamics linear?",
    "gaussian": "Is the distribution there the prior's?",
    "critical": "Is the critical level known?",
    "network": "Is the network better than the prior?",
    "prior": "Do prior and network speak of the same images?",
}


def findings_table(report: Report) -> Table:
    """Return a row for each question: its verdict and the sentence with the figure."""
    start = "" if report.t_start is None else f" at t = {report.t_start:g}"
    columns = ("question", "verdict", "finding")
    made = table(f"Can a late start{start} be relied on?", *columns, left=columns)
    made.show_lines, made.columns[0].max_width = True, 24
    for found in report.findings:
        verdict = f"[bold {COLORS[found.verdict]}]{found.verdict}[/]"
        made.add_row(QUESTIONS[found.name], verdict, escape(found.sentence))
    return made


def levels_table(report: Report, noise: Noise) -> Table:
    """Return a row for each critical level, by falling noise; below them the criteria that gave none, and why."""
    made = table("Critical levels", "criterion", "t", "interval", "sigma", "how", left=("criterion", "how"))
    for level in by_noise(report.levels):
        ends = map(noise.clamped_time, level.interval or ())
        made.add_row(level.criterion, when(level.t), "–".join(map(when, ends)), f"{level.sigma:.3g}", escape(level.how))
    for name, reason in report.missing.items():
        made.add_row(name, "none", "", "", escape(reason))
    return made


def findings_picture(path: str | Path, report: Report, noise: Noise) -> None:
    """Draw R^2, nats and the critical levels against t, noise falling to the right as in sampling."""
    heights, t = [3, 3, 0.6 + 0.32 * (len(report.levels) + 1)], report.linearity.t
    made, axes = figure(3, 1, (8.5, 1.2 * sum(heights)), sharex=True, height_ratios=heights)
    linear, nats, levels = axes[:, 0]
    _draw_linearity(linear, report)
    _draw_nats(nats, report)
    _draw_levels(levels, report, noise)
    for axis in (linear, nats):
        for level in report.levels:
            axis.axvline(noise.clamped_time(level.sigma), color="C0", lw=0.6, alpha=0.35)
    if report.t_start is not None:
        for axis in (linear, nats, levels):
            axis.axvline(report.t_start, color="k", lw=1.4, ls=":", label=f"start, t = {report.t_start:g}")
    linear.legend(fontsize=8, loc="lower right")
    nats.legend(fontsize=8, loc="upper left")
    levels.set(xlabel="scheduler's t (noise falls to the right)", xlim=(t[0].item(), t[-1].item()))
    save(made, path, dpi=130)


def _draw_linearity(axis: Axes, report: Report) -> None:
    curve, seen = report.linearity, report.linearity.informative
    for value, error, label in (
        (curve.data, curve.data_error, "of what the data ask for"),
        (curve.r2, curve.r2_error, "of the network, its errors included"),
    ):
        axis.errorbar(curve.t[seen], value[seen], error[seen], fmt="o-", ms=3, lw=1.2, label=label)
    if len(hidden := curve.t[~seen]):
        axis.axvspan(float(hidden.max()), float(hidden.min()), color="0.94", label="too little signal to compare")
    _bar(axis, LINEAR[0], "top")
    lowest = min((float(part[seen].min()) for part in (curve.data, curve.r2)) if seen.any() else [0.0])
    axis.set(ylim=(max(lowest, -0.5) - 0.08, 1.04), ylabel="R²")
    axis.set_title("Linear: share of the denoiser that the prior's own explains", fontsize=10, loc="left")


def _draw_nats(axis: Axes, report: Report) -> None:
    curve, t = report.nats, report.linearity.t
    axis.errorbar(t, curve.nats, curve.error, fmt="o-", ms=3, lw=1.2, label="divergence (lower bound)")
    for bar in NATS:
        _bar(axis, bar, "bottom")
    for k, run in enumerate(runs(curve.worse)):
        ends = float(t[run[0]]), float(t[min(run[-1] + 1, len(t) - 1)])
        axis.axvspan(*ends, color="C3", alpha=0.15, label=None if k else "network worse than the prior")
    axis.set_yscale("symlog", linthresh=0.1)
    axis.set_ylim(bottom=-0.05)
    axis.set_ylabel("nats")
    axis.set_title("Gaussian: divergence of the noised data from the prior", fontsize=10, loc="left")


def _bar(axis: Axes, height: float, va: str) -> None:
    axis.axhline(height, color="0.4", lw=0.8, ls="--")
    axis.text(0.01, height, f"{height:g}", transform=axis.get_yaxis_transform(), fontsize=8, va=va)


def _draw_levels(axis: Axes, report: Report, noise: Noise) -> None:
    rows = [(level.criterion, level, "C0") for level in by_noise(report.levels)]
    if report.collapse is not None:
        rows.append((f"{report.collapse.criterion} of the cloud", report.collapse, "0.5"))
    for y, (_, level, color) in enumerate(rows):
        ends = [noise.clamped_time(end) for end in level.interval or ()]
        axis.plot(ends, [y] * len(ends), color=color, lw=3, alpha=0.5, solid_capstyle="butt")
        axis.plot(noise.clamped_time(level.sigma), y, "o", color=color, ms=5)
    axis.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    axis.grid(axis="x", lw=0.3)
    axis.set_title("Critical levels, with their intervals (thin lines above)", fontsize=10, loc="left")
