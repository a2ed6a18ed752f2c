"""The day of an image in the names of its files."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from glacier_utils.conventions import date_in_name

NEW = "S2A_MSIL2A_20230824T141951_N0509_R139_T23VMG_20230825T001358.SAFE"
OLD = "S2A_OPER_PRD_MSIL1C_PDMC_20160812T201158_R008_V20150813T101657_20150813T101657.SAFE"
OLD_BAND = "S2A_OPER_MSI_L1C_TL_EPA__20160812T094513_A000729_T32TLS_B04.jp2"
HUB = "2023-08-{:02}-00_00_2023-08-24-23_59_Sentinel-2_L2A_B04_(Raw).tiff"


@pytest.mark.parametrize(
    ("name", "date"),
    [
        (
            f"{NEW}/GRANULE/L2A_T23VMG_A042690_20230824T141951/IMG_DATA/R10m/B04_10m.jp2",
            "2023-08-24",
        ),
        (NEW.replace("_", "-").lower(), "2023-08-24"),
        ("T22WDS_20200831T150809_B02_60m.jp2", "2020-08-31"),
        (f"{OLD}/GRANULE/TL/IMG_DATA/{OLD_BAND}", "2015-08-13"),
        (f"x/{OLD_BAND}", ""),
        ("N0509_R139_T23VMG_20230825T001358.tif", ""),
        ("20230824T141951_20230826T142012_T23VMG.tif", "2023-08-24"),
        ("S2A_23VMG_20230824_0_L2A/B04.tif", "2023-08-24"),
        ("SENTINEL2A_20230824-105852-461_L2A_T32TLS_C_V3-0.tif", "2023-08-24"),
        ("LC08_L2SP_002016_20230801_20230805_02_T1_SR_B4.TIF", "2023-08-01"),
        ("LT05_L1TP_002016_19850801_20200918_02_T1.tif", "1985-08-01"),
        ("LE07_CU_005006_20010801_20210810_02_SR.tif", "2001-08-01"),
        ("LC08_L2SP_002016_20231301_20230805_02_T1.tif", ""),
        ("LC08_002016_20230801.tif", "2023-08-01"),
        ("LC080020162023080102T1-SC20230901123456.tif", "2023-08-01"),
        ("LT50020161985213KIS00_B3.TIF", "1985-08-01"),
        ("L5002016_01619850801_B30.TIF", "1985-08-01"),
        ("HLS.S30.T23VMG.2023236T141951.v2.0.B04.tif", "2023-08-24"),
        ("HLS.L30.T23VMG.2023236T141951.v2.0.B04.tif", "2023-08-24"),
        ("20230824_141951_71_2416_3B_AnalyticMS_SR.tif", "2023-08-24"),
        ("openEO_2023-08-24Z.tif", "2023-08-24"),
        (HUB.format(24), "2023-08-24"),
        (HUB.format(1), ""),
        ("2023-08-24/B04.tif", "2023-08-24"),
        ("scene_EPSG32623_2023_08_24.tif", "2023-08-24"),
        ("scene_20230824_20230901.tif", ""),
        ("scene_20230824_processed_20230901.tif", "2023-08-24"),
        ("exported-2023-09-01.tif", ""),
        ("scene.tif", ""),
        ("tile_20101010.tif", ""),
        ("tile_2010_10_10.tif", ""),
        ("EPSG_20101010.tif", ""),
        ("tile_20231324.tif", ""),
        ("id_9920230724.tif", ""),
        ("scene_20991231.tif", ""),
        ("20082023.tif", ""),
    ],
)
def test_the_day_of_an_image_is_in_its_name(name: str, date: str) -> None:
    assert date_in_name([Path("folder") / name]) == date


def test_files_of_several_days_have_none() -> None:
    days = [Path(f"scene_2023-08-{day}.tif") for day in (23, 24)]
    assert date_in_name(days) == ""
    assert date_in_name([*days[:1], Path("clouds.tif")]) == "2023-08-23"


def test_a_stated_day_counts_and_a_contradiction_is_told(caplog: pytest.LogCaptureFixture) -> None:
    path = [Path("scene_2023-08-24.tif")]
    with caplog.at_level(logging.WARNING):
        assert date_in_name(path, "2023-08") == "2023-08"
        assert date_in_name([Path("scene.tif")], "1999-08") == "1999-08"
        assert not caplog.text
        assert date_in_name(path, "2022-08-24") == "2022-08-24"
    assert "its name says 2023-08-24" in caplog.text
