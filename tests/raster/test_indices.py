"""Spectral rules."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from glacier_utils.errors import GlacierError
from glacier_utils.raster import indices

# Medians of Sentinel-2 surface reflectance (red, green, blue, nir).
MEDIANS = {
    "snow": (0.83, 0.83, 0.81, 0.69),
    "shadowed snow": (0.33, 0.41, 0.47, 0.23),
    "ice": (0.34, 0.36, 0.35, 0.24),
    "rock": (0.16, 0.15, 0.12, 0.17),
    "water": (0.11, 0.17, 0.11, 0.03),
    "shadowed rock": (0.03, 0.03, 0.035, 0.03),
}


def pixel(values):
    return np.array(values, np.float32).reshape(-1, 1, 1)


@pytest.mark.parametrize(
    ("surface", "snow", "water", "shadow", "ice"),
    [
        ("snow", True, False, False, True),
        ("shadowed snow", False, False, True, True),
        ("ice", False, False, False, True),
        ("rock", False, False, False, False),
        ("water", False, True, False, False),
        ("shadowed rock", False, False, True, False),
    ],
)
def test_rules_on_typical_surfaces(surface, snow, water, shadow, ice):
    image = pixel(MEDIANS[surface])
    rules = (indices.is_snow, indices.is_water, indices.is_shadow, indices.ice_index)
    assert [bool(rule(image)[0, 0]) for rule in rules] == [snow, water, shadow, ice]


def test_ndwi_by_hand_and_without_image():
    assert indices.ndwi(pixel((0.1, 0.3, 0.1, 0.1)))[0, 0] == pytest.approx(0.5)
    nothing = pixel((0, 0, 0, 0))
    assert math.isnan(indices.ndwi(nothing)[0, 0])
    for rule in (indices.is_snow, indices.is_water, indices.is_shadow, indices.ice_index):
        assert not rule(nothing).any()


def test_rules_take_stacks_and_any_order_of_bands():
    stack = np.stack([pixel(values) for values in MEDIANS.values()])
    found = indices.ice_index(stack)
    assert found.shape == (6, 1, 1)
    order = ("nir", "blue", "green", "red")
    assert (indices.ice_index(stack[:, ::-1], order) == found).all()
    with pytest.raises(GlacierError, match="band 'nir' is needed"):
        indices.ice_index(stack[:, :3], ("red", "green", "blue"))


def test_rules_on_points_classified_by_hand():
    folder = os.environ.get("GLACIER_REAL_DATA")
    if not folder:
        pytest.skip("GLACIER_REAL_DATA is not set: no classified spectra")
    points = pd.read_csv(Path(folder) / "surface_spectra" / "Sentinel-2_SR_training_data.csv")
    image = points[["B4", "B3", "B2", "B8"]].to_numpy(np.float32).T[:, None, :]

    def found(rule):
        return pd.Series(rule(image)[0]).groupby(points["class"].to_numpy()).mean()

    snow, water = found(indices.is_snow), found(indices.is_water)
    shadow, ice = found(indices.is_shadow), found(indices.ice_index)
    assert snow[1] > 0.95
    assert snow[[2, 3, 4, 5]].max() < 0.04
    assert water[5] > 0.95
    assert water[[1, 2, 3, 4]].max() < 0.03
    assert shadow[2] > 0.7
    assert shadow[[1, 3, 4]].max() < 0.06
    assert ice[1] > 0.96
    assert ice[3] > 0.95
    assert ice[2] > 0.8
    assert ice[[4, 5]].max() < 0.04
