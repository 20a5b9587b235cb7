"""The data of an experiment of diversity: some of its images, to be read, and the exact shares of its attributes.

Exact shares are known in two cases. Generated faces (`faces.py`) are drawn with shares that are written down there: an
attribute of that name, with those values and with counts that can be drawn so, has these, and nothing of them is left
to chance. Otherwise what is known of every image, its attributes or its labels, is as exact as the data are many.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from scipy import stats
from torch import Tensor

from latestart.checks import seeded
from latestart.data import Images, load_images
from latestart.evaluation.diversity import attribute, chance
from latestart.experiments.attributes import known_attributes
from latestart.experiments.diversity_records import Facts
from latestart.experiments.faces import SHARES
from latestart.experiments.readers import Reader, doubtful, reads_labels
from latestart.lab.judge import Judge
from latestart.records import Record

MOST = 10_000  # images whose attributes are read
UNLIKELY = 1e-6  # of counts, under the shares that faces are drawn with


@dataclass(frozen=True, eq=False, repr=False)
class Data(Record):
    """Images that are read, and by attribute what is known of the data.

    Attributes:
        images: some of them, in no order.
        exact: shares `(K,)`, or the class index of every image `(N,)`, as `attribute` takes them.
        known: where these are from, in words.
    """

    images: Images
    exact: dict[str, Tensor] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)


def open_data(judge: Judge, images: str | None, reader: Reader) -> Data:
    """The data in a file or a folder, or those that a shipped model brings along."""
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
            told = f"known of {len(data):,} images" if shares is None else "with which faces are drawn"
            exact[name], known[name] = index[name] if shares is None else shares, told
        elif data.labels is not None and reads_labels(reader):
            exact[name], known[name] = data.labels, f"by the labels of {len(data):,} images"
    order = torch.randperm(len(data), generator=seeded(0))[:MOST]
    return Data(data[order], exact, known)


def drawn_with(name: str, values: Sequence[str] | None, index: Tensor) -> Tensor | None:
    """The shares `(K,)` with which generated faces are drawn, if images with these class indices can be such faces."""
    shares = SHARES.get(name, {})
    if not shares or tuple(values or ()) != tuple(shares):
        return None
    exact = torch.tensor(list(shares.values()), dtype=torch.float64)
    counts = index.bincount(minlength=len(exact))
    if len(counts) > len(exact) or stats.chisquare(counts, exact * len(index)).pvalue < UNLIKELY:
        return None
    return exact


def facts_of(data: Data, read: dict[str, Tensor], samples: int, seed: int, reader: Reader) -> Facts:
    """Readings and known attributes of the data, for the same number of images as samples.

    Args:
        data: of the experiment.
        read: what the reader said of its images.
        samples: how many each way has.
        seed: of the resamples.
        reader: it.
    """
    kinds = {name: _occurring(said) for name, said in read.items()}
    images, drawn = len(data.images), {name: exact.is_floating_point() for name, exact in data.exact.items()}
    return Facts(
        images=images,
        doubtful=doubtful(read),
        chance={name: chance(kinds[name], samples, images) for name in read},
        known=data.known,
        against={
            name: attribute(read[name], exact, reader.values[name], seed=seed) for name, exact in data.exact.items()
        },
        chance_exact={
            name: chance(kinds[name], samples, math.inf if drawn[name] else len(exact))
            for name, exact in data.exact.items()
        },
    )


def _occurring(said: Tensor) -> int:
    """How many values the data have at all."""
    shares = said.double().mean(0) if said.ndim == 2 else said.bincount().double() / len(said)
    return int((shares > 0.5 / len(said)).sum())
