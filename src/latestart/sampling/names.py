"""Names: the samplers of beta-based schedules, and diffusers' names for the arguments here.

Nothing heavy is imported here, so that a command can refuse a name at once.
"""

import functools
import inspect
import re
from collections.abc import Callable, Collection
from typing import ParamSpec, TypeVar

__all__ = [
    "ALGORITHMS", "CURVED", "ELSEWHERE", "FORMATS", "HERE", "MEASURED", "OWN", "PRIOR", "SAMPLERS", "SPACINGS", "SPENT",
    "TIMES", "telling",
]  # fmt: skip

P = ParamSpec("P")
R = TypeVar("R")

SAMPLERS = {
    "ddpm": "DDPMScheduler",
    "ddim": "DDIMScheduler",
    "pndm": "PNDMScheduler",
    "ipndm": "LMSDiscreteScheduler",  # with the coefficients of equal steps: `samplers.IPNDM`
    "deis": "DEISMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "sde-dpm++": "DPMSolverMultistepScheduler",  # with `ALGORITHMS`
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "kdpm2": "KDPM2DiscreteScheduler",
}
ALGORITHMS = {"dpm++": "dpmsolver++", "sde-dpm++": "sde-dpmsolver++"}  # of one class, the second with noise
PRIOR = "prior"  # `prior_solver.PriorMultistepScheduler`, with a prior inside, on every family of schedulers
OWN = "own"  # the model's own scheduler
TIMES = ("trailing", "leading", "linspace")  # spacings of times
CURVED = {"karras": "use_karras_sigmas", "log-snr": "use_exponential_sigmas"}  # spacings of levels
SPENT = {f"{name}+1": name for name in CURVED}  # one level more
SPACINGS = (*TIMES, *CURVED, *SPENT)
FORMATS = ("table", "diffusers", "comfyui", "a1111", "json")  # of a grid in text
MEASURED = ("gaussian-optimal", "gits", "entropic", "entropic-rescaled")  # grids that depend on steps and start

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
    "pooled_projections": "model_kwargs={'pooled_projections': ...}",
    "num_timesteps": "steps",
    "inference_steps": "steps",
    "device": "model: everything works where the network is",
}
ELSEWHERE = {
    "guidance_scale": "guidance is the model's matter: give a function that guides, by ls.as_network",
    "prompt": "give the text encoder's output as model_kwargs={'encoder_hidden_states': ...}",
    "eta": "set it on the scheduler, as in make_sampler('ddim', scheduler, eta=0.5)",
    "output_type": "the images are tensors, result.images in [0, 1]",
}


def telling(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function: its `TypeError` for an argument by its name in diffusers gives the name here."""
    own = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if name := next((name for name in kwargs if name not in own), None):
            hint = _hint(name, own, function.__name__)
            raise TypeError(f"{function.__name__}() got an unexpected keyword argument {name!r}{hint}")
        return function(*args, **kwargs)

    return call


def _hint(name: str, own: Collection[str], function: str) -> str:
    if name in ELSEWHERE:
        return f": {ELSEWHERE[name]}"
    target = re.match(r"\w+", HERE.get(name, ""))
    if target is None:
        return ""
    return f": here it is {HERE[name]}" if target[0] in own else f": {function} has none"
