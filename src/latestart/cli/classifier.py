"""The command that trains a data set's features."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import MixedPrecision, bar, check_first, friendly, say, seed_option

HELD_OUT = 10  # one image in so many is kept back, to score the classifier by


def classifier(
    images: Annotated[
        Path, typer.Argument(help="Images with labels, or with known attributes as `experiment faces` writes them.")
    ],
    out: Annotated[Path, typer.Option(help="File to write to; beside a model it is called classifier.safetensors.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 12,
    seed: Annotated[int, seed_option("Of the weights, the order and the shifts.")] = 0,
    mixed_precision: MixedPrecision = "no",
) -> None:
    """Train the classifier whose last hidden layer is a data set's feature space, for Frechet distances and recall.

    A tenth of the images is kept back to score it by. Of several attributes it learns every combination.
    """
    with friendly():
        check_first(images)
        if out.suffix != ".safetensors" or out.is_dir():
            raise ValueError(f"expected a file that ends in .safetensors to write to, received {out}")
        check_first(out=out.parent)
        from latestart.experiments.attributes import combined, counted, load_known
        from latestart.train import train_classifier

        labelled = combined(load_known(images))
        held = labelled[: len(labelled) // HELD_OUT]
        with bar("training") as advance:
            trained = train_classifier(
                labelled[len(held) :],
                epochs,
                seed=seed,
                progress=lambda step, steps, loss: advance(step, steps, f"loss {loss:.3f}"),
                mixed_precision=mixed_precision,
            )
        trained.save(out)
        assert held.labels is not None
        classes = max(trained.classes, int(held.labels.max()) + 1)  # a rare one may be among those held out alone
        score = counted(held.labels, trained.classify(held.batches()), tuple(map(str, range(classes))))
    right = score.accuracy
    say(f"{right.value:.2%} right [{right.low:.2%}, {right.high:.2%}] of {len(held):,} held-out images")
    say(f"wrote {out}")
