"""The one contract of the library.

A noised sample in the library's coordinate is `y = x_t / alpha_t = x_0 + sigma eps`. A denoiser returns
`D(y, sigma) = E[x_0 | y]`; from it follow the score of `y`, `(D(y, sigma) - y) / sigma^2` (Tweedie's formula), and the
reverse dynamics of any process. A trained network, an exact model and a fitted prior are all denoisers, by shape of
their interface and not by ancestry.
"""

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Denoiser", "Level", "check_sample", "expand", "require_denoiser", "score"]

Level = float | Tensor


@runtime_checkable
class Denoiser(Protocol):
    """`D(y, sigma) = E[x_0 | y]` for `y = x_0 + sigma eps`, `y` of shape `(B, *shape)`, `sigma` a number or `(B,)`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the computation."""

    @property
    def device(self) -> torch.device:
        """Device of the computation."""

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level that it serves."""

    def __call__(self, y: Tensor, sigma: Level) -> Tensor:
        """The posterior mean, `(B, *shape)`."""


def require_denoiser(denoiser: Any, what: str = "a denoiser") -> None:
    """Raise `TypeError` for an object that is no denoiser: a network (it has no `shape`), a class or a path."""
    if not hasattr(denoiser, "shape") or not callable(denoiser) or isinstance(denoiser, type):
        kind = denoiser.__name__ if isinstance(denoiser, type) else f"a {type(denoiser).__name__}"
        raise TypeError(
            f"expected {what}, D(y, sigma) = E[x_0 | y], received {kind}: a network becomes one by "
            "ls.from_diffusers(model, scheduler)"
        )


def score(denoiser: Denoiser, y: Tensor, sigma: Level) -> Tensor:
    """The score of the noised density of `y`, `(D(y, sigma) - y) / sigma^2`, `(B, *shape)` (Tweedie's formula)."""
    return (denoiser(y, sigma) - y) / expand(sigma, y) ** 2


def expand(level: Level, y: Tensor) -> Level:
    """A level per sample, `(B,)`, in a shape that broadcasts with `y` `(B, *shape)`; a number as it is."""
    if isinstance(level, Tensor) and level.ndim == 1:
        return level.to(device=y.device, dtype=y.dtype).view(-1, *[1] * (y.ndim - 1))
    return float(level)


def check_sample(y: Tensor, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless `y` is `(B, *shape)`."""
    if tuple(y.shape[1:]) != tuple(shape):
        raise ValueError(f"expected samples of shape (B, {', '.join(map(str, shape))}), received {tuple(y.shape)}")
