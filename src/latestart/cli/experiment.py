"""The paper's figures as commands: one-dimension, sphere, potential, bifurcation; faces; the early distribution."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.bifurcation import bifurcation
from latestart.cli.classifier import classifier
from latestart.cli.diversity import attributes, diversity
from latestart.cli.early import gaussianity, sensitivity
from latestart.cli.initialisations import initialisations
from latestart.cli.late_training import late_training
from latestart.cli.options import first_sentences, with_settings
from latestart.cli.support import (
    Background,
    MixedPrecision,
    Model,
    Scheduler,
    bar,
    check_first,
    friendly,
    on_device,
    perform,
    say,
    seed_option,
    whole_numbers,
)
from latestart.experiments.late_start.settings import LateStartSettings
from latestart.experiments.table1.settings import Table1Settings
from latestart.settings import Settings


def one_dimension(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "out/experiments/one-dimension"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Networks to train, for the interval of their level.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of each.")] = 2000,
    samples: Annotated[int, typer.Option(min=1, help="Paths of the reverse SDE.")] = 500,
    seed: Annotated[int, seed_option("The first training seed, and that of the paths.")] = 0,
) -> None:
    """Two points at +-1: potential, fixed points and paths, exact and of small networks trained here."""
    with friendly():
        check_first(out=out)
        from latestart.experiments import one_dimension as experiment
        from latestart.files import write_json
        from latestart.report import curves

        with bar("training") as advance:
            result = experiment.run(seeds, samples, seed, experiment.Training(steps=steps), progress=advance)
        figures = experiment.results(result)
        write_json(out / "results.json", figures)
        curves.one_dimension(out / "one-dimension.png", result)
        curves.one_dimension_report(figures, seed).publish(out, "results.json")


def sphere(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path("out/experiments/sphere"),
    dims: Annotated[str, typer.Option(help="Numbers of dimensions, between commas.")] = "2,8,32,128",
    radius: Annotated[float, typer.Option(help="Radius of the sphere.")] = 4.0,
    samples: Annotated[int, typer.Option(min=1, help="Paths of the reverse SDE.")] = 64,
    seed: Annotated[int, seed_option("Seed of the paths.")] = 0,
) -> None:
    """Uniform spheres: critical levels against the closed form, branches, potential, norms of paths."""
    with friendly():
        check_first(out=out)
        from latestart.experiments import sphere as experiment
        from latestart.files import write_json
        from latestart.report import curves

        with bar("solving") as advance:
            result = experiment.run(whole_numbers("dims", dims), radius, samples, seed, progress=advance)
        figures = experiment.results(result)
        write_json(out / "results.json", figures)
        curves.sphere(out / "sphere.png", result)
        curves.sphere_report(figures, seed).publish(out, "results.json")


def potential(
    model: Model = "mnist",
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "out/experiments/potential"
    ),
    images: Annotated[
        Path | None, typer.Option(help="Images of the point cloud; default: those of the shipped model.")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Use only so many of the images, drawn by the seed.")] = 10_000,
    samples: Annotated[int, typer.Option(min=2, help="Samples of each model; all their pairs are looked at.")] = 8,
    t_low: Annotated[float | None, typer.Option(help="Lowest time, in the scheduler's t.")] = None,
    t_high: Annotated[float | None, typer.Option(help="Highest time, in the scheduler's t.")] = None,
    scheduler: Scheduler = None,
    background: Background = None,
    mixed_precision: MixedPrecision = "no",
    seed: Annotated[int, seed_option("Seed of the samples, and of the images drawn.")] = 0,
) -> None:
    """The potential of a network between two of its samples, beside that of the exact point cloud."""
    with friendly():
        check_first(images, out=out, models=[model])
        from latestart.data import drawn, load_images
        from latestart.experiments import potential as experiment
        from latestart.files import write_json
        from latestart.report import curves

        cloud = None if images is None else drawn(load_images(images, background=background), limit, seed)
        opened: dict[str, Any] = {"scheduler": scheduler, "mixed_precision": mixed_precision}
        with bar("integrating") as advance:
            result = experiment.run(model, cloud, samples, seed, (t_low, t_high), progress=advance, **opened)
        figures = experiment.results(result)
        write_json(out / "results.json", figures)
        curves.potential(out / "potential.png", result)
        curves.potential_report(figures).publish(out, "results.json")


def faces(
    out: Annotated[Path, typer.Option(help="File to write the faces to (npz).")] = Path("out/faces.npz"),
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 20_000,
    size: Annotated[int, typer.Option(min=1, help="Side in pixels.")] = 64,
    seed: Annotated[int, seed_option("Face i depends on the seed and i alone.")] = 0,
) -> None:
    """Draw cartoon faces with known skin tone, glasses, facial hair and hair, for `train`, `fit` and the others."""
    with friendly():
        if out.suffix != ".npz" or out.is_dir():
            raise ValueError(f"expected a file that ends in .npz to write to, received {out}")
        check_first(out=out.parent)
        import numpy as np

        from latestart.experiments.faces import faces as draw
        from latestart.files import replacing

        with bar("drawing") as advance:
            drawn = draw(n, size, seed, advance)
        with replacing(out) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **drawn.arrays())
    say(f"wrote {n} faces of {size} x {size} with {', '.join(drawn.attributes)} to {out}")


experiment = typer.Typer(help="The paper's figures, each with its expected number.", no_args_is_help=True)

# Each experiment: its settings, whose docstring is its help; the class that measures it; and an example.
EXPERIMENTS: dict[str, tuple[type[Settings], str, str]] = {
    "late-start": (LateStartSettings, "late_start.measure.LateStart", "--prior gaussian"),
    "table1": (Table1Settings, "table1.measure.Table1", "mnist --parts paper,exact"),
}


def conducting(name: str) -> Callable[..., None]:
    """Return the command of an experiment: reads its settings, looks for what they name, and conducts it."""
    settings, place, _ = EXPERIMENTS[name]

    def command(
        given: dict[str, Any],
        out: Annotated[Path, typer.Option(help="Folder for pictures and figures; a run that was cut off goes on.")],
    ) -> None:
        with friendly():
            perform(place, settings.read(given), out)

    command.__defaults__ = (Path("out/experiments") / name,)
    command.__doc__ = first_sentences(settings)
    return with_settings(settings, command)


for name, row in EXPERIMENTS.items():
    epilog = f"Example:  latestart experiment {name} {row[2]}"
    experiment.command(name, epilog=epilog)(on_device(conducting(name)))

for name, run, example, networks in (
    ("one-dimension", one_dimension, "--out out/experiments/one-dimension", False),
    ("sphere", sphere, "--dims 2,8,32,128 --radius 4", False),
    ("potential", potential, "mnist --samples 8", True),
    ("bifurcation", bifurcation, "--leaves 12", False),
    ("faces", faces, "-n 20000 --out out/faces.npz", False),
    ("classifier", classifier, "out/faces.npz --out out/faces-classifier.safetensors", True),
    ("attributes", attributes, "out/faces.npz", True),
    ("diversity", diversity, "mnist --samples 1000", True),
    ("gaussianity", gaussianity, "--samples 1000", True),
    ("sensitivity", sensitivity, "--step 25", True),
    ("initialisations", initialisations, "mnist --kinds gaussian,mixture,images", True),
    ("late-training", late_training, "--steps 2000 --seeds 3", True),
):
    command = on_device(run) if networks else run
    experiment.command(name, epilog=f"Example:  latestart experiment {name} {example}")(command)
