"""The doubts about a start that its divergence alone tells: bars in nats, and levels where the network is worse."""

import math
from typing import Literal

from torch import Tensor

from latestart.noise import Noise, when
from latestart.theory.nats import NatsCurve

__all__ = ["NATS", "Verdict", "by_bars", "doubts_of", "runs"]

Verdict = Literal["good", "doubtful", "bad"]

NATS = (0.5, 2.0)  # good up to the first, bad above the second


def doubts_of(curve: NatsCurve, sigma: float, noise: Noise, network: bool = True) -> tuple[str, ...]:
    """Why `check` would call a start bad, as far as a divergence tells it; none where it tells nothing.

    Args:
        curve: of the prior, at levels that the start lies among.
        sigma: the level at which a run begins.
        noise: gives levels their times.
        network: whether the curve is of the data from the prior, so that it knows where the network is worse.
    """
    at, t = int((curve.sigma.log() - math.log(sigma)).abs().argmin()), noise.clamped_time(sigma)
    found, nats = [], float(curve.nats[: at + 1].max())
    if by_bars(nats, NATS) == "bad":
        found.append(
            f"at t = {when(t)} the prior is {nats:.2g} nats from the noised data: check would call this start bad, "
            f"above {NATS[1]:g} nats; a start at a larger t, or a prior of more components, is less wrong"
        )
    if network and curve.worse.any() and at <= runs(curve.worse)[-1][-1]:
        found.append(
            f"at t = {when(t)} or below it the network is worse than the prior's own denoiser: check would call this "
            "start bad; a start at a smaller t skips that"
        )
    return tuple(found)


def by_bars(value: float, bars: tuple[float, float]) -> Verdict:
    """Good up to the first bar, doubtful up to the second."""
    return "good" if value <= bars[0] else "doubtful" if value <= bars[1] else "bad"


def runs(mask: Tensor) -> list[list[int]]:
    """The places at which a mask `(L,)` holds, neighbours together."""
    found: list[list[int]] = []
    for k in mask.nonzero().flatten().tolist():
        if found and found[-1][-1] == k - 1:
            found[-1].append(k)
        else:
            found.append([k])
    return found
