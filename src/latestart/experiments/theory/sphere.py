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
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import Sphere
from latestart.experiments.theory.process import AROUND, NOISE, PROCESS, Paths, Wells, reverse_paths, sigma_of, wells
from latestart.experiments.theory.settings import SphereSettings
from latestart.lab.experiment import Experiment, Lab
from latestart.records import Record
from latestart.theory import critical
from latestart.theory.branches import constant
from latestart.theory.jacobian import leading_eigenvalue
from latestart.theory.levels import CriticalLevel

__all__ = [
    "Case", "Result", "Spheres", "along_outcome", "case", "closed_form", "expected_square", "norms", "radial_branch",
]  # fmt: skip

BISECTIONS = 60
RING = 0.5  # share of the way from theta_c to 1 at which the sphere of fixed points is examined
LISTED = 7  # times at which the norm is compared
STEPS = 250  # of a path


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Case(Record):
    """One number of dimensions.

    Attributes:
        dim, radius: d and r.
        level: the critical level, by root finding on the denoiser's Jacobian.
        theta, length: `(n,)`, scales, and the radius |x*| of the stable fixed points there; 0 up to the critical one.
        ratio: lambda / c on the sphere of fixed points.
    """

    dim: int
    radius: float
    level: CriticalLevel
    theta: np.ndarray
    length: np.ndarray
    ratio: float

    def record(self) -> dict[str, Any]:
        """Return the critical level beside its closed form, and the ratio, for JSON."""
        closed = closed_form(self.dim, self.radius)
        compared = {"closed_form": closed, "off_by": self.level.alpha_bar / closed - 1, "ratio_on_the_ring": self.ratio}
        return {"dim": self.dim, "top_eigenvalue": self.radius**2 / self.dim} | self.level.record() | compared


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Result(Record):
    """All that the figure shows: a case for each d; potentials and paths of `drawn`, the middle one."""

    settings: SphereSettings
    cases: list[Case]
    drawn: Case
    wells: list[Wells]
    paths: Paths

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        squares, samples = norms(self.paths).square(), self.settings.samples
        listed = np.linspace(0, len(squares) - 1, LISTED).round().astype(int).tolist()
        return {
            "process": PROCESS,
            "radius": self.settings.radius,
            "cases": [one.record() for one in self.cases],
            "drawn": self.drawn.dim,
            "norms": [
                {
                    "t": t,
                    "mean_square": square.mean().item(),
                    "error": square.std().item() / math.sqrt(samples),
                    "expected": expected_square(t, self.drawn),
                }
                for t, square in zip(self.paths.t[listed].tolist(), squares[listed])
            ],
            "paths": samples,
        }


def closed_form(dim: int, radius: float) -> float:
    """Return `alpha_bar_c = sqrt(L^2 + 1) - L` with `L = r^2 / d`, without cancellation."""
    top = radius**2 / dim
    return 1 / (math.sqrt(top**2 + 1) + top)


def radial_branch(denoiser: Denoiser, thetas: np.ndarray, limit: float) -> np.ndarray:
    """Return the radius |x*| of the stable fixed points at scales theta, `(n,)`, by bisection along one axis.

    Args:
        limit: of the denoiser's values: no |y*| lies above `limit / c`.
    """
    theta = torch.from_numpy(thetas)
    sigma, c = (1 - theta**2).sqrt() / theta, (1 + theta**2) / 2
    axis = _axis(denoiser)
    low, high = torch.zeros_like(theta), limit / c
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        outward = denoiser(middle.unsqueeze(1) * axis, sigma) @ axis > c * middle
        low, high = torch.where(outward, middle, low), torch.where(outward, high, middle)
    return (theta * low).numpy()


def _axis(denoiser: Denoiser) -> Tensor:
    return torch.eye(denoiser.shape[0], dtype=torch.float64)[0]


def case(dim: int, radius: float, points: int = 80) -> Case:
    """Return the critical level, the branch and its stability in d dimensions.

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
    sigma, y = sigma_of(ring), radial_branch(model, np.array([ring]), radius).item() / ring * _axis(model)
    top = leading_eigenvalue(model, y, sigma, symmetric=True, tol=1e-8).leading
    return Case(
        dim=dim, radius=radius, level=level, theta=thetas, length=radial_branch(model, thetas, radius),
        ratio=top / constant("sde", sigma),
    )  # fmt: skip


def norms(paths: Paths) -> Tensor:
    """Return |x| along each path, `(n, B)`."""
    return paths.x.norm(dim=2)


def along_outcome(paths: Paths) -> Tensor:
    """Return the component of each path's state in the direction of its own sample, `(n, B)`."""
    outcome = paths.x[-1] / paths.x[-1].norm(dim=1, keepdim=True)
    return (paths.x * outcome).sum(2)


def expected_square(t: float, one: Case) -> float:
    """Return `E|x_t|^2 = alpha_bar r^2 + (1 - alpha_bar) d`."""
    alpha_bar = NOISE.alpha_bar(t)
    return alpha_bar * one.radius**2 + (1 - alpha_bar) * one.dim


class Spheres(Experiment[SphereSettings, Result]):
    """Critical levels of uniform spheres against their closed form."""

    shown_by = "page.spheres"

    def measure(self, settings: SphereSettings, lab: Lab) -> Result | None:
        """Solve every number of dimensions; draw potentials and paths of the middle one.

        Raises:
            ValueError: a radius that is not positive, or a critical level outside of those that are searched.
        """
        if not lab.run.first:
            return None
        cases, total = [], len(settings.dims) + 1
        with lab.bar("solving") as advance:
            for dim in settings.dims:
                cases.append(case(dim, settings.radius))
                advance(len(cases), total, f"{dim} dimensions")
            drawn = cases[len(cases) // 2]
            model, t_c = Sphere(drawn.dim, settings.radius), drawn.level.t
            assert t_c is not None
            times = [min(factor * t_c, NOISE.t_range[1]) for factor in AROUND]
            reach = 1.3 * max(drawn.length.max(), settings.radius * NOISE.alpha(times[-1]))
            paths = reverse_paths(model, settings.samples, STEPS, settings.seed)
            advance(total, total, "paths")
        profiles = [wells(model, t, reach) for t in times]
        return Result(settings=settings, cases=cases, drawn=drawn, wells=profiles, paths=paths)
