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
from latestart.datasets.pictures import Chunk, Colour, Pictures, Source, chunked, decode

__all__ = ["Arrays", "open_npz", "open_parquet"]


def open_parquet(path: Path, background: Colour | None = None) -> Pictures:
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
    rows, labels = table["image"], None
    if "label" in table.column_names:
        if table["label"].null_count:
            raise ValueError(f"the column `label` of {path} has {table['label'].null_count} empty rows")
        labels = _labels(table["label"].to_numpy(), path)

    def read(row: int) -> tuple[str, Tensor]:
        content, name = rows[row].as_py(), f"{path.name}, row {row}"
        if not isinstance(content, dict) or not isinstance(content.get("bytes"), bytes):
            raise ValueError(
                f"the column `image` of {path} is {rows.type}, expected `bytes` in every row, received "
                f"{str(content)[:60]} in row {row}"
            )
        return name, decode(content["bytes"], name, background=background)

    return Pictures(len(rows), read, labels)


class Arrays(Source):
    """Images that are in memory already."""

    def __init__(self, pixels: Tensor, labels: Tensor | None) -> None:
        self.pixels, self.labels, self.shape = pixels, labels, tuple(pixels.shape[1:])

    def __len__(self) -> int:
        return len(self.pixels)

    def chunks(self, rows: range, size: int) -> Iterator[Chunk]:
        """See `Source`."""
        return chunked(rows, size, self.pixels.__getitem__, self.labels)


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
