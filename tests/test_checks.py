"""The check looks at every area and date, and tells errors from warnings in a table to read."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from glacier_utils.checks import check
from glacier_utils.datasets import open_dataset


@pytest.fixture
def folder(make_dataset):
    return make_dataset(patches=(2, 3))


@pytest.fixture
def edit(folder):
    """Change the manifest by a function of its content, and give its path."""
    path = folder / "dataset.yaml"

    def change(function):
        content = yaml.safe_load(path.read_text())
        function(content)
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    return change


def set_area(**values):
    return lambda content: content["areas"]["train"].update(values)


def set_date(value):
    return set_area(**{"2023-08": value})


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
        (set_date("images/train/2023-08/*_r00_*.tif"), "its frame differs from that of 2023-07"),
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
