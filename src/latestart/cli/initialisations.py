"""The command that compares start distributions."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import (
    BatchSize,
    Features,
    HeldOut,
    MixedPrecision,
    Model,
    Scheduler,
    TrainingSet,
    bar,
    check_first,
    friendly,
    names,
    say,
    seed_option,
    whole_numbers,
)


def initialisations(
    model: Model = "mnist",
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures; a run cut off goes on.")] = Path(
        "out/experiments/initialisations"
    ),
    images: TrainingSet = None,
    held_out: HeldOut = None,
    features: Features = None,
    kinds: Annotated[
        str,
        typer.Option(
            help="Start distributions: isotropic is N(0, I), labels a Gaussian for each class, mixture:100 one of 100 "
            "components; flow needs `latestart[flows]`."
        ),
    ] = "isotropic,uniform,diagonal,lowrank,gaussian,labels,mixture,flow,images",
    starts: Annotated[
        str, typer.Option(help="The grid of starts, in the scheduler's t.")
    ] = "200,300,400,500,600,700,800",
    nfe: Annotated[str, typer.Option(help="Network evaluations for each sample.")] = "3,5,10",
    samples: Annotated[int, typer.Option(min=10, help="Samples from each start.")] = 500,
    sampler: Annotated[str, typer.Option(help="ddim, dpm++, unipc, deis, ...")] = "ddim",
    rank: Annotated[int, typer.Option(min=1, help="Directions of the low-rank Gaussian.")] = 32,
    components: Annotated[int, typer.Option(min=1, help="Of the mixture, where none lies beside the model.")] = 30,
    flow_steps: Annotated[int, typer.Option(min=1, help="Steps of the flow's fit.")] = 2000,
    flow_directions: Annotated[int, typer.Option(min=1, help="Leading directions that the flow is on.")] = 32,
    seed: Annotated[
        int,
        seed_option("Of the noise that starts are chosen by; the next one is reported."),
    ] = 0,
    batch_size: BatchSize = 256,
    mixed_precision: MixedPrecision = "no",
    scheduler: Scheduler = None,
) -> None:
    """Compare start distributions at their own best starts: quality, recall and copies at equal evaluations."""
    with friendly():
        check_first(images, held_out, out=out, models=[model], samplers=[sampler])
        from latestart.experiments import initialisations as experiment
        from latestart.experiments.starts import FlowConfig
        from latestart.files import write_json
        from latestart.report import initialisations as report

        setting = experiment.Setting(
            names(kinds), whole_numbers("starts", starts),
            whole_numbers("nfe", nfe), samples, seed, sampler, rank, components,
            FlowConfig(directions=flow_directions, steps=flow_steps),
        )  # fmt: skip
        with bar("measuring") as advance:
            result = experiment.run(
                model, out, setting, images, held_out, features, batch_size, mixed_precision, say, advance, scheduler
            )
        write_json(out / "results.json", experiment.results(result))
        report.starts_picture(out / "initialisations.png", result)
        report.starts_report(result).publish(out, "results.json")
