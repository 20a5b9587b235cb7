"""Is the early distribution Gaussian? Tests of normality at falling noise, beside the divergence in nats.

At each start t, that is at the level of the scheduler's time t - 1, where a late start from t begins, two sets of
samples `y = x_t / alpha_t` are tested (`evaluation/gaussianity.py`):

    forward   training images under exact noise: the distribution that every prior stands for
    network   the network's own early phase: DDIM from full noise, stopped there

and each against two hypotheses: that it is some Gaussian ("own"), and that it is the Gaussian of the training images
at that level ("prior"), the very one that a late start draws from. The second sees more: a sampler's few steps leave a
Gaussian Gaussian and change its covariance. The forward process has its own noise at every level; the network's paths
are the same at all of them, so what chance does to these lasts from level to level.

At a level, the five tests are corrected by Holm's method. Levels are tested from the lowest noise up, and the first
that is not rejected ends the sequence: with that order fixed in advance, the chance of any false rejection stays below
0.05 over all levels (Maurer, Hothorn and Lehmacher 1995). `onset` is the last level rejected.

Beside them stands KL(p_sigma || prior_sigma) of held-out images, in nats (`theory/nats.py`). It bounds what any test
can see: n samples tell two distributions apart about when n KL exceeds a few nats, but each of the tests here looks at
a few directions and moments only.

Each level is kept in the experiment's folder the moment that it is tested: a run that was cut off goes on, walking the
network's paths down to the levels that are missing, and ends with the same figures.

    levels/KEY.json    the tests of one level; the key is of all that they depend on

Expected on the shipped MNIST model, 1,000 samples: "any Gaussian" is rejected from t = 600 down for the forward process
(0.05 nats; clearly so from 550), and from 450 for the network, a little after the divergence passes 1 nat, at t = 478;
the prior is rejected from t = 500 down for the forward process, and from 700 for the network, whose DDIM paths are a
little narrower than the prior (kurtosis below 1).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.data import Images
from latestart.denoisers.adapter import sample_shape
from latestart.evaluation.gaussianity import REPLICATES, Gaussianity, Test, gaussianity
from latestart.files import read_json, write_json
from latestart.gaussians.gaussian import Gaussian
from latestart.lab import divergence
from latestart.lab.divergence import kept_divergence, nats_at, require_no_classes, some
from latestart.lab.store import fingerprint, is_of, kept_at, key_of
from latestart.lab.subjects import open_images, open_network, open_prior
from latestart.noise import Noise
from latestart.records import Record
from latestart.sampling.late_start import trajectory
from latestart.sampling.loop import check_level
from latestart.sampling.matching import check_prior
from latestart.sampling.run import Run, initial_sample
from latestart.sampling.samplers import make_sampler
from latestart.sampling.seeds import sample_generator, white_noise
from latestart.theory.levels import CriticalLevel
from latestart.theory.nats import NatsCurve

SHARES = tuple(k / 20 for k in range(18, 3, -1))  # of the schedule: the starts
STOPS = 40  # of DDIM on the whole schedule; the starts are some of them
PROCESSES, HYPOTHESES = ("forward", "network"), ("own", "prior")
PANELS = tuple(product(PROCESSES, HYPOTHESES))
BUDGET = 1.0  # nats
FEWEST = 10  # samples of a test
STREAM = 2**33  # of the forward process' noise, by levels; those of samples and of nats are below
VERSION = 1  # of the levels' files

Progress = Callable[[int, int, str], None]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What is tested.

    Attributes:
        model: the name of a shipped model, or a folder.
        prior: `gaussian`, the one beside the model, or a file of a Gaussian.
        images: the training images, as `load_images` reads them; the shipped model's own if not given.
        held_out: images that the model has not seen, for the divergence.
        samples: at each level, of each process.
        rank: leading directions that are tested; by default as `evaluation.gaussianity` has it.
        seed: of the noise and of the tests.
        starts: in the scheduler's t; if not given, every twentieth of the schedule from nine tenths down to a fifth.
        replicates: of the tests under their hypothesis.
        batch_size: samples that the network evaluates at once.

    Raises:
        ValueError: fewer samples than the tests need.
    """

    model: str = "mnist"
    prior: str = "gaussian"
    images: str | None = None
    held_out: str | None = None
    samples: int = 1000
    rank: int | None = None
    seed: int = 0
    starts: tuple[int, ...] = ()
    replicates: int = REPLICATES
    batch_size: int = 250
    mixed_precision: str = "no"
    scheduler: str | None = None

    def __post_init__(self) -> None:
        least = max(FEWEST, 2 * (self.rank or 1))
        if self.samples < least:
            directions = "" if self.rank is None else f" on {self.rank} directions"
            raise ValueError(f"samples: the tests{directions} need at least {least}, received {self.samples}")
        if self.replicates < 1 or self.batch_size < 1:
            raise ValueError(
                f"expected replicates and a batch size of at least 1, received {self.replicates} and {self.batch_size}"
            )


@dataclass(frozen=True)
class Level:
    """The tests at one start.

    Attributes:
        t_start: the start; the level is that of the scheduler's time t_start - 1.
        sigma: the level.
        nats: divergence of the noised images from the prior there.
        found: by process and hypothesis.
    """

    t_start: int
    sigma: float
    nats: float
    found: dict[tuple[str, str], Gaussianity]


@dataclass(frozen=True, eq=False, repr=False)
class Result(Record):
    """All levels, highest first, and the divergence.

    Attributes:
        levels: that were tested.
        curve: of the divergence.
        t: its time at each of the curve's levels.
        one_nat: where it passes 1 nat; None where it never does.
        unseen: whether it is of images that the model has not seen.
        weights: the fingerprint of the model.
        settings: what was asked for.
    """

    levels: list[Level]
    curve: NatsCurve
    t: Tensor
    one_nat: CriticalLevel | None
    unseen: bool = True
    weights: str = ""
    settings: Settings = field(default_factory=Settings)

    def onset(self, process: str, hypothesis: str, level: float = 0.05) -> int | None:
        """The highest start from which on down every level is rejected; None if not even the lowest is."""
        rejected = [each.found[process, hypothesis].p <= level for each in reversed(self.levels)]
        count = [*rejected, False].index(False)
        return self.levels[-count].t_start if count else None

    def record(self) -> dict[str, Any]:
        """All figures of the experiment, ready for `results.json`."""
        first = self.levels[0].found["forward", "own"]
        return {
            "settings": asdict(self.settings),
            "weights": self.weights,
            "samples": first.n,
            "rank": first.rank,
            "replicates": first.replicates,
            "one_nat": None if self.one_nat is None else self.one_nat.record(),
            "rejected_from_t": {", ".join(panel): self.onset(*panel) for panel in PANELS},
            "levels": [_row(level) for level in self.levels],
            "nats": {**divergence.record(self.curve), "t": self.t.tolist(), "unseen_images": self.unseen},
        }


def _row(level: Level) -> dict[str, Any]:
    tests = {", ".join(panel): found.record()["tests"] for panel, found in level.found.items()}
    return {"t_start": level.t_start, "sigma": level.sigma, "nats": level.nats, **tests}


class Levels:
    """The tests of both processes in a folder, where each level is kept the moment that it is done.

    Args:
        settings: what is tested.
        out: the folder.
        tell: told what is worth knowing.

    Raises:
        ValueError: something that the settings name does not exist or does not fit the rest; more samples than images;
            starts between the stops of DDIM.
    """

    def __init__(self, settings: Settings, out: Path, tell: Tell = lambda _: None) -> None:
        self.settings, self.out, self.tell = settings, out, tell
        images, self.unseen = open_images(settings.model, settings.images, settings.held_out)
        self.network, self.scheduler, self.weights = open_network(
            settings.model, settings.mixed_precision, settings.scheduler
        )
        require_no_classes(self.network)
        self.prior = open_prior(settings.model, settings.prior)
        self.images = chosen(images, settings.samples, sample_shape(self.network))
        if not isinstance(self.prior[0], Gaussian):
            kind = type(self.prior[0]).__name__
            raise ValueError(f"the prior {settings.prior} is a {kind}: expected a Gaussian, which is what is tested")
        check_level(self.network, self.scheduler, None)
        check_prior(self.network, self.scheduler, self.prior[0])
        stride = stride_of(self.scheduler)
        asked = settings.starts or tuple(round(share * STOPS) * stride for share in SHARES)
        self.starts = tuple(sorted(set(asked), reverse=True))
        stops_of(self.scheduler, self.starts)
        self.noise = Noise.from_scheduler(self.scheduler)
        named = {"weights": self.weights, "prior": self.prior[1], "images": fingerprint(self.images.pixels)}
        named |= {name: getattr(settings, name) for name in ("samples", "rank", "seed", "replicates")}
        self.configuration: dict[str, Any] = {"version": VERSION, "stops": STOPS, **named}

    def measure(self, progress: Progress | None = None) -> None:
        """Test the missing levels, from the highest noise down, and call `progress(done, total, what)` after each."""
        missing = [t for t in self.starts if self._stored(t) is None]
        if not missing:
            return
        done = len(self.starts) - len(missing)
        settings, images = self.settings, self.images.floats()
        walk = early_phase(
            self.network, self.scheduler, settings.samples, tuple(missing), settings.seed, settings.batch_size
        )
        for t_start, walked in zip(missing, walk):
            sigma = self.noise.sigma(float(t_start - 1))
            fresh = sample_generator(settings.seed, STREAM + t_start)
            self._keep(t_start, sigma, {"forward": noised(images, sigma, fresh), "network": walked.cpu()})
            done += 1
            if progress is not None:
                progress(done, len(self.starts), f"t = {t_start}")

    def result(self) -> Result:
        """All levels, from the folder, beside the divergence; what `measure` has done."""
        seen = self.images if self.unseen is None else self.unseen
        curve = kept_divergence(self.out, self.network, self.scheduler, self.weights, self.prior, seen, self.tell)
        levels = []
        for t_start in self.starts:
            found = self._stored(t_start)
            assert found is not None
            sigma = self.noise.sigma(float(t_start - 1))
            nats = float(nats_at(torch.tensor([sigma]), curve.sigma, curve.nats)[0])
            levels.append(Level(t_start, sigma, nats, found))
        t = torch.as_tensor(self.noise.time(curve.sigma))
        return Result(
            levels, curve, t, one_nat(curve, self.noise), self.unseen is not None, self.weights, self.settings
        )

    def _keep(self, t_start: int, sigma: float, sets: dict[str, Tensor]) -> None:
        settings, prior = self.settings, self.prior[0].to("cpu").noised(sigma)
        found = {
            ", ".join((process, hypothesis)): asdict(
                gaussianity(y, against, settings.rank, replicates=settings.replicates, seed=settings.seed)
            )
            for process, y in sets.items()
            for hypothesis, against in zip(HYPOTHESES, (None, prior))
        }
        write_json(self._file(t_start), {"configuration": self._named(t_start), "found": found})

    def _named(self, t_start: int) -> dict[str, Any]:
        return {**self.configuration, "t_start": t_start}

    def _file(self, t_start: int) -> Path:
        return kept_at(self.out / "levels", "{}.json", key_of(self._named(t_start)))

    def _stored(self, t_start: int) -> dict[tuple[str, str], Gaussianity] | None:
        """The stored result of a level; None if there is none, or a damaged one."""
        path = self._file(t_start)
        if not path.is_file():
            return None
        try:
            known = read_json(path) or {}
            if not is_of(known["configuration"], self._named(t_start)):
                raise ValueError("it holds another level")
            return {panel: _found(known["found"][", ".join(panel)]) for panel in PANELS}
        except (ValueError, KeyError, TypeError) as error:
            self.tell(f"{path} does not hold a sound level ({error}): it is tested again")
            return None


def _found(known: dict[str, Any]) -> Gaussianity:
    names = [each.name for each in fields(Test)]
    tests = tuple(Test(**{name: test[name] for name in names}) for test in known["tests"])
    return Gaussianity(**{name: known[name] for name in ("hypothesis", "n", "rank", "replicates")}, tests=tests)


def chosen(images: Images, samples: int, shape: tuple[int, ...]) -> Images:
    """Draw one image for each sample, none of them twice.

    Raises:
        ValueError: too few of them, or of another shape than the model's samples.
    """
    if images.shape != shape:
        raise ValueError(f"the model's samples are {shape}, the images {images.shape}")
    if samples > len(images):
        raise ValueError(f"{samples} independent samples need as many images, received {len(images)}")
    return some(images, samples)


def one_nat(curve: NatsCurve, noise: Noise) -> CriticalLevel | None:
    """Where the divergence passes `BUDGET`; None where it does not, within the curve and the schedule."""
    try:
        return curve.level(BUDGET, noise)
    except ValueError:
        return None


def noised(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """`x_0 + sigma eps`, `(n, *shape)`."""
    return images + sigma * torch.randn(images.shape, generator=generator)


def stride_of(scheduler: Any) -> int:
    """Times of a schedule between two stops of DDIM.

    Raises:
        ValueError: no beta-based schedule, or one whose times the stops do not divide.
    """
    betas: Tensor | None = getattr(scheduler, "alphas_cumprod", None)
    if betas is None or len(betas) % STOPS:
        told = type(scheduler).__name__ if betas is None else f"one of {len(betas)}"
        raise ValueError(f"DDIM is stopped on beta-based schedules of a multiple of {STOPS} times, received {told}")
    return len(betas) // STOPS


def stops_of(scheduler: Any, starts: Sequence[int]) -> list[int]:
    """How many steps of DDIM lie above each start.

    Raises:
        ValueError: a start that DDIM does not stop at, or starts that do not fall.
    """
    stride = stride_of(scheduler)
    top = stride * STOPS
    steps = [(top - t) // stride for t in starts]
    if any((top - t) % stride or not 0 < t < top for t in starts) or steps != sorted(set(steps)):
        raise ValueError(f"expected falling starts that are multiples of {stride} below {top}, received {starts}")
    return steps


def early_phase(
    model: Any, scheduler: Any, n: int, starts: tuple[int, ...], seed: int, batch_size: int = 250
) -> Iterator[Tensor]:
    """The scaled samples `x_t / alpha_t` `(n, *shape)` of DDIM from full noise when it comes to each start's time.

    Raises:
        ValueError: a start that DDIM does not stop at, or starts that do not fall.
    """
    steps, noise = stops_of(scheduler, starts), Noise.from_scheduler(scheduler)
    ranges = [range(i, min(i + batch_size, n)) for i in range(0, n, batch_size)]
    batches = [_walk(model, scheduler, index, seed) for index in ranges]
    x, done = torch.empty(0), 0
    for t, step in zip(starts, steps):
        for _ in range(step - done):
            x = torch.cat([next(batch) for batch in batches])
        done = step
        yield x / noise.alpha(float(t - 1))


@torch.no_grad()
def _walk(model: Any, scheduler: Any, index: range, seed: int) -> Iterator[Tensor]:
    own = make_sampler("ddim", scheduler, spacing="trailing", clip_sample=False)
    own.set_timesteps(STOPS)
    z = white_noise(index, sample_shape(model), seed).to(model.device)
    yield from trajectory(Run(own), model, initial_sample(own, z))
