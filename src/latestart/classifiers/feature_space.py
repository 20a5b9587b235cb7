"""The classifier of a feature space, trained on nine tenths of the images and scored on the rest."""

from latestart.classifiers.attributes import Score, counted
from latestart.data import Images
from latestart.features import Classifier
from latestart.train import Progress, train_classifier

__all__ = ["train_features"]

HELD_OUT = 10  # one image in so many is kept back


def train_features(
    labelled: Images, epochs: int, seed: int, progress: Progress, mixed_precision: str = "no"
) -> tuple[Classifier, Score]:
    """Train the classifier whose last hidden layer is a data set's feature space, and score it on the first tenth.

    Args:
        labelled: images with labels, in no particular order.
        epochs, seed, progress, mixed_precision: as in `train_classifier`.

    Raises:
        ValueError: the images are fewer than a batch.
    """
    held = labelled[: len(labelled) // HELD_OUT]
    trained = train_classifier(
        labelled[len(held) :], epochs, seed=seed, progress=progress, mixed_precision=mixed_precision
    )
    assert held.labels is not None
    classes = max(trained.classes, int(held.labels.max()) + 1)  # a rare class may occur among those held out alone
    return trained, counted(held.labels, trained.classify(held.batches()), tuple(map(str, range(classes))))
