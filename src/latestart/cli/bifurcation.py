"""The command of the bifurcations: the one-dimensional diagram, and the tree of decisions of a set of images."""

from pathlib import Path
from typing import Annotated, cast

import typer

from latestart.cli.support import Background, bar, check_first, friendly, seed_option


def bifurcation(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the figures.")] = Path(
        "out/experiments/bifurcation"
    ),
    images: Annotated[
        Path | None,
        typer.Option(help="Labelled images: parquet, a folder of folders, or npz; default: those shipped with MNIST."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Use only so many of the images, drawn by the seed.")] = None,
    leaves: Annotated[int, typer.Option(min=1, help="Branches at most.")] = 12,
    criterion: Annotated[str, typer.Option(help="Whose fixed points: sde or density.")] = "sde",
    t_low: Annotated[float, typer.Option(help="Where the tree ends, in t of 1,000 (linear betas).")] = 480,
    t_high: Annotated[float, typer.Option(help="Where it begins: at so much noise there is one branch.")] = 640,
    step: Annotated[float, typer.Option(help="Between two levels, of log sigma.")] = 0.1,
    background: Background = None,
    seed: Annotated[int, seed_option("Seed of the images drawn.")] = 0,
) -> None:
    """Draw how one fixed point becomes many: the paper's diagram, and the tree of decisions of a set of images."""
    with friendly():
        check_first(images, out=out)
        from latestart import zoo
        from latestart.data import drawn, load_images
        from latestart.experiments import bifurcation as experiment
        from latestart.files import write_json
        from latestart.report import tree
        from latestart.theory.branches import Criterion

        whole = load_images(images, background=background) if images else zoo.load("mnist").images("train")
        data = drawn(whole, limit, seed)
        diagram = experiment.diagram()
        with bar("following the branches") as advance:
            found = experiment.decisions(
                data, leaves, cast(Criterion, criterion), (t_low, t_high), step=step, progress=advance
            )
        tree.diagram(out / "diagram.png", diagram)
        tree.decisions(out / "tree.png", found)
        write_json(out / "results.json", experiment.results(diagram, found))
        tree.bifurcation_report(diagram, found).publish(out, "results.json")
