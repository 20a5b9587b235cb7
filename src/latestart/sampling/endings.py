"""The end of a run of DDPM: the predicted image, without more noise.

The classes of diffusers add noise after every step that is made from a time above 0. Their last one is, wherever the
times are trailing, as those of a late start. With `fixed_small` variances that noise is none; with `fixed_large` it is
that of the whole step, and with learned ones what the network says. The mean of the last step is the predicted image
itself, and so that is what a run ends with.
"""

from typing import Any

__all__ = ["finished"]

SMALL = "fixed_small"  # and fixed_small_log: 1e-20 at the last step


def finished(scheduler: Any, timestep: Any, result: Any) -> Any:
    """The result of a scheduler's step, without the noise that the last step of a run must not add.

    Args:
        scheduler: that has stepped.
        timestep: from which.
        result: a tuple of the sample and the predicted image, or an object with both.
    """
    kind = vars(scheduler).get("variance_type")
    noisy = isinstance(kind, str) and not kind.startswith(SMALL) and hasattr(scheduler, "previous_timestep")
    if not noisy or not timestep > 0 or scheduler.previous_timestep(timestep) >= 0:
        return result
    if isinstance(result, tuple):
        return (result[1], *result[1:]) if len(result) > 1 else result
    return type(result)(prev_sample=result.pred_original_sample, pred_original_sample=result.pred_original_sample)
