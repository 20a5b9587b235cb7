"""The results of the diversity experiment: each way with its figures, facts of the data, and gains of late starts."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from latestart.classifiers.attributes import Score
from latestart.evaluation.diversity import Attribute, Diversity, ratio
from latestart.evaluation.quality import Estimate
from latestart.experiments.diversity.settings import DiversitySettings
from latestart.lab.grid import FULL, Cell
from latestart.lab.judge import Figures, Floor
from latestart.lab.report import prior_title, setting_of
from latestart.records import Record, plain

__all__ = ["Facts", "Gain", "Result", "Way", "gains_of"]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Way(Record):
    """One way to sample, with its figures.

    Attributes:
        cell: sampler, prior, start, spacing, clipping.
        steps: of the sampler.
        figures: of its samples; the share of copies is None where that is not known.
        diversity: attributes against those read of the data, and the Vendi score.
        exact: attributes against the exact shares, where these are known.
        doubtful: by attribute, the share of samples that are read with a certainty below 90%; empty for a reader
            without probabilities.
        images: the first, `(16, C, H, W)` in [0, 1].
        clean: whether it is shown as the best without copies, below a best that copies.
    """

    cell: Cell
    steps: int
    figures: Figures
    diversity: Diversity
    exact: dict[str, Attribute]
    doubtful: dict[str, float]
    images: Tensor = field(repr=False)
    clean: bool = False

    @property
    def start(self) -> str:
        """The sampler, its evaluations, and full noise or the prior of a late start, in words."""
        start = "from full noise" if self.cell.prior == FULL else f"late from {prior_title(self.cell.prior)}"
        return f"{self.cell.sampler.upper()}, NFE {self.cell.nfe}, {start}"

    @property
    def setting(self) -> str:
        """The spacing or the time of the start, with clipping, and a mark of the best without copies."""
        return setting_of(self.cell) + (", without copies" if self.clean else "")

    @property
    def title(self) -> str:
        """The start and its setting."""
        return f"{self.start}, {self.setting}"

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        own = {"steps": self.steps, "doubtful": self.doubtful, "against_exact_shares": plain(self.exact)}
        return asdict(self.cell) | own | self.figures.estimates() | self.diversity.record()


@dataclass(frozen=True, kw_only=True)
class Gain:
    """The divergence of the best full noise over that of a late start with the same sampler, for one attribute.

    Attributes:
        sampler, prior, attribute: their names.
        factor: by the shares read of the data.
        apart: whether the intervals of the two divergences do not overlap.
        exact, apart_exact: the same by the exact shares; None where these are not known.
        clean: whether the late start is the best without copies, below a best that copies.
    """

    sampler: str
    prior: str
    attribute: str
    factor: Estimate
    apart: bool
    exact: Estimate | None = None
    apart_exact: bool | None = None
    clean: bool = False

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON: None for infinite numbers, and `clean` where it is true."""
        ends = {name: (one := getattr(self, name)) and _finite(one) for name in ("factor", "exact")}
        return {name: one for name, one in {**asdict(self), **ends}.items() if name != "clean" or one}


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {end: value if abs(value) < float("inf") else None for end, value in asdict(estimate).items()}


@dataclass(frozen=True, eq=False, kw_only=True)
class Facts:
    """Readings and known attributes of the data.

    Attributes:
        images: number of images that were read.
        doubtful: by attribute, the share of them that are read with a certainty below 90%.
        chance: by attribute, the mean divergence from these of images of the data, in the number of the samples.
        known: by attribute, the source of its exact shares in words, where there are any.
        against: by attribute, readings of these images against the exact shares: errors of the reader, and chance.
        chance_exact: as `chance`, from the exact shares.
    """

    images: int
    doubtful: dict[str, float]
    chance: dict[str, float]
    known: dict[str, str] = field(default_factory=dict)
    against: dict[str, Attribute] = field(default_factory=dict)
    chance_exact: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        exact = plain(self.against)
        for name, known in exact.items():
            known |= {"from": self.known[name], "chance": self.chance_exact[name]}
        own = {"data": self.images, "doubtful_data": self.doubtful, "chance": self.chance}
        return own | {"data_against_exact_shares": exact}


@dataclass(frozen=True, kw_only=True, repr=False)
class Result(Record):
    """All ways, the data, and the gains of late starts.

    Attributes:
        ways: all that were measured.
        shown: the ways chosen for each sampler and prior, drawn again, and the reference, in the order of the chart.
        data: facts of the images.
        scores: of the reader, on held-out images by attribute, where these are known.
        choices: the starts that were chosen, and why.
        not_measured: ways, and why.
        features, classifier: names of the extractor and of the reader.
        floor: of images that the model has not seen; None where there are none.
        settings: as given.
    """

    ways: tuple[Way, ...]
    shown: tuple[Way, ...]
    data: Facts
    scores: dict[str, Score]
    choices: tuple[dict[str, Any], ...]
    not_measured: tuple[str, ...]
    features: str
    classifier: str
    floor: Floor | None
    settings: DiversitySettings

    @property
    def gains(self) -> tuple[Gain, ...]:
        """Gains of the late starts that are shown."""
        return tuple(gains_of(self.shown))

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        own = {"shown": [self.ways.index(way) for way in self.shown], "gains": plain(self.gains)}
        return super().record() | self.data.record() | own


def gains_of(shown: tuple[Way, ...]) -> Iterator[Gain]:
    """Yield the gain of every late start on the best full noise with the same sampler, for every attribute."""
    full = {(way.cell.sampler, way.cell.nfe): way for way in shown if way.cell.prior == FULL and not way.clean}
    for late in shown:
        base = full.get((late.cell.sampler, late.cell.nfe))
        if base is not None and late.cell.prior != FULL:
            for name, mine in late.diversity.attributes.items():
                factor, apart = _gained(base.diversity.attributes[name], mine)
                exact, apart_exact = _gained(base.exact[name], late.exact[name]) if name in late.exact else (None, None)
                yield Gain(
                    sampler=late.cell.sampler, prior=late.cell.prior, attribute=name, factor=factor, apart=apart,
                    exact=exact, apart_exact=apart_exact, clean=late.clean,
                )  # fmt: skip


def _gained(full: Attribute, late: Attribute) -> tuple[Estimate, bool]:
    """The ratio of the divergences, and whether their intervals do not overlap."""
    return ratio(full, late), late.kl.high < full.kl.low
