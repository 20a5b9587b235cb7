from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parent.parent.parent / "shared"


def pytest_configure(config):
    torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("shared") and not SHARED.is_dir():
            item.add_marker(pytest.mark.skip(reason="needs the folder shared/ beside the repository"))


@pytest.fixture(scope="session")
def shared():
    """The folder with the full data sets, beside the repository."""
    return SHARED
