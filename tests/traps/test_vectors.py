"""Traps of kind 4: layers, columns, dates and geometries of outlines as people have them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from scipy import ndimage
from traps.tools import (
    AT,
    CRS,
    Command,
    iou,
    labels,
    manifest,
    numbers,
    outlines,
    scene,
    told,
    trap,
    write,
)

SIZE = 128
IMAGE, NOW = scene(SIZE)
THEN = ndimage.binary_dilation(NOW, iterations=12).astype(np.uint8)
ROCK = np.zeros_like(NOW)
ROCK[60:70, 60:70] = 1
FRAME = shapely.box(500_000, 6_780_000 - 10 * SIZE, 500_000 + 10 * SIZE, 6_780_000)
CHOOSE = r"o\.gpkg: has several layers .*a_study_area, glaciers.*outlines: \{file: o\.gpkg, layer: "


def ice(mask: np.ndarray = NOW, **columns: Any) -> gpd.GeoDataFrame:
    """Return outlines of ice with columns."""
    return outlines(mask, **columns)


def around(**columns: Any) -> gpd.GeoDataFrame:
    """Return a study area: the whole frame."""
    return gpd.GeoDataFrame(columns, index=[0], geometry=[FRAME], crs=CRS)


def check(
    folder: Path,
    glacier: Command,
    outlines: str = "o.gpkg",
    *,
    says: str = "",
    truth: np.ndarray = NOW,
    rest: str = "",
) -> str:
    """Check a dataset with outlines that lie in its folder; right if the labels are the truth."""
    write(folder / "scene.tif", numbers(IMAGE))
    done = glacier("check", manifest(folder, rest=f"outlines: {outlines}\n{rest}"))
    right = done.status == 2 or iou(labels(folder), truth) > 0.999
    return told(done, right=right, says=says)


def layers(path: Path, **tables: gpd.GeoDataFrame) -> None:
    """Write tables as layers of a GeoPackage."""
    for name, table in tables.items():
        table.to_file(path, layer=name)


def packed(path: Path, **tables: gpd.GeoDataFrame) -> None:
    """Write tables as shapefiles of a zip."""
    inner = path.parent / "inner"
    inner.mkdir()
    for name, table in tables.items():
        table.to_file(inner / f"{name}.shp")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(inner.iterdir()):
            archive.write(file, f"download/{file.name}")


@trap(4, "outlines: a GeoPackage with a study area before the glaciers, no columns", "refused")
def test_layers(tmp_path: Path, glacier: Command) -> str:
    layers(tmp_path / "o.gpkg", a_study_area=around(), glaciers=ice())
    return check(tmp_path, glacier, says=CHOOSE)


@trap(4, "outlines: {file: o.gpkg, layer: glaciers}", "right")
def test_named_layer(tmp_path: Path, glacier: Command) -> str:
    layers(tmp_path / "o.gpkg", a_study_area=around(), glaciers=ice())
    return check(tmp_path, glacier, "{file: o.gpkg, layer: glaciers}")


@trap(4, "outlines: a layer that is not there", "refused")
def test_unknown_layer(tmp_path: Path, glacier: Command) -> str:
    layers(tmp_path / "o.gpkg", a_study_area=around(), glaciers=ice())
    says = r"o\.gpkg: has no layer 'glacier'; did you mean 'glaciers'"
    return check(tmp_path, glacier, "{file: o.gpkg, layer: glacier}", says=says)


@trap(4, "train: the layers of a GeoPackage do not tell which holds glaciers", "refused")
def test_layers_at_training(tmp_path: Path, glacier: Command) -> str:
    layers(tmp_path / "o.gpkg", a_study_area=around(), glaciers=ice())
    write(tmp_path / "scene.tif", numbers(IMAGE))
    manifest(tmp_path, rest="outlines: o.gpkg")
    done = glacier("train", tmp_path, "threshold", tmp_path / "run")
    return told(done, says=CHOOSE)


@trap(4, "outlines: a study area, lakes and a layer with the columns of GLIMS in capitals", "right")
def test_layer_of_glims(tmp_path: Path, glacier: Command) -> str:
    table = ice(GLAC_ID="G1", ANLYS_ID=1, LINE_TYPE="GLAC_BOUND", SRC_DATE="2001-08-01")
    layers(tmp_path / "o.gpkg", area=around(name="a"), lakes=ice(THEN, area=1.0), polygons=table)
    return check(tmp_path, glacier)


@trap(4, "outlines: a study area and a layer with the columns of RGI 6", "right")
def test_layer_of_rgi(tmp_path: Path, glacier: Command) -> str:
    layers(
        tmp_path / "o.gpkg",
        a=around(id=1),
        rgi60=ice(RGIId="RGI60-05.1", GLIMSId="G1", BgnDate="20010711", Area=0.32),
    )
    return check(tmp_path, glacier)


@trap(4, "outlines: a layer for each of two dates, both with columns of glaciers", "refused")
def test_layers_of_dates(tmp_path: Path, glacier: Command) -> str:
    layers(tmp_path / "o.gpkg", y1985=ice(THEN, glac_id="a"), y2022=ice(glac_id="a"))
    return check(
        tmp_path, glacier, says=r"o\.gpkg: has several layers .*y1985, y2022.*layer: y2022"
    )


@trap(4, "outlines: a GeoPackage of QGIS with styles, a table and an empty layer", "right")
def test_what_qgis_leaves(tmp_path: Path, glacier: Command) -> str:
    from glacier_utils.outlines.glims import LAYER, write_glims

    write_glims(ice(), tmp_path / "o.gpkg", source_date="2022-08-01")
    assert LAYER == "glims_polygons"
    layers(tmp_path / "o.gpkg", draft=ice()[:0])
    return check(tmp_path, glacier)


@trap(4, "outlines: a zip with the shapefiles of a study area and of glaciers", "right")
def test_zip(tmp_path: Path, glacier: Command) -> str:
    packed(tmp_path / "o.zip", a=around(), rgi=ice(RGIId="RGI60-05.1", BgnDate="20010711"))
    return check(tmp_path, glacier, "o.zip")


@trap(4, "outlines: a GLIMS download, with extents that have identifiers too", "right")
def test_download_of_glims(tmp_path: Path, glacier: Command) -> str:
    columns = {"glac_id": "G1", "anlys_id": 1}
    packed(
        tmp_path / "o.zip",
        glims_extents=around(**columns),
        glims_lines=ice(**columns).set_geometry(ice().boundary),
        glims_polygons=ice(**columns, line_type="glac_bound", src_date="2001-08-01"),
    )
    return check(tmp_path, glacier, "o.zip")


@trap(4, "outlines: a zip whose shapefiles do not tell which holds glaciers", "refused")
def test_zip_that_does_not_tell(tmp_path: Path, glacier: Command) -> str:
    packed(tmp_path / "o.zip", a=around(), b=ice())
    says = r"o\.zip: has several layers .*a, b.*\{file: o\.zip, layer: b\}"
    outcome = check(tmp_path, glacier, "o.zip", says=says)
    named = check(tmp_path, glacier, "{file: o.zip, layer: b}")
    return outcome if named == "right" else f"wrong: by its name {named}"


@trap(4, "coverage: a GeoPackage of several layers", "refused")
def test_layers_of_coverage(tmp_path: Path, glacier: Command) -> str:
    layers(tmp_path / "c.gpkg", whole=around(), then=ice(THEN))
    ice().to_file(tmp_path / "o.gpkg")
    write(tmp_path / "scene.tif", numbers(IMAGE))
    path = manifest(tmp_path, rest="outlines: o.gpkg") / "dataset.yaml"
    text = path.read_text().replace("  train:\n", "  train:\n    coverage: c.gpkg\n")
    path.write_text(text)
    refused = glacier("check", tmp_path)
    path.write_text(text.replace("c.gpkg", "{file: c.gpkg, layer: then}"))
    assert glacier("check", tmp_path).status == 0
    assert ((labels(tmp_path) == 1) == (NOW == 1)).all()
    assert ((labels(tmp_path) == 255) == (THEN == 0)).all()
    return told(refused, says=r"c\.gpkg: has several layers")


def both(**columns: list) -> gpd.GeoDataFrame:
    """Return a large outline of a glacier and a small one, each with its values."""
    table = pd.concat([ice(THEN), ice()], ignore_index=True)
    return table.assign(**columns)


@trap(4, "outlines: names cut to ten letters in a shapefile (source_dat, analysis_i)", "right")
def test_names_cut(tmp_path: Path, glacier: Command) -> str:
    table = both(glacier_id=["K1"] * 2, source_date=["1985-08-01", "2022-08-20"],
                 analysis_id=[1, 2], uncertainty_m=[15.0, 5.0])  # fmt: skip
    with pytest.warns(UserWarning, match="longer than 10 characters"):
        table.to_file(tmp_path / "o.shp")
    return check(tmp_path, glacier, "o.shp")


@trap(4, "outlines: two dates of a glacier without an analysis column", "right")
def test_dates_of_one_glacier(tmp_path: Path, glacier: Command) -> str:
    both(glacier_id=["K1"] * 2, source_date=["1985-08-01", "2022-08-20"]).to_file(
        tmp_path / "o.gpkg"
    )
    return check(tmp_path, glacier)


@trap(4, "outlines: two dates of RGI 6 (19850801, -9999999) under one RGIId", "right")
def test_dates_of_rgi(tmp_path: Path, glacier: Command) -> str:
    both(RGIId=["RGI60-05.1"] * 2, BgnDate=[-9999999, 20220820]).to_file(tmp_path / "o.gpkg")
    return check(tmp_path, glacier)


@trap(4, "outlines: dates as 20.08.2022, a year alone, and milliseconds", "right")
def test_dates_as_people_write_them(tmp_path: Path, glacier: Command) -> str:
    dates: dict[str, list] = {
        "DATE": ["12.08.1985", "20.08.2022"],
        "src_date": ["8/25/1985", "08/20/2022"],
        "YEAR": [1985, 2022],
        "img_date": [492_652_800_000, 1_660_953_600_000],
    }
    outcome = set()
    for name, values in dates.items():
        folder = tmp_path / name
        folder.mkdir()
        both(glac_id=["a"] * 2, **{name: values}).to_file(folder / "o.gpkg")
        outcome.add(check(folder, glacier))
    return max(outcome)


@trap(4, "outlines: two dates on the same ground, and no column that names the glacier", "refused")
def test_dates_of_glaciers_without_names(tmp_path: Path, glacier: Command) -> str:
    both(date=["1985-08-01", "2022-08-20"]).to_file(tmp_path / "o.gpkg")
    says = r"o\.gpkg: an outline of 1985-08-01 and one of 2022-08-20 lie on each other.*glac_id"
    return check(tmp_path, glacier, says=says)


@trap(4, "outlines: a column `kind` of the user's own (valley, cirque)", "right")
def test_own_kind(tmp_path: Path, glacier: Command) -> str:
    ice(glac_id="a", kind="valley").to_file(tmp_path / "o.gpkg")
    return check(tmp_path, glacier)


@trap(4, "outlines: line types with a lake, a debris cover and rock, LINE_TYPE in capitals",
      "warned")  # fmt: skip
def test_line_types(tmp_path: Path, glacier: Command) -> str:
    kinds = {"GLAC_BOUND": NOW, "intrnl_rock": ROCK, "PRO_LAKE": THEN - NOW, "debris_cov": ROCK}
    rows = [ice(mask, LINE_TYPE=kind, GLAC_ID="a", ANLYS_ID=1) for kind, mask in kinds.items()]
    pd.concat(rows).to_file(tmp_path / "o.gpkg")
    truth = NOW * (ROCK == 0)
    says = r"left out, line type debris_cov: 1.*left out, line type pro_lake"
    return check(tmp_path, glacier, truth=truth, says=says)


@trap(4, "outlines: a line_type that is none of GLIMS", "refused")
def test_unknown_line_type(tmp_path: Path, glacier: Command) -> str:
    ice(glac_id="a", line_type="outline").to_file(tmp_path / "o.gpkg")
    says = r"o\.gpkg: holds no polygon.*left out, line type outline: 1"
    return check(tmp_path, glacier, says=says)


@trap(4, "outlines: kinds of the package itself (glacier, internal_rock)", "right")
def test_own_table(tmp_path: Path, glacier: Command) -> str:
    rows = [ice(mask, kind=kind, glacier_id="a", source_date="2022-08-20")
            for kind, mask in {"glacier": NOW, "internal_rock": ROCK}.items()]  # fmt: skip
    pd.concat(rows).to_file(tmp_path / "o.gpkg")
    return check(tmp_path, glacier, truth=NOW * (ROCK == 0))


@trap(4, "outlines: a KML of Google Earth", "right")
def test_kml(tmp_path: Path, glacier: Command) -> str:
    [shape] = ice().to_crs(4326).geometry
    corners = " ".join(f"{x:.9f},{y:.9f},0" for x, y in shape.exterior.coords)
    (tmp_path / "o.kml").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2">'
        "<Document><Folder><name>Glaciers</name><Placemark><name>Kiagtût</name><Polygon>"
        f"<outerBoundaryIs><LinearRing><coordinates>{corners}</coordinates></LinearRing>"
        "</outerBoundaryIs></Polygon></Placemark></Folder></Document></kml>",
        encoding="utf-8",
    )
    return check(tmp_path, glacier, "o.kml")


@trap(4, "outlines: GeoJSON without CRS, its coordinates in UTM", "refused")
def test_geojson_in_metres(tmp_path: Path, glacier: Command) -> str:
    content = json.loads(ice(glac_id="a").to_json())
    content.pop("crs", None)
    (tmp_path / "o.geojson").write_text(json.dumps(content))
    return check(tmp_path, glacier, "o.geojson", says=r"o\.geojson: its coordinates.*no degrees")


@trap(4, "outlines: a shapefile without .prj", "refused")
def test_no_crs(tmp_path: Path, glacier: Command) -> str:
    ice(glac_id="a").to_file(tmp_path / "o.shp")
    (tmp_path / "o.prj").unlink()
    return check(tmp_path, glacier, "o.shp", says=r"o\.shp: has no CRS .*\.prj is missing")


@trap(4, "outlines: lines in place of polygons", "refused")
def test_lines(tmp_path: Path, glacier: Command) -> str:
    ice(glac_id="a").set_geometry(ice().boundary).to_file(tmp_path / "o.gpkg")
    return check(tmp_path, glacier, says=r"o\.gpkg: holds .*LineString.*polygons of its lines")


@trap(4, "outlines: with heights, in collections and multipolygons, some empty", "warned")
def test_geometries(tmp_path: Path, glacier: Command) -> str:
    [shape] = ice().geometry
    left, middle, right = (
        shape.intersection(shapely.box(500_000 + 10 * start, 0, 500_000 + 10 * end, 1e7))
        for start, end in ((0, 50), (50, 70), (70, SIZE))
    )
    line = shapely.LineString([(500_000, 6_780_000), (500_100, 6_779_900)])
    mixed = [
        shapely.force_3d(left, 1200.0),
        shapely.GeometryCollection([middle, line]),
        shapely.MultiPolygon([right]),
        None,
        shapely.Polygon(),
        line,
    ]
    table = gpd.GeoDataFrame({"glac_id": [*"aaabcd"]}, geometry=mixed, crs=CRS)
    table.to_file(tmp_path / "o.gpkg")
    says = r"left out, not a polygon: d.*rings mended: a"
    return check(tmp_path, glacier, says=says)


@trap(4, "outlines: a shapefile in capitals, its text in Latin-1 though .cpg says UTF-8", "right")
def test_encoding(tmp_path: Path, glacier: Command) -> str:
    ice(GLAC_ID="a", GLAC_NAME="Kiagtût Sermiat").to_file(tmp_path / "o.shp", encoding="ISO-8859-1")
    (tmp_path / "o.cpg").write_text("UTF-8")
    for path in tmp_path.glob("o.*"):
        path.rename(path.with_name(path.name.upper()))
    return check(tmp_path, glacier, "O.SHP")


@trap(4, "outlines: the same polygon twice, under one identifier", "right")
def test_twice(tmp_path: Path, glacier: Command) -> str:
    pd.concat([ice(glac_id="a", anlys_id=1)] * 2).to_file(tmp_path / "o.gpkg")
    return check(tmp_path, glacier)


def test_the_place_of_the_scene_is_that_of_the_tools() -> None:
    assert FRAME.bounds[0] == AT.c
    assert FRAME.bounds[3] == AT.f
