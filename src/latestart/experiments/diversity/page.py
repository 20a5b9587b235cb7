"""The page of the diversity experiment: its tables and its sentences.

ways                        a row for each: distance, precision, recall, coverage, copies, Vendi score
for each attribute          the divergence of its shares from the data's and from the exact ones; and the shares
"""

from collections.abc import Iterator
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from latestart.evaluation.copying import BAR
from latestart.evaluation.quality import Estimate
from latestart.experiments.diversity.names import name_of, title_of
from latestart.experiments.diversity.pictures import chart, samples
from latestart.experiments.diversity.records import Facts, Gain, Result, Way
from latestart.lab.report import Report, floor_sentence, spread, table

__all__ = ["divergence_table", "page", "sentences", "shares_table", "ways_table"]


def page(result: Result, folder: Path) -> Report:
    """Draw the pictures, and return the tables, the errors of the reader, and the ways that were not measured."""
    chart(folder / "diversity.png", result)
    samples(folder / "samples.png", result)
    settings = result.settings
    facts = {"model": Path(settings.model).name, "samples": settings.samples}
    facts |= {"seed": f"{settings.seed} to choose, {settings.seed + 1} for the figures"}
    facts |= {"features": result.features, "classifier": result.classifier}
    tables = [ways_table(result)]
    for name in result.data.chance:
        tables += [divergence_table(result, name), shares_table(result, name)]
    pictures = ["diversity.png", "samples.png"]
    return Report(f"Diversity: {facts['model']}", facts, tables, list(sentences(result)), pictures, ["ways"])


def sentences(result: Result) -> Iterator[str]:
    """The floor, the errors of the reader, the rule about copies where it applies, and ways without figures."""
    yield floor_sentence(result.floor, result.settings.samples)
    for name, score in result.scores.items():
        yield f"{name.replace('_', ' ')}: read {score} held-out images; errors move {score.bias:.2%} of the shares"
    if any(way.clean for way in result.shown):
        yield (
            f"without copies: the best of those whose share of copies is not above {BAR:g} with either seed (it is "
            "where its interval lies above), below a best whose share is"
        )
    yield from (f"not measured: {line}" for line in result.failed)


def ways_table(result: Result) -> Table:
    """A row for each way that is shown: the figures that belong to no single attribute."""
    made = table(
        "How good the samples are, how much of the data they meet, how many copy or differ, with 95% intervals",
        "way", "Frechet", "precision", "recall", "coverage", "copied", "Vendi", left=("way",),
        caption=f"{result.settings.samples:,} samples of each way, seed {result.settings.seed + 1}, chosen with seed "
        f"{result.settings.seed}; features {result.features}; copied: the share of copies, 0.01 of new images, * where "
        f"its interval lies above {BAR:g}; Vendi: the number of different images",
    )  # fmt: skip
    for way in result.shown:
        found = way.diversity
        shares = (spread(one, ".3f") for one in (way.precision, found.recall, found.coverage))
        copied = spread(way.copied, ".3f") + (" *" if way.copies else "")
        made.add_row(escape(name_of(way)), spread(way.frechet), *shares, copied, spread(found.vendi))
    score = spread(result.shown[0].diversity.vendi_data)
    made.add_row("the same number of images of the data", *("",) * 5, score, style="dim")
    return made


def divergence_table(result: Result, name: str) -> Table:
    """A row for each way that is shown: one attribute's shares against the data's, and against the exact ones."""
    data, exact = result.data, result.data.against.get(name)
    known = "" if exact is None else f"; exact: the shares {data.known[name]}"
    columns = ("KL to data", "gain", *(() if exact is None else ("KL to exact", "gain, exact")))
    made = table(
        f"{title_of(name)}: how far its shares are from the data's, with 95% intervals (KL and entropy in nats)",
        "way", *columns, "variation", "entropy", "unsure", left=("way",),
        caption=f"data: {data.images:,} images, read by {result.classifier}, as are the samples{known}; gain: the "
        "divergence of full noise over that of the late start, each from the shares named before it, * where the "
        "intervals of the two do not overlap; unsure: read with a certainty below 90%",
    )  # fmt: skip
    gains = {(gain.sampler, gain.prior, gain.clean): gain for gain in result.gains if gain.attribute == name}
    for way in result.shown:
        one, gain = way.diversity.attributes[name], gains.get((way.cell.sampler, way.cell.prior, way.clean))
        cells = [spread(one.kl, ".3f"), _gain(gain)]
        if exact is not None:
            cells += [spread(way.exact[name].kl, ".3f"), _gain(gain, exact=True)]
        cells += [spread(one.total_variation, ".3f"), spread(one.entropy, ".3f"), _percent(way, name)]
        made.add_row(escape(name_of(way)), *cells)
    entropy = spread(result.shown[0].diversity.attributes[name].entropy_data, ".3f")
    by_chance = () if exact is None else (f"{data.chance_exact[name]:.3f}", "")
    itself = () if exact is None else (spread(exact.kl, ".3f"), "")
    average = (f"{data.chance[name]:.3f}", "", *by_chance, "", "", "")
    made.add_row("the same number of images of the data, on average", *average, style="dim")
    made.add_row("the data, as read", "", "", *itself, "", entropy, _percent(data, name), style="dim")
    return made


def shares_table(result: Result, name: str) -> Table:
    """A row for each way that is shown: the share of every value of one attribute."""
    first, exact = result.shown[0].diversity.attributes[name], result.data.against.get(name)
    made = table(
        f"{title_of(name)}: the share of each value in percent, with 95% intervals",
        "way", *(escape(value.replace("_", " ")) for value in first.values), left=("way",),
        caption="bold: an interval that the data's does not overlap",
    )  # fmt: skip
    for way in result.shown:
        one = way.diversity.attributes[name]
        cells = (_share(p, apart=p.low > q.high or p.high < q.low) for p, q in zip(one.samples, one.data))
        made.add_row(escape(name_of(way)), *cells)
    made.add_section()
    made.add_row("the data, as read", *map(_share, first.data), style="dim")
    if exact is not None:
        known = (f"{100 * share.value:.1f}" for share in exact.data)
        made.add_row(f"exact, {result.data.known[name]}", *known, style="dim")
    return made


def _gain(gain: Gain | None, exact: bool = False) -> str:
    if gain is None:
        return "-"
    factor, apart = (gain.exact, gain.apart_exact) if exact else (gain.factor, gain.apart)
    return spread(factor, ".2f") + (" *" if apart else "")


def _share(estimate: Estimate, apart: bool = False) -> str:
    """A share in percent, its interval below it: a value of an attribute has a narrow column."""
    text = f"{100 * estimate.value:.1f}\n{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"
    return f"[bold]{text}[/]" if apart else text


def _percent(of: Way | Facts, name: str) -> str:
    share = of.doubtful.get(name)
    return "-" if share is None else f"{share:.1%}"
