"""Tables and arrays of images: parquet files in the layout of Hugging Face, and npz files.

x.parquet       a column `image` of `{bytes, path}`, encoded pictures, and optionally `label`
x.npz           `images`, uint8 or floats in [0, 1], `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with 1 or 3
                channels, and optionally `labels`
"""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.datasets.axes import as_pictures
from latestart.datasets.pictures import Chunk, Colour, Source, decode, stacked

__all__ = ["Arrays", "open_npz", "open_parquet"]


class Table(Source):
    """Encoded pictures in the rows of a parquet file, decoded as they are read."""

    def __init__(self, path: Path, rows: Any, labels: Tensor | None, background: Colour | None) -> None:
        self.path, self.rows, self.labels, self.background = path, rows, labels, background
        self.shape = tuple(self._decoded(0)[1].shape) if len(self) else (1, 1, 1)

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self, rows: range, size: int) -> Iterator[Chunk]:
        """See `Source`. Raises `ValueError` for an unreadable picture, or one of another shape than the first."""
        first = (self._name(0), self.shape)
        for start in range(rows.start, rows.stop, size):
            part = range(start, min(start + size, rows.stop))
            pixels = stacked((self._decoded(k) for k in part), first)
            yield pixels, None if self.labels is None else self.labels[part.start : part.stop]

    def _name(self, row: int) -> str:
        return f"{self.path.name}, row {row}"

    def _decoded(self, row: int) -> tuple[str, Tensor]:
        content = self.rows[row].as_py()
        if not isinstance(content, dict) or not isinstance(content.get("bytes"), bytes):
            raise ValueError(
                f"the column `image` of {self.path} is {self.rows.type}, expected `bytes` in every row, received "
                f"{str(content)[:60]} in row {row}"
            )
        return self._name(row), decode(content["bytes"], self._name(row), background=self.background)


def open_parquet(path: Path, background: Colour | None = None) -> Table:
    """The pictures of a parquet file.

    Raises:
        ValueError: it is none, or has other columns or labels than expected.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {path} as a parquet file: {error}") from error
    if "image" not in table.column_names:
        raise ValueError(f"{path} has the columns {table.column_names}, expected `image` (and optionally `label`)")
    if "label" not in table.column_names:
        return Table(path, table["image"], None, background)
    if table["label"].null_count:
        raise ValueError(f"the column `label` of {path} has {table['label'].null_count} empty rows")
    return Table(path, table["image"], _labels(table["label"].to_numpy(), path), background)


class Arrays(Source):
    """Images that are in memory already."""

    def __init__(self, pixels: Tensor, labels: Tensor | None) -> None:
        self.pixels, self.labels, self.shape = pixels, labels, tuple(pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.pixels)

    def chunks(self, rows: range, size: int) -> Iterator[Chunk]:
        """See `Source`."""
        for start in range(rows.start, rows.stop, size):
            part = slice(start, min(start + size, rows.stop))
            yield self.pixels[part], None if self.labels is None else self.labels[part]


def open_npz(path: Path) -> Arrays:
    """The images of an npz file.

    Raises:
        ValueError: it is none, or holds other arrays than expected.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            arrays: dict[str, Any] = {name: file[name] for name in ("images", "labels") if name in names}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read {path} as an npz file of plain arrays: {error}") from error
    if "images" not in arrays:
        raise ValueError(f"{path} holds the arrays {sorted(names)}, expected `images` (and optionally `labels`)")
    pixels = _pixels(arrays["images"], path)
    labels = _labels(arrays["labels"], path) if "labels" in arrays else None
    if labels is not None and len(labels) != len(pixels):
        raise ValueError(f"{path} holds {len(pixels)} images and {len(labels)} labels")
    return Arrays(pixels, labels)


def _labels(array: np.ndarray, path: Path) -> Tensor:
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"the labels in {path} are {array.dtype} {array.shape}, expected class indices (N,)")
    return torch.from_numpy(array.astype(np.int64))


def _pixels(array: np.ndarray, path: Path) -> Tensor:
    if array.ndim not in {3, 4}:
        raise ValueError(
            f"`images` in {path} has the shape {array.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"`images` in {path} is {array.dtype}, expected uint8 or floats in [0, 1]")
        if not np.isfinite(array).all():
            raise ValueError(
                f"`images` in {path} holds {int((~np.isfinite(array)).sum())} values that are NaN or infinite"
            )
        if array.size and (array.min() < 0 or array.max() > 1):
            raise ValueError(
                f"`images` in {path} is {array.dtype} in [{array.min():g}, {array.max():g}], "
                "expected uint8 or floats in [0, 1]"
            )
        array = np.round(array * 255).astype(np.uint8)
    pixels = torch.from_numpy(np.ascontiguousarray(array))
    return as_pictures(pixels, f"`images` in {path}")
