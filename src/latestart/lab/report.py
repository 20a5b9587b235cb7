"""Reports: tables and sentences, printed to the terminal and written as `report.md`.

A `Report` is a title, the command that was given, the kind of machine, facts (samples, seed, features, ..), tables,
sentences and pictures. Tables are rich ones: `markdown_table` writes any of them with its title, columns, sections,
bold cells and caption. `tools/results.py` puts the reports of several folders together.

No report names a place of the machine: an absolute path below the current folder becomes a relative one, and another
is cut to its last two parts.

All reports share one table (`table`), one format of an estimate (`spread`) and their first facts (`setup_facts`).
"""

import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from latestart.evaluation.quality import Estimate
from latestart.files import replacing
from latestart.noise import when

if TYPE_CHECKING:
    from latestart.lab.grid import Cell
    from latestart.lab.judge import Figures, Floor

__all__ = [
    "BESIDE", "NAME", "QUALITY", "Report", "also", "command_given", "escaped", "facts_of", "floor_sentence",
    "machine_kind", "markdown_table", "named", "not_measured", "number", "place", "prior_title", "quality",
    "setting_of", "setup_facts", "show", "spread", "start_of", "table",
]  # fmt: skip

NAME = "report.md"
WIDTH = 200  # of tables that are not printed to a terminal
RULES = {"right": "---:", "center": ":---:"}
PART = r"[^\s/|,;:=\"'`()\[\]]+"
PLACE = re.compile(rf"(?<![\w./~<])/(?:{PART}/)+{PART}")  # an absolute path of two parts or more, in running text


def table(
    title: str,
    *columns: str,
    left: Sequence[str] = (),
    caption: str = "",
    rows: Iterable[Iterable[str]] = (),
    sections: int = 0,
) -> Table:
    """Return a table whose columns are aligned to the right, those named in `left` to the left.

    Args:
        title: above it.
        columns: their names.
        left: some of these.
        caption: below it.
        rows: cells, with the marks of rich.
        sections: number of the first cells that are alike within a section.
    """
    made = Table(title=title, title_justify="left", box=SIMPLE, caption=caption or None)
    for name in columns:
        aligned = name in left
        made.add_column(name, justify="left" if aligned else "right", no_wrap=not aligned)
    for _, section in groupby(map(list, rows), lambda row: row[:sections]):
        for row in section:
            made.add_row(*row)
        if sections:
            made.add_section()
    return made


def number(value: float | None, form: str = "") -> str:
    """Return a number by its format, by default three digits, and whole from 100 on; "∞" if infinite, "-" for None."""
    return "-" if value is None else format(value, form or (".0f" if abs(value) >= 100 else ".3g")).replace("inf", "∞")


def spread(estimate: Estimate | None, form: str = "") -> str:
    """Return an estimate and its interval, `36.9 [35.1, 38.2]`, for a cell of a table; "-" for None."""
    return escape(named(estimate, form))


def named(estimate: Estimate | None, form: str = "") -> str:
    """Return an estimate and its interval for a sentence, `36.9 [35.1, 38.2]`; "-" for None."""
    if estimate is None:
        return "-"
    value, low, high = (number(x, form) for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


QUALITY = ("Fréchet", "recall", "copied", "second", "variance")  # the columns of `quality`
BESIDE = (
    "second: the distance in a second feature space; variance: of the samples before they are clipped, over the data's"
)


def quality(figures: "Figures") -> tuple[str, ...]:
    """Return the figures of a set of samples as cells of a table, in the columns `QUALITY`.

    The distance, the recall, the share of copies, the distance in the second feature space, and the variance.
    """
    shares = (spread(one, ".3f") for one in (figures.recall, figures.copied))
    return spread(figures.frechet), *shares, spread(figures.second), spread(figures.variance, ".2f")


def also(figures: "Figures", intervals: bool = False) -> list[str]:
    """Return the second distance and the variance in words, each where it is known: `second 36.9`."""
    known = {"second": (figures.second, ""), "variance": (figures.variance, ".2f")}
    return [
        f"{name} {named(one, form) if intervals else number(one.value, form)}"
        for name, (one, form) in known.items()
        if one is not None
    ]


def setup_facts(settings: Any, chosen: bool = False) -> dict[str, Any]:
    """Return the facts of a measurement on one model: its name, the samples, and the seed.

    Args:
        settings: a `Setup`.
        chosen: whether the seed is that of a choice, and the figures are of the next.
    """
    seeds = f"{settings.seed} to choose, {settings.seed + 1} for the figures"
    return {"model": Path(settings.model).name, "samples": settings.samples, "seed": seeds if chosen else settings.seed}


def facts_of(result: Any, **more: Any) -> dict[str, Any]:
    """Return the facts of a result on one model: those of its settings, its weights, its features, and more."""
    known = {name: getattr(result, name, None) for name in ("weights", "features")}
    facts = setup_facts(result.settings)
    return {"model": facts["model"], "weights": known["weights"]} | facts | known | more


def prior_title(name: str) -> str:
    """Return the name of a prior in a sentence: a known kind, or the file's own name."""
    known = {"isotropic": "N(0, I)", "gaussian": "the Gaussian", "mixture": "the mixture"}
    return known.get(name, Path(name).name)


def floor_sentence(floor: "Floor | None", samples: int) -> str:
    """Return the distance of held-out images to the training set in words: the best score to hope for.

    Args:
        floor: of `Judge.floor`; None without held-out images.
        samples: number of samples of the distances; fewer images have a higher floor.
    """
    if floor is None:
        return (
            "without images that the model has not seen, there is no floor beside the distances and no share of copies"
        )
    fewer = "" if floor.images >= samples else f", a little too high, since there are {samples:,} samples"
    score, second = (
        named(floor.frechet),
        "" if floor.second is None else f", in the second features {named(floor.second)}",
    )
    return f"{floor.images:,} images that the model has not seen score {score}{second}: the floor{fewer}"


def not_measured(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a line for each reason why cells of a sweep are unavailable or have failed, and one for those left."""
    reasons: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["status"] in ("unavailable", "failed"):
            reasons.setdefault((row["status"], row["sampler"], row["reason"]), []).append(row)
    for (status, sampler, reason), cells in reasons.items():
        first = cells[0]
        where = ", ".join((first["model"], f"NFE {first['nfe']}", *start_of(first)))
        many = f"{len(cells)} cells, the first being " if len(cells) > 1 else ""
        yield f"{status}: {sampler}: {many}{where}: {reason}"
    left = [row for row in rows if row["status"] == "left"]
    if left:
        cost = sum(row["nfe"] * row["samples"] for row in left)
        yield f"left, beyond the budget: {len(left)} of {len(rows)} cells, {cost:,} network evaluations"


def start_of(row: dict[str, Any]) -> tuple[str, str]:
    """Return the start of a sweep's row in words, and its spacing with clipping."""
    start = "full noise" if row["t_start"] is None else f"{row['prior']} at {row['t_start']:g}"
    return start, f"{row['spacing']}{', clipped' if row['clip'] else ''}"


def setting_of(cell: "Cell") -> str:
    """Return the time of a late start or the spacing of full noise, with clipping: `t = 500, clipped`."""
    return f"{cell.spacing if cell.t_start is None else f't = {when(cell.t_start)}'}{', clipped' if cell.clip else ''}"


def command_given() -> str:
    """Return the command line of the present process, as one would type it."""
    told = (re.sub(r"[^,=]+", lambda part: place(part[0]), argument) for argument in sys.argv[1:])
    return shlex.join(["latestart", *told])


def place(path: str) -> str:
    """Return a path for print: an absolute one from the current folder, or its last two parts; others as they are."""
    whole = Path(path)
    if not whole.is_absolute():
        return path
    if whole.is_relative_to(Path.cwd()):
        return whole.relative_to(Path.cwd()).as_posix()
    return "/".join(whole.parts[1:][-2:])


def machine_kind(accelerated: bool = True) -> str:
    """Return the kind of machine: its accelerator, if one is used, else its processor; and torch's version."""
    cores = os.cpu_count()
    kind = f"{platform.machine().replace('_', '-')} processor, {cores} core{'' if cores == 1 else 's'}"
    if accelerated and torch.cuda.is_available():
        kind = torch.cuda.get_device_name()
    return f"{kind}, torch {torch.__version__.split('+')[0]}"


@dataclass(frozen=True)
class Report:
    """The tables, sentences and pictures of a result.

    Attributes:
        title: of the report.
        facts: names and values that hold for all figures.
        tables: in order.
        sentences: below the tables.
        pictures: names of files in the report's folder.
        files: names of others there.
        command: command line that made it.
        machine: its kind.
    """

    title: str
    facts: dict[str, Any]
    tables: Sequence[Table] = ()
    sentences: Sequence[str] = ()
    _: KW_ONLY
    pictures: Sequence[str] = ()
    files: Sequence[str] = ()
    command: str = field(default_factory=command_given)
    machine: str = field(default_factory=machine_kind)

    def publish(self, folder: Path, *others: str) -> None:
        """Print it, write it to `folder`, and name the files written: its own, its pictures and others there."""
        self.show()
        with replacing(folder / NAME) as temporary:
            temporary.write_text(self.markdown(), encoding="utf-8")
        files = ", ".join(str(folder / name) for name in (NAME, *self.pictures, *others, *self.files))
        _say(f"wrote {files}")

    def show(self) -> None:
        """Print tables and sentences."""
        show(*self.tables)
        for sentence in self.sentences:
            _say(sentence)

    def markdown(self) -> str:
        """Return all of it as Markdown, with a heading of the first level."""
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


def show(*tables: Table) -> None:
    """Print tables, wide ones where there is no terminal to fit them to."""
    Console(width=None if Console().is_terminal else WIDTH).print(*tables)


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def markdown_table(table: Table) -> str:
    """Return a table as Markdown, its title above and its caption below; an empty row between two sections."""
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
    r"""Return text with the marks of Markdown escaped: `\`, `|`, `*` and `<`."""
    return re.sub(r"([\\|*<])", r"\\\1", text)
