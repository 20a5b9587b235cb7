"""The sampling loop: from white noise to images, with or without a late start.

One loop serves every scheduler. Sample i of a run draws its noise, the first and that of every stochastic step, from a
generator of its own, seeded by (seed, i): the same seed gives the same image whatever the batch size and however many
images are asked for. Network evaluations are counted by wrapping the model, never by a formula.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.denoisers.networks import from_diffusers, predict, sample_shape
from latestart.noise import Noise
from latestart.sampling.late_start import Prior, Run, initial_sample, late_start, start_level, start_sample

CHECKED = 64  # samples over which the network's and the prior's mean are compared


@dataclass(frozen=True)
class Result:
    """What `generate` returns.

    Attributes:
        samples: `(n, *shape)` in the model's value range, as the sampler left them.
        images: the same in [0, 1], clipped.
        nfe: network evaluations spent on each sample, as counted.
        timesteps: the times (the scheduler's t) at which the sampler stood.
        sigma: the noise level at which sampling began.
    """

    samples: Tensor
    nfe: int
    timesteps: tuple[float, ...]
    sigma: float

    @property
    def images(self) -> Tensor:
        """The samples in [0, 1], `(n, *shape)`."""
        return (self.samples / 2 + 0.5).clamp(0, 1)


class Counted:
    """A model that counts its evaluations, in samples."""

    def __init__(self, model: Any) -> None:
        self.model, self.dtype, self.evaluated = model, model.dtype, 0

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The model's own call."""
        self.evaluated += len(x)
        return self.model(x, *args, **kwargs)


@torch.inference_mode()
def generate(
    model: Any,
    scheduler: Any,
    prior: Prior | None = None,
    n: int = 64,
    steps: int = 5,
    t_start: float | None = None,
    seed: int = 0,
    noise: Tensor | None = None,
    labels: Tensor | int | None = None,
    batch_size: int | None = None,
    *,
    progress: bool = False,
) -> Result:
    """Sample images from a diffusers model, from full noise or from a late start.

    Args:
        model: a diffusers network, or an exact model through `as_model`; in [-1, 1].
        scheduler: any diffusers scheduler; its own spacing and clipping are used. It is not changed.
        prior: where a late start draws from, a `Gaussian` fitted to the clean images; None stands for N(0, I).
        n: number of images.
        steps: steps of the sampler.
        t_start: where to start, in the scheduler's t; None starts from full noise.
        seed: sample i depends on (seed, i) alone.
        noise: white noise `(n, *shape)` to start from, in place of the seed's.
        labels: for class-conditional models, a class index or `(n,)` of them.
        batch_size: samples evaluated at once; at most 256 if not given.
        progress: show a progress bar, on a terminal.

    Raises:
        ValueError: a prior without a start; a prior whose shape or value range is not the model's; labels or noise of
            the wrong length; a start or a scheduler that `late_start` refuses.
    """
    shape = tuple(getattr(model, "sample_shape", None) or sample_shape(model))
    n, labels = _checked(n, shape, noise, labels)
    if prior is not None:
        if t_start is None:
            raise ValueError("a prior was given and no t_start: say where to start, in the scheduler's t")
        check_prior(model, scheduler, prior)
    counted = Counted(model)
    size = min(batch_size or 256, n)
    bar = _bar(progress, -(-n // size), steps)
    parts, times, sigma = [], (), 0.0
    for first in range(0, n, size):
        index = range(first, min(first + size, n))
        own = _prepared(scheduler, t_start, steps)
        times, sigma = tuple(own.timesteps.tolist()), start_level(own)
        generators = [sample_generator(seed, i) for i in index]
        z = torch.stack([torch.randn(shape, generator=g) for g in generators])
        z = z if noise is None else noise[index.start : index.stop].to(z)
        z = z.to(model.device)
        x = initial_sample(own, z) if t_start is None else start_sample(own, prior, z)
        mine = labels[index.start : index.stop] if isinstance(labels, Tensor) else labels
        parts.append(_sampled(counted, own, x, generators, mine, bar))
    bar.close()
    samples = torch.cat(parts)
    if not samples.isfinite().all():
        raise FloatingPointError(f"{int((~samples.isfinite()).sum())} values of the samples are NaN or infinite")
    return Result(samples, counted.evaluated // n, times, sigma)


def sample_generator(seed: int, index: int) -> torch.Generator:
    """The generator of sample `index` of a run: well apart for neighbouring seeds and indices."""
    state = np.random.SeedSequence((seed % 2**64, index)).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def trajectory(run: Run, model: Any, x: Tensor, labels: Tensor | int | None = None) -> Iterator[Tensor]:
    """The samples `(B, *shape)` after each step of a scheduler, in its own space; the last are the images."""
    for t in run.scheduler.timesteps:
        seen = run.model_input(x, t).to(model.dtype)
        out = predict(model, seen, t.to(x.device), labels)
        x = run.step(out.to(x.dtype), t, x)
        yield x


def _sampled(
    counted: Counted,
    scheduler: Any,
    x: Tensor,
    generators: list[torch.Generator],
    labels: Tensor | int | None,
    bar: Any,
) -> Tensor:
    for after in trajectory(Run(scheduler, generators), counted, x, labels):
        x = after
        bar.update()
    return x


def _bar(progress: bool, batches: int, steps: int) -> Any:
    from tqdm.auto import tqdm

    return tqdm(total=batches * steps, desc="sampling", unit="step", disable=None if progress else True)


def _prepared(scheduler: Any, t_start: float | None, steps: int) -> Any:
    """A scheduler of one's own, its times set: a run changes its state."""
    if t_start is not None:
        return late_start(scheduler, t_start, steps)
    own = copy.deepcopy(scheduler)
    own.set_timesteps(steps)
    return own


def _checked(
    n: int, shape: tuple[int, ...], noise: Tensor | None, labels: Tensor | int | None
) -> tuple[int, Tensor | int | None]:
    n = n if noise is None else len(noise)
    if n < 1:
        raise ValueError(f"n must be at least 1, received {n}")
    if noise is not None and tuple(noise.shape[1:]) != shape:
        raise ValueError(f"the model's samples are {shape}, received noise of shape {tuple(noise.shape)}")
    if isinstance(labels, Tensor) and labels.ndim and len(labels) != n:
        raise ValueError(f"expected {n} labels, one for each sample, received {len(labels)}")
    return n, labels


@torch.inference_mode()
def check_prior(model: Any, scheduler: Any, prior: Any) -> None:
    """Raise `ValueError` unless a prior has the model's shape and value range, by one evaluation of the network.

    At a level four times the prior's widest direction both the network and the prior know little but their means. The
    mean over 64 samples of `D_network(y) - D_prior(y)`, with `y` drawn from the noised prior, is then far below the
    width of the data when both speak of the same values, and near or above it when one is in [0, 1] or in bytes.
    The value range is checked on beta-based schedulers, the shape on all.
    """
    shape = tuple(getattr(model, "sample_shape", None) or sample_shape(model))
    if tuple(prior.shape) != shape:
        raise ValueError(f"the prior is for samples of shape {tuple(prior.shape)}, the model's samples are {shape}")
    if Noise.from_scheduler(scheduler).kind != "vp":
        return
    denoiser = from_diffusers(model, scheduler, labels=_any_label(model))
    z = torch.stack([torch.randn(shape, generator=sample_generator(0, i)) for i in range(CHECKED)]).to(model.device)
    clean = prior.push(z)
    width = (clean - clean.mean(0)).square().mean().sqrt().clamp(min=1e-6)
    highest = denoiser.sigma_range[1]
    sigma = min(0.999 * highest, 4 * float(prior.variances.max()) ** 0.5) if hasattr(prior, "variances") else highest
    y = prior.noised(sigma).push(z)
    mine, theirs = prior(y, sigma).mean(0), denoiser(y, sigma).mean(0)
    apart = (mine - theirs).square().mean().sqrt()
    if apart > 0.5 * width:
        raise ValueError(
            f"the prior and the model speak of different values: at sigma = {sigma:.3g} the mean image of the prior "
            f"runs from {mine.min():.3g} to {mine.max():.3g}, that of the model from {theirs.min():.3g} to "
            f"{theirs.max():.3g}; "
            "fit the prior to the images in the model's own range (usually [-1, 1])"
        )


def _any_label(model: Any) -> int | None:
    return 0 if getattr(model.config, "num_class_embeds", None) else None
