"""Keep a trained model in the repository: `python tools/keep.py TRAINED models/NAME [FILE ...]`.

Written are the network, and the Gaussian that it is around if there is one, in half precision, with its scheduler and
the record of its training, and copies of the files given (a classifier, a prior); a model card that is there is left as
it is. Nothing may be larger than 16 MiB.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

from latestart.denoisers.around import Around
from latestart.denoisers.folders import SIDECAR, load_model, save_model

LARGEST = 16 * 2**20  # bytes, of one file
FILES = ("init", "around")  # of a training's record: whose folders say nothing elsewhere


def keep(trained: Path, out: Path, beside: list[Path]) -> None:
    """Write the model and what lies beside it to `out`.

    Raises:
        ValueError: no model, or a file would be too large; nothing is copied then.
        OSError: a file that cannot be read.
    """
    network, scheduler = load_model(trained)
    bytes_ = 2 * sum(parameter.numel() for parameter in network.parameters())
    sizes = {"the network": bytes_, **{str(path): path.stat().st_size for path in beside}}
    if isinstance(network, Around):
        network.gaussian = network.gaussian.to(dtype=torch.float16)
        held = sum(tensor.numel() for tensor in network.gaussian.basis.tensors().values())
        sizes["the Gaussian"] = 2 * held
    if large := {name: size for name, size in sizes.items() if size > LARGEST}:
        name, size = large.popitem()
        raise ValueError(f"{name} takes {size / 2**20:.1f} MiB, expected at most {LARGEST / 2**20:.0f}")
    save_model(network.half(), scheduler, out, _record(trained))
    for path in beside:
        shutil.copyfile(path, out / path.name)
    beside_it = "".join(f", {path.name}" for path in beside)
    print(f"wrote {out}: a network of {bytes_ / 2**20:.1f} MiB in half precision{beside_it}")


def _record(trained: Path) -> dict[str, Any]:
    """What lies beside the trained network, with the files that its training began from by name alone."""
    record: dict[str, Any] = json.loads((trained / SIDECAR).read_text())
    training = record.get("training", {})
    training.update({name: Path(training[name]).name for name in FILES if training.get(name)})
    return record


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trained", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("beside", type=Path, nargs="*")
    args = parser.parse_args()
    try:
        keep(args.trained, args.out, args.beside)
    except (ValueError, OSError) as error:
        parser.error(str(error))
