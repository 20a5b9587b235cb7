"""The potential of a trained network between two of its own samples, beside that of the exact point cloud.

A network knows its potential along a curve, by the line integral of its drift. Between two samples x_1 and x_2, with
deviations `d_i = x_i - m` from the mean m of the data, the curves are

    circular    m + cos(a) d_1 + sin(a) d_2, a from 0 to pi / 2     the paper's, about the mean of the data
    straight    x_1 + a (x_2 - x_1), a from 0 to 1

each from a margin before x_1 to a margin beyond x_2, and the same at all times. About the origin, data whose mean is
not 0 would have a hump of |x|^2 in the middle of the circular curve at all times, which decides nothing.

The middle is a minimum where the curvature there is positive. In units of `beta |gamma'|^2 / std^2` it is

    margin = -std^2 / (beta |gamma'|^2) d/da [ drift(gamma(a)) . gamma'(a) ],

which on the straight curve is `c - v . J v`, with J the denoiser's Jacobian and v the unit vector between the samples:
the criterion "sde" in that direction. There it is c > 0 at high noise for any pair. On the circular curve |x - m|
hardly changes, so what is left at high noise is whether the two samples lie on the same side in the data's leading
directions: the middle begins as a well for some pairs only, and for these has a level.

Expected: one well in the middle at high noise and two wells toward the ends at low noise, for the network and the cloud
alike; at low noise the cloud may have a further well where a third image is nearest. The middle of the straight curve
stops being a minimum at t of about 470 for the shipped network and of about 650 for the cloud of its 2,000 images; that
of the circular curve, where it begins as one, at about 690 and 750. For two points +-m both curves are one line through
0, and the level is that of "sde", `alpha_bar = sqrt(L^2 + 1) - L` with `L = |m|^2`.

Source: Raya and Ambrogioni 2023, the potentials of trained networks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latestart import zoo
from latestart.checks import seeded
from latestart.data import Images, drawn, load_images
from latestart.denoisers.base import Denoiser
from latestart.denoisers.exact import PointCloud
from latestart.denoisers.networks import from_diffusers
from latestart.device import own_device
from latestart.experiments.theory.settings import PotentialSettings
from latestart.lab.experiment import Experiment, Lab, Progress
from latestart.lab.report import Report
from latestart.noise import Noise
from latestart.records import Record
from latestart.sampling.generate import generate
from latestart.sampling.samplers import make_sampler
from latestart.theory.levels import CriticalLevel
from latestart.theory.potential import Curve, Profile, along, circular, drift, rates, straight

BEYOND = 0.25  # of a curve's length, before its first sample and beyond its second
RANGE = (0.2, 0.8)  # of the scheduler's highest time: the times that are looked at
LEVELS, DRAWN = 16, 7  # times at which curvatures are taken, and of those drawn
STEP = 0.005  # of a curve's length, for the curvature
SAMPLER_STEPS = 50
SPREAD = (0.1, 0.9)  # quantiles over pairs
BATCH = 256


# --- curves and the curvature in their middle -------------------------------------------------------------------------


def curves(x_1: Tensor, x_2: Tensor, mean: Tensor) -> dict[str, Curve]:
    """The circular and the straight curve through two samples `(*shape)`, with their margins."""
    m = mean.double()
    arc, chord = circular(x_1.double() - m, x_2.double() - m), straight(x_1, x_2)
    margin = BEYOND * arc.high
    return {
        "circular": Curve(lambda a: m + arc.point(a), -margin, arc.high + margin),
        "straight": Curve(chord.point, -BEYOND, 1 + BEYOND),
    }


@torch.no_grad()
def middle_margins(denoiser: Denoiser, noise: Noise, each: list[Curve], t: float) -> np.ndarray:
    """The curvature of the potential in the middle of each curve, in units of `beta |gamma'|^2 / std^2`, `(n,)`."""
    points, tangents, widths = [], [], []
    for curve in each:
        h = STEP * (curve.high - curve.low) / (1 + 2 * BEYOND)
        middle = (curve.low + curve.high) / 2
        point, tangent = curve.at(torch.tensor([middle - h, middle + h], dtype=torch.float64))
        points.append(point)
        tangents.append(tangent.cpu())
        widths.append(2 * h)
    forces = torch.cat([drift(denoiser, x, t, noise).cpu() for x in torch.cat(points).split(BATCH)])
    power = (forces * torch.cat(tangents)).flatten(1).sum(1).view(-1, 2)
    length = torch.stack(tangents).mean(1).flatten(1).square().sum(1)
    at = rates(noise, t)
    curvature = -(power[:, 1] - power[:, 0]) / torch.tensor(widths, dtype=torch.float64)
    return (curvature * (at.alpha * at.sigma) ** 2 / (at.g2 * length)).numpy()


def levels(times: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """The first time, under falling noise, from which each pair's middle is no minimum, `(P,)`, linear between times.

    Args:
        times: `(T,)`, falling.
        margins: `(T, P)`.

    Returns:
        NaN for a pair whose middle is no minimum at the first time, or still one at the last.
    """
    found = np.full(margins.shape[1], np.nan)
    for pair, values in enumerate(margins.T):
        below = np.flatnonzero(values <= 0)
        if len(below) and (k := below[0]) > 0:
            share = values[k - 1] / (values[k - 1] - values[k])
            found[pair] = times[k - 1] + share * (times[k] - times[k - 1])
    return found


@dataclass(frozen=True, eq=False, repr=False)
class Family(Record):
    """The potential along one kind of curve, at falling times.

    Attributes:
        curve: "circular" or "straight".
        profiles: of the drawn pair, one for each time.
        times, margins: `(T,)` and `(T, P)`, the curvatures in the middle of all pairs' curves.
        noise: the network's process.
    """

    curve: str
    profiles: list[Profile]
    times: np.ndarray
    margins: np.ndarray
    noise: Noise

    @property
    def shapes(self) -> list[np.ndarray]:
        """Each profile less its value in the middle, over its range."""
        return [(p.potential - p.potential[len(p.potential) // 2]) / np.ptp(p.potential) for p in self.profiles]

    @property
    def wells(self) -> list[int]:
        """Minima inside of each profile."""
        return [int(((u[1:-1] < u[:-2]) & (u[1:-1] <= u[2:])).sum()) for u in self.shapes]

    @property
    def begins_as_well(self) -> float:
        """The share of pairs whose middle is a minimum at the highest time."""
        return float((self.margins[0] > 0).mean())

    @property
    def level(self) -> CriticalLevel | None:
        """The median over pairs of the level at which the middle stops being a minimum; None where it never does."""
        found = levels(self.times, self.margins)
        found = found[~np.isnan(found)]
        if not len(found):
            return None
        low, high = (self.noise.sigma(float(t)) for t in np.quantile(found, SPREAD))
        how = f"median of {len(found)} pairs of samples whose middle begins as a minimum; interval: their central 80%"
        sigma = self.noise.sigma(float(np.median(found)))
        return CriticalLevel(sigma, f"middle of the {self.curve} curve", how, (low, high)).on(self.noise)


@dataclass(frozen=True, eq=False, repr=False)
class Side(Record):
    """A model's potential between samples of its own.

    Attributes:
        name: "network" or "point cloud".
        ends: `(2, *shape)`, the two samples of the drawn pair.
        families: the circular and the straight curves.
    """

    name: str
    ends: Tensor
    families: list[Family]


def study(
    name: str,
    denoiser: Denoiser,
    noise: Noise,
    samples: Tensor,
    mean: Tensor,
    times: np.ndarray,
    drawn: np.ndarray,
    points: int = 49,
    progress: Callable[[str], None] | None = None,
) -> Side:
    """The curvatures in the middle for all pairs of samples, and the potential along the curves of one typical pair.

    That pair is the one with the median level on the circular curve; where no pair has one, on the straight.

    Args:
        samples: `(n, *shape)`, at least two.
        mean: `(*shape)`, of the data.
        times: `(T,)`, falling, for the curvatures.
        drawn: falling times of the profiles.
        points: of a profile, odd: the middle is one of them.
    """
    if len(samples) < 2 or points % 2 == 0:
        raise ValueError(f"expected at least 2 samples and an odd number of points, received {len(samples)}, {points}")
    pairs = [curves(samples[i], samples[j], mean) for i, j in combinations(range(len(samples)), 2)]
    margins: dict[str, list[np.ndarray]] = {kind: [] for kind in pairs[0]}
    for t in times.tolist():
        for kind, rows in margins.items():
            rows.append(middle_margins(denoiser, noise, [pair[kind] for pair in pairs], t))
        _tell(progress, f"{name}, curvatures at t = {t:.0f}")
    stacked = {kind: np.stack(rows) for kind, rows in margins.items()}
    typical = _typical(times, stacked)
    profiles: dict[str, list[Profile]] = {kind: [] for kind in margins}
    for t in drawn.tolist():
        for kind, curve in pairs[typical].items():
            profiles[kind].append(along(denoiser, curve, noise, t, points, BATCH))
        _tell(progress, f"{name}, potential at t = {t:.0f}")
    ends = samples[list(list(combinations(range(len(samples)), 2))[typical])].cpu()
    return Side(name, ends, [Family(kind, profiles[kind], times, stacked[kind], noise) for kind in margins])


def _typical(times: np.ndarray, margins: dict[str, np.ndarray]) -> int:
    for kind in ("circular", "straight"):
        found = levels(times, margins[kind])
        if not np.isnan(found).all():
            return int(np.nanargmin(np.abs(found - np.nanmedian(found))))
    return 0


def _tell(progress: Callable[[str], None] | None, what: str) -> None:
    if progress is not None:
        progress(what)


# --- the experiment ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True)
class Result:
    """All that the figure shows: the network and the point cloud of `count` images, by falling times t."""

    model: str
    count: int
    seed: int
    samples: int
    sides: list[Side]

    def record(self) -> dict[str, Any]:
        """Return all figures, ready for `results.json`."""
        return {
            "model": self.model,
            "images": self.count,
            "samples": self.samples,
            "seed": self.seed,
            "sides": {side.name: {f.curve: _figures(f) for f in side.families} for side in self.sides},
        }


def run(
    model: str = "mnist",
    images: Images | None = None,
    samples: int = 8,
    seed: int = 0,
    t_range: tuple[float | None, float | None] = (None, None),
    points: int = 49,
    levels_at: int = LEVELS,
    drawn_at: int = DRAWN,
    progress: Progress | None = None,
    **opened: Any,
) -> Result:
    """The potentials of a network and of the images at hand, each between samples of its own.

    Args:
        model: a shipped model's name, or a folder.
        images: the point cloud; by default the training images that come with a shipped model.
        samples: of each; all their pairs are looked at.
        seed: of the network's samples, and of the choice among the images.
        t_range: lowest and highest time, in the scheduler's units; None stands for 0.2 and 0.8 of its highest.
        points: of a curve, odd.
        levels_at, drawn_at: numbers of times, of the curvatures and of the drawn curves.
        progress: called as `progress(done, total, what)`.
        opened: what `zoo.open_model` takes beside the model and its device.

    Raises:
        ValueError: a folder without images, images of another shape, too few, or times outside of the schedule.
    """
    network, scheduler, _ = zoo.open_model(model, device=own_device(), **opened)
    denoiser = from_diffusers(network, scheduler)
    floats = _images(model, images, denoiser, samples).floats().to(denoiser.device)
    low, high = (share * denoiser.noise.t_range[1] if t is None else t for share, t in zip(RANGE, t_range))
    if not low < high:
        raise ValueError(f"expected a range of times from low to high, received {low:g}, {high:g}")
    times, shown = np.linspace(high, low, levels_at), np.linspace(high, low, drawn_at)
    sampler = make_sampler("ddim", scheduler, spacing="trailing", clip_sample=False)
    own = generate(network, sampler, n=samples, steps=SAMPLER_STEPS, seed=seed).samples
    picked = torch.randperm(len(floats), generator=seeded(seed))[:samples]
    done, total = 0, 2 * (levels_at + drawn_at)

    def advance(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, what)

    def side(name: str, which: Denoiser, ends: Tensor) -> Side:
        return study(name, which, denoiser.noise, ends, floats.mean(0), times, shown, points, advance)

    sides = [side("network", denoiser, own), side("point cloud", PointCloud(floats), floats[picked])]
    return Result(model=model, count=len(floats), seed=seed, samples=samples, sides=sides)


def _images(model: str, images: Images | None, denoiser: Denoiser, samples: int) -> Images:
    if images is None:
        if model not in zoo.names():
            raise ValueError(f"{model} comes without images: give a set of images for its exact point cloud")
        images = zoo.load(model).images("train")
    if images.shape != tuple(denoiser.shape):
        raise ValueError(f"the model's samples are {tuple(denoiser.shape)}, received images {images.shape}")
    if not 2 <= samples <= len(images):
        raise ValueError(f"expected between 2 and {len(images)} samples, as there are images, received {samples}")
    return images


def _figures(family: Family) -> dict[str, Any]:
    level = family.level
    spread = None
    if level is not None and level.interval is not None:
        spread = [family.noise.time(sigma) for sigma in level.interval]
    return {
        "middle_stops_being_a_minimum": None if level is None else {**level.record(), "interval_t": spread},
        "pairs": family.margins.shape[1],
        "begins_as_well": family.begins_as_well,
        "times": [p.t for p in family.profiles],
        "wells": family.wells,
        "curvature": {"t": family.times.tolist(), "median": np.median(family.margins, 1).tolist()},
    }


class PotentialBetween(Experiment[PotentialSettings, Result]):
    """The potential of a network between two of its samples."""

    def measure(self, settings: PotentialSettings, lab: Lab) -> Result | None:
        """Sample the network, and integrate its drift along the curves between its samples."""
        if not lab.run.first:
            return None
        cloud = settings.images
        images = None if cloud is None else load_images(cloud, background=settings.background)
        images = None if images is None or settings.limit is None else drawn(images, settings.limit, settings.seed)
        with lab.bar("integrating") as advance:
            return run(
                settings.model, images, settings.samples, settings.seed, (settings.t_low, settings.t_high),
                progress=advance, scheduler=settings.scheduler, mixed_precision=settings.mixed_precision,
            )  # fmt: skip

    def page(self, result: Result, folder: Path) -> Report:
        """Draw the potentials, and return the levels of the middle as a table."""
        from latestart.experiments.theory.page import potentials

        return potentials(result, folder)
