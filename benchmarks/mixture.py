"""What a mixture of Gaussians buys over one, on the shipped network and on a weak one.

The cells of the demo for DDIM, in one run, with the same seeds: full noise (the best of leading and trailing spacing,
clipped and unclipped), one Gaussian and a mixture of 30, each at its best start; Frechet distance, recall and copying
beside each other, and DDIM from full noise in 100 steps for the recall that is to be kept.

Expected, where the network is weak: with a mixture at least 8 times the quality of full noise at 3 evaluations, 3.5 at
5 and 2.5 at 10, and 3, 2 and 1.5 times that of one Gaussian; the recall at most 0.03 below that of the 100 steps, and
copying within its bar.

    python benchmarks/mixture.py [--only shipped|weak] [--weak FOLDER] [--images mnist-train.parquet] [--samples 1000]

The weak network sees images padded to 32 x 32: its priors are fitted to padded images, and its samples are cropped.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from diffusers import DDPMScheduler, UNet2DModel
from rich.console import Console
from torch import Tensor
from torch.nn.functional import pad

import latestart as ls
from latestart import zoo
from latestart.denoisers.patches import Unshuffled
from latestart.lab.grid import FULL, Cell
from latestart.lab.judge import Figures, over, shipped_judge
from latestart.sampling.generate import generate
from latestart.sampling.samplers import make_sampler

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared"
EVALUATIONS = (3, 5, 10)
STARTS = {"gaussian": (400, 500, 600, 700), "mixture": (200, 300, 400, 500)}
BARS = {3: (8.0, 3.0), 5: (3.5, 2.0), 10: (2.5, 1.5)}  # the mixture's gain on full noise, and on the Gaussian
SHORT = 0.03  # of recall, at most, of that of 100 steps
COMPONENTS = 30
Measured = tuple[Cell, Figures]


@dataclass(frozen=True)
class Weak:
    """A network on padded images, with the attributes of a shipped bundle."""

    model: Unshuffled
    scheduler: DDPMScheduler
    prior: ls.Gaussian
    mixture: Any


def weak(folder: Path, images: Path) -> Weak:
    unet = UNet2DModel.from_pretrained(folder, use_safetensors=True).float().eval()
    padded = pad(ls.load_images(images).floats(), (2, 2, 2, 2), value=-1.0)
    mixture = ls.Mixture.fit(padded, components=COMPONENTS)
    return Weak(Unshuffled(unet, 2), DDPMScheduler(clip_sample=False), ls.Gaussian.fit(padded, basis="dense"), mixture)


def cells(samples: int) -> Iterator[Cell]:
    for nfe, clip in product(EVALUATIONS, (False, True)):
        for spacing in ("leading", "trailing"):
            yield Cell(
                model="",
                sampler="ddim",
                nfe=nfe,
                prior=FULL,
                t_start=None,
                spacing=spacing,
                clip=clip,
                samples=samples,
                seed=0,
            )
        for prior, starts in STARTS.items():
            for t_start in starts:
                yield Cell(
                    model="",
                    sampler="ddim",
                    nfe=nfe,
                    prior=prior,
                    t_start=t_start,
                    spacing="trailing",
                    clip=clip,
                    samples=samples,
                    seed=0,
                )
    yield Cell(
        model="",
        sampler="ddim",
        nfe=100,
        prior=FULL,
        t_start=None,
        spacing="trailing",
        clip=False,
        samples=samples,
        seed=0,
    )  # the reference


def measure(bundle: Any, cell: Cell, judge: Callable[[Tensor], Figures]) -> Measured:
    prior = {FULL: lambda: None, "gaussian": lambda: bundle.prior, "mixture": lambda: bundle.mixture}[cell.prior]()
    sampler = make_sampler("ddim", bundle.scheduler, **cell.settings(bundle.scheduler))
    return cell, judge(generate(bundle.model, sampler, prior, cell.samples, cell.nfe, cell.t_start).samples.cpu())


def run(bundle: Any, judge: Callable[[Tensor], Figures], samples: int, console: Console) -> dict[str, Any]:
    """All figures of one network."""
    measured = []
    for cell in cells(samples):
        measured.append(measure(bundle, cell, judge))
        row = measured[-1][1]
        told = f"NFE {cell.nfe}, {cell.prior}, t = {cell.t_start}, {cell.spacing}, clip {cell.clip}"
        console.print(f"{told}: {row.frechet.value:.1f}, recall {row.recall.value:.3f}", style="dim")
    return {
        "rows": [_row(*one) for one in measured],
        "best": [_best([one for one in measured if one[0].nfe == nfe], nfe) for nfe in EVALUATIONS],
        "reference": _row(*measured[-1]),
    }


def _row(cell: Cell, figures: Figures) -> dict[str, Any]:
    frechet = figures.frechet
    quality = {"frechet": frechet.value, "low": frechet.low, "high": frechet.high}
    return {**asdict(cell), **quality, **figures.estimates("recall", "copied")}


def _best(measured: list[Measured], nfe: int) -> dict[str, Any]:
    best = {
        kind: min((one for one in measured if one[0].prior == kind), key=lambda one: one[1].frechet.value)
        for kind in (FULL, *STARTS)
    }
    none, one, many = (figures for _, figures in best.values())
    pairs = {"on_full_noise": (none, many), "on_gaussian": (one, many), "gaussian": (none, one)}
    gains = {name: asdict(over(worse, better)) for name, (worse, better) in pairs.items()}
    return {"nfe": nfe, **{kind: _row(*found) for kind, found in best.items()}, "gains": gains}


def table(name: str, result: dict[str, Any]) -> str:
    """One network's table as markdown."""
    reference = result["reference"]
    lines = [
        f"## {name}",
        "",
        f"DDIM, {reference['samples']} samples. In 100 steps from full noise: distance {reference['frechet']:.1f}, "
        f"recall {_of(reference['recall'])}, copied {_of(reference['copied'])}.",
        "",
        "| NFE | full noise | Gaussian | mixture | mixture on full noise (bar) | on Gaussian (bar) | recall "
        "| below 100 steps by (bar) | copied |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for best in result["best"]:
        on_noise, on_one = BARS[best["nfe"]]
        cells_ = [f"{best[k]['frechet']:.1f}{_at(best[k])}" for k in ("none", "gaussian", "mixture")]
        gains = best["gains"]
        cells_ += [f"{_of(gains['on_full_noise'], 2)} ({on_noise})", f"{_of(gains['on_gaussian'], 2)} ({on_one})"]
        recall = best["mixture"]["recall"]
        short = reference["recall"]["value"] - recall["value"]
        cells_ += [_of(recall), f"{short:.3f} ({SHORT}){' missed' if short > SHORT else ''}"]
        cells_ += [_of(best["mixture"]["copied"])]
        lines.append(f"| {best['nfe']} | {' | '.join(cells_)} |")
    return "\n".join(lines)


def _of(estimate: dict[str, float], digits: int = 3) -> str:
    value, low, high = (f"{estimate[k]:.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _at(row: dict[str, Any]) -> str:
    return "" if row["t_start"] is None else f" at {row['t_start']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weak", type=Path, default=SHARED / "models" / "mnist-weak")
    parser.add_argument("--images", type=Path, default=SHARED / "data" / "mnist-train.parquet")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--only", choices=("shipped", "weak"))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    console, bundle = Console(stderr=True), zoo.load("mnist")
    judge, kept = shipped_judge(bundle), options.out / "mixture.json"
    results = json.loads(kept.read_text()) if options.only and kept.is_file() else {}  # the other network's
    if options.only != "weak":
        results["shipped"] = run(bundle, judge, options.samples, console)
    if options.only != "shipped" and options.weak.is_dir() and options.images.is_file():
        network = weak(options.weak, options.images)
        results["weak"] = run(network, lambda x: judge(x[..., 2:-2, 2:-2]), options.samples, console)
    text = "\n\n".join(table(f"The {name} network", result) for name, result in results.items())
    kept.write_text(json.dumps(results, indent=1) + "\n")
    (options.out / "mixture.md").write_text(f"# One Gaussian and a mixture of {COMPONENTS}\n\n{text}\n")
    print(text)


if __name__ == "__main__":
    main()
