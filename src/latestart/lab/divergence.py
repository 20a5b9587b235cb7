"""The divergence of a prior from the noised data, measured once for a model, a prior and images, and kept.

The divergence of `theory/nats.py`, on 100 images that the model has not seen where there are such, else on 100 of the
training images: prior and network were both fitted to these, which lowers the error of either.

    nats-KEY.safetensors    the curve; the key is of the network, the prior and the images
"""

import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from latestart.data import Images, drawn
from latestart.denoisers.adapter import as_network
from latestart.denoisers.networks import from_diffusers
from latestart.files import load_tensors, require_finite, save_tensors
from latestart.fingerprints import fingerprint
from latestart.lab.experiment import Lab
from latestart.lab.store import Store
from latestart.theory.nats import NatsCurve, nats

__all__ = ["SEEN", "divergence", "kept_divergence", "require_no_classes"]

KIND = "nats-curve"
IMAGES = 100
CURVES = ("sigma", "nats", "error", "integrand", "quadrature", "integrals")
NUMBERS = ("tail", "nfe")
SEEN = "the nats are of training images, which network and prior were fitted to: no others are at hand"


def divergence(network: Any, scheduler: Any, prior: Any, images: Tensor) -> NatsCurve:
    """Return the divergence of images in [-1, 1] from a prior; `worse` marks where the prior beats the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the curve's `worse` records it
        return nats(from_diffusers(network, scheduler), prior, images)


def require_no_classes(network: Any) -> None:
    """Raise `ValueError` for a network with classes: it knows more of an image than noise leaves of it."""
    if classes := as_network(network).classes:
        raise ValueError(f"nats are those of networks without classes, received one with {classes}")


def kept_divergence(lab: Lab, model: tuple[Any, Any, str], prior: tuple[Any, str], images: Images) -> NatsCurve:
    """Return `divergence` from its file in the lab's folder, where it is kept once it is measured.

    Args:
        lab: its folder.
        model: the network, its scheduler, and the fingerprint of both.
        prior: with its fingerprint.
        images: `IMAGES` of them are drawn.
    """
    chosen, (network, scheduler, weights) = drawn(images, IMAGES, 0), model

    def make(path: Path) -> None:
        curve = divergence(network, scheduler, prior[0], chosen.floats())
        tensors = {name: getattr(curve, name) for name in CURVES} | {"worse": curve.worse.double()}
        save_tensors(path, KIND, tensors, {name: getattr(curve, name) for name in NUMBERS})

    store = Store(lab.out, "nats-{}.safetensors", lab.tell)
    return store.kept(fingerprint(weights, prior[1], chosen.pixels), _read, make)


def _read(path: Path) -> NatsCurve:
    tensors, metadata = load_tensors(path, KIND)
    require_finite(path, tensors, (*CURVES, "worse"))
    known: dict[str, Any] = {name: tensors[name] for name in CURVES} | {name: metadata[name] for name in NUMBERS}
    return NatsCurve(**known, worse=tensors["worse"].bool(), by_direction=None)
