"""The data of the diversity experiment: some of its images, to be read, and the exact shares of its attributes.

Exact shares are known in two cases. Generated faces (`datasets/faces.py`) are drawn with fixed shares: an attribute of
such a name and such values, with counts that are likely under these shares, has them, without chance. Otherwise the
known attributes or labels of all images give the shares, with the chance of their number.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from scipy import stats
from torch import Tensor

from latestart.checks import seeded
from latestart.classifiers.known import known_attributes
from latestart.classifiers.readers import Reader, doubtful, read_all, reads_labels
from latestart.data import Images, load_images
from latestart.datasets.faces import SHARES
from latestart.evaluation.diversity import attribute, chance
from latestart.experiments.diversity.results import Facts
from latestart.experiments.diversity.settings import DiversitySettings
from latestart.lab.judge import Judge
from latestart.records import Record

__all__ = ["Data", "drawn_with", "facts_of", "open_data"]

MOST = 10_000  # images whose attributes are read
UNLIKELY = 1e-6  # of counts, under the shares that faces are drawn with


@dataclass(frozen=True, eq=False, repr=False)
class Data(Record):
    """Images to read, and known attributes.

    Attributes:
        images: some of the data, in random order.
        reader: of attributes.
        exact: by attribute, shares `(K,)`, or the class index of every image `(N,)`, as `attribute` takes them.
        known: by attribute, the source of `exact` in words.
    """

    images: Images
    reader: Reader
    exact: dict[str, Tensor]
    known: dict[str, str]

    @cached_property
    def read(self) -> dict[str, Tensor]:
        """Probabilities of the attributes of the images."""
        return read_all(self.reader, self.images)


def open_data(judge: Judge, images: str | None, reader: Reader) -> Data:
    """Open the data in a file or a folder, or those of a shipped model."""
    if images is None:
        assert judge.reference.copying is not None  # a shipped model brings them
        data, index = judge.reference.copying[0], {}
    else:
        data = load_images(images)
        index = known_attributes(images, len(data))
    exact, known = {}, {}
    for name, values in reader.values.items():
        if name in index:
            shares = drawn_with(name, values, index[name])
            source = f"known of {len(data):,} images" if shares is None else "with which faces are drawn"
            exact[name], known[name] = index[name] if shares is None else shares, source
        elif data.labels is not None and reads_labels(reader):
            exact[name], known[name] = data.labels, f"by the labels of {len(data):,} images"
    order = torch.randperm(len(data), generator=seeded(0))[:MOST]
    return Data(data[order], reader, exact, known)


def drawn_with(name: str, values: Sequence[str] | None, index: Tensor) -> Tensor | None:
    """Return the shares `(K,)` of generated faces; None where these class indices are not likely under them."""
    shares = SHARES.get(name, {})
    if not shares or tuple(values or ()) != tuple(shares):
        return None
    exact = torch.tensor(list(shares.values()), dtype=torch.float64)
    counts = index.bincount(minlength=len(exact))
    if len(counts) > len(exact) or stats.chisquare(counts, exact * len(index)).pvalue < UNLIKELY:
        return None
    return exact


def facts_of(data: Data, settings: DiversitySettings) -> Facts:
    """Return facts of the data, with the divergences of images in the number of the samples."""
    images, kinds = len(data.images), {name: _occurring(found) for name, found in data.read.items()}
    against, by_chance = {}, {}
    for name, exact in data.exact.items():
        against[name] = attribute(data.read[name], exact, data.reader.values[name], seed=settings.seed)
        without = exact.is_floating_point()  # shares, without the chance of a number of images
        by_chance[name] = chance(kinds[name], settings.samples, math.inf if without else len(exact))
    return Facts(
        images=images, doubtful=doubtful(data.read), known=data.known, against=against, chance_exact=by_chance,
        chance={name: chance(count, settings.samples, images) for name, count in kinds.items()},
    )  # fmt: skip


def _occurring(found: Tensor) -> int:
    """The number of values that occur in the data."""
    shares = found.double().mean(0) if found.ndim == 2 else found.bincount().double() / len(found)
    return int((shares > 0.5 / len(found)).sum())
