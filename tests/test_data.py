import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from latestart.data import Images, load_images, read_png, save_png, tile, to_floats, to_pixels, untile
from latestart.gaussians.gaussian import Gaussian


def _png(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def arrays():
    return np.random.default_rng(0).integers(0, 256, (5, 6, 8, 3), dtype=np.uint8)


def test_every_layout_gives_the_same_images(tmp_path, arrays):
    table = pa.table({"image": [{"bytes": _png(a), "path": None} for a in arrays], "label": [3, 1, 4, 1, 5]})
    pq.write_table(table, tmp_path / "x.parquet")
    np.savez(tmp_path / "x.npz", images=arrays, labels=[3, 1, 4, 1, 5])
    np.savez(tmp_path / "y.npz", images=np.moveaxis(arrays, -1, 1) / 255)
    (tmp_path / "folder").mkdir()
    for k, array in enumerate(arrays):
        (tmp_path / "folder" / f"{k}.png").write_bytes(_png(array))
    expected = torch.from_numpy(np.moveaxis(arrays, -1, 1).copy())
    for name in ("x.parquet", "x.npz", "y.npz", "folder"):
        images = load_images(tmp_path / name)
        assert torch.equal(images.pixels, expected)
        assert images.shape == (3, 6, 8)
        assert len(load_images(tmp_path / name, limit=2)) == 2
    assert load_images(tmp_path / "x.parquet").labels.tolist() == [3, 1, 4, 1, 5]


def test_grey_images_and_class_folders(tmp_path):
    for k, name in enumerate(("cat", "dog", "cat")):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / f"{k}.png").write_bytes(_png(np.full((4, 4), 10 * k, np.uint8)))
    images = load_images(tmp_path)
    assert images.shape == (1, 4, 4)
    assert list(zip(images.pixels[:, 0, 0, 0].tolist(), images.labels.tolist())) == [(0, 0), (20, 0), (10, 1)]


def test_bytes_and_floats_are_inverse():
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    floats = to_floats(pixels)
    assert (floats.min(), floats.max()) == (-1, 1)
    assert torch.equal(to_pixels(floats / 2 + 0.5), pixels)


def test_a_set_of_images_is_its_own_batches():
    images = Images(torch.randint(0, 256, (2500, 1, 2, 2), dtype=torch.uint8))
    assert [len(batch) for batch in images] == [1024, 1024, 452]
    assert torch.equal(torch.cat(list(images)), images.floats())
    prior = Gaussian.fit(images, basis="dense")
    torch.testing.assert_close(prior.covariance().float(), images.floats().flatten(1).T.cov(), rtol=1e-4, atol=1e-5)


def test_a_sheet_is_cut_into_its_images(tmp_path):
    pixels = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8)
    assert torch.equal(untile(tile(pixels, 3), 7, 4, 5), pixels)
    save_png(tmp_path / "a" / "sheet.png", tile(pixels, 3))
    assert torch.equal(untile(read_png(tmp_path / "a" / "sheet.png"), 7, 4, 5), pixels)
    spaced = tile(pixels, 3, gap=2, background=9)
    assert spaced.shape == (3, 3 * 6 - 2, 3 * 7 - 2)
    assert torch.equal(spaced[:, :4, 7:12], pixels[1])
    assert (spaced[:, 4:6] == 9).all()


def test_bad_input_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing-here"):
        load_images(tmp_path / "nothing-here")
    with pytest.raises(ValueError, match="holds no image files"):
        load_images(tmp_path)
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(ValueError, match=r"x\.txt.*\.parquet"):
        load_images(tmp_path / "x.txt")
    (tmp_path / "x.parquet").write_text("hello")
    with pytest.raises(ValueError, match=r"cannot read .* as a parquet file"):
        load_images(tmp_path / "x.parquet")
    pq.write_table(pa.table({"picture": [1]}), tmp_path / "y.parquet")
    with pytest.raises(ValueError, match=r"\['picture'\], expected `image`"):
        load_images(tmp_path / "y.parquet")
    (tmp_path / "a.png").write_bytes(_png(np.zeros((4, 4), np.uint8)))
    (tmp_path / "b.png").write_bytes(_png(np.zeros((4, 5), np.uint8)))
    with pytest.raises(ValueError, match=r"unequal shapes.*a\.png is \(1, 4, 4\).*b\.png is \(1, 4, 5\)"):
        load_images(tmp_path)
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"cannot read .*b\.png as an image"):
        load_images(tmp_path)


def test_damaged_containers_are_named(tmp_path):
    whole = io.BytesIO()
    np.savez_compressed(whole, images=np.random.default_rng(0).integers(0, 256, (9, 4, 4), dtype=np.uint8), scalar=3)
    (tmp_path / "x.npz").write_bytes(whole.getvalue())
    assert len(load_images(tmp_path / "x.npz", limit=4)) == 4
    plain = io.BytesIO()
    np.save(plain, np.zeros((2, 4, 4)))
    damaged = bytearray(whole.getvalue())
    damaged[len(damaged) // 4] ^= 0xFF
    for data in (whole.getvalue()[:-30], b"", bytes(damaged), plain.getvalue()):
        (tmp_path / "x.npz").write_bytes(data)
        with pytest.raises(ValueError, match="npz file of plain arrays"):
            load_images(tmp_path / "x.npz")
    row = {"bytes": _png(np.zeros((4, 4), np.uint8)), "path": None}
    for images, labels, message in (
        ([b"abc", b"def"], [0, 1], "`image` .* is binary"),
        ([row, None], [0, 1], "expected `bytes` in every row"),
        ([row, row], [0, None], "`label` .* has 1 empty rows"),
        ([row, row], ["a", "b"], "expected class indices"),
        ([row, row], [0.5, 1.0], "expected class indices"),
    ):
        pq.write_table(pa.table({"image": images, "label": labels}), tmp_path / "x.parquet")
        with pytest.raises(ValueError, match=message):
            load_images(tmp_path / "x.parquet")


def test_images_that_would_have_to_be_changed_are_refused(tmp_path):
    (tmp_path / "folder.png").mkdir()
    Image.fromarray(np.zeros((4, 4, 4), np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is transparent \(mode RGBA\): say which colour"):
        load_images(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is an image of mode I;16 with 16 bits a channel"):
        load_images(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.array([[[0.5, np.nan]]])}, "1 values that are NaN"),
        ({"images": np.array([[[-1.0, 1.0]]])}, r"in \[-1, 1\], expected"),
        ({"images": np.zeros((3, 4), np.uint8)}, r"shape \(3, 4\)"),
        ({"pictures": np.zeros(3)}, "expected `images`"),
        ({"images": np.zeros((3, 4, 4), np.uint8), "labels": np.zeros(2, int)}, "3 images and 2 labels"),
        ({"images": np.array([{"a": 1}], dtype=object)}, "plain arrays"),
        ({"images": np.zeros((0, 4, 4), np.uint8)}, "no images"),
        ({"images": np.zeros((3, 4, 4, 4), np.uint8)}, "expected pictures of 1 or 3 channels"),
        ({"images": np.zeros((3, 4, 4), int)}, "int64, expected uint8"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.array(["a", "b"])}, "expected class indices"),
        ({"images": np.zeros((2, 4, 4), np.uint8), "labels": np.zeros(2)}, "float64 .* expected class indices"),
    ],
)
def test_bad_npz_files_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path / "x.npz")
