"""Diversity: which values of an attribute the samples have, how often, and how many different samples there are.

With p and q the shares of an attribute's values among the samples and among the data, both read by one classifier,

    entropy           H(p) = -sum p log p                       in nats, as is the next
    divergence        KL(p || q) = sum p log(p / q)             infinite where the data have none of a value
    total variation   1/2 sum |p - q|                           the share of samples that would have to change

A classifier that gives probabilities counts in parts: shares are mean probabilities. A classifier's own errors are in
p and q alike, so the data's shares are best read by the same one; where they are known exactly, compare with that too:
exact shares have no interval, and are resampled to themselves.

Every figure has the interval of bootstrap replicates, of samples and data both. Resamples of sets of equal size and
seed are alike, so that two ways to sample are compared in pairs (`ratio`). A plug-in estimate of a divergence is too
large by about (K - 1) / 2 (1/n + 1/m); a resample's is so twice, so only the spread of replicates is used.

The Vendi score is the number of different samples: with the eigenvalues l of the kernel matrix over n,

    exp(-sum l log l),   sum l = 1                              (Friedman and Dieng 2023)

1 for n equal samples and n for n that share nothing. The kernel is the cosine of features; then the eigenvalues are
those of an F x F matrix, and exact at any n. Recall and coverage, of samples against data, are those of `manifold.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from latestart.checks import optional, seeded
from latestart.evaluation.manifold import OverlapWith
from latestart.evaluation.quality import Estimate, Extractor, as_features, interval, resampled, resolve, unit_images
from latestart.features import Classifier
from latestart.records import Record

__all__ = [
    "Attribute", "Classify", "DeepFaceClassifier", "Diversity", "ProjectClassifier", "TransformersClassifier",
    "attribute", "chance", "classified", "diversity", "ratio", "vendi",
]  # fmt: skip

Classify = Callable[[Tensor], Any]
Kernel = Callable[[Tensor], Tensor]
RESAMPLES, BATCH = 500, 500
KINDS = ("entropy", "kl", "total_variation")
_HUGE = 1e200  # stands for infinity, between which and a number no quantile can be interpolated


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Attribute(Record):
    """One attribute among samples and data.

    Attributes:
        values: the names of its values.
        samples, data: the share of each value, with its interval.
        entropy, entropy_data: of the samples' shares and of the data's, in nats.
        kl: KL(samples || data), in nats; infinite where the samples have a value that the data never have.
        total_variation: between the two.
        replicates: of the last three by name ("entropy", "kl", "total_variation"), `(resamples,)`.
    """

    values: tuple[str, ...]
    samples: tuple[Estimate, ...]
    data: tuple[Estimate, ...]
    entropy: Estimate
    entropy_data: Estimate
    kl: Estimate
    total_variation: Estimate
    replicates: dict[str, Tensor]

    def record(self) -> dict[str, Any]:
        """All figures, for JSON; an infinite divergence is None."""
        shares = {
            value: {"samples": asdict(p), "data": asdict(q)}
            for value, p, q in zip(self.values, self.samples, self.data)
        }
        figures = {
            name: {end: value if np.isfinite(value) else None for end, value in asdict(getattr(self, name)).items()}
            for name in ("entropy", "entropy_data", "kl", "total_variation")
        }
        return {"shares": shares, **figures}


@dataclass(frozen=True, repr=False, kw_only=True)
class Diversity(Record):
    """Attributes by name; where features were given, how many samples differ and how much of the data they meet."""

    attributes: dict[str, Attribute]
    vendi: Estimate | None = None
    vendi_data: Estimate | None = None
    recall: Estimate | None = None
    coverage: Estimate | None = None

    def record(self) -> dict[str, Any]:
        """All figures, for JSON."""
        beside = {name: getattr(self, name) for name in ("vendi", "vendi_data", "recall", "coverage")}
        return {
            "attributes": {name: attribute.record() for name, attribute in self.attributes.items()},
            **{name: asdict(value) for name, value in beside.items() if value is not None},
        }


def diversity(
    samples: Any,
    data: Any,
    classify: Classify | Mapping[str, Classify],
    features: str | Extractor | None = None,
    *,
    values: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Diversity:
    """Measure how diverse samples are, against data.

    Args:
        samples: images, whatever `as_images` takes, floats in [0, 1].
        data: likewise.
        classify: from images `(B, C, H, W)` in [0, 1] to class indices `(B,)` or probabilities `(B, K)`; or several,
            by the name of the attribute. `ProjectClassifier`, `TransformersClassifier` and `DeepFaceClassifier` are.
        features: the space of the Vendi score, recall and coverage: a shipped extractor's name, or a function; None
            leaves these out.
        values: the names of an attribute's values, or of each one's by its name; by default the classifier's own
            `values`, or numbers.
        resamples: bootstrap replicates of every figure.
        seed: of the resamples; equal seeds and sizes are resampled alike.

    Raises:
        ValueError: images outside [0, 1], outputs that are neither indices nor probabilities, or more classes than
            names.
    """
    a, b = unit_images(samples), unit_images(data)
    several = isinstance(classify, Mapping)
    classifiers: dict[str, Classify] = dict(classify) if isinstance(classify, Mapping) else {"class": classify}
    attributes = {}
    for name, classifier in classifiers.items():
        named = values.get(name) if isinstance(values, Mapping) else values
        own = named or getattr(classifier, "values", None)
        one, other = (classified(classifier, images, name if several else "classify") for images in (a, b))
        attributes[name] = attribute(one, other, own, resamples=resamples, seed=seed)
    if features is None:
        return Diversity(attributes=attributes)
    extract = resolve(features)
    ours, theirs = extract(a), extract(b)
    overlap, few = OverlapWith(theirs)(ours, seed=seed), min(resamples, 200)
    return Diversity(
        attributes=attributes,
        vendi=vendi(ours, resamples=few, seed=seed),
        vendi_data=vendi(theirs, resamples=few, seed=seed),
        recall=overlap.recall,
        coverage=overlap.coverage,
    )


def attribute(
    samples: Tensor, data: Tensor, values: Sequence[str] | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Attribute:
    """One attribute from class indices `(N,)` or probabilities `(N, K)`, of a classifier or known.

    Args:
        samples: of each sample.
        data: of each image of the data; or their exact shares, floats `(K,)` that sum to 1.
        values: the names of the values.
        resamples: bootstrap replicates of every figure; those of equal samples are alike, whatever the data.
        seed: of the resamples.

    Raises:
        ValueError: none of these, or more classes than names.
    """
    samples, data = samples.detach().cpu(), data.detach().cpu()
    classes = max(_classes(samples), len(data) if _exact(data) else _classes(data), len(values or ()))
    if values is not None and classes > len(values):
        raise ValueError(f"{len(values)} values were named ({', '.join(values)}), received {classes} classes")
    names = tuple(values) if values is not None else tuple(map(str, range(classes)))
    generator = seeded(seed)
    (p, many_p), (q, many_q) = (_shares(side, classes, resamples, generator) for side in (samples, data))
    exact = _figures(p, q)
    replicates = {kind: _around(many, float(exact[kind])) for kind, many in _figures(many_p, many_q).items()}
    entropy_data = float(entropy(q))
    return Attribute(
        values=names,
        samples=tuple(_estimate(many_p[:, k], float(p[k])) for k in range(classes)),
        data=tuple(_estimate(many_q[:, k], float(q[k])) for k in range(classes)),
        entropy_data=_estimate(_around(entropy(many_q), entropy_data), entropy_data),
        replicates=replicates,
        **{kind: _estimate(many, float(exact[kind])) for kind, many in replicates.items()},
    )


def _figures(p: Tensor, q: Tensor) -> dict[str, Tensor]:
    return {"entropy": entropy(p), "kl": divergence(p, q), "total_variation": total_variation(p, q)}


def ratio(one: Attribute, other: Attribute, kind: str = "kl") -> Estimate:
    """The ratio of a figure ("entropy", "kl" or "total_variation") of `one` to the other's, by paired replicates.

    Both must be of sets of equal size against the same data, with the same seed.

    Raises:
        ValueError: no such figure, or other numbers of resamples.
    """
    if kind not in KINDS or len(one.replicates[kind]) != len(other.replicates[kind]):
        raise ValueError(f"expected one of {', '.join(KINDS)} with equal resamples, received {kind!r}")
    of_one, of_other = (torch.tensor(getattr(each, kind).value, dtype=torch.float64) for each in (one, other))
    value = float((of_one / of_other).nan_to_num(nan=1.0, posinf=np.inf))
    return _estimate(one.replicates[kind] / other.replicates[kind], value)


def entropy(shares: Tensor) -> Tensor:
    """Entropy of shares `(..., K)`, in nats."""
    return torch.special.entr(shares).sum(-1)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) of shares `(..., K)`, in nats."""
    return (torch.special.xlogy(p, p) - torch.special.xlogy(p, q)).sum(-1)


def chance(values: int, n: float, m: float) -> float:
    """The mean plug-in divergence of n samples from m images of the same distribution over so many values, in nats.

    From exact shares, m is infinite.

    `(K - 1) / 2 (1 / n + 1 / m)`, by 2 n KL being chi-square with K - 1 degrees of freedom where all values are common.
    """
    return (values - 1) / 2 * (1 / n + 1 / m)


def total_variation(p: Tensor, q: Tensor) -> Tensor:
    """Total variation between shares `(..., K)`, from 0 to 1."""
    return (p - q).abs().sum(-1) / 2


def vendi(features: Tensor, kernel: Kernel | None = None, *, resamples: int = 200, seed: int = 0) -> Estimate:
    """The Vendi score of features `(N, F)`, with the interval of bootstrap replicates.

    Args:
        features: of the samples.
        kernel: from features to a positive semi-definite similarity matrix `(N, N)` with ones on its diagonal; the
            cosine by default, whose replicates are cheap. Another's cost N^3 each: a few thousand samples at most.
        resamples: replicates; 0 gives an interval of no width.
        seed: of the resamples.

    Raises:
        ValueError: fewer than 2 samples, a feature vector of length 0, or a kernel that is not as described.
    """
    features = as_features(features, 2)
    score = _cosine_score(features) if kernel is None else _kernel_score(features, kernel)
    value = score(torch.ones(len(features), dtype=torch.float64))
    replicates = [score(counts) for counts in resampled(len(features), resamples, seeded(seed))] or [value]
    return interval(_around(torch.tensor(replicates, dtype=torch.float64), value, floor=1.0), value)


def _cosine_score(features: Tensor) -> Callable[[Tensor], float]:
    """The score as a function of how often each sample counts, from F x F or N x N, whichever is smaller."""
    lengths = features.double().norm(dim=1, keepdim=True)
    if not (lengths > 0).all():
        raise ValueError(f"the cosine of a feature vector of length 0 is not defined: {int((lengths == 0).sum())} are")
    rows = features.double() / lengths
    if rows.shape[1] >= len(rows):
        return _weighted_score(rows @ rows.T)
    return lambda counts: _score((rows.T * counts) @ rows / counts.sum())


def _kernel_score(features: Tensor, kernel: Kernel) -> Callable[[Tensor], float]:
    matrix = kernel(features).double().cpu()
    unit = matrix.shape == (len(features),) * 2 and torch.allclose(matrix.diagonal(), torch.ones(()).double())
    if not unit or not torch.allclose(matrix, matrix.T):
        raise ValueError(
            f"expected a symmetric kernel matrix {(len(features),) * 2} with ones on its diagonal, received "
            f"{tuple(matrix.shape)}"
        )
    return _weighted_score(matrix)


def _weighted_score(matrix: Tensor) -> Callable[[Tensor], float]:
    return lambda counts: _score(counts.sqrt()[:, None] * matrix * counts.sqrt() / counts.sum())


def _score(matrix: Tensor) -> float:
    values = torch.linalg.eigvalsh(matrix)
    if values[0] < -1e-6:
        raise ValueError(f"the kernel is not positive semi-definite: it has the eigenvalue {values[0]:.3g}")
    return float(entropy(values.clamp(min=0)).exp())


def _around(replicates: Tensor, value: float, floor: float = 0.0) -> Tensor:
    """Move replicates so that their mean is the value itself, and none is below the floor."""
    if not np.isfinite(value) or not replicates.isfinite().all():
        return replicates
    return (replicates - replicates.mean() + value).clamp(min=floor)


def _estimate(replicates: Tensor, value: float) -> Estimate:
    """The interval of replicates, some of them infinite."""
    finite = interval(replicates.nan_to_num(nan=_HUGE, posinf=_HUGE), value)
    return Estimate(value, *(end if end < _HUGE**0.5 else np.inf for end in (finite.low, finite.high)))


def _shares(classes: Tensor, k: int, resamples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The share of each class `(K,)`, and those of resamples `(R, K)`; exact shares as they are."""
    if _exact(classes):
        shares = torch.nn.functional.pad(classes.double(), (0, k - len(classes)))
        return shares, shares.expand(resamples, k)
    rows = classes.double() if classes.ndim == 2 else torch.nn.functional.one_hot(classes.long(), k).double()
    rows = torch.nn.functional.pad(rows, (0, k - rows.shape[1]))
    sums = [counts @ rows for counts in resampled(len(rows), resamples, generator)]
    return rows.mean(0), torch.stack(sums) / len(rows)


def _exact(said: Tensor) -> bool:
    """Whether these are shares `(K,)`, rather than a class or a row of probabilities for each image."""
    if said.ndim != 1 or not said.is_floating_point() or not bool((said >= 0).all()):
        return False
    return abs(float(said.double().sum()) - 1) < 1e-6


def _classes(said: Tensor) -> int:
    """The number of classes in indices `(N,)` or probabilities `(N, K)`."""
    if said.ndim == 1 and len(said) and not said.is_floating_point() and bool((said >= 0).all()):
        return int(said.max()) + 1
    if said.ndim == 2 and len(said) and said.is_floating_point():
        sums = said.double().sum(1)
        if bool((said >= 0).all()) and torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
            return said.shape[1]
    raise ValueError(
        "expected class indices (N,) of at least 0, or probabilities (N, K) that sum to 1, received "
        f"{said.dtype} {tuple(said.shape)}"
        + (f" from {said.min().item():g} to {said.max().item():g}" if said.numel() else "")
    )


def classified(classify: Classify, images: Tensor, name: str = "the classifier") -> Tensor:
    """Classify images `(N, C, H, W)` in [0, 1] in batches; raise `ValueError` unless each one gets an answer."""
    said = torch.cat([torch.as_tensor(classify(part)).detach().cpu() for part in images.split(BATCH)])
    if len(said) != len(images):
        raise ValueError(f"{name} gave {len(said)} answers for {len(images)} images")
    return said


class ProjectClassifier:
    """The project's own classifier as one of an attribute: probabilities `(B, K)` of images in [0, 1]."""

    def __init__(self, classifier: Classifier | str | Path, values: Sequence[str] | None = None) -> None:
        self.network = classifier if isinstance(classifier, Classifier) else Classifier.load(classifier)
        self.values = None if values is None else tuple(values)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Raises `ValueError` for images of another shape than the classifier's."""
        if tuple(images.shape[1:]) != self.network.shape:
            raise ValueError(f"the classifier is for images {self.network.shape}, received {tuple(images.shape)}")
        device = next(self.network.parameters()).device
        return self.network(2 * images.to(device) - 1).softmax(1)


class TransformersClassifier:
    """Any image classifier of transformers, from a local folder: probabilities `(B, K)` of images in [0, 1].

    The folder holds what `save_pretrained` of a model and of its image processor wrote; nothing is downloaded.

    Raises:
        FileNotFoundError: there is no such folder.
        ImportError: transformers is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        if not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"expected a folder with a transformers model (config.json) at {folder}")
        library = optional("transformers", "classifiers of transformers need it installed: pip install transformers")
        local: dict[str, Any] = {"local_files_only": True}
        opened = library.AutoModelForImageClassification.from_pretrained(str(folder), use_safetensors=True, **local)
        self.network = opened.eval()
        self.processor = library.AutoImageProcessor.from_pretrained(str(folder), **local)
        names = self.network.config.id2label
        self.values = tuple(names[k] for k in sorted(names))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """The processor resizes and normalises as the model was trained; one channel is repeated to what it takes."""
        channels = getattr(self.network.config, "num_channels", 3)
        wide = images.expand(-1, channels, -1, -1) if images.shape[1] == 1 else images
        inputs = self.processor(images=list(wide), do_rescale=False, return_tensors="pt")
        return self.network(**inputs).logits.softmax(1)


class DeepFaceClassifier:
    """An attribute of photographed faces by DeepFace, one of "race", "gender" and "emotion": probabilities `(B, K)`.

    Raises:
        ValueError: another attribute.
        ImportError: deepface is not installed.
    """

    VALUES: ClassVar[dict[str, tuple[str, ...]]] = {
        "race": ("asian", "indian", "black", "white", "middle eastern", "latino hispanic"),
        "gender": ("Woman", "Man"),
        "emotion": ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"),
    }

    def __init__(self, attribute: str = "race") -> None:
        if attribute not in self.VALUES:
            raise ValueError(f"expected an attribute among {', '.join(self.VALUES)}, received {attribute!r}")
        library = optional("deepface", "this classifier needs deepface installed: pip install deepface").DeepFace
        self.analyze, self.attribute, self.values = library.analyze, attribute, self.VALUES[attribute]

    def __call__(self, images: Tensor) -> Tensor:
        """Classify images `(B, 3, H, W)` in [0, 1], each the crop of one face."""
        return torch.stack([self._one(image) for image in images])

    def _one(self, image: Tensor) -> Tensor:
        pixels = (image.expand(3, -1, -1).flip(0).movedim(0, -1) * 255).round().byte().cpu().numpy()  # as OpenCV: BGR
        said = self.analyze(pixels, actions=[self.attribute], detector_backend="skip", silent=True)[0][self.attribute]
        percent = torch.tensor([float(said[value]) for value in self.values], dtype=torch.float64)
        return percent / percent.sum()
