"""Fixed points of a denoiser, followed from one noise level to another.

The drift of the reverse SDE vanishes where

    D(y, sigma) = c y,    c = 1                      "density": modes of the noised density; also the VE reverse SDE
                          c = (1 + alpha_bar) / 2    "sde": the VP reverse SDE (Raya and Ambrogioni 2023)

with `alpha_bar = 1 / (1 + sigma^2)`. A fixed point is stable while the ratio `lambda / c` is below 1, with lambda the
leading eigenvalue (largest real part) of `J = dD/dy` there; `stability` says why. Under falling noise fixed points form
branches; the central one begins at the mean of the data at high noise.

Contract: points are `(*shape)`, levels are sigma. Denoisers are called in their own dtype; all that is solved, and all
that is returned, is float64.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.sparse.linalg import gmres
from torch import Tensor

from latestart.denoisers.base import Denoiser, require_denoiser
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.jacobian import (
    ConvergenceError,
    Jacobian,
    Method,
    Spectrum,
    as_batch,
    leading_eigenvalue,
    linear_operator,
)
from latestart.theory.levels import evaluate

__all__ = ["BranchPoint", "Criterion", "FixedPoint", "Follower", "branch", "constant", "fixed_point", "levels_of"]

Criterion = Literal["density", "sde"]
Search = Literal["auto", "contraction", "newton"]

LEVELS = (0.01, 100.0)  # searched where neither the caller nor the denoiser says less
STEP = 0.2  # of log sigma, between the levels of a search


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


# --- fixed points -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class FixedPoint(Record):
    """A solution of `D(y, sigma) = c y`.

    Attributes:
        point: y, `(*shape)`, float64.
        sigma: the level.
        criterion: "density" or "sde", which says c.
        residual: `|D(y) / c - y|` over the larger of `|y|` and `sigma sqrt(D)`, but at most 1,000 times the latter.
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
        tol: largest residual (see `FixedPoint`), not negative; by default the power 2/3 of the dtype's precision.
        steps: steps of the contraction, at least 1 where nothing else is done.
        search: "contraction" or "newton" alone, or "auto": both as said.
        method: how Jacobian products are taken, see `Jacobian`.

    Raises:
        ValueError: a level, criterion or start that does not fit, or a denoiser that returns another shape or NaN.
        ConvergenceError: no fixed point was found; the last iterate is not one.
    """
    require_denoiser(denoiser)
    if search not in ("auto", "contraction", "newton"):
        raise ValueError(f"expected the search 'auto', 'contraction' or 'newton', received {search!r}")
    if steps < (search == "contraction"):
        raise ValueError(f"expected at least 1 step of the contraction, received steps={steps}")
    if tol is not None and not tol >= 0:
        raise ValueError(f"expected a tolerance tol that is not negative, received {tol}")
    if start is not None and not start.isfinite().all():
        raise ValueError(f"expected a start of finite values, received {tuple(start.shape)} with some NaN or infinite")
    sigma = float(sigma)
    equation = _Equation(denoiser, sigma, criterion, method)
    tol = torch.finfo(denoiser.dtype).eps ** (2 / 3) if tol is None else tol
    y = torch.zeros(1, *denoiser.shape, dtype=torch.float64) if start is None else as_batch(start, denoiser).double()
    y, residual, how = equation.solve(y.to(denoiser.device), tol, steps, search)
    if not residual <= tol:
        raise ConvergenceError(
            f"no fixed point under the {criterion} criterion was found at sigma = {sigma:.6g}: after {equation.nfe} "
            f"evaluations the residual is {residual:.2e}, above {tol:.2e}",
            residual,
            sigma,
        )
    return FixedPoint(point=y[0], sigma=sigma, criterion=criterion, residual=residual, nfe=equation.nfe, how=how)


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
            out = evaluate(self.denoiser, y.to(self.denoiser.dtype), self.sigma)
        return out.double() / self.c - y

    def size(self, f: Tensor, y: Tensor) -> float:
        length = y.norm().item()
        if length * torch.finfo(self.denoiser.dtype).eps > 0.01 * self.noise:
            return math.inf  # so far out that rounding alone would make F vanish
        return f.norm().item() / max(min(length, 1e3 * self.noise), self.noise)

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
        solution, _ = gmres(linear_operator(jacobian, self.c), right, rtol=1e-3, restart=40, maxiter=2)
        self.nfe += jacobian.products
        return torch.from_numpy(solution).view_as(y).to(y.device)


def _settled(sizes: Sequence[float]) -> bool:
    """Whether a contraction shrinks by a steady factor: it is near its end, and Newton's method will not stray."""
    late, early = (sizes[-1] / sizes[-5]) ** 0.25, (sizes[-5] / sizes[-9]) ** 0.25
    return 0.5 < late < 1 and abs(late - early) < 0.2 * (1 - late)


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
        halvings: of a step along a branch, before it counts as broken off there.
    """

    denoiser: Denoiser
    criterion: Criterion = "sde"
    symmetric: bool | None = None
    _: KW_ONLY
    method: Method = "auto"
    tol: float | None = None
    k: int = 1
    halvings: int = 6

    def __post_init__(self) -> None:
        require_denoiser(self.denoiser)

    def find(self, sigma: float, start: Tensor | None, search: Search = "auto", steps: int = 200) -> BranchPoint:
        """The fixed point that `fixed_point` finds from `start` `(*shape)`, with its stability."""
        return self._judged(self._fixed(sigma, start, search, steps))

    def follow(self, sigma: float, near: BranchPoint, halvings: int | None = None) -> BranchPoint:
        """The same branch at another level.

        Newton's method from a prediction along the branch's tangent; while `lambda / c` is below 1/2, the contraction.
        Where the point found lies further than sigma / 5 from the predicted one it may be on another branch, and the
        step of log sigma is halved.

        Raises:
            ConvergenceError: the branch breaks off before that level, as at a fold.
        """
        halvings = self.halvings if halvings is None else halvings
        try:
            fixed = self._next(sigma, near)
        except ConvergenceError:
            if not halvings:
                raise
        else:
            return self._judged(fixed, near)
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

    def spectrum(self, here: BranchPoint, k: int) -> Spectrum:
        """The k leading eigenvalues at a point that was found."""
        return self._spectrum(here.fixed, k, here)

    def _judged(self, fixed: FixedPoint, near: BranchPoint | None = None) -> BranchPoint:
        spectrum = self._spectrum(fixed, self.k, near)
        return BranchPoint(fixed, spectrum, spectrum.leading / constant(self.criterion, fixed.sigma))

    def _spectrum(self, fixed: FixedPoint, k: int, near: BranchPoint | None) -> Spectrum:
        guess = near.spectrum.vectors[0] if near else None
        return leading_eigenvalue(
            self.denoiser, fixed.point, fixed.sigma, k, self.symmetric, guess=guess, method=self.method
        )


def branch(follower: Follower, sigmas: Sequence[float] | Tensor, start: Tensor | None = None) -> Iterator[BranchPoint]:
    """Follow the central fixed point down in noise, and yield the point at each level, by falling sigma.

    Args:
        sigmas: levels in any order; followed from the highest, which should lie above every instability.
        start: `(*shape)`, where the search at the highest level begins; the origin by default.

    Raises:
        ConvergenceError: at a level no fixed point was found.
    """
    here = None
    for sigma in sorted(map(float, sigmas), reverse=True):
        here = follower.follow(sigma, here) if here else follower.find(sigma, start)
        yield here


def levels_of(
    denoiser: Denoiser, noise: Noise | None = None, sigma_range: tuple[float, float] | None = None, step: float = STEP
) -> list[float]:
    """Falling levels, `step` apart in log sigma, over `sigma_range`.

    By default that is what of 0.01 ... 100 the denoiser and the noise process reach.

    Raises:
        ValueError: a range that is empty, or a step that is not positive and finite.
    """
    if not 0 < step < math.inf:
        raise ValueError(f"expected a step of log sigma between 0 and infinity, received {step}")
    require_denoiser(denoiser)
    ranges = [sigma_range] if sigma_range else [LEVELS, denoiser.sigma_range, *([noise.sigma_range] if noise else [])]
    low, high = max(r[0] for r in ranges), min(r[1] for r in ranges)
    if not 0 < low < high < math.inf:
        raise ValueError(f"expected a range of levels 0 < low < high < infinity, received ({low:g}, {high:g})")
    count = math.ceil(math.log(high / low) / step) + 1
    return np.geomspace(high, low, count).tolist()
