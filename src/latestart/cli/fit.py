"""The command `fit`: the prior of a late start."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from latestart.cli.options import with_settings
from latestart.cli.support import bar, look_for, say
from latestart.lab.setup import Pictures
from latestart.settings import seed_setting, setting

__all__ = ["FitSettings", "fit"]


def _number(text: str) -> int | str:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"components is one whole number or auto, received {text!r}") from None


@dataclass(frozen=True, kw_only=True)
class FitSettings(Pictures):
    """Fit the prior of a late start to a set of images; under `torchrun`, with all its processes.

    Images wait as bytes, one for each value, and become numbers a batch at a time: of one Gaussian each process keeps
    its share of them, of a mixture all.
    """

    basis: str = setting(
        "auto", "dense, lowrank, cosine+dense, cosine, fourier, diagonal, channel, isotropic, or auto."
    )
    rank: int | None = setting(None, "Directions of its own, for bases that have such.", least=1)
    components: int | str | None = setting(
        None,
        "A mixture of so many Gaussians; `auto` holds out a tenth of the images to choose, at most 6,000.",
        read=_number,
    )
    by_label: bool = setting(False, "A Gaussian, or `components` of them, for each class.")
    by_attribute: bool = setting(
        False, "The same for each combination of the attributes that an npz file names beside its images."
    )
    sigma: float = setting(2.0, "Noise level at which `auto` compares numbers of components.")
    limit: int | None = setting(None, "Use only the first images.", least=2)
    seed: int = seed_setting("Seed of the directions of a low-rank fit, and of k-means.")

    def check(self) -> None:
        """Refuse labels and attributes at once."""
        if self.by_label and self.by_attribute:
            raise ValueError("one of --by-label and --by-attribute")


@with_settings(FitSettings)
def fit(
    asked: FitSettings,
    images: Annotated[
        Path, typer.Argument(help="A parquet file, a folder, an npz file, or a published set (celeba@64).")
    ],
    out: Annotated[Path, typer.Option(help="File to write the prior to (safetensors).")],
) -> None:
    if out.is_dir():
        raise ValueError(f"expected a file in a folder to write the prior to, received {out}")
    look_for(None, images, out=out.parent)
    from latestart.data import load_images
    from latestart.device import own_device
    from latestart.processes import processes
    from latestart.sampling.fitting import fit_gaussian, fit_mixture

    run, device = processes(), own_device()
    by_label = asked.by_label or asked.by_attribute
    mixture = bool(asked.components or by_label)
    if asked.by_attribute:
        from latestart.classifiers.known import combined, load_known

        known = load_known(images, asked.limit, label=None)
        data: Any = combined(known)
        if run.first:
            counts, names = data.labels.bincount(), ", ".join(known.values)
            say(f"{len(counts)} combinations of {names}, of {counts.min()} to {counts.max()} images each")
    else:
        part = (0, 1) if mixture else (run.index, run.count)
        data = load_images(images, asked.limit, part, asked.background)
    if mixture:
        shape = (asked.basis, asked.rank, asked.sigma, asked.seed)
        prior: Any = fit_mixture(data, asked.components, by_label, *shape, run, device, say)
        kind = f"mixture of {len(prior.components)} {prior.components[0].basis.name} Gaussians"
        told = f"{kind} to {len(data)} images"
    else:
        with bar("fitting", run.first) as advance:
            prior = fit_gaussian(data, asked.basis, asked.rank, asked.seed, run, device, advance)
        total = float(prior.basis.multiplicity @ prior.variances)
        told = f"{prior.basis.name} Gaussian to {prior.count} images {prior.shape}, total variance {total:.4g}"
    if run.first:
        prior.save(out)
        say(f"fitted a {told}")
        say(f"wrote {out}")
