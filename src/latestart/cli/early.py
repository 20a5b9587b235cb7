"""The commands of the early phase: is it Gaussian, and how far off may the start be."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import (
    BatchSize,
    Features,
    HeldOut,
    MixedPrecision,
    Model,
    SampleSeed,
    Scheduler,
    TrainingSet,
    bar,
    check_first,
    friendly,
    say,
    seed_option,
    whole_numbers,
)


def gaussianity(
    model: Model = "mnist",
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures; goes on where it was cut.")] = Path(
        "out/experiments/gaussianity"
    ),
    prior: Annotated[
        str, typer.Option(help="gaussian, the one beside the model, or the file of a Gaussian.")
    ] = "gaussian",
    starts: Annotated[
        str,
        typer.Option(help="In the scheduler's t, multiples of a 40th of it, between commas; default: 15 from the top."),
    ] = "",
    samples: Annotated[int, typer.Option(help="Samples at each level, of each process, at least 10.")] = 1000,
    rank: Annotated[int | None, typer.Option(min=1, help="Leading directions that are tested; default 8.")] = None,
    seed: Annotated[int, seed_option("Seed of the noise and of the tests.")] = 0,
    images: TrainingSet = None,
    held_out: Annotated[
        str | None, typer.Option(help="Images that the model has not seen, for the divergence in nats.")
    ] = None,
    batch_size: BatchSize = 250,
    mixed_precision: MixedPrecision = "no",
    scheduler: Scheduler = None,
) -> None:
    """Test whether noised images, and a network's early samples, are Gaussian, at each level beside its nats.

    Each level is kept the moment it is done: a run that was cut off goes on.
    """
    with friendly():
        check_first(images, held_out, out=out, models=[model])
        from latestart.experiments import gaussianity as experiment
        from latestart.files import write_json
        from latestart.report import early

        settings = experiment.Settings(
            model, prior, images, held_out, samples, rank, seed, whole_numbers("starts", starts) if starts else (),
            batch_size=batch_size, mixed_precision=mixed_precision, scheduler=scheduler,
        )  # fmt: skip
        levels = experiment.Levels(settings, out, say)
        with bar("testing") as advance:
            levels.measure(advance)
        result = levels.result()
        write_json(out / "results.json", result.record())
        early.gaussianity(out / "gaussianity.png", result)
        early.gaussianity_report(result).publish(out, "results.json", "levels")


def sensitivity(
    model: Model = "mnist",
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures; goes on where it was cut.")] = Path(
        "out/experiments/sensitivity"
    ),
    prior: Annotated[
        str,
        typer.Option(help="gaussian, mixture, or files of priors, between commas; default: those beside the model."),
    ] = "",
    nfe: Annotated[str, typer.Option(help="Network evaluations for each sample.")] = "3,5,10",
    starts: Annotated[
        str, typer.Option(help="In the scheduler's t, between commas; default: a range for each kind of prior.")
    ] = "",
    step: Annotated[int, typer.Option(min=1, help="Between two of the default starts, in t of 1,000.")] = 25,
    samples: Annotated[int, typer.Option(help="Samples from each start, at least 6.")] = 500,
    seed: SampleSeed = 0,
    features: Features = None,
    images: TrainingSet = None,
    held_out: HeldOut = None,
    batch_size: BatchSize = 256,
    mixed_precision: MixedPrecision = "no",
    scheduler: Scheduler = None,
    budget: Annotated[
        int | None,
        typer.Option(min=0, help="Network evaluations that the starts may cost, those spent before counted."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure the starts anew that have failed.")] = False,
) -> None:
    """Quality against the start of a late start: how wide is the window within 5% of the best, in t and in nats.

    Each start is kept the moment it is done; under `torchrun` its processes share them.
    """
    with friendly():
        check_first(images, held_out, out=out, models=[model])
        from latestart.experiments import sensitivity as experiment
        from latestart.files import write_json
        from latestart.lab.grid import Grid
        from latestart.processes import processes
        from latestart.report import early

        given = (("prior", prior), ("nfe", nfe), ("t-start", starts))
        axes = Grid.read({name: text for name, text in given if text})
        settings = experiment.Settings(
            model=model, priors=axes.prior if prior else (), evaluations=axes.nfe,
            starts=axes.t_start if starts else (), step=step, samples=samples, seed=seed, features=features,
            images=images, held_out=held_out, batch_size=batch_size, mixed_precision=mixed_precision,
            scheduler=scheduler,
        )  # fmt: skip
        run = processes()
        measured = experiment.Sensitivity(settings, out, run, say if run.first else lambda _: None)
        if run.first:
            say(f"{len(measured.sweep.planned)} starts, {measured.cost:,} network evaluations")
        with bar("evaluating", run.first) as advance:
            measured.measure(budget, retry, advance)
        if not run.first:
            return
        result = measured.result()
        write_json(out / "results.json", result.record())
        if result.curves:
            early.sensitivity(out / "sensitivity.png", result.curves, samples)
        early.sensitivity_report(result).publish(out, "results.json", "results.parquet", "cells")
