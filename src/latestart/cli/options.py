"""The command line of settings: each field becomes an option with its help, its limits and its default."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import Field
from typing import Annotated, Any

import typer

from latestart.cli.support import friendly
from latestart.settings import Kind, Settings, flag_of, setting_of

__all__ = ["first_sentences", "with_settings"]


def with_settings(settings: type[Settings], command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that takes the fields of settings as options, and a device for all of its networks.

    Args:
        settings: read from the options given; a field that is not given keeps its default.
        command: called with a mapping of the options given by their flags, beside parameters of its own.
    """
    known = {one.name: one for one, _ in settings.kinds()}

    @functools.wraps(command)
    def run(device: str | None, **values: Any) -> None:
        if device is not None:
            with friendly():
                from latestart.device import choose_device

                choose_device(device)
        named = {flag_of(known[name]): values.pop(name) for name in known}
        command({flag: value for flag, value in named.items() if value is not None}, **values)

    options = [_parameter(one, kind) for one, kind in settings.kinds()]
    about = "cpu, cuda or cuda:1; default: the accelerator where there is one."
    device: Any = Annotated[str | None, typer.Option(help=about)]
    options.append(inspect.Parameter("device", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=device))
    own = [one for one in inspect.signature(command).parameters.values() if one.name != "given"]
    own = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own]
    run.__signature__ = inspect.Signature([*options, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*options, *own)}
    return run


def first_sentences(settings: type[Settings]) -> str:
    """Return the docstring of settings up to its sections: the help of their command."""
    text = inspect.getdoc(settings) or ""
    return text.split("\nAttributes:")[0].split("\nRaises:")[0].strip()


def _parameter(one: "Field[Any]", kind: Kind) -> inspect.Parameter:
    known = setting_of(one)
    made: Any = typer.Argument if known.argument else typer.Option
    declared = () if known.argument else _declared(one, kind)
    text = kind.many or known.read is not None
    about = made(*declared, help=known.about, show_default=_shown(one.default))
    annotation: Any = Annotated[(str if text else kind.base) | None, about]
    return inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _declared(one: "Field[Any]", kind: Kind) -> tuple[str, ...]:
    flag = f"--{flag_of(one)}"
    return (flag,) if kind.base is not bool or kind.many or one.default is False else (f"{flag}/--no-{flag_of(one)}",)


def _shown(default: Any) -> str | bool:
    """The default as one would type it; False hides it."""
    if default is None or default == () or default is False:
        return False
    if isinstance(default, tuple):
        return ",".join(_text(one) for one in default)
    return _text(default)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
