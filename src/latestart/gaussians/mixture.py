"""A mixture of Gaussians: a prior that takes the first decisions by its weights.

Data `sum_k w_k N(m_k, C_k)` noised to the level sigma, `y = x_0 + sigma eps`, are `sum_k w_k N(m_k, C_k + sigma^2 I)`.
With the posterior of the component, `r_k(y, sigma)` in proportion to `w_k N(y; m_k, C_k + sigma^2 I)`,

    denoiser E[x_0 | y]     sum_k r_k(y, sigma) E_k[x_0 | y]
    score of y              sum_k r_k(y, sigma) score_k(y, sigma)
    log-density             log sum_k w_k N(y; m_k, C_k)

White noise to samples. `push` takes each sample's component from the sample's own noise, so that the noise alone fixes
the sample, and yet the component is exactly independent of the noise that is then shaped. Along one fixed direction a,
the number `u = Phi(a . z)` is uniform. It is cut at the weights: the interval it falls into is the component, and its
place within the interval, stretched to [0, 1] again, is once more uniform and independent of the component:

    k: c_(k-1) <= u < c_k,     v = (u - c_(k-1)) / w_k,     z' = z + (Phi^-1(v) - a . z) a,     y = m_k + C_k^(1/2) z'

Only one of D numbers of the noise is changed. The direction is the one along which the means differ the most, and the
components lie on it in order: the noise that points to one side goes to the components on that side.

Each component is fitted as `gaussians/components.py` says: its scatter is completed by images' worth of that of all.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart.checks import whole_number
from latestart.data import ImageSet
from latestart.files import load_tensors, require_finite, save_tensors, sound
from latestart.gaussians.basis import Dense
from latestart.gaussians.clusters import assigned
from latestart.gaussians.components import SHRINKAGE, grouped, moments_of, moments_of_all, shrunken
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.prior import Around, Conditioned, Prior, level_of, require_images
from latestart.gaussians.whole import whole
from latestart.inputs.front import as_images
from latestart.inputs.items import class_indices
from latestart.inputs.ranges import warn_of_unit_range
from latestart.processes import Processes

__all__ = ["COMPONENTS", "Mixture", "load_mixture"]

COMPONENTS = 30
ALONE = Processes()
LIGHT = 1e-3  # nats by which a component's start samples may differ from it
NEGLIGIBLE = 1e-12  # a component with a smaller share of an image has none

Term = Callable[[Gaussian, Tensor, Tensor], Tensor]


class Mixture(Around, Prior):
    """`sum_k w_k N(m_k, C_k)` over images; a denoiser for data that is so distributed.

    Args:
        components: Gaussians over images of one shape, dtype and device, of any bases.
        weights: `(K,)`, positive; scaled to sum to 1. Without them all components weigh the same.
        labels: class of each component, `(K,)`, for class-conditional models; several may share one.

    Raises:
        ValueError: no components, components that differ in shape, dtype or device, or weights or labels that do not
            fit them.
    """

    def __init__(
        self,
        components: Sequence[Gaussian],
        weights: Tensor | Sequence[float] | None = None,
        labels: Tensor | Sequence[int] | None = None,
    ) -> None:
        kinds = {(c.shape, c.dtype, c.device) for c in components}
        if len(kinds) != 1:
            raise ValueError(
                "a mixture needs at least one component, all of one shape, dtype and device, "
                f"received {len(components)}: {sorted(map(str, kinds))}"
            )
        given = torch.ones(len(components)) if weights is None else torch.as_tensor(weights)
        if given.shape != (len(components),) or not (given.isfinite() & (given > 0)).all():
            raise ValueError(f"expected {len(components)} positive weights, received {given.tolist()}")
        self.components, self.centre = list(components), components[0].mean
        total = given.double().sum().item()  # of weights that sum to 1 already every bit is kept
        self.weights = given.detach().to(self.device, torch.float64) / (total if abs(total - 1) > 1e-12 else 1.0)
        self.labels = None if labels is None else _classes(labels).to(self.device)
        if self.labels is not None and len(self.labels) != len(self.components):
            raise ValueError(f"expected a label for each of {len(components)} components, received {len(self.labels)}")
        self._level: tuple[float, Mixture] | None = None
        self._of_class: dict[int, Mixture] = {}

    @classmethod
    def fit(
        cls,
        batches: Any,
        components: int | None = None,
        labels: Tensor | np.ndarray | Sequence[int] | bool | None = None,
        basis: str = "auto",
        rank: int | None = None,
        seed: int = 0,
        *,
        sigma: float | None = None,
        shrinkage: float = SHRINKAGE,
        dtype: torch.dtype = torch.float32,
        processes: Processes = ALONE,
    ) -> "Mixture":
        """Fit a mixture to images: by their labels, or by k-means and EM (`gaussians/clusters.py`), or by both.

        Args:
            batches: whatever `as_images` takes: a path, an array `(N, *shape)`, a list, a data set or a loader; floats
                in the model's own value range. They are read three times, so an iterator will not do, unless there is
                one component, or one for each class: then once. Beside them memory grows with N by 64 numbers an image
                only.
            components: number of components, 30 if not given; with labels, of each class, and 1 if not given.
            labels: class index of each image, `(N,)`, or True for those that the images bring; the components carry
                those that occur.
            basis: of every component, as for `Gaussian`; "auto" is dense while there are more images than values and
                the D x D sums of all components take at most 4 GiB, else as for a `Gaussian`.
            rank: number of directions, for bases that have one; with "auto" as for a `Gaussian`.
            seed: of k-means, and of the directions of a low-rank fit.
            sigma: noise level of EM, in the images' units; by default a quarter of their largest deviation, halved
                while a component would have no images.
            shrinkage: nu, the number of images' worth of the pooled covariance in that of each component; with 0 each
                has the covariance of its own images, over n - 1, and needs two of them.
            dtype: of means, bases and products; float64 where 1e-10 matters.
            processes: of a run, each of which is given all images: the first tells components apart, and each adds up
                its share of the images of every component.

        Raises:
            ValueError: fewer images than components; a component without images; labels that are not class indices or
                not one for each image; an iterator where the images are read again, or images that change between two
                readings; images that cannot have different components, being all the same; and what `Gaussian.fit`
                raises.
        """
        images = as_images(batches)
        classes = _own_classes(images, labels)
        default = COMPONENTS if classes is None else 1
        each = whole_number("components", default if components is None else components)
        if not (math.isfinite(shrinkage) and shrinkage >= 0):
            raise ValueError(f"expected a shrinkage of at least 0 images, received {shrinkage}")
        structure = (basis, rank, dtype, seed)
        if classes is None and each == 1:
            whole = moments_of_all(images, structure, processes)
            warn_of_unit_range(images.bare, whole.shape, whole.value_range)
            return cls([Gaussian.of(whole)])
        names = None if classes is None else classes.unique()
        if classes is None or each > 1:
            assignment = processes.firsts(lambda: assigned(images, each, classes, sigma, seed))
            numbers = assignment.numbers
        else:
            assignment, numbers = None, classes.unique(return_inverse=True)[1]
        total = each * (1 if names is None else len(names))
        parts = moments_of(images, numbers, total, structure, assignment, processes)
        weights = torch.tensor([part.count for part in parts], dtype=torch.float64)
        mixture = cls(shrunken(parts, shrinkage), weights, None if names is None else names.repeat_interleave(each))
        warn_of_unit_range(images.bare, mixture.shape, mixture.value_range)
        return mixture

    @property
    def count(self) -> int | None:
        """Number of images it was fitted to, if it was."""
        counts = [c.count for c in self.components if c.count is not None]
        return sum(counts) if len(counts) == len(self.components) else None

    @property
    def value_range(self) -> tuple[float, float] | None:
        """Lowest and highest value of those images, if known."""
        ranges = [c.value_range for c in self.components if c.value_range is not None]
        if len(ranges) < len(self.components):
            return None
        return min(low for low, _ in ranges), max(high for _, high in ranges)

    @property
    def mean(self) -> Tensor:
        """Mean of the mixture, `(*shape)`."""
        total = sum(w * c.mean.double() for w, c in zip(self.weights, self.components))
        return torch.as_tensor(total).to(self.dtype)

    @cached_property
    @torch.inference_mode(False)
    def _whole(self) -> Gaussian:
        return whole(self.components, self.weights)

    def gaussian(self) -> Gaussian:
        """The Gaussian with the mixture's mean and covariance; dense up to 1,024 values, else of 256 directions."""
        return self._whole

    def __repr__(self) -> str:
        bases = sorted({c.basis.name for c in self.components})
        return f"Mixture(shape={self.shape}, components={len(self.components)}, basis={', '.join(bases)!r})"

    def __call__(self, y: Tensor, sigma: float | Tensor, labels: Tensor | int | None = None) -> Tensor:
        """The posterior mean `E[x_0 | y] = sum_k r_k(y, sigma) E_k[x_0 | y]`, `(B, *shape)`; differentiable in y.

        Args:
            y: `(B, *shape)`, data plus noise.
            sigma: noise level of y, a number or `(B,)`.
            labels: the class of each image, an index or `(B,)`, if it is known.

        Raises:
            ValueError: the level is 0 and a component has no density; or a class that the mixture does not have.
        """
        return self._shared(y, sigma, labels, lambda component, part, level: component(part, level))

    denoise = __call__

    def score(self, y: Tensor, sigma: float | Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Gradient of the log-density of data noised to `sigma`, `(B, *shape)`.

        Raises:
            ValueError: the level is 0 and a component has no density.
        """
        return self._shared(y, sigma, labels, lambda component, part, level: component.score(part, level))

    def responsibilities(self, y: Tensor, sigma: float | Tensor = 0.0, labels: Tensor | int | None = None) -> Tensor:
        """Posterior of the component of y `(B, *shape)` at the level `sigma`, float64 `(B, K)`; rows sum to 1.

        Raises:
            ValueError: the level is 0 and a component has no density.
        """
        return self._joint(y, sigma, labels).softmax(1)

    def log_prob(self, y: Tensor, sigma: float | Tensor = 0.0, labels: Tensor | int | None = None) -> Tensor:
        """Log-density of data noised to `sigma` at y `(B, *shape)`, in nats, float64 `(B,)`; differentiable in y.

        Args:
            y: `(B, *shape)`.
            sigma: noise level, a number or `(B,)`; 0 for clean data.
            labels: the class of each image, an index or `(B,)`, if it is known.

        Raises:
            ValueError: the level is 0 and a component has variances of zero, so there is no density.
        """
        return self._joint(y, sigma, labels).logsumexp(1)

    @torch.inference_mode(False)  # what is kept must be good for derivatives later
    def noised(self, sigma: float) -> "Mixture":
        """The distribution of `x_0 + sigma eps`: the same weights, noised components. The last level is kept."""
        if self._level is None or self._level[0] != sigma:
            components = [component.noised(sigma) for component in self.components]
            self._level = (float(sigma), Mixture(components, self.weights, self.labels))
        return self._level[1]

    def push(self, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Carry white noise z `(B, *shape)` to samples, the component of each drawn from its own noise.

        A sample depends on its noise alone, whatever else is in the batch. One of D numbers of the noise chooses the
        component, and what is left of it goes on as noise (module docstring), so that white noise has samples of
        exactly this distribution; but for dense components in float32, whose directions of nearly equal variance share
        one, to within 1e-3 nats.

        Args:
            z: white noise.
            labels: for a mixture with labels, the class of each sample, an index or `(B,)`; else of any class.

        Raises:
            ValueError: noise of another shape; labels for a mixture without, or a class that it does not have.
        """
        require_images(z, self.shape)
        out = torch.empty_like(z)
        if labels is not None:
            for name, rows in self._by_class(labels, len(z)):
                out[rows] = self.of_class(name).push(z[rows])
            return out
        if len(self.components) == 1 or not len(z):
            return self.components[0].push(z)
        index, moved = self._drawn(z)
        for k, rows in grouped(index):
            out[rows] = self._light[k].push(moved[rows])
        return out

    @torch.inference_mode(False)
    def of_class(self, label: int) -> "Mixture":
        """The mixture of one class: its components, with their weights among themselves.

        Raises:
            ValueError: the mixture carries no labels, or none of that class.
        """
        label = int(label)
        if label not in self._of_class:
            chosen = [] if self.labels is None else (self.labels == label).nonzero().flatten().tolist()
            if not chosen:
                known = "no labels" if self.labels is None else f"the classes {self.labels.unique().tolist()}"
                raise ValueError(f"there is no component of class {label}: the mixture carries {known}")
            own = [self.components[k] for k in chosen]
            self._of_class[label] = Mixture(own, self.weights[chosen], [label] * len(own))
        return self._of_class[label]

    def for_labels(self, labels: Tensor | int | None) -> Prior | Conditioned:
        """See `Prior`; of one class, the mixture of that class."""
        given = None if self.own_labels(labels) is None else torch.as_tensor(labels)
        return self.of_class(int(given)) if given is not None and given.ndim == 0 else super().for_labels(labels)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "Mixture":
        """This mixture on another device, or with means and bases in another dtype."""
        if (device is None or torch.device(device) == self.device) and dtype in (None, self.dtype):
            return self
        return Mixture([c.to(device, dtype) for c in self.components], self.weights, self.labels)

    def save(self, path: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write to a safetensors file, whole or not at all; `load_prior` reads it.

        Args:
            path: of the file.
            dtype: in which means and bases are stored, such as `torch.float16` for half the bytes; they are read back
                in the mixture's own. What two components share is stored once.
        """
        tensors, about = self.tensors(dtype), self.about()
        save_tensors(path, "mixture", tensors, about)

    def tensors(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Return the tensors that, with `about`, rebuild this mixture; means and bases in a dtype if one is given."""
        stored = {"weights": self.weights}
        for names, component in zip(self._names(), self.components):
            for name, tensor in component.tensors().items():
                stored[names[name]] = tensor if name == "variances" else tensor.to(dtype=dtype)
        for name, tensor in stored.items():
            if not tensor.isfinite().all():
                raise ValueError(f"{name} has values too large for {dtype}")
        return stored

    def rounded(self, dtype: torch.dtype = torch.float16) -> "Mixture":
        """Return the mixture that a file in `dtype` gives back, in its own dtype."""
        return Mixture.restored(self.tensors(dtype), self.about())

    def about(self) -> dict[str, Any]:
        """Return the rest, for JSON."""
        parts = [{**c.about(), "tensors": names} for names, c in zip(self._names(), self.components)]
        labels = None if self.labels is None else self.labels.tolist()
        return {"components": parts, "labels": labels, "dtype": str(self.dtype).removeprefix("torch.")}

    @classmethod
    def restored(cls, tensors: dict[str, Tensor], about: dict[str, Any]) -> "Mixture":
        """Rebuild a mixture from its `tensors` and `about`."""
        dtype = getattr(torch, about["dtype"])
        components = [
            Gaussian.restored({name: tensors[key] for name, key in part["tensors"].items()}, part, dtype)
            for part in about["components"]
        ]
        return cls(components, tensors["weights"], about["labels"])

    def _names(self) -> list[dict[str, str]]:
        """The names of each component's tensors in a file, where the same tensor has one name in all of them."""
        stored: dict[tuple[Any, ...], str] = {}
        alive = [component.tensors() for component in self.components]  # else one's memory could serve the next
        return [
            {name: stored.setdefault(_place(tensor), f"{k}.{name}") for name, tensor in own.items()}
            for k, own in enumerate(alive)
        ]

    def _shared(self, y: Tensor, sigma: float | Tensor, labels: Tensor | int | None, term: Term) -> Tensor:
        """`sum_k r_k(y, sigma) term_k(y, sigma)`, each term only for the images that have a share of it."""
        shares = self.responsibilities(y, sigma, labels)
        levels = level_of(sigma, self.device, len(y)).flatten().expand(len(y))
        out = torch.zeros_like(y)
        for k, component in enumerate(self.components):
            rows = (shares[:, k] > NEGLIGIBLE).nonzero().flatten()
            if len(rows):
                share = shares[rows, k].to(y.dtype).view(-1, *[1] * len(self.shape))
                out = out.index_add(0, rows, share * term(component, y[rows], levels[rows]))
        return out

    def _joint(self, y: Tensor, sigma: float | Tensor, labels: Tensor | int | None) -> Tensor:
        """`log w_k + log N(y; m_k, C_k + sigma^2 I)`, float64 `(B, K)`."""
        require_images(y, self.shape)
        level = level_of(sigma, self.device, len(y))
        x = y.to(torch.promote_types(y.dtype, self.dtype))
        return self._log_weights(labels, len(y)) + torch.stack([c.log_density(x, level) for c in self.components], 1)

    def _log_weights(self, labels: Tensor | int | None, n: int) -> Tensor:
        """Log-weights of all components `(K,)`, or within each image's class `(B, K)`, minus infinity elsewhere."""
        if labels is None:
            return self.weights.log()
        out = torch.full((n, len(self.components)), -math.inf, dtype=torch.float64, device=self.device)
        for name, rows in self._by_class(labels, n):
            weights = self.of_class(name).weights.log()
            assert self.labels is not None  # or there had been no such class
            columns = (self.labels == name).nonzero().flatten()
            out[rows[:, None], columns] = weights
        return out

    def _by_class(self, labels: Tensor | int, n: int) -> Iterator[tuple[int, Tensor]]:
        """Each class that is asked for, and the samples of it."""
        given = torch.as_tensor(labels)
        if given.ndim > 1 or (given.ndim == 1 and len(given) != n) or given.is_floating_point():
            raise ValueError(
                f"expected one class index, or one for each of {n} samples, received {given.dtype} {tuple(given.shape)}"
            )
        names, index = given.expand(n).unique(return_inverse=True)
        for k, rows in grouped(index.to(self.device)):
            yield int(names[k]), rows

    def _drawn(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The component of each sample, `(B,)`, and white noise that is independent of it, `(B, *shape)`."""
        direction, order = self._axis
        along = z.flatten(1).double() @ direction
        index, left = _split(along, self.weights[order])
        change = (left - along).unsqueeze(1) * direction
        return order[index], z + change.to(z.dtype).reshape(z.shape)

    @cached_property
    @torch.inference_mode(False)
    def _light(self) -> list[Gaussian]:
        """The components as `push` uses them."""
        return [_lightened(component) for component in self.components]

    @cached_property
    @torch.inference_mode(False)
    def _axis(self) -> tuple[Tensor, Tensor]:
        """Unit vector `(D,)` along which the means differ the most, float64, and the components in order along it."""
        weights = self.weights.cpu()
        means = torch.stack([c.mean.flatten() for c in self.components]).cpu().double()
        centred = means - weights @ means
        rows = weights.sqrt()[:, None] * centred
        values, vectors = torch.linalg.eigh(rows @ rows.T)
        vector = vectors[:, -1] @ rows
        if values[-1] <= 1e-12 * means.square().sum():  # equal means: any direction will do
            vector = torch.ones_like(vector)
        vector = vector / vector.norm()
        vector = vector * torch.sign(vector[vector.abs().argmax()])
        return vector.to(self.device), (centred @ vector).argsort(stable=True).to(self.device)


def load_mixture(path: str | Path) -> Mixture:
    """Read a `Mixture` that `Mixture.save` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is a pickle (never loaded), is damaged or foreign, or does not hold a sound mixture.
    """
    tensors, metadata = load_tensors(path, "mixture")
    require_finite(path, tensors, ("weights",))
    with sound(path, "mixture"):
        return Mixture.restored(tensors, metadata)


def _split(along: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """From standard normal numbers `(B,)` an index each, by the weights `(K,)`, and another such number."""
    eps = torch.finfo(torch.float64).eps
    upper, u = weights.cumsum(0), torch.special.ndtr(along)
    index = torch.bucketize(u, upper[:-1], right=True)
    left = (u - (upper - weights)[index]) / weights[index]
    return index, torch.special.ndtri(left.clamp(eps, 1 - eps))


def _lightened(component: Gaussian) -> Gaussian:
    """A dense Gaussian with its least directions at their mean variance b, at a divergence of at most `LIGHT` nats.

    `KL = 1/2 sum_(i > r) (log b - log l_i)`, since `sum_(i > r) l_i / b` is their number. At a noise level far above
    the width of most directions few are left, and products with them are cheaper by more than their number: they stay
    in the processor's cache. In double precision, and where it would not halve them, all are kept.
    """
    basis = component.basis
    if not isinstance(basis, Dense) or component.dtype != torch.float32 or not (component.variances > 0).all():
        return component
    values, order = component.variances.sort(descending=True)
    left = torch.arange(len(values), 0, -1, dtype=torch.float64, device=values.device)
    mean = values.flip(0).cumsum(0).flip(0) / left
    divergence = 0.5 * (left * mean.log() - values.log().flip(0).cumsum(0).flip(0))
    r = int((divergence > LIGHT).sum())
    if not 0 < r <= len(values) // 2:
        return component
    few = LowRank(basis.shape, basis.vectors[:, order[:r]].contiguous())
    return Gaussian(component.mean, few, torch.cat([values[:r], mean[r : r + 1]]))


def _classes(labels: Tensor | np.ndarray | Sequence[int]) -> Tensor:
    """Return class indices as `(N,)` int64, from 0."""
    given = class_indices(labels)
    if len(given) and given.min() < 0:
        raise ValueError(f"labels are class indices from 0, received {given.min()}")
    return given


def _own_classes(images: ImageSet, labels: Any) -> Tensor | None:
    """The class of each image, `(N,)`, or None where components follow no labels."""
    if labels is True:
        labels = images.labels
        if labels is None:
            raise ValueError("labels=True takes the labels that the images bring, and these bring none")
    return None if labels is None or labels is False else _classes(labels)


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """A key that is equal for two tensors over the same memory."""
    return tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()
