"""No ground of validation in training: layouts of several dates, grids and strides."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.datasets.splitting import plan, split_patches
from glacier_utils.raster.grid import Grid

X, Y, SIZE = 500_000, 6_800_000, 24
UTM = CRS.from_epsg(32623)


def grid(height, width, resolution=10, dx=0, dy=0):
    return Grid(UTM, Affine(resolution, 0, X + dx, 0, -resolution, Y - dy), height, width)


def ground(patch, source):
    """The patch's part inside its frame in whole metres from (X, Y): top, left, bottom, right."""
    frame, pixel = source.grid, source.grid.transform.a
    rows = np.clip([patch["row"], patch["row"] + SIZE], 0, frame.height)
    cols = np.clip([patch["col"], patch["col"] + SIZE], 0, frame.width)
    top, bottom = Y - frame.transform.f + rows * pixel
    left, right = frame.transform.c - X + cols * pixel
    return [round(value) for value in (top, left, bottom, right)]


@st.composite
def layouts(draw):
    """Two dates of one place: the second shifted by metres, in part with coarser pixels."""
    height, width = draw(st.integers(8, 12)) * SIZE, draw(st.integers(8, 12)) * SIZE
    first = grid(height + draw(st.integers(0, 9)), width)
    pixel = draw(st.sampled_from([10, 10, 12]))
    shift = st.integers(-130, 130)
    second = grid(height * 10 // pixel, width * 10 // pixel, pixel, dx=draw(shift), dy=draw(shift))
    return {
        ("train", "2023-07"): SimpleNamespace(grid=first, tiles=[]),
        ("train", "2023-08"): SimpleNamespace(grid=second, tiles=[]),
    }


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sources=layouts(),
    stride=st.sampled_from([None, SIZE // 2, SIZE - 5]),
    buffer_px=st.sampled_from([0, SIZE / 2, 20]),
    fraction=st.floats(0.15, 0.35),
    block=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_no_pixel_of_validation_lies_in_training(sources, stride, buffer_px, fraction, block, seed):
    patches = plan(sources, size=SIZE, strides={"train": stride})
    rng = np.random.default_rng(seed)
    patches = patches.assign(
        reason=np.where(rng.random(len(patches)) < 0.1, "unknown", ""),
        known=SIZE**2,
        ice=rng.integers(0, SIZE**2, len(patches)),
    )
    split = split_patches(
        patches, size=SIZE, train_areas=["train"], block_patches={"train": block},
        validation_fraction=fraction, buffer_px=buffer_px, seed=seed,
    )  # fmt: skip
    # Every metre of the ground, from the frames themselves and not from the table's boxes.
    canvas = {part: np.zeros((4000, 4000), bool) for part in ("train", "validation")}
    boxes = {part: [] for part in canvas}
    for (_, patch), part in zip(patches.iterrows(), split.part, strict=True):
        if part in canvas:
            box = ground(patch, sources[patch["area"], patch["date"]])
            top, left, bottom, right = (value + 500 for value in box)
            canvas[part][top:bottom, left:right] = True
            boxes[part].append(shapely.box(left, top, right, bottom))
    assert canvas["train"].any()
    assert canvas["validation"].any()
    assert not (canvas["train"] & canvas["validation"]).any()
    train, validation = (shapely.union_all(boxes[part]) for part in ("train", "validation"))
    # The strip between them, to the half pixel by which grids may differ.
    assert train.distance(validation) >= 10 * max(1, buffer_px) - 5
    # All dates of a block are on one side.
    used = np.isin(split.part, ["train", "validation"])
    sides = patches[used].assign(part=split.part[used], block=split.block[used])
    assert sides.groupby("block")["part"].nunique().max() == 1
    # No pixel of validation counts twice on one date.
    for date in ("2023-07", "2023-08"):
        one = (split.part == "validation") & (patches["date"] == date)
        boxes = patches["ground"][one].to_numpy()
        assert shapely.union_all(boxes).area == pytest.approx(shapely.area(boxes).sum())
    # What is unused says why.
    assert ((split.reason != "") == ~used).all()


def test_a_strip_of_metres_parts_the_sides():
    sources = {("train", "2023-08"): SimpleNamespace(grid=grid(12 * SIZE, 12 * SIZE), tiles=[])}
    patches = plan(sources, size=SIZE, strides={"train": None})
    patches = patches.assign(reason="", known=SIZE**2, ice=SIZE**2 // 2)
    gaps = []
    for buffer_px in (0, SIZE / 2, SIZE, SIZE + 1, 2 * SIZE + 1):
        split = split_patches(
            patches, size=SIZE, train_areas=["train"], block_patches={"train": 3},
            buffer_px=buffer_px,
        )  # fmt: skip
        train, validation = (
            shapely.union_all(patches["ground"][split.part == part].to_numpy())
            for part in ("train", "validation")
        )
        gaps.append(train.distance(validation) / 10 / SIZE)
    # A strip of whole patches, since patches are what is left out: one at least.
    assert gaps == pytest.approx([1, 1, 1, 2, 3])
