"""Several processes of a run as threads of one, so that tests of shared work are quick."""

import threading
from collections.abc import Callable
from typing import Any

import torch

from latestart.processes import Processes


class Threads(Processes):
    """Processes that are threads, and meet at a barrier."""

    def __init__(self, index: int, board: list[Any], barrier: threading.Barrier) -> None:
        super().__init__(index, len(board))
        object.__setattr__(self, "board", board)
        object.__setattr__(self, "barrier", barrier)

    def gather(self, value: Any) -> list[Any]:
        self.barrier.wait(20)
        self.board[self.index] = value
        self.barrier.wait(20)
        return list(self.board)

    def total(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        return [torch.stack(parts).sum(0) for parts in zip(*self.gather(tensors))]


def together(count: int, work: Callable[[Processes], Any]) -> list[Any]:
    """`work(processes)` in that many threads: the results, or the errors, of each."""
    board, barrier, results = [None] * count, threading.Barrier(count), [None] * count

    def one(k: int) -> None:
        try:
            results[k] = work(Threads(k, board, barrier))
        except ValueError as error:
            results[k] = error

    threads = [threading.Thread(target=one, args=(k,)) for k in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
