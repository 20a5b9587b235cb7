"""The shipped models: small trained networks, with all that is needed to judge them.

A bundle is a folder of assets:

    config.json, diffusion_pytorch_model.safetensors, scheduler/    the diffusion model, as diffusers writes it
    latestart.json                                                  the size of its patches, its training record
    prior.safetensors                                               the Gaussian of the training images, in [-1, 1]
    mixture.safetensors                                             the mixture of Gaussians of the same
    classifier.safetensors                                          a classifier, for its features
    second-classifier.safetensors                                   one of another architecture, for a second space
    attributes.safetensors                                          a classifier trained under noise, for diversity
    features-train.safetensors, features-test.safetensors           feature statistics of both sets, whole
    second-features-train.safetensors, second-features-test...      the same in the second space
    train.png, heldout-a.png, heldout-b.png                         2,000 images each: seen in training, and not
    labels.safetensors                                              their classes
    README.md                                                       the model card
"""

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latestart.checks import PRECISIONS
from latestart.data import Images, read_png, tile, untile
from latestart.denoisers.folders import load_model
from latestart.denoisers.wrappers import HalfPrecision
from latestart.efficientnet import EFFICIENTNET, EfficientNetFeatures
from latestart.features import Classifier, ClassifierFeatures
from latestart.files import load_tensors
from latestart.gaussians.gaussian import Gaussian, load_gaussian
from latestart.gaussians.mixture import Mixture, load_mixture
from latestart.gaussians.prior import Prior
from latestart.gaussians.priors import load_prior
from latestart.shipped import ASSETS, names, require_model

__all__ = ["SECOND", "SETS", "Bundle", "features", "features_named", "load", "open_model", "pack"]

SECOND = "second-"  # before the names of the files of the second feature space

SETS = ("train", "heldout-a", "heldout-b")
COLUMNS = 50
PRIORS = {"gaussian": "prior", "mixture": "mixture"}  # of shipped models by name, and where a bundle has them


@dataclass(frozen=True)
class Bundle:
    """A shipped model and what belongs to it, each read when it is asked for."""

    name: str
    path: Path

    @property
    def model(self) -> nn.Module:
        """The diffusion network on images `(B, C, H, W)` in [-1, 1], float32, in evaluation mode."""
        return self.opened[0]

    @property
    def scheduler(self) -> Any:
        """The scheduler that the network was trained with (DDPM, unclipped)."""
        return self.opened[1]

    @cached_property
    def opened(self) -> tuple[nn.Module, Any]:
        """The network and its scheduler."""
        return load_model(self.path)

    @cached_property
    def prior(self) -> Gaussian:
        """The Gaussian of the training images."""
        return load_gaussian(self.path / "prior.safetensors")

    @cached_property
    def mixture(self) -> Mixture:
        """The mixture of Gaussians of the training images."""
        return load_mixture(self.path / "mixture.safetensors")

    @cached_property
    def features(self) -> ClassifierFeatures:
        """The feature extractor, images in [0, 1] to `(B, 128)`."""
        return ClassifierFeatures(self.classifier, self.name)

    @cached_property
    def classifier(self) -> Classifier:
        """The classifier behind the features."""
        return Classifier.load(self.path / "classifier.safetensors")

    @cached_property
    def second(self) -> ClassifierFeatures | None:
        """The extractor of a second space, by a classifier of another architecture; None where the folder has none."""
        path = self.path / f"{SECOND}classifier.safetensors"
        return ClassifierFeatures(Classifier.load(path), f"{self.name}-second") if path.is_file() else None

    def statistics(self, split: str) -> Gaussian:
        """Feature statistics of the whole "train" or "test" set."""
        return self._statistics("", split)

    def second_statistics(self, split: str) -> Gaussian:
        """The same of the second features."""
        return self._statistics(SECOND, split)

    def _statistics(self, space: str, split: str) -> Gaussian:
        if split not in ("train", "test"):
            raise ValueError(f"feature statistics are kept of 'train' and 'test', received {split!r}")
        return load_gaussian(self.path / f"{space}features-{split}.safetensors")

    def images(self, which: str) -> Images:
        """2,000 images: "train" (seen in training), "heldout-a" or "heldout-b" (of the test set)."""
        if which not in SETS:
            raise ValueError(f"images are kept of {', '.join(SETS)}, received {which!r}")
        _, height, width = self.prior.shape
        labels = load_tensors(self.path / "labels.safetensors", "labels")[0][which].long()
        return Images(untile(read_png(self.path / f"{which}.png"), len(labels), height, width), labels)


def load(name: str = "mnist") -> Bundle:
    """A shipped bundle by its name. Raises `ValueError` naming those that there are."""
    if name not in names():
        raise ValueError(f"there is no shipped model {name!r}; there are {', '.join(names())}")
    return _bundle(name)


@cache
def _bundle(name: str) -> Bundle:
    return Bundle(name, ASSETS / name)


def open_model(
    model: str,
    prior: str | Path | None = None,
    late: bool = False,
    device: torch.device | str = "cpu",
    *,
    scheduler: Any = None,
    mixed_precision: str = "no",
) -> tuple[Any, Any, Prior | None]:
    """A shipped model by its name, or a diffusers folder: the network, its scheduler, and the prior to start from.

    The network and the prior are put on `device`; a shipped model is one, and stays there.

    The prior is the one in the file `prior`, or for a shipped model "gaussian" or "mixture", those that come with it; a
    late start of a shipped model without one takes the Gaussian.

    Args:
        model: a shipped model's name, or a folder.
        prior: a file, or the name of a shipped one.
        late: whether a shipped prior is wanted where none is named.
        device: where it is evaluated.
        scheduler: the one that a folder without one was trained with; see `load_model`.
        mixed_precision: "bf16" for a network in half precision, "no" for its own.

    Raises:
        ValueError: a folder without a model, a shipped prior of a model that is not, a late start without a prior, or
            a precision that there is not.
    """
    if mixed_precision not in PRECISIONS:
        raise ValueError(f"mixed_precision must be one of {', '.join(PRECISIONS)}, received {mixed_precision!r}")
    require_model(model)
    shipped = None if Path(model).is_dir() else load(model)
    if shipped is not None and scheduler is not None:
        raise ValueError(f"the shipped model {model} has its own scheduler, and needs no other")
    if prior is None and late:
        if shipped is None:
            raise ValueError("a late start needs a prior: fit one with `latestart fit IMAGES --out prior.safetensors`")
        prior = "gaussian"
    if shipped is None and str(prior) in PRIORS:
        raise ValueError(f"the prior {str(prior)!r} comes with shipped models only, received the folder {model}")
    network: Any
    network, own = load_model(model, device, scheduler=scheduler) if shipped is None else shipped.opened
    network = network.to(device) if mixed_precision == "no" else HalfPrecision(network.to(device))
    if prior is None:
        return network, own, None
    chosen = getattr(shipped, PRIORS[str(prior)]) if str(prior) in PRIORS else load_prior(prior)
    return network, own, chosen.to(device)


def features_named() -> list[str]:
    """The names of feature extractors: those of the shipped models, and that of the extra `latestart[features]`."""
    return [*names(), EFFICIENTNET]


def features(name: str) -> ClassifierFeatures | EfficientNetFeatures:
    """A feature extractor by its name: that of a shipped bundle, or EfficientNet-Lite0.

    Raises:
        ImportError: the extra that it needs is not installed.
        ValueError: there is none of that name.
    """
    if name == EFFICIENTNET:
        return _efficientnet()
    if name not in names():
        raise ValueError(f"there are no features {name!r}; there are {', '.join(features_named())}")
    return load(name).features


@cache
def _efficientnet() -> EfficientNetFeatures:
    return EfficientNetFeatures()


def pack(images: Images) -> Any:
    """Images as the one picture that a bundle keeps them in."""
    return tile(images.pixels, COLUMNS)
