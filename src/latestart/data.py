"""Images in and out of the library.

A set of images is held as it came, `(N, C, H, W)` bytes or floats, and becomes numbers in the model's value range,
[-1, 1], or in that of the metrics, [0, 1], one batch at a time. `datasets` has the layouts in which sets are read from
files; a set of more than 2 GiB is kept in a nameless file in the folder for temporary ones (TMPDIR), mapped into
memory. What comes from memory goes through `inputs.as_images`.
"""

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latestart.checks import seeded, whole_number
from latestart.datasets.layouts import open_source
from latestart.datasets.pictures import Colour, Source, decode
from latestart.datasets.places import Place
from latestart.datasets.tables import Arrays

__all__ = [
    "CHUNK", "ImageSet", "Images", "Range", "drawn", "in_unit_range", "load_images", "read_png", "require_colours",
    "save_png", "stream_images", "tile", "to_floats", "to_pixels", "to_unit", "untile",
]  # fmt: skip

CHUNK = 1024  # images read at once
IN_MEMORY = 2 << 30  # bytes of pixels; what is larger stands in a file, mapped into memory
Range = tuple[float, float]


class ImageSet(ABC):
    """Images of one shape, that can be read in batches.

    Attributes:
        value_range: the values that stand for black and white, of images that are floats; None where they are in the
            model's own range, whatever that is.
    """

    value_range: Range | None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, `(C, H, W)` or that of the model's samples."""

    @property
    @abstractmethod
    def bare(self) -> bool:
        """Whether they are floats without a stated range of values."""

    @property
    @abstractmethod
    def labels(self) -> Tensor | None:
        """Class indices `(N,)`, or None."""

    @abstractmethod
    def stored(self, size: int = CHUNK) -> Iterator["Images"]:
        """The images as they are held, at most about `size` at a time, in order."""

    @abstractmethod
    def collected(self) -> "Images":
        """All of them in memory."""

    def __iter__(self) -> Iterator[Tensor]:
        """As `batches`, so that a set of images is itself what priors are fitted to."""
        return self.batches()

    def batches(self, size: int = CHUNK) -> Iterator[Tensor]:
        """The images in the model's value range, `(B, *shape)`, in order."""
        return (part.floats() for part in self.stored(size))

    def units(self, size: int = CHUNK) -> Iterator[Tensor]:
        """The images in [0, 1], as metrics take them, `(B, *shape)`, in order.

        Raises:
            ValueError: floats outside [0, 1] of which no range is known.
        """
        return (part.unit() for part in self.stored(size))


@dataclass(frozen=True, eq=False, repr=False)
class Images(ImageSet):
    """A set of images of one shape, in memory.

    Attributes:
        pixels: `(N, *shape)`, uint8, or floating-point numbers.
        labels: class indices `(N,)`, or None.
        value_range: of floats: what stands for black and white; None for the model's own range.
        device: on which `batches` are handed out; None for where the images are held.
    """

    pixels: Tensor
    labels: Tensor | None = None
    value_range: Range | None = None
    device: torch.device | str | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    def __repr__(self) -> str:
        labels = "" if self.labels is None else f", {len(self.labels.unique())} classes"
        return f"Images({len(self)} of {self.shape}, {str(self.pixels.dtype).removeprefix('torch.')}{labels})"

    def __eq__(self, other: object) -> bool:
        """Whether the other set holds the same images and labels in the same order."""
        if not isinstance(other, Images):
            return NotImplemented
        pairs = ((self.pixels, other.pixels), (self.labels, other.labels))
        return self.value_range == other.value_range and all(_same(one, two) for one, two in pairs)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image, `(C, H, W)`."""
        return tuple(self.pixels.shape[1:])

    def __getitem__(self, index: slice | Tensor) -> "Images":
        return replace(self, pixels=self.pixels[index], labels=None if self.labels is None else self.labels[index])

    @property
    def bare(self) -> bool:
        """See `ImageSet`."""
        return self.pixels.is_floating_point() and self.value_range is None

    def stored(self, size: int = CHUNK) -> Iterator["Images"]:
        """See `ImageSet`; floats in the model's own range, which cost nothing to read, are one batch."""
        if self.bare:
            return iter([self])
        return (self[slice(at, at + size)] for at in range(0, len(self), size))

    def collected(self) -> "Images":
        """This set."""
        return self

    def batches(self, size: int = CHUNK) -> Iterator[Tensor]:
        """See `ImageSet`; on the device."""
        return (batch.to(self.device) for batch in super().batches(size))

    def floats(self) -> Tensor:
        """All images in the model's value range, `(N, *shape)`: bytes, and floats of a known range, in [-1, 1]."""
        if not self.pixels.is_floating_point():
            return to_floats(self.pixels)
        return self.pixels if self.value_range is None else 2 * self._scaled(self.value_range) - 1

    def unit(self) -> Tensor:
        """All images in [0, 1], `(N, *shape)`, as metrics take them.

        Raises:
            ValueError: floats outside [0, 1] of which no range is known.
        """
        if not self.pixels.is_floating_point():
            return self.pixels.float() / 255
        return in_unit_range(self.pixels) if self.value_range is None else self._scaled(self.value_range).clamp(0, 1)

    def _scaled(self, ends: Range) -> Tensor:
        return (self.pixels - ends[0]) / (ends[1] - ends[0])


def _same(one: Tensor | None, two: Tensor | None) -> bool:
    if one is None or two is None:
        return one is two
    return one.dtype == two.dtype and torch.equal(one, two)


def require_colours(images: Tensor) -> Tensor:
    """Return images `(B, C, H, W)`; raise `ValueError` unless they have one or three channels."""
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"expected images (B, C, H, W) of one or three channels, received {tuple(images.shape)}")
    return images


def in_unit_range(images: Tensor) -> Tensor:
    """The images, if they are floating-point numbers in [0, 1].

    Raises:
        ValueError: they are not.
    """
    inside = images.is_floating_point() and images.numel() and bool(((images >= 0) & (images <= 1)).all())
    if not inside:
        seen = f"{images.dtype} from {images.min().item():g} to {images.max().item():g}" if images.numel() else "none"
        if images.is_floating_point() and bool(images.isnan().any()):
            raise ValueError(f"expected images of finite numbers, received {int(images.isnan().sum())} that are NaN")
        raise ValueError(
            f"expected images as floating-point numbers in [0, 1], received {seen}; those of a model in [-1, 1] are "
            "(images / 2 + 0.5).clamp(0, 1), as result.images are"
        )
    return images


def to_floats(pixels: Tensor) -> Tensor:
    """Bytes 0..255 to [-1, 1], float32."""
    return pixels.float() / 127.5 - 1


def to_unit(samples: Tensor) -> Tensor:
    """Samples in the model's range, [-1, 1], to images in [0, 1]; values outside are clipped."""
    return (samples / 2 + 0.5).clamp(0, 1)


def to_pixels(images: Tensor) -> Tensor:
    """Images in [0, 1] to bytes, rounded to the nearest; values outside are clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def load_images(
    path: str | Path,
    limit: int | None = None,
    part: tuple[int, int] = (0, 1),
    background: Colour | None = None,
) -> Images:
    """Read a parquet file, a folder of images, an npz file, or a published data set.

    Args:
        path: `*.parquet` with a column `image` of `{bytes, path}` and optionally `label`; a folder of image files,
            searched recursively, whose sub-folders (if it has any) are the classes; or `*.npz` with `images`
            `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` as uint8 or as floats in [0, 1], and optionally `labels`.
            Or the folder of CelebA (`celeba@64`, `celeba@32@test`, `celeba@64@Smiling`), of ImageNet64 (`folder`,
            `folder@valid`), or any folder of images with the size to which they are to be shrunk (`celeba-hq@64`); see
            `latestart.datasets.layouts`.
        limit: read only the first `limit` images, at least 1; classes are counted over all.
        part: (k, m) reads the k-th of m equal parts of those, counted from 0: the share of one of m processes.
        background: the colour that transparent pictures are laid onto ("white", "#ff8800", three numbers); they are
            refused without one.

    Raises:
        FileNotFoundError: there is nothing at `path`, or a file of a published data set is missing.
        ValueError: an empty folder or file, more parts than images, an unreadable image, images of unequal shapes,
            NaN, an unknown format, or a limit or part that is none.
    """
    source = open_source(Place.of(path, background))
    images = _collected(source, limit, part)
    if not len(images):
        raise ValueError(f"{path} holds no images" if part[1] == 1 else f"{path} holds fewer than {part[1]} images")
    return images


def stream_images(
    path: str | Path,
    size: int = CHUNK,
    limit: int | None = None,
    part: tuple[int, int] = (0, 1),
    background: Colour | None = None,
) -> Iterator[Images]:
    """Read what `load_images` reads, at most `size` images at a time; no more is ever in memory, of any but npz files.

    Raises:
        FileNotFoundError, ValueError: as `load_images`, before the first images or where they cannot be read.
    """
    source = open_source(Place.of(path, background))
    rows = _rows(len(source), limit, part)
    return (Images(pixels, labels) for pixels, labels in source.chunks(rows, size))


def drawn(images: Images, limit: int | None, seed: int) -> Images:
    """At most `limit` of the images, in an order drawn by the seed: files are often in the order of their classes."""
    order = torch.randperm(len(images), generator=seeded(seed))
    return images[order if limit is None else order[: whole_number("limit", limit)]]


def save_png(path: str | Path, pixels: Tensor) -> None:
    """Write one image, `(C, H, W)` or `(H, W)` uint8, as PNG."""
    from latestart.files import replacing

    with replacing(path) as temporary:
        _to_pil(pixels).save(temporary, format="PNG", optimize=True)


def tile(pixels: Tensor, columns: int, gap: int = 0, background: int = 0) -> Tensor:
    """Lay images `(N, C, H, W)` out row by row in one picture `(C, rows (H + gap) - gap, columns (W + gap) - gap)`."""
    n, c, h, w = pixels.shape
    rows = -(-n // columns)
    sheet = pixels.new_full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), background)
    for k, image in enumerate(pixels):
        top, left = (k // columns) * (h + gap), (k % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet


def untile(sheet: Tensor, count: int, height: int, width: int) -> Tensor:
    """The inverse of `tile` without gaps: `count` images `(count, C, height, width)` from one picture."""
    c, columns = sheet.shape[0], sheet.shape[2] // width
    cells = sheet.reshape(c, -1, height, columns, width).permute(1, 3, 0, 2, 4)
    return cells.reshape(-1, c, height, width)[:count].contiguous()


def read_png(path: str | Path) -> Tensor:
    """One PNG file as `(C, H, W)` uint8."""
    return decode(Path(path).read_bytes(), str(path))


def _to_pil(pixels: Tensor) -> Image.Image:
    array = pixels.cpu().numpy()
    if array.ndim == 3:
        array = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    return Image.fromarray(array)


def _collected(source: Source, limit: int | None, part: tuple[int, int]) -> Images:
    """The images of a source, read a chunk at a time into the place where they stay."""
    rows = _rows(len(source), limit, part)
    if isinstance(source, Arrays):
        return Images(*next(source.chunks(rows, max(1, len(rows))), (source.pixels[:0], None)))
    pixels, labels, at = _space((len(rows), *source.shape)), [], 0
    for chunk, marks in source.chunks(rows, CHUNK):
        pixels[at : at + len(chunk)] = chunk
        at += len(chunk)
        if marks is not None:
            labels.append(marks)
    return Images(pixels, torch.cat(labels) if labels else None)


def _space(shape: tuple[int, ...]) -> Tensor:
    """Bytes to be filled: in memory, or in a file that has no name and ends with its last use."""
    if prod(shape) <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))


def _rows(count: int, limit: int | None, part: tuple[int, int]) -> range:
    """The k-th of m equal parts of the first `limit` of so many items."""
    most = count if limit is None else min(count, whole_number("limit", limit))
    m = whole_number("m of part=(k, m)", part[1])
    k = whole_number("k of part=(k, m)", part[0], 0, m - 1)
    return range(most * k // m, most * (k + 1) // m)
