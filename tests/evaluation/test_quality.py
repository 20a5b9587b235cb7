import numpy as np
import pytest
import scipy.linalg
import torch

from latestart import zoo
from latestart.evaluation.quality import FrechetTo, feature_statistics, frechet, interval
from latestart.features import InceptionFeatures
from latestart.gaussians.gaussian import Gaussian


def _textbook(a, b):
    """The distance as it is written, with SciPy's matrix square root."""
    (m, c), (n, d) = ((np.mean(s, 0), np.cov(s, rowvar=False)) for s in (a, b))
    return ((m - n) ** 2).sum() + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)


@pytest.fixture(scope="module")
def sets():
    g = torch.Generator().manual_seed(0)
    mix = torch.randn(6, 6, generator=g)
    a, b = torch.randn(300, 6, generator=g) @ mix, 0.5 + torch.randn(400, 6, generator=g)
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    return [((s - low) / (high - low)).reshape(-1, 1, 2, 3) for s in (a, b)]


def test_the_distance_is_the_textbook_one(sets):
    a, b = sets
    expected = _textbook(*(s.flatten(1).double().numpy() for s in sets))
    flat = lambda images: images.flatten(1)  # noqa: E731
    assert frechet(a, b, flat) == pytest.approx(expected, rel=1e-6)
    assert frechet(list(a.split(70)), feature_statistics(b, flat), flat) == pytest.approx(expected, rel=1e-6)
    assert frechet(a, a, flat) == pytest.approx(0, abs=1e-9)
    to_b = FrechetTo(feature_statistics(b, flat))
    assert to_b(flat(a)) == pytest.approx(expected, rel=1e-6)
    weights = torch.zeros(1, 300, dtype=torch.float64)
    weights[0, :100], weights[0, 100:150] = 1, 2
    repeated = torch.cat([flat(a)[:100], flat(a)[100:150], flat(a)[100:150]])
    assert float(to_b.weighted(flat(a), weights)) == pytest.approx(to_b(repeated), rel=1e-9)


def test_images_arrays_and_structured_statistics_are_taken():
    mnist = zoo.load("mnist")
    images = mnist.images("heldout-a")[:300]
    expected = frechet(images.unit(), mnist.statistics("test"), "mnist")
    assert frechet(images, mnist.statistics("test"), "mnist") == pytest.approx(expected, rel=1e-6)
    assert frechet(images.unit().numpy(), mnist.statistics("test"), "mnist") == pytest.approx(expected, rel=1e-6)
    g = torch.Generator().manual_seed(0)
    round_one = Gaussian.fit(torch.randn(500, 5, generator=g, dtype=torch.float64), basis="isotropic")
    features = torch.randn(400, 5, generator=g, dtype=torch.float64)
    dense = Gaussian.fit(features, basis="dense", dtype=torch.float64)
    assert FrechetTo(round_one)(features) == pytest.approx(dense.frechet(round_one), rel=1e-6)


def test_the_interval_covers_the_spread_of_fresh_sets():
    """Over 40 fresh sets, the bootstrap's 95% half-width is near twice the sets' own standard deviation."""
    g = torch.Generator().manual_seed(1)
    reference = FrechetTo(feature_statistics(torch.rand(20_000, 4, generator=g), lambda x: x))
    values, widths = [], []
    for seed in range(40):
        features = torch.rand(400, 4, generator=g) ** 2
        replicates = reference.replicates(features, resamples=100, seed=seed)
        estimate = interval(replicates, reference(features))
        assert estimate.low < estimate.value < estimate.high
        values.append(estimate.value)
        widths.append((estimate.high - estimate.low) / 2)
    assert np.mean(widths) == pytest.approx(1.96 * np.std(values), rel=0.3)


def test_shipped_features_tell_digits_from_noise():
    mnist = zoo.load("mnist")
    a, b = (mnist.images(name).floats() / 2 + 0.5 for name in ("heldout-a", "heldout-b"))
    near, far = frechet(a, b, "mnist"), frechet(torch.rand(500, 1, 28, 28), b, "mnist")
    assert far > 50 * near
    # two test halves with the same statistics in whole: the shipped statistics are those of these images' set
    assert frechet(torch.cat([a, b]), mnist.statistics("test"), "mnist") < near


def test_bad_input_is_named(tmp_path):
    images = torch.rand(4, 1, 28, 28)
    with pytest.raises(ValueError, match=r"in \[0, 1\], received torch\.float32 from -1 to 1"):
        frechet(torch.linspace(-1, 1, 4 * 784).reshape(4, 1, 28, 28), images, "mnist")
    with pytest.raises(ValueError, match=r"received torch\.uint8"):
        frechet((images * 255).byte(), images, "mnist")
    with pytest.raises(ValueError, match=r"images \(1, 28, 28\), received \(4, 3, 32, 32\)"):
        frechet(torch.rand(4, 3, 32, 32), images, "mnist")
    with pytest.raises(ValueError, match="no shipped model 'nothing'"):
        frechet(images, images, "nothing")
    with pytest.raises(ValueError, match="of two extractors: 784 and 128"):
        frechet(feature_statistics(images, lambda x: x.flatten(1)), zoo.load("mnist").statistics("test"), "mnist")
    with pytest.raises(FileNotFoundError, match=r"Inception network at .*weights"):
        InceptionFeatures(tmp_path / "weights.pth")
