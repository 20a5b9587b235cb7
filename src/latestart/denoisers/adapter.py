"""Networks as this library asks them.

A network of diffusers is called as `model(x, t)` and returns an object with `.sample`; so may be anything else, once
`as_network` knows the shape of its samples. Whatever it is, it is asked in one way: with times of shape `(B,)`, by the
name of its own argument where it has one, and of what it returns the sample is taken.
"""

import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from latestart.checks import whole_number
from latestart.denoisers.wrappers import Wrapped

__all__ = ["Counted", "Network", "as_network", "module_of", "sample_shape"]

CLASSES = ("num_class_embeds", "num_embeds_ada_norm")  # settings of networks that take `class_labels`


class Network(Wrapped):
    """A network as this library asks it; see `as_network`.

    Attributes:
        sample_shape: of one sample, without a batch.
        classes: number of classes that it is conditional on; None for another.
        labelled: whether it is given class indices.
        needed: the arguments, beside the sample and the time, without which it cannot be called.
    """

    def __init__(
        self, model: Any, shape: Sequence[int], dtype: torch.dtype | None = None, device: torch.device | None = None
    ) -> None:
        super().__init__(model)
        self.sample_shape = tuple(shape)
        self._given = dtype, device
        module = module_of(model)
        arguments, anything = _arguments(module)
        self.named_time = "timestep" in arguments
        first_two = [name for name in arguments if name != "timestep"][: 1 if self.named_time else 2]
        required = [name for name, one in arguments.items() if one.default is one.empty]
        self.needed = tuple(name for name in required if name not in (*first_two, "timestep"))
        takes = anything or "class_labels" in arguments
        config = getattr(module, "config", None) if takes else None
        self.classes: int | None = next((count for name in CLASSES if (count := getattr(config, name, None))), None)
        # one that says nothing of classes in its configuration has none, whatever it could be given
        self.labelled = takes and bool(self.classes or not hasattr(module, "config"))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(module_of(self.model)).__name__}, shape={self.sample_shape})"

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the input: the one given to `as_network`, else that of its weights."""
        module = module_of(self.model)
        own = self._given[0] or getattr(module, "dtype", None)
        if isinstance(own, torch.dtype):
            return own
        weights = module.parameters() if isinstance(module, nn.Module) else ()
        return next((weight.dtype for weight in weights if weight.is_floating_point()), torch.float32)

    @property
    def device(self) -> torch.device:
        """The device of evaluation: of a network that accelerate moves piece by piece, its execution device."""
        module = module_of(self.model)
        parts = module.modules() if isinstance(module, nn.Module) else ()
        hooks = (getattr(getattr(part, "_hf_hook", None), "execution_device", None) for part in parts)
        place = self._given[1] or next((device for device in hooks if device is not None), None)
        if place is None:
            place = getattr(module, "device", None)
        if isinstance(place, int):
            return torch.device("cuda", place)
        if isinstance(place, torch.device | str):
            return torch.device(place)
        weights = module.parameters() if isinstance(module, nn.Module) else ()
        return next((weight.device for weight in weights), torch.device("cpu"))

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Any) -> SimpleNamespace:
        """The output for samples `(B, *shape)` at a time, a number, `()` or `(B,)`, as an object with `.sample`.

        Raises:
            ValueError: it returns no tensor of the samples' shape, with as many channels or twice as many.
        """
        times = torch.as_tensor(t, device=x.device).expand(len(x))
        given = {"timestep": times, **conditions} if self.named_time else conditions
        out = self.model(x, **given) if self.named_time else self.model(x, times, **given)
        out = getattr(out, "sample", out)
        out = out[0] if isinstance(out, tuple | list) else out
        fits = isinstance(out, Tensor) and out.shape[:1] == x.shape[:1] and out.shape[2:] == x.shape[2:]
        if not fits or out.shape[1] not in (x.shape[1], 2 * x.shape[1]):
            told = tuple(out.shape) if isinstance(out, Tensor) else f"a {type(out).__name__}"
            raise ValueError(f"the model returned {told} for samples {tuple(x.shape)}")
        return SimpleNamespace(sample=out)

    def bare(self) -> "Network":
        """The bare network, asked in the same way: without half precision, counting, `DataParallel` or compilation."""
        return Network(module_of(self.model), self.sample_shape, *self._given)

    def eval(self) -> "Network":
        """Put the wrapped network into evaluation mode."""
        if hasattr(self.model, "eval"):
            self.model.eval()
        return self

    def to(self, *args: Any, **kwargs: Any) -> "Network":
        """Move the wrapped network to another device or precision."""
        return Network(self.model.to(*args, **kwargs), self.sample_shape)


class Counted(Network):
    """A network that counts its evaluations, in samples; in all else it is the network.

    Attributes:
        evaluated: samples so far.
    """

    def __init__(self, model: Any) -> None:
        network = as_network(model)
        self.__dict__.update(vars(network))
        self.counted, self.evaluated = network, 0  # last: a network that counts may be counted itself

    def __call__(self, x: Tensor, t: Tensor | float, **conditions: Any) -> SimpleNamespace:
        """The network's own call."""
        self.evaluated += len(x)
        return self.counted(x, t, **conditions)

    def to(self, *args: Any, **kwargs: Any) -> "Network":
        """Move the counted network to another device or precision."""
        self.counted = self.counted.to(*args, **kwargs)
        self.model, self._given = self.counted.model, self.counted._given
        return self


def as_network(
    model: Any,
    shape: Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """A network as this library asks it, of anything that is called as `model(x, t)`.

    Args:
        model: a diffusers network, bare or inside `DataParallel`, `accelerate` or `torch.compile`; an exact model
            through `as_model`; or any function or module that returns a tensor, or an object with `.sample`.
        shape: of one sample; by default what the network's configuration says.
        dtype: of the samples that it is given; by default that of its weights, or float32.
        device: where it is evaluated; by default where its weights are, or the processor.

    Raises:
        TypeError: something that cannot be called, a class, a path or a pipeline.
        ValueError: nothing says the shape of its samples.
    """
    if isinstance(model, Network) and shape is None and dtype is None and device is None:
        return model
    _check_callable(model)
    model = model.model if isinstance(model, Network) else model
    module = module_of(model)
    found = _shape(module) if shape is None else shape
    if found is None:
        raise ValueError(
            f"nothing says what samples a {type(module).__name__} is for: expected a diffusers network, whose "
            "configuration does, or ls.as_network(model, shape=(C, H, W), dtype=..., device=...)"
        )
    sides = tuple(found) if isinstance(found, Iterable) else (found,)
    if not sides:
        raise ValueError(f"shape={found!r}: expected the sides of one sample, such as (3, 64, 64)")
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype={dtype!r}: expected a torch.dtype, such as torch.bfloat16")
    return Network(
        model, [whole_number("shape", side) for side in sides], dtype, None if device is None else torch.device(device)
    )


def sample_shape(model: Any) -> tuple[int, ...]:
    """The shape of one sample of a network `(C, H, W)`; raises what `as_network` raises."""
    return as_network(model).sample_shape


def module_of(model: Any) -> Any:
    """The bare network inside the wrappers of this library, `DataParallel` and `torch.compile`."""
    while True:
        inner = vars(model).get("model") if isinstance(model, Wrapped) else None
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        inner = getattr(model, "_orig_mod", inner) if isinstance(model, nn.Module) else inner
        if inner is None:
            return model
        model = inner


def _check_callable(model: Any) -> None:
    if isinstance(model, type):
        raise TypeError(f"expected a network, received the class {model.__name__}: make or open one")
    if isinstance(model, str | Path):
        raise TypeError(f"expected a network, received the path {str(model)!r}: open it by ls.load_model(path)")
    if hasattr(model, "components") and hasattr(model, "scheduler"):
        raise TypeError(
            f"expected a network, received the pipeline {type(model).__name__}: give its network, pipe.unet or "
            "pipe.transformer, and pipe.scheduler"
        )
    if not callable(model):
        raise TypeError(f"expected a network, called as model(x, t), received a {type(model).__name__}")


def _arguments(module: Any) -> tuple[dict[str, inspect.Parameter], bool]:
    """The arguments of a network's call by name, and whether it takes any others."""
    try:
        signature = inspect.signature(module.forward if isinstance(module, nn.Module) else module)
    except (TypeError, ValueError):  # of some callables nothing is known
        return {}, False
    many = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {name: one for name, one in signature.parameters.items() if one.kind not in many}
    return named, any(one.kind == inspect.Parameter.VAR_KEYWORD for one in signature.parameters.values())


def _shape(module: Any) -> tuple[int, ...] | None:
    if hasattr(module, "sample_shape"):
        return tuple(module.sample_shape)
    config = getattr(module, "config", None)
    channels, size = (getattr(config, name, None) for name in ("in_channels", "sample_size"))
    if channels is None or size is None:
        return None
    if isinstance(size, int) and "1D" in type(module).__name__:
        return channels, size
    return (channels, size, size) if isinstance(size, int) else (channels, *size)
