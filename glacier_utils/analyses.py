"""Which analysis of a glacier counts, and which glacier ice belongs to that two outlines claim."""

from __future__ import annotations

import math

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from glacier_utils.errors import GlacierError
from glacier_utils.inventories import areas_km2, without_rock
from glacier_utils.vectors import polygonal, tell

RULES = ("nearest", "before", "latest")
# Ten pixels of 10 m: less is where two analysts drew one divide.
SLIVER_KM2 = 0.001


def image_day(date: str) -> pd.Timestamp:
    """Return the day of an image; of a month ("2023-08") its middle.

    Raises:
        GlacierError: ``date`` is neither YYYY-MM nor YYYY-MM-DD.
    """
    for form, days in (("%Y-%m-%d", 0), ("%Y-%m", 14)):
        try:
            if len(date) == {0: 10, 14: 7}[days]:
                return pd.to_datetime(date, format=form) + pd.Timedelta(days=days)
        except (ValueError, TypeError):
            continue
    raise GlacierError(f"{date!r} is not a date; write it as 2023-08 or 2023-08-24")


def select_analyses(
    outlines: gpd.GeoDataFrame, date: str, *, rule: str = "nearest"
) -> gpd.GeoDataFrame:
    """Keep one analysis of each glacier, with the internal rock that belongs to it.

    Args:
        outlines: table of ``read_outlines``.
        date: of the image.
        rule: "nearest" in time to the image; "before": the last not after the image, and a glacier
            with none is left out and reported; "latest". Ties go to the analysis with the higher
            number. An unknown date is the last choice of every rule.

    Raises:
        GlacierError: an unknown rule or a date that is none.
    """
    if rule not in RULES:
        raise GlacierError(f"rule {rule!r} for choosing analyses: known are {', '.join(RULES)}")
    day = image_day(date)
    ice = outlines[outlines.kind == "glacier"]
    analyses = ice.groupby(["glacier_id", "analysis_id"], as_index=False)["source_date"].max()
    age = (day - analyses.source_date).dt.days.astype(float)
    if rule == "before":
        analyses, age = analyses[~(age < 0)], age[~(age < 0)]
    rank = {"nearest": age.abs(), "before": age, "latest": age}[rule].fillna(math.inf)
    number = pd.to_numeric(analyses.analysis_id, errors="coerce").fillna(-1)
    best = (
        analyses.assign(_rank=rank, _number=-number)
        .sort_values(["glacier_id", "_rank", "_number", "analysis_id"])
        .drop_duplicates("glacier_id")
    )
    chosen = pd.MultiIndex.from_frame(best[["glacier_id", "analysis_id"]])
    keys = pd.MultiIndex.from_frame(outlines[["glacier_id", "analysis_id"]])
    result = outlines[keys.isin(chosen)].reset_index(drop=True)
    report = [*outlines.attrs.get("report", [])]
    dropped = ice.glacier_id.nunique() - best.shape[0]
    if dropped:
        report.append(f"left out, no analysis before {date}: {dropped} glaciers")
    result.attrs = {**outlines.attrs, "report": report}
    return result


def resolve_overlaps(
    outlines: gpd.GeoDataFrame, *, min_area_km2: float = SLIVER_KM2
) -> gpd.GeoDataFrame:
    """Give each overlap of two glaciers to one of them.

    It goes to the newer analysis (an unknown date is the oldest), of equal dates to the larger
    polygon, of equal sizes to the first identifier. What is compared is the ice, without internal
    rock: a glacier on a nunatak of another overlaps nothing. All ice together stays what it was.

    Args:
        outlines: table of ``read_outlines``, one analysis a glacier (``select_analyses``).
        min_area_km2: smaller overlaps are slivers along a divide and are left as they are.

    Returns:
        The table with the losers' polygons cut, and left out, with their rock, where nothing
        remains. ``.attrs["report"]`` gets a line with the overlaps' areas.

    Raises:
        GlacierError: the outlines have no CRS.
    """
    if outlines.crs is None:
        raise GlacierError("the outlines have no CRS; set the one they were drawn in")
    outlines = outlines.reset_index(drop=True)
    table, report = outlines.copy(), [*outlines.attrs.get("report", [])]
    ice = without_rock(outlines).map(lambda shape: shape if shape.is_valid else polygonal(shape))
    rank = outlines.loc[ice.index].assign(_size=-areas_km2(ice)).sort_values(
        ["source_date", "_size", "glacier_id"], ascending=[False, True, True],
        na_position="last", kind="stable",
    ).index  # fmt: skip
    shapes, names = ice.loc[rank].to_numpy(), table.glacier_id.loc[rank].to_numpy()
    tree = shapely.STRtree(shapes)
    winners, losers = tree.query(shapes, predicate="intersects")
    pairs = (winners < losers) & (names[winners] != names[losers])
    winners, losers = winners[pairs], losers[pairs]
    common = [polygonal(shapes[one].intersection(shapes[two]))
              for one, two in zip(winners, losers, strict=True)]  # fmt: skip
    areas = areas_km2(gpd.GeoSeries(common, crs=outlines.crs))
    large = np.flatnonzero(areas >= min_area_km2)
    taken: dict[int, list[shapely.Geometry]] = {}
    for index in large:
        taken.setdefault(rank[losers[index]], []).append(common[index])
    if taken:
        cut = gpd.GeoSeries(
            [polygonal(ice.difference(shapely.union_all(pieces)))
             for ice, pieces in zip(table.geometry[list(taken)], taken.values(), strict=True)],
            index=list(taken), crs=table.crs,
        )  # fmt: skip
        table.loc[cut.index, table.geometry.name] = cut
        if "area_km2" in table:
            table.loc[cut.index, "area_km2"] = areas_km2(cut)
    if len(large):
        order = large[np.argsort(-areas[large], kind="stable")]
        who = pd.Series([f"{names[winners[index]]} from {names[losers[index]]} "
                         f"{areas[index]:.3g} km2" for index in order])  # fmt: skip
        tell(report, f"overlaps given to the newer or larger ({areas[large].sum():.3g} km2)", who)
    gone = rank[(table.is_empty & ~outlines.is_empty)[rank]]
    tell(report, "left out, wholly inside others", table.glacier_id.loc[gone])
    table = table.drop(index=gone)
    alive = pd.MultiIndex.from_frame(
        table.loc[table.kind == "glacier", ["glacier_id", "analysis_id"]]
    )
    lost = pd.MultiIndex.from_frame(outlines.loc[gone, ["glacier_id", "analysis_id"]])
    keys = pd.MultiIndex.from_frame(table[["glacier_id", "analysis_id"]])
    table = table[~(keys.isin(lost) & ~keys.isin(alive))].reset_index(drop=True)
    table.attrs = {**outlines.attrs, "report": report}
    return table
