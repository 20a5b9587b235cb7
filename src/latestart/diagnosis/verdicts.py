"""Verdicts on a late start, in words and with their figures: one for each way in which it can fail.

    linear      R^2 of the data against the prior's denoiser               good from 0.95 on, bad below 0.5
    gaussian    the prior's divergence, a lower bound for a network        good up to 0.5 nats, bad above 2
    critical    the criteria of the moment of decision, in sigma           good up to a factor of 1.5 apart, bad above 3
    network     worse than the prior's own denoiser, by 3 standard errors  good where that is skipped

At a start that one has in mind, verdicts are read there: of R^2 and nats the worst value down to it, as R^2 rises again
at low noise; of the criteria whether it lies before them all, between or after them. At a budget of 1 nat starts come
within 5% of the best. Where the prior fits all the way down, no decision is left to it that it does not take, and the
criteria do no harm.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from latestart.diagnosis.decisions import Decisions, by_noise
from latestart.diagnosis.linearity import LINEAR, SHARE, Linearity
from latestart.noise import Noise, when
from latestart.records import Record, plain
from latestart.sampling.doubts import NATS, Verdict, by_bars, runs
from latestart.theory.levels import CriticalLevel
from latestart.theory.nats import MARGIN, NatsCurve

__all__ = ["Evidence", "Finding", "Start", "finite", "judge", "worst"]

Said = tuple[Verdict, str]

APART = (1.5, 3.0)  # largest over smallest critical level, in sigma
RANKS: tuple[Verdict, ...] = ("good", "doubtful", "bad")
PLACES: dict[str, Said] = {
    "before": ("good", "before all critical levels"),
    "between": ("doubtful", "between the critical levels, or within their intervals"),
    "after": ("bad", "after all critical levels: decisions are made that the prior does not make"),
}
BOUND = "(a lower bound, as the network is not exact)"


@dataclass(frozen=True, repr=False)
class Finding(Record):
    """The answer to one question.

    Attributes:
        name: "linear", "gaussian", "critical", "network" or "prior".
        verdict: "good", "doubtful" or "bad".
        sentence: the answer in words, with its figure.
        numbers: what it was read from; times in the scheduler's t, None where there is none.
    """

    name: str
    verdict: Verdict
    sentence: str
    numbers: dict[str, Any]

    def record(self) -> dict[str, Any]:
        """Return the finding for JSON, None in the place of numbers that are not finite."""
        return finite(super().record())


@dataclass(frozen=True)
class Start:
    """The start that one has in mind: its time, its level in sigma, and its place on the grid of levels."""

    t: float
    sigma: float
    index: int


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """The evidence for findings; the curves have the same levels.

    Attributes:
        linearity, nats: of the network against the prior.
        decisions: the critical levels.
        noise: gives levels their times.
        at: the start that one has in mind, if any.
    """

    linearity: Linearity
    nats: NatsCurve
    decisions: Decisions
    noise: Noise
    at: Start | None

    def budget(self, nats: float) -> CriticalLevel | None:
        """The level at which the divergence reaches so many nats; None where it never does."""
        try:
            return self.nats.level(nats, self.noise)
        except ValueError:
            return None

    @property
    def last(self) -> float:
        """The time of the lowest level that was looked at."""
        return self.noise.clamped_time(self.nats.sigma[-1].item())

    def span(self, level: CriticalLevel) -> str:
        """A level's time in words, with its interval."""
        at = when(self.noise.clamped_time(level.sigma))
        if level.interval is None:
            return at
        low, high = (self.noise.clamped_time(end) for end in level.interval)
        return f"{at} ({when(low)} to {when(high)})"


def judge(evidence: Evidence) -> tuple[Finding, ...]:
    """The findings "linear", "gaussian", "critical" and "network", in this order."""
    return _linear(evidence), _gaussian(evidence), _critical(evidence), _network(evidence)


def worst(findings: tuple[Finding, ...]) -> Verdict:
    """The worst verdict of all."""
    return max((finding.verdict for finding in findings), key=RANKS.index)


# --- linear -----------------------------------------------------------------------------------------------------------


def _linear(e: Evidence) -> Finding:
    curve = e.linearity
    numbers = {
        "bar": LINEAR[0],
        "limit": plain(curve.limit),
        "network_limit": plain(curve.network_limit),
        "fails_from_top": curve.fails_from_top,
        "informative_from_t": curve.t[curve.informative].max().item() if curve.informative.any() else None,
        **_at_start(e.at, curve, "r2", "r2_error", "data", "data_error", "informative"),
    }
    return Finding("linear", *_linear_said(curve, e.at, f"{_reach(e)}{_own_error(curve)}"), numbers)


def _linear_said(curve: Linearity, at: Start | None, said: str) -> Said:
    if not curve.informative.any():
        return "doubtful", "no level has enough signal to compare two denoisers"
    if at is None:
        verdict = _not_linear(curve.data[curve.first]) if curve.fails_from_top else "good"
        return verdict, f"what the data ask of the network: {said}"
    if not curve.informative[at.index]:
        few = f"at t = {when(at.t)} the network keeps less than {SHARE:.0%} of the data's variance"
        return "good", f"{few}: nothing yet that could be other than linear; {said}"
    value = f"R^2 = {curve.data[at.index]:z.3f} +- {curve.data_error[at.index]:.3f}"
    sentence = f"at t = {when(at.t)} the prior's denoiser explains {value} of what the data ask of the network; {said}"
    if not curve.fails_from_top and (curve.limit is None or at.sigma >= curve.limit.sigma):
        return "good", sentence
    above = curve.informative & (curve.sigma >= curve.sigma[at.index])  # at lower noise R^2 rises again
    return _not_linear(curve.data[above].min()), sentence


def _not_linear(r2: Tensor) -> Verdict:
    """The verdict on an R^2 that is below the first bar."""
    return "doubtful" if r2 >= LINEAR[1] else "bad"


def _reach(e: Evidence) -> str:
    curve, bar = e.linearity, LINEAR[0]
    if curve.fails_from_top:
        value = f"{curve.data[curve.first]:z.3f} +- {curve.data_error[curve.first]:.3f}"
        return f"R^2 is below {bar:g} from the first level with signal on, {value} at t = {when(curve.t[curve.first])}"
    if curve.limit is None:
        return f"R^2 >= {bar:g} throughout, down to t = {when(curve.t[-1])}"
    return f"R^2 >= {bar:g} down to t = {e.span(curve.limit)}"


def _own_error(curve: Linearity) -> str:
    """The network's own R^2 in words, where errors of its own make it another one."""
    apart = curve.data - curve.r2 > 2 * torch.hypot(curve.data_error, curve.r2_error)
    above = curve.sigma >= (curve.limit.sigma if curve.limit else 0.0)
    seen = curve.informative & above & apart & (curve.r2 < LINEAR[0])
    if curve.fails_from_top or not seen.any():
        return ""
    lowest = int(torch.where(seen, curve.r2, torch.inf).argmin())
    return (
        f" (the network itself, with errors of its own that lower nothing, comes down to R^2 = {curve.r2[lowest]:z.3f} "
        f"+- {curve.r2_error[lowest]:.3f} at t = {when(curve.t[lowest])})"
    )


def _at_start(at: Start | None, curve: Linearity | NatsCurve, *names: str) -> dict[str, Any]:
    return {} if at is None else {"at_start": {name: getattr(curve, name)[at.index].item() for name in names}}


# --- Gaussian ---------------------------------------------------------------------------------------------------------


def _gaussian(e: Evidence) -> Finding:
    levels = {budget: e.budget(budget) for budget in (NATS[0], 1.0, NATS[1])}
    numbers = {
        "bars": list(NATS),
        "levels": {f"{budget:g}": plain(level) for budget, level in levels.items()},
        "lower_bound": True,
        "tail": e.nats.tail,
        **_at_start(e.at, e.nats, "nats", "error"),
    }
    nats, good, one = e.nats.nats, levels[NATS[0]], levels[1.0]
    reach = f"it reaches 1 nat at t = {e.span(one)}" if one else f"it never reaches 1 nat, down to t = {when(e.last)}"
    if e.at is not None:
        verdict = by_bars(nats[: e.at.index + 1].max().item(), NATS)
        value = f"{nats[e.at.index]:z.2f} +- {e.nats.error[e.at.index]:.2f}"
        said = f"at t = {when(e.at.t)} the noised data are at least {value} nats from the prior; {reach} {BOUND}"
    elif nats[0] > NATS[0]:
        verdict = by_bars(nats[0].item(), NATS)
        said = f"the noised data are {nats[0]:.2f} nats from the prior at the highest level already"
    else:
        verdict, down = "good", good.t if good else e.last
        said = f"the noised data are within {NATS[0]:g} nats of the prior down to t = {when(down)}; {reach} {BOUND}"
    return Finding("gaussian", verdict, said, numbers)


# --- critical ---------------------------------------------------------------------------------------------------------


def _critical(e: Evidence) -> Finding:
    levels = by_noise(e.decisions.levels)
    factor = levels[0].sigma / levels[-1].sigma if levels else None
    place = _place(levels, e.at.sigma) if levels and e.at is not None else None
    missing = sorted(e.decisions.missing)
    numbers = {"factor": factor, "place": place, "found": len(levels), "missing": missing}
    return Finding("critical", *_critical_said(e, levels, factor, place), numbers)


def _critical_said(e: Evidence, levels: list[CriticalLevel], factor: float | None, place: str | None) -> Said:
    named = ", ".join(f"{level.criterion} t = {when(level.t)}" for level in levels)
    if "nats" in e.decisions.missing and e.nats.nats.max() <= NATS[0]:
        fits = f"the prior fits down to t = {when(e.last)}"
        regardless = f" ({named} regardless of that)" if levels else ""
        return "good", f"{fits}: no decision is left there that it does not take itself{regardless}"
    if factor is None:
        return "doubtful", "no criterion gave a critical level"
    listed = f"{named}; {factor:.2f} apart in sigma"
    if e.at is not None and place is not None:
        verdict, word = PLACES[place]
        return verdict, f"t = {when(e.at.t)} lies {word} ({listed})"
    if len(levels) == 1:
        return "doubtful", f"one criterion only gave a level: {named}"
    verdict = by_bars(factor, APART)
    word = {"good": "agree", "doubtful": "agree roughly", "bad": "disagree"}[verdict]
    return verdict, f"the criteria {word}: {listed}"


def _place(levels: list[CriticalLevel], sigma: float) -> str:
    """Whether a level is "before" all others (noisier), "after" them, or "between", with their intervals."""
    intervals = [level.interval or (level.sigma, level.sigma) for level in levels]
    if sigma > max(high for _, high in intervals):
        return "before"
    return "after" if sigma < min(low for low, _ in intervals) else "between"


# --- network ----------------------------------------------------------------------------------------------------------


def _network(e: Evidence) -> Finding:
    worse, curve, at = e.nats.worse, e.linearity, e.at
    numbers = {"margin": MARGIN, "levels": int(worse.sum()), "of": len(worse), "t": curve.t[worse].tolist()}
    if not worse.any():
        said = f"at none of {len(worse)} levels is the network worse than the prior's own denoiser"
        return Finding("network", "good", said, numbers)
    found, most = runs(worse), int(torch.where(worse, curve.gain, torch.inf).argmin())
    last = found[-1][-1]
    below = curve.t[last + 1].item() if last + 1 < len(worse) else None
    excess, error = -curve.gain[most].item(), curve.gain_error[most].item()
    numbers |= {"below": below, "excess": excess, "error": error}
    ranges = (" to ".join(when(curve.t[k]) for k in dict.fromkeys((run[0], run[-1]))) for run in found)
    said = (
        f"the network is worse than the prior's own denoiser at {' and '.join(f't = {each}' for each in ranges)} "
        f"(squared error higher by up to {excess:.3g} +- {error:.2g}, at t = {when(curve.t[most])})"
    )
    verdict: Verdict = "doubtful" if at is None and worse[: last + 1].all() else "bad"
    if below is None:
        verdict, said = "bad", f"{said}, down to the lowest level: no start skips that"
    elif at is not None and at.index > last:
        verdict, said = "good", f"{said}; a start at t = {when(at.t)} skips that"
    else:
        said = f"{said}: there it should be skipped, start at t = {when(below)} or below"
    return Finding("network", verdict, said, numbers)


def finite(value: Any) -> Any:
    """Return anything that a report holds as JSON has it, None in the place of a number that is not finite."""
    return json.loads(json.dumps(plain(value)), parse_constant=lambda _: None)
