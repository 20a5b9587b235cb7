"""Pictures: the parts that the pages of experiments share. Figures are drawn as they are received."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

from latestart.evaluation.quality import Estimate

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from torch import Tensor

from latestart.data import tile
from latestart.files import replacing

__all__ = [
    "COLORS", "GREY", "band", "ends", "figure", "key", "level_line", "log_ticks", "sample_sheet", "save", "shown",
    "ticks",
]  # fmt: skip

COLORS = ("#b2182b", "#2166ac", "#1b7837", "#8073ac", "#b35806")
GREY = "#707070"


def figure(rows: int, columns: int, size: tuple[float, float], **settings: object) -> tuple[Figure, np.ndarray]:
    """Return a figure in inches and its axes `(rows, columns)`."""
    made, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained", **settings)  # type: ignore[call-overload]
    return made, axes


def save(made: Figure, path: str | Path, dpi: int = 110) -> None:
    """Write a figure as PNG, whole or not at all, and close it."""
    with replacing(path) as temporary:
        made.savefig(temporary, dpi=dpi, format="png")
    plt.close(made)


def ends(estimates: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the lower ends, the values and the upper ends of estimates, each `(N,)`."""
    low, value, high = (np.array([getattr(one, end) for one in estimates]) for end in ("low", "value", "high"))
    return low, value, high


def band(
    axis: Axes, x: Sequence[float] | np.ndarray, estimates: Sequence[Estimate], color: str, **line: object
) -> None:
    """Draw estimates as a line with a band between the ends of their intervals."""
    low, value, high = ends(estimates)
    axis.fill_between(x, low, high, color=color, alpha=0.15, linewidth=0)
    axis.plot(x, value, color=color, **line)  # type: ignore[arg-type]


def ticks(low: float, high: float, digits: Sequence[float] = (1, 2, 5)) -> list[float]:
    """Return these digits times powers of ten from `low` to `high`, for a logarithmic axis."""
    return [digit * 10.0**k for k in range(-3, 6) for digit in digits if low <= digit * 10.0**k <= high]


def log_ticks(axis: Axis, marks: Sequence[float] | None = None) -> None:
    """Write the ticks of a logarithmic axis as plain numbers: the given ones, or 1, 2 and 5 times powers of ten."""
    shown = ticks(*axis.get_view_interval()) if marks is None else marks
    axis.set_ticks(shown, labels=[f"{tick:g}" for tick in shown])
    axis.set_minor_locator(NullLocator())


def level_line(axis: Axes, t: float | None, label: str = "") -> None:
    """Mark a critical level, `t` on the axis, if there is one: a dashed line across the panel."""
    if t is not None:
        axis.axvline(t, color="black", linestyle="--", linewidth=1, label=label)


def key(axis: Axes, label: str, color: str = GREY, **line: object) -> None:
    """Add a line to an axis' legend that is not drawn itself."""
    axis.plot([], [], color=color, label=label, **line)  # type: ignore[arg-type]


def shown(image: Tensor) -> np.ndarray:
    """Return an image `(C, H, W)` in [-1, 1] as `imshow` takes it, in [0, 1]."""
    return (image.float().cpu() / 2 + 0.5).clamp(0, 1).permute(1, 2, 0).squeeze(-1).numpy()


def sample_sheet(
    path: str | Path, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[tuple[Tensor, str]]]
) -> None:
    """Draw a table of blocks of images, each with a caption: the same seed stands at the same place in every block.

    Args:
        path: PNG file to write.
        rows, columns: their titles.
        cells: by row and column, images `(16, C, H, W)` in [0, 1] and a caption.
    """
    made, axes = figure(len(rows), len(columns), (2.1 * len(columns) + 0.6, 2.35 * len(rows) + 0.5))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            images, caption = cells[i][j]
            axis = axes[i][j]
            sheet = tile((images * 255).round().byte(), 4, gap=1, background=96)
            axis.imshow(sheet.permute(1, 2, 0).squeeze(-1), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(caption, fontsize=8)
            if i == 0:
                axis.set_title(column, fontsize=10)
            if j == 0:
                axis.set_ylabel(row, fontsize=10)
    save(made, path, dpi=130)
