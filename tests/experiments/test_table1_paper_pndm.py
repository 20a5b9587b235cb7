"""The paper's samplers against the published formulas, against diffusers where it can do them, and by their order."""

import itertools
import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EDMEulerScheduler, PNDMScheduler

import latestart as ls
from latestart.denoisers.networks import as_model
from latestart.dynamics import sde
from latestart.experiments.table1.paper_pndm import DATA, Levels, draw, evaluations, paper_grid, pndm
from latestart.experiments.table1.settings import STARTS
from latestart.noise import Noise
from latestart.sampling.seeds import white_noise

torch.set_num_threads(1)

SCHEDULER = DDPMScheduler(clip_sample=False)
NOISE = Noise.from_scheduler(SCHEDULER)
ALPHA_BAR = SCHEDULER.alphas_cumprod.double()
DIM = 6


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4000, DIM, generator=generator, dtype=torch.float64)
    return ls.Gaussian.fit(rows * torch.logspace(-1, 0.3, DIM) @ torch.linalg.qr(rows[:DIM]).Q + 1, dtype=torch.float64)


def start(data, t, n=5):
    z = torch.randn(n, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return data.noised(NOISE.sigma(float(t))).push(z)


def ddim(denoise, noise, y, times, eta=0.0, white=None):
    """DDIM, and with `eta = 1` the paper's DDPM, as `draw` takes them."""
    levels = Levels(noise)
    return sde(denoise, y, [levels.sigma(t) for t in times], white, eta)


def ended(path):
    return list(path)[-1]


def alpha_bar(t):
    return 1.0 if t == DATA else float(ALPHA_BAR[t])


def published_transfer(x, t, after, e):
    """Formula (9) of PNDM, as it is printed."""
    a, b = alpha_bar(t), alpha_bar(after)
    both = math.sqrt((1 - b) * a) + math.sqrt((1 - a) * b)
    return x + (b - a) * (x / (math.sqrt(a) * (math.sqrt(a) + math.sqrt(b))) - e / (math.sqrt(a) * both))


def published_pndm(network, x, times):
    """Algorithm 2 of PNDM on noised samples x and a network that predicts their noise; returns its evaluations too."""
    kept, asked = [], []

    def noise(x, t):
        asked.append(t)
        return network(x, max(t, 0))

    for t, after in itertools.pairwise(times):
        kept.append(noise(x, t))
        if len(kept) > 3:
            e = (55 * kept[-1] - 59 * kept[-2] + 37 * kept[-3] - 9 * kept[-4]) / 24
        else:
            half = int((t + after) / 2)
            e2 = noise(published_transfer(x, t, half, kept[-1]), half)
            e3 = noise(published_transfer(x, t, half, e2), half)
            e4 = noise(published_transfer(x, t, after, e3), after)
            e = (kept[-1] + 2 * e2 + 2 * e3 + e4) / 6
        x = published_transfer(x, t, after, e)
    return x, asked


def predicts_noise(data):
    def network(x, t):
        alpha, std = math.sqrt(alpha_bar(t)), math.sqrt(1 - alpha_bar(t))
        return (x - alpha * data(x / alpha, std / alpha)) / std

    return network


def test_the_transfer_is_the_published_one(data):
    x, e = (torch.randn(7, DIM, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in (2, 3))
    for t, after in ((999, 500), (500, 3), (7, 0), (0, DATA)):
        a, b = math.sqrt(alpha_bar(t)), math.sqrt(alpha_bar(after))
        ours = b * Levels(NOISE).transfer(x / a, e, t, after)
        torch.testing.assert_close(ours, published_transfer(x, t, after, e), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("t_start", "steps", "spent"), [(400, 3, 12), (800, 5, 14), (900, 10, 19)])
def test_pndm_is_the_published_algorithm(data, t_start, steps, spent):
    times = paper_grid(t_start, steps)
    assert all((t + after) % 2 == 0 for t, after in itertools.pairwise(times[:-1]))  # half times are whole
    y = start(data, t_start)
    theirs, asked = published_pndm(predicts_noise(data), math.sqrt(alpha_bar(t_start)) * y, times)
    torch.testing.assert_close(ended(pndm(data, NOISE, y, times)), theirs, rtol=1e-6, atol=1e-6)
    assert len(asked) == spent == evaluations("pndm", steps)


def run(scheduler, data, x, **options):
    model = as_model(data, scheduler)
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t).sample, t, x, return_dict=False, **options)[0]
    return x


def test_pndm_is_that_of_diffusers_where_it_can_do_the_steps(data):
    theirs = PNDMScheduler(skip_prk_steps=False, set_alpha_to_one=True, timestep_spacing="leading")
    theirs.set_timesteps(10)
    assert len(theirs.timesteps) == 19
    y = start(data, 900)
    ours = ended(pndm(data, NOISE, y, (*range(900, -1, -100), DATA)))
    torch.testing.assert_close(ours, run(theirs, data, math.sqrt(alpha_bar(900)) * y), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_and_ddpm_are_those_of_diffusers(data, eta):
    theirs = DDIMScheduler(clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading")
    theirs.set_timesteps(10)
    y = start(data, 900)
    mine, other = (torch.Generator().manual_seed(7) for _ in range(2))
    path = ddim(
        data,
        NOISE,
        y,
        (*range(900, -1, -100), DATA),
        eta,
        lambda: torch.randn(y.shape, generator=mine, dtype=torch.float64),
    )
    x = run(theirs, data, math.sqrt(alpha_bar(900)) * y, eta=eta, generator=other)
    torch.testing.assert_close(ended(path), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("sampler", "order"), [(ddim, 1), (pndm, 2)])
def test_the_order_of_convergence(data, sampler, order):
    """Against the closed-form flow, from t = 640 to 0, without the last step, which is the same at every number."""
    y, errors = start(data, 640), []
    exact = data.flow(y, NOISE.sigma(640.0), NOISE.sigma(0.0))
    for steps in (16, 32, 64):
        found = ended(sampler(data, NOISE, y, torch.linspace(640, 0, steps + 1).tolist()))
        errors.append(float((found - exact).square().mean().sqrt()))
    slopes = [math.log2(coarse / fine) for coarse, fine in itertools.pairwise(errors)]
    assert slopes == pytest.approx([order] * 2, abs=0.45), errors


def test_the_grid_is_the_papers():
    assert paper_grid(999, 3) == (999, 499, 0, DATA)
    assert paper_grid(50, 10)[:3] == (50, 44, 38)  # whole times: those below
    assert paper_grid(1, 2) == (1, 0, DATA)
    for start, steps in ((600, 1), (2, 4)):
        with pytest.raises(ValueError, match=f"has 2 to {start + 1} steps, received {steps}"):
            paper_grid(start, steps)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "pndm"])
@pytest.mark.parametrize("steps", [3, 5, 10])
def test_evaluations_are_counted_on_the_network(data, sampler, steps):
    result = draw(as_model(data, SCHEDULER), SCHEDULER, sampler, data, 4, steps, 500)
    assert result.nfe == evaluations(sampler, steps) == {"pndm": steps + 9}.get(sampler, steps)
    assert result.timesteps == tuple(map(float, paper_grid(500, steps)[:-1]))
    assert result.sigma == pytest.approx(NOISE.sigma(500.0))


def test_samples_become_the_data(data):
    for sampler in ("ddpm", "ddim", "pndm"):
        samples = draw(as_model(data, SCHEDULER), SCHEDULER, sampler, data, 600, 60, 600).samples.double()
        assert (samples.mean(0) - data.mean).abs().max() < 0.25, sampler
        assert torch.cov(samples.T).trace() == pytest.approx(float(data.variances.sum()), rel=0.15), sampler


def test_an_evaluation_at_zero_is_wasted(data):
    """The paper's three steps of DDIM are two of the exact grid with a step down to nothing: far worse than three."""
    from latestart.sampling.loop import draw as exact

    model, sampler = as_model(data, SCHEDULER), DDIMScheduler(clip_sample=False)
    z = white_noise(range(200), (DIM,), 0)
    truth = data.push(z)
    ours = exact(model, sampler, data, steps=3, t_start=600, noise=z).samples
    theirs = draw(model, SCHEDULER, "ddim", data, 200, 3, 600).samples
    assert (theirs - truth).square().mean() > 1.5 * (ours - truth).square().mean()


@pytest.mark.parametrize("sampler", ["ddpm", "pndm"])
def test_a_sample_depends_on_its_seed_alone(data, sampler):
    model = as_model(data, SCHEDULER)
    whole = draw(model, SCHEDULER, sampler, None, 6, 3, 700, seed=3)
    parts = draw(model, SCHEDULER, sampler, None, 6, 3, 700, seed=3, batch_size=4)
    torch.testing.assert_close(parts.samples, whole.samples)
    other = draw(model, SCHEDULER, sampler, None, 6, 3, 700, seed=4)
    assert not torch.allclose(other.samples, whole.samples)


def test_a_network_is_not_asked_above_its_levels(data):
    """One that learned the levels up to that of t = 499 can begin there, and no higher; full noise it cannot at all."""
    model = as_model(data, SCHEDULER)
    model.max_sigma = NOISE.sigma(499.0)
    assert draw(model, SCHEDULER, "ddim", None, 2, 3, 499).sigma == model.max_sigma
    for t_start, what in ((500, "t_start="), (None, "full noise")):
        with pytest.raises(ValueError, match=f"noise levels up to sigma = .* only, and {what}"):
            draw(model, SCHEDULER, "ddim", None, 2, 3, t_start)


def test_what_cannot_be_sampled_is_refused(data):
    model = as_model(data, SCHEDULER)
    with pytest.raises(ValueError, match="the paper's samplers are ddpm, ddim, pndm, received 'euler'"):
        draw(model, SCHEDULER, "euler")
    with pytest.raises(ValueError, match="expected betas, received a edm process"):
        draw(model, EDMEulerScheduler(), "ddim")
    assert STARTS[0] == 50 and len(STARTS) == 11
