"""The progress bar."""

from rich.progress import Progress

from latestart.progress import bar


def test_a_bar_counts_to_its_end(capsys):
    with bar("working") as advance:
        for done in range(1, 4):
            advance(done, 3, f"loss {done}")
    shown = capsys.readouterr().out
    assert "working" in shown and "3/3" in shown and "loss 3" in shown


def test_a_bar_that_is_not_shown_prints_nothing(capsys):
    with bar("working", shown=False) as advance:
        advance(1, 2)
        advance(2, 2, "note")
    assert capsys.readouterr().out == ""


def test_a_bar_runs_within_one_of_the_callers(capsys):
    with Progress() as outer, bar("inner") as advance:
        task = outer.add_task("outer", total=2)
        outer.update(task, completed=1)
        advance(1, 3)
    shown = capsys.readouterr().out
    assert "inner" in shown and "1/3" in shown and "outer" in shown and outer.tasks[0].completed == 1
