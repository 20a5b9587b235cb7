"""The layout of a place, and the source that reads it.

photos                      a folder of pictures, whose sub-folders, if it has any, are the classes
photos@64                   each cut to the largest square in its middle, and shrunk
photos@background=white     transparent pictures laid onto a colour
celeba@64@test              CelebA: a part (train, valid, test, all; train if none is named), at a size, or with an
                            attribute
imagenet64@valid            ImageNet64: a part (train or valid)
x.parquet, x.npz            tables and arrays (`tables.py`)
"""

from latestart.datasets.celeba import FACES, find, open_celeba
from latestart.datasets.folders import open_folder
from latestart.datasets.imagenet import find_batches, open_imagenet
from latestart.datasets.pictures import Source
from latestart.datasets.places import Place
from latestart.datasets.tables import open_npz, open_parquet

__all__ = ["open_source"]


def open_source(place: Place) -> Source:
    """The source at a place.

    Raises:
        FileNotFoundError: there is nothing, or a file that belongs to the layout is missing.
        ValueError: a file that does not fit the layout, or words that the layout does not know.
    """
    path = place.path
    if path.is_dir():
        if find(path, FACES) is not None:
            return open_celeba(place)
        if batches := find_batches(path):
            return open_imagenet(place, batches)
        place.without("a folder of images", "part", "attribute")
        return open_folder(path, place.size, place.background)
    if not path.exists():
        raise FileNotFoundError(f"expected a parquet file, a folder of images or an npz file at {path}, found nothing")
    place.without("a file", "size", "part", "attribute")
    if path.suffix == ".parquet":
        return open_parquet(path, place.background)
    if path.suffix == ".npz":
        place.without("a file of arrays", "background")
        return open_npz(path)
    raise ValueError(f"cannot read images from {path}: expected a .parquet file, a .npz file or a folder")
