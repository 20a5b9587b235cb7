"""R^2 and nats of models of which both are known."""

import pytest
import torch

from latestart import as_model, as_network
from latestart.denoisers.conditions import Conditions
from latestart.diagnosis.linearity import LEVELS, LINEAR, compare
from two_clusters import (
    CLUSTERS,
    IMAGES,
    LABELS,
    MATCHED,
    MODEL,
    NOISE,
    SCHEDULER,
    SIZE,
    WIDTH,
    Conditional,
    Erring,
    direct_nats,
    direct_r2,
    gaussian,
    rng,
)


@pytest.fixture(scope="module")
def clusters():
    return compare(MODEL, SCHEDULER, MATCHED, IMAGES)


def test_r2_of_two_clusters_is_the_direct_one(clusters):
    _, curve = clusters
    for k in range(3, 24, 4):
        expected = direct_r2(curve.sigma[k].item())
        assert curve.r2[k].item() == pytest.approx(expected, abs=4 * curve.r2_error[k].item() + 0.003)
    # an exact denoiser has no error of its own: what lowers the error is all of the deviation
    slack = 4 * (curve.data_error + curve.r2_error) + 0.01
    assert ((curve.data - curve.r2).abs() < slack)[curve.informative].all()


def test_the_linear_phase_ends_where_r2_is_at_the_bar(clusters):
    _, curve = clusters
    low, high = curve.limit.interval
    assert direct_r2(low) < LINEAR[0] < direct_r2(high)
    error = curve.r2_error[curve.r2 < LINEAR[0]][0].item()  # that of 600 images
    assert direct_r2(curve.network_limit.sigma) == pytest.approx(LINEAR[0], abs=3 * error)
    assert curve.limit.t == pytest.approx(NOISE.time(curve.limit.sigma))
    assert not curve.fails_from_top


def test_nats_of_two_clusters_are_the_direct_ones(clusters):
    curve, linearity = clusters
    torch.testing.assert_close(curve.sigma, linearity.sigma)
    for k in range(8, 24, 3):
        truth = direct_nats(curve.sigma[k].item())
        assert curve.nats[k].item() == pytest.approx(truth, abs=4 * curve.error[k].item() + 0.02 * truth)
    assert direct_nats(curve.level(0.5).sigma) == pytest.approx(0.5, abs=0.1)  # 3.5 standard errors


def test_a_prior_of_another_width_is_told_by_r2_and_nats_in_closed_form():
    """Data of variance l and a prior of variance q: both denoisers are linear, so every figure is."""
    data, wide = gaussian([1.0, 1.0]), gaussian([2.5, 2.5])
    curve, linearity = compare(as_model(data, SCHEDULER), SCHEDULER, wide, data.sample(2000, rng()))
    s2 = curve.sigma**2
    mine, its = 1 / (1 + s2), 2.5 / (2.5 + s2)
    torch.testing.assert_close(linearity.r2, 1 - (mine - its) ** 2 / mine**2, rtol=0, atol=0.005)
    kl = (1 + s2) / (2.5 + s2) - 1 - ((1 + s2) / (2.5 + s2)).log()  # two dimensions of one half each
    assert ((curve.nats - kl).abs() < 4 * curve.error + 0.02 * kl)[kl > 1e-3].all()


def test_a_prior_that_is_far_too_wide_fails_from_the_top():
    data, wide = gaussian([1.0, 1.0]), gaussian([100.0, 100.0])
    _, linearity = compare(as_model(data, SCHEDULER), SCHEDULER, wide, data.sample(200, rng()))
    assert linearity.fails_from_top
    assert linearity.limit is None
    assert linearity.data[linearity.first] < LINEAR[0]
    assert not linearity.informative[: linearity.first].any()


def test_the_networks_own_errors_are_not_taken_for_the_datas():
    """A network that errs on Gaussian data departs from linear, the data do not."""
    prior = gaussian([1.0] * 4)
    model = as_model(Erring(prior, lambda level: 0.5 / (1 + level)), SCHEDULER)
    _, linearity = compare(model, SCHEDULER, prior, prior.sample(300, rng()))
    high = linearity.informative & (linearity.sigma > 1)
    assert (linearity.r2[high] < LINEAR[0]).any()
    assert (linearity.data[high] > LINEAR[0] - 2 * linearity.data_error[high]).all()


def test_a_conditional_network_is_given_each_images_class():
    """Then the divergence is that of the two clusters, one by one: `KL(N(m, s) || N(0, s + m^2))`."""
    curve, _ = compare(Conditional(), SCHEDULER, MATCHED, IMAGES, Conditions(as_network(Conditional()), LABELS))
    s = WIDTH + curve.sigma**2
    ratio = s / (s + SIZE**2)
    kl = 0.5 * (ratio - 1 - ratio.log() + SIZE**2 / (s + SIZE**2))
    assert ((curve.nats - kl).abs() < 4 * curve.error + 0.02 * kl + 1e-3).all()


@pytest.mark.parametrize("t", [5, 412, 998])
def test_the_start_is_one_of_the_levels(t):
    told, start = [], NOISE.sigma(float(t))
    curve, linearity = compare(
        MODEL, SCHEDULER, MATCHED, IMAGES, evaluated=torch.arange(20), start=start, told=told.append
    )
    assert (curve.sigma - start).abs().min() < 1e-9 * start
    assert len(told) == len(curve.sigma) == LEVELS
    assert len(curve.integrals) == 20
    torch.testing.assert_close(linearity.t, NOISE.time(curve.sigma))


def test_times_beyond_the_schedule_are_its_ends():
    low, high = NOISE.sigma_range
    assert NOISE.clamped_time(low / 2) == 0
    assert NOISE.clamped_time(high * 2) == 999
    assert NOISE.clamped_time(CLUSTERS.components[0].variances.max().item()) == NOISE.time(WIDTH)
