"""Every family against the oracle: one row for each, one test for all."""

import dataclasses
import math

import diffusers
import pytest
import torch
from oracle import EDMNetwork, GaussianData, Network, columns, error

from latestart.sampling.families import EDM, FAMILIES, Beta, FlowMatching, cuttable, family_of
from latestart.sampling.late_start import late_start, start_level, start_sample
from latestart.sampling.samplers import make_sampler, usual_sampler

DATA = GaussianData()
TRAINED = {
    Beta: diffusers.DDIMScheduler(clip_sample=False),
    EDM: diffusers.EDMEulerScheduler(),
    FlowMatching: diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
}
NETWORKS = {Beta: Network, EDM: EDMNetwork, FlowMatching: lambda data, late: Network(data, late, "flow")}


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def family(request):
    """Each family, of its row's scheduler: a family without a row fails here."""
    return family_of(TRAINED[request.param])


def test_a_scheduler_belongs_to_one_family(family):
    assert [other for other in FAMILIES if other.matches(family.noise)] == [type(family)]
    assert type(family_of(late_start(family.scheduler, family.start_for(3.0, 5), 5))) is type(family)
    assert family.convention.noise.kind == family.kind
    with pytest.raises(dataclasses.FrozenInstanceError):
        family.scheduler = None


def test_a_late_start_comes_to_the_data_as_its_steps_grow(family):
    errors = []
    for n in (3, 10, 50):
        late = late_start(family.scheduler, family.start_for(3.0, n), n)
        errors.append(error(DATA, late, NETWORKS[type(family)](DATA, late)))
    assert errors[2] < 0.4 * errors[1] < 0.4 * 0.6 * errors[0]


@pytest.mark.parametrize("n", [1, 5, 7])
def test_a_run_begins_at_the_first_time_of_the_start_for_its_level(family, n):
    t_start = family.start_for(3.0, n)
    late = late_start(family.scheduler, t_start, n)
    assert float(late.timesteps[0]) == pytest.approx(family.first_time(t_start, n), rel=1e-5)
    assert start_level(late) == pytest.approx(family.noise.sigma(family.first_time(t_start, n)), rel=1e-4)
    apart = abs(math.log(start_level(late) / 3.0))
    for other in (t_start - n, t_start + n):  # of schedulers with betas, the nearest of those that there are
        if type(family) is Beta:
            assert apart <= abs(math.log(start_level(late_start(family.scheduler, other, n)) / 3.0))
        else:
            assert apart < 1e-4


def test_levels_beyond_the_schedule_have_its_ends(family):
    (low, high), n = family.noise.sigma_range, 4
    assert family.start_for(2 * high, n) == family.start_for(high, n) == pytest.approx(family.top)
    assert family.start_for(low / 2, n) == family.start_for(low, n)
    late_start(family.scheduler, family.top, n)
    with pytest.raises(ValueError, match="lies outside of"):
        late_start(family.scheduler, family.top + 1, n)


def test_a_start_sample_is_the_noised_data_in_the_own_space_of_each_class(family):
    for name in family.samplers:
        late = late_start(make_sampler(name, family.scheduler), family.start_for(3.0, 4), 4)
        own = family_of(late)
        x = own.own_scale * start_sample(late, DATA, columns())
        alpha, std = (one(float(late.timesteps[0])) for one in (own.noise.alpha, own.noise.std))
        torch.testing.assert_close(x[0], alpha * DATA.mean, rtol=1e-5, atol=1e-5)
        covariance = alpha**2 * DATA.covariance + std**2 * torch.eye(8, dtype=torch.float64)
        torch.testing.assert_close((x[1:] - x[0]).T @ (x[1:] - x[0]), covariance, rtol=1e-5, atol=1e-5)


def test_every_family_has_a_usual_sampler_and_is_named_in_a_refusal(family):
    assert type(family_of(usual_sampler(None, family.scheduler))) is type(family)
    with pytest.raises(ValueError, match="LCMScheduler cannot be late-started: it serves models distilled") as caught:
        cuttable(diffusers.LCMScheduler())
    assert family.classes in str(caught.value)


def test_a_schedule_that_belongs_to_no_family_is_refused():
    nothing = diffusers.VQDiffusionScheduler(num_vec_classes=16)
    with pytest.raises(ValueError, match="VQDiffusionScheduler has no noise process known here"):
        family_of(nothing)
    with pytest.raises(ValueError, match="VQDiffusionScheduler cannot be late-started: its noise schedule"):
        cuttable(nothing)
    with pytest.raises(TypeError, match="received the class DDIMScheduler"):
        family_of(diffusers.DDIMScheduler)


def test_only_a_dynamic_shift_takes_a_number(family):
    assert not family.shifts
    shifted = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    assert cuttable(shifted, 0.7).shifts
    for scheduler, mu in ((family.scheduler, 0.7), (shifted, None)):
        with pytest.raises(ValueError, match=rf"mu={mu}: expected a number"):
            cuttable(scheduler, mu)
