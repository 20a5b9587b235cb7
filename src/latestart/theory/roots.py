"""Roots of functions of one number, by Brent's method, which say what they are of where there is none."""

from collections.abc import Callable
from typing import Any

from scipy.optimize import brentq

__all__ = ["root"]


def root(function: Callable[[float], float], low: float, high: float, of: str, **options: Any) -> float:
    """The place between `low` and `high` at which a function changes its sign.

    Args:
        function: continuous, of other signs at the two ends.
        low, high: the ends.
        of: what it is, by which the error calls it.
        options: of `scipy.optimize.brentq`, such as `xtol`.

    Raises:
        ValueError: the function has the same sign at both ends, or is NaN there.
    """
    at_low, at_high = float(function(low)), float(function(high))
    if not at_low * at_high <= 0:
        ends = f"{at_low:.4g} at {low:.6g} and {at_high:.4g} at {high:.6g}"
        raise ValueError(f"{of} changes its sign nowhere in the range that is looked at: it is {ends}")
    return float(brentq(function, low, high, **options))
