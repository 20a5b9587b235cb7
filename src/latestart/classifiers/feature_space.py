"""The classifier of a feature space: trained, scored on images that it has not seen, and kept beside a model."""

from pathlib import Path

from latestart.checks import ARCHITECTURES
from latestart.classifiers.attributes import Score, counted
from latestart.data import Images
from latestart.evaluation.quality import feature_statistics
from latestart.features import Classifier, ClassifierFeatures
from latestart.train import Progress, train_classifier

__all__ = ["keep_space", "train_features"]

HELD_OUT = 10  # one image in so many is kept back


def train_features(
    labelled: Images,
    epochs: int,
    seed: int,
    progress: Progress,
    mixed_precision: str = "no",
    architecture: str = ARCHITECTURES[0],
) -> tuple[Classifier, Score]:
    """Train the classifier whose last hidden layer is a data set's feature space, and score it on the first tenth.

    Args:
        labelled: images with labels, in no particular order.
        epochs, seed, progress, mixed_precision, architecture: as in `train_classifier`.

    Raises:
        ValueError: the images are fewer than a batch.
    """
    held = labelled[: len(labelled) // HELD_OUT]
    trained = train_classifier(
        labelled[len(held) :],
        epochs,
        seed=seed,
        progress=progress,
        mixed_precision=mixed_precision,
        architecture=architecture,
    )
    assert held.labels is not None
    classes = max(trained.classes, int(held.labels.max()) + 1)  # a rare class may occur among those held out alone
    return trained, counted(held.labels, trained.classify(held.batches()), tuple(map(str, range(classes))))


def keep_space(trained: Classifier, train: Images, test: Images, folder: Path, space: str = "") -> Score:
    """Write a classifier beside a model, and the statistics of its features of both sets; score it on the test set.

    Args:
        trained: the classifier, which is kept in half precision; statistics and score are of what is kept.
        train, test: the images, with labels.
        folder: of the model.
        space: before the names of the files: "" for the first feature space, `zoo.SECOND` for the second.
    """
    path = folder / f"{space}classifier.safetensors"
    trained.save(path)
    kept = Classifier.load(path)
    for split, images in (("train", train), ("test", test)):
        statistics = feature_statistics(images.units(), ClassifierFeatures(kept, device="cpu"))
        statistics.save(folder / f"{space}features-{split}.safetensors")
    assert test.labels is not None
    return counted(test.labels, kept.classify(test.batches()), tuple(map(str, range(kept.classes))))
