"""Distances under features of the denoiser itself beside those under a classifier's: can they be trusted?

    python benchmarks/features.py CACHE NAME=MODEL,IMAGES[,gaussian=FILE][,mixture=FILE][,samples=N] ... [--out FOLDER]

A set is a model (a shipped name, or a folder with a classifier beside it), the images it was trained on, and the priors
that are not beside it. Its cells are of the kind of the paper's table: samplers x evaluations x starts, from full noise
(clipped and not), late from a Gaussian and late from a mixture. Each cell is drawn once, and its features in each space
are taken once; both are kept in the folder CACHE.

The figure is the Spearman rank correlation, over all cells of a set, of the Frechet distances in a space with those
under the classifier, both to the same images: overall, and within the cells of one number of evaluations, which lie
nearer to each other. `half of the classifier` is the correlation of the classifier's distances of one half of the
samples with those of the other: what the noise of so few samples leaves. `regret` is the classifier's distance of the
cell that a space calls best, over that of the best; `floor` the distance of other images of the set, as many as
samples, over that of the best cell.

Levels, pooling, noise and normalisation were chosen on MNIST and CIFAR-10; faces were measured with that choice first,
and with every other setting afterwards, which left the choice as it was. Expected of the choice, at one level: above
0.9 on the first two, 0.86 on faces. Writes `features.json` and `features.md` beside this file.
"""

import argparse
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import latestart as ls
from latestart.checks import seeded
from latestart.data import to_pixels
from latestart.evaluation.kernel import EnergyTo
from latestart.evaluation.quality import FrechetTo
from latestart.features import Classifier, ClassifierFeatures
from latestart.files import load_tensors, replacing, save_tensors, write_json
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.priors import load_prior
from latestart.lab.subjects import SHIPPED
from latestart.network_features import NetworkFeatures
from latestart.sampling.loop import draw
from latestart.sampling.samplers import usual_sampler
from latestart.shipped import ASSETS, names
from latestart.zoo import open_model

HERE = Path(__file__).parent
SAMPLERS = ("ddim", "ddpm", "dpm++")
STARTS = {"gaussian": (400, 600), "mixture": (300, 500)}
CHOOSING = ("mnist", "cifar10")  # sets that settings are chosen on
SIGMAS = (0.1, 0.2, 0.4, 0.8, 1.6)
SIGMA, POOL = 0.8, "mean"  # those of `NetworkFeatures`
PAIRS = ((0.2, 0.8), (0.4, 1.6))
CHOSEN = "network features"
SHOWN = ("half", "classifier", CHOSEN, "pixels", "self-supervised", f"random convolutions, {POOL}")
MORE = {"gaussian": (400, 500, 600, 700)}  # of a set without a mixture


@dataclass(frozen=True)
class Cell:
    """A way to draw samples.

    Attributes:
        sampler: its short name.
        nfe: evaluations a sample.
        prior: "none" for full noise, "gaussian" or "mixture".
        t_start: of a late start; None for full noise.
        clip: whether the predicted image is clipped at every step.
    """

    sampler: str
    nfe: int
    prior: str = "none"
    t_start: int | None = None
    clip: bool = False

    def __str__(self) -> str:
        start = "full" if self.t_start is None else f"{self.prior}-{self.t_start}"
        return f"{self.sampler}-{self.nfe}-{start}{'-clipped' if self.clip else ''}"


def cells(priors: dict[str, Any], slow: bool) -> Iterator[Cell]:
    """Every cell of a set; of a slow one, ten evaluations only with DDIM."""
    starts = STARTS if "mixture" in priors else MORE
    for nfe, sampler in product((3, 5, 10), SAMPLERS):
        if slow and nfe == 10 and sampler != SAMPLERS[0]:
            continue
        yield Cell(sampler, nfe)
        yield Cell(sampler, nfe, clip=True)
        yield from (Cell(sampler, nfe, prior, t) for prior, times in starts.items() for t in times)
    yield from (Cell("prior", nfe) for nfe in ((3, 5) if slow else (3, 5, 10)))


@dataclass
class Subject:
    """A set: its model, priors and images.

    Attributes:
        name: of the set.
        folder: of the model.
        model, scheduler: the network and its scheduler.
        priors: by name.
        images: bytes, in an order drawn by a seed.
        slow: whether few cells of many evaluations are drawn.
    """

    name: str
    folder: Path
    model: Any
    scheduler: Any
    priors: dict[str, Any]
    images: Tensor
    slow: bool

    @classmethod
    def of(cls, text: str) -> tuple["Subject", int]:
        """A set as the command line names it, and the samples of a cell."""
        name, _, rest = text.partition("=")
        model, images, *more = rest.split(",")
        folder = ASSETS / model if model in names() else Path(model)
        given = dict(one.split("=", 1) for one in more)
        files = {prior: Path(given.get(prior, folder / file)) for prior, file in SHIPPED.items()}
        priors = {prior: load_prior(file) for prior, file in files.items() if file.is_file()}
        pixels = ls.load_images(images).pixels
        order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
        network, scheduler, _ = open_model(model)
        own = cls(name, folder, network, scheduler, priors, pixels[order[:10_000]], pixels.shape[-1] > 32)
        return own, int(given.get("samples", 800))

    def cells(self) -> list[Cell]:
        """Every cell."""
        return list(cells(self.priors, self.slow))


def drawn(subject: Subject, cell: Cell, samples: int, cache: Path) -> Tensor:
    """The samples of a cell as bytes `(N, C, H, W)`, from the cache or drawn into it."""
    path = cache / subject.name / f"{cell}-{samples}.safetensors"
    if path.is_file():
        return load_tensors(path, "samples")[0]["samples"]
    inside = subject.priors["gaussian"] if cell.sampler == "prior" else None
    sampler = usual_sampler(cell.sampler, subject.scheduler, cell.clip, inside)
    prior = None if cell.t_start is None else subject.priors[cell.prior]
    result = draw(subject.model, sampler, prior, samples, cell.nfe, cell.t_start, batch_size=100)
    assert result.nfe == cell.nfe, f"{cell}: {result.nfe} evaluations"
    path.parent.mkdir(parents=True, exist_ok=True)
    found = to_pixels(result.images)
    save_tensors(path, "samples", {"samples": found}, {"cell": str(cell)})
    return found


REFERENCE = 3000  # images that the cells are compared with
POOLS = ("mean", "deviation", "mean and deviation", "maximum", "quarters")
STEPS = 200  # of the training without labels
PROBED = 1500  # images of the energy distance
SIDE = {1: 8, 3: 6}  # of the pictures whose pixels are features, by channels
CLASSIFIER = "classifier"


class Space:
    """Features of every cell of a set, in one space.

    Attributes:
        rows: `(N, F)` by cell; of the images that all are compared with, "reference", and of others, "floor".
    """

    def __init__(self, rows: dict[str, Tensor]) -> None:
        self.rows = {name: one.double() for name, one in rows.items()}
        self.reference = self.rows["reference"]

    def frechet(self, part: slice = slice(None)) -> dict[str, float]:
        """The Frechet distance of part of each cell."""
        to = FrechetTo(Gaussian.fit([self.reference], basis="dense", dtype=torch.float64))
        return {name: to(one[part]) for name, one in self.rows.items() if name != "reference"}

    def energy(self) -> dict[str, float]:
        """The energy distance of each cell."""
        to = EnergyTo(self.reference[:PROBED])
        return {name: to(one) for name, one in self.rows.items() if name != "reference"}

    def with_rows(self, change: Callable[[Tensor], Tensor]) -> "Space":
        """The space after a change of all features."""
        return Space({name: change(one) for name, one in self.rows.items()})


def pooled(h: Tensor) -> Tensor:
    """Activations `(B, C, H, W)` in all ways: the parts of `split`, `(B, 7 C)`."""
    quarters = nn.functional.adaptive_avg_pool2d(h, 2).flatten(1)
    return torch.cat([h.mean((2, 3)), h.flatten(2).std(2, correction=0), h.amax((2, 3)), quarters], 1)


def split(rows: dict[str, Tensor]) -> dict[str, Space]:
    """The spaces of rows from `pooled`, by the way of pooling."""
    c = rows["reference"].shape[1] // 7
    ends = dict(zip(POOLS, ((0, c), (c, 2 * c), (0, 2 * c), (2 * c, 3 * c), (3 * c, 7 * c))))
    return {pool: Space({name: one[:, a:b] for name, one in rows.items()}) for pool, (a, b) in ends.items()}


def random_convolutions(channels: int) -> nn.Module:
    """Three layers of random weights, the same for every set."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        layers = [nn.Conv2d(a, b, 3, padding=1) for a, b in ((channels, 32), (32, 64), (64, 64))]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(layers[0], nn.ReLU(), nn.AvgPool2d(2), layers[1], nn.ReLU(), nn.AvgPool2d(2), layers[2])


def views(x: Tensor, generator: torch.Generator) -> Tensor:
    """Images in [-1, 1] cropped at random, and of random contrast and colour."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(shape, generator=generator) * (high - low) + low

    scale = uniform(0.6, 1, len(x), 1)
    crop = torch.zeros(len(x), 2, 3)
    crop[:, 0, :1] = crop[:, 1, 1:2] = scale
    crop[:, :, 2] = uniform(-1, 1, len(x), 2) * (1 - scale)
    grid = nn.functional.affine_grid(crop, list(x.shape), align_corners=False)
    seen = nn.functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return seen * uniform(0.7, 1.3, len(x), 1, 1, 1) + uniform(-0.2, 0.2, len(x), x.shape[1], 1, 1)


def self_supervised(images: Tensor) -> Classifier:
    """The classifier's own layers, trained without labels: of 256 views, each finds the other one of its image."""
    generator = seeded(0)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        network = Classifier(tuple(images.shape[1:]), 64).train()
        optimizer = torch.optim.Adam(network.parameters(), 1e-3)
        for _ in range(STEPS):
            x = images[torch.randint(len(images), (128,), generator=generator)]
            z = nn.functional.normalize(network(torch.cat([views(x, generator), views(x, generator)])), dim=1)
            likeness = (z @ z.T / 0.2).fill_diagonal_(-1e9)
            loss = nn.functional.cross_entropy(likeness, torch.arange(256).roll(128))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


class Taken:
    """Features of a set, taken once and kept."""

    def __init__(self, subject: "Subject", samples: int, cache: Path) -> None:
        self.subject, self.samples, self.folder = subject, samples, cache / subject.name
        self.pictures = {str(cell): drawn(subject, cell, samples, cache) for cell in subject.cells()}
        images = subject.images[: REFERENCE + samples]
        self.pictures |= {"reference": images[:REFERENCE], "floor": images[REFERENCE:]}

    def rows(self, space: str, extract: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Features by cell, of a function from images in [0, 1]."""
        path = self.folder / f"features-{space}-{self.samples}.safetensors"
        if not path.is_file():
            print(self.subject.name, space, flush=True)
            with torch.inference_mode():
                made = {n: torch.cat([extract(x / 255) for x in p.split(200)]) for n, p in self.pictures.items()}
            save_tensors(path, "features", made, {"space": space})
        return load_tensors(path, "features")[0]

    def classifier(self) -> Space:
        of = ClassifierFeatures(Classifier.load(self.subject.folder / "classifier.safetensors"))
        return Space(self.rows(CLASSIFIER, of))

    def pixels(self) -> Space:
        side = SIDE[self.subject.images.shape[1]]
        return Space(self.rows("pixels", lambda x: nn.functional.adaptive_avg_pool2d(x, side).flatten(1)))

    def convolutions(self) -> dict[str, Space]:
        network = random_convolutions(self.subject.images.shape[1])
        return split(self.rows("random", lambda x: pooled(network(2 * x - 1))))

    def self_supervised(self) -> Space:
        """A small network trained without labels, on the images at 32 pixels a side at most."""
        side = min(32, self.subject.images.shape[-1])

        def seen(x: Tensor) -> Tensor:
            return 2 * nn.functional.adaptive_avg_pool2d(x, side) - 1

        @functools.cache
        def network() -> Classifier:
            with torch.inference_mode(False):
                return self_supervised(seen(self.subject.images / 255))

        return Space(self.rows("self-supervised", lambda x: network().features(seen(x))))

    def level(self, sigma: float, noised: bool = True) -> dict[str, Space]:
        """The middle block at a level, by the way of pooling."""
        of = NetworkFeatures(self.subject.model, self.subject.scheduler, sigmas=(sigma,))
        z = torch.randn(of.network.sample_shape, generator=seeded(0))  # that of `NetworkFeatures`

        def extract(x: Tensor) -> Tensor:
            (h,) = of.activations(2 * x - 1 - (0 if noised else sigma) * z)
            return pooled(h.unflatten(2, (int(h.shape[2] ** 0.5), -1)))

        return split(self.rows(f"{sigma:g}{'' if noised else '-without-noise'}", extract))


def joined(spaces: list[Space]) -> Space:
    """Several spaces side by side."""
    return Space({name: torch.cat([one.rows[name] for one in spaces], 1) for name in spaces[0].rows})


def normalised(space: Space) -> dict[str, Space]:
    """A space after each normalisation."""
    deviation = space.reference.std(0)
    return {
        "by the images' deviations": space.with_rows(lambda x: x / deviation),
        "to length 1": space.with_rows(lambda x: x / x.norm(dim=1, keepdim=True)),
    }


def every_space(taken: Taken) -> Iterator[tuple[str, Space]]:
    """The spaces by name, the chosen one first."""
    chosen = taken.level(SIGMA)[POOL]
    yield CHOSEN, chosen
    for sigma in SIGMAS:
        yield from ((f"level {sigma:g}, {pool}", space) for pool, space in taken.level(sigma).items())
    yield f"level {SIGMA:g} without noise, {POOL}", taken.level(SIGMA, noised=False)[POOL]
    for pair in PAIRS:
        yield f"levels {pair[0]:g} and {pair[1]:g}, {POOL}", joined([taken.level(sigma)[POOL] for sigma in pair])
    yield from ((f"chosen, {how}", space) for how, space in normalised(chosen).items())
    yield from ((f"random convolutions, {pool}", space) for pool, space in taken.convolutions().items())
    yield "self-supervised", taken.self_supervised()
    yield "pixels", taken.pixels()


def figures(mine: dict[str, float], theirs: dict[str, float]) -> dict[str, Any]:
    """How the distances of a space go with the classifier's."""
    cells = [name for name in theirs if name != "floor"]
    best, called = (min(cells, key=lambda name: one[name]) for one in (theirs, mine))
    within = {n: [name for name in cells if name.split("-")[1] == n] for n in ("3", "5", "10")}
    return {
        "rho": rank(mine, theirs, cells),
        "interval": interval(mine, theirs, cells),
        "within": {nfe: rank(mine, theirs, some) for nfe, some in within.items()},
        "by start": {start: rank(mine, theirs, [c for c in cells if f"-{start}" in c]) for start in ("full", *STARTS)},
        "regret": theirs[called] / theirs[best],
        "called best": called,
        "floor": mine["floor"] / mine[called],
    }


def rank(mine: dict[str, float], theirs: dict[str, float], cells: list[str]) -> float:
    return float(spearmanr([mine[name] for name in cells], [theirs[name] for name in cells])[0])


def interval(mine: dict[str, float], theirs: dict[str, float], cells: list[str]) -> tuple[float, float]:
    """Of the correlation, 95%, by resampling the cells."""
    picks = torch.randint(len(cells), (500, len(cells)), generator=seeded(0)).tolist()
    found = torch.tensor([rank(mine, theirs, [cells[i] for i in pick]) for pick in picks])
    low, high = found.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def measured(text: str, cache: Path) -> dict[str, Any]:
    """All figures of a set."""
    subject, samples = Subject.of(text)
    taken = Taken(subject, samples, cache)
    classifier = taken.classifier()
    theirs = classifier.frechet()
    rows: dict[str, Any] = {
        "half of the classifier": figures(classifier.frechet(slice(0, None, 2)), classifier.frechet(slice(1, None, 2))),
        "classifier, energy distance": figures(classifier.energy(), theirs),
    }
    for name, space in every_space(taken):
        rows[name] = figures(space.frechet(), theirs)
        if name == CHOSEN:
            distances = space.frechet()
            rows[f"{name}, energy distance"] = figures(space.energy(), theirs)
    return {
        "set": subject.name, "samples": samples, "cells": len(subject.cells()), "reference": REFERENCE,
        "model": NetworkFeatures(subject.model, subject.scheduler).name, "rows": rows,
        "distances": {name: {"network": distances[name], "classifier": theirs[name]} for name in theirs},
    }  # fmt: skip


def markdown(found: list[dict[str, Any]]) -> str:
    """The tables."""
    titles = [one["set"] for one in found]
    lines = [
        "# Features of the denoiser itself beside a classifier's", "",
        "Spearman rank correlation of Frechet distances with those under the classifier, with a 95% interval over "
        "resampled cells: "
        + "; ".join(f"{one['set']}, {one['cells']} cells of {one['samples']} samples" for one in found)
        + f"; to {REFERENCE} images. Settings were chosen on {' and '.join(CHOOSING)}; on others the chosen ones were "
        "measured first, and the rest afterwards.", "",
        f"| space | {' | '.join(titles)} |", "|---" * (len(titles) + 1) + "|",
    ]  # fmt: skip
    for name in dict.fromkeys(name for one in found for name in one["rows"]):
        cells = [one["rows"].get(name) for one in found]
        told = ["" if c is None else f"{c['rho']:.3f} [{c['interval'][0]:.2f}, {c['interval'][1]:.2f}]" for c in cells]
        lines.append(f"| {name} | {' | '.join(told)} |")
    lines += [
        "", "Within the cells of one number of evaluations and of one kind of start; the classifier's distance of the "
        "cell that the space calls best over that of the best; that of other images over that of that cell:", "",
        "| set | space | by evaluations | by start | regret | called best | floor |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for one in found:
        for name, row in one["rows"].items():
            if name.startswith(SHOWN):
                within = ", ".join(f"{nfe}: {rho:.3f}" for nfe, rho in row["within"].items())
                tail = f"{row['regret']:.2f} | {row['called best']} | {row['floor']:.2f}"
                starts = ", ".join(f"{start}: {rho:.3f}" for start, rho in row["by start"].items())
                lines.append(f"| {one['set']} | {name} | {within} | {starts} | {tail} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Draw, measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("sets", nargs="+", metavar="NAME=MODEL,IMAGES")
    parser.add_argument("--out", type=Path, default=HERE)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found = [measured(text, asked.cache) for text in asked.sets]
    write_json(asked.out / "features.json", {"sets": found})
    with replacing(asked.out / "features.md") as temporary:
        temporary.write_text(markdown(found))
    print(markdown(found))


if __name__ == "__main__":
    main()
