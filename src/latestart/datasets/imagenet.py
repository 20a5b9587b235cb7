"""ImageNet64 (Chrabaszcz et al. 2017), as it is published; its siblings of 8, 16 and 32 pixels have the same layout.

    FOLDER/train_data_batch_1 .. train_data_batch_10, val_data

each a pickle, or with the suffix .npz an npz file, of

    data      (N, 3 S S) uint8, one channel after the other
    labels    (N,), 1 to 1000

in one folder or in those that the archives unpack to. Labels become 0 to 999.
"""

import io
import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.lib.format import read_array_header_1_0, read_array_header_2_0, read_magic

from latestart.datasets.pickles import Stored, read_pickle
from latestart.datasets.pictures import Chunk, Source
from latestart.datasets.places import Place

__all__ = ["find_batches", "open_imagenet"]

BATCHES, VALIDATION, CLASSES = 10, "val_data", 1000
TRAINING = tuple(f"train_data_batch_{k}" for k in range(1, BATCHES + 1))
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OSError, KeyError, NotImplementedError)


class Arrays(ABC):
    """The images of one file of ImageNet64: `side`, `labels` `(N,)` from 0, and bytes of consecutive rows."""

    def __init__(self, path: Path, shape: tuple[int, ...], labels: np.ndarray) -> None:
        side = math.isqrt(shape[1] // 3) if len(shape) == 2 else 0
        if len(shape) != 2 or shape[1] == 0 or 3 * side * side != shape[1]:
            raise ValueError(f"`data` in {path} has the shape {shape}, expected (N, 3 S S) of images S x S")
        if labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"`labels` in {path} are {labels.dtype} {labels.shape}, expected integers ({shape[0]},)")
        if labels.size and not (labels.min() >= 1 and labels.max() <= CLASSES):
            raise ValueError(
                f"`labels` in {path} are from {labels.min()} to {labels.max()}, expected 1 to {CLASSES}, as published"
            )
        self.path, self.side, self.width = path, side, shape[1]
        self.labels = torch.from_numpy(labels.astype(np.int64) - 1)

    @abstractmethod
    def blocks(self, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
        """Rows `(B, 3 S S)` uint8, at most `size` at a time."""


class Stack(Source):
    """Files of ImageNet64 after each other."""

    def __init__(self, files: Sequence[Arrays]) -> None:
        sides = {file.side for file in files}
        if len(sides) > 1:
            raise ValueError(f"{files[0].path.parent}: expected images of one size, received {sorted(sides)}")
        self.files, self.shape = files, (3, files[0].side, files[0].side)

    def __len__(self) -> int:
        return sum(len(file.labels) for file in self.files)

    def chunks(self, rows: range, size: int) -> Iterator[Chunk]:
        """See `Source`. No chunk holds images of two files. Raises `ValueError` for a damaged file."""
        before = 0
        for file in self.files:
            count = len(file.labels)
            at, stop = max(0, rows.start - before), min(count, rows.stop - before)
            before += count
            for block in file.blocks(at, stop, size) if at < stop else ():
                pixels = torch.from_numpy(block.reshape(-1, *self.shape).copy())
                yield pixels, file.labels[at : at + len(block)]
                at += len(block)


def find_batches(folder: Path) -> dict[str, Path]:
    """The files of ImageNet64 in a folder, or in the folders that its archives unpack to, by their names."""
    found = {}
    for name in (*TRAINING, VALIDATION):
        for pattern in (f"{name}.npz", name, f"*/{name}.npz", f"*/{name}"):
            if match := next((path for path in sorted(folder.glob(pattern)) if path.is_file()), None):
                found[name] = match
                break
    return found


def open_imagenet(place: Place, batches: dict[str, Path]) -> Stack:
    """The images of a part: by default `train`, or `valid` where there is nothing else.

    Raises:
        FileNotFoundError: some of its files are missing.
        ValueError: a damaged file, or one of another layout; a part or size that there is not.
    """
    place.without("ImageNet64", "attribute", "background")
    wanted = {"train": TRAINING, "valid": (VALIDATION,)}
    part = place.part or ("valid" if set(batches) == {VALIDATION} else "train")
    if part not in wanted:
        raise ValueError(f"{place.path} is ImageNet64, which has the parts train and valid, received {part!r}")
    if missing := [name for name in wanted[part] if name not in batches]:
        raise FileNotFoundError(
            f"{place.path} lacks {len(missing)} of {len(wanted[part])} files of ImageNet64, the first {missing[0]} "
            "(a pickle, or with .npz)"
        )
    paths = [batches[name] for name in wanted[part]]
    stack = Stack([Npz(path) if path.suffix == ".npz" else Pickle(path) for path in paths])
    if place.size not in (None, stack.shape[1]):
        raise ValueError(f"{place.path} is ImageNet64 of {stack.shape[1]} pixels each way, received @{place.size}")
    return stack


class Npz(Arrays):
    """A file of ImageNet64 as npz, decompressed as it is read."""

    def __init__(self, path: Path) -> None:
        with self._member(path, "labels") as (file, dtype, shape, _):
            labels = np.frombuffer(file.read(), dtype)[: math.prod(shape)].reshape(shape)
        with self._member(path, "data") as (_, dtype, shape, fortran):
            _check_bytes(path, dtype, fortran)
        super().__init__(path, shape, labels)

    def blocks(self, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
        """See `Arrays`."""
        with self._member(self.path, "data") as (file, *_):
            file.seek(start * self.width, io.SEEK_CUR)
            for at in range(start, stop, size):
                count = (min(at + size, stop) - at) * self.width
                data = file.read(count)
                if len(data) < count:
                    raise EOFError(f"the array ends at {at * self.width + len(data)} bytes")
                yield np.frombuffer(data, np.uint8).reshape(-1, self.width)

    @staticmethod
    @contextmanager
    def _member(path: Path, name: str) -> Iterator[tuple[IO[bytes], np.dtype, tuple[int, ...], bool]]:
        """An array of an npz file, open at its first number, with its dtype, shape and whether columns come first."""
        try:
            with zipfile.ZipFile(path) as archive:
                if f"{name}.npy" not in archive.namelist():
                    raise ValueError(f"expected the arrays `data` and `labels`, found {archive.namelist()}")
                with archive.open(f"{name}.npy") as file:
                    version = read_magic(file)
                    first = version == (1, 0)
                    shape, fortran, dtype = (read_array_header_1_0 if first else read_array_header_2_0)(file)
                    if dtype.hasobject:
                        raise ValueError(f"`{name}` holds objects, expected plain numbers")
                    yield file, dtype, shape, fortran
        except DAMAGED as error:
            raise ValueError(f"cannot read {path} as an npz file of ImageNet64: {error}") from error


def _check_bytes(path: Path, dtype: np.dtype, fortran: bool) -> None:
    if dtype != np.uint8 or fortran:
        raise ValueError(
            f"`data` in {path} is {dtype}{', columns first' if fortran else ''}, expected uint8, rows first"
        )


class Pickle(Arrays):
    """A file of ImageNet64 as a pickle. Its pixels stay in the file until they are asked for."""

    def __init__(self, path: Path) -> None:
        content = read_pickle(path)
        if not isinstance(content, dict) or not {"data", "labels"} <= set(content):
            told = sorted(map(str, content)) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path} holds {told}, expected a pickled dict of `data` and `labels`")
        data, labels = content["data"], content["labels"]
        if not isinstance(data, Stored):
            raise ValueError(f"`data` in {path} is a {type(data).__name__}, expected an array")
        _check_bytes(path, data.dtype, data.fortran)
        self.stored = data
        try:
            data.array()
            listed = labels.array() if isinstance(labels, Stored) else np.array(labels)
        except ValueError as error:
            raise ValueError(f"`data` or `labels` in {path} are damaged: {error}") from error
        super().__init__(path, data.shape, listed)

    def blocks(self, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
        """See `Arrays`."""
        for at in range(start, stop, size):
            yield self.stored.array()[at : min(at + size, stop)]
