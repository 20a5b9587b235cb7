"""Moments against numpy, in any order and split; the accuracy claimed for each dtype of products."""

import logging
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import latestart as ls
from latestart.files import save_tensors
from latestart.gaussians import sums
from latestart.gaussians.basis import Products
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.structures import BASES

SPECTRAL = ("channel", "fourier", "cosine", "cosine+dense")
every_basis = pytest.mark.parametrize("basis", BASES)
every_dtype = pytest.mark.parametrize(("products", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-10)])


def images(n: int, shape: tuple[int, ...] = (2, 3, 4), seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Correlated images with variances over two decades and a mean as large as the widest of them."""
    g, d = torch.Generator().manual_seed(seed), math.prod(shape)
    mixing = torch.randn(d, d, generator=g, dtype=torch.float64) * torch.logspace(-1, 1, d, dtype=torch.float64) / d
    x = torch.randn(n, d, generator=g, dtype=torch.float64) @ mixing + torch.randn(d, generator=g, dtype=torch.float64)
    return x.reshape(n, *shape).to(dtype)


def moments_of(batches, basis: str = "dense", products: torch.dtype = torch.float32) -> ls.Moments:
    moments = ls.Moments(batches[0].shape[1:], basis, products=products)
    for batch in batches:
        moments.update(batch)
    return moments


def reference(x: Tensor, basis: str) -> np.ndarray:
    """What the basis keeps of numpy's covariance of the very same values."""
    c = np.atleast_2d(np.cov(x.double().flatten(1).numpy(), rowvar=False))
    if basis == "lowrank":
        return sketched(c, tuple(x.shape[1:]))
    if basis in SPECTRAL:
        return summed(c, BASES[basis].products(tuple(x.shape[1:])))
    return {"dense": c, "diagonal": np.diag(c).copy(), "isotropic": np.diag(c).mean(keepdims=True)}[basis]


def summed(c: np.ndarray, products: Products) -> np.ndarray:
    """The products of a covariance `sum_k l_k v_k v_k^T`, which are those of the D rows `sqrt(l_k) v_k`."""
    values, vectors = torch.linalg.eigh(torch.from_numpy(c))
    total = torch.zeros(products.size, dtype=torch.float64)
    products.accumulate(total, (vectors * values.clamp(min=0).sqrt()).T)
    return products.complete(total).numpy()


def sketched(c: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The products of a covariance with the test matrix, and a row with its trace."""
    test = LowRank.products(shape).tested(torch.eye(len(c), dtype=torch.float64)).numpy()
    last = np.zeros((1, test.shape[1]))
    last[0, 0] = np.trace(c)
    return np.concatenate([c @ test, last])


def error(actual: Tensor, expected: np.ndarray | Tensor) -> float:
    """Largest deviation relative to the largest entry."""
    expected = torch.as_tensor(expected)
    return ((actual - expected).abs().max() / expected.abs().max()).item()


@every_basis
@every_dtype
@settings(max_examples=10, deadline=None)
@given(
    shape=st.sampled_from([(1,), (7,), (3, 4, 2), (1, 17, 17)]),
    cuts=st.lists(st.integers(0, 90), max_size=6),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 2**31),
)
def test_any_split_and_order(
    basis: str,
    products: torch.dtype,
    tolerance: float,
    shape: tuple[int, ...],
    cuts: list[int],
    order: random.Random,
    seed: int,
) -> None:
    """Parts merged in any order, each with a shift of its own, equal one pass, and numpy."""
    x = images(90, shape, seed)
    parts = [moments_of([part], basis, products) for part in torch.tensor_split(x, sorted(cuts))]
    order.shuffle(parts)
    merged = ls.Moments(shape, basis, products=products)
    for part in parts:
        merged.merge(part)
    whole = moments_of(list(x.split(17)), basis, products)
    assert merged.count == whole.count == 90
    assert merged.value_range == whole.value_range == (x.min().item(), x.max().item())
    for moments in (merged, whole):
        assert (moments.mean() - x.double().mean(0)).abs().max() < tolerance * x.abs().max()  # the mean may be near 0
        assert error(moments.covariance(), reference(x, basis)) < tolerance


@every_dtype
def test_mean_of_ten_thousand_and_unit_variance(products: torch.dtype, tolerance: float) -> None:
    """Without the shift, float32 products of such images would lose every digit of the covariance."""
    x = 1e4 + torch.randn(5000, 1, 17, 17, generator=torch.Generator().manual_seed(1))
    for values in (x, x.double() + 1e-5):
        moments = moments_of(list(values.split(1024)), products=products)
        assert error(moments.covariance(), reference(values, "dense")) < tolerance


def test_shift_need_not_be_typical() -> None:
    """A first batch far from the rest only costs digits in proportion."""
    x = images(400, dtype=torch.float64)
    moments = moments_of([x[:1] + 100, x[1:]], products=torch.float64)
    expected = np.cov(torch.cat([x[:1] + 100, x[1:]]).flatten(1).numpy(), rowvar=False)
    assert error(moments.covariance(), expected) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_images_of_any_floating_dtype_are_taken_at_their_value(dtype: torch.dtype) -> None:
    x = images(300, dtype=dtype)
    assert error(moments_of([x[:100], x[100:]]).covariance(), reference(x, "dense")) < 1e-6


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 81])
def test_images_of_any_size_and_batches_larger_than_a_chunk(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(500, (size,))
    monkeypatch.setattr(sums, "CHUNK", 64)
    covariance = moments_of([x], products=torch.float64).covariance()
    assert error(covariance, reference(x, "dense")) < 1e-12
    assert torch.equal(covariance, covariance.T)


@every_basis
def test_the_gaussian_has_the_moments(basis: str) -> None:
    x = images(200, dtype=torch.float64)
    prior = moments_of([x], basis, torch.float64).gaussian()
    c = reference(x, "dense" if basis == "lowrank" else basis)
    whole = {"dense": lambda: c, "diagonal": lambda: np.diag(c), "isotropic": lambda: c * np.eye(24)}
    if basis in SPECTRAL:  # test_spectral.py has their covariances in pixels
        spectral, variances = BASES[basis].products((2, 3, 4)).fitted(torch.from_numpy(c), 200, torch.float64)
        whole[basis] = lambda: spectral.matrix(variances).numpy()
    expected = {**whole, "lowrank": whole["dense"]}[basis]()
    assert error(prior.covariance(), expected) < 1e-10
    assert error(prior.mean, x.mean(0)) < 1e-10
    assert (prior.count, prior.basis.name, prior.value_range) == (200, basis, (x.min().item(), x.max().item()))


def test_dense_variances_are_the_spectrum_largest_first() -> None:
    x = images(200, dtype=torch.float64)
    variances = moments_of([x], products=torch.float64).gaussian().variances
    assert error(variances, np.linalg.eigvalsh(reference(x, "dense"))[::-1].copy()) < 1e-12
    assert (variances.diff() <= 0).all()


def test_rank_is_exact() -> None:
    """Constant pixels and too few images leave variances that are zero, not rounding."""
    x = images(60)
    x[:, 0], x[:, 1, 0] = -1.0, 0.1
    assert (moments_of([x]).gaussian().variances == 0).sum() == 12 + 4
    assert (moments_of([images(10)]).gaussian().variances > 0).sum() == 9
    assert (moments_of([x], "diagonal").gaussian().variances == 0).sum() == 12 + 4


@pytest.mark.parametrize("basis", ["diagonal", "isotropic"])
def test_structured_sums_never_take_the_memory_of_a_matrix(basis: str) -> None:
    """D = 200,000: a D x D matrix would be 320 GB."""
    x = torch.randn(3, 200_000, generator=torch.Generator().manual_seed(0))
    prior = ls.Gaussian.fit(x, basis)
    y = prior.noised(1.0).sample(2, generator=torch.Generator().manual_seed(1))
    assert prior.frechet(prior.noised(1.0)) > 0
    assert prior.noised(1.0).log_prob(y).shape == prior.noised(1.0).log_prob(prior(y, 1.0)).shape == (2,)


def test_fit_reads_a_stream_once() -> None:
    x = images(300)
    prior = ls.Gaussian.fit(iter(x.split(70)), "dense")
    assert error(prior.variances, ls.Gaussian.fit(x.numpy(), "dense").variances) < 1e-6
    assert prior.dtype == prior.basis.tensors()["vectors"].dtype == torch.float32
    double = ls.Gaussian.fit(x, "dense", dtype=torch.float64)
    assert double.dtype == double.basis.tensors()["vectors"].dtype == torch.float64
    assert error(double.covariance(), reference(x, "dense")) < 1e-10


def test_numpy_arrays_of_any_layout_are_read_and_not_changed() -> None:
    x = images(50).numpy()
    kept = x.copy()
    backwards = np.asfortranarray(x[::-1])
    x.flags.writeable = False
    assert error(ls.Gaussian.fit([x, backwards]).mean.double(), kept.mean(0, dtype=np.float64)) < 1e-6
    assert (x == kept).all()


@pytest.mark.parametrize(
    ("n", "limit", "name", "level"),
    [
        (25, 2**30, "dense", "INFO"),
        (24, 2**30, "cosine+dense", "WARNING"),
        (60, 8 * 24**2 - 1, "cosine+dense", "WARNING"),
    ],
)
def test_auto_says_what_it_chose(
    n: int, limit: int, name: str, level: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sums, "DENSE_LIMIT", limit)
    with caplog.at_level(logging.INFO, "latestart"):
        prior = ls.Gaussian.fit(images(n))
    assert prior.basis.name == name
    assert error(prior.variances.sum(), np.trace(reference(images(n), "dense"))) < 1e-6
    assert [(record.levelname, repr(name) in record.message) for record in caplog.records] == [(level, True)]


@pytest.mark.parametrize(("shape", "name"), [((3, 4, 2), "cosine+dense"), ((24,), "lowrank")])
def test_auto_turns_dense_sums_of_few_images_into_those_of_a_structure(shape, name) -> None:
    x = images(15, shape).double()
    auto, direct = (ls.Gaussian.fit(x, basis=basis, dtype=torch.float64) for basis in ("auto", name))
    assert auto.basis.name == name
    np.testing.assert_allclose(auto.covariance(), direct.covariance(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [400, 40])
def test_a_rank_is_for_what_auto_may_choose(n: int, caplog: pytest.LogCaptureFixture) -> None:
    """Of the dense basis, which has none, the log says that it is not used; "cosine+dense" has it."""
    x = images(n, (1, 8, 8))
    auto = ls.Gaussian.fit(x, rank=10)
    said = [record.message for record in caplog.records if "rank=10 is not used" in record.message]
    if n > 64:
        vectors = ls.Gaussian.fit(x, "dense").basis.tensors()["vectors"]
        assert torch.equal(auto.basis.tensors()["vectors"], vectors) and len(said) == 1
    else:
        direct = ls.Gaussian.fit(x, "cosine+dense", 10)
        assert auto.basis.tensors()["vectors"].shape == (10, 10) and not said
        assert error(auto.covariance(), direct.covariance()) < 1e-5


@pytest.mark.parametrize("rank", [-3, 0, 65, 400])
@pytest.mark.parametrize("n", [500, 40])
def test_auto_refuses_a_rank_that_nothing_has(rank: int, n: int) -> None:
    for fit in (ls.Gaussian.fit, lambda x, rank: ls.Mixture.fit(x, labels=torch.arange(len(x)) % 2, rank=rank)):
        with pytest.raises(ValueError, match=rf"rank from 1 to 64, .* received rank={rank}"):
            fit(images(n, (1, 8, 8)), rank=rank)


@pytest.mark.parametrize("basis", [*BASES, "auto"])
@every_dtype
def test_images_that_are_all_the_same_have_no_variance(basis: str, products: torch.dtype, tolerance: float) -> None:
    """Exactly none, in their sums, of shards too; and a prior of them is refused."""
    same = torch.full((50, 3, 8, 8), 0.1, dtype=torch.float64)
    shards = [moments_of([part], basis, products) for part in same.split([1, 30, 19])]
    for shard in shards[1:]:
        shards[0].merge(shard)
    assert (shards[0].gaussian().variances == 0).all()
    with pytest.raises(ValueError, match="all 50 images are the same: they have no variance"):
        ls.Gaussian.fit(same.split(20), basis, dtype=products)
    same[7, 1, 2, 3] += 10 * tolerance
    assert ls.Gaussian.fit(same, basis, dtype=products).variances.max() > 0


@pytest.mark.parametrize("basis", ["diagonal", "dense", "lowrank"])
def test_values_that_never_vary_have_no_variance(basis: str) -> None:
    """Fifty tenths add up to five and a rounding; beside values that vary they are told apart from it."""
    x = images(50, dtype=torch.float64)
    x[:, 0] = 0.1
    prior = ls.Gaussian.fit(x, basis, dtype=torch.float64)
    drawn = prior.sample(5, torch.Generator().manual_seed(0))[:, 0]
    assert (drawn - 0.1).abs().max() < 1e-14
    if basis == "diagonal":
        assert (prior.variances[:12] == 0).all() and (prior.variances[12:] > 0).all()


def test_features_of_a_sampler_that_has_collapsed_are_at_a_distance() -> None:
    """All the same, they are a point: `|m - m'|^2 + tr C`."""
    points, spread = ls.Gaussian.fit(torch.ones(30, 4).double(), "dense"), ls.Gaussian.fit(images(90, (4,)), "dense")
    expected = (spread.mean - 1).double().square().sum() + spread.variances.sum()
    assert points.frechet(spread) == pytest.approx(expected.item(), rel=1e-6)


@every_basis
def test_an_interrupted_fit_continues(basis: str, tmp_path) -> None:
    """Saved between two batches and continued, the sums are the very same bits."""
    x = images(120)
    whole, begun = moments_of([x[:50], x[50:]], basis), moments_of([x[:50]], basis)
    begun.save(tmp_path / "moments.safetensors")
    continued = ls.Moments.load(tmp_path / "moments.safetensors")
    continued.update(x[50:])
    assert torch.equal(continued.covariance(), whole.covariance())
    assert (continued.count, continued.updates, continued.value_range) == (120, 2, whole.value_range)


def test_empty_sums_survive_saving(tmp_path) -> None:
    ls.Moments((3,), "diagonal").save(tmp_path / "moments.safetensors")
    loaded = ls.Moments.load(tmp_path / "moments.safetensors")
    loaded.update(images(9, (3,)))
    assert torch.equal(loaded.covariance(), moments_of([images(9, (3,))], "diagonal").covariance())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"second": torch.full((3,), math.nan)}, "second .* not finite"),
        ({"second": torch.ones(4)}, r"second has the shape \(4,\), expected \(3,\)"),
        ({"first": torch.ones(2)}, r"first has the shape \(2,\)"),
        ({"products": "int8"}, "received torch.int8"),
        ({"products": "nothing"}, "nothing"),
        ({"basis": "wavelet"}, "unknown basis"),
    ],
)
def test_unsound_files_are_refused(change: dict, message: str, tmp_path) -> None:
    tensors = {"shift": torch.zeros(3), "first": torch.zeros(3), "second": torch.ones(3)}
    metadata = {"shape": [3], "basis": "diagonal", "rank": None, "products": "float32", "count": 2, "updates": 1}
    target = tensors if set(change) <= set(tensors) else metadata
    target.update(change)
    save_tensors(tmp_path / "moments.safetensors", "moments", tensors, {**metadata, "value_range": [0, 1]})
    with pytest.raises(ValueError, match=message):
        ls.Moments.load(tmp_path / "moments.safetensors")


def spoiled(value: float) -> Tensor:
    x = images(20)
    x[3, 0, 0, :2] = value
    return x


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (spoiled(math.nan), "2 of the 480 values in batch 1 are NaN or infinite"),
        (spoiled(-math.inf), "2 of the 480 values in batch 1 are NaN or infinite"),
        (spoiled(1e18), "batch 1 has values .* too large to multiply in torch.float32"),
        (images(5, (2, 4, 3)), r"batch 1 has images of the shape \(2, 4, 3\), expected \(2, 3, 4\)"),
        (images(5).to(torch.uint8), r"shape \(5, 2, 3, 4\): expected pictures of 1 or 3 channels"),
        (images(5).numpy().astype(np.int32), "bytes .* or floating-point images, received torch.int32"),
        ([images(5), spoiled(math.nan)], "NaN or infinite"),
        ([[1.0, 2.0]], r"images of the shape \(2,\), expected \(2, 3, 4\)"),
        (["here.png"], "here.png"),
        (torch.tensor(1.0), r"received torch.float32 of shape \(\)"),
    ],
)
@every_basis
def test_a_refused_batch_leaves_the_sums_unchanged(basis: str, batch, message: str) -> None:
    moments = moments_of([images(30)], basis)
    before = {name: getattr(moments, name) for name in ("first", "second", "shift")}
    before = {name: tensor.clone() for name, tensor in before.items()}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        moments.update(batch)
    assert all(torch.equal(getattr(moments, name), tensor) for name, tensor in before.items())
    assert (moments.count, moments.updates) == (30, 1)
    moments.update(images(5))
    assert moments.count == 35


def test_a_refused_first_batch_leaves_them_empty() -> None:
    moments = ls.Moments((2, 3, 4))
    with pytest.raises(ValueError, match="in batch 0"):
        moments.update(spoiled(math.nan))
    assert moments.count == 0
    assert moments.value_range is None
    moments.update(images(20))
    assert torch.equal(moments.covariance(), moments_of([images(20)]).covariance())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="unknown basis 'kronecker': expected one of 'dense', 'diagonal', 'isotropic'"):
        ls.Moments((3,), "kronecker")
    with pytest.raises(ValueError, match="'dense' has no rank, received rank=5"):
        ls.Moments((3,), "dense", rank=5)
    with pytest.raises(ValueError, match=r"shape of one image.* received \(0,\)"):
        ls.Moments((0,))
    with pytest.raises(ValueError, match=r"received torch.float16"):
        ls.Moments((3,), products=torch.float16)
    with pytest.raises(ValueError, match="at least two images for a covariance, received 1"):
        ls.Gaussian.fit(images(1))
    with pytest.raises(ValueError, match="at least two images for a covariance, received 0"):
        ls.Moments((3,)).gaussian()
    with pytest.raises(ValueError, match="at least one image"):
        ls.Moments((3,)).mean()
    with pytest.raises(ValueError, match=r"at least one batch .* received none"):
        ls.Gaussian.fit([])
    with pytest.raises(ValueError, match=r"item 1 has \(5,\), those before it \(3,\)"):
        ls.Gaussian.fit([images(4, (3,)), images(4, (5,))])
    with pytest.raises(ValueError, match="cannot merge sums"):
        ls.Moments((3,)).merge(ls.Moments((3,), "diagonal"))
