"""The components of a mixture, fitted to images that are assigned to them.

Few images for a component. Its scatter is completed by `nu` images' worth of the pooled covariance of all components,

    C_k = (sum_(i in k) (x_i - m_k)(x_i - m_k)^T + nu W) / (n_k - 1 + nu),    W = sum_k (n_k - 1) C_k / sum_k (n_k - 1),

as under an inverse Wishart prior; it is linear in the sums, and so the same for every basis. On MNIST, clusters by
k-means alone, held-out log-density noised to sigma = 1.23, in nats above one Gaussian fitted to all 60,000 images
(1,250 test images; from sigma = 2 to 6 the best is the same, to 0.002 nats):

    dense, nu =                     0      10     30     100    300     a sphere's covariance for W, nu = 30
    10 components,    600 images    0.83   1.81   2.28   2.07   1.25    1.24
    30 components,  2,000 images    4.69   5.42   5.79   5.42   4.33    4.95
    30 components,  6,000 images    7.38   7.48   7.55   7.36   6.47    7.43
    30 components, 60,000 images    8.70   8.69   8.69   8.67   8.56    8.70
"""

import logging
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from latestart.data import ImageSet
from latestart.gaussians.basis import require_rank
from latestart.gaussians.clusters import Assignment, blocks
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.moments import Moments
from latestart.gaussians.sums import report_chosen, require_variance, structured
from latestart.processes import Processes

__all__ = ["SHRINKAGE", "EmptyComponent", "grouped", "moments_of", "moments_of_all", "shrunken"]

SHRINKAGE = 30.0  # nu; measured, see above
DENSE_LIMIT = 2**32  # bytes of float64 D x D sums of all components that "auto" still calls dense

log = logging.getLogger(__name__)

Structure = tuple[str, int | None, torch.dtype, int]  # basis, rank, dtype of the products, seed of random directions


class EmptyComponent(ValueError):
    """A component without images: more components than the images divide into."""


def moments_of_all(images: ImageSet, structure: Structure, processes: Processes) -> Moments:
    """Moments of all images, in one pass; of several processes each adds up its share of every block.

    Raises:
        ValueError: no images, images that are all the same, and what moments refuse.
    """
    moments: Moments | None = None
    for block in blocks(images):
        moments = moments or Moments(tuple(block.shape[1:]), *structure)
        mine = processes.share(len(block))
        moments.add(block[mine.start : mine.stop])
    assert moments is not None  # `blocks` has one at least
    moments.combine(processes)
    require_variance([moments])
    return moments


def moments_of(
    images: ImageSet,
    numbers: Tensor,
    total: int,
    structure: Structure,
    assignment: Assignment | None,
    processes: Processes,
) -> list[Moments]:
    """Moments of the images of each component; of several processes each adds up its share of the images.

    Raises:
        EmptyComponent: a component without images.
        ValueError: another number of images than `numbers`, other images than were assigned, images that are all the
            same, or a rank that the basis does not have.
    """
    basis, rank, dtype, seed = structure
    parts: list[Moments] = []
    start, share = 0, processes.share(len(numbers))
    for block in blocks(images):
        if not parts:
            shape = tuple(block.shape[1:])
            basis, rank = _chosen(basis, rank, shape, len(numbers), total)
            parts = [Moments(shape, basis, rank, dtype, seed) for _ in range(total)]
        mine = numbers[start : start + len(block)].to(block.device)
        if len(mine) == len(block):
            if assignment is not None:
                assignment.require_same(block, start)
            shared = slice(max(share.start - start, 0), max(share.stop - start, 0))
            for k, rows in grouped(mine[shared]):
                parts[k].add(block[shared][rows])
        start += len(block)
    if start != len(numbers):
        raise ValueError(f"expected a label for each image: received {start} images and {len(numbers)} labels")
    for k, part in enumerate(parts):
        part.combine(processes)
        if part.count == 0:
            raise EmptyComponent(
                f"component {k} of {total} has no images: ask for fewer components (too few of the images may be "
                "distinct, or the level at which `Mixture.fit` tells them apart, its sigma, too high for so many)"
            )
    require_variance(parts)
    return parts


def shrunken(parts: list[Moments], strength: float) -> list[Gaussian]:
    """The Gaussians of the components, each scatter completed by `strength` images' worth of the pooled covariance."""
    freedom = sum(part.count - 1 for part in parts)
    if len(parts) == 1 or strength == 0:
        for k, part in enumerate(parts):
            if part.count < 2:
                raise ValueError(
                    f"component {k} of {len(parts)} has {part.count} image: without shrinkage each needs two"
                )
        return [Gaussian.of(part) for part in parts]
    if freedom == 0:
        raise ValueError(f"each of the {len(parts)} components has a single image: ask for fewer components")
    pooled = sum((part.count - 1) / freedom * part.covariance() for part in parts if part.count > 1)
    return [_completed(part, torch.as_tensor(pooled), strength, freedom) for part in parts]


def _completed(part: Moments, pooled: Tensor, strength: float, freedom: int) -> Gaussian:
    """`((n - 1) C + nu W) / (n - 1 + nu)` in the layout of the products, whose rank is that of the pooled one."""
    share = strength / (part.count - 1 + strength)
    covariance = share * pooled
    if part.count > 1:
        covariance += (1 - share) * part.covariance()
    basis, variances = part.structure.fitted(covariance, freedom + 1, part.products)
    return Gaussian(part.mean().to(part.products), basis, variances, part.count, part.value_range)


def _chosen(
    basis: str, rank: int | None, shape: tuple[int, ...], count: int, components: int
) -> tuple[str, int | None]:
    """Resolve "auto": one basis for all components, by the images of all, since they share a covariance."""
    if basis != "auto":
        return basis, rank
    require_rank(rank, shape)
    dim = math.prod(shape)
    dense = 8 * components * dim**2 <= DENSE_LIMIT and count - components >= dim
    chosen = "dense" if dense else structured(shape)
    report_chosen(log, chosen, f"{components} components and {count} images of {dim} values", rank)
    return chosen, None if dense else rank


def grouped(index: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield each number that occurs, and where it does."""
    sizes = index.bincount().tolist()
    parts = index.argsort(stable=True).split(sizes)
    yield from ((k, rows) for k, rows in enumerate(parts) if len(rows))
