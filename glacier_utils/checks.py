"""Look at everything a dataset names: what is there, what is usable, what is wrong.

A finding is an error where work on this area and date would stop, or go on with numbers that are
known to be wrong: a file that cannot be read, files that do not fit each other, no labels, values
that cannot be reflectances, two areas on the same ground. It is a warning where the data are usable
and a person should look: rings that were mended, dates on different grids, odd patches. Every area
and date is looked at; only a manifest that cannot be read ends it all.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import shapely
from tqdm import tqdm

from glacier_utils.datasets import Dataset
from glacier_utils.errors import plain
from glacier_utils.grids import same_crs
from glacier_utils.imagery import Source
from glacier_utils.looks import ERROR, WARNING, Look

COLUMNS = ("area", "date", "kind", "files", "size", "resolution_m", "crs", "valid", "glacier",
           "outlines", "label_age_years", "problems")  # fmt: skip

_LEGEND = (
    "valid: part of the frame with an image; glacier: part of what has image and label; age: years "
    "from outline to image, median"
)


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        table: a row an area and date; see ``check``.
        findings: a row a finding: area, date, severity ("error" or "warning"), message.
        name, folder: of the dataset.
    """

    table: pd.DataFrame
    findings: pd.DataFrame
    name: str
    folder: Path

    @property
    def status(self) -> int:
        """2 if there is an error, else 0: what the command line ends with."""
        return 2 if (self.findings.severity == ERROR).any() else 0

    def text(self, width: int = 100) -> str:
        """Return the table and the numbered findings for a terminal, errors first.

        Names and messages hold text by third parties: only printable characters are shown. Paths
        are shortened to where they lie in the dataset's folder.
        """
        lines = [f"{plain(self.name)}: {_count(len(self.table), 'image')} in {self.folder}", ""]
        lines += [*_table(self.table, width), "", *textwrap.wrap(_LEGEND, width), ""]
        number = 0
        for severity in (ERROR, WARNING):
            chosen = self.findings[self.findings.severity == severity]
            for message, group in chosen.groupby("message", sort=False):
                number += 1
                start = f"{number:3d} {severity:<7}  "
                where = _places(group, self.table)
                told = plain(message).replace(f"{self.folder}/", "")
                lines += textwrap.wrap(
                    f"{where}: {told}", width, initial_indent=start,
                    subsequent_indent=" " * len(start), break_long_words=False,
                    break_on_hyphens=False,
                )  # fmt: skip
        if not number:
            return "\n".join([*lines, "no problems found"])
        bad = self.findings[self.findings.severity == ERROR]
        unusable = len(bad[["area", "date"]].drop_duplicates())
        return "\n".join([*lines, "", f"{unusable} of {len(self.table)} cannot be used as they are"
                          if unusable else "usable; look at the warnings"])  # fmt: skip


def check(dataset: Dataset, *, progress: bool = False) -> pd.DataFrame:
    """Look at everything a dataset names and say what is there and what is wrong.

    Returns:
        A row an area and date: area, date, kind ("patches", "bands" or "scene"), files, size
        ("columns x rows"), resolution_m, crs, valid (fraction of the frame), glacier (fraction of
        the known and valid pixels), outlines (number of glaciers), label_age_years (median, nan
        where the outlines have no date), problems ("" if there are none). Large images are judged
        by windows spread over them; of every file the end is read, so that none is cut short.
    """
    return survey(dataset, progress=progress).table


def survey(dataset: Dataset, *, progress: bool = False) -> Survey:
    """Do what ``check`` does, and give the findings one by one too."""
    looks = [Look(dataset, area, date) for area in dataset.areas for date in dataset.dates(area)]
    ends: dict[Path, str] = {}
    with tqdm(
        total=0, desc="check", unit="read", delay=2, disable=None if progress else True
    ) as bar:
        for look in looks:
            look.run(ends, bar)
    _compare_areas(looks)
    for look in looks:
        look.row["problems"] = "; ".join(message for _, message in look.findings)
    findings = [(look.area, look.date, *item) for look in looks for item in look.findings]
    return Survey(
        pd.DataFrame([look.row for look in looks], columns=list(COLUMNS)),
        pd.DataFrame(findings, columns=["area", "date", "severity", "message"]),
        dataset.name,
        dataset.folder,
    )


def _compare_areas(looks: Sequence[Look]) -> None:
    """Say where two areas share ground: no model must be tested where it was trained."""
    opened = [look for look in looks if look.source is not None and look.source.grid.crs]
    ground = {id(look): _ground(look.source) for look in opened}
    told = set()
    for index, look in enumerate(opened):
        for other in opened[index + 1 :]:
            pair = look.area, other.area
            if look.area == other.area or pair in told:
                continue
            grid = look.source.grid
            theirs = ground[id(other)]
            if not same_crs(grid.crs, other.source.grid.crs):
                theirs = theirs.to_crs(pyproj.CRS.from_user_input(grid.crs))
            shared = ground[id(look)].iloc[0].intersection(theirs.iloc[0]).area
            # Less than a pixel comes from rounding along a common edge.
            if shared > abs(grid.transform.a * grid.transform.e):
                told.add(pair)
                mine, others = (area.iloc[0].area for area in (ground[id(look)], theirs))
                # What is shared is kept out of training, so a little does no harm.
                tell = look.error if shared > min(mine, others) / 2 else look.warn
                tell(
                    f"{_percent(shared / mine)} of its ground lies in area {other.area} "
                    f"({other.date}) too, which cannot both train and test; cut one of them with "
                    "`bounds`"
                )


def _ground(source: Source) -> gpd.GeoSeries:
    """Return what the files of an image cover, in its CRS."""
    boxes = [source.grid.window(*map(int, tile)).box for tile in source.tiles]
    shape = shapely.union_all(boxes).intersection(source.grid.box) if boxes else source.grid.box
    return gpd.GeoSeries([shape], crs=pyproj.CRS.from_user_input(source.grid.crs))


def _table(table: pd.DataFrame, width: int) -> list[str]:
    """Lay the table out in ``width`` columns; long names of areas and CRSs are shortened."""
    cells = {
        "area": table.area.map(plain),
        "date": table.date,
        "kind": table.kind.where(table.kind != "", "-"),
        "files": table.files.map(str),
        "size": table["size"].str.replace(" ", "").where(table["size"] != "", "-"),
        "pixel": table.resolution_m.map(lambda value: _number(value, "{:.4g} m")),
        "CRS": table.crs.map(plain).where(table.crs != "", "-"),
        "valid": table.valid.map(_percent),
        "glacier": table.glacier.map(_percent),
        "outlines": table.outlines.map(str),
        "age (y)": table.label_age_years.map(lambda value: _number(value, "{:.0f}")),
    }
    left = {"area", "date", "kind", "size", "CRS"}
    widths = {name: max(len(name), *column.map(len)) for name, column in cells.items()}
    for name in ("CRS", "area"):
        spare = width - sum(widths.values()) - 2 * (len(widths) - 1)
        widths[name] = max(10, widths[name] + min(0, spare)) if spare < 0 else widths[name]
    lines = [list(cells), *zip(*cells.values(), strict=True)]
    return [
        "  ".join(
            _short(cell, space).ljust(space) if name in left else cell.rjust(space)
            for cell, (name, space) in zip(line, widths.items(), strict=True)
        ).rstrip()
        for line in lines
    ]


def _short(text: str, space: int) -> str:
    return text if len(text) <= space else f"{text[: space - 3]}..."


def _number(value: float, form: str) -> str:
    return "-" if np.isnan(value) else form.format(value)


def _percent(value: float) -> str:
    """Round without calling all what is not quite all, nor none what is a little."""
    if np.isnan(value):
        return "-"
    if 0.9995 <= value < 1:
        return ">99.9%"
    if 0 < value < 0.0005:
        return "<0.1%"
    return f"{value:.0%}" if value in (0, 1) else f"{value:.1%}"


def _places(group: pd.DataFrame, table: pd.DataFrame) -> str:
    """Name the areas and dates of a finding that several share."""
    if len(group) == len(table) > 1:
        return "everywhere"
    return "; ".join(
        f"{plain(area)} {', '.join(part.date)}" for area, part in group.groupby("area", sort=False)
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
