"""The command `grid`: the times and levels of a few steps, found for a model, in the form that other programs take."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import look_for, opened, say
from latestart.lab.setup import OneModel, Pictures
from latestart.sampling.names import FORMATS, MEASURED, SPACINGS
from latestart.settings import seed_setting, setting

__all__ = ["GridSettings", "grid"]

IMAGES = 64  # whose denoising errors are measured


@dataclass(frozen=True, kw_only=True)
class GridSettings(Pictures, OneModel):
    """Print the times and noise levels of a few steps, found for this very model.

    gaussian-optimal is the best for data that is the prior's Gaussian and asks no network; gits follows 256 paths of
    the network, about 15,000 evaluations; entropic and entropic-rescaled look at its denoising errors, 2,000.
    """

    steps: int = setting(5, "Steps of the sampler.", least=1)
    t_start: float | None = setting(None, "Start, in the scheduler's t; default: full noise.")
    spacing: str = setting(
        "gaussian-optimal",
        "gaussian-optimal, gits, entropic, entropic-rescaled, trailing, leading, karras, log-snr, karras+1, log-snr+1.",
        choices=(*MEASURED, *SPACINGS),
    )
    prior: str | None = setting(
        None,
        "A prior that `latestart fit` wrote; for a shipped model also gaussian or mixture; where one is needed, its "
        "Gaussian is the default.",
        of="prior",
    )
    sampler: str = setting(
        "dpm++", "The sampler that gaussian-optimal is for: ddim (and euler), or dpm++ (and unipc, deis).",
        choices=("ddim", "dpm++"),
    )  # fmt: skip
    images: Path | None = setting(
        None, "Images for the entropic spacings: parquet, folder or npz; default: the shipped ones.", of="file"
    )
    format: str = setting(
        "table",
        "table; diffusers: lists for set_timesteps(timesteps=...) or (sigmas=...); comfyui: the text of the node "
        "ManualSigmas; a1111: the list of the scheduler `custom` of the extension webUI_ExtraSchedulers, with as many "
        "steps as there are numbers before the 0; json.",
        choices=FORMATS,
    )
    seed: int = seed_setting("Seed of the noise of paths and images.")


@with_settings(GridSettings)
def grid(
    asked: GridSettings,
    out: Annotated[Path | None, typer.Option(help="File to write it to, beside printing it.")] = None,
) -> None:
    look_for(asked, out=out and out.parent)
    from latestart.data import load_images
    from latestart.sampling.grids import grid_times

    needs_prior = asked.spacing == MEASURED[0] or (asked.spacing == MEASURED[1] and asked.t_start is not None)
    network, trained, start, shipped = opened(asked, asked.prior, needs_prior)
    images = None
    if asked.spacing in MEASURED[2:]:
        images = shipped and shipped.images("heldout-a")
        if asked.images is not None:
            images = load_images(asked.images, background=asked.background)
        if images is None:
            raise ValueError(f"the spacing {asked.spacing} needs images of the model's kind: give images")
        images = images[:IMAGES].floats()
    found = grid_times(
        asked.spacing, trained, asked.steps, asked.t_start,
        prior=start, model=network, images=images, solver=asked.sampler, seed=asked.seed,  # type: ignore[arg-type]
    )  # fmt: skip
    text = found.text(asked.format)
    if out is not None:
        from latestart.files import replacing

        with replacing(out) as temporary:
            temporary.write_text(text + "\n")
    say(text)
