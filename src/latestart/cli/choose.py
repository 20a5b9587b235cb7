"""The command `choose`: the best start of a model, a prior and a sampler."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import bar, features, inside, look_for, opened, say
from latestart.lab.setup import Pictures, Started
from latestart.settings import seed_setting, setting

__all__ = ["ChooseSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class ChooseSettings(Pictures, Started):
    """Choose where to start sampling, by a probe, at a small share of a search."""

    images: Path | None = setting(
        None, "Held-out images: a parquet file, a folder or an npz file; default: the shipped ones.", of="file"
    )
    method: str = setting("probe", "probe, nats or stability.")
    features: str | None = setting(
        None,
        "Features to probe with, of a shipped model or efficientnet-lite0, or network: the model's own activations; "
        "default: the classifier beside the model, else network.",
    )
    probes: int | None = setting(
        None, "Samples of all probes together; default: 1,000 with images, else 400 or fewer.", least=200
    )
    seed: int = seed_setting("Seed of the noise and of the order of the images.")


@with_settings(ChooseSettings)
def choose(
    asked: ChooseSettings,
    out: Annotated[Path | None, typer.Option(help="File for the choice and its evidence (JSON).")] = None,
) -> None:
    look_for(asked, out=out and out.parent)
    from dataclasses import asdict

    from latestart.data import load_images
    from latestart.denoisers.wrappers import of_velocity
    from latestart.files import write_json
    from latestart.lab.report import show, table
    from latestart.sampling.choose import choose_start
    from latestart.sampling.samplers import usual_sampler

    network, trained, start, shipped = opened(asked, asked.prior, True)
    data = shipped and shipped.images("heldout-a")
    if asked.images is not None:
        data = load_images(asked.images, background=asked.background)
    network, trained = of_velocity(network, trained)
    sampler = usual_sampler(asked.sampler, trained, prior=inside(asked, start), eta=asked.eta)
    with bar("choosing") as advance:
        choice = choose_start(
            network, sampler, start, data, asked.steps, asked.method,
            features=features(asked, shipped), probes=asked.probes,
            check_prior=asked.check_prior, seed=asked.seed, progress=advance,
        )  # fmt: skip
    if out is not None:
        write_json(out, asdict(choice))
    made = table(f"Starts, chosen by {choice.method}", "t_start", "sigma", "nats", "energy distance", "samples")
    for c in choice.evidence:
        known = [f"{x:.3g}" if x is not None else "-" for x in (c.nats, c.distance)]
        style = "bold" if c.t_start == choice.t_start else None
        made.add_row(f"{c.t_start:g}", f"{c.sigma:.3f}", *known, str(c.samples or "-"), style=style)
    show(made)
    say(f"start at t = {choice.t_start:g} (sigma = {choice.sigma:.3g}): {choice.how}")
    for doubt in choice.doubts:
        say(f"warning: {doubt}")
    say(f"{choice.nfe} network evaluations in all" + (f"; wrote {out}" if out else ""))
