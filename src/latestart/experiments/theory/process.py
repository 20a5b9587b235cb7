"""The paper's process, and the parts that the figures on it share: paths of its reverse SDE, and its potential.

Variance preserving, beta from 0.1 to 20, t from 0 to 1; `theta = alpha` is the scale of the data, `x = alpha y`.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.denoisers.base import Denoiser
from latestart.dynamics import sde
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory.levels import CriticalLevel, evaluate
from latestart.theory.potential import along, potential, rates, straight

__all__ = ["AROUND", "NOISE", "PROCESS", "T_MIN", "Paths", "Wells", "reverse_paths", "sigma_of", "timed", "wells"]

NOISE = Noise.vp()
PROCESS = "variance preserving, beta from 0.1 to 20, t from 0 to 1"
T_MIN = 1e-3  # where training and paths end: at t = 0 there is no noise
AROUND = (2.0, 1.4, 1.0, 0.75, 0.5)  # times of the potentials, in units of the critical one


def sigma_of(theta: float) -> float:
    """Return the noise level at a scale of the data, `sqrt(1 - theta^2) / theta`."""
    return math.sqrt(1 - theta**2) / theta


def timed(level: CriticalLevel, noise: Noise) -> dict[str, Any]:
    """Return the record of a level, with its interval in t too."""
    times = None if level.interval is None else [noise.time(sigma) for sigma in level.interval]
    return level.record() | {"interval_t": times}


@dataclass(frozen=True, eq=False, repr=False)
class Paths(Record):
    """Paths of the reverse SDE: falling times `(n,)`, and states x `(n, B, *shape)`, float64."""

    t: np.ndarray
    x: Tensor


@torch.no_grad()
def reverse_paths(denoiser: Denoiser, n: int, steps: int, seed: int) -> Paths:
    """Return n paths of the reverse SDE `dx/ds = -grad u + g dW/ds` from pure noise, by `dynamics.sde` in `x / alpha`.

    Args:
        steps: of equal length, from the highest time to `T_MIN`.
        seed: of all the noise.
    """
    white = partial(torch.randn, n, *denoiser.shape, generator=seeded(seed), dtype=torch.float64)
    t, x = np.linspace(NOISE.t_range[1], T_MIN, steps + 1), white()
    alpha, sigma = ([of(time) for time in t.tolist()] for of in (NOISE.alpha, NOISE.sigma))
    path = sde(partial(evaluate, denoiser), x / alpha[0], sigma, white)
    return Paths(t, torch.stack([x, *(scale * y for scale, y in zip(alpha[1:], path))]))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Wells(Record):
    """The potential at one time over beta, less its value at x = 0, on an axis through 0.

    Attributes:
        t, theta: the time, and the scale of the data there.
        x: `(n,)`, positions on the axis.
        exact: `(n,)`, of the exact model.
        network: `(n,)`, of a network; None without one.
    """

    t: float
    theta: float
    x: np.ndarray
    exact: np.ndarray
    network: np.ndarray | None = None

    def record(self) -> dict[str, Any]:
        """Return the time, and the network's largest error as a share of the exact potential's range."""
        assert self.network is not None
        off = float(np.abs(self.network - self.exact).max() / np.ptp(self.exact))
        return {"t": self.t, "theta": self.theta, "network_off_by": off}


def wells(model: Any, t: float, reach: float, network: Denoiser | None = None, points: int = 129) -> Wells:
    """Return potentials at time t from -reach to reach in x: an exact model's, and a network's by its line integral."""
    axis = torch.eye(model.shape[0], dtype=torch.float64)[0]
    x, at = np.linspace(-reach, reach, points), rates(NOISE, t)
    found = {"exact": potential(model, torch.from_numpy(x).unsqueeze(1) * axis, t, NOISE).numpy()}
    if network is not None:
        found["network"] = along(network, straight(-reach * axis, reach * axis), NOISE, t, points).potential
    relative = {name: (u - u[points // 2]) / at.g2 for name, u in found.items()}
    return Wells(t=float(t), theta=at.alpha, x=x, **relative)
