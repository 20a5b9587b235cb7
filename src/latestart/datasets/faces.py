"""Cartoon faces with known attributes: a data set of any size for the study of diversity.

Each face has independent attributes with the shares below, drawn by the packages python-avatars (the parts, as
vector graphics) and resvg-py (to pixels): `pip install latestart[faces]`. Face i depends on the seed and i alone.

    skin          seven tones, from a third of the faces to one in twenty-five
    glasses       three in ten
    facial hair   one in four
    hair          none one in ten, short 0.45, long 0.45

Also random, uniformly and without a record: the cut and colour of the hair, the kind of glasses and beard, eyes, brows,
mouth, clothes and their colour, and the lightness of the background.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from latestart.checks import checked_seed, optional, whole_number
from latestart.records import Record

__all__ = ["SHARES", "Faces", "drawn", "faces"]

SHARES: dict[str, dict[str, float]] = {
    "skin": {
        "light": 0.34,
        "pale": 0.20,
        "tanned": 0.15,
        "brown": 0.12,
        "yellow": 0.08,
        "dark_brown": 0.07,
        "black": 0.04,
    },
    "glasses": {"none": 0.7, "glasses": 0.3},
    "facial_hair": {"none": 0.75, "facial_hair": 0.25},
    "hair": {"none": 0.1, "short": 0.45, "long": 0.45},
}
CUTS = {
    "none": ("NONE",),
    "short": ("CAESAR", "CAESAR_SIDE_PART", "SHORT_CURLY", "SHORT_FLAT", "SHORT_ROUND", "SHORT_WAVED", "BUZZCUT"),
    "long": ("BOB", "CURVY", "DREADS", "STRAIGHT_1", "STRAIGHT_2", "LONG_NOT_TOO_LONG", "BIG_HAIR", "MIA_WALLACE"),
}  # fmt: skip
PARTS = {
    "glasses": ("PRESCRIPTION_1", "PRESCRIPTION_2", "ROUND", "WAYFARERS"),
    "facial_hair": ("BEARD_LIGHT", "BEARD_MEDIUM", "BEARD_MAGESTIC", "MOUSTACHE_FANCY", "MOUSTACHE_MAGNUM"),
    "eyes": ("DEFAULT", "HAPPY", "SIDE", "SQUINT", "SURPRISED", "WINK"),
    "eyebrows": ("DEFAULT", "DEFAULT_NATURAL", "FLAT_NATURAL", "RAISED_EXCITED_NATURAL", "SAD_CONCERNED_NATURAL"),
    "mouth": ("DEFAULT", "SERIOUS", "SMILE", "TWINKLE", "CONCERNED"),
    "clothing": ("BLAZER_SHIRT", "COLLAR_SWEATER", "HOODIE", "SHIRT_CREW_NECK", "SHIRT_V_NECK", "OVERALL"),
    "hair_color": ("AUBURN", "BLACK", "BLONDE", "BLONDE_GOLDEN", "BROWN", "BROWN_DARK", "SILVER_GRAY"),
    "clothing_color": ("BLACK", "BLUE_01", "BLUE_03", "GRAY_02", "PASTEL_GREEN", "PINK", "RED", "WHITE"),
}
CANVAS = {'width="264px"': 'width="220"', 'height="280px"': 'height="220"', "0 0 264 280": "22 10 220 220"}


@dataclass(frozen=True, eq=False, repr=False)
class Faces(Record):
    """Faces with known attributes.

    Attributes:
        pixels: of the faces, uint8 `(N, 3, size, size)`.
        attributes: by the names of `SHARES`, the index of each face's value, int64 `(N,)`.
    """

    pixels: np.ndarray
    attributes: dict[str, np.ndarray]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays of an npz file: `images`, `labels` (the skin tones), and one for each attribute."""
        return {"images": np.moveaxis(self.pixels, 1, -1), "labels": self.attributes["skin"], **self.attributes}


def faces(n: int, size: int = 64, seed: int = 0, progress: Callable[[int, int, str], None] | None = None) -> Faces:
    """Draw n faces.

    Args:
        n: number of faces.
        size: side in pixels.
        seed: face i depends on (seed, i) alone.
        progress: called as `progress(done, n, "")`.

    Raises:
        ValueError: n or size is no whole number of at least 1, or the seed is not one.
        ImportError: the packages are not installed.
    """
    n, size, seed = whole_number("n", n), whole_number("size", size), checked_seed(seed)
    render = _renderer()
    pixels = np.empty((n, 3, size, size), dtype=np.uint8)
    attributes = {name: np.empty(n, dtype=np.int64) for name in SHARES}
    for i in range(n):
        chosen, parts = drawn(np.random.default_rng((seed, i)))
        pixels[i] = render(parts, size)
        for name, values in attributes.items():
            values[i] = list(SHARES[name]).index(chosen[name])
        if progress is not None and (i + 1) % 50 == 0:
            progress(i + 1, n, "")
    return Faces(pixels, attributes)


def drawn(random: np.random.Generator) -> tuple[dict[str, str], dict[str, str]]:
    """Draw one face: return its attributes, and all its parts by name."""
    chosen = {name: str(random.choice(list(shares), p=list(shares.values()))) for name, shares in SHARES.items()}
    parts = {name: str(random.choice(options)) for name, options in PARTS.items()}
    parts |= {name: "NONE" for name in ("glasses", "facial_hair") if chosen[name] == "none"}
    background = int(random.integers(150, 256))
    parts |= {"top": str(random.choice(CUTS[chosen["hair"]])), "skin": chosen["skin"].upper()}
    return chosen, parts | {"background": f"#{background:02x}{background:02x}{background:02x}"}


def _renderer() -> Callable[[dict[str, str], int], np.ndarray]:
    remedy = "faces are drawn by python-avatars and resvg-py: pip install latestart[faces]"
    pa, resvg = optional("python_avatars", remedy), optional("resvg_py", remedy)

    def render(parts: dict[str, str], size: int) -> np.ndarray:
        avatar = pa.Avatar(
            style=pa.AvatarStyle.TRANSPARENT,
            top=pa.HairType[parts["top"]],
            eyebrows=pa.EyebrowType[parts["eyebrows"]],
            eyes=pa.EyeType[parts["eyes"]],
            mouth=pa.MouthType[parts["mouth"]],
            facial_hair=pa.FacialHairType[parts["facial_hair"]],
            skin_color=pa.SkinColor[parts["skin"]],
            hair_color=pa.HairColor[parts["hair_color"]],
            facial_hair_color=pa.HairColor[parts["hair_color"]],
            accessory=pa.AccessoryType[parts["glasses"]],
            clothing=pa.ClothingType[parts["clothing"]],
            clothing_color=pa.ClothingColor[parts["clothing_color"]],
        )
        return _pixels(resvg.svg_to_bytes, avatar.render(), size, parts["background"])

    return render


def _pixels(svg_to_bytes: Any, drawing: str, size: int, background: str) -> np.ndarray:
    """Render the middle of a drawing, the face, as `(3, size, size)`."""
    for whole, middle in CANVAS.items():
        drawing = drawing.replace(whole, middle, 1)
    png = svg_to_bytes(svg_string=drawing, width=size, height=size, background=background, skip_system_fonts=True)
    with Image.open(io.BytesIO(png)) as image:
        return np.moveaxis(np.asarray(image.convert("RGB")), -1, 0).copy()
