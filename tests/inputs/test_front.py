"""The front door: one set of images, held in every way that a user may hold it."""

import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import ChainDataset, DataLoader, Dataset, IterableDataset, TensorDataset

import latestart as ls
from latestart.data import Images, ImageSet
from latestart.inputs.front import Stream

G = torch.Generator().manual_seed(0)
PIXELS = torch.randint(0, 256, (30, 3, 10, 12), generator=G, dtype=torch.uint8)
LABELS = torch.arange(30) % 4
FLOATS = PIXELS.float() / 127.5 - 1


def pictures():
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in PIXELS]


class Map(Dataset):
    """A map-style data set of whatever items it is given; like many, it fails beyond its end by no IndexError."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        if k >= len(self.items):
            raise RuntimeError("beyond the end")
        return self.items[k]


class Iterable(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Counted(Iterable):
    def __len__(self):
        return len(self.items)


class HuggingFace(Map):
    """As a data set of Hugging Face: dicts, with the names of the columns."""

    column_names = ("image", "label")


WAYS = {
    "bytes": lambda: PIXELS,
    "bytes, channels last": lambda: PIXELS.permute(0, 2, 3, 1),
    "array": lambda: PIXELS.numpy(),
    "array, channels last": lambda: PIXELS.permute(0, 2, 3, 1).numpy(),
    "read-only array": lambda: np.frombuffer(PIXELS.numpy().tobytes(), np.uint8).reshape(PIXELS.shape),
    "floats": lambda: FLOATS,
    "floats, channels last": lambda: FLOATS.permute(0, 2, 3, 1).numpy(),
    "big-endian floats": lambda: FLOATS.numpy().astype(">f4"),
    "doubles": lambda: FLOATS.numpy().astype(np.float64),
    "images": lambda: Images(PIXELS, LABELS),
    "list of tensors": lambda: list(FLOATS),
    "list of arrays": lambda: [image.numpy() for image in FLOATS],
    "list of arrays, channels last": lambda: [image.permute(1, 2, 0).numpy() for image in PIXELS],
    "list of pictures": pictures,
    "list of batches": lambda: list(FLOATS.split(7)),
    "tuple of batches": lambda: tuple(FLOATS.split(7)),
    "generator": lambda: (image for image in FLOATS),
    "list of pairs": lambda: list(zip(FLOATS, LABELS.tolist())),
    "list of batches and labels": lambda: [list(pair) for pair in zip(FLOATS.split(7), LABELS.split(7))],
    "images and labels": lambda: (FLOATS, LABELS),
    "images and labels of numpy": lambda: (PIXELS.numpy(), LABELS.numpy()),
    "pictures and labels": lambda: list(zip(pictures(), LABELS.tolist())),
    "dicts": lambda: [{"image": picture, "label": int(k)} for picture, k in zip(pictures(), LABELS)],
    "dicts of img": lambda: [{"img": image, "labels": int(k)} for image, k in zip(FLOATS, LABELS)],
    "dicts of batches": lambda: [{"pixel_values": part} for part in FLOATS.split(11)],
    "one dict": lambda: {"pixel_values": FLOATS, "labels": LABELS},
    "data set": lambda: Map(list(FLOATS)),
    "data set of pairs": lambda: TensorDataset(FLOATS, LABELS),
    "data set of pictures": lambda: Map(list(zip(pictures(), LABELS.tolist()))),
    "iterable data set": lambda: Iterable(list(FLOATS)),
    "Hugging Face": lambda: HuggingFace([{"image": p, "label": int(k)} for p, k in zip(pictures(), LABELS)]),
    "Hugging Face, lists": lambda: HuggingFace([{"image": x.tolist()} for x in PIXELS]),
    "Hugging Face, undecoded": lambda: HuggingFace([{"image": {"bytes": png(p), "path": None}} for p in pictures()]),
    "loader": lambda: DataLoader(FLOATS, batch_size=8),
    "loader of pairs": lambda: DataLoader(TensorDataset(FLOATS, LABELS), batch_size=8),
    "loader of one": lambda: DataLoader(TensorDataset(FLOATS, LABELS), batch_size=1),
    "loader of items": lambda: DataLoader(TensorDataset(FLOATS, LABELS), batch_size=None),
    "loader of dicts": lambda: DataLoader(Map([{"pixel_values": x, "label": k} for x, k in zip(FLOATS, LABELS)]), 8),
    "loader of pictures": lambda: DataLoader(Map(pictures()), batch_size=4, collate_fn=list),
    "iterable data set with a length": lambda: Counted(list(FLOATS)),
    "chained data sets": lambda: ChainDataset([Iterable(list(FLOATS[:9])), Counted(list(FLOATS[9:]))]),
    "tuple of tuples": lambda: (tuple(FLOATS[:9]), tuple(FLOATS[9:])),
    "array of pictures": lambda: objects(pictures()),
    "loader of lists of pairs": lambda: DataLoader(TensorDataset(FLOATS, LABELS), 8, collate_fn=list),
    "loader of zipped pairs": lambda: DataLoader(TensorDataset(FLOATS, LABELS), 8, collate_fn=lambda b: tuple(zip(*b))),
    "lists of an image, its label and its number": lambda: [[x, int(k), 0] for x, k in zip(FLOATS, LABELS)],
    "list of images and labels": lambda: (list(FLOATS), LABELS),
    "list of pictures and labels": lambda: [pictures(), LABELS.tolist()],
    "list of an array and labels": lambda: [FLOATS, LABELS],
}
UNMARKED = {
    *("bytes", "bytes, channels last", "array", "array, channels last", "read-only array", "floats"),
    *("floats, channels last", "big-endian floats", "doubles", "list of tensors", "list of arrays"),
    *("list of arrays, channels last", "list of pictures", "list of batches", "tuple of batches", "generator"),
    *("dicts of batches", "data set", "iterable data set", "Hugging Face, lists", "Hugging Face, undecoded"),
    *("loader", "loader of pictures", "iterable data set with a length", "chained data sets", "tuple of tuples"),
    "array of pictures",
}
MARKED = [way for way in WAYS if way not in UNMARKED]


def objects(items):
    array = np.empty(len(items), dtype=object)
    for k, item in enumerate(items):
        array[k] = item
    return array


def png(picture):
    import io

    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_images(way):
    images = ls.as_images(WAYS[way]())
    assert isinstance(images, ImageSet)
    assert images.shape == (3, 10, 12)
    batches = list(images)
    assert all(batch.is_floating_point() and batch.ndim == 4 for batch in batches)
    torch.testing.assert_close(torch.cat(batches).float(), FLOATS, rtol=0, atol=1e-6)
    if way != "generator":
        torch.testing.assert_close(torch.cat(list(images)).float(), FLOATS, rtol=0, atol=1e-6)  # it begins anew


@pytest.mark.parametrize("way", WAYS)
def test_labels_are_those_that_the_images_bring(way):
    images = ls.as_images(WAYS[way]())
    found = images.collected().labels
    assert (found is not None) == (way in MARKED)
    if way in MARKED:
        assert torch.equal(found, LABELS) and torch.equal(images.labels, LABELS)
    given = ls.as_images(WAYS[way](), labels=[7] * 30)
    assert given.collected().labels.tolist() == [7] * 30


@pytest.mark.parametrize("way", WAYS)
def test_a_prior_is_the_same_whatever_holds_the_images(way):
    expected = ls.Gaussian.fit(FLOATS, "diagonal")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior = ls.Gaussian.fit(WAYS[way](), "diagonal")
        moments = ls.Moments((3, 10, 12), "diagonal")
        moments.update(WAYS[way]())
    for found in (prior, moments.gaussian()):
        assert (found.shape, found.count) == ((3, 10, 12), 30)
        torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found.variances, expected.variances, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "generator"])
def test_a_mixture_is_the_same_whatever_holds_the_images(way):
    expected = ls.Mixture.fit(FLOATS, 2, basis="diagonal")
    found = ls.Mixture.fit(WAYS[way](), 2, basis="diagonal")
    torch.testing.assert_close(found.mean, expected.mean, rtol=1e-4, atol=1e-5)
    if way in MARKED:
        labelled = ls.Mixture.fit(WAYS[way](), labels=True, basis="diagonal")
        assert labelled.labels.tolist() == [0, 1, 2, 3]
    else:
        with pytest.raises(ValueError, match="these bring none"):
            ls.Mixture.fit(WAYS[way](), labels=True, basis="diagonal")


def test_what_is_in_memory_is_not_copied():
    assert ls.as_images(FLOATS).pixels.data_ptr() == FLOATS.data_ptr()
    array = FLOATS.numpy()
    assert ls.as_images(array).pixels.data_ptr() == FLOATS.data_ptr()
    images = Images(PIXELS)
    assert ls.as_images(images) is images


def test_a_path_is_read(tmp_path):
    for k, picture in enumerate(pictures()):
        picture.save(tmp_path / f"{k}.png")
    for place in (tmp_path, str(tmp_path)):
        assert torch.equal(ls.as_images(place).pixels, PIXELS)
    assert torch.equal(ls.as_images(sorted(tmp_path.iterdir(), key=lambda p: int(p.stem))).collected().pixels, PIXELS)
    assert ls.Gaussian.fit(str(tmp_path), "isotropic").count == 30


def test_vectors_latents_and_videos_stay_legal():
    for shape in (
        (5,),
        (4, 8, 8),
        (16, 4, 4),
        (2, 5, 5),
        (7, 6, 5),
        (3, 4, 6, 6),
        (1, 16),
        (24, 10),
        (4, 8, 3),
        (1, 3, 3),
        (1, 9, 3),
    ):
        x = torch.randn(20, *shape, generator=G)
        assert ls.as_images(x).shape == shape
        assert ls.Gaussian.fit(x, "diagonal").shape == shape
        if len(shape) != 2:  # of which a list is one of single images
            assert ls.as_images(list(x.split(6))).shape == shape
        if len(shape) != 4:
            assert ls.as_images(list(x)).collected().pixels.shape == x.shape if len(shape) != 2 else True
        assert ls.as_images(DataLoader(x, batch_size=6), shape=shape).shape == shape
        assert torch.equal(ls.as_images(list(x), shape=shape).collected().pixels, x)


def test_grey_pictures_may_lack_their_channel():
    grey = PIXELS[:, 0]
    for given in (grey, grey.numpy(), list(grey), list(grey.numpy()), Map(list(grey)), DataLoader(grey, batch_size=4)):
        assert torch.equal(ls.as_images(given).collected().pixels, PIXELS[:, :1])
    floats = FLOATS[:, 0]
    assert ls.as_images(floats).shape == (10, 12)
    assert ls.as_images(floats, shape=(1, 10, 12)).shape == (1, 10, 12)
    assert ls.as_images(list(floats), shape=(1, 10, 12)).collected().pixels.shape == (30, 1, 10, 12)


@pytest.mark.parametrize("shape", [(3, 9, 3), (1, 9, 1), (3, 3, 3), (3, 12, 1), (9, 9, 4)])
def test_ambiguous_axes_are_refused_with_the_words_that_settle_them(shape):
    x = torch.randn(20, *shape, generator=G)
    for given in (x, list(x), DataLoader(x, batch_size=5)):
        with pytest.raises(
            ValueError, match=r"may be \(N, C, H, W\) or \(N, H, W, C\): say which by .*channels='first'"
        ):
            list(ls.as_images(given))
        assert next(iter(ls.as_images(given, channels="first"))).shape[1:] == shape
        assert next(iter(ls.as_images(given, channels="last"))).shape[1:] == (shape[2], *shape[:2])
        assert next(iter(ls.as_images(given, shape=shape))).shape[1:] == shape
    moments = ls.Moments(shape, "diagonal")
    moments.update(x)
    assert moments.count == 20


def test_items_of_two_axes_are_refused_unless_something_says_what_they_are():
    """A list of pictures without channels would be a prior of their rows."""
    grey = torch.rand(20, 9, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    lists = (list(grey), [x.numpy() for x in grey], [{"image": x} for x in grey], grey.tolist())
    for given in (*lists, (x for x in grey)):
        with pytest.raises(ValueError, match=r"\(9, 9\) may be 9 vectors, or one grey picture: .*shape=\(9,\)"):
            ls.as_images(given).collected()
    grey = torch.rand(20, 10, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for given in (list(grey), (x for x in grey)):
        with pytest.warns(UserWarning, match=r"read as batches of 10 vectors, and may be grey .*shape=\(1, 10, 9\)"):
            assert ls.as_images(given).collected().pixels.shape == (200, 9)
    for given in (list(grey), (x for x in grey)):
        assert ls.as_images(given, shape=(1, 10, 9)).collected().pixels.shape == (20, 1, 10, 9)
    assert ls.as_images(list(grey), shape=(9,)).collected().pixels.shape == (200, 9)
    for given in ([(x, 1) for x in grey], [{"image": x, "label": 1} for x in grey]):  # one label, so one image
        assert ls.as_images(given).collected().pixels.shape == (20, 10, 9)
    assert ls.as_images([grey[0], grey[1, :4]]).collected().pixels.shape == (14, 9)  # a loader's last batch is smaller
    assert ls.as_images([grey[0]]).collected().pixels.shape == (10, 9)


@pytest.mark.parametrize(
    "one",
    [torch.zeros(3, 16, 16), torch.zeros(16, 16, 3), torch.zeros(1, 28, 28).byte(), np.zeros((16, 16, 3))],
    ids=range(4),
)
def test_one_picture_is_not_several(one):
    with pytest.raises(ValueError, match=r"may be one picture, or \d+ of shape .*images\[None\]"):
        ls.as_images(one)
    assert len(ls.as_images(one[None])) == 1
    assert len(ls.as_images(one, shape=tuple(one.shape[1:]))) == len(one) or one.dtype == torch.uint8


def test_a_known_shape_settles_everything():
    assert ls.as_images(FLOATS.permute(0, 2, 3, 1), shape=(3, 10, 12)).shape == (3, 10, 12)
    assert len(ls.as_images(FLOATS[0], shape=(3, 10, 12))) == 1
    square = torch.randn(20, 8, 8, generator=G)
    assert ls.as_images(list(square.split(5)), shape=(8, 8)).collected().pixels.shape == (20, 8, 8)


# what is refused


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "received a NoneType"),
        (3.5, "received a float"),
        (SimpleNamespace(), "received a SimpleNamespace"),
        ({"train": [1], "test": [2]}, "received a dict of 'train', 'test': .*data\\['train'\\]"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int64), "bytes .uint8. or floating-point images, received torch.int64"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.bool), "received torch.bool"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.complex64), "received torch.complex64"),
        (torch.zeros(5), r"received torch.float32 of shape \(5,\)"),
        (torch.zeros(5, 6).byte(), r"expected pictures .*received torch.uint8 of shape \(5, 6\)"),
        (torch.zeros(5, 8, 8, 4).byte(), r"\(5, 8, 8, 4\): expected pictures of 1 or 3 channels"),
        (np.array(["a", "b"]), "expected an array of numbers"),
        (np.array([None, None]), "expected an image, .* received NoneType"),
        ([], "expected at least one image, received none in a list"),
        ([{"picture": torch.zeros(3, 8, 8)}], "item 0 is a dict of 'picture': expected one of image, img"),
        ([()], "item 0 is empty"),
        ([object()], "received object"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)], r"item 1 has \(3, 8, 9\), those before it \(3, 8, 8\)"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 8, 8).byte()], "item 1 is torch.uint8, those before it torch.float32"),
        ([Image.new("RGBA", (8, 8))], r"item 0 is transparent \(mode RGBA\)"),
        ([Image.new("I;16", (8, 8))], "item 0 is an image of mode I;16"),
        (["gone.png"], r"gone\.png"),
    ],
    ids=range(21),
)  # fmt: skip
def test_what_holds_no_images_is_named(given, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        ls.as_images(given).collected()


def test_pictures_in_memory_keep_the_policy_of_files(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures()[0].save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as picture:
        found = ls.as_images([picture]).collected()
    assert found.shape == (3, 12, 10)
    assert torch.equal(found.pixels[0], PIXELS[0].flip(1).transpose(1, 2))
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    assert (ls.as_images([clear], background="white").collected().pixels == 255).all()
    assert (ls.as_images(clear, background="white").pixels == 255).all()


def test_labels_are_class_indices_one_for_each_image():
    for given in (FLOATS, list(FLOATS)):
        for labels, message in (
            ([0] * 29, "a label for each"),
            ([0] * 31, "a label for each"),
            ([0.5] * 30, "class indices"),
            ([[0]] * 30, "class indices"),
        ):
            with pytest.raises(ValueError, match=message):
                ls.as_images(given, labels=labels).collected()


def test_labels_that_are_none_are_no_matter_where_none_are_asked_for():
    """Regression targets and the like."""
    images = ls.as_images(DataLoader(TensorDataset(FLOATS, torch.rand(30)), batch_size=8))
    assert images.labels is None and len(images.collected()) == 30


def test_a_generator_is_read_once():
    images = ls.as_images(iter(FLOATS))
    assert images.shape == (3, 10, 12)  # which looks at the first, and does not lose it
    assert len(torch.cat(list(images))) == 30
    with pytest.raises(ValueError, match="can be read once, and was read before"):
        list(images)


def test_a_stream_holds_a_batch_at_a_time():
    read = []

    def items():
        for k in range(1000):
            read.append(k)
            yield FLOATS[k % 30]

    batches = iter(ls.as_images(items()))
    assert len(next(batches)) == 256 and len(read) <= 257


# ranges


def test_values_of_a_known_range_are_brought_to_what_is_asked_for():
    unit = PIXELS / 255
    images = ls.as_images(unit, value_range=(0, 1))
    torch.testing.assert_close(images.floats(), FLOATS)
    torch.testing.assert_close(images.unit(), unit)
    same = ls.as_images(FLOATS, value_range=(-1, 1))
    torch.testing.assert_close(same.floats(), FLOATS)
    torch.testing.assert_close(same.unit(), unit)
    prior = ls.Gaussian.fit(ls.as_images(list(unit), value_range=(0, 1)), "diagonal")
    torch.testing.assert_close(prior.mean, FLOATS.mean(0), rtol=1e-4, atol=1e-5)
    wide = ls.as_images(PIXELS.float(), value_range=(0, 255))
    torch.testing.assert_close(wide.floats(), FLOATS)


@pytest.mark.parametrize(
    ("scale", "said", "message"),
    [
        ((0.5, 0.5), (-1, 1), r"from 0 to 1, and value_range says \[-1, 1\]: bring them there by images \* 2 - 1"),
        ((1, 0), (0, 1), r"from -1 to 1, and value_range says \[0, 1\]: bring them there by images \* 0.5 \+ 0.5"),
        ((127.5, 127.5), (-1, 1), r"images \* 0.00784314 - 1"),
        ((2, 0), (-1, 1), r"from -2 to 2, and value_range says \[-1, 1\]"),
    ],
)
def test_values_of_another_range_than_was_said_are_refused(scale, said, message):
    x = scale[0] * FLOATS + scale[1]
    for given in (x, DataLoader(x, batch_size=8), Images(x)):
        with pytest.raises(
            ValueError, match=message if isinstance(given, torch.Tensor | Images) else r"value_range says"
        ):
            ls.as_images(given, value_range=said).collected()


@pytest.mark.parametrize("said", [(1, 0), (0, 0), (0,), "ab", (0, float("nan")), 3])
def test_a_range_is_two_values(said):
    with pytest.raises(ValueError, match=r"value_range=.*: expected the values of black and white"):
        ls.as_images(FLOATS, value_range=said)


@pytest.mark.parametrize("kind", ["gaussian", "mixture", "one", "moments", "stream"])
def test_a_bare_fit_of_floats_that_never_leave_the_unit_range_warns(kind):
    unit = PIXELS / 255

    def fit(x):
        if kind == "moments":
            moments = ls.Moments((3, 10, 12), "diagonal")
            moments.update(x)
            return moments.gaussian()
        if kind in ("mixture", "one"):
            return ls.Mixture.fit(x, 2 if kind == "mixture" else 1, basis="diagonal")
        return ls.Gaussian.fit(list(x) if kind == "stream" else x, "diagonal")

    with pytest.warns(UserWarning, match=r"from 0 to 1, and most models work on \[-1, 1\].*value_range=\(0, 1\)"):
        fit(unit)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(FLOATS)
        fit(ls.as_images(unit, value_range=(0, 1)))
        for bright in (Images(PIXELS // 2 + 128), DataLoader(PIXELS // 2 + 128, batch_size=8)):
            ls.Gaussian.fit(bright, "diagonal")  # bytes are known to be what they are
            moments = ls.Moments((3, 10, 12), "diagonal")
            moments.update(bright)
            moments.gaussian()
        ls.Gaussian.fit(torch.rand(30, 5))  # vectors are no pictures


def test_a_stream_says_what_it_is():
    assert repr(Stream([FLOATS], ls.as_images([FLOATS]).reader, None)) == "Stream(of a list)"
    assert repr(ls.as_images(PIXELS, LABELS)) == "Images(30 of (3, 10, 12), uint8, 4 classes)"


def test_sets_of_images_are_compared_by_what_they_hold():
    one = Images(PIXELS, LABELS)
    assert one == Images(PIXELS.clone(), LABELS.clone())
    assert one != Images(PIXELS, LABELS + 1) and one != Images(PIXELS) and one != Images(PIXELS.float(), LABELS)
    assert one != Images(PIXELS[:5], LABELS[:5]) and one != "images"
