"""Results as records: frozen dataclasses that print as one short line, whatever arrays they hold.

    @dataclass(frozen=True, eq=False, repr=False)
    class Curve(Record): ...

Records with arrays are equal only to themselves: arrays have no single truth value.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Record"]

TEXT = 40  # characters of a string that are shown
LINE = 160  # characters after which what is left is not shown
FEW = 4  # numbers that are shown one by one


class Record:
    """A dataclass whose `repr` is one short line: numbers to four digits, arrays by their shapes, None left out."""

    def __repr__(self) -> str:
        parts: list[str] = []
        for one in fields(self):  # type: ignore[arg-type]
            if not one.repr or (value := getattr(self, one.name)) is None:
                continue
            parts.append(f"{one.name}={_short(value)}")
            if sum(map(len, parts)) > LINE:
                parts[-1] = "..."
                break
        return f"{type(self).__name__}({', '.join(parts)})"


def _short(value: Any) -> str:
    """A value in a few words."""
    if isinstance(value, Tensor | np.ndarray):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, bool | int | complex) or value is None:
        return str(value)
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}"
    if isinstance(value, str):
        return repr(str(value) if len(value) <= TEXT else value[: TEXT - 3] + "...")
    if isinstance(value, Mapping):
        return f"{{{_few(value, len(value), repr)}}}"
    if isinstance(value, tuple | list | set | frozenset):
        numbers = all(isinstance(item, int | float | str | None) for item in value)
        return f"({_few(value, len(value), _short)})" if numbers else _several(value)
    if is_dataclass(value):
        return str(value) if type(value).__str__ is not object.__str__ else f"{type(value).__name__}(...)"
    text = " ".join(repr(value).split())
    return text if len(text) <= TEXT else f"{type(value).__name__}(...)"


def _few(values: Any, count: int, told: Any) -> str:
    return ", ".join(map(told, values)) if count <= FEW else f"{count} values"


def _several(values: Any) -> str:
    kinds = sorted({type(value).__name__ for value in values})
    return f"{len(values)} of {' and '.join(kinds)}"
