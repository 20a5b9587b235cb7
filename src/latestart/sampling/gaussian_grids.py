"""Levels that are the best for Gaussian data, in closed form: no network is asked.

Of data `N(m, Q diag(l) Q^T)` the denoiser is linear, `D - m = a z` in each direction, with `z = y - m` and
`a = l / (l + sigma^2)`. So are the deterministic solvers of diffusers, and a run of one multiplies each direction by a
number. From the level s to t,

    DDIM          z' = t/s z + (1 - t/s) a_s z
    DPM++ 2M      the same with `E = d_s + (d_s - d_r) / (2 h)` for `d_s = a_s z`, where r is the level before and
                  `h = log(r / s) / log(s / t)`; its first step and its last are DDIM's

and the last step, to 0, returns `D`. With the product c of all steps and the start's variances v the samples are
`N(m + c (start's mean - m), c^2 v)`, and their 2-Wasserstein distance to the data is

    error^2 = sum over k of (|c_k| sqrt(v_k) - sqrt(l_k))^2 + c_k^2 (start's mean - m)_k^2

A late start draws from the Gaussian at its first level s: `v = l + s^2`, and no difference of means. Full noise is
white: `v = 1 + s^2` and the mean 0, at whatever level it begins.

The levels are found by L-BFGS over the logarithms of their ratios, from every usual spacing; those of a schedule with
betas are rounded to whole times, and moved one by one while that helps. So no usual spacing is better, in this error.
A late start at a free level has no answer: the lower it begins, the less is left to go wrong with a Gaussian.

Source: the error is that of B. Wang and J. Vastola, "The unreasonable effectiveness of Gaussian score approximation",
2024, arXiv:2412.09726, for the solvers as they are; the search over levels is ours.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from latestart.checks import whole_number
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.noise import Noise
from latestart.sampling.families import family_of
from latestart.sampling.spacings import whole_times

__all__ = ["SOLVERS", "Solver", "gaussian_error", "gaussian_optimal"]

Solver = Literal["ddim", "dpm++"]
SOLVERS: tuple[Solver, ...] = ("ddim", "dpm++")
FAR = 1e6  # stands for a level without any signal
RHO = 7  # of Karras et al. 2022
NARROW = 1e-4  # of the log ratio of two levels, below which a search does not go
MOVES = (-16, -4, -1, 1, 4, 16)  # of a whole time


def gaussian_error(prior: Any, levels: Sequence[float], solver: Solver = "dpm++", *, late: bool = True) -> float:
    """The 2-Wasserstein distance to Gaussian data of what a solver makes of it over some levels.

    Args:
        prior: the data, a Gaussian, or a mixture, of which the Gaussian of all is taken.
        levels: falling noise levels sigma, one for each evaluation; the last step leads to 0.
        solver: "ddim", also for Euler; "dpm++", DPM-Solver++ 2M with its default settings.
        late: whether the start is drawn from the Gaussian; False begins with white noise.

    Raises:
        ValueError: levels that do not fall or are not above 0, another solver.
        TypeError: a prior without a Gaussian.
    """
    known = [min(float(level), FAR) for level in levels]
    if not known or any(not math.inf > s > t for s, t in pairwise([*known, 0.0])):
        raise ValueError(f"expected falling noise levels above 0, received {list(levels)}")
    return float(_Errors(prior, solver, late)(torch.tensor(known, dtype=torch.float64)))


def gaussian_optimal(
    prior: Any,
    scheduler: Any,
    steps: int,
    t_start: float | None = None,
    *,
    solver: Solver = "dpm++",
    fixed: bool | None = None,
) -> list[float]:
    """The times of a run whose `gaussian_error` is the smallest, falling, one for each step.

    Args:
        prior: as for `gaussian_error`.
        scheduler: the one that the model was trained with: its levels and its times.
        steps: the number of steps.
        t_start: of a late start from the prior, in the scheduler's t; None begins with white noise.
        solver: as for `gaussian_error`.
        fixed: whether the first time is the start; by default so for a late start, and not for full noise.

    Raises:
        ValueError: more steps than there are times; a start outside of the schedule; a late start at a free level.
    """
    late, steps = t_start is not None, whole_number("steps", steps)
    if late and fixed is False:
        raise ValueError("a late start from a Gaussian at a free level has no best one: its error falls to 0 with it")
    family = family_of(scheduler)
    grid = _Grid(family.noise, family.noise.kind == "vp", late or bool(fixed))
    first = family.first_time(family.top if t_start is None else t_start)
    low, high = family.noise.t_range
    if not low < first <= high or (grid.whole and steps > first + 1):
        raise ValueError(f"t_start={t_start}: no room for {steps} steps from t = {first:g} down to {low:g}")
    errors = _Errors(prior, solver, late)

    def error(times: Sequence[float]) -> float:
        return float(errors(grid.levels(times)))

    rivals = [grid.settled(times) for times in _rivals(family.noise, first, steps, grid.fixed)]
    found = [grid.settled(_searched(grid, errors, times, first)) for times in rivals]
    best = min((*found, *rivals), key=error)
    return _moved(best, error, high, grid.fixed) if grid.whole else best


class _Errors:
    """The error as a function of levels `(n,)`, float64, which can be differentiated."""

    def __init__(self, prior: Any, solver: Solver, late: bool) -> None:
        if solver not in SOLVERS:
            raise ValueError(
                f"there is no closed form of the solver {solver!r}; there are those of {', '.join(SOLVERS)}"
            )
        data = prior.gaussian() if isinstance(prior, Mixture) else prior
        if not isinstance(data, Gaussian):
            raise TypeError(f"expected a Gaussian or a mixture of Gaussians, received a {type(prior).__name__}")
        self.variances, self.count = data.variances.cpu(), data.basis.multiplicity.cpu()
        self.offset = torch.zeros_like(self.variances)
        if not late:
            self.offset = data.basis.energies(data.mean[None].double())[0].cpu().to(self.variances)
        self.second, self.late = solver == "dpm++", late

    def __call__(self, levels: Tensor) -> Tensor:
        l, c, seen = self.variances, torch.ones_like(self.variances), None
        for i, s in enumerate(levels):
            d = c * l / (l + s * s)
            if i == len(levels) - 1:
                c = d
                break
            t, e = levels[i + 1], d
            if self.second and seen is not None:
                e = d + (d - seen) * torch.log(s / t) / (2 * torch.log(levels[i - 1] / s))
            c, seen = t / s * c + (1 - t / s) * e, d
        start = l + levels[0] ** 2 if self.late else 1 + levels[0] ** 2
        squares = self.count * (c.abs() * torch.sqrt(start) - torch.sqrt(l)) ** 2 + c**2 * self.offset
        return torch.sqrt(squares.sum())


class _Grid:
    """The times and levels of a schedule.

    Args:
        noise: its process.
        whole: whether its times are whole numbers.
        fixed: whether the first time is given.
    """

    def __init__(self, noise: Noise, whole: bool, fixed: bool) -> None:
        self.noise, self.whole, self.fixed = noise, whole, fixed

    def levels(self, times: Sequence[float]) -> Tensor:
        return torch.as_tensor(self.noise.sigma(torch.tensor(times, dtype=torch.float64))).clamp(max=FAR)

    def times(self, levels: Sequence[float]) -> list[float]:
        return [self.noise.clamped_time(float(level)) for level in levels]

    def settled(self, times: Sequence[float]) -> list[float]:
        """Times that a run can have: whole ones are rounded, and kept apart."""
        if not self.whole:
            return list(times)
        return whole_times(times)


def _rivals(noise: Noise, first: float, steps: int, fixed: bool) -> list[list[float]]:
    """The usual spacings of so many steps: trailing, leading where it may begin below, Karras and even log levels."""
    low, high = noise.t_range
    vp = noise.kind == "vp"
    found = [[first - (first - low + vp) * k / steps for k in range(steps)]]
    if vp and not fixed and (stride := (high + 1) // steps):
        found.append([(steps - 1 - k) * stride for k in range(steps)])
    s, end = min(noise.sigma(first), FAR), max(noise.sigma_range[0], 1e-3)
    share = np.arange(steps) / steps
    karras = (s ** (1 / RHO) + share * (end ** (1 / RHO) - s ** (1 / RHO))) ** RHO
    logs = np.exp(math.log(s) + share * math.log(end / s))
    return found + [[first, *(noise.clamped_time(float(one)) for one in levels[1:])] for levels in (karras, logs)]


def _searched(grid: _Grid, errors: Callable[[Tensor], Tensor], times: Sequence[float], first: float) -> list[float]:
    """The times that L-BFGS finds from some: their log ratios are shares of the way from the top to the lowest."""
    top = math.log(min(grid.noise.sigma(first), FAR))
    end = math.log(max(grid.noise.sigma_range[0], 1e-3)) - 1e-3
    known = grid.levels(times).log()
    edges = known if grid.fixed else torch.cat([torch.full((1,), top, dtype=torch.float64), known])
    gaps = -torch.cat([edges, torch.full((1,), end, dtype=torch.float64)]).diff()

    def levels(free: Tensor) -> Tensor:
        shares = torch.softmax(free, 0) * (top - end - NARROW * len(free)) + NARROW
        below = top - torch.cumsum(shares, 0)[:-1]
        return torch.exp(torch.cat([torch.full((1,), top, dtype=torch.float64), below]) if grid.fixed else below)

    def value(free: np.ndarray) -> tuple[float, np.ndarray]:
        asked = torch.tensor(free, dtype=torch.float64, requires_grad=True)
        with torch.enable_grad():
            found = errors(levels(asked))
            (slope,) = torch.autograd.grad(found, asked)
        return float(found.detach()), slope.numpy()

    begun = gaps.clamp(min=1e-3).log().numpy()
    found = levels(torch.tensor(minimize(value, begun, jac=True, method="L-BFGS-B").x)).tolist()
    return [first, *grid.times(found[1:])] if grid.fixed else grid.times(found)


def _moved(times: list[float], error: Callable[[Sequence[float]], float], high: float, fixed: bool) -> list[float]:
    """Whole times up to `high`, moved one by one while that lowers the error; a `fixed` first one stays."""
    best, lowest = list(times), error(times)
    better = True
    while better:
        better = False
        for i in range(fixed, len(best)):
            for move in MOVES:
                tried = [t + move * (k == i) for k, t in enumerate(best)]
                room = high >= tried[0] and tried[-1] >= 0 and all(a > b for a, b in pairwise(tried))
                if room and (found := error(tried)) < lowest * (1 - 1e-9):
                    best, lowest, better = tried, found, True
    return best
