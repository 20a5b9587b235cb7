"""Ways to sample: a sampler with its options, a start, and a spacing, made into a scheduler.

    way = Way(sampler="ddpm", prior="mixture", t_start=300)
    steps = way.steps_for(5, scheduler)                 # the steps at which it spends five evaluations
    begun = way.begun(scheduler, steps)                 # the scheduler of a run
    result = draw(model, begun, prior, n, steps)

Priors stand in a way by name; whoever uses it knows which prior each name means. Nothing heavy is imported here.
"""

from dataclasses import dataclass, fields
from typing import Any

from latestart.sampling.names import PRIOR, TIMES

__all__ = ["FULL", "GAUSSIAN", "OPTIONS", "PLAIN", "Way"]

FULL, PLAIN = "none", "isotropic"  # N(0, I) at the top of the schedule, and at a late start
GAUSSIAN = "gaussian"  # the Gaussian of all images
OPTIONS = ("last", "inside", "eta", "order", "substeps", "times", "shares")


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to sample.

    Attributes:
        sampler: its short name.
        prior: `none` (full noise), `isotropic`, or the name of the prior of a late start.
        t_start: where a late start begins, in the scheduler's t; None from full noise.
        spacing: of the times or of the levels.
        clip: whether the predicted image is clipped at every step.
        last: the time of the last evaluation, the others evenly spread from the start to it; None leaves the spacing's.
        inside: the prior inside the prior solver, by name; None for that of the start, or from full noise and isotropic
            starts for the Gaussian.
        eta: the share of noise of the prior solver and of DDIM; None is none.
        order: the prior solver's order; None is 2.
        substeps: its small steps with the prior's own denoiser inside; None for a Gaussian inside.
        times: of all steps, falling from the start; None leaves them to the spacing or to `last`.
        shares: the share of noise of each step, in the place of `eta`.
    """

    sampler: str
    prior: str = FULL
    t_start: float | None = None
    spacing: str = TIMES[0]
    clip: bool = False
    last: int | None = None
    inside: str | None = None
    eta: float | None = None
    order: int | None = None
    substeps: int | None = None
    times: tuple[float, ...] | None = None
    shares: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("times", "shares"):  # lists, as JSON has them
            if isinstance(several := getattr(self, name), list):
                object.__setattr__(self, name, tuple(several))

    @property
    def within(self) -> str | None:
        """The name of the prior inside the prior solver; None for other samplers."""
        if self.sampler != PRIOR:
            return None
        return self.inside or (GAUSSIAN if self.prior in (FULL, PLAIN) else self.prior)

    def record(self) -> dict[str, Any]:
        """Return the way for JSON, without the options that it leaves alone."""
        known = {one.name: getattr(self, one.name) for one in fields(Way)}
        return {name: value for name, value in known.items() if value is not None or name not in OPTIONS}

    def settings(self, trained: Any) -> dict[str, Any]:
        """Return the arguments of `make_sampler` for the sampler, over the levels of a scheduler.

        The first spacing, trailing times, is left out of classes that have no choice of times.
        """
        from latestart.sampling.families import family_of  # heavy: a command line needs ways alone
        from latestart.sampling.samplers import class_for, clipping, has_times

        known = {"eta": self.shares or self.eta, "solver_order": self.order, "substeps": self.substeps}
        own = {name: value for name, value in known.items() if value is not None}
        timed = self.spacing != TIMES[0] or has_times(self.sampler, trained)
        clipped = clipping(class_for(self.sampler, family_of(trained)), self.clip)
        return {"spacing": self.spacing if timed else None, **clipped, **own}

    def made(self, trained: Any, inside: Any = None) -> Any:
        """Return the sampler, over the levels of the scheduler `trained`, not late-started yet.

        Args:
            trained: the scheduler that the model was trained with.
            inside: the prior inside the prior solver; None for other samplers.
        """
        from latestart.sampling.samplers import make_sampler

        return make_sampler(self.sampler, trained, inside, **self.settings(trained))

    def begun(self, trained: Any, steps: int, inside: Any = None) -> Any:
        """Return the scheduler of a run in so many steps: late-started, or from full noise the sampler itself.

        Raises:
            ValueError: the sampler has no such setting, or cannot start there.
        """
        return self._from_start(self.made(trained, inside), steps)

    def steps_for(self, nfe: int, trained: Any, inside: Any = None) -> int:
        """Return the number of steps at which the way costs `nfe` network evaluations.

        The sampling loop evaluates once at each of the times that a scheduler sets; no step is free, so there are at
        most as many steps as evaluations.

        Raises:
            ValueError: the sampler has no such setting, cannot start there, or costs more or fewer at any number of
                steps.
        """
        sampler, counts = self.made(trained, inside), {}
        for steps in range(nfe, 0, -1) if self.times is None else (len(self.times),):
            begun = self._from_start(sampler, steps)
            if begun is sampler:
                sampler.set_timesteps(steps)
            counts[steps] = len(begun.timesteps)
            if counts[steps] == nfe:
                return steps
            if counts[steps] < nfe:
                break
        near = ", ".join(f"{counts[steps]} at {steps}" for steps in sorted(counts)[:2])
        raise ValueError(f"{self.sampler} cannot spend {nfe} evaluations: it spends {near} steps")

    def describe(self) -> str:
        """Return the way in a few words."""
        return f"{self.sampler}, {self.path()}"

    def path(self) -> str:
        """Return all but the sampler's name in a few words: start, spacing and options."""
        start = "full noise" if self.t_start is None else f"{self.prior} at t = {self.t_start:g}"
        last = "" if self.last is None else f", down to t = {self.last}"
        last += "" if self.times is None else f", at t = {', '.join(f'{t:g}' for t in self.times)}"
        told = "" if self.within is None else f", {self.within} inside"
        clipped = ", clipped" if self.clip else ""
        return f"{start}, {self.spacing}{last}{clipped}{told}{self.own_options()}"

    def own_options(self) -> str:
        """Return the options of the sampler that are not its default ones, each after a comma."""
        order = "" if self.order is None else f", order {self.order}"
        inner = "" if self.substeps is None else f", {self.substeps} substeps"
        shares = self.shares or (() if self.eta is None else (self.eta,))
        return order + inner + (f", eta {' '.join(f'{share:g}' for share in shares)}" if shares else "")

    def _from_start(self, sampler: Any, steps: int) -> Any:
        from latestart.sampling.families import family_of
        from latestart.sampling.late_start import late_start

        if self.times is not None:
            return late_start(sampler, self.t_start, steps, times=self.times)
        if self.last is None and self.t_start is None:
            return sampler
        top = family_of(sampler).top if self.t_start is None else self.t_start
        return late_start(sampler, top, steps, last=self.last)
