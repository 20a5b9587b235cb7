"""DDIM with a share of noise as a setting: between DDIM (0) and DDPM (1), one share for all steps or one for each.

With `s` and `t` the levels before and after a step, `alpha^2 + std^2 = 1` and `eps = (x_s - alpha_s D) / std_s`,

    x_t = alpha_t D + sqrt(std_t^2 - n^2) eps + n w,    n = eta (std_t / std_s) sqrt(1 - alpha_s^2 / alpha_t^2)

In diffusers `eta` is an argument of every `step`, 0 unless a loop hands it over, and pipelines hand over 0. Here the
scheduler keeps it, in its configuration too, and `step` has no such argument. So every loop that hands over what `step`
takes adds this noise; `DDIMPipeline` makes a plain DDIM of any scheduler that it is given. With `clip_sample`, D is
clipped and eps stays the network's own, as by default in diffusers; DDPM makes eps anew from the clipped D.

Source: Song, Meng and Ermon, "Denoising diffusion implicit models", 2021, arXiv:2010.02502, equations 12 and 16.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import torch
from torch import Tensor

__all__ = ["Eta", "NoisyDDIMScheduler", "check_count", "checked_eta", "share_at"]

Eta = float | Sequence[float]


def checked_eta(eta: Any) -> float | list[float]:
    """The share of noise as a number, or the shares of a run's steps as a list.

    Args:
        eta: a number from 0 to 1, or a sequence of them, one for each step from the first.

    Raises:
        ValueError: something else.
    """
    several = isinstance(eta, Sequence | Tensor) and not isinstance(eta, str | bytes)
    try:
        shares = [float(one) for one in (eta if several else (eta,))]
    except (TypeError, ValueError) as error:
        raise ValueError(f"eta={eta!r}: expected a share of noise from 0 to 1, or one for each step") from error
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"eta={eta!r}: expected a share of noise from 0 to 1{', or one for each step' * several}")
    return shares if several else shares[0]


def check_count(eta: Eta, steps: int) -> None:
    """Raise `ValueError` where the shares of noise are not one number, nor one for each step of a run."""
    if isinstance(eta, Sequence) and len(eta) != steps:
        raise ValueError(f"eta has the shares of {len(eta)} steps, {list(eta)}, and the run has {steps}")


def share_at(eta: Eta, step: int) -> float:
    """The share of noise of a step, counted from 0."""
    return float(eta[step]) if isinstance(eta, Sequence) else eta


class NoisyDDIMScheduler(diffusers.DDIMScheduler):
    """diffusers' DDIM, whose every step adds the noise that its configuration asks for.

    Args:
        eta: the share of noise, from 0 (DDIM, bit for bit) to 1 (DDPM with `variance_type="fixed_small"`), or a
            sequence with one for each step of a run.
        settings: those of DDIM.

    Raises:
        ValueError: a share outside of [0, 1]; `set_timesteps` for another number of steps than there are shares.
    """

    config: Any
    timesteps: Any
    register_to_config: Any

    def __init__(self, *, eta: Eta = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.register_to_config(eta=checked_eta(eta))

    __init__.__signature__ = inspect.signature(diffusers.DDIMScheduler.__init__).replace(  # type: ignore[attr-defined]
        parameters=[
            *inspect.signature(diffusers.DDIMScheduler.__init__).parameters.values(),
            inspect.Parameter("eta", inspect.Parameter.KEYWORD_ONLY, default=0.0),
        ]
    )

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """Set the times of a run.

        Raises:
            ValueError: another number of steps than there are shares of noise.
        """
        check_count(self.config["eta"], num_inference_steps)
        super().set_timesteps(num_inference_steps, device)  # type: ignore[misc]

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        use_clipped_model_output: bool = False,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> Any:
        """The sample `(B, *shape)` at the next time, as diffusers' own `step` with the share of noise of this one."""
        eta = self.config["eta"]
        if isinstance(eta, Sequence):
            eta = share_at(eta, int((self.timesteps >= float(timestep)).sum()) - 1)
        return super().step(  # type: ignore[misc]
            model_output, timestep, sample, eta, use_clipped_model_output, generator, variance_noise, return_dict
        )
