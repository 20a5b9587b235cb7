"""Networks as denoisers, and denoisers as networks.

The scheduler that a network was trained with, beta-based, EDM or flow matching, gives the scale of its input and the
meaning of its output: `denoisers/conventions.py` has the table.
"""

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from latestart.denoisers.adapter import as_network
from latestart.denoisers.base import Denoiser, Level, check_sample, expand, require_denoiser
from latestart.denoisers.conditions import Conditions, Index
from latestart.denoisers.conventions import Convention

__all__ = ["NetworkDenoiser", "as_model", "from_diffusers", "predict"]


class NetworkDenoiser:
    """A network with the scheduler that it was trained with, as a denoiser.

    Args:
        model: a diffusers network, or whatever `as_network` takes.
        scheduler: any diffusers scheduler with betas (epsilon, v or sample prediction), of EDM, or of flow matching;
            gives the levels and the meaning of the output.
        labels: for a class-conditional network, one class index or `(B,)` of them.
        model_kwargs: further conditions, by the names of the network's own arguments (`encoder_hidden_states`,
            `added_cond_kwargs`, ...): tensors with one row a sample, or one for all.

    Attributes:
        sigma_range: lowest and highest noise level of the scheduler.

    Raises:
        TypeError: something that is no network.
        ValueError: the prediction type, or the scheduler's kind, is not known; a condition is missing, or of another
            number of rows.
    """

    def __init__(
        self,
        model: Any,
        scheduler: Any,
        labels: Tensor | int | None = None,
        *,
        model_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = as_network(model)
        self.conditions = Conditions(self.model, labels, model_kwargs, whole=False)
        self.convention = Convention.of(scheduler)
        self.noise = self.convention.noise
        self.shape, self.sigma_range = self.model.sample_shape, self.noise.sigma_range

    def __repr__(self) -> str:
        return f"NetworkDenoiser({self.model!r}, {self.convention.prediction} of {self.noise!r})"

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return self.model.dtype

    @property
    def device(self) -> torch.device:
        """Device of the evaluation."""
        return self.model.device

    def rows(self, index: Index) -> "NetworkDenoiser":
        """The denoiser of some of the samples whose conditions are known."""
        return self._under(self.conditions[index])

    def require_rows(self, n: int) -> None:
        """Raise `ValueError` unless the conditions are for all, or one row for each of n images."""
        if (count := self.conditions.count) not in (None, n):
            raise ValueError(f"expected labels and model_kwargs for each of {n} images, received {count}")

    def given(self, kwargs: Mapping[str, Any]) -> "NetworkDenoiser":
        """This denoiser with more of what conditions its network."""
        known = {**self.conditions.kwargs, **kwargs}
        return self._under(Conditions(self.model, self.conditions.labels, known))

    def _under(self, conditions: Conditions) -> "NetworkDenoiser":
        other = copy.copy(self)
        other.conditions = conditions
        return other

    def __call__(self, y: Tensor, sigma: Level) -> Tensor:
        """`E[x_0 | y]`, `(B, *shape)`, for `y` `(B, *shape)` and `sigma` a number or `(B,)`; differentiable in `y`."""
        check_sample(y, self.shape)
        time = self.noise.time(torch.as_tensor(sigma, dtype=torch.float64))
        t = torch.as_tensor(time, dtype=torch.float32, device=y.device)
        sigma = expand(sigma, y)
        x = self.convention.coefficients(sigma)[0] * y
        # a network that has learned its variances gives them as a second half
        out = predict(self.model, x.to(self.dtype), t, self.conditions).to(y.dtype)[:, : self.shape[0]]
        return self.convention.to_sample(out, y, sigma)


def predict(model: Any, x: Tensor, t: Tensor | float, conditions: Conditions | None = None) -> Tensor:
    """The raw output of a network at `x` `(B, *shape)`, time `t` (its scheduler's units)."""
    given = {} if conditions is None else conditions.given(x)
    return as_network(model)(x, t, **given).sample


class DenoiserModel(nn.Module):
    """An exact model where a network is expected: called as `model(x, t)`, returns an object with `.sample`.

    Input and output are in the scheduler's convention, so that any sampling code for diffusers networks runs on it.
    """

    def __init__(self, denoiser: Denoiser, scheduler: Any) -> None:
        super().__init__()
        require_denoiser(denoiser, "an exact model or another denoiser")
        self.denoiser, self.convention = denoiser, Convention.of(scheduler)
        self.sample_shape = shape = tuple(denoiser.shape)
        size = shape[1:] if len(shape) == 3 else None
        self.config = SimpleNamespace(in_channels=shape[0], out_channels=shape[0], sample_size=size)

    @property
    def dtype(self) -> torch.dtype:
        """The denoiser's precision."""
        return self.denoiser.dtype

    @property
    def device(self) -> torch.device:
        """The denoiser's device."""
        return self.denoiser.device

    def forward(self, sample: Tensor, timestep: Tensor | float, **_: Any) -> SimpleNamespace:
        """The prediction for a network's input `(B, *shape)` at time `t`, in the scheduler's convention."""
        y, sigma = self.convention.enter(sample, timestep)
        return SimpleNamespace(sample=self.convention.from_sample(self.denoiser(y, sigma), y, expand(sigma, y)))


from_diffusers = NetworkDenoiser
as_model = DenoiserModel
