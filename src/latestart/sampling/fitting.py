"""Fits of a prior to images: one Gaussian, a Gaussian for each class, or a mixture whose size can be chosen.

One Gaussian is fitted in streams, each process of a run reading its share. A mixture needs all images in each process.
"""

from collections.abc import Callable
from dataclasses import replace

import torch

from latestart.checks import seeded
from latestart.data import Images
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.moments import Moments
from latestart.gaussians.sums import require_variance
from latestart.processes import Processes
from latestart.sampling.components import FEWEST, choose_components

__all__ = ["fit_gaussian", "fit_mixture"]

HELD_OUT = 6000  # images at most that a number of components is chosen on


def fit_gaussian(
    share: Images, basis: str, rank: int | None, seed: int, run: Processes, device: torch.device,
    progress: Callable[[int, int, str], None] | None = None,
) -> Gaussian:  # fmt: skip
    """Fit one Gaussian to the images of all processes.

    Args:
        share: the images that this process reads.
        basis, rank, seed: as `Moments` takes them.
        run: processes that share the images.
        device: of the sums.
        progress: called as `progress(done, total, "")`.

    Raises:
        ValueError: images without variance, or a basis that does not fit.
    """
    moments, done = Moments(share.shape, basis, rank, seed=seed), 0
    moments.bare = False  # the range of values of images in bytes is known
    for batch in share.batches():
        moments.add(batch.to(device))
        done += len(batch)
        if progress is not None:
            progress(done, len(share), "")
    moments.combine(run)
    require_variance([moments])
    return moments.gaussian().to("cpu")


def fit_mixture(
    images: Images, components: int | str | None, by_label: bool, basis: str, rank: int | None, sigma: float,
    seed: int, run: Processes, device: torch.device, tell: Callable[[str], None] = lambda _: None,
) -> Mixture:  # fmt: skip
    """Fit a mixture of Gaussians.

    Args:
        images: all of them, in each process.
        components: their number, of each class by label; "auto" chooses it on held-out images; None for one by label.
        by_label: whether each class has components of its own.
        basis, rank, seed: of each Gaussian.
        sigma: noise level at which "auto" compares numbers of components.
        run: processes that share the work.
        device: of the sums.
        tell: receives a sentence for each number of components tried.

    Raises:
        ValueError: labels wanted and missing, or too few images to choose a number on.
    """

    def chosen() -> int:
        """The number of components that explains a held-out tenth of the images best, without copies."""
        order = torch.randperm(len(images), generator=seeded(seed))
        held_out = min(len(images) // 10, HELD_OUT)
        if held_out < FEWEST:
            raise ValueError(
                f"--components auto holds out a tenth of the images, and needs {FEWEST} of them: expected at "
                f"least {10 * FEWEST} images, received {len(images)}; give a number of components"
            )
        fitted, unseen = images[order[held_out:]], images[order[:held_out]]
        choice = choose_components(fitted, unseen, sigma, seed=seed, device=device, basis=basis, rank=rank)
        for trial in choice.evidence:
            tell(
                f"{trial.components} components: held-out log-density {-trial.behind[0]:+.3f} nats from the best "
                f"(error {trial.behind[1]:.3f}), copied {trial.copying.copied.value:.3f}"
            )
        return choice.components

    if by_label and images.labels is None:
        raise ValueError(
            "--by-label needs images with labels: a parquet file or npz with them, or a folder for each class"
        )
    if by_label and isinstance(components, str):
        raise ValueError("--components auto chooses the number without labels: leave --by-label and --by-attribute out")
    if isinstance(components, str):
        components = run.firsts(chosen)
    labels = images.labels if by_label else None
    return Mixture.fit(replace(images, device=device), components, labels, basis, rank, seed, processes=run)
