"""The check on models whose every figure is known."""

import json
import math
from types import SimpleNamespace

import pytest
import scipy.integrate
import torch
from diffusers import DDPMScheduler

from latestart import Gaussian, Noise, as_model, critical
from latestart.denoisers.exact import GaussianMixture
from latestart.gaussians.basis import Diagonal, Isotropic
from latestart.sampling.check import CRITERIA, LINEAR, NATS, Report, check, halves

SCHEDULER = DDPMScheduler(clip_sample=False)
NOISE = Noise.from_scheduler(SCHEDULER)
SIZE, WIDTH = 2.0, 0.05


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(variances):
    values = torch.tensor(variances, dtype=torch.float64)
    return Gaussian(torch.zeros(len(values), dtype=torch.float64), Diagonal((len(values),)), values)


def clusters():
    """Two clusters at +-2 on one axis of four, and the Gaussian with their moments."""
    centre = torch.tensor([SIZE, 0.0, 0.0, 0.0], dtype=torch.float64)
    spread = torch.tensor([WIDTH], dtype=torch.float64)
    model = GaussianMixture([Gaussian(s * centre, Isotropic((4,)), spread) for s in (1.0, -1.0)])
    return model, gaussian([SIZE**2 + WIDTH, WIDTH, WIDTH, WIDTH])


def one(report: Report, name: str):
    return next(f for f in report.findings if f.name == name)


def sigma_of(t):
    return NOISE.sigma(float(t))


CLUSTERS, MATCHED = clusters()
IMAGES = CLUSTERS.sample(600, rng())
QUICK = ("nats", "speciation", "uturn")  # those that follow no branch
LABELS = (IMAGES[:, 0] < 0).long()


@pytest.fixture(scope="module")
def report():
    return check(as_model(CLUSTERS, SCHEDULER), SCHEDULER, MATCHED, IMAGES, labels=LABELS, evaluated=600)


# --- Gaussian data ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t_start", [None, 300.0])
def test_on_gaussian_data_all_is_well(t_start):
    prior = gaussian([4.0, 1.0, 0.5, 0.25, 0.1])
    images = prior.sample(200, rng())
    found = check(
        as_model(prior, SCHEDULER), SCHEDULER, prior, images, t_start, criteria=QUICK if t_start else CRITERIA
    )
    assert found.verdict == "good"
    assert [f.verdict for f in found.findings] == ["good"] * 4
    torch.testing.assert_close(found.linearity.r2, torch.ones_like(found.linearity.r2), rtol=0, atol=1e-9)
    assert found.nats.nats.abs().max() < 1e-7
    assert found.linearity.limit is None
    assert "nats" in found.missing
    assert found.safe is not None
    assert found.safe[0] == pytest.approx(found.linearity.t[-1].item())
    assert found.safe[1] == pytest.approx(found.linearity.t[0].item())


def test_a_prior_of_another_width_is_told_by_r2_and_nats_in_closed_form():
    """Data of variance l and a prior of variance q: both denoisers are linear, so every figure is."""
    data, wide = gaussian([1.0, 1.0]), gaussian([2.5, 2.5])
    images = data.sample(2000, rng())
    found = check(as_model(data, SCHEDULER), SCHEDULER, wide, images, 300.0, evaluated=2000, criteria=QUICK)
    s2 = found.linearity.sigma**2
    mine, its = 1 / (1 + s2), 2.5 / (2.5 + s2)
    torch.testing.assert_close(found.linearity.r2, 1 - (mine - its) ** 2 / mine**2, rtol=0, atol=0.005)
    kl = ((1 + s2) / (2.5 + s2) - 1 - ((1 + s2) / (2.5 + s2)).log()).double()  # two dimensions of one half each
    seen = kl > 1e-3
    assert ((found.nats.nats - kl).abs() < 4 * found.nats.error + 0.02 * kl)[seen].all()


# --- two clusters -----------------------------------------------------------------------------------------------------


def direct_r2(sigma, n=100_000):
    x = CLUSTERS.sample(n, rng(7))
    y = x + sigma * torch.randn(x.shape, generator=rng(8), dtype=torch.float64)
    d_p, d_q = CLUSTERS(y, sigma), MATCHED(y, sigma)
    return 1 - ((d_p - d_q).square().sum(1).mean() / (d_p - d_p.mean(0)).square().sum(1).mean()).item()


def direct_nats(sigma):
    """KL from the matched Gaussian, by quadrature on the axis of the clusters."""
    variance = WIDTH + sigma**2
    total = SIZE**2 + variance

    def integrand(y):
        p = sum(math.exp(-((y - s * SIZE) ** 2) / (2 * variance)) for s in (1, -1)) / math.sqrt(8 * math.pi * variance)
        return p * (math.log(p) + y**2 / (2 * total) + 0.5 * math.log(2 * math.pi * total)) if p > 0 else 0.0

    edge = SIZE + 9 * math.sqrt(variance)
    return scipy.integrate.quad(integrand, -edge, edge, limit=200, points=(-SIZE, SIZE))[0]


def test_r2_of_two_clusters_is_the_direct_one(report):
    curve = report.linearity
    for k in range(3, 24, 4):
        expected = direct_r2(curve.sigma[k].item())
        assert curve.r2[k].item() == pytest.approx(expected, abs=4 * curve.r2_error[k].item() + 0.003)
    seen = curve.informative
    # an exact denoiser has no error of its own: what lowers the error is all of the deviation
    slack = 4 * (curve.data_error + curve.r2_error) + 0.01
    assert ((curve.data - curve.r2).abs() < slack)[seen].all()


def test_the_linear_phase_ends_where_r2_is_at_the_bar(report):
    limit = report.linearity.limit
    low, high = limit.interval
    assert direct_r2(low) < LINEAR[0] < direct_r2(high)
    assert direct_r2(report.linearity.network_limit.sigma) == pytest.approx(LINEAR[0], abs=0.01)
    assert f"down to t = {limit.t:.0f}" in one(report, "linear").sentence
    assert one(report, "linear").verdict == "good"


def test_nats_of_two_clusters_are_the_direct_ones(report):
    for k in range(8, 24, 3):
        truth = direct_nats(report.nats.sigma[k].item())
        assert report.nats.nats[k].item() == pytest.approx(truth, abs=4 * report.nats.error[k].item() + 0.02 * truth)
    bounds = one(report, "gaussian").numbers["levels"]
    assert direct_nats(bounds["0.5"]["sigma"]) == pytest.approx(0.5, abs=0.06)
    # half a nat is most of the one decision, ln 2: the range ends with the last criterion, before that
    decided = min(level.t for level in report.levels if level.criterion != "nats")
    assert report.safe[0] == pytest.approx(decided)
    assert decided > bounds["0.5"]["t"]


def test_critical_levels_of_two_clusters_are_the_exact_ones(report):
    found = {level.criterion: level for level in report.levels}
    assert found["speciation"].sigma == pytest.approx(critical.speciation(MATCHED).sigma, rel=0.02)
    # the class of an exact clone changes with probability 1 - phi, half of chance is phi = 0.75
    exact = critical.two_gaussians(SIZE, WIDTH, agreement=0.75)
    low, high = found["uturn"].interval
    assert low * 0.97 < exact.sigma < high * 1.03
    for criterion in ("density", "sde"):
        whole = getattr(critical, criterion)(CLUSTERS, None, sigma_range=(1.0, 8.0), symmetric=True)
        level = next(level for name, level in found.items() if name.split(",")[0] == criterion)
        assert level.sigma == pytest.approx(whole.sigma, rel=0.2)
        assert level.interval[0] <= level.sigma <= level.interval[1]
    assert set(found) | set(report.missing) >= {"nats", "speciation", "uturn"}
    factor = max(level.sigma for level in report.levels) / min(level.sigma for level in report.levels)
    assert one(report, "critical").numbers["factor"] == pytest.approx(factor)
    assert all(f"{level.criterion} t = {level.t:.0f}" in one(report, "critical").sentence for level in report.levels)


@pytest.mark.parametrize(("t_start", "verdict", "place"), [(800.0, "good", "before"), (60.0, "bad", "after")])
def test_verdicts_are_read_at_the_start(t_start, verdict, place):
    """KL is ln 2 at most here, which is doubtful: the clusters are set further apart, in 12 dimensions."""
    centre = torch.zeros(12, dtype=torch.float64)
    centre[:6] = 2.0
    model = GaussianMixture(
        [Gaussian(centre * s.view(-1), Isotropic((12,)), torch.tensor([0.02], dtype=torch.float64)) for s in _signs()]
    )
    images = model.sample(400, rng())
    prior = Gaussian.fit(model.sample(4000, rng(1)), dtype=torch.float64)
    found = check(as_model(model, SCHEDULER), SCHEDULER, prior, images, t_start, evaluated=400, criteria=QUICK)
    at = int((found.nats.sigma - sigma_of(t_start)).abs().argmin())
    assert found.nats.sigma[at].item() == pytest.approx(sigma_of(t_start), rel=1e-9), "the start is one of the levels"
    assert one(found, "critical").numbers["place"] == place
    assert one(found, "critical").verdict == verdict
    nats = one(found, "gaussian")
    assert nats.numbers["at_start"]["nats"] == pytest.approx(found.nats.nats[at].item())
    assert nats.verdict == verdict
    assert (found.nats.nats[at] > NATS[1]) == (verdict == "bad")
    assert found.verdict == verdict
    assert f"a start at t = {t_start:.0f} is {verdict}" in found.sentence
    assert found.safe[0] < t_start if verdict == "good" else found.safe[0] > t_start
    assert found.missing["uturn"].count("labels or a classifier are needed") == 1


def _signs():
    """Four of the corners of a cube, so that three decisions are made at once."""
    for a in (1.0, -1.0):
        for b in (1.0, -1.0):
            for c in (1.0, -1.0):
                yield torch.tensor([a, a, b, b, c, c] + [1.0] * 6, dtype=torch.float64)


def test_a_classifier_stands_in_for_labels(report):
    few = IMAGES[:120]
    model = as_model(CLUSTERS, SCHEDULER)
    by_labels = check(model, SCHEDULER, MATCHED, few, labels=LABELS[:120], evaluated=40, criteria=QUICK)
    by_classifier = check(
        model, SCHEDULER, MATCHED, few, classify=lambda x: (x[:, 0] < 0).long(), evaluated=40, criteria=QUICK
    )
    assert by_labels.levels == by_classifier.levels
    assert {"uturn"} <= {level.criterion for level in by_labels.levels}


# --- a network worse than linear --------------------------------------------------------------------------------------


class Worse:
    """The clusters' denoiser, with an error added at all levels above `above` (and below `top`)."""

    shape, dtype, device, sigma_range = CLUSTERS.shape, torch.float64, torch.device("cpu"), (0.0, math.inf)

    def __init__(self, above, top=math.inf):
        self.above, self.top = above, top

    def __call__(self, y, sigma):
        out = CLUSTERS(y, sigma)
        level = torch.as_tensor(sigma, dtype=y.dtype).expand(len(y))
        wrong = (level > self.above) & (level < self.top)
        return out + wrong[:, None] * torch.tanh(y.flip(1) / level[:, None])


@pytest.mark.parametrize(("t_start", "verdict"), [(None, "doubtful"), (700.0, "bad"), (450.0, "good")])
def test_a_network_worse_than_linear_at_high_noise_is_found(t_start, verdict):
    above = sigma_of(600)
    found = check(as_model(Worse(above), SCHEDULER), SCHEDULER, MATCHED, IMAGES[:200], t_start, criteria=QUICK)
    torch.testing.assert_close(found.nats.worse, found.nats.sigma > above)
    finding = one(found, "network")
    assert finding.verdict == verdict
    first_sound = found.linearity.t[int(found.nats.worse.sum())].item()
    assert first_sound <= 600 < found.linearity.t[int(found.nats.worse.sum()) - 1].item()
    assert finding.numbers["below"] == pytest.approx(first_sound)
    assert found.safe[1] == pytest.approx(first_sound)
    last_wrong = found.linearity.t[int(found.nats.worse.sum()) - 1].item()
    assert f"t = {found.linearity.t[0]:.0f} to {last_wrong:.0f}" in finding.sentence
    if t_start != 450:
        assert f"start at t = {first_sound:.0f} or below" in finding.sentence


def test_errors_that_no_start_skips_are_bad():
    found = check(as_model(Worse(0.0), SCHEDULER), SCHEDULER, MATCHED, IMAGES[:100], criteria=QUICK)
    assert one(found, "network").verdict == "bad"
    assert found.safe is None
    assert "no t at which" in found.sentence
    hole = check(
        as_model(Worse(sigma_of(400), sigma_of(550)), SCHEDULER), SCHEDULER, MATCHED, IMAGES[:100], criteria=QUICK
    )
    assert hole.nats.worse.any()
    assert one(hole, "network").verdict == "bad", "a start above the range does not skip it"


def test_the_networks_own_errors_are_not_taken_for_the_datas():
    """A network that errs on Gaussian data departs from linear, the data do not."""
    prior = gaussian([1.0] * 4)

    class Erring(Worse):
        def __call__(self, y, sigma):
            level = torch.as_tensor(sigma, dtype=y.dtype).expand(len(y))[:, None]
            return prior(y, sigma) + 0.4 * torch.tanh(y.flip(1) / level) / (1 + level)

    found = check(
        as_model(Erring(0.0), SCHEDULER), SCHEDULER, prior, prior.sample(300, rng()), evaluated=300, criteria=()
    )
    high = found.linearity.informative & (found.linearity.sigma > 1)
    assert (found.linearity.r2[high] < LINEAR[0]).any()
    assert (found.linearity.data[high] > LINEAR[0] - 2 * found.linearity.data_error[high]).all()
    assert "errors of its own" in one(found, "linear").sentence


# --- classes that are given -------------------------------------------------------------------------------------------


class Conditional(torch.nn.Module):
    """A class-conditional network of the two clusters: exact, given the class."""

    def __init__(self):
        super().__init__()
        self.parts = [as_model(part, SCHEDULER) for part in CLUSTERS.components]
        self.config = SimpleNamespace(num_class_embeds=2, in_channels=4)
        self.sample_shape, self.dtype, self.device = (4,), torch.float64, torch.device("cpu")

    def forward(self, sample, timestep, class_labels):
        outs = [part(sample, timestep).sample for part in self.parts]
        return SimpleNamespace(sample=torch.where((class_labels == 0)[:, None], *outs))


def test_a_conditional_network_is_given_each_images_class():
    """Then the divergence is that of the two clusters, one by one: `KL(N(m, s) || N(0, s + m^2))`."""
    found = check(Conditional(), SCHEDULER, MATCHED, IMAGES, labels=LABELS, evaluated=600, criteria=())
    s = WIDTH + found.nats.sigma**2
    ratio = s / (s + SIZE**2)
    kl = 0.5 * (ratio - 1 - ratio.log() + SIZE**2 / (s + SIZE**2))
    assert ((found.nats.nats - kl).abs() < 4 * found.nats.error + 0.02 * kl + 1e-3).all()


# --- the record, and mistakes -----------------------------------------------------------------------------------------


def test_the_record_is_json_and_holds_what_was_found(report):
    record = json.loads(json.dumps(report.record(), allow_nan=False))
    assert [f["name"] for f in record["findings"]] == ["linear", "gaussian", "critical", "network"]
    assert record["nats"]["nats"] == pytest.approx(report.nats.nats.tolist())
    assert record["linearity"]["limit"]["sigma"] == report.linearity.limit.sigma
    assert (record["images"], record["evaluated"]) == (600, 600)


def test_progress_runs_to_its_end_and_a_seed_fixes_the_report():
    told = []
    model = as_model(CLUSTERS, SCHEDULER)
    one_run, other, third = (
        check(
            model, SCHEDULER, MATCHED, IMAGES[:60], criteria=QUICK, seed=seed, progress=lambda *a: told.append(a)
        ).record()
        for seed in (0, 0, 1)
    )
    assert one_run == other
    assert one_run["nats"] != third["nats"]
    assert told[-1][0] == told[-1][1] == len(told) // 3


def test_halves_share_nothing_and_are_random():
    a, b = halves(101, seed=1)
    assert sorted([*a.tolist(), *b.tolist()]) == list(range(101))
    assert not torch.equal(a, halves(101, seed=2)[0])
    with pytest.raises(ValueError, match=r"at least 80 images.*received 79"):
        halves(79)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"t_start": 1000.0}, r"1000 lies outside of the times.*\[0, 999\]"),
        ({"t_start": -1.0}, r"-1 lies outside of the times"),
        ({"images": IMAGES[:39]}, "at least 40 images.*received 39"),
        ({"images": IMAGES[:50, :3]}, r"samples are \(4,\), received a prior for \(4,\) and images \(50, 3\)"),
        ({"prior": gaussian([1.0] * 5)}, r"samples are \(4,\), received a prior for \(5,\)"),
        ({"images": IMAGES[:50] * math.nan}, "finite"),
        ({"criteria": ("nats", "magic")}, r"expected criteria of 'nats', .*received \['magic'\]"),
        ({"labels": LABELS[:49]}, r"each of 50 images, received torch.int64 \(49,\)"),
        ({"classify": lambda x: x}, r"class indices \(50,\), received torch.float64 \(50, 4\)"),
        ({"prior": Gaussian.fit(IMAGES[:50])}, "fitted to these very 50 images"),
        ({"prior": gaussian([4e4, 5e2, 5e2, 5e2])}, "speak of different values"),
    ],
)
def test_mistakes_are_told(change, message):
    given = {"prior": MATCHED, "images": IMAGES[:50], "criteria": QUICK, **change}
    with pytest.raises(ValueError, match=message):
        check(as_model(CLUSTERS, SCHEDULER), SCHEDULER, given.pop("prior"), given.pop("images"), **given)


def test_a_conditional_network_without_classes_is_refused():
    with pytest.raises(ValueError, match=r"conditional on 2 classes.*got None"):
        check(Conditional(), SCHEDULER, MATCHED, IMAGES[:50])
