"""Experiments: a question with settings, measured in a folder, whose result becomes a page.

    class Curve(Experiment[CurveSettings, CurveResult]):
        def measure(self, settings, lab):
            with lab.bar("evaluating") as advance: ...
            return CurveResult(...)

    def page(result, folder):  # in the module `page` beside it
        draw(folder / "curve.png", result)
        return Report(title, facts, tables, sentences, ["curve.png"])

    conduct(Curve(), CurveSettings(samples=100), Lab(Path("out")))

`measure` keeps in the folder all that is dear, so that a run that was cut off goes on. `conduct` writes `results.json`
and `report.md`, and prints the tables.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from latestart.files import write_json
from latestart.lab.report import Report
from latestart.processes import Processes
from latestart.progress import Progress, bar
from latestart.settings import Settings

__all__ = ["Experiment", "Lab", "Progress", "Recorded", "Tell", "conduct"]

Tell = Callable[[str], None]


class Recorded(Protocol):
    """A result that JSON can hold."""

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""


S = TypeVar("S", bound=Settings)
R = TypeVar("R", bound=Recorded)


@dataclass
class Lab:
    """The place of a measurement.

    Attributes:
        out: folder of all that is written.
        run: processes that share the work; the present one alone by default.
        tell: receives sentences worth knowing, in the first process only.
        bar: opens a progress bar by its title; yields `advance(done, total, note)`.
    """

    out: Path
    run: Processes = field(default_factory=Processes)
    tell: Tell = lambda _: None
    bar: Callable[[str], AbstractContextManager[Progress]] = lambda title: bar(title, False)


class Experiment(ABC, Generic[S, R]):
    """A question that is measured in a folder and answered by a page.

    Attributes:
        shown_by: module and function that make the page, in the folder of the experiment's own module; loaded when
            there is something to show.
    """

    shown_by: ClassVar[str] = "page.page"

    @abstractmethod
    def measure(self, settings: S, lab: Lab) -> R | None:
        """Measure all that is missing in the folder.

        Returns:
            The result; None in every process but the first.
        """

    def page(self, result: R, folder: Path) -> Report:
        """Draw the result's pictures into a folder, and return its tables and sentences, by `shown_by`."""
        module, _, name = self.shown_by.partition(".")
        beside = type(self).__module__.rpartition(".")[0]
        made: Report = getattr(import_module(f"{beside}.{module}"), name)(result, folder)
        return made


def conduct(experiment: Experiment[S, R], settings: S, lab: Lab) -> R | None:
    """Measure, write `results.json` and the page, and print it; returns what `measure` does."""
    result = experiment.measure(settings, lab)
    if result is not None:
        write_json(lab.out / "results.json", result.record())
        experiment.page(result, lab.out).publish(lab.out, "results.json")
    return result
