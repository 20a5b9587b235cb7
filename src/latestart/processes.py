"""Work shared by several processes: those that `torchrun` started, or the one that there is.

    torchrun --nproc-per-node 4 -m latestart fit photos/ --out prior.safetensors

Every process runs the same program on its own share, and they meet in few places: where sums are added, where results
are gathered, and where they make sure that they speak of the same thing. Communication is `torch.distributed`'s, set up
by `accelerate`: gloo on processors, nccl on GPUs. A process that ends with an error, or is killed, is reported by
`torchrun` by its rank, and it ends the others.
"""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes of a run, as one of them sees them; the base class is the one that is alone.

    Attributes:
        index: of this process, from 0.
        count: of all.
    """

    index: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that reports and writes what is common."""
        return self.index == 0

    def share(self, n: int) -> range:
        """This process' part of the items 0 to n - 1: in the order of the processes, of equal sizes or one less."""
        return range(n * self.index // self.count, n * (self.index + 1) // self.count)

    def total(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sums of tensors over all processes, by one all-reduce; they must have the same shapes everywhere."""
        return tensors

    def gather(self, value: T) -> list[T]:
        """The value of each process, in order, on every process."""
        return [value]

    def agree(self, what: str, value: Any) -> None:
        """Raise `ValueError` on every process, with each one's value, unless all have the same."""
        values = self.gather(value)
        if any(other != values[0] for other in values):
            told = ", ".join(f"process {k} has {other}" for k, other in enumerate(values))
            raise ValueError(f"the processes disagree on {what}: {told}")

    def firsts(self, make: Callable[[], T]) -> T:
        """What `make` returns on the first process, on all of them."""
        return self.gather(make() if self.first else None)[0]  # type: ignore[return-value]


class Distributed(Processes):
    """The processes of a `torch.distributed` run."""

    def total(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sums of tensors over all processes, by one all-reduce of them all in float64."""
        flat = torch.cat([tensor.double().flatten() for tensor in tensors])
        torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape).to(tensor.dtype) for part, tensor in zip(parts, tensors)]

    def gather(self, value: T) -> list[T]:
        """The value of each process, in order, on every process."""
        values: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(values, value)
        return values


@cache
def processes() -> Processes:
    """The processes of this run. The first call under `torchrun` waits for all of them."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return Processes()
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available())
    atexit.register(_leave)
    return Distributed(state.process_index, state.num_processes)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
