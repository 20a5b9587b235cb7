"""Fingerprints of contents, and the keys under which measurements are kept.

A fingerprint separates its parts: `("ab", "c")` is not `("a", "bc")`. Those of earlier versions were of all parts in
one row. A file kept under such a key is still found: every `Print` carries the key that it once had, and so does every
key that is made of prints.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from latestart.files import read_json

__all__ = ["Print", "Store", "fingerprint", "formerly", "is_of", "key_of", "read_kept"]

DIGITS = 16
T = TypeVar("T")


class Print(str):
    """A key that knows which one was used for the same thing by earlier versions: `former`."""

    former: str

    def __new__(cls, text: str, former: str | None = None) -> Self:
        made = super().__new__(cls, text)
        made.former = str(text) if former is None else former
        return made

    def __add__(self, text: str) -> "Print":
        return Print(f"{self}{text}", self.former + text)

    def __radd__(self, text: str) -> "Print":
        return Print(f"{text}{self}", text + self.former)


def fingerprint(*parts: Any) -> Print:
    """Return sixteen hexadecimal digits of tensors, bytes and text: other parts, other digits.

    Anything but a tensor or bytes counts as its text. Each part is hashed after its kind and its length.
    """
    now, before = hashlib.sha256(), hashlib.sha256()
    for part in parts:
        kind, content = _content(part)
        now.update(f"{kind} {len(content)}\n".encode())
        now.update(content)
        if kind not in ("bytes", "text"):
            before.update(kind.encode())
        before.update(_content(part.former)[1] if isinstance(part, Print) else content)
    return Print(now.hexdigest()[:DIGITS], before.hexdigest()[:DIGITS])


def _content(part: Any) -> tuple[str, bytes | memoryview]:
    """Return the kind of a part, and its bytes."""
    if isinstance(part, Tensor):
        flat = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return f"{part.dtype} {tuple(part.shape)}", flat.numpy().data  # no copy
    if isinstance(part, bytes):
        return "bytes", part
    return "text", f"{part}\n".encode()


def key_of(named: Any, *, sort: bool = True) -> Print:
    """Return the key of names and values that JSON can hold."""
    now, before = (json.dumps(value, sort_keys=sort) for value in (named, formerly(named)))
    return Print(fingerprint(now), fingerprint(before).former)


def formerly(named: Any) -> Any:
    """Return names and values as an earlier version would have written them: each print as it once was."""
    if isinstance(named, dict):
        return {name: formerly(value) for name, value in named.items()}
    if isinstance(named, list | tuple):
        return [formerly(value) for value in named]
    return named.former if isinstance(named, Print) else named


def is_of(known: Any, named: Any) -> bool:
    """Return whether the names and values in a file are these, as they are now or as they once were."""
    return known in (json.loads(json.dumps(named)), json.loads(json.dumps(formerly(named))))


@dataclass(frozen=True)
class Store:
    """Measurements in the files of a folder, each under the key of all that it depends on.

    Attributes:
        folder: of the files.
        name: of a file, with `{}` in the place of the key.
        tell: receives a sentence about each damaged file, which counts as none.
    """

    folder: Path
    name: str
    tell: Callable[[str], None] = lambda _: None

    def path(self, key: Print) -> Path:
        """Return the place of a key: under the former key if a file lies there, else under the present one."""
        path, before = (self.folder / self.name.format(text) for text in (str(key), key.former))
        return before if before.is_file() and not path.is_file() else path

    def found(self, key: Print, read: Callable[[Path], T]) -> T | None:
        """Return what `read` makes of a key's file; None where there is no file, or a damaged one."""
        path = self.path(key)
        if not path.is_file():
            return None
        try:
            return read(path)
        except (ValueError, KeyError, TypeError) as error:
            self.tell(f"{path} is not sound ({error}): it is made again")
            return None

    def kept(self, key: Print, read: Callable[[Path], T], make: Callable[[Path], None]) -> T:
        """Return what `read` makes of a key's file, which `make` writes where it is missing or damaged."""
        found = self.found(key, read)
        if found is None:
            make(self.path(key))
            found = read(self.path(key))
        return found


def read_kept(path: Path, named: Any) -> dict[str, Any]:
    """Return the JSON object in a file whose "configuration" is these names and values.

    Raises:
        ValueError: damaged, or of something else.
    """
    known = read_json(path)
    if known is None or not is_of(known.get("configuration"), named):
        raise ValueError("damaged" if known is None else "of something else")
    return known
