"""Must a network that is only used below its start learn the levels above it? Two networks, and their samples.

Both have the same build, steps and seed, and so the same first weights, and at every step the same images and the same
noise. One draws its times from all of the schedule, the other from those below the start alone (`max_sigma` of
`train.py`), which it therefore sees more often. Both are sampled from the same prior, from the same start, with the
same white noise, with 3, 5 and 10 evaluations. For each seed k of the training the distance of both, and their ratio,

    d_all(k),     d_late(k),     r(k) = d_late(k) / d_all(k),

and over the seeds the mean distances and the geometric mean of the ratios, with Student's 95% intervals,

    mean +- t_(n-1) s / sqrt(n),     for r of its logarithms.

The samples of another seed of training have other white noise, so that the intervals hold for that, too; within a pair
it is the same, so that the ratio is paired. With three seeds t is 4.3: a difference must be clear to be seen.

Expected: no harm, and a gain while steps are scarce, since about half of the other network's steps go to levels that
are never asked for: after 1,500 steps on MNIST the late network has 0.70, 0.67 and 0.65 of the other's distance in 3, 5
and 10 evaluations. Networks that have hardly learned anything (40 steps) show neither.
"""

import json
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from scipy import stats

from latestart import zoo
from latestart.data import Images, load_images
from latestart.denoisers.folders import SIDECAR
from latestart.device import own_device
from latestart.evaluation.quality import Estimate
from latestart.experiments.late_training.settings import LateTrainingSettings
from latestart.fingerprints import fingerprint
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.lab.cells import plan
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.lab.grid import Cell
from latestart.lab.judge import Figures, Judge, open_features, reference_of, shipped_judge
from latestart.lab.subjects import Subject, kept_fit, open_network
from latestart.lab.sweep import Sweep
from latestart.noise import Noise
from latestart.records import Record, plain
from latestart.train import train, training_schedule
from latestart.train_config import TrainConfig

__all__ = ["NETWORKS", "LateTraining", "Pair", "Pairs", "Summary", "compare", "over_seeds", "top_level"]

NETWORKS = ("all", "late")
SHARED = ("steps", "batch_size", "learning_rate", "channels", "layers", "patch", "prediction", "mixed_precision")


@dataclass(frozen=True, kw_only=True, eq=False)
class Pair:
    """Both networks of one seed at one number of evaluations, from the level `sigma`."""

    seed: int
    nfe: int
    sigma: float
    all: Figures
    late: Figures

    @property
    def ratio(self) -> float:
        """Return the late network's distance over the other's."""
        return self.late.frechet.value / self.all.frechet.value

    def record(self) -> dict[str, Any]:
        """Return the distances and their ratio, for JSON."""
        known = {name: getattr(self, name) for name in ("seed", "nfe", "sigma", "ratio")}
        return known | {network: plain(getattr(self, network).frechet) for network in NETWORKS}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Over the seeds, at one number of evaluations: mean distances, their ratio, and by network all other figures."""

    nfe: int
    all: Estimate
    late: Estimate
    ratio: Estimate
    recall: dict[str, Estimate | None]
    copied: dict[str, Estimate | None]
    second: dict[str, Estimate | None]
    variance: dict[str, Estimate | None]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Pairs(Record):
    """The pairs of networks.

    Attributes:
        settings: as given.
        max_sigma: the late network's highest level.
        images: number of training images.
        features: name of the features of the distance.
        pairs: by evaluations and seed.
        summary: by evaluations.
        losses: by network, the running means of the training losses in the end; of different levels, so not comparable.
    """

    settings: LateTrainingSettings
    max_sigma: float
    images: int
    features: str
    pairs: list[Pair]
    summary: list[Summary]
    losses: dict[str, list[float]]

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        known = super().record()
        return known.pop("settings") | known


class LateTraining(Experiment[LateTrainingSettings, Pairs]):
    """Pairs of networks, trained on all levels and only below a start."""

    def measure(self, settings: LateTrainingSettings, lab: Lab) -> Pairs | None:
        """Train and sample all that is missing.

        Raises:
            ValueError: something that the settings name does not exist or does not fit the rest; samples that could not
                be drawn.
        """
        if settings.images is None:
            if settings.second is not None:
                raise ValueError(
                    f"second={settings.second}: the images of MNIST have a second feature space, and take no other"
                )
            bundle = zoo.load("mnist")
            return compare(settings, bundle.images("train"), shipped_judge(bundle), lab)
        extract, kept = open_features(settings.features), lab.out / "statistics.safetensors"
        second = None if settings.second is None else open_features(settings.second)
        reference = reference_of(settings.images, settings.held_out, extract, kept, lab, second)
        return compare(settings, load_images(settings.images), Judge(extract, reference, second), lab)


def compare(settings: LateTrainingSettings, data: Images, judge: Judge, lab: Lab) -> Pairs | None:
    """Train and sample the pairs on images that are read, with the judge of the samples."""
    with lab.bar("late training") as advance:
        lab.run.firsts(lambda: _prior(settings, data, lab)[1])  # the other processes find its file
        prior = _prior(settings, data, lab)
        losses = _train_all(settings, data, lab, advance)
        subjects = {}
        for name in _networks(settings):
            known = open_network(str(lab.out / name), settings.mixed_precision)
            subjects[name] = Subject(*known, priors={settings.prior: prior}, judge=judge)
        pairs = _pairs(settings, subjects, lab, advance)
    if not lab.run.first:
        return None
    return Pairs(
        settings=settings, max_sigma=top_level(settings), images=len(data), features=judge.features, pairs=pairs,
        summary=[_summary([pair for pair in pairs if pair.nfe == nfe]) for nfe in settings.nfe], losses=losses,
    )  # fmt: skip


def top_level(settings: LateTrainingSettings) -> float:
    """Return the late network's highest level: that of the time `start - 1`."""
    return float(Noise.from_scheduler(training_schedule(TrainConfig())).sigma(settings.start - 1))


def _prior(settings: LateTrainingSettings, data: Images, lab: Lab) -> tuple[Any, str]:
    def fit() -> Gaussian | Mixture:
        lab.tell(f"fitting the {settings.prior} of {len(data)} images")
        return Gaussian.fit(data) if settings.prior == "gaussian" else Mixture.fit(data)

    prior, known = kept_fit(lab.out, settings.prior, [fingerprint(data.pixels)], fit, tell=lab.tell)
    return prior.to(own_device()), known


def _networks(settings: LateTrainingSettings) -> dict[str, tuple[str, int]]:
    """By its name each network's kind and seed."""
    seeds = range(settings.seed, settings.seed + settings.seeds)
    return {f"{network}-{seed}": (network, seed) for seed, network in product(seeds, NETWORKS)}


def _train_all(settings: LateTrainingSettings, data: Images, lab: Lab, progress: Progress) -> dict[str, list[float]]:
    """Train the networks that are not trained yet, and return the last losses of all."""
    losses: dict[str, list[float]] = {network: [] for network in NETWORKS}
    networks, levels = _networks(settings), {"late": top_level(settings)}
    shared = {name: getattr(settings, name) for name in SHARED} | {"warmup": min(200, settings.steps // 10)}
    for place, (name, (network, seed)) in enumerate(networks.items()):

        def advance(step: int, steps: int, loss: float, done: int = place * settings.steps) -> None:
            progress(done + step, len(networks) * settings.steps, f"training, loss {loss:.4f}")

        config = TrainConfig(**shared, seed=seed, ema_decay=0.999, max_sigma=levels.get(network))
        train(data, lab.out / name, config, progress=advance)
        losses[network].append(json.loads((lab.out / name / SIDECAR).read_text())["training"]["loss"])
    return losses


def _pairs(settings: LateTrainingSettings, subjects: dict[str, Subject], lab: Lab, progress: Progress) -> list[Pair]:
    """The figures of each pair at each number of evaluations, in the first process."""
    start, networks = float(settings.start), _networks(settings)
    cells = [  # the white noise of a pair is that of its seed
        Cell.of(settings, model=name, seed=seed, sampler=settings.sampler, nfe=nfe, prior=settings.prior, t_start=start)
        for nfe, (name, (_, seed)) in product(settings.nfe, networks.items())
    ]
    sweep = Sweep(plan(cells, subjects), subjects, lab)
    # the prior is of the images that the networks learned, which after few steps may not know yet what is checked
    sweep.checked.update((cell.model, cell.prior) for cell in cells)
    sweep.measure(retry=True, progress=progress)
    if not lab.run.first:
        return []
    found: dict[tuple[int, int], dict[str, Any]] = {}
    for planned in sweep.planned:
        cell, outcome = planned.cell, sweep.outcome(planned)
        if outcome.figures is None or outcome.sigma is None:
            raise ValueError(f"{cell.model} at {cell.nfe} evaluations could not be sampled: {outcome.reason}")
        pair = found.setdefault((cell.nfe, cell.seed), {"sigma": outcome.sigma})
        pair[networks[cell.model][0]] = outcome.figures
    return [Pair(nfe=nfe, seed=seed, **pair) for (nfe, seed), pair in found.items()]


def _summary(pairs: list[Pair]) -> Summary:
    figures = {network: [getattr(pair, network) for pair in pairs] for network in NETWORKS}
    distances: dict[str, Any] = {
        network: over_seeds([f.frechet.value for f in mine]) for network, mine in figures.items()
    }
    logs = over_seeds(np.log([pair.ratio for pair in pairs]))
    ratio = Estimate(*(float(np.exp(end)) for end in (logs.value, logs.low, logs.high)))
    others: dict[str, Any] = {
        name: {network: _within([getattr(f, name) for f in mine], most) for network, mine in figures.items()}
        for name, most in (("recall", 1.0), ("copied", 1.0), ("second", np.inf), ("variance", np.inf))
    }
    return Summary(nfe=pairs[0].nfe, ratio=ratio, **others, **distances)


def _within(estimates: list[Estimate | None], most: float) -> Estimate | None:
    """Over the seeds, from 0 to `most`; None if not known of all."""
    known = [estimate.value for estimate in estimates if estimate is not None]
    if len(known) < len(estimates):
        return None
    over = over_seeds(known)
    return Estimate(over.value, max(0.0, over.low), min(most, over.high))


def over_seeds(values: Any) -> Estimate:
    """Return the mean of values with Student's 95% interval, `mean +- t_(n-1) s / sqrt(n)`; needs two of them."""
    numbers = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / len(numbers) ** 0.5
    return Estimate(float(numbers.mean()), float(numbers.mean() - half), float(numbers.mean() + half))
