"""The facts of a patch, and the reasons to drop it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from glacier_utils.datasets import patches
from glacier_utils.raster import indices

ICE, ROCK = (0.34, 0.36, 0.35, 0.24), (0.16, 0.15, 0.12, 0.17)


def test_facts_by_hand():
    image = np.full((4, 2, 4), 0.3, np.float32)
    valid = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    image[:, ~valid] = 0
    image[2, 0, 0] = 1.0
    label = np.array([[1, 0, 0, 255], [1, 255, 0, 1]], np.uint8)
    found = patches.patch_facts(image, valid, label)
    assert found["nodata"] == 2 / 8
    assert found["unknown"] == 4 / 8
    assert found["glacier"] == 2 / 4
    assert found["saturated"] == pytest.approx(1 / 6)
    for name in ("cloud", "shadow", "label_age"):
        assert math.isnan(found[name])


def test_facts_of_nothing():
    nothing = np.zeros((4, 2, 2), np.float32)
    unknown, invalid = np.full((2, 2), 255, np.uint8), np.zeros((2, 2), bool)
    found = patches.patch_facts(
        nothing, invalid, unknown, clouds=np.ones((2, 2), np.uint8), age=np.ones((2, 2))
    )
    assert found.pop("nodata") == found.pop("unknown") == 1
    assert all(math.isnan(value) for value in found.values())


def test_cloud_counts_where_it_was_assessed_and_the_image_is_valid():
    image = np.full((4, 2, 4), 0.3, np.float32)
    valid = np.array([[1, 1, 1, 1], [1, 1, 1, 0]], bool)
    clouds = np.array([[0, 0, 1, 1], [2, 255, 255, 1]], np.uint8)
    found = patches.patch_facts(image, valid, np.zeros((2, 4), np.uint8), clouds=clouds)
    assert (found["cloud"], found["shadow"]) == (2 / 5, 1 / 5)


def test_age_counts_each_outline_by_its_ice():
    image, valid = np.full((4, 1, 8), 0.3, np.float32), np.ones((1, 8), bool)
    label = np.array([[1, 1, 1, 1, 1, 0, 255, 1]], np.uint8)
    age = np.array([[20, 20, 20, 4, np.nan, 99, 99, np.nan]], np.float32)
    assert patches.patch_facts(image, valid, label, age=age)["label_age"] == pytest.approx(16)


def test_disagreement_is_a_share_of_the_known_pixels():
    image = np.array([ICE, ICE, ROCK, ROCK, ICE, ROCK], np.float32).T.reshape(4, 1, 6)
    label = np.array([[1, 0, 0, 1, 255, 1]], np.uint8)
    valid = np.array([[1, 1, 1, 1, 1, 0]], bool)
    assert patches.patch_facts(image, valid, label)["disagreement"] == 2 / 4
    expected = [[False, True, False, True, False, True]]
    assert indices.disagreement(image, label).tolist() == expected
    # Without near infrared there is no index to differ from.
    found = patches.patch_facts(image[:3], valid, label, bands=("red", "green", "blue"))
    assert math.isnan(found["disagreement"])


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, ""),
        ({"unknown": 0.5}, ""),
        ({"unknown": 0.83}, "unknown 83 % > 50 %"),
        ({"unknown": 0.5001}, "unknown 50.01 % > 50.00 %"),
        ({"unknown": 0.9, "nodata": 0.75}, "no data 75 % > 50 %"),
        (
            {"unknown": 0.7, "cloud": 0.5, "shadow": 0.1},
            "unknown 70 % > 50 % (cloud and its shadow 60 %)",
        ),
        ({"unknown": 0.7, "cloud": math.nan, "shadow": math.nan}, "unknown 70 % > 50 %"),
        ({"cloud": 0.4}, "cloud 40 % > 30 %"),
        ({"cloud": math.nan}, ""),
        ({"disagreement": 1.0, "saturated": 1.0, "label_age": 40.0}, ""),
    ],
)
def test_reasons(found, reason):
    found = {"nodata": 0.0, "unknown": 0.0, "cloud": 0.0, "shadow": 0.0} | found
    assert patches.keep_or_drop(found, max_cloud=0.3) == reason
