"""Tiling, the spatial split, statistics, and the patch store."""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from glacier_utils.datasets import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid, Image
from glacier_utils.patches import build_patches, masked_statistics, open_store
from glacier_utils.rasters import write_raster
from glacier_utils.splits import split_patches
from glacier_utils.tiling import chunks, plan, windows

UTM = CRS.from_epsg(32623)
BANDS = ("red", "green", "blue", "nir")


def grid_of(height, width, resolution=10.0, x=500_000.0, y=6_800_000.0, crs=UTM):
    return Grid(crs, Affine(resolution, 0, x, 0, -resolution, y), height, width)


def cut(array, row, col, height, width, fill):
    """A window that may stick out of the array."""
    result = np.full((*array.shape[:-2], height, width), fill, array.dtype)
    top, left = max(row, 0), max(col, 0)
    bottom, right = min(row + height, array.shape[-2]), min(col + width, array.shape[-1])
    if top < bottom and left < right:
        part = array[..., top:bottom, left:right]
        result[..., top - row : bottom - row, left - col : right - col] = part
    return result


class StubSource:
    def __init__(self, grid, image, valid, tiles=()):
        self.grid, self.image, self.valid, self.tiles = grid, image, valid, list(tiles)
        self.bands, self.reads = BANDS, 0

    def read(self, row, col, height, width):
        self.reads += 1
        valid = cut(self.valid, row, col, height, width, False)
        image = cut(self.image, row, col, height, width, 0) * valid
        return Image(image, valid, BANDS, self.grid.window(row, col, height, width))


class StubMask:
    def __init__(self, array):
        self.array = array

    def read(self, row, col, height, width):
        return cut(self.array, row, col, height, width, 255)


class StubDataset:
    """Areas of random reflectance; the glacier is a disc, so that blocks differ."""

    name, bands, fingerprint = "stub", BANDS, "0123"
    manifest: ClassVar = {"reflectance": {"scale": 10000}}

    def __init__(self, folder, grids, dates=("2023-07", "2023-08"), truth=False):
        self.folder, self.areas = folder, tuple(grids)
        self._dates, self._truth, self.opened = dates, truth, 0
        self.sources, self.masks = {}, {}
        for number, (area, grid) in enumerate(grids.items()):
            rng = np.random.default_rng(number)
            row, col = np.mgrid[: grid.height, : grid.width]
            far = np.hypot(row - grid.height / 2, col - grid.width / 2)
            label = (far < 0.35 * max(grid.height, grid.width)).astype(np.uint8)
            for date in dates:
                image = rng.uniform(0.05, 0.9, (4, grid.height, grid.width)).astype(np.float32)
                valid = np.ones((grid.height, grid.width), bool)
                self.sources[area, date] = StubSource(grid, image, valid)
                self.masks[area, date] = label.copy()

    def dates(self, area):
        return self._dates

    def source(self, area, date):
        self.opened += 1
        return self.sources[area, date]

    def labels(self, area, date, *, rule="nearest", band_m=0.0):
        return StubMask(self.masks[area, date])

    def outlines(self, area, date, *, rule="nearest"):
        return None

    def truth(self, area, date):
        return StubMask(self.masks[area, date]) if self._truth else None

    def surface(self, area, date):
        return None


@pytest.fixture
def dataset(tmp_path):
    grids = {"train": grid_of(320, 384), "test": grid_of(200, 160, x=600_000.0)}
    return StubDataset(tmp_path, grids, truth=True)


def build(dataset, **arguments):
    return build_patches(dataset, **{"size": 32, "block_m": 640.0, **arguments})


# --- tiling


def test_windows_cover_the_frame_and_stick_out_at_its_end():
    corners = windows(grid_of(70, 64), 32, 32)
    assert corners == [(row, col) for row in (0, 32, 64) for col in (0, 32)]


def test_overlapping_windows_stop_when_nothing_new_would_come():
    corners = windows(grid_of(64, 64), 32, 16)
    assert sorted({row for row, _ in corners}) == [0, 16, 32]


def test_a_shifted_date_is_tiled_like_the_first_one():
    first = grid_of(96, 96)
    second = first.window(10, 5, 80, 80)
    corners = windows(second, 32, 32, reference=first)
    assert corners[0] == (-10, -5)


def test_files_of_the_patch_size_are_the_windows():
    tiles = [(0, 0, 32, 32), (40, 3, 32, 32)]
    assert windows(grid_of(72, 35), 32, 32, tiles=tiles, own_tiles=True) == [(0, 0), (40, 3)]
    # Files of another size are cut by the lattice, and empty windows are left out.
    tiles = [(0, 0, 64, 64), (128, 128, 64, 64)]
    corners = windows(grid_of(192, 192), 32, 32, tiles=tiles, own_tiles=True)
    assert len(corners) == 8
    assert (64, 0) not in corners


@given(st.integers(1, 150), st.integers(1, 150), st.integers(16, 40), st.data())
def test_every_pixel_lies_in_a_window(height, width, size, data):
    stride = data.draw(st.integers(max(size // 4, 1), size))
    covered = np.zeros((height, width), bool)
    for row, col in windows(grid_of(height, width), size, stride):
        covered[row : row + size, col : col + size] = True
    assert covered.all()


def test_chunks_hold_each_window_once_and_stay_small():
    rows, cols = np.array(windows(grid_of(3000, 2500), 128, 64)).T
    groups = list(chunks(rows, cols, 128))
    assert sorted(np.concatenate(groups)) == list(range(len(rows)))
    assert len(groups) == 9
    for group in groups:
        assert np.ptp(rows[group]) + 128 <= 1024 + 128
        assert np.ptp(cols[group]) + 128 <= 1024 + 128


# --- the split


def pixels_of(store, split):
    """The ground of a part as (area, pixel row, pixel col), grown by one pixel for its border."""
    index = store.index[store.index["split"] == split]
    size = store.parameters["size"]
    return {
        (area, y, x)
        for area, row, col in zip(index["area"], index["row"], index["col"], strict=True)
        for y in range(row, row + size)
        for x in range(col, col + size)
    }


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    height=st.integers(6, 14),
    width=st.integers(6, 14),
    part=st.sampled_from([2, 4, 3]),
    fraction=st.floats(0.1, 0.4),
    seed=st.integers(0, 5),
    block=st.integers(1, 4),
    data=st.data(),
)
def test_no_pixel_and_no_border_is_shared(height, width, part, fraction, seed, block, data):
    size = 24
    stride = data.draw(st.sampled_from([None, size // part, size - 5]))
    grid = grid_of(height * size + data.draw(st.integers(0, 9)), width * size)
    sources = {
        ("train", date): SimpleNamespace(grid=grid, tiles=[]) for date in ("2023-07", "2023-08")
    }
    patches = plan(sources, size=size, strides={"train": stride})
    rng = np.random.default_rng(seed)
    patches = patches.assign(
        reason=np.where(rng.random(len(patches)) < 0.1, "unknown", ""),
        known=size**2,
        ice=rng.integers(0, size**2, len(patches)),
    )
    split = split_patches(
        patches,
        size=size,
        train_areas=["train"],
        block_patches={"train": block},
        validation_fraction=fraction,
        seed=seed,
    )
    boxes = {
        name: shapely.union_all(patches["ground"][split.part == name].to_numpy())
        for name in ("train", "validation")
    }
    assert not boxes["train"].is_empty
    assert not boxes["validation"].is_empty
    # At least a pixel apart, whatever the date: neither overlap nor a common border.
    assert boxes["train"].distance(boxes["validation"]) >= 10.0
    # No validation pixel counts twice on one date.
    for date in ("2023-07", "2023-08"):
        chosen = (split.part == "validation") & (patches["date"] == date)
        ground = patches["ground"][chosen].to_numpy()
        assert shapely.union_all(ground).area == pytest.approx(shapely.area(ground).sum())
    # All dates of a place are on one side.
    sides = patches.assign(part=split.part)[np.isin(split.part, ["train", "validation"])]
    assert sides.groupby(["row", "col"])["part"].nunique().max() == 1
    # What is unused says why.
    unused = np.isin(split.part, ["buffer", "dropped"])
    assert ((split.reason != "") == unused).all()


def test_validation_is_compact_and_like_the_area(dataset):
    store = build(dataset)
    index = store.index
    train = index[index["area"] == "train"]
    share = (train["split"] == "validation").mean()
    assert 0.15 < share < 0.375
    validation = train[train["split"] == "validation"]
    hull = shapely.union_all(validation.geometry.to_numpy())
    assert hull.geom_type == "Polygon"
    assert abs(validation["glacier"].mean() - train["glacier"].mean()) < 0.15
    # Whole blocks: a validation block holds no training patch.
    sides = train[train["split"].isin(["train", "validation"])].groupby("block")["split"]
    assert sides.nunique().max() == 1


def test_other_areas_test_without_overlap(dataset):
    store = build(dataset, stride=16)
    test = store.index[store.index["area"] == "test"]
    assert set(test["split"]) <= {"test", "dropped"}
    for _, group in test.groupby("date"):
        boxes = group.geometry.to_numpy()
        assert shapely.union_all(boxes).area == pytest.approx(shapely.area(boxes).sum())


def test_training_ground_inside_a_test_area_is_not_used(tmp_path):
    train = grid_of(320, 320)
    dataset = StubDataset(tmp_path, {"train": train, "test": train.window(0, 256, 320, 64)})
    store = build(dataset)
    shared = store.index["reason"] == "shares ground with a test area"
    assert shared.sum() == 2 * 10 * 2
    assert (store.index["split"][shared] == "buffer").all()
    used = store.index[store.index["split"].isin(["train", "validation"])]
    assert used.geometry.bounds["maxx"].max() <= 500_000 + 2560


def test_two_spellings_and_a_missing_date_edge_stay_on_one_side(tmp_path):
    dataset = StubDataset(tmp_path, {"train": grid_of(320, 320)})
    # The second date starts 40 m east and south, on the same pixels.
    dataset.sources["train", "2023-08"].grid = dataset.sources["train", "2023-07"].grid.window(
        4, 4, 320, 320
    )
    index = build(dataset).index
    used = index[index["split"].isin(["train", "validation"])]
    sides = used.groupby("split").geometry.apply(lambda part: shapely.union_all(part.to_numpy()))
    assert sides["train"].distance(sides["validation"]) >= 10.0


def test_a_small_area_gets_smaller_blocks_and_says_so(tmp_path):
    dataset = StubDataset(tmp_path, {"train": grid_of(128, 128)}, dates=("2023-08",))
    store = build(dataset, block_m=3840.0)
    used = store.parameters["blocks"]["train"]
    assert used["smaller_than_asked"]
    assert used["block_m"] < 3840
    assert {"train", "validation"} <= set(store.index["split"])


def test_an_area_too_small_says_what_to_set(tmp_path):
    dataset = StubDataset(tmp_path, {"train": grid_of(60, 60)}, dates=("2023-08",))
    with pytest.raises(GlacierError, match=r"'train'.*usable patches of 32 px.*smaller size"):
        build(dataset)
    assert not list(tmp_path.rglob("*.npy"))


def test_an_area_without_labels_says_so(tmp_path):
    dataset = StubDataset(tmp_path, {"train": grid_of(320, 320)}, dates=("2023-08",))
    dataset.masks["train", "2023-08"][:] = 255
    with pytest.raises(GlacierError, match=r"'train'.*unknown 100 % > 50 %.*outlines"):
        build(dataset)


# --- arrays, reasons, statistics


def test_arrays_hold_what_the_index_says(dataset):
    source = dataset.sources["train", "2023-08"]
    source.valid[:64, :64] = False
    store = build(dataset)
    assert store.images.dtype == np.float32
    assert store.images.shape == (len(store), 4, 32, 32)
    assert store.labels.shape == store.truth.shape == (len(store), 32, 32)
    assert store.surface is None
    assert store.index["patch"].tolist() == list(range(len(store)))
    for position in range(0, len(store), 17):
        row = store.index.iloc[position]
        image = dataset.sources[row["area"], row["date"]].read(row["row"], row["col"], 32, 32)
        np.testing.assert_array_equal(store.images[position], image.reflectance)
        label = cut(dataset.masks[row["area"], row["date"]], row["row"], row["col"], 32, 32, 255)
        np.testing.assert_array_equal(store.labels[position], np.where(image.valid, label, 255))
        np.testing.assert_array_equal(store.valid(slice(position, position + 1))[0], image.valid)
        assert row["unknown"] == pytest.approx((store.labels[position] == 255).mean())
        assert row.geometry.equals(
            dataset.sources[row["area"], row["date"]]
            .grid.window(row["row"], row["col"], 32, 32)
            .box
        )
    dropped = store.index[store.index["split"] == "dropped"]
    assert len(dropped) == 4 + 2 * 5  # no data, and the last row of the test area: 8 of 32 px
    assert (dropped["reason"].str.startswith("no data")).all()
    assert store.index["cloud"].isna().all()


def test_reason_names_the_figure(dataset):
    dataset.masks["test", "2023-08"][:27, :32] = 255
    store = build(dataset)
    first = store.index.iloc[store.select(area="test", date="2023-08")[0]]
    assert first["split"] == "dropped"
    assert first["reason"] == "unknown 84 % > 50 %"


def test_statistics_come_from_known_training_pixels_only(dataset):
    for (area, _), mask in dataset.masks.items():
        if area == "train":
            mask[::3] = 255
    store = build(dataset)
    train = store.select(split="train")
    known = np.asarray(store.labels[train]) != 255
    values = np.moveaxis(np.asarray(store.images[train]), 1, 0)[:, known].astype(np.float64)
    statistics = store.statistics
    np.testing.assert_allclose(statistics["mean"], values.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(statistics["std"], values.std(axis=1), rtol=1e-12)
    assert statistics["count"] == values.shape[1]
    assert statistics["glacier"] == pytest.approx(np.asarray(store.labels[train])[known].mean())
    assert statistics["bands"] == list(BANDS)
    # Other parts have no say: other values there leave the statistics as they are.
    images = np.array(store.images)
    images[np.setdiff1d(np.arange(len(store)), train)] = 99
    assert masked_statistics(images, store.labels, train)["mean"] == statistics["mean"]


def test_statistics_keep_their_digits_far_from_zero():
    images = np.full((3, 1, 4, 4), 1e4, np.float32)
    images[0] += 1
    labels = np.zeros((3, 4, 4), np.uint8)
    found = masked_statistics(images, labels, np.arange(3))
    assert found["std"][0] == pytest.approx(np.sqrt(2) / 3, rel=1e-12)


def test_parts_say_how_much_each_got(dataset):
    parts = build(dataset).parts.set_index(["area", "split"])
    assert parts["patches"].sum() == 2 * (10 * 12 + 7 * 5)
    assert parts.loc["train", "km2"].sum() == pytest.approx(3.2 * 3.84)
    # Both dates show the same ground, which counts once.
    assert parts.loc["test", "km2"].sum() == pytest.approx(2.0 * 1.6)
    assert parts["glacier"].dropna().between(0, 1).all()


def test_a_place_without_training_has_no_statistics(dataset):
    store = build(dataset, train_areas=())
    assert set(store.index["split"]) <= {"test", "dropped"}
    assert np.isnan(store.statistics["mean"]).all()


# --- the store


def test_equal_parameters_do_no_work_and_others_never_mix(dataset):
    store = build(dataset)
    assert store.folder == dataset.folder / "patches" / store.key
    opened, reads = dataset.opened, dataset.sources["train", "2023-07"].reads
    again = build(dataset, train_areas=["train"], stride=None, areas=["train", "test"])
    assert again.folder == store.folder
    assert (dataset.opened, dataset.sources["train", "2023-07"].reads) == (opened, reads)
    pd.testing.assert_frame_equal(
        pd.DataFrame(again.index.drop(columns="geometry")),
        pd.DataFrame(store.index.drop(columns="geometry")),
    )
    keys = {store.key}
    for changed in (
        {"size": 48},
        {"stride": 16},
        {"seed": 1},
        {"max_unknown": 0.2},
        {"band_m": 15.0},
        {"rule": "latest"},
        {"dates": ["2023-08"]},
        {"areas": ["train"]},
        {"block_m": 320.0},
        {"validation_fraction": 0.2},
    ):
        keys.add(build(dataset, **changed).key)
    dataset.fingerprint = "4567"
    keys.add(build(dataset).key)
    assert len(keys) == 12
    assert len(list((dataset.folder / "patches").iterdir())) == 12


def test_a_failed_build_leaves_nothing(dataset, monkeypatch):
    def broken(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(dataset.sources["test", "2023-08"], "read", broken)
    with pytest.raises(OSError, match="disk full"):
        build(dataset)
    assert list((dataset.folder / "patches").iterdir()) == []


def test_the_same_seed_gives_the_same_store(dataset, tmp_path):
    one = build(dataset, folder=tmp_path / "one")
    two = build(dataset, folder=tmp_path / "two")
    assert one.key == two.key
    assert one.statistics == two.statistics
    assert one.index["split"].tolist() == two.index["split"].tolist()
    assert np.array_equal(one.images, two.images)


def test_the_index_opens_as_a_geopackage(dataset):
    store = build(dataset)
    info = pyogrio.read_info(store.folder / "index.gpkg")
    assert info["driver"] == "GPKG"
    assert info["geometry_type"] == "Polygon"
    assert gpd.read_file(store.folder / "index.gpkg").crs.to_epsg() == 32623


def test_images_without_georeference(tmp_path):
    grids = {name: grid_of(192, 192, 1.0, 0, 0, None) for name in ("train", "test")}
    dataset = StubDataset(tmp_path, grids, dates=("2023-08",))
    store = build(dataset)
    # The two areas lie on the same numbers, yet not on the same ground.
    assert not (store.index["reason"] == "shares ground with a test area").any()
    assert {"train", "validation", "buffer", "test"} == set(store.index["split"])


def test_select(dataset):
    store = build(dataset)
    assert len(store.select()) == len(store)
    august = store.select(area="train", date="2023-08", split=["train", "validation"])
    rows = store.index.iloc[august]
    assert set(rows["date"]) == {"2023-08"}
    assert set(rows["split"]) == {"train", "validation"}
    assert (np.diff(august) > 0).all()
    with pytest.raises(GlacierError, match=r"split 'tran'.*'train'"):
        store.select(split="tran")
    with pytest.raises(GlacierError, match="date '2023-09'"):
        store.select(date="2023-09")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"areas": ["tets"]}, "did you mean 'test'"),
        ({"train_areas": "trian"}, "did you mean 'train'"),
        ({"dates": ["2022-08"]}, "date '2022-08'"),
        ({"size": 4}, "size: 4 px"),
        ({"stride": 33}, "stride: 33 px"),
        ({"stride": 0}, "stride: 0 px"),
        ({"validation_fraction": 1.5}, "validation_fraction: 1.5"),
    ],
)
def test_mistakes_are_named(dataset, arguments, message):
    with pytest.raises(GlacierError, match=message):
        build(dataset, **arguments)


def test_a_broken_store_is_named(dataset):
    store = build(dataset)
    (store.folder / "labels.npy").unlink()
    with pytest.raises(GlacierError, match="not a whole patch store"):
        open_store(store.folder)
    with pytest.raises(GlacierError, match="not a whole patch store"):
        open_store(dataset.folder / "nowhere")


# --- with the data layer


def test_from_files_to_patches(tmp_path):
    rng = np.random.default_rng(0)
    scene = rng.integers(1100, 9000, (4, 192, 192)).astype(np.uint16)
    for area, x in (("train", 500_000.0), ("test", 510_000.0)):
        for date in ("2023-07", "2023-08"):
            for row in range(0, 192, 32):
                for col in range(0, 192, 32):
                    tile = scene[:, row : row + 32, col : col + 32].copy()
                    tile[:, :2, :2] = 0
                    grid = grid_of(192, 192, x=x).window(row, col, 32, 32)
                    name = f"{area}_{date}_r{row // 32:02d}_c{col // 32:02d}.tif"
                    write_raster(tmp_path / "images" / area / date / name, tile, grid, nodata=0)
    disc = shapely.Point(500_960, 6_799_040).buffer(700)
    other = shapely.box(510_000, 6_799_000, 511_000, 6_800_000)
    table = {"RGIId": ["a", "b"], "BgnDate": ["20010801", "20010801"]}
    outlines = gpd.GeoDataFrame(table, geometry=[disc, other], crs=32623).to_crs(4326)
    outlines.to_file(tmp_path / "outlines.gpkg")
    (tmp_path / "dataset.yaml").write_text(
        "name: tiny\nbands: [red, green, blue, nir]\noutlines: outlines.gpkg\n"
        "reflectance: {scale: 10000, offset: -1000, nodata: 0}\nareas:\n"
        + "".join(
            f"  {area}:\n"
            + "".join(
                f"    {date}: images/{area}/{date}/*.tif\n" for date in ("2023-07", "2023-08")
            )
            for area in ("train", "test")
        )
    )
    store = build_patches(open_dataset(tmp_path), size=32, block_m=640)
    assert len(store) == 4 * 36
    assert store.index["date"].unique().tolist() == ["2023-07", "2023-08"]
    assert {"train", "validation", "buffer", "test"} == set(store.index["split"])
    train = store.index[store.index["area"] == "train"]
    assert 0.3 < train["glacier"].mean() < 0.5
    assert (store.labels[:, :2, :2] == 255).all()
    assert not store.valid()[:, :2, :2].any()
    here = store.select(area="train", date="2023-08")
    assert len(here) == 36
    expected = (scene[:, 32:64, 64:96].astype(np.float32) - 1000) / 10000
    index = store.index.iloc[here]
    position = here[(index["row"] == 32) & (index["col"] == 64)][0]
    np.testing.assert_allclose(store.images[position][:, 2:], expected[:, 2:], atol=1e-6)
    assert build_patches(open_dataset(tmp_path), size=32, block_m=640).folder == store.folder
    # A file that changed makes another store.
    write_raster(
        tmp_path / "images/test/2023-08/test_2023-08_r00_c00.tif",
        scene[:, :32, :32] // 2,
        grid_of(32, 32, x=510_000.0),
        nodata=0,
    )
    assert build_patches(open_dataset(tmp_path), size=32, block_m=640).key != store.key
