"""Fill the tables of docs/levels.md and its figures from an analysis.

latestart analyze mnist --images mnist-train.parquet --limit 10000 --out out/levels
python tools/levels.py out/levels
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latestart.files import replacing

DOCS = Path(__file__).parent.parent / "docs"
FIGURES = ("eigenvalues.png", "spectrum.png")
BEGIN, END = "<!-- the table: written by tools/levels.py -->", "<!-- end of the table -->"
SUBJECTS = ("point cloud", "network")


def table(record: dict[str, Any]) -> str:
    """The levels of an analysis as markdown, and the reasons of those that were not found."""
    images, held_out = record["about"]["images"], record["about"]["held_out"]
    rows = {(row["criterion"], row["of"]): row for row in record["levels"]}
    missing = {(row["criterion"], row["of"]): row["reason"] for row in record["not_found"]}
    highest = {(b["criterion"], b["of"]): max(b["ratio"]) for b in record["branches"]}
    lines = [
        f"t of 1,000 with its interval, for {images:,} images and the network `{record['about']['model']}` "
        f"({held_out:,} held-out images):",
        "",
        "| criterion | point cloud: t | alpha_bar | network: t | alpha_bar |",
        "|---|---|---|---|---|",
    ]
    for name in record["criteria"]:
        subjects = ("data",) if (name, "data") in rows.keys() | missing.keys() else SUBJECTS
        cells = [cell for of in subjects for cell in _cells(rows.get((name, of)), highest.get((name, of), 0.0))]
        lines.append(f"| {name} | {' | '.join([*cells, '', ''][:4])} |")
    return "\n".join([*lines, *_reasons(missing)])


def _cells(row: dict[str, Any] | None, highest: float) -> list[str]:
    """A level and its alpha_bar; a peak is a local one where the branch has a higher point, at an end."""
    if row is None:
        return ["not found", ""]
    told = f"{row['t']:.0f}"
    if row["low"] is not None:
        told += f" [{row['low']:.0f}, {row['high']:.0f}]"
    if row["kind"] in ("peak", "fold"):
        height = "" if row["ratio"] is None else f" of {row['ratio']:.3f}"
        local = "local " if row["ratio"] is not None and highest > row["ratio"] + 1e-3 else ""
        told = f"{local}{row['kind']}{height} at {told}"
    return [told, f"{row['alpha_bar']:.3f}"]


def _reasons(missing: dict[tuple[str, str], str]) -> list[str]:
    told = [f"- {name}, {of}, not found: {reason}." for (name, of), reason in missing.items()]
    return ["", *told] if told else []


def branch_table(record: dict[str, Any]) -> str:
    """What is known along the central branch, at every second level."""
    branches = {(b["criterion"], b["of"]): b for b in record["branches"]}
    top = round(max(branches["density", "point cloud"]["t"]))
    rows = [(*key, "ratio", f"lambda / c, {', '.join(key)}") for key in branches]
    rows += [
        ("density", "network", "asymmetry", "asymmetry of J, density, network"),
        ("density", "point cloud", "moved", f"distance of D(y) from that at t = {top}, density, point cloud"),
        ("density", "network", "moved", f"distance of D(y) from that at t = {top}, density, network"),
        ("density", "network", "apart", "distance of the two fixed points over sigma, density"),
        ("sde", "network", "apart", "distance of the two fixed points over sigma, sde"),
    ]
    times = sorted({round(t) for branch in branches.values() for t in branch["t"]}, reverse=True)[1::2]
    lines = [_row("on the central branch, at t =", times), "|---|" + "---|" * len(times)]
    for criterion, of, name, title in rows:
        branch = branches[criterion, of]
        at = dict(zip(map(round, branch["t"]), zip(branch[name], branch["segment"])))
        lines.append(_row(title, [_value(*at.get(t, (None, 0))) for t in times]))
    broken = any(any(branch["segment"]) for branch in branches.values())
    lines += ["", "\\* past a break of the central branch, on the one that the search came to."] if broken else []
    return "\n".join(lines)


def path_table(record: dict[str, Any]) -> str:
    """The ratio along sample paths, its mean and its spread over the paths."""
    times = [round(t) for t in record["exponents"][0]["t"]]
    lines = [_row("lambda / c along sample paths (spread), at t =", times), "|---|" + "---|" * len(times)]
    for curve in record["exponents"]:
        values = [f"{mean:.2f} ({spread:.2f})" for mean, spread in zip(curve["ratio"], curve["spread"])]
        lines.append(_row(f"{curve['criterion']}, {curve['of']}", values))
    return "\n".join(lines)


def _value(value: float | None, segment: int) -> str:
    return "-" if value is None else f"{value:.2f}{'*' if segment else ''}"


def _row(title: str, cells: Sequence[Any]) -> str:
    return f"| {title} | {' | '.join(map(str, cells))} |"


def fill(page: Path, text: str) -> None:
    """Put `text` between the marks of a page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    with replacing(page) as temporary:
        temporary.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


def main() -> None:
    """Read the analysis, write the page and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("analysis", type=Path, help="the folder that `latestart analyze` wrote")
    parser.add_argument("--docs", type=Path, default=DOCS)
    options = parser.parse_args()
    record = json.loads((options.analysis / "analysis.json").read_text())
    fill(options.docs / "levels.md", "\n\n".join(part(record) for part in (table, branch_table, path_table)))
    for name in FIGURES:
        with replacing(options.docs / name) as temporary:
            temporary.write_bytes((options.analysis / name).read_bytes())
    print(f"wrote levels.md, {' and '.join(FIGURES)} to {options.docs}")


if __name__ == "__main__":
    main()
