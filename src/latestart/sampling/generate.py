"""Images from a model in one call, late-started at a given time or where `choose_start` finds it best."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from latestart.denoisers.adapter import as_network
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.wrappers import of_velocity
from latestart.gaussians.prior import as_prior, as_start
from latestart.sampling.choose import choose_start
from latestart.sampling.families import family_of
from latestart.sampling.guard import LateStarted, prior_inside
from latestart.sampling.late_start import checked_scheduler, late_start
from latestart.sampling.loop import Result, check_level, checked, draw
from latestart.sampling.matching import check_prior as compare
from latestart.sampling.matching import doubt
from latestart.sampling.names import telling
from latestart.sampling.recipe import Recipe, load_recipe

__all__ = ["generate"]


@telling
def generate(
    model: Any,
    scheduler: Any = None,
    prior: Any = None,
    n: int = 64,
    steps: int | None = None,
    t_start: float | None = None,
    seed: int = 0,
    noise: Tensor | None = None,
    labels: Tensor | int | None = None,
    batch_size: int | None = None,
    *,
    model_kwargs: Mapping[str, Any] | None = None,
    check_prior: bool = True,
    first: int = 0,
    progress: bool = False,
    recipe: Any = None,
) -> Result:
    """Sample images from a diffusers model, from full noise, from a late start, or as a recipe says.

    Args:
        model: a diffusers network, an exact model through `as_model`, or a function through `as_network`.
        scheduler: any diffusers scheduler; its own spacing and clipping are used. It is not changed. One that is
            late-started already keeps its start. With a recipe it may be left out.
        prior: where a late start draws from, a `Gaussian` fitted to the clean images, or the path of its file; None
            stands for N(0, I).
        n: number of images; with `noise`, its length counts.
        steps: steps of the sampler; 5 if not given.
        t_start: where to start, in the scheduler's t, a time of its training: larger is noisier. None starts from full
            noise; with a prior, `choose_start` is asked, without images, which costs about 3,500 evaluations that are
            not counted in `nfe`: to choose once for many runs, or with images at hand, ask it yourself.
        seed: sample i depends on (seed, i) alone.
        noise: white noise `(n, *shape)` to start from, in place of the seed's.
        labels: for class-conditional models, a class index or `(n,)` of them.
        batch_size: samples evaluated at once; at most 256 if not given.
        model_kwargs: further conditions, by the names of the network's own arguments, one row for each sample.
        check_prior: compare the prior with the model first, by 64 evaluations that are not counted in `nfe`, and warn
            where `check` would call the start bad, by 32 more; another prior inside the prior solver is compared too.
        first: index of the first sample: a part of a run, made by itself, has the same samples as in the whole.
        progress: show a progress bar, on a terminal.
        recipe: what `tune` found, or the path of its file: the prior, the start, the sampler and the steps are its own.

    Raises:
        TypeError: no scheduler and no recipe, something that is no network, scheduler, prior or recipe, or an argument
            by its name in diffusers.
        ValueError: a recipe of another model, or beside a prior, a start or steps; a prior whose shape or value range
            is not the model's; labels, noise or conditions of the wrong length; a start or a scheduler that
            `late_start` refuses.
        FloatingPointError: the samples hold NaN or infinite values.

    Warns:
        UserWarning: the network does not follow the prior at the start.
    """
    if recipe is not None:
        asked = {"prior": prior, "steps": steps, "t_start": t_start}
        return _by_recipe(
            model, scheduler, recipe, asked, n, seed, noise, labels, batch_size, model_kwargs, first, progress
        )
    network = as_network(model)
    scheduler, steps = checked_scheduler(scheduler), 5 if steps is None else steps
    n, steps, noise, _ = checked(network.sample_shape, n, steps, noise, batch_size)
    conditions = Conditions(network, labels, model_kwargs, n)
    late = t_start is not None or isinstance(scheduler, LateStarted)
    if prior is None or late:
        check_level(network, scheduler, t_start)
    inside = prior_inside(scheduler)
    if inside is not None and inside is not prior and check_prior:
        compare(network, scheduler, inside.to(network.device), conditions)
    if prior is not None:
        prior = as_start(prior).to(network.device)
        if late and t_start is None:
            begun = scheduler
        else:  # from the top, one that cannot be late-started shows it before any work
            begun = late_start(scheduler, family_of(scheduler).top if t_start is None else t_start, steps)
        if late and check_prior:
            compare(network, scheduler, prior, conditions)
            if said := doubt(network, begun, prior, conditions):
                warnings.warn(said, stacklevel=2)
        elif not late:  # which checks the prior as well
            prior = as_prior(prior, "choosing a start, where t_start is not given,")
            given: dict[str, Any] = {"labels": labels, "model_kwargs": model_kwargs, "check_prior": check_prior}
            chosen = choose_start(network, scheduler, prior, steps=steps, **given)
            t_start = chosen.t_start
            for said in chosen.doubts:
                warnings.warn(said, stacklevel=2)
    return draw(
        network, scheduler, prior, n, steps, t_start, seed, noise, labels, batch_size,
        model_kwargs=model_kwargs, first=first, progress=progress,
    )  # fmt: skip


def _by_recipe(
    model: Any, scheduler: Any, recipe: Any, asked: Mapping[str, Any], n: int, seed: int, noise: Tensor | None,
    labels: Any, batch_size: int | None, model_kwargs: Mapping[str, Any] | None, first: int, progress: bool,
) -> Result:  # fmt: skip
    """Sample as a recipe says, after a look whether it is for this model."""
    if given := [name for name, value in asked.items() if value is not None]:
        raise ValueError(f"a recipe brings its own {', '.join(asked)}: received {given[0]} beside it")
    recipe = load_recipe(recipe) if isinstance(recipe, str | Path) else recipe
    if not isinstance(recipe, Recipe):
        raise TypeError(f"expected a recipe that ls.tune found, or its path, received a {type(recipe).__name__}")
    trained = recipe.trained() if scheduler is None else checked_scheduler(scheduler)
    recipe.require(model, trained)
    network, trained = of_velocity(as_network(model), trained)
    recipe = recipe.to(as_network(network).device)
    return draw(
        network, recipe.begun(trained), recipe.prior, n, recipe.steps, None, seed, noise, labels, batch_size,
        model_kwargs=model_kwargs, first=first, progress=progress,
    )  # fmt: skip
