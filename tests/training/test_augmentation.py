"""Augmentation: what each operation does and leaves alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glacier_utils.errors import GlacierError
from glacier_utils.training.augmentation import (
    OPERATIONS,
    RECIPES,
    SOMETIMES,
    augment,
    band_dropout,
    gain,
    offset,
    operations,
    shadow,
    snow,
    symmetries,
    symmetry,
)

BANDS = ("red", "green", "blue", "nir")
ROCK = torch.tensor([0.16, 0.15, 0.12, 0.17]).view(1, 4, 1, 1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def patches(seed=0, count=6, size=24, bands=4):
    """Random reflectance with invalid pixels, and labels that are unknown there."""
    generator = seeded(seed)
    images = torch.rand(count, bands, size, size, generator=generator) * 0.8 + 0.01
    labels = torch.randint(0, 2, (count, size, size), generator=generator).to(torch.uint8)
    invalid = torch.rand(count, size, size, generator=generator) < 0.1
    invalid[:, :3] = True
    images = torch.where(invalid[:, None], 0.0, images)
    labels[invalid] = 255
    return images, labels


def ground(count=20, size=48):
    """Even rock in the sun, nothing of it glacier."""
    return ROCK.repeat(count, 1, size, size), torch.zeros(count, size, size, dtype=torch.uint8)


# ---- symmetries and gain


def test_the_eight_symmetries_are_all_there_and_differ():
    square = torch.arange(9).view(1, 3, 3)
    assert len({tuple(symmetry(square, number).flatten().tolist()) for number in range(8)}) == 8


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([(6, 6), (4, 7)]))
def test_image_and_label_turn_together_and_keep_their_pixels(seed, shape):
    labels = torch.randint(0, 2, (9, *shape), dtype=torch.uint8)
    images = labels[:, None].float().repeat(1, 4, 1, 1)
    turned, turned_labels = symmetries(images, labels, torch.Generator().manual_seed(seed))
    assert torch.equal(turned[:, 0].to(torch.uint8), turned_labels)
    assert torch.equal(turned.sum(dim=(1, 2, 3)), images.sum(dim=(1, 2, 3)))


def test_gain_is_mild_and_keeps_invalid_pixels():
    images = torch.full((200, 4, 2, 2), 0.5)
    images[..., 0] = 0
    labels = torch.zeros(200, 2, 2, dtype=torch.uint8)
    bright, _ = gain(images, labels, torch.Generator().manual_seed(0))
    assert (bright[..., 0] == 0).all()
    assert 0.05 < (bright[..., 1] / 0.5).log().std().item() < 0.15
    assert torch.equal(bright[:, :, 0, 1], bright[:, :, 1, 1])


def test_augmentation_follows_from_the_generator():
    images, labels = torch.rand(5, 4, 8, 8), torch.zeros(5, 8, 8, dtype=torch.uint8)
    one, two = (augment(images, labels, torch.Generator().manual_seed(7))[0] for _ in range(2))
    assert torch.equal(one, two)


# ---- laws of all operations


@pytest.mark.parametrize("name", [*OPERATIONS, "strong"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000), bands=st.sampled_from([BANDS, ("nir", "x", "green"), ("y",)]))
def test_an_operation_keeps_its_input_and_repeats_itself(name, seed, bands):
    images, labels = patches(seed, bands=len(bands))
    before = images.clone(), labels.clone()
    random = torch.get_rng_state()
    one = augment(images, labels, seeded(seed), name, bands)
    two = augment(images, labels, seeded(seed), name, bands)
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert torch.equal(torch.get_rng_state(), random)
    assert one[0].dtype == torch.float32
    assert one[1].dtype == torch.uint8
    assert one[0].isfinite().all()


@pytest.mark.parametrize("name", [*OPERATIONS, "strong"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 1000))
def test_invalid_pixels_stay_invalid_and_unknown_and_no_others_become_it(name, seed):
    images, labels = patches(seed)
    images, labels = augment(images, labels, seeded(seed), name)
    invalid = (images == 0).all(dim=1)
    assert torch.equal(invalid, labels == 255)
    assert set(labels.unique().tolist()) <= {0, 1, 255}


@pytest.mark.parametrize("name", SOMETIMES)
def test_only_the_given_share_of_images_changes(name):
    images, labels = ground(400, 8)
    images = images * torch.linspace(0.8, 1.2, 64).view(8, 8)
    few, _ = OPERATIONS[name](images, labels, seeded(), BANDS, probability=0.25)
    changed = (few != images).any(dim=(1, 2, 3)).float().mean().item()
    assert 0.1 < changed < 0.35
    none, _ = OPERATIONS[name](images, labels, seeded(), BANDS, probability=0.0)
    assert torch.equal(none, images)


@pytest.mark.parametrize("name", ["offset", "snow", "shadow"])
def test_bands_of_unknown_meaning_are_left_alone(name):
    images, labels = ground()
    images = torch.cat([images, images[:, :1]], dim=1)
    extra = {"probability": 1.0} if name in SOMETIMES else {}
    changed, _ = OPERATIONS[name](images, labels, seeded(), (*BANDS, "slope"), **extra)
    assert torch.equal(changed[:, 4], images[:, 4])
    assert (changed[:, :4] != images[:, :4]).any(dim=(2, 3)).all()


@pytest.mark.parametrize("name", ["offset", "shadow", "snow"])
def test_the_order_of_the_bands_does_not_matter(name):
    images, labels = ground(4)
    order = [3, 1, 0, 2]
    turned = tuple(BANDS[i] for i in order)
    extra = {"probability": 1.0} if name in SOMETIMES else {}
    one, _ = OPERATIONS[name](images, labels, seeded(), BANDS, **extra)
    two, _ = OPERATIONS[name](images[:, order], labels, seeded(), turned, **extra)
    # Up to the error of each band, which comes by position.
    torch.testing.assert_close(one[:, order], two, rtol=0, atol=0.02 if name == "offset" else 1e-6)


# ---- one by one


def test_mild_is_symmetries_then_gain():
    images, labels = patches()
    generator = seeded(3)
    turned, turned_labels = symmetries(images, labels, generator)
    expected, _ = gain(turned, turned_labels, generator)
    found, found_labels = augment(images, labels, seeded(3))
    assert torch.equal(found, expected)
    assert torch.equal(found_labels, turned_labels)


def test_haze_is_strongest_in_the_blue_on_dark_ground():
    images, labels = ground(400, 2)
    images[..., 1] = 0.8
    change = offset(images, labels, seeded(), BANDS)[0] - images
    red, green, blue, nir = change[..., 0].mean(dim=(0, 2)).tolist()
    assert blue > green > red > nir > 0
    assert change[..., 1].abs().mean() < change[..., 0].abs().mean()
    assert change.abs().max() < 0.06


def test_overcorrected_water_stays_above_zero():
    images, labels = torch.full((200, 4, 2, 2), 0.002), torch.zeros(200, 2, 2, dtype=torch.uint8)
    assert offset(images, labels, seeded(), BANDS)[0].min() > 0


def test_a_dropped_band_is_its_mean_over_valid_pixels():
    images, labels = patches(count=40)
    changed, _ = band_dropout(images, labels, seeded(), BANDS, probability=1.0)
    valid = (images != 0).any(dim=1)
    lost = (changed != images).any(dim=(2, 3))
    assert (lost.sum(dim=1) == 1).all()
    assert lost.any(dim=0).all()  # every band has its turn
    for number, band in torch.nonzero(lost).tolist():
        mean = images[number, band][valid[number]].mean()
        torch.testing.assert_close(
            changed[number, band][valid[number]], mean.expand(int(valid[number].sum()))
        )


def test_the_only_band_is_not_dropped():
    images, labels = patches(bands=1)
    assert torch.equal(band_dropout(images, labels, seeded(), ("a",), probability=1.0)[0], images)


def test_shadow_darkens_the_near_infrared_most():
    images, labels = ground(60)
    changed, codes = shadow(images, labels, seeded(), BANDS, probability=1.0)
    share = changed / images
    assert torch.equal(codes, labels)
    assert share.max() <= 1
    deepest = share.amin(dim=(2, 3))
    red, green, blue, nir = deepest.T
    assert (blue > green).all()
    assert (green > red).all()
    assert (red > nir).all()
    assert 0.38 < blue.min() < blue.max() < 0.9
    dark = (share[:, 3] < 0.6).float().mean(dim=(1, 2))
    assert 0.03 < dark.mean() < 0.5
    assert (dark > 0.01).float().mean() > 0.9


def test_snow_lies_on_ground_and_looks_like_snow():
    images, labels = ground(60)
    changed, codes = snow(images, labels, seeded(), BANDS, probability=1.0)
    assert torch.equal(codes, labels)
    assert (changed >= images).all()
    white = changed[:, 1] > 0.45  # the 5th percentile of snow is 0.49
    cover = white.float().mean(dim=(1, 2))
    assert 0.03 < cover.mean() < 0.4
    assert (cover < 0.6).all()
    red, green, blue, nir = changed.permute(1, 0, 2, 3)[:, white]
    assert (nir < red).all()
    assert green.max() < 1
    assert (blue - green).abs().max() < 0.05


def test_snow_leaves_water_and_brighter_snow():
    images, labels = ground(20)
    images[:, :, :, :16] = torch.tensor([0.08, 0.1, 0.11, 0.02]).view(1, 4, 1, 1)
    images[:, :, :, 32:] = 0.97
    changed, _ = snow(images, labels, seeded(), BANDS, probability=1.0)
    assert torch.equal(changed[..., :16], images[..., :16])
    assert torch.equal(changed[..., 32:], images[..., 32:])
    assert (changed[..., 16:32] > images[..., 16:32]).any()


def test_snow_needs_the_bands_that_show_water():
    images, labels = ground(4)
    bands = ("red", "a", "blue", "nir")
    assert torch.equal(snow(images, labels, seeded(), bands, probability=1.0)[0], images)


# ---- recipes


def test_recipes_are_made_of_operations():
    for name, parts in RECIPES.items():
        assert set(parts) <= set(OPERATIONS)
        assert operations(name) == parts
    assert RECIPES["mild"] == ("symmetries", "gain")


def test_recipes_and_operations_add_up_without_repeats():
    assert operations("mild+shadow") == ("symmetries", "gain", "shadow")
    assert operations("mild + gain") == ("symmetries", "gain")
    assert operations("none+snow") == ("snow",)
    assert operations(("gain", "symmetries")) == ("gain", "symmetries")


def test_no_operation_changes_nothing():
    images, labels = patches()
    found, codes = augment(images, labels, seeded(), "none")
    assert torch.equal(found, images)
    assert torch.equal(codes, labels)


@pytest.mark.parametrize(
    ("recipe", "near"), [("storng", "strong"), ("mild+shadows", "shadow"), (("snwo",), "snow")]
)
def test_an_unknown_name_is_told_with_its_neighbour(recipe, near):
    with pytest.raises(GlacierError, match=f"did you mean '{near}'"):
        operations(recipe)


# ---- figure
