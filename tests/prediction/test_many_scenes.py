"""Many scenes: one task each, on one process or many, with the same results."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.crs import CRS

from glacier_utils.errors import GlacierError
from glacier_utils.outlines.inventory import areas_km2
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.prediction import scenes
from glacier_utils.prediction.many_scenes import map_scenes
from glacier_utils.prediction.stac import write_item
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import read_header, write_raster

ICE = shapely.affinity.scale(shapely.Point(501_700, 6_799_000).buffer(1, 64), 900, 400)


def map_stub(checkpoint, scene, out, *, name, date=None, **settings):
    """Map a scene whose one band is the class; what its name says may go wrong."""
    path = Path(scene)
    told = {} if date is None else {"date": date}
    date = "2023-08-24" if date is None else date
    with (out.parent / "calls.txt").open("a") as calls:
        calls.write(f"{name}\n")
    if "bad" in name:
        raise GlacierError(f"{path}: has no band nir; name the bands")
    if "broken" in name:
        raise ValueError("a failure of ours")
    if "shaky" in name and _first_time(out.parent / f"{name}.tried"):
        raise OSError("the network was away")
    with rasterio.open(path) as file:
        mask = file.read(1)
    grid = read_header(path).grid
    files = {kind: out / f"{name}_{kind}.tif" for kind in ("probability", "class")}
    write_raster(files["class"], mask, grid, nodata=255)
    if "killed" in name and _first_time(out.parent / f"{name}.tried"):
        (out.parent / "pid").write_text(str(os.getpid()))
        time.sleep(120)
        raise AssertionError("nobody killed this worker")
    write_raster(files["probability"], np.where(mask == 255, 255, mask * 250), grid, nodata=255)
    files["item"] = write_item(
        out / f"{name}.json", grid=grid, date=date, assets=dict(files),
        properties={
            "image_date": date, "model": "stub",
            "inputs": scenes._keys(checkpoint, scene, told | settings)[1],
        },
    )  # fmt: skip
    return files


def _first_time(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    path = tmp_path / "model.pt"
    path.write_bytes(b"weights")
    return path


def write_scene(path: Path, col: int, row: int = 0) -> Path:
    """Write the class of a known landscape as seen in a frame of 200 x 200 pixels of 10 m."""
    transform = Affine(10, 0, 500_000 + 10 * col, 0, -10, 6_800_000 - 10 * row)
    grid = Grid(CRS.from_epsg(32623), transform, 200, 200)
    table = gpd.GeoDataFrame({"kind": ["glacier"]}, geometry=[ICE], crs=32623)
    return write_raster(path, rasterize(table, grid).astype(np.uint8), grid, nodata=255)


def calls(folder: Path) -> list[str]:
    path = folder / "calls.txt"
    return path.read_text().split() if path.exists() else []


def test_what_a_killed_start_left_is_removed(tmp_path, checkpoint):
    (tmp_path / "out").mkdir()
    for left in (".scenes.0123abcd.json", ".mosaic_outlines.0123abcd.gpkg-journal", ".x.0123abcd"):
        (tmp_path / "out" / left).touch()
    map_scenes(checkpoint, [write_scene(tmp_path / "a.tif", 0)], tmp_path / "out",
               map_one=map_stub, progress=False)  # fmt: skip
    # Another process may be at work on x.
    assert [path.name for path in (tmp_path / "out").glob(".*")] == [".x.0123abcd"]


def test_scenes_become_products_mosaics_and_whole_glaciers(tmp_path, checkpoint):
    scenes = [write_scene(tmp_path / f"{name}.tif", col) for name, col in (("w", 0), ("e", 140))]
    done = map_scenes(checkpoint, scenes, tmp_path / "out", map_one=map_stub, progress=False)
    assert done.status == 0
    assert [scene.status for scene in done.scenes] == ["mapped"] * 2
    glaciers = gpd.read_file(done.outlines, layer="glims_polygons")
    assert len(glaciers) == 1
    truth = areas_km2(gpd.GeoSeries([ICE], crs=32623))[0]
    assert glaciers.db_area.sum() == pytest.approx(truth, rel=0.01)
    assert glaciers.src_date.dt.strftime("%Y-%m-%d").tolist() == ["2023-08-24"]
    with rasterio.open(done.mosaics["class"][0]) as file:
        assert (file.read(1) == 1).sum() * 1e-4 == pytest.approx(truth, rel=0.01)
    table = pd.read_csv(tmp_path / "out" / "scenes.csv")
    assert table["name"].tolist() == ["w", "e"]
    assert table["class"].tolist() == ["w_class.tif", "e_class.tif"]
    assert done.summary()[0].startswith("2 scenes: 2 mapped; ")


def test_finished_scenes_are_not_mapped_again_unless_something_changed(tmp_path, checkpoint):
    scenes = [write_scene(tmp_path / f"{name}.tif", col) for name, col in (("w", 0), ("e", 140))]

    def run(**settings):
        before = len(calls(tmp_path))
        done = map_scenes(
            checkpoint, scenes, tmp_path / "out", map_one=map_stub, progress=False, **settings
        )
        return calls(tmp_path)[before:], done

    assert run()[0] == ["w", "e"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("mosaic*")}
    again, done = run()
    assert again == []
    assert [scene.status for scene in done.scenes] == ["unchanged"] * 2
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("mosaic*")}
    assert len(before) == 3
    assert done.outlines in before
    # A file that is gone, other inputs, other settings, another checkpoint.
    (tmp_path / "out" / "e_class.tif").unlink()
    assert run()[0] == ["e"]
    write_scene(scenes[0], 20)
    assert run()[0] == ["w"]
    assert run(window=256)[0] == ["w", "e"]
    assert run(window=256)[0] == []
    checkpoint.write_bytes(b"other")
    assert run(window=256)[0] == ["w", "e"]


def test_a_broken_record_is_made_anew_from_the_maps(tmp_path, checkpoint):
    scene = write_scene(tmp_path / "w.tif", 0)
    record = tmp_path / "out" / "scenes.json"
    for text in ("{", '{"scenes": {"w": {"key": 1}}}', '{"scenes": []}', "[]"):
        record.parent.mkdir(exist_ok=True)
        record.write_text(text)
        map_scenes(checkpoint, [scene], tmp_path / "out", map_one=map_stub, progress=False)
        assert json.loads(record.read_text())["scenes"]["w"]["files"]["class"] == "w_class.tif"
    assert calls(tmp_path) == ["w"]
    for text in ("{", "[]", '{"properties": {}, "assets": {"class": {"href": "../w.tif"}}}'):
        (tmp_path / "out" / "w.json").write_text(text)
        map_scenes(checkpoint, [scene], tmp_path / "out", map_one=map_stub, progress=False)
    assert calls(tmp_path) == ["w"] * 4


def test_maps_of_an_earlier_format_are_made_anew(tmp_path, checkpoint, monkeypatch):
    scene = write_scene(tmp_path / "w.tif", 0)
    for expected in (["w"], ["w"], ["w", "w"]):
        if len(expected) == 2:
            monkeypatch.setattr(scenes, "FORMAT", scenes.FORMAT + 1)
        map_scenes(checkpoint, [scene], tmp_path / "out", map_one=map_stub, progress=False)
        assert calls(tmp_path) == expected


def test_one_failing_scene_stops_no_other(tmp_path, checkpoint):
    names = ("a", "bad", "shaky", "d")
    scenes = [write_scene(tmp_path / f"{name}.tif", 40 * n) for n, name in enumerate(names)]
    out = tmp_path / "out"
    done = map_scenes(checkpoint, scenes, out, map_one=map_stub, progress=False)
    assert [scene.status for scene in done.scenes] == ["mapped", "failed", "mapped", "mapped"]
    # A mistake of the user is not tried again, a failure is.
    assert calls(tmp_path) == ["a", "bad", "shaky", "shaky", "d"]
    assert done.status == 2
    assert any(line.startswith("failed: bad: ") and "band nir" in line for line in done.summary())
    assert done.outlines.exists()
    assert json.loads((out / "scenes.json").read_text())["scenes"]["bad"]["status"] == "failed"
    broken = write_scene(tmp_path / "broken.tif", 0)
    done = map_scenes(checkpoint, [*scenes, broken], out, retries=1, map_one=map_stub,
                      progress=False)  # fmt: skip
    assert done.status == 1
    assert calls(tmp_path)[5:] == ["bad", "broken", "broken"]
    assert done.failed[1].error == "ValueError: a failure of ours"
    assert pd.read_csv(out / "scenes.csv").status.value_counts()["failed"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_workers_even_if_one_is_killed(tmp_path, checkpoint, workers):
    names = ("a", "killed", "bad", "shaky", "e")
    scenes = [write_scene(tmp_path / f"{name}.tif", 45 * n) for n, name in enumerate(names)]
    alone = tmp_path / "alone"
    alone.mkdir()
    (alone / "killed.tried").touch()
    expected = map_scenes(
        checkpoint, scenes, alone / "out", map_one=map_stub, progress=False, workers=0
    )
    dead, over = [], threading.Event()

    def kill() -> None:
        # Starting workers takes long on a busy machine.
        while not over.is_set():
            if (tmp_path / "pid").exists() and (text := (tmp_path / "pid").read_text()):
                os.kill(int(text), signal.SIGKILL)
                dead.append(int(text))
                return
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    here = set(Path.cwd().iterdir())
    found = map_scenes(
        checkpoint, scenes, tmp_path / "out", map_one=map_stub, progress=False, workers=workers
    )
    over.set()
    killer.join()
    assert len(dead) == 1
    assert dead[0] != os.getpid()
    assert set(Path.cwd().iterdir()) == here  # nothing of the workers is left lying about
    assert [one.status for one in found.scenes] == [one.status for one in expected.scenes]
    assert [one.error for one in found.failed] == [one.error for one in expected.failed]
    rasters = sorted(path.name for path in (alone / "out").glob("*.tif"))
    assert len(rasters) == 8
    for name in [*rasters, "mosaic_class.vrt", "mosaic_probability.vrt"]:
        assert (tmp_path / "out" / name).read_bytes() == (alone / "out" / name).read_bytes(), name
    # A GeoPackage holds the time of its writing.
    tables = [gpd.read_file(one.outlines, layer="glims_polygons") for one in (found, expected)]
    pd.testing.assert_frame_equal(*tables)
    # Two had to be tried again; what the lost worker had done and nobody had fetched may be, too.
    tried = Counter(calls(tmp_path))
    assert set(tried) == set(names)
    assert min(tried["killed"], tried["shaky"]) == 2


@pytest.mark.slow
def test_a_cluster_that_is_not_there_is_said_soon(tmp_path, checkpoint, caplog):
    scene = write_scene(tmp_path / "a.tif", 0)
    start = time.monotonic()
    for address in ("tcp://127.0.0.1:1", "nonsense", "ftp://x:1"):
        with pytest.raises(GlacierError, match="no Dask scheduler answers"):
            map_scenes(checkpoint, [scene], tmp_path / "out", scheduler=address, map_one=map_stub)
    assert time.monotonic() - start < 25
    assert not caplog.records
    assert calls(tmp_path) == []


def test_a_running_cluster_maps_the_scenes(tmp_path, checkpoint):
    from distributed import LocalCluster

    scene = write_scene(tmp_path / "a.tif", 0)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None,
        local_directory=str(tmp_path / "dask"), memory_limit=0,
    ) as cluster:  # fmt: skip
        done = map_scenes(
            checkpoint, [scene], tmp_path / "out", map_one=map_stub, progress=False,
            scheduler=cluster.scheduler_address,
        )  # fmt: skip
        assert cluster.status.name == "running"  # it is not ours to stop
    assert done.scenes[0].status == "mapped"


def test_a_cluster_without_workers_is_refused(tmp_path, checkpoint):
    from distributed import LocalCluster

    scene = write_scene(tmp_path / "a.tif", 0)
    with (
        LocalCluster(n_workers=0, processes=False, dashboard_address=None) as cluster,
        pytest.raises(GlacierError, match="has no workers"),
    ):
        map_scenes(checkpoint, [scene], tmp_path / "out", map_one=map_stub, progress=False,
                   scheduler=cluster.scheduler_address)  # fmt: skip


def test_mistakes_in_the_arguments_come_before_any_work(tmp_path, checkpoint):
    scene = write_scene(tmp_path / "a.tif", 0)
    out = tmp_path / "out"
    (tmp_path / "file").touch()
    for wrong, arguments, options in (
        ("no scene is named", (checkpoint, [], out), {}),
        ("no such file", (checkpoint, [scene, tmp_path / "none.tif"], out), {}),
        ("no such checkpoint", (tmp_path / "none.pt", [scene], out), {}),
        ("no checkpoint is named", ([], [scene], out), {}),
        ("is a file", (checkpoint, [scene], tmp_path / "file"), {}),
        ("must be 0 or more", (checkpoint, [scene], out), {"workers": -1}),
        ("give one of them", (checkpoint, [scene], out), {"workers": 2, "scheduler": "x"}),
    ):
        with pytest.raises(GlacierError, match=wrong):
            map_scenes(*arguments, map_one=map_stub, progress=False, **options)
    assert calls(tmp_path) == []
    assert not list(out.glob("*"))


def test_another_scene_of_the_same_name_is_not_overwritten(tmp_path, checkpoint):
    one, other = (write_scene(tmp_path / folder / "a.tif", 0) for folder in ("x", "y"))
    out = tmp_path / "out"
    map_scenes(checkpoint, [one], out, map_one=map_stub, progress=False)
    with pytest.raises(GlacierError, match="another scene named a"):
        map_scenes(checkpoint, [other], out, map_one=map_stub, progress=False)
    # Named together, they get names of their own.
    done = map_scenes(checkpoint, [one, other], tmp_path / "both", map_one=map_stub, progress=False)
    assert [scene.name for scene in done.scenes] == ["x_a", "y_a"]


def test_ctrl_c_keeps_what_is_finished(tmp_path, checkpoint):
    scenes = [write_scene(tmp_path / f"{name}.tif", 0) for name in ("a", "b")]

    def stop(checkpoint, scene, out, **settings):
        if settings["name"] == "b":
            raise KeyboardInterrupt
        return map_stub(checkpoint, scene, out, **settings)

    with pytest.raises(KeyboardInterrupt):
        map_scenes(checkpoint, scenes, tmp_path / "out", map_one=stop, progress=False)
    done = map_scenes(checkpoint, scenes, tmp_path / "out", map_one=map_stub, progress=False)
    assert [scene.status for scene in done.scenes] == ["unchanged", "mapped"]


def test_without_dates_the_merged_outlines_have_none(tmp_path, checkpoint):
    scenes = [write_scene(tmp_path / f"{name}.tif", 0) for name in ("a", "b")]

    def undated(*arguments, **settings):
        return map_stub(*arguments, **{**settings, "date": ""})

    done = map_scenes(checkpoint, scenes, tmp_path / "out", map_one=undated, progress=False)
    assert done.mosaics["class"][0].exists()
    assert done.status == 0
    glaciers = gpd.read_file(done.outlines, layer="glims_polygons")
    assert len(glaciers) > 0
    assert glaciers["src_date"].isna().all()


def test_where_there_is_no_glacier_the_outlines_are_empty(tmp_path, checkpoint):
    scenes = [write_scene(tmp_path / f"{name}.tif", 0, 2000) for name in ("a", "b")]
    done = map_scenes(checkpoint, scenes, tmp_path / "out", map_one=map_stub, progress=False)
    assert len(gpd.read_file(done.outlines, layer="glims_polygons")) == 0
