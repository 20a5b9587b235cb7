"""Names: of samplers, and those that diffusers has for what is called otherwise here.

Nothing heavy is imported here, so that a command can refuse a name at once.
"""

from collections.abc import Mapping
from typing import Any

SAMPLERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "ipndm": "LMSDiscreteScheduler",  # with the coefficients of equal steps: `samplers.IPNDM`
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
}
EDM = {"euler": "EDMEulerScheduler", "dpm++": "EDMDPMSolverMultistepScheduler"}
FLOW = {"euler": "FlowMatchEulerDiscreteScheduler", "heun": "FlowMatchHeunDiscreteScheduler"}
OWN = "own"  # the model's own scheduler
OF_KIND = {"vp": SAMPLERS, "edm": EDM, "flow": FLOW}

HERE = {
    "num_inference_steps": "steps",
    "generator": "seed, a whole number: sample i depends on (seed, i) alone",
    "latents": "noise, white noise of the samples' shape, which the prior carries to the start",
    "class_labels": "labels",
    "num_images_per_prompt": "n",
    "unet": "model",
    "transformer": "model",
    "strength": "t_start, a training time of the scheduler",
    "timesteps": "steps and t_start",
    "sigmas": "steps and t_start",
    "cross_attention_kwargs": "model_kwargs",
    "encoder_hidden_states": "model_kwargs={'encoder_hidden_states': ...}",
    "added_cond_kwargs": "model_kwargs={'added_cond_kwargs': ...}",
}


def refuse(function: str, others: Mapping[str, Any]) -> None:
    """Raise `TypeError` for arguments that a function does not have, with the names that they have here."""
    if not others:
        return
    name = next(iter(others))
    told = f": here it is {HERE[name]}" if name in HERE else ""
    raise TypeError(f"{function}() got an unexpected keyword argument {name!r}{told}")
