"""The names of ways, for tables and pictures."""

from latestart.experiments.diversity.records import Way
from latestart.lab.grid import FULL
from latestart.lab.report import prior_title
from latestart.noise import when

__all__ = ["from_of", "name_of", "sampler_of", "setting_of", "title_of"]

CLEAN = "without copies"


def name_of(way: Way) -> str:
    """Return a way in a few words: sampler, evaluations, start, and spacing or time."""
    if way.cell.prior == FULL:
        return f"{sampler_of(way)}, {from_of(way)} ({setting_of(way)})"
    return f"{sampler_of(way)}, {from_of(way)} at {setting_of(way)}"


def sampler_of(way: Way) -> str:
    """Return the sampler and its evaluations."""
    return f"{way.cell.sampler.upper()}, NFE {way.cell.nfe}"


def from_of(way: Way) -> str:
    """Return the start of a way."""
    return "from full noise" if way.cell.prior == FULL else f"late from {prior_title(way.cell.prior)}"


def setting_of(way: Way) -> str:
    """Return the spacing or the time of a start, with clipping, and a mark of the best without copies."""
    cell = way.cell
    where = cell.spacing if cell.t_start is None else f"t = {when(cell.t_start)}"
    return f"{where}{', clipped' if cell.clip else ''}{f', {CLEAN}' if way.clean else ''}"


def title_of(attribute: str) -> str:
    """Return the name of an attribute as a title."""
    return attribute.replace("_", " ").capitalize()
