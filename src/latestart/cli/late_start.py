"""The command of the late-start curve."""

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
    names,
    say,
)


def late_start(
    model: Model = "mnist",
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures; goes on where it was cut.")] = Path(
        "out/experiments/late-start"
    ),
    prior: Annotated[
        str, typer.Option(help="Starts beside N(0, I): gaussian, mixture, or files of priors, between commas.")
    ] = "",
    starts: Annotated[str, typer.Option(help="In the scheduler's t, between commas; default: 15 from the top.")] = "",
    length: Annotated[
        int | None,
        typer.Option(help="Steps of the full run; default: a quarter of the schedule's times."),
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples from each start, at least 6.")] = 500,
    seed: SampleSeed = 0,
    clip: Annotated[bool, typer.Option("--clip", help="Clip the predicted image at every step.")] = False,
    features: Features = None,
    images: TrainingSet = None,
    held_out: HeldOut = None,
    criteria: Annotated[
        str | None,
        typer.Option(help="Of the critical levels, as in `analyze`, between commas; `none` leaves them out."),
    ] = None,
    levels: Annotated[
        Path | None, typer.Option(help="Take the critical levels from the analysis.json of `latestart analyze`.")
    ] = None,
    batch_size: BatchSize = 256,
    mixed_precision: MixedPrecision = "no",
    scheduler: Scheduler = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure the starts anew that have failed.")] = False,
) -> None:
    """Quality against the start of full-length DDPM from N(0, I): the plateau and the fall, beside critical levels.

    Each start is kept the moment it is done; under `torchrun` its processes share them.
    """
    with friendly():
        check_first(images, held_out, levels, out=out, models=[model])
        from latestart.experiments import late_start_curve as experiment
        from latestart.files import write_json
        from latestart.lab.grid import Grid
        from latestart.processes import processes
        from latestart.report import late_start as report

        axes = Grid.of({name: text for name, text in (("prior", prior), ("t-start", starts)) if text})
        wanted = None if criteria is None else tuple(name for name in names(criteria) if name != "none")
        settings = experiment.Settings(
            model=model, priors=axes.prior if prior else (), starts=axes.t_start if starts else (), length=length,
            samples=samples, seed=seed, clip=clip, features=features, images=images, held_out=held_out, levels=levels,
            criteria=experiment.CRITERIA if wanted is None else wanted, batch_size=batch_size,
            mixed_precision=mixed_precision, scheduler=scheduler,
        )  # fmt: skip
        run = processes()
        curve = experiment.Curve(settings, out, run, say if run.first else lambda _: None)
        with bar("finding the critical levels", run.first) as advance:
            found = curve.levels(advance) if run.first else ((), ())
        with bar("evaluating", run.first) as advance:
            curve.measure(retry, advance)
        if not run.first:
            return
        result = curve.result(*found)
        write_json(out / "results.json", result.record())
        report.late_start_curve(out / "late-start.png", result)
        report.late_start_report(result, curve.subject.weights).publish(out, "results.json", "cells")
