"""What the leading eigenvalue of a trained network costs: `python benchmarks/stability.py [--data FOLDER]`.

On a network for CIFAR-size images (D = 3,072), at noised images of several times t, the leading eigenvalue of the
Jacobian of its denoiser is taken

    by products     `leading_eigenvalue`: Arnoldi's method on Jacobian-vector products, nothing else is built
    by columns      the whole Jacobian, one product for each of the D unit vectors, by the same products
    by jacrev       the whole Jacobian by `torch.func.jacrev`: vector-Jacobian products, batched by `torch.func.vmap`
    by jvp          the whole Jacobian by `torch.func.jvp`, forward-mode products, batched by `torch.func.vmap`

and the dense ones must then be diagonalised (`numpy.linalg.eigvals`), which is timed apart: speeds are compared without
it, in favour of the dense ones. The batched ways are run in chunks of several sizes, and the fastest counts. Seconds
are those of the process on the processor, on one thread, so that other work on the machine does not count.

The network is that of the folder --model. Without one it is trained here, by `latestart.train` on CIFAR-10 (the first
run takes minutes, later ones find it under out/stability): never random weights. Writes `stability.json` and
`stability.md` beside this file.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_pre_hook

from latestart.data import Images, load_images
from latestart.denoisers.folders import load_model
from latestart.denoisers.networks import NetworkDenoiser, from_diffusers
from latestart.files import replacing, write_json
from latestart.theory.jacobian import Jacobian, leading_eigenvalue
from latestart.train import train
from latestart.train_config import TrainConfig

HERE = Path(__file__).parent
TIMES = (300, 600)  # of the noised images, in the scheduler's t
CHUNKS = (32, 128, 256, 512)
CONFIG = TrainConfig(
    steps=2500, batch_size=16, prediction="v_prediction", patch=4, channels=(32, 64), ema_decay=0.999
)  # fmt: skip
FEWEST_STEPS = 2000
AIMS = {"error": 1e-3, "products": 100, "columns": 15, "batched": 5}


def trained(folder: Path, images: Images, console: Console) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The network of a folder, its scheduler and its training record; trained there first if it is not yet."""
    record = _record(folder)
    if not record:
        console.print(f"training the network of {folder}: {CONFIG.steps} steps of {CONFIG.batch_size} images, once")
        train(images, folder, CONFIG, progress=lambda step, steps, loss: _tell(console, step, steps, loss))
        record = _record(folder)
    if record.get("step", 0) < FEWEST_STEPS:
        raise SystemExit(f"the network in {folder} was trained for {record.get('step', 0)} steps, not {FEWEST_STEPS}")
    model, scheduler = load_model(folder)
    return model, scheduler, record


def _record(folder: Path) -> dict[str, Any]:
    sidecar = folder / "latestart.json"
    record = json.loads(sidecar.read_text()).get("training", {}) if sidecar.is_file() else {}
    return record if record.get("step") == record.get("steps") else {}


def _tell(console: Console, step: int, steps: int, loss: float) -> None:
    if step % 100 == 0:
        console.print(f"  step {step} of {steps}, loss {loss:.4f}")


def measure(denoiser: NetworkDenoiser, y: Tensor, t: int, repeats: int) -> dict[str, Any]:
    """Seconds and results of all ways at one point `(*shape)`, at the scheduler's time t."""
    sigma = denoiser.noise.sigma(float(t))
    seconds, spectra = [], []
    for _ in range(repeats):
        took, spectrum = timed(lambda: leading_eigenvalue(denoiser, y, sigma))
        seconds.append(took)
        spectra.append(spectrum)
    columns_seconds, columns = timed(lambda: by_columns(denoiser, y, sigma))
    batched = {
        f"{name}, chunks of {chunk}": timed(lambda way=way, chunk=chunk: way(denoiser, y, sigma, chunk))
        for name, way in (("jacrev", by_jacrev), ("jvp", by_jvp))
        for chunk in CHUNKS
    }
    eigen_seconds, values = timed(lambda: np.linalg.eigvals(columns))
    leading = float(values.real.max())
    fastest = min(batched, key=lambda name: batched[name][0])
    ours = statistics.median(seconds)
    return {
        "t": t,
        "sigma": sigma,
        "leading": spectra[0].leading,
        "dense_leading": leading,
        "error": abs(spectra[0].leading - leading) / abs(leading),
        "products": spectra[0].products,
        "asymmetry": spectra[0].asymmetry,
        "how": spectra[0].how,
        "seconds": ours,
        "columns_seconds": columns_seconds,
        "batched_seconds": {name: took for name, (took, _) in batched.items()},
        "fastest_batched": fastest,
        "batched_difference": max(float(np.abs(matrix - columns).max()) for _, matrix in batched.values()),
        "diagonalisation_seconds": eigen_seconds,
        "times_columns": columns_seconds / ours,
        "times_batched": batched[fastest][0] / ours,
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of processor time that `work` takes, and what it returns."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def by_columns(denoiser: NetworkDenoiser, y: Tensor, sigma: float) -> np.ndarray:
    """The dense Jacobian, one product at a time."""
    jacobian = Jacobian(denoiser, y.unsqueeze(0), sigma)
    dim = y.numel()
    matrix = np.empty((dim, dim), dtype=np.float32)
    for k in range(dim):
        unit = torch.zeros(dim)
        unit[k] = 1
        matrix[:, k] = jacobian.vector(unit.view(1, *y.shape)).flatten().numpy()
    return matrix


def by_jacrev(denoiser: NetworkDenoiser, y: Tensor, sigma: float, chunk: int) -> np.ndarray:
    """The dense Jacobian by rows, `chunk` of them at once."""
    with sdpa_kernel(SDPBackend.MATH):
        jacobian = torch.func.jacrev(lambda x: denoiser(x.unsqueeze(0), sigma)[0], chunk_size=chunk)(y)
    return jacobian.detach().reshape(y.numel(), y.numel()).numpy()


def by_jvp(denoiser: NetworkDenoiser, y: Tensor, sigma: float, chunk: int) -> np.ndarray:
    """The dense Jacobian by columns, `chunk` of them at once."""

    def column(v: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: denoiser(x.unsqueeze(0), sigma)[0], (y,), (v,))[1]

    handle = register_module_forward_pre_hook(_contiguous)  # group norm has no forward derivative on other input
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
            columns = torch.func.vmap(column, chunk_size=chunk)(torch.eye(y.numel()).view(-1, *y.shape))
    finally:
        handle.remove()
    return columns.reshape(y.numel(), y.numel()).T.numpy()


def _contiguous(module: nn.Module, args: tuple[Any, ...]) -> Any:
    return tuple(arg.contiguous() for arg in args) if isinstance(module, nn.GroupNorm) else None


def rows(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table."""
    header = [
        "t", "sigma", "leading eigenvalue", "dense", "relative error", "products", "asymmetry", "by products, s",
        "by columns, s", "batched, s", "fastest batched", "times columns", "times batched", "diagonalisation, s",
    ]  # fmt: skip
    return header, [
        [
            str(r["t"]),
            f"{r['sigma']:.3f}",
            f"{r['leading']:.5f}",
            f"{r['dense_leading']:.5f}",
            f"{r['error']:.1e}",
            str(r["products"]),
            f"{r['asymmetry']:.2f}",
            f"{r['seconds']:.2f}",
            f"{r['columns_seconds']:.1f}",
            f"{r['batched_seconds'][r['fastest_batched']]:.1f}",
            r["fastest_batched"],
            f"{r['times_columns']:.0f}",
            f"{r['times_batched']:.1f}",
            f"{r['diagonalisation_seconds']:.1f}",
        ]
        for r in results
    ]


def verdict(results: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether each aim is met at every level."""
    return {
        f"relative error at most {AIMS['error']:g}": all(r["error"] <= AIMS["error"] for r in results),
        f"at most {AIMS['products']} products": all(r["products"] <= AIMS["products"] for r in results),
        f"{AIMS['columns']} times faster than by columns": all(r["times_columns"] >= AIMS["columns"] for r in results),
        f"{AIMS['batched']} times faster than batched": all(r["times_batched"] >= AIMS["batched"] for r in results),
    }


def markdown(report: dict[str, Any]) -> str:
    header, table = rows(report["results"])
    training = report["training"]
    lines = [
        "# The leading eigenvalue of a trained network\n",
        f"{report['machine']}. `python benchmarks/stability.py`\n",
        f"A U-Net for CIFAR-10 (D = {report['dim']:,}), patches of {training['patch']}, channels "
        f"{tuple(training['channels'])}, trained for {training['step']:,} steps of {training['batch_size']} images "
        f"({training['prediction']}, loss {training['loss']:.3f}). Speeds without the dense ways' diagonalisation.\n",
        f"| {' | '.join(header)} |",
        f"|{'---|' * len(header)}",
        *(f"| {' | '.join(row)} |" for row in table),
        "",
        *(f"- {aim}: {'met' if met else 'NOT met'}" for aim, met in report["verdict"].items()),
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="with cifar10-jpeg-train.parquet"
    )
    parser.add_argument("--model", type=Path, help="folder of a trained model (default: trained in out/stability)")
    parser.add_argument("--repeats", type=int, default=5, help="of the fast way, whose median counts")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    images = load_images(options.data / "cifar10-jpeg-train.parquet")
    model, scheduler, training = trained(options.model or HERE.parent / "out" / "stability" / "model", images, console)
    denoiser = from_diffusers(model, scheduler)
    results = []
    for k, t in enumerate(TIMES):
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(k))
        y = images[k : k + 1].floats()[0] + denoiser.noise.sigma(float(t)) * noise
        results.append(measure(denoiser, y, t, options.repeats))
        console.print(
            f"t = {t}: {results[-1]['times_columns']:.0f} and {results[-1]['times_batched']:.1f} times faster"
        )
    machine = f"one thread of {os.cpu_count()} processors ({platform.machine()}), torch "
    machine += f"{torch.__version__}, numpy {np.__version__}"
    report = {"machine": machine, "dim": int(np.prod(images.shape)), "training": training, "verdict": verdict(results)}
    save(report | {"results": results}, options.out, console)


def save(report: dict[str, Any], folder: Path, console: Console) -> None:
    header, table = rows(report["results"])
    shown = Table("", *(f"t = {row[0]}" for row in table), title="The leading eigenvalue of a trained network")
    for k, name in enumerate(header[1:], 1):
        shown.add_row(name, *(row[k] for row in table))
    console.print(shown)
    for aim, met in report["verdict"].items():
        console.print(f"{aim}: {'met' if met else 'NOT met'}")
    write_json(folder / "stability.json", report)
    with replacing(folder / "stability.md") as temporary:
        temporary.write_text(markdown(report))
    console.print(f"written: {folder / 'stability.json'}, {folder / 'stability.md'}")


if __name__ == "__main__":
    main()
