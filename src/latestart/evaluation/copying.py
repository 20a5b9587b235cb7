"""Copying: whether samples are nearer to training images than images of the same kind have a right to be.

For each sample x, with T a set of training images and H one of equal size that the model has not seen,

    ratio(x) = min over T of |x - t| / min over H of |x - h|

A sample that owes nothing to single training images is as near to one set as to the other; a copy has a ratio near 0.
What ratios chance alone makes is read from a second held-out set: the threshold is the 1% quantile of its ratios, and

    copied = share of the samples whose ratio is below the threshold

which is 0.01 for new images of the same distribution. The distance to the training set by itself would not do: a
blurred image is near to everything. The quantile of 2,000 ratios is uncertain, so it is resampled together with the
samples; a bar is held against the interval's lower end. T is a part of the training images: of copies of the whole, it
shows the share of T in it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from latestart.data import Images
from latestart.evaluation.quality import Estimate, Extractor, checked, interval

QUANTILE = 0.01
BAR = 0.02  # of the share copied
RESAMPLES = 1000  # of the samples, and of the second set


@dataclass(frozen=True)
class Copying:
    """How many samples are copies.

    Attributes:
        copied: the share of samples below the threshold, with its 95% interval.
        threshold: the ratio that 1% of new images stay below.
        ratios: of each sample, float64 `(N,)`.
    """

    copied: Estimate
    threshold: float
    ratios: Tensor

    @property
    def within_bar(self) -> bool:
        """Whether the share may be as low as 0.02: its interval's lower end is at most that."""
        return self.copied.low <= BAR


class CopyingFrom:
    """The check for copying of one training set, made once for many sets of samples.

    Args:
        train: training images in [0, 1], `(n, C, H, W)`, or `Images`.
        held_out: as many images that the model has not seen.
        second: more such images, for the threshold.
        features: the space of the distances, a function from images to `(B, F)`; the pixels by default.

    Raises:
        ValueError: sets of unequal size or shape, images outside [0, 1], fewer than 100 in the second set.
    """

    def __init__(
        self,
        train: Tensor | Images,
        held_out: Tensor | Images,
        second: Tensor | Images,
        features: Extractor | None = None,
    ) -> None:
        self.extract = features or (lambda images: images.flatten(1))
        self.train, self.held_out = self._rows(train), self._rows(held_out)
        if self.train.shape != self.held_out.shape:
            raise ValueError(
                "the ratio of distances needs two sets of equal size and shape, received "
                f"{tuple(self.train.shape)} for training and {tuple(self.held_out.shape)} held out"
            )
        self.chance = self._ratios(self._rows(second))
        if len(self.chance) < 100:
            raise ValueError(f"a 1% quantile needs at least 100 images in the second set, received {len(self.chance)}")
        generator = torch.Generator().manual_seed(0)
        self.threshold = float(self.chance.quantile(QUANTILE))
        self._thresholds = _resampled(self.chance, RESAMPLES, generator).quantile(QUANTILE, dim=1)

    def __call__(self, samples: Tensor | Images, seed: int = 0) -> Copying:
        """The share of copies among samples `(N, C, H, W)` in [0, 1].

        Raises:
            ValueError: no samples, or of another shape or range.
        """
        ratios = self._ratios(self._rows(samples))
        resampled = _resampled(ratios, RESAMPLES, torch.Generator().manual_seed(seed))
        shares = (resampled < self._thresholds[:, None]).double().mean(1)
        copied = interval(shares, float((ratios < self.threshold).double().mean()))
        return Copying(copied, self.threshold, ratios)

    def _rows(self, images: Tensor | Images) -> Tensor:
        rows = self.extract(checked(images.unit() if isinstance(images, Images) else images))
        return rows.double()

    def _ratios(self, rows: Tensor) -> Tensor:
        if rows.shape[1] != self.train.shape[1]:
            raise ValueError(f"the images have {rows.shape[1]} values, those of the training set {self.train.shape[1]}")
        near, far = (torch.cdist(rows, set_).amin(1) for set_ in (self.train, self.held_out))
        return torch.where(near > 0, near / far.clamp(min=torch.finfo(torch.float64).tiny), 0.0)


def copying(
    samples: Tensor | Images,
    train: Tensor | Images,
    held_out: Tensor | Images,
    second: Tensor | Images,
    features: Extractor | None = None,
) -> Copying:
    """The share of samples that copy a training image, with its interval: `CopyingFrom` for one set of samples."""
    return CopyingFrom(train, held_out, second, features)(samples)


def _resampled(values: Tensor, resamples: int, generator: torch.Generator) -> Tensor:
    return values[torch.randint(len(values), (resamples, len(values)), generator=generator)]
