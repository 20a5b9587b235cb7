"""The command `demo`: the gain of a late start on the shipped model."""

from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.options import first_sentences, with_settings
from latestart.cli.support import friendly, perform
from latestart.experiments.table1.settings import DemoSettings

__all__ = ["demo"]


def demo(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures; a demo cut off goes on.")] = Path(
        "out/demo"
    ),
) -> None:
    with friendly():
        perform("table1.demo.Demo", DemoSettings.read(given), out)


demo.__doc__ = first_sentences(DemoSettings)
demo = with_settings(DemoSettings, demo)
