"""Do the values bear out the radiometric offset that is claimed for them?

Sentinel-2 products since processing baseline 04.00 (25 January 2022) are stored with 1000 added,
reflectance = (number - 1000) / 10000; older ones and many catalogues' copies are not. Metadata may
be lost, wrong, or true of the file before somebody changed it. Dark water and deep shadow tell:
their reflectance in the near infrared is next to nothing, whoever claims what.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import Source
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import open_raster

CANDIDATES = (0.0, -1000.0, 1000.0)  # per scale of 10000; the last where 1000 was taken off twice
_SCALES = (10000.0, 1.0)  # of numbers that can come from a Sentinel-2 product
_SIDE = 256  # px, of the windows

# The limits below were set on nuuk (water, no offset), the two dates of athabasca (shadows that
# were corrected too far, down to -0.06 in red and near infrared) and surfaces measured on glaciers.
# Percent of pixels that make "the darkest": enough that no defect of a few pixels counts.
_DARK_PERCENT = 1
# The darkest pixels of a scene with water or shadow, where the offset is right.
_DARK = (-0.05, 0.05)
# No surface is as dark as that; up to this share may be corrected too far.
_IMPOSSIBLE, _IMPOSSIBLE_SHARE = -0.07, 0.002
# Water and shadow at their own floor in all bands: not below 0, not bright, and many alike. The
# darkest of bare ice or rock thin out: nir of bare ice 0.03 from its 0.05th to its 2nd percentile.
_FLOOR = (-0.02, 0.10)
_SHARP_PERCENT, _SHARP = (0.05, 2), 0.02
# From the 1st to the 99th percentile: 8-bit numbers taken for reflectance x 10000 span 0.025.
_SPREAD = (0.03, 3.0)
# So many pixels with exactly the greatest number are saturated, not bright.
_SATURATED_SHARE = 0.005


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


def check_offset(
    source: Source, *, claimed: Reflectance | None = None, limit: int = 36
) -> OffsetFinding:
    """Compare the values of an image with the offset claimed for it.

    Args:
        source: the image, on its own grid: warping evens out the darkest values.
        claimed: the rule that ``source`` applies; by default what it says of itself.
        limit: number of windows of 256 x 256 px to read, spread over the frame.
    """
    claimed = claimed or _claimed(source)
    name = f"{source.paths[0]}: " if source.paths else ""
    unit = claimed.scale / 10000

    def finding(ok: bool | None, fits: float | None, text: str) -> OffsetFinding:
        return OffsetFinding(ok, claimed.offset, fits, name + text)

    if claimed.scale not in _SCALES:
        return finding(
            None, None, f"offset {claimed.offset:g} cannot be judged: with a scale of "
            f"{claimed.scale:g} these are not the numbers of a Sentinel-2 product"
        )  # fmt: skip
    values = _sample(source, limit)
    if values.shape[1] < 1000:
        return finding(
            None, None, f"offset {claimed.offset:g} cannot be judged on {values.shape[1]} valid "
            "pixels"
        )  # fmt: skip
    spread = float(np.ptp(np.percentile(values, (1, 99))))
    if not _SPREAD[0] < spread < _SPREAD[1]:
        return finding(
            None, None, f"offset {claimed.offset:g} cannot be judged: the reflectances span "
            f"{spread:.2g}, too little or too much to know that `scale` is right"
        )  # fmt: skip

    # What shift of reflectance each other offset means.
    shifts = {
        offset * unit: (offset * unit - claimed.offset) / claimed.scale
        for offset in CANDIDATES
        if offset * unit != claimed.offset
    }
    seen = _Dark.of(values, source.bands)
    tail = _saturation(values)
    if seen.impossible > _IMPOSSIBLE_SHARE or seen.level < _DARK[0]:
        fits = next((o for o, s in shifts.items() if _DARK[0] <= seen.level + s <= _DARK[1]), None)
        return finding(
            False, fits, f"the values contradict offset {claimed.offset:g}{_stated_by(source)}: "
            f"{seen.impossible:.1%} of the pixels would be darker than {_IMPOSSIBLE:g} in "
            f"{seen.band}; {_remedy(fits)}{tail}"
        )  # fmt: skip
    if seen.level <= _DARK[1]:
        return finding(
            True, claimed.offset, f"offset {claimed.offset:g} fits: the darkest "
            f"{_DARK_PERCENT} % of the pixels reach {seen.level:.2f} in {seen.band}{tail}"
        )  # fmt: skip
    fits = next((o for o, s in shifts.items() if seen.is_floor(s)), None)
    if fits is not None:
        return finding(
            False, fits, f"the values contradict offset {claimed.offset:g}{_stated_by(source)}: "
            f"many pixels are equally dark, but at {seen.level:.2f} in {seen.band} and at "
            f"{seen.levels.max():.2f} or below in all bands, which for water and shadow is too "
            f"bright; {_remedy(fits)}{tail}"
        )  # fmt: skip
    fits = _by_saturation(values, shifts)
    if fits is not None:
        return finding(
            False, fits, f"the values contradict offset {claimed.offset:g}{_stated_by(source)}: "
            f"they are cut off at {values.max():.2f} instead of 1; {_remedy(fits)}{tail}"
        )  # fmt: skip
    return finding(
        None, None, f"offset {claimed.offset:g} cannot be judged: no dark water or shadow (the "
        f"darkest {_DARK_PERCENT} % reach {seen.level:.2f} in {seen.band}){tail}"
    )  # fmt: skip


@dataclass(frozen=True)
class _Dark:
    """The dark end of the values, in reflectance as claimed.

    Blue, lit by haze and corrected too far the most, is asked only whether it is dark at all.
    """

    band: str
    level: float
    levels: np.ndarray
    spread: float
    impossible: float

    @classmethod
    def of(cls, values: np.ndarray, bands: tuple[str, ...]) -> _Dark:
        """Look at reflectance [band, pixel]."""
        levels = np.percentile(values, _DARK_PERCENT, axis=1)
        asked = [n for n, band in enumerate(bands) if band != "blue"] or list(range(len(bands)))
        darkest = min(asked, key=lambda n: levels[n])
        low, high = np.percentile(values[darkest], _SHARP_PERCENT)
        impossible = float((values[asked] < _IMPOSSIBLE).any(axis=0).mean())
        return cls(bands[darkest], float(levels[darkest]), levels, float(high - low), impossible)

    def is_floor(self, shift: float) -> bool:
        """Say whether, shifted, this is the floor of water or shadow."""
        levels = self.levels + shift
        return (
            self.spread <= _SHARP
            and self.level + shift <= _DARK[1]
            and levels.min() >= _FLOOR[0]
            and levels.max() <= _FLOOR[1]
        )


def _claimed(source: Source) -> Reflectance:
    """Return the rule of the first band; the default where nobody knows."""
    scaling = getattr(source, "_scaling", None)
    if scaling is None:
        return getattr(source, "reflectance", None) or Reflectance()
    if scaling.per_band[0] is not None:
        return scaling.per_band[0]
    with open_raster(source.paths[0]) as dataset:
        return scaling.of(0, dataset, source._per_band[0][1])


def _stated_by(source: Source) -> str:
    by = getattr(source, "reflectance_source", "")
    return "" if by in ("", "default", "manifest") else f" ({by})"


def _remedy(fits: float | None) -> str:
    if fits is None:
        return "no known offset fits; check `scale`, `offset` and `nodata` in `reflectance`"
    why = {
        0: "a product from before 2022, or applied already",
        -1: "a product since January 2022",
        1: "1000 was taken off twice",
    }
    return f"offset {fits:g} fits ({why[int(np.sign(fits))]}): state it in `reflectance`"


def _saturation(values: np.ndarray) -> str:
    top = values.max(axis=1, keepdims=True)
    share = float((values == top).any(axis=0).mean())
    return f"; {share:.1%} of the pixels are saturated" if share > _SATURATED_SHARE else ""


def _by_saturation(values: np.ndarray, shifts: dict[float, float]) -> float | None:
    """Return the offset with which values that are all cut off at one number were cut at 1."""
    top = float(values.max())
    if (values == top).any(axis=0).mean() <= _SATURATED_SHARE or abs(top - 1) < 1e-3:
        return None
    return next((o for o, shift in shifts.items() if abs(top + shift - 1) < 1e-3), None)


def _sample(source: Source, limit: int) -> np.ndarray:
    """Return the valid reflectance [band, pixel] of windows spread over the frame."""
    found = []
    for window in _windows(source.grid, limit):
        image = source.read(*window)
        found.append(image.reflectance[:, image.valid])
    return np.concatenate(found, axis=1)


def _windows(grid: Grid, limit: int) -> Iterator[tuple[int, int, int, int]]:
    rows, cols = range(0, grid.height, _SIDE), range(0, grid.width, _SIDE)
    corners = [(row, col) for row in rows for col in cols]
    if len(corners) > limit:
        # Spread both ways, and never across the blocks of 512 or 1024 px that files decode whole.
        down = min(len(rows), max(1, round((limit * len(rows) / len(cols)) ** 0.5)))
        across = min(len(cols), max(1, limit // down))
        rows, cols = (
            [line[round(place)] for place in np.linspace(0, len(line) - 1, count)]
            for line, count in ((rows, down), (cols, across))
        )
        corners = [(row, col) for row in rows for col in cols]
    for row, col in corners:
        yield row, col, min(_SIDE, grid.height - row), min(_SIDE, grid.width - col)
