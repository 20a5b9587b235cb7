"""`experiment initialisations`: the upper limit on an exact mixture, and how best starts are chosen and reported."""

import json
from dataclasses import replace

import pytest
import torch
from diffusers import DDPMScheduler
from typer.testing import CliRunner

import latestart as ls
from latestart import zoo
from latestart.cli.experiment import experiment as commands
from latestart.data import Images, to_pixels
from latestart.denoisers.networks import as_model
from latestart.evaluation.quality import Estimate, feature_statistics
from latestart.experiments import initialisations as experiment
from latestart.experiments.initialisations import Point, Setting
from latestart.experiments.starts import FlowConfig, NoisedImages, Reshaped
from latestart.gaussians.basis import Isotropic
from latestart.lab.cells import Outcome
from latestart.lab.judge import Figures, Floor, Judge, Reference, over
from latestart.lab.report import markdown_table
from latestart.lab.subjects import Subject
from latestart.report.initialisations import starts_picture, starts_report, starts_table

SHAPE, LOW, HIGH = (1, 4, 4), 16, 448
SCHEDULER = DDPMScheduler(clip_sample=False)


def squares(images):
    """The features: all values and their squares, which tell two clusters from one Gaussian of their moments."""
    x = 2 * images.flatten(1) - 1
    return torch.cat([x, 3 * x.square()], 1)


squares.name = "squares"


def exact():
    """Four clusters, of quarters bright and dark, within [-1, 1]."""
    patterns = torch.tensor([[1, 1, -1, -1], [-1, 1, 1, -1], [-1, -1, 1, 1], [1, -1, -1, 1]], dtype=torch.float32)
    means = 0.5 * patterns.view(4, 1, 2, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    width = torch.tensor([0.02], dtype=torch.float64)
    return ls.Mixture([ls.Gaussian(mean, Isotropic(SHAPE), width) for mean in means])


TRUTH = exact()


def pictures(n, seed):
    return Images(to_pixels(TRUTH.sample(n, torch.Generator().manual_seed(seed)) / 2 + 0.5))


@pytest.fixture(scope="module")
def subject():
    data, *others = (pictures(n, seed) for n, seed in ((2000, 0), (2000, 1), (2000, 2)))
    reference = Reference(
        feature_statistics(data.unit(), squares), squares(data[:400].unit()), (data, *others), SHAPE, "data"
    )
    return Subject(as_model(TRUTH, SCHEDULER), SCHEDULER, "weights", {}, Judge(squares, reference))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the mixture that the data is of lies beside the model."""
    folder = tmp_path_factory.mktemp("model")
    TRUTH.save(folder / "mixture.safetensors")
    return folder


KINDS = ("isotropic", "uniform", "gaussian", "mixture", "images")


@pytest.fixture(scope="module")
def result(subject, folder, tmp_path_factory):
    setting = Setting(KINDS, (LOW, HIGH), (8,), samples=400)
    return experiment.compare("exact", subject, pictures(2000, 0), tmp_path_factory.mktemp("out"), setting, folder)


def at(result, kind, t_start):
    points = result.curves[kind, 8]
    return next(point.figures for point in points if point.t_start == t_start)


def test_the_datas_own_noised_distribution_reaches_the_upper_limit(result):
    """From exact starts of an exact model both are as good as each other, and low enough as unseen images."""
    for t_start in (LOW, HIGH):
        mixture, images = (at(result, kind, t_start) for kind in ("mixture", "images"))
        ratio = over(mixture, images)
        assert ratio.low < 1 < ratio.high
    assert at(result, "mixture", LOW).frechet.value < 1.5 * result.floor.frechet.value
    gaussian = at(result, "gaussian", LOW)
    assert gaussian.frechet.value > 5 * at(result, "mixture", LOW).frechet.value
    assert at(result, "isotropic", LOW).frechet.value > gaussian.frechet.value


def test_a_gaussian_for_each_class_is_the_mixture_and_too_few_components_are_worse(subject, tmp_path):
    """Where the classes are the clusters, labels find the exact mixture; two Gaussians cannot stand for four."""
    data = pictures(2000, 0)
    classes = TRUTH.responsibilities(2 * data.unit() - 1, 0.05).argmax(1)
    setting = Setting(("gaussian", "labels", "mixture:2", "mixture:4"), (LOW,), (8,), samples=400)
    result = experiment.compare("exact", subject, Images(data.pixels, classes), tmp_path, setting)
    rows = {row.kind: row.figures for row in result.rows}
    ratio = over(rows["labels"], rows["mixture:4"])
    assert ratio.low <= 1 <= ratio.high
    assert over(rows["mixture:2"], rows["labels"]).low > 2
    assert over(rows["gaussian"], rows["mixture:2"]).low > 1
    assert "mixture of 2 Gaussians" in markdown_table(starts_table(result))
    starts_picture(tmp_path / "picture.png", result)
    again = experiment.compare("exact", subject, data, tmp_path / "unlabelled", replace(setting, nfe=(4,)))
    assert "no labels" in again.failed["labels"] and "labels" not in {row.kind for row in again.rows}


@pytest.mark.parametrize("kind", ["mixture:0", "mixture:", "mixture:many", "mixture:-3", "box"])
def test_a_start_that_there_is_not_is_named(kind):
    with pytest.raises(ValueError, match=f"no start distribution '{kind}'; there are isotropic.*mixture:100"):
        Setting((kind,))


def test_starting_from_training_images_copies_them_and_the_mixture_does_not(result):
    assert at(result, "images", LOW).copied.low > 0.1
    assert at(result, "mixture", LOW).copied.low < 0.02


def test_the_floor_is_the_judges_and_one_in_a_hundred_unseen_images_seems_a_copy(result, subject):
    """Its share of copies is of 1,000 images, and the quantile that it is told by of 2,000: 0.01 give or take 0.004."""
    floor = subject.judge.floor(400)
    assert floor == Floor(result.unseen, result.floor.frechet)
    copied = result.floor.copied
    assert 0 < copied.value < 0.025 and copied.low <= 0.01 <= copied.high
    report = starts_report(result)
    assert f"400 images that the model has not seen score {floor.frechet.value:.3g}" in report.sentences[0]
    last = markdown_table(starts_table(result)).splitlines()[-3]
    assert "400 unseen images" in last and f"{copied.value:.3f} [{copied.low:.3f}, {copied.high:.3f}]" in last


def test_unseen_images_that_are_copies_are_found_to_be_so():
    """Had every second held-out image been a training image, all of these would be copies; had the others, none."""
    train, held_out, second = (pictures(200, seed) for seed in range(3))
    for place, expected in ((1, 1), (0, 0)):
        pixels = held_out.pixels.clone()
        pixels[place::2] = train.pixels[:100]
        assert experiment.unseen_copies(train, Images(pixels), second).value == expected


def test_a_best_start_that_copies_has_one_beside_it_that_does_not(result):
    rows = [row for row in result.rows if row.kind == "images"]
    assert all(row.figures.copied.low <= 0.02 for row in result.rows if row.kind != "images")
    assert not any(row.clean for row in result.rows if row.kind != "images")
    low, high = at(result, "images", LOW), at(result, "images", HIGH)
    best = [(LOW, False), (HIGH, True)] if low.frechet.value < high.frechet.value else [(HIGH, False)]
    assert [(row.t_start, row.clean) for row in rows] == best


def test_what_is_reported_has_the_noise_of_another_seed(result, subject):
    for row in result.rows:
        curve = result.curves[row.kind, row.nfe]
        point = next(p for p in curve if p.t_start == row.t_start)
        assert row.chosen == point.figures.frechet
        assert row.clean or row.chosen.value == min(p.figures.frechet.value for p in curve)
        assert row.figures.frechet.value != row.chosen.value
    sampler = ls_sampler()
    best = next(row for row in result.rows if row.kind == "gaussian")
    prior = ls.Gaussian.fit(pictures(2000, 0))
    again = ls.generate(subject.network, sampler, prior, 400, 8, best.t_start, seed=1)
    assert subject.judge(again.images).frechet.value == pytest.approx(best.figures.frechet.value, rel=1e-4)


def ls_sampler():
    from latestart.sampling.samplers import make_sampler

    return make_sampler("ddim", SCHEDULER, timestep_spacing="trailing", clip_sample=False)


def test_ratios_are_to_the_gaussian_at_its_own_best_start(result):
    own = {row.kind: row for row in result.rows if not row.clean}
    gaussian = own["gaussian"]
    assert (gaussian.relative.low, gaussian.relative.value, gaussian.relative.high) == (1, 1, 1)
    for row in own.values():
        expected = row.figures.frechet.value / gaussian.figures.frechet.value
        assert row.relative.value == pytest.approx(expected)
        assert row.relative.low <= row.relative.high


def test_n_0_i_may_start_at_the_top_of_the_schedule(result):
    assert [p.t_start for p in result.curves["isotropic", 8]] == [LOW, HIGH, 1000]
    assert {tuple(p.t_start for p in result.curves[kind, 8]) for kind in KINDS[1:]} == {(LOW, HIGH)}


def _point(t_start, value, copied):
    estimate = Estimate(value, value, value)
    share = Estimate(copied, copied, copied)
    figures = Figures(estimate, share, share, share, share, torch.full((5,), value), torch.zeros(5))
    return Point(t_start, 1.0, figures)


def test_the_best_start_and_the_best_that_does_not_copy():
    curves = {("images", 3): [_point(200, 1, 0.9), _point(300, 2, 0.021), _point(400, 3, 0.02), _point(500, 4, 0)]}
    picks = [(point.t_start, clean) for _, _, point, clean in experiment._picks(curves, {})]
    assert picks == [(200, False), (400, True)]
    again = {("images", 3, 400): curves["images", 3][0].figures}  # copies as it is drawn again
    picks = [(point.t_start, clean) for _, _, point, clean in experiment._picks(curves, again)]
    assert picks == [(200, False), (500, True)]
    assert [row.edge for row in _rows(curves)] == ["low", ""]
    curves = {("mixture", 3): [_point(200, 1, 0.9), _point(300, 2, 0.5)]}
    assert [point.t_start for _, _, point, _ in experiment._picks(curves, {})] == [200]
    curves = {("mixture", 3): [_point(200, 3, 0), _point(300, 1, 0), _point(400, 2, 0)]}
    assert [row.edge for row in _rows(curves)] == [""]


def test_what_turns_out_to_copy_as_it_is_drawn_again_has_another_beside_it(subject, tmp_path, monkeypatch):
    """The best start copies with the second seed alone: so does the next one, and the third does not."""
    setting = Setting(("isotropic",), (300, 500, 700), (3,), 10)
    place, drawn = {300.0: 1, 500.0: 2, 700.0: 3, 1000.0: 4}, []

    def measured(cells, *_):
        drawn.append([(cell.t_start, cell.seed) for cell in cells])
        points = {c: _point(c.t_start, place[c.t_start], 0.5 * (c.seed == 1 and c.t_start < 600)) for c in cells}
        return {cell: Outcome("done", "", point.figures, 1.0) for cell, point in points.items()}

    monkeypatch.setattr(experiment, "_measured", measured)
    result = experiment.compare("exact", subject, pictures(20, 0), tmp_path, setting)
    assert drawn[1:] == [[(300, 1)], [(500, 1)], [(700, 1)]]
    assert [(row.t_start, row.clean) for row in result.rows] == [(300, False), (700, True)]


def test_start_distributions_are_where_the_network_is(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "own_device", lambda: "there")
    for kind in (ls.Gaussian, ls.Mixture, Reshaped):
        monkeypatch.setattr(kind, "to", lambda prior, device: (type(prior), device))
    data = pictures(100, 0)
    setting = Setting(("isotropic", "uniform", "gaussian", "mixture"), components=2)
    known = experiment._Starts(subject, data, tmp_path, setting, None, lambda _: None, None)
    priors, failed = experiment._made(known, setting.kinds, lambda _: None)
    assert not failed and priors["isotropic"] == (None, "")
    moved = [priors[kind][0] for kind in ("uniform", "gaussian", "mixture")]
    assert moved == [(Reshaped, "there"), (ls.Gaussian, "there"), (ls.Mixture, "there")]


def _rows(curves):
    again = _point(0, 1, 0).figures
    return [experiment._row(pick, curves[pick[:2]], again) for pick in experiment._picks(curves, {})]


def test_a_run_that_was_cut_off_goes_on_and_fits_nothing_twice(subject, tmp_path, monkeypatch):
    setting = Setting(("lowrank", "flow"), (450,), (2,), 30, rank=4, flow=FlowConfig(2, 1, 8, steps=3))
    data = pictures(60, 0)
    first = experiment.compare("exact", subject, data, tmp_path, setting)
    monkeypatch.setattr(experiment, "fit_flow", None)
    monkeypatch.setattr(experiment.Gaussian, "fit", None)
    told = []
    second = experiment.compare("exact", subject, data, tmp_path, setting, progress=lambda *args: told.append(args))
    assert experiment.results(first) == experiment.results(second)
    assert not [args for args in told if args[0] < args[1]]
    assert len(second.gains) == 1 and "a flow on 2 eigenvectors" in second.fitted["flow"]


def test_the_noised_images_are_those_that_copies_are_looked_for_in(subject, tmp_path):
    known = experiment._Starts(subject, pictures(2000, 0), tmp_path, Setting(), None, print, None)
    prior, _ = known.made("images")
    assert isinstance(prior, NoisedImages)
    assert torch.equal(prior.images.pixels, subject.judge.reference.copying[0].pixels)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"kinds": ("gauss",)}, "no start distribution 'gauss'; there are isotropic, uniform"),
        ({"nfe": ()}, "at least one kind, one start and one number"),
    ],
)
def test_bad_settings_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        Setting(**bad)


def test_starts_that_cannot_be_run_are_told(subject, tmp_path):
    setting = Setting(("gaussian",), (2,), (8,), samples=20)
    message = r"could be measured, the first being gaussian at 8 evaluations, t = 2, seed 0: .*leaves no time"
    with pytest.raises(ValueError, match=message):
        experiment.compare("exact", subject, pictures(60, 0), tmp_path, setting)


def test_a_kind_that_fails_is_told_with_its_reason_and_the_others_are_as_without_it(subject, tmp_path, monkeypatch):
    """A fit that raises, and a start that is not finite: both are told, neither ends the rest."""
    kinds = ("flow", "uniform", "gaussian", "images")
    setting = Setting(kinds, (450,), (2, 3), 30, rank=4, flow=FlowConfig(2, 1, 8, steps=3))
    data = pictures(60, 0)

    def diverging(*_):
        raise FloatingPointError("the flow's loss is nan at step 2; try a lower learning rate")

    def infinite(self):
        prior, _ = made(self)
        return Reshaped(prior.gaussian, lambda u, sigma: u * torch.nan), "broken"

    made = experiment._Starts._uniform
    monkeypatch.setattr(experiment, "fit_flow", diverging)
    monkeypatch.setattr(experiment._Starts, "_uniform", infinite)
    told = []
    found = experiment.compare("exact", subject, data, tmp_path / "some", setting, tell=told.append)
    reasons = list(found.failed.items())
    assert reasons[0] == ("flow", "FloatingPointError: the flow's loss is nan at step 2; try a lower learning rate")
    named = [f"uniform at {nfe} evaluations, t = 450, seed 0" for nfe in (2, 3)]
    assert [what for what, _ in reasons[1:]] == named and all("NaN" in why for _, why in reasons[1:])
    assert "failed: flow: FloatingPointError: the flow's loss is nan at step 2; try a lower learning rate" in told
    rest = experiment.compare("exact", subject, data, tmp_path / "rest", Setting(kinds[2:], (450,), (2, 3), 30))
    assert [row.record() for row in found.rows] == [row.record() for row in rest.rows]
    assert not rest.failed and experiment.results(found)["failed"] == found.failed
    said = starts_report(found).sentences
    assert [line for line in said if line.startswith("failed: ")] == [f"failed: {k}: {why}" for k, why in reasons]
    starts_picture(tmp_path / "starts.png", found)
    assert (tmp_path / "starts.png").stat().st_size > 30_000


def test_where_no_kind_can_be_made_the_reason_is_told(subject, tmp_path, monkeypatch):
    def diverging(*_):
        raise FloatingPointError("the flow's loss is nan")

    monkeypatch.setattr(experiment, "fit_flow", diverging)
    setting = Setting(("flow",), (450,), (2,), 30, flow=FlowConfig(2, 1, 8, steps=3))
    with pytest.raises(ValueError, match="could be made, the first being flow: FloatingPointError: the flow's loss"):
        experiment.compare("exact", subject, pictures(60, 0), tmp_path, setting)


def test_a_class_conditional_model_is_refused(subject, tmp_path):
    network = as_model(TRUTH, SCHEDULER)
    network.config.num_class_embeds = 10
    conditional = Subject(network, SCHEDULER, "weights", {}, subject.judge)
    with pytest.raises(ValueError, match="class-conditional"):
        experiment.compare("faces", conditional, pictures(60, 0), tmp_path, Setting())


def _run(*args):
    return CliRunner().invoke(commands, ["initialisations", *map(str, args)], env={"COLUMNS": "200"})


def test_the_command_writes_a_table_a_picture_and_all_figures(tmp_path):
    small = ("--starts", 500, "--nfe", 2, "--samples", 130, "--kinds", "isotropic,gaussian,images")
    told = _run("mnist", "--out", tmp_path, *small)
    assert told.exit_code == 0, told.output
    assert "starts chosen with seed 0" in told.output and "noised training images" in told.output
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["samples"], written["seed_chosen_by"], written["seed_reported"]) == (130, 0, 1)
    assert written["features"] == zoo.load("mnist").features.name
    rows = {row["kind"]: row for row in written["rows"] if not row["clean"]}
    assert rows["images"]["frechet"]["value"] < rows["gaussian"]["frechet"]["value"]
    assert rows["gaussian"]["frechet"]["value"] < rows["isotropic"]["frechet"]["value"]
    assert rows["gaussian"]["sigma"] == pytest.approx(3.424, abs=0.001)
    assert len(written["grid"]) == 4
    assert (tmp_path / "initialisations.png").stat().st_size > 30_000
    assert written["floor"]["images"] == 130 and written["floor"]["copied"]["value"] > 0 and not written["failed"]
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "130 images that the model has not seen score" in report and "130 unseen images" in report
    assert "samples: 130; seed: 0 for the choice of starts, 1 for the figures; " in report
    assert "| 2 | noised training images | " in report.replace("**", "")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("mnist", "--kinds", "gauss"), "no start distribution 'gauss'"),
        (("mnist", "--starts", "a"), "starts must be whole numbers"),
        (("nowhere",), "nowhere"),
        (("mnist", "--images", "nowhere.parquet"), "nowhere.parquet"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    told = _run(*args)
    assert told.exit_code == 2 and message in told.output and "Traceback" not in told.output
    assert not list(tmp_path.iterdir())
