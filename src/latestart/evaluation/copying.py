"""Copying: whether samples are nearer to training images than images of the same kind have a right to be.

For each sample x, with T a set of training images and H one of equal size that the model has not seen,

    ratio(x) = min over T of |x - t| / min over H of |x - h|

A sample that owes nothing to single training images is as near to one set as to the other; a copy has a ratio near 0.
What ratios chance alone makes is read from a second held-out set: the threshold is the 1% quantile of its ratios, and

    copied = share of the samples whose ratio is at or below the threshold

which is 0.01 for new images of the same distribution. The distance to the training set by itself would not do: a
blurred image is near to everything. Twins (blank pictures, a split that leaks) keep their meaning: their distance is
exactly 0, 0/0 is 1, and a sample at the threshold counts, unless its ratio is 1. Images of the second set that are
training images say nothing of chance, and are left out of it. The quantile of 2,000 ratios is uncertain, so it is
resampled together with the samples; a bar is held against the interval's lower end. T is a part of the training images:
of copies of the whole, it shows the share of T in it.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.evaluation.distances import distances
from latestart.evaluation.quality import Estimate, Extractor, as_features, interval, unit_images
from latestart.records import Record

__all__ = ["BAR", "QUANTILE", "Copying", "CopyingFrom", "copying"]

QUANTILE = 0.01
BAR = 0.02  # of the share copied
FAR = 1e200  # stands for the infinite ratio of a twin of a held-out image
RESAMPLES = 1000  # of the samples, and of the second set


@dataclass(frozen=True, eq=False, repr=False)
class Copying(Record):
    """The share of samples that are copies.

    Attributes:
        copied: the share of samples at or below the threshold, with its 95% interval.
        threshold: the ratio that 1% of new images do not exceed.
        ratios: of each sample, float64 `(N,)`.
        twins: images of the two held-out sets that are also training images, to the last bit.
    """

    copied: Estimate
    threshold: float
    ratios: Tensor
    twins: int

    @property
    def within_bar(self) -> bool:
        """Whether the share may be as low as 0.02: its interval's lower end is at most that."""
        return self.copied.low <= BAR


class CopyingFrom:
    """The check for copying of one training set, made once for many sets of samples.

    Args:
        train: training images, whatever `as_images` takes, floats in [0, 1]: n of them.
        held_out: as many images that the model has not seen.
        second: more such images, for the threshold.
        features: the space of the distances, a function from images to `(B, F)`; the pixels by default.

    Raises:
        ValueError: sets of unequal size or shape, images outside [0, 1], features that are not finite, fewer than 100
            in the second set that are no training images.

    Warns:
        UserWarning: some of the held-out images are training images.
    """

    def __init__(self, train: Any, held_out: Any, second: Any, features: Extractor | None = None) -> None:
        self.extract = features or (lambda images: images.flatten(1))
        self.train, self.held_out = self._rows(train), self._rows(held_out)
        if self.train.shape != self.held_out.shape:
            raise ValueError(
                "the ratio of distances needs two sets of equal size and shape, received "
                f"{tuple(self.train.shape)} for training and {tuple(self.held_out.shape)} held out"
            )
        others = self._rows(second)
        ratios = self._ratios(others)
        twin, leaked = ((distances(rows, self.train) == 0).any(1) for rows in (self.held_out, others))
        self.twins = int(twin.sum() + leaked.sum())
        self.chance = ratios[~leaked]
        if len(self.chance) < 100:
            found = f", {int(leaked.sum())} of them training images" if leaked.any() else ""
            raise ValueError(
                f"a 1% quantile needs at least 100 images in the second set, received {len(others)}{found}"
            )
        if self.twins:
            warnings.warn(
                f"{self.twins} of the {len(self.held_out) + len(others)} held-out images are training images too: "
                "copies of these are not found, and those of the second set do not count for the threshold",
                stacklevel=2,
            )
        generator = seeded(0)
        self.threshold = float(self.chance.quantile(QUANTILE))
        self._thresholds = _resampled(self.chance, RESAMPLES, generator).quantile(QUANTILE, dim=1)

    def __call__(self, samples: Any, seed: int = 0) -> Copying:
        """The share of copies among samples, whatever `as_images` takes, floats in [0, 1].

        Raises:
            ValueError: no samples, or of another shape or range.
        """
        ratios = self._ratios(self._rows(samples))
        resampled = _resampled(ratios, RESAMPLES, seeded(seed))
        shares = _at_or_below(resampled, self._thresholds[:, None]).mean(1)
        copied = interval(shares, float(_at_or_below(ratios, torch.tensor(self.threshold)).mean()))
        return Copying(copied, self.threshold, ratios, self.twins)

    def _rows(self, images: Any) -> Tensor:
        return as_features(self.extract(unit_images(images)), 1).double()

    def _ratios(self, rows: Tensor) -> Tensor:
        if rows.shape[1] != self.train.shape[1]:
            raise ValueError(f"the images have {rows.shape[1]} values, those of the training set {self.train.shape[1]}")
        near, far = (distances(rows, images).amin(1) for images in (self.train, self.held_out))
        return torch.where(near == far, 1.0, (near / far).clamp(max=FAR))


def _at_or_below(ratios: Tensor, threshold: Tensor) -> Tensor:
    """Mark the ratios of copies by 1, others by 0; a ratio of 1 or more is never a copy."""
    return ((ratios <= threshold) & (ratios < 1)).double()


def copying(samples: Any, train: Any, held_out: Any, second: Any, features: Extractor | None = None) -> Copying:
    """The share of samples that copy a training image, with its interval: `CopyingFrom` for one set of samples."""
    return CopyingFrom(train, held_out, second, features)(samples)


def _resampled(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    return values[torch.randint(len(values), (resamples, len(values)), generator=generator)]
