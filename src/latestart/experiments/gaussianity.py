"""Is the early distribution Gaussian? Tests of normality at falling noise, beside the divergence in nats.

At each start t, that is at the level of the scheduler's time t - 1, where a late start from t begins, two sets of
samples `y = x_t / alpha_t` are tested (`evaluation/gaussianity.py`):

    forward   training images under exact noise: the distribution that every prior stands for
    network   the network's own early phase: DDIM from full noise, stopped there

and each against two hypotheses: that it is some Gaussian ("own"), and that it is the Gaussian of the training images
at that level ("prior"), the very one that a late start draws from. The second sees more: a sampler's few steps leave a
Gaussian Gaussian and change its covariance. The forward process has its own noise at every level; the network's paths
are the same at all of them, so what chance does to these lasts from level to level.

At a level, the five tests are corrected by Holm's method. Levels are tested from the lowest noise up, and the first
that is not rejected ends the sequence: with that order fixed in advance, the chance of any false rejection stays below
0.05 over all levels (Maurer, Hothorn and Lehmacher 1995). `onset` is the last level rejected.

Beside them stands KL(p_sigma || prior_sigma) of held-out images, in nats (`theory/nats.py`). It bounds what any test
can see: n samples tell two distributions apart about when n KL exceeds a few nats, but each of the tests here looks at
a few directions and moments only.

Expected on the shipped MNIST model, 1,000 samples: "any Gaussian" is rejected from t = 450 down for both processes, a
little after the divergence passes 1 nat, at t = 481; the prior is rejected from t = 550 down (0.2 nats) for the forward
process, and from about 700 for the network, whose DDIM paths are a little narrower than the prior (kurtosis below 1).
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart import zoo
from latestart.denoisers.networks import from_diffusers, sample_shape
from latestart.evaluation.gaussianity import REPLICATES, Gaussianity, gaussianity
from latestart.noise import Noise
from latestart.sampling.late_start import Run, initial_sample
from latestart.sampling.loop import trajectory
from latestart.sampling.samplers import make_sampler
from latestart.sampling.seeds import white_noise
from latestart.theory.levels import CriticalLevel
from latestart.theory.nats import NatsCurve, nats

STARTS = tuple(range(900, 199, -50))  # of 1,000
STRIDE = 25  # of DDIM, in t: its stops are the starts
PROCESSES, HYPOTHESES = ("forward", "network"), ("own", "prior")
BUDGET = 1.0  # nats
IMAGES, BATCH = 100, 250
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Level:
    """The tests at one start.

    Attributes:
        t_start: the start; the level is that of the scheduler's time t_start - 1.
        sigma: the level.
        nats: divergence of the noised images from the prior there.
        found: by process and hypothesis.
    """

    t_start: int
    sigma: float
    nats: float
    found: dict[tuple[str, str], Gaussianity]


@dataclass(frozen=True)
class Result:
    """All levels, highest first, the curve of the divergence, and its time `t` at each of the curve's levels."""

    levels: list[Level]
    curve: NatsCurve
    t: Tensor
    one_nat: CriticalLevel

    def onset(self, process: str, hypothesis: str, level: float = 0.05) -> int | None:
        """The highest start from which on down every level is rejected; None if not even the lowest is."""
        rejected = [each.found[process, hypothesis].p <= level for each in reversed(self.levels)]
        count = [*rejected, False].index(False)
        return self.levels[-count].t_start if count else None


def run(
    samples: int = 1000,
    seed: int = 0,
    rank: int | None = None,
    name: str = "mnist",
    starts: tuple[int, ...] = STARTS,
    replicates: int = REPLICATES,
    progress: Progress | None = None,
) -> Result:
    """Test both processes at every start, on a shipped model; `progress(done, total, what)` is told of every level.

    Raises:
        ValueError: more samples than the bundle has training images, too few, or starts between the stops of DDIM.
    """
    bundle = zoo.load(name)
    noise, starts = Noise.from_scheduler(bundle.scheduler), tuple(sorted(starts, reverse=True))
    images = bundle.images("train").floats()
    if samples > len(images):
        raise ValueError(f"{samples} independent samples need as many images, received {len(images)}")
    curve = divergence(bundle, bundle.prior)
    levels = []
    fresh = torch.Generator().manual_seed(seed)
    for t_start, walked in zip(starts, early_phase(bundle.model, bundle.scheduler, samples, starts, seed)):
        sigma = noise.sigma(float(t_start - 1))
        sets = {"forward": noised(images[:samples], sigma, fresh), "network": walked}
        found = {
            (process, hypothesis): gaussianity(y, prior, rank, replicates=replicates, seed=seed)
            for process, y in sets.items()
            for hypothesis, prior in zip(HYPOTHESES, (None, bundle.prior.noised(sigma)))
        }
        levels.append(Level(t_start, sigma, nats_at(curve, sigma), found))
        if progress is not None:
            progress(len(levels), len(starts), f"t = {t_start}")
    t = torch.as_tensor(noise.time(curve.sigma))
    return Result(levels, curve, t, curve.level(BUDGET, noise))


def noised(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """`x_0 + sigma eps`, `(n, *shape)`."""
    return images + sigma * torch.randn(images.shape, generator=generator)


def early_phase(model: Any, scheduler: Any, n: int, starts: tuple[int, ...], seed: int) -> Iterator[Tensor]:
    """The scaled samples `x_t / alpha_t` `(n, *shape)` of DDIM from full noise when it comes to each start's time.

    Raises:
        ValueError: a start that DDIM does not stop at, or starts that do not fall.
    """
    top = len(scheduler.alphas_cumprod)
    steps = [(top - t) // STRIDE for t in starts]
    if any((top - t) % STRIDE or not 0 < t < top for t in starts) or steps != sorted(set(steps)):
        raise ValueError(f"expected falling starts that are multiples of {STRIDE} below {top}, received {starts}")
    noise, stops = Noise.from_scheduler(scheduler), top // STRIDE
    batches = [_walk(model, scheduler, range(i, min(i + BATCH, n)), seed, stops) for i in range(0, n, BATCH)]
    x, done = torch.empty(0), 0
    for t, step in zip(starts, steps):
        for _ in range(step - done):
            x = torch.cat([next(batch) for batch in batches])
        done = step
        yield x / noise.alpha(float(t - 1))


@torch.no_grad()
def _walk(model: Any, scheduler: Any, index: range, seed: int, steps: int) -> Iterator[Tensor]:
    own = make_sampler("ddim", scheduler, spacing="trailing", clip_sample=False)
    own.set_timesteps(steps)
    z = white_noise(index, sample_shape(model), seed).to(model.device)
    yield from trajectory(Run(own), model, initial_sample(own, z))


def divergence(bundle: zoo.Bundle, prior: Any) -> NatsCurve:
    """The divergence of held-out images from a prior; where the network is worse than the prior, that is recorded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # told by the curve's `worse`
        denoiser = from_diffusers(bundle.model, bundle.scheduler)
        return nats(denoiser, prior, bundle.images("heldout-a").floats()[:IMAGES])


def nats_at(curve: NatsCurve, sigma: float) -> float:
    """The divergence at a level, linear in log sigma between two levels of the curve."""
    return float(np.interp(math.log(sigma), curve.sigma.log().flip(0), curve.nats.flip(0)))


def results(result: Result) -> dict[str, Any]:
    """All figures of the experiment, ready for `results.json`."""
    panels = list(product(PROCESSES, HYPOTHESES))
    first = result.levels[0].found["forward", "own"]
    return {
        "samples": first.n,
        "rank": first.rank,
        "replicates": first.replicates,
        "one_nat": result.one_nat.record(),
        "rejected_from_t": {", ".join(panel): result.onset(*panel) for panel in panels},
        "levels": [_row(level) for level in result.levels],
        "nats": {name: getattr(result.curve, name).tolist() for name in ("sigma", "nats", "error", "worse")}
        | {"t": result.t.tolist()},
    }


def _row(level: Level) -> dict[str, Any]:
    tests = {", ".join(panel): found.record()["tests"] for panel, found in level.found.items()}
    return {"t_start": level.t_start, "sigma": level.sigma, "nats": level.nats, **tests}
