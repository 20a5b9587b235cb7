"""The report of a command: its Markdown says what its tables say, and names no place of the machine."""

import shlex
import sys
from pathlib import Path

import pytest
import torch
from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.lab.report import NAME, Report, command_given, machine_kind, markdown_table, named, place


def _table(**settings):
    table = Table(**settings)
    table.add_column("start")
    table.add_column("NFE\nspent", justify="right")
    return table


def test_columns_keep_their_side_and_cells_their_lines():
    table = _table(title="[bold]Two[/]\nlines", caption="of 10")
    table.add_row("N(0, I)\nat 500", "3")
    assert markdown_table(table).split("\n") == [
        "**Two**<br>**lines**",
        "",
        "| start | NFE<br>spent |",
        "| --- | ---: |",
        "| N(0, I)<br>at 500 | 3 |",
        "",
        "of 10",
    ]


def test_marks_of_markdown_are_escaped_and_those_of_rich_are_read():
    table = _table()
    table.add_row(r"a|b* <c> \[1, 2]", "[bold]1.5[/] [dim]2[/]")
    assert markdown_table(table).split("\n")[-1] == r"| a\|b\* \<c> [1, 2] | **1.5** 2 |"


def test_a_bold_row_is_bold_in_every_cell_and_line():
    table = _table()
    table.add_row("one\ntwo", "[bold]1[/] [green]2[/]", style="bold")
    table.add_row("", "3", style="dim")
    assert markdown_table(table).split("\n")[-2:] == ["| **one**<br>**two** | **1 2** |", "|  | 3 |"]


def test_an_empty_row_parts_sections_and_none_ends_the_table():
    table = _table()
    for name in ("a", "b"):
        table.add_row(name, "1")
        table.add_section()
    assert markdown_table(table).split("\n")[2:] == ["| a | 1 |", "|  |  |", "| b | 1 |"]


def test_a_place_is_told_from_the_current_folder_or_by_its_last_two_parts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place(str(tmp_path / "out" / "deep" / "x.npz")) == "out/deep/x.npz"
    assert place("/home/someone/data/x.npz") == "data/x.npz"
    assert [place(name) for name in ("/x.npz", "mnist", "../data/x.npz", "out/x")] == [
        "x.npz",
        "mnist",
        "../data/x.npz",
        "out/x",
    ]


def test_the_command_is_as_typed_but_for_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [
        "latestart",
        "sweep",
        "--prior",
        "none,/home/me/my priors/a b.safetensors",
        f"--out={tmp_path}/out",
        "-n",
        "5",
    ]
    monkeypatch.setattr(sys, "argv", given)
    assert shlex.split(command_given()) == [
        "latestart",
        "sweep",
        "--prior",
        "none,my priors/a b.safetensors",
        "--out=out",
        "-n",
        "5",
    ]
    assert command_given() == "latestart sweep --prior 'none,my priors/a b.safetensors' --out=out -n 5"


def test_the_machine_is_told_by_its_kind(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    version = torch.__version__.split("+")[0]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some GPU")
    assert machine_kind() == f"Some GPU, torch {version}"
    assert machine_kind(accelerated=False) == f"x86-64 processor, 1 core, torch {version}"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine_kind() == machine_kind(accelerated=False)


def _report(**changes):
    table = _table()
    table.add_row("/home/me/data/prior.safetensors at 500", "3")
    facts = {"samples": 10, "seed": 0, "features": None}
    settings = {"command": "latestart sweep", "machine": "a machine", **changes}
    return Report("A title", facts, [table], ["1/2 of /home/me/x/y.npz: a*b / c"], pictures=["figure.png"], **settings)


def test_the_report_is_whole_and_names_no_place():
    assert _report().markdown().split("\n\n") == [
        "# A title",
        "```sh\nlatestart sweep\n```",
        "samples: 10; seed: 0; machine: a machine",
        "| start | NFE<br>spent |\n| --- | ---: |\n| data/prior.safetensors at 500 | 3 |",
        r"- 1/2 of x/y.npz: a\*b / c",
        "![figure](figure.png)\n",
    ]


@pytest.mark.parametrize(
    "harmless", ["https://a.org/b/c", "../data/x/y", "~/data/x", "late / all", "3/5/10", "a</b/c>"]
)
def test_what_is_no_absolute_path_stays(harmless):
    assert harmless.replace("<", r"\<") in Report("A title", {}, sentences=[harmless]).markdown()


def test_it_prints_what_it_writes_and_says_where(tmp_path, capsys):
    _report().publish(tmp_path / "out", "results.json")
    told = capsys.readouterr().out
    assert "NFE" in told and "1/2 of /home/me/x/y.npz: a*b / c\n" in told
    names = (NAME, "figure.png", "results.json")
    assert told.endswith(f"wrote {', '.join(str(tmp_path / 'out' / name) for name in names)}\n")
    assert Path(tmp_path, "out", NAME).read_text(encoding="utf-8") == _report().markdown()
    assert [path.name for path in (tmp_path / "out").iterdir()] == [NAME]


def test_an_estimate_has_three_digits_and_is_whole_from_100_on():
    assert named(Estimate(12.345, 0.98765, 234.5)) == "12.3 [0.988, 234]"
    assert named(Estimate(0.25, 0.0, float("inf")), ".2f") == "0.25 [0.00, ∞]"
