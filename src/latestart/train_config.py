"""The settings of a training run. Nothing heavy is imported, so that a command line can be made of them."""

from dataclasses import dataclass

from latestart.checks import PRECISIONS
from latestart.settings import Settings, seed_setting, setting

__all__ = ["PREDICTIONS", "TrainConfig"]

PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """Train a small diffusion model on a set of images.

    Raises:
        ValueError: a value beyond its limits, or `min_snr` beside `around`.
    """

    steps: int = setting(10_000, "Optimiser steps.", least=1)
    batch_size: int = setting(128, "Images a step.", least=1)
    learning_rate: float = setting(1e-3, "Peak learning rate (warm-up, then half a cosine).")
    warmup: int = setting(200, "Steps of the warm-up.", least=0)
    ema_decay: float = setting(0.9995, "Decay of the moving average of the weights.", flag="ema", least=0)
    seed: int = seed_setting("Seed of the weights, the batches and the noise.")
    prediction: str = setting("epsilon", "epsilon, v_prediction or sample.", choices=PREDICTIONS)
    patch: int = setting(1, "Side of the pixel patches that the network works on.", least=1)
    channels: tuple[int, ...] = setting((32, 64), "Channels at each resolution, between commas.", least=1, repeats=True)
    layers: int = setting(1, "Residual blocks at each resolution.", least=1)
    classes: int = setting(0, "Number of classes of a class-conditional model; 0 for none.", least=0)
    mixed_precision: str = setting("no", "bf16: train in half precision; no: in float32.", choices=PRECISIONS)
    init: str = setting(
        "",
        "Folder of a model of the same build to begin from; it may predict something else, since its layers serve as "
        "well.",
        of="file",
    )
    max_sigma: float | None = setting(
        None, "Train on noise levels (std / alpha) up to this only, for a model that starts late."
    )
    min_snr: float | None = setting(
        None, "Weigh the error of x_0 by min(SNR + 1, this), whatever is predicted; 20 suits sample.", least=1
    )
    around: str = setting(
        "", "A Gaussian of the images that `latestart fit` wrote: learn the rest of its denoiser.", of="file"
    )

    def check(self) -> None:
        """Refuse rates that are none, and weights that do not fit."""
        if not self.ema_decay < 1 or not self.learning_rate > 0:
            raise ValueError(
                f"expected 0 <= ema < 1 and learning-rate > 0, received {self.ema_decay} and {self.learning_rate}"
            )
        if self.around and self.min_snr is not None:
            raise ValueError("around a Gaussian every level weighs the same: expected no min-snr beside it")
