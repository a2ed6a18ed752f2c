"""What a patch is worth: fractions that describe it, and the reason to drop it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from glacier_utils.clouds import cloud_fractions
from glacier_utils.quality import BANDS, UNKNOWN, disagreement


def patch_facts(
    reflectance: np.ndarray,
    valid: np.ndarray,
    label: np.ndarray,
    *,
    bands: Sequence[str] = BANDS,
    clouds: np.ndarray | None = None,
    age: np.ndarray | None = None,
    saturation: float = 1.0,
) -> dict[str, float]:
    """Describe one patch; fractions lie between 0 and 1.

    reflectance ``[band, row, col]``, valid and label ``[row, col]``, clouds ``[row, col]`` with the
    codes of ``clouds`` (None: not assessed), age ``[row, col]`` in years from outline to image
    (nan: unknown; None: of no pixel). Returns

    - nodata: pixels without image;
    - unknown: pixels without a label (255), those without image included;
    - glacier: glacier among the pixels with a label; nan if there are none;
    - cloud, shadow: cloud and cloud shadow among the valid pixels that were assessed; nan if none
      was;
    - saturated: valid pixels with any band at or above ``saturation`` (a white surface that faces
      the sun, or a detector at its limit); nan if no pixel is valid;
    - label_age: mean age in years of the outlines over the glacier pixels, so that each outline
      counts by its area in the patch; nan without dated glacier;
    - disagreement: pixels with a label that differ from ``ice_index``, among those with a label;
      nan if there are none, or no green and nir.
    """
    known = (label != UNKNOWN) & valid
    ice = known & (label == 1)
    bright = valid & (reflectance.max(axis=0) >= saturation)
    total, number = label.size, np.count_nonzero(known)
    seen = np.count_nonzero(valid)
    differ = math.nan
    if {"green", "nir"} <= set(bands):
        differ = _part(disagreement(reflectance, label, bands) & valid, number)
    assessed = np.uint8(UNKNOWN) if clouds is None else np.where(valid, clouds, np.uint8(UNKNOWN))
    return {
        "nodata": 1 - seen / total,
        "unknown": 1 - number / total,
        "glacier": _part(ice, number),
        **cloud_fractions(assessed),
        "saturated": _part(bright, seen),
        "label_age": math.nan if age is None else _mean(age[ice]),
        "disagreement": differ,
    }


def keep_or_drop(
    facts: Mapping[str, float], *, max_unknown: float = 0.5, max_cloud: float | None = None
) -> str:
    """Return why a patch is dropped, in words, or an empty string if it is kept.

    The first reason that applies is given: image missing, label unknown, cloud (nan, which means
    that cloud was not assessed, drops nothing). Where cloud has a part in what is unknown, it is
    named. Neither saturation, nor the age of the label, nor its disagreement with the ice index
    drops a patch: they are for a user to look at.
    """
    if facts["nodata"] > max_unknown:
        return _reason("no data", facts["nodata"], max_unknown)
    if facts["unknown"] > max_unknown:
        under = facts["cloud"] + facts.get("shadow", 0.0)
        why = f" (cloud and its shadow {100 * under:.0f} %)" if under >= 0.005 else ""
        return _reason("unknown", facts["unknown"], max_unknown) + why
    if max_cloud is not None and facts["cloud"] > max_cloud:
        return _reason("cloud", facts["cloud"], max_cloud)
    return ""


def _reason(what: str, value: float, limit: float) -> str:
    # One decimal where whole per cents would read "50 % > 50 %".
    digits = 0 if round(100 * value) > round(100 * limit) else 2
    return f"{what} {100 * value:.{digits}f} % > {100 * limit:.{digits}f} %"


def _part(hits: np.ndarray, total: int) -> float:
    return np.count_nonzero(hits) / total if total else math.nan


def _mean(values: np.ndarray) -> float:
    values = values[np.isfinite(values)]
    return float(values.mean(dtype=np.float64)) if values.size else math.nan
