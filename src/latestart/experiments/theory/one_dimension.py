"""The paper's figure in one dimension: two points at +-1, exactly and as a small network has learned them.

Under the variance preserving process, with `theta = alpha` the scale of the data, the reverse SDE runs down

    u(x, t) = beta (-x^2 / 4 - log p(x, t)),

which has one well at high noise and two at low noise. Its fixed points solve

    (1 + theta^2) x = 2 theta tanh(theta x / (1 - theta^2)):

x = 0 alone up to `theta_c`, +-x* with `|x*| ~ (theta - theta_c)^(1/2)` beyond, where 0 is unstable.

Beside the exact model stand small networks, one for each training seed, that have seen samples alone (`networks`).
Nothing makes a network symmetric: it has a critical level at the point of symmetry (`lambda = c` at x = 0, as for the
exact model), and a lower one from which on a second well exists, because an imperfect pitchfork is a fold beside a
branch that stays stable.

Expected: `theta_c = sqrt(sqrt(2) - 1) = 0.6436`; with beta from 0.1 to 20 that is t_c = 0.29264 of 1, and index 292 of
1,000 (291.70, between the integers) with linear betas 1e-4 to 0.02; exponent 0.4998 over theta - theta_c from 1e-6 to
1e-3. A state at time t has the sign of its sample with probability `Phi(1 / sigma)`: 0.80 at the critical level. The
networks' critical t is about 0.30, and the exact one lies in their interval.

Source: Raya and Ambrogioni 2023, section 3 and figure 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from scipy.stats import norm
from scipy.stats import t as student

from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import TwoPoints
from latestart.experiments.theory.line_networks import Network, Training, train
from latestart.experiments.theory.process import (
    AROUND,
    NOISE,
    PROCESS,
    Paths,
    Wells,
    reverse_paths,
    sigma_of,
    timed,
    wells,
)
from latestart.experiments.theory.settings import LineSettings
from latestart.lab.experiment import Experiment, Lab
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory import bifurcation, critical
from latestart.theory.branches import constant
from latestart.theory.jacobian import leading_eigenvalue
from latestart.theory.levels import CriticalLevel
from latestart.theory.roots import root

__all__ = [
    "Diagram", "OneDimension", "Result", "agreement", "diagram", "exponent", "fixed_points", "pooled", "second_well",
    "symmetric_level",
]  # fmt: skip

REACH = 1.6  # of the potentials, in x
THETAS = np.linspace(0.1, 0.98, 89)
LISTED = (0.8, 0.6, 0.45, 0.2, 0.1, 0.05)  # times at which signs are counted, besides the critical one
STEPS = 500  # of a path


# --- fixed points and critical levels ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Diagram(Record):
    """Fixed points of the reverse SDE: scales `theta` `(n,)`, positions `x` `(n,)`, and whether each is stable."""

    theta: np.ndarray
    x: np.ndarray
    stable: np.ndarray


def fixed_points(denoiser: Denoiser, sigma: float) -> list[tuple[float, bool]]:
    """Return all y with `D(y, sigma) = c y` on the line, rising, and whether each is stable (`D - c y` falls there)."""
    c = constant("sde", sigma)

    def force(y: np.ndarray | float) -> np.ndarray:
        rows = torch.as_tensor(np.atleast_1d(y), dtype=torch.float64).unsqueeze(1)
        with torch.no_grad():
            return (denoiser(rows, sigma) - c * rows).squeeze(1).numpy()

    grid = np.linspace(-1.3 / c, 1.3 / c, 802)  # an even number: 0, where the exact model has a root, is not on it
    signs = np.sign(force(grid))
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    roots = [root(lambda y: force(y).item(), grid[i], grid[i + 1], "D(y) - c y", xtol=1e-14) for i in changes]
    return [(y, bool(signs[i] > 0)) for y, i in zip(roots, changes)]


def diagram(denoiser: Denoiser, thetas: np.ndarray = THETAS) -> Diagram:
    """Return the fixed points at each scale theta, in x."""
    found = [(theta, theta * y, stable) for theta in thetas for y, stable in fixed_points(denoiser, sigma_of(theta))]
    return Diagram(*map(np.array, zip(*found)))


def symmetric_level(denoiser: Denoiser) -> float:
    """Return the level sigma at which `lambda = c` at the point of symmetry, y = 0, by the denoiser's Jacobian.

    Raises:
        ValueError: there is none between sigma = 0.3 and 5, as of a network that has not learned the two points.
    """

    def excess(log_sigma: float) -> float:
        sigma = math.exp(log_sigma)
        return leading_eigenvalue(denoiser, torch.zeros(1), sigma).leading - constant("sde", sigma)

    return math.exp(root(excess, math.log(0.3), math.log(5.0), "lambda - c at y = 0, by log sigma,", xtol=1e-10))


def second_well(denoiser: Denoiser, xtol: float = 1e-6) -> float:
    """Return the highest level sigma at which there are two stable points, to `xtol` in log sigma.

    Raises:
        ValueError: there are never two between sigma = 5 and 0.3.
    """

    def two(sigma: float) -> bool:
        return sum(stable for _, stable in fixed_points(denoiser, sigma)) > 1

    levels = np.geomspace(5.0, 0.3, 57).tolist()
    first = next((i for i, sigma in enumerate(levels) if two(sigma)), None)
    if not first:
        raise ValueError(f"expected one stable point at sigma = {levels[0]:g} and two below it, found no such change")
    high, low = levels[first - 1], levels[first]
    while math.log(high / low) > xtol:
        middle = math.sqrt(high * low)
        low, high = (middle, high) if two(middle) else (low, middle)
    return low


def pooled(sigmas: list[float], criterion: str) -> CriticalLevel:
    """Return the mean log sigma of several networks with Student's 95% interval; that of a single network has none."""
    logs, n = np.log(sigmas), len(sigmas)
    if n < 2:
        return CriticalLevel(sigmas[0], criterion, "one network").on(NOISE)
    half = student.ppf(0.975, n - 1) * logs.std(ddof=1) / math.sqrt(n)
    low, middle, high = (math.exp(logs.mean() + shift) for shift in (-half, 0.0, half))
    how = f"mean over {n} training seeds, Student's 95% interval of the mean"
    return CriticalLevel(middle, criterion, how, (low, high)).on(NOISE)


def exponent(theta_c: float) -> float:
    """Return the slope of `log |x*|` against `log(theta - theta_c)`, from 1e-6 to 1e-3 beyond the critical scale."""
    distance = np.geomspace(1e-6, 1e-3, 31)
    height = [bifurcation.one_dimension(theta_c + d) for d in distance.tolist()]
    return float(np.polyfit(np.log(distance), np.log(height), 1)[0])


def agreement(paths: Paths, t: float) -> dict[str, float]:
    """Return the share of paths that have the sign of their sample at time t, and the exact probability of it."""
    near = int(np.abs(paths.t - t).argmin())
    share, time = (paths.x[near].sign() == paths.x[-1].sign()).double().mean().item(), float(paths.t[near])
    return {"t": time, "share": share, "expected": float(norm.cdf(1 / NOISE.sigma(time)))}


def _of_each(networks: list[Network], level: Callable[[Denoiser], float]) -> list[float]:
    """A critical level of each network."""
    found = []
    for network in networks:
        try:
            found.append(level(network))
        except ValueError as error:
            raise ValueError(
                f"the network of seed {network.seed} has not learned the two points: {error}; train it for more --steps"
            ) from error
    return found


# --- the experiment ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Result(Record):
    """All that the figure shows.

    Attributes:
        settings: as given.
        exact: the exact critical level, by root finding on the exact denoiser's Jacobian; its t is of 1.
        index: the same as a time of 1,000, with linear betas 1e-4 to 0.02.
        networks: one for each training seed; the first is the one drawn.
        symmetric, second: the networks' critical levels sigma, at the point of symmetry and of the second well.
        wells: the potentials around the critical time, by falling time.
        branches, network_branches: the fixed points.
        paths: of the first network.
    """

    settings: LineSettings
    exact: CriticalLevel
    index: float
    networks: list[Network]
    symmetric: list[float]
    second: list[float]
    wells: list[Wells]
    branches: Diagram
    network_branches: Diagram
    paths: Paths

    @property
    def theta_c(self) -> float:
        """Return the exact critical scale."""
        return math.sqrt(self.exact.alpha_bar)

    @property
    def pooled(self) -> tuple[CriticalLevel, CriticalLevel]:
        """Return the networks' levels together: at the point of symmetry, and of the second well."""
        return pooled(self.symmetric, "sde, at the point of symmetry"), pooled(self.second, "sde, second well")

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        symmetric, second = (timed(level, NOISE) | {"theta": math.sqrt(level.alpha_bar)} for level in self.pooled)
        assert self.exact.t is not None
        return {
            "process": PROCESS,
            "exact": self.exact.record() | {"theta": self.theta_c},
            "index_of_1000": self.index,
            "exponent": exponent(self.theta_c),
            "network": {
                "training": vars(Training(steps=self.settings.steps)),
                "at_symmetry": symmetric,
                "second_well": second,
                "seeds": [
                    {"seed": network.seed, "t_at_symmetry": NOISE.time(a), "t_second_well": NOISE.time(b)}
                    for network, a, b in zip(self.networks, self.symmetric, self.second)
                ],
            },
            "potentials": [one.record() for one in self.wells],
            "sign_decided": [agreement(self.paths, t) for t in sorted((*LISTED, self.exact.t), reverse=True)],
            "paths": self.settings.samples,
        }


class OneDimension(Experiment[LineSettings, Result]):
    """Two points at +-1, exact and as small networks have learned them."""

    shown_by = "page.one_dimension"

    def measure(self, settings: LineSettings, lab: Lab) -> Result | None:
        """Solve the exact model, train the networks, and lay one over the other.

        Raises:
            ValueError: a network that has not learned the two points.
        """
        if not lab.run.first:
            return None
        model = TwoPoints()
        exact, index = critical.sde(model, NOISE), critical.sde(model, Noise.from_scheduler(DDPMScheduler())).t
        assert exact.t is not None and index is not None
        with lab.bar("training") as advance:
            seeds = range(settings.seed, settings.seed + settings.seeds)
            networks = train(seeds, Training(steps=settings.steps), advance)
        first = networks[0]
        return Result(
            settings=settings,
            exact=exact,
            index=index,
            networks=networks,
            symmetric=_of_each(networks, symmetric_level),
            second=_of_each(networks, second_well),
            wells=[wells(model, factor * exact.t, REACH, first) for factor in AROUND],
            branches=diagram(model),
            network_branches=diagram(first),
            paths=reverse_paths(first, settings.samples, STEPS, settings.seed),
        )
