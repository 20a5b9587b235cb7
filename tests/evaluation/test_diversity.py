"""Diversity against hand-computed shares, the Vendi score against its axioms, and the adapters of classifiers."""

import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats

from latestart.data import Images
from latestart.evaluation.diversity import (
    DeepFaceClassifier,
    ProjectClassifier,
    TransformersClassifier,
    attribute,
    chance,
    diversity,
    ratio,
    vendi,
)
from latestart.features import Classifier


def _indices(*counts):
    return torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])


def _grey(values):
    """Images of one grey each, whose class a classifier can read."""
    return (values.float() / 10 + 0.05).view(-1, 1, 1, 1).expand(-1, 1, 4, 4)


def _read(images):
    return (images.mean((1, 2, 3)) * 10).long()


def test_shares_and_divergences_are_those_by_hand():
    found = attribute(_indices(6, 3, 1), _indices(2, 2, 4), ["a", "b", "c"])
    p, q = np.array([0.6, 0.3, 0.1]), np.array([0.25, 0.25, 0.5])
    assert [e.value for e in found.samples] == pytest.approx(p)
    assert [e.value for e in found.data] == pytest.approx(q)
    assert found.entropy.value == pytest.approx(stats.entropy(p))
    assert found.entropy_data.value == pytest.approx(stats.entropy(q))
    assert found.kl.value == pytest.approx(stats.entropy(p, q))
    assert found.total_variation.value == pytest.approx(0.4)
    for figure in (found.entropy, found.kl, found.total_variation, *found.samples):
        assert figure.low <= figure.value <= figure.high


def test_probabilities_count_in_parts_and_certain_ones_are_indices():
    soft = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
    assert attribute(soft, soft).samples[0].value == pytest.approx(0.7)
    hard = _indices(3, 5)
    certain = torch.nn.functional.one_hot(hard).double()
    assert attribute(certain, hard).record() == attribute(hard, hard).record()


def test_exact_shares_stand_as_they_are_and_leave_the_resamples_of_the_samples_alone():
    samples, shares = _indices(60, 30, 10), torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    found, sampled = attribute(samples, shares), attribute(samples, _indices(25, 25, 50))
    assert found.kl.value == pytest.approx(stats.entropy([0.6, 0.3, 0.1], shares.numpy()))
    assert found.total_variation.value == pytest.approx(0.4)
    assert [(one.low, one.value, one.high) for one in found.data] == [(q, q, q) for q in shares.tolist()]
    assert (found.entropy_data.low, found.entropy_data.high) == pytest.approx((stats.entropy(shares.numpy()),) * 2)
    assert found.samples == sampled.samples and found.entropy == sampled.entropy
    assert found.kl.high - found.kl.low < sampled.kl.high - sampled.kl.low  # one source of chance less


def test_shares_that_do_not_sum_to_1_are_neither_shares_nor_classes():
    with pytest.raises(ValueError, match=r"expected class indices .* received torch.float32 \(2,\) from 0.5 to 0.6"):
        attribute(_indices(3, 5), torch.tensor([0.5, 0.6]))


def test_a_value_that_is_absent_among_the_samples_costs_nothing_and_among_the_data_everything():
    absent = attribute(_indices(5, 0, 5), _indices(2, 2, 2))
    assert absent.kl.value == pytest.approx(math.log(1.5))
    new = attribute(_indices(2, 2, 2), _indices(5, 0, 5))
    assert new.kl.value == new.kl.high == math.inf
    assert new.total_variation.value == pytest.approx(1 / 3)
    assert new.record()["kl"]["value"] is None


def test_intervals_of_a_share_hold_it_as_often_as_they_say():
    """200 draws of 100 classes: 95% intervals hold the truth in about 95 of 100."""
    truth, held = torch.tensor([0.3, 0.7]), 0
    for seed in range(200):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.multinomial(truth, 100, replacement=True, generator=generator)
        share = attribute(drawn, _indices(1, 1), resamples=200).samples[0]
        held += share.low <= 0.3 <= share.high
    assert 180 <= held <= 198


def test_the_divergence_of_equal_shares_is_the_known_bias_and_its_interval_reaches_0():
    """2 n KL is chi-square with K - 1 degrees of freedom; with m data as many, its mean is (K - 1) (1/n + 1/m) / 2."""
    values, reached = [], 0
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        a, b = (torch.randint(4, (200,), generator=generator) for _ in range(2))
        found = attribute(a, b, resamples=100)
        values.append(found.kl.value)
        reached += found.kl.low <= 0.003
    assert chance(4, 200, 200) == 3 * (1 / 200 + 1 / 200) / 2
    assert np.mean(values) == pytest.approx(chance(4, 200, 200), rel=0.25)
    assert reached >= 90


def test_ratios_are_paired():
    data = _indices(100, 100)
    skewed, more = _indices(140, 60), _indices(160, 40)
    one, other = attribute(more, data), attribute(skewed, data)
    paired = ratio(one, other)
    assert paired.value == pytest.approx(one.kl.value / other.kl.value)
    assert paired.low > 1.2
    same = ratio(one, one)
    assert (same.low, same.value, same.high) == pytest.approx((1, 1, 1))
    exact = attribute(data, data)
    assert ratio(one, exact).value == math.inf and ratio(exact, one).value == ratio(exact, one).low == 0
    assert ratio(exact, exact).value == 1
    with pytest.raises(ValueError, match="'entrop'"):
        ratio(one, other, "entrop")
    with pytest.raises(ValueError, match="equal resamples"):
        ratio(one, attribute(skewed, data, resamples=20))


def test_vendi_of_equal_and_of_orthogonal_samples():
    assert vendi(torch.ones(20, 5), resamples=3).value == pytest.approx(1)
    assert vendi(torch.eye(12), resamples=3).value == pytest.approx(12)
    three = torch.eye(3).repeat(10, 1)  # three kinds, equally often
    assert vendi(three).value == pytest.approx(3)
    shares = np.array([0.7, 0.2, 0.1])
    uneven = torch.eye(3)[_indices(7, 2, 1)]
    assert vendi(uneven).value == pytest.approx(math.exp(stats.entropy(shares)))


def test_vendi_of_a_kernel_is_that_of_its_eigenvalues_and_the_cosine_is_one():
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))

    def cosine(rows):
        unit = rows / rows.norm(dim=1, keepdim=True)
        return unit @ unit.T

    by_features, by_kernel = vendi(features, resamples=20), vendi(features, cosine, resamples=20)
    values = np.linalg.eigvalsh(cosine(features.double()).numpy() / 30)
    expected = math.exp(-sum(v * math.log(v) for v in values if v > 1e-12))
    assert by_features.value == pytest.approx(expected)
    assert by_kernel.value == pytest.approx(expected, rel=1e-5)
    assert (by_features.low, by_features.high) == pytest.approx((by_kernel.low, by_kernel.high), rel=1e-5)
    assert by_features.low < by_features.value < by_features.high


def test_diversity_reads_attributes_of_images_and_meets_the_manifold():
    samples, data = _grey(_indices(40, 10, 0)), _grey(_indices(25, 0, 25))
    generator = torch.Generator().manual_seed(0)

    def features(images):
        return images.flatten(1)[:, :3] + 0.01 * torch.rand(len(images), 3, generator=generator)

    found = diversity(samples, data, _read, features, values=["dark", "middle", "light"], resamples=50)
    shares = found.record()["attributes"]["class"]["shares"]
    assert [shares[v]["samples"]["value"] for v in ("dark", "middle", "light")] == pytest.approx([0.8, 0.2, 0])
    assert found.attributes["class"].total_variation.value == pytest.approx(0.5)
    assert found.recall.value == pytest.approx(0.5, abs=0.1)  # the light half of the data is never sampled
    assert found.coverage.value == pytest.approx(0.5, abs=0.1)
    assert found.vendi.value > 1 and found.vendi_data.value > 1


def test_several_attributes_by_name_and_bytes_as_images():
    images = Images((_grey(_indices(3, 7)) * 255).round().byte())
    classifiers = {"level": _read, "even": lambda batch: 1 - _read(batch) % 2}
    found = diversity(images, images, classifiers, values={"even": ["odd", "even"]}, resamples=10)
    assert found.attributes["level"].values == ("0", "1")
    assert found.attributes["even"].values == ("odd", "even")
    assert found.attributes["even"].samples[1].value == pytest.approx(0.3)
    assert all(a.kl.value == 0 for a in found.attributes.values())
    assert found.vendi is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: diversity(torch.full((4, 1, 2, 2), 2.0), torch.rand(4, 1, 2, 2), _read), r"\[0, 1\]"),
        (lambda: attribute(torch.tensor([[3.0, -1.0]]), _indices(1)), "probabilities .* from -1 to 3"),
        (lambda: attribute(torch.tensor([-1, 2]), _indices(1)), "class indices"),
        (lambda: attribute(torch.tensor([0.5]), _indices(1)), "torch.float32"),
        (lambda: attribute(_indices(1, 1, 1), _indices(1), ["a", "b"]), "2 values were named .* received 3 classes"),
        (lambda: diversity(*[_grey(_indices(4))] * 2, lambda x: torch.zeros(1).long()), "gave 1 answers for 4 images"),
        (lambda: vendi(torch.rand(1, 3)), "at least 2 features"),
        (lambda: vendi(torch.zeros(3, 3)), "length 0"),
        (lambda: vendi(torch.rand(3, 3), lambda f: f), "ones on its diagonal"),
        (lambda: vendi(torch.rand(2, 3), lambda f: torch.tensor([[1.0, 3], [3, 1]])), "eigenvalue -1"),
        (lambda: DeepFaceClassifier("age"), "race, gender, emotion"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_projects_own_classifier(tmp_path):
    torch.manual_seed(0)
    network = Classifier((1, 8, 8), 3).eval()
    network.save(tmp_path / "classifier.safetensors")
    classify = ProjectClassifier(tmp_path / "classifier.safetensors", ["a", "b", "c"])
    images = torch.rand(6, 1, 8, 8)
    with torch.no_grad():
        expected = network(2 * images - 1).softmax(1)
    torch.testing.assert_close(classify(images), expected, atol=2e-3, rtol=0)  # saved in half precision
    assert diversity(images, images, classify, resamples=10).attributes["class"].values == ("a", "b", "c")
    with pytest.raises(ValueError, match="received"):
        classify(torch.rand(2, 3, 8, 8))


def test_any_classifier_of_transformers(tmp_path):
    import transformers

    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=16, patch_size=8,
        id2label={0: "none", 1: "glasses"}, label2id={"none": 0, "glasses": 1},
    )  # fmt: skip
    network = transformers.ViTForImageClassification(config).eval()
    network.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 16, "width": 16}, resample=0).save_pretrained(tmp_path)
    classify = TransformersClassifier(tmp_path)
    assert classify.values == ("none", "glasses")
    images = torch.rand(5, 3, 16, 16)
    with torch.no_grad():
        expected = network((images - 0.5) / 0.5).logits.softmax(1)
    torch.testing.assert_close(classify(images), expected, atol=1e-4, rtol=1e-4)
    grey = images[:, :1]
    torch.testing.assert_close(classify(grey), classify(grey.expand(-1, 3, -1, -1)))
    assert diversity(images, images, classify, resamples=10).attributes["class"].kl.value == 0


def test_a_missing_classifier_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        TransformersClassifier(tmp_path)


def test_what_deepface_is_handed_and_what_is_read_from_it(monkeypatch):
    """The adapter's own part, with a stand-in for the package: byte pixels in BGR order, percentages by name."""
    seen = []

    def analyze(pixels, actions, detector_backend, silent):
        seen.append((pixels, actions, detector_backend))
        return [{"gender": {"Man": 25.0, "Woman": 75.0}, "dominant_gender": "Woman"}]

    monkeypatch.setitem(
        __import__("sys").modules, "deepface", SimpleNamespace(DeepFace=SimpleNamespace(analyze=analyze))
    )
    images = torch.zeros(2, 3, 4, 5)
    images[:, 0] = 1.0  # red
    classify = DeepFaceClassifier("gender")
    torch.testing.assert_close(classify(images), torch.tensor([[0.75, 0.25]] * 2).double())
    assert classify.values == ("Woman", "Man")
    pixels, actions, backend = seen[0]
    assert pixels.shape == (4, 5, 3) and pixels.dtype == np.uint8
    assert (pixels[..., 2] == 255).all() and (pixels[..., :2] == 0).all()
    assert (actions, backend) == (["gender"], "skip")


def test_deepface_itself():
    """Runs where the package and its weights are present."""
    pytest.importorskip("deepface")
    weights = Path(os.environ.get("DEEPFACE_HOME", Path.home())) / ".deepface/weights/gender_model_weights.h5"
    if not weights.is_file():
        pytest.skip(f"the weights of deepface are not at {weights}")
    said = DeepFaceClassifier("gender")(torch.rand(1, 3, 112, 112))
    assert float(said.sum()) == pytest.approx(1)
