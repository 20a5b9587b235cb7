"""The command `sample`: images of a model, from full noise or from a late start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import inside, look_for, opened, say
from latestart.lab.setup import Started
from latestart.sampling.names import MEASURED
from latestart.settings import seed_setting, setting

__all__ = ["SampleSettings", "sample"]

SHEET = 64  # images on the overview


@dataclass(frozen=True, kw_only=True)
class SampleSettings(Started):
    """Sample images from a model, from full noise or from a late start; under `torchrun`, with all its processes."""

    recipe: Path | None = setting(
        None, "A recipe that `latestart tune` wrote: prior, start, sampler and steps are its own.", of="file"
    )
    t_start: float | None = setting(
        None, "Start, in the scheduler's t; default: full noise, or with a prior where nats say."
    )
    last: int | None = setting(
        None, "Time of the last evaluation, the others evenly spread down to it, of beta-based schedules.", least=0
    )
    spacing: str | None = setting(
        None, "gaussian-optimal or gits: times found for this model, prior and start; see the command grid.",
        choices=MEASURED[:2],
    )  # fmt: skip
    clip: bool = setting(False, "Clip the predicted image at every step, where the sampler can.")
    label: int | None = setting(None, "The class, for class-conditional models.", least=0)
    batch_size: int = setting(256, "Images evaluated at once.", least=1)
    seed: int = seed_setting("Image i depends on the seed and i alone.")


@with_settings(SampleSettings)
def sample(
    asked: SampleSettings,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("out/samples"),
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images.")] = 64,
) -> None:
    look_for(asked, out=out)
    import torch

    from latestart.data import save_png, tile, to_pixels
    from latestart.denoisers.wrappers import of_velocity
    from latestart.processes import processes
    from latestart.sampling.generate import generate

    if asked.recipe is not None and (given := _beside_recipe(asked)):
        raise ValueError(f"a recipe brings its own way to sample: received {given} beside it")
    network, trained, start, _ = opened(asked, asked.prior, asked.t_start is not None)
    run = processes()
    mine = run.share(n)
    if not mine:
        raise ValueError(f"{n} images are too few for {run.count} processes")
    shared: dict[str, Any] = {
        "seed": asked.seed, "labels": asked.label, "batch_size": asked.batch_size, "first": mine.start,
        "progress": run.first,
    }  # fmt: skip
    if asked.recipe is not None:
        result = generate(network, trained, n=len(mine), recipe=asked.recipe, **shared)
    else:
        network, trained = of_velocity(network, trained)
        sampler, t_start = _sampler(asked, network, trained, start)
        result = generate(
            network, sampler, start, len(mine), asked.steps, t_start, check_prior=asked.check_prior, **shared
        )
    pixels = to_pixels(result.images).cpu()
    for k, image in zip(mine, pixels):
        save_png(out / f"{k:05d}.png", image)
    shown = torch.cat(run.gather(pixels[: max(0, SHEET - mine.start)]))
    if not run.first:
        return
    sheet = out.with_name(f"{out.name}-sheet.png")
    save_png(sheet, tile(shown, 8, gap=1))
    say(f"{n} images, {result.nfe} network evaluations each, from sigma = {result.sigma:.3g}")
    say(f"wrote {out}/00000.png ... and {sheet}")


def _sampler(asked: SampleSettings, network: Any, trained: Any, start: Any) -> tuple[Any, float | None]:
    """Return the sampler that is asked for, and the start that it is still to be given."""
    from latestart.lab.subjects import open_prior
    from latestart.sampling.families import family_of
    from latestart.sampling.grids import grid_times
    from latestart.sampling.late_start import late_start
    from latestart.sampling.samplers import usual_sampler

    sampler = usual_sampler(asked.sampler, trained, asked.clip, inside(asked, start), asked.eta)
    if asked.last is None and asked.spacing is None:
        return sampler, asked.t_start
    if asked.t_start is None and start is not None:
        raise ValueError("with a prior, last and spacing need a start: give t-start too")
    if asked.spacing is None:
        begin = family_of(trained).top if asked.t_start is None else asked.t_start
        return late_start(sampler, begin, asked.steps, last=asked.last), None
    if asked.last is not None:
        raise ValueError("last and spacing are two ways to spread the times: give one of them")
    known = start if start is not None or asked.spacing != MEASURED[0] else open_prior(asked.model, "gaussian")[0]
    solver: Any = "ddim" if asked.sampler in (None, "ddim", "euler") else "dpm++"
    found = grid_times(
        asked.spacing,
        trained,
        asked.steps,
        asked.t_start,
        prior=known,
        model=network,
        labels=asked.label,
        solver=solver,
    )
    return late_start(sampler, None, asked.steps, times=found.times), None


def _beside_recipe(asked: SampleSettings) -> str:
    """Return the first setting that a recipe would overrule, or nothing."""
    names = ("prior", "steps", "sampler", "inside", "eta", "t_start", "last", "spacing", "clip")
    return next((name for name in names if getattr(asked, name) != getattr(SampleSettings(), name)), "")
