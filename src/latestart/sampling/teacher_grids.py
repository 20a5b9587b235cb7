"""Levels that a network's own behaviour asks for: by its paths (GITS), and by its denoising errors (entropic time).

`gits` follows some samples over many levels, and asks of every two levels s > t of these how far one DDIM step from the
path at s lands from the path at t:

    cost(s, t) = E |y_s t/s + (1 - t/s) D(y_s, s) - y_t|,    y = x_0 + sigma eps

Of all ways from the first level to the data in n such steps it takes the one with the smallest sum, by dynamic
programming. A step counts `gamma` times as much as the one before it: V(s) = min over t of cost(s, t) + gamma V(t).
It costs one evaluation for each level of each path.

`entropic` spaces n levels by equal shares of

    integral of E|x_0 - D(y, sigma)|^2 / sigma^p d sigma

from the first level to the lowest. With p = 3 this is the conditional entropy of the image given its noised version;
p = 2 weighs it by sigma, which is the rescaled form. It costs one evaluation for each level of each image.

Sources: D. Chen et al., "On the trajectory regularity of ODE-based diffusion sampling", 2024, arXiv:2405.11326, with
their gamma of 1.15; D. Stancevic, F. Handke and L. Ambrogioni, "Entropic time schedulers for generative diffusion
models", 2025, arXiv:2504.13612.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import whole_number
from latestart.denoisers.adapter import Counted, as_network
from latestart.denoisers.base import Denoiser
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import from_diffusers
from latestart.gaussians.prior import as_start
from latestart.inputs.front import as_images
from latestart.noise import Noise
from latestart.records import Record
from latestart.sampling.families import family_of
from latestart.sampling.seeds import white_noise
from latestart.sampling.spacings import whole_times

__all__ = ["PathCosts", "cheapest", "entropic", "gits", "jump_costs", "path_costs"]

PATHS = 256
FINE = 60  # levels of a path
GAMMA = 1.15
LEVELS = 32  # of the denoising errors
IMAGES = 256
RHO = 7  # of the fine levels, even in sigma^(1/7)
LOWEST = 1e-3  # level of a path that is asked of a network
FAR = 1e6  # stands for a level without any signal


@dataclass(frozen=True, eq=False, repr=False)
class PathCosts(Record):
    """The costs of single DDIM steps between the levels of a network's paths.

    Attributes:
        times: of the levels, falling, `L` of them.
        costs: of a step from level i to level j > i, `(L + 1, L + 1)`, float64; the last level is the data.
        nfe: network evaluations that were spent, over single samples.
    """

    times: tuple[float, ...]
    costs: Tensor
    nfe: int

    def cheapest(self, steps: int, gamma: float = GAMMA) -> list[float]:
        """The times of the cheapest way in so many steps, falling (`cheapest`)."""
        return [self.times[i] for i in cheapest(self.costs, steps, gamma)]


def path_costs(
    model: Any,
    scheduler: Any,
    t_start: float | None = None,
    prior: Any = None,
    *,
    labels: Tensor | int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    paths: int = PATHS,
    fine: int = FINE,
    batch_size: int = 256,
    seed: int = 0,
) -> PathCosts:
    """Measure what single steps cost along a network's own paths: once for all numbers of steps.

    Args:
        model: a diffusers network, an exact model through `as_model`, or a function through `as_network`.
        scheduler: the one that it was trained with.
        t_start: of a late start, in the scheduler's t; None begins at the top.
        prior: where a late start draws from; None is white noise.
        labels: class indices, one for all paths or taken in turn.
        model_kwargs: further conditions, rows taken in turn.
        paths: their number.
        fine: levels of each; fewer where a schedule has no more times.
        batch_size: samples evaluated at once.
        seed: of the paths' noise.

    Raises:
        ValueError: a start outside of the schedule; numbers out of range.
    """
    paths, fine = whole_number("paths", paths), whole_number("fine", fine)
    network, (times, levels) = Counted(as_network(model)), _fine(scheduler, t_start, fine)
    start = None if prior is None else as_start(prior).to(network.device).noised(levels[0])
    costs = torch.zeros(len(levels) + 1, len(levels) + 1, dtype=torch.float64)
    known = Conditions(network, labels, model_kwargs).turned(paths)
    with torch.inference_mode():
        for index in torch.arange(paths).split(batch_size):
            z = white_noise(index.tolist(), network.sample_shape, seed).to(network.device)
            mine = known[index]
            y = z * math.hypot(1, levels[0]) if start is None else start.push(z, start.own_labels(mine.labels))
            denoise = from_diffusers(network, scheduler, mine.labels, model_kwargs=mine.kwargs)
            costs += jump_costs(denoise, y, levels) * (len(index) / paths)
    return PathCosts(tuple(times), costs, network.evaluated)


def gits(
    model: Any, scheduler: Any, steps: int, t_start: float | None = None, prior: Any = None, **options: Any
) -> tuple[list[float], int]:
    """The times of the cheapest way along a network's own paths, and the evaluations that were spent.

    Args:
        model, scheduler, t_start, prior: as for `path_costs`.
        steps: the number of steps.
        options: others of `path_costs`, and `gamma`, by how much more a step counts than the one before, above 0.

    Raises:
        ValueError: more steps than levels, and what `path_costs` refuses.
    """
    gamma = options.pop("gamma", GAMMA)
    if not (math.isfinite(gamma) and gamma > 0):
        raise ValueError(f"gamma={gamma!r}: expected a number above 0")
    known = path_costs(model, scheduler, t_start, prior, **options)
    return known.cheapest(whole_number("steps", steps), gamma), known.nfe


def jump_costs(denoise: Denoiser, y: Tensor, levels: Sequence[float]) -> Tensor:
    """The mean distance between one DDIM step and the path, for every two levels, `(L + 1, L + 1)`, float64.

    The path is that of DPM-Solver++ 2M over all levels, and its last point, at L, the data.

    Args:
        denoise: the denoiser.
        y: samples at the first level, `(B, *shape)`.
        levels: falling noise levels sigma, `(L,)`.
    """
    points, cleans, before = [y.flatten(1).double()], list[Tensor](), y
    for i, s in enumerate(levels):
        clean = denoise(y, s)
        cleans.append(clean.flatten(1).double())
        if i == len(levels) - 1:
            y = clean
        else:
            t, held = levels[i + 1], clean
            if i:
                held = clean + (clean - before) * (math.log(s / t) / (2 * math.log(levels[i - 1] / s)))
            y, before = y * (t / s) + held * (1 - t / s), clean
        points.append(y.flatten(1).double())
    path, ends = torch.stack(points, 1), [*levels, 0.0]
    costs = torch.full((len(ends), len(ends)), math.inf, dtype=torch.float64)
    for i, clean in enumerate(cleans):
        kept = torch.tensor(ends[i + 1 :], dtype=torch.float64, device=path.device)[:, None] / ends[i]
        landed = kept * path[:, i : i + 1] + (1 - kept) * clean[:, None]
        costs[i, i + 1 :] = (landed - path[:, i + 1 :]).norm(dim=2).mean(0).cpu()
    return costs


def cheapest(costs: Tensor, steps: int, gamma: float = 1.0) -> list[int]:
    """The levels of the cheapest way from the first to the last in so many steps, without the last, `steps` indices.

    Args:
        costs: of a step from level i to level j > i, `(L + 1, L + 1)`.
        steps: their number, at most L.
        gamma: of V(i) = min over j of costs(i, j) + gamma V(j).

    Raises:
        ValueError: more steps than there are levels.
    """
    known, last = costs.numpy(), len(costs) - 1
    if not 1 <= steps <= last:
        raise ValueError(f"expected 1 to {last} steps over {last} levels, received {steps}")
    value, choices = known[:, last].copy(), []
    value[last] = math.inf
    for _ in range(steps - 1):
        total = known + gamma * value[None, :]
        total[np.tril_indices(len(total))] = math.inf
        choices.append(total.argmin(1))
        value = total.min(1)
    way = [0]
    for choice in reversed(choices):
        way.append(int(choice[way[-1]]))
    return way


def entropic(
    model: Any,
    scheduler: Any,
    images: Any,
    steps: int,
    t_start: float | None = None,
    *,
    power: float = 2.0,
    labels: Tensor | int | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    levels: int = LEVELS,
    batch_size: int = 256,
    seed: int = 0,
) -> tuple[list[float], int]:
    """Times at equal shares of a network's denoising error over sigma^power, and the evaluations that were spent.

    Args:
        model, scheduler, steps, t_start: as for `gits`.
        images: anything that `as_images` takes, floats in the model's value range; the first 256 are taken.
        power: 3 for entropic time, 2 for its rescaled form.
        labels, model_kwargs: as for `gits`.
        levels: at which the error is measured.
        batch_size: images evaluated at once.
        seed: of their noise.

    Returns:
        The times, falling, one for each step; and the images times the levels.

    Raises:
        ValueError: as `gits`; images of another shape than the model's samples.
    """
    steps, levels = whole_number("steps", steps), whole_number("levels", levels, 2)
    network, (_, sigmas) = Counted(as_network(model)), _fine(scheduler, t_start, levels)
    data = as_images(images, shape=network.sample_shape).collected().floats()[:IMAGES]
    known = Conditions(network, labels, model_kwargs).turned(len(data))
    errors = torch.zeros(len(sigmas), dtype=torch.float64)
    with torch.inference_mode():
        for index in torch.arange(len(data)).split(batch_size):
            x = data[index].to(network.device)
            eps = white_noise(index.tolist(), network.sample_shape, seed).to(x)
            mine = known[index]
            denoise = from_diffusers(network, scheduler, mine.labels, model_kwargs=mine.kwargs)
            for i, sigma in enumerate(sigmas):
                errors[i] += (x - denoise(x + sigma * eps, sigma)).double().square().sum().cpu() / len(data)
    u = np.log(sigmas)  # d sigma = sigma du
    rate = errors.numpy() * np.exp((1 - power) * u)
    spent = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * -np.diff(u))])
    found = np.interp(np.arange(steps) / steps * spent[-1], spent, u)
    family = family_of(scheduler)
    times = [family.noise.clamped_time(float(level)) for level in np.exp(found)]
    return (whole_times(times) if family.noise.kind == "vp" else times), network.evaluated


def _fine(scheduler: Any, t_start: float | None, count: int) -> tuple[list[float], list[float]]:
    """Many times and levels from the start down to the lowest, even in sigma^(1/7)."""
    family = family_of(scheduler)
    noise: Noise = family.noise
    first = family.first_time(family.top if t_start is None else t_start)
    low, high = noise.t_range
    if not low < first <= high:
        raise ValueError(f"t_start={t_start} lies outside of the schedule, whose times are {low:g} to {high:g}")
    ends = [min(level, FAR) ** (1 / RHO) for level in (noise.sigma(first), max(noise.sigma_range[0], LOWEST))]
    roots = np.linspace(ends[0], ends[1], count).tolist()
    times = [first, *(noise.clamped_time(root**RHO) for root in roots[1:])]
    if noise.kind == "vp":
        times = sorted({float(round(t)) for t in times}, reverse=True)
    return times, [min(noise.sigma(t), FAR) for t in times]
