"""The recipe of `tune`, beside the best of all its candidates and the best full noise, on images that it never saw.

    python benchmarks/tune.py exact --work out/tune-benchmark
    python benchmarks/tune.py mnist --images mnist-train.parquet --unseen mnist-test.parquet --work out/tune-benchmark
    python benchmarks/tune.py models/cifar10 --images cifar10-train.parquet --unseen cifar10-test.parquet --work ...
    python benchmarks/tune.py table --work out/tune-benchmark

A cell is a problem and a number of evaluations. Its candidates are listed before tuning; `tune` searches them with its
default budget, in the network's own features (of exact models in its waves), by images that it splits itself. Then all
candidates are swept, with a seed that tuning never drew: 200 samples of each, and of the nearest forty as many as the
cell's figures have (1,000, on faces 400), by images and features that tuning never saw: the classifier beside the model
and the Frechet distance, or the energy distance to fresh samples of an exact model. The best of the sweep, among those
whose variance before clipping is at most 1.05 of the data's, the best full noise and the recipe are drawn again with
the next seed, and their ratios are of that draw, with paired bootstrap intervals. Cells are kept in the folder WORK as
they are done.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import latestart as ls
from latestart import zoo
from latestart.data import in_unit_range, load_images, to_unit
from latestart.evaluation.kernel import EnergyTo
from latestart.evaluation.quality import FrechetTo, feature_statistics, interval
from latestart.files import write_json
from latestart.lab.judge import ratio_replicates
from latestart.lab.subjects import open_network
from latestart.sampling.loop import draw
from latestart.sampling.recipe import Recipe, Trial
from latestart.tuning.decision import CONTRAST
from problems import exact_problems

HERE = Path(__file__).parent
STEPS = (3, 5, 10)
SWEPT, NEAREST = 200, 40  # samples of every candidate, and candidates that have more
SEED = 1000  # of the sweep; the next draws again
BARS = {"point": 1.05, "upper": 1.25}


@dataclass(frozen=True)
class Problem:
    """A model with its images, and the distance by which the benchmark judges.

    Attributes:
        model, scheduler, images, features: what `tune` is given.
        rows: makes of samples what `distance` is of.
        distance: has `replicates(rows)` and a call.
        variance: total variance of the data.
        samples: of each figure.
    """

    model: Any
    scheduler: Any
    images: Any
    features: Any
    rows: Callable[[Tensor], Tensor]
    distance: Any
    variance: float
    samples: int


class Energy:
    """The energy distance with its bias at so many samples, as the Frechet distance has one, and with replicates.

    Without it, that of samples of the data themselves is 0 on average, and a ratio of two such means nothing. With
    `W` the mean distance within the data, n samples and m of the data, the bias is `W (1 / n + 1 / m)`.
    """

    def __init__(self, reference: Tensor) -> None:
        self.to, self.count = EnergyTo(reference), len(reference)

    def __call__(self, rows: Tensor) -> float:
        return self.to(rows) + self._bias(len(rows))

    def replicates(self, rows: Tensor) -> Tensor:
        values = self.to.replicates(rows, 100)
        return values - values.mean() + self(rows)

    def _bias(self, count: int) -> float:
        return self.to.within * (1 / count + 1 / self.count)


def of_network(name: str, images: str, unseen: str, limit: int | None, samples: int) -> Problem:
    """A network with pictures; the judge is the classifier beside it."""
    bundle = zoo.Bundle(name, Path(name)) if Path(name).is_dir() else zoo.load(name)
    network, scheduler, _ = open_network(name)
    others = load_images(unseen)
    total = float(others[:5000].floats().flatten(1).double().var(0).sum())
    return Problem(
        network, scheduler, load_images(images, limit), "network",
        lambda x: bundle.features(in_unit_range(to_unit(x))), FrechetTo(feature_statistics(others, bundle.features)),
        total, samples,
    )  # fmt: skip


def of_exact(made: Any, samples: int) -> Problem:
    """An exact problem; the judge is the energy distance to fresh samples."""
    fresh = made.fresh
    total = float(fresh.flatten(1).double().var(0).sum())
    energy = Energy(fresh.flatten(1))
    return Problem(
        made.model, made.scheduler, made.images, made.features, lambda x: x.flatten(1), energy, total, samples
    )


def drawn(problem: Problem, trial: Trial, priors: dict[str, Any], n: int, seed: int) -> tuple[Tensor, float]:
    """Rows of samples of a candidate, and their variance over the data's."""
    way = trial.way
    inside = None if way.within is None else priors[way.within]
    begun = way.begun(problem.scheduler, trial.steps, inside)
    x = draw(problem.model, begun, priors.get(way.prior), n, trial.steps, seed=seed).samples
    return problem.rows(x), float(x.flatten(1).double().var(0).sum()) / problem.variance


def cell(problem: Problem, nfe: int, work: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Tune, sweep all candidates, and draw again."""
    path = work / f"recipe-{nfe}.safetensors"
    if not path.is_file():
        recipe: Recipe = ls.tune(
            problem.model, problem.scheduler, problem.images, nfe, features=problem.features, folder=work / "parts"
        )
        recipe.save(path)
    recipe = ls.load_recipe(path)
    priors = {file.stem.partition("-")[0]: ls.load_prior(file) for file in (work / "parts").glob("*-*.safetensors")}
    tell(str(recipe))
    trials = [trial for trial in recipe.evidence if not trial.out.startswith("failed")]
    swept: dict[str, Any] = read(work / f"sweep-{nfe}.json")

    def score(trial: Trial, n: int) -> float:
        key = f"{json.dumps(trial.way.record(), sort_keys=True)} {n}"
        if key not in swept:
            try:
                rows, variance = drawn(problem, trial, priors, n, SEED)
                swept[key] = [problem.distance(rows), variance]
            except Exception as error:  # whatever schedulers do with settings that they were not made for
                swept[key] = [1e300, 1.0]
                tell(f"{trial.way.describe()}: {error}")
            write_json(work / f"sweep-{nfe}.json", swept)
        return float(swept[key][0]) if swept[key][1] <= CONTRAST else 1e200

    coarse = sorted(range(len(trials)), key=lambda k: score(trials[k], min(SWEPT, problem.samples)))
    ours = lambda k: trials[k].way.t_start is not None or trials[k].way.sampler == "prior"  # noqa: E731
    nearest = coarse[:NEAREST]
    full = [k for k in coarse if not ours(k)][: NEAREST // 4]
    fine = sorted(dict.fromkeys([*nearest, *full]), key=lambda k: score(trials[k], problem.samples))
    best, rival = trials[fine[0]], trials[next(k for k in fine if not ours(k))]
    seed, found = SEED + 1, {}
    for name, trial in (("recipe", recipe.chosen), ("best", best), ("full", rival)):
        rows, variance = drawn(problem, trial, priors, problem.samples, seed)
        found[name] = {"way": trial.way.describe(), "value": problem.distance(rows), "variance": variance}
        found[name]["replicates"] = problem.distance.replicates(rows)
    ratios = {other: ratio(found["recipe"], found[other]) for other in ("best", "full")}
    for one in found.values():
        del one["replicates"]
    return {
        "nfe": nfe, "samples": problem.samples, "candidates": len(trials), "spent": recipe.search["spent"],
        "late": recipe.late, "own": None if recipe.gain is None else vars(recipe.gain), "draws": found,
        "ratios": ratios,
    }  # fmt: skip


def ratio(one: dict[str, Any], other: dict[str, Any]) -> dict[str, float]:
    """The ratio of two distances with its paired interval."""
    replicates = ratio_replicates((one["value"], one["replicates"]), (other["value"], other["replicates"]))
    return vars(interval(replicates, max(one["value"], 1e-12) / max(other["value"], 1e-12)))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def table(work: Path) -> None:
    """Write `tune.md` and `tune.json` of all cells that are done."""
    cells = [json.loads(path.read_text()) for path in sorted(work.glob("*/cell-*.json"))]
    lines = [
        "# The recipe beside the best of all its candidates", "", (__doc__ or "").split("\n\n", 2)[2].strip(), "",
        "| problem | NFE | candidates | recipe | distance | best of the sweep | its distance | recipe / best | "
        "full noise / recipe | reached |", "|---|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    reached = lost = 0
    for one in cells:
        best, full, draws = one["ratios"]["best"], one["ratios"]["full"], one["draws"]
        good = best["value"] <= BARS["point"] or best["high"] <= BARS["upper"]
        reached, lost = reached + good, lost + (full["low"] > 1)
        gain = [1 / full[name] for name in ("value", "high", "low")]
        lines.append(
            f"| {one['problem']} | {one['nfe']} | {one['candidates']} | {draws['recipe']['way']} | "
            f"{draws['recipe']['value']:.4g} | {draws['best']['way']} | {draws['best']['value']:.4g} | "
            f"{best['value']:.3f} [{best['low']:.3f}, {best['high']:.3f}] | "
            f"{gain[0]:.2f} [{gain[1]:.2f}, {gain[2]:.2f}] | {'yes' if good else 'no'} |"
        )
    lines += ["", f"Reached (at most 1.05, or the upper end at most 1.25): {reached} of {len(cells)}. "
              f"Worse than the best full noise beyond the interval: {lost}."]  # fmt: skip
    (HERE / "tune.md").write_text("\n".join(lines) + "\n")
    write_json(HERE / "tune.json", cells)
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", help="exact, table, a shipped model or a folder with one")
    parser.add_argument("--images", help="images that it was trained on")
    parser.add_argument("--unseen", help="images that tuning never sees")
    parser.add_argument("--limit", type=int, help="images at most that tuning is given")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--nfe", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--only", help="one of the exact problems")
    parser.add_argument("--work", type=Path, required=True)
    asked = parser.parse_args()
    if asked.what == "table":
        return table(asked.work)
    if asked.what == "exact":
        problems = {
            name: (lambda make=make: of_exact(make(), asked.samples))
            for name, make in exact_problems().items()
            if asked.only in (None, name)
        }
    else:
        given = (asked.what, asked.images, asked.unseen, asked.limit, asked.samples)
        problems = {Path(asked.what).name: lambda: of_network(*given)}
    for name, make in problems.items():
        problem, folder = make(), asked.work / name
        folder.mkdir(parents=True, exist_ok=True)
        for nfe in asked.nfe:
            path = folder / f"cell-{nfe:02d}.json"
            if not path.is_file():
                write_json(path, {"problem": name} | cell(problem, nfe, folder, lambda text: print(text, flush=True)))
    return None


if __name__ == "__main__":
    main()
