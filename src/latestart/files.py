"""Files that are written whole or not at all, and tensors that are never unpickled.

A file of this package is a safetensors file whose header carries `format = latestart`, the `kind` of the object
and the version of its layout, so that a foreign file is recognised before anything in it is used.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

__all__ = [
    "cast", "kind_of", "load_tensors", "read_json", "replacing", "require_finite", "save_tensors", "sound",
    "write_json",
]  # fmt: skip

VERSION = 1


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path` that replaces it on success and vanishes on failure."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all. Numbers that are not finite raise `ValueError`."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any] | None:
    """The names and values in what `write_json` wrote; None where there is no such file, or it was spoilt since.

    For what a run keeps for itself and can make again; what a user hands over is refused where it is spoilt.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def save_tensors(path: str | Path, kind: str, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> None:
    """Write named tensors and JSON-able `metadata` to a safetensors file of the given `kind`.

    The same content is the same bytes, so that a file is known by its hash.
    """
    header = {"format": "latestart", "kind": kind, "version": str(VERSION), "metadata": json.dumps(dict(metadata))}
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary, header)
        _order(temporary)


def _order(path: Path) -> None:
    """Put the names of a safetensors file's metadata in order: the library writes them in another one each time."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(ordered) > size:
            raise ValueError(f"the header of {path} cannot be put in order: {len(ordered)} bytes, of {size}")
        file.seek(8)
        file.write(ordered.ljust(size))


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a pickle, is damaged, was not written by latestart, or holds another kind of object.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a {kind} file (safetensors) at {path}, found none")
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise ValueError(
            f"expected a {kind} file (safetensors) at {path}, but it is {_described(path)}: {error}"
        ) from error
    if header.get("format") != "latestart":
        raise ValueError(
            f"{path} is a safetensors file, but not one of latestart's: expected a {kind}, received the tensors "
            f"{sorted(tensors)[:5]}"
        )
    if header.get("kind") != kind or header.get("version") != str(VERSION):
        raise ValueError(
            f"{path} holds a {header.get('kind')} of version {header.get('version')}, "
            f"expected a {kind} of version {VERSION}"
        )
    try:
        metadata = json.loads(header["metadata"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"the {kind} file {path} is damaged: its metadata cannot be read") from error
    if not isinstance(metadata, dict):
        raise ValueError(f"the {kind} file {path} is damaged: its metadata are {type(metadata).__name__}, not a dict")
    return tensors, metadata


def _described(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return "a pickle or a torch.save archive, which can run code and is never loaded"
    return "damaged or of another format"


def kind_of(path: str | Path) -> str | None:
    """The kind of object that a file of this package declares, or None."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("kind")
    except (SafetensorError, OSError):
        return None


@contextmanager
def sound(path: str | Path, what: str) -> Iterator[None]:
    """Turn any failure to build an object from a file into a `ValueError` that names both."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        told = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise ValueError(f"{path} does not hold a sound {what}: {told}") from error


def cast(tensors: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Tensors by name, those of floating-point numbers in another precision."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}


def require_finite(path: str | Path, tensors: Mapping[str, torch.Tensor], names: tuple[str, ...]) -> None:
    """Raise `ValueError` unless a file held at least the tensors `names`, and only finite floating-point numbers."""
    if missing := sorted(set(names) - set(tensors)):
        raise ValueError(f"{path} holds the tensors {sorted(tensors)}, expected also {missing}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"{path}: {name} ({tensor.dtype}) holds values that are not finite floating-point numbers")
