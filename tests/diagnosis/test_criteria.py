"""The criteria on two clusters, whose levels are known."""

import math

import pytest
import torch

from latestart import Noise, critical
from latestart.diagnosis.case import NETWORK, Case, Settings
from latestart.diagnosis.decisions import CHECKED, decisions
from latestart.diagnosis.linearity import compare
from two_clusters import CLUSTERS, IMAGES, LABELS, MATCHED, MODEL, NOISE, QUICK, SCHEDULER, SIZE, WIDTH, gaussian, rng


@pytest.fixture(scope="module")
def curve():
    return compare(MODEL, SCHEDULER, MATCHED, IMAGES)[0]


def case_of(curve, images, labels=None, noise=NOISE, halves=4):
    settings = Settings(halves=halves, second_halves=halves)
    return Case(images=images, labels=labels, noise=noise, settings=settings, nats={NETWORK: curve})


@pytest.fixture(scope="module")
def found(curve):
    return decisions(case_of(curve, IMAGES, LABELS))


def by_name(found):
    return {level.criterion.split(",")[0]: level for level in found.levels if "second" not in level.criterion}


def test_every_criterion_gives_a_level_or_a_reason(found):
    named = {level.criterion.removesuffix(", peak") for level in found.levels}
    assert named | set(found.missing) == set(CHECKED)
    assert not named & set(found.missing)
    assert all(level.t == pytest.approx(NOISE.time(level.sigma)) for level in found.levels)
    assert found.collapse.sigma < min(level.sigma for level in found.levels)


def test_speciation_is_that_of_the_covariance(found):
    assert by_name(found)["speciation"].sigma == pytest.approx(critical.speciation(MATCHED).sigma, rel=0.02)


def test_the_uturn_is_that_of_exact_clones(found):
    """The class of an exact clone changes with probability 1 - phi, half of chance is phi = 0.75."""
    exact = critical.two_gaussians(SIZE, WIDTH, agreement=0.75)
    low, high = by_name(found)["uturn"].interval
    assert low * 0.97 < exact.sigma < high * 1.03


def test_a_symmetric_cloud_crosses_where_its_covariance_says(curve):
    """Points of equal norms: `sigma_c^2 = L` under `density`, `alpha_bar_c = sqrt(L^2 + 1) - L` under `sde`."""
    half = 2 * torch.nn.functional.normalize(IMAGES[:40])
    cloud = torch.cat([half, -half])
    found = by_name(decisions(case_of(curve, cloud), ("density", "sde")))
    top = torch.linalg.eigvalsh(cloud.T.cov(correction=0))[-1].item()
    assert found["density"].sigma ** 2 == pytest.approx(top, rel=1e-4)
    assert found["sde"].alpha_bar == pytest.approx(math.sqrt(top**2 + 1) - top, rel=1e-4)
    assert found["sde"].how.startswith("lambda / c = 1 on the central branch") and "80 images" in found["sde"].how


@pytest.mark.parametrize("criterion", ["density", "sde"])
def test_the_central_branch_of_the_cloud_turns_where_that_of_the_clusters_does(found, criterion):
    whole = getattr(critical, criterion)(CLUSTERS, None, sigma_range=(1.0, 8.0), symmetric=True)
    level = by_name(found)[criterion]
    assert level.sigma == pytest.approx(whole.sigma, rel=0.2)
    assert level.interval[0] > 0.9 * level.sigma, "no half of the images jumps to a peak of single points"
    assert level.interval[0] <= level.sigma <= level.interval[1]


def test_a_second_branch_is_born_near_the_instability(found):
    """By a fold just above or below it, as the clouds' few points break the symmetry a little."""
    whole = critical.sde(CLUSTERS, None, sigma_range=(1.0, 8.0), symmetric=True)
    second = next(level for level in found.levels if level.criterion == "sde, second branch")
    assert second.sigma == pytest.approx(whole.sigma, rel=0.2)


def test_what_cannot_be_had_is_told(curve):
    told = []
    found = decisions(case_of(curve, IMAGES[:60]), ("uturn",), told=told.append)
    assert found.levels == ()
    assert found.missing["nats"] == found.missing["density"] == "not asked for"
    assert "labels or a classifier are needed" in found.missing["uturn"]
    assert told == list(CHECKED)
    single = decisions(case_of(curve, IMAGES[:60], torch.zeros(60, dtype=torch.long)), ("uturn",))
    assert "all of one class" in single.missing["uturn"]


def test_a_level_beyond_the_schedule_is_missing(curve):
    found = decisions(case_of(curve, IMAGES, LABELS, Noise.edm(sigma_max=0.1)), QUICK)
    assert found.levels == ()
    assert all("lies outside of the" in found.missing[name] for name in QUICK)


def test_a_branch_far_from_instability_is_no_decision(curve):
    """Points of a white Gaussian: 1 / (1 + sigma^2) of it is far from 1 still where they tell single points."""
    cloud = gaussian([1.0] * 30).sample(40, rng())
    found = decisions(case_of(curve, cloud), ("density",))
    assert found.levels == ()
    assert "far from 1" in found.missing["density"]


@pytest.mark.parametrize(
    ("seed", "n"),
    [
        (24, 150),  # a peak of 0.760 shows as 0.701 on the levels of the search; single points have one at 0.16
        (17, 150),  # one of 0.755 shows as 0.725; there is no other
        (22, 150),  # a step leads from the central branch, which bends away, to an unstable one beside it
    ],
)
def test_the_first_peak_is_found_between_the_levels_of_the_search(curve, seed, n):
    cloud = CLUSTERS.sample(n, torch.Generator().manual_seed(seed))
    (level,) = decisions(case_of(curve, cloud, halves=0), ("density",)).levels
    whole = critical.density(CLUSTERS, None, sigma_range=(1.0, 8.0), symmetric=True)
    assert level.criterion == "density, peak"
    assert level.sigma == pytest.approx(whole.sigma, rel=0.1)


def test_without_classes_a_second_branch_is_found_from_clusters(curve):
    found = decisions(case_of(curve, IMAGES, halves=0), ("sde, second branch",))
    whole = critical.sde(CLUSTERS, None, sigma_range=(1.0, 8.0), symmetric=True)
    assert found.levels[0].sigma == pytest.approx(whole.sigma, rel=0.2)
