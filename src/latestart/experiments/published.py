"""The paper's table 1, as published: Raya and Ambrogioni, NeurIPS 2023. The figures are FIDs, in Inception features."""

import csv
from dataclasses import dataclass
from pathlib import Path

FIGURES = Path(__file__).parent.parent / "assets" / "paper_table1.csv"


@dataclass(frozen=True)
class Published:
    """What the paper reports for a data set, a sampler and a number of steps.

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


def published(dataset: str | None = None) -> list[Published]:
    """The paper's table 1, or its rows for one data set.

    Raises:
        ValueError: it has no such data set.
    """
    with FIGURES.open(newline="") as file:
        rows = [_published(row) for row in csv.DictReader(file)]
    known = dict.fromkeys(row.dataset for row in rows)
    if dataset is not None and dataset not in known:
        raise ValueError(f"the paper has no figures for {dataset!r}; it has them for {', '.join(known)}")
    return [row for row in rows if dataset in (None, row.dataset)]


def _published(row: dict[str, str]) -> Published:
    steps, nfe = int(row["steps"]), int(row["nfe"])
    vanilla, late = float(row["fid_vanilla"]), float(row["fid_gls"])
    return Published(row["dataset"], row["sampler"], steps, nfe, vanilla, late, row["note"])


def dataset_of(model: str) -> str | None:
    """The paper's data set of that name, if it has one."""
    name = Path(model).name
    return name if name in {row.dataset for row in published()} else None
