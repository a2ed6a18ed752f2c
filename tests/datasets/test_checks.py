"""The check looks at every area and date, and tells errors from warnings in a table to read."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from manifest_edits import set_area, set_date

from glacier_utils.datasets.checks import check, survey
from glacier_utils.datasets.dataset import open_dataset

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(make_dataset):
    made = make_dataset(patches=(2, 3))
    # The fixture's dates are copies, which is a finding of its own.
    for path in made.rglob("2023-08/*.tif"):
        with rasterio.open(path, "r+") as file:
            file.update_tags(DATE="2023-08")
    return made


def test_check_of_a_sound_dataset(folder):
    table = check(open_dataset(folder))
    assert table[["area", "date"]].to_numpy().tolist() == [
        ["train", "2023-07"], ["train", "2023-08"], ["test", "2023-07"], ["test", "2023-08"],
    ]  # fmt: skip
    assert (table.problems == "").all()
    row = table.iloc[0]
    assert (row.kind, row.files, row["size"], row.resolution_m, row.crs) == (
        "patches", 6, "96 x 64", 10, "EPSG:32623",
    )  # fmt: skip
    assert row.valid == 1
    assert 0.2 < row.glacier < 0.35
    assert row.outlines == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (set_date("nothing/*.tif"), "matches no raster file"),
        (set_area(outlines="no.gpkg"), "no.gpkg: no such file"),
        (set_date({"images": "images/train/2023-08/*.tif", "labels": "no.tif"}), "no such file"),
        (lambda c: c["reflectance"].update(scale=1), "`scale` or `offset`"),
        (lambda c: c["reflectance"].update(scale=1e8), "`scale` or `offset`"),
        (set_date("images/train/2023-08/*_r00_*.tif"), "its frame has 96 x 32 px"),
        (set_date("images/test/2023-08/*.tif"), "of its ground lies in area test"),
        (set_area(coverage=[[0, 0], [1, 0], [1, 1]]), "no valid pixel has a label"),
        (set_area(bounds=[450_000, 6_779_900, 450_100, 6_780_000]), "no outline of"),
        (set_area(bounds=[0, 0, 1, 1]), "lie outside the image"),
    ],
)
def test_check_says_what_is_wrong(edit, change, problem):
    table = check(open_dataset(edit(change)))
    row = table[(table.area == "train") & (table.date == "2023-08")].iloc[0]
    assert problem in row.problems


def test_check_of_nodata_everywhere(folder, edit, write_tif):
    write_tif(folder / "void.tif", np.zeros((4, 64, 96), np.uint16))
    table = check(open_dataset(edit(set_date("void.tif"))))
    assert "no valid pixel; check `nodata`" in table.problems[1]
    assert table.kind[1] == "scene"


def test_every_area_and_date_is_looked_at(folder, edit):
    """Four images, something wrong with three of them, each in its own way."""
    for path in sorted((folder / "images/train/2023-07").iterdir())[:5]:
        path.write_bytes(path.read_bytes()[:-3000])

    def spoil(content):
        content["areas"]["train"]["2023-08"] = "nothing/*.tif"
        content["areas"]["test"]["2023-08"] = {
            "images": content["areas"]["test"]["2023-08"], "labels": "no.tif"
        }  # fmt: skip

    found = survey(open_dataset(edit(spoil)))
    assert found.status == 2
    assert found.table.valid.notna().tolist() == [False, False, True, True]
    assert found.table.kind.tolist() == ["patches", "", "patches", "patches"]
    told = found.findings.groupby(["area", "date"]).message.agg(list)
    assert len(told["train", "2023-07"]) == 4
    assert all("cut short" in message for message in told["train", "2023-07"][:3])
    assert told["train", "2023-07"][3].startswith("2 more of its 6 files cannot be read")
    assert [len(told[key]) for key in (("train", "2023-08"), ("test", "2023-08"))] == [1, 1]
    text = found.text()
    assert text.endswith("3 of 4 cannot be used as they are")
    assert "  6 error    test 2023-08: no.tif: no such file" in text


def test_one_finding_of_several_images_is_told_once(edit):
    found = survey(open_dataset(edit(lambda content: content.update(outlines="no.gpkg"))))
    assert len(found.findings) == 4
    assert "  1 error    everywhere: no.gpkg: no such file" in found.text()
    assert "  2 error" not in found.text()


def test_the_table_fits_a_hundred_columns(folder, edit):
    def rename(content):
        areas = content["areas"]
        content["areas"] = {f"{area} with a rather long name (2023)": areas[area] for area in areas}

    lines = survey(open_dataset(edit(rename))).text().splitlines()
    assert lines[2].split() == [
        "area", "date", "kind", "files", "size", "pixel", "CRS", "valid", "glacier", "outlines",
        "age", "(y)",
    ]  # fmt: skip
    assert lines[3].split()[-4:] == ["100%", "27.3%", "1", "22"]
    assert max(map(len, lines[2:])) <= 100
    assert "..." in lines[3]


def test_dates_half_a_pixel_apart_are_named_and_aligned(folder, edit, write_tif):
    random = np.random.default_rng(0)
    numbers = random.integers(1500, 5000, (4, 64, 96), np.uint16)
    write_tif(folder / "shifted.tif", numbers, row=0.5, col=0.5)
    found = survey(open_dataset(edit(set_date("shifted.tif")))).findings
    assert found.severity.tolist() == ["warning"]
    assert "+0.50 columns and +0.50 rows off" in found.message[0].replace("-", "+")
    assert "add `align: 2023-07`" in found.message[0]
    assert survey(open_dataset(edit(set_area(align="2023-07")))).findings.empty


def test_ice_beyond_the_inventory_is_suspected(folder, edit):
    """Outlines of the other area only: all the ice here is beyond them."""
    box = open_dataset(folder).source("train", "2023-07").grid.window(16, 24, 32, 48).bounds

    def crop(content):
        content["areas"]["train"]["bounds"] = list(box)
        content["areas"]["train"]["outlines"] = "other.gpkg"

    outlines = gpd.read_file(folder / "outlines.gpkg")
    outlines[outlines.glac_id.str.contains("G000001")].to_file(folder / "other.gpkg")
    found = survey(open_dataset(edit(crop))).findings
    assert set(found.severity) == {"warning"}
    assert found.message.str.contains("free of ice").sum() == 2
    assert found.message.str.contains("draw it as `ice_outside`").sum() == 2


def test_real_warnings_are_few(real_data):
    """Overlaps along divides and a little snow at the edges are not worth a word."""
    for name in ("everest", "athabasca"):
        found = survey(open_dataset(PROJECT / "data" / name))
        assert found.status == 0
        assert len(found.findings) <= 2
