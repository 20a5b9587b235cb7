"""The paper's table 1, as published: Raya and Ambrogioni, NeurIPS 2023. The figures are FIDs, in Inception features."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from latestart.shipped import ASSETS

__all__ = ["Published", "dataset_of", "published"]

FIGURES = ASSETS / "paper_table1.csv"


@dataclass(frozen=True, kw_only=True)
class Published:
    """The paper's figures for a data set, a sampler and a number of steps.

    Attributes:
        steps: of the sampler.
        nfe: the evaluations that they cost.
        vanilla, late: its FID from full noise and from the Gaussian late start.
        note: what is doubtful about it.
    """

    dataset: str
    sampler: str
    steps: int
    nfe: int
    vanilla: float
    late: float
    note: str

    @property
    def ratio(self) -> float:
        """`vanilla / late`."""
        return self.vanilla / self.late

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        return asdict(self) | {"ratio": self.ratio}


def published(dataset: str | None = None) -> list[Published]:
    """Return the paper's table 1, or its rows for one data set.

    Raises:
        ValueError: it has no such data set.
    """
    from pyarrow.csv import read_csv  # a command line needs this only where it makes settings

    rows = [Published(**row) for row in read_csv(FIGURES).to_pylist()]
    known = dict.fromkeys(row.dataset for row in rows)
    if dataset is not None and dataset not in known:
        raise ValueError(f"the paper has no figures for {dataset!r}; it has them for {', '.join(known)}")
    return [row for row in rows if dataset in (None, row.dataset)]


def dataset_of(model: str) -> str | None:
    """Return the paper's data set of a model's name, if it has one."""
    name = Path(model).name
    return name if name in {row.dataset for row in published()} else None
