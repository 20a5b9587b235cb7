"""The commands of diversity: the classifier of attributes, and the experiment."""

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
    seed_option,
)


def attributes(
    images: Annotated[
        Path, typer.Argument(help="Pictures with known attributes, as `experiment faces` writes them, or labels.")
    ],
    out: Annotated[
        Path, typer.Option(help="File to write to; beside a model it is called attributes.safetensors.")
    ] = Path("out/attributes.safetensors"),
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first pictures.")] = None,
    label: Annotated[str, typer.Option(help="What labels are called, of images that have nothing else.")] = "class",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 4,
    seed: Annotated[int, seed_option("Seed of the weights, the order and the noise.")] = 0,
    mixed_precision: MixedPrecision = "no",
) -> None:
    """Train the classifier of attributes on pictures whose attributes are known, and score it on held-out ones."""
    with friendly():
        check_first(images)
        if out.suffix != ".safetensors" or out.is_dir():
            raise ValueError(f"expected a file that ends in .safetensors to write to, received {out}")
        check_first(out=out.parent)
        from latestart.experiments.attributes import load_known, train_attributes

        known = load_known(images, limit, label)
        with bar("training") as advance:
            reader = train_attributes(
                known,
                epochs,
                seed=seed,
                progress=lambda step, steps, loss: advance(step, steps, f"loss {loss:.3f}"),
                mixed_precision=mixed_precision,
            )
        reader.save(out)
        for name, score in reader.scores.items():
            right = score.accuracy
            say(
                f"{name}: {right.value:.2%} right [{right.low:.2%}, {right.high:.2%}] of {int(score.counts.sum())} "
                "held-out pictures"
            )
    say(f"wrote {out}")


def diversity(
    model: Model = "mnist",
    out: Annotated[Path, typer.Option(help="Folder for pictures and figures; goes on where it was cut.")] = Path(
        "out/experiments/diversity"
    ),
    sampler: Annotated[str, typer.Option(help="The fast samplers, between commas.")] = "ddim,pndm",
    nfe: Annotated[int, typer.Option(min=1, help="Their network evaluations for each sample.")] = 5,
    prior: Annotated[
        str, typer.Option(help="Of the late starts: gaussian, mixture, isotropic, or files, between commas.")
    ] = "gaussian",
    t_start: Annotated[
        str, typer.Option(help="Starts, in the scheduler's t, between commas; default: as `latestart choose` finds.")
    ] = "",
    reference: Annotated[int, typer.Option(min=0, help="Steps of DDPM from full noise; 0: none.")] = 200,
    samples: Annotated[int, typer.Option(min=10, help="Samples of each way.")] = 1000,
    seed: SampleSeed = 0,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="A file of `experiment attributes` or of a classifier, a folder of transformers, or deepface:race; "
            "default: the one beside the model."
        ),
    ] = None,
    features: Features = None,
    images: TrainingSet = None,
    held_out: HeldOut = None,
    batch_size: BatchSize = 256,
    mixed_precision: MixedPrecision = "no",
    scheduler: Scheduler = None,
) -> None:
    """Attributes of few-step samples against the data's: full noise, late start, and DDPM in many steps.

    Each way is kept the moment it is sampled: a run that was cut off goes on. Under `torchrun`, with all its processes.
    """
    with friendly():
        check_first(images, held_out, out=out, models=[model], samplers=names(sampler))
        from latestart.experiments import diversity as experiment
        from latestart.files import write_json
        from latestart.lab.grid import Grid
        from latestart.processes import processes
        from latestart.report import diversity as report

        axes = Grid.read({"sampler": sampler, "prior": prior, **({"t-start": t_start} if t_start else {})})
        settings = experiment.Settings(
            model=model, samplers=axes.sampler, nfe=nfe, priors=axes.prior, starts=axes.t_start if t_start else (),
            reference=reference, samples=samples, seed=seed, classifier=classifier, features=features, images=images,
            held_out=held_out, batch_size=batch_size,
            mixed_precision=mixed_precision, scheduler=scheduler,
        )  # fmt: skip
        run = processes()
        measured = experiment.Experiment(settings, out, say if run.first else lambda _: None, run)
        if run.first:
            say(
                f"{len(measured.planned)} ways, {measured.cost:,} network evaluations; "
                f"the best are drawn again with seed {seed + 1}"
            )
        with bar("evaluating", run.first) as advance:
            measured.measure(advance)
        if not run.first:
            return
        result = measured.result()
        write_json(out / "results.json", result.record())
        report.diversity(out / "diversity.png", result)
        report.samples(out / "samples.png", result)
        report.diversity_report(result).publish(out, "results.json", "ways")
