"""The command `check`: whether a late start can be relied on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import bar, look_for, opened, say
from latestart.lab.setup import OneModel, Pictures
from latestart.settings import seed_setting, setting

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


@with_settings(CheckSettings)
def check(
    asked: CheckSettings,
    out: Annotated[Path, typer.Option(help="Folder for the figures and the picture.")] = Path("out/check"),
    evaluated: Annotated[int, typer.Option("-n", min=40, help="Images that the network is evaluated on.")] = 256,
) -> None:
    look_for(asked, out=out)
    from latestart.data import load_images
    from latestart.diagnosis.check import check as run
    from latestart.diagnosis.check import halves
    from latestart.diagnosis.page import findings_picture, findings_table, levels_table
    from latestart.files import write_json
    from latestart.gaussians.gaussian import Gaussian
    from latestart.lab.report import show
    from latestart.noise import Noise

    network, trained, prior, shipped = opened(asked, asked.prior)
    if asked.images is None and shipped is None:
        raise ValueError("a model of your own is checked on images of your own: give held-out ones with --images")
    data = load_images(asked.images, background=asked.background) if asked.images else shipped.images("heldout-a")
    which = "the prior given"
    if prior is None and shipped is not None:
        prior, which = shipped.prior, "the shipped prior"
    elif prior is None:
        fitted, rest = halves(len(data), asked.seed)
        prior, data = Gaussian.fit(data[fitted]), data[rest]
        which = f"a {prior.basis.name} Gaussian, fitted to the other half ({len(fitted)} images),"
    say(f"judging {which} on {len(data)} images")
    with bar("checking") as advance:
        report = run(
            network, trained, prior, data, asked.t_start, None, shipped and shipped.classifier.decide,
            steps=asked.steps, evaluated=evaluated, seed=asked.seed, progress=advance,
        )  # fmt: skip
    write_json(out / "check.json", {"model": asked.model, **report.record()})
    noise = Noise.from_scheduler(trained)
    findings_picture(out / "check.png", report, noise)
    show(findings_table(report), levels_table(report, noise))
    say(report.sentence)
    say(f"wrote {out / 'check.png'} and {out / 'check.json'}")
