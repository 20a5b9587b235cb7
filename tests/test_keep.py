"""`tools/keep.py`: what is kept is the model that was trained, in half precision, and its record names no folders."""

import json
from functools import partial

import pytest
import torch

import latestart as ls
from latestart.data import Images
from latestart.denoisers.folders import load_model
from latestart.train import train
from latestart.train_config import TrainConfig

TINY = {"steps": 1, "batch_size": 4, "channels": (8, 8), "prediction": "v_prediction"}


@pytest.fixture
def run(tool):
    return partial(tool, "keep.py")


@pytest.fixture
def trained(tmp_path):
    images = Images(torch.randint(0, 256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte())
    gaussian = tmp_path / "deep" / "gaussian.safetensors"
    gaussian.parent.mkdir()
    ls.Gaussian.fit(images.batches(), basis="lowrank").save(gaussian)
    train(images, tmp_path / "first", TrainConfig(**TINY))
    config = TrainConfig(**TINY, init=str(tmp_path / "first"), around=str(gaussian))
    train(images, tmp_path / "model", config)
    return tmp_path / "model"


def test_a_model_is_kept_with_what_lies_beside_it(run, trained, tmp_path):
    prior = tmp_path / "prior.safetensors"
    prior.write_bytes(b"prior")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "README.md").write_text("the card")
    run(trained, kept, prior)
    (network, scheduler), (full, _) = load_model(kept), load_model(trained)
    x, t = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([10, 700])
    with torch.inference_mode():
        torch.testing.assert_close(network(x, t).sample, full(x, t).sample, rtol=1e-2, atol=1e-2)
    assert scheduler.config.prediction_type == "v_prediction"
    assert (kept / "prior.safetensors").read_bytes() == b"prior" and (kept / "README.md").read_text() == "the card"
    weights = "diffusion_pytorch_model.safetensors"
    assert (kept / weights).stat().st_size < 0.6 * (trained / weights).stat().st_size
    record = json.loads((kept / "latestart.json").read_text())
    assert record["training"]["init"] == "first" and record["training"]["around"] == "gaussian.safetensors"
    assert str(tmp_path) not in (kept / "latestart.json").read_text()


@pytest.mark.parametrize("case", ["none", "large"])
def test_mistakes_are_told_in_a_line_and_nothing_is_copied(run, trained, tmp_path, capsys, case):
    large = tmp_path / "large.safetensors"
    with large.open("wb") as file:
        file.truncate(17 * 2**20)
    arguments = {"none": (tmp_path / "empty", tmp_path / "kept"), "large": (trained, tmp_path / "kept", large)}[case]
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    assert stopped.value.code == 2 and not (tmp_path / "kept").exists()
    told = {"none": "expected a folder with a diffusers model", "large": "takes 17.0 MiB, expected at most 16"}[case]
    assert told in capsys.readouterr().err
