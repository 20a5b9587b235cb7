"""Diversity at few evaluations: do fast samplers forget a part of the data, and does a late start bring it back?

DDIM and PNDM at 5 network evaluations, from full noise and from a late start, and DDPM in 1,000 steps (200 where only a
processor is at hand); of each the share of every value of every attribute against the data's, with the entropy, the
KL divergence and the total variation (`evaluation/diversity.py`), recall, coverage, the Vendi score, and the Frechet
distance beside. White noise and seeds are the same everywhere, so ratios of two ways are paired.

Full noise is the best, by the Frechet distance, of leading and trailing spacing, clipped and unclipped; a late start
the best of clipped and unclipped from the start that `choose_start` names, or of several starts given. What is best is
not chosen by the attributes, unless the features are those of a classifier of them, as they are for the faces. All are
in `results.json`.

Attributes are read by a classifier, the one that `experiment attributes` trains, beside the model. Samples and data
are read alike, so that errors made on both cancel as far as they can, and what the classifier gets wrong on held-out
images is told. Errors that it makes on a sampler's images alone do not cancel, and look like a bias of the sampler: a
digit under the noise that PNDM leaves from full noise in 4 steps is an 8 to a classifier of clean digits. So these
readers are trained under noise, of labelled images as well, and the share of a way's samples of which they are less
than 90% sure is told beside that of the data. Where the data's attributes are known exactly, the divergence from the
exact shares stands beside that from the shares read, in `results.json`.

Each way is kept the moment that it is sampled, as what the classifier and the features say of its images.

Expected on the shipped MNIST model with 150 samples: by a reader that noise does not mislead, neither DDIM nor PNDM at
5 evaluations is further from the data's digits than as many images of the data, late start or not: so many samples
show no bias for a late start to remove. By the shipped classifier the same samples of PNDM from full noise are 0.9 nats
away. Its recall rises from 0.2 to 0.8 with the late start, and of that too the noise on the samples has its part.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from latestart import zoo
from latestart.data import Images, load_images, to_pixels
from latestart.evaluation.diversity import (
    Attribute,
    Classify,
    DeepFaceClassifier,
    Diversity,
    ProjectClassifier,
    TransformersClassifier,
    attribute,
    chance,
    classified,
    ratio,
    vendi,
)
from latestart.evaluation.quality import Estimate, checked, interval
from latestart.experiments.attributes import FILE, KIND, AttributeClassifier, Score, counted, known_attributes
from latestart.experiments.cells import Meter, Planned, Progress, describe, first_line, measured, plan
from latestart.experiments.grid import FULL, Cell, Grid
from latestart.experiments.judge import COMPARED, few_samples, fingerprint
from latestart.experiments.subjects import Subject, open_subjects
from latestart.features import Classifier
from latestart.files import kind_of, load_tensors, save_tensors, write_json
from latestart.processes import Processes
from latestart.sampling.choose import choose_start
from latestart.sampling.samplers import make_sampler
from latestart.sampling.spacings import TIMES

SAMPLERS, NFE, REFERENCE = ("ddpm", "ddim", "pndm"), 5, "ddpm"
LONG, SHORT = 1000, 200  # steps of the reference, on an accelerator and on a processor
CELL = "diversity-cell"
DATA = 10_000  # images whose attributes are read
SHOWN = 16
SURE = 0.9
LABELS = {"mnist": "digit"}  # what the classes of a shipped model are
Tell = Callable[[str], None]


class Reader(Protocol):
    """Reads attributes: from images in [0, 1] to class indices or probabilities for each attribute by its name.

    `values` are the names of each one's values, or None where there are none; `name` tells one reader from another.
    """

    @property
    def name(self) -> str: ...

    @property
    def values(self) -> Mapping[str, Sequence[str] | None]: ...

    def __call__(self, images: Tensor) -> dict[str, Tensor]: ...


class Single:
    """A classifier of `evaluation/diversity.py` as a reader of one attribute."""

    def __init__(self, attribute: str, classify: Classify, name: str) -> None:
        self.attribute, self.classify, self.name = attribute, classify, name
        self.values: dict[str, Sequence[str] | None] = {attribute: getattr(classify, "values", None)}

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """What the classifier says, by the attribute's name."""
        return {self.attribute: classified(self.classify, images)}


def open_reader(classifier: str | None, model: str) -> Reader:
    """The reader in a file or a folder, or the one beside a model.

    Args:
        classifier: a file of `experiment attributes` or of a classifier; a folder of transformers; `deepface:race`,
            `deepface:gender` or `deepface:emotion`; None for the attributes, or else the classifier, beside the model.
        model: the name of a shipped model, or a folder.

    Raises:
        ValueError: there is none, or it is none of these.
        ImportError: transformers or deepface is not installed.
    """
    if classifier is None:
        folder = Path(model) if Path(model).is_dir() else zoo.load(model).path
        beside = [folder / name for name in (FILE, "classifier.safetensors") if (folder / name).is_file()]
        if not beside:
            raise ValueError(f"{model} brings no classifier of attributes: give one")
        classifier = str(beside[0])
    if classifier.startswith("deepface:"):
        what = classifier.removeprefix("deepface:")
        return Single(what, DeepFaceClassifier(what), classifier)
    path = Path(classifier)
    if path.is_dir():
        weights = [file.read_bytes() for file in sorted(path.glob("*.safetensors"))]
        return Single("class", TransformersClassifier(path), f"{path.name}-{fingerprint(*weights)}")
    if kind_of(path) == KIND:
        return AttributeClassifier.load(path)
    network, label = Classifier.load(path), LABELS.get(Path(model).name, "class")
    values = tuple(map(str, range(network.classes)))
    return Single(
        label, ProjectClassifier(network, values), f"classifier-{fingerprint(*network.state_dict().values())}"
    )


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        model: the name of a shipped model, or a folder.
        samplers: the fast ones.
        nfe: their network evaluations for each sample.
        priors: of the late starts: `gaussian`, `mixture`, `isotropic`, or files.
        starts: in the scheduler's t; by default one for each sampler and prior, by `choose_start`.
        reference: steps of DDPM from full noise; 1,000, and 200 on a processor, by default; 0 leaves it out.
        samples: of each way.
        seed: sample i depends on the seed and i alone.
        classifier: as `open_reader` takes it.
        features, images, held_out: as a sweep's grid has them.
        batch_size: samples evaluated at once.
        mixed_precision: `bf16` evaluates the network in half precision.
    """

    model: str = "mnist"
    samplers: tuple[str, ...] = ("ddim", "pndm")
    nfe: int = NFE
    priors: tuple[str, ...] = ("gaussian",)
    starts: tuple[float, ...] = ()
    reference: int | None = None
    samples: int = 1000
    seed: int = 0
    classifier: str | None = None
    features: str | None = None
    images: str | None = None
    held_out: str | None = None
    batch_size: int = 256
    mixed_precision: str = "no"

    @property
    def length(self) -> int:
        """Steps of the reference."""
        return self.reference if self.reference is not None else LONG if torch.cuda.is_available() else SHORT

    def grid(self) -> Grid:
        """The model, the priors and the data, as a sweep opens them.

        Raises:
            ValueError: a name that is not known, a number that makes no sense, or full noise among the priors.
        """
        if FULL in self.priors:
            raise ValueError(f"full noise is always measured: expected priors other than {FULL}")
        return Grid(
            model=(self.model,),
            sampler=self.samplers,
            nfe=(self.nfe,),
            prior=(FULL, *self.priors),
            t_start=self.starts or (1.0,),
            samples=self.samples,
            seed=self.seed,
            features=self.features,
            images=self.images,
            held_out=self.held_out,
            batch_size=self.batch_size,
            mixed_precision=self.mixed_precision,
        )


class Readings(NamedTuple):
    """What a way's images are kept as: features `(N, F)`, what the reader said by attribute, and the first 16."""

    features: Tensor
    classes: dict[str, Tensor]
    images: Tensor


@dataclass(frozen=True, eq=False)
class Way:
    """One way to sample, with its figures.

    Attributes:
        cell: sampler, prior, start, spacing, clipping.
        steps: of the sampler.
        frechet: of its features to the whole data set's.
        diversity: attributes against those read of the data, Vendi score, recall and coverage.
        exact: attributes against those known of the data, where they are.
        doubtful: by attribute, the share of samples of which the reader is less than 90% sure; none for a reader that
            gives no probabilities.
        images: the first, `(16, C, H, W)` in [0, 1].
    """

    cell: Cell
    steps: int
    frechet: Estimate
    diversity: Diversity
    exact: dict[str, Attribute]
    doubtful: dict[str, float]
    images: Tensor = field(repr=False)

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        exact = {name: one.record() for name, one in self.exact.items()}
        beside = {"steps": self.steps, "frechet": asdict(self.frechet), "doubtful": self.doubtful}
        return {**asdict(self.cell), **beside, **self.diversity.record(), "against_exact_shares": exact}


@dataclass(frozen=True)
class Gain:
    """How many times smaller a divergence a late start has than full noise with the same sampler, for one attribute.

    `apart` says whether the intervals of the two divergences do not overlap.
    """

    sampler: str
    prior: str
    attribute: str
    factor: Estimate
    apart: bool


@dataclass(frozen=True)
class Result:
    """All ways, and what they say together.

    Attributes:
        ways: all that were measured.
        shown: the best of each sampler and prior by the Frechet distance, in the order of the chart.
        gains: of the late starts.
        scores: of the reader, on held-out images by attribute, where these are known.
        doubtful_data: by attribute, the share of the data of which the reader is less than 90% sure.
        chance: by attribute, the divergence that as many images of the data would have from it on average.
        choices: the starts that were chosen, and why.
        failed: ways that could not be measured, and why.
        features, classifier: what was read with.
        data: images whose attributes were read.
        settings: what was asked for.
    """

    ways: tuple[Way, ...]
    shown: tuple[Way, ...]
    gains: tuple[Gain, ...]
    scores: dict[str, Score]
    doubtful_data: dict[str, float]
    chance: dict[str, float]
    choices: tuple[dict[str, Any], ...]
    failed: tuple[str, ...]
    features: str
    classifier: str
    data: int
    settings: Settings

    def record(self) -> dict[str, Any]:
        """All figures, ready for `results.json`."""
        return {
            "settings": asdict(self.settings),
            "features": self.features,
            "classifier": self.classifier,
            "data": self.data,
            "scores": {name: score.record() for name, score in self.scores.items()},
            "doubtful_data": self.doubtful_data,
            "chance": self.chance,
            "choices": list(self.choices),
            "failed": list(self.failed),
            "shown": [self.ways.index(way) for way in self.shown],
            "ways": [way.record() for way in self.ways],
            "gains": [{**asdict(gain), "factor": _finite(gain.factor)} for gain in self.gains],
        }


@dataclass
class Experiment:
    """The measurement in a folder.

    Args:
        settings: what is measured.
        out: the folder.
        tell: told what is worth knowing.

    Raises:
        ValueError: something that the settings name does not exist or does not fit the rest.
    """

    settings: Settings
    out: Path
    tell: Tell = lambda _: None
    failed: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        grid = self.settings.grid()
        self.reader = open_reader(self.settings.classifier, self.settings.model)
        kept = self.out / "statistics.safetensors"
        (self.subject,) = open_subjects(grid, kept, Processes(), self.tell).values()
        if (warning := few_samples(grid.samples, self.subject.judge)) is not None:
            self.tell(warning)
        self.data, self.known = _data(self.subject, self.settings.images, self.reader)
        self.choices = [] if self.settings.starts else [self._choice(s, p) for s, p in self._late()]
        self.planned = [one for one in self._planned() if one.steps is not None]

    def measure(self, progress: Progress | None = None) -> None:
        """Sample every way that is missing; `progress(done, total, what)` counts network evaluations."""
        pending = [planned for planned in self.planned if self._readings(planned) is None]
        meter = Meter(sum(planned.cell.cost for planned in pending), progress)
        for planned in pending:
            meter.note = describe(planned.cell)
            try:
                self._sample(planned, meter)
            except (ValueError, RuntimeError, FloatingPointError) as error:
                self.failed[describe(planned.cell)] = first_line(error)
                self.tell(f"failed: {describe(planned.cell)}: {first_line(error)}")
            meter.settle(planned.cell.cost)

    def result(self) -> Result:
        """The figures of all ways that were measured.

        Raises:
            ValueError: none was.
        """
        data = _read_all(self.reader, self.data)
        found = [(planned, self._readings(planned)) for planned in self.planned]
        ways = tuple(self._way(planned, readings, data) for planned, readings in found if readings is not None)
        if not ways:
            raise ValueError(f"no way could be sampled: {next(iter(self.failed.values()), 'none was measured')}")
        shown = _shown(ways)
        return Result(
            ways=ways,
            shown=shown,
            gains=tuple(_gains(shown)),
            scores=_scores(self.subject, self.reader),
            doubtful_data=_doubtful(data),
            chance={name: _chance(data[name], self.settings.samples) for name in self.reader.values},
            choices=tuple(self.choices),
            failed=tuple(f"{what}: {reason}" for what, reason in self.failed.items()),
            features=self.subject.judge.features,
            classifier=self.reader.name,
            data=len(self.data),
            settings=self.settings,
        )

    def _late(self) -> list[tuple[str, str]]:
        return list(product(self.settings.samplers, dict.fromkeys(self.settings.priors)))

    def _planned(self) -> list[Planned]:
        starts: dict[tuple[str, str], tuple[float, ...]] = {
            (one["sampler"], one["prior"]): (one["t_start"],) for one in self.choices
        }
        cells = [cell for sampler in self.settings.samplers for cell in self._of(sampler, starts)]
        if self.settings.length:
            cells.append(self._cell(REFERENCE, self.settings.length, FULL, None, TIMES[0], False))
        return plan(dict.fromkeys(cells), {self.settings.model: self.subject})

    def _of(self, sampler: str, starts: dict[tuple[str, str], tuple[float, ...]]) -> list[Cell]:
        """The cells of one fast sampler: from full noise, and late from each prior."""
        nfe, priors = self.settings.nfe, tuple(dict.fromkeys(self.settings.priors))
        unclipped = self._cell(sampler, nfe, FULL, None, TIMES[0], False)
        clips = (False, True) if "clip_sample" in unclipped.settings() else (False,)
        full = [self._cell(sampler, nfe, FULL, None, spacing, clip) for spacing, clip in product(TIMES[:2], clips)]
        late = [
            self._cell(sampler, nfe, prior, start, TIMES[0], clip)
            for prior in priors
            for start, clip in product(self.settings.starts or starts[sampler, prior], clips)
        ]
        return full + late

    def _cell(self, sampler: str, nfe: int, prior: str, start: float | None, spacing: str, clip: bool) -> Cell:
        return Cell(
            self.settings.model, sampler, nfe, prior, start, spacing, clip, self.settings.samples, self.settings.seed
        )

    def _choice(self, sampler: str, prior: str) -> dict[str, Any]:
        """The start of one sampler and prior, chosen once and kept."""
        distribution, print_ = self.subject.priors[prior]
        judge, seed = self.subject.judge, self.settings.seed
        steps = self._steps(sampler)
        named = [
            self.subject.weights,
            print_ or prior,
            sampler,
            steps,
            judge.reference.fingerprint,
            judge.features,
            seed,
        ]
        path = self.out / "starts" / f"{fingerprint(json.dumps(named))}.json"
        if path.is_file():
            return json.loads(path.read_text())
        if distribution is None:
            raise ValueError("a start is chosen for a prior; for N(0, I) give --t-start")
        self.tell(f"choosing a start for {sampler} from {prior}")
        unseen = None if judge.reference.copying is None else judge.reference.copying[1]
        scheduler = make_sampler(sampler, self.subject.scheduler, spacing=TIMES[0])
        conditional = getattr(self.subject.network.config, "num_class_embeds", None)
        choice = choose_start(
            self.subject.network,
            scheduler,
            distribution,
            unseen,
            steps,
            features=None if unseen is None else judge.extract,
            labels=unseen.labels if conditional and unseen is not None else None,
            seed=seed,
        )
        kept = {"sampler": sampler, "prior": prior, "t_start": choice.t_start, "nfe": choice.nfe, "how": choice.how}
        write_json(path, kept)
        return kept

    def _steps(self, sampler: str) -> int:
        """Steps at which a sampler costs the evaluations asked for."""
        cell = self._cell(sampler, self.settings.nfe, FULL, None, TIMES[0], False)
        (planned,) = plan([cell], {self.settings.model: self.subject})
        if planned.steps is None:
            raise ValueError(planned.reason)
        return planned.steps

    def _configuration(self, planned: Planned) -> dict[str, Any]:
        return {**planned.configuration, "classifier": self.reader.name}

    def _file(self, planned: Planned) -> Path:
        key = fingerprint(json.dumps(self._configuration(planned), sort_keys=True))
        return self.out / "ways" / f"{key}.safetensors"

    def _sample(self, planned: Planned, meter: Meter) -> None:
        judge: Any = self._read  # the images' readings in place of their figures
        began = time.monotonic()
        outcome = measured(replace(self.subject, judge=judge), planned, self.settings.batch_size, meter)
        readings: Any = outcome.figures
        tensors = {"features": readings.features, "images": readings.images}
        tensors |= {f"classes.{name}": said for name, said in readings.classes.items()}
        seconds = round(time.monotonic() - began, 3)
        metadata = {"configuration": self._configuration(planned), "sigma": outcome.sigma, "seconds": seconds}
        save_tensors(self._file(planned), CELL, tensors, metadata)

    def _read(self, images: Tensor) -> Readings:
        features = self.subject.judge.extract(checked(images))
        return Readings(features, self.reader(images), to_pixels(images[:SHOWN]))

    def _readings(self, planned: Planned) -> Readings | None:
        """What is kept of a way; None where there is nothing, or nothing sound."""
        try:
            tensors, metadata = load_tensors(self._file(planned), CELL)
            if metadata.get("configuration") != self._configuration(planned):
                raise ValueError(f"{self._file(planned)} holds another way than {describe(planned.cell)}")
            classes = {name: tensors[f"classes.{name}"] for name in self.reader.values}
            return Readings(tensors["features"], classes, tensors["images"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError) as error:
            self.tell(f"{error}: the way is sampled again")
            return None

    def _way(self, planned: Planned, readings: Readings, data: dict[str, Tensor]) -> Way:
        judge, features, seed = self.subject.judge, readings.features, self.settings.seed
        against = {
            side: {
                name: attribute(readings.classes[name], theirs, self.reader.values[name], seed=seed)
                for name, theirs in shares.items()
            }
            for side, shares in (("read", {name: data[name] for name in self.reader.values}), ("known", self.known))
        }
        overlap, n = judge.overlap(features[:COMPARED], seed=seed), min(len(features), len(judge.reference.real))
        score, score_data = (vendi(rows[:n], seed=seed) for rows in (features, judge.reference.real))
        assert planned.steps is not None
        return Way(
            cell=planned.cell,
            steps=planned.steps,
            frechet=interval(judge.frechet.replicates(features, seed=seed), judge.frechet(features)),
            diversity=Diversity(against["read"], score, score_data, overlap.recall, overlap.coverage),
            exact=against["known"],
            doubtful=_doubtful(readings.classes),
            images=readings.images.float() / 255,
        )


def _data(subject: Subject, images: str | None, reader: Reader) -> tuple[Images, dict[str, Tensor]]:
    """Some images of the data, and what is known of all its attributes."""
    if images is None:
        assert subject.judge.reference.copying is not None  # a shipped model brings them
        data, known = subject.judge.reference.copying[0], {}
    else:
        data, known = load_images(images), known_attributes(images)
    if data.labels is not None and _reads_labels(reader):
        known = {**dict.fromkeys(reader.values, data.labels), **known}
    known = {name: index for name, index in known.items() if name in reader.values}
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:DATA]
    return data[order], known


def _read_all(reader: Reader, images: Images) -> dict[str, Tensor]:
    """In parts, for a large data set is larger still as numbers."""
    parts = [reader(part.float() / 255) for part in images.pixels.split(1000)]
    return {name: torch.cat([part[name] for part in parts]) for name in reader.values}


def _reads_labels(reader: Reader) -> bool:
    """Whether what is read is the class of an image: a classifier of someone else's may mean something else."""
    if isinstance(reader, AttributeClassifier):
        return len(reader.values) == 1  # as it learns from images that have labels alone
    return isinstance(reader, Single) and isinstance(reader.classify, ProjectClassifier)


def _scores(subject: Subject, reader: Reader) -> dict[str, Score]:
    """How well the reader reads held-out images: its own record, or of images whose classes are known."""
    if isinstance(reader, AttributeClassifier):
        return reader.scores
    sets = subject.judge.reference.copying
    if sets is None or sets[1].labels is None or not _reads_labels(reader):
        return {}
    (name, said), labels = next(iter(reader(sets[1].unit()).items())), sets[1].labels
    values = reader.values[name] or tuple(map(str, range(int(labels.max()) + 1)))
    return {name: counted(labels, said.argmax(1) if said.ndim == 2 else said, tuple(values))}


def _doubtful(classes: dict[str, Tensor]) -> dict[str, float]:
    probabilities = {name: said for name, said in classes.items() if said.is_floating_point()}
    return {name: float((said.amax(1) < SURE).double().mean()) for name, said in probabilities.items()}


def _chance(data: Tensor, samples: int) -> float:
    """For the values that the data have at all."""
    shares = data.double().mean(0) if data.ndim == 2 else data.bincount().double() / len(data)
    return chance(int((shares > 0.5 / len(data)).sum()), samples, len(data))


def _shown(ways: tuple[Way, ...]) -> tuple[Way, ...]:
    """The best by the Frechet distance of each sampler, prior and number of evaluations, in their order."""
    groups: dict[tuple[str, str, int], list[Way]] = {}
    for way in ways:
        groups.setdefault((way.cell.sampler, way.cell.prior, way.cell.nfe), []).append(way)
    return tuple(min(group, key=lambda way: way.frechet.value) for group in groups.values())


def _gains(shown: tuple[Way, ...]) -> list[Gain]:
    full = {(way.cell.sampler, way.cell.nfe): way for way in shown if way.cell.prior == FULL}
    return [
        Gain(late.cell.sampler, late.cell.prior, name, ratio(theirs, mine), mine.kl.high < theirs.kl.low)
        for late in shown
        if late.cell.prior != FULL and (base := full.get((late.cell.sampler, late.cell.nfe))) is not None
        for name, mine in late.diversity.attributes.items()
        for theirs in (base.diversity.attributes[name],)
    ]


def _finite(estimate: Estimate) -> dict[str, float | None]:
    return {end: value if abs(value) < float("inf") else None for end, value in asdict(estimate).items()}
