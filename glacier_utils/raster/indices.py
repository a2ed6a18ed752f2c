"""What a pixel shows, by simple spectral rules.

The spectral rules need only red, green, blue and near infrared (no shortwave infrared, hence no
NDSI). Their thresholds lie between the 5th and 95th percentiles of Sentinel-2 surface reflectance
of 11,729 points classified by hand on glaciers of Alaska, Washington and Montana (Aberle, doi
10.5281/zenodo.10616385): they hold for surface reflectance, not for digital numbers that were
merely scaled to 0..1.

All rules take reflectance ``[..., band, row, col]`` with the names of its bands, and return
``[..., row, col]``. Invalid pixels (0 in every band) come out False, or nan for an index.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glacier_utils.conventions import BANDS, UNKNOWN
from glacier_utils.errors import GlacierError

# Near infrared: 95 % of bare ice below 0.46, 95 % of snow above 0.49.
SNOW_NIR = 0.475
# Near infrared: 95 % of water below 0.07, 95 % of shadowed snow above 0.08.
WATER_NIR = 0.075
# NDWI: 95 % of water above 0.37, 95 % of rock below 0.05.
WATER_NDWI = 0.3
# Blue / red: shadows are lit by the blue sky. 99 % of sunlit ice below 1.21, shadowed snow 1.4.
SHADOW_BLUE_RED = 1.2
# Near infrared: 95 % of shadowed snow below 0.42.
SHADOW_NIR = 0.42
# Mean of red, green, blue: 95 % of sunlit rock above 0.056.
SHADOW_VISIBLE = 0.05
# Green: 95 % of ice above 0.19, 95 % of shadowed snow above 0.16. NDWI: ice 0.06, rock 0.05.
ICE_GREEN = 0.16
ICE_NDWI = 0.02


def band(reflectance: np.ndarray, bands: Sequence[str], name: str) -> np.ndarray:
    """Return one band ``[..., row, col]`` by its name; GlacierError if it is not there."""
    names = list(bands)
    if name not in names:
        raise GlacierError(
            f"band '{name}' is needed and missing (bands: {', '.join(names)}): "
            "name the bands in dataset.yaml as red, green, blue, nir"
        )
    return reflectance[..., names.index(name), :, :]


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide, nan where the denominator is zero or negative."""
    result = np.full(np.shape(numerator), np.nan, np.float32)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)
    return result


def ndwi(reflectance: np.ndarray, bands: Sequence[str] = BANDS) -> np.ndarray:
    """Normalised difference water index (green - nir) / (green + nir), McFeeters 1996, in -1..1."""
    green, nir = band(reflectance, bands, "green"), band(reflectance, bands, "nir")
    return ratio(green - nir, green + nir)


def visible(reflectance: np.ndarray, bands: Sequence[str] = BANDS) -> np.ndarray:
    """Return the mean reflectance of red, green and blue."""
    red, green, blue = (band(reflectance, bands, name) for name in BANDS[:3])
    return (red + green + blue) / np.float32(3)


def is_snow(reflectance: np.ndarray, bands: Sequence[str] = BANDS) -> np.ndarray:
    """Sunlit snow: near infrared above 0.475, which bare ice hardly reaches."""
    return band(reflectance, bands, "nir") > SNOW_NIR


def is_water(reflectance: np.ndarray, bands: Sequence[str] = BANDS) -> np.ndarray:
    """Water: near infrared below 0.075 and NDWI above 0.3."""
    dark = band(reflectance, bands, "nir") < WATER_NIR
    return dark & (ndwi(reflectance, bands) > WATER_NDWI)


def is_shadow(reflectance: np.ndarray, bands: Sequence[str] = BANDS) -> np.ndarray:
    """Shadow: neither snow nor water, near infrared below 0.42, and blue or very dark.

    Blue means blue / red above 1.2; very dark means a mean of the visible bands below 0.05, darker
    than 95 % of sunlit rock. Thick ice in its own blue can be taken for shadow.
    """
    blue, red = band(reflectance, bands, "blue"), band(reflectance, bands, "red")
    seen = np.any(reflectance != 0, axis=-3)
    bluish = blue > SHADOW_BLUE_RED * np.maximum(red, 0)
    dark = visible(reflectance, bands) < SHADOW_VISIBLE
    dim = band(reflectance, bands, "nir") < SHADOW_NIR
    return seen & dim & (bluish | dark) & ~is_water(reflectance, bands)


def ice_index(reflectance: np.ndarray, bands: Sequence[str] = BANDS) -> np.ndarray:
    """Snow or ice by a simple rule: bright in green, and near infrared below green (or snow).

    green > 0.16 and not water and (NDWI > 0.02 or nir > 0.475). On the points named above it finds
    96 % of the ice, 97 % of the snow, 82 % of the shadowed snow and calls 2 % of the rock ice.
    Debris on ice looks like rock and is missed; seasonal snow is found like any other.
    """
    bright = band(reflectance, bands, "green") > ICE_GREEN
    icy = (ndwi(reflectance, bands) > ICE_NDWI) | is_snow(reflectance, bands)
    return bright & icy & ~is_water(reflectance, bands)


def disagreement(
    reflectance: np.ndarray, label: np.ndarray, bands: Sequence[str] = BANDS
) -> np.ndarray:
    """Return where a known label and ``ice_index`` differ, bool ``[..., row, col]``.

    A hint, not a fault: debris on ice, seasonal snow and cloud make the rule differ from a label
    that is right.
    """
    return (label != UNKNOWN) & (ice_index(reflectance, bands) != (label == 1))
