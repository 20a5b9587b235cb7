"""The device that a process of a run works on."""

import os

import torch

__all__ = ["choose_device", "environment_number", "own_device"]

_chosen: torch.device | None = None


def choose_device(name: str | None) -> None:
    """Say which device all that follows in this process works on; None is its own choice.

    Args:
        name: as torch names devices: "cpu", "cuda", "cuda:1".

    Raises:
        ValueError: there is no such device here, or one that does not know float64, which variances are kept in.
    """
    global _chosen
    _chosen = None if name is None else _checked(name)
    if _chosen is not None and _chosen.type == "cuda" and _chosen.index is not None:
        torch.cuda.set_device(_chosen)  # where libraries go that ask for none in particular


def own_device() -> torch.device:
    """The device that was chosen, or the GPU of this process, or the processor where there is none.

    A process of `torchrun` takes the GPU of its LOCAL_RANK; more processes than GPUs share them by turns. Of
    accelerators only those are taken that know float64: CUDA and ROCm, not Apple's.
    """
    if _chosen is not None and (_chosen.type != "cuda" or _chosen.index is not None):
        return _chosen
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", environment_number("LOCAL_RANK", 0) % torch.cuda.device_count())


def environment_number(name: str, default: int) -> int:
    """A whole number from the environment, as launchers leave it there.

    Raises:
        ValueError: it is none.
    """
    text = os.environ.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal():
        raise ValueError(f"the environment says {name}={text!r}: expected a whole number, as torchrun sets it, or none")
    return int(text)


def _checked(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"device {name!r}: expected cpu, cuda or cuda:1") from error
    if device.type == "mps":
        raise ValueError(f"device {name!r} does not know float64, which variances are kept in: expected cpu or cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {name!r}: this machine has {torch.cuda.device_count()} such devices")
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device {name!r}: expected cpu, cuda or cuda:1")
    return device
