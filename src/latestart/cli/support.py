"""Errors as one line, a look for all that a command names before anything is loaded, and models as it opens them."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
from rich.markup import escape

from latestart.lab.setup import OneModel, Started
from latestart.progress import bar
from latestart.sampling.names import OWN, PRIOR, SAMPLERS
from latestart.settings import Settings
from latestart.shipped import require_model

__all__ = ["bar", "features", "friendly", "inside", "look_for", "opened", "perform", "say"]

SHIPPED_PRIORS = ("gaussian", "mixture")  # by name


def look_for(asked: Settings | None, *files: str | Path | None, out: Path | None = None) -> None:
    """Check all that a command names before anything is loaded.

    Args:
        asked: settings, whose models, samplers, priors and files are looked for.
        files: others that are read, with words behind an @ or without; None is left out.
        out: folder that is written to.

    Raises:
        FileNotFoundError: there is nothing at a path.
        ValueError: an unknown model or sampler, or a file in the way of the folder.
    """
    kinds = ("model", "sampler", "prior", "file")
    models, samplers, priors, named = ([] if asked is None else asked.values(of) for of in kinds)
    for model in models:
        require_model(model)
    for name in samplers:
        if name is not None and name not in (*SAMPLERS, PRIOR, OWN):
            raise ValueError(f"there is no sampler {name!r}; there are {', '.join(SAMPLERS)}, {PRIOR} and {OWN}")
    for path in (*named, *files, *(prior for prior in priors if prior not in SHIPPED_PRIORS)):
        if not path or Path(path).exists():
            continue
        bare = Path(path).with_name(Path(path).name.split("@")[0]) if Path(path).name[0] != "@" else Path(path).parent
        if not bare.exists():
            raise FileNotFoundError(f"expected a file or folder at {path}, found nothing")
    if file := out and next((path for path in (out, *out.parents) if path.is_file()), None):
        raise ValueError(f"expected a folder to write to, received {out}: {file} is a file")


def opened(asked: OneModel, prior: Any = None, late: bool = False) -> tuple[Any, Any, Any, Any]:
    """Return `zoo.open_model` of the settings, on the device of the command, and the shipped model or None."""
    from latestart import zoo
    from latestart.device import own_device

    options: dict[str, Any] = {"scheduler": asked.scheduler, "mixed_precision": asked.mixed_precision}
    network, scheduler, start = zoo.open_model(asked.model, prior, late, own_device(), **options)
    return network, scheduler, start, None if Path(asked.model).is_dir() else zoo.load(asked.model)


def features(asked: Any, shipped: Any) -> Any:
    """Return the features that are named, else the classifier beside the model, else None: the network's own.

    Args:
        asked: settings with `features` and `model`.
        shipped: the shipped model, or None.

    Raises:
        ValueError: the name is not known.
    """
    from latestart.lab.judge import open_features

    if asked.features in ("network", "values"):
        return asked.features
    if asked.features is not None:
        return open_features(asked.features)
    if shipped is not None:
        return shipped.features
    beside = Path(asked.model) / "classifier.safetensors"
    return open_features(str(beside)) if beside.is_file() else None


def inside(asked: Started, start: Any) -> Any:
    """Return the prior inside the prior solver: one that is named, the start's, or the shipped model's Gaussian.

    Args:
        asked: settings.
        start: the prior that a late start draws from, or None.

    Raises:
        ValueError: the prior solver from full noise without a prior, or `inside` or `eta` for a sampler without it.
    """
    if asked.sampler != PRIOR:
        if asked.inside is not None:
            raise ValueError(f"inside is a setting of the sampler {PRIOR}, received {asked.sampler or 'none'}")
        if asked.eta and asked.sampler not in (None, "ddim", OWN):
            raise ValueError(f"eta is a setting of the samplers {PRIOR} and ddim, received {asked.sampler}")
        return None
    if asked.inside is None and start is not None:
        return start
    from latestart.lab.subjects import open_prior

    return open_prior(asked.model, asked.inside or SHIPPED_PRIORS[0])[0]


def perform(place: str, asked: Settings, out: Path) -> None:
    """Look for all that settings name, and conduct an experiment in a folder, in all processes of the run.

    Args:
        place: its module below `latestart.experiments`, and its class.
        asked: its settings.
        out: the folder.
    """
    look_for(asked, out=out)
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


def say(text: str) -> None:
    typer.echo(text)
