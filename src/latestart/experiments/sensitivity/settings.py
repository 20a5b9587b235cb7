"""The settings of the sensitivity to the start."""

from dataclasses import dataclass

from latestart.lab.setup import SweepSetup
from latestart.settings import setting

__all__ = ["FEWEST", "SensitivitySettings"]

FEWEST = 3  # starts of a curve


@dataclass(frozen=True, kw_only=True)
class SensitivitySettings(SweepSetup):
    """Quality against the start of a late start: the width of the window within 5% of the best, in t and in nats.

    Each start is kept the moment it is done; under `torchrun` its processes share them.
    """

    samples: int = setting(500, "Samples from each start.", least=6)
    priors: tuple[str, ...] = setting(
        (),
        "gaussian, mixture, or files of priors, between commas; default: those beside the model.",
        flag="prior",
    )
    evaluations: tuple[int, ...] = setting((3, 5, 10), "Network evaluations for each sample.", least=1, flag="nfe")
    starts: tuple[float, ...] = setting(
        (), "In the scheduler's t, between commas; default: a range for each kind of prior."
    )
    step: int = setting(25, "Between two of the default starts, in t of 1,000.", least=1)

    def check(self) -> None:
        """Refuse fewer than three starts."""
        if self.starts and len(self.starts) < FEWEST:
            received = ", ".join(f"{t:g}" for t in self.starts)
            raise ValueError(f"a window needs at least {FEWEST} starts, received {received}")
