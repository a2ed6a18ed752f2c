"""Temporal comparison: maps of several dates, what changed between them and why."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from affine import Affine
from rasterio.crs import CRS
from stubs import BANDS

from glacier_utils.change import series
from glacier_utils.change.area import AreaError, Map, Scale
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.errors import GlacierError
from glacier_utils.evaluation.bootstrap import block_counts
from glacier_utils.models.checkpoint import Segmenter, save_checkpoint
from glacier_utils.raster.grid import Grid, Image

DATES = ("2023-07", "2023-08")
THREE_DATES = (*DATES, "2023-09")
PIXEL = 1e-4
ICE, SNOW = (0.35, 0.37, 0.38, 0.30), (0.8, 0.8, 0.8, 0.7)
ROCK, SHADE = (0.16, 0.15, 0.12, 0.17), (0.33, 0.41, 0.47, 0.23)


def grid(shape, *, pixel: float = 10.0, crs="EPSG:32623") -> Grid:
    crs = None if crs is None else CRS.from_string(crs)
    return Grid(crs, Affine(pixel, 0, 0, 0, -pixel, 0), *shape)


def square_map(side: int, shape=(30, 30), *, threshold: float = 0.5, **place) -> Map:
    """A map of a square glacier that starts at row and column 5."""
    probability = np.full(shape, 0.1, np.float32)
    probability[5 : 5 + side, 5 : 5 + side] = 0.9
    return Map(probability, threshold, grid(shape, **place))


def view(colours: np.ndarray, place: Grid) -> Image:
    return Image(np.moveaxis(colours, -1, 0).astype(np.float32), np.ones(place.shape, bool),
                 BANDS, place)  # fmt: skip


@pytest.fixture
def shrinking():
    """A glacier of 20 px, a month later 16 px: maps, transition, images with snow on the rim."""
    maps = {
        ("net", "test", date): square_map(side) for date, side in zip(DATES, (20, 16), strict=True)
    }
    place = grid((30, 30))
    before = np.full((30, 30, 4), ICE)
    before[21:25, 5:25] = SNOW  # the lost rows were snow, the lost columns ice
    views = {
        ("test", DATES[0]): view(before, place),
        ("test", DATES[1]): view(np.full((30, 30, 4), ICE), place),
    }
    changes = {"test": series.transition_map(maps, "net", "test", DATES)}
    return maps, changes, views


def explained(changes, views, dates=DATES, clouds=None):
    causes = series.locate_causes(changes, views, dates, clouds)
    return series.explain(changes, causes, {area: view.grid for (area, _), view in views.items()})


def test_a_dataset_is_mapped_and_scored(make_dataset, tmp_path):
    data = open_dataset(make_dataset(patches=(2, 3), size=16))
    rule = Segmenter("threshold", BANDS, [0] * 4, [1] * 4)
    rule.network.thresholds[0] = 0.23  # between ground and ice
    path = save_checkpoint(tmp_path / "rule.pt", rule)
    maps = series.predict({"rule": path}, data, data.areas, DATES)
    assert list(maps) == [("rule", area, date) for area in ("train", "test") for date in DATES]
    found = maps["rule", "test", DATES[1]]
    assert found.grid.matches(data.source("test", DATES[1]).grid)
    np.testing.assert_array_equal(found.mask, data.labels("test", DATES[1]).read())
    table = series.robustness(series.count_blocks(maps, data))
    assert len(table) == 4  # one reference: no truth is known
    assert (table["reference"] == "labels").all()
    assert (table[["iou", "iou_low", "iou_high", "f1", "precision", "recall"]] == 1).all(axis=None)
    areas = series.area_table(maps)
    assert (areas["change_km2"] == 0).all()
    assert areas.eval("low < area_km2 and area_km2 < high").all()


def test_dates_on_different_grids_are_an_error():
    class Data:
        name = "stub"

        def mismatch(self, area, date, other):
            return "" if date == other else f"not that of {other}; add `align: {other}`"

    message = f"stub, area test, {DATES[1]}: not that of {DATES[0]}; add `align"
    with pytest.raises(GlacierError, match=message):
        series.predict({}, Data(), ["test"], DATES)
    assert series.predict({}, Data(), ["test"], DATES[:1]) == {}


def test_a_map_knows_its_mask():
    found = Map(np.array([[0.2, 0.5, np.nan]], np.float32), 0.5, grid((1, 3)))
    assert found.mask.tolist() == [[0, 1, 255]]


def test_areas_and_their_change_by_hand(shrinking):
    maps, _, _ = shrinking
    table = series.area_table(maps).set_index("date")
    # 400 and 256 pixels of 100 m2; a rim of 80 + 76 and 64 + 60 pixels.
    assert table["area_km2"].tolist() == pytest.approx([0.04, 0.0256])
    assert (table["high"] - table["area_km2"]).tolist() == pytest.approx([0.0078, 0.0062])
    assert table["change_km2"].tolist() == pytest.approx([0, -0.0144])
    assert table.loc[DATES[0], ["change_low", "change_high"]].tolist() == [0, 0]
    error = np.hypot(0.0078, 0.0062)
    assert table.loc[DATES[1], "change_low"] == pytest.approx(-0.0144 - error)
    assert table.loc[DATES[1], "change_high"] == pytest.approx(-0.0144 + error)


def test_the_first_date_is_the_earliest_whatever_the_order(shrinking):
    maps, _, _ = shrinking
    table = series.area_table(dict(reversed(maps.items())))
    assert table["date"].tolist() == list(reversed(DATES))
    assert table["change_km2"].tolist() == pytest.approx([-0.0144, 0])


def test_unknown_pixels_are_told_apart():
    found = square_map(10)
    found.probability[:6] = np.nan
    row = series.area_table({("net", "test", "2023-08"): found}).iloc[0]
    assert row["unknown_km2"] == pytest.approx(6 * 30 * 1e-4)
    assert row["area_km2"] == pytest.approx(9 * 10 * 1e-4)


def test_causes_by_hand(shrinking):
    _, changes, views = shrinking
    table = explained(changes, views, DATES)
    assert table.index.is_unique
    lost = table[table["direction"] == "lost"].set_index("cause")["pixels"]
    # 4 x 20 pixels were snow; of the 16 x 4 others the right column and the top row lie at the
    # old outline.
    none = dict.fromkeys(("cloud", "shadow", "snow gained", "water"), 0)
    assert lost.to_dict() == {"snow lost": 80, "edge": 19, "rest": 45, **none}
    areas = table.groupby("direction")["area_km2"].sum()
    assert areas.to_dict() == pytest.approx({"gained": 0, "lost": 0.0144})


def test_causes_where_nobody_told_the_size_of_a_pixel(shrinking):
    _, changes, views = shrinking
    plain = {
        key: view(np.moveaxis(image.reflectance, 0, -1), grid((30, 30), pixel=1.0, crs=None))
        for key, image in views.items()
    }
    table = explained(changes, plain, DATES)
    assert table["pixels"].sum() == 144
    assert table["area_km2"].isna().all()


def test_nothing_to_compare():
    assert explained({}, {}, DATES[:1]).empty


def test_robustness_scores_labels_and_truth():
    found = square_map(20)
    truth = square_map(16).mask

    class Mask:
        def __init__(self, codes):
            self.codes = codes

        def read(self):
            return self.codes

    class Data:
        def labels(self, area, date):
            return Mask(found.mask)

        def truth(self, area, date):
            return Mask(truth)

    scored = series.count_blocks({("net", "test", "2023-08"): found}, Data())
    table = series.robustness(scored)
    assert table["reference"].tolist() == ["labels", "truth"]
    assert table["iou"].tolist() == pytest.approx([1, 256 / 400])
    assert table["recall"].tolist() == [1, 1]
    assert table.eval("iou_low <= iou and iou <= iou_high").all()
    assert isinstance(table, pd.DataFrame)


def test_three_dates_make_a_series(shrinking):
    maps, _, views = shrinking
    dates = (*DATES, "2023-09")
    maps["net", "test", dates[2]] = square_map(10)
    views["test", dates[2]] = views["test", DATES[1]]
    table = series.area_table(maps, views=views).set_index("date")
    assert table["area_km2"].tolist() == pytest.approx([0.04, 0.0256, 0.01])
    assert table["change_km2"].tolist() == pytest.approx([0, -0.0144, -0.03])
    causes = [name for name in table if name.startswith("cause_")]
    assert causes[2] == "cause_snow_lost_km2"
    assert table[causes].sum(axis=1).tolist() == pytest.approx([0, 0.0144, 0.03])
    assert table.loc[DATES[1], "cause_snow_lost_km2"] == pytest.approx(0.008)
    assert series.compare(maps, "net", "test", dates)["after_km2"] == pytest.approx(0.01)


def test_clouds_explain_first(shrinking):
    _, changes, views = shrinking
    clouds = {("test", DATES[1]): np.ones((30, 30), np.uint8)}
    table = explained(changes, views, DATES, clouds)
    assert table.groupby("cause")["pixels"].sum()["cloud"] == 144
    (found,) = series.locate_causes(changes, views, DATES, clouds).values()
    assert (found == 1).sum() == 144


def test_the_error_of_the_classification_is_in_the_table(shrinking):
    maps, _, _ = shrinking
    error = AreaError(-0.1, (Scale(0.0, 1.0, 1.0, 5),))
    table = series.area_table(maps, {("net", DATES[0], DATES[0]): error}).set_index("date")
    first = table.loc[DATES[0]]
    assert first["bias_km2"] == pytest.approx(-0.004)
    assert first["low"] == pytest.approx(0.04 - 0.004 - 0.0078)
    assert first["high"] == pytest.approx(0.04 + 0.0078)
    assert np.isnan(table.loc[DATES[1], "bias_km2"])


def test_the_cost_of_other_dates():
    truth = square_map(20).mask
    wrong = np.where(np.indices(truth.shape).sum(axis=0) % 5, truth, 1 - truth)
    scored = {
        ("one", "test", DATES[1], "truth"): block_counts(truth, truth, grid((30, 30)), side_m=60),
        ("both", "test", DATES[1], "truth"): block_counts(wrong, truth, grid((30, 30)), side_m=60),
    }
    table = series.cost_of_dates(scored, "one")
    row = table.iloc[0]
    assert len(table) == 1
    assert (row["model"], row["against"], row["verdict"]) == ("both", "one", "worse")
    assert row["low"] < row["difference"] < row["high"] < 0
    assert series.cost_of_dates({}, "one").empty


def test_masks_of_clouds_are_read_where_there_are_some(make_dataset, write_tif):
    folder = make_dataset(patches=(1, 1), size=16)
    mask = np.zeros((16, 16), np.uint8)
    mask[3] = 1
    write_tif(folder / "clouds.tif", mask)
    text = (folder / "dataset.yaml").read_text()
    entry = f"images/train/{DATES[0]}/*.tif"
    changed = f"{{images: {entry}, clouds: clouds.tif}}"
    (folder / "dataset.yaml").write_text(text.replace(entry, changed))
    data = open_dataset(folder)
    found = series.read_clouds(data, data.areas, DATES)
    assert list(found) == [("train", DATES[0])]
    assert (found["train", DATES[0]] == mask).all()


def test_other_seeds(tmp_path):
    table = pd.DataFrame(
        {
            "model": ["net", "net-seed1", "net-both", "forest"],
            "architecture": ["net", "net", "net-both", "forest"],
            "dates": ["2023-08", "2023-08", "2023-07 2023-08", "2023-08"],
            "checkpoint": ["a.pt", "b.pt", "c.pt", "d.pt"],
        }
    )
    found = series.other_seeds(table, "net")
    assert {name: path.name for name, path in found.items()} == {"net-seed1": "b.pt"}
    assert series.other_seeds(table, "forest") == {}
