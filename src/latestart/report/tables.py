"""Tables of results for the terminal. Everything is printed as it was handed over."""

from rich.table import Table

from latestart.lab.report import table
from latestart.sampling.choose import Choice

__all__ = ["choice_table"]


def choice_table(choice: Choice) -> Table:
    """The starts that a choice looked at, highest noise first, with what is known of each."""
    made = table(f"Starts, chosen by {choice.method}", "t_start", "sigma", "nats", "energy distance", "samples")
    for c in choice.evidence:
        known = [f"{x:.3g}" if x is not None else "-" for x in (c.nats, c.distance)]
        style = "bold" if c.t_start == choice.t_start else None
        made.add_row(f"{c.t_start:g}", f"{c.sigma:.3f}", *known, str(c.samples or "-"), style=style)
    return made
