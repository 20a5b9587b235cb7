"""The command that trains networks on all levels and below a start, and compares what they sample."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import MixedPrecision, bar, check_first, friendly, say, seed_option, whole_numbers


def late_training(
    out: Annotated[Path, typer.Option(help="Folder for networks, picture and figures; a run cut off goes on.")] = Path(
        "out/experiments/late-training"
    ),
    images: Annotated[
        str | None, typer.Option(help="The training set: parquet, folder or npz; default: 2,000 images of MNIST.")
    ] = None,
    held_out: Annotated[str | None, typer.Option(help="Images that are not trained on, to tell copies by.")] = None,
    features: Annotated[str, typer.Option(help="A shipped extractor, or a file of weights.")] = "mnist",
    start: Annotated[int, typer.Option(min=2, help="Of the late start, in t of 1,000; the late network's end.")] = 500,
    prior: Annotated[str, typer.Option(help="gaussian or mixture, fitted to the images.")] = "gaussian",
    seeds: Annotated[int, typer.Option(min=2, help="Pairs of networks.")] = 3,
    seed: Annotated[int, seed_option("Of the first pair; the others follow.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each network.")] = 2000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    channels: Annotated[str, typer.Option(help="Channels at each resolution, comma-separated.")] = "32,64",
    layers: Annotated[int, typer.Option(min=1, help="Residual blocks at each resolution.")] = 1,
    patch: Annotated[int, typer.Option(min=1, help="Side of the pixel patches that the network works on.")] = 2,
    prediction: Annotated[str, typer.Option(help="epsilon, v_prediction or sample.")] = "v_prediction",
    nfe: Annotated[str, typer.Option(help="Network evaluations for each sample.")] = "3,5,10",
    samples: Annotated[int, typer.Option(min=10, help="Samples of each network.")] = 1000,
    sampler: Annotated[str, typer.Option(help="ddim, dpm++, unipc, deis, ...")] = "ddim",
    mixed_precision: MixedPrecision = "no",
) -> None:
    """Train pairs of networks, on all levels and only below a start, and compare them from the same late start."""
    with friendly():
        check_first(images, held_out, out=out, samplers=[sampler])
        from latestart.experiments import late_training as experiment
        from latestart.files import write_json
        from latestart.report import initialisations as report

        setting = experiment.Setting(
            start, prior, seeds, seed, steps, batch_size, learning_rate, whole_numbers("channels", channels), layers,
            patch, prediction, whole_numbers("nfe", nfe), samples, sampler, mixed_precision,
        )  # fmt: skip
        with bar("late training") as advance:
            result = experiment.run(out, setting, images, held_out, features, tell=say, progress=advance)
        write_json(out / "results.json", experiment.results(result))
        report.training_picture(out / "late-training.png", result)
        report.training_report(result).publish(out, "results.json")
