"""The axis of an array of images that holds the channels.

Images are `(N, C, H, W)` here. Arrays come as `(N, H, W, C)` too, and where a picture has 1 or 3 channels the numbers
tell them apart:

    first is 1 or 3    last is 1 or 3    bytes             floats
    yes                no                channels first    channels first
    no                 yes               channels last     channels last if both sides are 8 or more, else latents
    no                 no                refused           channels first: latents of any number of channels
    yes                yes               ambiguous, but for `(N, 1, H, W)` with sides above 1: channels first

Floats with a last axis of 4 and sides of 8 or more are ambiguous too: latents with channels last, or narrow ones. What
is ambiguous is refused, with the words that settle it.
"""

from typing import Literal

import torch
from torch import Tensor

__all__ = ["COUNTS", "SIDE", "Channels", "as_pictures", "channels_first"]

Channels = Literal["first", "last"]
COUNTS = (1, 3)  # of the channels of a picture
SIDE = 8  # pixels: what is smaller may be a number of channels


def channels_first(
    images: Tensor, what: str, channels: Channels | None = None, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Move the channels of images `(N, C, H, W)` or `(N, H, W, C)` to the front, without a copy.

    Args:
        images: of four axes.
        what: by which errors call them.
        channels: where they are, if that is known.
        shape: of one image `(C, H, W)`, if that is known.

    Raises:
        ValueError: it is not known, and the numbers do not tell.
    """
    if channels not in (None, "first", "last"):
        raise ValueError(f"channels={channels!r}: expected 'first' or 'last'")
    _, first, middle, last = images.shape
    if channels is None and shape is not None:
        channels = "last" if tuple(images.shape[1:]) != shape == (last, first, middle) else "first"
    if channels is None:
        channels = _told(first, middle, last, images.dtype == torch.uint8)
    if channels is None:
        raise ValueError(
            f"{what} of the shape {tuple(images.shape)} may be (N, C, H, W) or (N, H, W, C): say which by "
            "ls.as_images(images, channels='first') or channels='last'"
        )
    return images.movedim(-1, 1) if channels == "last" else images


def _told(first: int, middle: int, last: int, pictures: bool) -> Channels | None:
    large = min(first, middle) >= SIDE
    if last in COUNTS and first in COUNTS:
        thin = min(middle, last) == 1  # else with channels last it is a picture of one row
        return "first" if first == middle == last == 1 or (first == 1 and not thin) else None
    if last in COUNTS and (pictures or large):
        return "last"
    if last == 4 and large and not pictures:
        return None
    return "first"


def as_pictures(images: Tensor, what: str, channels: Channels | None = None) -> Tensor:
    """Bytes of pictures, `(N, H, W)`, `(N, C, H, W)` or `(N, H, W, C)`, as `(N, C, H, W)` with 1 or 3 channels.

    Raises:
        ValueError: another number of channels, or axes that cannot be told apart.
    """
    pictures = channels_first(images, what, channels) if images.ndim == 4 else images.unsqueeze(1)
    if pictures.shape[1] not in COUNTS:
        raise ValueError(
            f"{what} of the shape {tuple(images.shape)}: expected pictures of 1 or 3 channels; transparency is to be "
            "laid onto a colour first"
        )
    return pictures.contiguous()
