"""The model's own samples, by a long run, and the start samples of a prior that go with them.

How far late-started samples are from those that the model would give by itself is known best if both come from the same
noise: then only what differs is left to chance. Both begin in one state `y` at a level where prior and model agree, and

    the model's samples     follow the network's denoiser from there to the data, in `LONG` evaluations
    the start at sigma_s    follows the prior's own denoiser from there to sigma_s, without any evaluation

Each path solves the probability flow or, for samplers whose steps draw noise, the reverse process with one Brownian
path W for all. With `u = y / sigma^2` and `snr = 1 / sigma^2`,

    dy = (y - D(y, sigma)) d log sigma        or        du = D d snr + dW

so that a step of ancestral sampling takes the increment of W between its levels as its noise. Steps from s to t < s are
of second order, with D' extrapolated from the step before (Lu et al. 2022, DPM-Solver++ 2M, and its SDE), p = 1 or 2:

    y_t = (t/s)^p y_s + (1 - (t/s)^p) D'   [+ t sqrt(1 - (t/s)^2) xi]

On its way the model's path shows how wrong the prior is, for free: `|D_model - D_prior|^2` on samples of the model is
the integrand of the divergence `KL(model || prior)` (`theory/nats.py`).

Source of u: El Alaoui, Montanari and Sellke 2022, stochastic localization.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from latestart.records import Record
from latestart.sampling.seeds import sample_generator
from latestart.theory.levels import evaluate
from latestart.theory.nats import NatsCurve, of_gaps

__all__ = ["LONG", "Reference", "flow"]

LONG, FINE = 24, 4  # steps of the model's run, and of the prior's for each of them
Solver = Callable[[Tensor, float], Tensor]


@dataclass(eq=False, repr=False)
class Reference(Record):
    """Long runs of a model in blocks, and the prior's starts from the same noise.

    Args:
        denoiser: of the model, for a block.
        prior: of the data, for the classes of a block, a denoiser too.
        given: its noised samples from white noise at a level.
        noise: white noise of a block, `(1 + W, size, *shape)`: of the start, and of W slow waves of the Brownian path.
        ends: the level at which both begin, and the lowest level.
        brownian: whether all steps draw noise.
        seed: of the Brownian paths.
    """

    denoiser: Any
    prior: Any
    given: Callable[[float, Tensor], Tensor]
    noise: Callable[[int], Tensor]
    ends: tuple[float, float]
    brownian: bool
    seed: int
    gaps: dict[int, Tensor] = field(default_factory=dict)
    paths: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    walks: dict[int, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        top, bottom = (math.log(sigma) for sigma in self.ends)
        self.levels = torch.linspace(top, bottom, LONG * FINE + 1, dtype=torch.float64).exp().tolist()

    @torch.inference_mode()
    def samples(self, block: int) -> Tensor:
        """Return the model's samples of a block, `(size, *shape)`."""
        levels = self.levels[::FINE]
        noise = None
        if self.brownian:
            walked = self._walk(block)[::FINE]
            noise = [(v - w) / math.sqrt(t**-2 - s**-2) for (s, t), (w, v) in zip(pairwise(levels), pairwise(walked))]
        path = list(flow(self._model, self._path(block)[0][0], levels, noise))
        gaps = [(d - self.prior(y, sigma)).flatten(1).double().square().sum(1) for sigma, (y, d) in zip(levels, path)]
        self.gaps[block] = torch.stack(gaps, 1).cpu()
        return path[-1][1]

    def start(self, block: int, sigma: float) -> "Start":
        """Return the start samples of a block at a level below the first, as a distribution to start from."""
        k = max(k for k, level in enumerate(self.levels) if level >= sigma * (1 - 1e-9) or k == 0)
        y_k, d_k = self._path(block)[k]
        above = self._path(block)[k - 1][1] if k else d_k
        noise = None
        if self.brownian and sigma < self.levels[k]:
            noise = (self._walk(block, [sigma])[0] - self._walk(block)[k]) / math.sqrt(sigma**-2 - self.levels[k] ** -2)
        return Start(_step(y_k, d_k, above, self.levels[max(k - 1, 0)], self.levels[k], sigma, noise))

    def step_noise(self, block: int, levels: Sequence[float]) -> Tensor | None:
        """Return the noise of the steps of a run over these levels, `(steps - 1, size, *shape)`; None without any."""
        if not self.brownian or len(levels) < 2:
            return None
        walked = self._walk(block, levels)
        return torch.stack([
            (v - w) / math.sqrt(t**-2 - s**-2) for (s, t), (w, v) in zip(pairwise(levels), pairwise(walked))
        ])  # fmt: skip

    def curve(self) -> NatsCurve:
        """Return the divergence `KL(model || prior)`, on the model's samples of all blocks so far."""
        return of_gaps(torch.tensor(self.levels[::FINE], dtype=torch.float64), torch.cat(list(self.gaps.values())))

    def _model(self, y: Tensor, sigma: float) -> Tensor:
        return evaluate(self.denoiser, y, sigma, "model").to(y)

    @torch.inference_mode()
    def _path(self, block: int) -> list[tuple[Tensor, Tensor]]:
        """The prior's path of a block: its state and what it denoises it to, at every level."""
        if block not in self.paths:
            y = self.given(self.levels[0], self.noise(block)[0])
            noise = list(self._increments(block).to(y)) if self.brownian else None
            self.paths[block] = list(flow(self.prior, y, self.levels, noise))
        return self.paths[block]

    def _increments(self, block: int) -> Tensor:
        """Increments of the Brownian path over each step of the levels, each of unit variance, `(L - 1, B, *shape)`."""
        if block not in self.walks:
            even = self.noise(block)[1:]
            white = torch.randn(len(self.levels) - 1, *even.shape[1:], generator=sample_generator(self.seed, block))
            slow = _waves(len(white), len(even))
            left = even - torch.einsum("wk,k...->w...", slow, white)
            self.walks[block] = white + torch.einsum("wk,w...->k...", slow, left)
        return self.walks[block]

    def _walk(self, block: int, levels: Sequence[float] | None = None) -> list[Tensor]:
        """The Brownian path W at levels, 0 at the first of the grid's; at all of the grid's own by default.

        Between two known places a and b of snr it is drawn from its bridge, of mean linear and of variance
        `(snr - a) (b - snr) / (b - a)`, by noise that depends on the block and the place in `levels`.
        """
        snr = torch.tensor(self.levels, dtype=torch.float64) ** -2
        parts = self._increments(block)
        steps = snr.diff().sqrt().to(parts).view(-1, *[1] * (parts.ndim - 1)) * parts
        grid = [torch.zeros_like(parts[0]), *steps.cumsum(0)]
        if levels is None:
            return grid
        found: list[Tensor] = []
        last, w = 0.0, grid[0]
        for j, at in enumerate(sigma**-2 for sigma in levels):
            k = max(int((snr <= at).sum()) - 1, 0)
            a, w = (float(snr[k]), grid[k]) if snr[k] >= last else (last, w)
            fresh = torch.randn(w.shape, generator=sample_generator(self.seed, 2**20 + 64 * block + j))
            if k + 1 < len(grid):
                b, v = float(snr[k + 1]), grid[k + 1]
                w = w + (at - a) / (b - a) * (v - w) + math.sqrt(max(0.0, (at - a) * (b - at) / (b - a))) * fresh
            else:
                w = w + math.sqrt(max(0.0, at - a)) * fresh
            last = at
            found.append(w)
        return found


class Start:
    """Known samples where a distribution to start from is expected."""

    labels = None

    def __init__(self, y: Tensor) -> None:
        self.y, self.shape, self.device, self.dtype = y, tuple(y.shape[1:]), y.device, y.dtype

    def to(self, *_: Any) -> "Start":
        """Return it as it is."""
        return self

    def noised(self, _: float) -> "Start":
        """Return it as it is: its samples are of one level."""
        return self

    def push(self, _: Tensor, __: Any = None) -> Tensor:
        """Return the samples, whatever the noise."""
        return self.y

    def own_labels(self, _: Any) -> None:
        """Return none."""


def flow(
    denoiser: Solver, y: Tensor, levels: Sequence[float], noise: Sequence[Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield a path `(B, *shape)` at every level, and its denoised state there.

    Args:
        denoiser: `D(y, sigma)`.
        y: at the first level.
        levels: falling.
        noise: white, of each step, for the reverse process; None for the probability flow.
    """
    before, last = y, levels[0]
    for k, (s, t) in enumerate(pairwise(levels)):
        d = denoiser(y, s)
        yield y, d
        y = _step(y, d, before if k else d, last, s, t, None if noise is None else noise[k])
        before, last = d, s
    yield y, denoiser(y, levels[-1])


def _waves(length: int, count: int) -> Tensor:
    """The slowest cosines over so many steps, orthonormal, `(count, length)`."""
    k = (torch.arange(length, dtype=torch.float64) + 0.5) / length
    waves = torch.stack([(math.pi * j * k).cos() for j in range(count)]) if count else torch.zeros(0, length)
    return (waves / waves.norm(dim=1, keepdim=True)).float()


def _step(y: Tensor, d: Tensor, before: Tensor, r: float, s: float, t: float, noise: Tensor | None) -> Tensor:
    """The state at t, from that at s, what it is denoised to, and what the state at r > s was."""
    ahead = d if r <= s else d + 0.5 * math.log(s / t) / math.log(r / s) * (d - before)
    kept = (t / s) ** (1 if noise is None else 2)
    y = kept * y + (1 - kept) * ahead
    return y if noise is None else y + t * math.sqrt(max(0.0, 1 - kept)) * noise.to(y)
