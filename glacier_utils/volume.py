"""Ice volume estimated from area: no measurement, and no measure of change.

    V = c A^gamma,    c = 0.034 km^(3 - 2 gamma),    gamma = 1.375

for each glacier (Bahr et al. 1997, J. Geophys. Res. 102, 20355; c after Radic & Hock 2010,
J. Geophys. Res. 115, F01010), V in km3, A in km2. It describes many valley glaciers together, each
as a whole: not the part of a glacier that a frame cuts off, not an ice cap, not a complex of
glaciers under one outline (gamma above one makes the volume of a sum larger than the sum of the
volumes).

Its uncertainty is modelled as lognormal, three sources of it, with 95 % limits:

- scatter: a single glacier lies within a factor of 2; independent between glaciers, so that it
  averages out in sums (moments of the sum: Fenton 1960, IRE Trans. Commun. Syst. 8, 57);
- common: c and gamma are known to 30 % for a region, which no number of glaciers averages out
  (Farinotti & Huss 2013, The Cryosphere 7, 1707, find 30 % for some thousands of glaciers);
- area: the limits of the mapped areas, put through the formula; in sums all at once, since one
  model's errors are alike.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

COEFFICIENT = 0.034
EXPONENT = 1.375
SCATTER = 2.0
COMMON = 1.3
_NORMAL = 1.959964  # standard deviations that hold 95 %


def volume_km3(area_km2: np.ndarray | float) -> np.ndarray | float:
    """Return the volume in km3 of glaciers of these areas in km2."""
    return COEFFICIENT * np.power(area_km2, EXPONENT)


def with_interval(
    area_km2: np.ndarray,
    low_km2: np.ndarray,
    high_km2: np.ndarray,
    *,
    scatter: float = SCATTER,
    common: float = COMMON,
) -> tuple[float, float, float]:
    """Return the volume of some glaciers together in km3, and its 95 % limits.

    Args:
        area_km2, low_km2, high_km2: areas and their limits [glacier]; one glacier is a sum of one.
        scatter, common: factors within which a single glacier and the formula lie, see above.
    """
    volumes, low, high = (
        np.asarray(volume_km3(np.maximum(area, 0)), float) for area in (area_km2, low_km2, high_km2)
    )
    total = volumes.sum()
    if not total > 0:
        return 0.0, 0.0, float(high.sum() * scatter * common)
    single = (math.log(scatter) / _NORMAL) ** 2
    variance = (volumes**2).sum() / total**2 * math.expm1(single)
    reach = _NORMAL**2 * math.log1p(variance) + math.log(common) ** 2
    below = math.log(total / low.sum()) if low.sum() > 0 else math.inf
    above = math.log(max(high.sum(), total) / total)
    return (
        float(total),
        float(total * math.exp(-math.hypot(math.sqrt(reach), below))),
        float(total * math.exp(math.hypot(math.sqrt(reach), above))),
    )


def volume_table(glaciers: pd.DataFrame) -> pd.DataFrame:
    """Estimate the volume of each glacier and of all of each group together.

    Args:
        glaciers: of ``series.glacier_table``: model, area, date, glacier_id, area_km2, low,
            high, cut. Rows without a mapped area are left out.

    Returns:
        model, area, date, glacier_id (``all`` for the sum), glaciers, cut (how many are cut by the
        frame), area_km2, volume_km3, volume_low, volume_high (95 %), basis: what the numbers are.
    """
    rows = []
    mapped = glaciers[glaciers["area_km2"] > 0]
    for keys, group in mapped.groupby(["model", "area", "date"], sort=False):
        parts = [(name, part) for name, part in group.groupby("glacier_id", sort=False)]
        for name, part in [*parts, ("all", group)]:
            numbers = with_interval(*(part[column] for column in ("area_km2", "low", "high")))
            rows.append(
                {
                    **dict(zip(("model", "area", "date"), keys, strict=True)),
                    "glacier_id": name,
                    "glaciers": len(part),
                    "cut": int(part["cut"].sum()),
                    "area_km2": part["area_km2"].sum(),
                    **dict(zip(("volume_km3", "volume_low", "volume_high"), numbers, strict=True)),
                    "basis": "estimate by volume-area scaling",
                }
            )
    return pd.DataFrame(rows)
