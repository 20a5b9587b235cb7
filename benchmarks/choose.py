"""The chosen start beside the best of a sweep: `python benchmarks/choose.py [--samples 2000] [--models NAME ...]`.

Over models, priors, samplers and steps:

- `mnist`: the embedded network; Frechet distance on its features, to the training set. The choice sees 2,000 held-out
  images and probes on the same features.
- `two`, `eight`: exact mixtures of two Gaussians in 4 dimensions and of eight in 16; energy distance of the samples'
  own values, since a Frechet distance of values sees only the two moments that the start already has.

The priors are a Gaussian, and a mixture: the shipped one of 30 components for the network, one of four for the eight
clusters; on two clusters a mixture of two would be the data. The sweep has 11 starts, 50 apart, about the best ones.
All starts and the chosen one are measured on the same samples' seeds (common noise), which the choice never saw. A cell
passes if the chosen start is within 5% of the best of the sweep, or if the paired bootstrap interval (95%) of the
difference holds 0. The cost is the choice's evaluations over those of the same sweep with 10,000 samples a start.
Expected: 9 of 10 cells pass, all are within 15%, at no more than 2% of the cost. Writes `choose.json` and `choose.md`
beside this file, after each cell; `--resume` goes on from there, and `--rechoose` chooses again in every cell that is
there, draws the chosen starts and the best one, which must come out as before, and keeps the rest of its sweep.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from latestart import zoo
from latestart.denoisers.exact import GaussianMixture
from latestart.denoisers.networks import as_model
from latestart.evaluation.kernel import EnergyTo
from latestart.evaluation.quality import FrechetTo, interval
from latestart.files import replacing, write_json
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.sampling.choose import choose_start
from latestart.sampling.loop import draw
from latestart.sampling.samplers import make_sampler

HERE = Path(__file__).parent
SAMPLERS, STEPS = ("ddpm", "ddim", "dpm++"), (3, 5, 10)
MIXTURES = ("mnist", "eight")  # models that a mixture stands for too
SWEPT = 10_000  # samples a start of the sweep that the cost is compared with


@dataclass(frozen=True)
class Problem:
    """A model with what it takes to choose a start for it and to measure one."""

    model: Any
    trained: Any
    priors: dict[str, Any]
    images: Any
    features: str
    starts: dict[str, tuple[int, ...]]
    extract: Callable[[torch.Tensor], torch.Tensor]
    distance: Any


def mnist() -> Problem:
    """The embedded network."""
    bundle = zoo.load("mnist")
    return Problem(
        bundle.model, bundle.scheduler, {"gaussian": bundle.prior, "mixture": bundle.mixture},
        bundle.images("heldout-a"), "mnist",
        {"gaussian": tuple(range(250, 751, 50)), "mixture": tuple(range(100, 601, 50))},
        lambda x: bundle.features((x / 2 + 0.5).clamp(0, 1)), FrechetTo(bundle.statistics("train")),
    )  # fmt: skip


def exact(components: int, dim: int, spread: float, width: float, seed: int) -> Problem:
    """Gaussians about random centres, `spread` a direction, all of variance `width`."""
    basis = Dense((dim,), torch.eye(dim, dtype=torch.float64))
    centres = spread * torch.randn(components, dim, generator=_generator(seed), dtype=torch.float64)
    variances = torch.full((dim,), width, dtype=torch.float64)
    data = GaussianMixture([Gaussian(centre, basis, variances) for centre in centres])
    seen = data.sample(20_000, _generator(seed + 1))
    priors: dict[str, Any] = {"gaussian": Gaussian.fit([seen], basis="dense", dtype=torch.float64)}
    if components > 2:
        priors["mixture"] = Mixture.fit(seen, components // 2, basis="dense", dtype=torch.float64)
    trained = DDPMScheduler(clip_sample=False)
    return Problem(
        as_model(data, trained), trained, priors, data.sample(2000, _generator(seed + 2)), "values",
        dict.fromkeys(priors, tuple(range(50, 551, 50))), lambda x: x.flatten(1),
        EnergyTo(data.sample(4000, _generator(seed + 3))),
    )  # fmt: skip


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "mnist": mnist,
    "two": lambda: exact(2, 4, 1.0, 0.05, 100),
    "eight": lambda: exact(8, 16, 0.5, 0.02, 200),
}


def cell(
    problem: Problem,
    which: str,
    sampler: str,
    steps: int,
    samples: int,
    seed: int,
    before: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Choose, then measure the sweep, or the best start of the one before, and the chosen start."""
    prior, starts = problem.priors[which], problem.starts[which]
    changes = {} if sampler == "dpm++" else {"clip_sample": False}
    scheduler = make_sampler(sampler, problem.trained, timestep_spacing="trailing", **changes)
    begin = time.perf_counter()
    choice = choose_start(
        problem.model, scheduler, prior, problem.images, steps, features=problem.features, seed=seed + 1
    )
    chosen_in = time.perf_counter() - begin
    by_nats = choose_start(problem.model, scheduler, prior, problem.images, steps, "nats", seed=seed + 1)
    swept = starts if before is None else (before["best"],)
    seen = {"chosen": choice.t_start, "by nats": by_nats.t_start, **{str(t): t for t in swept}}
    replicates, values, nfe = {}, {}, 0
    for name, t_start in seen.items():
        drawn = draw(problem.model, scheduler, prior, samples, steps, t_start, seed)
        rows, nfe = problem.extract(drawn.samples), drawn.nfe
        replicates[name], values[name] = problem.distance.replicates(rows), problem.distance(rows)
    sweep = {str(t): values[str(t)] for t in starts} if before is None else before["sweep"]
    best = min(sweep, key=sweep.__getitem__)
    if abs(values[best] - sweep[best]) > 1e-3 * abs(sweep[best]) + 1e-7:
        raise RuntimeError(f"the start {best} came out at {values[best]}, and at {sweep[best]} in the sweep before")
    share = choice.nfe / (len(starts) * SWEPT * nfe)
    judged = {name: _judged(name, best, values, replicates) for name in ("chosen", "by nats")}
    return {
        "sampler": sampler, "steps": steps, "prior": which, "samples": samples, "seed": seed,
        "sweep": sweep, "best": int(best), "best_distance": values[best],
        "t_start": choice.t_start, "t_start_by_nats": by_nats.t_start, "method": choice.method, "nfe": choice.nfe,
        "share_of_sweep": share, "seconds": chosen_in, **judged,
    }  # fmt: skip


def _judged(name: str, best: str, values: dict[str, float], replicates: dict[str, torch.Tensor]) -> dict[str, Any]:
    excess = interval(replicates[name] - replicates[best], values[name] - values[best])
    ratio = values[name] / values[best]
    return {
        "distance": values[name], "ratio": ratio, "difference": [excess.value, excess.low, excess.high],
        "passes": bool(ratio <= 1.05 or excess.low <= 0 <= excess.high or excess.value <= 0),
    }  # fmt: skip


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a cell is known by."""
    return tuple(row[name] for name in ("model", "prior", "sampler", "steps", "samples", "seed"))


def again(done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every cell that is done, with another choice."""
    problems: dict[str, Problem] = {}
    for row in done:
        name = row["model"]
        problem = problems[name] = problems.get(name) or PROBLEMS[name]()
        asked = (row["prior"], row["sampler"], row["steps"], row["samples"], row["seed"])
        yield {"model": name, **cell(problem, *asked, row)}


def rows(models: list[str], samples: int, seed: int, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every cell that is not done."""
    known = set(map(key, done))
    for name in models:
        priors = ("gaussian", "mixture") if name in MIXTURES else ("gaussian",)
        grid = product(priors, SAMPLERS, STEPS)
        wanted = [(p, s, n) for p, s, n in grid if (name, p, s, n, samples, seed) not in known]
        problem = PROBLEMS[name]() if wanted else None
        for which, sampler, steps in wanted:
            yield {"model": name, **cell(problem, which, sampler, steps, samples, seed)}


def summary(found: list[dict[str, Any]], how: str) -> str:
    """How many cells pass, the worst ratio among those that differ for sure, and the highest cost."""
    passed = sum(r[how]["passes"] for r in found)
    sure = [r[how]["ratio"] for r in found if r[how]["difference"][1] > 0]
    return (
        f"{how}: {passed} of {len(found)} cells pass; the worst ratio is {max(r[how]['ratio'] for r in found):.3f}, "
        f"and {max(sure, default=1.0):.3f} among the differences whose interval is above 0"
    )


def markdown(found: list[dict[str, Any]]) -> str:
    """The table."""
    head = ["model", "prior", "sampler", "steps", "best start", "distance", "chosen", "distance", "ratio", "difference",
            "by nats", "ratio", "cost"]  # fmt: skip
    lines = [
        "# The chosen start beside the best of eleven",
        "",
        "| " + " | ".join(head) + " |",
        "|---" * len(head) + "|",
    ]
    for r in found:
        c, low, high = r["chosen"], *r["chosen"]["difference"][1:]
        cells = [r["model"], r["prior"], r["sampler"], r["steps"], r["best"], f"{r['best_distance']:.4g}",
                 f"{r['t_start']:g}", f"{c['distance']:.4g}", f"{c['ratio']:.3f}", f"[{low:.3g}, {high:.3g}]",
                 f"{r['t_start_by_nats']:g}", f"{r['by nats']['ratio']:.3f}", f"{r['share_of_sweep']:.2%}"]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    first = found[0]
    lines += [
        "", f"{first['samples']} samples a start, seed {first['seed']}, the same noise for all starts of a cell; "
        "intervals of the difference from the best by paired bootstrap.", "",
        summary(found, "chosen") + f"; the highest cost is {max(r['share_of_sweep'] for r in found):.2%}.", "",
        summary(found, "by nats") + ".", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--models", nargs="+", choices=sorted(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--rechoose", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "the denoiser is worse", UserWarning)
    written = arguments.out / "choose.json"
    kept = arguments.resume or arguments.rechoose
    found = json.loads(written.read_text())["rows"] if kept and written.exists() else []
    todo = rows(arguments.models, arguments.samples, arguments.seed, found)
    if arguments.rechoose:
        todo = again([row for row in found if row["model"] in arguments.models])
    for row in todo:
        found = [r for r in found if key(r) != key(row)] + [row]
        found.sort(
            key=lambda r: (list(PROBLEMS).index(r["model"]), r["prior"], SAMPLERS.index(r["sampler"]), r["steps"])
        )
        write_json(written, {"rows": found})
        with replacing(arguments.out / "choose.md") as temporary:
            temporary.write_text(markdown(found))
        print(
            row["model"],
            row["prior"],
            row["sampler"],
            row["steps"],
            row["best"],
            row["t_start"],
            row["chosen"]["ratio"],
            flush=True,
        )
    print(markdown(found))


if __name__ == "__main__":
    main()
