"""The Jacobian of a denoiser by its products alone, and its leading eigenvalues.

    J = dD/dy = Cov[x_0 | y] / sigma^2

for an exact denoiser. Nothing here builds J: an eigenvalue and a Newton step need only products `J v`. An exact
denoiser's J is symmetric; a network's need not be, so its asymmetry `|J - J^T| / |J + J^T|` is measured and decides
between Lanczos and Arnoldi.

Contract: points are `(*shape)`, batches of points and of vectors `(B, *shape)`, levels are sigma. Denoisers are called
in their own dtype; all that is returned is float64.
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, eigsh
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook

from latestart.checks import checked_seed
from latestart.denoisers.base import Denoiser, check_sample, require_denoiser
from latestart.records import Record
from latestart.theory.levels import evaluate

__all__ = [
    "ConvergenceError", "Jacobian", "Method", "Spectrum", "as_batch", "jacobian_vector", "largest",
    "leading_eigenvalue", "linear_operator",
]  # fmt: skip

Method = Literal["auto", "backward", "forward", "differences"]

METHODS = get_args(Method)
SYMMETRIC = 1e-4  # an asymmetry below this is rounding
DENSE = 32  # up to this dimension the Jacobian is built: Krylov methods need room
KRYLOV = 12  # vectors of a restarted method for one eigenvalue; with the usual 20 it comes out more exact than asked
log = logging.getLogger(__name__)


class ConvergenceError(ValueError):
    """An iteration did not converge; `residual` is how far it came, relative, and `sigma` the level."""

    def __init__(self, message: str, residual: float, sigma: float) -> None:
        super().__init__(message)
        self.residual, self.sigma = residual, sigma


# --- the Jacobian, by its products ------------------------------------------------------------------------------------


class Jacobian:
    """`J = dD/dy` at points `y`, known by its products.

    Args:
        y: `(B, *shape)`, or `(1, *shape)` for many vectors at one point.
        method: "backward" (the derivative of a backward pass), "forward" (forward-mode differentiation), "differences"
            (central, two calls, good to about 3e-5 in float32), or "auto": the first of these that the denoiser allows.

    Attributes:
        method: the method in use; "auto" until the first product.
        products: products `J v` and `J^T u` so far, one for each vector.

    Raises:
        ValueError: by a product, where the denoiser returns another shape, or a Jacobian that is not finite; says at
            which level.
    """

    def __init__(self, denoiser: Denoiser, y: Tensor, sigma: float, method: Method = "auto") -> None:
        check_sample(y, denoiser.shape)
        if method not in METHODS:
            raise ValueError(f"expected the method {', '.join(map(repr, METHODS))}, received {method!r}")
        self.denoiser, self.sigma, self.method, self.products = denoiser, float(sigma), str(method), 0
        self.y = y.detach().to(denoiser.device, denoiser.dtype)
        self._graph: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def vector(self, v: Tensor) -> Tensor:
        """`J v` for `v` `(B, *shape)`, float64."""
        if self.method != "auto":
            return self._product(self.method, v)
        for method in ("backward", "forward"):
            try:
                out = self._product(method, v)
            except RuntimeError as error:
                reason = str(error).splitlines()[0]
                log.info("%s products fail on %s: %s", method, type(self.denoiser).__name__, reason)
            else:
                self.method = method
                return out
        log.info("the Jacobian of %s is taken by central differences", type(self.denoiser).__name__)
        self.method = "differences"
        return self._product("differences", v)

    def transposed(self, u: Tensor) -> Tensor:
        """`J^T u` for `u` `(B, *shape)`, float64, by a backward pass."""
        return self._product("transposed", u)

    def _product(self, how: str, v: Tensor) -> Tensor:
        check_sample(v, self.denoiser.shape)
        out = getattr(self, f"_{how}")(v.to(self.y))
        if not out.isfinite().all():
            raise ValueError(
                f"the denoiser's Jacobian has values that are NaN or infinite at sigma = {self.sigma:.6g}, by {how} "
                "products"
            )
        self.products += len(v)
        return out.detach().double()

    def _denoise(self, y: Tensor) -> Tensor:
        return evaluate(self.denoiser, y, self.sigma)

    def _points(self, v: Tensor) -> Tensor:
        return self.y.expand_as(v).contiguous()

    def _pullback(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """y, D(y), u and `J^T u` with its graph, kept for the next product at these points."""
        if self._graph is None or self._graph[0].shape != like.shape:
            with torch.enable_grad(), _differentiable():
                y = self._points(like).detach().requires_grad_()
                out = self._denoise(y)
                u = torch.zeros_like(out, requires_grad=True)
                (pulled,) = torch.autograd.grad(out, y, u, create_graph=True)
            self._graph = y, out, u, pulled
        return self._graph

    def _backward(self, v: Tensor) -> Tensor:
        """`J^T u` is linear in u, so its own transposed derivative, at v, is `J v`."""
        _, _, u, pulled = self._pullback(v)
        return torch.autograd.grad(pulled, u, v, retain_graph=True)[0]

    def _transposed(self, v: Tensor) -> Tensor:
        y, out, _, _ = self._pullback(v)
        return torch.autograd.grad(out, y, v, retain_graph=True)[0]

    def _forward(self, v: Tensor) -> Tensor:
        # strict: a denoiser that detaches its output would otherwise have a Jacobian of zero
        with torch.no_grad(), _differentiable():
            return torch.func.jvp(self._denoise, (self._points(v),), (v,), strict=True)[1]

    def _differences(self, v: Tensor) -> Tensor:
        """A denoiser changes on the scale of sigma: a step of `eps^(1/3) sigma` balances rounding and curvature."""
        rms = v.flatten(1).square().mean(1).sqrt().view(-1, *[1] * (v.ndim - 1))
        step = torch.finfo(v.dtype).eps ** (1 / 3) * self.sigma / rms.clamp_min(torch.finfo(v.dtype).tiny)
        y = self._points(v)
        with torch.no_grad():
            slope = (self._denoise(y + step * v) - self._denoise(y - step * v)) / (2 * step)
        return torch.where(rms > 0, slope, 0.0)


@contextmanager
def _differentiable() -> Iterator[None]:
    """Fused attention has no forward and no second derivative, and a group norm's needs contiguous input."""
    handle = register_module_forward_pre_hook(_contiguous)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        handle.remove()


def _contiguous(module: nn.Module, args: tuple[Any, ...]) -> Any:
    return tuple(arg.contiguous() for arg in args) if isinstance(module, nn.GroupNorm) else None


def jacobian_vector(denoiser: Denoiser, y: Tensor, sigma: float, v: Tensor, method: Method = "auto") -> Tensor:
    """The product `J v` of `J = dD/dy` at `y` with `v`, both `(B, *shape)`; float64.

    `sigma^2 J = Cov[x_0 | y]` for an exact denoiser. The methods are those of `Jacobian`, which says what "auto" used.

    Raises:
        ValueError: shapes that are not the denoiser's, an unknown method, or a denoiser that returns another shape or
            NaN.
    """
    return Jacobian(denoiser, y, sigma, method).vector(v)


# --- its leading eigenvalues ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Spectrum(Record):
    """The leading eigenvalues of `dD/dy` at one point.

    Attributes:
        values: `(k,)`, by falling real part; complex where a pair is complex, and then the pair is whole.
        vectors: `(k, *shape)`, of unit length over all pixels, real or complex as the values are.
        products: Jacobian products that they took, those of the asymmetry among them.
        asymmetry: `|J - J^T| / |J + J^T|` in Frobenius norms; None where it was not measured.
        how: the Krylov method and the way of differentiation.
    """

    values: np.ndarray
    vectors: Tensor
    products: int
    asymmetry: float | None
    how: str

    @property
    def leading(self) -> float:
        """The largest real part."""
        return float(self.values[0].real)


def leading_eigenvalue(
    denoiser: Denoiser,
    y: Tensor,
    sigma: float,
    k: int = 1,
    symmetric: bool | None = None,
    *,
    tol: float = 1e-4,
    guess: Tensor | None = None,
    method: Method = "auto",
    seed: int = 0,
) -> Spectrum:
    """The k eigenvalues of `J = dD/dy` with the largest real parts, and their eigenvectors, by products `J v` alone.

    Lanczos for a symmetric J, Arnoldi for another (ARPACK's `eigsh` "LA" and `eigs` "LR"); up to 32 dimensions J is
    built from its columns.

    Args:
        y: `(*shape)` or `(1, *shape)`, the point.
        symmetric: whether J is; None measures its asymmetry by random probes, at four products.
        tol: relative accuracy asked of the Krylov method.
        guess: `(*shape)`, a vector to begin with, such as the eigenvector at a neighbouring level.
        method: how products are taken, see `Jacobian`.
        seed: of the probes, and of the first vector where there is no guess.

    Raises:
        ValueError: a point of another shape, k not in 1 ... D, or a denoiser that returns another shape or NaN.
        ConvergenceError: the Krylov method did not converge.
    """
    jacobian = Jacobian(denoiser, as_batch(y, denoiser), sigma, method)
    dim = math.prod(denoiser.shape)
    if not 1 <= k <= dim:
        raise ValueError(f"expected between 1 and {dim} eigenvalues of a {dim} x {dim} Jacobian, received k={k}")
    if dim <= DENSE or k > dim - 2:
        return _dense_spectrum(jacobian, k, symmetric)
    rng = np.random.default_rng(checked_seed(seed))
    asymmetry = None if symmetric else _asymmetry(jacobian, rng)
    if symmetric is None:
        symmetric = asymmetry is not None and asymmetry < SYMMETRIC
    first = rng.standard_normal(dim) if guess is None else guess.real.double().flatten().cpu().numpy()
    values, vectors = _krylov(jacobian, k, symmetric, tol, first)
    return _spectrum(jacobian, k, values, vectors, asymmetry, "Lanczos" if symmetric else "Arnoldi")


def _krylov(
    jacobian: Jacobian, k: int, symmetric: bool, tol: float, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    operator, basis = linear_operator(jacobian), KRYLOV if k == 1 else None
    image = operator.matvec(first)
    if np.linalg.norm(image) <= np.finfo(np.float32).tiny * np.linalg.norm(first):
        # at the lowest levels the posterior is one point: J underflows, and Krylov methods have nothing to work on
        return np.zeros(k), np.eye(len(first), k)
    try:
        return largest(operator, k, image, symmetric, tol=tol, ncv=basis)
    except ArpackNoConvergence as error:
        raise ConvergenceError(
            f"the leading eigenvalue at sigma = {jacobian.sigma:.6g} did not converge in {jacobian.products} products",
            math.inf,
            jacobian.sigma,
        ) from error


def largest(
    operator: LinearOperator, k: int, first: np.ndarray, symmetric: bool = True, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` eigenvalues of the largest real part, and their vectors `(D, k)`, by ARPACK.

    Zeros where products with the operator vanish, exactly or in its rounding: ARPACK itself refuses these.

    Args:
        operator: `D x D`.
        k: how many.
        first: `(D,)`, the vector to begin with.
        symmetric: Lanczos' method for a symmetric operator, Arnoldi's for another.
        options: of SciPy's `eigsh` and `eigs`.

    Raises:
        ArpackNoConvergence: they did not converge.
    """
    try:
        if symmetric:
            return eigsh(operator, k, which="LA", v0=first, **options)
        return eigs(operator, k, which="LR", v0=first, **options)
    except ArpackError as error:
        if "Starting vector is zero" not in str(error):
            raise
        return np.zeros(k), np.eye(len(first), k)


def linear_operator(jacobian: Jacobian, shift: float = 0.0) -> LinearOperator:
    """`J - shift I` over flattened float64 arrays, for SciPy."""
    shape, dim = jacobian.denoiser.shape, math.prod(jacobian.denoiser.shape)

    def matvec(v: np.ndarray) -> np.ndarray:
        v = np.asarray(v, dtype=np.float64).ravel()
        product = jacobian.vector(torch.from_numpy(v).view(1, *shape)).flatten().cpu().numpy()
        return product - shift * v

    return LinearOperator((dim, dim), matvec=matvec, dtype=np.float64)


def _asymmetry(jacobian: Jacobian, rng: np.random.Generator, probes: int = 2) -> float | None:
    """`|J - J^T| / |J + J^T|` from `E|A z|^2 = |A|^2` over white z; None where there is no backward pass."""
    z = torch.from_numpy(rng.standard_normal((probes, *jacobian.denoiser.shape)))
    # one by one, through the graph that the Krylov method goes on with
    forward = torch.cat([jacobian.vector(part) for part in z.split(1)])
    try:
        backward = torch.cat([jacobian.transposed(part) for part in z.split(1)])
    except RuntimeError:
        return None
    return _ratio_of_norms(forward - backward, forward + backward)


def _ratio_of_norms(a: Tensor, b: Tensor) -> float:
    return (a.norm() / b.norm()).item() if b.any() else float(a.any())


def _dense_spectrum(jacobian: Jacobian, k: int, symmetric: bool | None) -> Spectrum:
    shape, dim = jacobian.denoiser.shape, math.prod(jacobian.denoiser.shape)
    matrix = jacobian.vector(torch.eye(dim, dtype=torch.float64).view(dim, *shape)).flatten(1).T
    asymmetry = _ratio_of_norms(matrix - matrix.T, matrix + matrix.T)
    if symmetric is None:
        symmetric = asymmetry < SYMMETRIC
    values, vectors = (np.linalg.eigh if symmetric else np.linalg.eig)(matrix.cpu().numpy())
    return _spectrum(jacobian, k, values, vectors, asymmetry, "dense")


def _spectrum(
    jacobian: Jacobian, k: int, values: np.ndarray, vectors: np.ndarray, asymmetry: float | None, how: str
) -> Spectrum:
    order = np.argsort(-values.real, kind="stable")
    values, vectors = values[order], vectors[:, order]
    leading, among = values[:k], vectors[:, :k]
    if abs(leading[-1].imag) > 0 and not np.isclose(leading, leading[-1].conj()).any():
        leading, among = np.append(leading, leading[-1].conj()), np.column_stack([among, among[:, -1].conj()])
    if not leading.imag.any():
        leading, among = leading.real, among.real
    images = torch.from_numpy(np.ascontiguousarray(among.T)).view(len(leading), *jacobian.denoiser.shape)
    return Spectrum(
        values=leading,
        vectors=images,
        products=jacobian.products,
        asymmetry=asymmetry,
        how=f"{how}, {jacobian.method} products",
    )


def as_batch(y: Tensor, denoiser: Denoiser) -> Tensor:
    """One point, `(*shape)` or `(1, *shape)`, as a batch `(1, *shape)`; raises `ValueError` for another shape."""
    require_denoiser(denoiser)
    shape = tuple(denoiser.shape)
    if tuple(y.shape) not in (shape, (1, *shape)):
        raise ValueError(f"expected one point of shape {shape}, received {tuple(y.shape)}")
    return y.detach().reshape(1, *shape)
