"""Gaussians in every basis against a dense float64 twin, and the identities that tie their methods together."""

import math
import tempfile
from collections.abc import Callable
from math import prod
from pathlib import Path

import numpy as np
import pytest
import scipy.fft
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import latestart as ls
from latestart.files import save_tensors
from latestart.gaussians.basis import Dense, Diagonal, Isotropic
from latestart.gaussians.cosine_dense import CosineDense
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.spectral import Channel, Cosine, Fourier
from latestart.gaussians.structures import BASES

Case = tuple[ls.Gaussian, np.ndarray]
BUILDERS: dict[str, Callable[[tuple[int, ...], torch.Generator], Case]] = {}


def randn(*shape: int, g: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=g, dtype=torch.float64)


def variances(n: int, g: torch.Generator) -> Tensor:
    return torch.logspace(-2, 0.6, n, dtype=torch.float64)[torch.randperm(n, generator=g)]


def builder(name: str) -> Callable[[Callable[..., Case]], Callable[..., Case]]:
    def register(build: Callable[..., Case]) -> Callable[..., Case]:
        BUILDERS[name] = build
        return build

    return register


@builder("dense")
def dense(shape: tuple[int, ...], g: torch.Generator) -> Case:
    d = prod(shape)
    vectors, values = torch.linalg.qr(randn(d, d, g=g))[0], variances(d, g)
    return ls.Gaussian(randn(*shape, g=g), Dense(shape, vectors), values), (vectors * values @ vectors.T).numpy()


@builder("diagonal")
def diagonal(shape: tuple[int, ...], g: torch.Generator) -> Case:
    values = variances(prod(shape), g)
    return ls.Gaussian(randn(*shape, g=g), Diagonal(shape), values), np.diag(values.numpy())


@builder("isotropic")
def isotropic(shape: tuple[int, ...], g: torch.Generator) -> Case:
    values = variances(1, g)
    return ls.Gaussian(randn(*shape, g=g), Isotropic(shape), values), values.item() * np.eye(prod(shape))


def channels_and_grid(shape: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    return (shape[0], shape[1:]) if len(shape) > 1 else (1, shape)


def rotations(count: int, size: int, g: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """Random orthogonal or unitary matrices `(size, size, count)`."""
    return torch.linalg.qr(torch.randn(count, size, size, generator=g, dtype=dtype))[0].movedim(0, -1)


def cosine_rows(grid: tuple[int, ...]) -> np.ndarray:
    """Each row one cosine image of one channel, flattened, by scipy."""
    delta = np.eye(prod(grid)).reshape(-1, *grid)
    return scipy.fft.idctn(delta, axes=tuple(range(1, delta.ndim)), norm="ortho").reshape(len(delta), -1)


def assembled(values: Tensor, rotation: Tensor, waves: np.ndarray) -> np.ndarray:
    """`sum_(j, f) values[j, f] u u^H`, with `u[c, n] = rotation[c, j, f] waves[f, n]`."""
    u = np.einsum("cjf,fn->jfcn", rotation.numpy(), waves).reshape(values.numel(), len(rotation) * waves.shape[1])
    return (u * values.numpy().reshape(-1, 1)).T @ u.conj()


@builder("channel")
def channel(shape: tuple[int, ...], g: torch.Generator) -> Case:
    c, grid = channels_and_grid(shape)
    rotation, values = rotations(1, c, g)[..., 0], variances(c, g)
    twin = np.kron((rotation * values @ rotation.T).numpy(), np.eye(prod(grid)))
    return ls.Gaussian(randn(*shape, g=g), Channel(shape, rotation), values), twin


@builder("cosine")
def cosine(shape: tuple[int, ...], g: torch.Generator) -> Case:
    c, grid = channels_and_grid(shape)
    rotation, values = rotations(prod(grid), c, g), variances(prod(shape), g)
    twin = assembled(values, rotation, cosine_rows(grid))
    return ls.Gaussian(randn(*shape, g=g), Cosine(shape, rotation), values), twin


@builder("fourier")
def fourier(shape: tuple[int, ...], g: torch.Generator) -> Case:
    """Of the frequencies in numpy's order, the first of each pair with a last index up to the middle."""
    c, grid = channels_and_grid(shape)
    kept: list[tuple[int, ...]] = []
    for f in np.ndindex(*grid):
        mirror = tuple(-i % n for i, n in zip(f, grid, strict=True))
        if f[-1] <= grid[-1] // 2 and mirror not in kept:
            kept.append(f)
    own = torch.tensor([f == tuple(-i % n for i, n in zip(f, grid, strict=True)) for f in kept])
    rotation = rotations(len(kept), c, g, torch.complex128)
    rotation[..., own] = rotations(int(own.sum()), c, g).to(torch.complex128)
    phases = (np.array(kept) / grid) @ np.stack([axis.ravel() for axis in np.indices(grid)])
    waves = np.exp(2j * np.pi * phases) / math.sqrt(prod(grid))
    values = variances(c * len(kept), g)
    both = torch.where(own, 1.0, 2.0)
    twin = assembled(values.unflatten(0, (c, -1)) * both, rotation, waves).real
    basis = Fourier(shape, torch.stack([rotation.real, rotation.imag]))
    return ls.Gaussian(randn(*shape, g=g), basis, values), twin


@builder("cosine+dense")
def cosine_dense(shape: tuple[int, ...], g: torch.Generator) -> Case:
    """Half of the frequencies of all channels in a dense basis of their own."""
    c, grid = channels_and_grid(shape)
    waves, m = cosine_rows(grid), (prod(grid) + 1) // 2
    heights = [sum((i / n) ** 2 for i, n in zip(f, grid, strict=True)) for f in np.ndindex(*grid)]
    waves = waves[np.argsort(np.round(heights, 9), kind="stable")]
    vectors, rotation = rotations(1, c * m, g)[..., 0], rotations(len(waves) - m, c, g)
    values = variances(prod(shape), g)
    low = np.kron(np.eye(c), waves[:m])
    inner = (vectors * values[: c * m] @ vectors.T).numpy()
    twin = low.T @ inner @ low + assembled(values[c * m :], rotation, waves[m:])
    return ls.Gaussian(randn(*shape, g=g), CosineDense(shape, vectors, rotation), values), twin


@builder("lowrank")
def lowrank(shape: tuple[int, ...], g: torch.Generator) -> Case:
    """Two directions and a rest, which is empty for images of two values or fewer."""
    d = prod(shape)
    vectors, rank = torch.linalg.qr(randn(d, d, g=g))[0], min(2, d)
    values = variances(min(rank + 1, d), g)
    each = values[torch.arange(d).clamp(max=rank)] if d > rank else values
    return ls.Gaussian(randn(*shape, g=g), LowRank(shape, vectors[:, :rank]), values), (
        vectors * each @ vectors.T
    ).numpy()


SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple).filter(lambda shape: prod(shape) <= 48)
every_basis = pytest.mark.parametrize("name", BUILDERS)
several = settings(max_examples=12, deadline=None)


def case(name: str, shape: tuple[int, ...] = (2, 3), seed: int = 0) -> tuple[ls.Gaussian, np.ndarray, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    return *BUILDERS[name](shape, g), g


def root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values)) @ vectors.T


def flat(images: Tensor) -> np.ndarray:
    return images.detach().flatten(1).numpy()


def assert_near(actual: Tensor | np.ndarray, expected: np.ndarray, tolerance: float = 1e-8) -> None:
    actual = flat(actual) if isinstance(actual, Tensor) and actual.ndim > 1 else np.asarray(actual)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def distance(prior: ls.Gaussian, c: np.ndarray, other: ls.Gaussian, d: np.ndarray) -> float:
    """The Frechet distance by the roots of dense covariances."""
    gap = flat((prior.mean - other.mean)[None])[0]
    return gap @ gap + np.trace(c) + np.trace(d) - 2 * np.linalg.norm(root(c) @ root(d), "nuc")


def divergence(prior: ls.Gaussian, c: np.ndarray, other: ls.Gaussian, d: np.ndarray) -> float:
    """`KL(prior || other)` by torch.distributions."""
    pair = [(prior, c), (other, d)]
    twins = [torch.distributions.MultivariateNormal(p.mean.flatten(), torch.from_numpy(m)) for p, m in pair]
    return torch.distributions.kl_divergence(*twins).item()


def saved(prior: ls.Gaussian) -> ls.Gaussian:
    """The prior, saved and loaded."""
    with tempfile.TemporaryDirectory() as folder:
        prior.save(Path(folder) / "prior.safetensors")
        return ls.load_prior(Path(folder) / "prior.safetensors")


def test_every_basis_is_tested() -> None:
    assert set(BUILDERS) == set(BASES)


@every_basis
@several
@given(shape=SHAPES, seed=st.integers(0, 2**31), sigma=st.floats(0.05, 30), other=st.floats(0.05, 30))
def test_equals_its_dense_twin(name: str, shape: tuple[int, ...], seed: int, sigma: float, other: float) -> None:
    """Every method, one level for all or one for each image, against the same formula on D x D matrices.

    The divergences are those from another Gaussian with a basis of the same kind, and from one that is noised: the
    first has other directions, the second the same. A file gives back the same numbers.
    """
    prior, c, g = case(name, shape, seed)
    y, levels = randn(4, *shape, g=g), torch.tensor([sigma, other, 1.0, 0.3], dtype=torch.float64)
    m, eye = flat(prior.mean[None])[0], np.eye(prior.basis.dim)
    residual, noised = flat(y) - m, c + sigma**2 * eye
    assert_near(prior.covariance(), c)
    assert_near(prior.noised(sigma).covariance(), noised)
    assert_near(prior.denoise(y, sigma), m + residual @ np.linalg.inv(noised) @ c)
    assert_near(prior.score(y, sigma), -residual @ np.linalg.inv(noised))
    assert_near(prior.push(y), m + flat(y) @ root(c))
    flowed = residual @ root(np.linalg.inv(noised)) @ root(c + other**2 * eye)
    assert_near(prior.flow(y, sigma, other), m + flowed)
    twin = torch.distributions.MultivariateNormal(prior.mean.flatten(), torch.from_numpy(noised))
    assert_near(prior.noised(sigma).log_prob(y), twin.log_prob(y.flatten(1)).numpy())
    for method in (
        prior.denoise,
        prior.score,
        lambda y, s: prior.flow(y, s, other),
        lambda y, s: prior.flow(y, other, s),
    ):
        one_by_one = torch.cat([method(y[i : i + 1], float(levels[i])) for i in range(len(y))])
        assert_near(method(y, levels), flat(one_by_one))
    turned, d, _ = case(name, shape, seed + 1)
    for second, e in ((turned, d), (prior.noised(sigma), noised)):
        assert prior.kl(second) == pytest.approx(divergence(prior, c, second, e), rel=1e-8, abs=1e-8)
        assert prior.frechet(second) == pytest.approx(distance(prior, c, second, e), rel=1e-8, abs=1e-8)
    loaded = saved(prior)
    assert loaded.shape == shape and loaded.kl(prior) == loaded.frechet(prior) == 0.0
    assert_near(loaded.push(y), flat(prior.push(y)), 1e-12)
    assert_near(loaded(y, levels), flat(prior(y, levels)), 1e-12)


@every_basis
def test_denoiser_is_tweedies_formula(name: str) -> None:
    prior, _, g = case(name)
    y, sigma = randn(3, *prior.shape, g=g).requires_grad_(), 0.7
    (score,) = torch.autograd.grad(prior.noised(sigma).log_prob(y).sum(), y)
    assert_near(prior(y, sigma), flat(y + sigma**2 * score), 1e-10)
    assert_near(prior.score(y, sigma), flat(score), 1e-10)


@every_basis
def test_pushed_noise_has_the_moments_of_noised_data(name: str) -> None:
    """Exactly: white noise whose own moments are 0 and I is pushed to samples whose moments are m and C + sigma^2 I."""
    prior, c, g = case(name)
    d = prior.basis.dim
    white = torch.linalg.qr(randn(2 * d, d, g=g))[0]
    white = torch.cat([white, -white]) * math.sqrt((4 * d - 1) / 2)
    samples = flat(prior.noised(1.5).push(white.reshape(-1, *prior.shape)))
    assert_near(samples.mean(0), flat(prior.mean[None])[0], 1e-10)
    assert_near(np.cov(samples, rowvar=False), c + 1.5**2 * np.eye(d), 1e-10)


@every_basis
def test_flow_composes_and_returns(name: str) -> None:
    prior, _, g = case(name)
    y = randn(3, *prior.shape, g=g)
    assert_near(prior.flow(prior.flow(y, 5.0, 0.8), 0.8, 0.1), flat(prior.flow(y, 5.0, 0.1)), 1e-10)
    assert_near(prior.flow(prior.flow(y, 5.0, 0.1), 0.1, 5.0), flat(y), 1e-10)
    assert_near(prior.flow(y, 0.0, 0.0), flat(y), 1e-10)


@every_basis
def test_push_is_the_flow_from_infinite_noise(name: str) -> None:
    prior, _, g = case(name)
    z = randn(3, *prior.shape, g=g)
    assert_near(prior.noised(0.5).push(z), flat(prior.flow(1e7 * z, 1e7, 0.5)), 1e-6)


@every_basis
def test_flow_solves_its_own_ode(name: str) -> None:
    """`dy / dsigma = -sigma score(y, sigma)`, by central differences in the level."""
    prior, _, g = case(name)
    y, sigma, step = randn(3, *prior.shape, g=g), 0.9, 1e-5
    slope = (prior.flow(y, sigma, sigma + step) - prior.flow(y, sigma, sigma - step)) / (2 * step)
    assert_near(slope, flat(-sigma * prior.score(y, sigma)), 1e-8)


@every_basis
def test_samples_follow_their_generator_and_their_moments(name: str) -> None:
    prior, c, _ = case(name)
    first, again = (prior.sample(40_000, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert_near(flat(first).mean(0), flat(prior.mean[None])[0], 0.05)
    assert_near(np.cov(flat(first), rowvar=False), c, 0.06)


@pytest.mark.parametrize("first", BUILDERS)
@pytest.mark.parametrize("second", BUILDERS)
def test_divergences_between_all_pairs_of_bases(first: str, second: str) -> None:
    """KL against torch.distributions, Frechet against the form with scipy's matrix root."""
    a, c1, _ = case(first, seed=1)
    b, c2, _ = case(second, seed=2)
    gap = flat((a.mean - b.mean)[None])[0]
    p, q = (torch.distributions.MultivariateNormal(x.mean.flatten(), x.covariance()) for x in (a, b))
    assert_near(np.array(a.kl(b)), torch.distributions.kl_divergence(p, q).numpy(), 1e-9)
    cross = scipy.linalg.sqrtm(root(c1) @ c2 @ root(c1)).real
    assert_near(np.array(a.frechet(b)), gap @ gap + np.trace(c1 + c2 - 2 * cross), 1e-9)
    assert_near(np.array(a.frechet(b)), np.array(b.frechet(a)), 1e-9)


@every_basis
def test_divergences_in_one_basis_need_no_dense_matrix(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prior, c, _ = case(name)
    other = ls.Gaussian(prior.mean + 1, prior.basis, prior.variances.flip(0) + 0.2)
    d2 = other.covariance().numpy()
    cross = scipy.linalg.sqrtm(root(c) @ d2 @ root(c)).real
    with monkeypatch.context() as patched:
        patched.setattr(type(prior.basis), "matrix", lambda *_: pytest.fail("built a D x D matrix"))
        distance, divergence = prior.frechet(other), prior.kl(other)
    assert_near(np.array(distance), prior.basis.dim + np.trace(c + d2 - 2 * cross), 1e-9)
    p, q = (torch.distributions.MultivariateNormal(x.mean.flatten(), x.covariance()) for x in (prior, other))
    assert_near(np.array(divergence), torch.distributions.kl_divergence(p, q).numpy(), 1e-9)


def test_kl_is_the_mean_log_ratio() -> None:
    a, _, g = case("dense", seed=5)
    b = case("diagonal", seed=6)[0]
    y = a.sample(20_000, generator=g)
    ratio = a.log_prob(y) - b.log_prob(y)
    assert abs(ratio.mean().item() - a.kl(b)) < 4 * ratio.std().item() / math.sqrt(len(y))


def test_a_gaussian_is_at_no_distance_from_itself() -> None:
    a = case("dense")[0]
    rebuilt = ls.Gaussian(a.mean.clone(), Dense(a.shape, a.basis.tensors()["vectors"].clone()), a.variances)
    assert a.frechet(rebuilt) == a.kl(rebuilt) == 0.0


def test_frechet_of_singular_covariances_is_accurate() -> None:
    """Two lines at an angle phi in 40 dimensions, variance 2 along each: `4 - 4 cos(phi)`."""
    phi, d = 0.3, 40
    vectors = torch.eye(d, dtype=torch.float64)
    turned = vectors.clone()
    turned[:2, :2] = torch.matrix_exp(torch.tensor([[0.0, -phi], [phi, 0.0]], dtype=torch.float64))
    line = 2 * vectors[0]
    a, b = (ls.Gaussian(torch.zeros(d, dtype=torch.float64), Dense((d,), q), line) for q in (vectors, turned))
    assert a.frechet(b) == pytest.approx(4.0 * (1 - math.cos(phi)), abs=1e-12)


def test_zero_variances() -> None:
    """The data's span is respected, the density exists with noise only, and the message says so."""
    prior = ls.Gaussian(torch.ones(3, dtype=torch.float64), Diagonal((3,)), torch.tensor([4.0, 0.0, 1.0]))
    y = torch.full((1, 3), 3.0, dtype=torch.float64)
    assert_near(prior(y, 0.0), np.array([[3.0, 1.0, 3.0]]))
    assert_near(prior(y, 2.0), np.array([[2.0, 1.0, 1.4]]))
    assert_near(prior.sample(5)[:, 1], np.ones(5))
    for undefined in (prior.log_prob, lambda y: prior.score(y, 0.0), lambda y: prior.flow(y, 0.0, 1.0)):
        with pytest.raises(ValueError, match=r"1 of 3 variances are zero"):
            undefined(y)
    with pytest.raises(ValueError, match=r"1 of 3 variances are zero"):
        prior.kl(prior)
    expected = torch.distributions.Normal(1.0, torch.tensor([5.0, 1.0, 2.0]).double().sqrt()).log_prob(y).sum(1)
    assert_near(prior.noised(1.0).log_prob(y), expected.numpy())


@every_basis
def test_float32_images_keep_their_dtype_and_six_digits(name: str) -> None:
    prior, _, g = case(name)
    y, single = randn(3, *prior.shape, g=g), prior.to(dtype=torch.float32)
    assert single.variances.dtype == torch.float64
    for call in (lambda p, y: p(y, 0.4), lambda p, y: p.push(y), lambda p, y: p.flow(y, 3.0, 0.2)):
        assert call(single, y.float()).dtype == torch.float32
        assert call(single, y.half()).dtype == torch.float16
        assert_near(call(single, y.float()).double(), flat(call(prior, y)), 3e-6)


@every_basis
def test_saving_and_loading(name: str, tmp_path) -> None:
    prior, _, g = case(name)
    prior = ls.Gaussian(prior.mean, prior.basis, prior.variances, count=17, value_range=(-1.0, 1.0))
    prior.save(tmp_path / "prior.safetensors")
    loaded = ls.load_prior(tmp_path / "prior.safetensors")
    assert (loaded.count, loaded.value_range, loaded.basis.name, loaded.dtype) == (17, (-1.0, 1.0), name, torch.float64)
    y = randn(3, *prior.shape, g=g)
    assert loaded.kl(prior) == loaded.frechet(prior) == 0.0
    assert_near(loaded(y, 0.5), flat(prior(y, 0.5)), 1e-14)


def test_interrupted_writing_leaves_the_old_file(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, (prior, _, _) = tmp_path / "prior.safetensors", case("diagonal")
    prior.save(path)

    def interrupted(_tensors, temporary, _header) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("latestart.files.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prior.noised(1.0).save(path)
    assert torch.equal(ls.load_prior(path).variances, prior.variances)
    assert list(tmp_path.iterdir()) == [path]


def stored(**changes) -> tuple[dict[str, Tensor], dict]:
    tensors = {"mean": torch.zeros(2, 2), "variances": torch.ones(4), "vectors": torch.eye(4)}
    metadata = {"basis": changes.pop("basis", "dense"), "count": 9, "value_range": None}
    return {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}, metadata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variances": torch.tensor([1.0, math.nan, 1.0, 1.0])}, "variances .* not finite"),
        ({"mean": torch.full((2, 2), math.inf)}, "mean .* not finite"),
        ({"variances": torch.ones(3)}, "4 variances, received"),
        ({"variances": -torch.ones(4)}, "not negative"),
        ({"vectors": torch.eye(5)}, r"\(4, 4\), received \(5, 5\)"),
        ({"vectors": None}, "received \\[\\]"),
        ({"mean": None}, "expected also \\['mean'\\]"),
        ({"basis": "diagonal"}, "received \\['vectors'\\]"),
        ({"basis": "wavelet"}, "unknown basis 'wavelet': expected one of 'dense', 'diagonal'"),
        ({"basis": None}, "unknown basis None"),
    ],
)
def test_unsound_files_are_refused(changes: dict, message: str, tmp_path) -> None:
    tensors, metadata = stored(**changes)
    save_tensors(tmp_path / "prior.safetensors", "gaussian", tensors, metadata)
    with pytest.raises(ValueError, match=message):
        ls.load_prior(tmp_path / "prior.safetensors")


def test_damaged_foreign_and_pickled_files_are_refused(tmp_path) -> None:
    path = tmp_path / "prior.safetensors"
    case("dense")[0].save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged"):
        ls.load_prior(path)
    save_tensors(path, "features", {"mean": torch.zeros(2)}, {})
    with pytest.raises(ValueError, match=r"holds a features .* expected a gaussian"):
        ls.load_prior(path)
    torch.save({"mean": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="pickle"):
        ls.load_prior(path)
    with pytest.raises(FileNotFoundError, match="none"):
        ls.load_prior(tmp_path / "absent")


def test_bad_arguments() -> None:
    prior = case("dense")[0]
    y = torch.zeros(2, 2, 3)
    with pytest.raises(ValueError, match=r"\(B, 2, 3\), received torch.float32 \(2, 3, 2\)"):
        prior(y.mT, 1.0)
    with pytest.raises(ValueError, match=r"received torch.int64"):
        prior(y.long(), 1.0)
    for sigma in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="finite and not negative"):
            prior(y, sigma)
    with pytest.raises(ValueError, match=r"a number or \(2,\), received the shape \(3,\)"):
        prior(y, torch.ones(3))
    with pytest.raises(ValueError, match="sigma that is a number"):
        prior.noised(torch.ones(2))
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(6,\)"):
        prior.kl(case("dense", (6,))[0])
    with pytest.raises(ValueError, match=r"mean has the shape \(2,\)"):
        ls.Gaussian(torch.zeros(2), Diagonal((3,)), torch.ones(3))
    with pytest.raises(ValueError, match=r"received torch.int64"):
        ls.Gaussian(torch.zeros(2).long(), Diagonal((2,)), torch.ones(2))


def test_a_divergence_that_cannot_be_represented_is_never_nothing() -> None:
    def isotropic(variance: float) -> ls.Gaussian:
        return ls.Gaussian(torch.zeros(2).double(), Isotropic((2,)), torch.tensor([variance], dtype=torch.float64))

    one, tiny, huge = isotropic(1.0), isotropic(1e-310), isotropic(1e308)
    assert one.kl(tiny) == math.inf
    assert tiny.kl(one) == pytest.approx(310 * math.log(10) - 1)
    assert one.kl(isotropic(1e-300)) == pytest.approx(1e300)
    assert huge.frechet(one) == pytest.approx(2e308, rel=1e-3) or huge.frechet(one) == math.inf
    spoilt = isotropic(1.0)
    spoilt.variances = torch.tensor([math.nan], dtype=torch.float64)
    for figure in (one.kl, one.frechet):
        with pytest.raises(FloatingPointError, match="came out as NaN"):
            figure(spoilt)
