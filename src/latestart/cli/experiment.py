"""The command line of the experiments: their settings become options."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.attributes import attributes, classifier, faces
from latestart.cli.options import with_settings
from latestart.cli.support import perform
from latestart.experiments.diversity.settings import DiversitySettings
from latestart.experiments.gaussianity.settings import GaussianitySettings
from latestart.experiments.initialisations.settings import InitialisationSettings
from latestart.experiments.late_start.settings import LateStartSettings
from latestart.experiments.late_training.settings import LateTrainingSettings
from latestart.experiments.sensitivity.settings import SensitivitySettings
from latestart.experiments.solvers.settings import SolversSettings
from latestart.experiments.table1.settings import Table1Settings
from latestart.experiments.theory.settings import (
    BifurcationSettings,
    LineSettings,
    PotentialSettings,
    SphereSettings,
)
from latestart.settings import Settings

__all__ = ["EXPERIMENTS", "conducting", "experiment"]

# Each experiment: its settings, whose docstring is its help; the class that measures it; and an example.
EXPERIMENTS: dict[str, tuple[type[Settings], str, str]] = {
    "one-dimension": (LineSettings, "theory.one_dimension.OneDimension", "--out out/experiments/one-dimension"),
    "sphere": (SphereSettings, "theory.sphere.Spheres", "--dims 2,8,32,128 --radius 4"),
    "potential": (PotentialSettings, "theory.potential.PotentialBetween", "mnist --samples 8"),
    "bifurcation": (BifurcationSettings, "theory.bifurcation.Bifurcations", "--leaves 12"),
    "table1": (Table1Settings, "table1.presets.ByPreset", "mnist --parts paper,exact"),
    "solvers": (SolversSettings, "solvers.measure.Solvers", "mnist --nfe 3 --starts none,gaussian"),
    "late-start": (LateStartSettings, "late_start.measure.LateStart", "--prior gaussian"),
    "diversity": (DiversitySettings, "diversity.measure.DiversityOfWays", "mnist --samples 1000"),
    "gaussianity": (GaussianitySettings, "gaussianity.measure.EarlyGaussianity", "--samples 1000"),
    "sensitivity": (SensitivitySettings, "sensitivity.measure.Sensitivity", "--step 25"),
    "initialisations": (InitialisationSettings, "initialisations.measure.Initialisations", "--kinds gaussian,images"),
    "late-training": (LateTrainingSettings, "late_training.measure.LateTraining", "--steps 2000 --seeds 3"),
}

experiment = typer.Typer(help="The paper's figures, each with its expected number.", no_args_is_help=True)


def conducting(settings: type[Settings], place: str, folder: str) -> Callable[..., None]:
    """Return the command of an experiment: reads its settings, looks for all that they name, and conducts it.

    Args:
        settings: with its help as their docstring.
        place: its module below `latestart.experiments`, and its class.
        folder: that its pictures and figures are written to by default.
    """

    @with_settings(settings)
    def command(
        asked: Settings,
        out: Annotated[
            Path, typer.Option(help="Folder for pictures and figures; a run that was cut off goes on.")
        ] = Path(folder),
    ) -> None:
        perform(place, asked, out)

    return command


for name, command, example in (
    *((name, conducting(*row[:2], f"out/experiments/{name}"), row[2]) for name, row in EXPERIMENTS.items()),
    ("faces", faces, "-n 20000 --out out/faces.npz"),
    ("classifier", classifier, "out/faces.npz --out out/faces-classifier.safetensors"),
    ("attributes", attributes, "out/faces.npz"),
):
    experiment.command(name, epilog=f"Example:  latestart experiment {name} {example}")(command)
