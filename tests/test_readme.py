"""The README's lines of Python run as they stand, on a small model and a few images."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

import latestart as ls
from latestart.data import Images, save_png
from latestart.train import train
from latestart.train_config import TrainConfig
from tuned import bytes_of, checks, few, trained_unet

README = Path(__file__).parent.parent / "README.md"


def blocks(page=README):
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


def run(code, **names):
    exec(compile(code, "documentation", "exec"), names)
    return names


def test_the_block_on_the_shipped_model_runs_on_no_files_at_all(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run(blocks()[1])
    assert names["result"].images.shape == (64, 1, 28, 28) and names["result"].nfe == 3
    assert capsys.readouterr().out == f"{names['result']}\n"
    assert not list(tmp_path.iterdir())


def test_the_first_block_tunes_a_model_of_ones_own(monkeypatch, tmp_path, capsys):
    model, scheduler = trained_unet()
    scheduler.save_pretrained(tmp_path / "my-model/scheduler")
    for k, picture in enumerate(bytes_of(checks(840))):
        save_png(tmp_path / f"photos/{k}.png", picture)
    monkeypatch.chdir(tmp_path)
    code = blocks()[0].replace('UNet2DModel.from_pretrained("my-model")', "own").replace("=5)", "=5, budget=24_000)")
    with few(solvers=("ddim", "ddpm", "unipc"), ladder={"gaussian": (0.01, 0.1), "mixture": (0.1, 0.5)}):
        names = run(code, own=model)
    recipe, result = names["recipe"], names["result"]
    assert capsys.readouterr().out == f"{recipe}\n"
    assert result.nfe == recipe.nfe == 5 and result.images.shape == (64, 1, 8, 8)
    assert recipe.search["spent"] == pytest.approx(24_000, rel=0.02)
    assert ls.load_recipe("recipe.safetensors").way == recipe.way and Path("recipe.png").is_file()


def test_the_page_leads_with_tuning_on_the_shipped_model_and_then_on_ones_own():
    text = README.read_text()
    order = ("latestart tune mnist --steps 5", "latestart sample mnist --recipe", "latestart tune models/mine --images")
    places = [text.index(command) for command in (*order, "ls.tune(", "## What it gains")]
    assert places == sorted(places)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_block_on_late_start_runs_on_a_model_of_ones_own(monkeypatch, bars_model, dtype):
    model, bars = bars_model
    (code,) = blocks(README.parent / "docs/late-start.md")
    code = code.replace('("my-model")', f'("my-model", torch_dtype=torch.{str(dtype).removeprefix("torch.")})')
    monkeypatch.chdir(model)
    names = run(code)
    assert names["result"].images.shape == (64, 3, 8, 8)
    assert names["result"].nfe == 5
    assert names["model"].dtype == names["x"].dtype == dtype
    expected = bars.float().mean(0) / 255
    for images in (names["result"].images, (names["x"].float() / 2 + 0.5).clamp(0, 1)):
        # of a picture that is an eighth white; grey would be 0.37 away
        assert (images.mean(0) - expected).square().mean().sqrt() < 0.08
        assert images.std(0).mean() > 0.1


@pytest.fixture(scope="module")
def bars_model(tmp_path_factory):
    """A folder with a model and its photos: a bright bar, somewhere in the upper or the lower half."""
    folder = tmp_path_factory.mktemp("readme")
    bars = torch.zeros(300, 3, 8, 8, dtype=torch.uint8)
    for k in range(300):
        bars[k, :, k % 2 * 4 + k % 3] = 255
        save_png(folder / f"photos/{k}.png", bars[k])
    config = TrainConfig(steps=150, batch_size=16, channels=(16, 16), learning_rate=3e-3, ema_decay=0.9)
    train(Images(bars), folder / "my-model", replace(config, prediction="sample"))
    return folder, bars


def test_the_blocks_on_data_from_memory_run():
    array = np.random.default_rng(0).random((40, 8, 8, 3), dtype=np.float32)
    pictures = [Image.new("RGBA", (4, 4), (k, 0, 0, 128)) for k in range(40)]
    (code,) = blocks(README.parent / "docs/data.md")
    names = run(code, ls=ls, array=array, pictures=pictures, labels=torch.arange(40) % 4)
    assert names["prior"].shape == (3, 4, 4)
    assert names["images"].labels.tolist() == [k % 4 for k in range(40)]
    assert names["images"].collected().pixels[0, :, 0, 0].tolist() == [127, 127, 127]  # half of black on white


def test_the_blocks_on_the_prior_solver_run():
    (code,) = blocks(README.parent / "docs/solver.md")
    names = run(code)
    assert names["full"].nfe == 5 and names["late"].nfe == 3
    assert names["full"].images.shape == names["late"].images.shape == (16, 1, 28, 28)
    assert len(names["solver"].timesteps) == 3


def test_the_blocks_on_grids_run():
    (code,) = blocks(README.parent / "docs/grids.md")
    names = run(code)
    assert names["full"].nfe == 5 and names["full"].timesteps == names["grid"].times


def test_the_prior_of_ones_own_is_the_gaussian_that_its_words_say():
    code = blocks(README.parent / "docs/priors.md")[-1]
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    prior = ls.Gaussian.fit(torch.randn(400, 1, 3, 3, generator=torch.Generator().manual_seed(0)) / 2, "dense")
    names = run(code, ls=ls, prior=prior, scheduler=scheduler, model=ls.as_model(prior, scheduler))
    shrunk = ls.Gaussian(prior.mean, prior.basis, prior.variances * 0.81)
    expected = ls.generate(names["model"], scheduler, shrunk, steps=5, t_start=500)
    assert torch.allclose(names["result"].samples, expected.samples, atol=1e-5)
    y = torch.randn(7, 1, 3, 3)
    assert torch.allclose(names["Shrunk"](prior, 0.9)(y, 0.6), shrunk(y, 0.6), atol=1e-5)


def test_the_readme_names_the_commands_of_the_makefile():
    text, makefile = README.read_text(), (README.parent / "Makefile").read_text()
    for target in re.findall(r"`make (\w+)`|^make (\w+)", text, flags=re.MULTILINE):
        assert f"{''.join(target)}:" in makefile
