import gc
import os
import runpy
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared"


def pytest_configure(config):
    torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other
    for library in ("OMP", "OPENBLAS", "MKL"):  # of the processes that run the tests, and of those that tests start
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


def pytest_collection_finish():
    gc.freeze()  # what was imported stays: no collection need look through it


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the folder shared/ beside the repository"))


@pytest.fixture(scope="session")
def shared():
    """The folder with the full data sets, beside the repository."""
    return SHARED


@pytest.fixture
def tool(monkeypatch):
    """Run a script of tools/ by its name, with arguments."""

    def run(name, *args):
        monkeypatch.setattr("sys.argv", [name, *map(str, args)])
        runpy.run_path(str(ROOT / "tools" / name), run_name="__main__")

    return run
