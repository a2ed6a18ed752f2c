"""What a map gets wrong, by what the ground looks like: simple stated rules on the bands.

The rules are those of ``quality``, tried in the order of ``COVERS``; the first that holds names the
cover. With the reference, the cover names the surface: ground that looks like rock is debris where
the reference holds ice. So a surface is only as right as the reference, and what an old outline
still calls glacier counts as debris-covered ice.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from glacier_utils.clouds import CLOUD
from glacier_utils.clouds import SHADOW as CLOUD_SHADOW
from glacier_utils.grids import Image
from glacier_utils.metrics import outcomes
from glacier_utils.quality import ice_index, is_shadow, is_snow, is_water, visible
from glacier_utils.scenes import SURFACES

# Mean of red, green and blue above which rock is called bright: the median of sunlit rock among the
# points that `quality` names, where its thresholds come from.
BRIGHT_VISIBLE = 0.15
COVERS = {
    1: "cloud",  # the cloud mask says so
    2: "water",  # nir < 0.075 and NDWI > 0.3
    3: "shadow",  # the cloud mask's shadow; or nir < 0.42 and blue / red > 1.2 or visible < 0.05
    4: "snow",  # nir > 0.475
    5: "ice-like",  # green > 0.16 and NDWI > 0.02
    6: "bright ground",  # visible > 0.15
    7: "dark ground",
}
NO_COVER = 0
# The surface that a cover stands for, where the reference holds ice and where it holds none. Off
# glaciers, what looks like bare ice is old or patchy snow.
ON_ICE = {
    "snow": "snow-covered ice",
    "ice-like": "bare ice",
    "bright ground": "debris",
    "dark ground": "debris",
    "shadow": "shadowed ice",
    "water": "water",
    "cloud": "cloud",
}
OFF_ICE = {
    "snow": "seasonal snow",
    "ice-like": "seasonal snow",
    "water": "water",
    "bright ground": "bright rock",
    "dark ground": "other ground",
    "shadow": "shadowed ground",
    "cloud": "cloud",
}
KINDS = {"miss": ON_ICE, "false alarm": OFF_ICE}
# The sample's classes, and the surfaces that the rules should give them in the sun.
_KNOWN = {
    "bare ice": ("bare ice",),
    "snow on ice": ("snow-covered ice",),
    "debris on ice": ("debris",),
    "seasonal snow": ("seasonal snow",),
    **dict.fromkeys(["fjord", "lake", "meltwater lake"], ("water",)),
    **dict.fromkeys(["rock", "gravel", "tundra"], ("bright rock", "other ground")),
}
_DARK = ("shadowed ice", "shadowed ground", "cloud")


def cover(image: Image, clouds: np.ndarray | None = None) -> np.ndarray:
    """Return what each pixel looks like, uint8 codes of ``COVERS``, 0 where there is no image.

    Args:
        image: surface reflectance with red, green, blue and nir, ``[..., band, row, col]``: a scene
            or the patches of a store; ``valid`` of the shape without bands.
        clouds: of that shape: 0 clear, 1 cloud, 2 cloud shadow, 255 not assessed.

    Raises:
        GlacierError: a band is missing.
    """
    pixels, bands = image.reflectance, image.bands
    cloudy = shaded = np.zeros(image.valid.shape, bool)
    if clouds is not None:
        cloudy, shaded = clouds == CLOUD, clouds == CLOUD_SHADOW
    rules = [
        ~image.valid,
        cloudy,
        is_water(pixels, bands),
        is_shadow(pixels, bands) | shaded,
        is_snow(pixels, bands),
        ice_index(pixels, bands),
        visible(pixels, bands) > BRIGHT_VISIBLE,
    ]
    return np.select(rules, [NO_COVER, *COVERS][: len(rules)], len(COVERS)).astype(np.uint8)


def causes(
    mask: np.ndarray, reference: np.ndarray, image: Image, clouds: np.ndarray | None = None
) -> pd.DataFrame:
    """Split misses and false alarms by the surface on which they lie.

    Args:
        mask, reference: 0 / 1 / 255 as in ``metrics.count``, ``[..., row, col]``.
        image, clouds: as in ``cover``.

    Returns:
        A row per kind (``miss``, ``false alarm``) and surface: kind, surface, pixels and km2 of the
        errors, share of the kind's errors (nan where there is none), total_km2 of the surface in
        the reference, and right, the share of it that is mapped rightly: the recall on ice (kind
        ``miss``), one minus the rate of false alarms off it; nan where there is none of it.
    """
    found, seen = outcomes(mask, reference), cover(image, clouds)
    pixel = image.grid.pixel_area_km2
    rows = []
    for (kind, names), wrong, right in zip(KINDS.items(), (2, 1), (0, 3), strict=True):
        wrongs, rights = (
            np.bincount(seen[found == code], minlength=len(COVERS) + 1) for code in (wrong, right)
        )
        errors = wrongs[1:].sum()
        for surface in dict.fromkeys(names.values()):
            codes = [code for code, name in COVERS.items() if names[name] == surface]
            number = int(wrongs[codes].sum())
            total = number + int(rights[codes].sum())
            rows.append(
                {
                    "kind": kind,
                    "surface": surface,
                    "pixels": number,
                    "km2": number * pixel,
                    "share": number / errors if errors else math.nan,
                    "total_km2": total * pixel,
                    "right": 1 - number / total if total else math.nan,
                }
            )
    return pd.DataFrame(rows)


def check_rules(
    surface: np.ndarray, truth: np.ndarray, image: Image, clouds: np.ndarray | None = None
) -> pd.DataFrame:
    """Compare the rules with known surfaces, which the sample has.

    Args:
        surface: codes of ``scenes.SURFACES``, 255 unknown, ``[..., row, col]``.
        truth: 0 / 1 / 255: which names the rules give, those on ice or those off it.
        image, clouds: as in ``cover``.

    Returns:
        Pixels of each known class (rows) by the name that the rules give (columns), and the column
        agreement: the share of the class with the right name among its pixels in the sun, as the
        known classes do not tell what is shadowed. ``.attrs["agreement"]`` is that of all classes
        together, ``.attrs["in_shadow"]`` the share of pixels left out of it.
    """
    seen = cover(image, clouds)
    ice = truth == 1
    known = np.isin(surface, list(SURFACES)) & (seen != NO_COVER) & (truth <= 1)
    names = np.where(
        ice,
        np.array(["", *(ON_ICE[name] for name in COVERS.values())], object)[seen],
        np.array(["", *(OFF_ICE[name] for name in COVERS.values())], object)[seen],
    )[known]
    classes = pd.Series(surface[known]).map(SURFACES)
    table = pd.crosstab(classes.to_numpy(), names, rownames=["known class"], colnames=["by rules"])
    right = {row: table.loc[row, table.columns.isin(_KNOWN[row])].sum() for row in table.index}
    sunlit = table.loc[:, ~table.columns.isin(_DARK)].sum(axis=1)
    right = pd.Series(right, dtype=float)
    result = table.assign(agreement=right / sunlit.where(sunlit > 0))
    result.attrs["agreement"] = float(right.sum() / sunlit.sum()) if sunlit.sum() else math.nan
    result.attrs["in_shadow"] = float(1 - sunlit.sum() / len(names)) if len(names) else math.nan
    return result
