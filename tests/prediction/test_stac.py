"""STAC items that are written beside products.

The schemas of the extensions stand on the network, so only the core's, which pystac brings along,
is checked against; of the extensions, their fields by hand.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pystac
import pytest
import shapely
from affine import Affine
from pystac.extensions.classification import ClassificationExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import RasterExtension
from pystac.validation.local_validator import LocalValidator
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.prediction.stac import CLASSES, write_item
from glacier_utils.prediction.strips import CLASS_COLOURMAP
from glacier_utils.raster.grid import Grid


def core_errors(content: dict) -> list[str]:
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        return [error.message for error in LocalValidator().item_validator().iter_errors(content)]


def grid_at(x: float, y: float, epsg: int | None = 32623, size: tuple[int, int] = (40, 60)) -> Grid:
    crs = None if epsg is None else CRS.from_epsg(epsg)
    return Grid(crs, Affine(10, 0, x, 0, -10, y), *size)


@pytest.fixture
def products(tmp_path) -> dict[str, Path]:
    files = {"probability": "t_probability.tif", "class": "t_class.tif", "outlines": "t.gpkg"}
    for name in files.values():
        (tmp_path / name).write_bytes(b"12345")
    return {kind: tmp_path / name for kind, name in files.items()}


def test_an_item_says_what_lies_where_and_what_made_it(tmp_path, products):
    path = write_item(
        tmp_path / "t.json",
        grid=grid_at(500_000, 6_800_000),
        date="2023-08-24",
        assets=products,
        properties={
            "model": "unet", "threshold": np.float32(0.5), "flips": True, "scene": "a\n<b>\u202e",
            "bands": ("red", "nir"),
        },
    )  # fmt: skip
    content = json.loads(path.read_text())
    assert core_errors(content) == []
    item = pystac.Item.from_file(str(path))
    assert item.id == "t"
    assert item.datetime.date().isoformat() == "2023-08-24"
    ground = ProjectionExtension.ext(item)
    assert ground.code == "EPSG:32623"
    assert ground.shape == [40, 60]
    assert ground.transform == [10, 0, 500_000, 0, -10, 6_800_000]
    assert {kind: asset["href"] for kind, asset in content["assets"].items()} == {
        kind: file.name for kind, file in products.items()
    }
    band = RasterExtension.ext(item.assets["probability"]).bands[0]
    assert (band.scale, band.offset, band.nodata, band.data_type) == (0.004, 0, 255, "uint8")
    classes = ClassificationExtension.ext(
        RasterExtension.ext(item.assets["class"]).bands[0]
    ).classes
    assert [one.value for one in classes] == [0, 1, 255]
    assert [asset.media_type for asset in item.assets.values()] == [
        pystac.MediaType.COG, pystac.MediaType.COG, pystac.MediaType.GEOPACKAGE,
    ]  # fmt: skip
    properties = content["properties"]
    assert properties["glacier:scene"] == "a <b>"
    assert properties["glacier:threshold"] == 0.5
    assert properties["glacier:flips"] is True
    assert properties["glacier:bands"] == ["red", "nir"]
    assert set(properties["processing:software"]) == {"glacier-utils"}
    assert content["assets"]["class"]["file:size"] == 5
    shape = shapely.geometry.shape(content["geometry"])
    assert shape.is_valid
    assert shape.bounds == pytest.approx(content["bbox"])
    assert shape.exterior.is_ccw


def test_the_colours_are_those_of_the_map():
    for value, _, _, colour in CLASSES:
        assert tuple(bytes.fromhex(colour)) == CLASS_COLOURMAP[value][:3]


def test_across_the_antimeridian_the_footprint_has_two_parts(tmp_path, products):
    grid = grid_at(640_000, 7_000_000, 32660, (300, 3000))
    path = write_item(tmp_path / "t.json", grid=grid, date="2023-08", assets=products)
    content = json.loads(path.read_text())
    shape = shapely.geometry.shape(content["geometry"])
    assert shape.geom_type == "MultiPolygon"
    west, _, east, _ = content["bbox"]
    assert west > 170
    assert east < -170
    assert shape.area < 1
    assert core_errors(content) == []


@pytest.mark.parametrize(
    ("date", "expected"),
    [
        ("2023-08-24", ("2023-08-24T00:00:00Z", None, None)),
        ("2024-02", (None, "2024-02-01T00:00:00Z", "2024-02-29T23:59:59Z")),
    ],
)
def test_dates(tmp_path, products, date, expected):
    path = write_item(tmp_path / "t.json", grid=grid_at(0, 0), date=date, assets=products)
    found = json.loads(path.read_text())["properties"]
    keys = ("datetime", "start_datetime", "end_datetime")
    assert tuple(found.get(key) for key in keys) == expected


def test_what_is_not_known_is_said(tmp_path, products):
    path = write_item(tmp_path / "t.json", grid=grid_at(0, 0, None), date="", assets=products)
    content = json.loads(path.read_text())
    assert content["geometry"] is None
    assert content["properties"]["proj:code"] is None
    assert content["properties"]["glacier:date_known"] is False
    assert core_errors(content) == []


def test_mistakes_leave_no_item(tmp_path, products):
    for wrong, changes in (
        ("is not a date", {"date": "2023-13"}),
        ("is not a date", {"date": "yesterday\n"}),
    ):
        given = {"grid": grid_at(0, 0), "date": "2023-08-24", "assets": products} | changes
        with pytest.raises(GlacierError, match=wrong):
            write_item(tmp_path / "t.json", **given)
    assert not list(tmp_path.glob("*.json"))
