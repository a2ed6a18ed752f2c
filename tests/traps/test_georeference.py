"""Traps of kind 12: scenes whose place is lost, told by points, or turned."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS as Rasterio
from traps.tools import AT, CRS, Command, iou, mapped, numbers, scene, told, trap, write

IMAGE, TRUTH = scene(160)


def by_points(
    path: Path, crs: str = CRS, array: np.ndarray | None = None, turn: Affine = AT
) -> Path:
    """Write the scene with ground control points at its corners and in its middle."""
    array = numbers(IMAGE) if array is None else array
    write(path, array, transform=None, crs=None, nodata=None)
    to = Transformer.from_crs(CRS, crs, always_xy=True)
    with rasterio.open(path, "r+") as file:
        points = [
            GroundControlPoint(row, col, *to.transform(*(turn @ (col, row))))
            for row in (0, 80, 160) for col in (0, 80, 160)
        ]  # fmt: skip
        file.gcps = points, Rasterio.from_string(crs)
    return path


def centre_of_ice(out: Path) -> tuple[float, float]:
    """Return where the middle of the mapped glacier lies, in the CRS of the scene's truth."""
    with rasterio.open(next(out.glob("*_class.tif"))) as file:
        rows, cols = np.nonzero(file.read(1) == 1)
        x, y = file.transform @ (cols.mean() + 0.5, rows.mean() + 0.5)
        to = Transformer.from_crs(file.crs.to_wkt(), CRS, always_xy=True)
    return to.transform(x, y)


def lies_well(out: Path) -> bool:
    """Whether the glacier lies where it is, within a pixel, and has outlines."""
    away = np.subtract(centre_of_ice(out), AT @ (80, 80))
    return bool(np.hypot(*away) < 10) and bool(list(out.glob("*_outlines.gpkg")))


@trap(12, "predict: ground control points in UTM", "right")
def test_points(tmp_path: Path, predict: Command) -> str:
    done = predict(by_points(tmp_path / "scene.tif"))
    out = tmp_path / "out"
    return told(done, right=lies_well(out) and iou(mapped(out), TRUTH) > 0.99)


@trap(12, "predict: ground control points in degrees", "right")
def test_points_in_degrees(tmp_path: Path, predict: Command) -> str:
    done = predict(by_points(tmp_path / "scene.tif", "EPSG:4326"))
    with rasterio.open(next((tmp_path / "out").glob("*_class.tif"))) as file:
        assert file.crs.to_epsg() == 32623
    return told(done, right=lies_well(tmp_path / "out"))


@trap(12, "predict: ground control points of a turned frame", "right")
def test_points_turned(tmp_path: Path, predict: Command) -> str:
    turn = AT @ Affine.translation(80, 80) @ Affine.rotation(30) @ Affine.translation(-80, -80)
    done = predict(by_points(tmp_path / "scene.tif", turn=turn))
    found = mapped(tmp_path / "out")
    # Around the turned frame there is no image, and no rock either.
    return told(
        done, right=lies_well(tmp_path / "out") and (found[0, 0], found[-1, -1]) == (255, 255)
    )


@trap(12, "predict: ground control points and reflectance as float", "refused")
def test_points_of_floats(tmp_path: Path, predict: Command) -> str:
    done = predict(by_points(tmp_path / "scene.tif", array=IMAGE))
    return told(done, says=r"scene\.tif: .*--scale 1 --offset 0")


@trap(12, "predict: no CRS", "warned")
def test_no_crs(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", numbers(IMAGE), crs=None)
    done = predict(path)
    item = json.loads((tmp_path / "out" / "scene.json").read_text("utf-8"))
    assert "no CRS" in item["properties"]["glacier:warnings"][0]
    right = iou(mapped(tmp_path / "out"), TRUTH) > 0.99
    assert not list((tmp_path / "out").glob("*.gpkg"))
    return told(
        done, says=r"scene\.tif: has no CRS.*no outlines.*gdal_edit\.py -a_srs", right=right
    )


@trap(12, "predict: neither CRS nor place", "warned")
def test_no_place(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", numbers(IMAGE), crs=None, transform=None)
    done = predict(path)
    right = iou(mapped(tmp_path / "out"), TRUTH) > 0.99
    return told(done, says=r"scene\.tif: has no CRS", right=right)


@trap(12, "predict: a CRS, but no place", "warned")
def test_crs_without_place(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", numbers(IMAGE), transform=None)
    return told(predict(path), says=r"scene\.tif: has no CRS.*no areas")


@trap(12, "predict: a turned grid", "refused")
def test_turned_grid(tmp_path: Path, predict: Command) -> str:
    turned = AT @ Affine.rotation(30)
    done = predict(write(tmp_path / "scene.tif", numbers(IMAGE), transform=turned))
    return told(done, says=r"scene\.tif: its grid is rotated or flipped; .*gdalwarp")


@trap(12, "predict: a grid upside down", "refused")
def test_upside_down(tmp_path: Path, predict: Command) -> str:
    flipped = AT @ Affine.scale(1, -1)
    done = predict(write(tmp_path / "scene.tif", numbers(IMAGE), transform=flipped))
    return told(done, says=r"scene\.tif: its grid is rotated or flipped; .*gdalwarp")


@trap(12, "predict: a file of the place beside it, no CRS", "warned")
def test_world_file(tmp_path: Path, predict: Command) -> str:
    path = write(tmp_path / "scene.tif", numbers(IMAGE), crs=None, transform=None)
    (tmp_path / "scene.tfw").write_text("10\n0\n0\n-10\n500005\n6779995\n")
    done = predict(path)
    with rasterio.open(next((tmp_path / "out").glob("*_class.tif"))) as file:
        kept = file.transform.almost_equals(AT)
    return told(done, says="has no CRS", right=kept)


@trap(12, "predict: ground control points that lie in one place", "refused")
def test_points_in_one_place(tmp_path: Path, predict: Command) -> str:
    path = by_points(tmp_path / "scene.tif")
    with rasterio.open(path, "r+") as file:
        points = [GroundControlPoint(row, row, *AT @ (0, 0)) for row in (0, 80, 160)]
        file.gcps = points, Rasterio.from_string(CRS)
    return told(predict(path), says=r"scene\.tif: its ground control points.*gdalwarp")
