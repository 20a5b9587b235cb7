"""Fitting a dense Gaussian prior: speed and memory of `Moments` beside the straightforward way.

Three ways to the covariance of all images, each in a process of its own, all in one run:

- `moments`: stream the clean images once; that covariance serves every noise level, C + sigma^2 I.
- `numpy.cov`: one `numpy.cov` of the clean images, all in memory.
- `straightforward`: for each of 11 start levels, noise all images, keep them, `numpy.cov`.

Expected: `moments` at least 20 times faster than `straightforward` and faster than `numpy.cov`; memory beyond the
images that does not grow with their number; and, at batches of 1,024 and more, at least 80% of the images a second
that a plain float32 matrix product of that size alone reaches (only the upper triangle is multiplied: above 100%).

    python benchmarks/fit.py [--data FOLDER] [--quick] [--out FOLDER]

Images are decoded to float32 in [-1, 1] first, which is not timed. Memory is the process' peak beyond what it held
with the images loaded and the libraries warm. Without the data folder, noise of the same sizes takes the images' place.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
SETS = {
    "MNIST": ("mnist-train.parquet", (60_000, 1, 28, 28)),
    "CIFAR-10": ("cifar10-jpeg-train.parquet", (50_000, 3, 32, 32)),
}
LEVELS = np.geomspace(0.2, 20, 11).tolist()
BATCHES = (1024, 2048, 4096)


# The work, one function for each way; each runs alone in a worker process.


def moments(images: np.ndarray) -> None:
    import latestart as ls

    sums = ls.Moments(images.shape[1:])
    for begin in range(0, len(images), 2048):
        sums.update(images[begin : begin + 2048])
    sums.covariance()


def numpy_cov(images: np.ndarray) -> None:
    np.cov(images.reshape(len(images), -1), rowvar=False)


def straightforward(images: np.ndarray) -> None:
    import torch

    clean = torch.from_numpy(images)
    for sigma in LEVELS:
        noised = clean + sigma * torch.randn(clean.shape)
        numpy_cov(noised.numpy())


WAYS: dict[str, Callable[[np.ndarray], None]] = {
    "moments": moments,
    "numpy.cov": numpy_cov,
    "straightforward": straightforward,
}


def measure(way: str, path: Path, n: int, repeats: int) -> dict[str, float]:
    """Median seconds of one way on the first n images, and peak bytes beyond what was resident before.

    The libraries are warmed by images of four values, so that the sums of the real ones count in full.
    """
    images = read(path, n)
    WAYS[way](np.zeros((64, 1, 2, 2), np.float32))
    before = peak()
    seconds = statistics.median(clock(lambda: WAYS[way](images)) for _ in range(repeats))
    return {"seconds": seconds, "images_per_second": n / seconds, "peak_bytes": peak() - before}


def rates(path: Path, repeats: int) -> list[dict[str, float]]:
    """Images a second of `Moments.update` and of the plain product `x^T x`, taken in turns on the same batches."""
    import torch

    import latestart as ls

    rows = []
    for batch in BATCHES:
        images = torch.from_numpy(read(path, batch))
        sums, x = ls.Moments(images.shape[1:]), images.flatten(1)
        product = torch.empty(x.shape[1], x.shape[1])
        sums.update(images)
        torch.mm(x.T, x, out=product)
        pairs = [
            (clock(lambda s=sums, i=images: s.update(i)), clock(lambda x=x, p=product: torch.mm(x.T, x, out=p)))
            for _ in range(repeats)
        ]
        ours, plain = (statistics.median(seconds) for seconds in zip(*pairs))
        rows.append({"batch": batch, "update": batch / ours, "product": batch / plain, "ratio": plain / ours})
    return rows


def basis_seconds(path: Path) -> float:
    """Seconds that `gaussian()` adds, once for all levels: the eigenbasis of the covariance."""
    import latestart as ls

    images = read(path, 10_000)
    sums = ls.Moments(images.shape[1:])
    sums.update(images)
    return clock(sums.gaussian)


def decode(source: Path, shape: tuple[int, ...], path: Path) -> str:
    """Write images as float32 in [-1, 1] to an npy file; says what they are."""
    import latestart as ls

    if source.exists():
        np.save(path, ls.load_images(source, limit=shape[0]).floats().numpy())
        return source.name
    np.save(path, np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))
    return "synthetic noise"


def read(path: Path, n: int) -> np.ndarray:
    """The first n images; read, not mapped, since mapped pages would count as memory held before."""
    mapped = np.load(path, mmap_mode="r")
    shape = (min(n, len(mapped)), *mapped.shape[1:])
    return np.fromfile(path, mapped.dtype, count=int(np.prod(shape)), offset=mapped.offset).reshape(shape)


def clock(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


# The plan: start the workers, put their figures side by side.


def alone(task: str, *arguments: Any) -> Any:
    """Run one function of this file in a fresh process and return what it returns."""
    command = [sys.executable, __file__, "--worker", json.dumps([task, *map(str, arguments)])]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def worker(task: str, *arguments: str) -> Any:
    match task, arguments:
        case "measure", (way, path, n, repeats):
            return measure(way, Path(path), int(n), int(repeats))
        case "rates", (path, repeats):
            return rates(Path(path), int(repeats))
        case "basis_seconds", (path,):
            return basis_seconds(Path(path))
        case "decode", (source, shape, path):
            return decode(Path(source), tuple(json.loads(shape)), Path(path))
    raise ValueError(f"unknown task {task!r}")


def compare(name: str, data: Path, quick: bool, folder: Path, console: Console) -> dict[str, Any]:
    """All figures of one data set."""
    file, shape = SETS[name]
    shape, path = (shape[0] // 10 if quick else shape[0], *shape[1:]), folder / f"{name}.npy"
    console.print(f"{name}: decoding", style="dim")
    source = alone("decode", data / file, json.dumps(shape), path)
    n, ways = shape[0], {}
    for way in WAYS:
        console.print(f"{name}: {way}", style="dim")
        ways[way] = alone("measure", way, path, n, 1 if way == "straightforward" else 3)
    console.print(f"{name}: memory, rates, basis", style="dim")
    growth = {part: alone("measure", "moments", path, part, 1)["peak_bytes"] for part in (n // 4, n // 2, n)}
    seconds = {way: figures["seconds"] for way, figures in ways.items()}
    return {
        "data": name,
        "source": source,
        "shape": shape,
        "ways": ways,
        "times_faster_than_straightforward": seconds["straightforward"] / seconds["moments"],
        "times_faster_than_numpy_cov": seconds["numpy.cov"] / seconds["moments"],
        "moments_peak_bytes_by_images": growth,
        "rates": alone("rates", path, 5 if quick else 15),
        "basis_seconds": alone("basis_seconds", path),
    }


def tables(results: list[dict[str, Any]]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows of each table."""
    ways = [
        [
            r["data"],
            f"{r['shape'][0]:,}",
            way,
            f"{figures['seconds']:.2f}",
            f"{figures['images_per_second']:,.0f}",
            f"{figures['peak_bytes'] / 2**20:,.0f}",
            f"{figures['seconds'] / r['ways']['moments']['seconds']:.1f}",
        ]
        for r in results
        for way, figures in r["ways"].items()
    ]
    growth = [
        [r["data"], *(f"{bytes_ / 2**20:,.0f} ({int(n):,})" for n, bytes_ in r["moments_peak_bytes_by_images"].items())]
        for r in results
    ]
    speeds = [
        [r["data"], f"{row['batch']:,}", f"{row['update']:,.0f}", f"{row['product']:,.0f}", f"{row['ratio']:.0%}"]
        for r in results
        for row in r["rates"]
    ]
    bases = [[r["data"], *(f"{value:.1f}" for value in ready(r))] for r in results]
    return [
        (
            f"Covariance for {len(LEVELS)} start levels (numpy.cov: of the clean images, once)",
            ["data", "images", "way", "seconds", "images/s", "peak MiB", "times moments"],
            ways,
        ),
        ("Peak MiB of moments beyond the images, at (n) images", ["data", "n / 4", "n / 2", "n"], growth),
        (
            "Accumulation beside the plain float32 product",
            ["data", "batch", "update, images/s", "product, images/s", "ratio"],
            speeds,
        ),
        (
            f"Ready to sample: one eigenbasis for all levels, or one for each of {len(LEVELS)} (computed)",
            ["data", "basis, s", "moments, s", "straightforward, s", "times moments"],
            bases,
        ),
    ]


def ready(result: dict[str, Any]) -> tuple[float, float, float, float]:
    """Seconds of one eigenbasis, of both ways with the eigenbases that each needs to sample, and their ratio."""
    basis = result["basis_seconds"]
    ours = result["ways"]["moments"]["seconds"] + basis
    theirs = result["ways"]["straightforward"]["seconds"] + len(LEVELS) * basis
    return basis, ours, theirs, theirs / ours


def markdown(report: dict[str, Any]) -> str:
    lines = [f"# Fitting a dense prior\n\n{report['machine']}. `python benchmarks/fit.py`\n"]
    for title, header, rows in tables(report["results"]):
        lines += [f"## {title}\n", f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    return "\n".join(lines)


def show(report: dict[str, Any], console: Console) -> None:
    for title, header, rows in tables(report["results"]):
        table = Table(*header, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images; written only with --out")
    parser.add_argument("--out", type=Path, help="folder of fit.json and fit.md (default: beside this file)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(worker(*json.loads(options.worker))))
        return
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        results = [compare(name, options.data, options.quick, Path(folder), console) for name in SETS]
    versions = {package: __import__(package).__version__ for package in ("torch", "numpy")}
    machine = f"{os.cpu_count()} processors ({platform.machine()}), " + ", ".join(
        f"{k} {v}" for k, v in versions.items()
    )
    report = {"machine": machine, "quick": options.quick, "levels": LEVELS, "results": results}
    show(report, console)
    if options.out or not options.quick:
        save(report, options.out or HERE, console)


def save(report: dict[str, Any], folder: Path, console: Console) -> None:
    from latestart.files import replacing, write_json

    write_json(folder / "fit.json", report)
    with replacing(folder / "fit.md") as temporary:
        temporary.write_text(markdown(report))
    console.print(f"written: {folder / 'fit.json'}, {folder / 'fit.md'}")


if __name__ == "__main__":
    main()
