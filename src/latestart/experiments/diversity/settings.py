"""The settings of the diversity experiment."""

from dataclasses import dataclass

from latestart.lab.setup import Setup
from latestart.settings import setting

__all__ = ["DiversitySettings"]


@dataclass(frozen=True, kw_only=True)
class DiversitySettings(Setup):
    """Attributes of few-step samples against the data's: full noise, late start, and DDPM in many steps.

    Each way is kept the moment it is sampled: a run that was cut off goes on. Under `torchrun`, with all its processes.
    """

    samples: int = setting(1000, "Samples of each way.", least=10)
    samplers: tuple[str, ...] = setting(
        ("ddim", "pndm"), "The fast samplers, between commas.", flag="sampler", of="sampler"
    )
    nfe: int = setting(5, "Their network evaluations for each sample.", least=1)
    priors: tuple[str, ...] = setting(
        ("gaussian",),
        "Priors of late starts: gaussian, mixture, isotropic, or files, between commas.",
        flag="prior",
    )
    starts: tuple[float, ...] = setting(
        (), "Starts, in the scheduler's t, between commas; default: as `latestart choose` finds.", flag="t-start"
    )
    reference: int = setting(200, "Steps of DDPM from full noise; 0: none.", least=0)
    classifier: str | None = setting(
        None,
        "A file of `experiment attributes` or of a classifier, a folder of transformers, or deepface:race; default: "
        "the one beside the model.",
    )

    def check(self) -> None:
        """Refuse full noise as a prior."""
        if "none" in self.priors:
            raise ValueError("full noise is always measured: expected priors other than none")
