"""The command `sweep`: a grid from a YAML file, from flags, or from both."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import perform
from latestart.lab.grid import Grid, read_grid

__all__ = ["sweep"]


@with_settings(Grid, lambda own: read_grid(own["grid"]) if own["grid"] else {})
def sweep(
    asked: Grid,
    grid: Annotated[
        Path | None, typer.Argument(help="A YAML file with the axes; flags take the place of what it says.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the cells and the table; a sweep cut off goes on.")] = Path(
        "out/sweep"
    ),
) -> None:
    perform("survey.measure.GridSurvey", asked, out)
