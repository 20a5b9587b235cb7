"""The component of each image in a mixture: k-means, then EM on noised data, in a few directions.

Images are told apart along few directions: those in which they vary most. The images are projected on `DIRECTIONS` of
these, found by subspace iteration on a random sample of them, and only the projections `(N, r)` are kept. There,
k-means (k-means++ and Lloyd's iterations) gives first clusters, and EM refines them.

EM maximises the log-density of the data noised to a level sigma, `y = x + sigma eps`, under `S_k = C_k + sigma^2 I`.
For shares `r_k(x)` that depend on the image and not on its noise the noise integrates out, and Jensen's inequality says

    E log sum_k w_k N(y; m_k, S_k) >= F = E_x sum_k r_k (log w_k + log N(x; m_k, S_k) - 1/2 sigma^2 tr S_k^-1 - log r_k)

Both steps are closed, so F rises with every iteration, without drawing any noise and without singular densities:

    r_k(x) in proportion to w_k N(x; m_k, S_k) exp(-1/2 sigma^2 tr S_k^-1)
    w_k = E r_k,    m_k = E[r_k x] / w_k,    S_k = E[r_k (x - m_k)(x - m_k)^T] / w_k + sigma^2 I

The level says how fine a difference counts. Two clusters of a data set whose largest variance is L are one for the
noised density above `sigma^2 = L` (the critical level of its modes), and EM would rightly merge them there; by default
sigma is a quarter of that, below the first decisions and far above the width of a pixel's noise. Where one direction
varies far more than those in which the clusters differ (brightness, in photographs), that is still above them and some
components die out; then it is halved until none does.

Images are read three times, in blocks whose size does not depend on how they come: the result is the same, bit for bit,
for one array and for any split into batches.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from latestart.checks import checked_seed, seeded
from latestart.data import ImageSet
from latestart.gaussians.sums import CHUNK, Sums
from latestart.inputs.front import Stream
from latestart.records import Record

__all__ = ["Assignment", "assigned", "blocks", "kmeans"]

DIRECTIONS = 64
SAMPLE, SAMPLE_BYTES = 4096, 2**29  # images whose directions are taken: at most so many, and so much memory
ROWS, ROWS_EACH = 10_000, 500  # images, and images a component if those are more, that k-means++ and EM look at
LLOYD = 30  # iterations at most
ROUNDS, GAIN = 25, 1e-3  # EM: iterations at most, and the gain in nats an image below which it stops
HALVINGS = 6  # of the default level, at most
POWERS = 6  # of the subspace iteration
BLOCK_VALUES = 2**25  # numbers in a block of images at most
ROUNDING = 1e-13  # of the squared norm of the mean: a smaller variance is that of rounding
NEGLIGIBLE = 1e-8  # shares below it do not count in sums


@dataclass(frozen=True, eq=False, repr=False)
class Directions(Record):
    """An affine map of images to their coordinates along r orthonormal directions.

    Attributes:
        origin: `(D,)`.
        vectors: `(D, r)`.
        width: largest variance of the images, in any direction.
    """

    origin: Tensor
    vectors: Tensor
    width: float

    def __call__(self, images: Tensor) -> Tensor:
        """Coordinates `(B, r)` of images `(B, *shape)`."""
        return (images.flatten(1).to(self.vectors) - self.origin) @ self.vectors


@dataclass(frozen=True, eq=False, repr=False)
class Assignment(Record):
    """The component of each image, with coordinates that recognise the images when they are read again.

    All of it stands on the processor, wherever the images were told apart: every process of a run is handed it.

    Attributes:
        numbers: the component of each image, `(N,)`; the j-th of the c-th class has the number `c * components + j`.
        directions: along which they were told apart.
        coordinates: of the images along them, `(N, r)`.
    """

    numbers: Tensor
    directions: Directions
    coordinates: Tensor

    def require_same(self, block: Tensor, start: int) -> None:
        """Raise `ValueError` if the images `(B, *shape)` from number `start` on are not those that were assigned."""
        expected, slack = self.coordinates[start : start + 1], 1e-3 * math.sqrt(self.directions.width)
        if not torch.allclose(self.directions(block[:1]), expected, rtol=1e-3, atol=slack):
            raise ValueError(
                f"image {start} is another one than when the images were read before: expected the same images in the "
                "same order every time (no shuffling, no random augmentation)"
            )


def assigned(images: ImageSet, components: int, labels: Tensor | None, sigma: float | None, seed: int) -> Assignment:
    """The component of each image by k-means and EM, each class by itself.

    Args:
        images: to be read twice here.
        components: in each class.
        labels: class indices of the images, `(N,)`, or None for one class.
        sigma: level of EM; by default a quarter of the largest deviation of the data, or half, a quarter, ... of that,
            the highest at which no component dies out.
        seed: of the sample and of the first centres.

    Raises:
        ValueError: images that can be read only once; a class with fewer images than components; images that are all
            the same; another number of labels than images; and what moments refuse.
    """
    require_rereadable(images)
    sample, count = _sampled(images, seed)
    labels = torch.zeros(count, dtype=torch.long) if labels is None else labels
    if len(labels) != count:
        raise ValueError(f"expected a label for each image: received {count} images and {len(labels)} labels")
    names, classes, sizes = labels.unique(return_inverse=True, return_counts=True)
    if components > (size := int(sizes.min())):
        whose = f" of class {names[sizes.argmin()]}" if len(names) > 1 else ""
        raise ValueError(f"{components} components were asked for, more than the {size} images{whose}")
    directions = principal(sample, seed)
    if directions.width == 0:
        raise ValueError(f"all {count} images are the same: nothing tells {components} components apart")
    z = torch.cat([directions(block) for block in blocks(images)])
    levels = [0.25 * math.sqrt(directions.width) * 0.5**k for k in range(HALVINGS)] if sigma is None else [float(sigma)]
    for level in levels:
        numbers = torch.empty(count, dtype=torch.long)
        for c in range(len(names)):
            numbers[classes == c] = c * components + _told_apart(z[classes == c], components, level, seed).cpu()
        if numbers.bincount(minlength=len(names) * components).all():
            break
    directions = Directions(directions.origin.cpu(), directions.vectors.cpu(), directions.width)
    return Assignment(numbers, directions, z.cpu())


def _told_apart(z: Tensor, k: int, sigma: float, seed: int) -> Tensor:
    """The component of each row z `(N, r)`, `(N,)`; EM looks at a random part of them."""
    first = kmeans(z, k, seed)
    part = _chosen(z, max(ROWS, ROWS_EACH * k), seeded(seed))
    clusters, _ = em(z[part], first[part], k, sigma)
    return torch.cat([clusters.joint(rows).argmax(1) for rows in z.split(ROWS)])


def require_rereadable(images: ImageSet) -> None:
    """Raise `ValueError` if the images come from an iterator, which can be read only once."""
    if isinstance(images, Stream) and images.once:
        raise ValueError(
            "components are found by reading the images three times, but an iterator "
            f"({type(images.source).__name__}) can be read once: expected an array, a list of batches, or an iterable "
            "that begins anew each time"
        )


def blocks(images: ImageSet) -> Iterator[Tensor]:
    """Yield the same images in blocks of a fixed size, however they come; where the shape changes a block ends.

    Raises:
        ValueError: no images.
    """
    waiting: list[Tensor] = []
    held = count = 0
    for batch in images:
        count += len(batch)
        if waiting and batch.shape[1:] != waiting[0].shape[1:]:
            yield torch.cat(waiting)
            waiting, held = [], 0
        size = max(1, min(CHUNK, BLOCK_VALUES // prod(batch.shape[1:])))
        for part in batch.tensor_split(list(range(size - held, len(batch), size))):
            waiting.append(part)
            held += len(part)
            if held == size:
                yield torch.cat(waiting) if len(waiting) > 1 else part
                waiting, held = [], 0
    if not count:
        raise ValueError("expected at least one batch of images to fit a mixture to, received none")
    if held:
        yield torch.cat(waiting)


def principal(sample: Tensor, seed: int) -> Directions:
    """The directions in which images `(n, *shape)` vary most, by subspace iteration (Halko et al. 2011)."""
    rows = sample.flatten(1)
    origin = rows.mean(0)
    rows = rows - origin
    r = min(DIRECTIONS, rows.shape[1], max(1, len(rows) - 1))
    extra = min(r + 16, *rows.shape)
    noise = torch.randn(len(rows), extra, generator=seeded(seed), dtype=rows.dtype)
    q = torch.linalg.qr(rows.T @ noise.to(rows))[0]
    for _ in range(POWERS):
        q = torch.linalg.qr(rows.T @ (rows @ q))[0]
    seen = (rows @ q).double()
    values, turn = torch.linalg.eigh(seen.T @ seen / max(1, len(rows) - 1))
    width = values[-1].item() if values[-1] > ROUNDING * origin.square().sum() else 0.0
    return Directions(origin, (q @ turn.flip(1).to(q))[:, :r].contiguous(), width)


def kmeans(z: Tensor, k: int, seed: int) -> Tensor:
    """Clusters of rows z `(N, r)` by k-means++ (Arthur and Vassilvitskii 2007) and Lloyd's iterations: `(N,)`."""
    centres = _seeded(z, k, seeded(seed))
    cluster = _nearest(z, centres)
    for _ in range(LLOYD):
        sizes = cluster.bincount(minlength=k)
        sums = torch.zeros_like(centres).index_add_(0, cluster, z)
        centres = torch.where((sizes > 0)[:, None], sums / sizes.clamp(min=1)[:, None].to(z), centres)
        before, cluster = cluster, _nearest(z, centres)
        if torch.equal(before, cluster):
            break
    return cluster


class Clusters:
    """Weights, means and covariances of clusters of rows, by one M-step from the shares `(N, k)` in rows `(N, r)`."""

    def __init__(self, z: Tensor, shares: Tensor, sigma: float) -> None:
        parts = [_normal(z, shares[:, j], sigma) for j in range(shares.shape[1])]
        self.constants, self.means, self.whiten = (torch.stack(part) for part in zip(*parts))

    def joint(self, z: Tensor) -> Tensor:
        """`log w_k + log N(z; m_k, S_k) - 1/2 sigma^2 tr S_k^-1`, `(N, k)`."""
        white = (torch.addmm(-mean @ w, z, w) for mean, w in zip(self.means, self.whiten))
        return self.constants - 0.5 * torch.stack([torch.linalg.vector_norm(x, dim=1) for x in white], 1).square()


def em(z: Tensor, cluster: Tensor, k: int, sigma: float) -> tuple[Clusters, list[float]]:
    """EM from given clusters.

    Args:
        z: rows `(N, r)`.
        cluster: of each row, `(N,)`.
        k: number of components.
        sigma: noise level, above 0.

    Returns:
        The components, and F, nats a row, at the start and after each iteration.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise ValueError(f"EM needs a noise level sigma above 0, received {sigma}")
    clusters, history = Clusters(z, torch.nn.functional.one_hot(cluster, k).to(z), sigma), []
    while True:
        joint = clusters.joint(z)
        history.append(joint.logsumexp(1).mean(dtype=torch.float64).item())
        if len(history) > ROUNDS or (len(history) > 1 and history[-1] - history[-2] < GAIN):
            return clusters, history
        clusters = Clusters(z, joint.softmax(1), sigma)


def _normal(z: Tensor, share: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """The constant `()`, the mean `(r,)` and `S^(-1/2)` `(r, r)` of one component's log-density."""
    counts = share > NEGLIGIBLE
    w, x = share[counts], z[counts]
    identity = torch.eye(z.shape[1], dtype=torch.float64, device=z.device)
    if not len(x):  # it has died out, and stays so
        return z.new_tensor(-math.inf), torch.zeros_like(z[0]), identity.to(z)
    total = w.sum(dtype=torch.float64)
    mean = (w @ x) / total.to(z)
    d = (x - mean) * w.sqrt()[:, None]
    factor = _root((d.T @ d).double() / total + sigma**2 * identity, sigma)
    whiten = torch.linalg.solve_triangular(factor, identity, upper=False).T
    volume = len(identity) * math.log(2 * math.pi) + 2 * factor.diagonal().log().sum()
    constant = (total / len(z)).log() - 0.5 * (volume + sigma**2 * whiten.square().sum())
    return constant.to(z), mean, whiten.to(z).contiguous()


def _root(covariance: Tensor, sigma: float) -> Tensor:
    """The Cholesky factor of a noised covariance `(r, r)`, float64.

    Raises:
        ValueError: the noise is lost in the rounding of a covariance so much larger.
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if failed:
        raise ValueError(
            f"the level sigma = {sigma:.3g} at which components are told apart is lost beside images with a variance "
            f"of {covariance.diagonal().max():.3g}: bring them to a smaller range, as [-1, 1], or give a larger sigma"
        )
    return factor


def _sampled(images: ImageSet, seed: int) -> tuple[Tensor, int]:
    """A uniform sample of the images, in their order, and how many there are; every image is checked."""
    random = np.random.default_rng(checked_seed(seed))
    keys, count = np.empty(0), 0
    rows, size, checks = None, 0, None
    for block in blocks(images):
        checks = checks or Sums(tuple(block.shape[1:]), "isotropic")
        checks.add(block)
        flat = block.flatten(1).to(torch.promote_types(block.dtype, torch.float32))
        size = size or max(64, min(SAMPLE, SAMPLE_BYTES // (flat.element_size() * flat.shape[1])))
        keys = np.concatenate([keys, random.random(len(flat))])
        kept = np.sort(np.argsort(keys, kind="stable")[:size])
        if rows is None or kept[-1] >= len(rows):
            rows = (flat if rows is None else torch.cat([rows, flat]))[torch.from_numpy(kept)]
        keys, count = keys[kept], count + len(flat)
    assert rows is not None  # `blocks` has one at least
    return rows, count


def _seeded(z: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """First centres, each the best of a few draws in proportion to the squared distance from those before it."""
    pool = z[_chosen(z, ROWS, generator)]
    centres = pool[torch.randint(len(pool), (1,), generator=generator).to(z.device)]
    far = (pool - centres).square().sum(1)
    for _ in range(1, k):
        weights = far if far.sum() > 0 else torch.ones_like(far)
        drawn = torch.multinomial(weights.cpu(), 2 + int(math.log(k)), replacement=True, generator=generator)
        reach = torch.minimum(far, torch.cdist(pool[drawn.to(z.device)], pool).square())
        best = int(reach.sum(1).argmin())
        centres, far = torch.cat([centres, pool[drawn[best]][None]]), reach[best]
    return centres


def _chosen(z: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Numbers of at most so many rows, at random, in their order."""
    return torch.randperm(len(z), generator=generator)[:most].sort().values.to(z.device)


def _nearest(z: Tensor, centres: Tensor) -> Tensor:
    return (0.5 * centres.square().sum(1) - z @ centres.T).argmin(1)
