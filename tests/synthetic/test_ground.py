"""Lakes fill to their sill, moraines stand where ice stood, water clears far from the ice.

A valley falls to the sea in the south; ice lies at its head.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from glacier_utils.synthetic import ground
from glacier_utils.synthetic.terrain import Array

SIZE = 320


@pytest.fixture
def valley() -> dict[str, Array]:
    row, col = np.indices((SIZE, SIZE), dtype=np.float32)
    aside = np.abs(col - 160)
    height = 30 + 0.25 * (300 - row) + 6 * np.maximum(aside - 12, 0)
    sea = row >= 300
    lia = (row < 120) & (aside < 60)
    return {
        "height": np.where(sea, 0, height).astype(np.float32),
        "ice": lia & (row < 80) & (aside < 45),
        "lia": lia,
        "sea": sea,
    }


def test_hollow_fills_to_its_sill_and_water_by_the_ice_is_told_apart(valley):
    height = valley["height"].copy()
    row, col = np.indices(height.shape)
    hollows = [(200, 160), (95, 160)]
    for middle in hollows:
        height -= 12 * (np.hypot(row - middle[0], col - middle[1]) < 10)
    level, lake, melt = ground.lakes(height, valley["ice"], valley["ice"], valley["sea"])
    assert lake[hollows[0]]
    assert melt[94, 160] or melt[90, 160]
    assert not (lake & melt).any()
    assert not ((lake | melt) & (valley["ice"] | valley["sea"])).any()
    water = level[195:206, 155:166]
    assert np.ptp(water) == 0
    # The sill lies where the hollow opens down the valley, 10 rows below its middle.
    assert valley["height"][212, 160] - 1 < water[0, 0] < valley["height"][206, 160]
    assert (level[~lake & ~melt] == height[~lake & ~melt]).all()


def test_lake_lies_where_a_tongue_has_drawn_back(valley):
    old = valley["lia"]
    _, _, melt = ground.lakes(valley["height"], valley["ice"], old, valley["sea"])
    assert melt.any()
    assert not (melt & ~ndimage.binary_dilation(old, iterations=8)).any()


def test_moraine_stands_along_the_former_margin(valley):
    height, ice, lia = valley["height"], valley["ice"], valley["lia"]
    raised, till = ground.moraines(height, ice, lia, valley["sea"], np.random.default_rng(0))
    ridge = raised - height
    assert not ridge[ice].any()
    assert ridge[117:124, 130:190].mean() > 2 * ridge[88:108, 130:190].mean()
    assert ridge[160:].max() < 0.5
    assert till[90:110, 150:170].mean() > 0.4
    assert till[140:].max() < 0.05
    assert not till[ice].any()
    _, none = ground.moraines(height, ice, ice, valley["sea"], np.random.default_rng(0))
    assert none[~lia].max() < 0.2


def test_rivers_follow_the_valley_and_gravel_lies_below_ice(valley):
    height, ice, sea = valley["height"], valley["ice"], valley["sea"]
    none = np.zeros_like(sea)
    river, gravel = ground.rivers(height, ice, sea, none, np.random.default_rng(0))
    assert 0 < river.max() <= 1
    for row in range(130, 290, 10):
        assert river[row, 140:180].max() > 0.2
    assert river[:, :100].max() < 0.2
    assert not (river + gravel)[ice | sea].any()
    assert gravel[150:290, 155:165].mean() > 0.5
    _, barren = ground.rivers(height, none, sea, none, np.random.default_rng(0))
    assert not barren.any()


def test_meltwater_is_milky_and_plumes_settle(valley):
    height, ice, sea = valley["height"], valley["ice"], valley["sea"]
    row, col = np.indices(sea.shape)
    fed, clear = np.hypot(row - 200, col - 160) < 9, np.hypot(row - 200, col - 290) < 9
    by_ice = (np.abs(row - 84) < 4) & (np.abs(col - 160) < 8)
    river, _ = ground.rivers(height, ice, sea, fed | clear, np.random.default_rng(0))
    args = (height, ice, sea, fed | clear, by_ice, river)
    milky = ground.turbidity(*args, np.random.default_rng(1))
    assert milky.dtype == np.float32
    assert milky.min() >= 0
    assert milky.max() <= 1
    assert milky[fed].mean() > milky[clear].mean() + 0.1
    assert milky[by_ice].mean() > milky[fed].mean()
    assert milky[302:312, 150:170].mean() > 2 * milky[302:312, 10:40].mean()
    assert not milky[(river == 0) & ~sea & ~fed & ~clear & ~by_ice].any()
    np.testing.assert_array_equal(milky, ground.turbidity(*args, np.random.default_rng(1)))


def test_ground_without_sea_or_ice_is_land(valley):
    none = np.zeros_like(valley["sea"])
    height, lake, melt = ground.lakes(valley["height"], none, none, none)
    rng = np.random.default_rng(0)
    river, _ = ground.rivers(height, none, none, lake | melt, rng)
    assert not melt.any()
    assert ground.turbidity(height, none, none, lake, melt, river, rng).max() < 0.5
