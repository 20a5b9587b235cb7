"""The front door: images from whatever a user holds them in.

    a path                          as `load_images` reads it
    `Images`                        as they are
    a tensor or an array            `(N, C, H, W)` or `(N, H, W, C)`; bytes `(N, H, W)` are grey pictures; vectors
                                    `(N, D)`, latents of any number of channels and videos `(N, C, F, H, W)` are taken
                                    as they are
    a list, or any iterable         of pictures (PIL), single images `(C, H, W)`, vectors `(D,)`, or batches
    a `Dataset`                     of single images, torch's or Hugging Face's
    a `DataLoader`                  of batches

The items of the last three may be bare, pairs `(image, label)`, or dicts with `image`, `img` or `pixel_values` and,
if there are labels, `label` or `labels`.

Values. Bytes and pictures are known to run from black to white: models see them in [-1, 1], metrics in [0, 1]. Floats
are in the model's own range where a prior is fitted or a start chosen, and in [0, 1] where metrics take them, unless
`value_range` says which values stand for black and white; then they are brought to either as bytes are.

Contract: an in-memory thing becomes `Images`, without a copy; everything else a `Stream`, which reads its source anew
each time, and a generator once. Axes that the numbers do not tell apart are refused (`datasets/axes.py`).
"""

import itertools
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latestart.data import CHUNK, Images, ImageSet, Range, load_images
from latestart.datasets.axes import COUNTS, SIDE, Channels, as_pictures, channels_first
from latestart.datasets.pictures import Colour, decode, pixels_of, plain
from latestart.inputs.items import IMAGE_KEYS, class_indices, is_pair, is_scalar, labels_of, taken_apart, tensor_of
from latestart.inputs.ranges import require_inside, require_range

__all__ = ["Stream", "as_images"]

GATHERED = 256  # single images put into one batch


def as_images(
    images: Any,
    labels: Any = None,
    value_range: Range | None = None,
    *,
    shape: Sequence[int] | None = None,
    channels: Channels | None = None,
    background: Colour | None = None,
) -> ImageSet:
    """Make a set of images of whatever holds them.

    Args:
        images: see the module's first lines.
        labels: class indices `(N,)`, in place of those that the images bring.
        value_range: the two values that stand for black and white, of floats; None for the model's own range.
        shape: of one image, where it is known: it settles which axis is which.
        channels: "first" or "last", where the numbers do not tell.
        background: the colour that transparent pictures are laid onto.

    Returns:
        `Images` of what is in memory, else a `Stream`. Both are iterables of batches in the model's range.

    Raises:
        ValueError: something that holds no images; images that are neither bytes nor floats, or have ambiguous axes;
            values outside of `value_range`; labels that are no class indices, or not one for each image.
    """
    known = None if shape is None else tuple(int(side) for side in shape)
    reader = _Reader(known, channels, background, _checked_range(value_range))
    found = reader.opened(images)
    if labels is None:
        return found
    if isinstance(found, Stream):
        return found.labelled(class_indices(labels))
    given = class_indices(labels)
    if len(given) != len(found):  # type: ignore[arg-type]
        raise ValueError(f"expected a label for each of {len(found)} images, received {len(given)}")  # type: ignore[arg-type]
    return Images(found.pixels, given, found.value_range)  # type: ignore[attr-defined]


class Stream(ImageSet):
    """Images that are read from a source each time that they are asked for.

    Args:
        source: the items, of which `reader` makes batches.
        reader: of the items.
        single: whether an item is one image (True), a batch (False), or what its axes say (None).
        given: labels in place of those that the source brings.
    """

    def __init__(
        self, source: Iterable[Any], reader: "_Reader", single: bool | None, given: Tensor | None = None
    ) -> None:
        self.source, self.reader, self.single, self.given = source, reader, single, given
        self.value_range = reader.value_range
        self.once = isinstance(source, Iterator)
        self._read, self._floats = False, False
        self._shape, self._labels = reader.shape, given

    def __repr__(self) -> str:
        return f"Stream(of a {type(self.source).__name__}{'' if self._shape is None else f', {self._shape}'})"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image; reads the first one."""
        if self._shape is None:
            first = next(iter(self.source), None)
            if first is None:
                raise ValueError(f"expected at least one image, received none in a {type(self.source).__name__}")
            if self.once:
                self.source = itertools.chain([first], self.source)
            self._shape = self.reader.item(first, self.single, 0).shape
        return self._shape

    @property
    def bare(self) -> bool:
        """See `ImageSet`; known once they were read."""
        return self._floats and self.value_range is None

    @property
    def labels(self) -> Tensor | None:
        """Class indices `(N,)`, or None; all images are read for them, once."""
        if self._labels is None and not self.once:
            parts = [part.labels for part in self.stored()]
            self._labels = None if not parts or any(part is None for part in parts) else torch.cat(parts)  # type: ignore[arg-type]
        return self._labels

    def labelled(self, labels: Tensor) -> "Stream":
        """The same images with other labels."""
        return Stream(self.source, self.reader, self.single, labels)

    def stored(self, size: int = CHUNK) -> Iterator[Images]:
        """See `ImageSet`; batches are handed on as the source has them."""
        if self.once and self._read:
            raise ValueError(
                f"a {type(self.source).__name__} can be read once, and was read before: expected a list, a data set or "
                "a loader, which begins anew each time"
            )
        self._read = True
        at, low, high = 0, math.inf, -math.inf
        for part in self._gathered():
            self._floats = part.pixels.is_floating_point()
            if self._floats and self.value_range is not None:
                low, high = min(low, float(part.pixels.min())), max(high, float(part.pixels.max()))
            yield part if self.given is None else Images(part.pixels, self._own(at, len(part)), part.value_range)
            at += len(part)
        if self.given is not None and at != len(self.given):
            raise ValueError(f"expected a label for each of {at} images, received {len(self.given)}")
        if self.value_range is not None and low <= high:
            require_range(low, high, self.value_range, at)

    def collected(self) -> Images:
        """All of them in memory.

        Raises:
            ValueError: there are none.
        """
        parts = list(self.stored())
        if not parts:
            raise ValueError(f"expected at least one image, received none in a {type(self.source).__name__}")
        return _joined(parts, self.value_range)

    def _own(self, at: int, count: int) -> Tensor:
        assert self.given is not None
        if at + count > len(self.given):
            raise ValueError(f"expected a label for each image, received {len(self.given)} and more images than that")
        return self.given[at : at + count]

    @staticmethod
    def _tell_axes(rows: int, values: int) -> None:
        """Refuse square items, which may be grey pictures; warn that others are read as batches of vectors."""
        ways = f"say which by ls.as_images(images, shape={(values,)}) or shape={(1, rows, values)}"
        if rows == values:
            raise ValueError(f"items of the shape {(rows, values)} may be {rows} vectors, or one grey picture: {ways}")
        warnings.warn(
            f"items of the shape {(rows, values)} are read as batches of {rows} vectors, and may be grey pictures: "
            f"{ways}",
            stacklevel=2,
        )

    def _gathered(self) -> Iterator[Images]:
        """Batches; single images that follow each other in one."""
        for batches, parts in itertools.groupby(self._items(), lambda part: len(part) > 1):
            if batches:
                yield from parts
            while some := list(itertools.islice(parts, GATHERED)):
                yield _joined(some, some[0].value_range)

    def _items(self) -> Iterator[Images]:
        """Each item; raises `ValueError` for one of another shape or dtype than those before it."""
        before: Images | None = None
        for k, item in enumerate(self.source):
            part = self.reader.item(item, self.single, k)
            if before is not None and part.shape != before.shape:
                raise ValueError(f"images of unequal shapes: item {k} has {part.shape}, those before it {before.shape}")
            if before is not None and part.pixels.is_floating_point() != before.pixels.is_floating_point():
                raise ValueError(f"item {k} is {part.pixels.dtype}, those before it {before.pixels.dtype}")
            unknown = k == 1 and self.single is None and self.reader.shape is None
            if unknown and part.pixels.ndim == 2 and before is not None and len(before) == len(part) > 1:
                self._tell_axes(len(part), part.shape[0])
            before = part
            yield part


@dataclass(frozen=True)
class _Reader:
    """A reader of images in any form, with the shape, range and background known of all of them."""

    shape: tuple[int, ...] | None
    channels: Channels | None
    background: Colour | None
    value_range: Range | None

    def opened(self, images: Any) -> ImageSet:
        """The set behind the door."""
        if isinstance(images, Images) and images.pixels.is_floating_point() and self.value_range is not None:
            return self._whole(Images(images.pixels, images.labels, self.value_range))
        if isinstance(images, ImageSet):
            return images
        if isinstance(images, str | Path):
            return load_images(images, background=self.background)
        if isinstance(images, np.ndarray) and images.dtype == object and images.ndim == 1:
            images = list(images)
        if isinstance(images, Tensor | np.ndarray):
            array = tensor_of(images)
            if array.ndim == 3 and self.shape is None and self.channels is None:
                _check_three_axes(array)
            return self._whole(self.array(array, "images"))
        if isinstance(images, Mapping):
            if not any(key in images for key in IMAGE_KEYS):
                raise ValueError(
                    f"received a dict of {', '.join(map(repr, list(images)[:8]))}: expected images under one of "
                    f"{', '.join(IMAGE_KEYS)}, or one of the splits of a data set, as in data['train']"
                )
            return self.item(images, False, 0)
        if isinstance(images, Image.Image):
            return self.item(images, True, 0)
        if isinstance(images, tuple | list) and len(images) == 2 and is_pair(images):
            return self.item(tuple(images), False, 0)
        if isinstance(images, torch.utils.data.DataLoader):
            return Stream(images, self, images.batch_size is None and images.batch_sampler is None)
        if isinstance(images, torch.utils.data.Dataset) or hasattr(images, "column_names"):
            return Stream(_Items(images), self, True)
        if isinstance(images, Iterable):
            return Stream(images, self, None)
        raise ValueError(
            f"expected images (a path, a tensor, an array, pictures, a data set or a loader), received a "
            f"{type(images).__name__}"
        )

    def array(self, images: Tensor, what: str) -> Images:
        """Images `(N, *shape)` in memory."""
        if self.shape is not None and tuple(images.shape) == self.shape:
            images = images[None]
        elif self.shape is not None and tuple(images.shape[1:]) == self.shape[1:] and self.shape[0] == 1:
            images = images[:, None]  # grey pictures without their channel
        if images.ndim == 4:
            images = channels_first(images, what, self.channels, self.shape)
        if not images.is_floating_point() and images.dtype != torch.uint8:
            raise ValueError(
                f"{what}: expected bytes (uint8) or floating-point images, received {images.dtype} "
                f"{tuple(images.shape)}"
            )
        bytes_ = images.dtype == torch.uint8
        if images.ndim < (3 if bytes_ else 2):
            expected = "pictures (N, H, W) or (N, C, H, W)" if bytes_ else "(N, *shape)"
            raise ValueError(f"{what}: expected {expected}, received {images.dtype} of shape {tuple(images.shape)}")
        if bytes_:
            return Images(as_pictures(images, what, "first") if images.ndim < 5 else images)
        if self.value_range is not None and images.numel():
            require_inside(*_ends(images), self.value_range, what)
        return Images(images, None, self.value_range)

    def item(self, item: Any, single: bool | None, number: int) -> Images:
        """One item of an iterable, as a batch with its labels."""
        if isinstance(item, list) and item and isinstance(item[0], tuple | Mapping):
            return Stream(item, self, True).collected()  # a batch that nothing has put together
        image, label = taken_apart(item, number)
        what = f"item {number}"
        single = True if single is None and is_scalar(label) else single
        if isinstance(image, Image.Image):
            batch = Images(pixels_of(plain(image, what, self.background))[None])
        elif isinstance(image, bytes | str | Path):
            data, name = (image, what) if isinstance(image, bytes) else (Path(image).read_bytes(), str(image))
            batch = Images(decode(data, name, background=self.background)[None])
        elif isinstance(image, ImageSet):
            batch = image.collected()
        elif isinstance(image, list | tuple) and image and isinstance(image[0], Image.Image | Tensor | np.ndarray):
            batch = Stream(image, self, True).collected()
        else:
            batch = self._tensor(tensor_of(image), single, what)
        labels = None if label is None else labels_of(label, len(batch))
        return Images(batch.pixels, batch.labels if labels is None else labels, batch.value_range)

    def _tensor(self, image: Tensor, single: bool | None, what: str) -> Images:
        if single is None:
            single = image.ndim in (1, 3) or (image.ndim == 2 and image.dtype == torch.uint8)
            if self.shape is not None and image.ndim > 1:
                shape = tuple(image.shape)
                single = shape in (self.shape, self.shape[1:]) or (single and shape[1:] != self.shape)
        return self.array(image[None] if single else image, what)

    def _whole(self, images: Images) -> Images:
        """Check the whole set of images against the stated range."""
        if images.value_range is not None and images.pixels.numel():
            require_range(*_ends(images.pixels), images.value_range, len(images))
        return images


@dataclass(frozen=True, eq=False)
class _Items:
    """A data set as an iterable that begins anew each time; a map-style one ends with its length."""

    dataset: Any

    def __iter__(self) -> Iterator[Any]:
        streamed = isinstance(self.dataset, torch.utils.data.IterableDataset)  # which inherits what it has no use for
        if not streamed and hasattr(self.dataset, "__len__") and hasattr(self.dataset, "__getitem__"):
            return (self.dataset[k] for k in range(len(self.dataset)))
        return iter(self.dataset)


def _ends(images: Tensor) -> Range:
    low, high = images.aminmax()
    return float(low), float(high)


def _check_three_axes(images: Tensor) -> None:
    """Grey pictures, or one picture?"""
    first, middle, last = images.shape
    if (first in COUNTS and min(middle, last) >= SIDE) or (last in COUNTS and min(first, middle) >= SIDE):
        raise ValueError(
            f"images {tuple(images.shape)} may be one picture, or {first} of shape {(middle, last)}: give one picture "
            f"as images[None], and say the shape of several, as in ls.as_images(images, shape={(middle, last)})"
        )


def _checked_range(value_range: Any) -> Range | None:
    if value_range is None:
        return None
    try:
        low, high = (float(end) for end in value_range)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"value_range={value_range!r}: expected the values of black and white, such as (-1, 1)")
    return low, high


def _joined(parts: list[Images], value_range: Range | None) -> Images:
    labels = [part.labels for part in parts if part.labels is not None]
    marked = torch.cat(labels) if len(labels) == len(parts) else None
    return Images(torch.cat([part.pixels for part in parts]), marked, value_range)
