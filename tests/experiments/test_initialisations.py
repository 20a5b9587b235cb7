"""`experiment initialisations`: the upper limit on an exact mixture, and how best starts are chosen and reported."""

import json

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
from latestart.experiments.initialisations import measure as experiment
from latestart.experiments.initialisations import starts
from latestart.experiments.initialisations.measure import Point
from latestart.experiments.initialisations.page import draw, page, starts_table
from latestart.experiments.initialisations.settings import InitialisationSettings as Settings
from latestart.gaussians.basis import Isotropic
from latestart.gaussians.noised import NoisedImages
from latestart.gaussians.reshaped import Box, Reshaped
from latestart.lab.cells import Outcome
from latestart.lab.grid import Cell
from latestart.lab.judge import Figures, Floor, Judge, Reference, over
from latestart.lab.report import markdown_table
from latestart.lab.subjects import Subject
from tiny import recording_lab

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
        statistics=feature_statistics(data.unit(), squares),
        real=squares(data[:400].unit()),
        copying=(data, *others),
        shape=SHAPE,
        fingerprint="data",
    )
    return Subject(
        network=as_model(TRUTH, SCHEDULER),
        scheduler=SCHEDULER,
        weights="weights",
        priors={},
        judge=Judge(squares, reference),
    )


def compare(subject, data, out, lab=None, **settings):
    """The experiment on a model that is open; no prior lies beside it unless `model` names a folder with one."""
    settings = Settings(**{"model": str(out), **settings})
    return experiment.compare(settings, subject, data, lab or recording_lab(out))


KINDS = ("isotropic", "uniform", "gaussian", "mixture", "images")


@pytest.fixture(scope="module")
def result(subject, tmp_path_factory):
    """Beside the model lies the mixture that the data is of."""
    folder = tmp_path_factory.mktemp("model")
    TRUTH.save(folder / "mixture.safetensors")
    grid = {"distributions": KINDS, "starts": (LOW, HIGH), "nfe": (8,), "samples": 400}
    return compare(subject, pictures(2000, 0), tmp_path_factory.mktemp("out"), model=str(folder), **grid)


def at(result, kind, t_start):
    points = result.curves[kind, 8]
    return next(point.figures for point in points if point.cell.t_start == t_start)


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
    grid = {"distributions": ("gaussian", "labels", "mixture:2", "mixture:4"), "starts": (LOW,), "samples": 400}
    result = compare(subject, Images(data.pixels, classes), tmp_path, **grid, nfe=(8,))
    rows = {row.point.cell.prior: row.figures for row in result.rows}
    ratio = over(rows["labels"], rows["mixture:4"])
    assert ratio.low <= 1 <= ratio.high
    assert over(rows["mixture:2"], rows["labels"]).low > 2
    assert over(rows["gaussian"], rows["mixture:2"]).low > 1
    assert "mixture of 2 Gaussians" in markdown_table(starts_table(result))
    draw(tmp_path / "picture.png", result)
    again = compare(subject, data, tmp_path / "unlabelled", model=str(tmp_path), **grid, nfe=(4,))
    assert "no labels" in again.failed["labels"] and "labels" not in {row.point.cell.prior for row in again.rows}


@pytest.mark.parametrize("kind", ["mixture:0", "mixture:", "mixture:many", "mixture:-3", "box"])
def test_a_start_that_there_is_not_is_named(kind):
    with pytest.raises(ValueError, match=f"no start distribution '{kind}'; there are isotropic.*mixture:100"):
        Settings(distributions=(kind,))


def test_starting_from_training_images_copies_them_and_the_mixture_does_not(result):
    assert at(result, "images", LOW).copied.low > 0.1
    assert at(result, "mixture", LOW).copied.low < 0.02


def test_the_floor_is_the_judges_and_one_in_a_hundred_unseen_images_seems_a_copy(result, subject, tmp_path):
    """The share of copies among 1,000 images, by a quantile over 2,000, is 0.01 with an error of 0.004."""
    floor = subject.judge.floor(400)
    assert floor == Floor(result.unseen, result.floor.frechet)
    copied = result.floor.copied
    assert 0 < copied.value < 0.025 and copied.low <= 0.01 <= copied.high
    report = page(result, tmp_path)
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
    rows = [row for row in result.rows if row.point.cell.prior == "images"]
    assert all(row.figures.copied.low <= 0.02 for row in result.rows if row.point.cell.prior != "images")
    assert not any(row.clean for row in result.rows if row.point.cell.prior != "images")
    low, high = at(result, "images", LOW), at(result, "images", HIGH)
    best = [(LOW, False), (HIGH, True)] if low.frechet.value < high.frechet.value else [(HIGH, False)]
    assert [(row.point.cell.t_start, row.clean) for row in rows] == best


def test_what_is_reported_has_the_noise_of_another_seed(result, subject):
    for row in result.rows:
        curve, chosen = result.curves[row.point.cell.prior, row.point.cell.nfe], row.point.figures.frechet
        assert row.point in curve
        assert row.clean or chosen.value == min(p.figures.frechet.value for p in curve)
        assert row.figures.frechet.value != chosen.value
    sampler = ls_sampler()
    best = next(row for row in result.rows if row.point.cell.prior == "gaussian")
    prior = ls.Gaussian.fit(pictures(2000, 0))
    again = ls.generate(subject.network, sampler, prior, 400, 8, best.point.cell.t_start, seed=1)
    assert subject.judge(again.samples).frechet.value == pytest.approx(best.figures.frechet.value, rel=1e-4)


def ls_sampler():
    from latestart.sampling.samplers import make_sampler

    return make_sampler("ddim", SCHEDULER, timestep_spacing="trailing", clip_sample=False)


def test_ratios_are_to_the_gaussian_at_its_own_best_start(result):
    own = {row.point.cell.prior: row for row in result.rows if not row.clean}
    gaussian = own["gaussian"]
    assert (gaussian.relative.low, gaussian.relative.value, gaussian.relative.high) == (1, 1, 1)
    for row in own.values():
        expected = row.figures.frechet.value / gaussian.figures.frechet.value
        assert row.relative.value == pytest.approx(expected)
        assert row.relative.low <= row.relative.high


def test_n_0_i_may_start_at_the_top_of_the_schedule(result):
    assert [p.cell.t_start for p in result.curves["isotropic", 8]] == [LOW, HIGH, 1000]
    assert {tuple(p.cell.t_start for p in result.curves[kind, 8]) for kind in KINDS[1:]} == {(LOW, HIGH)}


def _point(t_start, value, copied, kind="images"):
    estimate = Estimate(value, value, value)
    share = Estimate(copied, copied, copied)
    figures = Figures(
        frechet=estimate,
        precision=share,
        recall=share,
        coverage=share,
        copied=share,
        replicates=torch.full((5,), value),
        recall_replicates=torch.zeros(5),
    )
    return Point(
        Cell(
            model="exact",
            sampler="ddim",
            nfe=3,
            prior=kind,
            t_start=t_start,
            spacing="trailing",
            clip=False,
            samples=5,
            seed=0,
        ),
        1.0,
        figures,
    )


def _picked(curve, again=()):
    """The starts that are picked from a curve, given those that copy as they are drawn again."""
    copy = _point(0, 1, 0.9).figures
    picks = experiment.picks({("images", 3): curve}, lambda point: copy if point.cell.t_start in again else None)
    return [(point.cell.t_start, clean) for point, clean in picks]


def _edges(curve):
    picks = experiment.picks({("images", 3): curve}, lambda point: None)
    return [experiment.row_of(point, clean, curve, point.figures).edge for point, clean in picks]


def test_the_best_start_and_the_best_that_does_not_copy():
    curve = [_point(200, 1, 0.9), _point(300, 2, 0.021), _point(400, 3, 0.02), _point(500, 4, 0)]
    assert _picked(curve) == [(200, False), (400, True)]
    assert _picked(curve, again=(400,)) == [(200, False), (500, True)]
    assert _edges(curve) == ["low", ""]
    assert _picked([_point(200, 1, 0.9), _point(300, 2, 0.5)]) == [(200, False)]
    assert _edges([_point(200, 3, 0), _point(300, 1, 0), _point(400, 2, 0)]) == [""]


def test_a_start_that_turns_out_to_copy_as_it_is_drawn_again_has_another_beside_it(subject, tmp_path, monkeypatch):
    """The best start copies with the second seed alone: so does the next one, and the third does not."""
    place, drawn = {300.0: 1, 500.0: 2, 700.0: 3, 1000.0: 4}, []

    def measured(settings, subject, cells, *_):
        drawn.append([(cell.t_start, cell.seed) for cell in cells])
        points = {c: _point(c.t_start, place[c.t_start], 0.5 * (c.seed == 1 and c.t_start < 600)) for c in cells}
        return {cell: Outcome("done", "", figures=point.figures, sigma=1.0) for cell, point in points.items()}

    monkeypatch.setattr(experiment, "_measured", measured)
    grid = {"distributions": ("isotropic",), "starts": (300, 500, 700), "nfe": (3,), "samples": 10}
    result = compare(subject, pictures(20, 0), tmp_path, **grid)
    assert drawn[1:] == [[(300, 1)], [(500, 1)], [(700, 1)]]
    assert [(row.point.cell.t_start, row.clean) for row in result.rows] == [(300, False), (700, True)]


def _starts(subject, data, out, **settings):
    """The start distributions of a model that no prior lies beside."""
    return starts.Starts(
        settings=Settings(model=str(out), **settings), subject=subject, data=data, lab=recording_lab(out),
        progress=lambda *_: None,
    )  # fmt: skip


def test_start_distributions_are_where_the_network_is(subject, tmp_path, monkeypatch):
    monkeypatch.setattr(starts, "own_device", lambda: "there")
    for kind in (ls.Gaussian, ls.Mixture, Reshaped):
        monkeypatch.setattr(kind, "to", lambda prior, device: (type(prior), device))
    kinds = ("isotropic", "uniform", "gaussian", "mixture")
    priors, failed = _starts(subject, pictures(100, 0), tmp_path, distributions=kinds, components=2).priors()
    assert not failed and priors["isotropic"] == (None, "")
    moved = [priors[kind][0] for kind in ("uniform", "gaussian", "mixture")]
    assert moved == [(Reshaped, "there"), (ls.Gaussian, "there"), (ls.Mixture, "there")]


QUICK = {"starts": (450,), "samples": 30, "rank": 4, "flow_directions": 2, "flow_steps": 3}


def test_a_run_that_was_cut_off_goes_on_and_fits_nothing_twice(subject, tmp_path, monkeypatch):
    grid = {"distributions": ("lowrank", "flow"), "nfe": (2,), **QUICK}
    data = pictures(60, 0)
    first = compare(subject, data, tmp_path, **grid)
    monkeypatch.setattr(starts, "fit_flow", None)
    monkeypatch.setattr(starts.Gaussian, "fit", None)
    lab = recording_lab(tmp_path)
    second = compare(subject, data, tmp_path, lab, **grid)
    assert first.record() == second.record()
    assert not [done for done, total in lab.spent if done < total]
    assert len(second.gains) == 1 and "a flow on 2 eigenvectors" in second.fitted["flow"]


def test_a_fit_whose_file_is_damaged_is_made_again(subject, tmp_path):
    grid = {"distributions": ("diagonal",), "nfe": (2,), **QUICK}
    first = compare(subject, pictures(60, 0), tmp_path, **grid)
    (path,) = (tmp_path / "starts").iterdir()
    content = path.read_bytes()
    path.write_bytes(content[:100])
    lab = recording_lab(tmp_path)
    assert compare(subject, pictures(60, 0), tmp_path, lab, **grid).record() == first.record()
    assert path.read_bytes() == content and "is made again" in lab.told[0]


def test_the_noised_images_are_those_that_copies_are_looked_for_in(subject, tmp_path):
    prior = _starts(subject, pictures(2000, 0), tmp_path).get("images").prior
    assert isinstance(prior, NoisedImages)
    assert torch.equal(prior.images.pixels, subject.judge.reference.copying[0].pixels)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"distributions": ("gauss",)}, "no start distribution 'gauss'; there are isotropic, uniform"),
        ({"nfe": ()}, "nfe: expected at least one value"),
    ],
)
def test_bad_settings_are_named(bad, message):
    with pytest.raises(ValueError, match=message):
        Settings(**bad)


def test_starts_that_cannot_be_run_are_named(subject, tmp_path):
    message = r"could be measured, the first being gaussian at 8 evaluations, t = 2, seed 0: .*leaves no time"
    with pytest.raises(ValueError, match=message):
        compare(subject, pictures(60, 0), tmp_path, distributions=("gaussian",), starts=(2,), nfe=(8,), samples=20)


def test_a_kind_that_fails_has_its_reason_and_the_others_are_as_without_it(subject, tmp_path, monkeypatch):
    """A fit that raises, and a start that is not finite: both are reported, neither ends the rest."""
    kinds, data = ("flow", "uniform", "gaussian", "images"), pictures(60, 0)

    def diverging(*_):
        raise FloatingPointError("the flow's loss is nan at step 2; try a lower learning rate")

    class Broken(Box):
        def __call__(self, u, sigma):
            return u * torch.nan

    def infinite(self):
        return starts.Made(Reshaped(made(self).prior.gaussian, Broken()), "broken", "a broken box")

    made = starts.Starts._uniform
    monkeypatch.setattr(starts, "fit_flow", diverging)
    monkeypatch.setattr(starts.Starts, "_uniform", infinite)
    lab, beside = recording_lab(tmp_path / "some"), {"model": str(tmp_path), "nfe": (2, 3), **QUICK}
    found = compare(subject, data, lab.out, lab, distributions=kinds, **beside)
    reasons = list(found.failed.items())
    assert reasons[0] == ("flow", "FloatingPointError: the flow's loss is nan at step 2; try a lower learning rate")
    named = [f"uniform at {nfe} evaluations, t = 450, seed 0" for nfe in (2, 3)]
    assert [what for what, _ in reasons[1:]] == named and all("NaN" in why for _, why in reasons[1:])
    assert "failed: flow: FloatingPointError: the flow's loss is nan at step 2; try a lower learning rate" in lab.told
    rest = compare(subject, data, tmp_path / "rest", distributions=kinds[2:], **beside)
    assert [row.record() for row in found.rows] == [row.record() for row in rest.rows]
    assert not rest.failed and found.record()["failed"] == found.failed
    lines = page(found, tmp_path).sentences
    assert [line for line in lines if line.startswith("failed: ")] == [f"failed: {k}: {why}" for k, why in reasons]
    assert (tmp_path / "initialisations.png").stat().st_size > 30_000


def test_where_no_kind_can_be_made_the_reason_is_named(subject, tmp_path, monkeypatch):
    def diverging(*_):
        raise FloatingPointError("the flow's loss is nan")

    monkeypatch.setattr(starts, "fit_flow", diverging)
    with pytest.raises(ValueError, match="could be made, the first being flow: FloatingPointError: the flow's loss"):
        compare(subject, pictures(60, 0), tmp_path, distributions=("flow",), nfe=(2,), **QUICK)


def test_a_class_conditional_model_is_refused(subject, tmp_path):
    network = as_model(TRUTH, SCHEDULER)
    network.config.num_class_embeds = 10
    conditional = Subject(network=network, scheduler=SCHEDULER, weights="weights", priors={}, judge=subject.judge)
    with pytest.raises(ValueError, match="class-conditional"):
        compare(conditional, pictures(60, 0), tmp_path)


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
        (("mnist", "--starts", "a"), "starts: expected numbers"),
        (("nowhere",), "nowhere"),
        (("mnist", "--images", "nowhere.parquet"), "nowhere.parquet"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    told = _run(*args)
    assert told.exit_code == 2 and message in told.output and "Traceback" not in told.output
    assert not list(tmp_path.iterdir())
