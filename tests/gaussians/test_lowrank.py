"""Low rank plus rest: what the sketch recovers exactly, how close it comes elsewhere, and its memory."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

import latestart as ls
from latestart.gaussians import lowrank
from latestart.gaussians.basis import Isotropic
from latestart.gaussians.lowrank import LowRank, Sketch, hartley

DOUBLE = torch.float64


def directions(d: int, r: int, seed: int) -> Tensor:
    return torch.linalg.qr(torch.randn(d, r, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE))[0]


def images(values: Tensor, n: int, d: int, seed: int = 0, mean: float = 0.5, dtype: torch.dtype = DOUBLE) -> Tensor:
    """Images `(n, d)` whose covariance is exactly `Q diag(values) Q^T`, for random directions Q `(d, len(values))`."""
    white = torch.randn(n, len(values), generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    white = torch.linalg.qr(white - white.mean(0))[0] * math.sqrt(n - 1)
    return (mean + white * values.sqrt() @ directions(d, len(values), seed + 1).T).to(dtype)


def decaying(d: int) -> Tensor:
    """Variances that fall as those of small photographs do: to a quarter from direction D / 10 to twice that."""
    i = torch.arange(1, d + 1, dtype=DOUBLE)
    return i**-0.7 * torch.exp(-10 * i / d)


def fitted(x: Tensor, rank: int | None = None, products: torch.dtype = DOUBLE, seed: int = 0) -> ls.Gaussian:
    return summed(x, rank, products, seed).gaussian()


def summed(x: Tensor, rank: int | None = None, products: torch.dtype = DOUBLE, seed: int = 0) -> ls.Moments:
    moments = ls.Moments(x.shape[1:], "lowrank", rank, products, seed)
    for batch in x.split(64):
        moments.update(batch)
    return moments


def covariance(x: Tensor) -> Tensor:
    return torch.from_numpy(np.cov(x.double().flatten(1).numpy(), rowvar=False))


def error(actual: Tensor, expected: Tensor) -> float:
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def trace(prior: ls.Gaussian) -> Tensor:
    return prior.basis.multiplicity @ prior.variances


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 30])
def test_the_hartley_transform_is_its_own_inverse_and_that_of_its_formula(size: int) -> None:
    i = torch.arange(size, dtype=DOUBLE)
    angles = 2 * math.pi * torch.outer(i, i) / size
    transform = hartley(torch.eye(size, dtype=DOUBLE), torch.arange(size))
    assert error(transform, (angles.cos() + angles.sin()) / math.sqrt(size)) < 1e-13
    assert error(transform @ transform, torch.eye(size, dtype=DOUBLE)) < 1e-13


def test_the_test_matrix_is_orthonormal_and_the_seeds() -> None:
    one, again, other = (Sketch((3, 7, 5), 11, seed).tested(torch.eye(105, dtype=DOUBLE)) for seed in (4, 4, 5))
    assert error(one.T @ one, torch.eye(22, dtype=DOUBLE)) < 1e-13
    assert torch.equal(one, again)
    assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize(("products", "tolerance"), [(DOUBLE, 1e-10), (torch.float32, 1e-5)])
def test_low_rank_data_is_recovered_exactly(products: torch.dtype, tolerance: float) -> None:
    """Six directions in 300: five kept and the sixth spread over the rest, seven asked for, and only six are there."""
    values = torch.tensor([9.0, 4.0, 1.0, 0.25, 0.04, 0.01], dtype=DOUBLE)
    x = images(values, 500, 300)
    five, seven = fitted(x, 5, products), fitted(x, 7, products)
    assert error(five.variances[:5], values[:5]) < tolerance
    assert five.variances[5].item() == pytest.approx(0.01 / 295, rel=1e3 * tolerance)
    if products == DOUBLE:
        assert seven.basis.vectors.shape == (300, 6)
        assert seven.variances[6] == 0.0
    assert error(seven.covariance(), covariance(x)) < tolerance


def test_a_full_rank_is_the_dense_gaussian() -> None:
    x = images(decaying(24), 90, 24).reshape(90, 2, 3, 4)
    prior, dense = fitted(x, 24), ls.Gaussian.fit(x, "dense", dtype=DOUBLE)
    y = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(2), dtype=DOUBLE)
    assert prior.basis.vectors.shape == (24, 24)
    assert error(prior.variances, dense.variances) < 1e-12
    assert error(prior(y, 0.1), dense(y, 0.1)) < 1e-10
    assert error(prior.push(y), dense.push(y)) < 1e-8
    assert error(prior.log_prob(y), dense.log_prob(y)) < 1e-9
    assert error(fitted(x).covariance(), dense.covariance()) < 1e-12


def test_fewer_images_than_directions() -> None:
    """The covariance of n images has the rank n - 1 and nothing beside it, whatever the default rank."""
    x = images(decaying(20), 40, 700)[:12]
    prior = fitted(x)
    assert prior.basis.vectors.shape == (700, 11)
    assert prior.variances[-1] == 0.0
    assert error(prior.covariance(), covariance(x)) < 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE])
@pytest.mark.parametrize(("n", "value"), [(9, 0.3), (50, 0.1)])
def test_equal_images_have_no_directions(n: int, value: float, dtype: torch.dtype) -> None:
    """Also where the mean of fifty tenths is not a tenth, by rounding."""
    prior = fitted(torch.full((n, 2, 5), value, dtype=dtype))
    assert prior.basis.vectors.shape == (10, 0)
    assert prior.variances.tolist() == [0.0]
    expected = torch.full((1, 2, 5), 2 + value)
    assert error(prior.noised(2.0).push(torch.ones(1, 2, 5)), expected) < 1e-6


@pytest.mark.parametrize("products", [DOUBLE, torch.float32])
def test_decaying_variances_are_captured(products: torch.dtype) -> None:
    """At a rank of a tenth of D, for any test matrix, in one pass; the trace is exact."""
    x, values = images(decaying(600), 900, 600, dtype=torch.float32), decaying(600)
    c, best = covariance(x), decaying(600)[:60].sum()
    for seed in range(4):
        prior = fitted(x, 60, products, seed)
        q, found = prior.basis.vectors.double(), prior.variances[:60]
        assert (q * (c @ q)).sum() / best > 0.99
        assert found.sum() / best == pytest.approx(1.0, abs=0.01)
        assert (found / values[:60] - 1).abs().max() < 0.08
        assert (found.diff() <= 0).all()
        assert error(q.T @ q, torch.eye(60, dtype=DOUBLE)) < (1e-12 if products == DOUBLE else 1e-6)
        assert trace(prior).item() == pytest.approx(c.trace().item(), rel=1e-10 if products == DOUBLE else 1e-6)


@pytest.mark.parametrize("power", [1.7, 2.2, 3.0])
def test_variances_are_corrected_for_what_the_sketch_misses(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.arange(1, 501, dtype=DOUBLE) ** -power
    x = images(values, 700, 500)
    assert (fitted(x, 50).variances[:50] / values[:50] - 1).abs().max() < 0.07
    monkeypatch.setattr(Sketch, "_corrected", lambda self, variances, *_: variances)
    assert (fitted(x, 50).variances[:50] / values[:50]).min() < 1 - (4 - power) * 0.05


def test_white_noise_is_not_corrected() -> None:
    """All that a sketch of it misses lies outside of the directions found."""
    prior = fitted(images(torch.full((200,), 0.7, dtype=DOUBLE), 400, 200), 20)
    assert error(prior.variances, torch.full((21,), 0.7, dtype=DOUBLE)) < 1e-10


def test_the_approximation_lies_below_the_covariance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncorrected, `C - C_nys` is positive, and it shrinks as the sketch widens."""
    x, left = images(decaying(200), 400, 200), []
    monkeypatch.setattr(Sketch, "_corrected", lambda self, variances, *_: variances)
    for oversampling in (1, 2, 3, 4):
        monkeypatch.setattr(lowrank, "OVERSAMPLING", oversampling)
        prior = fitted(x, 40)
        q = prior.basis.vectors
        below = covariance(x) - q * prior.variances[:40] @ q.T
        assert torch.linalg.eigvalsh(below).min() > -1e-12
        left.append(below.trace().item())
    assert left == sorted(left, reverse=True)


def test_variances_over_many_decades_keep_the_basis_orthonormal() -> None:
    values = torch.logspace(0, -11, 12, dtype=DOUBLE)
    prior = fitted(images(values, 300, 250), 12)
    assert error(prior.basis.vectors.T @ prior.basis.vectors, torch.eye(12, dtype=DOUBLE)) < 1e-10
    assert ((prior.variances[:10] / values[:10] - 1).abs() < 1e-4).all()


@pytest.mark.parametrize(("products", "tolerance"), [(DOUBLE, 1e-9), (torch.float32, 1e-5)])
def test_merged_shards_are_one_pass(products: torch.dtype, tolerance: float) -> None:
    """Each with an origin of its own; bright images beside dark ones."""
    x = images(decaying(300), 400, 300)
    x[:150] += 1.0
    whole = summed(x, 20, products)
    merged = summed(x[300:], 20, products)
    for part in (x[:150], x[150:300]):
        merged.merge(summed(part, 20, products))
    one, other = whole.gaussian(), merged.gaussian()
    assert error(other.variances, one.variances) < tolerance
    assert error(other.covariance(), one.covariance()) < tolerance
    assert error(merged.covariance(), whole.covariance()) < tolerance


def test_a_mean_of_ten_thousand() -> None:
    """Images of float32 around 1e4, summed in float32 from several origins, keep the digits that they have."""
    x = images(decaying(300) * 30, 400, 300, mean=1e4, dtype=torch.float32)
    merged = summed(x[:70], 20, torch.float32)
    merged.merge(summed(x[70:], 20, torch.float32))
    exact = fitted(x, 20).covariance()
    for moments in (summed(x, 20, torch.float32), merged):
        assert error(moments.gaussian().covariance(), exact) < 1e-5


def test_fitting_leaves_the_sums_as_they_are() -> None:
    x = images(decaying(50), 100, 50)
    moments = summed(x[:60], 5)
    kept = moments.second.clone()
    first = moments.gaussian()
    assert torch.equal(moments.second, kept)
    assert torch.equal(moments.gaussian().basis.vectors, first.basis.vectors)
    moments.update(x[60:])
    assert error(moments.gaussian().covariance(), fitted(x, 5).covariance()) < 1e-10
    structure = moments.structure
    again = ls.Gaussian(moments.mean(), *structure.fitted(moments.covariance(), moments.count, DOUBLE))
    assert error(again.covariance(), moments.gaussian().covariance()) < 1e-10


def test_small_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(decaying(90), 120, 90)
    whole = fitted(x, 8).covariance()
    monkeypatch.setattr(lowrank, "BLOCK", 100)
    monkeypatch.setattr(ls.gaussians.sums, "CHUNK_VALUES", 500)
    assert error(fitted(x, 8).covariance(), whole) < 1e-12


def test_energy_of_the_rest_does_not_cancel() -> None:
    """An image almost within the span: float32 energies would differ by rounding alone, 1e-7 of 1e6."""
    q, d = directions(400, 401, 3)[:, :30], 400
    outside = torch.randn(d, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    outside -= q @ (q.T @ outside)
    x = (1e3 * q[:, :1].T + 0.1 * outside).float()
    energy = LowRank((d,), q.float()).energies(x)[0, -1].item()
    assert energy == pytest.approx(0.01 * outside.square().sum().item(), rel=1e-2)


def pair(d: int, ranks: tuple[int, int]) -> list[ls.Gaussian]:
    priors = []
    for seed, rank in enumerate(ranks):
        values = torch.cat([decaying(rank) + 0.1 * seed, torch.tensor([0.02 + 0.01 * seed], dtype=DOUBLE)])
        basis = LowRank((d,), directions(d, rank, seed))
        priors.append(ls.Gaussian(torch.full((d,), float(seed), dtype=DOUBLE), basis, values))
    return priors


@pytest.mark.parametrize("ranks", [(4, 7), (7, 4), (6, 6)])
def test_divergences_are_taken_in_the_joint_span(ranks: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(40, ranks)
    twins = [ls.Gaussian(p.mean, *dense(p.covariance())) for p in (a, b)]
    expected = twins[0].kl(twins[1]), twins[0].frechet(twins[1])
    monkeypatch.setattr(LowRank, "matrix", lambda *_: pytest.fail("built a D x D matrix"))
    assert (a.kl(b), a.frechet(b)) == pytest.approx(expected, rel=1e-10)


def dense(c: Tensor) -> tuple[ls.gaussians.basis.Dense, Tensor]:
    values, vectors = torch.linalg.eigh(c)
    return ls.gaussians.basis.Dense((len(c),), vectors), values


def test_divergences_between_shared_directions() -> None:
    """The same span in another basis, and one within the other, where the joint span has fewer directions."""
    a, _ = pair(40, (6, 6))
    turn = directions(6, 6, 9)
    turned = ls.Gaussian(a.mean, LowRank((40,), a.basis.vectors @ turn), a.variances)
    fewer = ls.Gaussian(a.mean, LowRank((40,), a.basis.vectors[:, :3]), a.variances[[0, 1, 2, 6]])
    for other in (turned, fewer):
        expected = ls.Gaussian(a.mean, *dense(a.covariance())).frechet(ls.Gaussian(a.mean, *dense(other.covariance())))
        assert a.frechet(other) == pytest.approx(expected, rel=1e-9)
    isotropic = ls.Gaussian(a.mean, Isotropic((40,)), torch.tensor([0.5], dtype=DOUBLE))
    expected = (a.basis.multiplicity * (a.variances.sqrt() - math.sqrt(0.5)).square()).sum()
    assert a.frechet(isotropic) == pytest.approx(expected.item(), rel=1e-12)


def test_a_prior_of_large_images_is_saved_small(tmp_path) -> None:
    x = images(decaying(10), 30, 3 * 64 * 64, dtype=torch.float32).reshape(30, 3, 64, 64)
    prior = ls.Gaussian.fit(x - 1, "lowrank", rank=10)
    prior.save(tmp_path / "prior.safetensors")
    assert (tmp_path / "prior.safetensors").stat().st_size < 12 * 4 * 3 * 64 * 64
    assert ls.load_prior(tmp_path / "prior.safetensors").frechet(prior) == 0.0


def test_an_interrupted_fit_continues_with_its_seed_and_rank(tmp_path) -> None:
    x = images(decaying(50), 100, 50)
    whole, begun = summed(x, 7, seed=3), summed(x[:64], 7, seed=3)
    begun.save(tmp_path / "moments.safetensors")
    continued = ls.Moments.load(tmp_path / "moments.safetensors")
    continued.update(x[64:])
    assert torch.equal(continued.gaussian().basis.vectors, whole.gaussian().basis.vectors)


@pytest.mark.parametrize("rank", [0, -3, 25, 10_000])
def test_impossible_ranks_are_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=rf"shape \(2, 3, 4\) .* a rank from 1 to 24, .* received rank={rank}"):
        ls.Moments((2, 3, 4), "lowrank", rank)


def test_a_rank_that_the_images_do_not_have_is_refused() -> None:
    x = images(decaying(24), 30, 24)
    assert fitted(x[:11], 10).variances[10] == 0.0
    with pytest.raises(ValueError, match=r"rank 10 needs at least 11 images, received 10"):
        ls.Gaussian.fit(x[:10], "lowrank", rank=10)
    with pytest.raises(ValueError, match="at least two images for a covariance, received 1"):
        ls.Gaussian.fit(x[:1], "lowrank")
    with pytest.raises(ValueError, match="at least two images for a covariance, received 0"):
        ls.Moments((24,), "lowrank").gaussian()


def test_sketches_of_another_rank_or_seed_are_refused() -> None:
    moments = ls.Moments((24,), "lowrank", 5, seed=1)
    for other in (ls.Moments((24,), "lowrank", 6, seed=1), ls.Moments((24,), "lowrank", 5, seed=2)):
        with pytest.raises(ValueError, match="cannot merge sums"):
            moments.merge(other)


@pytest.mark.parametrize("vectors", [torch.eye(5), torch.zeros(6, 7), torch.zeros(6)])
def test_directions_of_another_size_are_refused(vectors: Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(6, r\) matrix with r of at most 6, received"):
        LowRank((2, 3), vectors)


MEMORY = """
import resource, torch, latestart as ls
torch.set_num_threads(1)
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
moments = ls.Moments((3, 8, 8), "lowrank", 4)
moments.update(torch.randn(20, 3, 8, 8)); moments.gaussian()
before = peak()
moments = ls.Moments((3, 96, 96), "lowrank", 128)
for seed in range(9):
    moments.update(torch.randn(64, 3, 96, 96))
    if seed == 4: middle = peak()
assert peak() <= middle + 2**24, (middle, peak())
moments.gaussian()
print((peak() - before) / 2**20)
"""


def test_memory_is_one_sketch_and_one_basis() -> None:
    """D = 27,648, rank 128: a sketch of 81 MiB, a basis of 14 MiB; batches and blocks beside them; no copies."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 81 + 14 + 60
