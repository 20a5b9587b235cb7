"""The command that asks whether a late start can be relied on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latestart.cli.support import (
    Background,
    MixedPrecision,
    Model,
    Scheduler,
    bar,
    check_first,
    friendly,
    say,
    seed_option,
)

if TYPE_CHECKING:
    from latestart.data import Images


def check(
    model: Model,
    images: Annotated[
        Path | None,
        typer.Option(help="Held-out images: parquet, folder or npz; default: those shipped with the model."),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(help="A prior that `latestart fit` wrote, on other images; default: the shipped one, or a fit."),
    ] = None,
    t_start: Annotated[
        float | None, typer.Option(help="The start that you have in mind, in the scheduler's t.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler: runs begin at a multiple of them.")] = 5,
    out: Annotated[Path, typer.Option(help="Folder for the figures and the picture.")] = Path("out/check"),
    evaluated: Annotated[int, typer.Option("-n", min=40, help="Images that the network is evaluated on.")] = 256,
    scheduler: Scheduler = None,
    background: Background = None,
    mixed_precision: MixedPrecision = "no",
    seed: Annotated[int, seed_option("Seed of all draws.")] = 0,
) -> None:
    """Ask whether a late start can be relied on: a verdict for each way in which it can fail, with its figure."""
    with friendly():
        check_first(images, prior, out=out, models=[model])
        from rich.console import Console

        from latestart import zoo
        from latestart.device import own_device
        from latestart.diagnosis.check import check as run
        from latestart.diagnosis.page import findings_picture, findings_table, levels_table
        from latestart.files import write_json
        from latestart.noise import Noise

        network, trained, start = zoo.open_model(
            model, prior, False, own_device(), scheduler=scheduler, mixed_precision=mixed_precision
        )
        shipped = zoo.load(model) if model in zoo.names() and not Path(model).is_dir() else None
        data = _images(images, shipped, background)
        start, judged, which = _prior(start, shipped, data, seed)
        say(f"judging {which} on {len(judged)} images")
        classify = None if shipped is None else _classifier(shipped)
        with bar("checking") as advance:
            report = run(
                network, trained, start, judged, t_start, None, classify,
                steps=steps, evaluated=evaluated, seed=seed, progress=advance,
            )  # fmt: skip
        noise = Noise.from_scheduler(trained)
        write_json(out / "check.json", {"model": model, **report.record()})
        findings_picture(out / "check.png", report, noise)
        console = Console(width=None if Console().is_terminal else 110)
        console.print(findings_table(report), levels_table(report, noise))
    say(report.sentence)
    say(f"wrote {out / 'check.png'} and {out / 'check.json'}")


def _images(images: Path | None, shipped: Any, background: str | None) -> "Images":
    from latestart.data import load_images

    if images is not None:
        return load_images(images, background=background)
    if shipped is None:
        raise ValueError("a model of your own is checked on images of your own: give held-out ones with --images")
    return shipped.images("heldout-a")


def _prior(prior: Any, shipped: Any, data: "Images", seed: int) -> tuple[Any, "Images", str]:
    """The prior to judge, the images to judge it on, and which prior that is, in words."""
    from latestart.diagnosis.check import halves
    from latestart.gaussians.gaussian import Gaussian

    if prior is not None:
        return prior, data, "the prior given"
    if shipped is not None:
        return shipped.prior, data, "the shipped prior"
    fitted, judged = halves(len(data), seed)
    prior = Gaussian.fit(data[fitted])
    return prior, data[judged], f"a {prior.basis.name} Gaussian, fitted to the other half ({len(fitted)} images),"


def _classifier(shipped: Any) -> Any:
    return shipped.classifier.decide
