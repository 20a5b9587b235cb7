"""What the commands share: errors as one line, progress, checks of where to write."""

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from latestart.checks import LAST_SEED, PRECISIONS
from latestart.progress import bar as bar
from latestart.sampling.names import OWN, SAMPLERS
from latestart.settings import Settings
from latestart.shipped import require_model

# What several commands ask for in the same words.
Model = Annotated[str, typer.Argument(help="A folder with a diffusers model, or the name of a shipped one (mnist).")]
TrainingSet = Annotated[
    str | None,
    typer.Option(
        help="The training set: parquet, folder, npz, or a published one (celeba@64); default: the shipped model's."
    ),
]
HeldOut = Annotated[str | None, typer.Option(help="Images that the model has not seen, to tell copies by.")]
Features = Annotated[
    str | None,
    typer.Option(
        help="A shipped extractor, a classifier's file, or that of the Inception weights; default: the model's."
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples evaluated at once.")]


def precision(value: str | None) -> str | None:
    if value is not None and value not in PRECISIONS:
        raise typer.BadParameter(f"expected one of {', '.join(PRECISIONS)}, received {value!r}")
    return value


MixedPrecision = Annotated[
    str,
    typer.Option(
        callback=precision, help="bf16: networks in half precision, faster where the machine has it; no: in their own."
    ),
]
CheckPrior = Annotated[
    bool, typer.Option(help="Compare the prior with the model first, and refuse one of other values.")
]


SHIPPED_PRIORS = ("gaussian", "mixture")  # priors by name


def seed_option(about: str) -> Any:
    """The option of a seed, which is refused where it is none before anything is loaded."""
    return typer.Option(min=0, max=LAST_SEED, help=about)


SampleSeed = Annotated[int, seed_option("Sample i depends on the seed and i alone.")]


Background = Annotated[
    str | None, typer.Option(help="Lay transparent pictures onto this colour (white, #ff8800); they are refused else.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="Scheduler of a model folder without one: a scheduler_config.json, or a class of diffusers."),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="ddim, ddpm, pndm, dpm++, unipc, deis, euler, heun, lms, ..., or own; default: ddim, or the model's own "
        "where it is of EDM or flow matching."
    ),
]


def on_device(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the option --device, which says where all of its networks are evaluated."""
    about = "cpu, cuda or cuda:1; default: the accelerator where there is one."

    @functools.wraps(command)
    def run(*args: Any, device: str | None = None, **kwargs: Any) -> None:
        if device is not None:
            with friendly():
                from latestart.device import choose_device

                choose_device(device)
        command(*args, **kwargs)

    option = inspect.Parameter(
        "device",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, typer.Option(help=about)],
    )
    signature = inspect.signature(command)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), option])  # type: ignore[attr-defined]
    run.__annotations__ = {**command.__annotations__, "device": option.annotation}
    return run


def check_first(
    *files: str | Path | None,
    out: Path | None = None,
    models: Iterable[str] = (),
    samplers: Iterable[str | None] = (),
) -> None:
    """Check arguments before anything is loaded.

    Args:
        files: files and folders that are read, with words behind an @ or without; None is left out.
        out: the folder that is written to.
        models: folders, or names of shipped ones.
        samplers: names; None is left out.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: a model or a sampler that there is not, or a file in the way of the folder.
    """
    for model in models:
        require_model(model)
    for name in samplers:
        if name is not None and name not in (*SAMPLERS, OWN):
            raise ValueError(f"there is no sampler {name!r}; there are {', '.join(SAMPLERS)} and {OWN}")
    for path in files:
        if path is None or Path(path).exists():
            continue
        bare = Path(path).with_name(Path(path).name.split("@")[0]) if Path(path).name[0] != "@" else Path(path).parent
        if not bare.exists():
            raise FileNotFoundError(f"expected a file or folder at {path}, found nothing")
    file = None if out is None else next((path for path in (out, *out.parents) if path.is_file()), None)
    if file is not None:
        raise ValueError(f"expected a folder to write to, received {out}: {file} is a file")


def perform(place: str, asked: Settings, out: Path) -> None:
    """Look for all that settings name, and conduct an experiment in a folder, in all processes of the run.

    Args:
        place: its module below `latestart.experiments`, and its class.
        asked: its settings.
        out: the folder.
    """
    files, models, samplers = (asked.values(of) for of in ("file", "model", "sampler"))
    check_first(*files, out=out, models=models, samplers=samplers)
    from latestart.lab.experiment import Lab, conduct
    from latestart.processes import processes

    module, _, kind = place.rpartition(".")
    made = getattr(import_module(f"latestart.experiments.{module}"), kind)()
    run = processes()
    tell = say if run.first else lambda _: None
    conduct(made, asked, Lab(out, run, tell, lambda title: bar(title, run.first)))


@contextmanager
def friendly() -> Iterator[None]:
    """A user's mistake is one clear line and exit code 2, not a traceback; a warning is one line too."""
    before = warnings.showwarning
    warnings.showwarning = _warn
    try:
        yield
    except (ValueError, OSError, FloatingPointError, ImportError) as error:
        from rich.console import Console

        process = f" in process {os.environ['RANK']}" if "RANK" in os.environ else ""
        told = f"[bold red]error{process}:[/] {escape(str(error))}"
        Console(stderr=True).print(told, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    finally:
        warnings.showwarning = before


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    from rich.console import Console

    Console(stderr=True).print(f"[bold yellow]warning:[/] {escape(str(message))}", highlight=False, soft_wrap=True)


def names(text: str) -> tuple[str, ...]:
    """The names between commas, each once, in their order."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{name} must be whole numbers between commas, received {text!r}") from None


def told(batches: Iterable[Any], total: int, advance: Callable[[int, int, str], None]) -> Iterator[Any]:
    """The batches, with the bar moved on by each."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        advance(done, total, "")


def say(text: str) -> None:
    typer.echo(text)
