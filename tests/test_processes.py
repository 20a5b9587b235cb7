"""Several processes give what one gives, and an end where one of them ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import latestart as ls
from latestart.cli import app
from latestart.data import load_images, read_png, save_png
from latestart.denoisers.folders import load_model
from latestart.gaussians.structures import BASES
from latestart.processes import Distributed, Processes
from rendezvous import together

SHAPE = (3, 4, 2)


def images(n, mean=0.0):
    rows = torch.randn(n, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return mean + rows * torch.linspace(0.5, 2, SHAPE[-1], dtype=torch.float64)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("count", "products", "tolerance"), [(2, torch.float64, 1e-10), (4, torch.float32, 1e-6)])
def test_moments_of_processes_are_those_of_one(basis, count, products, tolerance):
    data = images(301, mean=30.0)
    whole = ls.Moments(SHAPE, basis, products=products)
    whole.update(data)

    def work(processes):
        moments = ls.Moments(SHAPE, basis, products=products)
        for batch in data[list(processes.share(len(data)))].split(31):
            moments.update(batch)
        moments.combine(processes)
        return moments

    for moments in together(count, work):
        assert (moments.count, moments.value_range) == (whole.count, whole.value_range)
        torch.testing.assert_close(moments.mean(), whole.mean(), rtol=tolerance, atol=0)
        scale = whole.covariance().abs().max()
        torch.testing.assert_close(moments.covariance() / scale, whole.covariance() / scale, rtol=0, atol=tolerance)


def test_a_process_without_images_adds_nothing():
    data = images(3)

    def work(processes):
        moments = ls.Moments(SHAPE, "diagonal", products=torch.float64)
        if mine := list(processes.share(len(data))):
            moments.update(data[mine])
        moments.combine(processes)
        return moments.covariance()

    for covariance in together(5, work):
        torch.testing.assert_close(covariance, data.var(0).flatten())


@pytest.mark.parametrize("options", [{"components": 2}, {"labels": True}, {"components": 2, "labels": True}], ids=str)
def test_a_mixture_of_processes_is_that_of_one(options):
    data = images(300) + 5 * (torch.arange(300) % 3 == 0).view(-1, 1, 1, 1)
    if "labels" in options:
        options = options | {"labels": torch.arange(300) % 2}
    fitted = {"basis": "dense", "dtype": torch.float64, **options}
    alone = ls.Mixture.fit(data, **fitted)
    for mixture in together(3, lambda processes: ls.Mixture.fit(data, **fitted, processes=processes)):
        torch.testing.assert_close(mixture.weights, alone.weights, rtol=0, atol=0)
        torch.testing.assert_close(mixture.log_prob(data), alone.log_prob(data), rtol=1e-10, atol=0)


def test_an_empty_component_is_told_by_every_process():
    data = torch.ones(8, *SHAPE)
    data[:2] += images(2).float()
    for error in together(
        2, lambda processes: ls.Mixture.fit(data, 5, basis="diagonal", sigma=1.0, processes=processes)
    ):
        assert isinstance(error, ValueError)
        assert re.search(r"component \d of 5 has no images", str(error))


def test_processes_that_disagree_are_told_so():
    def work(processes):
        moments = ls.Moments((3, 4 + processes.index), "diagonal")
        moments.combine(processes)

    for error in together(2, work):
        assert isinstance(error, ValueError)
        assert re.search(r"disagree.*process 0 has .*\(3, 4\).*process 1 has .*\(3, 5\)", str(error))


@pytest.mark.parametrize(("n", "count"), [(10, 3), (2, 4), (0, 2), (7, 1)])
def test_shares_are_even_and_whole(n, count):
    shares = [Processes(k, count).share(n) for k in range(count)]
    assert [i for share in shares for i in share] == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_parts_of_a_data_set_are_the_whole(tmp_path, kind):
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (11, 1, 4, 4), dtype=np.uint8))
    labels = np.arange(11) % 3
    path = tmp_path / ("images.npz" if kind == "npz" else "images")
    if kind == "npz":
        np.savez(path, images=pixels.numpy(), labels=labels)
    else:
        for k, image in enumerate(pixels):
            save_png(path / f"class{labels[k]}" / f"{k:02d}.png", image)
    whole, parts = load_images(path, 10), [load_images(path, 10, (k, 3)) for k in range(3)]
    assert torch.equal(torch.cat([part.pixels for part in parts]), whole.pixels)
    assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
    with pytest.raises(ValueError, match="holds fewer than 12 images"):
        load_images(path, part=(0, 12))


def launch(count, *args):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*command, *map(str, args)],
        env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


COMMANDS = """
import json, sys
from latestart.cli import app

for args in json.loads(sys.argv[1]):
    app(args, standalone_mode=False)
"""


def commands(folder, count):
    """What `count` processes make in a folder: a prior, samples and a trained network; all commands in one launch."""
    images, prior = folder / "images.npz", folder / f"prior-{count}.safetensors"
    samples, model = folder / f"samples-{count}", folder / f"model-{count}"
    wanted = [
        ["fit", images, "--basis", "diagonal", "--out", prior],
        ["sample", "mnist", "--t-start", 500, "--steps", 2, "-n", 9, "--out", samples],
        [
            "train",
            images,
            "--out",
            model,
            "--steps",
            2,
            "--batch-size",
            3,
            "--channels",
            "8,8",
            "--learning-rate",
            0.01,
        ],
    ]
    told = [[str(word) for word in command] for command in wanted]
    if count == 1:
        results = [CliRunner().invoke(app, command) for command in told]
        assert not any(result.exit_code for result in results), results
        return
    worker = folder / "commands.py"
    worker.write_text(COMMANDS)
    process = launch(count, worker, json.dumps(told))
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0 and output.count("wrote the model") == 1, output


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes."""
    folder = tmp_path_factory.mktemp("processes")
    pixels = np.random.default_rng(0).integers(0, 256, (201, 28, 28), dtype=np.uint8)
    np.savez(folder / "images.npz", images=pixels)
    commands(folder, 1)
    return folder


def test_torchrun_fits_samples_and_trains_as_one_process_does(alone, count=3):
    """A batch of 4 is shared unevenly by 3; nothing tells accelerate of them, which would let each train alone."""
    commands(alone, count)
    one, several = (ls.load_prior(alone / f"prior-{k}.safetensors") for k in (1, count))
    assert several.count == 201
    torch.testing.assert_close(several.mean, one.mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(several.variances, one.variances, rtol=1e-6, atol=0)
    names = sorted(path.name for path in (alone / "samples-1").iterdir())
    assert len(names) == 9 and names == sorted(path.name for path in (alone / f"samples-{count}").iterdir())
    images, shared = (load_images(alone / f"samples-{k}").pixels.int() for k in (1, count))
    assert (images - shared).abs().max() <= 1
    sheet, shared_sheet = (read_png(alone / f"samples-{k}-sheet.png").int() for k in (1, count))
    assert sheet.shape == shared_sheet.shape and (sheet - shared_sheet).abs().max() <= 1
    a, b = (weights_of(alone / f"model-{k}") for k in (1, count))
    assert (a - b).norm() <= 1e-4 * a.norm()
    losses = [json.loads((alone / f"model-{k}" / "latestart.json").read_text())["training"]["loss"] for k in (1, count)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert not list(alone.glob("model-*/.*"))


def weights_of(folder):
    return torch.cat([weight.flatten() for weight in load_model(folder)[0].parameters()]).detach()


WORKER = """
import os, sys, time, torch
from pathlib import Path
from latestart.processes import processes

run = processes()
Path(sys.argv[1], str(run.index)).write_text(str(os.getpid()))
if run.index == 1:
    time.sleep(300)
run.total([torch.zeros(3)])
"""


def test_a_killed_process_ends_the_run_and_is_named(tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    process = launch(2, tmp_path / "worker.py", tmp_path)
    deadline = time.monotonic() + 120
    while not all((tmp_path / name).exists() and (tmp_path / name).read_text() for name in "01"):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    os.kill(int((tmp_path / "1").read_text()), signal.SIGKILL)
    killed = time.monotonic()
    output = process.communicate(timeout=60)[0]
    assert process.returncode != 0 and time.monotonic() - killed < 30
    assert re.search(r"rank *: 1 ", output) and "SIGKILL" in output


def test_what_is_left_waiting_says_so(monkeypatch):
    """gloo's own words for it are a stack trace that buries the error of the process that ended."""

    def closed(*_):
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr(torch.distributed, "all_reduce", closed)
    monkeypatch.setattr(torch.distributed, "all_gather_object", closed)
    run = Distributed(0, 2)
    for meet in (lambda: run.total([torch.ones(2)]), lambda: run.agree("it", 1)):
        with pytest.raises(ConnectionError, match="another process of this run has ended"):
            meet()
