"""Copies are counted, chance is not, and blur is no copy."""

import pytest
import torch

import latestart as ls
from latestart.evaluation.copying import CopyingFrom


def images(n, seed):
    """Smooth pictures with eight degrees of freedom, in [0, 1]."""
    g = torch.Generator().manual_seed(seed)
    waves = torch.linspace(0, 3, 36)[None] * torch.arange(1, 9)[:, None]
    return torch.sigmoid(torch.randn(n, 8, generator=g) @ waves.cos()).reshape(n, 1, 6, 6)


TRAIN, HELD_OUT, SECOND = images(1000, 0), images(1000, 1), images(1500, 2)


@pytest.fixture(scope="module")
def check():
    return CopyingFrom(TRAIN, HELD_OUT, SECOND)


def test_new_images_are_not_copies(check):
    found = check(images(2000, 3))
    assert found.copied.low <= 0.01 <= found.copied.high
    assert found.within_bar


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_copies_are_counted(check, share):
    samples = images(1000, 4)
    n = int(share * len(samples))
    noise = 1e-3 * torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    samples[:n] = (TRAIN[:n] + noise).clamp(0, 1)
    found = check(samples)
    assert found.copied.value == pytest.approx(share + 0.01 * (1 - share), abs=0.015)
    assert found.copied.low <= share <= found.copied.high
    assert not found.within_bar
    assert (found.ratios[:n] < found.threshold).all()


def test_the_threshold_is_the_first_percentile_of_the_second_set(check):
    assert float((check.chance < check(SECOND).threshold).double().mean()) == pytest.approx(0.01, abs=1e-3)


def test_blurred_images_are_no_copies(check):
    """Shrunk to the mean they come nearer to every image, but to the training set no more than to the other."""
    samples = images(2000, 5)
    blurred = 0.7 * samples + 0.3 * TRAIN.mean(0)
    to_train = [torch.cdist(x.flatten(1), TRAIN.flatten(1)).amin(1).mean() for x in (samples, blurred)]
    assert to_train[1] < 0.95 * to_train[0]
    assert check(blurred).copied.low <= 0.02


def test_copies_of_held_out_images_are_not_held_against_the_model(check):
    assert check(HELD_OUT).copied.value == 0


def test_another_space(check):
    pixels = ls.copying(images(300, 6), TRAIN, HELD_OUT, SECOND)
    halves = ls.copying(images(300, 6), TRAIN, HELD_OUT, SECOND, features=lambda x: x.flatten(1) / 2)
    torch.testing.assert_close(pixels.ratios, halves.ratios)
    assert pixels.copied == halves.copied == check(images(300, 6)).copied


def test_bad_input(check):
    with pytest.raises(ValueError, match=r"equal size and shape, received \(1000, 36\) .* \(999, 36\)"):
        CopyingFrom(TRAIN, HELD_OUT[:-1], SECOND)
    with pytest.raises(ValueError, match="at least 100 images in the second set, received 99"):
        CopyingFrom(TRAIN, HELD_OUT, SECOND[:99])
    with pytest.raises(ValueError, match="from -1 to 1"):
        check(torch.tensor([-1.0, 1.0]).expand(5, 1, 18, 2).reshape(5, 1, 6, 6))
    with pytest.raises(ValueError, match="the images have 16 values, those of the training set 36"):
        check(torch.rand(5, 1, 4, 4))


def twins(share_of, blank=0):
    """Three sets of noise; the first images of each are one blank picture."""
    g = torch.Generator().manual_seed(0)
    sets = [torch.rand(400, 1, 8, 8, generator=g) for _ in range(3)]
    for images in sets:
        images[: int(share_of * 400)] = blank
    return sets


@pytest.mark.parametrize("share", [0.01, 0.02, 0.3])
@pytest.mark.parametrize("blank", [0.0, 1.0, 0.3])
def test_a_replay_is_one_where_blank_pictures_stand_in_every_set(share, blank):
    train, held, second = twins(share, blank)
    n = int(share * 400)
    with pytest.warns(UserWarning, match=f"{2 * n} of the 800 held-out images are training images"):
        check = CopyingFrom(train, held, second)
    found = check(train[n:])
    assert (found.copied.value, found.twins) == (1.0, 2 * n)
    assert not found.within_bar
    assert check(train).copied.value == pytest.approx(1 - share)  # a blank picture may be of either set
    new = torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(7))
    assert check(new).within_bar


@pytest.mark.parametrize("leaked", [8, 40])
def test_a_replay_is_one_where_the_second_set_leaked_into_the_training(leaked):
    train, held, second = twins(0)
    second[:leaked] = train[100 : 100 + leaked]
    with pytest.warns(UserWarning, match=f"{leaked} of the 800"):
        check = CopyingFrom(train, held, second)
    near = (train + 1e-3 * torch.randn(train.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    for replay in (train, near, (train * 255).round() / 255):  # what a model has copied is never the same to the bit
        found = check(replay)
        assert (found.copied.value, found.copied.low, found.within_bar) == (1.0, 1.0, False)
    assert check(twins(0)[2].flip(3)).copied.value < 0.03
    assert check.threshold == CopyingFrom(train, held, second[leaked:]).threshold


def test_a_second_set_of_training_images_says_nothing_of_chance():
    train, held, second = twins(0)
    second[:301] = train[:301]
    with pytest.raises(ValueError, match="received 400, 301 of them training images"):
        CopyingFrom(train, held, second)


def test_no_twin_is_lost_to_rounding():
    """The table of squares would put 1e-8 of the norm between equal rows."""
    g = torch.Generator().manual_seed(0)
    train, held, second = (0.9 + 0.1 * torch.rand(300, 3, 16, 16, generator=g) for _ in range(3))
    found = CopyingFrom(train, held, second)(train)
    assert (found.ratios == 0).all()


def test_features_that_are_not_finite_are_refused():
    def spoilt(images):
        return images.flatten(1) / images.flatten(1).sum(1, keepdim=True).sub(images[0].sum()).abs()

    with pytest.raises(ValueError, match=r"finite features, received .* NaN or infinite"):
        CopyingFrom(TRAIN, HELD_OUT, SECOND, spoilt)
