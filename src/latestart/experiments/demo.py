"""The main job on real images: full noise against late start, at equal network evaluations.

For DDIM and DDPM at 3, 5 and 10 evaluations, the Frechet distance to the training set from

    none        N(0, I) at the top of the schedule, with leading and trailing spacing, clipped and unclipped;
                the best of the four is the baseline
    isotropic   N(0, I) at each late start, clipped and unclipped
    gaussian    the Gaussian fitted to the training images, noised to each late start, clipped and unclipped

with the same seeds everywhere. Expected on the shipped MNIST model with DDIM: the Gaussian at its best start is better
than the baseline by at least 2.2x at 3 evaluations, 1.4x at 5 and 1.1x at 10.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from latestart import zoo
from latestart.evaluation.quality import Estimate, FrechetTo, interval
from latestart.sampling.generate import generate
from latestart.sampling.samplers import make_sampler

SAMPLERS, EVALUATIONS, STARTS = ("ddim", "ddpm"), (3, 5, 10), (400, 500, 600, 700)
SHOWN = 16
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Cell:
    """One way to sample: `t_start` is None from full noise, in the scheduler's t (of 1,000) from a late start."""

    sampler: str
    nfe: int
    prior: str
    spacing: str
    clip: bool
    t_start: int | None


@dataclass(frozen=True)
class Measured:
    """A cell with its Frechet distance, the bootstrap replicates of it, and its first images `(16, C, H, W)`."""

    cell: Cell
    frechet: Estimate
    replicates: Tensor
    images: Tensor

    def row(self, samples: int, seed: int) -> dict[str, Any]:
        """The cell as a row of `results.json`."""
        quality = {"frechet": self.frechet.value, "low": self.frechet.low, "high": self.frechet.high}
        return {**asdict(self.cell), **quality, "samples": samples, "seed": seed}


def cells() -> Iterator[Cell]:
    """Every cell of the table."""
    for sampler, nfe, clip in product(SAMPLERS, EVALUATIONS, (False, True)):
        for spacing in ("leading", "trailing"):
            yield Cell(sampler, nfe, "none", spacing, clip, None)
        for prior, t_start in product(("isotropic", "gaussian"), STARTS):
            yield Cell(sampler, nfe, prior, "trailing", clip, t_start)


def measure(bundle: zoo.Bundle, cell: Cell, to_train: FrechetTo, samples: int, seed: int) -> Measured:
    """Sample one cell and take its distance to the training set.

    Raises:
        RuntimeError: the sampler spent another number of evaluations than the cell says.
    """
    scheduler = make_sampler(cell.sampler, bundle.scheduler, timestep_spacing=cell.spacing, clip_sample=cell.clip)
    prior = bundle.prior if cell.prior == "gaussian" else None
    result = generate(bundle.model, scheduler, prior, samples, cell.nfe, cell.t_start, seed)
    if result.nfe != cell.nfe:
        raise RuntimeError(f"{cell} spent {result.nfe} evaluations for each sample")
    features = bundle.features(result.images)
    replicates = to_train.replicates(features)
    return Measured(cell, interval(replicates, to_train(features)), replicates, result.images[:SHOWN])


def run(samples: int = 500, seed: int = 0, name: str = "mnist", progress: Progress | None = None) -> list[Measured]:
    """Measure every cell on a shipped model; `progress(done, total, what)` is called after each."""
    bundle = zoo.load(name)
    to_train = FrechetTo(bundle.statistics("train"))
    work = list(cells())
    measured = []
    for cell in work:
        measured.append(measure(bundle, cell, to_train, samples, seed))
        if progress is not None:
            done = sum(m.cell.nfe for m in measured)
            progress(done, sum(c.nfe for c in work), f"{cell.sampler}, NFE {cell.nfe}, {cell.prior}")
    return measured


def floor(samples: int, name: str = "mnist") -> dict[str, float]:
    """The distance of as many test images (at most 4,000) to the training set: what a perfect sampler would score."""
    bundle = zoo.load(name)
    images = torch.cat([bundle.images(which).unit() for which in ("heldout-a", "heldout-b")])[:samples]
    return {"samples": len(images), "frechet": FrechetTo(bundle.statistics("train"))(bundle.features(images))}


@dataclass(frozen=True)
class Comparison:
    """One sampler at one number of evaluations: the best of each kind, and what the late start gains.

    `gain` is the baseline's distance over the Gaussian's, `gain_trailing` that of trailing, unclipped full noise over
    it, `gain_isotropic` that of the best isotropic start; each with the interval of paired bootstrap replicates.
    """

    sampler: str
    nfe: int
    baseline: Measured
    trailing: Measured
    isotropic: Measured
    gaussian: Measured
    gain: Estimate
    gain_trailing: Estimate
    gain_isotropic: Estimate


def compare(measured: list[Measured]) -> list[Comparison]:
    """The best of each kind, by sampler and evaluations."""
    return [_comparison(measured, sampler, nfe) for sampler, nfe in product(SAMPLERS, EVALUATIONS)]


def _comparison(measured: list[Measured], sampler: str, nfe: int) -> Comparison:
    mine = [m for m in measured if (m.cell.sampler, m.cell.nfe) == (sampler, nfe)]
    best = {kind: best_of(mine, kind) for kind in ("none", "isotropic", "gaussian")}
    trailing = next(m for m in mine if m.cell.prior == "none" and m.cell.spacing == "trailing" and not m.cell.clip)
    gains = [ratio(other, best["gaussian"]) for other in (best["none"], trailing, best["isotropic"])]
    return Comparison(sampler, nfe, best["none"], trailing, best["isotropic"], best["gaussian"], *gains)


def best_of(measured: list[Measured], prior: str, t_start: int | None = None) -> Measured:
    """The cell of one kind (at one start, if given) with the lowest distance."""
    kind = [m for m in measured if m.cell.prior == prior and t_start in (None, m.cell.t_start)]
    return min(kind, key=lambda m: m.frechet.value)


def ratio(worse: Measured, better: Measured) -> Estimate:
    """The ratio of two distances with its paired bootstrap interval."""
    value = worse.frechet.value / better.frechet.value
    return interval(worse.replicates / better.replicates.clamp(min=torch.finfo(torch.float64).tiny), value)


def results(measured: list[Measured], samples: int, seed: int, name: str = "mnist") -> dict[str, Any]:
    """All figures of the demo, ready for `results.json`."""
    gains = [
        {"sampler": c.sampler, "nfe": c.nfe}
        | {kind: asdict(getattr(c, kind)) for kind in ("gain", "gain_trailing", "gain_isotropic")}
        for c in compare(measured)
    ]
    return {
        "model": name,
        "features": zoo.load(name).features.name,
        "floor": floor(samples, name),
        "rows": [m.row(samples, seed) for m in measured],
        "gains": gains,
    }
