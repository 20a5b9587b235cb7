"""`tools/results.py`: the page holds every report and its pictures, and a folder without one is refused."""

import json
from functools import partial

import numpy as np
import pytest
from PIL import Image

from latestart.lab.report import NAME, Report


@pytest.fixture
def run(tool):
    return partial(tool, "results.py")


@pytest.fixture
def folders(tmp_path):
    """Two experiments, the second with a picture of its name and another one."""
    made = [tmp_path / "sphere", tmp_path / "diversity"]
    pixels = np.full((300, 2000, 3), 200, dtype=np.uint8)
    for folder, pictures in zip(made, ((), ("diversity.png", "samples.png"))):
        facts = {"samples": 10, "seed": 0}
        Report(f"About {folder.name}", facts, pictures=pictures, command=f"latestart {folder.name}").publish(folder)
        for name in pictures:
            Image.fromarray(pixels).save(folder / name)
    return made


def test_reports_become_sections_and_pictures_lie_beside_the_page(run, folders, tmp_path):
    out = tmp_path / "docs" / "results.md"
    run(*folders, "--out", out)
    text = out.read_text(encoding="utf-8")
    headings = [line for line in text.split("\n") if line.startswith("#")]
    assert headings == ["# Results", "## About sphere", "## About diversity"]
    assert "- [About sphere](#sphere)\n- [About diversity](#diversity)\n" in text and '<a id="diversity"></a>' in text
    assert text.count("samples: 10; seed: 0; machine: ") == 2 and "```sh\nlatestart diversity\n```" in text
    assert text.endswith("![diversity](results/diversity.png)\n\n![samples](results/diversity-samples.png)\n")
    pictures = sorted((out.parent / "results").iterdir())
    assert [path.name for path in pictures] == ["diversity-samples.png", "diversity.png"]
    with Image.open(pictures[1]) as picture:
        assert picture.size == (1600, 240)
    assert str(tmp_path) not in text


def test_the_gains_of_every_table_stand_first(run, folders, tmp_path):
    estimate = {"value": 2.346, "low": 2.0, "high": 3.0}
    late = {"recall": estimate | {"value": 0.8}, "copied": estimate | {"value": 0.004}}
    known = {"part": "exact", "sampler": "ddim", "published": {"ratio": 3.576}, "paper_ratios": {"gaussian": estimate}}
    known |= {"best": {"gaussian": {**late, "copied": None}, "mixture": late}, "clean_ratios": {"mixture": estimate}}
    rows = [known | {"number": number, "ratios": {"mixture": {**estimate, "value": number}}} for number in (10, 3)]
    (folders[0] / "results.json").write_text(json.dumps({"rows": rows}))
    (folders[1] / "results.json").write_text(json.dumps({"rows": [{"way": "ddim"}]}))  # no table of the paper
    run(*folders, "--out", tmp_path / "results.md")
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    lines = [line.split(" | ") for line in text.split("\n") if line.startswith("| [sphere](#sphere)")]
    assert [line[1:3] for line in lines] == [["3", "3.58"], ["10", "3.58"]]
    gaussian = "2.35 [2.00, 3.00]<br>recall 0.80"
    mixture = "3.00 [2.00, 3.00]<br>recall 0.80, copied 0.004<br>without copies: 2.35 [2.00, 3.00]"
    assert lines[0][3:] == ["-", gaussian, "-", mixture, "-", "- |"]
    assert text.index("The gains of a late start") < text.index("## About sphere")
    assert "[diversity](#diversity) |" not in text


def test_what_the_page_has_of_other_folders_can_be_kept(run, folders, tmp_path):
    estimate = {"value": 2.0, "low": 1.0, "high": 3.0}
    row = {"part": "exact", "sampler": "ddim", "published": None, "paper_ratios": {}, "number": 3}
    row |= {"ratios": {"mixture": estimate}, "best": {"mixture": {"recall": None, "copied": None}}}
    (folders[0] / "results.json").write_text(json.dumps({"rows": [row]}))
    together, alone = tmp_path / "together.md", tmp_path / "alone.md"
    run(*folders, "--out", together)
    run(folders[0], "--out", alone)
    run(folders[1], "--keep", "--out", alone)
    text = together.read_text(encoding="utf-8")
    assert alone.read_text(encoding="utf-8").replace("(alone/", "(together/") == text
    assert text.count("| [sphere](#sphere) | 3 |") == 1
    (folders[0] / "results.json").write_text(json.dumps({"rows": [row | {"number": 5}]}))
    Report("About another sphere", {"samples": 20}, command="latestart sphere").publish(folders[0])
    run(folders[0], "--keep", "--out", together)
    later = together.read_text(encoding="utf-8")
    assert later.index("## About another sphere") < later.index("## About diversity") and "About sphere" not in later
    assert "| [sphere](#sphere) | 5 |" in later and "| [sphere](#sphere) | 3 |" not in later
    Report("Between them", {"samples": 5}, command="latestart between").publish(tmp_path / "between")
    run(folders[0], tmp_path / "between", "--keep", "--out", together)
    titles = [line for line in together.read_text(encoding="utf-8").split("\n") if line.startswith("- [")]
    assert [line[3 : line.index("]")] for line in titles] == ["About another sphere", "Between them", "About diversity"]


def test_short_thin_lines_keep_their_colours(run, folders, tmp_path):
    colours = np.array([(33, 102, 172), (178, 24, 43), (27, 120, 55), (128, 115, 172)], dtype=np.uint8)
    across, down = np.meshgrid(np.linspace(200, 255, 400), np.linspace(200, 255, 200))
    pixels = np.stack([across, down, across], -1).astype(np.uint8)  # many pale colours
    pixels[20:180:40, 100:110] = colours[:, None]
    Image.fromarray(pixels).save(folders[1] / "samples.png")
    run(*folders, "--out", tmp_path / "docs" / "results.md")
    with Image.open(tmp_path / "docs" / "results" / "diversity-samples.png") as picture:
        told = np.asarray(picture.convert("RGB"), dtype=int)
    assert abs(told[20:180:40, 100:110] - colours[:, None]).max() <= 8


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("none", f"expected a folder with a {NAME}"),
        ("foreign", "is no report of latestart"),
        ("twice", "more than one called sphere"),
        ("picture", "samples.png"),
        ("keep", "which is not there"),
    ],
)
def test_mistakes_are_told_and_leave_no_page(run, folders, tmp_path, capsys, case, message):
    if case == "foreign":
        (folders[0] / NAME).write_text("Something else\n")
    if case == "picture":
        (folders[1] / "samples.png").unlink()
    wrong = {"none": [tmp_path / "empty"], "twice": [tmp_path / "." / "sphere"], "keep": ["--keep"]}.get(case, [])
    with pytest.raises(SystemExit) as stopped:
        run(*folders, *wrong, "--out", tmp_path / "docs" / "results.md")
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "docs" / "results.md").exists()
