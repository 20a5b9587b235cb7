import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from latestart import data, device, zoo
from latestart.cli import app
from latestart.data import load_images, read_png, save_png
from latestart.gaussians.priors import load_prior

runner = CliRunner()


def _run(*args):
    return runner.invoke(app, [str(a) for a in args], env={"COLUMNS": "200"})


@pytest.fixture
def folder(tmp_path):
    g = torch.Generator().manual_seed(0)
    for k in range(40):
        save_png(tmp_path / "images" / f"{k}.png", torch.randint(0, 256, (1, 8, 8), generator=g, dtype=torch.uint8))
    return tmp_path / "images"


def test_help_loads_nothing_heavy():
    heavy = ("torch", "diffusers", "numpy", "scipy", "matplotlib", "pyarrow", "PIL")
    code = (
        "import sys, latestart\nfrom latestart.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        f"print('LOADED', [m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "LOADED []" in out
    for command in ("demo", "fit", "sample", "train"):
        assert command in out


@pytest.mark.parametrize("command", ["demo", "fit", "sample", "train"])
def test_every_command_shows_an_example(command):
    result = _run(command, "--help")
    assert result.exit_code == 0
    assert f"latestart {command}" in result.output.split("Example:")[1]


def test_fit_writes_the_prior_of_the_images(tmp_path, folder):
    result = _run("fit", folder, "--out", tmp_path / "prior.safetensors", "--basis", "diagonal")
    assert result.exit_code == 0, result.output
    assert "diagonal Gaussian to 40 images (1, 8, 8)" in result.output
    prior, floats = load_prior(tmp_path / "prior.safetensors"), load_images(folder).floats()
    torch.testing.assert_close(prior.mean, floats.mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(prior.variances.float(), floats.flatten(1).var(0), rtol=1e-5, atol=1e-6)


@pytest.fixture
def labelled(tmp_path):
    """500 images in two classes that differ in brightness, as npz."""
    g = np.random.default_rng(0)
    labels = np.arange(500) % 2
    pixels = (60 + 120 * labels[:, None, None] + 12 * g.standard_normal((500, 6, 6))).clip(0, 255).astype(np.uint8)
    np.savez(tmp_path / "images.npz", images=pixels, labels=labels)
    return tmp_path / "images.npz"


@pytest.mark.parametrize(
    ("options", "components", "classes"),
    [
        (("--components", 2), 2, None),
        (("--by-label",), 2, [0, 1]),
    ],
)
def test_fit_writes_a_mixture(tmp_path, labelled, options, components, classes):
    result = _run("fit", labelled, "--out", tmp_path / "m.safetensors", "--basis", "diagonal", *options)
    assert result.exit_code == 0, result.output
    assert f"a mixture of {components} diagonal Gaussians to 500 images" in result.output
    mixture = load_prior(tmp_path / "m.safetensors")
    assert len(mixture.components) == components
    assert (mixture.labels.tolist() if mixture.labels is not None else None) == classes
    means = sorted(float(c.mean.mean()) for c in mixture.components)
    assert means[0] == pytest.approx(60 / 127.5 - 1, abs=0.1) and means[-1] == pytest.approx(180 / 127.5 - 1, abs=0.1)


def test_fit_takes_every_combination_of_attributes_that_occurs(tmp_path):
    """Two attributes with one pair of values that never occurs give three Gaussians, each of its own images."""
    g = np.random.default_rng(0)
    bright, rough = np.arange(600) % 2, np.arange(600) // 2 % 2
    kept = (bright | rough) == 1
    bright, rough = bright[kept], rough[kept]
    noise = g.standard_normal((len(bright), 6, 6)) * (4 + 16 * rough[:, None, None])
    pixels = (60 + 120 * bright[:, None, None] + noise).clip(0, 255).astype(np.uint8)
    np.savez(tmp_path / "known.npz", images=pixels, labels=bright, bright=bright, rough=rough)
    options = ("--out", tmp_path / "m.safetensors", "--basis", "isotropic")
    result = _run("fit", tmp_path / "known.npz", "--by-attribute", *options)
    assert result.exit_code == 0, result.output
    assert "3 combinations of bright, rough, of 150 to 150 images each" in result.output
    mixture = load_prior(tmp_path / "m.safetensors")
    assert mixture.labels is not None and mixture.labels.tolist() == [0, 1, 2]
    for component, of in zip(mixture.components, ((0, 1), (1, 0), (1, 1)), strict=True):
        own = pixels[(bright == of[0]) & (rough == of[1])] / 127.5 - 1
        assert float(component.mean.mean()) == pytest.approx(own.mean(), abs=1e-3)
    spread = [float(component.variances.mean()) for component in mixture.components]
    assert spread[1] < 0.5 * min(spread[0], spread[2])  # of the flat, though shrunk to what is common
    np.savez(tmp_path / "labels.npz", images=pixels, labels=bright)
    without = _run("fit", tmp_path / "labels.npz", "--by-attribute", *options)
    assert without.exit_code == 2 and "names no attributes: expected an npz file" in without.output
    both = _run("fit", tmp_path / "known.npz", "--by-attribute", "--by-label", *options)
    assert both.exit_code == 2 and "one of --by-label and --by-attribute" in both.output


def test_fit_chooses_the_number_of_components(tmp_path):
    g, bright = np.random.default_rng(1), np.arange(2000)[:, None, None] % 2
    pixels = (60 + 120 * bright + 12 * g.standard_normal((2000, 6, 6))).clip(0, 255).astype(np.uint8)
    np.savez(tmp_path / "more.npz", images=pixels)
    options = ("--components", "auto", "--sigma", 0.2, "--basis", "isotropic")
    result = _run("fit", tmp_path / "more.npz", "--out", tmp_path / "m.safetensors", *options)
    assert result.exit_code == 0, result.output
    assert "2 components: held-out log-density" in result.output
    assert len(load_prior(tmp_path / "m.safetensors").components) == 2
    without = _run("fit", tmp_path / "more.npz", "--out", tmp_path / "m.safetensors", "--by-label")
    assert without.exit_code == 2 and "--by-label needs images with labels" in without.output


@pytest.fixture
def four_clusters(tmp_path):
    """2,100 images of 64 values in four clusters."""
    g = np.random.default_rng(0)
    centres = g.uniform(60, 200, (4, 8, 8))
    pixels = (centres[np.arange(2100) % 4] + 15 * g.standard_normal((2100, 8, 8))).clip(0, 255).astype(np.uint8)
    np.savez(tmp_path / "clusters.npz", images=pixels)
    return tmp_path / "clusters.npz"


def test_a_rank_does_not_stand_in_the_way_of_auto(tmp_path, four_clusters):
    """The basis that auto chooses has no rank: the number of components stays, and a line says so."""
    out = tmp_path / "m.safetensors"
    auto = ("fit", four_clusters, "--components", "auto", "--sigma", 0.1, "--out", out)
    plain, ranked = _run(*auto), _run(*auto, "--rank", 10)
    assert ranked.exit_code == 0 and ranked.stdout == plain.stdout, ranked.output
    assert "of 2 dense Gaussians" in ranked.stdout or "of 5 dense Gaussians" in ranked.stdout
    assert _run("fit", four_clusters, "--components", 3, "--rank", 10, "--out", out).exit_code == 0
    assert len(load_prior(out).components) == 3
    for more in ((), ("--components", 3), ("--components", "auto")):
        result = _run("fit", four_clusters, "--rank", 65, *more, "--out", tmp_path / "none")
        assert result.exit_code == 2 and "rank from 1 to 64" in result.output, result.output
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("options", [(), ("--components", 3), ("--components", "auto")], ids=str)
def test_images_become_numbers_a_batch_at_a_time(tmp_path, four_clusters, options, monkeypatch):
    """2,100 of them are never numbers all at once."""
    sizes = []
    to_floats = data.to_floats
    monkeypatch.setattr(data, "to_floats", lambda pixels: sizes.append(len(pixels)) or to_floats(pixels))
    out = tmp_path / "m.safetensors"
    result = _run("fit", four_clusters, "--basis", "diagonal", *options, "--out", out)
    assert result.exit_code == 0, result.output
    assert load_prior(out).count >= 1890 and max(sizes) <= 1024


@pytest.mark.parametrize("options", [(), ("--components", 1), ("--components", 2), ("--components", "auto")], ids=str)
def test_images_that_are_all_the_same_are_refused(tmp_path, options):
    np.savez(tmp_path / "const.npz", images=np.full((2000, 8, 8, 3), 77, dtype=np.uint8))
    result = _run("fit", tmp_path / "const.npz", *options, "--out", tmp_path / "p.safetensors")
    assert result.exit_code == 2 and "images are the same" in result.output, result.output
    assert not (tmp_path / "p.safetensors").exists()


@pytest.mark.parametrize("options", ["--basis dense", "--basis cosine+dense", "--basis lowrank", "--components 2"])
def test_a_fit_of_the_same_images_is_the_same_file(tmp_path, labelled, options):
    """Two fits write the same bytes, so results kept under the hash of a prior's file are found again."""
    files = [tmp_path / f"{k}.safetensors" for k in range(4)]
    for out in files:
        assert _run("fit", labelled, *options.split(), "--out", out).exit_code == 0
    assert len({out.read_bytes() for out in files}) == 1


@pytest.mark.parametrize(("rank", "expected"), [("0", "cuda:0"), ("1", "cuda:1"), ("5", "cuda:1"), (None, "cuda:0")])
def test_a_process_works_on_its_own_gpu(rank, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", rank) if rank else monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert device.own_device() == torch.device(expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.own_device() == torch.device("cpu")


@pytest.mark.parametrize("command", ["fit", "fit --components 2", "sample", "sample --prior mixture --t-start 400"])
def test_the_commands_work_on_the_device_of_their_process(tmp_path, labelled, command, monkeypatch):
    """Tensors on `meta` have no values, so that work on them ends in an error that names it."""
    monkeypatch.setattr(device, "own_device", lambda: torch.device("meta"))
    monkeypatch.setattr(zoo, "_bundle", zoo._bundle.__wrapped__)  # which would stay there
    name, *more = command.split()
    result = _run(name, labelled if name == "fit" else "mnist", *more, "--out", tmp_path / "out")
    assert "meta" in f"{result.exception}{result.output}", result.output
    assert result.exit_code != 0


def test_train_then_sample(tmp_path, folder):
    train = ("train", folder, "--out", tmp_path / "m", "--steps", 2, "--batch-size", 4, "--channels", "8,8")
    assert _run(*train).exit_code == 0
    result = _run("sample", tmp_path / "m", "--steps", 3, "-n", 5, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "5 images, 3 network evaluations each" in result.output
    assert len(list((tmp_path / "out").glob("0*.png"))) == 5
    assert read_png(tmp_path / "out" / "00004.png").shape == (1, 8, 8)


@pytest.mark.parametrize("how", ["by name", "from the mixture", "from a folder, with a prior of one's own"])
def test_a_model_samples_late(tmp_path, how):
    model, more = "mnist", () if how == "by name" else ("--prior", "mixture")
    if how.startswith("from a folder"):
        bundle = zoo.load("mnist")
        save_png(tmp_path / "images" / "0.png", bundle.images("train").pixels[0])
        np.savez(tmp_path / "images.npz", images=bundle.images("train").pixels.numpy())
        assert _run("fit", tmp_path / "images.npz", "--out", tmp_path / "p.safetensors").exit_code == 0
        model, more = bundle.path, ("--prior", tmp_path / "p.safetensors")
    result = _run("sample", model, *more, "--t-start", 400, "--steps", 3, "-n", 4, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    pixels = torch.stack([read_png(tmp_path / "out" / f"{k:05d}.png") for k in range(4)]).float()
    assert (pixels < 20).float().mean() > 0.5  # mostly black, as digits are
    assert (pixels.flatten(1).amax(1) > 200).all()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("fit", "nowhere", "--out", "x.safetensors"), "nowhere"),
        (("fit", ".", "--components", "2,3", "--out", "x"), "components is one whole number or auto, received '2,3'"),
        (("fit", ".", "--components", "many", "--out", "x"), "one whole number or auto, received 'many'"),
        (("sample", "nowhere", "--out", "x"), "nowhere"),
        (("sample", "mnist", "--t-start", "2", "--steps", "5", "--out", "x"), "leaves no time for 5 steps"),
        (("sample", "mnist", "--t-start", "2000", "--out", "x"), "2000"),
        (("sample", "mnist", "--sampler", "magic", "--out", "x"), "no sampler 'magic'"),
        (("sample", "mnist", "--sampler", "pndm", "--clip", "--out", "x"), "has no setting clip_sample"),
        (("train", ".", "--out", "x", "--channels", "8,a"), "channels: expected whole numbers, received 'a'"),
        (("train", "nowhere", "--out", "x"), "nowhere"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    result = _run(*args)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output
    assert not list(tmp_path.iterdir())


def test_a_damaged_model_folder_is_refused(tmp_path):
    bundle = zoo.load("mnist")
    folder = tmp_path / "m"
    weights = folder / "diffusion_pytorch_model.safetensors"
    config = json.loads((bundle.path / "config.json").read_text())
    for damage in (
        lambda: weights.write_bytes(weights.read_bytes()[:-50]),
        lambda: weights.unlink(),
        lambda: save_file({"a": torch.zeros(2)}, weights),
        lambda: (folder / "config.json").write_text("{"),
        lambda: (folder / "config.json").write_text(json.dumps({**config, "_class_name": "UNet2DConditionModel"})),
        lambda: (folder / "latestart.json").write_text("{}"),
    ):
        shutil.copytree(bundle.path, folder)
        damage()
        result = _run("sample", folder, "--steps", 2, "-n", 1, "--out", tmp_path / "out")
        assert result.exit_code == 2, result.output
        assert str(folder) in result.output.replace("\n", "")
        assert not (tmp_path / "out").exists()
        shutil.rmtree(folder)


def test_a_file_in_the_way_is_told_before_the_work(tmp_path, folder):
    (tmp_path / "file").write_text("")
    for args in (("demo",), ("sample", "mnist"), ("train", folder)):
        result = _run(*args, "--out", tmp_path / "file" / "x")
        assert result.exit_code == 2
        assert "expected a folder to write to" in result.output
    assert _run("fit", folder, "--out", tmp_path).exit_code == 2


def test_a_damaged_prior_is_refused(tmp_path, folder):
    (tmp_path / "p.safetensors").write_bytes(b"\x80\x04 not a prior")
    result = _run("sample", "mnist", "--prior", tmp_path / "p.safetensors", "--t-start", 400, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "never loaded" in result.output
    np.savez(tmp_path / "x.npz", images=np.full((3, 8, 8), np.nan))
    result = _run("fit", tmp_path / "x.npz", "--out", tmp_path / "q.safetensors")
    assert result.exit_code == 2
    assert "192 values that are NaN" in result.output
    assert not (tmp_path / "q.safetensors").exists()
