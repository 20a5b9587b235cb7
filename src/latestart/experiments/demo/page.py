"""The page of the demo: one table, three rows for each number of evaluations, and the same seeds in each way."""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.experiments.demo.measure import MODEL, WAYS, Shown, file_of
from latestart.lab.drawing import sample_sheet
from latestart.lab.report import Report, named, number, spread, table
from latestart.sampling.recipe import Recipe, Trial

__all__ = ["draw", "page"]

SHEET = "samples.png"
SHARES = ("recall", "precision", "copied")
CAPTION = 38  # characters of a line below a block of the sheet


def page(result: Shown, folder: Path) -> Report:
    """Draw the sheet, and return the table with what tuning cost and the commands to go on with."""
    draw(folder / SHEET, result)
    settings, recipes = result.settings, result.recipes
    facts = {
        "model": MODEL, "budget": f"{settings.budget:,} evaluations for each recipe",
        "seed": f"{settings.seed} to search, {settings.seed + 1} for the figures",
        "features": next(iter(recipes.values())).features,
    }  # fmt: skip
    files = [file_of(nfe) for nfe in recipes]
    lines = [*_reasons(result), _cost(result), *_next(result, folder)]
    return Report("Tuned for a few evaluations", facts, [_table(result)], lines, pictures=[SHEET], files=files)


def _table(result: Shown) -> Table:
    made = table(
        "The shipped MNIST model at equal network evaluations (NFE)\nFréchet distance to images that tuning never saw "
        "(lower is better)",
        "NFE", "way", "how", "samples", "Fréchet", "gain on best\nfull noise", *SHARES, "variance",
        left=("way", "how"),
        caption="95% intervals; the gain's is paired. Compare distances within a number of evaluations: fewer samples "
        "have larger ones. variance: of the samples before they are clipped, over the images'",
    )  # fmt: skip
    made.columns[1].no_wrap = True
    for nfe, recipe in result.recipes.items():
        count = f"{recipe.search['finals']:,}"
        for name, title in WAYS.items():
            cells = _figures(getattr(recipe, name), recipe.gain if name == "chosen" else None)
            how = getattr(recipe, name).way.describe()
            made.add_row(str(nfe), title, how, count, *cells, style="bold" if name == "chosen" else None)
        rest = ["-"] * (2 + len(SHARES))
        made.add_row(str(nfe), "new images", "the distance to hope for", count, _cell(result.floors[nfe]), *rest)
        made.add_section()
    return made


def _figures(trial: Trial, gain: Estimate | None) -> list[str]:
    known = trial.figures or {}
    shares = (_cell(known.get(name), ".3f") for name in SHARES)
    return [_cell(known.get("frechet")), _cell(gain, ".2f"), *shares, _cell(known.get("variance"), ".2f")]


def _cell(estimate: Estimate | None, form: str = "") -> str:
    """An estimate above its interval."""
    return spread(estimate, form).replace(" ", "\n", 1)


def _reasons(result: Shown) -> Iterator[str]:
    for nfe, recipe in result.recipes.items():
        yield f"{nfe} evaluations: {'; '.join(recipe.reason)}{_on_usual(recipe)}"


def _on_usual(recipe: Recipe) -> str:
    """The distance of DDIM as people run it over that of the recipe, in words."""
    usual, chosen = ((one.figures or {}).get("frechet") for one in (recipe.usual, recipe.chosen))
    if usual is None or chosen is None or recipe.usual.way in (recipe.chosen.way, recipe.full.way):
        return ""
    return f"; {WAYS['usual']} has {number(usual.value / chosen.value)} times its distance"


def _cost(result: Shown) -> str:
    each = ", ".join(f"{recipe.search['spent']:,} for {nfe}" for nfe, recipe in result.recipes.items())
    tried = ", ".join(str(len(recipe.evidence)) for recipe in result.recipes.values())
    before = ", with what an earlier run had kept" if result.resumed else ""
    return (
        f"tuning cost {each} network evaluations ({tried} candidates), and {result.seconds:.0f} s in all{before}; "
        f"{result.judges:,} images judge"
    )


def _next(result: Shown, folder: Path) -> Iterator[str]:
    counts = list(result.recipes)
    recipe = folder / file_of(5 if 5 in counts else counts[0])
    yield f"sample by a recipe: latestart sample {MODEL} --recipe {recipe} -n 64"
    yield "tune your own model: latestart tune models/mine --images photos/ --steps 5 --out recipe.safetensors"


def draw(path: Path, result: Shown) -> None:
    """Draw the first samples of each way, by the number of evaluations, from the same seeds."""
    cells = [
        [(result.images[nfe, name], _caption(getattr(recipe, name))) for name in WAYS]
        for nfe, recipe in result.recipes.items()
    ]
    sample_sheet(path, [f"NFE {nfe}" for nfe in result.recipes], list(WAYS.values()), cells)


def _caption(trial: Trial) -> str:
    distance = (trial.figures or {}).get("frechet")
    return f"{textwrap.fill(trial.way.describe(), CAPTION)}\nFD {named(distance).split(' ')[0]}"
