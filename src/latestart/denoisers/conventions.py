"""Conventions of networks: the scale of the input, and the meaning of the output.

Every convention is affine. A network sees `c_in y` and the scheduler's time, gives F, and the denoiser is

    D(y, sigma) = c_skip y + c_out F

    process   prediction      c_in                       c_skip                     c_out
    VP        epsilon         alpha                      1                          -sigma
    VP        v_prediction    alpha                      alpha^2                    -alpha sigma
    VP        sample          alpha                      0                          1
    flow      velocity        alpha                      alpha                      -alpha sigma
    EDM       epsilon         (s^2 + sigma^2)^(-1/2)     s^2 / (s^2 + sigma^2)      sigma s (s^2 + sigma^2)^(-1/2)
    EDM       v_prediction    (s^2 + sigma^2)^(-1/2)     s^2 / (s^2 + sigma^2)      -sigma s (s^2 + sigma^2)^(-1/2)

with alpha = (1 + sigma^2)^(-1/2) for VP and 1 / (1 + sigma) for flow, `v = alpha eps - std x_0` (Salimans and Ho 2022),
the velocity `eps - x_0` (Lipman et al. 2023) and `s = sigma_data` of EDM (Karras et al. 2022). This is the only place
where these conventions are known.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latestart.denoisers.base import expand
from latestart.noise import Noise

__all__ = ["NO_SIGNAL", "VELOCITY", "Convention"]

Number = Any  # a float or a tensor; what goes in comes out
Affine = Callable[[Number, float], tuple[Number, Number, Number]]
VELOCITY = "velocity"
NO_SIGNAL = 1e6  # a level at which nothing of the image is left


@dataclass(frozen=True)
class Convention:
    """A scheduler's process, and the meaning of its network's output at each noise level sigma.

    Attributes:
        noise: the process.
        prediction: "epsilon", "v_prediction" or "sample"; of flow matching always the velocity.
        width: the deviation of the data that an EDM scheduler is made for.
    """

    noise: Noise
    prediction: str
    width: float = 1.0

    @classmethod
    def of(cls, scheduler: Any) -> "Convention":
        """The convention of a diffusers scheduler.

        Raises:
            ValueError: the process or the prediction type is not known.
        """
        noise, prediction = Noise.from_scheduler(scheduler), scheduler.config.get("prediction_type")
        known = _COEFFICIENTS[noise.kind]
        if len(known) == 1:  # of flow matching, whatever its scheduler's configuration says
            (prediction,) = known
        if prediction not in known:
            raise ValueError(f"prediction_type {prediction!r} is not supported, expected one of {', '.join(known)}")
        return cls(noise, prediction, float(scheduler.config.get("sigma_data") or 1.0))

    def coefficients(self, sigma: Number) -> tuple[Number, Number, Number]:
        """`(c_in, c_skip, c_out)` at the level sigma."""
        return _COEFFICIENTS[self.noise.kind][self.prediction](sigma, self.width)

    def enter(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """A network's input `(B, *shape)` at times t, a number, `()` or `(B,)`, as `y`, with its levels sigma like t.

        Where no signal is left (zero terminal SNR) the level is 1e6, so far above the data that their mean is all that
        a denoiser gives.
        """
        times = torch.as_tensor(t, dtype=torch.float64)
        sigma = torch.as_tensor(self.noise.sigma(times), dtype=torch.float64).clamp(max=NO_SIGNAL)
        return x / self.coefficients(expand(sigma, x))[0], sigma

    def to_sample(self, out: Tensor, y: Tensor, sigma: Number) -> Tensor:
        """`E[x_0 | y]` from a network's output."""
        _, c_skip, c_out = self.coefficients(sigma)
        return c_skip * y + c_out * out

    def from_sample(self, x_0: Tensor, y: Tensor, sigma: Number) -> Tensor:
        """The network's output that stands for `E[x_0 | y]`: the inverse of `to_sample`."""
        _, c_skip, c_out = self.coefficients(sigma)
        return (x_0 - c_skip * y) / c_out


def _alpha(sigma: Number) -> Number:
    return (1 + sigma**2) ** -0.5


def _flow(sigma: Number, _: float) -> tuple[Number, Number, Number]:
    alpha = 1 / (1 + sigma)
    return alpha, alpha, -alpha * sigma


def _edm(sigma: Number, width: float) -> tuple[Number, Number, Number]:
    c_in = (width**2 + sigma**2) ** -0.5
    return c_in, (width * c_in) ** 2, sigma * width * c_in


_COEFFICIENTS: dict[str, dict[str, Affine]] = {
    "vp": {
        "epsilon": lambda sigma, _: (_alpha(sigma), 1.0, -sigma),
        "v_prediction": lambda sigma, _: (_alpha(sigma), _alpha(sigma) ** 2, -_alpha(sigma) * sigma),
        "sample": lambda sigma, _: (_alpha(sigma), 0.0, 1.0),
    },
    "edm": {"epsilon": _edm, "v_prediction": lambda sigma, width: _edm(-sigma, width)},  # only c_out is odd in sigma
    "flow": {VELOCITY: _flow},
}
