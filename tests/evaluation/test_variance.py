"""The total variance of samples against closed forms: a twin of the data has 1, twice the deviations have 4."""

import pytest
import torch

from latestart.evaluation.variance import total_variance, variance_over


@pytest.fixture(scope="module")
def drawn():
    """Samples of more values than are summed at once, and what their covariance's trace is in truth."""
    scales = torch.linspace(0.1, 1.0, 3 * 20 * 20)
    noise = torch.randn(2, 500, len(scales), generator=torch.Generator().manual_seed(0))
    return (0.3 + noise * scales).reshape(2, 500, 3, 20, 20), float(scales.double().square().sum())


def test_it_is_the_trace_of_the_covariance(drawn):
    (samples, _), truth = drawn
    found = float(total_variance(samples))
    assert found == pytest.approx(float(samples.flatten(1).double().var(0).sum()), rel=1e-12)
    assert found == pytest.approx(truth, rel=0.01)


def test_weights_count_samples_as_if_they_were_there_as_often(drawn):
    (samples, _), _ = drawn
    samples, weights = samples[:4], torch.tensor([[2.0, 0.0, 1.0, 3.0], [1.0, 1.0, 1.0, 1.0]]).double()
    repeated = samples.repeat_interleave(weights[0].long(), 0)
    expected = torch.stack([total_variance(repeated)[0], total_variance(samples)[0]])
    torch.testing.assert_close(total_variance(samples, weights), expected, rtol=1e-12, atol=0)


def test_a_twin_of_the_data_has_its_variance_within_the_interval(drawn):
    (data, twin), truth = drawn
    ratio = variance_over(twin, float(total_variance(data)))
    assert ratio.low < 1 < ratio.high and ratio.high - ratio.low < 0.1
    assert variance_over(data, float(total_variance(data))).value == pytest.approx(1, rel=1e-12)
    assert variance_over(twin, truth).value == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_deviations_from_the_mean_count_squared_and_the_mean_not_at_all(drawn, factor):
    (data, _), _ = drawn
    mean, total = data.mean(0), float(total_variance(data))
    plain, scaled = variance_over(data, total), variance_over(mean + factor * (data - mean) + 7, total)
    assert scaled.value == pytest.approx(factor**2, rel=1e-5)
    assert (scaled.low, scaled.high) == pytest.approx((factor**2 * plain.low, factor**2 * plain.high), rel=1e-4)


def test_what_has_no_variance_is_refused(drawn):
    (data, _), _ = drawn
    with pytest.raises(ValueError, match="at least two samples, received 1"):
        total_variance(data[:1])
    with pytest.raises(ValueError, match="total variance above 0, received 0"):
        variance_over(data, 0.0)
    with pytest.raises(FloatingPointError):
        variance_over(torch.full((3, 1), float("nan")), 1.0)
