"""CelebA, as it is published.

    FOLDER/img_align_celeba/*.jpg      202,599 faces of 178 x 218 pixels
    FOLDER/list_eval_partition.txt     the part of each: 0 train, 1 valid, 2 test
    FOLDER/list_attr_celeba.txt        their number, the names of 40 attributes, and 1 or -1 for each of each image

or these in Img/, Eval/ and Anno/, as the archive has them. Faces are cut to the 140 x 140 pixels in their middle, as
Song et al. (2021) and most after them do, and shrunk.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from latestart.datasets.pictures import Pictures
from latestart.datasets.places import ALL, PARTS, Place
from latestart.records import Record

__all__ = ["FACES", "attributes", "find", "open_celeba"]

FACES, PARTITION, ATTRIBUTES = "img_align_celeba", "list_eval_partition.txt", "list_attr_celeba.txt"
CROP, SIZE = 140, 64  # the square cut from the middle, and the size if none is asked for


@dataclass(frozen=True, eq=False, repr=False)
class Attributes(Record):
    """The attributes of CelebA: `names`, and `values` `(N, 40)`, True where the image has it."""

    names: tuple[str, ...]
    values: Tensor


def attributes(place: str | Path, limit: int | None = None) -> Attributes:
    """The attributes of the images that `load_images` reads from the same place, in the same order.

    Raises:
        FileNotFoundError: the list of attributes, or of parts, is missing.
        ValueError: it is no folder of CelebA, or a list does not have the published form.
    """
    where = Place.of(place)
    if find(where.path, FACES) is None:
        raise ValueError(f"{where.path} is no folder of CelebA: expected {FACES}/ in it")
    names, values = _attribute_list(_needed(where.path, ATTRIBUTES))
    rows = [_row(values, file, where.path) for file in _members(where)[:limit]]
    return Attributes(names, torch.tensor(rows) > 0)


def open_celeba(place: Place) -> Pictures:
    """The faces of a part, in the order of the list of parts, with the labels of an attribute where one is asked for.

    Raises:
        FileNotFoundError: a list, or an image that it names, is missing.
        ValueError: a list that does not have the published form, or an attribute that there is not.
    """
    folder, names = _needed(place.path, FACES), _members(place)
    there = {file.name for file in folder.iterdir()}
    if missing := [name for name in names if name not in there]:
        raise FileNotFoundError(f"{folder} lacks {len(missing)} of {len(names)} images, the first {missing[0]}")
    labels = None
    if place.attribute is not None:
        columns, values = _attribute_list(_needed(place.path, ATTRIBUTES))
        if place.attribute not in columns:
            raise ValueError(f"CelebA has no attribute {place.attribute!r}; it has {', '.join(columns)}")
        column = columns.index(place.attribute)
        labels = torch.tensor([int(_row(values, name, place.path)[column] > 0) for name in names])
    size = SIZE if place.size is None else place.size
    return Pictures.in_files([folder / name for name in names], labels, size, CROP, place.background)


def _members(place: Place) -> list[str]:
    """The names of the images in a part, in order."""
    path, part = _needed(place.path, PARTITION), place.part or PARTS[0]
    found = []
    for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
        match line.split():
            case [name, ("0" | "1" | "2") as which]:
                found += [name] if part in (ALL, PARTS[int(which)]) else []
            case []:
                pass
            case _:
                raise ValueError(f"{path}, line {number}: expected an image and 0, 1 or 2, received {line[:60]!r}")
    if not found:
        raise ValueError(f"{path} names no image of the part {part!r}")
    return found


def _attribute_list(path: Path) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The names of the attributes, and the values of each image, 1 or -1."""
    lines = path.read_text(errors="replace").splitlines()
    names, values = tuple(lines[1].split()) if len(lines) > 1 else (), {}
    if not lines or not lines[0].strip().isdecimal() or not names:
        raise ValueError(f"{path}: expected the number of images, the names of attributes, then a line for each image")
    for number, line in enumerate(lines[2:], 3):
        image, *signs = line.split() or [""]
        if len(signs) != len(names) or not set(signs) <= {"1", "-1"}:
            raise ValueError(
                f"{path}, line {number}: expected an image and {len(names)} values that are 1 or -1, "
                f"received {line[:60]!r}"
            )
        values[image] = [int(sign) for sign in signs]
    if len(values) != int(lines[0]):
        raise ValueError(f"{path} says that it lists {lines[0].strip()} images, and lists {len(values)}")
    return names, values


def _row(values: dict[str, list[int]], name: str, path: Path) -> list[int]:
    if name not in values:
        raise ValueError(f"{path}: {ATTRIBUTES} says nothing of {name}, which {PARTITION} names")
    return values[name]


def find(folder: Path, name: str) -> Path | None:
    """A file or folder of CelebA, where the archive or a folder of all has it."""
    places = (folder / name, *(folder / inner / name for inner in ("Img", "Anno", "Eval")))
    return next((path for path in places if path.exists()), None)


def _needed(folder: Path, name: str) -> Path:
    if (path := find(folder, name)) is None:
        raise FileNotFoundError(f"expected {name} of CelebA in {folder} (or in its Img, Anno or Eval), found none")
    return path
