"""The progress bar of everything that takes long, on the command line and in `generate(progress=True)`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Progress", "bar"]

Progress = Callable[..., None]  # called as (done, total), or (done, total, note)


@contextmanager
def bar(what: str, shown: bool = True) -> Iterator[Progress]:
    """Show a bar while the block runs; yields `advance(done, total, note="")`.

    Args:
        what: the activity, in a word.
        shown: whether to draw anything.
    """
    if not shown:
        yield lambda done, total, note="": None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    noted = TextColumn("{task.fields[note]}")
    # a console of its own: within a bar of the caller's it would be refused on the shared one
    with Progress(*columns, noted, refresh_per_second=2, console=Console()) as progress:
        task = progress.add_task(what, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield advance
