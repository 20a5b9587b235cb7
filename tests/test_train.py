import json
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from latestart import train as training
from latestart.data import Images
from latestart.denoisers.folders import load_model
from latestart.denoisers.networks import from_diffusers
from latestart.features import Classifier
from latestart.gaussians.gaussian import Gaussian
from latestart.inputs.front import as_images
from latestart.noise import Noise
from latestart.processes import Processes
from latestart.sampling.generate import generate
from latestart.sampling.loop import draw
from latestart.train import train, train_classifier, training_schedule
from latestart.train_config import TrainConfig

TINY = {"batch_size": 8, "channels": (8, 8), "warmup": 2, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def squares():
    """Images of 8 x 8 with one bright square, left or right."""
    pixels = torch.zeros(32, 1, 8, 8, dtype=torch.uint8)
    labels = torch.arange(32) % 2
    for k in range(32):
        pixels[k, 0, k % 5 : k % 5 + 3, 4 * (k % 2) : 4 * (k % 2) + 3] = 255
    return Images(pixels, labels)


class _Stop(Exception):
    pass


@pytest.mark.parametrize("cut", [3, 7])
def test_a_run_cut_off_and_resumed_is_the_run_that_was_not(tmp_path, squares, cut):
    config = TrainConfig(steps=9, **TINY)

    def stop(step, steps, loss):
        if step == cut:
            raise _Stop

    whole = train(squares, tmp_path / "a", config, save_every=2)
    with pytest.raises(_Stop):
        train(squares, tmp_path / "b", config, save_every=2, progress=stop)
    seen = []
    resumed = train(squares, tmp_path / "b", config, save_every=2, progress=lambda step, *_: seen.append(step))
    assert seen[0] == (cut - 1) // 2 * 2 + 1
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_training_lowers_the_loss_below_the_best_constant(tmp_path, squares, prediction):
    """The best constant prediction of eps and of v (mean 0, variance about 1) has loss 1, that of x_0 its variance."""
    losses = []
    config = TrainConfig(steps=200, prediction=prediction, **TINY)
    train(squares, tmp_path, config, progress=lambda step, steps, loss: losses.append(loss))
    constant = squares.floats().var(0).mean().item() if prediction == "sample" else 0.9
    assert losses[-1] < 0.75 * losses[0]
    assert losses[-1] < constant
    record = json.loads((tmp_path / "latestart.json").read_text())["training"]
    assert (record["step"], record["prediction"]) == (200, prediction)
    assert math.isclose(record["loss"], losses[-1])


@pytest.mark.parametrize("cap", [1.0, 5.0, 1e9])
def test_a_capped_error_is_that_of_x_0_whatever_is_predicted(cap):
    """A wrong x_0 costs `min(SNR + 1, cap)` times its squared error, whether predicted as eps, as v or as x_0."""
    t, g = torch.tensor([1, 80, 400, 900]), torch.Generator().manual_seed(0)
    x_0, eps, wrong = (torch.randn(4, 1, 2, 2, generator=g, dtype=torch.float64) for _ in range(3))
    costs = {}
    for prediction in ("epsilon", "v_prediction", "sample"):
        config = TrainConfig(prediction=prediction, min_snr=cap)
        scheduler = training.training_schedule(config)
        x = scheduler.add_noise(x_0, eps, t)
        sigma = Noise.from_scheduler(scheduler).sigma(t).view(-1, 1, 1, 1)
        alpha = (1 + sigma**2) ** -0.5
        implied = (x - alpha * wrong) / (alpha * sigma)  # the eps that goes with the wrong x_0 at this x_t
        told = {"epsilon": implied, "v_prediction": alpha * implied - alpha * sigma * wrong, "sample": wrong}
        true = {"epsilon": eps, "v_prediction": alpha * eps - alpha * sigma * x_0, "sample": x_0}
        errors = (told[prediction] - true[prediction]).square().flatten(1).mean(1)
        costs[prediction] = errors * training._weights(t, scheduler, config)
    weights = (1 + sigma.flatten() ** -2).clamp(max=cap)
    expected = weights * (wrong - x_0).square().flatten(1).mean(1)
    for cost in costs.values():
        assert torch.allclose(cost, expected, rtol=1e-3)


def test_without_a_cap_the_capped_error_of_v_is_the_plain_one(tmp_path, squares):
    plain = train(squares, tmp_path / "a", TrainConfig(steps=3, prediction="v_prediction", **TINY))
    capped = train(squares, tmp_path / "b", TrainConfig(steps=3, prediction="v_prediction", min_snr=1e9, **TINY))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(plain.parameters(), capped.parameters()))


def test_what_is_kept_is_the_moving_average(tmp_path, squares):
    config = TrainConfig(steps=6, patch=2, **TINY)
    model = train(squares, tmp_path, config, save_every=3)
    kept = UNet2DModel.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), model.network.parameters()))
    opened, scheduler = load_model(tmp_path)
    assert opened.config.sample_size == (8, 8)
    assert scheduler.config.clip_sample is False
    from latestart.files import load_tensors

    state, _ = load_tensors(tmp_path / "training.safetensors", "training state")
    assert not torch.equal(state["ema.0"], state["parameter.0"])
    assert torch.equal(state["ema.0"], next(kept.parameters()))


def test_a_conditional_network_is_trained_on_its_labels(tmp_path, squares):
    model = train(squares, tmp_path, TrainConfig(steps=2, classes=2, **TINY))
    assert model.config.num_class_embeds == 2
    with pytest.raises(ValueError, match="the images have none"):
        train(Images(squares.pixels), tmp_path / "x", TrainConfig(steps=2, classes=2, **TINY))
    with pytest.raises(ValueError, match=r"labels run from 0 to 1, the network has 1 classes"):
        train(squares, tmp_path / "x", TrainConfig(steps=2, classes=1, **TINY))
    assert not (tmp_path / "x").exists()


def test_a_run_begins_from_a_model(tmp_path, squares):
    """At no learning rate to speak of, the model that it began from; and only one of the same build."""
    first = train(squares, tmp_path / "a", TrainConfig(steps=3, **TINY))
    still = {**TINY, "learning_rate": 1e-12}
    config = TrainConfig(steps=2, init=str(tmp_path / "a"), prediction="v_prediction", **still)
    second = train(squares, tmp_path / "b", config)
    for a, b in zip(first.parameters(), second.parameters()):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="of another build"):
        train(squares, tmp_path / "c", TrainConfig(steps=2, init=str(tmp_path / "a"), **{**TINY, "channels": (8, 16)}))


def test_a_run_of_other_images_is_not_resumed(tmp_path, squares):
    train(squares, tmp_path, TrainConfig(steps=2, **TINY))
    with pytest.raises(ValueError, match="another run: images"):
        train(squares[:31], tmp_path, TrainConfig(steps=2, **TINY))


def test_a_network_with_a_highest_level_never_sees_one_above_it(tmp_path, squares, monkeypatch):
    seen = []
    build = training.build_network

    def watched(*args):
        network = build(*args)
        network.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
        return network

    monkeypatch.setattr(training, "build_network", watched)
    train(squares, tmp_path, TrainConfig(steps=12, max_sigma=2.0, **TINY))
    noise = Noise.from_scheduler(DDPMScheduler())
    sigma = noise.sigma(torch.cat(seen).double())
    assert len(sigma) == 96 and 1.5 < sigma.max() <= 2.0 and sigma.min() < 0.3
    record = json.loads((tmp_path / "latestart.json").read_text())["training"]
    assert record["max_sigma"] == 2.0


def test_the_levels_of_a_network_are_those_that_it_was_trained_on(tmp_path, squares):
    """Its schedule is the whole one's beginning, bit by bit, and a start above it is refused."""
    train(squares, tmp_path, TrainConfig(steps=2, max_sigma=2.0, **TINY))
    model, scheduler = load_model(tmp_path)
    whole = DDPMScheduler()
    assert torch.equal(scheduler.alphas_cumprod, whole.alphas_cumprod[: len(scheduler.alphas_cumprod)])
    assert from_diffusers(model, scheduler).sigma_range[1] <= 2.0 < Noise.from_scheduler(whole).sigma(len(scheduler))
    prior = Gaussian.fit(squares.floats(), "diagonal")
    result = draw(model, scheduler, prior, 3, 3, len(scheduler))
    assert result.sigma == pytest.approx(2.0, rel=0.02)
    for sample in (draw, generate):
        for late, level in ((600, "6.135"), (len(scheduler) + 10, r"2\.\d+"), (None, "157.4")):
            told = rf"up to sigma = 2 only, and .* begins at sigma = {level}"
            for sampler in (scheduler, whole):
                with pytest.raises(ValueError, match=told):
                    sample(model, sampler, None if late is None else prior, 3, 3, late)


def test_networks_of_all_and_of_some_levels_see_the_same_images_and_noise(squares):
    some, every = (TrainConfig(max_sigma=sigma, **TINY) for sigma in (2.0, None))
    a, b = (training._draw(5, squares, training.training_schedule(config), config) for config in (some, every))
    assert torch.equal(a[0], b[0]) and torch.equal(a[3], b[3])
    assert a[2].max() < 400 < b[2].max()


def test_a_highest_level_below_the_schedule_is_refused():
    for bad in (0.001, -1.0):
        with pytest.raises(ValueError, match=r"leaves fewer than two noise levels.*schedule's 0\.01 to 157"):
            training_schedule(TrainConfig(max_sigma=bad))


def test_bad_settings_are_named(tmp_path, squares):
    with pytest.raises(ValueError, match="there is no prediction 'noise'"):
        TrainConfig(prediction="noise")
    for bad, message in (
        ({"steps": 0}, "steps=0: expected a whole number of at least 1"),
        ({"channels": ()}, "channels: expected at least one value"),
        ({"channels": (8, -8)}, r"channels=-8: expected a whole number of at least 1"),
        ({"ema_decay": 2.0}, r"received 2\.0 and 0\.001"),
        ({"min_snr": 0.5}, r"finite number of at least 1, received 0\.5"),
        ({"min_snr": math.inf}, r"received inf"),
        ({"mixed_precision": "fp16"}, "there is no mixed-precision 'fp16'; there are no, bf16"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainConfig(**bad)
    with pytest.raises(ValueError, match=r"8 x 8 .* multiples of 12"):
        train(squares, tmp_path, TrainConfig(patch=3, channels=(8, 8, 8)))
    train(squares, tmp_path, TrainConfig(steps=2, **TINY))
    with pytest.raises(ValueError, match=r"another run: seed 0 \(now 1\)"):
        train(squares, tmp_path, TrainConfig(steps=2, seed=1, **TINY))


@pytest.mark.parametrize("prediction", ["epsilon", "sample"])
@pytest.mark.parametrize("count", [2, 3, 8])
def test_the_gradients_of_all_processes_average_to_that_of_the_whole_batch(
    tmp_path, squares, monkeypatch, prediction, count
):
    """Whatever the shares: 8 images on 3 processes are 3, 3 and 2."""
    config = TrainConfig(steps=2, prediction=prediction, min_snr=5.0, **TINY)

    def of(index, number):
        network = training.build_network(squares.shape, config)
        training._initialise(network, torch.Generator().manual_seed(0))
        found = []
        optimizer = SimpleNamespace(
            param_groups=[], zero_grad=lambda: None, step=lambda: found.extend(p.grad for p in network.parameters())
        )
        accelerator = SimpleNamespace(
            process_index=index,
            num_processes=number,
            device="cpu",
            autocast=nullcontext,
            backward=lambda loss: loss.backward(),
            clip_grad_norm_=lambda *_: None,
            reduce=lambda value, reduction: value,
        )
        scheduler = training.training_schedule(config)
        known = {"images": squares, "out": tmp_path, "config": config, "network": network, "scheduler": scheduler}
        run = training._Run(**known, processes=Processes())
        run.accelerator = accelerator
        return training._step(3, run, network, optimizer), torch.cat([g.flatten() for g in found])

    loss, gradient = of(0, 1)
    losses, gradients = zip(*(of(k, count) for k in range(count)))
    assert sum(losses) / count == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(torch.stack(gradients).mean(0), gradient, rtol=1e-4, atol=1e-6 * float(gradient.norm()))


def test_a_batch_that_leaves_a_process_without_images_is_named(tmp_path, squares, monkeypatch):
    monkeypatch.setattr(training, "processes", lambda: Processes(0, 9))
    with pytest.raises(ValueError, match="a batch of 8 cannot be shared by 9 processes"):
        train(squares, tmp_path / "out", TrainConfig(steps=2, **TINY))
    assert not (tmp_path / "out").exists()


def test_processes_that_do_not_know_of_each_other_never_train_alone(tmp_path, squares, monkeypatch):
    monkeypatch.setattr(training, "processes", lambda: Processes(0, 2))
    with pytest.raises(RuntimeError, match="knows of 1 processes, this run has 2: each would train alone"):
        train(squares, tmp_path, TrainConfig(steps=2, **TINY))


def test_a_folder_that_another_run_trains_into_is_refused_until_it_ends(tmp_path, squares):
    config = TrainConfig(steps=2, **TINY)

    def meanwhile(step, *_):
        if step == 1:
            with pytest.raises(ValueError, match=f"another process trains into {tmp_path} now"):
                train(squares, tmp_path, config)

    train(squares, tmp_path, config, progress=meanwhile)
    assert not list(tmp_path.glob(".*"))
    train(squares, tmp_path, config)


def test_training_takes_what_priors_take(tmp_path, squares):
    """Pictures with labels in a list, and floats of a known range, give the network of the same images in memory."""
    config = TrainConfig(steps=3, classes=2, **TINY)
    whole = train(squares, tmp_path / "0", config)
    units = squares.unit()
    forms = (
        [(Image.fromarray(pixels[0].numpy()), int(label)) for pixels, label in zip(squares.pixels, squares.labels)],
        DataLoader(TensorDataset(2 * units - 1, squares.labels), batch_size=5),
        as_images(units, squares.labels, value_range=(0, 1)),
    )
    for k, form in enumerate(forms, 1):
        other = train(form, tmp_path / str(k), config)
        for one, two in zip(whole.parameters(), other.parameters()):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    with pytest.warns(UserWarning, match=r"most models work on \[-1, 1\]"):
        train(units, tmp_path / "units", TrainConfig(steps=1, **TINY))
    with pytest.raises(ValueError, match=r"images \(C, H, W\), received \(64,\)"):
        train(units.flatten(1), tmp_path / "flat", TrainConfig(steps=1, **TINY))
    with pytest.raises(ValueError, match="NaN"):
        train(torch.full((9, 1, 8, 8), torch.nan), tmp_path / "nan", TrainConfig(steps=1, **TINY))
    assert not (tmp_path / "flat").exists() and not (tmp_path / "nan").exists()


def test_a_classifier_takes_pairs_of_pictures_and_labels(squares):
    pairs = [(pixels, int(label)) for pixels, label in zip(squares.floats(), squares.labels)]
    one, two = (train_classifier(form, epochs=2, batch_size=8) for form in (squares, pairs))
    for a, b in zip(one.parameters(), two.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_a_classifier_learns_and_survives_saving(tmp_path, squares):
    model = train_classifier(squares, epochs=30, batch_size=8)
    model.save(tmp_path / "c.safetensors")
    loaded = Classifier.load(tmp_path / "c.safetensors")
    with torch.inference_mode():
        logits = loaded(squares.floats())
        assert (logits.argmax(1) == squares.labels).float().mean() > 0.95
        torch.testing.assert_close(logits, model(squares.floats()), rtol=1e-2, atol=2e-2)
    with pytest.raises(ValueError, match="needs labels"):
        train_classifier(Images(squares.pixels))
