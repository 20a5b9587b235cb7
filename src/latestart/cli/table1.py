"""The command of the paper's table: vanilla against late start, as the paper did it and at equal evaluations."""

from collections.abc import Iterable
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
    whole_numbers,
)


def table1(
    model: Model = "mnist",
    out: Annotated[Path, typer.Option(help="Folder of the table; one that was cut off goes on from there.")] = Path(
        "out/experiments/table1"
    ),
    images: TrainingSet = None,
    held_out: HeldOut = None,
    features: Features = None,
    statistics: Annotated[
        str | None,
        typer.Option(help="Where the feature statistics of the images are kept; default: OUT/statistics.safetensors."),
    ] = None,
    gaussian: Annotated[str | None, typer.Option(help="File of the Gaussian; default: beside the model.")] = None,
    mixture: Annotated[str | None, typer.Option(help="File of the mixture; default: beside the model.")] = None,
    parts: Annotated[
        str, typer.Option(help="paper (as the paper did it), exact (at equal evaluations), solvers.")
    ] = "paper,exact,solvers",
    samplers: Annotated[str, typer.Option(help="Of the parts `paper` and `exact`.")] = "ddpm,ddim,pndm",
    solvers: Annotated[str, typer.Option(help="Samplers of the third part.")] = "dpm++,unipc,deis,heun,lms,ipndm",
    starts: Annotated[str, typer.Option(help="Kinds of late start.")] = "isotropic,gaussian,mixture",
    t_start: Annotated[
        str | None,
        typer.Option(
            help="Where late starts begin, in the scheduler's t: 200,500 for all kinds in --starts, or "
            "gaussian=400,500;mixture=200; default: some for each kind. The part `paper` has the paper's eleven, or "
            "those of paper=200,500."
        ),
    ] = None,
    clip: Annotated[
        str, typer.Option(help="Whether the predicted image is clipped: false, true, or both; not in the part `paper`.")
    ] = "false,true",
    nfe: Annotated[str, typer.Option(help="Steps in the part `paper`, network evaluations in the others.")] = "3,5,10",
    paper: Annotated[
        str | None,
        typer.Option(
            help="Whose figures in the paper stand beside: mnist, cifar10, celeba32, celeba64, imagenet64; default: "
            "those of the model's name, if any."
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=6, help="Samples of each cell.")] = 1000,
    seed: SampleSeed = 0,
    batch_size: BatchSize = 256,
    mixed_precision: MixedPrecision = "no",
    scheduler: Scheduler = None,
    budget: Annotated[
        int | None,
        typer.Option(min=0, help="Network evaluations that the table may cost, those spent before counted."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure anew what has failed.")] = False,
) -> None:
    """The paper's table 1 beside the paper's figures: full noise against late start, at 3, 5 and 10."""
    with friendly():
        check_first(
            images, held_out, gaussian, mixture, out=out, models=[model], samplers=[*names(samplers), *names(solvers)]
        )
        from latestart.experiments import table1 as experiment
        from latestart.experiments.published import dataset_of, published
        from latestart.experiments.table1_cells import Options
        from latestart.lab.grid import Grid
        from latestart.processes import processes
        from latestart.report import table1 as report

        dataset = dataset_of(model) if paper is None else paper
        published(dataset)  # refused before any work
        given = {"images": images, "held_out": held_out, "features": features, "statistics": statistics}
        given |= {"mixed_precision": mixed_precision, "scheduler": scheduler, "clip": clip}
        grid = Grid.read({"model": model, "samples": samples, "seed": seed, "batch_size": batch_size, **given})
        options = Options(
            grid,
            names(parts),
            whole_numbers("nfe", nfe),
            names(samplers),
            names(solvers),
            names(starts),
            _times(t_start, names(starts)),
            {kind: file for kind, file in (("gaussian", gaussian), ("mixture", mixture)) if file is not None},
            grid.clip,
        )
        run = processes()
        table = experiment.open_table(options, out, run, say if run.first else lambda _: None)
        if run.first:
            say(
                f"{len(table.sweep.planned)} cells to choose from, {table.cost:,} network evaluations; "
                f"the best are drawn again with seed {seed + 1}"
            )
        with bar("evaluating", run.first) as advance:
            table.measure(budget, retry, advance)
        if not run.first:
            return
        figures, rows, cells = table.write(dataset)
        if rows:
            report.picture(out / "table1.png", rows, report.heading(figures))
        report.table_report(figures, rows, cells).publish(out, "results.json", "results.parquet")


def _times(text: str | None, kinds: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Start times by the kind of start: `200,500` for all kinds, or `gaussian=400;mixture=200;paper=500`."""
    if text is None:
        return {}
    if "=" not in text:
        return dict.fromkeys(kinds, whole_numbers("t-start", text))
    pairs = [part.partition("=") for part in text.split(";")]
    given = {kind.strip(): whole_numbers("t-start", times) for kind, _, times in pairs}
    if len(given) < len(pairs):
        raise ValueError(f"t-start: expected each kind of start once, received {text!r}")
    return given
