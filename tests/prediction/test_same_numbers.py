"""The same map from the same input: with one thread and two, again, from another folder.

In bf16 the processor's library cuts its sums by the number of threads, so that one and two threads
agree to its rounding only; a map made again with as many threads is the same there too.
"""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch

from glacier_utils.models.checkpoint import Segmenter, save_checkpoint
from glacier_utils.prediction import acceleration
from glacier_utils.prediction.scenes import map_scene


@pytest.fixture
def threads():
    """Give torch's own setting back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("bf16", [False, True])
def test_maps_do_not_depend_on_threads_the_working_directory_or_the_time(
    tmp_path, write_tif, threads, monkeypatch, bf16
):
    if bf16 and not acceleration.faster_in_bf16():
        pytest.skip("this processor is not faster in bf16")
    monkeypatch.setattr(acceleration, "faster_in_bf16", lambda: bf16)
    torch.manual_seed(0)
    bands = ("red", "green", "blue", "nir")
    segmenter = Segmenter("unet-resnet18", bands, [0.2] * 4, [0.1] * 4)
    save_checkpoint(tmp_path / "unet.pt", segmenter)
    noise = np.random.default_rng(0).integers(1000, 6000, (4, 200, 260), dtype=np.uint16)
    write_tif(tmp_path / "scene_2023-08-24.tif", noise, nodata=0)

    def mapped(out: str, number: int, start: Path) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
        threads(number)
        monkeypatch.chdir(start)
        folder = Path() if start == tmp_path else tmp_path
        files = map_scene(folder / "unet.pt", folder / "scene_2023-08-24.tif", folder / out,
                          window=128, overlap=32)  # fmt: skip
        rasters = []
        for kind in ("probability", "class"):
            with rasterio.open(files[kind]) as file:
                rasters.append(file.read(1))
        outlines = gpd.read_file(files["outlines"], layer="glims_polygons")
        return *rasters, outlines.geometry.to_wkb().to_list()

    first = mapped("first", 1, tmp_path)
    assert 0 < (first[1] == 1).mean() < 1, "a map that tells nothing"
    (tmp_path / "elsewhere").mkdir()
    again = mapped("again", 1, tmp_path / "elsewhere")
    two = mapped("two", 2, tmp_path)
    np.testing.assert_array_equal(again[0], first[0])
    np.testing.assert_array_equal(again[1], first[1])
    assert again[2] == first[2]
    # Some processors sum in another order with two threads. A step is a probability of 0.004.
    assert np.abs(two[0].astype(int) - first[0]).max() <= (5 if bf16 else 1)
    assert (two[1] != first[1]).mean() < (0.01 if bf16 else 0.001)
