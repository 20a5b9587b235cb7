"""The commands of the early phase: is it Gaussian, and how far off may the start be."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import SampleSeed, bar, check_folder, friendly


def gaussianity(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "out/experiments/gaussianity"
    ),
    samples: Annotated[int, typer.Option(min=10, help="Samples at each level, of each process.")] = 1000,
    rank: Annotated[int | None, typer.Option(min=1, help="Leading directions that are tested; default 8.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise and of the tests.")] = 0,
) -> None:
    """Test whether noised images, and a network's early samples, are Gaussian, at each level beside its nats."""
    with friendly():
        from latestart.experiments import gaussianity as experiment
        from latestart.files import write_json
        from latestart.report import early

        check_folder(out)
        with bar("testing") as advance:
            result = experiment.run(samples, seed, rank, progress=advance)
        write_json(out / "results.json", experiment.results(result))
        early.gaussianity(out / "gaussianity.png", result)
        early.gaussianity_report(result, seed).publish(out, "results.json")


def sensitivity(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path(
        "out/experiments/sensitivity"
    ),
    samples: Annotated[int, typer.Option(min=2, help="Samples from each start.")] = 500,
    step: Annotated[int, typer.Option(min=1, help="Between two starts, in t.")] = 25,
    seed: SampleSeed = 0,
) -> None:
    """Quality against the start of a late start: how wide is the window within 5% of the best, in t and in nats."""
    with friendly():
        from latestart.experiments import sensitivity as experiment
        from latestart.files import write_json
        from latestart.report import early

        check_folder(out)
        with bar("sampling") as advance:
            curves = experiment.run(samples, seed, step, progress=advance)
        figures = experiment.results(curves, samples, seed)
        write_json(out / "results.json", figures)
        early.sensitivity(out / "sensitivity.png", curves, samples)
        facts = {name: figures[name] for name in ("model", "samples", "seed", "features")}
        early.sensitivity_report(curves, facts).publish(out, "results.json")
