"""A network on patches of an image, as a network on the image."""

from types import SimpleNamespace
from typing import Any

from torch import Tensor, nn

from latestart.denoisers.around import Inside

__all__ = ["Unshuffled"]


class Unshuffled(Inside):
    """A network on `factor` x `factor` patches of the image, as a network on the image.

    The image `(C, H, W)` is given to the network as `(C factor^2, H / factor, W / factor)` (`pixel_unshuffle`), a
    permutation of the pixels: white noise stays white noise, and the process is the same.
    """

    def __init__(self, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.network, self.factor = network, factor
        inner: Any = network.config
        size: int | list[int] = inner.sample_size
        self.config = SimpleNamespace(**inner)
        self.config.in_channels //= factor**2
        self.config.out_channels //= factor**2
        self.config.sample_size = size * factor if isinstance(size, int) else tuple(side * factor for side in size)

    def forward(self, sample: Tensor, timestep: Tensor | float, **kwargs: Any) -> SimpleNamespace:
        """As the network's own `forward`, on images."""
        inner = nn.functional.pixel_unshuffle(sample, self.factor)
        out = self.network(inner, timestep, **kwargs).sample
        return SimpleNamespace(sample=nn.functional.pixel_shuffle(out, self.factor))
