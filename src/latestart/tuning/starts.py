"""The priors of tuning, fitted to part of the images, and the noise levels at which late starts from them are tried."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from latestart.checks import seeded
from latestart.data import Images
from latestart.denoisers.adapter import Network
from latestart.denoisers.conditions import Conditions
from latestart.denoisers.networks import NetworkDenoiser
from latestart.fingerprints import Print, fingerprint
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.priors import load_prior
from latestart.lab.subjects import kept_fit
from latestart.processes import Processes
from latestart.sampling.components import choose_components
from latestart.sampling.matching import Match, check_shape, match
from latestart.sampling.ways import GAUSSIAN
from latestart.theory.nats import NatsCurve, nats
from latestart.tuning.candidates import starts_of
from latestart.tuning.pictures import SEEN, Pictures

__all__ = [
    "FORMAT", "MIXTURE", "Starts", "as_kept", "fitted", "fitted_priors", "levels_of", "notes_of", "of_the_model",
    "opened_priors", "print_of",
]  # fmt: skip

log = logging.getLogger(__name__)

MIXTURE = "mixture"
SIZES = (5, 10, 30, 100)  # components that are tried, as far as there are 20 images for each
DENSE = 128  # values of an image up to which the components of a mixture have a covariance in all of them
RANK = 64  # directions of the components of larger images
FORMAT = 5  # of the search: another one would find another recipe
KNOWN, MOST_KNOWN = 0.02, 0.1  # nats below which a prior is all that there is to know of the images, with its error
IMAGES, LEVELS = 64, 24  # for the nats
REACH = 1000.0  # from the highest to the lowest level of the nats


@dataclass(frozen=True)
class Starts:
    """Priors by name, each with its nats and the levels of its starts."""

    priors: Mapping[str, Any]
    curves: Mapping[str, NatsCurve]
    levels: Mapping[str, list[float]]

    @property
    def nfe(self) -> int:
        """Return the evaluations that the nats took."""
        return sum(curve.nfe for curve in self.curves.values())


def fitted(pictures: Pictures, labels: bool, sigma: float, seed: int, device: Any) -> dict[str, Any]:
    """Return the Gaussian of the fitted images and, where held-out images support one, a mixture.

    Args:
        pictures: the images.
        labels: whether there is a component for each of their classes, in place of clusters.
        sigma: the level at which held-out images decide on the number of components.
        seed: of the clusters.
        device: where the priors are to be.
    """
    images = pictures.fitted
    priors: dict[str, Any] = {GAUSSIAN: Gaussian.fit(images).to(device)}
    large = images.pixels[0].numel() > DENSE
    how: dict[str, Any] = {"basis": "lowrank", "rank": min(RANK, len(images) // 4)} if large else {}
    try:
        if labels:
            mixture = Mixture.fit(images, labels=True, seed=seed, **how)
        else:
            chosen = choose_components(images, pictures.held_out, sigma, (1, *SIZES), seed=seed, **how)
            mixture = chosen.mixture
    except ValueError as error:  # copies at every size, or images that cannot be told apart
        log.warning("there is no mixture to start from: %s", error)
        return priors
    if len(mixture.components) > 1:
        priors[MIXTURE] = mixture.to(device)
    return priors


def levels_of(
    model: Any, scheduler: Any, priors: Mapping[str, Any], held_out: Images, conditions: Conditions, seed: int
) -> Starts:
    """Return priors with their nats on held-out images, and the levels at which they are wrong by those of the ladder.

    Args:
        model: the network, counted by the caller.
        scheduler: the one that it was trained with.
        priors: by name.
        held_out: images that no prior was fitted to.
        conditions: those of the held-out images.
        seed: of the noise and the order of the images.
    """
    order = torch.randperm(len(held_out), generator=seeded(seed))[:IMAGES]
    values, mine = held_out[order].floats().to(model.device), conditions[order] if conditions.count else conditions
    curves, levels = {}, {}
    for name, prior in priors.items():
        denoiser = NetworkDenoiser(model, scheduler, mine.labels, model_kwargs=mine.kwargs)
        low, high = denoiser.sigma_range
        top = min(high, 3 * float(values.flatten(1).double().var(0).sum().sqrt()))
        sigmas = torch.logspace(0, 1, LEVELS, base=max(low, top / REACH) / top, dtype=torch.float64) * top
        curves[name] = nats(denoiser, prior.for_labels(mine.labels), values, sigmas, seed=seed)
        levels[name] = starts_of(curves[name], name, denoiser.noise)
    return Starts(priors, curves, levels)


def opened_priors(priors: Mapping[str, Any]) -> dict[str, Any]:
    """Return given priors, from their files where they are paths.

    Raises:
        ValueError: a name that is not known.
    """
    if odd := sorted(set(priors) - {GAUSSIAN, MIXTURE}):
        raise ValueError(f"expected priors by the names {GAUSSIAN} and {MIXTURE}, received {odd[0]!r}")
    found: dict[str, Any] = {
        name: load_prior(one) if isinstance(one, str | Path) else one for name, one in priors.items()
    }
    if MIXTURE in found and GAUSSIAN not in found:
        found = {GAUSSIAN: found[MIXTURE].gaussian(), **found}
    return found


def fitted_priors(
    pictures: Pictures, network: Network, seed: int, folder: Path | None, print_: Print, run: Processes
) -> dict[str, Any]:
    """Return the priors, fitted by the first process, and kept in the folder if there is one."""
    values = pictures.fitted[:SEEN].floats().flatten(1).double()
    sigma = 0.25 * float(values.var(0).sum().sqrt())  # where a mixture of natural images or digits is in use
    classes = bool(network.classes) and pictures.fitted.labels is not None

    def made() -> dict[str, Any]:
        return fitted(pictures, classes, sigma, seed, "cpu")

    if folder is None:
        return run.firsts(made)
    fits: dict[str, Any] = {}

    def one(name: str) -> Any:
        if not fits:
            fits.update(made())
        return fits.get(name, fits[GAUSSIAN])

    def kept() -> dict[str, Any]:
        parts = (print_, seed, classes, FORMAT)
        found = {name: kept_fit(folder, name, parts, partial(one, name))[0] for name in (GAUSSIAN, MIXTURE)}
        return {name: prior for name, prior in found.items() if name == GAUSSIAN or not isinstance(prior, Gaussian)}

    return run.firsts(kept)


def of_the_model(
    network: Network, trained: Any, priors: Mapping[str, Any], conditions: Conditions, given: bool
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the priors that speak of the model's images; of fitted ones all must.

    Raises:
        ValueError: the images, or none of the given priors, are the model's.
    """
    kept, notes = {}, []
    for name, prior in priors.items():
        check_shape(network, prior)
        found = match(network, trained, prior, conditions if conditions.count else None)
        if found.agrees:
            kept[name] = prior
        elif not given:
            raise ValueError(f"the images are not those of the model: {_seen(found)}")
        else:
            notes.append(f"the prior {name!r} is of other images than the model, and was left out: {_seen(found)}")
    return kept, tuple(notes)


def _seen(found: Match) -> str:
    """Return the comparison of a prior with the model in words, without the advice to leave it out."""
    return found.sentence.partition("; check_prior=")[0]


def notes_of(starts: Starts, network: Network, pictures: Pictures) -> tuple[str, ...]:
    """Return what the nats say of model and priors, in sentences.

    Raises:
        ValueError: the network is worse than the Gaussian of the images at most levels.
    """
    notes = []
    for name, curve in starts.curves.items():
        if name == GAUSSIAN and float(curve.worse.double().mean()) > 0.5:
            unknown = network.classes and pictures.held_out.labels is None
            raise ValueError(
                "the images are not those of the model, or it is not trained: at "
                f"{int(curve.worse.sum())} of {len(curve.worse)} noise levels the network denoises them worse than "
                "their own Gaussian does"
                f"{'; it has classes, and the images bring no labels: give those too' if unknown else ''}"
            )
        peak = int(curve.nats.argmax())
        if float(curve.nats[peak]) < min(KNOWN + 3 * float(curve.error[peak]), MOST_KNOWN):
            notes.append(
                f"the images are as good as samples of the {name} itself ({float(curve.nats.max()):.2g} nats at the "
                "lowest level): there is nothing left for the network to decide, and a late start gains by the prior "
                "alone"
            )
    known = getattr(network, "max_sigma", None)
    if known is not None:
        notes.append(
            f"the network was trained on noise levels up to sigma = {float(known):.4g} only: full noise cannot be "
            "sampled, and starts above that level were left out"
        )
    return tuple(notes)


def as_kept(prior: Any) -> Any:
    """Return a prior as a recipe's file gives it back."""
    return prior.rounded() if isinstance(prior, Mixture) else prior


def print_of(prior: Any) -> str:
    """Return the fingerprint of a prior's tensors."""
    return str(fingerprint(*(part for pair in sorted(prior.tensors().items()) for part in pair)))
