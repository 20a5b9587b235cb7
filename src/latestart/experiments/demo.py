"""The main job on real images: full noise against late start, at equal network evaluations.

For DDIM and DDPM at 3, 5 and 10 evaluations, the Frechet distance to the training set from

    none        N(0, I) at the top of the schedule, with leading and trailing spacing, clipped and unclipped;
                the best of the four is the baseline
    isotropic   N(0, I) at each late start, clipped and unclipped
    gaussian    the Gaussian fitted to the training images, noised to each late start, clipped and unclipped
    mixture     the mixture of Gaussians of the training images, noised to each late start, clipped and unclipped

with the same seed everywhere. The best of each kind is sampled again with the next seed, and it is those samples that
the figures are of: the best of many noisy figures looks better than it is. Beside each distance stand the recall,
against the images kept of the training set, and the share of copies (`evaluation/copying.py`); beside the table, both
for DDIM from full noise in 100 steps.

Expected on the shipped MNIST model with DDIM: the Gaussian at its best start is better than the baseline by at least
2.2x at 3 evaluations, 1.4x at 5 and 1.1x at 10; the mixture is better than the Gaussian everywhere.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor

from latestart import zoo
from latestart.device import own_device
from latestart.evaluation.quality import Estimate, FrechetTo
from latestart.lab.judge import Figures, over, shipped_judge
from latestart.records import Record
from latestart.sampling.generate import generate
from latestart.sampling.samplers import make_sampler

SAMPLERS, EVALUATIONS = ("ddim", "ddpm"), (3, 5, 10)
STARTS = {"isotropic": (600, 700), "gaussian": (500, 600, 700), "mixture": (300, 400, 500)}
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


@dataclass(frozen=True, eq=False, repr=False)
class Measured(Record):
    """A cell with its figures, the seed of its samples, and the first of their images `(16, C, H, W)`."""

    cell: Cell
    figures: Figures
    images: Tensor
    seed: int

    def row(self, samples: int) -> dict[str, Any]:
        """The cell as a row of `results.json`."""
        frechet = self.figures.frechet
        quality = {"frechet": frechet.value, "low": frechet.low, "high": frechet.high}
        beside = {name: asdict(getattr(self.figures, name)) for name in ("recall", "copied")}
        return {**asdict(self.cell), **quality, **beside, "samples": samples, "seed": self.seed}


@dataclass(frozen=True)
class Table:
    """Every cell as it was tried, and the best of each kind, drawn again with the next seed; the reference likewise."""

    tried: list[Measured]
    again: list[Measured]
    reference: Measured

    def redrawn(self, cell: Cell) -> Measured:
        """A cell that was drawn again."""
        return next(m for m in self.again if m.cell == cell)


def cells() -> Iterator[Cell]:
    """Every cell of the table."""
    for sampler, nfe, clip in product(SAMPLERS, EVALUATIONS, (False, True)):
        for spacing in ("leading", "trailing"):
            yield Cell(sampler, nfe, "none", spacing, clip, None)
        for prior, starts in STARTS.items():
            for t_start in starts:
                yield Cell(sampler, nfe, prior, "trailing", clip, t_start)


REFERENCE = Cell("ddim", 100, "none", "trailing", False, None)


def measure(
    model: Any, bundle: zoo.Bundle, cell: Cell, judge: Callable[[Tensor], Figures], samples: int, seed: int
) -> Measured:
    """Sample one cell from a network, with the priors of its bundle, and take its figures.

    Raises:
        RuntimeError: the sampler spent another number of evaluations than the cell says.
    """
    scheduler = make_sampler(cell.sampler, bundle.scheduler, spacing=cell.spacing, clip_sample=cell.clip)
    late = {"gaussian": lambda: bundle.prior, "mixture": lambda: bundle.mixture}
    prior: Any = late[cell.prior]() if cell.prior in late else None
    result = generate(model, scheduler, prior, samples, cell.nfe, cell.t_start, seed)
    if result.nfe != cell.nfe:
        raise RuntimeError(f"{cell} spent {result.nfe} evaluations for each sample")
    images = result.images.cpu()
    return Measured(cell, judge(images), images[:SHOWN], seed)


def run(
    samples: int = 500,
    seed: int = 0,
    name: str = "mnist",
    progress: Progress | None = None,
    mixed_precision: str = "no",
) -> Table:
    """Measure every cell with `seed`, and the best of each kind and the reference with `seed + 1`, on a shipped model.

    `progress(done, total, what)` is told after each, of evaluations for each sample.
    """
    bundle = zoo.load(name)
    model, _, _ = zoo.open_model(name, device=own_device(), mixed_precision=mixed_precision)
    judge = shipped_judge(bundle)
    work, spent = list(cells()), 0

    def measure_all(some: list[Cell], seed: int, to_come: int) -> list[Measured]:
        nonlocal spent
        measured = []
        total = spent + sum(c.nfe for c in some) + to_come
        for cell in some:
            measured.append(measure(model, bundle, cell, judge, samples, seed))
            spent += cell.nfe
            if progress is not None:
                progress(spent, total, f"{cell.sampler}, NFE {cell.nfe}, {cell.prior}")
        return measured

    kinds = len(STARTS) + 2
    tried = measure_all(work, seed, kinds * len(SAMPLERS) * sum(EVALUATIONS) + REFERENCE.nfe)
    again = measure_all([*winners(tried), REFERENCE], seed + 1, 0)
    return Table(tried, again[:-1], again[-1])


def winners(tried: list[Measured]) -> list[Cell]:
    """The best cell of each kind for each sampler and number of evaluations, and trailing, unclipped full noise."""
    found: dict[Cell, None] = {}
    for sampler, nfe in product(SAMPLERS, EVALUATIONS):
        mine = [m for m in tried if (m.cell.sampler, m.cell.nfe) == (sampler, nfe)]
        found |= dict.fromkeys((*(best_of(mine, kind).cell for kind in ("none", *STARTS)), _trailing(sampler, nfe)))
    return list(found)


def _trailing(sampler: str, nfe: int) -> Cell:
    return Cell(sampler, nfe, "none", "trailing", False, None)


def floor(samples: int, name: str = "mnist") -> dict[str, float]:
    """The distance of test images, as many as samples, to the training set: the score of a perfect sampler."""
    bundle = zoo.load(name)
    images = torch.cat([bundle.images(which).unit() for which in ("heldout-a", "heldout-b")])[:samples]
    return {"samples": len(images), "frechet": FrechetTo(bundle.statistics("train"))(bundle.features(images))}


@dataclass(frozen=True)
class Comparison:
    """One sampler at one number of evaluations: the best of each kind, and what the late start gains.

    `gain` is the baseline's distance over the Gaussian's, `gain_trailing` that of trailing, unclipped full noise over
    it, `gain_isotropic` that of the best isotropic start; `mixture_gain` is the baseline's over the mixture's,
    `mixture_gain_gaussian` the Gaussian's over it. Each has the interval of paired bootstrap replicates.
    """

    sampler: str
    nfe: int
    baseline: Measured
    trailing: Measured
    isotropic: Measured
    gaussian: Measured
    mixture: Measured
    gain: Estimate
    gain_trailing: Estimate
    gain_isotropic: Estimate
    mixture_gain: Estimate
    mixture_gain_gaussian: Estimate


GAINS = ("gain", "gain_trailing", "gain_isotropic", "mixture_gain", "mixture_gain_gaussian")


def compare(table: Table) -> list[Comparison]:
    """The best of each kind by sampler and evaluations: chosen among what was tried, with the figures drawn again."""
    return [_comparison(table, sampler, nfe) for sampler, nfe in product(SAMPLERS, EVALUATIONS)]


def _comparison(table: Table, sampler: str, nfe: int) -> Comparison:
    mine = [m for m in table.tried if (m.cell.sampler, m.cell.nfe) == (sampler, nfe)]
    none, isotropic, gaussian, mixture = (table.redrawn(best_of(mine, kind).cell) for kind in ("none", *STARTS))
    trailing = table.redrawn(_trailing(sampler, nfe))
    return Comparison(
        sampler,
        nfe,
        baseline=none,
        trailing=trailing,
        isotropic=isotropic,
        gaussian=gaussian,
        mixture=mixture,
        gain=over(none.figures, gaussian.figures),
        gain_trailing=over(trailing.figures, gaussian.figures),
        gain_isotropic=over(isotropic.figures, gaussian.figures),
        mixture_gain=over(none.figures, mixture.figures),
        mixture_gain_gaussian=over(gaussian.figures, mixture.figures),
    )


def best_of(measured: list[Measured], prior: str, t_start: int | None = None) -> Measured:
    """The cell of one kind (at one start, if given) with the lowest distance."""
    kind = [m for m in measured if m.cell.prior == prior and t_start in (None, m.cell.t_start)]
    return min(kind, key=lambda m: m.figures.frechet.value)


def results(table: Table, samples: int, name: str = "mnist") -> dict[str, Any]:
    """All figures of the demo, ready for `results.json`: those tried, and those drawn again with the next seed."""
    gains = [
        {"sampler": c.sampler, "nfe": c.nfe} | {kind: asdict(getattr(c, kind)) for kind in GAINS}
        for c in compare(table)
    ]
    return {
        "model": name,
        "features": zoo.load(name).features.name,
        "floor": floor(samples, name),
        "tried": [m.row(samples) for m in table.tried],
        "rows": [m.row(samples) for m in (*table.again, table.reference)],
        "gains": gains,
    }
