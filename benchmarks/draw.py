"""What a start sample and a step of the prior solver cost beside an evaluation of the network, and how they grow.

- On MNIST, at batch 256, with the noise drawn before and the level's root at hand (`prior.noised(sigma)` kept): the
  time of an image's start sample for every structure, over that of one evaluation of the shipped network, in turns.
  Expected: at most 5%.
- The same for images (3, S, S) up to D = 786,432 values, for the structures that reach so far, with a plot; the slope
  is that of a straight line through the logarithms, over the images of 64 and more.
- A step of the prior solver, at batch 256: the second of three, late-started at t = 600, with its weights known already
  and the evaluation before at hand, over one evaluation of the network, in turns. On MNIST with the shipped Gaussian
  and with every structure, on CIFAR-10 with the model in `models/cifar10` and its prior. Expected: less than 8%.

    python benchmarks/draw.py [--largest 512] [--only start|steps] [--out FOLDER]
"""

import argparse
import copy
import json
import math
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import latestart as ls
from latestart import zoo
from latestart.gaussians.basis import Diagonal, Isotropic
from latestart.gaussians.blocks import block_size
from latestart.gaussians.cosine_dense import CosineDense
from latestart.gaussians.lowrank import LowRank
from latestart.gaussians.spectral import Channel, Cosine, Fourier
from latestart.gaussians.transforms import FourierTransform
from latestart.sampling.late_start import late_start
from latestart.sampling.samplers import make_sampler

HERE = Path(__file__).parent
CIFAR = HERE.parent / "models" / "cifar10"
SIDES = (8, 16, 32, 64, 128, 256, 512)
BATCH, REPEATS, SIGMA = 256, 15, 2.0
RANK = 256
START, STEPS = 600, 3  # of the run whose second step is timed
SAMPLES = 4  # at once, at every size: what a call costs once is spread alike
STRUCTURES = ("isotropic", "channel", "diagonal", "fourier", "cosine", "cosine+dense", "lowrank", "dense")
STATED = {  # how the time of one sample of D values grows
    "isotropic": "D",
    "channel": "D C",
    "diagonal": "D",
    "fourier": "D log D",
    "cosine": "D log D; D side below 192",
    "cosine+dense": "as cosine, and rank^2",
    "lowrank": "D rank",
}


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def mnist() -> dict[str, dict[str, float]]:
    """Microseconds an image, and the share of one evaluation of the network."""
    bundle = zoo.load("mnist")
    images = bundle.prior.sample(4000, torch.Generator().manual_seed(0))
    priors: dict[str, Any] = {name: ls.Gaussian.fit(images, basis=name) for name in STRUCTURES}
    priors |= {"mixture": bundle.mixture, "mixture, dense": ls.Mixture.fit(images, basis="dense", components=30)}
    z, t = torch.randn(BATCH, *bundle.prior.shape), torch.tensor(500)
    rows = {}
    with torch.inference_mode():
        for name, prior in priors.items():
            noised = prior.noised(SIGMA)
            noised.push(z), bundle.model(z, t)
            pairs = [(seconds(lambda n=noised: n.push(z)), seconds(lambda: bundle.model(z, t))) for _ in range(REPEATS)]
            push, network = (statistics.median(values) / BATCH for values in zip(*pairs))
            rows[name] = {"push_us": 1e6 * push, "network_us": 1e6 * network, "share": push / network}
    return rows


def solver() -> dict[str, dict[str, float]]:
    """Milliseconds of one step of the prior solver for a batch, and the share of one evaluation of the network."""
    bundle = zoo.load("mnist")
    images = bundle.prior.sample(4000, torch.Generator().manual_seed(0))
    cases = {"MNIST, shipped": (bundle.model, bundle.scheduler, bundle.prior)}
    for name in STRUCTURES:
        cases[f"MNIST, {name}"] = (bundle.model, bundle.scheduler, ls.Gaussian.fit(images, basis=name))
    if CIFAR.is_dir():
        prior = ls.load_prior(CIFAR / "prior.safetensors")
        cases[f"CIFAR-10, {prior.basis.name}"] = (*ls.load_model(CIFAR), prior)
    with torch.inference_mode():
        return {name: step(*case) for name, case in cases.items()}


def step(model: Any, trained: Any, prior: ls.Gaussian) -> dict[str, float]:
    """The second step of a late-started run, over an evaluation."""
    late = late_start(make_sampler("prior", trained, prior), START, STEPS)
    x, (first, second, *_) = torch.randn(BATCH, *prior.shape), late.timesteps
    x = late.step(model(x, first).sample, first, x).prev_sample
    out, pairs = model(x, second).sample, []
    for _ in range(REPEATS + 1):
        begun = copy.deepcopy(late)  # its weights are shared by all copies
        pairs.append((seconds(lambda s=begun: s.step(out, second, x)), seconds(lambda: model(x, second))))
    own, network = (statistics.median(values) for values in zip(*pairs[1:]))
    return {"step_ms": 1e3 * own, "network_ms": 1e3 * network, "share": own / network}


def spread(name: str, side: int) -> ls.Gaussian | None:
    """A Gaussian of images (3, side, side), made without fitting; None where it would not fit in memory."""
    shape, dim = (3, side, side), 3 * side**2
    g = torch.Generator().manual_seed(0)
    eye = torch.eye(3)
    if name in ("isotropic", "diagonal", "channel"):
        basis: Any = {"isotropic": Isotropic, "diagonal": Diagonal}.get(name, lambda s: Channel(s, eye))(shape)
    elif name == "fourier":
        rotation = torch.zeros(block_size(FourierTransform(shape)))
        rotation[0] = eye[:, :, None]
        basis = Fourier(shape, rotation)
    elif name == "cosine":
        basis = Cosine(shape, eye[:, :, None].expand(3, 3, side**2).contiguous())
    elif name == "cosine+dense":
        low = min(512, dim) // 3
        vectors = torch.linalg.qr(torch.randn(3 * low, 3 * low, generator=g)).Q
        basis = CosineDense(shape, vectors, eye[:, :, None].expand(3, 3, side**2 - low).contiguous())
    elif name == "lowrank":
        basis = LowRank(shape, torch.linalg.qr(torch.randn(dim, min(RANK, dim), generator=g)).Q)
    else:
        return None
    return ls.Gaussian(torch.zeros(shape), basis, torch.ones(len(basis.multiplicity)))


def growth(largest: int) -> dict[str, dict[int, float]]:
    """Seconds of one start sample by the number of values, for each structure."""
    found: dict[str, dict[int, float]] = {}
    for name in STATED:
        found[name] = {}
        for side in (s for s in SIDES if s <= largest):
            prior = spread(name, side)
            if prior is None:
                continue
            z, noised = torch.randn(SAMPLES, 3, side, side), prior.noised(SIGMA)
            noised.push(z)
            times = [seconds(lambda p=noised, z=z: p.push(z)) for _ in range(5)]
            found[name][3 * side**2] = statistics.median(times) / SAMPLES
    return found


def slope(times: dict[int, float]) -> float:
    """Of log seconds in log D, over the images of side 64 and more."""
    points = [(math.log(d), math.log(s)) for d, s in times.items() if d >= 3 * 64**2]
    x, y = (torch.tensor(values, dtype=torch.float64) for values in zip(*points))
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def plot(path: Path, found: dict[str, dict[int, float]]) -> None:
    figure, axis = plt.subplots(figsize=(7, 4.5), layout="constrained")
    for name, times in found.items():
        axis.loglog(list(times), [1e3 * s for s in times.values()], marker="o", label=f"{name} ({STATED[name]})")
    axis.set(xlabel="values of an image, D", ylabel="ms", title="Drawing one start sample")
    axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--largest", type=int, default=512, help="side of the largest image")
    parser.add_argument("--only", choices=("start", "steps"), help="one part; of the other what was measured is kept")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    kept = options.out / "draw.json"
    record = json.loads(kept.read_text()) if options.only and kept.is_file() else {}  # the other part's
    if options.only != "steps":
        small, found = mnist(), growth(options.largest)
        record |= {"mnist": small, "growth": found, "slope": {name: slope(times) for name, times in found.items()}}
        plot(options.out / "draw.png", found)
    if options.only != "start":
        record["solver"] = solver()
    kept.write_text(json.dumps(record, indent=1) + "\n")
    text = "\n".join(["# Drawing start samples, and steps of the prior solver", *page(record)])
    (options.out / "draw.md").write_text(text + "\n")
    print(text)


def page(record: dict[str, Any]) -> Iterator[str]:
    """The parts that are measured, as markdown."""
    if "mnist" in record:
        yield from ("", f"MNIST, batch {BATCH}:", "", "| prior | us | share of an evaluation |", "|---|---|---|")
        yield from (f"| {name} | {row['push_us']:.1f} | {row['share']:.1%} |" for name, row in record["mnist"].items())
        yield from ("", "Images (3, S, S), ms a sample:", "")
        yield f"| structure | {' | '.join(map(str, SIDES))} | stated | slope |"
        yield "|---|" + "---|" * (len(SIDES) + 2)
        for name, times in record["growth"].items():
            cells = " | ".join(f"{1e3 * s:.3f}" for s in times.values())
            yield f"| {name} | {cells} | {STATED[name]} | {record['slope'][name]:.2f} |"
        yield from ("", "![time of one sample](draw.png)")
    if "solver" in record:
        yield from ("", "## A step of the prior solver", "")
        run = f"the second of {STEPS} steps from t = {START}, beside an evaluation in turns"
        yield f"Batch {BATCH}, {run}, medians of {REPEATS}:"
        yield from ("", "| prior inside | step, ms | evaluation, ms | share (less than 8%) |", "|---|---|---|---|")
        for name, row in record["solver"].items():
            yield f"| {name} | {row['step_ms']:.1f} | {row['network_ms']:.0f} | {row['share']:.1%} |"


if __name__ == "__main__":
    main()
