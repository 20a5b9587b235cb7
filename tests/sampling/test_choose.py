"""The choice of a start, against starts that are known to be right, and against every other start."""

import math

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, UNet2DModel

from latestart import GaussianMixture, as_model, generate, late_start, zoo
from latestart.evaluation.kernel import EnergyTo, energy_distance
from latestart.gaussians.basis import Dense, Isotropic
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.network_features import NetworkFeatures
from latestart.noise import Noise
from latestart.sampling.choose import LONG_RUNS, METHODS, choose_start
from latestart.sampling.late_start import start_level
from latestart.sampling.matching import SAMPLES
from latestart.sampling.reference import LONG
from latestart.theory.stability import crossing
from two_clusters import CLUSTERS, Conditional

DDIM = {"timestep_spacing": "trailing", "clip_sample": False}
STEPS = 5


def clusters(apart: float = 2.0, dim: int = 4) -> GaussianMixture:
    """Two narrow Gaussians at +-apart on the first axis."""
    basis = Dense((dim,), torch.eye(dim, dtype=torch.float64))
    centre, variances = torch.zeros(dim, dtype=torch.float64), torch.full((dim,), 0.05, dtype=torch.float64)
    centre[0] = apart
    return GaussianMixture([Gaussian(sign * centre, basis, variances) for sign in (-1, 1)])


@pytest.fixture(scope="module")
def data() -> GaussianMixture:
    return clusters()


@pytest.fixture(scope="module")
def images(data) -> torch.Tensor:
    return data.sample(2000, torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def prior(data) -> Gaussian:
    return Gaussian.fit([data.sample(4000, torch.Generator().manual_seed(2))], basis="dense", dtype=torch.float64)


@pytest.fixture(scope="module")
def scheduler() -> DDIMScheduler:
    return DDIMScheduler(**DDIM)


@pytest.mark.parametrize("method", ["nats", "probe"])
def test_images_in_the_order_of_their_classes_choose_the_same_start(data, images, prior, scheduler, method):
    """Those near to the centre first, as a folder of classes is read: the first 96 would all be such."""
    model, ordered = as_model(data, scheduler), images[images.square().sum(1).argsort()]
    features = None if method == "nats" else "values"
    mixed, by_class = (
        choose_start(model, scheduler, prior, x, STEPS, method, features=features) for x in (images, ordered)
    )
    assert abs(math.log(mixed.sigma / by_class.sigma)) < math.log(1.15)
    of_one = choose_start(model, scheduler, prior, ordered[:96], STEPS, method, features=features)
    assert abs(math.log(mixed.sigma / of_one.sigma)) > math.log(1.15)  # so that the order would matter


def test_the_nats_at_the_choice_are_those_of_the_densities(data, images, prior, scheduler):
    """The budget is met: KL(data || prior) at the chosen level, from log-densities of fresh samples."""
    choice = choose_start(as_model(data, scheduler), scheduler, prior, images, STEPS, "nats", budget=0.5)
    y = data.noised(choice.sigma).sample(20_000, torch.Generator().manual_seed(3))
    true = (data.log_prob(y, choice.sigma) - prior.noised(choice.sigma).log_prob(y)).mean().item()
    assert true == pytest.approx(0.5, rel=0.25)  # 96 images, and starts are multiples of the number of steps
    assert choice.method == "nats" and "KL(data || prior) reaches 0.5 nats" in choice.how


def test_without_images_the_nats_are_those_of_the_prior_from_the_model(data, prior, scheduler):
    choice = choose_start(as_model(data, scheduler), scheduler, prior, None, STEPS, "nats", budget=0.5)
    y = prior.noised(choice.sigma).sample(20_000, torch.Generator().manual_seed(3))
    true = (prior.noised(choice.sigma).log_prob(y) - data.log_prob(y, choice.sigma)).mean().item()
    assert true == pytest.approx(0.5, rel=0.25)
    assert "KL(prior || model)" in choice.how


def test_stability_finds_the_critical_level_of_two_clusters(data, prior, scheduler):
    """On the axis, D at the centre has the slope (m^2 s^2/(s^2 + v) + v)/(s^2 + v) with m = 2, v = 0.05: root at c."""
    choice = choose_start(as_model(data, scheduler), scheduler, prior, steps=STEPS, method="stability")

    def excess(sigma: float) -> float:
        total = 0.05 + sigma**2
        return (4 * sigma**2 / total + 0.05) / total - (1 + 1 / (1 + sigma**2)) / 2

    grid = np.geomspace(0.3, 30, 20_001)
    root = grid[np.nonzero([excess(s) > 0 for s in grid])[0][-1]]
    noise = Noise.from_scheduler(scheduler)
    assert abs(noise.time(choice.sigma) - noise.time(root)) <= STEPS
    assert choice.nfe > 0


def test_stability_refuses_data_that_have_no_critical_level(scheduler):
    """Of one Gaussian the ratio only rises as the noise falls, to 1 at none: its highest is no moment of decision."""
    basis = Dense((4,), torch.eye(4, dtype=torch.float64))
    one = Gaussian(torch.zeros(4, dtype=torch.float64), basis, torch.full((4,), 0.5, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"neither loses its stability above sigma = 0\.2"):
        choose_start(as_model(one, scheduler), scheduler, one, steps=STEPS, method="stability")


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
@pytest.mark.parametrize("steps", [3, 10])
def test_probing_within_the_window_comes_near_the_best_start(data, images, prior, kind, steps):
    """Against the best of eleven starts by samples that the choice never saw, with common noise.

    Probes enough for their own noise not to matter: what is tested is that the window and the halving lead there.
    """
    scheduler = kind(**DDIM)
    model, to_data = as_model(data, scheduler), EnergyTo(data.sample(4000, torch.Generator().manual_seed(9)))
    choice = choose_start(model, scheduler, prior, images, steps, features="values", probes=8000)
    starts = {choice.t_start, *np.linspace(0, 1000, 12)[1:].tolist()}
    reached = {
        t: to_data(generate(model, scheduler, prior, 1000, steps, t, seed=5).samples) for t in starts if t >= steps
    }
    full = to_data(generate(model, scheduler, None, 1000, steps, seed=5).samples)
    assert choice.method == "probe"
    assert reached[choice.t_start] < min(reached.values()) + 0.1 * full


def test_without_images_the_start_is_as_good_as_with_them(data, images, prior, scheduler):
    """An exact model: its own samples are the data, and tell as much at a third of the cost."""
    told: list[tuple[int, int, str]] = []
    model = as_model(data, scheduler)
    own = choose_start(model, scheduler, prior, steps=STEPS, progress=lambda *now: told.append(now))
    beside = choose_start(model, scheduler, prior, images, STEPS, features="values")
    assert 1 / 1.25 < own.sigma / beside.sigma < 1.25 and own.nfe < 4000 < beside.nfe
    assert "nearest to the model's own from" in own.how
    levels = [c.sigma for c in own.evidence]
    assert min(levels) < 0.5 * images.var(0).mean().sqrt() and max(levels) > 0.9 * images.var(0).sum().sqrt()
    assert [done for done, _, _ in told[1:]] == list(range(len(told) - 1))
    assert told[-1][0] < told[-1][1] <= told[-1][0] + 15  # the bar comes near its end and not past it


def test_the_nats_beside_a_probe_are_those_of_the_densities(data, prior, scheduler):
    """KL(model || prior) at every start that was probed, from the long runs alone, against log-densities."""
    choice = choose_start(as_model(data, scheduler), scheduler, prior, steps=STEPS)
    for start in choice.evidence:
        y = data.noised(start.sigma).sample(20_000, torch.Generator().manual_seed(3))
        true = (data.log_prob(y, start.sigma) - prior.noised(start.sigma).log_prob(y)).mean().item()
        assert start.nats == pytest.approx(true, rel=0.25, abs=0.01)


def test_images_are_the_target_where_the_model_is_wrong(data, images, prior, scheduler):
    """Images that the model does not follow, twice as wide; and its own samples, which say nothing against it."""
    model = as_model(data, scheduler)
    wrong = choose_start(model, scheduler, prior, 2 * images, STEPS, features="values", check_prior=False)
    right = choose_start(model, scheduler, prior, images, STEPS, features="values")
    assert "nearest to the images from" in wrong.how
    assert "the model's own, which differ from the images no more than by chance" in right.how


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_the_cost_is_counted(data, images, prior, kind):
    """Probes of a first-order sampler cost `steps` each, a sample of the model 25, the checks 96."""
    scheduler = kind(**DDIM)
    model = as_model(data, scheduler)
    for probes in (200, 600):
        choice = choose_start(model, scheduler, prior, images, STEPS, features="values", probes=probes)
        drawn = sum(c.samples for c in choice.evidence)
        runs, left = divmod(choice.nfe - 3 * SAMPLES - drawn * STEPS, LONG + 1)
        assert left == 0 and runs >= max(LONG_RUNS // 2, max(c.samples for c in choice.evidence))
        assert 0.7 * probes <= drawn <= max(1.1 * probes, 3 * 16 * 9)


def unet() -> UNet2DModel:
    torch.manual_seed(0)
    return UNet2DModel(
        8, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    ).eval()  # fmt: skip


def white(variance: float) -> Gaussian:
    shape = (1, 8, 8)
    return Gaussian(torch.zeros(shape), Isotropic(shape), torch.tensor([variance], dtype=torch.float64))


@pytest.mark.filterwarnings("ignore:the denoiser is worse")  # of random weights it is
def test_without_features_a_network_probes_with_its_own(scheduler):
    """By name, by object and by default the same choice; each image and each probe costs one evaluation more."""
    network, prior = unet(), white(0.1)
    images = prior.sample(100, torch.Generator().manual_seed(0)).clamp(-1, 1)
    extract = NetworkFeatures(network, scheduler)
    by_default, *others = (
        choose_start(network, scheduler, prior, images, 3, features=features, probes=200, check_prior=False)
        for features in (None, "network", extract, (network, scheduler))
    )
    assert by_default.method == "probe" and all(other == by_default for other in others)
    drawn = sum(c.samples for c in by_default.evidence)
    runs = extract.evaluated - drawn - 100
    assert runs >= LONG_RUNS - 8 and by_default.nfe == runs * (LONG + 1) + drawn * 3 + extract.evaluated


def test_latents_are_not_clipped_to_pictures(scheduler):
    """Values far outside of [-1, 1]: the features are those of the samples as they are."""
    network, prior, told = unet(), white(9.0), []
    extract = NetworkFeatures(network, scheduler)
    extract.of_samples = lambda x: told.append(float(x.abs().max())) or NetworkFeatures.of_samples(extract, x)
    images = prior.sample(40, torch.Generator().manual_seed(0))
    choose_start(network, scheduler, prior, images, 3, "probe", features=extract, probes=200, check_prior=False)
    assert told[0] == pytest.approx(float(images.abs().max())) and told[0] > 5


def test_an_exact_model_without_features_probes_with_its_values(data, images, prior, scheduler):
    asked = (as_model(data, scheduler), scheduler, prior, images, STEPS)
    assert choose_start(*asked, probes=200) == choose_start(*asked, features="values", probes=200)
    with pytest.raises(ValueError, match="DenoiserModel has no middle block"):
        choose_start(*asked, features="network")


def test_the_sigma_is_where_the_run_begins(data, images, prior, scheduler):
    for method in ("nats", "probe"):
        choice = choose_start(
            as_model(data, scheduler), scheduler, prior, images, STEPS, method, features="values", probes=200
        )
        assert choice.sigma == start_level(late_start(scheduler, choice.t_start, STEPS))
        assert all(c.sigma == start_level(late_start(scheduler, c.t_start, STEPS)) for c in choice.evidence)


def test_a_prior_that_is_the_data_lets_one_start_last(scheduler):
    """Gaussian data: the divergence stays at nothing, so the start is the latest that the images can tell."""
    basis = Dense((6,), torch.eye(6, dtype=torch.float64))
    data = Gaussian(torch.zeros(6, dtype=torch.float64), basis, torch.logspace(-2, 0, 6, dtype=torch.float64))
    images = data.sample(500, torch.Generator().manual_seed(0))
    choice = choose_start(as_model(data, scheduler), scheduler, data, images, STEPS)
    assert choice.sigma < 0.35 * float(data.variances.mean().sqrt())


def test_generate_asks_when_a_prior_comes_without_a_start(data, prior, scheduler):
    model = as_model(data, scheduler)
    asked = generate(model, scheduler, prior, n=4, steps=STEPS)
    choice = choose_start(model, scheduler, prior, steps=STEPS)
    told = generate(model, scheduler, prior, n=4, steps=STEPS, t_start=choice.t_start)
    torch.testing.assert_close(asked.samples, told.samples, rtol=0, atol=0)


def test_the_shipped_model_is_started_inside_its_window():
    """A few hundred evaluations say: neither from the top nor after the classes have parted."""
    mnist = zoo.load("mnist")
    scheduler = DDIMScheduler.from_config(mnist.scheduler.config, **DDIM)
    choice = choose_start(mnist.model, scheduler, mnist.prior, mnist.images("heldout-a"), steps=3, method="nats")
    assert 380 < choice.t_start < 620


def test_a_start_for_labels_is_that_of_their_classes(scheduler):
    """A conditional model with a prior of its classes: the divergence is that of each image from its own class."""
    model, mixture = Conditional(), Mixture(CLUSTERS.components, CLUSTERS.weights, [0, 1])
    labels = torch.arange(200) % 2
    images = mixture.sample(200, torch.Generator().manual_seed(5), labels)
    each = choose_start(model, scheduler, mixture, images, STEPS, "nats", labels=labels)
    one = choose_start(model, scheduler, mixture, images[labels == 1], STEPS, "nats", labels=1)
    whole = Mixture(CLUSTERS.components, CLUSTERS.weights)  # knows no classes: far from each of them
    far = choose_start(model, scheduler, whole, images, STEPS, "nats", labels=labels)
    assert one.sigma < each.sigma < 0.5 * far.sigma  # the last level is a share of the width of the images given
    assert all("KL(data || prior) is below 0.2 nats at all levels, down to" in choice.how for choice in (one, each))
    assert "reaches 0.2 nats" in far.how
    unseen = choose_start(model, scheduler, mixture, None, STEPS, "nats", labels=labels[:40])
    assert unseen.sigma == pytest.approx(each.sigma, rel=0.3)
    probed = choose_start(model, scheduler, mixture, steps=STEPS, labels=labels[:40])
    assert probed.sigma < 0.5 * far.sigma and max(c.nats for c in probed.evidence) < 0.01


def test_a_variance_exploding_process_is_unstable_where_the_density_splits(data, prior):
    """On EDM the central mode splits: `density`, sigma^2 = 3.95 for means at +-2 and variances of 0.05."""
    edm = EDMEulerScheduler(sigma_data=1.0)
    model = as_model(data, edm)
    choice = choose_start(model, edm, prior, steps=20, method="stability")
    level = crossing(data, "density").sigma
    assert f"sigma = {level:.4g}"[:-1] in choice.how


def test_bad_labels_are_named(scheduler):
    model, mixture = Conditional(), Mixture(CLUSTERS.components, CLUSTERS.weights, [0, 1])
    images = mixture.sample(40, torch.Generator().manual_seed(5))
    for labels, told in (
        (None, "classes 0 to 1: expected labels, received none"),
        (torch.arange(7) % 2, r"expected 40 labels.*\(7,\)"),
        (17, r"classes 0 to 1, received labels \[17\]"),
        (torch.zeros(40), "torch.float32"),
    ):
        with pytest.raises(ValueError, match=told):
            choose_start(model, scheduler, mixture, images, STEPS, "nats", labels=labels)
    with pytest.raises(ValueError, match="expected one label, received 40"):
        choose_start(model, scheduler, mixture, images, STEPS, "stability", labels=torch.arange(40) % 2)


def test_bad_input_is_named(data, images, prior, scheduler):
    model = as_model(data, scheduler)
    with pytest.raises(ValueError, match=f"no method 'best'.*{METHODS[0]}"):
        choose_start(model, scheduler, prior, images, STEPS, "best")
    with pytest.raises(ValueError, match=r"at least 10 images.*\(1, 4\)"):
        choose_start(model, scheduler, prior, images[:1], STEPS)
    with pytest.raises(ValueError, match="probes=100: expected at least 200"):
        choose_start(model, scheduler, prior, images, STEPS, features="values", probes=100)
    for method in METHODS:
        with pytest.raises(ValueError, match="NaN or infinite"):
            choose_start(model, scheduler, prior, images / 0, STEPS, method, features="values")
        with pytest.raises(ValueError, match=r"samples of shape \(B, 4\), received \(2000, 3\)"):
            choose_start(model, scheduler, prior, images[:, :3], STEPS, method, features="values")
    for budget in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="budget above 0 nats, received"):
            choose_start(model, scheduler, prior, images, STEPS, "nats", budget=budget)
    with pytest.raises(ValueError, match="steps=0"):
        choose_start(model, scheduler, prior, images, 0)
    with pytest.raises(ValueError, match=r"prior is for samples of shape \(3,\)"):
        small = Gaussian(torch.zeros(3), Dense((3,), torch.eye(3)), torch.ones(3))
        choose_start(model, scheduler, small, images, STEPS)


def test_the_energy_distance_is_that_of_the_pairs():
    a, b = (torch.randn(n, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (7, 9))
    across = torch.stack([(x - y).norm() for x in a for y in b]).mean()
    within = [torch.stack([(x - y).norm() for x in s for y in s]).sum() / (len(s) * (len(s) - 1)) for s in (a, b)]
    assert energy_distance(a, b) == pytest.approx(float(2 * across - sum(within)), rel=1e-12)


def test_leaving_out_a_block_is_the_distance_without_it():
    """The jackknife, against the distance of the other blocks' pairs, with an image counting for two by its weight."""
    generator = torch.Generator().manual_seed(0)
    reference, x = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (9, 20))
    to_data = EnergyTo(torch.cat([reference, reference[:1]]))
    weighted = EnergyTo(reference, torch.tensor([2.0, *[1.0] * 8], dtype=torch.float64) / 10)
    value, without = weighted.by_blocks(x, 4)
    blocks = x.split(4)

    def distance(kept: list[int]) -> float:
        across = torch.cdist(torch.cat([blocks[b] for b in kept]), to_data.reference).mean()
        pairs = [torch.cdist(blocks[a], blocks[b]).mean() for a in kept for b in kept if a != b]
        return float(2 * across - torch.stack(pairs).mean()) - weighted.within

    assert value == pytest.approx(distance([0, 1, 2, 3, 4]), rel=1e-12)
    expected = [distance([b for b in range(5) if b != left]) for left in range(5)]
    torch.testing.assert_close(without, torch.tensor(expected, dtype=torch.float64))
    with pytest.raises(ValueError, match="three blocks of 4 features, received 18"):
        weighted.by_blocks(x[:18], 4)


def test_the_energy_distance_of_equal_distributions_is_nothing_on_average():
    draws = torch.randn(400, 2, 20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.tensor([energy_distance(x, y) for x, y in draws])
    assert values.mean().abs() < 3 * values.std() / 20


def test_replicates_of_the_energy_distance_spread_as_its_estimates_do():
    generator = torch.Generator().manual_seed(0)
    to_data = EnergyTo(torch.randn(1500, 2, generator=generator, dtype=torch.float64))
    sets = torch.randn(60, 300, 2, generator=generator, dtype=torch.float64) + 0.4
    spread = torch.tensor([to_data(x) for x in sets]).std()
    replicates = to_data.replicates(sets[0], 200)
    assert replicates.std() == pytest.approx(float(spread), rel=0.3)
    assert replicates.mean() == pytest.approx(to_data(sets[0]), abs=3 * float(spread))
    with pytest.raises(ValueError, match=r"\(N, 2\), received \(5, 3\)"):
        to_data(torch.zeros(5, 3))
