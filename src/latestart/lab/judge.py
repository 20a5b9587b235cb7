"""The judge of samples: the data that they are compared with, and their figures.

    frechet                       the Frechet distance of their features to those of the whole data set
    precision, recall, coverage   their overlap with 2,000 images of it, in the same features
    copied                        the share of copies, by distances of pixels to equal parts of the data set and of
                                  images that the model has not seen
    second                        the Frechet distance in a second feature space, where there is one: a gain that it
                                  does not show is one of the first space, and not of the images
    variance                      the total variance of the samples before they are clipped, over the data's

each with a 95% interval. A shipped model brings its own reference; that of a user's images is computed once, by all
processes, and kept in a file that names its extractor and its images: any other is refused.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latestart import zoo
from latestart.checks import seeded
from latestart.data import Images, in_unit_range, load_images, to_floats, to_unit
from latestart.evaluation.copying import BAR, CopyingFrom
from latestart.evaluation.manifold import FEWEST, OverlapWith
from latestart.evaluation.quality import Estimate, FrechetTo, interval
from latestart.evaluation.variance import variance_over
from latestart.features import Classifier, ClassifierFeatures, InceptionFeatures
from latestart.files import load_tensors, require_finite, save_tensors, sound
from latestart.fingerprints import Print, fingerprint, is_of
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.moments import Moments
from latestart.lab.experiment import Lab
from latestart.network_features import NETWORK, NetworkFeatures
from latestart.processes import Processes
from latestart.records import Record

__all__ = [
    "COMPARED", "ESTIMATES", "LEAST", "REAL", "Figures", "Floor", "Judge", "Reading", "Reference", "both_sets",
    "few_samples", "open_features", "over", "ratio", "ratio_replicates", "reference_of", "second_over",
    "shipped_judge", "shipped_reference",
]  # fmt: skip

SECOND_IMAGES = 5000  # images of a data set whose second features are taken: those of a large network take 0.1 s each
REAL = 2000  # images that samples are compared with one by one
LEAST = 0.01  # of a distance, for its replicates
TINY = 1e-12  # of a distance: no division by nothing
COMPARED = 5000  # samples so compared: all their distances are held in memory
BATCH = 1000
KIND = "feature-statistics"
ESTIMATES = ("frechet", "precision", "recall", "coverage", "copied", "second", "variance")


@dataclass(frozen=True)
class Floor:
    """The distance of held-out images to the training set: the best score to hope for; and their number.

    `second` is the distance in the second feature space; None where there is no such space.
    """

    images: int
    frechet: Estimate
    second: Estimate | None = None

    def record(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        second = {} if self.second is None else {"second": asdict(self.second)}
        return {"images": self.images, **asdict(self.frechet), **second}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Figures(Record):
    """The figures of one set of samples, and the bootstrap replicates of the distances and of the recall.

    Sets of equal size are resampled alike, so that a ratio of two sets' replicates is paired. `copied` is None where
    there are no images that the model has not seen, `second` where there is no second feature space, and both this and
    `variance` in cells that were measured before there were such figures.
    """

    frechet: Estimate
    precision: Estimate
    recall: Estimate
    coverage: Estimate
    copied: Estimate | None
    second: Estimate | None = None
    variance: Estimate | None = None
    replicates: Tensor
    recall_replicates: Tensor
    second_replicates: Tensor | None = None

    @property
    def copies(self) -> bool:
        """Return whether more of the samples than of new images are copies, beyond chance."""
        return self.copied is not None and self.copied.low > BAR

    def estimates(self, *names: str) -> dict[str, Any]:
        """Return the figures of these names, or all, with their intervals but no replicates, for JSON."""
        return {name: (one := getattr(self, name)) and asdict(one) for name in names or ESTIMATES}


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Reading(Record):
    """All that figures of samples are made of.

    Attributes:
        features: of the samples, `(N, F)`.
        second: the same in the second feature space, `(N, F')`; None where there is none.
        copied: the share of copies; None where it is not known.
        variance: their total variance over the data's; None where it is not known.
    """

    features: Tensor
    second: Tensor | None = None
    copied: Estimate | None = None
    variance: Estimate | None = None


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Reference(Record):
    """The data that samples are compared with.

    Attributes:
        statistics: of the features of the whole data set.
        real: features of some of its images, `(n, F)`.
        copying: part of the data set and two sets, unseen by the model, to find copies with; or None.
        shape: of one image.
        fingerprint: of all of it, but for the second feature space.
        second: statistics of the whole data set in the second feature space; None where there is none.
        variance: total variance of the whole data set, in the model's value range; None where it is not known.
    """

    statistics: Gaussian
    real: Tensor
    copying: tuple[Images, Images, Images] | None
    shape: tuple[int, ...]
    fingerprint: Print
    second: Gaussian | None = None
    variance: float | None = None


class Judge:
    """Function from samples to their figures, for one extractor and one reference; made once for many sets.

    Args:
        extract: the feature extractor, with a `name`.
        reference: the data.
        second: the extractor of the reference's second statistics; None where it has none.
        view: makes images in [0, 1], `(N, C, H, W)`, of samples; by default as pictures, clipped.
        space: makes features of samples, where they are not those of these images.

    Raises:
        ValueError: a second extractor without second statistics, or these without it.
    """

    def __init__(
        self,
        extract: Any,
        reference: Reference,
        second: Any = None,
        view: Callable[[Tensor], Tensor] | None = None,
        space: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if (second is None) != (reference.second is None):
            missing = "statistics of the data in it" if reference.second is None else "its extractor"
            raise ValueError(f"the second feature space lacks {missing}")
        self.extract, self.reference, self.second = extract, reference, second
        self.view, self.space = view or (lambda samples: in_unit_range(to_unit(samples))), space
        self.features: str = extract.name
        self.second_features: str | None = None if second is None else second.name
        self.frechet, self.overlap = FrechetTo(reference.statistics), OverlapWith(reference.real)
        self.second_frechet = None if reference.second is None else FrechetTo(reference.second)
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
        images = torch.cat([one.unit(), other.unit()])[:samples]
        frechet, _ = _distance(self.frechet, self.extract(images))
        second = None if self.second_frechet is None else _distance(self.second_frechet, self.second(images))[0]
        return Floor(len(images), frechet, second)

    def __call__(self, samples: Tensor) -> Figures:
        """Return the figures of samples `(N, C, H, W)` in the model's value range, as the sampler left them.

        All but the variance are those of the images in [0, 1], clipped.

        Raises:
            FloatingPointError: a distance that is not finite.
            ValueError: too few samples, or of another shape, or not finite floating-point numbers.
        """
        return self.figures(self.read(samples))

    def read(self, samples: Tensor) -> Reading:
        """Return all that the figures of samples `(N, C, H, W)`, in the model's value range, are made of.

        Raises:
            ValueError: too few samples, or of another shape, or not finite floating-point numbers.
        """
        if not samples.is_floating_point():
            raise ValueError(f"expected samples in the model's value range, received {samples.dtype}")
        images, total = self.view(samples), self.reference.variance
        return Reading(
            features=self.extract(images) if self.space is None else self.space(samples),
            second=None if self.second is None else self.second(images),
            copied=None if self.copying is None else self.copying(images).copied,
            variance=None if total is None else variance_over(samples, total),
        )

    def figures(self, reading: Reading, seed: int = 0) -> Figures:
        """Return the figures of samples that were read.

        Args:
            reading: of `read`; without second features there is no second distance.
            seed: of the resampling.

        Raises:
            FloatingPointError: a distance that is not finite.
        """
        frechet, replicates = _distance(self.frechet, reading.features, seed)
        second, second_replicates = None, None
        if self.second_frechet is not None and reading.second is not None:
            second, second_replicates = _distance(self.second_frechet, reading.second, seed)
        overlap = vars(self.overlap(reading.features[:COMPARED], seed=seed))
        return Figures(
            frechet=frechet, copied=reading.copied, second=second, variance=reading.variance,
            replicates=replicates, second_replicates=second_replicates, **overlap,
        )  # fmt: skip


def _distance(to: FrechetTo, features: Tensor, seed: int = 0) -> tuple[Estimate, Tensor]:
    """Return the distance of features `(N, F)` with its interval, and its replicates `(R,)`.

    Raises:
        FloatingPointError: it is not finite.
    """
    replicates, value = to.replicates(features, seed=seed), to(features)
    if not math.isfinite(value):
        raise FloatingPointError(f"the Frechet distance is {value}")
    return interval(replicates, value), replicates


def over(one: Figures, other: Figures) -> Estimate:
    """Return the ratio of two Frechet distances, with the interval of paired bootstrap replicates."""
    return ratio((one.frechet.value, one.replicates), (other.frechet.value, other.replicates))


def second_over(one: Figures, other: Figures) -> Estimate | None:
    """Return the ratio of two second distances, as `over`; None where one of them is not known."""
    if one.second is None or other.second is None:
        return None
    assert one.second_replicates is not None and other.second_replicates is not None
    return ratio((one.second.value, one.second_replicates), (other.second.value, other.second_replicates))


def ratio(above: tuple[float, Tensor], below: tuple[float, Tensor]) -> Estimate:
    """Return the ratio of two distances, each with its replicates `(R,)`, and the interval of `ratio_replicates`."""
    return interval(ratio_replicates(above, below), above[0] / max(below[0], TINY))


def ratio_replicates(above: tuple[float, Tensor], below: tuple[float, Tensor]) -> Tensor:
    """Return replicates `(R,)` of the ratio of two distances, each with its paired replicates `(R,)`; all are finite.

    A replicate of a distance near to nothing may be negative: none is taken below a hundredth of the distance.
    """
    one, other = (replicates.clamp(min=max(LEAST * value, TINY)) for value, replicates in (above, below))
    return one / other


def open_features(name: str, model: Any = None, scheduler: Any = None) -> Any:
    """Return an extractor by its name, or from a classifier's file, or from the file of the Inception weights.

    Args:
        name: "network" for the network's own.
        model, scheduler: the network and its scheduler; None where none is known.

    Raises:
        ImportError: the extra that a named one needs is not installed.
        ValueError: it is none of these, or the network has no features, or there is none.
    """
    path = Path(name)
    if name == NETWORK and not path.exists():
        if model is None:
            raise ValueError("there is no one network here that features could be taken of: name other features")
        return NetworkFeatures(model, scheduler)
    if name in zoo.features_named() and not path.exists():
        return zoo.features(name)
    if not path.is_file():
        raise ValueError(
            f"the features {name} are neither known ({', '.join([*zoo.features_named(), NETWORK])}) nor a classifier's "
            "file nor that of the Inception weights"
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
        second=None if bundle.second is None else bundle.second_statistics("train"),
        variance=float(bundle.prior.total_variance),
    )


def shipped_judge(bundle: zoo.Bundle) -> Judge:
    """Return the judge of a shipped model's samples, by its own features and images."""
    return Judge(bundle.features, shipped_reference(bundle), bundle.second)


def both_sets(images: str, held_out: str | None) -> tuple[Images, Images | None]:
    """Return images, and those of the same kind that the model has not seen, as `load_images` reads them.

    Raises:
        ValueError: images of two shapes.
    """
    data, unseen = load_images(images), None if held_out is None else load_images(held_out)
    if unseen is not None and unseen.shape != data.shape:
        raise ValueError(f"the images are {data.shape}, those held out {unseen.shape}: expected one shape")
    return data, unseen


def reference_of(
    images: str, held_out: str | None, extract: Any, kept: Path, lab: Lab, second: Any = None
) -> Reference:
    """Return the reference of a user's images: feature statistics from the file `kept`, or computed and kept there.

    Args:
        images: the data set, as `load_images` reads it.
        held_out: images of the same kind that the model has not seen, halved for `CopyingFrom`; None leaves copies out.
        extract: the feature extractor, with a `name`.
        kept: the file of the statistics; those of a second extractor are kept beside it, under its name.
        lab: the processes that share the work.
        second: the second feature extractor, with a `name`; None for none. At most 5,000 images are taken to it.

    Raises:
        ValueError: the file holds statistics of other features or other images; too few images, or of two shapes.
    """
    data, unseen = both_sets(images, held_out)
    if len(data) < FEWEST:
        raise ValueError(f"{images}: expected at least {FEWEST} images to hold samples against, received {len(data)}")
    statistics, real, variance = _kept(data, extract, kept, lab)
    beside = None
    if second is not None:
        file = kept.with_name(f"{kept.stem}-{second.name}{kept.suffix}")
        beside = _kept(_some(data, SECOND_IMAGES), second, file, lab, shown=0)[0]
    sets, pixels = None, [data.pixels]
    if unseen is not None:
        size = min(REAL, len(unseen) // 2, len(data))
        mixed = _some(unseen, 2 * size)
        sets, pixels = (_some(data, size), mixed[:size], mixed[size:]), [data.pixels, unseen.pixels]
    print_ = fingerprint(*pixels)
    return Reference(
        statistics=statistics, real=real, copying=sets, shape=data.shape, fingerprint=print_, second=beside,
        variance=variance,
    )  # fmt: skip


def _kept(data: Images, extract: Any, kept: Path, lab: Lab, shown: int = REAL) -> tuple[Gaussian, Tensor, float]:
    """Return feature statistics, features of `shown` images at most, and the total variance of all, from a file.

    The file is made where it is missing, by all processes.

    Raises:
        ValueError: it holds statistics of other features or other images.
    """
    known = {"features": extract.name, "images": fingerprint(data.pixels), "count": len(data), "shape": data.shape}
    if not lab.run.firsts(kept.is_file):
        lab.tell(f"computing the feature statistics of {len(data)} images")
        made, variance = _statistics(data, extract, lab.run)
        if lab.run.first:
            real = extract(_some(data, shown).unit()) if shown else made.mean.new_zeros(0, len(made.mean))
            tensors = {"mean": made.mean, "variances": made.variances, **made.basis.tensors(), "real": real}
            save_tensors(kept, KIND, tensors, known | {"variance": variance})
            lab.tell(f"wrote {kept}")
        lab.run.gather(None)  # nobody reads before it is written
    statistics, real, found = _opened(kept, known)
    if len(data) <= (width := len(statistics.mean)):
        lab.tell(_rank("the data set's", len(data), width))
    return statistics, real, _total_variance(data) if found is None else found


def _opened(path: Path, known: dict[str, Any]) -> tuple[Gaussian, Tensor, float | None]:
    """Return the statistics, some features and the total variance in a file; earlier versions have no variance."""
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
        variance = None if metadata.get("variance") is None else float(metadata["variance"])
        if real.ndim != 2 or real.shape[1:] != mean.shape:
            raise ValueError(f"features {tuple(real.shape)} beside a mean {tuple(mean.shape)}")
        basis = Dense.from_tensors(tuple(mean.shape), tensors)
        return Gaussian(mean, basis, variances, metadata["count"]), real, variance


def _statistics(data: Images, extract: Any, run: Processes) -> tuple[Gaussian, float]:
    """Return mean and covariance of the features of all images, and the images' total variance, by all processes."""
    width = extract(data[:1].unit()).shape[1]
    moments = Moments((width,), "dense", products=torch.float64)
    share = run.share(len(data))
    for part in data.pixels[share.start : share.stop].split(BATCH):
        if len(part):
            moments.update(extract(part.float() / 255).double())
    moments.combine(run)
    return moments.gaussian(), _total_variance(data)


def _total_variance(data: Images) -> float:
    """Return the total variance of images in the model's value range."""
    moments = Moments(data.shape, "isotropic", products=torch.float64)
    for part in data.pixels.split(BATCH):
        moments.update(to_floats(part))
    return float(moments.gaussian().total_variance)


def _some(images: Images, count: int) -> Images:
    """Draw a fixed sample of images: files are often in the order of their classes."""
    order = torch.randperm(len(images), generator=seeded(0))
    return Images(images.pixels[order[:count]])


def few_samples(samples: int, judge: Judge) -> str | None:
    """Return a warning where the covariance of `samples` features, first or second, lacks full rank; else None."""
    spaces = {"the samples'": judge.reference.statistics, "the samples' second": judge.reference.second}
    widths = {whose: len(of.mean) for whose, of in spaces.items() if of is not None}
    return "\n".join(_rank(whose, samples, width) for whose, width in widths.items() if samples <= width) or None


def _rank(whose: str, count: int, width: int) -> str:
    return (
        f"warning: {whose} feature covariance has rank {min(count - 1, width)} of {width} ({count} images): such "
        "Frechet distances are far too large, and compare only with those of the same number of samples"
    )
