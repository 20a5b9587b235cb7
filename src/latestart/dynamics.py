"""The reverse dynamics of any denoiser in `y = x_0 + sigma eps`: from one noise level down to the next.

With `D = D(y, sigma) = E[x_0 | y]`, noise is removed along the probability flow, or along one of the reverse SDEs that
share its distribution at every level (eta = 1 is the time reversal of the noising, eta = 0 the flow),

    ODE     dy = (y - D) / sigma d sigma
    SDE     dy = (1 + eta^2) (y - D) / sigma d sigma + eta sqrt(2 sigma) dW            sigma falls, d sigma < 0

A step from the level s to t < s, with the slope `e(y, s) = (y - D) / s` and white noise z:

    Euler   y' = y + (t - s) e(y, s)                                                    order 1 (DDIM)
    Heun    y' = y + (t - s) (e(y, s) + e(y*, t)) / 2,    y* Euler's y'                 order 2, 2 evaluations a step
    SDE     y' = D + sqrt(r (1 - f)) (y - D) + t sqrt(f) z,    r = t^2 / s^2,    f = eta^2 (1 - r)

For eta = 1 the last is the exact posterior of the lower level given `x_0 = D`; it leaves out `(1 - r)^2 Cov[x_0 | y]`
of the spread, so moments converge at order 1. A step to t = 0 returns D, in every scheme.

Sources: Karras et al. 2022 (arXiv 2206.00364), algorithm 1; Song, Meng and Ermon 2021 (arXiv 2010.02502), formula (12).
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal

from torch import Tensor

__all__ = ["Denoise", "ode", "sde"]

Denoise = Callable[[Tensor, float], Tensor]  # y `(B, *shape)` and sigma to D, `(B, *shape)`


def ode(denoise: Denoise, y: Tensor, sigmas: Sequence[float], order: Literal[1, 2] = 2) -> Iterator[Tensor]:
    """Yield the state `(B, *shape)` after each step of the probability flow.

    Args:
        denoise: a denoiser, or any function of `y` and `sigma`.
        y: `(B, *shape)`, at the first level.
        sigmas: falling levels, the last may be 0.
        order: 1 for Euler, 2 for Heun.

    Raises:
        ValueError: levels that do not fall, or an order that is not 1 or 2.
    """
    if order not in (1, 2):
        raise ValueError(f"expected order 1 (Euler) or 2 (Heun), received {order}")
    for s, t in _steps(sigmas):
        clean = denoise(y, s)
        slope, lower = (y - clean) / s, clean + t / s * (y - clean)
        if order == 2 and t:
            slope = (slope + (lower - denoise(lower, t)) / t) / 2
            lower = y + (t - s) * slope
        y = lower
        yield y


def sde(
    denoise: Denoise,
    y: Tensor,
    sigmas: Sequence[float],
    white: Callable[[], Tensor] | None = None,
    eta: float = 1.0,
) -> Iterator[Tensor]:
    """Yield the state `(B, *shape)` after each step of the reverse SDE.

    Args:
        denoise: a denoiser, or any function of `y` and `sigma`.
        y: `(B, *shape)`, at the first level.
        sigmas: falling levels, the last may be 0.
        white: draws white noise in the shape of y; called once a step, except for a step to 0.
        eta: share of noise, from 0 (the probability flow, without draws) to 1.

    Raises:
        ValueError: levels that do not fall, eta outside of [0, 1], or no `white` where noise is drawn.
    """
    if not 0 <= eta <= 1 or (eta and white is None):
        raise ValueError(f"expected eta from 0 to 1, and `white` where it is above 0, received eta={eta}")
    for s, t in _steps(sigmas):
        kept = t**2 / s**2
        fresh = eta**2 * (1 - kept)
        clean = denoise(y, s)
        y = clean + math.sqrt(kept * (1 - fresh)) * (y - clean)
        if fresh and t and white is not None:
            y = y + t * math.sqrt(fresh) * white()
        yield y


def _steps(sigmas: Sequence[float]) -> Iterator[tuple[float, float]]:
    levels = [float(sigma) for sigma in sigmas]
    if not all(math.inf > s > t >= 0 for s, t in pairwise(levels)):
        raise ValueError(f"expected finite noise levels that fall to 0 or above, received {levels}")
    return pairwise(levels)
