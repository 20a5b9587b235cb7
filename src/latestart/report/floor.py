"""The floor in words: what images score that the model has not seen, or that there are none."""

from latestart.lab.judge import Floor


def floor_sentence(floor: Floor | None, samples: int) -> str:
    """What no sampler can be expected to fall below.

    Args:
        floor: of the images that the model has not seen, as `Judge.floor` returns it.
        samples: how many the distances are of: fewer images have a higher one.
    """
    if floor is None:
        return (
            "without images that the model has not seen, there is no floor beside the distances and no share of copies"
        )
    count, distance = floor.images, floor.frechet
    value, low, high = (f"{x:.0f}" if x >= 100 else f"{x:.3g}" for x in (distance.value, distance.low, distance.high))
    fewer = "" if count >= samples else f", a little too high, since there are {samples:,} samples"
    return f"{count:,} images that the model has not seen score {value} [{low}, {high}]: the floor{fewer}"
