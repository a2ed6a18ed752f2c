"""A scene becomes files: what they hold, and what happens where the work breaks off."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from rasterio.crs import CRS
from rio_cogeo import cog_validate
from stubs import BANDS, Constant, FirstBand, Scene, segmenter

from glacier_utils.datasets.exploration import thumbnail
from glacier_utils.errors import GlacierError
from glacier_utils.files import locked
from glacier_utils.imagery.examination import Finding
from glacier_utils.imagery.source import open_source
from glacier_utils.imagery.warp import warp_source
from glacier_utils.models import checkpoint as checkpoint_module
from glacier_utils.models.checkpoint import Segmenter, save_checkpoint
from glacier_utils.outlines.inventory import read_outlines
from glacier_utils.outlines.rasterization import rasterize
from glacier_utils.prediction import scenes
from glacier_utils.prediction.mapper import Mapper, Plan, predict_scene
from glacier_utils.prediction.mosaic import write_vrt
from glacier_utils.prediction.scenes import map_scene, product_files
from glacier_utils.prediction.strips import CLASS_COLOURMAP
from glacier_utils.raster.grid import Grid

PLACE = {"crs": "EPSG:32623", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 68e5)}
WINDOWS = {"window": 64, "overlap": 16}
POSIX = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and limits on files are POSIX's")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    torch.manual_seed(0)
    network = Segmenter(
        "glaciernet",
        BANDS,
        [0.3] * 4,
        [0.2] * 4,
        arguments={"filters": [4, 8]},
        threshold=0.51,
        provenance={"store": "abc", "reflectance": {"scale": 10000, "offset": -1000, "nodata": 0}},
    )
    return save_checkpoint(tmp_path / "checkpoint.pt", network)


def write_scene(path: Path, height: int, width: int, **tags) -> np.ndarray:
    """Write a scene of noise with a corner without data; return its numbers."""
    numbers = np.random.default_rng(0).integers(1001, 9000, (4, height, width)).astype(np.uint16)
    numbers[:, :10, :5] = 0
    profile = {"driver": "GTiff", "count": 4, "height": height, "width": width, "dtype": "uint16"}
    with rasterio.open(path, "w", **profile, **PLACE) as file:
        file.write(numbers)
        if "scale" in tags:
            file.scales, file.offsets = [tags["scale"]] * 4, [tags["offset"]] * 4
        file.update_tags(**{name: text for name, text in tags.items() if name.isupper()})
    return numbers


def glacier_scene(height: int = 60, width: int = 80) -> Scene:
    """Logits in the first band: a glacier of 30 x 20 px, and a corner without data."""
    values = np.full((4, height, width), -2.0)
    values[0, 10:40, 15:35] = 3.0
    valid = np.ones((height, width), bool)
    valid[-6:, -4:] = False
    return Scene(values, valid)


def contents(files) -> dict[str, bytes]:
    """Return the bytes of the rasters and what the outlines hold, which carry no time."""
    found = {kind: files[kind].read_bytes() for kind in ("probability", "class")}
    if "outlines" in files:
        table = gpd.read_file(files["outlines"], layer="glims_polygons")
        found["outlines"] = table.to_csv().encode()
    return found


# ---- what is written


@pytest.mark.parametrize("synthetic", [False, True])
def test_a_map_of_a_file_of_the_sample_says_so(tmp_path, checkpoint, synthetic):
    """The dataset.yaml that says so is not read where a file is mapped by itself."""
    tags = {"TIFFTAG_IMAGEDESCRIPTION": "synthetic sample"} if synthetic else {}
    write_scene(tmp_path / "scene.tif", 150, 170, **tags)
    files = map_scene(checkpoint, tmp_path / "scene.tif", tmp_path / "out", **WINDOWS)
    for kind in ("probability", "class"):
        with rasterio.open(files[kind]) as file:
            assert file.tags().get("SYNTHETIC") == ("synthetic sample" if synthetic else None)
    assert ("glacier:synthetic" in files["item"].read_text("utf-8")) == synthetic
    outlines = gpd.read_file(files["outlines"], layer="glims_polygons")
    assert len(outlines)
    assert outlines["glac_id"].str.startswith("SYN-G" if synthetic else "G").all()
    mosaic = write_vrt(tmp_path / "all.vrt", [files["class"]])
    with rasterio.open(mosaic) as file:
        assert file.tags().get("SYNTHETIC") == ("synthetic sample" if synthetic else None)
    source = open_source(tmp_path / "scene.tif", bands=BANDS)
    half = source.grid.window(0, 0, 60, 80)
    assert source.synthetic == warp_source(source, half).synthetic == synthetic


def test_a_scene_is_mapped_from_checkpoint_and_file_alone(tmp_path, checkpoint):
    numbers = write_scene(tmp_path / "T23VMG_20230824T142749.tif", 150, 170)
    files = map_scene(checkpoint, tmp_path / "T23VMG_20230824T142749.tif", tmp_path / "out",
                      **WINDOWS)  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "T23VMG_20230824T142749.json",
        "T23VMG_20230824T142749_class.tif",
        "T23VMG_20230824T142749_outlines.gpkg",
        "T23VMG_20230824T142749_probability.qml",
        "T23VMG_20230824T142749_probability.tif",
    ]
    reflectance = (numbers.astype(np.float32) - 1000) / 10000 * (numbers > 0)
    source = Scene(reflectance, numbers[0] > 0)
    expected = predict_scene(checkpoint_module.load_checkpoint(checkpoint), source, **WINDOWS)
    with rasterio.open(files["probability"]) as file:
        steps = file.read(1)
        assert (file.crs.to_epsg(), file.transform) == (32623, PLACE["transform"])
        assert (file.dtypes[0], file.nodata, file.scales[0]) == ("uint8", 255, 0.004)
        tags = file.tags()
    assert ((steps == 255) == (numbers[0] == 0)).all()
    known = steps != 255
    assert np.abs(steps[known] * 0.004 - expected[known]).max() <= 0.0021
    with rasterio.open(files["class"]) as file:
        classes = file.read(1)
        assert file.colormap(1)[1] == CLASS_COLOURMAP[1]
    # By the probability itself, not by its rounded copy.
    np.testing.assert_array_equal(classes[known], expected[known] >= 0.51)
    assert (classes[~known] == 255).all()
    for kind in ("probability", "class"):
        assert cog_validate(files[kind], strict=True)[0]
    assert tags["MODEL"] == "glaciernet"
    assert tags["CHECKPOINT"].startswith("checkpoint.pt sha256:")
    assert tags["SCENE"] == "T23VMG_20230824T142749.tif"
    assert (tags["THRESHOLD"], tags["IMAGE_DATE"]) == ("0.51", "2023-08-24")
    assert tags["REFLECTANCE"] == "scale 10000 and offset -1000, as in the training"
    item = json.loads(files["item"].read_text())
    assert item["properties"]["datetime"].startswith("2023-08-24")
    assert set(item["assets"]) == {"probability", "class", "outlines"}


def test_the_outlines_are_those_of_the_class_map(tmp_path):
    source = glacier_scene()
    files = map_scene(segmenter(FirstBand()), source, tmp_path, name="test", date="2023-08")
    outlines = read_outlines(files["outlines"])
    np.testing.assert_array_equal(
        rasterize(outlines, source.grid)[source.valid], (source.pixels[0] > 0)[source.valid]
    )
    assert outlines["source_date"].iloc[0].isoformat().startswith("2023-08-15")
    # 0.06 km2 are below the least area: the rasters keep it, the outlines do not.
    files = map_scene(segmenter(FirstBand()), source, tmp_path, name="test", date="2023-08",
                      min_area_km2=0.07)  # fmt: skip
    assert gpd.read_file(files["outlines"], layer="glims_polygons").empty
    with rasterio.open(files["class"]) as file:
        assert (file.read(1) == 1).sum() == 600


def test_a_file_may_be_named_instead_of_a_folder(tmp_path):
    files = map_scene(segmenter(FirstBand()), glacier_scene(), tmp_path / "my.map.tif")
    assert {kind: path.name for kind, path in files.items()} == {
        "probability": "my.map.tif",
        "class": "my.map_class.tif",
        "outlines": "my.map_outlines.gpkg",
        "item": "my.map.json",
    }
    assert product_files("x/a_probability.tif", "")["class"] == Path("x/a_class.tif")


def test_without_crs_or_wish_there_are_no_outlines(tmp_path):
    files = map_scene(segmenter(FirstBand()), glacier_scene(), tmp_path, name="a", outlines=False)
    assert set(files) == {"probability", "class", "item"}
    source = glacier_scene()
    source.grid = type(source.grid)(None, source.grid.transform, *source.grid.shape)
    files = map_scene(segmenter(FirstBand()), source, tmp_path, name="b")
    assert set(files) == {"probability", "class", "item"}


def test_panels_and_ensembles_are_written_alike(tmp_path, monkeypatch):
    source = Scene(np.random.default_rng(0).normal(0, 2, (4, 150, 220)))
    one = segmenter(FirstBand())
    whole = map_scene(one, source, tmp_path / "whole", name="a", **WINDOWS)
    monkeypatch.setattr(scenes, "Plan", lambda *a, **k: Plan(*a, **k, widest=100))
    parts = map_scene([one, one], source, tmp_path / "parts", name="a", **WINDOWS)
    for kind in ("probability", "class"):
        with rasterio.open(whole[kind]) as file, rasterio.open(parts[kind]) as other:
            np.testing.assert_array_equal(file.read(), other.read())
    assert "spread" not in whole


def test_an_ensemble_leaves_the_spread_of_its_members(tmp_path):
    image = np.random.default_rng(0).normal(0, 2, (4, 150, 100))
    image[:, :5, :5] = 0
    scene = Scene(image, image.any(axis=0))
    members = [segmenter(FirstBand()), segmenter(FirstBand(), bands=BANDS[::-1])]
    files = map_scene(members, scene, tmp_path, name="a", **WINDOWS)
    one, two = (1 / (1 + np.exp(-image[number])) for number in (0, 3))
    with rasterio.open(files["spread"]) as file:
        steps = file.read(1)
        assert (file.nodata, file.scales[0]) == (255, 0.004)
    assert (steps[:5, :5] == 255).all()
    np.testing.assert_allclose(steps[5:] * 0.004, abs(one - two)[5:] / 2, atol=0.0021)
    # What is whole is not made again; without the spread it is.
    stamp = files["spread"].stat().st_mtime_ns
    map_scene(members, scene, tmp_path, name="a", **WINDOWS)
    assert files["spread"].stat().st_mtime_ns == stamp
    files["spread"].unlink()
    assert map_scene(members, scene, tmp_path, name="a", **WINDOWS)["spread"].is_file()


def test_whose_word_on_the_numbers_counts(tmp_path, caplog):
    """The scene's own tags before the training's rule, the user's before either."""
    rule = Segmenter(
        "threshold", BANDS, [0] * 4, [1] * 4, provenance={"reflectance": {"offset": -1000}}
    )
    numbers = write_scene(tmp_path / "plain.tif", 20, 30)
    write_scene(tmp_path / "tagged.tif", 20, 30, scale=1e-4, offset=-0.05)
    seen = set()
    for name, said, offset in (
        ("plain.tif", {}, -1000),
        ("tagged.tif", {}, -500),
        ("tagged.tif", {"offset": -2000}, -2000),
        ("plain.tif", {"offset": -2000}, -2000),
    ):
        said["nodata"] = 65535
        files = map_scene(rule, tmp_path / name, tmp_path / "map.tif", outlines=False, **said)
        reflectance = (numbers + np.float32(offset)) / np.float32(10000)
        expected = predict_scene(rule, Scene(reflectance, np.ones((20, 30), bool)))
        with rasterio.open(files["probability"]) as result:
            steps = result.read(1)
        np.testing.assert_allclose(steps * 0.004, expected, atol=0.0021)
        seen.add(steps.tobytes())
    assert len(seen) == 3  # another offset would show
    assert "tagged.tif" in caplog.text  # the contradiction is told


# ---- finished work, and work that breaks off


def test_finished_work_is_not_done_again_unless_something_changed(tmp_path, checkpoint):
    write_scene(tmp_path / "scene.tif", 90, 100)

    def again(**settings) -> set[str]:
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*")}
        map_scene(checkpoint, tmp_path / "scene.tif", tmp_path / "out", **WINDOWS | settings)
        after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*")}
        return {path.name for path in after if before.get(path) != after[path]}

    assert len(again()) == 5
    assert again() == set()
    assert len(again(overlap=8)) == 5
    assert again(overlap=8) == set()
    assert again(overlap=8, min_area_km2=0.05) == {"scene.json", "scene_outlines.gpkg"}
    assert again(overlap=8) == {"scene.json", "scene_outlines.gpkg"}
    (tmp_path / "out" / "scene_class.tif").write_text("cut short")
    assert len(again(overlap=8, min_area_km2=0.05)) == 5
    (tmp_path / "out" / "scene_class.tif").unlink()
    assert len(again(overlap=8)) == 5
    write_scene(tmp_path / "scene.tif", 90, 101)
    assert len(again(overlap=8)) == 5
    save_checkpoint(checkpoint, Segmenter("threshold", BANDS, [0] * 4, [1] * 4))
    assert len(again(overlap=8)) == 5


class Breaking(Constant):
    """Stops after some passes, as if the power were cut."""

    def __init__(self, passes: int) -> None:
        super().__init__(1.0)
        self.passes = passes

    def forward(self, images):
        if self.seen >= self.passes:
            raise KeyboardInterrupt
        return super().forward(images)


def test_a_scene_is_examined_before_the_work_and_never_again(tmp_path, checkpoint, monkeypatch):
    write_scene(tmp_path / "scene.tif", 60, 80)
    found = [Finding("error", "no reflectance")]
    monkeypatch.setattr(scenes, "examine", lambda *_, **__: found)
    with pytest.raises(GlacierError, match="no reflectance"):
        map_scene(checkpoint, tmp_path / "scene.tif", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found[0] = Finding("warning", "unlike the training")
    files = map_scene(checkpoint, tmp_path / "scene.tif", tmp_path / "out")
    properties = json.loads(files["item"].read_text("utf-8"))["properties"]
    assert properties["glacier:warnings"] == ["unlike the training"]
    found[0] = Finding("error", "no reflectance")
    assert map_scene(checkpoint, tmp_path / "scene.tif", tmp_path / "out") == files


def test_interrupted_work_goes_on_after_the_last_strip(tmp_path):
    source = Scene(np.ones((4, 600, 40)))
    network = Breaking(8)
    model = segmenter(network)
    settings = {"name": "a", "date": "2023-08", "window": 40, "overlap": 8}
    whole = map_scene(segmenter(Constant(1.0)), source, tmp_path / "whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        map_scene(model, source, tmp_path / "out", **settings)
    (left,) = (tmp_path / "out").iterdir()
    assert left.name == ".a_probability.partial"
    finished = json.loads((left / "state.json").read_text())["blocks"]
    assert 5 <= finished <= 8
    network.passes, network.seen = 1000, 0
    files = map_scene(model, source, tmp_path / "out", **settings)
    strips = len(Plan(Mapper(model), source, window=40, overlap=8))
    assert network.seen == strips - finished + 1  # one again, for what it left in the strip
    assert contents(files) == contents(whole)
    assert not left.exists()


def test_one_process_at_a_time_writes_a_map(tmp_path):
    work = segmenter(Constant(0.0)), glacier_scene()
    with locked(tmp_path / ".a.lock"):
        with pytest.raises(GlacierError, match=r"a\.json: another process is writing this map"):
            map_scene(*work, tmp_path, name="a")
        assert [path.name for path in tmp_path.iterdir()] == [".a.lock"]
        map_scene(*work, tmp_path, name="b")
    map_scene(*work, tmp_path, name="a")
    assert not list(tmp_path.glob(".*"))


def test_work_on_other_inputs_begins_anew(tmp_path):
    network = Breaking(8)
    settings = {"name": "a", "window": 40, "overlap": 8, "outlines": False}
    with pytest.raises(KeyboardInterrupt):
        map_scene(segmenter(network), Scene(np.ones((4, 600, 40))), tmp_path, **settings)
    other = map_scene(segmenter(Constant(-3.0)), Scene(np.ones((4, 600, 40))), tmp_path,
                      **settings | {"overlap": 4})  # fmt: skip
    with rasterio.open(other["class"]) as file:
        assert (file.read(1) == 0).all()


@pytest.mark.slow
@POSIX
def test_a_killed_process_goes_on_to_the_same_result(tmp_path, checkpoint):
    scene = tmp_path / "scene_2023-08-24.tif"
    write_scene(scene, 12_000, 70)
    whole = map_scene(checkpoint, scene, tmp_path / "whole", **WINDOWS)
    code = (
        "import sys; from glacier_utils.prediction.scenes import map_scene; "
        "map_scene(sys.argv[1], sys.argv[2], sys.argv[3], window=64, overlap=16)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(checkpoint), str(scene), str(tmp_path / "out")]
    )
    state = tmp_path / "out" / f".{scene.stem}_probability.partial" / "state.json"
    until = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was finished before it could be killed"
    assert not list((tmp_path / "out").glob("*.tif"))
    assert json.loads(state.read_text())["blocks"] >= 1
    for left in ("_outlines.0123abcd.gpkg", "_outlines.0123abcd.gpkg-journal", ".0123abcd.json"):
        (tmp_path / "out" / f".{scene.stem}{left}").touch()
    files = map_scene(checkpoint, scene, tmp_path / "out", **WINDOWS)
    assert contents(files) == contents(whole)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(path.name for path in files.values()), "scene_2023-08-24_probability.qml"
    }  # fmt: skip


@pytest.mark.slow
@POSIX
def test_a_full_disk_is_said_and_leaves_no_broken_file(tmp_path, checkpoint):
    """A limit on the size of files stands for the disk."""
    scene = tmp_path / "scene.tif"
    write_scene(scene, 600, 500)
    code = f"""
import resource, signal
from glacier_utils.errors import GlacierError
from glacier_utils.prediction.scenes import map_scene
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    map_scene({str(checkpoint)!r}, {str(scene)!r}, {str(tmp_path / "out")!r})
except GlacierError as error:
    print("told:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "out: no space left on this disk; the map needs about 2 MB" in done.stdout
    assert not [path for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")]
    assert len(map_scene(checkpoint, scene, tmp_path / "out")) == 4


def test_too_little_room_is_said_before_the_work(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    network = Constant(0.0)
    with pytest.raises(GlacierError, match="no space left on this disk"):
        map_scene(segmenter(network), glacier_scene(), tmp_path / "out", name="a")
    assert network.seen == 0
    assert not list((tmp_path / "out").iterdir())


def test_a_date_that_is_none_is_refused(tmp_path):
    network = Constant(0.0)
    with pytest.raises(GlacierError, match="date"):
        map_scene(segmenter(network), glacier_scene(), tmp_path / "out", date="yesterday")
    assert network.seen == 0  # before the work, not after it
    assert not (tmp_path / "out").exists()


def scene(height: int, width: int, *, crs="EPSG:32623") -> Scene:
    """Logits in the first band: a glacier of 20 x 10 px, and a corner without data."""
    values = np.full((4, height, width), -2.0)
    values[0, 10:30, 5:15] = 3.0
    valid = np.ones((height, width), bool)
    valid[-6:, -4:] = False
    source = Scene(values, valid)
    if crs is None:
        source.grid = Grid(None, Affine(1, 0, 0, 0, -1, 0), height, width)
    else:
        place = source.grid.transform
        source.grid = Grid(CRS.from_string(crs), place, height, width)
    return source


def write(source: Scene, folder, *, network=None, **arguments) -> scenes.Product:
    model = segmenter(network or FirstBand())
    return scenes.write_products(
        model, source, folder, "test_2023-08", date="2023-08", window=32, overlap=8, **arguments
    )


# ---- files


def test_a_scene_becomes_five_files(tmp_path):
    source = scene(50, 70)
    product = write(source, tmp_path / "maps")
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [
        "test_2023-08.json",
        "test_2023-08_class.tif",
        "test_2023-08_image.tif",
        "test_2023-08_outlines.gpkg",
        "test_2023-08_probability.qml",
        "test_2023-08_probability.tif",
    ]
    expected = np.zeros((50, 70), np.uint8)
    expected[10:30, 5:15], expected[~source.valid] = 1, 255
    np.testing.assert_array_equal(product.mask, expected)
    with rasterio.open(product.files["class"]) as file:
        np.testing.assert_array_equal(file.read(1), expected)
        assert file.nodata == 255
        assert file.colormap(1)[1] == CLASS_COLOURMAP[1]
        assert file.tags()["IMAGE_DATE"] == "2023-08"
    with rasterio.open(product.files["image"]) as file:
        assert file.descriptions == source.bands
        pixels = file.read()
    assert np.isnan(pixels[:, ~source.valid]).all()
    np.testing.assert_allclose(pixels[:, source.valid], source.pixels[:, source.valid])
    assert product.outlines["area_km2"].tolist() == pytest.approx(
        [0.02], rel=0.005
    )  # corners are cut
    assert scenes.check_products({"test": product}, {"test": source}) == {
        "files": 5, "grids": True, "nodata": True, "outlines": True,
    }  # fmt: skip


def test_the_outlines_are_the_glaciers_of_the_class_map(tmp_path):
    product = write(scene(50, 70), tmp_path)
    table = gpd.read_file(product.files["outlines"], layer="glims_polygons")
    assert table["line_type"].tolist() == ["glac_bound"]
    assert table["src_date"].iloc[0].isoformat().startswith("2023-08-15")
    back = table.to_crs("EPSG:32623").geometry.iloc[0]
    assert back.symmetric_difference(product.outlines.geometry.iloc[0]).area < 1


def test_small_glaciers_are_left_out_of_the_outlines_only(tmp_path):
    source = scene(50, 70)
    product = write(source, tmp_path, min_area_km2=0.03)
    assert product.outlines.empty
    assert (product.mask == 1).sum() == 200
    assert scenes.check_products({"test": product}, {"test": source})["outlines"]


def test_a_map_without_glacier_is_written_like_any_other(tmp_path):
    source = scene(40, 40)
    product = write(source, tmp_path, network=Constant(-5.0))
    assert product.outlines.empty
    checks = scenes.check_products({"test": product}, {"test": source})
    assert all(checks.values())
    assert checks["files"] == 5


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_without_georeference_there_are_no_outlines(tmp_path):
    source = scene(40, 60, crs=None)
    product = write(source, tmp_path, min_area_km2=0.05)
    assert set(product.files) == {"image", "probability", "class", "item"}
    assert scenes.check_products({"test": product}, {"test": source}) == {
        "files": 4, "grids": True, "nodata": True, "outlines": True,
    }  # fmt: skip


def test_large_scenes_are_not_written_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "LARGEST_IMAGE", 60)
    source = scene(50, 70)
    product = write(source, tmp_path)
    assert set(product.files) == {"probability", "class", "outlines", "item"}
    assert scenes.check_products({"test": product}, {"test": source})["files"] == 4


def test_checks_notice_a_moved_raster_and_a_wrong_gap(tmp_path):
    source = scene(40, 60)
    product = write(source, tmp_path)
    moved = Grid(product.grid.crs, product.grid.transform @ Affine.translation(1, 0), 40, 60)
    other = scenes.Product(product.files, moved, product.mask, product.outlines)
    source.valid = np.ones((40, 60), bool)
    checks = scenes.check_products({"test": other}, {"test": source})
    assert (checks["grids"], checks["nodata"], checks["outlines"]) == (False, False, True)


def test_checks_notice_missing_overviews(tmp_path):
    source = scene(40, 700)
    product = write(source, tmp_path)
    assert scenes.check_products({"test": product}, {"test": source})["grids"]
    with rasterio.open(product.files["class"]) as file:
        profile, values = file.profile, file.read()
    profile.update(driver="GTiff", tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(product.files["class"], "w", **profile) as file:
        file.write(values)
    assert not scenes.check_products({"test": product}, {"test": source})["grids"]


# ---- a further scene


def test_a_further_scene_is_the_first_of_a_dataset(make_dataset):
    other = scenes.large_scene(str(make_dataset(patches=(2, 3), size=32)))
    assert (other.name, other.date, other.cloud) == ("tiny", "2023-07", None)
    assert other.source.grid.shape == (64, 96)


def test_from_afar_cloud_is_unknown():
    source = scene(40, 60)
    cloud = np.zeros((40, 60), bool)
    cloud[:5] = True
    product = scenes.Product({}, source.grid, np.ones((40, 60), np.uint8), None)
    view, mask = scenes.seen_from_afar(scenes.LargeScene("a", "", source, cloud), product)
    assert view.valid.shape == mask.shape == (40, 60)
    assert (mask == np.where(cloud, 255, 1)).all()


@pytest.mark.parametrize("shape", [(40, 60), (1201, 30), (2500, 2399)])
def test_masks_are_reduced_like_their_image(shape):
    source = Scene(np.zeros((1, *shape), np.float32), bands=("red",))
    view = thumbnail(source)
    assert scenes.reduced(np.zeros(shape, np.uint8), view).shape == view.valid.shape


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
