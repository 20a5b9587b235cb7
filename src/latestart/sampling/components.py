"""Choice of the number of components of a mixture: held-out images must support it, and copying forbid nothing.

More components describe the images that they were fitted to ever better, and at one for each image they replay them.
Two measures hold against that, both on images that no candidate was fitted to:

    held-out log-density    mean of log p(x + sigma eps) over held-out images x, with the same noise for every candidate
    copied                  the share of the mixture's samples that are nearer to the fitted images than chance explains
                            (`evaluation/copying.py`); of generated images where a model is given

Among the numbers whose copying is within its bar, the smallest is chosen whose held-out log-density is within one
standard error of their best (the paired difference from it counts, Breiman et al. 1984).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from latestart.checks import seeded, whole_number
from latestart.data import Images
from latestart.evaluation.copying import Copying, CopyingFrom
from latestart.gaussians.components import EmptyComponent
from latestart.gaussians.mixture import Mixture
from latestart.inputs.front import as_images
from latestart.inputs.ranges import require_same_range
from latestart.records import Record
from latestart.sampling.late_start import late_start, start_level
from latestart.sampling.loop import draw
from latestart.sampling.seeds import white_noise

__all__ = ["FEWEST", "ComponentsChoice", "Trial", "choose_components"]

log = logging.getLogger(__name__)

FEWEST = 200  # held-out images: the threshold for copies is a quantile of half of them
CANDIDATES = (1, 2, 5, 10, 30, 100, 300)
SAMPLES = 1000
SEEN = 2000  # fitted images at most that copies are looked for in
PER_COMPONENT = 20  # images that a component needs on average, to be a candidate


@dataclass(frozen=True, eq=False, repr=False)
class Trial(Record):
    """A number of components, with its evidence.

    Attributes:
        components: how many.
        log_density: mean of the noised held-out images' log-density, in nats.
        behind: by how much it is behind the best of those within the bar of copying, with the standard error of the
            paired difference, `(nats, error)`; of all, where none is.
        copying: of its samples.
    """

    components: int
    log_density: float
    behind: tuple[float, float]
    copying: Copying


@dataclass(frozen=True, eq=False, repr=False)
class ComponentsChoice(Record):
    """A chosen number of components, the mixture with it, and the evidence."""

    components: int
    mixture: Mixture
    evidence: tuple[Trial, ...]
    sigma: float


def choose_components(
    images: Any,
    held_out: Any,
    sigma: float | None = None,
    candidates: Sequence[int] | None = None,
    *,
    model: Any = None,
    scheduler: Any = None,
    t_start: float | None = None,
    steps: int = 5,
    samples: int = SAMPLES,
    seed: int = 0,
    device: torch.device | str = "cpu",
    **fit: Any,
) -> ComponentsChoice:
    """Choose the number of components of a mixture for a late start at one level.

    Args:
        images: to fit to, whatever `as_images` takes (bytes stay bytes), floats in the model's value range.
        held_out: at least 200 others of the same kind, taken in an order drawn by the seed; half of them serve as the
            second set of the copying check.
        sigma: the noise level of the start; with a model and `t_start` it is that of the run.
        candidates: numbers of components; by default 1, 2, 5, 10, 30, 100, 300, as far as there are 20 images for each.
        model, scheduler, t_start, steps: to look for copies among generated images, not the mixture's own samples.
        samples: number of samples that copies are looked for in.
        seed: of the fits, the noise and the samples.
        device: to fit on.
        fit: what else `Mixture.fit` takes, such as `basis` and `rank`.

    Raises:
        ValueError: too few held-out images, images that are not finite, no level, no candidates or none that the images
            suffice for, fewer than one sample, no number of components within the bar of copying, and what
            `Mixture.fit` raises; only numbers that leave a component without images are left out.
    """
    fitted_to = as_images(images).collected()
    unseen = as_images(held_out, shape=fitted_to.shape).collected()
    for name, given in (("images", fitted_to), ("held_out", unseen)):
        if bad := int((~given.pixels.isfinite()).flatten(1).any(1).sum()):
            raise ValueError(f"expected {name} of finite values, received {bad} with values that are NaN or infinite")
    others, samples = unseen.floats(), whole_number("samples", samples)
    if fitted_to.bare and len(fitted_to):
        low, high = fitted_to.pixels.aminmax()
        require_same_range(others, (float(low), float(high)), "the mixture")
    others = others[torch.randperm(len(others), generator=seeded(seed))]
    if len(others) < FEWEST:
        raise ValueError(f"expected at least {FEWEST} held-out images, received {len(others)}")
    if model is not None:
        sigma = start_level(late_start(scheduler, t_start, steps))
    if sigma is None:
        raise ValueError("expected sigma: the level of the start, received none")
    mixtures = _fitted(replace(fitted_to, device=device), _candidates(candidates, len(fitted_to)), seed, fit)
    y = others + sigma * white_noise(range(len(others)), fitted_to.shape, seed).to(others)
    n = min(SEEN, len(fitted_to), len(others) // 2)
    seen = fitted_to[torch.randperm(len(fitted_to), generator=seeded(seed))[:n]].floats()
    check = CopyingFrom(_unit(seen), _unit(others[:n]), _unit(others[n:]))
    densities, copies = {}, {}
    for k, mixture in mixtures.items():
        noised = mixture.noised(sigma)
        densities[k] = torch.cat([noised.log_prob(part.to(mixture.device)).cpu() for part in y.split(256)])
        if model is None:
            drawn = mixture.push(white_noise(range(samples), mixture.shape, seed).to(mixture.device))
        else:
            drawn = draw(model, scheduler, mixture, samples, steps, t_start, seed).samples
        copies[k] = check(_unit(drawn.cpu()))
    trials = _trials(densities, copies)
    chosen = _chosen(trials)
    return ComponentsChoice(chosen, mixtures[chosen], tuple(trials), float(sigma))


def _trials(densities: dict[int, Tensor], copies: dict[int, Copying]) -> list[Trial]:
    """The evidence for each number: the log-density of every held-out image, and the copying."""
    honest = [k for k in copies if copies[k].within_bar] or list(copies)
    best = densities[max(honest, key=lambda k: float(densities[k].mean()))]
    trials = []
    for k, density in densities.items():
        lost = best - density
        behind = (float(lost.mean()), float(lost.std() / len(lost) ** 0.5))
        trials.append(Trial(k, float(density.mean()), behind, copies[k]))
    return trials


def _chosen(trials: list[Trial]) -> int:
    honest = [trial for trial in trials if trial.copying.within_bar]
    if not honest:
        told = ", ".join(f"{t.components}: {t.copying.copied.value:.3f}" for t in trials)
        raise ValueError(f"the samples of every number of components are copies (share copied: {told})")
    return min(trial.components for trial in honest if trial.behind[0] <= trial.behind[1])


def _candidates(candidates: Sequence[int] | None, count: int) -> list[int]:
    asked = CANDIDATES if candidates is None else tuple(candidates)
    if not asked:
        raise ValueError("expected at least one number of components among the candidates, received none")
    possible = sorted({k for k in asked if k * PER_COMPONENT <= count})
    if not possible:
        raise ValueError(f"{count} images are too few for {min(asked)} components: each needs {PER_COMPONENT}")
    return possible


def _fitted(images: Images, candidates: list[int], seed: int, options: dict[str, Any]) -> dict[int, Mixture]:
    """Fit the mixtures, and leave out numbers of components that the images cannot be divided into."""
    found: dict[int, Mixture] = {}
    failure = None
    for k in candidates:
        try:
            found[k] = Mixture.fit(images, k, seed=seed, **options)
        except EmptyComponent as error:
            log.warning("%d components are left out: %s", k, error)
            failure = error
    if failure is not None and not found:
        raise failure
    return found


def _unit(values: Tensor) -> Tensor:
    return (values.float() / 2 + 0.5).clamp(0, 1)
