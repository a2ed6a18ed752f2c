"""Sentinel-2 products as handed out: bands, metadata, archives, and who is believed."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import rasterio
from affine import Affine

from glacier_utils.errors import GlacierError
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.safe import (
    band_of,
    find_metadata,
    read_product,
    scene_classification_path,
)
from glacier_utils.imagery.source import input_files, open_source

RGBN = ("red", "green", "blue", "nir")
NUMBERS = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08"}
L2A = "S2B_MSIL2A_20230824T140059_N0509_R067_T23VMH_20230824T181234.SAFE"
L1C = "S2B_MSIL1C_20230824T140059_N0509_R067_T23VMH_20230824T150011.SAFE"
SIZE = 24
_IDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")


def metadata(level="L2A", offsets=(-1000,) * 13, baseline="05.09", scale=10000, listed=True):
    """Write product metadata the way real products do, cut down to what matters."""
    name = "BOA_QUANTIFICATION_VALUE" if level == "L2A" else "QUANTIFICATION_VALUE"
    tag = "BOA_ADD_OFFSET" if level == "L2A" else "RADIO_ADD_OFFSET"
    values = "".join(f'<{tag} band_id="{i}">{v}</{tag}>' for i, v in enumerate(offsets or ()))
    bands = "".join(
        f'<Spectral_Information bandId="{i}" physicalBand="{b}"/>' for i, b in enumerate(_IDS)
    )
    digits = level[1:]
    return f"""<?xml version="1.0" encoding="UTF-8" standalone="no"?>
<n1:Level-{digits}_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/{level}.xsd">
<n1:General_Info><Product_Info>
<PRODUCT_START_TIME>2023-08-24T14:00:59.024Z</PRODUCT_START_TIME>
<PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Product_Info>
<Product_Image_Characteristics>
<Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT>
<SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
<Special_Values><SPECIAL_VALUE_TEXT>SATURATED</SPECIAL_VALUE_TEXT>
<SPECIAL_VALUE_INDEX>65535</SPECIAL_VALUE_INDEX></Special_Values>
<{name} unit="none">{scale}</{name}><LIST>{values}</LIST>
<Spectral_Information_List>{bands if listed else ""}</Spectral_Information_List>
</Product_Image_Characteristics></n1:General_Info></n1:Level-{digits}_User_Product>"""


def write_jp2(path, array, pixel=10):
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="JP2OpenJPEG", height=array.shape[0], width=array.shape[1], count=1,
        dtype=array.dtype, crs="EPSG:32623",
        transform=Affine(pixel, 0, 399960, 0, -pixel, 6800040), QUALITY=100, REVERSIBLE="YES",
        BLOCKXSIZE=64, BLOCKYSIZE=64,
    ) as dataset:  # fmt: skip
        dataset.write(array, 1)


def numbers_of(size=SIZE):
    scene = np.random.default_rng(3).integers(1001, 9000, (4, size, size)).astype(np.uint16)
    scene[:, :2] = 0
    return scene


@pytest.fixture
def make_safe(tmp_path):
    """Make a SAFE folder: (level, metadata text or None) -> folder."""

    def make(level="L2A", xml=None, size=SIZE, name=None, folder=tmp_path):
        safe = folder / (name or (L2A if level == "L2A" else L1C))
        images = safe / "GRANULE" / f"{level}_T23VMH_A033764_20230824T140101" / "IMG_DATA"
        start, scene = "T23VMH_20230824T140059", numbers_of(size)
        other = np.zeros((size // 2, size // 2), np.uint8)
        for number, band in zip(NUMBERS.values(), scene, strict=True):
            where = images / "R10m" / f"{start}_{number}_10m.jp2"
            write_jp2(where if level == "L2A" else images / f"{start}_{number}.jp2", band)
        if level == "L2A":
            write_jp2(images / "R10m" / f"{start}_TCI_10m.jp2", scene[0].astype(np.uint8))
            write_jp2(images / "R20m" / f"{start}_B8A_20m.jp2", other.astype(np.uint16), 20)
            write_jp2(images / "R20m" / f"{start}_SCL_20m.jp2", other, 20)
        else:
            write_jp2(images / f"{start}_B8A.jp2", other.astype(np.uint16), 20)
            write_jp2(images / f"{start}_TCI.jp2", scene[0].astype(np.uint8))
        if xml is not False:
            (safe / f"MTD_MSI{level}.xml").write_text(xml or metadata(level))
        return safe

    return make


def zipped(safe, path):
    with zipfile.ZipFile(path, "w") as archive:
        for item in sorted(safe.rglob("*")):
            archive.write(item, item.relative_to(safe.parent))
    return path


def expected(offset=-1000.0, scale=10000.0, size=SIZE):
    scene = numbers_of(size).astype(np.float64)
    return np.where((scene == 0).any(axis=0), 0, (scene + offset) / scale)


# --- what a product says


@pytest.mark.parametrize("level", ["L2A", "L1C"])
@pytest.mark.parametrize("listed", [True, False])
def test_metadata_say_level_baseline_and_offsets(tmp_path, level, listed):
    path = tmp_path / f"MTD_MSI{level}.xml"
    path.write_text(metadata(level, offsets=[-1000 - i for i in range(13)], listed=listed))
    product = read_product(path)
    assert (product.level, product.baseline) == (level, "05.09")
    assert (product.scale, product.nodata) == (10000, 0)
    found = [product.offset(band) for band in ("B02", "B03", "B04", "B08", "B8A", "B11")]
    assert found == [-1001, -1002, -1003, -1007, -1008, -1011]


def test_no_offsets_mean_zero_before_baseline_4(tmp_path):
    path = tmp_path / "MTD_MSIL2A.xml"
    path.write_text(metadata(offsets=None, baseline="02.14"))
    assert (read_product(path).offset("B04"), read_product(path).lacks_offsets) == (0, False)
    path.write_text(metadata(offsets=None, baseline="04.00"))
    assert (read_product(path).offset("B04"), read_product(path).lacks_offsets) == (0, True)


def test_old_name_of_the_scale(tmp_path):
    path = tmp_path / "MTD_MSIL2A.xml"
    text = metadata(offsets=None, baseline="02.06", scale=1000)
    path.write_text(text.replace("BOA_QUANT", "L2A_BOA_QUANT"))
    assert read_product(path).scale == 1000


ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (metadata().replace("?>", f"?>{ENTITIES}", 1).encode(), "DTDForbidden"),
        (metadata().replace("?>", '?><!DOCTYPE x SYSTEM "file:///etc/passwd">', 1).encode(),
         "DTDForbidden"),
        # Not to be hidden by an encoding either.
        (metadata().replace("?>", f"?>{ENTITIES}", 1).replace("UTF-8", "UTF-16").encode("utf-16"),
         "DTDForbidden"),
        (metadata().encode()[:500], "is not readable XML"),
        (b"", "is not readable XML"),
        (metadata(scale="many").encode(), "'many' is not a number"),
        (metadata().replace("BOA_QUANT", "QUANT").encode(), "names no BOA_QUANTIFICATION_VALUE"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_trusted(tmp_path, content, message):
    path = tmp_path / "MTD_MSIL2A.xml"
    path.write_bytes(content)
    with pytest.raises(GlacierError, match=message) as caught:
        read_product(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_metadata_of_unlikely_size(tmp_path):
    path = tmp_path / "MTD_MSIL2A.xml"
    with path.open("wb") as file:
        file.truncate(30_000_000)
    with pytest.raises(GlacierError, match="larger than 20 MB"):
        read_product(path)


def test_an_offset_for_other_bands_only(tmp_path):
    path = tmp_path / "MTD_MSIL2A.xml"
    path.write_text(metadata(offsets=[-1000, -1000]))
    with pytest.raises(GlacierError, match="no BOA_ADD_OFFSET for B04"):
        read_product(path).offset("B04")


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("T22WDS_20200831T150809_B8A_60m.jp2", "B8A"),
        ("B04.jp2", "B04"),
        ("L2A_T32_20170101T1_B02_10m.jp2", "B02"),
        ("T22WDS_20200831T150809_TCI_10m.jp2", None),
        ("scene_RGB.tif", None),
    ],
)
def test_band_in_a_name(tmp_path, name, band):
    assert band_of(tmp_path / name) == band


# --- reading


@pytest.mark.parametrize("level", ["L2A", "L1C"])
@pytest.mark.parametrize("where", ["folder", "bands", "zip", "zip path", "inside", "no suffix"])
def test_product_read_wherever_it_lies(make_safe, tmp_path, level, where):
    safe = make_safe(level, name="product" if where == "no suffix" else None)
    images = {
        "folder": safe,
        "no suffix": safe,
        "bands": safe / "GRANULE/*/IMG_DATA" / ("R10m" if level == "L2A" else "") / "*_B0[2348]*",
        "zip": tmp_path / "p.zip",
        "zip path": f"/vsizip/{tmp_path}/p.zip",
        "inside": f"/vsizip/{{{tmp_path}/p.zip}}/{safe.name}",
    }[where]
    if "zip" in str(images):
        zipped(safe, tmp_path / "p.zip")
        # Nothing may be read from beside the archive.
        safe.rename(tmp_path / "away")
    source = open_source(images, bands=RGBN)
    assert source.reflectance_source == f"product metadata MTD_MSI{level}.xml"
    assert source.reflectance == Reflectance(10000, -1000, 0)
    assert list(source.warnings) == []
    image = source.read()
    np.testing.assert_allclose(image.reflectance, expected(), atol=1e-6)
    assert image.valid.sum() == SIZE * (SIZE - 2)
    assert [band_of(path) for path in source.paths] == list(NUMBERS.values())
    assert (source.grid.crs.to_epsg(), source.grid.resolution) == (32623, 10)
    part = source.read(5, 7, 4, 30)
    np.testing.assert_array_equal(part.reflectance[:, :, :17], image.reflectance[:, 5:9, 7:])


@pytest.mark.parametrize("level", ["L2A", "L1C"])
def test_offsets_are_those_of_each_band(make_safe, level):
    offsets = [0] * 13
    offsets[1], offsets[2], offsets[3], offsets[7] = -100, -200, -300, -400
    safe = make_safe(level, metadata(level, offsets, scale=5000))
    image = open_source(safe, bands=RGBN).read()
    offset = np.array([-300, -200, -100, -400])[:, None, None]
    np.testing.assert_allclose(image.reflectance, expected(offset, 5000), atol=1e-6)
    nir = open_source(next(safe.rglob("*_B08*")), bands=["nir"])
    np.testing.assert_array_equal(nir.read().reflectance[0], image.reflectance[3])


def test_zero_is_no_data_only_if_no_surface_can_have_it(make_safe):
    safe = make_safe("L2A", metadata(offsets=None, baseline="02.14"))
    path = next(safe.rglob("*_B08_10m.jp2"))
    band = numbers_of()[3]
    band[10, 10] = 0
    write_jp2(path, band)
    # Without an offset, 0 in the near infrared may be dark water.
    assert open_source(safe, bands=RGBN).read().valid[10, 10]
    (safe / "MTD_MSIL2A.xml").write_text(metadata())
    assert not open_source(safe, bands=RGBN).read().valid[10, 10]


def test_flat_folder_of_bands_and_metadata(tmp_path):
    for name, band in zip(NUMBERS.values(), numbers_of(), strict=True):
        write_jp2(tmp_path / f"{name}.jp2", band)
    (tmp_path / "MTD_MSIL2A.xml").write_text(metadata())
    source = open_source(tmp_path, bands=RGBN)
    np.testing.assert_allclose(source.read().reflectance, expected(), atol=1e-6)
    assert source.reflectance_source == "product metadata MTD_MSIL2A.xml"


def test_20_m_bands_by_their_folder(make_safe):
    folder = next(make_safe().rglob("R20m"))
    source = open_source(folder, bands={"nir": "*_B8A_*"})
    assert source.reflectance_source == "product metadata MTD_MSIL2A.xml"
    assert source.grid.resolution == 20


def test_only_windows_are_read(make_safe, monkeypatch):
    source = open_source(make_safe(size=300), bands=RGBN)
    seen = []
    original = rasterio.DatasetReader.read

    class Spy(rasterio.DatasetReader):
        def read(self, *args, window, **options):
            seen.append(window)
            return original(self, *args, window=window, **options)

    monkeypatch.setattr("rasterio.DatasetReader", Spy)
    monkeypatch.setattr("rasterio.open", lambda path, *mode, **options: Spy(path))
    image = source.read(150, 200, 30, 20)
    assert seen == [((150, 180), (200, 220))] * 4
    np.testing.assert_allclose(
        image.reflectance, expected(size=300)[:, 150:180, 200:220], atol=1e-6
    )


def test_input_files_name_what_a_change_would_change(make_safe, tmp_path):
    safe = make_safe()
    names = [path.name for path in input_files(safe)]
    assert "MTD_MSIL2A.xml" in names
    assert sum("_10m" in name for name in names) == 4
    assert input_files(zipped(safe, tmp_path / "p.zip")) == [tmp_path / "p.zip"]
    assert input_files("http://127.0.0.1:9/x.tif") == []


# --- who is believed


def test_metadata_before_manifest_and_the_contradiction_kept(make_safe):
    safe = make_safe()
    for stated, count in [
        (None, 0), (Reflectance(), 0), (Reflectance(nodata=0), 0), (Reflectance(offset=-1000), 0),
        (Reflectance(offset=-500), 1), (Reflectance(scale=5000, nodata=7), 2),
    ]:  # fmt: skip
        source = open_source(safe, bands=RGBN, reflectance=stated)
        np.testing.assert_allclose(source.read().reflectance, expected(), atol=1e-6)
        assert len(source.warnings) == count
    assert "MTD_MSIL2A.xml: the product says scale 10000 and offset -1000" in source.warnings[0]
    assert "`reflectance` says scale 5000 and offset 0" in source.warnings[0]
    assert "says nodata 0, `reflectance` says 7" in source.warnings[1]


def test_old_product_contradicts_an_offset_in_the_manifest(make_safe):
    safe = make_safe("L2A", metadata(offsets=None, baseline="02.14"))
    source = open_source(safe, bands=RGBN, reflectance=Reflectance(offset=-1000))
    np.testing.assert_allclose(source.read().reflectance, expected(0), atol=1e-6)
    assert len(source.warnings) == 1


def test_offset_that_the_baseline_asks_for_is_missed(make_safe):
    source = open_source(make_safe("L2A", metadata(offsets=None)), bands=RGBN)
    assert "05.09 comes with an offset" in source.warnings[0]


def test_product_without_metadata_takes_the_manifest(make_safe):
    safe = make_safe(xml=False)
    source = open_source(safe, bands=RGBN, reflectance=Reflectance(offset=-1000, nodata=0))
    assert source.reflectance_source == "manifest"
    assert "has no MTD_MSIL2A.xml" in source.warnings[0]
    np.testing.assert_allclose(source.read().reflectance, expected(), atol=1e-6)


def test_metadata_speak_for_the_product_alone(make_safe, write_tif):
    safe = make_safe()
    derived = write_tif(safe / "derived" / "x_B04.tif", np.ones((4, 4), np.uint16))
    assert find_metadata(derived) is None
    assert open_source(derived, bands=["red"]).reflectance_source == "default"
    made = write_tif(safe / "B04.tif", np.full((4, 4), 0.5, np.float32))
    assert open_source(made, bands=["red"], reflectance=Reflectance(1)).warnings == []


# --- scene classification


def test_scene_classification_beside_the_bands(make_safe, tmp_path):
    safe = make_safe()
    found = scene_classification_path(safe)
    assert found.name == "T23VMH_20230824T140059_SCL_20m.jp2"
    assert scene_classification_path(next(safe.rglob("*_B04_*"))) == found
    inside = scene_classification_path(zipped(safe, tmp_path / "p.zip"))
    assert open_source(inside, bands=["scl"]).grid.resolution == 20
    assert scene_classification_path(make_safe("L1C")) is None
    bare = make_safe(xml=False, name="bare.SAFE")
    assert scene_classification_path(next(bare.rglob("*_B04_*"))).parents[4] == bare
    lone = tmp_path / "T_B04_10m.jp2"
    write_jp2(lone, numbers_of()[0])
    assert scene_classification_path(lone) is None


# --- mistakes


def test_products_that_cannot_be_read(make_safe, tmp_path):
    empty = tmp_path / "empty.SAFE"
    empty.mkdir()
    both = make_safe(name="both.SAFE")
    (both / "MTD_MSIL1C.xml").write_text(metadata("L1C"))
    parent = tmp_path / "parent"
    make_safe(folder=parent)
    two = tmp_path / "two.zip"
    with zipfile.ZipFile(two, "w") as archive:
        for name in ("a", "b"):
            archive.writestr(f"{name}.SAFE/MTD_MSIL2A.xml", metadata())
    for images, message in [
        (empty, "holds no 10 m bands"),
        (both, "metadata of two levels"),
        (parent, f"point at {L2A}"),
        (two, "holds 2 products; name one"),
    ]:
        with pytest.raises(GlacierError, match=message):
            open_source(images, bands=RGBN)


def test_a_band_that_no_file_is_named_for(make_safe):
    # Not four bands of one image as patches that lie over each other.
    with pytest.raises(GlacierError, match="several images where one is meant"):
        open_source(make_safe(), bands=["swir"])
    with pytest.raises(GlacierError, match="no file is named as band swir"):
        open_source(make_safe(), bands=["red", "swir"])
