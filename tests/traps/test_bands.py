"""Traps of kind 1: which band of a file is which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from traps.tools import (
    AT,
    BANDS,
    Command,
    Outcome,
    manifest,
    numbers,
    outlines,
    scene,
    told,
    trap,
    write,
)

RED, GREEN, BLUE, NIR = range(4)
OTHER = np.full((128, 128), 2500, np.uint16)  # a band that no one asked for
HOW = r"--bands red=4,green=3,blue=2,nir=8"


def image() -> tuple[np.ndarray, np.ndarray]:
    """Return stored numbers [red, green, blue, nir] of 128 px and the truth."""
    reflectance, truth = scene(128)
    return numbers(reflectance), truth


def stack(path: Path, bands: list[Any], names: tuple[str, ...] = (), **profile: Any) -> Path:
    """Write bands, by their place in ``image`` or as arrays, under names of their own."""
    stored, _ = image()
    array = np.stack([stored[one] if isinstance(one, int) else one for one in bands])
    return write(path, array, names=names, **profile)


def one_file_a_band(folder: Path, names: dict[str, Any]) -> Path:
    """Write a file for each name."""
    stored, _ = image()
    for name, band in names.items():
        write(folder / name, stored[band] if isinstance(band, int) else band)
    return folder


@trap(1, "predict: bands as in the training (control)", "right")
def test_control(tmp_path: Path, predicted: Outcome) -> str:
    return predicted(stack(tmp_path / "s.tif", [0, 1, 2, 3]))


@trap(1, "predict: the file names its bands blue, green, red, nir", "right")
def test_order_of_planet(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [BLUE, GREEN, RED, NIR], ("blue", "green", "red", "nir"))
    return predicted(path)


@trap(1, "predict: an export of Earth Engine with B2, B3, B4, B8", "right")
def test_earth_engine(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [BLUE, GREEN, RED, NIR], ("B2", "B3", "B4", "B8"))
    return predicted(path)


@trap(1, "predict: all bands of Sentinel-2 in one file, near infrared twice (B8, B8A)", "right")
def test_all_bands(tmp_path: Path, predicted: Outcome) -> str:
    names = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
    bands = [OTHER, BLUE, GREEN, RED, OTHER, OTHER, OTHER, NIR, OTHER, OTHER, OTHER, OTHER]
    return predicted(stack(tmp_path / "s.tif", bands, names))


@trap(1, "predict: eight bands of Planet, three with blue or green or red in their names", "right")
def test_eight_bands_of_planet(tmp_path: Path, predicted: Outcome) -> str:
    names = ("coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir")
    bands = [OTHER, BLUE, OTHER, GREEN, OTHER, RED, OTHER, NIR]
    return predicted(stack(tmp_path / "s.tif", bands, names))


@trap(1, "predict: GDAL's words for bands ('B4, central wavelength 665 nm')", "right")
def test_words_of_gdal(tmp_path: Path, predicted: Outcome) -> str:
    waves = {2: 490, 3: 560, 4: 665, 5: 705, 8: 842}
    names = tuple(f"B{number}, central wavelength {wave} nm" for number, wave in waves.items())
    path = stack(tmp_path / "s.tif", [BLUE, GREEN, RED, OTHER, NIR], names)
    return predicted(path)


@trap(1, "predict: words in capitals with numbers ('Band 4 (Red)', 'Near Infra-Red')", "right")
def test_words(tmp_path: Path, predicted: Outcome) -> str:
    names = ("Band 8 - Near Infra-Red", "Band 4 (Red)", "Band 5 (Red Edge)", "GREEN", "Blue")
    path = stack(tmp_path / "s.tif", [NIR, RED, OTHER, GREEN, BLUE], names)
    return predicted(path)


@trap(1, "predict: a 16-bit file coloured blue, green, red, and a fourth band", "warned")
def test_colours(tmp_path: Path, predicted: Outcome) -> str:
    path = tmp_path / "s.tif"
    stack(path, [BLUE, GREEN, RED, NIR], colours=["blue", "green", "red", "undefined"])
    says = r"s\.tif: its bands are named \(blue, green, red, undefined\).*taken by name"
    return predicted(path, says=says)


@trap(1, "predict: five bands, the fifth opacity", "right")
def test_opacity(tmp_path: Path, predicted: Outcome) -> str:
    opaque = np.full((128, 128), 65535, np.uint16)
    path = tmp_path / "s.tif"
    stack(path, [0, 1, 2, 3, opaque], colours=[*["undefined"] * 4, "alpha"])
    return predicted(path)


@trap(1, "predict: a picture of red, green, blue and opacity", "refused")
def test_picture(tmp_path: Path, predicted: Outcome) -> str:
    picture = np.full((4, 128, 128), 255, np.uint8)
    picture[:3] = np.clip(scene(128)[0][:3] * 255, 0, 255)
    path = write(tmp_path / "s.tif", picture, nodata=None)
    options = ("--scale", "255", "--offset", "0")
    return predicted(path, *options, says=rf"no name tells nir.*{HOW}")


@trap(
    1, "predict: near infrared as the fourth of 8-bit bands, which GDAL marks as opacity", "warned"
)
def test_eight_bits(tmp_path: Path, predicted: Outcome) -> str:
    stored = np.clip(scene(128)[0] * 255, 1, 255).astype(np.uint8)
    path = write(tmp_path / "s.tif", stored, nodata=None)
    says = r"s\.tif: band 4 is marked as opacity \(alpha\) but holds an image"
    options = ("--scale", "255", "--offset", "0", "--nodata", "0")
    return predicted(path, *options, says=says)


@trap(1, "predict: a VRT of one file a band (gdalbuildvrt -separate B02 B03 B04 B08)", "right")
def test_vrt(tmp_path: Path, predicted: Outcome) -> str:
    order = {"B02": BLUE, "B03": GREEN, "B04": RED, "B08": NIR}
    one_file_a_band(tmp_path, {f"Red_Sea_{name}.tif": band for name, band in order.items()})
    bands = "".join(
        f"<VRTRasterBand dataType='UInt16' band='{number}'><SimpleSource><SourceFilename "
        f"relativeToVRT='1'>Red_Sea_{name}.tif</SourceFilename><SourceBand>1</SourceBand>"
        "</SimpleSource></VRTRasterBand>"
        for number, name in enumerate(order, start=1)
    )
    where = ", ".join(map(str, AT.to_gdal()))
    (tmp_path / "s.vrt").write_text(
        f"<VRTDataset rasterXSize='128' rasterYSize='128'><SRS>EPSG:32623</SRS>"
        f"<GeoTransform>{where}</GeoTransform>{bands}</VRTDataset>"
    )
    return predicted(tmp_path / "s.vrt")


@trap(1, "predict: bands that are named by their wavelengths ('490.0 Nanometers')", "right")
def test_wavelengths(tmp_path: Path, predicted: Outcome) -> str:
    waves = (443.0, 490.0, 560.0, 665.0, 865.0, 842.0)
    names = tuple(f"Band {n} ({wave} Nanometers)" for n, wave in enumerate(waves, start=1))
    path = stack(tmp_path / "s.tif", [OTHER, BLUE, GREEN, RED, OTHER, NIR], names)
    return predicted(path)


@trap(1, "predict: bands with wavelengths in micrometres as their tags", "right")
def test_wavelength_tags(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [BLUE, GREEN, RED, NIR])
    with rasterio.open(path, "r+") as file:
        for number, wave in enumerate((0.49, 0.56, 0.665, 0.842), start=1):
            file.update_tags(number, wavelength=wave, wavelength_units="Micrometers")
    return predicted(path)


@trap(1, "predict: names in a language that no rule knows ('rot', 'vert')", "warned")
def test_foreign_words(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [0, 1, 2, 3], ("rot", "vert", "azul", "pir"))
    says = r"named \(rot, vert, azul, pir\), which is not understood.*by position.*--bands"
    return predicted(path, says=says)


@trap(1, "predict: an analytic image of PlanetScope, whose four bands have no names", "right")
def test_planetscope(tmp_path: Path, predicted: Outcome) -> str:
    path = tmp_path / "20230824_141951_71_2416_3B_AnalyticMS_SR_clip.tif"
    stack(path, [BLUE, GREEN, RED, NIR])
    return predicted(path)


@trap(1, "predict: an analytic image of PlanetScope with eight bands without names", "right")
def test_planetscope_of_eight(tmp_path: Path, predicted: Outcome) -> str:
    path = tmp_path / "20230824_141951_71_2416_3B_AnalyticMS_SR_8b.tif"
    stack(path, [OTHER, BLUE, OTHER, GREEN, OTHER, RED, OTHER, NIR])
    return predicted(path)


@trap(1, "predict: images and their masks in one folder", "refused")
def test_masks_among_images(tmp_path: Path, predicted: Outcome) -> str:
    stack(tmp_path / "in" / "s.tif", [0, 1, 2, 3])
    write(tmp_path / "in" / "s_mask.tif", np.ones((128, 128), np.uint8))
    says = r"s_mask\.tif: has 1 band\(s\), s\.tif has 4.*narrow `images`"
    return predicted(tmp_path / "in", says=says)


@trap(1, "predict --bands: one number for two bands", "refused")
def test_number_twice(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [0, 1, 2, 3])
    option = ("--bands", "red=3,green=2,blue=1,nir=3")
    return predicted(path, *option, says="bands: 3 is named for two")


@trap(1, "predict --bands: the names in capitals", "right")
def test_capitals(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [BLUE, GREEN, RED, NIR])
    return predicted(path, "--bands", "RED=3,Green=2,BLUE=1,NIR=4")


@trap(1, "predict: five bands without names", "refused")
def test_too_many(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [BLUE, GREEN, RED, OTHER, NIR])
    return predicted(path, says=rf"s\.tif: has 5 band.*{HOW}")


@trap(1, "predict --bands: the numbers of bands without names", "right")
def test_numbers(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [OTHER, BLUE, GREEN, RED, OTHER, OTHER, OTHER, NIR])
    option = ("--bands", "red=4,green=3,blue=2,nir=8")
    return predicted(path, *option)


@trap(1, "predict --bands: names in the order of a file without any", "right")
def test_names_in_order(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [BLUE, GREEN, RED, NIR])
    return predicted(path, "--bands", "blue,green,red,nir")


@trap(1, "predict --bands: a number that the file's own name contradicts", "warned")
def test_number_and_name_differ(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [0, 1, 2, 3], ("red", "green", "blue", "swir"))
    says = r"band 4 is taken as nir, but the file calls it 'swir'; check which is right"
    option = ("--bands", "red=1,green=2,blue=3,nir=4")
    return predicted(path, *option, says=says)


@trap(1, "predict --bands: no near infrared", "refused")
def test_band_left_out(tmp_path: Path, model: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [0, 1, 2, 3])
    option = ("--bands", "red=1,green=2,blue=3")
    return predicted(path, *option, says="the model needs nir")


@trap(1, "predict --bands: a typing error", "refused")
def test_typing_error(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [0, 1, 2, 3])
    option = ("--bands", "red=1,green=,blue=3,nir=4")
    return predicted(path, *option, says="write it as red=4")


@trap(1, "predict --bands: files by patterns", "right")
def test_patterns(tmp_path: Path, predicted: Outcome) -> str:
    names = {"one.tif": RED, "two.tif": GREEN, "three.tif": BLUE, "four_B05.tif": NIR}
    folder = one_file_a_band(tmp_path / "in", names)
    option = ("--bands", "red=one,green=two*,blue=three.tif,nir=*_B05.tif")
    return predicted(folder, *option)


@trap(1, "predict: bands named red, green, blue, swir: near infrared is not there", "refused")
def test_short_wave_infrared(tmp_path: Path, predicted: Outcome) -> str:
    path = stack(tmp_path / "s.tif", [0, 1, 2, OTHER], ("red", "green", "blue", "swir16"))
    return predicted(path, says=rf"no name tells nir.*{HOW}")


@trap(1, "predict: the red bands of two dates in one file", "refused")
def test_two_dates_in_one_file(tmp_path: Path, predicted: Outcome) -> str:
    names = tuple(f"{band}_{year}" for year in (2022, 2023) for band in BANDS)
    path = stack(tmp_path / "s.tif", [0, 1, 2, 3] * 2, names)
    says = r"bands 1 and 5 are both named red \(red_2022.*--bands"
    return predicted(path, says=says)


@trap(1, "predict: Landsat 8, with B5 near infrared and B8 panchromatic, one file a band", "right")
def test_landsat_8(tmp_path: Path, predicted: Outcome) -> str:
    start = "LC08_L1TP_002016_20230801_20230805_02_T1_"
    bands = {1: OTHER, 2: BLUE, 3: GREEN, 4: RED, 5: NIR, 6: OTHER, 7: OTHER, 8: OTHER, 10: OTHER}
    names = {f"{start}B{number}.TIF": band for number, band in bands.items()}
    folder = one_file_a_band(tmp_path / start[:-1], names)
    return predicted(folder)


@trap(1, "predict --bands: the panchromatic band of Landsat 8 as near infrared", "warned")
def test_panchromatic(tmp_path: Path, predicted: Outcome) -> str:
    start = "LC08_L1TP_002016_20230801_20230805_02_T1_"
    bands = {2: BLUE, 3: GREEN, 4: RED, 8: NIR}
    names = {f"{start}B{number}.TIF": band for number, band in bands.items()}
    folder = one_file_a_band(tmp_path / "in", names)
    option = ("--bands", "red=B4,green=B3,blue=B2,nir=B8")
    says = r"is taken as nir, but the file calls it 'LC08.*_B8\.TIF'"
    return predicted(folder, *option, says=says)


@trap(1, "predict: patches named as the fields of a chessboard (B2, B3, B4, B8)", "right")
def test_chessboard(tmp_path: Path, predicted: Outcome) -> str:
    stored, _ = image()
    for number, row in ((2, 0), (3, 32), (4, 64), (8, 96)):
        part = stored[:, row : row + 32]
        write(tmp_path / "in" / f"field_B{number}.tif", part, AT @ AT.translation(0, row))
    return predicted(tmp_path / "in")


@trap(1, "predict: Landsat 5, whose red is B3 and whose B4 is near infrared", "right")
def test_landsat_5(tmp_path: Path, predicted: Outcome) -> str:
    start = "LT05_L2SP_002016_19870801_20200201_02_T1_SR_"
    bands = {1: BLUE, 2: GREEN, 3: RED, 4: NIR, 5: OTHER, 7: OTHER}
    folder = one_file_a_band(
        tmp_path / "in", {f"{start}B{number}.TIF": band for number, band in bands.items()}
    )
    return predicted(folder)


@trap(1, "predict: a stack of Landsat 7 with SR_B1 to SR_B7", "right")
def test_landsat_7_in_one_file(tmp_path: Path, predicted: Outcome) -> str:
    names = tuple(f"SR_B{number}" for number in (1, 2, 3, 4, 5, 7))
    path = tmp_path / "LE07_002016_20020801.tif"
    stack(path, [BLUE, GREEN, RED, NIR, OTHER, OTHER], names)
    return predicted(path)


@trap(
    1, "predict: SR_B4, which is red or near infrared by the Landsat that nobody names", "refused"
)
def test_which_landsat(tmp_path: Path, predicted: Outcome) -> str:
    names = tuple(f"SR_B{number}" for number in (2, 3, 4, 5))
    path = stack(tmp_path / "s.tif", [BLUE, GREEN, RED, NIR], names)
    return predicted(path, says=rf"\(SR_B2, SR_B3.*{HOW}")


@trap(1, "predict: HLS of Landsat (B05) and of Sentinel-2 (B8A) by their file names", "right")
def test_hls(tmp_path: Path, predicted: Outcome) -> str:
    outcome = []
    for kind, near in (("L30", "B05"), ("S30", "B8A")):
        start = f"HLS.{kind}.T23VMG.2023236T141951.v2.0."
        names = {"B02": BLUE, "B03": GREEN, "B04": RED, near: NIR, "B06": OTHER, "B11": OTHER}
        folder = one_file_a_band(
            tmp_path / kind, {f"{start}{name}.tif": band for name, band in names.items()}
        )
        outcome.append(predicted(folder, out=f"{kind}_out"))
    return max(outcome)


@trap(1, "predict: files of bands of an unknown sensor, without B8", "refused")
def test_unknown_sensor(tmp_path: Path, predicted: Outcome) -> str:
    names = {"x_B2.tif": BLUE, "x_B3.tif": GREEN, "x_B4.tif": RED, "x_B5.tif": NIR}
    folder = one_file_a_band(tmp_path / "in", names)
    return predicted(folder, says="as band nir.*x_B2.tif.*--bands")


def dataset(
    folder: Path, glacier: Command, bands: str = "[red, green, blue, nir]", says: str = ""
) -> str:
    """Check a dataset and hold what it reads against the image."""
    from glacier_utils.datasets import open_dataset

    stored, truth = image()
    outlines(truth).to_file(folder / "o.gpkg")
    manifest(folder, "s.tif", "outlines: o.gpkg", bands=bands)
    done = glacier("check", folder)
    if done.status == 2:
        return told(done, says=says)
    data = open_dataset(folder).source("train", "2023-08")
    order = [BANDS.index(name) for name in data.bands]
    found = data.read().reflectance[np.argsort(order)]
    return told(done, right=np.allclose(found, (stored - 1000.0) / 10_000, atol=1e-4), says=says)


@trap(1, "check: the manifest says red, green, blue, nir, the file blue, green, red, nir", "warned")
def test_manifest_against_file(tmp_path: Path, glacier: Command) -> str:
    stack(tmp_path / "s.tif", [BLUE, GREEN, RED, NIR], ("blue", "green", "red", "nir"))
    says = r"named \(blue, green, red, nir\), not red, green, blue, nir: taken by name"
    return dataset(tmp_path, glacier, says=says)


@trap(1, "check: a manifest that names its bands in capitals", "right")
def test_manifest_in_capitals(tmp_path: Path, glacier: Command) -> str:
    stack(tmp_path / "s.tif", [0, 1, 2, 3])
    return dataset(tmp_path, glacier, "[Red, Green, Blue, NIR]")


@trap(1, "check: twelve named bands, four wanted", "right")
def test_manifest_takes_what_it_needs(tmp_path: Path, glacier: Command) -> str:
    stack(tmp_path / "s.tif", [OTHER, BLUE, GREEN, RED, OTHER, NIR],
          ("B01", "B02", "B03", "B04", "B05", "B08"))  # fmt: skip
    return dataset(tmp_path, glacier)


@trap(1, "check: bands that are counted, not named ('Band 1' to 'Band 4')", "right")
def test_counted_bands(tmp_path: Path, glacier: Command) -> str:
    stack(tmp_path / "s.tif", [0, 1, 2, 3], ("Band 1", "Band 2", "Band 3", "Band 4"))
    return dataset(tmp_path, glacier)


@trap(
    1,
    "check: a list for blue, green, red, nir in a file that is coloured red, green, blue",
    "warned",
)
def test_list_against_colours(tmp_path: Path, glacier: Command) -> str:
    stack(tmp_path / "s.tif", [BLUE, GREEN, RED, NIR], photometric="RGB")
    return dataset(
        tmp_path, glacier, "[blue, green, red, nir]", says="by their colours.*which counts"
    )


@trap(1, "check: patches of two orders of bands", "refused")
def test_patches_of_two_orders(tmp_path: Path, glacier: Command) -> str:
    from glacier_utils.errors import GlacierError
    from glacier_utils.imagery import open_source

    stack(tmp_path / "a.tif", [0, 1, 2, 3], BANDS)
    stack(tmp_path / "b.tif", [2, 1, 0, 3], ("blue", "green", "red", "nir"),
          transform=AT @ AT.translation(128, 0))  # fmt: skip
    with pytest.raises(GlacierError, match=r"b\.tif: its bands \(blue.*are not those of a\.tif"):
        open_source(tmp_path, bands=BANDS)
    manifest(tmp_path, "'*.tif'")
    return told(glacier("check", tmp_path), says=r"b\.tif: its bands \(blue.*same order")
