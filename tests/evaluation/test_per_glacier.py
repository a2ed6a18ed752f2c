"""A map judged glacier by glacier."""

from __future__ import annotations

import math

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation import per_glacier
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.raster.grid import Grid

# 100 m, so that a pixel is 0.01 km2: the smallest glacier of an inventory.
GRID = Grid(CRS.from_epsg(32623), Affine(100, 0, 500_000, 0, -100, 6_800_000), 20, 30)


def rectangle(top: int, left: int, height: int, width: int) -> shapely.Polygon:
    x, y = 500_000 + 100 * left, 6_800_000 - 100 * top
    return shapely.box(x, y - 100 * height, x + 100 * width, y)


def inventory(shapes: dict[str, shapely.Polygon], **columns) -> gpd.GeoDataFrame:
    table = {
        "glacier_id": list(shapes),
        "analysis_id": [f"{name}-1" for name in shapes],
        "kind": "glacier",
        "source_date": pd.to_datetime(["2001-08-15"] * len(shapes)),
        "name": "",
        "uncertainty_m": [20.0] + [math.nan] * (len(shapes) - 1),
    } | columns
    return gpd.GeoDataFrame(table, geometry=list(shapes.values()), crs="EPSG:32623")


def mask(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    found = np.zeros(GRID.shape, np.uint8)
    for top, left, height, width in boxes:
        found[top : top + height, left : left + width] = 1
    return found


A, B = (3, 3, 4, 6), (3, 14, 4, 4)
OUTLINES = inventory({"b": rectangle(*B), "a": rectangle(*A)})


def test_numbers_are_those_of_the_label():
    found = per_glacier.burn_glaciers(OUTLINES, GRID, "2021-08-15")
    assert found.table["glacier_id"].tolist() == ["a", "b"]
    assert found.table.index.tolist() == [1, 2]
    np.testing.assert_array_equal(found.numbers, mask(A) + 2 * mask(B))
    assert found.table["age_years"].tolist() == pytest.approx([20.0, 20.0], abs=0.01)
    assert found.table["uncertainty_m"].iloc[1] == 20.0
    assert per_glacier.burn_glaciers(OUTLINES, GRID).table["age_years"].isna().all()
    bare = Grid(None, GRID.transform, *GRID.shape)
    with pytest.raises(GlacierError, match="no CRS"):
        per_glacier.burn_glaciers(OUTLINES, bare)


def test_an_overlap_goes_to_the_newer_then_to_the_larger():
    both = inventory({"old": rectangle(2, 2, 8, 8), "new": rectangle(5, 5, 4, 8)},
                     source_date=pd.to_datetime(["2001-01-01", "2014-01-01"]))  # fmt: skip
    found = per_glacier.burn_glaciers(both, GRID)
    assert found.table.loc[found.numbers[6, 6], "glacier_id"] == "new"
    same = both.assign(source_date=pd.NaT)
    found = per_glacier.burn_glaciers(same, GRID)
    assert found.table.loc[found.numbers[6, 6], "glacier_id"] == "old"
    # Rock inside belongs to nobody, and two polygons of one glacier have one number.
    rock = inventory({"x": rectangle(2, 2, 8, 8), "x ": rectangle(2, 15, 3, 3)})
    rock["glacier_id"] = "x"
    rock = pd.concat([rock, rock.iloc[:1].assign(
        kind="internal_rock", geometry=[rectangle(4, 4, 2, 2)])], ignore_index=True)  # fmt: skip
    found = per_glacier.burn_glaciers(rock, GRID)
    np.testing.assert_array_equal(found.numbers > 0, rasterize(rock, GRID) == 1)
    assert found.numbers[4, 4] == 0
    assert len(found.table) == 1


def test_a_glacier_by_hand():
    reference = mask(A, B)
    # a: moved one pixel to the right; b: missed, but two pixels mapped 200 m from it; and ice far
    # from either.
    predicted = mask((3, 4, 4, 6), (3, 19, 1, 2), (15, 20, 2, 2))
    listed = per_glacier.burn_glaciers(OUTLINES, GRID, "2023-08")
    table = per_glacier.scores_per_glacier({"m": predicted}, {"labels": reference}, GRID, listed)
    assert list(table)[:9] == [
        "model", "glacier_id", "reference", "area_km2", "predicted_km2", "low", "high", "iou",
        "boundary_median_m",
    ]  # fmt: skip
    rows = table.set_index("glacier_id")
    assert rows.index.tolist() == ["a", "b", "none"]
    a, b, none = rows.loc["a"], rows.loc["b"], rows.loc["none"]
    assert a[["tp", "fp", "fn"]].tolist() == [20, 4, 4]
    assert a["iou"] == pytest.approx(20 / 28)
    assert a["area_km2"] == a["predicted_km2"] == pytest.approx(0.24)
    # Out by one pixel: 20 more; in by one: 16 less; half of both together.
    assert [a["low"], a["high"]] == pytest.approx([0.06, 0.42])
    # 20 sides towards ground, each 100 m, stairs counted as lines; 20 m on either side of it.
    assert a["perimeter_km"] == pytest.approx(20 * 0.1 * math.pi / 4)
    assert a["label_uncertainty_km2"] == pytest.approx(a["perimeter_km"] * 0.1)
    assert b["label_uncertainty_km2"] == pytest.approx(16 * 0.1 * math.pi / 4 * 0.02)
    # Of the 16 rim pixels of either map ten lie on the other's rim, six 100 m beside it.
    assert a["boundary_median_m"] == 0.0
    assert (a["error_km2"], a["error_percent"]) == (0.0, 0.0)
    assert b[["tp", "fp", "fn"]].tolist() == [0, 2, 16]
    assert b["error_percent"] == pytest.approx(-100 * 14 / 16)
    assert none["predicted_km2"] == pytest.approx(0.04)
    assert none["area_km2"] == 0.0
    assert math.isnan(none["error_percent"])
    assert rows["predicted_km2"].sum() == pytest.approx((predicted == 1).sum() * 0.01)
    assert not rows["cut"].any()
    assert rows["size_class"].tolist()[:2] == ["0.1 to 1", "0.1 to 1"]


def test_a_glacier_at_the_frame_or_at_unknown_ground_is_cut():
    shapes = {"frame": (0, 3, 4, 4), "unknown": (8, 3, 4, 4), "whole": (8, 15, 4, 4)}
    listed = per_glacier.burn_glaciers(
        inventory({name: rectangle(*box) for name, box in shapes.items()}), GRID
    )
    reference = mask(*shapes.values())
    reference[12, 4] = 255
    table = per_glacier.partition(reference, GRID, listed).table
    assert table.set_index("glacier_id")["cut"].to_dict() == {
        "frame": True, "unknown": True, "whole": False,
    }  # fmt: skip
    # Neither the frame nor unknown ground is an edge of the ice.
    perimeter = table.set_index("glacier_id")["perimeter_km"] / (0.1 * math.pi / 4)
    assert perimeter.tolist() == pytest.approx([12, 15, 16])


def test_true_ice_outside_the_outlines():
    listed = per_glacier.burn_glaciers(OUTLINES, GRID)
    # a has grown by a column, b is gone, two glaciers were never drawn, and so was a speck.
    truth = mask((3, 3, 4, 7), (12, 5, 3, 3), (12, 15, 4, 4))
    parts = per_glacier.partition(truth, GRID, listed)
    assert parts.table["glacier_id"].tolist() == ["a", "b", "unlisted-1", "unlisted-2"]
    scores = per_glacier.glacier_scores(truth, truth, parts, GRID).set_index("glacier_id")
    assert scores["area_km2"].to_dict() == pytest.approx(
        {"a": 0.28, "b": 0.0, "unlisted-1": 0.16, "unlisted-2": 0.09, "none": 0.0}
    )
    assert scores.loc[["a", "unlisted-1"], "iou"].tolist() == [1.0, 1.0]
    assert math.isnan(scores.loc["b", "iou"])
    assert math.isnan(scores.loc["unlisted-1", "label_uncertainty_km2"])
    fine = Grid(GRID.crs, Affine(10, 0, 0, 0, -10, 0), *GRID.shape)
    assert "unlisted-1" not in set(per_glacier.partition(truth, fine).table["glacier_id"])
    none = per_glacier.partition(truth, GRID)
    assert none.table["glacier_id"].tolist() == ["unlisted-1", "unlisted-2", "unlisted-3"]


def test_the_edge_of_a_disc_has_its_length():
    y, x = np.mgrid[-40:40, -40:40] + 0.5
    disc = (np.hypot(y, x) <= 30).astype(np.uint8)
    grid = Grid(GRID.crs, Affine(10, 0, 0, 0, -10, 0), 80, 80)
    (length,) = per_glacier.partition(disc, grid).table["perimeter_km"]
    assert length == pytest.approx(2 * math.pi * 0.3, rel=0.01)
    # Moving the outline by one pixel is that length times a pixel; the dilation is that of four
    # neighbours, which moves a slanting line by less.
    scores = per_glacier.glacier_scores(disc, disc, per_glacier.partition(disc, grid), grid)
    assert scores["high"][0] - scores["predicted_km2"][0] == pytest.approx(length * 0.01, rel=0.12)


def test_real_outlines(real_data):
    data = open_dataset("everest")
    grid = data.source("test", "2000-10-30").grid
    outlines = data.outlines("test", "2000-10-30")
    listed = per_glacier.burn_glaciers(outlines, grid, "2000-10-30")
    label = rasterize(outlines, grid)
    np.testing.assert_array_equal(listed.numbers > 0, label == 1)
    assert len(listed.table) > 20
    assert listed.table["glacier_id"].is_unique
    parts = per_glacier.partition(label, grid, listed)
    # Lengths of the lines, less those where ice lies on the other side.
    shapes = outlines[outlines["kind"] == "glacier"].dissolve("glacier_id").geometry
    whole = parts.table[~parts.table["cut"] & parts.table["listed"]].set_index("glacier_id")
    for name, perimeter in whole["perimeter_km"].items():
        others = shapes.drop(name).union_all().buffer(15)
        length = shapes[name].boundary.difference(others).length / 1000
        assert perimeter == pytest.approx(length, rel=0.15, abs=0.1)
    assert len(whole) >= 5


def test_no_glacier_at_all():
    empty = mask()
    table = per_glacier.scores_per_glacier({"m": mask(A)}, {"labels": empty}, GRID)
    assert table["glacier_id"].tolist() == ["none"]
    assert table["predicted_km2"].tolist() == pytest.approx([0.24])


seeds = st.integers(0, 2**16)


@given(seeds)
def test_every_known_pixel_is_counted_once(seed):
    rng = np.random.default_rng(seed)
    reference, predicted = (rng.choice([0, 1, 255], GRID.shape).astype(np.uint8) for _ in "ab")
    listed = per_glacier.burn_glaciers(OUTLINES, GRID)
    parts = per_glacier.partition(reference, GRID, listed)
    assert (parts.zones[(reference == 1)] > 0).all()
    scores = per_glacier.glacier_scores(predicted, reference, parts, GRID)
    known = (reference != 255) & (predicted != 255)
    assert scores[["tp", "fp", "fn", "tn"]].to_numpy().sum() == known.sum()
    assert scores["predicted_km2"].sum() == pytest.approx((known & (predicted == 1)).sum() * 0.01)
    assert (scores["low"] <= scores["high"]).all()
    assert scores["cut"].dtype == bool


def test_classes_of_size():
    areas = pd.Series([0.0, 0.09, 0.1, 0.99, 1.0, 5.0, 30.0, math.nan])
    assert per_glacier.size_class(areas).astype(object).tolist() == [
        np.nan, "< 0.1", "0.1 to 1", "0.1 to 1", "1 to 5", "> 5", "> 5", np.nan,
    ]  # fmt: skip
