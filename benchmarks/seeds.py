"""How far a late start keeps the seed: the image of a full run and of a late start from the same white noise.

For each prior and level, DDIM with 50 steps on the shipped network, the mean correlation over seeds of the late-started
sample with the full run's, with its 95% bootstrap interval. A Gaussian carries the noise along its own probability flow
from infinite noise (`push`), so the nearer it is to the data, and the higher the level, the more of the seed is kept.
A mixture draws a component first, from the noise, and promises repeatability only.

    python benchmarks/seeds.py [--seeds 64] [--steps 50] [--out FOLDER]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import latestart as ls
from latestart import zoo
from latestart.sampling.samplers import make_sampler

HERE = Path(__file__).parent
TIMES = (800, 700, 600, 500, 400)
BASES: dict[str, dict[str, Any]] = {
    "isotropic": {},
    "channel": {},
    "diagonal": {},
    "fourier": {},
    "cosine": {},
    "cosine+dense": {},
    "lowrank": {"rank": 256},
    "dense": {},
}


def priors(bundle: zoo.Bundle) -> dict[str, Any]:
    """Gaussians of every structure, each with what it can hold of the training set's moments, and the mixture."""
    images = bundle.prior.sample(20_000, torch.Generator().manual_seed(0))
    fitted = {
        name: ls.Gaussian.fit(images, basis=name, **options) for name, options in BASES.items() if name != "dense"
    }
    return {"N(0, I)": None, **fitted, "dense": bundle.prior, "mixture": bundle.mixture}


def correlations(a: Tensor, b: Tensor) -> np.ndarray:
    """Pearson's correlation of each pair of samples, `(n,)`."""
    x, y = ((s.flatten(1) - s.flatten(1).mean(1, keepdim=True)).double() for s in (a, b))
    return ((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).numpy()


def estimate(values: np.ndarray) -> dict[str, float]:
    """The mean, and the central 95% of its bootstrap."""
    index = np.random.default_rng(0).integers(0, len(values), (2000, len(values)))
    low, high = np.quantile(values[index].mean(1), [0.025, 0.975])
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    bundle = zoo.load("mnist")
    scheduler = make_sampler("ddim", bundle.scheduler, timestep_spacing="trailing", clip_sample=False)
    run: dict[str, Any] = {"n": options.seeds, "steps": options.steps}
    full = ls.generate(bundle.model, scheduler, **run).samples
    rows = {}
    for name, prior in priors(bundle).items():
        late = {t: ls.generate(bundle.model, scheduler, prior, t_start=t, **run).samples for t in TIMES}
        rows[name] = {t: estimate(correlations(full, samples)) for t, samples in late.items()}
    other = ls.generate(bundle.model, scheduler, seed=1, **run).samples
    floor = estimate(correlations(full, other))
    record = {"seeds": options.seeds, "steps": options.steps, "rows": rows, "another_seed": floor}
    (options.out / "seeds.json").write_text(json.dumps(record, indent=1) + "\n")
    lines = [
        "# Seeds kept",
        "",
        f"Correlation of a late start with the full run of the same noise: DDIM, {options.steps} steps, "
        f"{options.seeds} seeds. Another seed: {floor['value']:.2f}.",
        "",
        f"| prior | {' | '.join(f't = {t}' for t in TIMES)} |",
        "|---|" + "---|" * len(TIMES),
    ]
    for name, row in rows.items():
        cells = [f"{e['value']:.3f} [{e['low']:.3f}, {e['high']:.3f}]" for e in row.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    (options.out / "seeds.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
