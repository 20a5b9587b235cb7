"""The images of tuning, split by a seed: those that priors are fitted to, those held out, and those that judge.

    fitted     the priors' images, and the images that copies are looked for in
    held out   two sets that no prior saw: for the size of mixtures, the nats of priors, and the threshold of copies
    judge      the images that samples are compared with; no other part of tuning sees them

The network may have been trained on all of them: copies are those that a prior hands on.
"""

from dataclasses import dataclass

import torch

from latestart.checks import seeded
from latestart.data import Images

__all__ = ["FEWEST", "Pictures", "split"]

FEWEST = 800  # images: a quarter held out, of which the threshold of copies takes half, and that is a 1% quantile
HELD_OUT, JUDGES = 4000, 10_000  # images at most


@dataclass(frozen=True)
class Pictures:
    """Images in three parts, and how they came about, in words."""

    fitted: Images
    held_out: Images
    judge: Images
    how: str

    @property
    def count(self) -> int:
        """Return the number of all of them."""
        return len(self.fitted) + len(self.held_out) + len(self.judge)


def split(images: Images, seed: int) -> Pictures:
    """Split images into half for the priors, a quarter held out, and a quarter to judge by; what is over is fitted.

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
    parts = [images[part] for part in order.split([count - held - judges, held, judges])]
    return Pictures(*parts, f"{len(parts[0])} fitted, {held} held out, {judges} judge, by the seed {seed}")
