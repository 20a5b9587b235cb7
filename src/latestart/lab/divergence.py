"""How far a prior is from the noised data, measured once for a model, a prior and images, and kept.

The divergence of `theory/nats.py`, from 100 images that the model has not seen where there are such, else from as many
of the training images: prior and network were both fitted to these, which lowers the error of either.

    nats-KEY.safetensors    the curve; the key is of the network, the prior and the images
"""

import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import seeded
from latestart.data import Images
from latestart.denoisers.adapter import as_network
from latestart.denoisers.networks import from_diffusers
from latestart.files import load_tensors, require_finite, save_tensors
from latestart.lab.store import fingerprint, kept_at
from latestart.theory.nats import NatsCurve, nats

KIND = "nats-curve"
IMAGES = 100
CURVES = ("sigma", "nats", "error", "integrand", "quadrature", "integrals")
NUMBERS = ("tail", "nfe")

Tell = Callable[[str], None]


def divergence(network: Any, scheduler: Any, prior: Any, images: Tensor) -> NatsCurve:
    """The divergence of images in [-1, 1] from a prior; where the network is worse than the prior, that is recorded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # told by the curve's `worse`
        return nats(from_diffusers(network, scheduler), prior, images)


def require_no_classes(network: Any) -> None:
    """Raise `ValueError` for a network that is told classes: it knows more of an image than noise leaves of it."""
    if classes := as_network(network).classes:
        raise ValueError(f"nats are those of networks without classes, received one with {classes}")


def kept_divergence(
    folder: Path, network: Any, scheduler: Any, weights: str, prior: tuple[Any, str], images: Images, tell: Tell
) -> NatsCurve:
    """`divergence` from its file in a folder, or measured now on some of the images, and kept there.

    Args:
        folder: where it is kept.
        network, scheduler, weights: the model, and the fingerprint of both.
        prior: with its fingerprint.
        images: of which `IMAGES` are taken.
        tell: told of a damaged file.
    """
    chosen = some(images, IMAGES)
    path = kept_at(folder, "nats-{}.safetensors", fingerprint(weights, prior[1], chosen.pixels))
    if path.is_file():
        try:
            return _read(path)
        except ValueError as error:
            tell(f"{error}: the divergence is measured again")
    curve = divergence(network, scheduler, prior[0], chosen.floats())
    tensors = {name: getattr(curve, name) for name in CURVES} | {"worse": curve.worse.double()}
    save_tensors(path, KIND, tensors, {name: getattr(curve, name) for name in NUMBERS})
    return _read(path)


def _read(path: Path) -> NatsCurve:
    tensors, metadata = load_tensors(path, KIND)
    require_finite(path, tensors, (*CURVES, "worse"))
    if missing := [name for name in NUMBERS if name not in metadata]:
        raise ValueError(f"{path} does not hold a sound curve: {missing[0]} is missing")
    known: dict[str, Any] = {name: tensors[name] for name in CURVES} | {name: metadata[name] for name in NUMBERS}
    return NatsCurve(**known, worse=tensors["worse"].bool(), by_direction=None)


def some(images: Images, count: int) -> Images:
    """As many of the images, or all, drawn once and for all: files are often in the order of their classes."""
    return images[torch.randperm(len(images), generator=seeded(0))[:count]]


def nats_at(sigma: np.ndarray | Tensor, levels: Tensor, values: Tensor) -> np.ndarray:
    """Values `(L,)` at falling levels `(L,)` as they are at the levels sigma, linear in log sigma between two."""
    return np.interp(np.log(np.asarray(sigma)), levels.log().flip(0).numpy(), values.flip(0).numpy())


def record(curve: NatsCurve) -> dict[str, Any]:
    """A curve's figures, for JSON."""
    kept = ("sigma", "nats", "error", "worse")
    return {name: value.tolist() for name, value in asdict(curve).items() if name in kept}
