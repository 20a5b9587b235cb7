"""Start distributions against their closed forms: moments, densities, and flows fitted to known data."""

import math
import sys

import pytest
import torch

import latestart as ls
from latestart.data import Images
from latestart.gaussians.basis import Dense
from latestart.gaussians.flow import Flow, FlowConfig, fit_flow, require_zuko
from latestart.gaussians.noised import NoisedImages
from latestart.gaussians.reshaped import Box, Reshaped, leading

SHAPE = (1, 2, 3)


def known(seed=0, top=4.0):
    """A Gaussian over six values, of variances from `top` down."""
    g = torch.Generator().manual_seed(seed)
    vectors = torch.linalg.qr(torch.randn(6, 6, generator=g, dtype=torch.float64))[0]
    mean = torch.randn(SHAPE, generator=g, dtype=torch.float64)
    return ls.Gaussian(mean, Dense(SHAPE, vectors), top * 0.5 ** torch.arange(6, dtype=torch.float64))


def white(n, shape=SHAPE, seed=1):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clusters(seed=0):
    """Two clusters at +-2 on one axis of four, of variance 0.05 in their width."""
    g = ls.Gaussian(torch.zeros(4), Dense((4,), torch.eye(4)), torch.full((4,), 0.05))
    apart = torch.tensor([2.0, 0.0, 0.0, 0.0])
    parts = [ls.Gaussian(sign * apart, g.basis, g.variances) for sign in (-1, 1)]
    return ls.Mixture(parts)


def test_the_box_has_the_moments_of_the_noised_data_and_its_uniform_marginals():
    gaussian, sigma = known(), 1.5
    y = Reshaped(gaussian, Box()).noised(sigma).push(white(100_000)).flatten(1)
    torch.testing.assert_close(y.mean(0), gaussian.mean.flatten(), rtol=0, atol=0.02)
    covariance = gaussian.noised(sigma).covariance()
    torch.testing.assert_close(torch.cov(y.T), covariance, rtol=0, atol=0.06)
    along = (y - gaussian.mean.flatten()) @ gaussian.basis.vectors / (gaussian.variances + sigma**2).sqrt()
    assert along.abs().max() <= math.sqrt(3) + 1e-9
    for q in (0.1, 0.25, 0.5, 0.9):
        quantiles = along.quantile(torch.tensor(q, dtype=torch.float64), dim=0)
        torch.testing.assert_close(quantiles, torch.full((6,), math.sqrt(3) * (2 * q - 1)).double(), rtol=0, atol=0.02)


def test_the_density_of_a_box_is_one_over_its_volume():
    gaussian, sigma = known(), 0.7
    box = Reshaped(gaussian, Box(), sigma=sigma)
    sides = 2 * math.sqrt(3) * (gaussian.variances + sigma**2).sqrt()
    inside = box.push(white(5))
    torch.testing.assert_close(box.log_prob(inside), -sides.log().sum().expand(5))
    assert (box.log_prob(inside + 100) == -math.inf).all()


def test_along_the_other_directions_a_reshaped_gaussian_is_the_gaussian():
    gaussian, z = known(), white(7)
    changed, plain = (p.noised(0.5).push(z).flatten(1) for p in (Reshaped(gaussian, Box(), 2), gaussian))
    apart = (changed - plain) @ gaussian.basis.vectors
    assert apart[:, 2:].abs().max() < 1e-12 < apart[:, :2].abs().max()


def test_directions_that_there_are_not_are_refused():
    diagonal = ls.Gaussian.fit(white(50), "diagonal", dtype=torch.float64)
    with pytest.raises(ValueError, match=r"dense or lowrank, received Gaussian.*diagonal"):
        Reshaped(diagonal, Box())
    with pytest.raises(ValueError, match=r"expected 1 to 6 eigenvectors of Gaussian\(.*, received 7"):
        Reshaped(known(), Box(), 7)
    assert leading(known(), 3)[1].tolist() == [4, 2, 1]


def test_noised_images_have_every_image_alike_and_noise_that_does_not_know_which():
    images, sigma, n = white(5, seed=2), 0.3, 100_000
    start = NoisedImages(images).noised(sigma)
    z = white(n)
    index, left = start.drawn(z)
    counts = index.bincount(minlength=5).double() / n
    torch.testing.assert_close(counts, torch.full((5,), 0.2).double(), rtol=0, atol=0.006)
    for k in range(5):
        own = left[index == k].flatten(1)
        torch.testing.assert_close(own.mean(0), torch.zeros(6).double(), rtol=0, atol=0.035)
        torch.testing.assert_close(torch.cov(own.T), torch.eye(6).double(), rtol=0, atol=0.05)
    torch.testing.assert_close(start.push(z), images[index] + sigma * left)
    torch.testing.assert_close(start.noised(0.4).sigma, 0.5)


def test_noised_images_of_bytes_are_in_the_range_of_the_model_and_depend_on_their_own_noise_alone():
    images = Images(torch.arange(60, dtype=torch.uint8).reshape(10, *SHAPE))
    start, z = NoisedImages(images), white(9).float()
    assert start.shape == SHAPE
    pushed = start.push(z)
    assert pushed.dtype == torch.float32
    torch.testing.assert_close(pushed, images.floats()[start.drawn(z)[0]])
    torch.testing.assert_close(start.noised(1.0).push(z[3:5]), start.noised(1.0).push(z)[3:5])
    with pytest.raises(ValueError, match="at least one image"):
        NoisedImages(torch.zeros(0, 3))


QUICK = FlowConfig(directions=4, transforms=1, hidden=24, steps=300, batch_size=128, learning_rate=1e-2)


@pytest.fixture(scope="module")
def learned():
    """The flow of two clusters, between the levels 0.3 and 2, on the Gaussian of their moments."""
    mixture = clusters()
    data = mixture.sample(4000, torch.Generator().manual_seed(3))
    gaussian = ls.Gaussian.fit(data)
    return mixture, gaussian, fit_flow(data, gaussian, (0.3, 2.0), QUICK)


@pytest.mark.parametrize("sigma", [0.446, 1.0, 2.0])
def test_a_flow_on_two_clusters_comes_within_a_twentieth_of_a_nat(learned, sigma):
    """One Gaussian is 0.724, 0.157 and 0.0096 nats off at snr 5.01, 1.0 and 0.251; the flow less than 0.05."""
    mixture, gaussian, flow = learned
    y = mixture.noised(sigma).sample(20_000, torch.Generator().manual_seed(4))
    start = Reshaped(gaussian, flow).noised(sigma)
    truth = mixture.noised(sigma).log_prob(y)
    off, one = (float((truth - d.log_prob(y)).mean()) for d in (start, gaussian.noised(sigma)))
    assert -0.01 < off < 0.05
    assert one == pytest.approx({0.446: 0.724, 1.0: 0.157, 2.0: 0.0096}[sigma], rel=0.06, abs=0.004)


def test_a_flow_draws_what_its_density_says(learned):
    """The samples fall to both clusters, and their mean log-density is the entropy of what the flow has learned."""
    mixture, gaussian, flow = learned
    start = Reshaped(gaussian, flow).noised(0.446)
    y = start.push(white(20_000, (4,)).float())
    theirs = mixture.noised(0.446).sample(20_000, torch.Generator().manual_seed(5))
    assert float(start.log_prob(y).mean()) == pytest.approx(float(start.log_prob(theirs).mean()), abs=0.06)
    between, theirs = (float((side[:, 0].abs() < 1).float().mean()) for side in (y, theirs))
    assert abs(between - theirs) < 0.04  # of the Gaussian that it reshapes, a third lies there
    assert float((y[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.03)


def test_a_flow_knows_how_much_it_has_learned(learned):
    _, _, flow = learned
    gains = dict(flow.gains)
    assert (min(gains), max(gains)) == pytest.approx((0.3, 2.0))
    assert gains[min(gains)] > 0.7 and abs(gains[max(gains)]) < 0.1


def test_a_flow_of_a_known_gaussian_reaches_its_log_density():
    """Whitened by a Gaussian of other variances, it learns the rest, to 0.05 nats."""
    truth, sigma = known(top=3.0), 0.6
    data = truth.sample(4000, torch.Generator().manual_seed(6))
    factors = torch.tensor([0.5, 2.0], dtype=torch.float64).repeat(3)
    wrong = ls.Gaussian(truth.mean + 0.3, truth.basis, truth.variances * factors).to(dtype=torch.float32)
    flow = fit_flow(
        data.float(),
        wrong,
        (sigma, sigma),
        FlowConfig(directions=6, transforms=1, hidden=16, steps=200, batch_size=128, learning_rate=1e-2),
    )
    y = truth.noised(sigma).sample(5000, torch.Generator().manual_seed(7)).float()
    exact = truth.noised(sigma).log_prob(y)
    assert abs(float((exact - Reshaped(wrong, flow).noised(sigma).log_prob(y)).mean())) < 0.05
    assert float((exact - wrong.noised(sigma).log_prob(y)).mean()) > 0.5


def test_a_flow_is_what_its_file_says(tmp_path, learned):
    _, gaussian, flow = learned
    flow.save(tmp_path / "flow.safetensors")
    again, z = Flow.load(tmp_path / "flow.safetensors"), white(6, (4,)).float()
    pushed = [Reshaped(gaussian, f).noised(0.7).push(z) for f in (flow, again)]
    assert torch.equal(*pushed)
    assert (again.levels, again.gains, again.config) == (flow.levels, flow.gains, flow.config)
    gaussian.save(tmp_path / "gaussian.safetensors")
    with pytest.raises(ValueError, match="holds a gaussian of version 1, expected a flow-start"):
        Flow.load(tmp_path / "gaussian.safetensors")


def test_the_same_seed_fits_the_same_flow_whatever_was_drawn_before():
    data, config = white(60).float(), FlowConfig(directions=2, transforms=1, hidden=8, steps=5, batch_size=8)
    flows = []
    for _ in range(2):
        flows.append(fit_flow(data, ls.Gaussian.fit(data), (0.5, 1.0), config))
        torch.randn(3)
    for a, b in zip(flows[0].module.state_dict().values(), flows[1].module.state_dict().values()):
        assert torch.equal(a, b)


def test_without_zuko_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    monkeypatch.setitem(sys.modules, "zuko.flows", None)
    with pytest.raises(ImportError, match=r"pip install 'latestart\[flows\]'"):
        require_zuko()


def test_what_cannot_be_fitted_is_refused():
    data = white(60).float()
    gaussian = ls.Gaussian.fit(data)
    with pytest.raises(ValueError, match="at least 20 images to fit a flow to, received 19"):
        fit_flow(data[:19], gaussian, (1.0, 2.0))
    with pytest.raises(ValueError, match=r"received \(2\.0, 1\.0\)"):
        fit_flow(data, gaussian, (2.0, 1.0))
    with pytest.raises(ValueError, match=r"the images are \(1, 6\), the Gaussian is for \(1, 2, 3\)"):
        fit_flow(data.reshape(60, 1, 6), gaussian, (1.0, 2.0))
    with pytest.raises(ValueError, match="bins=0: expected a whole number of at least 1"):
        FlowConfig(bins=0)
