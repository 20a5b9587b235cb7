"""Images with known attributes: an npz file with class indices for each attribute, or images with labels."""

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from latestart.data import Images, load_images
from latestart.datasets.faces import SHARES
from latestart.records import Record

__all__ = ["Known", "combined", "known_attributes", "load_known", "names_of"]


@dataclass(frozen=True, eq=False, repr=False)
class Known(Record):
    """Images with known attributes.

    Attributes:
        images: N of them.
        values: of each attribute, the names of its values.
        attributes: of each attribute, the index of every image's value, int64 `(N,)`.
    """

    images: Images
    values: dict[str, tuple[str, ...]]
    attributes: dict[str, Tensor]

    def __getitem__(self, part: slice) -> "Known":
        return Known(self.images[part], self.values, {name: index[part] for name, index in self.attributes.items()})


def load_known(path: str | Path, limit: int | None = None, label: str | None = "class") -> Known:
    """Read an npz file of images with an array of class indices for each attribute, as `experiment faces` writes it.

    In other files the labels are the one attribute, called `label`; None does not take them.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the images have neither attributes nor labels.
    """
    images = load_images(path, limit)
    found = known_attributes(path, len(images), limit)
    if not found and images.labels is not None and label is not None:
        found = {label: images.labels}
    if not found:
        other = "" if label is None else "images with labels, or "
        raise ValueError(
            f"{path} names no attributes: expected {other}an npz file with an array of class indices for each "
            "attribute, as `latestart experiment faces` writes it"
        )
    values = {name: names_of(name, int(index.max()) + 1) for name, index in found.items()}
    return Known(images, values, found)


def known_attributes(path: str | Path, count: int, limit: int | None = None) -> dict[str, Tensor]:
    """Return the attributes in an npz file, int64 `(count,)` each; none for any other file.

    Args:
        path: of the file.
        count: number of images that were read.
        limit: the most that were to be read; None for all.

    Raises:
        ValueError: an attribute that is not one class index for each image.
    """
    if Path(path).suffix != ".npz":
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name][:limit] for name in file.files if name not in ("images", "labels")}
    except (BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"the attributes in {path} cannot be read: {error}") from error
    for name, index in arrays.items():
        if index.shape != (count,) or not np.issubdtype(index.dtype, np.integer) or (count and index.min() < 0):
            negative = np.issubdtype(index.dtype, np.number) and index.size and index.min() < 0
            raise ValueError(
                f"{path}: expected a class index for each of {count} images as {name}, received {index.dtype} of the "
                f"shape {index.shape}{', some below 0' if negative else ''}"
            )
    return {name: torch.from_numpy(index.astype(np.int64)) for name, index in arrays.items()}


def names_of(attribute: str, count: int) -> tuple[str, ...]:
    """Return the names of an attribute's values: those of the faces, else numbers."""
    known = tuple(SHARES.get(attribute, {}))
    return known if count <= len(known) else tuple(map(str, range(count)))


def combined(known: Known) -> Images:
    """Return the images with one label for each combination of attributes that occurs.

    Raises:
        ValueError: fewer than two images for each combination on average.
    """
    together = torch.stack(list(known.attributes.values()), 1)
    each, labels = together.unique(dim=0, return_inverse=True)
    if 2 * len(each) > len(labels):
        many = ", ".join(f"{name} ({len(index.unique())} values)" for name, index in known.attributes.items())
        raise ValueError(
            f"the attributes {many} have {len(each)} combinations among {len(labels)} images: expected at least two "
            "images of each on average; leave out of the file what only numbers the images"
        )
    return Images(known.images.pixels, labels)
