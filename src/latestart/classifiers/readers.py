"""Readers of attributes: a classifier's probabilities for every image, by the name of the attribute.

    reader(images)  ->  {"skin": probabilities (B, 7), "glasses": probabilities (B, 2), ...}

A reader may be the classifier of several attributes that `experiment attributes` trains, or any classifier of one:
the project's own, one of transformers from a local folder, or DeepFace. `scores_of` measures how well it reads held-out
images, `doubtful` the share of images of which it is not sure.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from latestart import zoo
from latestart.classifiers.attributes import FILE, KIND, AttributeClassifier, Score, counted
from latestart.data import Images
from latestart.evaluation.diversity import (
    Classify,
    DeepFaceClassifier,
    ProjectClassifier,
    TransformersClassifier,
    classified,
)
from latestart.features import Classifier
from latestart.files import kind_of
from latestart.fingerprints import fingerprint

__all__ = ["Reader", "Single", "doubtful", "open_reader", "read_all", "reads_labels", "scores_of"]

SURE = 0.9
LABELS = {"mnist": "digit"}  # what the classes of a shipped model are


class Reader(Protocol):
    """Reads attributes: from images in [0, 1] to class indices or probabilities, by the attribute's name.

    Attributes:
        name: differs from one reader to another.
        values: names of each attribute's values, or None where there are none.
    """

    @property
    def name(self) -> str: ...

    @property
    def values(self) -> Mapping[str, Sequence[str] | None]: ...

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...


class Single:
    """A classifier of `evaluation/diversity.py` as a reader of one attribute."""

    def __init__(self, attribute: str, classify: Classify, name: str) -> None:
        self.attribute, self.classify, self.name = attribute, classify, name
        self.values: dict[str, Sequence[str] | None] = {attribute: getattr(classify, "values", None)}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return class indices or probabilities, by the attribute's name."""
        return {self.attribute: classified(self.classify, images)}


def open_reader(classifier: str | None, model: str) -> Reader:
    """Return the reader in a file or a folder, or the one beside a model.

    Args:
        classifier: a file of `experiment attributes` or of a classifier; a folder of transformers; `deepface:race`,
            `deepface:gender` or `deepface:emotion`; None for the attributes, or else the classifier, beside the model.
        model: the name of a shipped model, or a folder.

    Raises:
        ValueError: there is none, or it is something else.
        ImportError: transformers or deepface is not installed.
    """
    if classifier is None:
        folder = Path(model) if Path(model).is_dir() else zoo.load(model).path
        beside = [folder / name for name in (FILE, "classifier.safetensors") if (folder / name).is_file()]
        if not beside:
            raise ValueError(f"{model} brings no classifier of attributes: give one")
        classifier = str(beside[0])
    if classifier.startswith("deepface:"):
        what = classifier.removeprefix("deepface:")
        return Single(what, DeepFaceClassifier(what), classifier)
    path = Path(classifier)
    if path.is_dir():
        weights = [file.read_bytes() for file in sorted(path.glob("*.safetensors"))]
        return Single("class", TransformersClassifier(path), f"{path.name}-" + fingerprint(*weights))
    if kind_of(path) == KIND:
        return AttributeClassifier.load(path)
    network, label = Classifier.load(path), LABELS.get(Path(model).name, "class")
    values = tuple(map(str, range(network.classes)))
    return Single(
        label, ProjectClassifier(network, values), "classifier-" + fingerprint(*network.state_dict().values())
    )


def reads_labels(reader: Reader) -> bool:
    """Return whether the attribute is the label of the images; classes of foreign classifiers may be other things."""
    if isinstance(reader, AttributeClassifier):
        return len(reader.values) == 1  # as after training on images with labels alone
    return isinstance(reader, Single) and isinstance(reader.classify, ProjectClassifier)


def read_all(reader: Reader, images: Images) -> dict[str, Tensor]:
    """Read all images, in parts, so that not all of them are floats at once."""
    parts = [reader(part.float() / 255) for part in images.pixels.split(1000)]
    return {name: torch.cat([part[name] for part in parts]) for name in reader.values}


def scores_of(reader: Reader, unseen: Images | None) -> dict[str, Score]:
    """Return a reader's scores on held-out images: its own, or of images with labels; none where there are neither."""
    if isinstance(reader, AttributeClassifier):
        return reader.scores
    if unseen is None or unseen.labels is None or not reads_labels(reader):
        return {}
    (name, said), labels = next(iter(reader(unseen.unit()).items())), unseen.labels
    values = reader.values[name] or tuple(map(str, range(int(labels.max()) + 1)))
    return {name: counted(labels, said.argmax(1) if said.ndim == 2 else said, tuple(values))}


def doubtful(said: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the share of images with a certainty below 90%, by attribute, where there are probabilities."""
    probabilities = {name: one for name, one in said.items() if one.is_floating_point()}
    return {name: float((one.amax(1) < SURE).double().mean()) for name, one in probabilities.items()}
