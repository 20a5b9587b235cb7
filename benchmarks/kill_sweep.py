"""A sweep killed with SIGKILL at random moments and started again each time, against an undisturbed one.

One grid on the shipped MNIST model, twice: once in one go, once killed until it has been killed as often as asked for;
then the printed tables and the bytes of both `results.parquet` are compared. The moments are uniform from the start of
a process to what it takes to open the model and to measure six cells. A sweep that is over before it has been killed
often enough is compared, and the kills go on in another folder.

    python benchmarks/kill_sweep.py [--kills 20] [--seed 0] [--out FOLDER]
"""

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
MAIN = "import typer; from latestart.cli.sweep import sweep; typer.run(sweep)"
GRID = (
    "--sampler", "ddim,dpm++,heun", "--nfe", "1,2,3,4,5", "--prior", "none,gaussian,mixture", "--t-start", "400",
    "--spacing", "trailing,leading", "--samples", "40",
)  # fmt: skip


def start(out: Path) -> subprocess.Popen[str]:
    """A process that works on the sweep in that folder."""
    command = [sys.executable, "-c", MAIN, *GRID, "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def finish(out: Path) -> tuple[str, bytes]:
    """The sweep to its end: the table as it was printed, and the bytes of its file."""
    process = start(out)
    printed = process.communicate()[0]
    if process.returncode:
        raise RuntimeError(f"the sweep ended with {process.returncode}")
    table = printed[printed.index("Frechet distance to the data") :]
    return table.replace(str(out), "OUT"), (out / "results.parquet").read_bytes()


def done(out: Path) -> int:
    """How many cells have their file."""
    return len(list(out.glob("cells/*.safetensors")))


def kill_at(out: Path, moment: float) -> bool:
    """Kill a sweep so many seconds after its start; whether it was still at work."""
    process = start(out)
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        began = time.monotonic()
        undisturbed = finish(whole)
        seconds, cells = time.monotonic() - began, done(whole)
        began = time.monotonic()
        finish(whole)  # nothing is left to do: what it takes to open the model and to print
        opening = time.monotonic() - began
        latest = opening + 6 * (seconds - opening) / cells
        kills, tables, cut = [], [], Path(folder) / "cut"
        while len(kills) < options.kills:
            moment = moments.uniform(0, latest)
            if kill_at(cut, moment):
                kills.append({"seconds": round(moment, 2), "cells": done(cut)})
            else:
                tables.append(finish(cut))
                cut = Path(folder) / f"cut-{len(tables)}"
        tables.append(finish(cut))
    record = {
        "kills": kills,
        "cells": cells,
        "same_table": all(printed == undisturbed[0] for printed, _ in tables),
        "same_file": all(file == undisturbed[1] for _, file in tables),
    }
    (options.out / "kill_sweep.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"{len(kills)} kills within {latest:.1f} s of the start each, {cells} cells")
    print("cells done after each kill:", ", ".join(str(kill["cells"]) for kill in kills))
    print(f"same printed table: {record['same_table']}; same bytes of results.parquet: {record['same_file']}")


if __name__ == "__main__":
    main()
