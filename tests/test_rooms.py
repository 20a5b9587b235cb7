"""The house: a room stands above all that it imports, and the page that draws it tells the truth."""

import ast
import importlib
import re
import runpy
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from diffusers import DDPMScheduler

import latestart as ls
from latestart.diagnosis.analyze import analyze
from latestart.diagnosis.case import DATA, Case, prepare
from latestart.diagnosis.criteria import CRITERIA, look
from latestart.gaussians.structures import BASES

ROOT = Path(__file__).parent.parent
HOUSE = runpy.run_path(str(ROOT / "tools" / "house.py"))
PAGE = ROOT / "docs" / "architecture.md"


def test_no_import_runs_up_and_every_room_has_its_floor():
    floor = {room: level for level, rooms in enumerate(HOUSE["FLOORS"]) for room in rooms}
    rooms = HOUSE["imports"]()
    assert set(rooms) == set(floor), "a room without a floor, or a floor without its room"
    assert not [f"{room} imports {other}" for room in rooms for other in rooms[room] if floor[other] >= floor[room]]


def test_no_import_gives_a_room_another_name():
    renamed = []
    for path in HOUSE["ROOT"].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                renamed += [one.asname for one in node.names if one.asname and one.name.startswith("latestart.")]
            if isinstance(node, ast.ImportFrom) and node.module == "latestart":
                renamed += [one.asname for one in node.names if one.asname]
    assert not renamed


def test_the_page_shows_the_house_as_it_stands():
    text = PAGE.read_text(encoding="utf-8")
    assert HOUSE["placed"](text) == text, "run python tools/house.py docs/architecture.md"


def test_every_module_lists_names_that_it_has():
    for path in HOUSE["ROOT"].rglob("*.py"):
        module = ".".join(["latestart", *path.relative_to(HOUSE["ROOT"]).with_suffix("").parts])
        found = importlib.import_module(module.removesuffix(".__init__")) if path.name != "__main__.py" else None
        for name in getattr(found, "__all__", ()):
            assert hasattr(found, name), f"{module} has no {name}"


def test_an_import_that_follows_from_two_others_is_not_drawn():
    assert HOUSE["reduced"]({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == [("a", "b"), ("b", "c")]


def test_the_public_names_resolve():
    for name in ls.__all__:
        assert getattr(ls, name) is not None


@pytest.fixture
def recipes(tmp_path):
    """The names that the recipes of the page define, run in order; registries are restored."""
    names = {"out": tmp_path}
    with patch.dict(BASES), patch.dict(CRITERIA):
        for block in PAGE.read_text(encoding="utf-8").split("```python\n")[1:]:
            exec(compile(block.split("```")[0], "docs/architecture.md", "exec"), names)
        yield names


def test_the_recipes_name_what_there_is():
    recipes = PAGE.read_text(encoding="utf-8").split("## To add")[1:]
    named = {name for recipe in recipes for name in re.findall(r"`([a-z_0-9/]+\.py)`", recipe)}
    roots = (HOUSE["ROOT"], ROOT)
    assert len(named) > 10
    assert not [name for name in named if not any((root / name).is_file() for root in roots)]
    family = next(recipe for recipe in recipes if recipe.startswith(" a family"))
    text = (
        "".join(
            (HOUSE["ROOT"] / name).read_text()
            for name in ("noise.py", "denoisers/conventions.py", "sampling/families.py")
        )
        + (ROOT / "tests/sampling/test_families.py").read_text()
    )
    assert not [name for name in re.findall(r"`(\w+)`", family) if not re.search(rf"\b{name}\b", text)]


def test_the_recipe_of_an_experiment_measures_writes_and_tells(recipes, tmp_path, capsys):
    variances = ls.load_prior(ROOT / "src/latestart/assets/mnist/prior.safetensors").variances
    assert recipes["result"].found[2.0] == pytest.approx(float(variances.sum()) + 784 * 4, rel=1e-6)
    assert (tmp_path / "results.json").is_file()
    assert "| 2 | " in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_recipe_of_a_criterion_is_found_by_look_and_by_analyze(recipes):
    images = torch.randn(40, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scheduler = DDPMScheduler()
    case = prepare(ls.as_model(ls.PointCloud(images), scheduler), scheduler, images)
    found = look(case, "equal-energy", DATA)
    assert found.level.sigma == pytest.approx(float((images - images.mean(0)).square().mean() ** 0.5))
    assert found.t == pytest.approx(ls.Noise.from_scheduler(scheduler).time(found.level.sigma))
    assert [one.record() for one in analyze(case, ["equal-energy"]).findings] == [found.record()]
    same = look(Case(images=torch.ones(40, 4), noise=case.noise), "equal-energy", DATA)
    assert same.level is None and same.how == "the images are all the same"


def test_the_recipe_of_a_basis_is_fitted_samples_and_is_found_by_name(recipes, monkeypatch):
    images = torch.rand(60, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mine, dense = ls.Gaussian.fit(images, "brightness"), ls.Gaussian.fit(images, "dense").covariance()
    bright = torch.full((48, 48), 1 / 48, dtype=torch.float64)
    rest = torch.eye(48, dtype=torch.float64) - bright
    expected = [(bright @ dense).trace(), (rest @ dense).trace() / 47]
    assert mine.variances.tolist() == pytest.approx([float(one) for one in expected])
    torch.testing.assert_close(mine.covariance(), expected[0] * bright + expected[1] * rest)
    y = ls.Gaussian.fit(images, "brightness").noised(0.5).sample(4000, torch.Generator().manual_seed(1))
    assert y.flatten(1).mean(1).var() * 48 == pytest.approx(float(expected[0]) + 0.25, rel=0.1)


def test_the_recipe_of_an_extractor_measures_a_distance(recipes):
    images = torch.rand(200, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    extract = recipes["Means"]()
    assert ls.frechet(images, images, features=extract) == pytest.approx(0, abs=1e-6)
    assert ls.frechet(images * 0.5 + 0.25, images * 0.5, features=extract) == pytest.approx(12 / 16, rel=1e-3)


def test_every_module_names_what_it_offers_and_every_first_line_is_plain():
    words = runpy.run_path(str(ROOT / "tools" / "words.py"))
    assert not [*words["unplain"](), *words["without_all"]()]
