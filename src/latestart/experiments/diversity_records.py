"""What an experiment of diversity found: each way with its figures, what the data are, and what late starts gain."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from latestart.evaluation.diversity import Attribute, Diversity, ratio
from latestart.evaluation.quality import Estimate
from latestart.experiments.attributes import Score
from latestart.experiments.diversity_ways import Settings
from latestart.lab.grid import FULL, Cell
from latestart.lab.judge import Floor
from latestart.records import Record


@dataclass(frozen=True, eq=False, repr=False)
class Way(Record):
    """One way to sample, with its figures.

    Attributes:
        cell: sampler, prior, start, spacing, clipping.
        steps: of the sampler.
        frechet: of its features to the whole data set's.
        precision: the share of its samples that lie among the data.
        copied: the share of its samples that copy; None where that is not known.
        diversity: attributes against those read of the data, Vendi score, recall and coverage.
        exact: attributes against the exact shares, where these are known.
        doubtful: by attribute, the share of samples of which the reader is less than 90% sure; none for a reader that
            gives no probabilities.
        images: the first, `(16, C, H, W)` in [0, 1].
    """

    cell: Cell
    steps: int
    frechet: Estimate
    precision: Estimate
    copied: Estimate | None
    diversity: Diversity
    exact: dict[str, Attribute]
    doubtful: dict[str, float]
    images: Tensor = field(repr=False)

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        exact = {name: one.record() for name, one in self.exact.items()}
        beside = {"steps": self.steps, "doubtful": self.doubtful}
        beside |= {name: (one := getattr(self, name)) and asdict(one) for name in ("frechet", "precision", "copied")}
        return {**asdict(self.cell), **beside, **self.diversity.record(), "against_exact_shares": exact}


@dataclass(frozen=True)
class Gain:
    """How many times smaller a divergence a late start has than full noise with the same sampler, for one attribute.

    `apart` says whether the intervals of the two divergences do not overlap. `factor` and `apart` are of the shares
    read of the data; `exact` and `apart_exact` of the exact ones, None where these are not known.
    """

    sampler: str
    prior: str
    attribute: str
    factor: Estimate
    apart: bool
    exact: Estimate | None = None
    apart_exact: bool | None = None

    def record(self) -> dict[str, Any]:
        """All figures, for JSON; what is infinite is None."""
        ends = {name: (one := getattr(self, name)) and _finite(one) for name in ("factor", "exact")}
        return {**asdict(self), **ends}


@dataclass(frozen=True, eq=False)
class Facts:
    """Readings and known attributes of the data.

    Attributes:
        images: whose attributes were read.
        doubtful: by attribute, the share of them of which the reader is less than 90% sure.
        chance: by attribute, the divergence that as many images as samples would have from these on average.
        known: by attribute, in words, where its exact shares are from; without those that are not known.
        against: what was read of these images, against the exact shares: how far the reader and chance move them.
        chance_exact: by attribute, the divergence from the exact shares that as many images would have on average.
    """

    images: int
    doubtful: dict[str, float]
    chance: dict[str, float]
    known: dict[str, str] = field(default_factory=dict)
    against: dict[str, Attribute] = field(default_factory=dict)
    chance_exact: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        exact = {
            name: {"from": self.known[name], "chance": self.chance_exact[name], **one.record()}
            for name, one in self.against.items()
        }
        beside = {"doubtful_data": self.doubtful, "chance": self.chance}
        return {"data": self.images, **beside, "data_against_exact_shares": exact}


@dataclass(frozen=True)
class Result:
    """All ways, and what they say together.

    Attributes:
        ways: all that were measured.
        shown: the best of each sampler and prior by the Frechet distance, drawn again, in the order of the chart.
        gains: of the late starts.
        data: the images that attributes were read of.
        scores: of the reader, on held-out images by attribute, where these are known.
        choices: the starts that were chosen, and why.
        failed: ways that were not measured, and why.
        features, classifier: what was read with.
        floor: of images that the model has not seen; None without such.
        settings: what was asked for.
    """

    ways: tuple[Way, ...]
    shown: tuple[Way, ...]
    gains: tuple[Gain, ...]
    data: Facts
    scores: dict[str, Score]
    choices: tuple[dict[str, Any], ...]
    failed: tuple[str, ...]
    features: str
    classifier: str
    floor: Floor | None
    settings: Settings

    def record(self) -> dict[str, Any]:
        """All figures, ready for `results.json`."""
        return {
            "settings": asdict(self.settings),
            "features": self.features,
            "classifier": self.classifier,
            "floor": None if self.floor is None else self.floor.record(),
            "scores": {name: score.record() for name, score in self.scores.items()},
            **self.data.record(),
            "choices": list(self.choices),
            "not_measured": list(self.failed),
            "shown": [self.ways.index(way) for way in self.shown],
            "ways": [way.record() for way in self.ways],
            "gains": [gain.record() for gain in self.gains],
        }


def best_of(ways: Sequence[tuple[Cell, float]]) -> list[Cell]:
    """The best by the Frechet distance of each sampler, prior and number of evaluations, in their order."""
    groups: dict[tuple[str, str, int], list[tuple[Cell, float]]] = {}
    for cell, distance in ways:
        groups.setdefault((cell.sampler, cell.prior, cell.nfe), []).append((cell, distance))
    return [min(group, key=lambda one: one[1])[0] for group in groups.values()]


def gains_of(shown: tuple[Way, ...]) -> list[Gain]:
    """Every late start that is shown against full noise with the same sampler, for every attribute."""
    full = {(way.cell.sampler, way.cell.nfe): way for way in shown if way.cell.prior == FULL}
    return [
        Gain(
            late.cell.sampler,
            late.cell.prior,
            name,
            *_gained(base.diversity.attributes[name], mine),
            *(_gained(base.exact[name], late.exact[name]) if name in late.exact else ()),
        )
        for late in shown
        if late.cell.prior != FULL and (base := full.get((late.cell.sampler, late.cell.nfe))) is not None
        for name, mine in late.diversity.attributes.items()
    ]


def _gained(full: Attribute, late: Attribute) -> tuple[Estimate, bool]:
    """How many times smaller the divergence of the late start is, and whether their intervals do not overlap."""
    return ratio(full, late), late.kl.high < full.kl.low


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {end: value if abs(value) < float("inf") else None for end, value in asdict(estimate).items()}
