"""The house: a room stands above all that it imports."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "src" / "latestart"
FLOORS = [
    {"checks", "device", "records", "shipped"},
    {"files", "processes", "datasets"},
    {"noise", "data"},
    {"inputs"},
    {"gaussians"},
    {"denoisers"},
    {"dynamics", "features"},
    {"zoo", "train"},
    {"evaluation"},
    {"theory"},
    {"sampling"},
    {"diagnosis"},
    {"experiments"},
    {"report"},
    {"cli"},
]


def _room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "latestart":
            rest = [node.module] if "." in node.module else [f"latestart.{a.name}" for a in node.names]
            found |= {_room(name) for name in rest if not name.endswith("__version__")}
        elif isinstance(node, ast.Import):
            found |= {_room(a.name) for a in node.names if a.name.startswith("latestart.")}
    return found


def test_no_import_runs_up_and_every_room_has_its_floor():
    floor = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
    wrong = []
    for path in ROOT.rglob("*.py"):
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        assert room in floor, f"{path} stands in no room of the house"
        wrong += [
            f"{path.name}: {room} imports {other}" for other in _imports(path) if floor.get(other, 99) > floor[room]
        ]
        wrong += [
            f"{path.name}: {room} imports {o}" for o in _imports(path) if o != room and floor.get(o) == floor[room]
        ]
    assert not wrong


def test_the_public_names_resolve():
    import latestart

    for name in latestart.__all__:
        assert getattr(latestart, name) is not None
