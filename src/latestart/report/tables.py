"""Tables of results for the terminal. Everything is printed as it was handed over."""

from itertools import product

from rich.box import SIMPLE
from rich.table import Table

from latestart.evaluation.quality import Estimate
from latestart.experiments.demo import Comparison, Measured, best_of


def demo_table(measured: list[Measured], comparisons: list[Comparison]) -> Table:
    """The demo's table: a column for each sampler and number of evaluations, a row for each way to start."""
    samples = "Frechet distance to the training set (lower is better)"
    table = Table(
        title=f"Full noise and late start at equal network evaluations\n{samples}", title_justify="left", box=SIMPLE
    )
    table.add_column("start", no_wrap=True)
    for c in comparisons:
        table.add_column(f"{c.sampler.upper()}\nNFE {c.nfe}", justify="right", no_wrap=True)
    groups = [[m for m in measured if (m.cell.sampler, m.cell.nfe) == (c.sampler, c.nfe)] for c in comparisons]
    for spacing, clip in product(("leading", "trailing"), (False, True)):
        wanted = [
            next(m for m in g if (m.cell.prior, m.cell.spacing, m.cell.clip) == ("none", spacing, clip)) for g in groups
        ]
        table.add_row(f"full noise, {spacing}{', clipped' if clip else ''}", *(_plain(m) for m in wanted))
    for prior, title in (("isotropic", "N(0, I)"), ("gaussian", "Gaussian"), ("mixture", "mixture")):
        table.add_section()
        for t_start in sorted({m.cell.t_start for m in measured if m.cell.prior == prior and m.cell.t_start}):
            table.add_row(f"{title} at t = {t_start} *", *(_plain(best_of(g, prior, t_start)) for g in groups))
    table.add_section()
    table.add_row("[bold]best full noise", *(_spread(c.baseline.figures.frechet) for c in comparisons))
    table.add_row("[bold]best N(0, I) late", *(_spread(c.isotropic.figures.frechet) for c in comparisons))
    table.add_row("[bold]best Gaussian late", *(_spread(c.gaussian.figures.frechet) for c in comparisons))
    table.add_row("[bold]best mixture late", *(_spread(c.mixture.figures.frechet) for c in comparisons))
    table.add_section()
    for name, kind in (("best full noise", "baseline"), ("Gaussian", "gaussian"), ("mixture", "mixture")):
        table.add_row(f"recall, {name}", *(_share(getattr(c, kind).figures.recall) for c in comparisons))
    for name, kind in (("Gaussian", "gaussian"), ("mixture", "mixture")):
        table.add_row(f"copied, {name}", *(_share(getattr(c, kind).figures.copied) for c in comparisons))
    table.add_section()
    table.add_row("[bold]mixture: gain on full noise", *(_times(c.mixture_gain) for c in comparisons))
    table.add_row("mixture: gain on Gaussian", *(_times(c.mixture_gain_gaussian) for c in comparisons))
    table.add_row("[bold]gain on best full noise", *(_times(c.gain) for c in comparisons))
    table.add_row("gain on trailing, unclipped", *(_times(c.gain_trailing) for c in comparisons))
    table.add_row("gain on best N(0, I) late", *(_times(c.gain_isotropic) for c in comparisons))
    table.caption = (
        "* the better of clipped and unclipped. The best of each kind was drawn again with the next seed, below which"
        " stand 95% bootstrap intervals, paired for ratios"
    )
    return table


def _plain(measured: Measured) -> str:
    return _number(measured.figures.frechet.value)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _spread(estimate: Estimate) -> str:
    return f"[bold]{_number(estimate.value)}[/]\n{_number(estimate.low)}–{_number(estimate.high)}"


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.3f}\n{estimate.low:.3f}–{estimate.high:.3f}"


def _times(estimate: Estimate) -> str:
    return f"[bold]{estimate.value:.2f}x[/]\n{estimate.low:.2f}–{estimate.high:.2f}"
