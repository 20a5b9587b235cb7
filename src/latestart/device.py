"""The device that a process of a run works on."""

import os

import torch


def own_device() -> torch.device:
    """The GPU of this process, by the LOCAL_RANK that `torchrun` gives it, or the processor where there is none.

    More processes than GPUs share them by turns. Of accelerators only those are taken that know float64, which
    variances are kept in: CUDA and ROCm, not Apple's.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
