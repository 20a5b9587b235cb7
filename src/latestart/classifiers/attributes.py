"""The classifier of attributes: one small network that reads all attributes of a picture at once.

    P(value | image) = softmax over the attribute's own part of the logits,   loss = sum of the cross-entropies

It is trained on pictures with known attributes (`known.py`), averaged over blocks of pixels to a side of about 32,
under white noise of a random strength, so that the noise which few-step samplers leave is not taken for a beard. For
images with labels alone it reads these.

A classifier's errors look like a difference between samples and data, or hide one, so they are measured: a tenth of the
pictures is held out, and the file keeps for each attribute the counts by true and predicted value. They are of clean
pictures only. Its certainty on a sampler's images is a figure of `experiments/diversity`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from latestart.checks import checked_seed
from latestart.classifiers.known import Known
from latestart.data import to_floats
from latestart.device import own_device
from latestart.evaluation.quality import Estimate
from latestart.features import Classifier
from latestart.files import cast, load_tensors, require_finite, save_tensors, sound
from latestart.fingerprints import fingerprint
from latestart.records import Record
from latestart.train import Progress, half, one_cycle

__all__ = [
    "FILE", "KIND", "AttributeClassifier", "Score", "averaged", "averaged_shape", "counted", "scores", "split",
    "train_attributes",
]  # fmt: skip

KIND = "attribute-classifier"
FILE = "attributes.safetensors"  # beside a model
SIDE = 32  # of the averaged pictures, at least
NOISE = 0.3  # the most, in [-1, 1]
HELD_OUT = 0.1
FEWEST = 100  # pictures


@dataclass(frozen=True, eq=False, repr=False)
class Score(Record):
    """Counts of true and predicted values of one attribute on held-out pictures.

    Attributes:
        values: the names of its values.
        counts: of pictures, int64 `(K, K)`, by true value (row) and predicted value (column).
    """

    values: tuple[str, ...]
    counts: Tensor

    @property
    def accuracy(self) -> Estimate:
        """The share that is read right, with its 95% interval (Wilson)."""
        right, n = int(self.counts.diagonal().sum()), int(self.counts.sum())
        low, high = stats.binomtest(right, n).proportion_ci(method="wilson")
        return Estimate(right / n, float(low), float(high))

    @property
    def bias(self) -> float:
        """The total variation between true and predicted shares: how far errors move the shares."""
        true, said = self.counts.sum(1), self.counts.sum(0)
        return float((true - said).abs().sum() / (2 * self.counts.sum()))

    def __str__(self) -> str:
        right = self.accuracy
        return f"{right.value:.2%} right [{right.low:.2%}, {right.high:.2%}] of {int(self.counts.sum()):,}"

    def record(self) -> dict[str, Any]:
        """Return the score, for JSON."""
        counts = dict(zip(self.values, self.counts.tolist()))
        return {"accuracy": asdict(self.accuracy), "bias": self.bias, "said_by_true_value": counts}


class AttributeClassifier:
    """Reads several attributes of images in [0, 1] at once.

    Args:
        network: of averaged images; its logits are those of all attributes in turn.
        shape: of the images, `(C, H, W)`.
        values: for each attribute the names of its values.
        scores: on held-out pictures.

    Raises:
        ValueError: a network of another number of logits than values, or of another shape than the averaged one.
    """

    def __init__(
        self,
        network: Classifier,
        shape: tuple[int, ...],
        values: Mapping[str, tuple[str, ...]],
        scores: Mapping[str, Score],
    ) -> None:
        self.network, self.shape = network.eval(), tuple(shape)
        self.values, self.scores = dict(values), dict(scores)
        if network.classes != sum(map(len, values.values())) or network.shape != averaged_shape(self.shape):
            raise ValueError(
                f"a network of {network.classes} logits for images {network.shape} does not read {dict(values)} of "
                f"images {self.shape}"
            )

    @property
    def name(self) -> str:
        """Fingerprint of the weights."""
        return "attributes-" + fingerprint(*self.network.state_dict().values())

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return for each attribute the probabilities `(B, K)` of images `(B, C, H, W)` in [0, 1].

        Raises:
            ValueError: images of another shape.
        """
        if tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"the classifier is for images {self.shape}, received {tuple(images.shape[1:])}")
        device = next(self.network.parameters()).device
        parts = [self.network(averaged(2 * part.to(device) - 1)).cpu() for part in images.split(500)]
        return {name: part.softmax(1) for name, part in split(torch.cat(parts), self.values).items()}

    def save(self, path: str | Path) -> None:
        """Write weights in half precision, values and scores, as safetensors."""
        tensors = cast(self.network.state_dict(), torch.float16)
        counts = {name: score.counts.tolist() for name, score in self.scores.items()}
        values = {name: list(names) for name, names in self.values.items()}
        save_tensors(path, KIND, tensors, {"shape": list(self.shape), "values": values, "counts": counts})

    @classmethod
    def load(cls, path: str | Path) -> "AttributeClassifier":
        """Open what `save` wrote, in float32 and evaluation mode.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds something else, or is damaged.
        """
        tensors, metadata = load_tensors(path, KIND)
        require_finite(path, {name: value for name, value in tensors.items() if value.is_floating_point()}, ())
        with sound(path, "attribute classifier"):
            shape = tuple(metadata["shape"])
            values = {name: tuple(names) for name, names in metadata["values"].items()}
            network = Classifier(averaged_shape(shape), sum(map(len, values.values())))
            network.load_state_dict(cast(tensors, torch.float32))
            scores = {name: Score(values[name], torch.tensor(counts)) for name, counts in metadata["counts"].items()}
            return cls(network, shape, values, scores)


def train_attributes(
    known: Known,
    epochs: int = 4,
    batch_size: int = 128,
    seed: int = 0,
    progress: Progress | None = None,
    mixed_precision: str = "no",
) -> AttributeClassifier:
    """Train the classifier on nine tenths of the pictures, and score it on the last.

    Adam under a one-cycle schedule.

    Args:
        known: pictures with their attributes, in no particular order.
        epochs: passes over the pictures.
        batch_size: pictures a step.
        seed: of the weights, the order and the noise.
        progress: called as `progress(step, steps, loss)` after each step.
        mixed_precision: "bf16" for half precision, "no" for float32.

    Raises:
        ValueError: fewer than 100 pictures, or than a batch.
    """
    held_out = max(int(HELD_OUT * len(known.images)), 1)
    train = known[slice(0, len(known.images) - held_out)]
    if len(train.images) < max(FEWEST, batch_size):
        raise ValueError(
            f"expected at least {max(FEWEST, batch_size)} pictures beside those held out, received {len(train.images)}"
        )
    shape = train.images.shape
    with torch.random.fork_rng():
        torch.manual_seed(checked_seed(seed))
        network = Classifier(averaged_shape(shape), sum(map(len, known.values.values()))).to(own_device()).train()
        one_cycle(
            network, len(train.images), epochs, batch_size, partial(_loss, network, train, mixed_precision), progress
        )
    reader = AttributeClassifier(network, shape, known.values, {})
    return AttributeClassifier(network, shape, known.values, scores(reader, known[slice(-held_out, None)]))


def _loss(network: Classifier, train: Known, precision: str, index: Tensor) -> Tensor:
    x, device = to_floats(train.images.pixels[index]), next(network.parameters()).device
    noisy = averaged(x + NOISE * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)).to(device)
    with half(precision, device):
        logits = split(network(noisy), train.values)
    true = {name: known[index].to(device) for name, known in train.attributes.items()}
    return sum(
        (nn.functional.cross_entropy(logits[name].float(), known) for name, known in true.items()),
        start=noisy.new_zeros(()),
    )


def scores(reader: AttributeClassifier, known: Known) -> dict[str, Score]:
    """Score a classifier on pictures with known attributes."""
    said = reader(known.images.unit())
    return {
        name: counted(known.attributes[name], said[name].argmax(1), values) for name, values in known.values.items()
    }


def counted(true: Tensor, said: Tensor, values: tuple[str, ...]) -> Score:
    """Score predicted class indices `(N,)` against the true ones."""
    k = len(values)
    return Score(values, (true * k + said).bincount(minlength=k * k).view(k, k))


def averaged(x: Tensor) -> Tensor:
    """Return images averaged over blocks of pixels to a side of about 32, and smaller ones unchanged."""
    return nn.functional.avg_pool2d(x, _block(tuple(x.shape[1:])))


def averaged_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape `(C, H, W)` of images after `averaged`."""
    block = _block(shape)
    return shape[0], shape[1] // block, shape[2] // block


def _block(shape: tuple[int, ...]) -> int:
    return max(min(shape[1:]) // SIDE, 1)


def split(logits: Tensor, values: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Return each attribute's part `(B, K)` of the logits `(B, sum of K)`."""
    return dict(zip(values, logits.split([len(names) for names in values.values()], dim=1)))
