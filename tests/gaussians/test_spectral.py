"""Spectral bases against the structured part of the sample covariance, which each of them must keep."""

import itertools
import math

import numpy as np
import pytest
import scipy.fft
import torch
from torch import Tensor

import latestart as ls
from latestart.gaussians import transforms
from latestart.gaussians.basis import Dense
from latestart.gaussians.cosine_dense import IMAGES
from latestart.gaussians.structures import BASES
from latestart.gaussians.transforms import CosineTransform, FourierTransform, low_first

SPECTRAL = ["channel", "fourier", "cosine", "cosine+dense"]
SHAPES = [(1, 1, 1), (3, 1, 1), (1, 5, 4), (3, 4, 5), (2, 4, 4), (2, 3, 3), (6,), (2, 7), (2, 2, 3, 4)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def images(n: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Correlated images, nowhere stationary, whose variances span two decades."""
    g, d = torch.Generator().manual_seed(seed), math.prod(shape)
    mixing = torch.randn(d, d, generator=g, dtype=torch.float64) * torch.logspace(-1, 1, d, dtype=torch.float64) / d
    return (torch.randn(n, d, generator=g, dtype=torch.float64) @ mixing + 1).reshape(n, *shape)


def fit(x: Tensor, basis: str, rank: int | None = None) -> ls.Gaussian:
    return ls.Gaussian.fit(ls.as_images(x, shape=x.shape[1:]), basis, rank, dtype=torch.float64)


def channelled(x: Tensor) -> np.ndarray:
    return (x if x.ndim > 2 else x.unsqueeze(1)).numpy()


def sample_covariance(x: np.ndarray) -> np.ndarray:
    return np.atleast_2d(np.cov(x.reshape(len(x), -1), rowvar=False))


def assert_near(actual: Tensor | np.ndarray, expected: Tensor | np.ndarray, tolerance: float = 1e-10) -> None:
    np.testing.assert_allclose(np.asarray(actual), np.asarray(expected), rtol=tolerance, atol=tolerance)


def by_frequency(x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The sample covariance between cosines (scipy's), `(C, N, C, N)`, and the cosine images `(N, N)` as rows."""
    a = channelled(x)
    c, axes = a.shape[1], tuple(range(2, a.ndim))
    grid = a.shape[2:]
    n = math.prod(grid)
    covariance = sample_covariance(scipy.fft.dctn(a, axes=axes, norm="ortho")).reshape(c, n, c, n)
    rows = scipy.fft.idctn(np.eye(n).reshape(n, *grid), axes=tuple(range(1, len(grid) + 1)), norm="ortho")
    return covariance, rows.reshape(n, n)


def in_pixels(covariance: np.ndarray, rows: np.ndarray) -> np.ndarray:
    c, n = covariance.shape[:2]
    return np.einsum("cfdg,fp,gq->cpdq", covariance, rows, rows).reshape(c * n, c * n)


@every_shape
def test_fourier_is_the_average_over_all_cyclic_shifts(shape: tuple[int, ...]) -> None:
    x = images(40, shape)
    a = channelled(x)
    axes = tuple(range(2, a.ndim))
    shifts = list(itertools.product(*(range(size) for size in a.shape[2:])))
    average = sum(sample_covariance(np.roll(a, shift, axes)) for shift in shifts) / len(shifts)
    assert_near(fit(x, "fourier").covariance(), average)


@every_shape
def test_cosine_is_the_block_diagonal_part_between_cosines(shape: tuple[int, ...]) -> None:
    x = images(40, shape)
    covariance, rows = by_frequency(x)
    blocks = covariance * np.eye(len(rows))[:, None, :]
    assert_near(fit(x, "cosine").covariance(), in_pixels(blocks, rows))


@every_shape
def test_channel_is_the_average_block_over_positions(shape: tuple[int, ...]) -> None:
    x = images(40, shape)
    a = channelled(x)
    c, n = a.shape[1], math.prod(a.shape[2:])
    block = np.einsum("cpdp->cd", sample_covariance(a).reshape(c, n, c, n)) / n
    assert_near(fit(x, "channel").covariance(), np.kron(block, np.eye(n)))


@pytest.mark.parametrize(("shape", "rank"), [((3, 4, 5), 14), ((1, 5, 4), 7), ((2, 2, 3, 4), 11), ((6,), 3)])
def test_cosine_dense_keeps_all_that_the_lowest_frequencies_share(shape: tuple[int, ...], rank: int) -> None:
    x = images(60, shape)
    covariance, rows = by_frequency(x)
    low = np.zeros(len(rows))
    low[low_first(channelled(x).shape[2:])[: rank // len(covariance)].numpy()] = 1
    kept = np.maximum(np.eye(len(rows)), np.outer(low, low))
    assert_near(fit(x, "cosine+dense", rank).covariance(), in_pixels(covariance * kept[:, None, :], rows))


@every_shape
def test_cosine_dense_stands_between_cosine_and_dense(shape: tuple[int, ...]) -> None:
    """All directions: dense. Fewer than channels: cosine."""
    x = images(70, shape)
    assert_near(fit(x, "cosine+dense", math.prod(shape)).covariance(), fit(x, "dense").covariance())
    if (channels := channelled(x).shape[1]) > 1:
        assert_near(fit(x, "cosine+dense", channels - 1).covariance(), fit(x, "cosine").covariance())


@pytest.mark.parametrize("shape", [(3, 5, 4), (2, 6), (1, 4, 4)])
def test_of_its_own_rank_it_takes_what_the_images_support(shape: tuple[int, ...]) -> None:
    """No more than one dense direction for so many images, however many passed while it was summed."""
    x, channels = images(6 * IMAGES, shape), shape[0]
    prior = fit(x, "cosine+dense")
    assert prior.basis.tensors()["vectors"].shape[0] == 6 // channels * channels
    assert_near(prior.covariance(), fit(x, "cosine+dense", 6).covariance())
    assert fit(x[:2], "cosine+dense").basis.tensors()["vectors"].numel() == 0


@every_shape
@pytest.mark.parametrize("basis", SPECTRAL)
def test_total_variance_is_kept_and_directions_are_counted(basis: str, shape: tuple[int, ...]) -> None:
    x = images(30, shape)
    prior = fit(x, basis)
    assert prior.basis.multiplicity.sum() == math.prod(shape)
    trace = np.trace(sample_covariance(x.numpy()))
    assert (prior.basis.multiplicity @ prior.variances).item() == pytest.approx(trace, rel=1e-12)


@pytest.mark.parametrize("basis", SPECTRAL)
def test_it_is_the_nearest_of_its_kind(basis: str) -> None:
    """`KL(dense || model)` has no slope in any direction of the model's variances, and rises on both sides."""
    x = images(200, (2, 3, 4))
    dense, prior = fit(x, "dense"), fit(x, basis)
    g = torch.Generator().manual_seed(1)
    direction = torch.randn(prior.variances.shape, generator=g, dtype=torch.float64)

    def divergence(step: float) -> float:
        return dense.kl(ls.Gaussian(prior.mean, prior.basis, prior.variances * (step * direction).exp()))

    best, up, down = divergence(0.0), divergence(1e-3), divergence(-1e-3)
    assert up > best < down
    assert abs(up - down) < 1e-2 * (up + down - 2 * best)


@pytest.mark.parametrize("n", [16, 15])
def test_fourier_recovers_the_spectrum_of_a_stationary_process(n: int) -> None:
    """A periodic autoregression `x_k = a x_(k-1) + e_k` has the spectrum `1 / |1 - a exp(-2 pi i f / n)|^2`."""
    a, g = 0.8, torch.Generator().manual_seed(0)
    operator = torch.eye(n, dtype=torch.float64) - a * torch.eye(n, dtype=torch.float64).roll(1, 0)
    x = torch.linalg.solve(operator, torch.randn(n, 20_000, generator=g, dtype=torch.float64)).T
    spectrum = 1 / np.abs(1 - a * np.exp(-2j * np.pi * np.arange(n // 2 + 1) / n)) ** 2
    assert_near(
        fit(x.reshape(-1, 1, n), "fourier").variances / spectrum, np.ones(n // 2 + 1), 5 * math.sqrt(2 / 20_000)
    )


def test_cosine_has_no_seam_where_fourier_has_one() -> None:
    """A ramp-like process, far from periodic: opposite edges are strangers, and only Fourier thinks them neighbours."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 1, 32, generator=g, dtype=torch.float64).cumsum(-1) / 6
    dense = fit(x, "dense").noised(0.1)
    assert dense.kl(fit(x, "cosine").noised(0.1)) < 0.6 * dense.kl(fit(x, "fourier").noised(0.1))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 31, 64])
@pytest.mark.parametrize("limit", [0, 10**6])
def test_cosines_by_matrix_and_by_fourier_are_scipys(size: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transforms, "MATRIX", limit)
    x = torch.randn(2, 3, size, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    transform = CosineTransform(tuple(x.shape[1:]))
    coefficients = transform.forward(x)
    assert_near(coefficients, scipy.fft.dctn(x.numpy(), axes=(2, 3), norm="ortho").reshape(2, 3, -1), 1e-13)
    assert_near(transform.inverse(coefficients), x, 1e-13)


@every_shape
def test_fourier_keeps_one_of_each_pair(shape: tuple[int, ...]) -> None:
    x = images(3, shape)
    transform = FourierTransform(shape)
    coefficients = transform.forward(x)
    a = channelled(x)
    full = np.fft.fftn(a, axes=tuple(range(2, a.ndim)), norm="ortho").reshape(3, transform.channels, -1)
    assert_near((coefficients.abs() ** 2) @ transform.multiplicity, (np.abs(full) ** 2).sum(-1), 1e-12)
    assert_near(transform.inverse(coefficients), x, 1e-13)
    pairs = {min(f, tuple(-i % n for i, n in zip(f, transform.grid))) for f in np.ndindex(*transform.grid)}
    assert transform.modes == len(pairs)


def test_low_frequencies_come_first_on_an_oblong_grid() -> None:
    assert low_first((2, 4)).tolist() == [0, 1, 2, 4, 5, 6, 3, 7]  # by (2 i)^2 + j^2 over 4


@pytest.mark.parametrize("basis", SPECTRAL)
@pytest.mark.parametrize("products", [torch.float32, torch.float64])
def test_sums_merge_and_continue(basis: str, products: torch.dtype, tmp_path) -> None:
    """Parts of unlike means, one of them through a file, add up to the whole."""
    x = images(90, (3, 6, 5))
    x[60:] += 3
    whole = ls.Moments((3, 6, 5), basis, products=products)
    whole.update(x)
    parts = [ls.Moments((3, 6, 5), basis, products=products) for _ in range(2)]
    parts[0].update(x[:20])
    parts[1].update(x[20:70])
    parts[1].save(tmp_path / "moments")
    continued = ls.Moments.load(tmp_path / "moments")
    continued.update(x[70:])
    parts[0].merge(continued)
    scale = whole.covariance().abs().max()
    tolerance = 1e-12 if products == torch.float64 else 1e-6
    assert ((parts[0].covariance() - whole.covariance()).abs().max() / scale).item() < tolerance
    assert_near(parts[0].gaussian().covariance(), fit(x, basis).covariance(), 10 * tolerance * scale.item())


@pytest.mark.parametrize("basis", SPECTRAL)
def test_constant_and_few_images_leave_exact_zeros(basis: str) -> None:
    for value, n in ((0.3, 5), (0.1, 50)):
        constant = ls.Moments((3, 4, 4), basis, products=torch.float64)
        constant.update(torch.full((n, 3, 4, 4), value, dtype=torch.float64))
        assert (constant.gaussian().variances == 0).all()
    if basis != "channel":
        two = fit(images(2, (3, 4, 4)), basis)
        assert (two.variances > 0).sum() == len(two.variances) // 3  # each block of two images has rank one


def test_images_of_one_channel_share_bases_of_one_kind() -> None:
    """So their divergences are sums, and one channel's mean variance is diagonal everywhere."""
    first, second = images(50, (1, 6, 5)), images(50, (1, 6, 5), seed=1)
    for basis in ("fourier", "cosine"):
        p, q = fit(first, basis), fit(second, basis)
        assert p.basis.same(q.basis)
        assert p.basis.translate(p.variances, q.basis) is p.variances
    flat = fit(first, "channel")
    for basis in BASES:
        other = fit(second, basis).basis
        assert (flat.basis.translate(flat.variances, other) == flat.variances).all()
    assert fit(images(50, (2, 6, 5)), "channel").basis.translate(torch.ones(2), other) is None


@pytest.mark.parametrize("basis", SPECTRAL)
def test_half_precision_priors_compute_in_single(basis: str) -> None:
    x = images(60, (2, 4, 4))
    prior = fit(x, basis)
    half = prior.to(dtype=torch.bfloat16)
    pushed = half.push(x.to(torch.bfloat16))
    assert pushed.dtype == torch.bfloat16
    assert_near(pushed.float(), prior.push(x), 0.08)


@pytest.mark.parametrize("basis", SPECTRAL)
def test_large_images_take_no_more_than_their_blocks(basis: str) -> None:
    """D = 196,608: a D x D matrix would be 309 GB."""
    shape = (3, 256, 256)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    prior = ls.Gaussian.fit(x, basis)
    assert sum(tensor.numel() for tensor in prior.basis.tensors().values()) <= 3.1 * prior.basis.dim
    y = prior.noised(1.0).sample(1, generator=torch.Generator().manual_seed(1))
    expected = (prior.basis.multiplicity @ (prior.variances + 1)).item()
    assert (y - prior.mean).square().sum().item() == pytest.approx(expected, rel=0.05)
    assert prior.noised(1.0).log_prob(prior(y, 1.0)).isfinite().all()


LATENT = (4, 64, 64)


@pytest.fixture(scope="module")
def latents() -> Tensor:
    """Smooth fields whose four channels depend on each other and differ in scale, as a VAE's do."""
    g = torch.Generator().manual_seed(0)
    coarse = torch.nn.functional.interpolate(torch.randn(40, 4, 8, 8, generator=g), scale_factor=8, mode="bilinear")
    mixing = torch.randn(4, 4, generator=g) * torch.tensor([4.0, 2.0, 1.0, 0.5])
    return torch.einsum("cd,bdhw->bchw", mixing, coarse + 0.3 * torch.randn(40, *LATENT, generator=g)) + 0.7


@pytest.mark.parametrize("basis", [*SPECTRAL, "lowrank", "auto"])
def test_latents(basis: str, latents: Tensor, tmp_path) -> None:
    """D = 16,384, for which no matrix is built: the mean, all of the variance, and the identities between methods."""
    prior = ls.Gaussian.fit(latents.split(16), basis, 8 if basis == "lowrank" else None)
    assert prior.basis.name == {"auto": "cosine+dense"}.get(basis, basis)
    trace = latents.double().flatten(1).var(0).sum().item()
    assert (prior.basis.multiplicity @ prior.variances).item() == pytest.approx(trace, rel=1e-5)
    assert_near(prior.mean, latents.mean(0), 1e-5)
    noised, sigma = prior.noised(0.5), 0.5
    z = torch.randn(2, *LATENT, generator=torch.Generator().manual_seed(1))
    y = noised.push(z)
    white = noised.basis.scale(y - noised.mean, 1 / noised.variances.sqrt())
    assert_near(white, z, 1e-3)  # C^(-1/2) takes back what C^(1/2) has done
    volume = noised.basis.multiplicity @ (2 * math.pi * noised.variances).log()
    expected = -0.5 * (z.double().square().flatten(1).sum(1) + volume)
    np.testing.assert_allclose(noised.log_prob(y), expected, rtol=1e-5)
    assert_near(prior.denoise(y, sigma), y + sigma**2 * prior.score(y, sigma), 1e-4)
    assert_near(prior.denoise(latents[:1], 1e-3), prior.flow(latents[:1], 1e-3, 0.0), 1e-2)
    prior.save(tmp_path / "prior.safetensors")
    loaded = ls.load_prior(tmp_path / "prior.safetensors")
    assert torch.equal(loaded.push(z), prior.push(z)) and loaded.shape == LATENT


def test_fourier_at_a_thousand_pixels_a_side() -> None:
    """D = 3,145,728: two images differ in one direction, so each frequency has one variance, |difference|^2 / 2."""
    x = torch.randn(2, 3, 1024, 1024, generator=torch.Generator().manual_seed(0))
    prior = ls.Gaussian.fit(x, "fourier")
    assert prior.basis.tensors()["rotation"].numel() < 3.1 * prior.basis.dim
    variances = prior.variances.unflatten(0, (3, -1))
    assert (variances[1:] == 0).all() or variances[1:].max() < 1e-6 * variances[0].max()
    difference = torch.fft.rfft2(x[0].double() - x[1].double(), norm="ortho").abs().square().sum(0) / 2
    assert variances[0].max().item() == pytest.approx(difference.max().item(), rel=1e-5)
    trace = (x[0].double() - x[1].double()).square().sum().item() / 2
    assert (prior.basis.multiplicity @ prior.variances).item() == pytest.approx(trace, rel=1e-6)
    y = prior.mean + (x[:1] - x[1:])
    assert_near(prior.denoise(y, 1e-2), y, 0.05)  # what the two images differ in is left as it is


def test_bad_arguments() -> None:
    for basis in ("fourier", "cosine", "channel"):
        with pytest.raises(ValueError, match=f"{basis!r} has no rank, received rank=5"):
            ls.Moments((3, 4, 4), basis, rank=5)
    for rank in (0, 49, -1):
        with pytest.raises(ValueError, match=rf"rank from 1 to 48, .* received rank={rank}"):
            ls.Moments((3, 4, 4), "cosine+dense", rank=rank)
    with pytest.raises(ValueError, match=r"more images than the 12 dense directions .* received 12"):
        fit(images(12, (3, 4, 4)), "cosine+dense", 12)
    sizes = {"fourier": (2, 3, 3, 10), "cosine": (3, 3, 16), "channel": (3, 3)}
    for basis, size in sizes.items():
        kind = BASES[basis]
        assert kind.from_tensors((3, 4, 4), {"rotation": torch.zeros(size)}).dim == 48
        with pytest.raises(ValueError, match=rf"rotation of a {basis} basis .* received \(2, 2\)"):
            kind.from_tensors((3, 4, 4), {"rotation": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"vectors of a cosine\+dense basis .* shape \(3, 3\), received \(5, 4\)"):
        BASES["cosine+dense"].from_tensors((3, 4, 4), {"vectors": torch.zeros(5, 4), "rotation": torch.zeros(3, 3, 15)})


@pytest.mark.parametrize("name", ["fourier", "cosine", "cosine+dense"])
def test_divergences_of_two_fits_take_blocks_alone(name, monkeypatch):
    """Of two fits to different images, which rotate their channels differently, and without a D x D matrix."""
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(3, 3, generator=g, dtype=torch.float64)
    first = torch.randn(200, 3, 4, 4, generator=g, dtype=torch.float64)
    second = torch.einsum("cd,bdhw->bchw", mixing, torch.randn(200, 3, 4, 4, generator=g, dtype=torch.float64))
    rank = {"rank": 12} if name == "cosine+dense" else {}
    a, b = (ls.Gaussian.fit(x, basis=name, dtype=torch.float64, **rank) for x in (first, second))
    dense = [ls.Gaussian(p.mean, *_dense(p)) for p in (a, b)]
    expected = (dense[0].kl(dense[1]), dense[0].frechet(dense[1]))

    def never(self, values):
        raise AssertionError("a D x D matrix was built")

    monkeypatch.setattr(type(a.basis), "matrix", never)
    assert (a.kl(b), a.frechet(b)) == pytest.approx(expected, rel=1e-9)


def _dense(prior):
    values, vectors = torch.linalg.eigh(prior.covariance())
    return Dense(prior.shape, vectors), values.clamp(min=0)
