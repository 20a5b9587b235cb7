"""The prior solver on exact mixtures of Gaussians: what few evaluations from full noise leave, whatever the network.

Three problems, fixed by seeds and written down before anything was measured. The network is exact (`ls.as_model`), the
schedule DDPM's linear betas, the prior inside the Gaussian of the whole mixture.

For each sampler, in 3 and 5 evaluations:

- every spacing that it has, and times down to a few last ones, is measured once, with seed 0; the one with the smallest
  distance is its best;
- trailing times and the best way are measured again with fresh seeds. A seed gives the start noise, which all
  samplers share, and two samples of the data: one is the reference, the other the floor.

The figure is the energy distance to the reference less the floor, its mean over the fresh seeds with a 95% interval of
Student's t, and for each sampler the ratio of the prior solver's distance to its own, paired by seeds.

Beside it stands the prior solver with a mixture inside, fitted to 4,000 samples of the data, which is moved in 8 small
steps between two evaluations.

Expected: at 3 evaluations, on each problem, each at its best, at most a third of what DPM++ 2M leaves.

    python benchmarks/solver.py [--samples 4000] [--seeds 4] [--out FOLDER]
"""

import argparse
import functools
import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from rich.console import Console
from torch import Tensor

import latestart as ls
from latestart.evaluation.kernel import EnergyTo
from latestart.gaussians.basis import Dense
from latestart.sampling.generate import generate
from latestart.sampling.samplers import clipping, make_sampler

HERE = Path(__file__).parent
EVALUATIONS = (3, 5)
MIXED = "prior, mixture inside"
SAMPLERS = ("prior", MIXED, "dpm++", "unipc", "deis", "ipndm", "ddim", "ddpm")
TIMES, LEVELS = ("trailing", "leading"), ("karras", "log-snr", "karras+1", "log-snr+1")
LASTS = (40, 80, 160)  # times of the last evaluation
FITTED = 4000  # samples that the mixture inside is fitted to
BAR = 1 / 3
STUDENT = {
    2: 12.706,
    3: 4.303,
    4: 3.182,
    5: 2.776,
    6: 2.571,
    8: 2.365,
}  # two-sided 95% quantiles, by the number of seeds


@dataclass(frozen=True)
class Problem:
    """A mixture of Gaussians in randomly rotated axes.

    Attributes:
        name, seed: of the problem.
        dim, clusters: of its data.
        widest, narrowest: deviations of the means along the first and the last axis; between them the logarithm falls
            as a power of the axis' number.
        power: that power: 1 is even, below 1 few axes are wide.
        within: variances of a cluster along the first and the last axis.
        even: whether all clusters weigh the same; else weights are drawn, up to e^2 apart or so.
    """

    name: str
    seed: int
    dim: int
    clusters: int
    widest: float
    narrowest: float
    power: float
    within: tuple[float, float]
    even: bool

    def mixture(self) -> ls.Mixture:
        g = torch.Generator().manual_seed(self.seed)
        place = torch.linspace(0, 1, self.dim, dtype=torch.float64)
        deviations = self.widest * (self.narrowest / self.widest) ** (place**self.power)
        variances = self.within[0] * (self.within[1] / self.within[0]) ** place
        axes = torch.linalg.qr(torch.randn(self.dim, self.dim, generator=g, dtype=torch.float64)).Q
        means = torch.randn(self.clusters, self.dim, generator=g, dtype=torch.float64) * deviations
        weights = torch.randn(self.clusters, generator=g, dtype=torch.float64).mul(0.0 if self.even else 0.5).exp()
        basis = Dense((self.dim,), axes)
        return ls.Mixture([ls.Gaussian(axes @ mean, basis, variances) for mean in means], weights)


PROBLEMS = (
    Problem("24 dimensions, 10 clusters", 2401, 24, 10, 2.0, 0.3, 1.0, (0.04, 0.04), even=True),
    Problem("48 dimensions, 40 clusters", 4802, 48, 40, 3.0, 0.1, 0.5, (0.20, 0.005), even=False),
    Problem("96 dimensions, 20 clusters", 9603, 96, 20, 1.5, 0.5, 1.0, (0.02, 0.02), even=False),
)


class Draw:
    """What one seed gives: the start noise, the reference, and the floor."""

    def __init__(self, data: ls.Mixture, samples: int, seed: int) -> None:
        g = torch.Generator().manual_seed(10_000 + seed)
        self.seed = seed
        self.noise = torch.randn(samples, *data.shape, generator=g, dtype=torch.float64)
        self.reference = EnergyTo(data.sample(samples, g))
        self.floor = self.reference(data.sample(samples, g))

    def left(self, samples: Tensor) -> float:
        return self.reference(samples) - self.floor


def ways(sampler: str) -> tuple[str, ...]:
    """The spacings of a sampler, and `down to` each last time."""
    own = TIMES if sampler in ("ddim", "ddpm") else (*TIMES, *LEVELS)
    return (*own, *(f"down to {last}" for last in LASTS))


@functools.cache
def fitted(problem: Problem) -> ls.Mixture:
    """A mixture fitted to samples of a problem, by clusters."""
    rows = problem.mixture().sample(FITTED, torch.Generator().manual_seed(99))
    return ls.Mixture.fit(rows, components=problem.clusters, basis="dense", dtype=torch.float64)


def drawn(problem: Problem, data: ls.Mixture, sampler: str, way: str, nfe: int, draw: Draw) -> Tensor:
    """Samples in so many evaluations from full noise."""
    trained, last = DDPMScheduler(), int(way.split()[-1]) if way.startswith("down to") else None
    inside = {"prior": data.gaussian, MIXED: lambda: fitted(problem)}.get(sampler, lambda: None)()
    name, options = sampler.partition(",")[0], {"substeps": 8} if sampler == MIXED else {}
    solver = make_sampler(name, trained, inside, "trailing" if last else way, **clipping(name, False), **options)
    solver = solver if last is None else ls.late_start(solver, 1000, nfe, last=last)
    result = generate(
        ls.as_model(data, trained), solver, n=len(draw.noise), steps=nfe, seed=draw.seed, noise=draw.noise,
        check_prior=False,
    )  # fmt: skip
    assert result.nfe == nfe, f"{sampler}, {way}: {result.nfe} evaluations"
    return result.samples


def measure(problem: Problem, samples: int, seeds: int, console: Console) -> dict[str, Any]:
    """All figures of one problem."""
    data = problem.mixture()
    chosen_by, *fresh = (Draw(data, samples, seed) for seed in range(seeds + 1))
    rows = []
    for nfe, sampler in product(EVALUATIONS, SAMPLERS):
        tried = {s: chosen_by.left(drawn(problem, data, sampler, s, nfe, chosen_by)) for s in ways(sampler)}
        best = min(tried, key=lambda s: tried[s])
        again = {s: [d.left(drawn(problem, data, sampler, s, nfe, d)) for d in fresh] for s in {"trailing", best}}
        rows.append({"nfe": nfe, "sampler": sampler, "tried": tried, "best": best, "again": again})
        told = f"{problem.name}, NFE {nfe}, {sampler}: {statistics.mean(again['trailing']):.4f}"
        console.print(f"{told} trailing, {statistics.mean(again[best]):.4f} {best}", style="dim")
    eigenvalues = data.gaussian().variances.sort(descending=True).values
    return {
        "problem": problem.name,
        "settings": {name: value for name, value in vars(problem).items() if name != "name"},
        "variances": {"largest": float(eigenvalues[0]), "smallest": float(eigenvalues[-1])},
        "samples": samples,
        "floor": [d.floor for d in fresh],
        "rows": rows,
    }


def interval(values: list[float]) -> tuple[float, float]:
    """The mean, and half of the width of its 95% interval."""
    half = STUDENT[len(values)] * statistics.stdev(values) / math.sqrt(len(values))
    return statistics.mean(values), half


def pairs(result: dict[str, Any], nfe: int) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The rows of one number of evaluations, each with trailing times and with its best spacing."""
    for row in result["rows"]:
        if row["nfe"] == nfe:
            yield row, "trailing", row["best"]


def ratio(mine: list[float], other: list[float]) -> tuple[float, float]:
    """The ratio of the means, and half of its 95% interval by the delta method, paired by seeds."""
    value = statistics.mean(mine) / statistics.mean(other)
    _, half = interval([a - value * b for a, b in zip(mine, other)])
    return value, abs(half / statistics.mean(other))


def table(result: dict[str, Any]) -> list[str]:
    """One problem as markdown."""
    floor, half = interval(result["floor"])
    low, high = result["variances"]["smallest"], result["variances"]["largest"]
    lines = [
        f"## {result['problem']}",
        "",
        f"Variances of the whole from {low:.3g} to {high:.3g}; floor {floor:.4f} +- {half:.4f}.",
        "",
        "| NFE | sampler | trailing | the prior solver's over it | best way | the prior solver's over it |",
        "|---|---|---|---|---|---|",
    ]
    for nfe in EVALUATIONS:
        found = list(pairs(result, nfe))
        prior = next(row for row, *_ in found if row["sampler"] == "prior")
        for row, *at in found:
            cells = []
            for spacing, of_prior in zip(at, ("trailing", prior["best"])):
                value, half = interval(row["again"][spacing])
                over, wide = ratio(prior["again"][of_prior], row["again"][spacing])
                named = "" if spacing == at[0] == "trailing" and not cells else f" {spacing}"
                cells += [f"{value:.4f} +- {half:.4f}{named}"]
                cells += ["" if row is prior else f"{over:.2f} +- {wide:.2f}"]
            lines.append(f"| {nfe} | {row['sampler']} | {' | '.join(cells)} |")
    return lines


def bar(results: list[dict[str, Any]]) -> list[str]:
    """How the bar is met, by problem."""
    lines = []
    for result in results:
        rows = {row["sampler"]: row for row in result["rows"] if row["nfe"] == 3}
        mine, other = rows["prior"], rows["dpm++"]
        at_trailing, _ = ratio(mine["again"]["trailing"], other["again"]["trailing"])
        at_best, _ = ratio(mine["again"][mine["best"]], other["again"][other["best"]])
        word = "met" if at_best <= BAR else "missed"
        lines.append(
            f"- {result['problem']}: {at_trailing:.2f} of DPM++'s with trailing times, {at_best:.2f} best against "
            f"best, {word} (at most {BAR:.2f})"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=4, choices=sorted(STUDENT), help="fresh ones")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    console = Console(stderr=True)
    results = [measure(problem, options.samples, options.seeds, console) for problem in PROBLEMS]
    (options.out / "solver.json").write_text(json.dumps(results, indent=1) + "\n")
    lines = [
        "# The prior solver on exact mixtures of Gaussians",
        "",
        f"Energy distance from full noise less that of two samples of the data, {options.samples} samples, mean over "
        f"{options.seeds} seeds with a 95% interval; the best of spacings and last times is chosen with another seed.",
        "",
        "At 3 evaluations:",
        "",
        *bar(results),
    ]
    for result in results:
        lines += ["", *table(result)]
    (options.out / "solver.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
