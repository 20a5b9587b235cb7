"""Every command that a page or a model card shows is one that the command line takes, up to the files that it names."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from latestart.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "models").glob("*/README.md"))]


class Reached(Exception):
    """The command has read all of its options, and begins to look for files."""


def _commands():
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for line in re.findall(r"^\s*(latestart [a-z].*)$|`(latestart [a-z-]+ [^`]*-[^`]*)`", text, flags=re.MULTILINE):
            words = shlex.split("".join(line), comments=True)
            if not {"|", "NAME", "..."} & set(words):
                yield pytest.param(words[1:], id=f"{page.relative_to(ROOT)}: {' '.join(words[1:])[:80]}")


@pytest.mark.parametrize("words", list(_commands()))
def test_a_documented_command_is_taken(words, monkeypatch, tmp_path):
    def reached(*_, **__):
        raise Reached

    for name, module in list(sys.modules.items()):
        if name.startswith("latestart.cli.") and hasattr(module, "look_for"):
            monkeypatch.setattr(module, "look_for", reached)
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, Reached), result.output


def test_there_are_such_commands():
    assert len(list(_commands())) > 30
