"""Work shared by several processes: those that `torchrun` started, or the one that there is.

    torchrun --nproc-per-node 4 -m latestart fit photos/ --out prior.safetensors

Every process runs the same program on its own share, and they meet in few places: where sums are added, where results
are gathered, and where they make sure that they speak of the same thing. Communication is `torch.distributed`'s, set up
by `accelerate`: nccl where every process has a GPU of its own, else gloo. A process that ends with an error, or is
killed, is reported by `torchrun` by its rank, and it ends the others; those that it leaves waiting say so.
"""

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from latestart.device import environment_number

__all__ = ["Distributed", "Processes", "processes"]

T = TypeVar("T")
PATIENCE = timedelta(days=7)  # the others wait while the first one works alone; torchrun ends them if it dies


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
        """Whether this process reports, and writes the common files."""
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
        """The value that `make` returns on the first process, on every process."""
        return self.gather(make() if self.first else None)[0]  # type: ignore[return-value]


@dataclass(frozen=True)
class Distributed(Processes):
    """The processes of a `torch.distributed` run.

    Both ways to meet raise `ConnectionError` where another process has ended.

    Attributes:
        device: that they meet on; nccl knows none but GPUs.
    """

    device: torch.device | str = "cpu"

    def total(self, tensors: list[Tensor]) -> list[Tensor]:
        """The sums of tensors over all processes, by one all-reduce of them all in float64."""
        flat = torch.cat([tensor.to(self.device, torch.float64).flatten() for tensor in tensors])
        with _meeting():
            torch.distributed.all_reduce(flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        return [part.view(tensor.shape).to(tensor) for part, tensor in zip(parts, tensors)]

    def gather(self, value: T) -> list[T]:
        """The value of each process, in order, on every process."""
        values: list[Any] = [None] * self.count
        with _meeting():
            torch.distributed.all_gather_object(values, value)
        return values


@contextmanager
def _meeting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError("another process of this run has ended; its own error says why") from error


@cache
def processes() -> Processes:
    """The processes of this run. The first call under `torchrun` waits for all of them."""
    if environment_number("WORLD_SIZE", 1) < 2:
        return Processes()
    from accelerate import PartialState

    own = environment_number("LOCAL_WORLD_SIZE", 1) <= torch.cuda.device_count()  # nccl wants a GPU for each
    state = PartialState(cpu=not own, timeout=PATIENCE)
    atexit.register(_leave)
    return Distributed(state.process_index, state.num_processes, state.device)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
