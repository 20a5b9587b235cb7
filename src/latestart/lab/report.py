"""What a command found, told once: on the terminal, and as `report.md` in its folder.

A `Report` is a title, the command that was given, the kind of machine, facts (samples, seed, features, ..), tables,
sentences and pictures. Tables are rich ones: `markdown_table` writes any of them with its title, columns, sections,
bold cells and caption. `tools/results.py` puts the reports of several folders together.

What is written names no place of the machine: an absolute path is told relative to the current folder where it lies
below that, and else by its last two parts.
"""

import os
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from latestart.files import replacing

NAME = "report.md"
WIDTH = 160  # of tables that are not printed to a terminal
RULES = {"right": "---:", "center": ":---:"}
PART = r"[^\s/|,;:=\"'`()\[\]]+"
PLACE = re.compile(rf"(?<![\w./~<])/(?:{PART}/)+{PART}")  # an absolute path of two parts or more, in running text


def command_given() -> str:
    """The command that the present process was given, as one would type it."""
    told = (re.sub(r"[^,=]+", lambda part: place(part[0]), argument) for argument in sys.argv[1:])
    return shlex.join(["latestart", *told])


def place(path: str) -> str:
    """A path as it is told: an absolute one from the current folder, or by its last two parts; others as they are."""
    whole = Path(path)
    if not whole.is_absolute():
        return path
    if whole.is_relative_to(Path.cwd()):
        return whole.relative_to(Path.cwd()).as_posix()
    return "/".join(whole.parts[1:][-2:])


def machine_kind(accelerated: bool = True) -> str:
    """The kind of machine: its accelerator, if it has one that is used, or else its processor; and torch's version."""
    cores = os.cpu_count()
    kind = f"{platform.machine().replace('_', '-')} processor, {cores} core{'' if cores == 1 else 's'}"
    if accelerated and torch.cuda.is_available():
        kind = torch.cuda.get_device_name()
    return f"{kind}, torch {torch.__version__.split('+')[0]}"


@dataclass(frozen=True)
class Report:
    """What a command found.

    Attributes:
        title: of the report.
        facts: by name, what holds for all figures.
        tables: in order.
        sentences: below the tables.
        pictures: names of files in the report's folder.
        command: the one that made it.
        machine: its kind.
    """

    title: str
    facts: dict[str, Any]
    tables: Sequence[Table] = ()
    sentences: Sequence[str] = ()
    pictures: Sequence[str] = ()
    command: str = field(default_factory=command_given)
    machine: str = field(default_factory=machine_kind)

    def publish(self, folder: Path, *others: str) -> None:
        """Print it, write it to `folder`, and say where it is, with its pictures and the other files there."""
        self.show()
        with replacing(folder / NAME) as temporary:
            temporary.write_text(self.markdown(), encoding="utf-8")
        files = ", ".join(str(folder / name) for name in (NAME, *self.pictures, *others))
        _say(f"wrote {files}")

    def show(self) -> None:
        """Print tables and sentences."""
        console = Console(width=None if Console().is_terminal else WIDTH)
        for table in self.tables:
            console.print(table)
        for sentence in self.sentences:
            _say(sentence)

    def markdown(self) -> str:
        """All of it, with a heading of the first level."""
        facts = {**self.facts, "machine": self.machine}
        parts = [
            f"# {escaped(self.title)}",
            f"```sh\n{self.command}\n```",
            "; ".join(f"{name}: {escaped(str(value))}" for name, value in facts.items() if value is not None),
            *map(markdown_table, self.tables),
            "\n".join(f"- {escaped(sentence)}" for sentence in self.sentences),
            *(f"![{Path(name).stem}]({name})" for name in self.pictures),
        ]
        text = "\n\n".join(part for part in parts if part)
        return PLACE.sub(lambda found: place(found[0]), text) + "\n"


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def markdown_table(table: Table) -> str:
    """A table as Markdown, its title above and its caption below; an empty row stands between two sections."""
    lines = [
        [_cell(column.header) for column in table.columns],
        [RULES.get(column.justify, "---") for column in table.columns],
    ]
    cells = zip(*(column.cells for column in table.columns))
    for number, (row, line) in enumerate(zip(table.rows, cells), 1):
        lines.append([_cell(cell, row.style) for cell in line])
        if row.end_section and number < len(table.rows):
            lines.append([""] * len(table.columns))
    title = [_cell(table.title, "bold"), ""] if table.title else []
    caption = ["", _cell(table.caption)] if table.caption else []
    return "\n".join([*title, *(f"| {' | '.join(line)} |" for line in lines), *caption])


def _cell(content: Any, style: Any = None) -> str:
    text = content.copy() if isinstance(content, Text) else Text.from_markup(str(content))
    text.stylize(style or "")
    return "<br>".join(map(_line, text.split("\n", allow_blank=True)))


def _line(text: Text) -> str:
    segments = text.render(Console())
    return "".join(_marked("".join(s.text for s in part), bold) for bold, part in groupby(segments, _is_bold))


def _is_bold(segment: Segment) -> bool:
    return segment.style is not None and segment.style.bold is True


def _marked(text: str, bold: bool) -> str:
    return f"**{escaped(text)}**" if bold and text.strip() else escaped(text)


def escaped(text: str) -> str:
    r"""Text without what Markdown would take for marks: `\`, `|`, `*` and `<`."""
    return re.sub(r"([\\|*<])", r"\\\1", text)
