"""The model's own samples and the starts that go with them: laws, orders, and one noise for all."""

import math

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

from latestart import as_model, from_diffusers, late_start
from latestart.evaluation.kernel import EnergyTo, paired_blocks
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.sampling.families import family_of
from latestart.sampling.late_start import noise_width
from latestart.sampling.loop import draw
from latestart.sampling.reference import LONG, Reference, flow
from latestart.sampling.run import rehearse

SIZE, DIM = 64, 3
ENDS = (8.0, 0.02)


def gaussian(mean: float = 0.5) -> Gaussian:
    variances = torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
    basis = Dense((DIM,), torch.eye(DIM, dtype=torch.float64))
    return Gaussian(torch.full((DIM,), mean, dtype=torch.float64), basis, variances)


def mixture() -> Mixture:
    basis = Dense((DIM,), torch.eye(DIM, dtype=torch.float64))
    variances = torch.full((DIM,), 0.05, dtype=torch.float64)
    return Mixture([Gaussian(m * torch.ones(DIM, dtype=torch.float64), basis, variances) for m in (-1.0, 1.0)])


def reference(data, prior, brownian: bool, seed: int = 0) -> Reference:
    """Of an exact model, from independent noise."""

    def noise(block: int) -> torch.Tensor:
        return torch.randn(3, SIZE, DIM, generator=torch.Generator().manual_seed(100 * seed + block))

    denoiser = from_diffusers(as_model(data, DDPMScheduler()), DDPMScheduler())
    given = lambda sigma, z: prior.noised(sigma).push(z.double())  # noqa: E731
    return Reference(denoiser, prior, given, noise, ENDS, brownian, seed)


def test_the_flow_is_of_second_order():
    """Of a Gaussian from level a to b a deviation grows by sqrt((v + b^2) / (v + a^2)) in each direction."""
    prior = gaussian()
    z = torch.randn(50, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    true, errors = prior.noised(0.1).push(z), []
    for count in (20, 40, 80):
        levels = torch.logspace(math.log10(5), -1, count + 1, dtype=torch.float64).tolist()
        *_, (y, _) = flow(prior, prior.noised(5.0).push(z), levels)
        errors.append(float((y - true).norm()))
    assert errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3.3


@pytest.mark.parametrize("brownian", [False, True])
@pytest.mark.parametrize("sigma", [2.0, 0.4])
def test_starts_have_the_law_of_the_prior(brownian, sigma):
    """Between levels of the grid too: the energy distance to samples of the noised mixture is that of chance."""
    made = reference(mixture(), mixture(), brownian)
    starts = torch.cat([made.start(b, sigma).y for b in range(40)])
    fresh = mixture().noised(sigma).sample(4000, torch.Generator().manual_seed(1))
    assert abs(EnergyTo(fresh)(starts)) < 0.004 * max(1.0, sigma)


@pytest.mark.parametrize("brownian", [False, True])
def test_the_samples_are_those_of_the_data(brownian):
    made = reference(mixture(), gaussian(0.0), brownian)
    samples = torch.cat([made.samples(b) for b in range(40)])
    assert abs(EnergyTo(mixture().sample(4000, torch.Generator().manual_seed(1)))(samples)) < 0.01


@pytest.mark.parametrize(
    ("kind", "brownian", "near"), [(DPMSolverMultistepScheduler, False, 0.02), (DDPMScheduler, True, 0.3)]
)
def test_a_long_run_from_a_start_of_the_data_ends_at_the_models_own_sample(kind, brownian, near):
    """Deterministic steps meet one path, and ancestral ones the same Brownian path: far nearer than by chance."""
    trained, data = DDPMScheduler(clip_sample=False), mixture()
    scheduler = kind.from_config(trained.config, timestep_spacing="trailing")
    made, apart = reference(data, data, brownian), []
    for steps in (10, 80):
        late = late_start(scheduler, 640, steps)
        levels = [family_of(late).noise.sigma(float(t)) for t in late.timesteps]
        x = draw(
            as_model(data, trained), scheduler, made.start(0, levels[0]), SIZE, steps, 640,
            noise=torch.zeros(SIZE, DIM), step_noise=made.step_noise(0, levels),
        ).samples  # fmt: skip
        apart.append(float((x - made.samples(0)).square().mean().sqrt()))
    by_chance = math.sqrt(2) * float(data.sample(500, torch.Generator().manual_seed(0)).std())
    assert apart[1] < apart[0] and apart[1] < near * by_chance


def test_the_noise_of_steps_is_white():
    """Of a few steps over any levels: unit variance, and nothing between steps, or with the start's own."""
    made = reference(mixture(), mixture(), True)
    noise = torch.cat([made.step_noise(b, [3.0, 1.1, 0.5, 0.45, 0.1]).flatten(2) for b in range(60)], 1)
    rows = noise.flatten(1)
    n = rows.shape[1]
    assert (rows @ rows.T / n - torch.eye(4)).abs().max() < 5 / math.sqrt(n)
    assert made.step_noise(0, [3.0]) is None and reference(mixture(), mixture(), False).step_noise(0, [3.0, 1]) is None


def test_the_divergence_comes_with_the_samples():
    """KL of two Gaussians that differ in their means, of the noised model from the noised prior."""
    made = reference(gaussian(0.5), gaussian(0.1), False)
    for b in range(10):
        made.samples(b)
    curve, variances = made.curve(), gaussian().variances
    true = [0.5 * float((0.4**2 / (variances + s**2)).sum()) for s in curve.sigma.tolist()]
    torch.testing.assert_close(curve.nats, torch.tensor(true, dtype=torch.float64), rtol=0.02, atol=1e-4)
    assert curve.nfe == 0 and len(curve.sigma) == LONG + 1


def test_a_rehearsal_tells_whether_steps_draw_noise():
    for kind, how, drawn in (
        (DDPMScheduler, {}, True), (DDIMScheduler, {}, False), (DPMSolverMultistepScheduler, {}, False),
        (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}, True),
    ):  # fmt: skip
        late = late_start(kind(timestep_spacing="trailing", **how), 500, 4)
        assert rehearse(late, noise_width(late)) is drawn


def test_paired_blocks_are_the_mean_over_pairs_of_blocks():
    a, b = (torch.randn(12, 2, generator=torch.Generator().manual_seed(k), dtype=torch.float64) for k in (0, 1))

    def distance(kept: list[int]) -> float:
        pairs = [(4 * i + k, 4 * j + m) for i in kept for j in kept if i != j for k in range(4) for m in range(4)]
        found = [
            (a[i] - b[j]).norm() + (b[i] - a[j]).norm() - (a[i] - a[j]).norm() - (b[i] - b[j]).norm() for i, j in pairs
        ]
        return float(torch.stack(found).mean())

    value, without = paired_blocks(a, b, 4)
    assert value == pytest.approx(distance([0, 1, 2]), rel=1e-12)
    assert without.tolist() == pytest.approx([distance([k for k in range(3) if k != left]) for left in range(3)])
    with pytest.raises(ValueError, match="two or more blocks of 4 pairs, received 4 and 12"):
        paired_blocks(a[:4], b, 4)
