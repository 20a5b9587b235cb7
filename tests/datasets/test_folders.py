"""Which files of a folder are pictures, which folders are classes, and in which order they come."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from latestart.data import load_images, stream_images


def picture(path, value=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def both(folder, **options):
    """The images of a folder, and of the same at their own size, which must be the same."""
    plain, sized = (load_images(place, **options) for place in (folder, f"{folder}@8"))
    assert plain == sized
    return plain


def values(images):
    return images.pixels[:, 0, 0, 0].tolist()


@pytest.mark.parametrize("name", ["{}.png", "{:04d}.png", "a{}b.png", "{}٣.png"])
def test_pictures_come_in_the_order_of_their_numbers(tmp_path, name):
    for k in range(12):
        picture(tmp_path / name.format(k), k)
    assert values(both(tmp_path)) == list(range(12))
    assert values(both(tmp_path, limit=4)) == [0, 1, 2, 3]
    assert values(both(tmp_path, limit=10, part=(1, 3))) == [3, 4, 5]


def test_names_hold_any_digit(tmp_path):
    for k, name in enumerate(("①", "²", "٣٤", "൧", "Ⅷ", "九")):
        picture(tmp_path / f"{name}.png", k)
    assert sorted(values(both(tmp_path))) == list(range(6))


def test_what_is_hidden_or_of_the_system_is_no_picture_and_no_class(tmp_path):
    for k in range(3):
        picture(tmp_path / "photos" / f"{k}.png", k)
    for place in (
        ".ipynb_checkpoints/0.png",
        "__MACOSX/0.png",
        "@eaDir/0.png/thumb.png",
        ".0.png",
        "$RECYCLE.BIN/0.png",
    ):
        picture(tmp_path / "photos" / place, 99)
    (tmp_path / "photos" / "._1.png").write_bytes(b"\x00\x05\x16\x07" + bytes(60))
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini", "notes.txt"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    images = both(tmp_path / "photos")
    assert values(images) == [0, 1, 2] and images.labels is None


def test_folders_are_classes_in_the_order_of_their_names(tmp_path):
    for k, name in enumerate(("dog/1.png", "cat/10.png", "cat/9.png", "dog/2.png")):
        picture(tmp_path / name, k)
    (tmp_path / "empty").mkdir()
    images = both(tmp_path)
    assert (values(images), images.labels.tolist()) == ([2, 1, 0, 3], [0, 0, 1, 1])
    first = both(tmp_path, limit=2)
    assert first.labels.tolist() == [0, 0]  # the classes are those of all
    last = both(tmp_path, part=(1, 2))
    assert last.labels.tolist() == [1, 1]
    streamed = list(stream_images(tmp_path, size=3, limit=4))
    assert torch.equal(torch.cat([part.labels for part in streamed]), images.labels)


def test_a_hidden_folder_above_is_no_reason_to_read_nothing(tmp_path):
    picture(tmp_path / ".cache" / "set" / "1.png")
    assert len(both(tmp_path / ".cache" / "set")) == 1


@pytest.mark.parametrize("stray", ["overview.png", "cat/old/3.png"])
def test_a_picture_beside_folders_of_pictures_is_named(tmp_path, stray):
    for name in ("cat/0.png", "cat/1.png", "dog/0.png", stray):
        picture(tmp_path / name)
    named = "overview.png" if "/" not in stray else "cat/0.png"
    for place in (tmp_path, f"{tmp_path}@8"):
        with pytest.raises(ValueError, match=rf"{named} lies beside the folder of pictures .*move it"):
            load_images(place)


def test_classes_may_be_links(tmp_path):
    for k in range(2):
        picture(tmp_path / "set" / "dog" / f"{k}.png", k)
    for k in range(3):
        picture(tmp_path / "elsewhere" / f"{k}.png", 5 + k)
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "set" / "dog" / "9.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    images = both(tmp_path / "set")
    assert (values(images), images.labels.tolist()) == ([5, 6, 7, 0, 1, 5], [0, 0, 0, 1, 1, 1])


@pytest.mark.parametrize("target", [".", "..", "../dog"])
def test_links_that_lead_in_a_circle_or_twice_to_a_folder_are_noticed(tmp_path, target):
    picture(tmp_path / "set" / "dog" / "1.png")
    picture(tmp_path / "set" / "cat" / "1.png")
    (tmp_path / "set" / "zoo").mkdir()
    (tmp_path / "set" / "zoo" / "link").symlink_to(target)
    with pytest.raises(ValueError, match=r"is a link to the folder .*, whose pictures would count twice"):
        load_images(tmp_path / "set")


def test_links_to_nothing_and_pipes_are_named(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"2\.png is a link to .*gone\.png, where there is nothing"):
        load_images(tmp_path)
    (tmp_path / "2.png").unlink()
    os.mkfifo(tmp_path / "2.png")
    with pytest.raises(ValueError, match=r"2\.png is no regular file"):
        load_images(tmp_path)


def test_pictures_of_another_size_are_named_with_the_remedy(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", size=(9, 8))
    with pytest.raises(ValueError, match=r"a\.png is \(1, 8, 8\), .*b\.png is \(1, 8, 9\); .*photos@64"):
        load_images(tmp_path)
    assert load_images(f"{tmp_path}@8").shape == (1, 8, 8)


@pytest.mark.parametrize("limit", [0, -1, 2.5, "3"])
def test_a_limit_is_a_whole_number_of_at_least_one(tmp_path, limit):
    np.savez(tmp_path / "x.npz", images=np.zeros((6, 8, 8), np.uint8))
    picture(tmp_path / "set" / "1.png")
    for place in ("x.npz", "set", "set@8"):
        with pytest.raises(ValueError, match=rf"limit={limit!r}: expected a whole number of at least 1"):
            load_images(tmp_path / place, limit=limit)
        with pytest.raises(ValueError, match="limit"):
            stream_images(tmp_path / place, limit=limit)


@pytest.mark.parametrize("part", [(0, 0), (1, 1), (-1, 2), (2, 2), (0, 1.5)])
def test_a_part_is_one_of_some(tmp_path, part):
    np.savez(tmp_path / "x.npz", images=np.zeros((6, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="part"):
        load_images(tmp_path / "x.npz", part=part)


@pytest.mark.parametrize("words", ["①", "64@background=", "8@background=white@background=red"])
def test_words_that_are_none(tmp_path, words):
    picture(tmp_path / "set" / "1.png")
    with pytest.raises(ValueError, match=r"set|background=''"):
        load_images(f"{tmp_path}/set@{words}")
