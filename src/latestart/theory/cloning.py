"""Clones, U-turns, pushes and correlations: when a sample is decided, seen on paths of the reverse SDE.

**Cloning.** Data in two Gaussians N(+-m, s0^2 I), noised to sigma: along m, `G+- = N(y; +-|m|, s0^2 + sigma^2)`, and
two clones of one path agree with the probability

    phi = 1/2 integral (G+^2 + G-^2) / (G+ + G-) dy,    a function of q = |m|^2 / (s0^2 + sigma^2) alone,

which runs from 1/2 to 1; 0.775 lies at 55% of that way, and so it is read for any number of classes.

**U-turns.** An image noised to a level and denoised again is a clone of itself: for an exact denoiser its class changes
with probability `1 - phi`.

**Pushes.** Two paths on the same noise, one of them pushed at a level: what is pushed before the decision is forgotten.

**Correlation.** The cosine between a path's state y and its sample x_0, both less their means over paths:
`(1 + sigma^2 / s0^2)^(-1/2)` for isotropic data in many dimensions, `erf(1 / (sigma sqrt 2))` for two points +-1.

Sources: cloning, Biroli, Bonnaire, de Bortoli and Mezard 2024 (arXiv 2402.18491); U-turns, Sclocchi, Favero and Wyart
2024 and Behjoo and Chertkov 2023; correlation and normalised trajectories, Raya and Ambrogioni 2023, appendix.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from scipy.integrate import quad
from scipy.special import expit
from torch import Tensor

from latestart.checks import derived_seed, seeded, whole_number
from latestart.denoisers.base import Denoiser, require_denoiser
from latestart.dynamics import sde
from latestart.noise import Noise
from latestart.theory.levels import FEWEST, CriticalLevel, Curve, enough, evaluate, falling
from latestart.theory.roots import root

__all__ = [
    "clone", "clone_curve", "correlation", "correlation_curve", "normalised", "paths", "pixel_correlation", "pixels",
    "pixels_curve", "susceptibility", "susceptibility_curve", "trajectories", "two_gaussians",
    "two_gaussians_agreement", "uturn", "uturn_curve",
]  # fmt: skip

Classifier = Callable[[Tensor], Tensor]

AGREEMENT = 0.775  # of two clones, at which speciation is read for two classes of equal weight
BATCH = 512


def two_gaussians(
    separation: float, variance: float = 0.0, noise: Noise | None = None, agreement: float = AGREEMENT
) -> CriticalLevel:
    """The level of the exact clone curve of two Gaussians `N(+-m, variance I)` with `|m| = separation`.

    Raises:
        ValueError: the agreement is not between 1/2 and 1, or the clusters overlap so much that even clean data do
            not reach it.
    """
    _check_agreement(agreement)
    if not separation > 0 or not variance >= 0:
        raise ValueError(
            f"expected a positive separation and a variance that is not negative, received {separation} and {variance}"
        )
    q = root(lambda q: _agreement(q) - agreement, 1e-9, 1e3, f"the agreement of clones less {agreement:g}", xtol=1e-12)
    square = separation**2 / q - variance
    if square <= 0:
        raise ValueError(
            f"clones of clean data agree with probability {_agreement(separation**2 / variance):.4f} only, below "
            f"{agreement}: the two Gaussians overlap"
        )
    return CriticalLevel(math.sqrt(square), "clone", f"two Gaussians, clones agree at {agreement:g}").on(noise)


def two_gaussians_agreement(sigma: float, separation: float, variance: float = 0.0) -> float:
    """phi: the probability that two clones from the level sigma agree, for `N(+-m, variance I)`, `|m| = separation`.

    Two points without noise are told apart for certain: it is 1.

    Raises:
        ValueError: a level or variance that is negative, or a separation that is not positive.
    """
    if not (sigma >= 0 and variance >= 0 and separation > 0):
        raise ValueError(
            "expected sigma and variance of at least 0 and a separation above 0, received "
            f"sigma={sigma}, variance={variance}, separation={separation}"
        )
    spread = variance + sigma**2
    return 1.0 if spread == 0 else _agreement(separation**2 / spread)


def clone(denoiser: Denoiser, classify: Classifier | None, noise: Noise | None = None, **options: Any) -> CriticalLevel:
    """The level from which on clones of one path mostly fall to one class, by sampling with a denoiser.

    It is read where the agreement has gone from chance, `sum_c p_c^2` for the shares p_c of the classes among the
    samples, as far toward 1 as `agreement` is on the way from 1/2 to 1. The interval is that of the agreement alone:
    the shares, and with them the threshold, count as known. For two classes their standard error moves chance by
    `2 |2 p - 1| (p - p^2)^(1/2) / n^(1/2)`, which is nothing where the classes are equally frequent.

    Args:
        classify: from samples `(n, *shape)` to class indices `(n,)`.
        noise: gives the level its time t.
        options: those of `clone_curve`, `agreement` among them.

    Raises:
        ValueError: no classifier; only one class among the samples; a curve that does not reach the agreement.
    """
    return clone_curve(denoiser, classify, **options).level(noise)


def clone_curve(
    denoiser: Denoiser,
    classify: Classifier | None,
    *,
    n: int = 256,
    agreement: float = AGREEMENT,
    **grid: Any,
) -> Curve:
    """The share of clones that agree on the class, by the level down to which they share their path.

    It costs `n len(sigmas)^2 refine / 2` evaluations.

    Args:
        classify: from samples `(n, *shape)` to class indices `(n,)`.
        n: number of paths.
        agreement: at which the level is read for two classes of equal weight, see `clone`.
        grid: `sigmas`, `refine` and `seed`, see `paths`.

    Raises:
        ValueError: no classifier, only one class, levels outside of the denoiser's, fewer than 10 paths, no steps
            between two levels, or an agreement that is not between 1/2 and 1.
    """
    _check_agreement(agreement)
    classes, reverse = _checked(classify, "clone"), _Reverse(denoiser, **grid)
    states, final = reverse.paths(n)
    labels = classes(final)
    chance = _chance(labels, "clone")
    # the path itself is one clone, so each level costs one more
    agreed = [classes(sample) == labels for sample in reverse.ends(states)]
    how = "paths of the reverse SDE shared down to the level and independent below it end in one class"
    threshold = chance + (2 * agreement - 1) * (1 - chance)
    return Curve(reverse.sigma, torch.stack(agreed, 1).double(), "clone", how, threshold=threshold)


def uturn(
    denoiser: Denoiser, images: Tensor, classify: Classifier | None, noise: Noise | None = None, **options: Any
) -> CriticalLevel:
    """The level from which a noised image comes back in another class half as often as by chance.

    By chance the class changes with probability `1 - sum_c p_c^2`, p_c the shares of the classes among the images,
    which count as known: the interval does not resample them, see `clone`.

    Args:
        images: `(n, *shape)`, in the model's value range, at least 10, of at least two classes.
        classify: from samples `(n, *shape)` to class indices `(n,)`.
        noise: gives the level its time t.
        options: those of `uturn_curve`.

    Raises:
        ValueError: no classifier; too few images or classes; a curve that does not reach that share.
    """
    return uturn_curve(denoiser, images, classify, **options).level(noise)


def uturn_curve(denoiser: Denoiser, images: Tensor, classify: Classifier | None, **grid: Any) -> Curve:
    """The share of images that change class when noised to a level and denoised again by the reverse SDE.

    Args:
        images: `(n, *shape)`, at least 10.
        classify: from samples `(n, *shape)` to class indices `(n,)`.
        grid: `sigmas`, `refine` and `seed`, see `paths`.

    Raises:
        ValueError: no classifier, too few images or classes, levels outside of the denoiser's, or a denoiser that
            returns NaN.
    """
    classes = _checked(classify, "uturn")
    x_0 = enough(images, "uturn").to(device=denoiser.device, dtype=denoiser.dtype)
    labels = classes(x_0)
    half = (1 - _chance(labels, "uturn")) / 2
    reverse = _Reverse(denoiser, **grid)
    noised = (x_0 + sigma * reverse.noise(x_0, k, -1) for k, sigma in enumerate(reverse.sigma.tolist(), 1))
    changed = [classes(sample) != labels for sample in reverse.ends(noised)]
    how = "images noised to the level and denoised by the reverse SDE change their class half as often as by chance"
    return Curve(reverse.sigma, torch.stack(changed, 1).double(), "uturn", how, threshold=half)


def susceptibility(denoiser: Denoiser, noise: Noise | None = None, **options: Any) -> CriticalLevel:
    """The level at which a small push in x_t moves the final sample most: the peak of `susceptibility_curve`.

    Raises:
        ValueError: the curve has no peak inside its levels.
    """
    return susceptibility_curve(denoiser, **options).level(noise)


def susceptibility_curve(denoiser: Denoiser, *, n: int = 256, size: float = 0.3, **grid: Any) -> Curve:
    """Squared displacement of the final sample over that of a random push of x_t, same noise before and after it.

    Pushes above the first decision are forgotten, those below the last find nothing left to decide.

    Args:
        n: number of paths.
        size: of the push, in the units of x_t of a variance preserving process: its deviation in each value.
        grid: `sigmas`, `refine` and `seed`, see `paths`.

    Raises:
        ValueError: fewer than 10 paths, levels outside of the denoiser's, a push without size, or a denoiser that
            returns NaN.
    """
    if not 0 < size < math.inf:
        raise ValueError(f"expected a push of a size between 0 and infinity, received size={size}")
    reverse = _Reverse(denoiser, **grid)
    states, final = reverse.paths(n)
    moved = []
    for k, (sigma, y) in enumerate(zip(reverse.sigma.tolist(), states)):
        push = size * math.sqrt(1 + sigma**2) * reverse.noise(y, k + 1, -1)
        moved.append((reverse.finish(y + push, k, stream=0) - final).flatten(1).double().square().mean(1).cpu())
    how = f"largest mean square response of the sample to a push of {size:g} in x_t"
    return Curve(reverse.sigma, torch.stack(moved, 1) / size**2, "susceptibility", how)


def correlation(denoiser: Denoiser, noise: Noise | None = None, **options: Any) -> CriticalLevel:
    """The level from which on the path's state is correlated with its sample by at least `threshold`, one half.

    Args:
        noise: gives the level its time t.
        options: those of `correlation_curve`, `threshold` among them.

    Raises:
        ValueError: the curve does not cross the threshold.
    """
    return correlation_curve(denoiser, **options).level(noise)


def correlation_curve(denoiser: Denoiser, *, n: int = 256, threshold: float = 0.5, **grid: Any) -> Curve:
    """The cosine between the state at each level and the final sample, both less their means over paths.

    Args:
        n: number of paths.
        threshold: at which the level is read.
        grid: `sigmas`, `refine` and `seed`, see `paths`.

    Raises:
        ValueError: fewer than 10 paths, levels outside of the denoiser's, or a denoiser that returns NaN.
    """
    reverse = _Reverse(denoiser, **grid)
    states, final = reverse.paths(n)
    x_0 = _centred(final)
    cosines = [torch.cosine_similarity(_centred(y), x_0, dim=1).cpu() for y in states]
    how = "correlation of the state with the final sample along paths of the reverse SDE"
    return Curve(reverse.sigma, torch.stack(cosines, 1), "correlation", how, threshold=threshold)


def trajectories(denoiser: Denoiser, **options: Any) -> tuple[Tensor, Tensor]:
    """Paths in normalised values: each value of y less its mean over paths, over its deviation over paths.

    In this measure the spread is 1 at every level, so a value that heads for its end at once runs level, and one that
    is decided late wanders first.

    Args:
        options: those of `paths`.

    Returns:
        The levels, `(L + 1,)`, falling, 0 for the samples at last; and the paths, `(L + 1, n, *shape)`, float64.

    Raises:
        ValueError: fewer than 10 paths, levels outside of the denoiser's, or a denoiser that returns NaN.
    """
    sigma, states = paths(denoiser, **options)
    return sigma, normalised(states)


def pixels(denoiser: Denoiser, noise: Noise | None = None, **options: Any) -> CriticalLevel:
    """The level from which on the values of the path are correlated with their own final ones by one half, on average.

    Args:
        noise: gives the level its time t.
        options: those of `pixels_curve`, `threshold` among them.

    Raises:
        ValueError: the curve does not cross the threshold.
    """
    return pixels_curve(denoiser, **options).level(noise)


def pixels_curve(denoiser: Denoiser, *, threshold: float = 0.5, **options: Any) -> Curve:
    """The mean over pixels of the correlation of their normalised trajectories with their ends, see `trajectories`.

    Args:
        threshold: at which the level is read.
        options: those of `paths`.

    Raises:
        ValueError: fewer than 10 paths, levels outside of the denoiser's, or a denoiser that returns NaN.
    """
    return pixel_correlation(*paths(denoiser, **options), threshold)


def pixel_correlation(sigma: Tensor, states: Tensor, threshold: float = 0.5) -> Curve:
    """The same of given paths, levels `(L + 1,)` and states `(L + 1, n, *shape)` as `paths` returns them.

    A pixel that is nearly the same in every sample has nothing to decide, and is left out.
    """
    deviation = states[-1].std(0).flatten()
    values = normalised(states).flatten(2)[:, :, deviation > 0.1 * deviation.max()]
    n = states.shape[1]
    correlated = (values[:-1] * values[-1]).mean(2).T.contiguous() * n / (n - 1)
    how = "mean correlation of the pixels that vary with their final values"
    return Curve(sigma[:-1], correlated, "pixels", how, threshold=threshold)


def normalised(states: Tensor) -> Tensor:
    """The states of paths `(L, n, *shape)`, each value less its mean over paths, over its deviation over paths."""
    states = states - states.mean(1, keepdim=True)
    deviation = states.std(1, keepdim=True)
    return states / deviation.where(deviation > 0, 1.0)


def paths(denoiser: Denoiser, *, n: int = 256, **grid: Any) -> tuple[Tensor, Tensor]:
    """Paths of the reverse SDE from pure noise.

    Args:
        n: number of paths.
        grid: `sigmas`, falling levels, the first so high that the data are one Gaussian there, by default 24 over the
            denoiser's range, at most 100 to 0.01; `refine`, the steps of the sampler between two of them, by default 4;
            `seed` of the noise, by default 0.

    Returns:
        The levels, `(L + 1,)`, falling, 0 for the samples at last; and the states y, `(L + 1, n, *shape)`, float64.

    Raises:
        ValueError: fewer than 10 paths, no steps between two levels, levels outside of the denoiser's, or a denoiser
            that returns NaN.
    """
    reverse = _Reverse(denoiser, **grid)
    states, final = reverse.paths(n)
    levels = torch.cat([reverse.sigma, reverse.sigma.new_zeros(1)])
    return levels, torch.stack([state.double().cpu() for state in (*states, final)])


def _centred(samples: Tensor) -> Tensor:
    rows = samples.flatten(1).double()
    return rows - rows.mean(0)


class _Reverse:
    """The reverse SDE of a denoiser, on a grid of levels between those that are measured.

    The steps are those of `dynamics.sde`, which leave out a part of the posterior's spread: on two points, with steps
    of a tenth in log sigma, clones agree by up to 0.015 too often, and by half of that with half the step. A `stream`
    of noise is a seed of its own.
    """

    def __init__(
        self, denoiser: Denoiser, sigmas: Tensor | list[float] | None = None, refine: int = 4, seed: int = 0
    ) -> None:
        require_denoiser(denoiser)
        self.denoiser, self.refine, self.seed = denoiser, whole_number("refine", refine), seed
        self.sigma = falling(denoiser, _default(denoiser) if sigmas is None else sigmas)
        x = np.log(self.sigma.numpy())
        at = np.linspace(0, len(x) - 1, (len(x) - 1) * refine + 1)
        self.levels = np.exp(np.interp(at, np.arange(len(x)), x)).tolist()

    def noise(self, like: Tensor, stream: int, step: int) -> Tensor:
        """White noise that depends on the seed, the stream and the step alone."""
        generator = seeded(derived_seed(self.seed, stream, step + 1))
        return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)

    def paths(self, n: int) -> tuple[list[Tensor], Tensor]:
        """n paths from pure noise: their states at the measured levels, and their samples, on stream 0."""
        origin = torch.zeros(1, *self.denoiser.shape, dtype=self.denoiser.dtype, device=self.denoiser.device)
        top = self.levels[0]
        start = _batched(self.denoiser, origin, top).expand(whole_number("n", n, FEWEST), *self.denoiser.shape)
        *states, final = self._descend(start + top * self.noise(start, 0, -1), 0, 0)
        return states[:: self.refine], final

    def finish(self, y: Tensor, k: int, stream: int) -> Tensor:
        """The samples that y, at the k-th measured level, comes to."""
        *_, final = self._descend(y, k * self.refine, stream)
        return final

    def ends(self, states: Iterable[Tensor]) -> Iterator[Tensor]:
        """The samples that states at each of the measured levels come to, each on a stream of its own."""
        return (self.finish(y, k, stream=k + 1) for k, y in enumerate(states))

    def _descend(self, y: Tensor, begin: int, stream: int) -> Iterator[Tensor]:
        """Yield the state at each level of the grid from `begin` on, and last the sample."""
        draws = (self.noise(y, stream, step) for step in count(begin))
        yield y
        yield from sde(partial(_batched, self.denoiser), y, [*self.levels[begin:], 0.0], partial(next, draws))


def _check_agreement(agreement: float) -> None:
    if not 0.5 < agreement < 1:
        raise ValueError(f"expected an agreement between 1/2 and 1, received {agreement}")


def _agreement(q: float) -> float:
    """phi by `q = |m|^2 / Gamma`: the mean of `G+ / (G+ + G-)` over `G+`."""
    root = math.sqrt(q)

    def integrand(z: float) -> float:
        return math.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * float(expit(2 * root * (root + z)))

    return quad(integrand, -12, 12, points=(max(-root, -11.9),), epsabs=1e-13, limit=200)[0]


def _default(denoiser: Denoiser) -> np.ndarray:
    low, high = denoiser.sigma_range
    return np.geomspace(min(high, 100.0), max(low, 0.01), 24).clip(low, high)


@torch.no_grad()
def _batched(denoiser: Denoiser, y: Tensor, sigma: float) -> Tensor:
    return torch.cat([evaluate(denoiser, batch, sigma) for batch in y.split(BATCH)])


def _checked(classify: Classifier | None, criterion: str) -> Classifier:
    """The classifier; it raises `ValueError` where it returns no class indices `(n,)`, and returns them on the CPU."""
    if classify is None:
        raise ValueError(f"the {criterion} criterion asks whether the class changes: it needs a classifier, got None")

    @torch.no_grad()
    def classes(samples: Tensor) -> Tensor:
        labels = torch.as_tensor(classify(samples)).cpu()
        if labels.shape != samples.shape[:1] or labels.is_floating_point():
            raise ValueError(
                f"expected a classifier to return class indices ({len(samples)},), received {labels.dtype} "
                f"{tuple(labels.shape)}"
            )
        return labels

    return classes


def _chance(labels: Tensor, criterion: str) -> float:
    """The probability that two random samples have one class."""
    shares = labels.unique(return_counts=True)[1].double() / len(labels)
    if len(shares) < 2:
        raise ValueError(f"the {criterion} criterion needs samples of at least two classes, received one class only")
    return shares.square().sum().item()
