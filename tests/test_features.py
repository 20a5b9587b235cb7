"""Feature extractors: where they are evaluated, how many images at once, and files of theirs that are spoilt."""

import re
import sys
import types

import numpy as np
import pytest
import torch
import typer
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from latestart import features as module
from latestart.cli.attributes import classifier
from latestart.features import Classifier, ClassifierFeatures, InceptionFeatures
from latestart.files import load_tensors, save_tensors
from latestart.lab.judge import open_features

# the network of Inception, stood in for by one that notes what it is handed


class Far:
    """What comes of a network on another device: only brought here is it a tensor to go on with."""

    def __init__(self, rows):
        self.rows = rows

    def cpu(self):
        return self.rows


class StandIn(nn.Module):
    def __init__(self, name, layers, path):
        super().__init__()
        assert (name, layers) == ("inception-v3-compat", ["2048"])
        self.weight = nn.Parameter(torch.zeros(2))
        self.load_state_dict(torch.load(path))
        self.seen = []

    def forward(self, pixels):
        self.seen.append((self.weight.device.type, pixels.device.type, pixels.dtype, tuple(pixels.shape)))
        rows = sum(shape[0] for *_, shape in self.seen[:-1]) + torch.arange(len(pixels))
        return (Far(rows[:, None].float()),)


@pytest.fixture
def weights(tmp_path, monkeypatch):
    stand_in = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    stand_in.FeatureExtractorInceptionV3 = StandIn
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.tensor([1.0, 2.0])}, path)
    return path


def test_inception_works_on_the_device_of_the_process_in_batches(weights, monkeypatch):
    monkeypatch.setattr(module, "own_device", lambda: torch.device("meta"))
    extract = InceptionFeatures(weights, batch_size=4)
    found = extract(torch.rand(10, 1, 8, 8))
    assert extract.network.seen == [("meta", "meta", torch.uint8, (n, 3, 8, 8)) for n in (4, 4, 2)]
    assert found.device.type == "cpu" and found[:, 0].tolist() == list(range(10))  # all, in their order
    here = InceptionFeatures(weights, device="cpu")
    here(torch.rand(200, 3, 8, 8))
    assert here.network.seen[0][:2] == ("cpu", "cpu")
    assert max(shape[0] for *_, shape in here.network.seen) == 64
    assert here.name == extract.name  # that of the weights, wherever they are


@pytest.mark.parametrize("shape", [(4, 2, 8, 8), (4, 8, 8), (4, 4, 8, 8)])
def test_images_that_inception_cannot_take_are_named(weights, shape):
    with pytest.raises(ValueError, match=re.escape(f"one or three channels, received {shape}")):
        InceptionFeatures(weights)(torch.rand(shape))


def test_batches_of_none_are_refused(weights):
    with pytest.raises(ValueError, match="batch_size=0: expected a whole number of at least 1"):
        InceptionFeatures(weights, batch_size=0)


# spoilt files


def cuts(whole):
    """A file cut at several lengths, and random bytes in its place."""
    for length in sorted({0, 1, 2, 7, 8, 9, 40, len(whole) // 2, len(whole) - 100, len(whole) - 1}):
        yield whole[:length]
    for seed in range(20):
        noise = np.random.default_rng(seed).bytes(300)
        yield noise
        yield b"PK\x03\x04" + noise
        yield b"\x80\x02" + noise
        yield len(noise).to_bytes(8, "little") + noise  # a header of safetensors that is none


def refused(path):
    with pytest.raises(ValueError) as error:
        open_features(str(path))
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_spoilt_weights_of_inception_are_refused_by_name(weights, legacy):
    state = {"weight": torch.tensor([1.0, 2.0])}
    torch.save(state, weights, _use_new_zipfile_serialization=not legacy)
    assert open_features(str(weights)).network.weight.tolist() == [1, 2]
    for spoilt in cuts(weights.read_bytes()):
        weights.write_bytes(spoilt)
        assert "the weights of the FID Inception network" in refused(weights)
    for other in ([1], {"weight": "text"}, 3.0, torch.zeros(2)):
        torch.save(other, weights)
        assert "expected named tensors" in refused(weights)
    for other in ({}, {"weight": torch.zeros(3)}, {"bias": torch.zeros(2)}, {1: torch.zeros(2)}):
        torch.save(other, weights)
        assert "does not hold a sound FID Inception network" in refused(weights)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_weights_that_would_run_are_never_unpickled(weights, tmp_path):
    torch.save({"weight": torch.zeros(2), "more": Bomb(tmp_path / "fired")}, weights)
    assert "damaged, or of another format" in refused(weights)
    assert not (tmp_path / "fired").exists()


@pytest.fixture
def file(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "classifier.safetensors"
    Classifier((1, 8, 8), 3).save(path)
    return path


def test_a_classifiers_file_that_is_cut_short_or_foreign_is_refused_by_name(file):
    assert isinstance(open_features(str(file)), ClassifierFeatures)
    for spoilt in cuts(file.read_bytes()):
        file.write_bytes(spoilt)
        refused(file)


ODD = {
    "no shape": (lambda t, m: m.pop("shape"), "sound classifier: 'shape' is missing"),
    "no classes": (lambda t, m: m.pop("classes"), "sound classifier: 'classes' is missing"),
    "a side that is missing": (lambda t, m: m.update(shape=[1, 8]), "sound classifier"),
    "no side at all": (lambda t, m: m.update(shape=[]), "sound classifier"),
    "sides that are no numbers": (lambda t, m: m.update(shape="1x8"), "sound classifier"),
    "sides by name": (lambda t, m: m.update(shape={"height": 8}), "sound classifier"),
    "parts of pixels": (lambda t, m: m.update(shape=[1, 8.5, 8]), "sound classifier"),
    "another size": (lambda t, m: m.update(shape=[1, 16, 16]), "sound classifier"),
    "classes in words": (lambda t, m: m.update(classes="three"), "sound classifier"),
    "fewer classes than none": (lambda t, m: m.update(classes=-1), "sound classifier"),
    "other classes": (lambda t, m: m.update(classes=4), "sound classifier"),
    "a missing layer": (lambda t, m: t.pop("head.1.weight"), "sound classifier"),
    "a layer too many": (lambda t, m: t.update(tail=torch.zeros(2)), "sound classifier"),
    "NaN": (lambda t, m: t["head.1.bias"].fill_(float("nan")), "head.1.bias (torch.float16) holds values that are not"),
}


@pytest.mark.parametrize("how", ODD)
def test_a_classifier_that_makes_no_sense_is_refused_by_name(file, how):
    spoil, message = ODD[how]
    tensors, metadata = load_tensors(file, "classifier")
    spoil(tensors, metadata)
    save_tensors(file, "classifier", tensors, metadata)
    assert message in refused(file)


def test_other_files_of_tensors_are_no_classifiers(file):
    tensors, metadata = load_tensors(file, "classifier")
    save_tensors(file, "attribute-classifier", tensors, metadata)
    assert "expected a classifier" in refused(file)
    with safe_open(file, framework="pt") as opened:
        save_file({name: opened.get_tensor(name) for name in opened.keys()}, file)  # noqa: SIM118 - not a dict
    assert "not one of latestart's" in refused(file)


def test_a_class_that_is_held_out_alone_is_scored_as_wrong(tmp_path):
    """The first tenth is held out; its first image is the only one of a third class, which training never sees."""
    labels = np.arange(150) % 2
    labels[0] = 2
    pixels = np.where(labels % 2, 255, 0).astype(np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    np.savez(tmp_path / "rare.npz", images=pixels, labels=labels)
    app = typer.Typer()
    app.command()(classifier)
    args = [str(tmp_path / "rare.npz"), "--out", str(tmp_path / "c.safetensors"), "--epochs", "20"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    assert "93.33% right" in result.output and "of 15 held-out images" in result.output
    assert Classifier.load(tmp_path / "c.safetensors").classes == 2


# classifiers


@pytest.mark.parametrize("architecture", ["convolutions", "mixer"])
def test_a_classifier_is_kept_with_its_architecture(tmp_path, architecture):
    model = Classifier((3, 8, 12), 5, architecture).eval()
    model.save(tmp_path / "c.safetensors")
    loaded, images = Classifier.load(tmp_path / "c.safetensors"), torch.rand(4, 3, 8, 12)
    assert loaded.architecture == architecture and (tmp_path / "c.safetensors").stat().st_size < 700_000
    assert loaded.features(images).shape == (4, 128) and loaded(images).shape == (4, 5)
    torch.testing.assert_close(loaded(images), model(images), atol=1e-2, rtol=0)


def test_a_classifier_from_before_there_were_several_has_convolutions(tmp_path):
    model = Classifier((1, 8, 8), 2).eval()
    model.save(tmp_path / "c.safetensors")
    tensors, metadata = load_tensors(tmp_path / "c.safetensors", "classifier")
    del metadata["architecture"]
    save_tensors(tmp_path / "c.safetensors", "classifier", tensors, metadata)
    assert Classifier.load(tmp_path / "c.safetensors").architecture == "convolutions"


def test_a_mixer_sees_patches_and_not_their_places_alone():
    """Each output depends on every pixel, and images that share no patch have features of their own."""
    model = Classifier((1, 8, 8), 2, "mixer").eval()
    x = torch.rand(1, 1, 8, 8, requires_grad=True)
    model(x)[0, 0].backward()
    assert (x.grad != 0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classifier((1, 8, 8), 2, "tower"), "no architecture 'tower'; there are convolutions, mixer"),
        (lambda: Classifier((1, 10, 8), 2, "mixer"), r"patches of 4 x 4 pixels, received images \(1, 10, 8\)"),
    ],
)
def test_architectures_that_cannot_be_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
