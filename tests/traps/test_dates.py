"""Traps of kind 7: the day of an image in the names of its files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import geopandas as gpd
import pytest
from traps.tools import Command, Outcome, numbers, scene, told, trap, write

OLD = "S2A_OPER_PRD_MSIL1C_PDMC_20160812T201158_R008_V20150813T101657_20150813T101657"


@pytest.fixture
def predicted(tmp_path: Path, predict: Command) -> Outcome:
    """Map a scene of a name; say whether the item and the outlines bear the date, or none."""

    def run(name: str, date: str, *options: str, says: str = "") -> str:
        image, _ = scene(128)
        path = write(tmp_path / "in" / name, numbers(image))
        done = predict(path, *options)
        return told(done, says=says, right=dated(tmp_path / "out") == (date, date))

    return run


def dated(out: Path) -> tuple[str, str]:
    """Return the dates in the item and in the outlines, "" for none."""
    (item,) = (path for path in out.glob("*.json") if path.name != "scenes.json")
    (file,) = out.glob("*_outlines.gpkg")
    moment = json.loads(item.read_text("utf-8"))["properties"]["datetime"]
    source = gpd.read_file(file, layer="glims_polygons")["src_date"].iloc[0]
    return str(moment or "")[:10], str(source or "")[:10].replace("None", "").replace("NaT", "")


@trap(7, "a Sentinel-2 product's name: processed a day later", "right")
def test_sentinel_2(predicted: Outcome) -> str:
    name = "S2A_MSIL2A_20230824T141951_N0509_R139_T23VMG_20230825T001358.tif"
    return predicted(name, "2023-08-24")


@trap(7, "a Sentinel-2 product's name before 2016, processed a year later", "right")
def test_old_sentinel_2(predicted: Outcome) -> str:
    return predicted(f"{OLD}.tif", "2015-08-13")


@trap(7, "an old Sentinel-2 band file, which is dated in the name of its product alone", "right")
def test_old_sentinel_2_band(predicted: Outcome) -> str:
    band = "S2A_OPER_MSI_L1C_TL_EPA__20160812T094513_A000729_T32TLS.tif"
    return predicted(f"{OLD}/IMG_DATA/{band}", "2015-08-13")


@trap(7, "an Earth Engine export of Sentinel-2: image first, then product", "right")
def test_earth_engine(predicted: Outcome) -> str:
    return predicted("20170328T083601_20170402T084228_T23VMG.tif", "2017-03-28")


@trap(7, "a Landsat 8 product's name: processed four days later", "right")
def test_landsat_8(predicted: Outcome) -> str:
    return predicted("LC08_L2SP_002016_20230801_20230805_02_T1.TIF", "2023-08-01")


@trap(7, "a Landsat 5 product of 1985, processed in 2020", "right")
def test_landsat_5(predicted: Outcome) -> str:
    return predicted("LT05_L1TP_002016_19850801_20200918_02_T1.tif", "1985-08-01")


@trap(7, "a Landsat scene before collections: year and day of the year", "right")
def test_landsat_before_collections(predicted: Outcome) -> str:
    return predicted("LT50020161985213KIS00.tif", "1985-08-01")


@trap(7, "an HLS granule: year and day of the year", "right")
def test_hls(predicted: Outcome) -> str:
    return predicted("HLS.S30.T23VMG.2023236T141951.v2.0.tif", "2023-08-24")


@trap(7, "a PlanetScope scene with hyphens", "right")
def test_planet(predicted: Outcome) -> str:
    return predicted("2023-08-24-141951-71-2416-3B-AnalyticMS-SR.tif", "2023-08-24")


@trap(7, "a catalogue's COG in a folder with its name", "right")
def test_catalogue(predicted: Outcome) -> str:
    return predicted("S2A_23VMG_20230824_0_L2A/image.tif", "2023-08-24")


@trap(7, "a product that is zipped: the date in the archive's name", "right")
def test_zipped(tmp_path: Path, predict: Command) -> str:
    image, _ = scene(128)
    write(tmp_path / "image.tif", numbers(image))
    path = tmp_path / "LC08_L2SP_002016_20230801_20230805_02_T1.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "image.tif", "image.tif")
    done = predict(path)
    return told(done, right=dated(tmp_path / "out") == ("2023-08-01", "2023-08-01"))


@trap(7, "the date of a processing alone", "right")
def test_processing(predicted: Outcome) -> str:
    return predicted("scene_exported_2023-09-01.tif", "")


@trap(7, "two dates in a name that no product has", "right")
def test_two_dates(predicted: Outcome) -> str:
    return predicted("scene_20230824_20230901.tif", "")


@trap(7, "a tile number that looks like a date", "right")
def test_tile_number(predicted: Outcome) -> str:
    return predicted("tile_20101010.tif", "")


@trap(7, "day, month, year", "right")
def test_day_first(predicted: Outcome) -> str:
    return predicted("scene_20-08-2023.tif", "")


@trap(7, "--date of another day than the product's name", "warned")
def test_contradiction(predicted: Outcome) -> str:
    name = "LC08_L2SP_002016_20230801_20230805_02_T1.tif"
    says = "LC08_.*its name says 2023-08-01, but the date given is 2022-08-01; check"
    return predicted(name, "2022-08-01", "--date", "2022-08-01", says=says)
