"""Feature extractors: images to the vectors on which a Frechet distance is taken.

An extractor is a function from images in [0, 1], `(B, C, H, W)`, to features `(B, F)`, with a `name` that goes into
every figure made with it.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latestart.checks import ARCHITECTURES, whole_number
from latestart.data import require_colours, to_pixels
from latestart.device import own_device
from latestart.files import cast, load_tensors, require_finite, save_tensors, sound

__all__ = ["Classifier", "ClassifierFeatures", "InceptionFeatures", "fingerprint"]


WIDTH = 128  # features of a classifier, whatever its architecture
PATCH = 4  # pixels of a side of the patches that the mixer works on


def _convolutions(shape: tuple[int, ...]) -> nn.Sequential:
    """Two convolutions, each with a maximum over 2 x 2 pixels, and a hidden layer."""
    channels, height, width = shape
    return nn.Sequential(
        nn.Conv2d(channels, 24, 5, padding=2),
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 5, padding=2),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(48 * (height // 4) * (width // 4), WIDTH),
        nn.ReLU(),
    )


class _Mixing(nn.Module):
    """One block of a mixer on `(B, P, F)`: first the P patches are mixed, then the F features, each with a residual."""

    def __init__(self, patches: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.across, self.within = (
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
            for width, hidden in ((patches, 64), (WIDTH, 2 * WIDTH))
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norms[0](x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.norms[1](x))


class _Patches(nn.Module):
    """Embedded patches of images, `(B, P, F)`, each side of the images a whole number of them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, WIDTH, PATCH, PATCH)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed(x).flatten(2).transpose(1, 2)


class _Average(nn.Module):
    """The mean over the patches, `(B, F)`."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


def _mixer(shape: tuple[int, ...]) -> nn.Sequential:
    """Three blocks of a mixer (Tolstikhin et al. 2021) on patches of 4 x 4 pixels, and the mean over these.

    Raises:
        ValueError: the image is not a whole number of patches.
    """
    channels, height, width = shape
    if height % PATCH or width % PATCH:
        raise ValueError(f"a mixer works on patches of {PATCH} x {PATCH} pixels, received images {tuple(shape)}")
    blocks = (_Mixing((height // PATCH) * (width // PATCH)) for _ in range(3))
    return nn.Sequential(_Patches(channels), *blocks, nn.LayerNorm(WIDTH), _Average())


_BODIES = {"convolutions": _convolutions, "mixer": _mixer}


class Classifier(nn.Module):
    """A small classifier; its last hidden layer, 128 wide, is the feature space of a data set.

    Args:
        shape: of the images, `(C, H, W)`.
        classes: their number.
        architecture: "convolutions", or "mixer" of patches.

    Raises:
        ValueError: there is no such architecture, or it is not for images of that shape.
    """

    width = WIDTH

    def __init__(self, shape: tuple[int, ...], classes: int, architecture: str = ARCHITECTURES[0]) -> None:
        super().__init__()
        if architecture not in _BODIES:
            raise ValueError(f"there is no architecture {architecture!r}; there are {', '.join(ARCHITECTURES)}")
        self.shape, self.classes, self.architecture = tuple(shape), classes, architecture
        self.body = _BODIES[architecture](shape)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(self.width, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Class logits `(B, classes)` of images in [-1, 1]."""
        return self.head(self.body(x))

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, `(B, 128)`."""
        return self.body(x)

    @torch.inference_mode()
    def decide(self, x: Tensor) -> Tensor:
        """The class of each image `(B, C, H, W)` in [-1, 1], int64 `(B,)`, on the device of the images."""
        weight = next(self.parameters())
        return self(x.to(weight)).argmax(1).to(x.device)

    @torch.inference_mode()
    def classify(self, batches: Iterable[Tensor]) -> Tensor:
        """The class of each image of batches `(B, C, H, W)` in [-1, 1], int64 `(N,)`, where the images are."""
        return torch.cat([self.decide(part) for part in batches])

    def save(self, path: str | Path) -> None:
        """Write the weights in half precision, as safetensors."""
        metadata = {"shape": list(self.shape), "classes": self.classes, "architecture": self.architecture}
        save_tensors(path, "classifier", cast(self.state_dict(), torch.float16), metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Classifier":
        """Open what `save` wrote, in float32 and evaluation mode; a file that names no architecture has the first one.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds something else, or is damaged.
        """
        tensors, metadata = load_tensors(path, "classifier")
        require_finite(path, {name: value for name, value in tensors.items() if value.is_floating_point()}, ())
        with sound(path, "classifier"):
            architecture = metadata.get("architecture", ARCHITECTURES[0])
            model = cls(tuple(metadata["shape"]), metadata["classes"], architecture)
            model.load_state_dict(cast(tensors, torch.float32))
        return model.eval()


class ClassifierFeatures:
    """The features of a `Classifier`, `(B, 128)`, in batches; `name` carries a fingerprint of the weights.

    Args:
        classifier: which is moved to the device.
        name: before the fingerprint.
        device: where they are evaluated; that of this process by default.
    """

    def __init__(
        self, classifier: Classifier, name: str = "classifier", device: torch.device | str | None = None
    ) -> None:
        self.name = f"{name}-{fingerprint(classifier.state_dict().values())}"
        self.classifier = classifier.to(own_device() if device is None else device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features of images `(B, C, H, W)` in [0, 1]; raises `ValueError` for images of another shape."""
        if tuple(images.shape[1:]) != self.classifier.shape:
            expected = f"the features {self.name} are for images {self.classifier.shape}"
            raise ValueError(f"{expected}, received {tuple(images.shape)}")
        device = next(self.classifier.parameters()).device
        return torch.cat([self.classifier.features(2 * part.to(device) - 1).cpu() for part in images.split(500)])


class InceptionFeatures:
    """The 2,048 pooled features of the FID Inception network, as torch-fidelity computes them.

    Args:
        weights: the file of weights of torch-fidelity (`weights-inception-2015-12-05-*.pth`), already downloaded.
        batch_size: images evaluated at once, however many are given.
        device: where they are evaluated; that of this process by default.

    Raises:
        FileNotFoundError: there are no weights.
        ImportError: torch-fidelity is not installed (`pip install latestart[inception]`).
        ValueError: the file is damaged, or holds something else; or batches of no images.
    """

    def __init__(self, weights: str | Path, batch_size: int = 64, device: torch.device | str | None = None) -> None:
        self.batch_size = whole_number("batch_size", batch_size)
        _check_weights(Path(weights))
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        with sound(weights, "FID Inception network"):
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(weights)).eval()
        self.name = f"inception-{fingerprint(network.state_dict().values())}"
        self.device = own_device() if device is None else torch.device(device)
        self.network = network.to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features `(B, 2048)`, on the processor, of images `(B, C, H, W)` in [0, 1]; one channel is taken thrice.

        Raises:
            ValueError: images of other than one or three channels.
        """
        parts = require_colours(images).split(self.batch_size)
        pixels = (to_pixels(part).to(self.device).expand(-1, 3, -1, -1) for part in parts)
        return torch.cat([self.network(part)[0].cpu() for part in pixels])


def _check_weights(path: Path) -> None:
    """Raise unless a file holds named tensors, as `torch.save` writes them, and nothing that could run."""
    if not path.is_file():
        raise FileNotFoundError(f"expected the weights of the FID Inception network at {path}, found none")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a spoilt pickle raises whatever its bytes happen to say
        raise ValueError(
            f"{path} does not hold the weights of the FID Inception network: it is damaged, or of another format than "
            "torch.save's of tensors alone"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(
            f"{path} does not hold the weights of the FID Inception network: expected named tensors, received a "
            f"{type(state).__name__}"
        )


def fingerprint(tensors: Iterable[Any]) -> str:
    """Eight hexadecimal digits that stand for the values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:8]
