"""What every part of the package agrees on: codes of labels, names of bands and surfaces, dates."""

from __future__ import annotations

import pandas as pd

from glacier_utils.errors import GlacierError

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
}
"""Codes of the surfaces, known for the synthetic sample."""

NONE = "none"
"""Stands for a glacier_id where ground, or ice too small for a glacier, belongs to none."""

UNLISTED = "unlisted"
"""Start of the glacier_id of ice that the inventory does not list: unlisted-1 is the largest."""

DAYS_A_YEAR = 365.25

SMALLEST_GLACIER_KM2 = 0.01
"""The smallest glacier of an inventory (Paul et al. 2009, Annals of Glaciology 50(53), 119)."""


def image_day(date: str) -> pd.Timestamp:
    """Return the day of an image; of a month ("2023-08") its middle.

    Raises:
        GlacierError: ``date`` is neither YYYY-MM nor YYYY-MM-DD.
    """
    for form, days in (("%Y-%m-%d", 0), ("%Y-%m", 14)):
        try:
            if len(date) == {0: 10, 14: 7}[days]:
                return pd.to_datetime(date, format=form) + pd.Timedelta(days=days)
        except (ValueError, TypeError):
            continue
    raise GlacierError(f"{date!r} is not a date; write it as 2023-08 or 2023-08-24")
