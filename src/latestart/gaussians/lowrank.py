"""Low rank plus rest: the leading directions of a covariance, and one variance for all others.

    C = Q diag(l) Q^T + l_rest (I - Q Q^T),      Q of shape (D, r),    l_rest = (trace - sum l) / (D - r)

`Q diag(values) Q^T x` costs two thin products, 4 D r operations, and a Gaussian takes the memory of r + 1 images.

It is fitted in one pass by a linear sketch: with a random test matrix `Omega` (D, k), k > r, the sums are

    Y = sum_b x_b (Omega^T x_b)^T = (n - 1) C Omega       and       sum_b |x_b|^2,

which add up over images and, since they are quadratic in x, move to another origin. The fixed-rank Nystrom
approximation (Tropp, Yurtsever, Udell and Cevher, "Fixed-rank approximation of a positive-semidefinite matrix from
streaming data", NeurIPS 2017) is the truncation to rank r of

    C_nys = (C Omega) (Omega^T C Omega)^+ (C Omega)^T  <=  C.

It is exact where C has no more than k directions. Elsewhere it lies below C, the most in the last directions kept. By
how much is known: for random Omega, in expectation and approximately,

    C_nys = C^2 (C + tau)^-1,      tau = trace(C - C_nys) / k

(Derezinski, Liang, Liao and Mahoney, "Precise expressions for random projections", NeurIPS 2020), and the trace of C is
known exactly. So where the sketch shows a variance l_nys the true one is `(l_nys + sqrt(l_nys^2 + 4 tau l_nys)) / 2`,
for a direction q that leans on the range of Omega no more than a random one, `|Omega^T q|^2 = k / D`. Within that range
nothing is missed, so the difference is added in proportion to `1 - |Omega^T q|^2`: white noise stays what it is.
On small photographs (CIFAR-10, r = 256), relative to the best r directions and their variances:

    k = 2 r   each variance from 0.80, corrected from 0.99 to 1.05;   0.998 of their total captured
    k = 3 r   each variance from 0.93, corrected from 0.99 to 1.02;   0.9997

The rest takes what the directions leave of the trace, so that the total variance is right.

Omega is k columns of `diag(signs) H`, random signs before the orthonormal Hartley transform `H` (the real form of
Fourier's: Re - Im). It works as a Gaussian matrix would, has orthonormal columns, is applied in D log D operations,
and is never stored.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.gaussians.basis import NARROW, Basis, Blocks, Products, require_rank

__all__ = ["LowRank", "Sketch", "hartley"]

RANK = 256  # directions where none are asked for
OVERSAMPLING = 2  # columns of the sketch for each direction
BLOCK = 2**20  # numbers worked on at once, so that nothing but the sketch and the basis grows with D


class LowRank(Basis):
    """`vectors` `(D, r)`, orthonormal, one variance each; then, if r < D, one variance for the other directions."""

    name = "lowrank"
    parts = ("vectors",)

    def __init__(self, shape: tuple[int, ...], vectors: Tensor) -> None:
        super().__init__(shape)
        if vectors.ndim != 2 or len(vectors) != self.dim or vectors.shape[1] > self.dim:
            raise ValueError(
                f"a lowrank basis for images of shape {self.shape} is a ({self.dim}, r) matrix with r of at most "
                f"{self.dim}, received {tuple(vectors.shape)}"
            )
        self.vectors = vectors
        self.rank = vectors.shape[1]

    @property
    def multiplicity(self) -> Tensor:
        rest = [float(self.dim - self.rank)] if self.rank < self.dim else []
        return torch.tensor([1.0] * self.rank + rest, dtype=torch.float64, device=self.vectors.device)

    def forward(self, x: Tensor) -> Tensor:
        """`Q^T x`, then x itself: `(B, r + D)`."""
        rows = x.flatten(1)
        return torch.cat([rows @ self.vectors.to(x.dtype), rows], 1)

    def inverse(self, c: Tensor) -> Tensor:
        """`Q c_(1..r) + c_(r+1..r+D)`: of coefficients weighted by `spread`."""
        return torch.addmm(c[:, self.rank :], c[:, : self.rank], self.vectors.to(c.dtype).T).unflatten(1, self.shape)

    def spread(self, values: Tensor) -> Tensor:
        """`l_k - l_rest` for the directions, and `l_rest` for x: the images' share in Q is counted once."""
        own, rest = self._split(values)
        return torch.cat([own - rest, rest.expand(*values.shape[:-1], self.dim)], -1)

    def energies(self, x: Tensor) -> Tensor:
        """Energies `(B, K)`; that of the rest comes from the residual, since a difference of energies cancels."""
        rows, q = x.flatten(1), self.vectors.to(x.dtype)
        components = rows @ q
        if self.rank == self.dim:
            return components.square()
        rest = torch.addmm(rows, components, q.T, alpha=-1)
        return torch.cat([components.square(), rest.square().sum(1, keepdim=True)], 1)

    def product(self, values: Tensor, other: Basis, others: Tensor) -> Blocks:
        """In the joint span of both sets of directions; elsewhere both are multiples of the identity."""
        if not isinstance(other, LowRank) or self.rank + other.rank >= self.dim:
            return super().product(values, other, others)
        span = torch.linalg.qr(torch.cat([self.vectors.double(), other.vectors.double()], 1))[0]
        rows = span.T.reshape(-1, *self.shape)
        inner = self.scale(rows, values).flatten(1) @ other.scale(rows, others).flatten(1).T
        outer = (values[-1] * others[-1]).reshape(1, 1, 1)
        return [(inner[None], values.new_ones(1)), (outer, values.new_full((1,), self.dim - len(rows)))]

    def _split(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """The variances of the directions `(..., r)` and of the rest `(..., 1)`, which is 0 if there is no rest."""
        own, rest = values[..., : self.rank], values[..., self.rank :]
        return own, rest if self.rank < self.dim else torch.zeros_like(own[..., :1])

    @classmethod
    def products(cls, shape: tuple[int, ...], rank: int | None = None, seed: int = 0) -> "Sketch":
        return Sketch(shape, rank, seed)


class Sketch(Products):
    """`x (Omega^T x)^T`, and in one more row `|x|^2`.

    Args:
        shape: of one image.
        rank: number of directions to be kept; None for 256, or as many as there can be if those are fewer.
        seed: of Omega.

    Raises:
        ValueError: a rank below 1 or above D.
    """

    def __init__(self, shape: tuple[int, ...], rank: int | None = None, seed: int = 0) -> None:
        super().__init__(LowRank, shape)
        require_rank(rank, self.shape)
        self.rank = rank
        self.columns = min(OVERSAMPLING * (rank or RANK), self.dim)
        self.size = (self.dim + 1, self.columns)
        generator = seeded(seed)
        self._signs = torch.randint(0, 2, (self.dim,), generator=generator, dtype=torch.int8) * 2 - 1
        self._chosen = torch.randperm(self.dim, generator=generator)[: self.columns]

    def accumulate(self, total: Tensor, x: Tensor, weight: float = 1.0) -> None:
        x = x.double() if self.dim < NARROW else x
        tested = self.tested(x)
        for rows in self._blocks():
            total[rows].add_(x[:, rows].T @ tested, alpha=weight)
        total[-1, 0].add_(x.square().sum(1).double().sum(), alpha=weight)

    def tested(self, x: Tensor) -> Tensor:
        """`x Omega` for rows x `(B, D)`: `(B, k)`."""
        signs, chosen = self._signs.to(x), self._chosen.to(x.device)
        return torch.cat([hartley(part * signs, chosen) for part in x.split(max(1, BLOCK // self.dim))])

    def fitted(self, covariance: Tensor, count: int, dtype: torch.dtype) -> tuple[LowRank, Tensor]:
        """Directions with their variances, the largest first, and the rest's.

        Directions whose variance is rounding alone are left out, and a rest that is becomes zero.

        Raises:
            ValueError: a rank was asked for that the covariance of `count` images does not have.
        """
        return self.fitted_about(covariance.new_zeros(self.dim), covariance * (count - 1), count, dtype)

    def fitted_about(self, offset: Tensor, total: Tensor, count: int, dtype: torch.dtype) -> tuple[LowRank, Tensor]:
        """As `fitted`, from sums about an origin from which the mean is `offset` away; they are not copied."""
        rank, along = self._rank(count), self.tested(offset.unsqueeze(0))

        def centred(rows: slice) -> Tensor:
            return (total[rows] - count * offset[rows].unsqueeze(1) * along) / (count - 1)

        core = (self.tested(total[:-1].T) - count * along.T * along) / (count - 1)
        trace = (total[-1, :1] - count * offset.square().sum()) / (count - 1)
        tolerance = max(self.dim * torch.finfo(torch.float64).eps, 4 * torch.finfo(dtype).eps)
        mixing, variances = self._nystrom(centred, (core + core.T) / 2, trace, count, tolerance)
        mixing, variances = mixing[:, :rank], variances[:rank]
        vectors = torch.empty(self.dim, len(variances), dtype=dtype, device=total.device)
        for rows in self._blocks():
            vectors[rows] = (centred(rows) @ mixing).to(dtype)
        self._orthonormalise(vectors)
        rest = trace - variances.sum()
        if count - 1 <= len(variances) or rest <= tolerance * trace:
            rest = torch.zeros_like(rest)
        others = self.dim - len(variances)
        return LowRank(self.shape, vectors), torch.cat([variances, rest / others] if others else [variances])

    def _nystrom(
        self, centred: Callable[[slice], Tensor], core: Tensor, trace: Tensor, count: int, tolerance: float
    ) -> tuple[Tensor, Tensor]:
        """`mixing` with `Y mixing` orthonormal, `(k, K)`, and the corrected variances `(K,)`, of `Y core^+ Y^T`.

        With `core = U S U^T` that is `B B^T` for `B = Y U S^(-1/2)`, whose variances are the eigenvalues of `B^T B`.
        """
        weights, mixing = torch.linalg.eigh(core)
        kept = (weights > tolerance * weights[-1]) & (torch.arange(len(weights), 0, -1).to(weights) < count)
        mixing = mixing[:, kept] / weights[kept].sqrt()
        variances, turns = torch.linalg.eigh(self._gram(lambda rows: centred(rows) @ mixing, mixing.shape[1]))
        kept = variances > tolerance * variances[-1:]
        variances, mixing = variances[kept], mixing @ turns[:, kept] / variances[kept].sqrt()
        within = (core @ mixing).square().sum(0)  # |Omega^T q|^2, since Omega^T Y = core
        variances = self._corrected(variances, within, (trace - variances.sum()).clamp(min=0.0))
        order = variances.argsort(descending=True)
        return mixing[:, order], variances[order]

    def _corrected(self, variances: Tensor, within: Tensor, missing: Tensor) -> Tensor:
        """Variances with what the sketch is expected to have missed of them; never more than is missing in all."""
        tau = missing / self.columns
        outside = (1 - within) * self.dim / max(1, self.dim - self.columns)
        missed = ((variances * (variances + 4 * tau)).sqrt() - variances) / 2
        return variances + missed * outside.clamp(0.0, 1.0)

    def _orthonormalise(self, vectors: Tensor) -> None:
        """In place, from the first direction on; they lost digits where the variances span many decades."""
        lower = torch.linalg.cholesky(self._gram(lambda rows: vectors[rows].double(), vectors.shape[1]))
        for rows in self._blocks():
            solved = torch.linalg.solve_triangular(lower.T, vectors[rows].double(), upper=True, left=False)
            vectors[rows] = solved.to(vectors.dtype)

    def _gram(self, matrix: Callable[[slice], Tensor], columns: int) -> Tensor:
        """`B^T B` in float64 of a matrix `(D, columns)` that is handed over in blocks of rows."""
        total = torch.zeros(columns, columns, dtype=torch.float64, device=matrix(slice(0, 1)).device)
        for rows in self._blocks():
            part = matrix(rows)
            total += part.T @ part
        return total

    def _rank(self, count: int) -> int:
        if self.rank is not None and self.rank >= count:
            raise ValueError(
                f"a lowrank basis of rank {self.rank} needs at least {self.rank + 1} images, received {count}"
            )
        return min(self.rank or RANK, self.dim, count - 1)

    def _blocks(self) -> list[slice]:
        size = max(1, BLOCK // self.columns)
        return [slice(i, min(i + size, self.dim)) for i in range(0, self.dim, size)]


def hartley(x: Tensor, chosen: Tensor) -> Tensor:
    """The coefficients `chosen` of the orthonormal Hartley transform along the last axis of x.

    `h_j = D^(-1/2) sum_i x_i (cos(2 pi i j / D) + sin(2 pi i j / D)) = Re f_j - Im f_j`, its own inverse; with
    `f_(D - j)` the conjugate of `f_j`, half of Fourier's coefficients are all that is needed.
    """
    size = x.shape[-1]
    upper = chosen > size // 2
    f = torch.fft.rfft(x, norm="ortho")[..., torch.where(upper, size - chosen, chosen)]
    return f.real + f.imag * torch.where(upper, 1, -1)
