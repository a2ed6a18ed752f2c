"""How stored numbers become reflectance, and who says so: product, manifest, or the file itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from glacier_utils.errors import GlacierError
from glacier_utils.imagery.safe import Product, band_of, find_metadata, read_product
from glacier_utils.raster.io import Header
from glacier_utils.raster.paths import gdal_name


@dataclass(frozen=True)
class Reflectance:
    """How stored numbers become reflectance: (number + offset) / scale.

    A pixel has no data if any band holds ``nodata``; but where that is also a reflectance that can
    be measured, only if all bands hold it. So 0 with an offset of -1000 says no data in any one
    band, while 0 without an offset may be the near infrared of dark water.

    Attributes:
        scale: stored numbers to a reflectance of 1.
        offset: what is added to a stored number.
        nodata: the stored number that says no data; None takes what the file itself names, if any.
        stated: that somebody has stated scale and offset, though they be the defaults.

    Example:
        >>> rule = Reflectance(offset=-1000, nodata=0)
        >>> rule.can_be(0), rule.can_be(1000)
        (False, True)
    """

    scale: float = 10000.0
    offset: float = 0.0
    nodata: float | None = None
    stated: bool = field(default=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse a scale that cannot divide."""
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.offset)):
            raise GlacierError(
                f"reflectance: scale {self.scale} and offset {self.offset} must be finite numbers, "
                "the scale above 0"
            )

    def can_be(self, number: float) -> bool:
        """Say whether a stored number can be a measurement: a reflectance of 0 to 1.5."""
        return 0 <= (number + self.offset) / self.scale <= 1.5

    @property
    def is_stated(self) -> bool:
        """Say whether somebody has stated scale and offset; the defaults by themselves do not."""
        return self.stated or (self.scale, self.offset) != (Reflectance.scale, Reflectance.offset)

    @property
    def words(self) -> str:
        """Scale and offset in words."""
        return f"scale {self.scale:g} and offset {self.offset:g}"


@dataclass(frozen=True)
class Scaling:
    """How each band becomes reflectance.

    Attributes:
        per_band: a rule for each band, None where the tags of each file say it.
        nodata: of the caller, for bands that the tags speak of.
        source: who says so.
        first: the rule of the first band (of the first file where the tags say it).
        warnings: a line for each contradiction.
    """

    per_band: tuple[Reflectance | None, ...]
    nodata: float | None
    source: str
    first: Reflectance
    warnings: tuple[str, ...] = ()

    def of(self, position: int, dataset: Any, number: int) -> Reflectance:
        """Return the rule for a band, with the nodata that holds in this open file."""
        rule = self.per_band[position] or replace(
            _tagged(dataset.scales[number - 1], dataset.offsets[number - 1], dataset.name),
            nodata=self.nodata,
        )
        if rule.nodata is None:
            return replace(rule, nodata=dataset.nodatavals[number - 1])
        return rule


def choose_scaling(
    headers: Sequence[Header],
    per_band: Sequence[tuple[Path | None, int]],
    stated: Reflectance | None,
) -> Scaling:
    """Choose the rule of each band: product metadata, then ``stated``, then tags, then defaults.

    Args:
        headers: of all files.
        per_band: (file, number from 1) of each band; file None: in every file of ``headers``.
        stated: what manifest or caller say; None or default scale and offset: nothing.

    Raises:
        GlacierError: metadata that cannot be used; tags that only some of the files have.
    """
    stated = stated or Reflectance()
    by_path = {header.path: header for header in headers}
    rules: list[Reflectance | None] = []
    first = None
    sources: list[str] = []
    warnings: list[str] = []
    for path, number in per_band:
        files = [by_path[path]] if path else headers
        name = gdal_name(files[0].path)
        product = _product(files[0]) if len(files) == 1 else None
        tagged = [header.tags(number) != (1, 0) for header in files]
        if product is not None:
            rules.append(_of_product(product, files[0].path, stated, warnings))
            sources.append(f"product metadata {product.path.name}")
        elif stated.is_stated or not any(tagged):
            rules.append(stated)
            sources.append("manifest" if stated.is_stated else "default")
            if any(tagged):
                tags = _tagged(*files[tagged.index(True)].tags(number), name)
                if (tags.scale, tags.offset) != (stated.scale, stated.offset):
                    warnings.append(
                        f"{name}: the file's tags say {tags.words}, `reflectance` says "
                        f"{stated.words}; those of `reflectance` are used"
                    )
        elif not all(tagged):
            bare, fine = files[tagged.index(False)], files[tagged.index(True)]
            raise GlacierError(
                f"{bare.path}: has no scale and offset tags while {fine.path.name} has some; state "
                "scale and offset in `reflectance`"
            )
        else:
            rules.append(None)
            sources.append("file tags")
            first = first or replace(_tagged(*files[0].tags(number), name), nodata=stated.nodata)
    warnings += _without_metadata(headers)
    return Scaling(
        tuple(rules),
        stated.nodata,
        ", ".join(dict.fromkeys(sources)),
        rules[0] or first or stated,
        tuple(dict.fromkeys(warnings)),
    )


def _product(header: Header) -> Product | None:
    """Return the product that a band file belongs to; a float file is made, not handed out."""
    if band_of(header.path) is None or np.dtype(header.dtype).kind not in "ui":
        return None
    metadata = find_metadata(header.path)
    return None if metadata is None else read_product(metadata)


def _of_product(
    product: Product, path: Path, stated: Reflectance, warnings: list[str]
) -> Reflectance:
    rule = Reflectance(product.scale, product.offset(band_of(path) or ""), product.nodata)
    if stated.is_stated and (stated.scale, stated.offset) != (rule.scale, rule.offset):
        warnings.append(
            f"{product.path}: the product says {rule.words}, `reflectance` says {stated.words}; "
            "the product's are used"
        )
    if rule.nodata is None:
        rule = replace(rule, nodata=stated.nodata)
    elif stated.nodata not in (None, rule.nodata):
        warnings.append(
            f"{product.path}: the product says nodata {rule.nodata:g}, `reflectance` says "
            f"{stated.nodata:g}; the product's is used"
        )
    if product.lacks_offsets:
        warnings.append(
            f"{product.path}: processing baseline {product.baseline} comes with an offset, usually "
            "-1000, but none is named; 0 is used"
        )
    return rule


def _without_metadata(headers: Sequence[Header]) -> list[str]:
    """Say so where a product has lost its metadata."""
    folders = {
        folder
        for header in headers
        for folder in header.path.parents
        if folder.suffix.upper() == ".SAFE" and find_metadata(header.path) is None
    }
    return [
        f"{folder}: has no MTD_MSIL2A.xml or MTD_MSIL1C.xml, so its offset is not known from the "
        "product; fetch that file too, or state `reflectance`"
        for folder in sorted(folders)
    ]


def _tagged(scale: float, offset: float, name: str) -> Reflectance:
    """Turn GDAL's tags, value = number x scale + offset, into a rule; 1 and 0 are no tags."""
    if (scale, offset) == (1, 0):
        return Reflectance()
    if not (math.isfinite(scale) and scale > 0 and math.isfinite(offset)):
        raise GlacierError(
            f"{name}: its tags say scale {scale:g} and offset {offset:g}, which make no "
            "reflectance; state scale and offset in `reflectance`"
        )
    # Tags are decimal fractions: 1 / 0.0001 is meant to be 10000.
    return Reflectance(float(f"{1 / scale:.12g}"), float(f"{offset / scale:.12g}"))
