"""A dataset: areas x dates x sources, as dataset.yaml describes them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely

from glacier_utils.errors import GlacierError
from glacier_utils.files import file_fingerprint, fingerprint
from glacier_utils.grids import Grid, same_crs
from glacier_utils.imagery import UNKNOWN, Mask, Source, open_mask, open_source
from glacier_utils.inventories import read_polygons
from glacier_utils.labels import CoveredMask, EdgeMask
from glacier_utils.manifest import Area, Entry, Manifest, read_manifest
from glacier_utils.outlines import OutlineMask, read_outlines, select_analyses
from glacier_utils.rasters import crs_name, list_files

MANIFEST = "dataset.yaml"
_PROJECT = Path(__file__).resolve().parents[1]


def open_dataset(name_or_path: str | Path, *, root: str | Path | None = None) -> Dataset:
    """Open a dataset by the path of its folder or manifest, or by its name.

    Args:
        name_or_path: a path, or the name of a folder in ``<root>/data``.
        root: the project's folder; by default the working directory or the nearest folder above it
            that has the dataset, else the folder that the package lies in.

    Raises:
        GlacierError: there is no such dataset, or its manifest is wrong.
    """
    path = Path(name_or_path)
    for candidate in (path, path / MANIFEST):
        if candidate.is_file():
            return Dataset(read_manifest(candidate))
    if path.is_dir():
        raise GlacierError(f"{path}: this folder has no {MANIFEST}; write one (see data/README.md)")
    roots = _roots() if root is None else [Path(root)]
    for folder in roots:
        candidate = folder / "data" / path / MANIFEST
        if candidate.is_file():
            return Dataset(read_manifest(candidate))
    known = sorted({item.parent.name for folder in roots
                    for item in folder.glob(f"data/*/{MANIFEST}")})  # fmt: skip
    raise GlacierError(f"{name_or_path}: no such dataset; {_suggest(str(path), known)}")


def _roots() -> list[Path]:
    here = Path.cwd()
    return list(dict.fromkeys([here, *here.parents, _PROJECT]))


def _suggest(name: str, known: list[str]) -> str:
    if name == "sample":
        return "make it with `glacier sample`"
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"known are {', '.join(known)}" if known else "there is none in data/ yet"


class Dataset:
    """Areas, dates and their sources. Nothing is opened before it is asked for.

    Attributes:
        name: of the dataset.
        folder: of its manifest.
        bands: names in order.
        areas: names in the manifest's order.
        manifest: content of the file.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.name = manifest.name
        self.folder = manifest.path.parent
        self.bands = manifest.bands
        self.areas = tuple(manifest.areas)
        self.manifest = manifest.content
        self._manifest = manifest
        self._sources: dict[tuple[str, str], Source] = {}
        self._outlines: dict[tuple, gpd.GeoDataFrame] = {}

    def __repr__(self) -> str:
        """Name the dataset and its areas."""
        areas = ", ".join(f"{area} ({', '.join(self.dates(area))})" for area in self.areas)
        return f"Dataset {self.name}: {areas}"

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the manifest and of name, size and time of every file; reads no data.

        Raises:
            GlacierError: a file is missing.
        """
        files: set[Path] = set()
        for area in self._manifest.areas.values():
            for entry in area.entries.values():
                for paths in (entry.images, entry.labels, entry.truth, entry.surface):
                    files.update(list_files(paths) if paths else ())
            for path in (area.outlines, area.coverage):
                if isinstance(path, Path):
                    files.update(_vector_files(path))
        stats = [file_fingerprint(path) for path in sorted(files)]
        return fingerprint({"manifest": self._manifest.text, "files": stats})

    def dates(self, area: str) -> tuple[str, ...]:
        """Return the dates of an area, sorted."""
        return tuple(self._area(area).entries)

    def source(self, area: str, date: str) -> Source:
        """Open the image of an area at a date, cut to the area's bounds."""
        key = (area, date)
        if key not in self._sources:
            entry = self._entry(area, date)
            with _named(f"{self.name}, {area}, {date}"):
                self._sources[key] = open_source(
                    entry.images,
                    bands=entry.bands,
                    reflectance=entry.reflectance,
                    bounds=self._area(area).bounds,
                    resolution=self._manifest.resolution,
                )
        return self._sources[key]

    def outlines(
        self, area: str, date: str | None = None, *, rule: str = "nearest"
    ) -> gpd.GeoDataFrame | None:
        """Return the outlines that touch an area, in the CRS of its image.

        With ``date``, one analysis of each glacier is chosen by ``rule`` (see
        ``outlines.select_analyses``); without, all are returned, in the CRS of the first date.
        None where the manifest names no outlines.
        """
        path = self._area(area).outlines
        if path is None:
            return None
        grid = self.source(area, date or self.dates(area)[0]).grid
        if grid.crs is None:
            raise GlacierError(
                f"{self.name}, {area}: the image has no CRS, so outlines cannot be laid on it; "
                "georeference the image, or give `labels` as rasters"
            )
        key = (path, grid.crs.to_wkt(), grid.bounds)
        if key not in self._outlines:
            self._outlines[key] = read_outlines(path, bounds=grid.bounds, crs=grid.crs)
        outlines = self._outlines[key]
        return outlines.copy() if date is None else select_analyses(outlines, date, rule=rule)

    def labels(self, area: str, date: str, *, rule: str = "nearest", band_m: float = 0.0) -> Mask:
        """Return the labels: 0 not glacier, 1 glacier, 255 unknown; made where they are read.

        Unknown are pixels outside the frame, outside the area's ``coverage``, and nearer than
        ``band_m`` to the edge of the ice. Whether the image is valid there is the image's to say.

        Raises:
            GlacierError: the manifest names neither outlines nor labels, or they do not fit.
        """
        entry, source = self._entry(area, date), self.source(area, date)
        if entry.labels:
            mask = open_mask(entry.labels, source.grid, like=source, codes=(0, 1))
            mask = EdgeMask(mask, band_m) if band_m else mask
        else:
            outlines = self.outlines(area, date, rule=rule)
            if outlines is None:
                raise GlacierError(
                    f"{self.name}, {area}: has neither `outlines` nor `labels`; name one in "
                    f"{self._manifest.path}"
                )
            mask = OutlineMask(outlines, source.grid, band_m=band_m)
        coverage = self._coverage(area, source.grid)
        return mask if coverage is None else CoveredMask(mask, coverage)

    def truth(self, area: str, date: str) -> Mask | None:
        """Return the true glacier mask (0, 1), None where nobody knows it: all but the sample."""
        return self._mask(area, date, self._entry(area, date).truth, (0, 1))

    def surface(self, area: str, date: str) -> Mask | None:
        """Return the map of surface classes (the sample's), None where there is none."""
        return self._mask(area, date, self._entry(area, date).surface, None)

    def _mask(self, area: str, date: str, paths: list[str] | None, codes: Any) -> Mask | None:
        if not paths:
            return None
        source = self.source(area, date)
        return open_mask(paths, source.grid, like=source, codes=codes)

    def _coverage(self, area: str, grid: Grid) -> shapely.Geometry | None:
        coverage = self._area(area).coverage
        if coverage is None:
            return None
        if not isinstance(coverage, Path):
            return shapely.make_valid(shapely.Polygon(coverage))
        if grid.crs is None:
            raise GlacierError(f"{coverage}: cannot be laid on an image without CRS")
        polygons = read_polygons(coverage, bounds=grid.bounds, crs=grid.crs)
        return shapely.union_all(polygons.geometry.to_numpy())

    def _area(self, area: str) -> Area:
        if area not in self._manifest.areas:
            raise GlacierError(
                f"{self.name}: no area {area!r}; {_suggest(str(area), list(self.areas))}"
            )
        return self._manifest.areas[area]

    def _entry(self, area: str, date: str) -> Entry:
        entries = self._area(area).entries
        if date not in entries:
            raise GlacierError(
                f"{self.name}, {area}: no date {date!r}; known are {', '.join(entries)}"
            )
        return entries[date]


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Put a name in front of a message that does not say by itself which image it is about."""
    try:
        yield
    except GlacierError as error:
        raise GlacierError(f"{name}: {error}") from error


def _vector_files(path: Path) -> list[Path]:
    if not path.exists():
        raise GlacierError(f"{path}: no such file; check the path in the manifest")
    if path.suffix.lower() != ".shp":
        return [path]
    parts = (path.with_suffix(end) for end in (".shp", ".shx", ".dbf", ".prj"))
    return [part for part in parts if part.exists()]


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
