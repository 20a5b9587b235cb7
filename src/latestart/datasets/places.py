"""Places: a path, followed by words about its images, each after an `@`.

celeba@64                    every image cut and shrunk to 64 x 64
celeba@32@test               a part: train, valid, test or all
celeba@64@Smiling            with an attribute, 0 or 1, as the label
photos@background=white      transparent pictures laid onto a colour
"""

from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

from latestart.datasets.pictures import Colour, colour_of

__all__ = ["ALL", "PARTS", "Place"]

PARTS = ("train", "valid", "test")
ALL = "all"
BACKGROUND = "background="


@dataclass(frozen=True)
class Place:
    """A path and the words after it.

    Attributes:
        path: without the words.
        size: the height and width asked for.
        part: of the set.
        attribute: that is to be the label.
        background: the colour that transparent pictures are laid onto.
    """

    path: Path
    _: KW_ONLY
    size: int | None = None
    part: str | None = None
    attribute: str | None = None
    background: Colour | None = None

    @classmethod
    def of(cls, text: str | Path, background: Colour | None = None) -> "Place":
        """The place that a text names; one that exists as it is has no words.

        Args:
            text: a path, and words.
            background: as the word, for a text without it.

        Raises:
            ValueError: two words of a kind, or a background that is no colour.
        """
        place = cls._parsed(text)
        if background is not None and place.background is not None:
            raise ValueError(f"{text} says its background, and background={background!r} was given beside it")
        if background is not None:
            place = replace(place, background=background)
        if place.background is not None:
            colour_of(place.background)
        return place

    @classmethod
    def _parsed(cls, text: str | Path) -> "Place":
        if Path(text).exists() or "@" not in Path(text).name:
            return cls(Path(text))
        name, *words = Path(text).name.split("@")
        found: dict[str, Any] = dict(map(_read, words))
        if len(found) < len(words) or not all(words):
            raise ValueError(
                f"{text}: expected at most one size, one part, one attribute and one background, each after an @"
            )
        return cls(Path(text).with_name(name) if name else Path(text).parent, **found)

    def without(self, what: str, *names: str) -> None:
        """Raise `ValueError` for words that a kind of place does not have."""
        if said := [str(word) for name in names if (word := getattr(self, name)) is not None]:
            raise ValueError(f"{self.path} is {what}, which has no {said[0]!r} to ask for")


def _read(word: str) -> tuple[str, Any]:
    """Return the field of a `Place` that a word gives, and its value."""
    if word.startswith(BACKGROUND):
        return "background", word.removeprefix(BACKGROUND)
    if word.isdecimal():
        return "size", int(word)
    return "part" if word in (*PARTS, ALL) else "attribute", word
