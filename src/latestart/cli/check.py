"""The command that asks whether a late start can be relied on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latestart.cli.support import Model, bar, check_folder, friendly, say, seed_option

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
    out: Annotated[Path, typer.Option(help="Folder for the figures and the picture.")] = Path("out/check"),
    evaluated: Annotated[int, typer.Option("-n", min=40, help="Images that the network is evaluated on.")] = 256,
    seed: Annotated[int, seed_option("Seed of all draws.")] = 0,
) -> None:
    """Ask whether a late start can be relied on: a verdict for each way in which it can fail, with its figure."""
    with friendly():
        from rich.console import Console

        from latestart import zoo
        from latestart.files import write_json
        from latestart.noise import Noise
        from latestart.report.findings import findings_picture, findings_table, levels_table
        from latestart.sampling.check import check as run

        check_folder(out)
        network, scheduler, start = zoo.open_model(model, prior)
        shipped = zoo.load(model) if model in zoo.names() and not Path(model).is_dir() else None
        data = _images(images, shipped)
        start, judged, which = _prior(start, shipped, data, seed)
        say(f"judging {which} on {len(judged)} images")
        classify = None if shipped is None else _classifier(shipped)
        with bar("checking") as advance:
            report = run(
                network, scheduler, start, judged.floats(), t_start, judged.labels, classify,
                evaluated=evaluated, seed=seed, progress=advance,
            )  # fmt: skip
        noise = Noise.from_scheduler(scheduler)
        write_json(out / "check.json", {"model": model, **report.record()})
        findings_picture(out / "check.png", report, noise)
        console = Console(width=None if Console().is_terminal else 110)
        console.print(findings_table(report), levels_table(report, noise))
    say(report.sentence)
    say(f"wrote {out / 'check.png'} and {out / 'check.json'}")


def _images(images: Path | None, shipped: Any) -> "Images":
    from latestart.data import load_images

    if images is not None:
        return load_images(images)
    if shipped is None:
        raise ValueError("a model of your own is checked on images of your own: give held-out ones with --images")
    return shipped.images("heldout-a")


def _prior(prior: Any, shipped: Any, data: "Images", seed: int) -> tuple[Any, "Images", str]:
    """The prior to judge, the images to judge it on, and which prior that is, in words."""
    from latestart.gaussians.gaussian import Gaussian
    from latestart.sampling.check import halves

    if prior is not None:
        return prior, data, "the prior given"
    if shipped is not None:
        return shipped.prior, data, "the shipped prior"
    fitted, judged = halves(len(data), seed)
    prior = Gaussian.fit(data[fitted])
    return prior, data[judged], f"a {prior.basis.name} Gaussian, fitted to the other half ({len(fitted)} images),"


def _classifier(shipped: Any) -> Any:
    return lambda batch: shipped.classifier(batch).argmax(1)
