"""The decision of tuning, on figures that are known: the lower ends of intervals decide, and full noise is the rule."""

from dataclasses import replace

import pytest
import torch

from latestart.evaluation.quality import Estimate
from latestart.lab.judge import Figures
from latestart.sampling.ways import Way
from latestart.tuning.candidates import Candidate
from latestart.tuning.decision import BELOW, CONTRAST, Finalist, decide

FULL = Candidate(Way(sampler="heun"), 5, "full heun", True)
OTHER = Candidate(Way(sampler="ddim"), 5, "full ddim", True)
INSIDE = Candidate(Way(sampler="prior", inside="gaussian"), 5, "full prior", True)


def late(t_start):
    return Candidate(Way(sampler="unipc", prior="mixture", t_start=t_start), 5, f"mixture at {t_start}", True)


def share(value, width=0.01):
    return Estimate(value, value - width, value + width)


def figures(value, spread=0.0, seed=0, **others):
    """Figures of a distance, whose replicates have a spread; of one seed they are paired."""
    normal = torch.randn(500, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    known = {
        "frechet": Estimate(value, value - 2 * spread, value + 2 * spread), "precision": share(0.7),
        "recall": share(0.6), "coverage": share(0.8), "copied": None, "variance": share(1.0),
        "replicates": value + spread * normal, "recall_replicates": torch.zeros(500),
    }  # fmt: skip
    return Figures(**known | others)


def finalists(*some):
    return [Finalist(candidate, one) for candidate, one in some]


def test_the_lower_end_of_the_gain_decides_and_not_the_gain():
    wide, narrow = figures(1.4, spread=0.45, seed=1), figures(2.0, spread=0.02)
    found = decide(finalists((FULL, figures(4.0)), (late(10), wide), (late(20), narrow)))
    assert found.chosen.candidate == late(20)
    assert found.gain.value == pytest.approx(2) and 1.9 < found.gain.low < 2
    assert found.full.candidate == FULL and found.out == {}


def test_noise_that_both_share_is_no_doubt():
    found = decide(finalists((FULL, figures(4.0, spread=0.8)), (late(10), figures(2.0, spread=0.4))))
    assert found.chosen.candidate == late(10)
    assert (found.gain.low, found.gain.high) == pytest.approx((2, 2))


def test_full_noise_where_nothing_is_better_beyond_chance():
    found = decide(finalists((OTHER, figures(5.0)), (FULL, figures(4.0)), (late(10), figures(3.5, spread=0.6, seed=1))))
    assert found.chosen is found.full and found.chosen.candidate == FULL and found.gain is None
    assert found.reason[0] == "full noise was chosen: no late start and no prior inside is better than it beyond chance"
    assert found.reason[1].startswith(f"{late(10).way.describe()}: 1.14")


def test_the_rival_is_the_best_full_noise_and_a_prior_inside_is_ours():
    found = decide(finalists((OTHER, figures(8.0)), (FULL, figures(4.0)), (INSIDE, figures(2.0))))
    assert found.full.candidate == FULL and found.chosen.candidate == INSIDE
    assert found.gain.value == pytest.approx(2)


def test_what_copies_may_not_be_chosen():
    copying, near = figures(1.0, copied=Estimate(0.1, 0.05, 0.2)), figures(2.0, copied=Estimate(0.03, 0.0, 0.06))
    found = decide(finalists((FULL, figures(4.0)), (late(10), copying), (late(20), near)))
    assert found.chosen.candidate == late(20)
    assert set(found.out) == {1} and "copies training images" in found.out[1]


def test_contrast_that_is_cut_off_may_not_be_chosen():
    bright, fair = figures(1.0, variance=share(CONTRAST + 0.01)), figures(2.0, variance=share(CONTRAST - 0.01))
    found = decide(finalists((FULL, figures(4.0)), (late(10), bright), (late(20), fair)))
    assert found.chosen.candidate == late(20) and "of the images' variance before clipping" in found.out[1]
    alone = decide(finalists((FULL, figures(4.0)), (late(10), bright)))
    assert alone.chosen.candidate == FULL
    assert any("variance before clipping" in sentence for sentence in alone.reason)


@pytest.mark.parametrize("name", ["recall", "precision"])
def test_the_preferred_figure_may_lie_a_little_below_full_noise(name):
    full = figures(4.0, **{name: share(0.6)})
    below, just = (figures(1.0, **{name: share(0.6 - BELOW - more)}) for more in (0.005, -0.005))
    ours = decide(finalists((FULL, full), (late(10), below), (late(20), replace(just, frechet=share(2.0)))), name)
    assert ours.chosen.candidate == late(20) and f"has a {name} of 0.565" in ours.out[1]
    assert decide(finalists((FULL, full), (late(10), below))).chosen.candidate == late(10)
    assert decide(finalists((FULL, full), (late(10), below)), name).chosen.candidate == FULL


def test_its_cost_in_recall_is_said_before_its_gain():
    cheap = figures(1.0, recall=share(0.4), precision=share(0.69))
    found = decide(finalists((FULL, figures(4.0)), (late(10), cheap)))
    assert found.reason[0].startswith("it costs recall: 0.4 [0.39, 0.41], where the best full noise has 0.6")
    assert found.reason[-1] == "its distance is 4 [4, 4] times below that of the best full noise"
    assert len(found.reason) == 2  # precision differs by less than chance


def test_full_noise_that_may_not_be_chosen_is_still_the_one_to_beat():
    barred = figures(3.0, variance=share(1.2))
    found = decide(finalists((FULL, barred), (OTHER, figures(4.0)), (late(10), figures(3.5))))
    assert found.full.candidate == FULL and found.chosen.candidate == OTHER
    assert decide(finalists((FULL, barred), (late(10), figures(3.5)))).chosen.candidate == FULL  # there is no other


def test_full_noise_that_is_better_than_the_chosen_one_and_barred_is_named():
    bright = figures(3.0, variance=share(CONTRAST + 0.3))
    found = decide(finalists((FULL, bright), (OTHER, figures(4.0)), (late(10), figures(3.5))))
    assert found.chosen.candidate == OTHER and found.full.candidate == FULL
    assert any(line.startswith(f"{FULL.way.describe()} has 1.35") for line in found.reason)


def test_what_failed_is_left_out_with_its_reason():
    failing = Finalist(late(10), None, "failed: NaN")
    found = decide([Finalist(FULL, figures(4.0)), failing, Finalist(late(20), figures(2.0))])
    assert found.chosen.candidate == late(20) and found.out == {1: "failed: NaN"}


def test_without_full_noise_the_nearest_is_chosen_and_this_is_said():
    found = decide(finalists((late(10), figures(2.0)), (late(20), figures(1.0)), (INSIDE, figures(3.0))))
    assert found.chosen.candidate == late(20) and found.full is None and found.gain is None
    assert "no full noise to compare with" in found.reason[0]


def test_where_nothing_may_be_chosen_the_reasons_are_told():
    copying = figures(1.0, copied=Estimate(0.1, 0.05, 0.2))
    with pytest.raises(ValueError, match="no way to sample this model may be chosen: copies training images"):
        decide(finalists((late(10), copying)))
    with pytest.raises(ValueError, match="none was drawn"):
        decide([])


def test_where_full_noise_failed_the_reason_is_told():
    found = decide([Finalist(FULL, None, "failed: NaN"), Finalist(late(20), figures(2.0))])
    assert found.chosen.candidate == late(20)
    assert found.reason == ("there is no full noise to compare with: failed: NaN",)
