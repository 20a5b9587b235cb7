"""Fingerprints of contents, and keys that are made of them.

A fingerprint separates its parts: `("ab", "c")` is not `("a", "bc")`. Those of earlier versions were of all parts in
one row. A file kept under such a key is still found: every `Print` carries the key that it once had, and so does every
key that is made of prints.
"""

import hashlib
import json
from typing import Any, Self

import torch
from torch import Tensor

__all__ = ["Print", "fingerprint", "formerly", "is_of", "key_of"]

DIGITS = 16


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
