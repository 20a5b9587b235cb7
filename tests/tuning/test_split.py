"""The split of the images: by a seed, in parts that share nothing."""

import pytest
import torch

from latestart.data import Images
from latestart.tuning.pictures import FEWEST, split


def _numbered(count):
    pixels = torch.arange(count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    return Images(pixels.contiguous(), None)


@pytest.mark.parametrize(
    ("count", "sizes"), [(800, (400, 200, 200)), (1003, (503, 250, 250)), (50_000, (36_000, 4000, 10_000))]
)
def test_every_image_is_in_one_part(count, sizes):
    parts = split(_numbered(count), 0)
    some = [one.pixels[:, 0, 0, 0] for one in (parts.fitted, parts.held_out, parts.judge)]
    assert tuple(map(len, some)) == sizes and parts.count == count
    assert torch.equal(torch.cat(some).sort().values, torch.arange(count).float())
    held_out, judge = parts.rows
    assert torch.equal(some[1], held_out.float()) and torch.equal(some[2], judge.float())


def test_the_seed_makes_the_split():
    one, again, other = (split(_numbered(900), seed) for seed in (4, 4, 5))
    assert torch.equal(one.fitted.pixels, again.fitted.pixels)
    assert not torch.equal(one.fitted.pixels, other.fitted.pixels)
    assert "by the seed 4" in one.how


def test_too_few_images_are_refused_with_how_many_are_needed():
    with pytest.raises(ValueError, match=f"expected at least {FEWEST} images, received {FEWEST - 1}"):
        split(_numbered(FEWEST - 1), 0)
