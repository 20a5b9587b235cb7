"""The paper's figures as commands: one-dimension, sphere, potential, bifurcation; faces; the early distribution."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.classifier import classifier
from latestart.cli.diversity import attributes, diversity
from latestart.cli.options import first_sentences, with_settings
from latestart.cli.support import (
    bar,
    check_first,
    friendly,
    on_device,
    perform,
    say,
    seed_option,
)
from latestart.cli.table1 import table1
from latestart.experiments.gaussianity.settings import GaussianitySettings
from latestart.experiments.initialisations.settings import InitialisationSettings
from latestart.experiments.late_start.settings import LateStartSettings
from latestart.experiments.late_training.settings import LateTrainingSettings
from latestart.experiments.sensitivity.settings import SensitivitySettings
from latestart.experiments.theory.settings import (
    BifurcationSettings,
    LineSettings,
    PotentialSettings,
    SphereSettings,
)
from latestart.settings import Settings


def faces(
    out: Annotated[Path, typer.Option(help="File to write the faces to (npz).")] = Path("out/faces.npz"),
    n: Annotated[int, typer.Option("-n", min=1, help="How many.")] = 20_000,
    size: Annotated[int, typer.Option(min=1, help="Side in pixels.")] = 64,
    seed: Annotated[int, seed_option("Face i depends on the seed and i alone.")] = 0,
) -> None:
    """Draw cartoon faces with known skin tone, glasses, facial hair and hair, for `train`, `fit` and the others."""
    with friendly():
        if out.suffix != ".npz" or out.is_dir():
            raise ValueError(f"expected a file that ends in .npz to write to, received {out}")
        check_first(out=out.parent)
        import numpy as np

        from latestart.experiments.faces import faces as draw
        from latestart.files import replacing

        with bar("drawing") as advance:
            drawn = draw(n, size, seed, advance)
        with replacing(out) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **drawn.arrays())
    say(f"wrote {n} faces of {size} x {size} with {', '.join(drawn.attributes)} to {out}")


experiment = typer.Typer(help="The paper's figures, each with its expected number.", no_args_is_help=True)

# Each experiment: its settings, whose docstring is its help; the class that measures it; and an example.
EXPERIMENTS: dict[str, tuple[type[Settings], str, str]] = {
    "one-dimension": (LineSettings, "theory.one_dimension.OneDimension", "--out out/experiments/one-dimension"),
    "sphere": (SphereSettings, "theory.sphere.Spheres", "--dims 2,8,32,128 --radius 4"),
    "potential": (PotentialSettings, "theory.potential.PotentialBetween", "mnist --samples 8"),
    "bifurcation": (BifurcationSettings, "theory.bifurcation.Bifurcations", "--leaves 12"),
    "late-start": (LateStartSettings, "late_start.measure.LateStart", "--prior gaussian"),
    "sensitivity": (SensitivitySettings, "sensitivity.measure.Sensitivity", "--step 25"),
    "gaussianity": (GaussianitySettings, "gaussianity.measure.EarlyGaussianity", "--samples 1000"),
    "initialisations": (InitialisationSettings, "initialisations.measure.Initialisations", "--kinds gaussian,images"),
    "late-training": (LateTrainingSettings, "late_training.measure.LateTraining", "--steps 2000 --seeds 3"),
}


def conducting(name: str) -> Callable[..., None]:
    """Return the command of an experiment: reads its settings, looks for what they name, and conducts it."""
    settings, place, _ = EXPERIMENTS[name]

    def command(
        given: dict[str, Any],
        out: Annotated[Path, typer.Option(help="Folder for pictures and figures; a run that was cut off goes on.")],
    ) -> None:
        with friendly():
            perform(place, settings.read(given), out)

    command.__defaults__ = (Path("out/experiments") / name,)
    command.__doc__ = first_sentences(settings)
    return with_settings(settings, command)


for name, row in EXPERIMENTS.items():
    epilog = f"Example:  latestart experiment {name} {row[2]}"
    experiment.command(name, epilog=epilog)(on_device(conducting(name)))

for name, run, example, networks in (
    ("faces", faces, "-n 20000 --out out/faces.npz", False),
    ("classifier", classifier, "out/faces.npz --out out/faces-classifier.safetensors", True),
    ("attributes", attributes, "out/faces.npz", True),
    ("diversity", diversity, "mnist --samples 1000", True),
    ("table1", table1, "mnist --parts paper,exact", True),
):
    command = on_device(run) if networks else run
    experiment.command(name, epilog=f"Example:  latestart experiment {name} {example}")(command)
