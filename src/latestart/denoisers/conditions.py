"""Inputs of a conditional network other than a sample and its time: labels, and arguments of its own."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from accelerate.utils import recursively_apply
from torch import Tensor

from latestart.denoisers.adapter import Network, module_of

__all__ = ["Conditions", "Index"]

Index = slice | Tensor


class Conditions:
    """The inputs of a conditional network other than the sample and its time, one row a sample.

    Args:
        network: that it is given to.
        labels: class indices, `()` for all or `(n,)`, or None; for the prior alone where the network knows no classes.
        kwargs: the network's own arguments by name: tensors `(n, ...)`, or `(1, ...)` for all, in dicts and lists too;
            what is no tensor of rows is handed on as it is.
        n: number of samples; None where it is that of the rows.
        whole: whether all is there that the network needs; else it is missed when it is asked.

    Raises:
        ValueError: something that the network needs is missing, or has another number of rows.
    """

    def __init__(
        self,
        network: Network,
        labels: Any = None,
        kwargs: Mapping[str, Any] | None = None,
        n: int | None = None,
        whole: bool = True,
    ) -> None:
        self.network, self.labels = network, _checked_labels(network, labels, n)
        self.kwargs = recursively_apply(
            torch.as_tensor, dict(kwargs or {}), test_type=lambda leaf: isinstance(leaf, Tensor | np.ndarray)
        )
        if whole:
            self._require()
        rows = [] if self.labels is None or not self.labels.ndim else [len(self.labels)]
        recursively_apply(lambda leaf: rows.append(len(leaf)) if leaf.ndim and len(leaf) > 1 else None, self.kwargs)
        self.count = next(iter(rows), None)
        expected = n if n is not None else self.count
        if wrong := [count for count in rows if count != expected]:
            raise ValueError(f"model_kwargs and labels have one row a sample: expected {expected}, received {wrong[0]}")

    def __getitem__(self, index: Index) -> "Conditions":
        """Those of some of the samples."""
        part = copy.copy(self)
        if self.labels is not None and self.labels.ndim:
            part.labels = self.labels[index]
        part.kwargs = recursively_apply(lambda leaf: leaf[index] if leaf.ndim and len(leaf) > 1 else leaf, self.kwargs)
        if self.count is not None:
            part.count = len(torch.arange(self.count)[index])
        return part

    def turned(self, n: int) -> "Conditions":
        """Those of n samples, that of the first again after the last."""
        return self if self.count is None else self[torch.arange(n) % self.count]

    def given(self, x: Tensor) -> dict[str, Any]:
        """As the network's arguments for samples `(B, *shape)`."""
        self._require()
        if self.count not in (None, len(x)):
            raise ValueError(f"expected the {self.count} samples whose conditions are known, received {len(x)}")

        def placed(leaf: Tensor) -> Tensor:
            kind = self.network.dtype if leaf.is_floating_point() else None
            rows = leaf.expand(len(x), *leaf.shape[1:]) if leaf.ndim and len(leaf) == 1 else leaf
            return rows.to(device=x.device, dtype=kind)

        out = recursively_apply(placed, self.kwargs)
        if self.labels is not None and self.network.labelled:
            out["class_labels"] = self.labels.to(device=x.device, dtype=torch.long).expand(len(x))
        return out

    def _require(self) -> None:
        given = self.kwargs if self.labels is None else {*self.kwargs, "class_labels"}
        if missing := [name for name in self.network.needed if name not in given]:
            raise ValueError(
                f"the {type(module_of(self.network)).__name__} needs {', '.join(missing)}: give them as model_kwargs="
                f"{{{', '.join(f'{name!r}: ...' for name in missing)}}}, one row a sample"
            )


def _checked_labels(network: Network, labels: Any, n: int | None) -> Tensor | None:
    """The classes asked for, `()` or `(n,)`, or None for a network without; n None is any number.

    Raises:
        ValueError: none for a network with classes, another number of labels, or labels that are not its classes.
    """
    classes = network.classes
    if labels is None:
        if classes:
            raise ValueError(f"the model has the classes 0 to {classes - 1}: expected labels, received none")
        return None
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() or labels.ndim > 1 or (labels.ndim and (len(labels) != n if n else not len(labels))):
        number = "labels" if n is None else f"{n} labels"
        raise ValueError(
            f"expected {number}, one for each sample, received {labels.dtype} of shape {tuple(labels.shape)}"
        )
    config = getattr(module_of(network), "config", None)
    more = not getattr(config, "num_class_embeds", None)  # networks with adaptive norms know a class for none
    if classes and (labels.min() < 0 or labels.max() >= classes + more):
        raise ValueError(f"the model has the classes 0 to {classes - 1}, received labels {labels.unique().tolist()}")
    return labels
