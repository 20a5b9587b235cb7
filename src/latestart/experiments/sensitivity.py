"""How far off may the start be? Quality against the start of a late start, at a fine grid of starts.

For DDIM with 3, 5 and 10 evaluations, started from the Gaussian of the training images and, where the bundle has one,
from their mixture, the Frechet distance d(t) to the training set at every start t of a grid, all with the same white
noise. The window of a curve is the run of starts around the best one with

    d(t) <= 1.05 d(best),

its ends linear in t between two starts of the grid. It is given in t, and in nats by the divergence of held-out images
from the prior at both ends (`theory/nats.py`): how wrong the prior may be, from the most that is still good (the low
end in t) to the least. Its interval is that of the windows of the bootstrap replicates; the resamples are the same at
every start, so that they move together as the curve does, but a resampled curve is rougher than the curve, and its
window rather narrower. A window that reaches an end of the grid is at least so wide.

Starts are those that were run: a truncated schedule begins at a multiple of the number of steps.

Expected on the shipped MNIST model: from the Gaussian with 3, 5 and 10 evaluations the best starts are near 500, 575
and 650, and the windows about 80, 120 and 240 wide: the more evaluations, the earlier one can start and the less it
matters, while at 350, 8 nats off, all three are as bad as each other. From the mixture the best starts are lower, and
its gain is lost within 50 above t = 500: what was decided for the samples there, the network decides anew.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart import zoo
from latestart.evaluation.quality import Estimate, FrechetTo, interval
from latestart.experiments.gaussianity import divergence, nats_at
from latestart.noise import Noise
from latestart.sampling.loop import draw
from latestart.sampling.matching import check_prior
from latestart.sampling.samplers import make_sampler
from latestart.theory.nats import NatsCurve

EVALUATIONS = (3, 5, 10)
STARTS = {"gaussian": (350, 800), "mixture": (200, 650)}  # lowest and highest, of 1,000
STEP = 25
WITHIN = 0.05  # of the best
RESAMPLES = 100
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Window:
    """The starts within 5% of the best of a curve.

    Attributes:
        best: the best start, in t.
        low, high: the ends, in t, each with its interval over resamples.
        width: their difference, likewise.
        nats_low, nats_high: divergence of the data from the prior at the high end and at the low end.
        closed: whether the curve rises above the bound on the low and on the high side, within the grid.
    """

    best: float
    low: Estimate
    high: Estimate
    width: Estimate
    nats_low: float
    nats_high: float
    closed: tuple[bool, bool]


@dataclass(frozen=True)
class Curve:
    """The distance at each start, for one prior and one number of evaluations.

    Attributes:
        prior: "gaussian" or "mixture".
        nfe: evaluations for each sample, as counted.
        t: the starts that were run, rising, `(S,)`.
        sigma: their levels, `(S,)`.
        nats: divergence of held-out images from the prior there, `(S,)`.
        frechet: the distances, with their intervals.
        relative: the distances over that of the best start, each with the interval of paired replicates.
        window: the starts within 5% of the best.
    """

    prior: str
    nfe: int
    t: np.ndarray
    sigma: np.ndarray
    nats: np.ndarray
    frechet: list[Estimate]
    relative: list[Estimate]
    window: Window

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        arrays = {name: getattr(self, name).tolist() for name in ("t", "sigma", "nats")}
        return {**asdict(self), **arrays}


def run(
    samples: int = 500,
    seed: int = 0,
    step: int = STEP,
    name: str = "mnist",
    evaluations: tuple[int, ...] = EVALUATIONS,
    starts: dict[str, tuple[int, int]] | None = None,
    progress: Progress | None = None,
) -> list[Curve]:
    """Every curve on a shipped model; `progress(done, total, what)` counts evaluations of the network for one sample.

    Raises:
        ValueError: fewer than 2 samples, or a grid of fewer than 3 starts.
    """
    bundle = zoo.load(name)
    priors = available_priors(bundle, starts or STARTS)
    grids = {prior: _grid(low, high, step) for prior, (_, low, high) in priors.items()}
    total, done = sum(map(len, grids.values())) * sum(evaluations), 0
    to_train, curves = FrechetTo(bundle.statistics("train")), []
    for prior, (distribution, *_) in priors.items():
        check_prior(bundle.model, bundle.scheduler, distribution)
        nats = divergence(bundle, distribution)
        for nfe in evaluations:
            measured = []
            for point in _measure(bundle, distribution, nfe, grids[prior], to_train, samples, seed):
                measured.append(point)
                done += nfe
                if progress is not None:
                    progress(done, total, f"{prior}, NFE {nfe}, t = {point.t:.0f}")
            curves.append(_curve(prior, nfe, measured, nats))
    return curves


def available_priors(bundle: zoo.Bundle, starts: dict[str, tuple[int, int]]) -> dict[str, tuple[Any, int, int]]:
    """By name, the priors that the bundle has a file of, each with its lowest and highest start."""
    files = {"gaussian": "prior", "mixture": "mixture"}
    kept = [name for name in starts if (bundle.path / f"{files[name]}.safetensors").is_file()]
    return {name: (getattr(bundle, files[name]), *starts[name]) for name in kept}


@dataclass(frozen=True)
class _Point:
    t: float
    sigma: float
    frechet: Estimate
    replicates: Tensor


def _measure(
    bundle: zoo.Bundle, prior: Any, nfe: int, grid: list[int], to_train: FrechetTo, samples: int, seed: int
) -> Iterator[_Point]:
    scheduler = make_sampler("ddim", bundle.scheduler, clip_sample=False)
    noise = Noise.from_scheduler(scheduler)
    for t_start in grid:
        result = draw(bundle.model, scheduler, prior, samples, nfe, t_start, seed)
        features = bundle.features(result.images)
        replicates = to_train.replicates(features, RESAMPLES)
        t = round(noise.time(result.sigma)) + 1.0
        yield _Point(t, result.sigma, interval(replicates, to_train(features)), replicates)


def _grid(low: int, high: int, step: int) -> list[int]:
    grid = list(range(low, high + 1, step))
    if len(grid) < 3:
        raise ValueError(f"a window needs at least 3 starts, received {grid} from {low} to {high} by {step}")
    return grid


def _curve(prior: str, nfe: int, points: list[_Point], nats: NatsCurve) -> Curve:
    points = list({p.t: p for p in points}.values())  # two starts of a fine grid can be cut to the same
    t, sigma = np.array([p.t for p in points]), np.array([p.sigma for p in points])
    left = np.array([nats_at(nats, s) for s in sigma])
    replicates = torch.stack([p.replicates for p in points], 1).numpy()
    d = np.array([p.frechet.value for p in points])
    relative = [
        interval(torch.from_numpy(replicates[:, i] / replicates[:, d.argmin()]), value / d.min())
        for i, value in enumerate(d.tolist())
    ]
    window = find_window(t, d, replicates, left)
    return Curve(prior, nfe, t, sigma, left, [p.frechet for p in points], relative, window)


def find_window(t: np.ndarray, d: np.ndarray, replicates: np.ndarray, nats: np.ndarray) -> Window:
    """The starts within 5% of the best.

    Args:
        t: rising starts, `(S,)`.
        d: the distance at each.
        replicates: of the distances, resampled alike, `(R, S)`.
        nats: the divergence at each start.
    """
    low, high = window_ends(t, d)
    spread = torch.from_numpy(np.array([window_ends(t, row) for row in replicates]))
    nats_low, nats_high = np.interp([high, low], t, nats).tolist()
    return Window(
        best=float(t[d.argmin()]),
        low=interval(spread[:, 0], low),
        high=interval(spread[:, 1], high),
        width=interval(spread[:, 1] - spread[:, 0], high - low),
        nats_low=nats_low,
        nats_high=nats_high,
        closed=(bool(low > t[0]), bool(high < t[-1])),
    )


def window_ends(t: np.ndarray, d: np.ndarray, within: float = WITHIN) -> tuple[float, float]:
    """Where `d` first rises above `(1 + within) min(d)` on either side of its minimum, linear between points."""
    best, bound = int(d.argmin()), (1 + within) * d.min()
    return _end(t[best::-1], d[best::-1], bound), _end(t[best:], d[best:], bound)


def _end(t: np.ndarray, d: np.ndarray, bound: float) -> float:
    above = np.flatnonzero(d > bound)
    if not len(above):
        return float(t[-1])
    i = above[0]
    return float(t[i - 1] + (bound - d[i - 1]) / (d[i] - d[i - 1]) * (t[i] - t[i - 1]))


def results(curves: list[Curve], samples: int, seed: int, name: str = "mnist") -> dict[str, Any]:
    """All figures of the experiment, ready for `results.json`."""
    return {
        "model": name,
        "samples": samples,
        "seed": seed,
        "within": WITHIN,
        "features": zoo.load(name).features.name,
        "curves": [curve.record() for curve in curves],
    }
