"""The commands around sampling: train, demo, fit, sample."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latestart.cli.options import first_sentences, with_settings
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
    perform,
    say,
    seed_option,
    told,
    whole_numbers,
)
from latestart.experiments.table1.settings import DemoSettings

if TYPE_CHECKING:
    import torch

    from latestart.data import Images
    from latestart.processes import Processes

SHEET = 64  # images on the overview
HELD_OUT = 6000  # images at most that a number of components is chosen on


def train(
    images: Annotated[
        Path,
        typer.Argument(help="Training images: a parquet file, a folder, an npz file, or a published set (celeba@64)."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the model to; a run that was cut off goes on from there.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 10_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate (warm-up, then half a cosine).")] = 1e-3,
    channels: Annotated[str, typer.Option(help="Channels at each resolution, comma-separated.")] = "32,64",
    layers: Annotated[int, typer.Option(min=1, help="Residual blocks at each resolution.")] = 1,
    patch: Annotated[int, typer.Option(min=1, help="Side of the pixel patches that the network works on.")] = 1,
    prediction: Annotated[str, typer.Option(help="epsilon, v_prediction or sample.")] = "epsilon",
    classes: Annotated[
        int, typer.Option(min=0, help="Number of classes of a class-conditional model; 0 for none.")
    ] = 0,
    ema: Annotated[float, typer.Option(help="Decay of the moving average of the weights.")] = 0.9995,
    mixed_precision: MixedPrecision = "no",
    init: Annotated[str, typer.Option(help="Folder of a model of the same build to begin from.")] = "",
    max_sigma: Annotated[
        float | None,
        typer.Option(help="Train on noise levels (std / alpha) up to this only, for a model that starts late."),
    ] = None,
    min_snr: Annotated[
        float | None,
        typer.Option(help="Weigh the error of x_0 by min(SNR + 1, this), whatever is predicted; 20 suits sample."),
    ] = None,
    around: Annotated[
        str,
        typer.Option(help="A Gaussian of the images that `latestart fit` wrote: learn what its denoiser leaves."),
    ] = "",
    save_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 500,
    background: Background = None,
    seed: Annotated[int, seed_option("Seed of the weights, the batches and the noise.")] = 0,
) -> None:
    """Train a small diffusion model on a set of images."""
    with friendly():
        check_first(images, init or None, around or None, out=out)
        from latestart.data import load_images
        from latestart.processes import processes
        from latestart.train import TrainConfig
        from latestart.train import train as run

        config = TrainConfig(
            steps, batch_size, learning_rate, ema_decay=ema, seed=seed, prediction=prediction, patch=patch,
            channels=whole_numbers("channels", channels), layers=layers, classes=classes,
            mixed_precision=mixed_precision, init=init, max_sigma=max_sigma, min_snr=min_snr, around=around,
        )  # fmt: skip
        data = load_images(images, background=background)
        with bar("training") as advance:
            run(data, out, config, save_every, lambda step, total, loss: advance(step, total, f"loss {loss:.4f}"))
        if processes().first:
            say(f"wrote the model to {out}")


def demo(
    given: dict[str, Any],
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures; a demo cut off goes on.")] = Path(
        "out/demo"
    ),
) -> None:
    with friendly():
        perform("table1.demo.Demo", DemoSettings.read(given), out)


demo.__doc__ = first_sentences(DemoSettings)
demo = with_settings(DemoSettings, demo)


def fit(
    images: Annotated[
        Path, typer.Argument(help="A parquet file, a folder, an npz file, or a published set (celeba@64).")
    ],
    out: Annotated[Path, typer.Option(help="File to write the prior to (safetensors).")],
    basis: Annotated[
        str, typer.Option(help="dense, lowrank, cosine+dense, cosine, fourier, diagonal, channel, isotropic, or auto.")
    ] = "auto",
    rank: Annotated[int | None, typer.Option(min=1, help="Directions of its own, for bases that have such.")] = None,
    components: Annotated[
        str,
        typer.Option(
            help="A mixture of so many Gaussians; `auto` holds out a tenth of the images to choose, at most 6,000."
        ),
    ] = "",
    by_label: Annotated[bool, typer.Option(help="A Gaussian, or `components` of them, for each class.")] = False,
    by_attribute: Annotated[
        bool,
        typer.Option(help="The same for each combination of the attributes that an npz file names beside its images."),
    ] = False,
    sigma: Annotated[float, typer.Option(help="Noise level at which `auto` compares numbers of components.")] = 2.0,
    limit: Annotated[int | None, typer.Option(min=2, help="Use only the first images.")] = None,
    background: Background = None,
    seed: Annotated[int, seed_option("Of the directions of a low-rank fit, and of k-means.")] = 0,
) -> None:
    """Fit the prior of a late start to a set of images; under `torchrun`, with all its processes.

    Images wait as bytes, one for each value, and become numbers a batch at a time: of one Gaussian each process keeps
    its share of them, of a mixture all.
    """
    with friendly():
        if out.is_dir():
            raise ValueError(f"expected a file in a folder to write the prior to, received {out}")
        check_first(images, out=out.parent)
        from latestart.data import load_images
        from latestart.device import own_device
        from latestart.gaussians.moments import Moments
        from latestart.gaussians.sums import require_variance
        from latestart.processes import processes

        number = _number(components)
        run, device = processes(), own_device()
        if by_label and by_attribute:
            raise ValueError("one of --by-label and --by-attribute")
        if components or by_label or by_attribute:
            data = (
                _by_attribute(images, limit, run.first)
                if by_attribute
                else load_images(images, limit, background=background)
            )
            _fit_mixture(data, out, number, by_label or by_attribute, basis, rank, sigma, seed, run, device)
            return
        data = load_images(images, limit, (run.index, run.count), background)
        moments = Moments(data.shape, basis, rank, seed=seed)
        moments.bare = False  # of bytes it is known what they are
        with bar("fitting", run.first) as advance:
            for batch in told(data.batches(), len(data), advance):
                moments.add(batch.to(device))
        moments.combine(run)
        require_variance([moments])
        prior = moments.gaussian().to("cpu")
        if not run.first:
            return
        prior.save(out)
    total = float(prior.basis.multiplicity @ prior.variances)
    say(f"fitted a {prior.basis.name} Gaussian to {prior.count} images {prior.shape}, total variance {total:.4g}")
    say(f"wrote {out}")


def _by_attribute(path: Path, limit: int | None, first: bool) -> "Images":
    """The images, labelled by the combination of their attributes; the first process says how many each has."""
    from latestart.experiments.attributes import combined, load_known

    known = load_known(path, limit, label=None)
    data = combined(known)
    assert data.labels is not None
    counts = data.labels.bincount()
    if first:
        say(f"{len(counts)} combinations of {', '.join(known.values)}, of {counts.min()} to {counts.max()} images each")
    return data


def _fit_mixture(
    data: "Images", out: Path, components: int | str | None, by_label: bool, basis: str, rank: int | None, sigma: float,
    seed: int, run: "Processes", device: "torch.device",
) -> None:  # fmt: skip
    from latestart.data import Placed
    from latestart.gaussians.mixture import Mixture

    if by_label and data.labels is None:
        raise ValueError(
            "--by-label needs images with labels: a parquet file or npz with them, or a folder for each class"
        )
    if by_label and isinstance(components, str):
        raise ValueError("--components auto chooses the number without labels: leave --by-label and --by-attribute out")
    if isinstance(components, str):
        components = run.firsts(lambda: _chosen_components(data, basis, rank, sigma, seed, device))
    labels = data.labels if by_label else None
    prior = Mixture.fit(Placed(data, device), components, labels, basis, rank, seed, processes=run)
    if not run.first:
        return
    prior.save(out)
    say(f"fitted a mixture of {len(prior.components)} {prior.components[0].basis.name} Gaussians to {len(data)} images")
    say(f"wrote {out}")


def _number(components: str) -> int | str | None:
    """The number of components, "auto", or None where none was given."""
    if components in ("", "auto"):
        return components or None
    try:
        return int(components)
    except ValueError:
        raise ValueError(f"components is one whole number or auto, received {components!r}") from None


def _chosen_components(
    data: "Images", basis: str, rank: int | None, sigma: float, seed: int, device: "torch.device"
) -> int:
    import torch

    from latestart.checks import seeded
    from latestart.sampling.components import FEWEST, choose_components

    order = torch.randperm(len(data), generator=seeded(seed))
    held_out = min(len(data) // 10, HELD_OUT)
    if held_out < FEWEST:
        raise ValueError(
            f"--components auto holds out a tenth of the images, and needs {FEWEST} of them: expected at "
            f"least {10 * FEWEST} images, received {len(data)}; give a number of components"
        )
    choice = choose_components(
        data[order[held_out:]], data[order[:held_out]], sigma, seed=seed, device=device, basis=basis, rank=rank
    )
    for trial in choice.evidence:
        say(
            f"{trial.components} components: held-out log-density {-trial.behind[0]:+.3f} nats from the best "
            f"(error {trial.behind[1]:.3f}), copied {trial.copying.copied.value:.3f}"
        )
    return choice.components


def sample(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("out/samples"),
    prior: Annotated[
        str | None,
        typer.Option(help="A prior that `latestart fit` wrote; for a shipped model also gaussian or mixture."),
    ] = None,
    t_start: Annotated[
        float | None,
        typer.Option(help="Where to start, in the scheduler's t; default: full noise, or with a prior where nats say."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 5,
    sampler: Sampler = None,
    clip: Annotated[bool, typer.Option(help="Clip the predicted image at every step, where the sampler can.")] = False,
    label: Annotated[int | None, typer.Option(min=0, help="The class, for class-conditional models.")] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Images evaluated at once.")] = 256,
    check_prior: CheckPrior = True,
    scheduler: Scheduler = None,
    mixed_precision: MixedPrecision = "no",
    seed: Annotated[int, seed_option("Image i depends on the seed and i alone.")] = 0,
) -> None:
    """Sample images from a model, from full noise or from a late start; under `torchrun`, with all its processes."""
    with friendly():
        check_first(None if prior in ("gaussian", "mixture") else prior, out=out, models=[model], samplers=[sampler])
        import torch

        from latestart import zoo
        from latestart.data import save_png, tile, to_pixels
        from latestart.denoisers.wrappers import of_velocity
        from latestart.device import own_device
        from latestart.processes import processes
        from latestart.sampling.generate import generate
        from latestart.sampling.samplers import usual_sampler

        network, trained, start = zoo.open_model(
            model, prior, t_start is not None, own_device(), scheduler=scheduler, mixed_precision=mixed_precision
        )
        network, trained = of_velocity(network, trained)
        run = processes()
        mine = run.share(n)
        if not mine:
            raise ValueError(f"{n} images are too few for {run.count} processes")
        result = generate(
            network, usual_sampler(sampler, trained, clip), start, len(mine), steps, t_start, seed, labels=label,
            batch_size=batch_size, check_prior=check_prior, first=mine.start, progress=run.first,
        )  # fmt: skip
        pixels = to_pixels(result.images).cpu()
        for k, image in zip(mine, pixels):
            save_png(out / f"{k:05d}.png", image)
        shown = torch.cat(run.gather(pixels[: max(0, SHEET - mine.start)]))
        if not run.first:
            return
        sheet = out.with_name(f"{out.name}-sheet.png")
        save_png(sheet, tile(shown, 8, gap=1))
    say(f"{n} images, {result.nfe} network evaluations each, from sigma = {result.sigma:.3g}")
    say(f"wrote {out}/00000.png ... and {sheet}")
