"""The command `choose`: the best start of a model, a prior and a sampler."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latestart.cli.options import first_sentences, with_settings
from latestart.cli.support import SHIPPED_PRIORS, bar, friendly, look_for, say
from latestart.lab.setup import Pictures, Started
from latestart.settings import seed_setting, setting

if TYPE_CHECKING:
    from rich.table import Table

    from latestart.sampling.choose import Choice

__all__ = ["ChooseSettings", "choose"]


@dataclass(frozen=True, kw_only=True)
class ChooseSettings(Pictures, Started):
    """Choose where to start sampling, by nats and a probe, at a small share of a search."""

    images: Path | None = setting(
        None, "Held-out images: a parquet file, a folder or an npz file; default: the shipped ones.", of="file"
    )
    prior: str | None = setting(None, "A prior that `latestart fit` wrote; default: the shipped.")
    method: str | None = setting(None, "nats, stability, probe, nats+probe; default: the last, if there are features.")
    features: str | None = setting(None, "Shipped features to probe with; default: those of the shipped model.")
    probes: int = setting(2000, "Samples of all probes together.", least=200)
    seed: int = seed_setting("Seed of the noise and of the order of the images.")


def choose(
    given: dict[str, Any],
    out: Annotated[Path | None, typer.Option(help="File for the choice and its evidence (JSON).")] = None,
) -> None:
    with friendly():
        asked = ChooseSettings.read(given)
        prior = None if asked.prior in SHIPPED_PRIORS else asked.prior
        look_for(asked, prior, out=out and out.parent)
        from dataclasses import asdict

        from rich.console import Console

        from latestart import zoo
        from latestart.data import load_images
        from latestart.denoisers.wrappers import of_velocity
        from latestart.device import own_device
        from latestart.files import write_json
        from latestart.sampling.choose import choose_start
        from latestart.sampling.samplers import usual_sampler

        opened: dict[str, Any] = {"scheduler": asked.scheduler, "mixed_precision": asked.mixed_precision}
        network, trained, start = zoo.open_model(asked.model, asked.prior, True, own_device(), **opened)
        shipped = asked.model in zoo.names() and not Path(asked.model).is_dir()
        data = zoo.load(asked.model).images("heldout-a") if shipped else None
        if asked.images is not None:
            data = load_images(asked.images, background=asked.background)
        network, trained = of_velocity(network, trained)
        with bar("choosing") as advance:
            choice = choose_start(
                network, usual_sampler(asked.sampler, trained), start, data, asked.steps, asked.method,
                features=asked.features or (asked.model if shipped else None), probes=asked.probes,
                check_prior=asked.check_prior, seed=asked.seed, progress=advance,
            )  # fmt: skip
        if out is not None:
            write_json(out, asdict(choice))
    Console().print(choice_table(choice))
    say(f"start at t = {choice.t_start:g} (sigma = {choice.sigma:.3g}): {choice.how}")
    for doubt in choice.doubts:
        say(f"warning: {doubt}")
    say(f"{choice.nfe} network evaluations in all" + (f"; wrote {out}" if out else ""))


def choice_table(choice: "Choice") -> "Table":
    """The starts that were looked at, highest noise first, with the figures of each."""
    from latestart.lab.report import table

    made = table(f"Starts, chosen by {choice.method}", "t_start", "sigma", "nats", "energy distance", "samples")
    for c in choice.evidence:
        known = [f"{x:.3g}" if x is not None else "-" for x in (c.nats, c.distance)]
        style = "bold" if c.t_start == choice.t_start else None
        made.add_row(f"{c.t_start:g}", f"{c.sigma:.3f}", *known, str(c.samples or "-"), style=style)
    return made


choose.__doc__ = first_sentences(ChooseSettings)
choose = with_settings(ChooseSettings, choose)
