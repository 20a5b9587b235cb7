import json
import pickle
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from latestart.files import VERSION, load_tensors, read_json, replacing, save_tensors, sound, write_json


def test_what_was_saved_is_loaded(tmp_path):
    tensors = {"a": torch.randn(3, 4, dtype=torch.float64), "b": torch.arange(5)}
    save_tensors(tmp_path / "x.safetensors", "thing", tensors, {"n": 3, "range": [0, 1.5]})
    loaded, metadata = load_tensors(tmp_path / "x.safetensors", "thing")
    assert metadata == {"n": 3, "range": [0, 1.5]}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_the_same_content_is_the_same_bytes(tmp_path):
    path = tmp_path / "x.safetensors"
    metadata = {"n": 3, "text": 'quoted "é" \\ \u2028 \x07 <&>', "range": [0, 1.5]}
    tensors = {name: torch.full((3, 2), float(k)) for k, name in enumerate("hgfedcba")}
    written = set()
    for _ in range(20):
        save_tensors(path, "thing", tensors, metadata)
        written.add(path.read_bytes())
        assert load_tensors(path, "thing")[1] == metadata
    assert len(written) == 1
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in load_tensors(path, "thing")[0].items())


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert path.read_text() == "old"


def test_damaged_foreign_and_pickled_files_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(FileNotFoundError, match=r"x\.safetensors"):
        load_tensors(path, "thing")
    save_tensors(path, "thing", {"a": torch.zeros(1000)}, {})
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged"):
        load_tensors(path, "thing")
    save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"not one of latestart's.*weight"):
        load_tensors(path, "thing")
    save_tensors(path, "other", {"a": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match=r"holds a other.*expected a thing"):
        load_tensors(path, "thing")


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_a_pickle_is_never_loaded(tmp_path, how):
    path, fired = tmp_path / "x.safetensors", tmp_path / "fired"

    class Bomb:
        def __reduce__(self):
            return (open, (str(fired), "w"))

    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb()))
    else:
        torch.save(Bomb(), path)
    with pytest.raises(ValueError, match="pickle"):
        load_tensors(path, "thing")
    assert not fired.exists()


def test_a_sound_file_that_begins_like_a_pickle_is_read(tmp_path):
    path = tmp_path / "x.safetensors"
    for pad in range(300):
        save_tensors(path, "thing", {"a": torch.ones(2)}, {"pad": "x" * pad})
        if path.read_bytes()[0] == 0x80:
            break
    assert struct.unpack("<Q", path.read_bytes()[:8])[0] % 256 == 0x80
    assert torch.equal(load_tensors(path, "thing")[0]["a"], torch.ones(2))


@pytest.mark.parametrize("metadata", [None, "{", "3"])
def test_damaged_metadata_are_a_damaged_file(tmp_path, metadata):
    header = {"format": "latestart", "kind": "thing", "version": str(VERSION)}
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(2)}, path, header if metadata is None else {**header, "metadata": metadata})
    with pytest.raises(ValueError, match=r"thing file .* is damaged"):
        load_tensors(path, "thing")


def test_kept_json_is_read_whole_or_not_at_all(tmp_path):
    path, value = tmp_path / "levels.json", {"key": "a", "levels": [{"sigma": 0.5, "how": "“by hand”"}]}
    assert read_json(path) is None
    write_json(path, value)
    whole = path.read_bytes()
    assert read_json(path) == value
    for length in range(len(whole.strip())):
        path.write_bytes(whole[:length])
        assert read_json(path) is None
    for seed in range(50):
        path.write_bytes(np.random.default_rng(seed).bytes(len(whole)))
        assert read_json(path) is None
    for odd in ([1], "text", 3, None, True):
        path.write_text(json.dumps(odd))
        assert read_json(path) is None
    path.write_text("[" * 100_000)
    assert read_json(path) is None


def test_what_a_file_cannot_be_made_into_is_told_with_its_name():
    def fails(make):
        with pytest.raises(ValueError) as error, sound("here.safetensors", "thing"):
            make()
        return str(error.value)

    begins = "here.safetensors does not hold a sound thing: "
    assert fails(lambda: {}["shape"]) == begins + "'shape' is missing"
    assert fails(lambda: [][0]).startswith(begins) and fails(lambda: 1 // 0).startswith(begins)
    assert fails(lambda: torch.zeros(2) @ torch.zeros(3)).count("\n") == 0
    with pytest.raises(KeyboardInterrupt), sound("here.safetensors", "thing"):
        raise KeyboardInterrupt
