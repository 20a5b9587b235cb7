"""Features of a denoiser itself: mean activations of its middle block at a noise level.

    f(x) = concat_k mean h_k,    h_k = middle block of the network at  c_in(sigma_k) (x + sigma_k z),  t(sigma_k)

with x in the model's value range, the mean over the places of the picture, and z one draw of white noise that all
images share, so that the features of an image depend on the image alone. They need no labels and no download, and they
are there for every network with a middle block: the `mid_block` of a UNet, the middle one of the `transformer_blocks`
of a transformer. `benchmarks/features.md` shows how well distances under them order ways to sample: one level,
sigma = 0.8, and the mean alone serve as well as more.

An image costs one evaluation of the network for each level. All of it is counted, although it ends after the block.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from latestart.checks import seeded, whole_number
from latestart.denoisers.adapter import Network, as_network, module_of
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.conventions import Convention
from latestart.features import fingerprint

__all__ = [
    "LEVELS",
    "NETWORK",
    "WIDTH",
    "NetworkFeatures",
    "Space",
    "Values",
    "default_features",
    "middle_of",
    "one_label",
]

NETWORK = "network"  # the name that asks for them
LEVELS = (0.8,)  # noise levels
WIDTH = 256  # features at most, of all levels together
SEED = 0  # of the noise that all images share, and of the projection
MIDDLE = ("mid_block", "middle_block")  # of UNets: in diffusers, and before
BLOCKS = ("transformer_blocks", "blocks")  # of transformers


class Values:
    """The samples' own values as features `(B, D)`: for data of few dimensions, not for pictures.

    Attributes:
        name: "values".
        evaluations: of the network, an image: none.
        evaluated: none so far.
    """

    name, evaluations, evaluated = "values", 0, 0

    def __call__(self, images: Tensor) -> Tensor:
        """The values of images `(B, *shape)`, `(B, D)`, on the processor."""
        return images.flatten(1).cpu()

    def of_samples(self, x: Tensor) -> Tensor:
        """The same of samples in the model's value range, as they are."""
        return self(x)


class NetworkFeatures:
    """Mean activations of a denoiser's middle block, `(B, F)`; `name` carries a fingerprint of weights and settings.

    Args:
        model: a diffusers network, or whatever `as_network` takes. Features are those of the bare network, in its own
            precision, whatever wraps it.
        scheduler: the one that it was trained with, or a sampler over its levels.
        sigmas: the noise levels; by default 0.8, or the highest that the network knows, if that is lower.
        labels: the class that a class-conditional network is given for every image; by default the one that stands for
            no class where the network has such a one (transformers with adaptive norms), else class 0.
        model_kwargs: further conditions by the names of the network's own arguments; the first row of each holds for
            every image.
        width: features at most; more channels are projected onto so many random directions.
        batch_size: images evaluated at once.

    Attributes:
        name: "network-", and the fingerprint.
        sigmas: the levels.
        evaluations: of the network, an image: the number of levels.
        evaluated: evaluations so far, over single images.

    Raises:
        TypeError: something that is no network.
        ValueError: a network without a middle block; levels that are none of the scheduler's, or above those that the
            network was trained on; labels or conditions that the network lacks or does not know.
    """

    def __init__(
        self,
        model: Any,
        scheduler: Any,
        *,
        sigmas: Sequence[float] | None = None,
        labels: int | Tensor | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        width: int = WIDTH,
        batch_size: int = 256,
    ) -> None:
        self.network = as_network(model).bare()
        found = middle_of(self.network)
        if found is None:
            raise ValueError(
                f"the {type(module_of(self.network)).__name__} has no middle block to take features of: expected a "
                f"network with {' or '.join(MIDDLE)}, or a list of {' or '.join(BLOCKS)}; or other features"
            )
        self.middle: Middle = found
        self.convention = Convention.of(scheduler)
        self.sigmas = _levels(self.network, self.convention, sigmas)
        self.conditions = _conditions(self.network, labels, model_kwargs)
        self.width, self.batch_size = whole_number("width", width), whole_number("batch_size", batch_size)
        self.evaluations, self.evaluated = len(self.sigmas), 0

    def __repr__(self) -> str:
        levels = ", ".join(f"{sigma:g}" for sigma in self.sigmas)
        return f"NetworkFeatures({type(module_of(self.network)).__name__}, sigmas=({levels}))"

    @cached_property
    def name(self) -> str:
        """Name for results, with the fingerprint."""
        kwargs = sorted(self.conditions.kwargs.items())
        labels = self.conditions.labels
        told = [
            self.convention.noise.kind, self.convention.width, *self._times(), *self.sigmas, self.width, SEED,
            None if labels is None else labels.tolist(), *((name, _told(value)) for name, value in kwargs),
        ]  # fmt: skip
        weights = fingerprint(module_of(self.network).state_dict().values())
        return f"network-{hashlib.sha256(json.dumps([weights, told]).encode()).hexdigest()[:8]}"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Features `(B, F)`, float32, on the processor, of images `(B, *shape)` in [0, 1].

        Raises:
            ValueError: images of another shape than the network's, or not finite.
        """
        return self.of_samples(2 * images.float() - 1)

    @torch.inference_mode()
    def of_samples(self, x: Tensor) -> Tensor:
        """The same of samples `(B, *shape)` in the model's value range, such as latents."""
        shape = self.network.sample_shape
        if tuple(x.shape[1:]) != shape or not len(x):
            raise ValueError(f"the features are those of samples {shape}, at least one, received {tuple(x.shape)}")
        if odd := int((~x.isfinite()).sum()):
            raise ValueError(f"expected finite samples, received {odd} values that are NaN or infinite")
        rows = torch.cat([self._of(part) for part in x.split(self.batch_size)])
        if (count := rows.shape[1]) <= self.width:
            return rows
        return rows @ torch.randn(count, self.width, generator=seeded(SEED)).div_(self.width**0.5)

    def _of(self, x: Tensor) -> Tensor:
        return torch.cat([h.mean(2) for h in self.activations(x)], 1).cpu()

    def activations(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the middle block's output at each level, `(B, C, places)`, float32, for samples `(B, *shape)`."""
        x = x.to(self.network.device, torch.float32)
        z = torch.randn(x.shape[1:], generator=seeded(SEED)).to(x)
        for sigma, t in zip(self.sigmas, self._times()):
            c_in = self.convention.coefficients(sigma)[0]
            given = c_in * (x + sigma * z)
            self.evaluated += len(x)
            yield self._middle(given.to(self.network.dtype), t).float()

    def _times(self) -> list[float]:
        return [float(self.convention.noise.time(sigma)) for sigma in self.sigmas]

    def _middle(self, x: Tensor, t: float) -> Tensor:
        """The middle block's output `(B, C, places)` for the network's input."""
        times = torch.full((), t, dtype=torch.float32, device=x.device)
        with _stopped_after(self.middle.block) as reached:
            self.network(x, times, **self.conditions.given(x))
        if not reached:
            raise ValueError(f"the {type(module_of(self.network)).__name__} never comes to its middle block")
        return self.middle.places(reached[0], len(x))


class Space:
    """Function from samples in the model's range to features; knows the evaluations of the network that they cost.

    Args:
        extract: the extractor.
        pictures: whether the data lie in [-1, 1], where samples are clipped to; latents have no white and no black.
    """

    def __init__(self, extract: Any, pictures: bool) -> None:
        self.extract, self.pictures = extract, pictures
        self.before = getattr(extract, "evaluated", 0)

    @property
    def name(self) -> str:
        """The name of the features."""
        return str(self.extract.name)

    @property
    def cost(self) -> int:
        """Evaluations of the network for a sample."""
        return int(getattr(self.extract, "evaluations", 0))

    @property
    def evaluated(self) -> int:
        """Evaluations of the network so far."""
        return getattr(self.extract, "evaluated", 0) - self.before

    def __call__(self, x: Tensor) -> Tensor:
        """Features `(B, F)` of samples `(B, *shape)` in the model's value range."""
        as_they_are = hasattr(self.extract, "of_samples")
        if as_they_are and not (isinstance(self.extract, NetworkFeatures) and self.pictures):
            return self.extract.of_samples(x)
        return self.extract((x.float() / 2 + 0.5).clamp(0, 1))


@dataclass(frozen=True)
class Middle:
    """The middle block of a network.

    Attributes:
        block: the module.
        tokens: whether it gives tokens `(B, T, C)`, as those of transformers do, and no picture `(B, C, H, W)`.
    """

    block: nn.Module
    tokens: bool

    def places(self, out: Tensor, count: int) -> Tensor:
        """Its output for `count` samples, `(B, C, places)`; frames that stand in the batch are places too."""
        rows = out.transpose(1, 2) if self.tokens else out.flatten(2)
        return rows.unflatten(0, (count, -1)).transpose(1, 2).flatten(2)


def middle_of(model: Any) -> Middle | None:
    """The middle block of a network, wherever it lies in its wrappers; None of one that has none."""
    module = module_of(model)
    for part in module.modules() if isinstance(module, nn.Module) else ():
        for name in MIDDLE:
            if isinstance(block := getattr(part, name, None), nn.Module):
                return Middle(block, tokens=False)
        for name in BLOCKS:
            if isinstance(blocks := getattr(part, name, None), nn.ModuleList) and len(blocks):
                return Middle(blocks[(len(blocks) - 1) // 2], tokens=True)
    return None


def default_features(
    model: Any,
    scheduler: Any,
    labels: int | Tensor | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
) -> NetworkFeatures | Values:
    """The features that serve where no better ones are named: the network's own, else the samples' values.

    Args:
        model, scheduler, model_kwargs: as for `NetworkFeatures`.
        labels: the same; those of several images are left out, and stand for none.

    Raises:
        ValueError: as `NetworkFeatures`, for a network with a middle block.
    """
    if middle_of(model) is None:
        return Values()
    return NetworkFeatures(model, scheduler, labels=one_label(labels), model_kwargs=model_kwargs)


def one_label(labels: Any) -> Any:
    """The class, where one is asked for; None for those of several images, which no single one stands for."""
    return None if labels is None or torch.as_tensor(labels).ndim else labels


class _Reached(BaseException):
    """The middle block is done: what comes after it is not needed."""


@contextmanager
def _stopped_after(block: nn.Module) -> Iterator[list[Tensor]]:
    """A call of a network ends after a block; what the block gave is put into the list."""
    reached: list[Tensor] = []

    def hook(_: nn.Module, given: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        reached.append(_stream(given, kwargs, out))
        raise _Reached

    handle = block.register_forward_hook(hook, with_kwargs=True)
    try:
        yield reached
    except _Reached:
        pass
    finally:
        handle.remove()


def _stream(given: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Tensor:
    """Of several outputs of a block, the one of the image's stream: that of the shape of its first input."""
    if isinstance(out, Tensor):
        return out
    into = kwargs.get("hidden_states", given[0] if given else None)
    shape = into.shape if isinstance(into, Tensor) else None
    streams = [one for one in out if isinstance(one, Tensor)]
    return next((one for one in reversed(streams) if one.shape == shape), streams[-1])


def _levels(network: Network, convention: Convention, sigmas: Sequence[float] | None) -> tuple[float, ...]:
    """The levels, if they are the scheduler's and not above those that the network knows."""
    low, high = convention.noise.sigma_range
    known = getattr(module_of(network), "max_sigma", None)
    high = high if known is None else min(high, float(known))
    levels = tuple(min(sigma, high) for sigma in LEVELS) if sigmas is None else tuple(float(sigma) for sigma in sigmas)
    if not levels or not all(low <= sigma <= high for sigma in levels):
        raise ValueError(
            f"sigmas={sigmas!r}: expected at least one noise level from {low:.4g} to {high:.4g}, those of the model"
        )
    return levels


def _conditions(network: Network, labels: Any, kwargs: Mapping[str, Any] | None) -> Conditions:
    """The conditions for every image: one class, and the first row of everything else."""
    if labels is not None and torch.as_tensor(labels).ndim:
        raise ValueError(
            f"features are taken with one class for every image: expected one label, received {len(labels)}"
        )
    if labels is None and network.classes:
        config = module_of(network).config
        labels = 0 if getattr(config, "num_class_embeds", None) else network.classes  # the class for none
    first = Conditions(network, labels, kwargs)[:1].kwargs
    return Conditions(network, labels, first)


def _told(value: Any) -> Any:
    """A condition by its fingerprint."""
    if isinstance(value, Tensor):
        return fingerprint([value])
    if isinstance(value, Mapping):
        return sorted((str(name), _told(one)) for name, one in value.items())
    return [_told(one) for one in value] if isinstance(value, list | tuple) else str(value)
