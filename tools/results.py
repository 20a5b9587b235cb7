"""Put the reports of experiments together: `python tools/results.py FOLDER... --out docs/results.md`.

Each folder is one that a command of `latestart` wrote to. Its report becomes a section, its pictures, in fewer colours
and at most 1,600 pixels wide, come to lie in a folder beside the page, and both are called by the folder's name. Before
them all stand the gains of late start in every table of the paper among them, from its `results.json`. With `--keep`,
what the page already has of other folders stays, a section of the same name is replaced where it stands, and a new one
comes behind that of the folder given before it, or last.
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from latestart.files import replacing
from latestart.lab.report import NAME

WIDEST, COLOURS = 1600, 256
PICTURE = re.compile(r"^!\[(.*)\]\((.+)\)$", re.MULTILINE)
ANCHOR = re.compile(r'^<a id="(.+)"></a>$', re.MULTILINE)
INTRODUCTION = (
    "What the commands of `latestart` found: each section is the report that one of them wrote, with the command, the "
    "number of samples, the seed and the kind of machine. Intervals, in brackets, are of 95%, by resampling the "
    "samples (100 times for a distance, 200 for precision and recall, 1,000 for copies) with the data set's own "
    "figures, the network and the priors as they are. Put together by "
    "`python tools/results.py FOLDER... --out docs/results.md`."
)
SUMMARY = (
    "## The gains of a late start\n\nThe Frechet distance from full noise over that of the late start, at equal "
    "evaluations. First the paper's own figure and the same measured here, on its grid and on an exact one; then on "
    "the best full noise of DDIM that its table tried; last the best late start of all samplers on the best full noise "
    "of all of them. Recall and the share of copies are the late start's: beside which others, the tables below say."
)
GAINS = {  # part, sampler, which ratio, kind of start
    "DDIM, Gaussian,<br>as the paper did it": ("paper", "ddim", "ratios", "gaussian"),
    "exact grid, on the<br>paper's baseline": ("exact", "ddim", "paper_ratios", "gaussian"),
    "on DDIM's best<br>full noise": ("exact", "ddim", "ratios", "gaussian"),
    "DDIM, mixture": ("exact", "ddim", "ratios", "mixture"),
    "best of all,<br>Gaussian": ("best", "best", "ratios", "gaussian"),
    "best of all,<br>mixture": ("best", "best", "ratios", "mixture"),
}

BESIDE = {"recall": 2, "copied": 3}  # with their digits


@dataclass(frozen=True)
class Report:
    """The report of a folder: the folder, its title, and its text without that."""

    folder: Path
    title: str
    text: str

    @property
    def name(self) -> str:
        """The name of its anchor and of its pictures."""
        return self.folder.resolve().name


@dataclass(frozen=True)
class Section:
    """A report as the page has it: its name, its title, the text below that, and its lines in the table of gains."""

    name: str
    title: str
    text: str
    gains: tuple[str, ...]


def read(folder: Path) -> Report:
    """The report of a folder.

    Raises:
        ValueError: there is none, or the file is none of `latestart`.
    """
    path = folder / NAME
    if not path.is_file():
        raise ValueError(f"expected a folder with a {NAME}, as the commands of latestart write it, received {folder}")
    first, _, text = path.read_text(encoding="utf-8").partition("\n")
    if not first.startswith("# "):
        raise ValueError(f"{path} is no report of latestart: expected a title in its first line, received {first!r}")
    return Report(folder, first.removeprefix("# "), text.strip())


def kept(page: Path) -> list[Section]:
    """The sections of a page that this tool wrote.

    Raises:
        ValueError: there is no such page, or it has no sections.
    """
    if not page.is_file():
        raise ValueError(f"expected a page to keep sections of, received {page}, which is not there")
    head, *parts = ANCHOR.split(page.read_text(encoding="utf-8"))
    found = []
    for name, part in zip(parts[::2], parts[1::2]):
        first, _, text = part.strip().partition("\n")
        gains = tuple(line for line in head.split("\n") if line.startswith(f"| [{name}](#{name}) |"))
        found.append(Section(name, first.removeprefix("## "), text.strip(), gains))
    if not found:
        raise ValueError(f"{page} has no sections to keep: is it a page of this tool?")
    return found


def page(sections: Sequence[Section]) -> str:
    """All sections below a table of contents and the gains in every table of the paper among them, if any."""
    contents = [f"- [{section.title}](#{section.name})" for section in sections]
    parts = ["# Results", INTRODUCTION, "\n".join(contents)]
    if lines := [line for section in sections for line in section.gains]:
        columns = ("table", "NFE", "paper", *GAINS)
        parts.append("\n".join([SUMMARY, "", _line(columns), _line(["---"] + ["---:"] * (len(columns) - 1)), *lines]))
    told = (f'<a id="{section.name}"></a>\n\n## {section.title}\n\n{section.text}' for section in sections)
    return "\n\n".join([*parts, *told]) + "\n"


def _section(report: Report, pictures: Path) -> Section:
    """A report as the page has it; its pictures are copied to the folder `pictures` beside the page."""

    def moved(link: re.Match[str]) -> str:
        source = report.folder / link[2]
        name = report.name if source.stem == report.name else f"{report.name}-{source.stem}"
        copy_picture(source, pictures / f"{name}.png")
        return f"![{link[1]}]({pictures.name}/{name}.png)"

    return Section(report.name, report.title, PICTURE.sub(moved, report.text), tuple(_gains(report)))


def _gains(report: Report) -> list[str]:
    """The gains in a table of the paper, with intervals; nothing of another experiment."""
    path = report.folder / "results.json"
    found = json.loads(path.read_text(encoding="utf-8")).get("rows", []) if path.is_file() else []
    if not all(isinstance(row, dict) and "paper_ratios" in row for row in found):
        return []  # rows of another experiment
    rows = {(row["part"], row["sampler"], row["number"]): row for row in found}
    return [_row(report.name, number, rows) for number in sorted({number for _, _, number in rows})]


def _row(name: str, number: int, rows: dict[tuple[str, str, int], Any]) -> str:
    theirs = [row["published"] for (_, sampler, n), row in rows.items() if (sampler, n) == ("ddim", number)]
    paper = next((f"{one['ratio']:.2f}" for one in theirs if one), "-")
    ours = [_gain(rows.get((part, sampler, number)), which, kind) for part, sampler, which, kind in GAINS.values()]
    return _line((f"[{name}](#{name})", str(number), paper, *ours))


def _gain(row: dict[str, Any] | None, which: str, kind: str) -> str:
    """A gain with its interval; recall and copies of the late start; the gain without copies, where there are any."""
    if row is None or kind not in row[which]:
        return "-"
    best = row["best"][kind]
    known = [f"{name} {best[name]['value']:.{digits}f}" for name, digits in BESIDE.items() if best[name]]
    lines = [_interval(row[which][kind]), *([", ".join(known)] if known else [])]
    if clean := row.get("clean_ratios", {}).get(kind):
        lines.append(f"without copies: {_interval(clean)}")
    return "<br>".join(lines)


def _interval(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def copy_picture(source: Path, target: Path) -> None:
    """A picture as a small PNG."""
    with Image.open(source) as picture:
        small = picture.convert("RGB")
    small.thumbnail((WIDEST, 10 * WIDEST))
    with replacing(target) as temporary:
        # the palette of maximum coverage keeps thin lines in their colours; the default one does not
        few = small.quantize(COLOURS, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(temporary, format="PNG", optimize=True)


def gather(folders: Sequence[Path], out: Path, keep: bool = False) -> None:
    """Write the page of the folders' reports, and its pictures; with `keep`, beside what the page has of others.

    Raises:
        ValueError: a folder without a report, two folders of one name, or no page to keep anything of.
        OSError: a picture that cannot be read.
    """
    reports = [read(folder) for folder in folders]
    names = [report.name for report in reports]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"expected folders of different names, received more than one called {', '.join(twice)}")
    sections, at = kept(out) if keep else [], -1
    for report in reports:
        places = [k for k, section in enumerate(sections) if section.name == report.name]
        at = places[0] if places else at + 1 if at >= 0 else len(sections)
        sections[at : at + len(places)] = [_section(report, out.with_suffix(""))]
    with replacing(out) as temporary:
        temporary.write_text(page(sections), encoding="utf-8")


def main() -> None:
    """Read the folders, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders that commands of latestart wrote to")
    parser.add_argument("--out", type=Path, default=Path("docs/results.md"))
    parser.add_argument("--keep", action="store_true", help="keep the sections of other folders that the page has")
    options = parser.parse_args()
    try:
        gather(options.folders, options.out, options.keep)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"wrote {options.out} and {options.out.with_suffix('')}")


if __name__ == "__main__":
    main()
