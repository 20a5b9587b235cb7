"""Settings: frozen dataclasses whose fields carry a default, limits and one sentence of help.

    @dataclass(frozen=True, kw_only=True)
    class Curve(Settings):
        samples: int = setting(500, "Samples from each start.", least=6)
        starts: tuple[float, ...] = setting((), "Starts, in the scheduler's t.", flag="t-start")

    Curve(samples=3)              # ValueError: samples=3: expected a whole number of at least 6
    Curve.read({"t-start": "500,400"}).starts                # (500.0, 400.0)

Values are checked when the settings are made. `Settings.read` takes the texts of a command line and the values of a
YAML file; `latestart.cli.options` makes the command line itself. Nothing heavy is imported here.
"""

import math
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, ClassVar, Self

from latestart.checks import LAST_SEED, whole_number

__all__ = ["Kind", "Setting", "Settings", "flag_of", "kind_of", "seed_setting", "setting", "setting_of"]

TRUTH = {"true": True, "false": False}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A field's help, limits and place on the command line.

    Attributes:
        about: one sentence of help.
        least, most: limits of a number, or of each number of several; both included.
        choices: the names allowed.
        of: the thing that is named: "file", "model", "sampler" or "prior", to be looked for before heavy work.
        flag: name on the command line and in YAML; by default the field's own with dashes.
        argument: whether the command line takes it by place.
        empty: whether several values may be none at all; a field whose default is () may always be.
        repeats: whether several values may hold one twice.
        kept: whether results record it; a budget changes no figure, and is not.
        read: makes the value of a text, where the type alone does not say how.
    """

    about: str
    least: float = -math.inf
    most: float = math.inf
    choices: tuple[str, ...] = ()
    of: str = ""
    flag: str = ""
    argument: bool = False
    empty: bool = False
    repeats: bool = False
    kept: bool = True
    read: Callable[[str], Any] | None = None


def setting(default: Any, about: str, **limits: Any) -> Any:
    """Return a dataclass field with a default, one sentence of help, and the attributes of `Setting`."""
    return field(default=default, metadata={"setting": Setting(about=about, **limits)})


def seed_setting(about: str) -> Any:
    """Return the field of a seed: a whole number from 0 to 2^63 - 1."""
    return setting(0, about, least=0, most=LAST_SEED)


def setting_of(one: "Field[Any]") -> Setting:
    """Return the help and limits of a field made by `setting`."""
    known: Setting = one.metadata["setting"]
    return known


def flag_of(one: "Field[Any]") -> str:
    """Return a field's name on the command line, in YAML and in errors."""
    return setting_of(one).flag or one.name.replace("_", "-")


@dataclass(frozen=True)
class Kind:
    """A field's type: the type of each value, whether there are several, and whether None is one."""

    base: Any
    many: bool
    optional: bool


def kind_of(hint: Any) -> Kind:
    """Return the kind of a type such as `int`, `str | None` or `tuple[float, ...]`."""
    if isinstance(hint, UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        known = kind_of(parts[0] if len(parts) == 1 else str)  # several have a `read` of their own
        return Kind(known.base, known.many, type(None) in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return Kind(typing.get_args(hint)[0], True, False)
    return Kind(typing.get_origin(hint) or hint, False, False)


class Settings:
    """Base of frozen keyword-only dataclasses whose fields are made by `setting`.

    Raises:
        ValueError: a value of another type, or beyond its limits; names the field and the value.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def __post_init__(self) -> None:
        for one, kind in self.kinds():
            value = _checked(flag_of(one), getattr(self, one.name), kind, setting_of(one), one.default)
            object.__setattr__(self, one.name, value)
        self.check()

    def check(self) -> None:
        """Raise `ValueError` where values do not fit each other; for subclasses to define."""

    @classmethod
    def kinds(cls) -> list[tuple["Field[Any]", Kind]]:
        """Return the fields made by `setting`, each with its kind."""
        hints = typing.get_type_hints(cls)
        return [(one, kind_of(hints[one.name])) for one in fields(cls) if "setting" in one.metadata]

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the settings of named values, as YAML or a command line has them: lists, or text with commas.

        Raises:
            ValueError: an unknown name, or a value that cannot be read.
        """
        known = {flag_of(one): (one, kind) for one, kind in cls.kinds()}
        named = {str(name).replace("_", "-"): value for name, value in values.items()}
        if unknown := sorted(set(named) - set(known)):
            raise ValueError(f"there is no setting {unknown[0]!r}; there are {', '.join(known)}")
        read = {}
        for name, value in named.items():
            one, kind = known[name]
            read[one.name] = _read(name, value, kind, setting_of(one))
        return cls(**read)

    def values(self, of: str) -> list[Any]:
        """Return the values, one by one, of the fields that name a "file", "model", "sampler" or "prior"."""
        found = [getattr(self, one.name) for one, _ in self.kinds() if setting_of(one).of == of]
        return [one for value in found for one in (value if isinstance(value, tuple) else (value,))]

    def record(self) -> dict[str, Any]:
        """Return the fields that results record, ready for JSON."""
        kept = (one.name for one, _ in self.kinds() if setting_of(one).kept)
        return {name: _plain(getattr(self, name)) for name in kept}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _checked(name: str, value: Any, kind: Kind, known: Setting, default: Any) -> Any:
    """A value of its kind and within its limits; several as a tuple without repetitions."""
    if (value is None and kind.optional) or (isinstance(value, str) and value == default):
        return value
    if known.read is not None:
        return value
    if not kind.many:
        return _checked_one(name, value, kind.base, known)
    if isinstance(value, str):
        raise ValueError(f"{name}: expected several values, received the text {value!r}")
    several = tuple(_checked_one(name, one, kind.base, known) for one in value)
    if not known.repeats:
        several = tuple(dict.fromkeys(several))
    if not several and not known.empty and default not in ((), MISSING, None):
        raise ValueError(f"{name}: expected at least one value, received none")
    return several


def _checked_one(name: str, value: Any, base: Any, known: Setting) -> Any:
    if base is bool:
        if not isinstance(value, bool):
            raise ValueError(f"{name}: expected true or false, received {value!r}")
        return value
    if base is int:
        return whole_number(name, value, known.least, known.most)
    if base is float:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not (math.isfinite(number) and known.least <= number <= known.most):
            bounds = f" of at least {known.least:g}" if known.least > -math.inf else ""
            bounds += f" up to {known.most:g}" if known.most < math.inf else ""
            raise ValueError(f"{name}: expected a finite number{bounds}, received {value!r}")
        return number
    if base is Path:
        return Path(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name}: expected a name or a path, received {value!r}")
    if known.choices and value not in known.choices:
        raise ValueError(f"there is no {name} {value!r}; there are {', '.join(known.choices)}")
    return value


def _read(name: str, value: Any, kind: Kind, known: Setting) -> Any:
    """The value of a text with commas, a list or a single value."""
    if value is None and kind.optional:
        return None
    if known.read is not None:
        return known.read(value) if isinstance(value, str) else value
    if not kind.many:
        return _read_one(name, value, kind.base)
    several = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    if not several:
        raise ValueError(f"{name}: expected at least one value, received none")
    if nested := [one for one in several if isinstance(one, list | dict)]:
        raise ValueError(f"{name}: expected a list of single values, received {nested[0]!r}")
    return tuple(_read_one(name, one, kind.base) for one in several)


def _read_one(name: str, value: Any, base: Any) -> Any:
    text = value.strip() if isinstance(value, str) else str(value)
    if base is bool:
        if text.lower() not in TRUTH:
            raise ValueError(f"{name}: expected true or false, received {value!r}")
        return TRUTH[text.lower()]
    if base in (int, float):
        try:
            return base(text)
        except ValueError:
            kinds = "whole numbers" if base is int else "numbers"
            raise ValueError(f"{name}: expected {kinds}, received {value!r}") from None
    return value.strip() if isinstance(value, str) else value
