"""Pickles of plain arrays, read without running them.

A pickle is a program: it names functions and gives them arguments. Of the names that this reader lets it use, those
that a NumPy array is written with stand for methods that only take notes; any other is an error. What is long, the
bytes of an array, is a view of the file mapped into memory: it is read when it is asked for, and never as a whole.
"""

import mmap
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

__all__ = ["Stored", "read_pickle"]

LARGE = 1 << 16  # bytes that are left in the file
DAMAGED = (
    *(pickle.UnpicklingError, EOFError, struct.error, ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, RecursionError, MemoryError),
)


class Stored:
    """An array as a pickle describes it: `dtype`, `shape`, whether columns come first, and its bytes."""

    __slots__ = ("dtype", "fortran", "raw", "shape")

    def __init__(self) -> None:
        self.dtype, self.fortran, self.raw = np.dtype("V"), False, b""
        self.shape: tuple[int, ...] = (0,)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, fortran, raw = state
        self.hold(raw, kind, shape, fortran)

    def hold(self, raw: Any, kind: Any, shape: Any, fortran: Any) -> None:
        """Note what the array consists of."""
        if not isinstance(kind, Kind):
            raise TypeError("an array without a dtype")
        self.shape, self.fortran, self.raw = tuple(int(n) for n in shape), bool(fortran), raw
        self.dtype = np.dtype(f"{kind.order}{kind.name}")
        if self.dtype.hasobject:
            raise TypeError("an array of objects")

    def array(self) -> np.ndarray:
        """The array over its bytes; raises `ValueError` if their number is not the one stated."""
        return np.frombuffer(self.raw, self.dtype).reshape(self.shape)


class Kind:
    """A dtype as a pickle describes it: `name`, and the `order` of its bytes."""

    __slots__ = ("name", "order")

    def __init__(self, name: str) -> None:
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        order = state[1].decode() if isinstance(state[1], bytes) else str(state[1])
        self.order = order if order in ("<", ">") else "="


class Reader(pickle._Unpickler):
    """Unpickles lists, dicts, text, numbers and arrays, and nothing else.

    The names that a NumPy array is written with stand for methods that only take notes; any other name is an error.
    """

    read: Callable[[int], Any]
    append: Callable[[Any], None]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        known: dict[tuple[str, str], Callable[..., Any]] = {
            ("numpy", "ndarray"): self._nothing,
            ("numpy", "dtype"): self._dtype,
            **{(f"numpy.{core}.multiarray", "_reconstruct"): self._array for core in ("core", "_core")},
            **{(f"numpy.{core}.numeric", "_frombuffer"): self._array_of for core in ("core", "_core")},
        }
        if (module, name) not in known:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which could run code")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of the file")

    def get_extension(self, code: int) -> None:
        raise pickle.UnpicklingError("it refers to registered functions")

    def load_bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8  # the library's own would copy it

    def _nothing(self) -> None:
        raise pickle.UnpicklingError("an array made without its contents")

    def _array(self, *_: Any) -> Stored:
        return Stored()

    def _array_of(self, raw: Any, kind: Any, shape: Any, order: Any) -> Stored:
        array = Stored()
        array.hold(raw, kind, shape, order == "F")
        return array

    def _dtype(self, name: Any, *_: Any) -> Kind:
        return Kind(name.decode() if isinstance(name, bytes) else str(name))


class Mapped:
    """A file as an unpickler reads it. What is long is not copied: it is a view of the file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self.view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        self.at = 0

    def read(self, count: int) -> Any:
        """The next `count` bytes."""
        if not 0 <= count <= len(self.view) - self.at:
            raise EOFError(f"it ends at {len(self.view)} bytes, where {count} more were expected after {self.at}")
        part = self.view[self.at : self.at + count]
        self.at += count
        return part if count >= LARGE else bytes(part)

    def readline(self) -> bytes:
        """The bytes up to the next end of a line, with it."""
        found = bytes(self.view[self.at : self.at + LARGE]).find(b"\n")
        return self.read(found + 1)


def read_pickle(path: Path) -> Any:
    """Read a pickle of lists, dicts, text, numbers and arrays, and of nothing else; arrays as `Stored`.

    Written by Python 3, or by Python 2, whose text is told from bytes by what it is used as.

    Raises:
        ValueError: it is damaged, or would run anything.
    """
    try:
        content = Reader(Mapped(path), encoding="bytes").load()
    except DAMAGED as error:
        raise ValueError(f"cannot read {path} as a pickle of plain arrays: {error}") from error
    if not isinstance(content, dict):
        return content
    return {key.decode(errors="replace") if isinstance(key, bytes) else key: value for key, value in content.items()}
