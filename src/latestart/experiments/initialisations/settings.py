"""The settings of the comparison of start distributions."""

from dataclasses import dataclass

from latestart.lab.setup import Setup
from latestart.settings import seed_setting, setting

__all__ = ["KINDS", "InitialisationSettings", "counted"]

KINDS = ("isotropic", "uniform", "diagonal", "lowrank", "gaussian", "labels", "mixture", "flow", "images")
COUNTED = "mixture:"  # followed by a number of components


@dataclass(frozen=True, kw_only=True)
class InitialisationSettings(Setup):
    """Compare start distributions at their own best starts: quality, recall and copies at equal evaluations.

    All that is fitted and measured is kept the moment it is done: a run that was cut off goes on.
    """

    distributions: tuple[str, ...] = setting(
        KINDS,
        "Start distributions: isotropic is N(0, I), labels a Gaussian for each class, mixture:100 one of 100 "
        "components; flow needs the extra `flows` of this package.",
        flag="kinds",
    )
    starts: tuple[float, ...] = setting(
        (200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0), "The grid of starts, in the scheduler's t.", least=1
    )
    nfe: tuple[int, ...] = setting((3, 5, 10), "Network evaluations for each sample.", least=1)
    samples: int = setting(500, "Samples from each start.", least=10)
    sampler: str = setting("ddim", "ddim, dpm++, unipc, deis, ...", of="sampler")
    rank: int = setting(32, "Directions of the low-rank Gaussian.", least=1)
    components: int = setting(30, "Components of the mixture, where none lies beside the model.", least=1)
    flow_steps: int = setting(2000, "Steps of the flow's fit.", least=1)
    flow_directions: int = setting(32, "Leading directions that the flow changes.", least=1)
    seed: int = seed_setting("Seed of the noise that starts are chosen by; the next seed is reported.")

    def check(self) -> None:
        """Refuse kinds of start that there are not."""
        if wrong := [kind for kind in self.distributions if kind not in KINDS and not counted(kind)]:
            known = f"{', '.join(KINDS)}, and mixtures of other numbers of components, such as {COUNTED}100"
            raise ValueError(f"there is no start distribution {wrong[0]!r}; there are {known}")


def counted(kind: str) -> int:
    """Return the number of components of a kind `mixture:K`; 0 for any other."""
    number = kind.removeprefix(COUNTED)
    return int(number) if number != kind and number.isdecimal() else 0
