"""Pictures in files: the formats that are read, and the one form that they take.

One policy holds for every picture, whatever folder, table or archive it comes from:

    format          PNG, JPEG, WebP, BMP, TIFF or GIF; of several frames or pages the first. Nothing else is opened.
    orientation     the picture is turned as its tag says
    channels        grey stays one channel; palettes, CMYK and YCbCr become RGB
    depth           8 bits a channel at most; more would have to be cut, and is refused
    transparency    refused, or laid onto a colour where one is given
    pixels          at most `MOST_PIXELS`

A `Source` says how many images there are before it reads one, and hands them out in chunks: memory is needed for one
chunk, whatever the size of the set. A picture is shrunk bilinearly over all pixels that fall into one of the new.
"""

import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageColor, ImageOps
from PIL.ExifTags import Base
from torch import Tensor

__all__ = ["SUFFIXES", "Chunk", "Colour", "Pictures", "Source", "chunked", "colour_of", "decode", "pixels_of", "plain"]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF")
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}  # without alpha, 8 bits a channel
GREY = ("1", "L", "LA", "La")
MOST_PIXELS = 2**27

UNSIGNED = 1  # of TIFF's sample formats

Chunk = tuple[Tensor, Tensor | None]
Colour = str | Sequence[int]


class Source(ABC):
    """Images in files, in a fixed order.

    Attributes:
        shape: of one image, `(C, H, W)`.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int:
        """Number of images."""

    @abstractmethod
    def chunks(self, rows: range, size: int) -> Iterator[Chunk]:
        """Pixels `(B, C, H, W)` uint8 and labels `(B,)` or None of consecutive images, at most `size` at a time."""


def chunked(rows: range, size: int, read: Callable[[slice], Tensor], labels: Tensor | None) -> Iterator[Chunk]:
    """Yield the chunks of a `Source` that reads the pixels of a slice, with its labels `(N,)` or None."""
    for start in range(rows.start, rows.stop, size):
        part = slice(start, min(start + size, rows.stop))
        yield read(part), None if labels is None else labels[part]


class Refused(ValueError):
    """A picture that can be read, and is not what this library takes."""


def decode(
    data: bytes, name: str, size: int | None = None, crop: int | None = None, background: Colour | None = None
) -> Tensor:
    """Decode one picture to `(C, H, W)` uint8.

    Args:
        data: the bytes of a file.
        name: by which errors call it.
        size: shrink the square in the middle to that many pixels each way; None keeps the picture as it is.
        crop: the side of that square; the largest by default.
        background: the colour that a transparent picture is laid onto, as `Pillow` names colours or as 3 numbers.

    Raises:
        ValueError: the bytes are no picture of a format in `FORMATS`; or the picture is transparent and there is no
            background, has more than 8 bits a channel, too many pixels, or fewer than asked for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `MOST_PIXELS` is the limit here
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                picture = plain(image, name, background)
    except Refused:
        raise
    except Image.DecompressionBombError as error:
        raise Refused(_too_large(name, str(error))) from error
    except Exception as error:  # a spoilt file raises whatever its bytes happen to say
        raise ValueError(
            f"cannot read {name} as an image ({', '.join(FORMATS)}): {' '.join(str(error).split())}"
        ) from error
    return pixels_of(picture if size is None else _shrunk(picture, name, size, crop))


def plain(image: Image.Image, name: str, background: Colour | None = None) -> Image.Image:
    """Bring a picture to mode L or RGB: upright, opaque, 8 bits a channel.

    Raises:
        Refused: see `decode`.
    """
    if image.width * image.height > MOST_PIXELS:
        raise Refused(_too_large(name, f"it has {image.width} x {image.height} pixels"))
    _check_depth(image, name)
    frame = _frame(image)
    image.load()  # TIFF turns itself by its tag here
    if image.getexif().get(Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if frame is not None or image.has_transparency_data:
        return _flattened(image, name, background, frame)
    if image.mode not in MODES:
        raise Refused(f"{name} is an image of mode {image.mode}, expected one of {', '.join(MODES)}")
    return image if image.mode == MODES[image.mode] else image.convert(MODES[image.mode])


def pixels_of(picture: Image.Image) -> Tensor:
    """Copy a picture of mode L or RGB to `(C, H, W)` uint8."""
    array = np.array(picture)
    return torch.from_numpy(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0).copy())


def colour_of(background: Colour) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour by its name ("white", "#ff8800") or as three numbers.

    Raises:
        ValueError: it names no opaque colour.
    """
    try:
        found = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
    except (ValueError, TypeError):
        found = ()
    if len(found) != 3 or not all(isinstance(part, int) and 0 <= part <= 255 for part in found):
        raise ValueError(
            f"background={background!r}: expected an opaque colour, such as 'white', '#ff8800' or (255, 136, 0)"
        )
    return found


def _too_large(name: str, what: str) -> str:
    return (
        f"{name} is too large to open: {what.rstrip('.')}, where at most {MOST_PIXELS:,} pixels are read; shrink it in "
        "its file, then a folder is read at one size with an @ behind it (photos@64)"
    )


def _check_depth(image: Image.Image, name: str) -> None:
    """Refuse more than 8 bits a channel, which Pillow cuts to 8 where its modes have no more."""
    tags = getattr(image, "tag_v2", None)
    bits = 8
    if tags is not None:
        bits = max(tags.get(Base.BitsPerSample, (1,)))
        if any(kind != UNSIGNED for kind in tags.get(Base.SampleFormat, ())):
            raise Refused(f"{name} holds signed or floating-point numbers, expected unsigned ones of 8 bits a channel")
    elif image.format == "PNG":
        tiles = getattr(image, "tile", None) or ()  # of a picture that is in memory already there are none
        bits = 16 if any(";16" in str(tile.args) for tile in tiles) else 8
    if bits > 8 or image.mode.startswith(("I", "F")):
        raise Refused(
            f"{name} is an image of mode {image.mode} with {max(bits, 16)} bits a channel, expected 8 at most: convert "
            "it, so that it is known how it was scaled"
        )


def _frame(image: Image.Image) -> tuple[int, int, int, int] | None:
    """The part of its canvas that the first frame of a GIF covers; it is transparent elsewhere. None for all of it."""
    if image.format != "GIF" or not (tiles := getattr(image, "tile", None)):
        return None
    left, top, right, bottom = tiles[0].extents
    covers = left <= 0 and top <= 0 and right >= image.width and bottom >= image.height
    return None if covers else (left, top, right, bottom)


def _flattened(
    image: Image.Image, name: str, background: Colour | None, frame: tuple[int, int, int, int] | None
) -> Image.Image:
    if background is None:
        raise Refused(
            f"{name} is transparent (mode {image.mode}): say which colour it is laid onto, such as background='white' "
            "or --background white, or flatten it in its file"
        )
    colour = colour_of(background)
    above = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    if frame is not None:
        whole = Image.new("RGBA", image.size)
        whole.paste(above.crop(frame), frame[:2])
        above = whole
    flat = Image.alpha_composite(Image.new("RGBA", image.size, (*colour, 255)), above)
    return flat.convert("L" if image.mode in GREY and len(set(colour)) == 1 else "RGB")


def _shrunk(picture: Image.Image, name: str, size: int, crop: int | None) -> Image.Image:
    side = crop or min(picture.size)
    if not 1 <= size <= side or side > min(picture.size):
        raise ValueError(
            f"{name} has {picture.width} x {picture.height} pixels: expected 1 to {side} asked, got {size}"
        )
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side))  # first: shrinking a box would look beyond its edges
    return square if size == side else square.resize((size, size), Image.Resampling.BILINEAR)


class Pictures(Source):
    """Encoded pictures, in one shape, decoded as they are read.

    Args:
        count: number of pictures.
        read: from the number of a picture to its name and its pixels `(C, H, W)`.
        labels: class indices, `(N,)`, or None.
    """

    def __init__(self, count: int, read: Callable[[int], tuple[str, Tensor]], labels: Tensor | None) -> None:
        self.count, self.read, self.labels = count, read, labels
        name, first = read(0) if count else ("", torch.empty(1, 1, 1))
        self.first, self.shape = name, tuple(first.shape)

    @classmethod
    def in_files(
        cls,
        files: Sequence[Path],
        labels: Tensor | None,
        size: int | None,
        crop: int | None = None,
        background: Colour | None = None,
    ) -> "Pictures":
        """Return the pictures in files of their own; `size`, `crop` and `background` as in `decode`."""

        def read(row: int) -> tuple[str, Tensor]:
            name = str(files[row])
            return name, decode(files[row].read_bytes(), name, size, crop, background)

        return cls(len(files), read, labels)

    def __len__(self) -> int:
        return self.count

    def chunks(self, rows: range, size: int) -> Iterator[Chunk]:
        """See `Source`. Raises `ValueError` for an unreadable picture, or one of another shape than the first."""
        return chunked(rows, size, self._stacked, self.labels)

    def _stacked(self, part: slice) -> Tensor:
        return stacked(map(self.read, range(part.start, part.stop)), (self.first, self.shape))


def stacked(named: Iterable[tuple[str, Tensor]], first: tuple[str, tuple[int, ...]] | None = None) -> Tensor:
    """Stack named images `(C, H, W)` to `(N, C, H, W)`; of none, `(0, 1, 1, 1)`.

    Args:
        named: the images.
        first: the name and shape of one that all must be like; by default the first of them.

    Raises:
        ValueError: images of two shapes.
    """
    images: list[Tensor] = []
    for name, image in named:
        first = first or (name, tuple(image.shape))
        if tuple(image.shape) != first[1]:
            remedy = (
                "a folder of pictures of any size is read at one size with an @ behind it (photos@64)"
                if image.shape[1:] != first[1][1:]
                else "grey pictures have one channel and coloured ones three, and are not mixed"
            )
            raise ValueError(
                f"images of unequal shapes (C, H, W): {first[0]} is {first[1]}, {name} is {tuple(image.shape)}; "
                f"{remedy}"
            )
        images.append(image)
    return torch.stack(images) if images else torch.empty(0, 1, 1, 1, dtype=torch.uint8)
