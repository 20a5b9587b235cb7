"""Priors of every structure on three data sets: what they cost, and what they leave out.

For MNIST, CIFAR-10 and 64 x 64 generated faces, each structure fitted in a process of its own, all in one run:

- seconds and images a second of the fit (images as float32 in memory, which is not timed), peak memory beyond them,
  size of the saved prior;
- nats: `KL(data || prior)` at several levels, the data being the exact point cloud of 10,000 of the images
  (`theory/nats.py`, 256 noised images a level, standard errors in the JSON);
- beside them `numpy.cov`, and scikit-learn's `IncrementalPCA` of the rank of the low-rank prior;
- for the low-rank prior of CIFAR-10 the variance that it captures of that of the exact leading directions, the sum of
  its variances and the furthest single one, against the exact ones;
- peak memory of the low-rank fit of a quarter, a half and all of the images, and of 256 x 256 x 3 noise at rank 512.

Expected: on CIFAR-10 at rank 256, at least 10 times the images a second of `IncrementalPCA`, 0.995 of the variance
captured, the sum of the variances at least 0.98 of the exact one and each within 10%; the 256 x 256 fit in less than
4 GiB; memory that does not grow with the number of images.

    python benchmarks/priors.py [--data FOLDER] [--faces faces.npz] [--quick] [--out FOLDER]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from rich.console import Console

import latestart as ls

HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared" / "data"
SETS = {
    "MNIST": ("mnist-train.parquet", 60_000),
    "CIFAR-10": ("cifar10-jpeg-train.parquet", 50_000),
    "faces": ("faces.npz", 20_000),
}
RANK, CLOUD, TIMES = 256, 10_000, (300, 400, 500, 600, 700, 800)
STRUCTURES: dict[str, dict[str, Any]] = {
    "isotropic": {"basis": "isotropic"},
    "channel": {"basis": "channel"},
    "diagonal": {"basis": "diagonal"},
    "fourier": {"basis": "fourier"},
    "cosine": {"basis": "cosine"},
    "cosine+dense": {"basis": "cosine+dense"},
    "lowrank": {"basis": "lowrank", "rank": RANK},
    "dense": {"basis": "dense"},
    "mixture": {"components": 30},
}
DENSE_UP_TO = 4096  # values an image; the eigenvectors of more take minutes


# The work; each piece runs alone in a worker process.


def fit(structure: str, path: Path, n: int, out: Path) -> dict[str, float]:
    """Fit a prior to the first n images, save it, and say what it cost."""
    images = torch.from_numpy(read(path, n))
    options, batches = STRUCTURES[structure], list(images.split(2048))
    kind = ls.Mixture if "components" in options else ls.Gaussian
    warm = torch.randn(64, 1, 4, 4)
    kind.fit(warm, **{**options, **({"rank": 2} if "rank" in options else {}), **_few(options)})
    before, begin = peak(), time.perf_counter()
    prior = kind.fit(batches, **options)
    seconds = time.perf_counter() - begin
    held = peak() - before
    prior.save(out)
    return {"seconds": seconds, "images_per_second": n / seconds, "peak_bytes": held, "disk": out.stat().st_size}


def _few(options: dict[str, Any]) -> dict[str, Any]:
    return {"components": 2} if "components" in options else {}


def peer(name: str, path: Path, n: int) -> dict[str, float]:
    """`numpy.cov`, or `IncrementalPCA` with batches of 2,048, on the same images."""
    rows = read(path, n).reshape(n, -1)
    before, begin = peak(), time.perf_counter()
    if name == "numpy.cov":
        np.cov(rows, rowvar=False)
    else:
        from sklearn.decomposition import IncrementalPCA

        IncrementalPCA(RANK, batch_size=2048).fit(rows)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "images_per_second": n / seconds, "peak_bytes": peak() - before}


def large(side: int, rank: int, n: int) -> dict[str, float]:
    """Peak memory of a low-rank fit of noise, `(3, side, side)`, drawn batch by batch."""
    generator = torch.Generator().manual_seed(0)
    moments = ls.Moments((3, side, side), "lowrank", rank)
    begin = time.perf_counter()
    for _ in range(n // 64):
        moments.update(torch.randn(64, 3, side, side, generator=generator))
    moments.gaussian()
    return {"dim": 3 * side**2, "rank": rank, "images": n, "seconds": time.perf_counter() - begin, "peak_bytes": peak()}


def read(path: Path, n: int) -> np.ndarray:
    mapped = np.load(path, mmap_mode="r")
    shape = (min(n, len(mapped)), *mapped.shape[1:])
    return np.fromfile(path, mapped.dtype, count=int(np.prod(shape)), offset=mapped.offset).reshape(shape)


def peak() -> int:
    """The most memory that this process has held; on Linux without what its parent held when it was started."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


WORK = {
    "fit": lambda structure, path, n, out: fit(structure, Path(path), int(n), Path(out)),
    "peer": lambda name, path, n: peer(name, Path(path), int(n)),
    "large": lambda side, rank, n: large(int(side), int(rank), int(n)),
}


def alone(task: str, *arguments: Any) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", task, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


# What the priors leave out.


class Remembered:
    """A denoiser that is asked the same for every prior, and computes it once."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.known = denoiser, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def __call__(self, y: torch.Tensor, sigma: Any) -> torch.Tensor:
        key = (float(torch.as_tensor(sigma).flatten()[0]), float(y.double().sum()), y.shape)
        if key not in self.known:
            self.known[key] = self.denoiser(y, sigma)
        return self.known[key]


def nats_left(priors: dict[str, Any], images: np.ndarray) -> dict[str, dict[str, list[float]]]:
    """`KL(point cloud || prior)` with its standard error, at the levels of `TIMES`."""
    cloud = Remembered(ls.PointCloud(torch.from_numpy(images[:CLOUD])))
    noise = ls.Noise.from_scheduler(DDPMScheduler())
    levels = torch.from_numpy(np.geomspace(noise.sigma(980.0), noise.sigma(float(TIMES[0])), 14))
    seen = torch.from_numpy(images[:CLOUD][np.random.default_rng(0).permutation(min(CLOUD, len(images)))[:256]])
    at = np.log([noise.sigma(float(t)) for t in TIMES])
    found = {}
    for name, prior in priors.items():
        curve = ls.nats(cloud, prior, seen, levels, exact=True, batch_size=128)
        log_sigma = curve.sigma.log().flip(0).numpy()
        values, errors = (np.interp(at, log_sigma, x.flip(0).numpy()).tolist() for x in (curve.nats, curve.error))
        found[name] = {"nats": values, "error": errors}
    return found


def against_exact(lowrank: ls.Gaussian, dense: ls.Gaussian) -> dict[str, float]:
    """The variance captured by the directions of a low-rank prior, and its variances, over the exact ones."""
    vectors = lowrank.basis.tensors()["vectors"].double()
    captured = (dense.basis.matrix(dense.variances) @ vectors * vectors).sum()
    exact, kept = dense.variances[:RANK], lowrank.variances[:RANK].sort(descending=True).values
    return {
        "captured": float(captured / exact.sum()),
        "sum": float(kept.sum() / exact.sum()),
        "furthest": float((kept / exact - 1).abs().max()),
    }


def measure(name: str, source: Path, quick: bool, folder: Path, console: Console) -> dict[str, Any]:
    path, limit = folder / "images.npy", SETS[name][1] // (10 if quick else 1)
    images = ls.load_images(source, limit)
    n, dim = len(images), int(np.prod(images.shape))
    np.save(path, images.floats().numpy())
    rows: dict[str, Any] = {}
    for structure in STRUCTURES:
        if structure == "dense" and dim > DENSE_UP_TO:
            continue
        console.print(f"{name}: {structure}", style="dim")
        rows[structure] = alone("fit", structure, path, n, folder / f"{structure}.safetensors")
    peers = ["numpy.cov"] if dim <= DENSE_UP_TO else []
    for other in [*peers, "IncrementalPCA"]:
        console.print(f"{name}: {other}", style="dim")
        rows[other] = alone("peer", other, path, n)
    console.print(f"{name}: nats", style="dim")
    priors = {s: ls.load_prior(folder / f"{s}.safetensors") for s in rows if s in STRUCTURES}
    for structure, left in nats_left(priors, read(path, CLOUD)).items():
        rows[structure] |= left
    result: dict[str, Any] = {"data": name, "images": n, "shape": images.shape, "times": TIMES, "rows": rows}
    result["memory"] = {
        part: alone("fit", "lowrank", path, part, folder / "part.safetensors")["peak_bytes"]
        for part in (n // 4, n // 2, n)
    }
    if "dense" in priors:
        result["lowrank"] = against_exact(priors["lowrank"], priors["dense"])
    rate = rows["lowrank"]["images_per_second"] / rows["IncrementalPCA"]["images_per_second"]
    return result | {"lowrank_over_incremental_pca": rate}


def table(result: dict[str, Any]) -> str:
    """One data set as markdown."""
    lines = [
        f"## {result['data']}: {result['images']:,} images {tuple(result['shape'])}",
        "",
        f"| structure | seconds | images/s | peak MiB | disk MiB | {' | '.join(f'nats at {t}' for t in TIMES)} |",
        "|---|" + "---|" * (4 + len(TIMES)),
    ]
    for name, row in result["rows"].items():
        disk = f"{row['disk'] / 2**20:.2f}" if "disk" in row else ""
        nats = [f"{x:.2f}" if x < 100 else f"{x:.0f}" for x in row.get("nats", [])] or [""] * len(TIMES)
        cost = f"{row['seconds']:.2f} | {row['images_per_second']:,.0f} | {_mib(row['peak_bytes'])} | {disk}"
        lines.append(f"| {name} | {cost} | {' | '.join(nats)} |")
    memory = ", ".join(f"{n}: {bytes_ / 2**20:.0f}" for n, bytes_ in result["memory"].items())
    lines += ["", f"Low rank ({RANK}): {result['lowrank_over_incremental_pca']:.1f} times the images a second of "]
    lines[-1] += f"IncrementalPCA; peak MiB by number of images: {memory}."
    if exact := result.get("lowrank"):
        told = " It captures {captured:.4f} of the variance of the exact directions; its variances sum to {sum:.4f} of"
        lines[-1] += (told + " theirs, and the furthest is off by {furthest:.1%}.").format(**exact)
    return "\n".join(lines)


def _mib(count: float | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(WORK[sys.argv[2]](*sys.argv[3:])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED)
    parser.add_argument("--faces", type=Path, default=Path("out/faces.npz"))
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    console, results = Console(stderr=True), []
    sources = {name: options.faces if name == "faces" else options.data / file for name, (file, _) in SETS.items()}
    for name, source in sources.items():
        if not source.is_file():
            console.print(f"{name}: no {source}, left out", style="yellow")
            continue
        with tempfile.TemporaryDirectory() as folder:
            results.append(measure(name, source, options.quick, Path(folder), console))
    console.print("256 x 256 x 3 at rank 512", style="dim")
    big = alone("large", 256, 512, 256 if options.quick else 1024)
    (options.out / "priors.json").write_text(json.dumps({"sets": results, "large": big}, indent=1) + "\n")
    told = f"D = {big['dim']:,}, rank {big['rank']}, {big['images']:,} images: {big['seconds']:.0f} s"
    tables = "\n\n".join(map(table, results))
    text = f"# Priors by structure\n\n{tables}\n\n{told}, peak {big['peak_bytes'] / 2**30:.2f} GiB in all.\n"
    (options.out / "priors.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
