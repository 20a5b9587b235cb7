"""The command line of settings: each field becomes an option with its help, its limits and its default."""

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import Field
from typing import Annotated, Any

import typer

from latestart.cli.support import friendly
from latestart.settings import Kind, Settings, flag_of, setting_of

__all__ = ["with_settings"]


def with_settings(
    settings: type[Settings], under: Callable[[dict[str, Any]], dict[str, Any]] = lambda own: {}
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that makes the fields of settings options of a command, and adds a device for its networks.

    The command is called with the settings, beside parameters of its own. Its help is its docstring, or that of the
    settings up to their sections; a user's mistake is one clear line.

    Args:
        settings: read from the options given; a field that is not given keeps its default.
        under: from the command's own parameters to values whose place the options given take.
    """
    flags = {one.name: flag_of(one) for one, _ in settings.kinds()}

    def made(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(device: str | None, **values: Any) -> None:
            given = {flag: value for name, flag in flags.items() if (value := values.pop(name)) is not None}
            with friendly():
                if device is not None:
                    from latestart.device import choose_device

                    choose_device(device)
                command(settings.read({**under(values), **given}), **values)

        about = typer.Option(help="cpu, cuda or cuda:1; default: the accelerator where there is one.")
        own = list(inspect.signature(command).parameters.values())[1:]
        options = [*(_parameter(*field) for field in settings.kinds()), _named("device", Annotated[str | None, about])]
        options += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
        run.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in options}
        help_of_settings = re.split(r"\n(?:Attributes|Raises):", inspect.getdoc(settings) or "")[0]
        run.__doc__ = command.__doc__ or help_of_settings.strip()
        return run

    return made


def _parameter(one: "Field[Any]", kind: Kind) -> inspect.Parameter:
    known = setting_of(one)
    made: Any = typer.Argument if known.argument else typer.Option
    declared = () if known.argument else _declared(one, kind)
    text = kind.many or known.read is not None
    about = made(*declared, help=known.about, show_default=_shown(one.default))
    annotation: Any = Annotated[(str if text else kind.base) | None, about]
    return _named(one.name, annotation)


def _named(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _declared(one: "Field[Any]", kind: Kind) -> tuple[str, ...]:
    flag = f"--{flag_of(one)}"
    return (flag,) if kind.base is not bool or kind.many or one.default is False else (f"{flag}/--no-{flag_of(one)}",)


def _shown(default: Any) -> str | bool:
    """The default as one would type it; False hides it."""
    if default is None or default is False:
        return False
    return ",".join(map(_text, default if isinstance(default, tuple) else (default,))) or False


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
