"""Settings: values are checked where they are made, read from text, and become a command line."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from latestart.cli.options import with_settings
from latestart.settings import Settings, seed_setting, setting


@dataclass(frozen=True, kw_only=True)
class Base(Settings):
    model: str = setting("mnist", "A model.", of="model", argument=True)
    samples: int = setting(100, "Samples.", least=6)
    seed: int = seed_setting("The seed.")


@dataclass(frozen=True, kw_only=True)
class Full(Base):
    """Measure something.

    At length.

    Raises:
        ValueError: never.
    """

    samples: int = setting(10, "Samples.", least=2, most=50)
    starts: tuple[float, ...] = setting((), "Starts.", flag="t-start")
    nfe: tuple[int, ...] = setting((3, 5), "Evaluations.", least=1)
    clip: tuple[bool, ...] = setting((False, True), "Clip.")
    kind: str = setting("a", "Kind.", choices=("a", "b"))
    file: Path | None = setting(None, "A file.", of="file")
    channels: tuple[int, ...] = setting((8, 8), "Channels.", least=1, repeats=True)
    width: float = setting(1.0, "Width.", least=0)
    retry: bool = setting(False, "Again.", kept=False)
    check_it: bool = setting(True, "Check.")
    times: dict[str, int] | None = setting(
        None, "Times.", read=lambda text: dict(part.split("=") for part in text.split(";"))
    )

    def check(self):
        if self.width > self.samples:
            raise ValueError(f"width {self.width} above samples {self.samples}")


def test_values_are_kept_as_their_types_and_several_without_repetitions_unless_they_may_repeat():
    made = Full(starts=[500, 400.0, 500], nfe=(3, 3), file="x")
    assert made.starts == (500.0, 400.0) and made.nfe == (3,) and made.file == Path("x")
    assert made.record() == {
        "model": "mnist", "samples": 10, "seed": 0, "starts": [500.0, 400.0], "nfe": [3], "clip": [False, True],
        "kind": "a", "file": "x", "channels": [8, 8], "width": 1.0, "check_it": True, "times": None,
    }  # fmt: skip
    assert made.values("model") == ["mnist"] and made.values("file") == [Path("x")] and made.values("sampler") == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"samples": 1}, "samples=1: expected a whole number from 2 to 50"),
        ({"samples": 51}, "samples=51: expected a whole number from 2 to 50"),
        ({"samples": 3.0}, "samples=3.0: expected a whole number"),
        ({"samples": True}, "samples=True: expected a whole number"),
        ({"seed": -1}, "seed=-1: expected a whole number"),
        ({"seed": 2**63}, "seed=9223372036854775808"),
        ({"nfe": (3, 0)}, "nfe=0: expected a whole number of at least 1"),
        ({"nfe": ()}, "nfe: expected at least one value, received none"),
        ({"nfe": "3"}, "nfe: expected several values, received the text '3'"),
        ({"starts": (float("nan"),)}, "t-start: expected a finite number, received nan"),
        ({"width": -0.5}, "width: expected a finite number of at least 0, received -0.5"),
        ({"width": True}, "width: expected a finite number of at least 0, received True"),
        ({"kind": "c"}, "there is no kind 'c'; there are a, b"),
        ({"model": ""}, "model: expected a name or a path, received ''"),
        ({"retry": 1}, "retry: expected true or false, received 1"),
        ({"width": 11.0}, "width 11.0 above samples 10"),
    ],
)
def test_what_does_not_fit_is_named(values, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        Full(**values)


def test_texts_and_lists_are_read_alike():
    one = Full.read({"t-start": "500, 400", "nfe": "3", "clip": "true", "samples": "7", "times": "a=1;b=2"})
    two = Full.read({"t_start": [500, 400.0], "nfe": 3, "clip": [True], "samples": 7, "times": {"a": "1", "b": "2"}})
    assert one == two == Full(starts=(500, 400), nfe=(3,), clip=(True,), samples=7, times={"a": "1", "b": "2"})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sample": 3}, "there is no setting 'sample'; there are model, samples, seed, t-start"),
        ({"nfe": "3,x"}, "nfe: expected whole numbers, received 'x'"),
        ({"t-start": "y"}, "t-start: expected numbers, received 'y'"),
        ({"clip": "maybe"}, "clip: expected true or false, received 'maybe'"),
        ({"nfe": [[3]]}, r"nfe: expected a list of single values, received \[3\]"),
        ({"nfe": []}, "nfe: expected at least one value, received none"),
    ],
)
def test_texts_that_cannot_be_read_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        Full.read(values)


@with_settings(Full, lambda own: {"samples": 20, "kind": "b"} if own["out"] == Path("there") else {})
def _command(asked, out: Path = Path("here")):
    changed = {name: value for name, value in vars(asked).items() if value != getattr(Full(), name)}
    typer.echo(f"{sorted(changed.items())} {out}")


def _run(*args):
    app = typer.Typer()
    app.command()(_command)
    return CliRunner().invoke(app, args, env={"COLUMNS": "160"})


def test_the_command_line_has_an_option_for_each_field_with_help_and_default():
    text = _run("--help").output
    assert "Measure something." in text and "At length." in text and "Raises" not in text
    for flag in ("--samples", "--t-start", "--clip", "--no-check-it", "--out", "--file"):
        assert flag in text
    assert "--no-retry" not in text and "--starts" not in text and "[model]" in text
    assert "Evaluations. [default: (3,5)]" in text and "Clip. [default: (false,true)]" in text


def test_the_command_line_makes_settings_of_what_was_given_over_the_values_below():
    assert _run().output == "[] here\n"
    told = _run("m", "--t-start", "5,4", "--retry", "--no-check-it").output
    assert told == "[('check_it', False), ('model', 'm'), ('retry', True), ('starts', (5.0, 4.0))] here\n"
    assert _run("--samples", "30", "--out", "there").output == "[('kind', 'b'), ('samples', 30)] there\n"


def test_a_mistake_on_the_command_line_is_one_line():
    result = _run("--samples", "1")
    assert result.exit_code == 2 and "error: samples=1: expected a whole number from 2 to 50" in result.output
