"""The command of the bifurcations: the one-dimensional diagram, and the tree of decisions of a set of images."""

from pathlib import Path
from typing import Annotated, cast

import typer

from latestart.cli.support import bar, check_folder, friendly


def bifurcation(
    out: Annotated[Path, typer.Option(help="Folder for the pictures and the figures.")] = Path(
        "out/experiments/bifurcation"
    ),
    images: Annotated[
        Path | None,
        typer.Option(help="Labelled images: parquet, a folder of folders, or npz; default: those shipped with MNIST."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Use only the first images.")] = None,
    leaves: Annotated[int, typer.Option(min=1, help="Branches at most.")] = 12,
    criterion: Annotated[str, typer.Option(help="Whose fixed points: sde or density.")] = "sde",
    t_low: Annotated[float, typer.Option(help="Where the tree ends, in t of 1,000 (linear betas).")] = 480,
    t_high: Annotated[float, typer.Option(help="Where it begins: at so much noise there is one branch.")] = 640,
    step: Annotated[float, typer.Option(help="Between two levels, of log sigma.")] = 0.1,
) -> None:
    """Draw how one fixed point becomes many: the paper's diagram, and the tree of decisions of a set of images."""
    with friendly():
        from latestart import zoo
        from latestart.data import load_images
        from latestart.experiments import bifurcation as experiment
        from latestart.files import write_json
        from latestart.report import tree
        from latestart.theory.branches import Criterion

        check_folder(out)
        data = load_images(images, limit) if images else zoo.load("mnist").images("train")[:limit]
        diagram = experiment.diagram()
        with bar("following the branches") as advance:
            found = experiment.decisions(
                data, leaves, cast(Criterion, criterion), (t_low, t_high), step=step, progress=advance
            )
        tree.diagram(out / "diagram.png", diagram)
        tree.decisions(out / "tree.png", found)
        write_json(out / "results.json", experiment.results(diagram, found))
        tree.bifurcation_report(diagram, found).publish(out, "results.json")
