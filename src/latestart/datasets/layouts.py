"""Which layout a place has.

celeba@64@test      CelebA: a part (train, valid, test, all; train if none is named), at a size, or with an attribute
imagenet64@valid    ImageNet64: a part (train or valid)
celeba-hq@64        CelebA-HQ, or any folder of images: the largest square in the middle, shrunk to a size
"""

from latestart.datasets.celeba import FACES, find, open_celeba
from latestart.datasets.imagenet import find_batches, open_imagenet
from latestart.datasets.pictures import Source, open_folder
from latestart.datasets.places import Place


def open_source(place: Place) -> Source | None:
    """The source at a place that has a published layout, or of which a size is asked; None for any other.

    Raises:
        FileNotFoundError: a file that belongs to the layout is missing.
        ValueError: a file that does not fit the layout, or words that the layout does not know.
    """
    if place.path.is_dir() and find(place.path, FACES) is not None:
        return open_celeba(place)
    if place.path.is_dir() and (batches := find_batches(place.path)):
        return open_imagenet(place, batches)
    if place == Place(place.path):
        return None
    place.without("a folder of images", "part", "attribute")
    if not place.path.is_dir():
        raise FileNotFoundError(f"expected a folder of images at {place.path}, of which something is asked after an @")
    return open_folder(place.path, place.size)
