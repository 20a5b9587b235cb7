"""The scheduler with a prior inside: exact on its own data, the published solvers where it knows nothing, its files."""

import copy
import itertools
import json
import pickle

import diffusers
import pytest
import torch
from oracle import EDMNetwork, GaussianData, Network, columns, run

import latestart as ls
from latestart.denoisers.networks import as_model
from latestart.gaussians.basis import Dense, Diagonal
from latestart.sampling.families import EDM, FAMILIES, Beta, FlowMatching, family_of
from latestart.sampling.late_start import late_start, start_level, start_sample
from latestart.sampling.loop import draw
from latestart.sampling.names import SPACINGS
from latestart.sampling.prior_solver import PRIOR_FILE, PriorMultistepScheduler
from latestart.sampling.samplers import make_sampler

torch.set_num_threads(1)
F64 = torch.float64
DATA = GaussianData()
OWN = ls.Gaussian(DATA.mean, Dense((8,), DATA.basis), DATA.variances)
POINT = ls.Gaussian(torch.full((8,), 0.2, dtype=F64), Diagonal((8,)), torch.zeros(8, dtype=F64))
TRAINED = {
    Beta: [diffusers.DDPMScheduler(prediction_type=kind) for kind in ("epsilon", "v_prediction", "sample")],
    EDM: [diffusers.EDMEulerScheduler(prediction_type=kind) for kind in ("epsilon", "v_prediction")]
    + [diffusers.EDMDPMSolverMultistepScheduler()],
    FlowMatching: [
        diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        diffusers.FlowMatchHeunDiscreteScheduler(),
        diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=2.0),
    ],
}
NETWORKS = {Beta: Network, EDM: EDMNetwork, FlowMatching: lambda data, late: Network(data, late, "flow")}
BETA = TRAINED[Beta][0]


def str_of(scheduler):
    return f"{type(scheduler).__name__}-{scheduler.config.get('prediction_type')}"


def network(scheduler, data=DATA):
    return NETWORKS[type(family_of(scheduler))](data, scheduler)


@pytest.mark.parametrize("trained", [one for family in FAMILIES for one in TRAINED[family]], ids=str_of)
@pytest.mark.parametrize("n", [2, 5])
def test_the_prior_s_own_data_is_exact_at_every_level(trained, n):
    """From full noise, late, and from a start that is not the prior's: the end is that of the closed flow."""
    solver = make_sampler("prior", trained, OWN)
    solver.set_timesteps(n)
    runs = [(solver, 3 * columns())]
    if not (isinstance(trained, diffusers.DPMSolverMultistepScheduler)):  # which cannot be late-started
        late = late_start(make_sampler("prior", trained, OWN), family_of(trained).start_for(3.0, n), n)
        runs += [(late, start_sample(late, DATA, columns())), (late, 2 * start_sample(late, None, columns()))]
    for scheduler, x in runs:
        noise, levels = family_of(scheduler).noise, scheduler.levels
        exact, net = x / noise.alpha_at(levels[0]), network(scheduler)
        for t, (s, lower) in zip(scheduler.timesteps, itertools.pairwise(levels)):
            x = scheduler.step(net(scheduler.scale_model_input(x, t), t), t, x).prev_sample
            exact = OWN.flow(exact, s, lower) if lower else OWN(exact, s)
            expected = exact * noise.alpha_at(lower)
            torch.testing.assert_close(x, expected, rtol=1e-6, atol=1e-6 * max(1.0, float(expected.abs().max())))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("order", [1, 2])
def test_a_prior_without_variance_is_ddim_and_dpm_solver_with_heun(order, spacing):
    theirs = make_sampler("dpm++", BETA, spacing=spacing, solver_order=order, solver_type="heun")
    mine = make_sampler("prior", BETA, POINT, spacing, solver_order=order)
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(6)
    assert mine.timesteps.tolist() == theirs.timesteps.tolist()
    torch.testing.assert_close(mine.sigmas, theirs.sigmas, rtol=1e-5, atol=0)
    theirs.sigmas = torch.tensor(mine.levels, dtype=F64)  # else its steps are computed in single precision
    net, x = Network(DATA, theirs), columns()
    y = x.clone()
    for t in mine.timesteps:
        x = theirs.step(net(x, t), t, x).prev_sample
        y = mine.step(net(y, t), t, y).prev_sample
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_prior_without_variance_is_ddim_with_the_same_noise(eta):
    theirs = make_sampler("ddim", BETA, spacing="trailing", clip_sample=False)
    mine = make_sampler("prior", BETA, POINT, "trailing", solver_order=1, eta=eta)
    for scheduler in (theirs, mine):
        scheduler.set_timesteps(5)
    net, x = Network(DATA, theirs), columns()
    y, generators = x.clone(), [torch.Generator().manual_seed(4) for _ in range(2)]
    for t in mine.timesteps[:-1]:
        x = theirs.step(net(x, t), t, x, eta=eta, generator=generators[0]).prev_sample
        y = mine.step(net(y, t), t, y, generator=generators[1]).prev_sample
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-6)


def test_a_share_of_noise_for_each_step():
    """Equal shares are one number; the prior's own data keeps its distribution whatever the shares."""
    gaussian = ls.Gaussian(torch.zeros(1, 4, 4), Diagonal((1, 4, 4)), torch.ones(16))
    model = as_model(gaussian, BETA)

    def sampled(eta, steps=3):
        solver = make_sampler("prior", BETA, gaussian, eta=eta)
        return draw(model, solver, gaussian, n=4, steps=steps, t_start=600, seed=1).samples

    assert torch.equal(sampled(0.4), sampled([0.4, 0.4, 0.4])) and torch.equal(sampled(0.0), sampled((0, 0, 0.9)))
    assert not torch.allclose(sampled([1.0, 0.0, 0.0]), sampled([0.0, 1.0, 0.0]), atol=1e-2)
    wide = draw(
        model, make_sampler("prior", BETA, gaussian, eta=[1.0, 0.5, 0.0, 0.0]), gaussian, n=4000, steps=4, t_start=600
    ).samples
    last = family_of(BETA).noise.sigma(149.0)  # whose evaluation alone loses variance
    assert float(wide.var()) == pytest.approx(1 / (1 + last**2), rel=0.02)
    for solver in (make_sampler("prior", BETA, gaussian, eta=[1.0, 0.5]),):
        assert copy.deepcopy(solver).config["eta"] == [1.0, 0.5]
        assert PriorMultistepScheduler.from_config(solver.config, gaussian).config["eta"] == [1.0, 0.5]
        with pytest.raises(ValueError, match=r"eta has the shares of 2 steps, \[1.0, 0.5\], and the run has 3"):
            late_start(solver, 600, 3)
    with pytest.raises(ValueError, match="expected a share of noise from 0 to 1, or one for each step"):
        make_sampler("prior", BETA, gaussian, eta=[0.5, 1.2])


def test_the_variance_by_direction_is_right_at_the_last_evaluation():
    """Within 3% of l + sigma^2, from full noise in 3 evaluations; DPM-Solver++ has a half where the data is wide."""
    prior = ls.Gaussian(DATA.mean, Dense((8,), DATA.basis), 20 * DATA.variances)
    data = GaussianData()
    data.variances = 20 * data.variances
    shares = {}
    for name in ("prior", "dpm++"):
        solver = make_sampler(name, BETA, prior if name == "prior" else None, "trailing")
        solver.set_timesteps(3)
        net, x = Network(data, solver), columns()
        for t in solver.timesteps[:-1]:
            x = solver.step(net(x, t), t, x).prev_sample
        noise = family_of(solver).noise
        y = x / noise.alpha(float(solver.timesteps[-1]))
        variance = ((y[1:] - y[0]) @ DATA.basis).square().sum(0)
        shares[name] = variance / (data.variances + noise.sigma(float(solver.timesteps[-1])) ** 2)
    torch.testing.assert_close(shares["prior"], torch.ones(8, dtype=F64), rtol=0.03, atol=0)
    assert float(shares["dpm++"].min()) < 0.7


def test_energy_distance_on_an_exact_mixture():
    """24 clusters in 32 dimensions, 3 evaluations from full noise: what is left above two samples of the data."""
    g = torch.Generator().manual_seed(7)
    means = 1.5 * torch.randn(24, 32, generator=g, dtype=F64) * torch.linspace(1.6, 0.2, 32, dtype=F64)
    parts = [ls.Gaussian(m, Diagonal((32,)), torch.full((32,), 0.05, dtype=F64)) for m in means]
    data = ls.Mixture(parts)
    real, again = (data.sample(1000, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    floor, left = energy(real, again), {}
    x = torch.randn(1000, 32, generator=torch.Generator().manual_seed(3), dtype=F64)
    for name in ("prior", "dpm++"):
        solver = make_sampler(name, BETA, data if name == "prior" else None, "trailing")
        solver.set_timesteps(3)
        net, y = ls.as_model(data, solver), x
        for t in solver.timesteps:
            y = solver.step(net(y, t).sample, t, y).prev_sample
        left[name] = energy(y, real) - floor
    assert left["prior"] < left["dpm++"] / 3


def energy(x, y):
    return float(2 * torch.cdist(x, y).mean() - torch.cdist(x, x).mean() - torch.cdist(y, y).mean())


def test_a_run_that_is_kept_in_the_middle_goes_on():
    solver = late_start(make_sampler("prior", BETA, OWN), 600, 4)
    net, x = Network(DATA, solver), start_sample(solver, DATA, columns())
    times = solver.timesteps
    for t in times[:2]:
        x = solver.step(net(x, t), t, x).prev_sample
    others = [copy.deepcopy(solver), pickle.loads(pickle.dumps(solver))]
    ends = []
    for scheduler in (solver, *others):
        y = x
        for t in times[2:]:
            y = scheduler.step(net(y, t), t, y).prev_sample
        ends.append(y)
    assert torch.equal(ends[0], ends[1]) and torch.equal(ends[0], ends[2])
    again = start_sample(solver, DATA, columns())
    assert torch.equal(run(solver, net, again), run(copy.deepcopy(solver), net, again))


def test_half_precision_follows_single_precision():
    ends = []
    for dtype in (F64, torch.float32, torch.float16, torch.bfloat16):
        solver = late_start(make_sampler("prior", BETA, OWN.to(dtype=torch.float32)), 600, 4)
        net, x = Network(DATA, solver), start_sample(solver, DATA, columns()).to(dtype)
        ends.append(run(solver, net, x))
        assert ends[-1].dtype == dtype
    for end, slack in zip(ends[1:], (1e-4, 2e-2, 0.15)):
        torch.testing.assert_close(end.double(), ends[0], rtol=slack, atol=slack)


def test_saved_beside_its_prior_and_loaded(tmp_path):
    solver = make_sampler("prior", BETA, OWN, "trailing", solver_order=1, eta=0.3, clip_sample=True)
    for one in (solver, late_start(solver, 500, 5)):  # a late-started one is saved whole
        one.save_pretrained(tmp_path / "solver")
        assert sorted(p.name for p in (tmp_path / "solver").iterdir()) == [PRIOR_FILE, "scheduler_config.json"]
        known = json.loads((tmp_path / "solver" / "scheduler_config.json").read_text())
        assert known["_class_name"] == "PriorMultistepScheduler" and known["num_train_timesteps"] == 1000
        again = PriorMultistepScheduler.from_pretrained(tmp_path / "solver")
        assert {k: v for k, v in again.config.items() if k[0] != "_"} == {
            k: v for k, v in solver.config.items() if k[0] != "_"
        }
        assert torch.equal(again.prior.variances, OWN.variances)
    (tmp_path / "solver" / PRIOR_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=r"expected the prior of this scheduler at .*prior\.safetensors"):
        PriorMultistepScheduler.from_pretrained(tmp_path / "solver")
    assert PriorMultistepScheduler.from_pretrained(tmp_path / "solver", prior=OWN).config["eta"] == 0.3


def test_made_from_the_configuration_of_any_scheduler():
    for trained in (one for family in FAMILIES for one in TRAINED[family]):
        solver = PriorMultistepScheduler.from_config(trained.config, prior=OWN, solver_order=1)
        assert solver.config["solver_order"] == 1
        assert family_of(solver).noise.sigma_range == pytest.approx(family_of(trained).noise.sigma_range)
        again = PriorMultistepScheduler.from_config(solver.config, prior=OWN)
        assert again.config["solver_order"] == 1 and type(again.grid) is type(solver.grid)
    with pytest.raises(ValueError, match="needs a prior: give from_config"):
        PriorMultistepScheduler.from_config(BETA.config)


OTHERS = [  # the class that spreads the levels has other settings, or other names of schedules
    diffusers.DEISMultistepScheduler(),
    diffusers.SASolverScheduler(),
    diffusers.EulerDiscreteScheduler(use_karras_sigmas=True),
    diffusers.CogVideoXDDIMScheduler(),
    diffusers.CogVideoXDPMScheduler(),
    diffusers.DDPMScheduler(beta_schedule="sigmoid"),
    diffusers.DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
]


@pytest.mark.parametrize("trained", OTHERS, ids=lambda one: type(one).__name__)
def test_the_levels_are_those_that_the_model_was_trained_with(trained):
    noise = family_of(trained).noise
    for solver in (PriorMultistepScheduler(trained, OWN), make_sampler("prior", trained, OWN, "trailing")):
        again = PriorMultistepScheduler.from_config(solver.config, prior=OWN)
        for one in (solver, again, late_start(solver, 600, 3)):
            for t in (5.0, 333.0, 599.0):
                assert family_of(one).noise.sigma(t) == pytest.approx(noise.sigma(t), rel=1e-4)


def test_a_pipeline_is_saved_and_loaded_with_it(tmp_path):
    shape = (3, 8, 8)
    prior = ls.Gaussian.fit(torch.rand(60, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1, "diagonal")
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=8,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2,
    )  # fmt: skip
    solver = make_sampler("prior", BETA, prior, "trailing")

    def drawn(pipe):
        pipe.set_progress_bar_config(disable=True)
        return pipe(
            batch_size=2, num_inference_steps=3, output_type="np", generator=torch.Generator().manual_seed(0)
        ).images

    pipe = diffusers.DDPMPipeline(unet, solver)
    pipe.save_pretrained(tmp_path)
    known = json.loads((tmp_path / "model_index.json").read_text())
    assert known["scheduler"] == ["latestart.sampling.prior_solver", "PriorMultistepScheduler"]
    assert (drawn(diffusers.DDPMPipeline.from_pretrained(tmp_path)) == drawn(pipe)).all()
    _, trained = ls.load_model(tmp_path)  # the network, and a scheduler of its process
    assert isinstance(trained, diffusers.DPMSolverMultistepScheduler)
    assert family_of(trained).noise.sigma(500.0) == family_of(BETA).noise.sigma(500.0)


def test_weights_that_a_run_in_inference_mode_kept_can_be_differentiated_through():
    solver, found = make_sampler("prior", BETA, OWN, "trailing"), []
    for grad in (False, True):
        with torch.inference_mode(not grad):
            start = columns().requires_grad_(grad)
            solver.set_timesteps(3)
            net, x = Network(DATA, solver), start
            for t in solver.timesteps:
                x = solver.step(net(x, t), t, x).prev_sample
            found.append(x)
    torch.testing.assert_close(found[1].detach(), found[0])
    found[1].sum().backward()
    assert start.grad.isfinite().all() and start.grad.abs().sum() > 0


def test_own_times_and_levels():
    solver = make_sampler("prior", BETA, OWN)
    solver.set_timesteps(timesteps=[700, 300, 40])
    assert solver.timesteps.tolist() == [700, 300, 40] and not solver.timesteps.is_floating_point()
    noise = family_of(BETA).noise
    assert solver.levels == pytest.approx([*(noise.sigma(t) for t in (700.0, 300.0, 40.0)), 0.0])
    solver.set_timesteps(sigmas=[10.0, 2.0, 0.5, 0.0])
    assert solver.levels == [10.0, 2.0, 0.5, 0.0] and len(solver.timesteps) == 3
    assert noise.sigma(float(solver.timesteps[1])) == pytest.approx(2.0, rel=1e-5)
    flow = make_sampler("prior", TRAINED[FlowMatching][0], OWN)
    flow.set_timesteps(2, sigmas=[1.0, 0.5])
    assert flow.levels == pytest.approx([1e9, 3.0, 0.0])  # no signal; 0.5 is shifted to 0.75


def test_noise_is_added_by_the_process():
    for trained in (one for family in FAMILIES for one in TRAINED[family]):
        solver, noise = make_sampler("prior", trained, OWN), family_of(trained).noise
        solver.set_timesteps(4)
        x, eps, t = torch.randn(2, 8), torch.randn(2, 8), solver.timesteps[[1, 2]]
        expected = torch.stack(
            [noise.alpha(float(one)) * a + noise.std(float(one)) * e for one, a, e in zip(t, x, eps)]
        )
        torch.testing.assert_close(solver.add_noise(x, eps, t), expected, rtol=1e-5, atol=1e-5)


def test_clipping_bounds_the_predicted_image():
    solver = make_sampler("prior", BETA, OWN, "trailing", clip_sample=True, clip_sample_range=0.5)
    solver.set_timesteps(3)
    net, x = Network(DATA, solver), 3 * columns()
    for t in solver.timesteps:
        x, clean = solver.step(net(x, t), t, x, return_dict=False)
        assert float(clean.abs().max()) <= 0.5
    assert torch.equal(x, clean)


def test_generate_samples_with_it():
    """Data that is the prior's own is sampled exactly, late or from full noise, in two evaluations and in batches."""
    prior, z = OWN.to(dtype=torch.float32), torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    model = ls.as_model(prior, BETA)
    solver = make_sampler("prior", BETA, prior)
    late = ls.generate(model, solver, prior, steps=2, t_start=500, noise=z, batch_size=4)
    assert late.nfe == 2
    s = late.sigma
    begun = prior.noised(s).push(z)
    middle = prior.flow(begun, s, family_of(BETA).noise.sigma(late.timesteps[1]))
    exact = prior(middle, family_of(BETA).noise.sigma(late.timesteps[1]))
    torch.testing.assert_close(late.samples, exact, rtol=1e-3, atol=1e-3)
    assert torch.equal(late.samples, ls.generate(model, solver, prior, steps=2, t_start=500, noise=z).samples)
    solver = make_sampler("prior", BETA, prior, "trailing")
    full, noise = ls.generate(model, solver, steps=3, noise=z), family_of(BETA).noise
    begin, last = noise.sigma(999.0), noise.sigma(full.timesteps[-1])
    exact = prior(prior.flow(z / noise.alpha(999.0), begin, last), last)
    assert full.nfe == 3
    torch.testing.assert_close(full.samples, exact, rtol=1e-3, atol=1e-3)


def test_generate_refuses_a_prior_inside_that_is_not_the_model_s():
    prior = OWN.to(dtype=torch.float32)
    model = ls.as_model(prior, BETA)
    for wrong in (
        ls.Gaussian(prior.mean + 100, prior.basis, prior.variances),  # of another range
        ls.Gaussian(prior.mean, prior.basis, prior.variances * 100),
    ):
        solver = make_sampler("prior", BETA, wrong)
        for start in ({}, {"prior": prior, "t_start": 500}):
            with pytest.raises(ValueError, match=r"mean|spread"):
                ls.generate(model, solver, **start, n=2, steps=2)
        assert ls.generate(model, solver, n=2, steps=2, check_prior=False).nfe == 2
    with pytest.raises(ValueError, match=r"shape"):
        ls.generate(model, make_sampler("prior", BETA, ls.Gaussian.fit(torch.randn(20, 3, 2))), n=2, steps=2)


def test_classes_reach_the_solver():
    """A class-conditional network from full noise, with the Gaussian of each sample's class inside."""
    g = torch.Generator().manual_seed(3)
    parts = [ls.Gaussian(torch.randn(8, generator=g) * 2, Diagonal((8,)), torch.rand(8, generator=g)) for _ in range(3)]
    data = ls.Mixture(parts, labels=[0, 1, 2])

    def function(x, t, class_labels):
        noise, t = family_of(BETA).noise, float(t[0])
        alpha = noise.alpha(t)
        return (x - alpha * data(x / alpha, noise.sigma(t), class_labels)) / noise.std(t)

    model = ls.as_network(function, shape=(8,))
    labels, z = torch.tensor([2, 0, 1, 1, 0]), torch.randn(5, 8, generator=g)
    found = ls.generate(model, make_sampler("prior", BETA, data), steps=2, noise=z, labels=labels, batch_size=3)
    for row, label in enumerate(labels.tolist()):
        alone = make_sampler("prior", BETA, parts[label])
        one = ls.generate(model, alone, steps=2, noise=z[row : row + 1], labels=torch.tensor([label]))
        torch.testing.assert_close(found.samples[row], one.samples[0], rtol=1e-4, atol=1e-4)


def test_bad_input_names_what_was_received():
    solver = make_sampler("prior", BETA, OWN)
    with pytest.raises(ValueError, match="the prior solver needs a prior"):
        make_sampler("prior", BETA)
    with pytest.raises(ValueError, match="the sampler 'ddim' has no prior inside"):
        make_sampler("ddim", BETA, OWN)
    with pytest.raises(TypeError, match="received the class Gaussian"):
        make_sampler("prior", BETA, ls.Gaussian)
    with pytest.raises(ValueError, match="LCMScheduler cannot lend its levels to the prior solver"):
        make_sampler("prior", diffusers.LCMScheduler(), OWN)
    with pytest.raises(ValueError, match="PriorMultistepScheduler has no setting colour"):
        make_sampler("prior", BETA, OWN, colour="red")
    for settings, said in (
        ({"solver_order": 3}, "solver_order=3"),
        ({"eta": 1.5}, "eta=1.5"),
        ({"substeps": 0}, "substeps=0"),
        ({"clip_sample_range": 0}, "clip_sample_range=0"),
    ):
        with pytest.raises(ValueError, match=said):
            make_sampler("prior", BETA, OWN, **settings)
    for times in ([100, 300], [500, 500, 20]):
        with pytest.raises(ValueError, match="levels that fall"):
            solver.set_timesteps(timesteps=times)
    for levels in ([1.0, 2.0], [2.0, 0.0, 0.0], [2.0, 2.0]):
        with pytest.raises(ValueError, match=r"levels that fall|lies outside of"):
            solver.set_timesteps(sigmas=levels)
    with pytest.raises(ValueError, match="2000 lies outside of"):
        solver.set_timesteps(timesteps=[2000, 10])
    for steps in (0, -1, 2.5, 1001):
        with pytest.raises(ValueError, match=f"num_inference_steps={steps}: expected a whole number from 1 to 1000"):
            solver.set_timesteps(steps)
    with pytest.raises(ValueError, match=r"mu=0\.3: levels of the kind vp have no shift"):
        solver.set_timesteps(3, mu=0.3)
    with pytest.raises(ValueError, match="expected a list of times or levels, received 5"):
        solver.set_timesteps(timesteps=5)
    with pytest.raises(ValueError, match="over DPMSolverMultistepScheduler has no setting colour"):
        PriorMultistepScheduler.from_config(BETA.config, prior=OWN, colour="red")
    with pytest.raises(ValueError, match="received none of them"):
        solver.set_timesteps()
    with pytest.raises(ValueError, match="call set_timesteps first"):
        make_sampler("prior", BETA, OWN).step(columns(), 3, columns())
    solver.set_timesteps(timesteps=[700, 300])
    with pytest.raises(ValueError, match=r"7 is none of this scheduler's times \[700, 300\]"):
        solver.step(columns(), 7, columns())
    with pytest.raises(ValueError, match=r"shape \(8,\), received \(2, 2, 3\)"):
        solver.step(torch.zeros(2, 2, 3), 700, torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match=r"NaN or infinite at the level sigma = 12\.02, step 1 of 2"):
        solver.step(columns() * torch.nan, 700, columns())
    with pytest.raises(ValueError, match=r"the output has the shape \(9, 1\), the sample \(9, 8\)"):
        solver.step(columns()[:, :1], 700, columns())
    x = solver.step(columns(), 700, columns()).prev_sample
    with pytest.raises(ValueError, match="this run has 9 samples, received 1"):
        solver.step(columns()[:1], 300, x[:1])
    solver.step(columns(), 300, x)
    with pytest.raises(ValueError, match="all 2 steps of this run are done"):
        solver.step(columns(), 300, x)


def test_a_level_that_the_network_is_told_of_is_the_level_of_the_step():
    late = late_start(make_sampler("prior", BETA, OWN), 600, 3)
    assert late.levels[0] == pytest.approx(start_level(late), rel=1e-12)


def test_classes_survive_late_starts_and_their_copies():
    parts = [ls.Gaussian(DATA.mean + k, Dense((8,), DATA.basis), DATA.variances) for k in range(3)]
    labelled = ls.Mixture(parts, labels=[0, 1, 2])
    labels = torch.tensor([2, 0, 1, 1, 0])
    late = late_start(make_sampler("prior", BETA, labelled, labels=labels), 600, 3)
    again = late_start(late, 500, 2)
    for one in (late, again, copy.deepcopy(late)):
        assert torch.equal(one.labels, labels)
    model, z = ls.as_model(parts[2], BETA), torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    ends = [
        ls.generate(
            model, make_sampler("prior", BETA, labelled, labels=own), steps=2, noise=z, batch_size=2, check_prior=False
        ).samples
        for own in (2, torch.tensor([2, 2, 2, 2, 2]), None)
    ]
    torch.testing.assert_close(ends[0], ends[1])
    assert float((ends[0] - ends[2]).abs().max()) > 0.1


def test_a_late_start_of_a_late_start_keeps_the_spacing():
    made = late_start(make_sampler("prior", BETA, OWN, "karras+1"), 600, 4)
    assert late_start(made, 600, 4).timesteps.tolist() == made.timesteps.tolist()


def test_settings_that_it_would_ignore_are_refused_and_not_kept():
    for name in ("algorithm_type", "solver_type", "lower_order_final", "thresholding", "euler_at_final"):
        with pytest.raises(ValueError, match=f"has no setting {name}"):
            make_sampler("prior", BETA, OWN, **{name: True})
        assert name not in make_sampler("prior", BETA, OWN).config


def test_another_prior_or_setting_takes_effect():
    solver = make_sampler("prior", BETA, OWN, "trailing")
    solver.set_timesteps(3)
    net, x = Network(DATA, solver), columns()

    def first(scheduler):
        scheduler.set_timesteps(3)
        return scheduler.step(net(x, 999), 999, x).prev_sample

    before = first(solver)
    solver.prior = POINT
    assert not torch.equal(first(solver), before)
    torch.testing.assert_close(first(solver), first(make_sampler("prior", BETA, POINT, "trailing")))


def test_schedules_that_end_at_their_lowest_level():
    for trained in (
        diffusers.DPMSolverMultistepScheduler(final_sigmas_type="sigma_min"),
        diffusers.EDMEulerScheduler(final_sigmas_type="sigma_min"),
    ):
        solver = make_sampler("prior", trained, OWN)
        solver.set_timesteps(4)
        assert len(solver.levels) == 5 and solver.levels[-1] < solver.levels[-2]
    late_start(make_sampler("prior", diffusers.DPMSolverMultistepScheduler(final_sigmas_type="sigma_min"), OWN), 600, 4)


def test_where_no_signal_is_left_the_prediction_must_say_the_image():
    silent = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    solver = make_sampler("prior", diffusers.DDIMScheduler(prediction_type="v_prediction", **silent), OWN)
    solver.set_timesteps(3)
    assert solver.levels[0] == 1e9
    with pytest.raises(ValueError, match="a network that predicts the noise says nothing of the image"):
        make_sampler("prior", diffusers.DDIMScheduler(**silent), OWN).set_timesteps(3)


def test_samplers_are_made_from_a_prior_solver():
    solver = make_sampler("prior", BETA, OWN, "trailing")
    assert make_sampler("own", solver).prior is OWN
    assert type(make_sampler("ddim", solver)) is diffusers.DDIMScheduler
    with pytest.raises(ValueError, match="there is no spacing 'trailng'"):
        make_sampler("ddim", BETA, "trailng")
    with pytest.raises(ValueError, match="expected one spacing, received 'trailing' and 'leading'"):
        make_sampler("ddim", BETA, "trailing", "leading")
