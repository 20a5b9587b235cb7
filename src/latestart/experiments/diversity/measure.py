"""Diversity at few evaluations: do fast samplers forget a part of the data, and does a late start bring it back?

DDIM and PNDM at 5 network evaluations, from full noise and from a late start, and DDPM in many steps. For each, the
share of every value of every attribute against the data's, with the entropy, the KL divergence and the total variation
(`evaluation/diversity.py`); precision, recall, coverage, the Vendi score, the share of copies, and the Frechet
distance. White noise and seeds are the same everywhere, so ratios of two ways are paired.

Full noise is the best, by the Frechet distance, of leading and trailing spacing, clipped and unclipped; a late start
the best of clipped and unclipped, at the start that `choose_start` finds or at several starts given. The attributes do
not decide the choice, unless the features are those of a classifier of them, as for the faces. By the rule of
`lab/selection.py`, what is chosen is sampled again with the next seed; where it copies in either draw, the best that
does not copy is drawn again too and is shown below it. All figures shown are of the second draw, as are the
reference's. All are in `results.json`.

Attributes are read by a classifier, the one that `experiment attributes` trains. It reads samples and data alike, so
that errors made on both cancel as far as they can; its errors on held-out images are reported. Errors on a sampler's
images alone do not cancel, and look like a bias of the sampler: a digit under the noise that PNDM leaves from full
noise in 4 steps is an 8 to a classifier of clean digits. So these readers are trained under noise, of labelled images
as well, and the share of samples that are read with a certainty below 90% is reported for each way and for the data.
Where the data's attributes are known exactly (`data.py`), the divergence from the exact shares is reported too.

Expected on the shipped MNIST model with 150 samples: by a reader that noise does not mislead, neither DDIM nor PNDM at
5 evaluations is further from the data's digits than the same number of images of the data, late start or not: so many
samples show no bias for a late start to remove. By the shipped classifier the same samples of PNDM from full noise are
0.9 nats away. Its recall rises from 0.2 to 0.8 with the late start, in part because of the noise on the samples.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from latestart.classifiers.readers import doubtful, open_reader, scores_of
from latestart.evaluation.diversity import Attribute, Diversity, attribute, vendi
from latestart.evaluation.quality import Estimate
from latestart.experiments.diversity.readings import KeptReadings, Readings
from latestart.experiments.diversity.results import Result, Way
from latestart.experiments.diversity.settings import DiversitySettings
from latestart.experiments.diversity.shares import Data, facts_of, open_data
from latestart.experiments.diversity.ways import chosen_starts, planned_ways
from latestart.fingerprints import Print
from latestart.lab.cells import Planned, again
from latestart.lab.experiment import Experiment, Lab
from latestart.lab.grid import FULL, Grid
from latestart.lab.judge import Figures
from latestart.lab.selection import Choice, choose, draw_again
from latestart.lab.subjects import open_subject

__all__ = ["DiversityOfWays"]


class DiversityOfWays(Experiment[DiversitySettings, Result]):
    """Attributes of few-step samples against the data's, from full noise and from late starts."""

    def measure(self, settings: DiversitySettings, lab: Lab) -> Result | None:
        """Sample every way that is missing, and draw the best again with the next seed.

        Raises:
            ValueError: something that the settings name does not exist or does not fit the rest; no way could be
                sampled.
        """
        reader = open_reader(settings.classifier, settings.model)
        priors, starts = (FULL, *settings.priors), settings.starts or (1.0,)
        axes = {"sampler": settings.samplers, "nfe": (settings.nfe,), "prior": priors, "t_start": starts}
        subject = open_subject(Grid.of_settings(settings, **axes), lab)
        data = open_data(subject.judge, settings.images, reader)
        choices, refused = lab.run.firsts(lambda: chosen_starts(settings, subject, lab))
        planned, unable = planned_ways(settings, subject, choices)
        kept = KeptReadings(subject, reader, settings.batch_size, lab)
        kept.failed |= refused | unable
        known = _Ways(settings=settings, kept=kept, data=data, planned=planned)
        lab.tell(
            f"{len(planned)} ways, {sum(one.cell.cost for one in planned):,} network evaluations; "
            f"the best are drawn again with seed {settings.seed + 1}"
        )
        with lab.bar("evaluating") as advance:

            def draw(more: list[Planned]) -> None:
                kept.measure([again(one) for one in more], advance)
                known.drawn += more

            kept.measure(planned, advance)
            draw_again(lambda: [one for choice in known.choices() for one in choice.chosen], draw, lab.run)
        return _result(known, choices) if lab.run.first else None


@dataclass(kw_only=True, eq=False)
class _Ways:
    """The ways with their figures, each made once from its readings; for the first process.

    Attributes:
        settings: of the experiment.
        kept: readings of the ways.
        data: of the experiment.
        planned: the ways to choose from, and the reference.
        drawn: those drawn again so far.
    """

    settings: DiversitySettings
    kept: KeptReadings
    data: Data
    planned: list[Planned]
    drawn: list[Planned] = field(default_factory=list)
    ways: dict[Print, Way] = field(default_factory=dict, init=False)

    @cached_property
    def variety(self) -> Estimate:
        """The Vendi score of images of the data, in the number of the samples."""
        return vendi(self.kept.subject.judge.reference.real[: self.settings.samples], seed=self.settings.seed)

    def of(self, planned: Planned) -> Way | None:
        """Return a way with its figures; None where it is not sampled."""
        if planned.key not in self.ways and (readings := self.kept.found(planned)) is not None:
            self.ways[planned.key] = self._way(planned, readings)
        return self.ways.get(planned.key)

    def choices(self) -> list[Choice[Planned]]:
        """Choose the best of each sampler and prior among the ways that are sampled.

        Full noise is left out where a part of it is missing: that may be the best, and the gains would be too large.
        """
        groups: dict[tuple[str, str], list[Planned]] = {}
        for one in self.planned:
            if one.cell.seed == self.settings.seed:
                groups.setdefault((one.cell.sampler, one.cell.prior), []).append(one)
        found = []
        for (sampler, prior), group in groups.items():
            scan = [one for one in group if self.of(one) is not None]
            if prior == FULL and len(scan) < len(group):
                what = f"{self.settings.model}, {sampler}, NFE {self.settings.nfe}, the best from full noise"
                self.kept.failed[what] = "what is missing may be better than the rest"
            elif scan:
                found.append(choose(scan, lambda one: self.ways[one.key].figures, self._again))
        return found

    def _again(self, planned: Planned) -> Figures | None:
        way = self.of(again(planned)) if planned in self.drawn else None
        return None if way is None else way.figures

    def _way(self, planned: Planned, readings: Readings) -> Way:
        judge, features, seed = self.kept.subject.judge, readings.read.features, self.settings.seed
        assert planned.steps is not None
        return Way(
            cell=planned.cell, steps=planned.steps, doubtful=doubtful(readings.classes),
            figures=judge.figures(readings.read, seed),
            diversity=Diversity(
                attributes=self._against(self.data.read, readings), vendi_data=self.variety,
                vendi=vendi(features[: len(judge.reference.real)], seed=seed),
            ),
            exact=self._against(self.data.exact, readings), images=readings.images.float() / 255,
        )  # fmt: skip

    def _against(self, data: Mapping[str, Tensor], readings: Readings) -> dict[str, Attribute]:
        values, seed = self.kept.reader.values, self.settings.seed
        return {name: attribute(readings.classes[name], one, values[name], seed=seed) for name, one in data.items()}


def _result(known: _Ways, starts: list[dict[str, Any]]) -> Result:
    settings, kept, choices = known.settings, known.kept, known.choices()
    judge, copying = kept.subject.judge, kept.subject.judge.reference.copying
    picked = {one.key: False for one in known.planned if one.cell.seed != settings.seed}  # the reference
    picked |= {again(one).key: one is choice.clean for choice in choices for one in choice.chosen}
    every = {one.key: one for one in (*known.planned, *map(again, known.drawn))}
    ways = {key: replace(way, clean=picked.get(key, False)) for key, one in every.items() if (way := known.of(one))}
    if not ways:
        raise ValueError(f"no way could be sampled: {next(iter(kept.failed.values()), 'none was measured')}")
    if copying and (old := [str(kept.path(every[key])) for key, way in ways.items() if way.figures.copied is None]):
        # from before copies were counted: to sample them again is dear, and left to the user
        kept.lab.tell(f"copies were not counted in {', '.join(old)}: delete what is to be sampled and counted again")
    return Result(
        ways=tuple(ways.values()),
        shown=tuple(sorted((way for key, way in ways.items() if key in picked), key=lambda way: way.cell.nfe)),
        data=facts_of(known.data, settings),
        scores=scores_of(kept.reader, None if copying is None else copying[1]),
        choices=tuple(starts),
        not_measured=tuple(f"{what}: {reason}" for what, reason in kept.failed.items()),
        features=judge.features,
        classifier=kept.reader.name,
        floor=judge.floor(settings.samples),
        settings=settings,
    )
