"""The models of a sweep: each opened with its priors and with the judge of its samples.

Some samplers of diffusers (PNDM, Euler's with noise, KDPM2) refuse a network that predicts the image. Such a network is
wrapped to predict, of the same image, the velocity `v = (alpha x - x_0) / std`: samplers take from it
`x_0 = alpha x - std v`, so that an error of v counts least where v is least certain, at the lowest levels. Its
fingerprint is that of the network as it was trained. A sampler of several steps then mixes v, as of the other
networks here: PNDM mixes the raw output, and has other samples for one that predicts the noise.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from latestart import zoo
from latestart.data import Images
from latestart.denoisers.adapter import sample_shape
from latestart.denoisers.wrappers import HalfPrecision, of_velocity
from latestart.device import own_device
from latestart.features import ClassifierFeatures
from latestart.fingerprints import Print, fingerprint
from latestart.gaussians.priors import load_prior
from latestart.lab.experiment import Lab
from latestart.lab.grid import FULL, PLAIN, Grid
from latestart.lab.judge import Judge, both_sets, few_samples, open_features, reference_of, shipped_reference
from latestart.lab.store import Store
from latestart.network_features import NetworkFeatures, middle_of

__all__ = [
    "SHIPPED", "Subject", "beside", "open_images", "open_network", "open_prior", "open_subject", "open_subjects",
    "weights",
]  # fmt: skip

SHIPPED = {"gaussian": "prior.safetensors", "mixture": "mixture.safetensors"}  # beside a model


@dataclass(frozen=True)
class Subject:
    """A model, its scheduler, its priors and its judge.

    Attributes:
        network: in evaluation mode, on its device.
        scheduler: the one that it was trained with; of v where it was trained to predict the image.
        weights: the fingerprint of both.
        priors: by the name that the grid has for them, with their fingerprints.
        judge: returns the figures of its samples.
    """

    network: Any
    scheduler: Any
    weights: str
    _: KW_ONLY
    priors: dict[str, tuple[Any, str]]
    judge: Judge


def open_subjects(grid: Grid, lab: Lab) -> dict[str, Subject]:
    """Return the models of a grid by the names that it has for them; warns of samples too few for their features.

    Raises:
        ValueError: something that the grid names does not exist or does not fit the rest.
    """
    bundles = {name: _bundle(name) for name in grid.model}
    networks = {name: _opened(name, grid.scheduler) for name in grid.model}
    priors = {name: {prior: _prior(prior, bundle.path) for prior in grid.priors} for name, bundle in bundles.items()}
    if grid.images is None:
        judges = {name: _own_judge(bundle, grid, networks[name]) for name, bundle in bundles.items()}
    else:
        first = bundles[grid.model[0]]
        own = networks[grid.model[0]]  # all models are judged in one space: that of the first, where it is a network's
        extract, second = _extractor(first, grid, own), _second(first, grid, own)
        kept = Path(grid.statistics) if grid.statistics else lab.out / "statistics.safetensors"
        reference = reference_of(grid.images, grid.held_out, extract, kept, lab, second)
        judges = dict.fromkeys(grid.model, Judge(extract, reference, second))
    for name, (network, _) in networks.items():
        if sample_shape(network) != (images := judges[name].reference.shape):
            raise ValueError(f"the samples of {name} are {sample_shape(network)}, the images {images}")
    for warning in dict.fromkeys(few_samples(grid.samples, judge) for judge in judges.values()):
        if warning is not None:
            lab.tell(warning)
    return {
        name: Subject(*_precise(network, scheduler, grid.mixed_precision), priors=priors[name], judge=judges[name])
        for name, (network, scheduler) in networks.items()
    }


def open_subject(grid: Grid, lab: Lab) -> Subject:
    """Return the one model of a grid, as `open_subjects`."""
    (subject,) = open_subjects(grid, lab).values()
    return subject


def _opened(model: str, scheduler: str | None) -> tuple[Any, Any]:
    """Return a network on its device, and its scheduler: the given one where its folder has none."""
    network, trained, _ = zoo.open_model(model, device=own_device(), scheduler=scheduler)
    return network, trained


def _precise(network: Any, scheduler: Any, precision: str) -> tuple[Any, Any, str]:
    """Return the network in its precision, its scheduler, and the fingerprint of both."""
    known = weights(network, scheduler)
    if precision != "no":
        network, known = HalfPrecision(network), known + "-bf16"
    return *of_velocity(network, scheduler), known


def open_network(model: str, precision: str = "no", scheduler: str | None = None) -> tuple[Any, Any, str]:
    """Return a model without priors and judge: the network on its device, its scheduler, and the fingerprint of both.

    Raises:
        ValueError: it is neither a shipped model nor a folder with one.
    """
    return _precise(*_opened(model, scheduler), precision)


def open_prior(model: str, name: str) -> tuple[Any, str]:
    """Return a prior that is stored next to a model, or in a file, on its device, and the fingerprint of its file.

    Raises:
        ValueError: there is none of that name.
    """
    return _prior(name, _bundle(model).path)


def kept_fit(
    folder: Path,
    name: str,
    parts: Sequence[Any],
    fit: Callable[[], Any],
    load: Callable[[Path], Any] = load_prior,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Any, Print]:
    """Return a start distribution that is fitted once and kept in a folder, and the fingerprint of its file.

    Args:
        folder, name: the file is `NAME-KEY.safetensors` in the folder.
        parts: tensors, text and numbers that the fit depends on.
        fit: makes it, with a method `save`.
        load: reads its file.
        tell: receives a sentence about a damaged file.
    """
    store, key = Store(folder, f"{name}-{{}}.safetensors", tell), fingerprint(name, *parts)
    made = store.kept(key, load, lambda path: fit().save(path))
    return made, fingerprint(store.path(key).read_bytes())


def beside(model: str) -> tuple[str, ...]:
    """Return the names of the priors that are stored next to a model."""
    return tuple(name for name, file in SHIPPED.items() if (_bundle(model).path / file).is_file())


def open_images(model: str, images: str | None, held_out: str | None) -> tuple[Images, Images | None]:
    """Return the training images, and those that the model has not seen, or None: given ones, or the shipped model's.

    Raises:
        ValueError: a model without images and none given, held-out images alone, or images of two shapes.
    """
    if images is not None:
        return both_sets(images, held_out)
    bundle = _bundle(model)
    if not (bundle.path / "train.png").is_file():
        raise ValueError(f"{bundle.path} brings no images: give its training images")
    _refuse_alone(held_out)
    return bundle.images("train"), bundle.images("heldout-a")


def _refuse_alone(held_out: str | None) -> None:
    if held_out is not None:
        raise ValueError("held-out images stand beside training images of one's own: give these too, or neither")


def _bundle(name: str) -> zoo.Bundle:
    """Return a user's folder, or a shipped model by its name."""
    return zoo.Bundle(Path(name).name, Path(name)) if Path(name).is_dir() else zoo.load(name)


def weights(network: Any, scheduler: Any) -> str:
    """Return the fingerprint of a network's weights and build, and of the scheduler that it was trained with."""
    state = [part for name, tensor in sorted(network.state_dict().items()) for part in (name, tensor)]
    build = vars(network.config) if isinstance(network.config, SimpleNamespace) else network.config
    told = [
        {name: value for name, value in config.items() if not name.startswith("_")}
        for config in (build, scheduler.config)
    ]
    around = getattr(network, "gaussian", None)
    linear = [] if around is None else [around.mean, around.variances, *around.basis.tensors().values()]
    patch = getattr(network, "factor", 1)
    return fingerprint(json.dumps([*told, patch], sort_keys=True, default=str), *state, *linear)


def _prior(name: str, folder: Path) -> tuple[Any, str]:
    """Return a prior that is stored next to a model, or in a file, and the fingerprint of its file."""
    if name in (FULL, PLAIN):
        return None, ""
    path = folder / SHIPPED[name] if name in SHIPPED else Path(name)
    if not path.is_file():
        where = f"{path.name} beside the model" if name in SHIPPED else "a prior's file of that name"
        raise ValueError(
            f"there is no prior {name!r} ({where}): expected {FULL}, {PLAIN}, {', '.join(SHIPPED)}, or a file that "
            "`latestart fit` wrote"
        )
    return load_prior(path).to(own_device()), fingerprint(path.read_bytes())


def _own_judge(bundle: zoo.Bundle, grid: Grid, network: tuple[Any, Any]) -> Judge:
    """Return the judge that a model brings along."""
    if not (bundle.path / "features-train.safetensors").is_file():
        raise ValueError(f"{bundle.path} brings no images to hold its samples against: give its training images")
    extract = _extractor(bundle, grid, network)
    if extract.name != bundle.features.name:
        raise ValueError(
            f"the statistics beside {bundle.path} are of the features {bundle.features.name}, received {extract.name}: "
            "give the training images, to have those of other features computed"
        )
    _refuse_alone(grid.held_out)
    second, own = _second(bundle, grid, network), bundle.second
    if second is not None and (own is None or second.name != own.name):
        theirs = "none of second features" if own is None else f"of the second features {own.name}"
        raise ValueError(
            f"the statistics beside {bundle.path} are {theirs}, received {second.name}: give the training images, to "
            "have those of other features computed"
        )
    return Judge(extract, shipped_reference(bundle), second)


def _extractor(bundle: zoo.Bundle, grid: Grid, network: tuple[Any, Any]) -> Any:
    """Return the extractor: the one that is named, else the classifier beside the model, else the network itself."""
    if grid.features is not None:
        return _placed(open_features(grid.features, *network))
    if (bundle.path / "classifier.safetensors").is_file():
        return _placed(bundle.features)
    if middle_of(network[0]) is None:
        raise ValueError(
            f"{bundle.path} brings no features, and its network has no middle block to take them of: give a shipped "
            "model's name, or a file of weights"
        )
    return NetworkFeatures(*network)


def _second(bundle: zoo.Bundle, grid: Grid, network: tuple[Any, Any]) -> Any:
    """Return the second extractor: the one that is named, else the model's own, or None."""
    return _placed(bundle.second if grid.second is None else open_features(grid.second, *network))


def _placed(extract: Any) -> Any:
    """Return an extractor, a classifier on the device of this process."""
    if isinstance(extract, ClassifierFeatures):
        extract.classifier.to(own_device())
    return extract
