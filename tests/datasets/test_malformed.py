"""What users bring and cannot work ends in one message that names the file and the remedy.

Every case is a dataset of real small files with one thing wrong. ``glacier check`` must say that
one thing, once, and end with the right status; building patches must either refuse or give a whole
store; and nothing may be left behind that was not there.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from affine import Affine
from manifest_edits import edit_manifest

from glacier_utils import cli
from glacier_utils.datasets import checks
from glacier_utils.datasets.checks import Survey, survey
from glacier_utils.datasets.dataset import open_dataset
from glacier_utils.datasets.patches import build_patches
from glacier_utils.errors import GlacierError

DATE = "2023-08"
SIZE = 32


class Box:
    """A sound dataset in a folder, and ways to spoil it."""

    def __init__(self, folder: Path, write_tif: Callable[..., Path]) -> None:
        self.folder = folder
        self.write = write_tif
        self.manifest = folder / "dataset.yaml"
        self.outlines = folder / "outlines.gpkg"

    @property
    def patches(self) -> list[Path]:
        return sorted((self.folder / "images" / "train" / DATE).iterdir())

    def edit(self, change: Callable[[dict], Any]) -> None:
        edit_manifest(self.manifest, change)

    def train(self, value: Any, **area: Any) -> None:
        """Give the area train other images and settings."""
        self.edit(lambda content: content["areas"]["train"].update({DATE: value, **area}))

    def test(self, pattern: str) -> None:
        self.edit(lambda content: content["areas"].update(test={DATE: pattern}))

    def stored(self, path: Path) -> tuple[np.ndarray, dict]:
        with rasterio.open(path) as dataset:
            return dataset.read(), dataset.profile

    def again(self, path: Path, change: Callable = lambda values: values, **profile: Any) -> None:
        """Write a raster anew with other values or another profile."""
        values, old = self.stored(path)
        values = change(values)
        count, height, width = values.shape
        shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
        with rasterio.open(path, "w", **{**old, **shape, **profile}) as dataset:
            dataset.write(values)

    def all_again(self, change: Callable = lambda values: values, **profile: Any) -> None:
        for path in self.patches:
            self.again(path, change, **profile)

    def scene(self, name: str = "scene.tif", **options: Any) -> Path:
        """Write a sound scene over the place of the patches; gives its path."""
        path = self.write(self.folder / name, self.numbers(), **options)
        self.train(name)
        return path

    def numbers(self, bands: int = 4) -> np.ndarray:
        random = np.random.default_rng(0)
        return random.integers(1500, 5000, (bands, 2 * SIZE, 2 * SIZE), np.uint16)

    def label(self, values: np.ndarray, name: str = "label.tif", **options: Any) -> Path:
        path = self.write(self.folder / name, values, **options)
        self.train({"images": f"images/train/{DATE}/*.tif", "labels": name})
        return path

    def shapefile(self, name: str = "glims.shp", **changes: Any) -> Path:
        """Write the outlines as a shapefile and point the manifest to it."""
        table = gpd.read_file(self.outlines)
        for key, value in changes.items():
            table[key] = value
        table.to_file(self.folder / name)
        self.edit(lambda content: content.update(outlines=name))
        return self.folder / name

    def zipped(self, names: dict[str, str]) -> Path:
        """Write a zip of files of the folder under other names, and point the manifest to it."""
        with zipfile.ZipFile(self.folder / "glims.zip", "w") as archive:
            for inside, file in names.items():
                archive.writestr(inside, (self.folder / file).read_bytes())
        self.edit(lambda content: content.update(outlines="glims.zip"))
        return self.folder / "glims.zip"


@pytest.fixture
def box(make_dataset, write_tif) -> Box:
    """The area train alone; ``test`` adds the other one."""
    box = Box(make_dataset(patches=(2, 2), size=SIZE, dates=(DATE,)), write_tif)
    box.edit(lambda content: content["areas"].pop("test"))
    return box


# --- rasters


def truncated(box):
    path = box.patches[1]
    path.write_bytes(path.read_bytes()[:-3000])


def truncated_header(box):
    path = box.patches[1]
    path.write_bytes(path.read_bytes()[:60])


def truncated_compressed_scene(box):
    path = box.scene()
    box.again(path, compress="deflate", tiled=True, blockxsize=16, blockysize=16)
    path.write_bytes(path.read_bytes()[:-500])


def zero_bytes(box):
    box.patches[0].write_bytes(b"")


def text_as_tif(box):
    box.patches[0].write_text("this is no image\n")


def html_as_tif(box):
    box.patches[0].write_text("<!DOCTYPE html><html><body>404 not found</body></html>")


def folder_as_tif(box):
    (box.folder / "scene.tif").mkdir()
    box.train("scene.tif")


def missing_band(box):
    for index, name in enumerate(("B04", "B03", "B02")):
        box.write(box.folder / "bands" / f"T23_{name}.tif", box.numbers()[index])
    box.train("bands/*.tif")


def band_twice(box):
    for name in ("B04", "B03", "B02", "B08"):
        for day in ("0801", "0802"):
            box.write(box.folder / "bands" / f"T23_{day}_{name}.tif", box.numbers()[0])
    box.train("bands/*.tif")


def three_bands(box):
    box.all_again(lambda values: values[:3])


def one_patch_with_three_bands(box):
    box.again(box.patches[2], lambda values: values[:3])


def band_number_too_high(box):
    bands = {"red": 4, "green": 3, "blue": 2, "nir": 8}
    box.train({"images": f"images/train/{DATE}/*.tif", "bands": bands})


def no_crs(box):
    box.all_again(crs=None)


def no_georeference_no_name(box):
    for index, path in enumerate(box.patches):
        values, _ = box.stored(path)
        box.write(
            path.with_name(f"{'abcd'[index]}.tif"),
            values,
            crs=None,
            transform=Affine(1, 0, 0, 0, 1, 0),
        )
        path.unlink()


def same_cell_by_name(box):
    values, _ = box.stored(box.patches[0])
    for path in box.patches:
        box.write(path, values, crs=None, transform=Affine(1, 0, 0, 0, 1, 0))
    shutil.copy(box.patches[0], box.patches[0].with_name("copy_of_r00_c00.tif"))


def same_cell_by_georeference(box):
    shutil.copy(box.patches[0], box.patches[0].with_name("train_2023-08_r00_c00 (1).tif"))


def mixed_resolutions(box):
    _, profile = box.stored(box.patches[3])
    box.again(box.patches[3], transform=profile["transform"] @ Affine.scale(2))


def mixed_types(box):
    box.again(box.patches[3], lambda values: values.astype(np.float32))


def mixed_crs(box):
    box.again(box.patches[3], crs="EPSG:32624")


def half_pixel_off(box):
    _, profile = box.stored(box.patches[3])
    box.again(box.patches[3], transform=profile["transform"] @ Affine.translation(0.5, 0.5))


def some_without_georeference(box):
    values, _ = box.stored(box.patches[3])
    box.write(box.patches[3], values, crs=None, transform=Affine(1, 0, 0, 0, 1, 0))


def far_patch(box):
    _, profile = box.stored(box.patches[3])
    box.again(box.patches[3], transform=profile["transform"] @ Affine.translation(0, -60_000))


def float_reflectance(box):
    box.all_again(lambda values: ((values - 1000.0) / 10000).astype(np.float32))


def eight_bits(box):
    box.all_again(lambda values: (values // 40).astype(np.uint8), photometric="minisblack")


def all_nodata(box):
    box.all_again(np.zeros_like)


def all_nan(box):
    box.all_again(lambda values: np.full(values.shape, np.nan, np.float32))


def wrong_nodata(box):
    def holed(values):
        values = values.astype(np.int16)
        values[:, :4] = -9999
        return values

    box.all_again(holed)


def full_as_nodata(box):
    def holed(values):
        values[:, :4] = 65535
        return values

    box.all_again(holed)


def complex_numbers(box):
    box.all_again(lambda values: values.astype(np.complex64))


def rotated(box):
    path = box.scene()
    _, profile = box.stored(path)
    box.again(path, transform=profile["transform"] @ Affine.rotation(20))


def south_up(box):
    path = box.scene()
    _, profile = box.stored(path)
    box.again(path, transform=profile["transform"] @ Affine.scale(1, -1))


def oblong_pixels(box):
    path = box.scene()
    _, profile = box.stored(path)
    box.again(path, transform=profile["transform"] @ Affine.scale(1, 2))


def degrees(box):
    box.scene(crs="EPSG:4326", transform=Affine(1e-4, 0, -45.921, 0, -5e-5, 61.153))


def degrees_called_metres(box):
    box.scene(crs="EPSG:32623", transform=Affine(1e-4, 0, -45.9, 0, -1e-4, 61.155))


def other_hemisphere(box):
    box.all_again(crs="EPSG:32723")


def no_permission(box):
    if os.geteuid() == 0:
        pytest.skip("the superuser may read every file")
    box.patches[0].chmod(0)


def link_to_itself(box):
    (box.folder / "scene.tif").symlink_to(box.folder / "scene.tif")
    box.train("scene.tif")


def link_to_nothing(box):
    box.patches[0].unlink()
    box.patches[0].parent.joinpath("train_2023-08_r00_c00.tif").symlink_to("gone.tif")
    box.train(f"images/train/{DATE}/train_2023-08_r00_c00.tif")


def bands_of_two_frames(box):
    for index, name in enumerate(("B04", "B03", "B02", "B08")):
        size = SIZE if name == "B08" else 2 * SIZE
        box.write(box.folder / "bands" / f"{name}.tif", box.numbers()[index, :size, :size])
    box.train("bands/*.tif")


# --- labels


def label_of_17(box):
    label = np.zeros((2 * SIZE, 2 * SIZE), np.uint8)
    label[5, 5] = 17
    box.label(label)


def label_as_fraction(box):
    box.label(np.full((2 * SIZE, 2 * SIZE), 0.4, np.float32))


def label_black_and_white(box):
    label = np.zeros((2 * SIZE, 2 * SIZE), np.uint8)
    label[8:30] = 255
    with rasterio.open(
        box.folder / "label.png", "w", driver="PNG", count=1, dtype="uint8",
        height=2 * SIZE, width=2 * SIZE,
    ) as dataset:  # fmt: skip
        dataset.write(label, 1)
    box.scene(crs=None, transform=Affine(1, 0, 0, 0, 1, 0))
    box.train({"images": "scene.tif", "labels": "label.png"})
    box.edit(lambda content: content.update(resolution=10))


def label_of_other_size(box):
    box.scene(crs=None, transform=Affine(1, 0, 0, 0, 1, 0))
    box.write(
        box.folder / "label.tif",
        np.ones((20, 20), np.uint8),
        crs=None,
        transform=Affine(1, 0, 0, 0, 1, 0),
    )
    box.train({"images": "scene.tif", "labels": "label.tif"})
    box.edit(lambda content: content.update(resolution=10))


def label_of_other_resolution(box):
    box.label(np.eye(SIZE, dtype=np.uint8), pixel=20)


def label_elsewhere(box):
    box.label(np.ones((SIZE, SIZE), np.uint8), row=5000)


def label_of_three_bands(box):
    box.label(np.ones((3, 2 * SIZE, 2 * SIZE), np.uint8))


def label_names_that_differ(box):
    plain = {"crs": None, "transform": Affine(1, 0, 0, 0, 1, 0)}
    for index, path in enumerate(box.patches):
        values, _ = box.stored(path)
        box.write(path, values, **plain)
        box.write(
            box.folder / "labels" / f"{'abcd'[index]}.tif", np.ones((SIZE, SIZE), np.uint8), **plain
        )
    box.train({"images": f"images/train/{DATE}", "labels": "labels"})
    box.edit(lambda content: content.update(resolution=10))


def label_unknown(box):
    box.label(np.full((2 * SIZE, 2 * SIZE), 255, np.uint8))


# --- outlines


def no_outlines(box):
    box.test(f"images/test/{DATE}/*.tif")
    box.edit(lambda content: content["areas"]["train"].update(outlines=None))


def outlines_nowhere(box):
    box.edit(lambda content: content.pop("outlines"))


def outlines_that_are_not_there(box):
    box.train(f"images/train/{DATE}/*.tif", outlines="gone.gpkg")


def outlines_of_other_kind(box):
    (box.folder / "outlines.dxf").write_text("0")
    box.train(f"images/train/{DATE}/*.tif", outlines="outlines.dxf")


def folder_as_outlines(box):
    (box.folder / "glims").mkdir()
    box.train(f"images/train/{DATE}/*.tif", outlines="glims")


def shapefile_without(suffix):
    def spoil(box):
        path = box.shapefile()
        path.with_suffix(suffix).unlink()

    spoil.__name__ = f"shapefile_without_{suffix[1:]}"
    return spoil


def empty_shapefile(box):
    path = box.shapefile()
    gpd.read_file(path).iloc[:0].to_file(path, geometry_type="Polygon")


def lines(box):
    table = gpd.read_file(box.outlines)
    table.geometry = table.boundary
    table.to_file(box.folder / "lines.shp")
    box.edit(lambda content: content.update(outlines="lines.shp"))


def bow_tie(box):
    table = gpd.read_file(box.outlines)
    x, y = table.geometry.iloc[0].centroid.coords[0]
    tie = shapely.Polygon([(x, y), (x + 2e-3, y + 1e-3), (x + 2e-3, y), (x, y + 1e-3)])
    table.loc[len(table)] = {**table.iloc[0], "glac_id": "G000009E61000N", "geometry": tie}
    table.to_file(box.outlines)


def evil_zip(box):
    box.shapefile()
    box.zipped({"../../glims.shp": "glims.shp", "glims.shp": "glims.shp"})


def zip_without_shapefile(box):
    box.zipped({"readme.txt": "dataset.yaml"})


def zip_with_two(box):
    box.shapefile()
    box.zipped({f"{name}{end}": f"glims{end}" for name in "ab"
                for end in (".shp", ".shx", ".dbf", ".prj")})  # fmt: skip


def broken_zip(box):
    box.shapefile()
    path = box.zipped({f"glims{end}": f"glims{end}" for end in (".shp", ".shx", ".dbf", ".prj")})
    path.write_bytes(path.read_bytes()[:-200])


def zip_without_dbf(box):
    box.shapefile()
    box.zipped({f"glims{end}": f"glims{end}" for end in (".shp", ".shx", ".prj")})


def gpkg_that_is_a_zip(box):
    box.shapefile()
    path = box.zipped({"glims.shp": "glims.shp"})
    shutil.copy(path, box.outlines)
    box.edit(lambda content: content.update(outlines="outlines.gpkg"))


def truncated_geojson(box):
    gpd.read_file(box.outlines).to_file(box.folder / "glims.geojson")
    path = box.folder / "glims.geojson"
    path.write_text(path.read_text()[:-300])
    box.edit(lambda content: content.update(outlines="glims.geojson"))


def text_as_geojson(box):
    (box.folder / "glims.geojson").write_text("not found")
    box.edit(lambda content: content.update(outlines="glims.geojson"))


def truncated_shapefile(box):
    path = box.shapefile()
    path.write_bytes(path.read_bytes()[:-400])


def swapped_axes(box):
    table = gpd.read_file(box.outlines)
    table.geometry = shapely.transform(table.geometry.to_numpy(), lambda points: points[:, ::-1])
    table.to_file(box.outlines)


def east_for_west(box):
    table = gpd.read_file(box.outlines)
    table.geometry = shapely.transform(table.geometry.to_numpy(), lambda points: points * [-1, 1])
    table.to_file(box.outlines)


def outlines_of_elsewhere(box):
    table = gpd.read_file(box.outlines)
    table.geometry = table.translate(60, -30)
    table.to_file(box.outlines)


def no_ice_here(box):
    table = gpd.read_file(box.outlines)
    table[table.glac_id.str.contains("000001")].to_file(box.outlines)


# --- manifests


def unreadable_yaml(box):
    box.manifest.write_text("areas: {train: [1, 2")


def binary_yaml(box):
    box.manifest.write_bytes(b"\xff\xfe\x00\x01")


def empty_yaml(box):
    box.manifest.write_text("")


def tabs_in_yaml(box):
    box.manifest.write_text("areas:\n\ttrain: x\n")


def unknown_key(box):
    box.edit(lambda content: content.update(outlnes="x.shp"))


def unknown_key_of_reflectance(box):
    box.edit(lambda content: content["reflectance"].update(ofset=3))


def unknown_key_of_date(box):
    box.train({"image": "x.tif"})


def key_twice(box):
    box.manifest.write_text(box.manifest.read_text() + "\nname: other\n")


def no_date(box):
    box.edit(lambda content: content["areas"]["train"].update({"2023-13-40": "x.tif"}))


def no_date_for_yaml(box):
    box.manifest.write_text(box.manifest.read_text().replace(f"{DATE}: ", "2023-13-40: "))


def endless_number(box):
    box.manifest.write_text(f"resolution: {'9' * 5000}\n")


def python_tag(box):
    mark = box.folder / "hacked"
    box.manifest.write_text(f"!!python/object/apply:os.system ['touch {mark}']\n")


def python_name(box):
    box.manifest.write_text("name: !!python/name:os.system\nareas: {}\n")


def laughs(box):
    lines = ["l0: &l0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 12)]
    text = "\n".join(["anchors:", *(f"  {line}" for line in lines)])
    box.manifest.write_text(f"{text}\nareas: {{train: {{{DATE}: *l11}}}}\n")


def deep_yaml(box):
    box.manifest.write_text("areas: " + "[" * 5000)


def own_anchor(box):
    box.manifest.write_text("areas: &a {train: *a}\n")


def variable_not_set(box):
    box.train("${NO_SUCH_VARIABLE_HERE}/*.tif")


def no_match(box):
    box.train("images/trian/*.tif")


def null_in_path(box):
    box.train("images/\0/*.tif")


def no_number(box):
    box.edit(lambda content: content["reflectance"].update(scale="ten thousand"))


def scale_and_offset_swapped(box):
    box.edit(lambda content: content.update(reflectance={"scale": -1000, "offset": 10000}))


def not_finite(box):
    box.edit(lambda content: content.update(resolution=float("nan")))


def bounds_outside(box):
    box.train(f"images/train/{DATE}/*.tif", bounds=[0, 0, 100, 100])


def area_with_path_in_its_name(box):
    box.edit(lambda content: content["areas"].update({"../../evil": content["areas"]["train"]}))


def manifest_is_folder(box):
    box.manifest.unlink()
    box.manifest.mkdir()


def areas_overlap(box):
    box.test(f"images/train/{DATE}/*_c00.tif")


def offset(value):
    def spoil(box):
        """A scene with a fjord: water reflects next to nothing, whatever the manifest says."""

        def flooded(values):
            values[:, :12] = np.random.default_rng(0).integers(1000, 1060, values[:, :12].shape)
            return values

        box.all_again(flooded)
        images = {"images": f"images/train/{DATE}/*.tif", "reflectance": {"offset": value}}
        box.train(images)

    return spoil


offset_of_wrong_sign, offset_forgotten = offset(1000), offset(0)
offset_of_wrong_sign.__name__, offset_forgotten.__name__ = "wrong_sign", "offset_forgotten"


def bands_without_nir(box):
    box.edit(lambda content: content.update(bands={"red": 1, "green": 2, "blue": 3}))


PATCH = "train_2023-08_r0"
# What is wrong, and pieces of the one message: the file or key, and the remedy.
ERRORS = [
    (truncated, [f"{PATCH}0_c01.tif", "cut short", "fetch or export it again"]),
    (truncated_header, [f"{PATCH}0_c01.tif", "cut short", "fetch or export it again"]),
    (truncated_compressed_scene, ["scene.tif", "cut short", "fetch or export it again"]),
    (zero_bytes, [f"{PATCH}0_c00.tif", "fetch or export it again"]),
    (text_as_tif, [f"{PATCH}0_c00.tif", "of another format", "fetch or export it again"]),
    (html_as_tif, [f"{PATCH}0_c00.tif", "of another format", "fetch or export it again"]),
    (folder_as_tif, ["scene.tif", "folder holds no raster"]),
    (missing_band, ["bands", "no file is named as band nir", "say which it is"]),
    (band_twice, ["bands", "2 files", "narrow `images`"]),
    (three_bands, [PATCH, "has 3 band(s), 4 are wanted", "say which is which"]),
    (one_patch_with_three_bands, [f"{PATCH}1_c00.tif", "has 3 band(s)", "narrow `images`"]),
    (band_number_too_high, ["4 band(s)", "band 8 is asked for", "correct the number in `bands`"]),
    (no_crs, ["CRS", "georeference the image"]),
    (no_georeference_no_name, ["a.tif", "neither georeference nor row and column", "rename"]),
    (same_cell_by_name, [f"{PATCH}0_c00.tif", "copy_of_r00_c00.tif", "show the same ground"]),
    (same_cell_by_georeference, ["r00_c00 (1).tif", "show the same ground", "name one image"]),
    (mixed_resolutions, [f"{PATCH}1_c01.tif", "its pixel is 20", "one resolution"]),
    (mixed_types, [f"{PATCH}1_c01.tif", "float32", "same bands and type"]),
    (mixed_crs, [f"{PATCH}1_c01.tif", "EPSG:32624", "warp them to one CRS"]),
    (some_without_georeference, [f"{PATCH}1_c01.tif", "no georeference", "all of one kind"]),
    (float_reflectance, [f"{PATCH}0_c00.tif", "`scale` or `offset`", "{scale: 1, offset: 0}"]),
    (eight_bits, [f"{PATCH}0_c00.tif", "`scale` or `offset`"]),
    (all_nodata, [f"{PATCH}0_c00.tif", "no valid pixel", "check `nodata`"]),
    (all_nan, [f"{PATCH}0_c00.tif", "no valid pixel", "check `nodata`"]),
    (wrong_nodata, [f"{PATCH}0_c00.tif", "12.5%", "set `nodata: -9999`"]),
    (full_as_nodata, [f"{PATCH}0_c00.tif", "12.5%", "set `nodata: 65535`"]),
    (complex_numbers, [f"{PATCH}0_c00.tif", "complex64", "export"]),
    (rotated, ["scene.tif", "rotated", "gdalwarp"]),
    (south_up, ["scene.tif", "flipped", "gdalwarp"]),
    (oblong_pixels, ["scene.tif", "not square", "gdalwarp -tr"]),
    (degrees, ["scene.tif", "in degrees", "gdalwarp -t_srs"]),
    (degrees_called_metres, ["scene.tif", "may be degrees", "gdal_edit.py -a_srs"]),
    (other_hemisphere, ["wrong hemisphere", "EPSG:32623"]),
    (no_permission, [f"{PATCH}0_c00.tif", "ermission"]),
    (link_to_itself, ["scene.tif", "a link that leads nowhere", "check the path"]),
    (link_to_nothing, [f"{PATCH}0_c00.tif", "a link that leads nowhere", "check the path"]),
    (bands_of_two_frames, ["B08.tif", "32 x 32 px", "onto one grid"]),
    (label_of_17, ["label.tif", "the value 17", "recode"]),
    (label_black_and_white, ["label.png", "0 and 255 but never 1", "save it as 1"]),
    (label_as_fraction, ["label.tif", "the value 0.4", "recode"]),
    (label_of_other_size, ["label.tif", "is 20 x 20 px", "both must have one size"]),
    (label_elsewhere, ["label.tif", "does not touch the image", "check the paths"]),
    (label_of_three_bands, ["label.tif", "has 3 bands", "have one"]),
    (label_names_that_differ, ["a.tif", "name of its image"]),
    (label_unknown, ["no valid pixel has a label", "outlines or labels"]),
    (no_outlines, ["dataset.yaml", "neither `outlines` nor `labels`", "name one"]),
    (outlines_that_are_not_there, ["gone.gpkg", "no such file", "check the path"]),
    (outlines_of_other_kind, ["outlines.dxf", "convert it"]),
    (folder_as_outlines, ["glims", "folder", "name"]),
    (shapefile_without(".prj"), ["glims.shp", ".prj", "EPSG:4326"]),
    (shapefile_without(".dbf"), ["glims.shp", ".dbf file of glims.shp is missing", "side by side"]),
    (shapefile_without(".shx"), ["glims.shp", ".shx file of glims.shp is missing", "side by side"]),
    (empty_shapefile, ["glims.shp", "no polygon at all", "download"]),
    (lines, ["lines.shp", "no polygons", "name the file of outlines"]),
    (evil_zip, ["glims.zip", "../../glims.shp", "do not trust it"]),
    (zip_without_shapefile, ["glims.zip", "no shapefile", "download"]),
    (zip_with_two, ["glims.zip", "several layers", "{file: glims.zip, layer: b}"]),
    (broken_zip, ["glims.zip", "no whole zip", "fetch it again"]),
    (zip_without_dbf, ["glims.zip", ".dbf", "missing"]),
    (gpkg_that_is_a_zip, ["outlines.gpkg", "download or export it again"]),
    (truncated_geojson, ["glims.geojson", "download or export it again"]),
    (text_as_geojson, ["glims.geojson", "download or export it again"]),
    (truncated_shapefile, ["glims.shp", "download or export it again"]),
    (swapped_axes, ["outlines.gpkg", "look swapped", "swap x and y"]),
    (east_for_west, ["outlines.gpkg", "east and west", "mend the sign"]),
    (outlines_of_elsewhere, ["outlines.gpkg", "31.", "take the outlines of this region"]),
    (no_match, ["images/trian", "matches no raster file", "check the path"]),
    (bounds_outside, ["bounds", "lie outside the image, which covers"]),
    (areas_overlap, ["area test", "cut one of them with `bounds`"]),
]
MANIFESTS = [
    (unreadable_yaml, ["not readable YAML in line 1"]),
    (binary_yaml, ["cannot be read"]),
    (empty_yaml, ["needs at least `areas`"]),
    (tabs_in_yaml, ["not readable YAML in line 2"]),
    (unknown_key, ["'outlnes'", "did you mean 'outlines'?"]),
    (unknown_key_of_reflectance, ["'ofset'", "did you mean 'offset'?"]),
    (unknown_key_of_date, ["'image'", "did you mean 'images'?"]),
    (key_twice, ["'name' is given twice"]),
    (no_date, ["'2023-13-40' is not a date", "write it as"]),
    (no_date_for_yaml, ["month must be in 1..12", "a date is 2023-08"]),
    (endless_number, ["number or date that is none"]),
    (python_tag, ["not readable YAML", "python"]),
    (python_name, ["not readable YAML", "python"]),
    (laughs, ["aliases"]),
    (deep_yaml, ["not readable YAML", "nested"]),
    (own_anchor, ["train"]),
    (variable_not_set, ["NO_SUCH_VARIABLE_HERE is not set", "set it to the folder"]),
    (null_in_path, ["is not a path"]),
    (no_number, ["'ten thousand' is not a number"]),
    (scale_and_offset_swapped, ["the scale above 0"]),
    (not_finite, ["resolution", "finite"]),
    (area_with_path_in_its_name, ["'../../evil'", "letters"]),
    (manifest_is_folder, ["has no dataset.yaml", "write one"]),
]
# Usable, but a person should look.
WARNINGS = [
    (half_pixel_off, [f"{PATCH}1_c01.tif", "lie up to 0.50 px off", "gdalwarp -tap"]),
    (far_patch, [f"{PATCH}1_c01.tif", "off the other patches", "separate areas"]),
    (label_of_other_resolution, ["label.tif", "another grid than its image", "nearest neighbour"]),
    (bow_tie, ["outlines.gpkg", "invalid rings mended", "G000009E61000N"]),
    (no_ice_here, ["outlines.gpkg", "free of ice", "`coverage`"]),
    (offset_of_wrong_sign, [f"{PATCH}0_c00.tif", "contradict offset 1000", "-1000"]),
    (offset_forgotten, [f"{PATCH}0_c00.tif", "contradict offset 0", "-1000"]),
    (outlines_nowhere, ["dataset.yaml", "can be looked at and mapped", "name outlines"]),
    (bands_without_nir, ["no nir", "add"]),
]


def ids(cases):
    return [case[0].__name__ for case in cases]


def files(box: Box) -> set[Path]:
    return set(box.folder.parent.rglob("*"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the check as a user does; gives status, findings (None if it came to none), out, err."""
    kept = []

    def keeping(*arguments: Any, **options: Any) -> Survey:
        kept.append(survey(*arguments, **options))
        return kept[-1]

    def call(box: Box) -> tuple[int, Any, str, str]:
        before = files(box)
        monkeypatch.setattr(checks, "survey", keeping)
        status = cli.main(["check", str(box.folder)])
        out, err = capsys.readouterr()
        assert files(box) == before
        assert "Traceback" not in out + err
        return status, kept[-1].findings if kept else None, out, err

    return call


def one_message(found: pd.DataFrame, out: str, severity: str) -> str:
    """Return the message, which may hold for both areas; it must be the only one."""
    assert set(found.severity) == {severity}, found.message.tolist()
    assert found.message.nunique() == 1, found.message.tolist()
    assert f"  1 {severity:<7}  " in out
    assert "  2 " not in out.split("median")[1]
    return found.message[0]


def build(box: Box) -> None:
    """Build patches: refused with one line, or a whole store; never a piece of one."""
    folder = box.folder.parent / "stores"
    message = ""
    try:
        store = build_patches(open_dataset(box.folder), size=16, folder=folder)
    except GlacierError as error:
        message = str(error)
    if message:
        assert "\n" not in message
        assert not folder.exists() or not list(folder.iterdir())
    else:
        assert len(store.index) == len(store.images)


@pytest.mark.parametrize(("spoil", "pieces"), ERRORS, ids=ids(ERRORS))
def test_errors(box, run, spoil, pieces):
    spoil(box)
    status, found, out, _ = run(box)
    assert status == 2
    message = one_message(found, out, "error")
    for piece in pieces:
        assert piece in message
    build(box)


@pytest.mark.parametrize(("spoil", "pieces"), MANIFESTS, ids=ids(MANIFESTS))
def test_manifests(box, run, spoil, pieces):
    spoil(box)
    status, _, out, err = run(box)
    assert status == 2
    assert out == ""
    assert err.startswith("glacier: ")
    assert err.count("\n") == 1
    assert len(err) < 2000
    for piece in [str(box.folder), *pieces]:
        assert piece in err


@pytest.mark.parametrize(("spoil", "pieces"), WARNINGS, ids=ids(WARNINGS))
def test_warnings(box, run, spoil, pieces):
    spoil(box)
    status, found, out, _ = run(box)
    assert status == 0
    message = one_message(found, out, "warning")
    for piece in pieces:
        assert piece in message
    build(box)


def test_float_imagery_with_holes_is_sound(box, run):
    """What is nan or infinite has no image; nothing is wrong with that."""

    def holed(values):
        values = ((values - 1000.0) / 10000).astype(np.float32)
        values[0, :4], values[2, 4:8] = np.nan, np.inf
        return values

    box.all_again(holed)
    box.train({"images": f"images/train/{DATE}/*.tif", "reflectance": {"scale": 1, "offset": 0}})
    status, found, out, _ = run(box)
    assert (status, len(found)) == (0, 0), found.message.tolist()
    assert " 75.0% " in out
    build(box)


def test_hostile_text_is_printed_harmlessly(box, run):
    """Names in outlines are by third parties; a terminal or a page must not obey them."""
    table = gpd.read_file(box.outlines)
    x, y = table.geometry.iloc[0].centroid.coords[0]
    tie = shapely.Polygon([(x, y), (x + 2e-3, y + 1e-3), (x + 2e-3, y), (x, y + 1e-3)])
    name = "\x1b[2J\x07<script>alert(1)</script>\u202e\nG9"
    table.loc[len(table)] = {**table.iloc[0], "glac_id": name, "geometry": tie}
    table.to_file(box.outlines)
    box.edit(lambda content: content.update(name="tiny\x1b[31m"))
    status, found, out, _ = run(box)
    assert status == 0
    assert "<script>" in found.message[0]
    assert all(character.isprintable() for character in out.replace("\n", ""))
    assert "<script>" not in found.to_html()


def test_hostile_text_in_an_error_is_printed_harmlessly(box, run):
    box.edit(lambda content: content.update({"\x1b[2J": 1}))
    status, _, _, err = run(box)
    assert status == 2
    assert err.rstrip("\n").isprintable()


def test_attributes_in_a_wrong_encoding_are_read(box, run):
    path = box.shapefile(glac_name="Sermeq")
    table = path.with_suffix(".dbf")
    table.write_bytes(table.read_bytes().replace(b"Sermeq", b"S\xe9rm\xff "))
    path.with_suffix(".cpg").write_text("UTF-8")
    status, found, _, _ = run(box)
    assert (status, len(found)) == (0, 0), found.message.tolist()
    build(box)


def test_there_are_enough_cases():
    assert len({case[0].__name__ for case in [*ERRORS, *MANIFESTS, *WARNINGS]}) > 90
