"""Look at everything a dataset names: what is there, what is usable, what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from glacier_utils.datasets import Dataset
from glacier_utils.errors import GlacierError
from glacier_utils.grids import Grid, same_crs
from glacier_utils.imagery import UNKNOWN, Mask, Source
from glacier_utils.rasters import crs_name


def check(dataset: Dataset) -> pd.DataFrame:
    """Look at everything a dataset names and say what is there and what is wrong.

    Returns:
        A row an area and date: area, date, kind ("patches", "bands" or "scene"), files, size
        ("columns x rows"), resolution_m, crs, valid (fraction of the frame), glacier (fraction of
        the known and valid pixels), outlines (number of glaciers), problems ("" if there are none).
        Large images are judged by windows spread over them.
    """
    rows = [_check_entry(dataset, area, date) for area in dataset.areas
            for date in dataset.dates(area)]  # fmt: skip
    _check_overlap(dataset, rows)
    for row in rows:
        row["problems"] = "; ".join(row["problems"])
    return pd.DataFrame(rows)


def _check_entry(dataset: Dataset, area: str, date: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "area": area, "date": date, "kind": "", "files": 0, "size": "", "resolution_m": np.nan,
        "crs": "", "valid": np.nan, "glacier": np.nan, "outlines": 0, "problems": [],
    }  # fmt: skip
    try:
        source = dataset.source(area, date)
        row["kind"] = "patches" if source.tiles else "scene" if len(source.paths) == 1 else "bands"
        row["files"] = len(source.paths)
        row["size"] = f"{source.grid.width} x {source.grid.height}"
        row["resolution_m"] = source.grid.resolution
        row["crs"] = crs_name(source.grid)
        _check_frames(dataset, area, date, row)
        labels = _check_labels(dataset, area, date, row)
        _check_values(source, labels, row)
        for mask in (dataset.truth(area, date), dataset.surface(area, date)):
            if mask is not None:
                mask.read(0, 0, 1, 1)
    except GlacierError as error:
        row["problems"].append(str(error))
    return row


def _check_frames(dataset: Dataset, area: str, date: str, row: dict[str, Any]) -> None:
    grid = dataset.source(area, date).grid
    if grid.crs is not None and not grid.crs.is_projected:
        row["problems"].append("its CRS is in degrees: warp it to a projected one such as UTM")
    first = dataset.dates(area)[0]
    if date != first and not grid.matches(dataset.source(area, first).grid):
        row["problems"].append(
            f"its frame differs from that of {first}: the dates cannot be compared pixel by pixel"
        )


def _check_labels(dataset: Dataset, area: str, date: str, row: dict[str, Any]) -> Mask:
    labels = dataset.labels(area, date)
    if dataset._entry(area, date).labels is None:
        outlines = dataset.outlines(area, date)
        row["outlines"] = int(outlines.glacier_id.nunique())
        if not row["outlines"]:
            row["problems"].append(f"no outline of {dataset._area(area).outlines} touches the area")
        row["problems"] += outlines.attrs.get("report", [])
    return labels


def _check_values(source: Source, labels: Mask, row: dict[str, Any]) -> None:
    """Fill in the fractions, and notice values that cannot be reflectances."""
    pixels = valid = known = glacier = 0
    medians = []
    for window in _spread_windows(source.grid):
        image, label = source.read(*window), labels.read(*window)
        pixels += image.valid.size
        valid += int(image.valid.sum())
        seen = image.valid & (label != UNKNOWN)
        known += int(seen.sum())
        glacier += int((label[seen] == 1).sum())
        if image.valid.any():
            medians.append(float(np.median(image.reflectance[:, image.valid])))
    row["valid"] = valid / pixels
    row["glacier"] = glacier / known if known else np.nan
    if not valid:
        row["problems"].append("no valid pixel; check `nodata` in `reflectance`")
    elif not known:
        row["problems"].append("no valid pixel has a label; check `coverage` and the outlines")
    # Ground is never darker than a thousandth nor brighter than 1.5 in the middle of its values.
    elif not 0.001 < np.median(medians) < 1.5:
        row["problems"].append(
            f"the median reflectance is {np.median(medians):.3g}: `scale` or `offset` in "
            "`reflectance` do not fit the values"
        )


def _spread_windows(grid: Grid, size: int = 512, limit: int = 64) -> list[tuple[int, ...]]:
    corners = [(row, col) for row in range(0, grid.height, size)
               for col in range(0, grid.width, size)]  # fmt: skip
    if len(corners) > limit:
        chosen = np.linspace(0, len(corners) - 1, limit).round().astype(int)
        corners = [corners[index] for index in chosen]
    return [
        (row, col, min(size, grid.height - row), min(size, grid.width - col))
        for row, col in corners
    ]


def _check_overlap(dataset: Dataset, rows: list[dict[str, Any]]) -> None:
    """Say so where two areas share ground: a model must not be tested where it was trained."""
    opened = {(area, date): source.grid for (area, date), source in dataset._sources.items()}
    for row in rows:
        grid = opened.get((row["area"], row["date"]))
        for (area, _), other in opened.items():
            if grid is None or area == row["area"] or grid.crs is None:
                continue
            if same_crs(grid.crs, other.crs) and grid.box.intersection(other.box).area > 0:
                message = f"its frame overlaps that of area {area}"
                if message not in row["problems"]:
                    row["problems"].append(message)
