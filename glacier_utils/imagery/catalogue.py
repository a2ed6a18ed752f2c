"""Find Sentinel-2 images in a STAC catalogue: search, offset of each item, rank. Reads no pixels.

What a catalogue says is text by third parties: names are cut to a line of plain characters, only
addresses on the network are followed, and of an item nothing but footprint, time, cloud cover,
offset and five addresses goes any further.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import shapely
import shapely.geometry

from glacier_utils.conventions import BANDS
from glacier_utils.errors import GlacierError
from glacier_utils.outlines.reading import clean_text

ENDPOINT = "https://earth-search.aws.element84.com/v1"
COLLECTION = "sentinel-2-l2a"
MAX_CLOUD = 60.0
# What catalogues call the assets: Earth Search, then the names of the product.
ASSETS = {
    "red": ("red", "B04"),
    "green": ("green", "B03"),
    "blue": ("blue", "B02"),
    "nir": ("nir", "B08"),
    "scl": ("scl", "SCL"),
}
SCALE = 0.0001
OFFSET = -1000  # of products since processing baseline 04.00 (25 January 2022)
_RETRIES, _BACKOFF, _TIMEOUT = 3, 1, 60  # times, s, s
_MAX_ITEMS = 2000  # of one search: more than a month over any box that can be loaded
# A satellite is back over a place on its next orbit after 100 minutes; one pass takes a few.
_PASS = timedelta(minutes=30)
_LEAST_GAIN = 0.001  # of the box; below it, another item is not worth its download


class UnusableItemError(Exception):
    """Why an item cannot be used; a sentence without its name."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """An item that may be loaded.

    Attributes:
        name: its identifier.
        taken: when, in UTC.
        platform: the satellite.
        cloud: cover of the whole item in percent, None where the catalogue does not state it.
        baseline: the processing baseline, "" where it is not known.
        offset: reflectance = (number + offset) / 10000.
        offset_from: what says so.
        assets: band or "scl" -> web address.
        footprint: its part of the box, in the box's CRS.
        fraction: of the box that it covers, 0..1.
    """

    name: str
    taken: datetime
    platform: str
    cloud: float | None
    baseline: str
    offset: int
    offset_from: str
    assets: dict[str, str]
    footprint: shapely.Geometry
    fraction: float


@dataclass(frozen=True)
class Acquisition:
    """Items of one pass.

    Attributes:
        parts: the items in the order in which they fill the box.
        covered: fraction of the box that they cover, 0..1.
        clear: fraction of the box that is expected to be clear, 0..1.
    """

    parts: tuple[Candidate, ...]
    covered: float
    clear: float


def search(endpoint: str, collection: str, box: Sequence[float], date: str) -> list[dict[str, Any]]:
    """Return the items of a collection that touch a box on a date, as the catalogue words them.

    Cloud cover is not part of the question: not every catalogue can filter by it, and an answer
    that is empty because of it could not say by how much.

    Args:
        endpoint: address of a STAC API.
        collection: its identifier there.
        box: (west, south, east, north) in degrees.
        date: YYYY-MM or YYYY-MM-DD.

    Raises:
        GlacierError: the endpoint cannot be reached, answers with an error or with no STAC.
    """
    import pystac_client
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    where = public_address(endpoint)
    # A search changes nothing, so it may be sent again although it is a POST.
    retry = Retry(
        total=_RETRIES, backoff_factor=_BACKOFF, status_forcelist=[429, 502, 503, 504],
        allowed_methods=None, raise_on_status=False, respect_retry_after_header=False,
    )  # fmt: skip
    try:
        client = pystac_client.Client.open(
            endpoint, stac_io=StacApiIO(timeout=_TIMEOUT, max_retries=retry)
        )
        found = client.search(
            collections=[collection], bbox=list(box), datetime=date, limit=100, max_items=_MAX_ITEMS
        )
        return list(found.items_as_dicts())
    except Exception as error:
        # What the client raises where it is given anything but STAC is not for it to say.
        what = "is no STAC API that can be searched"
        if isinstance(error, APIError):
            status = getattr(error, "status_code", None)
            what = "cannot be reached" if status is None else f"answers with error {status}"
        raise GlacierError(
            f"{where}: {what} ({clean_text(error, 160)}); check the network, --endpoint and "
            "--collection, or try again later"
        ) from error


def candidates(
    items: Iterable[Any], box: shapely.Geometry, crs: Any
) -> tuple[list[Candidate], list[str]]:
    """Return the items that can be used, and a sentence for each that cannot.

    Args:
        items: as ``search`` returns them.
        box: in ``crs``; an item that does not touch it is dropped without a word.
        crs: projected.
    """
    good, left_out = [], []
    for item in items:
        name = (
            clean_text(item.get("id") if isinstance(item, dict) else None) or "an item without id"
        )
        try:
            candidate = _candidate(name, item, box, crs)
        except UnusableItemError as reason:
            left_out.append(f"{name} left out: {reason}")
        else:
            if candidate is not None:
                good.append(candidate)
    return good, left_out


def rank(found: Sequence[Candidate], box: shapely.Geometry) -> list[Acquisition]:
    """Return the acquisitions, the one that promises the most clear ground in the box first.

    An acquisition is what one satellite took in one pass; passes are never mixed, since snow, sun
    and haze differ between them. Its items fill the box one after the other, each time the one that
    adds most; the measure of both is

        clear = sum over its items of (fraction of the box that it adds) x (1 - cloud / 100)

    so an item that covers the box alone is taken alone. Cloud cover is that of the whole item, and
    100 % where the catalogue does not state it. Ties go to the earlier pass, and in a pass to the
    later processing baseline.

    Args:
        found: items that touch the box.
        box: in the CRS of their footprints.
    """
    passes: list[list[Candidate]] = []
    for candidate in sorted(found, key=lambda one: (one.platform, one.taken, one.name)):
        last = passes[-1] if passes else None
        if last and last[0].platform == candidate.platform and (
            candidate.taken - last[0].taken <= _PASS
        ):  # fmt: skip
            last.append(candidate)
        else:
            passes.append([candidate])
    ranked = [_fill(one, box) for one in passes]
    return sorted(
        (one for one in ranked if one.parts),
        key=lambda one: (-round(one.clear, 6), one.parts[0].taken, one.parts[0].name),
    )


def _fill(found: Sequence[Candidate], box: shapely.Geometry) -> Acquisition:
    parts: list[Candidate] = []
    left, clear = box, 0.0
    rest = sorted(found, key=lambda one: one.name)
    while rest:
        gains = [shapely.intersection(left, one.footprint).area / box.area for one in rest]
        best = max(
            range(len(rest)),
            key=lambda i: (round(gains[i] * _clear(rest[i]), 6), gains[i], rest[i].baseline),
        )
        if gains[best] < _LEAST_GAIN:
            break
        clear += gains[best] * _clear(rest[best])
        left = shapely.difference(left, rest[best].footprint)
        parts.append(rest.pop(best))
    return Acquisition(tuple(parts), 1 - left.area / box.area, clear)


def _clear(candidate: Candidate) -> float:
    return 0.0 if candidate.cloud is None else 1 - candidate.cloud / 100


def known_offset(item: dict[str, Any], assets: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """Return what must be added to an item's stored numbers, and what says so.

    In this order: products before processing baseline 04.00 have no offset. The property
    ``earthsearch:boa_offset_applied`` counts before ``raster:offset``, which Earth Search leaves at
    -0.1 where it has applied the offset already (Element84/earth-search, issue 9). Then
    ``raster:offset``, divided by the scale. Then the baseline alone.

    Args:
        item: with its ``properties``.
        assets: those of the bands.

    Raises:
        UnusableItemError: nothing tells, or the bands have different offsets or another scale than
            0.0001.
    """
    properties = item["properties"]
    text, baseline = _baseline(properties)
    stated = _stated_offset(assets)
    applied = properties.get("earthsearch:boa_offset_applied")
    if baseline is not None and baseline < 4:
        return 0, f"processing baseline {text}, which has no offset"
    if applied is True:
        return 0, "earthsearch:boa_offset_applied is true"
    if applied is False and baseline is not None:
        return OFFSET, f"earthsearch:boa_offset_applied is false, processing baseline {text}"
    if stated is not None:
        return stated, "raster:offset of the assets"
    if baseline is not None:
        return OFFSET, f"processing baseline {text}, and no word of an offset already applied"
    raise UnusableItemError(
        "neither its processing baseline nor raster:offset tells whether its numbers hold an offset"
    )


def _baseline(properties: dict[str, Any]) -> tuple[str, int | None]:
    for key in ("s2:processing_baseline", "processing:version"):
        found = re.fullmatch(r"(\d{1,2})\.\d{1,2}", str(properties.get(key, "")))
        if found:
            return found[0], int(found[1])
    return "", None


def _stated_offset(assets: Sequence[dict[str, Any]]) -> int | None:
    """Return the offset that all assets state, in stored numbers; None where none does."""
    offsets = set()
    for asset in assets:
        # STAC 1.0 with the raster extension 1, STAC 1.1 per band, STAC 1.1 per asset.
        old, new = _first(asset.get("raster:bands")), _first(asset.get("bands"))
        values = [
            old.get(key, new.get(f"raster:{key}", asset.get(f"raster:{key}")))
            for key in ("scale", "offset")
        ]
        scale, offset = (value if _is_number(value) else None for value in values)
        if scale is not None and not math.isclose(scale, SCALE, rel_tol=1e-6):
            raise UnusableItemError(f"its scale is {scale:g}, not {SCALE:g} as of Sentinel-2")
        offsets.add(None if offset is None else round(offset / SCALE))
    if len(offsets) > 1:
        raise UnusableItemError(f"its bands state different offsets ({sorted(map(str, offsets))})")
    offset = offsets.pop()
    if offset is not None and abs(offset) > 10000:
        raise UnusableItemError(f"it states an offset of {offset}, which cannot be")
    return offset


def _first(value: Any) -> dict[str, Any]:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _candidate(name: str, item: Any, box: shapely.Geometry, crs: Any) -> Candidate | None:
    if not isinstance(item, dict) or not isinstance(item.get("properties"), dict):
        raise UnusableItemError("it is no STAC item")
    properties = item["properties"]
    footprint = _footprint(item.get("geometry"), box, crs)
    if footprint.area < _LEAST_GAIN * box.area:
        return None
    assets = _assets(item.get("assets"))
    offset, offset_from = known_offset(item, [assets[band] for band in BANDS])
    taken = pd.to_datetime(properties.get("datetime"), errors="coerce", utc=True)
    if not isinstance(taken, pd.Timestamp):
        raise UnusableItemError("it has no date")
    cloud = properties.get("eo:cloud_cover")
    return Candidate(
        name=name,
        taken=taken.to_pydatetime().astimezone(UTC),
        platform=clean_text(properties.get("platform")),
        cloud=float(cloud) if _is_number(cloud) and 0 <= cloud <= 100 else None,
        baseline=_baseline(properties)[0],
        offset=offset,
        offset_from=offset_from,
        assets={key: asset["href"] for key, asset in assets.items()},
        footprint=footprint,
        fraction=footprint.area / box.area,
    )


def _footprint(geometry: Any, box: shapely.Geometry, crs: Any) -> shapely.Geometry:
    """Return the part of the box that an item covers, in the box's CRS."""
    import geopandas as gpd

    try:
        shape = shapely.make_valid(shapely.geometry.shape(geometry))
    except Exception as error:  # whatever shapely raises for what is no geometry
        raise UnusableItemError("its footprint cannot be read") from error
    # Straight in degrees is bent in metres; the edge of a tile is followed every few km.
    shape = shapely.segmentize(shape, 0.05)
    there = gpd.GeoSeries([shape], crs="EPSG:4326").to_crs(crs).iloc[0]
    if there.is_empty or not all(map(math.isfinite, there.bounds)):
        raise UnusableItemError("its footprint cannot be laid on the box")
    return shapely.intersection(shapely.make_valid(there), box)


def _assets(content: Any) -> dict[str, dict[str, Any]]:
    content = content if isinstance(content, dict) else {}
    assets = {}
    for key, names in ASSETS.items():
        asset = next((content[name] for name in names if name in content), None)
        if not isinstance(asset, dict) or not isinstance(asset.get("href"), str):
            raise UnusableItemError(f"it has no asset {key!r}")
        # A catalogue must not point at files of this machine.
        if not is_web_address(asset["href"]):
            raise UnusableItemError(
                f"its asset {key!r} is at {clean_text(asset['href'])!r}, no address on the network"
            )
        assets[key] = asset
    return assets


def is_web_address(text: str) -> bool:
    """Say whether text is an http or https address."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def public_address(address: str) -> str:
    """Return a web address without user name, password and signature."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host, query="", fragment="").geturl()
