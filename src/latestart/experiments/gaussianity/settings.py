"""The settings of the tests of normality."""

from dataclasses import dataclass

from latestart.lab.setup import OneModel, Sampling
from latestart.settings import seed_setting, setting

__all__ = ["GaussianitySettings"]


@dataclass(frozen=True, kw_only=True)
class GaussianitySettings(OneModel, Sampling):
    """Test whether noised images, and a network's early samples, are Gaussian, at each level beside its nats.

    Each level is kept the moment it is done: a run that was cut off goes on.
    """

    prior: str = setting("gaussian", "gaussian, the one beside the model, or the file of a Gaussian.")
    starts: tuple[int, ...] = setting(
        (), "In the scheduler's t, multiples of a 40th of it, between commas; default: 15 from the top."
    )
    samples: int = setting(1000, "Samples at each level, of each process.", least=10)
    rank: int | None = setting(None, "Leading directions that are tested; default 8.", least=1)
    replicates: int = setting(499, "Sets of white noise that the p-values are counted in.", least=1)
    seed: int = seed_setting("Seed of the noise and of the tests.")
    held_out: str | None = setting(None, "Images that the model has not seen, for the divergence in nats.", of="file")
    batch_size: int = setting(250, "Samples evaluated at once.", least=1)

    def check(self) -> None:
        """Refuse fewer than two samples for each direction."""
        if self.rank is not None and self.samples < 2 * self.rank:
            raise ValueError(
                f"samples: the tests on {self.rank} directions need at least {2 * self.rank}, received {self.samples}"
            )
