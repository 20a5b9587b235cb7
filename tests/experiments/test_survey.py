"""What the report of a sweep says beside its table: the floor of each model's distances, or that there is none."""

import typer
from typer.testing import CliRunner

from latestart.cli.sweep import sweep
from latestart.evaluation.quality import Estimate
from latestart.experiments.survey.measure import Survey
from latestart.experiments.survey.page import floor_sentences, page
from latestart.lab.grid import Grid
from latestart.lab.judge import Floor
from tiny import tiny_folder

app = typer.Typer()
app.command()(sweep)


def test_the_floor_is_told_once_where_models_have_it_in_common_and_by_model_where_not():
    one, other = Floor(500, Estimate(1.25, 1, 1.5)), Floor(500, Estimate(2.5, 2, 3))
    common = list(floor_sentences({"a": one, "b": one}, 500))
    assert common == ["500 images that the model has not seen score 1.25 [1, 1.5]: the floor"]
    apart = list(floor_sentences({"models/a": one, "b": other, "c": None}, 500))
    assert [line.split(": ")[0] for line in apart] == ["a", "b", "c"]
    assert apart[0].endswith(common[0]) and "2.5 [2, 3]" in apart[1] and "no floor" in apart[2]


def test_fewer_unseen_images_than_samples_are_told_to_score_too_high(tmp_path):
    (line,) = page(Survey(Grid(samples=2000), [], {"mnist": Floor(500, Estimate(1, 1, 1))}), tmp_path).sentences
    assert line.startswith("500 images") and "since there are 2,000 samples" in line


def test_without_held_out_images_a_sweep_says_that_there_is_neither_floor_nor_share_of_copies(tmp_path):
    folder = tiny_folder(tmp_path)
    own = ("--model", folder / "model", "--features", folder / "classifier.safetensors", "--images")
    grid = ("--sampler", "ddim", "--nfe", 1, "--prior", "none", "--spacing", "trailing", "--clip", "false")
    args = [*own, folder / "train.npz", *grid, "--samples", 10, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for text in (result.output, report):
        assert "there is no floor beside the distances and no share of copies" in text
    assert report.splitlines()[-1].startswith("- without images that the model has not seen")
    row = next(line for line in report.splitlines() if "full noise" in line)
    *_, copied, second, _ = (cell.strip(" *") for cell in row.strip("| ").split(" | "))
    assert (copied, second) == ("-", "-")
