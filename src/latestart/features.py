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

from latestart.checks import whole_number
from latestart.data import to_pixels
from latestart.device import own_device
from latestart.files import cast, load_tensors, require_finite, save_tensors, sound

__all__ = ["Classifier", "ClassifierFeatures", "InceptionFeatures"]


class Classifier(nn.Module):
    """A small convolutional classifier; its last hidden layer, 128 wide, is the feature space of a data set."""

    width = 128

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.shape, self.classes = tuple(shape), classes
        self.body = nn.Sequential(
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
            nn.Linear(48 * (height // 4) * (width // 4), self.width),
            nn.ReLU(),
        )
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
        metadata = {"shape": list(self.shape), "classes": self.classes}
        save_tensors(path, "classifier", cast(self.state_dict(), torch.float16), metadata)

    @classmethod
    def load(cls, path: str | Path) -> "Classifier":
        """Open what `save` wrote, in float32 and evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds something else, or is damaged.
        """
        tensors, metadata = load_tensors(path, "classifier")
        require_finite(path, {name: value for name, value in tensors.items() if value.is_floating_point()}, ())
        with sound(path, "classifier"):
            model = cls(tuple(metadata["shape"]), metadata["classes"])
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
        self.name = f"{name}-{_fingerprint(classifier.state_dict().values())}"
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
        self.name = f"inception-{_fingerprint(network.state_dict().values())}"
        self.device = own_device() if device is None else torch.device(device)
        self.network = network.to(self.device)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features `(B, 2048)`, on the processor, of images `(B, C, H, W)` in [0, 1]; one channel is taken thrice.

        Raises:
            ValueError: images of other than one or three channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise ValueError(f"expected images (B, C, H, W) of one or three channels, received {tuple(images.shape)}")
        pixels = (to_pixels(part).to(self.device).expand(-1, 3, -1, -1) for part in images.split(self.batch_size))
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


def _fingerprint(tensors: Iterable[Any]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:8]
