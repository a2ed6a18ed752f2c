"""Can the values of an image be reflectance, and such as a model was trained on?

The one examination that ``glacier check``, training and prediction share (``examine``). Scale and
offset are what goes wrong most. Sentinel-2 products since processing baseline 04.00 (25 January
2022) are stored with 1000 added, reflectance = (number - 1000) / 10000; older ones and many
catalogues' copies are not. Metadata may be lost, wrong, or true of the file before somebody changed
it. Dark water and deep shadow show it (``check_offset``): their reflectance in the near infrared is
next to nothing, whoever claims what.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from glacier_utils.conventions import BANDS
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.naming import REMEDY
from glacier_utils.imagery.reflectance import Reflectance
from glacier_utils.imagery.source import Source
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import crs_name

ERROR, WARNING = "error", "warning"

CANDIDATES = (0.0, -1000.0, 1000.0, -2000.0)  # per scale of 10000; 1000 taken off or added twice
_SCALES = (10000.0, 1.0)  # of numbers that can come from a Sentinel-2 product
# Frames so many times as large as their patches: windows are laid on patches; a word is due.
SPARSE, _NEARLY_EMPTY = 4, 100
_LARGEST = 10**9  # px of a nearly empty frame that is mapped
_SIDE, _WINDOWS = 256, 36  # px and number of the windows that are read
_ENOUGH = 1_000_000  # pixels

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
# So many pixels with exactly the greatest number are saturated, not bright; so many of 0 in all
# bands are missing, not in a shadow that was cut off there.
_SATURATED, _BLANK = 0.005, 0.005
# Rock, soil and plants: brighter in the near infrared than in all visible bands, not too dark. Red
# is darker than blue on 3 % of such ground at nuuk, 0.1 % at athabasca, 3 % of surface_spectra.
_GROUND, _ENOUGH_GROUND, _MOST_GROUND = 0.2, 0.01, 0.8
# So many pixels darker than any surface are more than shadow that was corrected too far.
_MANY_DARK = 0.02

# Reflectances beyond these are no measurement: Sentinel-2's offset alone reaches down to -0.1, and
# a slope of fresh snow that faces the sun up to 1.5 or so. Some are to be looked at, many are not
# of this scale.
_LOWEST, _HIGHEST = -0.15, 2.0
_SOME, _MANY = 0.001, 0.05
# The middle of the values lies in here even in deep shadow and on sunlit snow.
_MIDDLE = (-0.05, 1.5)
# Values of all bands up to here: nothing at all, or clear water or numbers of another scale.
_NOTHING, _DIM = 0.005, 0.03
# 8-bit numbers: the range of a band that is more than the noise of water, and a bright band.
_RANGE_8_BITS, _BRIGHT_8_BITS = 40, 128
# Scales and offsets that people's numbers have: Sentinel-2, reflectance as it is, per cent, 8 bits,
# Landsat Collection 2.
_KNOWN = (
    (10000, -1000), (10000, 0), (1, 0), (100, 0), (255, 0), (36363.6, -7272.7),
)  # fmt: skip
_GLACIERS = (0.35, 0.25)  # mean and std of each band where no training tells them
_ALIKE = 1.5  # misfit of mean and std to which values are like those of the training
_FAR = 3.0  # std from the mean of the training
OTHER_RESOLUTION = 1.2
# The brightest of a band over those of the others, where something is lit; pixels that tell it.
_UNLIKE_BANDS, _LIT, _ENOUGH_ALIKE = 5, 0.15, 1000


@dataclass(frozen=True)
class Finding:
    """What an examination found: severity ("error" or "warning") and a line."""

    severity: str
    message: str


@dataclass(frozen=True)
class Trained:
    """The reflectance that a model was trained on.

    Attributes:
        bands: names in order.
        mean: [band].
        std: [band].
        resolution: of its images in m, nan where nobody knows.
    """

    bands: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    resolution: float = math.nan


@dataclass(frozen=True)
class OffsetFinding:
    """What the values say of a claimed offset.

    Attributes:
        ok: True if the values agree with it, as they may with a wrong one where a scene has neither
            water nor shadow; False if they contradict it; None if they cannot tell.
        claimed: the offset in numbers as stored.
        fits: the offset that fits, None if none of those tried does or the values cannot tell.
        message: one line.
        too_dark: fraction of the pixels that would be darker than any surface.
    """

    ok: bool | None
    claimed: float
    fits: float | None
    message: str
    too_dark: float = 0.0


def examine(
    source: Source, *, trained: Trained | None = None, stated: Collection[str] = ()
) -> list[Finding]:
    """Look at the values of an image, in at most 36 windows of 256 x 256 px, and at its place.

    Errors are where a map or a training would be wrong. An offset in the metadata of a product, or
    that a manifest tells, is warned of only; so is all that the user has stated for this scene.

    Args:
        source: the image, on its own grid: warping evens out the darkest values.
        trained: for a prediction, what the values are held against.
        stated: which of "scale", "offset" and "nodata" the user has stated for this very scene.
    """
    values, whole = sample_values(source)
    name = f"{source.paths[0]}: " if source.paths else ""
    found = [Finding(WARNING, line) for line in source.warnings]
    found += [Finding(WARNING, name + line) for line in _examine_place(source.grid, trained)]
    found += _examine_frame(source, trained)
    if any("MSIL1C" in name for name in (source.reflectance_source, *map(str, source.paths))):
        text = (
            "a Level-1C product, with reflectance at the top of the atmosphere; take Level-2A, or "
            "train and map with Level-1C alone"
        )
        found.append(Finding(WARNING, name + text))
    if not values.size:
        key = "`nodata` in `reflectance`" if trained is None else "--nodata"
        text = f"{name}no valid pixel; check {key} and the files"
        return [*found, Finding(ERROR if whole else WARNING, text)]
    rule = source.reflectance
    # Images that are no numbers in files have no scale or offset that could be mended.
    excused = rule is None or {"scale", "offset"} <= set(stated)
    # Exports of masked pixels: 0 in all bands, which no tag marks.
    zero = math.nan if rule is None else np.float32(rule.offset) / np.float32(rule.scale)
    blank = (values == zero).all(axis=0)
    if rule is not None and _BLANK < blank.mean() < 1:
        mend = "set `nodata: 0` in `reflectance`" if trained is None else "give --nodata 0"
        text = f"{name}{blank.mean():.1%} of the pixels hold 0 in all bands and count as measured; "
        how = ERROR if not rule.can_be(0) and "nodata" not in stated else WARNING
        found.append(Finding(how, f"{text}if they mark missing pixels, {mend}"))
        if how == ERROR:
            return found
        values = values[:, ~blank]
    if rule is not None:  # numbers of files
        found += _examine_bands(source.bands, values, name, excused)
    wrong = _examine_scale(source, values, rule or Reflectance(1), trained, stated)
    if wrong is not None:
        found.append(Finding(WARNING if excused else wrong.severity, name + wrong.message))
        if wrong.severity == ERROR:
            return found
    found += [Finding(WARNING, name + line) for line in _examine_order(source.bands, values)]
    offset = check_offset(source, values)
    inherited = source.reflectance_source == "training" and "offset" not in stated
    if offset.ok is None and inherited and rule is not None and rule.scale == _SCALES[0]:
        text = (
            f"{offset.message}, and the file does not state it: that of the training is taken; give"
            " `--offset 0` for products from before 2022 or harmonised ones, else `--offset -1000`"
        )
        found.append(Finding(WARNING, text))
    if offset.ok is False:
        excused |= "offset" in stated or source.reflectance_source.startswith("product")
        sure = trained is not None and offset.fits is not None and offset.too_dark > _MANY_DARK
        text = offset.message
        if trained is not None and offset.fits is not None:
            text = text.replace("state it in `reflectance`", f"give --offset {offset.fits:g}")
        found.append(Finding(ERROR if sure and not excused else WARNING, text))
    return found


def heed(findings: Sequence[Finding]) -> list[str]:
    """Log the warnings among findings and return them.

    Raises:
        GlacierError: the first error among them.
    """
    for finding in findings:
        if finding.severity == ERROR:
            raise GlacierError(finding.message)
    for finding in findings:
        logging.getLogger(__name__).warning(finding.message)
    return [finding.message for finding in findings]


def emptiness(source: Source) -> float:
    """Return how many times as large as the files of an image its frame is; 1 for scenes."""
    covered = sum(height * width for _, _, height, width in getattr(source, "tiles", ()))
    return source.grid.height * source.grid.width / covered if covered else 1.0


def _examine_frame(source: Source, trained: Trained | None) -> list[Finding]:
    """Say where patches lie so far apart that their frame is nearly empty."""
    if emptiness(source) < _NEARLY_EMPTY:
        return []
    corners = np.array([tile[:2] for tile in source.tiles])
    away = np.hypot(*(corners - np.median(corners, axis=0)).T)
    path = getattr(source, "placed", source.paths)[int(away.argmax())]
    # Patches train wherever they lie; maps are made of whole frames.
    large = trained is not None and source.grid.height * source.grid.width > _LARGEST
    text = (
        f"{getattr(path, 'path', path)}: lies {away.max():.0f} px off the other patches, which "
        "makes a frame that is nearly empty, and maps as large; if its georeference is wrong, mend "
        "it, else make what lies apart separate areas or scenes"
    )
    return [Finding(ERROR if large else WARNING, text)]


def _examine_place(grid: Grid, trained: Trained | None) -> list[str]:
    """Say what areas and lengths on this grid are worth, and what a map of it will lack."""
    lines: list[str] = []
    if distorted := grid.distortion():
        lines.append(
            f"its CRS ({crs_name(grid)}) is not true to scale: {distorted}; best warp it to UTM "
            "(gdalwarp -t_srs)"
        )
    if trained is None:
        return lines
    if grid.crs is None:
        lines.append(
            "has no CRS: its maps will have no place on Earth, no outlines and no areas; give it "
            "one (gdal_edit.py -a_srs EPSG:CODE), or warp it by its RPCs (gdalwarp -rpc)"
        )
    ratio = grid.resolution / trained.resolution
    if max(ratio, 1 / ratio) > OTHER_RESOLUTION:
        lines.append(
            f"its pixels are {grid.resolution:.3g} m, those of the training were "
            f"{trained.resolution:.3g} m: shapes have other sizes than the model knows; resample "
            f"the image (gdalwarp -tr), or look at the map with care"
        )
    return lines


def _examine_scale(
    source: Source,
    values: np.ndarray,
    rule: Reflectance,
    trained: Trained | None,
    stated: Collection[str],
) -> Finding | None:
    """Judge whether values [band, pixel] can be reflectance at all, and like the training's."""
    beyond = values[(values < _LOWEST) | (values > _HIGHEST)]
    part = beyond.size / values.size
    if part > _SOME:
        usual = float(np.median(beyond))
        stored = f"{round(usual * rule.scale - rule.offset, 2) + 0.0:g}"
        text = f"{part:.1%} of the numbers are no reflectance, such as {stored}"
        if (beyond == usual).mean() > 0.9:
            # Numbers of a product may be saturated.
            may_be = source.reflectance_source.startswith("product") or "nodata" in stated
            mend = f"set `nodata: {stored}`" if trained is None else f"give --nodata {stored}"
            text += f"; if it marks missing pixels, {mend}"
            return Finding(WARNING if may_be else ERROR, text)
    low, middle, high = np.percentile(values, (1, 50, 99), axis=1)
    mean, std = _statistics(source.bands, trained)
    fit, misfit = _best_fit(values, np.array([low, high]), rule, mean, std)
    other = fit not in (None, (rule.scale, rule.offset))
    told = "{{scale: {:g}, offset: {:g}}}" if trained is None else "--scale {:g} --offset {:g}"
    mend = "check `scale`, `offset` and `nodata`"
    # Of a training the right rule is known by its fit; without one it is a guess worth trying.
    if fit and other and (trained is None or misfit < _ALIKE):
        mend = "try " + told.format(*fit)
    centre = float(np.median(middle))
    dim, eight_bits = (high < _DIM).all(), _are_8_bits(values, rule, low, high)
    why = (
        f"the median reflectance would be {centre:.3g} (stored numbers around "
        f"{centre * rule.scale - rule.offset:.3g}): `scale` or `offset` ({rule.words}) do not fit "
        "the values"
    )
    if eight_bits and (dim or not _MIDDLE[0] < centre):
        return Finding(
            ERROR,
            f"{why}, 8-bit numbers as of a picture, and a picture is no reflectance; take the "
            f"product, or where they are reflectance x 255, try {told.format(255, 0)}",
        )
    dim_but_fits = dim and other and misfit < _ALIKE
    nothing = (np.abs((low, high)) < _NOTHING).all()
    if part > _MANY or not _MIDDLE[0] < centre < _MIDDLE[1] or nothing or dim_but_fits:
        return Finding(ERROR, f"{why}; {mend}")
    if part > _SOME:
        return Finding(WARNING, f"{text} ({usual:.2f}); check `scale`, `offset` and `nodata`")
    if trained is not None and (np.abs(middle - mean) > _FAR * std).all():
        each = ", ".join(
            f"{band} {value:.2g} ({m:.2g} +- {s:.2g})"
            for band, value, m, s in zip(source.bands, middle, mean, std, strict=True)
        )
        mend = mend if misfit < _ALIKE else "look at the map with care"
        return Finding(WARNING, f"reflectance unlike that of the training: {each}; {mend}")
    return None


def _examine_bands(
    bands: Sequence[str], values: np.ndarray, name: str, excused: bool
) -> list[Finding]:
    """Say which band holds one number alone, or is of another scale than the others."""
    if len(bands) < 2 or values.shape[1] < _ENOUGH_ALIKE:
        return []
    flat = np.ptp(values, axis=1) == 0
    if flat.any() and not flat.all():
        band = bands[int(flat.argmax())]
        text = f"{name}{band} is {values[flat][0, 0]:.3g} everywhere, no measurement; {REMEDY}"
        return [Finding(ERROR, text)]
    own = [number for number, band in enumerate(bands) if band in BANDS]
    high = np.percentile(values[own], 99, axis=1)
    for place, number in enumerate(own if len(own) > 2 else ()):
        others = float(np.median(np.delete(high, place)))
        ratio = max(high[place], _NOTHING) / max(others, _NOTHING)
        if max(high[place], others) > _LIT and not 1 / _UNLIKE_BANDS < ratio < _UNLIKE_BANDS:
            impossible = (values[number] > _HIGHEST).mean() > _SOME and not excused
            text = (
                f"{name}{bands[number]} is {ratio:.2g} times as bright as the other bands, as in "
                "another scale; bring all bands to one (gdal_calc), or take the product"
            )
            return [Finding(ERROR if impossible else WARNING, text)]
    return []


def _examine_order(bands: Sequence[str], values: np.ndarray) -> list[str]:
    """Say where red and blue look exchanged, by the ground that is neither ice nor water."""
    if set(BANDS) - set(bands):
        return []
    red, green, blue, nir = (values[bands.index(band)] for band in BANDS)
    ground = (nir > np.maximum(np.maximum(red, green), blue)) & (red + blue > _GROUND)
    part = (red < blue)[ground].mean() if ground.mean() > _ENOUGH_GROUND else np.float32(0)
    return [
        f"on {part:.0%} of the ground that is brightest in the near infrared, red is darker than "
        f"blue: the two look exchanged; {REMEDY}"
    ] * bool(part > _MOST_GROUND)


def _statistics(bands: Sequence[str], trained: Trained | None) -> np.ndarray:
    """Return mean and std [2, band] of the training, where it is known."""
    if trained is None:
        return np.tile(_GLACIERS, (len(bands), 1)).T
    known = dict(zip(trained.bands, zip(trained.mean, trained.std, strict=True), strict=True))
    return np.array([known.get(band, _GLACIERS) for band in bands]).T


def _best_fit(
    values: np.ndarray, limits: np.ndarray, rule: Reflectance, mean: np.ndarray, std: np.ndarray
) -> tuple[tuple[float, float] | None, float]:
    """Return the known scale and offset that bring values nearest to mean and std, and how near.

    ``limits`` are the percentiles [2, band] between which nearly all values lie.
    """
    # Values that are all but an offset lose too much in sums of float32.
    stored = values.mean(axis=1, dtype=np.float64) * rule.scale - rule.offset
    spread = np.maximum(values.std(axis=1, dtype=np.float64) * rule.scale, 1e-9)
    low, high = limits * rule.scale - rule.offset
    found: tuple[tuple[float, float] | None, float] = None, math.inf
    for scale, offset in _KNOWN:
        off = ((stored + offset) / scale - mean) / std
        misfit = float(np.mean(off**2 + np.log(spread / scale / std) ** 2))
        darkest, brightest = (np.median(low) + offset) / scale, (high.max() + offset) / scale
        possible = darkest > _DARK[0] and brightest > _DIM
        if misfit < found[1] and possible and np.median(stored + offset) < _MIDDLE[1] * scale:
            found = (scale, offset), misfit
    return found


def _are_8_bits(values: np.ndarray, rule: Reflectance, low: np.ndarray, high: np.ndarray) -> bool:
    top = high * rule.scale - rule.offset
    some = values[:, ::101] * rule.scale - rule.offset
    wide = ((high - low) * rule.scale).max() >= _RANGE_8_BITS or top.min() >= _BRIGHT_8_BITS
    return bool(wide and top.max() < 255.5 and (np.abs(some - some.round()) < 0.02).all())


def check_offset(source: Source, values: np.ndarray | None = None) -> OffsetFinding:
    """Compare the values of an image with the offset claimed for it (``source.reflectance``).

    Values can contradict an offset; that they fit proves nothing. Bright ground from which 1000 is
    taken off too often holds the numbers of a darker scene: a slope of 0.12 to 0.75 becomes one
    whose darkest percent is 0.007 in the near infrared, where the right offset gives 0.000 at nuuk
    (between 0 and 0.02 in 48 of its 63 parts of 14 km) and -0.015 at athabasca.

    Args:
        source: the image, on its own grid: warping evens out the darkest values.
        values: valid reflectance [band, pixel], where it is read already; None: as ``examine``.
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
    values = sample_values(source)[0] if values is None else values
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
    too_dark = float((values[asked] < _IMPOSSIBLE).any(axis=0).mean())
    saturated = float((values == values.max(axis=1, keepdims=True)).any(axis=0).mean())
    tail = f"; {saturated:.1%} of the pixels are saturated" if saturated > _SATURATED else ""

    def contradicted(fits: float | None, why: str) -> OffsetFinding:
        by = source.reflectance_source
        by = "" if by in ("", "default", "manifest") else f" ({by})"
        text = f"{name}the values contradict offset {claimed.offset:g}{by}: {why}; {_remedy(fits)}"
        return OffsetFinding(False, claimed.offset, fits, text + tail, too_dark)

    if too_dark > _IMPOSSIBLE_FRACTION or level < _DARK[0]:
        fits = next((o for o, s in shifts.items() if _DARK[0] <= level + s <= _DARK[1]), None)
        why = f"{too_dark:.1%} of the pixels would be darker than {_IMPOSSIBLE:g} in {band}"
        return contradicted(fits, why)
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
                if fits * 10_000 / claimed.scale == CANDIDATES[-1]:
                    return undecided(
                        f": many pixels are equally dark ({level:.2f} in {band}), be it dark "
                        f"ground, or water where 1000 was added twice (offset {fits:g})"
                    )
                why = (
                    f"many pixels are equally dark, but at {level:.2f} in {band} and at "
                    f"{levels.max():.2f} or below in all bands, too bright for water and shadow"
                )
                return contradicted(fits, why)
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
        -2: "1000 was added twice",
    }
    times = round(fits / (1000 if abs(fits) >= 1 else 0.1))
    return f"offset {fits:g} fits ({why[times]}): state it in `reflectance`"


def spread_windows(source: Source, side: int = _SIDE, limit: int = _WINDOWS) -> tuple[list, bool]:
    """Return windows (row, col, height, width) spread over an image, and whether they are all.

    Args:
        source: the image.
        side: of a window in pixels, at most.
        limit: number of windows, at most.
    """
    height, width = source.grid.shape
    if emptiness(source) > SPARSE:
        chosen = np.linspace(0, len(source.tiles) - 1, min(len(source.tiles), limit)).round()
        found = [source.tiles[int(place)] for place in chosen]
        whole = len(found) == len(source.tiles)
    else:
        rows, cols = range(0, height, side), range(0, width, side)
        # Spread both ways, and never across the blocks of 512 or 1024 px that files decode whole.
        down = min(len(rows), max(1, round((limit * len(rows) / len(cols)) ** 0.5)))
        across = min(len(cols), max(1, limit // down))
        found = [
            (rows[round(i)], cols[round(j)], height - rows[round(i)], width - cols[round(j)])
            for i in np.linspace(0, len(rows) - 1, down)
            for j in np.linspace(0, len(cols) - 1, across)
        ]
        whole = len(found) == len(rows) * len(cols)
    return [(row, col, min(rest, side), min(wide, side)) for row, col, rest, wide in found], whole


def sample_values(source: Source) -> tuple[np.ndarray, bool]:
    """Return valid reflectance [band, pixel] of spread windows, and whether they are all."""
    windows, whole = spread_windows(source)
    step = 1 + len(windows) * _SIDE**2 // _ENOUGH
    images = (source.read(*window) for window in windows)
    found = [image.reflectance[:, image.valid][:, ::step] for image in images]
    return np.ascontiguousarray(np.concatenate(found, axis=1)), whole
