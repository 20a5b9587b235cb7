"""The command `train`: a small diffusion model on a set of images."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import bar, look_for, say
from latestart.train_config import TrainConfig

__all__ = ["train"]


@with_settings(TrainConfig)
def train(
    config: TrainConfig,
    images: Annotated[
        Path,
        typer.Argument(help="Training images: a parquet file, a folder, an npz file, or a published set (celeba@64)."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the model to; a run that was cut off goes on from there.")],
    save_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 500,
    background: Annotated[
        str | None, typer.Option(help="Lay transparent pictures onto this colour; otherwise they are refused.")
    ] = None,
) -> None:
    look_for(config, images, out=out)
    from latestart.data import load_images
    from latestart.processes import processes
    from latestart.train import train as run
    from latestart.train import training_schedule

    training_schedule(config)  # refuses a level that leaves no times before images are read
    data = load_images(images, background=background)
    with bar("training") as advance:
        run(data, out, config, save_every, lambda step, total, loss: advance(step, total, f"loss {loss:.4f}"))
    if processes().first:
        say(f"wrote the model to {out}")
