"""Ranges of values: which of the usual ones images are in, and what follows where two disagree.

Models mostly work on [-1, 1], metrics on [0, 1], and bytes are [0, 255]. Images in the wrong one of these have other
moments, and give a wrong figure without a word. Their lowest and highest value tells: those of a set that never leaves
[0, 1] are not in [-1, 1], if there are more than a few images.
"""

import warnings

from torch import Tensor

from latestart.data import Range

__all__ = ["require_inside", "require_range", "require_same_range", "warn_of_unit_range"]

SLACK = 1e-3  # of a range: outside of it by rounding
NEGATIVE = -0.1  # a range that begins below is not [0, 1] by rounding
FEWEST = 8  # images that do not all happen to be bright
UNIT, SYMMETRIC, BYTES = (0.0, 1.0), (-1.0, 1.0), (0.0, 255.0)


def named_range(low: float, high: float) -> Range | None:
    """The usual range that values from `low` to `high` fill: [0, 1], [-1, 1] or [0, 255]; None for another."""
    if low >= -SLACK and high <= 1 + SLACK:
        return UNIT
    if low >= -1 - SLACK and high <= 1 + SLACK:
        return SYMMETRIC
    return BYTES if low >= 0 and 2 < high <= 255 else None


def require_inside(low: float, high: float, expected: Range, what: str = "the images") -> None:
    """Raise `ValueError`, with the remedy, if values from `low` to `high` leave the stated range."""
    slack = SLACK * (expected[1] - expected[0])
    if not (expected[0] - slack <= low and high <= expected[1] + slack):
        raise ValueError(_of_another_range(low, high, expected, what))


def require_range(low: float, high: float, expected: Range, count: int) -> None:
    """The same for a whole set, which is also in another range if it never leaves [0, 1] where the range does."""
    require_inside(low, high, expected)
    if count >= FEWEST and expected[0] < NEGATIVE and named_range(low, high) == UNIT:
        raise ValueError(_of_another_range(low, high, expected, "the images"))


def _of_another_range(low: float, high: float, expected: Range, what: str) -> str:
    return (
        f"{what} have values from {low:.3g} to {high:.3g}, and value_range says [{expected[0]:g}, {expected[1]:g}]"
        f"{_remedy(named_range(low, high), named_range(*expected))}"
    )


def require_same_range(images: Tensor, known: Range | None, whose: str) -> None:
    """Raise `ValueError`, with the remedy, if images are in another of the usual ranges than what a prior knows.

    Args:
        images: in memory, as they are used.
        known: lowest and highest value of the images that the prior was fitted to; None passes everything.
        whose: by which the error calls the prior.
    """
    if known is None or not images.numel():
        return
    low, high = (float(end) for end in images.aminmax())
    mine, theirs = named_range(low, high), named_range(*known)
    if (
        mine is None
        or theirs is None
        or mine == theirs
        or (BYTES not in (mine, theirs) and min(low, known[0]) > NEGATIVE)
    ):
        return
    raise ValueError(
        f"the images have values from {low:.3g} to {high:.3g}, and {whose} was fitted to values from {known[0]:.3g} to "
        f"{known[1]:.3g}{_remedy(mine, theirs)}"
    )


def warn_of_unit_range(bare: bool, shape: tuple[int, ...], values: Range | None) -> None:
    """Warn of pictures in floats that never leave [0, 1], as the images of most models do.

    Args:
        bare: whether they are floats of which nobody has said a range.
        shape: of one; vectors are no pictures.
        values: the lowest and the highest.
    """
    low, high = values or (0.0, 0.0)
    if bare and len(shape) > 2 and high > low and named_range(low, high) == UNIT:
        warnings.warn(
            f"the images have values from {low:.3g} to {high:.3g}, and most models work on [-1, 1]: if these are "
            "pictures in [0, 1], say so by ls.as_images(images, value_range=(0, 1))",
            stacklevel=3,
        )


def _remedy(given: Range | None, expected: Range | None) -> str:
    """The conversion from one usual range to another, as the end of a sentence."""
    if given is None or expected is None or given == expected:
        return ""
    scale = (expected[1] - expected[0]) / (given[1] - given[0])
    shift = expected[0] - scale * given[0]
    return f": bring them there by images * {scale:.6g} {'+' if shift >= 0 else '-'} {abs(shift):.6g}"
