"""Every critical level of a trained network, beside those of the exact model of its images.

Two denoisers are set side by side: the network, and the point cloud of the images, whose posterior mean is exact.
`criteria` has the list; `check` asks for some of them. An `Analysis` holds the levels, and the curves that they were
read from for `pictures`; its `record` is its form in JSON.

Expected, for the first 10,000 images of MNIST: the central branch of the point cloud never crosses 1; its ratio peaks
at 0.970 near t = 506 under `density`, and at 0.943 near t = 564 under `sde`.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from latestart.diagnosis.case import CLOUD, NETWORK, Case
from latestart.diagnosis.criteria import CRITERIA, Finding, look
from latestart.progress import Progress
from latestart.records import Record, plain
from latestart.theory.branches import BranchPoint, Criterion, Follower, constant
from latestart.theory.stability import Trace

__all__ = ["BOTH", "Analysis", "BranchCurve", "SpectrumCurve", "analyze"]

BOTH: tuple[Criterion, ...] = ("density", "sde")


@dataclass(frozen=True, eq=False, repr=False)
class BranchCurve(Record):
    """The leading eigenvalue over c along fixed points, by falling noise.

    Attributes:
        criterion: whose c.
        t: of each point.
        points: the fixed points with their spectra.
        segment: 0 on the central branch, more after each break of the branch that was followed.
    """

    criterion: Criterion
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
    def asymmetry(self) -> list[float | None]:
        """`|J - J^T| / |J + J^T|` at each point; None where it was not measured."""
        return [here.spectrum.asymmetry for here in self.points]

    def beside(self, exact: "BranchCurve | None") -> dict[str, Any]:
        """Return the curve for JSON, without its pictures.

        It adds `moved`, the distance of `D(y) = c y` from that at the highest level; and `apart`, the distance of y
        from the fixed point of the `exact` model at the same level, over `sigma`; None where there is none.
        """
        means = [constant(self.criterion, here.sigma) * here.point.cpu() for here in self.points]
        others = {} if exact is None else {here.sigma: here.point.cpu() for here in exact.points}
        return {name: getattr(self, name) for name in ("t", "sigma", "ratio", "segment", "asymmetry")} | {
            "residual": [here.fixed.residual for here in self.points],
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
        case, times = self.case, self.case.times
        exponents = {(c, of): along.under(c) for of, along in case.exponents.items() for c in BOTH}
        found = [f for f in self.findings if f.level is not None]
        reasons = [(f.criterion, f.of, f.how) for f in self.findings if f.level is None]
        return {
            "about": self.about,
            "criteria": list(dict.fromkeys(f.criterion for f in self.findings)),
            "levels": [f.record() for f in found],
            "not_found": [dict(zip(("criterion", "of", "reason"), reason)) for reason in reasons],
            "notes": self.notes,
            "branches": _rows(self.branches, lambda b: b.beside(self.branches.get((b.criterion, CLOUD)))),
            "spectra": _rows(self.spectra, lambda s: {"t": s.t, "ratio": s.ratio}),
            "exponents": _rows(
                exponents, lambda e: {"t": times(e.sigma), "ratio": e.ratio.mean(1), "spread": e.ratio.std(1)}
            ),
            "curves": _rows(
                case.curves,
                lambda c: {
                    "t": times(c.sigma), "sigma": c.sigma, "value": c.value, "error": c.error, "threshold": c.threshold
                },
            ),
            "nats": [
                {"of": of, "t": times(curve.sigma)}
                | {name: plain(getattr(curve, name)) for name in ("sigma", "nats", "error", "worse")}
                for of, curve in case.nats.items()
            ],
        }  # fmt: skip


def _rows(curves: dict[tuple[Any, str], Any], row: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Return curves by `(criterion, of)` as rows for JSON."""
    return [{"criterion": criterion, "of": of} | plain(row(curve)) for (criterion, of), curve in curves.items()]


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
    analysis, tell = Analysis(case=case, about=about), progress or (lambda *_: None)
    for done, word in enumerate(wanted):
        tell(done, len(wanted), word)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            rows = ((row.name, of) for row in CRITERIA.values() if row.word == word for of in row.of)
            analysis.findings += [look(case, *row) for row in rows]
            if word in BOTH:
                _keep_branches(analysis, word)
        analysis.notes += [f"{word}: {w.message}" for w in caught if issubclass(w.category, UserWarning)]
    tell(len(wanted), len(wanted), "")
    return analysis


def _keep_branches(analysis: Analysis, criterion: Criterion) -> None:
    """Keep the central branches of one criterion, with more of their eigenvalues, and those of halves of the images."""
    case = analysis.case
    for whose, (follower, traced) in [(whose, walk) for (c, whose), walk in case.traces.items() if c == criterion]:
        if isinstance(whose, int):
            stable = [here for here in traced.central if here.stable]
            curve = BranchCurve(criterion, case.times(p.sigma for p in stable), stable, [0] * len(stable))
            analysis.halves.setdefault(criterion, []).append(curve)
            continue
        t = case.times(here.sigma for here in traced.points)
        analysis.branches[criterion, whose] = BranchCurve(criterion, t, traced.points, traced.segment)
        analysis.spectra[criterion, whose] = _spectrum(case, follower, traced)
        analysis.notes += [f"{criterion}, {whose}: {error}" for error in traced.lost.values()]


def _spectrum(case: Case, follower: Follower, traced: Trace) -> SpectrumCurve:
    """The leading eigenvalues at each point before the first break of the branch, stable or not."""
    k, points = case.settings.eigenvalues, [here for here, s in zip(traced.points, traced.segment) if s == 0]
    spectra = [follower.spectrum(here, min(k, here.point.numel())) for here in points]
    ratio = np.stack([s.values.real[:k] / constant(follower.criterion, p.sigma) for s, p in zip(spectra, points)])
    top, t = int(ratio[:, 0].argmax()), case.times(here.sigma for here in points)
    return SpectrumCurve(t, ratio, t[top], spectra[top].vectors.real[:k].cpu())
