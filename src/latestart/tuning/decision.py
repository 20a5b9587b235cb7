"""The decision of tuning: the recipe is a way of ours only where it is better than the best full noise, beyond chance.

    gain = Frechet distance of the best full noise / that of the candidate,   by paired bootstrap replicates

Of the finalists that may be chosen, the one whose gain has the highest lower end is taken, if that is above 1; else the
best full noise without a prior. A finalist may not be chosen if more of its samples than of new images are copies,
beyond chance; if the variance of its samples before clipping is more than 1.05 of that of the images, for then it has
bought a distance with contrast that is cut off; or, where recall or precision is preferred, if it lies more than 0.03
below the best full noise in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from latestart.evaluation.quality import Estimate
from latestart.lab.judge import Figures, over
from latestart.tuning.candidates import Candidate

__all__ = ["CONTRAST", "PREFERENCES", "Decision", "Finalist", "decide"]

CONTRAST = 1.05  # of the images' variance, at most
BELOW = 0.03  # of recall or precision, at most
PREFERENCES = ("recall", "precision")


@dataclass(frozen=True)
class Finalist:
    """A candidate that was drawn again, with its figures, or the reason why it failed."""

    candidate: Candidate
    figures: Figures | None
    reason: str = ""


@dataclass(frozen=True)
class Decision:
    """The finalist that was chosen.

    Attributes:
        chosen: the finalist.
        full: the best full noise without a prior, by the same draw; None where the model has none.
        gain: of the chosen one on full noise; None where that is the one, or there is none.
        reason: sentences.
        out: the reasons why finalists may not be chosen, by their place.
    """

    chosen: Finalist
    full: Finalist | None
    gain: Estimate | None
    reason: tuple[str, ...]
    out: dict[int, str]


def decide(finalists: Sequence[Finalist], prefer: str | None = None) -> Decision:
    """Decide between finalists of one draw, of the same seeds.

    Args:
        finalists: ways of ours, and from full noise without a prior.
        prefer: "recall" or "precision", which must not fall; None takes the lowest distance.

    Raises:
        ValueError: none of them may be chosen.
    """
    measured = [(k, one) for k, one in enumerate(finalists) if one.figures is not None]
    rivals = sorted((one.figures.frechet.value, k) for k, one in measured if not one.candidate.ours and one.figures)
    full = finalists[rivals[0][1]] if rivals else None
    out = {k: one.reason for k, one in enumerate(finalists) if one.figures is None}
    for k, one in measured:
        if reason := _barred(one, full, prefer):
            out[k] = reason
    allowed = [k for k, _ in measured if k not in out]
    gains = {k: _gain(full, finalists[k]) for k in allowed if finalists[k].candidate.ours}
    best = max(gains, key=lambda k: gains[k].low, default=None) if full is not None else None
    if best is not None and gains[best].low > 1:
        return Decision(finalists[best], full, gains[best], tuple(_costs(finalists[best], full, gains[best])), out)
    if full is None:
        ours = sorted((figures.frechet.value, k) for k in allowed if (figures := finalists[k].figures) is not None)
        if not ours:
            raise ValueError(
                f"no way to sample this model may be chosen: {'; '.join(out.values()) or 'none was drawn'}"
            )
        failed = [one.reason for one in finalists if not one.candidate.ours and one.reason]
        told = f"there is no full noise to compare with: {failed[0] if failed else 'the network cannot be sampled so'}"
        return Decision(finalists[ours[0][1]], None, None, (told,), out)
    clean = next((k for _, k in rivals if k not in out), rivals[0][1])  # where all are barred, the best is as it was
    return Decision(finalists[clean], full, None, tuple(_why_not(finalists, gains, out)), out)


def _barred(one: Finalist, full: Finalist | None, prefer: str | None) -> str:
    """Return the reason why a finalist may not be chosen, or nothing."""
    figures = one.figures
    assert figures is not None
    if figures.copies:
        return f"copies training images: a share of {figures.copied}"
    if figures.variance is not None and figures.variance.value > CONTRAST:
        return f"has {figures.variance} of the images' variance before clipping, more than {CONTRAST:g}"
    if prefer is not None and full is not None and full.figures is not None and one.candidate.ours:
        mine, theirs = getattr(figures, prefer).value, getattr(full.figures, prefer).value
        if mine < theirs - BELOW:
            return f"has a {prefer} of {mine:.3f}, more than {BELOW:g} below the {theirs:.3f} of full noise"
    return ""


def _gain(full: Finalist | None, one: Finalist) -> Estimate:
    if full is None or full.figures is None or one.figures is None:
        return Estimate(1.0, 1.0, 1.0)
    return over(full.figures, one.figures)


def _costs(one: Finalist, full: Finalist | None, gain: Estimate) -> list[str]:
    """Return what a choice costs in precision and recall, and what it gains."""
    assert full is not None and full.figures is not None and one.figures is not None
    told = []
    for name in PREFERENCES:
        mine, theirs = getattr(one.figures, name), getattr(full.figures, name)
        if mine.high < theirs.low:
            told.append(f"it costs {name}: {mine}, where the best full noise has {theirs}")
    return [*told, f"its distance is {gain} times below that of the best full noise"]


def _why_not(finalists: Sequence[Finalist], gains: dict[int, Estimate], out: dict[int, str]) -> list[str]:
    """Return why full noise was chosen."""
    told = ["full noise was chosen: no late start and no prior inside is better than it beyond chance"]
    for k, gain in gains.items():
        told.append(f"{finalists[k].candidate.way.describe()}: {gain} times")
    return [*told, *(f"{finalists[k].candidate.way.describe()} {reason}" for k, reason in out.items())]
