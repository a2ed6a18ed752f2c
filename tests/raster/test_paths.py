"""Which files an image is made of."""

from __future__ import annotations

import numpy as np
import rasterio.shutil
from affine import Affine

from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import write_raster
from glacier_utils.raster.paths import files_behind


def test_side_cars_and_sources_lie_behind_a_file(tmp_path):
    grid = Grid(None, Affine(10, 0, 0, 0, -10, 0), 4, 4)
    folder = tmp_path / "in"
    inner = write_raster(folder / "s.TIF", np.ones((4, 4), np.uint8), grid)
    rasterio.shutil.copy(inner, folder / "a.vrt", driver="VRT")
    text = (folder / "a.vrt").read_text().replace("s.TIF", "in/a.vrt")
    (tmp_path / "b.vrt").write_text(text)
    for name in ("s.TIF.msk", "s.tfw", "S.TIF.aux.xml", "s.txt", "other.tfw", "a.vrt.ovr"):
        (folder / name).write_text("")
    names = [path.name for path in files_behind([tmp_path / "b.vrt"])]
    assert names == ["b.vrt", "S.TIF.aux.xml", "a.vrt", "s.TIF", "s.TIF.msk", "s.tfw"]


def test_a_vrt_that_is_none_has_nothing_behind_it(tmp_path):
    path = tmp_path / "x.vrt"
    path.write_text("<!DOCTYPE x [<!ENTITY a 'b'>]><VRTDataset>&a;</VRTDataset>")
    assert files_behind([path]) == [path]
    path.write_text("no XML")
    assert files_behind([path]) == [path]
