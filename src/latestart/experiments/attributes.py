"""The attribute classifier of generated faces: one small network that reads all attributes of a picture at once.

    P(value | image) = softmax over the attribute's own part of the logits,   loss = sum of the cross-entropies

It is trained on pictures whose attributes are known exactly (`faces.py`), averaged over blocks of pixels to a side of
about 32, under white noise of a random strength: of what few-step samplers leave of theirs it should not make a beard.
Of images that have labels alone it reads these.

A classifier's errors look like a difference between samples and data, or hide one, so they are measured: a tenth of the
pictures is held out, and what was said of them is kept in the file for each attribute, as counts by the true value and
the value said. That speaks of sound pictures only. How sure the classifier is of a sampler's is another figure, which
`diversity.py` gives beside.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from latestart.checks import checked_seed
from latestart.data import Images, load_images, to_floats
from latestart.device import own_device
from latestart.evaluation.quality import Estimate
from latestart.experiments.faces import SHARES
from latestart.features import Classifier
from latestart.files import load_tensors, require_finite, save_tensors, sound
from latestart.lab.store import fingerprint
from latestart.records import Record
from latestart.train import half

KIND = "attribute-classifier"
FILE = "attributes.safetensors"  # beside a model
SIDE = 32  # of the averaged pictures, at least
NOISE = 0.3  # the most, in [-1, 1]
HELD_OUT = 0.1
LEARNING_RATE = 3e-3
FEWEST = 100  # pictures
Progress = Callable[[int, int, float], None]


@dataclass(frozen=True, eq=False, repr=False)
class Score(Record):
    """How well one attribute is read on held-out pictures.

    Attributes:
        values: the names of its values.
        counts: of pictures, int64 `(K, K)`, by the true value (row) and the value said (column).
    """

    values: tuple[str, ...]
    counts: Tensor

    @property
    def accuracy(self) -> Estimate:
        """The share read rightly, with its 95% interval (Wilson)."""
        right, n = int(self.counts.diagonal().sum()), int(self.counts.sum())
        low, high = stats.binomtest(right, n).proportion_ci(method="wilson")
        return Estimate(right / n, float(low), float(high))

    @property
    def bias(self) -> float:
        """The total variation between the true shares and those said: how far errors move the shares."""
        true, said = self.counts.sum(1), self.counts.sum(0)
        return float((true - said).abs().sum() / (2 * self.counts.sum()))

    def record(self) -> dict[str, Any]:
        """The score for JSON."""
        counts = dict(zip(self.values, self.counts.tolist()))
        return {"accuracy": asdict(self.accuracy), "bias": self.bias, "said_by_true_value": counts}


class AttributeClassifier:
    """Reads several attributes of images in [0, 1] at once.

    Args:
        network: on averaged images, its logits those of all attributes in turn.
        shape: of the images, `(C, H, W)`.
        values: for each attribute the names of its values.
        scores: on held-out pictures.

    Raises:
        ValueError: as many logits as values are expected, and a network for the averaged shape.
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
        """Its fingerprint: other weights, another name."""
        return "attributes-" + fingerprint(*self.network.state_dict().values())

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """For each attribute the probabilities `(B, K)` of images `(B, C, H, W)` in [0, 1].

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
        state = self.network.state_dict()
        tensors = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
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
            network.load_state_dict({name: v.float() if v.is_floating_point() else v for name, v in tensors.items()})
            scores = {name: Score(values[name], torch.tensor(counts)) for name, counts in metadata["counts"].items()}
            return cls(network, shape, values, scores)


@dataclass(frozen=True, eq=False, repr=False)
class Known(Record):
    """Images whose attributes are known: for each its values by name, and the index of each image's, int64 `(N,)`."""

    images: Images
    values: dict[str, tuple[str, ...]]
    attributes: dict[str, Tensor]

    def __getitem__(self, part: slice) -> "Known":
        return Known(self.images[part], self.values, {name: index[part] for name, index in self.attributes.items()})


def load_known(path: str | Path, limit: int | None = None, label: str | None = "class") -> Known:
    """Read an npz file of images with an array of class indices for each attribute, as `experiment faces` writes it.

    Of other images the labels are the one attribute, called `label`; None does without them.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: the images have neither attributes nor labels.
    """
    images = load_images(path, limit)
    found = known_attributes(path, len(images), limit)
    if not found and images.labels is not None and label is not None:
        found = {label: images.labels}
    if not found:
        other = "" if label is None else "images with labels, or "
        raise ValueError(
            f"{path} names no attributes: expected {other}an npz file with an array of class indices for each "
            "attribute, as `latestart experiment faces` writes it"
        )
    values = {name: names_of(name, int(index.max()) + 1) for name, index in found.items()}
    return Known(images, values, found)


def known_attributes(path: str | Path, count: int, limit: int | None = None) -> dict[str, Tensor]:
    """The attributes that an npz file says of its images, int64 `(count,)` each; none for any other file.

    `count` is how many images were read, of the first `limit`.

    Raises:
        ValueError: an attribute of other than class indices, one for each image.
    """
    if Path(path).suffix != ".npz":
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name][:limit] for name in file.files if name not in ("images", "labels")}
    except (BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"the attributes in {path} cannot be read: {error}") from error
    for name, index in arrays.items():
        if index.shape != (count,) or not np.issubdtype(index.dtype, np.integer) or (count and index.min() < 0):
            negative = np.issubdtype(index.dtype, np.number) and index.size and index.min() < 0
            raise ValueError(
                f"{path}: expected a class index for each of {count} images as {name}, received {index.dtype} of the "
                f"shape {index.shape}{', some below 0' if negative else ''}"
            )
    return {name: torch.from_numpy(index.astype(np.int64)) for name, index in arrays.items()}


def names_of(attribute: str, count: int) -> tuple[str, ...]:
    """The names of an attribute's values: those of the faces, else numbers."""
    known = tuple(SHARES.get(attribute, {}))
    return known if count <= len(known) else tuple(map(str, range(count)))


def combined(known: Known) -> Images:
    """The images, with one label for each combination of attributes that occurs: what features have to tell apart.

    Raises:
        ValueError: as good as every image is a combination of its own.
    """
    together = torch.stack(list(known.attributes.values()), 1)
    each, labels = together.unique(dim=0, return_inverse=True)
    if 2 * len(each) > len(labels):
        many = ", ".join(f"{name} ({len(index.unique())} values)" for name, index in known.attributes.items())
        raise ValueError(
            f"the attributes {many} have {len(each)} combinations among {len(labels)} images: expected at least two "
            "images of each on average; leave out of the file what only numbers the images"
        )
    return Images(known.images.pixels, labels)


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
        _fit(network, train, epochs, batch_size, progress, mixed_precision)
    reader = AttributeClassifier(network, shape, known.values, {})
    return AttributeClassifier(network, shape, known.values, scores(reader, known[slice(-held_out, None)]))


def _fit(
    network: Classifier, train: Known, epochs: int, batch_size: int, progress: Progress | None, precision: str
) -> None:
    per_epoch = len(train.images) // batch_size
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=epochs * per_epoch)
    for step in range(epochs * per_epoch):
        if step % per_epoch == 0:
            order = torch.randperm(len(train.images)).split(batch_size)
        loss = _loss(network, train, order[step % per_epoch], precision)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress(step + 1, epochs * per_epoch, float(loss.detach()))


def _loss(network: Classifier, train: Known, index: Tensor, precision: str) -> Tensor:
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
    """Images averaged over blocks of pixels to a side of about 32; smaller ones as they are."""
    return nn.functional.avg_pool2d(x, _block(tuple(x.shape[1:])))


def averaged_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape `(C, H, W)` that `averaged` leaves of another."""
    block = _block(shape)
    return shape[0], shape[1] // block, shape[2] // block


def _block(shape: tuple[int, ...]) -> int:
    return max(min(shape[1:]) // SIDE, 1)


def split(logits: Tensor, values: Mapping[str, tuple[str, ...]]) -> dict[str, Tensor]:
    """Each attribute's part `(B, K)` of the logits `(B, sum of K)`."""
    return dict(zip(values, logits.split([len(names) for names in values.values()], dim=1)))
