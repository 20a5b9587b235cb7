"""The settings of training below a start alone."""

from dataclasses import dataclass

from latestart.checks import PRECISIONS
from latestart.settings import Settings, seed_setting, setting

__all__ = ["LateTrainingSettings"]


@dataclass(frozen=True, kw_only=True)
class LateTrainingSettings(Settings):
    """Train pairs of networks, on all levels and only below a start, and compare them from the same late start.

    Networks and samples are kept: a run that was cut off goes on.
    """

    images: str | None = setting(
        None, "The training set: parquet, folder or npz; default: 2,000 images of MNIST.", of="file"
    )
    held_out: str | None = setting(None, "Images that are not trained on, to find copies with.", of="file", kept=False)
    features: str = setting("mnist", "A shipped extractor, efficientnet-lite0, or a file of weights.")
    second: str | None = setting(
        None, "A second feature space for the images, named as the first; default: none, but for those of MNIST."
    )
    start: int = setting(
        500, "The late start, in t of 1,000, and the end of the late network's levels.", least=2, most=1000
    )
    prior: str = setting("gaussian", "gaussian or mixture, fitted to the images.", choices=("gaussian", "mixture"))
    seeds: int = setting(3, "Pairs of networks.", least=2)
    seed: int = seed_setting("Seed of the first pair; the others follow.")
    steps: int = setting(2000, "Optimiser steps of each network.", least=1)
    batch_size: int = setting(64, "Images a step.", least=1)
    learning_rate: float = setting(2e-3, "Peak learning rate.")
    channels: tuple[int, ...] = setting(
        (32, 64), "Channels at each resolution, comma-separated.", least=1, repeats=True
    )
    layers: int = setting(1, "Residual blocks at each resolution.", least=1)
    patch: int = setting(2, "Side of the pixel patches that the network works on.", least=1)
    prediction: str = setting(
        "v_prediction", "epsilon, v_prediction or sample.", choices=("epsilon", "v_prediction", "sample")
    )
    nfe: tuple[int, ...] = setting((3, 5, 10), "Network evaluations for each sample.", least=1)
    samples: int = setting(1000, "Samples of each network.", least=10)
    sampler: str = setting("ddim", "ddim, dpm++, unipc, deis, ...", of="sampler")
    mixed_precision: str = setting(
        "no",
        "bf16: networks in half precision, faster where the machine has it; no: in their own.",
        choices=PRECISIONS,
    )

    def check(self) -> None:
        """Refuse a start with fewer times than evaluations."""
        if self.start < max(self.nfe):
            raise ValueError(f"start={self.start}: expected at least {max(self.nfe)}, a time for each evaluation")
