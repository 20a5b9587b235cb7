"""A network around a Gaussian: it predicts only the rest of the denoiser.

    D(y, sigma) = D_G(y, sigma) + r(sigma) F(x_t, t)
    r(sigma)^2 = 1/D sum_k l_k sigma^2 / (l_k + sigma^2)

where D_G is the linear denoiser of the data's mean and covariance (`gaussians/gaussian.py`), which is all of the
denoiser above the critical level, and the best linear one below; l_k are its D variances, so that `r(sigma)` is the
root mean square of what it leaves of data with these moments, and F is asked for outputs of size 1 at every level. A
network whose last layer is 0 is the Gaussian's denoiser; what is learned is how the symmetry breaks. It is EDM's
preconditioning (Karras et al. 2022, which is this with an isotropic Gaussian) with the data's own covariance.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from latestart.denoisers.adapter import sample_shape
from latestart.denoisers.base import expand
from latestart.denoisers.conventions import Convention
from latestart.gaussians.gaussian import Gaussian
from latestart.noise import Discrete

__all__ = ["Around", "Inside", "residual"]


class Inside(nn.Module):
    """Base of modules around a network of diffusers: precision and device are those of its weights."""

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device


class Around(Inside):
    """Wrap a network F as one with its scheduler's prediction type, by `D = D_G + r F`.

    Args:
        network: F, a network on images.
        gaussian: of the images that it is trained on, in their value range.
        scheduler: a beta-based one of diffusers, with the prediction type.

    Raises:
        ValueError: the process is not variance preserving, or the Gaussian is of another shape.
    """

    def __init__(self, network: nn.Module, gaussian: Gaussian, scheduler: Any) -> None:
        super().__init__()
        self.network, self.gaussian = network, gaussian
        self.config: Any = network.config
        self.convention = Convention.of(scheduler)
        if not isinstance(self.convention.noise, Discrete):
            raise ValueError(
                f"a network around a Gaussian needs a beta-based scheduler, received a {type(scheduler).__name__}"
            )
        if gaussian.shape != (shape := sample_shape(network)):
            raise ValueError(f"the network is for images {shape}, the Gaussian is of images {gaussian.shape}")

    def forward(self, sample: Tensor, timestep: Tensor | float, **kwargs: Any) -> SimpleNamespace:
        """As the network's own `forward`, for `x_t` `(B, C, H, W)` and times t, a number, `()` or `(B,)`."""
        out = self.network(sample, timestep, **kwargs).sample
        with torch.autocast(sample.device.type, enabled=False):
            if self.gaussian.device != sample.device:
                self.gaussian = self.gaussian.to(sample.device)
            y, sigma = self.convention.enter(sample.float(), timestep)
            sigma = sigma.to(sample.device).expand(len(sample))
            x_0 = self.gaussian(y, sigma) + expand(residual(self.gaussian, sigma), y) * out.float()
            return SimpleNamespace(sample=self.convention.from_sample(x_0, y, expand(sigma, y)).to(out.dtype))


def residual(gaussian: Gaussian, sigma: Tensor) -> Tensor:
    """Root mean square error, per value, of the Gaussian's denoiser on its own data at levels sigma `(B,)`."""
    square = sigma.square().unsqueeze(-1)
    left = gaussian.variances * square / (gaussian.variances + square).clamp(min=torch.finfo(torch.float64).tiny)
    many = gaussian.basis.multiplicity.to(left)
    return ((left * many).sum(-1) / many.sum()).sqrt()
