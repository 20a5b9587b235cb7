"""The same numbers as torch-fidelity's, on the same weights of the Inception network and the same images."""

import importlib.util
import sys
import types

import pytest
import torch
from torch import nn

from latestart.data import to_pixels
from latestart.evaluation.kernel import kid
from latestart.evaluation.manifold import OverlapWith
from latestart.evaluation.quality import FrechetTo, feature_statistics, frechet

COUNT = 10  # images in each set
PARTS = ("datasets", "transforms", "transforms.functional", "models")


def _unused(name):
    """A module of which torch-fidelity asks names when it is imported, and nothing for these figures."""
    module = types.ModuleType(name)
    module.__getattr__ = lambda attribute: type(attribute, (), {})
    return module


@pytest.fixture(scope="module")
def fidelity():
    """torch-fidelity; torchvision, which comes for one build of torch each, need not be there."""
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("needs torch-fidelity")
    with pytest.MonkeyPatch.context() as patch:  # undone at once: others ask whether there is a torchvision
        try:
            import torchvision  # noqa: F401
        except (ImportError, RuntimeError):
            modules = {name: _unused(name) for name in ("torchvision", *(f"torchvision.{part}" for part in PARTS))}
            for name, module in modules.items():
                patch.setitem(sys.modules, name, module)
            modules["torchvision"].transforms = modules["torchvision.transforms"]
            modules["torchvision.transforms"].functional = modules["torchvision.transforms.functional"]
        import torch_fidelity
    return torch_fidelity


@pytest.fixture(scope="module")
def weights(fidelity, tmp_path_factory):
    """The file of random weights, drawn so that what comes in is not lost on the way (He et al. 2015)."""
    inception = sys.modules["torch_fidelity.feature_extractor_inceptionv3"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(inception.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = inception.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            fan = layer.weight[0].numel()
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator) * (2 / fan) ** 0.5)
    path = tmp_path_factory.mktemp("inception") / "weights-inception.pth"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def sets():
    """Two sets of small images: stripes of random widths and colours, and noise upon them in the second."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.linspace(0, 12, 32)
    found = []
    for noise in (0.0, 0.3):
        widths, colours = (
            torch.rand(COUNT, 1, 1, 1, generator=generator),
            torch.rand(COUNT, 3, 1, 1, generator=generator),
        )
        stripes = colours * (0.5 + 0.5 * torch.sin(columns * (0.5 + widths))) + torch.zeros(1, 1, 32, 1)
        found.append((stripes + noise * torch.rand(COUNT, 3, 32, 32, generator=generator)).clamp(0, 1))
    return [to_pixels(images).float() / 255 for images in found]


@pytest.fixture(scope="module")
def features(fidelity, weights, sets):
    from latestart.features import InceptionFeatures

    extract = InceptionFeatures(weights)
    assert extract.name.startswith("inception-")
    return [extract(images) for images in sets]


class Pixels(torch.utils.data.Dataset):
    """Images as torch-fidelity takes them."""

    def __init__(self, images):
        self.pixels = to_pixels(images)

    def __len__(self):
        return len(self.pixels)

    def __getitem__(self, index):
        return self.pixels[index]


@pytest.fixture(scope="module")
def theirs(fidelity, weights, sets):
    """All of torch-fidelity's figures, of its own features, by one call."""
    return fidelity.calculate_metrics(
        input1=Pixels(sets[0]), input2=Pixels(sets[1]), feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights), feature_layer_prc="2048", fid=True, kid=True, prc=True,
        kid_subset_size=7, kid_subsets=20, cuda=False, cache=False, verbose=False, save_cpu_ram=True,
    )  # fmt: skip


def test_the_frechet_distance(sets, features, theirs):
    expected = pytest.approx(theirs["frechet_inception_distance"], rel=1e-4)
    known = iter(features)
    one, other = (feature_statistics(images, lambda _: next(known)) for images in sets)
    for distance in (lambda: frechet(one, other, lambda rows: rows), lambda: FrechetTo(other)(features[0])):
        with pytest.warns(UserWarning, match="of 10 images has rank 9 of 2048"):
            assert distance() == expected


def test_the_kernel_inception_distance(features, theirs):
    found = kid(*features, subsets=20, size=7)
    assert found.value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-4)
    assert found.deviation == pytest.approx(theirs["kernel_inception_distance_std"], rel=1e-4)


def test_precision_and_recall(features, theirs):
    sampled, real = features
    found = OverlapWith(real)(sampled)
    assert found.precision.value == pytest.approx(theirs["precision"], rel=1e-4)
    assert found.recall.value == pytest.approx(theirs["recall"], rel=1e-4)
    assert 0 < found.precision.value < 1 or 0 < found.recall.value < 1  # else any two definitions would agree
