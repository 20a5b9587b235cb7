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
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from latestart.data import Images
from latestart.experiments.analysis import (
    CLOUD,
    DATA,
    NETWORK,
    Analysis,
    BranchCurve,
    Finding,
    Found,
    PathCurve,
    SpectrumCurve,
    Swarm,
)
from latestart.experiments.analysis_task import Settings, Subject, Task
from latestart.gaussians.gaussian import Gaussian
from latestart.theory import critical
from latestart.theory.branches import BranchPoint, Criterion, Follower, constant, fixed_point
from latestart.theory.exponents import Exponents, path_exponents
from latestart.theory.jacobian import ConvergenceError
from latestart.theory.levels import FEWEST, CriticalLevel, Curve
from latestart.theory.nats import nats
from latestart.theory.stability import NoCrossing, Trace, critical_level, peak, second_branch, trace

BOTH: tuple[Criterion, ...] = ("density", "sde")
BUDGETS = (0.5, 1.0, 2.0)
ACCURACY = 1e-3  # of a peak, in log sigma
HALVINGS = 3  # of a step along a network's branch: near a fold each one that fails is dear there
Progress = Callable[[int, int, str], None]


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
            prior = Gaussian.fit(Images(task.cloud.images)) if exact else task.prior
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
