"""Identity of a model: what a file that was made for one network keeps, to recognise it, whatever its precision.

A network with weights is known by its class, the shape of its samples, the number of its weights, and the norms of some
of them; one without (a function, an exact model) by its answer to fixed noise. Half precision moves norms by less than
a thousandth and answers by a few percent; other training moves both by much more. The scheduler that it was trained
with is known by its process, some of its levels, and the meaning of the network's output.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from latestart.denoisers.adapter import as_network, module_of
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.conventions import Convention
from latestart.denoisers.networks import NetworkDenoiser
from latestart.noise import Noise

__all__ = ["differences", "identity"]

NORMS, ANSWERS, LEVELS = 48, 32, 9
NORM, ANSWER, LEVEL = 2e-3, 0.1, 1e-3  # relative differences within which two are the same


def identity(model: Any, scheduler: Any) -> dict[str, Any]:
    """Return what a file keeps of a network and the scheduler that it was trained with, ready for JSON.

    Args:
        model: a network, as `as_network` takes it.
        scheduler: whole, of any family.
    """
    network, convention = as_network(model), Convention.of(scheduler)
    module = module_of(network)
    known: dict[str, Any] = {"network": type(module).__name__, "shape": list(network.sample_shape)}
    weights = _weights(module)
    if weights:
        known |= {"weights": sum(value.numel() for value in weights), "norms": _norms(weights)}
    else:
        known |= {"answer": _answer(network, scheduler)}
    if (gaussian := getattr(module, "gaussian", None)) is not None:  # that a network is around is none of its weights
        known |= {"around": _norms([gaussian.mean, gaussian.variances])}
    return {**known, "process": _process(convention.noise), "prediction": convention.prediction}


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each difference of two identities, `one` first; none where they are the same model."""
    found = []
    for name, what in (("network", "network"), ("shape", "samples of shape"), ("weights", "number of weights")):
        if one.get(name) != other.get(name):
            found.append(f"the {what} {one.get(name)}, received {other.get(name)}")
    if not found:
        for name, limit in (("norms", NORM), ("answer", ANSWER), ("around", NORM)):
            if not _near(one.get(name), other.get(name), limit):
                shown = (f"{_shown(known.get(name))}" for known in (one, other))
                found.append(f"a {one['network']} with {name} {' and not '.join(shown)}: its weights are others")
    if one.get("prediction") != other.get("prediction"):
        found.append(f"the prediction type {one.get('prediction')}, received {other.get('prediction')}")
    mine, theirs = one.get("process", {}), other.get("process", {})
    if mine.get("kind") != theirs.get("kind") or mine.get("times") != theirs.get("times"):
        found.append(f"the process {_of(mine)}, received {_of(theirs)}")
    elif not _near(mine.get("log_sigma"), theirs.get("log_sigma"), LEVEL):
        found.append(f"the levels {_shown(mine.get('log_sigma'))} (log sigma), received {_shown(theirs['log_sigma'])}")
    return found


def _weights(module: Any) -> list[Tensor]:
    if not isinstance(module, nn.Module):
        return []
    return [value for _, value in sorted(module.state_dict().items()) if value.is_floating_point() and value.numel()]


def _norms(weights: Sequence[Tensor]) -> list[float]:
    """The norms of tensors, at most `NORMS` of them, evenly among all; to six digits, for JSON of every machine."""
    chosen = [weights[k * len(weights) // min(NORMS, len(weights))] for k in range(min(NORMS, len(weights)))]
    return [float(f"{float(value.detach().double().norm()):.6g}") for value in chosen]


@torch.inference_mode()
def _answer(network: Any, scheduler: Any) -> list[float] | None:
    """The denoised fixed noise at the middle level; None of a network that needs conditions of its own."""
    if [name for name in network.needed if name != "class_labels"]:
        return None
    labels = 0 if network.classes else None
    Conditions(network, labels, None, 1)
    denoiser = NetworkDenoiser(network, scheduler, labels)
    low, high = denoiser.sigma_range
    sigma = min(max(1.0, low), high)
    y = torch.randn(1, *network.sample_shape, generator=torch.Generator().manual_seed(0)) * math.hypot(1, sigma)
    found = denoiser(y.to(network.device, network.dtype), sigma).flatten().double().cpu()
    return [float(f"{value:.4g}") for value in found[:: max(1, len(found) // ANSWERS)][:ANSWERS].tolist()]


def _process(noise: Noise) -> dict[str, Any]:
    low, high = noise.t_range
    times = [low + (high - low) * k / (LEVELS + 1) for k in range(1, LEVELS + 1)]
    levels = [noise.log_sigma(t) for t in times]
    return {"kind": noise.kind, "times": [low, high], "log_sigma": [float(f"{level:.6g}") for level in levels]}


def _near(one: Any, other: Any, limit: float) -> bool:
    """Whether two lists of numbers, or None, are the same but for a share of their size."""
    if one is None or other is None or len(one) != len(other):
        return one is None and other is None
    a, b = (torch.tensor(values, dtype=torch.float64) for values in (one, other))
    return float((a - b).norm()) <= limit * max(float(a.norm()), float(b.norm()), 1e-12)


def _shown(values: Any) -> str:
    return "none" if not values else ", ".join(f"{value:.4g}" for value in values[:3]) + ", ..."


def _of(process: Mapping[str, Any]) -> str:
    return f"{process.get('kind')} over the times {process.get('times')}"
