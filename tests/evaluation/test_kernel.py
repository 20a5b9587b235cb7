"""The KID against its definition, and on distributions whose distance is known. (The energy distance: test_choose.)"""

import pytest
import torch

from latestart.evaluation.kernel import EnergyTo, energy_distance, kid


def by_definition(x, y):
    """The estimate by loops over pairs."""

    def kernel(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    n = len(x)
    within = sum(kernel(rows[i], rows[j]) for rows in (x, y) for i in range(n) for j in range(n) if i != j)
    return within / (n * (n - 1)) - 2 * sum(kernel(a, b) for a in x for b in y) / n**2


def test_the_definition():
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(15, 4, generator=g).double(), 0.4 + torch.randn(15, 4, generator=g).double()
    found = kid(x, y, subsets=3, size=15)  # every subset is the whole
    assert found.value == pytest.approx(by_definition(x, y), rel=1e-12)
    assert found.deviation == pytest.approx(0, abs=1e-12)
    assert kid(y, x, subsets=3, size=15).value == pytest.approx(found.value, rel=1e-12)


def test_two_points_are_as_far_apart_as_the_kernel_says():
    """All samples of a set alike: `k(x, x) + k(y, y) - 2 k(x, y)`, whatever the subsets."""
    x, y = torch.tensor([1.0, 2.0]), torch.tensor([-1.0, 3.0])
    expected = (5 / 2 + 1) ** 3 + (10 / 2 + 1) ** 3 - 2 * (5 / 2 + 1) ** 3
    assert kid(x.expand(20, 2), y.expand(30, 2), subsets=4, size=10).value == pytest.approx(expected)


def test_it_has_no_bias_at_any_size():
    """Of normal samples a shift m apart: `E k` of `(s + 1)^3`, s a sum of products, by its moments, at F = 1.

    With x, x' ~ N(0, 1) and y, y' ~ N(m, 1): E (x x' + 1)^3 = 1 + 3 E (x x')^2 = 4, of the second set
    1 + 3 m^2 + 3 (1 + m^2)^2 + (m^3 + 3 m)^2, and across 1 + 3 (1 + m^2).
    """
    m, g = 0.5, torch.Generator().manual_seed(1)
    second = 1 + 3 * m**2 + 3 * (1 + m**2) ** 2 + (m**3 + 3 * m) ** 2
    expected = 4 + second - 2 * (1 + 3 * (1 + m**2))
    for size in (5, 50):
        x, y = torch.randn(8_000, 1, generator=g), m + torch.randn(8_000, 1, generator=g)
        found = kid(x, y, subsets=8000 // size, size=size)
        assert abs(found.value - expected) < 4 * found.deviation / (8000 / size) ** 0.5
        assert found.deviation / (8000 / size) ** 0.5 < 0.2 * expected


def test_bad_input():
    x = torch.rand(10, 3)
    with pytest.raises(ValueError, match=r"at least 2 features \(N, 3\), received \(10, 4\)"):
        kid(x, torch.rand(10, 4))
    for options in ({}, {"size": 1}, {"size": 5, "subsets": 0}):
        with pytest.raises(ValueError, match="subset of 2 to 10 features, the smaller set's, received"):
            kid(x, torch.rand(20, 3), **options)


def test_features_that_are_not_finite_are_refused():
    spoilt = torch.full((10, 3), float("nan"))
    for figure in (EnergyTo, lambda x: energy_distance(x, torch.rand(10, 3)), lambda x: kid(x, x)):
        with pytest.raises(ValueError, match="finite features"):
            figure(spoilt)
