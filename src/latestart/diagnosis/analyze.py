"""Every critical level of a trained network, beside those of the exact model of its images.

Two denoisers are set side by side: the network, and the point cloud of the images, whose posterior mean is exact.
`criteria` has the list; `check` asks for some of them. An `Analysis` holds the levels, and the curves that they were
read from for `pictures`; its `record` is its form in JSON.

Expected, for the first 10,000 images of MNIST: the central branch of the point cloud never crosses 1; its ratio peaks
at 0.970 near t = 506 under `density`, and at 0.943 near t = 564 under `sde`.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from latestart.diagnosis.case import CLOUD, NETWORK, Case
from latestart.diagnosis.criteria import CRITERIA, Finding, look
from latestart.records import Record
from latestart.theory.branches import BranchPoint, Criterion, Follower, constant
from latestart.theory.stability import Trace

__all__ = ["BOTH", "Analysis", "BranchCurve", "SpectrumCurve", "analyze"]

BOTH: tuple[Criterion, ...] = ("density", "sde")
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False, repr=False)
class BranchCurve(Record):
    """The leading eigenvalue over c along fixed points, by falling noise.

    Attributes:
        t: of each point.
        points: the fixed points with their spectra.
        segment: 0 on the central branch, more after each break of the branch that was followed.
    """

    t: list[float]
    points: list[BranchPoint] = field(repr=False)
    segment: list[int]

    @property
    def sigma(self) -> list[float]:
        """The level of each point."""
        return [here.sigma for here in self.points]

    @property
    def ratio(self) -> list[float]:
        """`lambda / c` at each point."""
        return [here.ratio for here in self.points]

    @property
    def asymmetry(self) -> list[float]:
        """`|J - J^T| / |J + J^T|` at each point; NaN where it was not measured."""
        return [math.nan if p.spectrum.asymmetry is None else p.spectrum.asymmetry for p in self.points]

    def record(self, criterion: str, exact: "BranchCurve | None") -> dict[str, Any]:
        """The curve for JSON, without its pictures; null stands for "not measured".

        It adds `moved`, the distance of `D(y) = c y` from that at the highest level; and `apart`, the distance of y
        from the fixed point of the `exact` model at the same level, over `sigma`.
        """
        means = [constant(criterion, here.sigma) * here.point.cpu() for here in self.points]
        others = {} if exact is None else {here.sigma: here.point.cpu() for here in exact.points}
        return {
            **{name: getattr(self, name) for name in ("t", "sigma", "ratio", "segment")},
            "residual": [here.fixed.residual for here in self.points],
            "asymmetry": [None if math.isnan(value) else value for value in self.asymmetry],
            "moved": [(mean - means[0]).norm().item() for mean in means],
            "apart": [
                (here.point.cpu() - others[here.sigma]).norm().item() / here.sigma if here.sigma in others else None
                for here in self.points
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


@dataclass(eq=False, repr=False, kw_only=True)
class Analysis(Record):
    """All that was found; each dictionary by `(criterion, of)`.

    Attributes:
        case: with the curves over samples, the exponents along paths, the swarms and the nats.
        about: the model, the numbers of images and the settings.
        findings: the levels, in the order of the criteria.
        branches: the central branches.
        spectra: more than the leading eigenvalue along the central branches.
        halves: the branches of random halves of the images, by criterion, as far as they are stable.
        notes: what else a reader should know.
    """

    case: Case
    about: dict[str, Any]
    findings: list[Finding] = field(default_factory=list)
    branches: dict[tuple[str, str], BranchCurve] = field(default_factory=dict)
    spectra: dict[tuple[str, str], SpectrumCurve] = field(default_factory=dict)
    halves: dict[str, list[BranchCurve]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """Everything for JSON."""
        case, both = self.case, [(c, of) for of in self.case.exponents for c in BOTH]
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
                {"criterion": c, "of": of, "t": case.times(e.sigma)}
                | {"ratio": e.ratio.mean(1).tolist(), "spread": e.ratio.std(1).tolist()}
                for c, of, e in ((c, of, case.exponents[of].under(c)) for c, of in both)
            ],
            "curves": [
                {"criterion": criterion, "of": of, "t": case.times(curve.sigma), "sigma": curve.sigma.tolist()}
                | {"value": curve.value.tolist(), "error": curve.error.tolist(), "threshold": curve.threshold}
                for (criterion, of), curve in case.curves.items()
            ],
            "nats": [
                {"of": of, "t": case.times(curve.sigma), "sigma": curve.sigma.tolist()}
                | {"nats": curve.nats.tolist(), "error": curve.error.tolist(), "worse": curve.worse.tolist()}
                for of, curve in case.nats.items()
            ],
        }  # fmt: skip


def analyze(case: Case, criteria: Iterable[str] | None = None, progress: Progress | None = None) -> Analysis:
    """Find the level of each criterion, of both subjects.

    Args:
        case: returned by `prepare`.
        criteria: words of `criteria.CRITERIA`, such as "sde" or "second-branch"; all by default.
        progress: called as `progress(done, total, what)`.

    Raises:
        ValueError: an unknown criterion.
    """
    words = list(dict.fromkeys(row.word for row in CRITERIA.values()))
    wanted = list(dict.fromkeys(criteria)) if criteria is not None else words
    unknown = [name for name in wanted if name not in words]
    if unknown or not wanted:
        raise ValueError(f"expected criteria among {', '.join(words)}, received {', '.join(unknown) or 'none'}")
    held_out = len(case.subject(NETWORK).images)
    about = {"images": len(case.images), "held_out": held_out, "settings": asdict(case.settings)}
    analysis = Analysis(case=case, about=about)
    for done, word in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), word)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            rows = [row for row in CRITERIA.values() if row.word == word]
            analysis.findings += [look(case, row.name, of) for row in rows for of in row.of]
            if word in BOTH:
                _keep_branches(analysis, word)
        analysis.notes += [f"{word}: {w.message}" for w in caught if issubclass(w.category, UserWarning)]
    if progress is not None:
        progress(len(wanted), len(wanted), "")
    return analysis


def _keep_branches(analysis: Analysis, criterion: str) -> None:
    """The central branches of one criterion, with more of their eigenvalues, and those of halves of the images."""
    case = analysis.case
    for of in (CLOUD, NETWORK):
        if (criterion, of) in case.traces:
            follower, traced = case.traces[criterion, of]
            curve = BranchCurve(case.times(p.sigma for p in traced.points), traced.points, traced.segment)
            analysis.branches[criterion, of] = curve
            analysis.spectra[criterion, of] = _spectrum(case, follower, traced)
            analysis.notes += [f"{criterion}, {of}: {error}" for error in traced.lost.values()]
    halves = [traced for (c, whose), (_, traced) in case.traces.items() if c == criterion and isinstance(whose, int)]
    stable = [[here for here in half.central if here.stable] for half in halves]
    curves = [BranchCurve(case.times(p.sigma for p in points), points, [0] * len(points)) for points in stable]
    analysis.halves |= {criterion: curves} if curves else {}


def _spectrum(case: Case, follower: Follower, traced: Trace) -> SpectrumCurve:
    """The leading eigenvalues at each point before the first break of the branch, stable or not."""
    k, points = case.settings.eigenvalues, [here for here, s in zip(traced.points, traced.segment) if s == 0]
    spectra = [follower.spectrum(here, min(k, here.point.numel())) for here in points]
    ratio = np.stack([s.values.real[:k] / constant(follower.criterion, p.sigma) for s, p in zip(spectra, points)])
    top, t = int(ratio[:, 0].argmax()), case.times(here.sigma for here in points)
    return SpectrumCurve(t, ratio, t[top], spectra[top].vectors.real[:k].cpu())
