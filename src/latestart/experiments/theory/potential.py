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

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations, count
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
from latestart.experiments.theory.process import timed
from latestart.experiments.theory.settings import PotentialSettings
from latestart.lab.experiment import Experiment, Lab
from latestart.noise import Noise
from latestart.records import Record
from latestart.sampling.generate import generate
from latestart.sampling.samplers import make_sampler
from latestart.theory.levels import CriticalLevel
from latestart.theory.potential import Curve, Profile, along, circular, drift, rates, straight

__all__ = ["Family", "PotentialBetween", "Result", "Side", "curves", "levels", "middle_margins", "study"]

BEYOND = 0.25  # of a curve's length, before its first sample and beyond its second
RANGE = (0.2, 0.8)  # of the scheduler's highest time: the times that are looked at
LEVELS, DRAWN = 16, 7  # times at which curvatures are taken, and of those drawn
POINTS = 49  # of a drawn curve
STEP = 0.005  # of a curve's length, for the curvature
SAMPLER_STEPS = 50
SPREAD = (0.1, 0.9)  # quantiles over pairs
BATCH = 256


# --- curves and the curvature in their middle -------------------------------------------------------------------------


def curves(x_1: Tensor, x_2: Tensor, mean: Tensor) -> dict[str, Curve]:
    """Return the circular and the straight curve through two samples `(*shape)`, with their margins."""
    m = mean.double()
    arc, chord = circular(x_1.double() - m, x_2.double() - m), straight(x_1, x_2)
    margin = BEYOND * arc.high
    return {
        "circular": Curve(lambda a: m + arc.point(a), -margin, arc.high + margin),
        "straight": Curve(chord.point, -BEYOND, 1 + BEYOND),
    }


@torch.no_grad()
def middle_margins(denoiser: Denoiser, noise: Noise, each: list[Curve], t: float) -> np.ndarray:
    """Return the potential's curvature in the middle of each curve, in units of `beta |gamma'|^2 / std^2`, `(n,)`.

    The curves are of one kind: their parameters run from the same beginning to the same end.
    """
    at, low, high = rates(noise, t), each[0].low, each[0].high
    middle, h = (low + high) / 2, STEP * (high - low) / (1 + 2 * BEYOND)
    a = torch.tensor([middle - h, middle + h], dtype=torch.float64)
    points, along = zip(*(curve.at(a) for curve in each))
    tangents = torch.stack(along).cpu()
    forces = torch.cat([drift(denoiser, x, t, noise) for x in torch.cat(points).split(BATCH)]).cpu()
    power = (forces.view_as(tangents) * tangents).flatten(2).sum(2)
    length = tangents.mean(1).flatten(1).square().sum(1)
    curvature = -(power[:, 1] - power[:, 0]) / (2 * h)
    return (curvature * (at.alpha * at.sigma) ** 2 / (at.g2 * length)).numpy()


def levels(times: np.ndarray, margins: np.ndarray) -> np.ndarray:
    """Return the first of falling times from which each pair's middle is no minimum, `(P,)`, linear between times.

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


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
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
        """Return each profile less its value in the middle, over its range."""
        return [(p.potential - p.potential[len(p.potential) // 2]) / np.ptp(p.potential) for p in self.profiles]

    @property
    def wells(self) -> list[int]:
        """Count the minima inside of each profile."""
        return [int(((u[1:-1] < u[:-2]) & (u[1:-1] <= u[2:])).sum()) for u in self.shapes]

    @property
    def begins_as_well(self) -> float:
        """Return the share of pairs whose middle is a minimum at the highest time."""
        return float((self.margins[0] > 0).mean())

    @property
    def level(self) -> CriticalLevel | None:
        """Return the median over pairs of the level at which the middle stops being a minimum, or None."""
        found = levels(self.times, self.margins)
        found = found[~np.isnan(found)]
        if not len(found):
            return None
        low, high = (self.noise.sigma(float(t)) for t in np.quantile(found, SPREAD))
        how = f"median of {len(found)} pairs of samples whose middle begins as a minimum; interval: their central 80%"
        sigma = self.noise.sigma(float(np.median(found)))
        return CriticalLevel(sigma, f"middle of the {self.curve} curve", how, (low, high)).on(self.noise)

    def record(self) -> dict[str, Any]:
        """Return the level of the middle, the wells of the drawn pair, and the median curvatures, for JSON."""
        level = self.level
        return {
            "middle_stops_being_a_minimum": level and timed(level, self.noise),
            "pairs": self.margins.shape[1],
            "begins_as_well": self.begins_as_well,
            "times": [profile.t for profile in self.profiles],
            "wells": self.wells,
            "curvature": {"t": self.times.tolist(), "median": np.median(self.margins, 1).tolist()},
        }


@dataclass(frozen=True, eq=False, repr=False)
class Side(Record):
    """A model's potential between samples of its own.

    Attributes:
        ends: `(2, *shape)`, the two samples of the drawn pair.
        families: the circular and the straight curves.
    """

    ends: Tensor
    families: list[Family]

    def record(self) -> dict[str, Any]:
        """Return the families by the names of their curves, for JSON."""
        return {family.curve: family.record() for family in self.families}


def study(
    denoiser: Denoiser,
    noise: Noise,
    samples: Tensor,
    mean: Tensor,
    times: np.ndarray,
    drawn: np.ndarray,
    points: int,
    tell: Callable[[str], None] = lambda _: None,
) -> Side:
    """Take the curvatures in the middle for all pairs of samples, and the potential along the curves of a typical one.

    That pair is the one with the median level on the circular curve; where no pair has one, on the straight.

    Args:
        samples: `(n, *shape)`, at least two.
        mean: `(*shape)`, of the data.
        times: `(T,)`, falling, for the curvatures.
        drawn: falling times of the profiles.
        points: of a profile, odd: the middle is one of them.
        tell: receives a note after each time of each curve.
    """
    if len(samples) < 2 or points % 2 == 0:
        raise ValueError(f"expected at least 2 samples and an odd number of points, received {len(samples)}, {points}")
    index = list(combinations(range(len(samples)), 2))
    pairs = [curves(samples[i], samples[j], mean) for i, j in index]

    def told(times: np.ndarray, what: str) -> Iterator[float]:
        for t in times.tolist():
            yield t
            tell(f"{what} at t = {t:.0f}")

    margins = {
        kind: np.stack(
            [middle_margins(denoiser, noise, [pair[kind] for pair in pairs], t) for t in told(times, "curvatures")]
        )
        for kind in pairs[0]
    }
    known = next((one for one in (levels(times, found) for found in margins.values()) if not np.isnan(one).all()), None)
    typical = 0 if known is None else int(np.nanargmin(np.abs(known - np.nanmedian(known))))
    families = [
        Family(
            curve=kind,
            profiles=[along(denoiser, curve, noise, t, points, BATCH) for t in told(drawn, kind)],
            times=times,
            margins=found,
            noise=noise,
        )
        for (kind, curve), found in zip(pairs[typical].items(), margins.values())
    ]
    return Side(samples[list(index[typical])].cpu(), families)


# --- the experiment ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class Result(Record):
    """All that the figure shows: the network and the point cloud of so many images, by falling times t."""

    model: str
    images: int
    samples: int
    seed: int
    sides: dict[str, Side]


def _cloud(settings: PotentialSettings, shape: tuple[int, ...]) -> Images:
    """The images of the point cloud: given ones, or the training images of a shipped model."""
    if settings.images is not None:
        images = load_images(settings.images, background=settings.background)
        images = images if settings.limit is None else drawn(images, settings.limit, settings.seed)
    elif settings.model in zoo.names():
        images = zoo.load(settings.model).images("train")
    else:
        raise ValueError(f"{settings.model} comes without images: give a set of images for its exact point cloud")
    if images.shape != shape:
        raise ValueError(f"the model's samples are {shape}, received images {images.shape}")
    if settings.samples > len(images):
        raise ValueError(f"expected at most {len(images)} samples, as there are images, received {settings.samples}")
    return images


class PotentialBetween(Experiment[PotentialSettings, Result]):
    """The potential of a network between two of its samples."""

    shown_by = "page.potentials"

    def measure(self, settings: PotentialSettings, lab: Lab) -> Result | None:
        """Sample the network, and integrate its drift along the curves between its samples; likewise the point cloud's.

        Raises:
            ValueError: a folder without images, images of another shape, too few, or times outside of the schedule.
        """
        if not lab.run.first:
            return None
        network, scheduler, _ = zoo.open_model(
            settings.model, device=own_device(), scheduler=settings.scheduler, mixed_precision=settings.mixed_precision
        )
        denoiser = from_diffusers(network, scheduler)
        floats = _cloud(settings, tuple(denoiser.shape)).floats().to(denoiser.device)
        asked, noise = (settings.t_low, settings.t_high), denoiser.noise
        low, high = (share * noise.t_range[1] if t is None else t for share, t in zip(RANGE, asked))
        if not low < high:
            raise ValueError(f"expected a range of times from low to high, received {low:g}, {high:g}")
        sampler = make_sampler("ddim", scheduler, spacing="trailing", clip_sample=False)
        own = generate(network, sampler, n=settings.samples, steps=SAMPLER_STEPS, seed=settings.seed).samples
        picked = torch.randperm(len(floats), generator=seeded(settings.seed))[: settings.samples]
        done, times, shown = count(1), np.linspace(high, low, LEVELS), np.linspace(high, low, DRAWN)

        def side(model: Denoiser, ends: Tensor) -> Side:
            return study(model, noise, ends, floats.mean(0), times, shown, POINTS, tell)

        def tell(what: str) -> None:
            advance(next(done), 4 * (LEVELS + DRAWN), what)

        with lab.bar("integrating") as advance:
            sides = {"network": side(denoiser, own), "point cloud": side(PointCloud(floats), floats[picked])}
        return Result(
            model=settings.model, images=len(floats), samples=settings.samples, seed=settings.seed, sides=sides
        )
