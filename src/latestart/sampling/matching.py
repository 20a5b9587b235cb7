"""Whether a prior and a model speak of the same images: the same shape, the same mean, the same spread.

Two evaluations of the network on a few samples of the noised prior tell it. With `D` the denoisers of both:

    far above the data    both know little but their means:          mean of D_network(y) - D_prior(y)
    at the data's width   what is kept of y shows the data's scale:  spread of D_network(y) over that of D_prior(y)

A prior fitted to images in [0, 1] or in bytes shows in the first, one that is scaled about the same mean in the second.
"""

from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.networks import from_diffusers, sample_shape
from latestart.sampling.late_start import of_classes
from latestart.sampling.seeds import white_noise
from latestart.theory.levels import evaluate

SAMPLES = 32
SHIFT = 0.5  # of the data's width
SPREAD = 2.0  # either way


@torch.inference_mode()
def check_prior(model: Any, scheduler: Any, prior: Any, labels: Tensor | int | None = None) -> None:
    """Raise `ValueError` unless a prior has the model's shape and value range, by two evaluations of 32 samples.

    The value range is checked for priors that are denoisers, the shape always. A model that returns another shape, NaN
    or infinite values is refused with the level at which it does.

    Args:
        model: a diffusers network, or an exact model through `as_model`.
        scheduler: the one that the model was trained with, or any made from it.
        prior: with `shape`, `noised(sigma)`, `push(z)` and, as a denoiser, `prior(y, sigma)`.
        labels: the classes that will be asked for; all of them if None.
    """
    shape = sample_shape(model)
    if tuple(prior.shape) != shape:
        raise ValueError(f"the prior is for samples of shape {tuple(prior.shape)}, the model's samples are {shape}")
    if not callable(prior):
        return
    classes = _labels(model, labels)
    denoiser, known = from_diffusers(model, scheduler, classes), of_classes(prior, classes)
    z = white_noise(range(SAMPLES), shape, seed=0).to(model.device)
    width = _spread(prior.push(z, **known))
    lowest, highest = denoiser.sigma_range
    far, near = (min(max(k * width, lowest), 0.999 * highest) for k in (30.0, 1.0))
    _check_means(prior, known, denoiser, z, far, width)
    _check_spreads(prior, known, denoiser, z, near)


def _check_means(prior: Any, known: dict[str, Any], denoiser: Any, z: Tensor, sigma: float, width: float) -> None:
    y = prior.noised(sigma).push(z, **known)
    mine, theirs = prior(y, sigma, **known).mean(0), evaluate(denoiser, y, sigma, "model").mean(0)
    apart = float((mine - theirs).square().mean().sqrt())
    if not apart <= SHIFT * width:
        raise ValueError(
            f"the prior and the model speak of different values: at sigma = {sigma:.3g} the mean image of the prior "
            f"runs from {mine.min():.3g} to {mine.max():.3g}, that of the model from {theirs.min():.3g} to "
            f"{theirs.max():.3g}; fit the prior to images in the model's own range (usually [-1, 1])"
        )


def _check_spreads(prior: Any, known: dict[str, Any], denoiser: Any, z: Tensor, sigma: float) -> None:
    y = prior.noised(sigma).push(z, **known)
    mine, theirs = _spread(prior(y, sigma, **known)), _spread(evaluate(denoiser, y, sigma, "model"))
    if not theirs / SPREAD <= mine <= theirs * SPREAD:
        raise ValueError(
            f"the prior and the model speak of different values: at sigma = {sigma:.3g} what the prior keeps of its "
            f"samples spreads by {mine:.3g} about the mean, what the model keeps by {theirs:.3g}; fit the prior to "
            "images in the model's own range (usually [-1, 1])"
        )


def _spread(images: Tensor) -> float:
    return float((images - images.mean(0)).square().mean().sqrt())


def _labels(model: Any, labels: Tensor | int | None) -> Tensor | None:
    """The classes asked for, or all of the model's in turn, for as many samples as are checked."""
    classes = getattr(model.config, "num_class_embeds", None) or 0
    if labels is None and not classes:
        return None
    asked = torch.arange(classes) if labels is None else torch.as_tensor(labels).reshape(-1)
    return asked[torch.arange(SAMPLES) % len(asked)]
