"""The chosen start beside the best of a sweep: `python benchmarks/choose.py [--samples 2000] [--models NAME ...]`.

Over models, priors, samplers and steps. The choices were decided on three:

- `mnist`: the embedded network; Frechet distance on its features, to the training set. The choice with images sees
  2,000 held-out images and probes on the same features; the cheapest one has the network's own features.
- `two`, `eight`: exact mixtures of two Gaussians in 4 dimensions and of eight in 16; energy distance of the samples'
  own values, since a Frechet distance of values sees only the two moments that the start already has.

and are reported on others, on which nothing was decided: the six exact problems of `problems.py`, and networks that are
named on the command line:

    --network cifar10 --folder FOLDER --images FILE --gaussian FILE [--mixture FILE] --networks-samples 400

with their own samplers and steps, by Frechet distance on the folder's classifier to the images that the choice did not
see. The priors are a Gaussian, and a mixture: the shipped one of 30 components for the network, one of four for the
eight clusters, half as many components as there are clusters for others; on two clusters it would be the data.

The sweep has about 11 starts. All starts and the chosen ones are measured on the same samples' seeds (common noise),
which no choice ever saw. There are two choices, `cheapest`: that of `generate`, without images, and `images`. A cell
passes if the chosen start is within 10% of the best of the sweep (also given: within 5%), or if the paired bootstrap
interval (95%) of the difference holds 0. The cost is the choice's evaluations over those of the same sweep with 10,000
samples a start. Expected: 9 of 10 cells pass. Writes `choose.json` and `choose.md` beside this file, after each cell;
`--resume` goes on from there, and `--rechoose` chooses again in every cell whose choices are not of this version, draws
the chosen starts and the best one, which must come out as before, and keeps the rest of its sweep.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from latestart import zoo
from latestart.data import load_images
from latestart.denoisers.exact import GaussianMixture
from latestart.denoisers.folders import load_model
from latestart.denoisers.networks import as_model
from latestart.evaluation.kernel import EnergyTo
from latestart.evaluation.quality import FrechetTo, feature_statistics, interval
from latestart.features import Classifier, ClassifierFeatures
from latestart.files import replacing, write_json
from latestart.gaussians.basis import Dense
from latestart.gaussians.gaussian import Gaussian
from latestart.gaussians.mixture import Mixture
from latestart.gaussians.priors import load_prior
from latestart.sampling.choose import choose_start
from latestart.sampling.loop import draw
from latestart.sampling.samplers import make_sampler
from problems import exact_problems

HERE = Path(__file__).parent
SAMPLERS, STEPS = ("ddpm", "ddim", "dpm++"), (3, 5, 10)
CHOICES = ("cheapest", "images")
DECIDED = ("mnist", "two", "eight")
VERSION = 3  # of the choices
EXACT_STARTS = (25, 50, 100, 150, 200, 250, 300, 350, 400, 500, 600)
COMPONENTS = {"hypercube": 16, "twenty": 10, "uneven": 2}  # of the mixtures of exact problems
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
    samplers: tuple[str, ...] = SAMPLERS
    steps: tuple[int, ...] = STEPS


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


def unseen(name: str) -> Problem:
    """An exact problem on which nothing was decided."""
    made = exact_problems()[name]()
    fitted, held = made.images[:6000], made.images[6000:]
    priors: dict[str, Any] = {"gaussian": Gaussian.fit([fitted], basis="dense", dtype=torch.float64)}
    if name in COMPONENTS:
        priors["mixture"] = Mixture.fit(fitted, COMPONENTS[name], basis="dense", dtype=torch.float64)
    return Problem(
        made.model, made.scheduler, priors, held, made.features, dict.fromkeys(priors, EXACT_STARTS),
        lambda x: x.flatten(1), EnergyTo(made.fresh),
    )  # fmt: skip


def network(folder: Path, images: Path, priors: dict[str, Path]) -> Problem:
    """Open a network from a folder with its classifier, and images: some to choose by, others to judge by."""
    model, trained = load_model(folder)
    extract = ClassifierFeatures(Classifier.load(folder / "classifier.safetensors"))
    every = load_images(images)
    order = torch.randperm(len(every), generator=_generator(0))
    held, judges = every[order[:2000].sort().values], every[order[2000:12_000].sort().values]

    def features(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([extract(part) for part in x.split(256)])

    return Problem(
        model, trained, {name: load_prior(path) for name, path in priors.items()}, held, "network",
        dict.fromkeys(priors, (150, 250, 350, 450, 550, 650, 750)), lambda x: features((x / 2 + 0.5).clamp(0, 1)),
        FrechetTo(feature_statistics(judges, extract)), ("ddim", "dpm++"), (3, 5),
    )  # fmt: skip


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "mnist": mnist,
    "two": lambda: exact(2, 4, 1.0, 0.05, 100),
    "eight": lambda: exact(8, 16, 0.5, 0.02, 200),
    **{name: partial(unseen, name) for name in exact_problems()},
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
    changes: dict[str, Any] = {} if sampler == "dpm++" else {"clip_sample": False}
    scheduler = make_sampler(sampler, problem.trained, timestep_spacing="trailing", **changes)
    choices, seconds = {}, {}
    for how in CHOICES:
        given, features = (problem.images, problem.features) if how == "images" else (None, None)
        begin = time.perf_counter()
        choices[how] = choose_start(problem.model, scheduler, prior, given, steps, features=features, seed=seed + 1)
        seconds[how] = time.perf_counter() - begin
    swept = starts if before is None else (before["best"],)
    seen = {**{how: one.t_start for how, one in choices.items()}, **{str(t): t for t in swept}}
    replicates, values, drawn, nfe = {}, {}, {}, 0
    for name, t_start in seen.items():
        if t_start not in drawn:
            result = draw(problem.model, scheduler, prior, samples, steps, t_start, seed)
            rows, nfe = problem.extract(result.samples), result.nfe
            drawn[t_start] = problem.distance.replicates(rows), problem.distance(rows)
        replicates[name], values[name] = drawn[t_start]
    sweep = {str(t): values[str(t)] for t in starts} if before is None else before["sweep"]
    best = min(sweep, key=sweep.__getitem__)
    if abs(values[best] - sweep[best]) > 1e-3 * abs(sweep[best]) + 1e-7:
        raise RuntimeError(f"the start {best} came out at {values[best]}, and at {sweep[best]} in the sweep before")
    return {
        "sampler": sampler, "steps": steps, "prior": which, "samples": samples, "seed": seed, "version": VERSION,
        "sweep": sweep, "best": int(best), "best_distance": values[best],
        **{
            how: {
                "t_start": one.t_start, "nfe": one.nfe, "share_of_sweep": one.nfe / (len(starts) * SWEPT * nfe),
                "seconds": seconds[how], "how": one.how, **_judged(how, best, values, replicates),
            }
            for how, one in choices.items()
        },
    }  # fmt: skip


def _judged(name: str, best: str, values: dict[str, float], replicates: dict[str, torch.Tensor]) -> dict[str, Any]:
    excess = interval(replicates[name] - replicates[best], values[name] - values[best])
    ratios = interval(replicates[name] / replicates[best], values[name] / values[best])
    equal = excess.low <= 0 <= excess.high or excess.value <= 0
    within = {f"within {share:.0%}": bool(equal or excess.value <= share * values[best]) for share in (0.05, 0.1)}
    return {
        "distance": values[name], "ratio": ratios.value, "ratio_interval": [ratios.low, ratios.high],
        "difference": [excess.value, excess.low, excess.high], **within,
    }  # fmt: skip


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    """Return the settings that name a cell."""
    return tuple(row[name] for name in ("model", "prior", "sampler", "steps", "samples", "seed"))


def again(done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every cell that is done with another version of the choices, chosen again."""
    problems: dict[str, Problem] = {}
    for row in done:
        if row.get("version") == VERSION:
            continue
        name = row["model"]
        problem = problems[name] = problems.get(name) or PROBLEMS[name]()
        asked = (row["prior"], row["sampler"], row["steps"], row["samples"], row["seed"])
        yield {"model": name, **cell(problem, *asked, row)}


def rows(models: list[str], samples: int, seed: int, done: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Every cell that is not done."""
    known = set(map(key, done))
    for name in models:
        problem = PROBLEMS[name]()
        for which, sampler, steps in product(problem.priors, problem.samplers, problem.steps):
            if (name, which, sampler, steps, samples, seed) not in known:
                yield {"model": name, **cell(problem, which, sampler, steps, samples, seed)}


def summary(found: list[dict[str, Any]], how: str) -> str:
    """How many cells pass, the worst ratio among those that differ for sure, and the highest cost."""
    ten, five = (sum(r[how][f"within {share}%"] for r in found) for share in (10, 5))
    sure = [r[how]["ratio"] for r in found if r[how]["difference"][1] > 0]
    points = sum(r[how]["difference"][0] <= 0.1 * abs(r["best_distance"]) for r in found)
    nfe = [r[how]["nfe"] for r in found]
    return (
        f"{ten} of {len(found)} cells within 10% or the interval, {five} within 5% or the interval, {points} "
        "within 10% by the point alone; the worst ratio "
        f"among the differences whose interval is above 0 is {max(sure, default=1.0):.3f}; {min(nfe):,} to "
        f"{max(nfe):,} evaluations, at most {max(r[how]['share_of_sweep'] for r in found):.2%} of a sweep"
    )


def markdown(found: list[dict[str, Any]]) -> str:
    """The table."""
    new, old = ([r for r in found if (r.get("version") == VERSION) is now] for now in (True, False))
    lines = [
        "# The chosen start beside the best of a sweep", "",
        "Points are ratios of distances, whatever the interval; they mean something where the best distance is above 0 "
        "beyond its noise.", "",
    ]  # fmt: skip
    for title, decided in (("on which nothing was decided", False), ("on which the choice was decided", True)):
        some = [r for r in new if (r["model"] in DECIDED) is decided]
        groups = {"all": some, **{s: [r for r in some if r["sampler"] == s] for s in SAMPLERS}}
        for how, (name, group) in product(CHOICES, groups.items()):
            if group:
                lines.append(f"- Problems {title}, {how}, {name}: {summary(group, how)}.")
    head = ["model", "prior", "sampler", "steps", "samples", "best start", "distance"]
    for how in CHOICES:
        head += [how, "ratio", "interval", "evaluations"]
    lines += ["", "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for r in new:
        cells = [r["model"], r["prior"], r["sampler"], r["steps"], r["samples"], r["best"], f"{r['best_distance']:.4g}"]
        for how in CHOICES:
            c, (low, high) = r[how], r[how]["ratio_interval"]
            cells += [f"{c['t_start']:g}", f"{c['ratio']:.3f}", f"[{low:.3g}, {high:.3g}]", f"{c['nfe']:,}"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += [
        "", "The same noise for all starts of a cell; paired bootstrap intervals of the ratio to the best start of the "
        "sweep. `cheapest` is without images.", "",
    ]  # fmt: skip
    if old:
        lines += [
            f"{len(old)} cells of {', '.join(sorted({r['model'] for r in old}))} are still to be chosen again.",
            "",
        ]
    return "\n".join(lines)


def _place(row: dict[str, Any]) -> tuple[Any, ...]:
    models = list(PROBLEMS)
    at = models.index(row["model"]) if row["model"] in models else len(models)
    return at, row["model"], row["prior"], SAMPLERS.index(row["sampler"]), row["steps"]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--models", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--rechoose", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--network", help="a name for a network of one's own, with the next four")
    for name in ("folder", "images", "gaussian", "mixture"):
        parser.add_argument(f"--{name}", type=Path)
    arguments = parser.parse_args()
    if arguments.network is not None:
        priors = {name: getattr(arguments, name) for name in ("gaussian", "mixture") if getattr(arguments, name)}
        PROBLEMS[arguments.network] = partial(network, arguments.folder, arguments.images, priors)
        arguments.models = [arguments.network]
    warnings.filterwarnings("ignore", "the denoiser is worse", UserWarning)
    written = arguments.out / "choose.json"
    kept = arguments.resume or arguments.rechoose
    found = json.loads(written.read_text())["rows"] if kept and written.exists() else []
    todo = rows(arguments.models, arguments.samples, arguments.seed, found)
    if arguments.rechoose:
        todo = again([row for row in found if row["model"] in arguments.models])
    for row in todo:
        found = [r for r in found if key(r) != key(row)] + [row]
        found.sort(key=_place)
        write_json(written, {"rows": found})
        with replacing(arguments.out / "choose.md") as temporary:
            temporary.write_text(markdown(found))
        told = [f"{how} {row[how]['t_start']:g} {row[how]['ratio']:.3f}" for how in CHOICES]
        print(row["model"], row["prior"], row["sampler"], row["steps"], "best", row["best"], *told, flush=True)
    print(markdown(found))


if __name__ == "__main__":
    main()
