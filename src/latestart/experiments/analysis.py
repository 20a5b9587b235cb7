"""What an analysis of a network finds: levels, curves and pictures, each with the name of its criterion and subject.

Everything here is what `analyze` fills in and `report/analysis.py` draws; `record` is its form in JSON.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.branches import Follower, constant
from latestart.theory.levels import CriticalLevel, Curve
from latestart.theory.nats import NatsCurve
from latestart.theory.stability import Trace

NETWORK, CLOUD, DATA = "network", "point cloud", "data"


class Found(NamedTuple):
    """A level, what kind of level it is, and for a peak of lambda / c its height."""

    level: CriticalLevel
    kind: str
    ratio: float | None = None


@dataclass(frozen=True, repr=False)
class Finding(Record):
    """A level, or why there is none.

    Attributes:
        criterion: its name in the table.
        of: "network", "point cloud" or "data".
        kind: "crossing", "fold", "peak" or "level"; "none" where there is no level.
        level: with its time t; None where there is none.
        interval: lowest and highest t; None where there is none.
        how: how it was found, or why it was not.
        ratio: the height of a peak of lambda / c.
    """

    criterion: str
    of: str
    kind: str
    level: CriticalLevel | None
    interval: tuple[float, float] | None
    how: str
    ratio: float | None = None

    def record(self) -> dict[str, Any]:
        """The finding for JSON; `low` and `high` are in t."""
        level = self.level
        low, high = self.interval or (None, None)
        names = ("sigma", "alpha_bar", "snr", "t")
        values = {name: None if level is None else getattr(level, name) for name in names}
        ends = {"low": low, "high": high, "kind": self.kind, "ratio": self.ratio, "how": self.how}
        return {"criterion": self.criterion, "of": self.of} | values | ends


@dataclass(frozen=True, eq=False, repr=False)
class BranchCurve(Record):
    """The leading eigenvalue over c along fixed points, for drawing; all by falling noise.

    Attributes:
        t, sigma, ratio: the levels and `lambda / c`.
        segment: 0 on the central branch, more after each break of the branch that was followed.
        asymmetry: `|J - J^T| / |J + J^T|`; NaN where it was not measured.
        residual: of each fixed point, see `fixed_point`.
        points, vectors: fixed points and leading eigenvectors (real parts), `(*shape)`.
    """

    t: list[float]
    sigma: list[float]
    ratio: list[float]
    segment: list[int]
    asymmetry: list[float]
    residual: list[float]
    points: list[Tensor] = field(repr=False)
    vectors: list[Tensor] = field(repr=False)

    def record(self, criterion: str, exact: "BranchCurve | None") -> dict[str, Any]:
        """The curve for JSON, without its pictures; what was not measured is null.

        Beside what the class has: `moved`, how far `D(y) = c y` is from that at the highest level; and `apart`, the
        distance of y from the fixed point of the `exact` model at the same level, over `sigma`.
        """
        means = [constant(criterion, sigma) * point for sigma, point in zip(self.sigma, self.points)]
        others = {} if exact is None else dict(zip(exact.sigma, exact.points))
        names = ("t", "sigma", "ratio", "segment", "residual")
        return {name: getattr(self, name) for name in names} | {
            "asymmetry": [None if math.isnan(value) else value for value in self.asymmetry],
            "moved": [(mean - means[0]).norm().item() for mean in means],
            "apart": [
                (point - others[sigma]).norm().item() / sigma if sigma in others else None
                for sigma, point in zip(self.sigma, self.points)
            ],
        }


@dataclass(frozen=True, eq=False, repr=False)
class SpectrumCurve(Record):
    """The leading eigenvalues along the central branch, and their vectors where the first one is highest.

    Attributes:
        t: `(L,)`, by falling noise.
        ratio: `(L, k)`, real parts over c, falling.
        at: the t of the vectors.
        vectors: `(k, *shape)`, real parts.
    """

    t: list[float]
    ratio: np.ndarray
    at: float
    vectors: Tensor = field(repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class PathCurve(Record):
    """The leading eigenvalue over c along sample paths: times `(L,)`, ratios `(L, B)`."""

    t: list[float]
    ratio: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Swarm(Record):
    """One pixel's normalised values along paths: times `(L + 1,)`, values `(L + 1, n)`, and which pixel."""

    t: list[float]
    values: np.ndarray
    pixel: tuple[int, ...]


@dataclass(eq=False, repr=False)
class Analysis(Record):
    """All that was found; each dictionary by `(criterion, of)`.

    Attributes:
        findings: the levels, in the order of the criteria.
        branches: the central branches.
        spectra: more than the leading eigenvalue along the central branches.
        halves: the same on random halves of the images, by criterion, as far as they are stable.
        exponents: along sample paths.
        curves: means over samples at each level.
        swarms: normalised trajectories of one pixel, by subject.
        nats: by subject.
        notes: what else a reader should know.
        traces: the branches as they were followed, also by the number of a half of the images.
        about: the model, the numbers of images and the settings.
    """

    noise: Noise
    about: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    branches: dict[tuple[str, str], BranchCurve] = field(default_factory=dict)
    spectra: dict[tuple[str, str], SpectrumCurve] = field(default_factory=dict)
    halves: dict[str, list[BranchCurve]] = field(default_factory=dict)
    exponents: dict[tuple[str, str], PathCurve] = field(default_factory=dict)
    curves: dict[tuple[str, str], Curve] = field(default_factory=dict)
    swarms: dict[str, Swarm] = field(default_factory=dict)
    nats: dict[str, NatsCurve] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    traces: dict[tuple[str, str | int], tuple[Follower, Trace]] = field(default_factory=dict, repr=False)

    def times(self, sigma: Iterable[float]) -> list[float]:
        """The scheduler's t of levels; below and above the process, its first and last."""
        return [self.noise.clamped_time(float(s)) for s in sigma]

    def record(self) -> dict[str, Any]:
        """Everything for JSON."""
        return {
            "about": self.about,
            "criteria": list(dict.fromkeys(f.criterion for f in self.findings)),
            "levels": [f.record() for f in self.findings if f.level is not None],
            "not_found": [
                {"criterion": f.criterion, "of": f.of, "reason": f.how} for f in self.findings if f.level is None
            ],
            "notes": self.notes,
            "branches": [
                {"criterion": criterion, "of": of} | curve.record(criterion, self.branches.get((criterion, CLOUD)))
                for (criterion, of), curve in self.branches.items()
            ],
            "spectra": [
                {"criterion": criterion, "of": of, "t": curve.t, "ratio": curve.ratio.tolist()}
                for (criterion, of), curve in self.spectra.items()
            ],
            "exponents": [
                {"criterion": criterion, "of": of, "t": e.t}
                | {"ratio": e.ratio.mean(1).tolist(), "spread": e.ratio.std(1).tolist()}
                for (criterion, of), e in self.exponents.items()
            ],
            "curves": [
                {"criterion": criterion, "of": of, "t": self.times(curve.sigma), "sigma": curve.sigma.tolist()}
                | {"value": curve.value.tolist(), "error": curve.error.tolist(), "threshold": curve.threshold}
                for (criterion, of), curve in self.curves.items()
            ],
            "nats": [
                {"of": of, "t": self.times(curve.sigma), "sigma": curve.sigma.tolist()}
                | {"nats": curve.nats.tolist(), "error": curve.error.tolist(), "worse": curve.worse.tolist()}
                for of, curve in self.nats.items()
            ],
        }  # fmt: skip
