"""Measurements that are kept in files, each under the key of all that it depends on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from latestart.files import read_json
from latestart.fingerprints import Print, is_of

__all__ = ["Store", "read_kept"]

T = TypeVar("T")


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
