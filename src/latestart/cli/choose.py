"""The command `choose`: where to start."""

from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.support import (
    Background,
    CheckPrior,
    MixedPrecision,
    Model,
    Sampler,
    Scheduler,
    bar,
    check_first,
    friendly,
    say,
    seed_option,
)

SHIPPED = ("gaussian", "mixture")  # priors by name


def choose(
    model: Model,
    images: Annotated[
        Path | None,
        typer.Option(help="Held-out images: a parquet file, a folder or an npz file; default: the shipped ones."),
    ] = None,
    prior: Annotated[
        Path | None, typer.Option(help="A prior that `latestart fit` wrote; default: the shipped.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 5,
    sampler: Sampler = None,
    method: Annotated[
        str | None, typer.Option(help="nats, stability, probe, nats+probe; default: the last, if there are features.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Shipped features to probe with; default: those of the shipped model.")
    ] = None,
    probes: Annotated[int, typer.Option(min=200, help="Samples of all probes together.")] = 2000,
    out: Annotated[Path | None, typer.Option(help="File for the choice and its evidence (JSON).")] = None,
    scheduler: Scheduler = None,
    background: Background = None,
    mixed_precision: MixedPrecision = "no",
    check_prior: CheckPrior = True,
    seed: Annotated[int, seed_option("Seed of the noise and of the order of the images.")] = 0,
) -> None:
    """Choose where to start sampling, by nats and a probe, at a small share of a search."""
    with friendly():
        check_first(images, None if str(prior) in SHIPPED else prior, models=[model], samplers=[sampler])
        if out is not None:
            check_first(out=out.parent)
        from dataclasses import asdict

        from rich.console import Console

        from latestart import zoo
        from latestart.data import load_images
        from latestart.denoisers.wrappers import of_velocity
        from latestart.device import own_device
        from latestart.files import write_json
        from latestart.report.tables import choice_table
        from latestart.sampling.choose import choose_start
        from latestart.sampling.samplers import usual_sampler

        network, trained, start = zoo.open_model(
            model, prior, True, own_device(), scheduler=scheduler, mixed_precision=mixed_precision
        )
        shipped = model in zoo.names() and not Path(model).is_dir()
        held_out = zoo.load(model).images("heldout-a") if shipped else None
        data = load_images(images, background=background) if images else held_out
        network, trained = of_velocity(network, trained)
        with bar("choosing") as advance:
            choice = choose_start(
                network, usual_sampler(sampler, trained), start, data, steps, method,
                features=features or (model if shipped else None), probes=probes, check_prior=check_prior,
                seed=seed, progress=advance,
            )  # fmt: skip
        if out is not None:
            write_json(out, asdict(choice))
    Console().print(choice_table(choice))
    say(f"start at t = {choice.t_start:g} (sigma = {choice.sigma:.3g}): {choice.how}")
    for doubt in choice.doubts:
        say(f"warning: {doubt}")
    say(f"{choice.nfe} network evaluations in all" + (f"; wrote {out}" if out else ""))
