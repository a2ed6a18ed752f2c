"""Metadata and files of Sentinel-2 products as they are handed out (SAFE folders).

Names and formulas: Sentinel-2 Products Specification Document, S2-PDGS-TAS-DI-PSD; from processing
baseline 04.00 (25 January 2022) on, reflectance = (number + ADD_OFFSET) / QUANTIFICATION_VALUE.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import fromstring

from glacier_utils.errors import GlacierError
from glacier_utils.raster.paths import PRODUCT_FILES, exists, files_below, is_virtual, read_bytes

# Bands by band_id, for metadata that do not list them.
_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
_BAND_NAME = re.compile(r"(?:^|_)B(\d[\dA])(?=[_.]|$)")
_SCALE = {
    # The longer name was used until 2018.
    "L2A": ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE"),
    "L1C": ("QUANTIFICATION_VALUE",),
}
_OFFSET = {"L2A": "BOA_ADD_OFFSET", "L1C": "RADIO_ADD_OFFSET"}
_OFFSET_SINCE = "04.00"


@dataclass(frozen=True)
class Product:
    """What a product says of itself: reflectance = (number + offsets[band]) / scale.

    Attributes:
        path: its metadata file.
        level: "L1C" or "L2A".
        baseline: the processing baseline, such as "05.09".
        scale: the quantification value.
        offsets: in stored numbers, by names such as B04.
        nodata: the stored number that says no data, None where the metadata name none.
        has_offsets: False where the metadata name none, which means 0.
    """

    path: Path
    level: str
    baseline: str
    scale: float
    offsets: dict[str, float]
    nodata: float | None
    has_offsets: bool

    @property
    def lacks_offsets(self) -> bool:
        """Say whether offsets are missing that the processing baseline must have."""
        return not self.has_offsets and self.baseline >= _OFFSET_SINCE

    def offset(self, band: str) -> float:
        """Return the offset of a band such as B04.

        Raises:
            GlacierError: the metadata name offsets, but none for this band.
        """
        if band not in self.offsets:
            raise GlacierError(
                f"{self.path}: names no {_OFFSET[self.level]} for {band} though it does for "
                "others; fetch the metadata again"
            )
        return self.offsets[band]


def band_of(path: Path) -> str | None:
    """Return the band (B02, B8A ...) in a file's name, None where there is none."""
    found = _BAND_NAME.search(path.name)
    return f"B{found[1]}" if found else None


def find_metadata(path: Path) -> Path | None:
    """Return the metadata file of the product that a file or folder belongs to, None without one.

    Raises:
        GlacierError: the product has metadata of two levels.
    """
    if is_virtual(path) and not str(path).startswith("/vsizip/{"):
        return None
    # A band lies at most five folders deep: SAFE/GRANULE/x/IMG_DATA/R10m.
    for folder in [path, *path.parents[:5]]:
        # Metadata further up speak only for what lies where a product has its images.
        inner = path.parts[len(folder.parts) :]
        if len(inner) > 1 and inner[0] != "GRANULE":
            continue
        found = [folder / name for name in PRODUCT_FILES if exists(folder / name)]
        if len(found) > 1:
            raise GlacierError(
                f"{folder}: holds metadata of two levels ({found[0].name}, {found[1].name}); "
                "keep each product in its own folder"
            )
        if found:
            return found[0]
    return None


def read_product(metadata: Path) -> Product:
    """Read the metadata of a product.

    Args:
        metadata: MTD_MSIL2A.xml or MTD_MSIL1C.xml, on the disk or in an archive.

    Raises:
        GlacierError: the file is not readable XML, declares a DOCTYPE or entities, or lacks the
            quantification value.
    """
    root = _parse(metadata)
    level = PRODUCT_FILES[metadata.name]
    scale = next(filter(None, (_text(root, name) for name in _SCALE[level])), None)
    if scale is None:
        raise GlacierError(f"{metadata}: names no {_SCALE[level][0]}; fetch the metadata again")
    numbers = {
        item.get("bandId"): item.get("physicalBand")
        for item in _named(root, "Spectral_Information")
    } or {str(number): name for number, name in enumerate(_BANDS)}
    given = {
        _two_digits(band): _number(item.text or "", metadata)
        for item in _named(root, _OFFSET[level])
        if (band := numbers.get(item.get("band_id")))
    }
    return Product(
        path=metadata,
        level=level,
        baseline=_text(root, "PROCESSING_BASELINE"),
        scale=_number(scale, metadata),
        offsets=given or {_two_digits(name): 0.0 for name in _BANDS},
        nodata=_nodata(root, metadata),
        has_offsets=bool(given),
    )


def scene_classification_path(product: str | Path) -> Path | None:
    """Return the scene classification (SCL, 20 m, else 60 m) of a product, None without one.

    Args:
        product: a SAFE folder, a zip with one, or any band file or folder in it.
    """
    path = Path(product)
    metadata = find_metadata(path)
    safe = [folder for folder in path.parents if folder.suffix.upper() == ".SAFE"]
    inside = files_below(metadata.parent if metadata else safe[0] if safe else path)
    found = [item for item in inside if re.search(r"_SCL(_[26]0m)?\.jp2$", item.name)]
    return min(found, key=lambda item: item.name, default=None)


def _parse(path: Path) -> Element:
    """Parse XML of strangers: no DOCTYPE, so no entities that blow up or reach for files."""
    try:
        return fromstring(read_bytes(path), forbid_dtd=True)
    except (ParseError, ValueError, LookupError) as error:  # a DOCTYPE is a ValueError
        raise GlacierError(
            f"{path}: is not readable XML ({error}); fetch the metadata again"
        ) from error


def _named(root: Element, name: str) -> list[Element]:
    """Return every element of a name, whatever its namespace."""
    return root.findall(f".//{{*}}{name}")


def _text(root: Element, name: str) -> str:
    return (root.findtext(f".//{{*}}{name}") or "").strip()


def _nodata(root: Element, path: Path) -> float | None:
    for item in _named(root, "Special_Values"):
        if _text(item, "SPECIAL_VALUE_TEXT").upper() == "NODATA":
            return _number(_text(item, "SPECIAL_VALUE_INDEX"), path)
    return None


def _number(text: str, path: Path) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise GlacierError(
            f"{path}: {text[:40]!r} is not a number; fetch the metadata again"
        ) from error


def _two_digits(name: str) -> str:
    """Spell a band as files do: B4 is B04, B8A stays."""
    return f"B0{name[1:]}" if len(name) == 2 else name
