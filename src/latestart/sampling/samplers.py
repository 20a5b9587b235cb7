"""Samplers by name: diffusers scheduler classes, made from the scheduler that a model was trained with.

Each family of schedulers has classes of its own (`families.py`); "own" is the class of the model's scheduler.

"sde-dpm++" is the class of "dpm++" with the algorithm that adds noise.

Three classes are our own. The prior solver has a file to itself (`prior_solver.py`), and so has DDIM with a share of
noise (`noisy_ddim.py`). iPNDM (Zhang and Chen, "Fast
sampling of diffusion models with exponential integrator", 2023, section 4) is the Adams-Bashforth method in the level
sigma, with the coefficients of equal steps for any steps, and with the lower orders in place of Runge-Kutta steps at
the beginning:

    e_k = (y_k - D(y_k, sigma_k)) / sigma_k
    y_(k+1) = y_k + (sigma_(k+1) - sigma_k) sum_j c_(q,j) e_(k-j),    q = min(k + 1, 4)

LMS is the same with the coefficients of the steps as they are. diffusers' own `IPNDMScheduler` has a noise process of
its own, with times in [0, 1] and the prediction of v: it fits no network that was trained on betas.
"""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import diffusers

from latestart.sampling.families import Family, family_of, level_spreader
from latestart.sampling.guard import class_below, prior_inside
from latestart.sampling.names import ALGORITHMS, OWN, PRIOR, SAMPLERS, SPACINGS
from latestart.sampling.noisy_ddim import NoisyDDIMScheduler
from latestart.sampling.prior_solver import IGNORED, PriorMultistepScheduler
from latestart.sampling.spacings import spaced

__all__ = [
    "IPNDM", "SAMPLERS", "can_clip", "class_for", "clipping", "has_times", "make_sampler", "sampler_class",
    "usual_sampler",
]  # fmt: skip

ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class IPNDM(diffusers.LMSDiscreteScheduler):
    """LMS with the coefficients of Adams and Bashforth for equal steps; settings and times are those of LMS."""

    sigmas: Any

    def get_lms_coefficient(self, order: int, t: int, current_order: int) -> float:
        """The weight `(sigma_(t+1) - sigma_t) c_(order,current_order)` of one earlier slope, at the step `t`."""
        return float(self.sigmas[t + 1] - self.sigmas[t]) * ADAMS_BASHFORTH[order - 1][current_order]


def sampler_class(name: str, samplers: Mapping[str, str] = SAMPLERS) -> type:
    """The class of the sampler called `name`.

    Args:
        name: a short name.
        samplers: diffusers' classes by their short names, of a family of schedulers.

    Raises:
        ValueError: the name is not known.
    """
    if name == PRIOR:
        return PriorMultistepScheduler
    if name not in samplers:
        raise ValueError(f"there is no sampler {name!r}; there are {', '.join((*samplers, PRIOR))}")
    return IPNDM if name == "ipndm" else getattr(diffusers, samplers[name])


def can_clip(sampler: str | type) -> bool:
    """Whether a sampler, by its name or class, can clip the predicted image to [-1, 1] at every step."""
    known = _settings(sampler_class(sampler) if isinstance(sampler, str) else sampler)
    return any(setting in known for setting in ("clip_sample", "thresholding"))


def has_times(name: str, trained: Any) -> bool:
    """Whether the class of a sampler over the levels of `trained` has the spacings of times."""
    return "timestep_spacing" in _settings(
        type(level_spreader(trained)) if name == PRIOR else class_for(name, family_of(trained))
    )


def clipping(sampler: str | type, clip: bool) -> dict[str, Any]:
    """Keyword arguments of `make_sampler` that switch clipping of the predicted image on or off, by name or class.

    Some classes clip only by a dynamic threshold of at most 1. For one that cannot clip at all the arguments hold a
    setting that it does not have, so that `make_sampler` refuses it.
    """
    known = _settings(sampler_class(sampler) if isinstance(sampler, str) else sampler)
    if "clip_sample" in known:
        return {"clip_sample": clip}
    if not clip:
        return {}
    return {"thresholding": True, "sample_max_value": 1.0} if "thresholding" in known else {"clip_sample": True}


def _settings(kind: Any) -> Any:
    return inspect.signature(kind.__init__).parameters


def make_sampler(name: str, trained: Any, prior: Any = None, spacing: str | None = None, **changes: Any) -> Any:
    """The diffusers scheduler called `name`, over the levels of the scheduler `trained`.

    Args:
        name: a short name (`SAMPLERS`), "own" for the class of `trained`, or "prior" for the prior solver.
        trained: the scheduler that the model was trained with; its noise levels and its prediction type are kept.
        prior: for "prior", the one inside: a Gaussian, a mixture, another prior that denoises, or the path of a file.
            For others the name of a spacing may stand in this place.
        spacing: of its times or levels (`sampling/spacings.py`); None leaves that of the configuration.
        changes: of the configuration, such as `clip_sample=True`. DDIM and the prior solver have `eta`, the share of
            noise from 0 to 1: one number, or a sequence with one for each step.

    Raises:
        TypeError: something that is no prior.
        ValueError: a name is not known, or not for such a schedule, or the class has no such setting; the prior solver
            without a prior, or a prior for another sampler.
    """
    if isinstance(prior, str) and (prior in SPACINGS or name != PRIOR):
        if spacing is not None:
            raise ValueError(f"expected one spacing, received {prior!r} and {spacing!r}")
        prior, spacing = None, prior
    if (inside := prior_inside(trained)) is not None:  # a prior solver: its class, or another over its levels
        name, prior = (PRIOR, prior or inside) if name == OWN else (name, prior)
        trained = trained.grid
    if (prior is None) == (name == PRIOR):
        raise ValueError(
            "the prior solver needs a prior: make_sampler('prior', scheduler, prior)"
            if prior is None
            else f"the sampler {name!r} has no prior inside: give it to late_start's start_sample, or take 'prior'"
        )
    if name == PRIOR:
        return _prior_solver(trained, prior, spacing, changes)
    kind: Any = class_for(name, family_of(trained))
    known = _settings(kind)
    if kind is diffusers.DDIMScheduler and "eta" in changes:
        kind, known = NoisyDDIMScheduler, _settings(NoisyDDIMScheduler)
    if name in ALGORITHMS and _is_stochastic(trained) != (name == "sde-dpm++"):
        changes = {"algorithm_type": ALGORITHMS[name], **changes}
    if "skip_prk_steps" in known:  # PNDM's Runge-Kutta steps cannot be done at 3 steps
        changes = {"skip_prk_steps": True, **changes}
    return _made(kind, trained, spacing, changes, known)


def _is_stochastic(scheduler: Any) -> bool:
    """Whether the configuration of a scheduler asks DPM solvers for the algorithm that adds noise."""
    return str(scheduler.config.get("algorithm_type")).startswith("sde")


def _prior_solver(trained: Any, prior: Any, spacing: str | None, changes: dict[str, Any]) -> Any:
    """The prior solver over the levels of a scheduler; changes are its own settings, or those of its grid."""
    own, grid = dict(_settings(PriorMultistepScheduler)), level_spreader(trained)
    mine = {name: changes.pop(name) for name in list(changes) if name in own and name != "prior"}
    known = set(_settings(type(grid))) - IGNORED
    return PriorMultistepScheduler(
        _made(type(grid), grid, spacing, changes, known, PriorMultistepScheduler), prior, **mine
    )


def _made(
    kind: Any, source: Any, spacing: str | None, changes: dict[str, Any], known: Collection[str], asked: Any = None
) -> Any:
    """A scheduler of a class from another's configuration, with a spacing and changes.

    Args:
        kind: the class.
        source: the scheduler whose configuration is taken.
        spacing, changes: as for `make_sampler`.
        known: names of the settings that may be changed.
        asked: the class that a refusal names; None for `kind`.

    Raises:
        ValueError: no such spacing, or a setting that is not known.
    """
    if spacing is not None:
        kind, settings = spaced(kind, spacing)
        changes = {**settings, **changes}
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"{(asked or kind).__name__} has no setting {', '.join(unknown)}")
    own = inspect.signature(kind.__init__).parameters  # of others diffusers warns, and leaves them out
    config = {name: value for name, value in source.config.items() if name in own or name in known}
    # from_config takes the new class's own defaults, even of the betas, for the names in this list
    return kind.from_config({**config, "_use_default_values": []}, **changes)


def usual_sampler(name: str | None, trained: Any, clip: bool = False, prior: Any = None, eta: float = 0.0) -> Any:
    """A sampler as commands make it: with trailing times where it has times, clipped or not.

    Args:
        name: as for `make_sampler`; None is DDIM of a beta-based schedule, and the model's own of any other.
        trained: the scheduler that the model was trained with.
        clip: whether the predicted image is clipped to [-1, 1] at every step.
        prior: the one inside the prior solver; others have none.
        eta: the share of noise of DDIM or the prior solver; others have none.

    Raises:
        ValueError: as `make_sampler`; the class cannot clip, and `clip` is set.
    """
    family = family_of(trained)
    name = name or family.usual
    kind = class_for(name, family)
    if name == PRIOR:
        kind, own = type(level_spreader(trained)), {"prior": prior, "eta": eta, "clip_sample": clip}
    else:
        own = clipping(kind, clip) | ({"eta": eta} if eta else {})
    spacing = "trailing" if has_times(name, trained) else None
    return make_sampler(name, trained, spacing=spacing, **own)


def class_for(name: str, family: Family) -> type:
    """The class of the sampler called `name`, or the model's own, for a family of schedules.

    Raises:
        ValueError: the name is not known, or not for such a schedule.
    """
    if name == OWN:
        return class_below(family.scheduler)
    if name in SAMPLERS and name not in family.samplers:
        raise ValueError(
            f"the sampler {name!r} is for beta-based schedules, and the model's is of the kind {family.kind}: there "
            f"are {', '.join(family.samplers)} and {OWN}"
        )
    return sampler_class(name, family.samplers)
