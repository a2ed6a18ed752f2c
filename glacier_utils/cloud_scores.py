"""Cloud masks compared: with each other, and with the ice that they may take for cloud."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from glacier_utils.conventions import UNKNOWN
from glacier_utils.errors import GlacierError
from glacier_utils.imagery.clouds import CLASSES, CLOUD, SHADOW
from glacier_utils.imagery.source import Source
from glacier_utils.raster.indices import is_snow
from glacier_utils.raster.mask import Mask

_BLOCK = 1024  # rows and columns of a window where a whole mask is counted


def agreement(one: Mask, other: Mask) -> pd.DataFrame:
    """Compare two cloud masks of one grid where both have assessed the ground.

    Returns:
        A row per class of ``one`` (clear, cloud, cloud shadow) with `km2` of it; the km2 and the
        shares (0..1, of the row) that ``other`` gives to each class, as `clear km2`, `clear` and
        so on; `iou` of the class, intersection over union; and `kappa`, Cohen's, of the class
        against the rest. nan where a class is in neither, or the area of a pixel is not known.
        `attrs["kappa"]` holds the kappa over all classes.

    Raises:
        GlacierError: the grids differ.
    """
    if not one.grid.matches(other.grid):
        raise GlacierError("agreement: the masks lie on different grids; open both on one")
    counts = np.zeros((3, 3), np.int64)
    for window in _windows(one):
        first, second = one.read(*window), other.read(*window)
        both = (first != UNKNOWN) & (second != UNKNOWN)
        pairs = 3 * first[both].astype(np.intp) + second[both]
        counts += np.bincount(pairs, minlength=9).reshape(3, 3)
    area = one.grid.pixel_area_km2
    rows = []
    for code, name in CLASSES.items():
        mine, theirs, shared = counts[code].sum(), counts[:, code].sum(), counts[code, code]
        rest = counts.sum() - mine - theirs + shared
        table = np.array([[shared, mine - shared], [theirs - shared, rest]])
        row = {"class": name, "km2": mine * area}
        for to, into in CLASSES.items():
            row |= {f"{into} km2": counts[code, to] * area, into: _ratio(counts[code, to], mine)}
        rows.append(row | {"iou": _ratio(shared, mine + theirs - shared), "kappa": _kappa(table)})
    table = pd.DataFrame(rows).set_index("class")
    table.attrs["kappa"] = _kappa(counts)
    return table


def false_cloud_on_ice(mask: Mask, label: Mask, image: Source) -> dict[str, float]:
    """Measure how much labelled ice a cloud mask calls cloud: where no cloud is, all is false.

    Args:
        mask: of cloud.
        label: 1 ice, 0 not, 255 unknown.
        image: the same ground in reflectance, to tell snow (`indices.is_snow`) from bare ice.

    Returns:
        ice_km2 assessed, and shares (0..1): ice_cloud and ice_shadow of the ice, snow_cloud of
        its bright part, bare_cloud of the rest of it, elsewhere_cloud of the ground that is no
        ice. nan where there is none.
    """
    parts = dict.fromkeys(("ice", "snow", "bare", "elsewhere"), 0)
    totals, clouds, shadow = dict(parts), dict(parts), 0
    for window in _windows(mask):
        codes, known, picture = mask.read(*window), label.read(*window), image.read(*window)
        ice, snow = known == 1, is_snow(picture.reflectance, picture.bands)
        ground = (ice, ice & snow, ice & ~snow, known == 0)
        assessed = (codes != UNKNOWN) & picture.valid
        for name, part in zip(parts, ground, strict=True):
            totals[name] += np.count_nonzero(part & assessed)
            clouds[name] += np.count_nonzero(part & assessed & (codes == CLOUD))
        shadow += np.count_nonzero(ice & assessed & (codes == SHADOW))
    shares = {f"{name}_cloud": _ratio(clouds[name], totals[name]) for name in parts}
    return {
        "ice_km2": float(totals["ice"] * mask.grid.pixel_area_km2),
        "ice_cloud": shares.pop("ice_cloud"),
        "ice_shadow": _ratio(shadow, totals["ice"]),
        **shares,
    }


def _windows(mask: Mask) -> Iterator[tuple[int, int, int, int]]:
    for row in range(0, mask.grid.height, _BLOCK):
        for col in range(0, mask.grid.width, _BLOCK):
            yield row, col, min(_BLOCK, mask.grid.height - row), min(_BLOCK, mask.grid.width - col)


def _ratio(part: int, whole: int) -> float:
    return float(part / whole) if whole else math.nan


def _kappa(table: np.ndarray) -> float:
    """Cohen's kappa of a confusion table; nan where chance alone agrees wholly, or it is empty."""
    total = table.sum()
    if not total:
        return math.nan
    agreed = np.trace(table) / total
    chance = float((table.sum(axis=0) / total) @ (table.sum(axis=1) / total))
    return math.nan if chance > 1 - 1e-12 else float((agreed - chance) / (1 - chance))
