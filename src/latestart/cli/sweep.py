"""The command that measures a grid of samplers, starts and priors."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import (
    Features,
    HeldOut,
    Scheduler,
    TrainingSet,
    bar,
    check_first,
    friendly,
    names,
    precision,
    say,
    seed_option,
)


def sweep(
    grid: Annotated[
        Path | None, typer.Argument(help="A YAML file that describes the grid; flags take the place of its lines.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the sweep; one that was cut off goes on from there.")] = Path(
        "out/sweep"
    ),
    model: Annotated[
        str | None, typer.Option(help="Shipped models, or folders with a diffusers model; default: mnist.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddim, ddpm, pndm, dpm++, unipc, deis, ..; default: ddim.")
    ] = None,
    nfe: Annotated[str | None, typer.Option(help="Network evaluations for each sample; default: 3,5,10.")] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            help="none (full noise), isotropic, gaussian, mixture, or files of priors; default: none,gaussian."
        ),
    ] = None,
    t_start: Annotated[
        str | None, typer.Option(help="Where late starts begin, in the scheduler's t; default: 500.")
    ] = None,
    spacing: Annotated[
        str | None,
        typer.Option(
            help="trailing, leading, linspace (times), karras, log-snr, karras+1, log-snr+1 (levels); default: "
            "trailing,leading; a late start has no other spacing of times than trailing."
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(help="Clip the predicted image at every step: false, true; default: both where the sampler can."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Samples of each cell; default: 1000.")] = None,
    seed: Annotated[int | None, seed_option("Sample i depends on the seed and i alone; default: 0.")] = None,
    features: Features = None,
    images: TrainingSet = None,
    held_out: HeldOut = None,
    statistics: Annotated[
        str | None,
        typer.Option(help="Where the feature statistics of the images are kept; default: OUT/statistics.safetensors."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples evaluated at once; default: 256.")] = None,
    mixed_precision: Annotated[
        str | None,
        typer.Option(callback=precision, help="bf16: networks in half precision; no: in their own; default: no."),
    ] = None,
    scheduler: Scheduler = None,
    budget: Annotated[
        int | None,
        typer.Option(min=0, help="Network evaluations that the grid may cost, those spent before counted."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure the cells anew that have failed.")] = False,
) -> None:
    """Measure a grid of models, samplers, evaluations, starts and priors; under `torchrun`, with all its processes.

    Axes are lists with commas. Each cell is kept the moment it is done: a sweep that was cut off goes on.
    """
    flags = {
        "model": model, "sampler": sampler, "nfe": nfe, "prior": prior, "t_start": t_start, "spacing": spacing,
        "clip": clip, "samples": samples, "seed": seed, "features": features, "images": images, "held_out": held_out,
        "statistics": statistics, "batch_size": batch_size, "mixed_precision": mixed_precision,
        "scheduler": scheduler,
    }  # fmt: skip
    with friendly():
        check_first(images, held_out, out=out, models=names(model or ""), samplers=names(sampler or ""))
        from latestart.lab.grid import Grid, read_grid
        from latestart.lab.sweep import open_sweep
        from latestart.processes import processes
        from latestart.report.sweep import sweep_report

        named = {} if grid is None else read_grid(grid)
        asked = Grid.of({**named, **{name: value for name, value in flags.items() if value is not None}})
        run = processes()
        opened = open_sweep(asked, out, run, say if run.first else lambda _: None)
        with bar("evaluating", run.first) as advance:
            opened.measure(budget, retry, advance)
        if not run.first:
            return
        rows = opened.table()
        path = opened.write(rows)
        floors = {name: subject.judge.floor(asked.samples) for name, subject in opened.subjects.items()}
        sweep_report(asked, rows, floors).publish(out, path.name, "cells")
        if any(row["status"] == "failed" for row in rows) and not retry:
            say("run it again with --retry to measure anew what has failed")
