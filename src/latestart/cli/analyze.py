"""The command `analyze`: the critical levels of a network, by every criterion."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import bar, look_for, opened, say
from latestart.lab.setup import OneModel, Pictures
from latestart.settings import seed_setting, setting

__all__ = ["AnalyzeSettings", "analyze"]

QUICK = 1000  # images at most of a quick look


@dataclass(frozen=True, kw_only=True)
class AnalyzeSettings(Pictures, OneModel):
    """Find the critical levels of a network, by every criterion, beside those of its images as a point cloud."""

    images: Path | None = setting(
        None, "Images of the point cloud: parquet, folder or npz; default: those of the shipped model.", of="file"
    )
    held_out: Path | None = setting(
        None, "Images that the model has not seen; default: those of the shipped model.", of="file"
    )
    criteria: tuple[str, ...] = setting(
        (),
        "Between commas: density, sde, second-branch, exponents, speciation, collapse, clone, uturn, susceptibility, "
        "correlation, pixels, nats; default: all.",
    )
    quick: bool = setting(False, "Coarser, on at most 1,000 images.")
    limit: int = setting(10_000, "Use only so many of the images, drawn by the seed.", least=20)
    classifier: Path | None = setting(
        None, "A classifier.safetensors, for clones and U-turns; default: the shipped one.", of="file"
    )
    seed: int = seed_setting("Seed of the noise, of the images drawn and of the subsamples.")


@with_settings(AnalyzeSettings)
def analyze(
    asked: AnalyzeSettings,
    t_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest t of the branches; default: around the deviation of the data."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures and analysis.json.")] = Path("out/analyze"),
) -> None:
    look_for(asked, out=out)
    from latestart.data import drawn, load_images
    from latestart.diagnosis.analyze import analyze as run
    from latestart.diagnosis.case import Settings, prepare
    from latestart.diagnosis.figures import draw, levels_table
    from latestart.features import Classifier
    from latestart.files import write_json
    from latestart.lab.report import show

    network, trained, _, bundle = opened(asked)
    if asked.images is None and bundle is None:
        raise ValueError(f"{asked.model} is not a shipped model: give its images with --images")
    limit = min(asked.limit, QUICK) if asked.quick else asked.limit
    cloud, unseen = (
        load_images(path, background=asked.background) if path else bundle and bundle.images(which)
        for path, which in ((asked.images, "train"), (asked.held_out, "heldout-a"))
    )
    cloud = drawn(cloud, limit, asked.seed)
    unseen = unseen and drawn(unseen, limit if asked.held_out else None, asked.seed)
    judge = Classifier.load(asked.classifier) if asked.classifier else bundle and bundle.classifier

    settings = Settings.quick(asked.seed) if asked.quick else Settings(seed=asked.seed)
    case = prepare(
        network, trained, cloud.floats(), cloud.labels, None if unseen is None else unseen.floats(),
        prior=bundle and bundle.prior, classify=judge and judge.decide, t_range=t_range, settings=settings,
    )  # fmt: skip
    with bar("analyzing") as advance:
        analysis = run(case, asked.criteria or None, advance)
    if unseen is None:
        analysis.notes.append("no held-out images were given: the nats of the network are measured on the images")
    analysis.about["model"] = asked.model
    write_json(out / "analysis.json", analysis.record())
    figures = draw(analysis, out)
    show(levels_table(analysis))
    for note in analysis.notes:
        say(f"note: {note}")
    say(f"wrote {', '.join(path.name for path in figures)} and analysis.json to {out}")
