"""Images in and out of the library.

Images are kept as the bytes they were stored in, `(N, C, H, W)` uint8, and become numbers in the model's value range,
[-1, 1], one batch at a time. Three layouts are read: a parquet file in the Hugging Face layout (`image: {bytes, path}`,
`label`), a folder of image files (one sub-folder for each class, or none), and an npz file (`images`, `labels`). Of
data sets as they are published, `datasets` knows CelebA, CelebA-HQ and ImageNet64: their images are read in chunks, and
a set of more than 2 GiB is kept in a nameless file in the folder for temporary ones (TMPDIR), mapped into memory.
"""

import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latestart.datasets.layouts import open_source
from latestart.datasets.pictures import SUFFIXES, Source, decode
from latestart.datasets.places import Place

CHUNK = 1024  # images read at once
IN_MEMORY = 2 << 30  # bytes of pixels; what is larger stands in a file, mapped into memory


@dataclass(frozen=True)
class Images:
    """A set of images of one shape: `pixels` `(N, C, H, W)` uint8, and class indices `labels` `(N,)` or None."""

    pixels: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(C, H, W)`."""
        return tuple(self.pixels.shape[1:])

    def __getitem__(self, index: slice | Tensor) -> "Images":
        return Images(self.pixels[index], None if self.labels is None else self.labels[index])

    def __iter__(self) -> Iterator[Tensor]:
        """As `batches`, so that a set of images is itself what `Gaussian.fit` takes."""
        return self.batches()

    def floats(self) -> Tensor:
        """All images in [-1, 1], `(N, C, H, W)` float32."""
        return to_floats(self.pixels)

    def unit(self) -> Tensor:
        """All images in [0, 1], `(N, C, H, W)` float32, as metrics take them."""
        return self.pixels.float() / 255

    def batches(self, size: int = 1024) -> Iterator[Tensor]:
        """The images in [-1, 1], `size` at a time, in order."""
        return (to_floats(part) for part in self.pixels.split(size))


@dataclass(frozen=True)
class Placed:
    """Images as a prior is fitted to them: batches in [-1, 1] on a device, made anew each time that they are read."""

    images: Images
    device: torch.device | str

    def __iter__(self) -> Iterator[Tensor]:
        return (batch.to(self.device) for batch in self.images.batches())


def to_floats(pixels: Tensor) -> Tensor:
    """Bytes 0..255 to [-1, 1], float32."""
    return pixels.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Images in [0, 1] to bytes, rounded to the nearest; values outside are clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def load_images(path: str | Path, limit: int | None = None, part: tuple[int, int] = (0, 1)) -> Images:
    """Read a parquet file, a folder of images, an npz file, or a published data set.

    Args:
        path: `*.parquet` with a column `image` of `{bytes, path}` and optionally `label`; a folder of image files,
            searched recursively, whose sub-folders (if it has any) are the classes; or `*.npz` with `images`
            `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` as uint8 or as floats in [0, 1], and optionally `labels`.
            Or the folder of CelebA (`celeba@64`, `celeba@32@test`, `celeba@64@Smiling`), of ImageNet64 (`folder`,
            `folder@valid`), or any folder of images with the size to which they are to be shrunk (`celeba-hq@64`); see
            `latestart.datasets.layouts`.
        limit: read only the first `limit` images.
        part: (k, m) reads the k-th of m equal parts of those, counted from 0: the share of one of m processes.

    Raises:
        FileNotFoundError: there is nothing at `path`, or a file of a published data set is missing.
        ValueError: an empty folder or file, more parts than images, an unreadable image, images of unequal shapes,
            NaN, or an unknown format.
    """
    source, path = open_source(Place.of(path)), Path(path)
    if source is not None:
        images = _collected(source, limit, part)
    elif path.is_dir():
        images = _from_folder(path, limit, part)
    elif not path.exists():
        raise FileNotFoundError(f"expected a parquet file, a folder of images or an npz file at {path}, found nothing")
    elif path.suffix == ".parquet":
        images = _from_parquet(path, limit, part)
    elif path.suffix == ".npz":
        images = _from_npz(path, limit, part)
    else:
        raise ValueError(f"cannot read images from {path}: expected a .parquet file, a .npz file or a folder")
    if not len(images):
        raise ValueError(f"{path} holds no images" if part[1] == 1 else f"{path} holds fewer than {part[1]} images")
    return images


def stream_images(
    path: str | Path, size: int = CHUNK, limit: int | None = None, part: tuple[int, int] = (0, 1)
) -> Iterator[Images]:
    """What `load_images` reads, at most `size` images at a time; of a published data set no more is ever in memory.

    Raises:
        FileNotFoundError, ValueError: as `load_images`, before the first images or where they cannot be read.
    """
    source = open_source(Place.of(path))
    if source is not None:
        rows = _rows(len(source), limit, part)
        return (Images(pixels, labels) for pixels, labels in source.chunks(rows, size))
    images = load_images(path, limit, part)
    return (images[slice(at, at + size)] for at in range(0, len(images), size))


def save_png(path: str | Path, pixels: Tensor) -> None:
    """Write one image, `(C, H, W)` or `(H, W)` uint8, as PNG."""
    from latestart.files import replacing

    with replacing(path) as temporary:
        _to_pil(pixels).save(temporary, format="PNG", optimize=True)


def tile(pixels: Tensor, columns: int, gap: int = 0, background: int = 0) -> Tensor:
    """Lay images `(N, C, H, W)` out row by row in one picture `(C, rows (H + gap) - gap, columns (W + gap) - gap)`."""
    n, c, h, w = pixels.shape
    rows = -(-n // columns)
    sheet = pixels.new_full((c, rows * (h + gap) - gap, columns * (w + gap) - gap), background)
    for k, image in enumerate(pixels):
        top, left = (k // columns) * (h + gap), (k % columns) * (w + gap)
        sheet[:, top : top + h, left : left + w] = image
    return sheet


def untile(sheet: Tensor, count: int, height: int, width: int) -> Tensor:
    """The inverse of `tile` without gaps: `count` images `(count, C, height, width)` from one picture."""
    c, columns = sheet.shape[0], sheet.shape[2] // width
    cells = sheet.reshape(c, -1, height, columns, width).permute(1, 3, 0, 2, 4)
    return cells.reshape(-1, c, height, width)[:count].contiguous()


def read_png(path: str | Path) -> Tensor:
    """One PNG file as `(C, H, W)` uint8."""
    return decode(Path(path).read_bytes(), str(path))


def _to_pil(pixels: Tensor) -> Image.Image:
    array = pixels.cpu().numpy()
    if array.ndim == 3:
        array = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    return Image.fromarray(array)


def _collected(source: Source, limit: int | None, part: tuple[int, int]) -> Images:
    """The images of a source, read a chunk at a time into the place where they stay."""
    rows = _rows(len(source), limit, part)
    pixels, labels, at = _space((len(rows), *source.shape)), [], 0
    for chunk, marks in source.chunks(rows, CHUNK):
        pixels[at : at + len(chunk)] = chunk
        at += len(chunk)
        if marks is not None:
            labels.append(marks)
    return Images(pixels, torch.cat(labels) if labels else None)


def _space(shape: tuple[int, ...]) -> Tensor:
    """Bytes to be filled: in memory, or in a file that has no name and ends with its last use."""
    if prod(shape) <= IN_MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=shape))


def _rows(count: int, limit: int | None, part: tuple[int, int]) -> range:
    mine = _part(len(range(count)[:limit]), part)
    return range(mine.start, mine.stop)


def _stack(items: Iterable[tuple[str, bytes]]) -> Tensor:
    images: list[Tensor] = []
    first = ""
    for name, data in items:
        image = decode(data, name)
        if images and image.shape != images[0].shape:
            shapes = f"{first} is {tuple(images[0].shape)}, {name} is {tuple(image.shape)}"
            raise ValueError(f"images of unequal shapes (C, H, W): {shapes}")
        first = first or name
        images.append(image)
    return torch.stack(images) if images else torch.empty(0, 1, 1, 1, dtype=torch.uint8)


def _from_folder(path: Path, limit: int | None, part: tuple[int, int]) -> Images:
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())[:limit]
    if not files:
        raise ValueError(f"the folder {path} holds no image files (looked for {', '.join(sorted(SUFFIXES))})")
    parents = [file.relative_to(path).parent for file in files]
    classes, mine = sorted(set(parents)), _part(len(files), part)
    pixels = _stack((str(file), file.read_bytes()) for file in files[mine])
    if len(classes) == 1:
        return Images(pixels)
    return Images(pixels, torch.tensor([classes.index(parent) for parent in parents[mine]]))


def _from_parquet(path: Path, limit: int | None, part: tuple[int, int]) -> Images:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"cannot read {path} as a parquet file: {error}") from error
    if "image" not in table.column_names:
        raise ValueError(f"{path} has the columns {table.column_names}, expected `image` (and optionally `label`)")
    mine = _part(len(table.slice(0, limit)), part)
    table = table.slice(mine.start, mine.stop - mine.start)
    rows = table["image"].to_pylist()
    if not all(isinstance(row, dict) and isinstance(row.get("bytes"), bytes) for row in rows):
        raise ValueError(f"the column `image` of {path} is {table['image'].type}, expected `bytes` in every row")
    pixels = _stack((f"{path.name}, row {k}", row["bytes"]) for k, row in enumerate(rows, mine.start))
    if "label" not in table.column_names:
        return Images(pixels)
    if table["label"].null_count:
        raise ValueError(f"the column `label` of {path} has {table['label'].null_count} empty rows")
    return Images(pixels, _as_labels(table["label"].to_numpy(), path))


def _from_npz(path: Path, limit: int | None, part: tuple[int, int]) -> Images:
    try:
        with np.load(path, allow_pickle=False) as file:
            names = file.files
            arrays: dict[str, Any] = {name: file[name] for name in ("images", "labels") if name in names}
    except (ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"cannot read {path} as an npz file of plain arrays: {error}") from error
    if "images" not in arrays:
        raise ValueError(f"{path} holds the arrays {sorted(names)}, expected `images` (and optionally `labels`)")
    pixels = _as_pixels(arrays["images"], path)[:limit]
    labels = _as_labels(arrays["labels"], path)[:limit] if "labels" in arrays else None
    if labels is not None and len(labels) != len(pixels):
        raise ValueError(f"{path} holds {len(pixels)} images and {len(labels)} labels")
    return Images(pixels, labels)[_part(len(pixels), part)]


def _part(n: int, part: tuple[int, int]) -> slice:
    """The k-th of m equal parts of n items."""
    k, m = part
    return slice(n * k // m, n * (k + 1) // m)


def _as_labels(array: np.ndarray, path: Path) -> Tensor:
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"the labels in {path} are {array.dtype} {array.shape}, expected class indices (N,)")
    return torch.from_numpy(array.astype(np.int64))


def _as_pixels(array: np.ndarray, path: Path) -> Tensor:
    if array.ndim not in {3, 4}:
        raise ValueError(
            f"`images` in {path} has the shape {array.shape}, expected (N, H, W), (N, H, W, C) or (N, C, H, W)"
        )
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"`images` in {path} is {array.dtype}, expected uint8 or floats in [0, 1]")
        if not np.isfinite(array).all():
            raise ValueError(
                f"`images` in {path} holds {int((~np.isfinite(array)).sum())} values that are NaN or infinite"
            )
        if array.size and (array.min() < 0 or array.max() > 1):
            raise ValueError(
                f"`images` in {path} is {array.dtype} in [{array.min():g}, {array.max():g}], "
                "expected uint8 or floats in [0, 1]"
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.ndim == 3:
        array = array[:, None]
    elif array.shape[-1] in {1, 3} and array.shape[1] not in {1, 3}:
        array = np.moveaxis(array, -1, 1)
    if array.shape[1] not in {1, 3}:
        raise ValueError(f"`images` in {path} has the shape {array.shape}, expected 1 or 3 channels")
    return torch.from_numpy(np.ascontiguousarray(array))
