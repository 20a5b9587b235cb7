"""From a model to images in one call: a late start where it is told to, or where `choose_start` finds it best."""

from typing import Any

from torch import Tensor

from latestart.denoisers.networks import sample_shape
from latestart.noise import Noise
from latestart.sampling.choose import choose_start
from latestart.sampling.late_start import Prior, late_start
from latestart.sampling.loop import Result, check_level, checked, draw
from latestart.sampling.matching import check_prior


def generate(
    model: Any,
    scheduler: Any,
    prior: Prior | None = None,
    n: int = 64,
    steps: int = 5,
    t_start: float | None = None,
    seed: int = 0,
    noise: Tensor | None = None,
    labels: Tensor | int | None = None,
    batch_size: int | None = None,
    *,
    first: int = 0,
    progress: bool = False,
) -> Result:
    """Sample images from a diffusers model, from full noise or from a late start.

    Args:
        model: a diffusers network, or an exact model through `as_model`; in [-1, 1].
        scheduler: any diffusers scheduler; its own spacing and clipping are used. It is not changed.
        prior: where a late start draws from, a `Gaussian` fitted to the clean images; None stands for N(0, I). It is
            compared with the model first (`check_prior`), which is not counted in `nfe`.
        n: number of images; with `noise`, its length counts.
        steps: steps of the sampler.
        t_start: where to start, in the scheduler's t. None starts from full noise; with a prior, `choose_start` is
            asked, without images, which costs about 1,500 evaluations that are not counted in `nfe`: to choose once
            for many runs, or with images at hand, ask it yourself.
        seed: sample i depends on (seed, i) alone.
        noise: white noise `(n, *shape)` to start from, in place of the seed's.
        labels: for class-conditional models, a class index or `(n,)` of them.
        batch_size: samples evaluated at once; at most 256 if not given.
        first: index of the first sample: a part of a run, made by itself, is what it is in the whole.
        progress: show a progress bar, on a terminal.

    Raises:
        ValueError: a prior whose shape or value range is not the model's; labels or noise of the wrong length; a start
            or a scheduler that `late_start` refuses.
        FloatingPointError: the samples hold NaN or infinite values.
    """
    _, steps, labels, noise = checked(model, sample_shape(model), n, steps, labels, noise, batch_size)
    if prior is None or t_start is not None:
        check_level(model, scheduler, t_start)
    if prior is not None:
        late_start(scheduler, _top(scheduler, steps) if t_start is None else t_start, steps)  # refuses before any work
        prior = prior.to(model.device) if hasattr(prior, "to") else prior
    if prior is not None and t_start is not None:
        check_prior(model, scheduler, prior, labels)
    elif prior is not None:  # which checks the prior as well
        t_start = choose_start(model, scheduler, prior, steps=steps, labels=labels).t_start
    return draw(
        model, scheduler, prior, n, steps, t_start, seed, noise, labels, batch_size, first=first, progress=progress
    )


def _top(scheduler: Any, steps: int) -> float:
    """The top of a schedule that a start can be chosen on."""
    if Noise.from_scheduler(scheduler).kind != "vp":
        raise ValueError(
            f"a start is chosen on beta-based schedulers only, received a {type(scheduler).__name__}: give t_start, in "
            "its own time"
        )
    if steps > len(scheduler.alphas_cumprod):
        raise ValueError(f"{steps} steps are more than the schedule's {len(scheduler.alphas_cumprod)} times")
    return len(scheduler.alphas_cumprod)
