import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
    return [((s - low) / (high - low)).reshape(-1, 1, 3, 2) for s in (a, b)]


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


def _by_singular_values(rows, reference):
    """The distance of rows, the last trace as the singular values of `X_c F / sqrt(n - 1)`, with F F^T = C."""
    rows, n, factor = rows.double(), len(rows), reference.basis.vectors * reference.variances.sqrt()
    centred = rows - rows.mean(0)
    traces = centred.square().sum() / (n - 1) + factor.square().sum()
    gap = (rows.mean(0) - reference.mean).square().sum()
    return float(gap + traces - 2 * torch.linalg.svdvals(centred @ factor).sum() / (n - 1) ** 0.5)


@pytest.mark.parametrize(
    ("count", "width", "rank"),
    [(80, 6, 6), (8, 20, 20), (31, 20, 20), (3000, 12, 12), (60, 12, 5), (6, 12, 5)],
    ids=["values", "samples", "both", "blocks", "flat reference", "flat reference, few"],
)
@pytest.mark.filterwarnings("ignore:the feature covariance")
def test_replicates_are_the_distances_of_what_was_drawn(count, width, rank):
    g = torch.Generator().manual_seed(0)
    data = torch.randn(200, rank, generator=g, dtype=torch.float64) @ torch.randn(rank, width, generator=g).double()
    reference = Gaussian.fit(data, basis="dense", dtype=torch.float64)
    features = 0.3 + torch.randn(count, width, generator=g) @ torch.randn(width, width, generator=g)
    index = torch.randint(count, (5, count), generator=torch.Generator().manual_seed(3))
    expected = torch.tensor([_by_singular_values(features[drawn], reference) for drawn in index], dtype=torch.float64)
    value = _by_singular_values(features, reference)
    distance = FrechetTo(reference)
    assert distance(features) == pytest.approx(value, rel=1e-10)
    shifted = expected - expected.mean() + value
    assert distance.replicates(features, resamples=5, seed=3).tolist() == pytest.approx(shifted.tolist(), rel=1e-10)


class Largest(TorchDispatchMode):
    """Takes note of the largest tensor made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            self.numbers = max(self.numbers, one.numel() if isinstance(one, torch.Tensor) else 0)
        return out


@pytest.mark.parametrize("count", [150, 900])
@pytest.mark.filterwarnings("ignore:the feature covariance")
def test_a_bootstrap_needs_no_more_memory_than_the_features(count):
    g = torch.Generator().manual_seed(0)
    reference = Gaussian.fit(torch.randn(500, 200, generator=g), basis="dense", dtype=torch.float64)
    features, distance = torch.randn(count, 200, generator=g), FrechetTo(reference)
    with Largest() as largest:
        distance.replicates(features, resamples=60)
    assert largest.numbers <= max(200, count) * 200


def test_fewer_images_than_features_are_warned_of_with_the_rank():
    g = torch.Generator().manual_seed(0)
    few, many = torch.rand(12, 30, generator=g), torch.rand(50, 30, generator=g)
    flat = lambda images: images  # noqa: E731
    for one, other in ((few, many), (many, few)):
        with pytest.warns(UserWarning, match="of 12 images has rank 11 of 30"):
            frechet(one, other, flat)
    distance = FrechetTo(feature_statistics(many, flat))
    for ask in (distance, distance.replicates):
        with pytest.warns(UserWarning, match="of 12 images has rank 11 of 30"):
            ask(few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distance.replicates(many)
        frechet(many, feature_statistics(many, flat), flat)


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
    with pytest.raises(ValueError, match=r"images \(1, 28, 28\), received \(4, 3, 32, 32\)"):
        frechet(torch.rand(4, 3, 32, 32), images, "mnist")
    with pytest.raises(ValueError, match="no features 'nothing'; there are mnist, efficientnet-lite0"):
        frechet(images, images, "nothing")
    with pytest.raises(ValueError, match="of two extractors: 784 and 128"):
        frechet(feature_statistics(images, lambda x: x.flatten(1)), zoo.load("mnist").statistics("test"), "mnist")
    distance = FrechetTo(feature_statistics(torch.rand(20, 4), lambda x: x))
    for features in (torch.rand(20, 5), torch.rand(1, 4), torch.rand(20)):
        with pytest.raises(ValueError, match=r"at least 2 features \(N, 4\), received"):
            distance(features)
    spoilt = torch.rand(20, 1, 4, 4)
    spoilt[3, 0, 1] = torch.nan
    with pytest.raises(ValueError, match="expected images of finite numbers, received 4 that are NaN"):
        frechet(spoilt, torch.rand(20, 1, 4, 4), lambda images: images.flatten(1))
    with pytest.raises(ValueError, match="finite features, received 4 values that are NaN"):
        distance(torch.full((6, 4), 0.5).index_fill(0, torch.tensor([2]), float("nan")))
    with pytest.raises(FileNotFoundError, match=r"Inception network at .*weights"):
        InceptionFeatures(tmp_path / "weights.pth")


@pytest.mark.parametrize("kind", ["tensor", "bytes", "array", "last", "list", "loader", "pairs", "dicts", "dataset"])
def test_images_are_taken_from_whatever_holds_them(kind):
    """Of whole bytes, so that nothing is rounded on the way."""
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (64, 1, 8, 8), generator=g, dtype=torch.uint8)
    x, y = pixels / 255, torch.rand(64, 1, 8, 8, generator=g)
    pairs = torch.utils.data.TensorDataset(x, torch.zeros(64))
    given = {
        "tensor": x,
        "bytes": pixels,
        "array": x.numpy(),
        "last": pixels.movedim(1, -1).numpy(),
        "list": list(x),
        "loader": torch.utils.data.DataLoader(x, batch_size=10),
        "pairs": torch.utils.data.DataLoader(pairs, batch_size=16),
        "dicts": [{"pixel_values": part} for part in x.split(16)],
        "dataset": pairs,
    }[kind]
    flat = torch.nn.Flatten()
    assert frechet(given, y, flat) == pytest.approx(frechet(x, y, flat), rel=1e-9)


def test_a_reference_without_variance_is_as_far_by_both_ways():
    """|m - c|^2 + tr C."""
    a = torch.rand(500, 16, generator=torch.Generator().manual_seed(0))
    constant = feature_statistics(a[:1].expand(50, -1), lambda x: x)
    expected = float((a.double().mean(0) - a[0].double()).square().sum() + a.double().var(0).sum())
    assert FrechetTo(constant)(a) == pytest.approx(expected, rel=1e-9)
    assert frechet(a, constant, lambda x: x) == pytest.approx(expected, rel=1e-9)
    assert FrechetTo(constant).replicates(a, 10).mean() == pytest.approx(expected, rel=1e-9)
    assert frechet(constant, constant, lambda x: x) == 0


@pytest.mark.parametrize("value", [float("nan"), 0.5])
def test_no_interval_is_made_of_nan(value):
    replicates = torch.tensor([0.4, float("nan"), 0.6])
    with pytest.raises(FloatingPointError, match="1 replicates that are NaN"):
        interval(replicates, value)
