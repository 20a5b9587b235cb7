"""A second device that is simulated on the processor, so that tests without an accelerator see where tensors lie.

Within `second_device()` a tensor that is made on, or moved to, "cuda" keeps its values in the processor's memory and is
marked. What is computed of marked tensors is marked. As on a real machine, tensors of two devices do not meet, numbers
of no dimension and indices apart, and no array can be made of a marked one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_flatten, tree_map

from latestart import device as devices

SECOND = torch.device("cuda", 0)
FREE = {  # may be of tensors on two devices
    *("copy_", "set_", "__set__", "is_set_to", "__repr__", "is_same_size", "view_as", "expand_as", "reshape_as"),
    "_has_compatible_shallow_copy_type",
}
ARRAYS = {"numpy", "__array__"}
MOVES = {"to", "cpu", "cuda", "type_as"}


class SecondDevice(TorchFunctionMode):
    """Marks tensors with the device that they would lie on."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        owner = getattr(func, "__self__", None)
        if owner is torch.Tensor.device and name == "__get__":
            return SECOND if _marked(args[0]) else func(*args, **kwargs)
        if owner is torch.Tensor.is_cuda and name == "__get__":
            return _marked(args[0])
        if owner is torch.Tensor.data and name == "__set__":
            func(*args, **kwargs)
            _mark(args[0], _marked(args[1]))
            return None
        if owner is torch.Tensor.grad and name == "__set__":
            return func(*args, **kwargs)
        tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
        where = any(map(_marked, tensors))
        if name in ARRAYS and where:
            raise TypeError(f"can't convert a tensor on cuda:0 to numpy: {resolve_name(func)}")
        if name in MOVES:
            return _moved(func, name, args, kwargs)
        asked = kwargs.get("device")
        if asked is not None:
            kwargs["device"], where = "cpu", torch.device(asked).type == "cuda"
            if (generator := kwargs.get("generator")) is not None and where:
                raise RuntimeError(f"expected a generator on {asked}, received one on {generator.device}")
        if name in ("as_tensor", "asarray") and tensors:
            return _moved(func, "to", args, {**kwargs, "device": kwargs.get("device") and ("cuda" if where else "cpu")})
        if name not in FREE:
            _check(func, name, args, tensors)
        if name == "__iter__":
            return iter(_all(list(func(*args)), where))
        out = func(*args, **kwargs)
        return _all(out, where) if tensors or asked is not None else out


def _moved(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> torch.Tensor:
    """What `to`, `cpu`, `cuda` and `type_as` give."""
    tensor, where, dtype = args[0], _marked(args[0]), None
    if name in ("cpu", "cuda"):
        where = name == "cuda"
    for given in (*args[1:], *kwargs.values()) if name in ("to", "type_as") else ():
        if isinstance(given, torch.Tensor):
            where, dtype = _marked(given), given.dtype
        elif isinstance(given, torch.dtype):
            dtype = given
        elif isinstance(given, torch.device | str):
            where = torch.device(given).type == "cuda"
    changed = dtype is not None and dtype != tensor.dtype
    if not changed and where == _marked(tensor):
        return tensor
    with torch._C.DisableTorchFunction():
        return _mark(torch.Tensor.to(tensor, dtype) if changed else tensor.clone(), where)


def _marked(tensor: Any) -> bool:
    return getattr(tensor, "__dict__", {}).get("_second", False)


def _mark(tensor: torch.Tensor, where: bool) -> torch.Tensor:
    tensor.__dict__["_second"] = where
    return tensor


def _all(out: Any, where: bool) -> Any:
    return tree_map(lambda leaf: _mark(leaf, where) if isinstance(leaf, torch.Tensor) else leaf, out)


def _check(func: Any, name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    if name in ("__getitem__", "__setitem__", "index_select"):
        first = args[0]
        inner = [leaf for leaf in tree_flatten(args[1:])[0] if isinstance(leaf, torch.Tensor)]
        if not _marked(first) and any(_marked(leaf) and leaf.ndim for leaf in inner):
            raise RuntimeError(f"indices should be on the same device as the indexed tensor: {resolve_name(func)}")
        return
    dims = [tensor for tensor in tensors if tensor.ndim]
    if len({_marked(tensor) for tensor in dims}) > 1 or (
        dims and not _marked(dims[0]) and any(_marked(tensor) for tensor in tensors)
    ):
        raise RuntimeError(f"expected all tensors to be on the same device, found two: {resolve_name(func) or name}")


@contextmanager
def second_device() -> Iterator[torch.device]:
    """A second device, which is that of this process meanwhile."""
    before = devices._chosen
    devices._chosen = SECOND
    try:
        with SecondDevice():
            yield SECOND
    finally:
        devices._chosen = before
