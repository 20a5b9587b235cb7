"""Grids of levels: the closed form against real runs, dynamic programming against brute force, forms for others."""

import itertools
import json
import math

import diffusers
import numpy as np
import pytest
import torch
from oracle import EDMNetwork, GaussianData, Network, columns, error, run

import latestart as ls
from latestart.denoisers.exact import PointCloud
from latestart.gaussians.basis import Dense
from latestart.noise import Noise
from latestart.sampling.families import family_of
from latestart.sampling.gaussian_grids import gaussian_error, gaussian_optimal
from latestart.sampling.grids import grid_times
from latestart.sampling.late_start import late_start, start_sample
from latestart.sampling.names import SPACINGS
from latestart.sampling.samplers import make_sampler
from latestart.sampling.spacings import whole_times
from latestart.sampling.teacher_grids import cheapest, entropic, gits, jump_costs, path_costs

torch.set_num_threads(1)
DATA = GaussianData()
OWN = ls.Gaussian(DATA.mean, Dense((8,), DATA.basis), DATA.variances)
BETA = diffusers.DDPMScheduler(clip_sample=False)
EDM = diffusers.EDMEulerScheduler()
FLOW = diffusers.FlowMatchEulerDiscreteScheduler()
IMAGES = ls.Gaussian(torch.zeros(1, 3, 3), Dense((1, 3, 3), torch.eye(9, dtype=torch.float64)), torch.full((9,), 0.5))
MODEL = ls.as_model(IMAGES, BETA)


def random_times(n, seed, top=599):
    drawn = torch.randperm(top, generator=torch.Generator().manual_seed(seed))[: n - 1].sort(descending=True).values
    return [float(top), *map(float, drawn.tolist())]


# the closed form


@pytest.mark.parametrize(("name", "solver"), [("ddim", "ddim"), ("euler", "ddim"), ("dpm++", "dpm++")])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_closed_form_is_that_of_a_real_run(name, solver, n):
    times = random_times(n, seed=n)
    late = late_start(make_sampler(name, BETA), None, n, times=times)
    levels = [Noise.from_scheduler(BETA).sigma(t) for t in times]
    assert gaussian_error(OWN, levels, solver) == pytest.approx(error(DATA, late, Network(DATA, late)), rel=2e-3)


@pytest.mark.parametrize(("name", "solver"), [("ddim", "ddim"), ("dpm++", "dpm++")])
def test_the_closed_form_of_white_noise_is_that_of_a_real_run(name, solver):
    times = random_times(4, seed=9, top=900)
    late = late_start(make_sampler(name, BETA), None, 4, times=times)
    x = run(late, Network(DATA, late), start_sample(late, None, columns())).double()
    linear = x[1:] - x[0]
    levels = [Noise.from_scheduler(BETA).sigma(t) for t in times]
    found = gaussian_error(OWN, levels, solver, late=False)
    assert found == pytest.approx(DATA.distance(x[0], linear.T @ linear), rel=2e-3)


@pytest.mark.parametrize(
    ("made", "solver", "network"),
    [
        (EDM, "ddim", EDMNetwork),
        (make_sampler("dpm++", EDM), "dpm++", EDMNetwork),
        (FLOW, "ddim", lambda data, late: Network(data, late, "flow")),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_closed_form_holds_for_other_processes(made, solver, network):
    times = gaussian_optimal(OWN, made, 4, family_of(made).noise.time(3.0), solver=solver)
    late = late_start(made, None, 4, times=times)
    levels = [family_of(made).noise.sigma(t) for t in times]
    assert levels[0] == pytest.approx(3.0, rel=1e-6)
    assert gaussian_error(OWN, levels, solver) == pytest.approx(error(DATA, late, network(DATA, late)), rel=2e-3)


@pytest.mark.parametrize("solver", ["ddim", "dpm++"])
@pytest.mark.parametrize("start", [None, 1000, 600, 77])
@pytest.mark.parametrize("n", [1, 3, 7])
def test_no_usual_spacing_is_better_in_its_own_error(solver, start, n):
    grid = grid_times("gaussian-optimal", BETA, n, start, prior=OWN, solver=solver)
    assert len(grid.times) == n and list(grid.times) == sorted(set(grid.times), reverse=True)
    assert start is None or grid.times[0] == start - 1
    found = gaussian_error(OWN, grid.sigma, solver, late=start is not None)
    for name in SPACINGS:
        if name == "linspace" and n == 1:
            continue
        rival = grid_times(name, BETA, n, start)
        if start is None or rival.times[0] == start - 1:
            assert found <= gaussian_error(OWN, rival.sigma, solver, late=start is not None) * (1 + 1e-9), name


def test_the_optimum_of_two_levels_is_that_of_a_search():
    known = min(
        (gaussian_error(OWN, [Noise.from_scheduler(BETA).sigma(t) for t in (599, low)], "ddim"), low)
        for low in range(599)
    )
    assert gaussian_optimal(OWN, BETA, 2, 600, solver="ddim") == [599.0, float(known[1])]


def test_a_mixture_is_its_gaussian():
    mixture = ls.Mixture([OWN, ls.Gaussian(DATA.mean + 1, OWN.basis, OWN.variances)], torch.ones(2))
    assert gaussian_error(mixture, [3.0, 1.0]) == pytest.approx(gaussian_error(mixture.gaussian(), [3.0, 1.0]))


# the network's own paths


@pytest.mark.parametrize("steps", [1, 2, 4, 7])
@pytest.mark.parametrize("gamma", [1.0, 1.15])
def test_dynamic_programming_finds_what_brute_force_finds(steps, gamma):
    costs = torch.rand(8, 8, generator=torch.Generator().manual_seed(steps), dtype=torch.float64)

    def total(way):
        return sum(costs[i, j] * gamma**k for k, (i, j) in enumerate(itertools.pairwise((*way, 7))))

    ways = [(0, *rest) for rest in itertools.combinations(range(1, 7), steps - 1)]
    assert tuple(cheapest(costs, steps, gamma)) == min(ways, key=total)


def test_steps_cost_what_they_miss_the_path_by():
    """Data at one point is sampled exactly by every step; of a Gaussian the distance is known."""
    levels = [3.0, 1.0, 0.3]
    point = jump_costs(PointCloud(torch.zeros(1, 1, 3, 3)), torch.randn(5, 1, 3, 3), levels)
    assert float(point[torch.ones(4, 4).triu(1).bool()].abs().max()) < 1e-6
    assert point.tril().isinf().sum() == 10 - 0
    y = torch.randn(6, 1, 3, 3, dtype=torch.float64) * 2
    costs = jump_costs(IMAGES, y, levels)
    keep = [s * s / (0.5 + s * s) for s in levels]  # 1 - a
    first = 1 - keep[0] * (1 - levels[1] / levels[0])  # of y, by one step
    straight = 1 - keep[0] * (1 - levels[2] / levels[0])
    second = levels[2] / levels[1] * first + (1 - levels[2] / levels[1]) * (
        (1 - keep[1]) * first + ((1 - keep[1]) * first - (1 - keep[0])) * math.log(1 / 0.3) / (2 * math.log(3.0))
    )
    assert float(costs[0, 1]) == pytest.approx(0, abs=1e-9)
    norm = float(y.flatten(1).norm(dim=1).mean())
    assert float(costs[0, 2]) == pytest.approx(abs(straight - second) * norm, rel=1e-6)


def test_paths_count_their_evaluations_and_begin_where_they_are_told():
    known = path_costs(MODEL, BETA, 600, IMAGES, paths=20, fine=12, batch_size=7)
    assert known.nfe == 20 * len(known.times) and known.times[0] == 599.0 and known.times[-1] == 0.0
    whole = path_costs(MODEL, BETA, 600, IMAGES, paths=20, fine=12)
    torch.testing.assert_close(whole.costs, known.costs, rtol=1e-5, atol=1e-6)
    times, nfe = gits(MODEL, BETA, 4, 600, IMAGES, paths=20, fine=12)
    assert times == known.cheapest(4) and len(times) == 4 and times[0] == 599.0 and nfe == known.nfe
    assert gits(MODEL, BETA, 3, paths=4, fine=9)[0][0] == 999.0


# denoising errors


@pytest.mark.parametrize("power", [2.0, 3.0])
def test_entropic_times_have_equal_shares_of_the_error(power):
    """Of Gaussian data the error is known: d l s^2 / (l + s^2)."""
    images = IMAGES.sample(4000, torch.Generator().manual_seed(0))
    times, nfe = entropic(MODEL, BETA, images, 5, 800, power=power, levels=200)
    noise = Noise.from_scheduler(BETA)
    ends = noise.sigma(799.0), noise.sigma_range[0]
    fine = np.geomspace(*ends, 20_000)
    rate = 0.5 / (0.5 + fine**2) * fine ** (2 - power)
    spent = np.concatenate([[0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * -np.diff(fine))])
    expected = [noise.time(float(one)) for one in np.interp(np.arange(5) / 5 * spent[-1], spent, fine)]
    assert times == pytest.approx(expected, abs=8)
    assert nfe % 256 == 0 and nfe > 0


# by name


def test_a_grid_is_one_to_sample_with():
    for name in ("gaussian-optimal", "gits", "entropic-rescaled", "karras+1"):
        grid = grid_times(name, BETA, 3, 500, prior=IMAGES, model=MODEL, images=IMAGES.sample(20))
        first = 497.0 if name == "karras+1" else 499.0  # which begins at a multiple of its steps
        assert (len(grid.times), grid.times[0], grid.name, grid.kind) == (3, first, name, "vp")
        assert grid.sigma == pytest.approx([Noise.from_scheduler(BETA).sigma(t) for t in grid.times])
        assert [1 / (1 + s * s) for s in grid.sigma] == pytest.approx(grid.alpha_bar)
        late = late_start(make_sampler("unipc", BETA), None, 3, times=grid.times)
        result = ls.generate(MODEL, late, IMAGES, n=4, steps=3)
        assert result.timesteps == grid.times and result.nfe == 3
    assert grid_times("trailing", BETA, 4).times == (999.0, 749.0, 499.0, 249.0)


def test_grids_of_other_processes():
    for scheduler, first in ((EDM, 80.0), (FLOW, math.inf)):
        grid = grid_times("gaussian-optimal", scheduler, 4, prior=IMAGES, solver="ddim")
        assert all(a > b for a, b in itertools.pairwise(grid.times)) and grid.sigma[0] <= first
        model = ls.as_model(IMAGES, scheduler)
        late = late_start(scheduler, None, 4, times=grid.times)
        assert ls.generate(model, late, n=2, steps=4).nfe == 4
        top = family_of(scheduler).noise.time(5.0)
        grid = grid_times("gits", scheduler, 3, top, model=model, prior=IMAGES)
        assert grid.sigma[0] == pytest.approx(5.0, rel=1e-5) and len(grid.times) == 3
    assert grid_times("gaussian-optimal", FLOW, 3, 500, prior=IMAGES).levels[0] == pytest.approx(0.5)


def test_forms_that_other_programs_take():
    grid = grid_times("trailing", BETA, 3, 600)
    known = json.loads(grid.text("json"))
    assert known["name"] == "trailing" and known["times"] == [599.0, 399.0, 199.0]
    levels = [float(one) for one in grid.text("comfyui").split(",")]
    assert levels[-1] == 0 and levels[:-1] == pytest.approx(grid.sigma, rel=1e-5)
    assert json.loads(grid.text("a1111")) == pytest.approx(levels)
    said: dict = {}
    exec(grid.text("diffusers"), said)
    assert said["timesteps"] == [599, 399, 199]
    euler = make_sampler("euler", BETA)
    euler.set_timesteps(sigmas=said["sigmas"])
    assert euler.sigmas.tolist() == pytest.approx(levels, rel=1e-5)
    solver = make_sampler("dpm++", BETA)
    solver.set_timesteps(timesteps=said["timesteps"])
    assert solver.timesteps.tolist() == said["timesteps"]
    assert "trailing" in grid.text() and len(grid.text().splitlines()) == 4
    flow = grid_times("gaussian-optimal", FLOW, 3, 500, prior=IMAGES)
    assert float(flow.text("comfyui").split(",")[0]) == pytest.approx(0.5)
    shifted = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    for scheduler in (diffusers.FlowMatchEulerDiscreteScheduler(), shifted):
        grid = grid_times("gaussian-optimal", scheduler, 3, 600, prior=IMAGES)
        exec(grid.text("diffusers"), said)
        scheduler.set_timesteps(sigmas=said["sigmas"])
        assert scheduler.sigmas.tolist() == pytest.approx([*grid.levels, 0.0], rel=1e-4)
    with pytest.raises(ValueError, match="there is no form 'yaml' of a grid; there are table"):
        grid.text("yaml")


def test_bad_input_is_named():
    for asked, said in (
        (("magic", BETA, 3), "there is no grid 'magic'; there are gaussian-optimal, gits"),
        (("gaussian-optimal", BETA, 3), "needs prior="),
        (("gits", BETA, 3), "needs model="),
        (("entropic", BETA, 3), "needs model= and images="),
        (("trailing", BETA, 0), "steps=0"),
    ):
        with pytest.raises(ValueError, match=said):
            grid_times(*asked)
    with pytest.raises(ValueError, match="a free level has no best one"):
        gaussian_optimal(OWN, BETA, 3, 600, fixed=False)
    with pytest.raises(ValueError, match="no room for 9 steps"):
        gaussian_optimal(OWN, BETA, 9, 5)
    with pytest.raises(ValueError, match="no closed form of the solver 'unipc'"):
        gaussian_optimal(OWN, BETA, 3, 600, solver="unipc")
    with pytest.raises(TypeError, match="expected a Gaussian or a mixture"):
        gaussian_error(PointCloud(torch.zeros(2, 3)), [1.0])
    for levels in ([1.0, 2.0], [1.0, 0.0], []):
        with pytest.raises(ValueError, match="expected falling noise levels above 0"):
            gaussian_error(OWN, levels)
    with pytest.raises(ValueError, match="expected 1 to 7 steps over 7 levels, received 8"):
        cheapest(torch.rand(8, 8), 8)
    with pytest.raises(ValueError, match="gamma=-1"):
        gits(MODEL, BETA, 3, gamma=-1)
    with pytest.raises(ValueError, match="lies outside of the schedule"):
        path_costs(MODEL, BETA, 1200)
    with pytest.raises(ValueError, match="no room for 3 whole times from t = 1"):
        whole_times([1.0, 0.5, 0.1])
    assert whole_times([9.4, 9.3, 2.2, 1.9, -0.3]) == [9.0, 8.0, 2.0, 1.0, 0.0]
