"""The judge of tuning: the feature space, and the images that samples are compared with."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from latestart.data import in_unit_range, to_unit
from latestart.denoisers.adapter import Network
from latestart.denoisers.conditions import Conditions
from latestart.evaluation.copying import CopyingFrom
from latestart.evaluation.quality import resolve
from latestart.fingerprints import fingerprint
from latestart.gaussians.moments import Moments
from latestart.lab.judge import REAL, Judge, Reference
from latestart.network_features import NETWORK, NetworkFeatures, Space, middle_of, one_label
from latestart.tuning.pictures import SEEN, Pictures, are_pictures
from latestart.tuning.waves import Waves

__all__ = ["COMPARED", "judge_of", "most_judges", "space_of"]

COMPARED = 1500  # images that the search compares samples with
SHARE = 20  # of the budget, the part that the features of the images may cost


def space_of(
    model: Any, scheduler: Any, network: Network, features: Any, everyone: Conditions, pictures: Pictures
) -> Space:
    """Return the feature space that is asked for; by default the network's own, or waves of the samples' values."""
    label = one_label(everyone.labels)
    if features is None:
        features = Waves.name if middle_of(model) is None else NETWORK
    if features == NETWORK:
        extract: Any = NetworkFeatures(model, scheduler, labels=label, model_kwargs=everyone.kwargs)
    elif features == Waves.name:
        extract = Waves(pictures.fitted[:SEEN].floats())
    else:
        extract = resolve(features)
    if not hasattr(extract, "name"):
        extract = _Named(extract)
    return Space(extract, are_pictures(pictures))


class _Named:
    """A function as an extractor with a name."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__name__)

    def __call__(self, images: Tensor) -> Tensor:
        return self.function(images)


def judge_of(pictures: Pictures, space: Space, most: int) -> Judge:
    """Return the judge of samples, by the images that no other part of tuning sees."""
    images = pictures.judge[:most].floats()
    rows = torch.cat([space(part) for part in images.split(1024)])
    size = min(REAL, len(pictures.held_out) // 2, len(pictures.fitted))
    view = _view(pictures)
    sets = (pictures.fitted[:size], pictures.held_out[:size], pictures.held_out[size : 2 * size])
    values = torch.cat([pictures.fitted[:most].floats(), images]).flatten(1).double()
    statistics = Moments(tuple(rows.shape[1:]), "dense", products=torch.float64)
    statistics.update(rows.double())
    reference = Reference(
        statistics=statistics.gaussian(), real=rows[:REAL], copying=None,
        shape=tuple(images.shape[1:]), fingerprint=fingerprint(images), variance=float(values.var(0).sum()),
    )  # fmt: skip
    judge = Judge(space.extract, reference, view=view, space=space)
    train, held_out, second = (view(part.floats()) for part in sets)
    judge.copying = CopyingFrom(train, held_out, second)
    return judge


def most_judges(budget: int, space: Space) -> int:
    """Return the most images that judge, whose features the budget pays for."""
    return max(2 * COMPARED, 200) if space.cost == 0 else max(200, budget // SHARE // space.cost)


def _view(pictures: Pictures) -> Callable[[Tensor], Tensor]:
    """Return the function from samples to images in [0, 1]; what are no pictures are laid out as such."""
    if are_pictures(pictures) and len(pictures.judge.shape) == 3:
        return lambda x: in_unit_range(to_unit(x))
    low, high = (float(end) for end in pictures.fitted.floats().aminmax())
    return lambda x: ((x.float() - low) / max(high - low, 1e-12)).clamp(0, 1).reshape(len(x), 1, 1, -1)
