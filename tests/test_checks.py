"""Counts, seeds and roots: what is none is named by the library and not by what it is made of."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

import latestart as ls
from latestart.checks import LAST_SEED, seeded, whole_number
from latestart.cli.support import look_for
from latestart.data import drawn
from latestart.lab.setup import Started
from latestart.noise import when
from latestart.sampling.seeds import white_noise
from latestart.theory.roots import root


@pytest.mark.parametrize("value", [1, 7, np.int64(7), np.uint8(7), torch.tensor(7)])
def test_whole_numbers_of_any_kind_are_taken(value):
    assert whole_number("n", value) == int(value) and type(whole_number("n", value)) is int


@pytest.mark.parametrize("value", [0, -1, 2.0, 2.5, math.nan, "3", None, True, torch.tensor([1, 2]), [1]])
def test_what_is_no_count_is_named(value):
    with pytest.raises(ValueError, match=r"n=.*: expected a whole number of at least 1"):
        whole_number("n", value)
    with pytest.raises(ValueError, match="k=9: expected a whole number from 0 to 8"):
        whole_number("k", 9, 0, 8)


@pytest.mark.parametrize("seed", [-1, LAST_SEED + 1, 2**64, 0.5, None])
def test_what_is_no_seed_is_named_wherever_it_is_given(seed):
    images = ls.Images(torch.zeros(30, 1, 2, 2, dtype=torch.uint8))
    uses = (
        lambda: seeded(seed),
        lambda: drawn(images, 3, seed),
        lambda: white_noise(range(3), (1, 2, 2), seed=seed),
        lambda: ls.gaussianity(torch.randn(40, 3), rank=2, seed=seed),
    )
    for use in uses:
        with pytest.raises(ValueError, match=rf"seed={seed}: expected a whole number from 0 to"):
            use()
    assert seeded(LAST_SEED).initial_seed() == LAST_SEED


def test_times_are_printed_so_that_they_can_be_told_apart():
    assert [when(t) for t in (999.0, 433.4, 10, 3.456, 0.9931, torch.tensor(0.188), None)] == [
        *("999", "433", "10", "3.46", "0.993", "0.188", "none")
    ]


def test_a_root_is_found_or_told_of_without_scipys_words():
    assert root(lambda x: x**2 - 2, 0, 2, "the square") == pytest.approx(math.sqrt(2))
    assert root(lambda x: x, 0, 1, "the line") == 0
    for function in (lambda x: x + 1, lambda x: math.nan):
        with pytest.raises(ValueError, match="the line changes its sign nowhere in the range that is looked at: it is"):
            root(function, 0, 1, "the line")


def test_commands_look_for_files_models_and_samplers_first(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "p.npz").write_bytes(b"x")
    look_for(
        None,
        None,
        tmp_path / "photos",
        f"{tmp_path}/photos@64",
        tmp_path / "p.npz",
        str(tmp_path / "photos@background=white"),
    )
    for wrong in (tmp_path / "none", str(tmp_path / "none@64"), "none.npz"):
        with pytest.raises(FileNotFoundError, match=r"expected a file or folder at .*none"):
            look_for(None, wrong)
    look_for(Started(sampler="own"))
    look_for(Started(model=str(tmp_path), sampler="ddim"), out=tmp_path / "new")
    with pytest.raises(ValueError, match="there is no sampler 'nothing'; there are ddpm, "):
        look_for(Started(sampler="nothing"))
    with pytest.raises(ValueError, match="neither a folder with a diffusers model nor a shipped one"):
        look_for(Started(model="nowhere"))


def test_an_unknown_sampler_is_refused_before_torch_is_loaded():
    script = (
        "import sys; from latestart.cli.support import look_for; from latestart.lab.setup import Started\n"
        "try: look_for(Started(sampler='nothing'))\n"
        "except ValueError: print(sorted({'torch', 'diffusers', 'scipy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"
