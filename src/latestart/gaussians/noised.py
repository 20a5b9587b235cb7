"""Training images under noise: the distribution that every fitted start distribution stands for.

With n images, i uniform,

    y = x_i + sigma z',     i = floor(n Phi(a . z)),     z' = z + (Phi^-1(frac(n Phi(a . z))) - a . z) a

where `a` is one fixed direction: the place of a . z within the i-th part of its distribution is uniform again, so that
z' is white and independent of i, and the white noise alone fixes the sample. It starts from the distribution that the
sampler was made for, and so is the limit of all others; it also starts from the images, and copies them.
"""

import math

import torch
from torch import Tensor

from latestart.data import Images
from latestart.gaussians.prior import Around

__all__ = ["NoisedImages"]


class NoisedImages(Around):
    """Images, all equally likely, under noise of the level sigma.

    Args:
        images: `Images`, or floating-point numbers in the model's value range `(N, *shape)`.
        sigma: the level.

    Raises:
        ValueError: no images.
    """

    def __init__(self, images: Images | Tensor, sigma: float = 0.0) -> None:
        if not len(images):
            raise ValueError("expected at least one image to start from, received none")
        self.images, self.sigma = images, sigma
        first = images[:1].floats().float() if isinstance(images, Images) else images[:1]
        self.centre = first[0].cpu()  # images are looked up where they are, and moved to their noise

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "NoisedImages":
        """Return this distribution: its samples are on the device of their noise."""
        return self

    def noised(self, sigma: float) -> "NoisedImages":
        """Return the images under more noise: levels add in squares."""
        return NoisedImages(self.images, math.hypot(self.sigma, sigma))

    def push(self, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Carry white noise z `(B, *shape)` to noised images; the noise fixes the image, whatever the labels."""
        index, left = self.drawn(z)
        chosen = self.images[index.cpu()]
        floats = chosen.floats() if isinstance(chosen, Images) else chosen
        return floats.to(z) + self.sigma * left

    def drawn(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the index of each sample's image `(B,)`, and white noise like z that does not depend on it."""
        rows, n, eps = z.flatten(1).double(), len(self.images), torch.finfo(torch.float64).eps
        direction = rows.new_full((rows.shape[1],), rows.shape[1] ** -0.5)
        along = rows @ direction
        place = n * torch.special.ndtr(along)
        index = place.floor().clamp(0, n - 1)
        left = torch.special.ndtri((place - index).clamp(eps, 1 - eps))
        return index.long(), (rows + (left - along)[:, None] * direction).to(z).reshape(z.shape)
