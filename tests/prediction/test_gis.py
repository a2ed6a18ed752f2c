"""What is written, seen through GDAL's own tools, as QGIS sees it."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from stubs import FirstBand, Scene, segmenter

from glacier_utils.prediction.scenes import map_scene

VALIDATE = [
    "/usr/bin/python3", "-c",
    "import sys; from osgeo_utils.samples.validate_cloud_optimized_geotiff import main; "
    "sys.exit(main(['', '--full-check=yes', sys.argv[1]]))",
]  # fmt: skip


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    values = np.full((4, 900, 1100), -2.0)
    values[0, 100:400, 200:700] = 3.0
    values[0, 200:240, 300:340] = -2.0  # a nunatak
    values[0, 600:700, 100:200] = 3.0
    valid = np.ones((900, 1100), bool)
    valid[:, -50:] = False
    folder = tmp_path_factory.mktemp("maps")
    source = Scene(values, valid)
    return map_scene(segmenter(FirstBand()), source, folder, name="scene", date="2023-08-24")


@pytest.mark.parametrize("kind", ["probability", "class"])
def test_gdal_takes_the_rasters_for_valid_cogs(files, kind):
    found = subprocess.run(
        ["/usr/bin/python3", "-c", "import osgeo_utils"], capture_output=True
    ).returncode
    if found:
        pytest.skip("GDAL's validator is not here: Debian's package python3-gdal has it")
    assert "is a valid cloud optimized GeoTIFF" in run(*VALIDATE, files[kind])


def test_gdalinfo_reads_what_the_numbers_mean(files):
    if not shutil.which("gdalinfo"):
        pytest.skip("gdalinfo is not here: Debian's package gdal-bin has it")
    about = json.loads(run("gdalinfo", "-json", files["probability"]))
    (band,) = about["bands"]
    assert (band["type"], band["noDataValue"], band["scale"]) == ("Byte", 255, 0.004)
    assert len(band["overviews"]) == 2
    assert about["metadata"]["IMAGE_STRUCTURE"]["LAYOUT"] == "COG"
    assert about["metadata"][""]["IMAGE_DATE"] == "2023-08-24"
    (band,) = json.loads(run("gdalinfo", "-json", files["class"]))["bands"]
    assert band["colorInterpretation"] == "Palette"
    assert band["colorTable"]["entries"][1] == [86, 180, 233, 255]


def test_ogrinfo_reads_the_outlines_and_their_style(files):
    if not shutil.which("ogrinfo"):
        pytest.skip("ogrinfo is not here: Debian's package gdal-bin has it")
    listed = run("ogrinfo", "-ro", files["outlines"])
    assert "glims_polygons" in listed
    summary = run("ogrinfo", "-ro", "-so", files["outlines"], "glims_polygons")
    # Two glaciers and a nunatak.
    assert "Feature Count: 3" in summary
    assert 'ID["EPSG",4326]' in summary
    for column in ("line_type: String", "glac_id: String", "src_date: Date", "area: Real"):
        assert column in summary, column
    styles = run("ogrinfo", "-ro", "-al", files["outlines"], "layer_styles")
    assert "f_table_name (String) = glims_polygons" in styles
    assert "useAsDefault (Integer(Boolean)) = 1" in styles
    assert "categorizedSymbol" in styles
