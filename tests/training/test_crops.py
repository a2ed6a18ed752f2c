"""Crops that grow during a training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glacier_utils.errors import GlacierError
from glacier_utils.training.augmentation import crop, side_of_epoch
from glacier_utils.training.settings import Settings


def test_sides_grow_in_equal_parts_and_end_with_whole_patches():
    sides = [side_of_epoch(e, 12, smallest=64, size=128) for e in range(12)]
    assert sides == [64] * 5 + [96] * 4 + [128] * 3
    assert [side_of_epoch(e, 3, smallest=64, size=128) for e in range(3)] == [64, 96, 128]


@pytest.mark.parametrize(("smallest", "size"), [(0, 128), (128, 128), (160, 128)])
def test_without_smaller_crops_all_epochs_see_whole_patches(smallest, size):
    assert {side_of_epoch(e, 8, smallest=smallest, size=size) for e in range(8)} == {size}


@given(
    epochs=st.integers(1, 60), smallest=st.integers(0, 8).map(lambda n: 32 * n),
    size=st.integers(32, 300),
)  # fmt: skip
def test_sides_never_shrink_and_the_last_epoch_is_whole(epochs, smallest, size):
    sides = [side_of_epoch(e, epochs, smallest=smallest, size=size) for e in range(epochs)]
    assert sides == sorted(sides)
    assert sides[-1] == size
    assert all(min(smallest or size, size) <= side <= size for side in sides)


def numbered(count: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images whose pixels say where they lie, and labels that say the same."""
    place = torch.arange(height * width).reshape(height, width) % 251
    images = place.float().expand(count, 2, -1, -1).clone()
    return images, place.to(torch.uint8).expand(count, -1, -1)


def test_crops_lie_elsewhere_in_each_image_and_the_label_goes_along():
    images, labels = numbered(32, 48, 64)
    cut, cut_labels = crop(images, labels, 32, torch.Generator().manual_seed(0))
    assert cut.shape == (32, 2, 32, 32)
    assert cut_labels.shape == (32, 32, 32)
    np.testing.assert_array_equal(cut[:, 0].to(torch.uint8), cut_labels)
    assert len({float(image[0, 0, 0]) for image in cut}) > 10
    again, _ = crop(images, labels, 32, torch.Generator().manual_seed(0))
    assert torch.equal(cut, again)


def test_every_place_can_be_drawn_to_the_last_row_and_column():
    images, labels = numbered(400, 3, 3)
    cut, _ = crop(images, labels, 2, torch.Generator().manual_seed(1))
    assert {float(image[0, 0, 0]) for image in cut} == {0.0, 1.0, 3.0, 4.0}


def test_what_is_no_larger_stays_as_it_is():
    images, labels = numbered(2, 32, 32)
    for side in (32, 64):
        cut, cut_labels = crop(images, labels, side, torch.Generator())
        assert cut is images
        assert cut_labels is labels
    images, labels = numbered(2, 20, 40)
    assert crop(images, labels, 32, torch.Generator())[0].shape == (2, 2, 20, 32)


@pytest.mark.parametrize("value", [-32, 50])
def test_sides_that_no_network_takes_are_refused(value):
    with pytest.raises(GlacierError, match=r"smallest_crop is .* multiple of 32 px"):
        Settings(smallest_crop=value)
