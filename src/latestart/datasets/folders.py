"""Folders of pictures: which files are pictures, and which folders are classes.

    photos/1.png, photos/2.png              pictures without labels
    photos/cat/1.png, photos/dog/1.png      the folders that hold pictures are the classes, in the order of their names

Pictures are the regular files with the suffix of a format that is read. What is hidden (a name that begins with a dot)
or kept by an operating system for itself is neither a picture nor a class. Links are followed, to files and to folders,
and a folder that is met twice is refused: its pictures would count twice, or without end. A picture that lies beside
folders of pictures is refused too: it is of no class. The order is that of the classes, and within a class that of the
numbers in the names.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import torch

from latestart.datasets.pictures import SUFFIXES, Colour, Pictures

__all__ = ["open_folder"]

OWN = {"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "__pycache__"}


def open_folder(folder: Path, size: int | None = None, background: Colour | None = None) -> Pictures:
    """The pictures below a folder, with labels where they lie in more than one folder.

    Args:
        folder: searched recursively.
        size: cut and shrink each to that many pixels each way; None expects pictures of one size.
        background: what transparent pictures are laid onto.

    Raises:
        ValueError: there are none; or a picture lies beside folders of pictures, is a link to nothing or no regular
            file, or is met on two ways.
        OSError: a folder cannot be read.
    """
    found = dict(_folders(folder, {}))
    if not found:
        raise ValueError(f"the folder {folder} holds no image files (looked for {', '.join(sorted(SUFFIXES))})")
    for place, files in found.items():
        if below := next((other for other in found if place in other.parents), None):
            raise ValueError(
                f"{files[0]} lies beside the folder of pictures {below}: expected pictures in one folder, or in a "
                "folder for each class; move it, or the folder, elsewhere"
            )
    classes = sorted(found)
    labels = [k for k, place in enumerate(classes) for _ in found[place]]
    files = [file for place in classes for file in sorted(found[place], key=natural)]
    return Pictures.in_files(files, torch.tensor(labels) if len(classes) > 1 else None, size, background=background)


def natural(file: Path) -> list[tuple[int, str]]:
    """A key that sorts 9.png before 10.png; the digits are those of any script."""
    pieces = re.findall(r"\d+|\D+", file.name)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def _folders(folder: Path, met: dict[tuple[int, int], Path]) -> Iterator[tuple[Path, list[Path]]]:
    """Each folder that holds pictures, with them."""
    status = folder.stat()
    before = met.setdefault((status.st_dev, status.st_ino), folder)
    if before != folder:
        raise ValueError(
            f"{folder} is a link to the folder {before}, whose pictures would count twice: expected each folder once"
        )
    files = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or entry.name.lower() in OWN:
            continue
        if entry.is_dir():
            yield from _folders(entry, met)
        elif entry.suffix.lower() in SUFFIXES:
            files.append(_picture(entry))
    if files:
        yield folder, files


def _picture(entry: Path) -> Path:
    if not entry.exists():
        raise ValueError(f"{entry} is a link to {entry.readlink()}, where there is nothing: expected a picture")
    if not entry.is_file():
        raise ValueError(f"{entry} is no regular file: expected a picture")
    return entry
