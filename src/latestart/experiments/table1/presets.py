"""The table by its preset: the paper's three parts, or every way to start of three samplers in one table."""

from pathlib import Path

from latestart.experiments.table1.demo import Demo, Shown
from latestart.experiments.table1.measure import Gains, Table1
from latestart.experiments.table1.settings import DEMO, Table1Settings
from latestart.lab.experiment import Experiment, Lab
from latestart.lab.report import Report

__all__ = ["ByPreset"]


class ByPreset(Experiment[Table1Settings, Gains | Shown]):
    """The experiment that the setting `preset` names."""

    def measure(self, settings: Table1Settings, lab: Lab) -> Gains | Shown | None:
        """Measure the table of the preset."""
        return Demo().measure(settings, lab) if settings.preset == DEMO else Table1().measure(settings, lab)

    def page(self, result: Gains | Shown, folder: Path) -> Report:
        """Draw the pictures of the preset, and return its tables."""
        return Demo().page(result, folder) if isinstance(result, Shown) else Table1().page(result, folder)
