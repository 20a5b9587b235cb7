"""Pictures of results. Everything is drawn as it was handed over; nothing is computed here."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

from latestart.data import tile
from latestart.experiments.demo import Comparison, Measured
from latestart.files import replacing


def sample_sheet(
    path: str | Path, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[tuple[Tensor, str]]]
) -> None:
    """A table of blocks of images, each with a caption: the same seed stands at the same place in every block.

    Args:
        path: the PNG file to write.
        rows, columns: their titles.
        cells: by row and column, images `(16, C, H, W)` in [0, 1] and a caption.
    """
    size = (2.1 * len(columns) + 0.6, 2.35 * len(rows) + 0.5)
    figure, axes = plt.subplots(len(rows), len(columns), figsize=size, squeeze=False, layout="constrained")
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
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def demo_samples(path: str | Path, comparisons: Sequence[Comparison]) -> None:
    """The demo's picture: for each sampler and number of evaluations, the best of each way to start, same seeds."""
    samplers, counts = (list(dict.fromkeys(getattr(c, name) for c in comparisons)) for name in ("sampler", "nfe"))
    kinds = {
        "full noise": "baseline",
        "late, N(0, I)": "isotropic",
        "late, Gaussian": "gaussian",
        "late, mixture": "mixture",
    }
    at = {(c.sampler, c.nfe): c for c in comparisons}
    columns = [f"{sampler.upper()}, {kind}" for sampler in samplers for kind in kinds]
    cells = [[_block(getattr(at[s, n], name)) for s in samplers for name in kinds.values()] for n in counts]
    sample_sheet(path, [f"NFE {n}" for n in counts], columns, cells)


def _block(measured: Measured) -> tuple[Tensor, str]:
    cell = measured.cell
    start = f"{cell.spacing} spacing" if cell.t_start is None else f"t = {cell.t_start}"
    return measured.images, f"{start}{', clipped' if cell.clip else ''}: FD {measured.figures.frechet.value:.1f}"
