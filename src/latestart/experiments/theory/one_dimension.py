"""The paper's figure in one dimension: two points at +-1, exactly and as a small network has learned them.

Under the variance preserving process, with `theta = alpha` the scale of the data, the reverse SDE runs down

    u(x, t) = beta (-x^2 / 4 - log p(x, t)),

which has one well at high noise and two at low noise. Its fixed points solve

    (1 + theta^2) x = 2 theta tanh(theta x / (1 - theta^2)):

x = 0 alone up to `theta_c`, +-x* with `|x*| ~ (theta - theta_c)^(1/2)` beyond, where 0 is unstable.

Beside the exact model stand small networks, one for each training seed, that have seen samples alone. A network
predicts v of x and the angle `phi = atan2(std, alpha)`; for data of variance 1, `D = alpha x - std v` with v = 0 is the
linear denoiser, so a network learns what is not linear, and is right at high noise. Nothing makes it symmetric: it has
a critical level at the point of symmetry (`lambda = c` at x = 0, as for the exact model), and a lower one from which on
a second well exists, because an imperfect pitchfork is a fold beside a branch that stays stable.

Expected: `theta_c = sqrt(sqrt(2) - 1) = 0.6436`; with beta from 0.1 to 20 that is t_c = 0.29264 of 1, and index 292 of
1,000 (291.70, between the integers) with linear betas 1e-4 to 0.02; exponent 0.4998 over theta - theta_c from 1e-6 to
1e-3. A state at time t has the sign of its sample with probability `Phi(1 / sigma)`: 0.80 at the critical level. The
networks' critical t is about 0.30, and the exact one lies in their interval.

Source: Raya and Ambrogioni 2023, section 3 and figure 1.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from latestart.checks import seeded
from latestart.denoisers.base import Denoiser, Level, check_sample
from latestart.denoisers.exact import TwoPoints
from latestart.dynamics import sde
from latestart.experiments.theory.settings import LineSettings
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.lab.report import Report
from latestart.noise import Noise
from latestart.records import Record
from latestart.theory import bifurcation, critical
from latestart.theory.branches import constant
from latestart.theory.jacobian import leading_eigenvalue
from latestart.theory.levels import CriticalLevel, evaluate
from latestart.theory.potential import along, potential, rates, straight
from latestart.theory.roots import root

NOISE = Noise.vp()
T_MIN = 1e-3  # where training and paths end: at t = 0 there is no noise
AROUND = (2.0, 1.4, 1.0, 0.75, 0.5)  # times of the potentials, in units of the critical one
REACH = 1.6  # of the potentials, in x
THETAS = np.linspace(0.1, 0.98, 89)
LISTED = (0.8, 0.6, 0.45, 0.2, 0.1, 0.05)  # times at which signs are counted, besides the critical one
Weights = list[tuple[Tensor, Tensor]]


# --- the network ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Training:
    """How the networks are trained: Adam, one cycle of the learning rate, each draw with both signs."""

    steps: int = 2000
    batch: int = 512
    width: int = 32
    depth: int = 2
    learning_rate: float = 1e-2


class Network:
    """A trained network of two points on a line, as a denoiser of `y` `(B, 1)`, in float64."""

    shape = (1,)
    dtype = torch.float64
    device = torch.device("cpu")
    sigma_range = (NOISE.sigma(T_MIN), NOISE.sigma(1.0))

    def __init__(self, weights: Weights, seed: int) -> None:
        self.weights, self.seed = weights, seed

    def __call__(self, y: Tensor, sigma: Level) -> Tensor:
        """`D = alpha x - std v(x, phi)` with `x = alpha y`, `(B, 1)`; differentiable in y."""
        check_sample(y, self.shape)
        level = torch.as_tensor(sigma, dtype=y.dtype).expand(len(y)).unsqueeze(1)
        alpha = (1 + level**2) ** -0.5
        return alpha**2 * y - level * alpha * velocity(self.weights, alpha * y, alpha, level * alpha)


def velocity(weights: Weights, x: Tensor, alpha: Tensor, std: Tensor) -> Tensor:
    """v of `x` `(..., B, 1)`: a perceptron with SiLU. Weights `(..., in, out)` may hold many networks side by side."""
    phi = torch.atan2(std, alpha)
    hidden = torch.cat([x, alpha, std, torch.sin(2 * phi), torch.cos(4 * phi)], -1)
    for weight, bias in weights[:-1]:
        hidden = torch.nn.functional.silu(hidden @ weight + bias)
    weight, bias = weights[-1]
    return hidden @ weight + bias


def train(seeds: range, training: Training, progress: Progress | None = None) -> list[Network]:
    """Train a network for each seed on samples of the two points; all are trained side by side.

    Network k depends on its own seed alone: its first weights and all that it sees come from a generator of its own.
    """
    generators = [seeded(seed) for seed in seeds]
    weights = _initial(generators, training)
    parameters = [parameter for layer in weights for parameter in layer]
    optimiser = torch.optim.Adam(parameters, training.learning_rate)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, training.learning_rate, total_steps=training.steps, pct_start=0.1
    )
    for step in range(training.steps):
        x, v, alpha, std = torch.stack([_batch(g, training.batch) for g in generators], 1)
        # a sum over networks: the gradient of each is that of its own mean
        error = (velocity(weights, x, alpha, std) - v).square().mean((1, 2)).sum()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        rate.step()
        if progress is not None and (step + 1) % 50 == 0:
            progress(step + 1, training.steps, f"loss {error.item() / len(seeds):.3f}")
    return [
        Network([(w[k].detach().double(), b[k].detach().double()) for w, b in weights], seed)
        for k, seed in enumerate(seeds)
    ]


def _initial(generators: list[torch.Generator], training: Training) -> Weights:
    sizes = [5, *[training.width] * training.depth, 1]
    return [
        (
            torch.stack([torch.randn(n, m, generator=g) / math.sqrt(n) for g in generators]).requires_grad_(),
            torch.zeros(len(generators), 1, m, requires_grad=True),
        )
        for n, m in pairwise(sizes)
    ]


def _batch(generator: torch.Generator, size: int) -> Tensor:
    """x, v, alpha and std, `(4, 2 size, 1)`; the times are stratified, and each draw counts with both signs."""
    share = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    t = T_MIN + (1 - T_MIN) * share
    alpha, std = NOISE.alpha(t).float().unsqueeze(1), NOISE.std(t).float().unsqueeze(1)
    x_0 = 2.0 * torch.randint(2, (size, 1), generator=generator) - 1
    eps = torch.randn(size, 1, generator=generator)
    x, v = alpha * x_0 + std * eps, alpha * eps - std * x_0
    return torch.stack([torch.cat(pair) for pair in ((x, -x), (v, -v), (alpha, alpha), (std, std))])


# --- fixed points and critical levels ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Diagram(Record):
    """Fixed points of the reverse SDE: scales `theta` `(n,)`, positions `x` `(n,)`, and whether each is stable."""

    theta: np.ndarray
    x: np.ndarray
    stable: np.ndarray


def fixed_points(denoiser: Denoiser, sigma: float) -> list[tuple[float, bool]]:
    """All y with `D(y, sigma) = c y` on the line, rising, each with whether it is stable (`D - c y` falls there)."""
    c = constant("sde", sigma)

    def force(y: np.ndarray | float) -> np.ndarray:
        rows = torch.as_tensor(np.atleast_1d(y), dtype=torch.float64).unsqueeze(1)
        with torch.no_grad():
            return (denoiser(rows, sigma) - c * rows).squeeze(1).numpy()

    grid = np.linspace(-1.3 / c, 1.3 / c, 802)  # an even number: 0, where the exact model has a root, is not on it
    signs = np.sign(force(grid))
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    pull = "D(y) - c y"
    roots = [root(lambda y: force(y).item(), grid[i], grid[i + 1], pull, xtol=1e-14) for i in changes]
    return [(y, bool(signs[i] > 0)) for y, i in zip(roots, changes)]


def diagram(denoiser: Denoiser, thetas: np.ndarray = THETAS) -> Diagram:
    """The fixed points at each scale theta, in x."""
    found = [
        (theta, theta * y, stable)
        for theta in thetas.tolist()
        for y, stable in fixed_points(denoiser, math.sqrt(1 - theta**2) / theta)
    ]
    theta, x, stable = zip(*found)
    return Diagram(np.array(theta), np.array(x), np.array(stable))


def symmetric_level(denoiser: Denoiser) -> float:
    """The level sigma at which `lambda = c` at the point of symmetry, y = 0: the root on the denoiser's Jacobian.

    Raises:
        ValueError: there is none between sigma = 0.3 and 5, as of a network that has not learned the two points.
    """

    def excess(log_sigma: float) -> float:
        sigma = math.exp(log_sigma)
        return leading_eigenvalue(denoiser, torch.zeros(1), sigma).leading - constant("sde", sigma)

    return math.exp(root(excess, math.log(0.3), math.log(5.0), "lambda - c at y = 0, by log sigma,", xtol=1e-10))


def second_well(denoiser: Denoiser, xtol: float = 1e-6) -> float:
    """The highest level sigma at which there are two stable points, to `xtol` in log sigma.

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
    """The mean log sigma of several networks, with Student's 95% interval of that mean; none for a single network."""
    logs = np.log(sigmas)
    how = f"mean over {len(sigmas)} training seeds, Student's 95% interval of the mean"
    if len(logs) < 2:
        return CriticalLevel(sigmas[0], criterion, "one network").on(NOISE)
    half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / math.sqrt(len(logs))
    low, high = math.exp(logs.mean() - half), math.exp(logs.mean() + half)
    return CriticalLevel(math.exp(logs.mean()), criterion, how, (low, high)).on(NOISE)


def exponent(theta_c: float) -> float:
    """The slope of `log |x*|` against `log(theta - theta_c)`, from 1e-6 to 1e-3 beyond the critical scale."""
    distance = np.geomspace(1e-6, 1e-3, 31)
    height = [bifurcation.one_dimension(theta_c + d) for d in distance.tolist()]
    return float(np.polyfit(np.log(distance), np.log(height), 1)[0])


# --- potentials and paths ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class Wells(Record):
    """The potential at one time over beta, less its value at x = 0: of the exact model and of a network, `(n,)`."""

    t: float
    theta: float
    x: np.ndarray
    exact: np.ndarray
    network: np.ndarray

    @property
    def off(self) -> float:
        """The largest error of the network's potential, as a share of the exact one's range."""
        return float(np.abs(self.network - self.exact).max() / np.ptp(self.exact))


def wells(network: Denoiser, t: float, points: int = 129) -> Wells:
    """Both potentials at time t over -REACH ... REACH; the network's is the line integral of its drift."""
    at = rates(NOISE, t)
    ends = torch.tensor([[-REACH], [REACH]], dtype=torch.float64)
    profile = along(network, straight(*ends), NOISE, t, points)
    x = np.linspace(-REACH, REACH, points)
    exact = potential(TwoPoints(), torch.from_numpy(x).unsqueeze(1), t, NOISE).numpy()
    centred = [(u - u[points // 2]) / at.g2 for u in (exact, profile.potential)]
    return Wells(float(t), at.alpha, x, centred[0], centred[1])


@dataclass(frozen=True, eq=False, repr=False)
class Paths(Record):
    """Paths of the reverse SDE: falling times `(n,)`, and states x `(n, B, *shape)`, float64."""

    t: np.ndarray
    x: Tensor

    def at(self, t: float) -> Tensor:
        """The states at the time nearest to t, `(B, *shape)`."""
        return self.x[int(np.abs(self.t - t).argmin())]


@torch.no_grad()
def reverse_paths(denoiser: Denoiser, noise: Noise, n: int, steps: int, seed: int, t_min: float = T_MIN) -> Paths:
    """Paths of the reverse SDE `dx/ds = -grad u + g dW/ds` from pure noise, by `dynamics.sde` in `x / alpha`.

    Args:
        noise: a variance preserving process.
        n: paths.
        steps: of equal length, from the highest time to `t_min`.
        seed: of all the noise.
    """
    generator = seeded(seed)
    t = np.linspace(noise.t_range[1], t_min, steps + 1)
    x = torch.randn(n, *denoiser.shape, generator=generator, dtype=torch.float64)
    alpha = [noise.alpha(time) for time in t.tolist()]
    white = partial(torch.randn, x.shape, generator=generator, dtype=torch.float64)
    path = sde(partial(evaluate, denoiser), x / alpha[0], [noise.sigma(time) for time in t.tolist()], white)
    return Paths(t, torch.stack([x, *(scale * y for scale, y in zip(alpha[1:], path))]))


def agreement(paths: Paths, t: float) -> dict[str, float]:
    """The share of paths that have the sign of their sample at time t already, and the exact probability of it."""
    near = float(paths.t[np.abs(paths.t - t).argmin()])
    share = (paths.at(near).sign() == paths.x[-1].sign()).double().mean().item()
    return {"t": near, "share": share, "expected": float(norm.cdf(1 / NOISE.sigma(near)))}


def _of_each(networks: list["Network"], level: Callable[[Denoiser], float]) -> list[float]:
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


@dataclass(frozen=True, eq=False)
class Result:
    """All that the figure shows.

    Attributes:
        exact: the exact critical level, by root finding on the exact denoiser's Jacobian; its t is of 1.
        seed: of the paths, and the first training seed.
        index: the same as a time of 1,000, with linear betas 1e-4 to 0.02.
        exponent: of the branch beyond it.
        networks: one for each training seed; the first is the one drawn.
        symmetric, second: the networks' critical levels sigma, at the point of symmetry and of the second well.
        wells: the potentials around the critical time, by falling time.
        branches, network_branches: the fixed points.
        paths: of the first network.
    """

    exact: CriticalLevel
    index: float
    exponent: float
    seed: int
    training: Training
    networks: list[Network]
    symmetric: list[float]
    second: list[float]
    wells: list[Wells]
    branches: Diagram
    network_branches: Diagram
    paths: Paths

    @property
    def theta_c(self) -> float:
        """The exact critical scale."""
        return math.sqrt(self.exact.alpha_bar)

    @property
    def pooled(self) -> tuple[CriticalLevel, CriticalLevel]:
        """The networks' levels together: at the point of symmetry, and of the second well."""
        return pooled(self.symmetric, "sde, at the point of symmetry"), pooled(self.second, "sde, second well")

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        symmetric, second = self.pooled
        assert self.exact.t is not None
        return {
            "process": "variance preserving, beta from 0.1 to 20, t from 0 to 1",
            "exact": {**self.exact.record(), "theta": self.theta_c},
            "index_of_1000": self.index,
            "exponent": self.exponent,
            "network": {
                "training": vars(self.training),
                "at_symmetry": _named(symmetric),
                "second_well": _named(second),
                "seeds": [
                    {"seed": network.seed, "t_at_symmetry": NOISE.time(a), "t_second_well": NOISE.time(b)}
                    for network, a, b in zip(self.networks, self.symmetric, self.second)
                ],
            },
            "potentials": [
                {
                    "t": w.t,
                    "theta": w.theta,
                    "network_off_by": float(np.abs(w.network - w.exact).max() / np.ptp(w.exact)),
                }
                for w in self.wells
            ],
            "sign_decided": [agreement(self.paths, t) for t in sorted((*LISTED, self.exact.t), reverse=True)],
            "paths": self.paths.x.shape[1],
        }


def run(
    seeds: int = 5,
    samples: int = 500,
    seed: int = 0,
    training: Training | None = None,
    steps: int = 500,
    progress: Progress | None = None,
) -> Result:
    """Solve the exact model, train the networks, and lay one over the other.

    Args:
        seeds: networks to train, with the training seeds `seed`, `seed + 1`, ...
        samples: paths of the reverse SDE.
        seed: the first training seed, and that of the paths.
        training: how the networks are trained.
        steps: of a path.
        progress: called as `progress(done, total, what)`.

    Raises:
        ValueError: no seed or no samples.
    """
    if seeds < 1 or samples < 1 or steps < 1:
        raise ValueError(f"expected at least one network, path and step, received {seeds}, {samples} and {steps}")
    training = training or Training()
    model = TwoPoints()
    exact = critical.sde(model, NOISE)
    index = critical.sde(model, Noise.from_scheduler(DDPMScheduler())).t
    assert exact.t is not None and index is not None
    networks = train(range(seed, seed + seeds), training, progress)
    return Result(
        exact=exact,
        index=index,
        exponent=exponent(math.sqrt(exact.alpha_bar)),
        seed=seed,
        training=training,
        networks=networks,
        symmetric=_of_each(networks, symmetric_level),
        second=_of_each(networks, second_well),
        wells=[wells(networks[0], factor * exact.t) for factor in AROUND],
        branches=diagram(model),
        network_branches=diagram(networks[0]),
        paths=reverse_paths(networks[0], NOISE, samples, steps, seed),
    )


def _named(level: CriticalLevel) -> dict[str, Any]:
    """The record of a level, with the interval in t and the scale theta too."""
    times = None if level.interval is None else [NOISE.time(sigma) for sigma in level.interval]
    return {**level.record(), "theta": math.sqrt(level.alpha_bar), "interval_t": times}


class OneDimension(Experiment[LineSettings, Result]):
    """Two points at +-1, exact and as small networks have learned them."""

    def measure(self, settings: LineSettings, lab: Lab) -> Result | None:
        """Solve the exact model, and train the networks."""
        if not lab.run.first:
            return None
        with lab.bar("training") as advance:
            training = Training(steps=settings.steps)
            return run(settings.seeds, settings.samples, settings.seed, training, progress=advance)

    def page(self, result: Result, folder: Path) -> Report:
        """Draw the three panels, and return the levels in words."""
        from latestart.experiments.theory.page import one_dimension

        return one_dimension(result, folder)
