"""The critical levels beside the curve: of a quick analysis, kept in the folder, or of the file of a full one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latestart.data import drawn, load_images
from latestart.diagnosis.analyze import analyze
from latestart.diagnosis.case import CLOUD, prepare
from latestart.diagnosis.case import Settings as Fineness
from latestart.experiments.late_start.settings import LateStartSettings
from latestart.features import ClassifierFeatures
from latestart.files import read_json, write_json
from latestart.fingerprints import key_of
from latestart.lab.experiment import Lab
from latestart.lab.store import Store
from latestart.lab.subjects import Subject, beside, open_prior

__all__ = ["Level", "critical_levels", "levels_from"]

IMAGES = 1000  # of the point cloud
Found = tuple[tuple["Level", ...], tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Level:
    """A critical level: its criterion, what it is of, and t with the ends of its interval, where it has one.

    `kind` is "crossing", "fold", "level", or "peak" where nothing crosses.
    """

    criterion: str
    of: str
    kind: str
    t: float
    low: float
    high: float


def critical_levels(settings: LateStartSettings, subject: Subject, lab: Lab) -> Found:
    """Return the critical levels by falling t, and the reasons why others are missing.

    Raises:
        ValueError: a file of another kind, or of another model.
    """
    if settings.levels is not None:
        return levels_from(settings.levels, settings.model)
    if not settings.criteria:
        return (), ()
    named = {"weights": subject.weights, "reference": subject.judge.reference.fingerprint}
    key = key_of([named, settings.criteria, settings.seed], sort=False)

    def read(path: Path) -> Found:
        if (known := read_json(path)) is None or known.get("key") not in (key, key.former):
            raise ValueError("of other criteria, images or weights" if known else "no names with values")
        return _levels(known)

    def make(path: Path) -> None:
        with lab.bar("finding the critical levels") as advance:
            found = analyze(_task(settings, subject), settings.criteria, advance)
        write_json(path, {"key": key, **found.record()})

    return Store(lab.out, "levels.json", lab.tell).kept(key, read, make)


def _task(settings: LateStartSettings, subject: Subject) -> Any:
    """The analysis of some of the training images, and of some that the model has not seen, drawn by the seed."""
    reference, extract = subject.judge.reference, subject.judge.extract
    if reference.copying is not None:
        cloud, unseen = (drawn(images, IMAGES, settings.seed) for images in reference.copying[:2])
    else:
        assert settings.images is not None  # a model without images of its own and without given ones has no judge
        cloud, unseen = drawn(load_images(settings.images), IMAGES, settings.seed), None
    return prepare(
        subject.network,
        subject.scheduler,
        cloud.floats(),
        cloud.labels,
        None if unseen is None else unseen.floats(),
        # that beside the model is of more images than are at hand here
        prior=open_prior(settings.model, "gaussian")[0] if "gaussian" in beside(settings.model) else None,
        classify=extract.classifier.decide if isinstance(extract, ClassifierFeatures) else None,
        settings=Fineness.quick(settings.seed),
    )


def levels_from(path: Path, model: str) -> Found:
    """Return the levels in the analysis.json of `latestart analyze`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is something else, or of another model.
    """
    if not path.is_file():
        raise FileNotFoundError(f"expected the analysis.json that `latestart analyze` wrote at {path}, found none")
    if (known := read_json(path)) is None:
        raise ValueError(f"{path} cannot be read as JSON with the names of an analysis")
    theirs = known.get("about", {}).get("model")
    if theirs != model and (theirs is None or Path(theirs).resolve() != Path(model).resolve()):
        raise ValueError(f"{path} is an analysis of the model {theirs}, expected one of {model}")
    return _levels(known)


def _levels(known: dict[str, Any]) -> Found:
    """Those of the network and of the data, and of these the ones that have a time."""
    try:
        levels = []
        for one in known["levels"]:
            if one["of"] != CLOUD and (t := one["t"]) is not None:
                low, high = (t if one[end] is None else one[end] for end in ("low", "high"))
                levels.append(
                    Level(criterion=one["criterion"], of=one["of"], kind=one["kind"], t=t, low=low, high=high)
                )
        missing = [f"{one['criterion']}: {one['reason']}" for one in known["not_found"] if one["of"] != CLOUD]
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no sound analysis: {error!r} is missing") from error
    return tuple(sorted(levels, key=lambda level: -level.t)), tuple(missing)
