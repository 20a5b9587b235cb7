"""Places: a path, followed by words about what is wanted of it, each after an `@`.

celeba@64             every image cut and shrunk to 64 x 64
celeba@32@test        a part: train, valid, test or all
celeba@64@Smiling     with an attribute, 0 or 1, as the label
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

PARTS = ("train", "valid", "test")
ALL = "all"


@dataclass(frozen=True)
class Place:
    """A path and the words after it.

    Attributes:
        path: without the words.
        size: the height and width asked for.
        part: of the set.
        attribute: that is to be the label.
    """

    path: Path
    size: int | None = None
    part: str | None = None
    attribute: str | None = None

    @classmethod
    def of(cls, text: str | Path) -> "Place":
        """The place that a text names; one that exists as it is has no words.

        Raises:
            ValueError: two sizes, two parts or two attributes.
        """
        if Path(text).exists() or "@" not in Path(text).name:
            return cls(Path(text))
        name, *words = Path(text).name.split("@")
        kinds = {word: "size" if word.isdigit() else "part" if word in (*PARTS, ALL) else "attribute" for word in words}
        if len(set(kinds.values())) < len(words) or not all(words):
            raise ValueError(f"{text}: expected at most one size, one part and one attribute, each after an @")
        found: dict[str, Any] = {kind: int(word) if kind == "size" else word for word, kind in kinds.items()}
        return cls(Path(text).with_name(name) if name else Path(text).parent, **found)

    def without(self, what: str, *names: str) -> None:
        """Raise `ValueError` if words were said that make no sense of a kind of place."""
        if said := [str(word) for name in names if (word := getattr(self, name)) is not None]:
            raise ValueError(f"{self.path} is {what}, which has no {said[0]!r} to ask for")
