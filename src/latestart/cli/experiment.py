"""The command line of the experiments: their settings become options."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.attributes import attributes, classifier, faces
from latestart.cli.options import first_sentences, with_settings
from latestart.cli.support import friendly, on_device, perform
from latestart.experiments.diversity.settings import DiversitySettings
from latestart.experiments.gaussianity.settings import GaussianitySettings
from latestart.experiments.initialisations.settings import InitialisationSettings
from latestart.experiments.late_start.settings import LateStartSettings
from latestart.experiments.late_training.settings import LateTrainingSettings
from latestart.experiments.sensitivity.settings import SensitivitySettings
from latestart.experiments.table1.settings import Table1Settings
from latestart.experiments.theory.settings import (
    BifurcationSettings,
    LineSettings,
    PotentialSettings,
    SphereSettings,
)
from latestart.settings import Settings

__all__ = ["EXPERIMENTS", "experiment"]

# Each experiment: its settings, whose docstring is its help; the class that measures it; and an example.
EXPERIMENTS: dict[str, tuple[type[Settings], str, str]] = {
    "one-dimension": (LineSettings, "theory.one_dimension.OneDimension", "--out out/experiments/one-dimension"),
    "sphere": (SphereSettings, "theory.sphere.Spheres", "--dims 2,8,32,128 --radius 4"),
    "potential": (PotentialSettings, "theory.potential.PotentialBetween", "mnist --samples 8"),
    "bifurcation": (BifurcationSettings, "theory.bifurcation.Bifurcations", "--leaves 12"),
    "table1": (Table1Settings, "table1.measure.Table1", "mnist --parts paper,exact"),
    "late-start": (LateStartSettings, "late_start.measure.LateStart", "--prior gaussian"),
    "diversity": (DiversitySettings, "diversity.measure.DiversityOfWays", "mnist --samples 1000"),
    "gaussianity": (GaussianitySettings, "gaussianity.measure.EarlyGaussianity", "--samples 1000"),
    "sensitivity": (SensitivitySettings, "sensitivity.measure.Sensitivity", "--step 25"),
    "initialisations": (InitialisationSettings, "initialisations.measure.Initialisations", "--kinds gaussian,images"),
    "late-training": (LateTrainingSettings, "late_training.measure.LateTraining", "--steps 2000 --seeds 3"),
}

experiment = typer.Typer(help="The paper's figures, each with its expected number.", no_args_is_help=True)


def conducting(name: str) -> Callable[..., None]:
    """Return the command of an experiment: reads its settings, looks for all that they name, and conducts it."""
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


def _add(name: str, command: Callable[..., None], example: str) -> None:
    experiment.command(name, epilog=f"Example:  latestart experiment {name} {example}")(command)


for name, row in EXPERIMENTS.items():
    _add(name, on_device(conducting(name)), row[2])
_add("faces", faces, "-n 20000 --out out/faces.npz")
_add("classifier", on_device(classifier), "out/faces.npz --out out/faces-classifier.safetensors")
_add("attributes", on_device(attributes), "out/faces.npz")
