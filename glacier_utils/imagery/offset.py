"""Do the values bear out the radiometric offset that is claimed for them?

Sentinel-2 products since processing baseline 04.00 (25 January 2022) are stored with 1000 added,
reflectance = (number - 1000) / 10000; older ones and many catalogues' copies are not. Metadata may
be lost, wrong, or true of the file before somebody changed it. Dark water and deep shadow show it:
their reflectance in the near infrared is next to nothing, whoever claims what.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import Source

CANDIDATES = (0.0, -1000.0, 1000.0)  # per scale of 10000; the last where 1000 was taken off twice
_SCALES = (10000.0, 1.0)  # of numbers that can come from a Sentinel-2 product
_SIDE, _WINDOWS = 256, 36  # px and number of the windows that are read

# The limits below were set on nuuk (water, no offset), the two dates of athabasca (shadows that
# were corrected too far, down to -0.06 in red and near infrared) and surfaces measured on glaciers.
# Percent of pixels that make "the darkest": enough that no defect of a few pixels counts.
_DARK_PERCENT = 1
# The darkest pixels of a scene with water or shadow, where the offset is right.
_DARK = (-0.05, 0.05)
# No surface is as dark as that; up to this fraction may be corrected too far.
_IMPOSSIBLE, _IMPOSSIBLE_FRACTION = -0.07, 0.002
# Water and shadow at their own floor in all bands: not below 0, not bright, and many alike. The
# darkest of bare ice or rock thin out: nir of bare ice 0.03 from its 0.05th to its 2nd percentile.
_FLOOR = (-0.02, 0.10)
_SHARP_PERCENT, _SHARP = (0.05, 2), 0.02
# From the 1st to the 99th percentile: 8-bit numbers taken for reflectance x 10000 span 0.025.
_SPREAD = (0.03, 3.0)
# So many pixels with exactly the greatest number are saturated, not bright.
_SATURATED = 0.005


@dataclass(frozen=True)
class OffsetFinding:
    """What the values say of a claimed offset.

    Attributes:
        ok: True if the values agree with it, as they may with a wrong one where a scene has neither
            water nor shadow; False if they contradict it; None if they cannot tell.
        claimed: the offset in numbers as stored.
        fits: the offset that fits, None if none of those tried does or the values cannot tell.
        message: one line.
    """

    ok: bool | None
    claimed: float
    fits: float | None
    message: str


def check_offset(source: Source) -> OffsetFinding:
    """Compare the values of an image with the offset claimed for it (``source.reflectance``).

    Reads at most 36 windows of 256 x 256 px, spread over the frame.

    Args:
        source: the image, on its own grid: warping evens out the darkest values.
    """
    claimed = source.reflectance or Reflectance()
    name = f"{source.paths[0]}: " if source.paths else ""

    def undecided(why: str) -> OffsetFinding:
        text = f"{name}offset {claimed.offset:g} cannot be judged{why}"
        return OffsetFinding(None, claimed.offset, None, text)

    if claimed.scale not in _SCALES:
        return undecided(
            f": with a scale of {claimed.scale:g} these are not the numbers of a Sentinel-2 product"
        )
    values = _sample(source)
    if values.shape[1] < 1000:
        return undecided(f" on {values.shape[1]} valid pixels")
    spread = float(np.ptp(np.percentile(values, (1, 99))))
    if not _SPREAD[0] < spread < _SPREAD[1]:
        return undecided(
            f": the reflectances span {spread:.2g}, too little or too much to know that `scale` is "
            "right"
        )

    # What shift of reflectance each other offset means.
    offsets = [offset * claimed.scale / 10000 for offset in CANDIDATES]
    shifts = {o: (o - claimed.offset) / claimed.scale for o in offsets if o != claimed.offset}
    # Blue, lit by haze and corrected too far the most, is asked only whether it is dark at all.
    asked = [n for n, band in enumerate(source.bands) if band != "blue"] or [0]
    levels = np.percentile(values, _DARK_PERCENT, axis=1)
    darkest = min(asked, key=lambda n: levels[n])
    band, level = source.bands[darkest], float(levels[darkest])
    impossible = float((values[asked] < _IMPOSSIBLE).any(axis=0).mean())
    saturated = float((values == values.max(axis=1, keepdims=True)).any(axis=0).mean())
    tail = f"; {saturated:.1%} of the pixels are saturated" if saturated > _SATURATED else ""

    def contradicted(fits: float | None, why: str) -> OffsetFinding:
        by = source.reflectance_source
        by = "" if by in ("", "default", "manifest") else f" ({by})"
        text = f"{name}the values contradict offset {claimed.offset:g}{by}: {why}; {_remedy(fits)}"
        return OffsetFinding(False, claimed.offset, fits, text + tail)

    if impossible > _IMPOSSIBLE_FRACTION or level < _DARK[0]:
        fits = next((o for o, s in shifts.items() if _DARK[0] <= level + s <= _DARK[1]), None)
        return contradicted(
            fits,
            f"{impossible:.1%} of the pixels would be darker than {_IMPOSSIBLE:g} in {band}",
        )
    if level <= _DARK[1]:
        text = (
            f"{name}offset {claimed.offset:g} fits: the darkest {_DARK_PERCENT} % of the pixels "
            f"reach {level:.2f} in {band}{tail}"
        )
        return OffsetFinding(True, claimed.offset, claimed.offset, text)
    low, high = np.percentile(values[darkest], _SHARP_PERCENT)
    if high - low <= _SHARP:
        for fits, shift in shifts.items():
            floor = level + shift <= _DARK[1] and _FLOOR[0] <= levels.min() + shift
            if floor and levels.max() + shift <= _FLOOR[1]:
                return contradicted(
                    fits,
                    f"many pixels are equally dark, but at {level:.2f} in {band} and at "
                    f"{levels.max():.2f} or below in all bands, which for water and shadow is too "
                    "bright",
                )
    # Values that are all cut off at one number were cut off at 1.
    top = float(values.max())
    if (values == top).any(axis=0).mean() > _SATURATED and abs(top - 1) >= 1e-3:
        fits = next((o for o, shift in shifts.items() if abs(top + shift - 1) < 1e-3), None)
        if fits is not None:
            return contradicted(fits, f"they are cut off at {top:.2f} instead of 1")
    return undecided(
        f": no dark water or shadow (the darkest {_DARK_PERCENT} % reach {level:.2f} in {band})"
        f"{tail}"
    )


def _remedy(fits: float | None) -> str:
    if fits is None:
        return "no known offset fits; check `scale`, `offset` and `nodata` in `reflectance`"
    why = {
        0: "a product from before 2022, or applied already",
        -1: "a product since January 2022",
        1: "1000 was taken off twice",
    }
    return f"offset {fits:g} fits ({why[int(np.sign(fits))]}): state it in `reflectance`"


def _sample(source: Source) -> np.ndarray:
    """Return the valid reflectance [band, pixel] of windows spread over the frame."""
    height, width = source.grid.shape
    rows, cols = range(0, height, _SIDE), range(0, width, _SIDE)
    # Spread both ways, and never across the blocks of 512 or 1024 px that files decode whole.
    down = min(len(rows), max(1, round((_WINDOWS * len(rows) / len(cols)) ** 0.5)))
    across = min(len(cols), max(1, _WINDOWS // down))
    found = []
    for row in (rows[round(place)] for place in np.linspace(0, len(rows) - 1, down)):
        for col in (cols[round(place)] for place in np.linspace(0, len(cols) - 1, across)):
            image = source.read(row, col, min(_SIDE, height - row), min(_SIDE, width - col))
            found.append(image.reflectance[:, image.valid])
    return np.concatenate(found, axis=1)
