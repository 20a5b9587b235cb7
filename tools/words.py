"""List the docstrings of the package whose first line is not plain, and the modules without `__all__`.

    python tools/words.py

A first line is a verb phrase or the noun that is returned. It does not begin with "What", "Which", "Where", "How" or
"As many", and has none of "of which", "is told", "is said", "none that" and the like.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "src" / "latestart"
BEGINS = re.compile(r"(What|Which|Where|How|As many|As much|Whose|That)\b")
PHRASES = ("of which", "is told", "are told", "told of", "is said", "are said", "none that", "what is", "what was")
HAS = re.compile(rf"\b({'|'.join(PHRASES)})\b")


def unplain(root: Path = ROOT) -> Iterator[str]:
    """The place and the first line of each docstring that breaks a rule."""
    for path in sorted(root.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.Module) and (text := ast.get_docstring(node)):
                first = text.splitlines()[0]
                if BEGINS.match(first) or HAS.search(first):
                    yield f"{path.relative_to(root)}:{getattr(node, 'lineno', 1)}: {first}"


def without_all(root: Path = ROOT) -> Iterator[str]:
    """The modules that hold something and do not name what they offer."""
    for path in sorted(root.rglob("*.py")):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        named = any(isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__" for node in body)
        if path.name != "__main__.py" and len(body) > 1 and not named:
            yield str(path.relative_to(root))


if __name__ == "__main__":
    lines = [*unplain(), *(f"{path}: no __all__" for path in without_all())]
    print("\n".join(lines))
    sys.exit(bool(lines))
