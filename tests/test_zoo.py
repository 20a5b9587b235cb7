import pytest
import torch

from latestart import zoo
from latestart.evaluation.quality import feature_statistics


@pytest.fixture(scope="module")
def mnist():
    return zoo.load("mnist")


def test_weights_are_small_and_whole(mnist):
    weights = mnist.path / "diffusion_pytorch_model.safetensors"
    assert weights.stat().st_size <= 4e6
    assert all(p.isfinite().all() and p.dtype == torch.float32 for p in mnist.model.parameters())


def test_the_images_are_three_sets_of_2000_with_none_in_two(mnist):
    rows = torch.cat([mnist.images(name).pixels.flatten(1) for name in zoo.SETS])
    assert rows.shape == (6000, 784)
    assert len(rows.unique(dim=0)) == 6000


def test_the_prior_is_that_of_the_training_images(mnist):
    """2,000 of the 60,000 images have its mean and its variances, as well as 2,000 can say."""
    rows = mnist.images("train").floats().flatten(1).double()
    prior = mnist.prior
    assert prior.count == 60_000
    assert float(rows.var(0).sum()) == pytest.approx(float(prior.variances.sum()), rel=0.02)
    assert (rows.mean(0) - prior.mean.flatten()).square().mean().sqrt() < 0.02
    top = rows - rows.mean(0)
    along = (top @ prior.basis.vectors[:, :5].double()).var(0)
    torch.testing.assert_close(along, prior.variances[:5], rtol=0.12, atol=0)


def test_the_network_removes_noise_better_than_the_prior(mnist):
    from latestart.denoisers.networks import from_diffusers

    denoiser = from_diffusers(mnist.model, mnist.scheduler)
    x_0 = mnist.images("heldout-a")[:100].floats()
    g = torch.Generator().manual_seed(0)
    for sigma, share in ((0.2, 0.5), (0.5, 0.6), (1.0, 0.8)):
        y = x_0 + sigma * torch.randn(x_0.shape, generator=g)
        with torch.inference_mode():
            network, linear = ((d(y, sigma) - x_0).square().mean() for d in (denoiser, mnist.prior))
        assert network < share * linear


def test_its_samples_are_nearly_as_near_to_the_training_set_as_test_images(mnist):
    """DPM++ from full noise in 20 evaluations: 1.2 times as far; white noise is 200 times, a blur over 5 pixels 24."""
    from latestart.evaluation.quality import FrechetTo
    from latestart.sampling.generate import generate
    from latestart.sampling.samplers import make_sampler

    to_train, count = FrechetTo(mnist.statistics("train")), 200
    scheduler = make_sampler("dpm++", mnist.scheduler, timestep_spacing="trailing")
    samples = to_train(mnist.features(generate(mnist.model, scheduler, n=count, steps=20).images))
    unseen = mnist.images("heldout-a")[slice(0, count)].unit()
    assert samples < 1.6 * to_train(mnist.features(unseen))


def test_statistics_are_those_of_the_features(mnist):
    images = mnist.images("heldout-a").floats() / 2 + 0.5
    some = feature_statistics(images, mnist.features)
    whole = mnist.statistics("test")
    assert (mnist.statistics("train").count, whole.count) == (60_000, 10_000)
    torch.testing.assert_close(some.mean, whole.mean, rtol=0, atol=0.25)
    assert float(some.variances.sum()) == pytest.approx(float(whole.variances.sum()), rel=0.05)


def test_the_classifier_knows_the_shipped_classes(mnist):
    for which in ("heldout-a", "heldout-b"):
        images = mnist.images(which)
        with torch.inference_mode():
            right = mnist.classifier(images.floats()).argmax(1) == images.labels
        assert right.float().mean() >= 0.99


def test_nothing_shipped_names_a_folder_of_its_maker(mnist):
    for path in mnist.path.rglob("*.json"):
        assert "_name_or_path" not in path.read_text()


@pytest.mark.shared
def test_the_classifier_knows_99_percent_of_the_test_set(mnist, shared):
    from latestart.data import load_images

    test = load_images(shared / "data" / "mnist-test.parquet")
    with torch.inference_mode():
        right = torch.cat([mnist.classifier(part).argmax(1) for part in test.batches()]) == test.labels
    assert right.float().mean() >= 0.99


def test_bad_names_are_told(mnist):
    with pytest.raises(ValueError, match="no shipped model 'cifar'; there are mnist"):
        zoo.load("cifar")
    with pytest.raises(ValueError, match="'train' and 'test', received 'valid'"):
        mnist.statistics("valid")
    with pytest.raises(ValueError, match="received 'test'"):
        mnist.images("test")
    with pytest.raises(ValueError, match="a late start needs a prior"):
        zoo.open_model(str(mnist.path), None, 400)


def test_the_second_classifier_is_another_and_knows_the_classes(mnist):
    second = mnist.second.classifier
    assert second.architecture == "mixer" != mnist.classifier.architecture
    assert (mnist.path / "second-classifier.safetensors").stat().st_size <= 7e5
    images = mnist.images("heldout-a")
    right = (second.classify(images.batches()) == images.labels).double().mean()
    assert right >= 0.985
    assert mnist.second.name.startswith("mnist-second-") and mnist.second.name != mnist.features.name


def test_second_statistics_are_those_of_the_second_features(mnist):
    some = feature_statistics(mnist.images("heldout-a").units(), mnist.second)
    train, whole = mnist.second_statistics("train"), mnist.second_statistics("test")
    assert (train.count, whole.count) == (60_000, 10_000)
    torch.testing.assert_close(some.mean, whole.mean, rtol=0, atol=0.25)
    assert float(some.variances.sum()) == pytest.approx(float(whole.variances.sum()), rel=0.05)
    assert 0 < some.frechet(train) < 0.02 * float(train.total_variance)


def test_a_folder_without_a_second_space_has_none(tmp_path):
    assert zoo.Bundle("mine", tmp_path).second is None


def test_the_judge_of_the_shipped_model_has_both_figures_more(mnist):
    """Images that the network has not seen have the variance of the data, and stand at the floor."""
    from latestart.lab.judge import shipped_judge

    judge, images = shipped_judge(mnist), mnist.images("heldout-b")[:300]
    figures = judge(images.floats())
    assert judge.reference.variance == pytest.approx(211.9, rel=0.01)
    assert figures.variance.low < 1.01 and figures.variance.high > 0.99
    assert figures.second.value < 2 * judge.floor(300).second.value
