"""The commands around known attributes: draw faces that have them, train the classifiers that read images."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import MixedPrecision, bar, check_first, friendly, say, seed_option

__all__ = ["attributes", "classifier", "faces"]


def faces(
    out: Annotated[Path, typer.Option(help="File to write the faces to (npz).")] = Path("out/faces.npz"),
    n: Annotated[int, typer.Option("-n", min=1, help="Number of faces.")] = 20_000,
    size: Annotated[int, typer.Option(min=1, help="Side in pixels.")] = 64,
    seed: Annotated[int, seed_option("Face i depends on the seed and i alone.")] = 0,
) -> None:
    """Draw cartoon faces with known skin tone, glasses, facial hair and hair, for `train`, `fit` and the others."""
    with friendly():
        check_file(out, ".npz")
        import numpy as np

        from latestart.datasets.faces import faces as draw
        from latestart.files import replacing

        with bar("drawing") as advance:
            drawn = draw(n, size, seed, advance)
        with replacing(out) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **drawn.arrays())
    say(f"wrote {n} faces of {size} x {size} with {', '.join(drawn.attributes)} to {out}")


def attributes(
    images: Annotated[
        Path, typer.Argument(help="Pictures with known attributes, as `experiment faces` writes them, or with labels.")
    ],
    out: Annotated[
        Path, typer.Option(help="File to write to; beside a model it is called attributes.safetensors.")
    ] = Path("out/attributes.safetensors"),
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first pictures.")] = None,
    label: Annotated[str, typer.Option(help="Name of the attribute where pictures have labels alone.")] = "class",
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the pictures.")] = 4,
    seed: Annotated[int, seed_option("Seed of the weights, the order and the noise.")] = 0,
    mixed_precision: MixedPrecision = "no",
) -> None:
    """Train the classifier of attributes on pictures with known attributes, and score it on held-out ones."""
    with friendly():
        check_first(images)
        check_file(out, ".safetensors")
        from latestart.classifiers.attributes import train_attributes
        from latestart.classifiers.known import load_known

        known = load_known(images, limit, label)
        with training() as advance:
            reader = train_attributes(known, epochs, seed=seed, progress=advance, mixed_precision=mixed_precision)
        reader.save(out)
        for name, score in reader.scores.items():
            say(f"{name}: {score} held-out pictures")
    say(f"wrote {out}")


def classifier(
    images: Annotated[
        Path, typer.Argument(help="Images with labels, or with known attributes as `experiment faces` writes them.")
    ],
    out: Annotated[Path, typer.Option(help="File to write to; beside a model it is called classifier.safetensors.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 12,
    seed: Annotated[int, seed_option("Seed of the weights, the order and the shifts.")] = 0,
    mixed_precision: MixedPrecision = "no",
) -> None:
    """Train the classifier whose last hidden layer is a data set's feature space, for Frechet distances and recall.

    A tenth of the images is held out to score it. With several attributes it learns every combination.
    """
    with friendly():
        check_first(images)
        check_file(out, ".safetensors")
        from latestart.classifiers.features import train_features
        from latestart.classifiers.known import combined, load_known

        with training() as advance:
            trained, score = train_features(combined(load_known(images)), epochs, seed, advance, mixed_precision)
        trained.save(out)
    say(f"{score} held-out images")
    say(f"wrote {out}")


def check_file(out: Path, suffix: str) -> None:
    """Raise `ValueError` unless a file with the suffix can be written."""
    if out.suffix != suffix or out.is_dir():
        raise ValueError(f"expected a file that ends in {suffix} to write to, received {out}")
    check_first(out=out.parent)


@contextmanager
def training() -> Iterator[Callable[[int, int, float], None]]:
    """Yield `advance(step, steps, loss)` of a progress bar."""
    with bar("training") as advance:
        yield lambda step, steps, loss: advance(step, steps, f"loss {loss:.3f}")
