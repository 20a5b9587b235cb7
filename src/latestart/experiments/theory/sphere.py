"""The paper's figure of a sphere: data uniform on the sphere of radius r in d dimensions.

The covariance is isotropic, `L = r^2 / d`, so at the critical level all directions become unstable at once. By symmetry
the drift is radial, and the fixed points beside 0 are a whole sphere of radius |x*| that solves

    D(y) . y / |y| = c |y|,    c = (1 + alpha_bar) / 2,    x = alpha y.

Along it the potential is flat: the d - 1 eigenvalues in its tangent directions are c exactly, and the ratio lambda / c
is 1 on all of it (in one dimension there are no such directions, and the ratio is below 1).

Expected: the critical level of criterion "sde" is `alpha_bar_c = sqrt(L^2 + 1) - L`; with r = 4 and d = 2, 8, 32, 128
that is 0.0623, 0.2361, 0.6180, 0.8828. On paths of the reverse SDE `E|x_t|^2 = alpha_bar r^2 + (1 - alpha_bar) d`.

Source: Raya and Ambrogioni 2023, section 3.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import Sphere
from latestart.experiments.theory.one_dimension import AROUND, NOISE, Paths, reverse_paths
from latestart.experiments.theory.settings import SphereSettings
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.lab.report import Report
from latestart.records import Record
from latestart.theory import critical
from latestart.theory.branches import constant
from latestart.theory.jacobian import leading_eigenvalue
from latestart.theory.levels import CriticalLevel
from latestart.theory.potential import potential, rates, ray

DIMS, RADIUS = (2, 8, 32, 128), 4.0
BISECTIONS = 60
RING = 0.5  # share of the way from theta_c to 1 at which the sphere of fixed points is examined
LISTED = 7  # times at which the norm is compared


@dataclass(frozen=True, eq=False, repr=False)
class Case(Record):
    """One number of dimensions.

    Attributes:
        dim: d.
        level: the critical level, by root finding on the denoiser's Jacobian.
        closed: alpha_bar_c by the closed form.
        theta, length: `(n,)`, scales, and the radius |x*| of the stable fixed points there; 0 up to the critical one.
        ratio: lambda / c on the sphere of fixed points.
    """

    dim: int
    level: CriticalLevel
    closed: float
    theta: np.ndarray
    length: np.ndarray
    ratio: float


@dataclass(frozen=True, eq=False, repr=False)
class Profile(Record):
    """The potential at one time over beta, less its value at 0, at signed distances `radius` `(n,)` from it."""

    t: float
    theta: float
    radius: np.ndarray
    value: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """All that the figure shows: a case for each d; potentials and paths of `drawn`, the middle one."""

    radius: float
    seed: int
    cases: list[Case]
    drawn: Case
    profiles: list[Profile]
    paths: Paths

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        dim, squares = self.drawn.dim, norms(self.paths).square()
        listed = np.linspace(0, len(self.paths.t) - 1, LISTED).round().astype(int).tolist()
        return {
            "process": "variance preserving, beta from 0.1 to 20, t from 0 to 1",
            "radius": self.radius,
            "cases": [
                {
                    "dim": c.dim,
                    "top_eigenvalue": self.radius**2 / c.dim,
                    **c.level.record(),
                    "closed_form": c.closed,
                    "off_by": c.level.alpha_bar / c.closed - 1,
                    "ratio_on_the_ring": c.ratio,
                }
                for c in self.cases
            ],
            "drawn": dim,
            "norms": [
                {
                    "t": float(self.paths.t[i]),
                    "mean_square": squares[i].mean().item(),
                    "error": squares[i].std().item() / math.sqrt(squares.shape[1]),
                    "expected": expected_square(float(self.paths.t[i]), dim, self.radius),
                }
                for i in listed
            ],
            "paths": squares.shape[1],
        }


def closed_form(dim: int, radius: float) -> float:
    """`alpha_bar_c = sqrt(L^2 + 1) - L` with `L = r^2 / d`, without cancellation."""
    top = radius**2 / dim
    return 1 / (math.sqrt(top**2 + 1) + top)


def radial_branch(denoiser: Denoiser, thetas: np.ndarray, limit: float) -> np.ndarray:
    """The radius |x*| of the stable fixed points at scales theta, `(n,)`, by bisection along one axis.

    Args:
        limit: of the denoiser's values: no |y*| lies above `limit / c`.
    """
    theta = torch.from_numpy(thetas)
    sigma = (1 - theta**2).sqrt() / theta
    c = (1 + theta**2) / 2
    axis = torch.zeros(denoiser.shape, dtype=torch.float64)
    axis[0] = 1.0
    low, high = torch.zeros_like(theta), limit / c
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        outward = denoiser(middle.unsqueeze(1) * axis, sigma) @ axis > c * middle
        low, high = torch.where(outward, middle, low), torch.where(outward, high, middle)
    return (theta * low).numpy()


def ring_ratio(denoiser: Denoiser, theta: float, length: float) -> float:
    """lambda / c at a point of the sphere of fixed points, at distance `length` in x."""
    sigma, y = math.sqrt(1 - theta**2) / theta, torch.zeros(denoiser.shape, dtype=torch.float64)
    y[0] = length / theta
    return leading_eigenvalue(denoiser, y, sigma, symmetric=True, tol=1e-8).leading / constant("sde", sigma)


def case(dim: int, radius: float, points: int = 80) -> Case:
    """The critical level, the branch and its stability in d dimensions.

    Raises:
        NoCrossing: the critical level lies outside of the levels that are searched, sigma from 0.01 to 100.
    """
    model = Sphere(dim, radius)
    level = critical.sde(model, NOISE, symmetric=True, step=0.5)
    theta_c = math.sqrt(level.alpha_bar)
    # close to the critical scale, where the branch is steep, the points stand close
    above = theta_c + (0.999 - theta_c) * np.linspace(0, 1, points) ** 2
    thetas = np.concatenate([np.linspace(0.01, theta_c, points // 4, endpoint=False), above])
    ring = theta_c + RING * (1 - theta_c)
    at_ring = radial_branch(model, np.array([ring]), radius).item()
    length = radial_branch(model, thetas, radius)
    return Case(dim, level, closed_form(dim, radius), thetas, length, ring_ratio(model, ring, at_ring))


def profile(model: Sphere, t: float, reach: float, points: int = 129) -> Profile:
    """The potential at time t along a line through the centre, from -reach to reach in x."""
    origin, axis = torch.zeros(model.shape, dtype=torch.float64), torch.eye(model.shape[0], dtype=torch.float64)[0]
    line, at = ray(origin, axis, reach), rates(NOISE, t)
    position = torch.linspace(line.low, line.high, points, dtype=torch.float64)
    value = potential(model, line.point(position), t, NOISE)
    return Profile(float(t), at.alpha, position.numpy(), ((value - value[points // 2]) / at.g2).numpy())


def norms(paths: Paths) -> Tensor:
    """|x| along each path, `(n, B)`."""
    return paths.x.norm(dim=2)


def along_outcome(paths: Paths) -> Tensor:
    """The component of each path's state in the direction of its own sample, `(n, B)`."""
    outcome = paths.x[-1] / paths.x[-1].norm(dim=1, keepdim=True)
    return (paths.x * outcome).sum(2)


def expected_square(t: float, dim: int, radius: float) -> float:
    """`E|x_t|^2 = alpha_bar r^2 + (1 - alpha_bar) d`."""
    alpha_bar = NOISE.alpha_bar(t)
    return alpha_bar * radius**2 + (1 - alpha_bar) * dim


def run(
    dims: tuple[int, ...] = DIMS,
    radius: float = RADIUS,
    samples: int = 64,
    seed: int = 0,
    steps: int = 250,
    progress: Progress | None = None,
) -> Result:
    """Critical levels, branches, potentials and paths of uniform spheres.

    Args:
        dims: numbers of dimensions; potentials and paths are those of the middle one.
        radius: r, of all.
        samples: paths of the reverse SDE.
        seed: of the paths.
        steps: of a path.
        progress: called as `progress(done, total, what)`.

    Raises:
        ValueError: no dimensions, fewer than one, or a radius that is not positive; or a critical level outside of
            those that are searched.
    """
    if not dims or samples < 1 or steps < 1:
        raise ValueError(f"expected numbers of dimensions, paths and steps, received {dims}, {samples} and {steps}")
    cases = []
    for dim in dims:
        cases.append(case(dim, radius))
        if progress is not None:
            progress(len(cases), len(dims) + 1, f"{dim} dimensions")
    drawn = cases[len(cases) // 2]
    model, t_c = Sphere(drawn.dim, radius), drawn.level.t
    assert t_c is not None
    times = [min(factor * t_c, NOISE.t_range[1]) for factor in AROUND]
    reach = 1.3 * max(drawn.length.max(), radius * NOISE.alpha(times[-1]))
    profiles = [profile(model, t, reach) for t in times]
    paths = reverse_paths(model, NOISE, samples, steps, seed)
    if progress is not None:
        progress(len(dims) + 1, len(dims) + 1, "paths")
    return Result(radius=radius, seed=seed, cases=cases, drawn=drawn, profiles=profiles, paths=paths)


class Spheres(Experiment[SphereSettings, Result]):
    """Critical levels of uniform spheres against their closed form."""

    def measure(self, settings: SphereSettings, lab: Lab) -> Result | None:
        """Solve every number of dimensions."""
        if not lab.run.first:
            return None
        with lab.bar("solving") as advance:
            return run(settings.dims, settings.radius, settings.samples, settings.seed, progress=advance)

    def page(self, result: Result, folder: Path) -> Report:
        """Draw the four panels, and return the levels as a table."""
        from latestart.experiments.theory.page import spheres

        return spheres(result, folder)
