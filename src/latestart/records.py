"""Results as records: frozen dataclasses that print as one short line, whatever arrays they hold.

    @dataclass(frozen=True, eq=False, repr=False)
    class Curve(Record): ...

`record()` gives the fields as JSON can hold them; a class whose JSON has other names defines its own.
Records with arrays are equal only to themselves: arrays have no single truth value.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

__all__ = ["Record", "plain"]

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

    def record(self) -> dict[str, Any]:
        """Return the fields by their names, ready for JSON; see `plain`."""
        return {one.name: plain(getattr(self, one.name)) for one in fields(self)}  # type: ignore[arg-type]


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it.

    What has a `record` becomes that; a dataclass its fields by name; tensors, arrays, tuples and sets lists; paths
    text; numbers of numpy those of Python.
    """
    if hasattr(value, "record"):
        return value.record()
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Tensor | np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


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
