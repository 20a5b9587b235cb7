"""Readers: which classifier is opened, and of which attributes."""

import pytest
import torch

from latestart.classifiers import readers
from latestart.features import Classifier


def test_readers(tmp_path):
    torch.manual_seed(0)
    Classifier((1, 8, 8), 3).save(tmp_path / "classifier.safetensors")
    reader = readers.open_reader(None, str(tmp_path))
    assert dict(reader.values) == {"class": ("0", "1", "2")} and reader.name.startswith("classifier-")
    said = reader(torch.rand(4, 1, 8, 8))["class"]
    torch.testing.assert_close(said.sum(1), torch.ones(4))
    assert dict(readers.open_reader(None, "mnist").values) == {"digit": tuple("0123456789")}
    with pytest.raises(ValueError, match="brings no classifier"):
        (tmp_path / "empty").mkdir()
        readers.open_reader(None, str(tmp_path / "empty"))
    with pytest.raises(ValueError, match="race, gender, emotion, received 'age'"):
        readers.open_reader("deepface:age", "mnist")
    with pytest.raises(FileNotFoundError, match="classifier"):
        readers.open_reader(str(tmp_path / "none.safetensors"), "mnist")
