"""What every part of the package agrees on: codes of labels, names of bands and surfaces, dates."""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import pandas as pd

from glacier_utils.errors import GlacierError

_LOG = logging.getLogger(__name__)

BANDS = ("red", "green", "blue", "nir")
"""The four 10 m bands of Sentinel-2, in the order of the arrays unless a dataset says otherwise."""

UNKNOWN = 255
"""Label of a pixel that nobody knows; left out of loss, statistics and scores."""

SURFACES: dict[int, str] = {
    1: "rock",
    2: "tundra",
    3: "gravel",
    4: "fjord",
    5: "lake",
    6: "meltwater lake",
    7: "bare ice",
    8: "snow on ice",
    9: "debris on ice",
    10: "seasonal snow",
    11: "floating ice",
    12: "river",
}
"""Codes of the surfaces, known for the synthetic sample."""

SYNTHETIC = "synthetic sample"
"""What stands on figures, maps and files of images that are made, not observed."""

NONE = "none"
"""Stands for a glacier_id where ground, or ice too small for a glacier, belongs to none."""

UNLISTED = "unlisted"
"""Start of the glacier_id of ice that the inventory does not list: unlisted-1 is the largest."""

DAYS_A_YEAR = 365.25

SMALLEST_GLACIER_KM2 = 0.01
"""The smallest glacier of an inventory (Paul et al. 2009, Annals of Glaciology 50(53), 119)."""

# When an image was taken, in the names of products (upper case, _ between): YYYYMMDD, or year and
# day of the year. The first that is found counts.
_SENSED = [
    re.compile(pattern)
    for pattern in (
        r"S2[A-D]_MSIL\d[A-C]_(\d{8})T",  # Sentinel-2 since December 2016
        r"S2[A-D]_(?:OPER|USER)_PRD_.*_V(\d{8})T",  # before
        r"(?<!\d)(\d{8})T\d{6}_\d{8}T\d{6}_T\d\d[A-Z]{3}",  # of Earth Engine
        r"(?<!R\d{3}_)T\d\d[A-Z]{3}_(\d{8})T",  # granules; in products, after R139_, processing
        r"S2[A-D]_\d{1,2}[A-Z]{3}_(\d{8})_",  # COGs of catalogues
        r"L[CEMOT]0\d_(?:[A-Z\d]{2,4}_)?\d{6}_(\d{8})",  # Landsat collections
        r"L[CEMOT]0\d{7}((?:19|20)\d{6})\d\d(?:T\d|RT)",  # the same of ESPA
        r"L[CEMOT]0?\d{7}((?:19|20)\d{5})(?!\d)",  # scenes before collections
        r"L[4-7][127]?\d{6}_\d{3}(\d{8})",  # scenes before those
        r"HLS_[LS]30_T\d\d[A-Z]{3}_(\d{7})T",
    )
]
# Digits that are no date of an image, whatever they look like.
_NOT_SENSED = re.compile(
    r"S2[A-D]_(?:OPER|USER)_.*|R\d{3}_T\d\d[A-Z]{3}_\d{8}|(?<![A-Z])(?:PROC|CREAT|EXPORT|DOWNLOAD|"
    r"UPLOAD|PUBLISH|MADE|TILE|ID|EPSG|PATCH|ROW|COL|ORBIT)[A-Z]*(?:_ON|_AT|_DATE)?_?\d+"
)
# Since the first Landsat.
_ANY_DATE = re.compile(r"(?<!\d)(19[789]\d|20\d\d)(_?)(\d\d)\2(\d\d)(?!\d)")


def date_in_name(paths: Sequence[Path], stated: str = "") -> str:
    """Return the day on which an image was taken, by the names of its files.

    That of the product (Sentinel-2, Landsat, HLS) that a file or a folder above it is named as;
    else the only date in the name of the file, or of its folder. Never that of a processing.

    Args:
        paths: of the image.
        stated: the date that a person says; it counts, and where the names tell another one, that
            is logged.

    Returns:
        YYYY-MM-DD, "" where no name tells, or not all the same; or ``stated``.

    Example:
        >>> date_in_name([Path("LC08_L2SP_002016_20230801_20230805_02_T1_SR_B4.TIF")])
        '2023-08-01'
    """
    found = {_sensed(path) for path in paths} - {""}
    named = found.pop() if len(found) == 1 else ""
    if stated and named and not named.startswith(stated):
        text = "%s: its name says %s, but the date given is %s; check --date"
        _LOG.warning(text, paths[0], named, stated)
    return stated or named


def _sensed(path: Path) -> str:
    names = [path.name, *(folder.name for folder in path.parents)]
    products = (date for name in names if (date := _product_date(name)) is not None)
    date = next(products, None)
    return next(filter(None, map(_lone_date, names[:2])), "") if date is None else date


@lru_cache(maxsize=4096)
def _product_date(name: str) -> str | None:
    """Return the date in the name of a product, "" if it is none, None for other names."""
    digits = (found[1] for form in _SENSED if (found := form.search(_upper(name))))
    return next(map(_day, digits), None)


@lru_cache(maxsize=4096)
def _lone_date(name: str) -> str:
    """Return the only date in a name, "" if there are none or several."""
    parts = _ANY_DATE.findall(_NOT_SENSED.sub("", _upper(name)))
    dates = {_day(year + month + day) for year, _, month, day in parts} - {""}
    return dates.pop() if len(dates) == 1 else ""


def _day(digits: str) -> str:
    """Return YYYY-MM-DD of year, month and day, or year and day of the year; "" if none yet."""
    try:
        day = datetime.datetime.strptime(digits, "%Y%j" if len(digits) == 7 else "%Y%m%d")
    except ValueError:
        return ""
    return day.date().isoformat() if day <= datetime.datetime.now() else ""


def _upper(name: str) -> str:
    return re.sub(r"[-. ]", "_", name.upper())


def image_day(date: str) -> pd.Timestamp:
    """Return the day of an image; of a month ("2023-08") its middle.

    Raises:
        GlacierError: ``date`` is neither YYYY-MM nor YYYY-MM-DD, or no day of an image.
    """
    try:
        form, days = {7: ("%Y-%m", 14), 10: ("%Y-%m-%d", 0)}[len(date)]
        day = pd.to_datetime(date, format=form)
    except (KeyError, ValueError, TypeError) as error:
        message = f"{date!r} is not a date; write it as 2023-08 or 2023-08-24"
        raise GlacierError(message) from error
    if day.year < 1970 or day > pd.Timestamp.now():
        raise GlacierError(f"{date!r} is before all satellites or still to come; mend the date")
    return day + pd.Timedelta(days=days)


def nearest_date(dates: Iterable[str], date: str) -> str:
    """Return the one of some dates that is nearest to a date; of two, the earlier.

    Example:
        >>> nearest_date(["2021-08", "2023-09-02"], "2023-08")
        '2023-09-02'
    """
    return min(sorted(dates), key=lambda one: abs(image_day(one) - image_day(date)))
