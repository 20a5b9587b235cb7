"""Where networks, priors and images lie: with a second, simulated device nothing meets what lies elsewhere."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

import latestart as ls
from latestart import device as devices
from latestart.device import choose_device, environment_number, own_device
from latestart.diagnosis.analyze import analyze
from latestart.diagnosis.case import Settings, prepare
from latestart.evaluation.diversity import vendi
from latestart.evaluation.kernel import energy_distance, kid
from latestart.evaluation.manifold import OverlapWith
from latestart.evaluation.quality import FrechetTo, feature_statistics
from latestart.experiments.theory.potential import study
from latestart.features import Classifier, ClassifierFeatures
from latestart.sampling.loop import draw
from latestart.sampling.samplers import SAMPLERS, make_sampler
from latestart.theory.jacobian import leading_eigenvalue
from latestart.train import train, train_classifier
from latestart.train_config import TrainConfig
from second_device import second_device

SCHEDULER = DDPMScheduler(clip_sample=False)


def pictures(n, seed=0, side=8):
    g = torch.Generator().manual_seed(seed)
    bright = torch.arange(n) % 2
    return ls.Images(
        (60 + 100 * bright.view(-1, 1, 1, 1) + 20 * torch.randn(n, 1, side, side, generator=g)).byte(), bright
    )


IMAGES = pictures(300)
PRIOR = ls.Gaussian.fit(IMAGES)


class Net(torch.nn.Module):
    """The denoiser of N(0, 1/4) beside a layer that is not used but has to lie where the samples do."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.config = SimpleNamespace(in_channels=1, sample_size=8)

    def forward(self, sample, timestep, class_labels=None):
        at = SCHEDULER.alphas_cumprod.to(sample.device)[timestep.long()].view(-1, 1, 1, 1)
        mean = PRIOR.mean.to(sample.device)
        return self.weight * (sample - at.sqrt() * mean) * (1 - at).sqrt() / (at / 4 + 1 - at)


def test_tensors_of_two_devices_do_not_meet_here_either():
    with second_device() as device:
        here, there = torch.ones(3), torch.ones(3, device=device)
        layer = torch.nn.Linear(3, 2).to(device)
        assert own_device() == device == there.device == layer(there).device and here.device.type == "cpu"
        assert (2 * there).cpu().numpy().tolist() == [2, 2, 2]
        for wrong in (lambda: here + there, lambda: layer(here), lambda: here[there.long()]):
            with pytest.raises(RuntimeError, match="same device"):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
    assert own_device().type == "cpu"


MIXTURE = ls.Mixture.fit(IMAGES, components=2)
INSIDE = {"prior": (PRIOR, {}), "prior, noise": (MIXTURE, {"eta": 0.5}), "prior, substeps": (MIXTURE, {"substeps": 2})}


@pytest.mark.parametrize("sampler", [*SAMPLERS, *INSIDE])
def test_samplers_work_where_the_network_is(sampler):
    """The prior inside the prior solver goes where the samples are."""
    inside, options = INSIDE.get(sampler, (None, {}))
    made = make_sampler(sampler.partition(",")[0], SCHEDULER, inside, **options)
    with second_device() as device:
        network, prior = Net().to(device), PRIOR.to(device)
        late = draw(network, made, prior, 3, 4, 500, batch_size=2)
        full = draw(network, made, None, 3, 4)
        assert late.images.device == full.images.device == device
        mine = late.samples.cpu()
    apart = draw(Net(), made, PRIOR, 3, 4, 500, batch_size=2).samples
    torch.testing.assert_close(mine, apart)


def test_starts_are_chosen_and_checked_where_the_network_is():
    with second_device() as device:
        network, prior, ddim = Net().to(device), PRIOR.to(device), make_sampler("ddim", SCHEDULER)
        choice = ls.choose_start(network, ddim, prior, IMAGES, 3)
        finding = ls.check(
            network,
            SCHEDULER,
            prior,
            pictures(60, 1),
            choice.t_start,
            steps=3,
            evaluated=32,
            criteria=("speciation", "nats"),
        )
        curve = ls.nats(ls.from_diffusers(network, SCHEDULER), prior, IMAGES[:40])
        assert ls.generate(network, ddim, prior, 4, 3).images.device == device
    apart = ls.choose_start(Net(), make_sampler("ddim", SCHEDULER), PRIOR, IMAGES, 3)
    assert choice.t_start == apart.t_start and finding.findings and curve.nats.isfinite().all()


def test_the_classifier_of_an_analysis_meets_its_point_cloud():
    """The cloud lies where the network does; a classifier may lie elsewhere, and is asked there."""
    settings = Settings.quick()
    settings = type(settings)(**{**vars(settings), "paths": 24, "path_levels": 6, "refine": 2, "held_out": 24})
    judge = Classifier((1, 8, 8), 2).eval()
    with second_device() as device:
        task = prepare(
            Net().to(device), SCHEDULER, IMAGES.floats(), IMAGES.labels, pictures(60, 1).floats(),
            classify=judge.decide, settings=settings,
        )  # fmt: skip
        assert task.cloud.images.device == task.network.images.device == task.starts.device == device
        record = analyze(task, ("clone", "uturn", "nats", "speciation", "collapse", "correlation")).record()
    assert all(row["of"] for row in record["levels"])


def test_the_potential_between_samples_is_of_the_processor():
    with second_device() as device:
        denoiser = ls.from_diffusers(Net().to(device), SCHEDULER)
        floats, times = IMAGES[:20].floats().to(device), torch.tensor([600.0, 300.0]).numpy()
        for which in (denoiser, ls.PointCloud(floats)):
            side = study(which, denoiser.noise, floats[:3], floats.mean(0), times, times[:1], points=3)
            assert side.ends.device.type == "cpu" and side.families[0].margins.shape == (2, 3)


def figures(a, b, c, d, far):
    """Of samples a: the distances to b, and those to the same images where they lie."""

    def features(images):
        return images.flatten(1)[:, :5]

    def bright(images):
        return (images.mean((1, 2, 3)) > 0.5).long()

    rows, others = features(a), features(b)
    return [
        ls.frechet(a, b, features),
        FrechetTo(feature_statistics(far, features))(rows),
        ls.copying(a, b, c, d).copied.value,
        OverlapWith(others)(rows).recall.value,
        energy_distance(rows, others),
        kid(rows, others, 9, 50).value,
        vendi(rows).value,
        ls.gaussianity(rows, rank=2).tests[0].statistic,
        ls.diversity(a, b, bright, features).attributes["class"].kl.value,
    ]


def test_metrics_take_samples_and_data_from_two_devices():
    sets = [torch.rand(150, 1, 4, 4, generator=torch.Generator().manual_seed(k)) for k in range(4)]
    expected = figures(*sets, sets[1])
    with second_device() as device:
        received = figures(sets[0].to(device), *sets[1:], sets[1].to(device))
    assert received == pytest.approx(expected, rel=1e-6)


def test_training_is_where_this_process_works(tmp_path):
    config = TrainConfig(steps=2, batch_size=8, channels=(8, 8), classes=2)
    apart = train(IMAGES, tmp_path / "a", config), train_classifier(IMAGES, 1, 64)
    with second_device() as device:
        there = train_classifier(IMAGES, 1, 64)
        assert next(there.parameters()).device == device
        assert ClassifierFeatures(Classifier((1, 8, 8), 2))(IMAGES[:5].unit()).device.type == "cpu"
        assert there.classify(IMAGES[:9].batches()).device.type == "cpu"
        state = {name: value.cpu() for name, value in there.state_dict().items()}
    for name, value in apart[1].state_dict().items():
        torch.testing.assert_close(state[name], value)


@pytest.mark.parametrize("size", [6, 36])
def test_eigenvalues_of_a_jacobian_that_vanishes_are_zero(size):
    """ARPACK refuses such an operator, with words that help nobody."""

    class Constant:
        shape, device, dtype = (1, size, size), torch.device("cpu"), torch.float32

        def __call__(self, y, sigma):
            return (1e-9 * y).clamp(-1e-10, 1e-10).round(decimals=9)

    assert leading_eigenvalue(Constant(), torch.ones(1, size, size), 0.5, k=2).values.tolist() == [0, 0]


def test_a_constant_set_of_images_has_no_level_of_speciation():
    with pytest.raises(ValueError, match="top eigenvalue of the covariance is L = 0"):
        ls.critical.speciation(torch.full((30, 1, 40, 40), 0.3))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", "device 'gpu': expected cpu, cuda or cuda:1"),
        ("mps", "does not know float64"),
        ("cuda:7", "this machine has 0 such devices"),
        ("xpu", "expected cpu, cuda or cuda:1"),
    ],
)
def test_a_device_that_there_is_not_is_refused(name, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match=message):
        choose_device(name)


def test_a_numbered_device_is_where_libraries_go_too(monkeypatch):
    chosen = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(devices, "_chosen", None)
    choose_device("cuda:1")
    assert own_device() == torch.device("cuda", 1) and chosen == [torch.device("cuda", 1)]
    choose_device("cpu")
    assert own_device() == torch.device("cpu")
    choose_device(None)
    assert devices._chosen is None


def test_numbers_of_launchers_are_read_or_named(monkeypatch):
    assert environment_number("LATESTART_NONE", 3) == 3
    monkeypatch.setenv("LATESTART_NONE", " 12 ")
    assert environment_number("LATESTART_NONE", 3) == 12
    monkeypatch.setenv("LATESTART_NONE", "one")
    with pytest.raises(ValueError, match="LATESTART_NONE='one': expected a whole number"):
        environment_number("LATESTART_NONE", 3)
