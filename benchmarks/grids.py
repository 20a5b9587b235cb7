"""Measured grids of levels and shares of noise for each step, against the spacings that exist already.

For each start (full noise; the Gaussian of all images, late), each number of evaluations and each sampler:

- every way is drawn with seed 0 and few samples: the spacings that exist (trailing, leading, times down to 40 or 80,
  karras+1, log-snr+1), the grids of `latestart.sampling.grids`, and, of DDIM and the prior solver, shares of noise: 1
  or 0.5 in all steps, 1 in the first step alone, falling from 1 to 0;
- of each kind of way the lowest distance, over all samplers, is drawn again with seed 1 and more samples, in both
  feature spaces. Ways whose variance before clipping is above 1.05 of the data's are left out: that is contrast, and no
  gain.

The figure is the ratio of the best existing way's distance to that of each new kind, with the interval of paired
bootstrap replicates; above 1 the new kind is better. A kind is kept as a candidate of the tuner where it wins in both
feature spaces, by the lower ends, on every model that was measured.

    python benchmarks/grids.py mnist --out out/mnist-grids
    python benchmarks/grids.py models/mine --images train.parquet --held-out test.parquet \
        --features models/mine/classifier.safetensors --second efficientnet-lite0 --out out/mine-grids
    python benchmarks/grids.py --report out/mnist-grids out/mine-grids
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from latestart.lab.cells import Outcome, plan
from latestart.lab.experiment import Lab
from latestart.lab.grid import Cell, Grid
from latestart.lab.judge import over, second_over
from latestart.lab.subjects import Subject, open_images, open_subject
from latestart.lab.sweep import Sweep
from latestart.sampling.gaussian_grids import gaussian_optimal
from latestart.sampling.names import PRIOR
from latestart.sampling.teacher_grids import entropic, path_costs

HERE = Path(__file__).parent
EVALUATIONS = (3, 5, 10)
SAMPLERS = ("ddim", "dpm++", "unipc", PRIOR)
NOISY = ("ddim", PRIOR)
LASTS = (40, 80)
CONTRAST = 1.05  # of the variance before clipping over the data's
EXISTING = "existing"
KINDS = {"gaussian-optimal": "times", "gits": "times", "entropic": "times", "entropic-rescaled": "times"}
SHARES = {  # of n steps, the last of which adds none
    "eta, all steps": lambda n: (1.0,) * n,
    "eta, half": lambda n: (0.5,) * n,
    "eta, first step": lambda n: (1.0, *(0.0,) * (n - 1)),
    "eta, falling": lambda n: tuple(1 - k / (n - 1) for k in range(n)),
}
Way = tuple[str, dict[str, Any]]


def measured_grids(
    subject: Subject, images: torch.Tensor, start: float | None, kinds: Sequence[str]
) -> dict[str, dict[Any, tuple[float, ...]]]:
    """The times of each grid, by its number of evaluations, and of the Gaussian's by the closed form too."""
    network, scheduler = subject.network, subject.scheduler
    gaussian = subject.priors["gaussian"][0]
    found: dict[str, dict[Any, tuple[float, ...]]] = {name: {} for name in KINDS}
    if "gits" in kinds:
        costs = path_costs(network, scheduler, start, None if start is None else gaussian)
        found["gits"] = {n: tuple(costs.cheapest(n)) for n in EVALUATIONS}
    for n in EVALUATIONS:
        for solver in ("ddim", "dpm++") if "gaussian-optimal" in kinds else ():
            times = gaussian_optimal(gaussian, scheduler, n, start, solver=solver)
            found["gaussian-optimal"][n, solver] = tuple(times)
        for name, power in (("entropic", 3.0), ("entropic-rescaled", 2.0)):
            if name in kinds:
                found[name][n] = tuple(entropic(network, scheduler, images, n, start, power=power)[0])
    return found


def ways(sampler: str, n: int, start: float | None, grids: dict[str, dict[Any, tuple[float, ...]]]) -> Iterator[Way]:
    """Every way of a sampler: its kind, and the part of the cell that it is."""
    yield EXISTING, {"spacing": "trailing"}
    if start is None:
        yield EXISTING, {"spacing": "leading"}
    for last in LASTS:
        yield EXISTING, {"last": last}
    if sampler != "ddim":
        yield EXISTING, {"spacing": "karras+1"}
        yield EXISTING, {"spacing": "log-snr+1"}
    for kind in (kind for kind in KINDS if grids[kind]):
        if kind == "entropic" and sampler != "dpm++":  # known to be useless: once is enough
            continue
        key = (n, "ddim" if sampler == "ddim" else "dpm++") if kind == "gaussian-optimal" else n
        times = grids[kind][key]
        yield kind, {"times": times} | ({} if start is None else {"t_start": times[0] + 1})
    if sampler in NOISY:
        for kind, shares in SHARES.items():
            for how in ({}, {"last": LASTS[0]}):
                yield kind, {"shares": shares(n), **how}


def candidates(
    args: argparse.Namespace, subject: Subject, images: torch.Tensor, samples: int
) -> list[tuple[str, Cell]]:
    found = []
    for start in (None, args.t_start):
        grids = measured_grids(subject, images, start, args.kinds)
        for n in EVALUATIONS:
            for sampler in args.samplers:
                for kind, how in ways(sampler, n, start, grids):
                    if kind not in (EXISTING, *args.kinds):
                        continue
                    begin = {"prior": "none" if start is None else "gaussian", "t_start": start}
                    cell = {"model": args.model, "sampler": sampler, "nfe": n, "samples": samples, "seed": 0}
                    found.append((kind, Cell(**cell | begin | how)))
    return found


def outcomes(subject: Subject, cells: list[Cell], lab: Lab) -> dict[Cell, Outcome]:
    """Measure cells, kept in the folder."""
    planned = plan(cells, {cells[0].model: subject})
    sweep = Sweep(planned, {cells[0].model: subject}, lab)
    sweep.measure()
    return {one.cell: sweep.outcome(one) for one in planned}


def distance(outcome: Outcome) -> float:
    """The distance to choose by: infinite where nothing was measured, or where contrast was gained."""
    figures = outcome.figures
    if figures is None or (figures.variance is not None and figures.variance.value > CONTRAST):
        return float("inf")
    return figures.frechet.value


def measure(args: argparse.Namespace) -> dict[str, Any]:
    common = {name: getattr(args, name) for name in ("images", "held_out", "features", "statistics")}
    grid = Grid(model=(args.model,), sampler=(PRIOR,), prior=("none", "gaussian"), **common, samples=args.samples)
    subject = open_subject(grid, Lab(args.out, tell=print))
    data, _ = open_images(args.model, args.images, args.held_out)
    images = data[: args.entropic].floats()
    scan = candidates(args, subject, images, args.scan)
    first = outcomes(subject, [cell for _, cell in scan], Lab(args.out / "scan"))
    best: dict[tuple[Any, int, str], Cell] = {}
    for kind, cell in scan:
        key = (cell.prior, cell.nfe, kind)
        if distance(first[cell]) < float("inf") and (
            key not in best or distance(first[cell]) < distance(first[best[key]])
        ):
            best[key] = cell
    judged = open_subject(replace(grid, second=args.second), Lab(args.out, tell=print))
    finals = {key: replace(cell, samples=args.samples, seed=1) for key, cell in best.items()}
    again = outcomes(judged, list(finals.values()), Lab(args.out / "again"))
    rows = []
    for (prior, nfe, kind), cell in finals.items():
        figures, known = again[cell].figures, again[finals[prior, nfe, EXISTING]].figures
        assert figures is not None and known is not None
        second = second_over(known, figures)
        told = figures.estimates("frechet", "second", "variance", "precision", "recall", "coverage")
        rows.append(
            {"model": args.model, "start": prior, "nfe": nfe, "kind": kind, "way": cell.describe()}
            | told
            | {"ratio": asdict(over(known, figures)), "second_ratio": second and asdict(second)}
        )
    scanned = [
        {"kind": kind, "way": cell.describe(), "status": first[cell].status}
        | (first[cell].figures.estimates("frechet", "variance") if first[cell].figures else {})  # type: ignore[union-attr]
        for kind, cell in scan
    ]
    return {
        "model": args.model,
        "samples": args.samples,
        "scan": args.scan,
        "t_start": args.t_start,
        "samplers": list(args.samplers),
        "rows": rows,
        "scanned": scanned,
    }


def spread(one: dict[str, float] | None) -> str:
    return "-" if one is None else f"{one['value']:.3g} [{one['low']:.3g}, {one['high']:.3g}]"


def report(results: list[dict[str, Any]]) -> str:
    """The tables in Markdown, and for each kind in how many cells it wins beyond chance in both spaces."""
    lines = [__doc__.split("\n\n    python")[0].strip() if __doc__ else "", ""]
    wins: dict[str, list[bool]] = {}
    for result in results:
        lines += [
            f"## {Path(result['model']).name}", "",
            f"{result['scan']} samples to choose by, {result['samples']} drawn again; the late start at t = "
            f"{result['t_start']:g}. Samplers: {', '.join(result['samplers'])}.", "",
            "| start | evaluations | kind | way | Frechet | second | variance | ratio | second ratio |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in result["rows"]:
            way = row["way"].split(", ", 1)[1].replace(f"NFE {row['nfe']}, ", "")
            figures = [spread(row[name]) for name in ("frechet", "second")]
            ratios = [spread(row[name]) if row["kind"] != EXISTING else "" for name in ("ratio", "second_ratio")]
            variance = f"{row['variance']['value']:.2f}" if row["variance"] else "-"
            lines.append(
                f"| {row['start']} | {row['nfe']} | {row['kind']} | {way} | "
                + " | ".join([*figures, variance, *ratios])
                + " |"
            )
            if row["kind"] != EXISTING:
                won = [row[name] is not None and row[name]["low"] > 1 for name in ("ratio", "second_ratio")]
                wins.setdefault(row["kind"], []).append(all(won) and row["variance"]["value"] <= CONTRAST)
        lines.append("")
    lines += ["## Wins beyond chance in both feature spaces", "", "| kind | cells |", "|---|---|"]
    lines += [f"| {kind} | {sum(won)} of {len(won)} |" for kind, won in wins.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", help="a shipped model, or a folder with its prior beside it")
    for name in ("--images", "--held-out", "--features", "--second", "--statistics"):
        parser.add_argument(name)
    parser.add_argument("--t-start", type=float, default=600.0)
    parser.add_argument("--samples", type=int, default=500, help="of the second draw")
    parser.add_argument("--scan", type=int, default=250, help="samples to choose by")
    parser.add_argument("--entropic", type=int, default=64, help="images for denoising errors")
    parser.add_argument("--kinds", nargs="+", default=[*KINDS, *SHARES], help="of ways, beside the existing ones")
    parser.add_argument("--samplers", nargs="+", default=SAMPLERS)
    parser.add_argument("--out", type=Path, default=Path("out/grids"))
    parser.add_argument("--report", type=Path, nargs="+", help="write grids.md and grids.json from these folders")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.report:
        results = [json.loads((folder / "grids.json").read_text()) for folder in args.report]
        (HERE / "grids.json").write_text(json.dumps(results, indent=1) + "\n")
        (HERE / "grids.md").write_text(report(results))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    result = measure(args)
    (args.out / "grids.json").write_text(json.dumps(result, indent=1) + "\n")
    Console().print(report([result]), soft_wrap=True)


if __name__ == "__main__":
    main()
