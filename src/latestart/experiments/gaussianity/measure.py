"""Is the early distribution Gaussian? Tests of normality at falling noise, beside the divergence in nats.

At each start t, that is at the level of the scheduler's time t - 1, where a late start from t begins, two sets of
samples `y = x_t / alpha_t` are tested (`evaluation/gaussianity.py`):

    forward   training images under exact noise: the distribution that every prior stands for
    network   the network's own early phase: DDIM from full noise, stopped there

and each against two hypotheses: that it is some Gaussian ("own"), and that it is the Gaussian of the training images
at that level ("prior"), the very one that a late start draws from. The second sees more: a sampler's few steps leave a
Gaussian Gaussian and change its covariance. The forward process has its own noise at every level; the network's paths
are the same at all of them, so an effect of chance on these lasts from level to level.

At a level, the five tests are corrected by Holm's method. Levels are tested from the lowest noise up, and the first
that is not rejected ends the sequence: with that order fixed in advance, the chance of any false rejection stays below
0.05 over all levels (Maurer, Hothorn and Lehmacher 1995). `onset` is the last level rejected.

Beside them stands KL(p_sigma || prior_sigma) of held-out images, in nats (`theory/nats.py`). It bounds the power of any
test: n samples distinguish two distributions once n KL exceeds a few nats, but each of the tests here looks at a few
directions and moments only.

Each level is kept in the experiment's folder the moment that it is tested: a run that was cut off goes on, walking the
network's paths down to the levels that are missing, and ends with the same figures.

    levels/KEY.json    the tests of one level; the key is of all that they depend on

Expected on the shipped MNIST model, 1,000 samples: "any Gaussian" is rejected from t = 600 down for the forward process
(0.05 nats; clearly so from 550), and from 450 for the network, a little after the divergence passes 1 nat, at t = 478;
the prior is rejected from t = 500 down for the forward process, and from 700 for the network, whose DDIM paths are a
little narrower than the prior (kurtosis below 1).
"""

from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart.data import Images, drawn
from latestart.denoisers.adapter import sample_shape
from latestart.evaluation.gaussianity import Gaussianity, Test, gaussianity
from latestart.experiments.gaussianity.paths import STOPS, early_phase, noised, stops_of, stride_of
from latestart.experiments.gaussianity.settings import GaussianitySettings
from latestart.files import write_json
from latestart.fingerprints import fingerprint, key_of
from latestart.gaussians.gaussian import Gaussian
from latestart.lab.divergence import kept_divergence, require_no_classes
from latestart.lab.experiment import Experiment, Lab
from latestart.lab.store import Store, read_kept
from latestart.lab.subjects import open_images, open_network, open_prior
from latestart.noise import Noise
from latestart.records import Record, plain
from latestart.sampling.loop import check_level
from latestart.sampling.matching import check_prior
from latestart.sampling.seeds import sample_generator
from latestart.theory.levels import CriticalLevel
from latestart.theory.nats import NatsCurve

__all__ = ["BUDGET", "PANELS", "PROCESSES", "Case", "EarlyGaussianity", "Level", "Normality", "open_case"]

SHARES = tuple(k / 20 for k in range(18, 3, -1))  # of the schedule: the starts
PROCESSES, HYPOTHESES = ("forward", "network"), ("own", "prior")
PANELS = tuple(product(PROCESSES, HYPOTHESES))
BUDGET = 1.0  # nats
STREAM = 2**33  # of the forward process' noise, by levels; those of samples and of nats are below
VERSION = 1  # of the levels' files

Found = dict[tuple[str, str], Gaussianity]  # by process and hypothesis


@dataclass(frozen=True, eq=False)
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
    found: Found

    def record(self) -> dict[str, Any]:
        """Return all figures, for JSON."""
        tests = {", ".join(panel): found.record()["tests"] for panel, found in self.found.items()}
        return {"t_start": self.t_start, "sigma": self.sigma, "nats": self.nats, **tests}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Normality(Record):
    """All levels, highest first, and the divergence.

    Attributes:
        levels: that were tested.
        curve: of the divergence.
        t: its time at each of the curve's levels.
        one_nat: where it passes 1 nat; None where it never does.
        unseen: whether it is of images that the model has not seen.
        weights: fingerprint of the model.
        settings: as given.
    """

    levels: list[Level]
    curve: NatsCurve
    t: Tensor
    one_nat: CriticalLevel | None
    unseen: bool
    weights: str
    settings: GaussianitySettings

    def onset(self, process: str, hypothesis: str, level: float = 0.05) -> int | None:
        """Return the highest start from which on down every level is rejected; None if not even the lowest is."""
        rejected = [each.found[process, hypothesis].p <= level for each in reversed(self.levels)]
        count = [*rejected, False].index(False)
        return self.levels[-count].t_start if count else None

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        first = self.levels[0].found["forward", "own"]
        nats = {name: getattr(self.curve, name) for name in ("sigma", "nats", "error", "worse")}
        kept = {name: getattr(self, name) for name in ("settings", "weights", "one_nat", "levels")}
        kept |= {"samples": first.n, "rank": first.rank, "replicates": first.replicates}
        kept |= {"rejected_from_t": {", ".join(panel): self.onset(*panel) for panel in PANELS}}
        return plain({**kept, "nats": {**nats, "t": self.t, "unseen_images": self.unseen}})


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """A model, the Gaussian that it is tested against, and the images.

    Attributes:
        model: the network, its scheduler, and the fingerprint of both.
        prior: the Gaussian, and the fingerprint of its file.
        images: one training image for each sample.
        unseen: images that the model has not seen; None where there are none.
        noise: of the scheduler.
        starts: falling, in the scheduler's t.
        settings: as given.
    """

    model: tuple[Any, Any, str]
    prior: tuple[Gaussian, str]
    images: Images
    unseen: Images | None
    noise: Noise
    starts: tuple[int, ...]
    settings: GaussianitySettings

    def sigma(self, t_start: int) -> float:
        """Return the level at which a late start from `t_start` begins."""
        return self.noise.sigma(float(t_start - 1))

    def named(self, t_start: int) -> dict[str, Any]:
        """Return all that the tests at a start depend on, by name."""
        named = {"weights": self.model[2], "prior": self.prior[1], "images": fingerprint(self.images.pixels)}
        named |= {name: getattr(self.settings, name) for name in ("samples", "rank", "seed", "replicates")}
        return {"version": VERSION, "stops": STOPS, **named, "t_start": t_start}

    def tested(self, t_start: int, walked: Tensor) -> Found:
        """Test both processes at a start: noised images, and the network's paths `(n, *shape)` there."""
        settings, sigma = self.settings, self.sigma(t_start)
        forward = noised(self.images.floats(), sigma, sample_generator(settings.seed, STREAM + t_start))
        sets = dict(zip(PROCESSES, (forward, walked.cpu())))
        against = dict(zip(HYPOTHESES, (None, self.prior[0].to("cpu").noised(sigma))))
        more: dict[str, Any] = {"replicates": settings.replicates, "seed": settings.seed}
        return {
            (process, hypothesis): gaussianity(sets[process], against[hypothesis], settings.rank, **more)
            for process, hypothesis in PANELS
        }


class EarlyGaussianity(Experiment[GaussianitySettings, Normality]):
    """Tests of normality of the noised images and of the network's early samples, beside the nats."""

    def measure(self, settings: GaussianitySettings, lab: Lab) -> Normality | None:
        """Test every level that is missing in the folder, and measure the divergence.

        Raises:
            ValueError: something that the settings name does not exist or does not fit the rest; more samples than
                images; starts between the stops of DDIM.
        """
        if not lab.run.first:
            return None
        case = open_case(settings)
        found = _tested(case, lab)
        seen = case.images if case.unseen is None else case.unseen
        curve = kept_divergence(lab, case.model, case.prior, seen)
        sigmas = [case.sigma(t) for t in case.starts]
        nats = curve.at(torch.tensor(sigmas)).tolist()
        levels = [Level(t, sigma, each, found[t]) for t, sigma, each in zip(case.starts, sigmas, nats)]
        one_nat = None
        with suppress(ValueError):  # it does not pass within the curve and the schedule
            one_nat = curve.level(BUDGET, case.noise)
        return Normality(
            levels=levels, curve=curve, t=torch.as_tensor(case.noise.time(curve.sigma)), weights=case.model[2],
            one_nat=one_nat, unseen=case.unseen is not None, settings=settings,
        )  # fmt: skip


def open_case(settings: GaussianitySettings) -> Case:
    """Open all that settings name.

    Raises:
        ValueError: something does not exist or does not fit the rest.
    """
    images, unseen = open_images(settings.model, settings.images, settings.held_out)
    model = open_network(settings.model, settings.mixed_precision, settings.scheduler)
    network, scheduler, _ = model
    require_no_classes(network)
    prior = open_prior(settings.model, settings.prior)
    if images.shape != (shape := sample_shape(network)):
        raise ValueError(f"the model's samples are {shape}, the images {images.shape}")
    if settings.samples > len(images):
        raise ValueError(f"{settings.samples} independent samples need as many images, received {len(images)}")
    if not isinstance(prior[0], Gaussian):
        kind = type(prior[0]).__name__
        raise ValueError(f"the prior {settings.prior} is a {kind}: expected a Gaussian, which is what is tested")
    check_level(network, scheduler, None)
    check_prior(network, scheduler, prior[0])
    stride = stride_of(scheduler)
    starts = sorted(settings.starts or (round(share * STOPS) * stride for share in SHARES), reverse=True)
    stops_of(scheduler, starts)
    return Case(
        model=model, prior=prior, images=drawn(images, settings.samples, 0), unseen=unseen,
        noise=Noise.from_scheduler(scheduler), starts=tuple(starts), settings=settings,
    )  # fmt: skip


def _tested(case: Case, lab: Lab) -> dict[int, Found]:
    """Return the tests at every start; those missing in the folder are made from the highest noise down, and kept."""
    store, settings, (network, scheduler, _) = Store(lab.out / "levels", "{}.json", lab.tell), case.settings, case.model
    named = {t: case.named(t) for t in case.starts}
    kept = {t: store.found(key_of(named[t]), partial(_read, named=named[t])) for t in case.starts}
    found = {t: one for t, one in kept.items() if one is not None}
    missing = tuple(t for t in case.starts if t not in found)
    walk = early_phase(network, scheduler, settings.samples, missing, settings.seed, settings.batch_size)
    with lab.bar("testing") as advance:
        for t, walked in zip(missing, walk):
            found[t] = case.tested(t, walked)
            tests = {", ".join(panel): asdict(one) for panel, one in found[t].items()}
            write_json(store.path(key_of(named[t])), {"configuration": named[t], "found": tests})
            advance(len(found), len(case.starts), f"t = {t}")
    return found


def _read(path: Path, named: dict[str, Any]) -> Found:
    """Return the tests of a kept level."""
    known, names = read_kept(path, named)["found"], [each.name for each in fields(Test)]
    found = {}
    for panel in PANELS:
        one = known[", ".join(panel)]
        tests = tuple(Test(**{name: test[name] for name in names}) for test in one["tests"])
        found[panel] = Gaussianity(**{**one, "tests": tests})
    return found
