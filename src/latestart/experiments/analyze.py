"""Every critical level of a trained network, beside those of the exact model of its images.

Two denoisers are set side by side: the network, and the point cloud of the images, whose posterior mean is exact.

| criterion        | what is looked at                                                   | its level               |
|------------------|---------------------------------------------------------------------|-------------------------|
| `density`, `sde` | `lambda / c` on the central branch of `D(y) = c y`                  | crossing, fold or peak  |
| `second-branch`  | a stable fixed point beside the central one, for both c             | the highest with one    |
| `exponents`      | `2 (lambda - c)` along sample paths, for both c                     | mean crosses 0, or peak |
| `speciation`     | top eigenvalue L of the images' covariance                          | `alpha_bar = 1 / L`     |
| `collapse`       | excess entropy of the images; condensation of their weights         | root; 1/2               |
| `clone`          | clones of one path that end in one class                            | 0.775 for two classes   |
| `uturn`          | images noised and denoised again that change their class            | half of that by chance  |
| `susceptibility` | response of the sample to a push of the state                       | peak                    |
| `correlation`    | correlation of the whole state with the sample                      | 1/2                     |
| `pixels`         | correlation of a varying pixel with its final value, mean over them | 1/2                     |
| `nats`           | divergence of the noised data from the Gaussian of the images       | 0.5, 1 and 2 nats       |

`theory` has the mathematics and sources of each. A level that is not there is not forced: its `Finding` has no level
and says why.

Intervals. Point cloud, for what is a property of its fixed points: the range over random halves of the images, without
replacement; by the delete-half jackknife their spread is that of whole samples of as many images. Whatever is a mean
over samples or images: the central 95% of a bootstrap over them. Fixed points of the network, which is given: the
accuracy of the search, with the number of starts that lead to the branch.

Expected, for the first 10,000 images of MNIST: the central branch of the point cloud never crosses 1; its ratio peaks
at 0.970 near t = 506 under `density`, and at 0.943 near t = 564 under `sde`.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.sparse.linalg import svds
from torch import Tensor

from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import PointCloud
from latestart.denoisers.networks import from_diffusers
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Noise
from latestart.theory import critical
from latestart.theory.branches import BranchPoint, Criterion, Follower, constant, fixed_point
from latestart.theory.exponents import Exponents, path_exponents
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.levels import FEWEST, CriticalLevel, Curve, enough, evaluate
from latestart.theory.nats import NatsCurve, nats
from latestart.theory.stability import NoCrossing, Trace, critical_level, peak, second_branch, trace

NETWORK, CLOUD, DATA = "network", "point cloud", "data"
BOTH: tuple[Criterion, ...] = ("density", "sde")
BUDGETS = (0.5, 1.0, 2.0)
ACCURACY = 1e-3  # of a peak, in log sigma
HALVINGS = 3  # of a step along a network's branch: near a fold each one that fails is dear there
Classify = Callable[[Tensor], Tensor]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Settings:
    """How finely to look.

    Attributes:
        step: between the levels of a branch, in log sigma.
        eigenvalues: at each point of a central branch, the leading one among them.
        halves, second_halves: random halves of the images, for the interval of a branch and of a second branch.
        paths: of the reverse SDE, for clones, U-turns, pushes and correlations.
        path_levels, refine: levels at which they are looked at, and steps of the sampler between two of them.
        probes: sample paths along which exponents are taken.
        exponent_levels: at as many levels.
        held_out: images for the nats.
        clusters: k-means centres as starts, where the images have no labels.
        seed: of all that is random.
    """

    step: float = 0.13
    eigenvalues: int = 6
    halves: int = 6
    second_halves: int = 3
    paths: int = 96
    path_levels: int = 18
    refine: int = 3
    probes: int = 10
    exponent_levels: int = 14
    held_out: int = 128
    clusters: int = 10
    seed: int = 0

    @classmethod
    def quick(cls, seed: int = 0) -> "Settings":
        """Settings for a look of about a minute."""
        return cls(0.25, 3, 2, 2, 24, 12, 2, 4, 8, 48, 10, seed)


# --- what is found ----------------------------------------------------------------------------------------------------


class Found(NamedTuple):
    """A level, what kind of level it is, and for a peak of lambda / c its height."""

    level: CriticalLevel
    kind: str
    ratio: float | None = None


@dataclass(frozen=True)
class Finding:
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


@dataclass(frozen=True, eq=False)
class BranchCurve:
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


@dataclass(frozen=True, eq=False)
class SpectrumCurve:
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


@dataclass(frozen=True, eq=False)
class PathCurve:
    """The leading eigenvalue over c along sample paths: times `(L,)`, ratios `(L, B)`."""

    t: list[float]
    ratio: np.ndarray


@dataclass(frozen=True, eq=False)
class Swarm:
    """One pixel's normalised values along paths: times `(L + 1,)`, values `(L + 1, n)`, and which pixel."""

    t: list[float]
    values: np.ndarray
    pixel: tuple[int, ...]


@dataclass(eq=False)
class Analysis:
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


# --- the task ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Subject:
    """One of the two denoisers, and the images that are held against it."""

    name: str
    denoiser: Denoiser
    images: Tensor
    symmetric: bool | None


@dataclass(frozen=True, eq=False)
class Task:
    """What is analysed, and where.

    Attributes:
        network, cloud: the two subjects.
        noise: gives the levels their t.
        levels: falling, in sigma, at which branches are followed.
        path_sigmas: falling, in sigma, for paths: from far above the data to far below.
        starts: `(k, *shape)`, class or cluster means, from which second branches are sought.
        prior: the Gaussian whose divergence is measured.
        classify: from samples to class indices, or None.
    """

    network: Subject
    cloud: Subject
    noise: Noise
    levels: list[float]
    path_sigmas: list[float]
    starts: Tensor
    prior: Gaussian
    classify: Classify | None
    settings: Settings

    @property
    def subjects(self) -> tuple[Subject, Subject]:
        """The point cloud first: its central point is where the network's is sought."""
        return self.cloud, self.network

    def half(self, number: int) -> PointCloud:
        """The point cloud of a random half of the images."""
        images, order = self.cloud.images, np.random.default_rng((self.settings.seed, number))
        return PointCloud(images[torch.from_numpy(order.permutation(len(images))[: len(images) // 2])])


def prepare(
    model: Any,
    scheduler: Any,
    images: Tensor,
    labels: Tensor | None = None,
    held_out: Tensor | None = None,
    *,
    prior: Gaussian | None = None,
    classify: Classify | None = None,
    t_range: tuple[float, float] | None = None,
    settings: Settings | None = None,
) -> Task:
    """Check what is given, and say where to look.

    Args:
        model, scheduler: the network, and the scheduler that it was trained with.
        images: `(n, *shape)`, in the model's value range: the points of the cloud.
        labels: `(n,)` class indices, whose means are starts of second branches; else clusters.
        held_out: `(m, *shape)`, images that the network has not seen; `images` themselves where there are none.
        prior: the Gaussian for the nats; fitted to `images` where there is none.
        classify: from samples `(B, *shape)` to class indices `(B,)`; without it clones and U-turns cannot be judged.
        t_range: lowest and highest t of the branches, in the scheduler's units; by default sigma from a quarter to
            four times the deviation of the data along its first principal direction.
        settings: how finely to look.

    Raises:
        ValueError: fewer than 20 images; images, held-out images and model that do not fit together; a range outside
            of the schedule; a network that returns another shape, NaN or infinite values (says at which level).
    """
    settings = settings or Settings()
    denoiser = from_diffusers(model, scheduler)
    noise = denoiser.noise
    held_out = images if held_out is None else held_out
    for name, given, least in (("images", images, 2 * FEWEST), ("held-out images", held_out, FEWEST)):
        if tuple(given.shape[1:]) != tuple(denoiser.shape) or len(given) < least:
            raise ValueError(
                f"expected at least {least} {name} of the model's shape {tuple(denoiser.shape)}, received "
                f"{tuple(given.shape)}"
            )
        enough(given, "analyze")
    prior = prior or Gaussian.fit(images.split(1024))
    deviation = _deviation(images)
    levels = _levels(noise, deviation, t_range, settings.step)
    _check(denoiser, held_out[:4], levels)
    low, high = noise.sigma_range
    path_sigmas = np.geomspace(min(6 * deviation, high), max(0.02 * deviation, low), settings.path_levels)
    return Task(
        Subject(NETWORK, denoiser, held_out, None),
        Subject(CLOUD, PointCloud(images), images, True),
        noise,
        levels,
        path_sigmas.clip(low, high).tolist(),
        _means(images, labels, settings),
        prior,
        classify,
        settings,
    )


def _deviation(images: Tensor) -> float:
    """The standard deviation of the images along their first principal direction.

    Raises:
        ValueError: the images are all the same.
    """
    rows = (images - images.mean(0)).flatten(1).double().cpu().numpy()
    if min(rows.shape) <= 64:
        top = float(np.linalg.svd(rows, compute_uv=False)[0])
    else:
        top = float(svds(rows, k=1, v0=np.ones(min(rows.shape)), return_singular_vectors=False)[0])
    if not top > 0:
        raise ValueError(f"expected images that differ, received {len(images)} times the same")
    return top / math.sqrt(len(rows) - 1)


def _levels(noise: Noise, deviation: float, t_range: tuple[float, float] | None, step: float) -> list[float]:
    low, high = noise.sigma_range
    if t_range is None:
        ends = max(deviation / 4, low), min(4 * deviation, high)
    else:
        ends = noise.sigma(float(t_range[0])), noise.sigma(float(t_range[1]))
    if not 0 < ends[0] < ends[1] < math.inf:
        raise ValueError(
            f"expected a range of times from low to high, with noise at both, received {t_range} (sigma from "
            f"{ends[0]:.4g} to {ends[1]:.4g})"
        )
    return np.geomspace(ends[1], ends[0], math.ceil(math.log(ends[1] / ends[0]) / step) + 1).clip(low, high).tolist()


@torch.no_grad()
def _check(denoiser: Denoiser, x_0: Tensor, levels: list[float]) -> None:
    """Before the work and not in it: the network answers at every level with finite values of the right shape."""
    noise = torch.randn(x_0.shape, generator=torch.Generator().manual_seed(0)).to(x_0)
    for sigma in levels:
        evaluate(denoiser, (x_0 + sigma * noise).to(denoiser.device, denoiser.dtype), sigma, "network")


def _means(images: Tensor, labels: Tensor | None, settings: Settings) -> Tensor:
    """Class means, or centres of clusters, `(k, *shape)`: the means of the noised classes in y too."""
    if labels is not None and len(labels.unique()) > 1:
        return torch.stack([images[labels == label].mean(0) for label in labels.unique()])
    rows = images.flatten(1).double().cpu().numpy()
    clusters = min(settings.clusters, len(np.unique(rows, axis=0)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an empty cluster: the centre is dropped below
        centres, index = kmeans2(rows, clusters, minit="++", seed=settings.seed)
    kept = torch.from_numpy(centres[np.unique(index)])
    return kept.view(-1, *images.shape[1:]).to(images)


# --- criteria ---------------------------------------------------------------------------------------------------------


def analyze(task: Task, criteria: Iterable[str] | None = None, progress: Progress | None = None) -> Analysis:
    """Find the level of each criterion, of both subjects.

    Args:
        task: what `prepare` returned.
        criteria: some of `CRITERIA`; all by default.
        progress: called as `progress(done, total, what)`.

    Raises:
        ValueError: an unknown criterion.
    """
    wanted = list(dict.fromkeys(criteria)) if criteria is not None else list(CRITERIA)
    unknown = [name for name in wanted if name not in CRITERIA]
    if unknown or not wanted:
        raise ValueError(f"expected criteria among {', '.join(CRITERIA)}, received {', '.join(unknown) or 'none'}")
    about = {"images": len(task.cloud.images), "held_out": len(task.network.images), "settings": asdict(task.settings)}
    analysis = Analysis(task.noise, about)
    for done, name in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), name)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            CRITERIA[name](task, analysis)
        analysis.notes += [f"{name}: {w.message}" for w in caught if issubclass(w.category, UserWarning)]
    if progress is not None:
        progress(len(wanted), len(wanted), "")
    return analysis


def _find(task: Task, analysis: Analysis, criterion: str, of: str, search: Callable[[], Found]) -> None:
    """Add what `search` finds, or the reason why it finds nothing."""
    try:
        found = search()
        level = found.level.on(task.noise)
    except ValueError as error:
        analysis.findings.append(Finding(criterion, of, "none", None, None, str(error)))
        return
    interval = None
    if level.interval is not None:
        low, high = analysis.times(level.interval)
        interval = (low, high)
    analysis.findings.append(Finding(criterion, of, found.kind, level, interval, level.how, found.ratio))


def _central(task: Task, analysis: Analysis, criterion: Criterion) -> None:
    """The ratio along the central branch, of the cloud, of its halves, and of the network."""
    for subject in task.subjects:
        try:
            follower, traced = _traced(task, analysis, criterion, subject.name)
        except ValueError as error:
            analysis.findings.append(Finding(criterion, subject.name, "none", None, None, str(error)))
            continue
        analysis.branches[criterion, subject.name] = _branch_curve(analysis, traced.points, traced.segment)
        analysis.spectra[criterion, subject.name] = _spectrum(analysis, follower, traced, task.settings.eigenvalues)
        halves = [_traced(task, analysis, criterion, k) for k in range(task.settings.halves)]
        halves = halves if subject is task.cloud else []
        if halves:
            stable = [[here for here in half.central if here.stable] for _, half in halves]
            analysis.halves[criterion] = [_branch_curve(analysis, points, [0] * len(points)) for points in stable]
        _find(task, analysis, criterion, subject.name, lambda f=follower, t=traced, h=halves: _stability(task, f, t, h))  # type: ignore[misc]
        analysis.notes += [f"{criterion}, {subject.name}: {error}" for error in traced.lost.values()]


def _traced(task: Task, analysis: Analysis, criterion: Criterion, whose: str | int) -> tuple[Follower, Trace]:
    """The central branch of a subject, or of a half of the images by its number, followed once.

    Raises:
        ConvergenceError: there is none at the highest level.
    """
    if (criterion, whose) not in analysis.traces:
        start = task.cloud.images.mean(0)
        if whose == NETWORK:
            start = _traced(task, analysis, criterion, CLOUD)[1].points[0].point
        subject = task.network if whose == NETWORK else task.cloud
        denoiser = task.half(whose) if isinstance(whose, int) else subject.denoiser
        follower = Follower(denoiser, criterion, subject.symmetric)
        if whose == NETWORK:
            follower = replace(follower, halvings=HALVINGS)
        analysis.traces[criterion, whose] = follower, trace(follower, task.levels, start)
    return analysis.traces[criterion, whose]


def _stability(task: Task, follower: Follower, traced: Trace, halves: list[tuple[Follower, Trace]]) -> Found:
    """The crossing, the fold or the peak of one branch, with the range over halves or the accuracy of the search."""
    found = _crossing_or_peak(follower, traced)
    level = found.level
    if not halves:
        same, tried = _agreeing(task, follower, traced.points[0])
        ends = level.interval or (level.sigma, level.sigma)
        how = f"{level.how}; {same} of {tried} starts lead to this branch"
        return found._replace(level=replace(level, interval=ends, how=how))
    others, missed = [], 0
    for half in halves:
        try:
            others.append(_crossing_or_peak(*half))
        except ValueError:
            missed += 1
    sigmas = [level.sigma, *(other.level.sigma for other in others)]
    crossed = sum(other.kind != "peak" for other in others)
    told = f"{level.how}; interval: {len(others)} random halves of the images"
    told += f", {crossed} of which lose their stability" if crossed else ", none of which crosses"
    lost = sum("was lost" in other.level.how for other in others)
    told += f", {lost} lost below their peak" if lost else ""
    told += f", {missed} without a level" if missed else ""
    return found._replace(level=replace(level, interval=(min(sigmas), max(sigmas)), how=told))


def _crossing_or_peak(follower: Follower, traced: Trace) -> Found:
    """The level of one branch, and "crossing", "fold" or "peak".

    Raises:
        ValueError: neither a crossing nor a peak inside the levels, or a branch that was lost before it had either.
    """
    try:
        level = critical_level(follower, traced, ACCURACY)
    except NoCrossing:
        return _highest(follower, traced.central, "no crossing")
    except ConvergenceError as lost:
        stable = [here for here in traced.central if here.stable]
        if len(stable) < 3:
            raise
        try:
            end = f"sigma = {stable[-1].sigma:.4g}"
            return _highest(follower, stable, f"no crossing down to {end}, where the branch was lost")
        except ValueError:
            raise lost from None
    return Found(level, "fold" if "fold" in level.how else "crossing")


def _highest(follower: Follower, curve: list[BranchPoint], told: str) -> Found:
    """The highest of the peaks of lambda / c inside a branch's levels; says so where an end is higher."""
    ratio = [here.ratio for here in curve]
    inner = [k for k in range(1, len(curve) - 1) if ratio[k - 1] <= ratio[k] >= ratio[k + 1]]
    if not inner:
        raise ValueError(
            f"no crossing, and no peak between sigma = {curve[0].sigma:.4g} and {curve[-1].sigma:.4g}: lambda / c is "
            f"highest, {max(ratio):.4f}, at an end of these levels"
        )
    top = max(inner, key=lambda k: ratio[k])
    best = peak(follower, curve[top - 1 : top + 2])
    told += f": lambda / c peaks at {best.ratio:.3f}"
    end = max(curve[0], curve[-1], key=lambda here: here.ratio)
    if end.ratio > best.ratio:
        told += f", and is {end.ratio:.3f} at sigma = {end.sigma:.4g}, an end of the levels"
    around = (best.sigma * math.exp(-ACCURACY), best.sigma * math.exp(ACCURACY))
    return Found(CriticalLevel(best.sigma, follower.criterion, told, around), "peak", best.ratio)


def _agreeing(task: Task, follower: Follower, top: BranchPoint) -> tuple[int, int]:
    """How many starts lead to the fixed point at the highest level, of how many."""
    starts, same = [torch.zeros_like(top.point), *task.starts.double()], 0
    near = 0.01 * top.sigma * math.sqrt(top.point.numel())
    for start in starts:
        try:
            found = fixed_point(follower.denoiser, top.sigma, follower.criterion, start)
        except ConvergenceError:
            continue
        same += (found.point - top.point).norm().item() < near
    return same, len(starts)


def _branch_curve(analysis: Analysis, points: list[BranchPoint], segment: list[int]) -> BranchCurve:
    return BranchCurve(
        analysis.times(p.sigma for p in points),
        [p.sigma for p in points],
        [p.ratio for p in points],
        segment,
        [math.nan if p.spectrum.asymmetry is None else p.spectrum.asymmetry for p in points],
        [p.fixed.residual for p in points],
        [p.point.cpu() for p in points],
        [p.spectrum.vectors[0].real.cpu() for p in points],
    )


def _spectrum(analysis: Analysis, follower: Follower, traced: Trace, k: int) -> SpectrumCurve:
    """The k leading eigenvalues at each point before the first break of the branch, stable or not."""
    points = [here for here, segment in zip(traced.points, traced.segment) if segment == 0]
    spectra = [follower.spectrum(here, min(k, here.point.numel())) for here in points]
    ratio = np.stack([s.values.real[:k] / constant(follower.criterion, p.sigma) for s, p in zip(spectra, points)])
    top, t = int(ratio[:, 0].argmax()), analysis.times(here.sigma for here in points)
    return SpectrumCurve(t, ratio, t[top], spectra[top].vectors.real[:k].cpu())


def _second_branch(task: Task, analysis: Analysis) -> None:
    for criterion in BOTH:
        for subject in task.subjects:
            name = f"{criterion}, second branch"
            _find(task, analysis, name, subject.name, lambda c=criterion, s=subject: _second(task, analysis, c, s))  # type: ignore[misc]


def _second(task: Task, analysis: Analysis, criterion: Criterion, subject: Subject) -> Found:
    """The level of the whole, with the range over halves of the images for the cloud."""

    def search(whose: str | int) -> CriticalLevel:
        follower, traced = _traced(task, analysis, criterion, whose)
        options: dict[str, Any] = {"symmetric": subject.symmetric, "xtol": ACCURACY, "along": traced.central}
        return second_branch(follower.denoiser, task.starts, criterion, **options)

    level = search(subject.name)
    if subject is task.network:
        return Found(level, "level")
    sigmas, missed = [level.sigma], 0
    for half in range(task.settings.second_halves):
        try:
            sigmas.append(search(half).sigma)
        except ValueError:
            missed += 1
    how = f"{level.how}; interval: {len(sigmas) - 1} random halves of the images"
    how += f", {missed} more without a level" if missed else ""
    return Found(replace(level, interval=(min(sigmas), max(sigmas)), how=how), "level")


def _exponents(task: Task, analysis: Analysis) -> None:
    """Along paths of each subject's own reverse SDE, from far above the data to the lowest level of the branches."""
    settings = task.settings
    sigmas = np.geomspace(task.path_sigmas[0], task.levels[-1], settings.exponent_levels).tolist()
    for subject in task.subjects:
        try:
            along = _along(subject, sigmas, settings)
        except ValueError as error:
            names = [f"{criterion}, along paths" for criterion in BOTH]
            analysis.findings += [Finding(name, subject.name, "none", None, None, str(error)) for name in names]
            continue
        for criterion in BOTH:
            here = along.under(criterion)
            analysis.exponents[criterion, subject.name] = PathCurve(analysis.times(sigmas), here.ratio)
            curve = here.curve()
            _find(task, analysis, curve.criterion, subject.name, lambda curve=curve: _zero_or_peak(curve))  # type: ignore[misc]


def _along(subject: Subject, sigmas: list[float], settings: Settings) -> Exponents:
    """The leading eigenvalue at each level along a few of the sample paths."""
    count = max(FEWEST, settings.probes)
    _, states = critical.paths(subject.denoiser, n=count, sigmas=sigmas, seed=settings.seed)
    paths = states[:-1, : settings.probes]
    # the cloud's Jacobian is symmetric, a network's is not: nothing to measure anew at every sample
    return path_exponents(subject.denoiser, paths, sigmas, "density", symmetric=bool(subject.symmetric))


def _zero_or_peak(curve: Curve) -> Found:
    try:
        level, kind = curve.level(), "crossing"
    except ValueError:
        level, kind = curve.peak(), "peak"
    at = int((curve.sigma.log() - math.log(level.sigma)).abs().argmin())
    value, spread = curve.samples[:, at].mean().item(), curve.samples[:, at].std().item()
    told = "no crossing of 0, peak" if kind == "peak" else "crosses 0"
    how = f"{level.how}; {told}; at the nearest level {value:.2f}, spread over samples {spread:.2f}"
    return Found(replace(level, how=how), kind)


def _speciation(task: Task, analysis: Analysis) -> None:
    _find(task, analysis, "speciation", DATA, lambda: Found(critical.speciation(task.cloud.images), "level"))


def _collapse(task: Task, analysis: Analysis) -> None:
    images, seed = task.cloud.images, task.settings.seed
    _find(task, analysis, "collapse", DATA, lambda: Found(critical.collapse(images, seed=seed), "level"))
    _find(
        task,
        analysis,
        "collapse, condensation",
        DATA,
        lambda: Found(critical.collapse(images, by="condensation", seed=seed), "level"),
    )


def _sampled(name: str, curve_of: Callable[[Task, Subject], Curve]) -> Callable[[Task, Analysis], None]:
    """A criterion that is read from a curve of each subject."""

    def criterion(task: Task, analysis: Analysis) -> None:
        for subject in task.subjects:
            _find(task, analysis, name, subject.name, lambda s=subject: _of_curve(task, analysis, name, s))  # type: ignore[misc]

    def _of_curve(task: Task, analysis: Analysis, name: str, subject: Subject) -> Found:
        curve = curve_of(task, subject)
        analysis.curves[name, subject.name] = curve
        return Found(curve.level(), "peak" if curve.threshold is None else "level")

    return criterion


def _options(task: Task) -> dict[str, Any]:
    return {"sigmas": task.path_sigmas, "refine": task.settings.refine, "seed": task.settings.seed}


def _clones(task: Task, subject: Subject) -> Curve:
    return critical.clone_curve(subject.denoiser, task.classify, n=max(FEWEST, task.settings.paths), **_options(task))


def _uturns(task: Task, subject: Subject) -> Curve:
    images = subject.images[: max(FEWEST, task.settings.paths)]
    return critical.uturn_curve(subject.denoiser, images, task.classify, **_options(task))


def _pushes(task: Task, subject: Subject) -> Curve:
    return critical.susceptibility_curve(subject.denoiser, n=max(FEWEST, task.settings.paths), **_options(task))


def _correlations(task: Task, subject: Subject) -> Curve:
    return critical.correlation_curve(subject.denoiser, n=max(FEWEST, task.settings.paths), **_options(task))


def _pixels(task: Task, analysis: Analysis) -> None:
    """Normalised trajectories; the level where the pixels' correlation with their final values is 1/2 on average."""
    for subject in task.subjects:
        _find(task, analysis, "pixels", subject.name, lambda s=subject: _of_pixels(task, analysis, s))  # type: ignore[misc]


def _of_pixels(task: Task, analysis: Analysis, subject: Subject) -> Found:
    n = max(FEWEST, task.settings.paths)
    sigma, states = critical.paths(subject.denoiser, n=n, **_options(task))
    curve = critical.pixel_correlation(sigma, states)
    analysis.curves["pixels", subject.name] = curve
    most = int(states[-1].std(0).argmax())
    pixel = tuple(int(i) for i in np.unravel_index(most, states.shape[2:]))
    shown = critical.normalised(states).flatten(2)[:, :, most].numpy()
    analysis.swarms[subject.name] = Swarm(analysis.times(sigma), shown, pixel)
    return Found(curve.level(), "level")


def _nats(task: Task, analysis: Analysis) -> None:
    """The network on held-out images; the cloud, which is exact on its own points, on those."""
    for subject in task.subjects:
        of = subject.name
        try:
            images = subject.images[: task.settings.held_out]
            exact = subject is task.cloud
            prior = Gaussian.fit(task.cloud.images.split(1024)) if exact else task.prior
            analysis.nats[of] = nats(subject.denoiser, prior, images, exact=exact, seed=task.settings.seed)
        except ValueError as error:
            names = [f"{budget:g} nats" for budget in BUDGETS]
            analysis.findings += [Finding(name, of, "none", None, None, str(error)) for name in names]
            continue
        for budget in BUDGETS:
            _find(
                task,
                analysis,
                f"{budget:g} nats",
                of,
                lambda o=of, b=budget: Found(analysis.nats[o].level(b), "level"),  # type: ignore[misc]
            )


CRITERIA: dict[str, Callable[[Task, Analysis], None]] = {
    "density": lambda task, analysis: _central(task, analysis, "density"),
    "sde": lambda task, analysis: _central(task, analysis, "sde"),
    "second-branch": _second_branch,
    "exponents": _exponents,
    "speciation": _speciation,
    "collapse": _collapse,
    "clone": _sampled("clone", _clones),
    "uturn": _sampled("uturn", _uturns),
    "susceptibility": _sampled("susceptibility", _pushes),
    "correlation": _sampled("correlation", _correlations),
    "pixels": _pixels,
    "nats": _nats,
}
