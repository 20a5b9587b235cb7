"""The settings of the late-start curve."""

from dataclasses import dataclass
from pathlib import Path

from latestart.lab.setup import SweepSetup
from latestart.settings import setting

__all__ = ["CRITERIA", "LateStartSettings"]

CRITERIA = ("exponents", "speciation", "clone", "nats")  # half a minute; the fixed points take far longer


@dataclass(frozen=True, kw_only=True)
class LateStartSettings(SweepSetup):
    """Quality against the start of full-length DDPM from N(0, I): the plateau and the fall, beside critical levels.

    Each start is kept the moment it is done; under `torchrun` its processes share them.
    """

    samples: int = setting(500, "Samples from each start.", least=6)
    priors: tuple[str, ...] = setting(
        (), "Starts beside N(0, I): gaussian, mixture, or files of priors, between commas.", flag="prior"
    )
    starts: tuple[float, ...] = setting((), "In the scheduler's t, between commas; default: 15 from the top.")
    length: int | None = setting(None, "Steps of the full run; default: a quarter of the schedule's times.", least=1)
    clip: bool = setting(False, "Clip the predicted image at every step.")
    criteria: tuple[str, ...] = setting(
        CRITERIA,
        "Criteria of the critical levels, as in `analyze`, between commas; `none` leaves them out.",
        empty=True,
    )
    levels: Path | None = setting(
        None, "Take the critical levels from the analysis.json of `latestart analyze`.", of="file"
    )

    def check(self) -> None:
        """Leave the criteria out if they are `none`; refuse full noise as a prior."""
        if "none" in self.priors:
            raise ValueError("the full run is always measured: expected priors other than none")
        object.__setattr__(self, "criteria", tuple(name for name in self.criteria if name != "none"))
