"""Images in and out of the library.

Images are kept as the bytes they were stored in, `(N, C, H, W)` uint8, and become numbers in the model's value range,
[-1, 1], one batch at a time. Three layouts are read: a parquet file in the Hugging Face layout (`image: {bytes, path}`,
`label`), a folder of image files (one sub-folder for each class, or none), and an npz file (`images`, `labels`).
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

# eight bits a channel; alpha and 16 bits would have to be changed to be read
MODES = {"1": "L", "L": "L", "P": "RGB", "RGB": "RGB", "CMYK": "RGB", "YCbCr": "RGB"}
SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}


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


def to_floats(pixels: Tensor) -> Tensor:
    """Bytes 0..255 to [-1, 1], float32."""
    return pixels.float() / 127.5 - 1


def to_pixels(images: Tensor) -> Tensor:
    """Images in [0, 1] to bytes, rounded to the nearest; values outside are clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def load_images(path: str | Path, limit: int | None = None, part: tuple[int, int] = (0, 1)) -> Images:
    """Read a parquet file, a folder of images or an npz file.

    Args:
        path: `*.parquet` with a column `image` of `{bytes, path}` and optionally `label`; a folder of image files,
            searched recursively, whose sub-folders (if it has any) are the classes; or `*.npz` with `images`
            `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` as uint8 or as floats in [0, 1], and optionally `labels`.
        limit: read only the first `limit` images.
        part: (k, m) reads the k-th of m equal parts of those, counted from 0: the share of one of m processes.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: an empty folder or file, more parts than images, an unreadable image, images of unequal shapes,
            NaN, or an unknown format.
    """
    path = Path(path)
    if path.is_dir():
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
    return _decode(Path(path).read_bytes(), str(path))


def _to_pil(pixels: Tensor) -> Image.Image:
    array = pixels.cpu().numpy()
    if array.ndim == 3:
        array = array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1)
    return Image.fromarray(array)


def _decode(data: bytes, name: str) -> Tensor:
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.mode not in MODES:
                raise ValueError(f"{name} is an image of mode {image.mode}, expected one of {', '.join(MODES)}")
            array = np.array(image.convert(MODES[image.mode]))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(f"cannot read {name} as an image: {error}") from error
    return torch.from_numpy(array[None] if array.ndim == 2 else np.moveaxis(array, -1, 0).copy())


def _stack(items: Iterable[tuple[str, bytes]]) -> Tensor:
    images: list[Tensor] = []
    first = ""
    for name, data in items:
        image = _decode(data, name)
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
