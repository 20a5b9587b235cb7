"""The command line: parses, calls, prints; no logic of its own.

Nothing heavy is imported before a command runs, so `latestart --help` answers at once.
"""

from typing import Annotated

import typer

from latestart.cli import analyze, check, choose, experiment, fit, grid, sample, sweep, train
from latestart.cli import tune as tuning
from latestart.experiments.demo.settings import DemoSettings

__all__ = ["app", "main"]

app = typer.Typer(
    help="Find the moment at which a diffusion model makes up its mind, and start sampling just before it.",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Find the moment at which a diffusion model makes up its mind, and start sampling just before it."""
    if version:
        from latestart import __version__

        typer.echo(__version__)
        raise typer.Exit


for command, example in (
    (experiment.conducting(DemoSettings, "demo.measure.Demo", "out/demo"), "demo --out out/demo"),
    (tuning.tune, "tune models/mine --images photos/ --steps 5 --out recipe.safetensors"),
    (tuning.show, "show recipe.safetensors"),
    (fit.fit, "fit photos/ --out prior.safetensors"),
    (check.check, "check mnist --t-start 500"),
    (choose.choose, "choose mnist --steps 3 --sampler ddim"),
    (grid.grid, "grid mnist --steps 5 --format comfyui"),
    (sample.sample, "sample mnist --t-start 400 --steps 5 --out out/samples"),
    (sweep.sweep, "sweep examples/sweep.yaml --out out/sweep"),
    (analyze.analyze, "analyze mnist --quick"),
    (train.train, "train mnist-train.parquet --out models/mnist --patch 2 --steps 16000"),
):
    app.command(example.split()[0], epilog=f"Example:  latestart {example}")(command)
app.add_typer(experiment.experiment, name="experiment")
