"""Blocks of ground: the length over which errors are alike, the side that follows, the counts."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils import coverage, metrics
from glacier_utils.evaluation import bootstrap
from glacier_utils.raster.grid import Grid


def grid(shape, *, pixel=10.0, crs="EPSG:32623"):
    return Grid(crs and CRS.from_user_input(crs), Affine(pixel, 0, 0, 0, -pixel, 0), *shape)


# --- correlation


def test_errors_are_known_where_both_are():
    mask = np.array([[0, 1, 1, 255, 0]], np.uint8)
    reference = np.array([[0, 0, 1, 1, 255]], np.uint8)
    np.testing.assert_array_equal(bootstrap.errors(mask, reference), [[0, 1, 0, np.nan, np.nan]])


@settings(max_examples=25)
@given(st.integers(3, 11), st.integers(3, 11), st.integers(0, 2**16))
def test_correlogram_like_the_sum_over_all_pairs(height, width, seed):
    generator = np.random.default_rng(seed)
    field = generator.integers(0, 2, (height, width)).astype(float)
    field[generator.random(field.shape) < 0.2] = np.nan
    found = bootstrap.correlogram(field, 10.0)
    assert len(found) == min(height, width) // 2 + 1
    values = {
        (row, col): value - np.nanmean(field)
        for (row, col), value in np.ndenumerate(field)
        if np.isfinite(value)
    }
    products: dict[int, list[float]] = {}
    for one, a in values.items():
        for other, b in values.items():
            distance = round(math.hypot(one[0] - other[0], one[1] - other[1]))
            products.setdefault(distance, []).append(a * b)
    if len(values) < 1 or np.ptp(list(values.values())) == 0:
        assert found["correlation"].isna().all()
        return
    for row in found.itertuples():
        pairs = products.get(round(row.distance_m / 10), [])
        assert row.pairs == len(pairs)
        if pairs:
            expected = np.mean(pairs) / np.mean(products[0])
            assert row.correlation == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("length", [60.0, 150.0])
def test_the_length_of_a_field_of_known_correlation(length):
    # exp(-d / length) falls below 0.1 at 2.3 lengths and below 1/e at one.
    generator = np.random.default_rng(0)
    fields = [coverage.random_field(generator, 300, length / 10) for _ in range(6)]
    curves = [bootstrap.correlogram(field, 10.0) for field in fields]
    mean = pd.concat(curves).groupby("distance_m", as_index=False).mean()
    assert bootstrap.correlation_length(mean, 1 / math.e) == pytest.approx(length, rel=0.15)
    assert bootstrap.correlation_length(mean) == pytest.approx(length * math.log(10), rel=0.2)


def test_lengths_by_hand():
    curve = pd.DataFrame({"distance_m": [0, 10, 20], "correlation": [1.0, 0.3, -0.1]})
    assert bootstrap.correlation_length(curve, 0.2) == pytest.approx(12.5)
    assert bootstrap.correlation_length(curve, 0.65) == pytest.approx(5)
    assert bootstrap.correlation_length(curve, -0.5) == math.inf
    assert math.isnan(bootstrap.correlation_length(bootstrap.correlogram(np.ones((9, 9)), 10.0)))
    assert math.isnan(
        bootstrap.correlation_length(bootstrap.correlogram(np.full((9, 9), np.nan), 10.0))
    )


def test_large_maps_are_averaged_down(monkeypatch):
    generator = np.random.default_rng(1)
    field = coverage.random_field(generator, 300, 20.0)
    field[:40, :50] = np.nan
    fine = bootstrap.correlation_length(bootstrap.correlogram(field, 10.0))
    monkeypatch.setattr(bootstrap, "_LARGEST", 100)
    curve = bootstrap.correlogram(field, 10.0)
    assert curve["distance_m"].diff().dropna().eq(30).all()
    assert bootstrap.correlation_length(curve) == pytest.approx(fine, rel=0.1)


# --- the side


@pytest.mark.parametrize(
    ("length", "extent", "side", "number", "enough"),
    [
        (500, (40_000, 40_000), 2000, 400, True),  # four lengths, and many blocks
        (1200, (12_800, 12_800), 3200, 16, True),  # as large as sixteen blocks allow
        (5000, (12_800, 12_800), 3200, 16, False),
        (math.inf, (12_800, 12_800), 3200, 16, False),
        (math.nan, (12_800, 12_800), 3200, 16, True),
        (2000, (4000, 40_000), 2500, 16, True),  # a strip is cut across only
    ],
)
def test_side_of_the_blocks(length, extent, side, number, enough):
    found = bootstrap.block_side(length, extent)
    assert found.side_m == pytest.approx(side)
    assert (found.blocks, found.enough) == (number, enough)
    assert ("too narrow" in found.reason) is not enough


@settings(max_examples=60)
@given(st.floats(1, 1e5), st.floats(1e3, 1e5), st.floats(1e3, 1e5), st.integers(2, 20))
def test_there_are_never_fewer_blocks_than_asked_for(length, height, width, least):
    found = bootstrap.block_side(length, (height, width), least_blocks=least)
    assert found.blocks >= least
    assert found.enough == (found.side_m > length)
    assert found.side_m <= bootstrap.LENGTHS * length * (1 + 1e-9)


# --- counts


@settings(max_examples=40)
@given(
    height=st.integers(5, 70),
    width=st.integers(5, 70),
    pixel=st.sampled_from([1.0, 10.0, 100.0, 5000.0]),
    crs=st.sampled_from([None, "EPSG:32623"]),
    seed=st.integers(0, 99),
)
def test_counts_of_the_blocks_add_up_to_those_of_the_whole(height, width, pixel, crs, seed):
    generator = np.random.default_rng(seed)
    mask, reference = generator.choice([0, 1, 255], (2, height, width)).astype(np.uint8)
    counts = bootstrap.block_counts(mask, reference, grid((height, width), pixel=pixel, crs=crs))
    assert counts["block"].is_unique
    assert len(counts) >= 16
    whole = metrics.count(mask, reference)
    assert counts[metrics.COUNTS].sum().tolist() == list(vars(whole).values())


def test_blocks_are_equal_and_no_smaller_than_asked_for():
    mask = np.ones((400, 1300), np.uint8)
    counts = bootstrap.block_counts(mask, mask, grid(mask.shape, pixel=30.0))
    assert len(counts) == 4 * 12  # 12.0 km and 39.0 km of 3.2 km, but four a side at least
    assert counts["tp"].between(100 * 108, 100 * 109).all()
    counts = bootstrap.block_counts(mask, mask, grid(mask.shape, pixel=30.0), side_m=7000.0)
    assert counts["block"].tolist() == [f"00-{col:02d}" for col in range(5)]


def test_blocks_of_patches_are_those_of_the_whole_map():
    # 6 x 6 patches of 10 px and blocks of 20 px: patches and whole map give the same counts.
    generator = np.random.default_rng(0)
    mask, reference = generator.integers(0, 2, (2, 60, 60)).astype(np.uint8)
    rows, cols = (part.ravel() * 10 for part in np.indices((6, 6)))
    cut = [
        np.stack([whole[r : r + 10, c : c + 10] for r, c in zip(rows, cols, strict=True)])
        for whole in (mask, reference)
    ]
    index = pd.DataFrame({"area": "test", "row": rows + 70, "col": cols + 30})
    names = bootstrap.patch_blocks(index, 10, 20)
    by_patch = metrics.count_patches(*cut).groupby(names).sum()
    whole = bootstrap.block_counts(mask, reference, grid((60, 60)), side_m=200.0).set_index("block")
    assert by_patch.index.str.removeprefix("test:").tolist() == whole.index.tolist()
    np.testing.assert_array_equal(by_patch, whole)


def test_patches_of_two_areas_never_share_a_block():
    index = pd.DataFrame({"area": ["b", "a", "b"], "row": [0, 0, 10], "col": [0, 0, 0]})
    assert bootstrap.patch_blocks(index, 10, 20).tolist() == ["b:00-00", "a:00-00", "b:00-00"]
    assert bootstrap.patch_blocks(index, 10, 10).tolist() == ["b:00-00", "a:00-00", "b:01-00"]
