"""The judge of samples: the data that they are compared with, and their figures.

    frechet                       the Frechet distance of their features to those of the whole data set
    precision, recall, coverage   their overlap with 2,000 images of it, in the same features
    copied                        the share of copies, by distances of pixels to equal parts of the data set and of
                                  images that the model has not seen

each with a 95% interval. A shipped model brings its own reference; that of a user's images is computed once, by all
processes, and kept in a file that names its extractor and its images: any other is refused.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart import zoo
from latestart.checks import seeded
from latestart.data import Images, in_unit_range, load_images
from latestart.evaluation.copying import BAR, CopyingFrom
from latestart.evaluation.manifold import FEWEST, OverlapWith
from latestart.evaluation.quality import Estimate, FrechetTo, interval
from latestart.features import Classifier, ClassifierFeatures, InceptionFeatures
from latestart.files import load_tensors, require_finite, save_tensors, sound
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.moments import Moments
from latestart.lab.experiment import Lab
from latestart.lab.store import Print, fingerprint, is_of
from latestart.processes import Processes
from latestart.records import Record

__all__ = [
    "COMPARED", "ESTIMATES", "LEAST", "Figures", "Floor", "Judge", "Reference", "both_sets", "few_samples",
    "open_features", "over", "ratio", "ratio_replicates", "reference_of", "shipped_judge", "shipped_reference",
]  # fmt: skip

REAL = 2000  # images that samples are compared with one by one
LEAST = 0.01  # of a distance, for its replicates
TINY = 1e-12  # of a distance: no division by nothing
COMPARED = 5000  # samples so compared: all their distances are held in memory
BATCH = 1000
KIND = "feature-statistics"
ESTIMATES = ("frechet", "precision", "recall", "coverage", "copied")


@dataclass(frozen=True)
class Floor:
    """The distance of held-out images to the training set: the best score to hope for; and their number."""

    images: int
    frechet: Estimate

    def record(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {"images": self.images, **asdict(self.frechet)}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Figures(Record):
    """The figures of one set of samples, and the bootstrap replicates of the distance and of the recall.

    Sets of equal size are resampled alike, so that a ratio of two sets' replicates is paired. `copied` is None where
    there are no images that the model has not seen.
    """

    frechet: Estimate
    precision: Estimate
    recall: Estimate
    coverage: Estimate
    copied: Estimate | None
    replicates: Tensor
    recall_replicates: Tensor

    @property
    def copies(self) -> bool:
        """Return whether more of the samples than of new images are copies, beyond chance."""
        return self.copied is not None and self.copied.low > BAR

    def estimates(self, *names: str) -> dict[str, Any]:
        """Return the figures of these names, or all, with their intervals but no replicates, for JSON."""
        return {name: (one := getattr(self, name)) and asdict(one) for name in names or ESTIMATES}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Reference(Record):
    """The data that samples are compared with.

    Attributes:
        statistics: of the features of the whole data set.
        real: features of some of its images, `(n, F)`.
        copying: part of the data set and two sets, unseen by the model, to find copies with; or None.
        shape: of one image.
        fingerprint: of all of it.
    """

    statistics: Gaussian
    real: Tensor
    copying: tuple[Images, Images, Images] | None
    shape: tuple[int, ...]
    fingerprint: Print


class Judge:
    """Function from samples to their figures, for one extractor and one reference; made once for many sets."""

    def __init__(self, extract: Any, reference: Reference) -> None:
        self.extract, self.reference = extract, reference
        self.features: str = extract.name
        self.frechet, self.overlap = FrechetTo(reference.statistics), OverlapWith(reference.real)
        self.copying = None if reference.copying is None else CopyingFrom(*reference.copying)

    @property
    def width(self) -> int:
        """Return the number of features."""
        return len(self.reference.statistics.mean)

    def floor(self, samples: int) -> Floor | None:
        """Return the floor by at most `samples` images that the model has not seen; None if there are none."""
        if self.reference.copying is None:
            return None
        _, one, other = self.reference.copying
        features = self.extract(torch.cat([one.unit(), other.unit()])[:samples])
        return Floor(len(features), interval(self.frechet.replicates(features), self.frechet(features)))

    def __call__(self, images: Tensor) -> Figures:
        """Return the figures of images `(N, C, H, W)` in [0, 1].

        Raises:
            FloatingPointError: a distance that is not finite.
            ValueError: too few images, or of another shape.
        """
        copied = None if self.copying is None else self.copying(images).copied
        return self.figures(self.extract(in_unit_range(images)), copied)

    def figures(self, features: Tensor, copied: Estimate | None, seed: int = 0) -> Figures:
        """Return the figures of samples with features `(N, F)` and this share of copies.

        Raises:
            FloatingPointError: a distance that is not finite.
        """
        replicates = self.frechet.replicates(features, seed=seed)
        frechet = interval(replicates, self.frechet(features))
        if not math.isfinite(frechet.value):
            raise FloatingPointError(f"the Frechet distance is {frechet.value}")
        overlap = vars(self.overlap(features[:COMPARED], seed=seed))
        return Figures(frechet=frechet, copied=copied, replicates=replicates, **overlap)


def over(one: Figures, other: Figures) -> Estimate:
    """Return the ratio of two Frechet distances, with the interval of paired bootstrap replicates."""
    return ratio((one.frechet.value, one.replicates), (other.frechet.value, other.replicates))


def ratio(above: tuple[float, Tensor], below: tuple[float, Tensor]) -> Estimate:
    """Return the ratio of two distances, each with its replicates `(R,)`, and the interval of `ratio_replicates`."""
    return interval(ratio_replicates(above, below), above[0] / max(below[0], TINY))


def ratio_replicates(above: tuple[float, Tensor], below: tuple[float, Tensor]) -> Tensor:
    """Return replicates `(R,)` of the ratio of two distances, each with its paired replicates `(R,)`; all are finite.

    A replicate of a distance near to nothing may be negative: none is taken below a hundredth of the distance.
    """
    one, other = (replicates.clamp(min=max(LEAST * value, TINY)) for value, replicates in (above, below))
    return one / other


def open_features(name: str) -> Any:
    """Return an extractor: a shipped one by its name, a classifier's file, or the file of the Inception weights.

    Raises:
        ValueError: it is none of these.
    """
    path = Path(name)
    if name in zoo.names() and not path.exists():
        return zoo.features(name)
    if not path.is_file():
        raise ValueError(
            f"the features {name} are neither shipped ({', '.join(zoo.names())}) nor a classifier's file nor that of "
            "the Inception weights"
        )
    if path.suffix == ".safetensors":
        return ClassifierFeatures(Classifier.load(path))
    return InceptionFeatures(path)


def shipped_reference(bundle: zoo.Bundle) -> Reference:
    """Return the reference that a shipped model brings along."""
    statistics, sets = bundle.statistics("train"), tuple(bundle.images(which) for which in zoo.SETS)
    train, held_out, second = sets
    print_ = fingerprint(statistics.mean, statistics.variances, *(images.pixels for images in sets))
    return Reference(
        statistics=statistics,
        real=bundle.features(train.unit()),
        copying=(train, held_out, second),
        shape=train.shape,
        fingerprint=print_,
    )


def shipped_judge(bundle: zoo.Bundle) -> Judge:
    """Return the judge of a shipped model's samples, by its own features and images."""
    return Judge(bundle.features, shipped_reference(bundle))


def both_sets(images: str, held_out: str | None) -> tuple[Images, Images | None]:
    """Return images, and those of the same kind that the model has not seen, as `load_images` reads them.

    Raises:
        ValueError: images of two shapes.
    """
    data, unseen = load_images(images), None if held_out is None else load_images(held_out)
    if unseen is not None and unseen.shape != data.shape:
        raise ValueError(f"the images are {data.shape}, those held out {unseen.shape}: expected one shape")
    return data, unseen


def reference_of(images: str, held_out: str | None, extract: Any, kept: Path, lab: Lab) -> Reference:
    """Return the reference of a user's images: feature statistics from the file `kept`, or computed and kept there.

    Args:
        images: the data set, as `load_images` reads it.
        held_out: images of the same kind that the model has not seen, halved for `CopyingFrom`; None leaves copies out.
        extract: the feature extractor, with a `name`.
        kept: the file of the statistics.
        lab: the processes that share the work.

    Raises:
        ValueError: the file holds statistics of other features or other images; too few images, or of two shapes.
    """
    data, unseen = both_sets(images, held_out)
    if len(data) < FEWEST:
        raise ValueError(f"{images}: expected at least {FEWEST} images to hold samples against, received {len(data)}")
    known = {"features": extract.name, "images": fingerprint(data.pixels), "count": len(data), "shape": data.shape}
    if not lab.run.firsts(kept.is_file):
        lab.tell(f"computing the feature statistics of {len(data)} images")
        made, real = _statistics(data, extract, lab.run), extract(_some(data, REAL).unit())
        if lab.run.first:
            tensors = {"mean": made.mean, "variances": made.variances, **made.basis.tensors(), "real": real}
            save_tensors(kept, KIND, tensors, known)
            lab.tell(f"wrote {kept}")
        lab.run.gather(None)  # nobody reads before it is written
    statistics, real = _opened(kept, known)
    if len(data) <= (width := len(statistics.mean)):
        lab.tell(_rank("the data set's", len(data), width))
    sets, pixels = None, [data.pixels]
    if unseen is not None:
        size = min(REAL, len(unseen) // 2, len(data))
        mixed = _some(unseen, 2 * size)
        sets, pixels = (_some(data, size), mixed[:size], mixed[size:]), [data.pixels, unseen.pixels]
    print_ = fingerprint(*pixels)
    return Reference(statistics=statistics, real=real, copying=sets, shape=data.shape, fingerprint=print_)


def _opened(path: Path, known: dict[str, Any]) -> tuple[Gaussian, Tensor]:
    tensors, metadata = load_tensors(path, KIND)
    for name, expected in known.items():
        received = metadata.get(name)
        if not is_of(received, expected):
            raise ValueError(
                f"{path} holds feature statistics with {name} = {received}, expected {expected}: delete it, or keep "
                "those of this data set and extractor elsewhere"
            )
    require_finite(path, tensors, ("mean", "variances", "real"))
    mean, variances, real = (tensors.pop(name) for name in ("mean", "variances", "real"))
    with sound(path, "set of feature statistics"):
        if real.ndim != 2 or real.shape[1:] != mean.shape:
            raise ValueError(f"features {tuple(real.shape)} beside a mean {tuple(mean.shape)}")
        return Gaussian(mean, Dense.from_tensors(tuple(mean.shape), tensors), variances, metadata["count"]), real


def _statistics(data: Images, extract: Any, run: Processes) -> Gaussian:
    """Return mean and covariance of the features of all images, each process taking its share."""
    width = extract(data[:1].unit()).shape[1]
    moments = Moments((width,), "dense", products=torch.float64)
    share = run.share(len(data))
    for part in data.pixels[share.start : share.stop].split(BATCH):
        if len(part):
            moments.update(extract(part.float() / 255).double())
    moments.combine(run)
    return moments.gaussian()


def _some(images: Images, count: int) -> Images:
    """Draw a fixed sample of images: files are often in the order of their classes."""
    order = torch.randperm(len(images), generator=seeded(0))
    return Images(images.pixels[order[:count]])


def few_samples(samples: int, judge: Judge) -> str | None:
    """Return a warning where the covariance of `samples` features lacks full rank, else None."""
    return _rank("the samples'", samples, judge.width) if samples <= judge.width else None


def _rank(whose: str, count: int, width: int) -> str:
    return (
        f"warning: {whose} feature covariance has rank {min(count - 1, width)} of {width} ({count} images): such "
        "Frechet distances are far too large, and compare only with those of the same number of samples"
    )
