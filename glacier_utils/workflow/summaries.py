"""What may be concluded from a spatial evaluation (notebook 04), in words from its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from glacier_utils.evaluation.bootstrap import SAME
from glacier_utils.evaluation.comparison import LabelBias
from glacier_utils.evaluation.per_glacier import NONE


def spatial_conclusions(
    best: str,
    spatial: pd.DataFrame,
    pairs: pd.DataFrame,
    clear: Sequence[str],
    per_glacier: pd.DataFrame,
    calibration: pd.DataFrame,
    bias: LabelBias | None,
    over_time: Sequence[str] = (),
) -> str:
    """Write in plain words what may be concluded from a spatial evaluation and what not.

    Args:
        best: the model chosen on validation.
        spatial: of ``comparison.spatial_scores``, with the distances of the outlines.
        pairs: of ``comparison.against_baselines``.
        clear: of ``comparison.clearly_better``.
        per_glacier: of ``per_glacier.scores_per_glacier``.
        calibration: of ``comparison.calibrate``.
        bias: of ``comparison.measure_label_bias``.
        over_time: areas that lie on the ground of training, of ``comparison.areas_over_time``.

    Returns:
        Markdown with two lists.
    """
    own = spatial[(spatial["seed"] == spatial["seed"].iloc[0]) & (spatial["model"] == best)]
    may = [_score(row) for row in own.itertuples()]
    names = ", ".join(f"**{name}**" for name in clear) or "none"
    may.append(f"Networks clearly better than every baseline, against every reference: {names}.")
    may += [text for row in own.itertuples() if (text := _outline(row))]
    may += list(bias.sentences) if bias else []

    may_not = [_same(pairs), *_glaciers(best, per_glacier), _probabilities(best, calibration)]
    if bias is None:
        may_not.append(
            "How much of the error is the label's: no truth is known here, and a map that sees a "
            "glacier's retreat is marked down for it."
        )
    seeds = spatial["seed"].nunique()
    may_not.append(
        f"That the scores hold elsewhere: they are of one area on one date, with {seeds} "
        f"training seed{'s' if seeds > 1 else ''} per network, and the intervals hold the "
        "variation over the ground of this area alone."
    )
    may_not += [tested_over_time(area) for area in over_time]
    lists = (("What may be concluded", may), ("What may not be concluded", may_not))
    return "\n".join(
        f"**{title}**\n\n" + "\n".join(f"- {text}" for text in texts if text) + "\n"
        for title, texts in lists
    )


def tested_over_time(area: str) -> str:
    """Say what the scores of an area mean that lies on the ground of training."""
    return (
        f"How well a glacier is mapped that was never seen: area {area} lies on the ground of "
        "training, seen at other dates. Its scores are a test over time, not over space."
    )


def _score(row: Any) -> str:
    return (
        f"**{row.model}**, chosen on validation, reaches an IoU of {row.iou:.2f} "
        f"({row.iou_low:.2f} to {row.iou_high:.2f}) against the {row.reference} in area "
        f"{row.area} on {row.date}."
    )


def _outline(row: Any) -> str:
    if pd.isna(row.boundary_median_m):
        return ""
    return (
        f"Half of its outline lies within {row.boundary_median_m:.0f} m of that of the "
        f"{row.reference}, 95 % within {row.boundary_p95_m:.0f} m."
    )


def _same(pairs: pd.DataFrame) -> str:
    same = pairs[pairs["verdict"] == SAME]
    if same.empty:
        return ""
    listed = dict.fromkeys(
        f"{row.model} and {row.against} (against the {row.reference})" for row in same.itertuples()
    )
    return f"That these differ in IoU: {', '.join(listed)}; their intervals hold zero."


def _glaciers(best: str, table: pd.DataFrame) -> list[str]:
    texts = []
    own = table[(table["model"] == best) & (table["glacier_id"] != NONE) & table["listed"]]
    own = own[own["area_km2"] > 0]
    for reference, part in own.groupby("reference", sort=False):
        start = f"That the area of a single glacier is right: against the {reference} "
        if len(part) < 4:  # no quartiles
            listed = ", ".join(f"{error:+.0f} %" for error in part["error_percent"])
            texts.append(f"{start}the error is {listed}.")
            continue
        low, middle, high = part["error_percent"].quantile([0.25, 0.5, 0.75])
        held = ((part["low"] <= part["area_km2"]) & (part["area_km2"] <= part["high"])).sum()
        texts.append(
            f"{start}the error of half of the {len(part)} glaciers lies between {low:+.0f} % and "
            f"{high:+.0f} % (median {middle:+.0f} %), and the outline moved by a pixel reaches the "
            f"reference's area for {held} of them."
        )
    return texts


def _probabilities(best: str, table: pd.DataFrame) -> str:
    own = table[(table["model"] == best) & (table["reference"] == table["reference"].iloc[-1])]
    if own.empty:
        return ""
    ece = own.set_index("stage")["ece"]
    helped = "brings them nearer" if ece["after"] < ece["before"] else "does not bring them nearer"
    return (
        f"That a probability is a frequency: those of {best} are off by {ece['before']:.2f} on "
        f"average, and scaling on validation {helped} here ({ece['after']:.2f})."
    )
