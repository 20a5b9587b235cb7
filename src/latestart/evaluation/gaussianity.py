"""Gaussianity: whether samples are drawn from a Gaussian, by tests that fail in different ways.

The samples are brought to rows `z` `(n, k)` that are standard normal if the hypothesis is true, and five statistics
are taken of them, each written per sample, so that it estimates the same thing at every n:

    skewness      mean over pairs of (z_i . z_j)^3                                      (Mardia 1970)
    kurtosis      mean of |z_i|^4 / (k (k + 2)); 1 for a Gaussian, two-sided             (Mardia 1970)
    henze-zirkler L2 distance of the characteristic functions, weighted by a Gaussian   (Henze and Zirkler 1990)
                    mean over pairs of exp(-b^2 |z_i - z_j|^2 / 2) + (1 + 2 b^2)^(-k/2)
                    - 2 (1 + b^2)^(-k/2) mean of exp(-b^2 |z_i|^2 / (2 (1 + b^2))),
                    b = ((2 k + 1) n / 4)^(1 / (k + 4)) / sqrt(2)
    energy        2 mean of e(z_i) - E|Z - Z'| - mean over pairs of |z_i - z_j|         (Szekely and Rizzo 2005)
                    e(z) = E|z - Z| = sqrt(2) G((k+1)/2) / G(k/2) 1F1(-1/2; k/2; -|z|^2/2), Z ~ N(0, I)
    projection    the largest Anderson-Darling statistic of the k axes and of random directions w,
                    A^2 / n,   A^2 = -n - mean of (2 i - 1) (log F(u_(i)) + log F(-u_(n+1-i))),   u = z w

There are two hypotheses, and the way to `z` makes the law of all statistics under each exactly known:

    own      some Gaussian, whatever its mean and covariance. With centred samples `X = U S V^T`, z are the first k
             columns of `sqrt(n) U`: the scores of the k leading principal directions, whitened. Under the hypothesis
             `X = Z C^(1/2)` with Z centred white noise, and O X has the law of X for every rotation O of the samples
             that keeps their mean, so U is uniform over all such frames, **whatever C is**, even where n < D.
    prior    this very Gaussian. `z = V^T C^(-1/2) (y - m)`, with V its k leading eigenvectors, is N(0, I) exactly.

So p-values come from replicates of white noise, treated as the samples are (for "own" whitened by their own
covariance), and none of the asymptotic laws is used, which fail when n is not far above k^2:

    p = (1 + number of replicates that are at least as far out) / (1 + replicates)

is never too small, at any n, k and D. The worst of many directions needs no further correction, because the worst of
as many is what the replicates hold; the five p-values are then corrected by Holm's method. Only the leading directions
are looked at because noise hides the data in the others first, and because every test loses its power as k grows.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from scipy.special import gammaln, hyp1f1
from torch import Tensor

from latestart.checks import seeded, whole_number
from latestart.gaussians.gaussian import Gaussian
from latestart.records import Record

__all__ = [
    "REPLICATES", "TESTS", "Gaussianity", "Test", "anderson_darling", "energy", "gaussianity", "henze_zirkler",
    "holm", "leading_directions", "own_scores", "p_value", "prior_scores", "statistics",
]  # fmt: skip

TESTS = ("skewness", "kurtosis", "henze-zirkler", "energy", "projection")
TWO_SIDED = ("kurtosis",)
RANK = 8  # leading directions that are tested, at most
PER_DIRECTION = 5  # samples for each direction, at least
PROJECTIONS, REPLICATES = 100, 499


@dataclass(frozen=True, repr=False, kw_only=True)
class Test(Record):
    """One test of the samples.

    Attributes:
        name: one of `TESTS`.
        statistic: its value, per sample.
        expected: its mean under the hypothesis, at the same n.
        deviations: how many standard deviations (under the hypothesis) the value lies above that.
        p: the share of replicates at least as far out.
        adjusted: the same, corrected for the number of tests by Holm's method.
    """

    name: str
    statistic: float
    expected: float
    deviations: float
    p: float
    adjusted: float

    __test__ = False  # not one of pytest's

    @property
    def effect(self) -> float:
        """The statistic above its mean under the hypothesis: comparable between sets of any size."""
        return self.statistic - self.expected


@dataclass(frozen=True, repr=False, kw_only=True)
class Gaussianity(Record):
    """All tests of one set of n samples in k directions, against "own" (any Gaussian) or "prior" (the given one)."""

    hypothesis: str
    n: int
    rank: int
    replicates: int
    tests: tuple[Test, ...]

    def __getitem__(self, name: str) -> Test:
        """A test by its name."""
        return next(test for test in self.tests if test.name == name)

    @property
    def p(self) -> float:
        """The least of the corrected p-values: below 0.05, the hypothesis is rejected at that level."""
        return min(test.adjusted for test in self.tests)

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return {**asdict(self), "tests": {t.name: asdict(t) | {"effect": t.effect} for t in self.tests}, "p": self.p}


def gaussianity(
    samples: Tensor,
    prior: Gaussian | None = None,
    rank: int | None = None,
    *,
    projections: int = PROJECTIONS,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Gaussianity:
    """Test whether samples are Gaussian.

    Args:
        samples: `(n, *shape)`, independent of each other. At a noise level, the scaled samples `y = x_t / alpha_t`.
        prior: the Gaussian that they should come from, at their own level: `prior.noised(sigma)`. None asks whether
            they come from any.
        rank: leading directions that are tested (of the samples without a prior, else of the prior); by default as
            many as 8, the dimensions, and a fifth of n allow.
        projections: random directions, besides the axes, among which the worst is looked for.
        replicates: of the statistics under the hypothesis; no p-value is below 1 / (replicates + 1). They are kept:
            the next set of the same size and rank costs little.
        seed: of the directions and the replicates.

    Raises:
        ValueError: values that are not finite, fewer than 10 samples or 2 to each direction, fewer directions of
            variation than `rank`, a prior that is not a `Gaussian`, or of another shape, or without noise.
    """
    rows, rank = _checked(samples, prior, rank)
    z = own_scores(rows, rank) if prior is None else prior_scores(rows.reshape(samples.shape), prior, rank)
    values = dict(zip(TESTS, statistics(z, _directions(rank, projections, seed))))
    null = _null(len(z), rank, prior is None, projections, whole_number("replicates", replicates), seed)
    p = [p_value(values[name], null[:, i], name in TWO_SIDED) for i, name in enumerate(TESTS)]
    mean, spread = null.mean(0).tolist(), null.std(0).tolist()
    tests = (
        Test(
            name=name,
            statistic=value,
            expected=mean[i],
            deviations=(value - mean[i]) / spread[i],
            p=p[i],
            adjusted=adjusted,
        )
        for i, ((name, value), adjusted) in enumerate(zip(values.items(), holm(p)))
    )
    hypothesis = "own" if prior is None else "prior"
    return Gaussianity(hypothesis=hypothesis, n=len(z), rank=rank, replicates=replicates, tests=tuple(tests))


def own_scores(rows: Tensor, rank: int) -> Tensor:
    """The whitened scores of samples `(n, D)` on their own leading principal directions, `(n, rank)`.

    Raises:
        ValueError: the samples vary in fewer directions.
    """
    u, s, vh = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    spanned = int((s > s[0] * len(rows) * torch.finfo(s.dtype).eps).sum()) if s[0] > 0 else 0
    if spanned < rank:
        raise ValueError(f"expected samples that vary in at least {rank} directions, received {spanned}")
    largest = vh[:rank].gather(1, vh[:rank].abs().argmax(1, keepdim=True))
    return math.sqrt(len(rows)) * u[:, :rank] * largest[:, 0].sign()  # the sign must not depend on U


def prior_scores(samples: Tensor, prior: Gaussian, rank: int) -> Tensor:
    """`V^T C^(-1/2) (y - m)` for samples `(n, *shape)` and the prior's leading eigenvectors V: `(n, rank)`, float64.

    The whitening is exact for every structure; V need only be orthonormal, so an iterative solver's error is harmless.
    """
    precise = prior.to("cpu", torch.float64)
    whitened = precise.basis.scale(samples - precise.mean, precise.variances.rsqrt()).flatten(1)
    if rank == whitened.shape[1]:
        return whitened
    return whitened @ leading_directions(precise, rank)


def leading_directions(prior: Gaussian, rank: int) -> Tensor:
    """The eigenvectors of a Gaussian's largest variances, `(D, rank)`, by products with its covariance alone."""
    spread = prior.variances - prior.variances.min()  # the isotropic part changes no direction

    def product(v: np.ndarray) -> np.ndarray:
        row = torch.from_numpy(v.reshape(1, *prior.shape)).to(prior.mean)
        return prior.basis.scale(row, spread).numpy().ravel()

    dim = prior.mean.numel()
    start = np.random.default_rng(0).standard_normal(dim)
    if not spread.any():
        return torch.linalg.qr(torch.from_numpy(np.random.default_rng(0).standard_normal((dim, rank)))).Q
    operator = LinearOperator((dim, dim), matvec=product, dtype=np.float64)
    return torch.from_numpy(eigsh(operator, rank, v0=start)[1][:, ::-1].copy())


def statistics(z: Tensor, directions: Tensor) -> Iterator[float]:
    """The statistics of rows `z` `(n, k)`, float64, in the order of `TESTS`; `directions` `(k, P)` of unit length."""
    n, k = z.shape
    inner = z @ z.T
    squares = inner.diagonal()
    apart = (squares[:, None] + squares[None, :] - 2 * inner).clamp(min=0).fill_diagonal_(0)
    yield float(inner.pow(3).mean())
    yield float(squares.square().mean()) / (k * (k + 2))
    yield henze_zirkler(apart, squares, k)
    yield energy(apart, squares, k)
    yield float(anderson_darling(torch.cat([z, z @ directions], 1)).max()) / n


def henze_zirkler(apart: Tensor, squares: Tensor, k: int) -> float:
    """The Henze-Zirkler statistic per sample, from `|z_i - z_j|^2` `(n, n)` and `|z_i|^2` `(n,)`."""
    b2 = ((2 * k + 1) * len(squares) / 4) ** (2 / (k + 4)) / 2
    cross = (squares * (-b2 / (2 * (1 + b2)))).exp().mean()
    pairs = (apart * (-b2 / 2)).exp().mean()
    return float(pairs - 2 * (1 + b2) ** (-k / 2) * cross + (1 + 2 * b2) ** (-k / 2))


def energy(apart: Tensor, squares: Tensor, k: int) -> float:
    """The energy distance to N(0, I), from `|z_i - z_j|^2` `(n, n)` and `|z_i|^2` `(n,)`."""
    chi = math.exp(gammaln((k + 1) / 2) - gammaln(k / 2))  # E|Z| = sqrt(2) chi, E|Z - Z'| = 2 chi
    to_normal = math.sqrt(2) * chi * hyp1f1(-0.5, k / 2, -squares.numpy() / 2)
    return float(2 * to_normal.mean() - 2 * chi - apart.sqrt().mean())


def anderson_darling(u: Tensor) -> Tensor:
    """`A^2` of each column of `u` `(n, P)` against N(0, 1): `(P,)`."""
    n = len(u)
    u = u.sort(dim=0).values
    weights = 2 * torch.arange(1, n + 1, dtype=u.dtype) - 1
    logs = torch.special.log_ndtr(u) + torch.special.log_ndtr(-u.flip(0))
    return -n - weights @ logs / n


def p_value(value: float, null: Tensor, two_sided: bool = False) -> float:
    """The Monte Carlo p-value of a statistic against its replicates `(R,)`, never 0 (Davison and Hinkley 1997)."""
    above, below = ((1 + int(count.sum())) / (1 + len(null)) for count in (null >= value, null <= value))
    return min(1.0, 2 * min(above, below)) if two_sided else above


def holm(p: list[float]) -> list[float]:
    """Holm's corrected p-values: the chance of any false rejection stays below the level, however the tests depend."""
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        worst = max(worst, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = worst
    return adjusted


@lru_cache(maxsize=32)
def _null(n: int, k: int, own: bool, projections: int, replicates: int, seed: int) -> Tensor:
    """The statistics of white noise, treated as the samples are: `(replicates, len(TESTS))`."""
    generator = seeded(seed + 1)
    directions = _directions(k, projections, seed)
    rows = []
    for _ in range(replicates):
        z = torch.randn(n, k, generator=generator, dtype=torch.float64)
        rows.append(list(statistics(_frame(z) if own else z, directions)))
    return torch.tensor(rows, dtype=torch.float64)


def _frame(z: Tensor) -> Tensor:
    """White noise whitened by its own covariance (over n): a uniform frame, as in `own_scores`."""
    values, vectors = torch.linalg.eigh((z - z.mean(0)).T @ (z - z.mean(0)) / len(z))
    return (z - z.mean(0)) @ (vectors * values.rsqrt()) @ vectors.T


@lru_cache(maxsize=32)
def _directions(k: int, count: int, seed: int) -> Tensor:
    generator = seeded(seed)
    return torch.nn.functional.normalize(torch.randn(k, count, generator=generator, dtype=torch.float64), dim=0)


def _checked(samples: Tensor, prior: Gaussian | None, rank: int | None) -> tuple[Tensor, int]:
    """The samples as rows `(n, D)` in float64, and the number of directions."""
    if not isinstance(samples, Tensor):
        raise TypeError(f"expected a tensor of samples (n, *shape), received a {type(samples).__name__}")
    if samples.ndim < 2 or not samples.is_floating_point() or not samples.isfinite().all():
        raise ValueError(f"expected finite samples (n, *shape), received {samples.dtype} {tuple(samples.shape)}")
    rows = samples.detach().cpu().double().flatten(1)
    n, dim = rows.shape
    k = min(RANK, dim, max(1, n // PER_DIRECTION)) if rank is None else whole_number("rank", rank)
    if k > dim or n < max(10, 2 * k):
        raise ValueError(
            f"{k} directions need as many dimensions, and at least {max(10, 2 * k)} samples: received {n} samples of "
            f"{dim} dimensions"
        )
    if prior is not None:
        _check_prior(prior, tuple(samples.shape[1:]))
    return rows, k


def _check_prior(prior: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(prior, Gaussian):
        raise ValueError(f"expected a Gaussian to test against, received a {type(prior).__name__}")
    if tuple(prior.shape) != shape:
        raise ValueError(f"the samples have the shape {shape}, the prior {tuple(prior.shape)}")
    if not (prior.variances > 0).all():
        raise ValueError("the prior has directions without variance: test it at a noise level, prior.noised(sigma)")
