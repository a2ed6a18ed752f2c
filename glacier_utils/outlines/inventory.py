"""Glacier inventories as one table, of which analyses are chosen and overlaps are resolved.

GLIMS (https://www.glims.org), RGI 6 and RGI 7 (https://www.glims.org/RGI) name the same things
differently; here their columns have one name, and areas are compared with those that a file states.
Attributes are text by third parties: it is cut to a line of plain characters, and whoever prints it
must still escape it for the format printed to.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from rasterio.crs import CRS

from glacier_utils.conventions import image_day
from glacier_utils.errors import GlacierError, did_you_mean
from glacier_utils.outlines.reading import (
    centred,
    polygonal,
    read_polygons,
    report_line,
    text_column,
)
from glacier_utils.raster.grid import Grid
from glacier_utils.raster.io import crs_name

KINDS = {"glac_bound": "glacier", "intrnl_rock": "internal_rock"}
# Column names in order of preference, lower case: GLIMS, RGI 7, RGI 6, anything.
_GLACIER = ("glac_id", "rgi_id", "rgiid", "glimsid", "glims_id", "glacier_id")
_ANALYSIS = ("anlys_id", "analysis_id")
_DATE = ("src_date", "bgndate", "source_date", "image_date", "img_date", "acq_date", "date", "year")
_NAME = ("glac_name", "name")
_UNCERTAINTY = ("loc_unc_x", "loc_unc_y", "uncertainty_m")
# GLIMS, the package's own, OpenStreetMap, land cover.
_KIND = ("line_type", "kind", "natural", "landcover", "class", "type")
_ICE = re.compile(r"^(glaciers?|ice ?caps?)\b(?! lake).*")
# GLIMS db_area and RGI 7 area_km2 are km2; `area` is km2 in RGI 6, km2 or m2 in GLIMS files.
_STATED = ("db_area", "area_km2", "area")
_KNOWN = (*_GLACIER, *_ANALYSIS, *_DATE, *_NAME, *_UNCERTAINTY, *_KIND, *_STATED)
# As people write days: 24.08.2023, 8/24/2023.
_DAY = re.compile(r"(\d\d?)([./-])(\d\d?)\2(\d{4}|\d\d)(?!\d)")
EQUAL_AREA = "EPSG:6933"
_NEAR_DEGREES = 0.5  # an inventory that ends within this is of the same region
RULES = ("nearest", "before", "latest")
# Ten pixels of 10 m: less is where two analysts drew one divide.
SLIVER_KM2 = 0.001


def read_outlines(
    path: str | Path,
    *,
    bounds: Sequence[float] | None = None,
    crs: CRS | None = None,
    layer: str | None = None,
) -> gpd.GeoDataFrame:
    """Read a GLIMS or RGI file (or any polygons) into one table.

    Args:
        path: .shp, .zip with some, .gpkg, .geojson or .kml, in any CRS.
        bounds: (xmin, ymin, xmax, ymax) in ``crs``: only outlines that touch it are read.
        crs: CRS of ``bounds`` and of the result; None keeps the file's.
        layer: name of the layer; None takes the one that has a column of glaciers.

    Returns:
        One row for each polygon: glacier_id, analysis_id (where the file has none, outlines of one
        glacier at several dates are told apart by these), kind ("glacier" or "internal_rock"),
        source_date (datetime64, NaT unknown), name, uncertainty_m (nan unknown), area_km2 (of the
        polygon as it stands, on an equal-area projection), stated_km2 (the file's number, nan
        unknown; in GLIMS that of the glacier, repeated on its polygons), geometry. Polygons across
        the antimeridian are in one piece. ``.attrs["report"]`` lists what was mended or left out
        and areas that are not as stated (``area_deviations``).

    Raises:
        GlacierError: a file that is missing, broken, without CRS or without polygons, or whose
            layers, or outlines of several dates, cannot be told apart.
    """
    frame = read_polygons(
        path, bounds=bounds, crs=crs, columns=_KNOWN, named_by=_GLACIER, layer=layer
    )
    report: list[str] = frame.attrs["report"]
    frame = _keep_kinds(frame, report)
    number = pd.Series(np.arange(1, len(frame) + 1), index=frame.index).astype(str)
    glacier, dates = text_column(frame, _GLACIER), _dates(frame)
    _check_versions(path, frame[glacier == ""], dates)
    glacier = glacier.where(glacier != "", "row " + number)
    analysis = text_column(frame, _ANALYSIS)
    ice = frame["_kind"] == "glacier"
    several = dates[ice].groupby(glacier[ice]).nunique(dropna=False) > 1
    day = dates.dt.strftime(" %Y-%m-%d").where(glacier.map(several).eq(True), "").fillna("")
    areas = areas_km2(frame.geometry)
    table = gpd.GeoDataFrame(
        {
            "glacier_id": glacier,
            "analysis_id": analysis.where(analysis != "", glacier + day),
            "kind": frame["_kind"],
            "source_date": dates,
            "name": text_column(frame, _NAME),
            # The larger of the two local ones; 0 means not stated.
            "uncertainty_m": _numbers(frame, _UNCERTAINTY).max(axis=1).astype(float),
            "area_km2": areas,
            "stated_km2": _stated(frame, areas),
        },
        geometry=frame.geometry,
        crs=frame.crs,
    ).reset_index(drop=True)
    table.attrs["report"] = report
    if bounds is not None:
        table.attrs["bounds"] = tuple(float(value) for value in bounds)
    report += area_deviations(table).attrs["report"]
    return table


def area_deviations(table: gpd.GeoDataFrame, limit: float = 0.05) -> pd.DataFrame:
    """List the analyses whose area on an equal-area projection is not the one that the file states.

    GLIMS states the area of the glacier, and repeats it on each polygon of an analysis; other files
    state each polygon's own. Whether internal rock is part of it differs too. So an analysis agrees
    if any of these readings does: its polygons without or with its internal rock, against the one
    number that all state or the sum of different ones.

    Args:
        table: of ``read_outlines``. Read within bounds, only glaciers that lie wholly inside are
            compared: of others, rock or parts may not have been read.
        limit: largest deviation that is not listed, as a fraction of the stated area.

    Returns:
        glacier_id and deviation (computed / stated - 1) by the reading that comes nearest, the
        largest first. ``.attrs["report"]`` is a list of one line, empty if nothing deviates.
    """
    ice = table[table.kind == "glacier"]
    net = areas_km2(without_rock(table))
    ice = ice.assign(_net=net, _whole=True)
    if "bounds" in table.attrs:
        ice["_whole"] = ice.within(shapely.box(*table.attrs["bounds"]))
    rows, compared = [], 0
    for (glacier, _), group in ice.groupby(["glacier_id", "analysis_id"], sort=True):
        stated = group.stated_km2.dropna()
        if stated.empty or not group._whole.all():
            continue
        compared += 1
        numbers = {stated.sum()} | ({stated.iloc[0]} if np.ptp(stated) == 0 else set())
        computed = group._net.sum(), group.area_km2.sum()
        area, number = min(
            itertools.product(computed, sorted(numbers)), key=lambda one: abs(one[0] / one[1] - 1)
        )
        if abs(area / number - 1) > limit:
            text = f"{glacier} {area:.4g} instead of {number:.4g} km2"
            rows.append((glacier, area / number - 1, text))
    result = pd.DataFrame(rows, columns=["glacier_id", "deviation", "_text"])
    result = result.sort_values("deviation", key=np.abs, ascending=False, kind="stable")
    result.attrs["report"] = report = list[str]()
    said = f"area not as stated, by more than {100 * limit:g} %, {len(result)} of {compared}"
    report_line(report, said, result["_text"], 3)
    return result


def without_rock(table: gpd.GeoDataFrame) -> gpd.GeoSeries:
    """Return the glaciers' polygons without the internal rock of the same analysis.

    So a glacier on a nunatak of another stays. Rock whose analysis has no glacier in the table, and
    all rock of a table that names no analyses, is taken from every glacier.
    """
    ice, rock = table[table.kind == "glacier"], table[table.kind == "internal_rock"]
    shapes = ice.geometry.to_numpy().copy()
    if len(rock):
        owner, of_rock = _analyses(ice), _analyses(rock)
        positions = pd.Series(np.arange(len(ice))).groupby(owner).indices
        everywhere = []
        for name, stones in rock.geometry.groupby(of_rock):
            stone = shapely.union_all([polygonal(item) for item in stones if item is not None])
            if name in positions:
                _subtract(shapes, positions[name], stone)
            else:
                everywhere.append(stone)
        if everywhere:
            _subtract(shapes, np.arange(len(ice)), shapely.union_all(everywhere))
    return gpd.GeoSeries(shapes, index=ice.index, crs=table.crs)


def _analyses(rows: pd.DataFrame) -> np.ndarray:
    """Name the analysis of each row; a tab stands in no clean text."""
    if not {"glacier_id", "analysis_id"} <= set(rows.columns):
        return np.full(len(rows), "", dtype=object)
    return (rows.glacier_id.astype(str) + "\t" + rows.analysis_id.astype(str)).to_numpy(object)


def _subtract(shapes: np.ndarray, positions: np.ndarray, stone: shapely.Geometry) -> None:
    shapely.prepare(stone)
    for index in positions[shapely.intersects(shapes[positions], stone)]:
        shapes[index] = polygonal(polygonal(shapes[index]).difference(stone))


def areas_km2(geometry: gpd.GeoSeries) -> np.ndarray:
    """Return areas in km2, measured on the equal-area projection EPSG:6933 (up to 86 degrees).

    Each polygon is moved to longitude 0 first, which changes no area and keeps those whole that
    cross the antimeridian.
    """
    if geometry.crs is None or geometry.empty:
        return np.full(len(geometry), np.nan)
    shapes = centred(geometry.to_crs("EPSG:4326").to_numpy())
    return gpd.GeoSeries(shapes, crs="EPSG:4326").to_crs(EQUAL_AREA).area.to_numpy() / 1e6


def _keep_kinds(frame: gpd.GeoDataFrame, report: list[str]) -> gpd.GeoDataFrame:
    """Add ``_kind``; leave out line types that are neither ice nor rock inside it."""
    known = {**KINDS, **{kind: kind for kind in KINDS.values()}, "": "glacier"}
    texts = {name: text_column(frame, [name]).str.lower() for name in _KIND if name in frame}
    texts = {name: text.str.replace(_ICE, "glacier", regex=True) for name, text in texts.items()}
    # A column of such a name may tell something else.
    means = [n for n, text in texts.items() if n == _KIND[0] or text.isin([*known][:-1]).any()]
    types = texts[means[0]] if means else pd.Series("", index=frame.index)
    kinds = types.map(known)
    for other, count in types[kinds.isna()].value_counts().sort_index().items():
        report.append(f"left out, {means[0].replace('_', ' ')} {other}: {count}")
    return frame.assign(_kind=kinds)[kinds.notna()]


def _check_versions(path: str | Path, frame: gpd.GeoDataFrame, dates: pd.Series) -> None:
    """Refuse outlines of several dates on the same ground that belong to no named glacier."""
    frame = frame[(frame["_kind"] == "glacier") & dates[frame.index].notna()]
    shapes, days = frame.geometry.to_numpy(), dates[frame.index].to_numpy()
    if len(np.unique(days)) < 2:
        return
    one, other = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    one, other = one[days[one] < days[other]], other[days[one] < days[other]]
    common = shapely.area(shapely.intersection(shapes[one], shapes[other]))
    sizes = np.minimum(shapely.area(shapes[one]), shapely.area(shapes[other]))
    for number in np.flatnonzero(common > sizes / 2)[:1]:
        first, second = (str(days[place[number]])[:10] for place in (one, other))
        raise GlacierError(
            f"{path}: an outline of {first} and one of {second} lie on each other, and no column "
            "names their glacier; add one (glac_id), or keep one date in the file"
        )


def _dates(frame: pd.DataFrame) -> pd.Series:
    for name in _DATE:
        if name in frame:
            return frame[name].map(parse_source_date).astype("datetime64[s]")
    return pd.Series(pd.NaT, index=frame.index).astype("datetime64[s]")


def parse_source_date(value: object) -> pd.Timestamp:
    """Return the date of a source image, NaT where it is unknown.

    GLIMS and RGI 7 hold dates or ISO text; RGI 6 holds YYYYMMDD, with -9999999 for unknown and 99
    for an unknown month or day, which become the middle of the year or the month. Others write
    24.08.2023, or a year alone.
    """
    if isinstance(value, str):
        value = value.strip()
        # Not isdigit, which takes superscripts; and int refuses thousands of digits.
        if value.isdecimal() and len(value) < 20:
            value = int(value)
        elif found := _DAY.match(value):
            one, other = int(found[1]), int(found[3])
            # With slashes some write the month first; where both are possible, the year is known.
            if found[2] == "." or one > 12:
                one, other = other, one
            elif one != other and other <= 12:
                one = 99
            value = int(found[4]) * 10000 + one * 100 + other
    if isinstance(value, int | np.integer) or (isinstance(value, float) and value.is_integer()):
        value = int(value)
        if 1e10 < abs(value) < 4e12:  # milliseconds since 1970, as ArcGIS writes into GeoJSON
            return pd.Timestamp(value, unit="ms").normalize()
        if 1800 <= value <= 2200:  # a year alone
            value = value * 10000 + 9999
        year, month, day = value // 10000, value // 100 % 100, value % 100
        if not 1800 <= year <= 2200:
            return pd.NaT
        if not 1 <= month <= 12:
            month, day = 7, 1
        elif not 1 <= day <= 31:
            day = 15
        value = f"{year:04d}-{month:02d}-{day:02d}"
    if isinstance(value, float):
        return pd.NaT
    date = pd.to_datetime(value, errors="coerce", utc=True)
    if pd.isna(date) or date.year < 1800 or date > pd.Timestamp.now("UTC"):
        return pd.NaT
    return date.tz_localize(None).normalize()


def _numbers(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return those of the columns that exist, as numbers; nan unless above 0."""
    values = {name: pd.to_numeric(frame[name], errors="coerce").astype(float)
              for name in names if name in frame}  # fmt: skip
    numbers = pd.DataFrame(values, index=frame.index)
    return numbers.where((numbers > 0) & np.isfinite(numbers))


def _stated(frame: pd.DataFrame, areas: np.ndarray) -> pd.Series:
    """Return the area that the file states, in km2; nan where it states none."""
    numbers = _numbers(frame, _STATED)
    if "area" in numbers:
        # GLIMS documents km2 and delivers m2; a million between them leaves no doubt which it is.
        ratio = numbers["area"] / np.where(areas > 0, areas, np.nan)
        numbers["area"] *= 1e-6 if ratio.median() > 1000 else 1
    return numbers.reindex(columns=[*_STATED]).bfill(axis=1)[_STATED[0]]


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
        raise GlacierError(f"rule {rule!r} for choosing analyses: {did_you_mean(rule, RULES)}")
    day = image_day(date)
    ice = outlines[outlines.kind == "glacier"]
    by = ice.groupby(["glacier_id", "analysis_id"])
    analyses = by["source_date"].max().reset_index()
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
    chosen = pd.Index(_analyses(outlines)).isin(_analyses(best))
    result = outlines[chosen].reset_index(drop=True)
    report = [*outlines.attrs.get("report", [])]
    dropped = ice.glacier_id.nunique() - best.shape[0]
    if dropped:
        report.append(f"left out, no analysis before {date}: {dropped} glaciers")
    # Others that another rule, or a person, might have taken.
    pairs = analyses.assign(_rank=rank).merge(best, on="glacier_id", suffixes=("", "_best"))
    pairs = pairs[pairs.analysis_id != pairs.analysis_id_best]
    tie = pairs[pairs["_rank"] == pairs["_rank_best"]]
    what = "several analyses of one date, or of none, of which the last number is taken"
    who = tie.glacier_id + " (" + tie.analysis_id_best + ", not " + tie.analysis_id + ")"
    report_line(report, what, who)
    keys = pairs[["glacier_id", "analysis_id", "analysis_id_best"]].to_numpy()
    shapes, rows = ice.geometry.to_numpy(), by.indices
    apart = [_are_apart(shapes[rows[id_, own]], shapes[rows[id_, one]]) for id_, own, one in keys]
    what = "left out for another date, though elsewhere (has each glacier its own identifier?)"
    report_line(report, what, pairs.analysis_id[apart])
    result.attrs = {**outlines.attrs, "report": report}
    return result


def _are_apart(one: np.ndarray, other: np.ndarray) -> bool:
    """Say whether outlines are no two of one glacier: neither has the middle of the other in it."""
    return not any(
        shapely.contains(outer[:, None], shapely.point_on_surface(inner)).any()
        for outer, inner in ((one, other), (other, one))
    )


def resolve_overlaps(
    outlines: gpd.GeoDataFrame, *, min_area_km2: float = SLIVER_KM2
) -> gpd.GeoDataFrame:
    """Give each overlap of two glaciers to one of them.

    It goes to the newer analysis (an unknown date is the oldest), of equal dates to the larger
    polygon, of equal sizes to the first identifier. What is compared is the ice, without internal
    rock: a glacier on a nunatak of another overlaps nothing. All ice together stays what it was.

    Args:
        outlines: table of ``read_outlines``, one analysis of each glacier (``select_analyses``).
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
    ice = without_rock(outlines).map(polygonal)
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
        report_line(
            report, f"overlaps given to the newer or larger ({areas[large].sum():.3g} km2)", who
        )
    gone = rank[(table.is_empty & ~outlines.is_empty)[rank]]
    report_line(report, "left out, wholly inside others", table.glacier_id.loc[gone])
    table = table.drop(index=gone)
    lost = {*_analyses(outlines.loc[gone])} - {*_analyses(table[table.kind == "glacier"])}
    table = table[~pd.Index(_analyses(table)).isin(lost)].reset_index(drop=True)
    table.attrs = {**outlines.attrs, "report": report}
    return table


def why_none(path: str | Path, layer: str | None, grid: Grid) -> tuple[bool, str]:
    """Say whether it is wrong that no outline touches an image, and why none does.

    A place without glaciers is not; a mistake of coordinates is. Swapped axes and signs, and the
    other hemisphere of the image's UTM zone, are tried.
    """
    outlines = read_outlines(path, layer=layer)
    if not len(outlines):
        why = "; ".join(outlines.attrs["report"])
        return True, f"{path}: holds no polygon at all{why and f' ({why})'}; download it again"
    there = shapely.box(*outlines.to_crs("EPSG:4326").total_bounds)
    here = _geographic(grid.box, grid.crs)
    if there.distance(here) < _NEAR_DEGREES:
        return False, (
            f"no outline of {path} touches the area: it counts as free of ice; if it is not, "
            "take an inventory that covers it, or give a `coverage`"
        )
    west, south, east, north = there.bounds
    hint = "take the outlines of this region"
    if shapely.box(south, west, north, east).intersects(here):
        hint = "its latitude and longitude look swapped: swap x and y of the outlines"
    elif shapely.box(-east, south, -west, north).intersects(here):
        hint = "east and west look mixed up: mend the sign of the longitudes"
    elif shapely.box(west, -north, east, -south).intersects(here):
        hint = "north and south look mixed up: mend the sign of the latitudes"
    elif _geographic(grid.box, _other_hemisphere(grid.crs)).intersects(there):
        hint = (
            f"the image's CRS ({crs_name(grid)}) looks like the wrong hemisphere: set it to "
            f"{_other_hemisphere(grid.crs).to_string()} (gdal_edit.py -a_srs)"
        )
    return True, (
        f"{path}: its outlines lie at {_place(there)}, no outline touches the image at "
        f"{_place(here)}; {hint}"
    )


def _geographic(box: shapely.Polygon, crs: CRS | None) -> shapely.Polygon:
    if crs is None:
        return shapely.Polygon()
    series = gpd.GeoSeries([box.segmentize(box.length / 40)], crs=crs)
    return shapely.box(*series.to_crs("EPSG:4326").total_bounds)


def _other_hemisphere(crs: CRS) -> Any:
    """Return the CRS of the same UTM zone on the other side of the equator, None if not UTM."""
    code = crs.to_epsg() or 0
    zone = code % 100
    if code // 100 not in (326, 327) or not 1 <= zone <= 60:
        return None
    return CRS.from_epsg((32700 if code // 100 == 326 else 32600) + zone)


def _place(box: shapely.Polygon) -> str:
    if not np.isfinite(box.bounds).all():
        return "no place on Earth"
    x, y = box.centroid.x, box.centroid.y
    return f"{abs(y):.1f} {'N' if y >= 0 else 'S'} {abs(x):.1f} {'E' if x >= 0 else 'W'}"
