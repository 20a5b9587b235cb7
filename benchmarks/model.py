"""How good and how fast the embedded model is: `python benchmarks/model.py [--samples 2000] [--steps 100]`.

Quality: DDIM from full noise, trailing and unclipped, against the Frechet distance of as many test images, both to the
training set. Speed: evaluations a second at batch 256, the median of several, on all cores. Writes `model.json` and
`model.md` beside this file.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import torch

from latestart import zoo
from latestart.evaluation.quality import FrechetTo, interval
from latestart.files import replacing, write_json
from latestart.lab.judge import shipped_judge
from latestart.sampling.generate import generate
from latestart.sampling.samplers import make_sampler


def quality(bundle: zoo.Bundle, samples: int, steps: int, seed: int) -> dict[str, float]:
    """The sampler's distance to the training set, its interval, and the floor."""
    to_train = FrechetTo(bundle.statistics("train"))
    scheduler = make_sampler("ddim", bundle.scheduler, timestep_spacing="trailing")
    result = generate(bundle.model, scheduler, n=samples, steps=steps, seed=seed)
    features = bundle.features(result.images)
    estimate = interval(to_train.replicates(features), to_train(features))
    floor = shipped_judge(bundle).floor(samples)
    if floor is None or floor.images != samples:
        raise ValueError(f"too few test images are shipped: the floor of {samples} samples is not known")
    return {
        "samples": samples, "nfe": result.nfe, "seed": seed, "frechet": estimate.value, "low": estimate.low,
        "high": estimate.high, "floor": floor.frechet.value, "times_floor": estimate.value / floor.frechet.value,
    }  # fmt: skip


@torch.inference_mode()
def speed(bundle: zoo.Bundle, batch: int = 256, repeats: int = 9) -> dict[str, float]:
    """Images evaluated a second."""
    x, t = torch.randn(batch, *bundle.prior.shape), torch.tensor(500)
    bundle.model(x, t)
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        bundle.model(x, t)
        seconds.append(time.perf_counter() - begin)
    return {"batch": batch, "threads": torch.get_num_threads(), "images_a_second": batch / statistics.median(seconds)}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    bundle = zoo.load("mnist")
    fast = speed(bundle)
    good = quality(bundle, args.samples, args.steps, args.seed)
    machine = {"processor": platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    write_json(args.out / "model.json", {"speed": fast, "quality": good, "machine": machine})
    table = (
        "| figure | value |\n|---|---|\n"
        f"| Frechet distance, DDIM with {good['nfe']} evaluations, {args.samples} samples, seed {args.seed} "
        f"| {good['frechet']:.2f} [{good['low']:.2f}, {good['high']:.2f}] |\n"
        f"| the same of {args.samples} test images | {good['floor']:.2f} |\n"
        f"| ratio | {good['times_floor']:.2f} |\n"
        f"| images a second at batch {fast['batch']}, {fast['threads']} threads | {fast['images_a_second']:.0f} |\n"
    )
    with replacing(args.out / "model.md") as temporary:
        temporary.write_text(table)
    print(table)


if __name__ == "__main__":
    main()
