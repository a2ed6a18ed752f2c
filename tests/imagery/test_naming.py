"""Bands are known by what files call them."""

from __future__ import annotations

from pathlib import Path

import pytest

from glacier_utils.imagery.naming import files_called, number_of, word_of


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("Blue", "blue"),
        ("reflectance_red", "red"),
        ("NIR_Narrow", "nir"),
        ("Near Infra-Red", "nir"),
        ("nir08", "nir"),
        ("N", "nir"),
        ("Red Edge 1", "other"),
        ("coastal blue", "other"),
        ("nir09", "other"),
        ("SWIR1", "other"),
        ("infrared", None),
        ("red, green, blue", None),
        ("B4", None),
    ],
)
def test_words(text, band):
    found = word_of(text)
    assert (found and found[0]) == band


@pytest.mark.parametrize(
    ("text", "number"),
    [("B04", "4"), ("SR_B4", "4"), ("Band 12", "12"), ("T22WDS_B8A_60m", "8a"),
     ("stack_B02_B03", None), ("tub4", None), ("lyr.1", None)],
)  # fmt: skip
def test_numbers(text, number):
    assert number_of(text) == number


@pytest.mark.parametrize(
    ("start", "near"),
    [
        ("LC08_L2SP_002016_20230801_20230805_02_T1_SR_", "B5"),
        ("LC80020162015213LGN00_", "B5"),
        ("LT50020161985213KIS00_", "B4"),
        ("LE07_L1TP_002016_20020801_20200201_02_T1_", "B4"),
        ("HLS.L30.T23VMG.2023236T141951.v2.0.", "B05"),
        ("HLS.S30.T23VMG.2023236T141951.v2.0.", "B8A"),
        ("T23VMG_20230824T141951_", "B08"),
    ],
)
def test_near_infrared_by_sensor(start, near):
    numbers = ("B1", "B2", "B3", "B4", "B5", "B05", "B7", "B8A")
    names = {number for number in numbers if number not in ("B5", "B05", "B8A")} | {near}
    files = [Path(f"{start}{name}.tif") for name in sorted(names)]
    assert files_called(["nir"], files) == {"nir": [Path(f"{start}{near}.tif")]}


def test_files_of_bands_beyond_the_four_go_by_their_own_names():
    files = [Path("a_red.tif"), Path("a_swir1.tif"), Path("a_B11.tif")]
    found = files_called(["red", "swir1", "b11", "nir"], files)
    assert found == {"red": files[:1], "swir1": files[1:2], "b11": files[2:], "nir": []}
