"""The commands around known attributes: draw faces that have them, train the classifiers that read images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.checks import ARCHITECTURES, PRECISIONS
from latestart.cli.options import with_settings
from latestart.cli.support import bar, look_for, say
from latestart.settings import Settings, seed_setting, setting

__all__ = ["attributes", "classifier", "faces"]


@dataclass(frozen=True, kw_only=True)
class FacesSettings(Settings):
    size: int = setting(64, "Side in pixels.", least=1)
    seed: int = seed_setting("Face i depends on the seed and i alone.")


@dataclass(frozen=True, kw_only=True)
class ClassifierSettings(Settings):
    epochs: int = setting(12, "Passes over the images.", least=1)
    seed: int = seed_setting("Seed of the weights, the order and the shifts or the noise.")
    mixed_precision: str = setting("no", "bf16: train in half precision; no: in float32.", choices=PRECISIONS)


@dataclass(frozen=True, kw_only=True)
class FeaturesSettings(ClassifierSettings):
    architecture: str = setting(
        "convolutions", "convolutions, or mixer for a second feature space of another kind.", choices=ARCHITECTURES
    )


@dataclass(frozen=True, kw_only=True)
class AttributesSettings(ClassifierSettings):
    epochs: int = setting(4, "Passes over the images.", least=1)
    limit: int | None = setting(None, "Use only the first pictures.", least=1)
    label: str = setting("class", "Name of the attribute where pictures have labels alone.")


@with_settings(FacesSettings)
def faces(
    asked: FacesSettings,
    out: Annotated[Path, typer.Option(help="File to write the faces to (npz).")] = Path("out/faces.npz"),
    n: Annotated[int, typer.Option("-n", min=1, help="Number of faces.")] = 20_000,
) -> None:
    """Draw cartoon faces with known skin tone, glasses, facial hair and hair, for `train`, `fit` and the others."""
    check_file(out, ".npz")
    import numpy as np

    from latestart.datasets.faces import faces as draw
    from latestart.files import replacing

    with bar("drawing") as advance:
        drawn = draw(n, asked.size, asked.seed, advance)
    with replacing(out) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **drawn.arrays())
    say(f"wrote {n} faces of {asked.size} x {asked.size} with {', '.join(drawn.attributes)} to {out}")


@with_settings(AttributesSettings)
def attributes(
    asked: AttributesSettings,
    images: Annotated[
        Path, typer.Argument(help="Pictures with known attributes, as `experiment faces` writes them, or with labels.")
    ],
    out: Annotated[
        Path, typer.Option(help="File to write to; beside a model it is called attributes.safetensors.")
    ] = Path("out/attributes.safetensors"),
) -> None:
    """Train the classifier of attributes on pictures with known attributes, and score it on held-out ones."""
    look_for(None, images)
    check_file(out, ".safetensors")
    from latestart.classifiers.attributes import train_attributes
    from latestart.classifiers.known import load_known

    known = load_known(images, asked.limit, asked.label)
    with training() as advance:
        options: dict[str, Any] = {"seed": asked.seed, "mixed_precision": asked.mixed_precision}
        reader = train_attributes(known, asked.epochs, progress=advance, **options)
    reader.save(out)
    for name, score in reader.scores.items():
        say(f"{name}: {score} held-out pictures")
    say(f"wrote {out}")


@with_settings(FeaturesSettings)
def classifier(
    asked: FeaturesSettings,
    images: Annotated[
        Path, typer.Argument(help="Images with labels, or with known attributes as `experiment faces` writes them.")
    ],
    out: Annotated[Path, typer.Option(help="File to write to; beside a model it is called classifier.safetensors.")],
) -> None:
    """Train the classifier whose last hidden layer is a data set's feature space, for Frechet distances and recall.

    A tenth of the images is held out to score it. With several attributes it learns every combination.
    """
    look_for(None, images)
    check_file(out, ".safetensors")
    from latestart.classifiers.feature_space import train_features
    from latestart.classifiers.known import combined, load_known

    with training() as advance:
        options = (asked.epochs, asked.seed, advance, asked.mixed_precision, asked.architecture)
        trained, score = train_features(combined(load_known(images)), *options)
    trained.save(out)
    say(f"{score} held-out images")
    say(f"wrote {out}")


def check_file(out: Path, suffix: str) -> None:
    """Raise `ValueError` unless a file with the suffix can be written."""
    if out.suffix != suffix or out.is_dir():
        raise ValueError(f"expected a file that ends in {suffix} to write to, received {out}")
    look_for(None, out=out.parent)


@contextmanager
def training() -> Iterator[Callable[[int, int, float], None]]:
    """Yield `advance(step, steps, loss)` of a progress bar."""
    with bar("training") as advance:
        yield lambda step, steps, loss: advance(step, steps, f"loss {loss:.3f}")
