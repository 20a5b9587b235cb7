"""Pictures of results. Everything is drawn as it was handed over; nothing is computed here."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from latestart.experiments.demo import Comparison, Measured
from latestart.lab.drawing import sample_sheet


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
