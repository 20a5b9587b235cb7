"""Ways to sample: what a way says is what is run, and a record of it is the way."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler

from latestart import as_model, late_start
from latestart.sampling.generate import draw
from latestart.sampling.guard import LateStarted
from latestart.sampling.samplers import make_sampler, usual_sampler
from latestart.sampling.ways import FULL, GAUSSIAN, PLAIN, Way
from two_clusters import CLUSTERS, MATCHED, SCHEDULER

MODEL = as_model(CLUSTERS, SCHEDULER)
WAYS = [
    Way(sampler="ddim"),
    Way(sampler="ddpm", prior="mixture", t_start=300.0),
    Way(sampler="unipc", spacing="karras+1"),
    Way(sampler="ddim", eta=0.5, last=40),
    Way(sampler="heun", prior="gaussian", t_start=600.0),
    Way(sampler="prior", prior="mixture", t_start=300.0, inside="gaussian", order=1, eta=1.0, last=20),
    Way(sampler="dpm++", prior=PLAIN, t_start=500.0, last=30),
]
every_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.describe())


@every_way
def test_a_record_of_a_way_is_the_way(way):
    assert Way(**json.loads(json.dumps(way.record()))) == way


@every_way
def test_a_way_spends_what_its_steps_are_for_and_ends_at_its_last_time(way):
    prior = MATCHED if way.within else None
    steps = way.steps_for(5, SCHEDULER, prior)
    begun = way.begun(SCHEDULER, steps, prior)
    result = draw(MODEL, begun, {"mixture": CLUSTERS, "gaussian": MATCHED}.get(way.prior), 3, steps)
    assert result.nfe == len(result.timesteps) == 5
    assert isinstance(begun, LateStarted) == (way.t_start is not None or way.last is not None)
    if way.last is not None:
        assert result.timesteps[-1] == way.last
    if way.t_start is not None:
        assert way.t_start - 6 < result.timesteps[0] < way.t_start


def test_a_late_way_is_late_start_by_hand():
    way = Way(sampler="ddpm", prior="mixture", t_start=300.0)
    hand = late_start(make_sampler("ddpm", SCHEDULER, spacing="trailing", clip_sample=False), 300, 5)
    mine, theirs = (draw(MODEL, one, CLUSTERS, 6, 5, seed=4).samples for one in (way.begun(SCHEDULER, 5), hand))
    assert torch.equal(mine, theirs)


def test_clipping_is_switched_on_and_off():
    for clip in (False, True):
        made = Way(sampler="ddim", clip=clip).made(DDPMScheduler(clip_sample=not clip))
        assert made.config.clip_sample is clip


@pytest.mark.parametrize(
    ("scheduler", "names"),
    [
        (EDMEulerScheduler(), ("own", "euler", "dpm++", "sde-dpm++")),
        (FlowMatchEulerDiscreteScheduler(), ("own", "heun")),
    ],
    ids=["edm", "flow"],
)
def test_the_first_spacing_is_that_of_families_without_a_choice_of_times(scheduler, names):
    model = as_model(CLUSTERS, scheduler)
    for name in names:
        way = Way(sampler=name)
        steps = way.steps_for(5, scheduler)
        mine, theirs = way.made(scheduler), usual_sampler(name, scheduler)
        assert type(mine) is type(theirs)
        assert torch.equal(draw(model, mine, None, 2, steps).samples, draw(model, theirs, None, 2, steps).samples)
    with pytest.raises(ValueError, match="timestep_spacing"):
        Way(sampler="own", spacing="leading").made(scheduler)


def test_what_a_sampler_cannot_do_is_refused():
    with pytest.raises(ValueError, match="heun cannot spend 4 evaluations: it spends"):
        Way(sampler="heun").steps_for(4, SCHEDULER)
    with pytest.raises(ValueError, match="has no setting"):
        Way(sampler="unipc", eta=0.5).made(SCHEDULER)
    with pytest.raises(ValueError, match="no room"):
        Way(sampler="ddim", prior=PLAIN, t_start=20.0, last=19).begun(SCHEDULER, 5)


def test_the_prior_inside_is_named():
    assert Way(sampler="ddim", prior="mixture").within is None
    assert Way(sampler="prior", prior=FULL).within == Way(sampler="prior", prior=PLAIN).within == GAUSSIAN
    assert Way(sampler="prior", prior="mixture").within == "mixture"
    assert Way(sampler="prior", prior="mixture", inside="gaussian").within == "gaussian"


def test_a_way_is_described_in_a_few_words():
    assert WAYS[0].describe() == "ddim, full noise, trailing"
    assert WAYS[5].describe() == (
        "prior, mixture at t = 300, trailing, down to t = 20, gaussian inside, order 1, eta 1"
    )
