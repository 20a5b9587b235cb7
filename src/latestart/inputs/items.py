"""The items of lists, data sets and loaders: an image, with its label where it has one."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["IMAGE_KEYS", "class_indices", "is_pair", "is_scalar", "labels_of", "taken_apart", "tensor_of"]

IMAGE_KEYS, LABEL_KEYS = ("image", "img", "pixel_values", "images"), ("label", "labels")


def tensor_of(image: Any) -> Tensor:
    """An array as a tensor, without a copy where that is possible.

    Raises:
        ValueError: it is no array of numbers.
    """
    if isinstance(image, Tensor):
        return image.detach()
    if isinstance(image, list):  # of a data set that keeps its arrays so
        image = _nested(image)
    if not isinstance(image, np.ndarray):
        raise ValueError(f"expected an image, as a tensor, an array or a picture, received {type(image).__name__}")
    if image.dtype == object or not (np.issubdtype(image.dtype, np.number) or image.dtype == bool):
        raise ValueError(f"expected an array of numbers, received one of {image.dtype}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # read-only arrays: they are only read here
        return torch.from_numpy(np.ascontiguousarray(image, image.dtype.newbyteorder("=")))


def _nested(values: list[Any]) -> np.ndarray | None:
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    if np.issubdtype(array.dtype, np.integer) and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    return array


def is_pair(item: Any) -> bool:
    """Whether two objects are images and their labels."""
    first, second = item
    listed = (
        isinstance(first, list | tuple) and len(first) > 0 and isinstance(first[0], Tensor | np.ndarray | Image.Image)
    )
    if not listed and not isinstance(first, Tensor | np.ndarray):
        return False
    if not isinstance(second, Tensor | np.ndarray | list | tuple):
        return False
    try:
        marks = torch.as_tensor(second)
    except (TypeError, ValueError, RuntimeError):
        return False
    if marks.ndim not in (1, 2) or len(marks) != len(first):
        return False
    return listed or first.ndim > 2 or (first.ndim == 2 and marks.ndim == 1)


def is_scalar(label: Any) -> bool:
    """Whether a label is that of one image."""
    return label is not None and np.ndim(label) == 0 and not isinstance(label, str | bytes)


def taken_apart(item: Any, number: int) -> tuple[Any, Any]:
    """The image and the label, or None, of one item."""
    if isinstance(item, Mapping):
        key = next((key for key in IMAGE_KEYS if key in item), None)
        if key is None and {"bytes", "path"} & set(item):
            return item.get("bytes") or item["path"], None
        if key is None:
            raise ValueError(
                f"item {number} is a dict of {', '.join(map(repr, list(item)[:8]))}: expected one of "
                f"{', '.join(IMAGE_KEYS)}"
            )
        inner = taken_apart(item[key], number)[0] if isinstance(item[key], Mapping) else item[key]
        return inner, next((item[key] for key in LABEL_KEYS if key in item), None)
    if isinstance(item, tuple | list) and not item:
        raise ValueError(f"item {number} is empty: expected an image, or an image and its label")
    batch = isinstance(item, tuple) and len(item) > 3 and all(_alike(item[0], one) for one in item)
    if (isinstance(item, tuple) and not batch) or (isinstance(item, list) and not _several(item)):
        return item[0], item[1] if len(item) > 1 else None
    return item, None


def _alike(one: Any, two: Any) -> bool:
    return isinstance(one, Tensor | np.ndarray) and one.ndim > 0 and getattr(two, "shape", None) == one.shape


def _several(item: list[Any]) -> bool:
    """Whether a list holds images, or the numbers of one, rather than an image and its label."""
    if isinstance(item[0], int | float | list):
        return True
    if len(item) > 1 and isinstance(item[1], int | str):
        return False
    if len(item) == 2 and isinstance(item[0], Tensor | np.ndarray):
        return item[0].ndim > 2 and getattr(item[1], "shape", None) == item[0].shape
    return len(item) > 2 or (len(item) == 2 and isinstance(item[1], Image.Image))


def labels_of(label: Any, count: int) -> Tensor | None:
    """Class indices `(count,)`; None where the labels are no such: they matter where they are asked for only."""
    try:
        marks = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        return None
    whole = not marks.is_floating_point() and marks.dtype != torch.bool and not marks.is_complex()
    return marks.long().reshape(-1).cpu() if whole and marks.numel() == count else None


def class_indices(labels: Any) -> Tensor:
    given = torch.as_tensor(labels)
    if given.ndim != 1 or given.is_floating_point() or given.is_complex() or given.dtype == torch.bool:
        raise ValueError(f"expected labels that are class indices (N,), received {given.dtype} {tuple(given.shape)}")
    return given.long().cpu()
