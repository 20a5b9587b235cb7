"""Fixed points of a denoiser, and the level at which they lose their stability.

The drift of the reverse SDE vanishes where

    D(y, sigma) = c y,    c = 1                      "density": modes of the noised density; also the VE reverse SDE
                          c = (1 + alpha_bar) / 2    "sde": the VP reverse SDE (Raya and Ambrogioni 2023)

with `alpha_bar = 1 / (1 + sigma^2)`. Near such a point, and along any path, the difference of two neighbours in
x_t = alpha y grows under falling noise by the Jacobian `J = dD/dy = Cov[x_0 | y] / sigma^2`:

    d log|difference| / d(-log sigma) = 2 (lambda - c),    lambda the leading eigenvalue (largest real part) of J,

so the point is stable while the ratio `lambda / c` is below 1, and critical where it is 1.

Nothing here builds J: an eigenvalue and a Newton step need only products `J v`. An exact denoiser's J is symmetric; a
network's need not be, so its asymmetry `|J - J^T| / |J + J^T|` is measured and decides between Lanczos and Arnoldi.

Real data is not symmetric, and its bifurcation is imperfect: the central fixed point bends away and stays stable while
others are born beside it by folds. Then there is no crossing, and none is reported: `crossing` raises `NoCrossing` with
the peak of the ratio, `second_branch` finds the fold, and `path_exponents` looks along samples' own paths.

Contract: points are `(*shape)`, samples `(B, *shape)`, levels are sigma. Denoisers are called in their own dtype; all
that is solved, and all that is returned, is float64.
"""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy.optimize import brentq, minimize_scalar
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, eigsh, gmres
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook

from latestart.denoisers.base import Denoiser, check_sample
from latestart.noise import Noise
from latestart.theory.levels import CriticalLevel

Criterion = Literal["density", "sde"]
Method = Literal["auto", "backward", "forward", "differences"]
Search = Literal["auto", "contraction", "newton"]

METHODS = get_args(Method)
LEVELS = (0.01, 100.0)  # searched where neither the caller nor the denoiser says less
STEP = 0.2  # of log sigma, between the levels of a search
SYMMETRIC = 1e-4  # an asymmetry below this is rounding
DENSE = 32  # up to this dimension the Jacobian is built: Krylov methods need room
log = logging.getLogger(__name__)


class ConvergenceError(ValueError):
    """An iteration did not converge; `residual` is how far it came, relative, and `sigma` the level."""

    def __init__(self, message: str, residual: float, sigma: float) -> None:
        super().__init__(message)
        self.residual, self.sigma = residual, sigma


class NoCrossing(ValueError):
    """The central branch does not lose its stability; `ratio` is the peak of lambda / c, at the level `sigma`."""

    def __init__(self, message: str, ratio: float, sigma: float) -> None:
        super().__init__(message)
        self.ratio, self.sigma = ratio, sigma


def constant(criterion: str, sigma: float) -> float:
    """The c of `D(y, sigma) = c y`: 1 for "density", `(1 + alpha_bar) / 2` for "sde".

    Raises:
        ValueError: another criterion, or a level that is not positive and finite.
    """
    if not 0 < sigma < math.inf:
        raise ValueError(f"expected a noise level sigma between 0 and infinity, received {sigma}")
    if criterion == "density":
        return 1.0
    if criterion == "sde":
        return 0.5 * (1 + 1 / (1 + sigma**2))
    raise ValueError(f"expected the criterion 'density' or 'sde', received {criterion!r}")


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
        self.products += len(v)
        return out.detach().double()

    def _denoise(self, y: Tensor) -> Tensor:
        return self.denoiser(y, self.sigma)

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
        ValueError: shapes that are not the denoiser's, or an unknown method.
    """
    return Jacobian(denoiser, y, sigma, method).vector(v)


# --- its leading eigenvalues ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Spectrum:
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
        ValueError: a point of another shape, or k not in 1 ... D.
        ConvergenceError: the Krylov method did not converge.
    """
    jacobian = Jacobian(denoiser, _as_batch(y, denoiser), sigma, method)
    dim = math.prod(denoiser.shape)
    if not 1 <= k <= dim:
        raise ValueError(f"expected between 1 and {dim} eigenvalues of a {dim} x {dim} Jacobian, received k={k}")
    if dim <= DENSE or k > dim - 2:
        return _dense_spectrum(jacobian, k, symmetric)
    rng = np.random.default_rng(seed)
    asymmetry = None if symmetric else _asymmetry(jacobian, rng)
    if symmetric is None:
        symmetric = asymmetry is not None and asymmetry < SYMMETRIC
    first = rng.standard_normal(dim) if guess is None else guess.real.double().flatten().cpu().numpy()
    values, vectors = _krylov(jacobian, k, symmetric, tol, first)
    return _spectrum(jacobian, k, values, vectors, asymmetry, "Lanczos" if symmetric else "Arnoldi")


def _krylov(
    jacobian: Jacobian, k: int, symmetric: bool, tol: float, first: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    operator = _operator(jacobian)
    image = operator.matvec(first)
    if np.linalg.norm(image) <= np.finfo(np.float32).tiny * np.linalg.norm(first):
        # at the lowest levels the posterior is one point: J underflows, and Krylov methods have nothing to work on
        return np.zeros(k), np.eye(len(first), k)
    try:
        if symmetric:
            return eigsh(operator, k, which="LA", tol=tol, v0=image)
        return eigs(operator, k, which="LR", tol=tol, v0=image)
    except ArpackNoConvergence as error:
        raise ConvergenceError(
            f"the leading eigenvalue at sigma = {jacobian.sigma:.6g} did not converge in {jacobian.products} products",
            math.inf,
            jacobian.sigma,
        ) from error


def _operator(jacobian: Jacobian, shift: float = 0.0) -> LinearOperator:
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
    forward = jacobian.vector(z)
    try:
        backward = jacobian.transposed(z)
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
    return Spectrum(leading, images, jacobian.products, asymmetry, f"{how}, {jacobian.method} products")


# --- fixed points -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FixedPoint:
    """A solution of `D(y, sigma) = c y`.

    Attributes:
        point: y, `(*shape)`, float64.
        sigma: the level.
        criterion: "density" or "sde", which says c.
        residual: `|D(y) / c - y|` over the larger of `|y|` and `sigma sqrt(D)`.
        nfe: calls of the denoiser, each Jacobian product counted as one.
        how: "contraction" or "Newton-Krylov".
    """

    point: Tensor
    sigma: float
    criterion: str
    residual: float
    nfe: int
    how: str


def fixed_point(
    denoiser: Denoiser,
    sigma: float,
    criterion: Criterion = "sde",
    start: Tensor | None = None,
    tol: float | None = None,
    *,
    steps: int = 200,
    search: Search = "auto",
    method: Method = "auto",
) -> FixedPoint:
    """Solve `D(y, sigma) = c y` from `start`.

    The contraction `y <- D(y) / c` moves as the reverse process does, so it ends in stable points only. Once its rate
    has settled, or where it does not contract at all, Newton's method takes over, with GMRES on Jacobian products.

    Args:
        start: `(*shape)`, where to search from; the origin by default. Where there are several fixed points the start
            decides which one is found; `branch` follows the central one from high noise.
        tol: largest residual (see `FixedPoint`); by default the power 2/3 of the dtype's precision.
        steps: steps of the contraction.
        search: "contraction" or "newton" alone, or "auto": both as said.
        method: how Jacobian products are taken, see `Jacobian`.

    Raises:
        ValueError: a level, criterion or start that does not fit, or a denoiser that returns another shape or NaN.
        ConvergenceError: no fixed point was found; the last iterate is not one.
    """
    if search not in ("auto", "contraction", "newton"):
        raise ValueError(f"expected the search 'auto', 'contraction' or 'newton', received {search!r}")
    equation = _Equation(denoiser, float(sigma), criterion, method)
    tol = torch.finfo(denoiser.dtype).eps ** (2 / 3) if tol is None else tol
    y = torch.zeros(1, *denoiser.shape, dtype=torch.float64) if start is None else _as_batch(start, denoiser).double()
    y, residual, how = equation.solve(y.to(denoiser.device), tol, steps, search)
    if not residual <= tol:
        raise ConvergenceError(
            f"no fixed point under the {criterion} criterion was found at sigma = {sigma:.6g}: after {equation.nfe} "
            f"evaluations the residual is {residual:.2e}, above {tol:.2e}",
            residual,
            float(sigma),
        )
    return FixedPoint(y[0], float(sigma), criterion, residual, equation.nfe, how)


class _Equation:
    """`F(y) = D(y) / c - y = 0` at one level, over `(1, *shape)` float64, and the ways to solve it."""

    newton_steps = 30

    def __init__(self, denoiser: Denoiser, sigma: float, criterion: str, method: Method) -> None:
        self.denoiser, self.sigma, self.method, self.nfe = denoiser, sigma, method, 0
        self.c = constant(criterion, sigma)
        self.noise = sigma * math.sqrt(math.prod(denoiser.shape))

    def __call__(self, y: Tensor) -> Tensor:
        self.nfe += 1
        with torch.no_grad():
            out = self.denoiser(y.to(self.denoiser.dtype), self.sigma)
        if out.shape != y.shape or not out.isfinite().all():
            what = "values that are NaN or infinite" if out.shape == y.shape else f"the shape {tuple(out.shape)}"
            raise ValueError(
                f"the denoiser returned {what} at sigma = {self.sigma:.6g}, expected finite {tuple(y.shape)}"
            )
        return out.double() / self.c - y

    def size(self, f: Tensor, y: Tensor) -> float:
        return f.norm().item() / max(y.norm().item(), self.noise)

    def solve(self, y: Tensor, tol: float, steps: int, search: str) -> tuple[Tensor, float, str]:
        if search == "newton":
            return *self.newton(y, tol), "Newton-Krylov"
        sizes: list[float] = []
        newton_next = 10
        for step in range(steps):
            f = self(y)
            sizes.append(self.size(f, y))
            if sizes[-1] <= tol:
                return y, sizes[-1], "contraction"
            if search == "auto" and step >= newton_next and _settled(sizes):
                solution, residual = self.newton(y, tol)
                if residual <= tol:
                    return solution, residual, "Newton-Krylov"
                newton_next = 2 * step
            y = y + f
        if search == "auto":
            return *self.newton(y, tol), "Newton-Krylov"
        return y, sizes[-1], "contraction"

    def newton(self, y: Tensor, tol: float) -> tuple[Tensor, float]:
        """Damped Newton steps while they help: the point reached and its residual."""
        f = self(y)
        for _ in range(self.newton_steps):
            size = self.size(f, y)
            if size <= tol:
                break
            direction = self.newton_direction(y, f)
            for halvings in range(8):
                y_next = y + direction * 0.5**halvings
                f_next = self(y_next)
                if f_next.norm() < (1 - 1e-3 * 0.5**halvings) * f.norm():
                    break
            else:
                break
            y, f = y_next, f_next
        return y, self.size(f, y)

    def newton_direction(self, y: Tensor, f: Tensor) -> Tensor:
        """d in `(J - c) d = -c F`; as exact as it pays, since the next step corrects it."""
        jacobian = Jacobian(self.denoiser, y, self.sigma, self.method)
        right = -self.c * f.flatten().cpu().numpy()
        solution, _ = gmres(_operator(jacobian, self.c), right, rtol=1e-3, restart=40, maxiter=2)
        self.nfe += jacobian.products
        return torch.from_numpy(solution).view_as(y).to(y.device)


def _settled(sizes: Sequence[float]) -> bool:
    """Whether a contraction shrinks by a steady factor: it is near its end, and Newton's method will not stray."""
    late, early = (sizes[-1] / sizes[-5]) ** 0.25, (sizes[-5] / sizes[-9]) ** 0.25
    return 0.5 < late < 1 and abs(late - early) < 0.2 * (1 - late)


def _as_batch(y: Tensor, denoiser: Denoiser) -> Tensor:
    shape = tuple(denoiser.shape)
    if tuple(y.shape) not in (shape, (1, *shape)):
        raise ValueError(f"expected one point of shape {shape}, received {tuple(y.shape)}")
    return y.detach().reshape(1, *shape)


# --- branches ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BranchPoint:
    """A fixed point and its stability: `ratio = lambda / c`, stable below 1."""

    fixed: FixedPoint
    spectrum: Spectrum
    ratio: float

    @property
    def sigma(self) -> float:
        """The level."""
        return self.fixed.sigma

    @property
    def point(self) -> Tensor:
        """The fixed point, `(*shape)`."""
        return self.fixed.point

    @property
    def stable(self) -> bool:
        """Whether neighbours are drawn to it."""
        return self.ratio < 1


@dataclass(frozen=True)
class Follower:
    """Finds fixed points with their stability, one from another, with the same settings throughout.

    Attributes:
        denoiser: whose fixed points.
        criterion: "density" or "sde".
        symmetric: whether the Jacobian is; None measures it at each point.
        method: how Jacobian products are taken, see `Jacobian`.
        tol: largest residual of a fixed point, see `fixed_point`.
        k: eigenvalues at each point.
    """

    denoiser: Denoiser
    criterion: Criterion = "sde"
    symmetric: bool | None = None
    method: Method = "auto"
    tol: float | None = None
    k: int = 1

    def find(self, sigma: float, start: Tensor | None, search: Search = "auto", steps: int = 200) -> BranchPoint:
        """The fixed point that `fixed_point` finds from `start` `(*shape)`, with its stability."""
        return self._judged(self._fixed(sigma, start, search, steps), None)

    def follow(self, sigma: float, near: BranchPoint, halvings: int = 6) -> BranchPoint:
        """The same branch at another level.

        Newton's method from a prediction along the branch's tangent; while `lambda / c` is below 1/2, the contraction.
        Where the point found lies further than sigma / 5 from the predicted one it may be on another branch, and the
        step of log sigma is halved.

        Raises:
            ConvergenceError: the branch breaks off before that level, as at a fold.
        """
        try:
            fixed = self._next(sigma, near)
        except ConvergenceError:
            if not halvings:
                raise
        else:
            return self._judged(fixed, near.spectrum.vectors[0])
        middle = self.follow(math.sqrt(sigma * near.sigma), near, halvings - 1)
        return self.follow(sigma, middle, halvings - 1)

    def _next(self, sigma: float, near: BranchPoint) -> FixedPoint:
        if near.ratio < 0.5:
            # what hardly moves is the posterior mean, c y
            predicted = near.point * constant(self.criterion, near.sigma) / constant(self.criterion, sigma)
            fixed = self._fixed(sigma, predicted, "auto")
        else:
            predicted, nfe = self._predicted(sigma, near)
            fixed = self._fixed(sigma, predicted, "newton")
            fixed = replace(fixed, nfe=fixed.nfe + nfe)
        if (astray := (fixed.point - predicted).norm().item() / sigma) > 0.2:
            raise ConvergenceError(
                f"the {self.criterion} branch breaks off between sigma = {near.sigma:.6g} and {sigma:.6g}: the next "
                f"fixed point lies {astray:.2g} sigma away from where it leads",
                astray,
                sigma,
            )
        return fixed

    def _predicted(self, sigma: float, near: BranchPoint) -> tuple[Tensor, int]:
        """The branch's tangent to another level, `(J / c - 1) dy = -dF` at fixed y, and the evaluations it took."""
        step = math.log(sigma / near.sigma)
        share = min(1e-3 / abs(step), 1.0) if step else 1.0
        here = _Equation(self.denoiser, near.sigma, self.criterion, self.method)
        there = _Equation(self.denoiser, near.sigma * math.exp(share * step), self.criterion, self.method)
        y = near.point.unsqueeze(0)
        direction = here.newton_direction(y, (there(y) - here(y)) / share)
        return (y + direction)[0], here.nfe + 1

    def attractor(self, sigma: float, start: Tensor) -> BranchPoint:
        """The stable point that the contraction leads to from `start`; raises `ConvergenceError` where it does not."""
        found = self.find(sigma, start)
        return found if found.stable else self.find(sigma, start, "contraction", steps=5000)

    def _fixed(self, sigma: float, start: Tensor | None, search: Search, steps: int = 200) -> FixedPoint:
        return fixed_point(
            self.denoiser, sigma, self.criterion, start, self.tol, steps=steps, search=search, method=self.method
        )

    def _judged(self, fixed: FixedPoint, guess: Tensor | None) -> BranchPoint:
        spectrum = leading_eigenvalue(
            self.denoiser, fixed.point, fixed.sigma, self.k, self.symmetric, guess=guess, method=self.method
        )
        return BranchPoint(fixed, spectrum, spectrum.leading / constant(self.criterion, fixed.sigma))


def branch(
    denoiser: Denoiser,
    sigmas: Sequence[float] | Tensor,
    criterion: Criterion = "sde",
    start: Tensor | None = None,
    *,
    symmetric: bool | None = None,
    method: Method = "auto",
    tol: float | None = None,
) -> list[BranchPoint]:
    """Follow the central fixed point down in noise, with its leading eigenvalue over c at each level.

    Args:
        sigmas: levels in any order; followed from the highest, which should lie above every instability.
        start: `(*shape)`, where the search at the highest level begins; the origin by default.
        symmetric, method, tol: see `Follower`.

    Returns:
        A point for each level, by falling sigma.

    Raises:
        ConvergenceError: at a level no fixed point was found.
    """
    levels = sorted((float(sigma) for sigma in sigmas), reverse=True)
    if not levels:
        raise ValueError("expected at least one noise level to follow the branch at, received none")
    return list(_descend(Follower(denoiser, criterion, symmetric, method, tol), levels, start))


def _descend(follower: Follower, levels: Sequence[float], start: Tensor | None) -> Iterator[BranchPoint]:
    here = follower.find(levels[0], start)
    yield here
    for sigma in levels[1:]:
        here = follower.follow(sigma, here)
        yield here


def levels_of(
    denoiser: Denoiser, noise: Noise | None = None, sigma_range: tuple[float, float] | None = None, step: float = STEP
) -> list[float]:
    """Falling levels, `step` apart in log sigma, over `sigma_range`.

    By default that is what of 0.01 ... 100 the denoiser and the noise process reach.

    Raises:
        ValueError: a range that is empty.
    """
    ranges = [sigma_range] if sigma_range else [LEVELS, denoiser.sigma_range, *([noise.sigma_range] if noise else [])]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if not 0 < low < high < math.inf:
        raise ValueError(f"expected a range of levels 0 < low < high < infinity, received ({low:g}, {high:g})")
    count = math.ceil(math.log(high / low) / step) + 1
    return np.geomspace(high, low, count).tolist()


def peak(follower: Follower, curve: Sequence[BranchPoint], xtol: float = 1e-3) -> BranchPoint:
    """The highest ratio lambda / c near the highest of a branch's points, to `xtol` in log sigma."""
    top = max(range(len(curve)), key=lambda i: curve[i].ratio)
    above, below = curve[max(top - 1, 0)], curve[min(top + 1, len(curve) - 1)]
    best = curve[top]

    def height(log_sigma: float) -> float:
        nonlocal best
        here = follower.follow(math.exp(log_sigma), min(curve, key=lambda p: abs(math.log(p.sigma) - log_sigma)))
        best = max(best, here, key=lambda p: p.ratio)
        return -here.ratio

    bounds = (math.log(below.sigma), math.log(above.sigma))
    minimize_scalar(height, bounds=bounds, method="bounded", options={"xatol": xtol})
    return best


def crossing(
    denoiser: Denoiser,
    criterion: Criterion = "sde",
    noise: Noise | None = None,
    sigma_range: tuple[float, float] | None = None,
    start: Tensor | None = None,
    *,
    symmetric: bool | None = None,
    method: Method = "auto",
    step: float = STEP,
) -> CriticalLevel:
    """The highest level at which the central fixed point loses its stability: the root of `lambda / c = 1`.

    The branch is followed down on a grid of log sigma; the first crossing is bracketed and solved by Brent's method.
    Without a symmetry the branch may also end there, in a fold with an unstable one; `how` says so.

    Args:
        noise: gives the level its time t, in the scheduler's units.
        sigma_range: lowest and highest level searched; see `levels_of` for the default.
        start: `(*shape)`, where the search begins at the highest level; the origin by default.
        symmetric, method: see `Follower`.
        step: of the grid, in log sigma.

    Raises:
        ValueError: the central point is unstable at the highest level already.
        NoCrossing: it stays stable throughout, as it does for data without symmetry; says the peak of the ratio.
        ConvergenceError: at a level no fixed point was found.
    """
    levels = levels_of(denoiser, noise, sigma_range, step)
    follower = Follower(denoiser, criterion, symmetric, method)
    curve = [follower.find(levels[0], start)]
    while curve[-1].stable and len(curve) < len(levels):
        try:
            curve.append(follower.follow(levels[len(curve)], curve[-1]))
        except ConvergenceError as error:
            return _fold(follower, curve[-1], levels[len(curve)], error).on(noise)
    if curve[-1].stable:
        curve = _up_to(curve, _require_crossing(peak(follower, curve), levels, criterion))
    if len(curve) == 1:
        raise ValueError(
            f"the central point is unstable at the highest level, sigma = {levels[0]:.6g} (lambda / c = "
            f"{curve[0].ratio:.4g}): give a sigma_range that begins above the critical level"
        )
    try:
        sigma, products = critical_between(follower, curve[-2], curve[-1])
    except ConvergenceError as error:
        return _fold(follower, curve[-2], curve[-1].sigma, error).on(noise)
    products += sum(here.spectrum.products for here in curve)
    how = f"lambda / c = 1 on the central branch, {curve[-1].spectrum.how}, {products} in all"
    return CriticalLevel(sigma, criterion, how).on(noise)


def _fold(follower: Follower, last: BranchPoint, beyond: float, error: ConvergenceError) -> CriticalLevel:
    """The end of a branch between its last point and a level that it does not reach; `error` where it is no fold."""
    while math.log(last.sigma / beyond) > 1e-6:
        middle = math.sqrt(last.sigma * beyond)
        try:
            here = follower.follow(middle, last, halvings=0)
        except ConvergenceError:
            beyond = middle
        else:
            # an unstable point there is on the other branch, which ends in the same fold
            last, beyond = (here, beyond) if here.stable else (last, middle)
    # at a fold 1 - lambda / c goes to 0 as the square root of the distance
    if not abs(last.ratio - 1) < 0.02:
        raise error
    how = f"the central branch ends in a fold, where lambda / c = 1, {last.spectrum.how}"
    return CriticalLevel(last.sigma, follower.criterion, how, (beyond, last.sigma))


def _up_to(curve: list[BranchPoint], unstable: BranchPoint) -> list[BranchPoint]:
    return [here for here in curve if here.sigma > unstable.sigma] + [unstable]


def _require_crossing(best: BranchPoint, levels: Sequence[float], criterion: str) -> BranchPoint:
    if not best.stable:
        return best
    raise NoCrossing(
        f"the central branch stays stable under the {criterion} criterion from sigma = {levels[0]:.4g} to "
        f"{levels[-1]:.4g}: lambda / c peaks at {best.ratio:.4f}, at sigma = {best.sigma:.6g}; "
        "data without an exact symmetry has an imperfect bifurcation (see second_branch)",
        best.ratio,
        best.sigma,
    )


def critical_between(follower: Follower, stable: BranchPoint, unstable: BranchPoint) -> tuple[float, int]:
    """The level between two points of a branch at which it loses its stability, and the products that it took."""
    products, here = 0, stable

    def excess(log_sigma: float) -> float:
        nonlocal products, here
        near = min((stable, unstable), key=lambda p: abs(math.log(p.sigma) - log_sigma))
        here = follower.follow(math.exp(log_sigma), near)
        products += here.spectrum.products
        return here.ratio - 1

    root = brentq(excess, math.log(unstable.sigma), math.log(stable.sigma), xtol=1e-10, rtol=1e-12)
    if abs(excess(root)) > 1e-2:
        raise ConvergenceError(
            f"the branch jumps at sigma = {math.exp(root):.6g}, where lambda / c is {here.ratio:.4g} and not 1",
            abs(here.ratio - 1),
            math.exp(root),
        )
    return math.exp(root), products


def second_branch(
    denoiser: Denoiser,
    starts: Tensor,
    criterion: Criterion = "sde",
    noise: Noise | None = None,
    sigma_range: tuple[float, float] | None = None,
    start: Tensor | None = None,
    *,
    symmetric: bool | None = None,
    method: Method = "auto",
    step: float = STEP,
    separation: float = 1e-2,
    xtol: float = 1e-4,
) -> CriticalLevel:
    """The highest level at which a stable fixed point is found beside the central branch.

    Going down in noise, the contraction is tried from every start; a stable end away from the central point is
    followed back up, by halving, until it merges with that point (a pitchfork) or vanishes (a fold).

    Args:
        starts: `(n, *shape)`, such as the means of classes or clusters. What no start leads to is not found: the level
            is a lower bound.
        noise, sigma_range, start, symmetric, method, step: as for `crossing`.
        separation: the least distance from the central point, in units of the noise, `sigma sqrt(D)`.
        xtol: of log sigma; the level's `interval` is the last bracket.

    Raises:
        ValueError: starts of another shape, or no second branch in the whole range.
        ConvergenceError: the central branch was lost.
    """
    check_sample(starts, denoiser.shape)
    follower = Follower(denoiser, criterion, symmetric, method)
    levels = levels_of(denoiser, noise, sigma_range, step)
    centre: list[BranchPoint] = []
    for here in _descend(follower, levels, start):
        centre.append(here)
        for end in ends(follower, here, starts, separation):
            if found := beside(follower, here, end, separation):
                low, high = _last_level(follower, found, centre, separation, xtol)
                how = f"a stable point beside the central branch, from {len(starts)} starts, followed up in noise"
                return CriticalLevel(low, f"{criterion}, second branch", how, (low, high)).on(noise)
    raise ValueError(
        f"no second stable branch under the {criterion} criterion was found from {len(starts)} starts "
        f"between sigma = {levels[0]:.4g} and {levels[-1]:.4g}"
    )


def ends(follower: Follower, centre: BranchPoint, starts: Tensor, separation: float, steps: int = 100) -> list[Tensor]:
    """Where the contraction leads from all starts `(n, *shape)` at once: the ends apart from `centre` and each other.

    They are rough, for `beside` to solve. What is still on its way to `centre` is left out.
    """
    y, c = starts.double(), constant(follower.criterion, centre.sigma)
    least = separation * centre.sigma * math.sqrt(centre.point.numel())
    for _ in range(steps):
        with torch.no_grad():
            y, before = follower.denoiser(y.to(follower.denoiser.dtype), centre.sigma).double() / c, y
        moves = (y - before).flatten(1).norm(dim=1)
        if moves.max() < 1e-3 * least:
            break
    away = (y - centre.point).flatten(1).norm(dim=1)
    apart = [centre.point]
    for end in y[moves < 1e-3 * away]:
        if all((end - other).norm() > least for other in apart):
            apart.append(end)
    return apart[1:]


def beside(follower: Follower, centre: BranchPoint, start: Tensor, separation: float) -> BranchPoint | None:
    """A stable point that `start` leads to at the level of `centre`, if it is another one."""
    try:
        found = follower.attractor(centre.sigma, start)
    except ConvergenceError:
        return None
    away = (found.point - centre.point).norm().item()
    return found if found.stable and away > separation * centre.sigma * math.sqrt(found.point.numel()) else None


def _last_level(
    follower: Follower, found: BranchPoint, centre: list[BranchPoint], separation: float, xtol: float
) -> tuple[float, float]:
    """The last level at which a branch was found, going up, and the first at which it was not."""
    while len(centre) > 1 and (higher := beside(follower, centre[-2], found.point, separation)):
        centre, found = centre[:-1], higher
    if len(centre) == 1:
        raise ValueError(
            f"a second stable branch exists at the highest level, sigma = {found.sigma:.6g}, already: "
            "give a sigma_range that begins above it"
        )
    return birth(follower, found, centre[-1], centre[-2], separation, xtol)


def birth(
    follower: Follower, found: BranchPoint, low: BranchPoint, high: BranchPoint, separation: float, xtol: float
) -> tuple[float, float]:
    """The level at which a branch begins, as a bracket of `xtol` in log sigma.

    Args:
        found: a point of it, at the level of `low`.
        low, high: two points of the branch beside which it begins; at the level of `high` it is not there yet.
        separation: the least distance of the two, in units of `sigma sqrt(D)`.
    """
    while math.log(high.sigma / low.sigma) > xtol:
        middle = follower.follow(math.sqrt(low.sigma * high.sigma), low)
        if higher := beside(follower, middle, found.point, separation):
            low, found = middle, higher
        else:
            high = middle
    return low.sigma, high.sigma


# --- along samples' own paths -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Exponents:
    """Leading local exponents along sample paths.

    Attributes:
        sigma: `(n,)`, the levels.
        ratio: `(n, B)`, lambda / c at each sample.
        values: `(n, B)`, `2 (lambda - c)`: how fast neighbours of the sample separate, in units of 1 / (-log sigma).
        criterion: "density" or "sde".
    """

    sigma: np.ndarray
    ratio: np.ndarray
    values: np.ndarray
    criterion: str

    @property
    def mean(self) -> np.ndarray:
        """`(n,)`, over the samples."""
        return self.values.mean(1)

    @property
    def spread(self) -> np.ndarray:
        """`(n,)`, standard deviation over the samples; 0 for a single one."""
        return self.values.std(1, ddof=min(1, self.values.shape[1] - 1))


def path_exponents(
    denoiser: Denoiser,
    paths: Tensor,
    sigmas: Sequence[float] | Tensor,
    criterion: Criterion = "sde",
    *,
    symmetric: bool | None = None,
    method: Method = "auto",
) -> Exponents:
    """The leading local exponent `2 (lambda - c)` of the reverse SDE along given paths.

    Args:
        paths: `(n, B, *shape)`, the samples y at each of n levels.
        sigmas: `(n,)`, those levels.
        symmetric, method: see `Follower`.

    Raises:
        ValueError: paths and levels that do not belong together.
    """
    levels = [float(sigma) for sigma in sigmas]
    if len(paths) != len(levels) or not len(levels) or tuple(paths.shape[2:]) != tuple(denoiser.shape):
        raise ValueError(
            f"expected paths of shape (n, B, {', '.join(map(str, denoiser.shape))}) at n levels, received "
            f"{tuple(paths.shape)} at {len(levels)}"
        )
    c = np.array([constant(criterion, sigma) for sigma in levels])[:, None]
    leading = [
        [leading_eigenvalue(denoiser, y, sigma, symmetric=symmetric, method=method).leading for y in samples]
        for samples, sigma in zip(paths, levels)
    ]
    return Exponents(np.array(levels), np.array(leading) / c, 2 * (np.array(leading) - c), criterion)
