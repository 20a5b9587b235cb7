"""The faces show their attributes, in the shares that are promised."""

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from latestart.cli.experiment import experiment
from latestart.data import load_images
from latestart.datasets.faces import SHARES, drawn, faces

TONES = {  # of python-avatars, in SHARES' order
    "light": "#EDB98A", "pale": "#FFDBB4", "tanned": "#FD9841", "brown": "#D08B5B", "yellow": "#F8D25C",
    "dark_brown": "#AE5D29", "black": "#614335",
}  # fmt: skip


@pytest.fixture(scope="module")
def some():
    return faces(60, size=64, seed=3)


def test_the_skin_has_the_colour_of_its_label(some):
    """The most frequent of the seven tones in the middle of a face is its own."""
    tones = torch.tensor([[int(code[k : k + 2], 16) for k in (1, 3, 5)] for code in TONES.values()]).float()
    middle = torch.from_numpy(some.pixels)[:, :, 24:44, 20:44].float()
    apart = (middle[:, None] - tones[None, :, :, None, None]).norm(dim=2)  # face, tone, row, column
    counts = (apart < 6).flatten(2).sum(2)
    assert counts.argmax(1).tolist() == some.attributes["skin"].tolist()


def test_an_attribute_changes_its_part_of_the_picture(some):
    """On average over the faces, glasses are where the eyes are, and beards where the mouth is."""
    pixels = torch.from_numpy(some.pixels).float().mean(1)

    def darkest(name):
        has = torch.from_numpy(some.attributes[name]) == 1
        change = (pixels[has].mean(0) - pixels[~has].mean(0)).abs()[12:52, 16:48]
        rows = change.sum(1)
        return 12 + float((rows * torch.arange(len(rows))).sum() / rows.sum())

    assert darkest("glasses") < darkest("facial_hair") - 2


def test_shares_are_those_promised():
    counts = {name: dict.fromkeys(shares, 0) for name, shares in SHARES.items()}
    for i in range(3000):
        for name, value in drawn(np.random.default_rng((0, i)))[0].items():
            counts[name][value] += 1
    for name, shares in SHARES.items():
        assert sum(shares.values()) == pytest.approx(1)
        for value, share in shares.items():
            assert counts[name][value] / 3000 == pytest.approx(share, abs=4 * (share * (1 - share) / 3000) ** 0.5)


def test_a_face_depends_on_the_seed_and_its_index_alone(some):
    again = faces(5, size=64, seed=3)
    assert np.array_equal(again.pixels, some.pixels[:5])
    assert not np.array_equal(faces(5, size=64, seed=4).pixels, again.pixels)


def test_the_file_is_a_data_set(tmp_path):
    result = CliRunner().invoke(experiment, ["faces", "-n", "7", "--size", "32", "--out", str(tmp_path / "f.npz")])
    assert result.exit_code == 0, result.output
    images, expected = load_images(tmp_path / "f.npz"), faces(7, 32)
    assert np.array_equal(images.pixels, expected.pixels) and np.array_equal(images.labels, expected.attributes["skin"])
    with np.load(tmp_path / "f.npz") as file:
        assert all(np.array_equal(file[name], values) for name, values in expected.attributes.items())


def test_bad_input():
    with pytest.raises(ValueError, match="n=0: expected a whole number"):
        faces(0)
    result = CliRunner().invoke(experiment, ["faces", "-n", "1", "--out", "faces.png"])
    assert result.exit_code == 2
