"""Exact problems on which no decision was made: for reports on choices, never for making them.

    ring        the circle of radius 1 in 2 dimensions, of width 0.05                     closed form (Bessel functions)
    sphere      the sphere of radius 2 in 16 dimensions, of width 0.05                    closed form (Bessel functions)
    hypercube   the 256 corners +-0.7 in 8 dimensions, of width 0.05                      closed form (tanh)
    twenty      20 Gaussians about random centres in 64 dimensions, of deviation 0.15     closed form
    simplex     the 13 vertices of norm 1.5 in 12 dimensions, of width 0.1                closed form (softmax)
    uneven      5 Gaussians in 24 dimensions, of weights 0.4 to 0.06, each with axes of its own and variances that
                fall as a power law                                                       closed form

Data of width w are `x_0 = s + w n` with `n ~ N(0, I)` and s on the body. With `u^2 = sigma^2 + w^2`, y is s at the
level u, and `E[x_0 | y, s] = s + w^2 / u^2 (y - s)`, so

    D(y, sigma) = (w^2 y + sigma^2 D_body(y, u)) / u^2

Every problem holds the images for a choice or for tuning, and others that judge, which nobody else may see:

    for name, make in exact_problems().items():
        problem = make()
        recipe = latestart.tune(problem.model, problem.scheduler, problem.images, steps=3, features=problem.features)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from latestart.denoisers.base import Level, expand
from latestart.denoisers.exact import GaussianMixture, Hypercube, Simplex, Sphere
from latestart.denoisers.networks import as_model
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian

__all__ = ["ExactProblem", "Wide", "exact_problems"]

IMAGES, FRESH = 8000, 4000
SEED = 1000  # of the problems; each has ten seeds of its own


@dataclass(frozen=True)
class ExactProblem:
    """A model whose data are known, with samples of them.

    Attributes:
        name: of the problem.
        model: the exact denoiser as a network.
        scheduler: the one that it was "trained" with.
        images: samples of the data `(8000, D)`, for priors, choices and tuning.
        fresh: other samples `(4000, D)`, that judge.
        features: what distances are measured on.
    """

    name: str
    model: Any
    scheduler: Any
    images: Tensor
    fresh: Tensor
    features: str = "values"


class Wide:
    """An exact denoiser of data about a body, normally distributed with deviation `width` in all directions."""

    sigma_range = (0.0, math.inf)

    def __init__(self, body: Any, width: float) -> None:
        self.body, self.width = body, width
        self.shape, self.dtype, self.device = body.shape, body.dtype, body.device

    def __call__(self, y: Tensor, sigma: Level) -> Tensor:
        """`E[x_0 | y]`, `(B, D)`."""
        variance = torch.as_tensor(sigma, dtype=y.dtype, device=y.device).expand(len(y)).square()
        total = variance + self.width**2
        at_body = self.body(y, total.sqrt())
        return (self.width**2 * y + expand(variance, y) * at_body) / expand(total, y)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n clean samples, `(n, D)`."""
        around = torch.randn(n, *self.shape, generator=generator, dtype=self.dtype)
        return self.body.sample(n, generator) + self.width * around


def exact_problems() -> dict[str, Callable[[], ExactProblem]]:
    """Return what makes each problem, by name."""
    data: dict[str, Callable[[int], Any]] = {
        "ring": lambda _: Wide(Sphere(2, 1.0), 0.05),
        "sphere": lambda _: Wide(Sphere(16, 2.0), 0.05),
        "hypercube": lambda _: Wide(Hypercube(8, 0.7), 0.05),
        "twenty": _twenty,
        "simplex": lambda _: Wide(Simplex(12, 1.5), 0.1),
        "uneven": _uneven,
    }
    return {name: partial(_made, name, make, SEED + 10 * k) for k, (name, make) in enumerate(data.items())}


def _made(name: str, make: Callable[[int], Any], seed: int) -> ExactProblem:
    data, scheduler = make(seed), DDPMScheduler(clip_sample=False)
    images, fresh = (data.sample(n, _generator(seed + k)) for k, n in ((1, IMAGES), (2, FRESH)))
    return ExactProblem(name, as_model(data, scheduler), scheduler, images, fresh)


def _twenty(seed: int) -> GaussianMixture:
    dim = 64
    centres = 0.4 * torch.randn(20, dim, generator=_generator(seed), dtype=torch.float64)
    basis = Dense((dim,), torch.eye(dim, dtype=torch.float64))
    variances = torch.full((dim,), 0.15**2, dtype=torch.float64)
    return GaussianMixture([Gaussian(centre, basis, variances) for centre in centres])


def _uneven(seed: int) -> GaussianMixture:
    dim, generator = 24, _generator(seed)
    variances = 0.5 / torch.arange(1, dim + 1, dtype=torch.float64) ** 1.5
    components = []
    for _ in range(5):
        axes, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
        centre = 0.6 * torch.randn(dim, generator=generator, dtype=torch.float64)
        components.append(Gaussian(centre, Dense((dim,), axes), variances))
    return GaussianMixture(components, [0.4, 0.26, 0.18, 0.1, 0.06])


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
