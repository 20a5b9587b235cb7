"""The command `check`: whether a late start can be relied on."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latestart.cli.options import first_sentences, with_settings
from latestart.cli.support import bar, friendly, look_for, say
from latestart.lab.setup import OneModel, Pictures
from latestart.settings import seed_setting, setting

if TYPE_CHECKING:
    from latestart.data import Images

__all__ = ["CheckSettings", "check"]


@dataclass(frozen=True, kw_only=True)
class CheckSettings(Pictures, OneModel):
    """Ask whether a late start can be relied on: a verdict for each way in which it can fail, with its figure."""

    images: Path | None = setting(
        None, "Held-out images: parquet, folder or npz; default: those shipped with the model.", of="file"
    )
    prior: Path | None = setting(
        None,
        "A prior that `latestart fit` wrote, on other images; default: the shipped one, or a fit.",
        of="file",
    )
    t_start: float | None = setting(None, "The start that you have in mind, in the scheduler's t.")
    steps: int = setting(5, "Steps of the sampler: runs begin at a multiple of them.", least=1)
    seed: int = seed_setting("Seed of all draws.")


def check(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for the figures and the picture.")] = Path("out/check"),
    evaluated: Annotated[int, typer.Option("-n", min=40, help="Images that the network is evaluated on.")] = 256,
) -> None:
    with friendly():
        asked = CheckSettings.read(given)
        look_for(asked, out=out)
        from rich.console import Console

        from latestart import zoo
        from latestart.device import own_device
        from latestart.diagnosis.check import check as run
        from latestart.diagnosis.page import findings_picture, findings_table, levels_table
        from latestart.files import write_json
        from latestart.noise import Noise

        model = asked.model
        opened: dict[str, Any] = {"scheduler": asked.scheduler, "mixed_precision": asked.mixed_precision}
        network, trained, start = zoo.open_model(model, asked.prior, False, own_device(), **opened)
        shipped = zoo.load(model) if model in zoo.names() and not Path(model).is_dir() else None
        data = _images(asked.images, shipped, asked.background)
        start, judged, which = _prior(start, shipped, data, asked.seed)
        say(f"judging {which} on {len(judged)} images")
        classify = None if shipped is None else shipped.classifier.decide
        with bar("checking") as advance:
            report = run(
                network, trained, start, judged, asked.t_start, None, classify,
                steps=asked.steps, evaluated=evaluated, seed=asked.seed, progress=advance,
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


check.__doc__ = first_sentences(CheckSettings)
check = with_settings(CheckSettings, check)
