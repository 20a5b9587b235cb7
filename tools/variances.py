"""Draw docs/solver.png: `python tools/variances.py OUT.png [--model models/cifar10] [--prior FILE] [-n 512]`.

Samples of a network from full noise in three evaluations, trailing times. At each level the variance of the samples in
the leading directions of the prior, about its mean, over that of noised data, `l + sigma^2`; after the last step over
l. Directions are averaged in groups. A sampler that is right in them has 1 at every level.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

matplotlib.use("Agg")
import matplotlib.pyplot as plt

import latestart as ls
from latestart.sampling.families import family_of
from latestart.sampling.late_start import start_sample
from latestart.sampling.samplers import clipping, make_sampler

NAMES = {"ddim": "DDIM", "dpm++": "DPM++ 2M", "prior": "prior solver"}
GROUPS = ((0, 3), (3, 10), (10, 30), (30, 100))
STEPS = 3


def shares(x: Tensor, sigma: float, prior: Any) -> list[float]:
    """The variance of states y `(B, *shape)` over that of noised data, by groups of directions."""
    energies = prior.basis.energies(x - prior.mean).double().mean(0) / prior.basis.multiplicity
    over = energies / (prior.variances + sigma**2)
    order = prior.variances.argsort(descending=True)
    return [float(over[order[i:j]].mean()) for i, j in GROUPS]


def run(name: str, model: Any, trained: Any, prior: Any, z: Tensor) -> tuple[list[float], list[list[float]]]:
    """The levels of a run down to data, and the shares at each."""
    sampler = make_sampler(name, trained, prior if name == "prior" else None, "trailing", **clipping(name, False))
    sampler.set_timesteps(STEPS)
    noise, x = family_of(sampler).noise, start_sample(sampler, None, z)
    levels, found = [], []
    for t in sampler.timesteps:
        levels.append(noise.sigma(float(t)))
        found.append(shares(x / noise.alpha(float(t)), levels[-1], prior))
        out = torch.cat([model(part, t).sample for part in x.split(128)])
        x = sampler.step(out, t, x).prev_sample
    return [*levels, 0.0], [*found, shares(x, 0.0, prior)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent.parent / "models" / "cifar10")
    parser.add_argument("--prior", type=Path, help="by default the one beside the model")
    parser.add_argument("-n", type=int, default=512)
    options = parser.parse_args()
    model, trained = ls.load_model(options.model)
    prior = ls.load_prior(options.prior or options.model / "prior.safetensors")
    z = torch.randn(options.n, *prior.shape, generator=torch.Generator().manual_seed(0))
    figure, axes = plt.subplots(1, len(GROUPS), figsize=(10, 3), sharey=True, layout="constrained")
    for number, name in enumerate(NAMES):
        with torch.inference_mode():
            levels, found = run(name, model, trained, prior, z)
        rows = [" ".join(f"{share:.2f}" for share in row) for row in found]
        print(name, *(f"sigma {level:.3g}: {row}" for level, row in zip(levels, rows)), sep="\n  ")
        for axis, values in zip(axes, zip(*found)):
            axis.plot(values, color=f"C{number}", marker="os^"[number], markersize=5, label=NAMES[name])
    ticks = [f"{level:.3g}" if level else "data" for level in levels]
    for axis, (i, j) in zip(axes, GROUPS):
        axis.axhline(1, color="0.6", linewidth=1, linestyle="--", zorder=0)
        axis.set(
            xticks=range(len(ticks)), xticklabels=ticks, title=f"directions {i + 1} to {j}", xlabel="noise level σ"
        )
        axis.grid(alpha=0.25)
    axes[0].set(ylabel="variance / that of noised data", ylim=(0, None))
    axes[0].legend(loc="lower left", fontsize=9)
    figure.savefig(options.out, dpi=120)


if __name__ == "__main__":
    main()
