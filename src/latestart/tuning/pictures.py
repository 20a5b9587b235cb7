"""The images of tuning, split by a seed: those that priors are fitted to, those held out, and those that judge.

    fitted     the priors' images, and the images that copies are looked for in
    held out   two sets that no prior saw: for the size of mixtures, the nats of priors, and the threshold of copies
    judge      the images that samples are compared with; no other part of tuning sees them

The network may have been trained on all of them: copies are those that a prior hands on.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.data import Images
from latestart.denoisers.adapter import Network
from latestart.denoisers.conditions import Conditions
from latestart.inputs.front import as_images
from latestart.records import Record
from latestart.zoo import SETS, Bundle

__all__ = [
    "FEWEST", "SEEN", "Pictures", "are_pictures", "conditions_of", "labels_of", "of_bundle", "split", "split_of",
]  # fmt: skip

FEWEST = 800  # images: a quarter held out, of which the threshold of copies takes half, and that is a 1% quantile
SEEN = 512  # images that directions, ranges and scales are read from
HELD_OUT, JUDGES = 4000, 10_000  # images at most


@dataclass(frozen=True, eq=False, repr=False)
class Pictures(Record):
    """Images in three parts.

    Attributes:
        fitted, held_out, judge: the parts.
        how: how they came about, in words.
        rows: places of those held out, and of those that judge, among all images; None where they were never one set.
    """

    fitted: Images
    held_out: Images
    judge: Images
    how: str
    rows: tuple[Tensor, Tensor] | None = None

    @property
    def count(self) -> int:
        """Return the number of all of them."""
        return len(self.fitted) + len(self.held_out) + len(self.judge)


def split(images: Images, seed: int) -> Pictures:
    """Split images into half for the priors, a quarter held out, and a quarter to judge by; the rest is fitted too.

    Raises:
        ValueError: fewer than 800 images.
    """
    count = len(images)
    if count < FEWEST:
        raise ValueError(
            f"tuning splits the images into those that priors are fitted to, those held out and those that judge: "
            f"expected at least {FEWEST} images, received {count}"
        )
    held, judges = min(HELD_OUT, count // 4), min(JUDGES, count // 4)
    order = torch.randperm(count, generator=seeded(seed))
    fitted, held_out, judge = order.split([count - held - judges, held, judges])
    how = f"{len(fitted)} fitted, {held} held out, {judges} judge, by the seed {seed}"
    return Pictures(images[fitted], images[held_out], images[judge], how, (held_out, judge))


def of_bundle(bundle: Bundle) -> Pictures:
    """Return the images that come with a shipped model: some that it was trained on, and two sets that it was not."""
    parts = [bundle.images(which) for which in SETS]
    train, held_out, judge = parts
    how = f"{len(train)} of its training images, {len(held_out)} held out, {len(judge)} judge"
    return Pictures(train, held_out, judge, how)


def split_of(network: Network, images: Any, labels: Any, seed: int) -> Pictures:
    """Read the images of a network, and split them.

    Raises:
        ValueError: too few images, of another shape, or of values that are not finite.
    """
    found = as_images(images, labels=labels, shape=network.sample_shape).collected()
    if tuple(found.shape) != network.sample_shape:
        raise ValueError(f"the model's samples are {network.sample_shape}, the images {tuple(found.shape)}")
    if not found.bare and not bool(found.pixels.isfinite().all()):
        raise ValueError("expected images of finite values, received some that are NaN or infinite")
    return split(found, seed)


def labels_of(network: Network, pictures: Pictures) -> Tensor | None:
    """Return the labels that the images bring, where the network takes any; else its classes in turn."""
    if not network.classes:
        return None
    return torch.arange(network.classes) if pictures.judge.labels is None else pictures.judge.labels


def conditions_of(everyone: Conditions, pictures: Pictures, part: int, network: Network, kwargs: Any) -> Conditions:
    """Return the conditions of the held-out images (0) or of those that judge (1)."""
    own = (pictures.held_out, pictures.judge)[part]
    if network.classes and own.labels is not None:
        given = kwargs
        if kwargs and pictures.rows is not None and everyone.count == pictures.count:
            given = everyone[pictures.rows[part]].kwargs
        return Conditions(network, own.labels, given)
    if pictures.rows is not None and everyone.count == pictures.count:
        return everyone[pictures.rows[part]]
    return everyone.turned(len(own)) if everyone.count else everyone


def are_pictures(pictures: Pictures) -> bool:
    """Whether the images are pictures in [-1, 1]."""
    return bool(pictures.judge[:SEEN].floats().abs().max() <= 1)
