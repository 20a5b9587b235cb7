"""The number of components: as many as there are, never as many as there are images."""

import math
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler

from latestart.data import Images
from latestart.denoisers.networks import as_model
from latestart.gaussians.mixture import Mixture
from latestart.sampling import components as module
from latestart.sampling.components import choose_components


def clusters(n, seed, k=4, width=0.08):
    """Images (1, 3, 3) in k clusters, in [-1, 1]."""
    centres = torch.rand(k, 9, generator=torch.Generator().manual_seed(9)) * 1.4 - 0.7
    g = torch.Generator().manual_seed(seed)
    points = centres[torch.randint(k, (n,), generator=g)] + width * torch.randn(n, 9, generator=g)
    return points.clamp(-1, 1).reshape(n, 1, 3, 3)


IMAGES, HELD_OUT = clusters(1200, 0), clusters(600, 1)


def test_the_true_number_is_chosen():
    choice = choose_components(IMAGES, HELD_OUT, 0.1, candidates=(1, 2, 4, 8, 20))
    assert choice.components == 4 == len(choice.mixture.components)
    density = {trial.components: trial.log_density for trial in choice.evidence}
    assert density[4] > density[2] > density[1]
    y = HELD_OUT + 0.1 * torch.randn(HELD_OUT.shape, generator=torch.Generator().manual_seed(5))
    again = {k: float(Mixture.fit(IMAGES, k).noised(0.1).log_prob(y).mean()) for k in (1, 4)}
    assert density[4] - density[1] == pytest.approx(again[4] - again[1], rel=0.05)


def test_images_in_the_order_of_their_clusters_choose_the_same_number():
    """One cluster after the other: half of the held-out ones would be of clusters that the other half never saw."""
    ordered, held_out = (x[x.flatten(1).sum(1).argsort()] for x in (IMAGES, HELD_OUT))
    choice = choose_components(ordered, held_out, 0.1, candidates=(1, 2, 4, 8))
    assert choice.components == 4
    again = choose_components(IMAGES, HELD_OUT, 0.1, candidates=(1, 2, 4, 8))
    assert [t.log_density for t in choice.evidence] == pytest.approx([t.log_density for t in again.evidence], abs=0.3)


def test_a_rank_beside_auto_changes_nothing_where_dense_is_chosen():
    plain, ranked = (choose_components(IMAGES, HELD_OUT, 0.1, candidates=(1, 4, 8), rank=r) for r in (None, 4))
    assert [trial.log_density for trial in ranked.evidence] == [trial.log_density for trial in plain.evidence]
    assert ranked.components == 4


def test_only_numbers_that_the_images_cannot_be_told_into_are_left_out(caplog):
    """With three distinct images 20 components are left out; a user's mistake raises."""
    few = clusters(3, 4).repeat(200, 1, 1, 1)
    assert list(module._fitted(few, [1, 2, 20], 0, {"basis": "diagonal"})) == [1, 2]
    assert "20 components are left out: component" in caplog.text
    for options, message in (
        ({"basis": "lowrank", "rank": 10}, "rank=10"),
        ({"rank": 10}, "rank from 1 to 9, .* received rank=10"),
        ({"basis": "wavelet"}, "unknown basis 'wavelet'"),
        ({"shrinkage": -1.0}, "shrinkage"),
    ):
        with pytest.raises(ValueError, match=message):
            choose_components(IMAGES, HELD_OUT, 0.1, candidates=(1, 2), **options)
    with pytest.raises(ValueError, match="all 600 images are the same"):
        choose_components(few[:1].repeat(600, 1, 1, 1), HELD_OUT, 0.1)


def test_a_set_of_images_stays_bytes(monkeypatch):
    """The same choice as of their numbers, and never all of these at once."""
    fitted_to, held_out = (Images(((x + 1) * 127.5).round().to(torch.uint8)) for x in (clusters(2600, 0), HELD_OUT))
    options = {"candidates": (1, 4), "basis": "diagonal"}
    expected = choose_components(fitted_to.floats(), held_out.floats(), 0.1, **options)
    whole = Images.floats
    monkeypatch.setattr(Images, "floats", lambda self: pytest.fail("all") if len(self) > 1100 else whole(self))
    choice = choose_components(fitted_to, held_out, 0.1, **options)
    assert choice.components == expected.components == 4
    assert [t.log_density for t in choice.evidence] == pytest.approx([t.log_density for t in expected.evidence])


def test_one_standard_error_is_no_reason_for_more():
    """Data of one Gaussian: more components fit it no worse than noise tells apart, and one is chosen."""
    g = torch.Generator().manual_seed(0)
    x = 0.2 * torch.randn(1600, 1, 3, 3, generator=g)
    assert choose_components(x[:1000], x[1000:], 0.2, candidates=(1, 2, 4)).components == 1


def test_a_component_for_each_image_is_refused_for_copying(monkeypatch):
    monkeypatch.setattr(module, "PER_COMPONENT", 1)
    few, others = clusters(300, 2, k=1, width=0.4), clusters(800, 3, k=1, width=0.4)
    choice = choose_components(few, others, 0.05, candidates=(1, 290), shrinkage=0.01)
    trials = {trial.components: trial for trial in choice.evidence}
    assert not trials[290].copying.within_bar and trials[1].copying.within_bar
    assert choice.components == 1
    with pytest.raises(ValueError, match=r"every number of components are copies \(share copied: 290: 0\."):
        choose_components(few, others, 0.05, candidates=(290,), shrinkage=0.01)


def test_copies_are_looked_for_in_generated_images_where_a_model_is_given():
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    truth = Mixture.fit(clusters(4000, 7), 4)
    options = {"model": as_model(truth, scheduler), "scheduler": scheduler, "t_start": 60, "steps": 3}
    choice = choose_components(IMAGES, HELD_OUT, candidates=(1, 4), **options)
    alpha_bar = scheduler.alphas_cumprod[59]
    assert choice.sigma == pytest.approx(math.sqrt((1 - alpha_bar) / alpha_bar), rel=1e-4)
    assert choice.components == 4
    own = choose_components(IMAGES, HELD_OUT, choice.sigma, candidates=(1, 4))
    ratios = [c.evidence[0].copying.ratios for c in (choice, own)]
    assert not torch.equal(*ratios)


def test_bad_input():
    with pytest.raises(ValueError, match="at least 200 held-out images, received 199"):
        choose_components(IMAGES, HELD_OUT[:199], 0.1)
    with pytest.raises(ValueError, match="50 images are too few for 3 components: each needs 20"):
        choose_components(IMAGES[:50], HELD_OUT, 0.1, candidates=(3, 10))
    with pytest.raises(ValueError, match="expected sigma"):
        choose_components(IMAGES, HELD_OUT)
    with pytest.raises(ValueError, match="among the candidates, received none"):
        choose_components(IMAGES, HELD_OUT, 0.1, candidates=[])
    with pytest.raises(ValueError, match="samples=0: expected"):
        choose_components(IMAGES, HELD_OUT, 0.1, samples=0)
    spoiled = HELD_OUT.clone()
    spoiled[3, 0, 0, 0] = math.nan
    with pytest.raises(ValueError, match="held_out of finite values, received 1 with"):
        choose_components(IMAGES, spoiled, 0.1)


def test_errors_are_of_the_difference_from_the_best_that_does_not_copy():
    """Beside a copying best, 2 is worse than 4 by 1 +- 0.1 for certain, though both differ from it by 5 +- 2."""
    g = torch.Generator().manual_seed(0)
    noise, small = (torch.randn(400, generator=g, dtype=torch.float64) for _ in range(2))
    base = 40 * noise
    densities = {2: base - 6 + 2 * small, 4: base - 5, 300: torch.zeros(400, dtype=torch.float64)}
    copies = {k: SimpleNamespace(within_bar=k != 300, copied=None) for k in densities}
    trials = {trial.components: trial for trial in module._trials(densities, copies)}
    difference = densities[4] - densities[2]
    expected = (difference.mean().item(), difference.std().item() / 20)
    assert trials[2].behind == pytest.approx(expected, rel=1e-9)
    assert trials[4].behind == (0.0, 0.0) and trials[300].behind[0] < 0
    assert module._chosen(list(trials.values())) == 4
