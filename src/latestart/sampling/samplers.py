"""Samplers by name: diffusers scheduler classes, made from the scheduler that a model was trained with."""

import inspect
from typing import Any

import diffusers

SAMPLERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
}


def make_sampler(name: str, trained: Any, **changes: Any) -> Any:
    """The diffusers scheduler called `name`, over the levels of the scheduler `trained`.

    Args:
        name: a short name (`SAMPLERS`).
        trained: the scheduler that the model was trained with; its betas and its prediction type are kept.
        changes: of the configuration, such as `timestep_spacing="trailing"` or `clip_sample=True`.

    Raises:
        ValueError: the name is not known, or the class has no such setting.
    """
    if name not in SAMPLERS:
        raise ValueError(f"there is no sampler {name!r}; there are {', '.join(SAMPLERS)}")
    kind = getattr(diffusers, SAMPLERS[name])
    parameters = inspect.signature(kind.__init__).parameters
    unknown = sorted(set(changes) - set(parameters))
    if unknown:
        raise ValueError(f"{SAMPLERS[name]} has no setting {', '.join(unknown)}")
    if "skip_prk_steps" in parameters:  # PNDM's Runge-Kutta steps cannot be done at 3 steps
        changes = {"skip_prk_steps": True, **changes}
    # from_config takes the new class's own defaults, even of the betas, for the names in this list
    return kind.from_config({**trained.config, "_use_default_values": []}, **changes)
