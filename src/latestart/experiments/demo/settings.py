"""The settings of the demo. Nothing heavy is imported."""

from dataclasses import dataclass

from latestart.settings import Settings, seed_setting, setting

__all__ = ["DemoSettings"]


@dataclass(frozen=True, kw_only=True)
class DemoSettings(Settings):
    """Tune the shipped MNIST model for a few evaluations: a table, a sheet of samples, a recipe for each number.

    All samples are kept the moment they are drawn: a demo that was cut off goes on.
    """

    steps: tuple[int, ...] = setting((3, 5, 10), "Network evaluations of an image, a recipe for each.", least=1)
    budget: int = setting(60_000, "Network evaluations that tuning may cost, for each number of steps.", least=1)
    seed: int = seed_setting("Seed of the search; the next is that of the figures.")
