"""The command line: parses, calls, prints; no logic of its own.

Nothing heavy is imported before a command runs, so `latestart --help` answers at once.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

app = typer.Typer(
    help="Find the moment at which a diffusion model makes up its mind, and start sampling just before it.",
    no_args_is_help=True,
    invoke_without_command=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def main(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Find the moment at which a diffusion model makes up its mind, and start sampling just before it."""
    if version:
        from latestart import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command(epilog="Example:  latestart train mnist-train.parquet --out models/mnist --patch 2 --steps 16000")
def train(
    images: Annotated[
        Path, typer.Argument(help="Training images: a parquet file, a folder of images, or an npz file.")
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
    mixed_precision: Annotated[str, typer.Option(help="no or bf16.")] = "no",
    init: Annotated[str, typer.Option(help="Folder of a model of the same build to begin from.")] = "",
    save_every: Annotated[int, typer.Option(min=1, help="Steps between two checkpoints.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the weights, the batches and the noise.")] = 0,
) -> None:
    """Train a small diffusion model on a set of images."""
    from latestart.data import load_images
    from latestart.train import TrainConfig
    from latestart.train import train as run

    with _friendly():
        _check_folder(out)
        config = TrainConfig(
            steps, batch_size, learning_rate, ema_decay=ema, seed=seed, prediction=prediction, patch=patch,
            channels=_whole_numbers("channels", channels), layers=layers, classes=classes,
            mixed_precision=mixed_precision, init=init,
        )  # fmt: skip
        data = load_images(images)
        with _bar("training") as advance:
            run(data, out, config, save_every, lambda step, total, loss: advance(step, total, f"loss {loss:.4f}"))
    _say(f"wrote the model to {out}")


@app.command(epilog="Example:  latestart demo --out out/demo")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the figures.")] = Path("out/demo"),
    samples: Annotated[int, typer.Option(min=130, help="Images for each figure.")] = 500,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
) -> None:
    """Show the gain of a late start on the shipped MNIST model: a table, a picture, the figures."""
    with _friendly():
        from rich.console import Console

        from latestart.experiments import demo as experiment
        from latestart.files import write_json
        from latestart.report.plots import demo_samples
        from latestart.report.tables import demo_table

        _check_folder(out)
        with _bar("sampling") as advance:
            measured = experiment.run(samples, seed, progress=advance)
        comparisons = experiment.compare(measured)
        results = experiment.results(measured, samples, seed)
        write_json(out / "results.json", results)
        demo_samples(out / "samples.png", comparisons)
        Console(width=None if Console().is_terminal else 110).print(demo_table(measured, comparisons))
        _say(f"{samples} samples a figure, seed {seed}, features {results['features']}")
        _say(f"as many test images score {results['floor']['frechet']:.1f}: the floor")
        _say(f"wrote {out / 'samples.png'} and {out / 'results.json'}")


@app.command(epilog="Example:  latestart fit photos/ --out prior.safetensors")
def fit(
    images: Annotated[Path, typer.Argument(help="A parquet file, a folder of images, or an npz file.")],
    out: Annotated[Path, typer.Option(help="File to write the prior to (safetensors).")],
    basis: Annotated[str, typer.Option(help="dense, diagonal, isotropic, or auto.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=2, help="Use only the first images.")] = None,
) -> None:
    """Fit the prior of a late start to a set of images, in one pass."""
    with _friendly():
        from latestart.data import load_images
        from latestart.gaussians.gaussian import Gaussian

        if out.is_dir() or out.parent.is_file():
            raise ValueError(f"expected a file in a folder to write the prior to, received {out}")
        data = load_images(images, limit)
        with _bar("fitting") as advance:
            prior = Gaussian.fit(_told(data.batches(), len(data), advance), basis=basis)
        prior.save(out)
    total = float(prior.basis.multiplicity @ prior.variances.cpu())
    _say(f"fitted a {prior.basis.name} Gaussian to {prior.count} images {prior.shape}, total variance {total:.4g}")
    _say(f"wrote {out}")


@app.command(epilog="Example:  latestart sample mnist --t-start 400 --steps 5 --out out/samples")
def sample(
    model: Annotated[
        str, typer.Argument(help="A folder with a diffusers model, or the name of a shipped one (mnist).")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("out/samples"),
    prior: Annotated[Path | None, typer.Option(help="A prior that `latestart fit` wrote.")] = None,
    t_start: Annotated[
        float | None, typer.Option(help="Where to start, in the scheduler's t; default: full noise.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 5,
    sampler: Annotated[str, typer.Option(help="ddim, ddpm, pndm, dpm++, unipc, deis, euler, heun, lms, ...")] = "ddim",
    clip: Annotated[bool, typer.Option(help="Clip the predicted image at every step (DDIM, DDPM).")] = False,
    n: Annotated[int, typer.Option("-n", min=1, help="Number of images.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Images evaluated at once.")] = 256,
    seed: Annotated[int, typer.Option(help="Image i depends on the seed and i alone.")] = 0,
) -> None:
    """Sample images from a model, from full noise or from a late start."""
    with _friendly():
        from latestart import zoo
        from latestart.data import save_png, tile, to_pixels
        from latestart.sampling.generate import generate
        from latestart.sampling.samplers import make_sampler

        network, trained, start = zoo.open_model(model, prior, t_start)
        _check_folder(out)
        changes = {"clip_sample": clip} if clip or sampler in ("ddim", "ddpm") else {}
        scheduler = make_sampler(sampler, trained, timestep_spacing="trailing", **changes)
        result = generate(network, scheduler, start, n, steps, t_start, seed, batch_size=batch_size, progress=True)
        pixels = to_pixels(result.images)
        for k, image in enumerate(pixels):
            save_png(out / f"{k:05d}.png", image)
        sheet = out.with_name(f"{out.name}-sheet.png")
        save_png(sheet, tile(pixels[:64], 8, gap=1))
    _say(f"{n} images, {result.nfe} network evaluations each, from sigma = {result.sigma:.3g}")
    _say(f"wrote {out}/00000.png ... and {sheet}")


@contextmanager
def _friendly() -> Iterator[None]:
    """A user's mistake is one clear line and exit code 2, not a traceback."""
    try:
        yield
    except (ValueError, OSError, FloatingPointError) as error:
        from rich.console import Console

        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """A progress bar; yields `advance(done, total, note)`."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), refresh_per_second=2) as progress:
        task = progress.add_task(what, total=None, note="")

        def advance(done: int, total: int, note: str = "") -> None:
            progress.update(task, completed=done, total=total, note=note)

        yield advance


def _check_folder(out: Path) -> None:
    """Before the work and not after it: `out` is a folder, or can become one."""
    file = next((path for path in (out, *out.parents) if path.is_file()), None)
    if file is not None:
        raise ValueError(f"expected a folder to write to, received {out}: {file} is a file")


def _whole_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be whole numbers between commas, received {text!r}") from None


def _told(batches: Iterable[Any], total: int, advance: Callable[[int, int, str], None]) -> Iterator[Any]:
    """The batches, with the bar moved on by each."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        advance(done, total, "")


def _say(text: str) -> None:
    typer.echo(text)
