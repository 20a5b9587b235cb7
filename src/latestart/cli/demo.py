"""The command `demo`: the gain of a late start on the shipped model."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import MixedPrecision, bar, check_first, friendly, say, seed_option

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path("out/demo"),
    samples: Annotated[int, typer.Option(min=130, help="Images for each figure.")] = 500,
    seed: Annotated[
        int,
        seed_option("Seed of the noise that the best is chosen with; the next is that of its figures."),
    ] = 0,
    mixed_precision: MixedPrecision = "no",
) -> None:
    """Show the gain of a late start on the shipped MNIST model: a table, a picture, the figures."""
    with friendly():
        check_first(out=out)
        from rich.console import Console

        from latestart.experiments import demo as experiment
        from latestart.files import write_json
        from latestart.report.plots import demo_samples
        from latestart.report.tables import demo_table

        with bar("sampling") as advance:
            table = experiment.run(samples, seed, progress=advance, mixed_precision=mixed_precision)
        comparisons = experiment.compare(table)
        results = experiment.results(table, samples)
        write_json(out / "results.json", results)
        demo_samples(out / "samples.png", comparisons)
        Console(width=None if Console().is_terminal else 110).print(demo_table(table.tried, comparisons))
        say(
            f"{samples} samples a figure, seed {seed} to choose and {seed + 1} for the best of each kind, "
            f"features {results['features']}"
        )
        full = table.reference.figures
        assert full.copied is not None  # a shipped model comes with the images that copies are looked for in
        say(
            f"DDIM from full noise in 100 steps: distance {full.frechet.value:.1f}, recall {full.recall.value:.3f}, "
            f"copied {full.copied.value:.3f}"
        )
        say(f"{results['floor']['samples']} test images score {results['floor']['frechet']:.1f}: the floor")
        say(f"wrote {out / 'samples.png'} and {out / 'results.json'}")
