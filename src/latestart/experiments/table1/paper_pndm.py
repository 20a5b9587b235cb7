"""The paper's samplers on the paper's grid: PNDM with its Runge-Kutta steps, DDIM and DDPM.

In the language of this library, `y = x / alpha` and `sigma = std / alpha`, with the noise that a denoiser D sees,

    e(y, t) = (y - D(y, sigma_t)) / sigma_t

the transfer of the noised sample from one time to the next, formula (9) of PNDM, is one line,

    T(y, e, t, t') = y + (sigma_t' - sigma_t) e

F-PNDM does three Runge-Kutta steps of four evaluations, with `h` the time halfway,

    e1 = e(y, t)     e2 = e(T(y, e1, t, h), h)     e3 = e(T(y, e2, t, h), h)     e4 = e(T(y, e3, t, t'), t')
    y' = T(y, (e1 + 2 e2 + 2 e3 + e4) / 6, t, t')

and from the fourth step on those of Adams and Bashforth, of one evaluation each, on the first noise of every step,

    y' = T(y, (55 e_k - 59 e_(k-1) + 37 e_(k-2) - 9 e_(k-3)) / 24, t, t')

so that n steps cost n + 9 evaluations: 12, 14 and 19 for 3, 5 and 10. The half times are not half levels, which leaves
the method second order in the step. DDIM (eta = 0) and DDPM as the paper runs it (DDIM with eta = 1) cost one a step,
that of `dynamics.sde`.

The grid is that of the paper's code, `linspace(0, t_start, n)` in whole times, which ends at t = 0: the last step goes
from there to the data (sigma = 0), and spends an evaluation on noise that cannot be seen. Below t = 0 there is nothing
to ask a network for; where a Runge-Kutta step ends at the data, its fourth evaluation is made at t = 0.

Two things are not as in the paper's code, and neither can be told from its figures: half times between two whole ones
have the level there, not that of the time below; and its PNDM reads every level one time too high (for that reason its
starts go up to 998) and leaves the noise of t = 0 in the samples.

Sources: Liu et al., "Pseudo numerical methods for diffusion models on manifolds", ICLR 2022, algorithm 2 and formulas
(9), (12), (13); Song et al., "Denoising diffusion implicit models", 2021, formula (12); Raya and Ambrogioni 2023.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.adapter import Counted, as_network
from latestart.denoisers.networks import from_diffusers
from latestart.dynamics import Denoise, sde
from latestart.experiments.table1.settings import SAMPLERS
from latestart.gaussians.prior import as_start
from latestart.noise import Noise
from latestart.sampling.loop import Result, check_level
from latestart.sampling.seeds import sample_generator

__all__ = ["DATA", "Levels", "draw", "evaluations", "paper_grid", "pndm"]

DATA = -1  # the time below 0: no noise
RUNGE_KUTTA_STEPS = 3
ADAMS_BASHFORTH = (55 / 24, -59 / 24, 37 / 24, -9 / 24)


def paper_grid(t_start: int, steps: int) -> tuple[int, ...]:
    """Return the falling times of a run, in the scheduler's t: `steps` whole ones from `t_start` to 0, then `DATA`.

    Raises:
        ValueError: fewer than two steps, or so many that two of the times are equal.
    """
    if whole_number("steps", steps) < 2 or steps > t_start + 1:
        raise ValueError(f"the paper's grid from t = {t_start} has 2 to {t_start + 1} steps, received {steps}")
    return (*np.linspace(0, t_start, steps, dtype=int)[::-1].tolist(), DATA)


def evaluations(sampler: str, steps: int) -> int:
    """Return the network evaluations that one of the paper's samplers spends on each sample."""
    return steps + 3 * min(RUNGE_KUTTA_STEPS, steps) if sampler == "pndm" else steps


class Levels:
    """The levels of a variance preserving process at its times, and 0 at the data.

    Args:
        noise: the process, with times from 0 up.
    """

    def __init__(self, noise: Noise) -> None:
        self.noise = noise

    def sigma(self, t: float) -> float:
        """The level at time `t`; below 0 that at 0, down to `DATA`."""
        return self.noise.sigma(max(t, 0.0)) if t > DATA else 0.0

    def slope(self, denoise: Denoise, y: Tensor, t: float) -> Tensor:
        """The noise `e(y, t)` in `y`, `(B, *shape)`; below t = 0 that at t = 0."""
        sigma = self.sigma(max(t, 0.0))
        return (y - denoise(y, sigma)) / sigma

    def transfer(self, y: Tensor, e: Tensor, t: float, after: float) -> Tensor:
        """The sample at the time `after`, from `y` at `t` along the noise `e`, all `(B, *shape)`."""
        return y + (self.sigma(after) - self.sigma(t)) * e


def pndm(denoise: Denoise, noise: Noise, y: Tensor, times: Sequence[float]) -> Iterator[Tensor]:
    """F-PNDM: the samples `y`, `(B, *shape)`, after each step between two of the falling `times` (scheduler's t)."""
    levels, slopes = Levels(noise), []  # type: tuple[Levels, list[Tensor]]
    for t, after in pairwise(times):
        e1 = levels.slope(denoise, y, t)
        slopes.append(e1)
        if len(slopes) <= RUNGE_KUTTA_STEPS:
            half = (t + after) / 2
            e2 = levels.slope(denoise, levels.transfer(y, e1, t, half), half)
            e3 = levels.slope(denoise, levels.transfer(y, e2, t, half), half)
            e4 = levels.slope(denoise, levels.transfer(y, e3, t, after), after)
            e = (e1 + 2 * e2 + 2 * e3 + e4) / 6
        else:
            e = sum((c * slope for c, slope in zip(ADAMS_BASHFORTH, reversed(slopes))), torch.zeros_like(y))
        y = levels.transfer(y, e, t, after)
        yield y


@torch.inference_mode()
def draw(
    model: Any,
    scheduler: Any,
    sampler: str,
    prior: Any = None,
    n: int = 64,
    steps: int = 5,
    t_start: float | None = None,
    seed: int = 0,
    labels: Tensor | None = None,
    batch_size: int = 256,
) -> Result:
    """Sample as the paper did: `sampling.loop.draw`, with the paper's samplers on the paper's grid.

    Sample i draws its start from the same generator as there, so that the samples of both are paired.

    Args:
        model: a diffusers network, or an exact model through `as_model`.
        scheduler: the beta-based one that it was trained with.
        sampler: "ddpm", "ddim" or "pndm".
        prior: what a late start draws from; None stands for N(0, I).
        n: number of images.
        steps: of the grid, not evaluations.
        t_start: its first time, in the scheduler's t; None stands for the last of the schedule.
        seed: sample i depends on (seed, i) alone.
        labels: `(n,)` classes of a class-conditional model.
        batch_size: samples evaluated at once.

    Raises:
        ValueError: a sampler, start or number of steps that there is not; a scheduler without betas; a start above the
            levels that the network was trained on.
        FloatingPointError: the samples hold NaN or infinite values.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"the paper's samplers are {', '.join(SAMPLERS)}, received {sampler!r}")
    noise = Noise.from_scheduler(scheduler)
    if noise.kind != "vp":
        raise ValueError(f"the paper's grid is one of whole times: expected betas, received a {noise.kind} process")
    times = paper_grid(int(noise.t_range[1] if t_start is None else t_start), steps)
    # a late start there begins one time below its name, here at it
    check_level(model, scheduler, None if t_start is None else times[0] + 1)
    counted, levels, parts = Counted(as_network(model)), Levels(noise), []
    prior = None if prior is None else as_start(prior)
    for index in torch.arange(n).split(batch_size):
        generators = [sample_generator(seed, i) for i in index.tolist()]
        mine = None if labels is None else labels[index]
        denoise, white = from_diffusers(counted, scheduler, mine), _white(generators, counted)
        if prior is None:
            y = white() / noise.alpha(float(times[0]))
        else:
            z = white()
            y = prior.noised(levels.sigma(times[0])).push(z, prior.own_labels(mine)).to(z)
        if sampler == "pndm":
            path = pndm(denoise, noise, y, times)
        else:
            path = sde(denoise, y, [levels.sigma(t) for t in times], white, eta=float(sampler == "ddpm"))
        parts.append(deque(path, maxlen=1).pop())
    samples = torch.cat(parts)
    if not samples.isfinite().all():
        raise FloatingPointError("the samples hold NaN or infinite values")
    return Result(samples, counted.evaluated // n, tuple(map(float, times[:-1])), levels.sigma(times[0]))


def _white(generators: list[torch.Generator], network: Counted) -> Callable[[], Tensor]:
    shape, device = network.sample_shape, network.device
    return lambda: torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)
