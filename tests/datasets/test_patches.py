"""From a dataset to its patch store: facts, cloud, the split as built, statistics, keys."""

from __future__ import annotations

import math
from typing import ClassVar

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import rasterio
import shapely
import yaml
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.datasets import patches
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches
from glacier_utils.datasets.splitting import write_overrides_template
from glacier_utils.datasets.store import open_store
from glacier_utils.errors import GlacierError
from glacier_utils.raster import indices
from glacier_utils.raster.grid import Grid, Image
from glacier_utils.raster.io import write_raster

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
    reflectance = None

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

    name, bands, fingerprint, synthetic = "stub", BANDS, "0123", False
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

    def examine(self, area, date):
        return []

    def labels(self, area, date, *, rule="nearest", band_m=0.0):
        return StubMask(self.masks[area, date])

    def label_age(self, area, date, *, rule="nearest"):
        return None

    def truth(self, area, date):
        return StubMask(self.masks[area, date]) if self._truth else None

    def surface(self, area, date):
        return None

    scene_classification = clouds = surface


class CloudyDataset(StubDataset):
    """The first columns of the training area's August are cloud, the next ones its shadow."""

    def scene_classification(self, area, date):
        return self._clouds(area, date, 9, 3)

    def _clouds(self, area, date, cloud, shadow):
        if (area, date) != ("train", "2023-08"):
            return None
        codes = np.zeros(self.sources[area, date].grid.shape, np.uint8)
        codes[:, :24], codes[:, 24:32], codes[:8, 32:64] = cloud, shadow, 255
        return StubMask(codes)


def recode(source, *, scl=None, ready=None, method="auto"):
    """What ``clouds.cloud_mask`` does with the stub's codes."""
    masks = {"ready": ready, "scl": scl, "none": StubMask(None)}
    if method == "auto":
        method = next(name for name, mask in masks.items() if mask is not None)
    if masks[method] is None:
        raise GlacierError(f"cloud method {method!r}: needs it")
    lookup = np.arange(256, dtype=np.uint8)
    if method == "scl":
        lookup[:] = 0
        lookup[[8, 9, 3, 255]] = 1, 1, 2, 255
    mask = masks[method] if method == "none" else StubMask(lookup[masks[method].array])
    mask.method = method
    return mask


@pytest.fixture
def cloudy(tmp_path, monkeypatch):
    monkeypatch.setattr(patches, "cloud_mask", recode)
    return CloudyDataset(tmp_path, {"train": grid_of(320, 384)}, truth=True)


@pytest.fixture
def dataset(tmp_path):
    grids = {"train": grid_of(320, 384), "test": grid_of(200, 160, x=600_000.0)}
    return StubDataset(tmp_path, grids, truth=True)


def build(dataset, **arguments):
    return build_patches(dataset, **{"size": 32, "block_m": 640.0, **arguments})


# --- the split


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


def test_a_small_area_gets_smaller_blocks(tmp_path):
    dataset = StubDataset(tmp_path, {"train": grid_of(128, 128)}, dates=("2023-08",))
    store = build(dataset, block_m=3840.0)
    assert {"train", "validation"} <= set(store.index["split"])
    assert store.index["block"].nunique() > 1


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


# --- cloud


def test_cloud_and_shadow_are_unknown_and_counted(cloudy):
    store = build(cloudy)
    assert store.parameters["clouds"] == "auto"
    assert store.parameters["clouds_used"] == {"train": {"2023-07": "none", "2023-08": "scl"}}
    index = store.index.set_index(["date", "row", "col"])
    first = index.loc[("2023-08", 0, 0)]
    assert (first["cloud"], first["shadow"], first["unknown"]) == (0.75, 0.25, 1.0)
    assert first["reason"] == "unknown 100 % > 50 % (cloud and its shadow 100 %)"
    assert (store.labels[first["patch"]] == 255).all()
    assert (store.truth[first["patch"]] == 255).all()
    # The image stays what it is; what is not assessed stays as it is, and counts in no share.
    assert store.valid(slice(first["patch"], first["patch"] + 1)).all()
    second = index.loc[("2023-08", 0, 32)]
    assert (second["cloud"], second["shadow"], second["unknown"]) == (0, 0, 0)
    july = index.loc["2023-07"]
    assert july[["cloud", "shadow"]].isna().all(axis=None)
    assert (july["unknown"] == 0).all()


def test_clouds_are_left_alone_when_told_so(cloudy):
    store = build(cloudy, clouds="none")
    assert store.index["cloud"].isna().all()
    assert not (store.labels == 255).any()
    assert store.key != build(cloudy).key


def test_too_much_cloud_drops(cloudy):
    kept = build(cloudy, max_unknown=1.0).index
    dropped = build(cloudy, max_unknown=1.0, max_cloud=0.7).index
    assert not (kept["split"] == "dropped").any()
    assert set(dropped["reason"][dropped["split"] == "dropped"]) == {"cloud 75 % > 70 %"}


def test_a_mask_of_the_user_comes_first(cloudy, monkeypatch):
    monkeypatch.setattr(cloudy, "clouds", lambda *pair: cloudy._clouds(*pair, 2, 0))
    store = build(cloudy)
    assert store.parameters["clouds_used"]["train"]["2023-08"] == "ready"
    first = store.index[store.index["date"] == "2023-08"].iloc[0]
    assert (first["cloud"], first["shadow"]) == (0, 0.75)


def test_a_cloud_mask_that_is_not_there(cloudy):
    with pytest.raises(GlacierError, match=r"2023-07: cloud method .scl.: needs"):
        build(cloudy, clouds="scl")
    with pytest.raises(GlacierError, match=r"clouds 'slc'.*did you mean 'scl'"):
        build(cloudy, clouds="slc")


# --- overrides


def test_overrides_keep_and_drop(dataset, tmp_path):
    dataset.masks["train", "2023-08"][:, :32] = 255
    before = build(dataset)
    path = write_overrides_template(before.index, tmp_path / "overrides.csv")
    lines = path.read_text().splitlines()
    assert build(dataset, overrides=path).index["split"].equals(before.index["split"])
    place = "train,2023-08,0,0,drop,unknown 100 % > 50 %"
    lines[lines.index(place)] = "train,2023-08,0,0,keep,a lake"
    lines[lines.index("test,2023-08,0,0,keep,")] = "test,2023-08,0,0,drop,fog"
    path.write_text("\n".join(lines))
    store = build(dataset, overrides=path)
    assert len({store.key, before.key, build(dataset, overrides=path).key}) == 2
    index = store.index.set_index(["area", "date", "row", "col"])
    kept, dropped = index.loc["train", "2023-08", 0, 0], index.loc["test", "2023-08", 0, 0]
    assert kept["split"] in ("train", "validation")
    assert kept["reason"] == "kept by override: a lake"
    assert (dropped["split"], dropped["reason"]) == ("dropped", "dropped by override: fog")
    changed = [position for position, one in enumerate(store.index["reason"])
               if "override" in one]  # fmt: skip
    assert len(changed) == 2


def test_an_override_of_no_patch_leaves_nothing(dataset, tmp_path):
    path = tmp_path / "overrides.csv"
    path.write_text("area,date,row,col,decision,comment\ntrain,2023-08,1,0,drop,\n")
    with pytest.raises(GlacierError, match="line 2: there is no patch"):
        build(dataset, overrides=path)
    assert not list(tmp_path.rglob("*.npy"))


# --- the store


@pytest.mark.slow
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
        {"buffer_m": 330.0},
        {"max_cloud": 0.2},
        {"clouds": "none"},
    ):
        keys.add(build(dataset, **changed).key)
    dataset.fingerprint = "4567"
    keys.add(build(dataset).key)
    assert len(keys) == 15
    assert len(list((dataset.folder / "patches").iterdir())) == 15


def test_a_failed_build_leaves_nothing(dataset, monkeypatch):
    def broken(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(dataset.sources["test", "2023-08"], "read", broken)
    with pytest.raises(OSError, match="disk full"):
        build(dataset)
    assert list((dataset.folder / "patches").iterdir()) == []


def test_what_a_killed_build_left_is_removed_in_the_end(dataset):
    store = build(dataset)
    names = (f".{store.key}.01ab23cd", f".{store.key}.01ab23cd.old", ".0123456789ab.01ab23cd")
    left = [store.folder.with_name(name) for name in names]
    for folder in left:
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"half")
    (store.folder / "statistics.json").unlink()
    assert build(dataset).key == store.key
    # Another store may be in the making.
    assert [folder.exists() for folder in left] == [False, False, True]


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
        ({"buffer_m": -1.0}, "buffer_m: -1.0"),
        ({"buffer_m": float("nan")}, "buffer_m: nan"),
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


@pytest.mark.slow
def test_from_files_to_patches(tmp_path, monkeypatch):
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
    # Equal parameters: no raster is opened, and no file of the store is touched.
    files = {path: path.stat().st_mtime_ns for path in sorted(store.folder.iterdir())}
    with monkeypatch.context() as closed:
        closed.setattr(rasterio, "open", None)
        again = build_patches(open_dataset(tmp_path), size=32, block_m=640)
    assert again.folder == store.folder
    assert {path: path.stat().st_mtime_ns for path in sorted(store.folder.iterdir())} == files
    age = store.index["label_age"].dropna()
    assert age[store.index["date"] == "2023-08"].to_numpy() == pytest.approx(22.04, abs=0.01)
    assert store.index["disagreement"].between(0, 1).all()
    # A file that changed makes another store.
    write_raster(
        tmp_path / "images/test/2023-08/test_2023-08_r00_c00.tif",
        scene[:, :32, :32] // 2,
        grid_of(32, 32, x=510_000.0),
        nodata=0,
    )
    assert build_patches(open_dataset(tmp_path), size=32, block_m=640).key != store.key


@pytest.mark.slow
def test_a_scene_classification_makes_cloud_unknown(make_dataset, write_tif):
    folder = make_dataset(patches=(6, 6))
    content = yaml.safe_load((folder / "dataset.yaml").read_text())
    classes = np.full((96, 96), 5, np.uint8)  # 20 m pixels; vegetation
    classes[:, :16], classes[:, 16:24] = 9, 3
    write_tif(folder / "scl.tif", classes, pixel=20.0)
    images = content["areas"]["train"]["2023-08"]
    content["areas"]["train"]["2023-08"] = {"images": images, "scene_classification": "scl.tif"}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(content))
    store = build(open_dataset(folder), max_unknown=1.0)
    assert store.parameters["clouds_used"]["train"] == {"2023-07": "none", "2023-08": "scl"}
    index = store.index[(store.index["area"] == "train") & (store.index["date"] == "2023-08")]
    left, middle = index[index["col"] == 0], index[index["col"] == 32]
    assert (left["cloud"] == 1).all()
    assert (middle["shadow"] == 0.5).all()
    assert (store.labels[left["patch"]] == 255).all()
    np.testing.assert_array_equal(
        store.labels[middle["patch"]] == 255, np.tile(np.arange(32) < 16, (6, 32, 1))
    )
    assert (index["unknown"][index["col"] > 32] == 0).all()


# --- facts of a patch, and the reasons to drop it

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
    assert (found["known"], found["ice"]) == (4, 2)
    for name in ("cloud", "shadow", "label_age"):
        assert math.isnan(found[name])


def test_facts_of_nothing():
    nothing = np.zeros((4, 2, 2), np.float32)
    unknown, invalid = np.full((2, 2), 255, np.uint8), np.zeros((2, 2), bool)
    found = patches.patch_facts(
        nothing, invalid, unknown, clouds=np.ones((2, 2), np.uint8), age=np.ones((2, 2))
    )
    assert found.pop("nodata") == found.pop("unknown") == 1
    assert found.pop("known") == found.pop("ice") == 0
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


def test_disagreement_is_a_fraction_of_the_known_pixels():
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
    assert patches.reason_to_drop(found, max_cloud=0.3) == reason
