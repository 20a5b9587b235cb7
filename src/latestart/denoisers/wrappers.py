"""Networks with a call of their own: in half precision, or predicting something else."""

import functools
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.base import expand
from latestart.denoisers.conventions import Convention

__all__ = ["HalfPrecision", "Velocity", "Wrapped", "of_velocity"]


class Wrapped:
    """A network behind a call of one's own: it overrides the call, and forwards every other attribute.

    A method of the network that returns the network, such as `.eval()` or `.to()`, returns the wrapper.
    """

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        if name == "model" or name.startswith("__"):  # a copy is asked for these before it has a network
            raise AttributeError(name)
        value = getattr(self.model, name)
        if not callable(value) or not hasattr(value, "__self__"):
            return value

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = value(*args, **kwargs)
            return self if result is self.model else result

        return call


class HalfPrecision(Wrapped):
    """A network whose products are taken in bfloat16, by autocast, its output in float32."""

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> SimpleNamespace:
        """The network's own call."""
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return SimpleNamespace(sample=self.model(x, *args, **kwargs).sample.float())


class Velocity(Wrapped):
    """A network of a VP process that predicts the image, `x_0`, as one that predicts `v = (alpha x - x_0) / std`."""

    def __init__(self, model: Any, of_image: Any, of_velocity: Any) -> None:
        super().__init__(model)
        self.image, self.velocity = Convention.of(of_image), Convention.of(of_velocity)

    def __call__(self, x: Tensor, timestep: Tensor | float, *args: Any, **kwargs: Any) -> SimpleNamespace:
        """`v` `(B, *shape)` at `x` `(B, *shape)` and time `t`; learned variances, if any, behind it as they are."""
        out = self.model(x, timestep, *args, **kwargs).sample
        y, sigma = self.image.enter(x, timestep)  # where no signal is left (zero terminal SNR), v is -x_0
        level = expand(sigma, x)
        x_0 = self.image.to_sample(out[:, : x.shape[1]], y, level)
        return SimpleNamespace(sample=torch.cat([self.velocity.from_sample(x_0, y, level), out[:, x.shape[1] :]], 1))


def of_velocity(network: Any, scheduler: Any) -> tuple[Any, Any]:
    """A network that predicts the image as one that predicts v, with its scheduler; any other as it is.

    Some samplers of diffusers (PNDM, Euler's with noise, KDPM2) refuse the image. Of v they take
    `x_0 = alpha x - std v`, so that an error of v counts least where v is least certain, at the lowest levels.
    """
    if scheduler.config.get("prediction_type") != "sample":
        return network, scheduler
    changed = {**scheduler.config, "_use_default_values": [], "prediction_type": "v_prediction"}
    of_v = type(scheduler).from_config(changed)
    return Velocity(network, scheduler, of_v), of_v
