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
        size = inner.sample_size
        self.config = SimpleNamespace(
            **{
                **inner,
                "in_channels": inner.in_channels // factor**2,
                "out_channels": inner.out_channels // factor**2,
                "sample_size": size * factor if isinstance(size, int) else tuple(side * factor for side in size),
            }
        )

    def forward(self, sample: Tensor, timestep: Tensor | float, **kwargs: Any) -> SimpleNamespace:
        """As the network's own `forward`, on images."""
        inner = nn.functional.pixel_unshuffle(sample, self.factor)
        out = self.network(inner, timestep, **kwargs).sample
        return SimpleNamespace(sample=nn.functional.pixel_shuffle(out, self.factor))
