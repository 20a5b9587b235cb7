"""Images in files of their own: decoded, cut and shrunk, a chunk at a time.

A `Source` says how many images there are before it reads one, and hands them out in chunks: memory is needed for one
chunk, whatever the size of the set. A picture is shrunk bilinearly over all pixels that fall into one of the new.
"""

import io
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

# eight bits a channel; alpha and 16 bits would have to be changed to be read
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}

Chunk = tuple[Tensor, Tensor | None]


class Source(ABC):
    """Images in files, in a fixed order.

    Attributes:
        shape: of one image, `(C, H, W)`.
    """

    shape: tuple[int, ...]

    @abstractmethod
    def __len__(self) -> int:
        """How many images there are."""

    @abstractmethod
    def chunks(self, rows: range, size: int) -> Iterator[Chunk]:
        """Pixels `(B, C, H, W)` uint8 and labels `(B,)` or None of consecutive images, at most `size` at a time."""


def decode(data: bytes, name: str, size: int | None = None, crop: int | None = None) -> Tensor:
    """One encoded image as `(C, H, W)` uint8.

    Args:
        data: the bytes of a file.
        name: by which errors call it.
        size: shrink the square in the middle to that many pixels each way; None keeps the image as it is.
        crop: the side of that square; the largest by default.

    Raises:
        ValueError: it is no image, or has more than eight bits a channel or transparency, or is smaller than asked for.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in MODES:
                raise ValueError(f"{name} is an image of mode {image.mode}, expected one of {', '.join(MODES)}")
            picture = image.convert(MODES[image.mode])
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"cannot read {name} as an image: {error}") from error
    array = np.array(picture if size is None else _shrunk(picture, name, size, crop))
    return torch.from_numpy(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0).copy())


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
    """Images in files of their own, each cut and shrunk to one size, with labels `(N,)` or none."""

    def __init__(self, files: Sequence[Path], labels: Tensor | None, size: int | None, crop: int | None = None) -> None:
        self.files, self.labels, self.size, self.crop = files, labels, size, crop
        self.shape = tuple(self._read(files[0]).shape)

    def __len__(self) -> int:
        return len(self.files)

    def chunks(self, rows: range, size: int) -> Iterator[Chunk]:
        """See `Source`. Raises `ValueError` for an unreadable image, or one with another number of channels."""
        for start in range(rows.start, rows.stop, size):
            part = slice(start, min(start + size, rows.stop))
            yield self._stacked(self.files[part]), None if self.labels is None else self.labels[part]

    def _read(self, file: Path) -> Tensor:
        return decode(file.read_bytes(), str(file), self.size, self.crop)

    def _stacked(self, files: Iterable[Path]) -> Tensor:
        images = []
        for file in files:
            image = self._read(file)
            if tuple(image.shape) != self.shape:
                raise ValueError(
                    f"images of unequal channels: {self.files[0]} has {self.shape[0]}, {file} has {len(image)}"
                )
            images.append(image)
        return torch.stack(images)


def open_folder(folder: Path, size: int | None) -> Pictures:
    """Images below a folder, shrunk, in the order of the numbers in their names; sub-folders are classes.

    Raises:
        ValueError: there is none.
    """
    files = sorted(
        (file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()), key=_natural
    )
    if not files:
        raise ValueError(f"the folder {folder} holds no image files (looked for {', '.join(sorted(SUFFIXES))})")
    parents = [file.relative_to(folder).parent for file in files]
    classes = {parent: k for k, parent in enumerate(sorted(set(parents)))}
    labels = torch.tensor([classes[parent] for parent in parents]) if len(classes) > 1 else None
    return Pictures(files, labels, size)


def _natural(file: Path) -> tuple[str, list[tuple[int, str]]]:
    """Sorts 9.png before 10.png."""
    pieces = re.findall(r"\d+|\D+", file.name)
    return str(file.parent), [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in pieces]
