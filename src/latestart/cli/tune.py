"""The command `tune` finds the best few evaluations of a model in one step; `show` prints what it found."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import bar, features, friendly, look_for, opened, say
from latestart.lab.setup import OneModel, Pictures
from latestart.settings import seed_setting, setting

__all__ = ["TuneSettings", "show", "tune"]


@dataclass(frozen=True, kw_only=True)
class TuneSettings(Pictures, OneModel):
    """Find the best way to sample a model in a few network evaluations; under `torchrun`, with all its processes.

    A run that was cut off goes on where it was, from the folder OUT.parts, which is removed at the end.
    """

    images: Path | None = setting(
        None,
        "Images that it was trained on: a folder, a parquet or npz file; default: the shipped ones.",
        of="file",
    )
    steps: tuple[int, ...] = setting((5,), "Network evaluations of an image; several give a recipe for each.", least=1)
    budget: int = setting(60_000, "Network evaluations that tuning may cost, for each number of steps.", least=1)
    prefer: str | None = setting(
        None, "recall or precision, which may not fall by more than 0.03; default: the lowest distance."
    )
    features: str | None = setting(
        None,
        "Features, as for sweep, or values; default: the classifier beside the model, else network.",
    )
    gaussian: Path | None = setting(None, "A Gaussian that `latestart fit` wrote; default: one is fitted.", of="file")
    mixture: Path | None = setting(None, "A mixture that `latestart fit` wrote; default: one is fitted.", of="file")
    batch_size: int = setting(256, "Images evaluated at once.", least=1)
    seed: int = seed_setting("Seed of the split, the priors and the search.")


@with_settings(TuneSettings)
def tune(
    asked: TuneSettings,
    out: Annotated[Path, typer.Option(help="File of the recipe; of several, one for each: OUT-5.safetensors.")] = Path(
        "recipe.safetensors"
    ),
) -> None:
    if out.is_dir():
        raise ValueError(f"expected a file to write the recipe to, received the folder {out}")
    look_for(asked, out=out.parent)
    from latestart.data import load_images
    from latestart.processes import processes
    from latestart.tuning.pictures import of_bundle
    from latestart.tuning.tune import tune as find

    network, trained, _, shipped = opened(asked)
    priors = {name: one for name in ("gaussian", "mixture") if (one := getattr(asked, name)) is not None} or None
    if asked.images is not None:
        images: Any = load_images(asked.images, background=asked.background)
    elif shipped is None:
        raise ValueError(f"{asked.model} brings no images: give those that it was trained on, with --images")
    else:
        images, priors = of_bundle(shipped), priors or {"gaussian": shipped.prior, "mixture": shipped.mixture}
    run, parts = processes(), out.with_name(f"{out.name}.parts")
    with bar("tuning", run.first) as advance, _emptied_if_refused(parts):
        found = find(
            network, trained, images, asked.steps, priors=priors, features=features(asked, shipped),
            budget=asked.budget, prefer=asked.prefer, seed=asked.seed, folder=parts, batch_size=asked.batch_size,
            run=run, progress=advance,
        )  # fmt: skip
    if not run.first:
        return
    for nfe, recipe in found.items():
        path = out if len(found) == 1 else out.with_name(f"{out.stem}-{nfe}{out.suffix}")
        sheet = recipe.save(path)
        say(str(recipe))
        say(f"wrote {path}" + (f" and {sheet}" if sheet else ""))
    shutil.rmtree(parts, ignore_errors=True)


@contextmanager
def _emptied_if_refused(parts: Path) -> Iterator[None]:
    """Remove the folder of a run that was refused, unless an earlier run has left it."""
    before = parts.exists()
    try:
        yield
    except ValueError:
        if not before:
            shutil.rmtree(parts, ignore_errors=True)
        raise


def show(path: Annotated[Path, typer.Argument(help="A recipe that `latestart tune` wrote.")]) -> None:
    """Print the card of a recipe: the way, its gain and how sure that is, its cost, and the nearest candidates."""
    with friendly():
        look_for(None, path)
        from latestart.lab.report import show as print_tables
        from latestart.lab.report import table
        from latestart.sampling.recipe import load_recipe

        recipe = load_recipe(path)
        say(str(recipe))
        made = table(
            "Candidates, the nearest of the search first", "way", "round", "samples", "distance", "Frechet", ""
        )
        drawn = [trial for trial in recipe.evidence if trial.round >= 3 or trial.figures]
        for trial in sorted(drawn, key=lambda one: (-one.round, one.distance.value if one.distance else 1e300)):
            frechet = "-" if trial.figures is None else str(trial.figures["frechet"])
            distance = "-" if trial.distance is None else str(trial.distance)
            made.add_row(
                trial.way.describe(), str(trial.round or "-"), str(trial.samples or "-"), distance, frechet, trial.out
            )
        print_tables(made)
