"""The command of the late-start curve."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import bar, check_folder, friendly, say


def late_start(
    model: Annotated[
        str, typer.Argument(help="A shipped model (mnist), or a folder with a diffusers model.")
    ] = "mnist",
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures; goes on where it was cut.")] = Path(
        "out/experiments/late-start"
    ),
    prior: Annotated[
        str, typer.Option(help="Starts beside N(0, I): gaussian, mixture, or files of priors, between commas.")
    ] = "",
    starts: Annotated[str, typer.Option(help="In the scheduler's t, between commas; default: 15 from the top.")] = "",
    length: Annotated[
        int | None,
        typer.Option(help="Steps of the full run; default: all times on an accelerator, a quarter on a processor."),
    ] = None,
    samples: Annotated[int, typer.Option(min=2, help="Samples from each start.")] = 500,
    seed: Annotated[int, typer.Option(help="Sample i depends on the seed and i alone.")] = 0,
    clip: Annotated[bool, typer.Option("--clip", help="Clip the predicted image at every step.")] = False,
    features: Annotated[
        str | None, typer.Option(help="A shipped extractor, a classifier's file, or that of the Inception weights.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="The training set: parquet, folder or npz; default: the shipped model's.")
    ] = None,
    held_out: Annotated[str | None, typer.Option(help="Images that the model has not seen.")] = None,
    criteria: Annotated[
        str | None,
        typer.Option(help="Of the critical levels, as in `analyze`, between commas; `none` leaves them out."),
    ] = None,
    levels: Annotated[
        Path | None, typer.Option(help="Take the critical levels from the analysis.json of `latestart analyze`.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples evaluated at once.")] = 256,
    retry: Annotated[bool, typer.Option("--retry", help="Measure the starts anew that have failed.")] = False,
) -> None:
    """Quality against the start of full-length DDPM from N(0, I): the plateau and the fall, beside critical levels.

    Each start is kept the moment it is done; under `torchrun` its processes share them.
    """
    with friendly():
        from latestart.experiments import late_start_curve as experiment
        from latestart.experiments.grid import Grid
        from latestart.files import write_json
        from latestart.processes import processes
        from latestart.report import late_start as report

        check_folder(out)
        axes = Grid.of({name: text for name, text in (("prior", prior), ("t-start", starts)) if text})
        wanted = None if criteria is None else [c.strip() for c in criteria.split(",") if c.strip() not in ("", "none")]
        settings = experiment.Settings(
            model=model, priors=axes.prior if prior else (), starts=axes.t_start if starts else (), length=length,
            samples=samples, seed=seed, clip=clip, features=features, images=images, held_out=held_out, levels=levels,
            criteria=experiment.CRITERIA if wanted is None else tuple(wanted), batch_size=batch_size,
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
        for line in report.sentences(result):
            say(line)
        for line in result.missing:
            say(f"no level: {line}")
        for line in result.failed:
            say(f"not measured: {line}")
    say(f"wrote {out / 'late-start.png'}, {out / 'results.json'} and {out / 'cells'}")
