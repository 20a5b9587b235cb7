"""Diversity at few evaluations: do fast samplers forget a part of the data, and does a late start bring it back?

DDIM and PNDM at 5 network evaluations, from full noise and from a late start, and DDPM in 1,000 steps (200 where only a
processor is at hand); of each the share of every value of every attribute against the data's, with the entropy, the
KL divergence and the total variation (`evaluation/diversity.py`), precision, recall, coverage, the Vendi score, the
share of copies, and the Frechet distance beside. White noise and seeds are the same everywhere, so ratios of two ways
are paired.

Full noise is the best, by the Frechet distance, of leading and trailing spacing, clipped and unclipped; a late start
the best of clipped and unclipped from the start that `choose_start` names, or of several starts given. What is best is
not chosen by the attributes, unless the features are those of a classifier of them, as they are for the faces. It is
sampled again with the next seed, and the figures told are of those samples, as are the reference's. All are in
`results.json`.

Attributes are read by a classifier, the one that `experiment attributes` trains, beside the model. Samples and data
are read alike, so that errors made on both cancel as far as they can, and what the classifier gets wrong on held-out
images is told. Errors that it makes on a sampler's images alone do not cancel, and look like a bias of the sampler: a
digit under the noise that PNDM leaves from full noise in 4 steps is an 8 to a classifier of clean digits. So these
readers are trained under noise, of labelled images as well, and the share of a way's samples of which they are less
than 90% sure is told beside that of the data. Where the data's attributes are known exactly (`diversity_data.py`), the
divergence from the exact shares stands beside that from the shares read.

Each way is kept the moment that it is sampled, as what the classifier and the features say of its images: all figures
are made of that anew at every call, save the share of copies, for which all pixels are needed. A call that finds all
ways kept samples none. Several processes (`torchrun`) share the ways by their cost.

Expected on the shipped MNIST model with 150 samples: by a reader that noise does not mislead, neither DDIM nor PNDM at
5 evaluations is further from the data's digits than as many images of the data, late start or not: so many samples
show no bias for a late start to remove. By the shipped classifier the same samples of PNDM from full noise are 0.9 nats
away. Its recall rises from 0.2 to 0.8 with the late start, and of that too the noise on the samples has its part.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latestart.data import in_unit_range, to_pixels
from latestart.evaluation.diversity import Diversity, attribute, vendi
from latestart.evaluation.quality import Estimate, interval
from latestart.experiments.diversity_data import facts_of, open_data
from latestart.experiments.diversity_records import Result, Way, best_of, gains_of
from latestart.experiments.diversity_ways import Settings, chosen, planned_ways
from latestart.experiments.readers import doubtful, open_reader, read_all, scores_of
from latestart.files import load_tensors, save_tensors
from latestart.lab.cells import Meter, Planned, again, describe, first_line, measured
from latestart.lab.experiment import Progress
from latestart.lab.grid import FULL
from latestart.lab.judge import COMPARED, few_samples
from latestart.lab.store import is_of, kept_at, key_of
from latestart.lab.subjects import open_subjects
from latestart.lab.sweep import shares
from latestart.processes import Processes

CELL = "diversity-cell"
SHOWN = 16
Tell = Callable[[str], None]


class Readings(NamedTuple):
    """The stored form of a way's images.

    Features `(N, F)`, what the reader said by attribute, the first 16, and the share of copies: None where there is
    nothing to tell copies by, and in what was kept before copies were counted.
    """

    features: Tensor
    classes: dict[str, Tensor]
    images: Tensor
    copied: Estimate | None


@dataclass
class Experiment:
    """The measurement in a folder.

    Args:
        settings: what is measured.
        out: the folder.
        tell: told what is worth knowing.
        run: the processes that share the work; the present one alone by default.

    Raises:
        ValueError: something that the settings name does not exist or does not fit the rest.
    """

    settings: Settings
    out: Path
    tell: Tell = lambda _: None
    run: Processes = field(default_factory=Processes)
    failed: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        grid = self.settings.grid()
        self.reader = open_reader(self.settings.classifier, self.settings.model)
        kept = self.out / "statistics.safetensors"
        (self.subject,) = open_subjects(grid, kept, self.run, self.tell).values()
        if (warning := few_samples(grid.samples, self.subject.judge)) is not None:
            self.tell(warning)
        self.data = open_data(self.subject.judge, self.settings.images, self.reader)
        starts = self.out / "starts"
        self.choices, refused = self.run.firsts(lambda: chosen(self.settings, self.subject, starts, self.tell))
        self.planned, unable = planned_ways(self.settings, self.subject, self.choices)
        self.failed = refused | unable

    @property
    def cost(self) -> int:
        """Network evaluations that all ways to choose from cost, those kept included, without the choice of starts."""
        return sum(planned.cell.cost for planned in self.planned)

    def measure(self, progress: Progress | None = None) -> None:
        """Sample every way that is missing, and then what is best with the next seed.

        `progress(done, total, what)` counts this process' network evaluations, of the ones and then of the others.
        """
        self._measure(self.planned, progress)
        self._measure(self.run.firsts(self._best), progress)

    def _best(self) -> list[Planned]:
        """The best of each group of ways that are kept, with the next seed; the reference is in none.

        Of full noise only where it is kept as a whole: what is missing may be the best, and the gains too large.
        """
        fast = [planned for planned in self.planned if planned.cell.seed == self.settings.seed]
        found = [(planned, self._readings(planned)) for planned in fast]
        lacking = {planned.cell.sampler for planned, kept in found if kept is None and planned.cell.prior == FULL}
        for sampler in lacking:
            what = f"{self.settings.model}, {sampler}, NFE {self.settings.nfe}, the best from full noise"
            self.failed[what] = "what is missing may be better than the rest"
        kept = [(planned, readings) for planned, readings in found if readings is not None]
        judged = [(planned.cell, self.subject.judge.frechet(readings.features)) for planned, readings in kept]
        best = best_of([(cell, d) for cell, d in judged if cell.prior != FULL or cell.sampler not in lacking])
        return [again(planned) for planned, _ in kept if planned.cell in best]

    def _measure(self, planned: list[Planned], progress: Progress | None) -> None:
        pending = self.run.firsts(lambda: [k for k, one in enumerate(planned) if self._readings(one) is None])
        mine = shares([planned[k].cell.cost for k in pending], self.run.count)[self.run.index]
        work = [planned[pending[k]] for k in mine]
        meter = Meter(sum(planned.cell.cost for planned in work), progress)
        failed = {describe(planned.cell): reason for planned in work if (reason := self._tried(planned, meter))}
        for theirs in self.run.gather(failed):  # nobody reads before all is written
            self.failed |= theirs

    def _tried(self, planned: Planned, meter: Meter) -> str:
        """Sample one way; returns why it failed, or nothing."""
        meter.note, reason = describe(planned.cell), ""
        try:
            self._sample(planned, meter)
        except Exception as error:  # whatever schedulers and devices raise: the others are still worth measuring
            reason = first_line(error)
            self.tell(f"failed: {meter.note}: {reason}")
            torch.cuda.empty_cache()
        meter.settle(planned.cell.cost)
        return reason

    def result(self) -> Result:
        """The figures of all ways that were measured.

        Raises:
            ValueError: none was.
        """
        judge, samples, seed = self.subject.judge, self.settings.samples, self.settings.seed
        each = {planned.key: planned for planned in (*self.planned, *self._best())}  # the reference may be a best one
        found = [(planned, self._readings(planned)) for planned in each.values()]
        if all(readings is None for _, readings in found):
            raise ValueError(f"no way could be sampled: {next(iter(self.failed.values()), 'none was measured')}")
        self._tell_of_copies([planned for planned, one in found if one is not None and one.copied is None])
        read = read_all(self.reader, self.data.images)
        variety = vendi(judge.reference.real[:samples], seed=seed)
        ways = tuple(self._way(planned, one, read, variety) for planned, one in found if one is not None)
        shown = tuple(sorted((way for way in ways if way.cell.seed == seed + 1), key=lambda way: way.cell.nfe))
        unseen = judge.reference.copying
        return Result(
            ways=ways,
            shown=shown,
            gains=tuple(gains_of(shown)),
            data=facts_of(self.data, read, samples, seed, self.reader),
            scores=scores_of(self.reader, None if unseen is None else unseen[1]),
            choices=tuple(self.choices),
            failed=tuple(f"{what}: {reason}" for what, reason in self.failed.items()),
            features=judge.features,
            classifier=self.reader.name,
            floor=judge.floor(samples),
            settings=self.settings,
        )

    def _configuration(self, planned: Planned) -> dict[str, Any]:
        return {**planned.configuration, "classifier": self.reader.name}

    def _file(self, planned: Planned) -> Path:
        return kept_at(self.out / "ways", "{}.safetensors", key_of(self._configuration(planned)))

    def _sample(self, planned: Planned, meter: Meter) -> None:
        judge: Any = self._read  # the images' readings in place of their figures
        began = time.monotonic()
        outcome = measured(replace(self.subject, judge=judge), planned, self.settings.batch_size, meter)
        readings: Any = outcome.figures
        tensors = {"features": readings.features, "images": readings.images}
        tensors |= {f"classes.{name}": said for name, said in readings.classes.items()}
        if readings.copied is not None:
            tensors["copied"] = torch.tensor(tuple(asdict(readings.copied).values()), dtype=torch.float64)
        seconds = round(time.monotonic() - began, 3)
        metadata = {"configuration": self._configuration(planned), "sigma": outcome.sigma, "seconds": seconds}
        save_tensors(self._file(planned), CELL, tensors, metadata)

    def _read(self, images: Tensor) -> Readings:
        judge = self.subject.judge
        copied = None if judge.copying is None else judge.copying(images).copied
        return Readings(judge.extract(in_unit_range(images)), self.reader(images), to_pixels(images[:SHOWN]), copied)

    def _readings(self, planned: Planned) -> Readings | None:
        """The stored readings of a way; None if there are none, or damaged ones."""
        try:
            tensors, metadata = load_tensors(self._file(planned), CELL)
            if not is_of(metadata.get("configuration"), self._configuration(planned)):
                raise ValueError(f"{self._file(planned)} holds another way than {describe(planned.cell)}")
            classes = {name: tensors[f"classes.{name}"] for name in self.reader.values}
            copied = Estimate(*tensors["copied"].tolist()) if "copied" in tensors else None
            return Readings(tensors["features"], classes, tensors["images"], copied)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            self.tell(f"{error}: the way is sampled again")
            return None

    def _tell_of_copies(self, without: list[Planned]) -> None:
        """Tell of ways kept before copies were counted: to sample them again is dear, and so waits to be asked for."""
        if self.subject.judge.copying is not None and without:
            files = ", ".join(str(self._file(planned)) for planned in without)
            self.tell(f"copies were not counted in {files}: delete what is to be sampled and counted again")

    def _way(self, planned: Planned, readings: Readings, read: dict[str, Tensor], variety: Estimate) -> Way:
        judge, features, seed = self.subject.judge, readings.features, self.settings.seed
        against_read, against_exact = (
            {
                name: attribute(readings.classes[name], theirs, self.reader.values[name], seed=seed)
                for name, theirs in side.items()
            }
            for side in (read, self.data.exact)
        )
        overlap = judge.overlap(features[:COMPARED], seed=seed)
        score = vendi(features[: len(judge.reference.real)], seed=seed)
        assert planned.steps is not None
        return Way(
            cell=planned.cell,
            steps=planned.steps,
            frechet=interval(judge.frechet.replicates(features, seed=seed), judge.frechet(features)),
            precision=overlap.precision,
            copied=readings.copied,
            diversity=Diversity(
                attributes=against_read,
                vendi=score,
                vendi_data=variety,
                recall=overlap.recall,
                coverage=overlap.coverage,
            ),
            exact=against_exact,
            doubtful=doubtful(readings.classes),
            images=readings.images.float() / 255,
        )
