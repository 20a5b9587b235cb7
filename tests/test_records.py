"""Results print as one short line, and those that hold arrays are compared by identity."""

import dataclasses
import importlib
import json
import pkgutil
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

import latestart as ls
from latestart.evaluation.quality import Estimate
from latestart.records import Record
from latestart.theory.levels import CriticalLevel


def holds_arrays(kind):
    return dataclasses.is_dataclass(kind) and any(
        re.search(r"\b(Tensor|ndarray)\b", str(field.type)) for field in dataclasses.fields(kind)
    )


def dataclasses_of_the_package():
    for module in pkgutil.walk_packages(ls.__path__, "latestart."):
        if module.name.endswith("__main__"):
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            if isinstance(kind, type) and kind.__module__ == module.name and holds_arrays(kind):
                yield pytest.param(kind, id=f"{module.name.removeprefix('latestart.')}.{name}")


@pytest.mark.parametrize("kind", list(dataclasses_of_the_package()))
def test_dataclasses_with_arrays_print_shortly_and_are_equal_to_themselves_alone(kind):
    """The default `==` of two of them would ask arrays for one truth value, and their `repr` print every number."""
    assert kind.__eq__ is object.__eq__ or ("__eq__" in vars(kind) and not kind.__dataclass_params__.eq)
    assert not kind.__dataclass_params__.repr and kind.__repr__ is not object.__repr__


ESTIMATE, LEVEL = Estimate(0.5, 0.25, 1), CriticalLevel(2.5, "sde", "exactly", t=400.0)


@dataclass(frozen=True, eq=False, repr=False)
class All(Record):
    array: Any = dataclasses.field(default_factory=lambda: np.zeros((3, 4)))
    tensor: Any = dataclasses.field(default_factory=lambda: torch.zeros(5, dtype=torch.float64))
    number: float = 1 / 3
    nothing: Any = None
    estimate: Any = ESTIMATE
    level: Any = LEVEL


def test_a_record_is_one_line_of_numbers_and_shapes():
    assert repr(All()) == (
        "All(array=(3, 4) float64, tensor=(5,) float64, number=0.3333, estimate=0.5 [0.25, 1], "
        "level=sigma = 2.5, t = 400)"
    )


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("x" * 100, "'" + "x" * 37 + "...'"),
        ((1, 2.5, "a"), "(1, 2.5, 'a')"),
        (tuple(range(9)), "(9 values)"),
        ([All(), All()], "2 of All"),
        ([torch.zeros(2), All()], "2 of All and Tensor"),
        ({"a": 1}, "{'a'}"),
        (dict.fromkeys("abcdef"), "{6 values}"),
        (All(), "All(...)"),
        (True, "True"),
        (Path("x"), "PosixPath('x')"),
        (np.float64(0.1), "0.1"),
        (print, "<built-in function print>"),
    ],
)
def test_values_in_a_few_words(value, told):
    assert repr(All(None, None, value, None, None, None)) == f"All(number={told})"


def test_a_long_record_ends_early():
    @dataclass(frozen=True, eq=False, repr=False)
    class Long(Record):
        a: str = "x" * 40
        b: str = "y" * 40
        c: str = "z" * 40
        d: str = "u" * 40
        e: str = "v" * 40

    assert len(repr(Long())) < 200 and repr(Long()).endswith(", ...)")


def test_results_of_the_library_are_one_short_line():
    images = ls.Images(torch.randint(256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte())
    prior = ls.Gaussian.fit(images)
    cloud = ls.PointCloud(images.floats())
    network = ls.as_network(ls.as_model(cloud, DDIMScheduler()))
    assert repr(cloud) == "PointCloud(shape=(1, 4, 4))" and repr(network) == "Network(DenoiserModel, shape=(1, 4, 4))"
    results = [
        ls.from_diffusers(network, DDIMScheduler()),
        images,
        prior,
        ls.as_images([images.floats()]),
        ls.nats(cloud, prior, images[:20], [3.0, 1.0, 0.3], exact=True),
        ls.fixed_point(cloud, 1.0),
        ls.leading_eigenvalue(cloud, torch.zeros(1, 4, 4), 1.0),
        ls.gaussianity(images.floats(), rank=2),
        ls.critical.speciation(10 * images.floats()),
        ls.diversity(images, images, lambda x: (x.mean((1, 2, 3)) > 0.5).long()),
    ]
    for result in results:
        assert "\n" not in repr(result) and len(repr(result)) < 220, repr(result)
        assert "tensor(" not in repr(result) and "array(" not in repr(result)


def test_a_record_is_its_fields_as_json_holds_them():
    @dataclass(frozen=True)
    class Inner:
        value: float
        place: Path

    @dataclass(frozen=True, eq=False, repr=False)
    class Own(Record):
        count: int

        def record(self):
            return {"number": self.count}

    @dataclass(frozen=True, eq=False, repr=False)
    class Outer(Record):
        inner: Inner
        own: tuple[Own, ...]
        array: np.ndarray
        by_name: dict[str, torch.Tensor]
        scalar: np.floating
        missing: None = None

    made = Outer(Inner(0.5, Path("a/b")), (Own(3),), np.arange(3), {"x": torch.ones(2)}, np.float64(2))
    expected = {
        "inner": {"value": 0.5, "place": "a/b"}, "own": [{"number": 3}], "array": [0, 1, 2],
        "by_name": {"x": [1.0, 1.0]}, "scalar": 2.0, "missing": None,
    }  # fmt: skip
    assert made.record() == expected == json.loads(json.dumps(made.record()))
