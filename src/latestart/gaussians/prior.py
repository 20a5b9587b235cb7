"""Start distributions and priors: the contract of what a late start draws from.

A start distribution stands for clean data `x_0`, or for data noised to a level. It is asked for

    shape, device, dtype        of one sample, and where and in which precision it computes
    labels                      classes of its parts, `(K,)`, or None where it knows no classes
    to(device)                  itself on another device
    noised(sigma)               the distribution of `x_0 + sigma eps`
    push(z, labels)             white noise `(B, *shape)` to samples: the noise alone fixes them
    sample(n, generator)        samples, by `push` of drawn noise

and a prior is one that denoises as well,

    prior(y, sigma, labels)     `E[x_0 | y]`, by which it is compared with a model and judged in nats

A subclass of `Prior` gives `shape`, `device`, `dtype`, `to`, `noised`, `push` and `__call__`; the rest is derived. An
object of another class that has `shape`, `noised(sigma)` and `push(z)` is taken too (`as_prior`).
"""

import math
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from latestart.checks import whole_number

__all__ = ["Around", "Conditioned", "Prior", "StartDistribution", "as_prior", "as_start", "level_of", "require_images"]

NEEDED = ("shape", "noised", "push")


class StartDistribution(ABC):
    """A distribution of samples that can be noised and pushed to.

    Attributes:
        labels: class of each of its parts, `(K,)`; None where it knows no classes.
    """

    labels: Tensor | None = None

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Device of the computation."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision of the computation."""

    @abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """This distribution on another device, or in another precision."""

    @abstractmethod
    def noised(self, sigma: float) -> "StartDistribution":
        """The distribution of `x_0 + sigma eps`."""

    @abstractmethod
    def push(self, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Carry white noise z `(B, *shape)` to samples.

        Args:
            z: white noise.
            labels: the class of each sample, an index or `(B,)`, of a distribution that knows classes.
        """

    def sample(self, n: int, generator: torch.Generator | None = None, labels: Tensor | int | None = None) -> Tensor:
        """Draw n samples `(n, *shape)`; the noise is drawn on the generator's device, so that a seed fixes them.

        Raises:
            ValueError: n is no whole number of at least 0.
        """
        device = generator.device if generator is not None else self.device
        count = whole_number("n", n, 0)
        z = torch.randn(count, *self.shape, generator=generator, dtype=self.dtype, device=device)
        return self.push(z.to(self.device), labels)

    def own_labels(self, labels: Tensor | int | None) -> Tensor | int | None:
        """The labels as `push` takes them: None where it knows no classes."""
        return None if self.labels is None else labels


class Around(StartDistribution):
    """A start distribution around images that it holds: it has their shape, precision and device.

    Attributes:
        centre: one of them, `(*shape)`.
    """

    centre: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.centre.shape)

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        return self.centre.device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the computation."""
        return self.centre.dtype


class Prior(StartDistribution):
    """A start distribution that is a denoiser of its own data.

    Attributes:
        sigma_range: the noise levels at which it denoises, lowest and highest.
    """

    sigma_range: tuple[float, float] = (0.0, math.inf)

    @abstractmethod
    def noised(self, sigma: float) -> "Prior":
        """The distribution of `x_0 + sigma eps`."""

    @abstractmethod
    def __call__(self, y: Tensor, sigma: float | Tensor, labels: Tensor | int | None = None) -> Tensor:
        """The posterior mean `E[x_0 | y]`, `(B, *shape)`.

        Args:
            y: `(B, *shape)`, data plus noise.
            sigma: noise level of y, a number or `(B,)`.
            labels: the class of each sample, an index or `(B,)`, of a prior that knows classes.
        """

    def for_labels(self, labels: Tensor | int | None) -> "Prior | Conditioned":
        """The denoiser of samples of those classes, `(n,)` or one for all; itself where it knows no classes."""
        return self if self.own_labels(labels) is None else Conditioned(self, torch.as_tensor(labels))


class Conditioned:
    """A prior as the denoiser of samples whose classes are known: sample i of a batch is of class `labels[i]`.

    Args:
        prior: that knows classes.
        labels: one for all, `()`, or `(n,)`.
    """

    def __init__(self, prior: Prior, labels: Tensor) -> None:
        self.prior, self.labels = prior, labels
        self.shape, self.dtype, self.device = prior.shape, prior.dtype, prior.device
        self.sigma_range = prior.sigma_range

    def __call__(self, y: Tensor, sigma: float | Tensor) -> Tensor:
        """`E[x_0 | y, class]`, `(n, *shape)`.

        Raises:
            ValueError: another number of samples than labels; a class that the prior does not have.
        """
        if self.labels.ndim and len(y) != len(self.labels):
            raise ValueError(f"expected the {len(self.labels)} images whose classes are known, received {len(y)}")
        return self.prior(y, sigma, self.labels)

    def rows(self, index: slice | Tensor) -> "Conditioned":
        """The denoiser of some of the samples."""
        return Conditioned(self.prior, self.labels[index] if self.labels.ndim else self.labels)

    def to(self, device: torch.device | str | None = None) -> "Conditioned":
        """The same on another device."""
        return Conditioned(self.prior.to(device), self.labels)


class Adopted(StartDistribution):
    """An object of a user's own as a start distribution; what it lacks beyond `NEEDED` is derived."""

    def __init__(self, own: Any) -> None:
        self.own = own
        self.labels = getattr(own, "labels", None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return tuple(self.own.shape)

    @property
    def device(self) -> torch.device:
        """The object's own device, or the processor."""
        return torch.device(getattr(self.own, "device", "cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The object's own dtype, or float32."""
        return getattr(self.own, "dtype", torch.float32)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Itself where it cannot be moved: its samples are."""
        move = getattr(self.own, "to", None)
        return self if move is None else type(self)(move(device))

    def noised(self, sigma: float) -> Self:
        """The distribution of `x_0 + sigma eps`."""
        return type(self)(self.own.noised(sigma))

    def push(self, z: Tensor, labels: Tensor | int | None = None) -> Tensor:
        """Carry white noise z `(B, *shape)` to samples."""
        given = {} if labels is None else {"labels": labels}
        return self.own.push(z.to(self.device), **given).to(z)


class AdoptedPrior(Adopted, Prior):
    """A user's own denoiser as a prior."""

    def __call__(self, y: Tensor, sigma: float | Tensor, labels: Tensor | int | None = None) -> Tensor:
        """The posterior mean `E[x_0 | y]`, `(B, *shape)`."""
        given = {} if labels is None else {"labels": labels}
        return self.own(y, sigma, **given)


def require_images(y: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless y are floating-point images `(B, *shape)`."""
    if tuple(y.shape[1:]) != shape or not y.is_floating_point():
        expected = f"(B, {', '.join(map(str, shape))})"
        raise ValueError(f"expected floating-point images {expected}, received {y.dtype} {tuple(y.shape)}")


def level_of(sigma: float | Tensor, device: torch.device, images: int | None = None) -> Tensor:
    """Return a noise level as float64, `()` or, one for each of several images, `(B, 1)`.

    Raises:
        ValueError: a level below 0 or not finite, or levels of another number than the images.
    """
    level = torch.as_tensor(sigma, dtype=torch.float64, device=device)
    if level.ndim and level.shape != (images,):
        expected = "a number" if images is None else f"a number or ({images},)"
        raise ValueError(f"expected a noise level sigma that is {expected}, received the shape {tuple(level.shape)}")
    if not (level.isfinite() & (level >= 0)).all():
        raise ValueError(f"a noise level sigma is finite and not negative, received {sigma}")
    return level.unsqueeze(-1) if level.ndim else level


def as_start(start: Any) -> StartDistribution:
    """A start distribution of whatever keeps its contract: one of this library, of a user's own, or the path of a file.

    Raises:
        FileNotFoundError: there is no such file.
        TypeError: something else, with what it lacks.
        ValueError: the file does not hold a sound prior.
    """
    if isinstance(start, StartDistribution):
        return start
    if isinstance(start, str | Path):
        from latestart.gaussians.priors import load_prior

        return load_prior(start)
    if isinstance(start, type):
        raise TypeError(f"expected a prior, received the class {start.__name__}: fit or make one of it")
    if missing := [name for name in NEEDED if not hasattr(start, name)]:
        raise TypeError(
            "expected a prior (a Gaussian, a Mixture, the path of a prior's file, or a subclass of ls.Prior), received "
            f"a {type(start).__name__}, which lacks {', '.join(missing)}"
        )
    return AdoptedPrior(start) if callable(start) else Adopted(start)


def as_prior(prior: Any, what: str = "this") -> Prior:
    """A prior, likewise, where one is needed that denoises.

    Args:
        prior: what `as_start` takes.
        what: what it is needed for.

    Raises:
        TypeError: it does not denoise.
        FileNotFoundError, ValueError: see `as_start`.
    """
    found = as_start(prior)
    if not isinstance(found, Prior):
        own = found.own if isinstance(found, Adopted) else found
        raise TypeError(
            f"{what} needs a prior that denoises, prior(y, sigma) -> E[x_0 | y], and a {type(own).__name__} does not: "
            "make it a subclass of ls.Prior"
        )
    return found
