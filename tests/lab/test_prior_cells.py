"""Cells of the prior solver and of chosen last times: planned, keyed and measured."""

from dataclasses import asdict, replace

import pytest
from diffusers import DDPMScheduler
from test_sweep import EXACT, PRIOR, Quarters, cell, reference, subject

import latestart as ls
from latestart.lab.cells import plan
from latestart.lab.experiment import Lab
from latestart.lab.grid import Grid
from latestart.lab.judge import Judge
from latestart.lab.sweep import Sweep

SCHEDULER = DDPMScheduler(clip_sample=False)


@pytest.fixture(scope="module")
def judge():
    return Judge(Quarters(), reference())


def test_options_that_are_left_alone_are_no_part_of_a_cell_s_key(judge):
    """Cells of earlier sweeps, which knew none of them, are found."""
    before = {"model", "sampler", "nfe", "prior", "t_start", "spacing", "clip", "samples", "seed"}
    (planned,) = plan([cell()], {"exact": subject(judge)})
    assert set(cell().way) == before
    assert set(planned.configuration) == before | {"steps", "features", "reference"}
    others = [cell(last=40), cell(sampler="prior"), cell(sampler="prior", eta=0.5), cell(sampler="prior", order=1)]
    keys = {
        one.key for one in plan([cell(), *others, cell(sampler="prior", inside="gaussian")], {"exact": subject(judge)})
    }
    assert len(keys) == 5  # the Gaussian that is named is the one that is taken


def test_the_prior_inside_is_the_start_s_or_the_gaussian():
    assert cell().within is None
    assert cell(sampler="prior").within == "gaussian"
    assert cell(sampler="prior", prior="isotropic", t_start=500.0).within == "gaussian"
    assert cell(sampler="prior", prior="mixture", t_start=500.0).within == "mixture"
    assert cell(sampler="prior", prior="mixture", t_start=500.0, inside="gaussian").within == "gaussian"
    told = cell(sampler="prior", eta=0.5, order=1, last=40).describe()
    assert told.endswith("trailing, down to t = 40, gaussian inside, order 1, eta 0.5")


def test_a_grid_has_the_options_where_they_apply():
    grid = Grid(
        sampler=("ddim", "prior"), nfe=(3,), prior=("none", "mixture"), t_start=(500.0,),
        spacing=("trailing", "leading"), clip=(False,), last=(40,), eta=(0.0, 1.0), order=(1, 2),
    )  # fmt: skip
    cells = grid.cells()
    mine = [one for one in cells if one.sampler == "prior"]
    assert {(one.eta, one.order) for one in mine} == {(None, None), (None, 1), (1.0, None), (1.0, 1)}
    assert all(one.eta is None and one.order is None for one in cells if one.sampler == "ddim")
    assert {one.last for one in cells if one.spacing == "trailing"} == {None, 40}
    assert {one.last for one in cells if one.spacing == "leading"} == {None}
    assert len(cells) == (2 + 1 + 2) * (1 + 4)
    assert grid.priors == ("none", "mixture", "gaussian")


def test_a_cell_of_its_own_data_is_sampled_exactly(judge, tmp_path):
    """From a late start in 2 evaluations, the samples are the Gaussian's own denoised at the last level."""
    asked = [
        cell(sampler="prior", nfe=2, prior="gaussian", t_start=500.0),
        cell(sampler="prior", nfe=3, last=40),
        cell(sampler="heun", nfe=3, last=40),
        cell(sampler="ddpm", nfe=3, last=40, prior="gaussian", t_start=500.0),
    ]
    subjects = {"exact": subject(judge)}
    sweep = Sweep(plan(asked, subjects), subjects, Lab(tmp_path), 7)
    sweep.measure()
    rows = sweep.table()
    assert [row["status"] for row in rows] == ["done"] * 4, [row["reason"] for row in rows]
    assert [row["inside"] for row in rows] == ["gaussian", "gaussian", None, None]
    assert [row["last"] for row in rows] == [None, 40, 40, 40]
    assert asked[2].steps_for(asked[2].nfe, SCHEDULER) == 2  # Heun evaluates twice at all but the last
    sampler = ls.make_sampler("prior", SCHEDULER, PRIOR, "trailing")
    by_hand = ls.generate(EXACT, sampler, PRIOR, 20, 2, 500.0, check_prior=False, batch_size=7)
    assert rows[0]["frechet"] == pytest.approx(judge(by_hand.samples).frechet.value, rel=1e-9)
    full = ls.generate(EXACT, ls.late_start(sampler, 1000, 3, last=40), None, 20, 3, batch_size=7)
    assert full.timesteps == (999.0, 520.0, 40.0)
    assert rows[1]["frechet"] == pytest.approx(judge(full.samples).frechet.value, rel=1e-9)


def test_axes_are_read_and_checked():
    grid = Grid.read({"sampler": "prior", "last": "40,80", "eta": "0,0.5", "order": "1", "inside": "gaussian"})
    assert (grid.last, grid.eta, grid.order, grid.inside) == ((40, 80), (0.0, 0.5), (1,), ("gaussian",))
    for values in ({"eta": "1.5"}, {"order": "3"}, {"last": "-1"}):
        with pytest.raises(ValueError, match=next(iter(values))):
            Grid.read(values)
    assert asdict(replace(cell(), last=40))["last"] == 40


def test_a_cell_has_its_own_times_and_shares_of_noise(judge, tmp_path):
    asked = [
        cell(sampler="ddim", nfe=3, times=(999.0, 460.0, 90.0), shares=(0.0, 0.5, 0.0)),
        cell(sampler="prior", nfe=3, times=(499.0, 300.0, 90.0), prior="gaussian", t_start=500.0),
        cell(sampler="heun", nfe=5, times=(999.0, 460.0, 90.0)),
        cell(sampler="ddim", nfe=4, times=(999.0, 460.0, 90.0)),
    ]
    assert asked[0].describe().endswith("trailing, at t = 999, 460, 90, eta 0 0.5 0")
    subjects = {"exact": subject(judge)}
    sweep = Sweep(plan(asked, subjects), subjects, Lab(tmp_path), 7)
    sweep.measure()
    rows = sweep.table()
    assert [row["status"] for row in rows] == ["done"] * 3 + ["unavailable"], [row["reason"] for row in rows]
    again = Sweep(plan(asked, subjects), subjects, Lab(tmp_path), 7)
    again.measure()
    assert [row["frechet"] for row in again.table()] == [row["frechet"] for row in rows]
