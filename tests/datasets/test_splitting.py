"""Where patches lie, no ground of validation in training, and the user's own decisions."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.datasets.layout import clip_patches, plan
from glacier_utils.datasets.splitting import (
    apply_overrides,
    cut_by_lines,
    locate_overrides,
    read_overrides,
    split_patches,
    write_overrides_template,
)
from glacier_utils.errors import GlacierError
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


@pytest.mark.slow
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


# --- cuts through patches


def small(ice, count=1):
    """The table of one row of patches with its labels, and the split of whole patches."""
    sources = {("train", "2023-08"): SimpleNamespace(grid=grid(64, 64 * count), tiles=[])}
    patches = plan(sources, size=64, strides={"train": None})
    labels = np.stack(np.split(ice, count, axis=1))
    patches = patches.assign(reason="", known=64**2, ice=(labels == 1).sum(axis=(1, 2)))
    split = split_patches(
        patches, size=64, train_areas=["train"], block_patches={"train": 1}, buffer_px=32
    )
    return sources, patches, labels, split


def cut(patches, labels, split):
    return cut_by_lines(
        patches, labels, split, size=64, train_areas=["train"], fraction=0.25, strip_px=8
    )


@pytest.mark.parametrize("count", [1, 2])
def test_a_line_cuts_where_whole_patches_do_not_do(count):
    ice = np.zeros((64, 64 * count), np.uint8)
    ice[:32] = 1
    sources, patches, labels, split = small(ice, count)
    assert not split.enough
    table = cut(patches, labels, split)
    # Across the ice's edge: a quarter validates and eight columns lie between.
    sides = dict(list(table.groupby("part")))
    assert sorted(sides) == ["train", "validation"]
    assert (table["bottom"] - table["top"] == 64).all()
    columns = {part: sum(side["right"] - side["left"]) for part, side in sides.items()}
    assert columns["validation"] == pytest.approx(16 * count, abs=1)
    assert columns["train"] == 64 * count - 8 - columns["validation"]
    clipped = clip_patches(patches, table, sources)
    train, validation = (
        shapely.union_all(clipped.geometry[(table["part"] == part).to_numpy()].to_numpy())
        for part in ("train", "validation")
    )
    assert train.area == pytest.approx(columns["train"] * 64 * 100)
    assert train.distance(validation) == pytest.approx(80)


@pytest.mark.parametrize("ice", [0, 64, 390])
def test_with_too_little_of_a_class_no_line_is_drawn_and_all_trains(ice):
    label = np.zeros((64, 64), np.uint8)
    label.flat[:ice] = 1
    _, patches, labels, split = small(label)
    table = cut(patches, labels, split)
    assert table[["patch", "part", "reason"]].to_numpy().tolist() == [[0, "train", ""]]


# --- decisions on single patches

HEAD = "area,date,row,col,decision,comment\n"
KNOWN = [("train", "2023-07"), ("train", "2023-08"), ("test", "2023-08")]


@pytest.fixture
def index():
    return pd.DataFrame(
        {
            "area": ["train", "train", "test"],
            "date": "2023-08",
            "row": [0, 32, 0],
            "col": [0, 0, -5],
            "split": ["train", "dropped", "test"],
            "reason": ["", "unknown 83 % > 50 %", ""],
        }
    )


@pytest.fixture
def write(tmp_path):
    def write(text, encoding="utf-8"):
        path = tmp_path / "overrides.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


def test_decisions_are_found_and_applied(index, write):
    path = write(
        HEAD + 'train,2023-08,32,0,keep,"ice, seen on foot"\n\ntest, 2023-08, 0, -5, drop,\n'
    )
    found = locate_overrides(read_overrides(path), index, KNOWN)
    assert found["row"].to_dict() == {1: 32, 2: 0}
    reasons, notes = apply_overrides(index["reason"].to_numpy(object), found)
    assert reasons.tolist() == ["", "", "dropped by override"]
    assert notes.tolist() == ["", "kept by override: ice, seen on foot", ""]


def test_a_decision_that_agrees_changes_nothing(index, write):
    path = write(HEAD + "train,2023-08,0,0,keep,fine\ntrain,2023-08,32,0,drop,mist\n")
    before = index["reason"].to_numpy(object)
    reasons, notes = apply_overrides(before, locate_overrides(read_overrides(path), index, KNOWN))
    assert reasons.tolist() == before.tolist()
    assert not notes.any()


def test_the_template_says_what_is_and_changes_nothing(index, tmp_path):
    path = write_overrides_template(index, tmp_path / "template.csv")
    assert path.read_text().splitlines() == [
        HEAD.strip(),
        "train,2023-08,0,0,keep,",
        "train,2023-08,32,0,drop,unknown 83 % > 50 %",
        "test,2023-08,0,-5,keep,",
    ]
    found = locate_overrides(read_overrides(path), index, KNOWN)
    before = index["reason"].to_numpy(object)
    reasons, notes = apply_overrides(before, found)
    assert reasons.tolist() == before.tolist()
    assert not notes.any()


def test_blank_lines_and_the_mark_of_an_encoding_are_no_decisions(write):
    line = "train,2023-08,0,32,drop,NA\n"
    plain, other = (
        read_overrides(write(text, encoding)).to_numpy().tolist()
        for text, encoding in ((HEAD + line, "utf-8"), (HEAD + "\n" + line, "utf-8-sig"))
    )
    assert plain == other == [["train", "2023-08", 0, 32, "drop", "NA"]]


def test_lines_on_other_dates_of_the_dataset_are_passed_over(index, write):
    path = write(HEAD + "train,2023-07,0,0,drop,\n")
    assert locate_overrides(read_overrides(path), index, KNOWN).empty


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train,2023-08,0,0,maybe,", "line 2: .*decision 'maybe' keep or drop"),
        ("train,2023-08,0,0,,", "line 2: .*decision ''"),
        ("train,2023-08,0,x,keep,", "line 2: row '0' and col 'x'"),
        ("train,2023-08,0", "line 2: row '0' and col ''"),
        ("train,2023-08,0,0,keep,\ntrain,2023-08,0,0,drop,", "line 3: this patch stands above"),
        ("train,2023-08,0,0,keep,\ntrain,2023-08,00,0,drop,", "line 3: this patch stands above"),
        ("train,2023-08,0,7,keep,", r"line 2: .*'train'.*'2023-08' at row 0, col 7"),
        ("trian,2023-08,0,0,keep,", "line 2: .*'trian'"),
        ("train,2022-08,0,0,keep,", "line 2: .*'2022-08'"),
    ],
)
def test_mistakes_name_file_and_line(index, write, line, message):
    path = write(HEAD + line + "\n")
    with pytest.raises(GlacierError, match=message) as caught:
        locate_overrides(read_overrides(path), index, KNOWN)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"area,date,row,decision,comment\n", "line 1: column col is missing"),
        (b"", "cannot be read as CSV"),
        (b"area;date;row;col;decision;comment\n", "line 1: column area, date"),
        (b"\xff\xfe\x00area", "cannot be read as CSV"),
    ],
)
def test_files_that_are_none(tmp_path, content, message):
    path = tmp_path / "overrides.csv"
    path.write_bytes(content)
    with pytest.raises(GlacierError, match=message):
        read_overrides(path)
    with pytest.raises(GlacierError, match="cannot be read"):
        read_overrides(tmp_path / "none.csv")


def test_positions_do_not_depend_on_the_order_of_the_index(index, write):
    path = write(HEAD + "train,2023-08,32,0,keep,\n")
    turned = index.iloc[::-1].reset_index(drop=True)
    assert [*locate_overrides(read_overrides(path), turned, KNOWN).index] == [1]
    assert np.array_equal(turned.loc[[1], "row"], [32])
