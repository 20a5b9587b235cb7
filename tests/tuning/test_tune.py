"""`tune` on problems whose answer is known: what it gains, what it spends, and that it goes on where it was."""

import math
import re
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, FlowMatchEulerDiscreteScheduler, LCMScheduler

import latestart as ls
from latestart.denoisers.exact import GaussianMixture
from latestart.evaluation.quality import FrechetTo
from latestart.gaussians.basis import Isotropic
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.tuning import drawing as home
from latestart.tuning.decision import BELOW
from rendezvous import together
from tuned import clusters, counted, few, saved
from two_clusters import CLUSTERS, LABELS, SCHEDULER, Conditional, gaussian, rng

BUDGET = 14_000
TOLD = []  # the progress of the recipe that tests share


@pytest.fixture(autouse=True)
def _few_candidates():
    with few():
        yield


def tuned(model=None, scheduler=SCHEDULER, images=None, steps=3, **given):
    """Tune a model, by default the exact one of the clusters; the recipe, and the evaluations spent on the network."""
    model = ls.as_model(CLUSTERS, scheduler) if model is None else model
    with counted(model) as calls:
        found = ls.tune(model, scheduler, clusters() if images is None else images, steps, **{"budget": BUDGET} | given)
    return found, sum(calls)


@pytest.fixture(scope="module")
def known():
    with few():
        return tuned(progress=lambda done, total, note="": TOLD.append((done, total)))


def frechet(samples, seed=11):
    return FrechetTo(Gaussian.fit(clusters(4000, seed).double(), basis="dense"))(samples.double())


def sound(recipe):
    """A recipe is never worse than the best full noise by its own figures, and that is one of those tried."""
    mine, theirs = (one.figures["frechet"].value for one in (recipe.chosen, recipe.full))
    if recipe.gain is None:
        assert recipe.way == recipe.full.way and not recipe.late
    else:
        assert recipe.gain.low > 1 and mine < theirs
        assert recipe.gain.value == pytest.approx(theirs / mine, rel=1e-3)
    assert recipe.full.way.t_start is None and recipe.full.way.sampler != "prior"
    plain = [one for one in recipe.evidence if one.way.t_start is None and one.way.sampler != "prior" and one.figures]
    assert theirs <= min(one.figures["frechet"].value for one in plain)
    assert recipe.usual.figures["frechet"].value >= theirs


# What it gains, and what it spends.


def test_where_the_mixture_is_known_the_recipe_is_far_better_than_full_noise(known):
    recipe, _ = known
    sound(recipe)
    assert recipe.late and recipe.gain.low > 1.5 and not recipe.chosen.out
    model = ls.as_model(CLUSTERS, SCHEDULER)  # by samples of another seed, images and a judge that tuning never saw
    mine = frechet(ls.generate(model, SCHEDULER, recipe=recipe, n=1500, seed=77).samples)
    full = ls.generate(model, recipe.full.way.begun(SCHEDULER, recipe.full.steps), n=1500, steps=recipe.full.steps)
    assert mine < frechet(full.samples) / 3


def test_it_spends_its_budget_to_two_hundredths_as_counted_on_the_network(known):
    recipe, spent = known
    assert abs(spent - BUDGET) <= 0.02 * BUDGET
    assert abs(recipe.search["spent"] - spent) <= 0.02 * BUDGET and recipe.search["budget"] == BUDGET


def test_a_recipe_for_each_number_of_steps():
    with few(("ddim",)):
        found, spent = tuned(steps=(2, 3))
    assert list(found) == [2, 3] and abs(spent - 2 * BUDGET) <= 0.04 * BUDGET
    model = ls.as_model(CLUSTERS, SCHEDULER)
    for nfe, recipe in found.items():
        sound(recipe)
        assert recipe.nfe == nfe == ls.generate(model, SCHEDULER, recipe=recipe, n=4).nfe


class WithBlock(torch.nn.Module):
    """An exact model with a middle block, of which features can be taken."""

    def __init__(self, denoiser):
        super().__init__()
        self.exact, self.mid_block = ls.as_model(denoiser, SCHEDULER), torch.nn.Conv2d(1, 6, 3, padding=1)
        self.config, self.sample_shape, self.dtype = self.exact.config, (1, 4, 4), torch.float32

    def forward(self, x, t):
        self.mid_block(x)
        return SimpleNamespace(sample=self.exact(x.double(), t).sample.to(x.dtype))


def test_a_budget_too_small_for_one_round_is_refused_and_the_named_one_is_enough_with_the_passes_of_features():
    torch.manual_seed(0)
    centre = 0.5 * torch.sign(torch.randn(1, 4, 4, generator=rng(), dtype=torch.float64))
    spread = torch.tensor([0.01], dtype=torch.float64)
    mixture = GaussianMixture([Gaussian(s * centre, Isotropic((1, 4, 4)), spread) for s in (1.0, -1.0)])
    run = partial(tuned, WithBlock(mixture), images=mixture.sample(1600, rng(2)).float().clamp(-1, 1))
    with few(("ddim", "unipc")):
        with pytest.raises(ValueError, match=r"budget=500: \d+ candidates of 3 evaluations take at least \d+") as told:
            run(budget=500)
        needed = int(re.search(r"at least (\d+)", str(told.value))[1])
        recipe, spent = run(budget=needed)
    sound(recipe)
    assert recipe.features.startswith("network-")
    assert abs(spent - needed) <= 0.02 * needed and abs(recipe.search["spent"] - spent) <= 0.02 * needed
    assert recipe.samples.shape == (2, 32, 1, 4, 4)


def test_what_fails_is_left_out_with_its_reason_and_its_evaluations_are_counted(monkeypatch, tmp_path):
    whole = home.draw

    def failing(model, scheduler, *args, **given):
        result = whole(model, scheduler, *args, **given)
        if type(scheduler).__name__ == "EulerDiscreteScheduler" or "UniPC" in type(scheduler).__name__:
            raise FloatingPointError("4 values of the samples are NaN")
        return result

    monkeypatch.setattr(home, "draw", failing)
    recipe, spent = tuned(folder=tmp_path / "parts")
    sound(recipe)
    assert abs(spent - BUDGET) <= 0.02 * BUDGET and abs(recipe.search["spent"] - spent) <= 0.02 * BUDGET
    failed = [one for one in recipe.evidence if "4 values of the samples are NaN" in one.out]
    assert {one.way.sampler for one in failed} == {"euler", "unipc"}
    assert all(one.distance is None and one.samples == 0 and one.figures is None for one in failed)
    again, _ = tuned(folder=tmp_path / "parts")
    assert saved(again, tmp_path / "again") == saved(recipe, tmp_path / "once")


# The same recipe, however it was found.


class Killed:
    """A progress that ends the run after a part of its evaluations."""

    def __init__(self, after):
        self.after = after

    def __call__(self, done, total, note=""):
        if done >= self.after * total:
            raise KeyboardInterrupt


def test_a_run_that_was_killed_goes_on_and_finds_the_same_recipe(known, tmp_path):
    recipe, spent = known
    folder, extra = tmp_path / "parts", 0
    for after in (0.3, 0.6, 0.95):
        model = ls.as_model(CLUSTERS, SCHEDULER)
        with counted(model) as calls, pytest.raises(KeyboardInterrupt):
            ls.tune(model, SCHEDULER, clusters(), 3, budget=BUDGET, folder=folder, progress=Killed(after))
        extra += sum(calls)
    again, last = tuned(folder=folder)
    assert saved(again, tmp_path / "again") == saved(recipe, tmp_path / "once")
    assert last < 0.6 * spent and last + extra < 2.2 * spent  # each run makes the nats again, and no more than one part
    assert not list(folder.rglob(".*"))
    other, seen = tuned(folder=folder, seed=1)  # whose samples are others
    assert abs(seen - BUDGET) <= 0.02 * BUDGET and saved(other, tmp_path / "other") != saved(recipe, tmp_path / "once")


def test_two_processes_find_the_recipe_of_one_and_share_the_work(known, tmp_path):
    recipe, spent = known
    model = ls.as_model(CLUSTERS, SCHEDULER)
    told = [[], []]

    def work(run):
        def progress(done, total, note=""):
            told[run.index].append(done)

        return ls.tune(
            model, SCHEDULER, clusters(), 3, budget=BUDGET, run=run, folder=tmp_path / "parts", progress=progress
        )

    with counted(model) as calls:
        found = together(2, work)
    expected = saved(recipe, tmp_path / "once")
    assert [saved(one, tmp_path / str(k)) for k, one in enumerate(found)] == [expected, expected]
    assert sum(calls) < 1.4 * spent  # both make the nats
    assert all(0.2 * BUDGET < max(done) < 0.9 * BUDGET for done in told)


def test_progress_ends_at_the_budget(known):
    done = [one for one, _ in TOLD]
    assert done == sorted(done) and {total for _, total in TOLD} == {BUDGET}
    assert 0.98 * BUDGET <= done[-1] <= 1.02 * BUDGET


# Other schedules, and conditional networks.


@pytest.mark.parametrize(
    "scheduler",
    [
        EDMEulerScheduler(),
        FlowMatchEulerDiscreteScheduler(),
        DDPMScheduler(prediction_type="sample", clip_sample=False),
    ],
    ids=["edm", "flow", "sample"],
)
def test_every_family_and_a_network_that_predicts_the_sample(scheduler, tmp_path):
    recipe, spent = tuned(scheduler=scheduler, prefer="recall")
    sound(recipe)
    mine, theirs = (one.figures["recall"].value for one in (recipe.chosen, recipe.full))
    assert mine >= theirs - BELOW and recipe.search["prefer"] == "recall"
    assert recipe.late and recipe.gain.low > 1.5
    assert abs(spent - BUDGET) <= 0.02 * BUDGET
    recipe.save(tmp_path / "recipe.safetensors")
    model = ls.as_model(CLUSTERS, scheduler)
    result = ls.generate(model, recipe=tmp_path / "recipe.safetensors", n=800, seed=5)  # its scheduler is its own
    assert result.nfe == 3
    assert frechet(result.samples) < 0.2 * frechet(torch.zeros(800, 4) + 1e-3 * clusters(800))


def test_a_class_conditional_model_is_asked_for_the_images_labels():
    images = CLUSTERS.sample(1000, rng(1)).float()
    labels = (images[:, 0] < 0).long()
    recipe, spent = tuned(Conditional(), images=images, labels=labels)
    sound(recipe)
    assert recipe.late and abs(spent - BUDGET) <= 0.02 * BUDGET
    drawn = ls.generate(Conditional(), SCHEDULER, recipe=recipe, n=200, labels=torch.arange(200) % 2).samples
    assert torch.equal((drawn[:, 0] < 0).long(), torch.arange(200) % 2)
    assert len(LABELS) == 600


class Which(torch.nn.Module):
    """A network of the two clusters that is told by an argument of its own which one it is to be."""

    def __init__(self):
        super().__init__()
        self.parts = [ls.as_model(part, SCHEDULER) for part in CLUSTERS.components]
        self.config, self.sample_shape, self.dtype = SimpleNamespace(), (4,), torch.float64
        self.seen = []

    def forward(self, sample, timestep, which):
        self.seen.append(which.flatten())
        outs = [part(sample, timestep).sample for part in self.parts]
        return SimpleNamespace(sample=torch.where(which > 0, *outs))


def test_rows_of_model_kwargs_go_with_their_images():
    model, images = Which(), clusters()
    rows = {"which": images[:, :1].sign()}
    recipe, spent = tuned(model, images=images, model_kwargs=rows)
    sound(recipe)
    assert abs(spent - BUDGET) <= 0.02 * BUDGET
    seen = torch.cat(model.seen)
    assert abs(float(seen.mean())) < 0.2 and set(seen.tolist()) == {-1.0, 1.0}
    one = {"which": torch.ones(1, 1)}
    drawn = ls.generate(model, SCHEDULER, recipe=recipe, n=50, model_kwargs=one).samples
    assert (drawn[:, 0] > 0).double().mean() > 0.9


def test_a_class_conditional_model_needs_the_labels_of_the_images():
    with pytest.raises(ValueError, match="it has classes, and the images bring no labels: give those too"):
        tuned(Conditional())


def test_levels_that_follow_the_size_of_images_have_no_way_and_this_is_said():
    with pytest.raises(ValueError, match=r"no way to sample this model in 3 evaluations: .*dynamic"):
        tuned(scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))


def test_rows_of_model_kwargs_that_are_not_one_an_image_are_refused():
    with pytest.raises(ValueError, match="3"):
        tuned(Which(), model_kwargs={"which": torch.ones(3, 1)})


@pytest.mark.parametrize("made", ["late", "inside"])
def test_a_late_started_scheduler_or_one_with_a_prior_inside_stands_for_the_whole(made, tmp_path):
    late, inside = ls.late_start(SCHEDULER, 300, 3), ls.make_sampler("prior", SCHEDULER, CLUSTERS.gaussian())
    model = ls.as_model(CLUSTERS, SCHEDULER)
    with few(("ddim",)):
        recipe, _ = tuned(model, late if made == "late" else inside)
    recipe.save(tmp_path / "recipe.safetensors")
    assert ls.generate(model, recipe=tmp_path / "recipe.safetensors", n=2).nfe == 3
    assert ls.generate(model, SCHEDULER, recipe=recipe, n=2).nfe == 3


# Where a late start cannot help, it is said, and why.


def test_a_network_trained_below_a_level_alone():
    model = ls.as_model(CLUSTERS, SCHEDULER)
    model.max_sigma = 2.0
    recipe, _ = tuned(model, images=clusters())
    assert recipe.late and recipe.gain is None
    told = str(recipe)
    assert "trained on noise levels up to sigma = 2 only: full noise cannot be sampled" in told
    assert "no full noise to compare with" in told and "best full noise:" not in told and "usual:" not in told
    assert all(one.way.t_start is not None for one in recipe.evidence)
    noise = ls.Noise.from_scheduler(SCHEDULER)
    assert all(noise.sigma(one.way.t_start - 1) <= 2.0 for one in recipe.evidence)


def test_a_prior_of_other_images_is_left_out_by_name():
    right, wrong = Gaussian.fit(clusters()), Mixture.fit(clusters() + 40, components=2)
    recipe, _ = tuned(priors={"gaussian": right, "mixture": wrong})
    assert "the prior 'mixture' is of other images than the model, and was left out" in str(recipe)
    assert {one.way.prior for one in recipe.evidence} == {"gaussian", "none"}
    sound(recipe)
    alone, _ = tuned(priors={"mixture": wrong})
    assert not alone.late and alone.gain is None and not alone.priors
    assert "full noise was chosen" in str(alone) and "'mixture' is of other images" in str(alone)
    assert "check_prior" not in str(alone)


def test_data_that_are_one_gaussian():
    data = gaussian([1.0, 0.5, 0.2, 0.05])
    images = data.sample(1000, rng(1)).float()
    recipe, _ = tuned(ls.as_model(data, SCHEDULER), images=images)
    sound(recipe)
    assert "the images are as good as samples of the gaussian itself" in str(recipe)
    assert "nothing left for the network to decide" in str(recipe)


def test_a_scheduler_distilled_to_a_few_steps():
    with pytest.raises(ValueError, match=r"nothing to tune here, sample the model as it is: .*distilled to a few"):
        tuned(ls.as_model(CLUSTERS, SCHEDULER), LCMScheduler())


# Bad input.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": clusters(799)}, "expected at least 800 images, received 799"),
        ({"images": clusters(900)[:, :3]}, r"samples are \(4,\)|\(3,\)"),
        ({"images": clusters(900) * math.nan}, "NaN"),
        ({"images": 30 + clusters()}, "the images are not those of the model: "),
        ({"images": 9 * clusters()}, "the images are not those of the model: "),
        ({"prefer": "beauty"}, "prefer='beauty': expected recall or precision, or None"),
        ({"priors": {"flow": CLUSTERS}}, "expected priors by the names gaussian and mixture, received 'flow'"),
        ({"priors": {"gaussian": "nowhere.safetensors"}}, "nowhere"),
        ({"steps": ()}, "expected at least one number of steps"),
        ({"steps": 0}, "steps=0"),
        ({"budget": 0}, "budget=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"features": "beauty"}, "beauty"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_are_refused(given, message, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        tuned(folder=tmp_path / "parts", **given)
    assert "check_prior" not in str(told.value)
    assert not list(tmp_path.rglob("final")) and not list(tmp_path.rglob("search"))


def test_what_is_no_network_or_scheduler_is_refused_by_its_kind():
    with pytest.raises(TypeError):
        ls.tune("folder", SCHEDULER, clusters(), 3)
    with pytest.raises(TypeError):
        ls.tune(ls.as_model(CLUSTERS, SCHEDULER), DDPMScheduler, clusters(), 3)
