"""Draw the house: the rooms of the package, floor by floor, and the imports between them.

    python tools/house.py                       # print the picture (Mermaid)
    python tools/house.py docs/architecture.md  # put it between the markers of a page

A room is a folder of the package, or a module beside these. It imports from the floors below its own, and from no
other. An arrow stands for an import; one that follows from two others is left out.
"""

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "src" / "latestart"
FLOORS = [
    {"checks", "device", "fingerprints", "progress", "records", "shipped"},
    {"settings"},
    {"files", "processes", "datasets", "train_config"},
    {"noise", "data"},
    {"inputs"},
    {"gaussians"},
    {"denoisers"},
    {"dynamics", "efficientnet", "features"},
    {"network_features", "train", "zoo"},
    {"evaluation"},
    {"theory"},
    {"sampling"},
    {"lab"},
    {"classifiers"},
    {"diagnosis"},
    {"tuning"},
    {"experiments"},
    {"cli"},
]
OUTSIDE = ("__init__", "__main__")  # the public names, and the program
BEGIN, END = "<!-- the house: made by tools/house.py -->", "<!-- end of the house -->"


def room_of(path: Path) -> str:
    """The room of a module."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """The rooms that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "latestart":
            whole = [node.module] if "." in node.module else [f"latestart.{one.name}" for one in node.names]
            found |= {name.split(".")[1] for name in whole if not name.endswith("__version__")}
        elif isinstance(node, ast.Import):
            found |= {one.name.split(".")[1] for one in node.names if one.name.startswith("latestart.")}
    return found


def imports() -> dict[str, set[str]]:
    """The rooms that each room imports, itself left out."""
    rooms: dict[str, set[str]] = {}
    for path in sorted(ROOT.rglob("*.py")):
        if (room := room_of(path)) not in OUTSIDE:
            rooms.setdefault(room, set()).update(imported(path) - {room})
    return rooms


def reduced(rooms: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that do not follow from two others, as pairs of rooms."""

    def below(room: str) -> set[str]:
        return rooms[room].union(*(below(other) for other in rooms[room]))

    return [
        (room, other)
        for room, direct in rooms.items()
        for other in sorted(direct)
        if not any(other in below(between) for between in direct - {other})
    ]


def purpose(room: str) -> str:
    """The first line of a room's docstring."""
    path = ROOT / room / "__init__.py"
    text = ast.get_docstring(ast.parse((path if path.is_file() else ROOT / f"{room}.py").read_text(encoding="utf-8")))
    return (text or "").splitlines()[0]


def picture() -> str:
    """The house as a Mermaid graph, and a line for each room, from the top down."""
    rooms = imports()
    lines = ["```mermaid", "graph TD"]
    lines += [f"    {room} --> {other}" for room, other in reduced(rooms)]
    lines += ["```", "", "| room | what it holds |", "| --- | --- |"]
    for floor in reversed(FLOORS):
        lines += [f"| `{room}` | {purpose(room)} |" for room in sorted(floor & set(rooms))]
    return "\n".join(lines)


def placed(text: str) -> str:
    """A page with the picture between its markers."""
    inside = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not inside.search(text):
        raise ValueError(f"expected the markers {BEGIN} and {END}, found none")
    return inside.sub(lambda _: f"{BEGIN}\n{picture()}\n{END}", text)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        page = Path(name)
        page.write_text(placed(page.read_text(encoding="utf-8")), encoding="utf-8")
    if len(sys.argv) == 1:
        print(picture())
