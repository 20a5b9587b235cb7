"""Precision, recall and coverage: how many samples are real, and how much of the data is sampled.

In a feature space, each set is stood for by balls around its points, whose radius is the distance to the k-th nearest
other point of the same set (k = 3). With A the real and B the sampled features,

    precision   share of B inside some ball of A            (Kynkaanniemi et al. 2019)
    recall      share of A inside some ball of B
    coverage    share of A whose own ball holds some of B   (Naeem et al. 2020; k = 5)

Recall and precision depend on the numbers of both sets: compare at equal ones. Coverage does not reward a few stray
samples with wide balls, which recall does.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.evaluation.distances import distances
from latestart.evaluation.quality import Estimate, as_features, interval, resampled
from latestart.records import Record

__all__ = ["FEWEST", "OverlapWith"]

NEIGHBOURS = 3
COVERAGE_NEIGHBOURS = 5
FEWEST = max(NEIGHBOURS, COVERAGE_NEIGHBOURS) + 1  # points of a set: each has its neighbours beside itself


@dataclass(frozen=True, eq=False, repr=False)
class Overlap(Record):
    """Precision, recall and coverage with 95% intervals, and the bootstrap replicates of the recall."""

    precision: Estimate
    recall: Estimate
    coverage: Estimate
    recall_replicates: Tensor


class OverlapWith:
    """The overlap of sets of features with those of real images `(n, F)`; made once for many sets.

    Raises:
        ValueError: fewer real images than neighbours, or features that are not finite.
    """

    def __init__(self, real: Tensor) -> None:
        self.real = _rows(real)
        within = distances(self.real, self.real)
        self.radii = _radii(within, NEIGHBOURS)
        self.own = _radii(within, COVERAGE_NEIGHBOURS)

    def __call__(self, features: Tensor, resamples: int = 200, seed: int = 0) -> Overlap:
        """The overlap of sampled features `(N, F)`; sets of equal size and seed are resampled alike.

        A resample has fewer distinct samples, which lowers every replicate; only their spread is used.

        Raises:
            ValueError: fewer samples than neighbours, or features of another width or that are not finite.
        """
        rows = _rows(features, self.real.shape[1])
        across = distances(self.real, rows)
        in_samples = across <= _radii(distances(rows, rows), NEIGHBOURS)[None, :]
        in_real, in_own = across <= self.radii[:, None], across <= self.own[:, None]
        generator = seeded(seed)
        counts = [torch.stack(list(resampled(n, resamples, generator))) for n in across.shape]
        precision, _ = _estimated(in_real.T, *reversed(counts))
        recall, replicates = _estimated(in_samples, *counts)
        return Overlap(precision, recall, _estimated(in_own, *counts)[0], replicates)


def _rows(features: Tensor, width: int | None = None) -> Tensor:
    return as_features(features, FEWEST, width).double()


def _radii(distances: Tensor, k: int) -> Tensor:
    """Distance of each point to the k-th nearest other one."""
    return distances.kthvalue(k + 1, dim=1).values


def _estimated(inside: Tensor, rows: Tensor, columns: Tensor) -> tuple[Estimate, Tensor]:
    """Return the share of rows with some column inside, and its replicates by pairs of resamples.

    Replicates are moved to the share, within [0, 1].
    """
    share = float(inside.any(1).double().mean())
    drawn = (inside.float() @ (columns > 0).float().T > 0).double()
    shares = (drawn * rows.T).sum(0) / rows.sum(1)
    replicates = (shares - shares.mean() + share).clamp(0, 1)
    return interval(replicates, share), replicates
