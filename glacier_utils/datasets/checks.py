"""Look at everything a dataset names: what is there, what is usable, what is wrong.

A finding is an error where work on this area and date would stop, or go on with numbers that are
known to be wrong: a file that cannot be read, files that do not fit each other, no labels, values
that cannot be reflectances, two areas on the same ground. It is a warning where the data are usable
and a person should look: rings that were mended, dates on different grids, odd patches. Every area
and date is looked at; only a manifest that cannot be read ends it all.
"""

from __future__ import annotations

import filecmp
import itertools
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from tqdm import tqdm

from glacier_utils.conventions import BANDS, DAYS_A_YEAR, UNKNOWN, image_day
from glacier_utils.datasets.dataset import Dataset
from glacier_utils.datasets.exploration import find_suspicious
from glacier_utils.errors import GlacierError, counted, plain
from glacier_utils.imagery.examination import ERROR, WARNING, spread_windows
from glacier_utils.imagery.source import Source
from glacier_utils.outlines.reading import in_crs
from glacier_utils.raster.io import crs_name, open_raster
from glacier_utils.raster.mask import Mask
from glacier_utils.raster.paths import list_files

_MOST = 3  # findings of one kind that are named one by one
_FINEST_M, _COARSEST_M = 0.1, 1000.0
# Side of the windows that labels are judged by in pixels, and how many. JPEG 2000 comes in tiles
# of about a thousand pixels, which are decoded whole.
_SIDE, _LIMIT = 1024, 16
# Ice-like ground beyond the outlines, of all ground beyond them: less is snow along the edges.
_MUCH_ICE = 0.05
_NEAR_DEGREES = 0.5  # an inventory that ends within this is of the same region

_EMPTY = {
    "area": "", "date": "", "kind": "", "files": 0, "size": "", "resolution_m": np.nan, "crs": "",
    "valid": np.nan, "glacier": np.nan, "outlines": 0, "label_age_years": np.nan, "problems": "",
}  # fmt: skip

_LEGEND = (
    "valid: part of the frame with an image; glacier: part of what has image and label; age: years "
    "from outline to image, median"
)


@dataclass(frozen=True)
class Survey:
    """What was found.

    Attributes:
        table: one row per area and date; see ``check``.
        findings: one row per finding: area, date, severity ("error" or "warning"), message.
        name: of the dataset.
        folder: of the dataset.
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
        lines = [f"{plain(self.name)}: {counted(len(self.table), 'image')} in {self.folder}", ""]
        lines += [*_table(self.table, width), "", *textwrap.wrap(_LEGEND, width), ""]
        number = 0
        for severity in (ERROR, WARNING):
            chosen = self.findings[self.findings.severity == severity]
            for message, group in chosen.groupby("message", sort=False):
                number += 1
                start = f"{number:3d} {severity:<7}  "
                where = _places(group, self.table)
                said = plain(message).replace(f"{self.folder}/", "")
                lines += textwrap.wrap(
                    f"{where}: {said}", width, initial_indent=start,
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

    Args:
        dataset: an opened dataset.
        progress: show a progress bar.

    Returns:
        One row per area and date: area, date, kind ("patches", "bands" or "scene"), files, size
        ("columns x rows"), resolution_m, crs, valid (fraction of the frame), glacier (fraction of
        the known and valid pixels), outlines (number of glaciers), label_age_years (median, nan
        where the outlines have no date), problems ("" if there are none). Large images are judged
        by windows spread over them; of every file the end is read, so that none is cut short.
    """
    return survey(dataset, progress=progress).table


def survey(dataset: Dataset, *, progress: bool = False) -> Survey:
    """Do what ``check`` does, and give the findings one by one too.

    Args:
        dataset: an opened dataset.
        progress: show a progress bar.
    """
    looks = [_Look(dataset, area, date) for area in dataset.areas for date in dataset.dates(area)]
    ends: dict[Path, str] = {}
    with tqdm(
        total=0, desc="check", unit="read", delay=2, disable=None if progress else True
    ) as bar:
        for look in looks:
            look.run(ends, bar)
    _compare_areas(looks)
    _compare_files(looks)
    classes = {look.one_class for look in looks if not np.isnan(look.row["glacier"])}
    if classes in ({True}, {False}):
        looks[0].error(
            f"all labels of the dataset are {'' if True in classes else 'not '}glacier: nothing "
            "can be trained or scored with them; see the warnings"
        )
    for look in looks:
        look.row["problems"] = "; ".join(message for _, message in look.findings)
    findings = [(look.area, look.date, *item) for look in looks for item in look.findings]
    return Survey(
        pd.DataFrame([look.row for look in looks]),
        pd.DataFrame(findings, columns=["area", "date", "severity", "message"]),
        dataset.name,
        dataset.folder,
    )


@dataclass
class _Look:
    """One area and date: its row of the table, and its findings as (severity, message)."""

    dataset: Dataset
    area: str
    date: str
    findings: list[tuple[str, str]] = field(default_factory=list)
    source: Any = None  # a Source, once it is open
    row: dict[str, Any] = field(default_factory=dict)
    one_class: bool | None = None  # whether all labels are glacier, or all are not

    def error(self, message: str) -> None:
        """Note an error, once."""
        # The reader names area and date where it does not name the file; the finding has them.
        for place in (f"{self.area}, {self.date}", self.area):
            message = message.removeprefix(f"{self.dataset.name}, {place}: ")
        if (ERROR, message) not in self.findings:
            self.findings.append((ERROR, message))

    def warn(self, message: str) -> None:
        """Note a warning."""
        self.findings.append((WARNING, message))

    @contextmanager
    def noting(self) -> Iterator[None]:
        """Note what is raised and go on after the block."""
        try:
            yield
        except GlacierError as error:
            self.error(str(error))
        except OSError as error:
            if error.filename is None or error.strerror is None:
                raise
            self.error(f"{error.filename}: {error.strerror}; check the path and its permissions")

    def run(self, ends: dict[Path, str], bar: tqdm) -> None:
        """Look at files, frame, labels and values, as far as each can be looked at."""
        self.row = _EMPTY | {"area": self.area, "date": self.date}
        with self.noting():
            self.source = self.dataset.source(self.area, self.date)
        whole = self._check_files(ends, bar)
        if self.source is None:
            return
        self._describe()
        if not self._check_frame():
            return
        masks: dict[str, Mask] = {}
        if _has_labels(self.dataset):
            with self.noting():
                masks["labels"] = self._labels()
        else:
            self.warn(
                "no area has `outlines` or `labels`: images can be looked at and mapped, but "
                f"nothing can be trained or scored; name outlines in {self.dataset.path}"
            )
        for name in ("truth", "surface", "scene_classification", "clouds"):
            with self.noting():
                masks[name] = getattr(self.dataset, name)(self.area, self.date)
        masks = {name: mask for name, mask in masks.items() if mask is not None}
        # Of a file that is cut short nothing new is learned by meeting its end again.
        if not whole:
            return
        with self.noting():
            found = self.dataset.examine(self.area, self.date)
            self.findings += [(finding.severity, finding.message) for finding in found]
            self._fill_in(masks, bar)
            if ERROR not in {finding.severity for finding in found} and "labels" in masks:
                self._check_ice_outside(masks["labels"])

    def _check_files(self, ends: dict[Path, str], bar: tqdm) -> bool:
        """Read the last pixel of every file, where a file that was cut short ends first."""
        entry = self.dataset.entry(self.area, self.date)
        files = [] if self.source is None else [*self.source.paths]
        named = [entry.labels, entry.truth, entry.surface, entry.clouds]
        for paths in named if files else [entry.images, *named]:
            try:
                files += list_files(paths) if paths else []
            except (GlacierError, OSError):
                continue  # noted where the source or the mask is opened
        bar.total += len(files)
        for path in files:
            if path not in ends:
                ends[path] = _read_end(path)
            bar.update()
        bad = [ends[path] for path in dict.fromkeys(files) if ends[path]]
        noted = [message for _, message in self.findings]
        for message in [message for message in bad if message not in noted][:_MOST]:
            self.error(message)
        if len(bad) > _MOST:
            self.error(f"{len(bad) - _MOST} more of its {len(files)} files cannot be read either")
        return not bad

    def _describe(self) -> None:
        source = self.source
        separate = len(source.paths) > 1 and not source.tiles
        self.row["kind"] = "patches" if source.tiles else "bands" if separate else "scene"
        self.row["files"] = len(source.paths)
        self.row["size"] = f"{source.grid.width} x {source.grid.height}"
        self.row["resolution_m"] = source.grid.resolution
        self.row["crs"] = crs_name(source.grid)
        lacking = [name for name in BANDS if name not in source.bands]
        if lacking:
            self.warn(
                f"bands: no {' and '.join(lacking)}: models can be trained, but the rules for snow,"
                " water, shadow and cloud need red, green, blue and nir; add what the files have"
            )

    def _check_frame(self) -> bool:
        """Look at CRS and pixels; return False if nothing can be laid on them."""
        grid, path = self.source.grid, self.source.paths[0]
        if grid.crs is not None and not grid.crs.is_projected:
            self.error(
                f"{path}: its CRS ({crs_name(grid)}) is in degrees: warp it to a projected one "
                "such as UTM (gdalwarp -t_srs)"
            )
            return False
        if grid.crs is None and np.isnan(grid.resolution):
            self.warn(
                f"{path}: nothing says how large its pixels are; add `resolution: 10` (m) to the "
                "manifest, else no area is in km2"
            )
        elif not _FINEST_M <= grid.resolution <= _COARSEST_M:
            self.error(
                f"{path}: its pixels would be {grid.resolution:.3g} m wide; its CRS "
                f"({crs_name(grid)}) does not fit its coordinates, which may be degrees; give it "
                "the right CRS (gdal_edit.py -a_srs) and warp it to UTM"
            )
            return False
        self._check_dates()
        return True

    def _check_dates(self) -> None:
        """Compare with the area's first date."""
        first = self.dataset.dates(self.area)[0]
        if self.date == first:
            return
        try:
            other = self.dataset.source(self.area, first)
        except (GlacierError, OSError):
            return
        if all(map(_same_file, other.paths, self.source.paths)):
            self.warn(f"has the same files as {first}; check the paths of the two dates")
        mismatch = self.dataset.mismatch(self.area, self.date, first)
        if mismatch:
            self.warn(mismatch)

    def _labels(self) -> Mask:
        labels = self.dataset.labels(self.area, self.date)
        if self.dataset.entry(self.area, self.date).labels is not None:
            return labels
        outlines: Any = self.dataset.outlines(self.area, self.date)
        ice = outlines[outlines.kind == "glacier"]
        self.row["outlines"] = int(ice.glacier_id.nunique())
        age = (image_day(self.date) - ice.source_date.dropna()).dt.days / DAYS_A_YEAR
        self.row["label_age_years"] = float(age.median()) if len(age) else np.nan
        return labels

    def _fill_in(self, masks: dict[str, Mask], bar: tqdm) -> None:
        """Fill in which part of the image is valid, and which of it glacier."""
        labels = masks.get("labels")
        pixels = valid = known = glacier = 0
        windows, whole = spread_windows(self.source, _SIDE, _LIMIT)
        bar.total += len(windows)
        for window in windows:
            seen = self.source.read(*window).valid
            read = {name: mask.read(*window) for name, mask in masks.items()}
            bar.update()
            pixels += seen.size
            valid += int(seen.sum())
            if labels is not None:
                seen = seen & (read["labels"] != UNKNOWN)
                known += int(seen.sum())
                glacier += int((read["labels"][seen] == 1).sum())
        self.row["valid"] = valid / pixels
        self.row["glacier"] = glacier / known if known else np.nan
        if valid and labels is not None and not known:
            self.error("no valid pixel has a label; check `coverage` and the outlines or labels")
        if labels is not None and known and glacier in (0, known):
            drawn = self.dataset.entry(self.area, self.date).labels is None
            self.one_class = None if drawn else glacier > 0
            if not drawn or glacier:  # of outlines that do not touch the area all is said
                parts = "in the parts that were read, " * (not whole)
                self.warn(parts + self.dataset.one_class(self.area, self.date, glacier > 0))

    def _check_ice_outside(self, labels: Mask) -> None:
        """Look for ice beyond the inventory, where the whole image is quickly read."""
        grid = self.source.grid
        if grid.height * grid.width > _LIMIT * _SIDE**2 or set(BANDS) - set(self.source.bands):
            return
        found = find_suspicious(self.source, labels)
        bare = (1 - self.row["glacier"]) * grid.height * grid.width * grid.pixel_area_km2
        if found.area_km2.sum() > _MUCH_ICE * bare:
            self.warn(
                f"{found.attrs['report'][0]}; if it is ice, draw it as `ice_outside` or cut it off "
                "with `coverage`, else it is learned as ice-free ground"
            )


def _has_labels(dataset: Dataset) -> bool:
    """Say whether anything in a dataset tells where glaciers are."""
    return any(
        dataset.settings(area).outlines is not None or dataset.entry(area, date).labels is not None
        for area in dataset.areas for date in dataset.dates(area)
    )  # fmt: skip


def _read_end(path: Path) -> str:
    """Return what is wrong with the end of a file, "" if nothing is."""
    try:
        with open_raster(path) as dataset:
            height, width = dataset.shape
            window = (height - 1, height), (width - 1, width)
            dataset.read(dataset.count, window=window)
    except GlacierError as error:
        return str(error)
    return ""


def _compare_areas(looks: Sequence[_Look]) -> None:
    """Say where two areas share ground: no model must be tested where it was trained."""
    grounds = [
        (look, _ground(look.source))
        for look in looks if look.source is not None and look.source.grid.crs
    ]  # fmt: skip
    noted = set()
    for (look, mine), (other, theirs) in itertools.combinations(grounds, 2):
        pair = look.area, other.area
        if look.area == other.area or pair in noted:
            continue
        grid = look.source.grid
        theirs = in_crs(theirs, grid.crs)
        shared = mine.union_all().intersection(theirs.union_all()).area
        # Less than a pixel comes from rounding along a common edge.
        if shared <= abs(grid.transform.a * grid.transform.e):
            continue
        noted.add(pair)
        most = shared > min(mine.area.sum(), theirs.area.sum()) / 2
        start = f"{_percent(shared / mine.area.sum())} of its ground lies in area {other.area}"
        if most and set.isdisjoint(*(set(look.dataset.dates(area)) for area in pair)):
            look.warn(
                f"{start} too, at other dates: to train on one and test on the other is a test "
                "over time, not over space"
            )
            continue
        # What is shared is kept out of training, so a little does no harm.
        (look.error if most else look.warn)(
            f"{start} ({other.date}) too, which cannot both train and test; cut one of them with "
            "`bounds`, or give it dates that the other has not"
        )


def _compare_files(looks: Sequence[_Look]) -> None:
    """Say where two areas whose ground nobody knows, for want of a CRS, are one image."""
    bare = [look for look in looks if look.source is not None and not look.source.grid.crs]
    for look, other in itertools.combinations(bare, 2):
        # Parts of one image, by bounds, may lie side by side.
        apart = look.source.grid.box.intersection(other.source.grid.box).area == 0
        mine, theirs = look.source.paths[0], other.source.paths[0]
        if look.area == other.area or apart:
            continue
        if _same_file(mine, theirs):
            look.warn(
                f"{mine}: area {other.area} ({other.date}) has the same image, which cannot both "
                "train and test; check the paths of the two"
            )


def _same_file(one: Path, other: Path) -> bool:
    """Say whether two files are one, or copies; in archives and on the web only one counts."""
    there = one.is_file() and other.is_file()
    return one == other or (there and filecmp.cmp(one, other, shallow=False))


def _ground(source: Source) -> gpd.GeoDataFrame:
    """Return what the files of an image cover, in its CRS."""
    boxes = [source.grid.window(*map(int, tile)).box for tile in source.tiles]
    shape = shapely.union_all(boxes).intersection(source.grid.box) if boxes else source.grid.box
    return gpd.GeoDataFrame(geometry=[shape], crs=source.grid.crs)


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
