"""Published data sets: small folders of their layouts, read as the arithmetic of their layouts says."""

import io
import os
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from latestart import data
from latestart.data import load_images, stream_images
from latestart.datasets.celeba import attributes
from latestart.datasets.pickles import read_pickle

NAMES = ("Bald", "Male", "Smiling")


def jpeg(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="JPEG", quality=100)
    return buffer.getvalue()


def stored(path):
    """A picture as its file holds it, `(C, H, W)`."""
    return torch.from_numpy(np.moveaxis(np.array(Image.open(path)), -1, 0).copy())


def faces(n):
    """Of the size of CelebA's: another colour in the cut and about it, a bright spot in the middle."""
    pictures = np.zeros((n, 218, 178, 3), np.uint8)
    pictures[:, 39:179, 19:159] = np.arange(50, 50 + 10 * n, 10)[:, None, None, None]
    pictures[:, 104:114, 84:94] += 40
    return pictures


@pytest.fixture
def celeba(tmp_path):
    """Seven faces; the fourth and seventh are of the part `valid`, the fifth of `test`."""
    root = tmp_path / "celeba"
    (root / "img_align_celeba").mkdir(parents=True)
    names = [f"{k:06d}.jpg" for k in range(1, 8)]
    for name, picture in zip(names, faces(7)):
        (root / "img_align_celeba" / name).write_bytes(jpeg(picture))
    parts = [0, 0, 0, 1, 2, 0, 1]
    (root / "list_eval_partition.txt").write_text("".join(f"{n} {p}\n" for n, p in zip(names, parts)))
    signs = [[1 if (k >> j) & 1 else -1 for j in range(3)] for k in range(7)]
    lines = [f"{n}  {' '.join(f'{s:2d}' for s in row)} " for n, row in zip(names, signs)]
    (root / "list_attr_celeba.txt").write_text("\n".join(["7", " ".join(NAMES) + " ", *lines]) + "\n")
    return root


def batches(n, side=8, seed=0):
    """The ten training files and the validation file as dicts, with n + k images in the k-th."""
    draw = np.random.default_rng(seed)
    names = [f"train_data_batch_{k}" for k in range(1, 11)] + ["val_data"]
    return {
        name: {
            "data": draw.integers(0, 256, (n + k, 3 * side * side), dtype=np.uint8),
            "labels": draw.integers(1, 1001, n + k).tolist(),
            "mean": draw.normal(size=3 * side * side),
        }
        for k, name in enumerate(names)
    }


def write_imagenet(root, files, npz=False, protocol=4):
    root.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if npz:
            np.savez_compressed(root / f"{name}.npz", **content)
        else:
            (root / name).write_bytes(pickle.dumps(content, protocol))


def planes(content, side=8):
    """Images `(N, 3, S, S)` as the data set's authors unpack them: by the three thirds of each row."""
    rows, n = content["data"], side * side
    thirds = np.dstack((rows[:, :n], rows[:, n : 2 * n], rows[:, 2 * n :]))
    return torch.from_numpy(thirds.reshape(-1, side, side, 3).transpose(0, 3, 1, 2).copy())


# CelebA


def test_faces_are_cut_to_their_middle_and_shrunk(celeba):
    images = load_images(f"{celeba}@32@all")
    assert images.shape == (3, 32, 32) and len(images) == 7 and images.labels is None
    for k, image in enumerate(images.pixels):
        corner = image[:, :4, :4].float()
        assert (corner - (50 + 10 * k)).abs().max() <= 3  # nothing from outside of the cut
        whole = stored(celeba / "img_align_celeba" / f"{k + 1:06d}.jpg")[:, 39:179, 19:159].float()
        assert (image.float().mean() - whole.mean()).abs() < 0.5  # every pixel counts in what is shrunk
        assert image[:, 16, 16].float().mean() == pytest.approx(90 + 10 * k, abs=4)
    full = load_images(f"{celeba}@140@all").pixels[2]
    assert torch.equal(full, stored(celeba / "img_align_celeba" / "000003.jpg")[:, 39:179, 19:159])


def test_shrinking_is_the_mean_with_a_triangle_of_pixels(celeba):
    """To half the size: each new pixel weighs 1, 3, 3, 1 of the old, each way."""
    full = load_images(f"{celeba}@140", limit=1).pixels.double()
    kernel = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8
    kernel = (kernel[:, None] * kernel).expand(3, 1, 4, 4)
    expected = torch.nn.functional.conv2d(full, kernel, stride=2, padding=1, groups=3)
    half = load_images(f"{celeba}@70", limit=1).pixels.double()
    assert (half - expected)[:, :, 1:-1, 1:-1].abs().max() <= 1


def test_the_parts_of_celeba(celeba):
    everything = load_images(f"{celeba}@16@all").pixels
    for part, which in (("train", [0, 1, 2, 5]), ("valid", [3, 6]), ("test", [4])):
        assert torch.equal(load_images(f"{celeba}@16@{part}").pixels, everything[which])
    assert torch.equal(load_images(f"{celeba}@16").pixels, everything[[0, 1, 2, 5]])
    assert torch.equal(load_images(f"{celeba}@16", limit=3, part=(1, 2)).pixels, everything[[1, 2]])
    assert load_images(celeba).shape == (3, 64, 64)


def test_attributes_go_with_their_images(celeba):
    assert load_images(f"{celeba}@16@Smiling@all").labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert load_images(f"{celeba}@16@Bald").labels.tolist() == [0, 1, 0, 1]
    known = attributes(f"{celeba}@16", limit=3)
    assert known.names == NAMES
    assert known.values.tolist() == [[False] * 3, [True, False, False], [False, True, False]]
    assert attributes(f"{celeba}@test").values.tolist() == [[False, False, True]]


def test_the_folders_of_the_archive_are_searched(celeba):
    expected = load_images(f"{celeba}@16@Male")
    for folder, name in (
        *(("Img", "img_align_celeba"), ("Eval", "list_eval_partition.txt"), ("Anno", "list_attr_celeba.txt")),
    ):
        (celeba / folder).mkdir()
        (celeba / name).rename(celeba / folder / name)
    again = load_images(f"{celeba}@16@Male")
    assert torch.equal(again.pixels, expected.pixels) and torch.equal(again.labels, expected.labels)


@pytest.mark.parametrize(
    ("name", "change", "words", "error", "message"),
    [
        ("list_eval_partition.txt", None, "", FileNotFoundError, r"list_eval_partition\.txt of CelebA in .*found none"),
        ("list_attr_celeba.txt", None, "@Male", FileNotFoundError, r"list_attr_celeba\.txt of CelebA in .*found none"),
        ("img_align_celeba/000003.jpg", None, "", FileNotFoundError, r"lacks 1 of 4 images, the first 000003\.jpg"),
        ("list_eval_partition.txt", ("000002.jpg 0", "000002.jpg 5"), "", ValueError, r"line 2: expected an image and"),
        ("list_eval_partition.txt", (" 2\n", " 1\n"), "@test", ValueError, "names no image of the part 'test'"),
        ("list_attr_celeba.txt", ("7\n", "8\n"), "@Male", ValueError, "says that it lists 8 images, and lists 7"),
        ("list_attr_celeba.txt", ("7\n", ""), "@Male", ValueError, "expected the number of images, the names"),
        ("list_attr_celeba.txt", ("000003.jpg", "000009.jpg"), "@Male", ValueError, r"says nothing of 000003\.jpg"),
        ("list_attr_celeba.txt", (" -1 -1 -1", " -1 -1"), "@Male", ValueError, "line 3: .* 3 values that are 1 or -1"),
        ("list_attr_celeba.txt", (" -1 -1 -1", " -1 -1  0"), "@Male", ValueError, "line 3: .* values that are 1 or -1"),
        ("img_align_celeba/000002.jpg", b"", "", ValueError, r"cannot read .*000002\.jpg as an image"),
        ("img_align_celeba/000002.jpg", faces(1)[0, :100], "", ValueError, "178 x 100 pixels: expected"),
        (None, None, "@trian", ValueError, "no attribute 'trian'; it has Bald, Male, Smiling"),
        (None, None, "@160", ValueError, "expected 1 to 140"),
        (None, None, "@0", ValueError, "expected 1 to 140"),
        (None, None, "@32@64", ValueError, "at most one size, one part, one attribute"),
    ],
)
def test_what_is_wrong_with_celeba_is_named(celeba, name, change, words, error, message):
    if name is not None:
        path = celeba / name
        if change is None:
            path.unlink()
        elif isinstance(change, tuple):
            path.write_text(path.read_text().replace(*change, 1))
        else:
            path.write_bytes(change if isinstance(change, bytes) else jpeg(change))
    with pytest.raises(error, match=message):
        load_images(f"{celeba}{words}")


def test_attributes_are_of_celeba(tmp_path):
    with pytest.raises(ValueError, match="no folder of CelebA: expected img_align_celeba/"):
        attributes(tmp_path)


# CelebA-HQ, and other folders


@pytest.mark.parametrize("name", ["{}.jpg", "{:05d}.png", "imgHQ{:05d}.png"])
def test_numbered_images_are_shrunk_in_the_order_of_their_numbers(tmp_path, name):
    for k in range(12):
        Image.fromarray(np.full((256, 256, 3), 20 * k, np.uint8)).save(tmp_path / name.format(k))
    images = load_images(f"{tmp_path}@64")
    assert images.shape == (3, 64, 64) and images.labels is None
    assert images.pixels.float().mean((1, 2, 3)).round().tolist() == [20 * k for k in range(12)]


def test_a_folder_of_any_pictures_gives_the_squares_in_their_middle(tmp_path):
    for name, size in (("female", (40, 60)), ("male", (50, 30))):
        picture = np.zeros((*size, 3), np.uint8)
        side, (top, left) = min(size), ((n - min(size)) // 2 for n in size)
        picture[top : top + side, left : left + side] = 200
        (tmp_path / name).mkdir()
        Image.fromarray(picture).save(tmp_path / name / "1.png")
    images = load_images(f"{tmp_path}@16")
    assert (images.pixels == 200).all() and images.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"1\.png has 60 x 40 pixels: expected 1 to 40 asked, got 48"):
        load_images(f"{tmp_path}@48")
    with pytest.raises(ValueError, match="a folder of images, which has no 'test'"):
        load_images(f"{tmp_path}@16@test")
    Image.fromarray(np.zeros((30, 30), np.uint8)).save(tmp_path / "male" / "2.png")
    with pytest.raises(ValueError, match=r"unequal shapes .*1\.png is \(3, 16, 16\), .*2\.png is \(1, 16, 16\); grey"):
        load_images(f"{tmp_path}@16")
    with pytest.raises(FileNotFoundError, match=r"at .*nothing, found nothing"):
        load_images(tmp_path / "nothing@16")
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="holds no image files"):
        load_images(tmp_path / "none@16")


def test_a_name_with_an_at_is_a_name(tmp_path):
    (tmp_path / "me@64").mkdir()
    Image.fromarray(np.zeros((100, 100), np.uint8)).save(tmp_path / "me@64" / "1.png")
    assert load_images(tmp_path / "me@64").shape == (1, 100, 100)


# ImageNet64


@pytest.mark.parametrize(("npz", "protocol"), [(False, 3), (False, 4), (False, 5), (True, None)])
def test_imagenet_is_read_as_its_authors_unpack_it(tmp_path, npz, protocol):
    files = batches(3, 8)
    write_imagenet(tmp_path, files, npz, protocol)
    images = load_images(tmp_path)
    training = [content for name, content in files.items() if name != "val_data"]
    assert torch.equal(images.pixels, torch.cat([planes(content) for content in training]))
    assert images.labels.tolist() == [label - 1 for content in training for label in content["labels"]]
    held_out = load_images(f"{tmp_path}@8@valid")
    assert torch.equal(held_out.pixels, planes(files["val_data"]))
    for rows, options in ((slice(5, 10), {"limit": 10, "part": (1, 2)}), (slice(0, 7), {"limit": 7})):
        some = load_images(tmp_path, **options)
        assert torch.equal(some.pixels, images.pixels[rows]) and torch.equal(some.labels, images.labels[rows])


def test_files_of_python_2_and_arrays_of_labels_are_read(tmp_path):
    content = batches(3)["val_data"]
    old = pickle.dumps({b"data": content["data"], b"labels": np.array(content["labels"])}, 2)
    # Python 2 wrote bytes as such; Python 3 writes them, in protocol 2, as text to be encoded
    raw = content["data"].tobytes()
    as_text = pickle.dumps(raw, 2)[2:-1]
    with pytest.raises(ValueError, match=r"names _codecs\.encode"):
        (tmp_path / "val_data").write_bytes(old)
        load_images(tmp_path)
    assert as_text[:1] == b"c"
    written = b"".join(
        [
            *(b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR",),
            *(
                b"(K\x01(K\x0d",
                b"K\xc0",
                b"tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xff",
            ),
            *(b"J\xff\xff\xff\xffK\x00tb\x89T" + len(raw).to_bytes(4, "little") + raw + b"tb",),
            *(b"U\x06labels](", b"".join(b"M" + n.to_bytes(2, "little") for n in content["labels"]), b"eu."),
        ]
    )
    (tmp_path / "val_data").write_bytes(written)
    images = load_images(tmp_path)
    assert torch.equal(images.pixels, planes(content))
    assert images.labels.tolist() == [n - 1 for n in content["labels"]]


def test_the_folders_of_the_archives_are_searched(tmp_path):
    files = batches(2)
    for k, (name, content) in enumerate(files.items()):
        write_imagenet(tmp_path / f"Imagenet64_part{k // 5}", {name: content}, npz=k < 5)
    assert torch.equal(load_images(tmp_path, 2).pixels, planes(files["train_data_batch_1"]))
    assert len(load_images(tmp_path)) == sum(len(c["labels"]) for n, c in files.items() if n != "val_data")


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/never",)


def _without(files, name):
    return {k: v for k, v in files.items() if k != name}


@pytest.mark.parametrize("npz", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [0, 1, 2]}, "from 0 to 2, expected 1 to 1000"),
        ({"labels": [1, 2]}, r"expected integers \(3,\)"),
        ({"labels": [1.5, 2.0, 3.0]}, "float64"),
        ({"data": np.zeros((3, 100), np.uint8)}, r"shape \(3, 100\), expected \(N, 3 S S\)"),
        ({"data": np.zeros((3, 192))}, "is float64, expected uint8"),
        ({"data": np.asfortranarray(np.zeros((3, 192), np.uint8))}, "columns first"),
        ({"data": np.zeros((3, 27), np.uint8)}, r"images of one size, received \[3, 8\]"),
        ({"data": np.array([1, "x", None], object)}, "objects|expected uint8|array"),
    ],
)
def test_what_is_wrong_with_a_file_of_imagenet_is_named(tmp_path, npz, change, message):
    files = batches(3)
    files["train_data_batch_1"] = files["train_data_batch_1"] | change
    write_imagenet(tmp_path, files, npz)
    with pytest.raises(ValueError, match=message):
        load_images(tmp_path)


def test_missing_files_and_parts_of_imagenet_are_named(tmp_path):
    write_imagenet(tmp_path, _without(batches(2), "train_data_batch_7"))
    with pytest.raises(FileNotFoundError, match="lacks 1 of 10 files of ImageNet64, the first train_data_batch_7"):
        load_images(tmp_path)
    assert len(load_images(f"{tmp_path}@valid")) == 12
    with pytest.raises(ValueError, match="has the parts train and valid, received 'test'"):
        load_images(f"{tmp_path}@test")
    with pytest.raises(ValueError, match="ImageNet64, which has no 'Smiling'"):
        load_images(f"{tmp_path}@Smiling")
    with pytest.raises(ValueError, match="of 8 pixels each way, received @64"):
        load_images(f"{tmp_path}@64@valid")
    (tmp_path / "val_data").unlink()
    with pytest.raises(FileNotFoundError, match="lacks 1 of 1 files of ImageNet64, the first val_data"):
        load_images(f"{tmp_path}@valid")


@pytest.mark.parametrize(
    "content",
    [
        {"data": Evil(), "labels": [1]},
        {"data": [1, 2], "labels": [1, 2]},
        {"labels": [1]},
        [1, 2, 3],
        {"data": np.zeros((2, 192), np.uint8), "labels": [[1], 2]},
        {"data": np.zeros((2, 192), np.uint8), "labels": np.array([{}, {}])},
    ],
)
def test_pickles_of_something_else_are_refused(tmp_path, content):
    (tmp_path / "val_data").write_bytes(pickle.dumps(content, 4))
    with pytest.raises(ValueError, match="val_data"):
        load_images(tmp_path)


def test_a_pickle_runs_nothing(tmp_path):
    ran = tmp_path / "ran"
    for code in (
        f"cos\nsystem\n(S'touch {ran}'\ntR.",
        f"cbuiltins\nexec\n(S'open({str(ran)!r}, \"w\")'\ntR.",
        f"(S'touch {ran}'\nios\nsystem\n.",
        "cnumpy\nndarray\n)R.",
        "cnumpy\nload\n(S'x'\ntR.",
        "P1\n.",
        "\x80\x02\x82\x01.",
    ):
        (tmp_path / "val_data").write_bytes(code.encode("latin1"))
        with pytest.raises(ValueError, match=r"cannot read .*val_data as a pickle of plain arrays"):
            load_images(tmp_path)
    assert not ran.exists()


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_every_pickle_that_is_cut_short_is_refused(tmp_path, protocol):
    whole = pickle.dumps(batches(3)["val_data"], protocol)
    (tmp_path / "whole").write_bytes(whole)
    assert set(read_pickle(tmp_path / "whole")) == {"data", "labels", "mean"}
    for length in range(0, len(whole), 97):
        (tmp_path / "val_data").write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"cannot read .*val_data as a pickle"):
            load_images(tmp_path)


def test_damage_in_a_pickle_or_an_npz_is_an_error_or_another_pixel(tmp_path):
    """Bytes changed one at a time: never another kind of error than `ValueError`, and in an npz always one."""
    draw = np.random.default_rng(0)
    content = {"val_data": batches(3)["val_data"]}
    for npz in (False, True):
        write_imagenet(tmp_path, content, npz)
        path = tmp_path / ("val_data.npz" if npz else "val_data")
        whole, expected = path.read_bytes(), load_images(tmp_path)
        for at in draw.integers(0, len(whole), 100):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << int(draw.integers(8))
            path.write_bytes(bytes(damaged))
            try:
                images = load_images(tmp_path)
            except ValueError as error:
                assert "val_data" in str(error)
            else:
                assert images.pixels.shape == expected.pixels.shape
                assert not npz or torch.equal(images.pixels, expected.pixels)


# chunks


def test_chunks_are_the_whole(tmp_path, celeba):
    write_imagenet(tmp_path / "imagenet", batches(4))
    np.savez(tmp_path / "x.npz", images=np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4))
    for path in (f"{celeba}@16@Male@all", tmp_path / "imagenet", tmp_path / "x.npz"):
        for options in ({}, {"limit": 5, "part": (1, 2)}):
            whole, parts = load_images(path, **options), list(stream_images(path, 3, **options))
            assert max(map(len, parts)) <= 3
            assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
            if whole.labels is not None:
                assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_what_is_large_stands_in_a_file_and_is_the_same(tmp_path, monkeypatch):
    write_imagenet(tmp_path / "set", batches(4))
    inside = load_images(tmp_path / "set")
    monkeypatch.setattr(data, "IN_MEMORY", 1000)
    outside = load_images(tmp_path / "set")
    assert torch.equal(inside.pixels, outside.pixels) and torch.equal(inside.labels, outside.labels)
    assert torch.equal(torch.cat(list(outside.batches(10))), inside.floats())


@pytest.mark.parametrize("protocol", [3, 4, 5, None])
def test_memory_is_that_of_a_chunk(tmp_path, protocol):
    """Ten files of 1.5 MiB, read 8 images at a time: at no moment is there as much as half a file."""
    files = {
        f"train_data_batch_{k}": {"data": np.full((128, 3 * 64 * 64), k, np.uint8), "labels": [1] * 128}
        for k in range(1, 11)
    }
    write_imagenet(tmp_path, files, protocol is None, protocol)
    tracemalloc.start()
    try:
        total = sum(int(part.pixels[:, :, 0, 0].sum()) for part in stream_images(tmp_path, 8))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == 3 * 128 * 55
    assert peak < 0.75 * 2**20
