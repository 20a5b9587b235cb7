"""Counts, seeds and the generators that they make, and packages that may be missing: asked for everywhere."""

import importlib
import math
import operator
from typing import TYPE_CHECKING, Any

__all__ = [
    "ARCHITECTURES", "LAST_SEED", "PRECISIONS", "checked_seed", "derived_seed", "optional", "seeded", "whole_number",
]  # fmt: skip

if TYPE_CHECKING:
    import torch

LAST_SEED = 2**63 - 1


ARCHITECTURES = ("convolutions", "mixer")  # of the classifiers of feature spaces
PRECISIONS = ("no", "bf16")  # float16 would need a loss scale in training, which is a state of its own


def whole_number(name: str, value: Any, least: float = 1, most: float = math.inf) -> int:
    """The value, if it is a whole number of at least `least`.

    Raises:
        ValueError: it is not, or above `most`; names both.
    """
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or not least <= whole <= most:
        bounds = f"of at least {least}" if most == math.inf else f"from {least} to {most}"
        raise ValueError(f"{name}={value!r}: expected a whole number {bounds}")
    return whole


def checked_seed(seed: Any) -> int:
    """The seed, if it is a whole number from 0 to 2^63 - 1.

    Raises:
        ValueError: it is not.
    """
    return whole_number("seed", seed, 0, LAST_SEED)


def derived_seed(*numbers: int) -> int:
    """A seed for a stream of its own, well apart for neighbouring numbers; the first of them is a seed.

    Raises:
        ValueError: the first is no whole number from 0 to 2^63 - 1.
    """
    import numpy as np

    state = np.random.SeedSequence((checked_seed(numbers[0]), *numbers[1:])).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def seeded(seed: int) -> "torch.Generator":
    """A generator on the processor.

    Raises:
        ValueError: the seed is no whole number from 0 to 2^63 - 1.
    """
    import torch

    return torch.Generator().manual_seed(checked_seed(seed))


def optional(module: str, remedy: str) -> Any:
    """Import a module of a package that is not always installed.

    Raises:
        ImportError: it is not; says the remedy.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(remedy) from error
