"""Patches as arrays read as the scene they were cut from; GeoTIFFs hold what was written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rio_cogeo import cog_validate

from glacier_utils.errors import GlacierError
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import input_files, open_source
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import write_raster
from glacier_utils.raster.mask import open_mask

RGBN = ("red", "green", "blue", "nir")
PLAIN = Reflectance(scale=1)
SIZE = 8


def scene_of(rows=3, cols=4, bands=4, kind=np.uint16):
    shape = bands, rows * SIZE, cols * SIZE
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(kind)


def label_of(rows=3, cols=4):
    return np.random.default_rng(1).choice([0, 1, 255], (rows * SIZE, cols * SIZE)).astype(np.uint8)


def patches(scene):
    """Give (row, col, patch) in row order."""
    for row in range(scene.shape[-2] // SIZE):
        for col in range(scene.shape[-1] // SIZE):
            box = slice(row * SIZE, (row + 1) * SIZE), slice(col * SIZE, (col + 1) * SIZE)
            yield row, col, scene[(..., *box)]


def save_patches(folder, scene, last=False, name="p_r{row}_c{col}.npy"):
    folder.mkdir(parents=True, exist_ok=True)
    for row, col, patch in patches(scene):
        np.save(
            folder / name.format(row=row, col=col), np.moveaxis(patch, 0, -1) if last else patch
        )
    return folder


def save_stack(path, scene, last=False, index=True, step=1, order=None):
    places, stack = [], []
    for row, col, patch in patches(scene):
        places.append((row * step, col * step))
        stack.append(np.moveaxis(patch, 0, -1) if last else patch)
    order = range(len(stack)) if order is None else order
    np.save(path, np.stack([stack[i] for i in order]))
    if index:
        table = pd.DataFrame([places[i] for i in order], columns=["row", "col"])
        table.assign(name="x").to_csv(path.with_suffix(".csv"), index=False)
    return path


# --- images


@pytest.mark.parametrize("last", [False, True])
def test_one_patch_a_file(tmp_path, last):
    scene = scene_of()
    source = open_source(save_patches(tmp_path / "p", scene, last), bands=RGBN, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read().reflectance, scene)
    np.testing.assert_array_equal(source.read(5, 6, 9, 11).reflectance, scene[:, 5:14, 6:17])
    assert len(source.tiles) == len(source.paths) == 12
    assert source.grid.crs is None


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("step", [1, SIZE])
def test_stack_with_an_index(tmp_path, last, step):
    scene = scene_of()
    order = np.random.default_rng(0).permutation(12)
    path = save_stack(tmp_path / "s.npy", scene, last, step=step, order=order)
    source = open_source(path, bands=RGBN, reflectance=PLAIN, resolution=10)
    np.testing.assert_array_equal(source.read().reflectance, scene)
    assert source.paths == [path]
    assert len(source.tiles) == 12
    # Tiles in the order of the stack.
    row, col = divmod(int(order[10]), 4)
    assert source.tiles[10] == (row * SIZE, col * SIZE, SIZE, SIZE)
    assert input_files(path) == [tmp_path / "s.csv", path]


def test_bounds_cut_a_stack(tmp_path):
    scene = scene_of()
    path = save_stack(tmp_path / "s.npy", scene)
    source = open_source(path, bands=RGBN, reflectance=PLAIN, bounds=[4, -14, 20, -3])
    np.testing.assert_array_equal(source.read().reflectance, scene[:, 3:14, 4:20])
    assert source.paths == [path]
    assert len(source.tiles) == 6


@given(row=st.integers(-9, 30), col=st.integers(-9, 40), size=st.integers(1, 20))
def test_any_window_of_a_stack(tmp_path_factory, row, col, size):
    scene = scene_of()
    folder = tmp_path_factory.mktemp("s")
    source = open_source(save_stack(folder / "s.npy", scene), bands=RGBN, reflectance=PLAIN)
    padded = np.pad(scene, ((0, 0), (40, 60), (40, 60)))
    image = source.read(row, col, size, size)
    part = padded[:, 40 + row : 40 + row + size, 40 + col : 40 + col + size]
    np.testing.assert_array_equal(image.reflectance, part)
    np.testing.assert_array_equal(image.valid, part[0] > 0)


def test_a_scene_in_one_array(tmp_path):
    scene = scene_of()
    np.save(tmp_path / "scene.npy", scene)
    source = open_source(tmp_path / "scene.npy", bands=RGBN, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read(2, 3, 4, 5).reflectance, scene[:, 2:6, 3:8])
    assert source.tiles == []


def test_bands_picked_by_number_and_from_files(tmp_path):
    scene = scene_of(bands=6)
    save_patches(tmp_path / "p", scene, last=True)
    bands = {"nir": 6, "red": 4}
    source = open_source(tmp_path / "p", bands=bands, reflectance=PLAIN)
    np.testing.assert_array_equal(source.read().reflectance, scene[[5, 3]])
    for name, band in zip(("red", "nir"), scene, strict=False):
        np.save(tmp_path / f"{name}.npy", band)
    source = open_source(tmp_path / "*.npy", bands=["red", "nir"], reflectance=PLAIN)
    np.testing.assert_array_equal(source.read().reflectance, scene[:2])


def test_band_count_decides_where_sizes_leave_a_doubt(tmp_path):
    # 3 x 3 pixels of 4 bands: the shorter axis would be the wrong one.
    scene = np.arange(36.0).reshape(4, 3, 3) + 1
    for name, array in (("first", scene), ("last", np.moveaxis(scene, 0, -1))):
        np.save(tmp_path / f"{name}.npy", array)
        source = open_source(tmp_path / f"{name}.npy", bands=RGBN, reflectance=PLAIN)
        np.testing.assert_array_equal(source.read().reflectance, scene)


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float16, np.float64, ">u2", ">f4"])
def test_any_kind_of_number(tmp_path, kind):
    scene = (scene_of(1, 1) % 200).astype(kind)
    np.save(tmp_path / "s.npy", scene)
    image = open_source(tmp_path / "s.npy", bands=RGBN, reflectance=Reflectance(100)).read()
    np.testing.assert_allclose(image.reflectance, scene.astype(float) / 100, rtol=1e-6)


def test_nodata_and_nan(tmp_path):
    array = np.full((2, 2, 2), 1500.0)
    array[0, 0, 0], array[:, 1, 1] = np.nan, 0
    np.save(tmp_path / "s.npy", array)
    rule = Reflectance(offset=-1000, nodata=0)
    image = open_source(tmp_path / "s.npy", bands=["red", "nir"], reflectance=rule).read()
    assert image.valid.tolist() == [[False, True], [True, False]]
    np.testing.assert_allclose(image.reflectance[0, 0], [0, 0.05])


def test_a_window_leaves_the_rest_on_the_disk(tmp_path):
    # 5 GB that the disk does not even hold.
    path = tmp_path / "s.npy"
    np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=(10_000, 4, 256, 256))
    places = pd.DataFrame({"row": np.arange(10_000) // 100, "col": np.arange(10_000) % 100})
    places.to_csv(tmp_path / "s.csv", index=False)
    source = open_source(path, bands=RGBN)
    assert source.grid.shape == (100 * 256, 100 * 256)
    assert source.read(20_000, 21_000, 300, 300).reflectance.shape == (4, 300, 300)


# --- labels


def test_label_patches_beside_image_patches(tmp_path):
    label = label_of()
    source = open_source(save_patches(tmp_path / "i", scene_of()), bands=RGBN)
    for folder, array in (("two", label), ("three", label[np.newaxis])):
        mask = open_mask(save_patches(tmp_path / folder, array), source.grid, like=source)
        np.testing.assert_array_equal(mask.read(), label)
        np.testing.assert_array_equal(mask.read(3, 4, 10, 9), label[3:13, 4:13])


@pytest.mark.parametrize("index", [True, False])
def test_label_stack_beside_an_image_stack(tmp_path, index):
    label = label_of()
    source = open_source(save_stack(tmp_path / "i.npy", scene_of()), bands=RGBN, resolution=10)
    # Without an index of its own, in the order of the images.
    path = save_stack(tmp_path / "l.npy", label, index=index)
    mask = open_mask(path, source.grid, like=source, codes=(0, 1))
    np.testing.assert_array_equal(mask.read(), label)


def test_labels_of_true_and_false(tmp_path):
    np.save(tmp_path / "i.npy", scene_of())
    source = open_source(tmp_path / "i.npy", bands=RGBN)
    np.save(tmp_path / "l.npy", label_of() == 1)
    mask = open_mask(tmp_path / "l.npy", source.grid, like=source, codes=(0, 1))
    np.testing.assert_array_equal(mask.read(), label_of() == 1)


def test_label_arrays_of_georeferenced_patches(tmp_path, write_tif):
    label = label_of()
    for row, col, patch in patches(scene_of()):
        write_tif(tmp_path / "i" / f"p_r{row}_c{col}.tif", patch, row * SIZE, col * SIZE)
    source = open_source(tmp_path / "i", bands=RGBN)
    mask = open_mask(save_patches(tmp_path / "l", label), source.grid, like=source)
    np.testing.assert_array_equal(mask.read(), label)


# --- mistakes


def test_arrays_that_cannot_be_read(tmp_path):
    scene = scene_of()
    np.savez(tmp_path / "a.npz", scene)
    np.save(tmp_path / "objects.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "text.npy", np.array([["a", "b"]]))
    np.save(tmp_path / "flat.npy", np.arange(5))
    np.save(tmp_path / "three.npy", scene[:3])
    np.save(tmp_path / "short.npy", scene)
    short = (tmp_path / "short.npy").read_bytes()
    (tmp_path / "short.npy").write_bytes(short[: len(short) // 2])
    (tmp_path / "empty.npy").write_bytes(b"")
    for name, message in [
        ("a.npz", r"a.npz: .* save its array with numpy.save"),
        ("*.npz", r"\.npz is not read: save each array with"),
        ("objects.npy", r"objects.npy: cannot be read as a plain array"),
        ("text.npy", r"text.npy: is an array of <U1"),
        ("flat.npy", r"flat.npy: is an array of int64, 5; a patch is"),
        ("three.npy", r"three.npy: has 3 band\(s\), 4 are wanted"),
        ("short.npy", r"short.npy: cannot be read as a plain array"),
        ("empty.npy", r"empty.npy: cannot be read as a plain array"),
        ("no.npy", r"no.npy: no such file"),
    ]:
        with pytest.raises(GlacierError, match=message) as caught:
            open_source(tmp_path / name, bands=RGBN)
        assert "\n" not in str(caught.value)


def test_a_pickle_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    np.save(tmp_path / "p.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(GlacierError):
        open_source(tmp_path / "p.npy", bands=RGBN)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, r"s.npy: is a stack of 12 arrays without an index; .* s.csv"),
        ("a,b\n1,2\n", r"s.csv: has 1 rows with the columns a, b; an index has row and col"),
        ("row,col\n0,0\n", r"s.csv: has 1 rows .* for each of the 12 patches"),
        ("row,col\n" + "0,0\n" * 12, r"show the same ground"),
        ("row,col\n" + "0,x\n" * 12, r"s.csv: line 2: row and col must be whole numbers"),
        ("row,col\n" + "0,0\n" * 11 + "-1,0\n", r"s.csv: line 13: row and col must be whole"),
        ("", r"s.csv: cannot be read as a table"),
    ],
)
def test_stack_with_a_wrong_index(tmp_path, index, message):
    save_stack(tmp_path / "s.npy", scene_of(), index=False)
    if index is not None:
        (tmp_path / "s.csv").write_text(index)
    with pytest.raises(GlacierError, match=message):
        open_source(tmp_path / "s.npy", bands=RGBN)


def test_a_stack_for_each_band(tmp_path):
    for name in ("red", "nir"):
        save_stack(tmp_path / f"{name}.npy", scene_of()[0])
    with pytest.raises(GlacierError, match="is a stack of one band"):
        open_source(tmp_path, bands={"red": "red.npy", "nir": "nir.npy"})


def test_patches_without_a_place(tmp_path):
    for name in ("one", "two"):
        np.save(tmp_path / f"{name}.npy", scene_of(1, 1))
    with pytest.raises(GlacierError, match="neither georeference nor row and column"):
        open_source(tmp_path, bands=RGBN)


# --- GeoTIFFs written

CLASS = {"descriptions": ["class"], "colormap": {0: (1, 2, 3, 255), 1: (9, 8, 7, 255)}}
PROBABILITY = {
    "descriptions": ["probability"], "scale": 0.004, "average": True,
    "tags": {"MODEL": "a <b> & 'c'\x00"},
}  # fmt: skip


def grid_of(height: int, width: int, crs: str | None = "EPSG:32623") -> Grid:
    place = Affine(10, 0, 5e5, 0, -10, 68e5)
    return Grid(None if crs is None else CRS.from_string(crs), place, height, width)


def write_bytes(folder, values: np.ndarray, layer: dict, crs: str | None = "EPSG:32623"):
    (folder / "work").mkdir(exist_ok=True)
    raw = folder / "work" / "map.raw"
    values.tofile(raw)
    grid = grid_of(*values.shape, crs)
    path = write_raster(folder / "map.tif", raw, grid, nodata=255, **layer)
    assert [item.name for item in raw.parent.iterdir()] == ["map.raw"]
    return path


@pytest.mark.parametrize("shape", [(1, 1), (100, 130), (513, 20), (1100, 1537)])
@pytest.mark.parametrize("layer", [CLASS, PROBABILITY], ids=["class", "probability"])
def test_a_valid_cog_gives_back_every_byte(tmp_path, shape, layer):
    values = np.random.default_rng(0).integers(0, 251, shape, dtype=np.uint8)
    values[: shape[0] // 3] = 255
    path = write_bytes(tmp_path, values, layer)
    valid, errors, warnings = cog_validate(path, strict=True)
    assert valid, (errors, warnings)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), values)
        assert file.crs == "EPSG:32623"
        assert file.transform == Affine(10, 0, 5e5, 0, -10, 68e5)
        assert (file.nodata, file.descriptions) == (255, tuple(layer["descriptions"]))
        assert len(file.overviews(1)) == max(0, int(np.ceil(np.log2(max(shape) / 512))))
        if layer is PROBABILITY:
            assert file.scales == (0.004,)
            assert file.tags()["MODEL"] == "a <b> & 'c' "
        else:
            assert file.colormap(1)[1] == (9, 8, 7, 255)


@pytest.mark.parametrize("kind", [bool, np.uint8, np.uint16, np.float32])
def test_any_bands_come_back_with_their_names(tmp_path, kind):
    values = np.random.default_rng(0).normal(1000, 400, (4, 600, 530)).astype(kind)
    nodata = np.nan if kind is np.float32 else None
    if nodata is not None:
        values[:, :7] = nodata
    path = write_raster(
        tmp_path / "new" / "image.tif", values, grid_of(600, 530), nodata=nodata,
        descriptions=RGBN, tags={"DATE": "2023"},
    )  # fmt: skip
    assert cog_validate(path, strict=True)[0]
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(), values)
        assert file.descriptions == RGBN
        assert file.tags()["DATE"] == "2023"
        assert "alpha" not in {band.name for band in file.colorinterp}
    assert [item.name for item in path.parent.iterdir()] == ["image.tif"]
    with pytest.raises(ValueError, match="does not fit"):
        write_raster(tmp_path / "image.tif", values, grid_of(530, 600))


def test_overviews_are_means_of_what_is_known_and_classes_are_not_mixed(tmp_path):
    values = np.zeros((600, 1200), np.uint8)
    values[::2, ::2], values[1::2, 1::2] = 100, 255
    for layer, expected in ((PROBABILITY, 33), (CLASS, 100)):
        path = write_bytes(tmp_path, values, layer)
        with rasterio.open(path, overview_level=0) as file:
            assert file.shape == (300, 600)
            assert (file.read(1) == expected).all()


@pytest.mark.filterwarnings("error")
def test_a_map_without_crs_is_written_too(tmp_path):
    path = write_bytes(tmp_path, np.ones((30, 40), np.uint8), CLASS, crs=None)
    with rasterio.open(path) as file:
        assert file.crs is None
        assert (file.read(1) == 1).all()
    # One whose pixels have no size either; its transform says no more than the pixels' numbers.
    bare = Grid(None, Affine(1, 0, 0, 0, -1, 0), 30, 40)
    write_raster(tmp_path / "bare.tif", np.ones((30, 40), np.uint8), bare)


@pytest.mark.parametrize("raw", [True, False])
def test_where_writing_fails_nothing_is_left_and_the_old_file_stays(tmp_path, raw):
    """A limit on the size of files stands for a full disk: GDAL may notice it or not."""
    old = tmp_path / "map.tif"
    old.write_text("before")
    (tmp_path / "work").mkdir()
    np.random.default_rng(0).integers(0, 255, (900, 900), dtype=np.uint8).tofile(
        tmp_path / "work" / "map.raw"
    )
    code = f"""
import resource, signal
from pathlib import Path
import numpy as np
from test_io import CLASS, grid_of
from glacier_utils.errors import GlacierError
from glacier_utils.raster.io import write_raster
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path({str(tmp_path)!r})
values = folder / "work" / "map.raw"
values = values if {raw} else np.fromfile(values, np.uint8).reshape(900, 900)
for limit in (300_000, 815_000):  # the rows do not fit; they do, the file with overviews does not
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        write_raster(folder / "map.tif", values, grid_of(900, 900), **CLASS)
    except GlacierError as error:
        print("said:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent,
    ).stdout
    assert done.count("said:") == done.count("map.tif: could not be written") == 2
    assert "run again" in done
    assert old.read_text() == "before"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["map.tif", "work"]
    assert [item.name for item in (tmp_path / "work").iterdir()] == ["map.raw"]


def test_a_file_that_does_not_hold_what_was_written_is_an_error(tmp_path, monkeypatch):
    values = np.ones((200, 200), np.uint8)
    copy = rasterio.shutil.copy

    def spoil(source, target, **options):
        copy(source, target, **options)
        with rasterio.open(target) as file:
            profile = file.profile
        with rasterio.open(target, "w", **profile) as file:
            file.write(values * 2, 1)

    monkeypatch.setattr(rasterio.shutil, "copy", spoil)
    with pytest.raises(GlacierError, match="does not hold what was written"):
        write_bytes(tmp_path, values, CLASS)
    assert not (tmp_path / "map.tif").exists()
