"""The attribute classifier: what it learns, what it says of its errors, and its file."""

import numpy as np
import pytest
import torch
import typer
from scipy import stats
from typer.testing import CliRunner

from latestart.classifiers.attributes import (
    AttributeClassifier,
    averaged,
    averaged_shape,
    counted,
    scores,
    train_attributes,
)
from latestart.classifiers.known import Known, combined, known_attributes, load_known
from latestart.cli.attributes import attributes, classifier
from latestart.data import Images
from latestart.features import Classifier

VALUES = {"tone": ("dark", "middle", "light"), "mark": ("none", "mark")}


def _pictures(n, seed=0):
    """Squares of three tones, with or without a bright cross in the middle, among some noise."""
    random = torch.Generator().manual_seed(seed)
    tone, mark = (torch.randint(k, (n,), generator=random) for k in (3, 2))
    pixels = (50 + 60 * tone).view(-1, 1, 1, 1).expand(-1, 1, 16, 16).clone().float()
    pixels[mark == 1, :, 7:9, 3:13] = 250
    pixels[mark == 1, :, 3:13, 7:9] = 250
    pixels += 8 * torch.randn(pixels.shape, generator=random)
    return Known(Images(pixels.clamp(0, 255).byte()), VALUES, {"tone": tone, "mark": mark})


@pytest.fixture(scope="module")
def reader():
    return train_attributes(_pictures(600), epochs=6, batch_size=32)


def test_every_attribute_is_learned_and_scored_on_pictures_that_it_has_not_seen(reader):
    assert {name: int(score.counts.sum()) for name, score in reader.scores.items()} == {"tone": 60, "mark": 60}
    found = scores(reader, _pictures(200, seed=1))
    assert all(score.accuracy.value > 0.97 for score in (*found.values(), *reader.scores.values()))


def test_noise_of_few_steps_does_not_mislead_it(reader):
    """Under noise of 0.2 in [-1, 1], which is a third of the step between two tones, it still reads them."""
    known = _pictures(200, seed=2)
    noise = torch.randn(known.images.pixels.shape, generator=torch.Generator().manual_seed(3))
    said = reader((known.images.unit() + 0.1 * noise).clamp(0, 1))
    for name, index in known.attributes.items():
        assert (said[name].argmax(1) == index).double().mean() > 0.9


def test_probabilities_of_each_attribute_sum_to_1(reader):
    said = reader(_pictures(20, seed=4).images.unit())
    assert {name: tuple(part.shape) for name, part in said.items()} == {"tone": (20, 3), "mark": (20, 2)}
    for part in said.values():
        torch.testing.assert_close(part.sum(1), torch.ones(20))


def test_the_file_keeps_weights_values_and_scores(reader, tmp_path):
    reader.save(tmp_path / "attributes.safetensors")
    again = AttributeClassifier.load(tmp_path / "attributes.safetensors")
    assert again.values == VALUES and again.shape == (1, 16, 16)
    assert {name: score.record() for name, score in again.scores.items()} == {
        name: score.record() for name, score in reader.scores.items()
    }
    images = _pictures(30, seed=5).images.unit()
    for name, part in again(images).items():
        torch.testing.assert_close(part, reader(images)[name], atol=5e-3, rtol=0)  # kept in half precision
    twice = AttributeClassifier.load(tmp_path / "attributes.safetensors")
    assert twice.name == again.name and twice.name.startswith("attributes-")


def test_the_same_seed_trains_the_same_classifier():
    one, other, third = (train_attributes(_pictures(140), 1, batch_size=32, seed=seed) for seed in (0, 0, 1))
    assert one.name == other.name != third.name


def test_accuracy_interval_and_bias_are_those_by_hand():
    true, said = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2]), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
    score = counted(true, said, ("a", "b", "c"))
    assert score.counts.tolist() == [[3, 1, 0], [0, 2, 1], [0, 0, 3]]
    assert score.accuracy.value == 0.8
    low, high = stats.binomtest(8, 10).proportion_ci(method="wilson")
    assert (score.accuracy.low, score.accuracy.high) == pytest.approx((low, high))
    assert score.bias == pytest.approx(0.1)  # shares 0.4, 0.3, 0.3 are read as 0.3, 0.3, 0.4
    assert score.record()["said_by_true_value"]["b"] == [0, 2, 1]


def test_large_pictures_are_averaged_over_blocks():
    x = torch.arange(64 * 64).view(1, 1, 64, 64).float()
    small = averaged(x)
    assert tuple(small.shape[1:]) == averaged_shape((1, 64, 64)) == (1, 32, 32)
    assert small[0, 0, 0, 0] == (0 + 1 + 64 + 65) / 4
    for shape in ((3, 28, 28), (1, 16, 40)):
        assert averaged_shape(shape) == shape


def _write(path, **arrays):
    known = _pictures(8)
    pixels = known.images.pixels.movedim(1, -1).numpy()
    np.savez(path, images=pixels, **arrays)
    return path


def test_attributes_are_read_from_the_file(tmp_path):
    path = _write(tmp_path / "faces.npz", labels=np.zeros(8, int), glasses=np.arange(8) % 2, other=np.arange(8) % 5)
    known = load_known(path, limit=6)
    assert len(known.images) == 6
    assert known.values == {"glasses": ("none", "glasses"), "other": ("0", "1", "2", "3", "4")}
    assert known.attributes["other"].tolist() == [0, 1, 2, 3, 4, 0]
    assert known_attributes(tmp_path / "x.parquet", 8) == {}
    labelled = load_known(_write(tmp_path / "labelled.npz", labels=np.arange(8) % 3))
    assert labelled.values == {"class": ("0", "1", "2")}
    assert set(load_known(tmp_path / "labelled.npz", label="digit").values) == {"digit"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda path: load_known(_write(path)), "names no attributes"),
        (
            lambda path: load_known(_write(path, glasses=np.zeros(3, int))),
            r"received int64 of the shape \(3,\)",
        ),
        (lambda path: load_known(_write(path, glasses=np.zeros(10, int))), r"received int64 of the shape \(10,\)"),
        (
            lambda path: load_known(_write(path, glasses=np.full(8, 0.5))),
            "8 images as glasses, received float64",
        ),
        (lambda path: load_known(_write(path, glasses=np.arange(8) - 1)), r"int64 of the shape \(8,\), some below 0"),
        (lambda path: load_known(_write(path, age=np.array(["old"] * 8))), "as age, received <U3"),
        (lambda path: load_known(_write(path, labels=np.arange(8)), label=None), "expected an npz file with an array"),
        (lambda path: combined(load_known(_write(path, number=np.arange(8)))), r"number \(8 values\) have 8 combin"),
        (lambda path: train_attributes(_pictures(90)), "at least 128 pictures"),
        (lambda path: AttributeClassifier.load(_write(path)), "attribute-classifier file"),
    ],
)
def test_mistakes_are_named(tmp_path, call, message):
    with pytest.raises(ValueError, match=message):
        call(tmp_path / "file.npz")


def test_a_classifier_is_for_its_own_shape(reader):
    with pytest.raises(ValueError, match=r"for images \(1, 16, 16\), received \(1, 8, 8\)"):
        reader(torch.rand(2, 1, 8, 8))
    with pytest.raises(ValueError, match="does not read"):
        AttributeClassifier(reader.network, (1, 16, 16), {"tone": ("a", "b")}, {})


def _save(path, known):
    pixels = known.images.pixels.movedim(1, -1).numpy()
    np.savez(path, images=pixels, **{name: index.numpy() for name, index in known.attributes.items()})
    return pixels


def _run(command, *args):
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "200"})


def test_the_command(tmp_path):
    known = _pictures(200)
    _save(tmp_path / "some.npz", known)

    out = tmp_path / "out" / "attributes.safetensors"
    result = _run(attributes, tmp_path / "some.npz", "--out", out, "--epochs", 1)
    assert result.exit_code == 0, result.output
    assert "of 20 held-out pictures" in result.output and f"wrote {out}" in result.output
    assert set(AttributeClassifier.load(out).values) == set(VALUES)
    wrong = _run(attributes, tmp_path / "some.npz", "--out", tmp_path / "x.npz")
    assert wrong.exit_code == 2 and "ends in .safetensors" in wrong.output


def test_every_combination_of_attributes_is_a_class():
    known = _pictures(200)
    labels = combined(known).labels
    assert len(labels.unique()) == 6
    for index in known.attributes.values():  # each class has one value of each attribute
        assert all(len(index[labels == label].unique()) == 1 for label in range(6))
    # of the combinations that there are: class indices leave no gap
    mark = known.attributes["mark"]
    told = combined(Known(known.images, VALUES, {"mark": mark, "same": mark})).labels
    assert torch.equal(told.unique(), torch.arange(2)) and torch.equal(told, mark)


def test_the_command_of_features(tmp_path):
    known = _pictures(600)
    pixels = _save(tmp_path / "some.npz", known)
    np.savez(tmp_path / "few.npz", images=pixels[:100], labels=np.arange(100) % 2)

    out = tmp_path / "out" / "classifier.safetensors"
    result = _run(classifier, tmp_path / "some.npz", "--out", out, "--epochs", 12)
    assert result.exit_code == 0, result.output
    trained, unseen = Classifier.load(out), _pictures(200, seed=1)
    said = trained.classify(unseen.images.batches())
    assert float((said == combined(unseen).labels).double().mean()) > 0.8
    right = float(result.output.split("% right")[0].splitlines()[-1])
    assert right > 80 and "of 60 held-out images" in result.output
    for wrong, told in (((tmp_path / "some.npz", "--out", tmp_path / "x"), "ends in .safetensors"),
                        ((tmp_path / "few.npz", "--out", out), "at least 128 images")):  # fmt: skip
        failed = _run(classifier, *wrong)
        assert failed.exit_code == 2 and told in failed.output
