"""The settings that measurements share, each written once with its help and its limits. Nothing heavy is imported."""

from dataclasses import dataclass

from latestart.checks import PRECISIONS
from latestart.settings import Settings, seed_setting, setting

__all__ = [
    "FEWEST", "Conditions", "Kept", "Networks", "OneModel", "Pictures", "Sampling", "Setup", "Started", "SweepSetup",
]  # fmt: skip

FEWEST = 6  # samples of a figure: precision, recall and coverage look at neighbours


@dataclass(frozen=True, kw_only=True)
class Networks(Settings):
    """The way in which networks are opened and evaluated."""

    mixed_precision: str = setting(
        "no",
        "bf16: networks in half precision, faster where the machine has it; no: in their own.",
        choices=PRECISIONS,
    )
    scheduler: str | None = setting(
        None, "Scheduler of a model folder without one: a scheduler_config.json, or a class of diffusers."
    )


@dataclass(frozen=True, kw_only=True)
class OneModel(Networks):
    """One model."""

    model: str = setting(
        "mnist", "A folder with a diffusers model, or the name of a shipped one (mnist).", of="model", argument=True
    )


@dataclass(frozen=True, kw_only=True)
class Started(OneModel):
    """One model with a sampler and a prior."""

    prior: str | None = setting(
        None,
        "A prior that `latestart fit` wrote; for a shipped model also gaussian or mixture; where one is needed, its "
        "Gaussian is the default.",
        of="prior",
    )
    steps: int = setting(5, "Steps of the sampler.", least=1)
    sampler: str | None = setting(
        None,
        "ddim, ddpm, pndm, dpm++, unipc, deis, euler, heun, lms, ..., prior (the prior solver), or own; default: ddim, "
        "or the model's own where it is of EDM or flow matching.",
        of="sampler",
    )
    inside: str | None = setting(
        None,
        "Of the prior solver: the prior inside; default: the Gaussian of --prior, else the shipped model's.",
        of="prior",
    )
    eta: float = setting(0.0, "Of ddim and the prior solver: the share of noise.", least=0, most=1)
    check_prior: bool = setting(True, "Compare the prior with the model first, and refuse one of other values.")


@dataclass(frozen=True, kw_only=True)
class Pictures(Settings):
    """The way in which pictures are read."""

    background: str | None = setting(
        None, "Lay transparent pictures onto this colour (white, #ff8800); otherwise they are refused."
    )


@dataclass(frozen=True, kw_only=True)
class Sampling(Networks):
    """The samples, the images, and the way in which the network is evaluated."""

    samples: int = setting(1000, "Samples of each figure.", least=FEWEST)
    seed: int = seed_setting("Sample i depends on the seed and i alone.")
    images: str | None = setting(
        None,
        "The training set: parquet, folder, npz, or a published one (celeba@64); default: the shipped model's.",
        of="file",
    )
    held_out: str | None = setting(None, "Images that the model has not seen, to find copies with.", of="file")
    batch_size: int = setting(256, "Samples evaluated at once.", least=1)


@dataclass(frozen=True, kw_only=True)
class Conditions(Sampling):
    """The samples, and the features by which they are compared with the data."""

    features: str | None = setting(
        None,
        "A shipped extractor, efficientnet-lite0, a classifier's file, that of the Inception weights, or network: the "
        "model's own activations; default: the classifier beside the model, else network.",
    )
    second: str | None = setting(
        None, "A second feature space, named as the first, for a distance beside; default: the shipped model's, if any."
    )


@dataclass(frozen=True, kw_only=True)
class Setup(OneModel, Conditions):
    """One model, and the conditions of its measurement."""


@dataclass(frozen=True, kw_only=True)
class Kept(Settings):
    """A measurement whose cells are kept as those of a sweep, so that it can be continued."""

    budget: int | None = setting(
        None, "Network evaluations that all cells may cost, those spent before counted.", least=0, kept=False
    )
    retry: bool = setting(False, "Measure the cells anew that have failed.", kept=False)


@dataclass(frozen=True, kw_only=True)
class SweepSetup(Kept, Setup):
    """One model, measured in cells that are kept."""
