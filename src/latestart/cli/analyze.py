"""The command `analyze`: the critical levels of a network, by every criterion."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.options import first_sentences, with_settings
from latestart.cli.support import bar, friendly, look_for, say
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


def analyze(
    given: dict[str, Any],
    t_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="Lowest and highest t of the branches; default: around the deviation of the data."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures and analysis.json.")] = Path("out/analyze"),
) -> None:
    with friendly():
        asked = AnalyzeSettings.read(given)
        look_for(asked, out=out)
        from rich.console import Console

        from latestart import zoo
        from latestart.data import drawn, load_images
        from latestart.device import own_device
        from latestart.diagnosis.analyze import analyze as run
        from latestart.diagnosis.case import Settings, prepare
        from latestart.diagnosis.pictures import draw, levels_table
        from latestart.features import Classifier
        from latestart.files import write_json

        model, seed = asked.model, asked.seed
        opened: dict[str, Any] = {"scheduler": asked.scheduler, "mixed_precision": asked.mixed_precision}
        network, trained, _ = zoo.open_model(model, device=own_device(), **opened)
        bundle = zoo.load(model) if model in zoo.names() and not Path(model).is_dir() else None
        if asked.images is None and bundle is None:
            raise ValueError(f"{model} is not a shipped model: give its images with --images")
        limit = min(asked.limit, QUICK) if asked.quick else asked.limit
        paths = (asked.images, asked.held_out)
        read = (load_images(path, background=asked.background) if path else None for path in paths)
        own = (bundle.images(which) if bundle else None for which in ("train", "heldout-a"))
        cloud, unseen = (found or shipped for found, shipped in zip(read, own))
        assert cloud is not None
        cloud = drawn(cloud, limit, seed)
        unseen = None if unseen is None else drawn(unseen, limit if asked.held_out else None, seed)
        judge = Classifier.load(asked.classifier) if asked.classifier else bundle.classifier if bundle else None

        settings = Settings.quick(seed) if asked.quick else Settings(seed=seed)
        case = prepare(
            network, trained, cloud.floats(), cloud.labels, unseen.floats() if unseen is not None else None,
            prior=bundle.prior if bundle else None, classify=judge.decide if judge else None, t_range=t_range,
            settings=settings,
        )  # fmt: skip
        with bar("analyzing") as advance:
            analysis = run(case, asked.criteria or None, advance)
        if unseen is None:
            analysis.notes.append("no held-out images were given: the nats of the network are measured on the images")
        analysis.about["model"] = model
        write_json(out / "analysis.json", analysis.record())
        figures = draw(analysis, out)
        Console(width=None if Console().is_terminal else 110).print(levels_table(analysis))
        for note in analysis.notes:
            say(f"note: {note}")
        say(f"wrote {', '.join(path.name for path in figures)} and analysis.json to {out}")


analyze.__doc__ = first_sentences(AnalyzeSettings)
analyze = with_settings(AnalyzeSettings, analyze)
