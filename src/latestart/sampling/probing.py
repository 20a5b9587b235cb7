"""Probing: which of many starts leads nearest to the data, by few samples.

The noise. Samples come in blocks. In the start and in every step, the leading directions of the data, `V` `(r, D)` with
orthonormal rows, get the points of a scrambled Sobol net instead of independent normal numbers,

    z = w - V^T V w + V^T ndtri(u),    w ~ N(0, I),    u the net's points in [0, 1]^r

Each sample's noise is exactly white, so the samples are those that a user would draw, but a block of them is spread
evenly over the regions that the data fall into. Blocks are independent of each other and samples of one block are not,
so the energy distance leaves out the pairs within a block and has no bias. Block b meets the same noise at every start:
differences between starts are known far better than the distances.

The images. Where the prior was fitted to more of them than are at hand, they are weighted to its mean and covariance.

The target. Samples are compared with images, or with the model's own samples by a long run from the same noise
(`reference.py`); there, too, pairs of one block are left out.

The starts lie on a ladder of levels, evenly spaced in log sigma. The first of three rounds looks at all of it, four
rungs apart, the next two at five starts, two rungs apart, about the best so far, with equally many blocks, those that
are known already included; the best is the vertex of a parabola through them, and moves the next round.

Sources: Owen 1995 for scrambled nets, Joe and Kuo 2008 for their numbers; Deville and Saerndal 1992 for the weights.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from latestart.evaluation.kernel import paired_blocks
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.sampling.seeds import sample_generator

__all__ = ["BlockNoise", "OwnSamples", "Probes", "block_size", "leading", "moment_weights", "vertex", "zoom"]

DIRECTIONS, SEEN = 32, 512  # leading directions, and images that they are found from
DRAWS = 12  # noises of a sample that share one net; those of later steps, which change it less, are independent
BLOCKS = 6  # for each start of the first look, at least, of all probes together
LEAST = 3  # blocks at a start that can be judged
STRIDE, ROUNDS = 2, 3  # rungs between neighbours of the best start
CALIBRATED = 8  # directions along which the images are weighted to the prior's moments
FEWEST = 200  # probes with which every start of every round has its blocks


class BlockNoise:
    """White noise in blocks of `size` samples that are spread evenly along the leading directions of the images.

    Args:
        images: `(n, *shape)`.
        size: samples in a block, a power of two.
        draws: noises of each sample, of the start and of the steps; the first `DRAWS` of them share one net.
        seed: of all blocks.
    """

    def __init__(self, images: Tensor, size: int, draws: int, seed: int) -> None:
        self.shape, self.size, self.draws, self.seed = tuple(images.shape[1:]), size, min(draws, DRAWS), seed
        self.directions = leading(images).float()

    def __call__(self, block: int) -> Tensor:
        """Block number `block`, `(min(draws, DRAWS), size, *shape)`, float32."""
        generator, (r, dim) = sample_generator(self.seed, block), self.directions.shape
        net = torch.quasirandom.SobolEngine(self.draws * r, scramble=True, seed=generator.initial_seed())
        u = net.draw(self.size, dtype=torch.float64) + 2.0**-31  # the net's points are multiples of 2^-30, 0 included
        along = torch.special.ndtri(u).float().view(self.size, self.draws, r).movedim(1, 0)
        w = torch.randn(self.draws, self.size, dim, generator=generator)
        z = w + (along - w @ self.directions.T) @ self.directions
        return z.reshape(self.draws, self.size, *self.shape)


class Target(Protocol):
    """The samples that others are compared with, by a distance that leaves out pairs of one block."""

    def by_blocks(self, features: Tensor, block: int) -> tuple[float, Tensor]:
        """The distance of features in blocks, and that without each block."""


class OwnSamples:
    """The model's own samples as a target; block b of them has the noise of block b of every start.

    Args:
        block: features `(size, F)` of block b of the model's samples.
    """

    def __init__(self, block: Callable[[int], Tensor]) -> None:
        self.block = block
        self.features: list[Tensor] = []

    def rows(self, count: int) -> Tensor:
        """The features of the first blocks, `(count size, F)`."""
        self.features.extend(self.block(b) for b in range(len(self.features), count))
        return torch.cat(self.features[:count])

    def by_blocks(self, features: Tensor, block: int) -> tuple[float, Tensor]:
        """The distance of features `(N, F)` in blocks, and that without each block."""
        return paired_blocks(features, self.rows(len(features) // block), block)


class Probes:
    """The samples' features at every start that was probed, block after block.

    Args:
        block: features `(size, F)` of block b of the samples from a start, `block(t_start, b)`.
        to_data: the distance to the images' features.
        size: samples in a block.
        least: blocks at a start that can be judged.
    """

    def __init__(self, block: Callable[[float, int], Tensor], to_data: Target, size: int, least: int = LEAST) -> None:
        self.block, self.to_data, self.size, self.least = block, to_data, size, least
        self.features: dict[float, list[Tensor]] = {}

    def level(self, starts: Iterable[float], total: int) -> None:
        """Bring all starts to equally many blocks, `least` or more, within `total` blocks of all starts if possible."""
        known = {t: len(self.features.get(t, ())) for t in starts}
        spent, wanted = sum(map(len, self.features.values())), self.least
        while spent + sum(max(0, wanted + 1 - n) for n in known.values()) <= total and wanted < total:
            wanted += 1
        for t, n in known.items():
            self.features.setdefault(t, []).extend(self.block(t, b) for b in range(n, wanted))

    def samples(self, t_start: float) -> int:
        """The number of samples from a start."""
        return self.size * len(self.features[t_start])

    def distance(self, t_start: float) -> float:
        """The energy distance of all samples from there."""
        return self.to_data.by_blocks(torch.cat(self.features[t_start]), self.size)[0]

    def distances(self, starts: Sequence[float]) -> np.ndarray:
        """The distance of each start, `(S,)`, of the blocks that all of them have."""
        common = min(len(self.features[t]) for t in starts)
        rows = [torch.cat(self.features[t][:common]) for t in starts]
        return np.array([self.to_data.by_blocks(some, self.size)[0] for some in rows])


def zoom(
    rungs: Iterable[int],
    start: Callable[[float], float],
    rung: Callable[[float], float],
    probes: Probes,
    total: int,
) -> float:
    """The best start of a ladder, in the scheduler's t.

    Args:
        rungs: looked at first.
        start: the nearest start that there is to a rung.
        rung: where a start lies on the ladder; starts are whole numbers, so not quite where it was asked for.
        probes: of the starts.
        total: blocks of all probes together.
    """
    near, best = list(rungs), 0.0
    for turn in range(ROUNDS):
        if turn > 0:
            near = [round(best / STRIDE) * STRIDE + STRIDE * k for k in (-2, -1, 0, 1, 2)]
        starts = list(dict.fromkeys(start(k) for k in near))
        probes.level(starts, total * (turn + 1) // ROUNDS)
        places, values = np.array([rung(t) for t in starts]), probes.distances(starts)
        best = vertex(places, values) if turn > 0 else float(places[values.argmin()])
    return start(best)


def vertex(places: np.ndarray, values: np.ndarray) -> float:
    """The lowest point of the parabola through values at places, by least squares, within their range.

    A few points that lie wide apart place it better than their lowest does: noise moves every value, and the parabola
    averages over them. Without a parabola that opens upward it is the lowest value's place.
    """
    if len(places) < 3:
        return float(places[values.argmin()])
    square, slope, _ = np.polyfit(places, values, 2)
    return float(places[values.argmin()] if square <= 0 else np.clip(-slope / (2 * square), places.min(), places.max()))


def moment_weights(images: Tensor, prior: Any) -> Tensor | None:
    """Weights `(n,)` of the images with which their mean and covariance, along leading directions, are the prior's.

    A prior that was fitted to more images than there are here knows their moments better. With `q_i` the coordinates
    of image i and their products, `S` their covariance and `mu` the prior's expectation of them,

        w_i = (1 + (mu - mean q)^T S^-1 (q_i - mean q)) / n

    the weights nearest to equal ones that have these moments (calibration: Deville and Saerndal 1992). None where the
    prior is no Gaussian with a full covariance of more images.
    """
    if not (isinstance(prior, Gaussian) and isinstance(prior.basis, Dense) and (prior.count or 0) > len(images)):
        return None
    rows = images.flatten(1).double().cpu()
    along = leading(images)[:CALIBRATED]
    mean = prior.mean.flatten().double().cpu()
    root = prior.push(along.reshape(-1, *prior.shape).to(prior.mean)).flatten(1).double().cpu() - mean
    i, j = torch.triu_indices(len(along), len(along))
    at = (rows - mean) @ along.T
    moments = torch.cat([at, at[:, i] * at[:, j]], 1)
    wanted = torch.cat([torch.zeros(len(along), dtype=torch.float64), (root @ root.T)[i, j]])
    if len(images) < 10 * len(wanted):
        return None
    apart = moments - moments.mean(0)
    return (1 + apart @ torch.linalg.lstsq(apart.T @ apart / len(rows), wanted - moments.mean(0)).solution) / len(rows)


def leading(images: Tensor) -> Tensor:
    """The leading principal directions of the images, orthonormal, `(r, D)`, float64."""
    rows = images[:SEEN].flatten(1).double().cpu()
    return torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[:DIRECTIONS]


def block_size(probes: int, starts: int) -> int:
    """Samples in a block where so many starts are looked at first: a power of two, for other nets are not balanced.

    In larger blocks samples are spread more evenly, and fewer of them are left to vary; six for each start suffice.
    """
    return 2 ** max(1, int(math.log2(probes / (BLOCKS * starts))))
