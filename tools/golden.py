"""Run every measuring command at tiny settings, and compare the figures that two versions of the package write.

    python tools/golden.py record out/before
    python tools/golden.py compare out/before out/after

`record` runs each command of `RUNS` in a folder of its own, in a process of its own, and keeps what it prints and
writes. `compare` looks at every number and text in the JSON, parquet and npz files and at the printed lines; it
ends with status 1 if one of them differs. Figures of two machines may differ in their last digits: `--rtol` allows it.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

RUNS = {
    "demo": "demo --steps 2 --budget 20000",
    "table1-demo": "experiment table1 --preset demo --nfe 3 --samples 130",
    "check": "check mnist --t-start 500 -n 64",
    "choose": "choose mnist --steps 3 --probes 300 --out {out}/choice.json",
    "analyze": "analyze mnist --quick --limit 300",
    "sweep": "sweep --model mnist --sampler ddim,dpm++ --nfe 3 --prior none,gaussian,mixture --t-start 400,500"
    " --clip false,true --samples 60",
    "one-dimension": "experiment one-dimension --seeds 2 --steps 200 --samples 20",
    "sphere": "experiment sphere --dims 2,3 --samples 5",
    "potential": "experiment potential --limit 500 --samples 4",
    "bifurcation": "experiment bifurcation --leaves 6 --t-low 520 --step 0.2",
    "faces": "experiment faces -n 12 --size 32 --out {out}/faces.npz",
    "table1": "experiment table1 mnist --nfe 3 --samples 60 --samplers ddpm,ddim --solvers dpm++"
    " --starts gaussian,mixture --t-start paper=500;gaussian=500;mixture=400",
    "late-start": "experiment late-start --length 20 --samples 40 --starts 700,400 --criteria speciation,nats",
    "diversity": "experiment diversity --sampler ddim --nfe 3 --t-start 500 --samples 60 --reference 6",
    "sensitivity": "experiment sensitivity --prior gaussian --nfe 3 --step 200 --samples 60",
    "gaussianity": "experiment gaussianity --starts 800,300 --samples 130",
    "initialisations": "experiment initialisations --starts 500,300 --nfe 2 --samples 130 --kinds"
    " isotropic,gaussian,mixture,images",
    "late-training": "experiment late-training --steps 4 --seeds 2 --channels 8,8 --batch-size 4 --nfe 2 --samples 130",
}
VARIES = re.compile(r"\d+(\.\d+)? ?(s|ms|min|seconds|minutes|MiB|GiB|images/s)\b|machine: .*|/\S+|out/\S+")


def record(out: Path, names: list[str]) -> None:
    """Run the commands named, each into a folder of its own below `out`."""
    for name in names:
        place = out / name
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        words = [word.format(out=place) for word in RUNS[name].split()]
        given = [] if "--out" in words else ["--out", str(place)]
        began = time.monotonic()
        ran = subprocess.run(
            [sys.executable, "-m", "latestart", *words, *given],
            capture_output=True,
            text=True,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
        )
        (place / "printed.txt").write_text(ran.stdout, encoding="utf-8")
        print(f"{name}: {time.monotonic() - began:.0f} s, status {ran.returncode}", flush=True)
        if ran.returncode:
            sys.exit(ran.stdout + ran.stderr)


def compare(before: Path, after: Path, rtol: float) -> bool:
    """Tell where two records differ, command by command; whether they are the same."""
    same = True
    for name in RUNS:
        if not (before / name).is_dir() or not (after / name).is_dir():
            print(f"{name}: not in both")
            continue
        one, two = dict(figures(before / name)), dict(figures(after / name))
        apart = [key for key in one if key in two and not equal(one[key], two[key], rtol)]
        only = sorted(one.keys() ^ two.keys())
        same &= not apart and not only
        print(f"{name}: {len(one.keys() & two.keys()) - len(apart)} the same, {len(apart)} differ, {len(only)} in one")
        for key in [*apart[:8], *only[:8]]:
            print(f"    {key}: {one.get(key, 'none')!s:.80} -> {two.get(key, 'none')!s:.80}")
    return same


def figures(place: Path) -> Iterator[tuple[str, Any]]:
    """Every number and text that a command wrote, by its path, and the lines that it printed."""
    for file in sorted(place.rglob("*.json")):
        yield from leaves(json.loads(file.read_text(encoding="utf-8")), str(file.relative_to(place)))
    for file in sorted(place.rglob("*.parquet")):
        yield from leaves(pd.read_parquet(file).to_dict("records"), str(file.relative_to(place)))
    for file in sorted(place.rglob("*.npz")):
        with np.load(file) as arrays:
            yield from leaves({name: array.ravel().tolist() for name, array in arrays.items()}, file.name)
    for k, line in enumerate((place / "printed.txt").read_text(encoding="utf-8").splitlines()):
        if "━" not in line:  # a progress bar
            yield f"printed, line {k + 1}", VARIES.sub("...", line).strip()


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The numbers and texts of a JSON value, by their paths."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}: {key}")
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{k}]")
    else:
        yield path, VARIES.sub("...", value) if isinstance(value, str) else value


def equal(one: Any, two: Any, rtol: float) -> bool:
    """Whether two leaves are the same, numbers within a share of themselves."""
    if isinstance(one, float) and isinstance(two, float):
        return math.isclose(one, two, rel_tol=rtol, abs_tol=0) or (math.isnan(one) and math.isnan(two))
    return bool(one == two)


def main() -> None:
    """Read the arguments and do what they say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("folders", type=Path, nargs="+", help="one to record into, two to compare")
    parser.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")
    parser.add_argument("--rtol", type=float, default=0.0, help="share of themselves that numbers may differ by")
    args = parser.parse_args()
    if len(args.folders) != (1 if args.action == "record" else 2):
        parser.error(f"{args.action} takes {'one folder' if args.action == 'record' else 'two folders'}")
    if args.action == "record":
        record(args.folders[0], args.only)
    elif not compare(*args.folders, args.rtol):
        sys.exit(1)


if __name__ == "__main__":
    main()
