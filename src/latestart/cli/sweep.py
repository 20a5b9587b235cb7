"""The command `sweep`: a grid from a YAML file, from flags, or from both."""

from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.options import first_sentences, with_settings
from latestart.cli.support import friendly, perform
from latestart.lab.grid import Grid, read_grid

__all__ = ["sweep"]


def sweep(
    given: dict[str, Any],
    grid: Annotated[
        Path | None, typer.Argument(help="A YAML file with the axes; flags take the place of what it says.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the cells and the table; a sweep cut off goes on.")] = Path(
        "out/sweep"
    ),
) -> None:
    with friendly():
        named = {} if grid is None else read_grid(grid)
        perform("survey.measure.GridSurvey", Grid.read({**named, **given}), out)


sweep.__doc__ = first_sentences(Grid)
sweep = with_settings(Grid, sweep)
