"""The command `latestart analyze`."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import (
    Background,
    MixedPrecision,
    Model,
    Scheduler,
    bar,
    check_first,
    friendly,
    names,
    say,
    seed_option,
)


def analyze(
    model: Model,
    images: Annotated[
        Path | None,
        typer.Option(help="Images of the point cloud: parquet, folder or npz; default: those of the shipped model."),
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Images that the model has not seen; default: those of the shipped model.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures and analysis.json.")] = Path("out/analyze"),
    criteria: Annotated[
        str,
        typer.Option(
            help="Comma-separated: density, sde, second-branch, exponents, speciation, collapse, clone, uturn, "
            "susceptibility, correlation, pixels, nats; default: all."
        ),
    ] = "",
    quick: Annotated[bool, typer.Option("--quick", help="Coarser, on at most 1,000 images.")] = False,
    limit: Annotated[int, typer.Option(min=20, help="Use only so many of the images, drawn by the seed.")] = 10_000,
    t_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest t of the branches; default: around the deviation of the data."),
    ] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="A classifier.safetensors, for clones and U-turns; default: the shipped one.")
    ] = None,
    scheduler: Scheduler = None,
    background: Background = None,
    mixed_precision: MixedPrecision = "no",
    seed: Annotated[int, seed_option("Seed of the noise, of the images drawn and of the subsamples.")] = 0,
) -> None:
    """Find the critical levels of a network, by every criterion, beside those of its images as a point cloud."""
    with friendly():
        check_first(images, held_out, classifier, out=out, models=[model])
        from rich.console import Console

        from latestart import zoo
        from latestart.data import drawn, load_images
        from latestart.device import own_device
        from latestart.diagnosis.analyze import analyze as run
        from latestart.diagnosis.case import Settings, prepare
        from latestart.diagnosis.pictures import draw, levels_table
        from latestart.features import Classifier
        from latestart.files import write_json

        network, trained, _ = zoo.open_model(
            model, device=own_device(), scheduler=scheduler, mixed_precision=mixed_precision
        )
        bundle = zoo.load(model) if model in zoo.names() and not Path(model).is_dir() else None
        if images is None and bundle is None:
            raise ValueError(f"{model} is not a shipped model: give its images with --images")
        limit = min(limit, 1000) if quick else limit
        given = (load_images(path, background=background) if path else None for path in (images, held_out))
        own = (bundle.images(which) if bundle else None for which in ("train", "heldout-a"))
        cloud, unseen = (found or shipped for found, shipped in zip(given, own))
        assert cloud is not None
        cloud = drawn(cloud, limit, seed)
        unseen = None if unseen is None else drawn(unseen, limit if held_out else None, seed)
        judge = Classifier.load(classifier) if classifier else bundle.classifier if bundle else None

        settings = Settings.quick(seed) if quick else Settings(seed=seed)
        case = prepare(
            network, trained, cloud.floats(), cloud.labels, unseen.floats() if unseen is not None else None,
            prior=bundle.prior if bundle else None, classify=judge.decide if judge else None, t_range=t_range,
            settings=settings,
        )  # fmt: skip
        with bar("analyzing") as advance:
            analysis = run(case, names(criteria) or None, advance)
        if unseen is None:
            analysis.notes.append("no held-out images were given: the nats of the network are measured on the images")
        analysis.about["model"] = model
        write_json(out / "analysis.json", analysis.record())
        figures = draw(analysis, out)
        Console(width=None if Console().is_terminal else 110).print(levels_table(analysis))
        for note in analysis.notes:
            say(f"note: {note}")
        say(f"wrote {', '.join(path.name for path in figures)} and analysis.json to {out}")
