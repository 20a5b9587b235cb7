"""Must a network that is only used below its start learn the levels above it? Two networks, and what they sample.

Both have the same build, steps and seed, and so the same first weights, and at every step the same images and the same
noise. One draws its times from all of the schedule, the other from those below the start alone (`max_sigma` of
`train.py`), of which it therefore sees more. Both are sampled from the same prior, from the same start, with the same
white noise, with 3, 5 and 10 evaluations. For each seed k of the training the distance of both, and their ratio,

    d_all(k),     d_late(k),     r(k) = d_late(k) / d_all(k),

and over the seeds the mean distances and the geometric mean of the ratios, with Student's 95% intervals,

    mean +- t_(n-1) s / sqrt(n),     for r of its logarithms.

The samples of another seed of training have other white noise, so that the intervals hold for that, too; within a pair
it is the same, so that the ratio is paired. With three seeds t is 4.3: a difference must be clear to be seen.

Expected: no harm, and a gain while steps are scarce, since about half of those of the other network go to levels that
are never asked for: after 1,500 steps on MNIST the late network has 0.70, 0.67 and 0.65 of the other's distance in 3, 5
and 10 evaluations. Networks that have hardly learned anything (40 steps) show neither.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from latestart import zoo
from latestart.data import Images, load_images
from latestart.denoisers.folders import SIDECAR
from latestart.device import own_device
from latestart.evaluation.quality import Estimate
from latestart.experiments.starts import kept
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.priors import load_prior
from latestart.lab.cells import plan
from latestart.lab.grid import Cell
from latestart.lab.judge import Figures, Judge, open_features, reference_of, shipped_judge
from latestart.lab.store import fingerprint
from latestart.lab.subjects import Subject, open_network
from latestart.lab.sweep import Sweep
from latestart.noise import Noise
from latestart.processes import Processes
from latestart.train import TIMES, train, training_schedule
from latestart.train_config import TrainConfig

NETWORKS = ("all", "late")
PRIORS = ("gaussian", "mixture")
EVALUATIONS = (3, 5, 10)

Tell = Callable[[str], None]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Setting:
    """What is trained, and what is measured of it.

    Attributes:
        start: t of the late start, of 1,000; the late network knows the levels up to that of `start - 1`.
        prior: "gaussian" or "mixture", of the training images.
        seeds: pairs of networks.
        seed: of the first pair; the others follow.
        steps, batch_size, learning_rate, channels, layers, patch, prediction: of the training (`TrainConfig`).
        nfe: network evaluations for each sample.
        samples: of each network.
        sampler: its short name.
        mixed_precision: "bf16" trains and evaluates the networks in half precision.

    Raises:
        ValueError: a prior that is not known, fewer than two seeds, or a start outside of the schedule.
    """

    start: int = 500
    prior: str = "gaussian"
    seeds: int = 3
    seed: int = 0
    steps: int = 2000
    batch_size: int = 64
    learning_rate: float = 2e-3
    channels: tuple[int, ...] = (32, 64)
    layers: int = 1
    patch: int = 2
    prediction: str = "v_prediction"
    nfe: tuple[int, ...] = EVALUATIONS
    samples: int = 1000
    sampler: str = "ddim"
    mixed_precision: str = "no"

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise ValueError(f"the prior is one of {', '.join(PRIORS)}, received {self.prior!r}")
        if self.seeds < 2:
            raise ValueError(f"an interval over seeds needs at least 2 of them, received {self.seeds}")
        if not max(self.nfe) <= self.start <= TIMES:
            raise ValueError(f"start={self.start} lies outside of the schedule: expected {max(self.nfe)} to {TIMES}")

    @property
    def sigma(self) -> float:
        """The level at which the late network's knowledge ends: that of the time `start - 1`."""
        return float(Noise.from_scheduler(training_schedule(TrainConfig())).sigma(self.start - 1))

    def training(self, network: str, seed: int) -> TrainConfig:
        """The training run of one network."""
        return TrainConfig(
            steps=self.steps, batch_size=self.batch_size, learning_rate=self.learning_rate,
            warmup=min(200, self.steps // 10), ema_decay=0.999,
            seed=seed, prediction=self.prediction, patch=self.patch, channels=self.channels, layers=self.layers,
            mixed_precision=self.mixed_precision,
            max_sigma=self.sigma if network == "late" else None,
        )  # fmt: skip


@dataclass(frozen=True)
class Pair:
    """Both networks of one seed at one number of evaluations, from the level `sigma`."""

    seed: int
    nfe: int
    sigma: float
    all: Figures
    late: Figures

    @property
    def ratio(self) -> float:
        """The late network's distance over the other's."""
        return self.late.frechet.value / self.all.frechet.value


@dataclass(frozen=True)
class Summary:
    """Over the seeds, at one number of evaluations: mean distances, their ratio, recalls and shares of copies."""

    nfe: int
    all: Estimate
    late: Estimate
    ratio: Estimate
    recall: dict[str, Estimate | None]
    copied: dict[str, Estimate | None]


@dataclass(frozen=True)
class Result:
    """What was found.

    Attributes:
        setting: what was asked.
        images: how many were trained on.
        features: the name of the extractor.
        pairs: by evaluations and seed.
        summaries: by evaluations.
        losses: by network, the running means of the training losses in the end; of different levels, so not comparable.
    """

    setting: Setting
    images: int
    features: str
    pairs: list[Pair]
    summaries: list[Summary]
    losses: dict[str, list[float]]


def run(
    out: Path,
    setting: Setting | None = None,
    images: str | None = None,
    held_out: str | None = None,
    features: str = "mnist",
    tell: Tell = lambda _: None,
    progress: Progress | None = None,
) -> Result:
    """Train and measure the pairs; a run that was cut off goes on from its folder.

    Args:
        out: folder of the networks and of all that is kept.
        setting: what is trained and measured.
        images: the training set, as `load_images` reads it; by default the 2,000 images of the shipped MNIST model.
        held_out: images that the networks have not seen, to tell copies by.
        features: of the Frechet distance: the name of a shipped extractor, or a file of weights.
        tell: told what is worth knowing.
        progress: told (done, total, what), of the steps of training and then of the evaluations.

    Raises:
        ValueError: what does not exist or does not fit, or samples that could not be drawn.
    """
    setting = setting or Setting()
    if images is None:
        bundle = zoo.load("mnist")
        return compare(bundle.images("train"), shipped_judge(bundle), out, setting, tell, progress)
    extract = open_features(features)
    reference = reference_of(images, held_out, extract, out / "statistics.safetensors", Processes(), tell)
    return compare(load_images(images), Judge(extract, reference), out, setting, tell, progress)


def compare(
    data: Images,
    judge: Judge,
    out: Path,
    setting: Setting,
    tell: Tell = lambda _: None,
    progress: Progress | None = None,
) -> Result:
    """`run`, for images that are read and the judge of the samples."""
    prior = {setting.prior: _prior(setting, data, out, tell)}
    losses = _train_all(data, out, setting, progress)
    subjects = {}
    for network, seed in _runs(setting):
        model, scheduler, known = open_network(str(_folder(out, network, seed)), setting.mixed_precision)
        subjects[f"{network}-{seed}"] = Subject(model, scheduler, known, prior, judge)
    pairs = _pairs(subjects, out, setting, tell, progress)
    summaries = [_summary([pair for pair in pairs if pair.nfe == nfe]) for nfe in setting.nfe]
    return Result(setting, len(data), judge.features, pairs, summaries, losses)


def _prior(setting: Setting, data: Images, out: Path, tell: Tell) -> tuple[Any, str]:
    def fit() -> Gaussian | Mixture:
        tell(f"fitting the {setting.prior} of {len(data)} images")
        return Gaussian.fit(data) if setting.prior == "gaussian" else Mixture.fit(data)

    prior, known = kept(out, setting.prior, fit, load_prior, fingerprint(data.pixels))
    return prior.to(own_device()), known


def _runs(setting: Setting) -> list[tuple[str, int]]:
    return [(network, setting.seed + k) for k in range(setting.seeds) for network in NETWORKS]


def _folder(out: Path, network: str, seed: int) -> Path:
    return out / f"{network}-{seed}"


def _train_all(data: Images, out: Path, setting: Setting, progress: Progress | None) -> dict[str, list[float]]:
    """Train what is not trained yet, and return the last losses."""
    runs = _runs(setting)
    for place, (network, seed) in enumerate(runs):

        def told(step: int, steps: int, loss: float, done: int = place * setting.steps) -> None:
            if progress is not None:
                progress(done + step, len(runs) * setting.steps, f"training, loss {loss:.4f}")

        train(data, _folder(out, network, seed), setting.training(network, seed), progress=told)
    return {network: [_loss(_folder(out, network, seed)) for n, seed in runs if n == network] for network in NETWORKS}


def _loss(folder: Path) -> float:
    return json.loads((folder / SIDECAR).read_text())["training"]["loss"]


def _pairs(
    subjects: dict[str, Subject], out: Path, setting: Setting, tell: Tell, progress: Progress | None
) -> list[Pair]:
    cells = {key: _cell(setting, *key) for key in _keys(setting)}
    planned = plan(cells.values(), subjects)
    sweep = Sweep(planned, subjects, out, tell=tell)
    # the prior is of the images that the networks learned, which after few steps may not know yet what is checked
    sweep.checked.update((one.cell.model, one.cell.prior) for one in planned)
    sweep.measure(retry=True, progress=progress)
    found = {}
    for key, one in zip(cells, planned):
        outcome = sweep.outcome(one)
        if outcome.figures is None or outcome.sigma is None:
            raise ValueError(f"{key[0]} at {key[2]} evaluations could not be sampled: {outcome.reason}")
        found[key] = (outcome.figures, outcome.sigma)
    return [
        Pair(seed, nfe, found["all", seed, nfe][1], *(found[network, seed, nfe][0] for network in NETWORKS))
        for nfe in setting.nfe
        for seed in sorted({seed for _, seed in _runs(setting)})
    ]


def _keys(setting: Setting) -> Iterable[tuple[str, int, int]]:
    return ((network, seed, nfe) for network, seed in _runs(setting) for nfe in setting.nfe)


def _cell(setting: Setting, network: str, seed: int, nfe: int) -> Cell:
    """The white noise of a pair is that of its seed."""
    return Cell(
        f"{network}-{seed}", setting.sampler, nfe, setting.prior, float(setting.start), "trailing", False,
        setting.samples, seed,
    )  # fmt: skip


def _summary(pairs: list[Pair]) -> Summary:
    figures = {network: [getattr(pair, network) for pair in pairs] for network in NETWORKS}
    one, late = (over_seeds([f.frechet.value for f in figures[network]]) for network in NETWORKS)
    logs = over_seeds(np.log([pair.ratio for pair in pairs]))
    ratio = Estimate(*(float(np.exp(end)) for end in (logs.value, logs.low, logs.high)))
    recall = {network: _share([f.recall for f in mine]) for network, mine in figures.items()}
    copied = {network: _share([f.copied for f in mine]) for network, mine in figures.items()}
    return Summary(pairs[0].nfe, one, late, ratio, recall, copied)


def _share(estimates: list[Estimate | None]) -> Estimate | None:
    """Over the seeds, within 0 and 1; None if not known of all."""
    known = [estimate.value for estimate in estimates if estimate is not None]
    if len(known) < len(estimates):
        return None
    over = over_seeds(known)
    return Estimate(over.value, max(0.0, over.low), min(1.0, over.high))


def over_seeds(values: Any) -> Estimate:
    """The mean of values with Student's 95% interval, `mean +- t_(n-1) s / sqrt(n)`; needs two of them."""
    numbers = np.asarray(values, dtype=float)
    half = stats.t.ppf(0.975, len(numbers) - 1) * numbers.std(ddof=1) / len(numbers) ** 0.5
    return Estimate(float(numbers.mean()), float(numbers.mean() - half), float(numbers.mean() + half))


def results(result: Result) -> dict[str, Any]:
    """All figures of the experiment, ready for `results.json`."""
    return {
        **asdict(result.setting),
        "max_sigma": result.setting.sigma,
        "images": result.images,
        "features": result.features,
        "losses": result.losses,
        "summary": [asdict(summary) for summary in result.summaries],
        "pairs": [
            {"seed": p.seed, "nfe": p.nfe, "sigma": p.sigma, "ratio": p.ratio}
            | {network: asdict(getattr(p, network).frechet) for network in NETWORKS}
            for p in result.pairs
        ],
    }
