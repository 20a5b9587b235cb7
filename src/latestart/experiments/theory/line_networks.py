"""Small networks that learn the two points at +-1 from samples alone.

A network predicts v of x and the angle `phi = atan2(std, alpha)`; for data of variance 1, `D = alpha x - std v` with
v = 0 is the linear denoiser, so a network learns what is not linear, and is right at high noise. Nothing makes it
symmetric.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.denoisers.base import Level, check_sample
from latestart.experiments.theory.process import NOISE, T_MIN
from latestart.lab.experiment import Progress
from latestart.records import Record

__all__ = ["Network", "Training", "train", "velocity"]

Weights = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Training:
    """The training of the networks: Adam, one cycle of the learning rate, each draw with both signs."""

    steps: int = 2000
    batch: int = 512
    width: int = 32
    depth: int = 2
    learning_rate: float = 1e-2


@dataclass(frozen=True, eq=False, repr=False)
class Network(Record):
    """A trained network of two points on a line, as a denoiser of `y` `(B, 1)`, in float64; and its training seed."""

    weights: Weights
    seed: int
    shape = (1,)
    dtype = torch.float64
    device = torch.device("cpu")
    sigma_range = (NOISE.sigma(T_MIN), NOISE.sigma(1.0))

    def __call__(self, y: Tensor, sigma: Level) -> Tensor:
        """Return `D = alpha x - std v(x, phi)` with `x = alpha y`, `(B, 1)`; differentiable in y."""
        check_sample(y, self.shape)
        level = torch.as_tensor(sigma, dtype=y.dtype).expand(len(y)).unsqueeze(1)
        alpha = (1 + level**2) ** -0.5
        return alpha**2 * y - level * alpha * velocity(self.weights, alpha * y, alpha, level * alpha)


def velocity(weights: Weights, x: Tensor, alpha: Tensor, std: Tensor) -> Tensor:
    """Return v of `x` `(..., B, 1)`: a perceptron with SiLU.

    Weights `(..., in, out)` may hold many networks side by side.
    """
    phi = torch.atan2(std, alpha)
    hidden = torch.cat([x, alpha, std, torch.sin(2 * phi), torch.cos(4 * phi)], -1)
    for weight, bias in weights[:-1]:
        hidden = torch.nn.functional.silu(hidden @ weight + bias)
    weight, bias = weights[-1]
    return hidden @ weight + bias


def train(seeds: range, training: Training, progress: Progress = lambda *_: None) -> list[Network]:
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
    for step in range(1, training.steps + 1):
        x, v, alpha, std = torch.stack([_batch(g, training.batch) for g in generators], 1)
        # a sum over networks: the gradient of each is that of its own mean
        error = (velocity(weights, x, alpha, std) - v).square().mean((1, 2)).sum()
        optimiser.zero_grad()
        error.backward()
        optimiser.step()
        rate.step()
        if step % 50 == 0:
            progress(step, training.steps, f"loss {error.item() / len(seeds):.3f}")
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
    """Return x, v, alpha and std, `(4, 2 size, 1)`; the times are stratified, and each draw counts with both signs."""
    share = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    t = T_MIN + (1 - T_MIN) * share
    alpha, std = NOISE.alpha(t).float().unsqueeze(1), NOISE.std(t).float().unsqueeze(1)
    x_0 = 2.0 * torch.randint(2, (size, 1), generator=generator) - 1
    eps = torch.randn(size, 1, generator=generator)
    x, v = alpha * x_0 + std * eps, alpha * eps - std * x_0
    return torch.stack([torch.cat(pair) for pair in ((x, -x), (v, -v), (alpha, alpha), (std, std))])
